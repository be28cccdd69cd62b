"""Imperfect verifiers against enumeration and simulation; pass@k against all subsets."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from enough.rewards import (
    best_of_n,
    optimal_tries,
    pass_at_k,
    pass_hat_k,
    resampling_accuracy,
    resampling_outcome,
)

# The two kinds of problems of the fLaws world: 60 % that are solved often, 40 % never.
WORLD = {"p_correct": [0.6, 0.0], "p_false_positive": 0.1, "weights": [0.6, 0.4]}


def try_by_try(p, t, f, n):
    """Return accuracy, error, abstention and expected tries, one try after another."""
    going, right, wrong, tries = 1.0, 0.0, 0.0, 0.0
    for _ in range(n):
        tries += going
        right += going * p * t
        wrong += going * (1 - p) * f
        going *= p * (1 - t) + (1 - p) * (1 - f)
    return right, wrong, going, tries


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.3, 1.0])
@pytest.mark.parametrize("f", [0.0, 1e-9, 0.2, 1.0])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_accuracy_try_by_try(p, f, n):
    right, wrong, none, tries = try_by_try(p, 1.0, f, n)
    assert resampling_accuracy(p, f, n) == pytest.approx(right, rel=1e-13, abs=1e-300)
    found = resampling_outcome(p, f, n)
    assert found.accuracy == pytest.approx(right, rel=1e-13, abs=1e-300)
    assert found.error == pytest.approx(wrong, rel=1e-13, abs=1e-300)
    assert found.abstention == pytest.approx(none, rel=1e-12)
    assert found.tries == pytest.approx(tries, rel=1e-13)


def test_accuracy_by_simulation():
    draw = np.random.RandomState(0)
    p, f, n, size = 0.2, 0.15, 6, 200_000
    right = draw.random_sample((size, n)) < p
    accepted = right | (draw.random_sample((size, n)) < f)
    first = accepted.argmax(1)
    hit = (accepted.any(1) & right[np.arange(size), first]).mean()
    assert resampling_accuracy(p, f, n) == pytest.approx(hit, abs=4 * 0.5 / math.sqrt(size))


def test_known_accuracies():
    assert resampling_accuracy(0.25, 0.0, 4) == pytest.approx(1 - 0.75**4, abs=1e-15)
    assert resampling_accuracy(0.25, 1.0, 4) == pytest.approx(0.25, abs=1e-15)  # no verifier
    assert resampling_accuracy(0.6, 0.1, 10**9) == pytest.approx(0.6 / 0.64, abs=1e-15)
    assert resampling_accuracy(0.0, 0.0, 5) == 0.0
    table = resampling_accuracy(np.array([[0.1], [0.5]]), 0.2, [1, 5, 9])
    assert table.shape == (2, 3)
    assert table[1, 2] == resampling_accuracy(0.5, 0.2, 9)
    tensor = resampling_accuracy(torch.tensor(0.5), 0.2, torch.tensor([1, 9]))
    assert isinstance(tensor, torch.Tensor)
    assert float(tensor[1]) == pytest.approx(table[1, 2], abs=1e-7)


def test_precision_does_not_depend_on_tries():
    found = resampling_outcome(0.3, 0.2, [1, 2, 10, 1000], p_true_positive=0.9)
    np.testing.assert_allclose(found.precision, 0.27 / (0.27 + 0.14), rtol=1e-13)
    # Over problems of different difficulty it falls.
    mixed = resampling_outcome(**WORLD, n=[1, 2, 5, 50]).precision
    assert np.all(np.diff(mixed) < 0)
    assert math.isnan(resampling_outcome(0.0, 0.0, 3).precision)


def test_population_with_every_price():
    p, f, t = [0.6, 0.1, 0.0], [0.1, 0.3, 0.05], [0.9, 0.7, 1.0]
    weights = [0.5, 0.3, 0.2]
    found = resampling_outcome(
        p,
        f,
        [0, 1, 7],
        p_true_positive=t,
        weights=weights,
        value=2.0,
        error_cost=3.0,
        abstention_value=-0.5,
        try_cost=0.01,
    )
    for i, n in enumerate((0, 1, 7)):
        rows = np.array([try_by_try(*one, n) for one in zip(p, t, f, strict=True)])
        right, wrong, none, tries = np.array(weights) @ rows
        assert found.accuracy[i] == pytest.approx(right, abs=1e-14)
        assert found.error[i] == pytest.approx(wrong, abs=1e-14)
        assert found.abstention[i] == pytest.approx(none, abs=1e-14)
        assert found.tries[i] == pytest.approx(tries, abs=1e-13)
        utility = 2 * right - 3 * wrong - 0.5 * none - 0.01 * tries
        assert found.utility[i] == pytest.approx(utility, abs=1e-13)
    assert found.accuracy[0] == found.tries[0] == 0.0
    assert found.abstention[0] == 1.0


@pytest.mark.parametrize(("cost", "n", "at_100"), [(1, 3, 0.13), (2, 2, -0.31), (4, 1, -1.19)])
def test_two_kinds_of_problems(cost, n, at_100):
    assert resampling_outcome(**WORLD, n=100, error_cost=cost).utility == pytest.approx(
        at_100, abs=6e-3
    )
    best = optimal_tries(**WORLD, error_cost=cost)
    assert best.n == n
    curve = resampling_outcome(**WORLD, n=range(200), error_cost=cost).utility
    assert curve.argmax() == n
    assert best.utility == pytest.approx(curve.max(), abs=1e-13)


def test_without_costs_every_try_helps():
    best = optimal_tries(**WORLD)
    assert best.n == math.inf
    assert best.utility == pytest.approx(0.6 * 0.6 / 0.64, abs=1e-14)


@pytest.mark.parametrize("seed", range(40))
def test_optimal_tries_equal_a_search(seed):
    draw = np.random.RandomState(seed)
    size = draw.randint(1, 5)
    prices = {
        "value": 1.0,
        "error_cost": draw.choice([0.0, 0.5, 2.0, 8.0]),
        "abstention_value": draw.choice([0.0, -0.3, 0.2]),
        "try_cost": draw.choice([0.0, 0.003, 0.05]),
        "p_true_positive": draw.uniform(0.5, 1.0, size),
        "weights": draw.dirichlet(np.ones(size)),
    }
    rates = (draw.uniform(0.02, 0.9, size), draw.uniform(0.0, 0.4, size))
    best = optimal_tries(*rates, **prices)
    curve = resampling_outcome(*rates, range(3000), **prices).utility
    assert best.utility == pytest.approx(curve.max(), abs=1e-12)
    if best.n == math.inf:
        assert curve[-1] == pytest.approx(curve.max(), abs=1e-12)
    else:
        assert curve[best.n] == pytest.approx(curve.max(), abs=1e-12)
        assert np.all(curve[: best.n] < curve[best.n])


def test_optimal_tries_at_the_edges():
    assert optimal_tries(0.0, 0.5, error_cost=1.0) == (0, 0.0)  # abstain
    assert optimal_tries(0.0, 0.0) == (0, 0.0)  # nothing is ever accepted
    assert optimal_tries(0.5, 0.5, error_cost=2.0) == (0, 0.0)  # right and wrong cancel
    assert optimal_tries(1.0, 0.0, try_cost=0.1, max_n=1) == (1, pytest.approx(0.9))
    assert optimal_tries(1.0, 0.0) == (1, 1.0)
    # Wrong answers of an easy problem end early: the rare right ones win in the end.
    rare = optimal_tries([0.0, 0.05], [0.9, 0.0], error_cost=0.3)
    assert rare == (math.inf, pytest.approx(0.5 - 0.15))
    # A rise, a fall that costs more than the last rise brings back.
    fall = optimal_tries([1.0, 0.0, 0.01], [0.0, 0.2, 0.0], weights=[0.5, 0.4, 0.1], error_cost=2.0)
    assert fall == (1, pytest.approx(0.5 - 0.16 + 0.001))
    with pytest.raises(ValueError, match=r"^max_n: expected more than 5, where utility"):
        optimal_tries([0.02, 0.0], [0.0, 0.001], error_cost=1.0, max_n=5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resampling_accuracy(1.2, 0.0, 1), "^p_correct: .*<= 1"),
        (lambda: resampling_accuracy(0.5, -0.1, 1), "^p_false_positive: .*>= 0"),
        (lambda: resampling_accuracy(math.nan, 0.1, 1), "^p_correct"),
        (lambda: resampling_accuracy(0.5, 0.1, 0), "^n: "),
        (lambda: resampling_accuracy(0.5, 0.1, 1.5), "^n: "),
        (lambda: resampling_accuracy([0.5, 0.1], 0.1, [1, 2, 3]), "^p_correct, .*broadcast"),
        (lambda: resampling_outcome(0.5, 0.1, -1), "^n: "),
        (lambda: resampling_outcome([0.5], [0.1, 0.2, 0.3], 1, weights=[1.0]), "^weights"),
        (lambda: resampling_outcome([0.5, 0.5], [0.1, 0.2, 0.3], 1), "^p_correct, .*broadcast"),
        (lambda: resampling_outcome([[0.5]], 0.1, 1), "^p_correct: expected 0 or 1"),
        (lambda: resampling_outcome([0.5, 0.2], 0.1, 1, weights=[0.5, 0.6]), "^weights: .*sum"),
        (lambda: resampling_outcome(0.5, 0.1, 1, p_true_positive=2.0), "^p_true_positive"),
        (lambda: resampling_outcome(0.5, 0.1, 1, error_cost=-1.0), "^error_cost"),
        (lambda: resampling_outcome(0.5, 0.1, 1, try_cost=-1.0), "^try_cost"),
        (lambda: optimal_tries(0.5, 0.1, value=math.inf), "^value"),
        (lambda: optimal_tries(0.5, 0.1, max_n=0), "^max_n"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# pass@k.


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_passes_equal_all_subsets(n):
    for c in range(n + 1):
        samples = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            some = float(Fraction(sum(any(s) for s in subsets), len(subsets)))
            every = float(Fraction(sum(all(s) for s in subsets), len(subsets)))
            assert pass_at_k(n, c, k) == pytest.approx(some, abs=1e-15)
            assert pass_hat_k(n, c, k) == pytest.approx(every, abs=1e-15)


def test_passes_of_many_samples_equal_fractions():
    for n, c, k in ((200, 3, 100), (10_000, 17, 4000), (10_000, 4000, 3), (30_000, 9000, 21_000)):
        miss = Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(1 - miss), rel=1e-12)
        every = Fraction(math.comb(c, k), math.comb(n, k))
        assert pass_hat_k(n, c, k) == pytest.approx(float(every), rel=1e-10)
    assert pass_at_k(10**9, 1, 1) == pytest.approx(1e-9, rel=1e-15)


def test_passes_at_the_edges():
    zero = pass_at_k(5, 0, 5)
    assert (zero, math.copysign(1.0, zero)) == (0.0, 1.0)
    assert pass_at_k(5, 1, 5) == 1.0
    assert pass_at_k(5, 3, 3) == 1.0
    assert pass_hat_k(5, 2, 3) == 0.0
    assert pass_hat_k(5, 5, 5) == 1.0


def test_pass_at_k_is_best_of_n_with_a_perfect_verifier():
    right = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    k = np.arange(1, 8)
    np.testing.assert_allclose(pass_at_k(7, 2, k), best_of_n(right, right, k).gold, atol=1e-14)


def test_passes_broadcast():
    found = pass_at_k([[5], [9]], [[1], [3]], [1, 2, 5])
    assert found.shape == (2, 3)
    for i, (n, c) in enumerate(((5, 1), (9, 3))):
        for j, k in enumerate((1, 2, 5)):
            assert found[i, j] == pytest.approx(pass_at_k(n, c, k), abs=1e-15)
    tensor = pass_at_k(5, torch.tensor([0, 1, 5]), 2)
    torch.testing.assert_close(tensor, torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    assert type(pass_at_k(np.int64(5), 1, 2)) is float


@pytest.mark.parametrize("function", [pass_at_k, pass_hat_k])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 0, 6), "^k: expected at most n = 5, got 6"),
        ((5, 6, 1), "^c: expected at most n = 5, got 6"),
        (([5, 9], [2, 2], [5, 10]), "^k: expected at most n = 9, got 10"),
        ((5, -1, 1), "^c: "),
        ((5, 1, 0), "^k: "),
        ((0, 0, 1), "^n: "),
        ((5.5, 1, 1), "^n: expected whole"),
        (([5, 6], [1, 2, 3], 1), "^n, c, k: .*broadcast"),
    ],
)
def test_bad_passes_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
