"""Triton where it is installed; elsewhere, kernels import but do not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl

    jit: Callable[..., Any] = triton.jit
except ImportError:
    triton = tl = None

    def jit(kernel: Callable[..., Any]) -> Callable[..., Any]:
        """Leave a kernel as it is: `triton_available` keeps callers away from it."""
        return kernel
