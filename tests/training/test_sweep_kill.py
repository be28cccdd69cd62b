"""Sweeps in real processes that are killed, stopped, and run side by side."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

import enough.training.sweep as sweep_module
from enough.training import sweep_store
from enough.training.sweep import Sweep, SweepStoreError

TENTHS = [0.1 * i for i in range(10)]


def point(a, b):
    """A point of a few milliseconds that notes each of its calls in a file."""
    with open(os.environ["CALLS"], "a") as calls:
        calls.write(f"{a},{b!r}\n")
    time.sleep(0.003)
    return {"sum": a + b, "word": f"{a}/{b}", "list": [a, b], "nan": float("nan")}


def serve():
    """Fork one child a line of input: it runs the sweep; its number and its end are printed.

    Forking saves every child the seconds it takes to import torch.
    """
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.environ["CALLS"] = order["calls"]
            try:
                run(**order["run"])
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        print(pid, flush=True)


def make_sweep(store, size, lease=30.0):
    return Sweep(point, {"a": range(size // 10), "b": TENTHS}, store, lease=lease)


def run(store, size, workers="here", lease=30.0):
    sweep = make_sweep(store, size, lease)
    if workers == "loky":
        from loky import get_reusable_executor

        sweep.run(get_reusable_executor(max_workers=2))
    elif workers == "fork":
        sweep_module.WATCH = 0.05
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
            sweep.run(executor)
    else:
        sweep.run()


class Launcher:
    """Starts runs of the sweep in processes of their own, each leading its process group."""

    def __init__(self):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        code += "import test_sweep_kill; test_sweep_kill.serve()"
        self.groups = []
        self.server = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def open(self, folder):
        self.store = folder / "sweep.sqlite"
        self.calls = folder / "calls"
        self.calls.touch()

    def ask(self, **order):
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())

    def start(self, size, **options):
        pid = self.ask(
            run={"store": str(self.store), "size": size, **options}, calls=str(self.calls)
        )
        self.groups.append(pid)
        return pid

    def wait(self, pid):
        return self.ask(wait=pid)

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL

    def n_calls(self):
        return len(self.calls.read_text().splitlines())

    def wait_for_calls(self, n, seconds=60):
        end = time.monotonic() + seconds
        while self.n_calls() < n:
            assert time.monotonic() < end, "the sweep makes no progress"
            time.sleep(0.005)

    def end_all(self):
        for group in self.groups:
            if alive(group):
                os.killpg(group, signal.SIGKILL)
                self.wait(group)
        self.groups.clear()

    def close(self):
        self.server.stdin.close()
        self.server.stdout.close()
        self.server.wait(30)


def alive(group):
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # none, or on macOS only ended ones
        return False
    return True


def gone(group, seconds=60):
    end = time.monotonic() + seconds
    while alive(group) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(group)


@pytest.fixture(scope="module")
def server():
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def launcher(server, tmp_path):
    server.open(tmp_path)
    yield server
    server.end_all()


def assert_complete(store, size):
    """Compare with the table that an undisturbed sweep gives."""
    rows = [
        {"a": a, "b": b, "sum": a + b, "word": f"{a}/{b}", "list": [a, b], "nan": float("nan")}
        for a in range(size // 10)
        for b in TENTHS
    ]
    table = make_sweep(store, size).table().drop(columns="seconds")
    pd.testing.assert_frame_equal(table, pd.DataFrame(rows), check_exact=True)


@pytest.mark.parametrize(("workers", "in_flight", "kills"), [("here", 1, 10), ("fork", 4, 10)])
def test_kills_at_random_moments_lose_nothing(launcher, workers, in_flight, kills):
    store, size = launcher.store, 200
    chance = random.Random(workers)
    done = 0
    # The first kills come before and while the store is made, the others anywhere.
    for i in range(kills):
        pid = launcher.start(size, workers=workers)
        if i >= 3:
            launcher.wait_for_calls(launcher.n_calls() + 1)
        time.sleep(chance.uniform(0, 0.02 if i < 3 else 0.1 / in_flight))
        launcher.kill(pid)
        assert gone(pid)
        if store.exists():
            now = make_sweep(store, size).progress().done
            assert now >= done
            done = now
    assert launcher.n_calls() >= kills - 3
    assert done < size
    assert launcher.wait(launcher.start(size, workers=workers)) == 0
    assert_complete(store, size)
    # A kill repeats at most the points in flight.
    assert size <= launcher.n_calls() <= size + kills * in_flight


def test_loky_workers_go_away_with_their_killed_parent(launcher):
    size = 100
    pid = launcher.start(size, workers="loky")
    launcher.wait_for_calls(20)
    launcher.kill(pid)
    assert gone(pid)
    assert launcher.n_calls() < size
    assert launcher.wait(launcher.start(size)) == 0
    assert_complete(launcher.store, size)
    assert launcher.n_calls() <= size + 4


def test_two_processes_share_one_sweep(launcher):
    size = 100
    pids = [launcher.start(size), launcher.start(size)]
    assert [launcher.wait(pid) for pid in pids] == [0, 0]
    assert_complete(launcher.store, size)
    calls = launcher.calls.read_text().splitlines()
    assert len(calls) == len(set(calls)) == size


def test_a_process_takes_over_from_a_killed_one(launcher):
    size = 100
    first, second = launcher.start(size, lease=1e6), launcher.start(size, lease=1e6)
    launcher.wait_for_calls(30)
    launcher.kill(first)
    assert launcher.wait(second) == 0
    assert_complete(launcher.store, size)
    assert size <= launcher.n_calls() <= size + 1


def test_a_process_takes_over_from_a_stopped_one(launcher, monkeypatch):
    monkeypatch.setattr(sweep_store, "PATIENCE", 0.3)
    size = 100
    first, second = launcher.start(size, lease=1.0), launcher.start(size, lease=1.0)
    launcher.wait_for_calls(30)
    stop_outside_a_transaction(first, launcher.store, size)
    assert launcher.wait(second) == 0
    assert_complete(launcher.store, size)
    os.kill(first, signal.SIGCONT)
    assert launcher.wait(first) == 0
    assert_complete(launcher.store, size)


def stop_outside_a_transaction(pid, store, size):
    """A process that is stopped while it writes keeps the file locked, as with any database."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        try:
            make_sweep(store, size)._store.leave("nobody")
            return
        except SweepStoreError:
            os.kill(pid, signal.SIGCONT)
