"""Advantages, and the losses of proximal policy optimization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = [
    "clipped_squares",
    "clipped_surrogate",
    "generalized_advantage",
    "leave_one_out",
    "ppo_loss",
    "value_loss",
]


def leave_one_out(rewards: Any, *, mask: Any = None, axis: int = -1) -> Any:
    """Subtract from every reward the mean of the others: the leave-one-out advantage.

    Parameters
    ----------
    rewards : array
        Rewards of samples from one policy along ``axis``.
    mask : array of bool, same shape, optional
        Which entries count. The others get 0 and are no part of any mean.
    axis : int, default -1
        Dimension of the samples.

    Returns
    -------
    array, same shape
        Reward minus the mean of the other rewards; the reward itself where there is no other.
        The baseline of a sample does not depend on the sample, so the policy gradient stays
        unbiased.

    Raises
    ------
    ValueError
        If shapes differ or an entry that counts is not finite.

    References
    ----------
    .. [1] Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
       free!".
    """
    (rewards,), restore = as_tensors(rewards=rewards)
    rewards = rewards if rewards.is_floating_point() else rewards.double()
    if mask is None:
        keep = torch.ones_like(rewards, dtype=torch.bool)
    else:
        keep = _read_mask(mask, rewards, "rewards")
    if rewards.ndim == 0:
        raise ValueError("rewards: expected at least one dimension, got a scalar")
    rewards = check_tensor(rewards.masked_fill(~keep, 0.0), "rewards")
    others = keep.sum(axis, keepdim=True) - 1
    baseline = (rewards.sum(axis, keepdim=True) - rewards) / others.clamp(min=1)
    return restore((rewards - baseline).masked_fill(~keep, 0.0))


def generalized_advantage(
    rewards: Any,
    values: Any,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    mask: Any = None,
) -> tuple[Any, Any]:
    r"""Estimate advantages by exponentially weighted sums of temporal differences.

    .. math:: A_t = \sum_{k \ge 0} (\gamma\lambda)^k \delta_{t+k}, \qquad
       \delta_t = r_t + \gamma V_{t+1} - V_t

    with value 0 after the last step.

    Parameters
    ----------
    rewards : array, shape (..., T)
        Reward of each step.
    values : array, shape (..., T)
        Value before each step; no gradient flows through it.
    gamma : float, default 1.0
        Discount, in [0, 1].
    lam : float, default 0.95
        Weight λ, in [0, 1]: 0 trusts the values, 1 the rewards.
    mask : array of bool, shape (..., T), optional
        Which steps happened: true up to the last, false after it. The others get 0 and count
        for nothing, whatever stands there.

    Returns
    -------
    advantages : array, shape (..., T)
        The estimates.
    returns : array, shape (..., T)
        Advantages plus values: the targets of the value function.

    Raises
    ------
    ValueError
        If shapes differ, a number is out of range, an entry that counts is not finite, or a
        step follows one that did not happen.

    References
    ----------
    .. [1] Schulman et al. (2015), "High-dimensional continuous control using generalized
       advantage estimation", arXiv:1506.02438, equation 16.
    """
    gamma = check_number(gamma, "gamma", minimum=0.0, maximum=1.0)
    lam = check_number(lam, "lam", minimum=0.0, maximum=1.0)
    (rewards, values), restore = as_tensors(rewards=rewards, values=values)
    if rewards.ndim == 0 or rewards.shape != values.shape:
        raise ValueError(
            f"values: expected the shape of rewards, {tuple(rewards.shape)} with at least one "
            f"dimension, got {tuple(values.shape)}"
        )
    rewards, values = (t.detach() for t in (rewards, values))
    dtype = torch.promote_types(rewards.dtype, values.dtype)
    dtype = dtype if dtype.is_floating_point else torch.float64
    rewards, values = rewards.to(dtype), values.to(dtype)
    if mask is not None:
        keep = _read_mask(mask, rewards, "rewards")
        if bool((keep[..., 1:] & ~keep[..., :-1]).any()):
            raise ValueError("mask: expected true entries first, got one after a false entry")
        rewards, values = rewards.masked_fill(~keep, 0.0), values.masked_fill(~keep, 0.0)
    check_tensor(rewards, "rewards")
    check_tensor(values, "values")
    ahead = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
    differences = rewards + gamma * ahead - values
    total = torch.zeros_like(differences[..., 0])
    columns = []
    for difference in reversed(differences.unbind(-1)):
        total = difference + gamma * lam * total
        columns.append(total)
    advantages = torch.stack(columns[::-1], -1)
    return restore(advantages), restore(advantages + values)


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Compute the clipped surrogate loss of proximal policy optimization.

    .. math:: L = -\mathrm{mean}\,\min\bigl(\rho A,\;
       \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon)\,A\bigr), \qquad
       \rho = \pi(a)/\pi_\mathrm{old}(a)

    Parameters
    ----------
    log_prob : torch.Tensor
        log π of the actions taken.
    old_log_prob : torch.Tensor, same shape
        log π of the policy that took them; no gradient flows through it.
    advantages : torch.Tensor, same shape
        Advantages; no gradient flows through them.
    clip : float, default 0.2
        The ε, above 0.
    mask : torch.Tensor of bool, same shape, optional
        Which entries count. The others add nothing to value and gradient, whatever stands
        there.

    Returns
    -------
    torch.Tensor, shape ()
        The mean over the entries that count. At ρ = 1 its gradient is the policy gradient.

    Raises
    ------
    ValueError
        If shapes differ or ``clip`` is not above 0.

    References
    ----------
    .. [1] Schulman et al. (2017), "Proximal policy optimization algorithms",
       arXiv:1707.06347, equation 7.
    """
    clip = check_number(clip, "clip", above=0.0)
    for name, tensor in (("old_log_prob", old_log_prob), ("advantages", advantages)):
        check_tensor(tensor, name, shape=log_prob.shape, finite=False)
    keep = None if mask is None else _read_mask(mask, log_prob, "log_prob")
    losses, _ = clipped_surrogate(log_prob, old_log_prob, advantages, clip, keep)
    return losses.mean() if keep is None else losses.sum() / keep.sum()


def value_loss(
    values: Tensor,
    returns: Tensor,
    *,
    old_values: Tensor | None = None,
    clip: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Compute half the mean squared error of a value function, clipped or not.

    .. math:: L = \tfrac12\,\mathrm{mean}\,\max\bigl((V - R)^2, (V_c - R)^2\bigr), \qquad
       V_c = V_\mathrm{old} + \mathrm{clip}(V - V_\mathrm{old}, -\epsilon, \epsilon)

    Parameters
    ----------
    values : torch.Tensor
        Values V.
    returns : torch.Tensor, same shape
        Targets R; no gradient flows through them.
    old_values : torch.Tensor, same shape, optional
        Values before the update; needed where ``clip`` is given.
    clip : float, optional
        The ε, above 0. Default: no clipping, plain squared error.
    mask : torch.Tensor of bool, same shape, optional
        Which entries count, as in `ppo_loss`.

    Returns
    -------
    torch.Tensor, shape ()
        The mean over the entries that count.

    Raises
    ------
    ValueError
        If shapes differ, ``clip`` is not above 0, or it comes without ``old_values``.
    """
    check_tensor(returns, "returns", shape=values.shape, finite=False)
    keep = None if mask is None else _read_mask(mask, values, "values")
    if clip is not None:
        clip = check_number(clip, "clip", above=0.0)
        if old_values is None:
            raise ValueError("old_values: expected them where clip is given, got None")
        check_tensor(old_values, "old_values", shape=values.shape, finite=False)
    losses = clipped_squares(values, returns, old_values, clip, keep)
    return losses.mean() if keep is None else losses.sum() / keep.sum()


def clipped_surrogate(
    log_prob: Tensor, old: Tensor, advantages: Tensor, clip: float, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the clipped surrogate, entry by entry.

    Parameters
    ----------
    log_prob : torch.Tensor
        log π of the actions taken.
    old : torch.Tensor, same shape
        log π of the policy that took them.
    advantages : torch.Tensor, same shape
        Advantages.
    clip : float
        The ε.
    mask : torch.Tensor of bool, same shape, or None
        Which entries count.

    Returns
    -------
    losses : torch.Tensor, same shape
        Losses; 0 at masked entries, without a gradient.
    outside : torch.Tensor, same shape
        1 where the ratio is outside 1 ± ε, else 0.
    """
    old, advantages = old.detach(), advantages.detach()
    if mask is not None:
        log_prob, old, advantages = (t.masked_fill(~mask, 0.0) for t in (log_prob, old, advantages))
    ratio = (log_prob - old).exp()
    bounded = ratio.clamp(1.0 - clip, 1.0 + clip)
    losses = -torch.minimum(ratio * advantages, bounded * advantages)
    return losses, (ratio != bounded).to(losses.dtype)


def clipped_squares(
    values: Tensor,
    returns: Tensor,
    old: Tensor | None,
    clip: float | None,
    mask: Tensor | None,
) -> Tensor:
    """Compute half the squared errors, clipped or not, entry by entry.

    Parameters
    ----------
    values : torch.Tensor
        Values.
    returns : torch.Tensor, same shape
        Targets.
    old : torch.Tensor, same shape, or None
        Values before the update.
    clip : float or None
        The ε.
    mask : torch.Tensor of bool, same shape, or None
        Which entries count.

    Returns
    -------
    torch.Tensor, same shape
        Losses; 0 at masked entries, without a gradient.
    """
    returns = returns.detach()
    old = values.detach() if old is None else old.detach()
    if mask is not None:
        values, returns, old = (t.masked_fill(~mask, 0.0) for t in (values, returns, old))
    errors = (values - returns).square()
    if clip is not None:
        near = old + (values - old).clamp(-clip, clip)
        errors = torch.maximum(errors, (near - returns).square())
    return 0.5 * errors


def _read_mask(mask: Any, like: Tensor, name: str) -> Tensor:
    (mask,), _ = as_tensors(mask=mask)
    if mask.dtype != torch.bool or mask.shape != like.shape:
        raise ValueError(
            f"mask: expected bool of the shape of {name}, {tuple(like.shape)}, got {mask.dtype} "
            f"of shape {tuple(mask.shape)}"
        )
    return mask.to(like.device)
