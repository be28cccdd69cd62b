"""How fast a run converges: power laws, exponential rates, and where to look."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "exponential_rate",
    "log_spaced_iterations",
    "power_law_slope",
]


def log_spaced_iterations(n_steps: int, per_decade: int = 20) -> list[int]:
    """List the iterations at which a long run is looked at.

    Parameters
    ----------
    n_steps : int
        The last iteration.
    per_decade : int, default 20
        Points for each factor of ten.

    Returns
    -------
    list of int
        Increasing, 0 and ``n_steps`` among them.

    Raises
    ------
    ValueError
        If an argument is not a whole number in its range.
    """
    n_steps = check_integer(n_steps, "n_steps", minimum=1)
    per_decade = check_integer(per_decade, "per_decade", minimum=1)
    points = math.ceil(per_decade * math.log10(n_steps)) + 1
    return [0, *np.unique(np.geomspace(1, n_steps, points).round().astype(int)).tolist()]


def power_law_slope(iterations: Any, values: Any, start: float, stop: float) -> Any:
    """Fit the exponent of a power law: the slope of log value on log iteration.

    Parameters
    ----------
    iterations : array of shape (points,)
        Increasing iterations.
    values : array of shape (..., points)
        Positive values, such as squared errors.
    start, stop : float
        The first and last iteration that count, ``0 < start < stop``.

    Returns
    -------
    array of shape (...)
        Least-squares slopes.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not positive, or fewer than two iterations lie between.
    """
    (x, y), restore = as_tensors(iterations=iterations, values=values)
    x, y = _check_curve(x, y)
    start = check_number(start, "start", above=0.0)
    stop = check_number(stop, "stop", above=start)
    inside = (x >= start) & (x <= stop)
    if int(inside.sum()) < 2:
        raise ValueError(
            f"iterations: expected at least two between {start} and {stop}, got {int(inside.sum())}"
        )
    if bool((y[..., inside] <= 0).any()):
        raise ValueError("values: expected positive values between start and stop, got 0 or less")
    weights = torch.ones_like(y[..., inside])
    return restore(_slope(x[inside].log(), y[..., inside].log(), weights))


def exponential_rate(iterations: Any, values: Any, low: float, high: float) -> Any:
    r"""Fit the rate of exponential decay: minus the slope of log value on the iteration.

    Parameters
    ----------
    iterations : array of shape (points,)
        Increasing iterations.
    values : array of shape (..., points)
        Values, such as squared errors.
    low, high : float
        Points count from the last value above ``high`` until the first value below ``low``.

    Returns
    -------
    array of shape (...)
        Rates :math:`c` in :math:`e^{-ct}`, in nats a step.

    Raises
    ------
    ValueError
        If shapes do not fit, or a curve has fewer than two points between ``low`` and ``high``.
    """
    (x, y), restore = as_tensors(iterations=iterations, values=values)
    x, y = _check_curve(x, y)
    low = check_number(low, "low", above=0.0)
    high = check_number(high, "high", above=low)
    before = (y > high).flip(-1).cummax(-1).values.flip(-1)
    after = (y < low).cummax(-1).values
    weights = (~before & ~after).to(y.dtype)
    fewest = int(weights.sum(-1).min())
    if fewest < 2:
        raise ValueError(
            f"values: expected at least two points of every curve between {low:g} and {high:g}, "
            f"got {fewest}"
        )
    logs = torch.where(weights > 0, y, 1.0).log()
    return restore(-_slope(x, logs, weights))


def _check_curve(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = check_tensor(x.detach().double(), "iterations", ndim=1)
    y = check_tensor(y.detach().double(), "values")
    if y.ndim < 1 or y.shape[-1] != len(x):
        raise ValueError(f"values: expected shape (..., {len(x)}), got {tuple(y.shape)}")
    return x, y


def _slope(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    dx = x - (weights * x).sum(-1, keepdim=True) / total
    dy = y - (weights * y).sum(-1, keepdim=True) / total
    return (weights * dx * dy).sum(-1) / (weights * dx.square()).sum(-1)
