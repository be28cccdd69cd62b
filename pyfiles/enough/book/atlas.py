"""The atlas: every paper the book has its eye on, what it claims and how far the book has come.

The catalogue file says what a paper claims, in the book's own words, and how that can be tested.
Whether a chapter covers it is never written down: it follows from the ledger.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from enough.book.citations import Citation
from enough.book.claims import VERDICTS
from enough.book.ledger import Entry, Ledger

__all__ = [
    "COVERED",
    "LATER",
    "PARTS",
    "PLANNED",
    "UNTESTABLE",
    "AtlasRow",
    "Paper",
    "count_verdicts",
    "join_atlas",
    "papers_beyond",
    "parse_atlas",
    "read_atlas",
    "same_title",
]

COVERED = "covered"
PLANNED = "planned"
UNTESTABLE = "untestable"

LATER = "later"
PARTS = {
    "overparameterization": "I: parameters",
    "calibration": "II: confidence",
    "reward-overoptimization": "III: optimization pressure",
    "quantization-compression": "IV: bits",
    "scaling-laws": "V: compute",
    "adaptation": LATER,
    "data": LATER,
    "generative": LATER,
    "in-context-meta": LATER,
    "merging-editing-unlearning": LATER,
    "optimization-hyperparameters": LATER,
    "other": LATER,
    "privacy-robustness": LATER,
    "scientific-ml": LATER,
}
"""The book's part of each part of the catalogue, in the order of the book."""

_TEXT = ("title", "part", "status", "claim")
_OPTIONAL = ("test", "reason", "mechanism", "shown", "arxiv", "doi", "read_in")
_WORDS = {
    "claim": (15, 40), "test": (8, 40), "reason": (8, 40), "mechanism": (8, 40), "shown": (8, 40)
}  # fmt: skip
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_DOI = re.compile(r"10\.\d{4,9}/\S+")


@dataclass(frozen=True)
class Paper:
    """One paper of the catalogue.

    Attributes
    ----------
    id : int
        Its number in the catalogue.
    title : str
        Its title.
    part : str
        A key of ``PARTS``.
    status : str
        ``"planned"`` or ``"untestable"``; that a chapter covers it follows from the ledger.
    claim : str
        What it claims, in one or two sentences.
    test : str
        How the claim can be tested here; empty for an untestable one.
    reason : str
        Why it cannot be tested here; empty for a planned one.
    mechanism : str
        What could be shown instead; empty for a planned one.
    shown : str
        What the book tests of the work it builds on; empty where ``builds_on`` is.
    builds_on : tuple of (str, str)
        Claims about other papers that bear on this one, as citation key and place in that
        paper. They never make this paper a covered one.
    keys : tuple of str
        Citation keys of the paper where the bibliography has it under another title.
    arxiv, doi : str
        Its address, only where it was read in a source.
    read_in : str
        The source in which the address, or a corrected title, was read.
    """

    id: int
    title: str
    part: str
    status: str
    claim: str
    test: str = ""
    reason: str = ""
    mechanism: str = ""
    shown: str = ""
    builds_on: tuple[tuple[str, str], ...] = ()
    keys: tuple[str, ...] = ()
    arxiv: str = ""
    doi: str = ""
    read_in: str = ""

    @property
    def book_part(self) -> str:
        """The part of the book it belongs to, or ``"later"``."""
        return PARTS[self.part]

    @property
    def url(self) -> str:
        """The address by its DOI or arXiv number; empty when none was read."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True)
class AtlasRow:
    """A paper with what the bibliography and the ledger say about it.

    Attributes
    ----------
    paper : Paper
        The paper.
    citation : Citation or None
        Authors and year; ``None`` when the bibliography lacks the paper.
    entries : tuple of Entry
        The claims that cite it, in the order of the book.
    related : tuple of Entry
        The claims about what it builds on, in the order of the book.
    """

    paper: Paper
    citation: Citation | None
    entries: tuple[Entry, ...]
    related: tuple[Entry, ...] = ()

    @property
    def status(self) -> str:
        """``"covered"`` when a claim cites the paper, else what the catalogue says."""
        return COVERED if self.entries else self.paper.status

    @property
    def checked(self) -> bool:
        """Whether authors and year were read in a source."""
        return self.citation is not None

    @property
    def url(self) -> str:
        """The paper's address; empty when none was read."""
        return (self.citation.url if self.citation else "") or self.paper.url

    def verdicts(self) -> dict[str, int]:
        """Count its claims by verdict, verdicts without a claim left out."""
        return count_verdicts(self.entries)


def count_verdicts(entries: Iterable[Entry]) -> dict[str, int]:
    """Count claims by verdict.

    Parameters
    ----------
    entries : iterable of Entry
        Claims of the ledger.

    Returns
    -------
    dict from str to int
        In the order of ``VERDICTS``, verdicts without a claim left out.
    """
    counts = Counter(entry.claim.verdict for entry in entries)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def papers_beyond(rows: Iterable[AtlasRow], ledger: Ledger) -> dict[str, tuple[Entry, ...]]:
    """Find the papers that claims cite and the catalogue lacks.

    Parameters
    ----------
    rows : iterable of AtlasRow
        The joined catalogue.
    ledger : Ledger
        The claims of the book.

    Returns
    -------
    dict from str to tuple of Entry
        From citation key to the claims that cite it, in the order of the book.
    """
    listed = {entry.claim.paper for row in rows for entry in row.entries}
    found: dict[str, tuple[Entry, ...]] = {}
    for entry in ledger.entries:
        if entry.claim.paper not in listed:
            found[entry.claim.paper] = (*found.get(entry.claim.paper, ()), entry)
    return found


def same_title(title: str) -> str:
    """Reduce a title to its letters and digits, so that two spellings of it compare equal.

    Parameters
    ----------
    title : str
        A title, plain or with LaTeX braces and accents.

    Returns
    -------
    str
        Lower-case ASCII letters and digits.
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain.lower())


def read_atlas(path: Path | None = None) -> list[Paper]:
    """Read the catalogue and check it.

    Parameters
    ----------
    path : pathlib.Path, optional
        A JSON file; the book's own catalogue by default.

    Returns
    -------
    list of Paper
        In the order of the file.

    Raises
    ------
    ValueError
        If a record breaks the schema: the message names the record and the field.
    """
    source = path or resources.files("enough.book") / "atlas.json"
    return parse_atlas(json.loads(source.read_text(encoding="utf-8")))


def parse_atlas(records: Sequence[Mapping[str, Any]]) -> list[Paper]:
    """Check the records of a catalogue.

    Parameters
    ----------
    records : sequence of mapping
        The records as JSON holds them.

    Returns
    -------
    list of Paper
        In the given order.

    Raises
    ------
    ValueError
        If a record breaks the schema, or two records share a number or a title.
    """
    papers = [_parse(record) for record in records]
    for name, values in (
        ("id", [paper.id for paper in papers]),
        ("title", [same_title(paper.title) for paper in papers]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"{name}: expected each once, got {twice[0]!r} twice")
    return papers


def join_atlas(
    papers: Iterable[Paper],
    ledger: Ledger,
    citations: Mapping[str, Citation],
) -> list[AtlasRow]:
    """Join the catalogue with the bibliography and the ledger.

    A paper is the bibliography's entry of the same title, or those its record names.

    Parameters
    ----------
    papers : iterable of Paper
        The catalogue.
    ledger : Ledger
        The claims of the book.
    citations : mapping from str to Citation
        The bibliography by citation key.

    Returns
    -------
    list of AtlasRow
        Part by part in the order of ``PARTS``, then in the order of the catalogue.

    Raises
    ------
    ValueError
        If a record names a citation key that the bibliography lacks.
    """
    by_title: dict[str, list[str]] = {}
    for key, citation in citations.items():
        by_title.setdefault(same_title(citation.title), []).append(key)
    by_key: dict[str, list[Entry]] = {}
    for entry in ledger.entries:
        by_key.setdefault(entry.claim.paper, []).append(entry)
    rows = []
    for paper in papers:
        others = [key for key, _ in paper.builds_on]
        for name, named in (("keys", paper.keys), ("builds_on", others)):
            for key in named:
                if key not in citations:
                    raise ValueError(
                        f"{name} of paper {paper.id}: {key!r} is not in the bibliography"
                    )
        keys = list(dict.fromkeys([*paper.keys, *by_title.get(same_title(paper.title), [])]))
        entries = tuple(entry for key in keys for entry in by_key.get(key, []))
        related = tuple(
            entry
            for key, where in paper.builds_on
            for entry in by_key.get(key, [])
            if entry.claim.where == where
        )
        rows.append(AtlasRow(paper, citations[keys[0]] if keys else None, entries, related))
    order = list(PARTS)
    return sorted(rows, key=lambda row: order.index(row.paper.part))


def _parse(record: Mapping[str, Any]) -> Paper:
    number = record.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ValueError(f"id: expected a positive integer, got {number!r}")
    where = f"of paper {number}"
    unknown = sorted(set(record) - {"id", "keys", "builds_on", *_TEXT, *_OPTIONAL})
    if unknown:
        raise ValueError(f"{unknown[0]} {where}: expected no such field")
    for name in _TEXT:
        if name not in record:
            raise ValueError(f"{name} {where}: expected a text, got nothing")
    for name in (*_TEXT, *_OPTIONAL):
        text = record.get(name)
        if name in record and not (isinstance(text, str) and text.strip() == text != ""):
            raise ValueError(f"{name} {where}: expected a text, got {text!r}")
    keys = record.get("keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
        raise ValueError(f"keys {where}: expected a list of citation keys, got {keys!r}")
    builds_on = record.get("builds_on", {})
    if not isinstance(builds_on, dict) or not all(
        isinstance(place, str) and place for pair in builds_on.items() for place in pair
    ):
        raise ValueError(f"builds_on {where}: expected places by citation key, got {builds_on!r}")
    if bool(builds_on) != ("shown" in record):
        raise ValueError(f"shown {where}: expected a sentence with builds_on, and only there")
    paper = Paper(**{**record, "keys": tuple(keys), "builds_on": tuple(builds_on.items())})
    _check_choices(paper, where)
    _check_sentences(paper, where)
    _check_address(paper, where)
    return paper


def _check_choices(paper: Paper, where: str) -> None:
    if paper.part not in PARTS:
        raise ValueError(f"part {where}: expected one of {', '.join(PARTS)}, got {paper.part!r}")
    if paper.status not in (PLANNED, UNTESTABLE):
        raise ValueError(
            f"status {where}: expected {PLANNED!r} or {UNTESTABLE!r}, got {paper.status!r}"
        )
    wanted = ("test",) if paper.status == PLANNED else ("reason", "mechanism")
    for name in ("test", "reason", "mechanism"):
        if (name in wanted) != bool(getattr(paper, name)):
            expected = "a sentence" if name in wanted else "none"
            raise ValueError(f"{name} {where}: expected {expected} with status {paper.status!r}")


def _check_sentences(paper: Paper, where: str) -> None:
    for name, (fewest, most) in _WORDS.items():
        text = getattr(paper, name)
        if not text:
            continue
        count = len(text.split())
        if not fewest <= count <= most:
            raise ValueError(f"{name} {where}: expected {fewest} to {most} words, got {count}")
        if not (text[0].isupper() and text.endswith(".")):
            raise ValueError(f"{name} {where}: expected a sentence, got {text!r}")


def _check_address(paper: Paper, where: str) -> None:
    if paper.arxiv and not _ARXIV.fullmatch(paper.arxiv):
        raise ValueError(f"arxiv {where}: expected a number like 2311.14646, got {paper.arxiv!r}")
    if paper.doi and not _DOI.fullmatch(paper.doi):
        raise ValueError(f"doi {where}: expected a DOI like 10.1000/182, got {paper.doi!r}")
    if (paper.arxiv or paper.doi) and not paper.read_in:
        raise ValueError(f"read_in {where}: expected the source of its address, got nothing")
