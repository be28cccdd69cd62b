"""Finding and downloading: nothing unverified comes out, nothing broken stays."""

from __future__ import annotations

import gzip
import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import nbformat
import pytest
from data_helpers import checksum
from nbclient import NotebookClient

from enough.data import (
    ChecksumError,
    DataError,
    DataUnavailableError,
    UnknownChecksumError,
    available,
    load,
)

GOOD = b"x,y\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(2000))
SHORT = GOOD[: len(GOOD) // 2]
ALTERED = GOOD[:-2] + b"7\n"


@pytest.fixture
def table(site, sandbox, write_registry):
    """A registry of one table at one address."""
    file = {
        "filename": "squares.csv",
        "urls": [f"{site.address}/squares.csv"],
        "checksums": [checksum(GOOD)],
    }
    return write_registry(squares=("csv", [file], {}))


def files_under(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_download_then_cache(site, sandbox, table):
    site.answers["/squares.csv"] = [GOOD]
    assert not available("squares", registry=table)
    frame = load("squares", registry=table)
    assert frame.shape == (2000, 2)
    assert frame["y"].iloc[-1] == 1999**2
    assert files_under(sandbox) == ["squares", "squares/squares.csv"]
    assert available("squares", registry=table)
    load("squares", registry=table)
    load("squares", registry=table, download=False)
    assert site.hits["/squares.csv"] == 1


@pytest.mark.parametrize(
    ("body", "length"),
    [(ALTERED, None), (SHORT, None), (b"", None), (b"<html>moved</html>", None)],
    ids=["altered", "truncated", "empty", "another page"],
)
def test_wrong_file_is_refused_and_leaves_nothing(site, sandbox, table, body, length):
    site.answers["/squares.csv"] = [body]
    with pytest.raises(ChecksumError, match=r"squares\.csv") as caught:
        load("squares", registry=table)
    assert f"{site.address}/squares.csv" in str(caught.value)
    assert "ENOUGH_DATA" in str(caught.value)
    assert checksum(GOOD)["value"] in str(caught.value)
    assert files_under(sandbox) == ["squares"]
    assert site.hits["/squares.csv"] == 3


def test_broken_connection_leaves_nothing(site, sandbox, table):
    site.answers["/squares.csv"] = [{"body": SHORT, "length": len(GOOD)}]
    with pytest.raises(DataError, match=r"squares\.csv"):
        load("squares", registry=table)
    assert files_under(sandbox) == ["squares"]


@pytest.mark.parametrize(
    "first",
    [{"body": b"busy", "status": 503}, ALTERED, {"body": SHORT, "length": len(GOOD)}],
    ids=["server error", "altered", "connection lost"],
)
def test_a_flaky_server_is_tried_again(site, sandbox, table, first):
    site.answers["/squares.csv"] = [first, first, GOOD]
    assert len(load("squares", registry=table)) == 2000
    assert site.hits["/squares.csv"] == 3
    assert files_under(sandbox) == ["squares", "squares/squares.csv"]


def test_second_mirror(site, sandbox, write_registry):
    site.answers["/a"] = [{"body": b"", "status": 404}]
    site.answers["/b"] = [ALTERED]
    site.answers["/c"] = [GOOD]
    file = {
        "filename": "squares.csv",
        "urls": [f"{site.address}/{mirror}" for mirror in "abc"],
        "checksums": [checksum(GOOD)],
    }
    registry = write_registry(squares=("csv", [file], {}))
    assert len(load("squares", registry=registry)) == 2000
    site.answers["/c"] = [b""]
    (sandbox / "squares" / "squares.csv").unlink()
    with pytest.raises(ChecksumError, match=r"/a.*404.*/b.*/c"):
        load("squares", registry=registry)


def test_offline_and_absent(sandbox, write_registry):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/squares.csv"
    file = {"filename": "squares.csv", "urls": [url], "checksums": [checksum(GOOD)]}
    registry = write_registry(squares=("csv", [file], {}))
    with pytest.raises(DataUnavailableError) as caught:
        load("squares", registry=registry)
    for part in ("squares.csv", url, "ENOUGH_DATA", "unset", "ConnectionError"):
        assert part in str(caught.value)
    with pytest.raises(DataUnavailableError, match="switched off"):
        load("squares", registry=registry, download=False)


def test_unknown_checksum(site, sandbox, write_registry, tmp_path, monkeypatch):
    site.answers["/squares.csv"] = [GOOD]
    url = f"{site.address}/squares.csv"
    file = {"filename": "squares.csv", "urls": [url], "checksums": []}
    registry = write_registry(squares=("csv", [file], {}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "squares.csv").write_bytes(GOOD)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path / "mine"))
    for call in (load, available):
        with pytest.raises(UnknownChecksumError, match=r"squares\.csv") as caught:
            call("squares", registry=registry)
        assert url in str(caught.value)
        assert "ENOUGH_DATA" in str(caught.value)
    assert site.hits["/squares.csv"] == 0


def test_damaged_cache_is_replaced_or_removed(site, sandbox, table):
    cached = sandbox / "squares" / "squares.csv"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(SHORT)
    assert not available("squares", registry=table)
    site.answers["/squares.csv"] = [GOOD]
    assert len(load("squares", registry=table)) == 2000
    assert cached.read_bytes() == GOOD
    cached.write_bytes(ALTERED)
    with pytest.raises(DataUnavailableError):
        load("squares", registry=table, download=False)
    assert files_under(sandbox) == ["squares"]


def test_no_partial_file_under_the_final_name(site, sandbox, table):
    gate = threading.Event()
    site.answers["/squares.csv"] = [{"body": GOOD, "gate": gate}]
    frames = []
    worker = threading.Thread(target=lambda: frames.append(load("squares", registry=table)))
    worker.start()
    try:
        assert site.halfway.wait(30)
        assert not (sandbox / "squares" / "squares.csv").exists()
        assert not available("squares", registry=table)
    finally:
        gate.set()
        worker.join(30)
    assert len(frames[0]) == 2000
    assert files_under(sandbox) == ["squares", "squares/squares.csv"]


CHILD = (
    "import sys; from enough.data import load; print(len(load('squares', registry=sys.argv[1])))"
)


def start_child(table):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(table)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_killed_download_and_two_processes_at_once(site, sandbox, table):
    # Killed halfway: nothing under the final name.
    gate = threading.Event()
    site.answers["/squares.csv"] = [{"body": GOOD, "gate": gate}]
    child = start_child(table)
    try:
        assert site.halfway.wait(60)
        child.send_signal(signal.SIGKILL)
    finally:
        gate.set()
        child.wait(30)
    child.stdout.close()
    assert not (sandbox / "squares" / "squares.csv").exists()
    assert not available("squares", registry=table)

    # Two at once, both halfway before either may finish.
    site.hits.clear()
    together = threading.Barrier(2)

    class Meet:
        def wait(self, seconds):
            together.wait(2 * seconds)

    site.answers["/squares.csv"] = [{"body": GOOD, "gate": Meet()}]
    children = [start_child(table) for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert outputs == ["2000\n", "2000\n"]
    assert site.hits["/squares.csv"] == 2
    assert (sandbox / "squares" / "squares.csv").read_bytes() == GOOD


# Data folders.


def test_data_folders_come_first_and_are_searched_deep(site, sandbox, table, tmp_path, monkeypatch):
    deep = tmp_path / "two" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "squares.csv").write_bytes(GOOD)
    folders = [tmp_path / "missing", tmp_path / "two"]
    monkeypatch.setenv("ENOUGH_DATA", os.pathsep.join(map(str, folders)) + os.pathsep)
    assert available("squares", registry=table)
    assert len(load("squares", registry=table)) == 2000
    assert site.hits["/squares.csv"] == 0
    assert not sandbox.exists()


def test_links_are_followed_and_circles_are_not(site, sandbox, table, tmp_path, monkeypatch):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "disk" / "deep" / "squares.csv").write_bytes(GOOD)
    (tmp_path / "disk" / "deep" / "circle").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path / "mine"))
    assert available("squares", registry=table)


def test_data_folder_is_never_written_to(site, sandbox, table, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "other.txt").write_text("mine")
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        monkeypatch.setenv("ENOUGH_DATA", str(folder))
        site.answers["/squares.csv"] = [GOOD]
        before = folder.stat().st_mtime_ns
        load("squares", registry=table)
        assert files_under(folder) == ["other.txt"]
        assert folder.stat().st_mtime_ns == before
    finally:
        folder.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("body", [ALTERED, SHORT], ids=["altered", "truncated"])
def test_damaged_copy_in_a_data_folder(site, sandbox, table, tmp_path, monkeypatch, body):
    site.answers["/squares.csv"] = [GOOD]
    bad = tmp_path / "mine" / "squares.csv"
    bad.parent.mkdir()
    bad.write_bytes(body)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path / "mine"))
    for call in (load, available):
        with pytest.raises(ChecksumError) as caught:
            call("squares", registry=table)
        for part in (str(bad), f"{site.address}/squares.csv", "ENOUGH_DATA"):
            assert part in str(caught.value)
    assert bad.read_bytes() == body
    assert site.hits["/squares.csv"] == 0
    # A good copy elsewhere in the folders is enough.
    (tmp_path / "mine" / "z").mkdir()
    (tmp_path / "mine" / "z" / "squares.csv").write_bytes(GOOD)
    assert len(load("squares", registry=table)) == 2000


def test_common_name_with_another_content_is_passed_over(
    site, sandbox, write_registry, tmp_path, monkeypatch
):
    site.answers["/input.txt"] = [GOOD]
    file = {
        "filename": "input.txt",
        "generic": True,
        "aliases": ["lines.txt", "squares/input.txt"],
        "urls": [f"{site.address}/input.txt"],
        "checksums": [checksum(GOOD)],
    }
    registry = write_registry(squares=("csv", [file], {}))
    folder = tmp_path / "mine"
    (folder / "squares").mkdir(parents=True)
    (folder / "input.txt").write_bytes(b"to do: milk\n")
    monkeypatch.setenv("ENOUGH_DATA", str(folder))
    assert not available("squares", registry=registry)
    with pytest.raises(DataUnavailableError, match=r"not that file: .*input\.txt"):
        load("squares", registry=registry, download=False)
    assert len(load("squares", registry=registry)) == 2000
    # A telling name with another content is a damaged copy.
    (folder / "squares" / "input.txt").write_bytes(ALTERED)
    with pytest.raises(ChecksumError):
        load("squares", registry=registry)
    (folder / "lines.txt").write_bytes(GOOD)
    assert available("squares", registry=registry)


def test_copy_of_another_registered_file_is_no_damage(
    sandbox, write_registry, tmp_path, monkeypatch
):
    def file(content):
        return {
            "filename": "labels.csv",
            "urls": ["http://127.0.0.1:9/labels.csv"],
            "checksums": [checksum(content)],
        }

    registry = write_registry(one=("csv", [file(GOOD)], {}), two=("csv", [file(ALTERED)], {}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.csv").write_bytes(GOOD)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path / "mine"))
    assert available("one", registry=registry)
    assert not available("two", registry=registry)


def test_derived_file_is_found_only_in_a_data_folder(
    sandbox, write_registry, tmp_path, monkeypatch
):
    file = {"filename": "flat.csv", "made": "flattened by hand", "checksums": [checksum(GOOD)]}
    registry = write_registry(flat=("csv", [file], {}))
    with pytest.raises(DataUnavailableError, match="flattened by hand") as caught:
        load("flat", registry=registry)
    assert "ENOUGH_DATA" in str(caught.value)
    (tmp_path / "flat.csv").write_bytes(GOOD)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    assert len(load("flat", registry=registry)) == 2000


# Checksums of the file or of what its wrapper holds.


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: GOOD,
        lambda: gzip.compress(GOOD, 1, mtime=1),
        lambda: gzip.compress(GOOD, 9, mtime=2),
    ],
    ids=["plain", "fast", "small"],
)
def test_content_checksum_accepts_every_wrapper(
    sandbox, write_registry, tmp_path, monkeypatch, wrapped, algorithm
):
    file = {
        "filename": "squares.csv.gz",
        "aliases": ["squares.csv"],
        "made": "wrapped",
        "checksums": [
            checksum(b"another wrapper", "file", algorithm),
            checksum(GOOD, "content", algorithm),
        ],
    }
    registry = write_registry(squares=("csv", [file], {}))
    (tmp_path / "squares.csv").write_bytes(wrapped())
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    assert len(load("squares", registry=registry)) == 2000


def test_file_checksum_refuses_another_wrapper(sandbox, write_registry, tmp_path, monkeypatch):
    file = {"filename": "squares.csv", "made": "wrapped", "checksums": [checksum(GOOD, "file")]}
    registry = write_registry(squares=("csv", [file], {}))
    (tmp_path / "squares.csv").write_bytes(gzip.compress(GOOD))
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    with pytest.raises(ChecksumError):
        load("squares", registry=registry)


def test_cut_wrapper_is_refused(sandbox, write_registry, tmp_path, monkeypatch):
    file = {"filename": "squares.csv", "made": "wrapped", "checksums": [checksum(GOOD, "content")]}
    registry = write_registry(squares=("csv", [file], {}))
    (tmp_path / "squares.csv").write_bytes(gzip.compress(GOOD)[:-5])
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    with pytest.raises(ChecksumError):
        load("squares", registry=registry)


def test_cache_that_cannot_be_made(site, sandbox, table, tmp_path, monkeypatch):
    site.answers["/squares.csv"] = [GOOD]
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("ENOUGH_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(DataUnavailableError, match="set ENOUGH_CACHE"):
        load("squares", registry=table)


def test_default_cache_is_the_platform_folder(monkeypatch):
    pooch = pytest.importorskip("pooch")
    from enough.data.store import cache_folder

    monkeypatch.delenv("ENOUGH_CACHE", raising=False)
    assert cache_folder() == pooch.os_cache("how-much-is-enough")


def test_pooch_stays_silent(site, sandbox, table, capfd):
    site.answers["/squares.csv"] = [ALTERED, GOOD]
    load("squares", registry=table)
    assert capfd.readouterr() == ("", "")


def test_the_downloader_says_nothing_of_widgets_in_a_notebook():
    cell = nbformat.v4.new_code_cell("from enough.data import store\nstore.cache_folder().name")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    outputs = NotebookClient(notebook, timeout=120).execute().cells[0].outputs
    assert [output.output_type for output in outputs] == ["execute_result"]
