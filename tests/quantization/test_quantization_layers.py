"""Packed layers, held against their dequantized weights in float64."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from enough.quantization import (
    Int4Linear,
    Int8Linear,
    PackedLinear,
    choose_qparams,
    dequantize,
    pack_linears,
    quantize,
)


def make_linear(inputs, outputs, bias=True, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear


def make_input(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def save_and_load(layer, blank):
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    blank.load_state_dict(torch.load(buffer, weights_only=True))
    return blank


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("inputs", "group_size"), [(1, 64), (65, 64), (64, 16), (50, 7), (9, 100)])
def test_int4_weight_is_the_dequantized_grid(inputs, group_size, symmetric):
    linear = make_linear(inputs, 5)
    layer = Int4Linear.from_float(linear, group_size=group_size, symmetric=symmetric)
    grid = {"bits": 4, "symmetric": symmetric, "axis": 0, "group_size": group_size}
    scale, zero = choose_qparams(linear.weight, **grid)
    scale = scale.to(torch.bfloat16)
    codes = quantize(linear.weight, scale, zero, **grid)
    wanted = dequantize(codes, scale.float(), zero, axis=0, group_size=group_size)
    assert torch.equal(layer.weight, wanted)
    # Half a step, and what the rounding of the scale to bfloat16 and of the zero point cost.
    step = scale.float().repeat_interleave(group_size, 1)[:, :inputs]
    assert bool(((layer.weight - linear.weight).abs() <= 1.1 * step).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 5, 64), (0, 64), (70, 64)])
@pytest.mark.parametrize("outputs", [16, 7])
def test_forward_is_the_product_with_the_dequantized_weight(shape, dtype, outputs):
    linear = make_linear(64, outputs)
    x = make_input(*shape, dtype=dtype)
    layers = {
        "int4": Int4Linear.from_float(linear, 32),
        "int8": Int8Linear.from_float(linear, dynamic=False),
    }
    for layer in layers.values():
        y = layer(x)
        assert y.shape == (*shape[:-1], outputs)
        assert y.dtype == dtype
        wanted = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        # Rounding of weights, offsets and results: a few units in the last place of the terms.
        size = functional.linear(x.double().abs(), layer.weight.double().abs()) + 4
        unit = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
        assert bool(((y - wanted).abs() <= 4 * unit * size).all())


def test_cpu_kernel_for_bfloat16_follows_the_weights():
    if not hasattr(torch, "_weight_int4pack_mm_for_cpu"):
        pytest.skip("this torch has no four-bit kernel for the CPU")
    first, second = (
        Int4Linear.from_float(make_linear(64, 16, bias=False, seed=s), 32) for s in (1, 2)
    )
    x = make_input(4, 64, dtype=torch.bfloat16)
    before, other = first(x), second(x)
    assert first._cpu_copy is not None
    assert set(first.state_dict()) == {"packed", "scale", "zero_points"}
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), other)
    assert not torch.equal(before, other)
    assert copy.deepcopy(first)._cpu_copy is None
    first.scale.mul_(2)
    torch.testing.assert_close(first(x), 2 * other)


def test_int8_product_is_the_fake_quantized_one():
    linear = make_linear(300, 40, bias=False)
    x = make_input(17, 300)
    layer = Int8Linear.from_float(linear)
    grid = {"bits": 8, "symmetric": True, "axis": 0}
    scale, zero = choose_qparams(x, **grid)
    rounded = dequantize(quantize(x, scale, zero, **grid), scale.double(), zero, axis=0)
    weight = layer.codes.double() * layer.scale.double()[:, None]
    wanted = rounded @ weight.t()
    difference = float((layer(x) - wanted).norm() / wanted.norm())
    assert difference < 1e-5  # the bound of a float32 product, not of the rounding
    with torch.no_grad():
        error = float((layer(x) - linear(x)).norm() / linear(x).norm())
    assert 1e-4 < error < 0.02


def test_int8_weights_are_within_half_a_step():
    linear = make_linear(33, 9)
    layer = Int8Linear.from_float(linear)
    assert layer.scale.shape == (9,)
    torch.testing.assert_close(layer.scale, linear.weight.abs().amax(1) / 127)
    half = layer.scale[:, None] * 0.5000001
    assert bool(((layer.weight - linear.weight).abs() <= half).all())
    columns = Int8Linear.from_float(make_linear(33, 9, bias=False))(torch.eye(33))
    torch.testing.assert_close(columns.t(), layer.weight)


def test_errors_shrink_with_bits_and_groups():
    linear = make_linear(512, 64, bias=False)
    x = make_input(32, 512)
    wanted = linear(x).detach()
    errors = [
        float((layer(x).detach() - wanted).norm() / wanted.norm())
        for layer in (
            Int8Linear.from_float(linear, dynamic=False),
            Int8Linear.from_float(linear),
            Int4Linear.from_float(linear, 32),
            Int4Linear.from_float(linear, 128),
            Int4Linear.from_float(linear, 512),
        )
    ]
    assert errors == sorted(errors)


@pytest.mark.parametrize("dynamic", [True, False])
def test_not_finite_inputs_stay_visible(dynamic):
    layers = [Int8Linear.from_float(make_linear(8, 4), dynamic=dynamic)]
    layers.append(Int4Linear.from_float(make_linear(8, 4), 4))
    for layer in layers:
        x = torch.ones(3, 8)
        x[1, 2] = float("nan")
        x[2, 3] = float("inf")
        finite = torch.isfinite(layer(x))
        assert finite[0].all()
        assert not finite[1].any()
        assert not finite[2].any()


def test_zero_rows():
    linear = make_linear(16, 4)
    with torch.no_grad():
        linear.weight[2] = 0.0
    for layer in (Int8Linear.from_float(linear), Int4Linear.from_float(linear, 8)):
        assert torch.equal(layer.weight[2], torch.zeros(16))
        torch.testing.assert_close(layer(torch.zeros(2, 16)), linear.bias.expand(2, 4))


def test_tiny_weights_do_not_vanish():
    linear = make_linear(64, 8, bias=False)
    with torch.no_grad():
        linear.weight.mul_(1e-9)  # absmax/7 would be 0 in float16
    layer = Int4Linear.from_float(linear)
    weight = linear.weight.detach()
    assert float((layer.weight - weight).norm() / weight.norm()) < 0.12


@pytest.mark.parametrize("kind", ["int4", "int4 symmetric", "int8", "int8 weights"])
def test_gradient_reaches_the_input(kind):
    linear = make_linear(24, 6)
    layer = {
        "int4": lambda: Int4Linear.from_float(linear, 8),
        "int4 symmetric": lambda: Int4Linear.from_float(linear, 8, symmetric=True),
        "int8": lambda: Int8Linear.from_float(linear),
        "int8 weights": lambda: Int8Linear.from_float(linear, dynamic=False),
    }[kind]()
    x = make_input(5, 24).requires_grad_()
    upstream = make_input(5, 6, seed=3)
    layer(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ layer.weight)
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))


def test_state_dicts_load_without_pickle():
    linear = make_linear(50, 12)
    x = make_input(3, 50)
    pairs = [
        (Int4Linear.from_float(linear, 16), Int4Linear(50, 12, group_size=16)),
        (
            Int4Linear.from_float(linear, 16, symmetric=True, scale_dtype=torch.float32),
            Int4Linear(50, 12, group_size=16, symmetric=True, scale_dtype=torch.float32),
        ),
        (Int8Linear.from_float(linear), Int8Linear(50, 12)),
    ]
    for layer, blank in pairs:
        assert not torch.equal(blank(x), layer(x))
        assert torch.equal(save_and_load(layer, blank)(x), layer(x))


def test_new_layers_are_zero():
    x = make_input(2, 10)
    for layer in (Int4Linear(10, 3, group_size=4), Int8Linear(10, 3)):
        assert torch.equal(layer(x), torch.zeros(2, 3))
    assert "group_size=4" in repr(Int4Linear(10, 3, group_size=4))
    assert "dynamic=False" in repr(Int8Linear(10, 3, dynamic=False))


def test_integers_of_a_method_are_kept():
    codes = torch.tensor([[0, 15, 7], [3, 4, 5]])
    scale = torch.tensor([[0.5, 1.0], [2.0, 3.0]])
    zero = torch.tensor([[1, 2], [3, 4]])
    layer = Int4Linear.from_integers(codes, scale, zero, group_size=2, symmetric=False)
    assert layer.weight.tolist() == [[-0.5, 7.0, 5.0], [0.0, 2.0, 3.0]]
    assert layer.zero_point.tolist() == zero.tolist()
    signed = Int4Linear.from_integers(codes - 8, scale, group_size=2, symmetric=True)
    assert signed.weight.tolist() == [[-4.0, 3.5, -1.0], [-10.0, -8.0, -9.0]]
    eight = Int8Linear.from_integers(codes * 8, torch.tensor([0.5, 2.0]))
    assert eight.weight.tolist() == [[0.0, 60.0, 28.0], [48.0, 64.0, 80.0]]
    with pytest.raises(ValueError, match="zero_point: expected one for each group"):
        Int4Linear.from_integers(codes, scale, group_size=2, symmetric=False)
    with pytest.raises(ValueError, match="codes: expected entries <= 7"):
        Int4Linear.from_integers(codes, scale, group_size=2, symmetric=True)
    with pytest.raises(ValueError, match=r"scale: expected shape \(2, 1\)"):
        Int4Linear.from_integers(codes, scale, zero, group_size=3, symmetric=False)
    with pytest.raises(ValueError, match="codes: expected entries <= 127"):
        Int8Linear.from_integers(codes * 9, torch.ones(2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12)
        self.again = self.first
        self.head = nn.Linear(12, 3)
        self.conv = nn.Conv1d(1, 1, 1)

    def forward(self, x):
        return self.head(functional.relu(self.again(functional.relu(self.first(x)))))


def test_models_are_copied_with_packed_layers():
    model = Block().eval()
    before = copy.deepcopy(model.state_dict())
    x = make_input(6, 12)
    packed = pack_linears(model, bits=4, group_size=4)
    assert isinstance(packed.first, Int4Linear)
    assert packed.first is packed.again
    assert isinstance(packed.conv, nn.Conv1d)
    assert not packed.training
    assert not packed.head.training
    assert isinstance(model.first, nn.Linear)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with torch.no_grad():
        assert float((packed(x) - model(x)).norm() / model(x).norm()) < 0.2
    kept = pack_linears(model, bits=8, skip=["head"])
    assert isinstance(kept.head, nn.Linear)
    assert isinstance(kept.first, Int8Linear)
    assert isinstance(pack_linears(model.head, bits=8), Int8Linear)
    by_size = pack_linears(model, skip=lambda name, layer: layer.out_features == 3)
    assert isinstance(by_size.head, nn.Linear)


def test_attention_layers_keep_working():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    packed = pack_linears(layer, bits=8)
    assert isinstance(packed.linear1, Int8Linear)
    x = make_input(2, 5, 16)
    with torch.no_grad():
        assert float((packed(x) - layer(x)).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 3}, "bits: expected one of 4, 8"),
        ({"skip": ["nothing"]}, r"skip: expected names of linear layers \(first, again, head\)"),
        ({"skip": lambda name, layer: True}, "model: expected at least one linear layer"),
        ({"group_size": 0}, "group_size: expected a number >= 1"),
    ],
)
def test_wrong_models_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack_linears(Block(), **arguments)


def test_wrong_layers_are_named():
    with pytest.raises(ValueError, match=r"linear: expected a torch.nn.Linear, got Conv1d"):
        Int8Linear.from_float(nn.Conv1d(1, 1, 1))
    linear = make_linear(4, 4)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    for build in (Int4Linear.from_float, Int8Linear.from_float):
        with pytest.raises(ValueError, match=r"linear.weight: expected finite numbers, got 1"):
            build(linear)
    layer = Int8Linear(4, 2)
    with pytest.raises(ValueError, match="x: expected a last axis of 4"):
        layer(torch.ones(2, 3))
    with pytest.raises(ValueError, match="x: expected a floating-point dtype"):
        layer(torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="PackedLinear defines no weight"):
        PackedLinear(2, 2)(torch.ones(1, 2))
