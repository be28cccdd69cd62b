"""Divergences of categorical distributions: exact, and estimated from samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_tensor

__all__ = ["KLEstimates", "categorical_kl", "kl_estimates"]


class KLEstimates(NamedTuple):
    """Three estimates of KL(π‖π₀) from samples of π.

    Parameters
    ----------
    k1 : array
        log π/π₀: unbiased, may be negative.
    k2 : array
        Half the square of log π/π₀: biased, not negative.
    k3 : array
        π₀/π − 1 − log π₀/π: unbiased where π₀ ≪ π, not negative.
    """

    k1: Any
    k2: Any
    k3: Any


def kl_estimates(log_ratio: Any) -> KLEstimates:
    """Compute the estimators k1, k2 and k3 of a divergence, sample by sample.

    Parameters
    ----------
    log_ratio : array
        log π(y) − log π₀(y) of samples y from π.

    Returns
    -------
    KLEstimates
        Arrays of the same shape; their means estimate KL(π‖π₀).

    Raises
    ------
    ValueError
        If an entry is NaN or infinite.

    Notes
    -----
    As terms of a loss they are not alike: the gradient of k1 has mean 0, that of k2 has the
    gradient of KL(π‖π₀) as its mean, that of k3 the gradient of KL(π₀‖π).
    """
    (ratio,), restore = as_tensors(log_ratio=log_ratio)
    ratio = ratio if ratio.is_floating_point() else ratio.double()
    check_tensor(ratio, "log_ratio")
    k3 = torch.expm1(-ratio) + ratio
    return KLEstimates(restore(ratio), restore(0.5 * ratio.square()), restore(k3))


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute KL(p‖q) of categorical distributions over the last dimension.

    Parameters
    ----------
    log_p : torch.Tensor, shape (..., K)
        Log-probabilities; −inf where p is 0, which adds 0 to value and gradient.
    log_q : torch.Tensor, shape (..., K)
        Log-probabilities.

    Returns
    -------
    torch.Tensor, shape (...)
        Nats; infinite where p has mass and q has none.
    """
    support = log_p > -torch.inf
    zero = log_p.new_zeros(())
    safe_p = torch.where(support, log_p, zero)
    difference = safe_p - torch.where(support, log_q, zero)
    return torch.where(support, safe_p.exp() * difference, zero).sum(-1)
