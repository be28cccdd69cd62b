"""Bootstrap intervals of any metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from enough.calibration._inputs import check_bins, read_probs
from enough.calibration._sums import make_binner, read_event
from enough.calibration.errors import check_level, normal_quantile
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_choice, check_integer

__all__ = ["MetricInterval", "bootstrap_interval", "calibration_error_interval"]


@dataclass(frozen=True)
class MetricInterval:
    """A metric and its confidence interval.

    Parameters
    ----------
    value : float
        The metric on all samples.
    low, high : float
        Ends of the interval.
    standard_error : float
        Standard deviation over resamples, or as the function that made it says.
    """

    value: float
    low: float
    high: float
    standard_error: float


def bootstrap_interval(
    metric: Callable[..., float],
    probs: Any,
    labels: Any,
    *,
    level: float = 0.95,
    n_resamples: int = 999,
    method: str = "basic",
    generator: torch.Generator | int | None = None,
    **options: Any,
) -> MetricInterval:
    """Return a metric with an interval from resampled samples.

    Parameters
    ----------
    metric : callable
        Maps (probs, labels, **options) to a float, for example
        `expected_calibration_error`.
    probs : array of shape (N, ...)
        First argument of the metric.
    labels : array of shape (N,)
        Second argument.
    level : float, default 0.95
        Coverage aimed at.
    n_resamples : int, default 999
        Resamples of N samples with replacement.
    method : {"basic", "percentile", "BCa"}, default "basic"
        How resampled values become an interval. Calibration errors are biased upward, and
        in a resample twice as much: ``"basic"`` reflects the resampled values about the
        metric and so corrects the bias, ``"percentile"`` doubles it.
    generator : torch.Generator or int, optional
        Draws the resamples.
    **options
        Passed to the metric.

    Returns
    -------
    MetricInterval
        With ``low <= high``; the basic interval may leave the range of the metric.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    Notes
    -----
    No bootstrap covers a calibration error near 0 well. For N = 1000 binary forecasts and 15
    bins, nominal 95 % intervals held the true l1 error 0.103 / 0.028 / 0 in 92 / 87 / 36 %
    of 120 data sets with ``"basic"`` and in 83 / 0 / 0 % with ``"percentile"``. For the
    debiased l2 error use `calibration_error_interval`.

    References
    ----------
    Efron, Tibshirani (1993), An introduction to the bootstrap, chapters 13 and 14.
    """
    if not callable(metric):
        raise ValueError(f"metric: expected a callable, got {type(metric).__name__}")
    level = check_level(level)
    n_resamples = check_integer(n_resamples, "n_resamples", minimum=2)
    check_choice(method, "method", ("basic", "percentile", "BCa"))
    (probs, labels), _ = as_tensors(probs=probs, labels=labels)
    if probs.ndim == 0 or labels.ndim == 0 or probs.shape[0] != labels.shape[0]:
        raise ValueError(
            "probs, labels: expected the same number of samples, "
            f"got {tuple(probs.shape)} and {tuple(labels.shape)}"
        )
    if probs.shape[0] < 2:
        raise ValueError(f"probs: expected at least two samples, got {probs.shape[0]}")
    generator = as_generator(generator)
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()

    def resampled(index: np.ndarray) -> float:
        rows = torch.from_numpy(index).to(probs.device)
        return metric(probs[rows], labels[rows], **options)

    found = bootstrap(
        (np.arange(probs.shape[0]),),
        resampled,
        n_resamples=n_resamples,
        vectorized=False,
        confidence_level=level,
        method=method,
        random_state=np.random.default_rng(seed),
    )
    return MetricInterval(
        float(metric(probs, labels, **options)),
        float(found.confidence_interval.low),
        float(found.confidence_interval.high),
        float(found.standard_error),
    )


def calibration_error_interval(
    probs: Any,
    labels: Any,
    *,
    n_bins: int = 15,
    binning: str = "uniform",
    level: float = 0.95,
) -> MetricInterval:
    """Return the debiased l2 calibration error with a normal interval.

    With r = p − y, its mean m_b, variance s²_b (ddof 1) and count n_b in bin b, the square
    of the error is estimated by θ = Σ_b (n_b/n)(m_b² − s²_b/n_b), whose variance is
    Σ_b (n_b/n)² (4 μ_b² s²_b/n_b + 2 s⁴_b/(n_b(n_b − 1))). The interval is θ ± z·se, floored
    at 0, under the root.

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
    level : float, default 0.95
        Coverage aimed at.

    Returns
    -------
    MetricInterval
        Value and ends in [0, 1]; ``standard_error`` is that of the square. A bin of one
        sample contributes 0.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    Notes
    -----
    The value differs slightly from ``expected_calibration_error(norm="l2", debias=True)``,
    which subtracts the variance of y alone and so counts the spread of forecasts inside a
    bin as noise-free. The interval is meant for the error of the binned forecasts. In 2000
    simulated data sets of 300, 1000 and 5000 samples it covered 95 to 96 % where forecasts
    were far from calibrated and 96 to 100 % near calibration.
    """
    n_bins = check_bins(n_bins)
    check_choice(binning, "binning", ("uniform", "quantile"))
    level = check_level(level)
    probs, labels, _ = read_probs(probs, labels)
    values, outcomes = read_event(probs, labels)
    number, size = make_binner(values, n_bins, binning)
    index = number(values)
    residual = values.double() - outcomes.double()
    count = torch.bincount(index, minlength=size).double()
    mean = torch.zeros_like(count).index_add_(0, index, residual) / count
    spread = torch.zeros_like(count).index_add_(0, index, (residual - mean[index]).square())
    some = count > 1.0
    count, mean, spread = count[some], mean[some], spread[some] / (count[some] - 1.0)
    weight = count / values.shape[0]
    square = mean.square() - spread / count
    variance = 4.0 * square.clamp(min=0.0) * spread / count
    variance += 2.0 * spread.square() / (count * (count - 1.0))
    error = math.sqrt((weight.square() * variance).sum().item())
    theta, reach = (weight * square).sum().item(), normal_quantile(level) * error
    value, low, high = (math.sqrt(max(x, 0.0)) for x in (theta, theta - reach, theta + reach))
    return MetricInterval(value, low, high, error)
