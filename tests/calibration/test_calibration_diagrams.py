"""Reliability diagrams hold what the curve says."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from enough.calibration import draw_reliability, reliability_curve

pytest_plugins = ["calibration_fixtures"]


@pytest.fixture
def curve(inputs):
    odds, labels = inputs.binary(95, 300, 1.5, 0.6, 0.2)
    return reliability_curve(torch.tensor(inputs.sigmoid(odds)), torch.tensor(labels), n_bins=8)


def test_points_intervals_and_counts(curve):
    ax = Figure().subplots()
    drawn = draw_reliability(ax, curve, label="model")
    x, y = drawn.lines[0].get_data()
    np.testing.assert_allclose(x, curve.confidence)
    np.testing.assert_allclose(y, curve.accuracy)
    bars = np.array(drawn.lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(bars[:, 0], curve.low, atol=1e-12)
    np.testing.assert_allclose(bars[:, 1], curve.high, atol=1e-12)
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(heights, 0.2 * curve.count / curve.count.max())
    assert ax.get_xlim() == ax.get_ylim() == (0.0, 1.0)
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert drawn.get_label() == "model"


def test_counts_as_text_or_not_at_all(curve):
    ax = Figure().subplots()
    draw_reliability(ax, curve, counts="text")
    assert [text.get_text() for text in ax.texts] == [str(n) for n in curve.count.tolist()]
    assert not ax.patches
    bare = Figure().subplots()
    draw_reliability(bare, curve, counts="none", color="black")
    assert not bare.patches
    assert not bare.texts


def test_one_diagonal_for_many_curves(curve):
    ax = Figure().subplots()
    draw_reliability(ax, curve)
    draw_reliability(ax, reliability_curve([0.0, 1.0], [0, 1]))
    assert sum(line.get_gid() == "diagonal" for line in ax.lines) == 1


def test_bad_arguments_are_refused(curve):
    ax = Figure().subplots()
    with pytest.raises(ValueError, match=r"^curve"):
        draw_reliability(ax, [0.1, 0.2])
    with pytest.raises(ValueError, match=r"^counts"):
        draw_reliability(ax, curve, counts="dots")
