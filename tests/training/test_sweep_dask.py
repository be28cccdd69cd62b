"""Sweeps on a Dask cluster on this machine, with a worker that dies on the way."""

import os
import signal
import threading
import time

import pytest

from enough.training.sweep import Progress, Sweep, SweepError

distributed = pytest.importorskip("distributed", reason="the test extra brings it")


def slow_square(x, delay):
    time.sleep(delay)
    return {"y": x * x, "pid": os.getpid()}


def fragile(x):
    if os.environ.get("SWEEP_TEST_FRAGILE") and x == 3:
        raise ArithmeticError("no value at 3")
    return {"y": x}


class Holding(distributed.cfexecutor.ClientExecutor):
    """Holds on to its futures, so that the cluster keeps their results in memory."""

    def submit(self, *arguments):
        self.held = [*getattr(self, "held", []), super().submit(*arguments)]
        return self.held[-1]


@pytest.fixture
def cluster(request):
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=request.param,
            dashboard_address=None,
            host="127.0.0.1" if request.param else None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("cluster", [False], indirect=True)
def test_a_failed_point_is_computed_again_not_remembered_by_the_cluster(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.setenv("SWEEP_TEST_FRAGILE", "1")
    sweep = Sweep(fragile, {"x": range(6)}, tmp_path / "s")
    executor = Holding(cluster)
    with pytest.raises(SweepError, match=r"fragile\(x=3\): ArithmeticError: no value at 3"):
        sweep.run(executor)
    assert sweep.progress() == Progress(done=5, failed=1, total=6)
    monkeypatch.delenv("SWEEP_TEST_FRAGILE")
    assert sweep.run(executor).table()["y"].tolist() == list(range(6))


@pytest.mark.parametrize("cluster", [True], indirect=True)
def test_a_killed_worker_loses_no_point(cluster, tmp_path):
    addresses = cluster.scheduler_info()["workers"]
    assert len(addresses) == 2
    assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
    victim = next(iter(cluster.run(os.getpid).values()))
    sweep = Sweep(slow_square, {"x": range(40), "delay": [0.03]}, tmp_path / "s")
    killed = []

    def kill_on_the_way():
        while sweep.progress().done < 8:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        killed.append(sweep.progress().done)

    killer = threading.Thread(target=kill_on_the_way)
    killer.start()
    sweep.run(cluster.get_executor())
    killer.join()
    assert killed[0] < 40
    table = sweep.table()
    assert table["y"].tolist() == [x * x for x in range(40)]
    assert os.getpid() not in set(table["pid"])
