"""Optimizers for stacked parameters: every member has hyper-parameters of its own.

``torch.optim`` sees a stack of E models as one model: one learning rate, one norm to clip.
Here each hyper-parameter is a number for all members or a tensor of one number a member, and
the updates equal those of ``torch.optim`` on each member alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

__all__ = ["StackedAdam", "StackedSGD", "clip_members"]

Hyper = float | Tensor  # one for all members, or shape (E,)


def clip_members(grads: Sequence[Tensor], max_norm: Hyper) -> list[Tensor]:
    """Clip the norm of each member's gradient, as `torch.nn.utils.clip_grad_norm_` would.

    Parameters
    ----------
    grads : sequence of torch.Tensor, shape (E, ...)
        The gradients of all parameters.
    max_norm : float or torch.Tensor, shape (E,)
        Largest norm over all parameters of a member, above zero; infinity clips nothing.

    Returns
    -------
    list of torch.Tensor
        Clipped copies: gradients may share memory, so they are not changed in place.
    """
    norms = [torch.linalg.vector_norm(g.reshape(g.shape[0], -1), dim=1) for g in grads]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    return [g * _along(factor, g) for g in grads]


class _Stacked:
    """What both optimizers share: parameters, hyper-parameters, and members that leave."""

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: Hyper,
        weight_decay: Hyper,
        lr_multipliers: Sequence[float] | None,
        decay_multipliers: Sequence[float] | None,
    ) -> None:
        self.params = list(params)
        self.lr, self.weight_decay = lr, weight_decay
        self._decays = _any(weight_decay)
        ones = [1.0] * len(self.params)
        self.lr_multipliers = list(lr_multipliers or ones)
        self.decay_multipliers = list(decay_multipliers or ones)
        self.state: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor | None], factor: Hyper = 1.0) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : sequence of torch.Tensor or None
            One gradient a parameter, of its shape; ``None`` leaves the parameter alone.
        factor : float or torch.Tensor, shape (E,), default 1.0
            The schedule's multiplier of the learning rate.
        """
        used = [i for i, grad in enumerate(grads) if grad is not None]
        if used:
            self._step(used, [grads[i] for i in used], self.lr * factor)

    def select(self, params: Sequence[Tensor], keep: Tensor) -> None:
        """Go on with some of the members.

        Parameters
        ----------
        params : sequence of torch.Tensor
            The parameters of these members.
        keep : torch.Tensor, shape (K,)
            Their positions among the present members.
        """
        self.params = list(params)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[keep])
        self.state = {name: [t[keep] for t in ts] for name, ts in self.state.items()}

    def _step(self, used: list[int], grads: list[Tensor], lr: Hyper) -> None:
        raise NotImplementedError

    def _coupled(self, used: list[int], grads: list[Tensor]) -> list[Tensor]:
        """Add the gradient of the penalty: grad + weight_decay * param."""
        if not self._decays:
            return grads
        decays = [self.weight_decay * self.decay_multipliers[i] for i in used]
        return [
            torch.add(g, self.params[i], alpha=decay)
            if isinstance(decay, float)
            else torch.addcmul(g, self.params[i], _along(decay, g))
            for i, g, decay in zip(used, grads, decays, strict=True)
        ]

    def _move(self, used: list[int], directions: list[Tensor], lr: Hyper) -> None:
        """Subtract lr * direction from the parameters."""
        if isinstance(lr, float) and len({self.lr_multipliers[i] for i in used}) == 1:
            params = [self.params[i] for i in used]
            torch._foreach_add_(params, directions, alpha=-lr * self.lr_multipliers[used[0]])
            return
        for i, direction in zip(used, directions, strict=True):
            rate = lr * self.lr_multipliers[i]
            if isinstance(rate, float):
                self.params[i].add_(direction, alpha=-rate)
            else:
                self.params[i].addcmul_(direction, _along(-rate, direction))


class StackedSGD(_Stacked):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` on each member.

    Parameters
    ----------
    params : sequence of torch.Tensor, shape (E, ...)
        Stacked parameters, updated in place.
    lr : float or torch.Tensor, shape (E,)
        Learning rate.
    weight_decay : float or torch.Tensor, shape (E,), default 0.0
        Factor of the parameters that is added to the gradients.
    momentum : float or torch.Tensor, shape (E,), default 0.0
        Momentum, without dampening.
    nesterov : bool, default False
        Nesterov's momentum.
    lr_multipliers : sequence of float, optional
        Factor of the learning rate, one a parameter. Default: 1.
    decay_multipliers : sequence of float, optional
        Factor of the weight decay, one a parameter. Default: 1.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: Hyper,
        weight_decay: Hyper = 0.0,
        momentum: Hyper = 0.0,
        nesterov: bool = False,
        lr_multipliers: Sequence[float] | None = None,
        decay_multipliers: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            lr_multipliers=lr_multipliers,
            decay_multipliers=decay_multipliers,
        )
        self.momentum, self.nesterov = momentum, nesterov
        if _any(momentum):
            self.state["momentum"] = [torch.zeros_like(p) for p in self.params]

    def _step(self, used: list[int], grads: list[Tensor], lr: Hyper) -> None:
        grads = self._coupled(used, grads)
        if "momentum" in self.state:
            averages = [self.state["momentum"][i] for i in used]
            if isinstance(self.momentum, float):
                torch._foreach_mul_(averages, self.momentum)
                torch._foreach_add_(averages, grads)
                if self.nesterov:
                    averages = torch._foreach_add(grads, averages, alpha=self.momentum)
            else:
                for average, grad in zip(averages, grads, strict=True):
                    average.mul_(_along(self.momentum, average)).add_(grad)
                if self.nesterov:
                    averages = [
                        torch.addcmul(g, average, _along(self.momentum, g))
                        for g, average in zip(grads, averages, strict=True)
                    ]
            grads = averages
        self._move(used, grads, lr)


class StackedAdam(_Stacked):
    """Adam and AdamW, as `torch.optim.Adam` and `torch.optim.AdamW` on each member.

    Parameters
    ----------
    params : sequence of torch.Tensor, shape (E, ...)
        Stacked parameters, updated in place.
    lr : float or torch.Tensor, shape (E,)
        Learning rate.
    betas : tuple of two floats or torch.Tensors of shape (E,), default (0.9, 0.999)
        Decay rates of the two averages.
    eps : float or torch.Tensor, shape (E,), default 1e-8
        Added to the denominator.
    weight_decay : float or torch.Tensor, shape (E,), default 0.0
        Weight decay.
    decoupled : bool, default False
        Shrink the parameters (AdamW) rather than add to the gradients (Adam).
    lr_multipliers : sequence of float, optional
        Factor of the learning rate, one a parameter. Default: 1.
    decay_multipliers : sequence of float, optional
        Factor of the weight decay, one a parameter. Default: 1.

    Notes
    -----
    torch's fused kernel makes one pass over memory where separate operations make seven, but
    knows one learning rate only. It is given zeros to update at learning rate 1; the result is
    the direction, which is then scaled member by member. Members that differ in ``betas`` or
    ``eps`` go to the kernel in groups of equals.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        lr: Hyper,
        betas: tuple[Hyper, Hyper] = (0.9, 0.999),
        eps: Hyper = 1e-8,
        weight_decay: Hyper = 0.0,
        decoupled: bool = False,
        lr_multipliers: Sequence[float] | None = None,
        decay_multipliers: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            lr_multipliers=lr_multipliers,
            decay_multipliers=decay_multipliers,
        )
        self.beta1, self.beta2 = betas
        self.eps, self.decoupled = eps, decoupled
        for name in ("first", "second", "direction"):
            self.state[name] = [torch.zeros_like(p) for p in self.params]
        # Updates that each parameter has had: the same for all members.
        self._counts = [torch.zeros((), device=p.device) for p in self.params]
        self._groups = self._equals()

    def select(self, params: Sequence[Tensor], keep: Tensor) -> None:
        super().select(params, keep)
        self._groups = self._equals()

    def _step(self, used: list[int], grads: list[Tensor], lr: Hyper) -> None:
        if self.decoupled:
            self._shrink(used, lr)
        else:
            grads = self._coupled(used, grads)
        first, second, directions = (
            [self.state[name][i] for i in used] for name in ("first", "second", "direction")
        )
        counts = [self._counts[i] for i in used]
        torch._foreach_zero_(directions)
        if len(self._groups) == 1:
            hyper = self._groups[0][1]
            _adam_directions(directions, grads, first, second, counts, *hyper)
        else:
            lists = [[t.unbind() for t in ts] for ts in (directions, grads, first, second)]
            for members, hyper in self._groups:
                slices = [[t[e] for e in members for t in ts] for ts in lists]
                steps = [count.clone() for _ in members for count in counts]
                _adam_directions(*slices, steps, *hyper)
            torch._foreach_add_(counts, 1)
        self._move(used, directions, -lr)

    def _shrink(self, used: list[int], lr: Hyper) -> None:
        if not self._decays:
            return
        for i in used:
            scale = self.lr_multipliers[i] * self.decay_multipliers[i]
            keep = 1 - lr * self.weight_decay * scale
            self.params[i].mul_(_along(keep, self.params[i]))

    def _equals(self) -> list[tuple[list[int], tuple[float, float, float]]]:
        """Group the members that share betas and eps."""
        members = self.params[0].shape[0]
        columns = [
            h.tolist() if isinstance(h, Tensor) else [h] * members
            for h in (self.beta1, self.beta2, self.eps)
        ]
        groups: dict[tuple[float, float, float], list[int]] = {}
        for member, hyper in enumerate(zip(*columns, strict=True)):
            groups.setdefault(hyper, []).append(member)
        return [(group, hyper) for hyper, group in groups.items()]


def _adam_directions(
    directions: list[Tensor],
    grads: Sequence[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    counts: list[Tensor],
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Update the averages and the counts; zeros in ``directions`` become minus the direction."""
    fused = directions[0].device.type in ("cpu", "cuda")
    adam(
        directions,
        [grad.contiguous() for grad in grads],  # the kernel walks through memory, not strides
        first,
        second,
        [],
        counts,
        foreach=not fused,
        fused=fused,
        amsgrad=False,
        has_complex=False,
        beta1=beta1,
        beta2=beta2,
        lr=1.0,
        weight_decay=0.0,
        eps=eps,
        maximize=False,
    )


def _along(hyper: Hyper, tensor: Tensor) -> Hyper:
    """Shape a hyper-parameter of shape (E,) so that it broadcasts along a stack (E, ...)."""
    if isinstance(hyper, float):
        return hyper
    return hyper.to(tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))


def _any(hyper: Hyper) -> bool:
    return hyper != 0 if isinstance(hyper, float) else bool((hyper != 0).any())
