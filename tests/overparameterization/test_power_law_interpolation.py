"""The power-law theory against finite sizes, numerical minimization and integrals."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from enough.data import binned_power_law
from enough.overparameterization import (
    interpolation_threshold,
    optimal_fitting_ratio,
    optimal_ridge,
    power_law_test_mse,
    rf_risk,
)

TASKS = [(1.5, 1.25), (1.5, 1.5), (1.5, 2.0), (2.0, 3.0), (2.0, 1.3), (1.4, 3.5)]


def numpy_levels(n_modes, alpha, beta):
    levels = binned_power_law(n_modes, alpha, beta)
    return levels._replace(**{name: getattr(levels, name).numpy() for name in levels._fields})


@pytest.mark.parametrize(("alpha", "beta"), TASKS)
@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0, 50.0])
def test_root_minimizes_the_error(alpha, beta, noise):
    found = optimal_fitting_ratio(alpha, beta, noise)
    direct = minimize_scalar(
        lambda r: power_law_test_mse(r, alpha, beta, noise),
        bounds=(0, 1 - 1e-9),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert found.root == pytest.approx(direct.x, abs=1e-6)
    assert found.ratio == found.root**2
    assert power_law_test_mse(found.root, alpha, beta, noise) <= direct.fun * (1 + 1e-12)


@pytest.mark.parametrize(("alpha", "beta"), TASKS)
def test_interpolation_is_optimal_up_to_the_threshold(alpha, beta):
    threshold = interpolation_threshold(alpha, beta)
    assert threshold == pytest.approx((beta - alpha) / (alpha * (alpha - 1)))
    if threshold < 0:
        assert optimal_fitting_ratio(alpha, beta, 0.0).ratio > 0
        return
    if threshold > 0:
        assert optimal_fitting_ratio(alpha, beta, 0.99 * threshold).ratio == 0.0
    assert 0 < optimal_fitting_ratio(alpha, beta, 1.01 * threshold + 1e-6).ratio < 0.01


@pytest.mark.parametrize(("alpha", "beta"), TASKS[:5])
def test_error_along_the_ridge_path_at_finite_size(alpha, beta):
    """The derivation's limit n -> infinity, at n = 1000 with 1e12 modes."""
    levels = numpy_levels(10**12, alpha, beta)
    task = (levels.eigenvalues, levels.coefficients, 1000, math.inf)
    base = rf_risk(*task, 0.0, 0.0, levels.multiplicities)
    assert base.overfitting == pytest.approx(alpha, rel=2e-3)
    for noise in (0.0, 1.0, 5.0):
        risk = rf_risk(
            *task, np.geomspace(1e-5, 30, 25), noise * base.test_mse, levels.multiplicities
        )
        root = np.sqrt(risk.fitting_ratio)
        inside = root < 0.9
        assert inside.sum() > 8
        np.testing.assert_allclose(
            risk.test_mse[inside] / base.test_mse,
            power_law_test_mse(root[inside], alpha, beta, noise),
            rtol=0.02,
        )
        best = optimal_ridge(*task, noise * base.test_mse, levels.multiplicities)
        predicted = optimal_fitting_ratio(alpha, beta, noise)
        assert best.fitting_ratio == pytest.approx(predicted.ratio, abs=0.01)


def test_exponents_of_the_learning_curve():
    """kappa falls as n ** -alpha, the noiseless error as n ** -(beta - 1)."""
    alpha, beta = 1.5, 1.8
    levels = numpy_levels(10**10, alpha, beta)
    n = np.array([300.0, 3000.0])
    risk = rf_risk(
        levels.eigenvalues, levels.coefficients, n, math.inf, 0.0, 0.0, levels.multiplicities
    )
    assert np.diff(np.log10(risk.kappa)) == pytest.approx(-alpha, abs=5e-3)
    assert np.diff(np.log10(risk.test_mse)) == pytest.approx(1 - beta, abs=5e-3)


def test_values_and_types():
    assert power_law_test_mse(0.0, 1.5, 2.0, 0.7) == pytest.approx(1 + 1.5 * 0.7)
    assert isinstance(power_law_test_mse(0.5, 1.5, 2.0), float)
    many = power_law_test_mse(torch.tensor([0.0, 0.5]), 1.5, 2.0)
    assert isinstance(many, torch.Tensor)
    assert many[1].item() == pytest.approx(2 / 1.25)
    assert isinstance(power_law_test_mse([0.0, 0.5], 1.5, 2.0), np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.0, 1.5, 0.1), "alpha"),
        ((1.5, 1.0, 0.1), "beta"),
        ((1.5, 4.0, 0.1), "beta"),
        ((1.5, 2.0, -0.1), "relative_noise"),
        ((math.nan, 2.0, 0.1), "alpha"),
    ],
)
def test_rejects_tasks_without_a_limit(arguments, name):
    with pytest.raises(ValueError, match=name):
        optimal_fitting_ratio(*arguments)
    with pytest.raises(ValueError, match="root"):
        power_law_test_mse(1.0, 1.5, 2.0)
