"""The execution cache: a change in the package runs a chapter again, a change in prose does not."""

import nbformat
import pytest

from enough.book import benchmarks, execution, pairs

TWIN = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A title

# %%
from pathlib import Path
with Path("runs.txt").open("a") as file:
    print("ran", file=file)
"""


@pytest.fixture
def book(tmp_path):
    """A book of one chapter that counts its own runs."""
    for name, text in {
        "constraints.txt": "torch==2.13.0\n",
        "pyfiles/enough/module.py": "VALUE = 1\n",
        "pyfiles/enough/registry.json": "{}\n",
        "results/part/name/gpu-x.csv": "a\n1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pair = pairs.Pair.named(tmp_path, "part/name")
    pair.twin.parent.mkdir(parents=True)
    pair.twin.write_text(TWIN)
    pairs.write(pair)
    return pair


def _runs(book):
    return (book.notebook.parent / "runs.txt").read_text().count("ran")


def _root(book):
    return book.twin.parents[3]


def test_prose_does_not_run_a_chapter_again_and_the_package_does(book):
    root = _root(book)
    (first,) = execution.execute(root)
    assert (first.name, first.reused, _runs(book)) == ("part/name", False, 1)
    assert execution.execute(root)[0].reused
    book.twin.write_text(TWIN.replace("A title", "Another title"))
    assert pairs.write(book)
    assert execution.execute(root)[0].reused
    assert _runs(book) == 1
    (root / "pyfiles/enough/module.py").write_text("VALUE = 2\n")
    (again,) = execution.execute(root)
    assert (again.reused, _runs(book)) == (False, 2)
    book.twin.write_text(TWIN.replace("ran", "ran on"))
    pairs.write(book)
    assert not execution.execute(root)[0].reused


@pytest.mark.parametrize(
    "path",
    [
        "pyfiles/enough/module.py",
        "pyfiles/enough/registry.json",
        "constraints.txt",
        "results/part/name/gpu-x.csv",
    ],
)
def test_the_key_covers_what_outputs_depend_on(book, path):
    root = _root(book)
    before = execution.execution_key(root)
    assert execution.execution_key(root) == before
    (root / path).write_text("changed")
    assert execution.execution_key(root) != before


def test_recorded_benchmarks_run_no_chapter_again(book):
    root = _root(book)
    before = execution.execution_key(root)
    folder = f"results/{benchmarks.FOLDER}"
    for path in (f"{folder}/cpu-x.csv", f"{folder}/growth/cpu-x.csv"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("ratio\n2\n")
        assert execution.execution_key(root) == before
    (root / f"{folder}.csv").write_text("a\n1\n")
    assert execution.execution_key(root) != before


@pytest.mark.parametrize("variable", ["ENOUGH_PRESET", "ENOUGH_DEVICE", "ENOUGH_SEED"])
def test_the_key_covers_the_dials(book, monkeypatch, variable):
    before = execution.execution_key(_root(book))
    monkeypatch.setenv(variable, "7")
    assert execution.execution_key(_root(book)) != before


def test_a_failing_chapter_is_told_and_others_are_kept(book):
    root = _root(book)
    bad = pairs.Pair.named(root, "part/bad")
    bad.twin.write_text(TWIN.replace('"runs.txt"', '"/nowhere/runs.txt"'))
    pairs.write(bad)
    runs = {run.name: run for run in execution.execute(root)}
    assert runs["part/bad"].seconds is None
    assert "/nowhere/runs.txt" in runs["part/bad"].traceback
    assert runs["part/name"].seconds > 0
    assert execution.execute(root, ["part/name"])[0].reused


def test_an_unknown_chapter_is_named(book):
    with pytest.raises(ValueError, match="part/other"):
        execution.execute(_root(book), ["part/other"])


def test_old_keys_are_forgotten(book):
    root = _root(book)
    for value in range(6):
        (root / "constraints.txt").write_text(f"torch=={value}\n")
        execution.execute(root, [])
    assert len(list((root / "_build" / "execution").iterdir())) == 3


def test_the_executed_notebook_has_every_code_cell_run(book):
    root = _root(book)
    assert execution.executed_notebook(root, book) is None
    execution.execute(root)
    executed = execution.executed_notebook(root, book)
    assert [c.execution_count for c in executed.cells if c.cell_type == "code"] == [1]
    assert isinstance(executed, nbformat.NotebookNode)
