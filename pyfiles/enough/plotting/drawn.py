"""The numbers that a figure shows, read off what was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import (
    LineCollection,
    PathCollection,
    PolyCollection,
    QuadMesh,
)
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from enough.plotting.tables import MAX_ENTRIES, table

__all__ = ["drawn"]

_COLUMNS = ("panel", "kind", "series", "x", "y", "low", "high", "value")
#: One point of a series; what a kind does not have stays ``None``.
Point = dict[str, Any]


def drawn(fig: Figure) -> tuple[dict[str, list[Any]], int] | None:
    """Collect the points, bands, bars and fields that a figure shows.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        The figure, drawn or not.

    Returns
    -------
    table : dict of str to list
        One row a point: ``panel``, ``kind`` (``"line"``, ``"points"``, ``"band"``, ``"bars"``,
        ``"segments"`` or ``"field"``), ``series`` (its label, or a number), ``x``, ``y``, ``low``
        and ``high`` of a band or a vertical segment, ``value`` of a field. Columns that nothing
        fills are left out.
    stride : int
        1 when every point is there. A figure with more points than a table may hold gives one
        point in ``stride`` of each series.

        ``None`` in place of both when the figure shows none of these.
    """
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>" and ax.axison]
    every = [
        (_panel(ax, number, len(axes)), kind, name, points)
        for number, ax in enumerate(axes, 1)
        for kind, name, points in _series(ax)
    ]
    rows = sum(len(points) for *_, points in every)
    if not rows:
        return None
    stride = -(-rows * len(_COLUMNS) // MAX_ENTRIES)
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for panel, kind, name, points in every:
        for point in points[::stride]:
            row = {"panel": panel, "kind": kind, "series": name, **point}
            for column, values in columns.items():
                values.append(row.get(column))
    filled = {
        name: values for name, values in columns.items() if any(v is not None for v in values)
    }
    if len(axes) == 1:
        del filled["panel"]
    return table(filled), stride


def _panel(ax: Axes, number: int, count: int) -> str:
    title = ax.get_title().strip() or ax.get_title("left").strip()
    return title if title and count > 1 else str(number)


def _series(ax: Axes) -> Iterator[tuple[str, str, list[Point]]]:
    """What was drawn in data coordinates, in the order of drawing."""
    unnamed: Counter[str] = Counter()
    found = [(child, *_read(child)) for child in ax.get_children() if child.get_visible()]
    for artist, kind, points in found:
        if points and _placed_by_data(artist, ax):
            yield kind, _name(artist.get_label(), kind, unnamed), points
    for group in ax.containers:
        if isinstance(group, BarContainer):
            yield "bars", _name(group.get_label(), "bars", unnamed), _bars(group)


def _placed_by_data(artist: Any, ax: Axes) -> bool:
    """Whether the axes' scales place an artist: a line across the whole axes is decoration."""
    points = isinstance(artist, PathCollection)
    transform = artist.get_offset_transform() if points else artist.get_transform()
    return transform.contains_branch(ax.transData)


def _name(label: Any, kind: str, unnamed: Counter[str]) -> str:
    text = str(label)
    if text and not text.startswith("_"):
        return text
    unnamed[kind] += 1
    return f"{kind} {unnamed[kind]}"


def _read(artist: Any) -> tuple[str, list[Point]]:
    if isinstance(artist, Line2D):
        kind = "points" if artist.get_linestyle() in ("None", "none", " ", "") else "line"
        return kind, _points(artist.get_xdata(orig=False), artist.get_ydata(orig=False))
    if isinstance(artist, Polygon):  # the outline of a histogram
        return "line", _points(*artist.get_xy().T)
    if isinstance(artist, PathCollection):
        offsets = np.ma.getdata(artist.get_offsets())
        return "points", _points(offsets[:, 0], offsets[:, 1]) if len(offsets) else []
    if isinstance(artist, QuadMesh):
        return "field", _field_of_mesh(artist)
    if isinstance(artist, AxesImage):
        return "field", _field_of_image(artist)
    if isinstance(artist, LineCollection):
        return "segments", _segments(artist)
    if isinstance(artist, PolyCollection):
        return "band", _band(artist)
    return "", []


def _points(x: Any, y: Any) -> list[Point]:
    x, y = (np.asarray(values, dtype=float).ravel() for values in (x, y))
    return [{"x": a, "y": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def _band(artist: PolyCollection) -> list[Point]:
    """The lowest and the highest point at each place, of a band between two curves."""
    sides: dict[float, list[float]] = {}
    for path in artist.get_paths():
        for x, y in path.vertices.tolist():
            sides.setdefault(x, []).append(y)
    return [{"x": x, "low": min(y), "high": max(y)} for x, y in sorted(sides.items())]


def _segments(artist: LineCollection) -> list[Point]:
    """Vertical segments, as of error bars; others are decoration."""
    pairs = [np.asarray(segment) for segment in artist.get_segments() if len(segment) == 2]
    return [
        {"x": float(a[0]), "low": float(min(a[1], b[1])), "high": float(max(a[1], b[1]))}
        for a, b in pairs
        if a[0] == b[0]
    ]


def _bars(group: BarContainer) -> list[Point]:
    if group.orientation == "horizontal":
        return [{"x": p.get_width(), "y": p.get_y() + p.get_height() / 2} for p in group]
    return [{"x": p.get_x() + p.get_width() / 2, "y": p.get_y() + p.get_height()} for p in group]


def _field_of_mesh(artist: QuadMesh) -> list[Point]:
    corners = np.ma.getdata(artist.get_coordinates())
    centers = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    values = np.ma.filled(np.ma.asarray(artist.get_array(), dtype=float), np.nan)
    if values.size != centers.shape[0] * centers.shape[1]:
        return []  # shaded corner by corner, or in colors
    return _cells(centers[..., 0], centers[..., 1], values)


def _field_of_image(artist: AxesImage) -> list[Point]:
    values = np.ma.filled(np.ma.asarray(artist.get_array(), dtype=float), np.nan)
    if values.ndim != 2:
        return []  # a picture in colors
    left, right, bottom, top = artist.get_extent()
    rows, columns = values.shape
    if artist.origin == "upper":
        bottom, top = top, bottom
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    return _cells(*np.meshgrid(x, y), values)


def _cells(x: np.ndarray, y: np.ndarray, values: np.ndarray) -> list[Point]:
    triples = zip(x.ravel().tolist(), y.ravel().tolist(), values.ravel().tolist(), strict=True)
    return [{"x": a, "y": b, "value": c} for a, b, c in triples]
