"""Quantile forecasts: losses, order and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import isotonic_regression

from enough.calibration import (
    conformalize_quantiles,
    pinball_loss,
    sort_quantiles,
    weighted_interval_score,
)

pytest_plugins = ["calibration_fixtures"]

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def test_pinball_equals_loops():
    draw = np.random.RandomState(0)
    prediction, target = draw.standard_normal((20, 5)), draw.standard_normal(20)
    target[0] = prediction[0, 2]
    ours = pinball_loss(prediction, target, LEVELS)
    for i in range(20):
        for j, level in enumerate(LEVELS):
            u = target[i] - prediction[i, j]
            assert ours[i, j] == pytest.approx(u * (level - (u < 0)), abs=1e-15)
    assert (ours >= 0).all()


def test_pinball_is_least_at_the_quantile():
    target = np.random.RandomState(1).standard_normal(999)
    grid = np.linspace(-3, 3, 1201)
    for level in (0.1, 0.5, 0.9):
        losses = [pinball_loss(np.full((999, 1), g), target, [level]).mean() for g in grid]
        assert grid[int(np.argmin(losses))] == pytest.approx(np.quantile(target, level), abs=0.02)


def test_equals_scoringrules(oracle):
    for case in oracle["quantiles"]:
        args = (np.array(case["prediction"]), np.array(case["target"]), np.array(case["levels"]))
        np.testing.assert_allclose(pinball_loss(*args), case["scoringrules_pinball"], atol=1e-14)
        np.testing.assert_allclose(
            weighted_interval_score(*args), case["scoringrules_wis"], atol=1e-14
        )


def test_interval_score_by_its_definition():
    draw = np.random.RandomState(2)
    prediction, target = np.sort(draw.standard_normal((30, 5)), 1), 2 * draw.standard_normal(30)
    expected = 0.5 * np.abs(target - prediction[:, 2])
    for k, alpha in ((0, 0.1), (1, 0.5)):
        low, high = prediction[:, k], prediction[:, 4 - k]
        missed = np.maximum(low - target, 0) + np.maximum(target - high, 0)
        expected += alpha / 2 * (high - low + 2 / alpha * missed)
    ours = weighted_interval_score(prediction, target, LEVELS)
    np.testing.assert_allclose(ours, expected / 2.5, atol=1e-13)
    shuffled = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(
        weighted_interval_score(prediction[:, shuffled], target, LEVELS[shuffled]), ours, atol=1e-13
    )


@pytest.mark.parametrize("method", ["sort", "isotonic"])
def test_order_never_raises_the_loss(method):
    draw = np.random.RandomState(3)
    prediction, target = draw.standard_normal((2000, 5)), draw.standard_normal(2000)
    ordered = sort_quantiles(prediction, method=method)
    assert (np.diff(ordered, axis=1) >= -1e-15).all()
    before = pinball_loss(prediction, target, LEVELS).sum(1)
    after = pinball_loss(ordered, target, LEVELS).sum(1)
    assert (after <= before + 1e-12).all()
    assert (after < before - 1e-3).any()
    np.testing.assert_allclose(sort_quantiles(ordered, method=method), ordered, atol=1e-14)


def test_isotonic_order_equals_scikit_learn():
    prediction = np.random.RandomState(4).standard_normal((50, 7))
    ours = sort_quantiles(prediction, method="isotonic")
    for row, projected in zip(prediction, ours, strict=True):
        np.testing.assert_allclose(projected, isotonic_regression(row), atol=1e-12)


def test_order_follows_the_levels():
    prediction = np.array([[3.0, 1.0, 2.0]])
    assert sort_quantiles(prediction, [0.9, 0.5, 0.1]).tolist() == [[3.0, 2.0, 1.0]]
    assert sort_quantiles(prediction, [0.5, 0.1, 0.9], "isotonic").tolist() == [[2.5, 1.0, 2.5]]
    stacked = sort_quantiles(torch.tensor(prediction).expand(2, 4, 3))
    assert stacked.shape == (2, 4, 3)
    assert stacked[1, 3].tolist() == [1.0, 2.0, 3.0]
    assert sort_quantiles(np.array([2.0, 1.0])).tolist() == [1.0, 2.0]


def test_gradients():
    draw = torch.Generator().manual_seed(5)
    options = {"generator": draw, "dtype": torch.float64}
    prediction = torch.randn(4, 5, **options).requires_grad_()
    target, levels = torch.randn(4, **options), torch.tensor(LEVELS)
    for function in (pinball_loss, weighted_interval_score):
        assert torch.autograd.gradcheck(lambda p, f=function: f(p, target, levels), prediction)
    for method in ("sort", "isotonic"):
        assert torch.autograd.gradcheck(lambda p, m=method: sort_quantiles(p, method=m), prediction)


def test_results_come_back_as_given():
    prediction, target = torch.zeros(2, 5), torch.ones(2)
    for dtype in (torch.float32, torch.float64, torch.float16):
        loss = pinball_loss(prediction.to(dtype), target, LEVELS.tolist())
        assert loss.shape == (2, 5)
        assert loss.dtype == dtype
        for method in ("sort", "isotonic"):
            assert sort_quantiles(prediction.to(dtype), method=method).dtype == dtype
        shifted = conformalize_quantiles(prediction.to(dtype), prediction, target, LEVELS)
        assert shifted.dtype == dtype
    assert isinstance(pinball_loss(prediction.numpy(), target.numpy(), LEVELS), np.ndarray)
    assert weighted_interval_score(prediction, target, LEVELS).shape == (2,)


def test_conformal_intervals_by_loops():
    draw = np.random.RandomState(6)
    known, target = np.sort(draw.standard_normal((39, 5)), 1), 2 * draw.standard_normal(39)
    new = np.sort(draw.standard_normal((3, 5)), 1)
    ours = conformalize_quantiles(new, known, target, LEVELS)
    for k, rank in ((0, 36), (1, 20)):  # ⌈40 · 0.9⌉ and ⌈40 · 0.5⌉
        scores = sorted(
            max(row[k] - y, y - row[4 - k]) for row, y in zip(known, target, strict=True)
        )
        np.testing.assert_allclose(ours[:, k], new[:, k] - scores[rank - 1], atol=1e-14)
        np.testing.assert_allclose(ours[:, 4 - k], new[:, 4 - k] + scores[rank - 1], atol=1e-14)
    np.testing.assert_array_equal(ours[:, 2], new[:, 2])


@pytest.mark.parametrize("method", ["interval", "level"])
def test_conformal_quantiles_cover(method):
    # Forecasts are too narrow and off center; afterwards they cover.
    draw = np.random.RandomState(7)
    width = np.array([-0.3, -0.1, 0.4, 0.5, 0.6])
    inside = {1: [], 3: [], "outer": [], "inner": []}
    for _ in range(1500):
        center = draw.standard_normal(60)
        target = center + draw.standard_normal(60)
        prediction = center[:, None] + width
        ours = conformalize_quantiles(prediction[39:], prediction[:39], target[:39], LEVELS, method)
        y = target[39:]
        inside["outer"].append(((ours[:, 0] <= y) & (y <= ours[:, 4])).mean())
        inside["inner"].append(((ours[:, 1] <= y) & (y <= ours[:, 3])).mean())
        inside[1].append((y >= ours[:, 1]).mean())
        inside[3].append((y <= ours[:, 3]).mean())
    wanted = {"outer": 0.9, "inner": 0.5} if method == "interval" else {1: 0.75, 3: 0.75}
    for key, level in wanted.items():
        error = np.std(inside[key]) / math.sqrt(1500)
        assert abs(np.mean(inside[key]) - level) < 3 * error + 1e-9, key  # 40 · level is whole


def test_too_few_calibration_samples_give_infinite_intervals():
    known, target = np.zeros((5, 3)), np.arange(5.0)
    ours = conformalize_quantiles(np.zeros((1, 3)), known, target, [0.05, 0.5, 0.95])
    assert ours.tolist() == [[-math.inf, 0.0, math.inf]]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda p, y, q: pinball_loss(p[0], y, q), "prediction"),
        (lambda p, y, q: pinball_loss(p * np.nan, y, q), "prediction: .*finite"),
        (lambda p, y, q: pinball_loss(p.astype(int), y, q), "prediction: .*floating"),
        (lambda p, y, q: pinball_loss(p, y[:2], q), "target"),
        (lambda p, y, q: pinball_loss(p, y * np.inf, q), "target: .*finite"),
        (lambda p, y, q: pinball_loss(p, y, q[:2]), "levels"),
        (lambda p, y, q: pinball_loss(p, y, q * 2), r"levels: .*\(0, 1\)"),
        (lambda p, y, q: pinball_loss(p, y, q * 0), r"levels: .*\(0, 1\)"),
        (lambda p, y, q: weighted_interval_score(p, y, q * 0.9), "levels: .*symmetric"),
        (lambda p, y, q: weighted_interval_score(p, y, [0.5] * 5), "levels: .*distinct"),
        (lambda p, y, q: conformalize_quantiles(p, p, y, q * 0.9), "levels: .*symmetric"),
        (lambda p, y, q: conformalize_quantiles(p[:, :2], p, y, q), "prediction"),
        (lambda p, y, q: conformalize_quantiles(p, p, y[:1], q), "calibration_target"),
        (lambda p, y, q: conformalize_quantiles(p, p[0], y, q), "calibration_prediction"),
        (lambda p, y, q: conformalize_quantiles(p, p, y, q, "both"), "method"),
        (lambda p, y, q: sort_quantiles(p, method="bubble"), "method"),
        (lambda p, y, q: sort_quantiles(p, q[:2]), "levels"),
        (lambda p, y, q: sort_quantiles(1.0), "prediction"),
    ],
)
def test_bad_arguments_are_refused(call, name):
    draw = np.random.RandomState(8)
    with pytest.raises(ValueError, match=f"^{name}"):
        call(draw.standard_normal((3, 5)) + 1.0, draw.standard_normal(3) + 1.0, LEVELS)
