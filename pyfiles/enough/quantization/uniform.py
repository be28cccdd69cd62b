"""Uniform affine quantization: q = clip(round(x / scale) + zero_point), x ≈ scale (q − z).

References
----------
.. [1] B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
   Integer-Arithmetic-Only Inference", CVPR 2018, arXiv:1712.05877, eq. 1.
.. [2] Y. Bengio, N. Léonard and A. Courville, "Estimating or Propagating Gradients Through
   Stochastic Neurons for Conditional Computation", 2013, arXiv:1308.3432.
.. [3] S. K. Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv:1902.08153.
"""

from __future__ import annotations

from typing import Any

import torch

from enough.kernels import fake_quantize_rows
from enough.quantization.grid import (
    channel_axis,
    channel_rows,
    expand_qparams,
    integer_range,
    qparams_shape,
    wide_dtype,
)
from enough.runtime.validation import as_tensors, check_tensor

__all__ = ["dequantize", "fake_quantize", "quantize", "straight_through_quantize"]


def quantize(
    x: Any,
    scale: Any,
    zero_point: Any,
    *,
    bits: int,
    symmetric: bool,
    axis: int | None = None,
    group_size: int | None = None,
) -> Any:
    """Map real numbers to the integers of a uniform grid.

    Parameters
    ----------
    x : array of any shape
        Floating-point numbers, finite.
    scale : float or array of shape (), (channels,) or (channels, groups)
        Step of the grid, above 0; shape () without ``axis``, (channels,) with it, and
        (channels, groups) with ``group_size``. One number serves all channels.
    zero_point : int or array of the shape of ``scale``
        The integer that stands for zero, inside the grid's range.
    bits : int
        Width, 2 to 8.
    symmetric : bool
        Integers −(2^(bits−1) − 1) … 2^(bits−1) − 1 if true, 0 … 2^bits − 1 otherwise.
    axis : int, optional
        Channel axis; the whole tensor is one channel without it.
    group_size : int, optional
        Cut each channel, its other dimensions flattened in order, into groups of this many
        entries; the last may be shorter.

    Returns
    -------
    array of the shape of ``x``
        Integers, int32: wide enough that q − zero_point cannot wrap.

    Raises
    ------
    ValueError
        If ``x`` is empty, not floating-point, or holds NaN or infinity; if ``scale`` is not
        positive and finite; if ``zero_point`` is not whole or outside the range; if shapes,
        ``bits``, ``axis`` or ``group_size`` do not fit.

    Notes
    -----
    Ties round to the even integer, as torch does. Values outside the range go to its end.
    16-bit input is divided in float32.

    References
    ----------
    Jacob et al., CVPR 2018, arXiv:1712.05877, eq. 1.

    Examples
    --------
    >>> from enough.quantization import quantize
    >>> quantize([-9.0, -0.2, 0.3, 1.0], 0.25, 0, bits=4, symmetric=True)
    array([-7, -1,  1,  4], dtype=int32)
    """
    low, high = integer_range(bits, symmetric)
    (values, step, zero), restore = _read(x, scale, zero_point)
    axis = channel_axis(values, axis, group_size)
    _check_shapes(step, zero, values.shape, axis, group_size)
    _check_zero_point(zero, low, high)
    dtype = wide_dtype(values.dtype, step.dtype)
    with torch.no_grad():
        step = expand_qparams(step.to(dtype), values.shape, axis, group_size)
        zero = expand_qparams(zero.to(dtype), values.shape, axis, group_size)
        integers = torch.round(values.to(dtype) / step).add_(zero).clamp_(low, high)
        return restore(integers.to(torch.int32))


def dequantize(
    q: Any,
    scale: Any,
    zero_point: Any,
    *,
    axis: int | None = None,
    group_size: int | None = None,
) -> Any:
    """Map integers back to real numbers: scale (q − zero_point).

    Parameters
    ----------
    q : array of any shape
        Integers of any integer dtype.
    scale : float or array of shape (), (channels,) or (channels, groups)
        Step of the grid, above 0.
    zero_point : int or array of the shape of ``scale``
        The integer that stands for zero.
    axis : int, optional
        Channel axis.
    group_size : int, optional
        Entries in a group, as in `quantize`.

    Returns
    -------
    array of the shape of ``q``
        Floating-point numbers in the dtype of ``scale``. A value that this dtype cannot hold
        becomes its largest finite number, never infinity.

    Raises
    ------
    ValueError
        If ``q`` is empty or not of an integer dtype, ``scale`` is not positive and finite,
        ``zero_point`` is not whole, or shapes, ``axis`` or ``group_size`` do not fit.

    Examples
    --------
    >>> from enough.quantization import dequantize
    >>> dequantize([0, 3, 15], 0.5, 3)
    array([-1.5,  0. ,  6. ], dtype=float32)
    """
    (integers, step, zero), restore = _read(q, scale, zero_point, name="q")
    if integers.is_floating_point() or integers.is_complex() or integers.dtype == torch.bool:
        raise ValueError(f"q: expected an integer dtype, got {integers.dtype}")
    axis = channel_axis(integers, axis, group_size)
    _check_shapes(step, zero, integers.shape, axis, group_size)
    _check_zero_point(zero)
    dtype = wide_dtype(step.dtype)
    wide = expand_qparams(step.to(dtype), integers.shape, axis, group_size)
    zero = expand_qparams(zero.to(dtype), integers.shape, axis, group_size)
    return restore(_narrow((integers.to(dtype) - zero) * wide, step.dtype))


def fake_quantize(
    x: Any,
    scale: Any,
    zero_point: Any,
    *,
    bits: int,
    symmetric: bool,
    axis: int | None = None,
    group_size: int | None = None,
) -> Any:
    """Round to the grid and come back, with a gradient that training can use.

    Parameters
    ----------
    x : array of any shape
        Floating-point numbers, finite.
    scale : float or array of shape (), (channels,) or (channels, groups)
        Step of the grid, above 0.
    zero_point : int, float or array of the shape of ``scale``
        The integer that stands for zero. A floating-point zero point, as learned ones are,
        is first rounded and clipped into the grid's range, so zero stays on the grid.
    bits : int
        Width, 2 to 8.
    symmetric : bool
        Which integers the grid holds, as in `quantize`.
    axis : int, optional
        Channel axis.
    group_size : int, optional
        Entries in a group, as in `quantize`.

    Returns
    -------
    array of the shape of ``x``
        ``dequantize(quantize(x))`` in the dtype of ``x``. Applied twice it changes nothing.

    Raises
    ------
    ValueError
        As `quantize`; a zero point need not be whole.

    Notes
    -----
    The gradient with respect to x is that of the identity where x rounds to an integer of
    the grid and 0 elsewhere (straight-through [2]_). ``scale`` and ``zero_point`` receive
    theirs when they require it: with z the zero point and q the integer,

    * inside the range, ∂y/∂scale = (q − z) − x/scale and ∂y/∂z = 0,
    * outside, ∂y/∂scale = q − z and ∂y/∂z = −scale,

    which is LSQ's gradient [3]_ without its scale factor.

    References
    ----------
    .. [2] Bengio, Léonard and Courville, 2013, arXiv:1308.3432.
    .. [3] Esser et al., ICLR 2020, arXiv:1902.08153, eq. 3.

    Examples
    --------
    >>> from enough.quantization import fake_quantize
    >>> fake_quantize([-9.0, 0.3], 0.25, 0, bits=4, symmetric=True)
    array([-1.75,  0.25])
    """
    low, high = integer_range(bits, symmetric)
    (values, step, zero), restore = _read(x, scale, zero_point)
    axis = channel_axis(values, axis, group_size)
    _check_shapes(step, zero, values.shape, axis, group_size)
    if not zero.is_floating_point():
        _check_zero_point(zero, low, high)
    dtype = wide_dtype(values.dtype, step.dtype)
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (values, step, zero))
    if dtype == torch.float32 and axis in (None, 0) and group_size is None and not learning:
        rows = channel_rows(values.float(), axis)
        rounded = fake_quantize_rows(
            rows, step.float(), zero.float().round().clamp(low, high), low, high
        )
        return restore(_narrow(rounded.reshape(values.shape), values.dtype))
    step = expand_qparams(step.to(dtype), values.shape, axis, group_size)
    zero = expand_qparams(zero.to(dtype), values.shape, axis, group_size)
    rounded = straight_through_quantize(values.to(dtype), step, zero, low, high)
    return restore(_narrow(rounded, values.dtype))


def straight_through_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """Round to the grid and come back without checks, for the inside of a training loop.

    Parameters
    ----------
    x : torch.Tensor
        Floating-point numbers.
    scale, zero_point : torch.Tensor
        Same floating-point dtype as ``x``; broadcast against it (see `expand_qparams`).
    low, high : int
        Smallest and largest integer of the grid.

    Returns
    -------
    torch.Tensor
        Shape and dtype of ``x``; gradients as `fake_quantize` states them.
    """
    return _StraightThrough.apply(x, scale, zero_point, low, high)[0]


class _StraightThrough(torch.autograd.Function):
    """Rounding whose backward pass keeps one byte an entry unless the grid is learned too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The zero point moves to the ends of the range: s (clip(r + z, a, b) − z) is
        # s clip(r, a − z, b − z), exactly, as all of these are integers.
        zero = torch.round(zero_point).clamp(low, high)
        centered = torch.round(x / scale)
        clipped = torch.clamp(centered, low - zero, high - zero)
        return clipped * scale, centered == clipped

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        x, scale, zero_point, low, high = inputs
        inside = output[1]
        ctx.mark_non_differentiable(inside)
        ctx.ends = low, high
        learned = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(inside, *((x, scale, zero_point) if learned else ()))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
        inside, *grid = ctx.saved_tensors
        grad_x = gradient * inside if ctx.needs_input_grad[0] else None
        if not grid:
            return grad_x, None, None, None, None
        x, scale, zero_point = grid
        low, high = ctx.ends
        grad_scale = grad_zero = None
        if ctx.needs_input_grad[1]:
            zero = torch.round(zero_point).clamp(low, high)
            ratio = x / scale
            clipped = torch.clamp(torch.round(ratio), low - zero, high - zero)
            slope = torch.where(inside, clipped - ratio, clipped)
            grad_scale = (gradient * slope).sum_to_size(scale.shape)
        if ctx.needs_input_grad[2]:
            grad_zero = ((gradient * ~inside) * -scale).sum_to_size(zero_point.shape)
        return grad_x, grad_scale, grad_zero, None, None


def _narrow(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast without letting a number near the end of the range become infinite."""
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).to(dtype)


def _read(x: Any, scale: Any, zero_point: Any, name: str = "x") -> tuple[list[torch.Tensor], Any]:
    """Read the three arrays; a plain number as scale takes the dtype of x, or torch's default."""
    arrays = {name: x, "scale": scale, "zero_point": zero_point}
    tensors, restore = as_tensors(**arrays)
    values, step, zero = tensors
    check_tensor(values, name, floating=name == "x")
    if isinstance(scale, int | float) and not isinstance(scale, bool):
        floating = values.is_floating_point()
        step = step.to(wide_dtype(values.dtype) if floating else torch.get_default_dtype())
    check_tensor(step, "scale", floating=True)
    if bool((step <= 0).any()):
        raise ValueError(f"scale: expected entries > 0, got {step.min().item()}")
    check_tensor(zero, "zero_point")
    return [values, step.to(values.device), zero.to(values.device)], restore


def _check_shapes(
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    shape: tuple[int, ...],
    axis: int | None,
    group_size: int | None,
) -> None:
    wanted = qparams_shape(shape, axis, group_size)
    for name, values in (("scale", scale), ("zero_point", zero_point)):
        if values.numel() != 1 and tuple(values.shape) != wanted:
            raise ValueError(
                f"{name}: expected one entry or shape {wanted} for a tensor of shape "
                f"{tuple(shape)}, got {tuple(values.shape)}"
            )


def _check_zero_point(
    zero_point: torch.Tensor, low: int | None = None, high: int | None = None
) -> None:
    if zero_point.is_floating_point() and bool((zero_point != zero_point.round()).any()):
        raise ValueError("zero_point: expected whole numbers, got fractions")
    check_tensor(zero_point, "zero_point", minimum=low, maximum=high)
