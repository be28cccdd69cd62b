"""Integer matrix products against float64 and int64.

On the CPU these check the references. They check the Triton kernels on an NVIDIA GPU, and on the
CPU in Triton's interpreter (``TRITON_INTERPRET=1``), which `test_kernels_interpreter` starts.
Inputs and outputs lie between poisoned guards.
"""

from __future__ import annotations

import pytest
import torch

from enough.kernels import (
    int4_matmul,
    int4_matmul_reference,
    int8_matmul,
    int8_matmul_reference,
    join_nibbles,
    split_nibbles,
    triton_available,
)

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


# Rows, columns, outputs and group size: one entry, one tile, beside a tile, many tiles; groups
# that end inside a byte, inside a tile, at a tile, and one group for all.
SHAPES = [
    (1, 1, 1, 1),
    (1, 128, 32, 64),
    (2, 31, 3, 1),
    (3, 70, 33, 32),
    (5, 129, 31, 3),
    (17, 65, 5, 7),
    (33, 200, 65, 96),
    (40, 130, 70, 128),
    (65, 63, 2, 1000),
]


def roundoff(dtype, device="cpu"):
    """Unit roundoff: half an epsilon; a GPU's tensor cores may cut instead of rounding."""
    return torch.finfo(dtype).eps / (2 if device == "cpu" else 1)


def gamma(n, unit):
    """n u / (1 − n u): n rounded operations in a row are off by this factor at most."""
    return n * unit / (1 - n * unit)


def problem(rows, columns, outputs, group_size, dtype, device, scale_dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    groups = -(-columns // group_size)
    codes = torch.randint(0, 16, (outputs, columns), generator=generator, dtype=torch.uint8)
    zero = torch.randint(0, 16, (outputs, groups), generator=generator, dtype=torch.uint8)
    scale = torch.rand(outputs, groups, generator=generator) + 0.1
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    packed = join_nibbles(codes)
    if columns % 2:
        packed[:, -1] |= 0xF0  # the half that belongs to no column
    return codes, [t.to(device) for t in (x, packed, scale.to(scale_dtype), zero)]


def test_nibbles():
    codes = torch.tensor([[1, 2, 15], [0, 9, 4]], dtype=torch.uint8)
    packed = join_nibbles(codes)
    assert packed.tolist() == [[0x21, 0x0F], [0x90, 0x04]]
    assert torch.equal(split_nibbles(packed, 3), codes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "columns", "outputs", "group_size"), SHAPES)
def test_four_bit_product(guards, rows, columns, outputs, group_size, dtype, scale_dtype, device):
    if dtype == torch.bfloat16 and device == "cpu" and triton_available("cpu"):
        pytest.skip("Triton's interpreter multiplies no bfloat16")
    codes, moved = problem(rows, columns, outputs, group_size, dtype, device, scale_dtype)
    x, packed, scale, zero = (guards.put(t) for t in moved)
    k = torch.arange(columns) // group_size
    weight = (codes.double() - zero.cpu().double()[:, k]) * scale.cpu().double()[:, k]
    exact = x.double().cpu() @ weight.t()
    before = guards.outputs
    y = int4_matmul(x, packed, scale, zero, group_size)
    assert y.dtype == dtype
    assert y.device.type == device
    if triton_available(device):
        assert guards.outputs > before  # the kernel ran, into poisoned memory
    # A weight rounds twice, in float32 (a bfloat16 scale times a small integer is exact) and to
    # dtype; a product and its sums round at most once a column; the result rounds to dtype.
    # What is below the normal numbers of dtype is off by at most its smallest step.
    single, unit = roundoff(torch.float32, device), roundoff(dtype, device)
    grown = (1 + gamma(columns, single)) * (1 + single * (scale_dtype == torch.float32))
    grown *= (1 + unit) ** (0 if dtype == torch.float32 else 2)
    size = x.double().cpu().abs() @ weight.abs().t()
    info = torch.finfo(dtype)
    bound = (grown - 1) * size + info.smallest_normal * info.eps
    assert bool(((y.double().cpu() - exact).abs() <= bound).all())


def test_float64_uses_the_reference():
    codes, (x, packed, scale, zero) = problem(3, 20, 4, 8, torch.float64, "cpu")
    y = int4_matmul(x, packed, scale, zero, 8)
    step = scale.double().repeat_interleave(8, 1)[:, :20]
    shift = zero.double().repeat_interleave(8, 1)[:, :20]
    torch.testing.assert_close(y, x @ ((codes.double() - shift) * step).t())
    assert torch.equal(y, int4_matmul_reference(x, packed, scale, zero, 8))
    assert int4_matmul(x[:0], packed, scale, zero, 8).shape == (0, 4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("rows", "columns", "outputs"),
    [(1, 1, 1), (1, 64, 32), (3, 7, 5), (17, 129, 65), (20, 200, 70), (65, 33, 1), (2, 2049, 3)],
)
def test_eight_bit_product_is_exact(guards, rows, columns, outputs, device):
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(-128, 128, (rows, columns), generator=generator).to(torch.int8)
    b = torch.randint(-128, 128, (outputs, columns), generator=generator).to(torch.int8)
    a[-1], b[-1] = 127, 127
    exact = a.long() @ b.long().t()
    scales = torch.rand(rows, generator=generator), torch.rand(outputs, generator=generator)
    a, b, *scales = (guards.put(t.to(device)) for t in (a, b, *scales))
    before = guards.outputs
    y = int8_matmul(a, b)
    assert y.dtype == torch.int32
    assert torch.equal(y.cpu().long(), exact)
    scaled = int8_matmul(a, b, *scales)
    assert scaled.dtype == torch.float32
    if triton_available(device):
        assert guards.outputs >= before + 2  # the kernels ran, into poisoned memory
    # Three roundings: the sum to float32, and two products.
    left, right = (s.cpu().double() for s in scales)
    wanted = exact.double() * left[:, None] * right
    bound = gamma(3, roundoff(torch.float32)) * wanted.abs()
    assert bool(((scaled.cpu().double() - wanted).abs() <= bound).all())


def test_eight_bit_product_without_the_operator(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    a = torch.randint(-128, 128, (4, 2501), generator=generator).to(torch.int8)
    b = torch.randint(-128, 128, (6, 2501), generator=generator).to(torch.int8)
    a[0], b[0] = 127, 127  # the sum is odd and above 2^24: float32 alone would miss it
    fast = int8_matmul_reference(a, b)
    monkeypatch.delattr(torch, "_int_mm", raising=False)
    assert torch.equal(int8_matmul_reference(a, b), fast)
    assert int8_matmul(a[:0], b).shape == (0, 6)


@pytest.mark.parametrize("device", DEVICES)
def test_largest_sum_fits(device):
    a = torch.full((1, 131071), -128, dtype=torch.int8, device=device)
    assert int(int8_matmul(a, a)) == 131071 * 2**14
    wider = torch.full((1, 131072), -128, dtype=torch.int8, device=device)
    with pytest.raises(ValueError, match="a: expected at most 131071 columns, got 131072"):
        int8_matmul(wider, wider)


def test_wrong_arguments_are_named():
    _, (x, packed, scale, zero) = problem(3, 20, 4, 8, torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"packed: expected shape \(4, 10\), got \(4, 9\)"):
        int4_matmul(x, packed[:, :9], scale, zero, 8)
    with pytest.raises(ValueError, match=r"scale: expected shape \(4, 2\)"):
        int4_matmul(x, packed, scale, zero, 10)
    with pytest.raises(ValueError, match=r"zero_point: expected uint8, got torch.int32"):
        int4_matmul(x, packed, scale, zero.int(), 8)
    with pytest.raises(ValueError, match="x: expected a floating-point dtype"):
        int4_matmul(x.int(), packed, scale, zero, 8)
    a = torch.ones(2, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"b: expected int8, got torch.int32"):
        int8_matmul(a, a.int())
    with pytest.raises(ValueError, match=r"b: expected shape \(any, 3\)"):
        int8_matmul(a, a[:, :2])
    with pytest.raises(ValueError, match="a_scale, b_scale: expected both or neither"):
        int8_matmul(a, a, torch.ones(2))
    with pytest.raises(ValueError, match=r"b_scale: expected shape \(2\)"):
        int8_matmul(a, a, torch.ones(2), torch.ones(3))


def test_kernels_are_not_asked_for_where_they_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_available("cpu")
    assert not triton_available("mps")
    if not torch.cuda.is_available():
        assert not triton_available("cuda")
