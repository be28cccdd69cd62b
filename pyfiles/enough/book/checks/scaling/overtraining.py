"""Checks of the chapter on over-training."""

import numpy as np

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _price(answer: float) -> bool:
    return abs(float(answer) - (32**0.14 + 32**-0.14) / 2) < 1e-3


def _multiplier(function) -> bool:
    """Against a dense grid of multipliers."""
    for a, b, eta in ((212.0, 366.0, 0.136), (100.0, 90.0, 0.2)):
        grid = np.geomspace(1e-3, 1e5, 400_001)
        best = grid[(a * grid**eta + b * grid**-eta).argmin()]
        if abs(float(function(a, b, eta)) / best - 1) > 1e-3:
            return False
    return True


CHECKS = {
    "price": Exercise(_price, "write the bracket of the law relative to its smallest value"),
    "multiplier": Exercise(_multiplier, "differentiate the bracket of the law by M"),
}
