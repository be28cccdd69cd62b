"""Checks of the chapter on memorization."""

import torch

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _uniform(answer: float) -> bool:
    return abs(float(answer) - 1 / 500) < 1e-9


def _noise(answer: float) -> bool:
    return abs(float(answer) - 0.9) < 1e-6


def _own_coherence(function) -> bool:
    """Against a double loop over examples."""
    stream = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, 4, dtype=torch.float64, generator=stream)
    expected = [sum(float(a @ b) for b in gradients) / float(a @ a) for a in gradients]
    answer = torch.as_tensor(function(gradients), dtype=torch.float64)
    return torch.allclose(answer, torch.tensor(expected, dtype=torch.float64), atol=1e-9)


def _floor(function) -> bool:
    cases = {(0, 10, 2): 0.25, (5, 10, 2): 0.125, (10, 10, 7): 0.0, (2, 8, 4): 0.28125}
    return all(abs(float(function(*case)) - value) < 1e-9 for case, value in cases.items())


CHECKS = {
    "uniform": Exercise(_uniform, "a constant may be taken out of a mean"),
    "noise": Exercise(_noise, "find the rate at which the last factor vanishes"),
    "own_coherence": Exercise(_own_coherence, "the sum over all other examples is m times a mean"),
    "floor": Exercise(_floor, "compute the two population errors and halve their distance"),
}
