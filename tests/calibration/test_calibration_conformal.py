"""Conformal thresholds: ranks, coverage laws and other packages."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import beta

from enough.calibration import conformal_quantile, conformal_rank, conformal_sets

pytest_plugins = ["calibration_fixtures"]


def test_ranks_are_exact():
    for n in (1, 9, 19, 99, 199, 999, 12_345):
        for text in ("0.01", "0.05", "0.1", "0.15", "0.2", "0.3", "0.5", "0.7", "0.9", "0.99"):
            exact = math.ceil((n + 1) * (1 - Fraction(text)))
            assert conformal_rank(n, float(text)) == exact, (n, text)
    # Floating-point arithmetic answers 7 and 56 here.
    assert conformal_rank(19, 0.7) == 6 < math.ceil(20 * (1 - 0.7))
    assert conformal_rank(99, 0.45) == 55 < math.ceil(100 * (1 - 0.45))


def test_quantile_is_an_order_statistic():
    scores = np.random.RandomState(0).standard_normal(49)
    for alpha in (0.02, 0.1, 0.5, 0.98):
        rank = conformal_rank(49, alpha)
        assert conformal_quantile(scores, alpha) == np.sort(scores)[rank - 1]
    assert conformal_quantile(scores, 0.019) == math.inf
    assert conformal_quantile([1.0], 0.5) == 1.0
    assert conformal_quantile([1.0], 0.4) == math.inf
    assert conformal_quantile([3, 1, 2], 0.5) == 2
    assert conformal_quantile(torch.tensor([3.0, 1.0, 2.0], dtype=torch.bfloat16), 0.5) == 2.0


def test_coverage_follows_the_beta_law():
    # Uniform scores: coverage given the calibration set is the threshold itself.
    draw = np.random.RandomState(1)
    n, alpha = 99, 0.1
    covered = np.array([conformal_quantile(draw.random_sample(n), alpha) for _ in range(2000)])
    law = beta(90, 10)
    assert abs(covered.mean() - law.mean()) < 3 * law.std() / math.sqrt(2000)
    assert covered.std() == pytest.approx(law.std(), rel=0.05)


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
def test_sets_equal_loops(inputs, score, alpha):
    logits, labels = inputs.table(80, 160, 5, 1.5, 1.0)
    probs = inputs.softmax(logits)
    probs[5:8] = [0.3, 0.3, 0.2, 0.1, 0.1]  # ties count together

    def rate(row, j):
        return 1 - row[j] if score == "lac" else sum(p for p in row if p >= row[j])

    known = [rate(row, y) for row, y in zip(probs[:100], labels[:100], strict=True)]
    limit = sorted(known)[conformal_rank(100, alpha) - 1]
    expected = [[rate(row, j) <= limit + 1e-12 for j in range(5)] for row in probs[100:]]
    sets = conformal_sets(probs[100:], probs[:100], labels[:100], alpha, score)
    assert sets.dtype == bool
    assert sets.tolist() == expected


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_sets_cover(inputs, score):
    logits, labels = inputs.table(81, 12_000, 4, 1.0, 2.0)
    probs = inputs.softmax(logits)
    hits = []
    for start in range(0, 12_000, 120):
        known, new = slice(start, start + 99), slice(start + 99, start + 120)
        sets = conformal_sets(probs[new], probs[known], labels[known], 0.1, score)
        hits.append(sets[np.arange(21), labels[new]].mean())
    error = np.std(hits) / math.sqrt(len(hits))
    assert np.mean(hits) > 0.9 - 3 * error
    assert np.mean(hits) < 0.9 + 0.01 + 3 * error


def test_sets_hold_everything_when_there_is_too_little_data():
    probs = np.array([[0.9, 0.1], [0.5, 0.5]])
    assert conformal_sets(probs, probs, [0, 1], 0.1).all()


def test_equals_mapie_and_crepes(oracle, inputs):
    for case in oracle["conformal"]:
        if "table" in case:
            logits, labels = inputs.table(*case["table"])
            probs, n = inputs.softmax(logits), case["n_known"]
            sets = conformal_sets(probs[n:], probs[:n], labels[:n], case["alpha"])
            assert sets.sum(1).tolist() == case["mapie_lac_sizes"]
        else:
            residuals = np.abs(np.random.RandomState(case["seed"]).standard_normal(49))
            ours = conformal_quantile(residuals, case["alpha"])
            assert ours == pytest.approx(case["crepes_half_width"], abs=1e-12)


def test_bad_arguments_are_refused():
    for alpha in (0.0, 1.0, -0.1, math.nan, "a"):
        with pytest.raises(ValueError, match=r"^alpha"):
            conformal_quantile([1.0], alpha)
    with pytest.raises(ValueError, match=r"^scores"):
        conformal_quantile([[1.0]], 0.1)
    with pytest.raises(ValueError, match=r"^scores: .*finite"):
        conformal_quantile([1.0, math.nan], 0.1)
    with pytest.raises(ValueError, match=r"^n"):
        conformal_rank(0, 0.1)
    good = np.array([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"^calibration_probs"):
        conformal_sets(good, 2 * good, [0])
    with pytest.raises(ValueError, match=r"^probs"):
        conformal_sets(2 * good, good, [0])
    with pytest.raises(ValueError, match=r"^probs: expected 2 classes"):
        conformal_sets(np.full((1, 4), 0.25), good, [0])
    with pytest.raises(ValueError, match=r"^score"):
        conformal_sets(good, good, [0], score="raps")
