"""Intervals: reproducible, scaled right, and covering."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from enough.calibration import (
    bootstrap_interval,
    brier_score,
    calibration_error_interval,
    expected_calibration_error,
)


def sample(seed, size, slope=0.5):
    draw = np.random.RandomState(seed)
    odds = 2.0 * draw.standard_normal(size)
    truth = 1 / (1 + np.exp(-slope * odds))
    return 1 / (1 + np.exp(-odds)), (draw.random_sample(size) < truth).astype(int), truth


@pytest.mark.parametrize("method", ["basic", "percentile", "BCa"])
def test_of_a_mean_equals_the_normal_interval(method):
    probs, labels, _ = sample(0, 400)
    losses = (probs - labels) ** 2
    found = bootstrap_interval(
        brier_score, probs, labels, method=method, generator=0, n_resamples=499
    )
    error = losses.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(losses.mean(), abs=1e-12)
    assert found.standard_error == pytest.approx(error, rel=0.15)
    assert found.low == pytest.approx(losses.mean() - 1.96 * error, abs=0.4 * error)
    assert found.high == pytest.approx(losses.mean() + 1.96 * error, abs=0.4 * error)


def test_same_seed_same_interval_and_options_pass():
    probs, labels, _ = sample(1, 100)
    state = torch.random.get_rng_state()
    args = (expected_calibration_error, torch.tensor(probs), torch.tensor(labels))
    options = {"n_resamples": 50, "n_bins": 5, "norm": "l2"}
    first = bootstrap_interval(*args, generator=3, **options)
    assert first == bootstrap_interval(*args, generator=3, **options)
    assert first != bootstrap_interval(*args, generator=4, **options)
    assert first.value == expected_calibration_error(probs, labels, n_bins=5, norm="l2")
    assert first.low <= first.high
    assert torch.equal(state, torch.random.get_rng_state())
    table = np.stack([1 - probs, probs], 1)
    wide = bootstrap_interval(brier_score, table, labels, generator=0, n_resamples=20, level=0.5)
    assert wide.low < wide.value < wide.high


def test_basic_reflects_the_percentile_interval():
    probs, labels, _ = sample(2, 200)
    args = (expected_calibration_error, probs, labels)
    basic = bootstrap_interval(*args, generator=0, n_resamples=200)
    percentile = bootstrap_interval(*args, generator=0, n_resamples=200, method="percentile")
    assert basic.low == pytest.approx(2 * basic.value - percentile.high, abs=1e-12)
    assert basic.high == pytest.approx(2 * basic.value - percentile.low, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: bootstrap_interval(0.3, [0.5, 0.5], [0, 1]), "metric"),
        (lambda: bootstrap_interval(brier_score, [0.5, 0.5], [0]), "probs, labels"),
        (lambda: bootstrap_interval(brier_score, [0.5], [0]), "probs"),
        (lambda: bootstrap_interval(brier_score, [0.5, 0.5], [0, 1], level=1.0), "level"),
        (lambda: bootstrap_interval(brier_score, [0.5, 0.5], [0, 1], n_resamples=1), "n_resamples"),
        (lambda: bootstrap_interval(brier_score, [0.5, 0.5], [0, 1], method="t"), "method"),
        (lambda: calibration_error_interval([0.5, 0.5], [0, 1], level=0.0), "level"),
        (lambda: calibration_error_interval([0.5, 0.5], [0, 1], n_bins=0), "n_bins"),
        (lambda: calibration_error_interval([0.5, 0.5], [0, 1], binning="mass"), "binning"),
        (lambda: calibration_error_interval([0.5, 1.5], [0, 1]), "probs"),
    ],
)
def test_bad_arguments_are_refused(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()


def test_normal_interval_equals_loops():
    probs, labels, _ = sample(3, 150)
    probs[0] = 0.001  # a bin with few samples
    for binning in ("uniform", "quantile"):
        found = calibration_error_interval(probs, labels, n_bins=6, binning=binning)
        if binning == "uniform":
            number = np.ceil(probs * 6)
        else:
            number = np.searchsorted(np.sort(probs)[24::25], probs, side="left")
        square = variance = 0.0
        for b in set(number):
            r = probs[number == b] - labels[number == b]
            n = len(r)
            if n == 1:
                continue
            s2 = r.var(ddof=1)
            theta = r.mean() ** 2 - s2 / n
            square += n / 150 * theta
            variance += (n / 150) ** 2 * (4 * max(theta, 0) * s2 / n + 2 * s2**2 / n / (n - 1))
        error = math.sqrt(variance)
        assert found.standard_error == pytest.approx(error, rel=1e-10)
        assert found.value**2 == pytest.approx(max(square, 0), abs=1e-12)
        assert found.low**2 == pytest.approx(max(square - 1.959963985 * error, 0), abs=1e-9)
        assert found.high**2 == pytest.approx(square + 1.959963985 * error, abs=1e-9)


@pytest.mark.parametrize("slope", [1.0, 0.8, 0.5])
def test_normal_interval_covers(slope):
    probs, _, truth = sample(99, 400_000, slope)
    number = np.ceil(probs * 15).astype(int)
    gap = np.bincount(number, probs - truth) / np.maximum(np.bincount(number), 1)
    error = math.sqrt((np.bincount(number) * gap**2).sum() / len(probs))
    hits = 0
    for seed in range(300):
        found = calibration_error_interval(*sample(seed, 1000, slope)[:2])
        hits += found.low <= error <= found.high
    # 95 % nominal: fewer than 275 of 300 has probability below 0.6 %.
    assert hits >= 275


def test_a_table_uses_the_top_label():
    probs = np.random.RandomState(5).dirichlet(np.ones(3), 60)
    labels = np.arange(60) % 3
    top = calibration_error_interval(probs, labels)
    same = calibration_error_interval(probs.max(1), probs.argmax(1) == labels)
    assert top == same
