r"""How long a sweep takes on many workers, from constants measured on a few.

The process that runs a sweep hands out points, takes results and makes them durable, one after
the other; the workers compute side by side. With c seconds of that process a point, ℓ seconds
from a worker's result to its next point, t seconds a point and W workers, P points take about

.. math::

    \max\left(P c + t,\; \lceil P / W \rceil\,(t + \ell)\right)

plus the start of the cluster. No cluster finishes more than 1/c points a second; workers beyond
t/c find nothing to do. What a point sends and receives makes c larger: c = c₀ + g b with b bytes
a point and g seconds a byte. Where that process and the workers share K cores, all of them
together need no less than P (t + c) / K.
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
        c₀, seconds of the coordinating process a point, above 0.
    latency : float, default 0.0
        ℓ, seconds a worker waits between two points, 0 or more. It vanishes when points wait at
        the worker already.
    startup : float, default 0.0
        Seconds until the first point can begin, 0 or more.
    per_byte : float, default 0.0
        g, seconds of the coordinating process a byte of a point's arguments and results, 0 or
        more.

    Raises
    ------
    ValueError
        If a constant is out of range.
    """

    coordinator: float
    latency: float = 0.0
    startup: float = 0.0
    per_byte: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.coordinator, "coordinator", above=0.0)
        check_number(self.latency, "latency", minimum=0.0)
        check_number(self.startup, "startup", minimum=0.0)
        check_number(self.per_byte, "per_byte", minimum=0.0)

    def overhead(self, size: float = 0.0) -> float:
        """Return c, the seconds that the coordinating process spends on a point.

        Parameters
        ----------
        size : float, default 0.0
            b, bytes of arguments and results of a point, 0 or more.

        Returns
        -------
        float
            c₀ + g b; no cluster finishes more than 1/c points a second.

        Raises
        ------
        ValueError
            If ``size`` is out of range.
        """
        return self.coordinator + self.per_byte * check_number(size, "size", minimum=0.0)

    def seconds(
        self,
        points: int,
        each: float,
        workers: int,
        *,
        size: float = 0.0,
        cores: int | None = None,
    ) -> float:
        """Estimate how long a sweep takes.

        Parameters
        ----------
        points : int
            P, 1 or more.
        each : float
            t, seconds a point computes, 0 or more.
        workers : int
            W, 1 or more.
        size : float, default 0.0
            b, bytes of arguments and results of a point, 0 or more.
        cores : int, optional
            K, cores that the coordinating process and all workers share, 1 or more; ``None``
            where each has its own.

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
        overhead = self.overhead(size)
        coordinated = points * overhead + each
        computed = math.ceil(points / workers) * (each + self.latency)
        shared = 0.0
        if cores is not None:
            shared = points * (each + overhead) / check_integer(cores, "cores", minimum=1)
        return self.startup + max(coordinated, computed, shared)

    def efficiency(self, points: int, each: float, workers: int, *, size: float = 0.0) -> float:
        """Compare with workers that lose no time: P t / W over the estimate.

        Parameters
        ----------
        points, each, workers : int, float, int
            As in `seconds`.
        size : float, default 0.0
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
        return points * each / workers / self.seconds(points, each, workers, size=size)

    def most_workers(self, each: float, *, size: float = 0.0) -> float:
        """Return how many workers the coordinator keeps busy: t/c.

        Parameters
        ----------
        each : float
            t, seconds a point computes, 0 or more.
        size : float, default 0.0
            As in `seconds`.

        Returns
        -------
        float
            More workers than this make a sweep no faster.

        Raises
        ------
        ValueError
            If an argument is out of range.
        """
        return check_number(each, "each", minimum=0.0) / self.overhead(size)
