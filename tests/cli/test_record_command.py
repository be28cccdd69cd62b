"""``enough record``: all chapters in one command, at a tiny size on the CPU."""

from __future__ import annotations

import json

import pytest
import torch

from enough.cli import commands, main, records

CHAPTER = """# %%
import os
from enough import runtime
from enough.runtime import recording

run = runtime.start(seed=3)
dial = run.pick(cpu=dict(rows=2), gpu=dict(rows=5), full=dict(rows=9))
with open(os.environ["RUNS"], "a") as file:
    file.write("NAME ")
rows = [{"x": i, "y": 0.1 * i} for i in range(dial.rows)]
"""
RECORD = 'recording.record(run, "part/NAME", rows)\n'


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book whose chapters ``one`` and ``two`` record, ``mute`` does not, ``wrong`` breaks."""
    twins = tmp_path / "pyfiles" / "chapters" / "part"
    twins.mkdir(parents=True)
    for name, last in {"one": RECORD, "two": RECORD, "mute": "", "wrong": "1 / 0\n"}.items():
        (twins / f"{name}.py").write_text((CHAPTER + last).replace("NAME", name))
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tmp_path / "chapters").mkdir()
    monkeypatch.setenv("ENOUGH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs(book):
    return (book / "runs").read_text().split()


def test_one_command_records_every_chapter_and_goes_on_after_failures(book, capfd):
    assert main(["record", "--preset", "cpu"]) == 1
    said = capfd.readouterr()
    assert "2 of 4 runs failed: part/mute (cpu), part/wrong (cpu)" in said.err
    assert "part/mute: it ran and wrote no table" in said.err
    assert sorted(runs(book)) == ["mute", "one", "two", "wrong"]
    for name in ("one", "two"):
        table = book / "results" / "part" / name / "cpu-cpu.csv"
        assert table.read_text() == "x,y\n0,0.0\n1,0.1\n"
        kept = json.loads(table.with_suffix(".json").read_text())
        assert (kept["seed"], kept["rows"], kept["preset"]) == (3, 2, "cpu")
        assert kept["command"] == f"make record NAME=part/{name} PRESET=cpu"

    # What is there for this code and device is not run again, unless asked or outdated.
    (book / "runs").unlink()
    assert main(["record", "part/one", "--preset", "cpu"]) == 0
    assert "in step: part/one, cpu" in capfd.readouterr().out
    assert not (book / "runs").exists()
    kept = book / "results" / "part" / "two" / "cpu-cpu.json"
    kept.write_text(
        kept.read_text().replace(json.loads(kept.read_text())["sources"]["sha256"], "0")
    )
    assert main(["record", "part/two", "--preset", "cpu"]) == 0
    assert main(["record", "part/one", "--preset", "cpu", "--again"]) == 0
    assert runs(book) == ["two", "one"]


def test_a_table_of_another_device_does_not_count(book, monkeypatch):
    assert not records.is_recorded("part/one", "cpu", "cpu")
    monkeypatch.setenv("ENOUGH_RECORD", "1")
    from enough.runtime import recording

    recording.write_table(
        "part/one", [{"x": 1}], preset="gpu", device="cpu", seed=0, command="make record", seconds=1
    )
    assert records.is_recorded("part/one", "gpu", "cpu")
    assert not records.is_recorded("part/one", "full", "cpu")
    monkeypatch.setattr(records, "device_name", lambda device: "cuda (another card)")
    assert not records.is_recorded("part/one", "gpu", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_large_presets_are_refused_without_an_accelerator(book, capfd):
    assert main(["record"]) == 1
    said = capfd.readouterr().err
    assert "gpu and full expect an accelerator, and none was found" in said
    assert "--device cpu" in said
    assert records.accelerator_for(["full"], "cpu") == "cpu"
    assert records.accelerator_for(["cpu"], None) == "cpu"


def test_an_unknown_chapter_is_named(book):
    with pytest.raises(
        commands.CommandError, match=r"expected one of .*part/one.*got 'part/three'"
    ):
        commands.record(book, commands.Namespace(name="part/three"))
