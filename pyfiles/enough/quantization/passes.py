"""Calibration data as batches, and passes of a model that look at one layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["Batch", "call_counts", "layer_inputs", "logits", "outputs", "read_batches"]


@dataclass(frozen=True)
class Batch:
    """What one call of a model takes.

    Parameters
    ----------
    args : tuple
        Positional arguments.
    kwargs : mapping from str
        Keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        """Call a model.

        Parameters
        ----------
        model : torch.nn.Module
            The model.

        Returns
        -------
        object
            What it returns.
        """
        return model(*self.args, **self.kwargs)


def read_batches(
    model: nn.Module, data: Any, *, batch_size: int = 256, name: str = "calibration_data"
) -> list[Batch]:
    """Turn calibration data into batches on the model's device.

    Parameters
    ----------
    model : torch.nn.Module
        The model that will read them.
    data : array, mapping, or iterable of batches
        An array holds samples along its first dimension and is cut into batches. A mapping is
        one batch of keyword arguments. Else an iterable (a list, a ``DataLoader``) gives the
        batches: arrays, mappings, or tuples of arguments, of which the model gets as many as
        its forward pass requires; so labels that come along are left out.
    batch_size : int, default 256
        Samples in a batch, for an array.
    name : str, default "calibration_data"
        What to call the data in messages.

    Returns
    -------
    list of Batch
        At least one. Floating-point arrays take the dtype of the model's parameters.

    Raises
    ------
    ValueError
        If there are no data, a batch is of another kind, or holds NaN or infinity.
    """
    batch_size = check_integer(batch_size, "batch_size", minimum=1)
    if isinstance(data, Tensor | np.ndarray):
        (samples,), _ = as_tensors(**{name: data})
        check_tensor(samples, name, finite=False)
        if samples.ndim == 0:
            raise ValueError(f"{name}: expected samples along a first dimension, got one number")
        items: Iterable[Any] = samples.split(batch_size)
    elif isinstance(data, Mapping):
        items = [data]
    elif isinstance(data, Iterable) and not isinstance(data, str):
        items = data
    else:
        raise ValueError(f"{name}: expected an array or batches, got {type(data).__name__}")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    n_required = _required_arguments(model)

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, Tensor | np.ndarray):
            return value
        (tensor,), _ = as_tensors(**{where: value})
        check_tensor(tensor, where)
        dtype = parameter.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(parameter.device, dtype)

    batches = []
    for i, item in enumerate(items):
        where = f"{name}: batch {i}"
        if isinstance(item, Batch):
            batches.append(item)
        elif isinstance(item, Tensor | np.ndarray):
            batches.append(Batch((read(item, where),)))
        elif isinstance(item, Mapping):
            batches.append(Batch((), {key: read(v, f"{where}, {key}") for key, v in item.items()}))
        elif isinstance(item, list | tuple) and item:
            batches.append(Batch(tuple(read(v, where) for v in item[:n_required])))
        else:
            raise ValueError(
                f"{where}: expected an array, a mapping or a tuple of arguments, "
                f"got {type(item).__name__}"
            )
    if not batches:
        raise ValueError(f"{name}: expected at least one batch, got none")
    return batches


def _required_arguments(model: nn.Module) -> int | None:
    """Count the positional arguments a forward pass cannot do without; ``None`` for any."""
    kinds = inspect.Parameter
    count = 0
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is kinds.VAR_POSITIONAL:
            return count or None
        positional = parameter.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        count += positional and parameter.default is kinds.empty
    return max(count, 1)


class _Enough(Exception):
    """A pass has seen what it came for."""


@torch.no_grad()
def call_counts(model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch) -> dict[str, int]:
    """Run a model once and count the calls of its modules.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    modules : mapping from str to torch.nn.Module
        The modules to watch.
    batch : Batch
        What to run it on.

    Returns
    -------
    dict from str to int
        Calls, in the order of the first one; modules that were not called are absent.
    """
    counts: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(*_: Any) -> None:
            counts[name] = counts.get(name, 0) + 1

        handles.append(module.register_forward_pre_hook(hook))

    try:
        for name, module in modules.items():
            watch(name, module)
        batch.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return counts


@torch.no_grad()
def layer_inputs(model: nn.Module, module: nn.Module, batch: Batch, calls: int = 1) -> list[Tensor]:
    """Run a model up to a layer and return what the layer is given.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    module : torch.nn.Module
        The layer, somewhere in the model.
    batch : Batch
        What to run it on.
    calls : int, default 1
        Calls of the layer in one run; the run ends at the last.

    Returns
    -------
    list of torch.Tensor
        The first argument of each call.
    """
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else next(iter(kwargs.values())))
        if len(seen) == calls:
            raise _Enough

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        batch.run(model)
    except _Enough:
        pass
    finally:
        handle.remove()
    return seen


def logits(output: Any) -> Tensor:
    """Find the tensor of scores in what a model returns.

    Parameters
    ----------
    output : torch.Tensor, object with ``logits``, mapping with ``"logits"``, or tuple
        What a model returned; of a tuple the first entry counts.

    Returns
    -------
    torch.Tensor
        The scores.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, list | tuple) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise ValueError(
            f"model: expected a tensor of scores as output, got {type(output).__name__}"
        )
    return found


@torch.no_grad()
def outputs(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    """Run a model on every batch and return its scores.

    Parameters
    ----------
    model : torch.nn.Module
        The model; it is run in the mode it is in.
    batches : list of Batch
        What to run it on.

    Returns
    -------
    list of torch.Tensor
        Scores of each batch.

    Raises
    ------
    ValueError
        If the output holds no tensor of scores.
    """
    return [logits(batch.run(model)) for batch in batches]
