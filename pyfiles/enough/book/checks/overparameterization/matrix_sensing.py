"""Checks of the chapter on matrix sensing."""

import math

from enough.book.exercises import Exercise
from enough.overparameterization import sign_rip_scale

__all__ = ["CHECKS"]


def _iterations(answer: float) -> bool:
    """Sum of (k - r) squares of 1 / (2 step T) below 1e-6, with k - r = 3 and step 0.05."""
    return abs(float(answer) / math.sqrt(3 / (4 * 0.05**2 * 1e-6)) - 1) < 0.01


def _scale(function) -> bool:
    """On a grid of shares and sizes, the error of norm one."""
    grid = [(p, tau) for p in (0.0, 0.15, 0.5, 1.0) for tau in (0.0, 1.0, 10.0)]
    return all(
        math.isclose(float(function(p, tau)), sign_rip_scale(1.0, p, tau), rel_tol=1e-9)
        for p, tau in grid
    )


def _beta(answer: float) -> bool:
    return abs(float(answer) - math.sqrt(0.25)) < 1e-3


CHECKS = {
    "iterations": Exercise(_iterations, "each excess direction ends near 1 / (2 step T)"),
    "scale": Exercise(_scale, "<A, X> - s is Gaussian; what is its correlation with <A, X>?"),
    "beta": Exercise(_beta, "one of the two rates falls as beta grows, the other rises"),
}
