"""Reward models: the batch equals one-by-one training, streams are paired, scores have units."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from enough.rewards import (
    BURST_WORLD,
    RewardModels,
    TokenWorlds,
    independent_members,
    member_correlation,
    shared_trunk,
)

SMALL = replace(BURST_WORLD, gold_widths=(16, 16))
FROZEN = dict(lr=1e-30, weight_decay=0.0, steps=1, batch_size=8)


@pytest.fixture(scope="module")
def worlds():
    return TokenWorlds(2, seed=0, config=SMALL)


@pytest.fixture(scope="module")
def pairs(worlds):
    return worlds.preferences(150)


@pytest.fixture(scope="module")
def pool(worlds):
    return worlds.features(worlds.sample(300))


def start(members, pairs, seed=0):
    """Return the initial tensors, by name, of shape (members, worlds, ...)."""
    models = RewardModels(members, seed=seed, **FROZEN).fit(pairs.chosen, pairs.rejected)
    state = models.ensemble_.state_dict()
    return {name: t.unflatten(0, (len(models.members), 2)) for name, t in state.items()}


def test_training_equals_plain_torch(worlds, pairs, pool):
    models = RewardModels(2, seed=3, widths=(8, 8), steps=12, batch_size=40, centering=0.1)
    models.fit(pairs.chosen, pairs.rejected)
    begin = RewardModels(2, seed=3, widths=(8, 8), centering=0.1, **FROZEN | {"batch_size": 40})
    begin.fit(pairs.chosen, pairs.rejected)
    for number, world in ((0, 0), (3, 1)):
        module = begin.ensemble_.member(number)
        optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.01)
        batches = models.ensemble_.batches(number, 150, 40)
        for _, rows in zip(range(12), batches, strict=False):
            better = module(pairs.chosen[world, rows]).squeeze(1)
            worse = module(pairs.rejected[world, rows]).squeeze(1)
            loss = -torch.log(torch.sigmoid(better - worse)).mean()
            loss = loss + 0.1 * ((better + worse) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            alone = module(pool[world]).squeeze(1)
        together = models.predict(pool)[number // 2, world]
        torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_initial_weights_follow_the_seeds(pairs):
    free = start(independent_members(3), pairs)
    tied = start(shared_trunk(3), pairs)
    for layer in ("layers.0.weight", "layers.1.weight"):
        assert torch.equal(tied[layer][0], tied[layer][2])
        assert torch.equal(tied[layer][0], free[layer][0])
        assert not torch.equal(free[layer][0], free[layer][1])
        assert not torch.equal(free[layer][0, 0], free[layer][0, 1])
    head = "layers.2.weight"
    assert torch.equal(tied[head], free[head])
    assert not torch.equal(tied[head][0], tied[head][1])
    assert free["layers.0.weight"].std().item() == pytest.approx(1.0, abs=0.03)
    assert head_std(free[head]) == pytest.approx(math.sqrt(2 / 64), rel=0.15)
    assert torch.equal(
        start(shared_trunk(1, trunk=2), pairs)["layers.0.weight"][0], free["layers.0.weight"][2]
    )
    assert not torch.equal(start(1, pairs, seed=1)[head][0], free[head][0])


def head_std(head):
    return head.square().mean().sqrt().item()


def test_more_members_leave_the_first_ones_alone(pairs, pool):
    few, many = (
        RewardModels(m, steps=5).fit(pairs.chosen, pairs.rejected).predict(pool) for m in (2, 3)
    )
    torch.testing.assert_close(many[:2], few)


def test_predict_equals_the_members(pairs, pool):
    models = RewardModels(2, steps=5).fit(pairs.chosen, pairs.rejected)
    rewards = models.predict(pool)
    for m in range(2):
        for w in range(2):
            with torch.no_grad():
                alone = models.ensemble_.member(2 * m + w)(pool[w]).squeeze(1)
            torch.testing.assert_close(rewards[m, w], alone, rtol=1e-4, atol=1e-4)
    sets = torch.stack([pool[:, :50], pool[:, 50:100]])
    together = models.predict(sets)
    assert together.shape == (2, 2, 2, 50)
    torch.testing.assert_close(together[:, 1], rewards[:, :, 50:100], rtol=1e-4, atol=1e-4)
    scores = models.normalize(pool).score(sets)
    torch.testing.assert_close(scores[:, 1], models.score(pool)[:, :, 50:100], rtol=1e-4, atol=1e-4)


def test_normalization_comes_from_the_reference(pairs, pool):
    models = RewardModels(2, steps=5).fit(pairs.chosen, pairs.rejected)
    scores = models.normalize_score(pool)
    np.testing.assert_allclose(scores.mean(-1), np.zeros((2, 2)), atol=1e-5)
    np.testing.assert_allclose(scores.std(-1, correction=0), np.ones((2, 2)), atol=1e-5)
    half = pool[:, :100]
    raw = models.predict(half).numpy()
    models.normalize(half)
    expected = (models.predict(pool).numpy() - raw.mean(-1, keepdims=True)) / raw.std(
        -1, keepdims=True
    )
    np.testing.assert_allclose(models.score(pool).numpy(), expected, atol=1e-4)


def test_models_learn_what_the_labels_say(worlds, pool):
    gold = worlds.gold(pool)
    agree = {}
    for noise in (0.0, 1.0):
        pairs = worlds.preferences(600, noise=noise)
        models = RewardModels(2, seed=1, steps=150).fit(pairs.chosen, pairs.rejected)
        ordinary = worlds.bursts(pool) == 0
        scores = torch.stack([models.predict(pool)[0], gold])
        agree[noise] = member_correlation(scores, ordinary)
    assert bool((agree[0.0] > 0.5).all())
    assert bool((agree[1.0] < -0.5).all())


def test_member_correlation_equals_numpy():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 2, 60, generator=generator) + torch.randn(2, 60, generator=generator)
    mask = torch.rand(2, 60, generator=generator) < 0.5
    for keep, value in (
        (torch.ones(2, 60, dtype=torch.bool), member_correlation(scores)),
        (mask, member_correlation(scores, mask)),
    ):
        for w in range(2):
            table = np.corrcoef(scores[:, w, keep[w]].double().numpy())
            expected = table[np.triu_indices(4, 1)].mean()
            assert value[w].item() == pytest.approx(expected, abs=1e-12)
    same = scores[:1].expand(3, 2, 60)
    assert member_correlation(same).tolist() == pytest.approx([1.0, 1.0])
    assert bool(member_correlation(scores, torch.zeros_like(mask)).isnan().all())


def test_reward_models_name_what_is_wrong(pairs, pool):
    with pytest.raises(ValueError, match="members: expected a number >= 1"):
        RewardModels(0)
    with pytest.raises(ValueError, match=r"members: expected a number or pairs of seeds"):
        RewardModels([])
    with pytest.raises(ValueError, match="batch_size: expected at most the 150 pairs"):
        RewardModels(1, batch_size=151).fit(pairs.chosen, pairs.rejected)
    with pytest.raises(ValueError, match=r"rejected: expected shape \(2, 150, 32\)"):
        RewardModels(1).fit(pairs.chosen, pairs.rejected[:, :10])
    with pytest.raises(ValueError, match=r"expected a call of fit\(\) before"):
        RewardModels(1).predict(pool)
    models = RewardModels(1, **FROZEN).fit(pairs.chosen, pairs.rejected)
    with pytest.raises(ValueError, match=r"expected a call of normalize\(\) before"):
        models.score(pool)
    with pytest.raises(ValueError, match=r"features: expected shape \(..., 2, N, 32\)"):
        models.predict(pool[:1])
    with pytest.raises(ValueError, match="reference: expected shape"):
        models.normalize(pool[:, :1])
    with pytest.raises(ValueError, match="reference: expected answers that every member tells"):
        models.normalize(pool[:, :1].expand(-1, 5, -1))
    with pytest.raises(ValueError, match="scores: expected shape"):
        member_correlation(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="mask: expected bool of shape"):
        member_correlation(torch.zeros(2, 5), torch.zeros(4, dtype=torch.bool))
