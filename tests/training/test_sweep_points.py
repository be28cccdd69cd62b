"""One function at many points, here and on executors."""

import operator
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from enough.training.sweep_points import map_points

SEEN = []


def late(x, workers=1):
    """Slower the earlier, so that results come back in the opposite order."""
    time.sleep(0.03 * (3 - x))
    SEEN.append((x, threading.get_ident()))
    return np.float32(x) / np.float32(3)


def broken(x):
    if x == 1:
        raise ArithmeticError("no value at 1")
    return x


POINTS = [{"x": x, "workers": 2} for x in range(4)]


def test_here_each_point_is_computed_when_it_is_asked_for():
    SEEN.clear()
    results = map_points(late, POINTS)
    assert SEEN == []
    assert next(results) == 0
    assert [x for x, _ in SEEN] == [0]
    assert list(results) == [np.float32(x) / np.float32(3) for x in (1, 2, 3)]


def test_threads_return_the_results_themselves_in_the_order_of_the_points():
    SEEN.clear()
    with ThreadPoolExecutor(4) as executor:
        results = list(map_points(late, POINTS, executor))
    assert results == [np.float32(x) / np.float32(3) for x in range(4)]
    assert {type(result) for result in results} == {np.float32}
    assert [x for x, _ in SEEN] == [3, 2, 1, 0]
    assert threading.get_ident() not in {thread for _, thread in SEEN}


def test_dask_takes_arguments_that_it_has_names_for_itself():
    distributed = pytest.importorskip("distributed", reason="the test extra brings it")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with (
        distributed.LocalCluster(processes=False, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        results = list(map_points(late, POINTS, client.get_executor()))
    assert results == [np.float32(x) / np.float32(3) for x in range(4)]


@pytest.mark.parametrize("threads", [False, True])
def test_an_exception_comes_at_its_point(threads):
    points = [{"x": x} for x in range(3)]
    with ThreadPoolExecutor(1) as executor:
        results = map_points(broken, points, executor if threads else None)
        assert next(results) == 0
        with pytest.raises(ArithmeticError, match="no value at 1"):
            next(results)


def test_anything_else_than_an_executor_is_refused():
    with pytest.raises(ValueError, match=r"executor: expected a concurrent\.futures\.Executor"):
        map_points(operator.neg, POINTS, executor=4)
