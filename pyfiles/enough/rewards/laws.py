r"""Laws of reward-model overoptimization.

With :math:`d = \sqrt{\mathrm{KL}(\pi\,\|\,\pi_0)}`, the gold reward above that of the initial
policy is described by [1]_

.. math::

    R_\mathrm{bon}(d) = d\,(\alpha - \beta d), \qquad
    R_\mathrm{rl}(d) = d\,(\alpha - \beta\log d).

Both are linear in :math:`\alpha` and :math:`\beta`, so least squares has one solution.

References
----------
.. [1] L. Gao, J. Schulman and J. Hilton, "Scaling Laws for Reward Model Overoptimization",
   ICML 2023, arXiv:2210.10760.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import special, stats

from enough.runtime.validation import as_tensors, check_choice, check_number, check_tensor

__all__ = ["OveroptimizationLaw", "Peak", "fit_overoptimization"]


class Peak(NamedTuple):
    """Where a fitted law is highest.

    Parameters
    ----------
    distance : float
        d* = √KL at the peak.
    reward : float
        The law's value there.
    """

    distance: float
    reward: float


@dataclass(frozen=True, eq=False)
class OveroptimizationLaw:
    """A fitted law R(d) with d = √KL.

    Parameters
    ----------
    form : {"bon", "rl"}
        d(α − β d) or d(α − β log d).
    alpha, beta : float
        Coefficients.
    alpha_se, beta_se : float
        Their standard errors.
    covariance : numpy.ndarray of shape (2, 2)
        Of (alpha, beta).
    r2 : float
        1 − residual over total sum of squares, the latter about the mean reward; NaN when all
        rewards are equal.
    n_points : int
        Points used.
    """

    form: str
    alpha: float
    beta: float
    alpha_se: float
    beta_se: float
    covariance: np.ndarray
    r2: float
    n_points: int

    @property
    def peak(self) -> Peak:
        """The law's highest point (d*, R*).

        For β > 0: (α/2β, α²/4β) for best-of-n, (0, 0) if α ≤ 0; (exp(α/β − 1), β d*) for RL.
        A law that rises without end has its peak at (inf, inf), one that never rises at (0, 0).
        """
        alpha, beta = self.alpha, self.beta
        if beta > 0.0 and self.form == "rl":
            exponent = alpha / beta - 1.0
            distance = math.exp(exponent) if exponent < 709.0 else math.inf
            return Peak(distance, beta * distance)
        if beta > 0.0 and alpha > 0.0:
            return Peak(alpha / (2.0 * beta), alpha**2 / (4.0 * beta))
        if beta < 0.0 or (alpha > 0.0 and beta == 0.0):
            return Peak(math.inf, math.inf)
        return Peak(0.0, 0.0)

    def predict(self, kl: Any) -> Any:
        """Return the law's reward.

        Parameters
        ----------
        kl : float or array
            Divergences in nats, 0 or more.

        Returns
        -------
        float or array
            In the shape of ``kl``, in float64; 0 at KL 0.

        Raises
        ------
        ValueError
            If a divergence is negative, NaN or infinite.
        """
        values, restore = _read_kl(kl)
        result = _design(values, self.form) @ np.array([self.alpha, self.beta])
        return restore(result)

    def interval(self, kl: Any, level: float = 0.95) -> tuple[Any, Any]:
        """Return an interval for the law's reward.

        Parameters
        ----------
        kl : float or array
            Divergences in nats, 0 or more.
        level : float, default 0.95
            Coverage aimed at, at each divergence by itself.

        Returns
        -------
        low, high : float or array
            In the shape of ``kl``, in float64: the prediction minus and plus Student's t with
            ``n_points`` − 2 degrees of freedom times its standard error.

        Raises
        ------
        ValueError
            If a divergence is negative, NaN or infinite, or ``level`` is not in (0, 1).
        """
        level = check_number(level, "level", above=0.0, below=1.0)
        values, restore = _read_kl(kl)
        design = _design(values, self.form)
        center = design @ np.array([self.alpha, self.beta])
        error = np.sqrt(np.einsum("...i,ij,...j->...", design, self.covariance, design).clip(0.0))
        reach = stats.t.ppf((1.0 + level) / 2.0, self.n_points - 2) * error
        return restore(center - reach), restore(center + reach)


def fit_overoptimization(kl: Any, reward: Any, form: str = "bon") -> OveroptimizationLaw:
    """Fit an overoptimization law by least squares.

    Parameters
    ----------
    kl : array of shape (N,)
        Divergences from the initial policy in nats, 0 or more. Points with KL 0 carry no
        information, both laws are 0 there, and are left out.
    reward : array of shape (N,)
        Gold reward minus that of the initial policy.
    form : {"bon", "rl"}, default "bon"
        d(α − β d), for best-of-n, or d(α − β log d), for reinforcement learning, d = √KL.

    Returns
    -------
    OveroptimizationLaw
        With ``alpha``, ``beta``, ``alpha_se``, ``beta_se``, ``covariance``, ``r2``, ``peak``,
        ``predict`` and ``interval``.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, a divergence is negative, fewer than three
        points have KL > 0, or these share one divergence.

    Notes
    -----
    Standard errors are those of ordinary least squares, σ² (XᵀX)⁻¹ with σ² = RSS/(N − 2). They
    assume independent errors. The points of one best-of-n curve share a pool and are strongly
    correlated: for an honest interval fit one law a world, or resample prompts.

    The laws are empirical. The slope of the RL form is infinite at d = 0, so it cannot hold
    there. A bounded gold reward must leave either form somewhere behind its peak.

    References
    ----------
    L. Gao, J. Schulman and J. Hilton, "Scaling Laws for Reward Model Overoptimization",
    ICML 2023, arXiv:2210.10760.

    Examples
    --------
    >>> from enough.rewards import fit_overoptimization
    >>> law = fit_overoptimization([0.0, 1.0, 4.0, 9.0], [0.0, 1.5, 2.0, 1.5])
    >>> round(law.alpha, 9), round(law.beta, 9), round(law.peak.distance, 9)
    (2.0, 0.5, 2.0)
    """
    check_choice(form, "form", ("bon", "rl"))
    (divergence, gold), _ = as_tensors(kl=kl, reward=reward)
    check_tensor(divergence, "kl", ndim=1, minimum=0.0)
    check_tensor(gold, "reward", shape=tuple(divergence.shape))
    values, target = (t.detach().cpu().double().numpy() for t in (divergence, gold))
    used = values > 0.0
    values, target = values[used], target[used]
    if len(values) < 3:
        raise ValueError(f"kl: expected at least three points with KL > 0, got {len(values)}")
    if values.min() == values.max():
        raise ValueError(f"kl: expected at least two different divergences, got only {values[0]}")
    design = _design(values, form)
    scale = np.linalg.norm(design, axis=0)
    orthogonal, triangle = np.linalg.qr(design / scale)
    inverse = np.linalg.inv(triangle) / scale[:, None]
    alpha, beta = inverse @ (orthogonal.T @ target)
    residual = target - design @ np.array([alpha, beta])
    covariance = inverse @ inverse.T * (residual @ residual) / (len(values) - 2)
    total = np.square(target - target.mean()).sum()
    return OveroptimizationLaw(
        form=form,
        alpha=float(alpha),
        beta=float(beta),
        alpha_se=math.sqrt(covariance[0, 0]),
        beta_se=math.sqrt(covariance[1, 1]),
        covariance=covariance,
        r2=float(1.0 - residual @ residual / total) if total > 0.0 else math.nan,
        n_points=len(values),
    )


def _design(kl: np.ndarray, form: str) -> np.ndarray:
    """Return the columns that multiply (α, β), of shape (..., 2)."""
    distance = np.sqrt(kl)
    second = kl if form == "bon" else special.xlogy(distance, distance)
    return np.stack([distance, -second], axis=-1)


def _read_kl(kl: Any) -> tuple[np.ndarray, Any]:
    """Return divergences as float64 and the way back to what was given."""
    (value,), restore = as_tensors(kl=kl)
    check_tensor(value, "kl", minimum=0.0)
    values = value.detach().cpu().double().numpy()

    def give(result: np.ndarray) -> Any:
        return restore(torch.as_tensor(result)) if value.ndim else float(result)

    return values, give
