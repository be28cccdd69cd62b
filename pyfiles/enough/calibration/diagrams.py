"""Reliability diagrams on axes of the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from enough.calibration.errors import ReliabilityCurve
from enough.runtime.validation import check_choice

__all__ = ["draw_reliability"]


def draw_reliability(
    ax: Any,
    curve: ReliabilityCurve,
    *,
    label: str | None = None,
    counts: str = "bars",
    **style: Any,
) -> Any:
    """Draw a reliability curve with its intervals, its counts and the diagonal.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    curve : ReliabilityCurve
        What `reliability_curve` returned.
    label : str, optional
        Name in the legend.
    counts : {"bars", "text", "none"}, default "bars"
        Show the number of samples in a bin as a bar at the foot of the axes (scaled to a
        fifth of the height), as a number at its point, or not.
    **style
        Passed to ``ax.errorbar``.

    Returns
    -------
    matplotlib.container.ErrorbarContainer
        The drawn curve.

    Raises
    ------
    ValueError
        If ``curve`` or ``counts`` is something else.
    """
    if not isinstance(curve, ReliabilityCurve):
        raise ValueError(f"curve: expected a ReliabilityCurve, got {type(curve).__name__}")
    check_choice(counts, "counts", ("bars", "text", "none"))
    x, y, low, high, count = (
        part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        for part in (curve.confidence, curve.accuracy, curve.low, curve.high, curve.count)
    )
    if not any(line.get_gid() == "diagonal" for line in ax.lines):
        ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", gid="diagonal")
    style = {"marker": "o", "capsize": 2, **style}
    # Rounding may put an end of the interval past the point by less than a unit.
    errors = np.maximum([y - low, high - y], 0.0)
    drawn = ax.errorbar(x, y, yerr=errors, label=label, **style)
    color = drawn.lines[0].get_color()
    if counts == "bars":
        ax.bar(x, 0.2 * count / count.max(), width=0.02, color=color, alpha=0.3, zorder=0)
    elif counts == "text":
        for place, height, number in zip(x, y, count, strict=True):
            ax.annotate(
                f"{number}", (place, height), (3, -9), textcoords="offset points", fontsize=7
            )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("mean confidence in the bin")
    ax.set_ylabel("share of events in the bin")
    return drawn
