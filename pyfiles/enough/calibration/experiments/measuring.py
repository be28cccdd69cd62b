"""Sweeps that ask how much of a measured calibration error belongs to the ruler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import QuantileRegressor
from torch import Tensor

from enough.calibration._sums import uniform_bins
from enough.calibration.conformal import conformal_quantile, conformal_rank
from enough.calibration.errors import check_level
from enough.calibration.intervals import calibration_error_interval
from enough.calibration.scores import brier_score, score_decomposition
from enough.calibration.smooth import smooth_calibration_error
from enough.data import breast_cancer, diabetes, digits, standardize
from enough.models import MLP
from enough.runtime import chunks, derive_seed, exact_device, named_generator, resolve_device
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training import Ensemble
from enough.training.sweep_points import map_points

__all__ = [
    "binned_errors",
    "calibrated_point",
    "calibrated_table",
    "conformal_coverage",
    "conformal_point",
    "coverage_point",
    "coverage_table",
    "network_point",
    "network_table",
    "quantile_point",
    "smooth_point",
]

_MEMORY = 2**28  # bytes of trials at a time
_TASKS = {"digits": (digits, 300, 128), "breast_cancer": (breast_cancer, 200, 64)}


def binned_errors(
    probs: Any, outcomes: Any, n_bins: int = 15, binning: str = "uniform"
) -> dict[str, np.ndarray]:
    r"""Measure binned calibration errors of many trials at once, and their noise floor.

    With residuals :math:`r = p - y`, their mean :math:`m_b` and variance :math:`s_b^2` (divisor
    :math:`n_b - 1`) in bin b, and :math:`w_b = n_b/n`. Bins are those of
    `expected_calibration_error`; nothing is floored at 0.

    Parameters
    ----------
    probs : array of shape (trials, n)
        Forecasts in [0, 1].
    outcomes : array of shape (trials, n)
        Events, 0 or 1.
    n_bins : int, default 15
        The number of bins.
    binning : {"uniform", "quantile"}, default "uniform"
        Bins of equal width or of equal counts.

    Returns
    -------
    dict of str to numpy.ndarray of shape (trials,)
        ``l1`` and ``maximum``, the plug-in errors; ``squared``, the plug-in squared l2 error
        :math:`\sum_b w_b m_b^2`; ``debiased``, less
        :math:`\bar y_b(1 - \bar y_b)/(n_b - 1)` a bin; ``unbiased``, less :math:`s_b^2/n_b` a
        bin; both leave out bins of one sample. ``floor``, the expected ``squared`` if the
        forecasts were calibrated, :math:`\frac1n \sum_b v_b` over the bins that are not empty,
        with :math:`v_b` the mean of :math:`p(1 - p)`; ``floor_l1``, the expected ``l1`` in that
        case if every :math:`m_b` were normal. ``spread``, :math:`\frac1n \sum_b` of the variance
        of the forecasts in the bin (divisor :math:`n_b - 1`), by which ``debiased`` is too low
        on average.

    Raises
    ------
    ValueError
        If a shape is wrong, a forecast is outside [0, 1], or an outcome is not 0 or 1.

    References
    ----------
    Kumar, Liang, Ma (2019), Verified uncertainty calibration.
    """
    n_bins = check_integer(n_bins, "n_bins", minimum=1)
    check_choice(binning, "binning", ("uniform", "quantile"))
    (probs, outcomes), _ = as_tensors(probs=probs, outcomes=outcomes)
    check_tensor(probs, "probs", ndim=2, minimum=0.0, maximum=1.0)
    check_tensor(outcomes, "outcomes", shape=probs.shape)
    p, y = probs.double(), outcomes.double()
    if not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("outcomes: expected 0 or 1, got another number")
    trials, n = p.shape
    index = _bin_numbers(p, n_bins, binning) + n_bins * torch.arange(
        trials, device=p.device
    ).unsqueeze(1)

    def total(weights: Tensor | None = None) -> Tensor:
        flat = None if weights is None else weights.flatten()
        return torch.bincount(index.flatten(), flat, trials * n_bins).view(trials, n_bins)

    count = total().double()
    some, divisor = count > 0, count.clamp(min=1.0)
    residual, variance = p - y, p * (1.0 - p)
    mean, share, v = total(residual) / divisor, total(y) / divisor, total(variance) / divisor
    center = (total(p) / divisor).flatten()[index]
    less = (count - 1.0).clamp(min=1.0)
    many = count > 1
    spread = total((p - center).square()) / less
    scatter = total((residual - mean.flatten()[index]).square()) / less
    weight, square = count / n, mean.square()
    parts = {
        "l1": (weight * mean.abs()).sum(1),
        "maximum": mean.abs().amax(1),
        "squared": (weight * square).sum(1),
        "debiased": (weight * (square - share * (1.0 - share) / less) * many).sum(1),
        "unbiased": (weight * (square - scatter / divisor) * many).sum(1),
        "floor": (v * some).sum(1) / n,
        "floor_l1": math.sqrt(2.0 / math.pi) * (count * v).sqrt().sum(1) / n,
        "spread": spread.sum(1) / n,
    }
    return {name: value.cpu().numpy() for name, value in parts.items()}


def calibrated_point(
    n_samples: int,
    n_bins: int = 15,
    trials: int = 1000,
    binning: str = "uniform",
    slope: float = 1.0,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, np.ndarray]:
    r"""Measure the errors of forecasts whose calibration is known.

    Forecasts p are uniform on [0, 1]. An event happens with the probability whose log odds are
    ``slope`` times those of p, so that slope 1 means calibrated and less means overconfident.

    Parameters
    ----------
    n_samples : int
        Samples a trial.
    n_bins : int, default 15
        The number of bins.
    trials : int, default 1000
        Independent trials.
    binning : {"uniform", "quantile"}, default "uniform"
        Bins of equal width or of equal counts.
    slope : float, default 1.0
        How much of the forecast's log odds is true, zero or more.
    seed : int, default 0
        Trials with the same sizes draw the same forecasts whatever the bins and the slope.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict of str to numpy.ndarray of shape (trials,)
        As from `binned_errors`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    trials = check_integer(trials, "trials", minimum=1)
    blocks = []
    for p, y in _forecasts(n_samples, trials, slope, seed, "calibrated", device):
        blocks.append(binned_errors(p, y, n_bins, binning))
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def calibrated_table(
    n_samples: Sequence[int] = (500, 2000, 8000),
    n_bins: Sequence[int] = (10, 15, 30, 100),
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    r"""Run `calibrated_point` over a grid and put the means beside theory.

    Parameters
    ----------
    n_samples : sequence of int, default (500, 2000, 8000)
        Samples a trial.
    n_bins : sequence of int, default (10, 15, 30, 100)
        Numbers of bins.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `calibrated_point`.

    Returns
    -------
    pandas.DataFrame
        One row a point: ``n_samples``, ``n_bins``; the means over trials ``l1``, ``squared``,
        ``debiased`` and ``unbiased``, each with its standard error ``*_se``; and what theory
        expects of calibrated forecasts, ``squared_theory`` :math:`= B\,E[p(1-p)]/n` and
        ``l1_theory`` :math:`= \sqrt{2/\pi}\;E\sqrt{p(1-p)B/n}`, with
        :math:`E[p(1-p)] = 1/6` and :math:`E\sqrt{p(1-p)} = \pi/8`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    rows = []
    grid = [(n, bins) for n in n_samples for bins in n_bins]
    points = [dict(n_samples=n, n_bins=bins, **options) for n, bins in grid]
    for (n, bins), point in zip(grid, map_points(calibrated_point, points, executor), strict=True):
        row: dict[str, float] = {"n_samples": n, "n_bins": bins}
        for name in ("l1", "squared", "debiased", "unbiased"):
            row[name] = float(point[name].mean())
            row[f"{name}_se"] = float(point[name].std(ddof=1) / math.sqrt(len(point[name])))
        row["squared_theory"] = bins / (6.0 * n)
        row["l1_theory"] = math.sqrt(2.0 * bins / (math.pi * n)) * math.pi / 8.0
        rows.append(row)
    return pd.DataFrame(rows)


def smooth_point(n_samples: int, trials: int = 30, seed: int = 0) -> dict[str, Any]:
    r"""Measure the smooth calibration error of calibrated forecasts.

    Forecasts are uniform on [0, 1]. With a kernel of standard deviation s the sum in smECE is
    normal with variance :math:`p(1-p)/(2\sqrt\pi\,s\,n)`, so
    :math:`\mathrm{smECE}_s \approx \sqrt{2/\pi}\,(\pi/8)\,(2\sqrt\pi\,s\,n)^{-1/2}`, and the
    bandwidth that equals its error is the cube root of a constant over n.

    Parameters
    ----------
    n_samples : int
        Samples a trial.
    trials : int, default 30
        Independent trials.
    seed : int, default 0
        As in `calibrated_point`.

    Returns
    -------
    dict
        ``smooth`` of shape (trials,), and the prediction ``theory``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    trials = check_integer(trials, "trials", minimum=1)
    found = [
        smooth_calibration_error(one, event)
        for p, y in _forecasts(n_samples, trials, 1.0, seed, "smooth", "cpu")
        for one, event in zip(p, y, strict=True)
    ]
    constant = math.sqrt(2.0 / math.pi) * math.pi / 8.0 / math.sqrt(2.0 * math.sqrt(math.pi))
    theory = (constant / math.sqrt(n_samples)) ** (2.0 / 3.0)
    return {"smooth": np.array(found), "theory": theory}


def coverage_point(
    slope: float,
    n_samples: int = 1000,
    n_bins: int = 15,
    datasets: int = 400,
    resamples: int = 300,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Count how often intervals hold the true binned calibration error.

    Data are as in `calibrated_point`. The bootstrap intervals are for the plug-in l1 error,
    the normal interval is that of `calibration_error_interval` for the l2 error; each is
    compared with the error of its own kind.

    Parameters
    ----------
    slope : float
        How much of the forecast's log odds is true, zero or more; 1 is calibrated.
    n_samples : int, default 1000
        Samples a data set.
    n_bins : int, default 15
        Uniform bins.
    datasets : int, default 400
        Independent data sets.
    resamples : int, default 300
        Bootstrap resamples a data set.
    level : float, default 0.95
        Coverage aimed at.
    seed : int, default 0
        Data sets of the same size share their forecasts across slopes.

    Returns
    -------
    dict
        ``true_l1`` and ``true_l2``; boolean arrays of shape (datasets,) ``percentile``,
        ``basic`` and ``normal``, whether the interval held the truth; ``low`` of shape
        (datasets,), the lower end of the normal interval.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    datasets = check_integer(datasets, "datasets", minimum=1)
    resamples = check_integer(resamples, "resamples", minimum=2)
    tail = (1.0 - check_level(level)) / 2.0
    true_l1, true_l2 = _true_errors(slope, n_bins)
    stream = named_generator(seed, "resamples", n_samples, n_bins)
    held: dict[str, list[Any]] = {"percentile": [], "basic": [], "normal": [], "low": []}
    for p, y in _forecasts(n_samples, datasets, slope, seed, "coverage", "cpu"):
        plugin = binned_errors(p, y, n_bins)["l1"]
        numbers = _bin_numbers(p, n_bins, "uniform")
        for one, event, number, value in zip(p, y, numbers, plugin, strict=True):
            again = _resampled_l1(one - event, number, n_bins, resamples, stream)
            low, high = np.quantile(again, (tail, 1.0 - tail))
            held["percentile"].append(low <= true_l1 <= high)
            held["basic"].append(2 * value - high <= true_l1 <= 2 * value - low)
            normal = calibration_error_interval(one, event, n_bins=n_bins, level=level)
            held["normal"].append(normal.low <= true_l2 <= normal.high)
            held["low"].append(normal.low)
    return {"true_l1": true_l1, "true_l2": true_l2} | {k: np.array(v) for k, v in held.items()}


def coverage_table(
    slopes: Sequence[float] = (1.0, 0.9, 0.5),
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run `coverage_point` over slopes.

    Parameters
    ----------
    slopes : sequence of float, default (1.0, 0.9, 0.5)
        How much of the forecasts' log odds is true.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `coverage_point`.

    Returns
    -------
    pandas.DataFrame
        One row a slope and method: ``slope``, ``true_l1``, ``true_l2``, ``method``, and the
        counts ``held`` and ``datasets``; ``low_is_zero``, the number of data sets in which the
        normal interval begins at 0.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    rows = []
    points = [dict(slope=slope, **options) for slope in slopes]
    for slope, point in zip(slopes, map_points(coverage_point, points, executor), strict=True):
        rows.extend(
            {
                "slope": slope,
                "true_l1": point["true_l1"],
                "true_l2": point["true_l2"],
                "method": method,
                "held": int(point[method].sum()),
                "datasets": len(point[method]),
                "low_is_zero": int((point["low"] == 0.0).sum()),
            }
            for method in ("percentile", "basic", "normal")
        )
    return pd.DataFrame(rows)


def network_point(
    task: str = "digits",
    members: int = 16,
    steps: int = 400,
    lr: float = 1e-3,
    shuffle: bool = False,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, np.ndarray]:
    """Train networks on splits of their own and return their forecasts on the rest.

    Every member is a perceptron with one hidden ReLU layer, trained by Adam on the
    cross-entropy of all its samples at once: 128 hidden units and 300 training images for
    digits, 64 hidden units and 200 training cases, standardized, for breast cancer.

    Parameters
    ----------
    task : {"digits", "breast_cancer"}, default "digits"
        The data.
    members : int, default 16
        Networks; each has its own split, weights and, if asked for, permutation of the labels.
    steps : int, default 400
        Updates.
    lr : float, default 1e-3
        Learning rate, above zero.
    shuffle : bool, default False
        Permute all labels first, so that there is nothing to learn.
    seed : int, default 0
        Member i is the same whatever the number of members.
    device : str or None, default "cpu"
        Where to train; ``None`` for the default device.

    Returns
    -------
    dict
        ``logits`` of shape (members, test samples, classes), float64; ``probs``, their softmax;
        ``labels`` of shape (members, test samples), int64.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(task, "task", tuple(_TASKS))
    members = check_integer(members, "members", minimum=1)
    load, n_train, width = _TASKS[task]
    data = load()
    parts: list[list[Tensor]] = [[], [], [], []]
    for i in range(members):
        stream = named_generator(seed, "split", task, i)
        mine = data
        if shuffle:
            order = torch.randperm(len(data), generator=stream)
            mine = type(data)(data.x, data.y[order], data.name, data.description, data.source)
        train, test = mine.split(n_train, generator=stream)
        if task == "breast_cancer":
            train, test = standardize(train, test)
        for part, value in zip(parts, (train.x, train.y, test.x, test.y), strict=True):
            part.append(value)
    x, y, x_test, y_test = (torch.stack(part) for part in parts)
    where = resolve_device(device)
    ensemble = Ensemble(
        lambda g: MLP([x.shape[2], width, data.n_classes], generator=g),
        members,
        derive_seed(seed, "networks", task),
        mode="stacked",
        device=where,
    )
    ensemble.fit(x, y, loss="cross_entropy", lr=lr, steps=steps, per_member=True, progress=False)
    logits = ensemble.predict(x_test, per_member=True).detach().cpu().double()
    return {
        "logits": logits.numpy(),
        "probs": logits.softmax(-1).numpy(),
        "labels": y_test.numpy(),
    }


def network_table(probs: Any, labels: Any, n_bins: int = 15) -> pd.DataFrame:
    """Measure the calibration of the top label, one row a network.

    Parameters
    ----------
    probs : array of shape (members, n, classes)
        Forecasts.
    labels : array of shape (members, n)
        Class numbers.
    n_bins : int, default 15
        Uniform bins.

    Returns
    -------
    pandas.DataFrame
        ``accuracy``, ``confidence`` (mean of the top label's), ``brier``; the errors of
        `binned_errors`; ``interval_low`` and ``interval_high`` of `calibration_error_interval`;
        ``mcb``, ``dsc``, ``unc`` of `score_decomposition` for the Brier score of the event
        that the top label is right.

    Raises
    ------
    ValueError
        If a shape is wrong or an argument is out of range.
    """
    (probs, labels), _ = as_tensors(probs=probs, labels=labels)
    check_tensor(probs, "probs", ndim=3)
    check_tensor(labels, "labels", shape=probs.shape[:2])
    confidence, top = probs.max(-1)
    errors = binned_errors(confidence, top == labels, n_bins)
    rows = []
    for i, (one, label) in enumerate(zip(probs, labels, strict=True)):
        interval = calibration_error_interval(one, label, n_bins=n_bins)
        parts = score_decomposition(one, label)
        rows.append(
            {
                "accuracy": (top[i] == label).double().mean().item(),
                "confidence": confidence[i].double().mean().item(),
                "brier": brier_score(one, label),
                **{name: value[i] for name, value in errors.items()},
                "interval_low": interval.low,
                "interval_high": interval.high,
                "mcb": parts.miscalibration,
                "dsc": parts.discrimination,
                "unc": parts.uncertainty,
            }
        )
    return pd.DataFrame(rows)


def quantile_point(
    splits: int = 8,
    n_train: int = 120,
    levels: Sequence[float] = tuple(i / 20 for i in range(1, 20)),
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Fit linear quantile regressions to the progression of diabetes, level by level.

    Parameters
    ----------
    splits : int, default 8
        Random splits of the 442 patients.
    n_train : int, default 120
        Patients to fit on; the others are predicted.
    levels : sequence of float, default 0.05, 0.10, …, 0.95
        Quantile levels; each has its own regression, so that predicted quantiles may cross.
    seed : int, default 0
        Draws the splits.

    Returns
    -------
    dict
        ``prediction`` of shape (splits, test patients, levels), ``target`` of shape
        (splits, test patients), ``levels``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    splits = check_integer(splits, "splits", minimum=1)
    levels = [check_number(q, "levels", above=0.0, below=1.0) for q in levels]
    data = diabetes(dtype=torch.float64)
    predictions, targets = [], []
    for i in range(splits):
        parts = data.split(n_train, generator=named_generator(seed, "diabetes", i))
        train, test = standardize(*parts)
        columns = [
            QuantileRegressor(quantile=q, alpha=0.0, solver="highs")
            .fit(train.x.numpy(), train.y.numpy())
            .predict(test.x.numpy())
            for q in levels
        ]
        predictions.append(np.stack(columns, 1))
        targets.append(test.y.numpy())
    return {
        "prediction": np.stack(predictions),
        "target": np.stack(targets),
        "levels": np.array(levels),
    }


def conformal_point(
    n_calibration: int = 99,
    alpha: float = 0.1,
    trials: int = 20_000,
    shift: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the coverage of conformal thresholds exactly, one calibration set a trial.

    Scores are standard normal; those of new samples are larger by ``shift``.

    Parameters
    ----------
    n_calibration : int, default 99
        Calibration scores n.
    alpha : float, default 0.1
        Allowed miscoverage. The rank k of the threshold must not exceed n.
    trials : int, default 20000
        Calibration sets.
    shift : float, default 0.0
        Breaks exchangeability when it is not 0.
    seed : int, default 0
        The same calibration sets for every shift.

    Returns
    -------
    dict
        ``coverage`` of shape (trials,); the rank ``k``; ``mean`` and ``sd`` of Beta(k, n+1−k).

    Raises
    ------
    ValueError
        If an argument is out of range or n is too small for alpha.
    """
    k = conformal_rank(n_calibration, alpha)
    if k > n_calibration:
        raise ValueError(
            f"n_calibration: expected enough scores for alpha={alpha}, got {n_calibration}"
        )
    trials = check_integer(trials, "trials", minimum=1)
    shift = check_number(shift, "shift")
    stream = named_generator(seed, "conformal", n_calibration)
    coverage = []
    for block in chunks(trials, 24.0 * n_calibration, _MEMORY):
        shape = (block.stop - block.start, n_calibration)
        scores = torch.randn(shape, dtype=torch.float64, generator=stream)
        threshold = scores.kthvalue(k, dim=1).values
        coverage.append(torch.special.ndtr(threshold - shift))
    a, b = k, n_calibration + 1 - k
    return {
        "coverage": torch.cat(coverage).numpy(),
        "k": k,
        "mean": a / (a + b),
        "sd": math.sqrt(a * b / (a + b + 1.0)) / (a + b),
    }


def conformal_coverage(
    probs: Any,
    labels: Any,
    n_calibration: int = 99,
    alpha: float = 0.1,
    divisions: int = 50,
    seed: int = 0,
) -> np.ndarray:
    """Measure the coverage of conformal sets on real forecasts, by repeated divisions.

    A class is in the set of a sample when 1 − p is at most the conformal quantile of 1 − p_y
    over the calibration samples.

    Parameters
    ----------
    probs : array of shape (members, n, classes)
        Forecasts.
    labels : array of shape (members, n)
        Class numbers.
    n_calibration : int, default 99
        Samples that set the threshold, drawn at random; coverage is measured on the others.
    alpha : float, default 0.1
        Allowed miscoverage.
    divisions : int, default 50
        Random divisions a network.
    seed : int, default 0
        Draws the divisions.

    Returns
    -------
    numpy.ndarray of shape (members, divisions)
        Share of the other samples whose set holds the label.

    Raises
    ------
    ValueError
        If a shape is wrong or an argument is out of range.
    """
    (probs, labels), _ = as_tensors(probs=probs, labels=labels)
    check_tensor(probs, "probs", ndim=3)
    check_tensor(labels, "labels", shape=probs.shape[:2])
    members, n = labels.shape
    n_calibration = check_integer(n_calibration, "n_calibration", minimum=1, maximum=n - 1)
    divisions = check_integer(divisions, "divisions", minimum=1)
    scores = 1.0 - probs.gather(2, labels.long().unsqueeze(2)).squeeze(2).double().cpu()
    found = np.empty((members, divisions))
    for i in range(members):
        stream = named_generator(seed, "divisions", i)
        for j in range(divisions):
            mixed = scores[i, torch.randperm(n, generator=stream)]
            threshold = conformal_quantile(mixed[:n_calibration], alpha)
            found[i, j] = (mixed[n_calibration:] <= threshold).double().mean().item()
    return found


def _bin_numbers(p: Tensor, n_bins: int, binning: str) -> Tensor:
    """Bin numbers from 0 of float64 forecasts (trials, n), by the convention of the book."""
    if binning == "uniform":
        return uniform_bins(p, n_bins).to(torch.int64) - 1
    n = p.shape[1]
    ranks = [max(-(-n * (i + 1) // n_bins) - 1, 0) for i in range(n_bins)]
    edges = p.sort(1).values[:, ranks].contiguous()
    return torch.searchsorted(edges, p.contiguous())


def _forecasts(
    n_samples: int, trials: int, slope: float, seed: int, name: str, device: str | None
) -> Any:
    """Yield blocks of forecasts and outcomes, (trials, n) each; the draws ignore the slope."""
    n_samples = check_integer(n_samples, "n_samples", minimum=2)
    slope = check_number(slope, "slope", minimum=0.0)
    where = exact_device(resolve_device(device))
    stream = named_generator(seed, name, n_samples, device=where)
    for block in chunks(trials, 120.0 * n_samples, _MEMORY):
        shape = (2, block.stop - block.start, n_samples)
        p, u = torch.rand(shape, dtype=torch.float64, device=where, generator=stream)
        chance = p if slope == 1.0 else torch.sigmoid(slope * torch.logit(p))
        yield p, (u < chance).double()


def _true_errors(slope: float, n_bins: int) -> tuple[float, float]:
    """Binned l1 and l2 error of uniform forecasts, by quadrature in every bin."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    p = (np.arange(n_bins)[:, None] + (nodes + 1.0) / 2.0) / n_bins
    chance = p if slope == 1.0 else 1.0 / (1.0 + ((1.0 - p) / p) ** slope)
    gap = ((p - chance) * weights / 2.0).sum(1)
    return float(np.abs(gap).mean()), float(np.sqrt((gap**2).mean()))


def _resampled_l1(
    residual: Tensor, number: Tensor, n_bins: int, resamples: int, stream: torch.Generator
) -> np.ndarray:
    """L1 error of resamples: the size of each bin's residual sum, over n."""
    n = len(residual)
    rows = torch.randint(n, (resamples, n), generator=stream)
    index = number[rows] + n_bins * torch.arange(resamples).unsqueeze(1)
    sums = torch.bincount(index.flatten(), residual[rows].flatten(), resamples * n_bins)
    return (sums.view(resamples, n_bins).abs().sum(1) / n).numpy()
