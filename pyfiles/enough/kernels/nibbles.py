"""Two integers of four bits in one byte; the first of each pair sits in the low half."""

from __future__ import annotations

import torch

__all__ = ["join_nibbles", "split_nibbles"]


def join_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Pack pairs of neighbors along the last axis.

    Parameters
    ----------
    codes : torch.Tensor
        Shape (..., n), n of 1 or more, any integer dtype; the low four bits count.

    Returns
    -------
    torch.Tensor
        Shape (..., ceil(n/2)), uint8. An odd last code is paired with 0.
    """
    low = codes[..., 0::2].to(torch.uint8) & 15
    high = codes[..., 1::2].to(torch.uint8) & 15
    packed = low.clone()
    packed[..., : high.shape[-1]] |= high << 4
    return packed


def split_nibbles(packed: torch.Tensor, n: int) -> torch.Tensor:
    """Undo `join_nibbles`.

    Parameters
    ----------
    packed : torch.Tensor
        Shape (..., ceil(n/2)), uint8.
    n : int
        Codes along the last axis.

    Returns
    -------
    torch.Tensor
        Shape (..., n), uint8, in 0 … 15.
    """
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)[..., :n]
