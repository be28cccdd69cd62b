"""A hint to the C library's memory allocator."""

from __future__ import annotations

import torch

__all__ = ["keep_freed_memory"]

_LARGEST = 31 * 2**20  # glibc adapts to freed blocks below 32 MiB


def keep_freed_memory() -> None:
    """Let the process keep memory that every update frees and asks for again.

    glibc takes large blocks from the system and gives them back when freed, and the system
    clears each page on its next use. In training, where every update allocates the same
    tensors of some MiB, that can cost more than the arithmetic. The size from which it does
    so follows the largest block freed so far: freeing one block, which is never touched,
    raises it. Other allocators take no notice.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
