"""Bands against closed forms, SciPy's intervals and NumPy's quantiles."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy import stats

from enough import plotting


@pytest.fixture
def ax():
    fig, ax = plotting.figure("An empty pair of axes for a band", "Band.")
    yield ax
    plt.close(fig)


def test_by_hand(ax):
    """Five numbers with mean 3 and variance 2.5; t of 4 degrees at 97.5 % is 2.776445."""
    band = plotting.band(ax, [7.0], np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]))
    reach = 2.7764451052 * math.sqrt(2.5 / 5)
    assert band.center == pytest.approx([3.0])
    assert band.low == pytest.approx([3 - reach], rel=1e-9)
    assert band.high == pytest.approx([3 + reach], rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_default_is_the_interval_of_scipy(ax, level):
    y = np.random.default_rng(0).normal(size=(6, 9))
    band = plotting.band(ax, np.arange(9), y, level=level)
    low, high = stats.t.interval(level, df=5, loc=y.mean(axis=0), scale=stats.sem(y, axis=0))
    np.testing.assert_allclose(band.low, low, rtol=1e-12)
    np.testing.assert_allclose(band.high, high, rtol=1e-12)


def test_the_default_interval_covers_the_mean_as_often_as_it_says(ax):
    y = np.random.default_rng(1).normal(size=(4, 20_000))
    band = plotting.band(ax, np.arange(20_000), y, level=0.9)
    covered = ((band.low < 0) & (band.high > 0)).mean()
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 20_000))


def test_standard_errors_and_quantiles(ax):
    y = np.random.default_rng(2).exponential(size=(11, 5))
    sem = plotting.band(ax, range(5), y, kind="sem")
    np.testing.assert_allclose((sem.high - sem.low) / 2, stats.sem(y, axis=0), rtol=1e-12)
    quantile = plotting.band(ax, range(5), y, kind="quantile", level=0.8)
    ordered = np.sort(y, axis=0)  # of 11 values, number 1, 5 and 9 are the 10, 50 and 90 %
    for got, want in zip(quantile[1:], ordered[[5, 1, 9]], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(("axis", "transpose"), [(0, False), (-2, False), (1, True), (-1, True)])
def test_the_axis_of_the_repeats(ax, axis, transpose):
    y = np.random.default_rng(3).normal(size=(4, 4))  # square: the shape cannot tell
    band = plotting.band(ax, range(4), y.T if transpose else y, axis)
    np.testing.assert_allclose(band.center, y.mean(axis=0), rtol=1e-12)


def test_tensors_lists_and_arrays_mix(ax):
    y = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    band = plotting.band(ax, np.array([1, 2]), y)
    assert all(part.dtype == np.float64 for part in band)
    assert band.center.tolist() == [2.0, 3.0]
    assert plotting.band(ax, torch.tensor([1, 2]), [[1, 2], [3, 4]]).center.tolist() == [2.0, 3.0]


def test_what_is_drawn_is_what_is_returned(ax):
    y = np.array([[0.0, 1.0, 2.0], [1.0, 3.0, 5.0]])
    band = plotting.band(ax, [1, 2, 3], y, label="ridge", color="#168065", linestyle=":")
    (line,) = ax.lines
    assert line.get_label() == "ridge"
    assert line.get_linestyle() == ":"
    np.testing.assert_array_equal(line.get_xdata(), band.x)
    np.testing.assert_array_equal(line.get_ydata(), band.center)
    (area,) = ax.collections
    assert to_rgb(area.get_facecolor()[0]) == to_rgb("#168065")
    corners = {tuple(v) for v in area.get_paths()[0].vertices}
    assert set(zip(band.x, band.low, strict=True)) <= corners
    assert set(zip(band.x, band.high, strict=True)) <= corners
    assert ax.get_legend_handles_labels()[1] == ["ridge"]  # the area is not named twice


def test_bands_take_the_next_color_each(ax):
    for _ in range(3):
        plotting.band(ax, [0, 1], [[0, 1], [1, 2]])
    assert [line.get_color() for line in ax.lines] == list(plotting.PALETTE[:3])


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([0, 1], [[0.0, math.nan], [1, 2]], {}, r"^y: expected finite numbers, got 1 NaN"),
        ([0, 1], [[0.0, math.inf], [1, 2]], {}, r"^y: expected finite numbers, got 1 NaN"),
        ([0, math.nan], [[0, 1], [1, 2]], {}, r"^x: expected finite numbers, got 1 NaN"),
        ([0, 1], [[1, 2]], {}, r"^y: expected at least 2 repeats along axis 0, got 1"),
        ([0, 1, 2], [[0, 1], [1, 2]], {}, r"^y: expected shape \(repeats, points\) with 3 points"),
        ([0, 1, 2], [[0, 1]] * 2, {"axis": 1}, r"^y: expected shape \(points, repeats\) with 3"),
        ([0, 1], [0, 1], {}, r"^y: expected 2 dimension"),
        ([[0, 1]], [[0, 1], [1, 2]], {}, r"^x: expected 1 dimension"),
        ([], np.zeros((2, 0)), {}, r"^x: expected at least one entry"),
        (["a", "b"], [[0, 1], [1, 2]], {}, r"^x: expected a tensor or an array of numbers"),
        ([0, 1], [[0, 1], [1, 2]], {"axis": 2}, r"^axis: expected one of 0, 1, -1, -2, got 2"),
        ([0, 1], [[0, 1], [1, 2]], {"kind": "std"}, r"^kind: expected one of 't', 'sem'"),
        ([0, 1], [[0, 1], [1, 2]], {"level": 95}, r"^level: expected a number < 1, got 95"),
        ([0, 1], [[0, 1], [1, 2]], {"level": 0}, r"^level: expected a number > 0, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_drawn(ax, x, y, options, message):
    with pytest.raises(ValueError, match=message):
        plotting.band(ax, x, y, **options)
    assert not ax.lines
    assert not ax.collections
