"""A loop that trains one model: schedules, clipping, evaluation, checkpoints, resume."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enough.runtime import as_generator, compute_dtype, derive_seed
from enough.runtime import progress as progress_bar
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training.allocator import keep_freed_memory
from enough.training.checkpoint import load_checkpoint, save_checkpoint
from enough.training.distributed import (
    Group,
    check_group,
    clip_gradients,
    cut_batch,
    gradient_sum,
    load_state,
    strategy_of,
    unwrap,
    whole_state,
)
from enough.training.history import History
from enough.training.interrupts import DeferredInterrupt, TrainingInterrupted
from enough.training.schedules import Schedule, multipliers
from enough.training.streams import BatchOrder, private_state

__all__ = ["StepReport", "fit"]

_FORMAT = 1
_PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class StepReport:
    """What a hook is told after every update.

    Parameters
    ----------
    step : int
        Number of updates done.
    loss : torch.Tensor
        The loss of the batch before the update, a scalar on the model's device.
    model : torch.nn.Module
        The model after the update.
    optimizer : torch.optim.Optimizer
        The optimizer after the update.
    metrics : dict from str to float
        What was evaluated after this update; empty when nothing was.
    """

    step: int
    loss: Tensor
    model: nn.Module
    optimizer: torch.optim.Optimizer
    metrics: Mapping[str, float]


def fit(
    model: nn.Module,
    data: Sequence[Any] | Callable[[torch.Generator], Sequence[Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    steps: int,
    objective: Callable[..., Tensor] | None = None,
    optimizer: str
    | torch.optim.Optimizer
    | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = "adamw",
    lr: float | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    schedule: Schedule | None = None,
    clip: float | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float] | float] | None = None,
    evaluate_every: int | None = None,
    hooks: Sequence[Callable[[StepReport], Any]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    precision: str | torch.dtype | None = None,
    generator: torch.Generator | int | None = None,
    group: Group | None = None,
    progress: bool = True,
    label: str = "training",
) -> History:
    """Train one model in place and return the course of the training.

    Parameters
    ----------
    model : torch.nn.Module
        The model. It is in training mode during the updates, and in the mode it came with
        afterwards.
    data : sequence of array-like, or callable
        Either arrays with one first dimension, such as ``(x, y)``: numpy arrays become
        tensors and floating-point arrays take the dtype of the model's parameters. Every
        epoch visits each sample once, in a new order. Or ``data(generator)`` that returns the
        tensors of one batch and draws from ``generator`` only.
    loss : callable, optional
        ``loss(prediction, target)`` returns the scalar to minimize, for data of two tensors.
    steps : int
        Number of updates.
    objective : callable, optional
        ``objective(model, *batch)`` returns the scalar to minimize, for everything that is
        not ``loss(model(x), y)``. Give this or ``loss``.
    optimizer : {"adamw", "adam", "sgd"}, torch.optim.Optimizer, or callable, default "adamw"
        A name, an optimizer of the model's parameters, or ``optimizer(parameters)`` that
        makes one.
    lr : float, optional
        Learning rate for an optimizer given by name, above zero. Default 1e-3.
    weight_decay : float, optional
        Weight decay for an optimizer given by name, zero or more. Default 0.
    batch_size : int, optional
        Samples an update, at most all of them (the default). The last batch of an epoch is
        smaller where it does not divide the number of samples. Not with callable ``data``.
    accumulate : int, default 1
        Parts that a batch is computed in, one after the other, to save memory. The loss must
        be a mean over the rows of a batch.
    schedule : callable, optional
        ``schedule(step)`` multiplies the learning rates; ``step`` counts the updates done
        before. See `cosine`, `wsd` and others. Default: 1.
    clip : float, optional
        Largest norm of the gradient, above zero. Default: no clipping.
    evaluate : callable, optional
        ``evaluate(model)`` returns a number, or numbers by name; called in evaluation mode
        without gradients.
    evaluate_every : int, optional
        Updates between two evaluations; the last update is always followed by one. Default: a
        tenth of ``steps``.
    hooks : sequence of callable, default ()
        Called in order with a `StepReport` after every update. A hook that returns ``True``
        ends the training.
    checkpoint : str or path-like, optional
        File that is written during the training and at its end, each time whole or not at all.
    checkpoint_every : int, optional
        Updates between two writes. Default: a tenth of ``steps``.
    resume : bool, default True
        Go on from ``checkpoint`` where the file exists; ``False`` starts again and replaces
        it.
    precision : {"auto"}, torch.dtype, or None, default None
        Type of the matrix products (autocast). ``None`` computes in the model's own type;
        ``"auto"`` asks `enough.runtime.compute_dtype`. With ``torch.float16`` the loss is
        scaled, and updates whose gradients overflow are skipped.
    generator : torch.Generator or int, optional
        Source of the order of the data and, through a seed drawn from it, of what layers draw
        (dropout). Global random state is left as it was. ``None`` seeds from the operating
        system.
    group : Group, optional
        The processes that train ``model`` together (see `enough.training.distributed`): every
        one calls `fit` with the same arguments, computes its rows of every batch and returns
        the same history. Process 0 shows progress and writes checkpoints. The loss must be a
        mean over the rows of a batch.
    progress : bool, default True
        Show a progress bar where a person watches.
    label : str, default "training"
        What the bar is called.

    Returns
    -------
    History
        Losses and learning rates of every update, and the evaluated metrics. After a resume
        it includes the updates before.

    Raises
    ------
    ValueError
        If an argument is not as described, or the checkpoint is damaged or belongs to another
        training.
    TrainingInterrupted
        On Ctrl-C, after the update at work is done and the checkpoint is written; a
        ``KeyboardInterrupt`` that carries ``history`` and ``step``.

    Notes
    -----
    A training that is interrupted or killed and resumed with the same arguments gives the
    same bits as one that ran through, on the CPU: the checkpoint holds the parameters, the
    buffers, the state of the optimizer and of the loss scale, the position in the data and
    the states of the random streams. Checkpoints hold tensors and plain values only and are
    loaded with ``weights_only=True``.

    With a ``group`` the training is that of one process up to rounding, except for layers that
    draw or that mix rows. A checkpoint fits any number of processes; the same bits need the
    same number. ``evaluate`` and the hooks run on every process, with the model that
    `enough.training.distributed.unwrap` returns. A hook that ends the training on one process,
    or Ctrl-C there, ends it on all after the same update.

    Examples
    --------
    >>> import torch
    >>> from enough.training import fit
    >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
    >>> history = fit(
    ...     torch.nn.Linear(1, 1), (x, 3 * x), torch.nn.functional.mse_loss,
    ...     steps=200, optimizer="sgd", lr=0.5, batch_size=8, generator=0,
    ... )
    >>> bool(history.losses[-1] < 1e-6)
    True
    """
    steps = check_integer(steps, "steps", minimum=1)
    compute = _resolve_objective(loss, objective)
    device, dtype = _where(model)
    group = check_group(model, group) or Group(0, 1, device)
    inner = unwrap(model)
    accumulate = check_integer(accumulate, "accumulate", minimum=1)
    draw, order, generator = _resolve_data(data, batch_size, generator, dtype)
    generator.set_state(group.from_main(generator.get_state()))
    optimizer = _resolve_optimizer(optimizer, model, lr, weight_decay)
    base_rates = [float(group["lr"]) for group in optimizer.param_groups]
    factors = multipliers(schedule, steps)
    planned_rates = (base_rates[0] * factors).tolist()
    clip = None if clip is None else check_number(clip, "clip", above=0.0)
    tenth = max(1, steps // 10)
    if evaluate is not None and not callable(evaluate):
        raise ValueError(f"evaluate: expected a callable, got {type(evaluate).__name__}")
    every = check_integer(
        tenth if evaluate_every is None else evaluate_every, "evaluate_every", minimum=1
    )
    save_every = check_integer(
        tenth if checkpoint_every is None else checkpoint_every, "checkpoint_every", minimum=1
    )
    autocast, scaler = _resolve_precision(precision, device)
    if scaler.is_enabled() and strategy_of(model) == "fsdp":
        raise ValueError('precision: expected another than float16 with "fsdp", got float16')
    path = None if checkpoint is None else Path(checkpoint)
    keep_freed_memory()

    def save() -> None:
        if path is None:
            return
        whole_states = whole_state(model, optimizer, group)
        streams = [group.gather(stream) for stream in _streams(device)]
        if not group.main:
            return
        state = {
            "format": _FORMAT,
            "step": done,
            "ended": ended,
            "batch_size": batch_size,
            **whole_states,
            "scaler": scaler.state_dict(),
            "generator": generator.get_state(),
            "order": None if order is None else order.state(),
            "layers": streams[0][0],
            "layers_cuda": streams[1][0] if device.type == "cuda" else None,
            "other_layers": [stream[1:] for stream in streams],  # of processes 1 and up
            "losses": torch.stack(losses),
            "evaluations": evaluations,
            "rates": planned_rates[:done],
        }
        save_checkpoint(path, state)

    def read() -> dict[str, Any]:
        state = load_checkpoint(path)
        _check_state(state, path, inner, batch_size, planned_rates)
        return state

    def restore(state: dict[str, Any]) -> None:
        load_state(model, optimizer, state, group)
        scaler.load_state_dict(state["scaler"])
        if order is not None:
            order.restore(state["order"])
        generator.set_state(state["generator"])
        streams = [state["layers"], state["layers_cuda"]]
        if not group.main:  # where there was no such process, its stream starts anew
            others = state.get("other_layers", [])
            streams = [stream[group.rank - 1] for stream in others if len(stream) >= group.rank]
        if streams:
            torch.set_rng_state(streams[0])
        if device.type == "cuda" and len(streams) == 2 and streams[1] is not None:
            torch.cuda.set_rng_state(streams[1], device)
        losses.extend(state["losses"].to(device).unbind())
        evaluations.extend(state["evaluations"])

    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if not group.main:
        seed = derive_seed(seed, "process", group.rank)
    was_training = model.training
    done, ended = 0, False
    losses: list[Tensor] = []
    evaluations: list[tuple[int, dict[str, float]]] = []
    whole = True  # no update is half done
    stop = False  # all processes know of an interrupt
    with contextlib.ExitStack() as stack:
        stack.enter_context(private_state(seed, device))
        interrupt = stack.enter_context(DeferredInterrupt())
        stack.callback(model.train, was_training)
        if path is not None and resume and group.any(group.main and path.exists()):
            state = group.share(read, large=("model", "optimizer"))
            restore(state)
            done, ended = state["step"], state["ended"]
            del state
        shown = progress and group.main
        bar = stack.enter_context(progress_bar(None, steps, label)) if shown else None
        if bar is not None:
            bar.update(done)
        try:
            while done < steps and not ended:
                whole = False
                for options, base in zip(optimizer.param_groups, base_rates, strict=True):
                    options["lr"] = base * float(factors[done])
                model.train()
                parts = cut_batch(draw(), device, group, accumulate)
                value = _update(model, compute, parts, optimizer, clip, autocast, scaler, group)
                losses.append(value)
                done += 1
                metrics: dict[str, float] = {}
                if evaluate is not None and (done % every == 0 or done == steps):
                    metrics = _evaluate(inner, evaluate)
                    evaluations.append((done, metrics))
                whole = True
                report = StepReport(done, value, inner, optimizer, metrics)
                for hook in hooks:
                    ended = hook(report) is True or ended
                ended = group.any(ended)
                if done == steps or ended or done % save_every == 0:
                    save()
                if bar is not None:
                    bar.update()
                stop = group.any(interrupt.requested)
                if stop:
                    raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if whole and done and (stop or group.size == 1):
                save()
            kept = "nothing is kept on disk"
            if path is not None and path.exists():
                kept = f"call fit again with the same arguments to go on from {path}"
            raise TrainingInterrupted(
                f"{label} was interrupted after update {done} of {steps}; {kept}",
                _history(losses, planned_rates[: len(losses)], evaluations),
                done,
            ) from error
    return _history(losses, planned_rates[: len(losses)], evaluations)


def _update(
    model: nn.Module,
    compute: Callable[..., Tensor],
    parts: Sequence[tuple[Sequence[Tensor], float]],
    optimizer: torch.optim.Optimizer,
    clip: float | None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    scaler: torch.amp.GradScaler,
    group: Group,
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    values = []
    for batch, share in parts:
        with gradient_sum(model, last=len(values) + 1 == len(parts)):
            with autocast():
                value = compute(model, *batch)
            if not isinstance(value, Tensor) or value.numel() != 1:
                came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"loss: expected a function that returns a scalar tensor, got {came}"
                )
            value = value.reshape(())
            # The processes' gradients are averaged, not summed.
            scaler.scale(value * (share * group.size)).backward()
        values.append(value.detach() * share)
    if clip is not None:
        scaler.unscale_(optimizer)
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        clip_gradients(parameters, clip)
    scaler.step(optimizer)
    scaler.update()
    return group.sum(sum(values))


def _streams(device: torch.device) -> list[Tensor]:
    """States of the streams that layers draw from."""
    on_gpu = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _evaluate(
    model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float] | float]
) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        answer = evaluate(model)
    if not isinstance(answer, Mapping):
        answer = {"evaluation": answer}
    try:
        return {str(name): float(value) for name, value in answer.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"evaluate: expected a function that returns a number, or numbers by name ({error})"
        ) from error


def _resolve_objective(
    loss: Callable[[Tensor, Tensor], Tensor] | None, objective: Callable[..., Tensor] | None
) -> Callable[..., Tensor]:
    if (loss is None) == (objective is None):
        raise ValueError("loss: expected either loss or objective, got both or neither")
    if objective is not None:
        if not callable(objective):
            raise ValueError(f"objective: expected a callable, got {type(objective).__name__}")
        return objective
    if not callable(loss):
        raise ValueError(f"loss: expected a callable, got {type(loss).__name__}")

    def compute(model: nn.Module, *batch: Tensor) -> Tensor:
        if len(batch) != 2:
            raise ValueError(
                f"data: expected two tensors (inputs, targets) with loss=, got {len(batch)}; "
                "use objective= for other data"
            )
        inputs, targets = batch
        return loss(model(inputs), targets)

    return compute


def _where(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model: expected at least one parameter that requires a gradient")
    devices = {p.device for p in parameters}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"model: expected all parameters on one device, got {names}")
    return parameters[0].device, parameters[0].dtype


def _resolve_data(
    data: Any,
    batch_size: int | None,
    generator: torch.Generator | int | None,
    dtype: torch.dtype,
) -> tuple[Callable[[], Sequence[Tensor]], BatchOrder | None, torch.Generator]:
    generator = as_generator(generator)
    if callable(data):
        if batch_size is not None:
            raise ValueError("batch_size: expected None, since data is a function of its own")

        def sample() -> Sequence[Tensor]:
            batch = data(generator)
            return (batch,) if isinstance(batch, Tensor) else batch

        return sample, None, generator

    arrays = (data,) if isinstance(data, Tensor | np.ndarray) else tuple(data)
    tensors, _ = as_tensors(**{f"data[{i}]": array for i, array in enumerate(arrays)})
    if not tensors:
        raise ValueError("data: expected at least one array, got none")
    for i, tensor in enumerate(tensors):
        check_tensor(tensor, f"data[{i}]")
    if () in {t.shape for t in tensors} or len({t.shape[0] for t in tensors}) > 1:
        raise ValueError(
            "data: expected arrays with one first dimension, got shapes "
            + ", ".join(str(tuple(t.shape)) for t in tensors)
        )
    tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
    n_samples = tensors[0].shape[0]
    if batch_size is None:
        batch_size = n_samples
    batch_size = check_integer(batch_size, "batch_size", minimum=1, maximum=n_samples)
    order = BatchOrder([generator], n_samples, batch_size)

    def draw() -> Sequence[Tensor]:
        rows = order.next()[0]
        if order.whole:
            return tensors
        return [t[rows.to(t.device)] for t in tensors]

    return draw, order, generator


def _resolve_optimizer(
    optimizer: Any, model: nn.Module, lr: float | None, weight_decay: float | None
) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if isinstance(optimizer, str):
        check_choice(optimizer, "optimizer", ("adamw", "adam", "sgd"))
        options: dict[str, Any] = {
            "lr": check_number(1e-3 if lr is None else lr, "lr", above=0.0),
            "weight_decay": check_number(
                0.0 if weight_decay is None else weight_decay, "weight_decay", minimum=0.0
            ),
        }
        if optimizer == "sgd":
            return torch.optim.SGD(parameters, **options)
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.Adam
        return kind(parameters, fused=parameters[0].device.type in ("cpu", "cuda"), **options)
    if lr is not None or weight_decay is not None:
        raise ValueError("lr, weight_decay: expected None, since the optimizer brings its own")
    if not isinstance(optimizer, torch.optim.Optimizer) and callable(optimizer):
        optimizer = optimizer(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            "optimizer: expected a name, a torch.optim.Optimizer or a function that makes one, "
            f"got {type(optimizer).__name__}"
        )
    own = {id(p) for p in parameters}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer: expected parameters of the model, got none of them")
    return optimizer


def _resolve_precision(
    precision: str | torch.dtype | None, device: torch.device
) -> tuple[Callable[[], contextlib.AbstractContextManager[Any]], torch.amp.GradScaler]:
    if precision == "auto":
        precision = compute_dtype(device, "train")
    if precision is not None and precision not in _PRECISIONS:
        raise ValueError(
            'precision: expected None, "auto", torch.float32, torch.bfloat16 or torch.float16, '
            f"got {precision!r}"
        )
    low = precision in (torch.bfloat16, torch.float16)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)

    def autocast() -> contextlib.AbstractContextManager[Any]:
        if not low:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=precision)

    return autocast, scaler


def _check_state(
    state: dict[str, Any],
    path: Path,
    model: nn.Module,
    batch_size: int | None,
    rates: Sequence[float],
) -> None:
    def mismatch(what: str, want: Any, have: Any) -> ValueError:
        return ValueError(
            f"checkpoint: {path} belongs to another training: expected {what} {want}, "
            f"got {have}; give another path, or resume=False to replace it"
        )

    if state.get("format") != _FORMAT:
        raise mismatch("format", _FORMAT, state.get("format"))
    if state["batch_size"] != batch_size:
        raise mismatch("batch_size", batch_size, state["batch_size"])
    if state["step"] > len(rates):
        raise mismatch("at most", f"{len(rates)} updates", state["step"])
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    stored = {name: tuple(t.shape) for name, t in state["model"].items()}
    if shapes != stored:
        odd = sorted(set(shapes.items()) ^ set(stored.items()))[0][0]
        raise mismatch(f"{odd} of shape", shapes.get(odd), stored.get(odd))
    for step, (want, have) in enumerate(zip(rates, state["rates"], strict=False), 1):
        if want != have:
            raise mismatch(f"at update {step} a learning rate of", want, have)


def _history(
    losses: list[Tensor], rates: list[float], evaluations: list[tuple[int, dict[str, float]]]
) -> History:
    names = dict.fromkeys(name for _, values in evaluations for name in values)
    return History(
        steps=np.arange(1, len(losses) + 1),
        losses=torch.stack(losses).double().cpu().numpy() if losses else np.empty(0),
        learning_rates=np.array(rates, dtype=np.float64),
        evaluation_steps=np.array([step for step, _ in evaluations], dtype=np.int64),
        metrics={
            name: np.array([values.get(name, np.nan) for _, values in evaluations])
            for name in names
        },
    )
