"""Checks of the chapter on random features."""

import torch

from enough.book.exercises import Exercise
from enough.overparameterization import interpolation_threshold

__all__ = ["CHECKS"]


def _modes(answer: float) -> bool:
    return abs(float(answer) - 128.0) < 0.5


def _leave_one_out(function) -> bool:
    """Against refits that leave out each sample in turn."""
    stream = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, dtype=torch.float64, generator=stream)
    y = torch.randn(12, dtype=torch.float64, generator=stream)
    ridge, errors = 0.3, []
    for i in range(12):
        keep = torch.arange(12) != i
        gram = features[keep].mT @ features[keep] + ridge * torch.eye(5, dtype=torch.float64)
        errors.append(y[i] - features[i] @ torch.linalg.solve(gram, features[keep].mT @ y[keep]))
    answer = torch.as_tensor(function(features, y, ridge), dtype=torch.float64)
    return torch.allclose(answer, torch.stack(errors), atol=1e-8)


def _threshold(answer: float) -> bool:
    return abs(float(answer) - interpolation_threshold(1.5, 2.0)) < 1e-3


CHECKS = {
    "modes": Exercise(_modes, "at ridge 0 one of the factors of the one equation must vanish"),
    "loo": Exercise(_leave_one_out, "the leverages are the diagonal of H; compare with a refit"),
    "threshold": Exercise(_threshold, "put r = 0 into the equation of the second theorem"),
}
