"""The tables of the experiments are the same whatever computes their points."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import enough.calibration.experiments as calibration
import enough.overparameterization.experiments as overparameterization

TABLES = {
    "calibrated": (
        calibration.calibrated_table, ((50, 200), (5, 15)), {"trials": 20}, 4,
    ),
    "coverage": (
        calibration.coverage_table, ((1.0, 0.5),),
        {"n_samples": 200, "datasets": 3, "resamples": 20}, 2,
    ),
    "overlap line": (calibration.overlap_line_table, ((2, 16), (0.0, 0.5)), {"draws": 3}, 4),
    "delay": (
        overparameterization.delay_table, ([20, 40], [0.5, 2.0], 10),
        {"steps": 50, "seeds": 2, "width": 50}, 2,
    ),
    "robust size": (overparameterization.robust_size_table, ((6, 8),), {"trials": 2}, 2),
    "gaussian": (
        overparameterization.gaussian_table, ((16, 32), (8, 64), (0.0, 0.1), (0.0, 0.5)),
        {"n_modes": 100, "trials": 3}, 4,
    ),
    "digits": (
        overparameterization.digits_table, ((16,), (8, 32), (0.0, 0.1)), {"trials": 2}, 2,
    ),
    "separation": (
        overparameterization.separation_table, ((5.0, 20.0), 40, 500),
        {"width": 16, "n_test": 20, "seeds": 2, "record": (0, 1, 3)}, 2,
    ),
}  # fmt: skip


class Counting(ThreadPoolExecutor):
    """Counts the points that it is given, and the threads that compute them."""

    def submit(self, function, /, *arguments, **options):
        self.count = getattr(self, "count", 0) + 1
        return super().submit(function, *arguments, **options)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_the_same_with_and_without_an_executor(name):
    table, arguments, options, points = TABLES[name]
    alone = table(*arguments, seed=3, **options)
    with Counting(2) as executor:
        shared = table(*arguments, seed=3, executor=executor, **options)
        assert executor.count == points
    pd.testing.assert_frame_equal(alone, shared, check_exact=True)
    other = table(*arguments, seed=4, **options)
    assert not alone.equals(other)


def test_a_table_s_points_leave_this_thread(monkeypatch):
    module = overparameterization.random_features
    threads = set()
    point = module.gaussian_point

    def noted(**arguments):
        threads.add(threading.get_ident())
        return point(**arguments)

    monkeypatch.setattr(module, "gaussian_point", noted)
    _, arguments, options, _ = TABLES["gaussian"]
    with ThreadPoolExecutor(2) as executor:
        module.gaussian_table(*arguments, executor=executor, **options)
    assert threads
    assert threading.get_ident() not in threads


def test_the_rows_of_a_table_are_those_of_its_points():
    found = overparameterization.gaussian_table((16, 32), (8, 64), (0.1,), n_modes=50, trials=3)
    rows = [
        overparameterization.gaussian_point(n, k, [0.1], n_modes=50, trials=3)["test_mse"].mean()
        for n in (16, 32)
        for k in (8, 64)
    ]
    assert found["n_samples"].tolist() == [16, 16, 32, 32]
    assert found["n_features"].tolist() == [8, 64, 8, 64]
    np.testing.assert_array_equal(found["test_mse"], rows)
