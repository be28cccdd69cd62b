"""Triton kernels for integer weights. Callers ask `triton_available` first.

Both kernels cut the result into tiles, one program a tile, and walk along the columns.
"""

from __future__ import annotations

import torch

from enough.kernels._triton import jit, tl, triton


@jit
def _int4(
    x_ptr,
    packed_ptr,
    scale_ptr,
    zero_ptr,
    out_ptr,
    rows,
    outputs,
    columns,
    groups,
    group_size,
    packed_stride,
    ONE_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    # BLOCK_H bytes of a weight row hold 2 · BLOCK_H columns. Even columns sit in the low
    # halves and odd ones in the high halves, so a tile is two products.
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m, inside_n = m < rows, n < outputs
    x_rows = x_ptr + m.to(tl.int64)[:, None] * columns
    packed_rows = packed_ptr + n.to(tl.int64)[None, :] * packed_stride
    group_rows = n.to(tl.int64) * groups
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, packed_stride, BLOCK_H):
        h = start + tl.arange(0, BLOCK_H)
        inside = (h[:, None] < packed_stride) & inside_n[None, :]
        byte = tl.load(packed_rows + h[:, None], mask=inside, other=0)
        low = (byte & 15).to(tl.float32)
        high = (byte >> 4).to(tl.float32)
        if ONE_GROUP:
            group = tl.minimum(2 * start // group_size, groups - 1)
            step = tl.load(scale_ptr + group_rows + group, mask=inside_n, other=0.0)
            zero = tl.load(zero_ptr + group_rows + group, mask=inside_n, other=0)
            even_step = step.to(tl.float32)[None, :]
            even_zero = zero.to(tl.float32)[None, :]
            odd_step = even_step
            odd_zero = even_zero
        else:
            even = group_rows[None, :] + tl.minimum(2 * h // group_size, groups - 1)[:, None]
            odd = group_rows[None, :] + tl.minimum((2 * h + 1) // group_size, groups - 1)[:, None]
            even_step = tl.load(scale_ptr + even, mask=inside, other=0.0).to(tl.float32)
            even_zero = tl.load(zero_ptr + even, mask=inside, other=0).to(tl.float32)
            odd_step = tl.load(scale_ptr + odd, mask=inside, other=0.0).to(tl.float32)
            odd_zero = tl.load(zero_ptr + odd, mask=inside, other=0).to(tl.float32)
        column = 2 * h[None, :]
        x_even = tl.load(x_rows + column, mask=inside_m[:, None] & (column < columns), other=0.0)
        x_odd = tl.load(
            x_rows + column + 1, mask=inside_m[:, None] & (column + 1 < columns), other=0.0
        )
        w_even = ((low - even_zero) * even_step).to(x_even.dtype)
        w_odd = ((high - odd_zero) * odd_step).to(x_odd.dtype)
        acc = tl.dot(x_even, w_even, acc, input_precision="ieee")
        acc = tl.dot(x_odd, w_odd, acc, input_precision="ieee")
    out = out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :]
    tl.store(out, acc.to(out_ptr.dtype.element_ty), mask=inside_m[:, None] & inside_n[None, :])


@jit
def _int8(
    a_ptr,
    b_ptr,
    a_scale_ptr,
    b_scale_ptr,
    out_ptr,
    rows,
    outputs,
    columns,
    SCALED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_m, inside_n = m < rows, n < outputs
    a_rows = a_ptr + m.to(tl.int64)[:, None] * columns
    b_rows = b_ptr + n.to(tl.int64)[None, :] * columns
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for start in range(0, columns, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_rows + k[None, :], mask=inside_m[:, None] & (k[None, :] < columns), other=0)
        b = tl.load(b_rows + k[:, None], mask=(k[:, None] < columns) & inside_n[None, :], other=0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
    out = out_ptr + m.to(tl.int64)[:, None] * outputs + n[None, :]
    mask = inside_m[:, None] & inside_n[None, :]
    if SCALED:
        a_scale = tl.load(a_scale_ptr + m, mask=inside_m, other=0.0)
        b_scale = tl.load(b_scale_ptr + n, mask=inside_n, other=0.0)
        tl.store(out, acc.to(tl.float32) * a_scale[:, None] * b_scale[None, :], mask=mask)
    else:
        tl.store(out, acc, mask=mask)


def int4(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    group_size: int,
) -> torch.Tensor:
    """Launch the four-bit product; arguments as `enough.kernels.int4_matmul` checked them."""
    x, packed = x.contiguous(), packed.contiguous()
    scale, zero_point = scale.contiguous(), zero_point.contiguous()
    rows, columns = x.shape
    outputs, groups = scale.shape
    out = x.new_empty(rows, outputs)
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    block_n = 32 if rows <= 16 else 64
    block_h = 16 if group_size < 64 else 32
    _int4[(triton.cdiv(outputs, block_n), triton.cdiv(rows, block_m))](
        x,
        packed,
        scale,
        zero_point,
        out,
        rows,
        outputs,
        columns,
        groups,
        group_size,
        packed.shape[1],
        ONE_GROUP=groups == 1 or group_size % (2 * block_h) == 0,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_H=block_h,
        num_warps=4,
        num_stages=3,
    )
    return out


def int8(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
) -> torch.Tensor:
    """Launch the int8 product; arguments as `enough.kernels.int8_matmul` checked them."""
    a, b = a.contiguous(), b.contiguous()
    rows, columns = a.shape
    outputs = b.shape[0]
    scaled = a_scale is not None
    out = torch.empty(
        rows, outputs, dtype=torch.float32 if scaled else torch.int32, device=a.device
    )
    block_m = 16 if rows <= 16 else 64
    block_n = 64
    _int8[(triton.cdiv(outputs, block_n), triton.cdiv(rows, block_m))](
        a,
        b,
        a_scale.float().contiguous() if scaled else out,
        b_scale.float().contiguous() if scaled else out,
        out,
        rows,
        outputs,
        columns,
        SCALED=scaled,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=64,
        num_warps=4,
        num_stages=3,
    )
    return out
