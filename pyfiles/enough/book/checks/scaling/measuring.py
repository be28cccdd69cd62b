"""Checks of the chapter on measuring a scaling law."""

import math

import numpy as np

from enough.book.exercises import Exercise

__all__ = ["CHECKS"]


def _tail(answer: float) -> bool:
    return abs(float(answer) - 1 / 3) < 1e-3


def _data(function) -> bool:
    return all(
        math.isclose(float(function(factor, d)), factor ** (d / 2), rel_tol=1e-6)
        for factor, d in ((2.0, 1), (2.0, 8), (10.0, 3))
    )


def _line(function) -> bool:
    """Against hyperbolas without noise."""
    batch = np.array([2.0, 8.0, 32.0, 128.0])
    for steps, critical in ((10.0, 5.0), (300.0, 70.0)):
        found = function(batch, steps * (1 + critical / batch))
        if not np.allclose([float(v) for v in found], [steps, critical], rtol=1e-6):
            return False
    return True


CHECKS = {
    "tail": Exercise(_tail, "solve alpha / (1 + alpha) = 1/4"),
    "data": Exercise(_data, "the error falls like n to the power -2/d; solve for n"),
    "line": Exercise(_line, "the steps are a straight line in 1/B: which is the intercept?"),
}
