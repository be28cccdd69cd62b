"""Four-bit integers, two in a byte."""

from __future__ import annotations

from typing import Any

import torch

from enough.kernels import join_nibbles, split_nibbles
from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["pack_int4", "unpack_int4"]


def pack_int4(q: Any) -> Any:
    """Store integers of four bits two in a byte, along the last axis.

    Parameters
    ----------
    q : array of shape (..., n)
        Integers of any integer dtype, all in −8 … 7 or all in 0 … 15; n is 1 or more.

    Returns
    -------
    array of shape (..., ceil(n/2))
        The first of each pair sits in the low half of the byte. The dtype remembers the sign:
        uint8 where ``q`` is of an unsigned dtype or holds entries above 7, int8 otherwise. The
        last half byte is 0 where n is odd.

    Raises
    ------
    ValueError
        If ``q`` is empty or without dimensions, not of an integer dtype, or its entries do not
        fit in four bits.

    Examples
    --------
    >>> import numpy as np
    >>> from enough.quantization import pack_int4, unpack_int4
    >>> packed = pack_int4(np.array([-8, 7, 1]))
    >>> packed.nbytes, unpack_int4(packed, 3)
    (2, array([-8,  7,  1], dtype=int8))
    """
    (codes,), restore = as_tensors(q=q)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"q: expected an integer dtype, got {codes.dtype}")
    check_tensor(codes, "q")
    if codes.ndim == 0:
        raise ValueError("q: expected at least one dimension, got a single number")
    unsigned = not codes.dtype.is_signed
    codes = codes.to(torch.int64)
    smallest, largest = int(codes.min()), int(codes.max())
    if smallest < -8 or largest > 15 or (smallest < 0 and largest > 7):
        raise ValueError(f"q: expected entries in -8 … 7 or in 0 … 15, got {smallest} … {largest}")
    packed = join_nibbles(codes & 15)
    signed = not unsigned and largest <= 7
    return restore(packed.view(torch.int8) if signed else packed)


def unpack_int4(packed: Any, n: int) -> Any:
    """Read the integers that `pack_int4` stored.

    Parameters
    ----------
    packed : array of shape (..., ceil(n/2))
        Bytes, int8 or uint8.
    n : int
        Integers along the last axis, 1 or more.

    Returns
    -------
    array of shape (..., n)
        −8 … 7 as int8 for signed bytes, 0 … 15 as uint8 for unsigned ones.

    Raises
    ------
    ValueError
        If ``packed`` is not int8 or uint8, or its last axis does not hold n integers.
    """
    (values,), restore = as_tensors(packed=packed)
    if values.dtype not in (torch.int8, torch.uint8):
        raise ValueError(f"packed: expected int8 or uint8, got {values.dtype}")
    n = check_integer(n, "n", minimum=1)
    if values.ndim == 0 or values.shape[-1] != -(-n // 2):
        raise ValueError(
            f"packed: expected a last axis of {-(-n // 2)} bytes for n = {n}, "
            f"got shape {tuple(values.shape)}"
        )
    codes = split_nibbles(values.contiguous().view(torch.uint8), n)
    if values.dtype == torch.int8:
        # The sign bit of four bits has the weight −8.
        codes = (codes ^ 8).to(torch.int8) - 8
    return restore(codes)
