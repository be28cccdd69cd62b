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


def share(points, each, workers, coordinator, cores, slices=400):
    """Give every process that has work an equal part of the cores, a moment at a time."""
    handed, done, back = 0, 0, 0  # points with the workers, computed, and taken back
    left = [0.0] * workers  # work of each worker's present point
    toll, clock, moment = 0.0, 0.0, each / slices
    while done < points:
        for w in range(workers):
            if left[w] <= 1e-12 and handed < points:
                left[w], handed = each, handed + 1
        busy = [w for w in range(workers) if left[w] > 1e-12]
        part = min(1.0, cores / max(1, len(busy) + (back > 0))) * moment
        clock += moment
        for w in busy:
            left[w] -= part
            back += left[w] <= 1e-12
        if back:
            toll += part
            if toll >= coordinator:
                toll, back, done = toll - coordinator, back - 1, done + 1
    return clock


@pytest.mark.parametrize(("workers", "cores"), [(1, 2), (2, 2), (4, 2), (2, 4)])
def test_shared_cores_follow_a_simulation_of_their_slices(workers, cores):
    points, each, coordinator = 60, 0.05, 0.01
    expected = share(points, each, workers, coordinator, cores)
    found = SweepModel(coordinator).seconds(points, each, workers, cores=cores)
    assert found == pytest.approx(expected, rel=0.06)


def test_bytes_add_to_what_the_coordinator_spends():
    model = SweepModel(0.01, per_byte=1e-8)
    assert model.overhead() == 0.01
    assert model.overhead(1e6) == pytest.approx(0.02)
    assert model.seconds(100, 0.1, 1000, size=1e6) == pytest.approx(100 * 0.02 + 0.1)
    assert model.most_workers(1.0, size=1e6) == pytest.approx(50.0)
    assert model.efficiency(10_000, 1.0, 1000, size=1e6) == pytest.approx(0.0498, abs=1e-4)


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
        ({"coordinator": 1.0, "per_byte": -1.0}, "per_byte"),
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


@pytest.mark.parametrize(("options", "message"), [({"size": -1}, "size"), ({"cores": 0}, "cores")])
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SweepModel(1.0).seconds(1, 1, 1, **options)
