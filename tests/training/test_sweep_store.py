"""The store itself: damage, foreign files, missing rights, and who owns a point."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import pytest

from enough.training import sweep_store
from enough.training.sweep import Sweep, SweepStoreError
from enough.training.sweep_store import Outcome, SweepStore, decode, encode

DONE = Outcome("done", '{"y":1}', None, None, 0.5)
FAILED = Outcome("failed", None, "ValueError: no", "a traceback", 0.5)


def wordy(x):
    return {"text": f"point {x} " * 40}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    reopen(path).run()
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, content):
    path = tmp_path / "sweep.sqlite"
    path.write_bytes(content)
    return path


def reopen(path, size=100):
    return Sweep(wordy, {"x": range(size)}, path)


def assert_refused(path, message):
    before = path.read_bytes()
    with pytest.raises(SweepStoreError, match=message) as caught:
        reopen(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 1, 50, 99, 100, 511, 512, 4096, 4097, 0.25, 0.5, 0.9, 0.999])
def test_a_truncated_store_is_reported_and_left_alone(path, content, keep):
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    assert_refused(path, "damaged|not a sweep store")


def test_garbage_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "s"
    for content in (b"\x00" * 5000, b"not a database " * 500, bytes(range(256)) * 20, b"\n"):
        path.write_bytes(content)
        assert_refused(path, "not a sweep store")


def test_an_altered_row_is_reported_wherever_it_is(path, content):
    """Text within a row has no checksum of SQLite's own."""
    for needle in (b"point 0 point", b"point 57 point", b'{"x":31}'):
        where = content.index(needle)
        path.write_bytes(content[:where] + b"P" + content[where + 1 :])
        assert_refused(path, "damaged")


def test_any_overwritten_page_is_reported(path, content):
    page = int.from_bytes(content[16:18], "big")
    assert len(content) > 8 * page
    for start in range(page, len(content), page):
        path.write_bytes(content[:start] + os.urandom(page) + content[start + page :])
        assert_refused(path, "damaged")


def test_a_damaged_header_is_reported(path, content):
    """The list of free pages is no part of any row."""
    path.write_bytes(content[:32] + bytes([0, 0, 0, 3, 0, 0, 0, 1]) + content[40:])
    assert_refused(path, "damaged: ")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("PRAGMA application_id = 7", "not a sweep store"),
        ("PRAGMA user_version = 99", "expected schema version 1, got 99"),
        ("DROP TABLE claims", "expected the tables .* got identity, owners, points"),
        ("ALTER TABLE points ADD COLUMN more TEXT", "missing, altered or foreign"),
        ("CREATE TABLE guests (name)", "foreign"),
        ("DELETE FROM identity", "belongs to the sweep of None"),
        ("UPDATE points SET seconds = seconds + 1 WHERE key LIKE '%57%'", 'point {"x":57} was'),
        ("UPDATE points SET status = 'failed' WHERE key LIKE '%57%'", 'point {"x":57} was'),
        ("UPDATE points SET result = NULL WHERE key LIKE '%57%'", 'point {"x":57} was'),
        ("UPDATE points SET key = '{\"x\":100}' WHERE key LIKE '%57%'", 'point {"x":100} was'),
    ],
)
def test_a_wrong_schema_or_an_edited_row_is_reported(path, statement, message):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert_refused(path, message)


def test_a_foreign_database_is_reported(tmp_path):
    path = tmp_path / "s"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE guests (name)")
    connection.commit()
    connection.close()
    assert_refused(path, "a database of another program")


def test_a_folder_or_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(SweepStoreError, match="is a folder"):
        reopen(tmp_path)
    with pytest.raises(SweepStoreError, match="its folder does not exist"):
        reopen(tmp_path / "absent" / "s")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SweepStoreError, match="cannot be read"):
        reopen(tmp_path / "dangling")


def test_a_store_that_disappears_or_is_damaged_during_a_run_is_reported(tmp_path):
    path = tmp_path / "s"

    def removes(x):
        if x == 3:
            path.unlink()
        return {}

    with pytest.raises(SweepStoreError, match="the file is gone"):
        Sweep(removes, {"x": range(6)}, path).run()
    assert not path.exists()

    def damages(x):
        if x == 3:
            path.write_bytes(b"not a database " * 500)
        return {}

    with pytest.raises(SweepStoreError, match="no SQLite database"):
        Sweep(damages, {"x": range(6)}, path).run()


@pytest.fixture
def open_folder():
    """A folder that a user without rights can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def without_rights():
    """Become a user without rights for a moment: the file system stops nothing a root user does."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_read_only_folder_is_reported_before_anything_is_computed(open_folder, request):
    open_folder.chmod(0o555)
    request.getfixturevalue("without_rights")
    with pytest.raises(SweepStoreError, match="folder is not accessible"):
        reopen(open_folder / "s")


def test_a_read_only_store_can_be_read_but_not_continued(open_folder, content, request):
    path = open_folder / "s"
    path.write_bytes(content)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    request.getfixturevalue("without_rights")
    assert len(reopen(path).run().table()) == 100
    larger = reopen(path, 101)
    assert larger.pending() == [{"x": 100}]
    with pytest.raises(SweepStoreError, match="read-only"):
        larger.run()


def test_a_locked_store_is_reported(path, monkeypatch):
    monkeypatch.setattr(sweep_store, "PATIENCE", 0.05)
    sweep = reopen(path, 101)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SweepStoreError, match="locked by another process"):
        sweep.run()
    connection.close()
    assert sweep.run().progress().done == 101


def test_a_full_disk_is_reported_and_loses_nothing(path, monkeypatch):
    pages = len(path.read_bytes()) // 4096
    connect = sweep_store._connect

    def small(*arguments):
        connection = connect(*arguments)
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        return connection

    monkeypatch.setattr(sweep_store, "_connect", small)
    sweep = reopen(path, 140)
    with pytest.raises(SweepStoreError, match="the disk is full"):
        sweep.run()
    assert 100 < sweep.progress().done < 140
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT * FROM claims").fetchall() == []
    connection.close()
    monkeypatch.undo()
    assert sweep.run().progress().done == 140


def test_a_store_is_made_whole_even_without_hard_links(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "s"
    reopen(path, 5).run()
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    monkeypatch.undo()
    assert reopen(path, 5).progress().done == 5


@pytest.mark.parametrize("links", [True, False])
def test_a_store_that_another_process_makes_first_is_kept(tmp_path, monkeypatch, links):
    path = tmp_path / "s"
    place = sweep_store._place

    def second(fresh, target):
        monkeypatch.setattr(sweep_store, "_place", place)
        reopen(path, 5).run()
        if not links:
            monkeypatch.setattr(os, "link", lambda *a: (_ for _ in ()).throw(OSError("none")))
        place(fresh, target)

    monkeypatch.setattr(sweep_store, "_place", second)
    assert reopen(path, 5).progress().done == 5
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_every_write_waits_for_the_disk(path):
    """No kill can show this, only a loss of power."""
    connection = sweep_store._connect(path, "rw", "TRUNCATE")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
    connection.close()


def test_the_machine_s_name_is_not_stored(path):
    store = SweepStore(path, f"{__name__}.wordy", "1")
    owner = store.join()
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT owner, machine, pid FROM owners").fetchall()
    connection.close()
    assert rows == [(owner, sweep_store._machine(), os.getpid())]
    assert rows[0][1] != socket.gethostname()


def open_store(tmp_path, lease=30.0):
    return SweepStore(tmp_path / "claims", "module.function", "1", lease)


def claim(store, owner, keys, room=10):
    return store.exchange(owner, [], deque(keys), room, {})


def test_two_runs_share_the_points(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path)
    first, second = one.join(), two.join()
    assert claim(one, first, "abcd", room=2) == (["a", "b"], {}, [])
    assert claim(two, second, "abcd", room=2) == (["c", "d"], {}, ["a", "b"])
    one.exchange(first, [("a", DONE), ("b", FAILED)], deque(), 0, {})
    assert claim(two, second, "ab") == ([], {"a": "done", "b": "failed"}, [])


def test_a_run_that_leaves_gives_its_points_back(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path)
    first, second = one.join(), two.join()
    claim(one, first, "ab")
    one.leave(first)
    assert claim(two, second, "ab") == (["a", "b"], {}, [])


def test_a_point_that_failed_before_is_tried_once(tmp_path):
    store = open_store(tmp_path)
    owner = store.join()
    store.exchange(owner, [("a", FAILED), ("a", FAILED)], deque(), 0, {})
    assert store.outcomes()["a"].attempts == 2
    assert store.exchange(owner, [], deque("a"), 1, {"a": 1}) == ([], {"a": "failed"}, [])
    assert store.exchange(owner, [], deque("a"), 1, {"a": 2}) == (["a"], {}, [])


def test_the_first_result_stays_and_a_result_replaces_a_failure(tmp_path):
    store = open_store(tmp_path)
    owner = store.join()
    later = Outcome("done", '{"y":2}', None, None, 0.5)
    store.exchange(owner, [("a", FAILED), ("a", DONE), ("a", later), ("a", FAILED)], deque(), 0, {})
    assert store.outcomes() == {"a": Outcome("done", '{"y":1}', None, None, 0.5, attempts=2)}


def rewrite_owner(store, owner, machine, pid):
    connection = sqlite3.connect(store.path)
    connection.execute(
        "UPDATE owners SET machine = ?, pid = ? WHERE owner = ?", (machine, pid, owner)
    )
    connection.commit()
    connection.close()


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_dead_process_of_this_machine_is_noticed_at_once(tmp_path):
    store = open_store(tmp_path, lease=1e6)
    ghost, owner = store.join(), store.join()
    claim(store, ghost, "ab")
    rewrite_owner(store, ghost, store._machine, dead_pid())
    assert claim(store, owner, "ab") == (["a", "b"], {}, [])


def test_a_dead_process_is_forgotten_by_the_next_run(tmp_path):
    store = open_store(tmp_path)
    ghost = store.join()
    claim(store, ghost, "ab")
    rewrite_owner(store, ghost, store._machine, dead_pid())
    owner = store.join()
    connection = sqlite3.connect(store.path)
    assert connection.execute("SELECT owner FROM owners").fetchall() == [(owner,)]
    assert connection.execute("SELECT * FROM claims").fetchall() == []
    connection.close()


def test_a_process_elsewhere_is_dead_when_its_heartbeat_stops(tmp_path):
    """The same process number here says nothing of another machine's processes."""
    store = open_store(tmp_path, lease=1.5)
    far, owner = store.join(), store.join()
    claim(store, far, "ab")
    rewrite_owner(store, far, "another machine", dead_pid())
    assert claim(store, owner, "ab") == ([], {}, ["a", "b"])
    for _ in range(6):  # longer than the lease, with a heartbeat
        time.sleep(0.3)
        store.beat(far)
        assert claim(store, owner, "ab") == ([], {}, ["a", "b"])
    time.sleep(1.8)
    assert claim(store, owner, "ab") == (["a", "b"], {}, [])


def test_a_run_taken_for_dead_comes_back(tmp_path):
    store = open_store(tmp_path, lease=0.05)
    slow, owner = store.join(), store.join()
    claim(store, slow, "a")
    claim(store, owner, "a")
    time.sleep(0.1)
    assert claim(store, owner, "a") == (["a"], {}, [])
    store.beat(slow)
    store.exchange(slow, [("a", DONE)], deque(), 0, {})
    assert claim(store, owner, "a") == ([], {"a": "done"}, [])
    assert claim(store, slow, "b") == (["b"], {}, [])
    assert claim(store, owner, "b") == ([], {}, ["b"])


def test_a_lost_claim_leaves_the_new_owner_s_claim_alone(tmp_path):
    store = open_store(tmp_path, lease=0.05)
    slow, owner, third = store.join(), store.join(), store.join()
    claim(store, slow, "a")
    claim(store, owner, "a")
    time.sleep(0.1)
    claim(store, owner, "a")
    store.beat(owner)
    store.exchange(slow, [("a", FAILED)], deque(), 0, {})
    assert store.exchange(third, [], deque("a"), 1, {"a": 1}) == ([], {}, ["a"])


def test_a_sweep_waits_for_points_that_another_run_computes(tmp_path):
    path = tmp_path / "s"
    sweep = Sweep(wordy, {"x": range(3)}, path, lease=0.3)
    store = SweepStore(path, sweep.name, "1")
    far = store.join()
    claim(store, far, [encode({"x": 1}, "")])
    rewrite_owner(store, far, "another machine", 1)
    start = time.monotonic()
    assert sweep.run().progress().done == 3
    assert time.monotonic() - start > 0.3


def test_equal_values_give_equal_text():
    assert encode({"b": 1, "a": [1.5, None]}, "") == encode({"a": (1.5, None), "b": 1}, "")
    assert encode({"b": 1, "a": 2}, "", sort=False) == '{"b":1,"a":2}'
    assert decode(encode({"a": [float("inf"), "é"]}, "")) == {"a": [float("inf"), "é"]}
