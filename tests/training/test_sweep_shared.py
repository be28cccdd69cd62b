"""Two sweeps on one store, each on workers of a cluster of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from enough.training.sweep import Sweep

CALLS: list[int] = []
LOCK = threading.Lock()


def note(x):
    with LOCK:
        CALLS.append(x)
    return {"y": -x}


def test_two_clusters_share_the_points_of_one_store(tmp_path):
    distributed = pytest.importorskip("distributed", reason="the test extra brings it")
    CALLS.clear()
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    with (
        distributed.LocalCluster(**options, dashboard_address="127.0.0.1:0") as one,
        distributed.LocalCluster(**options, dashboard_address="127.0.0.1:0") as two,
        distributed.Client(one, set_as_default=False) as first,
        distributed.Client(two, set_as_default=False) as second,
        ThreadPoolExecutor(2) as threads,
    ):
        sweeps = [Sweep(note, {"x": range(80)}, tmp_path / "s") for _ in range(2)]
        runs = [
            threads.submit(sweep.run, client.get_executor())
            for sweep, client in zip(sweeps, (first, second), strict=True)
        ]
        tables = [run.result().table()["y"].tolist() for run in runs]
    assert tables == [[-x for x in range(80)]] * 2
    assert sorted(CALLS) == list(range(80))
    assert Sweep(note, {"x": range(80)}, tmp_path / "s").progress().done == 80
