"""Data of an ensemble: one array for all members, or one a member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_tensor

__all__ = ["MemberData", "resolve_layout"]


@dataclass
class MemberData:
    """An array that all members share, (N, ...), or one array a member, (E, N, ...).

    Parameters
    ----------
    values : torch.Tensor
        The array.
    own : bool
        Whether the first dimension counts members.
    """

    values: Tensor
    own: bool

    @property
    def n_samples(self) -> int:
        """Number of samples a member sees."""
        return self.values.shape[1 if self.own else 0]

    def take(self, members: Tensor, rows: Tensor) -> Tensor:
        """Gather a batch a member.

        Parameters
        ----------
        members : torch.Tensor, shape (C,)
            Which members.
        rows : torch.Tensor, shape (C, B)
            Which samples, member by member.

        Returns
        -------
        torch.Tensor, shape (C, B, ...)
            The batches.
        """
        flat = self.values
        if self.own:
            rows = rows + members.unsqueeze(1) * self.values.shape[1]
            flat = flat.flatten(0, 1)
        return flat.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def whole(self, members: Tensor, rows: slice = slice(None)) -> Tensor:
        """Give every sample to every member.

        Parameters
        ----------
        members : torch.Tensor, shape (C,)
            Which members.
        rows : slice, default all
            Which samples.

        Returns
        -------
        torch.Tensor, shape (C, N, ...)
            A view without copies where the array is shared.
        """
        if self.own:
            return self.values[members, rows]
        part = self.values[rows]
        return part.expand(len(members), *part.shape)


def prepare(
    name: str, value: Any, device: torch.device, dtype: torch.dtype, finite: bool = True
) -> Tensor:
    """Turn an array into a tensor of the ensemble's device and floating-point type."""
    (tensor,), _ = as_tensors(**{name: value})
    check_tensor(tensor, name, finite=finite)
    if tensor.ndim == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a number")
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def resolve_layout(
    x: Tensor, y: Tensor | None, size: int, per_member: bool | Sequence[bool] | None
) -> tuple[MemberData, MemberData | None]:
    """Find out whether inputs and targets are shared, from their shapes or as told.

    Parameters
    ----------
    x : torch.Tensor, shape (N, ...) or (E, N, ...)
        Inputs.
    y : torch.Tensor, shape (N, ...) or (E, N, ...), or None
        Targets.
    size : int
        Number of members E.
    per_member : bool, pair of bool, or None
        Whether the first dimension counts members, for both or for inputs and targets;
        ``None`` tries all ways and takes the one that fits, and both one set a member where
        that fits too. Inputs then need three dimensions to count as one set a member.

    Returns
    -------
    x, y : MemberData
        The data; ``None`` for absent targets.

    Raises
    ------
    ValueError
        If no way fits, or more than one.
    """
    told = per_member is not None
    fits = [
        (own_x, own_y)
        for own_x, own_y in _ways(per_member, y is not None)
        if _fits(x, own_x, size, 2 if told else 3)
        and (y is None or _fits(y, own_y, size, 2))
        and (y is None or x.shape[int(own_x)] == y.shape[int(own_y)])
    ]
    shapes = f"x {tuple(x.shape)}" + ("" if y is None else f", y {tuple(y.shape)}")
    if not fits:
        raise ValueError(
            f"x, y: expected arrays of N samples, (N, ...) shared or ({size}, N, ...) one a "
            f"member, got {shapes}"
        )
    if (True, True) in fits:
        fits = [(True, True)]
    if len(fits) > 1:
        raise ValueError(
            f"per_member: expected True or False, or a pair of them, for {size} members and "
            f"{shapes}: the shapes can be read in more than one way"
        )
    own_x, own_y = fits[0]
    return MemberData(x, own_x), None if y is None else MemberData(y, own_y)


def _ways(per_member: bool | Sequence[bool] | None, targets: bool) -> Sequence[tuple[bool, bool]]:
    if per_member is None:
        ways = [(a, b) for a in (False, True) for b in (False, True)]
        return ways if targets else [w for w in ways if not w[1]]
    if isinstance(per_member, bool | np.bool_):
        return [(bool(per_member), bool(per_member))]
    pair = tuple(per_member) if isinstance(per_member, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(flag, bool | np.bool_) for flag in pair):
        raise ValueError(
            f"per_member: expected None, a bool, or a pair of them for x and y, got {per_member!r}"
        )
    return [(bool(pair[0]), bool(pair[1]))]


def _fits(tensor: Tensor, own: bool, size: int, ndim: int) -> bool:
    return not own or (tensor.ndim >= ndim and tensor.shape[0] == size)
