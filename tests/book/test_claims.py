"""Claims: verdicts from interval and bound alone, one plain output, numbers in the metadata."""

import json
import math
import textwrap

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from enough import runtime
from enough.book import Claim, UnexpectedVerdictError, claim, judge
from enough.book.claims import METADATA_KEY, format_number

GOOD = {
    "paper": "simon2024more",
    "where": "Theorem 1",
    "measured": 0.5,
    "interval": (0.4, 0.6),
    "above": 0.0,
}


@pytest.mark.parametrize(
    ("interval", "bound", "verdict"),
    [
        ((0.1, 0.2), {"above": 0.0}, "holds"),
        ((-0.1, 0.2), {"above": 0.0}, "inconclusive"),
        ((-0.2, -0.1), {"above": 0.0}, "does not hold here"),
        ((0.0, 0.2), {"above": 0.0}, "inconclusive"),
        ((-0.1, 0.0), {"above": 0.0}, "does not hold here"),
        ((0.1, 0.2), {"below": 0.3}, "holds"),
        ((0.1, 0.4), {"below": 0.3}, "inconclusive"),
        ((0.3, 0.4), {"below": 0.3}, "does not hold here"),
        ((0.0, 1.0), {"between": (0.0, 1.0)}, "holds"),
        ((-0.1, 0.5), {"between": (0.0, 1.0)}, "inconclusive"),
        ((1.1, 1.5), {"between": (0.0, 1.0)}, "does not hold here"),
        ((-1.0, 2.0), {"between": (0.0, 1.0)}, "inconclusive"),
        ((math.inf, math.inf), {"above": 1e6}, "holds"),
        ((0.0, 0.0), {"below": 1e-12}, "holds"),
    ],
)
def test_verdict_follows_from_interval_and_bound(interval, bound, verdict):
    assert judge(*interval, **bound) == verdict


def test_terminal_prints_line_and_numbers(capsys):
    claim("More is better", unit="nats", **GOOD)
    out = capsys.readouterr().out
    assert out.startswith("holds: More is better\n")
    assert "0.5 [0.4, 0.6] nats" in out
    assert "above 0" in out


def test_an_unexpected_verdict_fails_after_the_line_is_shown(capsys):
    with pytest.raises(
        UnexpectedVerdictError, match="expected 'holds', found 'does not hold here'"
    ):
        claim("It never helps", **(GOOD | {"above": 0.9}))
    assert capsys.readouterr().out.startswith("does not hold here: It never helps")


def test_an_honest_negative_is_welcome():
    claim(
        "It never helps",
        **(GOOD | {"above": 0.9}),
        expect="does not hold here",
        because="too small",
    )
    with pytest.raises(UnexpectedVerdictError):
        claim("It helps", **GOOD, expect="does not hold here", because="a wrong guess")


def test_expectation_by_preset(monkeypatch):
    monkeypatch.delenv("ENOUGH_SEED", raising=False)
    runtime.start(preset="gpu", device="cpu")
    claim("A", **(GOOD | {"above": 0.9}), expect={"gpu": "does not hold here"}, because="known")
    runtime.start(preset="cpu", device="cpu")
    with pytest.raises(UnexpectedVerdictError):
        claim("A", **(GOOD | {"above": 0.9}), expect={"gpu": "does not hold here"}, because="known")


def test_not_run_never_fails_and_never_supports(capsys):
    claim("It scales", paper="p", where="Table 2", above=0.0, not_run="the table is absent")
    assert capsys.readouterr().out.startswith("not run: the table is absent: It scales")
    # A number computed on a stand-in neither counts nor is recorded.
    claim("It scales", **GOOD, not_run="the table is absent")
    said = capsys.readouterr().out
    assert said.startswith("not run: the table is absent: It scales")
    assert str(GOOD["measured"]) not in said


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"above": None}, "exactly one bound"),
        ({"below": 3.0}, "exactly one bound"),
        ({"measured": None}, "measured"),
        ({"measured": math.nan}, "measured"),
        ({"interval": None}, "interval"),
        ({"interval": (0.6, 0.4)}, "interval"),
        ({"interval": (math.nan, 1.0)}, "interval"),
        ({"above": None, "between": (1.0, 0.0)}, "between"),
        ({"paper": ""}, "paper"),
        ({"where": "  "}, "where"),
        ({"level": 0.0}, "level"),
        ({"expect": "maybe"}, "expect"),
        ({"expect": {"gup": "holds"}}, "expect"),
        ({"expect": "inconclusive"}, "because"),
    ],
)
def test_bad_arguments_are_named(change, name):
    with pytest.raises(ValueError, match=name):
        claim("A sentence", **(GOOD | change))


def test_metadata_survives_json_with_infinities():
    original = Claim(
        sentence="It diverges", paper="p", where="Section 2", measured=math.inf,
        interval=(math.inf, math.inf), level=0.95, bound="above", limits=(1e6,), unit="",
        verdict="holds", reason="", expected="holds", because="", control=False, preset="cpu",
        device="cpu",
    )  # fmt: skip
    again = json.loads(json.dumps(original.to_metadata(), allow_nan=False))
    assert Claim.from_metadata(again) == original


def test_anchor_is_a_valid_id():
    data = {"sentence": "At n = k, ridge 0 diverges (E → ∞)"}
    fields = dict.fromkeys(Claim.__dataclass_fields__) | data
    assert Claim(**fields).anchor == "claim-at-n-k-ridge-0-diverges-e"


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (0.12344, "0.1234"),
        (-2.5, "−2.5"),
        (3.2e-7, "3.20 × 10⁻⁷"),
        (1e6, "1.00 × 10⁶"),
        (12345.6, "12346"),
        (math.inf, "∞"),
    ],
)
def test_numbers_for_readers(x, text):
    assert format_number(x) == text


def _run(source):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in source],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    return NotebookClient(notebook, timeout=60).execute()


def test_in_a_notebook_one_plain_output_whose_numbers_are_metadata():
    executed = _run(
        [
            """
            from enough.book import claim, glue
            glue("x", 1.5)
            """,
            """
            claim("More is better", paper="p", where="Theorem 1", measured=0.5,
                  interval=(0.4, 0.6), above=0.0, unit="nats")
            """,
        ]
    )
    (output,) = executed.cells[1].outputs
    assert output.output_type == "display_data"
    assert dict(output.data) == {"text/plain": "holds: More is better"}
    data = output.metadata[METADATA_KEY]
    assert (data["measured"], data["interval"], data["unit"]) == (0.5, [0.4, 0.6], "nats")
    assert (data["bound"], data["limits"], data["preset"]) == ("above", [0.0], "cpu")


def test_an_unexpected_verdict_fails_the_notebook():
    with pytest.raises(CellExecutionError, match="UnexpectedVerdictError"):
        _run(
            [
                """
                from enough.book import claim
                claim("It helps", paper="p", where="x", measured=-1.0, interval=(-2, 0), above=0.5)
                """
            ]
        )
