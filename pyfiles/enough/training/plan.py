"""How to train an ensemble: which mode, and how many members at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from enough.runtime import available_memory, chunks, derive_seed, stopwatch
from enough.training.chunk_training import Chunk, Task
from enough.training.members import Stack
from enough.training.passes import make_pass
from enough.training.stacked import stacks
from enough.training.streams import private_state

__all__ = ["Plan", "batched_mode", "bytes_of_activations", "make_plan"]

# A chunk whose tensors stay in the cache trains faster than one that streams from memory.
_CACHE_BYTES = 24 * 2**20
_LOOP_HANDICAP = 1.05  # the loop must win clearly: measurements are noisy
_SHARE, _SHORTEST = 0.05, 0.02  # of the training, but at least these seconds, goes into measuring
_ROUNDS, _LOOK_SECONDS = 5, 0.002

_measured: dict[tuple[object, ...], Plan] = {}


@dataclass(frozen=True)
class Plan:
    """How to train.

    Parameters
    ----------
    mode : {"stacked", "vmap", "loop"}
        How to run the members of a chunk.
    chunk_size : int
        Members trained together.
    reason : str
        Why.
    """

    mode: str
    chunk_size: int
    reason: str


def batched_mode(modules: Sequence[nn.Module], stack: Stack, x: Tensor) -> tuple[str, str]:
    """Find a batched mode whose predictions agree with the members' own.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        All members.
    stack : Stack
        Their tensors.
    x : torch.Tensor, shape (E, B, ...)
        A few inputs.

    Returns
    -------
    mode : {"stacked", "vmap", "loop"}
        The loop when no batched mode is right.
    reason : str
        Why.
    """
    scratch = stack.take(slice(None))
    alone = make_pass("loop", modules, scratch)
    alone.train(False)
    with torch.no_grad():
        expected = alone.predict(x)
    stack.bind(modules)
    why = "no batched mode"
    for mode in ("stacked", "vmap"):
        if mode == "stacked" and not stacks(modules[0]):
            continue
        try:
            with torch.no_grad():
                batched = make_pass(mode, modules, scratch).predict(x)
        except Exception as error:  # whatever a module does that cannot be batched
            why = f"{mode} fails: {_first_line(error)}"
            continue
        tolerance = torch.finfo(expected.dtype).eps ** 0.5
        scale = float(expected.abs().nan_to_num().max()) if expected.numel() else 1.0
        if torch.allclose(
            batched, expected, rtol=0.0, atol=tolerance * (1 + scale), equal_nan=True
        ):
            return mode, f"{mode} predictions agree with the members'"
        why = f"{mode} predictions differ from the members' own"
    return "loop", why


def make_plan(
    modules: Sequence[nn.Module],
    stack: Stack,
    task: Task,
    steps: int,
    *,
    mode: str,
    batched: Callable[[], tuple[str, str]],
    chunk_size: int | None,
    memory_limit: float | None,
) -> Plan:
    """Decide how to train.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        All members.
    stack : Stack
        Their tensors; not changed.
    task : Task
        What to train on.
    steps : int
        Number of updates.
    mode : {"auto", "stacked", "vmap", "loop"}
        What the user asked for.
    batched : callable
        Returns what `batched_mode` found.
    chunk_size : int or None
        What the user asked for.
    memory_limit : float or None
        Bytes for a chunk.

    Returns
    -------
    Plan
        The decision.
    """
    found, why = (mode, "asked for") if mode != "auto" else batched()
    random = False
    if mode == "auto" and found != "loop":
        try:
            random = _try(found, modules, stack, task)
        except Exception as error:  # whatever a module does that cannot be batched
            found, why = "loop", f"{found} fails: {_first_line(error)}"

    def plan(mode: str, reason: str = "") -> Plan:
        if chunk_size is not None:
            return Plan(mode, min(chunk_size, len(modules)), reason)
        activations = 0 if mode == "loop" else _bytes_of_step(modules, stack, task)
        return Plan(mode, _chunk_size(stack, activations, memory_limit), reason)

    if random:
        why = "random layers: not measured, so that runs repeat"
    if mode != "auto" or random or found == "loop":
        return plan(found, why)
    plans = (plan(found), plan("loop"))
    key = (_signature(stack), type(modules[0]), len(modules), task.batch_size, task.x.values.shape)
    key += (task.optimizer.kind, _first(stack).device, torch.get_num_threads(), plans)
    if key in _measured:
        return _measured[key]
    choice, complete = _measure(plans, modules, stack, task, steps)
    if complete:
        _measured[key] = choice
    return choice


def bytes_of_activations(run: Callable[[], object], stack: Stack) -> int:
    """Count what a forward pass keeps for the backward pass.

    Parameters
    ----------
    run : callable
        Runs the forward pass.
    stack : Stack
        Parameters, which are not counted.

    Returns
    -------
    int
        Bytes, at least 1.
    """
    known = {t.untyped_storage().data_ptr() for _, t in stack}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor.detach()  # a node that kept its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return max(1, sum(kept.values()))


def _try(mode: str, modules: Sequence[nn.Module], stack: Stack, task: Task) -> bool:
    """Do an update of two members on copies; tell whether layers draw random numbers."""
    with _scratch(mode, 2, modules, stack, task) as chunk:
        device = chunk.members.device
        before = _random_state(device)
        chunk.step()
        return not torch.equal(before, _random_state(device))


def _measure(
    plans: Sequence[Plan], modules: Sequence[nn.Module], stack: Stack, task: Task, steps: int
) -> tuple[Plan, bool]:
    """Time an update of each plan on copies; return the best and whether all were timed well."""
    size, device = len(modules), _first(stack).device
    best: dict[Plan, float] = {}
    spent, rounds = 0.0, 0
    with contextlib.ExitStack() as scratches:
        runs = {
            plan: scratches.enter_context(
                _scratch(plan.mode, plan.chunk_size, modules, stack, task)
            )
            for plan in plans
        }

        def look(plan: Plan, updates: int) -> None:
            nonlocal spent
            with stopwatch(device) as watch:
                for _ in range(updates):
                    runs[plan].step()
            spent += watch.seconds
            each = watch.seconds / updates / plan.chunk_size
            best[plan] = min(best.get(plan, math.inf), each)

        for plan in plans:
            look(plan, 1)
            best.pop(plan)  # the first update also pays for what is set up once
            look(plan, 1)
        while rounds < _ROUNDS and spent < max(
            _SHORTEST, _SHARE * min(best.values()) * size * steps
        ):
            for plan in plans:
                updates = round(_LOOK_SECONDS / (best[plan] * plan.chunk_size))
                look(plan, max(1, min(20, updates)))
            rounds += 1
    times = {plan: t * (_LOOP_HANDICAP if plan.mode == "loop" else 1) for plan, t in best.items()}
    choice = min(times, key=times.__getitem__)
    told = ", ".join(f"{plan.mode} of {plan.chunk_size}: {1e6 * best[plan]:.0f}" for plan in plans)
    reason = f"measured, microseconds an update of a member: {told}"
    return replace(choice, reason=reason), rounds == _ROUNDS


@contextlib.contextmanager
def _scratch(
    mode: str, count: int, modules: Sequence[nn.Module], stack: Stack, task: Task
) -> Iterator[Chunk]:
    """Yield a chunk of the first members on copies; give everything back as it was."""
    device = _first(stack).device
    members = torch.arange(min(count, len(modules)), device=device)
    with private_state(derive_seed(task.seed, "scratch"), device):
        try:
            yield Chunk(mode, modules[: len(members)], stack.take(members), members, task)
        finally:
            stack.bind(modules[: len(members)])


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _bytes_of_state(stack: Stack) -> int:
    """Bytes a member needs besides activations: weights, gradient, best weights, averages."""
    weights = sum(t[0].numel() * t.element_size() for t in stack.params.values())
    return 6 * weights


def _bytes_of_step(modules: Sequence[nn.Module], stack: Stack, task: Task) -> int:
    with _scratch("loop", 1, modules, stack, task) as chunk:
        return bytes_of_activations(chunk.forward, chunk.stack)


def _chunk_size(stack: Stack, activations: int, memory_limit: float | None) -> int:
    """Return how many members to train together: the fewest chunks of nearly equal size."""
    size, device = len(_first(stack)), _first(stack).device
    limit = available_memory(device) / 4 if memory_limit is None else memory_limit
    if device.type == "cpu":
        limit = min(limit, _CACHE_BYTES)
    each = _bytes_of_state(stack) + 2 * activations  # and their gradients
    largest = next(chunks(size, each, limit)).stop
    return math.ceil(size / math.ceil(size / largest))


def _first(stack: Stack) -> Tensor:
    return next(iter(stack.params.values()))


def _signature(stack: Stack) -> tuple[object, ...]:
    return tuple((name, t.shape[1:], t.dtype) for name, t in stack)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
