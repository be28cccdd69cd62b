"""Interrupts that wait for the end of an update, so that what is kept is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from enough.training.history import History

__all__ = ["TrainingInterrupted"]


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted between two updates; what was trained so far is kept.

    Parameters
    ----------
    message : str
        What was interrupted, and how to go on.
    history : History
        The course of the training until then.
    step : int
        Number of updates done.
    """

    def __init__(self, message: str, history: History, step: int) -> None:
        super().__init__(message)
        self.history = history
        self.step = step


class DeferredInterrupt:
    """Turn the first Ctrl-C into a flag; the second raises at once.

    Only where Ctrl-C would raise ``KeyboardInterrupt`` (Python's own handler, main thread);
    elsewhere interrupts stay as they are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._active = False

    def __enter__(self) -> DeferredInterrupt:
        self._active = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._active:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True
