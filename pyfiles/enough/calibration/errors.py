"""Calibration errors and the reliability curve, all under one binning convention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from enough.calibration._inputs import check_bins, read_probs, widen
from enough.calibration._sums import (
    BinSums,
    bin_events,
    read_event,
    scan_table,
)
from enough.runtime.validation import check_choice, check_number

__all__ = [
    "ReliabilityCurve",
    "average_calibration_error",
    "check_level",
    "check_norm",
    "curve_from_sums",
    "error_from_sums",
    "expected_calibration_error",
    "kolmogorov_smirnov_error",
    "mean_error_from_sums",
    "normal_quantile",
    "reliability_curve",
    "wilson_interval",
]


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often events happened against how likely they were called, bin by bin.

    Parameters
    ----------
    confidence : array
        Mean forecast of each non-empty bin, increasing, shape (bins,).
    accuracy : array
        Share of events in the bin.
    count : array
        Samples in the bin, int64.
    low, high : array
        Wilson interval of the accuracy.
    """

    confidence: Any
    accuracy: Any
    count: Any
    low: Any
    high: Any


def expected_calibration_error(
    probs: Any,
    labels: Any,
    *,
    n_bins: int = 15,
    binning: str = "uniform",
    norm: str = "l1",
    debias: bool = False,
    classwise: bool = False,
) -> float:
    """Return the binned calibration error.

    With n_b samples in bin b, mean forecast p̄_b and share of events ȳ_b, the error is
    Σ_b (n_b/n) abs(p̄_b − ȳ_b) for ``norm="l1"``, the root of the weighted mean square for
    ``"l2"``, the largest gap for ``"max"``.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex: the calibration of the top label, or of every class with
        ``classwise``. Shape (N,) means P(y = 1): the calibration of that.
    labels : array of shape (N,)
        Class numbers from 0; 0 and 1 for ``probs`` of shape (N,).
    n_bins : int, default 15
        The number of bins B.
    binning : {"uniform", "quantile"}, default "uniform"
        Uniform bins are (i/B, (i+1)/B], 0 belongs to the first. Quantile bins hold equal
        counts; equal forecasts share a bin (the lower one), so ties may leave fewer bins.
        Empty bins weigh nothing.
    norm : {"l1", "l2", "max"}, default "l1"
        How gaps are averaged; ``"max"`` is the maximum calibration error.
    debias : bool, default False
        Subtract from each squared gap its variance ȳ_b(1 − ȳ_b)/(n_b − 1), floor the sum
        at 0, and take the root; a bin of one sample contributes 0. Needs ``norm="l2"``.
    classwise : bool, default False
        Average the error of P(y = class) over the classes. Needs shape (N, K).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range, or ``debias`` comes with
        another norm, or ``classwise`` with shape (N,).

    Notes
    -----
    The plug-in error is biased upward. For calibrated forecasts its square (``"l2"``) has
    expectation near B·E[p(1 − p)]/N, and the ``"l1"`` error near √(2/π) E√(p(1 − p)B/N);
    the debiased square has expectation near 0.

    References
    ----------
    Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using
    Bayesian binning. Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural
    networks. Kumar, Liang, Ma (2019), Verified uncertainty calibration. Nixon et al.
    (2019), Measuring calibration in deep learning.

    Examples
    --------
    >>> expected_calibration_error([0.95, 1.0], [1, 0], n_bins=10)
    0.475
    """
    n_bins = check_bins(n_bins)
    check_choice(binning, "binning", ("uniform", "quantile"))
    check_norm(norm, debias)
    probs, labels, _ = read_probs(probs, labels)
    if not classwise:
        values, outcomes = read_event(probs, labels)
        return error_from_sums(bin_events(values, outcomes, n_bins, binning), norm, debias)
    if probs.ndim == 1:
        raise ValueError(f"classwise: expected probs of shape (N, K), got {tuple(probs.shape)}")
    if binning == "uniform":
        return mean_error_from_sums(scan_table(probs, labels, n_bins=n_bins).bins, norm, debias)
    scan_table(probs, labels)  # only to check the rows
    errors = (
        error_from_sums(
            bin_events(column.clamp(0.0, 1.0), labels == j, n_bins, "quantile"), norm, debias
        )
        for j, column in enumerate(probs.T)
    )
    return math.fsum(errors) / probs.shape[1]


def average_calibration_error(
    probs: Any,
    labels: Any,
    *,
    n_bins: int = 15,
    binning: str = "uniform",
) -> float:
    """Return the mean gap over the non-empty bins, each with the same weight.

    Some papers and packages call this ACE. It is not the adaptive error, which is
    `expected_calibration_error` with quantile bins and ``classwise=True``.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex (the calibration of the top label), or P(y = 1).
    labels : array of shape (N,)
        Class numbers from 0.
    n_bins : int, default 15
        The number of bins.
    binning : {"uniform", "quantile"}, default "uniform"
        As in `expected_calibration_error`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Neumann, Zisserman, Vedaldi (2018), Relaxed softmax: efficient confidence
    auto-calibration for safe pedestrian detection.
    """
    n_bins = check_bins(n_bins)
    check_choice(binning, "binning", ("uniform", "quantile"))
    probs, labels, _ = read_probs(probs, labels)
    gap, _ = _gaps(bin_events(*read_event(probs, labels), n_bins, binning))
    return gap.abs().mean().item()


def kolmogorov_smirnov_error(probs: Any, labels: Any) -> float:
    """Return the largest gap between cumulative forecasts and cumulative events.

    With samples in the order of their forecast, the error is the maximum over thresholds t
    of abs(Σ_{c_i ≤ t} (c_i − a_i))/N. It needs no bins; equal forecasts enter together, so
    their order does not matter.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex (the calibration of the top label), or P(y = 1).
    labels : array of shape (N,)
        Class numbers from 0.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Gupta et al. (2021), Calibration of neural networks using splines.
    """
    probs, labels, _ = read_probs(probs, labels)
    values, outcomes = read_event(probs, labels)
    ordered, order = widen(values).sort()
    running = (ordered.double() - outcomes[order].double()).cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])
    return running[last].abs().max().item() / values.shape[0]


def reliability_curve(
    probs: Any,
    labels: Any,
    *,
    n_bins: int = 15,
    binning: str = "uniform",
    level: float = 0.95,
) -> ReliabilityCurve:
    """Return mean forecast, share of events, count and Wilson interval of each bin.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex (the calibration of the top label), or P(y = 1). For one class
        j of a table pass ``probs[:, j]`` and ``labels == j``.
    labels : array of shape (N,)
        Class numbers from 0.
    n_bins : int, default 15
        The number of bins.
    binning : {"uniform", "quantile"}, default "uniform"
        As in `expected_calibration_error`.
    level : float, default 0.95
        Coverage of ``low`` and ``high``.

    Returns
    -------
    ReliabilityCurve
        Non-empty bins only; arrays of the kind and dtype of ``probs`` (float32 for 16-bit
        input).

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.
    """
    n_bins = check_bins(n_bins)
    check_choice(binning, "binning", ("uniform", "quantile"))
    level = check_level(level)
    probs, labels, restore = read_probs(probs, labels)
    sums = bin_events(*read_event(probs, labels), n_bins, binning)
    return curve_from_sums(sums, level, restore, widen(probs[:0]).dtype)


def wilson_interval(
    events: torch.Tensor, count: torch.Tensor, level: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Wilson's interval of a share of events.

    Parameters
    ----------
    events, count : torch.Tensor
        Events and trials, same shape; ``count`` at least 1.
    level : float, default 0.95
        Coverage.

    Returns
    -------
    low : torch.Tensor
        Lower ends, float64, in [0, 1].
    high : torch.Tensor
        Upper ends.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = normal_quantile(level)
    count = count.double()
    share = events.double() / count
    center = share + z * z / (2.0 * count)
    spread = z * torch.sqrt(share * (1.0 - share) / count + (z / (2.0 * count)) ** 2)
    scale = 1.0 + z * z / count
    low = torch.where(events == 0, 0.0, (center - spread) / scale)
    high = torch.where(events == count, 1.0, (center + spread) / scale)
    return low, high


def normal_quantile(level: float) -> float:
    """Return the z with P(−z < standard normal < z) = level.

    Parameters
    ----------
    level : float
        In (0, 1).

    Returns
    -------
    float
        1.96 for 0.95.
    """
    return math.sqrt(2.0) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()


def error_from_sums(sums: BinSums, norm: str, debias: bool) -> float:
    """Return the calibration error of one binary event from its bin sums.

    Parameters
    ----------
    sums : BinSums
        Shape (B,).
    norm : {"l1", "l2", "max"}
        How gaps are averaged.
    debias : bool
        Subtract the within-bin variance (l2 only).

    Returns
    -------
    float
        In [0, 1].
    """
    gap, count = _gaps(sums)
    if norm == "max":
        return gap.abs().max().item()
    weight = count / count.sum()
    if norm == "l1":
        return (weight * gap.abs()).sum().item()
    square = gap.square()
    if debias:
        share = sums.outcome[sums.count > 0] / count
        variance = share * (1.0 - share) / (count - 1.0).clamp(min=1.0)
        square = torch.where(count > 1.0, square - variance, 0.0)
    return math.sqrt(max((weight * square).sum().item(), 0.0))


def curve_from_sums(
    sums: BinSums, level: float, restore: Any, dtype: torch.dtype
) -> ReliabilityCurve:
    """Return the reliability curve that belongs to bin sums.

    Parameters
    ----------
    sums : BinSums
        Shape (B,).
    level : float
        Coverage of the interval.
    restore : callable
        Maps a tensor to what the caller works with.
    dtype : torch.dtype
        Floating dtype of the curve.

    Returns
    -------
    ReliabilityCurve
        Non-empty bins only.
    """
    full = sums.count > 0
    count, outcome = sums.count[full], sums.outcome[full]
    low, high = wilson_interval(outcome, count, level)
    parts = (sums.confidence[full] / count, outcome.double() / count)
    confidence, accuracy, low, high = (restore(x.to(dtype)) for x in (*parts, low, high))
    return ReliabilityCurve(confidence, accuracy, restore(count), low, high)


def mean_error_from_sums(bins: BinSums, norm: str, debias: bool) -> float:
    """Return the mean over classes of the calibration error.

    Parameters
    ----------
    bins : BinSums
        Shape (K, B).
    norm : {"l1", "l2", "max"}
        How gaps are averaged.
    debias : bool
        Subtract the within-bin variance (l2 only).

    Returns
    -------
    float
        In [0, 1].
    """
    classes = zip(bins.count, bins.confidence, bins.outcome, strict=True)
    errors = [error_from_sums(BinSums(*one), norm, debias) for one in classes]
    return math.fsum(errors) / len(errors)


def check_norm(norm: str, debias: bool) -> None:
    """Check the norm and whether it can be debiased.

    Parameters
    ----------
    norm : {"l1", "l2", "max"}
        How gaps are averaged.
    debias : bool
        Needs l2.

    Raises
    ------
    ValueError
        If the norm is another, or cannot be debiased.
    """
    check_choice(norm, "norm", ("l1", "l2", "max"))
    if debias and norm != "l2":
        raise ValueError(f"debias: expected norm='l2' with it, got norm={norm!r}")


def check_level(level: Any) -> float:
    """Return the level of an interval as a ``float``.

    Parameters
    ----------
    level : float
        In (0, 1).

    Returns
    -------
    float
        The same number.

    Raises
    ------
    ValueError
        If it is not in the range.
    """
    return check_number(level, "level", above=0.0, below=1.0)


def _gaps(sums: BinSums) -> tuple[torch.Tensor, torch.Tensor]:
    full = sums.count > 0
    count = sums.count[full].double()
    return (sums.confidence[full] - sums.outcome[full]) / count, count
