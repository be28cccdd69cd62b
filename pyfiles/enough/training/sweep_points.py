"""One function at many points, here or on any executor, for tables that need no store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

__all__ = ["map_points"]

T = TypeVar("T")


def map_points(
    function: Callable[..., T],
    points: Sequence[Mapping[str, Any]],
    executor: Executor | None = None,
) -> Iterator[T]:
    """Compute a function at every point, in the order of the points.

    Parameters
    ----------
    function : callable
        Called with one point's arguments by keyword. Other processes import it by name.
    points : sequence of mapping
        The arguments of each call. Calls must not depend on each other.
    executor : concurrent.futures.Executor, optional
        Where to compute: threads, processes, a Dask cluster (``client.get_executor()``);
        ``None`` computes here, each point when its result is asked for.

    Returns
    -------
    iterator
        One result a point, as the function returned it.

    Raises
    ------
    ValueError
        If ``executor`` is neither an executor nor ``None``.

    Notes
    -----
    The results are the same with and without an executor where workers compute with as many
    threads each as the caller: sums over another number of threads round otherwise. An exception
    of the function is raised when its point's result is asked for. Nothing is stored; use
    `enough.training.Sweep` for what must survive a crash.
    """
    if executor is None:
        return map(functools.partial(_call, function), points)
    if not callable(getattr(executor, "map", None)):
        raise ValueError(
            "executor: expected a concurrent.futures.Executor or None,"
            f" got {type(executor).__name__}"
        )
    return executor.map(functools.partial(_call, function), points)


def _call(function: Callable[..., T], point: Mapping[str, Any]) -> T:
    return function(**point)
