"""Power-law spectra, mode by mode or in logarithmic bins for spectra too long to list."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from enough.runtime.validation import check_integer, check_number

__all__ = [
    "BinnedSpectrum",
    "binned_power_law",
    "power_law_coefficients",
    "power_law_spectrum",
]


class BinnedSpectrum(NamedTuple):
    """A spectrum whose levels stand for many modes each.

    Parameters
    ----------
    eigenvalues : torch.Tensor
        One eigenvalue a level, shape (levels,), float64.
    coefficients : torch.Tensor
        Target coefficients, shape (levels,), float64; the square is the level's total power.
    multiplicities : torch.Tensor
        Number of modes a level stands for, shape (levels,), int64.
    """

    eigenvalues: torch.Tensor
    coefficients: torch.Tensor
    multiplicities: torch.Tensor


def power_law_spectrum(
    n_modes: int, alpha: float, *, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return the eigenvalues λ_i = i^(−alpha), i = 1 … n_modes.

    Parameters
    ----------
    n_modes : int
        Number of modes.
    alpha : float
        Exponent, zero or more; the trace of the infinite spectrum is finite for alpha > 1.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the result.

    Returns
    -------
    torch.Tensor
        Shape (n_modes,), descending.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    return _powers(n_modes, check_number(alpha, "alpha", minimum=0.0), dtype)


def power_law_coefficients(
    n_modes: int, beta: float, *, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return the target's coefficients v_i = i^(−beta/2), so that v_i² = i^(−beta).

    Parameters
    ----------
    n_modes : int
        Number of modes.
    beta : float
        Exponent of the power v_i², zero or more.
    dtype : torch.dtype, default torch.float64
        Floating-point type of the result.

    Returns
    -------
    torch.Tensor
        Shape (n_modes,), positive and descending.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    return _powers(n_modes, check_number(beta, "beta", minimum=0.0) / 2.0, dtype)


def binned_power_law(
    n_modes: int, alpha: float, beta: float, *, n_exact: int = 1000, n_bins: int = 2000
) -> BinnedSpectrum:
    """Gather a power-law spectrum of any length into a few thousand levels.

    The first ``n_exact`` modes stand alone. The rest falls into bins of equal width in log i.
    A bin of modes a … b − 1 becomes one level with

    - multiplicity m = b − a,
    - eigenvalue (1/m) Σ i^(−alpha), so the trace Σ m λ is exact,
    - coefficient v with v² = Σ i^(−beta), the level's total power, exact as well.

    Other sums over the spectrum, such as Σ λ/(λ + γ), take λ as constant within a bin; their
    relative error is of the order (max(alpha, beta) × bin width in log i)² / 12.

    Parameters
    ----------
    n_modes : int
        Number of modes, at most 2^62.
    alpha : float
        Exponent of the eigenvalues λ_i = i^(−alpha), zero or more.
    beta : float
        Exponent of the powers v_i² = i^(−beta), zero or more.
    n_exact : int, default 1000
        Leading modes kept one by one, at least 16.
    n_bins : int, default 2000
        Bins for the rest; bins that would hold no mode are left out.

    Returns
    -------
    BinnedSpectrum
        ``eigenvalues`` and ``coefficients`` in float64, ``multiplicities`` in int64, with sum
        n_modes.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Sums over a bin use the Euler–Maclaurin formula with three correction terms, written so
    that no digits cancel; from the 16th mode on the error is below 1e-12 of the sum for
    exponents up to 4.
    """
    n_modes = check_integer(n_modes, "n_modes", minimum=1, maximum=2**62)
    alpha = check_number(alpha, "alpha", minimum=0.0)
    beta = check_number(beta, "beta", minimum=0.0)
    n_exact = check_integer(n_exact, "n_exact", minimum=16)
    n_bins = check_integer(n_bins, "n_bins", minimum=1)
    if n_modes <= n_exact:
        ones = torch.ones(n_modes, dtype=torch.int64)
        return BinnedSpectrum(
            power_law_spectrum(n_modes, alpha), power_law_coefficients(n_modes, beta), ones
        )
    edges = torch.linspace(
        math.log(n_exact + 1.0), math.log(n_modes + 1.0), n_bins + 1, dtype=torch.float64
    ).exp()
    edges = edges.round().to(torch.int64).clamp(n_exact + 1, n_modes + 1)
    edges[0], edges[-1] = n_exact + 1, n_modes + 1
    edges = edges.unique()
    counts = edges.diff()
    start = edges[:-1].double()
    levels = _power_sums(start, counts.double(), alpha) / counts
    powers = _power_sums(start, counts.double(), beta)
    return BinnedSpectrum(
        torch.cat([power_law_spectrum(n_exact, alpha), levels]),
        torch.cat([power_law_coefficients(n_exact, beta), powers.sqrt()]),
        torch.cat([torch.ones(n_exact, dtype=torch.int64), counts]),
    )


def _powers(n_modes: int, exponent: float, dtype: torch.dtype) -> torch.Tensor:
    n_modes = check_integer(n_modes, "n_modes", minimum=1)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point torch.dtype, got {dtype!r}")
    return torch.arange(1, n_modes + 1, dtype=torch.float64).pow(-exponent).to(dtype)


def _power_sums(start: torch.Tensor, count: torch.Tensor, s: float) -> torch.Tensor:
    """Σ i^(−s) for i = start … start + count − 1, by the Euler–Maclaurin formula.

    Everything is measured against start^(−s) and written in r = log(stop/start), so that
    differences of nearly equal powers come from ``expm1``.
    """
    r = torch.log1p(count / start)

    def drop(power: float) -> torch.Tensor:  # 1 − (stop/start)^(−power)
        return -torch.expm1(-power * r)

    integral = start * (r if s == 1.0 else torch.expm1((1.0 - s) * r) / (1.0 - s))
    total = integral + drop(s) / 2.0
    rising = s
    for k, bernoulli in ((1, 1 / 12), (2, -1 / 720), (3, 1 / 30240)):  # B_2k / (2k)!
        total = total + bernoulli * rising * start ** (1 - 2 * k) * drop(s + 2 * k - 1)
        rising *= (s + 2 * k - 1) * (s + 2 * k)
    return start ** (-s) * total
