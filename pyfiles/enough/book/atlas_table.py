"""The atlas as HTML: a whole table without a script, controls that one script brings to life."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape

from enough.book.atlas import COVERED, PARTS, PLANNED, UNTESTABLE, AtlasRow, count_verdicts
from enough.book.claims import VERDICTS
from enough.book.ledger import Entry

__all__ = ["atlas_html", "atlas_totals"]

_STATUSES = (COVERED, PLANNED, UNTESTABLE)
_HEADS = ("Paper", "Part", "Claim", "Status")
_SORTABLE = ("Paper", "Part", "Status")


def atlas_totals(rows: Sequence[AtlasRow]) -> str:
    """Say how far the book has come with the catalogue.

    Parameters
    ----------
    rows : sequence of AtlasRow
        The joined catalogue.

    Returns
    -------
    str
        Two sentences with the number of papers of each status and the share of references
        whose authors and year were read in a source.
    """
    counts = Counter(row.status for row in rows)
    checked = sum(row.checked for row in rows)
    address = sum(bool(row.url) and not row.checked for row in rows)
    share = checked / len(rows) if rows else 0.0
    return (
        f"{len(rows)} papers: {counts[COVERED]} covered, {counts[PLANNED]} planned, "
        f"{counts[UNTESTABLE]} not testable here. For {checked} of them ({share:.0%}) authors and "
        f"year were read in a source, for {address} more the address alone."
    )


def atlas_html(
    rows: Sequence[AtlasRow],
    link: Callable[[str, str], str],
    title: Callable[[str], str],
) -> str:
    """Write the atlas as HTML.

    Parameters
    ----------
    rows : sequence of AtlasRow
        The joined catalogue, in the order of the table.
    link : callable
        Address of an anchor of a page: ``link(page, anchor)``.
    title : callable
        Title of a page: ``title(page)``.

    Returns
    -------
    str
        A form, hidden until a script shows it, and the table. Each row carries its part, status
        and verdicts as data attributes.
    """
    heads = "".join(
        f'<th scope="col" role="columnheader"{" data-sortable" * (head in _SORTABLE)}>{head}</th>'
        for head in _HEADS
    )
    body = "\n".join(_row(row, link, title) for row in rows)
    return (
        f"{_controls(rows)}\n"
        '<table class="atlas table" role="table" aria-label="Papers">\n'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{body}\n</tbody>\n</table>'
    )


def _controls(rows: Sequence[AtlasRow]) -> str:
    parts = list(dict.fromkeys(PARTS.values()))
    choices = (("part", "Part", parts), ("status", "Status", _STATUSES))
    selects = "".join(
        _select(name, label, options)
        for name, label, options in (*choices, ("verdict", "Verdict", VERDICTS))
    )
    return (
        '<form class="atlas-controls" role="search" aria-label="Papers" hidden>\n'
        '<label>Search <input type="search" name="words" autocomplete="off"></label>\n'
        f'{selects}<button type="button">Show all</button>\n'
        f'<p class="atlas-count" role="status" aria-live="polite">{len(rows)} of {len(rows)} '
        "papers shown</p>\n</form>"
    )


def _select(name: str, label: str, options: Sequence[str]) -> str:
    every = "".join(f"<option>{escape(option)}</option>" for option in options)
    return (
        f'<label>{label} <select name="{name}"><option value="">any</option>{every}</select>'
        "</label>\n"
    )


def _row(row: AtlasRow, link: Callable[[str, str], str], title: Callable[[str], str]) -> str:
    paper = row.paper
    verdicts = row.verdicts()
    part = list(dict.fromkeys(PARTS.values())).index(paper.book_part)
    cells = (
        _cell("Paper", _paper(row), paper.title.lower(), tag="th", more='scope="row" '),
        _cell("Part", escape(paper.book_part), f"{part}"),
        _cell("Claim", _claim(row)),
        _cell("Status", _status(row, link, title), f"{_STATUSES.index(row.status)}"),
    )
    return (
        f'<tr role="row" id="paper-{paper.id}" data-part="{escape(paper.book_part)}" '
        f'data-status="{row.status}" data-verdicts="{"|".join(verdicts)}">{"".join(cells)}</tr>'
    )


def _cell(label: str, content: str, sort: str = "", tag: str = "td", more: str = "") -> str:
    role = "rowheader" if tag == "th" else "cell"
    key = f' data-sort="{escape(sort)}"' if sort else ""
    return f'<{tag} {more}role="{role}" data-label="{label}"{key}>{content}</{tag}>'


def _paper(row: AtlasRow) -> str:
    title = escape(row.paper.title)
    if row.url:
        title = f'<a class="reference external" href="{escape(row.url)}">{title}</a>'
    if row.citation is not None:
        who = f"{row.citation.who} ({row.citation.year})"
    else:
        who = "authors and year not checked" if row.url else "reference not checked"
    return f'{title} <span class="atlas-who">{escape(who)}</span>'


def _claim(row: AtlasRow) -> str:
    paper = row.paper
    lines = [paper.claim]
    if paper.test:
        lines.append(f"Test: {paper.test}")
    if paper.reason:
        lines += [f"Not testable here: {paper.reason}", f"What can be shown: {paper.mechanism}"]
    if paper.shown:
        lines.append(f"Tested of what it builds on: {paper.shown}")
    first, *rest = (f"<p>{escape(line)}</p>" for line in lines)
    return first + "".join(line.replace("<p>", '<p class="atlas-test">') for line in rest)


def _status(row: AtlasRow, link: Callable[[str, str], str], title: Callable[[str], str]) -> str:
    status = "not testable here" if row.status == UNTESTABLE else row.status
    if row.entries:
        return status + _verdicts(row.entries, link, title)
    if row.related:
        return f"{status}<p>What it builds on:</p>{_verdicts(row.related, link, title)}"
    return status


def _verdicts(
    entries: Sequence[Entry], link: Callable[[str, str], str], title: Callable[[str], str]
) -> str:
    """Count claims by verdict, and link the first of each page."""
    counts = "".join(
        f'<li>{count} <span class="verdict verdict-{verdict.replace(" ", "-")}">{verdict}</span>'
        "</li>"
        for verdict, count in count_verdicts(entries).items()
    )
    first: dict[str, str] = {}
    for entry in entries:
        first.setdefault(entry.page, entry.anchor)
    places = "".join(
        f'<p><a class="reference internal" href="{escape(link(page, anchor))}">'
        f"{escape(title(page))}</a></p>"
        for page, anchor in first.items()
    )
    return f'<ul class="atlas-verdicts">{counts}</ul>{places}'
