"""Checks of the chapter on measuring calibration."""

import math

import numpy as np

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _floor(answer: float) -> bool:
    return math.isclose(float(answer), 6e-4, rel_tol=1e-6)


def _enough(answer: float) -> bool:
    return abs(float(answer) - 14_726) < 75


def _own(function) -> bool:
    """Against all outcomes of a small test set, weighted by their probabilities."""
    p = np.array([0.05, 0.12, 0.31, 0.33, 0.37, 0.4, 0.81, 1.0])
    bins = np.array([0, 0, 1, 1, 1, 1, 4, 4])  # of five
    expected = 0.0
    for number in range(2 ** len(p)):
        y = np.array([(number >> i) & 1 for i in range(len(p))])
        chance = np.where(y == 1, p, 1 - p).prod()
        sums = np.bincount(bins, p - y)
        count = np.bincount(bins)
        expected += chance * (sums**2 / np.maximum(count, 1)).sum() / len(p)
    return math.isclose(float(function(p, 5)), expected, rel_tol=1e-9)


def _noise(answer: float) -> bool:
    harmonic = sum(1 / i for i in range(1, 370))
    return abs(float(answer) / ((harmonic - 1) / 368) - 1) < 0.01


CHECKS = {
    "floor": Exercise(_floor, "an empty bin adds nothing, and a full one its mean of p(1-p)"),
    "enough": Exercise(
        _enough, "put the mean of the root of p(1-p) for uniform p into the formula"
    ),
    "own": Exercise(_own, "sum the mean of p(1-p) over the bins that hold a forecast, over n"),
    "noise": Exercise(_noise, "the harmonic number runs over all test cases"),
}
"""Checks of the exercises of the chapter, by name."""
