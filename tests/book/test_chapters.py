"""The rules every chapter keeps."""

import ast
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jupytext
import pytest

from enough.book import execution, pairs

ROOT = Path(__file__).resolve().parents[2]

PAIRS = pairs.find_pairs(ROOT)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
INSTALL = (
    '!python -c "import enough" 2>/dev/null || '
    f'pip install -q "how-much-is-enough @ git+{REPOSITORY}"'
)

every_chapter = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


def _cells(pair, kind="code"):
    return [c for c in jupytext.read(pair.twin, fmt=pairs.TWIN_FORMAT).cells if c.cell_type == kind]


def _trees(pair):
    return [ast.parse(cell.source) for cell in _cells(pair)[1:]]


def _calls(pair):
    return [node for tree in _trees(pair) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_there_are_chapters():
    assert PAIRS


@every_chapter
def test_the_first_cell_installs_where_the_package_is_absent(pair):
    first = _cells(pair)[0]
    assert first.source == INSTALL
    assert first.metadata["tags"] == ["remove-cell"]
    assert "# " + INSTALL in pair.twin.read_text(encoding="utf-8")


def _labels(pair):
    """What the pages number and link to: figures, theorems, exercises, equations."""
    text = pair.twin.read_text(encoding="utf-8")
    yield from re.findall(r'name="(fig-[\w-]+)"', text)
    yield from re.findall(r"^#\s*:label:\s*([\w-]+)", text, re.M)


def test_labels_belong_to_one_chapter():
    owners = {}
    for pair in PAIRS:
        for label in _labels(pair):
            owners.setdefault(label, []).append(pair.name)
    assert {label: names for label, names in owners.items() if len(names) > 1} == {}


@every_chapter
def test_code_cells_are_short(pair):
    assert [c.source for c in _cells(pair) if len(c.source.splitlines()) > 25] == []


@every_chapter
def test_no_magics_prints_relative_paths_or_bare_figures(pair):
    for cell in _cells(pair)[1:]:
        assert not re.search(r"^\s*[%!]", cell.source, re.M), cell.source
        assert "../" not in cell.source, cell.source
    names = {ast.unparse(call.func) for call in _calls(pair)}
    assert "print" not in names
    assert not {n for n in names if n.startswith(("plt.", "matplotlib."))}, (
        "use enough.plotting.figure"
    )


@every_chapter
def test_every_figure_has_alt_text_and_caption(pair):
    figures = [call for call in _calls(pair) if ast.unparse(call.func).endswith("figure")]
    assert figures
    for call in figures:
        given = {keyword.arg for keyword in call.keywords}
        assert {"alt", "caption", "name"} <= given, ast.unparse(call)


@every_chapter
def test_claims_stand_alone_in_tagged_cells(pair):
    claims = 0
    for cell in _cells(pair)[1:]:
        calls = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)]
        count = sum(ast.unparse(call.func) == "claim" for call in calls)
        assert count == (1 if pairs.is_claim(cell) else 0), cell.source
        if count:
            claims += 1
            last = ast.parse(cell.source).body[-1]
            assert isinstance(last, ast.Expr)
            assert ast.unparse(last.value.func) == "claim"
    assert claims >= 2


@every_chapter
def test_there_is_a_negative_control_and_enough_exercises(pair):
    controls = [
        call
        for call in _calls(pair)
        if ast.unparse(call.func) == "claim"
        and any(k.arg == "control" and ast.unparse(k.value) == "True" for k in call.keywords)
    ]
    text = "\n".join(cell.source for cell in _cells(pair, "markdown"))
    assert controls
    assert "negative control" in text.lower()
    assert text.count("{exercise-start}") >= 3
    assert text.count("{solution-start}") == text.count("{exercise-start}")


@every_chapter
def test_citations_exist(pair):
    keys = set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "chapters/references.bib").read_text(), re.M))
    cited = {
        keyword.value.value
        for call in _calls(pair)
        if ast.unparse(call.func) == "claim"
        for keyword in call.keywords
        if keyword.arg == "paper"
    }
    assert cited
    assert cited <= keys


@every_chapter
def test_every_code_cell_really_ran(pair):
    """The pages were built from a run in which no cell was skipped and none failed."""
    executed = execution.executed_notebook(ROOT, pair)
    if executed is None:
        pytest.skip("no executed notebook in the cache: run 'make test' or 'make book' first")
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert len(code) == len(_cells(pair))
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []


@every_chapter
def test_claims_give_one_plain_output(pair):
    executed = execution.executed_notebook(ROOT, pair)
    if executed is None:
        pytest.skip("no executed notebook in the cache: run 'make test' or 'make book' first")
    for cell in executed.cells:
        if pairs.is_claim(cell):
            (output,) = cell.outputs
            assert list(output.data) == ["text/plain"]
            assert pairs.METADATA_KEY in output.metadata


def _twin_of_the_day():
    """One chapter per part, in turn: another one each day."""
    parts = {}
    for pair in PAIRS:
        parts.setdefault(pair.name.split("/")[0], []).append(pair)
    day = int(time.time() // 86400)
    return [chapters[day % len(chapters)] for chapters in parts.values()]


@pytest.mark.parametrize("pair", _twin_of_the_day(), ids=lambda pair: pair.name)
def test_the_twin_runs_as_a_plain_script_without_jupyter(pair, tmp_path):
    """Importing any Jupyter package is an error in this run."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "absent = 'IPython ipykernel jupyter_client nbformat myst_nb jupytext'\n"
        "sys.modules.update(dict.fromkeys(absent.split()))\n"
    )
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "ENOUGH_PRESET": "cpu",
        "ENOUGH_DEVICE": "cpu",
    }
    done = subprocess.run(
        [sys.executable, str(pair.twin)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    claims = sum(pairs.is_claim(cell) for cell in _cells(pair))
    assert (
        len(re.findall(r"^(holds|does not hold here|inconclusive|not run)", done.stdout, re.M))
        == claims
    )
