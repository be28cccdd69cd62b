"""Figures of the benchmarks that look closer: one module's ratios, and ensembles by their size."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.ticker import NullLocator

from enough.book.benchmarks import EVEN, Benchmarks
from enough.plotting import CARD, INK, LINESTYLES, MARKERS, PALETTE, BookFigure, figure

__all__ = ["ENSEMBLES", "crossover", "ensemble_figure", "ensembles", "fastest", "module_figure"]

ENSEMBLES = "bench_training_ensemble"
"""The module whose rows `ensembles` reads."""

_OURS = "our choice"
_SIZE = re.compile(r"(\d+) members, width (\d+), batch (\d+)")
_CROSSOVER = re.compile(r"crossover: one stack of (\d+) members, width (\d+), batch (\d+)")
_LETTERS = 68  # of a label on one line


def module_figure(machine: Benchmarks, module: str) -> BookFigure:
    """Draw the ratios of one module on a logarithmic scale, with the names above the dots.

    Parameters
    ----------
    machine : Benchmarks
        What was recorded.
    module : str
        One that has at least one row beside a peer.

    Returns
    -------
    BookFigure
        Right of the line we are faster; open marks are noisy rows.

    Raises
    ------
    ValueError
        If the module has no such row.
    """
    rows = machine.comparisons
    rows = rows[(rows["module"] == module) & rows["ratio"].notna()]
    if rows.empty:
        raise ValueError(f"module: expected one with a ratio, got {module!r}")
    title = module.removeprefix("bench_").replace("_", " ")
    found = "; ".join(
        f"{name} beside {peer}: {ratio:.3g}"
        for name, peer, ratio in zip(rows["name"], rows["peer"], rows["ratio"], strict=True)
    )
    labels = [_label(name, peer) for name, peer in zip(rows["name"], rows["peer"], strict=True)]
    fig, ax = figure(
        alt=f"Dot plot on a logarithmic axis of the peer's time over ours. {found}.",
        caption=f"{title.capitalize()}: time of the peer over ours, machine kind {machine.kind}. "
        "Right of the line we are faster. Open marks are noisy rows.",
        name=f"{module}-{machine.kind}".replace("_", "-"),
        width=5.2,
        height=0.75 + 0.36 * len(rows),
        data={
            "comparison": list(rows["name"]),
            "peer": list(rows["peer"]),
            "ratio": [float(x) for x in rows["ratio"]],
            "noisy": [bool(x) for x in rows["noisy"]],
        },
    )
    ax.axvline(1.0, color=INK, linewidth=1)
    for y, (label, ratio, noisy) in enumerate(
        zip(labels, rows["ratio"], rows["noisy"], strict=True)
    ):
        ahead = ratio >= 1
        color = PALETTE[0] if ahead else PALETTE[1]
        ax.plot([1.0, ratio], [y, y], "-", color=color, linewidth=1.5)
        ax.plot(
            ratio, y, MARKERS[0] if ahead else MARKERS[1], color=color, linestyle="none",
            markerfacecolor="none" if noisy else color,
        )  # fmt: skip
        ax.text(
            0.01, y - 0.45, label, transform=ax.get_yaxis_transform(), fontsize=8, va="center",
            bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    ax.set_xscale("log")
    low, high = min(0.5, rows["ratio"].min() / 1.3), max(2.0, rows["ratio"].max() * 1.3)
    ax.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.8), yticks=[])
    _plain_ticks(ax.xaxis, low, high)
    ax.set_xlabel("time of the peer / ours")
    return fig


def _label(name: str, peer: str) -> str:
    """Name a row on one line; where it is too long the name is cut, not the peer."""
    room = _LETTERS - len(peer) - 3
    return f"{name if len(name) <= room else name[: room - 1].rstrip() + '…'} · {peer}"


def _plain_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers, more of them where it is short."""
    decades = np.log10(high / low)
    few = (1,) if decades < 5 else (0,)
    steps = (1, 1.5, 2, 3, 5, 7) if decades < 0.8 else (1, 2, 5) if decades < 2 else few
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    if steps == (0,):
        ticks = [10.0**p for p in powers if p % 2 == 0]
    else:
        ticks = [step * 10.0**p for p in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:,.0f}" if tick >= 10 else f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def ensembles(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Collect the seconds of one update of a whole ensemble, by its size and the way.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    pandas.DataFrame
        Columns ``members``, ``width``, ``batch``, ``way``, ``seconds``; empty where ensembles
        were not measured. The way "our choice" is the library's own.
    """
    columns = ["members", "width", "batch", "way", "seconds"]
    found: dict[tuple[int, int, int, str], float] = {}
    for row in comparisons[comparisons["module"] == ENSEMBLES].to_dict("records"):
        match = _SIZE.fullmatch(row["name"])
        if match:
            size = tuple(map(int, match.groups()))
            found[*size, _OURS] = row["ours_s"]
            found[*size, row["peer"]] = row["peer_s"]
    return pd.DataFrame([[*key, value] for key, value in found.items()], columns=columns)


def ensemble_figure(machine: Benchmarks) -> BookFigure:
    """Draw the time of a member's update over the number of members, for every way.

    Parameters
    ----------
    machine : Benchmarks
        With ensembles measured.

    Returns
    -------
    BookFigure
        One panel a width and batch size.

    Raises
    ------
    ValueError
        If ensembles were not measured.
    """
    table = ensembles(machine.comparisons)
    if table.empty:
        raise ValueError("machine: expected measured ensembles, got none")
    shapes = sorted({(w, b) for w, b in zip(table["width"], table["batch"], strict=True)})
    ways = list(dict.fromkeys(table["way"]))
    lowest = table.loc[table.groupby(["members", "width", "batch"])["seconds"].idxmin()]
    words = "; ".join(
        f"{row.members} members, width {row.width}, batch {row.batch}: {row.way}"
        for row in lowest.itertuples()
    )
    fig, axes = figure(
        alt="Line plots, one for each width and batch size, of the milliseconds that one update "
        f"of one member takes over the number of members, both logarithmic. Fastest: {words}.",
        caption="Milliseconds for one update of one member, by the number of members, machine "
        f"kind {machine.kind}. Where lines cross, another way becomes the fastest.",
        name=f"ensembles-{machine.kind}",
        nrows=-(-len(shapes) // 2),
        ncols=2,
        width=6.4,
        height=0.6 + 2.5 * -(-len(shapes) // 2),
        squeeze=False,
        data={name: list(table[name]) for name in table.columns},
    )
    for ax, (width, batch) in zip(axes.flat, shapes, strict=False):
        here = table[(table["width"] == width) & (table["batch"] == batch)]
        for i, way in enumerate(ways):
            rows = here[here["way"] == way].sort_values("members")
            ax.plot(
                rows["members"], 1e3 * rows["seconds"] / rows["members"], label=way,
                color=PALETTE[i], marker=MARKERS[i], linestyle=LINESTYLES[i % len(LINESTYLES)],
                linewidth=2.6 if way == _OURS else 1.4, alpha=0.75 if way == _OURS else 1.0,
            )  # fmt: skip
        ax.set(xscale="log", yscale="log", title=f"width {width}, batch {batch}")
        ax.set_xticks(sorted(set(here["members"])), sorted(set(here["members"])))
        ax.minorticks_off()
        _plain_ticks(ax.yaxis, *ax.get_ylim())
    for ax in axes.flat[len(shapes) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("members")
    for ax in axes[:, 0]:
        ax.set_ylabel("ms a member")
    fig.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def fastest(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Tell which way is the fastest at each size, and how far our choice is from it.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    pandas.DataFrame
        Columns ``members``, ``width``, ``batch``, ``fastest`` (all ways within `EVEN` of the
        fastest, joined by "or"; our choice is one of them where it is), ``loop`` (seconds of
        the loop over those of our choice) and ``choice`` (seconds of our choice over the
        fastest).
    """
    result = []
    table = ensembles(comparisons)
    for size, rows in table.groupby(["members", "width", "batch"], sort=True):
        seconds = dict(zip(rows["way"], rows["seconds"], strict=True))
        best = min(seconds.values())
        near = [way for way in sorted(seconds, key=seconds.get) if seconds[way] <= EVEN * best]
        ours = seconds[_OURS]
        loop = seconds.get("loop", float("nan")) / ours
        result.append([*map(int, size), " or ".join(near), loop, ours / best])
    columns = ["members", "width", "batch", "fastest", "loop", "choice"]
    return pd.DataFrame(result, columns=columns)


def crossover(comparisons: pd.DataFrame) -> str:
    """Say at which widths one stack of all members is faster than the loop.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        As in `Benchmarks`.

    Returns
    -------
    str
        A sentence; empty where the widths were not measured.
    """
    found = []
    for row in comparisons[comparisons["module"] == ENSEMBLES].to_dict("records"):
        match = _CROSSOVER.fullmatch(row["name"])
        if match:
            found.append((*map(int, match.groups()), row["ratio"]))
    if not found:
        return ""
    members, _, batch, _ = found[0]
    each = ", ".join(f"{ratio:.2f} at width {width}" for _, width, _, ratio in sorted(found))
    return (
        f"All {members} members forced into one stack, batch {batch:,}: time of the loop over that "
        f"of the stack {each}."
    )
