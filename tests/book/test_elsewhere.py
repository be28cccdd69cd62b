"""The script that runs first cells elsewhere: what it runs, and where it refuses to."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from enough.book import pairs

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [pair for pair in pairs.find_pairs(ROOT) if pair.notebook.exists()]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

spec = importlib.util.spec_from_file_location("elsewhere", ROOT / "pyfiles" / "elsewhere.py")
elsewhere = importlib.util.module_from_spec(spec)
spec.loader.exec_module(elsewhere)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_the_install_cell_of_every_chapter_is_pointed_at_the_checkout(pair):
    notebook = json.loads(pair.notebook.read_text(encoding="utf-8"))
    cells = elsewhere.first_cells(notebook, Path("/a folder/checkout"))["cells"]
    assert len(cells) == elsewhere.CELLS
    install = "".join(cells[0]["source"])
    assert install == (
        '!python -c "import enough" 2>/dev/null || '
        'pip install -q "how-much-is-enough @ file:///a%20folder/checkout"'
    )
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert REPOSITORY not in text
    assert re.search(r"^from enough", text, re.M)
    assert "runtime.start(" in text


@pytest.mark.parametrize("source", ["x = 1", '!pip install "how-much-is-enough"'])
def test_a_notebook_that_does_not_install_first_is_refused(source):
    cell = {"cell_type": "code", "source": [source]}
    for cells in ([cell], []):
        with pytest.raises(elsewhere.Stop, match="does not install the package"):
            elsewhere.first_cells({"cells": cells}, ROOT)


def _run(*arguments):
    command = [sys.executable, str(ROOT / "pyfiles" / "elsewhere.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_environment_that_has_the_package_is_left_alone(tmp_path):
    done = _run(str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        "error: this environment has the book's package: use one that does not\n"
    )


def test_it_asks_for_a_folder():
    done = _run()
    assert done.returncode == 1
    assert done.stderr.startswith("error: name one folder: ")
