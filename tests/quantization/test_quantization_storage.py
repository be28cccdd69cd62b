"""Bytes by formula, held against packed tensors and saved files."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from enough.quantization import (
    Int4Linear,
    Int8Linear,
    NF4Linear,
    bits_per_weight,
    choose_qparams,
    nf4_bytes,
    pack_int4,
    quantize,
    quantized_bytes,
    state_dict_bytes,
)


@pytest.mark.parametrize("shape", [(4, 8), (3, 7), (5, 1), (2, 3, 3, 3)])
@pytest.mark.parametrize("group_size", [None, 1, 4, 5])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_formula_counts_what_packing_makes(shape, group_size, axis, symmetric):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    grid = {"bits": 4, "symmetric": symmetric, "axis": axis, "group_size": group_size}
    scale, zero = choose_qparams(x, **grid)
    q = quantize(x, scale, zero, **grid)
    rows = q.movedim(axis, 0).reshape(shape[axis], -1)
    held = [pack_int4(rows), scale.to(torch.bfloat16)]
    if not symmetric:
        held.append(pack_int4(zero.reshape(shape[axis], -1)))
    assert quantized_bytes(shape, **grid) == sum(t.nbytes for t in held)


def test_formula_by_hand():
    assert quantized_bytes((10,), bits=3, symmetric=True, axis=None) == 4 + 2
    assert quantized_bytes((10,), bits=3, symmetric=False, axis=None) == 4 + 2 + 1
    assert quantized_bytes((2, 9), bits=8, symmetric=True, scale_dtype=torch.float32) == 18 + 8
    assert quantized_bytes((2, 9), bits=2, symmetric=False, group_size=4) == 6 + 12 + 2
    assert bits_per_weight(9, 16) == 4.5


@pytest.mark.parametrize("shape", [(64, 128), (7, 65), (5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_are_as_small_as_the_formula(shape, bias):
    linear = nn.Linear(shape[1], shape[0], bias=bias)
    extra = 4 * shape[0] * bias
    for symmetric in (True, False):
        layer = Int4Linear.from_float(linear, 32, symmetric=symmetric)
        wanted = quantized_bytes(shape, bits=4, symmetric=symmetric, group_size=32)
        assert state_dict_bytes(layer) == wanted + extra
    wanted = quantized_bytes(shape, bits=8, symmetric=True, scale_dtype=torch.float32)
    assert state_dict_bytes(Int8Linear.from_float(linear)) == wanted + extra
    for double in (True, False):
        layer = NF4Linear.from_float(linear, double=double)
        assert state_dict_bytes(layer) == nf4_bytes(shape[0] * shape[1], double=double) + extra


def test_a_saved_file_is_small():
    linear = nn.Linear(512, 512, bias=False)
    sizes = {}
    layers = {"float": linear, "int4": Int4Linear.from_float(linear)}
    layers["int8"] = Int8Linear.from_float(linear)
    for name, layer in layers.items():
        buffer = io.BytesIO()
        torch.save(layer.state_dict(), buffer)
        sizes[name] = buffer.tell()
        assert state_dict_bytes(layer) <= sizes[name] <= state_dict_bytes(layer) + 8192
    assert sizes["int4"] < sizes["float"] / 7
    assert sizes["int8"] < sizes["float"] / 3.8


def test_tied_tensors_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert state_dict_bytes(model) == 2 * 80
    model[1].weight = model[0].weight
    assert state_dict_bytes(model) == 80 + 16
    assert state_dict_bytes({"a": torch.zeros(3), "b": "text"}) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (0, 3)}, "shape: expected a number >= 1"),
        ({"bits": 16}, "bits: expected a number <= 8"),
        ({"axis": 2}, "axis: expected a number <= 1"),
        ({"axis": None, "group_size": 4}, "group_size: expected an axis"),
        ({"group_size": 0}, "group_size: expected a number >= 1"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {"shape": (2, 3), "bits": 4, "symmetric": True} | changes
    with pytest.raises(ValueError, match=message):
        quantized_bytes(arguments.pop("shape"), **arguments)
    with pytest.raises(ValueError, match="state: expected a module or a mapping, got int"):
        state_dict_bytes(3)
    with pytest.raises(ValueError, match="n_weights: expected a number >= 1"):
        bits_per_weight(1, 0)
