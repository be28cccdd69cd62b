"""Colors, markers and lines that stay apart on screens, in print and to every eye."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.colors import to_hex

from enough.runtime.validation import check_integer

__all__ = ["CARD", "GRID", "INK", "LINESTYLES", "MARKERS", "PALETTE", "STYLE", "shades", "style"]

#: Background of every figure: a near-white card, opaque, so that dark text stays legible
#: whatever color the page has.
CARD = "#fbfbf9"
#: Text and axes.
INK = "#222222"
#: Grid lines, which decorate and carry no meaning.
GRID = "#e3e3de"

#: Blue, orange, green, plum, pink, olive. Every color keeps a contrast of 3 to 1 with the card
#: (WCAG 2.1, 1.4.11), the first four differ in lightness, so they survive a greyscale
#: print, and all six stay apart under simulated protanopia and deuteranopia.
PALETTE = ("#0b41a5", "#df7103", "#168065", "#4d063b", "#d865bf", "#5b5117")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINESTYLES = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1)),
    (0, (9, 2)),
)

_CYCLE = (
    cycler(color=PALETTE)
    + cycler(marker=MARKERS)
    + cycler(linestyle=LINESTYLES)
    # What Matplotlib would otherwise look up when a line is drawn, after the style is gone.
    + cycler(linewidth=[1.8] * len(PALETTE))
    + cycler(markersize=[5.0] * len(PALETTE))
)

#: The settings of Matplotlib that `style` applies.
STYLE = MappingProxyType(
    {
        "figure.facecolor": CARD,
        "savefig.facecolor": CARD,
        "axes.facecolor": CARD,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "grid.color": GRID,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": _CYCLE,
        "font.family": ["DejaVu Sans"],  # comes with Matplotlib: the same on every machine
        "font.size": 10.0,
        "legend.frameon": False,
    }
)


@contextmanager
def style() -> Iterator[None]:
    """Apply the book's style within a ``with`` block.

    `figure` does this by itself; use it around what is added to the figure later and should
    follow the style too, such as a second axis.

    Yields
    ------
    None
        The settings from before come back at the end.
    """
    with matplotlib.rc_context(dict(STYLE)):
        yield


def shades(n: int) -> list[str]:
    """Return colors for an ordered family of lines, from dark to light.

    Parameters
    ----------
    n : int
        Number of colors, one or more.

    Returns
    -------
    list of str
        Hexadecimal colors along the viridis map, as far as they keep a contrast of 3 to 1
        with the card; the lightness rises from each to the next.

    Raises
    ------
    ValueError
        If ``n`` is not a whole number >= 1.
    """
    n = check_integer(n, "n", minimum=1)
    return [to_hex(c) for c in matplotlib.colormaps["viridis"](np.linspace(0.0, 0.57, n))]
