"""The book's Markdown as plain Markdown: what Colab and Jupyter show without the book's tools."""

from __future__ import annotations

import ast
import contextlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from mdit_py_plugins.attrs.parse import ParseError
from mdit_py_plugins.attrs.parse import parse as parse_attributes
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

from enough.book.citations import Citation

__all__ = ["EXTENSIONS", "Link", "Links", "collect_labels", "to_plain_markdown"]
#: The extensions of Markdown that the book is written in, as ``_config.yml`` lists them.
EXTENSIONS = (
    "amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath", "linkify",
    "substitution", "tasklist",
)  # fmt: skip

_SOURCE_BRANCH = "main"
_GLOSSARY = "chapters/glossary.md"

_THEOREMS = {
    "algorithm", "assumption", "axiom", "conjecture", "corollary", "criterion", "definition",
    "example", "lemma", "notation", "observation", "property", "proposition", "remark", "theorem",
}  # fmt: skip
_ADMONITIONS = {
    "attention", "caution", "danger", "error", "hint", "important", "note", "seealso", "tip",
    "warning",
}  # fmt: skip
_TITLED_BOXES = {"admonition", "dropdown", "margin", "sidebar"}
_PLAIN_BOXES = {"card", "grid", "grid-item", "grid-item-card", "tab-item", "tab-set"}
_SILENT = {"contents", "exercise-end", "index", "solution-end", "tableofcontents"}
# What the book computes from all its pages: a sentence that says where it stands.
_ELSEWHERE = {
    "bibliography": ("The references are listed in the book's {}.", "bibliography"),
    "claim-totals": ("The book's {} counts the claims by verdict.", "scoreboard"),
    "did-not-reproduce": ("The book's {} lists what did not reproduce, and why.", "scoreboard"),
    "run-times": ("The book's page of {} says how long this takes.", "run times"),
    "scoreboard": ("The book's {} lists every claim with its numbers.", "scoreboard"),
}
_PAGES = {
    "bibliography": "chapters/bibliography.md",
    "run times": "chapters/runtimes.md",
    "scoreboard": "chapters/scoreboard.md",
}
_DROPPED = frozenset({"attrs_block", "myst_block_break", "myst_line_comment", "myst_target"})

_ORDINARY = re.compile(r"[^\\`{$<!\[]+")
_ROLE = re.compile(r"\{([A-Za-z0-9_\-+:]+)\}(`+)")
_TITLED = re.compile(r"(.+?)\s*<([^<>]+)>", re.S)
_GLUED = re.compile(r"(?:(?P<page>.+?)::)?(?P<key>[^:]+)(?::(?P<spec>[^:]*))?")
_FORMULA = re.compile(r"\$\$((?:\\.|[^\\$]|\$(?!\$))+)\$\$|\$(?:\\.|[^\\$])+\$", re.S)
_LABEL_IN_PROSE = re.compile(r"[ \t]*\(([^()\s]+)\)[ \t]*(?:\n|\Z)")
_ANGLES = re.compile(r"<(?:(project|path|inv):([^<>\s]*)|[A-Za-z/!?][^<>]*)>")
_DESTINATION = re.compile(
    r"""\(\s*(<[^<>\n]*>|[^\s()<>]*(?:\([^\s()]*\)[^\s()]*)*)(\s+(?:"[^"]*"|'[^']*'))?\s*\)"""
)
_BROKEN_FENCE = re.compile(r"^(`{3,})\{[^{}\n]+\}(?!.*\1).*", re.M)  # ticks in its title
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
_OPTION = re.compile(r"\s*:([\w\-]+):(?:\s+(.*))?$")
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.S)
_COMMENT = re.compile(r"[ \t]*(?<!\\)%.*")
_SENTENCE_START = re.compile(r"(?:\A|\n)[\s>*+\d.\-]*\Z|[.!?]\s+\Z")


@dataclass(frozen=True)
class Link:
    """What a label stands for.

    Parameters
    ----------
    words : str
        How the text names it, for example ``"Theorem 2"`` or a heading.
    number : str, default ""
        Its number; empty for a heading.
    page : str, default ""
        The page it is on, as a path in the repository; empty for the text's own page.
    """

    words: str
    number: str = ""
    page: str = ""


@dataclass(frozen=True)
class Links:
    """Where a text stands and what it can refer to.

    Parameters
    ----------
    repository : str, default ""
        Address of the repository, without a slash at the end.
    page : str, default ""
        The text's own page, as a path in the repository.
    pages : mapping from str to str, optional
        Title of every page of the book by its path in the repository.
    labels : mapping from str to Link, optional
        What the labels of the book stand for.
    """

    repository: str = ""
    page: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Link] = field(default_factory=dict)

    def resolve(self, destination: str) -> str:
        """Return the path in the repository that a relative destination names.

        Parameters
        ----------
        destination : str
            A path, relative to the page; one that starts with a slash is relative to the
            repository. Pages may be named without their suffix.

        Returns
        -------
        str
            The path, without fragment.
        """
        path = destination.partition("#")[0]
        if path.startswith("/"):
            path = path.lstrip("/")
        else:
            path = posixpath.join(posixpath.dirname(self.page), path)
        path = posixpath.normpath(path)
        for suffix in ("", ".ipynb", ".md"):
            if path + suffix in self.pages:
                return path + suffix
        return path

    def address(self, destination: str, view: str = "blob") -> str:
        """Return where a relative destination leads from the launch branch.

        Parameters
        ----------
        destination : str
            As for `resolve`, perhaps with a fragment.
        view : {"blob", "raw"}, default "blob"
            Whether to show the file or to fetch it.

        Returns
        -------
        str
            Relative for a notebook, empty for the text's own, else absolute: the file on the
            repository's main branch.

        Raises
        ------
        ValueError
            If an absolute address is needed and the repository is not known.
        """
        path, fragment = self.resolve(destination), destination.partition("#")[2]
        if path.endswith(".ipynb"):
            folder = posixpath.dirname(self.page) or "."
            return "" if path == self.page else posixpath.relpath(path, folder)
        if not self.repository:
            raise ValueError(f"links: expected a repository, which {destination!r} needs, got none")
        address = f"{self.repository}/{view}/{_SOURCE_BRANCH}/{path}"
        return f"{address}#{fragment}" if fragment else address


def to_plain_markdown(
    text: str,
    *,
    citations: Mapping[str, Citation] | None = None,
    glued: Mapping[str, Any] | None = None,
    links: Links | None = None,
    counts: Counter[str] | None = None,
) -> str:
    """Render the book's MyST Markdown to Markdown that every notebook tool shows.

    Parameters
    ----------
    text : str
        One cell or a whole text.
    citations : mapping from str to Citation, optional
        The papers by citation key.
    glued : mapping from str to object, optional
        Values of glued numbers by key, or ``"<path of the notebook>::<key>"`` for another
        page's; a string is read as the ``repr`` that an executed notebook stores.
    links : Links, optional
        Where the text stands and what its labels mean. Labels that the text itself defines
        need not be given.
    counts : collections.Counter, optional
        How many numbered things of each kind came before the text. It is updated, so that the
        cells of a notebook are numbered through.

    Returns
    -------
    str
        Without blank lines at its ends; empty when the text has nothing to show.

    Raises
    ------
    ValueError
        If a directive, role, label, citation or other construct has no plain form; the message
        names it.

    Notes
    -----
    Code spans and code blocks stay as they are, also where they show MyST syntax. Formulas in
    quoted boxes stand on one line, because Jupyter takes the quote's marks into the formula
    otherwise. A glued number that was not given becomes a phrase that says where it is.
    """
    links = Links() if links is None else links
    labels = {**collect_labels([text]), **links.labels}
    writer = _Writer(
        {} if citations is None else citations,
        {} if glued is None else glued,
        links,
        labels,
        Counter() if counts is None else counts,
    )
    plain = writer.blocks(text)
    for construct in _book_only(plain):
        raise ValueError(f"{construct} has no plain form")
    return plain


def collect_labels(texts: Iterable[str], page: str = "") -> dict[str, Link]:
    """List what texts can be referred to by: labels, and the anchors of headings.

    Parameters
    ----------
    texts : iterable of str
        The texts of one page, in order; theorems, exercises and labeled equations are numbered
        through.
    page : str, default ""
        The page's path in the repository.

    Returns
    -------
    dict from str to Link
        Anchors of headings start with ``#``. What has no plain form is passed over here;
        `to_plain_markdown` names it.
    """
    writer = _Writer({}, {}, Links(), None, Counter())
    for text in texts:
        with contextlib.suppress(ValueError):
            writer.blocks(text)
    return {label: replace(link, page=page) for label, link in writer.found.items()}


class _Writer:
    """Renders one text after another; without labels it only collects them."""

    def __init__(
        self,
        citations: Mapping[str, Citation],
        glued: Mapping[str, Any],
        links: Links,
        labels: Mapping[str, Link] | None,
        counts: Counter[str],
    ) -> None:
        self.citations, self.glued, self.links = citations, glued, links
        self.labels, self.counts = labels, counts
        self.found: dict[str, Link] = {}
        self._waiting: list[str] = []  # targets whose heading or box is still to come
        self._quotes = 0  # quoted boxes around the present text

    # Blocks

    def blocks(self, text: str) -> str:
        """Render a text of blocks: replace what is special, line by line, and keep the rest."""
        lines = text.replace("\r\n", "\n").split("\n")
        page = _Lines(lines)
        heading = False
        for token in _block_tokens("\n".join(lines)):
            kind = token.type
            if kind == "inline":
                self._prose(token, page, heading)
            elif kind in _DROPPED:
                if kind == "myst_target":
                    self._waiting.append(token.content)
                page.drop(*token.map)
            elif kind == "colon_fence" or (kind == "fence" and token.info.lstrip().startswith("{")):
                page.replace(*token.map, token.markup, self._directive(token))
            elif kind in ("math_block", "math_block_label"):
                number = self._number("equation", token.info or None, "({})")
                page.replace(*token.map, "$$", self._display(token.content, number))
            elif kind == "amsmath":
                start = token.map[0]
                end = start + token.content.count("\n") + 1
                page.replace(start, end, "\\begin", self._environment(token.content))
            elif kind == "dt_open":
                page.terms.add(token.map[0])
            elif kind == "dd_open":
                page.definitions.add(token.map[0])
            elif kind == "substitution_block":
                raise ValueError(f"substitution '{{{{ {token.content} }}}}' has no plain form")
            heading = kind == "heading_open"
            if not heading and kind not in ("myst_target", "attrs_block", "myst_line_comment"):
                self._name_waiting(Link(""))
        return page.text()

    def _prose(self, token: Token, page: _Lines, heading: bool) -> None:
        start, end = token.map
        end = max(end, start + 1)
        raw = "\n".join(page.source[start:end])
        if heading:
            words = self.inline(token.content).strip()
            self._name_waiting(Link(words))
            self.found.setdefault("#" + _slug(words), Link(words))
        page.rewrite(start, end, self.inline(raw))

    def _name_waiting(self, link: Link) -> None:
        for label in self._waiting:
            self.found[label] = link
        self._waiting.clear()

    def _number(self, kind: str, label: str | None, words: str) -> str:
        """Count a numbered thing and note what its label stands for; an equation needs one."""
        if kind == "equation" and not label:
            return ""
        self.counts[kind] += 1
        number = str(self.counts[kind])
        link = Link(words.format(number), number)
        if label:
            self.found[label] = link
        self._name_waiting(link)
        return number

    # Directives

    def _directive(self, token: Token) -> str:
        name, _, argument = token.info.strip().partition(" ")
        argument = argument.strip()
        if not (name.startswith("{") and name.endswith("}")):
            return self.blocks(token.content)  # a plain box between colons
        name = name[1:-1]
        options, body = _options(token.content)
        if name in _SILENT:
            return ""
        if name in _ELSEWHERE:
            sentence, page = _ELSEWHERE[name]
            return sentence.format(self._page_link(page, _PAGES[page]))
        kind, _, flavor = name.partition(":")
        if kind == "prf" and flavor in _THEOREMS:
            return self._theorem(flavor, argument, options, body)
        if name == "prf:proof":
            return self._quoted("*Proof.*", f"{argument}\n{body}", after="∎")
        if name in ("exercise", "exercise-start"):
            title = f": {self.inline(argument)}" if argument else ""
            head = f"**{self._numbered('exercise', options)}{title}**"
            return self._quoted(head, body) if name == "exercise" else self._opened(head, body)
        if name == "solution":
            return self._folded(f"Solution to {self._reference(argument)}", body)
        if name == "solution-start":
            return self._opened(f"**Solution to {self._reference(argument)}**", body)
        if name in _ADMONITIONS or name in _TITLED_BOXES:
            return self._admonition(name, argument, options, body)
        if name in _PLAIN_BOXES:
            title = f"**{self.inline(argument)}**\n\n" if argument and name != "grid" else ""
            return title + self.blocks(body)
        if name == "math":
            return self._math(argument, options, body)
        if name in ("figure", "image", "table"):
            return self._float(name, argument, options, body)
        if name in ("code", "code-block"):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", body)), default=0))
            return f"{fence}{argument}\n{body.rstrip()}\n{fence}"
        if name == "glossary":
            return self.blocks(_definition_list(body))
        raise ValueError(f"directive {{{name}}} has no plain form")

    def _numbered(self, kind: str, options: Mapping[str, str]) -> str:
        """What a theorem or exercise is called, and what its label stands for from now on."""
        words = kind.title()
        label = options.get("label") or options.get("name")
        if "nonumber" not in options:
            return f"{words} {self._number(kind, label, words + ' {}')}"
        if label:
            self.found[label] = Link(words)
        return words

    def _theorem(self, kind: str, argument: str, options: Mapping[str, str], body: str) -> str:
        title = f" ({self.inline(argument)})" if argument else ""
        return self._quoted(f"**{self._numbered(kind, options)}{title}.**", body)

    def _opened(self, head: str, body: str) -> str:
        """The first words of a box that goes on in the cells below."""
        rest = self.blocks(body)
        return f"{head}\n\n{rest}" if rest else head

    def _admonition(self, name: str, argument: str, options: Mapping[str, str], body: str) -> str:
        if name in _TITLED_BOXES:
            title = self.inline(argument)
        else:
            title = "See also" if name == "seealso" else name.title()
            body = f"{argument}\n{body}".strip("\n")
        if name == "dropdown" or "dropdown" in options.get("class", "").split():
            return self._folded(title or "More", body)
        return self._quoted(f"**{title}**" if title else "", body)

    def _quoted(self, head: str, body: str, after: str = "") -> str:
        self._quotes += 1
        parts = [head, self.blocks(body), after]
        self._quotes -= 1
        text = "\n\n".join(part for part in parts if part)
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    def _folded(self, title: str, body: str) -> str:
        summary = MarkdownIt("commonmark").renderInline(title)
        inside = self.blocks(body)
        return f"<details>\n<summary>{summary}</summary>\n\n{inside}\n\n</details>"

    def _float(self, name: str, argument: str, options: Mapping[str, str], body: str) -> str:
        kind = "table" if name == "table" else "figure"
        label = options.get("name") or options.get("label")
        number = "" if name == "image" else self._number(kind, label, kind.title() + " {}")
        if name == "table":
            return f"**Table {number}.** {self.inline(argument)}\n\n{self.blocks(body)}"
        alt = self.inline(options.get("alt", "")).replace("[", "\\[").replace("]", "\\]")
        picture = f"![{alt}]({self._image(argument)})"
        if name == "image":
            return picture
        return f"{picture}\n\n**Figure {number}.** {self.blocks(body)}".rstrip()

    # Formulas

    def _math(self, argument: str, options: Mapping[str, str], body: str) -> str:
        tex = "\n".join(part for part in (argument, body.strip("\n")) if part)
        label = options.get("label") or options.get("name")
        number = self._number("equation", label, "({})")
        if "nowrap" in options:
            return self._environment(tex, number)
        return self._display(tex, number)

    def _display(self, tex: str, number: str = "") -> str:
        """A displayed formula; rows are aligned as the book aligns them."""
        tex = _COMMENT.sub("", tex)
        parts = [_aligned(part) for part in re.split(r"\n\s*\n", tex.strip())]
        tex = parts[0]
        if len(parts) > 1:
            tex = "\\begin{gathered}\n" + " \\\\\n".join(parts) + "\n\\end{gathered}"
        tex += f" \\tag{{{number}}}" if number else ""
        return _one_line(f"$$ {tex} $$") if self._quotes else f"$$\n{tex}\n$$"

    def _environment(self, tex: str, number: str = "") -> str:
        """An environment of amsmath, which stands for itself."""
        if number:
            before, end, after = tex.strip().rpartition("\\end{")
            tex = f"{before.rstrip()} \\tag{{{number}}}\n{end}{after}"
        return _one_line(tex) if self._quotes else tex.strip()

    # Prose

    def inline(self, text: str) -> str:
        """Render what stands inside a paragraph, a heading or a row of a table."""
        pieces, at = [], 0
        while at < len(text):
            piece, at = self._piece(text, at)
            pieces.append(piece)
        return "".join(pieces)

    def _piece(self, text: str, at: int) -> tuple[str, int]:
        """The plain form of what starts at a position, and the position after it."""
        ordinary = _ORDINARY.match(text, at)
        if ordinary:
            return ordinary[0], ordinary.end()
        sign = text[at]
        if sign == "\\":
            return text[at : at + 2], at + 2
        if sign == "`":
            end = _code_end(text, at)
            return text[at:end], _after_attributes(text, end)
        if sign == "{":
            return self._braces(text, at)
        if sign == "$":
            formula = _FORMULA.match(text, at)
            if formula is None:
                return sign, at + 1
            if formula[1] is None:
                return formula[0], formula.end()
            label = _LABEL_IN_PROSE.match(text, formula.end())
            if label is not None:
                raise ValueError(
                    f"label {label[1]!r}: expected a blank line before the formula, got prose"
                )
            return _one_line(self._display(formula[1])), formula.end()
        if sign == "<":
            return self._angles(text, at)
        return self._brackets(text, at)

    def _braces(self, text: str, at: int) -> tuple[str, int]:
        role = _ROLE.match(text, at)
        if role is not None:
            close = text.find(role[2], role.end() + 1)
            if close > 0:
                content = text[role.end() : close].replace("\n", " ")
                plain = self._role(role[1], content)
                if plain.startswith("the figure ") and _SENTENCE_START.search(text[:at]):
                    plain = plain.capitalize()
                return plain, close + len(role[2])
        if text.startswith("{{", at) and "}}" in text[at:]:
            name = text[at + 2 :].partition("}}")[0].strip()
            raise ValueError(f"substitution '{{{{ {name} }}}}' has no plain form")
        return "{", at + 1

    def _angles(self, text: str, at: int) -> tuple[str, int]:
        match = _ANGLES.match(text, at)
        if match is None:
            return "<", at + 1
        if match[1] is None:
            return match[0], match.end()
        if match[1] != "project":
            raise ValueError(f"link {match[0]} has no plain form")
        return self._link("", match[2], ""), match.end()

    def _brackets(self, text: str, at: int) -> tuple[str, int]:
        """A link, an image, a footnote's mark, a span with attributes, or just a sign."""
        image = text[at] == "!"
        start = at + image
        close = _bracket_end(text, start)
        if close < 0:
            return text[at], at + 1
        label, after = text[start + 1 : close], close + 1
        if not image and label.startswith("^") and " " not in label:
            defines = text[after : after + 1] == ":" and (at == 0 or text[at - 1] == "\n")
            return f"<sup>{label[1:]}</sup>", after + defines
        match = _DESTINATION.match(text, after)
        if match is not None:
            target, title = match[1].strip("<>"), match[2] or ""
            after = _after_attributes(text, match.end())
            if image:
                return f"![{self.inline(label)}]({self._image(target)}{title})", after
            return self._link(label, target, title), after
        end = _after_attributes(text, after)
        if not image and end > after:
            return self.inline(label), end
        return text[at : start + 1], start + 1

    def _link(self, label: str, target: str, title: str) -> str:
        words = self.inline(label)
        if self.labels is None:
            return words or target
        if target.startswith("#"):
            return self._reference(target[1:], words)
        scheme = _SCHEME.match(target)
        if scheme is not None:
            if scheme[0] in ("project:", "path:", "inv:"):
                raise ValueError(f"link to {target!r} has no plain form")
            return f"[{words}]({_enclosed(target)}{title})"
        if target in self.labels and self.links.resolve(target) not in self.links.pages:
            return self._reference(target, words)
        path = self.links.resolve(target)
        words = words or self.links.pages.get(path, posixpath.basename(path))
        address = self.links.address(target)
        return f"[{words}]({_enclosed(address)}{title})" if address else words

    def _image(self, target: str) -> str:
        if self.labels is None or _SCHEME.match(target):
            return _enclosed(target)
        return _enclosed(self.links.address(target, "raw"))

    # Roles

    def _role(self, name: str, content: str) -> str:
        match = _TITLED.fullmatch(content)
        title, target = (match[1], match[2]) if match else ("", content)
        if name == "kbd":
            return f"<kbd>{content}</kbd>"
        if name in ("sub", "sup"):
            return f"<{name}>{content}</{name}>"
        if name == "math":
            return f"${content}$"
        if name == "abbr":
            return content
        if name == "code":
            return f"`{content}`"
        if self.labels is None:
            return title or content
        if name in ("eq", "math:numref", "numref", "prf:ref", "ref"):
            return self._reference(target, title)
        if name == "term":
            return self._page_link(title or content, _GLOSSARY)
        if name == "doc":
            return self._link(title, target, "")
        if name == "download":
            return f"[{title or content}]({_enclosed(self.links.address(target, 'raw'))})"
        if name in ("glue", "glue:", "glue:any", "glue:text", "glue:md"):
            return self._glue(content)
        if name.partition(":")[0] == "cite":
            return self._cite(name, content)
        raise ValueError(f"role {{{name}}} has no plain form")

    def _reference(self, label: str, title: str = "") -> str:
        """What a label stands for, with a link to its page when that is another one."""
        if self.labels is None:
            return title or label
        link = self.labels.get(label) or self.labels.get("#" + label)
        if link is None:
            raise ValueError(
                f"unknown label {label!r} (a figure that the text refers to needs name=...)"
            )
        here = link.page in ("", self.links.page)
        words = link.words or ("" if here else "a figure")
        if title and (link.number or not re.search(r"%s|\{number\}", title)):
            words = re.sub(r"%s|\{number\}", link.number, title).replace("{name}", words)
        if not words:
            raise ValueError(f"label {label!r} has no heading and no number to name it by")
        if here:
            return words
        address = _enclosed(self.links.address("/" + link.page))
        if title or (link.words and not link.number):
            return f"[{words}]({address})"
        return f"{words} of [{self.links.pages.get(link.page, link.page)}]({address})"

    def _page_link(self, words: str, path: str) -> str:
        if not self.links.repository:
            return words
        return f"[{words}]({self.links.address('/' + path)})"

    def _cite(self, role: str, keys: str) -> str:
        papers = []
        for key in (part.strip() for part in keys.split(",")):
            if key not in self.citations:
                raise ValueError(f"unknown citation key {key!r}")
            papers.append(self.citations[key])
        flavor = role.partition(":")[2]
        shown = {
            "": "{0.who}, {0.year}",
            "p": "{0.who}, {0.year}",
            "alp": "{0.who}, {0.year}",
            "t": "{0.who} ({0.year})",
            "author": "{0.who}",
            "year": "{0.year}",
        }.get(flavor)
        if shown is None:
            raise ValueError(f"role {{{role}}} has no plain form")
        texts = [
            f"[{shown.format(paper)}]({_enclosed(paper.url)})" if paper.url else shown.format(paper)
            for paper in papers
        ]
        if flavor in ("", "p"):
            return f"({'; '.join(texts)})"
        if flavor == "alp":
            return "; ".join(texts)
        return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"

    def _glue(self, content: str) -> str:
        match = _GLUED.fullmatch(content)
        if match is None:
            raise ValueError(f"glued {content!r}: expected 'key' or 'key:format'")
        page, key, spec = match["page"], match["key"], match["spec"] or ""
        path = self.links.resolve(page) if page else ""
        name = f"{path}::{key}" if page else key
        if name in self.glued:
            try:
                return _formatted(self.glued[name], spec)
            except (TypeError, ValueError) as error:
                raise ValueError(f"glued {content!r}: {error}") from error
        if not page:
            return f"(value of `{key}` in your run)"
        return f"(value of `{key}` in {self._link('', page, '')})"


class _Lines:
    """The lines of a text and what becomes of them."""

    def __init__(self, source: list[str]) -> None:
        self.source = source
        self.terms: set[int] = set()
        self.definitions: set[int] = set()
        self._edits: dict[int, tuple[int, list[str], bool]] = {}

    def rewrite(self, start: int, end: int, text: str) -> None:
        """Put other words in the place of lines."""
        self._edits[start] = (end, text.split("\n"), False)

    def drop(self, start: int, end: int) -> None:
        """Leave lines out."""
        self._edits[start] = (end, [], True)

    def replace(self, start: int, end: int, marker: str, text: str) -> None:
        """Put a block in the place of the one that starts with a marker, in the same list or
        quote."""
        if not text:
            self.drop(start, end)
            return
        first = self.source[start].partition(marker)[0]
        rest = _continued(first)
        lines = [
            (rest if number else first) + line if line else rest.rstrip()
            for number, line in enumerate(text.split("\n"))
        ]
        self._edits[start] = (end, lines, True)

    def text(self) -> str:
        """All lines, a blank one on either side of each block that was replaced."""
        out: list[str] = []
        number, apart = 0, False
        while number < len(self.source):
            end, lines, block = self._edits.get(number, (number + 1, None, False))
            if lines is None:
                lines = [self.source[number]]
            lines = [self._listed(line, number + at) for at, line in enumerate(lines)]
            blank = not any(line.strip(" >") for line in lines)
            if block or apart:
                margin = _continued(re.match(r"[\s>]*", self.source[number])[0]).rstrip()
                if lines and not blank and out and out[-1].strip(" >"):
                    out.append(margin)
            if not (apart and blank and (not out or not out[-1].strip(" >"))):
                out.extend(lines)
            apart = block or (apart and blank)
            number = end
        return "\n".join(out).strip("\n")

    def _listed(self, line: str, number: int) -> str:
        """A definition list as a plain list."""
        if number in self.terms:
            return f"- **{line.strip()}**:"
        if number in self.definitions:
            return re.sub(r"^(\s*)[:~]", r"\1 ", line)
        return line


def _continued(prefix: str) -> str:
    """What stands before the further lines of a list item or quote."""
    return re.sub(r"[^>\s]", " ", prefix)


@cache
def _parser() -> MarkdownIt:
    return create_md_parser(MdParserConfig(enable_extensions=set(EXTENSIONS)), RendererHTML)


def _block_tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    _parser().block.parse(text, _parser(), {}, tokens)
    return tokens


def _book_only(text: str) -> Iterator[str]:
    """Name what the book's own parser still finds that only the book understands."""
    waiting = list(_parser().parse(text))
    while waiting:
        token = waiting.pop(0)
        waiting = list(token.children or ()) + waiting
        broken = _BROKEN_FENCE.search(token.content) if token.type == "inline" else None
        if broken is not None:
            yield f"the broken fence {broken[0]!r}"
        if token.type == "fence" and token.info.lstrip().startswith("{"):
            yield f"directive {token.info.strip()}"
        elif token.type == "colon_fence":
            yield f"box :::{token.info.strip()}"
        elif token.type == "myst_role":
            yield f"role {{{token.meta['name']}}}"
        elif token.type in _DROPPED or token.type.startswith(("substitution", "footnote", "dl_")):
            yield f"{token.type.replace('_', ' ')} {token.content!r}"
        elif token.type == "math_block_label":
            yield f"the label {token.info!r} of a formula"
        elif token.type == "link_open":
            target = str(token.attrGet("href"))
            if target.startswith(("#", "project:", "path:", "inv:")) or (
                not _SCHEME.match(target) and not target.endswith(".ipynb")
            ):
                yield f"link to {target!r}"
        elif token.type == "span_open":
            yield "a span with attributes"


def _options(content: str) -> tuple[dict[str, str], str]:
    """Split a directive's content into its options and its body."""
    lines = content.split("\n")
    if lines[0].startswith("---"):
        end = next((n for n, line in enumerate(lines[1:], 1) if line.startswith("---")), len(lines))
        given = yaml.safe_load("\n".join(lines[1:end])) or {}
        options = {str(key): "" if value is None else str(value) for key, value in given.items()}
        return options, "\n".join(lines[end + 1 :])
    options = {}
    while lines and (match := _OPTION.match(lines[0])):
        options[match[1]] = (match[2] or "").strip()
        lines.pop(0)
    return options, "\n".join(lines)


def _definition_list(body: str) -> str:
    """A glossary's terms and indented definitions as a plain list."""
    lines = [
        f"- **{line.strip()}**:" if line and not line[0].isspace() else line
        for line in body.split("\n")
    ]
    return "\n".join(lines)


def _aligned(tex: str) -> str:
    """A formula, with rows aligned as the book aligns them."""
    outside = _ENVIRONMENT.sub("", tex)
    return f"\\begin{{split}}\n{tex}\n\\end{{split}}" if "\\\\" in outside else tex


def _one_line(tex: str) -> str:
    return " ".join(" ".join(_COMMENT.sub("", line) for line in tex.split("\n")).split())


def _slug(title: str) -> str:
    """The anchor of a heading, as the book makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower().replace(" ", "-"))


def _code_end(text: str, at: int) -> int:
    """The position after a code span, or after its ticks when nothing closes it."""
    ticks = re.compile("`+").match(text, at)
    close = re.compile(f"(?<!`){ticks[0]}(?!`)").search(text, ticks.end())
    return close.end() if close else ticks.end()


def _bracket_end(text: str, at: int) -> int:
    """The position of the bracket that closes the one at ``at``, or -1."""
    depth = 0
    if text[at : at + 1] != "[":
        return -1
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            at += 1
        elif sign == "`":
            at = _code_end(text, at) - 1
        elif sign in "[]":
            depth += 1 if sign == "[" else -1
            if depth == 0:
                return at
        at += 1
    return -1


def _after_attributes(text: str, at: int) -> int:
    """The position after attributes in braces, or ``at`` when there are none."""
    if text[at : at + 1] != "{":
        return at
    try:
        end, _ = parse_attributes(text[at:])
    except ParseError:
        return at
    return at + end + 1


def _enclosed(address: str) -> str:
    return f"<{address}>" if re.search(r"[\s()]", address) else address


def _formatted(value: Any, spec: str) -> str:
    """A glued value as the page shows it."""
    if isinstance(value, str):
        with contextlib.suppress(SyntaxError, ValueError):
            value = ast.literal_eval(value)
    sign = spec[-1:]
    if sign in tuple("bcdoxX"):
        value = int(value)
    elif sign in tuple("eEfFgGn%"):
        value = float(value)
    elif sign in ("", "s"):
        value = str(value)
    return format(value, spec)
