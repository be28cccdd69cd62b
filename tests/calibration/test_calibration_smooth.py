"""The smooth calibration error against direct integration and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from enough.calibration import smooth_calibration_error

pytest_plugins = ["calibration_fixtures"]


def direct(values, outcomes, s, points=20_001):
    """Integrate by the trapezoid rule; reflections of the Gaussian summed as images."""
    t = np.linspace(0.0, 1.0, points)
    total = np.zeros(points)
    for f, y in zip(values, outcomes, strict=True):
        for image in range(-4, 5):
            for place in (2 * image + f, 2 * image - f):
                total += (f - y) * np.exp(-((t - place) ** 2) / (2 * s * s))
    total = np.abs(total) / (s * math.sqrt(2 * math.pi) * len(values))
    return (total.sum() - 0.5 * (total[0] + total[-1])) / (points - 1)


@pytest.mark.parametrize("s", [0.02, 0.1, 0.5, 1.0])
def test_equals_direct_integration(s):
    draw = np.random.RandomState(0)
    for values in (draw.random_sample(40), np.array([0.0, 1.0, 1.0, 0.3]), np.full(3, 0.001)):
        outcomes = draw.randint(2, size=len(values))
        ours = smooth_calibration_error(values, outcomes, bandwidth=s)
        # The kink of |·| at a zero costs the trapezoid rule a little at both grids.
        assert ours == pytest.approx(direct(values, outcomes, s), abs=2e-6)


def test_is_the_fixed_point():
    draw = np.random.RandomState(1)
    for size in (1, 30, 3000):
        values = draw.random_sample(size)
        outcomes = (draw.random_sample(size) < values**2).astype(int)
        star = smooth_calibration_error(values, outcomes)
        assert smooth_calibration_error(values, outcomes, bandwidth=star) == pytest.approx(
            star, abs=1e-10
        )


def test_does_not_increase_with_the_bandwidth():
    draw = np.random.RandomState(2)
    values, outcomes = draw.random_sample(200), draw.randint(2, size=200)
    errors = [
        smooth_calibration_error(values, outcomes, bandwidth=s) for s in (0.001, 0.01, 0.1, 1.0)
    ]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(errors))
    assert errors[0] <= np.abs(values - outcomes).mean() + 1e-12


def test_closed_forms():
    # One place, mean residual d: smECE_s = |d| for every s.
    for p in (0.0, 0.3, 1.0):
        outcomes = np.array([0, 1, 1, 1])
        expected = abs(p - 0.75)
        assert smooth_calibration_error(np.full(4, p), outcomes) == pytest.approx(
            expected, abs=1e-9
        )
    assert smooth_calibration_error([0.0, 1.0], [0, 1]) == 0.0
    assert smooth_calibration_error([1.0, 0.0], [0, 1]) == pytest.approx(
        smooth_calibration_error([0.0, 1.0], [1, 0]), abs=1e-12
    )
    assert smooth_calibration_error([1.0, 1.0], [0, 0]) == pytest.approx(1.0, abs=1e-12)
    # Residuals of one sign cannot cancel: the mean residual, though 1.0 lies at the end.
    assert smooth_calibration_error([0.95, 1.0], [0, 1]) == pytest.approx(0.475, abs=1e-9)


def test_never_exceeds_the_mean_residual(cases):
    for probs, labels in cases.values():
        if probs.ndim == 1:
            bound = np.abs(probs - labels).mean()
        else:
            bound = np.abs(probs.max(1) - (probs.argmax(1) == labels)).mean()
        assert smooth_calibration_error(probs, labels) <= bound + 1e-12


def test_equals_relplot(oracle, inputs):
    for case in oracle["errors"]:
        if "table" in case:
            logits, labels = inputs.table(*case["table"])
            args = inputs.softmax(logits), labels
        else:
            odds, labels = inputs.binary(*case["binary"])
            args = inputs.sigmoid(odds), labels
        # relplot integrates on 200 points and weighs the two at the ends fully.
        ours = smooth_calibration_error(*args, bandwidth=0.05)
        assert ours == pytest.approx(case["relplot_fixed"], rel=0.005)
        if "relplot" in case:  # and stops its bisection 2^-10 from the fixed point
            assert smooth_calibration_error(*args) == pytest.approx(case["relplot"], abs=1e-3)


def test_precision_and_device_kinds():
    draw = np.random.RandomState(3)
    values, outcomes = draw.random_sample(500), draw.randint(2, size=500)
    double = smooth_calibration_error(values, outcomes)
    single = smooth_calibration_error(torch.tensor(values, dtype=torch.float32), outcomes)
    assert isinstance(double, float)
    assert single == pytest.approx(double, abs=1e-6)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, np.nan, np.inf, "wide"])
def test_bad_bandwidths_are_refused(bandwidth):
    with pytest.raises(ValueError, match=r"^bandwidth"):
        smooth_calibration_error([0.5], [1], bandwidth=bandwidth)
