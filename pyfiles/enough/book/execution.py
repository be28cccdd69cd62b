"""Execution of the chapters through jupyter-cache, one cache folder per key.

jupyter-cache knows the cells of a notebook and nothing else: when the package changes it
serves stale results. The key closes that hole. It covers everything an output depends on but
the cells themselves, so a change in ``enough`` runs the chapters again and a change in prose
does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

from enough.book.pairs import Pair, find_pairs
from enough.book.provenance import write_versions
from enough.data import available, registry
from enough.runtime import available_memory, cpu_count

__all__ = [
    "CELL_TIMEOUT",
    "ChapterRun",
    "cache_folder",
    "execute",
    "executed_notebook",
    "execution_key",
    "preview_folder",
    "run_notebook",
    "threads_shared_by",
]

CELL_TIMEOUT = 300
"""Seconds that one cell may take."""

_PARALLEL_MEMORY = 12 * 2**30
_KEPT_FOLDERS = 3
_NOT_DRAWN = "benchmarks"  # below results: a page of its own shows them, computed when it is built
_DIALS = ("ENOUGH_PRESET", "ENOUGH_DEVICE", "ENOUGH_SEED")


@dataclass(frozen=True)
class ChapterRun:
    """How the execution of one chapter went.

    Attributes
    ----------
    name : str
        ``"<part>/<chapter>"``.
    seconds : float or None
        Wall-clock seconds, also of an earlier run that was reused; ``None`` on failure.
    reused : bool
        Whether the outputs come from the cache.
    traceback : str
        What went wrong; empty on success.
    """

    name: str
    seconds: float | None
    reused: bool
    traceback: str = ""


def execution_key(root: Path) -> str:
    """Hash everything but the cells that the chapters' outputs depend on.

    Parameters
    ----------
    root : pathlib.Path
        The repository.

    Returns
    -------
    str
        Sixteen hexadecimal digits over the sources of ``enough`` with its data registry, the
        recorded results but those of benchmarks, which no chapter draws, ``constraints.txt``,
        the Python version, the dials in the environment and which registered files the loader
        has at hand.
    """
    digest = hashlib.sha256(platform.python_version().encode())
    for path in _inputs(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()}\n{content}\n".encode())
    for variable in _DIALS:
        digest.update(f"{variable}={os.environ.get(variable, '')}\n".encode())
    digest.update("\n".join(name for name in registry().index if available(name)).encode())
    return digest.hexdigest()[:16]


def cache_folder(root: Path) -> Path:
    """Return the cache folder of the present key.

    Parameters
    ----------
    root : pathlib.Path
        The repository.

    Returns
    -------
    pathlib.Path
        It may not exist yet.
    """
    return root / "_build" / "execution" / execution_key(root)


def preview_folder(root: Path) -> Path:
    """Return a cache folder for looking at one chapter while it is written.

    It starts as a copy of the newest cache, so that pages of other chapters show what they last
    showed, perhaps from older code. `make book` and `make test` never read it.

    Parameters
    ----------
    root : pathlib.Path
        The repository.

    Returns
    -------
    pathlib.Path
        It exists if there was anything to copy.
    """
    preview = root / "_build" / "execution-preview"
    caches = root / "_build" / "execution"
    newest = max(caches.glob("*"), key=lambda p: p.stat().st_mtime, default=None)
    if newest is not None:
        shutil.rmtree(preview, ignore_errors=True)
        shutil.copytree(newest, preview)
    return preview


def execute(
    root: Path, names: Iterable[str] | None = None, folder: Path | None = None
) -> list[ChapterRun]:
    """Execute the chapters that the cache does not hold.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    names : iterable of str, optional
        Chapters to execute, all of them when omitted.
    folder : pathlib.Path, optional
        The cache; by default `cache_folder`. In a preview, a chapter that is named is executed
        although the cache holds it.

    Returns
    -------
    list of ChapterRun
        In order of name. A chapter that finished stays in the cache whatever happens to others.

    Raises
    ------
    ValueError
        If a name is no chapter.
    """
    pairs = [pair for pair in find_pairs(root) if pair.notebook.exists()]
    if names is not None:
        names = list(names)
        known = {pair.name: pair for pair in pairs}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"names: expected chapters among {sorted(known)}, got {missing}")
        pairs = [known[name] for name in names]
    preview = folder is not None and folder == root / "_build" / "execution-preview"
    folder = cache_folder(root) if folder is None else folder
    cache = get_cache(str(folder))
    if not preview:
        _touch_and_prune(folder)
    records = {pair.name: cache.add_nb_to_project(str(pair.notebook)) for pair in pairs}
    pks = [record.pk for record in records.values()]
    if preview:
        for pk in pks:
            cached = cache.get_cached_project_nb(pk)
            if cached is not None:
                cache.remove_cache(cached.pk)
    waiting = {record.pk for record in cache.list_unexecuted(filter_pks=pks)}
    workers = min(_workers(), max(len(waiting), 1))
    logger = logging.getLogger("enough.execution")
    if waiting:
        write_versions(folder)
        print(f"executing {len(waiting)} of {len(pairs)} chapters, {workers} at a time", flush=True)
        logger.setLevel(logging.INFO)
        kind = "local-parallel" if workers > 1 else "local-serial"
        if workers == 1:
            logger.addHandler(logging.StreamHandler())
        with threads_shared_by(workers):
            load_executor(kind, cache, logger=logger).run_and_cache(
                filter_pks=sorted(waiting), timeout=CELL_TIMEOUT
            )
    return [_outcome(cache, name, record.pk, waiting) for name, record in records.items()]


def run_notebook(path: Path) -> nbformat.NotebookNode:
    """Execute one notebook afresh, outside the cache.

    Parameters
    ----------
    path : pathlib.Path
        The notebook.

    Returns
    -------
    NotebookNode
        With all outputs and their metadata.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT, resources={"metadata": {"path": str(path.parent)}}
    )
    return client.execute()


def _inputs(root: Path) -> list[Path]:
    package = root / "pyfiles" / "enough"
    files = [p for p in package.rglob("*") if p.suffix in {".py", ".json", ".mplstyle"}]
    results = root / "results"
    files += [
        p for p in results.rglob("*") if p.is_file() and results / _NOT_DRAWN not in p.parents
    ]
    files.append(root / "constraints.txt")
    return sorted(p for p in files if "__pycache__" not in p.parts)


def _workers() -> int:
    return cpu_count() if available_memory("cpu") >= _PARALLEL_MEMORY else 1


@contextlib.contextmanager
def threads_shared_by(workers: int) -> Iterator[None]:
    """Give each of several processes, started inside the block, its share of the cores.

    Parameters
    ----------
    workers : int
        How many processes run at once. More threads than cores slow dense linear algebra
        down many times.

    Yields
    ------
    None
        While the environment says how many threads to take.
    """
    share = str(max(1, cpu_count() // workers))
    dials = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), share)
    dials["OMP_WAIT_POLICY"] = "PASSIVE"  # on a busy machine, threads that spin cost minutes
    before = {name: os.environ.get(name) for name in dials}
    os.environ.update(dials)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _outcome(cache, name: str, pk: int, waiting: set[int]) -> ChapterRun:
    record = cache.get_project_record(pk)
    cached = cache.get_cached_project_nb(pk)
    if cached is None:
        return ChapterRun(name, None, False, record.traceback or "the notebook could not be read")
    return ChapterRun(name, cached.data.get("execution_seconds"), pk not in waiting)


def _touch_and_prune(folder: Path) -> None:
    """Mark this folder as used now and forget all but the last few."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder, (time.time(), time.time()))
    siblings = sorted(folder.parent.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in siblings[_KEPT_FOLDERS:]:
        shutil.rmtree(old, ignore_errors=True)


def executed_notebook(root: Path, pair: Pair) -> nbformat.NotebookNode | None:
    """Return a chapter's executed notebook from the cache, if it is there.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    pair : Pair
        The chapter.

    Returns
    -------
    NotebookNode or None
        With all outputs and their metadata; ``None`` when the cache does not hold it.
    """
    folder = cache_folder(root)
    if not folder.exists():
        return None
    cache = get_cache(str(folder))
    notebook = nbformat.read(pair.notebook, as_version=4)
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return None
    return cache.merge_match_into_notebook(notebook)[1]
