"""Eigensystems and exponents from kernel matrices whose truth is known."""

import math

import numpy as np
import pytest
import torch

from enough.overparameterization import estimate_eigensystem, estimate_exponents, rf_risk

SIZES = np.unique(np.geomspace(20, 400, 8).astype(int))


def power_law_data(alpha, beta, points=900, modes=4000, seed=0):
    """Kernel matrix and target of a Gaussian design.

    Modes beyond the last are so many and so small that their Gram matrix is their trace times
    the identity and their part of the target is white.
    """
    rng = np.random.default_rng(seed)
    index = np.arange(1.0, modes + 1)
    phi = rng.standard_normal((points, modes))
    kernel = (phi * index**-alpha) @ phi.T
    kernel += np.eye(points) * modes ** (1 - alpha) / (alpha - 1)
    tail = math.sqrt(modes ** (1 - beta) / (beta - 1))
    return kernel, phi @ index ** (-beta / 2) + tail * rng.standard_normal(points)


@pytest.fixture(scope="module")
def task():
    return power_law_data(1.5, 1.8)


def test_eigensystem_diagonalizes_the_kernel(task):
    kernel, target = task
    kernel, target = kernel[:60, :60], np.stack([target[:60], np.ones(60)], 1)
    values, vectors = estimate_eigensystem(kernel, target)
    assert values.shape == (60,)
    assert vectors.shape == (60, 2)
    assert (np.diff(values) <= 0).all()
    # The eigenvectors are not returned; these sums determine both results all the same.
    for power in (0, 1, 2, 3):
        left = vectors.T @ (values[:, None] ** power * vectors)
        right = target.T @ np.linalg.matrix_power(kernel / 60, power) @ target / 60
        np.testing.assert_allclose(left, right, rtol=1e-10)
    np.testing.assert_allclose(values.sum(), np.trace(kernel) / 60)
    flat = estimate_eigensystem(kernel, target[:, 0])[1]
    np.testing.assert_allclose(flat, vectors[:, 0], rtol=1e-12, atol=1e-13)
    assert rf_risk(values, vectors, 20, 30, 0.1).test_mse.shape == (2,)


def test_eigensystem_of_a_low_rank_kernel_and_its_types():
    rng = np.random.default_rng(1)
    factor = rng.standard_normal((30, 4))
    kernel, target = factor @ factor.T, rng.standard_normal(30)
    values, _ = estimate_eigensystem(kernel, target)
    assert values.min() == 0.0
    assert (values > 0).sum() > 4  # rounding
    clean, _ = estimate_eigensystem(kernel, target, rtol=1e-12)
    assert (clean > 0).sum() == 4
    # Projection on a known space: the theory at ridge 0 is least squares in four dimensions.
    values, vectors = estimate_eigensystem(kernel, factor[:, 0], rtol=1e-12)
    assert rf_risk(values, vectors, 10, math.inf, 0.0).test_mse == pytest.approx(0.0, abs=1e-20)
    single = estimate_eigensystem(
        torch.tensor(kernel, dtype=torch.float32), torch.tensor(target).float()
    )
    assert [t.dtype for t in single] == [torch.float32, torch.float32]
    np.testing.assert_allclose(single[0][:4].numpy(), clean[:4], rtol=1e-5)


def test_learning_curves_match_kernel_interpolation(task):
    kernel, target = task
    kernel, target = kernel[:200, :200], target[:200]
    sizes = [10, 30, 60, 100]
    found = estimate_exponents(kernel, target, sizes, n_subsets=2, generator=7)
    generator = torch.Generator().manual_seed(7)
    for row in range(2):
        order = torch.randperm(200, generator=generator).numpy()
        test = order[100:]
        for column, n in enumerate(sizes):
            train = order[:n]
            inverse = np.linalg.inv(kernel[np.ix_(train, train)])
            prediction = kernel[np.ix_(test, train)] @ inverse @ target[train]
            assert found.kappa[row, column] == pytest.approx(1 / np.trace(inverse), rel=1e-10)
            assert found.test_mse[row, column] == pytest.approx(
                ((prediction - target[test]) ** 2).mean(), rel=1e-8
            )
    # The fit is a straight line through the logarithms, subset by subset.
    slopes = np.polyfit(np.log(sizes), np.log(found.kappa).T, 1)[0]
    assert found.alpha == pytest.approx(-slopes.mean(), rel=1e-12)
    spread = slopes.std(ddof=1) * math.sqrt(1.5) * 12.706  # Student's t with one degree
    assert found.alpha_interval[1] - found.alpha == pytest.approx(spread, rel=1e-4)
    halves = [np.polyfit(np.log(sizes)[s], np.log(found.kappa[:, s]).T, 1)[0]
              for s in (slice(0, 2), slice(2, 4))]  # fmt: skip
    drift = (halves[0] - halves[1]).mean()
    assert found.alpha_drift == pytest.approx(drift, rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 1.8), (1.25, 1.5), (2.0, 1.4)])
def test_known_exponents_are_recovered(alpha, beta):
    found = estimate_exponents(*power_law_data(alpha, beta), SIZES, n_subsets=8, generator=0)
    assert found.alpha == pytest.approx(alpha, abs=0.05)
    assert found.beta == pytest.approx(beta, abs=0.12)
    assert found.beta_interval[0] < beta < found.beta_interval[1]
    assert abs(found.alpha_drift) < 0.1
    assert found.alpha_r2 > 0.9995
    assert found.follows_power_law()


def test_tasks_without_power_laws_are_told_apart():
    rng = np.random.default_rng(2)
    for modes in (600, 3000):  # isotropic: alpha is 1 at first, then the curve bends down
        phi = rng.standard_normal((900, modes)) / math.sqrt(modes)
        found = estimate_exponents(
            phi @ phi.T, phi @ rng.standard_normal(modes), SIZES, n_subsets=6, generator=0
        )
        assert not found.follows_power_law()
        assert found.alpha_drift > found.alpha - 1
        assert found.singular_at is None
    factor = rng.standard_normal((900, 50))
    for rounding in (0.0, 1e-14):  # pivots of rounding size are no directions of their own
        kernel = factor @ factor.T + rounding * np.eye(900)
        finite = estimate_exponents(kernel, factor[:, 0], SIZES, n_subsets=3, generator=0)
        assert finite.singular_at == 51
        assert not finite.follows_power_law()
        assert math.isnan(finite.alpha)
        assert (finite.kappa[:, SIZES > 50] == 0).all()
        assert (finite.kappa[:, SIZES <= 50] > 0).all()
        assert np.isnan(finite.test_mse[:, SIZES > 50]).all()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"kernel_matrix": np.ones((3, 4))}, "kernel_matrix"),
        ({"kernel_matrix": np.triu(np.ones((6, 6)))}, "kernel_matrix"),
        ({"kernel_matrix": np.full((6, 6), np.nan)}, "kernel_matrix"),
        ({"targets": np.ones(5)}, "targets"),
        ({"targets": np.ones((6, 1, 1))}, "targets"),
        ({"sizes": [1, 2, 3]}, "sizes"),
        ({"sizes": [1, 2, 3, 6]}, "sizes"),
        ({"sizes": [1, 3, 2, 4]}, "sizes"),
        ({"n_subsets": 1}, "n_subsets"),
        ({"level": 1.0}, "level"),
        ({"level": 0.0}, "level"),
    ],
)
def test_rejects_what_makes_no_sense(changes, name):
    arguments = {"kernel_matrix": np.eye(6), "targets": np.ones(6), "sizes": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match=name):
        estimate_exponents(**(arguments | changes))
    if name in ("kernel_matrix", "targets"):
        arguments = (arguments | changes).copy()
        with pytest.raises(ValueError, match=name):
            estimate_eigensystem(arguments["kernel_matrix"], arguments["targets"])
