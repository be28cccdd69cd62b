"""Intervals of the plainest statistics that chapters state in claims."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from enough.runtime.validation import check_number

__all__ = ["mean_interval"]


def mean_interval(sample: Any, level: float = 0.95) -> tuple[float, tuple[float, float]]:
    """Return the mean of a sample and its Student-t interval.

    Parameters
    ----------
    sample : array_like, shape (n,)
        Independent values, one a seed, a draw or a paired difference; at least two.
    level : float, default 0.95
        Coverage of the interval, in (0, 1).

    Returns
    -------
    mean : float
        The mean.
    interval : tuple of float
        Lower and upper end.

    Raises
    ------
    ValueError
        If ``sample`` is not a vector of at least two finite numbers, or ``level`` is not
        strictly between 0 and 1.

    Examples
    --------
    >>> mean, (low, high) = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (2.0, -0.484, 4.484)
    """
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"sample: expected a vector of at least two numbers, got the shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("sample: expected finite numbers, got NaN or infinity")
    level = check_number(level, "level", above=0, below=1)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values))
    return mean, (mean - half, mean + half)
