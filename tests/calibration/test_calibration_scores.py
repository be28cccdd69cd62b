"""Proper scores and decompositions against loops, identities and other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from enough.calibration import (
    VectorScaling,
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
    refinement_split,
    score_decomposition,
)

pytest_plugins = ["calibration_fixtures"]


def test_scores_equal_loops(cases):
    for name, (probs, labels) in cases.items():
        brier = log = 0.0
        for row, y in zip(probs, labels, strict=True):
            if probs.ndim == 1:
                brier += (row - y) ** 2
                chosen = row if y else 1.0 - row
            else:
                brier += sum((p - (j == y)) ** 2 for j, p in enumerate(row))
                chosen = row[y]
            log += -math.log(chosen) if chosen > 0 else math.inf
        assert brier_score(probs, labels) == pytest.approx(brier / len(labels), abs=1e-12), name
        assert negative_log_likelihood(probs, labels) == pytest.approx(log / len(labels), rel=1e-12)


def test_extremes():
    assert brier_score([[1.0, 0.0]], [0]) == 0.0
    assert brier_score([[1.0, 0.0]], [1]) == 2.0
    assert brier_score([1.0], [0]) == 1.0
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == math.inf
    assert negative_log_likelihood([1.0, 0.0], [1, 0]) == 0.0
    assert negative_log_likelihood([0.0], [1]) == math.inf


def test_two_classes_give_twice_the_binary_brier_score():
    probs = np.random.RandomState(0).random_sample(50)
    labels = np.arange(50) % 2
    pair = np.stack([1 - probs, probs], 1)
    assert brier_score(pair, labels) == pytest.approx(2 * brier_score(probs, labels), abs=1e-14)
    assert negative_log_likelihood(pair, labels) == pytest.approx(
        negative_log_likelihood(probs, labels), abs=1e-14
    )


def test_scores_equal_peers(oracle, inputs):
    for case in oracle["scores"]:
        if "table" in case:
            logits, labels = inputs.table(*case["table"])
            probs = inputs.softmax(logits)
        else:
            odds, labels = inputs.binary(*case["binary"])
            probs = inputs.sigmoid(odds)
        assert brier_score(probs, labels) == pytest.approx(case["brier"], abs=1e-12)
        assert negative_log_likelihood(probs, labels) == pytest.approx(case["log"], abs=1e-12)
        for score in ("brier", "log"):
            if f"corp_{score}" not in case:
                continue
            parts = score_decomposition(probs, labels, score)
            for name, value in case[f"corp_{score}"].items():
                assert getattr(parts, name) == pytest.approx(value, abs=1e-12), (score, name)


@pytest.mark.parametrize("n_bins", [1, 7, 15])
def test_brier_decomposition_is_exact(cases, n_bins):
    for name, (probs, labels) in cases.items():
        if probs.ndim == 2:
            continue
        parts = brier_decomposition(probs, labels, n_bins)
        assert parts.score == pytest.approx(brier_score(probs, labels), abs=1e-15)
        total = parts.reliability - parts.resolution + parts.uncertainty + parts.within_bin
        assert total == pytest.approx(parts.score, abs=1e-15), name
        # The three terms and the within-bin variance and covariance, by their definitions.
        base = labels.mean()
        number = np.clip(np.ceil(np.round(probs * n_bins, 12)), 1, n_bins)
        reliability = resolution = within = 0.0
        for b in set(number):
            p, y = probs[number == b], labels[number == b]
            share = len(p) / len(probs)
            reliability += share * (p.mean() - y.mean()) ** 2
            resolution += share * (y.mean() - base) ** 2
            spread, moves = p - p.mean(), y - y.mean()
            within += share * ((spread**2).mean() - 2 * (spread * moves).mean())
        assert parts.reliability == pytest.approx(reliability, abs=1e-12)
        assert parts.resolution == pytest.approx(resolution, abs=1e-12)
        assert parts.uncertainty == pytest.approx(base * (1 - base), abs=1e-14)
        assert parts.within_bin == pytest.approx(within, abs=1e-12)


def test_three_terms_alone_miss_the_score(inputs):
    odds, labels = inputs.binary(20, 500, 1.5, 1.0, 0.0)
    parts = brier_decomposition(inputs.sigmoid(odds), labels, 5)
    three = parts.reliability - parts.resolution + parts.uncertainty
    assert abs(three - parts.score) > 1e-4


def test_constant_forecasts_have_nothing_within_bins():
    probs = np.repeat([0.1, 0.5, 0.9], 20)
    parts = brier_decomposition(probs, np.arange(60) % 2)
    assert parts.within_bin == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("score", ["brier", "log"])
def test_corp_is_exact_and_nonnegative(cases, score):
    for name, (probs, labels) in cases.items():
        parts = score_decomposition(probs, labels, score)
        if not math.isfinite(parts.score):
            continue
        total = parts.miscalibration - parts.discrimination + parts.uncertainty
        assert total == pytest.approx(parts.score, abs=1e-12), name
        assert parts.miscalibration >= -1e-12
        assert parts.discrimination >= -1e-12


def test_corp_recalibrates_by_isotonic_regression(cases):
    probs, labels = cases["binary tied"]
    fit = IsotonicRegression().fit(probs, labels).predict(probs)
    base = labels.mean()
    parts = score_decomposition(probs, labels)
    assert parts.miscalibration == pytest.approx(
        np.mean((probs - labels) ** 2 - (fit - labels) ** 2), abs=1e-12
    )
    assert parts.discrimination == pytest.approx(
        base * (1 - base) - np.mean((fit - labels) ** 2), abs=1e-12
    )


def test_corp_takes_any_proper_score():
    def spherical(p, y):
        return -(y * p + (1 - y) * (1 - p)) / torch.sqrt(p**2 + (1 - p) ** 2)

    draw = np.random.RandomState(1)
    probs = draw.random_sample(300)
    labels = (draw.random_sample(300) < probs**2).astype(int)
    parts = score_decomposition(probs, labels, spherical)
    assert parts.miscalibration > 0.005
    assert parts.discrimination > 0.02
    assert parts.miscalibration - parts.discrimination + parts.uncertainty == pytest.approx(
        parts.score, abs=1e-12
    )
    with pytest.raises(ValueError, match=r"^score"):
        score_decomposition(probs, labels, "accuracy")


def test_corp_of_monotone_recalibrated_forecasts_keeps_discrimination(inputs):
    odds, labels = inputs.binary(21, 400, 2.0, 0.5, 0.2)
    first = score_decomposition(inputs.sigmoid(odds), labels)
    second = score_decomposition(inputs.sigmoid(0.5 * odds + 0.2), labels)
    assert first.discrimination == pytest.approx(second.discrimination, abs=1e-12)
    assert first.miscalibration > second.miscalibration + 0.005


@pytest.mark.parametrize("score", ["log", "brier"])
def test_refinement_split(inputs, score):
    logits, labels = inputs.table(22, 800, 4, 2.0, 0.5)
    parts = refinement_split(logits, labels, score=score)
    risk = negative_log_likelihood if score == "log" else brier_score
    assert parts.risk == pytest.approx(risk(inputs.softmax(logits), labels), abs=1e-12)
    assert parts.refinement + parts.calibration == pytest.approx(parts.risk, abs=1e-15)
    assert parts.calibration > 0.03
    richer = refinement_split(logits, labels, VectorScaling(), score)
    if score == "log":
        # Refinement at the temperature 2 that made the labels is nearly optimal.
        at_truth = negative_log_likelihood(inputs.softmax(0.5 * logits), labels)
        assert parts.refinement == pytest.approx(at_truth, abs=2e-3)
        assert parts.refinement <= at_truth
        assert richer.refinement < parts.refinement
    odds, outcomes = inputs.binary(23, 300, 2.0, 0.5, 0.0)
    assert refinement_split(odds, outcomes, score=score).calibration > 0.0
    with pytest.raises(ValueError, match=r"^score"):
        refinement_split(logits, labels, score="accuracy")
