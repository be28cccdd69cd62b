"""The page on speed and scale: every word and number comes from the recorded tables."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docutils import nodes

from enough.book import benchmark_nodes as page
from enough.book import benchmarks, benchmarks_figures
from enough.cli import benchmarks as command
from enough.runtime.recording import RecordingError

ROOT = Path(__file__).resolve().parents[2]


def row(name, peer="", ours=1.0, theirs=None, spread=1.05, why="one differs", note="", **more):
    return {
        "name": name, "ours_s": ours, "peer": peer, "peer_s": theirs,
        "ratio": None if theirs is None else theirs / ours, "spread": spread, "rounds": 3,
        "ours_median_s": ours, "peer_median_s": theirs, "scale": 1.0, "ours_mib": 12.0,
        "peer_mib": None, "why": why if peer else "", "note": note, **more,
    }  # fmt: skip


def curve(routine, quantity, power, low, high, noise=0.0):
    draw = np.random.default_rng(0)
    sizes = [10 ** (2 + i / 4) for i in range(9)]
    return [
        {
            "routine": routine, "quantity": quantity, "size_name": "rows", "size": round(size),
            "value": 1e-4 * round(size) ** power * math.exp(noise * draw.standard_normal()),
            "low": low, "high": high, "theory": "it is so", "rounds": 5,
        }
        for size in sizes
    ]  # fmt: skip


FOUND = {
    "bench_a_fast": [
        row("quick thing", "slowpoke", 1.0, 4.0),
        row("other thing", "slowpoke", 1.0, 12.4, spread=1.3),
        row("tie", "slowpoke", 1.0, 1.05),
        row("slow thing", "champion", 0.2, 0.05, why="it has another way"),
        row("alone"),
        row("thing", "ghost", note="not run: the package ghost is not installed"),
        row("a paint", note="not run: no browser") | {"ours_s": None, "ours_median_s": None},
    ],
    "growth": [
        *curve("linear", "seconds", 1.0, 0.8, 1.2),
        *curve("square", "seconds", 2.0, 0.8, 1.2),
        *curve("wild", "MiB", 1.0, 0.8, 1.2, noise=1.0),
    ],
    "sweep_overhead": [
        {"name": n, "value": v, "unit": "s", "note": ""}
        for n, v in {
            "coordinator, a point": 0.01, "points of the check": 100.0,
            "length of its points": 0.1, "span with 1 worker": 10.5, "span with 2 workers": 5.4,
        }.items()
    ],
}  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A run of ``enough bench`` whose measurements are made up."""

    def measured(root, python, module, quick, seconds):
        if module not in FOUND:
            return None, "it failed with status 1"
        return {"rows": FOUND[module], "threads": 2, "versions": {"peer": "1.2"}}, ""

    monkeypatch.setattr(command, "_run", measured)
    modules = [*FOUND, "bench_broken"]
    tables = {"growth": "growth", "sweep_overhead": "sweeps"}
    monkeypatch.setattr(
        command,
        "parts",
        lambda *a: [command.Part(m, tables.get(m, "comparisons")) for m in modules],
    )
    folder = tmp_path / "results"
    assert command.run_benchmarks(ROOT, results=folder) == 1
    return folder


@pytest.fixture
def machine(results):
    (machine,) = benchmarks.read_benchmarks(results)
    return machine


def test_the_run_writes_tables_with_provenance(results, machine):
    (path,) = (results / "benchmarks").glob("*.csv")
    assert path.stem == machine.kind
    assert re.fullmatch(r"(cpu|gpu)-[a-z0-9-]+", machine.kind)
    known = json.loads(path.with_suffix(".json").read_text())
    assert known["command"] == "make bench"
    assert known["threads"] == dict.fromkeys(FOUND, 2)
    assert known["packages"] == {"peer": "1.2"}
    assert known["left_out"] == {"bench_broken": "it failed with status 1"}
    assert known["cores"] >= 1
    assert set(known["module_seconds"]) == {*FOUND, "bench_broken"}
    table = machine.comparisons
    assert table["noisy"].tolist() == [False, True] + [False] * 5
    assert table["threads"].tolist() == [2] * 7
    assert table["module"].unique().tolist() == ["bench_a_fast"]
    assert len(machine.growth) == 27
    assert len(machine.sweeps) == 5


def test_an_altered_table_is_refused(results):
    (path,) = (results / "benchmarks").glob("*.csv")
    path.write_text(path.read_text().replace("12.4", "99.4"))
    with pytest.raises(RecordingError, match="was altered"):
        benchmarks.read_benchmarks(results)


def test_the_words_follow_the_rows(machine):
    words = {peer: text for _, peer, text in benchmarks.summaries(machine.comparisons)}
    assert words == {
        "slowpoke": "We are ahead in 2 rows (4.0 to 12 times as fast), even in 1 row. "
        "The difference: one differs. Marked noisy: 1 row.",
        "champion": "We are behind in 1 row (the peer 4.0 times). "
        "The difference: it has another way.",
    }
    assert benchmarks.behind(machine.comparisons)["name"].tolist() == ["slow thing"]
    assert benchmarks.not_run(machine.comparisons) == {
        "the package ghost is not installed": ["ghost"],
        "no browser": ["a paint"],
    }
    assert benchmarks.left_out(machine) == {"bench_broken": "it failed with status 1"}


def test_exponents_are_those_of_least_squares():
    x = np.geomspace(10, 1000, 8)
    slope, low, high = benchmarks.fitted_exponent(x, 3 * x**1.7)
    assert (slope, low, high) == pytest.approx((1.7,) * 3, abs=1e-9)
    draw = np.random.default_rng(1)
    y = x * np.exp(0.1 * draw.standard_normal(8))
    slope, low, high = benchmarks.fitted_exponent(x, y)
    coefficients, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert slope == pytest.approx(coefficients[0])
    # Student's t quantile for 6 degrees of freedom, from tables.
    assert (high - low) / 2 == pytest.approx(2.4469 * covariance[0, 0] ** 0.5, rel=1e-3)


def test_the_interval_of_an_exponent_covers_the_truth():
    x = np.geomspace(1, 100, 9)
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        _, low, high = benchmarks.fitted_exponent(x, x * np.exp(0.2 * draw.standard_normal(9)))
        hits += low <= 1 <= high
    assert 0.91 < hits / 400 < 0.985


@pytest.mark.parametrize(
    ("sizes", "values"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 2, 3], [1, 0, 2])]
)
def test_curves_without_an_exponent_are_refused(sizes, values):
    with pytest.raises(ValueError, match="expected"):
        benchmarks.fitted_exponent(sizes, values)


def test_curves_are_judged_by_their_bounds(machine):
    found = {line.routine: line for line in benchmarks.growth(machine.growth)}
    assert found["linear"].verdict == "holds"
    assert found["square"].verdict == "does not hold here"
    assert found["wild"].verdict == "inconclusive"
    assert found["square"].exponent == pytest.approx(2.0)
    assert (found["linear"].smallest, found["linear"].largest) == (100, 10_000)


def test_the_model_takes_the_measured_constants(machine):
    assert benchmarks.sweep_model(machine.sweeps).most_workers(1.0) == pytest.approx(100.0)
    assert benchmarks.model_check(machine.sweeps) == [
        (1, 10.5, pytest.approx(10.0)), (2, 5.4, pytest.approx(5.0))
    ]  # fmt: skip
    assert benchmarks.sweep_model(machine.sweeps.iloc[1:]) is None
    assert benchmarks.sweep_model(pd.DataFrame()) is None


def make_table(heads, rows, classes):
    table = nodes.table(classes=classes)
    for cells in rows:
        assert len(cells) == len(heads)
        table += nodes.row("", *[nodes.entry("", *cell) for cell in cells])
    return table


def build(part, folder, results):
    made = page.benchmark_nodes(
        part, folder, make_table, lambda verdict: nodes.inline("", verdict), results
    )
    return nodes.container("", *made)


def test_the_page_shows_every_part(tmp_path, results, machine):
    seen = {part: build(part, tmp_path, results).astext() for part in page.PARTS}
    assert "7, of which 1 are marked noisy" in seen["machines"]
    assert "peer 1.2" in seen["machines"]
    assert "slowpoke. We are ahead in 2 rows" in seen["words"]
    assert "A fast" in seen["words"]
    assert seen["ensembles"] == ""
    assert "champion\n\n4.00" in seen["losses"]
    assert "slowpoke" not in seen["losses"]
    assert "ghost: the package ghost is not installed." in seen["missing"]
    assert "a paint: no browser." in seen["missing"]
    assert "Broken: it failed with status 1." in seen["missing"]
    lines = "does not hold here\n\nsquare: time\n\nTheory: it is so.\n\n2.00 [2.00, 2.00]"
    assert lines in seen["growth"]
    assert "between 0.8 and 1.2" in seen["growth"]
    assert "5.40 s\n\n5.00 s" in seen["sweeps"]
    assert "Points of 1 s keep 100 workers busy" in seen["sweeps"]
    for name in machine.comparisons["name"]:
        assert name in seen["table"]
    assert "1.30 (noisy)" in seen["table"]


def test_the_figures_lie_beside_the_page_and_say_what_they_show(tmp_path, results, machine):
    for part, name in (
        ("machines", "benchmarks"), ("words", "bench-a-fast"), ("growth", "growth"),
        ("sweeps", "sweep-efficiency"),
    ):  # fmt: skip
        (figure,) = build(part, tmp_path, results).findall(nodes.figure)
        image = figure[0].astext()
        assert f'src="{name}-{machine.kind}.png"' in image
        assert len(re.search(r'alt="([^"]*)"', image)[1]) > 40
        assert (tmp_path / f"{name}-{machine.kind}.png").stat().st_size > 5000
        assert figure[1].astext().endswith(".")
        (link,) = figure[2].findall(nodes.reference)
        assert len((tmp_path / link["refuri"]).read_text().splitlines()) > 3


def test_the_ratio_figure_shows_each_row_on_its_side(machine):
    fig = benchmarks.ratio_figure(machine)
    data = fig.enough_data
    assert sorted(data["ratio"]) == pytest.approx([0.25, 1.05, 4.0, 12.4])
    points = [line for line in fig.axes[0].lines if line.get_linestyle() == "None"]
    assert sorted(line.get_xdata()[0] for line in points) == pytest.approx(sorted(data["ratio"]))
    hollow = [line.get_xdata()[0] for line in points if line.get_markerfacecolor() == "none"]
    assert hollow == pytest.approx([12.4])
    assert "2 dots lie right" in fig.enough_alt
    assert "1 left" in fig.enough_alt


def test_a_module_has_a_figure_of_its_own(machine):
    fig = benchmarks_figures.module_figure(machine, "bench_a_fast")
    assert fig.enough_data["ratio"] == pytest.approx([4.0, 12.4, 1.05, 0.25])
    assert [text.get_text() for text in fig.axes[0].texts] == [
        "quick thing · slowpoke", "other thing · slowpoke", "tie · slowpoke",
        "slow thing · champion",
    ]  # fmt: skip
    assert "slow thing beside champion: 0.25" in fig.enough_alt
    with pytest.raises(ValueError, match="module: expected one with a ratio, got 'bench_b'"):
        benchmarks_figures.module_figure(machine, "bench_b")


def of_ensembles():
    """Two sizes: at the first the stack is ahead and we take it, at the second the loop is."""
    ways = {
        "4 members, width 8, batch 16": (1.0, {"loop": 5.0, "batched products": 0.95}),
        "4 members, width 64, batch 16": (1.3, {"loop": 1.0, "batched products": 3.0}),
    }
    rows = [
        row(name, way, ours, seconds, module="bench_training_ensemble", noisy=False)
        for name, (ours, peers) in ways.items()
        for way, seconds in peers.items()
    ]
    names = [f"crossover: one stack of 4 members, width {w}, batch 1024" for w in (64, 8)]
    across = [
        row(name, "loop", 1.0, ratio, module="bench_training_ensemble", noisy=False)
        for name, ratio in zip(names, (0.5, 2.0), strict=True)
    ]
    return pd.DataFrame([*rows, *across, row("x", "y", 1.0, 2.0, module="bench_other")])


def test_the_fastest_way_of_ensembles_is_told_by_size():
    found = benchmarks_figures.fastest(of_ensembles())
    assert found.to_dict("list") == {
        "members": [4, 4], "width": [8, 64], "batch": [16, 16],
        "fastest": ["batched products or our choice", "loop"],
        "loop": pytest.approx([5.0, 1 / 1.3]), "choice": pytest.approx([1 / 0.95, 1.3]),
    }  # fmt: skip


def test_the_crossover_is_told_by_width(machine):
    assert benchmarks_figures.crossover(of_ensembles()) == (
        "All 4 members forced into one stack, batch 1,024: time of the loop over that of the "
        "stack 2.00 at width 8, 0.50 at width 64."
    )
    assert benchmarks_figures.crossover(machine.comparisons) == ""


def test_the_part_on_ensembles_has_figure_table_and_crossover(tmp_path, machine):
    measured = dataclasses.replace(machine, comparisons=of_ensembles())
    made = page._ensembles(measured, tmp_path, make_table, None)
    text = nodes.container("", *made).astext()
    assert "batched products or our choice\n\n5.00\n\n1.05" in text
    assert text.endswith("0.50 at width 64.")


def test_long_names_may_break_at_dots_and_underscores():
    assert page._breakable("torch.a_b 1.5 x_") == "torch.\u200ba_\u200bb 1.\u200b5 x_"


def test_labels_are_cut_in_the_name_and_not_in_the_peer():
    assert benchmarks_figures._label("short", "peer") == "short · peer"
    label = benchmarks_figures._label("long " * 20, "the peer")
    assert label.endswith("… · the peer")
    assert len(label) <= benchmarks_figures._LETTERS


def test_ensembles_are_drawn_by_width_and_batch(machine):
    with pytest.raises(ValueError, match="expected measured ensembles"):
        benchmarks_figures.ensemble_figure(machine)
    measured = dataclasses.replace(machine, comparisons=of_ensembles())
    fig = benchmarks_figures.ensemble_figure(measured)
    first, second = fig.axes
    assert (first.get_title(), second.get_title()) == ("width 8, batch 16", "width 64, batch 16")
    lines = {line.get_label(): list(line.get_ydata()) for line in second.lines}
    expected = {"our choice": 325.0, "loop": 250.0, "batched products": 750.0}
    assert lines == {way: [pytest.approx(each)] for way, each in expected.items()}
    assert "4 members, width 64, batch 16: loop" in fig.enough_alt


def test_nothing_recorded_is_said_once(tmp_path):
    (tmp_path / "results").mkdir()
    assert (
        "No benchmark has been recorded yet"
        in build("machines", tmp_path, tmp_path / "results").astext()
    )
    assert build("table", tmp_path, tmp_path / "results").astext() == ""
    with pytest.raises(ValueError, match="part: expected one of machines"):
        build("graph", tmp_path, tmp_path / "results")


def test_the_page_takes_every_part_once():
    text = (ROOT / "chapters" / "benchmarks.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"```\{benchmarks\} (\w+)", text)) == sorted(page.PARTS)


def test_what_is_recorded_can_be_read_and_spans_two_decades():
    machines = benchmarks.read_benchmarks()
    if not machines:
        pytest.skip("no benchmark has been recorded: 'make bench' records them")
    for machine in machines:
        assert machine.comparisons["ratio"].notna().sum() >= 10
        for line in benchmarks.growth(machine.growth):
            assert line.largest >= 100 * line.smallest


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34, "12.3 s"), (0.0123, "12.3 ms"), (4e-6, "4 µs"), (4e-9, "0.004 µs"), (math.nan, "")],
)
def test_seconds_for_a_reader(seconds, text):
    assert benchmarks.seconds_text(seconds) == text


def test_parts_end_with_the_book_and_can_be_chosen():
    names = [part.module for part in command.parts(ROOT)]
    of_the_book = [name for name in names if name.startswith("bench_book_")]
    assert names[-len(of_the_book) :] == of_the_book
    assert "bench_book_chapters" in of_the_book
    assert names.index("growth") > names.index("bench_training_ensemble")
    assert [part.module for part in command.parts(ROOT, "sweep")] == ["sweep_overhead"]


def test_a_module_runs_in_a_process_of_its_own_and_ends_in_time(tmp_path):
    import sys

    found, reason = command._run(ROOT, sys.executable, "sweep_overhead", True, 60.0)
    assert reason == ""
    assert [r["name"] for r in found["rows"]][:2] == ["store, a point", "data, a point"]
    assert {"python", "torch", "numpy"} <= set(found["versions"])
    spent = "the time of the whole run was spent"
    assert command._run(ROOT, sys.executable, "sweep_overhead", True, 0.2) == (None, spent)
    assert command._run(ROOT, sys.executable, "sweep_overhead", True, 0.0) == (None, spent)
    assert command._run(ROOT, sys.executable, "no_module", True, 60.0) == (
        None,
        "it failed with status 1",
    )


def test_an_environment_of_peers_that_cannot_run_us_is_left_aside(tmp_path, capsys):
    python = tmp_path / ".venv-oracles" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'No module named torch' >&2\nexit 1\n")
    python.chmod(0o755)
    found = command._pythons(tmp_path)
    assert found["peers"] == found["book"]
    assert "cannot run this package (No module named torch)" in capsys.readouterr().out
    python.write_text("#!/bin/sh\nexit 0\n")
    assert command._pythons(tmp_path)["peers"] == str(python)
