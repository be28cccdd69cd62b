"""The page on speed and scale as document nodes: words, tables and figures of the benchmarks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from docutils import nodes

from enough.book import benchmarks, benchmarks_figures, benchmarks_sweeps
from enough.book.benchmarks import Benchmarks, read_benchmarks
from enough.book.claims import format_number
from enough.plotting import BookFigure, style
from enough.plotting.figures import DPI
from enough.plotting.tables import to_csv

__all__ = ["PARTS", "benchmark_nodes"]

PARTS = ("machines", "words", "ensembles", "losses", "table", "growth", "sweeps", "missing")
"""What the directive ``benchmarks`` takes."""

NOTHING = "No benchmark has been recorded yet: make bench records them."

Table = Callable[[list[str], list[list[list[nodes.Node]]], list[str]], nodes.Node]
Pill = Callable[[str], nodes.Node]


def benchmark_nodes(
    part: str, folder: Path, table: Table, pill: Pill, root: str | os.PathLike[str] | None = None
) -> list[nodes.Node]:
    """Build one part of the page for every machine recorded.

    Parameters
    ----------
    part : {"machines", "words", "ensembles", "losses", "table", "growth", "sweeps", "missing"}
        Which part.
    folder : pathlib.Path
        Folder of the page, where the figures are written.
    table : callable
        Makes a table from heads, rows and classes.
    pill : callable
        Makes the mark of a verdict.
    root : str or os.PathLike, optional
        Folder of recorded tables, by default that of the checkout.

    Returns
    -------
    list of docutils.nodes.Node
        One sentence when nothing was recorded.

    Raises
    ------
    ValueError
        If ``part`` is another one.
    RecordingError
        If a recorded table was altered.
    """
    if part not in PARTS:
        raise ValueError(f"part: expected one of {', '.join(PARTS)}, got {part!r}")
    machines = read_benchmarks(root)
    if not machines:
        return [nodes.paragraph("", NOTHING)] if part == "machines" else []
    result: list[nodes.Node] = []
    for machine in machines:
        inside = list(_BUILDERS[part](machine, folder, table, pill))
        if inside and len(machines) > 1:
            result.append(nodes.rubric("", machine.kind))
        result += inside
    return result


def _cell(text: str, css: str = "") -> list[nodes.Node]:
    return [nodes.paragraph("", text, classes=[css] if css else [])]


def _breakable(name: str) -> str:
    """Let a long name of a function break at its dots and underscores."""
    return re.sub(r"(?<=\w)([._])(?=\w)", "\\1\u200b", name)


def _machines(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    known = machine.provenance
    rows = machine.comparisons
    versions = ", ".join(f"{name} {version}" for name, version in known["packages"].items())
    threads = sorted({int(n) for n in known["threads"].values()})
    facts = {
        "Machine": f"{known['device_name']}, {known['cores']} cores",
        "Threads": " or ".join(map(str, threads)),
        "Date": known["date"][:10],
        "Commit": (known["commit"] or "not known")[:12]
        + (" with changes" if known["dirty"] else ""),
        "Command": f"{known['command']}, {known['seconds'] / 60:.0f} min",
        "Versions": versions,
        "Rows": f"{len(rows)}, of which {int(rows['noisy'].sum())} are marked noisy",
    }
    yield table(
        ["What", "Measured with"],
        [[_cell(name), _cell(text, "measured")] for name, text in facts.items()],
        ["benchmarks"],
    )
    if rows["ratio"].notna().any():
        yield _picture(benchmarks.ratio_figure(machine), folder)


def _words(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    module, items = None, nodes.bullet_list()
    for name, peer, text in benchmarks.summaries(machine.comparisons):
        if name != module:
            if len(items):
                yield items
            module, items = name, nodes.bullet_list()
            yield nodes.rubric("", _title(name))
            if name != benchmarks_figures.ENSEMBLES:  # they have a section of their own
                yield _picture(benchmarks_figures.module_figure(machine, name), folder)
        paragraph = nodes.paragraph()
        paragraph += [nodes.strong("", peer), nodes.Text(f". {text}")]
        items += nodes.list_item("", paragraph)
    if len(items):
        yield items


def _title(module: str) -> str:
    return module.removeprefix("bench_").replace("_", " ").capitalize()


def _ensembles(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    found = benchmarks_figures.fastest(machine.comparisons)
    if found.empty:
        return
    yield _picture(benchmarks_figures.ensemble_figure(machine), folder)
    yield table(
        ["Members", "Width", "Batch", "Fastest", "Loop / our choice", "Our choice / fastest"],
        [
            [
                *(_cell(str(row[name])) for name in ("members", "width", "batch")),
                _cell(row["fastest"], "measured"),
                _cell(f"{row['loop']:.2f}", "measured"),
                _cell(f"{row['choice']:.2f}", "measured"),
            ]
            for row in found.to_dict("records")
        ],
        ["benchmarks"],
    )
    across = benchmarks_figures.crossover(machine.comparisons)
    if across:
        yield nodes.paragraph("", across)


def _losses(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    rows = benchmarks.behind(machine.comparisons)
    if rows.empty:
        yield nodes.paragraph("", "No peer is ahead in any row.")
        return
    yield table(
        ["What", "Peer", "Peer is faster by", "What it does differently"],
        [
            [
                _cell(row["name"]),
                _cell(_breakable(row["peer"])),
                _cell(f"{1 / row['ratio']:.2f}{' (noisy)' if row['noisy'] else ''}", "measured"),
                _cell(f"{row['why']}. {row['note']}".removesuffix(" ")),
            ]
            for _, row in rows.iterrows()
        ],
        ["benchmarks"],
    )


def _table(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    def number(value: float, form: str) -> str:
        return "" if value != value else format(value, form)

    rows = []
    for _, row in machine.comparisons.iterrows():
        memory = [number(row[name], ".0f") for name in ("ours_mib", "peer_mib")]
        noisy = " (noisy)" if row["noisy"] else ""
        beside = f"beside {_breakable(row['peer'])}" if row["peer"] else ""
        texts = [_cell(row["name"]), *(_cell(text, "claim-run") for text in (beside, row["note"]))]
        rows.append(
            [
                [node for cell in texts for node in cell if node.astext()],
                _cell(benchmarks.seconds_text(row["ours_s"]), "measured"),
                _cell(benchmarks.seconds_text(row["peer_s"]), "measured"),
                _cell(number(row["ratio"], ".3g"), "measured"),
                _cell(f"{number(row['spread'], '.2f')}{noisy}", "measured"),
                _cell(" / ".join(filter(None, memory)), "measured"),
            ]
        )
    heads = ["What", "Ours", "Peer", "Ratio", "Spread", "MiB, ours / peer"]
    yield table(heads, rows, ["benchmarks"])


def _growth(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    lines = benchmarks.growth(machine.growth)
    if not lines:
        return
    yield _picture(benchmarks.growth_figure(machine), folder)
    yield table(
        ["Verdict", "Routine", "Exponent", "Bounds", "Sizes"],
        [
            [
                [nodes.paragraph("", "", pill(line.verdict))],
                [
                    *_cell(f"{line.routine}: {_quantity(line.quantity)}"),
                    *_cell(f"Theory: {line.theory}.", "claim-run"),
                ],
                _cell(f"{line.exponent:.2f} [{line.low:.2f}, {line.high:.2f}]", "measured"),
                _cell(
                    f"between {format_number(line.bounds[0])} and {format_number(line.bounds[1])}"
                ),
                _cell(f"{line.smallest:,} to {line.largest:,} {line.size_name}"),
            ]
            for line in lines
        ],
        ["benchmarks"],
    )


def _quantity(name: str) -> str:
    return "time" if name == "seconds" else "peak memory"


def _sweeps(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    if machine.sweeps.empty:
        return
    yield table(
        ["Constant", "Measured", "How"],
        [
            [
                _cell(row["name"]),
                _cell(_amount(row["value"], row["unit"]), "measured"),
                _cell(row["note"]),
            ]
            for _, row in machine.sweeps.iterrows()
        ],
        ["benchmarks"],
    )
    model = benchmarks.sweep_model(machine.sweeps)
    if model is None:
        return
    yield table(
        ["Workers", "Measured", "Model"],
        [
            [
                _cell(str(workers)),
                _cell(f"{seconds:.2f} s", "measured"),
                _cell(f"{expected:.2f} s", "measured"),
            ]
            for workers, seconds, expected in benchmarks.model_check(machine.sweeps)
        ],
        ["benchmarks"],
    )
    yield nodes.paragraph("", benchmarks_sweeps.check_words(machine.sweeps))
    for words in benchmarks_sweeps.limits(machine.sweeps):
        yield nodes.paragraph("", words)
    yield table(
        ["Seconds a point", "Workers kept busy", "Time of the sweep", "Efficiency", "Limit"],
        [
            [
                _cell(f"{row.each:g}"),
                _cell(f"{row.busy:,.0f}", "measured"),
                _cell(benchmarks.seconds_text(row.seconds), "measured"),
                _cell(f"{row.efficiency:.0%}", "measured"),
                _cell(row.limit),
            ]
            for row in benchmarks_sweeps.scaled(machine.sweeps)
        ],
        ["benchmarks"],
    )
    yield _picture(benchmarks.efficiency_figure(machine), folder)


def _amount(value: float, unit: str) -> str:
    return benchmarks.seconds_text(value) if unit == "s" else f"{value:.0f} {unit}"


def _missing(machine: Benchmarks, folder: Path, table: Table, pill: Pill) -> Iterator[nodes.Node]:
    items = nodes.bullet_list()
    for reason, peers in benchmarks.not_run(machine.comparisons).items():
        items += nodes.list_item("", nodes.paragraph("", f"{', '.join(peers)}: {reason}."))
    for module, reason in benchmarks.left_out(machine).items():
        items += nodes.list_item("", nodes.paragraph("", f"{_title(module)}: {reason}."))
    yield items if len(items) else nodes.paragraph("", "Every comparison and every peer ran.")


def _picture(fig: BookFigure, folder: Path) -> nodes.Node:
    """Write a figure beside the page and refer to it, with its words."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{fig.enough_name}.png"
    with style():
        fig.savefig(folder / name, dpi=2 * DPI)
    width, height = (round(side * DPI) for side in fig.get_size_inches())
    alt, caption, data = fig.enough_alt, fig.enough_caption, fig.enough_data
    plt.close(fig)
    figure = nodes.figure(classes=["enough-figure"], ids=[f"fig-{fig.enough_name}"])
    text = f'<img src="{name}" alt="{_quoted(alt)}" width="{width}" height="{height}" '
    text += 'loading="lazy">'
    figure += nodes.raw("", text, format="html")
    figure += nodes.caption("", caption)
    if data is not None:
        address = f"{Path(name).stem}.csv"
        (folder / address).write_text(to_csv(data), encoding="utf-8")
        link = nodes.reference("", "Data of this figure", refuri=address, classes=["download"])
        figure += nodes.legend("", nodes.paragraph("", "", link))
    return figure


def _quoted(text: str) -> str:
    for plain, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, code)
    return text


_BUILDERS: dict[str, Callable[[Benchmarks, Path, Table, Pill], Iterator[nodes.Node]]] = {
    "machines": _machines,
    "words": _words,
    "ensembles": _ensembles,
    "losses": _losses,
    "table": _table,
    "growth": _growth,
    "sweeps": _sweeps,
    "missing": _missing,
}
