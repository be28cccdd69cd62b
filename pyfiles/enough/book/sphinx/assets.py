"""Files that all pages share, without what no page loads."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["slim"]

_MAP_COMMENT = re.compile(rb"\n?(?://|/\*)# sourceMappingURL=\S+(?: ?\*/)?\s*$")


def slim(folder: Path) -> None:
    """Remove source maps, translations of the theme, and fonts that stand there twice.

    Parameters
    ----------
    folder : pathlib.Path
        The folder of static files of a built book; changed in place.
    """
    for path in folder.rglob("*.map"):
        path.unlink()
    for path in (folder / "locales").rglob("*.*"):
        path.unlink()
    for path in folder.rglob("*.ttf"):
        if path.with_suffix(".woff2").exists():  # every browser of the last ten years reads it
            path.unlink()
    for path in [*folder.rglob("*.js"), *folder.rglob("*.css")]:
        text = path.read_bytes()
        kept = _MAP_COMMENT.sub(b"\n", text)
        if kept != text:
            path.write_bytes(kept)
