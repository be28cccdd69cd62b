"""Rotary position embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apply_rotary", "rotary_table"]


def rotary_table(
    length: int,
    size: int,
    *,
    base: float = 10000.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Compute cosines and sines of the rotation angles.

    Parameters
    ----------
    length : int
        Number of positions.
    size : int
        Length of a query or key, even.
    base : float, default 10000.0
        The pair i turns by :math:`\mathrm{base}^{-2i/\mathrm{size}}` radians a position.
    device : torch.device or str, optional
        Where the table lives.
    dtype : torch.dtype, default torch.float32
        Its dtype. Angles are computed in float64.

    Returns
    -------
    torch.Tensor, shape (length, size // 2, 2)
        Cosine and sine by position and pair.

    Raises
    ------
    ValueError
        If ``size`` is odd.

    References
    ----------
    .. [1] Su et al. (2021), "RoFormer", arXiv:2104.09864, section 3.2.2.
    """
    if size % 2:
        raise ValueError(f"size: expected an even number to rotate pairs, got {size}")
    pairs = torch.arange(0, size, 2, dtype=torch.float64, device="cpu") / size
    positions = torch.arange(length, dtype=torch.float64, device="cpu")
    angles = torch.outer(positions, base**-pairs)
    return torch.stack((angles.cos(), angles.sin()), -1).to(device=device, dtype=dtype)


def apply_rotary(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs ``x[..., 0:2], x[..., 2:4], ...`` by the angles of a table.

    Parameters
    ----------
    x : torch.Tensor, shape (..., size)
        Queries or keys.
    table : torch.Tensor
        A slice of a `rotary_table`, broadcastable to (..., size // 2, 2).

    Returns
    -------
    torch.Tensor, shape (..., size)
        The rotated vectors, in the dtype of the table.

    Notes
    -----
    Eager code multiplies complex numbers: one pass over memory instead of six. A compiler
    fuses the real form, and cannot fuse the complex one.
    """
    pairs = x.to(table.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() or x.device.type not in ("cpu", "cuda"):
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    product = torch.view_as_complex(pairs) * torch.view_as_complex(table)
    return torch.view_as_real(product).flatten(-2)
