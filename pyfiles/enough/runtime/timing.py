"""Wall-clock time that waits for the device."""

from __future__ import annotations

import time
from types import TracebackType

import torch

from enough.runtime.device import resolve_device, synchronize

__all__ = ["stopwatch"]


class stopwatch:
    """Time a block of code, the work queued on the device included.

    A GPU runs behind the program that feeds it: without waiting at both ends, a clock reads
    how long it took to ask, not to compute.

    Parameters
    ----------
    device : str, torch.device, or None
        What to wait for, as in `resolve_device`.

    Attributes
    ----------
    seconds : float
        The time from entry to exit; within the block, the time so far (without waiting).

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.

    Examples
    --------
    >>> with stopwatch("cpu") as watch:
    ...     total = sum(range(10))
    >>> watch.seconds > 0
    True
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._device = resolve_device(device)
        self._start: float | None = None
        self._stop: float | None = None

    def __enter__(self) -> stopwatch:
        synchronize(self._device)
        self._stop = None
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:  # after an error, waiting could raise another and hide the first
            synchronize(self._device)
        self._stop = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds from entry to exit, or so far."""
        if self._start is None:
            raise RuntimeError(
                "stopwatch: not started; use it as 'with stopwatch(device) as watch:'"
            )
        stop = time.perf_counter() if self._stop is None else self._stop
        return stop - self._start
