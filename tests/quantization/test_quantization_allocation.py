"""Bit allocation against brute force."""

import itertools
import math

import numpy as np
import pytest

from enough.quantization import allocate_bits, allocate_bits_greedily, minimize_size

COST = {"a": {2: 0.159, 3: 0.02, 8: 0.0}, "b": {2: 0.032, 3: 0.01, 8: 0.001}}
SIZE = {"a": 144, "b": 4608}


def brute_force(cost, size, most, objective, use):
    """Best objective over every choice whose use is at most ``most``; None if there is none."""
    best = None
    for choice in itertools.product(*(cost[layer] for layer in cost)):
        pairs = list(zip(cost, choice, strict=True))
        if math.fsum(use(layer, bits) for layer, bits in pairs) <= most:
            value = math.fsum(objective(layer, bits) for layer, bits in pairs)
            best = value if best is None else min(best, value)
    return best


def random_problem(seed, layers=5, spread=1.0):
    rng = np.random.default_rng(seed)
    cost = {
        f"layer{i}": {
            int(b): float(10 ** (-spread * rng.uniform(0, 4)) * rng.normal(1, 1))
            for b in rng.permutation([2, 3, 4, 5, 8])[: rng.integers(1, 6)]
        }
        for i in range(layers)
    }
    size = {layer: int(10 ** rng.uniform(0, 6)) for layer in cost}
    return cost, size


def total(cost, answer):
    return math.fsum(cost[layer][bits] for layer, bits in answer.items())


def bits_used(size, answer):
    return math.fsum(size[layer] * bits for layer, bits in answer.items())


@pytest.mark.parametrize("seed", range(20))
def test_allocation_equals_brute_force(seed):
    cost, size = random_problem(seed, spread=1.0 + seed % 3)
    low = sum(size[n] * min(cost[n]) for n in cost)
    high = sum(size[n] * max(cost[n]) for n in cost)
    for share in (0.0, 0.1, 0.37, 0.6, 1.0):
        budget = low + share * (high - low)
        answer = allocate_bits(cost, size, budget)
        assert list(answer) == list(cost)
        assert bits_used(size, answer) <= budget
        best = brute_force(cost, size, budget, lambda n, b: cost[n][b], lambda n, b: size[n] * b)
        assert total(cost, answer) == pytest.approx(best, rel=1e-12, abs=1e-15)
        greedy = allocate_bits_greedily(cost, size, budget)
        assert bits_used(size, greedy) <= budget
        assert total(cost, greedy) >= best - 1e-15


@pytest.mark.parametrize("seed", range(10))
def test_operations_budget_equals_brute_force(seed):
    cost, size = random_problem(100 + seed, layers=4)
    rng = np.random.default_rng(seed)
    operations = {n: int(10 ** rng.uniform(2, 7)) for n in cost}
    low = sum(operations[n] * min(cost[n]) ** 2 for n in cost)
    budget = 1.5 * low
    answer = allocate_bits(cost, size, operations=operations, operations_budget=budget)
    best = brute_force(
        cost, size, budget, lambda n, b: cost[n][b], lambda n, b: operations[n] * b * b
    )
    assert total(cost, answer) == pytest.approx(best, rel=1e-12, abs=1e-15)
    eight = allocate_bits(
        cost,
        size,
        operations=operations,
        operations_budget=8 * budget,
        activation_bits=8,
    )
    best = brute_force(
        cost, size, 8 * budget, lambda n, b: cost[n][b], lambda n, b: operations[n] * b * 8
    )
    assert total(cost, eight) == pytest.approx(best, rel=1e-12, abs=1e-15)
    by_layer = dict.fromkeys(cost, 8)
    assert eight == allocate_bits(
        cost, size, operations=operations, operations_budget=8 * budget, activation_bits=by_layer
    )


@pytest.mark.parametrize("seed", range(10))
def test_dual_equals_brute_force(seed):
    cost, size = random_problem(200 + seed, layers=4)
    low = sum(min(cost[n].values()) for n in cost)
    high = sum(max(cost[n].values()) for n in cost)
    for share in (0.01, 0.2, 0.7):
        loss = low + share * (high - low)
        answer = minimize_size(cost, size, loss)
        assert total(cost, answer) <= loss
        best = brute_force(cost, size, loss, lambda n, b: size[n] * b, lambda n, b: cost[n][b])
        assert bits_used(size, answer) == best


def test_both_budgets_hold_at_once():
    operations = {"a": 1_000_000, "b": 1000}
    budget, most = 3.2 * sum(SIZE.values()), 10_000_000
    answer = allocate_bits(COST, SIZE, budget, operations=operations, operations_budget=most)
    choices = [
        (COST["a"][a] + COST["b"][b], {"a": a, "b": b})
        for a in COST["a"]
        for b in COST["b"]
        if 144 * a + 4608 * b <= budget and 1_000_000 * a * a + 1000 * b * b <= most
    ]
    assert answer == min(choices, key=lambda pair: pair[0])[1]
    assert answer["a"] == 3  # 8 bits would fit into the storage, not into the operations


def test_many_layers_are_fast_and_beat_the_greedy_choice():
    cost, size = random_problem(3, layers=54)
    low = sum(size[n] * min(cost[n]) for n in cost)
    answer = allocate_bits(cost, size, 1.3 * low)
    greedy = allocate_bits_greedily(cost, size, 1.3 * low)
    assert bits_used(size, answer) <= 1.3 * low
    assert total(cost, answer) <= total(cost, greedy) + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_many_layers_equal_dynamic_programming(seed):
    rng = np.random.default_rng(seed)
    widths = (2, 3, 4, 8)
    size = {i: int(n) for i, n in enumerate(rng.integers(1, 40, 40))}
    cost = {
        i: {b: float(rng.lognormal(0, 1) * 4.0**-b * n) for b in widths} for i, n in size.items()
    }
    budget = int(3.1 * sum(size.values()))
    best = np.zeros(budget + 1)  # least cost of the layers so far, by bits still unused
    for i, n in size.items():
        shifted = [np.concatenate([np.full(n * b, np.inf), best[: -n * b]]) for b in widths]
        best = np.min([cost[i][b] + s for b, s in zip(widths, shifted, strict=True)], axis=0)
    answer = allocate_bits(cost, size, budget)
    assert bits_used(size, answer) <= budget
    assert total(cost, answer) == pytest.approx(best.min(), rel=1e-9)


def test_greedy_choice_can_be_worse():
    # The best rate fills the budget with the small layer and leaves no room for the large one.
    cost = {"small": {1: 1.0, 2: 0.0}, "large": {1: 9.0, 2: 0.0}}
    size = {"small": 1, "large": 10}
    assert allocate_bits_greedily(cost, size, 21) == {"small": 2, "large": 1}
    assert allocate_bits(cost, size, 21) == {"small": 1, "large": 2}


def test_budget_met_with_equality_counts():
    least = 2 * (144 + 4608)
    assert allocate_bits(COST, SIZE, least) == {"a": 2, "b": 2}
    assert allocate_bits(COST, SIZE, 8 * (144 + 4608)) == {"a": 8, "b": 8}
    # Sums of decimal fractions that do not add up exactly in binary.
    tenths = {i: {1: 0.1, 2: 0.0} for i in range(3)}
    assert minimize_size(tenths, dict.fromkeys(tenths, 1), 0.3) == dict.fromkeys(tenths, 1)


def test_one_unit_below_a_large_budget_is_not_enough():
    cost = {"x": {2: 1.0, 3: 0.0}, "y": {2: 1e-3, 3: 0.0}}
    size = {"x": 900_000_001, "y": 7}
    exact = 3 * size["x"] + 2 * size["y"]
    assert allocate_bits(cost, size, exact) == {"x": 3, "y": 2}
    assert allocate_bits(cost, size, exact - 1) == {"x": 2, "y": 3}


def test_costs_of_very_different_size_are_all_minimized():
    cost = {"huge": {2: 100.0, 4: 0.0}, "tiny": {2: 3e-9, 4: 1e-9}, "tinier": {2: 2e-9, 4: 1e-9}}
    size = dict.fromkeys(cost, 10)
    assert allocate_bits(cost, size, 100) == {"huge": 4, "tiny": 4, "tinier": 2}


def test_layers_can_be_numbered():
    assert allocate_bits([{2: 1.0, 4: 0.0}], [3], 12) == {0: 4}


def test_negative_costs_and_empty_layers_are_legal():
    cost = {"better": {2: -0.1, 4: 0.0}, "empty": {2: 1.0, 8: 0.0}}
    size = {"better": 10, "empty": 0}
    for method in (allocate_bits, allocate_bits_greedily):
        assert method(cost, size, 40) == {"better": 2, "empty": 8}


def test_infeasible_budgets_name_the_smallest_feasible_one():
    with pytest.raises(ValueError, match=r"budget: expected at least 9504, .* got 9503"):
        allocate_bits(COST, SIZE, 9503)
    with pytest.raises(ValueError, match=r"budget: expected at least 9504, .* got 9503"):
        allocate_bits_greedily(COST, SIZE, 9503)
    with pytest.raises(ValueError, match=r"loss_budget: expected at least 0.001, .* got 0.0005"):
        minimize_size(COST, SIZE, 0.0005)
    with pytest.raises(ValueError, match=r"operations_budget: expected at least 80, .* got 79"):
        allocate_bits(COST, SIZE, operations={"a": 10, "b": 10}, operations_budget=79)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((COST, SIZE), "budget: expected a number, or operations_budget"),
        ((COST, {"a": 1}, 100), "size: expected the layers of cost, got 'b' missing"),
        ((COST, {**SIZE, "c": 1}, 100), "size: expected the layers of cost, got unknown layer 'c'"),
        ((COST, {"a": -1, "b": 1}, 100), r"size\['a'\]: expected a number >= 0"),
        ((COST, 7, 100), "size: expected numbers by layer, got int"),
        (({"a": {2: float("nan")}}, {"a": 1}, 100), r"cost\['a'\]\[2\]: expected a finite number"),
        (({"a": {2.5: 0.0}}, {"a": 1}, 100), r"cost\['a'\]: bits: expected a whole number"),
        (({"a": {}}, {"a": 1}, 100), r"cost\['a'\]: expected a mapping"),
        (({}, {}, 100), "cost: expected a mapping with at least one layer"),
        ((COST, SIZE, float("inf")), "budget: expected a finite number"),
        ((COST, SIZE, -1), "budget: expected a number >= 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        allocate_bits(*arguments)


def test_operations_and_their_budget_come_together():
    with pytest.raises(ValueError, match="operations: expected operations by layer"):
        allocate_bits(COST, SIZE, operations_budget=10)
    with pytest.raises(ValueError, match="operations_budget: expected a number"):
        allocate_bits(COST, SIZE, 100_000, operations={"a": 1, "b": 1})
