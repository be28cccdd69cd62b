"""What every solver reads and returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from enough.quantization.grid import wide_dtype
from enough.quantization.statistics import LayerStatistics, OutputError
from enough.quantization.weight_grid import RoundedWeight, WeightGrid
from enough.runtime.validation import as_tensors, check_tensor


@dataclass(frozen=True)
class Problem:
    """One weight to round: checked, detached and with a group dimension in front."""

    weight: Tensor
    bias: Tensor | None
    grid: WeightGrid
    statistics: LayerStatistics
    matrix: bool

    @classmethod
    def read(cls, weight: Any, statistics: LayerStatistics, grid: WeightGrid, bias: Any) -> Problem:
        """Check the arguments of a solver."""
        for name, value, kind in (
            ("statistics", statistics, LayerStatistics),
            ("grid", grid, WeightGrid),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}")
        (w,), _ = as_tensors(weight=weight)
        check_tensor(w, "weight", ndim=(2, 3), floating=True)
        # Contiguous: a fused optimizer pairs parameters and gradients by their place in memory.
        w = w.detach().contiguous()
        matrix = w.ndim == 2
        w = w.unsqueeze(0) if matrix else w
        check_tensor(w, "weight", shape=(statistics.groups, None, statistics.columns))
        grid = replace(grid, scale=grid.scale.to(w.device), zero_point=grid.zero_point.to(w.device))
        grid.check(w)
        if bias is not None:
            (bias,), _ = as_tensors(bias=bias)
            check_tensor(bias, "bias", shape=w.shape[1:2] if matrix else w.shape[:2])
            bias = bias.detach().reshape(w.shape[:2]).to(w)
        return cls(w, bias, grid, statistics, matrix)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which plain rounding divides, so that ties fall the same way."""
        return wide_dtype(self.weight.dtype, self.grid.scale.dtype)

    def output_error(self, correct_bias: bool) -> OutputError:
        """The quadratic form, in float64 where the statistics are."""
        return self.statistics.output_error(self.weight, correct_bias=correct_bias)

    def finish(
        self,
        integers: Tensor,
        *,
        correct_bias: bool,
        grid: WeightGrid | None = None,
        bias: Tensor | None = None,
        **extra: Any,
    ) -> RoundedWeight:
        """Turn integers into the result, its error measured on what is returned."""
        grid = grid or self.grid
        integers = integers.to(self.weight.device, torch.int32)
        weight = grid.dequantize(integers).to(self.weight.dtype)
        bias = self.bias if bias is None else bias
        if correct_bias:
            bias = self.statistics.best_bias(self.weight, weight, self.bias)
        error = self.statistics.error(self.weight, self.bias, weight, bias)
        if self.matrix:
            integers, weight = integers[0], weight[0]
            bias = None if bias is None else bias[0]
        return RoundedWeight(integers, grid.scale, grid.zero_point, weight, bias, error, **extra)
