"""How long does the book take, chapter by chapter, from nothing and again with nothing changed?

Chapters run as ``make book`` runs them, at the ``cpu`` preset, into a fresh cache: once, since that
takes minutes. Then the same call finds everything in the cache. The pages are built twice from
that cache, into a fresh folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from enough.book import pairs
from enough.book.execution import execute
from side_by_side import as_row, main

ROOT = Path(__file__).resolve().parent.parent
TWIN = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One cell

# %%
1 + 1
"""


def _small_book(root: Path) -> None:
    """Write a book of one chapter."""
    pair = pairs.Pair.named(root, "part/name")
    pair.twin.parent.mkdir(parents=True)
    pair.twin.write_text(TWIN, encoding="utf-8")
    pairs.write(pair)


def _pages(root: Path, cache: Path, out: Path) -> float:
    """Build the pages and return the seconds; infinite when that fails."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", str(root), "--path-output", str(out), "-q"]
    environment = os.environ | {"ENOUGH_EXECUTION_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=root, check=False)
    if done.returncode:
        raise RuntimeError("the pages cannot be built")
    return time.perf_counter() - start


def rows(quick: bool = False) -> list[dict]:
    """Execute every chapter once and build the pages.

    Parameters
    ----------
    quick : bool, default False
        A book of one cell, without its pages.

    Returns
    -------
    list of dict
        As ``README.md`` describes, without peers.
    """
    os.environ.setdefault("ENOUGH_PRESET", "cpu")
    os.environ.setdefault("ENOUGH_DEVICE", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        root, cache = ROOT, Path(folder) / "cache"
        if quick:
            root = Path(folder) / "book"
            _small_book(root)
        seconds = {}
        start = time.perf_counter()
        runs = execute(root, folder=cache)
        seconds["all chapters, from nothing"] = time.perf_counter() - start
        start = time.perf_counter()
        again = execute(root, folder=cache)
        seconds["all chapters, nothing changed"] = time.perf_counter() - start
        for run in again:
            if run.seconds is None or not run.reused:
                raise RuntimeError(f"{run.name} failed:\n{run.traceback}")
        if not quick:
            out = Path(folder) / "pages"
            seconds["all pages, from nothing"] = _pages(root, cache, out)
            seconds["all pages, nothing changed"] = _pages(root, cache, out)
        each = {f"chapter {run.name}, from nothing": run.seconds for run in runs}
        return [as_row(name, [taken]) for name, taken in (each | seconds).items()]


if __name__ == "__main__":
    main(rows)
