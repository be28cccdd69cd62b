"""The Sphinx side of the book: claim boxes, figures, tables of the whole book, footers.

Everything shown comes from the metadata of outputs in the executed notebooks, cached ones
included; nothing is read from files that a kernel wrote.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from enough import __version__
from enough.book.atlas import Paper, count_verdicts, join_atlas, papers_beyond, read_atlas
from enough.book.atlas_table import atlas_html, atlas_totals
from enough.book.citations import read_citations
from enough.book.claims import METADATA_KEY, NOT_RUN, Claim
from enough.book.launch import BRANCH
from enough.book.ledger import Entry, Ledger
from enough.book.records import claim_records, records_to_csv, records_to_json
from enough.book.sphinx import assets, figures, footer, references, syllabus, terms
from enough.book.sphinx.parts import Measured, Placeholder, link, setup_nodes, table

__all__ = ["ClaimRenderer", "setup"]


class ClaimRenderer:
    """Render claim lines as boxes and figures with their alt text and caption."""

    mime_priority_overrides: ClassVar[tuple] = ()

    @staticmethod
    def handle_mime(renderer, data, inline: bool) -> list[nodes.Element] | None:
        """Return the nodes of an output that carries our metadata, or ``None``."""
        if inline:
            return None
        if data.mime_type == "text/plain" and METADATA_KEY in data.output_metadata:
            return [_claim_box(renderer, data)]
        if data.mime_type == "image/png" and figures.FIGURE_KEY in data.output_metadata:
            return [figures.figure_node(renderer, data)]
        return None


def _claim_box(renderer, data) -> nodes.Element:
    claim = Claim.from_metadata(data.output_metadata[METADATA_KEY])
    box = nodes.container(classes=["claim", _css(claim.verdict)])
    box["enough_claim"] = claim.to_metadata()
    document = renderer.renderer.document
    anchor, number = claim.anchor, 1
    while anchor in document.ids:
        number += 1
        anchor = f"{claim.anchor}-{number}"
    box["ids"].append(anchor)
    document.note_explicit_target(box, box)
    head = nodes.paragraph(classes=["claim-sentence"])
    head += _pill(claim.verdict)
    if claim.control:
        head += nodes.inline("", "negative control", classes=["claim-control"])
    head += nodes.inline("", f"{claim.sentence}.")
    box += head
    source = f"{{cite:t}}`{claim.paper}`, {claim.where}"
    if claim.verdict == NOT_RUN:
        text = f"Not run: {claim.reason} · bound: {claim.bound_text} · {source}"
    else:
        level = "" if claim.interval[0] == claim.interval[1] else f" ({claim.level:.0%} interval)"
        text = (
            f"Measured {claim.measured_text}{level} · bound: {claim.bound_text} · {source} · "
            f"{claim.preset} preset on {claim.device}"
        )
    if claim.because:
        text += f"\n\nExpected “{claim.expected}” because {claim.because}"
    holder = nodes.container(classes=["claim-numbers"])
    with renderer.renderer.current_node_context(holder):
        renderer.renderer.nested_render_text(text, data.line or 0)
    box += holder
    return box


def _pill(verdict: str) -> nodes.inline:
    return nodes.inline("", verdict, classes=["verdict", _css(verdict)])


def _css(verdict: str) -> str:
    return "verdict-" + verdict.replace(" ", "-")


class _PlaceholderDirective(SphinxDirective):
    """A directive whose content is known once every page is read."""

    kind = ""
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        node = Placeholder("", kind=self.kind, argument=" ".join(self.arguments))
        self.env.enough_placeholders.add(self.env.docname)
        return [node]


class ScoreboardDirective(_PlaceholderDirective):
    """All claims with verdict, value, bound and source, chapter by chapter."""

    kind = "scoreboard"


class NegativesDirective(_PlaceholderDirective):
    """The claims that did not reproduce here or were not run, with their reasons."""

    kind = "negatives"


class TotalsDirective(_PlaceholderDirective):
    """How many claims there are of each verdict, in the book or below the folder named."""

    kind = "totals"


class AtlasDirective(_PlaceholderDirective):
    """Every paper with claim, status and verdicts; ``totals``: how many there are of each.

    With ``beyond``, the papers that claims cite and the catalogue lacks.
    """

    kind = "atlas"


class AtlasAddresses(SphinxPostTransform):
    """Hand the addresses of the atlas, which is HTML, to the link checker."""

    default_priority = 700
    builders = ("linkcheck",)

    def run(self, **_: Any) -> None:
        """Put a list of links in place of the atlas."""
        for node in list(self.document.findall(Placeholder)):
            if node["kind"] == "atlas" and not node["argument"]:
                links = [
                    nodes.list_item("", nodes.paragraph("", "", _address(paper)))
                    for paper in read_atlas()
                    if paper.url
                ]
                node.replace_self([nodes.bullet_list("", *links)])


def _address(paper: Paper) -> nodes.reference:
    return nodes.reference("", paper.title, refuri=paper.url)


class BenchmarksDirective(_PlaceholderDirective):
    """A part of the recorded benchmarks, as `enough.book.benchmark_nodes.PARTS` names them."""

    kind = "benchmarks"


class SyllabusDirective(_PlaceholderDirective):
    """A plan of so many weeks, or, without a number, what each chapter asks of a student."""

    kind = "syllabus"
    optional_arguments = 2


class ChapterListDirective(_PlaceholderDirective):
    """The parts of the book with their chapters."""

    kind = "chapters"


class RunTimesDirective(_PlaceholderDirective):
    """Measured run times: of all chapters, or of the page's own chapter."""

    kind = "runtimes"


def _ledger(app: Sphinx) -> Ledger:
    pages = list(app.env.found_docs) if not app.env.toctree_includes else _reading_order(app)
    entries = [
        Entry(Claim.from_metadata(data), page, anchor, _date(app, page))
        for page, claims in app.env.enough_ledger.items()
        for data, anchor in claims
    ]
    return Ledger(entries, pages)


def _date(app: Sphinx, page: str) -> str:
    """The day a page was executed; empty when the environment does not know it."""
    executed = app.env.nb_metadata.get(page, {}).get("exec_data") or {}
    # jupyter-cache stores UTC without saying so, and MyST-NB reads it as local time: undone here.
    return datetime.fromtimestamp(executed["mtime"]).date().isoformat() if executed else ""


def _reading_order(app: Sphinx) -> list[str]:
    """The pages in the order of the table of contents."""
    order: list[str] = []
    waiting = [app.config.root_doc]
    while waiting:
        page = waiting.pop(0)
        if page not in order:
            order.append(page)
            waiting = list(app.env.toctree_includes.get(page, [])) + waiting
    return order


def _fill(app: Sphinx, node: Placeholder, page: str) -> list[nodes.Node]:
    ledger = _ledger(app)
    if node["kind"] == "totals":
        if node["argument"] == "parts":
            return [_totals_of_parts(app, page, ledger)]
        return [_totals(ledger.within(node["argument"]))]
    if node["kind"] == "references":
        return [references.references_list(app, page, node["argument"].split(","))]
    if node["kind"] == "chapters":
        return _chapter_list(app, page)
    if node["kind"] == "syllabus":
        if not node["argument"]:
            return syllabus.chapter_nodes(app, page)
        return [syllabus.plan_table(app, page, *map(int, node["argument"].split()))]
    if node["kind"] == "atlas":
        return [_atlas(app, page, node["argument"], ledger)]
    if node["kind"] == "benchmarks":
        from enough.book.benchmark_nodes import benchmark_nodes

        folder = Path(app.outdir, page).parent
        return benchmark_nodes(node["argument"], folder, table, _pill)
    if node["kind"] == "scoreboard":
        return [
            *_downloads(app, page, ledger),
            *(
                part
                for where, entries in ledger.by_page().items()
                for part in (_chapter_title(app, page, where), _claims_table(app, page, entries))
            ),
        ]
    if node["kind"] == "negatives":
        entries = ledger.not_supported()
        if not entries:
            return [nodes.paragraph("", "Every claim that was run holds here.")]
        return [_claims_table(app, page, entries, reasons=True)]
    return [_run_times(app, page, node["argument"])]


def _totals(ledger: Ledger) -> nodes.Node:
    paragraph = nodes.paragraph(classes=["totals"])
    for verdict, count in ledger.totals().items():
        group = nodes.inline(classes=["total"])
        group += nodes.strong("", str(count))
        group += nodes.Text(" ")
        group += _pill(verdict)
        paragraph += group
        paragraph += nodes.Text(" ")
    return paragraph


def _totals_of_parts(app: Sphinx, page: str, ledger: Ledger) -> nodes.Node:
    """One row a part: how many of its claims have each verdict."""
    rows = []
    folders = dict.fromkeys(entry.page.rpartition("/")[0] for entry in ledger.entries)
    for folder in folders:
        index = f"{folder}/index"
        known = index in app.env.titles
        name = app.env.titles[index].astext() if known else folder
        title = link(app, page, index, "", name) if known else nodes.inline("", name)
        counts = ledger.within(f"{folder}/").totals()
        cells = [[nodes.paragraph("", str(count))] for count in counts.values()]
        rows.append([[nodes.paragraph("", "", title)], *cells])
    whole = [[nodes.paragraph("", "", nodes.strong("", "All"))]]
    whole += [
        [nodes.paragraph("", "", nodes.strong("", str(count)))]
        for count in ledger.totals().values()
    ]
    return table(["Part", *ledger.totals()], [*rows, whole], classes=["totals-of-parts"])


def _chapter_list(app: Sphinx, page: str) -> list[nodes.Node]:
    """Every part that has chapters, as the table of contents orders them."""
    result: list[nodes.Node] = []
    order = _reading_order(app)
    for part in order:
        chapters = [name for name in app.env.toctree_includes.get(part, []) if name in order]
        if part == app.config.root_doc or not chapters:
            continue
        head = nodes.paragraph(classes=["chapter-list-part"])
        head += link(app, page, part, "", app.env.titles[part].astext())
        items = [
            nodes.list_item(
                "",
                nodes.paragraph("", "", link(app, page, name, "", app.env.titles[name].astext())),
            )
            for name in chapters
        ]
        result += [head, nodes.bullet_list("", *items, classes=["chapter-list"])]
    return result


def _atlas(app: Sphinx, page: str, argument: str, ledger: Ledger) -> nodes.Node:
    rows = join_atlas(read_atlas(), ledger, app.env.enough_papers)
    if argument == "totals":
        return nodes.paragraph("", atlas_totals(rows))
    if argument == "beyond":
        return _beyond(app, page, papers_beyond(rows, ledger))
    whole = atlas_html(
        rows,
        lambda target, anchor: f"{app.builder.get_relative_uri(page, target)}#{anchor}",
        lambda target: app.env.titles[target].astext(),
    )
    return nodes.raw("", whole, format="html")


def _beyond(app: Sphinx, page: str, papers: Mapping[str, Sequence[Entry]]) -> nodes.Node:
    """One row a paper that the catalogue lacks: its address, its verdicts, where they stand."""
    rows = []
    for key, entries in papers.items():
        paper = app.env.enough_papers.get(key)
        name = nodes.paragraph("", "", _paper_link(app, key))
        cell: list[nodes.Node] = [name]
        if paper is not None:
            title = paper.title.replace("{", "").replace("}", "")
            cell.append(nodes.paragraph("", title, classes=["claim-run"]))
        counts = nodes.paragraph()
        for verdict, count in count_verdicts(entries).items():
            counts += [nodes.Text(f"{count} "), _pill(verdict)]
        places = {entry.page: entry.anchor for entry in reversed(entries)}
        titles = [
            nodes.paragraph("", "", link(app, page, where, anchor, app.env.titles[where].astext()))
            for where, anchor in reversed(places.items())
        ]
        rows.append([cell, [counts], titles])
    return table(["Paper", "Verdicts", "Chapters"], rows, classes=["scoreboard", "beyond"])


def _downloads(app: Sphinx, page: str, ledger: Ledger) -> list[nodes.Node]:
    """Write the claims beside the page as CSV and JSON, and link them."""
    if app.builder.format != "html":
        return []
    records = claim_records(ledger, app.env.enough_papers)
    folder = Path(app.outdir, page).parent
    folder.mkdir(parents=True, exist_ok=True)
    paragraph = nodes.paragraph("", "All claims as a file: ", classes=["downloads"])
    for number, (name, write) in enumerate(
        (("claims.csv", records_to_csv), ("claims.json", records_to_json))
    ):
        (folder / name).write_text(write(records), encoding="utf-8", newline="\n")
        paragraph += [nodes.Text(" · ")] * (number > 0)
        paragraph += nodes.reference("", name, refuri=name, classes=["download"])
    return [paragraph]


def _chapter_title(app: Sphinx, page: str, target: str) -> nodes.Node:
    title = nodes.rubric(classes=["scoreboard-chapter"])
    title += link(app, page, target, "", app.env.titles[target].astext())
    return title


def _claims_table(
    app: Sphinx, page: str, entries: list[Entry], reasons: bool = False
) -> nodes.Node:
    heads = ["Verdict", "Claim", "Measured", "Bound", "Source"]
    rows = []
    for entry in entries:
        claim = entry.claim
        source = nodes.paragraph("", "", _paper_link(app, claim.paper), nodes.Text(", "))
        source += nodes.Text(claim.where)
        run = nodes.paragraph("", f"{claim.preset} preset on {claim.device}", classes=["claim-run"])
        if entry.date:
            run += [nodes.Text(", "), Measured("", entry.date)]
        sentence = link(app, page, entry.page, entry.anchor, claim.sentence)
        cell: list[nodes.Node] = [nodes.paragraph("", "", sentence)]
        if claim.control:
            cell.append(nodes.paragraph("", "negative control", classes=["claim-control"]))
        reason = claim.reason or claim.because
        if reasons and reason:
            cell.append(nodes.paragraph("", f"Reason: {reason}"))
        rows.append(
            [
                [nodes.paragraph("", "", _pill(claim.verdict))],
                cell,
                [nodes.paragraph("", claim.measured_text), run],
                [nodes.paragraph("", claim.bound_text)],
                [source],
            ]
        )
    return table(heads, rows, classes=["scoreboard"])


def _run_times(app: Sphinx, page: str, argument: str) -> nodes.Node:
    """Live seconds from the execution, recorded ones from the provenance files."""
    from enough.runtime import recording

    own = argument == "here"
    rows = []
    for name, data in sorted(app.env.nb_metadata.items()):
        executed = data.get("exec_data") or {}
        if executed.get("runtime") is None or (own and name != page):
            continue
        chapter = name.removeprefix("chapters/")
        recorded = {}
        for one in recording.read_tables(chapter):
            known = recorded.get(one.preset, 0.0)
            recorded[one.preset] = max(known, one.provenance["seconds"])
        seconds = [executed["runtime"], recorded.get("gpu"), recorded.get("full")]
        cells = [[nodes.paragraph("", "", _seconds(value))] for value in seconds]
        title = link(app, page, name, "", app.env.titles[name].astext())
        rows.append(cells if own else [[nodes.paragraph("", "", title)], *cells])
    heads = ["cpu preset, this build", "gpu preset, recorded", "full preset, recorded"]
    return table(heads if own else ["Chapter", *heads], rows, classes=["run-times"])


def _seconds(seconds: float | None) -> Measured:
    return Measured("", "not recorded" if seconds is None else f"{seconds:.0f} s")


def _paper_link(app: Sphinx, key: str) -> nodes.Node:
    """Authors and year of a citation key, linked to the paper where its address is known."""
    paper = app.env.enough_papers.get(key)
    label = key if paper is None else f"{paper.who} ({paper.year})"
    if paper is None or not paper.url:
        return nodes.Text(label)
    return nodes.reference("", label, refuri=paper.url)


def _on_config(app: Sphinx, config: Any) -> None:
    """Take the execution cache of this run, and switch off what would load from elsewhere."""
    for event, listeners in app.events.listeners.items():
        # Jupyter Book always loads sphinx-thebe, whose script asks another host for code.
        kept = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]
        app.events.listeners[event] = kept
    styles = app.registry.css_files
    styles[:] = [style for style in styles if style[0] != "sphinx-thebe.css"]
    if os.environ.get("ENOUGH_EXECUTION") == "off":
        config.nb_execution_mode = "off"
    folder = os.environ.get("ENOUGH_EXECUTION_CACHE")
    if folder:
        config.nb_execution_cache_path = folder


def _on_start(app: Sphinx) -> None:
    env = app.env
    env.enough_ledger = getattr(env, "enough_ledger", {})
    env.enough_placeholders = getattr(env, "enough_placeholders", set())
    env.enough_lessons = getattr(env, "enough_lessons", {})
    env.enough_definitions = getattr(env, "enough_definitions", {})
    env.enough_definitions_shown = getattr(env, "enough_definitions_shown", {})
    env.enough_term_pages = getattr(env, "enough_term_pages", set())
    app.enough_order = lambda: _reading_order(app)
    footer.collect_provenance(app)
    env.enough_papers = {}
    for path in app.config.bibtex_bibfiles:
        env.enough_papers.update(read_citations(Path(app.srcdir, path)))


def _before_collectors(app: Sphinx, doctree: nodes.document) -> None:
    """What must stand on the page before Sphinx reads its table of contents."""
    references.add_references(app, doctree)


def _on_read(app: Sphinx, doctree: nodes.document) -> None:
    claims = [
        (box["enough_claim"], box["ids"][0])
        for box in doctree.findall(nodes.container)
        if "enough_claim" in box
    ]
    if claims:
        app.env.enough_ledger[app.env.docname] = claims
    syllabus.collect_lesson(app, doctree)
    terms.collect_definitions(app.env, doctree)
    if any(node.get("reftype") == "term" for node in doctree.findall(pending_xref)):
        app.env.enough_term_pages.add(app.env.docname)


def _on_purge(app: Sphinx, env: Any, docname: str) -> None:
    env.enough_ledger.pop(docname, None)
    env.enough_lessons.pop(docname, None)
    env.enough_placeholders.discard(docname)
    env.enough_term_pages.discard(docname)
    for name in [name for name, (page, *_) in env.enough_definitions.items() if page == docname]:
        del env.enough_definitions[name]


def _on_merge(app: Sphinx, env: Any, docnames: set[str], other: Any) -> None:
    for kept, read in (
        (env.enough_ledger, other.enough_ledger),
        (env.enough_lessons, other.enough_lessons),
    ):
        kept.update({docname: entry for docname, entry in read.items() if docname in docnames})
    for name, entry in other.enough_definitions.items():
        if entry[0] in docnames:
            env.enough_definitions[name] = entry
    env.enough_placeholders.update(other.enough_placeholders & set(docnames))
    env.enough_term_pages.update(other.enough_term_pages & set(docnames))


def _on_updated(app: Sphinx, env: Any) -> list[str]:
    # Sphinx forgets the index entries of a page that it does not write again.
    glossaries = {page for page, *_ in env.enough_definitions.values()}
    return sorted({*env.enough_placeholders, *terms.changed_pages(env), *glossaries})


def _on_resolved(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in list(doctree.findall(Placeholder)):
        node.replace_self(_fill(app, node, docname))
    figures.write_data(app, doctree, docname)
    if next(doctree.findall(lambda node: isinstance(node, (nodes.math, nodes.math_block))), None):
        # a formula may have come from another page: Sphinx would not load MathJax for it
        app.env.get_domain("math").data["has_equations"][docname] = True


def _on_finished(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        assets.slim(Path(app.outdir, "_static"))
        assets.lighten_pages(Path(app.outdir))


def _on_page(app: Sphinx, page: str, template: str, context: dict, doctree: Any) -> None:
    """Complete a page: definitions, banner, footer, and launch buttons to the right branch."""
    if doctree is not None:
        executed = _date(app, page) if page in app.env.nb_metadata else ""
        context["body"] = (
            context["body"].replace("</h1>", "</h1>" + footer.banner_html(page), 1)
            + terms.definitions_html(app, doctree)
            + footer.footer_html(app, page, executed)
        )
    branch = app.config.html_theme_options.get("repository_branch", "main")
    for group in context.get("header_buttons", []):
        if group.get("label") != "launch-buttons":
            continue
        for button in group["buttons"]:
            for before, after in (
                (f"/blob/{branch}/", f"/blob/{BRANCH}/"),
                (f"/{branch}?", f"/{BRANCH}?"),
            ):
                button["url"] = button.get("url", "").replace(before, after)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension.

    Parameters
    ----------
    app : sphinx.application.Sphinx
        The application.

    Returns
    -------
    dict
        Version and safety flags.
    """
    setup_nodes(app)
    app.add_directive("scoreboard", ScoreboardDirective)
    app.add_directive("did-not-reproduce", NegativesDirective)
    app.add_directive("claim-totals", TotalsDirective)
    app.add_directive("atlas", AtlasDirective)
    app.add_post_transform(AtlasAddresses)
    app.add_directive("benchmarks", BenchmarksDirective)
    app.add_directive("run-times", RunTimesDirective)
    app.add_directive("syllabus", SyllabusDirective)
    app.add_directive("chapter-list", ChapterListDirective)
    app.connect("config-inited", _on_config, priority=900)
    app.connect("builder-inited", _on_start)
    app.connect("doctree-read", _before_collectors, priority=100)
    app.connect("doctree-read", _on_read)
    app.connect("env-purge-doc", _on_purge)
    app.connect("env-merge-info", _on_merge)
    app.connect("env-updated", _on_updated)
    app.connect("doctree-resolved", _on_resolved)
    app.connect("html-page-context", _on_page, priority=900)
    app.connect("build-finished", _on_finished)
    return {
        "version": __version__,
        "env_version": 2,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
