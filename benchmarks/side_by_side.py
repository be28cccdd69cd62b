"""Timing side by side: all calls in turn, so that a busy moment strikes them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

__all__ = ["interleave", "spread"]


def interleave(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time calls in turn.

    Parameters
    ----------
    calls : mapping from str to callable
        What to time, by name.
    repeats : int
        Timed rounds.
    warm_up : int, default 1
        Rounds before, not timed.

    Returns
    -------
    dict from str to list of float
        Seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(seconds: list[float]) -> float:
    """Return the slowest round over the fastest."""
    return max(seconds) / min(seconds)
