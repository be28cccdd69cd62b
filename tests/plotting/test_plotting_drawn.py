"""The table behind a figure: every number that was drawn, and nothing that is decoration."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from enough import plotting
from enough.plotting.tables import MAX_ENTRIES

ALT = "A line that rises from the lower left to the upper right of the axes."


@pytest.fixture
def axes():
    fig, axes = plotting.figure(alt=ALT, caption="A caption.", ncols=2)
    yield axes
    plt.close(fig)


@pytest.fixture
def ax():
    fig, ax = plotting.figure(alt=ALT, caption="A caption.")
    yield ax
    plt.close(fig)


def _rows(ax):
    columns, stride = plotting.drawn(ax.figure)
    assert stride == 1
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_a_line_and_loose_points(ax):
    ax.plot([1, 2], [3.0, 4.0], label="risk")
    ax.plot([1], [5], "o")
    ax.scatter([7.0], [8.0], label="seen")
    ax.axhline(0.5)
    ax.axvline(0.5)
    rows = _rows(ax)
    assert {(r["kind"], r["series"], r["x"], r["y"]) for r in rows} == {
        ("line", "risk", 1.0, 3.0),
        ("line", "risk", 2.0, 4.0),
        ("points", "points 1", 1.0, 5.0),
        ("points", "seen", 7.0, 8.0),
    }


def test_a_band_gives_its_lower_and_upper_side(ax):
    x = np.array([1.0, 2.0, 4.0])
    ax.fill_between(x, x - 1, x + 2, label="95 %")
    assert _rows(ax) == [
        {"kind": "band", "series": "95 %", "x": v, "low": v - 1, "high": v + 2} for v in x
    ]


def test_error_bars_are_a_line_and_segments(ax):
    ax.errorbar([1.0, 2.0], [3.0, 4.0], yerr=[[0.5, 1.0], [0.25, 2.0]], label="mean")
    rows = _rows(ax)
    ends = [(r["x"], r["low"], r["high"]) for r in rows if r["kind"] == "segments"]
    assert ends == [(1.0, 2.5, 3.25), (2.0, 3.0, 6.0)]
    assert [(r["x"], r["y"]) for r in rows if r["kind"] == "line"] == [(1.0, 3.0), (2.0, 4.0)]


def test_bars_give_their_heights(ax):
    ax.bar([0, 1], [2.0, 3.0], label="count")
    assert [(r["kind"], r["series"], r["x"], r["y"]) for r in _rows(ax)] == [
        ("bars", "count", 0.0, 2.0),
        ("bars", "count", 1.0, 3.0),
    ]


def test_a_histogram_gives_its_bars_or_its_outline(ax):
    ax.hist([0.5, 1.5, 1.6], bins=[0, 1, 2], label="all")
    ax.hist([0.5, 1.5, 1.6], bins=[0, 1, 2], histtype="step", label="edge")
    rows = _rows(ax)
    assert [(r["x"], r["y"]) for r in rows if r["kind"] == "bars"] == [(0.5, 1.0), (1.5, 2.0)]
    outline = [(r["x"], r["y"]) for r in rows if r["series"] == "edge"]
    assert outline[:6] == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 0)]


@pytest.mark.parametrize("draw", ["imshow", "pcolormesh"])
def test_a_field_gives_the_value_at_each_center(ax, draw):
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
    if draw == "imshow":
        ax.imshow(values, extent=(0, 3, 0, 2), origin="lower")
    else:
        ax.pcolormesh(np.arange(4.0), np.arange(3.0), values)
    found = {(r["x"], r["y"]): r["value"] for r in _rows(ax)}
    assert found == {
        (0.5, 0.5): 1.0, (1.5, 0.5): 2.0, (2.5, 0.5): 3.0,
        (0.5, 1.5): 4.0, (1.5, 1.5): 5.0, (2.5, 1.5): None,
    }  # fmt: skip


def test_the_upper_row_of_an_image_lies_on_top(ax):
    ax.imshow(np.array([[1.0], [2.0]]), extent=(0, 1, 0, 2))
    assert {r["y"]: r["value"] for r in _rows(ax)} == {1.5: 1.0, 0.5: 2.0}


def test_panels_are_named_and_color_bars_left_out(axes):
    axes[0].set_title("Left")
    axes[0].plot([1], [2])
    image = axes[1].imshow(np.eye(2))
    axes[1].figure.colorbar(image)
    panels = [r["panel"] for r in _rows(axes[0])]
    assert panels == ["Left", "2", "2", "2", "2"]


def test_a_figure_that_shows_nothing_has_no_table(ax):
    ax.text(0.5, 0.5, "words")
    assert plotting.drawn(ax.figure) is None


def test_many_points_are_thinned_and_say_so(ax):
    x = np.arange(10_000)
    ax.plot(x, 2.0 * x)
    columns, stride = plotting.drawn(ax.figure)
    assert stride > 1
    assert columns["x"] == x[::stride].tolist()
    assert sum(map(len, columns.values())) <= MAX_ENTRIES
