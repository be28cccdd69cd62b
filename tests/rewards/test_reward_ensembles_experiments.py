"""Ensembles in the burst world: curves by brute force, pairing, statistics, and the exercises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from enough.book import exercises
from enough.rewards import (
    BURST_WORLD,
    HERDING_WORLD,
    RewardModels,
    TokenWorlds,
    aggregate_rewards,
    best_of_n,
    shared_trunk,
)
from enough.rewards.experiments import (
    RULES,
    ScoredAnswers,
    agreement,
    ensemble_curves,
    ensemble_point,
    score_answers,
    sub_ensembles,
)

SMALL = dict(worlds=2, members=3, n_pairs=64, pool=300, steps=3, seed=5)


@pytest.fixture(scope="module")
def plain():
    return score_answers(**SMALL)


@pytest.fixture
def toy():
    """Four members, two worlds, seven answers."""
    stream = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 2, 7, generator=stream, dtype=torch.float64)
    return scores, torch.randn(2, 7, generator=stream, dtype=torch.float64)


def combine(rows, rule):
    """Aggregate (members, answers) with numpy alone."""
    return {
        "mean": rows.mean(0),
        "median": np.median(rows, 0),
        "WCO": rows.min(0),
        "UWO": rows.mean(0) - 0.5 * rows.var(0),
        "UWO2": rows.mean(0) - 2.0 * rows.var(0),
    }[rule]


def test_every_member_is_in_equally_many_sub_ensembles():
    for members in range(1, 7):
        for size in range(1, members + 1):
            subsets = sub_ensembles(members, size)
            assert len(subsets) == (1 if size == members else members)
            assert all(len(set(one)) == size for one in subsets)
            counts = np.bincount(np.concatenate(subsets), minlength=members)
            assert (counts == counts[0]).all()


def test_a_whole_ensemble_keeps_its_order():
    assert sub_ensembles(4, 4) == [[0, 1, 2, 3]]
    assert sub_ensembles(4, 1) == [[0], [1], [2], [3]]


@pytest.mark.parametrize(("members", "size"), [(0, 1), (3, 0), (3, 4), (2.5, 1)])
def test_sub_ensembles_refuse_impossible_sizes(members, size):
    with pytest.raises(ValueError, match=r"members|size"):
        sub_ensembles(members, size)


def test_curves_are_averages_over_all_subsets_of_the_answers(toy):
    scores, values = toy
    found = ensemble_curves(scores, values, 3, counts=(1, 3, 7))
    assert found["kl"] == pytest.approx([np.log(n) - (n - 1) / n for n in (1, 3, 7)])
    for rule in RULES:
        assert found["value"][rule].shape == (2, 4, 3)
        for world, (k, one) in itertools.product(range(2), enumerate(sub_ensembles(4, 3))):
            proxy = combine(scores[one, world].numpy(), rule)
            for j, n in enumerate((1, 3, 7)):
                best = [max(some, key=lambda i: proxy[i]) for some in _subsets(n)]
                expected = values[world].numpy()[best].mean()
                assert found["value"][rule][world, k, j] == pytest.approx(expected, abs=1e-12)
                top = found["proxy"][rule][world, k, j]
                assert top == pytest.approx(proxy[best].mean(), abs=1e-12)


def _subsets(n):
    return [list(some) for some in itertools.combinations(range(7), n)]


def test_copies_of_one_member_choose_as_the_member_does(toy):
    scores, values = toy
    copies = ensemble_curves(scores[1:2].expand(5, -1, -1), values, 5, counts=(1, 2, 5))
    alone = ensemble_curves(scores, values, 1, {"single": ("mean", 0.0)}, (1, 2, 5))
    for rule in RULES:
        assert np.allclose(copies["value"][rule][:, 0], alone["value"]["single"][:, 1], atol=1e-12)


def test_a_shared_error_passes_through_every_rule(toy):
    scores, _ = toy
    shared = torch.linspace(-3, 3, 7, dtype=torch.float64)
    for how, coefficient in RULES.values():
        moved = aggregate_rewards(scores + shared, how, coefficient)
        still = aggregate_rewards(scores, how, coefficient)
        assert torch.allclose(moved, still + shared, atol=1e-12)


def test_curves_check_their_arguments(toy):
    scores, values = toy
    with pytest.raises(ValueError, match="values"):
        ensemble_curves(scores, values[:1], 2)
    with pytest.raises(ValueError, match="scores"):
        ensemble_curves(scores[0], values, 2)
    with pytest.raises(ValueError, match="size"):
        ensemble_curves(scores, values, 5)
    with pytest.raises(ValueError, match=r"^n:"):
        ensemble_curves(scores, values, 2, counts=(8,))


def test_scores_are_those_of_models_trained_by_hand(plain):
    worlds = TokenWorlds(2, seed=5)
    pairs = worlds.preferences(64)
    answers = worlds.features(worlds.sample(300))
    models = RewardModels(3, seed=5, steps=3).fit(pairs.chosen, pairs.rejected)
    assert torch.allclose(plain.scores, models.normalize_score(answers), atol=1e-5)
    assert torch.equal(plain.gold, worlds.gold(answers))
    assert torch.equal(plain.bursts, worlds.bursts(answers))


def test_shared_trunks_noise_and_wrong_annotators_reach_the_models():
    variants = (
        (dict(trunk="shared"), BURST_WORLD, shared_trunk(3), 0.0),
        (dict(noise=0.25), BURST_WORLD, 3, 0.25),
        (dict(mislabeled=2, n_pairs=400), HERDING_WORLD, 3, 0.0),
    )
    for changed, config, members, noise in variants:
        settings = SMALL | changed
        worlds = TokenWorlds(2, seed=5, config=config)
        pairs = worlds.preferences(settings["n_pairs"], noise=noise)
        answers = worlds.features(worlds.sample(300))
        models = RewardModels(members, seed=5, steps=3).fit(pairs.chosen, pairs.rejected)
        expected = models.normalize_score(answers)
        assert torch.allclose(score_answers(**settings).scores, expected, atol=1e-5), changed


def test_conditions_are_paired(plain):
    noisy = score_answers(**SMALL, noise=0.25)
    herding = score_answers(**SMALL, mislabeled=2)
    for other in (noisy, herding):
        assert torch.equal(other.gold, plain.gold)
        assert torch.equal(other.bursts, plain.bursts)
    assert not torch.allclose(noisy.scores, plain.scores, atol=1e-3)
    fewer = score_answers(**SMALL | dict(members=2))
    assert torch.allclose(fewer.scores, plain.scores[:2], atol=1e-5)
    elsewhere = score_answers(**SMALL | dict(seed=6))
    assert not torch.equal(elsewhere.gold, plain.gold)


def test_answers_check_their_arguments():
    with pytest.raises(ValueError, match="trunk"):
        score_answers(**SMALL, trunk="own tree")
    with pytest.raises(ValueError, match="pool"):
        score_answers(**SMALL | dict(pool=1))
    with pytest.raises(ValueError, match="mislabeled"):
        score_answers(**SMALL, mislabeled=17)


def test_agreement_against_loops():
    stream = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 2, 40, generator=stream, dtype=torch.float64)
    gold = torch.randn(2, 40, generator=stream, dtype=torch.float64)
    bursts = (torch.rand(2, 40, generator=stream) < 0.3).long() * 4
    found = agreement(ScoredAnswers(scores, gold, bursts))
    s, g, burst = scores.numpy(), gold.numpy(), bursts.numpy() > 0
    for world in range(2):
        for name, keep in (("", ~burst[world]), ("burst_", burst[world])):
            matrix = np.corrcoef(s[:, world, keep])
            expected = matrix[np.triu_indices(3, 1)].mean()
            assert found[f"{name}correlation"][world] == pytest.approx(expected, abs=1e-12)
            spread = s[:, world, keep].var(0).mean()
            assert found[f"{name}variance"][world] == pytest.approx(spread, abs=1e-12)
        for member in range(3):
            right = [
                (s[member, world, i] - s[member, world, i + 20]) * (g[world, i] - g[world, i + 20])
                > 0
                for i in range(20)
                if not burst[world, i] and not burst[world, i + 20]
            ]
            assert found["accuracy"][member, world] == pytest.approx(np.mean(right), abs=1e-12)


def test_a_point_collects_what_the_parts_say(plain):
    counts = (1, 16, 300)
    point = ensemble_point(**SMALL, size=2, counts=counts)
    assert list(point["n"]) == list(counts)
    assert set(point["gold"]) == set(point["proxy"]) == {"single", *RULES}
    parts = [best_of_n(s, plain.gold, counts).gold_per_prompt for s in plain.scores]
    alone = torch.stack(parts).mean(0)
    assert np.allclose(point["gold"]["single"], alone, atol=1e-4)
    pairs = [plain.scores[one].amin(0) for one in ([0, 1], [1, 2], [2, 0])]
    harsh = torch.stack([best_of_n(p, plain.gold, counts).gold_per_prompt for p in pairs]).mean(0)
    assert np.allclose(point["gold"]["WCO"], harsh, atol=1e-4)
    assert np.allclose(point["proxy"]["mean"][:, 0], 0.0, atol=1e-5)  # scores have mean 0
    assert np.allclose(point["accuracy"], agreement(plain)["accuracy"])
    token = int(plain.bursts[0].max()) - 1
    mask = plain.bursts[0] == token + 1
    expected = plain.scores[:, 0, mask].mean()
    assert point["burst_score"].shape == (2, BURST_WORLD.n_rare)
    assert point["burst_score"][0, token] == pytest.approx(float(expected), abs=1e-4)


def test_a_point_needs_two_members():
    with pytest.raises(ValueError, match="members"):
        ensemble_point(**SMALL | dict(members=1), size=1)
    with pytest.raises(ValueError, match="size"):
        ensemble_point(**SMALL, size=4)


def _rerank(answers, scores, gold, how, sort_gold=True):
    by_answer = np.stack([s[np.argsort(a)] for a, s in zip(answers, scores, strict=True)])
    combined = aggregate_rewards(by_answer, how)[answers[0]]
    order = np.argsort(-combined)
    return answers[0][order], combined[order], gold[0][order] if sort_gold else gold[0]


def test_the_exercise_tells_the_repaired_function_from_the_broken_one():
    exercises.check("rewards/reward_ensembles/order", _rerank)
    with pytest.raises(AssertionError, match="Hint"):
        exercises.check(
            "rewards/reward_ensembles/order", lambda *files: _rerank(*files, sort_gold=False)
        )
    with pytest.raises(AssertionError, match="Hint"):  # gold re-sorted, the answers forgotten
        exercises.check(
            "rewards/reward_ensembles/order",
            lambda answers, *rest: (answers[0], *_rerank(answers, *rest)[1:]),
        )


@pytest.mark.parametrize(
    ("name", "right", "wrong"), [("floor", 0.6, 0.5), ("coefficient", 1 / 9.2, 1 / 11.5)]
)
def test_the_exercises_with_numbers(name, right, wrong):
    exercises.check(f"rewards/reward_ensembles/{name}", right)
    with pytest.raises(AssertionError, match="Hint"):
        exercises.check(f"rewards/reward_ensembles/{name}", wrong)
