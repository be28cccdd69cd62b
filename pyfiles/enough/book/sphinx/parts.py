"""Nodes of the book's own, and how HTML shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from enough.book.citations import Citation

__all__ = ["Measured", "Placeholder", "flat", "link", "setup_nodes", "table"]

_STYLE = re.compile(r'style="width: (\d+)px; height: (\d+)px;"')


class Placeholder(nodes.General, nodes.Element):
    """Stands where a table of the whole book will be, until every page is read."""


class Measured(nodes.inline):
    """A time or a date: what may differ between two executions of the same code."""


def flat(node: nodes.Element, papers: Mapping[str, Citation] | None = None) -> nodes.Element:
    """Copy a node for use on another page: its words and formulas, without links and ids.

    Parameters
    ----------
    node : docutils.nodes.Element
        What to copy.
    papers : mapping from str to Citation, optional
        What citations are replaced by.

    Returns
    -------
    docutils.nodes.Element
        The copy.
    """
    kept = node.deepcopy()
    for part in [kept, *kept.findall(nodes.Element)]:
        for key in ("ids", "names", "backrefs"):
            part[key] = []
    for part in list(kept.findall(nodes.Element)):
        if part.parent is not None and part.tagname in ("pending_xref", "reference"):
            part.replace_self([nodes.inline("", _words(part, papers or {}))])
    return kept


def _words(reference: nodes.Element, papers: Mapping[str, Citation]) -> str:
    if reference.get("refdomain") != "cite":
        return reference.astext()
    keys = [key.strip() for key in reference["reftarget"].split(",")]
    return ", ".join(f"{papers[k].who} ({papers[k].year})" if k in papers else k for k in keys)


def link(app: Sphinx, page: str, target: str, anchor: str, text: str) -> nodes.reference:
    """Link from one page to a place on another.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    page, target : str
        Names of the page that links and of the page it links to.
    anchor : str
        Id on the target; empty for its top.
    text : str
        What the link says.

    Returns
    -------
    docutils.nodes.reference
        The link.
    """
    uri = app.builder.get_relative_uri(page, target)
    if anchor:
        uri += f"#{anchor}"
    return nodes.reference("", text, internal=True, refuri=uri)


def table(heads: list[str], rows: list[list[list[nodes.Node]]], classes: list[str]) -> nodes.table:
    """Build a table with one head row.

    Parameters
    ----------
    heads : list of str
        What the columns hold.
    rows : list of list of list of docutils.nodes.Node
        The content of each cell.
    classes : list of str
        Classes of the table.

    Returns
    -------
    docutils.nodes.table
        The table.
    """
    whole = nodes.table(classes=[*classes, "colwidths-auto"])
    group = nodes.tgroup(cols=len(heads))
    whole += group
    group += [nodes.colspec(colwidth=1) for _ in heads]
    head = nodes.thead()
    head += nodes.row("", *[nodes.entry("", nodes.paragraph("", text)) for text in heads])
    group += head
    body = nodes.tbody()
    for row in rows:
        body += nodes.row("", *[nodes.entry("", *cell) for cell in row])
    group += body
    return whole


def setup_nodes(app: Sphinx) -> None:
    """Register the nodes with the application.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    """
    app.add_node(Placeholder)
    app.add_node(Measured, html=(_visit_measured, _depart_measured))
    app.add_node(nodes.image, override=True, html=(_visit_image, HTML5Translator.depart_image))


def _visit_measured(translator: HTML5Translator, node: Measured) -> None:
    translator.body.append('<span class="measured" data-measured="">')


def _depart_measured(translator: HTML5Translator, node: Measured) -> None:
    translator.body.append("</span>")


def _visit_image(translator: HTML5Translator, node: nodes.image) -> None:
    """As ever, with the size as attributes: the browser keeps room before the picture is there.

    It fetches a picture when the reader comes near it, or prints.

    A size in the ``style`` attribute would win over the style sheet and squash the picture on a
    phone.
    """
    HTML5Translator.visit_image(translator, node)
    sized = _STYLE.sub(r'width="\1" height="\2"', translator.body[-1])
    translator.body[-1] = sized.replace("<img ", '<img loading="lazy" ', 1)
