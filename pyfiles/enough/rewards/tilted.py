r"""The exact frontier of KL-regularized optimization on a pool or a discrete distribution.

Among all reweightings :math:`\pi` of a base distribution p, the one that maximizes
:math:`E_\pi[s] - \beta\,\mathrm{KL}(\pi\,\|\,p)` is the exponential tilt

.. math::

    \pi_\beta(y) = \frac{p(y)\,e^{s(y)/\beta}}{Z_\beta}, \qquad
    \mathrm{KL}(\pi_\beta\,\|\,p) = E_{\pi_\beta}[s]/\beta - \log Z_\beta.

As :math:`\beta` falls from infinity to 0, the divergence rises from 0 to minus the logarithm of
the probability of the highest score, and no policy has a higher proxy score at the same
divergence. On a pool of samples p is uniform, and the whole frontier needs no training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from enough.rewards._inputs import read_distribution, read_pool
from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = ["TiltedFrontier", "solve_tilt", "tilted_distribution", "tilted_frontier"]

_ROUNDING = 1e-12  # relative; a policy may reach the highest score, and round above it


@dataclass(frozen=True, eq=False)
class TiltedFrontier:
    """Divergence and scores of tilted distributions.

    Parameters
    ----------
    beta : float or array
        Strength of the KL penalty, in units of the proxy score per nat.
    kl : float or array
        KL(tilted ‖ base) in nats, averaged over prompts; aligned with ``beta``.
    gold : float or array
        Expected gold score, averaged over prompts.
    proxy : float or array
        Expected proxy score, averaged over prompts.
    """

    beta: Any
    kl: Any
    gold: Any
    proxy: Any


def tilted_distribution(scores: Any, beta: float, *, probs: Any = None) -> Any:
    """Return the distribution p(y) exp(score(y)/β), normalized.

    Parameters
    ----------
    scores : array of shape (..., N)
        Scores to climb, finite.
    beta : float
        Strength of the KL penalty, 0 or more. ``inf`` returns the base distribution, 0 the base
        distribution restricted to the highest score.
    probs : array of shape (..., N), optional
        Base distribution, floating; uniform by default.

    Returns
    -------
    array of shape (..., N)
        In the floating dtype of the scores (float64 for integers).

    Raises
    ------
    ValueError
        If a score is not finite, ``beta`` is negative, or ``probs`` is no distribution of the
        same shape.

    Examples
    --------
    >>> from enough.rewards import tilted_distribution
    >>> tilted_distribution([0.0, 0.0, 1.0], 0.0)
    array([0., 0., 1.])
    """
    beta = check_number(beta, "beta", minimum=0.0, finite=False)
    (values,), give = read_pool(scores=scores)
    log_base = _read_base(probs, values)
    weights, _ = _tilt(_climb(values, log_base), log_base, beta)
    return give(weights)


def tilted_frontier(proxy: Any, gold: Any, beta: Any, *, probs: Any = None) -> TiltedFrontier:
    """Return the exact divergence and scores of the tilted policy at each β.

    Parameters
    ----------
    proxy : array of shape (..., N)
        Scores to climb, finite. Leading axes are prompts, tilted one by one with the same β and
        averaged.
    gold : array of shape (..., N)
        Scores that count, finite.
    beta : float or array
        Strength of the KL penalty, 0 or more, infinity included; see `tilted_distribution`.
    probs : array of shape (..., N), optional
        Base distribution; uniform by default, as for a pool of samples.

    Returns
    -------
    TiltedFrontier
        Floats for one β, else arrays of the kind, device and floating dtype of the scores.

    Raises
    ------
    ValueError
        If shapes differ, a score is not finite, a β is negative or NaN, or ``probs`` is no
        distribution of the same shape.

    Notes
    -----
    Computed in float64, one β at a time. On a pool of N samples the divergence cannot pass
    log N, and well before that the tilted pool holds few samples: 1/Σ w² of them count.

    Examples
    --------
    >>> from enough.rewards import tilted_frontier
    >>> found = tilted_frontier([0.0, 1.0], [0.0, -1.0], 1.0)
    >>> round(found.kl, 4), round(found.proxy, 4), round(found.gold, 4)
    (0.1109, 0.7311, -0.7311)
    """
    (climb, values), give = read_pool(proxy=proxy, gold=gold)
    (given,), _ = as_tensors(beta=beta)
    check_tensor(given, "beta", finite=False)
    betas = given.detach().cpu().double()
    if not bool((betas >= 0.0).all()):
        worst = betas[~(betas >= 0.0)][0].item()
        raise ValueError(f"beta: expected numbers >= 0, got {worst}")
    log_base = _read_base(probs, climb)
    above = _climb(climb, log_base)
    rows = []
    for one in betas.flatten().tolist():
        weights, kl = _tilt(above, log_base, one)
        reached = [(weights * score).sum(-1).mean() for score in (values, climb)]
        rows.append(torch.stack([kl.mean(), *reached]))
    kl, reached_gold, reached_proxy = torch.stack(rows, dim=1).reshape(3, *betas.shape)
    if not betas.shape:
        return TiltedFrontier(float(betas), float(kl), float(reached_gold), float(reached_proxy))
    return TiltedFrontier(
        give(betas.to(kl.device)), give(kl), give(reached_gold), give(reached_proxy)
    )


def solve_tilt(proxy: Any, kl: float, *, probs: Any = None) -> float:
    """Return the β at which the tilted policy has a given divergence.

    Parameters
    ----------
    proxy : array of shape (..., N)
        Scores to climb, finite. Leading axes are prompts: one β for all, the divergence
        averaged over them.
    kl : float
        The divergence wanted in nats, at most −log P(highest score); 0 is always legal.
    probs : array of shape (..., N), optional
        Base distribution; uniform by default.

    Returns
    -------
    float
        Positive; ``inf`` for ``kl=0``, and 0 where ``kl`` is that of the highest score alone, up
        to rounding.

    Raises
    ------
    ValueError
        If a score is not finite, ``probs`` is no distribution of the same shape, or no β
        reaches ``kl``.

    Notes
    -----
    The divergence rises strictly in 1/β, with derivative Var(score)/β, so a bracket found by
    doubling holds the one root; Brent's method finds it to a relative 1e-12. The divergence
    itself is computed to about 1e-15 nats, which limits β at tiny targets.

    Examples
    --------
    >>> from enough.rewards import solve_tilt, tilted_frontier
    >>> beta = solve_tilt([0.0, 1.0, 2.0], 0.5)
    >>> round(tilted_frontier([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], beta).kl, 9)
    0.5
    """
    kl = check_number(kl, "kl", minimum=0.0)
    (values,), _ = read_pool(proxy=proxy)
    log_base = _read_base(probs, values)
    if kl == 0.0:
        return math.inf
    above = _climb(values, log_base)
    ceiling = _tilt(above, log_base, 0.0)[1].mean().item()
    if kl > ceiling * (1 + _ROUNDING):
        raise ValueError(
            f"kl: expected at most {ceiling}, the divergence of the highest score, got {kl}"
        )
    if kl >= ceiling:
        return 0.0

    def excess(log_strength: float) -> float:
        return _tilt(above, log_base, math.exp(-log_strength))[1].mean().item() - kl

    # Start where scores spread over about one nat, then double until the target is between.
    start = -math.log(-above[above > -math.inf].mean().item())
    low = high = start
    while excess(low) > 0.0:
        low -= math.log(2.0)
    while excess(high) < 0.0:
        high += math.log(2.0)
    return math.exp(-(brentq(excess, low, high, xtol=1e-12) if low < high else low))


def _read_base(probs: Any, scores: Tensor) -> Tensor:
    """Return the logarithm of the base distribution, uniform for None."""
    if probs is None:
        size = scores.shape[-1]
        return torch.full_like(scores, -math.log(size))
    (base,), _ = as_tensors(probs=probs)
    check_tensor(base, "probs", shape=tuple(scores.shape))
    return read_distribution(base).to(scores.device).log()


def _climb(scores: Tensor, log_base: Tensor) -> Tensor:
    """Return scores minus the highest of the row; −inf where the base has no mass."""
    scores = torch.where(log_base > -math.inf, scores, -math.inf)
    return scores - scores.amax(-1, keepdim=True)


def _tilt(above: Tensor, log_base: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the tilted weights (..., N) and the divergence (...)."""
    if beta == 0.0:
        tilt = torch.where(above == 0.0, 0.0, -math.inf)
    else:
        tilt = torch.where(log_base > -math.inf, above / beta, -math.inf)
    log_weights = log_base + tilt
    log_total = torch.logsumexp(log_weights, -1, keepdim=True)
    weights = (log_weights - log_total).exp()
    change = torch.where(weights > 0.0, weights * tilt, 0.0).sum(-1) - log_total[..., 0]
    return weights, change.clamp(min=0.0)
