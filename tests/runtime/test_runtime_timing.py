"""The stopwatch waits for the device at both ends."""

import time

import pytest
import torch

from enough import runtime
from enough.runtime import timing as module


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets by hand, and a device that takes 5 seconds to finish."""

    class Clock:
        now = 100.0
        waits = 0

        def wait(self, device):
            self.waits += 1
            self.now += 5.0

    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(module, "synchronize", clock.wait)
    return clock


def test_the_work_still_queued_at_the_end_counts_and_that_before_the_start_does_not(clock):
    with runtime.stopwatch("cpu") as watch:
        clock.now += 2.0
        assert watch.seconds == 2.0
    assert watch.seconds == 7.0
    clock.now += 50.0
    assert watch.seconds == 7.0
    assert clock.waits == 2


def test_a_stopwatch_can_be_used_again(clock):
    watch = runtime.stopwatch("cpu")
    for expected in (1.0, 3.0):
        with watch:
            clock.now += expected
        assert watch.seconds == expected + 5.0


def test_an_error_inside_stops_the_clock_and_passes_through(clock):
    watch = runtime.stopwatch("cpu")

    def fail():
        with watch:
            clock.now += 4.0
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        fail()
    assert watch.seconds == 4.0
    assert clock.waits == 1


def test_a_stopwatch_that_was_not_started_says_so():
    with pytest.raises(RuntimeError, match="not started"):
        _ = runtime.stopwatch("cpu").seconds


def test_the_real_clock_runs():
    with runtime.stopwatch("cpu") as watch:
        time.sleep(0.02)
    assert watch.seconds >= 0.02


def test_an_absent_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(runtime.DeviceUnavailableError, match="'cuda'"):
        runtime.stopwatch("cuda")
