"""NF4 against bitsandbytes' recorded answers, nearest-level search and exact counts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from enough.kernels import split_nibbles
from enough.quantization import (
    choose_qparams,
    fake_quantize,
    nf4_bytes,
    nf4_dequantize,
    nf4_levels,
    nf4_quantize,
)

ORACLES = Path(__file__).resolve().parent.parent / "oracles"
ANSWERS = json.loads((ORACLES / "quantization.json").read_text())


def load_inputs():
    path = ORACLES / "quantization_inputs.py"
    spec = importlib.util.spec_from_file_location("quantization_inputs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INPUTS = load_inputs()


def name(answer):
    return "-".join(str(v) for k, v in answer.items() if k in ("case", "block_size", "double"))


def test_levels_equal_the_table_of_bitsandbytes():
    np.testing.assert_allclose(nf4_levels().numpy(), ANSWERS["nf4_table"], rtol=0, atol=3e-7)
    quantiles = norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])
    np.testing.assert_allclose(nf4_levels()[8:].flip(0), quantiles / quantiles[0], atol=1e-6)


@pytest.mark.parametrize("answer", ANSWERS["nf4"], ids=name)
def test_codes_and_values_equal_bitsandbytes(answer):
    x = torch.from_numpy(INPUTS.weights(*answer["case"]))
    q = nf4_quantize(x, answer["block_size"], answer["double"])
    codes = split_nibbles(q.codes, x.numel()).long()
    assert torch.bincount(codes, minlength=16).tolist() == answer["code_counts"]
    checksum = int((codes * (torch.arange(len(codes)) % 997 + 1)).sum())
    assert checksum == answer["code_checksum"]
    values = nf4_dequantize(q)
    if answer["double"]:
        assert q.absmax[:24].tolist() == answer["absmax_codes"]
    scale = float(x.abs().max())
    np.testing.assert_allclose(
        values.flatten()[:24], answer["first_values"], rtol=1e-5, atol=1e-6 * scale
    )
    error = float((values - x).double().square().sum())
    if answer["double"]:  # the peer misses the nearest level of a few absmax
        assert error <= answer["squared_error"] * (1 + 1e-5)
        assert error == pytest.approx(answer["squared_error"], rel=2e-3)
    else:
        assert error == pytest.approx(answer["squared_error"], rel=1e-5)


@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (65,), (3, 5, 11), (128, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_each_entry_goes_to_its_nearest_level(shape, dtype):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    y = nf4_dequantize(nf4_quantize(x, 16))
    assert y.shape == x.shape
    assert y.dtype == dtype
    flat, got = x.double().flatten(), y.double().flatten()
    levels = nf4_levels().double()
    for start in range(0, flat.numel(), 16):
        block = flat[start : start + 16]
        absmax = block.abs().max()
        best = (block[:, None] - levels * absmax).abs().amin(1)
        found = (block - got[start : start + 16]).abs()
        slack = torch.finfo(dtype).eps if dtype != torch.float64 else 1e-7
        assert bool((found <= best + slack * absmax).all())


def test_strides_and_repeats_do_not_matter():
    x = torch.randn(24, 10, generator=torch.Generator().manual_seed(3))
    views = (x.t().contiguous().t(), x.repeat_interleave(2, 1)[:, ::2])
    for view in views:
        assert torch.equal(nf4_dequantize(nf4_quantize(view)), nf4_dequantize(nf4_quantize(x)))
    once = nf4_dequantize(nf4_quantize(x))
    assert torch.equal(nf4_dequantize(nf4_quantize(once)), once)


@pytest.mark.parametrize("double", [False, True])
def test_zeros_and_extremes(double):
    zeros = torch.zeros(200)
    assert torch.equal(nf4_dequantize(nf4_quantize(zeros, double=double)), zeros)
    x = torch.cat([torch.zeros(64), torch.randn(70, generator=torch.Generator().manual_seed(4))])
    y = nf4_dequantize(nf4_quantize(x, double=double))
    assert torch.equal(y[:64], x[:64])
    big = torch.tensor([65504.0, -65504.0], dtype=torch.float16)
    assert torch.equal(nf4_dequantize(nf4_quantize(big, double=double)), big)


@pytest.mark.parametrize("entries", [1, 63, 64, 65, 16384, 16385])
@pytest.mark.parametrize("double", [False, True])
def test_bytes_by_formula(entries, double):
    q = nf4_quantize(torch.ones(entries), double=double)
    assert q.nbytes == nf4_bytes(entries, double=double)
    assert q.bits_per_entry == 8 * q.nbytes / entries
    assert q.double is double


def test_bits_per_parameter_of_the_paper():
    entries = 64 * 256 * 1024
    assert 8 * nf4_bytes(entries) / entries == 4.5
    with_mean = 8 * nf4_bytes(entries, double=True)
    assert (with_mean - 32) / entries == 4.126953125


def test_error_on_normal_weights():
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(5))

    def relative(y):
        return float((y - x).norm() / x.norm())

    single = relative(nf4_dequantize(nf4_quantize(x)))
    double = relative(nf4_dequantize(nf4_quantize(x, double=True)))
    assert abs(double - single) < 1e-3
    grid = {"bits": 4, "symmetric": False, "axis": 0, "group_size": 64}
    uniform = relative(fake_quantize(x, *choose_qparams(x, **grid), **grid))
    # Sixteen quantile levels and sixteen equal steps with a zero point are close in squared error.
    assert abs(single / uniform - 1) < 0.05
    rows = {"bits": 4, "symmetric": True, "axis": 0}
    assert relative(fake_quantize(x, *choose_qparams(x, **rows), **rows)) > 1.3 * single


def test_numpy_comes_back_as_numpy():
    x = np.linspace(-1, 1, 9)
    y = nf4_dequantize(nf4_quantize(x))
    assert isinstance(y, np.ndarray)
    assert y.dtype == np.float64
    levels = nf4_levels()
    levels[0] = 5.0
    assert float(nf4_levels()[0]) == -1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [float("nan")]}, "x: expected finite numbers"),
        ({"x": [1e300]}, "x: expected entries that float32 can hold"),
        ({"x": []}, "x: expected at least one entry"),
        ({"x": [1]}, "x: expected a floating-point dtype"),
        ({"x": [1.0], "block_size": 0}, "block_size: expected a number >= 1"),
        ({"x": [1.0], "double": 1}, "double: expected True or False"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nf4_quantize(**arguments)


def test_wrong_tensor_is_named():
    with pytest.raises(ValueError, match="q: expected an NF4Tensor, got list"):
        nf4_dequantize([1.0])


@pytest.mark.parametrize("answer", ANSWERS["int8"], ids=name)
def test_eight_bit_rows_equal_quanto(answer):
    x = torch.from_numpy(INPUTS.weights(*answer["case"]))
    grid = {"bits": 8, "symmetric": True, "axis": 0}
    scale, zero = choose_qparams(x, **grid)
    y = fake_quantize(x, scale, zero, **grid)
    np.testing.assert_allclose(scale[:8], answer["scale"], rtol=1e-6)
    np.testing.assert_allclose(y.flatten()[:24], answer["first_values"], rtol=1e-5, atol=1e-7)
    error = float((y - x).double().square().sum())
    assert error == pytest.approx(answer["squared_error"], rel=1e-4)
