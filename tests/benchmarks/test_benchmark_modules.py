"""Every module of ``benchmarks/`` keeps the contract, and the tools that time keep theirs."""

import importlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
MODULES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


@pytest.fixture(scope="module", autouse=True)
def importable():
    """Benchmarks import each other as scripts of one folder do."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def tools():
    return importlib.import_module("side_by_side")


def test_there_are_modules():
    assert len(MODULES) >= 9


@pytest.mark.parametrize("module", MODULES)
def test_each_module_gives_rows_that_keep_the_contract(module, tools):
    tools.check_rows(importlib.import_module(module).rows(quick=True), module)


def test_the_curves_of_growth_keep_their_contract():
    growth = importlib.import_module("growth")
    assert all(max(c.sizes) >= 100 * min(c.sizes) for c in growth.CURVES)
    rows = growth.check_curves(growth.curves(quick=True))
    assert {row["routine"] for row in rows} == {curve.routine for curve in growth.CURVES}
    for change in ({"value": 0.0}, {"value": math.inf}, {"size": 0}):
        with pytest.raises(ValueError, match="was not measured"):
            growth.check_curves([rows[0] | change])
    with pytest.raises(ValueError, match="expected the columns"):
        growth.check_curves([{"value": 1.0}])


def test_the_constants_of_sweeps_keep_their_contract():
    sweeps = importlib.import_module("sweep_overhead")
    rows = sweeps.check_constants(sweeps.constants(quick=True))
    assert [row["name"] for row in rows][:2] == ["store, a point", "data, a point"]
    with pytest.raises(ValueError, match="was not measured"):
        sweeps.check_constants([rows[0] | {"value": math.nan}])


class Clock:
    """A clock that only the calls move."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def call(self, name, *seconds):
        left = list(seconds)

        def run():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_calls_take_turns_after_a_warm_up(tools, monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call("a", 9.0, 1.0, 2.0), "b": clock.call("b", 3.0)}
    assert tools.interleave(calls, 2) == {"a": [1.0, 2.0], "b": [3.0, 3.0]}
    assert clock.order == ["a", "b"] * 3


def test_a_slow_peer_runs_once_and_is_scaled(tools, monkeypatch):
    clock = Clock(monkeypatch)
    peers = {"slow": tools.Peer(clock.call("slow", 30.0), scale=10, note="a tenth is run")}
    (row,) = tools.compare(
        "x", clock.call("a", 2.0, 2.0, 3.0), peers, rounds=3, why="because", memory=False
    )
    assert clock.order.count("slow") == 1
    assert clock.order.count("a") == 4
    assert row["peer_s"] == row["peer_median_s"] == 300.0
    assert (row["ours_s"], row["ours_median_s"], row["rounds"]) == (2.0, 3.0, 3)
    assert (row["ratio"], row["scale"], row["spread"]) == (150.0, 10.0, 1.5)
    assert row["note"] == "a tenth is run; peer's time multiplied by 10"


def test_no_round_begins_after_the_patience(tools, monkeypatch):
    clock = Clock(monkeypatch)
    assert tools.interleave({"a": clock.call("a", 4.0)}, 9, patience=10.0) == {"a": [4.0] * 2}


def test_the_spread_is_that_of_the_wilder_side(tools):
    assert tools.as_row("x", [1.0, 1.1], "p", [2.0, 3.0])["spread"] == 1.5
    assert tools.as_row("x", [1.0, 1.6], "p", [2.0, 3.0])["spread"] == 1.6
    assert tools.as_row("x", [1.0], "p", [2.0])["spread"] is None
    assert tools.as_row("x", [1.0], "p", [2.0], ratio=7.0)["ratio"] == 7.0


def test_an_absent_peer_gives_a_row_that_says_so(tools):
    peers = {"ghost": tools.Peer(lambda: 1 / 0, package="no_such_package_here")}
    rows = tools.compare("x", lambda: None, peers, rounds=1, why="because")
    (row,) = tools.check_rows(rows, "bench_x")
    assert row["note"] == "not run: the package no_such_package_here is not installed"
    assert row["peer_s"] is row["ratio"] is None
    assert "no_such_package_here" in tools.ASKED
    assert (
        tools.absent("no_such_package.part") == "the package no_such_package.part is not installed"
    )


def test_a_peer_that_refuses_gives_a_row_that_says_why(tools):
    def refuse():
        raise RuntimeError("needs a card\nand more")

    peers = {
        "fine": tools.made(lambda: list),
        "stubborn": tools.made(refuse, note="never seen"),
        "ghost": tools.made(refuse, "no_such_package_here"),
    }
    rows = tools.compare("x", lambda: None, peers, rounds=1, why="because")
    notes = {row["peer"]: row["note"] for row in tools.check_rows(rows, "bench_x")}
    assert notes == {
        "fine": "",
        "stubborn": "not run: RuntimeError: needs a card",
        "ghost": "not run: the package no_such_package_here is not installed",
    }


def test_short_calls_are_timed_several_at_a_time(tools, monkeypatch):
    clock = Clock(monkeypatch)
    peers = {"p": tools.Peer(clock.call("p", 4.0), scale=2.0)}
    (row,) = tools.compare(
        "x", clock.call("a", 3.0), peers, rounds=2, why="because", memory=False, times=4
    )
    assert clock.order == (["a"] * 4 + ["p"] * 4) * 3
    assert (row["ours_s"], row["peer_s"], row["ratio"]) == (3.0, 8.0, 8 / 3)


def test_rows_without_peers(tools):
    (row,) = tools.check_rows(tools.compare("x", lambda: None, rounds=2), "bench_x")
    assert (row["peer"], row["peer_s"], row["ratio"], row["note"]) == ("", None, None, "")


def test_what_cannot_be_measured_says_why(tools):
    row = tools.not_measured("a page", "no browser on this machine")
    assert tools.check_rows([row], "bench_x") == [row]
    assert (row["ours_s"], row["rounds"]) == (None, 0)
    assert row["note"] == "not run: no browser on this machine"
    tools.print_rows([row])
    for change in ({"note": ""}, {"peer": "p"}, {"peer": "p", "why": "w", "note": "x"}):
        with pytest.raises(ValueError, match="was not measured"):
            tools.check_rows([row | change], "bench_x")


def test_paints_without_a_browser_or_a_book_are_not_run(tools, monkeypatch, tmp_path):
    browser = importlib.import_module("bench_book_browser")
    monkeypatch.setattr(browser, "HTML", tmp_path)
    monkeypatch.setattr(browser, "find_spec", lambda name: object())
    monkeypatch.setattr(browser.shutil, "which", lambda name: "/a/browser")
    (row,) = tools.check_rows(browser.rows(), "bench_book_browser")
    assert row["note"] == "not run: no built book: 'make book' builds it"
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    (row,) = browser.rows()
    assert row["note"] == "not run: no Chromium or Chrome on this machine"
    monkeypatch.setattr(browser, "find_spec", lambda name: None)
    (row,) = browser.rows(quick=True)
    assert row["note"] == "not run: the package playwright is not installed"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak is read on Linux")
@pytest.mark.parametrize("watched", [False, True])
def test_peak_memory_is_that_of_the_call(tools, monkeypatch, watched):
    if watched:
        write = Path.write_text
        monkeypatch.setattr(
            Path,
            "write_text",
            lambda self, *a, **k: (
                (_ for _ in ()).throw(OSError())
                if self.name == "clear_refs"
                else write(self, *a, **k)
            ),
        )

    def hold(mib):
        block = np.ones(mib * 2**17)
        time.sleep(0.05)
        return block.sum()

    for _ in range(3):  # the C library keeps what was freed, and the call counts all the same
        hold(20)
    assert tools.peak_mib(lambda: hold(20)) == pytest.approx(20, abs=4)
    assert tools.peak_mib(lambda: hold(100)) == pytest.approx(100, abs=8)
    assert tools.peak_mib(lambda: hold(2)) < 10


def test_the_kernels_say_where_they_did_not_run(tools):
    module = importlib.import_module("bench_kernels_triton")
    rows = module.rows(quick=True)
    names = {row["name"] for row in rows}
    said = {row["name"] for row in rows if row["peer"] == module.KERNEL}
    assert len(names) == 3
    assert said == (set() if module.triton_available("cuda") else names)


GOOD = {
    "name": "x", "ours_s": 1.0, "peer": "p", "peer_s": 2.0, "ratio": 2.0, "spread": 1.1,
    "rounds": 3, "ours_median_s": 1.0, "peer_median_s": 2.0, "scale": 1.0, "ours_mib": None,
    "peer_mib": 3.5, "why": "because", "note": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected a list of rows"),
        (None, "expected a list of rows, got NoneType"),
        ([{"name": "x"}], "expected the columns of README.md"),
        ([GOOD | {"more": 1}], "differs in .'more'"),
        ([GOOD | {"rounds": 2.5}], "rounds cannot be 2.5"),
        ([GOOD | {"rounds": True}], "rounds cannot be True"),
        ([GOOD | {"ours_s": None}], "was not measured"),
        ([GOOD | {"ours_s": "1"}], "ours_s cannot be '1'"),
        ([GOOD | {"ours_s": 0.0}], "was not measured"),
        ([GOOD, GOOD], "two rows are named"),
        ([GOOD | {"peer_s": None, "ratio": None}], "does not say why the peer did not run"),
        ([GOOD | {"why": ""}], "does not say what the two sides do differently"),
        ([GOOD | {"ratio": None}], "without the other"),
    ],
)
def test_rows_that_break_the_contract_are_refused(tools, rows, message):
    with pytest.raises(ValueError, match=rf"bench_x: .*{message}"):
        tools.check_rows(rows, "bench_x")


def test_the_contract_is_the_documented_one(tools):
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = text.split("| column |")[1].split("\n\n")[0]
    assert [c for c in tools.COLUMNS if f"`{c}`" not in table] == []
    assert list(tools.check_rows([dict(reversed(GOOD.items()))], "m")[0]) == list(tools.COLUMNS)
