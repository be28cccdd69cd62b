"""Checks of the chapter on best-of-n."""

import itertools

import numpy as np

from enough.book.exercises import Exercise
from enough.rewards.experiments import two_mode_curve

__all__ = ["CHECKS"]


def _weight(answer: float) -> bool:
    best = [max(subset) for subset in itertools.combinations(range(5), 3)]
    return abs(float(answer) - best.count(3) / len(best)) < 1e-6


def _win_rate(function) -> bool:
    """Against a count over all outcomes of n draws and one more, with unequal levels."""
    mass, n = np.array([0.2, 0.5, 0.3]), 3
    expected = 0.0
    for *draws, fresh in itertools.product(range(3), repeat=n + 1):
        chance = np.prod(mass[[*draws, fresh]])
        expected += chance * ((max(draws) > fresh) + 0.5 * (max(draws) == fresh))
    return bool(abs(float(function(mass, n)) - expected) < 1e-9)


def _stop(answer: float) -> bool:
    powers = 2.0 ** np.arange(0, 21)
    gold = two_mode_curve(powers, 0.7, 1e-3, scale=2.0)["gold"]
    return float(answer) == powers[gold.argmax()]


CHECKS = {
    "weight": Exercise(_weight, "count the subsets of three in which it is drawn and wins"),
    "win_rate": Exercise(_win_rate, "the winner is at a level with probability F^n - F_below^n"),
    "stop": Exercise(_stop, "look for the largest gold among the powers of two up to 2^20"),
}
