"""The ledger as plain records, for readers who want the numbers of every claim as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from enough.book.citations import Citation
from enough.book.ledger import Ledger

__all__ = ["claim_records", "records_to_csv", "records_to_json"]


def claim_records(ledger: Ledger, citations: Mapping[str, Citation]) -> list[dict[str, Any]]:
    """Flatten the claims of a ledger.

    Parameters
    ----------
    ledger : Ledger
        The claims with their places.
    citations : mapping from str to Citation
        The bibliography by citation key.

    Returns
    -------
    list of dict
        One record a claim, in the order of the book, all with the same keys in the same order.
        Values are JSON values: an infinite number is ``"inf"`` or ``"-inf"``, what is absent is
        ``None``.
    """
    records = []
    for entry in ledger.entries:
        claim = entry.claim
        data = claim.to_metadata()
        low, high = data["interval"] or (None, None)
        limits = data["limits"]
        above = limits[0] if claim.bound != "below" else None
        below = limits[-1] if claim.bound != "above" else None
        citation = citations.get(claim.paper, Citation("", ""))
        records.append(
            {
                "verdict": claim.verdict,
                "claim": claim.sentence,
                "control": claim.control,
                "paper": claim.paper,
                "title": citation.title,
                "authors": citation.who,
                "year": citation.year,
                "address": citation.url,
                "where": claim.where,
                "measured": data["measured"],
                "low": low,
                "high": high,
                "level": claim.level,
                "unit": claim.unit,
                "bound": claim.bound,
                "bound_low": above,
                "bound_high": below,
                "preset": claim.preset,
                "device": claim.device,
                "date": entry.date or None,
                "expected": claim.expected,
                "reason": claim.reason or claim.because or None,
                "link": f"{entry.page}.html#{entry.anchor}",
            }
        )
    return records


def records_to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Write records as CSV.

    Parameters
    ----------
    records : sequence of mapping
        What `claim_records` returned.

    Returns
    -------
    str
        A header and one line a record; what is absent is an empty field.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def records_to_json(records: Sequence[Mapping[str, Any]]) -> str:
    """Write records as JSON.

    Parameters
    ----------
    records : sequence of mapping
        What `claim_records` returned.

    Returns
    -------
    str
        A list of objects, indented.
    """
    return json.dumps(list(records), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
