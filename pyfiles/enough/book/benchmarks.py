"""What the page on speed and scale says, computed from the recorded benchmarks alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from enough.book.claims import format_number, judge
from enough.plotting import INK, LINESTYLES, MARKERS, PALETTE, BookFigure, figure
from enough.runtime.recording import read_tables, results_folder
from enough.training.sweep_model import SweepModel

__all__ = [
    "EVEN",
    "FOLDER",
    "NOISY",
    "Benchmarks",
    "Growth",
    "behind",
    "efficiency_figure",
    "fitted_exponent",
    "growth",
    "growth_figure",
    "left_out",
    "model_check",
    "not_run",
    "ratio_figure",
    "read_benchmarks",
    "seconds_text",
    "summaries",
    "sweep_model",
]

FOLDER = "benchmarks"
"""Folder of the tables below ``results``."""

NOISY = 1.2
"""A row is noisy when its slowest round took more than this many times its fastest."""

EVEN = 1.1
"""Two sides are even when neither is faster by more than this factor."""

_POINTS = 10_000  # of the sweep whose efficiency is drawn
_LENGTHS = (0.1, 1.0, 10.0, 100.0)  # seconds of one of its points
_WORKERS = np.unique(np.geomspace(1, 1000, 61).round().astype(int))


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """The recorded tables of one kind of machine.

    Parameters
    ----------
    kind : str
        The kind of machine, as in the names of the files.
    comparisons, growth, sweeps : pandas.DataFrame
        Rows beside peers, curves of growth, constants of sweeps; empty where none was recorded.
    provenance : dict
        Where the comparisons come from.
    """

    kind: str
    comparisons: pd.DataFrame
    growth: pd.DataFrame
    sweeps: pd.DataFrame
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Growth:
    """How one quantity of one routine grows.

    Parameters
    ----------
    routine, quantity, size_name, theory : str
        What was measured, against what, and what theory says.
    smallest, largest : int
        The sizes.
    exponent, low, high : float
        Slope of the logarithms with its 95 % interval.
    bounds : tuple of float
        Where theory puts the exponent.
    verdict : str
        As `enough.book.claims.judge` gives it.
    """

    routine: str
    quantity: str
    size_name: str
    theory: str
    smallest: int
    largest: int
    exponent: float
    low: float
    high: float
    bounds: tuple[float, float]
    verdict: str


def read_benchmarks(root: str | os.PathLike[str] | None = None) -> list[Benchmarks]:
    """Read what was recorded, machine by machine.

    Parameters
    ----------
    root : str or os.PathLike, optional
        Folder of recorded tables, by default that of the checkout.

    Returns
    -------
    list of Benchmarks
        Sorted by kind of machine; empty when nothing was recorded.

    Raises
    ------
    RecordingError
        If a table was altered or its provenance is missing.
    """
    folder = results_folder() if root is None else Path(root).resolve()
    if folder is None:
        return []

    def read(below: str) -> dict[str, Any]:
        tables = read_tables(f"{folder.name}/{FOLDER}{below}", root=folder.parent)
        return {f"{table.preset}-{table.device}": table for table in tables}

    main, curves, sweeps = read(""), read("/growth"), read("/sweeps")
    empty = pd.DataFrame()
    return [
        Benchmarks(
            kind,
            _numbers(main[kind].table),
            curves[kind].table if kind in curves else empty,
            sweeps[kind].table if kind in sweeps else empty,
            main[kind].provenance,
        )
        for kind in sorted(main)
    ]


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Give every column of numbers a dtype of numbers: absent ones become NaN."""
    result = table.copy()
    for name in result.columns:
        if name.endswith(("_s", "_mib")) or name in ("ratio", "spread", "scale"):
            result[name] = pd.to_numeric(result[name])
    return result


def _times(ratio: float) -> str:
    """Say how much faster, for a reader."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def _range(ratios: Sequence[float]) -> str:
    low, high = _times(min(ratios)), _times(max(ratios))
    return low if low == high else f"{low} to {high}"


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def summaries(comparisons: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Say in words who is ahead of whom, by how much and why.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    list of (str, str, str)
        Module, peer, and the sentences, in the order of the table.
    """
    result = []
    run = comparisons[comparisons["ratio"].notna()]
    for (module, peer, why), rows in run.groupby(["module", "peer", "why"], sort=False):
        ratios = rows["ratio"].to_numpy()
        ahead, slow = ratios[ratios > EVEN], ratios[ratios < 1 / EVEN]
        even = len(ratios) - len(ahead) - len(slow)
        parts = []
        if len(ahead):
            parts.append(f"ahead in {_rows(len(ahead))} ({_range(ahead)} times as fast)")
        if even:
            parts.append(f"even in {_rows(even)}")
        if len(slow):
            parts.append(f"behind in {_rows(len(slow))} (the peer {_range(1 / slow)} times)")
        noisy = int(rows["noisy"].sum())
        marked = f" Marked noisy: {_rows(noisy)}." if noisy else ""
        text = f"We are {', '.join(parts)}. The difference: {why}.{marked}"
        result.append((module, peer, text))
    return result


def behind(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Select the rows in which a peer is faster, the largest loss first.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    pandas.DataFrame
        Rows whose ratio is below 1 / `EVEN`.
    """
    return comparisons[comparisons["ratio"] < 1 / EVEN].sort_values("ratio", kind="stable")


def not_run(comparisons: pd.DataFrame) -> dict[str, list[str]]:
    """Collect the peers that did not run, and what could not be measured without one.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    dict from str to list of str
        From the reason to the peers, or the names of the rows, each once.
    """
    absent = (comparisons["peer"] != "") & comparisons["peer_s"].isna()
    rows = comparisons[absent | comparisons["ours_s"].isna()]
    found: dict[str, list[str]] = {}
    for name, note, peer in zip(rows["name"], rows["note"], rows["peer"], strict=True):
        names = found.setdefault(note.removeprefix("not run: "), [])
        if (peer or name) not in names:
            names.append(peer or name)
    return found


def left_out(machine: Benchmarks) -> dict[str, str]:
    """Return the modules that gave no rows, with the reasons.

    Parameters
    ----------
    machine : Benchmarks
        What was recorded.

    Returns
    -------
    dict of str to str
        From module to reason.
    """
    return dict(machine.provenance.get("left_out", {}))


def fitted_exponent(
    sizes: Sequence[float], values: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """Fit value = a · size^b and return b with its interval.

    Parameters
    ----------
    sizes, values : sequence of float
        Above 0, three or more.
    level : float, default 0.95
        Coverage of the interval.

    Returns
    -------
    tuple of float
        b, and the ends of its interval from Student's t distribution.

    Raises
    ------
    ValueError
        If there are fewer than three points, or one is not above 0.

    Notes
    -----
    Least squares on the logarithms. Where the curve bends the residuals are no noise, and the
    interval says how far one power is from describing it.
    """
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(f"sizes: expected three or more, as many as values, got {x.shape}")
    if not (np.all(x > 0) and np.all(y > 0)):
        raise ValueError("values: expected sizes and values above 0")
    fit = stats.linregress(np.log(x), np.log(y))
    half = stats.t.ppf((1 + level) / 2, len(x) - 2) * fit.stderr
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def growth(curves: pd.DataFrame) -> list[Growth]:
    """Fit every curve and compare it with its theory.

    Parameters
    ----------
    curves : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    list of Growth
        In the order of the table.
    """
    result = []
    if curves.empty:
        return result
    for (routine, quantity), rows in curves.groupby(["routine", "quantity"], sort=False):
        exponent, low, high = fitted_exponent(rows["size"], rows["value"])
        first = rows.iloc[0]
        bounds = (float(first["low"]), float(first["high"]))
        result.append(
            Growth(
                routine, quantity, first["size_name"], first["theory"],
                int(rows["size"].min()), int(rows["size"].max()),
                exponent, low, high, bounds, judge(low, high, between=bounds),
            )
        )  # fmt: skip
    return result


def sweep_model(sweeps: pd.DataFrame) -> SweepModel | None:
    """Take the constants of the model from their table.

    Parameters
    ----------
    sweeps : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    SweepModel or None
        ``None`` where no cluster was measured. Its latency is 0: two points a worker are handed
        out ahead, so a worker does not wait for the next one.
    """
    if sweeps.empty:
        return None
    values = sweeps.set_index("name")["value"]
    if "coordinator, a point" not in values:
        return None
    coordinator, per_byte = float(values["coordinator, a point"]), 0.0
    if "coordinator, a large point" in values:
        more = float(values["data, a large point"] - values["data, a point"])
        per_byte = max(0.0, float(values["coordinator, a large point"]) - coordinator) / more
    return SweepModel(coordinator=coordinator, per_byte=per_byte)


def model_check(sweeps: pd.DataFrame) -> list[tuple[int, float, float]]:
    """Compare the measured spans on one and two workers with the model.

    Parameters
    ----------
    sweeps : pandas.DataFrame
        As in `Benchmarks`, with a cluster measured.

    Returns
    -------
    list of (int, float, float)
        Workers, measured seconds, the model's seconds where workers and run share the cores.
    """
    model = sweep_model(sweeps)
    if model is None:
        return []
    values = sweeps.set_index("name")["value"]
    points, each = int(values["points of the check"]), float(values["length of its points"])
    cores = int(values["cores"]) if "cores" in values else None
    names = {1: "span with 1 worker", 2: "span with 2 workers"}
    return [
        (workers, float(values[name]), model.seconds(points, each, workers, cores=cores))
        for workers, name in names.items()
    ]


def ratio_figure(machine: Benchmarks) -> BookFigure:
    """Draw every ratio on a logarithmic scale, one line a module.

    Parameters
    ----------
    machine : Benchmarks
        With at least one row beside a peer.

    Returns
    -------
    BookFigure
        Right of the line we are faster; open marks are noisy rows.
    """
    rows = machine.comparisons[machine.comparisons["ratio"].notna()]
    faster, slower = int((rows["ratio"] > EVEN).sum()), int((rows["ratio"] < 1 / EVEN).sum())
    modules = list(dict.fromkeys(rows["module"]))
    titles = [module.removeprefix("bench_").replace("_", " ") for module in modules]
    fig, ax = figure(
        alt=f"Dot plot of {len(rows)} ratios on a logarithmic axis, one line for each of "
        f"{len(modules)} modules; {faster} dots lie right of the line at one, where we are faster "
        f"by more than a tenth, {slower} left of it, where a peer is.",
        caption=f"Time of the peer over ours, machine kind {machine.kind}, one dot a row. Right of "
        "the line we are faster. Open marks are noisy rows.",
        name=f"benchmarks-{machine.kind}",
        width=5.8,
        height=0.9 + 0.3 * len(modules),
        data={
            "comparison": list(rows["name"]),
            "peer": list(rows["peer"]),
            "ratio": [float(x) for x in rows["ratio"]],
            "noisy": [bool(x) for x in rows["noisy"]],
        },
    )
    ax.axvline(1.0, color=INK, linewidth=1)
    for module, ratio, noisy in zip(rows["module"], rows["ratio"], rows["noisy"], strict=True):
        color = PALETTE[0] if ratio >= 1 else PALETTE[1]
        ax.plot(
            ratio, modules.index(module), MARKERS[0] if ratio >= 1 else MARKERS[1], color=color,
            linestyle="none", markerfacecolor="none" if noisy else color,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yticks(range(len(modules)), titles, fontsize=8.5)
    ax.set_ylim(len(modules) - 0.4, -0.6)
    ax.set_xlabel("time of the peer / ours")
    return fig


def growth_figure(machine: Benchmarks) -> BookFigure:
    """Draw time and memory against size, each divided by its smallest.

    Parameters
    ----------
    machine : Benchmarks
        With curves.

    Returns
    -------
    BookFigure
        One panel for time and one for memory; the gray line is linear growth.
    """
    curves = machine.growth
    lines = growth(curves)
    slopes = "; ".join(f"{g.routine} {g.exponent:.2f} in {g.quantity}" for g in lines)
    fig, axes = figure(
        alt=f"Two log-log panels, time and memory over size, each relative to its smallest size. "
        f"Fitted exponents: {slopes}.",
        caption=f"How time (left) and peak memory (right) grow with size, machine kind "
        f"{machine.kind}. The dashed line grows like the size.",
        name=f"growth-{machine.kind}",
        ncols=2,
        height=3.8,
        data={name: list(curves[name]) for name in ("routine", "quantity", "size", "value")},
    )
    routines = list(dict.fromkeys(curves["routine"]))
    for ax, quantity, label in zip(
        axes, ("seconds", "MiB"), ("time / smallest", "peak memory / smallest"), strict=True
    ):
        for i, routine in enumerate(routines):
            rows = curves[(curves["routine"] == routine) & (curves["quantity"] == quantity)]
            if len(rows):
                size, value = rows["size"].to_numpy(float), rows["value"].to_numpy(float)
                ax.plot(
                    size / size.min(), value / value[size.argmin()], marker=MARKERS[i],
                    color=PALETTE[i], linestyle=LINESTYLES[i % len(LINESTYLES)], label=routine,
                )  # fmt: skip
        ax.plot([1, 100], [1, 100], "--", color=INK, linewidth=1, label="linear")
        ax.set(xscale="log", yscale="log", xlabel="size / smallest size", ylabel=label)
    axes[0].legend(fontsize=7)
    return fig


def efficiency_figure(machine: Benchmarks) -> BookFigure:
    """Draw the modelled efficiency of a sweep from 1 to 1000 workers.

    Parameters
    ----------
    machine : Benchmarks
        With the constants of a cluster.

    Returns
    -------
    BookFigure
        One line a length of the points.

    Raises
    ------
    ValueError
        If no cluster was measured.
    """
    model = sweep_model(machine.sweeps)
    if model is None:
        raise ValueError("machine: expected the measured constants of a cluster, got none")
    found = {each: [model.efficiency(_POINTS, each, int(w)) for w in _WORKERS] for each in _LENGTHS}
    ends = "; ".join(f"{each:g} s: {values[-1]:.0%}" for each, values in found.items())
    fig, ax = figure(
        alt="Line plot of efficiency over 1 to 1000 workers on a logarithmic axis, one line for "
        f"each length of a point. Efficiency at 1000 workers, {ends}.",
        caption=f"Modelled efficiency of a sweep of {_POINTS} points, from the constants measured "
        f"on machine kind {machine.kind}. A line bends where one process can hand out no more "
        f"points: at {1 / model.overhead():.0f} workers for each second that a point takes.",
        name=f"sweep-efficiency-{machine.kind}",
        data={
            "workers": [int(w) for w in _WORKERS],
            **{f"{each:g} s a point": values for each, values in found.items()},
        },
    )
    for i, (each, values) in enumerate(found.items()):
        ax.plot(
            _WORKERS, values, color=PALETTE[i], marker=MARKERS[i],
            linestyle=LINESTYLES[i % len(LINESTYLES)], label=f"{each:g} s a point",
        )  # fmt: skip
    ax.set(xscale="log", ylim=(0, 1.05), xlabel="workers", ylabel="efficiency")
    ax.legend()
    return fig


def seconds_text(value: float) -> str:
    """Write seconds for a reader.

    Parameters
    ----------
    value : float
        Seconds; NaN for none.

    Returns
    -------
    str
        With its unit; empty for NaN.
    """
    if math.isnan(value):
        return ""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1.0 or unit == "µs":
            return f"{format_number(float(f'{value * factor:.3g}'))} {unit}"
    return ""
