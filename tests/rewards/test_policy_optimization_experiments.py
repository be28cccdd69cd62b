"""Policy optimization against reward models: experiments against closed forms and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from enough.book.checks.rewards.policy_optimization import CHECKS
from enough.rewards import (
    RewardModels,
    TokenWorlds,
    natural_gradient_path,
    solve_tilt,
    tilted_distribution,
    tilted_frontier,
)
from enough.rewards.experiments import (
    exploit_point,
    gradient_flow_point,
    kl_to_reach,
    penalty_window,
    policy_search_point,
    scored_pool_point,
    text_policy_point,
)
from enough.rewards.experiments import policy_optimization as module

SMALL = dict(worlds=2, members=2, n_pairs=100, steps=6, n_samples=16, monitor_every=2)


def test_window_ends_are_where_exploit_and_honest_improvement_are_worth_the_same():
    rng = np.random.default_rng(0)
    cost, spread = rng.uniform(1.0, 9.0, 20), rng.uniform(0.3, 2.0, 20)
    reward = spread * np.sqrt(2 * cost) * rng.uniform(1.01, 3.0, 20)
    low, high = penalty_window(reward, cost, spread)
    assert (low < high).all()
    for beta in (low, high):
        np.testing.assert_allclose(reward - beta * cost, spread**2 / (2 * beta), rtol=1e-9)
    middle = (low + high) / 2
    assert (reward - middle * cost > spread**2 / (2 * middle)).all()


def test_window_is_missing_when_the_exploit_pays_too_little():
    low, high = penalty_window([3.9, 4.1, -9.0], 8.0)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, False, True]
    assert penalty_window(5.0, 8.0) == (0.125, 0.5)


def test_honest_value_is_that_of_the_tilted_normal():
    """The theorem's sigma^2 / (2 beta) against the optimum on a fine grid of scores."""
    scores = np.linspace(-12, 12, 4001) * 1.3
    probs = np.exp(-0.5 * (scores / 1.3) ** 2)
    probs /= probs.sum()
    for beta in (0.5, 1.0):
        best = tilted_frontier(scores, scores, beta, probs=probs)
        assert best.proxy - beta * best.kl == pytest.approx(1.3**2 / (2 * beta), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((math.nan, 1.0), "reward"),
        ((1.0, 0.0), "cost"),
        ((1.0, 1.0, -1.0), "spread"),
    ],
)
def test_window_refuses(arguments, name):
    with pytest.raises(ValueError, match=name):
        penalty_window(*arguments)


def test_divergence_to_reach_interpolates_at_the_first_crossing():
    kl, gold = [0.0, 1.0, 3.0, 4.0], [0.0, 2.0, 1.0, 5.0]
    assert kl_to_reach(kl, gold, 1.5) == pytest.approx(0.75)
    assert kl_to_reach(kl, gold, 3.0) == pytest.approx(3.5)
    assert kl_to_reach(kl, gold, -1.0) == 0.0
    assert kl_to_reach(kl, gold, 6.0) == math.inf
    with pytest.raises(ValueError, match="gold"):
        kl_to_reach(kl, gold[:-1], 1.0)
    with pytest.raises(ValueError, match="kl"):
        kl_to_reach([0.0, math.nan], [0.0, 1.0], 1.0)


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_natural_flow_is_the_closed_form_and_the_tilted_family(beta):
    rng = np.random.default_rng(1)
    reward, gold = rng.normal(size=(2, 12))
    path = gradient_flow_point(reward, gold, beta, 6.0, times=7)
    theta = natural_gradient_path(np.zeros(12), reward, path["time"], beta)
    np.testing.assert_allclose(path["probs"], torch.as_tensor(theta).softmax(-1), atol=1e-8)
    for i in range(1, 7):
        tilt = solve_tilt(reward, path["kl"][i])
        np.testing.assert_allclose(path["probs"][i], tilted_distribution(reward, tilt), atol=1e-7)
    np.testing.assert_allclose(path["gold"], path["probs"] @ gold)
    np.testing.assert_allclose(path["proxy"], path["probs"] @ reward)


def test_plain_flow_follows_the_gradient_of_the_objective():
    """Its first move, against automatic differentiation; and the objective never falls."""
    rng = np.random.default_rng(2)
    reward, gold = rng.normal(size=(2, 5))
    beta, times = 0.3, 200
    path = gradient_flow_point(reward, gold, beta, 40.0, "plain", times)
    theta = torch.log(torch.as_tensor(path["probs"]))
    theta = theta - theta.mean(1, keepdim=True)  # the gradient has mean 0
    middle = theta[100].clone().requires_grad_()
    log_pi = middle.log_softmax(-1)
    value = (log_pi.exp() * (torch.as_tensor(reward) - beta * (log_pi + math.log(5)))).sum()
    (slope,) = torch.autograd.grad(value, middle)
    time = torch.as_tensor(path["time"])
    measured = (theta[101] - theta[99]) / (time[101] - time[99])
    torch.testing.assert_close(measured, slope, rtol=1e-2, atol=1e-4)
    assert (np.diff(path["proxy"] - beta * path["kl"]) > -1e-9).all()


def test_flow_refuses_and_starts_at_the_uniform_policy():
    path = gradient_flow_point([0.0, 1.0], [1.0, 0.0], 0.0, 1.0, times=2)
    assert path["kl"][0] == pytest.approx(0.0, abs=1e-12)
    assert path["gold"][0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="gold"):
        gradient_flow_point([0.0, 1.0], [1.0], 0.0, 1.0)
    with pytest.raises(ValueError, match="kind"):
        gradient_flow_point([0.0], [1.0], 0.0, 1.0, "steepest")
    with pytest.raises(ValueError, match="until"):
        gradient_flow_point([0.0], [1.0], 0.0, 0.0)


@pytest.mark.parametrize("optimizer", ["reinforce", "ppo"])
def test_search_shapes_start_and_pairing(optimizer):
    arms = [("single", 0.0), ("member 0", 0.0), ("copies", 0.0), ("member 1", 0.0)]
    arms += [("min", 0.1), ("oracle", 0.0), ("patched", 0.0)]
    found = policy_search_point(arms, optimizer, seed=5, **SMALL)
    assert found["step"].tolist() == [0, 2, 4, 5]
    for name in ("kl", "proxy", "gold", "bursts", "zeros"):
        assert found[name].shape == (4, len(arms), 2)
        assert np.isfinite(found[name]).all()
    assert found["mode_kl"].shape == (len(arms), 2)
    np.testing.assert_allclose(found["kl"][0], 0.0, atol=1e-6)
    assert (found["kl"][-1] > 0).all()
    # Arms start from one policy and one set of answers.
    assert (found["gold"][0] == found["gold"][0, :1]).all()
    # Copies of a model, and the model by another name, are the model.
    for what in ("gold", "proxy", "kl"):
        np.testing.assert_array_equal(found[what][:, 0], found[what][:, 1])
        np.testing.assert_array_equal(found[what][:, 0], found[what][:, 2])
    assert not np.array_equal(found["gold"][-1, 0], found["gold"][-1, 3])
    np.testing.assert_array_equal(found["proxy"][:, 5], found["gold"][:, 5])


def test_search_improves_what_it_optimizes_and_penalties_hold_it_back():
    arms = [("oracle", 0.0), ("oracle", 1.0), ("oracle", 1000.0)]
    found = policy_search_point(arms, **{**SMALL, "steps": 60, "n_samples": 64}, seed=3)
    free, bound, tight = found["kl"][-1].mean(-1)
    assert free > bound > tight
    assert tight < 0.1
    assert (found["gold"][-1, 0] > 1.0).all()


def test_rewards_of_the_arms_by_hand():
    worlds = TokenWorlds(2, seed=4)
    names = ["min", "oracle", "patched", "member 1", "uwo", "copies", "single"]
    reward = module._arm_rewards(names, worlds, "own", 100, 0.25, 2, 0.7)
    tokens = worlds.sample(200, "test").expand(len(names), -1, -1, -1).clone()
    tokens[:, :, 0, :] = worlds.config.n_common  # a burst, in any case
    pairs = worlds.preferences(100, noise=0.25)
    models = RewardModels(2, seed=4).fit(pairs.chosen, pairs.rejected, progress=False)
    models.normalize(worlds.features(worlds.sample(4096)))
    features = worlds.features(tokens[0])
    scores, bursts = models.score(features), worlds.bursts(features) > 0
    wanted = [
        scores.amin(0),
        worlds.gold(features),
        scores[0].masked_fill(bursts, -3.0),
        scores[1],
        scores.mean(0) - 0.7 * scores.var(0, correction=0),
        scores[0],
        scores[0],
    ]
    torch.testing.assert_close(reward(tokens), torch.stack(wanted), rtol=1e-4, atol=1e-5)


def test_shared_trunks_and_the_bonus_change_what_they_should():
    arms = [("member 0", 0.0), ("mean", 0.0), ("oracle", 0.0)]
    own = policy_search_point(arms, seed=6, **SMALL)
    common = policy_search_point(arms, trunk="shared", seed=6, **SMALL)
    np.testing.assert_allclose(own["proxy"][:, 0], common["proxy"][:, 0], rtol=1e-4, atol=1e-5)
    assert not np.array_equal(own["proxy"][-1, 1], common["proxy"][-1, 1])
    bonus = policy_search_point(
        [("mean", 0.0), ("oracle", 0.0)],
        noise=0.0,
        world="bonus",
        seed=6,
        **{**SMALL, "n_pairs": 1000, "steps": 40, "n_samples": 64},
    )
    np.testing.assert_array_equal(bonus["gold"][0, 1], bonus["proxy"][0, 1])
    assert (bonus["zeros"][-1, 0] > bonus["zeros"][0, 0]).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (dict(arms=[]), "arms"),
        (dict(arms=[("best", 0.0)]), "arms"),
        (dict(arms=[("member 2", 0.0)]), "arms"),
        (dict(arms=[("mean", -1.0)]), "arms"),
        (dict(optimizer="sgd"), "optimizer"),
        (dict(world="naive"), "world"),
        (dict(trunk="other"), "trunk"),
        (dict(members=1), "members"),
        (dict(steps=1), "steps"),
        (dict(noise=1.5), "rate|noise"),
    ],
)
def test_search_refuses(changes, match):
    with pytest.raises(ValueError, match=match):
        policy_search_point(**{**SMALL, **changes})


def test_exploit_and_pool_are_scored_by_the_models_of_the_search():
    found = exploit_point(worlds=2, members=2, n_pairs=100, answers=64, seed=4)
    assert found["reward"].shape == (2, 2, 16)
    assert found["cost"] == pytest.approx(math.log(1600.0))
    # Ordinary answers of the reference have nearly the mean and spread that set the unit.
    np.testing.assert_allclose(found["mean"], 0.0, atol=0.3)
    np.testing.assert_allclose(found["spread"], 1.0, atol=0.3)
    worlds = TokenWorlds(2, seed=4)
    pairs = worlds.preferences(100, noise=0.25)
    models = RewardModels(2, seed=4).fit(pairs.chosen, pairs.rejected, progress=False)
    models.normalize(worlds.features(worlds.sample(4096)))
    # All bursts of length 16 are one answer; those of any length lie near it and below 8.
    tokens = torch.full((2, 1, 16), worlds.config.n_common)
    whole = models.score(worlds.features(tokens))[..., 0]
    assert np.corrcoef(whole.flatten(), found["reward"][..., 0].ravel())[0, 1] > 0.8
    pool = scored_pool_point(worlds=2, members=2, n_pairs=100, answers=8, seed=4)
    features = worlds.features(worlds.sample(8, "flow"))
    np.testing.assert_allclose(pool["proxy"], models.score(features), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pool["gold"], worlds.gold(features), rtol=1e-6)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("the cat sat on the mat\nand the dog ate a log\n" * 60, encoding="utf-8")
    return str(path)


TINY = dict(
    length=8,
    d_model=16,
    n_layers=1,
    n_heads=2,
    gold_d_model=16,
    gold_layers=1,
    policy_steps=8,
    trunks=2,
    heads=2,
    trunk_steps=3,
    reward_steps=3,
    n_pairs=64,
    batch_size=16,
    iterations=4,
    n_samples=16,
    monitor_every=3,
    pool_size=64,
    device="cpu",
)


def test_text_policies_end_to_end(text_file):
    arms = [("single", "mean", 0.0), ("finetune", "min", 0.1), ("pretrain", "uwo", 0.1)]
    arms += [("all", "median", 0.0)]
    found = text_policy_point(arms, text_file, seed=1, **TINY)
    assert found["step"].tolist() == [0, 3]
    for name in ("kl", "proxy", "gold", "bursts"):
        assert found[name].shape == (2, 4)
        assert np.isfinite(found[name]).all()
    np.testing.assert_allclose(found["kl"][0], 0.0, atol=1e-6)
    assert (found["kl"][1] > 0).all()
    assert (found["gold"][0] == found["gold"][0, 0]).all()  # one reference, paired draws
    assert found["accuracy"].shape == (2, 2)
    assert ((found["accuracy"] >= 0) & (found["accuracy"] <= 1)).all()
    assert found["correlation_finetune"] > found["correlation_pretrain"]
    assert found["corpus"].startswith("words.txt")
    again = text_policy_point(arms[:1], text_file, seed=1, **TINY)
    np.testing.assert_allclose(again["gold"][:, 0], found["gold"][:, 0])


def test_text_policy_learns_the_text(text_file):
    losses = [
        text_policy_point(
            [("single", "mean", 0.0)], text_file, seed=1, **{**TINY, "policy_steps": steps}
        )["loss"]
        for steps in (1, 60)
    ]
    assert losses[1] < losses[0] - 0.5


def test_text_windows_start_and_repeat(text_file):
    text = torch.randint(0, 256, (5000,), generator=torch.Generator().manual_seed(0))
    stream = torch.Generator().manual_seed(1)
    rows = module._text_windows(text, 2000, 12, 0.3, stream)
    assert rows.shape == (2000, 13)
    assert (rows[:, 0] == 0).all()
    assert (rows[:, 1:] > 0).all()
    rare = (rows >= 128).sum(1)
    assert set(rare.tolist()) <= {0, *range(6, 13)}
    assert float((rare > 0).float().mean()) == pytest.approx(0.3, abs=0.04)
    one = rows[rare > 0][0]
    assert len(set(one[one >= 128].tolist())) == 1
    assert module._degenerate(rows[:, 1:]).equal(rare > 0)


def test_text_policy_refuses(text_file):
    for changes in (dict(length=2), dict(trunks=1), dict(heads=1)):
        with pytest.raises(ValueError, match=next(iter(changes))):
            text_policy_point(source=text_file, **{**TINY, **changes})
    with pytest.raises(ValueError, match="arms"):
        text_policy_point([("some", "mean", 0.0)], text_file, **TINY)


def test_checks_take_right_answers_and_refuse_wrong_ones():
    assert CHECKS["cost"].test(math.log(1600))
    assert not CHECKS["cost"].test(math.log(100))
    assert CHECKS["clock"].test(8.64665)
    assert not CHECKS["clock"].test(20.0)

    def window(r, c, sigma):
        low, high = penalty_window(r, c, sigma)
        return None if math.isnan(low) else (low, high)

    assert CHECKS["window"].test(window)
    assert not CHECKS["window"].test(lambda r, c, sigma: penalty_window(r, c, 1.0))

    def gradient(theta, theta_0, which):
        p, q = theta.softmax(-1), theta_0.softmax(-1)
        ratio = (p / q).log()
        forward = p * (ratio - p @ ratio)
        return (torch.zeros_like(p), forward, p - q)[which - 1]

    assert CHECKS["gradients"].test(gradient)
    assert not CHECKS["gradients"].test(lambda t, t0, k: gradient(t, t0, 2))
