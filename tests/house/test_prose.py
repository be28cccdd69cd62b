"""Obvious slips in what a reader reads: pages, chapters, and the files beside them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "chapters").rglob("*.md"))
BESIDE = [*sorted(ROOT.glob("*.md")), ROOT / "CITATION.cff"]
TWINS = sorted((ROOT / "pyfiles" / "chapters").rglob("*.py"))

SLIPS = {
    "a word twice": r"\b(?!that\b|had\b|log\b|\d)([a-z]+)\s+\1\b",
    "a space before a comma or a period": r"\w ,|\w \.(?=\s|$)",
    "two commas or periods": r",,|(?<!\.)\.\.(?!\.)",
    "a word of hype": r"\b(simply|obviously|trivially|cutting-edge|state-of-the-art|groundbreaking"
    r"|game-chang\w+|revolutionary|remarkabl[ey]|very unique|needless to say|delve)\b",
    "a note to the author": r"\b(TODO|FIXME|XXX|TBD|lorem ipsum)\b",
    "a instead of an": r"\ba (?!one\b|once\b|uni|us[eua]|eu|ubi|U[A-Z])[aeiou]\w+",
    "an instead of a": r"\ban (?!hour|hon|heir)[b-df-hj-np-tv-z][a-z]+\b",
    "British spelling": r"\b(behaviour|colou?red? of the|colour|favour|neighbour|analys(e|ed|ing)"
    r"|optimis\w+|regularis\w+|normalis\w+|generalis\w+|minimis\w+|maximis\w+|labell(ing|ed)"
    r"|modell(ing|ed)|centre|whilst|amongst)\b",  # codespell:ignore modell
    "should of": r"\b(could|should|would) of\b",
    "it's for its": r"\bit's (own|size|value|mean|error)\b",
}


def prose(text):
    """A text without code, formulas, addresses and roles."""
    fences = re.compile(r"^[`~:]{3,}(?!\{(?:code|math|bibliography)|[a-z]+\s*$)[^\n]*$", re.M)
    text = re.sub(r"^```[a-z]+\n.*?^```\s*$", "", text, flags=re.M | re.S)
    text = re.sub(r"^```\{(code|math)[^\n]*\n.*?^```\s*$", "", text, flags=re.M | re.S)
    text = fences.sub("", text)
    text = re.sub(r"\$\$.*?\$\$", " N ", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`]*`|\$[^$]+\$|https?://\S+", "N", text)


def slips(text):
    """Every slip of a text, with what it is."""
    words = prose(text)
    return [
        f"{what}: …{words[max(0, m.start() - 30) : m.end() + 30]!r}"
        for what, pattern in SLIPS.items()
        for m in re.finditer(pattern, words, re.I if what == "a word of hype" else 0)
    ]


@pytest.mark.parametrize("path", [*PAGES, *BESIDE], ids=lambda path: path.name)
def test_pages_have_no_slips(path):
    assert slips(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", TWINS, ids=lambda path: path.stem)
def test_chapters_have_no_slips(path):
    cells = jupytext.read(path).cells
    assert slips("\n\n".join(c.source for c in cells if c.cell_type == "markdown")) == []


@pytest.mark.parametrize(
    "text",
    [
        "This is is wrong.", "A comma , there.", "Two,, commas.", "It is simply so.", "TODO: write",
        "It is a error.", "It is an mean.", "The behaviour.", "They should of run.",
        "It's own: it's own.",
    ],
)  # fmt: skip
def test_a_slip_is_found(text):
    assert slips(text)


@pytest.mark.parametrize(
    "text",
    [
        "A one-line fact, an hour, a unique user and an $n$-th of it.", "`the the` in code",
        "```python\nsimply = 1\n```\nText.", "$$a , b$$ and $x .$ here", "wait ... and so on",
        "an `enough` file, a `one`", "An MLP and a U-shaped curve", "an 8-bit number",
    ],
)  # fmt: skip
def test_what_is_no_slip_passes(text):
    assert slips(text) == []


def test_words_are_spelled_right():
    names = [str(path.relative_to(ROOT)) for path in [*PAGES, *BESIDE, *TWINS]]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *names, ".github", "Makefile"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_speller_sees_a_misspelling(tmp_path):
    (tmp_path / "page.md").write_text("This is " + "teh" + " word.\n")  # codespell:ignore teh
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0


# What stands beside the book


def test_the_citation_file_says_what_the_project_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert set(cited) <= {
        "cff-version", "message", "type", "title", "abstract", "authors", "version",
        "repository-code", "license", "keywords", "date-released", "doi",
    }  # fmt: skip
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["version"] == project["version"]
    assert cited["repository-code"] == project["urls"]["Repository"]
    assert cited["authors"] == project["authors"]
    assert cited["license"] == "MIT"
    assert cited["message"]
    page = (ROOT / "chapters" / "cite.md").read_text(encoding="utf-8")
    assert re.search(r"title\s*= \{(.*)\}", page)[1] == cited["title"]


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", text, re.M)
    assert heads[0] == "Unreleased" or heads[0].startswith(f"{project['version']} - ")
    for head in heads[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", head)
    kinds = set(re.findall(r"^### (.*)$", text, re.M))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_workflows_use_the_same_actions():
    """Each action is pinned at one commit in all workflows."""
    pins = {}
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for action, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", path.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert len(pins) >= 3
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


def test_workflows_ask_for_what_there_is():
    """The targets and scripts that workflows name exist; the links hold nothing up."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        for job in workflow["jobs"].values():
            script = "\n".join(step.get("run", "") for step in job["steps"])
            assert set(re.findall(r"^\s*make ([a-z-]+)", script, re.M)) <= targets
            for name in re.findall(r"(?:pyfiles|\.ci)/[\w./]+(?:\.py|run)\b", script):
                assert (ROOT / name).is_file(), name
    weekly = yaml.safe_load((ROOT / ".github/workflows/weekly.yml").read_text(encoding="utf-8"))
    assert [n for n, job in weekly["jobs"].items() if job.get("continue-on-error")] == ["links"]
    release = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert "sha256sum" in release
    assert "gh release upload" in release
