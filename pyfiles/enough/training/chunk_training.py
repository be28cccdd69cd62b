"""Training of some members of an ensemble together: one chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from enough.runtime import named_generator
from enough.training.member_data import MemberData
from enough.training.member_losses import MemberLoss
from enough.training.members import Stack
from enough.training.optimizers import Hyper, StackedAdam, StackedSGD, clip_members
from enough.training.passes import make_pass
from enough.training.streams import BatchOrder

__all__ = ["Chunk", "EarlyStopping", "OptimizerRecipe", "Stopper", "Task"]


@dataclass(frozen=True)
class OptimizerRecipe:
    """An optimizer with its hyper-parameters, for all members or one number a member.

    Parameters
    ----------
    kind : {"sgd", "adam", "adamw"}
        The optimizer.
    options : dict
        Its hyper-parameters; those that are tensors have shape (E,).
    clip : float, torch.Tensor, or None
        Largest norm of a member's gradient.
    lr_multipliers, decay_multipliers : mapping from str to float
        Factors by name of the parameter; 1 where absent.
    """

    kind: str
    options: Mapping[str, Hyper | bool | tuple[Hyper, Hyper]]
    clip: Hyper | None = None
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    decay_multipliers: Mapping[str, float] = field(default_factory=dict)

    def make(self, params: Mapping[str, Tensor], members: Tensor) -> StackedSGD | StackedAdam:
        """Make the optimizer of some members.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Their stacked parameters.
        members : torch.Tensor, shape (C,)
            Which members they are.

        Returns
        -------
        StackedSGD or StackedAdam
            The optimizer.
        """
        options = {name: _of(value, members) for name, value in self.options.items()}
        options["lr_multipliers"] = [self.lr_multipliers.get(name, 1.0) for name in params]
        options["decay_multipliers"] = [self.decay_multipliers.get(name, 1.0) for name in params]
        if self.kind == "sgd":
            return StackedSGD(list(params.values()), **options)
        decoupled = self.kind == "adamw"
        return StackedAdam(list(params.values()), decoupled=decoupled, **options)


@dataclass(frozen=True)
class Task:
    """What every chunk of a fit shares.

    Parameters
    ----------
    x : MemberData
        Inputs.
    y : MemberData or None
        Targets.
    loss : MemberLoss
        The loss.
    optimizer : OptimizerRecipe
        The optimizer.
    batch_size : int
        Samples an update.
    seed : int
        Seed of the orders of the data.
    """

    x: MemberData
    y: MemberData | None
    loss: MemberLoss
    optimizer: OptimizerRecipe
    batch_size: int
    seed: int


class Chunk:
    """Members that are trained together.

    Parameters
    ----------
    mode : {"stacked", "vmap", "loop"}
        How to run them.
    modules : sequence of torch.nn.Module
        The members.
    stack : Stack
        Their tensors, changed in place.
    members : torch.Tensor, shape (C,)
        Their positions in the ensemble, on the device of the stack.
    task : Task
        What to train them on.
    """

    def __init__(
        self,
        mode: str,
        modules: Sequence[nn.Module],
        stack: Stack,
        members: Tensor,
        task: Task,
    ) -> None:
        self.stack, self.members, self.task = stack, members, task
        self._mode = mode
        self._pass = make_pass(mode, modules, stack)
        self._pass.train(True)
        self._optimizer = task.optimizer.make(stack.params, members)
        self._clip = task.optimizer.clip
        generators = [order_generator(task.seed, i) for i in members.tolist()]
        self._order = BatchOrder(generators, task.x.n_samples, task.batch_size)
        self._all: tuple[Tensor, Tensor | None] | None = None

    def step(self, factor: Hyper = 1.0) -> Tensor:
        """Do one update.

        Parameters
        ----------
        factor : float or torch.Tensor, shape (E,), default 1.0
            The schedule's multiplier.

        Returns
        -------
        torch.Tensor, shape (C,)
            Losses of the batches before the update.
        """
        losses, grads = self._pass.gradients(*self.batch(), self.task.loss)
        if self._clip is not None:
            used = [i for i, grad in enumerate(grads) if grad is not None]
            clipped = clip_members([grads[i] for i in used], _of(self._clip, self.members))
            for i, grad in zip(used, clipped, strict=True):
                grads[i] = grad
        self._optimizer.step(grads, _of(factor, self.members))
        return losses

    def forward(self) -> Tensor:
        """Return the losses (C,) of the next batch, with their graph."""
        x, y = self.batch()
        return self.task.loss(self._pass.predict(x), y)

    def batch(self) -> tuple[Tensor, Tensor | None]:
        """Return the next inputs (C, B, ...) and targets."""
        rows = self._order.next()
        x, y = self.task.x, self.task.y
        if self._order.whole:
            if self._all is None:
                y_all = None if y is None else y.whole(self.members)
                self._all = x.whole(self.members), y_all
            return self._all
        rows = rows.to(self.members.device)
        return x.take(self.members, rows), None if y is None else y.take(self.members, rows)

    @torch.no_grad()
    def predict(self, x: MemberData, rows: Iterator[slice]) -> Tensor:
        """Predict in evaluation mode.

        Parameters
        ----------
        x : MemberData
            Inputs.
        rows : iterator of slice
            Which samples to do at a time.

        Returns
        -------
        torch.Tensor, shape (C, N, ...)
            Predictions.
        """
        self._pass.train(False)
        parts = [self._pass.predict(x.whole(self.members, part)) for part in rows]
        self._pass.train(True)
        return torch.cat(parts, dim=1)

    def select(self, keep: Tensor) -> None:
        """Go on with some of the members.

        Parameters
        ----------
        keep : torch.Tensor, shape (K,)
            Their positions in the chunk.
        """
        modules = self._pass.modules
        if len(modules) == len(self.members):
            modules = [modules[i] for i in keep.tolist()]
        self.stack = self.stack.take(keep)
        self.members = self.members[keep]
        self._pass = make_pass(self._mode, modules, self.stack)
        self._pass.train(True)
        self._optimizer.select(list(self.stack.params.values()), keep)
        self._order.select(keep.cpu())
        self._all = None


@dataclass(frozen=True)
class EarlyStopping:
    """When a member stops: no better validation loss for a while.

    Parameters
    ----------
    patience : int
        A member stops at the evaluation that makes this many in a row without improvement, and
        keeps the weights of its best evaluation.
    min_delta : float, default 0.0
        How far below the best loss counts as better, zero or more.
    """

    patience: int
    min_delta: float = 0.0


class Stopper:
    """Keep the best tensors of each member of a chunk and say who stops.

    Parameters
    ----------
    rule : EarlyStopping
        When to stop.
    stack : Stack
        Tensors of the members before the training.
    """

    def __init__(self, rule: EarlyStopping, stack: Stack) -> None:
        self.rule = rule
        first = next(iter(stack.params.values()))
        self.best = stack.take(slice(None))
        self.best_loss = first.new_full((len(first),), torch.inf)
        self.best_step = first.new_zeros(len(first), dtype=torch.int64)
        self._waited = torch.zeros_like(self.best_step)

    def update(self, step: int, losses: Tensor, stack: Stack) -> Tensor:
        """Take in an evaluation.

        Parameters
        ----------
        step : int
            Updates done.
        losses : torch.Tensor, shape (C,)
            Validation losses; NaN is never better.
        stack : Stack
            The members' tensors now.

        Returns
        -------
        torch.Tensor of bool, shape (C,)
            Who stops.
        """
        losses = losses.to(self.best_loss.dtype)
        better = losses < self.best_loss - self.rule.min_delta
        self.best_loss = torch.where(better, losses, self.best_loss)
        self.best_step[better] = step
        rows = better.nonzero().flatten()
        self.best.put(rows, stack, rows)
        self._waited = torch.where(better, 0, self._waited + 1)
        return self._waited >= self.rule.patience

    def select(self, keep: Tensor) -> None:
        """Go on with some of the members.

        Parameters
        ----------
        keep : torch.Tensor, shape (K,)
            Their positions in the chunk.
        """
        self.best = self.best.take(keep)
        self.best_loss, self.best_step = self.best_loss[keep], self.best_step[keep]
        self._waited = self._waited[keep]


def order_generator(seed: int, member: int) -> torch.Generator:
    """Return the stream of a member's order of the data."""
    return named_generator(seed, "order", member)


def _of(hyper: object, members: Tensor) -> object:
    """Pick the members' part of a hyper-parameter."""
    if isinstance(hyper, tuple):
        return tuple(_of(h, members) for h in hyper)
    return hyper[members] if isinstance(hyper, Tensor) else hyper
