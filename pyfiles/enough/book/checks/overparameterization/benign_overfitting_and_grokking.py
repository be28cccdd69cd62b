"""Checks of the chapter on benign overfitting and grokking."""

import torch

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _pairs(answer: float) -> bool:
    return abs(float(answer) - 0.65) < 1e-9


def _direction(function) -> bool:
    """Against the odd part of the network's outputs, measured."""
    stream = torch.Generator().manual_seed(0)
    weights = torch.randn(7, 4, dtype=torch.float64, generator=stream)
    signs = torch.randn(7, dtype=torch.float64, generator=stream)
    x = torch.randn(20, 4, dtype=torch.float64, generator=stream)
    odd = ((x @ weights.mT).relu() @ signs - (-x @ weights.mT).relu() @ signs) / 2
    answer = torch.as_tensor(function(weights, signs), dtype=torch.float64)
    return answer.shape == (4,) and torch.allclose(x @ answer, odd, atol=1e-10)


def _move(answer: float) -> bool:
    return abs(float(answer) - 100.0) < 1e-6


CHECKS = {
    "pairs": Exercise(_pairs, "split the points by which part is larger, and count pairs x, -x"),
    "direction": Exercise(_direction, "max(h, 0) = h/2 + |h|/2, and |h| is even"),
    "move": Exercise(_move, "the Frobenius norm of an outer product is the squared length"),
}
