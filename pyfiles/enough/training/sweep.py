"""Sweeps: one function at many points, resumable, on any executor."""

from __future__ import annotations

import concurrent.futures as futures
import contextlib
import inspect
import itertools
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from enough.runtime.progress import progress as show_progress
from enough.runtime.validation import check_choice, check_integer
from enough.training.sweep_store import (
    Outcome,
    SweepStore,
    SweepStoreError,
    decode,
    encode,
    is_running,
)

__all__ = ["Failure", "Progress", "Sweep", "SweepError", "SweepStoreError"]

POLL = 0.25  # seconds between two looks at points that other runs compute
WATCH = 1.0  # seconds between two looks of a worker at its parent


class Progress(NamedTuple):
    """How far a sweep is: numbers of points.

    Parameters
    ----------
    done : int
        Points with results.
    failed : int
        Points whose last attempt raised.
    total : int
        Points of the grid.
    """

    done: int
    failed: int
    total: int


class Failure(NamedTuple):
    """A point that raised.

    Parameters
    ----------
    arguments : dict
        The point's arguments.
    error : str
        The exception in one line.
    traceback : str
        The traceback's text.
    """

    arguments: dict[str, Any]
    error: str
    traceback: str


class SweepError(RuntimeError):
    """Points of a sweep failed, or its executor broke.

    Every point that finished is in the store; the next run takes up the others.

    Parameters
    ----------
    message : str
        What happened.
    failed : sequence of Failure, default ()
        The points that raised, in grid order.

    Attributes
    ----------
    failed : list of Failure
        The points that raised, in grid order; empty when the executor broke.
    """

    def __init__(self, message: str, failed: Sequence[Failure] = ()) -> None:
        super().__init__(message)
        self.failed = list(failed)


class Sweep:
    """One function at every point of a grid, with a store that survives ``kill -9``.

    A finished point is on the disk before the process goes on, so a run that is killed at
    any moment repeats, when started again, at most the points it had in flight. Several
    processes may run the same sweep on one store at once: they share the points.

    Parameters
    ----------
    function : callable
        Called with one point's arguments by keyword; returns a dict of results: numbers,
        strings, booleans, ``None``, arrays, and lists and dicts of them. Write it at the
        top level of a module: other processes import it by name, and its name identifies
        the store. What it captures from around it is not part of a point.
    grid : mapping or sequence of mappings
        Either name -> values, for all combinations, the last name varying fastest; or the
        points themselves. The function receives plain values, as the store keeps them:
        numbers, strings, lists, dicts.
    store : str, os.PathLike or None, default None
        SQLite file with the results, created when absent; ``None`` keeps them in memory.
    version : str, default "1"
        Version of the experiment. Change it with the function's meaning: a store of another
        version is refused, so that stale results are never reused.
    lease : float, default 30.0
        Seconds without a sign of life after which another process's points are taken over.
        A process that died on this machine is noticed at once.

    Raises
    ------
    ValueError
        If an argument is of the wrong kind, the grid has no point or one point twice, or
        the function does not take a point's arguments.
    SweepStoreError
        If the store is damaged, foreign, not accessible, or belongs to another function or
        version. The file is left as it is.

    Notes
    -----
    A point is identified by the JSON text of its arguments, in which 1, 1.0 and True differ
    and a tuple equals a list. Results are stored as JSON text, floats with all their digits,
    NaN and infinities included. No pickle is ever loaded from a store.

    Examples
    --------
    >>> def area(width, height):
    ...     return {"area": width * height}
    >>> sweep = Sweep(area, {"width": [1, 2], "height": [3, 4]}).run()
    >>> sweep.table()["area"].tolist()
    [3, 4, 6, 8]
    """

    def __init__(
        self,
        function: Callable[..., Mapping[str, Any]],
        grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
        store: str | os.PathLike[str] | None = None,
        *,
        version: str = "1",
        lease: float = 30.0,
    ) -> None:
        self.function = function
        self.name = _name_of(function)
        if not isinstance(version, str) or not version:
            raise ValueError(f"version: expected a string that is not empty, got {version!r}")
        if store is not None and not isinstance(store, str | os.PathLike):
            raise ValueError(f"store: expected a path or None, got {type(store).__name__}")
        points = _points(grid)
        self._keys = [encode(point, f"grid point {i}") for i, point in enumerate(points)]
        self._names = list(dict.fromkeys(name for point in points for name in point))
        _check_points(function, self.name, self._keys)
        self._store = SweepStore(store, self.name, version, lease)

    def __len__(self) -> int:
        """Count the points of the grid.

        Returns
        -------
        int
            Finished or not.
        """
        return len(self._keys)

    def run(
        self,
        executor: futures.Executor | None = None,
        *,
        on_error: str = "raise",
        in_flight: int | None = None,
    ) -> Sweep:
        """Compute the points that have no results yet.

        Parameters
        ----------
        executor : concurrent.futures.Executor, optional
            Where to compute: threads, processes (``loky.get_reusable_executor()``), a Dask
            cluster (``client.get_executor()``); ``None`` computes here, point by point.
            The caller shuts it down.
        on_error : {"raise", "record"}, default "raise"
            When points fail, the others go on and the failures are recorded; at the end
            ``"raise"`` raises, ``"record"`` leaves them to `failed`. Either way the next run
            tries them again.
        in_flight : int, optional
            How many points to hand to the executor ahead of their results, by default twice
            its workers. A killed run repeats at most these.

        Returns
        -------
        Sweep
            The sweep itself.

        Raises
        ------
        SweepError
            If points failed and ``on_error="raise"``, or the executor broke, for example
            because a worker ran out of memory.
        SweepStoreError
            If the store cannot be read or written.
        ValueError
            If an argument is not what is described above.

        Notes
        -----
        An interrupt from the keyboard cancels what has not started, keeps what has finished
        and is raised again. Worker processes that have begun a point end within about a second
        when the process that started them is killed. A progress bar is drawn on a terminal only.
        """
        check_choice(on_error, "on_error", ("raise", "record"))
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ValueError(
                "executor: expected a concurrent.futures.Executor or None,"
                f" got {type(executor).__name__}"
            )
        if in_flight is not None:
            in_flight = check_integer(in_flight, "in_flight", minimum=1)
        if executor is None:
            in_flight = 1
        elif in_flight is None:
            in_flight = 2 * _workers(executor)
        before = self._store.outcomes()
        wanted = [key for key in self._keys if key not in before or before[key].status == "failed"]
        if not wanted:
            return self
        attempts = {key: outcome.attempts for key, outcome in before.items()}
        place = _Here() if executor is None else executor
        settling = self._settle(place, wanted, attempts, in_flight)
        failed = set()
        with contextlib.closing(settling):
            for key, status in show_progress(settling, total=len(wanted), label=self.name):
                if status == "failed":
                    failed.add(key)
        if failed and on_error == "raise":
            failures = self._failures(failed)
            raise SweepError(_summary(self.name, failures, len(self)), failures)
        return self

    def table(self) -> pd.DataFrame:
        """Tabulate the finished points.

        Returns
        -------
        pandas.DataFrame
            One row per finished point in grid order: its arguments, its results, and
            ``seconds``, how long it took. Points without results are absent.

        Raises
        ------
        SweepStoreError
            If the store cannot be read.
        """
        outcomes = self._store.outcomes()
        rows = []
        for key in self._keys:
            outcome = outcomes.get(key)
            if outcome is not None and outcome.status == "done":
                rows.append(decode(key) | decode(outcome.result) | {"seconds": outcome.seconds})
        columns = dict.fromkeys(self._names)
        for row in rows:
            columns.update(dict.fromkeys(row))
        columns.pop("seconds", None)
        return pd.DataFrame(rows, columns=[*columns, "seconds"])

    def progress(self) -> Progress:
        """Count the points by what became of them.

        Returns
        -------
        Progress
            Numbers of points ``done``, ``failed`` and in ``total``.

        Raises
        ------
        SweepStoreError
            If the store cannot be read.
        """
        outcomes = self._store.outcomes()
        statuses = [outcomes[key].status for key in self._keys if key in outcomes]
        return Progress(statuses.count("done"), statuses.count("failed"), len(self))

    def pending(self) -> list[dict[str, Any]]:
        """List the points that the next run computes: new ones and failed ones.

        Returns
        -------
        list of dict
            Their arguments, in grid order.

        Raises
        ------
        SweepStoreError
            If the store cannot be read.
        """
        outcomes = self._store.outcomes()
        return [
            self._arguments(key)
            for key in self._keys
            if key not in outcomes or outcomes[key].status == "failed"
        ]

    def failed(self) -> pd.DataFrame:
        """Tabulate the points whose last attempt raised.

        Returns
        -------
        pandas.DataFrame
            One row per point in grid order: its arguments as a dict, ``error`` in one line,
            and the ``traceback``.

        Raises
        ------
        SweepStoreError
            If the store cannot be read.
        """
        return pd.DataFrame(self._failures(set(self._keys)), columns=list(Failure._fields))

    def _arguments(self, key: str) -> dict[str, Any]:
        arguments = decode(key)
        return {name: arguments[name] for name in self._names if name in arguments}

    def _failures(self, among: Collection[str]) -> list[Failure]:
        outcomes = self._store.outcomes()
        return [
            Failure(self._arguments(key), outcomes[key].error, outcomes[key].traceback)
            for key in self._keys
            if key in among and key in outcomes and outcomes[key].status == "failed"
        ]

    def _settle(
        self,
        executor: futures.Executor,
        wanted: list[str],
        attempts: Mapping[str, int],
        in_flight: int,
    ) -> Iterator[tuple[str, str]]:
        """Yield each wanted point with its status as soon as the store holds it."""
        store = self._store
        owner = store.join()
        running: dict[futures.Future[Outcome], str] = {}
        ended: list[futures.Future[Outcome]] = []
        candidates = deque(wanted)
        try:
            with _heartbeat(store, owner):
                while True:
                    finished = [(running[future], _outcome(future)) for future in ended]
                    room = in_flight - len(running) + len(ended)
                    claimed, settled, busy = store.exchange(
                        owner, finished, candidates, room, attempts
                    )
                    for future in ended:
                        del running[future]
                    ended = []
                    for key in claimed:
                        running[_submit(executor, self.function, key, owner)] = key
                    yield from ((key, outcome.status) for key, outcome in finished)
                    yield from settled.items()
                    candidates.extend(busy)
                    if running:
                        timeout = POLL if busy else None
                        ended = list(futures.wait(running, timeout, futures.FIRST_COMPLETED).done)
                    elif busy:
                        time.sleep(POLL)
                    elif not candidates:
                        return
        finally:
            # Nothing is left here after a quiet end. After an interrupt or an error, what
            # has not started is cancelled and what has finished is kept.
            for future in running:
                future.cancel()
            kept = [
                (key, future.result())
                for future, key in running.items()
                if future.done() and not future.cancelled() and future.exception() is None
            ]
            if kept:
                with contextlib.suppress(SweepStoreError):
                    store.exchange(owner, kept, deque(), 0, attempts)
            with contextlib.suppress(SweepStoreError):
                store.leave(owner)


class _Here(futures.Executor):
    """Computes a point at once, in this thread."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()
        future.set_result(function(*arguments))
        return future


def _submit(
    executor: futures.Executor, function: Callable[..., Any], key: str, run: str
) -> futures.Future[Outcome]:
    try:
        return executor.submit(_compute, function, key, run, os.getpid())
    except futures.BrokenExecutor as error:
        raise _broken(error) from error


def _outcome(future: futures.Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except (futures.BrokenExecutor, futures.CancelledError) as error:
        raise _broken(error) from error
    except Exception as error:  # what the executor says of this one point
        return _failure(error, 0.0)


def _broken(error: Exception) -> SweepError:
    return SweepError(
        f"the executor broke ({type(error).__name__}: {error}); the finished points are kept,"
        " and a run with a new executor takes up the others"
    )


def _compute(function: Callable[..., Any], key: str, run: str, submitter: int) -> Outcome:
    """Compute one point where the executor put it; an exception becomes an outcome.

    The run's name makes each call unlike those of earlier runs, which Dask would otherwise
    answer from its memory.
    """
    _end_with(submitter)
    arguments = decode(key)
    start = time.perf_counter()
    try:
        results = function(**arguments)
        seconds = time.perf_counter() - start
        return Outcome("done", _encode_results(results, decode(key)), None, None, seconds)
    except Exception as error:
        return _failure(error, time.perf_counter() - start)


def _encode_results(results: Any, arguments: Mapping[str, Any]) -> str:
    if not isinstance(results, Mapping):
        raise ValueError(
            f"results: expected the function to return a dict, got {type(results).__name__}"
        )
    text = encode(results, "results", sort=False)
    if "seconds" in results:
        raise ValueError("results: the name 'seconds' is taken by the sweep's own column")
    for name in results.keys() & arguments.keys():
        if encode(results[name], name) != encode(arguments[name], name):
            raise ValueError(f"results: {name!r} is an argument, but its value differs")
    return text


def _failure(error: Exception, seconds: float) -> Outcome:
    line = traceback.format_exception_only(error)[-1].strip()
    text = "".join(traceback.format_exception(error))
    line, text = (t.encode("utf-8", "backslashreplace").decode() for t in (line, text))
    return Outcome("failed", None, line, text, seconds)


def _end_with(submitter: int) -> None:
    """Let a worker process end soon after the process that feeds it, however that one ended.

    Workers wait on pipes that their siblings hold open as well, so a killed parent alone does
    not wake them; and a point that nobody waits for would go on computing.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid != submitter or _watching.is_set():
        return
    _watching.set()
    first = os.getppid()  # the parent, or the server that forks for it, or who adopted this one
    if not is_running(submitter):
        os._exit(1)
    threading.Thread(target=_watch, args=(submitter, first), daemon=True).start()


def _watch(submitter: int, parent: int) -> None:
    while is_running(submitter) and os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)


_watching = threading.Event()


@contextlib.contextmanager
def _heartbeat(store: SweepStore, owner: str) -> Iterator[None]:
    """Tell other processes that this run is alive, from a thread."""
    if store.path is None:
        yield
        return
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(store.lease / 4):
            # A store that cannot be written now is reported by the run itself.
            with contextlib.suppress(SweepStoreError):
                store.beat(owner)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _workers(executor: futures.Executor) -> int:
    """Ask an executor how many points it computes at once."""
    client = getattr(executor, "_client", None)
    if hasattr(client, "nthreads"):  # Dask
        return sum(client.nthreads().values()) or 1
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


def _name_of(function: Any) -> str:
    """Name a function so that the name says which one it is in any process."""
    if not callable(function):
        raise ValueError(f"function: expected a callable, got {type(function).__name__}")
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if not module or not name:
        raise ValueError(
            f"function: expected a named function, got {type(function).__name__}; put arguments"
            " that are bound to it into the grid"
        )
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        if spec is not None:
            module = spec.name
        elif getattr(main, "__file__", None):
            module = Path(main.__file__).stem
    if name.endswith("<lambda>"):
        name += f":{function.__code__.co_firstlineno}"
    return f"{module}.{name}"


def _points(grid: Any) -> list[dict[str, Any]]:
    if isinstance(grid, Mapping):
        if not grid:
            raise ValueError("grid: expected at least one name with its values, got none")
        values = [_values(name, grid[name]) for name in grid]
        return [dict(zip(grid, point, strict=True)) for point in itertools.product(*values)]
    if isinstance(grid, Sequence) and not isinstance(grid, str | bytes):
        for i, point in enumerate(grid):
            if not isinstance(point, Mapping):
                raise ValueError(f"grid: expected dicts, got {type(point).__name__} at place {i}")
        if not grid:
            raise ValueError("grid: expected at least one point, got none")
        return [dict(point) for point in grid]
    raise ValueError(
        "grid: expected a mapping from names to values or a sequence of dicts,"
        f" got {type(grid).__name__}"
    )


def _values(name: Any, values: Any) -> list[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    scalar = isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__")
    if scalar or (isinstance(values, np.ndarray) and values.ndim == 0):
        raise ValueError(f"grid[{name!r}]: expected a list of values, got {values!r}")
    values = list(values)
    if not values:
        raise ValueError(f"grid[{name!r}]: expected at least one value, got none")
    return values


def _check_points(function: Callable[..., Any], name: str, keys: list[str]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        signature = None
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"grid: expected each point once, got {key} twice")
        seen.add(key)
        arguments = decode(key)
        if "seconds" in arguments:
            raise ValueError("grid: the name 'seconds' is taken by the sweep's own column")
        if signature is not None:
            try:
                signature.bind(**arguments)
            except TypeError as error:
                raise ValueError(f"grid: {name} cannot be called with {key}: {error}") from error


def _summary(name: str, failed: list[Failure], total: int) -> str:
    lines = [f"{len(failed)} of {total} points of {name} failed:"]
    for failure in failed[:10]:
        arguments = ", ".join(f"{k}={v!r}" for k, v in failure.arguments.items())
        lines.append(f"  {name.rpartition('.')[2]}({arguments}): {failure.error}")
    if len(failed) > 10:
        lines.append(f"  and {len(failed) - 10} more")
    lines += ["the first one's traceback:", failed[0].traceback.rstrip()]
    return "\n".join(lines)
