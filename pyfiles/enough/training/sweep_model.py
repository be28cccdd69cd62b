r"""How long a sweep takes on many workers, from constants measured on a few.

The process that runs a sweep hands out points, takes results and makes them durable, one after
the other; the workers compute side by side. With c seconds of that process a point, ℓ seconds
from a worker's result to its next point, t seconds a point and W workers, P points take about

.. math::

    \max\left(P c + t,\; \lceil P / W \rceil\,(t + \ell)\right)

plus the start of the cluster. Workers beyond t/c find nothing to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from enough.runtime.validation import check_integer, check_number

__all__ = ["SweepModel"]


@dataclass(frozen=True)
class SweepModel:
    """The measured constants, and what follows from them.

    Parameters
    ----------
    coordinator : float
        c, seconds of the coordinating process a point, above 0.
    latency : float, default 0.0
        ℓ, seconds a worker waits between two points, 0 or more. It vanishes when points wait at
        the worker already.
    startup : float, default 0.0
        Seconds until the first point can begin, 0 or more.

    Raises
    ------
    ValueError
        If a constant is out of range.
    """

    coordinator: float
    latency: float = 0.0
    startup: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.coordinator, "coordinator", above=0.0)
        check_number(self.latency, "latency", minimum=0.0)
        check_number(self.startup, "startup", minimum=0.0)

    def seconds(self, points: int, each: float, workers: int) -> float:
        """Estimate how long a sweep takes.

        Parameters
        ----------
        points : int
            P, 1 or more.
        each : float
            t, seconds a point computes, 0 or more.
        workers : int
            W, 1 or more.

        Returns
        -------
        float
            Seconds from the start to the last durable result.

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        points = check_integer(points, "points", minimum=1)
        each = check_number(each, "each", minimum=0.0)
        workers = check_integer(workers, "workers", minimum=1)
        coordinated = points * self.coordinator + each
        computed = math.ceil(points / workers) * (each + self.latency)
        return self.startup + max(coordinated, computed)

    def efficiency(self, points: int, each: float, workers: int) -> float:
        """Compare with workers that lose no time: P t / W over the estimate.

        Parameters
        ----------
        points, each, workers : int, float, int
            As in `seconds`.

        Returns
        -------
        float
            Between 0 and 1.

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        return points * each / workers / self.seconds(points, each, workers)

    def most_workers(self, each: float) -> float:
        """Return how many workers the coordinator keeps busy: t/c.

        Parameters
        ----------
        each : float
            t, seconds a point computes, 0 or more.

        Returns
        -------
        float
            More workers than this make a sweep no faster.

        Raises
        ------
        ValueError
            If ``each`` is out of range.
        """
        return check_number(each, "each", minimum=0.0) / self.coordinator
