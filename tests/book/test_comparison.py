"""nbval compares what is stored: an altered verdict turns the run red."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]


CELLS = [
    ("from enough.book import claim", []),
    (
        'claim("It helps", paper="p", where="x", measured=1.0, interval=(0.5, 1.5), above=0.0)',
        ["nbval-check-output"],
    ),
]


def _notebook(folder, line, count=2, tags=()):
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    for source, cell_tags in CELLS:
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": [*cell_tags, *tags]})
        if cell_tags and line is not None:
            cell.outputs = [nbformat.v4.new_output("display_data", {"text/plain": line})]
            cell.execution_count = count
        notebook.cells.append(cell)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / "chapter.ipynb")


def _nbval(folder, **environment):
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
        "--nbval-current-env", "-c", os.devnull, "--rootdir", str(folder), str(folder),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_stored_verdict_passes(tmp_path):
    _notebook(tmp_path, "holds: It helps")
    code, out = _nbval(tmp_path)
    assert code == 0, out
    assert "2 passed" in out


def test_an_altered_stored_verdict_turns_the_run_red(tmp_path):
    _notebook(tmp_path, "inconclusive: It helps")
    code, out = _nbval(tmp_path)
    assert code == 1, out
    assert "1 failed" in out
    assert "inconclusive: It helps" in out


def test_a_stripped_cell_compares_nothing(tmp_path):
    """Why the pair test demands a stored line and a count: the comparison does not notice."""
    _notebook(tmp_path, line=None, count=None)
    assert _nbval(tmp_path)[0] == 0


@pytest.mark.parametrize(("available", "code"), [(False, 0), (True, 1)])
def test_the_comparison_is_lifted_only_where_the_loader_lacks_the_table(tmp_path, available, code):
    _notebook(tmp_path / "book", "inconclusive: It helps", tags=["needs-tinyshakespeare"])
    empty = tmp_path / "empty"
    empty.mkdir()
    if available and not os.environ.get("ENOUGH_DATA"):
        pytest.skip("ENOUGH_DATA is not set: no real table to look for")
    data = os.environ["ENOUGH_DATA"] if available else str(empty)
    found, out = _nbval(tmp_path / "book", ENOUGH_DATA=data, ENOUGH_CACHE=str(empty))
    assert found == code, out
    if not available:
        assert "the data loader lacks 'tinyshakespeare'" in out
        assert "1 in all" in out
