"""Tensors between guards: what a kernel reads or writes outside of them shows."""

from __future__ import annotations

import pytest
import torch

_GUARD = 4096  # entries on either side: wider than the rows and tiles of the tests


def _poison(dtype: torch.dtype) -> float | int:
    """NaN, or an integer that no result takes by accident."""
    if dtype.is_floating_point:
        return float("nan")
    return {torch.uint8: 0xFF, torch.int8: -128}.get(dtype, -0x5A5A5A5B)


class Guards:
    """Allocates tensors inside larger poisoned buffers and looks at the rims."""

    def __init__(self, empty):
        self._empty = empty
        self._buffers = []
        self.outputs = 0

    def allocate(self, shape, dtype, device):
        size = 1
        for length in shape:
            size *= length
        buffer = self._empty(size + 2 * _GUARD, dtype=dtype, device=device)
        buffer.fill_(_poison(dtype))
        self._buffers.append((buffer, size))
        return buffer[_GUARD : _GUARD + size].view(shape)

    def put(self, tensor):
        """Return a copy whose neighbors in memory are poison: reading them spoils a result."""
        return self.allocate(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)

    def check(self):
        for buffer, size in self._buffers:
            rims = torch.cat([buffer[:_GUARD], buffer[_GUARD + size :]])
            if buffer.dtype.is_floating_point:
                assert bool(rims.isnan().all()), "a kernel wrote outside of a tensor"
            else:
                assert bool((rims == _poison(buffer.dtype)).all()), (
                    "a kernel wrote outside of a tensor"
                )


@pytest.fixture
def guards(monkeypatch):
    """Poison everything that is allocated without a value, and look at the rims at the end."""
    found = Guards(torch.empty)

    def like(tensor, **options):
        found.outputs += 1
        return found.allocate(tensor.shape, options.get("dtype", tensor.dtype), tensor.device)

    def new(tensor, *shape, **options):
        found.outputs += 1
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return found.allocate(shape, options.get("dtype", tensor.dtype), tensor.device)

    def plain(*shape, dtype=torch.float32, device="cpu", **_):
        found.outputs += 1
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return found.allocate(shape, dtype, device)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", plain)
        patch.setattr(torch, "empty_like", like)
        patch.setattr(torch.Tensor, "new_empty", new)
        yield found
    found.check()
