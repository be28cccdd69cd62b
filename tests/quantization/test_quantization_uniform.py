"""Uniform grids, held against plain loops, torch's own operators and exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from enough.quantization import (
    choose_qparams,
    dequantize,
    expand_qparams,
    fake_quantize,
    integer_range,
    quantize,
    straight_through_quantize,
)

GRIDS = [(bits, symmetric) for bits in range(2, 9) for symmetric in (True, False)]


def by_hand(values, scales, zeros, low, high):
    """Quantize one number at a time with exact fractions; ties go to the even integer."""
    integers = []
    for value, scale, zero in zip(values, scales, zeros, strict=True):
        exact = round(Fraction(float(value)) / Fraction(float(scale))) + int(zero)
        integers.append(min(max(exact, low), high))
    return integers


def draws(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_integers_equal_exact_arithmetic(bits, symmetric):
    x = draws(200, seed=bits, dtype=torch.float64)
    scale, zero = choose_qparams(x / 2, bits=bits, symmetric=symmetric)  # half of it is clipped
    q = quantize(x, scale, zero, bits=bits, symmetric=symmetric)
    low, high = integer_range(bits, symmetric)
    assert q.tolist() == by_hand(x, [scale] * 200, [zero] * 200, low, high)
    assert {int(q.min()), int(q.max())} == {low, high}
    torch.testing.assert_close(dequantize(q, scale, zero), (q - zero) * scale, rtol=0.0, atol=0.0)


def test_ranges_of_the_integers():
    assert integer_range(4, True) == (-7, 7)
    assert integer_range(4, False) == (0, 15)
    assert integer_range(8, True) == (-127, 127)
    assert integer_range(2, False) == (0, 3)


def test_ties_round_to_even():
    q = quantize([0.5, 1.5, 2.5, -0.5, -1.5], 1.0, 0, bits=8, symmetric=True)
    assert q.tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_zero_is_on_the_grid_and_the_grid_on_itself(bits, symmetric):
    low, high = integer_range(bits, symmetric)
    integers = torch.arange(low, high + 1)
    x = draws(64, seed=3)
    scale, zero = choose_qparams(x, bits=bits, symmetric=symmetric)
    values = dequantize(integers, scale, zero)
    again = quantize(values, scale, zero, bits=bits, symmetric=symmetric)
    assert again.tolist() == integers.tolist()
    assert float(fake_quantize(torch.zeros(1), scale, zero, bits=bits, symmetric=symmetric)) == 0.0
    assert 0.0 in values.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_twice_is_once(dtype, symmetric, bits):
    x = draws(40, 33, seed=4, dtype=dtype) * 3
    params = choose_qparams(x, bits=bits, symmetric=symmetric, axis=0)
    once = fake_quantize(x, *params, bits=bits, symmetric=symmetric, axis=0)
    assert once.dtype == dtype
    twice = fake_quantize(once, *params, bits=bits, symmetric=symmetric, axis=0)
    assert torch.equal(once, twice)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_per_channel_equals_a_loop_over_channels(axis):
    x = draws(5, 4, 6, seed=5)
    scale, zero = choose_qparams(x, bits=3, symmetric=False, axis=axis)
    q = quantize(x, scale, zero, bits=3, symmetric=False, axis=axis)
    back = dequantize(q, scale, zero, axis=axis)
    assert scale.shape == (x.shape[axis],)
    for i in range(x.shape[axis]):
        alone = quantize(x.select(axis, i), scale[i], zero[i], bits=3, symmetric=False)
        assert torch.equal(q.select(axis, i), alone)
        assert torch.equal(back.select(axis, i), dequantize(alone, scale[i], zero[i]))


@pytest.mark.parametrize("group_size", [1, 4, 5, 24, 100])
@pytest.mark.parametrize("axis", [0, 1])
def test_groups_equal_a_loop_over_groups(axis, group_size):
    x = draws(3, 4, 8, seed=6)
    scale, zero = choose_qparams(x, bits=4, symmetric=False, axis=axis, group_size=group_size)
    q = quantize(x, scale, zero, bits=4, symmetric=False, axis=axis, group_size=group_size)
    back = dequantize(q, scale, zero, axis=axis, group_size=group_size)
    for channel in range(x.shape[axis]):
        flat = x.select(axis, channel).reshape(-1)
        starts = range(0, len(flat), group_size)
        assert scale.shape == (x.shape[axis], len(starts))
        for g, start in enumerate(starts):
            part = flat[start : start + group_size]
            assert scale[channel, g] == choose_qparams(part, bits=4, symmetric=False)[0]
            alone = quantize(part, scale[channel, g], zero[channel, g], bits=4, symmetric=False)
            found = q.select(axis, channel).reshape(-1)[start : start + group_size]
            assert torch.equal(found, alone)
            torch.testing.assert_close(
                back.select(axis, channel).reshape(-1)[start : start + group_size],
                (alone - zero[channel, g]) * scale[channel, g],
                rtol=0.0,
                atol=0.0,
            )


def test_strides_do_not_matter():
    x = draws(6, 10, seed=7)
    layouts = [x.t().contiguous().t(), x.repeat_interleave(2, 1)[:, ::2], x.clone()]
    wanted = None
    for view in layouts:
        params = choose_qparams(view, bits=4, symmetric=False, axis=1, group_size=4)
        q = quantize(view, *params, bits=4, symmetric=False, axis=1, group_size=4)
        wanted = q if wanted is None else wanted
        assert torch.equal(q, wanted)


def test_forward_matches_torch():
    x = draws(7, 9, seed=8)
    scale, zero = choose_qparams(x / 2, bits=4, symmetric=False, axis=0)
    ours = fake_quantize(x, scale, zero, bits=4, symmetric=False, axis=0)
    theirs = torch.fake_quantize_per_channel_affine(x, scale, zero, 0, 0, 15)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inference_and_training_round_alike(axis, dtype):
    x = draws(6, 5, 4, seed=15, dtype=dtype).transpose(0, 1)
    scale, zero = choose_qparams(x / 2, bits=4, symmetric=False, axis=axis)
    settings = {"bits": 4, "symmetric": False, "axis": axis}
    still = fake_quantize(x, scale, zero, **settings)
    moving = fake_quantize(x.clone().requires_grad_(), scale, zero, **settings)
    integers = quantize(x, scale, zero, **settings)
    assert moving.requires_grad
    assert not still.requires_grad
    assert torch.equal(still, moving)
    assert torch.equal(still, dequantize(integers, scale, zero, axis=axis).to(dtype))


def test_gradients_match_the_learnable_operator_of_torch():
    x = draws(6, 50, seed=9)
    scale, zero = choose_qparams(x / 2, bits=3, symmetric=False, axis=0)
    upstream = draws(6, 50, seed=10)
    ours = [t.clone().requires_grad_() for t in (x, scale, zero.float())]
    theirs = [t.clone().requires_grad_() for t in (x, scale, zero.float())]
    y = fake_quantize(*ours, bits=3, symmetric=False, axis=0)
    y.backward(upstream)
    z = torch._fake_quantize_learnable_per_channel_affine(*theirs, 0, 0, 7, 1.0)
    z.backward(upstream)
    assert float((ours[0].grad == 0).float().mean()) > 0.05  # some entries are outside
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_gradient_of_groups_is_that_of_their_parts():
    x = draws(2, 7, seed=11, dtype=torch.float64)
    scale, zero = choose_qparams(x / 2, bits=2, symmetric=True, axis=0, group_size=3)
    scale.requires_grad_()
    upstream = draws(2, 7, seed=12, dtype=torch.float64)
    y = fake_quantize(x, scale, zero, bits=2, symmetric=True, axis=0, group_size=3)
    y.backward(upstream)
    for c in range(2):
        for g, part in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
            step = scale.detach()[c, g].clone().requires_grad_()
            alone = fake_quantize(x[c, part], step, 0, bits=2, symmetric=True)
            alone.backward(upstream[c, part])
            torch.testing.assert_close(scale.grad[c, g], step.grad)


def test_gradient_stays_finite_when_the_ratio_overflows():
    x = torch.tensor([1e30, 0.2], requires_grad=True)
    scale = torch.tensor(1e-30, requires_grad=True)
    fake_quantize(x, scale, 0, bits=4, symmetric=True).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    assert float(scale.grad) == 14.0


def test_a_learned_zero_point_is_rounded_and_kept_inside():
    x = draws(20, seed=13)
    for learned, used in ((2.4, 2), (-3.0, 0), (99.0, 7)):
        zero = torch.tensor(learned, requires_grad=True)
        y = fake_quantize(x, 0.3, zero, bits=3, symmetric=False)
        assert torch.equal(y, fake_quantize(x, 0.3, used, bits=3, symmetric=False))


def test_inner_function_runs_under_vmap():
    x = draws(4, 5, 6, seed=14)
    scale = torch.rand(4, 5, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    zero = torch.zeros(4, 5, 1)

    def loss(a, s, z):
        return straight_through_quantize(a, s, z, -7, 7).square().sum()

    batched = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(x, scale, zero)
    for i in range(4):
        alone = torch.func.grad(loss, argnums=(0, 1))(x[i], scale[i], zero[i])
        for many, one in zip(batched, alone, strict=True):
            torch.testing.assert_close(many[i], one)


def test_what_comes_back():
    x = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
    scale, zero = choose_qparams(x, bits=4, symmetric=False)
    q = quantize(x, scale, zero, bits=4, symmetric=False)
    assert isinstance(q, np.ndarray)
    assert q.dtype == np.int32
    assert fake_quantize(x, scale, zero, bits=4, symmetric=False).dtype == np.float32
    assert dequantize(q.astype(np.uint8), scale, zero).dtype == np.float32
    half = torch.tensor([-1.0, 0.5], dtype=torch.float16)
    assert choose_qparams(half, bits=4, symmetric=True)[0].dtype == torch.float32
    assert dequantize(torch.tensor([3]), 0.5, 0).dtype == torch.float32
    # In float64, a plain number is used as it is, not rounded to float32 first.
    assert float(fake_quantize([0.3], 0.1, 0, bits=8, symmetric=True)[0]) == 0.1 * 3


def test_extreme_numbers_stay_finite():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        largest = torch.finfo(dtype).max
        x = torch.tensor([-largest, 0.0, largest], dtype=dtype)
        for bits, symmetric in GRIDS:
            scale, zero = choose_qparams(x, bits=bits, symmetric=symmetric)
            y = fake_quantize(x, scale, zero, bits=bits, symmetric=symmetric)
            assert bool(torch.isfinite(y).all())
            assert y[1] == 0
    tiny = torch.tensor([1e-45, -1e-45])
    scale, zero = choose_qparams(tiny, bits=8, symmetric=True)
    assert float(scale) > 0
    assert bool(torch.isfinite(fake_quantize(tiny, scale, zero, bits=8, symmetric=True)).all())


def test_expanded_parameters_broadcast():
    values = torch.arange(6.0).reshape(2, 3)
    expanded = expand_qparams(values, (4, 2), axis=1, group_size=2)
    assert expand_qparams(values[:, 0], (4, 2), axis=1).tolist() == [0.0, 3.0]
    assert expanded.tolist() == [[0.0, 3.0], [0.0, 3.0], [1.0, 4.0], [1.0, 4.0]]


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [1.0, NAN]}, "x: expected finite numbers, got 1"),
        ({"x": [float("inf")]}, "x: expected finite numbers, got 1"),
        ({"x": []}, "x: expected at least one entry"),
        ({"x": torch.tensor([1, 2])}, "x: expected a floating-point dtype"),
        ({"scale": 0.0}, "scale: expected entries > 0, got 0.0"),
        ({"scale": NAN}, "scale: expected finite"),
        ({"scale": [0.1, 0.2]}, r"scale: expected one entry or shape \(\)"),
        ({"zero_point": 16}, "zero_point: expected entries <= 15"),
        ({"zero_point": 0.5}, "zero_point: expected whole numbers"),
        ({"bits": 1}, "bits: expected a number >= 2"),
        ({"bits": 9}, "bits: expected a number <= 8"),
        ({"symmetric": 1}, "symmetric: expected True or False"),
        ({"axis": 1}, "axis: expected a number <= 0"),
        ({"group_size": 2}, "group_size: expected an axis"),
        ({"axis": 0, "group_size": 0}, "group_size: expected a number >= 1"),
        ({"axis": 0, "scale": [0.1, 0.2]}, r"scale: expected one entry or shape \(3,\)"),
        ({"axis": 0, "zero_point": [0, 1]}, r"zero_point: expected one entry or shape \(3,\)"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {"x": [1.0, 2.0, 3.0], "scale": 0.5, "zero_point": 0, "bits": 4}
    arguments |= {"symmetric": False} | changes
    x, scale, zero = (arguments.pop(name) for name in ("x", "scale", "zero_point"))
    with pytest.raises(ValueError, match=message):
        quantize(x, scale, zero, **arguments)


def test_wrong_integers_are_named():
    for q in ([0.5], [True, False], np.array([1j])):
        with pytest.raises(ValueError, match="q: expected an integer dtype"):
            dequantize(q, 1.0, 0)
    with pytest.raises(ValueError, match="zero_point: expected whole numbers"):
        dequantize([1], 1.0, 0.5)
    with pytest.raises(ValueError, match="axis: expected None for a tensor without dimensions"):
        choose_qparams(torch.tensor(1.0), bits=4, symmetric=True, axis=0)
