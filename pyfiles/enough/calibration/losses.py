"""Losses and batches that change what a classifier is sure of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from enough.runtime.randomness import as_generator
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["EnsLoss", "ZLoss", "mixup"]


class EnsLoss(nn.Module):
    """Train a binary classifier on a new random convex loss in every step.

    For margins s_i = y_i f_i the module draws derivatives instead of a loss: N values
    −min(1, g(ξ)) with ξ standard normal and g the inverse Box-Cox transform, sorted and
    given to the margins by rank. So the derivative is negative and does not decrease with
    the margin: the loss behind it is convex and calibrated. Above margin 1 it is divided by
    the margin. What `forward` returns is the mean of derivative × margin with the derivative
    held constant; its gradient is what matters.

    Parameters
    ----------
    box_cox : float, default 0.0
        The λ of g(ξ) = (1 + λξ)^{1/λ}; 0 means exp(ξ).
    period : int, optional
        Redraw λ uniformly from (−1, 1) before every ``period``-th call in training mode
        after the first. Without it λ stays.
    generator : torch.Generator or int, optional
        Draws ξ and λ.

    Raises
    ------
    ValueError
        If a setting is out of range.

    References
    ----------
    Dai (2025), EnsLoss: stochastic calibrated loss ensembles for preventing overfitting in
    classification.
    """

    def __init__(
        self,
        box_cox: float = 0.0,
        period: int | None = None,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.box_cox = check_number(box_cox, "box_cox")
        self.period = None if period is None else check_integer(period, "period", minimum=1)
        self.generator = as_generator(generator)
        self._calls = 0

    def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean over the batch of derivative × margin.

        Parameters
        ----------
        scores : torch.Tensor
            Shape (N,) or (N, 1), floating point: log odds of y = 1.
        target : torch.Tensor
            Same shape or (N,): 0/1, or −1/+1.

        Returns
        -------
        torch.Tensor
            A scalar.

        Raises
        ------
        ValueError
            If a shape is wrong or a target is none of −1, 0, 1.
        """
        if scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores[:, 0]
        if target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        check_tensor(scores, "scores", ndim=1, floating=True, finite=False)
        check_tensor(target, "target", shape=tuple(scores.shape), finite=False)
        margins = scores * _signs(target).to(scores.dtype)
        if self.training:
            if self.period and self._calls and self._calls % self.period == 0:
                draw = torch.rand((), generator=self.generator, device=self.generator.device)
                self.box_cox = 2.0 * draw.item() - 1.0
            self._calls += 1
        return (self.derivatives(margins.detach()) * margins).mean()

    def derivatives(self, margins: torch.Tensor) -> torch.Tensor:
        """Draw the derivative of a random convex loss at each margin.

        Parameters
        ----------
        margins : torch.Tensor
            Shape (N,), floating point.

        Returns
        -------
        torch.Tensor
            Shape (N,), negative, nondecreasing in the margin.
        """
        source = self.generator.device
        normal = torch.randn(margins.shape, generator=self.generator, device=source)
        normal = normal.to(margins.device, margins.dtype)
        if self.box_cox == 0.0:
            size = normal.exp()
        else:
            size = (1.0 + self.box_cox * normal).clamp(min=0.0) ** (1.0 / self.box_cox)
        drawn = -size.clamp(max=1.0).sort(descending=True).values
        slope = torch.empty_like(drawn).scatter_(0, margins.argsort(), drawn)
        return slope / margins.clamp(min=1.0) - 1e-6

    def extra_repr(self) -> str:
        """Return the settings for ``repr``.

        Returns
        -------
        str
            Name and value of each.
        """
        return f"box_cox={self.box_cox:g}, period={self.period}"


class ZLoss(nn.Module):
    """Compare the label's standardized logit with a threshold.

    L = softplus(a (b − z_y))/a with z = (o − mean)/std over the classes of a row (biased
    standard deviation). It does not change under o → c·o + d with c > 0; a negative c turns
    the order of the classes around and changes it.

    Parameters
    ----------
    a : float, default 1.0
        Steepness, above 0.
    b : float, default 0.0
        Threshold, in standard deviations.

    Raises
    ------
    ValueError
        If a setting is out of range.

    References
    ----------
    de Brébisson, Vincent (2016), The Z-loss: a shift and scale invariant classification
    loss belonging to the spherical family.
    """

    def __init__(self, a: float = 1.0, b: float = 0.0) -> None:
        super().__init__()
        self.a = check_number(a, "a", above=0.0)
        self.b = check_number(b, "b")

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the batch.

        Parameters
        ----------
        logits : torch.Tensor
            Shape (N, K), floating point, K >= 2.
        target : torch.Tensor
            Shape (N,): class numbers, an integer dtype.

        Returns
        -------
        torch.Tensor
            A scalar. A row of equal logits has z = 0 and passes no gradient.

        Raises
        ------
        ValueError
            If a shape or dtype is wrong.
        """
        check_tensor(logits, "logits", ndim=2, floating=True, finite=False)
        check_tensor(target, "target", shape=(logits.shape[0],))
        if target.is_floating_point():
            raise ValueError(f"target: expected class numbers, got dtype {target.dtype}")
        centered = logits - logits.mean(1, keepdim=True)
        variance = centered.square().mean(1)
        chosen = centered.gather(1, target.long().unsqueeze(1))[:, 0]
        spread = torch.where(variance > 0.0, variance, 1.0).sqrt()
        z = torch.where(variance > 0.0, chosen / spread, 0.0)
        return F.softplus(self.a * (self.b - z)).mean() / self.a

    def extra_repr(self) -> str:
        """Return the settings for ``repr``.

        Returns
        -------
        str
            Name and value of each.
        """
        return f"a={self.a:g}, b={self.b:g}"


def mixup(
    x: Any,
    y: Any,
    alpha: float,
    k: int = 2,
    generator: torch.Generator | int | None = None,
    *,
    n_classes: int | None = None,
    per: str = "sample",
) -> tuple[Any, Any]:
    """Mix each sample of a batch with k − 1 others.

    The weights follow a symmetric Dirichlet distribution with parameter alpha, for k = 2 a
    Beta(alpha, alpha); each partner comes from its own permutation of the batch.

    Parameters
    ----------
    x : array of shape (N, ...)
        Inputs, floating point.
    y : array of shape (N,) or (N, ...)
        Integers are class numbers and become one-hot rows; floats are mixed as they are
        (soft labels or regression targets).
    alpha : float
        Concentration, at least 0; 0 returns the batch unmixed.
    k : int, default 2
        Samples in a mixture, themselves included; d-Mixup has k = d + 1.
    generator : torch.Generator or int, optional
        Draws weights and permutations.
    n_classes : int, optional
        Width of the one-hot rows; the largest label plus one when not given, so give it
        when a batch may lack the last class.
    per : {"sample", "batch"}, default "sample"
        Draw weights for each sample, or once for the batch.

    Returns
    -------
    mixed_x : array
        Shape and dtype of ``x``.
    mixed_y : array
        Shape (N, n_classes) for class numbers, in the dtype of ``x``; else of ``y``.

    Raises
    ------
    ValueError
        If a shape, dtype or setting is wrong.

    References
    ----------
    Zhang, Cissé, Dauphin, Lopez-Paz (2018), mixup: beyond empirical risk minimization.
    Chidambaram, Ge (2024), On the limitations of temperature scaling for distributions with
    overlaps, for k > 2.
    """
    alpha = check_number(alpha, "alpha", minimum=0.0)
    k = check_integer(k, "k", minimum=1)
    check_choice(per, "per", ("sample", "batch"))
    (x, y), restore = as_tensors(x=x, y=y)
    if x.ndim == 0 or y.ndim == 0 or x.shape[0] != y.shape[0]:
        raise ValueError(
            f"x, y: expected the same number of samples, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    check_tensor(x, "x", floating=True, finite=False)
    if not y.is_floating_point():
        check_tensor(y, "y", ndim=1, minimum=0)
        needed = int(y.max()) + 1
        n_classes = needed if n_classes is None else check_integer(n_classes, "n_classes")
        if n_classes < needed:
            raise ValueError(f"n_classes: expected at least {needed}, got {n_classes}")
        y = F.one_hot(y.long(), n_classes).to(x.dtype)
    generator = as_generator(generator)
    n_samples = x.shape[0]
    rows = n_samples if per == "sample" else 1
    weights = _dirichlet(alpha, rows, k, generator).to(x.device)
    mixed_x, mixed_y = _weigh(weights[:, 0], x), _weigh(weights[:, 0], y)
    for partner in range(1, k):
        order = torch.randperm(n_samples, generator=generator, device=generator.device)
        order = order.to(x.device)
        mixed_x = mixed_x + _weigh(weights[:, partner], x[order])
        mixed_y = mixed_y + _weigh(weights[:, partner], y[order])
    return restore(mixed_x), restore(mixed_y)


def _weigh(weight: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return weight.to(values.dtype).view(-1, *[1] * (values.ndim - 1)) * values


def _dirichlet(alpha: float, rows: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """Draw symmetric Dirichlet weights (rows, k), float64; alpha 0 gives (1, 0, …)."""
    if alpha == 0.0:
        return torch.eye(1, k, dtype=torch.float64).expand(rows, k)
    seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
    draw = np.random.default_rng(seed)
    # Gamma(alpha) = Gamma(alpha + 1) · U^(1/alpha), in logs so that a small alpha survives.
    gamma = np.log(draw.standard_gamma(alpha + 1.0, (rows, k)))
    return torch.from_numpy(gamma - draw.standard_exponential((rows, k)) / alpha).softmax(1)


def _signs(target: torch.Tensor) -> torch.Tensor:
    known = (target == 1) | (target == 0) | (target == -1)
    has_zero, has_minus = bool((target == 0).any()), bool((target == -1).any())
    if not bool(known.all()) or (has_zero and has_minus):
        raise ValueError("target: expected 0/1 or -1/+1, got other values")
    return torch.where(target == 1, 1.0, -1.0)
