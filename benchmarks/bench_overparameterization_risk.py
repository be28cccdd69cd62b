"""How fast is the eigenframework, and how does it compare with a nested bisection?

The peer solves the paper's two equations as they stand, one bisection inside another, in plain
NumPy: for each kappa the inner loop finds gamma from the first equation, the outer loop moves
kappa until the second one holds.
"""

from __future__ import annotations

import math

import numpy as np

from enough.overparameterization import optimal_ridge, rf_risk
from side_by_side import Peer, compare, main

STEPS = 60  # halvings of an interval of 30 decades: 18 digits


def nested_bisection(eigenvalues, powers, n, k, ridge, noise):
    """Return the test error of one point with k < inf and ridge > 0."""

    def gamma_of(kappa):
        low, high = -15.0, 15.0
        for _ in range(STEPS):
            middle = (low + high) / 2
            gamma = 10.0**middle
            total = (eigenvalues / (eigenvalues + gamma)).sum() + ridge / kappa
            low, high = (middle, high) if total > n else (low, middle)
        return 10.0**high

    low, high = -15.0, 15.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        kappa = 10.0**middle
        gamma = gamma_of(kappa)
        total = (eigenvalues / (eigenvalues + gamma)).sum() + k * kappa / gamma
        low, high = (middle, high) if total < k else (low, middle)
    kappa = 10.0**high
    gamma = gamma_of(kappa)
    learned = eigenvalues / (eigenvalues + gamma)
    z, q = learned.sum(), (learned**2).sum()
    bias = (1 - learned) - kappa * learned / (eigenvalues + gamma) * k / (k - q)
    return (bias @ powers + noise) / (1 - (q * (k - 2 * z) + z**2) / (n * (k - q)))


def rows(quick: bool = False) -> list[dict]:
    """Measure single points, grids and spectra of a million eigenvalues.

    Parameters
    ----------
    quick : bool, default False
        Small sizes, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    rounds, less = (2, 50) if quick else (5, 1)
    why = "Newton steps on one reduced equation, while the peer nests one bisection in another"
    values = np.arange(1.0, 3000 // less + 1.0) ** -1.5
    point = (256 // less, 512 // less, 1e-3, 0.5)
    want, found = nested_bisection(values, values, *point), rf_risk(values, values**0.5, *point)
    result = compare(
        f"risk at one point, {len(values):,} eigenvalues",
        lambda: rf_risk(values, values**0.5, *point),
        {"nested bisection": lambda: nested_bisection(values, values, *point)},
        rounds=rounds,
        why=why,
        note=f"relative difference {abs(found.test_mse / want - 1):.0e}",
    )
    small = values[:1000]
    samples = 256 // less
    counts = np.geomspace(16, 4096, 20).round()
    ridges = np.geomspace(1e-3, 100, 10)
    some = counts[:1] if quick else counts[::5]
    result += compare(
        f"risk on a grid of 200 points, {len(small):,} eigenvalues",
        lambda: rf_risk(small, small**0.5, samples, counts[:, None], ridges, 0.5),
        {
            "nested bisection": Peer(
                lambda: [
                    nested_bisection(small, small, samples, k, r, 0.5) for k in some for r in ridges
                ],
                scale=len(counts) / len(some),
                note=f"the peer at {len(some)} of {len(counts)} feature counts, point by point",
            )
        },
        rounds=2,
        why=f"{why}, and all points share the passes over the spectrum",
    )
    large = np.arange(1.0, 10_000 // less + 1.0) ** -1.5
    result += compare(
        f"risk on a grid of 200 points, {len(large):,} eigenvalues",
        lambda: rf_risk(large, large**0.5, samples, counts[:, None], ridges, 0.5),
        rounds=rounds,
        note="20 feature counts x 10 ridges in one call",
    )
    result += compare(
        f"optimal ridge at 20 points, {len(large):,} eigenvalues",
        lambda: optimal_ridge(large, large**0.5, samples, counts, 0.5),
        rounds=rounds,
        note="one call",
    )
    huge = np.arange(1.0, 1_000_000 // less + 1.0) ** -1.5
    for k, ridge in [(2000, 1e-3), (math.inf, 0.0)]:
        result += compare(
            f"risk at one point, {len(huge):,} eigenvalues, k = {k:g}, ridge = {ridge:g}",
            lambda k=k, ridge=ridge: rf_risk(huge, huge**0.5, 1000, k, ridge, 0.5),
            rounds=rounds,
        )
    return result


if __name__ == "__main__":
    main(rows)
