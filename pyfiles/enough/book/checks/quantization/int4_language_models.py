"""Checks of the chapter on language models in four bits."""

import math

import torch
from scipy import special

from enough.book.exercises import Exercise
from enough.quantization import choose_qparams, dequantize, quantize

__all__ = ["CHECKS"]


def _storage(answer: float) -> bool:
    return math.isclose(float(answer), 4 + (16 + 4) / 128, rel_tol=1e-6)


def _pack(function) -> bool:
    """Two codes a byte, and the product read from them."""
    stream = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 40, generator=stream, dtype=torch.float64)
    x = torch.randn(5, 40, generator=stream, dtype=torch.float64)
    grid = {"bits": 4, "symmetric": True, "axis": 0}
    scale, zero = choose_qparams(weight, **grid)
    codes = quantize(weight, scale, zero, **grid)
    packed = ((codes[:, ::2] + 8) + 16 * (codes[:, 1::2] + 8)).to(torch.uint8)
    answer = torch.as_tensor(function(x, packed, scale), dtype=torch.float64)
    exact = x @ dequantize(codes, scale, zero, axis=0).double().mT
    return answer.shape == exact.shape and torch.allclose(answer, exact, atol=1e-9)


def _levels(answer) -> bool:
    """Sixteen levels that round normal weights in blocks of 64 with less error than NF4."""
    levels = torch.as_tensor(answer, dtype=torch.float64).sort().values
    shape_fits = levels.shape == (16,) and bool((levels.abs() <= 1).all()) and 0.0 in levels
    if not shape_fits:
        return False
    stream = torch.Generator().manual_seed(1)
    blocks = torch.randn(20_000, 64, generator=stream, dtype=torch.float64)
    return _block_error(blocks, levels) < _block_error(blocks, _normal_float())


def _normal_float() -> torch.Tensor:
    def side(n: int) -> torch.Tensor:
        return _quantiles(torch.linspace(0.9677083, 0.5, n + 1, dtype=torch.float64)[:-1])

    values = torch.cat([-side(7), torch.zeros(1, dtype=torch.float64), side(8)])
    return (values / values.max()).sort().values


def _quantiles(p: torch.Tensor) -> torch.Tensor:
    """Quantiles of the standard normal distribution."""
    return torch.from_numpy(special.ndtri(p.numpy()))


def _block_error(blocks: torch.Tensor, levels: torch.Tensor) -> float:
    scaled = blocks / blocks.abs().amax(1, keepdim=True)
    nearest = levels[torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)]
    error = (nearest - scaled) * blocks.abs().amax(1, keepdim=True)
    return float(error.square().mean())


CHECKS = {
    "storage": Exercise(_storage, "a group of 128 pays for one step and one zero point"),
    "pack": Exercise(_pack, "undo the two nibbles, subtract 8, multiply, and scale once a row"),
    "levels": Exercise(_levels, "alternate: assign weights to levels, move levels to means"),
}
