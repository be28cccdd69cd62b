"""Timing side by side: all calls in turn, so that a busy moment strikes them alike.

``README.md`` of this folder says what a row of a comparison holds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "ASKED",
    "COLUMNS",
    "SLOW",
    "Peer",
    "absent",
    "as_row",
    "check_rows",
    "compare",
    "interleave",
    "made",
    "main",
    "not_measured",
    "not_run",
    "peak_mib",
    "print_rows",
    "spread",
]

COLUMNS = {
    "name": str,
    "ours_s": (float, type(None)),
    "peer": str,
    "peer_s": (float, type(None)),
    "ratio": (float, type(None)),
    "spread": (float, type(None)),
    "rounds": int,
    "ours_median_s": (float, type(None)),
    "peer_median_s": (float, type(None)),
    "scale": float,
    "ours_mib": (float, type(None)),
    "peer_mib": (float, type(None)),
    "why": str,
    "note": str,
}
SLOW = 20.0  # seconds; a peer that takes longer runs once
PATIENCE = 60.0  # seconds; no further round begins after this long
ASKED: set[str] = set()  # packages that peers were asked for, whose versions are written down


@dataclass(frozen=True)
class Peer:
    """The other side of a comparison.

    Parameters
    ----------
    call : callable
        What to time, without arguments.
    package : str or sequence of str, optional
        The modules it needs; the row says so where one is absent.
    scale : float, default 1.0
        The whole work over the work that ``call`` does; its time is multiplied by this.
    note : str, default ""
        Added to the row's note.
    reason : str, default ""
        Why it cannot run here though its package is installed; then ``call`` is not called.
    """

    call: Callable[[], object]
    package: str | Sequence[str] | None = None
    scale: float = 1.0
    note: str = ""
    reason: str = ""


def made(make: Callable[[], Callable[[], object]], package: str | None = None, **more) -> Peer:
    """Prepare a peer before it is timed; one that refuses becomes a peer that did not run.

    Parameters
    ----------
    make : callable
        Builds what the peer needs, calls it once and returns the call to time. It runs only
        where the package is there.
    package : str, optional
        As in `Peer`.
    **more
        Other fields of `Peer`.

    Returns
    -------
    Peer
        Its reason says what went wrong, in the words of the error's first line.
    """
    if absent(package):
        return Peer(_never, package, **more)
    try:
        return Peer(make(), package, **more)
    except Exception as error:  # whatever a peer raises, the other rows stand
        first = (str(error).strip().splitlines() or [""])[0].rstrip(".")[:120]
        return Peer(_never, package, reason=f"{type(error).__name__}: {first}", **more)


def _never() -> None:
    raise AssertionError("a peer that cannot run was called")


def interleave(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    patience: float | None = None,
) -> dict[str, list[float]]:
    """Time calls in turn.

    Parameters
    ----------
    calls : mapping from str to callable
        What to time, by name.
    repeats : int
        Timed rounds.
    warm_up : int, default 1
        Rounds before. They are not timed, except that a call whose first warm-up took longer
        than `SLOW` is not run again: that run is its only one.
    patience : float, optional
        Seconds after which no further round begins; the first timed one always runs.

    Returns
    -------
    dict from str to list of float
        Seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    finished: set[str] = set()
    began = time.perf_counter()
    for number in range(-warm_up, repeats):
        if number > 0 and patience is not None and time.perf_counter() - began > patience:
            break
        for name, call in calls.items():
            if name in finished:
                continue
            start = time.perf_counter()
            call()
            taken = time.perf_counter() - start
            if taken > SLOW:
                finished.add(name)
            if number >= 0 or taken > SLOW:
                seconds[name].append(taken)
    return seconds


def spread(seconds: Sequence[float]) -> float:
    """Return the slowest round over the fastest."""
    return max(seconds) / min(seconds)


def absent(package: str | Sequence[str] | None) -> str:
    """Name the first of some packages that is not installed, in words; else return nothing."""
    for name in [package] if isinstance(package, str) else package or ():
        ASKED.add(name.partition(".")[0])
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:  # a part of a package that is not there
            spec = None
        if spec is None or spec.origin is None:  # a mere folder of that name has no origin
            return f"the package {name} is not installed"
    return ""


def as_row(
    name: str,
    ours: Sequence[float],
    peer: str = "",
    theirs: Sequence[float] = (),
    *,
    scale: float = 1.0,
    ratio: float | None = None,
    ours_mib: float | None = None,
    peer_mib: float | None = None,
    why: str = "",
    note: str = "",
) -> dict:
    """Make a row from the seconds of all rounds.

    Parameters
    ----------
    name, peer : str
        What was timed, and beside what.
    ours, theirs : sequence of float
        Seconds of each round; ``theirs`` is empty where the peer is absent or did not run.
    scale : float, default 1.0
        Multiplies the peer's seconds.
    ratio : float, optional
        Where it is not the quotient of the two minima, for example a quotient of rates.
    ours_mib, peer_mib : float, optional
        Peak memory, MiB.
    why, note : str, default ""
        Texts of the row.

    Returns
    -------
    dict
        With the columns `COLUMNS`.
    """
    several = [list(side) for side in (ours, theirs) if len(side) > 1]
    fastest = min(ours)
    peer_s = min(theirs) * scale if theirs else None
    return {
        "name": name,
        "ours_s": float(fastest),
        "peer": peer,
        "peer_s": None if peer_s is None else float(peer_s),
        "ratio": ratio if ratio is not None or peer_s is None else float(peer_s / fastest),
        "spread": max(map(spread, several)) if several else None,
        "rounds": len(ours),
        "ours_median_s": float(statistics.median(ours)),
        "peer_median_s": float(statistics.median(theirs) * scale) if theirs else None,
        "scale": float(scale),
        "ours_mib": ours_mib,
        "peer_mib": peer_mib,
        "why": why,
        "note": note,
    }


def not_run(name: str, ours: Sequence[float], peer: str, reason: str, why: str = "") -> dict:
    """Make the row of a peer that did not run."""
    return as_row(name, ours, peer, why=why, note=f"not run: {reason}")


def not_measured(name: str, reason: str) -> dict:
    """Make the row of what this machine cannot measure; it has no peer."""
    empty = {"ours_s": None, "ours_median_s": None, "rounds": 0}
    return as_row(name, [0.0], note=f"not run: {reason}") | empty


def compare(
    name: str,
    ours: Callable[[], object],
    peers: Mapping[str, Peer | Callable[[], object]] | None = None,
    *,
    rounds: int = 5,
    warm_up: int = 1,
    why: str | Mapping[str, str] = "",
    note: str = "",
    memory: bool = True,
    times: int = 1,
) -> list[dict]:
    """Time our call and its peers in turn, and make one row a peer.

    Parameters
    ----------
    name : str
        What is timed, with its size.
    ours : callable
        Our side, without arguments.
    peers : mapping from str to Peer or callable, optional
        The other sides by name. One whose package is absent gives a row that says so.
    rounds, warm_up : int
        As ``repeats`` and ``warm_up`` of `interleave`.
    why : str or mapping from str to str, default ""
        What the sides do differently, for all peers or by the peer's name.
    note : str, default ""
        Note of every row.
    memory : bool, default True
        Measure the peak memory of each side in a round of its own; a side slower than 5 s is
        left out.
    times : int, default 1
        Calls in one round of each side, whose seconds are divided by it: for calls of less
        than a millisecond.

    Returns
    -------
    list of dict
        One row a peer, or one without a peer when there is none.
    """
    others = {
        key: peer if isinstance(peer, Peer) else Peer(peer) for key, peer in (peers or {}).items()
    }
    reasons = {key: absent(peer.package) or peer.reason for key, peer in others.items()}
    calls = {"": ours} | {key: others[key].call for key in others if not reasons[key]}
    repeated = {key: _repeated(call, times) for key, call in calls.items()}
    seconds = {
        key: [taken / times for taken in values]
        for key, values in interleave(repeated, rounds, warm_up, PATIENCE).items()
    }
    mib = {
        key: peak_mib(call) if memory and min(seconds[key]) < 5.0 else None
        for key, call in calls.items()
    }
    result = []
    for key, peer in others.items() or {"": Peer(ours)}.items():
        texts = {"why": why if isinstance(why, str) else why.get(key, "")}
        if key and reasons[key]:
            row = not_run(name, seconds[""], key, reasons[key], **texts)
            result.append(row | {"ours_mib": mib[""]})
            continue
        notes = [note, peer.note]
        if key and peer.scale != 1.0:
            notes.append(f"peer's time multiplied by {peer.scale:g}")
        texts["note"] = "; ".join(filter(None, notes))
        theirs = seconds[key] if key else ()
        scale = peer.scale if key else 1.0
        peaks = {"ours_mib": mib[""], "peer_mib": mib[key] if key else None}
        result.append(as_row(name, seconds[""], key, theirs, scale=scale, **peaks, **texts))
    return result


def _repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    if times == 1:
        return call

    def several() -> None:
        for _ in range(times):
            call()

    return several


def peak_mib(call: Callable[[], object]) -> float | None:
    """Measure the peak resident memory of a call above what was in use before, in MiB.

    Linux only: the kernel's own peak is reset before the call, where it allows that; else the
    memory is looked at every two milliseconds. What the C library holds in reserve is given back
    first, or a call that reuses it would seem to need none. ``None`` on other systems.
    """
    if not Path("/proc/self/statm").exists():
        return None
    with contextlib.suppress(OSError, AttributeError):  # a C library without this call
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _watched_mib(call)
    before = _status("VmRSS")
    call()
    return max(0.0, _status("VmHWM") - before)


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _watched_mib(call: Callable[[], object]) -> float:
    before = _status("VmRSS")
    peak, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _status("VmRSS"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(peak[0], _status("VmRSS")) - before


def check_rows(rows: object, module: str) -> list[dict]:
    """Hold rows to the contract.

    Parameters
    ----------
    rows : object
        What a module's ``rows`` returned.
    module : str
        Its name, for the message.

    Returns
    -------
    list of dict
        The rows, columns in the order of `COLUMNS`, numbers as Python numbers.

    Raises
    ------
    ValueError
        If they are not as ``README.md`` describes.
    """
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{module}: expected a list of rows, got {type(rows).__name__}")
    seen: set[tuple[str, str]] = set()
    result = []
    for row in rows:
        if not isinstance(row, Mapping) or set(row) != set(COLUMNS):
            found = sorted(set(row) ^ set(COLUMNS)) if isinstance(row, Mapping) else row
            raise ValueError(f"{module}: expected the columns of README.md, differs in {found}")
        for column, kind in COLUMNS.items():
            if not isinstance(row[column], kind) or isinstance(row[column], bool):
                raise ValueError(f"{module}: {column} cannot be {row[column]!r}")
        key = (row["name"], row["peer"])
        if key in seen:
            raise ValueError(f"{module}: two rows are named {key}")
        seen.add(key)
        if row["ours_s"] is None and row["note"].startswith("not run: ") and not row["peer"]:
            result.append({column: row[column] for column in COLUMNS})
            continue
        if not row["name"] or not (row["ours_s"] or 0) > 0 or row["rounds"] < 1:
            raise ValueError(f"{module}: {key} was not measured")
        if row["peer"] and row["peer_s"] is None and not row["note"].startswith("not run: "):
            raise ValueError(f"{module}: {key} does not say why the peer did not run")
        if row["peer"] and not row["why"]:
            raise ValueError(f"{module}: {key} does not say what the two sides do differently")
        if (row["peer_s"] is None) != (row["ratio"] is None):
            raise ValueError(f"{module}: {key} has a ratio or a peer's time without the other")
        result.append({column: row[column] for column in COLUMNS})
    return result


def print_rows(rows: Sequence[Mapping]) -> None:
    """Print rows as a table."""
    wide = max(len(row["name"]) for row in rows)
    peers = max(len(row["peer"]) for row in rows)
    print(
        f"{'what':{wide}} {'ours s':>10} {'MiB':>7}  {'peer':{peers}} {'peer s':>10} {'MiB':>7}"
        f" {'ratio':>7} {'spread':>7}  note"
    )

    def number(value: float | None, form: str) -> str:
        return format(value, form) if value is not None else ""

    for row in rows:
        print(
            f"{row['name']:{wide}} {number(row['ours_s'], '.4f'):>10}"
            f" {number(row['ours_mib'], '.1f'):>7}  "
            f"{row['peer']:{peers}} {number(row['peer_s'], '.4f'):>10}"
            f" {number(row['peer_mib'], '.1f'):>7} {number(row['ratio'], '.2f'):>7}"
            f" {number(row['spread'], '.2f'):>7}  {row['note']}",
            flush=True,
        )


def main(rows: Callable[..., list[dict]]) -> None:
    """Run a module as a script: print its rows.

    Parameters
    ----------
    rows : callable
        The module's ``rows``.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes")
    print_rows(check_rows(rows(quick=parser.parse_args().quick), rows.__module__))
