"""The eigenframework against high precision, closed forms and its own original equations."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar

from enough.overparameterization import (
    eigenframework,
    finite_population_test_mse,
    optimal_ridge,
    rf_risk,
)

INDEX = np.arange(1.0, 13.0)
SPECTRA = {
    "power law": INDEX**-1.5,
    "gap": np.r_[np.ones(4), np.full(8, 1e-9)],
    "flat": np.full(12, 0.3),
    "zeros": np.r_[INDEX[:8] ** -1.2, np.zeros(4)],
}
TARGET = np.cos(INDEX) / INDEX**0.6


def reference(eigenvalues, powers, n, k, delta, noise, counts=None):
    """The paper's two equations solved in 60 digits, and the paper's form of the errors."""
    with mp.workdps(60):
        lam = [mp.mpf(float(x)) for x in eigenvalues]
        count = [mp.mpf(1)] * len(lam) if counts is None else [mp.mpf(float(c)) for c in counts]
        power = [mp.mpf(float(p)) for p in powers]
        n, delta, noise = mp.mpf(n), mp.mpf(delta), mp.mpf(noise)

        def z(gamma):
            return mp.fsum(c * x / (x + gamma) for x, c in zip(lam, count, strict=True))

        low, high = mp.mpf(-400), mp.mpf(60)
        while high - low > mp.mpf(10) ** -50:
            gamma = mp.exp((low + high) / 2)
            total = z(gamma)
            kappa = gamma if k == math.inf else gamma * (k - total) / k  # second equation
            # Below the root a factor is negative or the product too small (first equation).
            above = total < n and kappa > 0 and (n - total) * kappa > delta
            low, high = (low, (low + high) / 2) if above else ((low + high) / 2, high)
        gamma = mp.exp(high)
        total = z(gamma)
        kappa = gamma if k == math.inf else gamma * (k - total) / k
        learned = [x / (x + gamma) for x in lam]
        q = mp.fsum(c * x**2 for x, c in zip(learned, count, strict=True))
        if k == math.inf:
            amplification = n / (n - q)
            bias = mp.fsum((1 - x) ** 2 * p for x, p in zip(learned, power, strict=True))
        else:
            amplification = 1 / (1 - (q * (k - 2 * total) + total**2) / (n * (k - q)))
            bias = mp.fsum(
                (gamma / (x + gamma) - kappa * x / (x + gamma) ** 2 * k / (k - q)) * p
                for x, p in zip(lam, power, strict=True)
            )
        test = amplification * (bias + noise)
        return test, (delta / (n * kappa)) ** 2 * test, kappa, gamma, amplification


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("n", [4, 7.5, 20])
def test_matches_the_papers_equations_in_high_precision(name, n):
    for k, delta in itertools.product([3, 4, 7.5, 200, math.inf], [1e-10, 1e-3, 2.0]):
        found = rf_risk(SPECTRA[name], TARGET, n, k, delta, 0.3)
        want = reference(SPECTRA[name], TARGET**2, n, k, delta, 0.3)
        for field, value in zip(
            (found.test_mse, found.train_mse, found.kappa, found.gamma, found.overfitting),
            want,
            strict=True,
        ):
            assert field == pytest.approx(float(value), rel=1e-11)
        assert found.fitting_ratio == pytest.approx(float(want[1] / want[0]), rel=1e-11)


@pytest.mark.parametrize("name", SPECTRA)
def test_ridge_zero_is_the_limit_of_small_ridges(name):
    """All orders of samples, features and rank; the limit in 60 digits at ridge 1e-36."""
    rank = int((SPECTRA[name] > 0).sum())
    for n, k in itertools.product(
        [3, rank - 1, rank, rank + 3], [3.5, rank - 1, rank, 90, math.inf]
    ):
        want = reference(SPECTRA[name], TARGET**2, n, k, mp.mpf(10) ** -36, 0)
        ratio = float(want[1] / want[0])
        for noise in (0.0, 0.2):
            found = rf_risk(SPECTRA[name], TARGET, n, k, 0.0, noise)
            test_mse = float(want[0] + noise * want[4])
            if math.isinf(found.test_mse):
                assert n == min(k, rank)
                assert test_mse > 1e8
                assert found.train_mse == 0.0
            else:
                assert found.test_mse == pytest.approx(test_mse, rel=1e-7, abs=1e-9)
                assert found.train_mse == pytest.approx(ratio * test_mse, rel=1e-7, abs=1e-9)
            assert found.fitting_ratio == pytest.approx(ratio, abs=1e-9)
            assert found.kappa == pytest.approx(float(want[2]), rel=1e-7, abs=1e-9)
            assert found.gamma == pytest.approx(float(want[3]), rel=1e-7, abs=1e-9)


def test_ridge_zero_in_closed_form():
    unit = np.ones(4)
    # Interpolation at the threshold diverges for any error that is not zero.
    assert rf_risk(INDEX**-1.5, TARGET, 10, 10, 0.0).test_mse == math.inf
    assert rf_risk(INDEX**-1.5, TARGET, 10, 10, 0.0).train_mse == 0.0
    assert rf_risk(INDEX**-1.5, 0 * TARGET, 10, 10, 0.0).test_mse == 0.0
    # Fewer features than samples: no kappa, and the training error of a projection.
    few = rf_risk(INDEX**-1.5, TARGET, 20, 5, 0.0, 0.1)
    assert few.kappa == 0.0
    assert few.gamma > 0.0
    assert few.train_mse == pytest.approx((1 - 5 / 20) ** 2 * few.test_mse, rel=1e-15)
    # Everything learned: what remains is the noise, amplified as in least squares.
    full = rf_risk(unit, unit, 10, math.inf, 0.0, 0.5)
    assert full.test_mse == pytest.approx(0.5 * 10 / 6, rel=1e-15)
    assert full.train_mse == pytest.approx(0.5 * 6 / 10, rel=1e-15)
    assert (full.kappa, full.gamma) == (0.0, 0.0)
    # As many samples as modes.
    assert rf_risk(unit, unit, 4, 9, 0.0, 0.5).test_mse == math.inf
    assert rf_risk(unit, unit, 4, 9, 0.0, 0.0).test_mse == 0.0
    assert rf_risk(unit, unit, 4, 4, 0.0, 0.5).test_mse == math.inf
    assert rf_risk(unit, unit, 9, 4, 0.0, 0.5).test_mse == pytest.approx(0.5 * 9 / 5, rel=1e-15)
    # A mode without eigenvalue keeps its power unlearned, at the threshold too.
    blind = rf_risk(np.zeros(3), [1.0, 2.0, 0.0], 7, 3, 0.0, 0.25)
    assert (blind.test_mse, blind.train_mse) == (5.25, 5.25)
    assert rf_risk([1.0, 0.0], [1.0, 1.0], 1, 5, 0.0).test_mse == math.inf


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_isotropic_interpolation_in_closed_form(noise):
    """E = |v|^2 (1 - n/p) + s (p/(p - n)), known from least squares in p dimensions."""
    p, n = 512, 256
    found = rf_risk(np.full(p, 1 / p), np.full(p, p**-0.5), n, math.inf, 0.0, noise)
    want = (1 - n / p) + noise * p / (p - n)
    assert found.test_mse == pytest.approx(want, rel=1e-14)


def test_a_wide_gap_leaves_a_sharp_threshold():
    """n equal modes far above the rest: gamma is the geometric mean that no sum can resolve."""
    for small in (1e-20, 1e-40, 1e-200):
        risk = rf_risk([1.0] * 100 + [small] * 1000, np.zeros(1100), 100, math.inf, 0.0, 1.0)
        gamma = math.sqrt(10 * small)
        assert risk.gamma == pytest.approx(gamma, rel=1e-9)
        assert risk.overfitting == pytest.approx(1 / (2 * gamma), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(
    decades=st.lists(st.floats(-30, 3), min_size=1, max_size=12),
    n=st.floats(0.5, 40),
    k=st.one_of(st.floats(0.5, 40), st.just(math.inf)),
    ridge=st.floats(-20, 3),
)
def test_gamma_of_any_spectrum_is_right_to_rounding(decades, n, k, ridge):
    eigenvalues = 10.0 ** np.array(decades)
    found = rf_risk(eigenvalues, np.ones(len(decades)), n, k, 10.0**ridge, 0.1)
    want = reference(eigenvalues, np.ones(len(decades)), n, k, 10.0**ridge, 0.1)
    assert found.gamma == pytest.approx(float(want[3]), rel=1e-12)
    assert found.test_mse == pytest.approx(float(want[0]), rel=1e-11)


def test_solves_both_original_equations_and_the_reduced_one():
    eigenvalues = np.arange(1.0, 3001.0) ** -1.5
    n = np.array([64.0, 256.0, 700.0])[:, None, None]
    k = np.array([50.0, 256.0, 1024.0])[:, None]
    delta = np.array([1e-3, 0.1, 10.0])
    risk = rf_risk(eigenvalues, eigenvalues**0.5, n, k, delta, 0.5)
    z = (eigenvalues / (eigenvalues + risk.gamma[..., None])).sum(-1)
    assert (np.abs(z + delta / risk.kappa - n) / n).max() < 1e-9
    assert (np.abs(z + k * risk.kappa / risk.gamma - k) / k).max() < 1e-9
    assert (np.abs((n - z) * (k - z) * risk.gamma / (k * delta) - 1)).max() < 1e-6
    ratio = (delta / (n * risk.kappa)) ** 2
    np.testing.assert_allclose(risk.fitting_ratio, ratio, rtol=1e-9)
    np.testing.assert_allclose(risk.train_mse, ratio * risk.test_mse, rtol=1e-9)


def test_agrees_with_scipy_on_kernel_regression():
    eigenvalues = np.arange(1.0, 501.0) ** -1.3
    power = np.arange(1.0, 501.0) ** -1.7
    n, delta, noise = 60, 0.02, 0.4
    kappa = brentq(
        lambda x: (eigenvalues / (eigenvalues + x)).sum() + delta / x - n, 1e-9, 10.0, xtol=1e-16
    )
    learned = eigenvalues / (eigenvalues + kappa)
    want = n / (n - (learned**2).sum()) * (((1 - learned) ** 2 * power).sum() + noise)
    risk = rf_risk(eigenvalues, power**0.5, n, math.inf, delta, noise)
    assert risk.kappa == pytest.approx(kappa, rel=1e-11)
    assert risk.gamma == risk.kappa
    assert risk.test_mse == pytest.approx(want, rel=1e-11)
    wide = rf_risk(eigenvalues, power**0.5, n, 1e12, delta, noise)
    assert wide.test_mse == pytest.approx(want, rel=1e-9)


def test_gamma_is_symmetric_in_samples_and_features():
    eigenvalues = INDEX**-1.5
    one = rf_risk(eigenvalues, TARGET, 12, 30, 0.07)
    other = rf_risk(eigenvalues, TARGET, 30, 12, 0.07 * 30 / 12)
    assert one.gamma == pytest.approx(other.gamma, rel=1e-14)
    assert one.test_mse != pytest.approx(other.test_mse, rel=1e-3)


def test_prototype_values_of_a_gaussian_design():
    """Values of an independent prototype, to the digits it printed."""
    eigenvalues = np.arange(1.0, 2001.0) ** -1.5
    features = [64, 128, 256, 512, 1024]
    risk = rf_risk(eigenvalues, eigenvalues**0.5, 256, features, 0.01, 0.5)
    np.testing.assert_allclose(
        risk.test_mse, [1.189, 1.426, 1.932, 1.389, 1.151], rtol=0, atol=6e-4
    )


def test_repeated_eigenvalues_and_the_order_of_modes():
    values, counts = np.array([0.1, 2.0, 0.5, 0.0]), np.array([5, 2, 3, 4])
    power = np.array([1.0, 0.3, 2.0, 0.7])
    levels = rf_risk(values, power**0.5, 6, [4, 6, 9], [[0.0], [0.2]], 0.1, counts)
    modes = rf_risk(
        np.repeat(values, counts),
        np.repeat((power / counts) ** 0.5, counts),
        6,
        [4, 6, 9],
        [[0.0], [0.2]],
        0.1,
    )
    for field in ("test_mse", "train_mse", "kappa", "gamma", "overfitting"):
        np.testing.assert_allclose(getattr(levels, field), getattr(modes, field), rtol=1e-13)
    # Fractional multiplicities interpolate between whole ones.
    want = reference(values, power, 6, 9, 0.2, 0.1, counts + 0.5)
    found = rf_risk(values, power**0.5, 6, 9, 0.2, 0.1, counts + 0.5)
    assert found.test_mse == pytest.approx(float(want[0]), rel=1e-12)


def test_modes_without_eigenvalue_act_as_noise():
    values = INDEX**-1.5
    for n, k, delta in [(9, 30, 0.1), (30, 9, 0.0), (9, math.inf, 0.0), (50, 60, 0.0)]:
        with_mode = rf_risk(np.r_[values, 0.0], np.r_[TARGET, 1.5], n, k, delta, 0.2)
        as_noise = rf_risk(values, TARGET, n, k, delta, 0.2 + 1.5**2)
        assert with_mode.test_mse == pytest.approx(as_noise.test_mse, rel=1e-14)
        assert with_mode.train_mse == pytest.approx(as_noise.train_mse, rel=1e-14)


def test_points_broadcast_and_chunks_do_not_matter(monkeypatch):
    eigenvalues = INDEX**-1.5
    n, k = np.array([5, 20])[:, None, None], np.array([3.0, 20.0, math.inf])[:, None]
    ridge, noise = np.array([0.0, 0.1, 1.0, 10.0]), 0.3
    grid = rf_risk(eigenvalues, TARGET, n, k, ridge, noise)
    assert grid.test_mse.shape == grid.gamma.shape == (2, 3, 4)
    for i, j, l in itertools.product(range(2), range(3), range(4)):
        one = rf_risk(eigenvalues, TARGET, n[i, 0, 0], k[j, 0], ridge[l], noise)
        assert one.test_mse == pytest.approx(grid.test_mse[i, j, l], rel=1e-13)
    monkeypatch.setattr(eigenframework, "_MEMORY", 1)  # one point at a time
    again = rf_risk(eigenvalues, TARGET, n, k, ridge, noise)
    np.testing.assert_allclose(again.test_mse, grid.test_mse, rtol=1e-13)
    # Noise on an axis of its own needs no further solve but broadcasts alike.
    noises = rf_risk(eigenvalues, TARGET, 7, [3, 9], 0.1, [[0.0], [0.5], [1.0]])
    assert noises.test_mse.shape == noises.kappa.shape == (3, 2)
    assert noises.test_mse[1, 1] == rf_risk(eigenvalues, TARGET, 7, 9, 0.1, 0.5).test_mse


def test_returns_what_was_given():
    values, target = INDEX**-1.5, TARGET
    scalar = rf_risk(torch.tensor(values), torch.tensor(target), 5, 9, 0.1)
    assert all(isinstance(x, float) for x in vars(scalar).values())
    assert isinstance(rf_risk(values, target, 5, 9, [0.1]).test_mse, np.ndarray)
    ridge = torch.tensor([0.1, 1.0])
    assert isinstance(rf_risk(values, target, 5, 9, ridge).test_mse, torch.Tensor)
    single = rf_risk(torch.tensor(values, dtype=torch.float32), target, 5, 9, ridge)
    assert single.test_mse.dtype == torch.float64
    assert rf_risk(list(values), list(target), 5, 9, 0.1).test_mse == scalar.test_mse
    two = rf_risk(values, np.stack([target, 2 * target], 1), 5, [9, 10, 11], 0.1)
    assert two.test_mse.shape == two.train_mse.shape == (3, 2)
    assert two.kappa.shape == two.fitting_ratio.shape == (3,)
    np.testing.assert_allclose(two.test_mse[:, 1], 4 * two.test_mse[:, 0], rtol=1e-14)
    assert rf_risk(values, np.stack([target] * 2, 1), 5, 9, 0.1).test_mse.shape == (2,)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"eigenvalues": [1.0, -0.1]}, "eigenvalues"),
        ({"eigenvalues": [1.0, math.nan]}, "eigenvalues"),
        ({"eigenvalues": [[1.0, 0.5]]}, "eigenvalues"),
        ({"eigenvalues": []}, "eigenvalues"),
        ({"coefficients": [1.0]}, "coefficients"),
        ({"coefficients": [1.0, math.inf]}, "coefficients"),
        ({"n_samples": 0}, "n_samples"),
        ({"n_samples": math.inf}, "n_samples"),
        ({"n_samples": [3, math.nan]}, "n_samples"),
        ({"n_features": 0}, "n_features"),
        ({"n_features": math.nan}, "n_features"),
        ({"n_features": -math.inf}, "n_features"),
        ({"ridge": -1e-9}, "ridge"),
        ({"ridge": math.nan}, "ridge"),
        ({"ridge": "tiny"}, "ridge"),
        ({"noise_variance": -1.0}, "noise_variance"),
        ({"multiplicities": [1.0]}, "multiplicities"),
        ({"multiplicities": [1.0, 0.0]}, "multiplicities"),
        ({"n_samples": [1, 2], "ridge": [1, 2, 3]}, "n_samples.*broadcast"),
    ],
)
def test_rejects_what_makes_no_sense(changes, name):
    arguments = {
        "eigenvalues": [1.0, 0.5],
        "coefficients": [1.0, 1.0],
        "n_samples": 3,
        "n_features": 5,
        "ridge": 0.1,
    }
    with pytest.raises(ValueError, match=name):
        rf_risk(**(arguments | changes))


def test_optimal_ridge_against_a_direct_search():
    eigenvalues = INDEX**-1.5
    for n, k, noise in [
        (12, 7, 0.1),
        (12, 12, 0.1),
        (12, 40, 1.0),
        (30, math.inf, 0.01),
        (60, 90, 0.3),
    ]:
        found = optimal_ridge(eigenvalues, TARGET, n, k, noise)
        direct = minimize_scalar(
            lambda t, n=n, k=k, noise=noise: (
                rf_risk(eigenvalues, TARGET, n, k, 10.0**t, noise).test_mse
            ),
            bounds=(-6, 4),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert found.test_mse == pytest.approx(direct.fun, rel=1e-10)
        assert found.ridge == pytest.approx(10**direct.x, rel=1e-4)
        there = rf_risk(eigenvalues, TARGET, n, k, found.ridge, noise)
        assert there.test_mse == pytest.approx(found.test_mse, rel=1e-9)
        assert there.train_mse == pytest.approx(found.train_mse, rel=1e-6)
        assert there.fitting_ratio == pytest.approx(found.fitting_ratio, rel=1e-6)


def test_optimal_ridge_of_a_matched_prior_is_the_noise_variance():
    """With v^2 = lambda, kernel regression is Bayes-optimal at ridge = noise variance."""
    eigenvalues = np.arange(1.0, 2001.0) ** -1.4
    noise = np.array([0.01, 0.5, 30.0])
    found = optimal_ridge(eigenvalues, eigenvalues**0.5, [[20], [300]], math.inf, noise)
    np.testing.assert_allclose(found.ridge, np.broadcast_to(noise, (2, 3)), rtol=1e-5)


def test_optimal_ridge_at_its_ends():
    # A smooth target without noise: interpolation is best.
    smooth = optimal_ridge(INDEX**-1.5, INDEX**-2.0, 6, math.inf)
    assert (smooth.ridge, smooth.fitting_ratio) == (0.0, 0.0)
    # Nothing to learn: ignore the data.
    blind = optimal_ridge([1.0, 0.5, 0.0], [0.0, 0.0, 2.0], 5, 7, 0.5)
    assert (blind.ridge, blind.test_mse, blind.train_mse) == (math.inf, 4.5, 4.5)
    # Very little to learn: a finite ridge, far out.
    weak = optimal_ridge([1.0, 0.5], [1e-3, 0.0], 5, 7, 0.5)
    assert 1e5 < weak.ridge < math.inf
    assert weak.test_mse < 0.5 + 1e-6
    # A target of finite rank without noise is learned exactly.
    exact = optimal_ridge([1.0, 0.5], [1.0, 1.0], 5, 7)
    assert (exact.ridge, exact.test_mse) == (0.0, 0.0)
    # At n = k ridge zero diverges, so the optimum is inside.
    assert 0 < optimal_ridge(INDEX**-1.5, TARGET, 10, 10).ridge < math.inf
    with pytest.raises(ValueError, match="coefficients"):
        optimal_ridge([1.0, 0.5], [[1.0], [1.0]], 5, 7)
    assert isinstance(optimal_ridge(torch.ones(2), torch.ones(2), [3, 4], 5).ridge, torch.Tensor)


@settings(max_examples=15, deadline=None)
@given(
    alpha=st.floats(0.3, 3),
    beta=st.floats(0.3, 4),
    noise=st.floats(0, 3),
    n=st.integers(3, 60),
    k=st.integers(3, 60),
)
def test_more_is_better_at_the_optimal_ridge(alpha, beta, noise, n, k):
    found = optimal_ridge(
        INDEX**-alpha, INDEX ** (-beta / 2), [n, n + 3, n], [k, k, k + 3], noise
    ).test_mse
    assert found[1] <= found[0] * (1 + 1e-9)
    assert found[2] <= found[0] * (1 + 1e-9)


def test_finite_population_correction():
    """A mean over M points splits into the n drawn and the M - n others."""
    rng = np.random.default_rng(0)
    errors = rng.random(50)
    drawn = np.zeros(50, bool)
    drawn[:20] = True
    found = finite_population_test_mse(errors.mean(), errors[drawn].mean(), 20, 50)
    assert found == pytest.approx(errors[~drawn].mean(), rel=1e-14)
    many = finite_population_test_mse(np.ones(3), np.zeros(3), [1, 2, 3], 4)
    np.testing.assert_allclose(many, [4 / 3, 2.0, 4.0])
    assert isinstance(finite_population_test_mse(torch.ones(2), 0.0, 1, 4), torch.Tensor)
    with pytest.raises(ValueError, match="n_samples"):
        finite_population_test_mse(1.0, 0.5, 4, 4)
    with pytest.raises(ValueError, match="test_mse"):
        finite_population_test_mse(math.nan, 0.5, 3, 4)
    with pytest.raises(ValueError, match="broadcast"):
        finite_population_test_mse([1.0, 2.0], [0.5] * 3, 3, 4)


def test_parts_of_a_long_spectrum_do_not_matter(monkeypatch):
    eigenvalues = INDEX**-1.5
    n, k = np.array([5.0, 20.0])[:, None], np.array([3.0, 20.0, math.inf])
    whole = rf_risk(eigenvalues, TARGET, n, k, 0.1, 0.3)
    best = optimal_ridge(eigenvalues, TARGET, n, k, 0.3)
    monkeypatch.setattr(eigenframework, "_MODES", 7)
    parts = rf_risk(eigenvalues, TARGET, n, k, 0.1, 0.3)
    for name, value in vars(whole).items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-12, err_msg=name)
    again = optimal_ridge(eigenvalues, TARGET, n, k, 0.3)
    np.testing.assert_allclose(again.test_mse, best.test_mse, rtol=1e-12)
