"""What pages load: shared files that some page needs, and in each page only what it needs."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["lighten", "lighten_pages", "slim"]

_SCRIPT = r'\s*<script[^>]*\ssrc="[^"]*{}[^"]*"[^>]*></script>'
_ICONS = re.compile(_SCRIPT.format(r"/scripts/fontawesome\.js"))
_SEARCH = re.compile(_SCRIPT.format(r"(?:searchtools|language_data|searchindex)\.js"))
_MATHJAX = re.compile(_SCRIPT.format("/mathjax/") + r"|\s*<script>window\.MathJax = .*?</script>")
_MAP_COMMENT = re.compile(rb"\n?(?://|/\*)# sourceMappingURL=\S+(?: ?\*/)?\s*$")


def slim(folder: Path) -> None:
    """Remove source maps, translations, the icons as a script, and fonts that stand there twice.

    Parameters
    ----------
    folder : pathlib.Path
        The folder of static files of a built book; changed in place.
    """
    for path in folder.rglob("*.map"):
        path.unlink()
    for path in (folder / "scripts").glob("fontawesome.js*"):
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


def lighten(page: str, searches: bool = False) -> str:
    """Take the scripts out of a page that it has no use for.

    Parameters
    ----------
    page : str
        The page as HTML.
    searches : bool, default False
        Whether it is the page of search results, which needs the index of all words.

    Returns
    -------
    str
        Without the script of the icons, which come as a font too, without the search index, and
        without MathJax where no formula stands.
    """
    page = _ICONS.sub("", page)
    if not searches:
        page = _SEARCH.sub("", page)
    return page if 'class="math' in page else _MATHJAX.sub("", page)


def lighten_pages(folder: Path) -> None:
    """Lighten every page of a built book.

    Parameters
    ----------
    folder : pathlib.Path
        The built book; its pages are changed in place.
    """
    for path in folder.rglob("*.html"):
        if "_static" in path.relative_to(folder).parts:
            continue
        page = path.read_text(encoding="utf-8")
        lighter = lighten(page, searches=path == folder / "search.html")
        if lighter != page:
            path.write_text(lighter, encoding="utf-8", newline="\n")
