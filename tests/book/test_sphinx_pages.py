"""A small book, built by Sphinx with the extension: what it adds to every page."""

import base64
import csv
import io
import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from enough.book.claims import METADATA_KEY, Claim
from enough.book.sphinx import assets
from enough.runtime import recording

PICTURE = io.BytesIO()
Image.new("RGB", (12, 8)).save(PICTURE, "png")
GLOSSARY = """# Glossary

```{glossary}
proxy reward
  The score that is optimized, $r$, in place of the {term}`gold reward`.

gold reward
  The score that counts.

unused word
  Nobody uses it.
```
"""
AIMS = """# A chapter

**You will be able to**

- use a {term}`proxy reward` at size $n$;
- read {cite:t}`simon`.

**You need** patience.

$$
a = b
$$

```{code-block} python
these words are code and nobody counts them
```
"""
EXERCISE = """```{exercise-start} One (10 minutes)
:label: ex-one
```
Do it. `exercises.check("part/one/x", your_x)`
```{exercise-end}
```"""
CONFIGURATION = """
extensions = ["myst_nb", "sphinxcontrib.bibtex", "sphinx_exercise", "enough.book.sphinx"]
bibtex_bibfiles = ["refs.bib"]
bibtex_reference_style = "author_year"
nb_execution_mode = "off"
html_theme = "basic"
root_doc = "chapters/index"
myst_enable_extensions = ["dollarmath"]
"""
BIBLIOGRAPHY = """
@misc{simon, author={Simon, A.}, title={More is {Better}}, year={2023}, url={https://a.b/1}}
@misc{cho, author={Cho, Y. and Saul, L.}, title={Kernels}, year={2009}}
@misc{uncited, author={No, B.}, title={Nothing}, year={2001}}
"""


def _figure(name, **more):
    about = {
        "alt": "What is to be seen here.", "caption": f"Caption of {name}.", "name": name,
        "width": 600, "height": 400, **more,
    }  # fmt: skip
    return new_output(
        "display_data",
        {"image/png": base64.b64encode(PICTURE.getvalue()).decode(), "text/plain": "Figure"},
        metadata={"image/png": {"width": 600, "height": 400}, "enough.figure": about},
    )


def _claim():
    claim = Claim(
        sentence="It holds", paper="cho", where="Section 1", measured=1.0, interval=(0.5, 1.5),
        bound="above", limits=(0.0,), level=0.95, unit="", verdict="holds", expected="holds",
        because="", reason="", control=False, preset="cpu", device="cpu",
    )  # fmt: skip
    return new_output(
        "display_data",
        {"text/plain": "holds: It holds"},
        metadata={METADATA_KEY: claim.to_metadata()},
    )


def _notebook(path, cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.execution_count = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def _build(folder, source):
    """In a process of its own: Sphinx leaves traces in docutils."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-b",
        "html",
        "-d",
        str(folder / "trees"),
    ]
    done = subprocess.run(
        [*command, str(source), str(folder / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = tmp_path_factory.mktemp("book") / "source"
    chapters = source / "chapters"
    chapters.mkdir(parents=True)
    (source / "conf.py").write_text(CONFIGURATION)
    (source / "refs.bib").write_text(BIBLIOGRAPHY)
    pages = "part/index\npart/one\nother/two\nglossary\nsyllabus\npapers"
    (chapters / "index.md").write_text(
        f"# Book\n\n```{{toctree}}\n{pages}\n```\n\n```{{claim-totals}} parts\n```\n"
    )
    (chapters / "part").mkdir()
    (chapters / "part" / "index.md").write_text("# Part I\n")
    (chapters / "glossary.md").write_text(GLOSSARY)
    (chapters / "papers.md").write_text("# Papers\n\n```{bibliography}\n```\n")
    (chapters / "syllabus.md").write_text(
        "# Syllabus\n\n```{syllabus} 10\n```\n\n```{syllabus} 1 1\n```\n\n```{syllabus}\n```\n"
    )
    one = [
        new_markdown_cell(AIMS),
        new_markdown_cell(EXERCISE),
        new_code_cell(
            "1",
            outputs=[
                _figure("fig-given", data={"n": [1, 2], "a": [0.5, 0.25]}, columns=["n", "a"])
            ],
        ),
        new_code_cell("2", outputs=[_figure("fig-read", drawn={"x": [1.0]}, stride=3)]),
        new_code_cell("3", outputs=[_figure("fig-bare")]),
        new_code_cell("4", outputs=[_claim()]),
    ]
    two = [
        new_markdown_cell(
            "# Tables of others\n\n**You will be able to**\n\n- see.\n\n**You need** eyes."
        ),
        new_code_cell("1", outputs=[_figure("fig-fit", data={"fit": [1.5]})]),
        new_code_cell("2", outputs=[_figure("fig-points", drawn={"x": [3.25]}, stride=1)]),
        new_code_cell("3", metadata={"tags": ["needs-chinchilla_epoch"]}),
    ]
    _notebook(chapters / "part" / "one.ipynb", one)
    _notebook(chapters / "other" / "two.ipynb", two)
    return source


@pytest.fixture(scope="module")
def out(source, tmp_path_factory):
    """The small book, with one recorded table that older code made."""
    folder = tmp_path_factory.mktemp("built")
    results = folder / "results"
    path = recording.write_table(
        "part/one", [{"n": 1}], preset="gpu", device="cpu", seed=0, command="make record",
        seconds=7.0, sources=["enough.plotting"], commit="abcdef0123456789", root=results,
    ).with_suffix(".json")  # fmt: skip
    about = json.loads(path.read_text())
    about["sources"]["sha256"] = "0" * 64
    path.write_text(json.dumps(about))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENOUGH_RESULTS", str(results))
        patch.setenv("ENOUGH_COMMIT", "0123456789abcdef")
        patch.delenv("ENOUGH_EXECUTION_CACHE", raising=False)
        _build(folder, source)
    return folder / "out"


@pytest.fixture(scope="module")
def one(out):
    return (out / "chapters/part/one.html").read_text(encoding="utf-8")


def _text(html):
    return re.sub(r" ([.,;])", r"\1", " ".join(re.sub(r"<[^>]+>", " ", html).split()))


def test_pictures_state_their_size_so_that_nothing_moves(one):
    pictures = re.findall(r"<img [^>]*_images[^>]*>", one)
    assert len(pictures) == 3
    for picture in pictures:
        assert 'width="600" height="400"' in picture
        assert "style=" not in picture


def test_the_data_of_a_figure_is_a_file_under_it(out, one):
    links = re.findall(r'<a class="[^"]*download[^"]*" href="([^"]+)"', one)
    assert links == ["one/fig-given.csv", "one/fig-read.csv"]
    with open(out / "chapters/part" / links[0], encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["n", "a"], ["1", "0.5"], ["2", "0.25"]]
    assert "(CSV, 2 rows)" in _text(one)
    assert "(CSV, 1 row, one point in 3)" in _text(one)


def test_points_of_others_are_linked_and_not_offered(out):
    two = (out / "chapters/other/two.html").read_text(encoding="utf-8")
    assert re.findall(r'<a class="[^"]*download[^"]*" href="([^"]+)"', two) == ["two/fig-fit.csv"]
    assert [p.name for p in (out / "chapters/other/two").iterdir()] == ["fig-fit.csv"]
    (address,) = re.findall(r'href="(https://github.com/epoch-research/[^"]+)"', two)
    assert re.search(r"/tree/[0-9a-f]{40}$", address)
    assert "3.25" not in two


def test_a_word_brings_its_definition(one, out):
    (hidden,) = re.findall(r'<div class="definitions" hidden>(.*?)</div></div>', one, re.S)
    assert re.findall(r'id="define-([^"]+)"', hidden) == ["term-proxy-reward"]
    assert r"\(r\)" in hidden
    assert "in place of the gold reward." in _text(hidden)
    assert "<a " not in hidden
    assert 'id="term-' not in hidden
    assert 'class="definitions"' not in (out / "chapters/index.html").read_text(encoding="utf-8")


def test_a_chapter_lists_its_papers_those_of_claims_too(one):
    papers = one[one.index('<section id="papers-of-this-chapter"') :]
    papers = papers[: papers.index("</section>")]
    assert _text(papers).replace(" · full entry", "") == (
        "Papers of this chapter ¶ Cho and Saul (2009). Kernels Simon (2023). More is Better"
    )
    assert re.findall(r'href="(https[^"]+)"', papers) == ["https://a.b/1"]
    assert len(re.findall(r'href="\.\./papers\.html#id\d+"', papers)) == 2
    assert '<a class="reference internal" href="#papers-of-this-chapter">' in one  # in the contents


def test_the_footer_says_what_produced_the_page(out, one):
    (footer,) = re.findall(r'<p class="page-provenance">.*?</p>', one)
    assert "commit <code>0123456789ab</code>" in footer
    assert re.search(r'built on <span class="measured" data-measured="">\d{4}-\d\d-\d\d<', footer)
    for path in out.glob("chapters/**/*.html"):
        assert 'class="page-provenance"' in path.read_text(encoding="utf-8")


def test_a_banner_warns_of_tables_that_older_code_made(out, one):
    (banner,) = re.findall(r'<div class="admonition warning outdated-tables">.*?</div>', one)
    assert "gpu preset" in banner
    assert "commit abcdef012345" in banner
    assert one.index("</h1>") < one.index("outdated-tables") < one.index("<p><strong>You will")
    for path in out.glob("chapters/**/*.html"):
        assert ("outdated-tables" in path.read_text()) == (path.name == "one.html")


def test_the_syllabus_counts_words_and_points(out):
    text = _text((out / "chapters/syllabus.html").read_text(encoding="utf-8"))
    assert "use a proxy reward at size \\(n\\);" in text
    assert "read Simon (2023)." in text
    assert "You need patience." in text
    assert "10 min of exercises and 0 open, 2 points, run in a time not measured." in text
    (words,) = re.findall(r"\((\d+) words, 1 formulas\)", text)
    assert 40 < int(words) < 100  # "these words are code" are not among them
    assert text.count("A chapter") == 3  # ten weeks, one week, described
    assert text.count("Tables of others") == 3


def test_totals_of_parts_add_up(out):
    html = (out / "chapters/index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<table class="[^"]*totals-of-parts.*?</table>', html, re.S)
    assert _text(found) == (
        "Part holds does not hold here inconclusive not run Part I 1 0 0 0 All 1 0 0 0"
    )


def test_a_changed_definition_reaches_the_pages_that_use_the_word(source, out, monkeypatch):
    glossary = source / "chapters" / "glossary.md"
    before = glossary.read_text()
    monkeypatch.delenv("ENOUGH_EXECUTION_CACHE", raising=False)
    try:
        glossary.write_text(before.replace("The score that is optimized", "Another score"))
        _build(out.parent, source)
        assert "Another score" in (out / "chapters/part/one.html").read_text(encoding="utf-8")
    finally:
        glossary.write_text(before)


def test_no_source_map_no_translation_no_second_font(tmp_path):
    files = {
        "a.js": b"x;\n//# sourceMappingURL=a.js.map\n",
        "a.js.map": b"{}",
        "b.css": b"y{}\n/*# sourceMappingURL=b.css.map */",
        "b.css.map": b"{}",
        "c.js": b'const s = "sourceMappingURL=kept";\n',
        "locales/de/x.json": b"{}",
        "f.ttf": b"f",
        "f.woff2": b"f",
        "alone.ttf": b"f",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assets.slim(tmp_path)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"a.js", "b.css", "c.js", "f.woff2", "alone.ttf"}
    assert (tmp_path / "a.js").read_bytes() == b"x;\n"
    assert (tmp_path / "b.css").read_bytes() == b"y{}\n"
    assert (tmp_path / "c.js").read_bytes() == files["c.js"]


PAGE = """<head>
  <script defer src="../_static/scripts/fontawesome.js?digest=1"></script>
    <script>window.MathJax = {"a": 1}</script>
    <script defer="defer" src="../_static/mathjax/tex-chtml.js?v=2"></script>
    <script src="../_static/book.js"></script>
    <script src="../_static/searchtools.js"></script>
    <script src="../_static/language_data.js"></script>
    <script src="../searchindex.js"></script>
</head><body>text</body>"""


def test_a_page_loads_only_what_it_needs():
    light = assets.lighten(PAGE)
    assert re.findall(r'src="([^"]+)"', light) == ["../_static/book.js"]
    assert "MathJax" not in light
    assert assets.lighten(light) == light
    formula = PAGE.replace("text", '<span class="math notranslate">x</span>')
    assert "tex-chtml" in assets.lighten(formula)
    assert "window.MathJax" in assets.lighten(formula)
    assert "searchindex" not in assets.lighten(formula)
    searching = assets.lighten(PAGE, searches=True)
    assert searching.count("<script") == 4
    assert "fontawesome" not in searching


def test_only_the_page_of_results_keeps_the_index(tmp_path):
    (tmp_path / "_static").mkdir()
    names = ("search.html", "index.html", "_static/macro.html")
    for name in names:
        (tmp_path / name).write_text(PAGE)
    assets.lighten_pages(tmp_path)
    kept = ["searchindex" in (tmp_path / name).read_text() for name in names]
    assert kept == [True, False, True]
