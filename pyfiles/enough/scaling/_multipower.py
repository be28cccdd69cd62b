"""The multi-power law as a model of the solver: a sum over learning-rate drops, in blocks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["Drops", "MultiPower", "read_drops"]

#: Drops share a block when their distances to the row's step, and their learning rates, differ by
#: no more than these factors. Predictions then move by about one part in a million.
_NEAR, _ALIKE = 1.05, 1.1


class Drops:
    """Learning-rate drops before each row, close ones joined.

    Parameters
    ----------
    size : torch.Tensor, shape (n, m)
        Summed drops η_{k−1} − η_k of a block, negative where the learning rate rose; 0 pads.
    reach : torch.Tensor, shape (n, m)
        Logarithm of the mean of S_k, the learning rates from k to the row's step.
    rate : torch.Tensor, shape (n, m)
        Mean logarithm of η_k, relative to `reference`.
    sure : torch.Tensor, shape (n,)
        Drops to a learning rate of zero: their gain is 1.
    reference : float
        Mean logarithm of η_k over all drops.
    """

    def __init__(
        self, size: Tensor, reach: Tensor, rate: Tensor, sure: Tensor, reference: float
    ) -> None:
        self.size, self.reach, self.rate = size, reach, rate
        self.sure, self.reference = sure, reference


def read_drops(
    names: np.ndarray, steps: np.ndarray, schedules: Mapping[str, np.ndarray]
) -> tuple[Drops, Tensor]:
    """Return the drops before each row and the forward area S₁.

    Parameters
    ----------
    names : numpy.ndarray of object, shape (n,)
        Schedule of each row.
    steps : numpy.ndarray of int, shape (n,)
        Steps done.
    schedules : mapping of str to numpy.ndarray
        Learning rate of every step, warm-up included.

    Returns
    -------
    drops : Drops
        The blocks.
    forward : torch.Tensor, shape (n,)
        Sum of the learning rates.
    """
    blocks: list[tuple[np.ndarray, ...]] = []
    forward, sure = np.empty(len(steps)), np.zeros(len(steps))
    empty = np.empty(0)
    for row, (name, step) in enumerate(zip(names, steps, strict=True)):
        rates = schedules[name][:step]
        total = np.concatenate([[0.0], np.cumsum(rates)])
        forward[row] = total[step]
        at = np.flatnonzero(np.diff(rates)) + 1
        drop, reach = rates[at - 1] - rates[at], total[step] - total[at]
        here = reach > 0
        sure[row] = drop[here & (rates[at] == 0)].sum()
        at = at[here & (rates[at] > 0)]
        if not len(at):
            blocks.append((empty, empty, empty))
            continue
        drop, reach, level = rates[at - 1] - rates[at], total[step] - total[at], np.log(rates[at])
        keys = np.stack(
            [
                np.sign(drop),
                np.floor(np.log(step - at) / np.log(_NEAR)),
                np.floor(level / np.log(_ALIKE)),
            ]
        )
        first = np.flatnonzero(np.r_[True, (np.diff(keys) != 0).any(0)])
        size = np.add.reduceat(drop, first)
        blocks.append(
            (
                size,
                np.log(np.add.reduceat(drop * reach, first) / size),
                np.add.reduceat(drop * level, first) / size,
            )
        )
    width = max(1, *(len(size) for size, _, _ in blocks))
    padded = np.zeros((3, len(steps), width))
    for row, block in enumerate(blocks):
        padded[:, row, : len(block[0])] = block
    size, reach, level = torch.from_numpy(padded)
    used = size != 0
    reference = level[used].mean().item() if used.any() else 0.0
    level = torch.where(used, level - reference, 0.0)
    drops = Drops(size, reach, level, torch.from_numpy(sure), reference)
    return drops, torch.from_numpy(forward)


class MultiPower:
    """log L of the multi-power law at coordinates (L_0, ln A, ln α, ln B, ln c, ln β, γ).

    A is the coefficient at the center of ln S₁, and c is C times the reference learning rate to
    the power −γ, so that γ only tilts the gains of high and low learning rates.

    Parameters
    ----------
    drops : Drops
        The drops before each row.
    log_forward : torch.Tensor, shape (n,)
        ln S₁ minus its center.
    """

    def __init__(self, drops: Drops, log_forward: Tensor) -> None:
        self.drops, self.log_forward = drops, log_forward

    def gains(self, c: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        """Return Σ_k (η_{k−1} − η_k) G of each row, shape (n,), at one set of constants."""
        drops = self.drops
        log_base = torch.nn.functional.softplus(c + drops.reach - gamma * drops.rate)
        return drops.sure - (drops.size * torch.expm1(-beta * log_base)).sum(-1)

    def value(self, theta: Tensor) -> Tensor:
        """Return the logarithm of the loss, shape (R, n)."""
        rows = []
        for floor, a, log_alpha, b, c, log_beta, gamma in theta:
            power = (a - log_alpha.exp() * self.log_forward).exp()
            rows.append(floor + power - b.exp() * self.gains(c, log_beta.exp(), gamma))
        return torch.stack(rows).clamp_min(1e-9).log()

    def jacobian(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the loss and its derivatives, (R, n) and (R, n, 7)."""
        parts = [self._derivatives(one)[:2] for one in theta]
        loss, slope = (torch.stack(part) for part in zip(*parts, strict=True))
        loss = loss.clamp_min(1e-9)
        return loss.log(), slope / loss[..., None]

    def curvature(self, theta: Tensor, weight: Tensor) -> Tensor:
        """Return Σ_i weight_i ∇² ln L_i, shape (R, 7, 7)."""
        result = []
        for one, share in zip(theta, weight, strict=True):
            loss, slope, second = self._derivatives(one)
            loss = loss.clamp_min(1e-9)
            slope, share = slope / loss[:, None], share[:, None]
            bent = (second * (share / loss[:, None])[..., None]).sum(0)
            result.append(bent - slope.mT @ (share * slope))
        return torch.stack(result)

    def _derivatives(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of every row with its gradient and Hessian by the coordinates."""
        floor, a, log_alpha, b, c, log_beta, gamma = theta
        drops, u, alpha, beta = self.drops, self.log_forward, log_alpha.exp(), log_beta.exp()
        power = (a - alpha * u).exp()
        z = c + drops.reach - gamma * drops.rate
        log_base, share = torch.nn.functional.softplus(z), torch.sigmoid(z)
        kept = drops.size * (-beta * log_base).exp() * beta
        by_z, by_beta = kept * share, kept * log_base
        by_zz = kept * (share * (1 - share) - beta * share.square())
        by_zb = by_z * (1 - beta * log_base)
        lever, factor = -drops.rate, -b.exp()

        def total(x: Tensor) -> Tensor:
            return factor * x.sum(-1)

        gain = factor * self.gains(c, beta, gamma)
        slope = torch.stack(
            [
                torch.ones_like(power),
                power,
                -alpha * u * power,
                gain,
                total(by_z),
                total(by_beta),
                total(by_z * lever),
            ],
            -1,
        )
        second = torch.zeros(len(power), 7, 7, dtype=power.dtype)
        second[:, 1, 1] = power
        second[:, 1, 2] = -alpha * u * power
        second[:, 2, 2] = power * ((alpha * u).square() - alpha * u)
        second[:, 3, 3:] = torch.stack([gain, *slope[:, 4:].T], -1)
        second[:, 4, 4] = total(by_zz)
        second[:, 4, 5] = total(by_zb)
        second[:, 4, 6] = total(by_zz * lever)
        second[:, 5, 5] = total(by_beta * (1 - beta * log_base))
        second[:, 5, 6] = total(by_zb * lever)
        second[:, 6, 6] = total(by_zz * lever.square())
        upper = second.triu(1)
        return floor + power + gain, slope, second + upper.mT
