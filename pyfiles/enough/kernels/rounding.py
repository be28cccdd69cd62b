"""Rounding to a uniform grid and back in one pass over memory."""

from __future__ import annotations

import torch

from enough.kernels.availability import triton_available
from enough.runtime.validation import check_tensor

__all__ = ["fake_quantize_rows", "fake_quantize_rows_reference"]


def fake_quantize_rows(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Round each row to its own grid and come back, without gradients.

    Parameters
    ----------
    x : torch.Tensor
        Shape (rows, columns), float32.
    scale, zero_point : torch.Tensor
        Shape (rows,), or one entry for all rows, float32; scales above 0, zero points whole.
    low, high : int
        Smallest and largest integer of the grid.

    Returns
    -------
    torch.Tensor
        Shape (rows, columns), float32: scale (clip(round(x/scale) + z, low, high) − z). The
        kernel equals the reference entry for entry.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit.
    """
    check_tensor(x, "x", ndim=2, finite=False, nonempty=False)
    for name, values in (("x", x), ("scale", scale), ("zero_point", zero_point)):
        if values.dtype != torch.float32:
            raise ValueError(f"{name}: expected float32, got {values.dtype}")
        if name != "x" and values.numel() != 1:
            check_tensor(values, name, shape=(len(x),), finite=False)
    if x.numel() and triton_available(x.device):
        from enough.kernels import triton_rounding

        return triton_rounding.fake_quantize_rows(x, scale, zero_point, low, high)
    return fake_quantize_rows_reference(x, scale, zero_point, low, high)


def fake_quantize_rows_reference(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Do what `fake_quantize_rows` does in plain torch.

    Parameters
    ----------
    x, scale, zero_point : torch.Tensor
        As in `fake_quantize_rows`.
    low, high : int
        As in `fake_quantize_rows`.

    Returns
    -------
    torch.Tensor
        Shape (rows, columns), float32.
    """
    step, zero = scale.reshape(-1, 1), zero_point.reshape(-1, 1)
    return torch.round(x / step).clamp(low - zero, high - zero) * step
