"""Policy optimization: estimates against enumerations, updates against closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from enough.models import Transformer, TransformerConfig
from enough.rewards import (
    PPO,
    REINFORCE,
    BurstPolicy,
    TabularPolicy,
    TransformerPolicy,
    TransformerValue,
    WorldConfig,
    generalized_advantage,
    leave_one_out,
    natural_gradient,
    natural_gradient_path,
    ppo_loss,
    value_loss,
)


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tiny_transformer(seed, length=2, end=0):
    """Two tokens and an end; the start token is never said."""
    config = TransformerConfig(
        vocab_size=4, context_length=4, d_model=4, n_layers=1, n_heads=2, d_mlp=4
    )
    allowed = torch.tensor([True, True, True, False])
    model = Transformer(config, generator=seed).double()
    return TransformerPolicy(model, length, prompts=[3], end=end, allowed=allowed)


# ---- advantages ----------------------------------------------------------------------------


def test_leave_one_out_equals_a_loop():
    rewards = draws(2, 5)
    for axis in (0, 1, -1):
        table = np.moveaxis(rewards.numpy(), axis, -1)
        expected = np.empty_like(table)
        for index in np.ndindex(table.shape):
            row = np.delete(table[index[:-1]], index[-1])
            expected[index] = table[index] - row.mean()
        got = leave_one_out(rewards.numpy(), axis=axis)
        np.testing.assert_allclose(np.moveaxis(got, axis, -1), expected, atol=1e-14)


def test_leave_one_out_with_a_mask():
    rewards = torch.tensor([1.0, math.nan, 4.0, 7.0])
    mask = torch.tensor([True, False, True, True])
    assert leave_one_out(rewards, mask=mask).tolist() == [1.0 - 5.5, 0.0, 0.0, 7.0 - 2.5]
    alone = leave_one_out(torch.tensor([3.0, 9.0]), mask=torch.tensor([True, False]))
    assert alone.tolist() == [3.0, 0.0]
    with pytest.raises(ValueError, match="rewards: expected finite numbers"):
        leave_one_out(rewards)
    with pytest.raises(ValueError, match="mask: expected bool of the shape of rewards"):
        leave_one_out(rewards, mask=mask[:2])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.8, 0.0), (0.7, 1.0)])
def test_generalized_advantage_equals_the_direct_sum(gamma, lam):
    rewards, values = draws(3, 6, seed=1).numpy(), draws(3, 6, seed=2).numpy()
    lengths = [6, 4, 1]
    mask = np.arange(6) < np.array(lengths)[:, None]
    padded = np.where(mask, rewards, np.nan), np.where(mask, values, np.inf)
    got, returns = generalized_advantage(*padded, gamma=gamma, lam=lam, mask=mask)
    for row, steps in enumerate(lengths):
        ahead = [*values[row, 1:steps], 0.0]
        delta = [rewards[row, t] + gamma * ahead[t] - values[row, t] for t in range(steps)]
        for t in range(6):
            direct = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, steps))
            assert got[row, t] == pytest.approx(direct, abs=1e-13)
            if lam == 1.0 and t < steps:
                to_go = sum(gamma ** (k - t) * rewards[row, k] for k in range(t, steps))
                assert returns[row, t] == pytest.approx(to_go, abs=1e-13)
    assert (returns[~mask] == 0).all()
    np.testing.assert_allclose(returns[mask], (got + values)[mask], atol=1e-13)


def test_generalized_advantage_names_what_is_wrong():
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="mask: expected true entries first"):
        generalized_advantage(ones, ones, mask=torch.tensor([[True, False, True]] * 2))
    with pytest.raises(ValueError, match="values: expected the shape of rewards"):
        generalized_advantage(ones, ones[:, :2])
    with pytest.raises(ValueError, match="lam: expected a number <= 1"):
        generalized_advantage(ones, ones, lam=1.1)
    with pytest.raises(ValueError, match="rewards: expected finite numbers"):
        generalized_advantage(ones * math.nan, ones)


# ---- losses --------------------------------------------------------------------------------


def test_ppo_loss_has_the_policy_gradient_at_ratio_one():
    log_prob, advantages = draws(8, seed=1).requires_grad_(), draws(8, seed=2)
    (slope,) = torch.autograd.grad(ppo_loss(log_prob, log_prob.detach(), advantages), log_prob)
    torch.testing.assert_close(slope, -advantages / 8)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.1, 2.0, -2.2, True),
        (1.5, 2.0, -2.4, False),
        (0.5, 2.0, -1.0, True),
        (1.5, -2.0, 3.0, True),
        (0.5, -2.0, 1.6, False),
    ],
)
def test_ppo_loss_clips_on_one_side(ratio, advantage, loss, moves):
    log_prob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value = ppo_loss(log_prob, torch.zeros(1).double(), torch.tensor([advantage]).double())
    assert value.item() == pytest.approx(loss)
    (slope,) = torch.autograd.grad(value, log_prob)
    assert slope.item() == pytest.approx(-ratio * advantage if moves else 0.0)


def test_masked_entries_of_the_losses_count_for_nothing():
    mask = torch.tensor([True, False, True, False])
    log_prob, old, advantages = draws(4, seed=1), draws(4, seed=2), draws(4, seed=3)
    wild = [t.clone() for t in (log_prob, old, advantages)]
    for t, junk in zip(wild, (math.nan, -math.inf, math.inf), strict=True):
        t[~mask] = junk
    wild[0].requires_grad_()
    value = ppo_loss(*wild, mask=mask)
    expected = ppo_loss(log_prob[mask], old[mask], advantages[mask])
    assert value.item() == pytest.approx(expected.item(), abs=1e-15)
    (slope,) = torch.autograd.grad(value, wild[0])
    assert bool((slope[~mask] == 0).all())
    values, returns = draws(4, seed=4), draws(4, seed=5)
    messy = values.masked_fill(~mask, math.nan).requires_grad_()
    error = value_loss(messy, returns, old_values=old, clip=0.1, mask=mask)
    plain = value_loss(values[mask], returns[mask], old_values=old[mask], clip=0.1)
    assert error.item() == pytest.approx(plain.item(), abs=1e-15)
    assert bool((torch.autograd.grad(error, messy)[0][~mask] == 0).all())


def test_value_loss_takes_the_larger_error():
    values = torch.tensor([1.0, 1.0, 0.05]).double()
    old, returns = torch.zeros(3).double(), torch.tensor([2.0, 0.5, 1.0]).double()
    assert value_loss(values, returns).item() == pytest.approx((1 + 0.25 + 0.9025) / 6)
    clipped = value_loss(values, returns, old_values=old, clip=0.2)
    assert clipped.item() == pytest.approx((1.8**2 + 0.25 + 0.9025) / 6)
    inputs = [draws(5, seed=s).requires_grad_() for s in range(2)]
    assert torch.autograd.gradcheck(
        lambda v: value_loss(v, inputs[1].detach(), old_values=inputs[0].detach() + 0.3, clip=0.5),
        inputs[:1],
    )
    assert torch.autograd.gradcheck(
        lambda lp: ppo_loss(lp, inputs[1].detach(), inputs[1].detach()), inputs[:1]
    )
    with pytest.raises(ValueError, match="old_values: expected them where clip is given"):
        value_loss(values, returns, clip=0.1)
    with pytest.raises(ValueError, match="clip: expected a number > 0"):
        ppo_loss(values, old, returns, clip=0.0)
    with pytest.raises(ValueError, match=r"advantages: expected shape \(3\)"):
        ppo_loss(values, old, returns[:2])


# ---- the natural gradient ------------------------------------------------------------------


def test_natural_gradient_equals_fisher_inverse_times_gradient():
    theta, rewards, base = (draws(5, seed=s) for s in range(3))
    theta.requires_grad_()
    for beta in (0.0, 0.7):
        log_p, log_q = theta.log_softmax(0), base.log_softmax(0)
        p = log_p.exp()
        objective = (p * rewards).sum() - beta * (p * (log_p - log_q)).sum()
        (slope,) = torch.autograd.grad(objective, theta)
        p = p.detach()
        fisher = torch.diag(p) - torch.outer(p, p)
        expected = torch.linalg.pinv(fisher) @ slope
        got = natural_gradient(theta.detach(), rewards, base, beta)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def test_the_path_is_the_solution_and_stays_on_the_tilted_family():
    base, rewards = draws(2, 6, seed=3), draws(2, 6, seed=4)
    times = torch.tensor([0.0, 0.5, 3.0]).double()
    for beta in (0.0, 0.3, 2.0):
        path = natural_gradient_path(base, rewards, times, beta)
        assert path.shape == (3, 2, 6)
        torch.testing.assert_close(path[0], base)
        theta, steps = base.clone(), 4000
        for _ in range(steps):  # midpoint rule: an error of order (3 / 4000)²
            half = theta + 1.5 / steps * natural_gradient(theta, rewards, base, beta)
            theta = theta + 3.0 / steps * natural_gradient(half, rewards, base, beta)
        torch.testing.assert_close(theta.softmax(-1), path[2].softmax(-1), atol=1e-6, rtol=0)
        weight = 3.0 if beta == 0 else (1 - math.exp(-beta * 3.0)) / beta
        tilted = base.softmax(-1) * (weight * rewards).exp()
        torch.testing.assert_close(path[2].softmax(-1), tilted / tilted.sum(-1, keepdim=True))
    # The penalty only changes the clock: the same policy at two times.
    late = -math.log1p(-0.3 * 0.5) / 0.3
    torch.testing.assert_close(
        natural_gradient_path(base, rewards, [late], 0.3)[0],
        natural_gradient_path(base, rewards, [0.5], 0.0)[0],
    )
    assert isinstance(natural_gradient_path(np.zeros(3), np.ones(3), [1.0]), np.ndarray)


def test_natural_gradient_names_what_is_wrong():
    zeros = torch.zeros(3)
    with pytest.raises(ValueError, match="beta: expected a number >= 0"):
        natural_gradient(zeros, zeros, zeros, -1.0)
    with pytest.raises(ValueError, match="rewards: expected the shape of logits"):
        natural_gradient(zeros, torch.zeros(2), zeros)
    with pytest.raises(ValueError, match="times: expected entries >= 0"):
        natural_gradient_path(zeros, zeros, [-1.0])


# ---- REINFORCE -----------------------------------------------------------------------------


def expected_gradient(search, actions, log_prob, table):
    """Average the gradient of the loss over all pairs of samples, exactly."""
    parameters = list(search.policy.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    probs = log_prob.detach().exp()
    for i, j in itertools.product(range(len(actions)), repeat=2):
        loss, _ = search.loss(actions[[i, j]], table[[i, j]])
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        for sum_, slope in zip(total, slopes, strict=True):
            if slope is not None:
                sum_ += probs[i] * probs[j] * slope
    return total


def test_reinforce_is_unbiased_on_a_table():
    policy, reference = (TabularPolicy(draws(4, seed=s)) for s in (1, 2))
    rewards = draws(4, seed=3)
    search = REINFORCE(policy, lambda a: rewards[a], reference=reference, beta=0.4, n_samples=2)
    (got,) = expected_gradient(search, torch.arange(4), policy.log_probs(), rewards)
    p = policy.log_probs().exp()
    (exact,) = torch.autograd.grad(0.4 * policy.kl(reference) - (p * rewards).sum(), policy.logits)
    torch.testing.assert_close(got, exact, atol=1e-7, rtol=1e-6)


def test_reinforce_is_unbiased_for_a_transformer_with_padding():
    policy, reference = tiny_transformer(1), tiny_transformer(2)
    actions = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [2, 2]])
    rewards = draws(7, seed=3)
    log_p, log_q = (pi.log_prob(actions).sum(-1) for pi in (policy, reference))
    search = REINFORCE(policy, lambda a: rewards, reference=reference, beta=0.5, n_samples=2)
    got = expected_gradient(search, actions, log_p, rewards)
    objective = 0.5 * (log_p.exp() * (log_p - log_q)).sum() - (log_p.exp() * rewards).sum()
    exact = torch.autograd.grad(objective, list(policy.parameters()))
    for mean, slope in zip(got, exact, strict=True):
        torch.testing.assert_close(mean, slope, atol=1e-7, rtol=1e-5)
    assert max(slope.abs().max() for slope in exact) > 0.01


def test_reinforce_finds_the_tilted_optimum():
    base, rewards = draws(2, 5, seed=1).float(), draws(2, 5, seed=2).float()
    policy, reference = TabularPolicy(base), TabularPolicy(base)
    beta = torch.tensor([0.5, 2.0])
    search = REINFORCE(
        policy,
        lambda a: rewards.gather(1, a),
        reference=reference,
        beta=beta,
        lr=0.02,
        n_samples=512,
        seed=0,
        monitors={"twice": lambda a: 2 * rewards.gather(1, a)},
    ).fit(250, progress=False)
    best = TabularPolicy(base + rewards / beta.unsqueeze(1))
    gap = beta * policy.kl(best).detach()  # how far the objective is from its maximum
    start = beta * reference.kl(best).detach()
    assert bool((gap < 0.01).all())
    assert bool((start > 0.1).all())
    assert search.history_["kl"].shape == (250, 2)
    assert search.history_["kl"][0].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(search.history_["twice"], 2 * search.history_["reward"], rtol=1e-5)
    assert search.fit(2, progress=False).history_["reward"].shape == (252, 2)


def test_lanes_do_not_mix():
    config = WorldConfig(n_common=3, n_rare=2, length=4, burst_probability=0.2, min_burst=2)
    results = []
    for betas in ([0.1], [0.1, 5.0]):
        policy = BurstPolicy(config, (len(betas), 2), shared_draws=1)
        REINFORCE(
            policy,
            lambda tokens: (tokens == 1).sum(-1).float(),
            reference=policy.frozen_copy(),
            beta=torch.tensor(betas).unsqueeze(1),
            n_samples=32,
            seed=4,
        ).fit(20, progress=False)
        results.append(policy)
    torch.testing.assert_close(results[0].token_logits[0], results[1].token_logits[0])
    torch.testing.assert_close(results[0].mode_logits[0], results[1].mode_logits[0])
    assert not torch.allclose(results[1].token_logits[0], results[1].token_logits[1])


# ---- PPO -----------------------------------------------------------------------------------


def pair(kind, beta, **options):
    """Return a policy after one update of the given kind, and its record."""
    policy, reference = tiny_transformer(1, length=3), tiny_transformer(2, length=3)
    rewards = {"reward": lambda a: (a == 1).sum(-1).double()}
    search = kind(
        policy,
        rewards["reward"],
        reference=reference,
        beta=beta,
        lr=0.01,
        n_samples=16,
        seed=3,
        **options,
    )
    search.fit(1, progress=False)
    return policy, search.history_


def test_one_ppo_step_is_one_reinforce_step():
    ours, theirs = (
        pair(PPO, 0.3, epochs=1, minibatches=1)[0],
        pair(REINFORCE, 0.3)[0],
    )
    begin = dict(tiny_transformer(1, length=3).named_parameters())
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)
        assert not torch.equal(a, begin[name])


def test_the_record_of_ppo():
    _, history = pair(PPO, 0.3, epochs=1, minibatches=1)
    assert history["clip_fraction"].tolist() == [0.0]
    assert history["beta"].tolist() == pytest.approx([0.3])
    policy, reference = tiny_transformer(1, length=3), tiny_transformer(2, length=3)
    actions = policy.sample(16, torch.Generator().manual_seed(3))
    kl = policy.kl(reference, actions).sum(-1).mean()
    assert history["kl"][0] == pytest.approx(kl.item())
    assert history["reward"][0] == pytest.approx((actions == 1).sum(-1).double().mean().item())
    many = pair(PPO, 0.3, epochs=20, minibatches=2, clip=0.01)[1]
    assert 0.0 < many["clip_fraction"][0] <= 1.0


@pytest.mark.parametrize("options", [{}, {"standardize": True}, {"minibatches": 3, "epochs": 2}])
def test_ppo_improves_a_burst_policy_lane_by_lane(options):
    config = WorldConfig(n_common=4, n_rare=2, length=6, burst_probability=0.05, min_burst=3)
    policy = BurstPolicy(config, (2,))
    sign = torch.tensor([[1.0], [-1.0]])
    search = PPO(
        policy,
        lambda t: sign * (t == 2).sum(-1),
        reference=policy.frozen_copy(),
        beta=0.01,
        lr=0.05,
        n_samples=64,
        seed=0,
        **options,
    ).fit(40, progress=False)
    reward = search.history_["reward"]
    assert reward[-1, 0] > 4.5 > 2.0 > reward[0, 0] > 0.5
    assert reward[0, 1] < -0.5 < -0.3 < reward[-1, 1] <= 0.0
    assert search.history_["kl"][-1].min() > 1.0


def test_a_larger_penalty_keeps_ppo_closer():
    ends = []
    for beta in (0.02, 0.5):
        policy = TabularPolicy(torch.zeros(6))
        search = PPO(
            policy,
            lambda a: a.float() / 5,
            reference=policy.frozen_copy(),
            beta=beta,
            lr=0.05,
            seed=1,
        ).fit(60, progress=False)
        ends.append(policy.kl(search.reference).item())
        best = TabularPolicy(torch.arange(6) / 5 / beta)
        assert beta * policy.kl(best).item() < 0.02
    assert ends[0] > 1.0 > 0.5 > ends[1] > 0.1


def test_ppo_with_a_critic_learns():
    policy = tiny_transformer(1, length=3).float()
    critic = TransformerValue(Transformer(policy.model.config, generator=5), 3, prompts=[3], end=0)
    search = PPO(
        policy,
        lambda a: (a == 1).sum(-1).float(),
        reference=policy.frozen_copy(),
        beta=0.01,
        critic=critic,
        value_clip=0.5,
        max_norm=1.0,
        lr=0.02,
        n_samples=64,
        seed=0,
    ).fit(40, progress=False)
    assert search.history_["reward"][0] < 1.5
    assert search.history_["reward"][-1] > 2.5
    always = torch.ones(1, 3, dtype=torch.long)
    values = critic(always)[0]
    # Near the end of training all tokens are 1, and the reward of 3 comes with the last.
    assert values.tolist() == pytest.approx([3.0, 3.0, 3.0], abs=0.1)


def test_the_adaptive_penalty_follows_the_target():
    betas = {}
    for target in (0.05, 50.0):
        policy = TabularPolicy(torch.zeros(4))
        search = PPO(
            policy,
            lambda a: a.float(),
            reference=TabularPolicy(torch.arange(4.0)),
            beta=0.2,
            target_kl=target,
            seed=0,
        ).fit(2, progress=False)
        betas[target] = search.history_["beta"]
    # The error is clipped to 0.2, the gain is 0.1.
    assert betas[0.05].tolist() == pytest.approx([0.2, 0.2 * 1.02])
    assert betas[50.0].tolist() == pytest.approx([0.2, 0.2 * 0.98])


def test_monitors_can_skip_iterations():
    calls = []

    def monitor(actions):
        calls.append(len(actions))
        return actions.float()

    search = REINFORCE(
        TabularPolicy(torch.zeros(3)),
        lambda a: a.float(),
        n_samples=8,
        seed=0,
        monitors={"seen": monitor},
        monitor_every=3,
    )
    seen = search.fit(5, progress=False).history_["seen"]
    assert np.isnan(seen).tolist() == [False, True, True, False, False]
    np.testing.assert_allclose(seen[[0, 3, 4]], search.history_["reward"][[0, 3, 4]])
    assert calls == [8, 8, 8]


def test_searches_name_what_is_wrong():
    policy = TabularPolicy(torch.zeros(2, 3))

    def reward(actions):
        return actions.float()

    with pytest.raises(ValueError, match="policy: expected sample"):
        PPO(torch.nn.Linear(2, 2), reward)
    with pytest.raises(ValueError, match="reward: expected a function"):
        PPO(policy, 3.0)
    with pytest.raises(ValueError, match="reference: expected a policy where beta is above 0"):
        REINFORCE(policy, reward, beta=0.1)
    with pytest.raises(ValueError, match=r"beta: expected a number or an array that fits lanes"):
        REINFORCE(policy, reward, reference=policy, beta=torch.ones(3))
    with pytest.raises(ValueError, match="beta: expected entries >= 0"):
        REINFORCE(policy, reward, reference=policy, beta=-1.0)
    with pytest.raises(ValueError, match="n_samples: expected a number >= 2"):
        REINFORCE(policy, reward, n_samples=1)
    with pytest.raises(ValueError, match="critic: expected none for a policy of whole answers"):
        PPO(policy, reward, critic=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="target_kl: expected a reference and a first beta"):
        PPO(policy, reward, target_kl=1.0)
    with pytest.raises(ValueError, match="max_norm: expected None for lanes"):
        PPO(policy, reward, max_norm=1.0)
    with pytest.raises(ValueError, match="minibatches: expected a number <= 8"):
        PPO(policy, reward, n_samples=8, minibatches=9)
    with pytest.raises(ValueError, match=r"reward: expected one number an answer, shape \(2, 4\)"):
        PPO(policy, lambda a: a.float().sum(), n_samples=4).fit(1, progress=False)
    with pytest.raises(ValueError, match="reward: expected finite numbers"):
        REINFORCE(policy, lambda a: a * math.nan, n_samples=4).fit(1, progress=False)
