"""Pairs: the twin is the source, the notebook a pure function of it and its claim lines."""

import copy
from pathlib import Path

import nbformat
import pytest

from enough.book import pairs
from enough.book.claims import METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]

TWIN = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["remove-cell"]
# !python -c "import enough"

# %% [markdown]
# # A title

# %%
x = 1

# %% tags=["nbval-check-output"]
claim(x)
"""


@pytest.fixture
def pair(tmp_path):
    made = pairs.Pair.named(tmp_path, "part/name")
    made.twin.parent.mkdir(parents=True)
    made.twin.write_text(TWIN, encoding="utf-8")
    pairs.write(made)
    _store(made, "holds: x")
    return made


def _store(pair, line, metadata=None):
    """Pretend that the claim cell ran."""
    executed = nbformat.read(pair.notebook, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            data = {"text/plain": line}
            cell.outputs = [nbformat.v4.new_output("display_data", data, metadata=metadata or {})]
            cell.execution_count = 7
    pair.notebook.write_text(pairs.dumps(pairs.make_notebook(pair.twin, executed)))


@pytest.mark.parametrize("pair", pairs.find_pairs(ROOT), ids=lambda pair: pair.name)
def test_the_books_pairs_are_in_step(pair):
    assert list(pairs.differences(pair)) == []


@pytest.mark.parametrize("pair", pairs.find_pairs(ROOT), ids=lambda pair: pair.name)
def test_making_a_notebook_again_changes_nothing(pair):
    stored = nbformat.read(pair.notebook, as_version=4)
    assert pairs.dumps(pairs.make_notebook(pair.twin, stored)) == pair.notebook.read_text()


def test_magic_is_live_in_the_notebook(pair):
    notebook = nbformat.read(pair.notebook, as_version=4)
    assert notebook.cells[0].source == '!python -c "import enough"'


def test_only_claim_cells_keep_outputs_and_no_metadata(pair):
    _store(pair, "holds: x", metadata={METADATA_KEY: {"measured": 1}})
    code = [c for c in nbformat.read(pair.notebook, as_version=4).cells if c.cell_type == "code"]
    assert [bool(cell.outputs) for cell in code] == [False, False, True]
    assert [cell.execution_count for cell in code] == [None, None, 3]
    assert code[2].outputs[0].metadata == {}
    assert list(pairs.differences(pair)) == []


def test_writing_twice_changes_nothing_and_keeps_the_line(pair):
    before = pair.notebook.read_text()
    assert pairs.write(pair) is False
    assert pair.notebook.read_text() == before
    assert "holds: x" in before


def test_a_claim_whose_source_changed_loses_its_line(pair):
    pair.twin.write_text(TWIN.replace("claim(x)", "claim(x + 1)"))
    assert pairs.write(pair) is True
    assert "a claim cell without its stored line" in "\n".join(pairs.differences(pair))


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda c: c[2].update(source="x = 2"), "cell 2: the source differs"),
        (lambda c: c[1].update(cell_type="raw"), "cell 1: the cell_type differs"),
        (lambda c: c[0].metadata.update(tags=[]), "cell 0: tags or other metadata differ"),
        (lambda c: c.pop(), "4 cells in the twin, 3 in the notebook"),
        (lambda c: c[2].update(execution_count=1), "cell 2: stored outputs outside a claim cell"),
        (lambda c: c[3].update(execution_count=None), "cell 3: a claim cell without its stored"),
        (
            lambda c: c[3].outputs[0].metadata.update(a=1),
            "cell 3: a claim cell with stored metadata",
        ),
    ],
)
def test_every_kind_of_drift_is_named(pair, change, finding):
    notebook = nbformat.read(pair.notebook, as_version=4)
    changed = copy.deepcopy(notebook)
    change(changed.cells)
    pair.notebook.write_text(nbformat.writes(changed, version=nbformat.NO_CONVERT))
    assert finding in "\n".join(pairs.differences(pair))


def test_a_missing_half_is_named(pair):
    pair.notebook.unlink()
    assert list(pairs.differences(pair)) == [
        "part/name: .ipynb file is missing (run 'make notebooks')"
    ]
    assert [p.name for p in pairs.find_pairs(pair.twin.parents[3])] == ["part/name"]
