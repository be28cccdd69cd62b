"""One fit of an ensemble: chunk after chunk, with evaluation and early stopping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from enough.runtime import chunks, derive_seed
from enough.training.chunk_training import Chunk, EarlyStopping, Stopper, Task
from enough.training.history import History
from enough.training.interrupts import DeferredInterrupt
from enough.training.member_data import MemberData
from enough.training.members import Stack
from enough.training.plan import Plan
from enough.training.streams import private_state

__all__ = ["EnsembleRun", "Evaluation"]


class Evaluation(NamedTuple):
    """What to evaluate, on which data.

    Parameters
    ----------
    x : MemberData
        Inputs.
    y : MemberData or None
        Targets.
    metrics : mapping from str to callable
        Functions of one member's predictions and targets.
    every : int
        Updates between two evaluations.
    row_limit : float
        Bytes for a slice of the samples, over all members of a chunk.
    row_bytes : float
        Bytes that one sample of one member needs.
    """

    x: MemberData
    y: MemberData | None
    metrics: Mapping[str, Callable[..., Any]]
    every: int
    row_limit: float
    row_bytes: float


class EnsembleRun:
    """Train the members of an ensemble and record what happens.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        All members.
    stack : Stack
        Their tensors; a chunk's are overwritten when its training ends.
    task : Task
        What to train on.
    plan : Plan
        How.
    factors : numpy.ndarray, shape (T,) or (T, E)
        Multipliers of the learning rate.
    evaluation : Evaluation or None
        What to evaluate.
    stopping : EarlyStopping or None
        When members stop.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        stack: Stack,
        task: Task,
        plan: Plan,
        factors: np.ndarray,
        evaluation: Evaluation | None,
        stopping: EarlyStopping | None,
    ) -> None:
        self._modules, self._stack, self._task, self._plan = modules, stack, task, plan
        self._evaluation, self._stopping = evaluation, stopping
        first = next(iter(stack.params.values()))
        self._device, size = first.device, len(modules)
        self.steps = len(factors)
        self._factors = factors.tolist()
        if factors.ndim == 2:
            self._factors = list(torch.as_tensor(factors).to(first.device, _real(first)))
        self.slices = list(chunks(size, 1.0, float(plan.chunk_size)))
        self._losses = torch.full((self.steps, size), torch.nan, dtype=first.dtype)
        self._losses = self._losses.to(first.device)
        marks = range(evaluation.every, self.steps + 1, evaluation.every) if evaluation else ()
        self._marks = sorted({*marks, self.steps}) if evaluation else []
        self._metrics: dict[str, np.ndarray] = {}
        self.n_steps = np.zeros(size, dtype=np.int64)
        self.best_step = np.zeros(size, dtype=np.int64)
        self.best_loss = np.full(size, np.inf)
        self._rates = _rates(task.optimizer.options["lr"], factors)

    def train(self, interrupt: DeferredInterrupt, tick: Callable[[int], Any]) -> None:
        """Train all chunks.

        Parameters
        ----------
        interrupt : DeferredInterrupt
            Asked after every update.
        tick : callable
            Told the number of updates done since the last time.

        Raises
        ------
        KeyboardInterrupt
            When interrupted; members keep the tensors after the last whole update.
        """
        for part in self.slices:
            seed = derive_seed(self._task.seed, "layers", part.start)
            with private_state(seed, self._device):
                self._train_chunk(part, interrupt, tick)

    def history(self) -> History:
        """Return what was recorded."""
        done = int(self.n_steps.max(initial=0))
        marks = [mark for mark in self._marks if mark <= done]
        return History(
            steps=np.arange(1, done + 1),
            losses=self._losses[:done].double().cpu().numpy(),
            learning_rates=self._rates[:done],
            evaluation_steps=np.array(marks, dtype=np.int64),
            metrics={name: values[: len(marks)] for name, values in self._metrics.items()},
        )

    def _train_chunk(
        self, part: slice, interrupt: DeferredInterrupt, tick: Callable[[int], Any]
    ) -> None:
        members = torch.arange(part.start, part.stop, device=self._device)
        stack = self._stack.take(members)
        chunk = Chunk(self._plan.mode, self._modules[part], stack, members, self._task)
        stopper = None if self._stopping is None else Stopper(self._stopping, stack)
        done, whole = 0, True
        marks = set(self._marks)
        try:
            while done < self.steps and len(chunk.members):
                whole = False
                losses = chunk.step(self._factors[done])
                self._losses[done].index_copy_(0, chunk.members, losses.to(self._losses.dtype))
                done += 1
                whole = True
                if done in marks:
                    values = self._evaluate(chunk, self._marks.index(done))
                    if stopper is not None:
                        stop = stopper.update(done, values, chunk.stack)
                        if bool(stop.any()):
                            self._keep(chunk, stopper, stop, done)
                            keep = (~stop).nonzero().flatten()
                            if len(keep):
                                chunk.select(keep)
                            else:
                                chunk.members = keep
                            stopper.select(keep)
                tick(1)
                if interrupt.requested:
                    raise KeyboardInterrupt
            tick(self.steps - done)
        finally:
            if whole and len(chunk.members):
                everyone = torch.ones_like(chunk.members, dtype=torch.bool)
                self._keep(chunk, stopper, everyone, done)

    def _keep(self, chunk: Chunk, stopper: Stopper | None, who: Tensor, done: int) -> None:
        """Store some members of a chunk in the ensemble, at their best where it is known."""
        rows = who.nonzero().flatten()
        self._stack.put(chunk.members[rows], chunk.stack, rows)
        positions = chunk.members[rows].cpu().numpy()
        self.n_steps[positions] = done
        if stopper is not None:
            rows = (who & (stopper.best_step > 0)).nonzero().flatten()
            self._stack.put(chunk.members[rows], stopper.best, rows)
            self.best_step[positions] = stopper.best_step[who].cpu().numpy()
            self.best_loss[positions] = stopper.best_loss[who].double().cpu().numpy()

    def _evaluate(self, chunk: Chunk, index: int) -> Tensor:
        """Record the metrics of a chunk's members and return their validation losses."""
        x, y, metrics, _, limit, each = self._evaluation
        slices = chunks(x.n_samples, each * len(chunk.members), limit, device=self._device)
        predictions = chunk.predict(x, slices)
        targets = None if y is None else y.whole(chunk.members)
        with torch.no_grad():
            losses = self._task.loss(predictions, targets)
            positions = chunk.members.cpu().numpy()
            self._record("validation_loss", index, positions, losses.double().cpu().numpy())
            for name, metric in metrics.items():
                pairs = zip(predictions, predictions if y is None else targets, strict=True)
                values = [float(metric(p) if y is None else metric(p, t)) for p, t in pairs]
                self._record(name, index, positions, np.array(values))
        return losses

    def _record(self, name: str, index: int, positions: np.ndarray, values: np.ndarray) -> None:
        empty = np.full((len(self._marks), len(self.n_steps)), np.nan)
        self._metrics.setdefault(name, empty)[index, positions] = values


def _rates(lr: float | Tensor, factors: np.ndarray) -> np.ndarray:
    if isinstance(lr, Tensor):
        return factors.reshape(len(factors), -1) * lr.double().cpu().numpy()
    return factors * lr


def _real(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64
