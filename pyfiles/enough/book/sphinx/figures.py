"""Figures on a page: alt text, caption, size, and the numbers behind them as a file."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from enough.data.catalog import find_entry
from enough.plotting import to_csv

__all__ = ["FIGURE_KEY", "figure_node", "tables_of_others", "write_data"]

FIGURE_KEY = "enough.figure"
_COMMIT = re.compile(r"(github\.com/\S+) at commit ([0-9a-f]{40})")
_NEEDS = re.compile(r'"needs-([\w-]+)"')


def figure_node(renderer, data) -> nodes.figure:
    """Turn an output of `enough.plotting.show` into a figure.

    Parameters
    ----------
    renderer : myst_nb.core.render.NbElementRenderer
        What renders the notebook.
    data : myst_nb.core.render.MimeData
        The output.

    Returns
    -------
    docutils.nodes.figure
        With its data, which `write_data` writes and links.
    """
    described = data.output_metadata[FIGURE_KEY]
    document = renderer.renderer.document
    figure = nodes.figure(classes=["enough-figure"])
    if described.get("name"):
        name = nodes.fully_normalize_name(described["name"])
        figure["names"].append(name)
        document.note_explicit_target(figure, figure)
    (image,) = renderer.render_image(data)
    image["alt"] = described["alt"]
    figure += image
    holder = nodes.Element()
    with renderer.renderer.current_node_context(holder):
        renderer.renderer.nested_render_text(described["caption"], data.line or 0)
    first = holder.children[0]
    figure += nodes.caption(first.rawsource, "", *first.children)
    figure["enough_data"] = {
        kind: {name: described[kind][name] for name in described.get("columns", described[kind])}
        for kind in ("data", "drawn")
        if kind in described
    }
    figure["enough_stride"] = described.get("stride", 1)
    figure["enough_name"] = described.get("name") or "figure"
    return figure


def tables_of_others(path: Path) -> list[str]:
    """Name the tables of others that a notebook draws, as the tags of its cells say.

    Parameters
    ----------
    path : pathlib.Path
        The notebook.

    Returns
    -------
    list of str
        Names in the data registry, sorted.
    """
    return sorted(set(_NEEDS.findall(path.read_text(encoding="utf-8"))))


def write_data(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Write the numbers behind each figure of a page and link them under the figure.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    doctree : docutils.nodes.document
        The page; changed in place.
    page : str
        Its name.

    Notes
    -----
    A chapter that draws tables of others offers only what its author attached to a figure. Under
    its other figures stand the addresses of those tables.
    """
    if app.builder.format != "html":
        return
    figures = [node for node in doctree.findall(nodes.figure) if "enough_data" in node]
    others = tables_of_others(Path(app.env.doc2path(page))) if figures else []
    seen: set[str] = set()
    for figure in figures:
        given = figure["enough_data"]
        columns = given.get("data") or (None if others else given.get("drawn"))
        if columns is not None:
            name = _unique(figure["enough_name"], seen)
            figure += _download(app, page, name, columns, figure["enough_stride"])
        elif others:
            figure += _sources(others)


def _unique(name: str, seen: set[str]) -> str:
    number, unique = 1, name
    while unique in seen:
        number += 1
        unique = f"{name}-{number}"
    seen.add(unique)
    return unique


def _download(app: Sphinx, page: str, name: str, columns: dict, stride: int) -> nodes.legend:
    folder = Path(app.outdir, page)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text(to_csv(columns), encoding="utf-8", newline="\n")
    rows = len(next(iter(columns.values())))
    text = f"{rows} row{'s' * (rows != 1)}"
    if stride > 1:
        text += f", one point in {stride}"
    paragraph = nodes.paragraph(classes=["figure-data"])
    address = f"{folder.name}/{name}.csv"
    paragraph += nodes.reference("", "Data of this figure", refuri=address, classes=["download"])
    paragraph += nodes.Text(f" (CSV, {text})")
    return nodes.legend("", paragraph)


def _sources(names: list[str]) -> nodes.legend:
    paragraph = nodes.paragraph("", "Tables of others in this chapter: ", classes=["figure-data"])
    for number, name in enumerate(names):
        paragraph += [nodes.Text(", ")] * (number > 0)
        found = _COMMIT.match(find_entry(name)[0].source)
        address = f"https://{found[1]}/tree/{found[2]}" if found else ""
        paragraph += nodes.reference("", name, refuri=address) if found else nodes.Text(name)
    return nodes.legend("", paragraph)
