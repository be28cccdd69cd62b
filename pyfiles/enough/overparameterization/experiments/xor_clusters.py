"""Sweeps of the two-layer ReLU network on XOR clusters."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from enough.overparameterization.xor_clusters import (
    XORProblem,
    fitted_share,
    output_signs,
    train_linear,
    train_relu,
    xor_problem,
)
from enough.runtime import exact_device, named_generator, resolve_device
from enough.training.sweep_points import map_points

__all__ = ["separation_table", "xor_baselines_point", "xor_point"]

_RECORD = (0, 1, 2, 3, 5, 8, 12, 20, 35, 60)


def xor_point(
    n_samples: int = 400,
    dimension: int = 100_000,
    separation: float = 45.0,
    noise_rate: float = 0.15,
    width: int = 256,
    learning_rate: float = 0.02,
    record: Sequence[int] = _RECORD,
    init_scale: float = 1e-6,
    n_test: int = 1000,
    seeds: int = 5,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train the two-layer ReLU network on XOR clusters and measure it on the way.

    Parameters
    ----------
    n_samples : int, default 400
        Training points.
    dimension : int, default 100000
        Dimension of the inputs. It does not change the cost.
    separation : float, default 45.0
        Length of the cluster centers.
    noise_rate : float, default 0.15
        Probability that a training label is flipped.
    width : int, default 256
        Neurons, an even number for a balanced second layer.
    learning_rate : float, default 0.02
        Step size.
    record : sequence of int
        Steps to measure, in ascending order.
    init_scale : float, default 1e-6
        Standard deviation of the initial weights.
    n_test : int, default 1000
        Fresh points a seed.
    seeds : int, default 5
        Independent problems S, trained as one batch.
    seed : int, default 0
        Global seed. Points that differ only in ``separation``, ``noise_rate`` or
        ``learning_rate`` share their draws.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``steps`` (R,), and arrays (R, S): ``train``, the share of training labels fitted;
        ``train_flipped`` and ``train_kept``, the same for flipped and other labels;
        ``test``, the accuracy on fresh points; ``cosine``, of the outputs with their linear
        part on fresh points; ``even_share``, the share of fresh points whose even part is larger
        than the linear part; ``aligned``, the share of neurons closest to a center of their own
        class.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    problem = _problem(
        n_samples, dimension, separation, noise_rate, width, init_scale, n_test, seeds, seed, device
    )
    signs = output_signs(width).to(problem.x.device)
    run = train_relu(
        problem.x,
        problem.labels,
        problem.weights,
        signs,
        learning_rate=learning_rate,
        record=record,
    )
    outputs, linear = run.outputs(problem.x_test), run.linear_part(problem.x_test)
    fitted = (run.outputs(problem.x) * problem.labels > 0).double()
    product = (outputs * linear).sum(-1)
    own = run.center_cosines().abs().argmax(-1) == (signs < 0).long()
    found = {
        "train": fitted.mean(-1),
        "train_flipped": _mean_over(fitted, problem.flipped),
        "train_kept": _mean_over(fitted, ~problem.flipped),
        "test": _accuracy(outputs, problem.test_labels),
        "cosine": product / outputs.norm(dim=-1) / linear.norm(dim=-1),
        "even_share": ((outputs - linear).abs() > linear.abs()).double().mean(-1),
        "aligned": own.double().mean(-1),
    }
    return {"steps": run.steps, **{name: value.cpu().numpy() for name, value in found.items()}}


def xor_baselines_point(
    n_samples: int = 400,
    dimension: int = 100_000,
    separation: float = 45.0,
    noise_rate: float = 0.15,
    width: int = 256,
    learning_rate: float = 0.02,
    record: Sequence[int] = _RECORD,
    init_scale: float = 1e-6,
    n_test: int = 1000,
    seeds: int = 5,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train a linear classifier and the lazy network on the problems of `xor_point`.

    The lazy network is the linearization at the initial weights: its neurons never change
    which points they are active on.

    Parameters
    ----------
    n_samples, dimension : int
        As in `xor_point`.
    separation, noise_rate : float
        As in `xor_point`.
    width : int
        As in `xor_point`.
    learning_rate : float
        As in `xor_point`.
    record : sequence of int
        As in `xor_point`.
    init_scale : float
        As in `xor_point`.
    n_test, seeds, seed : int
        As in `xor_point`.
    device : str or None, default "cpu"
        As in `xor_point`.

    Returns
    -------
    dict
        ``steps`` (R,), and arrays (R, S): ``linear_train``, ``linear_test``, ``lazy_train`` and
        ``lazy_test``, shares of labels that are right.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    problem = _problem(
        n_samples, dimension, separation, noise_rate, width, init_scale, n_test, seeds, seed, device
    )
    options = {"learning_rate": learning_rate, "record": record}
    linear = train_linear(problem.x, problem.labels, **options)
    signs = output_signs(width).to(problem.x.device)
    lazy = train_relu(problem.x, problem.labels, problem.weights, signs, frozen=True, **options)
    found = {}
    for name, points, labels in (
        ("train", problem.x, problem.labels),
        ("test", problem.x_test, problem.test_labels),
    ):
        found[f"linear_{name}"] = _accuracy((points @ linear[..., None])[..., 0], labels)
        found[f"lazy_{name}"] = _accuracy(lazy.outputs(points), labels)
    return {"steps": lazy.steps, **{name: value.cpu().numpy() for name, value in found.items()}}


def separation_table(
    separations: Sequence[float],
    n_samples: int = 200,
    dimension: int = 20_000,
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run `xor_point` over separations.

    Parameters
    ----------
    separations : sequence of float
        Lengths of the cluster centers.
    n_samples : int, default 200
        Training points.
    dimension : int, default 20000
        Dimension of the inputs.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `xor_point`.

    Returns
    -------
    pandas.DataFrame
        One row a separation, recorded step and problem: ``separation``, ``step``, ``problem``,
        the measurements of `xor_point`, and ``fitted_theory``, the predicted share of labels
        that the first step fits.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    frames = []
    common = dict(n_samples=n_samples, dimension=dimension, **options)
    points = [common | {"separation": separation} for separation in separations]
    for separation, point in zip(separations, map_points(xor_point, points, executor), strict=True):
        steps = point["steps"]
        columns = {name: value.ravel() for name, value in point.items() if name != "steps"}
        problems = point["train"].shape[1]
        frame = pd.DataFrame(
            {
                "separation": separation,
                "step": np.repeat(steps, problems),
                "problem": np.tile(np.arange(problems), len(steps)),
                **columns,
                "fitted_theory": fitted_share(n_samples, dimension, separation),
            }
        )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _problem(
    n_samples, dimension, separation, noise_rate, width, init_scale, n_test, seeds, seed, device
) -> XORProblem:
    where = exact_device(resolve_device(device))
    return xor_problem(
        n_samples,
        dimension,
        separation,
        noise_rate,
        width=width,
        init_scale=init_scale,
        n_test=n_test,
        seeds=seeds,
        generator=named_generator(seed, "xor clusters", device=where),
    )


def _accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs * labels > 0).double().mean(-1)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the points in the mask; NaN where there are none."""
    mask = mask.double()
    return (values * mask).sum(-1) / mask.sum(-1)
