"""Train one language model of the scaling part on many processes: ``torchrun -m`` this module.

The family is that of `enough.scaling.experiments.measuring.byte_point`: transformers over bytes,
heads of 16 numbers, maximal-update parameterization. One learning rate serves all widths.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from enough import data
from enough.data import DataError
from enough.models import Transformer, TransformerConfig, next_token_loss
from enough.runtime import compute_dtype, device_name, named_generator
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.scaling.experiments.measuring import SYMBOLS
from enough.training import TrainingInterrupted, distributed, fit, schedules
from enough.training.distributed import STRATEGIES, Group
from enough.training.loop import StepReport
from enough.training.plan import bytes_of_activations

__all__ = ["PRECISIONS", "SCHEDULES", "byte_config", "main", "pretrain"]

#: Shapes of the learning rate, from the number of updates and of those that warm up.
SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "wsd": schedules.wsd,
    "constant": lambda steps, warmup: schedules.constant(warmup=warmup),
}

#: Numbers to compute with; "auto" is what the device is good at.
PRECISIONS = {
    "auto": None,
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def byte_config(width: int, layers: int, context: int) -> TransformerConfig:
    """Return the shape of a member of the family.

    Parameters
    ----------
    width : int
        Width of the residual stream: a multiple of 16, or an even number below.
    layers : int
        Number of blocks.
    context : int
        Bytes that a prediction can see.

    Returns
    -------
    TransformerConfig
        The shape.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    width = check_integer(width, "width", minimum=2)
    if width % 2 or width % max(1, width // 16):
        raise ValueError(f"width: expected a multiple of 16, or an even number below, got {width}")
    return TransformerConfig(
        SYMBOLS,
        check_integer(context, "context", minimum=1),
        d_model=width,
        n_layers=check_integer(layers, "layers", minimum=1),
        n_heads=max(1, width // 16),
        qk_norm=True,
        parameterization="mup",
        base_width=64,
    )


def pretrain(
    width: int,
    *,
    layers: int = 2,
    context: int = 256,
    tokens: float = 1e6,
    batch: int = 32,
    text: str | os.PathLike[str] = "stdlib",
    lr: float = 4e-3,
    weight_decay: float = 0.0,
    schedule: str = "linear",
    warmup: float = 0.05,
    clip: float = 1.0,
    accumulate: int = 1,
    parallel: str = "auto",
    precision: str = "auto",
    evaluation: int = 256,
    evaluations: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    seed: int = 0,
    group: Group | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train one transformer on bytes and return the course of its loss.

    Parameters
    ----------
    width : int
        Width of the residual stream.
    layers : int, default 2
        Number of blocks.
    context : int, default 256
        Bytes that a prediction can see.
    tokens : float, default 1e6
        Bytes to learn from; rounded down to whole updates.
    batch : int, default 32
        Windows of ``context`` bytes an update, over all processes; a multiple of the number of
        processes times ``accumulate``.
    text : str or path-like, default "stdlib"
        As in `enough.data.text`.
    lr : float, default 4e-3
        Peak learning rate of AdamW at width 64.
    weight_decay : float, default 0.0
        Its weight decay.
    schedule : {"linear", "cosine", "wsd", "constant"}, default "linear"
        How the learning rate falls; see `enough.training`.
    warmup : float, default 0.05
        Share of the updates, in [0, 1), over which the learning rate rises.
    clip : float, default 1.0
        Largest norm of the gradient.
    accumulate : int, default 1
        Parts in which each process computes its windows, to save memory.
    parallel : {"auto", "ddp", "fsdp"}, default "auto"
        How the model is spread; see `enough.training.distributed.parallelize`.
    precision : {"auto", "float64", "float32", "bfloat16", "float16"}, default "auto"
        Numbers of the matrix products; "float64" is of everything, for comparisons.
    evaluation : int, default 256
        Held-out windows.
    evaluations : int, default 10
        How often the held-out loss is measured, at least once, at the end.
    checkpoint : str or path-like, optional
        File that process 0 writes during the training and at its end.
    checkpoint_every : int, optional
        Updates between two writes; a tenth of all by default.
    resume : bool, default True
        Go on from ``checkpoint`` where the file exists.
    seed : int, default 0
        Seed of weights and windows, the same for any number of processes.
    group : Group, optional
        The processes; this one alone on the CPU by default.
    progress : bool, default True
        Show a progress bar where a person watches.

    Returns
    -------
    dict
        The arguments; ``params`` (weights outside the embedding), ``updates``, ``tokens``,
        ``losses`` and ``learning_rates`` of the updates, ``held_out`` with its updates in
        ``held_out_updates`` (nats a byte; ``None`` where a loss is not finite); ``processes``,
        ``spread`` (how), ``resumed_at``, ``seconds`` and ``tokens_per_second`` since then,
        device, versions and the text's name, sha256 and size.

    Raises
    ------
    ValueError
        If an argument is out of range or the checkpoint belongs to another training.
    DataUnavailableError
        If there is no such text.
    TrainingInterrupted
        On Ctrl-C, when the checkpoint is written.
    """
    group = Group(0, 1, torch.device("cpu")) if group is None else group
    config = byte_config(width, layers, context)
    batch = check_integer(batch, "batch", minimum=1)
    accumulate = check_integer(accumulate, "accumulate", minimum=1)
    parts = group.size * accumulate
    if batch % parts:
        raise ValueError(
            f"batch: expected a multiple of {parts} (processes times accumulate), got {batch}"
        )
    steps = int(check_number(tokens, "tokens", above=0) // (batch * context))
    if steps < 1:
        raise ValueError(
            f"tokens: expected at least batch times context = {batch * context}, got {tokens:g}"
        )
    warmup = check_number(warmup, "warmup", minimum=0.0)
    if warmup >= 1.0:
        raise ValueError(f"warmup: expected a share of the updates < 1, got {warmup:g}")
    shape = SCHEDULES[check_choice(schedule, "schedule", SCHEDULES)](
        steps, warmup=int(warmup * steps)
    )
    exact = check_choice(precision, "precision", PRECISIONS) == "float64"
    dtype = compute_dtype(group.device) if precision == "auto" else PRECISIONS[precision]
    lr = check_number(lr, "lr", above=0.0)
    weight_decay = check_number(weight_decay, "weight_decay", minimum=0.0)
    clip = check_number(clip, "clip", above=0.0)
    evaluation = check_integer(evaluation, "evaluation", minimum=1)
    evaluations = check_integer(evaluations, "evaluations", minimum=1)
    check_choice(parallel, "parallel", STRATEGIES)

    corpus = data.text(text)
    digest = torch.frombuffer(bytearray.fromhex(corpus.sha256), dtype=torch.uint8)
    if group.any(not torch.equal(group.from_main(digest), digest)):
        raise ValueError(f"text: expected the same text for every process, got {corpus.report()}")
    training = {
        "width": width,
        "layers": layers,
        "context": context,
        "updates": steps,
        "batch": batch,
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup": warmup,
        "clip": clip,
        "seed": seed,
        "text": {"name": corpus.name, "sha256": corpus.sha256, "bytes": corpus.n_bytes},
    }
    if checkpoint is not None:
        group.share(partial(_sign, Path(checkpoint), training, resume))
    held_out = _windows(
        corpus.validation, evaluation, context, named_generator(seed, "held out"), "validation"
    )
    loss = partial(next_token_loss, z_loss=config.z_loss)
    model: nn.Module = Transformer(config, generator=named_generator(seed, "weights"))
    model = model.double() if exact else model
    params = sum(p.numel() for n, p in model.named_parameters() if "embedding" not in n)
    rows = batch // parts
    activations = 0
    if group.size > 1 and parallel == "auto":
        activations = _activations(model, held_out[:1], rows, None if exact else dtype)
    model = distributed.parallelize(model, group, parallel, activations=activations)
    inner = distributed.unwrap(model)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return _pairs(_windows(corpus.train, batch, context, generator, "training"))

    def evaluate(model: nn.Module) -> dict[str, float]:
        pieces = math.ceil(evaluation / (group.size * rows))
        total = torch.zeros((), dtype=torch.float64, device=group.device)
        for part, share in group.shares(evaluation, pieces):
            x, y = _pairs(held_out[part].to(group.device))
            total += share * loss(model(x), y)
        return {"held out": float(group.sum(total))}

    started, first = time.perf_counter(), None

    def report(now: StepReport) -> None:
        nonlocal first
        first = now.step - 1 if first is None else first
        if now.metrics and progress and group.main:
            told = f"training {float(now.loss):.4f}, held out {now.metrics['held out']:.4f}"
            print(f"update {now.step} of {steps}: {told} nats a byte", flush=True)

    history = fit(
        model,
        draw,
        loss,
        steps=steps,
        optimizer=lambda _: torch.optim.AdamW(inner.parameter_groups(lr, weight_decay), fused=True),
        accumulate=accumulate,
        schedule=shape,
        clip=clip,
        evaluate=evaluate,
        evaluate_every=max(1, steps // evaluations),
        hooks=[report],
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        precision=None if exact else dtype,
        generator=named_generator(seed, "windows"),
        group=group,
        progress=progress,
        label=f"width {width}",
    )
    seconds = time.perf_counter() - started
    first = steps if first is None else first
    return training | {
        "params": params,
        "updates": len(history),
        "tokens": len(history) * batch * context,
        "losses": _plain(history.losses),
        "learning_rates": _plain(history.learning_rates),
        "held_out_updates": history.evaluation_steps.tolist(),
        "held_out": _plain(history.metrics["held out"]),
        "processes": group.size,
        "accumulate": accumulate,
        "precision": str(dtype).removeprefix("torch."),
        "spread": distributed.strategy_of(model),
        "resumed_at": first,
        "seconds": seconds,
        "tokens_per_second": (len(history) - first) * batch * context / seconds,
        "device": device_name(group.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _sign(checkpoint: Path, training: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Keep beside a checkpoint what it is of, and refuse to go on with something else."""
    note = checkpoint.with_name(f"{checkpoint.name}.json")
    if resume and checkpoint.exists() and note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))
        for name, value in training.items():
            if before.get(name) != value:
                raise ValueError(
                    f"checkpoint: {checkpoint} was begun with {name} {before.get(name)}, "
                    f"got {value}; give another path, or start again without resuming"
                )
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    return {}


def _windows(part: Tensor, count: int, context: int, stream: torch.Generator, name: str) -> Tensor:
    if len(part) <= context:
        raise ValueError(
            f"context: expected less than the {len(part)} bytes of the {name} text, got {context}"
        )
    return data.windows(part, count, context, stream).clamp_(max=SYMBOLS - 1)


def _pairs(windows: Tensor) -> tuple[Tensor, Tensor]:
    return windows[:, :-1], windows[:, 1:]


def _activations(model: nn.Module, window: Tensor, rows: int, dtype: torch.dtype | None) -> float:
    """Bytes that a forward pass keeps, measured on the CPU with one window and with two."""
    low = dtype in (torch.bfloat16, torch.float16)
    own = [*model.named_parameters(), *model.named_buffers()]

    def kept(rows: int) -> int:
        x, y = _pairs(window.expand(rows, -1))
        return bytes_of_activations(lambda: next_token_loss(model(x), y), own)

    with torch.autocast("cpu", dtype) if low else contextlib.nullcontext():
        one, two = kept(1), kept(2)
    return one + (rows - 1) * (two - one)


def _plain(values: Any) -> list[float | None]:
    """Numbers as JSON knows them."""
    return [float(v) if math.isfinite(v) else None for v in values]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="enough.scaling.pretrain",
        description="Train one byte-level transformer of the scaling part and write its losses.",
        epilog="Two processes on this machine: torchrun --standalone --nproc-per-node 2 -m "
        "enough.scaling.pretrain --width 64. Any number of processes gives the same training, "
        "up to rounding, and may go on from the same checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    model = parser.add_argument_group("model")
    model.add_argument("--width", type=int, default=64, help="of the residual stream")
    model.add_argument("--layers", type=int, default=2, help="blocks")
    model.add_argument("--context", type=int, default=256, help="bytes that a prediction sees")
    training = parser.add_argument_group("training")
    training.add_argument("--tokens", type=float, default=1e6, help="bytes to learn from")
    training.add_argument("--batch", type=int, default=32, help="windows an update, in all")
    training.add_argument("--text", default="stdlib", help="a folder, a file, or Python's library")
    training.add_argument("--lr", type=float, default=4e-3, help="peak learning rate of AdamW")
    training.add_argument("--weight-decay", type=float, default=0.0, help="of the matrices")
    training.add_argument("--schedule", choices=SCHEDULES, default="linear", help="of the rate")
    training.add_argument("--warmup", type=float, default=0.05, help="share of the updates")
    training.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    training.add_argument("--seed", type=int, default=0, help="of weights and windows")
    machine = parser.add_argument_group("machines")
    machine.add_argument(
        "--device", default=argparse.SUPPRESS, help="cpu or cuda (default: cuda if any)"
    )
    machine.add_argument(
        "--parallel",
        choices=STRATEGIES,
        default="auto",
        help="a copy on each process, one model cut into parts, or parts where copies do not fit",
    )
    machine.add_argument("--accumulate", type=int, default=1, help="parts of a process's windows")
    machine.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the matrix products"
    )
    files = parser.add_argument_group("files")
    files.add_argument("--out", type=Path, default=Path("pretrain.json"), help="the losses")
    files.add_argument("--checkpoint", type=Path, help="file to go on from")
    files.add_argument("--checkpoint-every", type=int, metavar="UPDATES", help="between writes")
    files.add_argument("--no-resume", dest="resume", action="store_false", help="start again")
    files.add_argument("--evaluation", type=int, default=256, help="held-out windows")
    files.add_argument("--evaluations", type=int, default=10, help="measurements on them")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process when omitted.

    Returns
    -------
    int
        The exit status: 0 on success, 1 on a failure told in one sentence, 130 when interrupted.
    """
    options = vars(_parser().parse_args(argv))
    out, device = options.pop("out"), options.pop("device", None)
    who = os.environ.get("RANK", "0")
    try:
        with distributed.start(device) as group:
            record = pretrain(**options, group=group)
    except TrainingInterrupted as error:
        if who == "0":
            print(f"interrupted: {error}", file=sys.stderr)
        return 130
    except (ValueError, OSError, DataError) as error:
        # On several machines it may be one process's own, such as a text that is missing there.
        print(f"error{f' (process {who})' if who != '0' else ''}: {error}", file=sys.stderr)
        return 1
    if who == "0":
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        told = f"{record['updates']} updates, held out {record['held_out'][-1]} nats a byte"
        print(f"{told}: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
