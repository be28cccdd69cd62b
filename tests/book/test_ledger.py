"""The ledger: claims in reading order, counted by verdict."""

from dataclasses import replace

from enough.book.claims import VERDICTS, Claim
from enough.book.ledger import Entry, Ledger

CLAIM = Claim(
    sentence="It holds", paper="p", where="x", measured=1.0, interval=(0.5, 1.5), level=0.95,
    bound="above", limits=(0.0,), unit="", verdict="holds", reason="", expected="holds",
    because="", control=False, preset="cpu", device="cpu",
)  # fmt: skip
FAILS = replace(CLAIM, sentence="It fails", verdict="does not hold here")
ABSENT = replace(CLAIM, sentence="It is absent", verdict="not run", measured=None, interval=None)

LEDGER = Ledger(
    [
        Entry(FAILS, "chapters/b/y", "1"),
        Entry(CLAIM, "chapters/a/x", "2"),
        Entry(ABSENT, "chapters/b/y", "3"),
    ],
    ["chapters/a/x", "chapters/b/y"],
)


def test_reading_order():
    assert [e.claim.sentence for e in LEDGER.entries] == ["It holds", "It fails", "It is absent"]
    assert list(LEDGER.by_page()) == ["chapters/a/x", "chapters/b/y"]


def test_totals_name_every_verdict():
    assert LEDGER.totals() == dict(zip(VERDICTS, (1, 1, 0, 1), strict=True))
    assert LEDGER.within("chapters/b").totals()["holds"] == 0
    assert LEDGER.within("").totals() == LEDGER.totals()


def test_what_is_not_supported():
    assert [e.claim.sentence for e in LEDGER.not_supported()] == ["It fails", "It is absent"]
