"""Overoptimization laws against scipy's optimizers, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from enough.rewards import OveroptimizationLaw, fit_overoptimization

KL = np.array([0.2, 0.5, 1.0, 2.0, 3.5, 5.0, 8.0])
FORMS = {
    "bon": lambda d, alpha, beta: d * (alpha - beta * d),
    "rl": lambda d, alpha, beta: d * (alpha - beta * np.log(d)),
}


def noisy(form, seed=0, sigma=0.1, alpha=1.8, beta=0.6):
    noise = sigma * np.random.RandomState(seed).standard_normal(len(KL))
    return FORMS[form](np.sqrt(KL), alpha, beta) + noise


@pytest.mark.parametrize("form", FORMS)
def test_exact_points_give_exact_coefficients(form):
    law = fit_overoptimization(KL, noisy(form, sigma=0.0), form)
    assert (law.alpha, law.beta) == pytest.approx((1.8, 0.6), abs=1e-12)
    assert law.alpha_se == pytest.approx(0.0, abs=1e-12)
    assert law.r2 == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(law.predict(KL), noisy(form, sigma=0.0), atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_equals_curve_fit(form):
    reward = noisy(form)
    law = fit_overoptimization(KL, reward, form)
    best, covariance = optimize.curve_fit(FORMS[form], np.sqrt(KL), reward, p0=(1.0, 1.0))
    np.testing.assert_allclose((law.alpha, law.beta), best, rtol=1e-6)
    np.testing.assert_allclose(law.covariance, covariance, rtol=1e-5)
    np.testing.assert_allclose((law.alpha_se, law.beta_se), np.sqrt(np.diag(covariance)), rtol=1e-5)
    residual = reward - FORMS[form](np.sqrt(KL), *best)
    assert law.r2 == pytest.approx(
        1 - residual.var() / reward.var() - (residual.mean() ** 2 / reward.var()), abs=1e-9
    )
    assert law.n_points == 7


@pytest.mark.parametrize("form", FORMS)
def test_the_peak_is_where_an_optimizer_finds_it(form):
    law = fit_overoptimization(KL, noisy(form), form)
    found = optimize.minimize_scalar(
        lambda d: -law.predict(d * d),
        bounds=(1e-3, 20.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert law.peak.distance == pytest.approx(found.x, rel=1e-4)
    assert law.peak.reward == pytest.approx(-found.fun, rel=1e-9)
    step = 1e-4 * law.peak.distance
    for d in (law.peak.distance - step, law.peak.distance + step):
        assert law.predict(d * d) < law.peak.reward


@pytest.mark.parametrize(
    ("form", "alpha", "beta", "peak"),
    [
        ("bon", 1.0, 0.0, (math.inf, math.inf)),
        ("bon", 1.0, -0.1, (math.inf, math.inf)),
        ("bon", -1.0, 0.5, (0.0, 0.0)),
        ("bon", -1.0, 0.0, (0.0, 0.0)),
        ("rl", 1.0, -0.1, (math.inf, math.inf)),
        ("rl", -1.0, 1.0, (math.exp(-2.0), math.exp(-2.0))),
        ("rl", 1.0, 1e-4, (math.inf, math.inf)),
        ("rl", 0.0, 0.0, (0.0, 0.0)),
    ],
)
def test_laws_without_a_peak_inside(form, alpha, beta, peak):
    law = OveroptimizationLaw(form, alpha, beta, 0.0, 0.0, np.zeros((2, 2)), 1.0, 5)
    assert tuple(law.peak) == pytest.approx(peak)


def test_points_at_zero_are_left_out():
    reward = noisy("rl")
    law = fit_overoptimization(KL, reward, "rl")
    again = fit_overoptimization(np.append(KL, [0.0, 0.0]), np.append(reward, [5.0, -3.0]), "rl")
    assert (law.alpha, law.beta, law.r2) == (again.alpha, again.beta, again.r2)
    assert again.n_points == 7
    for form in FORMS:
        assert fit_overoptimization(KL, reward, form).predict(0.0) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_intervals_cover(form):
    truth = FORMS[form](np.sqrt(KL), 1.8, 0.6)
    inside = np.zeros(len(KL))
    alpha = 0
    for seed in range(400):
        law = fit_overoptimization(KL, noisy(form, seed), form)
        low, high = law.interval(KL)
        inside += (low <= truth) & (truth <= high)
        alpha += abs(law.alpha - 1.8) <= stats.t.ppf(0.975, 5) * law.alpha_se
    # 400 draws at 95 %: outside 365 to 395 with probability 0.1 %.
    assert np.all((inside >= 365) & (inside <= 395))
    assert 365 <= alpha <= 395
    low, high = law.interval(2.0, level=0.5)
    wide = law.interval(2.0)
    assert wide[0] < low < law.predict(2.0) < high < wide[1]


def test_interval_by_the_textbook():
    reward, d = noisy("bon", 3), np.sqrt(KL)
    design = np.stack([d, -(d**2)], 1)
    solution = np.linalg.solve(design.T @ design, design.T @ reward)
    variance = np.square(reward - design @ solution).sum() / 5
    at = np.array([1.5, -(1.5**2)])
    error = math.sqrt(variance * at @ np.linalg.inv(design.T @ design) @ at)
    low, high = fit_overoptimization(KL, reward).interval(2.25, level=0.9)
    # Student's t at 0.95 with 5 degrees of freedom, from a table: 2.015.
    assert (low + high) / 2 == pytest.approx(at @ solution, rel=1e-12)
    assert (high - low) / 2 == pytest.approx(2.015048 * error, rel=1e-6)


def test_kinds():
    reward = noisy("bon")
    law = fit_overoptimization(torch.tensor(KL, dtype=torch.float32), torch.tensor(reward), "bon")
    exact = fit_overoptimization(KL, reward)
    assert law.form == exact.form == "bon"
    assert law.alpha == pytest.approx(exact.alpha, rel=1e-5)
    assert isinstance(law.predict(torch.tensor([1.0])), torch.Tensor)
    assert isinstance(law.predict([1.0]), np.ndarray)
    assert type(law.predict(1.0)) is type(law.interval(1.0)[0]) is float
    assert law.predict([[1.0, 2.0]]).shape == law.interval([[1.0, 2.0]])[1].shape == (1, 2)
    assert math.isnan(fit_overoptimization(KL, np.ones(7)).r2)


@pytest.mark.parametrize(
    ("kl", "reward", "form", "message"),
    [
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], "bon", "^kl: .*three points with KL > 0, got 2"),
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], "bon", "^kl: .*two different divergences"),
        ([1.0, -1.0, 2.0], [0.0, 1.0, 2.0], "bon", "^kl: expected entries >= 0"),
        ([1.0, math.nan, 2.0], [0.0, 1.0, 2.0], "bon", "^kl: "),
        ([1.0, 2.0, 3.0], [0.0, 1.0], "bon", r"^reward: expected shape \(3\)"),
        ([1.0, 2.0, 3.0], [0.0, 1.0, math.inf], "bon", "^reward: "),
        ([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], "ppo", "^form: expected one of 'bon', 'rl'"),
        ([[1.0, 2.0, 3.0]], [[0.0, 1.0, 2.0]], "bon", "^kl: expected 1 dimension"),
    ],
)
def test_bad_arguments_are_refused(kl, reward, form, message):
    with pytest.raises(ValueError, match=message):
        fit_overoptimization(kl, reward, form)


def test_bad_predictions_are_refused():
    law = fit_overoptimization(KL, noisy("bon"))
    with pytest.raises(ValueError, match=r"^kl"):
        law.predict(-1.0)
    with pytest.raises(ValueError, match=r"^level"):
        law.interval(1.0, level=0.0)
