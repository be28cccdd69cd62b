"""Sweeps of laziness: the polynomial-regression network, and a transformer on modular sums."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from enough.models import Transformer, TransformerConfig
from enough.overparameterization.laziness import (
    quadratic_task,
    train_lazy_rich,
    weight_statistics,
)
from enough.runtime import derive_seed, named_generator, resolve_device
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.training.sweep_points import map_points

__all__ = ["delay_table", "lazy_rich_point", "modular_point"]


def lazy_rich_point(
    n_samples: int,
    dimension: int,
    laziness: Sequence[float],
    curvature: Sequence[float],
    width: int | None = 500,
    steps: int = 2000,
    record: Sequence[int] = (),
    stop: float | None = None,
    threshold: float = 0.1,
    frozen: bool = False,
    target: str = "quadratic",
    seeds: int = 5,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Train the polynomial-regression network at several dials and seeds, as one batch.

    Parameters
    ----------
    n_samples : int
        Training samples P.
    dimension : int
        Input dimension D.
    laziness : sequence of float
        Output scales :math:`\alpha`, one a dial setting.
    curvature : sequence of float
        :math:`\epsilon`, one a dial setting.
    width : int or None, default 500
        Neurons N; ``None`` for infinite width.
    steps : int, default 2000
        Steps at most.
    record : sequence of int, default ()
        Steps to record.
    stop : float, optional
        Stop a network when its test loss is at most this share of its start.
    threshold : float, default 0.1
        Share of the starting loss that counts as crossed.
    frozen : bool, default False
        Train with the initial tangent kernel, frozen.
    target : {"quadratic", "shuffled"}, default "quadratic"
        The task, or its training labels in random order.
    seeds : int, default 5
        Independent tasks S; every dial setting sees the same ones.
    seed : int, default 0
        Global seed.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``steps`` (R,); arrays (R, dials, S) ``train_loss``, ``test_loss``,
        ``weight_alignment``, ``kernel_alignment``, ``movement``; arrays (dials, S)
        ``train_crossing``, ``test_crossing``, ``delay``, ``delay_floor``,
        ``movement_at_crossing``, ``alignment_at_crossing``, ``final_train``, ``final_test``,
        ``final_movement``, ``final_alignment``, ``lowest_test``, ``highest_test``,
        ``learning_rate``, ``last_step``. See `LazyRichRun`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Networks train in float32. Tasks and neurons are drawn on the CPU, the same on every device.
    """
    alphas, bends = [float(a) for a in laziness], [float(e) for e in curvature]
    if not alphas or len(alphas) != len(bends):
        raise ValueError(
            f"curvature: expected one number for each laziness, got {len(bends)} for {len(alphas)}"
        )
    check_choice(target, "target", ("quadratic", "shuffled"))
    where, dials = resolve_device(device), len(alphas)
    stream = named_generator(seed, "polynomial task", n_samples, dimension)
    x, y, beta = quadratic_task(n_samples, dimension, stream, seeds=seeds)
    mean = moment = None
    if width is not None:
        width = check_integer(width, "width", minimum=1)
        neurons = named_generator(seed, "neurons", dimension)
        shape = (seeds, width, dimension)
        mean, moment = weight_statistics(torch.randn(shape, generator=neurons).double())
    if target == "shuffled":
        order = torch.rand(y.shape, generator=named_generator(seed, "shuffle")).argsort(-1)
        y = y.gather(1, order)

    def spread(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return value.float().to(where).repeat(dials, *[1] * (value.ndim - 1))

    run = train_lazy_rich(
        spread(x),
        spread(y),
        spread(beta),
        np.repeat(alphas, seeds),
        np.repeat(bends, seeds),
        steps=steps,
        mean=spread(mean),
        moment=spread(moment),
        record=record,
        threshold=threshold,
        stop=stop,
        frozen=frozen,
    )
    found: dict[str, Any] = {"steps": run.steps}
    for name in ("train_loss", "test_loss", "weight_alignment", "kernel_alignment", "movement"):
        found[name] = getattr(run, name).reshape(-1, dials, seeds)
    for name in (
        "train_crossing", "test_crossing", "delay", "delay_floor", "movement_at_crossing",
        "alignment_at_crossing", "final_train", "final_test", "final_movement",
        "final_alignment", "lowest_test", "highest_test", "learning_rate", "last_step",
    ):  # fmt: skip
        found[name] = getattr(run, name).reshape(dials, seeds)
    return found


def delay_table(
    n_samples: Sequence[int],
    laziness: Sequence[float],
    dimension: int = 20,
    curvature: float = 0.25,
    threshold: float = 0.1,
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    r"""Measure the delay over a grid of sample sizes and output scales.

    Parameters
    ----------
    n_samples : sequence of int
        Training samples.
    laziness : sequence of float
        Output scales :math:`\alpha`.
    dimension : int, default 20
        Input dimension.
    curvature : float, default 0.25
        :math:`\epsilon` of the activation.
    threshold : float, default 0.1
        Share of the starting loss that counts as crossed; networks stop there.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `lazy_rich_point`.

    Returns
    -------
    pandas.DataFrame
        One row a sample size and output scale: ``n_samples``, ``laziness``; ``generalized``,
        the share of seeds whose test loss crossed; ``delay``, the median over all seeds in
        decades (infinite when fewer than half crossed); ``lowest_test``, the mean of the lowest
        test loss relative to the start.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    rows = []
    common = dict(
        dimension=dimension,
        laziness=laziness,
        curvature=[curvature] * len(list(laziness)),
        threshold=threshold,
        stop=threshold,
        **options,
    )
    points = [common | {"n_samples": p} for p in n_samples]
    for p, point in zip(n_samples, map_points(lazy_rich_point, points, executor), strict=True):
        for i, alpha in enumerate(laziness):
            crossed = np.isfinite(point["test_crossing"][i])
            delays = np.sort(np.where(crossed, point["delay"][i], np.inf))
            rows.append(
                {
                    "n_samples": p,
                    "laziness": alpha,
                    "generalized": float(crossed.mean()),
                    "delay": float(delays[len(delays) // 2]),
                    "lowest_test": float(point["lowest_test"][i].mean()),
                }
            )
    return pd.DataFrame(rows)


def modular_point(
    modulus: int = 113,
    laziness: float = 1.0,
    train_share: float = 0.5,
    d_model: int = 128,
    n_heads: int = 4,
    learning_rate: float = 0.1,
    steps: int = 20_000,
    record: Sequence[int] = (),
    threshold: float = 0.1,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Train a one-layer transformer on sums modulo a number, at one output scale.

    The model reads two summands and an equals sign; its scores f at the last position, centered
    and scaled to :math:`\alpha (f - f_0)`, enter the cross-entropy. Training is full-batch
    gradient descent without weight decay, the rate divided by :math:`\alpha^2`.

    Parameters
    ----------
    modulus : int, default 113
        Number of residues, two or more. All pairs of residues are the population.
    laziness : float, default 1.0
        Output scale :math:`\alpha`.
    train_share : float, default 0.5
        Share of the pairs used for training, in (0, 1); the others are the test set.
    d_model : int, default 128
        Width of the transformer.
    n_heads : int, default 4
        Attention heads.
    learning_rate : float, default 0.1
        Rate before the division. With a rate that is too large a run leaps and gets stuck.
    steps : int, default 20000
        Steps.
    record : sequence of int, default ()
        Steps to record, in ascending order.
    threshold : float, default 0.1
        Share of the starting loss that counts as crossed.
    seed : int, default 0
        Global seed: weights and split. Runs at several output scales share both.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``steps`` (R,), ``train_loss``, ``test_loss``, ``train_accuracy`` and ``test_accuracy``
        (R,) at the recorded steps; ``train_crossing`` and ``test_crossing``, the first of them
        whose loss has crossed (infinite if none).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    modulus = check_integer(modulus, "modulus", minimum=2)
    alpha = check_number(laziness, "laziness", above=0.0)
    share = check_number(train_share, "train_share", above=0.0, below=1.0)
    rate = check_number(learning_rate, "learning_rate", above=0.0)
    steps = check_integer(steps, "steps", minimum=1)
    threshold = check_number(threshold, "threshold", above=0.0, below=1.0)
    marks = sorted({check_integer(s, "record", minimum=0, maximum=steps) for s in record})
    where = resolve_device(device)
    config = TransformerConfig(
        vocab_size=modulus + 1, context_length=3, d_model=d_model, n_layers=1, n_heads=n_heads
    )
    weights = torch.Generator().manual_seed(derive_seed(seed, "modular transformer"))
    model = Transformer(config, generator=weights).to(where)
    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))
    tokens = torch.cat([pairs, torch.full((len(pairs), 1), modulus)], 1).to(where)
    labels = (pairs.sum(1) % modulus).to(where)
    order = torch.randperm(len(pairs), generator=named_generator(seed, "modular split"))
    cut = check_integer(round(share * len(pairs)), "train_share", minimum=1, maximum=len(pairs) - 1)
    train, test = order[:cut].to(where), order[cut:].to(where)

    def scores(index: Tensor) -> Tensor:
        return model(tokens[index])[:, -1, :modulus].float()

    with torch.no_grad():
        start = {"train": scores(train), "test": scores(test)}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate / alpha**2)
    found: dict[str, list[float]] = {
        f"{part}_{what}": [] for part in ("train", "test") for what in ("loss", "accuracy")
    }
    for step in range(steps + 1):
        if step in marks:
            for part, index in (("train", train), ("test", test)):
                with torch.no_grad():
                    outputs = alpha * (scores(index) - start[part])
                    right = (outputs.argmax(1) == labels[index]).double().mean()
                    loss = F.cross_entropy(outputs, labels[index])
                found[f"{part}_loss"].append(float(loss))
                found[f"{part}_accuracy"].append(float(right))
        if step == steps:
            break
        optimizer.zero_grad(set_to_none=True)
        outputs = alpha * (scores(train) - start["train"])
        F.cross_entropy(outputs, labels[train]).backward()
        optimizer.step()
    base = np.log(modulus)  # the loss of equal scores, where every run starts
    result: dict[str, Any] = {"steps": marks, **found}
    for part in ("train", "test"):
        crossed = [
            s for s, v in zip(marks, found[f"{part}_loss"], strict=True) if v <= threshold * base
        ]
        result[f"{part}_crossing"] = float(crossed[0]) if crossed else float("inf")
    return result
