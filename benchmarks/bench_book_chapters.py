"""How long does the book take, chapter by chapter, from nothing and again with nothing changed?

Chapters run as ``make book`` runs them, at the ``cpu`` preset. What the execution cache of the
present sources holds is not run again, since all chapters take many minutes: its seconds are those
of the execution that filled the cache, and the rows say so. Then the same call finds everything in
the cache. The pages are built twice from a copy of that cache, into a fresh folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from enough.book import pairs
from enough.book.execution import ChapterRun, cache_folder, execute
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


def _named(runs: list[ChapterRun], wall: float) -> list[dict]:
    """Make the rows of the chapters, and of all of them."""
    kept = "seconds of the execution that filled the cache"
    result = [
        as_row(f"chapter {run.name}, from nothing", [run.seconds], note=kept if run.reused else "")
        for run in runs
    ]
    reused = sum(run.reused for run in runs)
    if reused:
        wall = sum(run.seconds for run in runs)
        note = f"the sum over chapters; {reused} of {len(runs)} as they filled the cache"
    else:
        note = "the clock on the wall, as many at a time as make book runs"
    return [*result, as_row("all chapters, from nothing", [wall], note=note)]


def rows(quick: bool = False) -> list[dict]:
    """Execute every chapter that the cache does not hold and build the pages.

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
        elif cache_folder(root).is_dir():
            shutil.copytree(cache_folder(root), cache)
        start = time.perf_counter()
        runs = execute(root, folder=cache)
        wall = time.perf_counter() - start
        again = []
        for _ in range(2):
            start = time.perf_counter()
            found = execute(root, folder=cache)
            again.append(time.perf_counter() - start)
        for run in found:
            if run.seconds is None or not run.reused:
                raise RuntimeError(f"{run.name} failed:\n{run.traceback}")
        result = [*_named(runs, wall), as_row("all chapters, nothing changed", again)]
        if not quick:
            out = Path(folder) / "pages"
            for name in ("all pages, from nothing", "all pages, nothing changed"):
                result.append(as_row(name, [_pages(root, cache, out)]))
        return result


if __name__ == "__main__":
    main(rows)
