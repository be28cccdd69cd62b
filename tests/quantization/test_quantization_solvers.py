"""Solvers on matrices, against the published recursions, brute force and the data itself."""

import itertools
import math

import numpy as np
import pytest
import torch

from enough.quantization import (
    LayerStatistics,
    SoftRounding,
    WeightGrid,
    adaquant,
    adaround,
    bias_correction,
    choose_qparams,
    fake_quantize,
    gptq,
    nearest,
    quantize,
)

SOLVERS = {
    "nearest": nearest,
    "gptq": gptq,
    "adaround": lambda *a, **k: adaround(*a, steps=60, **k),
    "adaquant": lambda *a, **k: adaquant(*a, steps=60, **k),
}


def normal(seed, *shape, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)


def correlated(seed, groups, n, columns, dtype=torch.float64):
    mix = normal(seed + 1000, groups, columns, columns) / math.sqrt(columns)
    return (normal(seed, groups, n, columns) @ mix + 0.3).relu().to(dtype)


def layer(seed=0, groups=2, rows=3, columns=12, n=80, dtype=torch.float64):
    x = correlated(seed, groups, n, columns, dtype)
    h = x + 0.05 * normal(seed + 1, groups, n, columns, dtype=dtype)
    w, b = normal(seed + 2, groups, rows, columns, dtype=dtype), normal(seed + 3, groups, rows)
    return x, h, w, b.to(dtype)


def forward_error(x, h, w, b, result):
    y = torch.einsum("gnc,grc->gnr", x.double(), w.double())
    y_hat = torch.einsum("gnc,grc->gnr", h.double(), result.weight.double())
    shift = (result.bias - b).double() if result.bias is not None else torch.zeros(1, 1)
    return float((y_hat - y + shift[:, None]).square().sum(2).mean(1).sum())


@pytest.mark.parametrize("correct_bias", [False, True])
@pytest.mark.parametrize("group_size", [None, 5])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_results_agree_with_themselves_and_with_the_data(name, symmetric, group_size, correct_bias):
    x, h, w, b = layer()
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(w, bits=3, symmetric=symmetric, group_size=group_size)
    r = SOLVERS[name](w, s, grid, bias=b, correct_bias=correct_bias)
    assert r.integers.dtype == torch.int32
    assert grid.low <= int(r.integers.min())
    assert int(r.integers.max()) <= grid.high
    size = group_size or 12
    step = r.scale.repeat_interleave(size, 2)[..., :12]
    zero = r.zero_point.repeat_interleave(size, 2)[..., :12]
    torch.testing.assert_close(r.weight, (r.integers - zero) * step, rtol=1e-14, atol=0)
    assert r.scale.shape == grid.scale.shape
    assert r.error == pytest.approx(forward_error(x, h, w, b, r), rel=1e-9)
    base = nearest(w, s, grid, bias=b, correct_bias=correct_bias).error
    assert r.error <= base
    if correct_bias:
        torch.testing.assert_close(r.bias, bias_correction(w, r.weight, s, b))
        mean = torch.bmm(h, r.weight.mT) - torch.bmm(x, w.mT) + (r.bias - b)[:, None]
        assert mean.mean(1).abs().max() < 1e-12
    else:
        assert torch.equal(r.bias, b)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_matrix_is_a_weight_with_one_group(name):
    x, h, w, b = layer(groups=1, dtype=torch.float32)
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(w, bits=2)
    with_group = SOLVERS[name](w, s, grid, bias=b)
    matrix = SOLVERS[name](w[0].numpy(), s, grid, bias=b[0].numpy())
    assert torch.equal(matrix.integers, with_group.integers[0])
    assert torch.equal(matrix.bias, with_group.bias[0])
    assert matrix.weight.dtype == torch.float32


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_and_strides(name, dtype):
    x, h, w, b = layer(dtype=dtype)
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(w, bits=4, group_size=5)
    r = SOLVERS[name](w, s, grid, bias=b)
    assert r.weight.dtype == dtype
    assert r.bias.dtype == dtype
    assert torch.isfinite(r.weight).all()
    strided = SOLVERS[name](w.mT.contiguous().mT, s, grid, bias=b)
    assert torch.equal(strided.integers, r.integers)


@pytest.mark.parametrize("name", SOLVERS)
def test_awkward_channels(name):
    # All-zero, constant, one-sided, outlier, and a single column.
    x, _, w, _ = layer(groups=1, rows=5)
    w[0, 0], w[0, 1], w[0, 2], w[0, 3, 0] = 0.0, 0.7, w[0, 2].abs(), 1e4
    s = LayerStatistics.from_rows(x)
    r = SOLVERS[name](w, s, WeightGrid.fit(w, bits=4))
    assert torch.equal(r.weight[0, 0], torch.zeros(12, dtype=w.dtype))
    assert (r.weight[0, 1] - 0.7).abs().max() < 0.7 / 15 + 1e-12
    assert torch.isfinite(r.weight).all()
    one = SOLVERS[name](
        w[..., :1], LayerStatistics.from_rows(x[..., :1]), WeightGrid.fit(w[..., :1], bits=2)
    )
    assert one.weight.shape == (1, 5, 1)


@pytest.mark.parametrize("name", SOLVERS)
def test_inputs_that_were_always_zero(name):
    x, _, w, _ = layer(groups=1)
    dead = LayerStatistics.from_rows(torch.zeros_like(x))
    grid = WeightGrid.fit(w, bits=3)
    r = SOLVERS[name](w, dead, grid)
    assert torch.equal(r.integers, grid.quantize(w))
    assert r.error == 0.0


def test_nearest_is_plain_rounding():
    x, _, w, _ = layer(dtype=torch.float32)
    grid = WeightGrid.fit(w, bits=4, group_size=5)
    flat = quantize(
        w.flatten(0, 1),
        grid.scale.flatten(0, 1),
        grid.zero_point.flatten(0, 1),
        bits=4,
        symmetric=False,
        axis=0,
        group_size=5,
    )
    r = nearest(w, LayerStatistics.from_rows(x), grid)
    assert torch.equal(r.integers, flat.view_as(w))


def test_grid_per_tensor_shares_one_step():
    _, _, w, _ = layer()
    grid = WeightGrid.fit(w, bits=4, per_tensor=True)
    scale, zero = choose_qparams(w, bits=4, symmetric=False)
    assert grid.scale.shape == (1, 1, 1)
    assert torch.equal(grid.quantize(w), quantize(w, scale, zero, bits=4, symmetric=False))


# GPTQ


def published_gptq(w, hessian, scale, zero, high, damping, order=None, refit=None, size=None):
    """The recursion of the paper on one group, with the inverse, row-major and slow."""
    w, hessian = w.copy(), hessian.copy()
    dead = np.diag(hessian) == 0
    mean = np.diag(hessian)[~dead].mean()
    hessian[dead, dead] = mean
    columns = np.arange(w.shape[1])
    if order == "activation":
        columns = np.argsort(-np.where(dead, 0, np.diag(hessian)), kind="stable")
    w, hessian = w[:, columns], hessian[np.ix_(columns, columns)]
    scale, zero = scale[:, columns], zero[:, columns]
    hessian = hessian + damping * mean * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    q = np.zeros_like(w)
    for j in range(w.shape[1]):
        if refit and j % size == 0:
            part = slice(j, min(j + size, w.shape[1]))
            s, z = choose_qparams(w[:, part], bits=2, symmetric=False, axis=0, method=refit)
            scale[:, part], zero[:, part] = s[:, None], z[:, None]
        q[:, j] = np.clip(np.round(w[:, j] / scale[:, j]) + zero[:, j], 0, high)
        error = (w[:, j] - scale[:, j] * (q[:, j] - zero[:, j])) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    back = np.argsort(columns)
    return q[:, back], scale[:, back]


@pytest.mark.parametrize("block", [1, 4, 128])
@pytest.mark.parametrize("order", ["natural", "activation"])
@pytest.mark.parametrize("group_size", [None, 5])
def test_gptq_is_the_published_recursion(group_size, order, block):
    x, h, w, _ = layer(columns=23, n=200)
    h[:, :, 7] = 0.0
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(w, bits=2, group_size=group_size)
    ours = gptq(w, s, grid, order=order, block=block)
    scale, zero = (v.expand_as(w).numpy().copy() for v in grid.expand(23, torch.float64))
    for g in range(2):
        expected, _ = published_gptq(
            w[g].numpy(), s.S_hh[g].numpy(), scale[g], zero[g], 3, 0.01, order
        )
        np.testing.assert_array_equal(ours.integers[g], expected)


def test_gptq_refits_groups_as_published():
    x, _, w, _ = layer(columns=23, n=200)
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=2, group_size=5)
    ours = gptq(w, s, grid, refit="minmax")
    scale, zero = (v.expand_as(w).numpy().copy() for v in grid.expand(23, torch.float64))
    for g in range(2):
        expected, steps = published_gptq(
            w[g].numpy(), s.S_hh[g].numpy(), scale[g], zero[g], 3, 0.01, None, "minmax", 5
        )
        np.testing.assert_array_equal(ours.integers[g], expected)
        np.testing.assert_allclose(ours.scale[g].repeat_interleave(5, 1)[:, :23], steps)
    assert not torch.equal(ours.scale[..., 1:], grid.scale[..., 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["natural", "activation"])
def test_gptq_with_white_inputs_rounds_to_nearest_bit_for_bit(dtype, order):
    columns = 16
    white = math.sqrt(columns) * torch.eye(columns, dtype=dtype)
    s = LayerStatistics.from_rows(torch.cat([white, -white]))
    for seed in range(20):
        w = normal(seed, 40, columns, dtype=dtype)
        for bits in (2, 4, 8):
            grid = WeightGrid.fit(w, bits=bits, method="mse" if bits == 2 else "minmax")
            assert torch.equal(gptq(w, s, grid, order=order).integers, nearest(w, s, grid).integers)


def test_gptq_beats_rounding_to_nearest_on_correlated_inputs():
    wins = 0
    for seed in range(60):
        # Five layers at once, each with moments of its own.
        x, _, w, _ = layer(seed, groups=5, rows=8, columns=4 + seed % 13, n=60)
        s = LayerStatistics.from_rows(x)
        grid = WeightGrid.fit(w, bits=2 + seed % 3)
        ours, base = (
            s.row_errors(w, None, f(w, s, grid).weight, None).sum(1) for f in (gptq, nearest)
        )
        wins += int((ours <= base).sum())
    assert wins >= 0.95 * 300


def brute_force(s, w, grid):
    """The least error over all integers, row by row."""
    codes = torch.tensor(list(itertools.product(range(4), repeat=w.shape[2])), dtype=torch.float64)
    best = []
    for r in range(w.shape[1]):
        candidates = grid.scale[0, r] * (codes - grid.zero_point[0, r])
        d = candidates - w[0, r]
        best.append(float(((d @ s.S_hh[0]) * d).sum(1).min()))
    return torch.tensor(best, dtype=torch.float64)


def test_no_solver_beats_brute_force_and_the_good_ones_come_close():
    ratios = {name: [] for name in ("nearest", "gptq", "adaround")}
    for seed in range(8):
        x, _, w, _ = layer(seed, groups=1, rows=6, columns=5, n=60)
        s = LayerStatistics.from_rows(x)
        grid = WeightGrid.fit(w, bits=2)
        best = brute_force(s, w, grid)
        for name in ratios:
            r = {"nearest": nearest, "gptq": gptq, "adaround": adaround}[name](w, s, grid)
            ratio = s.row_errors(w, None, r.weight, None)[0] / best
            assert (ratio >= 1 - 1e-9).all()
            ratios[name].append(ratio)
    mean = {name: float(torch.stack(r).mean()) for name, r in ratios.items()}
    assert mean["gptq"] < 0.7 * mean["nearest"]
    assert mean["adaround"] < 0.7 * mean["nearest"]
    assert mean["gptq"] < 2
    assert mean["adaround"] < 2


@pytest.mark.parametrize("damping", [0.0, 1e-14, 0.01])
def test_gptq_with_fewer_rows_than_columns(damping):
    x, _, w, _ = layer(columns=40, n=7)
    s = LayerStatistics.from_rows(x)
    assert torch.linalg.matrix_rank(s.S_hh)[0] <= 7
    grid = WeightGrid.fit(w, bits=3)
    r = gptq(w, s, grid, damping=damping)
    assert torch.isfinite(r.weight).all()
    assert r.error < nearest(w, s, grid).error


def test_gptq_dead_inputs():
    x, _, w, _ = layer()
    x[:, :, 3] = 0.0
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=3)
    kept = gptq(w, s, grid)
    assert torch.equal(kept.integers[..., 3], grid.quantize(w)[..., 3])
    zeroed = gptq(w, s, grid, dead="zero")
    assert (zeroed.weight[..., 3] == 0).all()
    assert zeroed.error == pytest.approx(kept.error, rel=1e-12)


def test_gptq_does_not_depend_on_units():
    x, h, w, _ = layer()
    grid = WeightGrid.fit(w, bits=3)
    one = gptq(w, LayerStatistics.from_rows(x, h), grid)
    big = gptq(w, LayerStatistics.from_rows(1024 * x, 1024 * h), grid)
    assert torch.equal(one.integers, big.integers)


def test_gptq_can_aim_at_the_full_precision_output():
    # With 8 bits and strong drift the error is that of least squares, not of the drift.
    x, _, w, b = layer(n=400)
    h = x @ (torch.eye(12, dtype=x.dtype) + 0.1 * normal(9, 12, 12))
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(1.5 * w, bits=8)
    published = gptq(w, s, grid, bias=b, damping=1e-6)
    full = gptq(w, s, grid, bias=b, damping=1e-6, target="full")
    assert full.error < 0.05 * published.error


# AdaRound


def test_soft_rounding_starts_at_the_weight():
    _, _, w, _ = layer(dtype=torch.float32)
    for symmetric in (False, True):
        grid = WeightGrid.fit(w, bits=4, symmetric=symmetric, group_size=5)
        soft = SoftRounding.of(w, grid)
        # A rounded zero point may leave the largest weights just outside the range.
        scale, zero = grid.expand(12, torch.float32)
        inside = w.clamp(scale * (grid.low - zero), scale * (grid.high - zero))
        assert (soft.weight(soft.start) - inside).abs().max() < 1e-5


def test_soft_rounding_outside_the_range_has_no_choice():
    w = torch.tensor([[[-2.0, -0.4, 0.4, 9.0]]])
    one = torch.ones(1, 1, 1)
    soft = SoftRounding.of(w, WeightGrid(one, one, 2))
    assert soft.span.tolist() == [[[0.0, 1.0, 1.0, 0.0]]]
    assert soft.weight(soft.start)[0, 0].tolist() == pytest.approx([-1.0, -0.4, 0.4, 2.0])


def test_adaround_ends_binary_and_next_to_the_weight():
    x, h, w, _ = layer(rows=8, columns=30, n=300, dtype=torch.float32)
    grid = WeightGrid.fit(w, bits=3, group_size=7)
    r = adaround(w, LayerStatistics.from_rows(x, h), grid)
    assert r.undecided == 0.0
    step = grid.expand(30, torch.float32)[0]
    assert ((r.weight - w).abs() < step * (1 + 1e-6)).all()
    assert not torch.equal(r.integers, grid.quantize(w))
    unsettled = adaround(w, LayerStatistics.from_rows(x, h), grid, regularization=0.0, steps=10)
    assert unsettled.undecided > 0.5


def adaround_by_forward(x, h, w, b, grid, *, steps, lr, strength, unit):
    """AdaRound as published: autograd through the layer at every step."""
    scale, zero = grid.expand(w.shape[2], w.dtype)
    floor = torch.floor(w / scale)
    v = -torch.log(1.2 / (w / scale - floor + 0.1) - 1)
    v.requires_grad_()
    optimizer = torch.optim.Adam([v], lr=lr)
    target = torch.bmm(x, w.mT)
    for step in range(steps):
        share = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        q = (floor + share + zero).clamp(grid.low, grid.high)
        output = torch.bmm(h, (scale * (q - zero)).mT)
        loss = ((output - target).square().mean(1) / unit).sum()
        if step >= 0.2 * steps:
            beta = 2 + 18 * (1 - (step - 0.2 * steps) / (0.8 * steps))
            loss = loss + strength * (1 - (2 * share - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (floor + (v >= 0) + zero).clamp(grid.low, grid.high)


@pytest.mark.parametrize("symmetric", [False, True])
def test_adaround_by_moments_is_adaround_by_forward_passes(symmetric):
    x, h, w, b = layer(rows=6, columns=20, n=150)
    grid = WeightGrid.fit(w, bits=3, symmetric=symmetric, method="mse")
    s = LayerStatistics.from_rows(x, h)
    ours = adaround(w, s, grid, bias=b, steps=150)
    near = grid.dequantize(grid.quantize(w)) - w
    unit = torch.bmm(h, near.mT).square().mean(1) / 20
    theirs = adaround_by_forward(x, h, w, b, grid, steps=150, lr=0.2, strength=20.0, unit=unit)
    theirs = theirs.to(torch.int32)
    hard, base = (
        s.row_errors(w, None, grid.dequantize(q), None) for q in (theirs, grid.quantize(w))
    )
    theirs = torch.where((hard > base)[..., None], grid.quantize(w), theirs)
    assert torch.equal(ours.integers, theirs)
    assert not torch.equal(theirs, grid.quantize(w))


def test_adaround_keeps_rounding_to_nearest_where_that_is_better():
    x, _, w, _ = layer(rows=8)
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=3)
    # Two steps of this size throw the choices anywhere.
    wild = adaround(w, s, grid, steps=2, lr=50.0)
    errors = [s.row_errors(w, None, r.weight, None) for r in (wild, nearest(w, s, grid))]
    assert (errors[0] <= errors[1]).all()


def test_adaround_behind_a_relu_looks_at_what_passes():
    # Four outputs of five are negative: errors there cost nothing after the ReLU.
    plain = aware = 0.0
    for seed in range(2):
        x, _, w, _ = layer(seed, groups=1, rows=16, columns=40, n=1000, dtype=torch.float32)
        b = -torch.bmm(x, w.mT).quantile(0.8, dim=1)
        s = LayerStatistics.from_rows(x)
        grid = WeightGrid.fit(w, bits=3, method="mse")
        target = (torch.bmm(x, w.mT) + b[:, None]).relu()
        results = [
            adaround(w, s, grid, bias=b, steps=1500),
            adaround(w, s, grid, bias=b, steps=1500, rows=x, generator=0),
        ]
        after = [
            float(((torch.bmm(x, r.weight.mT) + b[:, None]).relu() - target).square().mean())
            for r in results
        ]
        plain, aware = plain + after[0], aware + after[1]
        assert results[0].error < results[1].error
    assert aware < plain


def test_adaround_draws_rows_from_its_generator():
    x, _, w, b = layer()
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=2)
    again = adaround(w, s, grid, bias=b, rows=x, batch=64, generator=5, steps=50)
    same = adaround(w, s, grid, bias=b, rows=x, batch=64, generator=5, steps=50)
    assert torch.equal(again.integers, same.integers)


# AdaQuant


def adaquant_by_forward(x, h, w, grid, *, steps, lr, lr_scale, lr_zero):
    """AdaQuant as published: autograd through fake quantization and the layer."""
    move = torch.zeros_like(w, requires_grad=True)
    stretch = torch.zeros_like(grid.scale, requires_grad=True)
    zero = grid.zero_point.double().requires_grad_()
    groups = [{"params": [move], "lr": lr}, {"params": [stretch], "lr": lr_scale}]
    if not grid.symmetric:
        groups.append({"params": [zero], "lr": lr_zero})
    optimizer = torch.optim.Adam(groups)
    target = torch.bmm(x, w.mT)
    unit = grid.expand(w.shape[2], w.dtype)[0]
    size = {"group_size": grid.group_size}
    best = torch.full(w.shape[:2], torch.inf, dtype=w.dtype)
    best_weight = w.clone()
    for step in range(steps + 1):
        w_hat = fake_quantize(
            (w + unit * move).flatten(0, 1),
            (grid.scale * (1 + stretch)).flatten(0, 1 if grid.group_size else 2),
            zero.flatten(0, 1 if grid.group_size else 2),
            bits=grid.bits,
            symmetric=grid.symmetric,
            axis=0,
            **size,
        ).view_as(w)
        error = (torch.bmm(h, w_hat.mT) - target).square().mean(1)
        better = error < best
        best = torch.where(better, error, best).detach()
        best_weight = torch.where(better[..., None], w_hat, best_weight).detach()
        if step < steps:
            optimizer.zero_grad()
            error.sum().backward()
            optimizer.step()
    return best_weight


@pytest.mark.parametrize("group_size", [None, 7])
@pytest.mark.parametrize("symmetric", [False, True])
def test_adaquant_by_moments_is_adaquant_by_forward_passes(symmetric, group_size):
    x, h, w, _ = layer(rows=4, columns=20, n=100)
    grid = WeightGrid.fit(w, bits=3, symmetric=symmetric, group_size=group_size, method="mse")
    s = LayerStatistics.from_rows(x, h)
    rates = {"lr": 0.02, "lr_scale": 2e-3}
    ours = adaquant(w, s, grid, steps=60, lr_zero_point=0.1, correct_bias=False, **rates)
    theirs = adaquant_by_forward(x, h, w, grid, steps=60, lr_zero=0.1, **rates)
    torch.testing.assert_close(ours.weight, theirs, rtol=1e-6, atol=1e-9)
    if not symmetric:
        assert not torch.equal(ours.zero_point, grid.zero_point)


def test_adaquant_with_one_step_for_all_keeps_one_step():
    x, h, w, _ = layer()
    s = LayerStatistics.from_rows(x, h)
    grid = WeightGrid.fit(w, bits=3, per_tensor=True)
    r = adaquant(w, s, grid)
    assert r.scale.shape == (1, 1, 1)
    assert float(r.scale) != float(grid.scale)
    torch.testing.assert_close(r.weight, (r.integers - r.zero_point) * r.scale)
    assert r.error < nearest(w, s, grid, correct_bias=True).error


def test_adaquant_may_move_more_than_one_step():
    # Two inputs are equal. The weight of the first lies two steps above the grid's end, and the
    # second takes over what is missing.
    base = normal(0, 1, 200, 1)
    s = LayerStatistics.from_rows(torch.cat([base, base], 2))
    w = torch.tensor([[[6.0, 0.2]]], dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    r = adaquant(w, s, WeightGrid(one, 3 * one, 3), lr=0.05, lr_scale=0.0, lr_zero_point=0.0)
    assert r.weight.tolist() == [[[4.0, 2.0]]]
    assert torch.equal(r.scale, one)


def test_adaquant_learns_the_range_of_its_input():
    x, _, w, b = layer(groups=1, rows=6, columns=16, n=400, dtype=torch.float32)
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=4)
    scale, zero = choose_qparams(x, bits=2, symmetric=False)
    options = {"bias": b, "rows": x, "input_scale": scale, "input_zero_point": zero}
    options |= {"input_bits": 2, "generator": 0, "steps": 300}
    fixed = adaquant(w, s, grid, lr_input=0.0, **options)
    learned = adaquant(w, s, grid, **options)
    assert float(fixed.input_scale) == pytest.approx(float(scale), rel=1e-6)
    assert learned.error < 0.9 * fixed.error
    quantized = fake_quantize(
        x, learned.input_scale, learned.input_zero_point, bits=2, symmetric=False
    )
    assert learned.error == pytest.approx(forward_error(x, quantized, w, b, learned), rel=1e-5)


def test_inputs_are_left_alone():
    x, h, w, b = layer()
    s, before = LayerStatistics.from_rows(x, h), w.clone()
    grid = WeightGrid.fit(w, bits=3)
    scale, zero = grid.scale.clone(), grid.zero_point.clone()
    state = torch.get_rng_state()
    for solver in SOLVERS.values():
        solver(w, s, grid, bias=b)
    adaround(w, s, grid, steps=3, rows=x)
    assert torch.equal(w, before)
    assert torch.equal(grid.scale, scale)
    assert torch.equal(grid.zero_point, zero)
    assert torch.equal(torch.get_rng_state(), state)


def test_messages_name_the_argument():
    x, _, w, b = layer()
    s = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(w, bits=3)
    grouped = WeightGrid.fit(w, bits=3, group_size=5)
    broken = w.clone()
    broken[0, 0, 0] = torch.nan
    cases = [
        ("weight: expected finite numbers, got 1 NaN", lambda: gptq(broken, s, grid)),
        (r"weight: expected shape \(2, any, 12\)", lambda: nearest(w[:1], s, grid)),
        (r"grid.scale: expected shape \(2, 2, 1\)", lambda: nearest(w[:, :2], s, grid)),
        (
            r"bias: expected shape \(2, 3\), got \(2, 2\)",
            lambda: nearest(w, s, grid, bias=b[:, :2]),
        ),
        ("statistics: expected a LayerStatistics", lambda: nearest(w, x, grid)),
        ("statistics: expected at least one row", lambda: gptq(w, LayerStatistics(12, 2), grid)),
        ("grid: expected a WeightGrid, got tuple", lambda: nearest(w, s, (1, 0))),
        ("order: expected one of 'natural'", lambda: gptq(w, s, grid, order="random")),
        ("damping: expected a number >= 0", lambda: gptq(w, s, grid, damping=-1)),
        ("refit: expected a grid with group_size", lambda: gptq(w, s, grid, refit="minmax")),
        (
            "refit: expected order 'natural'",
            lambda: gptq(w, s, grouped, refit="minmax", order="activation"),
        ),
        ("correct_bias: expected False", lambda: adaround(w, s, grid, rows=x, correct_bias=True)),
        (r"rows: expected shape \(2, any, 12\)", lambda: adaround(w, s, grid, rows=x[..., :4])),
        ("warmup: expected a number < 1", lambda: adaround(w, s, grid, warmup=1.0)),
        ("input_scale: expected together with rows", lambda: adaquant(w, s, grid, rows=x)),
        ("rows: expected together with input_scale", lambda: adaquant(w, s, grid, input_scale=1.0)),
        ("scale: expected entries > 0", lambda: WeightGrid(0 * grid.scale, grid.zero_point, 3)),
        (
            "zero_point: expected entries <= 7",
            lambda: WeightGrid(grid.scale, grid.zero_point + 8, 3),
        ),
        (
            "group_size: expected None with one step per tensor",
            lambda: WeightGrid.fit(w, bits=3, group_size=2, per_tensor=True),
        ),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
