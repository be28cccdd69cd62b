"""Ridge paths against least squares, scikit-learn, high precision and refitting by hand."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from enough.overparameterization import ridge_path

RIDGES = np.array([0.0, 1e-3, 0.5, 20.0])
NAMES = (
    "coefficients",
    "train_predictions",
    "test_predictions",
    "train_residuals",
    "leave_one_out_residuals",
    "leave_one_out_mse",
    "generalized_cross_validation",
    "degrees_of_freedom",
)
SHAPES = {"tall": (14, 5), "wide": (6, 17), "square": (9, 9)}


def problem(n, p, outputs=2, n_test=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n, p)),
        rng.standard_normal((n, outputs)),
        rng.standard_normal((n_test, p)),
    )


def solve(features, targets, ridge):
    """Least squares on the problem with sqrt(ridge) I stacked below."""
    p = features.shape[1]
    stacked = np.vstack([features, math.sqrt(ridge) * np.eye(p)])
    padded = np.vstack([targets, np.zeros((p, targets.shape[1]))])
    return np.linalg.lstsq(stacked, padded, rcond=None)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["auto", "svd"])
def test_matches_least_squares(shape, method):
    features, targets, test = problem(*SHAPES[shape])
    path = ridge_path(features, targets, RIDGES, test, method=method)
    assert path.coefficients.shape == (4, features.shape[1], 2)
    assert path.train_predictions.shape == (4, len(features), 2)
    assert path.test_predictions.shape == (4, 4, 2)
    for i, ridge in enumerate(RIDGES):
        if ridge:
            want = solve(features, targets, ridge)
        else:
            want = np.linalg.lstsq(features, targets, rcond=None)[0]
        np.testing.assert_allclose(path.coefficients[i], want, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(path.train_predictions[i], features @ want, atol=1e-11)
        np.testing.assert_allclose(path.train_residuals[i], targets - features @ want, atol=1e-11)
        np.testing.assert_allclose(path.test_predictions[i], test @ want, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_and_auto_match_scikit_learn(shape):
    features, targets, test = problem(*SHAPES[shape])
    ridges = RIDGES[2:]
    for method in ("gram", "auto"):
        path = ridge_path(features, targets, ridges, test, method=method)
        for i, ridge in enumerate(ridges):
            model = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(features, targets)
            np.testing.assert_allclose(path.coefficients[i], model.coef_.T, atol=1e-11)
            np.testing.assert_allclose(path.test_predictions[i], model.predict(test), atol=1e-11)
            np.testing.assert_allclose(
                path.train_residuals[i], targets - model.predict(features), atol=1e-11
            )


@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_ill_conditioned_features_keep_their_digits(shape):
    """Singular values from 1 to 1e-9; the answer in 60 digits. A Gram matrix would lose them."""
    n, p = shape
    rng = np.random.default_rng(1)
    r = min(n, p)
    left = np.linalg.qr(rng.standard_normal((n, r)))[0]
    right = np.linalg.qr(rng.standard_normal((p, r)))[0]
    features = left * np.geomspace(1, 1e-9, r) @ right.T
    weights = rng.standard_normal((p, 1))
    targets = features @ weights
    ridges = np.array([1e-20, 1e-16, 1e-6, 1.0])
    path = ridge_path(features, targets, ridges)
    with mp.workdps(60):
        f, y = mp.matrix(features.tolist()), mp.matrix(targets.tolist())
        for i, ridge in enumerate(ridges):
            k = f * f.T + mp.mpf(float(ridge)) * mp.eye(n)
            want = np.array((f.T * mp.lu_solve(k, y)).tolist(), dtype=float)
            # The condition number of the problem times the machine epsilon.
            condition = 1 / math.sqrt(max(ridge, 1e-18))
            error = np.abs(path.coefficients[i] - want).max() / np.abs(want).max()
            assert error < 20 * 2.2e-16 * condition
            fitted = np.array((f * f.T * mp.lu_solve(k, y)).tolist(), dtype=float)
            np.testing.assert_allclose(path.train_predictions[i], fitted, atol=1e-14)


def test_auto_avoids_the_gram_matrix_where_it_is_inaccurate():
    rng = np.random.default_rng(5)
    left, right = (np.linalg.qr(rng.standard_normal((p, 25)))[0] for p in (40, 25))
    features = left * np.geomspace(1, 1e-7, 25) @ right.T
    targets = rng.standard_normal((40, 2))
    tiny = np.array([1e-13])
    want = solve(features, targets, 1e-13)
    scale = np.abs(want).max()
    auto = np.abs(ridge_path(features, targets, tiny).coefficients[0] - want).max() / scale
    gram = np.abs(ridge_path(features, targets, tiny, method="gram").coefficients[0] - want)
    assert auto < 1e-8 < 1e-5 < gram.max() / scale


@pytest.mark.parametrize("shape", [(10, 6), (6, 10)])
def test_rank_deficient_features_get_the_minimum_norm_solution(shape):
    rng = np.random.default_rng(2)
    features = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    targets = rng.standard_normal((shape[0], 2))
    # A ridge far below the resolution must not resurrect the null space.
    path = ridge_path(features, targets, [0.0, 1e-60])
    want = np.linalg.pinv(features) @ targets
    np.testing.assert_allclose(path.coefficients[0], want, atol=1e-12)
    np.testing.assert_allclose(path.coefficients[1], want, atol=1e-12)
    np.testing.assert_allclose(path.degrees_of_freedom, [3.0, 3.0], rtol=1e-12)
    zero = ridge_path(np.zeros(shape), targets, [0.0, 1.0])
    assert not zero.coefficients.any()
    np.testing.assert_array_equal(zero.train_residuals[0], targets)


def test_the_cutoff_follows_the_dtype_and_rtol():
    rng = np.random.default_rng(3)
    exact = rng.standard_normal((30, 4)) @ rng.standard_normal((4, 20))
    targets = rng.standard_normal((30, 1))
    single = ridge_path(exact.astype(np.float32), targets, [0.0])
    want = np.linalg.lstsq(exact, targets, rcond=None)[0]
    np.testing.assert_allclose(single.coefficients[0], want, atol=1e-5)
    assert single.coefficients.dtype == np.float32
    # With the cutoff of float64, rounding errors of float32 count as directions of their own.
    loose = ridge_path(exact.astype(np.float32), targets, [0.0], rtol=1e-14)
    assert np.abs(loose.coefficients[0] - want).max() > 1e3
    assert loose.degrees_of_freedom[0] == pytest.approx(20)
    values = np.diag([1.0, 0.1, 0.01])
    cut = ridge_path(values, np.ones((3, 1)), [0.0], rtol=0.05)
    np.testing.assert_allclose(cut.coefficients[0, :, 0], [1.0, 10.0, 0.0])


@pytest.mark.parametrize("method", ["svd", "gram"])
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_give_what_their_members_give(shape, method):
    ridges = RIDGES[1:] if method == "gram" else RIDGES
    members = [problem(*SHAPES[shape], seed=s) for s in range(6)]
    features, targets, test = (
        np.stack(m).reshape(2, 3, *m[0].shape) for m in zip(*members, strict=True)
    )
    batch = ridge_path(features, targets, ridges, test, method=method)
    assert batch.coefficients.shape == (len(ridges), 2, 3, features.shape[-1], 2)
    for s, member in enumerate(members):
        one = ridge_path(*member[:2], ridges, member[2], method=method)
        at = (slice(None), s // 3, s % 3)
        for name in NAMES:
            np.testing.assert_allclose(
                getattr(batch, name)[at], getattr(one, name), rtol=1e-9, atol=1e-11
            )


def test_targets_may_be_shared_and_may_lack_an_outputs_axis():
    features, targets, test = problem(8, 5, outputs=1)
    full = ridge_path(features, targets, RIDGES, test)
    flat = ridge_path(features, targets[:, 0], RIDGES, test)
    for name in NAMES[:-1]:
        np.testing.assert_array_equal(getattr(flat, name), getattr(full, name)[..., 0])
    assert flat.degrees_of_freedom.shape == full.degrees_of_freedom.shape == (4,)
    batch = np.stack([features, 2 * features])
    shared = ridge_path(batch, targets[:, 0], RIDGES, test)
    assert shared.test_predictions.shape == (4, 2, 4)
    np.testing.assert_allclose(shared.test_predictions[:, 0], flat.test_predictions, atol=1e-12)
    outputs = ridge_path(batch, np.hstack([targets] * 3), RIDGES)
    assert outputs.coefficients.shape == (4, 2, 5, 3)
    each = ridge_path(batch, np.stack([targets[:, 0]] * 2), RIDGES)
    assert each.coefficients.shape == (4, 2, 5)
    assert outputs.test_predictions is None
    assert ridge_path(features, targets, 0.5).coefficients.shape == (1, 5, 1)


def refit_errors(features, targets, ridge):
    """Leave-one-out residuals by refitting without each sample."""
    errors = np.empty_like(targets)
    for i in range(len(features)):
        keep = np.arange(len(features)) != i
        if ridge:
            weights = solve(features[keep], targets[keep], ridge)
        else:
            weights = np.linalg.lstsq(features[keep], targets[keep], rcond=1e-12)[0]
        errors[i] = targets[i] - features[i] @ weights
    return errors


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["svd", "gram"])
def test_leave_one_out_matches_refitting(shape, method):
    features, targets, _ = problem(*SHAPES[shape])
    ridges = [1e-12, 1e-3, 0.5, 20.0, 0.0]
    ridges = ridges[1:4] if method == "gram" else ridges
    path = ridge_path(features, targets, ridges, method=method)
    for i, ridge in enumerate(ridges):
        want = refit_errors(features, targets, ridge)
        np.testing.assert_allclose(path.leave_one_out_residuals[i], want, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            path.leave_one_out_mse[i], (want**2).mean(0), rtol=1e-6, atol=1e-9
        )


def test_leave_one_out_with_a_sample_no_other_can_explain():
    """Rank-deficient features in which one row has a direction of its own."""
    rng = np.random.default_rng(4)
    features = np.zeros((7, 5))
    features[:6, :2] = rng.standard_normal((6, 2))
    features[6] = [0.3, -0.2, 1.5, 0.0, 0.0]
    targets = rng.standard_normal((7, 1))
    path = ridge_path(features, targets, [0.0])
    want = refit_errors(features, targets, 0.0)
    np.testing.assert_allclose(path.leave_one_out_residuals[0], want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_generalized_cross_validation_and_degrees_of_freedom(shape):
    features, targets, _ = problem(*SHAPES[shape])
    path = ridge_path(features, targets, RIDGES)
    n = len(features)
    for i, ridge in enumerate(RIDGES):
        kernel = features @ features.T
        hat = kernel @ np.linalg.pinv(kernel + ridge * np.eye(n), rcond=1e-12)
        assert path.degrees_of_freedom[i] == pytest.approx(np.trace(hat), rel=1e-9)
        if n > np.linalg.matrix_rank(features) or ridge:
            residuals = targets - hat @ targets
            want = (residuals**2).mean(0) / (1 - np.trace(hat) / n) ** 2
        else:  # the limit from above
            inverse = np.linalg.inv(kernel)
            want = n * ((inverse @ targets) ** 2).sum(0) / np.trace(inverse) ** 2
        np.testing.assert_allclose(path.generalized_cross_validation[i], want, rtol=1e-6)


def test_tiny_residuals_keep_their_digits():
    features, targets, _ = problem(6, 17, outputs=1)
    ridge = 1e-13
    path = ridge_path(features, targets, [ridge], method="svd")
    want = ridge * np.linalg.solve(features @ features.T + ridge * np.eye(6), targets)
    np.testing.assert_allclose(path.train_residuals[0], want, rtol=1e-9)


def test_returns_what_was_given():
    features, targets, test = (torch.tensor(a, dtype=torch.float32) for a in problem(8, 5))
    path = ridge_path(features, targets, [0.0, 1.0], test)
    for name in ("coefficients", "train_predictions", "test_predictions", "ridges",
                 "leave_one_out_mse"):  # fmt: skip
        result = getattr(path, name)
        assert isinstance(result, torch.Tensor)
        assert result.dtype == torch.float32
    integers = ridge_path(np.eye(3, dtype=int), [1, 2, 3], [1])
    assert integers.coefficients.dtype == np.float64
    np.testing.assert_allclose(integers.coefficients, [[0.5, 1.0, 1.5]])
    weights = torch.ones(8, 5, requires_grad=True)
    assert not ridge_path(weights, targets, [1.0]).coefficients.requires_grad


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"features": np.ones(4)}, "features"),
        ({"features": np.full((4, 2), np.nan)}, "features"),
        ({"targets": np.ones(3)}, "targets"),
        ({"targets": np.ones((3, 4))}, "targets"),
        ({"targets": np.ones((2, 4, 1))}, "targets"),
        ({"targets": np.array([1, 2, 3, np.inf])}, "targets"),
        ({"ridges": [-1.0]}, "ridges"),
        ({"ridges": [np.nan]}, "ridges"),
        ({"ridges": [[1.0]]}, "ridges"),
        ({"ridges": []}, "ridges"),
        ({"ridges": [0.0], "method": "gram"}, "ridges"),
        ({"method": "cholesky"}, "method"),
        ({"test_features": np.ones((5, 3))}, "test_features"),
        ({"rtol": -1.0}, "rtol"),
    ],
)
def test_rejects_what_makes_no_sense(changes, name):
    arguments = {"features": np.ones((4, 2)), "targets": np.ones(4), "ridges": [1.0]}
    with pytest.raises(ValueError, match=name):
        ridge_path(**(arguments | changes))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (2, 5, 5), (3, 4, 9)])
@pytest.mark.parametrize("method", ["svd", "gram"])
def test_blocks_of_ridges_change_nothing(monkeypatch, shape, method):
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(*shape, dtype=torch.float64, generator=draw)
    targets = torch.randn(*shape[:-1], 2, dtype=torch.float64, generator=draw)
    test = torch.randn(*shape[:-2], 3, shape[-1], dtype=torch.float64, generator=draw)
    ridges = [0.0, 1e-3, 0.5, 2.0, 30.0][method == "gram" :]
    names = ["coefficients", "train_predictions", "test_predictions", "train_residuals"]
    names += ["degrees_of_freedom", "leave_one_out_residuals", "leave_one_out_mse"]
    names += ["generalized_cross_validation"]
    whole = ridge_path(features, targets, ridges, test, method=method)
    expected = {name: getattr(whole, name) for name in names}
    rank, rows = min(shape[-2:]), max(shape[-2:])
    each = 8 * math.prod(shape[:-2]) * (7 * rank + 2 * rows)
    for memory in (1, 2 * each):  # one ridge at a time, and two
        monkeypatch.setattr("enough.overparameterization.ridge._MEMORY", memory)
        blocks = ridge_path(features, targets, ridges, test, method=method)
        for name in names:
            torch.testing.assert_close(getattr(blocks, name), expected[name], rtol=1e-9, atol=1e-12)
