"""Aggregation against numpy, by hand, and by its invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from enough.rewards import aggregate_rewards, normalize_rewards

HOWS = ("mean", "median", "min", "uwo")


def by_numpy(rewards, how, coefficient):
    if how == "uwo":
        return np.mean(rewards, 0) - coefficient * np.var(rewards, 0, ddof=0)
    return {"mean": np.mean, "median": np.median, "min": np.min}[how](rewards, axis=0)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("members", [1, 2, 4, 5])
def test_equals_numpy(how, members):
    rewards = np.random.RandomState(members).standard_normal((members, 3, 7))
    found = aggregate_rewards(rewards, how, coefficient=0.3)
    np.testing.assert_allclose(found, by_numpy(rewards, how, 0.3), atol=1e-15)
    tensor = aggregate_rewards(torch.tensor(rewards), how=how, coefficient=0.3)
    np.testing.assert_array_equal(tensor.numpy(), found)


def test_by_hand():
    rewards = [[0.0, 5.0], [2.0, 5.0], [10.0, 5.0], [4.0, 5.0]]
    assert aggregate_rewards(rewards).tolist() == [4.0, 5.0]
    assert aggregate_rewards(rewards, "median").tolist() == [3.0, 5.0]  # between 2 and 4
    assert aggregate_rewards(rewards, "min").tolist() == [0.0, 5.0]
    # The variance is (16 + 4 + 36 + 0)/4 = 14.
    assert aggregate_rewards(rewards, "uwo", 0.5).tolist() == [-3.0, 5.0]
    assert aggregate_rewards(rewards, "uwo").tolist() == [-3.0, 5.0]
    assert aggregate_rewards([0.0, 2.0], "uwo", 1.0) == 0.0


def test_coefficient_zero_is_the_mean_exactly():
    rewards = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(aggregate_rewards(rewards, "uwo", 0.0), aggregate_rewards(rewards))
    huge = np.array([[1e200], [-1e200]])  # whose variance overflows
    assert aggregate_rewards(huge, "uwo", 0.0).tolist() == [0.0]


@pytest.mark.parametrize("how", HOWS)
def test_one_member_is_itself(how):
    rewards = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(aggregate_rewards(rewards, how, 100.0), rewards[0])


@pytest.mark.parametrize("how", HOWS)
def test_gradients_equal_finite_differences(how):
    rewards = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rewards.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda r: aggregate_rewards(r, how, 0.7), rewards)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_come_back(dtype):
    rewards = torch.tensor([[1.0, 2.0], [3.0, 5.0], [3.5, 0.0]], dtype=dtype)
    for how in HOWS:
        found = aggregate_rewards(rewards, how)
        assert found.dtype == dtype
        exact = by_numpy(rewards.double().numpy(), how, 0.5)
        eps = torch.finfo(dtype).eps
        np.testing.assert_allclose(found.double().numpy(), exact, rtol=eps, atol=eps)
    assert normalize_rewards(rewards).dtype == dtype
    assert aggregate_rewards(np.array([[1, 2], [2, 2]])).tolist() == [1.5, 2.0]


def test_normalization_on_a_reference():
    draw = np.random.RandomState(3)
    pool = draw.standard_normal((3, 4, 50)) * np.array([1, 10, 0.1])[:, None, None] + 5
    normal = normalize_rewards(pool)
    np.testing.assert_allclose(normal.mean((1, 2)), 0.0, atol=1e-13)
    np.testing.assert_allclose(normal.std((1, 2), ddof=0), 1.0, rtol=1e-13)
    new = draw.standard_normal((3, 7))
    flat = pool.reshape(3, -1)
    want = (new - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    np.testing.assert_allclose(normalize_rewards(new, pool), want, atol=1e-12)


def test_normalized_members_forget_their_origin_and_scale():
    rewards = np.random.RandomState(4).standard_normal((4, 200))
    moved = rewards * np.array([[1.0], [3.0], [0.2], [50.0]]) + np.array([[0], [7], [-3], [1]])
    for how in HOWS:
        one = aggregate_rewards(normalize_rewards(rewards), how)
        two = aggregate_rewards(normalize_rewards(moved), how)
        np.testing.assert_allclose(one, two, atol=1e-12)
    assert not np.allclose(aggregate_rewards(rewards, "min"), aggregate_rewards(moved, "min"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aggregate_rewards([[1.0]], "max"), "^how: expected one of 'mean', 'median'"),
        (lambda: aggregate_rewards([[1.0]], "uwo", -1.0), "^coefficient"),
        (lambda: aggregate_rewards([[1.0]], "uwo", math.nan), "^coefficient"),
        (lambda: aggregate_rewards(3.0), r"^rewards: expected shape \(members, \.\.\.\), got \(\)"),
        (lambda: aggregate_rewards(np.empty((0, 3))), "^rewards: expected at least one"),
        (lambda: aggregate_rewards([[1.0], [math.nan]], "median"), "^rewards: .*1 NaN"),
        (lambda: normalize_rewards([1.0, 2.0]), r"^rewards: expected shape \(members, answers"),
        (lambda: normalize_rewards([[1.0, 2.0], [0.1, 0.1]]), "^reference: .*member 1"),
        (lambda: normalize_rewards([[1.0, 2.0]], [[1.0], [2.0]]), "^reference: expected 1 members"),
        (lambda: normalize_rewards([[1.0, 2.0]], [[1.0, math.inf]]), "^reference: "),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
