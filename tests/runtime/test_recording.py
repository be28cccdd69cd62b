"""Recorded tables: exact round trips, provenance, and what must never be written."""

import getpass
import hashlib
import json
import math
import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import enough
from enough import runtime
from enough.runtime import recording
from enough.runtime.recording import RecordingError, fingerprint, read_tables, write_table

CHAPTER = "part/chapter"
FACTS = {
    "preset": "full",
    "device": "cpu",
    "seed": 3,
    "command": "enough run part/chapter --preset full",
    "seconds": 12.5,
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ENOUGH_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def table():
    return pd.DataFrame({"width": [1, 2, 3], "loss": [0.1, math.nan, -math.inf]})


def test_a_table_comes_back_exactly(root):
    random = np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64).view(float)
    n = len(random)
    table = pd.DataFrame(
        {
            "bits": random,
            "single": np.linspace(0, 1, n, dtype=np.float32),
            "count": np.arange(n, dtype=np.int64) - 2**62,
            "small": np.arange(n, dtype=np.uint8),
            "flag": np.arange(n) % 2 == 0,
            "word": ["", "nan", 'a "quoted", word', "naïve", " spaces "] * (n // 5),
            "lines": ["a\nb", "c\r\nd", "e", "f", "g"] * (n // 5),
            "mixed": [None, 1, 1.5, "x", [1.0, {"a": math.inf}]] * (n // 5),
            "maybe": pd.Series([None, 1.5, None, 2.5, 3.5] * (n // 5), dtype=object),
            "huge": [10**30] * n,
        }
    )
    path = write_table(CHAPTER, table, **FACTS)
    assert path == root / "part" / "chapter" / "full-cpu.csv"
    (recorded,) = read_tables(CHAPTER)
    back = recorded.table
    assert list(back.columns) == list(table.columns)
    for name in ("bits", "single", "count", "small"):
        np.testing.assert_array_equal(
            back[name].to_numpy(),
            table[name].to_numpy(float if name in ("bits", "single") else int),
        )
    assert back["single"].dtype == np.float64
    assert back["flag"].dtype == bool
    for name in ("flag", "word", "lines", "mixed", "maybe", "huge"):
        assert back[name].tolist() == table[name].tolist()


def test_any_other_program_reads_the_file(root, table):
    path = write_table(CHAPTER, table, **FACTS)
    assert path.read_text() == "width,loss\n1,0.1\n2,nan\n3,-inf\n"
    pd.testing.assert_frame_equal(pd.read_csv(path), table)


def test_dicts_make_a_table_and_the_index_is_not_kept(table):
    write_table(CHAPTER, [{"a": 1, "b": torch.tensor(0.5)}, {"a": 2, "b": 1}], **FACTS)
    assert read_tables(CHAPTER)[0].table.to_dict("list") == {"a": [1, 2], "b": [0.5, 1]}
    write_table(CHAPTER, table.set_index(pd.Index([7, 8, 9])), **FACTS)
    assert read_tables(CHAPTER)[0].table.index.tolist() == [0, 1, 2]


def test_a_table_without_rows_keeps_its_columns():
    write_table(CHAPTER, pd.DataFrame({"a": [], "b": []}), **FACTS)
    assert list(read_tables(CHAPTER)[0].table.columns) == ["a", "b"]


def test_the_provenance_says_where_a_table_came_from(root, table):
    path = write_table(CHAPTER, table, **FACTS, sources=["enough.runtime", "enough.data"])
    provenance = json.loads(path.with_suffix(".json").read_text())
    assert provenance["preset"] == "full"
    assert provenance["device"] == "cpu"
    assert provenance["device_name"]
    assert provenance["driver"] is None
    assert provenance["seed"] == 3
    assert provenance["command"] == FACTS["command"]
    assert provenance["seconds"] == 12.5
    age = datetime.now(UTC) - datetime.fromisoformat(provenance["date"])
    assert 0 <= age.total_seconds() < 60
    assert set(provenance["versions"]) == {"python", "torch", "numpy", "enough"}
    assert provenance["versions"]["enough"] == enough.__version__
    assert provenance["sources"]["modules"] == ["enough.data", "enough.runtime"]
    assert provenance["sources"]["sha256"] == fingerprint(["enough.runtime", "enough.data"])
    assert provenance["rows"] == 3
    assert provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    (recorded,) = read_tables(CHAPTER)
    assert recorded.provenance == provenance
    assert (recorded.preset, recorded.device) == ("full", "cpu")


def test_a_gpu_names_the_file_and_its_driver(root, table, monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(recording, "resolve_device", lambda device: gpu)
    monkeypatch.setattr(recording, "device_name", lambda device: "cuda:0 (NVIDIA A100-SXM4-80GB)")
    monkeypatch.setattr(
        recording, "_ask", lambda *command: "570.1\n570.1" if "nvidia-smi" in command else None
    )
    path = write_table(CHAPTER, table, **{**FACTS, "device": gpu})
    assert path.name == "full-a100-sxm4-80gb.csv"
    (recorded,) = read_tables(CHAPTER)
    assert recorded.provenance["driver"] == "570.1"
    assert recorded.provenance["device_name"] == "NVIDIA A100-SXM4-80GB"
    assert "cuda" in recorded.provenance["versions"]


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("NVIDIA H200", "h200"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA", "cuda"),
    ],
)
def test_short_names_of_devices(model, label):
    assert recording._short_name(model) == label


def test_presets_lie_side_by_side_and_a_second_run_replaces_the_first(root, table):
    for preset in ("full", "cpu-long", "full"):
        write_table(CHAPTER, table, **{**FACTS, "preset": preset, "label": "box"})
    assert sorted(p.name for p in (root / CHAPTER).iterdir()) == [
        "cpu-long-box.csv",
        "cpu-long-box.json",
        "full-box.csv",
        "full-box.json",
    ]
    assert [(r.preset, r.device) for r in read_tables(CHAPTER)] == [
        ("cpu-long", "box"),
        ("full", "box"),
    ]


def test_absent_tables_are_an_empty_list(root, monkeypatch):
    assert read_tables(CHAPTER) == []
    (root / CHAPTER).mkdir(parents=True)
    assert read_tables(CHAPTER) == []
    monkeypatch.delenv("ENOUGH_RESULTS")
    monkeypatch.setattr(recording, "_checkout", lambda: None)
    assert recording.results_folder() is None
    assert read_tables(CHAPTER) == []
    with pytest.raises(ValueError, match="root: expected a folder, or ENOUGH_RESULTS"):
        write_table(CHAPTER, [{"a": 1}], **FACTS)


def test_the_folder_is_found_in_the_checkout(monkeypatch):
    monkeypatch.delenv("ENOUGH_RESULTS")
    checkout = Path(__file__).resolve().parents[2]
    assert recording.results_folder() == checkout / "results"


def test_another_project_around_the_package_is_not_its_checkout(tmp_path, monkeypatch):
    package = tmp_path / "lib" / "enough"
    package.mkdir(parents=True)
    monkeypatch.setattr(enough, "__file__", str(package / "__init__.py"))
    assert recording._checkout() is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert recording._checkout() is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "how-much-is-enough"\n')
    assert recording._checkout() == tmp_path.resolve()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = (tmp_path / "repository").resolve()
    folder.mkdir()

    def git(*words):
        author = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", "-C", str(folder), *author, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (folder / "code.py").write_text("x = 1\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    monkeypatch.setattr(recording, "_checkout", lambda: folder)
    return folder, git


def test_the_commit_is_written_and_whether_it_is_dirty(repository, table):
    folder, git = repository
    head = git("rev-parse", "HEAD")

    def recorded():
        write_table(CHAPTER, table, **FACTS, root=folder / "results")
        (one,) = read_tables(CHAPTER, root=folder / "results")
        return one.provenance["commit"], one.provenance["dirty"]

    assert recorded() == (head, False)
    assert recorded() == (head, False)  # the recorded table itself does not count
    (folder / "code.py").write_text("x = 2\n")
    assert recorded() == (head, True)
    git("commit", "-qam", "second")
    assert recorded() == (git("rev-parse", "HEAD"), False)
    (folder / "new.py").write_text("y = 1\n")
    assert recorded()[1] is True


def test_a_commit_can_be_given_and_none_is_invented(repository, table, monkeypatch):
    folder, _ = repository
    write_table(CHAPTER, table, **FACTS, commit="0123abc")
    provenance = read_tables(CHAPTER)[0].provenance
    assert (provenance["commit"], provenance["dirty"]) == ("0123abc", None)
    inside = folder / "part"
    inside.mkdir()
    for place in (inside, folder.parent, None):
        monkeypatch.setattr(recording, "_checkout", lambda place=place: place)
        assert recording._commit() == (None, None)
    monkeypatch.setattr(recording, "_checkout", lambda: folder)
    monkeypatch.setenv("PATH", "")
    assert recording._commit() == (None, None)


def test_the_fingerprint_follows_the_sources_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "enough"
    for name in ("__init__", "topic/__init__", "topic/core", "other"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_bytes(f"# {name}\n".encode())
    monkeypatch.setattr(enough, "__file__", str(package / "__init__.py"))
    first = fingerprint(["enough.topic"])
    assert first == fingerprint(["enough.topic", "enough.topic.core"])
    assert first != fingerprint(["enough"]) != fingerprint(["enough.other"])
    (package / "other.py").write_text("changed")
    (package / "topic" / "notes.txt").write_text("not code")
    assert fingerprint(["enough.topic"]) == first
    (package / "topic" / "core.py").write_bytes(b"# topic/core\r\n")
    assert fingerprint(["enough.topic"]) == first
    (package / "topic" / "core.py").write_bytes(b"# topic/core \n")
    assert fingerprint(["enough.topic"]) != first
    (package / "topic" / "core.py").rename(package / "topic" / "kern.py")
    (package / "topic" / "kern.py").write_bytes(b"# topic/core\n")
    assert fingerprint(["enough.topic"]) != first
    for wrong in ("enough.absent", "numpy", "topic"):
        with pytest.raises(ValueError, match=f"modules: expected modules of enough, got '{wrong}'"):
            fingerprint([wrong])


def edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def damage_provenance(path, **changes):
    provenance = json.loads(path.read_text())
    for name, value in changes.items():
        if value is ...:
            del provenance[name]
        else:
            provenance[name] = value
    path.write_text(json.dumps(provenance))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c, j: edit(c, "0.1", "0.2"), r"full-cpu\.csv: was altered .* expected SHA-256"),
        (lambda c, j: c.write_bytes(c.read_bytes()[:-3]), r"full-cpu\.csv: was altered"),
        (lambda c, j: c.unlink(), r"full-cpu\.csv: cannot be read"),
        (lambda c, j: j.unlink(), r"full-cpu\.csv: has no provenance"),
        (lambda c, j: j.write_text("{"), r"full-cpu\.json: not JSON"),
        (lambda c, j: j.write_bytes(b"\xff"), r"full-cpu\.json: not JSON"),
        (lambda c, j: j.write_text("[]"), "expected an object, got list"),
        (lambda c, j: damage_provenance(j, format=9), "expected format 1, got 9"),
        (lambda c, j: damage_provenance(j, seed=...), "expected 'seed', which is missing"),
        (lambda c, j: damage_provenance(j, seed="3"), "'seed' cannot be '3'"),
        (lambda c, j: damage_provenance(j, seed=True), "'seed' cannot be True"),
        (lambda c, j: damage_provenance(j, preset="gpu"), "does not fit the file's name"),
        (lambda c, j: damage_provenance(j, rows=4), "does not fit its provenance .3 rows, not 4"),
        (
            lambda c, j: damage_provenance(j, columns={"width": "int", "loss": "int"}),
            "does not fit its provenance .invalid literal",
        ),
        (
            lambda c, j: damage_provenance(j, columns={"width": "int", "loss": "code"}),
            "does not fit its provenance .'code'",
        ),
        (
            lambda c, j: damage_provenance(j, columns={"width": "int"}),
            r"does not fit its provenance .its columns are \['width', 'loss'\]",
        ),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused_by_name(table, damage, message):
    path = write_table(CHAPTER, table, **FACTS)
    damage(path, path.with_suffix(".json"))
    with pytest.raises(RecordingError, match=message) as caught:
        read_tables(CHAPTER)
    assert str(caught.value).startswith("part/chapter/full-cpu.")


def test_other_line_ends_are_the_same_table(table):
    path = write_table(CHAPTER, table, **FACTS)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(read_tables(CHAPTER)[0].table, table)


def test_a_write_that_fails_leaves_the_old_table(root, table, monkeypatch):
    write_table(CHAPTER, table, **FACTS)

    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_table(CHAPTER, table * 2, **FACTS)
    assert len(list((root / CHAPTER).iterdir())) == 2
    pd.testing.assert_frame_equal(read_tables(CHAPTER)[0].table, table)


@pytest.mark.parametrize(
    "text",
    [
        "python /opt/book/run.py",
        "run --out=/data",
        "run '/srv/x y'",
        "copy box:/data/x",
        "~/book/run.py",
        r"run C:\book\run.py",
        "C:/book/run.py",
        "file://x",
    ],
)
def test_absolute_paths_are_never_written(root, table, text):
    with pytest.raises(ValueError, match="provenance: command: expected no absolute path"):
        write_table(CHAPTER, table, **{**FACTS, "command": text})
    with pytest.raises(ValueError, match="table: expected no absolute path"):
        write_table(CHAPTER, table.assign(note=text), **FACTS)
    assert not root.exists()


def test_names_of_the_machine_are_never_written(root, table, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "zeus-7.example.org")
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    for text, owner in [
        ("ssh zeus-7 run", "host"),
        ("ssh ZEUS-7.example.org run", "host"),
        ("run --as alice_2", "user"),
    ]:
        with pytest.raises(ValueError, match=f"command: expected no name of the {owner}"):
            write_table(CHAPTER, table, **{**FACTS, "command": text})
        with pytest.raises(ValueError, match=f"table: expected no name of the {owner}"):
            write_table(CHAPTER, table.assign(note=text), **FACTS)
    assert not root.exists()
    write_table(CHAPTER, table, **{**FACTS, "command": "run zeus-70 malice"})


def test_common_names_and_harmless_slashes_are_allowed(table, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    table = table.assign(
        note="and/or 1/2 a / b https://example.org/x/y (p)/q ./run ../run root", tex=r"\alpha: \b"
    )
    command = ["enough", "run", "part/chapter", "two words", "--ratio=1/2"]
    write_table(CHAPTER, table, **{**FACTS, "command": command})
    (recorded,) = read_tables(CHAPTER)
    assert recorded.provenance["command"] == "enough run part/chapter 'two words' --ratio=1/2"
    assert recorded.table["tex"][0] == r"\alpha: \b"


def test_this_machine_leaves_no_name_of_its_own(root, table):
    path = write_table(CHAPTER, table, **FACTS)
    text = path.read_text() + path.with_suffix(".json").read_text()
    for _, name in recording._names_of_this_machine():
        assert name not in text
    for secret in (str(Path.home()), str(root), str(Path(enough.__file__).parent)):
        assert secret == "/" or secret not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "Full"}, "preset: expected lower-case letters"),
        ({"preset": "a/b"}, "preset: expected lower-case letters"),
        ({"label": "H 200"}, "label: expected lower-case letters"),
        ({"seed": -1}, "seed: expected a number >= 0"),
        ({"seconds": math.nan}, "seconds: expected a finite number"),
        ({"device": "toaster"}, "device: expected one of cpu"),
        ({"sources": ["numpy"]}, "modules: expected modules of enough"),
    ],
)
def test_wrong_facts_are_refused_by_name(table, changes, message):
    with pytest.raises(ValueError, match=message):
        write_table(CHAPTER, table, **{**FACTS, **changes})


@pytest.mark.parametrize("chapter", ["chapter", "../x/y", "/part/chapter", "part//chapter", 3])
def test_wrong_chapters_are_refused(table, chapter):
    with pytest.raises(ValueError, match="chapter: expected 'part/chapter', got"):
        write_table(chapter, table, **FACTS)
    with pytest.raises(ValueError, match="chapter: expected 'part/chapter', got"):
        read_tables(chapter)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame(), "expected columns with different names"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "expected columns with different names"),
        (pd.DataFrame([[1, 2]]), "expected columns with different names"),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), r"column 'a'\[0\]: expected numbers"),
        (pd.DataFrame({"a": [1j]}), r"column 'a'\[0\]: expected numbers"),
        (pd.DataFrame({"a": [[0.1] * 40_000]}), "column 'a': expected cells of at most 131072"),
    ],
)
def test_tables_that_cannot_be_kept_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        write_table(CHAPTER, table, **FACTS)


def test_a_run_is_kept_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("ENOUGH_RESULTS", str(tmp_path))
    monkeypatch.delenv("ENOUGH_RECORD", raising=False)
    run = runtime.start(seed=3, preset="full", device="cpu")
    rows = [{"x": 0.1}, {"x": 0.2}]
    assert recording.record(run, "part/name", rows) is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ENOUGH_RECORD", "1")
    monkeypatch.setenv("ENOUGH_COMMIT", "0" * 40)
    path = recording.record(run, "part/name", rows)
    assert path == tmp_path / "part" / "name" / "full-cpu.csv"
    (kept,) = recording.read_tables("part/name")
    assert kept.table["x"].tolist() == [0.1, 0.2]
    assert kept.provenance["seed"] == run.seed
    assert kept.provenance["commit"] == "0" * 40
    assert 0 <= kept.provenance["seconds"] < 60
    assert kept.provenance["command"] == "make record NAME=part/name PRESET=full"
    core = ["enough.data", "enough.kernels", "enough.models", "enough.training"]
    assert kept.provenance["sources"]["modules"] == core  # "part" is no topic of the package
    recording.record(run, "scaling/name", rows)
    (kept,) = recording.read_tables("scaling/name")
    assert kept.provenance["sources"]["modules"] == sorted([*core, "enough.scaling"])
