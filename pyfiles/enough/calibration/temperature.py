"""Temperature scaling, solved as the convex problem it is."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from scipy.optimize import minimize

from enough.calibration._base import Calibrator
from enough.calibration._inputs import map_blocks, row_slices
from enough.runtime.validation import check_number

__all__ = ["EnsembleTemperatureScaling", "TemperatureScaling", "solve_inverse"]

# Start from a subsample of this many entries when the table is much larger.
_SUBSAMPLE = 1 << 20
# A Newton step this small (relative) leaves an error near its square.
_RELATIVE_STEP = 1e-5


class TemperatureScaling(Calibrator):
    """Divide the logits by one temperature T, chosen to minimize the log loss.

    With b = 1/T the loss mean[logsumexp(b z) − b z_y] is convex, its slope is
    E Σ_j p_j z_j − E z_y, and its curvature is the mean variance of z under p. So b is found
    by Newton steps inside a bracket, in float64, from the sign of the slope: never negative,
    never divergent.

    Parameters
    ----------
    max_inverse_temperature : float, default 1e4
        The largest 1/T for logits that are perfectly separable (the label has the largest
        logit in every row): the loss then falls as T → 0, so the fit stops there and warns.
        Logits that are not separable have a finite optimum, which is found however large.

    Attributes
    ----------
    temperature_ : float
        T; infinite when the optimum is 1/T = 0, where the logits carry no information or
        point the wrong way and every class gets the same probability.
    inverse_temperature_ : float
        1/T.
    n_iter_ : int
        Passes over the full table.

    Notes
    -----
    With 1/T = 0 legal the fitted loss never exceeds log K on the data it was fitted on.
    Tables with more than 2²² entries start from the optimum of every s-th row, a table of
    about 2²⁰ entries, which saves passes and does not change the optimum.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, Eq. 9.

    Examples
    --------
    >>> scaling = TemperatureScaling().fit([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]], [0, 0, 1])
    >>> round(scaling.temperature_, 6) == round(2.0 / math.log(2.0), 6)
    True
    """

    def __init__(self, max_inverse_temperature: float = 1e4) -> None:
        self.max_inverse_temperature = max_inverse_temperature

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        limit = check_number(self.max_inverse_temperature, "max_inverse_temperature", above=0.0)
        start = 1.0
        stride = logits.numel() // _SUBSAMPLE
        if stride >= 4:
            start = solve_inverse(logits[::stride], labels[::stride], start)[0] or start
        inverse, self.n_iter_ = solve_inverse(logits, labels, start)
        if inverse is None:
            warnings.warn(
                "logits: the label has the largest logit in every row, so the log loss has no "
                f"minimum at a positive temperature; stopped at 1/T = {limit:g}",
                UserWarning,
                stacklevel=3,
            )
            inverse = limit
        self.inverse_temperature_ = inverse
        self.temperature_ = 1.0 / inverse if inverse > 0.0 else math.inf

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        return _scaled_softmax(logits, self.inverse_temperature_)


class EnsembleTemperatureScaling(Calibrator):
    """Mix the tempered, the raw and the uniform forecast.

    The forecast is w₁ softmax(z/T) + w₂ softmax(z) + w₃/K with nonnegative weights that sum
    to 1. T is the optimal temperature; the weights then minimize the log loss, a convex
    problem.

    Parameters
    ----------
    max_inverse_temperature : float, default 1e4
        As in `TemperatureScaling`.

    Attributes
    ----------
    temperature_ : float
        T of the first part.
    weights_ : numpy.ndarray
        (w₁, w₂, w₃).

    References
    ----------
    Zhang, Kailkhura, Han (2020), Mix-n-Match: ensemble and compositional methods for
    uncertainty calibration in deep learning.
    """

    def __init__(self, max_inverse_temperature: float = 1e4) -> None:
        self.max_inverse_temperature = max_inverse_temperature

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        scaling = TemperatureScaling(self.max_inverse_temperature)
        scaling._fit(logits, labels)
        self._inverse = scaling.inverse_temperature_
        self.temperature_ = scaling.temperature_
        parts = []
        for rows in row_slices(*logits.shape, logits.device):
            block, target = logits[rows].double(), labels[rows].unsqueeze(1)
            parts.append(
                torch.stack([m.gather(1, target)[:, 0] for m in self._members(block)], 1).cpu()
            )
        self.weights_ = _mixture_weights(torch.cat(parts).numpy())

    def _transform(self, logits: torch.Tensor) -> torch.Tensor:
        members = self._members(logits)
        return sum(float(w) * m for w, m in zip(self.weights_, members, strict=True))

    def _members(self, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tempered = _scaled_softmax(logits, self._inverse)
        return tempered, logits.softmax(1), torch.full_like(logits, 1.0 / logits.shape[1])


def _scaled_softmax(logits: torch.Tensor, inverse: float) -> torch.Tensor:
    return ((logits - logits.amax(1, keepdim=True)) * inverse).softmax(1)


def solve_inverse(
    logits: torch.Tensor, labels: torch.Tensor, start: float = 1.0
) -> tuple[float | None, int]:
    """Return the 1/T that minimizes the mean log loss.

    Parameters
    ----------
    logits : torch.Tensor
        Shape (N, K), any floating dtype.
    labels : torch.Tensor
        Shape (N,), int64.
    start : float, default 1.0
        Where to begin, above 0.

    Returns
    -------
    inverse : float or None
        1/T >= 0, or ``None`` when the logits are separable.
    passes : int
        Passes over the table.
    """
    low, high, inverse = -math.inf, math.inf, start
    for passes in range(1, 1000):
        slope, curvature, gap = _derivatives(logits, labels, inverse)
        if slope < 0.0:
            if gap == 0.0:
                return None, passes
            low = inverse
        else:
            if inverse == 0.0:
                return 0.0, passes
            high = inverse
        newton = inverse - slope / curvature if curvature > 0.0 else math.nan
        if abs(newton - inverse) <= _RELATIVE_STEP * inverse or high - low <= 4e-16 * inverse:
            return min(max(newton, low), high), passes
        if slope < 0.0 and high == math.inf:
            ceiling = 64.0 * inverse
            inverse = min(newton, ceiling) if newton > inverse else ceiling
        elif newton <= 0.0 and low == -math.inf:
            inverse = 0.0
        elif max(low, 0.0) < newton < high:
            inverse = newton
        else:
            inverse = math.sqrt(low * high) if low > 0.0 else 0.125 * high
    raise AssertionError("a bracketed convex problem always closes")


def _derivatives(
    logits: torch.Tensor, labels: torch.Tensor, inverse: float
) -> tuple[float, float, float]:
    """Return slope, curvature of the mean log loss at b, and the largest max z − z_y."""
    n_samples, n_classes = logits.shape
    device, targets = logits.device, labels.unsqueeze(1)
    # One number a row each: the label's logit, and the weights' sum, first and second moment.
    chosen, total, first, second = torch.empty(4, n_samples, 1, dtype=torch.float64, device=device)

    def add(slices: list[slice]) -> None:
        shape = (slices[0].stop - slices[0].start, n_classes)
        buffers = [torch.empty(shape, dtype=torch.float64, device=device) for _ in "ab"]
        for rows in slices:
            block, weight = (buffer[: rows.stop - rows.start] for buffer in buffers)
            block.copy_(logits[rows]).sub_(block.amax(1, keepdim=True))
            torch.gather(block, 1, targets[rows], out=chosen[rows])
            torch.mul(block, inverse, out=weight).exp_()
            torch.sum(weight, 1, keepdim=True, out=total[rows])
            torch.sum(weight.mul_(block), 1, keepdim=True, out=first[rows])
            torch.sum(weight.mul_(block), 1, keepdim=True, out=second[rows])

    map_blocks(add, n_samples, n_classes, device)
    mean = first.div_(total)
    slope = (mean - chosen).mean().item()
    curvature = second.div_(total).sub_(mean.square()).clamp_(min=0.0).mean().item()
    return slope, curvature, -chosen.min().item()


def _mixture_weights(likelihood: np.ndarray) -> np.ndarray:
    """Return the simplex weights w that maximize the mean of log(likelihood @ w)."""
    scale = likelihood.max(1, keepdims=True)
    relative = likelihood / scale

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.maximum(relative @ weights, 1e-300)
        return -np.log(mixed).mean(), -(relative / mixed[:, None]).mean(0)

    size = relative.shape[1]
    found = minimize(
        loss,
        np.full(size, 1.0 / size),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-14, "maxiter": 1000},
    ).x.clip(0.0)
    return found / found.sum()
