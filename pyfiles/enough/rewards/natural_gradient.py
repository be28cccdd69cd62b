"""The natural policy gradient of a softmax, which never leaves the tilted family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = ["natural_gradient", "natural_gradient_path"]


def natural_gradient(logits: Any, rewards: Any, reference_logits: Any, beta: float = 0.0) -> Any:
    r"""Compute the natural policy gradient of a softmax with a penalty on the divergence.

    The objective is :math:`J = \sum_a \pi_a r_a - \beta\,\mathrm{KL}(\pi\|\pi_0)`, the
    direction :math:`F^{+}\nabla J` with the Fisher matrix F of the softmax.

    Parameters
    ----------
    logits : array, shape (..., K)
        Logits θ of the policy.
    rewards : array, shape (..., K)
        Rewards r of the actions.
    reference_logits : array, shape (..., K)
        Logits θ₀ of the reference.
    beta : float, default 0.0
        Coefficient β of the penalty, at least 0.

    Returns
    -------
    array, shape (..., K)
        :math:`r - \beta(\theta - \theta_0)`, less its mean over actions: adding a constant to
        all logits changes nothing, so the direction of least length is returned.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, or ``beta`` is negative.
    """
    beta = check_number(beta, "beta", minimum=0.0)
    (logits, rewards, reference), restore = _tables(
        logits=logits, rewards=rewards, reference_logits=reference_logits
    )
    direction = rewards - beta * (logits - reference)
    return restore(direction - direction.mean(-1, keepdim=True))


def natural_gradient_path(
    reference_logits: Any, rewards: Any, times: Any, beta: float = 0.0
) -> Any:
    r"""Follow the natural policy gradient flow from the reference, in closed form.

    .. math:: \theta_t - \theta_0 = r\,\frac{1 - e^{-\beta t}}{\beta}

    up to a constant, with r t in the limit β = 0. So every policy on the path is the reference
    tilted by the reward, :math:`\pi_t \propto \pi_0 e^{r/b}`, and the penalty decides only how
    far the path goes and how fast: it acts as early stopping does.

    Parameters
    ----------
    reference_logits : array, shape (..., K)
        Logits θ₀, where the path starts.
    rewards : array, shape (..., K)
        Rewards r.
    times : array, shape (T,)
        Times t, at least 0.
    beta : float, default 0.0
        Coefficient β of the penalty, at least 0.

    Returns
    -------
    array, shape (T, ..., K)
        Logits at these times.

    Raises
    ------
    ValueError
        If shapes differ, an entry is not finite, or a time or ``beta`` is negative.
    """
    beta = check_number(beta, "beta", minimum=0.0)
    (reference, rewards), restore = _tables(reference_logits=reference_logits, rewards=rewards)
    (times,), _ = as_tensors(times=times)
    check_tensor(times, "times", ndim=1, minimum=0.0)
    times = times.to(reference)
    weight = times if beta == 0.0 else -torch.expm1(-beta * times) / beta
    return restore(reference + weight.view(-1, *[1] * rewards.ndim) * rewards)


def _tables(**arrays: Any) -> tuple[list[Tensor], Callable[[Tensor], Any]]:
    tensors, restore = as_tensors(**arrays)
    first = next(iter(arrays))
    for name, tensor in zip(arrays, tensors, strict=True):
        if tensor.ndim == 0 or tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{name}: expected the shape of {first}, (..., K), got {tuple(tensor.shape)}"
            )
        check_tensor(tensor, name)
    return [t if t.is_floating_point() else t.double() for t in tensors], restore
