"""Checks of the chapter on policy gradients with penalties."""

import math

import numpy as np
import torch

from enough.book.exercises import Exercise
from enough.rewards import categorical_kl

__all__ = ["CHECKS"]


def _cost(answer: float) -> bool:
    return abs(float(answer) - math.log(1600.0)) < 1e-3


def _clock(answer: float) -> bool:
    return abs(float(answer) - 10.0 * (1.0 - math.exp(-2.0))) < 1e-3


def _window(function) -> bool:
    """Against a scan of the exploit's lead over honest improvement."""
    betas = np.geomspace(1e-4, 10.0, 200_001)
    for r, c, sigma in ((5.0, 7.4, 1.0), (9.0, 3.0, 2.0), (2.0, 7.4, 1.0)):
        ahead = betas[r - betas * c > sigma**2 / (2 * betas)]
        answer = function(r, c, sigma)
        if not len(ahead):
            if answer is not None:
                return False
        elif answer is None or not np.allclose(answer, (ahead[0], ahead[-1]), rtol=1e-3):
            return False
    return True


def _gradients(function) -> bool:
    """Against automatic differentiation of the two divergences."""
    stream = torch.Generator().manual_seed(0)
    theta, other = torch.randn(2, 4, generator=stream, dtype=torch.float64)
    theta.requires_grad_()
    p, q = theta.log_softmax(-1), other.log_softmax(-1)
    forward, backward = (
        torch.autograd.grad(value, theta, retain_graph=True)[0]
        for value in (categorical_kl(p, q), categorical_kl(q, p))
    )
    wanted = (torch.zeros_like(other), forward, backward)
    return all(
        torch.allclose(
            torch.as_tensor(function(theta.detach(), other, k), dtype=torch.float64), w, atol=1e-8
        )
        for k, w in enumerate(wanted, 1)
    )


CHECKS = {
    "cost": Exercise(_cost, "the divergence is the mean log-ratio of the answers it gives"),
    "clock": Exercise(_clock, "the theorem gives the time of the free path at the same policy"),
    "window": Exercise(_window, "multiply the inequality by the penalty and solve the quadratic"),
    "gradients": Exercise(
        _gradients, "weigh the gradient of each answer's term with its probability, held fixed"
    ),
}
