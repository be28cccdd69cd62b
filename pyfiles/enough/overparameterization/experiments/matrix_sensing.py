"""Sweeps over widths, initializations, losses and noise in matrix sensing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from enough.overparameterization.matrix_sensing import (
    asymmetric_gradient_descent,
    gaussian_factors,
    imbalance,
    low_rank_matrix,
    rescale_factors,
    subgradient_method,
    symmetric_gradient_descent,
)
from enough.overparameterization.measurements import (
    Measurements,
    gaussian_measurements,
    population_measurements,
    sign_rip,
)
from enough.runtime import exact_device, named_generator, resolve_device
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.training.sweep_points import map_points

__all__ = [
    "asymmetric_point",
    "rescaling_point",
    "robust_point",
    "robust_size_table",
    "sign_rip_point",
    "symmetric_point",
]

_EIGENVALUES = (1.0, 0.5)


def symmetric_point(
    widths: Sequence[int],
    n_rows: int = 20,
    eigenvalues: Sequence[float] = _EIGENVALUES,
    n_measurements: int | None = None,
    scale: float = 0.5,
    step: float = 0.1,
    n_steps: int = 1000,
    record: Sequence[int] | None = None,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Run gradient descent on :math:`XX^\top` for several widths of :math:`X`.

    Each trial draws a matrix, measurements and one initial factor, of which every width uses
    the first columns.

    Parameters
    ----------
    widths : sequence of int
        Columns k of the factor.
    n_rows : int, default 20
        Rows and columns n of the matrix.
    eigenvalues : sequence of float, default (1.0, 0.5)
        Its positive eigenvalues; their number is the rank r.
    n_measurements : int or None, default None
        Gaussian measurements; ``None`` for the population limit.
    scale : float, default 0.5
        Initialization scale, as in `gaussian_factors`.
    step : float, default 0.1
        Step of the descent.
    n_steps : int, default 1000
        Iterations.
    record : sequence of int or None, default None
        Iterations to record; ``None`` for log-spaced ones.
    trials : int, default 10
        Independent trials.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``iterations`` of shape (points,) and ``squared_error`` of shape (trials, widths,
        points).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where, trials = _where(device), check_integer(trials, "trials", minimum=1)
    truth = _truth(n_rows, eigenvalues, trials, seed, where)
    measurements = _measurements(n_rows, n_measurements, True, trials, seed, where)
    initial = _nested_factors(n_rows, widths, trials, seed, where) * check_number(
        scale, "scale", above=0.0
    )
    run = symmetric_gradient_descent(
        measurements,
        measurements(truth),
        initial,
        step=step,
        n_steps=n_steps,
        target=truth,
        record=record,
    )
    return {"iterations": run.iterations, "squared_error": _numpy(run.squared_error)}


def asymmetric_point(
    scales: Sequence[float],
    width: int = 4,
    ratio: float = 1 / 3,
    right: str = "independent",
    n_rows: int = 20,
    eigenvalues: Sequence[float] = _EIGENVALUES,
    n_measurements: int | None = None,
    step: float = 0.1,
    n_steps: int = 1000,
    record: Sequence[int] | None = None,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Run gradient descent on :math:`FG^\top` for several initialization scales.

    All scales of a trial share the matrix, the measurements and the directions of the initial
    factors. In the population limit, matrix and F are those of `symmetric_point`.

    Parameters
    ----------
    scales : sequence of float
        Initialization scales :math:`\alpha` of F.
    width : int, default 4
        Columns k of the factors.
    ratio : float, default 1/3
        Scale of G divided by that of F.
    right : {"independent", "copy"}, default "independent"
        Draw G by itself, or let it point where F does.
    n_rows : int, default 20
        Rows and columns n of the matrix.
    eigenvalues : sequence of float, default (1.0, 0.5)
        Its positive eigenvalues.
    n_measurements : int or None, default None
        Gaussian measurements, not symmetric; ``None`` for the population limit.
    step : float, default 0.1
        Step of the descent.
    n_steps : int, default 1000
        Iterations.
    record : sequence of int or None, default None
        Iterations to record; ``None`` for log-spaced ones.
    trials : int, default 10
        Independent trials.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``iterations`` of shape (points,), ``squared_error`` of shape (trials, scales, points),
        and of shape (trials, scales): ``drift``, the Frobenius norm of the change of the
        imbalance over the run, relative to its first value (absolute if that is zero);
        ``initial_imbalance``, its smallest eigenvalue at the start; ``left_floor``, the
        smallest eigenvalue of :math:`F^\top F` at the end.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where, trials = _where(device), check_integer(trials, "trials", minimum=1)
    ratio = check_number(ratio, "ratio", minimum=0.0)
    check_choice(right, "right", ("independent", "copy"))
    truth = _truth(n_rows, eigenvalues, trials, seed, where)
    measurements = _measurements(n_rows, n_measurements, False, trials, seed, where)
    alpha = torch.tensor(
        [check_number(a, "scales", above=0.0) for a in scales], dtype=torch.float64, device=where
    )[:, None, None]
    left = _nested_factors(n_rows, [width], trials, seed, where)
    other = left if right == "copy" else _right_factors(n_rows, width, trials, seed, where)
    f, g = alpha * left, ratio * alpha * other
    run = asymmetric_gradient_descent(
        measurements,
        measurements(truth),
        f,
        g,
        step=step,
        n_steps=n_steps,
        target=truth,
        record=record,
    )
    before, after = imbalance(f, g), imbalance(run.left, run.right)
    size = torch.linalg.matrix_norm(before)
    change = torch.linalg.matrix_norm(after - before)
    return {
        "iterations": run.iterations,
        "squared_error": _numpy(run.squared_error),
        "drift": _numpy(change / torch.where(size > 0, size, 1.0)),
        "initial_imbalance": _numpy(torch.linalg.eigvalsh(before)[..., 0]),
        "left_floor": _numpy(torch.linalg.eigvalsh(run.left.mT @ run.left)[..., 0]),
    }


def rescaling_point(
    wait: int,
    new_scale: float = 1.0,
    drop: float = 1e-10,
    scale: float = 0.25,
    width: int = 4,
    ratio: float = 1 / 3,
    n_rows: int = 20,
    eigenvalues: Sequence[float] = _EIGENVALUES,
    step: float = 0.1,
    n_steps: int = 10_000,
    resolution: int = 10,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Compare descent on :math:`FG^\top` with and without one step of rescaling.

    Both runs share their first ``wait`` iterations, in the population limit. Then one of them
    rescales its factors once (`rescale_factors`).

    Parameters
    ----------
    wait : int
        Iterations before the rescaling.
    new_scale : float, default 1.0
        The scale :math:`\beta` of F after it.
    drop : float, default 1e-10
        Factor by which the squared error must fall from there, in (0, 1).
    scale : float, default 0.25
        Initialization scale of F.
    width : int, default 4
        Columns k of the factors.
    ratio : float, default 1/3
        Scale of G divided by that of F.
    n_rows : int, default 20
        Rows and columns n of the matrix.
    eigenvalues : sequence of float, default (1.0, 0.5)
        Its positive eigenvalues.
    step : float, default 0.1
        Step of the descent.
    n_steps : int, default 10000
        Iterations after the first ``wait``.
    resolution : int, default 10
        Iterations between two looks at the run without rescaling.
    trials : int, default 10
        Independent trials, those of `asymmetric_point`.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``iterations`` (points,), counted from the start, and ``plain`` and ``rescaled``
        (trials, points), the squared errors; ``plain_steps`` and ``rescaled_steps`` (trials,),
        the iterations until the error has fallen by ``drop``: rounded down to ``resolution``
        for the plain run, up for the other, so that their ratio errs on the side of the plain
        run. A run that did not get there counts ``n_steps``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where, trials = _where(device), check_integer(trials, "trials", minimum=1)
    wait = check_integer(wait, "wait", minimum=1)
    n_steps = check_integer(n_steps, "n_steps", minimum=1)
    drop = check_number(drop, "drop", above=0.0, below=1.0)
    resolution = check_integer(resolution, "resolution", minimum=1, maximum=n_steps)
    truth = _truth(n_rows, eigenvalues, trials, seed, where)
    measurements = population_measurements(n_rows, symmetric=False, device=where)
    f = scale * _nested_factors(n_rows, [width], trials, seed, where)
    g = ratio * scale * _right_factors(n_rows, width, trials, seed, where)

    def descend(f: Tensor, g: Tensor, steps: int) -> Any:
        return asymmetric_gradient_descent(
            measurements,
            measurements(truth),
            f,
            g,
            step=step,
            n_steps=steps,
            target=truth,
            record=range(0, steps + 1, resolution),
        )

    first = descend(f, g, wait)
    plain = descend(first.left, first.right, n_steps)
    rescaled = descend(*rescale_factors(first.left, first.right, new_scale), n_steps)
    start = _numpy(first.squared_error)[:, 0, :-1]
    curves = [_numpy(run.squared_error)[:, 0] for run in (plain, rescaled)]
    steps = [_first_below(plain.iterations, curve, drop * curve[:, :1]) for curve in curves]
    return {
        "iterations": np.concatenate([first.iterations[:-1], wait + plain.iterations]),
        "plain": np.concatenate([start, curves[0]], axis=1),
        "rescaled": np.concatenate([start, curves[1]], axis=1),
        "plain_steps": steps[0] - resolution * (steps[0] < n_steps),
        "rescaled_steps": steps[1],
    }


def robust_point(
    widths: Sequence[int],
    scales: Sequence[float] = (1e-6,),
    outlier_shares: Sequence[float] = (0.15,),
    loss: str = "l1",
    noise_std: float = 0.0,
    outlier_size: float = 10.0,
    n_rows: int = 30,
    n_measurements: int = 400,
    eigenvalues: Sequence[float] = _EIGENVALUES,
    from_truth: bool = False,
    step: float = 0.2,
    decay: float = 0.994,
    n_steps: int = 1500,
    record: Sequence[int] | None = None,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Recover a matrix from measurements of which some are outliers.

    A trial draws a matrix, measurements, one initial factor, standard normal noise and a
    uniform number for each measurement, which is an outlier where that number is below the
    share. So all widths, scales, shares and losses of a trial are paired.

    Parameters
    ----------
    widths : sequence of int
        Columns k of the factor.
    scales : sequence of float, default (1e-6,)
        Initialization scales, as in `gaussian_factors`.
    outlier_shares : sequence of float, default (0.15,)
        Expected shares of outliers.
    loss : {"l1", "l2"}, default "l1"
        The sub-gradient method on absolute residuals, or gradient descent on squared ones.
    noise_std : float, default 0.0
        Standard deviation of Gaussian noise on the measurements that are no outliers, in units
        of the matrix's Frobenius norm (the standard deviation of a clean measurement).
    outlier_size : float, default 10.0
        Standard deviation of the Gaussian noise of outliers, in the same units.
    n_rows : int, default 30
        Rows and columns n of the matrix.
    n_measurements : int, default 400
        Symmetric Gaussian measurements m.
    eigenvalues : sequence of float, default (1.0, 0.5)
        Positive eigenvalues of the matrix.
    from_truth : bool, default False
        Add a factor of the true matrix to the initial factor.
    step : float, default 0.2
        First step.
    decay : float, default 0.994
        Ratio of a step to the step before; not used with ``"l2"``, whose step is constant.
    n_steps : int, default 1500
        Iterations.
    record : sequence of int or None, default None
        Iterations to record; ``None`` for log-spaced ones.
    trials : int, default 10
        Independent trials.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``iterations`` of shape (points,); ``relative_error``, the Frobenius norm of the error
        over that of the matrix, of shape (trials, shares, scales, widths, points); ``loss`` of
        that shape; ``true_loss`` (trials, shares), the loss of the true matrix.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where, trials = _where(device), check_integer(trials, "trials", minimum=1)
    check_choice(loss, "loss", ("l1", "l2"))
    noise_std = check_number(noise_std, "noise_std", minimum=0.0)
    outlier_size = check_number(outlier_size, "outlier_size", minimum=0.0)
    truth = _truth(n_rows, eigenvalues, trials, seed, where)
    norm = torch.linalg.matrix_norm(truth)
    measurements = _measurements(n_rows, n_measurements, True, trials, seed, where)
    stream = named_generator(seed, "matrix sensing", "noise", n_measurements)
    draws = torch.randn(trials, n_measurements, dtype=torch.float64, generator=stream)
    chance = torch.rand(trials, n_measurements, dtype=torch.float64, generator=stream)
    shares = torch.tensor(
        [check_number(p, "outlier_shares", minimum=0.0, maximum=1.0) for p in outlier_shares],
        dtype=torch.float64,
    )
    outlier = (chance[:, None] < shares[:, None]).double()
    stds = outlier * outlier_size + (1 - outlier) * noise_std
    noise = (stds * draws[:, None]).to(where) * norm[:, None, None]
    clean = measurements(truth)[:, None]
    alpha = torch.tensor(
        [check_number(a, "scales", above=0.0) for a in scales], dtype=torch.float64
    )
    initial = _nested_factors(n_rows, widths, trials, seed, where)[:, None, None]
    initial = initial * alpha[:, None, None, None].to(where)
    if from_truth:
        values, vectors = torch.linalg.eigh(truth)
        roots = vectors.flip(-1) * values.flip(-1).clamp(min=0.0).sqrt()[:, None]
        root = torch.zeros_like(initial[:, 0, 0, 0])
        rank = min(len(eigenvalues), root.shape[-1])
        root[..., :rank] = roots[..., :rank]
        initial = initial + root[:, None, None, None]
    initial = initial.expand(-1, len(shares), -1, -1, -1, -1)
    options = dict(step=step, n_steps=n_steps, target=truth, record=record)
    seen = (clean + noise)[:, :, None, None]
    if loss == "l1":
        run = subgradient_method(measurements, seen, initial, decay=decay, **options)
        true_loss = noise.abs().mean(-1)
    else:
        run = symmetric_gradient_descent(measurements, seen, initial, **options)
        true_loss = noise.square().mean(-1) / 4
    return {
        "iterations": run.iterations,
        "relative_error": _numpy(run.squared_error.sqrt() / norm[:, None, None, None, None]),
        "loss": _numpy(run.loss),
        "true_loss": _numpy(true_loss),
    }


def robust_size_table(
    sizes: Sequence[int] = (20, 30),
    per_row: float = 40 / 3,
    outlier_share: float = 0.15,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Recover matrices of growing size with exact and with full width.

    Parameters
    ----------
    sizes : sequence of int, default (20, 30)
        Rows n.
    per_row : float, default 40/3
        Measurements for each row, so that 30 rows have 400.
    outlier_share : float, default 0.15
        Share of outliers.
    trials : int, default 10
        Independent trials, two or more.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.

    Returns
    -------
    pandas.DataFrame
        One row a size and width: ``n_rows``, ``n_measurements``, ``width``, and the geometric
        mean over trials of the last ``relative_error`` with the standard error ``log_se`` of
        its logarithm.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    trials = check_integer(trials, "trials", minimum=2)
    per_row = check_number(per_row, "per_row", above=0.0)
    rows = []
    common = {"trials": trials, "seed": seed, "device": device}
    points = [
        dict(
            widths=(len(_EIGENVALUES), n),
            outlier_shares=(outlier_share,),
            n_rows=n,
            n_measurements=round(per_row * n),
            record=[1500],
            **common,
        )
        for n in sizes
    ]
    for point, found in zip(points, map_points(robust_point, points, executor), strict=True):
        last = found["relative_error"][:, 0, 0, :, 0]
        for i, width in enumerate(point["widths"]):
            logs = np.log(last[:, i])
            rows.append(
                {
                    "n_rows": point["n_rows"],
                    "n_measurements": point["n_measurements"],
                    "width": width,
                    "relative_error": float(np.exp(logs.mean())),
                    "log_se": float(logs.std(ddof=1) / math.sqrt(trials)),
                }
            )
    return pd.DataFrame(rows)


def sign_rip_point(
    n_measurements: int,
    outlier_share: float = 0.0,
    outlier_size: float = 10.0,
    error_rank: int = 4,
    n_rows: int = 30,
    probes: int = 20,
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Measure the sign restricted isometry and its counterpart for squared residuals.

    Errors X are random symmetric matrices of unit Frobenius norm and given rank. The
    counterpart is the distance of :math:`\frac1m\sum_i(\langle A_i, X\rangle - s_i)A_i` from
    :math:`X`, in the same norm.

    Parameters
    ----------
    n_measurements : int
        Symmetric Gaussian measurements m.
    outlier_share : float, default 0.0
        Share of measurements with noise.
    outlier_size : float, default 10.0
        Standard deviation of that noise, in units of the error's norm.
    error_rank : int, default 4
        Rank of X, and of the matrices against which deviations are measured.
    n_rows : int, default 30
        Rows and columns n.
    probes : int, default 20
        Errors X for each draw of the measurements.
    trials : int, default 10
        Independent draws of measurements and noise.
    seed : int, default 0
        Seed of the trials.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``scale``, ``deviation`` and ``squared_deviation`` of shape (trials, probes): the
        measured :math:`\psi`, the deviation divided by it, and that of squared residuals.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where, trials = _where(device), check_integer(trials, "trials", minimum=1)
    share = check_number(outlier_share, "outlier_share", minimum=0.0, maximum=1.0)
    size = check_number(outlier_size, "outlier_size", minimum=0.0)
    probes = check_integer(probes, "probes", minimum=1)
    rank = check_integer(error_rank, "error_rank", minimum=1, maximum=n_rows)
    measurements = _measurements(n_rows, n_measurements, True, trials, seed, where)
    stream = named_generator(seed, "matrix sensing", "sign-RIP", n_measurements)
    draw = {"dtype": torch.float64, "generator": stream}
    ends = torch.randn(trials, probes, n_rows, rank, **draw)
    signs = torch.randn(trials, probes, 1, rank, **draw)
    x = (ends * signs) @ ends.mT
    x = (x / torch.linalg.matrix_norm(x)[..., None, None]).to(where)
    hit = torch.rand(trials, n_measurements, **draw) < share
    noise = (hit * size * torch.randn(trials, n_measurements, **draw)).to(where)
    found = sign_rip(measurements, x, noise, rank=rank)
    seen = measurements.normal(x)
    seen = seen - measurements.weight * measurements.adjoint(noise)[:, None] - x
    squared = torch.linalg.svdvals(seen)[..., :rank].square().sum(-1).sqrt()
    return {
        "scale": _numpy(found.scale),
        "deviation": _numpy(found.deviation / found.scale),
        "squared_deviation": _numpy(squared),
    }


def _where(device: str | None) -> torch.device:
    return exact_device(resolve_device(device))


def _numpy(value: Tensor) -> np.ndarray:
    return value.cpu().numpy()


def _truth(
    n_rows: int, eigenvalues: Sequence[float], trials: int, seed: int, where: torch.device
) -> Tensor:
    stream = named_generator(seed, "matrix sensing", "truth", n_rows, len(eigenvalues))
    return low_rank_matrix(n_rows, list(eigenvalues), batch=trials, generator=stream, device=where)


def _measurements(
    n_rows: int,
    n_measurements: int | None,
    symmetric: bool,
    trials: int,
    seed: int,
    where: torch.device,
) -> Measurements:
    if n_measurements is None:
        return population_measurements(n_rows, symmetric=symmetric, device=where)
    stream = named_generator(
        seed, "matrix sensing", "measurements", n_rows, n_measurements, str(symmetric)
    )
    return gaussian_measurements(
        n_rows, n_measurements, symmetric=symmetric, batch=trials, generator=stream, device=where
    )


def _nested_factors(
    n_rows: int, widths: Sequence[int], trials: int, seed: int, where: torch.device
) -> Tensor:
    """One factor of scale one a trial, cut to each width by zero columns: (trials, widths, ..)."""
    widths = [check_integer(k, "widths", minimum=1) for k in widths]
    if not widths:
        raise ValueError("widths: expected at least one, got none")
    stream = named_generator(seed, "matrix sensing", "initial factor", n_rows)
    transposed = torch.randn(
        max(widths), trials, n_rows, dtype=torch.float64, generator=stream
    )  # the first columns do not depend on how many there are
    factor = (transposed.movedim(0, -1) / math.sqrt(n_rows)).to(where)
    kept = torch.arange(max(widths), device=where) < torch.tensor(widths, device=where)[:, None]
    return factor[:, None] * kept[:, None]


def _right_factors(n_rows: int, width: int, trials: int, seed: int, where: torch.device) -> Tensor:
    stream = named_generator(seed, "matrix sensing", "right factor", n_rows, width)
    return gaussian_factors(n_rows, width, batch=trials, generator=stream, device=where)[:, None]


def _first_below(iterations: np.ndarray, values: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """First recorded iteration at which each curve is below its bound, else the last one."""
    below = values < bound
    return np.where(below.any(-1), iterations[below.argmax(-1)], iterations[-1])
