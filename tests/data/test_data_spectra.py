"""Power-law spectra against zeta functions, brute force and higher precision."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from enough.data import binned_power_law, power_law_coefficients, power_law_spectrum


def test_modes_one_by_one():
    spectrum = power_law_spectrum(5, 2.0)
    torch.testing.assert_close(spectrum, torch.tensor([1, 1 / 4, 1 / 9, 1 / 16, 1 / 25]).double())
    coefficients = power_law_coefficients(5, 3.0)
    torch.testing.assert_close(coefficients**2, power_law_spectrum(5, 3.0))
    assert power_law_spectrum(3, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert power_law_spectrum(4, 1.2, dtype=torch.float32).dtype == torch.float32


def test_sum_approaches_the_zeta_function():
    # Tail beyond n: between n^(1-a)/(a-1) and the same at n + 1.
    n, alpha = 10**6, 2.0
    missing = math.pi**2 / 6 - float(power_law_spectrum(n, alpha).sum())
    assert 1 / (n + 1) < missing < 1 / n


def hurwitz_sum(first, last, s):
    """Σ i^(−s), first … last, with fifty digits."""
    with mpmath.workdps(50):
        if s == 1:
            return mpmath.digamma(last + 1) - mpmath.digamma(first)
        return mpmath.zeta(s, first) - mpmath.zeta(s, last + 1)


@pytest.mark.parametrize("n_modes", [17, 1001, 12345, 10**6, 10**10, 10**15])
@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 1.2), (1.0, 2.0), (0.5, 1.0), (3.0, 4.0)])
def test_bins_keep_trace_power_and_count(n_modes, alpha, beta):
    binned = binned_power_law(n_modes, alpha, beta, n_exact=16, n_bins=500)
    eigenvalues, coefficients, multiplicities = binned
    assert int(multiplicities.sum()) == n_modes
    trace = float((multiplicities * eigenvalues).sum())
    power = float((coefficients**2).sum())
    assert trace == pytest.approx(float(hurwitz_sum(1, n_modes, alpha)), rel=1e-12)
    assert power == pytest.approx(float(hurwitz_sum(1, n_modes, beta)), rel=1e-12)
    assert len(eigenvalues) <= 16 + 500
    assert (eigenvalues.diff() < 0).all()


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0, 1.5, 4.0])
def test_every_single_bin_is_exact(s):
    binned = binned_power_law(10**10, s, s, n_exact=16, n_bins=40)
    first = 1
    for count, level, coefficient in zip(
        binned.multiplicities.tolist(),
        binned.eigenvalues.tolist(),
        binned.coefficients.tolist(),
        strict=True,
    ):
        exact = float(hurwitz_sum(first, first + count - 1, s))
        assert count * level == pytest.approx(exact, rel=1e-12)
        assert coefficient**2 == pytest.approx(exact, rel=1e-12)
        first += count


def test_short_spectra_are_left_alone():
    for n_modes in (1, 50, 1000):
        binned = binned_power_law(n_modes, 1.3, 1.7)
        assert torch.equal(binned.eigenvalues, power_law_spectrum(n_modes, 1.3))
        assert torch.equal(binned.coefficients, power_law_coefficients(n_modes, 1.7))
        assert binned.multiplicities.tolist() == [1] * n_modes


@pytest.mark.parametrize("gamma", [1e-9, 1e-6, 1e-3, 1.0])
def test_resolvent_sums_agree_with_brute_force(gamma):
    """The sums that the risk formulas need, over a million modes one by one."""
    n, alpha, beta = 10**6, 1.5, 1.3
    full = power_law_spectrum(n, alpha)
    powers = power_law_coefficients(n, beta) ** 2
    eigenvalues, coefficients, multiplicities = binned_power_law(n, alpha, beta)
    width = math.log(n / 1000) / 2000
    bound = (alpha * width) ** 2 / 12
    learn, learn_all = eigenvalues / (eigenvalues + gamma), full / (full + gamma)
    pairs = [
        ((multiplicities * learn).sum(), learn_all.sum()),
        ((multiplicities * learn**2).sum(), (learn_all**2).sum()),
        ((coefficients**2 * (1 - learn) ** 2).sum(), (powers * (1 - learn_all) ** 2).sum()),
    ]
    for ours, exact in pairs:
        assert float(ours) == pytest.approx(float(exact), rel=bound)


def test_finer_bins_are_better():
    n, alpha, gamma = 10**6, 1.5, 1e-6
    full = power_law_spectrum(n, alpha)
    exact = float((full / (full + gamma)).sum())
    errors = []
    for n_bins in (50, 100, 200):
        level, _, count = binned_power_law(n, alpha, 1.0, n_exact=100, n_bins=n_bins)
        errors.append(abs(float((count * level / (level + gamma)).sum()) - exact) / exact)
    # Second order: a quarter at twice the bins.
    assert errors[1] / errors[0] == pytest.approx(0.25, abs=0.05)
    assert errors[2] / errors[1] == pytest.approx(0.25, abs=0.05)


def test_huge_spectrum_is_cheap():
    binned = binned_power_law(10**10, 1.5, 1.5)
    assert len(binned.eigenvalues) == 3000
    assert binned.multiplicities.dtype == torch.int64
    assert np.isfinite(binned.eigenvalues.numpy()).all()
    assert int(binned_power_law(2**62, 1.1, 1.1).multiplicities.sum()) == 2**62


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: power_law_spectrum(0, 1.0), "n_modes"),
        (lambda: power_law_spectrum(5, -1.0), "alpha"),
        (lambda: power_law_spectrum(5, math.nan), "alpha"),
        (lambda: power_law_spectrum(5, 1.0, dtype=torch.int64), "dtype"),
        (lambda: power_law_coefficients(5, -1.0), "beta"),
        (lambda: binned_power_law(2**63, 1.0, 1.0), "n_modes"),
        (lambda: binned_power_law(10, 1.0, -1.0), "beta"),
        (lambda: binned_power_law(10, 1.0, 1.0, n_exact=3), "n_exact"),
        (lambda: binned_power_law(10, 1.0, 1.0, n_bins=0), "n_bins"),
    ],
)
def test_refuses(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
