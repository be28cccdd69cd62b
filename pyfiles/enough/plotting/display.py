"""Where a figure goes: a notebook, a folder, a window, or nowhere."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from enough.plotting.drawn import drawn
from enough.plotting.figures import DPI, BookFigure, check_figure, description
from enough.plotting.style import style
from enough.plotting.tables import to_csv
from enough.runtime import kernel

__all__ = ["show"]

#: Pictures above this size in bytes are reduced to 256 colors.
EXACT_BYTES = 80_000


def show(fig: BookFigure) -> None:
    """Display a figure where it can be seen, and close it.

    Parameters
    ----------
    fig : BookFigure
        A figure made by `figure`.

    Raises
    ------
    ValueError
        If ``fig`` was not made by `figure`.

    Notes
    -----
    - In a notebook: one output with the picture as ``image/png``, at twice the resolution it
      is shown at, and ``Figure: <name>`` as ``text/plain``. Alt text, caption, name, size and
      data travel in the output's metadata under ``enough.figure``, as `description` returns
      them. A figure without data of its own takes along what was drawn, as `drawn` reads it,
      under ``drawn`` and ``stride``. ``columns`` keeps their order.
    - Else, with the environment variable ``ENOUGH_FIGURES`` set to a folder: the picture goes
      to ``<folder>/<name>.png`` and its data, if any, to ``<folder>/<name>.csv``.
    - Else, with an interactive backend of Matplotlib: a window.
    - Else nothing. Nothing is printed.
    """
    check_figure(fig)
    folder = os.environ.get("ENOUGH_FIGURES", "").strip()
    if kernel() is not None:
        _emit(fig)
    elif folder:
        _write(fig, Path(folder).expanduser())
    elif fig.canvas.required_interactive_framework is not None:
        plt.show()
        if matplotlib.is_interactive():  # the window stays open beside the prompt
            return
    plt.close(fig)


def _png(fig: BookFigure) -> bytes:
    """Draw a figure as PNG, opaque, with its name and alt text inside, same bytes each time."""
    drawn = io.BytesIO()
    with style():
        fig.savefig(drawn, format="png", dpi=2 * DPI, pil_kwargs={"compress_level": 1})
    picture = Image.open(drawn).convert("RGB")
    about = PngInfo()
    about.add_text("Title", fig.enough_name)
    about.add_text("Description", fig.enough_alt)
    data = _encode(picture, about)
    if len(data) > EXACT_BYTES:  # many soft edges: 256 well-chosen colors are enough for them
        data = _encode(picture.quantize(256, dither=Image.Dither.NONE), about)
    return data


def _encode(picture: Image.Image, about: PngInfo) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png", dpi=(2 * DPI, 2 * DPI), pnginfo=about)
    return file.getvalue()


def _emit(fig: BookFigure) -> None:
    from IPython.display import display

    about = description(fig)
    if fig.enough_data is None and (read := drawn(fig)) is not None:
        about["drawn"], about["stride"] = read
    if columns := about.get("data") or about.get("drawn"):
        about["columns"] = list(columns)  # notebooks sort the names of a mapping
    size = {"width": about["width"], "height": about["height"]}
    picture = base64.b64encode(_png(fig)).decode()
    display(
        {"image/png": picture, "text/plain": f"Figure: {fig.enough_name}"},
        metadata={"image/png": size, "enough.figure": about},
        raw=True,
    )


def _write(fig: BookFigure, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{fig.enough_name}.png").write_bytes(_png(fig))
    if fig.enough_data is not None:
        (folder / f"{fig.enough_name}.csv").write_text(to_csv(fig.enough_data), encoding="utf-8")
