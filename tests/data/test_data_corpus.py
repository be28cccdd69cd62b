"""Text corpora: the same bytes everywhere, and no byte on both sides."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from enough.data import DataUnavailableError, TextCorpus, blocks, text, windows


@pytest.fixture(scope="module")
def library():
    return text()


def as_bytes(tensor):
    return tensor.numpy().tobytes()


# Python's library.


def test_library_is_python_source(library):
    assert 200 < len(library.files) < 800
    assert 4e6 < library.n_bytes < 20e6
    assert library.train.dtype == torch.uint8
    assert "os.py" in library.files
    assert "json/decoder.py" in library.files
    assert all(name.endswith(".py") for name in library.files)
    skipped = ("test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "encodings")
    for name in library.files:
        assert not set(name.split("/")[:-1]) & set(skipped), name
        assert not name.startswith(("_sysconfigdata", "sitecustomize", "config-")), name


def test_library_parts_are_disjoint_by_file_and_complete(library):
    root = Path(sysconfig.get_path("stdlib"))
    held_out = set(library.validation_files)
    assert held_out < set(library.files)
    assert list(library.files) == sorted(library.files)
    for part, names in (
        (library.train, [n for n in library.files if n not in held_out]),
        (library.validation, library.validation_files),
    ):
        joined = b"".join((root / name).read_bytes() for name in names)
        assert as_bytes(part) == joined.replace(b"\r\n", b"\n")
    assert 0.03 < len(library.validation) / library.n_bytes < 0.2


def test_library_assignment_follows_the_documented_rule(library):
    for name in library.files:
        digest = hashlib.sha256(name.encode()).hexdigest()
        assert (name in library.validation_files) == (int(digest[:16], 16) / 2**64 < 0.1)


def test_library_does_not_depend_on_locale_folder_or_hash_seed(library, tmp_path):
    assert text().sha256 == library.sha256
    code = "from enough.data import text; c = text(); print(c.sha256, c.n_bytes, len(c.files))"
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "LANG": "tr_TR.ISO-8859-9",
        "PYTHONUTF8": "0",
        "PYTHONHASHSEED": "123",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [library.sha256, str(library.n_bytes), str(len(library.files))]


def test_order_of_the_file_system_does_not_matter(library, monkeypatch):
    original = os.walk

    def backwards(top, **options):
        for root, folders, files in original(top, **options):
            folders.reverse()
            yield root, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert text().sha256 == library.sha256


def test_library_without_source(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    with pytest.raises(DataUnavailableError, match=r"source of Python's library in .*python\.zip"):
        text()


def test_report(library):
    report = library.report()
    assert "\n" not in report
    for part in (str(len(library.files)), library.sha256, f"{library.n_bytes / 1e6:.2f} MB"):
        assert part in report
    assert report in repr(library)


# Folders.


@pytest.fixture
def folder(tmp_path):
    for i in range(40):
        path = tmp_path / f"part{i % 3}" / f"note{i:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(f"This is note {i}.\nIt ends here.".encode())
    return tmp_path


def test_folder(folder):
    corpus = text(folder, validation=0.3)
    assert len(corpus.files) == 40
    assert corpus.name == folder.name
    held_out = b"".join((folder / name).read_bytes() + b"\n" for name in corpus.validation_files)
    assert as_bytes(corpus.validation) == held_out
    assert corpus.n_bytes == sum((folder / name).stat().st_size + 1 for name in corpus.files)


def test_folder_skips_what_is_hidden_empty_foreign_or_linked(folder):
    before = text(folder, validation=0.3)
    for name in (".hidden.txt", "picture.png", "empty.txt", ".git/config.txt", "__pycache__/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"" if name == "empty.txt" else b"something\n")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    assert text(folder, validation=0.3).sha256 == before.sha256
    assert "picture.png" in text(folder, validation=0.3, suffixes=[".txt", ".png"]).files


def test_a_file_stays_on_its_side_when_the_folder_grows(folder):
    before = text(folder, validation=0.3)
    (folder / "another.txt").write_bytes(b"new\n")
    after = text(folder, validation=0.3)
    assert set(after.validation_files) - {"another.txt"} == set(before.validation_files)
    assert after.sha256 != before.sha256


def test_checksum_sees_names_and_bytes(folder):
    before = text(folder, validation=0.3)
    moved = folder / before.files[0]
    moved.rename(moved.with_name("renamed.txt"))
    assert text(folder, validation=0.3).sha256 != before.sha256
    moved.with_name("renamed.txt").rename(moved)
    assert text(folder, validation=0.3).sha256 == before.sha256
    moved.write_bytes(moved.read_bytes().replace(b"note", b"nota"))
    assert text(folder, validation=0.3).sha256 != before.sha256


def test_line_ends_of_windows_give_the_same_corpus(folder):
    before = text(folder, validation=0.3)
    for path in folder.rglob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert text(folder, validation=0.3).sha256 == before.sha256


def test_names_outside_ascii_and_outside_unicode(folder):
    (folder / "naïve.txt").write_bytes(b"a\n")
    odd = os.fsencode(folder) + b"/odd\xff.txt"
    try:
        with open(odd, "wb") as stream:
            stream.write(b"b\n")
    except OSError:
        pytest.skip("this file system takes no names that are not Unicode")
    assert len(text(folder, validation=0.3).files) == 42


# Files.


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_file_is_cut_at_a_line_end(tmp_path, share):
    content = b"".join(b"line %d\r\n" % i for i in range(500))
    path = tmp_path / "lines.txt"
    path.write_bytes(content)
    corpus = text(str(path), validation=share)
    train, validation = as_bytes(corpus.train), as_bytes(corpus.validation)
    assert train + validation == content  # byte for byte, in order
    assert train.endswith(b"\n")
    position = int((1 - share) * len(content))
    assert position <= len(train) < position + len(b"line 499\r\n")
    assert b"\n" not in content[position : len(train) - 1]
    assert corpus.files == ("lines.txt",)
    assert corpus.validation_files == ()
    assert corpus.sha256 == hashlib.sha256(content).hexdigest()


def test_file_without_line_ends(tmp_path):
    path = tmp_path / "one.txt"
    path.write_bytes(bytes(range(200)).replace(b"\n", b" "))
    assert len(text(path, validation=0.25).train) == 150
    path.write_bytes(b"x" * 99 + b"\n")  # the only line end is the last byte
    assert len(text(path, validation=0.25).train) == 75


@pytest.mark.parametrize("content", [b"", b"a"], ids=["empty", "one byte"])
def test_file_too_short(tmp_path, content):
    path = tmp_path / "short.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="long enough to cut in two"):
        text(path, validation=0.5)


def test_smallest_share_still_holds_a_byte_out(tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(b"abc")
    assert as_bytes(text(path, validation=0.0001).validation) == b"c"


def test_bad_sources(tmp_path):
    with pytest.raises(DataUnavailableError, match="'stdlib', a folder or a file"):
        text(tmp_path / "nothing")
    with pytest.raises(ValueError, match="found none"):
        text(tmp_path)
    (tmp_path / "a.txt").write_text("alone\n")
    with pytest.raises(ValueError, match="a file on each side"):
        text(tmp_path)
    for share in (0.0, 1.0, -1, "half"):
        with pytest.raises(ValueError, match=r"^validation: expected"):
            text(validation=share)


# Windows and blocks.


def test_windows_are_consecutive_and_cover_every_start():
    tokens = torch.arange(100, 120, dtype=torch.uint8)
    drawn = windows(tokens, 4000, 7, generator=0)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (4000, 8)
    assert (drawn.diff() == 1).all()
    starts = drawn[:, 0] - 100
    # 13 starts, 0 … 12, each 308 ± 17 times.
    counts = np.bincount(starts, minlength=13)
    assert len(counts) == 13
    assert np.abs(counts - 4000 / 13).max() < 5 * np.sqrt(4000 / 13)
    assert torch.equal(drawn, windows(tokens, 4000, 7, generator=0))
    assert windows(tokens, 3, 19, generator=1).tolist() == [list(range(100, 120))] * 3
    assert torch.equal(windows(tokens.numpy(), 5, 7, 3), windows(tokens, 5, 7, 3))


@pytest.mark.parametrize(("n", "length"), [(21, 5), (22, 5), (6, 5), (25, 5), (26, 5)])
def test_blocks_predict_every_token_once(n, length):
    tokens = torch.arange(n)
    cut = blocks(tokens, length)
    assert cut.shape == ((n - 1) // length, length + 1)
    assert cut[:, 1:].flatten().tolist() == list(range(1, 1 + length * len(cut)))
    assert torch.equal(cut[:, :-1] + 1, cut[:, 1:])


def test_corpus_samples_its_parts():
    corpus = TextCorpus(
        name="toy",
        train=torch.zeros(50, dtype=torch.uint8),
        validation=torch.ones(30, dtype=torch.uint8),
        files=("a", "b"),
        validation_files=("b",),
        sha256="",
    )
    assert corpus.windows(5, 4, generator=0).sum() == 0
    assert corpus.windows(5, 4, generator=0, split="validation").sum() == 25
    assert corpus.blocks(4).shape == (7, 5)
    assert corpus.blocks(4).min() == 1
    assert corpus.blocks(4, split="train").max() == 0
    for method in (corpus.windows, corpus.blocks):
        with pytest.raises(ValueError, match=r"^split: expected"):
            method(2, *([3] if method == corpus.windows else []), split="test")


@pytest.mark.parametrize(
    ("tokens", "length", "name"),
    [
        (torch.zeros(5, dtype=torch.uint8), 5, "tokens"),
        (torch.zeros(5), 2, "tokens"),
        (torch.zeros(5, 5, dtype=torch.int64), 2, "tokens"),
        (torch.zeros(5, dtype=torch.int64), 0, "length"),
    ],
)
def test_windows_and_blocks_refuse(tokens, length, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        windows(tokens, 1, length)
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        blocks(tokens, length)
