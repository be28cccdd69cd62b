"""The papers of a chapter, at its end."""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from enough.book.sphinx.parts import Placeholder, link

__all__ = ["TITLE", "add_references", "references_list"]

TITLE = "Papers of this chapter"


def add_references(app: Sphinx, doctree: nodes.document) -> None:
    """Append a section that lists every paper a chapter cites, in its prose or in a claim.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    doctree : docutils.nodes.document
        A page that was read; changed in place unless it cites nothing or is not a notebook.
    """
    if not app.env.doc2path(app.env.docname).endswith(".ipynb"):
        return
    keys = {
        key.strip()
        for cited in doctree.findall(pending_xref)
        if cited.get("refdomain") == "cite"
        for key in cited["reftarget"].split(",")
    }
    top = next(doctree.findall(nodes.section), None)
    if not keys or top is None:
        return
    section = nodes.section("", nodes.title("", TITLE), names=[TITLE.lower()])
    doctree.note_implicit_target(section)
    section += Placeholder("", kind="references", argument=",".join(sorted(keys)))
    top += section


def references_list(app: Sphinx, page: str, keys: list[str]) -> nodes.bullet_list:
    """List papers by author and year, each with its title, address and bibliography entry.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.
    page : str
        The page the list stands on.
    keys : list of str
        Citation keys.

    Returns
    -------
    docutils.nodes.bullet_list
        The list, ordered by author and year.
    """
    places = {
        citation.key: (citation.bibliography_key.docname, citation.citation_id)
        for citation in app.env.get_domain("cite").citations
    }
    papers = app.env.enough_papers
    known = [(papers[key].who, papers[key].year, key) for key in keys if key in papers]
    whole = nodes.bullet_list(classes=["chapter-papers"])
    for who, year, key in sorted(known, key=lambda one: (one[0].casefold(), *one[1:])):
        paper = papers[key]
        line = nodes.paragraph("", f"{who} ({year}). ")
        title = paper.title.replace("{", "").replace("}", "")
        words = nodes.emphasis("", title)
        line += nodes.reference("", "", words, refuri=paper.url) if paper.url else words
        if key in places:
            line += nodes.Text(" · ")
            line += link(app, page, *places[key], "full entry")
        whole += nodes.list_item("", line)
    return whole
