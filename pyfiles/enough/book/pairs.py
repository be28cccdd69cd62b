"""Twins and notebooks: ``pyfiles/chapters/**.py`` is the source, ``chapters/**.ipynb`` is made.

A notebook is a pure function of its twin and of the claim lines it stores: cell ids come from
the sources, outputs stay in claim cells only, and execution counts are ordinals. Running
``make notebooks`` twice changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from enough.book.claims import METADATA_KEY

__all__ = ["CLAIM_TAG", "Pair", "differences", "find_pairs", "is_claim", "make_notebook", "write"]

CLAIM_TAG = "nbval-check-output"
TWIN_FORMAT = {"extension": ".py", "format_name": "percent"}


@dataclass(frozen=True)
class Pair:
    """A chapter's two files.

    Attributes
    ----------
    name : str
        ``"<part>/<chapter>"``.
    twin : pathlib.Path
        The source, a script in the percent format.
    notebook : pathlib.Path
        What a reader opens.
    """

    name: str
    twin: Path
    notebook: Path

    @classmethod
    def named(cls, root: Path, name: str) -> Pair:
        """Return the pair of a chapter, whether its files exist or not.

        Parameters
        ----------
        root : pathlib.Path
            The repository.
        name : str
            ``"<part>/<chapter>"``.

        Returns
        -------
        Pair
        """
        twin = root / "pyfiles" / "chapters" / f"{name}.py"
        return cls(name, twin, root / "chapters" / f"{name}.ipynb")


def find_pairs(root: Path) -> list[Pair]:
    """List the chapters of a repository by their twins and notebooks, in order of name.

    Parameters
    ----------
    root : pathlib.Path
        The repository.

    Returns
    -------
    list of Pair
        Also pairs of which only one file exists.
    """
    twins, notebooks = root / "pyfiles" / "chapters", root / "chapters"
    names = {p.relative_to(twins).with_suffix("").as_posix() for p in twins.rglob("*.py")}
    names |= {
        p.relative_to(notebooks).with_suffix("").as_posix()
        for p in notebooks.rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    }
    return [Pair.named(root, name) for name in sorted(names)]


def is_claim(cell: NotebookNode) -> bool:
    """Tell whether a cell states a claim whose stored line is compared.

    Parameters
    ----------
    cell : NotebookNode
        A cell of a notebook.

    Returns
    -------
    bool
        Whether it is a code cell with the tag of claims.
    """
    return cell.cell_type == "code" and CLAIM_TAG in cell.metadata.get("tags", [])


def make_notebook(twin: Path, stored: NotebookNode | None = None) -> NotebookNode:
    """Make the notebook of a twin.

    Parameters
    ----------
    twin : pathlib.Path
        The source.
    stored : NotebookNode, optional
        An earlier or an executed version. A claim cell whose source did not change keeps its
        stored line; everything else is stripped.

    Returns
    -------
    NotebookNode
        Valid, without outputs outside claim cells and without output metadata.
    """
    notebook = jupytext.read(twin, fmt=TWIN_FORMAT)
    notebook.metadata.pop("jupytext", None)
    lines = defaultdict(list)
    for cell in stored.cells if stored is not None else ():
        if is_claim(cell) and cell.get("outputs"):
            lines[cell.source].append([_plain(output) for output in cell.outputs])
    seen: Counter[str] = Counter()
    ordinal = 0
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        cell.id = f"{digest}-{seen[digest]}" if seen[digest] else digest
        seen[digest] += 1
        if cell.cell_type != "code":
            continue
        ordinal += 1
        cell.outputs, cell.execution_count = [], None
        if is_claim(cell) and lines[cell.source]:
            cell.outputs, cell.execution_count = lines[cell.source].pop(0), ordinal
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def write(pair: Pair) -> bool:
    """Write the notebook of a pair from its twin.

    Parameters
    ----------
    pair : Pair
        The chapter.

    Returns
    -------
    bool
        Whether the file changed.
    """
    stored = nbformat.read(pair.notebook, as_version=4) if pair.notebook.exists() else None
    text = dumps(make_notebook(pair.twin, stored))
    if pair.notebook.exists() and pair.notebook.read_text(encoding="utf-8") == text:
        return False
    pair.notebook.parent.mkdir(parents=True, exist_ok=True)
    pair.notebook.write_text(text, encoding="utf-8")
    return True


def dumps(notebook: NotebookNode) -> str:
    """Return the text of a notebook as it is committed."""
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"


def differences(pair: Pair) -> Iterator[str]:
    """Compare a pair cell by cell and say what is out of step.

    Parameters
    ----------
    pair : Pair
        The chapter.

    Yields
    ------
    str
        One sentence for each difference in type, source or tags, each output outside a claim
        cell, and each claim cell without a stored line.
    """
    for path in (pair.twin, pair.notebook):
        if not path.exists():
            yield f"{pair.name}: {path.suffix} file is missing (run 'make notebooks')"
            return
    twin = jupytext.read(pair.twin, fmt=TWIN_FORMAT)
    notebook = nbformat.read(pair.notebook, as_version=4)
    if len(twin.cells) != len(notebook.cells):
        counts = f"{len(twin.cells)} cells in the twin, {len(notebook.cells)} in the notebook"
        yield f"{pair.name}: {counts}"
    for number, (ours, theirs) in enumerate(zip(twin.cells, notebook.cells, strict=False)):
        where = f"{pair.name}, cell {number}"
        for what in ("cell_type", "source"):
            if ours[what] != theirs[what]:
                yield f"{where}: the {what} differs"
        if _kept_metadata(ours) != _kept_metadata(theirs):
            yield f"{where}: tags or other metadata differ"
        if theirs.cell_type != "code":
            continue
        if not is_claim(theirs):
            if theirs.outputs or theirs.execution_count is not None:
                yield f"{where}: stored outputs outside a claim cell"
        elif not theirs.outputs or theirs.execution_count is None:
            yield f"{where}: a claim cell without its stored line (run 'make claims')"
        elif any(output.get("metadata") for output in theirs.outputs):
            yield f"{where}: a claim cell with stored metadata"


def claims_of(notebook: NotebookNode) -> Iterator[dict]:
    """Yield the metadata of every claim in an executed notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("metadata", {}).get(METADATA_KEY)
            if data is not None:
                yield data


def _plain(output: NotebookNode) -> NotebookNode:
    """A stored output without its metadata."""
    kept = nbformat.from_dict(output)
    if "metadata" in kept:
        kept.metadata = NotebookNode()
    return kept


def _kept_metadata(cell: NotebookNode) -> dict:
    kept = {key: cell.metadata[key] for key in ("mystnb",) if key in cell.metadata}
    return kept | {"tags": sorted(cell.metadata.get("tags", []))}
