"""How far the gradients of single examples agree, and descent that heeds only agreement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from enough.runtime import as_generator, chunks, named_generator
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training.allocator import keep_freed_memory

__all__ = [
    "Coherence",
    "RobustDescent",
    "coherence_of",
    "gradient_coherence",
    "median_of_groups",
    "private_mean",
    "winsorized_mean",
]

_MEMORY = 2**26  # bytes of per-example gradients at a time

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Coherence:
    r"""Agreement of the gradients :math:`g_1, \dots, g_m` of m examples.

    Parameters
    ----------
    alignment : float
        :math:`\alpha = \|E g\|^2 / E\|g\|^2`, from 0 to 1.
    n_examples : int
        Number of examples m.
    square_norms : torch.Tensor, shape (m,)
        :math:`\|g_i\|^2`.
    inner_products : torch.Tensor, shape (m,)
        :math:`\langle g_i, E g \rangle`.
    """

    alignment: float
    n_examples: int
    square_norms: Tensor
    inner_products: Tensor

    @property
    def m_coherence(self) -> float:
        """m-coherence: m times the alignment, from 0 to m."""
        return self.n_examples * self.alignment

    @property
    def per_example(self) -> Tensor:
        r"""m-coherence of single examples, :math:`m \langle g_i, E g\rangle / \|g_i\|^2`.

        Their mean with the weights :math:`\|g_i\|^2` is the m-coherence. An example whose
        gradient is zero has none: NaN.
        """
        return self.n_examples * self.inner_products / self.square_norms


def coherence_of(gradients: Any) -> Coherence:
    """Compute the coherence of gradients that are at hand.

    Parameters
    ----------
    gradients : array-like, shape (m, P)
        One gradient a row.

    Returns
    -------
    Coherence
        Computed in float64.

    Raises
    ------
    ValueError
        If ``gradients`` is not a matrix of finite numbers, or all of them are zero.
    """
    (rows,), _ = as_tensors(gradients=gradients)
    check_tensor(rows, "gradients", ndim=2, floating=True)
    rows = rows.detach().double()
    mean = rows.mean(0)
    return _coherence(mean.square().sum(), rows.square().sum(1), rows @ mean, "gradients")


def gradient_coherence(
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss | None = None,
    params: Mapping[str, Tensor] | None = None,
    memory_limit: float = _MEMORY,
) -> Coherence:
    """Compute the coherence of a module's per-example gradients.

    Parameters
    ----------
    module : torch.nn.Module
        Any module that ``torch.func.vmap`` can run on a batch of one example and that does
        not mix examples. Its mode (training or evaluation) is left as it is.
    x : torch.Tensor, shape (m, ...)
        Inputs.
    y : torch.Tensor, shape (m, ...)
        Targets.
    loss : callable, optional
        ``loss(prediction, target)`` of a batch, a scalar. Default: cross-entropy.
    params : mapping from str to torch.Tensor, optional
        Parameters to use in place of the module's own, by name.
    memory_limit : float, default 2**26
        Bytes of per-example gradients at a time. What fits is kept; beyond it, a second pass
        over the examples computes the inner products with the mean.

    Returns
    -------
    Coherence
        Sums are in float64; gradients in the module's own type.

    Raises
    ------
    ValueError
        If ``x`` and ``y`` differ in length, or all gradients are zero.

    Notes
    -----
    Time grows like m, not like m², because the mean over all pairs of inner products is the
    squared norm of the mean gradient.

    References
    ----------
    .. [1] Chatterjee and Zielinski (2022), "On the generalization mystery in deep learning",
       arXiv:2203.10036.
    """
    check_tensor(x, "x", finite=False)
    if len(y) != len(x):
        raise ValueError(f"y: expected {len(x)} targets, got {len(y)}")
    used = dict(module.named_parameters()) if params is None else dict(params)
    used = {name: value.detach() for name, value in used.items()}
    one = grad(_loss_of_one(module, loss or F.cross_entropy))
    size = sum(value.numel() for value in used.values())
    each = max(1, size * max(value.element_size() for value in used.values()))
    slices = list(chunks(len(x), each, memory_limit))
    per_example = vmap(one, in_dims=(None, 0, 0))

    def rows(part: slice) -> Tensor:
        gradients = per_example(used, x[part], y[part])
        return torch.cat([g.flatten(1) for g in gradients.values()], 1)

    total = torch.zeros(size, dtype=torch.float64, device=x.device)
    norms = []
    for part in slices:
        kept = rows(part)
        total += kept.sum(0, dtype=torch.float64)
        norms.append(torch.linalg.vector_norm(kept, dim=1, dtype=torch.float64).square())
    mean = total / len(x)
    direction = mean.to(kept.dtype)
    whole = len(slices) == 1
    inner = [(kept if whole else rows(part)) @ direction for part in slices]
    return _coherence(mean.square().sum(), torch.cat(norms), torch.cat(inner).double(), "x")


def winsorized_mean(values: Any, tail: int, axis: int = 0) -> Any:
    """Average after pulling the extremes of every coordinate in.

    Parameters
    ----------
    values : array-like, shape (..., B, ...)
        B values of every coordinate, along ``axis``.
    tail : int
        How many of the largest and of the smallest values of a coordinate are replaced by the
        next one inside; zero gives the plain mean. ``2 * tail`` must be below B.
    axis : int, default 0
        The axis of the examples.

    Returns
    -------
    torch.Tensor or numpy.ndarray
        Means, with ``axis`` removed.

    Raises
    ------
    ValueError
        If ``tail`` is out of range.
    """
    (given,), restore = as_tensors(values=values)
    check_tensor(given, "values", floating=True, finite=False)
    tail = check_integer(tail, "tail", minimum=0)
    if 2 * tail >= given.shape[axis]:
        raise ValueError(
            f"tail: expected less than half of the {given.shape[axis]} examples, got {tail}"
        )
    if tail == 0:
        return restore(given.mean(axis))
    ordered = _sort(given, axis)
    count = ordered.shape[-1]
    inner = ordered[..., tail : count - tail].sum(-1)
    edges = ordered[..., tail] + ordered[..., count - tail - 1]
    return restore((inner + tail * edges) / count)


def median_of_groups(values: Any, axis: int = 0) -> Any:
    """Take the median of every coordinate; of an even number, the mean of the middle two.

    With the mean gradients of three micro-batches this is the RM3 rule.

    Parameters
    ----------
    values : array-like, shape (..., G, ...)
        One value a group, along ``axis``.
    axis : int, default 0
        The axis of the groups.

    Returns
    -------
    torch.Tensor or numpy.ndarray
        Medians, with ``axis`` removed.

    Raises
    ------
    ValueError
        If ``values`` is empty or not floating point.
    """
    (given,), restore = as_tensors(values=values)
    check_tensor(given, "values", floating=True, finite=False)
    if given.shape[axis] == 3:  # no sort
        a, b, c = given.unbind(axis)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        return restore(torch.maximum(low, torch.minimum(high, c)))
    ordered = _sort(given, axis)
    count = ordered.shape[-1]
    return restore(ordered[..., (count - 1) // 2 : count // 2 + 1].mean(-1))


def private_mean(
    gradients: Mapping[str, Tensor],
    clip: float,
    noise: float,
    generator: torch.Generator | int | None = None,
) -> dict[str, Tensor]:
    """Average clipped gradients and add Gaussian noise, as differentially private descent does.

    Parameters
    ----------
    gradients : mapping from str to torch.Tensor, shape (E, B, ...)
        Per-example gradients of E models by name of the parameter.
    clip : float
        Largest norm of one example's gradient over all parameters, above zero.
    noise : float
        Standard deviation of the noise in the *sum* of the B gradients, divided by ``clip``.
    generator : torch.Generator, int, or None
        Source of the noise; see `enough.runtime.as_generator`.

    Returns
    -------
    dict from str to torch.Tensor, shape (E, ...)
        Noisy means.

    Raises
    ------
    ValueError
        If ``clip`` or ``noise`` is out of range.

    Notes
    -----
    No privacy budget is computed: the rule stands here as a learner that no single example
    can move far.
    """
    clip = check_number(clip, "clip", above=0.0)
    noise = check_number(noise, "noise", minimum=0.0)
    stream = as_generator(generator, next(iter(gradients.values())).device)
    square = sum(g.flatten(2).square().sum(-1) for g in gradients.values())  # (E, B)
    factor = (clip / square.sqrt().clamp(min=1e-12)).clamp(max=1.0)
    means = {}
    for name, g in gradients.items():
        shaped = factor.view(*factor.shape, *[1] * (g.ndim - 2))
        shake = torch.randn(g[:, 0].shape, generator=stream, device=g.device, dtype=g.dtype)
        means[name] = (g * shaped).mean(1) + shake * (noise * clip / g.shape[1])
    return means


class RobustDescent:
    """Train several models at once by descent on a robust average of gradients.

    Parameters
    ----------
    build : callable
        ``build(generator)`` returns one model.
    size : int, default 1
        Number of models E. They share nothing but the rule.
    rule : {"mean", "winsorized", "rm3", "private"}, default "mean"
        How a batch becomes a step. ``"mean"``: plain SGD. ``"winsorized"``: the winsorized mean
        of per-example gradients. ``"rm3"``: the median, coordinate by coordinate, of the mean
        gradients of three micro-batches. ``"private"``: the mean of clipped gradients plus
        noise (`private_mean`).
    lr : float, default 0.1
        Learning rate.
    batch_size : int, default 64
        Examples a step. An epoch is the largest number of full batches; the examples left
        over wait for another epoch.
    tail : int, default 4
        Values pulled in on either side, for ``"winsorized"``.
    clip : float, default 1.0
        Largest norm of a gradient, for ``"private"``.
    noise : float, default 1.0
        Noise multiplier, for ``"private"``.
    loss : callable, optional
        ``loss(prediction, target)`` of a batch, a scalar. Default: cross-entropy.
    seed : int, default 0
        Seed of weights, order of the data and noise. The rules share weights and order.

    Attributes
    ----------
    params_ : dict from str to torch.Tensor, shape (E, ...)
        Parameters by name, stacked.
    module_ : torch.nn.Module
        One model, for its structure.
    train_predictions_ : torch.Tensor of int64, shape (epochs + 1, E, N)
        Predicted classes of the training examples before training and after every epoch.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] Chatterjee and Zielinski (2022), "On the generalization mystery in deep learning",
       arXiv:2203.10036.
    """

    def __init__(
        self,
        build: Callable[[torch.Generator], nn.Module],
        size: int = 1,
        *,
        rule: str = "mean",
        lr: float = 0.1,
        batch_size: int = 64,
        tail: int = 4,
        clip: float = 1.0,
        noise: float = 1.0,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> None:
        self.build = build
        self.size = check_integer(size, "size", minimum=1)
        self.rule = check_choice(rule, "rule", ("mean", "winsorized", "rm3", "private"))
        self.lr = check_number(lr, "lr", above=0.0)
        self.batch_size = check_integer(batch_size, "batch_size", minimum=1)
        if self.rule == "rm3" and self.batch_size % 3:
            raise ValueError(
                f"batch_size: expected a multiple of 3 for three micro-batches, got {batch_size}"
            )
        self.tail = check_integer(tail, "tail", minimum=0)
        if self.rule == "winsorized" and 2 * self.tail >= self.batch_size:
            raise ValueError(f"tail: expected less than half of a batch, got {tail}")
        self.clip = check_number(clip, "clip", above=0.0)
        self.noise = check_number(noise, "noise", minimum=0.0)
        self.loss = loss or F.cross_entropy
        self.seed = check_integer(seed, "seed", minimum=0)

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        epochs: int,
        *,
        on_epoch: Callable[[int, dict[str, Tensor]], None] | None = None,
    ) -> RobustDescent:
        """Train from new weights.

        Parameters
        ----------
        x : torch.Tensor, shape (E, N, ...)
            Inputs, one set a model.
        y : torch.Tensor, shape (E, N)
            Class labels.
        epochs : int
            Passes over the data.
        on_epoch : callable, optional
            ``on_epoch(epoch, params)`` is called before training with epoch 0 and after every
            epoch, with the stacked parameters, which it must not change.

        Returns
        -------
        RobustDescent
            This object.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        keep_freed_memory()
        epochs = check_integer(epochs, "epochs", minimum=1)
        check_tensor(x, "x", floating=True)
        if x.ndim < 3 or x.shape[0] != self.size:
            raise ValueError(f"x: expected shape ({self.size}, N, ...), got {tuple(x.shape)}")
        check_tensor(y, "y", shape=x.shape[:2])
        if x.shape[1] < self.batch_size:
            raise ValueError(
                f"x: expected at least a batch of {self.batch_size} examples, got {x.shape[1]}"
            )
        streams = [named_generator(self.seed, "weights", i) for i in range(self.size)]
        models = [self.build(stream).to(x.device) for stream in streams]
        stacked, buffers = stack_module_state(models)
        if buffers:
            raise ValueError(f"build: expected models without buffers, got {sorted(buffers)[0]!r}")
        self.module_ = models[0]
        self.params_ = {name: value.detach().clone() for name, value in stacked.items()}
        order = named_generator(self.seed, "order")
        shake = named_generator(self.seed, "noise", device=x.device)
        everyone = torch.arange(self.size, device=x.device)[:, None]
        history = [self.predict(x)]
        if on_epoch is not None:
            on_epoch(0, self.params_)
        for epoch in range(1, epochs + 1):
            rank = torch.rand(self.size, x.shape[1], generator=order).argsort(1).to(x.device)
            for rows in rank.split(self.batch_size, 1):
                if rows.shape[1] == self.batch_size:
                    self._step(x[everyone, rows], y[everyone, rows], shake)
            history.append(self.predict(x))
            if on_epoch is not None:
                on_epoch(epoch, self.params_)
        self.train_predictions_ = torch.stack(history)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Predict classes with every model.

        Parameters
        ----------
        x : torch.Tensor, shape (E, Q, ...)
            Inputs, one set a model.

        Returns
        -------
        torch.Tensor of int64, shape (E, Q)
            Classes.
        """
        with torch.no_grad():
            out = vmap(lambda p, a: functional_call(self.module_, p, (a,)))(self.params_, x)
        return out.argmax(-1)

    def _step(self, x: Tensor, y: Tensor, shake: torch.Generator) -> None:
        groups = {"mean": 1, "rm3": 3}.get(self.rule, self.batch_size)
        x, y = (t.unflatten(1, (groups, -1)) for t in (x, y))  # (E, groups, batch, ...)

        def loss(params: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
            return self.loss(functional_call(self.module_, params, (a,)), b)

        each = vmap(vmap(grad(loss), in_dims=(None, 0, 0)))
        gradients = each(self.params_, x, y)
        if self.rule == "private":
            step = private_mean(gradients, self.clip, self.noise, shake)
        else:
            combine = {
                "mean": lambda g: g[:, 0],
                "rm3": lambda g: median_of_groups(g, 1),
                "winsorized": lambda g: winsorized_mean(g, self.tail, 1),
            }[self.rule]
            step = {name: combine(g) for name, g in gradients.items()}
        for name, value in self.params_.items():
            value.sub_(step[name], alpha=self.lr)


def _sort(values: Tensor, axis: int) -> Tensor:
    """Sort along an axis and put it last.

    On the CPU numpy sorts, whose short sorts are vectorized, in place in a copy that is made
    matrix by matrix: torch transposes matrices in blocks, but not larger arrays.
    """
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.sort(axis).values.movedim(axis, -1)
    axis %= values.ndim
    before, count, after = values.shape[:axis], values.shape[axis], values.shape[axis + 1 :]
    blocks = values.detach().reshape(math.prod(before), count, math.prod(after))
    ordered = torch.empty(len(blocks), blocks.shape[2], count, dtype=values.dtype)
    for target, block in zip(ordered, blocks, strict=True):
        target.copy_(block.mT)
    ordered.numpy().sort(axis=-1)
    return ordered.view(*before, *after, count)


def _loss_of_one(module: nn.Module, loss: Loss) -> Callable[..., Tensor]:
    def one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(module, params, (x.unsqueeze(0),)), y.unsqueeze(0))

    return one


def _coherence(mean_square: Tensor, norms: Tensor, inner: Tensor, name: str) -> Coherence:
    average = float(norms.mean())
    if average == 0.0:
        raise ValueError(f"{name}: expected a gradient that is not zero, got zeros only")
    return Coherence(float(mean_square) / average, len(norms), norms, inner)
