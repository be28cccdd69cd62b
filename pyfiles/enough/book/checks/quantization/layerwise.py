"""Checks of the chapter on layer-wise calibration and bit allocation."""

import torch

from enough.book.exercises import Exercise
from enough.quantization import LayerStatistics, allocate_bits, bias_correction

__all__ = ["CHECKS"]


def _images(answer: float) -> bool:
    return float(answer) == 72.0


def _correction(function) -> bool:
    """Against the library, on inputs with a mean."""
    stream = torch.Generator().manual_seed(0)
    weight, bias, rows = (
        torch.randn(shape, dtype=torch.float64, generator=stream)
        for shape in ((3, 5), (3,), (40, 5))
    )
    rows, rounded = rows + 1, weight.round()
    expected = bias_correction(weight, rounded, LayerStatistics.from_rows(rows), bias)
    answer = torch.as_tensor(function(weight, rounded, bias, rows), dtype=torch.float64)
    return answer.shape == expected.shape and torch.allclose(answer, expected, atol=1e-9)


def _allocation(function) -> bool:
    """Against the integer program, where greed is wrong and where all is cheap."""
    cost = {"a": {2: 1.0, 4: 0.6, 8: 0.0}, "b": {2: 0.5, 4: 0.1, 8: 0.05}, "c": {2: 0.3, 4: 0.0}}
    size = {"a": 100, "b": 120, "c": 40}
    return all(
        function(cost, size, budget) == allocate_bits(cost, size, budget)
        for budget in (520, 700, 1000, 1150, 1400, 3000)
    )


CHECKS = {
    "images": Exercise(_images, "each image gives one row a position of the output"),
    "correction": Exercise(_correction, "what is the mean of the error over the rows?"),
    "allocation": Exercise(_allocation, "try every combination that fits; keep the cheapest"),
}
