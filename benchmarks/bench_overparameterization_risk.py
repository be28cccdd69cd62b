"""How fast is the eigenframework, and how does it compare with a nested bisection?

The peer solves the paper's two equations as they stand, one bisection inside another, in plain
NumPy: for each kappa the inner loop finds gamma from the first equation, the outer loop moves
kappa until the second one holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from enough.overparameterization import optimal_ridge, rf_risk
from side_by_side import interleave, spread

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


def _row(name: str, ours: Callable, peer: Callable | None, repeats: int, note: str) -> dict:
    """Interleaved minima; ``spread`` is the slowest of ours over the fastest."""
    calls = {"ours": ours} if peer is None else {"ours": ours, "peer": peer}
    times = interleave(calls, repeats, warm_up=0)
    fastest = min(times["ours"])
    peer_s = min(times["peer"]) if peer is not None else None
    return {
        "name": name,
        "ours_s": fastest,
        "peer_s": peer_s,
        "ratio": None if peer_s is None else peer_s / fastest,
        "spread": spread(times["ours"]),
        "note": note,
    }


def rows() -> list[dict]:
    """Measure; one dict a row."""
    result = []
    values = np.arange(1.0, 3001.0) ** -1.5
    point = (256, 512, 1e-3, 0.5)
    want, found = nested_bisection(values, values, *point), rf_risk(values, values**0.5, *point)
    result.append(
        _row(
            "one point, 3,000 eigenvalues",
            lambda: rf_risk(values, values**0.5, *point),
            lambda: nested_bisection(values, values, *point),
            5,
            f"peer: nested bisection; relative difference {abs(found.test_mse / want - 1):.0e}",
        )
    )
    small = values[:1000]
    features, ridges = np.geomspace(16, 4096, 20).round(), np.geomspace(1e-3, 100, 10)
    result.append(
        _row(
            "grid of 200 points, 1,000 eigenvalues",
            lambda: rf_risk(small, small**0.5, 256, features[:, None], ridges, 0.5),
            lambda: [
                nested_bisection(small, small, 256, k, r, 0.5) for k in features for r in ridges
            ],
            2,
            "peer: nested bisection, point by point",
        )
    )
    large = np.arange(1.0, 10_001.0) ** -1.5
    result.append(
        _row(
            "grid of 200 points, 10,000 eigenvalues",
            lambda: rf_risk(large, large**0.5, 256, features[:, None], ridges, 0.5),
            None,
            3,
            "20 feature counts x 10 ridges in one call",
        )
    )
    result.append(
        _row(
            "optimal ridge at 20 points, 10,000 eigenvalues",
            lambda: optimal_ridge(large, large**0.5, 256, features, 0.5),
            None,
            3,
            "one call",
        )
    )
    huge = np.arange(1.0, 1_000_001.0) ** -1.5
    for k, ridge in [(2000, 1e-3), (math.inf, 0.0)]:
        result.append(
            _row(
                f"one point, 1,000,000 eigenvalues, k = {k:g}, ridge = {ridge:g}",
                lambda k=k, ridge=ridge: rf_risk(huge, huge**0.5, 1000, k, ridge, 0.5),
                None,
                5,
                "",
            )
        )
    return result


def main() -> None:
    """Print the rows as a table."""
    print(f"{'what':60} {'ours [s]':>9} {'peer [s]':>9} {'ratio':>7} {'spread':>7}  note")
    for row in rows():
        peer = "" if row["peer_s"] is None else f"{row['peer_s']:.4f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.0f}"
        print(
            f"{row['name']:60} {row['ours_s']:9.4f} {peer:>9} {ratio:>7} {row['spread']:7.2f}"
            f"  {row['note']}"
        )


if __name__ == "__main__":
    main()
