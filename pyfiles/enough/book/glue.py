"""Numbers that a run produces, for the prose of the page: harmless outside a build."""

from __future__ import annotations

from typing import Any

from enough.runtime import kernel

__all__ = ["glue"]


def glue(name: str, value: Any) -> None:
    """Give the page's prose a number that this run produced.

    Parameters
    ----------
    name : str
        The key that the prose refers to, for example ``{glue:text}`key:.2f```.
    value : object
        A number or a short text; a zero-dimensional tensor or array becomes a float.

    Raises
    ------
    ValueError
        If ``name`` is empty.

    Notes
    -----
    Where the page-building tools are absent (Colab, a plain script) nothing happens.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected a non-empty string, got {name!r}")
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if kernel() is None:
        return
    try:
        from myst_nb import glue as book_glue
    except ImportError:
        return
    book_glue(name, value, display=False)
