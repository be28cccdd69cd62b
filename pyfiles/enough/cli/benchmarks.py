"""``enough bench``: every comparison side by side, kept with its provenance."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from enough.book.benchmarks import FOLDER, NOISY
from enough.runtime import cpu_count, device_name, resolve_device
from enough.runtime.recording import results_folder, write_table

__all__ = ["BUDGET", "Part", "parts", "run_benchmarks"]

BUDGET = 25 * 60.0
"""Seconds that all comparisons may take."""


class Part(NamedTuple):
    """One module of the folder ``benchmarks`` and the table it adds to.

    Parameters
    ----------
    module : str
        Its name.
    table : str
        ``"comparisons"``, ``"growth"`` or ``"sweeps"``.
    """

    module: str
    table: str


def parts(root: Path, only: str = "") -> list[Part]:
    """List what there is to run.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    only : str, default ""
        A piece of the modules' names; all of them when empty.

    Returns
    -------
    list of Part
        The comparisons by name, those of the book itself last, then growth and sweeps.
    """
    names = sorted(path.stem for path in (root / "benchmarks").glob("bench_*.py"))
    last = [name for name in names if name.startswith("bench_book_")]
    found = [
        *(Part(name, "comparisons") for name in names if name not in last),
        Part("growth", "growth"),
        Part("sweep_overhead", "sweeps"),
        *(Part(name, "comparisons") for name in last),
    ]
    return [part for part in found if only in part.module]


def run_benchmarks(
    root: Path,
    *,
    only: str = "",
    quick: bool = False,
    budget: float = BUDGET,
    results: Path | None = None,
) -> int:
    """Run the comparisons and write their tables.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    only : str, default ""
        Run modules whose name holds this text, print them and write nothing.
    quick : bool, default False
        Small sizes, printed and not written, unless ``results`` says where.
    budget : float, default BUDGET
        Seconds; a module that would begin later is left out, and one that runs longer ends.
    results : pathlib.Path, optional
        Folder of recorded tables, by default ``results`` of the checkout.

    Returns
    -------
    int
        0, or 1 when a module failed.
    """
    began = time.monotonic()
    tables: dict[str, list[dict[str, Any]]] = {"comparisons": [], "growth": [], "sweeps": []}
    threads: dict[str, int] = {}
    versions: dict[str, str] = {}
    took: dict[str, float] = {}
    left_out: dict[str, str] = {}
    pythons = _pythons(root)
    for module, table in parts(root, only):
        left = budget - (time.monotonic() - began)
        print(f"== {module}", flush=True)
        start = time.monotonic()
        python = pythons["book" if _of_the_book(module) else "peers"]
        found, reason = _run(root, python, module, quick, left)
        took[module] = time.monotonic() - start
        print(f"== {module}: {took[module]:.1f} s{'' if found else f', {reason}'}", flush=True)
        if found is None:
            left_out[module] = reason
            continue
        threads[module] = found["threads"]
        versions |= found["versions"]
        for row in found["rows"]:
            tables[table].append({"module": module, **_finished(row, table, found["threads"])})
            if only or quick:
                print("  " + json.dumps(row, ensure_ascii=False))
    if (only or quick) and results is None:
        return int(bool(left_out))
    facts = {
        "cores": cpu_count(),
        "threads": threads,
        "packages": dict(sorted(versions.items())),
        "module_seconds": {name: round(value, 1) for name, value in took.items()},
        "left_out": left_out,
        "peers": "an environment of their own" if pythons["peers"] != pythons["book"] else "",
    }
    for path in _write(tables, time.monotonic() - began, facts, results or results_folder()):
        print(f"wrote {path}")
    return int(bool(left_out))


def _finished(row: Mapping[str, Any], table: str, threads: int) -> dict[str, Any]:
    if table != "comparisons":
        return dict(row)
    wide = row["spread"] is not None and row["spread"] > NOISY
    return {**row, "noisy": wide, "threads": threads}


def _of_the_book(module: str) -> bool:
    return module.startswith("bench_book_") or not module.startswith("bench_")


def _pythons(root: Path) -> dict[str, str]:
    """Choose the interpreter of the peers: that of their environment, where it can run us."""
    own = sys.executable
    peers = root / ".venv-oracles" / "bin" / "python"
    if not peers.exists():
        print("no .venv-oracles: peers that are not installed here are left out", flush=True)
        return {"book": own, "peers": own}
    check = subprocess.run(
        [str(peers), "-c", "import enough.training, enough.book"],
        env=_environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    if check.returncode:
        why = check.stderr.strip().splitlines()[-1]
        print(f".venv-oracles cannot run this package ({why}): left aside", flush=True)
        return {"book": own, "peers": own}
    return {"book": own, "peers": str(peers)}


def _environment(root: Path) -> dict[str, str]:
    path = os.pathsep.join([str(root / "pyfiles"), str(root / "benchmarks")])
    environment = os.environ | {"PYTHONPATH": path}
    environment.setdefault("OMP_NUM_THREADS", str(cpu_count()))
    return environment


def _run(
    root: Path, python: str, module: str, quick: bool, seconds: float
) -> tuple[dict[str, Any] | None, str]:
    """Run one module in a process of its own; return what it found, or why it found nothing."""
    if seconds <= 0:
        return None, "the time of the whole run was spent"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [python, str(root / "benchmarks" / "run_module.py"), module, str(out)]
        with _group([*command, *(["--quick"] if quick else [])], _environment(root)) as process:
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                return None, "the time of the whole run was spent"
        if code:
            return None, f"it failed with status {code}"
        return json.loads(out.read_text(encoding="utf-8")), ""


@contextlib.contextmanager
def _group(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """Start a process that leads a group, and end the whole group with it."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()


def _write(
    tables: Mapping[str, list[dict[str, Any]]],
    seconds: float,
    facts: Mapping[str, Any],
    results: Path | None,
) -> Iterator[Path]:
    """Write the tables that have rows, each with its provenance and the facts of the run."""
    if results is None:
        raise ValueError("results: expected a folder of recorded tables, or a checkout")
    place = resolve_device("cuda" if _has_cuda() else "cpu")
    preset = "gpu" if place.type == "cuda" else "cpu"
    label = None if place.type == "cuda" else _label()
    for table, rows in tables.items():
        if not rows:
            continue
        chapter = f"{results.name}/{FOLDER}" + ("" if table == "comparisons" else f"/{table}")
        path = write_table(
            chapter,
            rows,
            preset=preset,
            device=place,
            seed=0,
            command="make bench",
            seconds=seconds,
            label=label,
            root=results.parent,
        )
        _add(path.with_suffix(".json"), {**facts, "machine": device_name(place)})
        yield path


def _add(path: Path, facts: Mapping[str, Any]) -> None:
    provenance = json.loads(path.read_text(encoding="utf-8")) | dict(facts)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _label() -> str:
    """Name the kind of machine: its instruction set and how many cores the run had."""
    kind = platform.machine().lower().replace("_", "-") or "unknown"
    return f"{kind}-{cpu_count()}-cores"
