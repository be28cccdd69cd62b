"""What a sweep costs beside its points: the constants that the model of a large cluster takes.

Empty points tell the overhead of each, large ones what each byte adds, points of a known length
how one and two workers share them. The workers are processes of a Dask cluster on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

from enough.runtime import cpu_count
from enough.training import Sweep
from enough.training.sweep import _compute
from side_by_side import absent

__all__ = ["COLUMNS", "busy_point", "check_constants", "constants", "empty_point", "large_point"]

COLUMNS = ("name", "value", "unit", "note")
EACH = 0.05  # seconds of a busy point
NUMBERS = 10_000  # in the result of a large point
LOOPBACK = ("lo", "lo0")  # the interface on which processes of one machine talk


def empty_point(x: int) -> dict:
    """Do nothing."""
    return {"y": x}


def large_point(x: int, numbers: int) -> dict:
    """Return many numbers, with all their digits."""
    return {"y": [(x + i) / 7 for i in range(numbers)]}


def busy_point(x: int, length: float) -> dict:
    """Compute for a while on one core."""
    end = time.process_time() + length
    steps = 0
    while time.process_time() < end:
        steps += 1
    return {"steps": steps}


def _timed(function, grid, executor=None) -> float:
    """Return the seconds of a sweep on a fresh store."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(function, grid, Path(folder) / "sweep.sqlite")
        start = time.perf_counter()
        sweep.run(executor)
        return time.perf_counter() - start


def constants(quick: bool = False) -> list[dict]:
    """Measure.

    Parameters
    ----------
    quick : bool, default False
        Few points, no cluster.

    Returns
    -------
    list of dict
        Rows with ``name``, ``value``, ``unit``, ``note``. Without Dask only the store's share
        is measured.
    """
    points, repeats = (20, 2) if quick else (300, 3)
    grid = {"x": range(points)}

    def row(name: str, value: float, unit: str, note: str = "") -> dict:
        return {"name": name, "value": float(value), "unit": unit, "note": note}

    store = min(_timed(empty_point, grid) for _ in range(repeats)) / points
    large = {"numbers": NUMBERS}
    result = [
        row("store, a point", store, "s", f"{points} empty points one after the other, here"),
        row("data, a point", _bytes_moved(empty_point), "bytes", "arguments and results as text"),
        row("data, a large point", _bytes_moved(large_point, **large), "bytes",
            f"the same with {NUMBERS} numbers"),
        row("cores", cpu_count(), "cores"),
    ]  # fmt: skip
    if quick or absent("distributed"):
        return result
    import distributed

    coordinator, heavy, spans, latency, traffic = [], [], {}, [], []
    for workers in (1, 2):
        start = time.perf_counter()
        with (
            distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            client.wait_for_workers(workers)
            started = time.perf_counter() - start
            executor = client.get_executor()
            _timed(empty_point, {"x": range(2 * workers)}, executor)
            for _ in range(repeats):
                before = _sent()
                coordinator.append(_timed(empty_point, grid, executor) / points)
                traffic.append((_sent() - before) / points)
                some = {"x": range(points // 10), "numbers": [NUMBERS]}
                heavy.append(_timed(large_point, some, executor) / (points // 10))
            trip = []
            for i in range(10):
                start = time.perf_counter()
                client.submit(empty_point, -1 - i, pure=False).result()
                trip.append(time.perf_counter() - start)
            latency.append(min(trip))
            busy = {"x": range(points // 5), "length": [EACH]}
            spans[workers] = min(_timed(busy_point, busy, executor) for _ in range(repeats))
        result.append(row(f"start of {workers} worker{'s' * (workers > 1)}", started, "s"))
    note = f"{points} empty points on one or two workers; fsync of the store, both ends of Dask"
    if min(traffic) > 0:  # some systems do not count
        hops = "on the loopback, every hop: run, scheduler, worker and back"
        result.append(row("traffic, a point", min(traffic), "bytes", hops))
    result += [
        row("coordinator, a point", min(coordinator), "s", note),
        row("coordinator, a large point", min(heavy), "s", "the same with large points"),
        row("latency, a point", min(latency), "s", "one empty task there and back"),
        row("points of the check", points // 5, "points"),
        row("length of its points", EACH, "s"),
        row("span with 1 worker", spans[1], "s"),
        row("span with 2 workers", spans[2], "s"),
    ]
    return result


def _bytes_moved(function, **arguments) -> float:
    """Count what one point sends and receives."""
    key = json.dumps({"x": 100} | arguments)
    outcome = _compute(function, key, "0" * 32, -1)
    sent = json.dumps([f"{function.__module__}.{function.__name__}", key, "0" * 32, -1])
    return len(sent) + len(outcome.result) + 8


def _sent() -> int:
    """Count the bytes sent on the loopback so far; 0 where nobody counts."""
    import psutil  # Dask brings it

    counters = psutil.net_io_counters(pernic=True)
    return sum(counters[name].bytes_sent for name in LOOPBACK if name in counters)


def check_constants(rows: list[dict]) -> list[dict]:
    """Hold rows of `constants` to their columns.

    Parameters
    ----------
    rows : list of dict
        What `constants` returned.

    Returns
    -------
    list of dict
        The same.

    Raises
    ------
    ValueError
        If a row has other columns, or a number that cannot be.
    """
    for row in rows:
        if tuple(row) != COLUMNS:
            raise ValueError(f"constants: expected the columns {COLUMNS}, got {tuple(row)}")
        if not (row["value"] > 0 and math.isfinite(row["value"])):
            raise ValueError(f"constants: {row['name']} was not measured")
    return rows


def main() -> None:
    """Print the constants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few points, no cluster")
    for row in check_constants(constants(parser.parse_args().quick)):
        print(f"{row['name']:24} {row['value']:12.6f} {row['unit']:8} {row['note']}", flush=True)


if __name__ == "__main__":
    main()
