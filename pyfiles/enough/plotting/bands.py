"""Lines with the spread of the repetitions around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from scipy.special import stdtrit

from enough.runtime.validation import as_tensors, check_choice, check_number, check_tensor

__all__ = ["Band", "band"]

_KINDS = ("t", "sem", "quantile")


class Band(NamedTuple):
    """What `band` drew, as float64 arrays of one length.

    Parameters
    ----------
    x : numpy.ndarray
        Positions.
    center : numpy.ndarray
        The line: the mean, or the median for ``kind="quantile"``.
    low, high : numpy.ndarray
        The lower and upper edge of the band.
    """

    x: np.ndarray
    center: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(
    ax: Axes,
    x: Any,
    y: Any,
    axis: int = 0,
    *,
    label: str | None = None,
    level: float = 0.95,
    kind: str = "t",
    **style: Any,
) -> Band:
    """Draw a line through repeated measurements, with a band around it.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    x : array_like of shape (points,)
        Positions, finite numbers: a tensor on any device, an array or a list.
    y : array_like of shape (repeats, points), or (points, repeats) with ``axis=1``
        Measurements, finite numbers, at least two repeats.
    axis : {0, 1, -1, -2}, default 0
        The axis of ``y`` that counts the repeats.
    label : str, optional
        Name of the line in the legend.
    level : float, default 0.95
        Coverage, between 0 and 1. Not used by ``kind="sem"``.
    kind : {"t", "sem", "quantile"}, default "t"
        ``"t"``: the mean and its Student t interval, mean ± t · s/√n with n − 1 degrees of
        freedom, for each point by itself. ``"sem"``: the mean ± one standard error s/√n.
        ``"quantile"``: the median and the central ``level`` of the repeats themselves, by
        linear interpolation; it shows their spread, not how well the mean is known.
    **style : object
        Passed to `matplotlib.axes.Axes.plot` for the line. The band takes the line's color.

    Returns
    -------
    Band
        ``x``, ``center``, ``low`` and ``high`` as drawn.

    Raises
    ------
    ValueError
        If a shape does not fit, an entry is NaN or infinite, there are fewer than two repeats,
        or ``axis``, ``level`` or ``kind`` is out of range.
    """
    x, y = _finite(x, "x", ndim=1), _finite(y, "y", ndim=2)
    check_choice(axis, "axis", (0, 1, -1, -2))
    check_choice(kind, "kind", _KINDS)
    level = check_number(level, "level", above=0)
    if level >= 1:
        raise ValueError(f"level: expected a number < 1, got {level}")
    samples = y if axis in (0, -2) else y.T
    repeats, points = samples.shape
    if points != len(x):
        wanted = "(repeats, points)" if axis in (0, -2) else "(points, repeats)"
        raise ValueError(
            f"y: expected shape {wanted} with {len(x)} points as in x and repeats along "
            f"axis {axis}, got {y.shape}"
        )
    if repeats < 2:
        raise ValueError(f"y: expected at least 2 repeats along axis {axis}, got {repeats}")

    if kind == "quantile":
        tail = (1 - level) / 2
        low, center, high = np.quantile(samples, [tail, 0.5, 1 - tail], axis=0)
    else:
        center = samples.mean(axis=0)
        reach = samples.std(axis=0, ddof=1) / np.sqrt(repeats)
        if kind == "t":
            reach = reach * stdtrit(repeats - 1, (1 + level) / 2)
        low, high = center - reach, center + reach

    (line,) = ax.plot(x, center, label=label, **style)
    ax.fill_between(
        x, low, high, color=line.get_color(), alpha=0.2, linewidth=0, zorder=line.get_zorder() - 0.1
    )
    return Band(x, center, low, high)


def _finite(value: Any, name: str, ndim: int) -> np.ndarray:
    (tensor,), _ = as_tensors(**{name: value})
    return check_tensor(tensor.detach().cpu().double(), name, ndim=ndim).numpy()
