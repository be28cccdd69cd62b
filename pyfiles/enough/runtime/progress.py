"""One progress bar for the whole book: seen by people, silent for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from enough.runtime.notebook import kernel
from enough.runtime.validation import check_integer

__all__ = ["progress"]

T = TypeVar("T")


def progress(
    iterable: Iterable[T] | None = None, total: int | None = None, label: str | None = None
) -> tqdm[T]:
    """Wrap a loop in a progress bar that only shows where a person watches.

    Parameters
    ----------
    iterable : iterable, optional
        What to loop over. Left out, call ``update()`` on the result.
    total : int, optional
        Number of steps; the default is the length of ``iterable`` where it has one.
    label : str, optional
        What the bar is called.

    Returns
    -------
    tqdm.tqdm
        Yields what ``iterable`` yields. The bar goes to the standard error stream and is
        erased when it is done.

    Raises
    ------
    ValueError
        If ``total`` is not a whole number >= 0.

    Notes
    -----
    The bar shows when the standard error stream is a terminal, and in a notebook whose
    frontend can be asked for input. Programs that execute notebooks (nbclient, nbval, the
    book's build) cannot, so a built page holds no trace of it. ``ENOUGH_QUIET=1`` silences it
    everywhere.
    """
    if total is not None:
        total = check_integer(total, "total", minimum=0)
    return tqdm(iterable, total=total, desc=label, disable=not _watched(), leave=False)


def _watched() -> bool:
    """Tell whether a person is likely to see what is written to stderr."""
    if os.environ.get("ENOUGH_QUIET", "").strip() not in ("", "0"):
        return False
    running = kernel()
    if running is None:
        return sys.stderr is not None and sys.stderr.isatty()
    if not hasattr(running, "get_parent"):  # not ipykernel: no way to tell
        return False
    request = running.get_parent(channel="shell")
    return bool(request.get("content", {}).get("allow_stdin", False))
