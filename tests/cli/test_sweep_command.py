"""``enough sweep``: addresses, plans, and runs on real workers that are pinned and killed."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from enough import cli
from enough.cli import sweeps
from enough.runtime import PRESETS
from enough.runtime.recording import read_tables
from enough.training.sweep import Sweep
from enough.training.sweep_plan import SweepPlan

ROOT = Path(__file__).resolve().parents[2]
PLANS = sweeps.find_plans()
SIZE = 60


def square(x):
    """A point that notes its call, and takes as long, as the environment says."""
    if os.environ.get("SWEEP_CALLS"):
        with open(os.environ["SWEEP_CALLS"], "a") as calls:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
            print(os.getpid(), gpu, torch.get_num_threads(), x, file=calls)
    time.sleep(float(os.environ.get("SWEEP_DELAY", 0)))
    return {"y": x * x, "third": x / 3}


def fragile(x):
    if os.environ.get("SWEEP_FRAGILE") and x == 3:
        raise ArithmeticError("no value at 3")
    return {"y": x}


def plan(function, **grid):
    return SweepPlan(
        function, lambda preset, seed, device: grid, "overparameterization/random_features", "Tiny."
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command with a plan of the test's own."""

    def command(function, *arguments, **grid):
        monkeypatch.setattr(sweeps, "find_plans", lambda: {"part/tiny": plan(function, **grid)})
        files = ["--store", str(tmp_path / "s.sqlite"), "--results", str(tmp_path / "results")]
        return cli.main(["sweep", "part/tiny", *files, *arguments])

    record_with_known_sources(monkeypatch)
    return command


def record_with_known_sources(monkeypatch):
    """The plan's part is none of the package's: name one whose sources there are."""
    write = sweeps.write_table
    monkeypatch.setattr(
        sweeps, "write_table", lambda *a, **k: write(*a, **k | {"sources": ("enough.training",)})
    )


def recorded(tmp_path):
    (found,) = read_tables("overparameterization/random_features/tiny", root=tmp_path / "results")
    return found


@pytest.mark.parametrize(
    ("address", "insecure"),
    [
        ("tls://10.0.0.1:8786", False),
        ("tls://scheduler.example:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://127.9.9.9:1", False),
        ("tcp://[::1]:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://10.0.0.1:8786", True),
    ],
)
def test_addresses_that_are_taken(address, insecure):
    assert sweeps.check_address(address, insecure=insecure) == address


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.1:8786",
        "tcp://0.0.0.0:8786",
        "tcp://127.0.0.1.example:8786",
        "tcp://localhost.example:8786",
        "tcp://127.0.0.1@10.0.0.1:8786",
        "tcp://[2001:db8::1]:8786",
        "tcp://localhost@host:1",
    ],
)
def test_plain_tcp_to_elsewhere_needs_consent(address):
    with pytest.raises(ValueError, match=r"is not encrypted.*--insecure"):
        sweeps.check_address(address)
    assert sweeps.check_address(address, insecure=True) == address


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1:8786", "ws://127.0.0.1:8786", "tls://host", "tcp://:8786", "tls://host:many", ""],
)
@pytest.mark.parametrize("insecure", [False, True])
def test_other_addresses_are_refused(address, insecure):
    with pytest.raises(ValueError, match="expected tls://host:port"):
        sweeps.check_address(address, insecure=insecure)


def test_every_part_with_experiments_has_sweeps():
    parts = {name.split("/")[0] for name in PLANS}
    assert parts == set(sweeps.PARTS)


@pytest.mark.parametrize("name", PLANS)
def test_each_plan_makes_sweeps_of_growing_size(name):
    chosen = PLANS[name]
    assert (ROOT / "pyfiles" / "chapters" / f"{chosen.chapter}.py").exists()
    assert chosen.chapter.split("/")[0] == name.split("/")[0]
    made = {preset: chosen.sweep(preset=preset, seed=3) for preset in PRESETS}
    assert len(made["cpu"]) >= 4
    assert len(made["full"]) >= len(made["cpu"])
    first, other = (chosen.sweep(seed=seed).pending()[0] for seed in (0, 10))
    assert first["seed"] != other["seed"]
    assert made["cpu"].name.startswith("enough.")
    if "device" in first:
        assert chosen.sweep(device="cuda").pending()[0]["device"] == "cuda"


def test_a_plan_runs_one_of_its_points():
    point = PLANS["calibration/overlap-line"].sweep().pending()[0]
    function = PLANS["calibration/overlap-line"].function
    assert Sweep(function, [point | {"draws": 2}]).run().progress().done == 1


def test_wrong_arguments_of_a_plan_are_refused():
    with pytest.raises(ValueError, match="preset: expected one of"):
        plan(square, x=[1]).sweep(preset="huge")
    with pytest.raises(ValueError, match="seed"):
        plan(square, x=[1]).sweep(seed=-1)


def test_the_command_lists_and_refuses_names(capsys):
    assert cli.main(["sweep"]) == 0
    assert {line.split(":")[0] for line in capsys.readouterr().out.splitlines()} == set(PLANS)
    assert cli.main(["sweep", "part/none"]) == 1
    assert "expected one of overparameterization/" in capsys.readouterr().err


def test_the_command_goes_on_where_it_stopped_and_records(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWEEP_FRAGILE", "1")
    assert run(fragile, x=range(5)) == 1
    assert "fragile(x=3): ArithmeticError" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    monkeypatch.delenv("SWEEP_FRAGILE")
    assert run(fragile, x=range(5)) == 0
    assert "4 of 5 points are in the store" in capsys.readouterr().out
    found = recorded(tmp_path)
    assert found.table["y"].tolist() == [0, 1, 2, 3, 4]
    assert found.provenance["command"] == "enough sweep part/tiny --preset cpu --seed 0"
    assert found.provenance["seconds"] == pytest.approx(found.table["seconds"].sum())
    assert run(fragile, x=range(5)) == 0
    assert "5 of 5 points are in the store" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://10.0.0.1:8786"], "is not encrypted"),
        (["--local", "0"], "--local: expected a number >= 1, got 0"),
        (["--local", "3", "--gpus", "0,1"], "expected one worker a GPU, 2, got 3"),
        (["--gpus", "0,1,0"], "--gpus: expected each GPU once, as in 0,1, got '0,1,0'"),
        (["--gpus", ","], "--gpus: expected each GPU once, as in 0,1, got ','"),
    ],
)
def test_wrong_clusters_are_refused_in_one_sentence(run, arguments, message, capsys):
    assert run(square, *arguments, x=range(3)) == 1
    assert message in capsys.readouterr().err


def test_gpus_are_those_in_sight(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sweeps._gpus("all") == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert sweeps._gpus("all") == ["5", "3"]
    assert sweeps._gpus("7, 2") == ["7", "2"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="--gpus: expected a CUDA device, found none"):
        sweeps._gpus("all")


def without(name):
    """A `find_spec` that does not see one package."""
    return lambda asked: None if asked == name else find_spec(asked)


def having(name):
    return lambda asked: object() if asked == name else find_spec(asked)


@pytest.mark.parametrize("present", [False, True])
def test_the_dashboard_is_told_or_what_it_needs(monkeypatch, present):
    distributed = pytest.importorskip("distributed", reason="the test extra brings it")
    monkeypatch.setattr(sweeps, "find_spec", (having if present else without)("bokeh"))
    started = []
    monkeypatch.setattr(distributed, "SpecCluster", lambda **options: started.append(options))
    sweeps._local(argparse.Namespace(gpus=None, local=2))
    (options,) = started
    scheduler = options["scheduler"]["options"]
    assert scheduler["dashboard"] is present
    assert (scheduler["host"], scheduler["dashboard_address"]) == ("127.0.0.1", "127.0.0.1:0")
    assert [worker["options"]["host"] for worker in options["workers"].values()] == [
        "127.0.0.1"
    ] * 2

    client = argparse.Namespace(dashboard_link="http://127.0.0.1:1234/status")
    told = sweeps._dashboard(client, own=True)
    assert told == client.dashboard_link if present else "install the package 'bokeh'" in told
    # A scheduler elsewhere has its own packages.
    assert sweeps._dashboard(client, own=False) == client.dashboard_link


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine makes a certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)


def test_a_cluster_behind_tls(run, tmp_path, certificate, capsys):
    distributed = pytest.importorskip("distributed", reason="the test extra brings it")
    cert, key = certificate
    names = ("tls_scheduler", "tls_worker", "tls_client")
    files = {f"{n}_{kind}": path for n in names for kind, path in (("cert", cert), ("key", key))}
    security = distributed.Security(tls_ca_file=cert, require_encryption=True, **files)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, security=security, protocol="tls://",
        host="127.0.0.1", dashboard_address=None,
    ) as cluster:  # fmt: skip
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        options = ["--tls-ca", cert, "--tls-cert", cert, "--tls-key", key]
        assert run(square, "--scheduler", address, *options, x=range(6)) == 0
        assert recorded(tmp_path).table["y"].tolist() == [0, 1, 4, 9, 16, 25]


def test_workers_with_another_package_are_refused(monkeypatch):
    class Client:
        def wait_for_workers(self, n, timeout):
            pass

        def run(self, function):
            return {"a": function(), "b": "another"}

    with pytest.raises(ValueError, match="1 of the workers have another version"):
        sweeps._check_workers(Client())


def serve(order):
    """The command in a process of its own, with this file's plan."""
    sweeps.find_plans = lambda: {"part/tiny": plan(square, x=range(SIZE))}
    sweeps.cpu_count = lambda: 4  # two threads for each of two workers, not Dask's one
    record_with_known_sources(pytest.MonkeyPatch())
    sys.exit(cli.main(["sweep", "part/tiny", *order]))


def start(folder, *arguments, delay=0.4):
    order = ["--store", str(folder / "s.sqlite"), "--results", str(folder / "results"), *arguments]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import test_sweep_command as t\n"
    code += f"if __name__ == '__main__': t.serve({json.dumps(order)})"
    # A number of threads that the caller set would stay as it is.
    environment = {key: value for key, value in os.environ.items() if "NUM_THREADS" not in key}
    environment |= {"SWEEP_CALLS": str(folder / "calls"), "SWEEP_DELAY": str(delay)}
    (folder / "calls").touch()
    return subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)


def calls(folder):
    return [line.split() for line in (folder / "calls").read_text().splitlines()]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.02)


def test_killed_workers_and_a_killed_command_lose_nothing(run, tmp_path, monkeypatch):
    psutil = pytest.importorskip("psutil", reason="Dask brings it")
    first = start(tmp_path, "--gpus", "3,GPU-5", "--device", "cpu")
    try:
        wait_until(lambda: len(workers_of(tmp_path)) == 2)
        family = psutil.Process(first.pid).children(recursive=True)
        # Nobody beyond this machine can reach the cluster.
        ports = [port for p in (first, *family) for port in listening(psutil, p.pid)]
        assert len(ports) >= 4
        assert {address for address, _ in ports} == {"127.0.0.1"}

        victim = next(pid for pid, gpu in workers_of(tmp_path) if gpu == "GPU-5")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(workers_of(tmp_path)) == 3)
        family += psutil.Process(first.pid).children(recursive=True)
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        wait_until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family))
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    begun = calls(tmp_path)
    assert 3 <= len(begun) < SIZE
    # One worker is pinned to each GPU; the one that takes a dead one's place gets its GPU.
    assert sorted(gpu for _, gpu in workers_of(tmp_path)) == ["3", "GPU-5", "GPU-5"]
    assert {pid for pid, _ in workers_of(tmp_path)} <= {process.pid for process in family}
    assert {threads for _, _, threads, _ in begun} == {"2"}
    monkeypatch.setenv("SWEEP_CALLS", str(tmp_path / "calls"))
    assert run(square, x=range(SIZE)) == 0
    expected = pd.DataFrame([{"x": x, "y": x * x, "third": x / 3} for x in range(SIZE)])
    table = recorded(tmp_path).table.drop(columns="seconds")
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    # A kill repeats at most the points in flight: two a worker.
    assert SIZE <= len(calls(tmp_path)) <= SIZE + 2 + 4


def test_two_commands_share_one_store_and_write_one_table(tmp_path):
    commands = [start(tmp_path, delay=0.05) for _ in range(2)]
    try:
        assert [command.wait(60) for command in commands] == [0, 0]
    finally:
        for command in commands:
            if command.poll() is None:
                os.killpg(command.pid, signal.SIGKILL)
    assert sorted(int(x) for *_, x in calls(tmp_path)) == list(range(SIZE))
    assert len(workers_of(tmp_path)) == 2
    assert recorded(tmp_path).table["y"].tolist() == [x * x for x in range(SIZE)]


def workers_of(folder):
    return {(int(pid), gpu) for pid, gpu, *_ in calls(folder)}


def listening(psutil, pid):
    found = psutil.Process(pid).net_connections(kind="inet")
    return [tuple(c.laddr) for c in found if c.status == psutil.CONN_LISTEN]
