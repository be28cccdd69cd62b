"""Checks of the chapter on uniform quantization."""

import itertools
import math

import torch
from scipy import integrate, optimize

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _rms(answer: float) -> bool:
    return math.isclose(float(answer), 4 / 15 / math.sqrt(12), rel_tol=2e-3)


def _laplace_error(clip: float, top: int = 7) -> float:
    """Mean squared error on the symmetric 4-bit grid, integrated cell by cell."""
    step = clip / top
    cells = [0.0, *((level + 0.5) * step for level in range(top)), math.inf]
    total = 0.0
    for level, (low, high) in enumerate(itertools.pairwise(cells)):
        point = level * step
        total += integrate.quad(lambda x, p=point: (x - p) ** 2 * math.exp(-x), low, high)[0]
    return total


def _laplace(answer: float) -> bool:
    best = optimize.minimize_scalar(_laplace_error, bounds=(2.0, 9.0), method="bounded")
    return abs(float(answer) - best.x) < 0.05


def _equalize(function) -> bool:
    """Ranges must agree, and random inputs must give the same outputs."""
    stream = torch.Generator().manual_seed(0)
    first, bias, second, x = (
        torch.randn(shape, dtype=torch.float64, generator=stream)
        for shape in ((6, 4), (6,), (3, 6), (50, 4))
    )
    before = torch.relu(x @ first.mT + bias) @ second.mT
    first, bias, second = (
        torch.as_tensor(part, dtype=torch.float64) for part in function(first, bias, second)
    )
    after = torch.relu(x @ first.mT + bias) @ second.mT
    equal = torch.allclose(first.abs().amax(1), second.abs().amax(0))
    return equal and torch.allclose(before, after, atol=1e-9)


CHECKS = {
    "rms": Exercise(_rms, "sixteen points have fifteen gaps"),
    "laplace": Exercise(_laplace, "weigh the rounding part against the overload part 2 exp(-c)"),
    "equalize": Exercise(_equalize, "a positive factor passes through a ReLU; solve r/f = s f"),
}
