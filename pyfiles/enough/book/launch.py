"""The launch branch: the book's notebooks in plain Markdown, for Colab, Binder and Jupyter.

The pages are written in MyST Markdown, whose directives, roles, labels and glued numbers mean
nothing outside the book. `to_plain_markdown` renders them to what every notebook tool shows;
`write_branch` applies it cell by cell and writes the tree of the branch ``launch``, where the
notebooks keep their paths, so that a launch button needs nothing but the branch's name.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from enough.book.citations import Citation, read_citations
from enough.book.pairs import Pair, dumps, find_pairs
from enough.book.plain import Link, Links, collect_labels, to_plain_markdown

__all__ = ["BRANCH", "glued_values", "plain_notebooks", "write_branch"]

#: Where the launch buttons point to.
BRANCH = "launch"
_COPIED = (
    "LICENSE",
    "LICENSE-text",
    "THIRD_PARTY.md",
    "constraints.txt",
    "environment.yml",
    "pyproject.toml",
)
_COPIED_FOLDERS = ("pyfiles/enough", "results")
_NOT_COPIED = {"__pycache__", ".ipynb_checkpoints", ".DS_Store"}
_BANNER = (
    "> The notebooks on this branch are written from the branch `main`, in plain Markdown for\n"
    "> Colab, Binder and Jupyter. Edit them on `main`.\n\n"
)


def glued_values(notebook: NotebookNode) -> dict[str, str]:
    """Read the glued values of an executed notebook.

    Parameters
    ----------
    notebook : NotebookNode
        With its outputs.

    Returns
    -------
    dict from str to str
        The ``repr`` of each value by its key.
    """
    values = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            scrap = output.get("metadata", {}).get("scrapbook", {})
            text = output.get("data", {}).get(scrap.get("mime_prefix", "") + "text/plain")
            if scrap and text is not None:
                values[scrap["name"]] = text
    return values


def write_branch(root: Path, folder: Path) -> Iterator[Path]:
    """Write the tree of the launch branch.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    folder : pathlib.Path
        Where to write; absent or empty.

    Returns
    -------
    iterator of pathlib.Path
        The files, each as it is written: the notebooks in plain Markdown, and what installing
        the package from the branch needs. Nothing is written before every notebook is
        converted.

    Raises
    ------
    ValueError
        If the folder holds something, or a cell has a construct without a plain form; the
        message names the notebook, the cell and the construct.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"folder: expected an empty or absent folder, got {folder}")
    return _written(folder, _tree(root))


def _written(folder: Path, tree: Mapping[str, bytes]) -> Iterator[Path]:
    for name, content in sorted(tree.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield path


def plain_notebooks(
    root: Path,
    *,
    change: Callable[[NotebookNode], NotebookNode] | None = None,
    outputs: bool = False,
) -> dict[str, NotebookNode]:
    """Render every notebook of the book in plain Markdown.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    change : callable, optional
        Applied to each notebook before it is rendered.
    outputs : bool, default False
        Whether an executed chapter keeps all its outputs, where an execution is at hand.

    Returns
    -------
    dict from str to NotebookNode
        By path below the repository.

    Raises
    ------
    ValueError
        If a cell has a construct without a plain form; the message names the notebook, the cell
        and the construct.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"].rstrip("/").removesuffix(".git")
    pairs = [pair for pair in find_pairs(root) if pair.notebook.exists()]
    books = {f"chapters/{p.name}.ipynb": nbformat.read(p.notebook, as_version=4) for p in pairs}
    links = Links(repository, pages=_titles(root, books), labels=_labels(books))
    executed = {page: _executed(root, pair) for page, pair in zip(books, pairs, strict=True)}
    glued = {
        page: values for page, book in executed.items() if book and (values := glued_values(book))
    }
    citations = read_citations(root / "chapters" / "references.bib")
    for page, book in books.items():
        own = {f"{p}::{key}": v for p, values in glued.items() for key, v in values.items()}
        own |= glued.get(page, {})
        if outputs and executed[page]:
            books[page] = book = executed[page]
        if change is not None:
            books[page] = book = change(book)
        _plain_notebook(book, citations, own, replace(links, page=page))
    return books


def _tree(root: Path) -> dict[str, bytes]:
    """Every file of the branch by its path."""
    books = plain_notebooks(root)
    tree = {page: dumps(book).encode() for page, book in books.items()}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"].rstrip("/").removesuffix(".git")
    links = Links(repository, "README.md", pages=_titles(root, books))
    readme = (root / "README.md").read_text(encoding="utf-8")
    tree["README.md"] = (_BANNER + to_plain_markdown(readme, links=links) + "\n").encode()
    return tree | _copies(root)


def _copies(root: Path) -> dict[str, bytes]:
    paths = [root / name for name in _COPIED if (root / name).exists()]
    paths += [path for name in _COPIED_FOLDERS for path in (root / name).rglob("*")]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and not _NOT_COPIED.intersection(path.parts)
    }


def _titles(root: Path, books: Mapping[str, NotebookNode]) -> dict[str, str]:
    """The first heading of every page of the book by path."""
    texts = {page: "\n\n".join(_markdown(book)) for page, book in books.items()}
    for path in sorted((root / "chapters").rglob("*.md")):
        texts[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    heading = re.compile(r"^#\s+(.+?)\s*$", re.M)
    found = {page: heading.search(text) for page, text in texts.items()}
    return {page: match[1] if match else Path(page).stem for page, match in found.items()}


def _labels(books: Mapping[str, NotebookNode]) -> dict[str, Link]:
    """The labels of all notebooks; anchors of headings belong to their own page alone."""
    labels = {}
    for page, book in books.items():
        found = collect_labels(_markdown(book), page)
        labels |= {label: link for label, link in found.items() if not label.startswith("#")}
        labels |= {name: Link("", page=page) for _, name in _figures(book)}
    return labels


def _markdown(book: NotebookNode) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


def _figures(book: NotebookNode) -> Iterator[tuple[int, str]]:
    """The named figures that code cells draw, each with its cell's number."""
    for number, cell in enumerate(book.cells):
        if cell.cell_type != "code":
            continue
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        if name:
            yield number, name
        try:
            tree = ast.parse(cell.source)
        except SyntaxError:  # the install cell's magic
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("figure"):
                names = [k.value for k in node.keywords if k.arg == "name"]
                yield from ((number, n.value) for n in names if isinstance(n, ast.Constant))


def _executed(root: Path, pair: Pair) -> NotebookNode | None:
    """A chapter with its outputs, if an execution of it is at hand."""
    if not (root / "_build" / "execution").is_dir():
        return None
    from enough.book.execution import cache_folder, executed_notebook

    return executed_notebook(root, pair) if cache_folder(root).is_dir() else None


def _plain_notebook(
    book: NotebookNode, citations: Mapping[str, Citation], glued: Mapping[str, Any], links: Links
) -> None:
    """Render a notebook's Markdown cells in place and drop what only the book reads."""
    counts: Counter[str] = Counter()
    own = collect_labels(_markdown(book), links.page)
    figures = list(_figures(book))
    kept = []
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            sides = {
                name: Link(f"the figure {'above' if at < number else 'below'}", page=links.page)
                for at, name in figures
            }
            here = replace(links, labels={**links.labels, **own, **sides})
            try:
                cell.source = to_plain_markdown(
                    cell.source, citations=citations, glued=glued, links=here, counts=counts
                )
            except ValueError as error:
                raise ValueError(f"{links.page}, cell {number}: {error}") from error
            if not cell.source:
                continue
        cell.metadata.pop("mystnb", None)
        kept.append(cell)
    book.cells = kept
    for key in ("mystnb", "jupytext"):
        book.metadata.pop(key, None)
    nbformat.validate(book)
