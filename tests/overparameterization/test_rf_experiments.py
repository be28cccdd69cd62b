"""The sweeps: theory meets simulation, and the tables hold what they promise."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from enough.data import digits
from enough.overparameterization import (
    experiments,
    neural_tangent_kernel,
    optimal_fitting_ratio,
    optimal_ridge,
    rf_risk,
)
from enough.runtime import named_generator
from enough.training import Sweep


def test_simulation_meets_theory():
    """Ridges down to 0, n = k included, two noise levels, 40 trials."""
    table = experiments.gaussian_table(
        n_samples=[48, 128],
        n_features=[32, 128, 512],
        ridges=[0.0, 1e-3, 0.1, 10.0],
        noise_variances=[0.0, 0.5],
        n_modes=800,
        trials=40,
        seed=11,
    )
    assert len(table) == 48
    summary = experiments.agreement(table)
    assert summary["test_median"] < 0.05
    assert summary["train_median"] < 0.05
    assert summary["train_where_zero"] < 1e-10
    critical = (table.ridge == 0) & (table.n_samples == table.n_features)
    assert np.isinf(table.test_theory[critical]).all()
    assert (table.test_mse[critical] > 20).all()
    # Test errors are right within four standard errors and 3 %, point by point; theory is
    # a limit of many samples and slowest at n = k.
    away = table[table.n_samples != table.n_features]
    gap = (away.test_mse - away.test_theory).abs()
    assert (gap < 4 * away.test_se + 0.03 * away.test_theory).all()
    # The corrections that matter here are far larger than the tolerance.
    assert table.test_theory[~critical].max() > 10 * table.test_theory.min()


def test_kernel_regression_is_the_limit_of_many_features():
    point = experiments.gaussian_point(
        60, math.inf, [0.0, 0.5], [0.2], n_modes=300, trials=40, seed=1
    )
    assert point["test_mse"].shape == point["train_mse"].shape == (40, 1, 2)
    mean = point["test_mse"].mean(0)
    error = point["test_mse"].std(0, ddof=1) / math.sqrt(40)
    assert (np.abs(mean - point["test_theory"]) < 4 * error + 0.03 * mean).all()
    index = np.arange(1.0, 301.0)
    want = rf_risk(index**-1.5, index**-0.75, 60, math.inf, [0.0, 0.5], 0.2)
    np.testing.assert_allclose(point["test_theory"][0], want.test_mse, rtol=1e-12)


def test_points_are_reproducible_and_fit_a_sweep():
    options = {"ridges": [0.0, 0.1], "n_modes": 50, "trials": 3}
    one = experiments.gaussian_point(10, 20, seed=4, **options)
    again = pickle.loads(pickle.dumps(experiments.gaussian_point))(10, 20, seed=4, **options)
    other = experiments.gaussian_point(10, 20, seed=5, **options)
    np.testing.assert_array_equal(one["test_mse"], again["test_mse"])
    assert (one["test_mse"] != other["test_mse"]).all()
    grid = {"n_samples": [10], "n_features": [20, 30], **{k: [v] for k, v in options.items()}}
    table = Sweep(experiments.gaussian_point, grid | {"seed": [4]}, store=None).run().table()
    np.testing.assert_array_equal(np.array(table["test_mse"][0]), one["test_mse"])


def test_blocks_of_trials_measure_what_one_trial_measures(monkeypatch):
    """The batch is solved as a loop over its trials would be."""
    whole = experiments.gaussian_point(12, 9, [0.0, 0.3], n_modes=40, trials=200, seed=0)
    monkeypatch.setattr(experiments.random_features, "_MEMORY", 1)
    single = experiments.gaussian_point(12, 9, [0.0, 0.3], n_modes=40, trials=200, seed=0)
    assert single["test_mse"].shape == whole["test_mse"].shape
    a, b = (np.log(p["test_mse"][:, 0, 1]) for p in (whole, single))
    assert abs(a.mean() - b.mean()) < 4 * math.hypot(a.std(), b.std()) / math.sqrt(200)


def test_digits_follow_the_theory_of_their_kernel():
    table = experiments.digits_table(
        n_samples=[100, 600], n_features=[64, 512], ridges=[1e-2, 0.3, 10.0], trials=4, seed=3
    )
    assert len(table) == 12
    assert experiments.agreement(table)["test_median"] < 0.1
    # Without the correction for the finite population the prediction is worse.
    large = table[table.n_samples == 600]
    corrected = (large.test_mse / large.test_theory - 1).abs()
    plain = (large.test_mse / large.test_theory_uncorrected - 1).abs()
    assert plain.max() > 3 * corrected.max()
    classes = experiments.digits_point(300, math.inf, [0.1], target="classes", trials=2)
    assert classes["test_mse"].shape == (2, 1)
    assert classes["test_mse"].mean() == pytest.approx(classes["test_theory"][0], rel=0.1)
    with pytest.raises(ValueError, match="n_samples"):
        experiments.digits_point(1797, 10, [0.1])
    with pytest.raises(ValueError, match="target"):
        experiments.digits_point(10, 10, [0.1], target="zeros")


def test_digits_interpolation_against_a_solve_for_each_trial():
    n, ridges = 40, [0.5, 4.0]
    table = experiments.digits_interpolation_table(
        n, relative_noises=[0.0, 3.0], ridges=ridges, depth=1, trials=2, seed=9
    )
    assert len(table) == 6  # ridge 0 was added
    data = digits(dtype=torch.float64)
    x = data.x - data.x.mean(0)
    x = x / x.square().sum(1).mean().sqrt()
    y = 1.0 - 2.0 * (data.y % 2).numpy()
    kernel = neural_tangent_kernel(x, depth=1).numpy()
    stream = named_generator(9, "digits interpolation", n)
    draws = []
    for _ in range(2):
        order = torch.rand(1797, generator=stream).argsort().numpy()
        noise = torch.randn(n, 1, dtype=torch.float64, generator=stream).numpy()[:, 0]
        draws.append((order[:n], order[n:], noise))

    def errors(ridge, variance):
        found = []
        for train, test, noise in draws:
            labels = y[train] + math.sqrt(variance) * noise
            dual = np.linalg.solve(kernel[np.ix_(train, train)] + ridge * np.eye(n), labels)
            test_error = ((kernel[np.ix_(test, train)] @ dual - y[test]) ** 2).mean() + variance
            found.append((test_error, ((ridge * dual) ** 2).mean()))
        return np.mean(found, 0)

    variance = 3.0 * errors(0.0, 0.0)[0]
    for row in table.itertuples():
        test_mse, train_mse = errors(row.ridge, variance if row.relative_noise else 0.0)
        assert row.test_mse == pytest.approx(test_mse, rel=1e-6)
        assert row.train_mse == pytest.approx(train_mse, rel=1e-6, abs=1e-12)
        assert row.ratio == pytest.approx(train_mse / test_mse, rel=1e-6, abs=1e-12)
        predicted = optimal_fitting_ratio(row.alpha, row.beta, row.relative_noise)
        assert row.ratio_theory == predicted.ratio
    with pytest.raises(ValueError, match="n_samples"):
        experiments.digits_interpolation_table(1000)


def test_more_is_better_table():
    table = experiments.more_is_better_table(
        n_samples=[64, 256], n_features=[64, 256, math.inf], n_modes=500
    )
    assert len(table) == 2 * 3 * 3
    best = table[table.rule == "optimal"].pivot(
        index="n_samples", columns="n_features", values="test_mse"
    )
    assert (np.diff(best, axis=0) < 0).all()
    assert (np.diff(best, axis=1) < 0).all()
    index = np.arange(1.0, 501.0)
    want = optimal_ridge(index**-1.5, index**-0.75, 64, 256, 0.5)
    assert best.loc[64, 256] == pytest.approx(want.test_mse, rel=1e-12)
    fixed = table[(table.rule == "fixed") & (table.ridge == 1e-6)].set_index(
        ["n_samples", "n_features"]
    )
    assert fixed.test_mse[64, 64] > 10 * fixed.test_mse[64, 256]
    assert fixed.test_mse[256, 64] < fixed.test_mse[256, 256]


def test_interpolation_table():
    table = experiments.interpolation_table(
        tasks=[(1.5, 2.0)], relative_noises=[0.5, 5.0], n_samples=500, n_modes=10**8
    )
    assert list(table.ratio_theory) == [0.0, pytest.approx(0.23715, abs=1e-4)]
    np.testing.assert_allclose(table.ratio, table.ratio_theory, atol=0.01)
    np.testing.assert_allclose(table.mse, table.mse_theory, rtol=0.01)
    np.testing.assert_allclose(table.overfitting, 1.5, rtol=5e-3)


def test_agreement_summarizes_relative_errors():
    table = pd.DataFrame(
        {
            "test_mse": [1.1, 2.0, 7.0],
            "test_theory": [1.0, 2.5, math.inf],
            "train_mse": [0.5, 0.3, 1e-12],
            "train_theory": [0.5, 0.2, 0.0],
        }
    )
    summary = experiments.agreement(table)
    assert summary["test_median"] == pytest.approx(0.15)
    assert summary["test_max"] == pytest.approx(0.2)
    assert summary["train_max"] == pytest.approx(0.5)
    assert summary["test_points"] == summary["train_points"] == 2
    assert summary["train_where_zero"] == 1e-12
    with pytest.raises(ValueError, match="train_theory"):
        experiments.agreement(table.drop(columns="train_theory"))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_features": 2.5}, "n_features"),
        ({"trials": 1}, "trials"),
        ({"ridges": [-1.0]}, "ridge"),
        ({"noise_variances": [-1.0]}, "noise_variance"),
    ],
)
def test_rejects_what_makes_no_sense(changes, name):
    arguments = {"n_samples": 5, "n_features": 5, "ridges": [0.1], "n_modes": 10}
    with pytest.raises(ValueError, match=name):
        experiments.gaussian_point(**(arguments | changes))
