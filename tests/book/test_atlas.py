"""The atlas: its catalogue, the join with bibliography and ledger, and the page made of it."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from enough.book.atlas import (
    COVERED,
    LATER,
    PARTS,
    PLANNED,
    UNTESTABLE,
    join_atlas,
    papers_beyond,
    parse_atlas,
    read_atlas,
    same_title,
)
from enough.book.atlas_table import atlas_html, atlas_totals
from enough.book.citations import Citation, read_citations
from enough.book.claims import VERDICTS, Claim
from enough.book.ledger import Entry, Ledger

CLAIM = Claim(
    sentence="It holds", paper="simon", where="x", measured=1.0, interval=(0.5, 1.5), level=0.95,
    bound="above", limits=(0.0,), unit="", verdict="holds", reason="", expected="holds",
    because="", control=False, preset="cpu", device="cpu",
)  # fmt: skip
FAILS = replace(CLAIM, verdict="does not hold here")
OTHER = replace(CLAIM, paper="else")
LEDGER = Ledger(
    [
        Entry(FAILS, "chapters/b/y", "second"),
        Entry(CLAIM, "chapters/a/x", "first"),
        Entry(CLAIM, "chapters/a/x", "again"),
        Entry(OTHER, "chapters/a/x", "other"),
    ],
    ["chapters/a/x", "chapters/b/y"],
)
WORDS = "This sentence says what the paper claims in at least fifteen words of our own choice."
TEST = "This sentence says how that can be tested."
PLAIN = {
    "id": 1, "title": "More & Less", "part": "data", "status": "planned", "claim": WORDS,
    "test": TEST,
}  # fmt: skip
ABSENT = {
    "id": 2, "title": "Too <Big>", "part": "calibration", "status": "untestable", "claim": WORDS,
    "reason": "It needs hardware that this book does not have.",
    "mechanism": "A smaller model could show a related effect instead.",
    "arxiv": "2311.14646", "read_in": "a page",
}  # fmt: skip
CITED = {**PLAIN, "id": 3, "title": "Schrödinger: a Bridge", "part": "scaling-laws"}
CITATIONS = {
    "simon": Citation("Simon et al.", "2023", "https://a.b/c", 'Schr{\\"o}dinger, A {Bridge}'),
    "else": Citation("Else", "1999", "", "Another title"),
}


@pytest.fixture(scope="module")
def papers():
    return read_atlas()


@pytest.fixture
def rows():
    return join_atlas(parse_atlas([PLAIN, ABSENT, CITED]), LEDGER, CITATIONS)


def test_the_catalogue_holds_every_paper_once(papers):
    assert [paper.id for paper in papers] == list(range(1, 207))
    assert len({same_title(paper.title) for paper in papers}) == 206


def test_the_catalogue_uses_every_part_and_both_statuses(papers):
    assert {paper.part for paper in papers} == set(PARTS)
    assert {paper.status for paper in papers} == {PLANNED, UNTESTABLE}
    assert len(set(PARTS.values())) == 6
    assert list(PARTS.values())[5:] == [LATER] * 9


def test_no_sentence_stands_twice(papers):
    sentences = [
        sentence
        for paper in papers
        for text in (paper.claim, paper.test, paper.reason, paper.mechanism, paper.shown)
        for sentence in _sentences(text)
    ]
    assert len(set(sentences)) == len(sentences)


def test_claims_are_our_own_words(papers):
    import yaml

    source = Path(os.environ.get("ENOUGH_DATA", "")).parent / "catalogue.yml"
    if not source.exists():
        pytest.skip("the list of papers the book grew out of does not lie beside ENOUGH_DATA")
    records = {record["id"]: record for record in yaml.safe_load(source.read_text())}
    assert set(records) == {paper.id for paper in papers}
    differing = [p.id for p in papers if same_title(p.title) != same_title(records[p.id]["title"])]
    assert all(papers[number - 1].read_in for number in differing)
    for paper in papers:
        record = records[paper.id]
        assert paper.part == record["part"]
        theirs = _words(" ".join(record[name] for name in ("claim", "experiment", "risk")))
        for text in (paper.claim, paper.test, paper.reason, paper.mechanism, paper.shown):
            words = _words(text)
            runs = {" ".join(words[i : i + 7]) for i in range(len(words) - 6)}
            assert not [run for run in runs if run in " ".join(theirs)], paper.id


def test_the_bibliography_has_every_key_and_agrees_on_addresses(papers, root):
    citations = read_citations(root / "chapters" / "references.bib")
    joined = join_atlas(papers, Ledger([]), citations)
    checked = [row for row in joined if row.checked]
    assert {"simon2024more", "guo2017calibration"} <= set(citations)
    assert next(row for row in joined if row.paper.id == 1).citation == citations["simon2024more"]
    for row in checked:
        if row.citation.url and row.paper.url:
            assert row.citation.url == row.paper.url


def test_every_entry_of_the_bibliography_says_where_it_was_read(root):
    text = (root / "chapters" / "references.bib").read_text()
    bare = [
        entry
        for comment, entry in re.findall(r"^(%?.*)\n@\w+\{([^,]+),", "\n" + text, re.MULTILINE)
        if not comment.startswith("% read in: ")
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "1"}, r"id: expected a positive integer, got '1'"),
        ({"id": True}, r"id: expected a positive integer"),
        ({"title": ""}, r"title of paper 1: expected a text, got ''"),
        ({"title": None}, r"title of paper 1: expected a text, got None"),
        ({"part": "cooking"}, r"part of paper 1: expected one of .*, got 'cooking'"),
        ({"status": COVERED}, r"status of paper 1: expected 'planned' or 'untestable', got"),
        ({"claim": "Too short."}, r"claim of paper 1: expected 15 to 40 words, got 2"),
        ({"claim": WORDS[:-1]}, r"claim of paper 1: expected a sentence"),
        ({"test": f" {TEST}"}, r"test of paper 1: expected a text"),
        ({"reason": TEST}, r"reason of paper 1: expected none with status 'planned'"),
        ({"status": UNTESTABLE}, r"test of paper 1: expected none with status 'untestable'"),
        ({"keys": "simon"}, r"keys of paper 1: expected a list of citation keys, got 'simon'"),
        ({"builds_on": ["x"]}, r"builds_on of paper 1: expected places by citation key, got"),
        ({"builds_on": {"x": ""}}, r"builds_on of paper 1: expected places by citation key, got"),
        ({"builds_on": {"x": "y"}}, r"shown of paper 1: expected a sentence with builds_on"),
        ({"shown": TEST}, r"shown of paper 1: expected a sentence with builds_on, and only there"),
        ({"builds_on": {"x": "y"}, "shown": "Short."}, r"shown of paper 1: expected 8 to 40"),
        ({"year": "2023"}, r"year of paper 1: expected no such field"),
        ({"arxiv": "2311.14646"}, r"read_in of paper 1: expected the source of its address"),
        ({"doi": "10.1000/182"}, r"read_in of paper 1: expected the source of its address"),
        ({"arxiv": "abs/2311", "read_in": "x"}, r"arxiv of paper 1: expected a number like"),
        ({"doi": "doi:10.1/x", "read_in": "x"}, r"doi of paper 1: expected a DOI like"),
    ],
)
def test_broken_records_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        parse_atlas([{**PLAIN, **change}])


def test_missing_fields_and_doubles_are_named():
    with pytest.raises(ValueError, match="claim of paper 1: expected a text, got nothing"):
        parse_atlas([{name: value for name, value in PLAIN.items() if name != "claim"}])
    with pytest.raises(
        ValueError, match="test of paper 1: expected a sentence with status 'planned'"
    ):
        parse_atlas([{name: value for name, value in PLAIN.items() if name != "test"}])
    with pytest.raises(ValueError, match="id: expected each once, got 1 twice"):
        parse_atlas([PLAIN, {**PLAIN, "title": "Another"}])
    with pytest.raises(ValueError, match="title: expected each once, got 'moreless' twice"):
        parse_atlas([PLAIN, {**PLAIN, "id": 2, "title": "More, Less"}])


def test_a_catalogue_is_read_from_a_file(tmp_path):
    path = tmp_path / "atlas.json"
    path.write_text(json.dumps([ABSENT]), encoding="utf-8")
    (paper,) = read_atlas(path)
    assert (paper.url, paper.book_part) == ("https://arxiv.org/abs/2311.14646", "II: confidence")
    assert replace(paper, doi="10.1/x").url == "https://doi.org/10.1/x"


def test_the_join_follows_the_ledger(rows):
    assert [row.paper.id for row in rows] == [2, 3, 1]
    absent, cited, plain = rows
    assert (absent.status, cited.status, plain.status) == (UNTESTABLE, COVERED, PLANNED)
    assert (absent.checked, cited.checked, plain.checked) == (False, True, False)
    assert cited.verdicts() == {"holds": 2, "does not hold here": 1}
    assert [entry.page for entry in cited.entries] == ["chapters/a/x"] * 2 + ["chapters/b/y"]
    assert (absent.url, cited.url, plain.url) == (
        "https://arxiv.org/abs/2311.14646",
        "https://a.b/c",
        "",
    )
    assert atlas_totals(rows) == (
        "3 papers: 1 covered, 1 planned, 1 not testable here. For 1 of them (33%) authors and year "
        "were read in a source, for 1 more the address alone."
    )


def test_a_record_can_name_its_key():
    named = parse_atlas([{**PLAIN, "keys": ["else"]}])
    (row,) = join_atlas(named, LEDGER, CITATIONS)
    assert (row.citation.who, row.verdicts()) == ("Else", {"holds": 1})
    with pytest.raises(ValueError, match="keys of paper 1: 'else' is not in the bibliography"):
        join_atlas(named, LEDGER, {})


SHOWN = "What it builds on is tested here, and nothing else of it."


def test_work_that_a_paper_builds_on_never_covers_it():
    record = {**ABSENT, "builds_on": {"simon": "x"}, "shown": SHOWN}
    (row,) = join_atlas(parse_atlas([record]), LEDGER, CITATIONS)
    assert (row.status, row.verdicts(), row.checked) == (UNTESTABLE, {}, False)
    assert [entry.anchor for entry in row.related] == ["first", "again", "second"]
    text = atlas_html([row], lambda page, anchor: f"{page}.html#{anchor}", str.upper)
    table = _Table(text)
    attributes, cells = table.rows[1]
    assert (attributes["data-status"], attributes["data-verdicts"]) == (UNTESTABLE, "")
    assert cells[3].startswith("not testable hereWhat it builds on:2 holds1 does not hold here")
    assert f"Tested of what it builds on: {SHOWN}" in cells[2]
    assert "chapters/a/x.html#first" in table.links
    elsewhere = parse_atlas([{**record, "builds_on": {"simon": "another place"}}])
    assert join_atlas(elsewhere, LEDGER, CITATIONS)[0].related == ()
    with pytest.raises(ValueError, match="builds_on of paper 2: 'simon' is not in the biblio"):
        join_atlas(parse_atlas([record]), LEDGER, {})


def test_papers_beyond_the_catalogue_are_those_that_no_row_has(rows):
    assert {
        key: [entry.anchor for entry in entries]
        for key, entries in papers_beyond(rows, LEDGER).items()
    } == {"else": ["other"]}


def test_the_claims_on_qlora_are_about_qlora(papers, root):
    from enough.book.pairs import find_pairs

    citations = read_citations(root / "chapters" / "references.bib")
    places = {
        where
        for pair in find_pairs(root)
        for where in re.findall(
            r'paper="dettmers2023qlora",\s+where="([^"]+)"', pair.twin.read_text(encoding="utf-8")
        )
    }
    bailong = next(paper for paper in papers if paper.title.startswith("Bailong"))
    assert bailong.keys == ()
    assert dict(bailong.builds_on)["dettmers2023qlora"] in places
    assert not [paper for paper in papers if "dettmers2023qlora" in paper.keys]
    titles = {same_title(paper.title) for paper in papers}
    assert same_title(citations["dettmers2023qlora"].title) not in titles


def test_the_link_checker_sees_the_addresses_of_the_atlas(tmp_path, papers):
    from sphinx.application import Sphinx

    (tmp_path / "conf.py").write_text("")
    (tmp_path / "index.rst").write_text("Atlas\n=====\n\n.. atlas::\n")
    app = Sphinx(
        str(tmp_path), str(tmp_path), str(tmp_path / "out"), str(tmp_path / "doctrees"),
        "linkcheck",
        confoverrides={
            "extensions": ["sphinxcontrib.bibtex", "enough.book.sphinx"],
            "bibtex_bibfiles": [],
            "linkcheck_ignore": [".*"],
        },
        status=None, warning=None, freshenv=True,
    )  # fmt: skip
    app.build()
    lines = (tmp_path / "out" / "output.json").read_text(encoding="utf-8").splitlines()
    seen = {json.loads(line)["uri"] for line in lines}
    assert seen == {paper.url for paper in papers if paper.url}
    assert len(seen) > 20


class _Table(HTMLParser):
    """Rows of a table: attributes, and the text of each cell."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.links, self.options = [], [], []
        self.inside = self.choice = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "tr":
            self.rows.append((given, []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")
            self.inside = True
        if tag == "a":
            self.links.append(given["href"])
        if tag == "option":
            self.options.append("")
            self.choice = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False
        if tag == "option":
            self.choice = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][1][-1] += data
        elif self.choice:
            self.options[-1] += data


def test_the_table_carries_what_the_script_needs(rows):
    text = atlas_html(rows, lambda page, anchor: f"{page}.html#{anchor}", lambda page: page.upper())
    table = _Table(text)
    assert text.index("<form") < text.index("<table")
    assert re.search(r"<form [^>]*hidden>", text)
    head, absent, cited, plain = table.rows
    assert head[1] == ["Paper", "Part", "Claim", "Status"]
    assert cited[0] | {"role": None} == {
        "role": None,
        "id": "paper-3",
        "data-part": "V: compute",
        "data-status": COVERED,
        "data-verdicts": "holds|does not hold here",
    }
    assert "Simon et al. (2023)" in cited[1][0]
    assert cited[1][3].startswith("covered2 holds1 does not hold here")
    assert plain[1][0] == "More & Less reference not checked"
    assert absent[1][0] == "Too <Big> authors and year not checked"
    assert ABSENT["reason"] in absent[1][2]
    assert ABSENT["mechanism"] in absent[1][2]
    assert [row[1][3] for row in (absent, plain)] == ["not testable here", "planned"]
    assert table.links == [
        "https://arxiv.org/abs/2311.14646",
        "https://a.b/c",
        "chapters/a/x.html#first",
        "chapters/b/y.html#second",
    ]
    parts = ["I: parameters", "II: confidence", "III: optimization pressure", "IV: bits"]
    assert table.options == [
        "any", *parts, "V: compute", LATER, "any", COVERED, PLANNED, UNTESTABLE, "any", *VERDICTS,
    ]  # fmt: skip


def test_the_directive_renders_the_atlas(tmp_path, root):
    html = _build(tmp_path, root)
    table = _Table(html["atlas"])
    assert len(table.rows) == 207
    by_id = {row[0].get("id"): row for row in table.rows}
    assert by_id["paper-1"][0]["data-status"] == COVERED
    assert by_id["paper-1"][0]["data-verdicts"] == "holds"
    assert "index.html#claim-it-holds" in table.links
    assert by_id["paper-206"][0]["data-status"] == UNTESTABLE
    assert re.search(r"206 papers: 1 covered, \d+ planned, \d+ not testable here", html["atlas"])
    assert 'href="claims.csv"' in html["board"]
    assert 'href="claims.json"' in html["board"]
    assert "cpu preset on cpu" in html["board"]
    assert "2026-01-31" in html["board"]
    assert "above 0" in html["board"]
    (record,) = json.loads((tmp_path / "out" / "claims.json").read_text(encoding="utf-8"))
    assert record["claim"] == "It holds"
    assert record["link"] == "index.html#claim-it-holds"
    assert (tmp_path / "out" / "claims.csv").read_text(encoding="utf-8").count("\n") == 2


def _build(folder, root):
    """Build three pages with the extension, one claim put into the ledger by hand."""
    from datetime import datetime

    from sphinx.application import Sphinx

    source, out = folder / "source", folder / "out"
    source.mkdir()
    (source / "conf.py").write_text("")
    (source / "refs.bib").write_text((root / "chapters" / "references.bib").read_text())
    (source / "index.rst").write_text("Home\n====\n\n.. toctree::\n\n   atlas\n   board\n")
    (source / "atlas.rst").write_text("Atlas\n=====\n\n.. atlas:: totals\n\n.. atlas::\n")
    (source / "board.rst").write_text("Board\n=====\n\n.. scoreboard::\n")
    app = Sphinx(
        str(source), str(source), str(out), str(folder / "doctrees"), "html",
        confoverrides={
            "extensions": ["sphinxcontrib.bibtex", "enough.book.sphinx"],
            "bibtex_bibfiles": ["refs.bib"],
            "html_theme": "basic",
        },
        status=None, warning=None, freshenv=True,
    )  # fmt: skip
    claim = replace(CLAIM, paper="simon2024more")

    def put(app, env):
        env.enough_ledger["index"] = [(claim.to_metadata(), claim.anchor)]
        env.nb_metadata = {"index": {"exec_data": {"mtime": datetime(2026, 1, 31, 12).timestamp()}}}

    app.connect("env-updated", put, priority=1)
    app.build()
    return {name: (out / f"{name}.html").read_text(encoding="utf-8") for name in ("atlas", "board")}


def _words(text):
    return re.sub(r"[^a-z0-9 ]", "", text.lower()).split()


def _sentences(text):
    return [part for part in re.split(r"(?<=\.) ", text) if part]
