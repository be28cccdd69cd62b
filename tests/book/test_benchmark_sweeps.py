"""What the page on speed and scale says of a thousand workers follows from the constants."""

from types import SimpleNamespace

import pandas as pd
import pytest
from docutils import nodes

from enough.book import benchmark_nodes as page
from enough.book import benchmarks, benchmarks_sweeps

CONSTANTS = {
    "data, a point": 100.0, "data, a large point": 200_100.0, "cores": 2.0,
    "traffic, a point": 5000.0, "coordinator, a point": 0.01,
    "coordinator, a large point": 0.03, "points of the check": 100.0,
    "length of its points": 0.1, "span with 1 worker": 10.5, "span with 2 workers": 5.0,
}  # fmt: skip


def table(**changes):
    values = CONSTANTS | changes
    return pd.DataFrame(
        [
            {"name": n, "value": v, "unit": "s", "note": ""}
            for n, v in values.items()
            if v is not None
        ]
    )


def test_the_model_takes_what_a_byte_costs():
    model = benchmarks.sweep_model(table())
    assert model.coordinator == 0.01
    assert model.per_byte == pytest.approx(0.02 / 200_000)
    # A machine so noisy that large points were faster says nothing of bytes.
    noisy = benchmarks.sweep_model(table(**{"coordinator, a large point": 0.009}))
    assert noisy.per_byte == 0.0
    without = table(**{"coordinator, a large point": None})
    assert benchmarks.sweep_model(without).per_byte == 0.0


def test_the_check_shares_the_cores_with_the_run():
    # 100 points of 0.1 s, 0.01 s of the run each: 11 s of work for two cores.
    assert benchmarks.model_check(table()) == [
        (1, 10.5, pytest.approx(10.0)), (2, 5.0, pytest.approx(5.5)),
    ]  # fmt: skip
    alone = benchmarks.model_check(table(cores=None))
    assert [model for *_, model in alone] == pytest.approx([10.0, 5.0])


def test_the_words_of_the_check_are_the_residuals():
    assert benchmarks_sweeps.check_words(table()) == (
        "The model is 4.8% below the measured time with one worker and 10.0% above the measured "
        "time with two. Two workers are 2.10 times as fast as one; the model says 1.82."
    )


def test_a_thousand_workers_are_bound_by_the_run_until_points_are_long():
    found = benchmarks_sweeps.scaled(table())
    assert [row.each for row in found] == [0.1, 1.0, 10.0, 100.0]
    assert [row.busy for row in found] == pytest.approx([10, 100, 1000, 10_000])
    # 10,000 points of 0.01 s take 100 s to hand out; ten rounds of t seconds to compute.
    assert [row.seconds for row in found] == pytest.approx([100.1, 101.0, 110.0, 1000.0])
    assert [row.efficiency for row in found] == pytest.approx(
        [0.00999, 0.0990, 0.909, 1.0], rel=1e-3
    )
    assert [row.limit for row in found] == ["handing out"] * 3 + ["computing"]


def test_the_limits_are_said_in_words():
    pace, network, size = benchmarks_sweeps.limits(table())
    assert "costs the run 10 ms, so no cluster finishes more than 100 points a second" in pace
    assert "1000 workers want points of 10 s or longer" in pace
    assert network == (
        "At that rate 0.5 MB a second pass the scheduler, 0.4% of a network of one gigabit a "
        "second."
    )
    # 0.1 microseconds a byte: 100 ms a megabyte, 110 ms a point.
    assert "costs the run 100 ms more, and that network 8 ms a hop" in size
    assert "the bound is 9.1 points a second, and points of 10 s keep 91 workers busy" in size
    assert len(benchmarks_sweeps.limits(table(**{"traffic, a point": None}))) == 2


def test_without_a_cluster_nothing_is_said():
    few = pd.DataFrame([{"name": "store, a point", "value": 1e-3, "unit": "s", "note": ""}])
    assert benchmarks_sweeps.check_words(few) == ""
    assert benchmarks_sweeps.limits(few) == []
    assert benchmarks_sweeps.scaled(few) == []


def test_the_page_shows_all_of_it(tmp_path):
    def make(heads, rows, classes):
        result = nodes.table()
        for cells in rows:
            assert len(cells) == len(heads)
            result += nodes.row("", *[nodes.entry("", *cell) for cell in cells])
        return result

    machine = SimpleNamespace(kind="cpu-tiny", sweeps=table())
    made = list(page._sweeps(machine, tmp_path, make, lambda verdict: nodes.inline("", verdict)))
    text = nodes.container("", *made).astext()
    assert "5.00 s\n\n5.50 s" in text
    assert benchmarks_sweeps.check_words(table()) in text
    assert all(words in text for words in benchmarks_sweeps.limits(table()))
    assert "10\n\n1,000\n\n110 s\n\n91%\n\nhanding out" in text
    assert (tmp_path / "sweep-efficiency-cpu-tiny.png").exists()
