"""What a uniform grid looks like: its integers, and which step belongs to which entry.

A tensor is quantized as a whole (``axis=None``), one step a channel (``axis=k``), or one
step a group: the entries of a channel, flattened in order, are cut into runs of
``group_size``, the last of which may be shorter.
"""

from __future__ import annotations

import torch

from enough.runtime.validation import check_integer

__all__ = [
    "MAX_BITS",
    "MIN_BITS",
    "channel_axis",
    "channel_rows",
    "expand_qparams",
    "integer_range",
    "qparams_shape",
    "wide_dtype",
]

MIN_BITS = 2
MAX_BITS = 8


def integer_range(bits: int, symmetric: bool) -> tuple[int, int]:
    """Return the smallest and the largest integer of a grid.

    Parameters
    ----------
    bits : int
        Width, 2 to 8.
    symmetric : bool
        Whether the grid is symmetric around zero.

    Returns
    -------
    low, high : int
        −(2^(bits−1) − 1) and 2^(bits−1) − 1 for a symmetric grid, 0 and 2^bits − 1 for an
        asymmetric one. A symmetric grid leaves one code unused, so that −x is on the grid
        whenever x is.

    Raises
    ------
    ValueError
        If ``bits`` is not a whole number from 2 to 8, or ``symmetric`` is not a bool.

    Examples
    --------
    >>> from enough.quantization import integer_range
    >>> integer_range(4, symmetric=True), integer_range(4, symmetric=False)
    ((-7, 7), (0, 15))
    """
    bits = check_integer(bits, "bits", minimum=MIN_BITS, maximum=MAX_BITS)
    if not isinstance(symmetric, bool):
        raise ValueError(f"symmetric: expected True or False, got {symmetric!r}")
    if symmetric:
        return 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def wide_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: the widest given, and at least float32.

    Parameters
    ----------
    *dtypes : torch.dtype
        Floating-point dtypes.

    Returns
    -------
    torch.dtype
        ``torch.float32`` or ``torch.float64``.
    """
    return torch.float64 if torch.float64 in dtypes else torch.float32


def channel_axis(x: torch.Tensor, axis: int | None, group_size: int | None) -> int | None:
    """Check ``axis`` and ``group_size`` against a tensor.

    Parameters
    ----------
    x : torch.Tensor
        The tensor to quantize.
    axis : int or None
        Channel axis; negative values count from the end.
    group_size : int or None
        Entries in a group.

    Returns
    -------
    int or None
        The axis, zero or more.

    Raises
    ------
    ValueError
        If the axis does not exist, or ``group_size`` is below 1 or comes without an axis.
    """
    if axis is not None:
        if x.ndim == 0:
            raise ValueError(f"axis: expected None for a tensor without dimensions, got {axis!r}")
        axis = check_integer(axis, "axis", minimum=-x.ndim, maximum=x.ndim - 1) % x.ndim
    if group_size is not None:
        check_integer(group_size, "group_size", minimum=1)
        if axis is None:
            raise ValueError(
                "group_size: expected an axis that says which channels to cut, got None"
            )
    return axis


def qparams_shape(
    shape: tuple[int, ...], axis: int | None, group_size: int | None
) -> tuple[int, ...]:
    """Return the shape that scale and zero point have.

    Parameters
    ----------
    shape : tuple of int
        Shape of the tensor to quantize.
    axis : int or None
        Channel axis, zero or more.
    group_size : int or None
        Entries in a group.

    Returns
    -------
    tuple of int
        ``()``, ``(channels,)`` or ``(channels, groups)``.
    """
    if axis is None:
        return ()
    channels = shape[axis]
    if group_size is None:
        return (channels,)
    per_channel = 1
    for position, length in enumerate(shape):
        per_channel *= 1 if position == axis else length
    return (channels, -(-per_channel // group_size))


def channel_rows(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Flatten a tensor to one row a channel.

    Parameters
    ----------
    x : torch.Tensor
        Any shape and strides.
    axis : int or None
        Channel axis, zero or more; with ``None`` the tensor is one row.

    Returns
    -------
    torch.Tensor
        Shape ``(channels, entries)``; a view where the strides allow it.
    """
    if axis is None:
        return x.reshape(1, -1)
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def expand_qparams(
    values: torch.Tensor, shape: tuple[int, ...], axis: int | None, group_size: int | None = None
) -> torch.Tensor:
    """Give scales or zero points a shape that broadcasts against the quantized tensor.

    Parameters
    ----------
    values : torch.Tensor
        One entry, or the shape that `qparams_shape` names.
    shape : tuple of int
        Shape of the quantized tensor.
    axis : int or None
        Channel axis.
    group_size : int, optional
        Entries in a group.

    Returns
    -------
    torch.Tensor
        Broadcasts against ``shape``; gradients flow back to ``values``.
    """
    if values.numel() == 1:
        return values.reshape(())
    axis = axis % len(shape)
    others = [length for position, length in enumerate(shape) if position != axis]
    if group_size is None:
        return values.reshape([-1] + [1] * (len(shape) - 1 - axis))
    channels, groups = values.shape
    rows = values[:, :, None].expand(channels, groups, group_size).reshape(channels, -1)
    per_channel = torch.Size(others).numel()
    return rows[:, :per_channel].reshape(channels, *others).movedim(0, axis)
