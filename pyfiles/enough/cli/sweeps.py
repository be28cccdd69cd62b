"""``enough sweep``: a named sweep here, on this machine's cores, or on a Dask cluster."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import ipaddress
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from enough.runtime import cpu_count
from enough.runtime.recording import fingerprint, write_table
from enough.training.sweep import Sweep, SweepError, SweepStoreError
from enough.training.sweep_plan import SweepPlan

__all__ = ["PARTS", "check_address", "find_plans", "run_sweep"]

PARTS = ("overparameterization", "calibration", "rewards", "quantization", "scaling")


def find_plans() -> dict[str, SweepPlan]:
    """Gather the sweeps of all parts.

    Returns
    -------
    dict of str to SweepPlan
        From ``"part/name"``, in the order of the parts.
    """
    found = {}
    for part in PARTS:
        module = f"enough.{part}.experiments"
        if find_spec(f"enough.{part}") and find_spec(module) and find_spec(f"{module}.sweeps"):
            plans = importlib.import_module(f"{module}.sweeps").SWEEPS
            found |= {f"{part}/{name}": plan for name, plan in plans.items()}
    return found


def run_sweep(root: Path, arguments: argparse.Namespace) -> int:
    """Run the sweep that the arguments name, or go on with it, and write its table.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    arguments : argparse.Namespace
        As `enough.cli.sweep_arguments.add_parser` reads them.

    Returns
    -------
    int
        0 when every point has a result.

    Raises
    ------
    CommandError
        If the name, the address or the store cannot be used, or points failed.
    """
    from enough.cli.commands import CommandError

    plans = find_plans()
    if arguments.name is None:
        for name, plan in plans.items():
            print(f"{name}: {plan.summary}")
        return 0
    if arguments.name not in plans:
        raise CommandError(f"expected one of {', '.join(plans)}, got {arguments.name!r}")
    plan = plans[arguments.name]
    device = arguments.device or ("cuda" if arguments.gpus else "cpu")
    store = arguments.store or _store(root, arguments, device)
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        sweep = plan.sweep(store, preset=arguments.preset, seed=arguments.seed, device=device)
        before = sweep.progress()
        print(f"{arguments.name}: {before.done} of {before.total} points are in the store")
        if before.done < before.total:
            with _executor(arguments) as executor:
                sweep.run(executor)
    except (SweepError, SweepStoreError, ValueError, OSError) as error:
        raise CommandError(str(error)) from error
    print(f"wrote {_record(arguments, plan, sweep, device, root)}")
    return 0


def check_address(address: str, *, insecure: bool = False) -> str:
    """Refuse a scheduler's address that lets strangers read along or run code.

    Parameters
    ----------
    address : str
        As ``tls://host:port`` or ``tcp://host:port``.
    insecure : bool, default False
        Accept plain TCP to another machine.

    Returns
    -------
    str
        The address.

    Raises
    ------
    ValueError
        If the scheme is another one, host or port is missing, or plain TCP leaves this machine
        and ``insecure`` is not set.
    """
    parts = urlsplit(address)
    try:
        complete = bool(parts.hostname and parts.port)
    except ValueError:  # a port that is no number
        complete = False
    if parts.scheme not in ("tls", "tcp") or not complete:
        raise ValueError(f"--scheduler: expected tls://host:port, got {address!r}")
    if parts.scheme == "tcp" and not insecure and not _is_here(parts.hostname or ""):
        raise ValueError(
            f"--scheduler: {address} is not encrypted, so that anyone on the way can read it and "
            "run code here: use tls://, or accept that with --insecure"
        )
    return address


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _store(root: Path, arguments: argparse.Namespace, device: str) -> Path:
    name = arguments.name.replace("/", "-")
    place = device.replace(":", "-")
    return root / "_build" / "sweeps" / f"{name}-{arguments.preset}-{arguments.seed}-{place}.sqlite"


def _record(
    arguments: argparse.Namespace, plan: SweepPlan, sweep: Sweep, device: str, root: Path
) -> Path:
    """Write the table with the time its points took in all."""
    table = sweep.table()
    part = arguments.name.split("/")[0]
    command = f"enough sweep {arguments.name} --preset {arguments.preset} --seed {arguments.seed}"
    return write_table(
        f"{plan.chapter}/{arguments.name.split('/')[1]}",
        table,
        preset=arguments.preset,
        device=device,
        seed=arguments.seed,
        command=command,
        seconds=float(table["seconds"].sum()),
        sources=(f"enough.{part}", "enough.training", "enough.models", "enough.data"),
        root=arguments.results or root / "results",
    )


@contextlib.contextmanager
def _executor(arguments: argparse.Namespace) -> Iterator[Executor | None]:
    """Offer the workers asked for; ``None`` computes here, point by point."""
    if arguments.local is None and arguments.scheduler is None and arguments.gpus is None:
        yield None
        return
    if arguments.local is not None and arguments.local < 1:
        raise ValueError(f"--local: expected a number >= 1, got {arguments.local}")
    if arguments.scheduler is not None:
        check_address(arguments.scheduler, insecure=arguments.insecure)
    try:
        import distributed
    except ImportError as error:
        raise ValueError(
            "this needs Dask: install the package 'distributed', which the test extra brings"
        ) from error
    with contextlib.ExitStack() as stack:
        if arguments.scheduler is not None:
            security = _security(arguments) if arguments.scheduler.startswith("tls") else None
            client = stack.enter_context(
                distributed.Client(arguments.scheduler, security=security, set_as_default=False)
            )
            resources = {"GPU": 1} if arguments.gpus else None
        else:
            cluster = stack.enter_context(_local(arguments))
            client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
            resources = None
        _check_workers(client)
        print(f"dashboard: {_dashboard(client, arguments.scheduler is None)}")
        yield client.get_executor(**({"resources": resources} if resources else {}))


_BEFORE = "distributed.nanny.pre-spawn-environ"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _dashboard(client: Any, own: bool) -> str:
    """Say where the dashboard is; the scheduler of another's cluster knows of its own."""
    if own and find_spec("bokeh") is None:
        return "none; install the package 'bokeh' to watch the workers in a browser"
    return client.dashboard_link


def _local(arguments: argparse.Namespace) -> Any:
    """Start a cluster on this machine that nobody else can reach."""
    import dask
    import distributed

    options = {
        "nthreads": 1, "host": "127.0.0.1", "dashboard": False, "silence_logs": logging.WARNING,
    }  # fmt: skip
    pins: list[dict[str, str]] = [{}] * (arguments.local or 0)
    if arguments.gpus:
        pins = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in _gpus(arguments.gpus)]
        if arguments.local is not None and arguments.local != len(pins):
            raise ValueError(
                f"--local: expected one worker a GPU, {len(pins)}, got {arguments.local}"
            )
    workers = {
        i: {"cls": distributed.Nanny, "options": options | {"env": pin}}
        for i, pin in enumerate(pins)
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {
            "host": "127.0.0.1",
            "dashboard": find_spec("bokeh") is not None,
            "dashboard_address": "127.0.0.1:0",
        },
    }
    # Libraries read these when they are loaded, and Dask sets each to one thread before that.
    threads = max(1, cpu_count() // len(pins))
    with dask.config.set({f"{_BEFORE}.{name}": threads for name in _THREADS}):
        return distributed.SpecCluster(
            workers=workers, scheduler=scheduler, silence_logs=logging.WARNING
        )


def _gpus(wanted: str) -> list[str]:
    """List GPUs as ``CUDA_VISIBLE_DEVICES`` names them: those asked for, or all in sight."""
    if wanted != "all":
        listed = [gpu.strip() for gpu in wanted.split(",")]
        if not all(listed) or len(set(listed)) < len(listed):
            raise ValueError(f"--gpus: expected each GPU once, as in 0,1, got {wanted!r}")
        return listed
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError("--gpus: expected a CUDA device, found none")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(count)]
    return names[:count]


def _security(arguments: argparse.Namespace) -> Any:
    """Encrypt, with the files given or those of Dask's own configuration."""
    import distributed

    given = {
        "tls_ca_file": arguments.tls_ca,
        "tls_client_cert": arguments.tls_cert,
        "tls_client_key": arguments.tls_key,
    }
    files = {name: path for name, path in given.items() if path}
    return distributed.Security(require_encryption=True, **files)


def _check_workers(client: Any) -> None:
    """Wait for a worker, and refuse workers that would compute with another package."""
    client.wait_for_workers(1, timeout=60)
    here = _fingerprint()
    others = [w for w, found in client.run(_fingerprint).items() if found != here]
    if others:
        raise ValueError(
            f"{len(others)} of the workers have another version of this package: install the "
            "same checkout there"
        )


def _fingerprint() -> str:
    return fingerprint(("enough",))
