"""Whether two builds of the pages from one execution are the same, but for their dates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["differences", "without_dates"]

#: What holds a date: times and dates that were measured, and the theme's "last updated".
_DATES = (
    re.compile(rb'<span class="measured" data-measured="">[^<]*</span>'),
    re.compile(rb'<p class="last-updated">.*?</p>', re.S),
)


def without_dates(content: bytes) -> bytes:
    """Remove from a page what may differ between two days.

    Parameters
    ----------
    content : bytes
        The page.

    Returns
    -------
    bytes
        The page without times that were measured and without dates.
    """
    for pattern in _DATES:
        content = pattern.sub(b"", content)
    return content


def differences(first: Path, second: Path) -> Iterator[str]:
    """Compare two built books file by file.

    Parameters
    ----------
    first, second : pathlib.Path
        Their folders.

    Yields
    ------
    str
        One sentence for each file that is in one book only, or differs after its dates are
        removed, with the first place where it does.
    """
    names = [{p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()} for root in
             (first, second)]  # fmt: skip
    for name in sorted(names[0] ^ names[1]):
        yield f"{name}: in the {'first' if name in names[0] else 'second'} build only"
    for name in sorted(names[0] & names[1]):
        ours, theirs = (without_dates((root / name).read_bytes()) for root in (first, second))
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False))
            place = next((at for at, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
            yield f"{name}: differs at byte {place}: {ours[place : place + 60]!r}"
