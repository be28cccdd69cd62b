"""The ledger: every claim of the book with its page, as the executed notebooks hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from enough.book.claims import VERDICTS, Claim

__all__ = ["Entry", "Ledger"]


@dataclass(frozen=True)
class Entry:
    """A claim and where it stands.

    Attributes
    ----------
    claim : Claim
        The judged claim.
    page : str
        The page's name, for example ``"chapters/overparameterization/random_features"``.
    anchor : str
        The claim's id on that page.
    date : str, default ""
        The day its page was executed, as ``"2026-01-31"``; empty when it is not known.
    """

    claim: Claim
    page: str
    anchor: str
    date: str = ""


class Ledger:
    """All claims, in the order of the book.

    Parameters
    ----------
    entries : iterable of Entry
        The claims with their places.
    pages : sequence of str
        Page names in the order of the table of contents.
    """

    def __init__(self, entries: Iterable[Entry], pages: Sequence[str] = ()) -> None:
        place = {page: number for number, page in enumerate(pages)}
        self.pages = pages
        self.entries = sorted(entries, key=lambda entry: place.get(entry.page, len(place)))

    def within(self, folder: str) -> Ledger:
        """Return the ledger of the pages below a folder; the whole one for an empty name."""
        inside = [entry for entry in self.entries if entry.page.startswith(folder)]
        return Ledger(inside, self.pages)

    def totals(self) -> dict[str, int]:
        """Count the claims by verdict, in the order of ``VERDICTS``."""
        counts = Counter(entry.claim.verdict for entry in self.entries)
        return {verdict: counts[verdict] for verdict in VERDICTS}

    def by_page(self) -> dict[str, list[Entry]]:
        """Group the claims by page, in the order of the book."""
        pages: dict[str, list[Entry]] = {}
        for entry in self.entries:
            pages.setdefault(entry.page, []).append(entry)
        return pages

    def not_supported(self) -> list[Entry]:
        """Return the claims that did not reproduce here or were not run."""
        return [entry for entry in self.entries if entry.claim.verdict != VERDICTS[0]]
