"""The skeleton of a chapter runs, keeps the rules of chapters, and says what its author must do."""

import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
import test_chapters
from jupytext.config import load_jupytext_config
from nbclient import NotebookClient

from enough.book import pairs
from enough.book.claims import METADATA_KEY
from enough.book.scaffold import INSTRUCTION, skeleton

ROOT = Path(__file__).resolve().parents[2]

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
NAME = "calibration/new_chapter_2"
PARTS = (
    "The puzzle", "The theory", "Show it", "Use it", "At scale", "Claims", "Where it breaks",
    "Exercises", "Further reading",
)  # fmt: skip
RULES = [
    rule
    for name, rule in inspect.getmembers(test_chapters, inspect.isfunction)
    if name.startswith("test_")
    and list(inspect.signature(rule).parameters) == ["pair"]
    and "executed_notebook" not in inspect.getsource(rule)
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    made = pairs.Pair.named(tmp_path_factory.mktemp("repository"), NAME)
    made.twin.parent.mkdir(parents=True)
    made.twin.write_text(skeleton(NAME, REPOSITORY), encoding="utf-8")
    assert pairs.write(made)
    return made


@pytest.fixture(scope="module")
def executed(pair):
    notebook = nbformat.read(pair.notebook, as_version=4)
    folder = {"metadata": {"path": str(pair.notebook.parent)}}
    # The install cell asks the `python` of the shell whether the package is there.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    client = NotebookClient(notebook, timeout=120, resources=folder)
    return client.execute(env=os.environ | {"PATH": path})


def test_the_rules_of_chapters_were_found():
    assert len(RULES) >= 6


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_it_keeps_the_rules_of_chapters(pair, rule):
    rule(pair)


def test_it_has_every_part_of_a_chapter_in_order(pair):
    cells = nbformat.read(pair.notebook, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)$", text, re.M) == list(PARTS)
    assert len(re.findall("^# .+$", text, re.M)) == 1
    assert "{run-times} here" in text


def test_every_part_tells_its_author_what_to_do(pair):
    cells = nbformat.read(pair.notebook, as_version=4).cells
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown").replace("\n", " ")
    sections = re.split(r"## ", text)
    assert len(sections) == len(PARTS) + 1
    assert [section[:20] for section in sections if INSTRUCTION not in section] == []


def test_no_chapter_still_has_an_instruction_to_its_author():
    twins = [pair.twin for pair in pairs.find_pairs(ROOT) if pair.twin.exists()]
    assert [twin.name for twin in twins if INSTRUCTION in twin.read_text(encoding="utf-8")] == []


def test_it_runs_as_a_plain_script(pair, tmp_path):
    environment = os.environ | {"ENOUGH_PRESET": "cpu", "ENOUGH_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(pair.twin)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == ["holds", "holds"]


def test_exactly_the_claim_cells_give_one_plain_output(executed):
    for cell in executed.cells:
        if cell.cell_type != "code":
            continue
        outputs = cell.outputs
        assert [o for o in outputs if o.output_type in ("stream", "error")] == [], cell.source
        shown = [o for o in outputs if o.output_type == "display_data"]
        plain = [o for o in shown if list(o.data) == ["text/plain"]]
        if pairs.is_claim(cell):
            assert outputs == plain
            assert len(plain) == 1
            assert plain[0].metadata[METADATA_KEY]["verdict"] == "holds"
        else:
            assert plain == []
            assert [o for o in outputs if METADATA_KEY in o.metadata] == []


def test_one_claim_is_a_negative_control_and_each_has_an_interval(executed):
    claims = list(pairs.claims_of(executed))
    assert [claim["control"] for claim in claims] == [False, True]
    for claim in claims:
        low, high = claim["interval"]
        assert low < claim["measured"] < high


def test_figures_come_with_their_words(executed):
    figures = [
        o
        for c in executed.cells
        for o in c.get("outputs", [])
        if "enough.figure" in o.get("metadata", {})
    ]
    names = [figure.metadata["enough.figure"]["name"] for figure in figures]
    assert names == ["calibration-new-chapter-2-puzzle", "calibration-new-chapter-2-errors"]
    assert all("image/png" in figure.data for figure in figures)


def test_its_pair_is_in_step_once_the_claims_are_stored(pair, executed, tmp_path):
    stored = pairs.Pair(pair.name, pair.twin, tmp_path / "chapter.ipynb")
    text = pairs.dumps(pairs.make_notebook(pair.twin, executed))
    stored.notebook.write_text(text, encoding="utf-8")
    assert list(pairs.differences(stored)) == []


def test_jupytext_writes_the_same_cells():
    text = skeleton(NAME, REPOSITORY)
    config = load_jupytext_config(str(ROOT / "pyfiles" / "chapters" / f"{NAME}.py"))
    notebook = jupytext.reads(text, fmt=pairs.TWIN_FORMAT)
    assert notebook.metadata.kernelspec.name == "python3"
    written = jupytext.writes(notebook, fmt=pairs.TWIN_FORMAT, config=config)
    assert written.partition("\n# ---\n")[2] == text.partition("\n# ---\n")[2]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_the_linter_has_nothing_to_say(command):
    name = f"pyfiles/chapters/{NAME}.py"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "--stdin-filename", name, "-"],
        input=skeleton(NAME, REPOSITORY), cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_chapters_share_no_label():
    def labels(name):
        text = skeleton(name, REPOSITORY)
        found = re.findall(r"^# :label: (\S+)$", text, re.M)
        found += re.findall(r"\$\$ \((\S+)\)$", text, re.M)
        return found + re.findall(r'name="([^"]+)"', text)

    one, other = labels("rewards/best_of_n"), labels("rewards/best_of_n_again")
    assert len(one) == len(set(one)) == 8
    assert not set(one) & set(other)


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@", skeleton(NAME, REPOSITORY))
    assert NAME in skeleton(NAME, REPOSITORY)


@pytest.mark.parametrize("name", ["", "chapter", "a/b/c", "a/2b", "a/b-c", "a/", "/b", "ä/b", None])
def test_a_name_that_is_no_chapter_is_refused(name):
    with pytest.raises(ValueError, match=r"name: expected '<part>/<chapter>', got"):
        skeleton(name, REPOSITORY)


@pytest.mark.parametrize("repository", ["", "OWNER/REPO", None])
def test_a_repository_that_is_no_address_is_refused(repository):
    with pytest.raises(ValueError, match="repository: expected an address, got"):
        skeleton(NAME, repository)
