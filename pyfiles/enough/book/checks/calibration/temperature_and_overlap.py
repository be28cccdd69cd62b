"""Checks of the chapter on temperature scaling where classes overlap."""

import math

import torch
from torch.nn import functional as F

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _steps(answer: float) -> bool:
    return int(answer) == answer and 0.99**answer <= 0.01 < 0.99 ** (answer - 1)


def _two_classes(answer: float) -> bool:
    return abs(float(answer) - math.log(5 / 4)) < 1e-6


def _temperature(function) -> bool:
    """Against a fine grid of the expected loss."""
    for gap, hit, classes in ((10.0, 0.75, 8), (4.0, 0.5, 100), (1.0, 0.9, 2)):
        grid = torch.linspace(0.05, 40.0, 200_001, dtype=torch.float64)
        logs = F.pad((gap / grid)[:, None], (0, classes - 1)).log_softmax(1)
        loss = -(hit * logs[:, 0] + (1.0 - hit) * logs[:, 1])
        best = grid[loss.argmin()].item()
        if abs(float(function(gap, hit, classes)) - best) > 1e-3:
            return False
    return True


CHECKS = {
    "steps": Exercise(_steps, "what is left shrinks by the same factor in every step"),
    "two_classes": Exercise(_two_classes, "set k = 2; the derivative in the overlap must vanish"),
    "temperature": Exercise(
        _temperature, "at the best temperature the top class gets the probability of a hit"
    ),
}
