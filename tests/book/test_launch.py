"""The launch branch: nothing that only the book understands, the same code, the same paths."""

import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from markdown_it import MarkdownIt
from myst_nb.core.variables import format_plain_text
from myst_parser.mdit_to_docutils.base import default_slugify
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from enough.book import execution, pairs
from enough.book.citations import Citation, read_citations
from enough.book.launch import glued_values, write_branch
from enough.book.plain import EXTENSIONS, Link, Links, collect_labels, to_plain_markdown
from enough.book.scaffold import skeleton

ROOT = Path(__file__).resolve().parents[2]

REPOSITORY = "https://github.com/someone/book"
SIMON = "https://arxiv.org/abs/1"
GLOSSARY = f"{REPOSITORY}/blob/main/chapters/glossary.md"
PAGES = {
    "chapters/glossary.md": "Glossary",
    "chapters/part/index.md": "Part I",
    "chapters/part/one.ipynb": "The first",
    "chapters/part/two.ipynb": "The second",
    "chapters/other/three.ipynb": "The third",
}
LINKS = Links(REPOSITORY, "chapters/part/one.ipynb", PAGES)
CITATIONS = {
    "simon": Citation("Simon et al.", "2023", SIMON),
    "cho": Citation("Cho and Saul", "2009"),
    "odd": Citation("Odd", "2001", "https://a.b/x_(1)"),
}


def plain(text, **given):
    given = {"citations": CITATIONS, "links": LINKS} | given
    return to_plain_markdown(text, **given)


def html(text):
    """How a tool that knows nothing of the book shows it."""
    return MarkdownIt("commonmark").enable("table").render(text)


def book_only(text):
    """Lines that a tool without MyST would show raw, found by reading line by line."""
    found, fence = [], ""
    for line in text.split("\n"):
        bare = re.sub(r"^[\s>]*", "", line)
        opening = re.match(r"(`{3,}|~{3,}|:{3,})(.*)", bare)
        if fence:
            if bare.startswith(fence) and not bare.strip(fence[0]).strip():
                fence = ""
            continue
        if opening and (opening[1][0] == ":" or opening[2].lstrip().startswith("{")):
            found.append(line)
        elif opening:
            fence = opening[1]
            continue
        shown = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "§", line)
        marks = (
            r"(?<!\\)\{[\w:+\-]*\}[§`]", r"^\s*\(.+\)=\s*$", r"\$\$\s*\([^)\s]+\)\s*$", r"glue:",
            r"^\s*\{[#.][^}]*\}\s*$", r"^%", r"^\+\+\+", r"\]\(#", r"\]\([^):]*\.md[#)]",
        )  # fmt: skip
        if any(re.search(mark, mark_line) for mark in marks for mark_line in (bare, shown)[1:]):
            found.append(line)
    return found


# Directives


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("```{note}\nBody.\n```", "> **Note**\n>\n> Body."),
        ("```{note} Body.\n```", "> **Note**\n>\n> Body."),
        (":::{tip}\nBody.\n:::", "> **Tip**\n>\n> Body."),
        ("~~~{warning}\nBody.\n~~~", "> **Warning**\n>\n> Body."),
        ("```{important}\n:class: x\n\nBody.\n```", "> **Important**\n>\n> Body."),
        ("```{seealso}\nBody.\n```", "> **See also**\n>\n> Body."),
        ("```{admonition} My *title*\nBody.\n```", "> **My *title***\n>\n> Body."),
        ("```{margin}\nBody.\n```", "> Body."),
        ("```{prf:theorem} Ridge\n:label: a\nBody.\n```", "> **Theorem 1 (Ridge).**\n>\n> Body."),
        ("```{prf:lemma}\nBody.\n```", "> **Lemma 1.**\n>\n> Body."),
        ("```{prf:definition}\n:nonumber:\nBody.\n```", "> **Definition.**\n>\n> Body."),
        ("```{prf:algorithm} Fit\nBody.\n```", "> **Algorithm 1 (Fit).**\n>\n> Body."),
        ("```{prf:proof}\nBody.\n```", "> *Proof.*\n>\n> Body.\n>\n> ∎"),
        ("```{exercise} Try\n:label: e\nBody.\n```", "> **Exercise 1: Try**\n>\n> Body."),
        ("```{exercise-start} Try\n:label: e\n```", "**Exercise 1: Try**"),
        ("```{exercise-start}\n```\nBody.\n```{exercise-end}\n```", "**Exercise 1**\n\nBody."),
        ("Before.\n```{exercise-start}\n```", "Before.\n\n**Exercise 1**"),
        ("```{tableofcontents}\n```", ""),
        ("```{index} word\n```", ""),
        ("(label)=\n\n```{solution-end}\n```", ""),
        ("```{code-block} python\nx = 1\n```", "```python\nx = 1\n```"),
        ("```{grid} 2\n:gutter: 1\nBody.\n```", "Body."),
        ("```{grid-item-card} Read\nBody.\n```", "**Read**\n\nBody."),
        (":::plain\n*Body.*\n:::", "*Body.*"),
        ("```{glossary}\nterm\n  What it is.\n```", "- **term**:\n  What it is."),
        (
            ":::{dropdown} More `x`\nBody.\n:::",
            "<details>\n<summary>More <code>x</code></summary>\n\nBody.\n\n</details>",
        ),
        (
            "```{note}\n:class: dropdown\nBody.\n```",
            "<details>\n<summary>Note</summary>\n\nBody.\n\n</details>",
        ),
        (
            "```{run-times} here\n```",
            "The book's page of [run times](https://github.com/someone/book/blob/main/chapters/"
            "runtimes.md) says how long this takes.",
        ),
        (
            "```{bibliography}\n:style: plain\n```",
            "The references are listed in the book's [bibliography]"
            "(https://github.com/someone/book/blob/main/chapters/bibliography.md).",
        ),
        (
            "```{image} a/b.png\n:alt: Two [lines]\n```",
            "![Two \\[lines\\]](https://github.com/someone/book/raw/main/chapters/part/a/b.png)",
        ),
        (
            "```{figure} https://a.b/c.png\n---\nalt: 'Lines: two'\nname: f\n---\nA caption.\n```",
            "![Lines: two](https://a.b/c.png)\n\n**Figure 1.** A caption.",
        ),
        (
            "```{table} A caption\n| a |\n|---|\n| b |\n```",
            "**Table 1.** A caption\n\n| a |\n|---|\n| b |",
        ),
    ],
)
def test_a_directive_becomes(source, expected):
    assert plain(source) == expected
    assert book_only(expected) == []


@pytest.mark.parametrize("name", ["claim-totals", "scoreboard", "did-not-reproduce"])
def test_a_table_of_the_whole_book_becomes_a_sentence_with_a_link(name):
    text = plain(f"```{{{name}}} chapters/part\n```")
    assert f"[scoreboard]({REPOSITORY}/blob/main/chapters/scoreboard.md)" in text
    assert text.endswith(".")
    assert "\n" not in text


def test_without_a_repository_such_a_sentence_has_no_link():
    text = to_plain_markdown("```{run-times}\n```")
    assert text == "The book's page of run times says how long this takes."


def test_boxes_nest_to_any_depth_with_longer_fences():
    source = (
        "``````{note}\n`````{tip}\nTwo.\n::::{warning}\n:::{prf:proof}\nFour.\n:::\n::::\n`````\n"
        "``````"
    )
    shown = html(plain(source))
    assert shown.count("<blockquote>") == 4
    assert re.sub("<[^>]+>|\n", " ", shown).split() == [
        "Note", "Tip", "Two.", "Warning", "Proof.", "Four.", "∎",
    ]  # fmt: skip


def test_a_box_ends_where_its_text_ends():
    """The paragraph after a box does not slip into the quote."""
    shown = html(plain("Before.\n```{note}\nBody.\n```\nAfter."))
    inside = re.search("<blockquote>(.*)</blockquote>", shown, re.S)[1]
    assert "Body." in inside
    assert "Before." not in inside
    assert "After." not in inside


def test_a_box_in_a_list_stays_in_its_item():
    shown = html(plain("- one\n\n  ```{note}\n  Body.\n  ```\n- ```{tip}\n  Tip.\n  ```\n- three"))
    assert shown.count("<ul>") == 1
    assert shown.count("<li>") == 3
    assert shown.count("<blockquote>") == 2
    assert re.search(r"<li>\s*<p>one</p>\s*<blockquote>", shown)


def test_a_box_in_a_quote_stays_in_the_quote():
    shown = html(plain("> Said:\n>\n> :::{note}\n> Body.\n> :::\n>\n> Done."))
    assert re.fullmatch(
        r"<blockquote>\s*<p>Said:</p>\s*<blockquote>.*Body.*</blockquote>\s*<p>Done.</p>\s*</blockquote>\s*",
        shown,
        re.S,
    )


_words = st.lists(st.sampled_from(["alpha", "`{x}`", "$y$", "beta."]), min_size=1, max_size=3)
_leaf = st.builds(lambda words: ("text", " ".join(words)), _words)
_tree = st.recursive(
    st.lists(_leaf, min_size=1, max_size=2),
    lambda inner: st.lists(
        st.one_of(_leaf, st.tuples(st.sampled_from(["note", "prf:lemma", "admonition"]), inner)),
        min_size=1,
        max_size=3,
    ),
    max_leaves=8,
)


def _written_out(blocks, signs, depth):
    parts = []
    for number, (kind, content) in enumerate(blocks):
        if kind == "text":
            parts.append(content)
            continue
        sign = signs[(depth + number) % len(signs)] * (20 - depth)
        title = " Title" if kind == "admonition" else ""
        inside = _written_out(content, signs, depth + 1)
        parts.append(f"{sign}{{{kind}}}{title}\n{inside}\n{sign}")
    return "\n\n".join(parts)


def _leaves(blocks):
    for kind, content in blocks:
        yield from [content] if kind == "text" else _leaves(content)


@given(_tree, st.sampled_from(["`", ":", "`:", ":`"]))
@settings(max_examples=60, deadline=None)
def test_any_nesting_keeps_the_words_in_order_and_leaves_nothing_raw(tree, signs):
    text = plain(_written_out(tree, signs, 0))
    assert book_only(text) == []
    at = 0
    for leaf in _leaves(tree):
        at = text.index(leaf, at) + len(leaf)


# Formulas


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("$$\nx = y\n$$", "$$\nx = y\n$$"),
        ("$$x = y$$ (eq-a)", "$$\nx = y \\tag{1}\n$$"),
        ("```{math}\n:label: eq-a\nx = y\n```", "$$\nx = y \\tag{1}\n$$"),
        ("```{math} x = y\n```", "$$\nx = y\n$$"),
        ("$$\nx = y % why\n$$ (eq-a)", "$$\nx = y \\tag{1}\n$$"),
        (
            "$$\na &= b \\\\\nc &= d\n$$",
            "$$\n\\begin{split}\na &= b \\\\\nc &= d\n\\end{split}\n$$",
        ),
        (
            "$$\n\\begin{aligned}\na \\\\\nb\n\\end{aligned}\n$$",
            "$$\n\\begin{aligned}\na \\\\\nb\n\\end{aligned}\n$$",
        ),
        (
            "```{math}\nx\n\ny\n```",
            "$$\n\\begin{gathered}\nx \\\\\ny\n\\end{gathered}\n$$",
        ),
        (
            "```{math}\n:label: e\n:nowrap:\n\\begin{align}\na\n\\end{align}\n```",
            "\\begin{align}\na \\tag{1}\n\\end{align}",
        ),
        ("\\begin{align}\na &= b\n\\end{align}", "\\begin{align}\na &= b\n\\end{align}"),
        (
            "Text with $$x \\\\ y$$ inside.",
            "Text with $$ \\begin{split} x \\\\ y \\end{split} $$ inside.",
        ),
        ("So $\\{x\\}$ and {math}`a_1` cost \\$5.", "So $\\{x\\}$ and $a_1$ cost \\$5."),
    ],
)
def test_a_formula_becomes(source, expected):
    assert plain(source) == expected


def test_a_formula_in_a_box_stands_on_one_line():
    """Jupyter takes the marks of the quote into a formula of several lines."""
    source = "```{note}\nBefore.\n\n$$\na &= 50\\% \\\\ % why\nb &= c\n$$ (eq-a)\n```"
    lines = plain(source).split("\n")
    assert "> $$ \\begin{split} a &= 50\\% \\\\ b &= c \\end{split} \\tag{1} $$" in lines
    environment = plain(":::{note}\n\\begin{align}\na\n\\end{align}\n:::")
    assert environment.endswith("> \\begin{align} a \\end{align}")


def test_formulas_are_numbered_in_order_and_only_where_they_have_a_label():
    source = "$$\na\n$$ (one)\n\n$$\nb\n$$\n\n{eq}`two` after {eq}`one`\n\n$$c$$ (two)"
    text = plain(source)
    assert re.findall(r"(\w) \\tag\{(\d)\}", text) == [("a", "1"), ("c", "2")]
    assert "(2) after (1)" in text


def test_a_label_that_the_book_would_print_raw_is_refused():
    with pytest.raises(ValueError, match="label 'eq-a': expected a blank line before the formula"):
        plain("Text\n$$\nx\n$$ (eq-a)")


# Roles


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{cite:t}`simon`", "[Simon et al. (2023)](https://arxiv.org/abs/1)"),
        ("{cite}`simon`", "([Simon et al., 2023](https://arxiv.org/abs/1))"),
        (
            "{cite:p}`simon,cho`",
            f"([Simon et al., 2023]({SIMON}); Cho and Saul, 2009)",
        ),
        (
            "{cite:t}`simon, cho`",
            f"[Simon et al. (2023)]({SIMON}) and Cho and Saul (2009)",
        ),
        ("{cite:alp}`cho`", "Cho and Saul, 2009"),
        ("{cite:author}`cho` in {cite:year}`cho`", "Cho and Saul in 2009"),
        ("{cite:t}`odd`", "[Odd (2001)](<https://a.b/x_(1)>)"),
        ("{kbd}`Ctrl` + {kbd}`K`", "<kbd>Ctrl</kbd> + <kbd>K</kbd>"),
        ("{kbd}``a`b``", "<kbd>a`b</kbd>"),
        ("H{sub}`2`O {abbr}`GPU (card)`", "H<sub>2</sub>O GPU (card)"),
        ("{term}`ridge`", f"[ridge]({GLOSSARY})"),
        ("{term}`ridges <ridge>`", f"[ridges]({GLOSSARY})"),
        ("{doc}`two`", "[The second](two.ipynb)"),
        ("{doc}`this <../other/three>`", "[this](../other/three.ipynb)"),
        ("{doc}`/chapters/glossary`", f"[Glossary]({GLOSSARY})"),
        ("{download}`data <x.csv>`", f"[data]({REPOSITORY}/raw/main/chapters/part/x.csv)"),
        ("{glue:text}`a:.2f`", "3.14"),
        ("{glue:}`a`", "3.14159"),
        ("**{glue:text}`s`**", "**two words**"),
        ("{glue:text}`two.ipynb::b:d` runs", "7 runs"),
        ("it is {glue:text}`none:.2f` here", "it is (value of `none` in your run) here"),
        (
            "{glue:text}`two.ipynb::c:.1f`",
            "(value of `c` in [The second](two.ipynb))",
        ),
        ("a {eq}``x`` b", "a (1) b"),
        ("| {eq}`x` |\n|---|\n| {cite:t}`cho` |", "| (1) |\n|---|\n| Cho and Saul (2009) |"),
        ("# Title {kbd}`x`\n\n- item {eq}`x`", "# Title <kbd>x</kbd>\n\n- item (1)"),
        (
            "{cite:t}`simon,\ncho`",
            f"[Simon et al. (2023)]({SIMON}) and Cho and Saul (2009)",
        ),
    ],
)
def test_a_role_becomes(source, expected):
    glued = {"a": "3.14159", "s": "'two words'", "chapters/part/two.ipynb::b": 7}
    links = Links(REPOSITORY, LINKS.page, PAGES, {"x": Link("(1)", "1")})
    assert plain(source, glued=glued, links=links) == expected
    assert book_only(expected) == []


@pytest.mark.parametrize(
    ("stored", "spec"),
    [("3.14159", ".2f"), ("7", "d"), ("0.256", ".1%"), ("12345.678", ",.1f"), ("'word'", "s"),
     ("1e-07", ".1e"), ("3", ".1f"), ("2.0", "s"), ("3.14159", ".3")],
)  # fmt: skip
def test_glued_values_are_formatted_as_the_book_formats_them(stored, spec):
    assert plain(f"{{glue:text}}`k:{spec}`", glued={"k": stored}) == format_plain_text(stored, spec)


def test_labels_stand_for_what_they_name():
    source = """
(sec-theory)=
## The *theory*

```{prf:theorem} Ridge
:label: thm
Body.
```

```{prf:lemma}
:label: lem
Body.
```

```{exercise-start} Try
:label: ex
```

```{solution-start} ex
:class: dropdown
```

{ref}`sec-theory`; [](#sec-theory); {ref}`here <sec-theory>`; [there](sec-theory); [](#the-theory)

{prf:ref}`thm`; {prf:ref}`the bound <thm>`; {numref}`Theorem %s <thm>`; {prf:ref}`lem`; {ref}`ex`
"""
    paragraphs = plain(source).split("\n\n")
    assert paragraphs[0] == "## The *theory*"
    assert "**Solution to Exercise 1**" in paragraphs
    assert paragraphs[-2] == "The *theory*; The *theory*; here; there; The *theory*"
    assert paragraphs[-1] == "Theorem 1; the bound; Theorem 1; Lemma 1; Exercise 1"


def test_labels_of_another_page_lead_there():
    labels = {
        "thm": Link("Theorem 2", "2", "chapters/part/two.ipynb"),
        "eq": Link("(3)", "3", "chapters/other/three.ipynb"),
        "sec": Link("Its limits", page="chapters/part/two.ipynb"),
        "fig": Link("", page="chapters/part/two.ipynb"),
    }
    links = Links(REPOSITORY, LINKS.page, PAGES, labels)
    text = plain(
        "{prf:ref}`thm`\n{eq}`eq`\n{ref}`sec`\n{ref}`limits <sec>`\n{numref}`fig`", links=links
    )
    assert text.split("\n") == [
        "Theorem 2 of [The second](two.ipynb)",
        "(3) of [The third](../other/three.ipynb)",
        "[Its limits](two.ipynb)",
        "[limits](two.ipynb)",
        "a figure of [The second](two.ipynb)",
    ]


def test_numbers_go_on_from_cell_to_cell():
    counts = Counter()
    cells = [
        "$$\na\n$$ (one)",
        "```{prf:theorem}\nx\n```",
        "$$\nb\n$$ (two)",
        "```{prf:theorem}\ny\n```",
    ]
    texts = [plain(cell, counts=counts) for cell in cells]
    assert "\\tag{1}" in texts[0]
    assert "\\tag{2}" in texts[2]
    assert "Theorem 2" in texts[3]
    labels = collect_labels(cells, "chapters/part/two.ipynb")
    assert labels == {
        "one": Link("(1)", "1", "chapters/part/two.ipynb"),
        "two": Link("(2)", "2", "chapters/part/two.ipynb"),
    }


@pytest.mark.parametrize("title", ["The theory", "What, how & why?", "A-b_c (d)", "Size $n$"])
def test_anchors_of_headings_are_those_of_the_book(title):
    assert f"#{default_slugify(title)}" in collect_labels([f"## {title}"])


# Links, and what is left alone


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("[g](../glossary.md)", f"[g]({GLOSSARY})"),
        (
            "[g](../glossary.md#ridge 'T')",
            f"[g]({GLOSSARY}#ridge 'T')",
        ),
        ("[](../glossary)", f"[Glossary]({GLOSSARY})"),
        ("[i](index)", f"[i]({REPOSITORY}/blob/main/chapters/part/index.md)"),
        ("[two](two.ipynb)", "[two](two.ipynb)"),
        ("[two](two.ipynb#part)", "[two](two.ipynb)"),
        ("[three](/chapters/other/three.ipynb)", "[three](../other/three.ipynb)"),
        ("[`x` [y]](two)", "[`x` [y]](two.ipynb)"),
        ("[me](one.ipynb)", "me"),
        ("<project:two.ipynb>", "[The second](two.ipynb)"),
        ("![p](a b.png)", "![p](a b.png)"),
        ("![p](<a b.png>)", f"![p](<{REPOSITORY}/raw/main/chapters/part/a b.png>)"),
        ("[out](https://a.b/c.md) <https://a.b>", "[out](https://a.b/c.md) <https://a.b>"),
        ("[csv](/results/part/x.csv)", f"[csv]({REPOSITORY}/blob/main/results/part/x.csv)"),
        ("a [span]{.wide} `b`{#id .c} [d](two){.e}", "a span `b` [d](two.ipynb)"),
        ("{#id .wide}\nText.", "Text."),
        ("% a comment\n\nText.\n\n+++\n\nMore.", "Text.\n\nMore."),
        ("One.\n% a comment\nTwo.", "One.\n\nTwo."),
        ("Word\n: What it is.\n  And more.", "- **Word**:\n  What it is.\n  And more."),
        ("Said[^a].\n\n[^a]: By `whom`.", "Said<sup>a</sup>.\n\n<sup>a</sup> By `whom`."),
    ],
)
def test_the_rest_becomes(source, expected):
    assert plain(source) == expected


@pytest.mark.parametrize(
    "text",
    [
        "A span `` {cite}`a` `` and `{glue:text}` and ```{eq}`b` ```.",
        "````markdown\n```{note}\n{cite}`a`\n\n\n```\n````",
        "~~~\n(label)=\n$$x$$ (y)\n% no comment\n~~~",
        "    (label)=\n    ```{note}",
        "Escaped \\{eq}`x` and braces {like this} and \\`{tick}.",
        '<div class="x">\n{eq}`x`\n</div>',
        "| a | b |\n|---|---|\n| `|` | $x$ |",
        "1. one\n2. two\n   - three\n\n---\n\n> quoted\n\n- [ ] task",
        "An empty {eq}`` role.",
        "Two  \nlines, *em* **strong** ~a~ & <b>html</b> [brackets] !",
        "An open ` tick, an open $ sign, an open [bracket and { brace",
    ],
)
def test_literal_text_and_plain_markdown_stay_as_they_are(text):
    assert plain(text) == text


def test_literal_blocks_in_a_box_stay_as_they_are():
    code = "````python\n```{note}\n\n\n{cite}`a`\n````"
    shown = html(plain(f":::{{note}}\n{code}\n:::"))
    assert '<pre><code class="language-python">```{note}\n\n\n{cite}`a`\n</code></pre>' in shown


def test_plain_text_is_not_changed_again():
    source = skeleton("part/one", REPOSITORY)
    cells = [re.sub("(?m)^# ?", "", part) for part in source.split("# %% [markdown]\n")[1:]]
    cells = [cell.split("\n\n%%")[0] for cell in cells]
    labels = collect_labels(cells) | {"part-one-errors": Link("the figure above")}
    links = Links(REPOSITORY, "chapters/part/one.ipynb", PAGES, labels)
    citations = {"simon2024more": CITATIONS["simon"]}
    once = [to_plain_markdown(c, citations=citations, links=links, counts=Counter()) for c in cells]
    assert len(once) > 15
    assert [to_plain_markdown(text) for text in once] == once


def test_the_words_of_a_figure_begin_a_sentence():
    links = Links(REPOSITORY, LINKS.page, PAGES, {"f": Link("the figure above")})
    text = "{numref}`f` shows it. {numref}`f` too, as {numref}`f` does."
    assert plain(text, links=links) == (
        "The figure above shows it. The figure above too, as the figure above does."
    )


# What has no plain form


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("```{mermaid}\nx\n```", r"directive \{mermaid\} has no plain form"),
        (":::{note}\n```{list-table}\n```\n:::", r"directive \{list-table\}"),
        ("```{eval-rst}\nx\n```", r"directive \{eval-rst\}"),
        ("```{prf:dream}\nx\n```", r"directive \{prf:dream\}"),
        ("See {octicon}`x`.", r"role \{octicon\} has no plain form"),
        ("See {cite:dream}`cho`.", r"role \{cite:dream\}"),
        ("{cite}`cho,nobody`", "unknown citation key 'nobody'"),
        ("{eq}`nowhere`", "unknown label 'nowhere'"),
        ("[x](#nowhere)", "unknown label 'nowhere'"),
        ("(empty)=\n\nText {ref}`empty`", "label 'empty' has no heading and no number"),
        ("{glue:text}`a:.2f`", "glued 'a:.2f'"),
        ("```{note} More `x`\nBody.\n```", "the broken fence"),
        ("A {{ word }} here", "substitution '{{ word }}' has no plain form"),
        ("{{ word }}", "substitution '{{ word }}' has no plain form"),
        ("<inv:python#x>", "link <inv:python#x> has no plain form"),
        ("[x](path:a.md)", "link to 'path:a.md' has no plain form"),
        ("[x][y]\n\n[y]: ../glossary.md", "link to '../glossary.md' has no plain form"),
    ],
)
def test_what_has_no_plain_form_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        plain(source, glued={"a": "'word'"})


def test_a_link_that_needs_the_repository_says_so():
    with pytest.raises(
        ValueError, match=r"links: expected a repository, which 'x\.md' needs, got none"
    ):
        to_plain_markdown("[x](x.md)")


def test_the_extensions_are_those_of_the_book():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert sorted(EXTENSIONS) == sorted(config["parse"]["myst_enable_extensions"])


# The bibliography


def test_the_bibliography_gives_authors_years_and_addresses(tmp_path):
    (tmp_path / "references.bib").write_text(
        "@misc{many, author={Simon, James B. and Karkada, Dhruva and Ghosh, Nikhil}, year={2023},"
        " url={https://arxiv.org/abs/2311.14646}}\n"
        "@misc{two, author={B{\\l}asiok, Jaros{\\l}aw and van der Waals, J.}, year={2023},"
        " doi={10.1/x}}\n"
        "@misc{others, author={Jacot and others}, year={2018}, eprint={1806.07572},"
        " archiveprefix={arXiv}}\n"
        "@misc{group, author={{The authors}}, title={T}}\n"
        "@misc{nobody, title={T}, year={1999}}\n",
        encoding="utf-8",
    )
    assert read_citations(tmp_path / "references.bib") == {
        "many": Citation("Simon et al.", "2023", "https://arxiv.org/abs/2311.14646"),
        "two": Citation("Błasiok and van der Waals", "2023", "https://doi.org/10.1/x"),
        "others": Citation("Jacot et al.", "2018", "https://arxiv.org/abs/1806.07572"),
        "group": Citation("The authors", "n.d.", title="T"),
        "nobody": Citation("nobody", "1999", title="T"),
    }


# The branch


PYPROJECT = f"""
[project]
name = "how-much-is-enough"
readme = "README.md"

[project.urls]
Repository = "{REPOSITORY}"
"""


@pytest.fixture
def repository(tmp_path):
    """A small repository with two chapters that refer to each other."""
    root = tmp_path / "repository"
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": "# Book\n\nSee [how to cite](chapters/cite.md) and `{note}`.\n",
        "LICENSE": "MIT\n",
        "environment.yml": "dependencies: []\n",
        "constraints.txt": "torch==2.13.0\n",
        "chapters/references.bib": "@misc{cho, author={Cho, Y.}, year={2009}}\n",
        "chapters/glossary.md": "# Glossary\n",
        "chapters/cite.md": "# How to cite\n",
        "pyfiles/enough/__init__.py": "x = 1\n",
        "pyfiles/enough/book/table.json": "{}\n",
        "pyfiles/enough/__pycache__/x.pyc": "",
        "results/part/one/gpu.csv": "a\n1\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    tag = {"tags": ["nbval-check-output"], "mystnb": {"x": 1}}
    claim = new_code_cell("claim('x')", metadata=tag, execution_count=3)
    claim.outputs = [new_output("display_data", {"text/plain": "holds: x"})]
    one = [
        new_markdown_cell("# The first\n\nSee {numref}`curve`, {eq}`eq-two` and {cite:t}`cho`."),
        new_code_cell('# {cite}`cho` in code\nfig, ax = plotting.figure(alt="f((", name="curve")'),
        new_markdown_cell(
            "In {numref}`curve` it is {glue:text}`value:.1f`; {glue:text}`two.ipynb::v:d`."
        ),
        new_markdown_cell("```{exercise-start}\n:label: ex\n```\nTry.\n```{exercise-end}\n```"),
        new_markdown_cell("```{solution-start} ex\n```"),
        new_code_cell("!install\nx = 1", metadata={"tags": ["hide-input"]}),
        new_markdown_cell("```{solution-end}\n```"),
        claim,
    ]
    two = [new_markdown_cell("# The second\n\n$$\na\n$$ (eq-two)\n\n[first](one.ipynb)")]
    for name, cells in (("one", one), ("two", two)):
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "mystnb": {"y": 2}})
        for number, cell in enumerate(notebook.cells):
            cell.id = f"cell-{number}"
        path = root / "chapters" / "part" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
    return root


def _cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def _without_book(cell):
    kept = {key: value for key, value in cell.metadata.items() if key != "mystnb"}
    return {**cell, "metadata": kept}


def test_a_branch_holds_the_notebooks_and_what_installing_needs(repository, tmp_path):
    folder = tmp_path / "launch"
    written = list(write_branch(repository, folder))
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {p.relative_to(folder).as_posix() for p in written} == found == {
        "LICENSE", "README.md", "constraints.txt", "environment.yml", "pyproject.toml",
        "chapters/part/one.ipynb", "chapters/part/two.ipynb", "pyfiles/enough/__init__.py",
        "pyfiles/enough/book/table.json", "results/part/one/gpu.csv",
    }  # fmt: skip
    for name in found - {"README.md", "chapters/part/one.ipynb", "chapters/part/two.ipynb"}:
        assert (folder / name).read_bytes() == (repository / name).read_bytes()
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"See [how to cite]({REPOSITORY}/blob/main/chapters/cite.md) and `{{note}}`." in readme
    assert "branch `main`" in readme.split("# Book")[0]


def test_a_notebook_is_rendered_cell_by_cell(repository, tmp_path):
    list(write_branch(repository, tmp_path / "launch"))
    path = tmp_path / "launch" / "chapters" / "part" / "one.ipynb"
    nbformat.validate(nbformat.read(path, as_version=4))
    assert [cell.source for cell in _cells(path, "markdown")] == [
        "# The first\n\nSee the figure below, (1) of [The second](two.ipynb) and Cho (2009).",
        "In the figure above it is (value of `value` in your run); "
        "(value of `v` in [The second](two.ipynb)).",
        "**Exercise 1**\n\nTry.",
        "**Solution to Exercise 1**",
    ]
    before = _cells(repository / "chapters" / "part" / "one.ipynb", "code")
    assert [dict(cell) for cell in _cells(path, "code")] == [_without_book(cell) for cell in before]
    metadata = nbformat.read(path, as_version=4).metadata
    assert metadata.kernelspec.name == "python3"
    assert "mystnb" not in metadata


def test_two_branches_are_equal(repository, tmp_path):
    first, again = (list(write_branch(repository, tmp_path / name)) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert len(first) == 10


def test_glued_numbers_come_from_the_execution_at_hand(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "execution_key", lambda root: "key")
    cache = get_cache(str(execution.cache_folder(repository)))
    for name, key, value in (("one", "value", "3.14159"), ("two", "v", "7")):
        path = repository / "chapters" / "part" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        if not _cells(path, "code"):
            notebook.cells.append(new_code_cell("glue()", id="glue"))
            nbformat.write(notebook, path)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code, 1):
            cell.execution_count = number
        scrap = {"scrapbook": {"name": key, "mime_prefix": "application/papermill.record/"}}
        data = {"application/papermill.record/text/plain": value}
        code[0].outputs = [new_output("display_data", data, metadata=scrap)]
        assert glued_values(notebook) == {key: value}
        cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)))
    list(write_branch(repository, tmp_path / "launch"))
    cells = _cells(tmp_path / "launch" / "chapters" / "part" / "one.ipynb", "markdown")
    assert cells[1].source == "In the figure above it is 3.1; 7."


def test_without_an_execution_none_is_begun(repository, tmp_path):
    list(write_branch(repository, tmp_path / "launch"))
    assert not (repository / "_build").exists()


def test_a_folder_that_holds_something_is_refused(repository, tmp_path):
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "file").write_text("mine")
    for folder in (tmp_path / "launch", tmp_path / "launch" / "file"):
        with pytest.raises(ValueError, match="folder: expected an empty or absent folder, got"):
            write_branch(repository, folder)
    assert [p.name for p in (tmp_path / "launch").iterdir()] == ["file"]


def test_an_empty_folder_is_used(repository, tmp_path):
    (tmp_path / "launch").mkdir()
    assert list(write_branch(repository, tmp_path / "launch"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("```{mermaid}\n```", r"chapters/part/two\.ipynb, cell 1: directive \{mermaid\}"),
        ("{octicon}`x`", r"chapters/part/two\.ipynb, cell 1: role \{octicon\}"),
        ("{eq}`nowhere`", r"chapters/part/two\.ipynb, cell 1: unknown label 'nowhere'"),
        ("[x](#the-first)", r"chapters/part/two\.ipynb, cell 1: unknown label 'the-first'"),
    ],
)
def test_nothing_is_written_when_a_cell_cannot_be_rendered(repository, tmp_path, source, message):
    path = repository / "chapters" / "part" / "two.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell(source, id="bad"))
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=message):
        write_branch(repository, tmp_path / "launch")
    assert not (tmp_path / "launch").exists()


# The book's own branch


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    """The branch of this repository, with the skeleton of a chapter beside its chapters."""
    root = tmp_path_factory.mktemp("book") / "repository"
    for name in ("chapters", "pyfiles/chapters"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name)
    for name in ("README.md", "pyproject.toml", "LICENSE", "constraints.txt", "environment.yml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "pyfiles" / "enough", root / "pyfiles" / "enough")
    pair = pairs.Pair.named(root, "scaffold/new_chapter")
    pair.twin.parent.mkdir(parents=True)
    pair.twin.write_text(skeleton(pair.name, REPOSITORY), encoding="utf-8")
    pairs.write(pair)
    folder = root.parent / "launch"
    list(write_branch(root, folder))
    return root, folder


def _notebooks():
    return [
        "scaffold/new_chapter",
        *(p.name for p in pairs.find_pairs(ROOT) if p.notebook.exists()),
    ]


@pytest.mark.parametrize("name", _notebooks())
def test_every_chapter_is_plain_and_its_code_untouched(branch, name):
    root, folder = branch
    path = f"chapters/{name}.ipynb"
    text = "\n\n".join(cell.source for cell in _cells(folder / path, "markdown"))
    assert len(text) > 1000
    assert book_only(text) == []
    before = _cells(root / path, "code")
    assert [dict(cell) for cell in _cells(folder / path, "code")] == [
        _without_book(c) for c in before
    ]
    nbformat.validate(nbformat.read(folder / path, as_version=4))


def test_the_search_for_book_only_text_finds_it():
    """The oracle above is not blind: it finds what the sources of a chapter are full of."""
    source = skeleton("part/one", REPOSITORY)
    cells = [re.sub("(?m)^# ?", "", part) for part in source.split("# %% [markdown]\n")[1:]]
    assert len(book_only("\n\n".join(cells))) >= 10


def test_every_launch_button_leads_to_a_notebook(branch):
    _, folder = branch
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"]
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = re.findall(r"^\s*(?:-\s+)?file:\s*(\S+)\s*$", toc, re.M)
    assert pages
    notebooks = [page for page in pages if (ROOT / f"{page}.ipynb").exists()]
    for page in [*notebooks, "chapters/scaffold/new_chapter"]:
        address = f"{repository}/blob/launch/{page}.ipynb"
        assert (folder / address.partition("/blob/launch/")[2]).is_file(), address


def test_what_installing_from_the_branch_reads_is_there(branch):
    _, folder = branch
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (folder / project["readme"]).is_file()
    assert (folder / project["license"]["file"]).is_file()
    assert (folder / "pyfiles" / "enough" / "book" / "skeleton.py.txt").is_file()
    environment = yaml.safe_load((folder / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    for line in pip:
        if line.startswith("-c "):
            assert (folder / line.split()[1]).is_file()
    assert not list(folder.rglob("__pycache__"))
