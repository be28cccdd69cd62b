"""Memorization and influence: the estimator against enumeration and exact retraining."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from enough.overparameterization import (
    InfluenceEstimate,
    random_subsets,
    subset_influence,
    train_on_subsets,
)


def nearest_mean(x, y, queries):
    """Predicted class of a learner without randomness."""
    centers = np.stack([x[y == c].mean(0) if (y == c).any() else np.full(2, 1e9) for c in (0, 1)])
    return ((queries[:, None] - centers) ** 2).sum(-1).argmin(1)


@pytest.fixture
def small_task():
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 0, 0, 1, 1, 1])
    x = rng.normal(size=(7, 2)) + 1.5 * y[:, None]
    tests = rng.normal(size=(9, 2)) + 0.7
    return x, y, tests, (tests.sum(1) > 1.4).astype(int)


def all_subsets(n, size):
    member = np.zeros((len(list(itertools.combinations(range(n), size))), n), dtype=bool)
    for row, chosen in zip(member, itertools.combinations(range(n), size), strict=True):
        row[list(chosen)] = True
    return member


def test_influence_over_all_subsets_equals_the_definition(small_task):
    """All subsets of one size: the estimate is exact, and known by enumeration."""
    x, y, tests, labels = small_task
    member = all_subsets(7, 5)
    right = np.stack([nearest_mean(x[m], y[m], tests) == labels for m in member]).astype(float)
    influence, _ = subset_influence(member, right)
    assert isinstance(influence, np.ndarray)
    for i in range(7):
        for j in range(len(tests)):
            inside = [right[t, j] for t in range(len(member)) if member[t, i]]
            outside = [right[t, j] for t in range(len(member)) if not member[t, i]]
            assert influence[i, j] == pytest.approx(np.mean(inside) - np.mean(outside), abs=1e-12)


def test_memorization_is_the_influence_on_oneself(small_task):
    x, y, tests, labels = small_task
    member = all_subsets(7, 4)
    train = np.stack([nearest_mean(x[m], y[m], x) == y for m in member]).astype(float)
    test = np.stack([nearest_mean(x[m], y[m], tests) == labels for m in member]).astype(float)
    estimate = InfluenceEstimate(*(torch.as_tensor(a) for a in (member, train, test)))
    influence, error = subset_influence(member, train)
    np.testing.assert_allclose(estimate.memorization, np.diag(influence), atol=1e-12)
    np.testing.assert_allclose(estimate.memorization_se, np.diag(error), atol=1e-12)
    half = estimate.half(1)
    assert torch.equal(half.membership, estimate.membership[1::2])
    np.testing.assert_allclose(half.influence, subset_influence(member[1::2], test[1::2])[0])


def test_standard_error_is_welch():
    rng = np.random.default_rng(1)
    member = rng.random((40, 3)) < 0.6
    outcome = rng.normal(size=(40, 2))
    _, error = subset_influence(member, outcome)
    for i in range(3):
        a, b = outcome[member[:, i]], outcome[~member[:, i]]
        expected = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
        np.testing.assert_allclose(error[i], expected, rtol=1e-10)


def test_standard_error_covers_the_spread_over_repetitions():
    """The mean squared standard error is the variance of the estimate."""
    rng = np.random.default_rng(2)
    values, errors = [], []
    for _ in range(400):
        member = rng.random((60, 1)) < 0.7
        outcome = (rng.random((60, 1)) < np.where(member, 0.9, 0.4)).astype(float)
        value, error = subset_influence(member, outcome)
        values.append(value[0, 0])
        errors.append(error[0, 0])
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / 20)
    assert np.mean(np.square(errors)) == pytest.approx(np.var(values), rel=0.25)


def test_trained_ensemble_equals_least_squares_on_each_subset():
    """A linear model trained to convergence against the closed form."""
    stream = torch.Generator().manual_seed(3)
    x = torch.randn(12, 3, dtype=torch.float64, generator=stream)
    y = torch.randn(12, 1, dtype=torch.float64, generator=stream)
    tests = torch.randn(4, 3, dtype=torch.float64, generator=stream)
    targets = torch.randn(4, 1, dtype=torch.float64, generator=stream)

    def squared_error(prediction, target):
        return (prediction - target).square().sum(-1)

    estimate = train_on_subsets(
        lambda generator: nn.Linear(3, 1, bias=False, dtype=torch.float64),
        x,
        y,
        tests,
        targets,
        n_models=8,
        share=0.75,
        seed=0,
        outcome=squared_error,
        loss="mse",
        optimizer="sgd",
        lr=0.2,
        steps=1500,
        progress=False,
    )
    assert estimate.membership.sum(1).tolist() == [9] * 8
    for t in range(8):
        inside = estimate.membership[t]
        weights = torch.linalg.lstsq(x[inside], y[inside]).solution
        torch.testing.assert_close(
            estimate.train_outcome[t], squared_error(x @ weights, y), rtol=1e-6, atol=1e-8
        )
        torch.testing.assert_close(
            estimate.test_outcome[t], squared_error(tests @ weights, targets), rtol=1e-6, atol=1e-8
        )


def _zeros(generator):
    """A linear map that starts at zero: an absent class is never predicted."""
    module = nn.Linear(5, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    return module


def test_a_lone_class_is_memorized():
    """One image of a class that no other shows: known only when seen, and so is its twin."""
    stream = torch.Generator().manual_seed(4)
    x = torch.randn(20, 5, generator=stream) * 0.1
    y = torch.zeros(20, dtype=torch.int64)
    x[10:, 0] += 3.0
    y[10:] = 1
    x[19] = torch.tensor([0.0, 0.0, 4.0, 0.0, 0.0])
    y[19] = 2
    estimate = train_on_subsets(
        _zeros,
        x,
        y,
        x[[19, 0]] + 0.05,
        y[[19, 0]],
        n_models=40,
        optimizer="sgd",
        steps=200,
        lr=0.5,
        progress=False,
    )
    assert float(estimate.memorization[19]) == 1.0
    assert float(estimate.memorization[:19].abs().max()) == 0.0
    assert float(estimate.influence[19, 0]) == 1.0
    assert float(estimate.influence_se[19, 0]) == 0.0
    assert float(estimate.influence[:, 1].abs().max()) == 0.0


def test_subsets_have_one_size_and_every_example_the_same_chance():
    member = random_subsets(10, 4000, 0.7, generator=0)
    assert member.dtype == torch.bool
    assert set(member.sum(1).tolist()) == {7}
    share = member.double().mean(0)
    assert float((share - 0.7).abs().max()) < 4 * (0.21 / 4000) ** 0.5
    assert random_subsets(3, 5, 0.99, generator=0).sum(1).tolist() == [2] * 5
    assert random_subsets(3, 5, 0.01, generator=0).sum(1).tolist() == [1] * 5


MEMBER = np.array([[True, False], [False, True], [True, False], [False, True]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: subset_influence(MEMBER.astype(int), np.zeros((4, 1))),
            "membership: expected booleans",
        ),
        (lambda: subset_influence(MEMBER, np.zeros((3, 1))), r"outcome: expected shape \(4, any\)"),
        (
            lambda: subset_influence(MEMBER[:3], np.zeros((3, 1))),
            "membership: expected every example in at least 2 subsets",
        ),
        (
            lambda: subset_influence(MEMBER | [[False], [False], [True], [True]], np.zeros((4, 1))),
            "got one that is on one side 1",
        ),
        (lambda: random_subsets(1, 3), "n_samples: expected a number >= 2"),
        (lambda: random_subsets(5, 3, 1.0), "share: expected a number < 1"),
        (
            lambda: InfluenceEstimate(*(torch.zeros(4, 2),) * 3).half(2),
            "which: expected a number <= 1",
        ),
        (
            lambda: train_on_subsets(
                nn.Linear, torch.zeros(5, 2), torch.zeros(4), torch.zeros(1, 2), torch.zeros(1)
            ),
            "y: expected 5 targets, got 4",
        ),
        (
            lambda: train_on_subsets(
                nn.Linear,
                torch.zeros(5, 2),
                torch.zeros(5),
                torch.zeros(1, 2),
                torch.zeros(1),
                n_models=3,
            ),
            "n_models: expected a number >= 4",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
