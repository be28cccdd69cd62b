"""Run the first cells of each notebook as a machine would that has never seen this book.

Usage: python pyfiles/elsewhere.py FOLDER

FOLDER holds the notebooks of the launch branch (`make launch OUT=FOLDER`). The environment that
runs this script stands for Colab: it has torch, numpy, nbclient and ipykernel, and not this
book's package. For each notebook the install cell runs as a reader runs it, with the address of
the repository replaced by this checkout, then the imports and the dials. The install must leave
torch and numpy as they were. Standard library only, but for what executes notebooks.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "how-much-is-enough"
#: The install cell, then imports and dials.
CELLS = 4
KEPT = ("torch", "numpy")
TIMEOUT = 1200


class Stop(Exception):
    """A failure that one sentence explains."""


def main(arguments: list[str]) -> int:
    """Run the notebooks below a folder; return the exit status."""
    try:
        if len(arguments) != 1 or not Path(arguments[0]).is_dir():
            raise Stop("name one folder: make launch OUT=folder writes it")
        if has_package():
            raise Stop("this environment has the book's package: use one that does not")
        paths = sorted(Path(arguments[0]).glob("chapters/*/*.ipynb"))
        if not paths:
            raise Stop(f"{arguments[0]} holds no notebooks")
        failed = 0
        for path in paths:
            try:
                run(path)
                print(f"{path.stem}: the first {CELLS} cells run", flush=True)
            except Stop as stop:
                failed += 1
                print(f"::error title={path.stem}::{stop}", flush=True)
    except Stop as stop:
        print(f"error: {stop}", file=sys.stderr)
        return 1
    return int(failed > 0)


def first_cells(notebook: dict, checkout: Path) -> dict:
    """Keep the install cell and the cells after it, with this checkout in place of the address.

    A notebook whose first code cell does not install the package is refused.
    """
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][:CELLS]
    source = "".join(code[0]["source"]) if code else ""
    start = source.find(f'"{DISTRIBUTION} @ git+https://')
    if start < 0:
        raise Stop("the first code cell does not install the package")
    end = source.index('"', start + 1)
    installed = f'{source[:start]}"{DISTRIBUTION} @ {checkout.as_uri()}{source[end:]}'
    return {**notebook, "cells": [{**code[0], "source": installed}, *code[1:]]}


def run(path: Path) -> None:
    """Run the first cells of one notebook where the package is absent, and remove it again."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    before = versions()
    notebook = first_cells(json.loads(path.read_text(encoding="utf-8")), ROOT)
    try:
        book = nbformat.reads(json.dumps(notebook), as_version=4)
        NotebookClient(book, timeout=TIMEOUT).execute()
        pip("show", DISTRIBUTION)
    except CellExecutionError as error:
        raise Stop(f"{error.ename}: {error.evalue}") from error
    finally:
        pip("uninstall", "-y", DISTRIBUTION)
    if versions() != before:
        raise Stop(f"the install changed {before} to {versions()}")


def has_package() -> bool:
    """Tell whether this environment has the book's package; this script lies beside its source."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('enough') is None)"
    return subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0


def versions() -> dict[str, str]:
    """Return the versions that an install must not touch, as pip sees them now."""
    code = "import importlib.metadata as m, sys; print(*[m.version(n) for n in sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code, *KEPT], capture_output=True, text=True, check=True
    )
    return dict(zip(KEPT, done.stdout.split(), strict=True))


def pip(*arguments: str) -> None:
    """Run pip in silence; tell its last line when it fails."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Stop(f"pip {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-200:]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
