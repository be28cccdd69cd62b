"""The store of a sweep: one SQLite file that survives being killed at any moment.

The file holds text only: arguments and results as JSON, never a pickle. Each transaction is
on the disk before it returns. The journal is a rollback journal and not a write-ahead log,
because releases of SQLite before 3.51.3 can lose committed writes when several processes
check-point one log, and because a log does not work on network file systems.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enough.runtime.recording import plain
from enough.runtime.validation import check_number

__all__ = ["Outcome", "SweepStore", "SweepStoreError", "decode", "encode", "is_running"]

APPLICATION_ID = 0x456E5377  # "EnSw", so that no other database is taken for a store
SCHEMA_VERSION = 1
SCHEMA = {
    "identity": "CREATE TABLE identity (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "points": (
        "CREATE TABLE points (key TEXT PRIMARY KEY, status TEXT NOT NULL, result TEXT, error TEXT,"
        " traceback TEXT, seconds REAL NOT NULL, attempts INTEGER NOT NULL, digest TEXT NOT NULL)"
        " WITHOUT ROWID"
    ),
    "claims": "CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
    "owners": (
        "CREATE TABLE owners (owner TEXT PRIMARY KEY, machine TEXT NOT NULL, pid INTEGER NOT NULL,"
        " beat INTEGER NOT NULL) WITHOUT ROWID"
    ),
}
PATIENCE = 60.0  # seconds a transaction waits for another process's transaction


class SweepStoreError(ValueError):
    """A store that cannot be used: damaged, foreign, not writable, or of another sweep.

    The file is left as it was found.
    """


@dataclass(frozen=True)
class Outcome:
    """What became of one point.

    Parameters
    ----------
    status : str
        ``"done"`` or ``"failed"``.
    result : str or None
        The results as JSON; ``None`` when failed.
    error : str or None
        The exception in one line; ``None`` when done.
    traceback : str or None
        The traceback's text; ``None`` when done.
    seconds : float
        How long the point took.
    attempts : int, default 1
        How often the point has been tried; the store counts it.
    """

    status: str
    result: str | None
    error: str | None
    traceback: str | None
    seconds: float
    attempts: int = 1


def encode(value: Any, name: str, *, sort: bool = True) -> str:
    """Write a value as canonical JSON.

    No space is written, floats have all their digits, and ``NaN``, ``Infinity`` and
    ``-Infinity`` are written as Python's ``json`` writes them.

    Parameters
    ----------
    value : object
        Numbers, strings, booleans, ``None``, and lists, tuples and dicts of them; numpy and
        torch scalars become numbers, arrays and tensors become nested lists.
    name : str
        What the value is, for the message.
    sort : bool, default True
        Sort the keys of dicts, so that equal values give equal text.

    Returns
    -------
    str
        ASCII text that ``decode`` reads back: every float exactly, tuples as lists.

    Raises
    ------
    ValueError
        If something in ``value`` is of another type.
    """
    return json.dumps(plain(value, name), sort_keys=sort, separators=(",", ":"))


def decode(text: str) -> Any:
    """Read what ``encode`` wrote.

    Parameters
    ----------
    text : str
        JSON text.

    Returns
    -------
    object
        Numbers, strings, booleans, ``None``, lists and dicts.
    """
    return json.loads(text)


class SweepStore:
    """Outcomes of the points of one sweep, and who computes which of them now.

    Processes share a store by claims. A claim ends when its point is recorded, when its
    owner leaves, or when its owner is dead: the owner's process is gone from this machine,
    or its heartbeat has not moved for ``lease`` seconds of the observer's own clock, so
    that clocks of different machines are never compared.

    Parameters
    ----------
    path : str or os.PathLike or None
        The SQLite file, created when absent; ``None`` keeps everything in memory.
    function : str
        Name of the function whose points these are.
    version : str
        Version of the experiment.
    lease : float, default 30.0
        Seconds without a heartbeat after which an owner counts as dead.

    Raises
    ------
    SweepStoreError
        If the file is damaged, is no store, belongs to another function or version, or
        cannot be read or created.
    ValueError
        If ``lease`` is not a number above 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        function: str,
        version: str,
        lease: float = 30.0,
    ) -> None:
        self.path = None if path is None else Path(path).absolute()
        self.identity = {"function": function, "version": version}
        self.lease = check_number(lease, "lease", above=0.0)
        self._lock = threading.RLock()
        self._memory: sqlite3.Connection | None = None
        self._seen: dict[str, tuple[int, float]] = {}
        self._machine = _machine()
        if self.path is None:
            self._memory = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False
            )
            self._write_schema(self._memory)
            return
        if not os.path.lexists(self.path):
            self._create()
        self._check()

    def outcomes(self) -> dict[str, Outcome]:
        """Read every recorded outcome.

        Returns
        -------
        dict
            From a point's canonical JSON to its `Outcome`.

        Raises
        ------
        SweepStoreError
            If a row was altered or the file cannot be read.
        """
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT key, status, result, error, traceback, seconds, attempts, digest"
                " FROM points"
            ).fetchall()
        found = {}
        for key, *fields, digest in rows:
            outcome = Outcome(*fields)
            if _digest(key, outcome) != digest:
                raise SweepStoreError(
                    f"store {self.path}: damaged: the row of point {key} was altered"
                )
            found[key] = outcome
        return found

    def join(self) -> str:
        """Register a run and forget the runs whose processes are gone.

        Returns
        -------
        str
            The name under which the run claims points.

        Raises
        ------
        SweepStoreError
            If the store cannot be written.
        """
        owner = uuid.uuid4().hex
        with self._transaction() as connection:
            for other, *state in connection.execute("SELECT * FROM owners").fetchall():
                if self._is_dead(other, state):
                    self._forget(connection, other)
            connection.execute("INSERT INTO owners VALUES (?, ?, ?, ?)", self._sign_of_life(owner))
        return owner

    def beat(self, owner: str) -> None:
        """Show that a run is alive.

        Parameters
        ----------
        owner : str
            The name `join` gave.

        Raises
        ------
        SweepStoreError
            If the store cannot be written.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)", self._sign_of_life(owner)
            )

    def leave(self, owner: str) -> None:
        """Give back all claims of a run and forget it.

        Parameters
        ----------
        owner : str
            The name `join` gave.

        Raises
        ------
        SweepStoreError
            If the store cannot be written.
        """
        with self._transaction(journal="DELETE") as connection:
            self._forget(connection, owner)

    def exchange(
        self,
        owner: str,
        finished: Iterable[tuple[str, Outcome]],
        candidates: deque[str],
        room: int,
        attempts_before: Mapping[str, int],
    ) -> tuple[list[str], dict[str, str], list[str]]:
        """Record finished points and claim the next ones, in one durable transaction.

        The first result of a point stays: a second one, from a run that lost its claim, is
        dropped.

        Parameters
        ----------
        owner : str
            The name `join` gave.
        finished : iterable of (str, Outcome)
            Points to record.
        candidates : collections.deque of str
            Points to claim from, taken from the left until ``room`` of them are claimed.
        room : int
            How many points to claim at most.
        attempts_before : mapping
            For points that had failed before this run, how often they had been tried; such
            a point is tried again once.

        Returns
        -------
        claimed : list of str
            Points that are now this run's.
        settled : dict
            Candidates that another run has finished since, with their status.
        busy : list of str
            Candidates that another living run computes now.

        Raises
        ------
        SweepStoreError
            If the store cannot be written.
        """
        claimed: list[str] = []
        settled: dict[str, str] = {}
        busy: list[str] = []
        with self._transaction() as connection:
            for key, outcome in finished:
                self._record(connection, owner, key, outcome)
            while candidates and len(claimed) < room:
                key = candidates.popleft()
                status, attempts = connection.execute(
                    "SELECT status, attempts FROM points WHERE key = ?", (key,)
                ).fetchone() or (None, 0)
                if status == "done" or attempts > attempts_before.get(key, 0):
                    settled[key] = status
                elif self._is_taken(connection, owner, key):
                    busy.append(key)
                else:
                    connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, owner))
                    claimed.append(key)
        return claimed, settled, busy

    def _sign_of_life(self, owner: str) -> tuple[str, str, int, int]:
        # Others look only at whether the last number differs from the one they saw before.
        return owner, self._machine, os.getpid(), time.time_ns()

    def _record(
        self, connection: sqlite3.Connection, owner: str, key: str, outcome: Outcome
    ) -> None:
        known = connection.execute(
            "SELECT status, attempts FROM points WHERE key = ?", (key,)
        ).fetchone()
        if known is None or known[0] != "done":
            outcome = replace(outcome, attempts=1 + (known[1] if known else 0))
            connection.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, *_fields(outcome), _digest(key, outcome)),
            )
        connection.execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner))

    def _is_taken(self, connection: sqlite3.Connection, owner: str, key: str) -> bool:
        row = connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if row is None or row[0] == owner:
            return False
        state = connection.execute(
            "SELECT machine, pid, beat FROM owners WHERE owner = ?", row
        ).fetchone()
        if state is not None and not self._is_dead(row[0], state):
            return True
        self._forget(connection, row[0])
        return False

    def _is_dead(self, owner: str, state: Iterable[Any]) -> bool:
        machine, pid, beat = state
        if machine == self._machine and not is_running(pid):
            return True
        now = time.monotonic()
        last_beat, since = self._seen.get(owner, (None, now))
        if beat != last_beat:
            self._seen[owner] = (beat, now)
            return False
        return now - since > self.lease

    @staticmethod
    def _forget(connection: sqlite3.Connection, owner: str) -> None:
        connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))
        connection.execute("DELETE FROM owners WHERE owner = ?", (owner,))

    @contextlib.contextmanager
    def _transaction(
        self, write: bool = True, journal: str = "TRUNCATE"
    ) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction: threads and forked children share no connection."""
        with self._lock, self._explained():
            connection = self._memory or _connect(self.path, "rw", journal)
            try:
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if connection is not self._memory:
                    connection.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            reason = next(
                (text for start, text in _REASONS.items() if code.startswith(start)),
                "cannot be used",
            )
            raise SweepStoreError(f"store {self.path}: {reason} ({error})") from error

    def _create(self) -> None:
        """Make a whole store elsewhere and link it into place, so that none is ever half made."""
        fresh = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.new")
        if not self.path.parent.is_dir():
            raise SweepStoreError(f"store {self.path}: its folder does not exist")
        try:
            with (
                self._explained(),
                contextlib.closing(_connect(fresh, "rwc", "DELETE")) as connection,
            ):
                self._write_schema(connection)
            _place(fresh, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise SweepStoreError(f"store {self.path}: cannot be created ({error})") from error
        finally:
            fresh.unlink(missing_ok=True)

    def _write_schema(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for statement in SCHEMA.values():
            connection.execute(statement)
        connection.executemany("INSERT INTO identity VALUES (?, ?)", self.identity.items())
        connection.execute("COMMIT")

    def _check(self) -> None:
        """Refuse a file that is not a whole store of this sweep."""
        if self.path.is_dir():
            raise SweepStoreError(f"store {self.path}: is a folder, expected an SQLite file")
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise SweepStoreError(f"store {self.path}: cannot be read ({error})") from error
        if size == 0:
            raise SweepStoreError(f"store {self.path}: damaged: the file is empty")
        with self._transaction(write=False) as connection:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            schema_version = connection.execute("PRAGMA user_version").fetchone()[0]
            schema = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
            if application != APPLICATION_ID:
                raise SweepStoreError(
                    f"store {self.path}: not a sweep store (a database of another program,"
                    " or cut short)"
                )
            if schema_version != SCHEMA_VERSION:
                raise SweepStoreError(
                    f"store {self.path}: expected schema version {SCHEMA_VERSION},"
                    f" got {schema_version}"
                )
            if schema != SCHEMA:
                raise SweepStoreError(
                    f"store {self.path}: expected the tables {', '.join(SCHEMA)} of a sweep store,"
                    f" got {', '.join(sorted(schema)) or 'none'} (missing, altered or foreign)"
                )
            report = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if report != "ok":
                raise SweepStoreError(f"store {self.path}: damaged: {report}")
            identity = dict(connection.execute("SELECT name, value FROM identity").fetchall())
        if identity != self.identity:
            have, want = (
                f"{i.get('function')!r}, version {i.get('version')!r}"
                for i in (identity, self.identity)
            )
            raise SweepStoreError(
                f"store {self.path}: belongs to the sweep of {have}, not to that of {want}"
            )
        self.outcomes()


_REASONS = {
    "SQLITE_NOTADB": "not a sweep store: the file is no SQLite database",
    "SQLITE_CORRUPT": "damaged: the database is cut short or was altered",
    "SQLITE_READONLY": "cannot be written: the file or its folder is read-only",
    "SQLITE_CANTOPEN": "cannot be opened: the file is gone, or it or its folder is not accessible",
    "SQLITE_BUSY": f"locked by another process for more than {PATIENCE:.0f} s",
    "SQLITE_FULL": "cannot be written: the disk is full",
    "SQLITE_IOERR": "cannot be read or written: the disk or file system reports an error",
}


def _connect(path: Path, mode: str, journal: str) -> sqlite3.Connection:
    """Open a file with a rollback journal that is emptied or deleted at the end of each write.

    An emptied one costs one operation on the folder less; a deleted one leaves no file behind.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=PATIENCE
    )
    try:
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _place(fresh: Path, path: Path) -> None:
    """Give a finished store its name, unless another process was first: its store is as good."""
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.replace(fresh, path)


def _fields(outcome: Outcome) -> tuple[Any, ...]:
    return (
        outcome.status,
        outcome.result,
        outcome.error,
        outcome.traceback,
        outcome.seconds,
        outcome.attempts,
    )


def _digest(key: str, outcome: Outcome) -> str:
    text = json.dumps([key, *_fields(outcome)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _machine() -> str:
    """Identify this boot of this machine without storing its name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def is_running(pid: int) -> bool:
    """Tell whether a process of this machine exists.

    Parameters
    ----------
    pid : int
        The process's number.

    Returns
    -------
    bool
        Always ``True`` on Windows, where there is no harmless way to ask.
    """
    if os.name == "nt":  # signal 0 ends a process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
