"""Figures that cannot be made without the words for those who do not see them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from enough.plotting.style import CARD, GRID, style
from enough.plotting.tables import table
from enough.runtime.validation import check_integer, check_number

__all__ = ["DPI", "MIN_ALT", "BookFigure", "attach", "description", "figure"]

#: Dots per inch on the page; pictures are written at twice that.
DPI = 100
#: The shortest alt text that can say what a figure shows, in characters.
MIN_ALT = 20
#: Lines with more points than this show a marker at every k-th point only.
MAX_MARKERS = 16

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class BookFigure(Figure):
    """A figure with its alt text, caption, name and data. Made by `figure`.

    Parameters
    ----------
    *args, **kwargs : object
        As for `matplotlib.figure.Figure`.

    Attributes
    ----------
    enough_alt, enough_caption, enough_name : str
        What `figure` was given.
    enough_data : dict of str to list, or None
        The table behind the figure.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.enough_alt = self.enough_caption = self.enough_name = ""
        self.enough_data: dict[str, list[Any]] | None = None

    def draw(self, renderer: Any) -> None:
        """Draw the figure, with fewer markers on the lines that have many points.

        Parameters
        ----------
        renderer : matplotlib.backend_bases.RendererBase
            What Matplotlib draws with.
        """
        for line in (line for ax in self.axes for line in ax.lines):
            points = len(line.get_xdata(orig=False))
            connected = line.get_linestyle() not in ("None", "none", " ", "")
            if connected and points > MAX_MARKERS and line.get_markevery() is None:
                line.set_markevery(-(-points // MAX_MARKERS))
        super().draw(renderer)

    def _ipython_display_(self) -> None:
        # IPython asks here first, so a figure at the end of a cell, or one that was left
        # open, comes out as `show` makes it.
        from enough.plotting.display import show

        show(self)


def figure(
    alt: str = "",
    caption: str = "",
    *,
    nrows: int = 1,
    ncols: int = 1,
    width: float | None = None,
    height: float | None = None,
    name: str | None = None,
    data: Mapping[str, Any] | None = None,
    **subplots_kw: Any,
) -> tuple[BookFigure, Any]:
    """Make a figure in the book's style, with the words that go with it.

    Parameters
    ----------
    alt : str
        What a reader who does not see the figure needs to know: the kind of plot, the axes and
        what is to be seen. Required, at least `MIN_ALT` characters, and not the caption again.
    caption : str
        The text under the figure. Required.
    nrows, ncols : int, default 1
        Number of rows and columns of axes.
    width, height : float, optional
        Size in inches, above zero, at `DPI` dots each on the page. The defaults grow with the
        number of axes: 6 by 3.8 for one, 7.5 wide for two columns, 9 for more.
    name : str, optional
        Label and file name: lower-case letters, digits and hyphens. The default is made from
        the caption.
    data : mapping from str to sequence, optional
        The numbers behind the figure, as in `table`, which the page offers as a file.
    **subplots_kw : object
        Passed to `matplotlib.figure.Figure.subplots`: ``sharex``, ``width_ratios``,
        ``subplot_kw`` and so on.

    Returns
    -------
    fig : BookFigure
        The figure, laid out by Matplotlib's constrained layout. `show` displays it.
    axes : matplotlib.axes.Axes or numpy.ndarray of Axes
        One axes, or an array of them, as `matplotlib.pyplot.subplots` returns them.

    Raises
    ------
    ValueError
        If ``alt`` or ``caption`` is missing, empty or too short, both say the same, ``name``
        is not a label, a size is not positive, or ``data`` is not a table.

    Notes
    -----
    The global settings of Matplotlib stay as they are. When no backend was chosen (by
    ``MPLBACKEND``, a ``matplotlibrc`` or ``matplotlib.use``) and nobody can see a window, the
    backend becomes Agg, which draws into memory.
    """
    alt, caption = _words(alt, "alt"), _words(caption, "caption")
    if len(alt) < MIN_ALT:
        raise ValueError(
            f"alt: expected at least {MIN_ALT} characters that say what the figure shows, "
            f"got {len(alt)}: {alt!r}"
        )
    if alt.casefold().rstrip(".") == caption.casefold().rstrip("."):
        raise ValueError("alt: expected another text than the caption, got the same")
    if name is None:
        name = _name_from(caption)
    elif not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name: expected lower-case letters, digits and hyphens, got {name!r}")
    nrows = check_integer(nrows, "nrows", minimum=1)
    ncols = check_integer(ncols, "ncols", minimum=1)
    if width is None:
        width = {1: 6.0, 2: 7.5}.get(ncols, 9.0)
    if height is None:
        height = (3.8 if ncols == 1 else 3.3) * nrows
    size = (check_number(width, "width", above=0), check_number(height, "height", above=0))
    data = None if data is None else table(data)

    _choose_backend()
    fig = plt.figure(
        FigureClass=BookFigure, figsize=size, dpi=DPI, facecolor=CARD, layout="constrained"
    )
    fig.enough_alt, fig.enough_caption, fig.enough_name = alt, caption, name
    fig.enough_data = data
    try:
        with style():
            axes = fig.subplots(nrows, ncols, **subplots_kw)
    except Exception:
        plt.close(fig)
        raise
    for ax in fig.axes:
        _dress(ax)
    return fig, axes


def attach(fig: BookFigure, columns: Mapping[str, Any]) -> None:
    """Give a figure the numbers it was drawn from.

    Parameters
    ----------
    fig : BookFigure
        A figure made by `figure`.
    columns : mapping from str to sequence
        As in `table`. They replace what the figure had.

    Raises
    ------
    ValueError
        If ``fig`` was not made by `figure`, or ``columns`` is not a table.
    """
    check_figure(fig).enough_data = table(columns)


def description(fig: BookFigure) -> dict[str, Any]:
    """Return what a figure says about itself.

    Parameters
    ----------
    fig : BookFigure
        A figure made by `figure`.

    Returns
    -------
    dict
        ``alt``, ``caption`` and ``name``; ``width`` and ``height`` in CSS pixels; ``data``
        (a dict of lists) when the figure has a table. JSON can hold all of it.

    Raises
    ------
    ValueError
        If ``fig`` was not made by `figure`.
    """
    check_figure(fig)
    width, height = (round(side * DPI) for side in fig.get_size_inches())
    words = {
        "alt": fig.enough_alt,
        "caption": fig.enough_caption,
        "name": fig.enough_name,
        "width": width,
        "height": height,
    }
    return words if fig.enough_data is None else {**words, "data": fig.enough_data}


def check_figure(fig: Any) -> BookFigure:
    """Return ``fig`` if it was made by `figure`.

    Parameters
    ----------
    fig : BookFigure
        The figure to check.

    Returns
    -------
    BookFigure
        ``fig`` itself.

    Raises
    ------
    ValueError
        If it was made in another way, and so has no alt text.
    """
    if not isinstance(fig, BookFigure):
        raise ValueError(
            f"fig: expected a figure made by enough.plotting.figure, got {type(fig).__name__}"
        )
    return fig


def _words(text: Any, name: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name}: expected a text, which every figure needs, got {text!r}")
    return " ".join(text.split())


def _name_from(caption: str) -> str:
    words = re.findall(r"[a-z0-9]+", caption.casefold())
    return "-".join(words[:8])[:60].strip("-") or "figure"


def _choose_backend() -> None:
    """Settle for Agg when no backend was chosen and no person watches a display.

    A window opened by a script that runs unattended would wait forever to be closed.
    """
    try:
        chosen = matplotlib.get_backend(auto_select=False)
    except TypeError:  # before Matplotlib 3.10
        chosen = matplotlib.rcParams._get_backend_or_none()
    if chosen is not None:
        return
    display = sys.platform == "darwin" or any(
        os.environ.get(variable) for variable in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if not (display and sys.stdout is not None and sys.stdout.isatty()):
        matplotlib.use("agg")


def _dress(ax: Axes) -> None:
    """Set what Matplotlib looks up only when a tick or a grid line is first made."""
    if ax.name == "rectilinear":
        ax.grid(True, color=GRID, linewidth=0.8)
        ax.xaxis.set_zorder(-1)  # grid lines lie under everything, images too
        ax.yaxis.set_zorder(-1)
