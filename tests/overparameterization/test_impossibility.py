"""Two worlds, parities and measures, against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from enough.models import MLP
from enough.overparameterization import (
    ParitySolutions,
    enumerate_losses,
    generalization_measures,
    parity_error,
    solve_parity,
    two_worlds,
)
from enough.overparameterization.experiments import parity_point, two_worlds_point, worlds_table


@pytest.mark.parametrize(("d", "n"), [(1, 0), (1, 1), (5, 2), (8, 8), (12, 4)])
def test_worlds_against_a_loop_over_labelings(d, n):
    rng = np.random.default_rng(d * 13 + n)
    h = rng.integers(2, size=d)
    seen = np.zeros(d, dtype=bool)
    seen[rng.permutation(d)[:n]] = True
    losses = [
        np.mean(np.array(world) != h)
        for world in itertools.product((0, 1), repeat=d)
        if (np.array(world)[seen] == h[seen]).all()
    ]
    found = two_worlds(h, seen)
    assert (found.n_points, found.n_seen) == (d, n)
    np.testing.assert_allclose(np.sort(found.losses), np.sort(losses), atol=1e-15)
    assert found.agreeing_error == 0.0
    assert found.random_error == pytest.approx((1 - n / d) / 2, abs=1e-12)
    assert found.smallest_error == pytest.approx((1 - n / d) / 4, abs=1e-12)
    grid = [found.bound_error(b) for b in np.linspace(0, 1, 401)]
    assert min(grid) >= found.smallest_error - 1e-12


def test_the_table_is_the_theorem():
    table = worlds_table(7, predictors=2, seed=1)
    assert len(table) == 2 * sum(range(2, 9))
    assert (table.smallest_error - table.theory).abs().max() < 1e-12
    assert (table[table.n_seen == table.n_points].random_error == 0).all()


@pytest.mark.parametrize("seen", [[], [2], [0, 3, 4]])
def test_no_learner_beats_another_on_average(seen):
    def memorizer(points, labels):
        answer = np.ones(6, dtype=int)
        answer[points] = labels
        return answer

    def contrarian(points, labels):
        answer = np.full(6, 1 - labels.max() if len(labels) else 0)
        answer[points] = labels
        return answer

    for learner in (memorizer, contrarian):
        losses = enumerate_losses(learner, 6, seen)
        assert losses.shape == (64,)
        assert losses.mean() == pytest.approx((1 - len(seen) / 6) / 2, abs=1e-12)
    assert enumerate_losses(lambda p, y: np.zeros(6), 6, seen).mean() == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 6), (6, 6), (9, 6), (4, 8)])
def test_parities_against_brute_force(n, d):
    rng = np.random.default_rng(n * 10 + d)
    for _ in range(5):
        x = rng.integers(2, size=(n, d))
        y = x @ rng.integers(2, size=d) % 2
        words = np.array(list(itertools.product((0, 1), repeat=d)))
        fitting = words[(words @ x.T % 2 == y).all(1)]
        found = solve_parity(x, y)
        assert len(found) == len(fitting)
        assert {tuple(w) for w in found.all()} == {tuple(w) for w in fitting}
        lightest = fitting[fitting.sum(1) == fitting.sum(1).min()]
        assert tuple(found.minimum_weight()) == min(tuple(w) for w in lightest)


def test_the_sparsest_solution_does_not_depend_on_the_order_of_the_sample():
    rng = np.random.default_rng(5)
    x = rng.integers(2, size=(5, 9))
    y = x @ rng.integers(2, size=9) % 2
    order = rng.permutation(5)
    first, second = solve_parity(x, y), solve_parity(x[order], y[order])
    np.testing.assert_array_equal(first.minimum_weight(), second.minimum_weight())


def test_sampling_is_uniform_over_the_solutions():
    found = solve_parity([[1, 1, 0, 0]], [1])
    stream = torch.Generator().manual_seed(0)
    draws = ["".join(map(str, found.sample(stream))) for _ in range(4000)]
    names, counts = np.unique(draws, return_counts=True)
    assert len(names) == 8
    assert all((int(w[0]) + int(w[1])) % 2 == 1 for w in names)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-square with 7 degrees, 0.1 %


@pytest.mark.parametrize("d", [1, 4, 7])
def test_parity_error_by_enumeration(d):
    words = np.array(list(itertools.product((0, 1), repeat=d)))
    rng = np.random.default_rng(d)
    for _ in range(10):
        w, v = rng.integers(2, size=(2, d))
        assert parity_error(w, v) == np.mean(words @ w % 2 != words @ v % 2)


def test_parity_point_by_hand():
    """Gaps from the definition: all worlds that fit, all solutions."""
    found = parity_point(2, d=8, n_samples=5, draws=6, seed=3)
    s = found["solutions"]
    assert (s >= 8).all()
    np.testing.assert_allclose(found["random_error"], (1 - 1 / s) / 2)
    np.testing.assert_allclose(found["sparse_gap"], 0.25)
    np.testing.assert_allclose(found["random_gap"], 1 / (2 * s))
    full = parity_point(3, d=6, n_samples=60, draws=3, seed=0)
    assert (full["solutions"] == 1).all()
    assert not any(
        full[name].any() for name in ("sparse_error", "random_error", "sparse_gap", "random_gap")
    )


def test_measures_of_a_linear_map_by_hand():
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    y = torch.tensor([0, 1, 0, 1])
    start = {"weight": torch.zeros(2, 2)}
    found = generalization_measures(module, start, x, y, scales=(1e-3,), confidence=0.9)
    margin = np.quantile([3, 4, 6, 8], 0.1)
    assert found["norm"] == pytest.approx(5 / 2)
    assert found["margin"] == pytest.approx(5 / 2 / margin)
    assert found["sharpness"] == pytest.approx(5 / (2 * 1e-3 * 2))
    inside = 25 / (2 * 1e-6) + math.log(2 * 2 / 0.1)
    assert found["pac_bayes"] == pytest.approx(math.sqrt(inside / 8), rel=1e-6)


def test_the_scale_is_the_largest_that_keeps_the_training_error():
    """Margins of 0.2: small shakes do nothing, large ones flip labels."""
    module = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.1], [-0.1]]))
    x, y = torch.ones(20, 1), torch.zeros(20, dtype=torch.int64)
    start = {"weight": module.weight.detach() - 1.0}

    def sharpness(scales):
        return generalization_measures(module, start, x, y, scales=scales, draws=200)["sharpness"]

    moved = math.sqrt(2)
    chosen = moved / (2 * math.sqrt(20)) / sharpness((0.01, 0.03, 10.0))
    assert chosen == pytest.approx(0.03, rel=1e-6)
    # Too large from the start: the smallest stands in.
    assert moved / (2 * math.sqrt(20)) / sharpness((5.0, 10.0)) == pytest.approx(5.0, rel=1e-6)


def test_a_misfit_has_no_margin():
    module = MLP([2, 2], generator=0)
    x = torch.ones(3, 2)
    y = torch.full((3,), int(1 - module(x)[0].argmax()))
    start = {name: value.detach() for name, value in module.named_parameters()}
    found = generalization_measures(module, start, x, y)
    assert found["margin"] == math.inf
    assert found["sharpness"] == 0.0


def test_networks_in_two_worlds():
    found = two_worlds_point(draws=2, n_samples=200, width=24, epochs=80, seed=0)
    for values in found["measures"].values():
        assert values.shape == (2, 2)
        np.testing.assert_array_equal(values[0], values[1])
    assert (found["train_error"] == 0).all()
    unseen = 1 - 200 / 1797
    np.testing.assert_allclose(found["population_error"][1], 0.9 * unseen, atol=0.04)
    np.testing.assert_allclose(found["population_error"][0], 0, atol=1e-12)
    rows, labels = found["rows"], found["labels"]
    np.testing.assert_array_equal(labels[0][rows], labels[1][rows])


def test_when_all_is_seen_the_worlds_are_one():
    found = two_worlds_point(draws=2, n_samples=1797, width=8, epochs=1, seed=0)
    np.testing.assert_array_equal(found["population_error"][0], found["population_error"][1])
    np.testing.assert_array_equal(found["labels"][0], found["labels"][1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: two_worlds([0, 1], [True]), r"seen: expected shape \(2\), got"),
        (lambda: two_worlds([0, 1], [1, 0]), "seen: expected booleans"),
        (lambda: two_worlds([0, 2], [True, True]), "predictions: expected entries <= 1"),
        (lambda: two_worlds([0] * 13, [True] * 13), "predictions: points: expected a number <= 12"),
        (lambda: two_worlds([0, 1], [True, False]).bound_error(math.nan), "bound: expected a fin"),
        (lambda: enumerate_losses(lambda p, y: [0], 2, [0]), "learner: expected 2 predictions"),
        (lambda: enumerate_losses(lambda p, y: [0], 2, [0, 0]), "seen: expected distinct points"),
        (lambda: enumerate_losses(lambda p, y: [0], 2, [5]), "seen: expected points in 0 to 1"),
        (lambda: solve_parity([[1, 1], [1, 1]], [0, 1]), "y: expected labels that some parity"),
        (lambda: solve_parity([[1, 2]], [0]), "x: expected entries <= 1"),
        (lambda: solve_parity([[1, 1]], [0, 1]), r"y: expected shape \(1\), got"),
        (
            lambda: ParitySolutions(np.zeros(30), np.eye(21, 30)).all(),
            "null_basis: dimension: expected a number <= 20",
        ),
        (lambda: parity_error([0, 1], [0]), r"v: expected shape \(2\), got"),
        (
            lambda: generalization_measures(
                nn.Linear(1, 2), {}, torch.ones(2, 1), torch.tensor([0, 1])
            ),
            "start: expected the parameter 'bias'",
        ),
        (
            lambda: generalization_measures(
                nn.Linear(1, 2), {}, torch.ones(2, 1), torch.tensor([0, 1]), scales=(0.2, 0.1)
            ),
            "scales: expected rising numbers",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
