"""The price of not fitting: formula against exact sums, brute force and simulation."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch

from enough.overparameterization import (
    expected_items,
    fitting_price,
    head_tail_frequencies,
    simulate_long_tail,
    singleton_cost,
    uniform_frequencies,
    zipf_frequencies,
)


def exact_price(frequencies, n, times):
    """The defining ratio in rational arithmetic."""
    p = [Fraction(f) for f in frequencies]
    top = sum(f ** (times + 1) * (1 - f) ** (n - times) for f in p)
    bottom = sum(f**times * (1 - f) ** (n - times) for f in p)
    return top / bottom


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("times", [0, 1, 2, 5])
def test_price_equals_rational_arithmetic(n, times):
    if times > n:
        times = n
    p = np.array([1, 2, 3, 10, 16]) / 32
    assert fitting_price(p, n, times) == pytest.approx(float(exact_price(p, n, times)), rel=1e-12)


def test_price_and_counts_by_enumeration_of_all_samples():
    """Every sequence of samples, weighted by its probability."""
    p, n = np.array([0.5, 0.3, 0.15, 0.05]), 5
    for times in range(n + 1):
        items = mass = 0.0
        for sample in itertools.product(range(4), repeat=n):
            chance = np.prod(p[list(sample)])
            often = np.bincount(sample, minlength=4) == times
            items += chance * often.sum()
            mass += chance * p[often].sum()
        assert expected_items(p, n, times) == pytest.approx(items, rel=1e-10)
        assert fitting_price(p, n, times) == pytest.approx(mass / items, rel=1e-10)


def test_price_does_not_underflow():
    """The factors are below the smallest double; the ratio is not."""
    p, n, times = head_tail_frequencies(100, 50, 0.5), 200_000, 1
    value = fitting_price(p, n, times)
    assert value == pytest.approx(0.01, rel=1e-12)
    assert expected_items(p, n, times) == 0.0


def test_uniform_price_is_the_frequency():
    p = uniform_frequencies(37)
    for n, times in ((10, 1), (1000, 1), (1000, 30)):
        assert fitting_price(p, n, times) == pytest.approx(1 / 37, rel=1e-10)


def test_an_item_that_is_always_seen():
    assert fitting_price([1.0, 0.0], 7, 7) == 1.0
    with pytest.raises(ValueError, match="multiplicity: expected a number of times that some"):
        fitting_price([1.0], 7, 1)


def test_known_values():
    """The prototype's n tau_1, and a numerical example quoted for the paper: 0.47/n, 17 %."""
    assert 1000 * fitting_price(zipf_frequencies(2000), 1000) == pytest.approx(0.413, abs=5e-4)
    p = zipf_frequencies(50_000)
    assert 50_000 * fitting_price(p, 50_000) == pytest.approx(0.47, abs=5e-3)
    assert expected_items(p, 50_000) / 50_000 == pytest.approx(0.17, abs=5e-3)


def test_frequencies_add_up_and_have_their_shape():
    zipf = zipf_frequencies(6, 2.0)
    assert zipf.dtype == torch.float64
    assert float(zipf.sum()) == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(zipf[0] / zipf, np.arange(1, 7) ** 2.0)
    head = head_tail_frequencies(10, 2, 0.1)
    np.testing.assert_allclose(head, [0.45] * 2 + [0.0125] * 8)
    np.testing.assert_allclose(head_tail_frequencies(3, 1, 0.0), [1.0, 0.0, 0.0])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_simulated_gap_agrees_with_the_formula(noise):
    p, n, classes = zipf_frequencies(400), 300, 4
    found = simulate_long_tail(p, n, classes, noise_rate=noise, draws=400, generator=0)
    assert found.gap.shape == (400,)
    expected = singleton_cost(p, n, classes, noise)
    error = float(found.gap.std()) / 20
    assert float(found.gap.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.1 * expected
    items = expected_items(p, n)
    assert float(found.items.mean()) == pytest.approx(items, abs=4 * float(found.items.std()) / 20)
    price = float(found.mass.sum() / found.items.sum())
    assert price == pytest.approx(fitting_price(p, n), rel=0.02)


def test_simulation_of_items_seen_twice():
    p, n = zipf_frequencies(300), 400
    found = simulate_long_tail(p, n, 5, multiplicity=2, draws=300, generator=1)
    expected = fitting_price(p, n, 2) * expected_items(p, n, 2) * (1 - 1 / 5)
    assert float(found.gap.mean()) == pytest.approx(
        expected, abs=4 * float(found.gap.std()) / 300**0.5
    )


def test_fitting_error_without_noise_is_the_unseen_mass():
    """A seen item is right; an unseen one is right once in K times."""
    p, n, classes = zipf_frequencies(200), 150, 8
    found = simulate_long_tail(p, n, classes, draws=500, generator=2)
    unseen = float((p * (1 - p) ** n).sum())
    assert float(found.fitting_error.mean()) == pytest.approx(unseen * (1 - 1 / 8), rel=0.03)


def test_labels_that_are_always_wrong_are_worse_than_guesses():
    found = simulate_long_tail(zipf_frequencies(300), 200, 4, noise_rate=1.0, draws=50, generator=3)
    assert singleton_cost(zipf_frequencies(300), 200, 4, 1.0) < 0
    assert float(found.gap.mean()) < 0


def test_one_class_label_seen_many_times_survives_noise():
    """The majority is right although a quarter of the labels is wrong."""
    found = simulate_long_tail(
        uniform_frequencies(20), 4000, 3, noise_rate=0.25, draws=3, generator=4
    )
    assert found.fitting_error.tolist() == [0.0, 0.0, 0.0]


def test_known_singletons_replace_the_expectation():
    p = zipf_frequencies(50)
    one = singleton_cost(p, 30, 2, singletons=1.0)
    assert one == pytest.approx(fitting_price(p, 30) / 2)
    assert singleton_cost(p, 30, 2, singletons=8.0) == pytest.approx(8 * one)
    assert singleton_cost(p, 30, 2) == pytest.approx(one * expected_items(p, 30))


def test_binomial_coefficients_are_exact_enough():
    p = uniform_frequencies(4)
    for times in range(11):
        expected = 4 * comb(10, times) * 0.25**times * 0.75 ** (10 - times)
        assert expected_items(p, 10, times) == pytest.approx(expected, rel=1e-9)


def test_the_same_seed_gives_the_same_draws():
    a, b = (simulate_long_tail(zipf_frequencies(50), 40, 3, draws=3, generator=7) for _ in range(2))
    assert torch.equal(a.gap, b.gap)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fitting_price([0.5, 0.4], 3), "frequencies: expected a sum of 1, got 0.9"),
        (lambda: fitting_price([1.5, -0.5], 3), "frequencies: expected entries >= 0"),
        (lambda: fitting_price([[1.0]], 3), r"frequencies: expected 1 dimension\(s\)"),
        (lambda: fitting_price([0.5, 0.5], 0), "n_samples: expected a number >= 1"),
        (lambda: fitting_price([0.5, 0.5], 3, 4), "multiplicity: expected a number <= 3"),
        (lambda: expected_items([0.5, 0.5], 3, -1), "multiplicity: expected a number >= 0"),
        (lambda: singleton_cost([0.5, 0.5], 3, 1), "n_classes: expected a number >= 2"),
        (lambda: singleton_cost([0.5, 0.5], 3, 2, 1.5), "noise_rate: expected a number <= 1"),
        (lambda: zipf_frequencies(0), "n_items: expected a number >= 1"),
        (lambda: zipf_frequencies(3, -1), "exponent: expected a number >= 0"),
        (lambda: head_tail_frequencies(5, 5, 0.1), "n_head: expected a number <= 4"),
        (lambda: head_tail_frequencies(5, 2, 1.0), "tail_mass: expected a number < 1"),
        (
            lambda: simulate_long_tail([0.5, 0.5], 3, multiplicity=0),
            "multiplicity: expected a number >= 1",
        ),
        (lambda: simulate_long_tail([0.5, 0.5], 3, draws=0), "draws: expected a number >= 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
