"""The house: make's errors, versions held together, names that stand in one place."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def _text_files():
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = done.stdout.splitlines() if done.returncode == 0 else []
    kinds = {".py", ".md", ".toml", ".yml", ".txt", ".ipynb", ".cff", ".sh", ""}
    paths = [ROOT / name for name in names]
    files = [p for p in paths if p.suffix in kinds and p.is_file() and "mathjax" not in p.parts]
    assert files, "git lists no files: this test reads the checkout through git"
    return files


def _make(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        ["make", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_target():
    out = _make("help").stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    assert [name for name in phony if f"make {name} " not in out] == []


def test_an_old_python_is_told_in_one_sentence(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.8.18;; *) exit 1;; esac\n')
    old.chmod(0o755)
    done = _make("book", f"PYTHON={old}")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.8.18" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_absent_python_is_told_in_one_sentence():
    done = _make("book", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "'no-such-python'" in done.stderr


def test_an_unreachable_index_is_told_in_one_sentence(tmp_path):
    """In a folder whose name has a space."""
    copy = tmp_path / "a house"
    (copy / "pyfiles").mkdir(parents=True)
    for name in ("pyfiles/house.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, copy / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TORCH_INDEX"))}
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
    }
    done = subprocess.run(
        [sys.executable, "pyfiles/house.py"],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: could not install torch==")
    assert "index cannot be reached" in line
    assert (copy / ".venv" / "install.log").exists()


def test_running_again_installs_nothing():
    if not (ROOT / ".venv" / "enough-environment").exists():
        pytest.skip("this environment was not made by pyfiles/house.py")
    done = subprocess.run(
        [sys.executable, ROOT / "pyfiles" / "house.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("environment ready in ")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _name(requirement):
    return re.split(r"[<>=!~\[ ;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_lower_bounds_in_pyproject_exact_versions_in_constraints(project):
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"not an exact version without a local suffix: {line}"
        pins[match[1].lower().replace("_", "-")] = match[2]
    assert pins["torch"] == "2.13.0"
    from packaging.requirements import Requirement

    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for text in (text for group in groups for text in group):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[_name(text)]), text
        operators = {s.operator for s in requirement.specifier}
        allowed = {">=", "<"} if _name(text) == "jupyter-book" else {">="}
        assert operators <= allowed, f"{text}: lower bounds only"
    assert "torch>=2.6" in project["dependencies"]
    assert "numpy>=1.26" in project["dependencies"]


def test_environment_yml_gives_the_same(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == project["name"]
    assert "python=3.11" in environment["dependencies"]
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[book,test]"]
    assert set(project["optional-dependencies"]) == {"book", "test"}


def test_the_repository_stands_in_one_place(project):
    address = project["urls"]["Repository"]
    pattern = re.compile(r"(?:git\+)?https://github\.com/(?!orgs)[\w.-]+/[\w.-]+")
    ours = ("README.md", "_config.yml", "chapters/cite.md", "chapters/troubleshooting.md")
    for name in ours:
        found = {m.removeprefix("git+") for m in pattern.findall((ROOT / name).read_text())}
        assert found == {address}, name
    for path in [*(ROOT / "pyfiles/chapters").rglob("*.py"), *(ROOT / "chapters").rglob("*.ipynb")]:
        (install,) = set(
            re.findall(r"how-much-is-enough @ git\+(https://\S+?)\\?\"", path.read_text())
        )
        assert install == address, path


def test_no_file_installs_the_foreign_package():
    words = ["pip", "install", "enough"]
    pattern = re.compile(r"pip3?\s+install\s+(-\S+\s+)*[\"']?" + words[2] + r"(?![\w-])")
    assert [p for p in _text_files() if pattern.search(p.read_text(encoding="utf-8"))] == []


def test_the_foreign_package_is_refused_in_one_sentence(tmp_path):
    info = tmp_path / "enough-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: enough\nVersion: 1.0\n")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "pyfiles"), str(tmp_path)])
    }
    done = subprocess.run(
        [sys.executable, "-c", "import enough"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: an unrelated PyPI project")


def test_actions_are_pinned_by_commit_with_least_permissions():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text()
        uses = re.findall(r"uses: (\S+)", text)
        assert uses
        assert [u for u in uses if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", u)] == []
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    assert "set -eo pipefail" in step["run"]


def test_the_data_folder_is_named_in_ci_only():
    word = "../" + "shared"
    assert [p.relative_to(ROOT).as_posix() for p in _text_files() if word in p.read_text()] == [
        ".ci/run"
    ]


def test_third_party_material_is_listed_with_its_license():
    assert "_extra/_static/mathjax/" in (ROOT / "THIRD_PARTY.md").read_text()
    assert "Apache License" in (ROOT / "_extra/_static/mathjax/LICENSE").read_text()
    assert "CC BY 4.0" in (ROOT / "LICENSE-text").read_text()
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_environments_inside_the_checkout_are_no_part_of_it():
    # Packages bring Markdown of their own, which the page build would take for chapters.
    sources = [ROOT / "Makefile", *(ROOT / "pyfiles").rglob("*.py")]
    named = {
        name
        for path in sources
        for name in re.findall(r"\.venv(?:-\w+)?", path.read_text(encoding="utf-8"))
    }
    assert named >= {".venv", ".venv-oracles", ".venv-kernels"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    excluded = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))[
        "exclude_patterns"
    ]
    assert named <= {name.rstrip("/") for name in ignored}
    assert named <= set(excluded)
