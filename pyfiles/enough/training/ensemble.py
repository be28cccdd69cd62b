"""Many small models trained as one batch."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enough.runtime import chunks, resolve_device
from enough.runtime import progress as progress_bar
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training.allocator import keep_freed_memory
from enough.training.chunk_training import EarlyStopping, OptimizerRecipe, Task, order_generator
from enough.training.ensemble_run import EnsembleRun, Evaluation
from enough.training.interrupts import DeferredInterrupt, TrainingInterrupted
from enough.training.member_data import MemberData, prepare, resolve_layout
from enough.training.member_losses import MemberLoss
from enough.training.members import build_members, stack_members
from enough.training.optimizers import Hyper
from enough.training.passes import MODES, make_pass
from enough.training.plan import batched_mode, bytes_of_activations, make_plan
from enough.training.schedules import Schedule, multipliers
from enough.training.stacked import stacks
from enough.training.streams import BatchOrder

__all__ = ["Ensemble"]

_PROBE = 4  # samples in the trial of a new module
_DEFAULT_STEPS = 1000
_CPU_SLICE_BYTES = 32 * 2**20  # predictions in slices that stay near the cache are faster


class Ensemble:
    """Many models of one structure, trained as one batch.

    Every member has its own initial weights and its own order of the data, and may have its
    own learning rate, weight decay and other hyper-parameters, its own data, and its own end
    of the training. The result is that of training the members one by one with
    ``torch.optim``, up to rounding.

    Parameters
    ----------
    build : callable
        ``build(generator)`` returns one member, a `torch.nn.Module` that maps a batch
        (B, ...) to a tensor (B, ...). It is called once a member. ``build()`` works too: during
        the call torch's global stream is seeded for the member, and given back after. All
        members must have the same structure.
    size : int
        Number of members E.
    seed : int, default 0
        Global seed. Member i is the same whatever the number of members: its weights, its
        order of the data.
    mode : {"auto", "stacked", "vmap", "loop"}, default "auto"
        How members run together. ``"stacked"``: batched matrix products, for multilayer
        perceptrons and for classes that define ``stacked_forward(params, buffers, x)``.
        ``"vmap"``: ``torch.func.vmap``. ``"loop"``: one after the other. ``"auto"`` takes the
        first of these that gives the members' own predictions, and times it against the loop.
    chunk_size : int, optional
        Members trained together. By default as many as fit in memory, or on the CPU in its
        cache (24 MiB), where they train faster.
    memory_limit : float, optional
        Bytes that one chunk may take, by an estimate from one update of one member. Default:
        a quarter of what is available.
    device : str or torch.device, optional
        Where to train. Default: where ``build`` puts the members.
    dtype : torch.dtype, optional
        Floating-point type of the members. Default: as built.

    Attributes
    ----------
    history_ : History
        Losses (T, E), learning rates, and metrics (V, E) of the last `fit`.
    mode_ : str
        The mode that was used.
    mode_reason_ : str
        Why.
    chunk_size_ : int
        How many members were trained together.
    n_steps_ : numpy.ndarray of int, shape (E,)
        Updates that each member had.
    best_step_ : numpy.ndarray of int, shape (E,)
        With early stopping: the update whose weights a member keeps.
    best_loss_ : numpy.ndarray, shape (E,)
        With early stopping: the validation loss of these weights.

    Raises
    ------
    ValueError
        If an argument is not as described, the device is absent, or members differ in
        structure.

    Notes
    -----
    Members never mix: the loss is a mean within each member and a sum over members, gradients
    are clipped member by member, a member that diverges or stops leaves the others alone.

    Layers that draw random numbers (dropout) draw independently for every member, from a
    stream that follows from the seed. Their draws depend on the mode and on the chunks, so the
    same bits need the same ``mode`` and ``chunk_size``; other modules give the same result up
    to rounding in every mode. Since ``"auto"`` times the modes, two runs may round
    differently; name the mode where that matters.

    Buffers, such as the running statistics of batch normalization, belong to the members.
    They must be updated in place, as torch's own layers do.

    Examples
    --------
    >>> import torch
    >>> from enough.models import MLP
    >>> from enough.training import Ensemble
    >>> x = torch.linspace(-1, 1, 64).unsqueeze(1)
    >>> ensemble = Ensemble(lambda g: MLP([1, 16, 1], generator=g), size=8, seed=0)
    >>> ensemble.fit(x, x**2, steps=50, batch_size=16).predict(x).shape
    torch.Size([8, 64, 1])
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        size: int,
        seed: int = 0,
        *,
        mode: str = "auto",
        chunk_size: int | None = None,
        memory_limit: float | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.size = check_integer(size, "size", minimum=1)
        self.seed = check_integer(seed, "seed", minimum=0)
        self.mode = check_choice(mode, "mode", ("auto", *MODES))
        self.chunk_size = (
            None if chunk_size is None else check_integer(chunk_size, "chunk_size", minimum=1)
        )
        self.memory_limit = (
            None
            if memory_limit is None
            else check_number(memory_limit, "memory_limit", above=0.0, finite=False)
        )
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"dtype: expected a floating-point torch.dtype, got {dtype!r}")
        where = None if device is None else resolve_device(device)
        self._members = build_members(build, self.size, self.seed, where, dtype)
        self._stack = stack_members(self._members)
        if self.mode == "stacked" and not stacks(self._members[0]):
            raise ValueError(
                f"mode: {type(self._members[0]).__name__} does not stack (it is no multilayer "
                'perceptron and defines no stacked_forward); expected "auto", "vmap" or "loop"'
            )
        self._start = self._stack.take(slice(None))
        self._batched: tuple[str, str] | None = None
        self._sample_ndims: tuple[int, int | None] | None = None

    def __len__(self) -> int:
        return self.size

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return next(iter(self._stack.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the members."""
        return next(iter(self._stack.params.values())).dtype

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        loss: str | Callable[..., Tensor] | None = None,
        optimizer: str = "adam",
        lr: float | Sequence[float] = 1e-3,
        weight_decay: float | Sequence[float] = 0.0,
        momentum: float | Sequence[float] = 0.0,
        nesterov: bool = False,
        betas: tuple[float | Sequence[float], float | Sequence[float]] = (0.9, 0.999),
        eps: float | Sequence[float] = 1e-8,
        steps: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        clip: float | Sequence[float] | None = None,
        schedule: Schedule | None = None,
        lr_multipliers: Mapping[str, float] | None = None,
        decay_multipliers: Mapping[str, float] | None = None,
        validation: tuple[Any, Any] | None = None,
        metrics: Mapping[str, Callable[[Tensor, Tensor], Any]] | None = None,
        evaluate_every: int | None = None,
        early_stopping: int | EarlyStopping | None = None,
        per_member: bool | tuple[bool, bool] | None = None,
        warm_start: bool = False,
        progress: bool = True,
        label: str = "ensemble",
    ) -> Ensemble:
        """Train all members.

        Where a hyper-parameter is a sequence, it has one number a member.

        Parameters
        ----------
        x : array-like, shape (N, ...) or (E, N, ...)
            Inputs, shared or one set a member. Floating-point arrays take the members' type.
        y : array-like, shape (N, ...) or (E, N, ...), optional
            Targets, shared or one set a member. Without them ``loss`` sees the prediction
            alone.
        loss : str or callable, optional
            ``"mse"``, ``"mae"``, ``"huber"``, ``"bce"`` (from logits), ``"cross_entropy"``
            (from logits; integer labels), or a function of one member's prediction and
            targets that returns a scalar, the mean over the batch. Default: ``"mse"`` for
            floating-point targets, ``"cross_entropy"`` for integers.
        optimizer : {"adam", "adamw", "sgd"}, default "adam"
            The optimizer, with the update rules of ``torch.optim``.
        lr : float or sequence of float, default 1e-3
            Learning rate, above zero.
        weight_decay : float or sequence of float, default 0.0
            Weight decay, zero or more: added to the gradient (SGD, Adam) or decoupled (AdamW).
        momentum : float or sequence of float, default 0.0
            Momentum of SGD, in [0, 1).
        nesterov : bool, default False
            Nesterov's momentum for SGD.
        betas : pair of float or sequence of float, default (0.9, 0.999)
            Decay rates of Adam's averages, in [0, 1).
        eps : float or sequence of float, default 1e-8
            Adam's addition to the denominator, above zero.
        steps : int, optional
            Number of updates. Default: 1000, if ``epochs`` is not given.
        epochs : int, optional
            Passes over the data, instead of ``steps``.
        batch_size : int, optional
            Samples an update, at most N. Default: N, all samples in their own order. Else
            every member draws a new order each epoch; the last batch is smaller where the
            batch size does not divide N.
        clip : float or sequence of float, optional
            Largest norm of the gradient of a member, above zero (infinity: no clipping).
        schedule : callable, optional
            ``schedule(step)`` multiplies the learning rates: a number, or E of them.
        lr_multipliers : mapping from str to float, optional
            Factors of the learning rate by name of the parameter; 1 where absent.
        decay_multipliers : mapping from str to float, optional
            Factors of the weight decay by name of the parameter; 1 where absent.
        validation : pair of array-like, optional
            Inputs and targets for evaluation, shared or one set a member.
        metrics : mapping from str to callable, optional
            ``metric(prediction, target)`` returns a number for one member's predictions on
            the validation data. The loss is always evaluated, as ``"validation_loss"``.
        evaluate_every : int, optional
            Updates between two evaluations; the last update is followed by one. Default: an
            epoch.
        early_stopping : int or EarlyStopping, optional
            A member stops when its validation loss has not improved for this many evaluations
            in a row. All members then keep the weights of their best evaluation.
        per_member : bool or pair of bool, optional
            Whether ``x`` and ``y`` hold one set a member. By default their shapes tell, and an
            error asks where they can be read in two ways. Arrays (E, N, ...) of inputs and
            targets count as one set a member, not as E samples.
        warm_start : bool, default False
            Go on from the present weights, with a new optimizer. By default `fit` starts from
            the weights as built, or as loaded by `load_state_dict`.
        progress : bool, default True
            Show a progress bar where a person watches.
        label : str, default "ensemble"
            What the bar is called.

        Returns
        -------
        Ensemble
            This object.

        Raises
        ------
        ValueError
            If an argument is not as described; the message names it.
        TrainingInterrupted
            On Ctrl-C, after the update at work. The members keep what they have learned:
            see ``n_steps_`` and ``history_``.
        """
        keep_freed_memory()
        device = self.device
        x, y = prepare("x", x, device, self.dtype), _maybe("y", y, device, self.dtype)
        inputs, targets = resolve_layout(x, y, self.size, per_member)
        self._sample_ndims = (
            inputs.values.ndim - 1 - inputs.own,
            None if targets is None else targets.values.ndim - 1 - targets.own,
        )
        member_loss = _resolve_loss(loss, targets, self._probe(inputs))
        n_samples = inputs.n_samples
        batch_size = check_integer(
            n_samples if batch_size is None else batch_size,
            "batch_size",
            minimum=1,
            maximum=n_samples,
        )
        epoch = -(-n_samples // batch_size)
        steps = _resolve_steps(steps, epochs, epoch)
        recipe = self._recipe(
            optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            betas=betas,
            eps=eps,
            clip=clip,
            lr_multipliers=lr_multipliers,
            decay_multipliers=decay_multipliers,
        )
        factors = multipliers(schedule, steps, self.size)
        task = Task(inputs, targets, member_loss, recipe, batch_size, self.seed)
        every = check_integer(
            epoch if evaluate_every is None else evaluate_every, "evaluate_every", minimum=1
        )
        evaluation = self._resolve_evaluation(validation, metrics, every)
        stopping = _resolve_stopping(early_stopping, evaluation)

        if not warm_start:
            self._stack.put(slice(None), self._start, slice(None))
        plan = make_plan(
            self._members,
            self._stack,
            task,
            steps,
            mode=self.mode,
            batched=lambda: self._find_batched(inputs),
            chunk_size=self.chunk_size,
            memory_limit=self.memory_limit,
        )
        self.mode_, self.mode_reason_, self.chunk_size_ = plan.mode, plan.reason, plan.chunk_size
        run = EnsembleRun(self._members, self._stack, task, plan, factors, evaluation, stopping)
        with contextlib.ExitStack() as stack:
            stack.callback(self._settle, run)
            interrupt = stack.enter_context(DeferredInterrupt())
            total = steps * len(run.slices)
            bar = stack.enter_context(progress_bar(None, total, label)) if progress else None
            try:
                run.train(interrupt, _ignore if bar is None else bar.update)
            except KeyboardInterrupt as error:
                least, most = int(run.n_steps.min()), int(run.n_steps.max())
                raise TrainingInterrupted(
                    f"{label} was interrupted; its members keep the {least} to {most} updates of "
                    f"{steps} that they had",
                    run.history(),
                    least,
                ) from error
        return self

    def predict(
        self, x: Any, *, per_member: bool | None = None, batch_size: int | None = None
    ) -> Any:
        """Predict with every member, in evaluation mode and without gradients.

        Parameters
        ----------
        x : array-like, shape (N, ...) or (E, N, ...)
            Inputs, shared or one set a member.
        per_member : bool, optional
            Whether ``x`` holds one set a member. Default: as the number of dimensions tells
            after `fit`; before it, ``x`` is shared.
        batch_size : int, optional
            Samples at a time. Default: as many as fit in memory.

        Returns
        -------
        torch.Tensor or numpy.ndarray, shape (E, N, ...)
            Predictions in the members' floating-point type: an array for an array, a tensor
            on the device of ``x`` for a tensor.

        Raises
        ------
        ValueError
            If ``x`` has another shape, or NaN or infinite entries.
        """
        (given,), restore = as_tensors(x=x)
        data = self._layout("x", prepare("x", given, self.device, self.dtype), 0, per_member)
        self._probe(data)
        mode = getattr(self, "mode_", self.mode)
        if mode == "auto":
            mode, _ = self._find_batched(data)
        if batch_size is None:
            limit, each = self._row_memory(data)
            slices = chunks(data.n_samples, each * self.size, limit, device=self.device)
        else:
            batch_size = check_integer(batch_size, "batch_size", minimum=1)
            slices = chunks(data.n_samples, 1.0, float(batch_size))
        forward = make_pass(mode, self._members, self._stack)
        forward.train(False)
        everyone = torch.arange(self.size, device=self.device)
        with torch.no_grad():
            parts = [forward.predict(data.whole(everyone, part)) for part in slices]
        return restore(torch.cat(parts, dim=1).to(given.device))

    def parameters_of(self, member: int) -> dict[str, Tensor]:
        """Return the tensors of one member under the names of its module.

        Parameters
        ----------
        member : int
            Which, from 0 to E - 1.

        Returns
        -------
        dict from str to torch.Tensor
            Copies of its parameters and buffers, ready for ``load_state_dict``.

        Raises
        ------
        ValueError
            If there is no such member.
        """
        i = check_integer(member, "member", minimum=0, maximum=self.size - 1)
        names = self._members[i].state_dict()
        tensors = dict(self._stack)
        return {
            name: (tensors[name][i] if name in tensors else value).detach().clone()
            for name, value in names.items()
        }

    def member(self, member: int) -> nn.Module:
        """Return one member as a module of its own.

        Parameters
        ----------
        member : int
            Which, from 0 to E - 1.

        Returns
        -------
        torch.nn.Module
            A copy in evaluation mode; it shares no memory with the ensemble.

        Raises
        ------
        ValueError
            If there is no such member.
        """
        i = check_integer(member, "member", minimum=0, maximum=self.size - 1)
        module = self._members[i]
        # A copy of a view would copy the whole stack behind it.
        memo = {id(buffer): buffer.clone() for buffer in module.buffers()}
        return copy.deepcopy(module, memo).eval()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of all members, stacked.

        Returns
        -------
        dict from str to torch.Tensor
            Copies of shape (E, ...) by name: parameters, then buffers.
        """
        return {name: t.detach().clone() for name, t in self._stack}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors of all members; the next `fit` starts from them.

        Parameters
        ----------
        state : mapping from str to torch.Tensor
            As `state_dict` returns it.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs.
        """
        own = dict(self._stack)
        odd = sorted(set(own) ^ set(state))
        if odd:
            kind = "missing" if odd[0] in own else "unknown"
            raise ValueError(f"state: expected the names of state_dict(), {odd[0]} is {kind}")
        for name, tensor in own.items():
            check_tensor(
                state[name], f"state: {name}", shape=tensor.shape, finite=False, nonempty=False
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        self._start = self._stack.take(slice(None))

    def batches(self, member: int, n_samples: int, batch_size: int) -> Iterator[Tensor]:
        """Iterate over the batches that `fit` gives a member, without end.

        Parameters
        ----------
        member : int
            Which, from 0 to E - 1.
        n_samples : int
            Number of samples N.
        batch_size : int
            Samples an update.

        Returns
        -------
        iterator of torch.Tensor of int64
            Indices of the samples, batch after batch.

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        i = check_integer(member, "member", minimum=0, maximum=self.size - 1)
        n_samples = check_integer(n_samples, "n_samples", minimum=1)
        batch_size = check_integer(batch_size, "batch_size", minimum=1, maximum=n_samples)
        order = BatchOrder([order_generator(self.seed, i)], n_samples, batch_size)
        return (order.next()[0] for _ in itertools.repeat(None))

    def _settle(self, run: EnsembleRun) -> None:
        """Give the members their tensors back and publish what the run recorded."""
        self._stack.bind(self._members)
        self.history_, self.n_steps_ = run.history(), run.n_steps
        self.best_step_, self.best_loss_ = run.best_step, run.best_loss

    def _probe(self, x: MemberData) -> Tensor:
        """Run one member on a few samples, so that errors speak of the argument."""
        module = self._members[0]
        module.train(False)
        rows = x.values[0] if x.own else x.values
        try:
            with torch.no_grad():
                out = module(rows[:_PROBE])
        except Exception as error:
            raise ValueError(
                f"x: the members do not take samples of shape {tuple(rows.shape[1:])} and "
                f"{rows.dtype} ({type(error).__name__}: {error})"
            ) from error
        if not isinstance(out, Tensor) or out.shape[:1] != rows[:_PROBE].shape[:1]:
            came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"build: expected modules that map a batch of {len(rows[:_PROBE])} samples to a "
                f"tensor with as many rows, got {came}"
            )
        return out

    def _find_batched(self, x: MemberData) -> tuple[str, str]:
        if self._batched is None:
            everyone = torch.arange(self.size, device=self.device)
            few = x.whole(everyone, slice(_PROBE))
            self._batched = batched_mode(self._members, self._stack, few)
        return self._batched

    def _row_memory(self, x: MemberData) -> tuple[float | None, float]:
        """Return the bytes that a slice of samples may take, and what one sample needs."""
        rows = (x.values[0] if x.own else x.values)[:_PROBE]
        module = self._members[0]
        module.train(False)
        each = bytes_of_activations(lambda: module(rows), self._stack) / len(rows)
        limit = self.memory_limit
        if limit is None and self.device.type == "cpu":
            limit = _CPU_SLICE_BYTES
        return limit, each

    def _layout(self, name: str, tensor: Tensor, index: int, own: bool | None = None) -> MemberData:
        """Tell from the number of dimensions seen by `fit` whether data is shared."""
        if own is None:
            known = self._sample_ndims
            own = known is not None and tensor.ndim == known[index] + 2
        if own and tensor.shape[0] != self.size:
            raise ValueError(
                f"{name}: expected one set for each of {self.size} members, got shape "
                f"{tuple(tensor.shape)}"
            )
        return MemberData(tensor, own)

    def _recipe(
        self,
        kind: str,
        *,
        betas: Any,
        momentum: Any,
        nesterov: bool,
        eps: Any,
        lr: Any,
        weight_decay: Any,
        clip: Any,
        lr_multipliers: Mapping[str, float] | None,
        decay_multipliers: Mapping[str, float] | None,
    ) -> OptimizerRecipe:
        check_choice(kind, "optimizer", ("sgd", "adam", "adamw"))
        options: dict[str, Any] = {
            "lr": self._hyper(lr, "lr", above=0.0),
            "weight_decay": self._hyper(weight_decay, "weight_decay", minimum=0.0),
        }
        if kind == "sgd":
            options["momentum"] = self._hyper(momentum, "momentum", minimum=0.0, below=1.0)
            options["nesterov"] = bool(nesterov)
            if nesterov and not torch.as_tensor(options["momentum"]).all():
                raise ValueError("nesterov: expected momentum above zero for every member")
        else:
            if not isinstance(betas, Sequence) or len(betas) != 2:
                raise ValueError(f"betas: expected a pair, got {betas!r}")
            options["betas"] = tuple(
                self._hyper(beta, "betas", minimum=0.0, below=1.0) for beta in betas
            )
            options["eps"] = self._hyper(eps, "eps", above=0.0)
        return OptimizerRecipe(
            kind,
            options,
            None if clip is None else self._hyper(clip, "clip", above=0.0, finite=False),
            self._factors(lr_multipliers, "lr_multipliers"),
            self._factors(decay_multipliers, "decay_multipliers"),
        )

    def _hyper(self, value: Any, name: str, *, below: float | None = None, **bounds: Any) -> Hyper:
        """Return a number for all members, or a tensor of one number a member."""
        if isinstance(value, Tensor | np.ndarray):
            value = value.tolist()
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != self.size:
                raise ValueError(
                    f"{name}: expected a number or {self.size} of them, one a member, got "
                    f"{len(value)}"
                )
            numbers = [check_number(v, f"{name}[{i}]", **bounds) for i, v in enumerate(value)]
        else:
            numbers = [check_number(value, name, **bounds)]
        if below is not None and max(numbers) >= below:
            raise ValueError(f"{name}: expected numbers < {below}, got {max(numbers)}")
        if len(set(numbers)) == 1:
            return numbers[0]
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.tensor(numbers, dtype=exact, device=self.device)

    def _factors(self, factors: Mapping[str, float] | None, name: str) -> dict[str, float]:
        factors = dict(factors or {})
        unknown = sorted(set(factors) - set(self._stack.params))
        if unknown:
            raise ValueError(
                f"{name}: expected names of trained parameters "
                f"({', '.join(self._stack.params)}), got {unknown[0]!r}"
            )
        return {key: check_number(f, f"{name}[{key!r}]", minimum=0.0) for key, f in factors.items()}

    def _resolve_evaluation(
        self,
        validation: tuple[Any, Any] | None,
        metrics: Mapping[str, Callable[..., Any]] | None,
        every: int,
    ) -> Evaluation | None:
        if validation is None:
            if metrics:
                raise ValueError("metrics: expected validation data to evaluate them on, got none")
            return None
        if not isinstance(validation, Sequence) or len(validation) != 2:
            raise ValueError("validation: expected a pair (inputs, targets)")
        place = self.device, self.dtype
        x = self._layout("validation[0]", prepare("validation[0]", validation[0], *place), 0)
        y = validation[1]
        if (y is None) != (self._sample_ndims[1] is None):
            raise ValueError(
                "validation[1]: expected targets where fit has targets, and only there"
            )
        if y is not None:
            y = self._layout("validation[1]", prepare("validation[1]", y, *place), 1)
            if y.n_samples != x.n_samples:
                raise ValueError(
                    f"validation: expected as many targets as inputs, got {y.n_samples} and "
                    f"{x.n_samples}"
                )
        self._probe(x)
        for name, metric in (metrics or {}).items():
            if name == "validation_loss" or not callable(metric):
                raise ValueError(
                    "metrics: expected callables by name, other than validation_loss, got "
                    f"{name!r}: {type(metric).__name__}"
                )
        return Evaluation(x, y, dict(metrics or {}), every, *self._row_memory(x))


def _ignore(updates: int) -> None:
    """Do not show progress."""


def _maybe(name: str, value: Any, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    return None if value is None else prepare(name, value, device, dtype)


def _resolve_steps(steps: int | None, epochs: int | None, epoch: int) -> int:
    if steps is not None and epochs is not None:
        raise ValueError("steps: expected steps or epochs, got both")
    if epochs is not None:
        return check_integer(epochs, "epochs", minimum=1) * epoch
    return check_integer(_DEFAULT_STEPS if steps is None else steps, "steps", minimum=1)


def _resolve_loss(loss: Any, y: MemberData | None, out: Tensor) -> MemberLoss:
    if loss is None:
        if y is None:
            raise ValueError("loss: expected a function of the prediction, since there is no y")
        loss = "mse" if y.values.is_floating_point() else "cross_entropy"
    member_loss = MemberLoss(loss)
    labels = None if y is None or y.values.is_floating_point() else y.values
    if member_loss.name == "cross_entropy" and labels is not None and out.ndim >= 2:
        check_tensor(labels, "y", minimum=0, maximum=out.shape[1] - 1)
    return member_loss


def _resolve_stopping(
    rule: int | EarlyStopping | None, evaluation: Evaluation | None
) -> EarlyStopping | None:
    if rule is None:
        return None
    if evaluation is None:
        raise ValueError("early_stopping: expected validation data to watch, got none")
    if not isinstance(rule, EarlyStopping):
        rule = EarlyStopping(rule)
    return EarlyStopping(
        check_integer(rule.patience, "early_stopping: patience", minimum=1),
        check_number(rule.min_delta, "early_stopping: min_delta", minimum=0.0),
    )
