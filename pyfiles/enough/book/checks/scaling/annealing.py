"""Checks of the chapter on annealing."""

import numpy as np

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _drop(answer: float) -> bool:
    """By the recursion itself: one drop of 2e-4, a thousand steps later."""
    momentum = area = 0.0
    for step in range(1001):
        momentum = 0.999 * momentum + (2e-4 if step == 0 else 0.0)
        area += momentum
    return abs(float(answer) / area - 1) < 0.01


def _area(function) -> bool:
    """Against the double sum over drops and later steps."""
    for rates, decay in (([3.0, 3.0, 2.0, 1.0, 1.0, 0.5], 0.9), ([1.0, 2.0, 0.5, 0.5], 0.5)):
        total = 0.0
        for k in range(1, len(rates)):
            for s in range(k, len(rates)):
                total += (rates[k - 1] - rates[k]) * decay ** (s - k)
        if not np.isclose(float(function(rates, decay)), total, rtol=1e-9):
            return False
    return True


CHECKS = {
    "drop": Exercise(_drop, "sum the geometric series of the momentum after the drop"),
    "area": Exercise(_area, "carry the momentum from step to step and add it up"),
}
