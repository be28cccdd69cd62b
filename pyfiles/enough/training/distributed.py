"""One model on many processes: each takes its rows of every batch, and all stay one training.

``torchrun`` starts the processes. `start` joins them, `parallelize` spreads a model over them, and
`enough.training.fit` trains it with ``group=``. What comes out is the training of one process, up
to rounding: the batches, the loss, the clipping and the checkpoints are the same.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from enough.runtime import available_memory, resolve_device
from enough.runtime.validation import check_choice, check_number

__all__ = [
    "STRATEGIES",
    "Group",
    "can_cut",
    "choose_strategy",
    "load_state",
    "parallelize",
    "start",
    "strategy_of",
    "training_bytes",
    "unwrap",
    "whole_state",
]

#: How a model is spread; "auto" takes the first of the others that fits.
STRATEGIES = ("auto", "ddp", "fsdp")

_SHARE_OF_MEMORY = 0.8  # the allocator's gaps and the libraries need the rest


@dataclass(frozen=True)
class Group:
    """The processes of a training, as one of them sees them.

    Made by `start`. All methods but `shares` are collective: every process of the group calls
    them, in the same order.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    size : int
        Number of processes.
    device : torch.device
        Where this process computes.
    local_size : int, default 1
        Processes on this machine.
    """

    rank: int
    size: int
    device: torch.device
    local_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is process 0, which shows progress and writes files."""
        return self.rank == 0

    def shares(self, rows: int, pieces: int = 1) -> list[tuple[slice, float]]:
        """Return which rows of a batch belong to this process.

        Parameters
        ----------
        rows : int
            Rows of the whole batch, at least 1.
        pieces : int, default 1
            Parts that each process cuts its rows into.

        Returns
        -------
        list of (slice, float)
            ``pieces`` parts and their shares of the batch. Over all processes the parts are
            the batch, and their sizes differ by one row at most. A part that would be empty is
            the first row with a share of zero, so that all processes compute equally often.
        """
        parts = self.size * pieces
        bounds = [rows * i // parts for i in range(parts + 1)][self.rank * pieces :][: pieces + 1]
        return [
            (slice(begin, end), (end - begin) / rows) if begin < end else (slice(0, 1), 0.0)
            for begin, end in pairwise(bounds)
        ]

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over the processes.

        Parameters
        ----------
        value : torch.Tensor
            Of one shape on all processes, on the CPU or on the process's device.

        Returns
        -------
        torch.Tensor
            The sum.
        """
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set on any process.

        Parameters
        ----------
        flag : bool
            The flag of this process.

        Returns
        -------
        bool
            The same on all.
        """
        return bool(flag if self.size == 1 else self.sum(torch.tensor(int(flag))))

    def gather(self, value: Tensor) -> list[Tensor]:
        """Collect a tensor from every process.

        Parameters
        ----------
        value : torch.Tensor
            Of one shape on all processes.

        Returns
        -------
        list of torch.Tensor
            One a process, in order.
        """
        if self.size == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(values, value)
        return values

    def from_main(self, value: Tensor) -> Tensor:
        """Send the tensor of process 0 to all.

        Parameters
        ----------
        value : torch.Tensor
            Of one shape on all processes.

        Returns
        -------
        torch.Tensor
            What process 0 gave.
        """
        if self.size > 1:
            value = value.clone()
            dist.broadcast(value, 0)
        return value

    def share(self, make: Callable[[], dict[str, Any]], large: Sequence[str] = ()) -> dict:
        """Call a function on process 0 and give what it returns to all.

        Parameters
        ----------
        make : callable
            Returns a dict of tensors on the CPU and plain values.
        large : sequence of str, default ()
            Entries whose tensors stay with process 0: elsewhere they are zeros of the same
            shape that take no memory.

        Returns
        -------
        dict
            What ``make`` returned.

        Raises
        ------
        ValueError
            On every process, when ``make`` raised one.
        """
        if self.size == 1:
            return make()
        state, message, content = {}, "", b""
        if self.main:
            try:
                state = make()
            except ValueError as error:
                message = str(error)
            light = {k: _map(v, _hollow) if k in large else v for k, v in state.items()}
            buffer = io.BytesIO()
            torch.save({"message": message, "state": light}, buffer)
            content = buffer.getvalue()
        length = int(self.from_main(torch.tensor(len(content))))
        sent = torch.empty(length, dtype=torch.uint8)
        if self.main:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        sent = self.from_main(sent)
        if not self.main:
            received = torch.load(io.BytesIO(sent.numpy().tobytes()), weights_only=True)
            state, message = received["state"], received["message"]
        if message:
            raise ValueError(message)
        return state


@contextlib.contextmanager
def start(device: str | torch.device | None = None) -> Iterator[Group]:
    """Join the processes that ``torchrun`` started, and leave them at the end.

    Without ``torchrun``, and with one process, the group is this process alone.

    Parameters
    ----------
    device : str, torch.device, or None
        As in `enough.runtime.resolve_device`; on CUDA each process takes the GPU of its local
        number.

    Yields
    ------
    Group
        The processes.

    Raises
    ------
    ValueError
        If the machine has fewer GPUs than processes, or the device cannot be shared.

    Notes
    -----
    Tensors on the CPU travel with gloo, those on CUDA with NCCL. Nothing is encrypted: use
    several machines on a private network only.

    Examples
    --------
    >>> from enough.training import distributed
    >>> with distributed.start("cpu") as group:
    ...     print(group.rank, group.size, group.main)
    0 1 True
    """
    place = resolve_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Group(0, 1, place)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    if place.type == "cuda":
        if local_size > torch.cuda.device_count():
            raise ValueError(
                f"device: expected at most {torch.cuda.device_count()} processes on this machine, "
                f"one a GPU, got {local_size}"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    elif place.type != "cpu":
        raise ValueError(f"device: expected cpu or cuda with {size} processes, got {place}")
    dist.init_process_group("gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield Group(rank, size, place, local_size)
    finally:
        dist.destroy_process_group()


def parallelize(
    model: nn.Module, group: Group, how: str = "auto", *, activations: float = 0
) -> nn.Module:
    """Spread a model over the processes of a group.

    Parameters
    ----------
    model : torch.nn.Module
        The model, with parameters on any device. All processes start from the parameters and
        buffers of process 0.
    group : Group
        The processes.
    how : {"auto", "ddp", "fsdp"}, default "auto"
        "ddp" keeps a whole copy on every process. "fsdp" cuts parameters, gradients and the
        state of the optimizer into one part a process and puts one member of a
        ``torch.nn.ModuleList`` together at a time, such as a block of a `Transformer`. "auto"
        is "fsdp" where the copies do not fit; see `choose_strategy`.
    activations : float, default 0
        For "auto": bytes that a forward pass of one process keeps for its backward pass.

    Returns
    -------
    torch.nn.Module
        On the group's device: ``DistributedDataParallel`` around the model, or the model itself
        with its parameters cut; with one process the model as it is. Make the optimizer from
        its parameters.

    Raises
    ------
    ValueError
        If ``how`` is unknown or impossible (see `can_cut`), or ``activations`` negative.

    Notes
    -----
    Layers that mix the rows of a batch, such as batch norm, see the rows of one process only,
    and differ from one process in this.
    """
    check_choice(how, "how", STRATEGIES)
    if how == "auto":
        how = choose_strategy(model, group, activations)
    if group.size == 1:
        return model.to(group.device)
    if how == "ddp":
        gpus = [group.device] if group.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model.to(group.device), device_ids=gpus, gradient_as_bucket_view=True
        )
    if not can_cut(group.device):
        raise ValueError('how: expected "ddp" on a CPU with torch older than 2.7, got "fsdp"')
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in chain(model.parameters(), model.buffers()):
        dist.broadcast(tensor.detach(), 0)
    mesh = init_device_mesh(group.device.type, (group.size,))
    for module in reversed(list(model.modules())):  # inner modules before those around them
        if isinstance(module, nn.ModuleList):
            for member in module:
                fully_shard(member, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def can_cut(device: torch.device) -> bool:
    """Tell whether a model can be cut into parts on a device.

    Parameters
    ----------
    device : torch.device
        The device.

    Returns
    -------
    bool
        ``False`` for the CPU with torch older than 2.7, whose ``fully_shard`` needs CUDA.
    """
    return device.type != "cpu" or hasattr(torch.cpu.Stream, "record_event")


def training_bytes(model: nn.Module, activations: float = 0) -> int:
    """Estimate the memory that training a copy of a model with AdamW takes.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    activations : float, default 0
        Bytes that a forward pass keeps for its backward pass.

    Returns
    -------
    int
        Bytes: four times the parameters (themselves, their gradients and AdamW's two averages)
        and twice the activations (themselves and their gradients).

    Raises
    ------
    ValueError
        If ``activations`` is negative.
    """
    activations = check_number(activations, "activations", minimum=0)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return int(4 * weights + 2 * activations)


def choose_strategy(model: nn.Module, group: Group, activations: float = 0) -> str:
    """Choose between a copy of a model on every process and one cut into parts.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    group : Group
        The processes.
    activations : float, default 0
        Bytes that a forward pass of one process keeps for its backward pass.

    Returns
    -------
    {"ddp", "fsdp"}
        "ddp" if on every process `training_bytes` is at most 80 % of the memory that is free;
        processes on one machine share the memory of its CPU. "ddp" also where `can_cut` says
        no.

    Raises
    ------
    ValueError
        If ``activations`` is negative.
    """
    needed = training_bytes(model, activations)
    sharers = group.local_size if group.device.type == "cpu" else 1
    room = _SHARE_OF_MEMORY * available_memory(group.device) / sharers
    return "fsdp" if group.any(needed > room) and can_cut(group.device) else "ddp"


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside what `parallelize` returned.

    Parameters
    ----------
    model : torch.nn.Module
        A model, spread or not.

    Returns
    -------
    torch.nn.Module
        The model with its own attributes and parameter names.
    """
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def strategy_of(model: nn.Module) -> str | None:
    """Tell how a model is spread.

    Parameters
    ----------
    model : torch.nn.Module
        A model.

    Returns
    -------
    {"ddp", "fsdp"} or None
        ``None`` for a model that is not spread.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, nn.parallel.DistributedDataParallel):
        return "ddp"
    return "fsdp" if isinstance(model, FSDPModule) else None


def check_group(model: nn.Module, group: Group | None) -> Group | None:
    """Check that a model is spread over a group, or over none."""
    spread = strategy_of(model) is not None
    if group is not None and not isinstance(group, Group):
        raise ValueError(
            f"group: expected what enough.training.distributed.start yields, got {group!r}"
        )
    if spread and (group is None or group.size == 1):
        raise ValueError("group: expected the group over which the model is spread, got none")
    if group is not None and group.size > 1 and not spread:
        raise ValueError(
            f"model: expected what enough.training.distributed.parallelize returns, since the "
            f"group has {group.size} processes"
        )
    return group


def cut_batch(
    batch: Sequence[Tensor], device: torch.device, group: Group, accumulate: int
) -> list[tuple[Sequence[Tensor], float]]:
    """Return the parts of a batch that belong to this process, each with its share."""
    if group.size * accumulate == 1:
        return [([t.to(device) for t in batch], 1.0)]
    lengths = {t.shape[0] if t.ndim else 0 for t in batch}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "data: expected batches whose tensors have one first dimension, to cut them into "
            f"parts, got shapes {', '.join(str(tuple(t.shape)) for t in batch)}"
        )
    return [
        ([t[rows].to(device) for t in batch], share)
        for rows, share in group.shares(lengths.pop(), accumulate)
    ]


def gradient_sum(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Open the context of a backward pass; copies add up their gradients in the last only."""
    if isinstance(model, nn.parallel.DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def clip_gradients(parameters: Sequence[nn.Parameter], largest: float) -> None:
    """Scale the gradients down to a norm, that of all processes' parts together."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if hasattr(norm, "full_tensor"):  # torch 2.7 would add its guard against 0 to every part
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)


def whole_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, group: Group
) -> dict[str, dict[str, Any]]:
    """Put the state of a training together, as one process would have it.

    Collective. Only process 0 keeps the tensors; elsewhere one at a time is whole.

    Parameters
    ----------
    model : torch.nn.Module
        The model, spread or not.
    optimizer : torch.optim.Optimizer
        Its optimizer.
    group : Group
        The processes.

    Returns
    -------
    dict
        ``model`` and ``optimizer``, the state dicts that an unspread model and its optimizer
        would have, on the CPU; for processes other than 0, ``None`` stands for each tensor.
    """
    state = {"model": unwrap(model).state_dict(), "optimizer": optimizer.state_dict()}
    if group.size == 1:
        return state

    def whole(tensor: Tensor) -> Tensor | None:
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        return full.cpu() if group.main else None

    return _map(state, whole)


def load_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], group: Group
) -> None:
    """Load what `whole_state` returned, whatever the number of processes was.

    Collective.

    Parameters
    ----------
    model : torch.nn.Module
        The model, spread or not.
    optimizer : torch.optim.Optimizer
        Its optimizer.
    state : dict
        With ``model`` and ``optimizer``; processes other than 0 need no values, only shapes
        (see `Group.share`).
    group : Group
        The processes.

    Notes
    -----
    ``torch.distributed.checkpoint.state_dict`` does this for optimizers that hold at least one
    tensor a parameter; plain SGD holds none.
    """
    if group.size == 1:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return
    with torch.no_grad():
        for name, own in unwrap(model).state_dict().items():
            own.copy_(_place(state["model"][name], own))
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    moved = {
        index: {
            key: _place(value, parameters[index])
            if isinstance(value, Tensor) and value.ndim and value.shape == parameters[index].shape
            else value
            for key, value in entries.items()
        }
        for index, entries in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict(state["optimizer"] | {"state": moved})


def _place(value: Tensor, like: Tensor) -> Tensor:
    """Send the whole tensor of process 0 to where, and how, another one is kept."""
    whole = value.to(like.device).contiguous()
    if hasattr(like, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(whole, like.device_mesh, like.placements)
    dist.broadcast(whole, 0)
    return whole


def _hollow(tensor: Tensor) -> Tensor:
    """Zeros of the same shape that take no memory; numbers stay."""
    return tensor.new_zeros(()).expand(tensor.shape) if tensor.ndim else tensor


def _map(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to every tensor in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(v, function) for v in value)
    return value
