"""One style for every figure: legible to all, with alt text, caption and data."""

from enough.plotting.bands import Band, band
from enough.plotting.display import show
from enough.plotting.drawn import drawn
from enough.plotting.figures import BookFigure, attach, description, figure
from enough.plotting.style import (
    CARD,
    GRID,
    INK,
    LINESTYLES,
    MARKERS,
    PALETTE,
    STYLE,
    shades,
    style,
)
from enough.plotting.tables import table, to_csv

__all__ = [
    "CARD",
    "GRID",
    "INK",
    "LINESTYLES",
    "MARKERS",
    "PALETTE",
    "STYLE",
    "Band",
    "BookFigure",
    "attach",
    "band",
    "description",
    "drawn",
    "figure",
    "shades",
    "show",
    "style",
    "table",
    "to_csv",
]
