"""The model of a sweep on many workers, against a simulation event by event."""

import heapq

import pytest

from enough.training.sweep_model import SweepModel


def simulate(points, each, workers, coordinator):
    """One process hands out points and takes results; workers compute, two points ahead."""
    clock, busy_until = 0.0, [0.0] * workers
    running = []  # (when it ends, worker)
    waiting = points
    inside = [0] * workers
    handled = 0
    for worker in list(range(workers)) * 2:
        if waiting:
            waiting -= 1
            inside[worker] += 1
            busy_until[worker] = max(busy_until[worker], clock) + each
            heapq.heappush(running, (busy_until[worker], worker))
    while running:
        end, worker = heapq.heappop(running)
        clock = max(clock, end) + coordinator  # handing out and taking back cost one piece
        handled += 1
        inside[worker] -= 1
        if waiting:
            waiting -= 1
            busy_until[worker] = max(busy_until[worker], clock) + each
            heapq.heappush(running, (busy_until[worker], worker))
    assert handled == points
    return clock


@pytest.mark.parametrize("each", [0.02, 0.5, 10.0])
@pytest.mark.parametrize("workers", [1, 2, 50, 1000])
def test_the_formula_follows_the_simulation(each, workers):
    points, coordinator = 5000, 0.01
    model = SweepModel(coordinator)
    expected = simulate(points, each, workers, coordinator)
    assert model.seconds(points, each, workers) == pytest.approx(expected, rel=0.03)


def test_limits():
    model = SweepModel(0.01, latency=0.5, startup=3.0)
    assert model.seconds(1, 2.0, 1) == 3.0 + 2.5
    assert model.seconds(100, 0.0, 10_000) == pytest.approx(3.0 + 1.0)
    assert model.seconds(10, 1.0, 3) == 3.0 + 4 * 1.5
    assert model.most_workers(1.0) == 100.0
    assert SweepModel(1e-9).efficiency(1000, 1.0, 10) == pytest.approx(1.0)
    assert SweepModel(0.01).efficiency(10_000, 1.0, 1000) == pytest.approx(0.099, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": 0.0}, "coordinator"),
        ({"coordinator": 1.0, "latency": -1.0}, "latency"),
        ({"coordinator": 1.0, "startup": -1.0}, "startup"),
    ],
)
def test_impossible_constants_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SweepModel(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"), [((0, 1, 1), "points"), ((1, -1, 1), "each"), ((1, 1, 0), "workers")]
)
def test_impossible_sweeps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SweepModel(1.0).seconds(*arguments)
