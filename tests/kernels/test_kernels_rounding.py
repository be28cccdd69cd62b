"""Rounding in one pass, against exact fractions and torch's operator.

On the CPU these check the reference. They check the Triton kernel on an NVIDIA GPU, and on the
CPU in Triton's interpreter (``TRITON_INTERPRET=1``), which `test_kernels_interpreter` starts.
Inputs and outputs lie between poisoned guards.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from enough.kernels import fake_quantize_rows, fake_quantize_rows_reference, triton_available

pytest_plugins = ["kernel_fixtures"]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(
                not torch.cuda.is_available() or not triton_available("cuda"),
                reason="needs an NVIDIA GPU and Triton",
            ),
        ],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shared", [True, False])
def test_rows_equal_exact_arithmetic(guards, device, shared):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 37, generator=generator) * 4
    scale = torch.rand(1 if shared else 5, generator=generator) + 0.05
    zero = torch.randint(0, 16, scale.shape, generator=generator).float()
    y = fake_quantize_rows(x.to(device), scale.to(device), zero.to(device), 0, 15).cpu()
    for row in range(5):
        s, z = (float(t.expand(5)[row]) for t in (scale, zero))
        for value, found in zip(x[row].tolist(), y[row].tolist(), strict=True):
            integer = min(max(round(Fraction(value) / Fraction(s)) + int(z), 0), 15)
            assert found == float(torch.tensor((integer - z) * 1.0) * torch.tensor(s))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (7, 3), (5, 31), (3, 1024), (2, 1025), (1, 4097), (129, 1)]
)
def test_rows_of_odd_shapes_against_float64(guards, rows, columns, shared, device):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(rows, columns, generator=generator) * 4
    scale = torch.rand(1 if shared else rows, generator=generator) + 0.05
    zero = torch.randint(0, 16, scale.shape, generator=generator).float()
    moved = [guards.put(t.to(device)) for t in (x, scale, zero)]
    before = guards.outputs
    y = fake_quantize_rows(*moved, 0, 15).cpu().double()
    if triton_available(device):
        assert guards.outputs > before  # the kernel ran, into poisoned memory
    # The quotient is off by a unit roundoff of itself, its rounding by a half, and the product
    # by a unit roundoff of itself; outside the range the nearest end is as near as can be.
    unit = 2.0**-24
    step, shift = scale.double()[:, None], zero.double()[:, None]
    nearest = x.double().clamp((0 - shift) * step, (15 - shift) * step)
    quotient = (x.double() / step).abs()
    bound = step * (0.5 + unit * quotient) + unit * y.abs()
    assert bool(((y - nearest).abs() <= bound).all())
    whole = y / step
    assert bool(((whole - whole.round()).abs() <= unit * whole.abs()).all())
    assert bool(((whole.round() + shift >= 0) & (whole.round() + shift <= 15)).all())


@pytest.mark.parametrize("device", DEVICES)
def test_ties_long_rows_and_extremes(guards, device):
    ties = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30]], device=device)
    one, none = torch.ones(1, device=device), torch.zeros(1, device=device)
    y = fake_quantize_rows(ties, one, none, -127, 127)
    assert y.tolist() == [[0.0, 2.0, 2.0, 0.0, -2.0, 127.0, -127.0]]
    x = torch.randn(3, 3000, generator=torch.Generator().manual_seed(1)).to(device)
    scale = torch.tensor([0.1, 0.3, 0.01], device=device)
    zero = torch.zeros(3, device=device)
    y = fake_quantize_rows(x, scale, zero, -7, 7)
    assert torch.equal(y, fake_quantize_rows_reference(x, scale, zero, -7, 7))
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero.int(), 0, -7, 7)
    torch.testing.assert_close(y, theirs)
    assert torch.isnan(fake_quantize_rows(ties * float("nan"), one, none, -7, 7)).all()


def test_wrong_arguments_are_named():
    x, one = torch.ones(2, 3), torch.ones(2)
    with pytest.raises(ValueError, match=r"x: expected float32, got torch.float16"):
        fake_quantize_rows(x.half(), one, one, 0, 15)
    with pytest.raises(ValueError, match=r"scale: expected shape \(2\), got \(3,\)"):
        fake_quantize_rows(x, torch.ones(3), one, 0, 15)
    with pytest.raises(ValueError, match="x: expected 2 dimension"):
        fake_quantize_rows(one, one, one, 0, 15)
