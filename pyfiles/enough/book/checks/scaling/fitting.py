"""Checks of the chapter on fitting scaling laws."""

import numpy as np

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]

_LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def _runs(answer: float) -> bool:
    """A fifty times narrower interval takes 50² times the 240 runs."""
    return abs(float(answer) / (240 * 50**2) - 1) < 0.01


def _best_size(function) -> bool:
    """Against a search over a fine grid of sizes, for two budgets."""
    for flops in (1e20, 1e24):
        size = np.exp(np.linspace(np.log(1e7), np.log(1e13), 400_001))
        first = _LAW["A"] * size ** -_LAW["alpha"]
        second = _LAW["B"] * (flops / 6 / size) ** -_LAW["beta"]
        best = size[(first + second).argmin()]
        if abs(float(function(_LAW, flops)) / best - 1) > 1e-3:
            return False
    return True


def _bias(answer: float) -> bool:
    """(α − β) h²/10 with α = 0.4655, β = 0.1545 and h = ln 8."""
    return abs(float(answer) - (0.4655 - 0.1545) * np.log(8) ** 2 / 10) < 2e-3


CHECKS = {
    "runs": Exercise(_runs, "the width of an interval falls like one over the root of the runs"),
    "best_size": Exercise(_best_size, "put D = C / (6 N) into the law and differentiate by ln N"),
    "bias": Exercise(_bias, "h is the natural logarithm of the half-width; the bias is a shift"),
}
