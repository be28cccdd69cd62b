"""How many bytes a quantized tensor takes: by formula, and by counting a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from enough.quantization.grid import integer_range, qparams_shape
from enough.runtime.validation import check_integer

__all__ = ["bits_per_weight", "quantized_bytes", "state_dict_bytes"]


def quantized_bytes(
    shape: Sequence[int],
    *,
    bits: int,
    symmetric: bool,
    axis: int | None = 0,
    group_size: int | None = None,
    scale_dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Return the bytes that a uniformly quantized tensor takes when packed.

    Parameters
    ----------
    shape : sequence of int
        Shape of the tensor, every length 1 or more.
    bits : int
        Width of a code, 2 to 8.
    symmetric : bool
        Whether the zero point is fixed, so that none is stored.
    axis : int or None, default 0
        Channel axis; with ``None`` one grid serves the whole tensor.
    group_size : int, optional
        Entries of a channel that share a grid; the whole channel by default.
    scale_dtype : torch.dtype, default torch.bfloat16
        How the scales are stored.

    Returns
    -------
    int
        C ⌈K·bits/8⌉ + C·G·(bytes of a scale) + C ⌈G·bits/8⌉ for C channels of K entries in G
        groups; the last term, the packed zero points, is absent if ``symmetric``. Each channel
        begins with a whole byte.

    Raises
    ------
    ValueError
        If a length is below 1, or ``bits``, ``axis`` or ``group_size`` is out of range.

    Examples
    --------
    >>> from enough.quantization import quantized_bytes
    >>> quantized_bytes((512, 1024), bits=4, symmetric=False, group_size=64)
    282624
    """
    integer_range(bits, symmetric)
    shape = tuple(check_integer(length, "shape", minimum=1) for length in shape)
    if group_size is not None:
        group_size = check_integer(group_size, "group_size", minimum=1)
        if axis is None:
            raise ValueError(
                "group_size: expected an axis that says which channels to cut, got None"
            )
    if axis is not None:
        axis = check_integer(axis, "axis", minimum=-len(shape), maximum=len(shape) - 1)
        axis %= len(shape)
    channels = 1 if axis is None else shape[axis]
    grids = math.prod(qparams_shape(shape, axis, group_size))
    entries = math.prod(shape) // channels
    total = channels * _bytes(entries * bits) + grids * scale_dtype.itemsize
    if not symmetric:
        total += channels * _bytes(grids // channels * bits)
    return total


def bits_per_weight(total_bytes: int, n_weights: int) -> float:
    """Return the stored bits for each weight.

    Parameters
    ----------
    total_bytes : int
        Bytes stored, 0 or more.
    n_weights : int
        Number of weights, 1 or more.

    Returns
    -------
    float
        8 · ``total_bytes`` / ``n_weights``.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    total_bytes = check_integer(total_bytes, "total_bytes", minimum=0)
    return 8.0 * total_bytes / check_integer(n_weights, "n_weights", minimum=1)


def state_dict_bytes(state: torch.nn.Module | Mapping[str, Any]) -> int:
    """Count the bytes of the tensors in a state dict.

    Parameters
    ----------
    state : torch.nn.Module or mapping
        A module, or what its ``state_dict()`` returned. Entries that are no tensors count 0.

    Returns
    -------
    int
        Bytes of all entries; a tensor that appears under two names (tied weights) counts once.

    Raises
    ------
    ValueError
        If ``state`` is neither.

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import state_dict_bytes
    >>> state_dict_bytes(torch.nn.Linear(8, 4))
    144
    """
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise ValueError(f"state: expected a module or a mapping, got {type(state).__name__}")
    seen = {}
    for value in state.values():
        if isinstance(value, torch.Tensor):
            place = (value.device, value.data_ptr(), value.numel(), value.dtype)
            seen[place] = value.numel() * value.element_size()
    return sum(seen.values())


def _bytes(n_bits: int) -> int:
    return -(-n_bits // 8)
