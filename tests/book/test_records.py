"""The ledger as CSV and JSON."""

import csv
import io
import json
import math
from dataclasses import replace

from enough.book.citations import Citation
from enough.book.claims import Claim
from enough.book.ledger import Entry, Ledger
from enough.book.records import claim_records, records_to_csv, records_to_json

CLAIM = Claim(
    sentence='It "holds", always', paper="p", where="Theorem 1", measured=1.5,
    interval=(0.5, math.inf), level=0.9, bound="above", limits=(0.25,), unit="nats",
    verdict="holds", reason="", expected="holds", because="", control=True, preset="gpu",
    device="cuda",
)  # fmt: skip
ABSENT = replace(
    CLAIM, sentence="Not run", paper="q", measured=None, interval=None, bound="between",
    limits=(-1.0, 1.0), verdict="not run", reason="no table", control=False,
)  # fmt: skip
BELOW = replace(
    CLAIM, sentence="It fails", bound="below", verdict="does not hold here", because="why"
)
LEDGER = Ledger(
    [
        Entry(ABSENT, "chapters/b/y", "two"),
        Entry(CLAIM, "chapters/a/x", "one", "2026-01-31"),
        Entry(BELOW, "chapters/b/y", "three"),
    ],
    ["chapters/a/x", "chapters/b/y"],
)
CITATIONS = {"p": Citation("Simon et al.", "2023", "https://a.b/c", "A title")}
RECORDS = claim_records(LEDGER, CITATIONS)


def test_a_record_carries_everything_a_row_shows():
    assert RECORDS[0] == {
        "verdict": "holds", "claim": 'It "holds", always', "control": True, "paper": "p",
        "title": "A title", "authors": "Simon et al.", "year": "2023", "address": "https://a.b/c",
        "where": "Theorem 1", "measured": 1.5, "low": 0.5, "high": "inf", "level": 0.9,
        "unit": "nats", "bound": "above", "bound_low": 0.25, "bound_high": None, "preset": "gpu",
        "device": "cuda", "date": "2026-01-31", "expected": "holds", "reason": None,
        "link": "chapters/a/x.html#one",
    }  # fmt: skip


def test_reasons_bounds_and_gaps():
    absent, below = RECORDS[1:]
    assert (absent["measured"], absent["low"], absent["high"]) == (None, None, None)
    assert (absent["bound_low"], absent["bound_high"], absent["reason"]) == (-1.0, 1.0, "no table")
    assert (absent["date"], absent["authors"]) == (None, "")
    assert (below["bound_low"], below["bound_high"], below["reason"]) == (None, 0.25, "why")
    assert [record["link"] for record in RECORDS[1:]] == [
        "chapters/b/y.html#two",
        "chapters/b/y.html#three",
    ]


def test_both_files_read_back():
    assert json.loads(records_to_json(RECORDS)) == RECORDS
    rows = list(csv.DictReader(io.StringIO(records_to_csv(RECORDS))))
    assert [list(row) for row in rows] == [list(RECORDS[0])] * 3
    for row, record in zip(rows, RECORDS, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in record.items()}


def test_the_order_is_the_book_s_and_the_text_is_the_same_each_time():
    again = claim_records(Ledger(reversed(LEDGER.entries), LEDGER.pages), CITATIONS)
    assert {r["claim"] for r in again} == {r["claim"] for r in RECORDS}
    assert [r["link"].split("#")[0] for r in again] == [r["link"].split("#")[0] for r in RECORDS]
    assert records_to_csv(claim_records(LEDGER, CITATIONS)) == records_to_csv(RECORDS)
    assert records_to_json(claim_records(LEDGER, CITATIONS)) == records_to_json(RECORDS)


def test_an_empty_ledger_gives_empty_files():
    assert records_to_json(claim_records(Ledger([]), {})) == "[]\n"
    assert records_to_csv([]).strip() == ""
