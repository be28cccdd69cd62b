"""The grid of a weight matrix with channel groups, and a weight that was rounded to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.quantization.grid import integer_range
from enough.quantization.ranges import choose_qparams
from enough.quantization.uniform import dequantize, quantize
from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["RoundedWeight", "WeightGrid", "expand_columns"]


@dataclass(frozen=True)
class WeightGrid:
    """The integers and steps that a weight of shape (G, rows, columns) is rounded to.

    Parameters
    ----------
    scale : torch.Tensor, shape (G, rows, column groups) or (1, 1, 1)
        Step of each row and group of columns, above 0; one entry serves the whole weight.
    zero_point : torch.Tensor, shape of ``scale``
        The integer that stands for zero.
    bits : int
        Width, 2 to 8.
    symmetric : bool, default False
        Integers −(2^(bits−1) − 1) … 2^(bits−1) − 1 if true, 0 … 2^bits − 1 otherwise.
    group_size : int, optional
        Columns that share a step; the last group may be shorter. Default: all.

    Raises
    ------
    ValueError
        If shapes differ, a scale is not positive, a zero point is no integer of the grid, or
        a number is out of range.
    """

    scale: Tensor
    zero_point: Tensor
    bits: int
    symmetric: bool = False
    group_size: int | None = None

    def __post_init__(self) -> None:
        low, high = integer_range(self.bits, self.symmetric)
        (scale, zero), _ = as_tensors(scale=self.scale, zero_point=self.zero_point)
        check_tensor(scale, "scale", ndim=3, floating=True)
        if bool((scale <= 0).any()):
            raise ValueError(f"scale: expected entries > 0, got {scale.min().item()}")
        check_tensor(zero, "zero_point", shape=scale.shape, minimum=low, maximum=high)
        if zero.is_floating_point() and bool((zero != zero.round()).any()):
            raise ValueError("zero_point: expected whole numbers, got fractions")
        if self.group_size is not None:
            check_integer(self.group_size, "group_size", minimum=1)
        elif scale.shape[2] != 1:
            raise ValueError(
                f"scale: expected one column group without group_size, got {scale.shape[2]}"
            )
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero)

    @classmethod
    def fit(
        cls,
        weight: Any,
        *,
        bits: int,
        symmetric: bool = False,
        group_size: int | None = None,
        per_tensor: bool = False,
        method: str = "minmax",
    ) -> WeightGrid:
        """Choose the grid of a weight.

        Parameters
        ----------
        weight : array of shape (G, rows, columns) or (rows, columns)
            The weight.
        bits : int
            Width, 2 to 8.
        symmetric : bool, default False
            Which integers the grid holds.
        group_size : int, optional
            Columns that share a step. Default: all.
        per_tensor : bool, default False
            One step for the whole weight; excludes ``group_size``.
        method : str, default "minmax"
            How the range is chosen, a method of `choose_qparams`.

        Returns
        -------
        WeightGrid
            One step for each row and column group.

        Raises
        ------
        ValueError
            If an argument does not fit.
        """
        (w,), _ = as_tensors(weight=weight)
        check_tensor(w, "weight", ndim=(2, 3), floating=True)
        w = w.detach().unsqueeze(0) if w.ndim == 2 else w.detach()
        if per_tensor and group_size is not None:
            raise ValueError(
                f"group_size: expected None with one step per tensor, got {group_size!r}"
            )
        if group_size is not None:
            check_integer(group_size, "group_size", minimum=1)
        scale, zero = choose_qparams(
            w.flatten(0, 1),
            bits=bits,
            symmetric=symmetric,
            axis=None if per_tensor else 0,
            group_size=group_size,
            method=method,
        )
        shape = (1, 1, 1) if per_tensor else (*w.shape[:2], -1)
        return cls(scale.reshape(shape), zero.reshape(shape), bits, symmetric, group_size)

    @property
    def low(self) -> int:
        """Smallest integer of the grid."""
        return integer_range(self.bits, self.symmetric)[0]

    @property
    def high(self) -> int:
        """Largest integer of the grid."""
        return integer_range(self.bits, self.symmetric)[1]

    def check(self, weight: Tensor) -> None:
        """Hold the grid to the shape of a weight.

        Parameters
        ----------
        weight : torch.Tensor, shape (G, rows, columns)
            The weight.

        Raises
        ------
        ValueError
            If the grid belongs to another shape.
        """
        if self.scale.numel() == 1 and self.group_size is None:
            return
        size = self.group_size or weight.shape[2]
        wanted = (*weight.shape[:2], -(-weight.shape[2] // size))
        check_tensor(self.scale, "grid.scale", shape=wanted)

    def expand(self, columns: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Give scale and zero point a shape that broadcasts against the weight.

        Parameters
        ----------
        columns : int
            Columns of the weight.
        dtype : torch.dtype
            Floating-point type of the result.

        Returns
        -------
        scale, zero_point : torch.Tensor
            Shape (G, rows, columns), with 1 in place of a dimension that shares its step.
        """
        return tuple(
            expand_columns(v.to(dtype), self.group_size, columns)
            for v in (self.scale, self.zero_point)
        )

    def quantize(self, weight: Tensor) -> Tensor:
        """Round to the nearest integer of the grid.

        Parameters
        ----------
        weight : torch.Tensor, shape (G, rows, columns)
            The weight.

        Returns
        -------
        torch.Tensor
            Integers, int32, in the shape of ``weight``.

        Raises
        ------
        ValueError
            If the grid belongs to another shape.
        """
        self.check(weight)
        flat = quantize(
            weight.flatten(0, 1),
            *self._flat(),
            bits=self.bits,
            symmetric=self.symmetric,
            axis=0,
            group_size=self.group_size,
        )
        return flat.view(weight.shape)

    def dequantize(self, integers: Tensor) -> Tensor:
        """Map integers back to real numbers.

        Parameters
        ----------
        integers : torch.Tensor, shape (G, rows, columns)
            Integers of the grid.

        Returns
        -------
        torch.Tensor
            scale (q − zero point), in the dtype of ``scale``.

        Raises
        ------
        ValueError
            If the grid belongs to another shape.
        """
        self.check(integers)
        flat = dequantize(integers.flatten(0, 1), *self._flat(), axis=0, group_size=self.group_size)
        return flat.view(integers.shape)

    def _flat(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point as the quantizers of a matrix take them."""
        values = (self.scale, self.zero_point)
        if self.group_size is None:
            return tuple(v.flatten() for v in values)
        return tuple(v.flatten(0, 1) for v in values)


@dataclass(frozen=True)
class RoundedWeight:
    """A weight that a solver rounded to its grid.

    Parameters
    ----------
    integers : torch.Tensor, shape of the weight
        Integers of the grid, int32.
    scale : torch.Tensor, shape (G, rows, column groups) or (1, 1, 1)
        Step of the grid; `adaquant` learns it, the others return what they were given.
    zero_point : torch.Tensor, shape of ``scale``
        The integer that stands for zero.
    weight : torch.Tensor, shape of the weight
        The real numbers that the integers stand for, in the dtype of the weight given.
    bias : torch.Tensor or None
        The bias to use with it, shape (G, rows) or (rows,).
    error : float
        E ‖W x + b − Ŵ x̂ − b̂‖² over the rows of the statistics, summed over outputs.
    undecided : float, default 0.0
        `adaround` alone: share of weights whose soft rounding was still between the two
        neighbors when the steps ended, before it was made hard.
    input_scale : torch.Tensor or None, default None
        `adaquant` alone, when it learned the input's range: step of the input quantizer.
    input_zero_point : torch.Tensor or None, default None
        The integer that stands for zero at the input.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor
    weight: Tensor
    bias: Tensor | None
    error: float
    undecided: float = 0.0
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None


def expand_columns(values: Tensor, group_size: int | None, columns: int) -> Tensor:
    """Repeat one entry a column group over its columns.

    Parameters
    ----------
    values : torch.Tensor, shape (G, rows, column groups)
        Scales or zero points; gradients flow back to them.
    group_size : int or None
        Columns in a group.
    columns : int
        Columns of the weight.

    Returns
    -------
    torch.Tensor, shape (G, rows, columns) or (G, rows, 1)
        Broadcasts against the weight.
    """
    if values.shape[2] == 1:
        return values
    return values.repeat_interleave(group_size, 2)[..., :columns]
