"""Ranges of grids, held against NumPy, exhaustive search and a second, slower formulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enough.quantization import (
    RANGE_METHODS,
    choose_qparams,
    fake_quantize,
    integer_range,
    qparams_from_range,
    quantize,
)


def draws(*shape, seed=0, tails=False):
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2, shape) if tails else rng.standard_normal(shape)
    return torch.as_tensor(values)


def error(x, scale, zero, bits, symmetric, norm=2.0):
    y = fake_quantize(x, scale, zero, bits=bits, symmetric=symmetric)
    return float((y - x).abs().pow(norm).sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_minmax_by_formula(bits):
    x = draws(50) + 0.7
    lowest, highest = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale, zero = choose_qparams(x, bits=bits, symmetric=False)
    assert float(scale) == pytest.approx((highest - lowest) / (2**bits - 1), rel=1e-14)
    assert int(zero) == round(-lowest / float(scale))
    scale, zero = choose_qparams(x, bits=bits, symmetric=True)
    assert float(scale) == pytest.approx(float(x.abs().max()) / (2 ** (bits - 1) - 1), rel=1e-14)
    assert int(zero) == 0


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_difficult_channels_are_legal(method, symmetric):
    spike = torch.zeros(40, dtype=torch.float64)
    spike[7] = -3.0
    channels = torch.stack(
        [
            torch.zeros(40, dtype=torch.float64),
            torch.full((40,), 2.5, dtype=torch.float64),
            torch.full((40,), -2.5, dtype=torch.float64),
            draws(40).abs() + 1.0,
            -draws(40).abs() - 1.0,
            spike,
        ]
    )
    scale, zero = choose_qparams(channels, bits=4, symmetric=symmetric, axis=0, method=method)
    low, high = integer_range(4, symmetric)
    assert bool((scale > 0).all())
    assert bool(((zero >= low) & (zero <= high)).all())
    y = fake_quantize(channels, scale, zero, bits=4, symmetric=symmetric, axis=0)
    assert torch.equal(y[0], channels[0])
    exact = [1, 2] if method == "percentile" else [1, 2, 5]  # a percentile may clip the spike
    torch.testing.assert_close(y[exact], channels[exact], rtol=1e-12, atol=0.0)
    zeros = quantize(torch.zeros_like(channels), scale, zero, bits=4, symmetric=symmetric, axis=0)
    assert torch.equal(zeros, zero[:, None].expand_as(zeros))


@pytest.mark.parametrize("percentile", [75.0, 99.0, 99.9, 100.0])
def test_percentile_agrees_with_numpy(percentile):
    x = draws(3, 501, tails=True)
    scale, zero = choose_qparams(
        x, bits=8, symmetric=False, axis=0, method="percentile", percentile=percentile
    )
    high = np.percentile(x.numpy(), percentile, axis=1)
    low = np.percentile(x.numpy(), 100.0 - percentile, axis=1)
    np.testing.assert_allclose(scale.numpy(), (high - low) / 255, rtol=1e-12)
    np.testing.assert_array_equal(zero.numpy(), np.round(-low / scale.numpy()))
    scale, _ = choose_qparams(
        x, bits=8, symmetric=True, axis=0, method="percentile", percentile=percentile
    )
    top = np.percentile(np.abs(x.numpy()), percentile, axis=1)
    np.testing.assert_allclose(scale.numpy(), top / 127, rtol=1e-12)


def test_percentile_of_a_sparse_channel_falls_back_to_minmax():
    x = torch.zeros(1000)
    x[3] = 5.0
    for symmetric in (True, False):
        found = choose_qparams(x, bits=4, symmetric=symmetric, method="percentile", percentile=99.0)
        assert found == choose_qparams(x, bits=4, symmetric=symmetric)


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("norm", [2.0, 2.4])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_symmetric_search_finds_the_best_of_its_steps(bits, norm, tails):
    x = draws(60, seed=bits, tails=tails)
    largest = float(x.abs().max())
    high = 2 ** (bits - 1) - 1
    fine = [largest * f / high for f in np.linspace(1.0, 0.01, 100)]
    best = min(error(x, s, 0, bits, True, norm) for s in fine)
    scale, zero = choose_qparams(x, bits=bits, symmetric=True, method="mse", norm=norm)
    assert error(x, scale, zero, bits, True, norm) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_asymmetric_search_is_near_an_exhaustive_one(bits):
    ratios = []
    for seed in range(8):
        x = draws(60, seed=seed, tails=seed % 2 == 1) + 0.3 * (seed - 4)
        lowest, highest = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        best = min(
            error(x, s, z, bits, False)
            for s in np.linspace(0.02, 1.0, 120) * (highest - lowest) / (2**bits - 1)
            for z in range(2**bits)
        )
        found = choose_qparams(x, bits=bits, symmetric=False, method="mse")
        minmax = choose_qparams(x, bits=bits, symmetric=False)
        ours = error(x, *found, bits, False)
        assert ours <= error(x, *minmax, bits, False)
        ratios.append(ours / best)
    assert max(ratios) < 1.25
    assert float(np.mean(ratios)) < 1.05


def test_squared_error_never_exceeds_minmax_whatever_the_size():
    x = torch.cat([draws(16, 64, tails=True).float() * s for s in (1e-30, 1.0, 1e30)])
    for symmetric in (True, False):
        found = choose_qparams(x, bits=4, symmetric=symmetric, axis=0, method="mse")
        minmax = choose_qparams(x, bits=4, symmetric=symmetric, axis=0)
        gain = []
        for i, row in enumerate(x.double()):
            pair = [error(row, s[i].double(), z[i], 4, symmetric) for s, z in (found, minmax)]
            gain.append(pair[0] / pair[1])
        assert max(gain) <= 1 + 1e-5
        assert min(gain) < 0.9  # and clipping pays somewhere
        # The choice does not depend on the unit of measurement.
        np.testing.assert_allclose(gain[:16], gain[16:32], rtol=1e-3)
        np.testing.assert_allclose(gain[32:], gain[16:32], rtol=1e-3)


def slow_divergence(x, bottom, top, bits, symmetric, edges):
    """Return KL(reference || rounded) bin by bin in plain Python; zeros are left out."""
    low, high = integer_range(bits, symmetric)
    scale, zero = (
        float(v) for v in qparams_from_range(bottom, top, bits=bits, symmetric=symmetric)
    )
    counts, _ = np.histogram(x[x != 0], bins=edges)
    centers = (edges[1:] + edges[:-1]) / 2
    codes = np.round(centers / scale) + zero
    inside = (codes >= low) & (codes <= high)
    reference = np.where(inside, counts, 0).astype(float)
    rounded = np.zeros_like(reference)
    positions = np.flatnonzero(inside)
    reference[positions[0]] += counts[: positions[0]].sum()
    reference[positions[-1]] += counts[positions[-1] + 1 :].sum()
    for code in np.unique(codes[inside]):
        members = inside & (codes == code)
        occupied = members & (reference > 0)
        if occupied.any():
            rounded[occupied] = counts[members].sum() / occupied.sum()
    p, q = reference / reference.sum(), rounded / max(rounded.sum(), 1.0)
    return sum(a * np.log(a / max(b, np.finfo(float).tiny)) for a, b in zip(p, q) if a > 0)  # noqa: B905


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (6, False)])
def test_kl_finds_the_best_of_its_ranges(bits, symmetric):
    x = draws(3000, seed=21, tails=True).numpy()
    x = x if symmetric else np.abs(x)  # what a ReLU leaves
    x[:500] = 0.0
    top = np.abs(x).max()
    bottom = -top if symmetric else 0.0
    edges = np.linspace(bottom, top, 2049)
    costs = [
        slow_divergence(x, f * bottom, f * top, bits, symmetric, edges)
        for f in np.linspace(1.0, 0.02, 50)
    ]
    found = choose_qparams(x, bits=bits, symmetric=symmetric, method="kl", n_candidates=50)
    best = np.linspace(1.0, 0.02, 50)[int(np.argmin(costs))]
    wanted = qparams_from_range(best * bottom, best * top, bits=bits, symmetric=symmetric)
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-9)
    assert int(found[1]) == int(wanted[1])
    assert best < 0.9  # the tail is clipped, so the search has done something


def test_range_to_grid():
    assert [float(v) for v in qparams_from_range(1.0, 3.0, bits=2, symmetric=False)] == [1.0, 0]
    assert [float(v) for v in qparams_from_range(-3.0, -1.0, bits=2, symmetric=False)] == [1.0, 3]
    assert [float(v) for v in qparams_from_range(0.0, 0.0, bits=2, symmetric=False)] == [1.0, 0]
    assert [float(v) for v in qparams_from_range(-1.0, 3.5, bits=4, symmetric=True)] == [0.5, 0]
    scale, zero = qparams_from_range(
        torch.tensor([0.0, -2.0]), torch.tensor([3.0, 1.0]), bits=2, symmetric=False
    )
    assert scale.tolist() == [1.0, 1.0]
    assert zero.tolist() == [0, 2]
    assert scale.dtype == torch.float32


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize("group_size", [None, 7])
def test_channels_are_independent(method, group_size):
    x = draws(4, 3, 5, seed=30, tails=True)
    arguments = {"bits": 3, "symmetric": False, "method": method, "group_size": group_size}
    scale, zero = choose_qparams(x, axis=1, **arguments)
    for channel in range(3):
        alone = choose_qparams(x[:, channel].reshape(1, -1), axis=0, **arguments)
        torch.testing.assert_close(scale[channel], alone[0][0], rtol=1e-12, atol=0.0)
        assert torch.equal(zero[channel], alone[1][0])


def test_many_channels_are_searched_in_pieces():
    x = draws(520, 6, seed=31, tails=True)
    scale, _ = choose_qparams(x, bits=3, symmetric=True, axis=0, method="kl", n_candidates=5)
    for channel in (0, 511, 512, 519):
        alone, _ = choose_qparams(x[channel], bits=3, symmetric=True, method="kl", n_candidates=5)
        assert float(scale[channel]) == float(alone)


def test_no_gradient_and_no_change_of_the_input():
    x = draws(20).requires_grad_()
    before = x.detach().clone()
    for method in RANGE_METHODS:
        scale, _ = choose_qparams(x, bits=4, symmetric=False, method=method)
        assert not scale.requires_grad
    assert torch.equal(before, x.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "entropy"}, "method: expected one of 'minmax'"),
        ({"percentile": 50.0}, "percentile: expected a number > 50"),
        ({"percentile": 101.0}, "percentile: expected a number <= 100"),
        ({"norm": 0.0}, "norm: expected a number > 0"),
        ({"n_candidates": 0}, "n_candidates: expected a number >= 1"),
        ({"bits": 2.5}, "bits: expected a whole number"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    arguments = {"bits": 4, "symmetric": True} | changes
    with pytest.raises(ValueError, match=message):
        choose_qparams([1.0, 2.0], **arguments)


def test_not_finite_is_refused():
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="x: expected finite numbers, got 1"):
            choose_qparams([1.0, bad], bits=4, symmetric=True)
        with pytest.raises(ValueError, match="maximum: expected finite numbers"):
            qparams_from_range(0.0, bad, bits=4, symmetric=True)
    with pytest.raises(ValueError, match="minimum: expected entries <= those of maximum"):
        qparams_from_range(1.0, 0.0, bits=4, symmetric=True)
