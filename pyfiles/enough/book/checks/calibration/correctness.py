"""Checks of the chapter on correctness-aware calibration."""

import math

import torch
from scipy.optimize import minimize_scalar

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _stop(answer: float) -> bool:
    """Against a numerical minimum of the loss of the one sample."""
    logits = torch.tensor([2.0, 1.8] + [0.0] * 8, dtype=torch.float64)

    def loss(b: float) -> float:
        return -(b * logits).log_softmax(0)[1].item()

    best = minimize_scalar(loss, bounds=(0.0, 10.0), method="bounded", options={"xatol": 1e-9}).x
    return abs(float(answer) - (best * logits).softmax(0)[0].item()) < 2e-3


def _sharpened(function) -> bool:
    """Against the loss a little to the right: it must be lower exactly where asked."""
    stream = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(500, 5, dtype=torch.float64, generator=stream)
    labels = torch.randint(5, (500,), generator=stream)

    def loss(b: float) -> torch.Tensor:
        return -(b * logits).log_softmax(1).gather(1, labels[:, None])[:, 0]

    wrong = logits.argmax(1) != labels
    wanted = wrong & (loss(0.7 + 1e-6) < loss(0.7 - 1e-6))
    found = torch.as_tensor(function(logits, labels, 0.7)).bool()
    return found.shape == wanted.shape and bool((found == wanted).all())


def _weights(function) -> bool:
    """Against a numerical minimum of the weighted loss of a group."""
    for alpha, reference in ((0.3, 0.9), (0.9, 0.9), (0.99, 0.6)):

        def loss(c: float, a: float = alpha, r: float = reference) -> float:
            return a * (1 - r) * (c - 1) ** 2 + (1 - a) * r * c**2

        best = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded").x
        if not math.isclose(float(function(alpha, reference)), best, abs_tol=1e-4):
            return False
    return True


CHECKS = {
    "stop": Exercise(
        _stop, "the slope vanishes where the mean logit reaches that of the true class"
    ),
    "sharpened": Exercise(
        _sharpened, "a wrong prediction, and a true logit above the mean logit at softmax(b z)"
    ),
    "weights": Exercise(_weights, "set the derivative of the weighted mean loss to zero"),
}
