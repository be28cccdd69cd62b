"""Definitions of the glossary, at hand where a page uses a word."""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from enough.book.sphinx.parts import flat

__all__ = ["changed_pages", "collect_definitions", "definitions_html"]


def collect_definitions(env: BuildEnvironment, doctree: nodes.document) -> None:
    """Keep the definitions of a glossary, by the id of the term.

    Parameters
    ----------
    env : sphinx.environment.BuildEnvironment
        The environment; ``enough_definitions`` of it is filled.
    doctree : docutils.nodes.document
        A page that was read.
    """
    for glossary in doctree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            definition = next(item.findall(nodes.definition))
            for term in item.findall(nodes.term):
                for name in term["ids"]:
                    env.enough_definitions[name] = (
                        env.docname,
                        term.astext(),
                        [flat(part) for part in definition.children],
                    )


def changed_pages(env: BuildEnvironment) -> list[str]:
    """Name the pages to write again because a definition that they show has changed.

    Parameters
    ----------
    env : sphinx.environment.BuildEnvironment
        The environment, every page read.

    Returns
    -------
    list of str
        Sorted page names: all that use a glossary term, or none.
    """
    now = {
        name: "".join(part.astext() for part in parts)
        for name, (_, _, parts) in env.enough_definitions.items()
    }
    before, env.enough_definitions_shown = env.enough_definitions_shown, now
    return [] if before == now else sorted(env.enough_term_pages)


def definitions_html(app: Sphinx, doctree: nodes.document) -> str:
    """Write the definitions that a page refers to, hidden until a script shows one.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    doctree : docutils.nodes.document
        The page, its references resolved.

    Returns
    -------
    str
        Empty when the page uses no term.
    """
    used = {}
    for reference in doctree.findall(nodes.reference):
        anchor = reference.get("refuri", "").rpartition("#")[2] or reference.get("refid", "")
        if anchor in app.env.enough_definitions and _is_term(reference):
            used[anchor] = app.env.enough_definitions[anchor]
    if not used:
        return ""
    entries = []
    for anchor, (_, word, parts) in sorted(used.items()):
        holder = nodes.container("", *[part.deepcopy() for part in parts])
        html = "".join(app.builder.render_partial(part)["fragment"] for part in holder.children)
        entries.append(f'<div id="define-{anchor}"><strong>{escape(word)}</strong>{html}</div>')
    return '<div class="definitions" hidden>' + "".join(entries) + "</div>"


def _is_term(reference: nodes.reference) -> bool:
    return any("std-term" in child.get("classes", ()) for child in reference.findall(nodes.inline))
