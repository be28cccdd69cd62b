"""Matrix products with integer weights: Triton on a GPU, plain torch elsewhere.

Each product has a reference in plain torch next to it. The kernels agree with it up to the
rounding of the accumulation; the int8 product agrees exactly.
"""

from __future__ import annotations

import torch

from enough.kernels.availability import triton_available
from enough.kernels.nibbles import split_nibbles
from enough.runtime.validation import check_integer, check_tensor

__all__ = ["int4_matmul", "int4_matmul_reference", "int8_matmul", "int8_matmul_reference"]

# Products of 8-bit integers are at most 2^14, so 2^31 holds the sum of this many.
MAX_INT8_COLUMNS = 2**31 // 2**14 - 1
_EXACT_COLUMNS = 2**24 // 2**14


def int4_matmul(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    group_size: int,
) -> torch.Tensor:
    """Multiply by a matrix of four-bit codes with group scales: x Wᵀ, W = scale (q − zero_point).

    Parameters
    ----------
    x : torch.Tensor
        Shape (rows, columns); float16, bfloat16, float32 or float64.
    packed : torch.Tensor
        Codes 0 … 15, two in a byte, the even column in the low half: shape (outputs,
        ceil(columns/2)), uint8.
    scale : torch.Tensor
        Shape (outputs, ceil(columns/group_size)), floating-point.
    zero_point : torch.Tensor
        Shape of ``scale``, uint8.
    group_size : int
        Columns that share a scale; the last group may be shorter.

    Returns
    -------
    torch.Tensor
        Shape (rows, outputs), dtype of ``x``. The kernel rounds W to the dtype of ``x`` and
        sums in float32.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together.
    """
    check_tensor(x, "x", ndim=2, floating=True, finite=False, nonempty=False)
    group_size = check_integer(group_size, "group_size", minimum=1)
    columns = x.shape[1]
    outputs = packed.shape[0]
    check_tensor(packed, "packed", shape=(outputs, -(-columns // 2)))
    check_tensor(scale, "scale", shape=(outputs, -(-columns // group_size)), floating=True)
    check_tensor(zero_point, "zero_point", shape=tuple(scale.shape))
    for name, values in (("packed", packed), ("zero_point", zero_point)):
        if values.dtype != torch.uint8:
            raise ValueError(f"{name}: expected uint8, got {values.dtype}")
    if x.dtype != torch.float64 and x.shape[0] and triton_available(x.device):
        from enough.kernels import triton_matmul

        return triton_matmul.int4(x, packed, scale, zero_point, group_size)
    return int4_matmul_reference(x, packed, scale, zero_point, group_size)


def int4_matmul_reference(
    x: torch.Tensor,
    packed: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    group_size: int,
) -> torch.Tensor:
    """Do what `int4_matmul` does in plain torch.

    Parameters
    ----------
    x, packed, scale, zero_point : torch.Tensor
        As in `int4_matmul`.
    group_size : int
        As in `int4_matmul`.

    Returns
    -------
    torch.Tensor
        Shape (rows, outputs), dtype of ``x``.
    """
    columns = x.shape[1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    codes = split_nibbles(packed, columns).to(wide)
    step = scale.to(wide).repeat_interleave(group_size, dim=1)[:, :columns]
    zero = zero_point.to(wide).repeat_interleave(group_size, dim=1)[:, :columns]
    return x @ ((codes - zero) * step).to(x.dtype).t()


def int8_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply two int8 matrices exactly, a bᵀ, and scale rows and columns if asked.

    Parameters
    ----------
    a : torch.Tensor
        Shape (rows, columns), int8; at most 131071 columns, so that int32 holds every sum.
    b : torch.Tensor
        Shape (outputs, columns), int8.
    a_scale, b_scale : torch.Tensor, optional
        Shapes (rows,) and (outputs,), floating-point. Both or neither.

    Returns
    -------
    torch.Tensor
        Shape (rows, outputs): int32, exact, without scales; float32 with them.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together, or there are too many columns.
    """
    for name, values in (("a", a), ("b", b)):
        check_tensor(values, name, ndim=2, nonempty=False)
        if values.dtype != torch.int8:
            raise ValueError(f"{name}: expected int8, got {values.dtype}")
    check_tensor(b, "b", shape=(None, a.shape[1]), nonempty=False)
    if a.shape[1] > MAX_INT8_COLUMNS:
        raise ValueError(f"a: expected at most {MAX_INT8_COLUMNS} columns, got {a.shape[1]}")
    if (a_scale is None) != (b_scale is None):
        raise ValueError("a_scale, b_scale: expected both or neither, got one")
    if a_scale is not None:
        check_tensor(a_scale, "a_scale", shape=(len(a),), finite=False, nonempty=False)
        check_tensor(b_scale, "b_scale", shape=(len(b),), finite=False, nonempty=False)
    if a.numel() and b.numel() and triton_available(a.device):
        from enough.kernels import triton_matmul

        return triton_matmul.int8(a, b, a_scale, b_scale)
    product = int8_matmul_reference(a, b)
    if a_scale is None:
        return product
    return product * a_scale.float()[:, None] * b_scale.float()[None, :]


def int8_matmul_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiply two int8 matrices exactly in plain torch.

    Parameters
    ----------
    a, b : torch.Tensor
        Shapes (rows, columns) and (outputs, columns), int8.

    Returns
    -------
    torch.Tensor
        a bᵀ, int32.

    Notes
    -----
    On the CPU, ``torch._int_mm`` does it where torch has it. Elsewhere the product runs in
    float32, 1024 columns at a time: their sums stay within 2^24, up to which float32 (and the
    products of TF32) hold every integer.
    """
    if a.device.type == "cpu" and hasattr(torch, "_int_mm") and a.numel() and b.numel():
        return torch._int_mm(a.contiguous(), b.t())
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], _EXACT_COLUMNS):
        part = slice(start, start + _EXACT_COLUMNS)
        total += (a[:, part].float() @ b[:, part].float().t()).to(torch.int32)
    return total
