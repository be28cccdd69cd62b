"""Tilted distributions against optimization, closed forms, derivatives and high precision."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import optimize, special

from enough.rewards import (
    best_of_n_distribution,
    best_of_n_kl_exact,
    solve_tilt,
    tilted_distribution,
    tilted_frontier,
)

SCORES = np.array([0.3, -1.0, 2.0, 0.3, 1.1])
PROBS = np.array([0.1, 0.4, 0.05, 0.25, 0.2])


def divergence(q, p):
    return float(special.rel_entr(q, p).sum())


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_no_distribution_has_a_higher_penalized_score(beta):
    def loss(logits):
        q = special.softmax(logits)
        return beta * divergence(q, PROBS) - q @ SCORES

    found = optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    tilted = tilted_distribution(SCORES, beta, probs=PROBS)
    np.testing.assert_allclose(tilted, special.softmax(found.x), atol=1e-5)
    frontier = tilted_frontier(SCORES, 2.0 - SCORES, beta, probs=PROBS)
    assert frontier.proxy - beta * frontier.kl == pytest.approx(-found.fun, abs=1e-9)
    assert frontier.kl == pytest.approx(divergence(tilted, PROBS), abs=1e-13)
    assert frontier.proxy == pytest.approx(tilted @ SCORES, abs=1e-13)
    assert frontier.gold == pytest.approx(2.0 - tilted @ SCORES, abs=1e-13)


def test_two_outcomes_in_closed_form():
    beta = np.array([0.01, 0.1, 1.0, 10.0, 1e3])
    found = tilted_frontier([0.0, 1.0], [0.0, -1.0], beta)
    high = special.expit(1.0 / beta)
    np.testing.assert_allclose(found.proxy, high, rtol=1e-14)
    np.testing.assert_allclose(found.gold, -high, rtol=1e-14)
    kl = math.log(2) - special.entr(high) - special.entr(1 - high)
    np.testing.assert_allclose(found.kl, kl, atol=1e-14)


def test_the_divergence_rises_by_the_variance():
    draw = np.random.RandomState(0)
    scores = draw.standard_normal(300)
    for strength in (0.3, 1.0, 4.0):
        step = 1e-5
        low, high = tilted_frontier(
            scores, scores, [1 / (strength - step), 1 / (strength + step)]
        ).kl
        q = special.softmax(strength * scores)
        variance = q @ scores**2 - (q @ scores) ** 2
        assert (high - low) / (2 * step) == pytest.approx(strength * variance, rel=1e-6)


def test_ends():
    found = tilted_frontier(SCORES, SCORES**2, [math.inf, 0.0], probs=PROBS)
    np.testing.assert_allclose(found.kl, [0.0, -math.log(0.05)], atol=1e-15)
    np.testing.assert_allclose(found.gold, [PROBS @ SCORES**2, 4.0], atol=1e-14)
    tied = tilted_distribution([1.0, 3.0, 3.0], 0.0, probs=[0.5, 0.3, 0.2])
    np.testing.assert_allclose(tied, [0.0, 0.6, 0.4], atol=1e-15)
    near = tilted_distribution([1.0, 3.0, 3.0], 1e-300, probs=[0.5, 0.3, 0.2])
    np.testing.assert_allclose(near, tied, atol=1e-15)


def test_outcomes_without_mass_stay_without():
    found = tilted_distribution([0.0, 1.0, 9.0], 0.5, probs=[0.5, 0.5, 0.0])
    np.testing.assert_allclose(found, [*special.softmax([0.0, 2.0]), 0.0], atol=1e-15)
    for beta in (0.0, math.inf):
        frontier = tilted_frontier([0.0, 1.0, 9.0], [1.0, 2.0, 3.0], beta, probs=[0.5, 0.5, 0.0])
        assert frontier.kl == pytest.approx(math.log(2) if beta == 0.0 else 0.0, abs=1e-15)


def test_high_precision():
    draw = np.random.RandomState(1)
    scores = 100.0 * draw.standard_normal(50)
    beta = np.array([0.05, 3.0, 700.0])
    found = tilted_frontier(scores, scores, beta)
    with mpmath.workdps(60):
        for i, b in enumerate(beta):
            weights = [mpmath.exp(mpmath.mpf(float(s)) / mpmath.mpf(float(b))) for s in scores]
            total = sum(weights)
            mean = sum(w * mpmath.mpf(float(s)) for w, s in zip(weights, scores, strict=True))
            kl = mean / total / mpmath.mpf(float(b)) - mpmath.log(total / 50)
            assert found.kl[i] == pytest.approx(float(kl), abs=1e-13)
            assert found.proxy[i] == pytest.approx(float(mean / total), rel=1e-13)


def test_prompts_share_beta():
    draw = np.random.RandomState(2)
    proxy, gold = draw.standard_normal((2, 3, 4, 20))
    found = tilted_frontier(proxy, gold, [[0.3, 2.0]])
    rows = [tilted_frontier(proxy[i], gold[i], [[0.3, 2.0]]) for i in np.ndindex(3, 4)]
    for name in ("kl", "gold", "proxy"):
        each = [getattr(row, name) for row in rows]
        np.testing.assert_allclose(getattr(found, name), np.mean(each, axis=0), atol=1e-14)
    beta = solve_tilt(proxy, 0.7)
    assert tilted_frontier(proxy, gold, beta).kl == pytest.approx(0.7, abs=1e-11)


@pytest.mark.parametrize("kl", [1e-6, 0.01, 1.0, 2.9, math.log(1 / 0.05) - 1e-9])
def test_solving_for_the_divergence(kl):
    beta = solve_tilt(SCORES, kl, probs=PROBS)
    assert tilted_frontier(SCORES, SCORES, beta, probs=PROBS).kl == pytest.approx(kl, rel=1e-8)
    assert solve_tilt(1e6 * SCORES, kl, probs=PROBS) == pytest.approx(1e6 * beta, rel=1e-6)


def test_solving_for_nothing():
    assert solve_tilt(SCORES, 0.0) == math.inf
    assert solve_tilt([1.0, 1.0], 0.0) == math.inf


def test_solving_for_the_highest_score_alone():
    # Two answers share the highest score and hold 0.3 and 0.1 of the base.
    base, scores = [0.6, 0.3, 0.1], [0.0, 2.0, 2.0]
    ceiling = -math.log(0.4)
    assert solve_tilt(scores, ceiling * (1 + 1e-14), probs=base) == 0.0
    assert solve_tilt(scores, ceiling * (1 - 1e-9), probs=base) > 0.0
    found = tilted_frontier(scores, scores, 0.0, probs=base)
    assert found.proxy == pytest.approx(2.0, rel=1e-14)
    assert found.kl == pytest.approx(ceiling, rel=1e-14)


def test_best_of_n_is_not_above_the_frontier():
    for n in (2, 5, 20):
        kl = best_of_n_kl_exact(PROBS, SCORES, n)
        reached = best_of_n_distribution(PROBS, SCORES, n) @ SCORES
        beta = solve_tilt(SCORES, kl, probs=PROBS)
        assert reached < tilted_frontier(SCORES, SCORES, beta, probs=PROBS).proxy
    # On a pool as well.
    pool, uniform = np.random.RandomState(3).standard_normal(500), np.full(500, 1 / 500)
    beta = solve_tilt(pool, best_of_n_kl_exact(uniform, pool, 8))
    reached = best_of_n_distribution(uniform, pool, 8) @ pool
    assert reached < tilted_frontier(pool, pool, beta).proxy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kind_and_dtype_come_back(dtype):
    scores = torch.tensor([0.0, 1.0, 2.0], dtype=dtype)
    found = tilted_frontier(scores, scores, torch.tensor([1.0, 2.0]))
    for part in (found.beta, found.kl, found.gold, found.proxy):
        assert part.dtype == dtype
        assert part.shape == (2,)
    assert tilted_distribution(scores, 1.0).dtype == dtype
    torch.testing.assert_close(tilted_distribution(scores, 1.0), scores.softmax(0))
    assert isinstance(tilted_frontier([0, 1], [0, 1], [1.0]).kl, np.ndarray)
    assert type(tilted_frontier(scores, scores, 1).kl) is float
    assert type(solve_tilt(scores, 0.5)) is float


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tilted_distribution([0.0, 1.0], -1.0), "^beta: .*>= 0"),
        (lambda: tilted_distribution([0.0, 1.0], math.nan), "^beta"),
        (lambda: tilted_distribution([0.0, math.inf], 1.0), "^scores"),
        (lambda: tilted_distribution([0.0, 1.0], 1.0, probs=[1.0]), r"^probs: expected shape"),
        (lambda: tilted_distribution([0.0, 1.0], 1.0, probs=[0.5, 0.6]), "^probs: .*sum to 1"),
        (lambda: tilted_frontier([0.0, 1.0], [0.0, 1.0], [1.0, -2.0]), "^beta: .*got -2.0"),
        (lambda: tilted_frontier([0.0, 1.0], [0.0, 1.0], [math.nan]), "^beta"),
        (lambda: tilted_frontier([0.0, 1.0], [0.0, 1.0], []), "^beta"),
        (lambda: tilted_frontier([0.0, 1.0], [0.0], 1.0), "^proxy, gold"),
        (lambda: solve_tilt([0.0, 1.0], -0.1), "^kl"),
        (lambda: solve_tilt([0.0, 1.0], math.log(2) + 1e-9), "^kl: expected at most 0.693"),
        (lambda: solve_tilt([1.0, 1.0], 0.1), "^kl: expected at most 0.0"),
        (lambda: solve_tilt([1.0, math.nan], 0.1), "^proxy"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
