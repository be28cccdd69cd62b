"""Where a page comes from: the commit as git has it, versions, tables that code outgrew."""

import json
import os
import platform
import subprocess

import torch

from enough.book import provenance
from enough.runtime import recording

ROW = [{"n": 1, "risk": 0.5}]


def _git(folder, *arguments):
    named = {
        f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True, capture_output=True, text=True, env=os.environ | named,
    )  # fmt: skip
    return done.stdout.strip()


def test_the_commit_is_the_one_git_has(tmp_path, monkeypatch):
    monkeypatch.delenv("ENOUGH_COMMIT", raising=False)
    assert provenance.commit_of(tmp_path / "nowhere") == ("", False)
    _git(tmp_path, "init", "-q")
    assert provenance.commit_of(tmp_path) == ("", False)
    (tmp_path / "file").write_text("1")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-qm", "one")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit_of(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("2")
    assert provenance.commit_of(tmp_path) == (commit, True)
    monkeypatch.setenv("ENOUGH_COMMIT", "abc")
    assert provenance.commit_of(tmp_path) == ("abc", False)


def test_versions_are_those_of_the_execution_not_of_the_build(tmp_path):
    assert provenance.executed_versions(tmp_path) == {}
    provenance.write_versions(tmp_path)
    found = provenance.executed_versions(tmp_path)
    assert found == provenance.present_versions()
    assert found["Python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    path = tmp_path / provenance.VERSIONS_FILE
    path.write_text(json.dumps({**found, "torch": "2.6.0"}))
    assert provenance.executed_versions(tmp_path)["torch"] == "2.6.0"


def _record(root, preset, sources):
    recording.write_table(
        "part/one", ROW, preset=preset, device="cpu", seed=0, command="make record",
        seconds=1.0, sources=sources, commit="abc", root=root,
    )  # fmt: skip


def test_a_table_is_outdated_when_its_code_changed_or_is_gone(tmp_path):
    _record(tmp_path, "gpu", ["enough.plotting"])
    _record(tmp_path, "full", ["enough.plotting"])
    assert provenance.outdated_tables("part/one", tmp_path) == []
    path = tmp_path / "part" / "one" / "gpu-cpu.json"
    about = json.loads(path.read_text())
    about["sources"]["sha256"] = "0" * 64
    path.write_text(json.dumps(about))
    assert [t.preset for t in provenance.outdated_tables("part/one", tmp_path)] == ["gpu"]
    about["sources"]["modules"] = ["enough.no_such_room"]
    path.write_text(json.dumps(about))
    assert [t.preset for t in provenance.outdated_tables("part/one", tmp_path)] == ["gpu"]
    assert provenance.outdated_tables("part/two", tmp_path) == []
