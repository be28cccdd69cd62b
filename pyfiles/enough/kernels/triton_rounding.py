"""Triton kernel: round to a grid and come back. Callers ask `triton_available` first."""

from __future__ import annotations

import torch

from enough.kernels._triton import jit, tl, triton


@jit
def _fake_quantize_rows(
    x_ptr,
    out_ptr,
    scale_ptr,
    zero_ptr,
    columns,
    blocks,
    scale_stride,
    zero_stride,
    low,
    high,
    BLOCK: tl.constexpr,
):
    # One axis of programs for rows and blocks alike: a GPU's other axes end at 65535.
    row = (tl.program_id(0) // blocks).to(tl.int64)
    offsets = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < columns
    step = tl.load(scale_ptr + row * scale_stride)
    zero = tl.load(zero_ptr + row * zero_stride)
    x = tl.load(x_ptr + row * columns + offsets, mask=inside, other=0.0)
    ratio = tl.div_rn(x, tl.zeros_like(x) + step)
    # The clip comes first: it changes no result, as its ends are whole, and keeps the sum
    # with 1.5 · 2^23 exact, which rounds half to even.
    ratio = tl.minimum(
        tl.maximum(ratio, low - zero, propagate_nan=tl.PropagateNan.ALL),
        high - zero,
        propagate_nan=tl.PropagateNan.ALL,
    )
    whole = (ratio + 12582912.0) - 12582912.0
    tl.store(out_ptr + row * columns + offsets, whole * step, mask=inside)


def fake_quantize_rows(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Launch the kernel: one program a row and block of columns."""
    x = x.contiguous()
    out = torch.empty_like(x)
    rows, columns = x.shape
    scale, zero_point = scale.reshape(-1).contiguous(), zero_point.reshape(-1).contiguous()
    block = min(1024, triton.next_power_of_2(columns))
    blocks = triton.cdiv(columns, block)
    _fake_quantize_rows[(rows * blocks,)](
        x,
        out,
        scale,
        zero_point,
        columns,
        blocks,
        int(scale.numel() > 1),
        int(zero_point.numel() > 1),
        float(low),
        float(high),
        BLOCK=block,
    )
    return out
