"""The batched Newton method and its starts: against autograd, SciPy and dense grids."""

import numpy as np
import pytest
import torch
from scipy import optimize

from enough.scaling._models import DifferentiableModel, PowerSum
from enough.scaling._solver import huber, minimize
from enough.scaling._starts import (
    best_distinct,
    nonnegative_least_squares,
    separable_least_squares,
)

DELTA = 0.05


@pytest.fixture
def powers():
    """A sum of three terms in four coordinates, and the same as a plain function."""
    draw = torch.Generator().manual_seed(0)
    designs = [torch.randn(30, 4, dtype=torch.float64, generator=draw) for _ in range(3)]
    offsets = [torch.randn(30, dtype=torch.float64, generator=draw) for _ in range(3)]

    def plain(theta):
        return sum((x @ theta + o).exp() for x, o in zip(designs, offsets, strict=True)).log()

    return PowerSum(designs, offsets), plain


def test_derivatives_are_those_of_autograd(powers):
    model, plain = powers
    draw = torch.Generator().manual_seed(1)
    theta = torch.randn(3, 4, dtype=torch.float64, generator=draw)
    weight = torch.randn(3, 30, dtype=torch.float64, generator=draw)
    general = DifferentiableModel(plain)
    for mine, theirs in zip(model.jacobian(theta), general.jacobian(theta), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.value(theta), general.value(theta), rtol=1e-12, atol=1e-12)
    expected = torch.stack(
        [
            torch.autograd.functional.hessian(lambda t, w=w: (w * plain(t)).sum(), one)
            for one, w in zip(theta, weight, strict=True)
        ]
    )
    for candidate in (model, general):
        torch.testing.assert_close(candidate.curvature(theta, weight), expected)


def test_huber_is_scipys():
    from scipy.special import huber as reference

    residual = torch.linspace(-3, 3, 101, dtype=torch.float64)
    np.testing.assert_allclose(huber(residual, 0.7), reference(0.7, residual.numpy()), atol=1e-14)


@pytest.mark.parametrize("delta", [DELTA, float("inf")])
def test_it_finds_the_minimum_that_scipy_finds(powers, delta):
    model, plain = powers
    draw = torch.Generator().manual_seed(2)
    truth = 0.3 * torch.randn(4, dtype=torch.float64, generator=draw)
    target = plain(truth) + 0.1 * torch.randn(30, dtype=torch.float64, generator=draw)
    weight = torch.rand(30, dtype=torch.float64, generator=draw) + 0.2

    def objective(theta):
        t = torch.tensor(theta, requires_grad=True)
        loss = (weight * huber(plain(t) - target, delta)).sum()
        loss.backward()
        return loss.item(), t.grad.numpy()

    peers = [
        optimize.minimize(objective, truth + 0.1 * i, jac=True, method="BFGS", tol=1e-12).fun
        for i in range(3)
    ]
    starts = truth + 0.3 * torch.randn(6, 4, dtype=torch.float64, generator=draw)
    theta, lowest, converged = minimize(model, starts, target, weight, delta)
    assert converged.all()
    assert lowest.min().item() <= min(peers) * (1 + 1e-9)
    _, gradient = objective(theta[lowest.argmin()].numpy())
    assert np.abs(gradient).max() < 1e-7


def test_a_batch_gives_what_single_problems_give(powers):
    model, plain = powers
    draw = torch.Generator().manual_seed(3)
    target = plain(torch.zeros(4, dtype=torch.float64)) + 0.2 * torch.randn(
        30, dtype=torch.float64, generator=draw
    )
    counts = torch.randint(0, 3, (5, 30), generator=draw).double()
    starts = torch.zeros(5, 4, dtype=torch.float64)
    together = minimize(model, starts, target, counts, DELTA)[1]
    alone = [minimize(model, starts[:1], target, row, DELTA)[1].item() for row in counts]
    np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_a_start_without_a_finite_value_is_marked():
    model = PowerSum([torch.ones(3, 1, dtype=torch.float64)])
    starts = torch.tensor([[float("nan")], [0.0]], dtype=torch.float64)
    target = torch.ones(3, dtype=torch.float64)
    theta, lowest, converged = minimize(model, starts, target, torch.ones(3).double(), DELTA)
    assert converged.tolist() == [False, True]
    assert lowest[0].isinf()
    assert theta[1].item() == pytest.approx(1.0)


def test_nonnegative_least_squares_is_scipys():
    draw = torch.Generator().manual_seed(4)
    columns = torch.randn(40, 12, 3, dtype=torch.float64, generator=draw)
    target = torch.randn(12, dtype=torch.float64, generator=draw)
    coefficients, residual = nonnegative_least_squares(columns, target)
    for one, mine, rest in zip(columns, coefficients, residual, strict=True):
        expected, norm = optimize.nnls(one.numpy(), target.numpy())
        np.testing.assert_allclose(mine, expected, atol=1e-9)
        assert rest.item() == pytest.approx(norm**2, rel=1e-9)


def test_starts_are_the_best_points_apart_from_each_other():
    axis = torch.linspace(-1, 1, 21)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    score = torch.minimum((x - 0.6) ** 2 + y**2, 0.1 + (x + 0.6) ** 2 + y**2).flatten()
    first, second = best_distinct(score, (21, 21), 2).tolist()
    assert x.flatten()[first].item() == pytest.approx(0.6)
    assert y.flatten()[first].item() == pytest.approx(0.0, abs=1e-6)
    assert abs(x.flatten()[second] - x.flatten()[first]) > 0.15 or (abs(y.flatten()[second]) > 0.15)
    assert len(best_distinct(torch.arange(4.0), (2, 2), 9)) == 4


def test_separable_least_squares_is_scipys(monkeypatch):
    # Two columns of their own and one that depends on both points, in blocks of a few rows.
    monkeypatch.setattr("enough.scaling._starts._MEMORY", 16 * 23 * 5)
    draw = torch.Generator().manual_seed(5)
    sides = torch.rand(17, 2, dtype=torch.float64, generator=draw) + 0.1
    target = torch.randn(17, dtype=torch.float64, generator=draw) + 1.0
    points = torch.tensor([0.3, 0.8, 1.7, 2.9], dtype=torch.float64)
    grid = torch.cartesian_prod(points, points)
    seen = []

    def columns(rows):
        seen.append(rows.stop - rows.start)
        x, y = sides[rows].T
        return [x ** points[:, None], y ** points[:, None], x ** grid[:, :1] * y ** grid[:, 1:] - 1]

    at = torch.arange(16)
    index = torch.stack([at // 4, at % 4, at], -1)
    coefficients, residual = separable_least_squares(columns, index, target)
    assert max(seen) < 17
    assert sum(seen) == 17
    for i, (p, q) in enumerate(grid):
        x, y = sides.T
        matrix = torch.stack([x**p, y**q, x**p * y**q - 1], -1)
        expected, norm = optimize.nnls(matrix.numpy(), target.numpy())
        np.testing.assert_allclose(coefficients[i], expected, rtol=1e-7, atol=1e-9)
        assert residual[i].item() == pytest.approx(norm**2, rel=1e-9)
