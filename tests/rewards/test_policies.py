"""Policies: every probability and divergence against an enumeration of all answers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from enough.models import Transformer, TransformerConfig
from enough.rewards import (
    BURST_WORLD,
    BurstPolicy,
    TabularPolicy,
    TokenWorlds,
    TransformerPolicy,
    TransformerValue,
    WorldConfig,
    categorical_kl,
    kl_estimates,
)

TINY = WorldConfig(
    n_common=2, n_rare=2, length=4, burst_probability=0.3, min_burst=2, gold_widths=(4,)
)


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def all_answers(vocab_size, length):
    return torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))


def count(samples, answers):
    index = {tuple(a): i for i, a in enumerate(answers.tolist())}
    return np.bincount([index[tuple(s)] for s in samples.tolist()], minlength=len(index))


def fits(counts, probs):
    """Compare counts with probabilities; rare answers share one cell."""
    expected = probs.astype(np.float64) / probs.sum(dtype=np.float64) * counts.sum()
    common = expected >= 5
    table = [*counts[common], counts[~common].sum()], [*expected[common], expected[~common].sum()]
    assert counts[probs == 0].sum() == 0
    if table[1][-1] == 0:
        table = table[0][:-1], table[1][:-1]
    return chisquare(*table).pvalue


# ---- divergences ---------------------------------------------------------------------------


def test_the_three_estimators_on_three_states():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    q = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
    k1, k2, k3 = kl_estimates(p.log() - q.log())
    kl = categorical_kl(p.log(), q.log()).item()
    assert kl == pytest.approx(0.7 * math.log(7 / 4) + 0.3 * math.log(1 / 2), abs=1e-14)
    assert round(kl, 5) == 0.18379
    assert (p @ k1).item() == pytest.approx(kl, abs=1e-14)
    assert (p @ k3).item() == pytest.approx(kl, abs=1e-14)
    assert round((p @ k2).item(), 5) == 0.18168
    assert k1.min() < 0
    assert min(k2.min(), k3.min()) >= 0


def test_the_estimators_have_three_different_mean_gradients():
    theta, q = draws(3, seed=1).requires_grad_(), draws(3, seed=2).log_softmax(0)
    log_p = theta.log_softmax(0)
    weights = log_p.detach().exp()

    def slope(value):
        return torch.autograd.grad(value, theta, retain_graph=True)[0]

    mean = [slope(weights @ estimate) for estimate in kl_estimates(log_p - q)]
    torch.testing.assert_close(mean[0], torch.zeros(3).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(mean[1], slope(categorical_kl(log_p, q)))
    torch.testing.assert_close(mean[2], slope(categorical_kl(q, log_p)))


def test_estimators_take_arrays_and_small_ratios():
    estimates = kl_estimates(np.array([1e-9, -1e-9]))
    assert all(isinstance(e, np.ndarray) for e in estimates)
    np.testing.assert_allclose(estimates.k3, 0.5e-18, rtol=1e-6, atol=2e-25)
    with pytest.raises(ValueError, match="log_ratio: expected finite numbers"):
        kl_estimates(torch.tensor([0.0, math.nan]))


def test_categorical_kl_with_missing_actions():
    logits, other = draws(2, 4, seed=1), draws(2, 4, seed=2)
    hole = torch.tensor([False, True, False, False])
    logits.requires_grad_()

    def masked(z):
        return categorical_kl(
            z.masked_fill(hole, -math.inf).log_softmax(-1),
            other.masked_fill(hole, -math.inf).log_softmax(-1),
        )

    def dropped(z):
        return categorical_kl(z[:, ~hole].log_softmax(-1), other[:, ~hole].log_softmax(-1))

    torch.testing.assert_close(masked(logits), dropped(logits))
    assert torch.autograd.gradcheck(masked, logits)
    (slope,) = torch.autograd.grad(masked(logits).sum(), logits)
    assert bool((slope[:, 1] == 0).all())
    inside = categorical_kl(torch.tensor([0.0, -math.inf]), torch.tensor([-math.inf, 0.0]))
    assert inside.item() == math.inf


# ---- tables --------------------------------------------------------------------------------


def test_tabular_policy_equals_the_softmax():
    logits, base = draws(2, 5, seed=1), draws(2, 5, seed=2)
    policy, reference = TabularPolicy(logits), TabularPolicy(base)
    p, q = (np.exp(t.numpy()) / np.exp(t.numpy()).sum(-1, keepdims=True) for t in (logits, base))
    every = torch.arange(5).expand(2, 5)
    np.testing.assert_allclose(policy.log_prob(every).detach().exp(), p, atol=1e-14)
    np.testing.assert_allclose(policy.kl(reference).detach(), (p * np.log(p / q)).sum(-1))
    log_prob, kl = policy.evaluate(every, reference)
    assert torch.equal(log_prob, policy.log_prob(every))
    assert torch.equal(kl, policy.kl(reference))
    sample = policy.sample(20_000, 0)
    for lane in range(2):
        assert chisquare(np.bincount(sample[lane], minlength=5), p[lane] * 20_000).pvalue > 1e-3
    assert not torch.equal(sample[0], sample[1])
    frozen = policy.frozen_copy()
    assert torch.equal(frozen.logits, policy.logits)
    assert not frozen.logits.requires_grad


def test_forbidden_actions_never_happen_and_have_no_gradient():
    allowed = torch.tensor([True, False, True, False])
    logits = torch.tensor([0.3, math.nan, -0.2, 50.0], dtype=torch.float64)
    policy = TabularPolicy(logits, allowed=allowed)
    sample = policy.sample(5000, 1)
    assert set(sample.tolist()) == {0, 2}
    reference = TabularPolicy(torch.zeros(4).double(), allowed=allowed)
    loss = policy.log_prob(torch.tensor([0, 2, 2])).sum() + policy.kl(reference)
    loss.backward()
    assert policy.logits.grad[1] == policy.logits.grad[3] == 0
    assert bool(torch.isfinite(policy.logits.grad).all())
    two = TabularPolicy(logits[allowed])
    torch.testing.assert_close(policy.log_probs()[allowed], two.log_probs())
    torch.testing.assert_close(policy.kl(reference), two.kl(TabularPolicy(torch.zeros(2).double())))


def test_lanes_can_share_their_draws():
    logits = draws(1, 4).expand(3, 4)
    shared = TabularPolicy(logits, shared_draws=1).sample(50, 0)
    assert torch.equal(shared[0], shared[2])
    apart = TabularPolicy(logits).sample(50, 0)
    assert not torch.equal(apart[0], apart[2])


def test_tabular_policy_names_what_is_wrong():
    with pytest.raises(ValueError, match="logits: expected finite numbers"):
        TabularPolicy(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match="allowed: expected at least one action"):
        TabularPolicy(torch.zeros(2, 3), allowed=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"allowed: expected bool of shape \(2, 3\) or \(3,\)"):
        TabularPolicy(torch.zeros(2, 3), allowed=torch.ones(2))
    with pytest.raises(ValueError, match="shared_draws: expected a number <= 1"):
        TabularPolicy(torch.zeros(2, 3), shared_draws=2)
    policy = TabularPolicy(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="actions: expected entries <= 2, got 3"):
        policy.log_prob(torch.full((2, 4), 3))
    with pytest.raises(ValueError, match="actions: expected whole numbers of shape"):
        policy.log_prob(torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="n: expected a number >= 1"):
        policy.sample(0)


# ---- the burst world's policy --------------------------------------------------------------


def trained(seed, lanes=()):
    policy = BurstPolicy(TINY, lanes).double()
    with torch.no_grad():
        policy.mode_logits.add_(draws(*policy.mode_logits.shape, seed=seed))
        policy.token_logits.add_(draws(*policy.token_logits.shape, seed=seed + 1))
    return policy


def test_burst_policy_against_the_enumeration_of_all_answers():
    policy, reference = trained(1), BurstPolicy(TINY).double()
    answers = all_answers(4, 4)
    log_p, log_q = policy.log_prob(answers), reference.log_prob(answers)
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    brute = categorical_kl(log_p, log_q)
    exact = policy.kl(reference)
    assert exact.item() == pytest.approx(brute.item(), abs=1e-7)
    parameters = list(policy.parameters())
    for got, wanted in zip(
        torch.autograd.grad(exact, parameters), torch.autograd.grad(brute, parameters), strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-7, rtol=1e-6)
    counts = count(policy.sample(20_000, 2), answers)
    assert fits(counts, log_p.detach().exp().numpy()) > 1e-3


def test_a_new_burst_policy_is_the_reference_policy_of_the_world():
    policy = BurstPolicy(TINY)
    answers = all_answers(4, 4)
    probs = policy.log_prob(answers).detach().exp().numpy()
    tokens = TokenWorlds(1, seed=5, config=TINY).sample(20_000)[0]
    assert fits(count(tokens, answers), probs) > 1e-3
    assert policy.kl(policy.frozen_copy()).item() == 0.0
    assert BurstPolicy(BURST_WORLD).sample(3, 0).shape == (3, 16)


def test_impossible_answers_have_probability_zero():
    policy = BurstPolicy(replace(TINY, length=5, min_burst=2))
    impossible = torch.tensor([[2, 0, 0, 0, 0], [2, 0, 2, 2, 0], [2, 2, 0, 3, 3], [2, 2, 3, 0, 0]])
    assert policy.log_prob(impossible).tolist() == [-math.inf] * 4
    assert math.isfinite(policy.log_prob(torch.tensor([[0, 2, 2, 1, 0]])).item())


def test_burst_lanes_are_independent():
    many = trained(3, lanes=(2, 3))
    tokens = many.sample(40, 1)
    assert tokens.shape == (2, 3, 40, 4)
    reference = BurstPolicy(TINY, (2, 3)).double()
    log_prob, kl = many.evaluate(tokens, reference)
    one = BurstPolicy(TINY).double()
    with torch.no_grad():
        one.mode_logits.copy_(many.mode_logits[1, 2])
        one.token_logits.copy_(many.token_logits[1, 2])
    torch.testing.assert_close(log_prob[1, 2], one.log_prob(tokens[1, 2]))
    torch.testing.assert_close(kl[1, 2], one.kl(BurstPolicy(TINY).double()))
    paired = BurstPolicy(TINY, (2, 3), shared_draws=1).sample(40, 1)
    assert torch.equal(paired[0], paired[1])
    assert not torch.equal(paired[0, 0], paired[0, 1])


def test_burst_policy_names_what_is_wrong():
    with pytest.raises(ValueError, match="config: expected rare tokens"):
        BurstPolicy(replace(TINY, burst_probability=0.0))
    policy = BurstPolicy(TINY, (2,))
    with pytest.raises(ValueError, match=r"actions: expected whole numbers of shape \(2, 'N', 4\)"):
        policy.log_prob(torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="actions: expected entries <= 3, got 4"):
        policy.log_prob(torch.full((2, 1, 4), 4))


# ---- the transformer -----------------------------------------------------------------------

START, END = 3, 0  # tokens 0, 1, 2 may be said


def tiny_model(seed):
    config = TransformerConfig(
        vocab_size=4, context_length=8, d_model=8, n_layers=1, n_heads=2, d_mlp=8
    )
    return Transformer(config, generator=seed).double()


def tiny_policy(seed, prompts=(START,), length=3):
    allowed = torch.tensor([True, True, True, False])
    return TransformerPolicy(
        tiny_model(seed), length, prompts=torch.tensor(prompts), end=END, allowed=allowed
    )


def tiny_answers(length=3):
    """All answers, each once: what follows an end is padding."""
    answers = all_answers(3, length)
    keep = [
        all(t == END for t in row[row.index(END) :]) if END in row else True
        for row in answers.tolist()
    ]
    return answers[torch.tensor(keep)]


def test_transformer_policy_against_the_enumeration_of_all_answers():
    policy, reference, answers = tiny_policy(1), tiny_policy(2), tiny_answers()
    log_p, log_q = (pi.log_prob(answers).sum(-1) for pi in (policy, reference))
    probs = log_p.exp()
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-12)
    brute = (probs * (log_p - log_q)).sum()
    kl = policy.kl(reference, answers)
    assert bool((kl >= 0).all())
    assert (probs @ kl.sum(-1)).item() == pytest.approx(brute.item(), abs=1e-12)
    # The log-ratio of the token drawn has the same mean at each place, and more variance.
    drawn = policy.log_prob(answers) - reference.log_prob(answers)
    for t in range(3):
        means = [probs @ x[:, t] for x in (kl, drawn)]
        spread = [probs @ (x[:, t] - mean) ** 2 for x, mean in zip((kl, drawn), means, strict=True)]
        assert means[0].item() == pytest.approx(means[1].item(), abs=1e-12)
        assert spread[0] < 0.9 * spread[1]
    counts = count(policy.sample(20_000, 3), answers)
    assert fits(counts, probs.detach().numpy()) > 1e-3


def test_log_probs_equal_the_model_token_by_token():
    policy = tiny_policy(4)
    answer = torch.tensor([[2, 1, 0]])
    log_prob = policy.log_prob(answer)
    for t in range(3):
        read = torch.cat([torch.tensor([[START]]), answer[:, :t]], 1)
        logits = policy.model(read)[0, -1, :3]
        expected = logits.log_softmax(-1)[answer[0, t]]
        assert log_prob[0, t].item() == pytest.approx(expected.item(), abs=1e-12)


def test_padding_of_answers_counts_for_nothing():
    policy, reference = tiny_policy(5), tiny_policy(6)
    answers = torch.tensor([[1, END, 1], [1, END, 2], [1, END, -100], [1, END, 99]])
    mask = policy.mask(answers)
    assert mask.tolist() == [[True, True, False]] * 4
    log_prob, kl = policy.evaluate(answers, reference)
    assert bool((log_prob[~mask] == 0).all() & (kl[~mask] == 0).all())
    assert torch.equal(log_prob, log_prob[:1].expand(4, 3))
    assert torch.equal(kl, kl[:1].expand(4, 3))
    short = tiny_policy(5, length=2), tiny_policy(6, length=2)
    alone = short[0].evaluate(answers[:1, :2], short[1])
    torch.testing.assert_close(log_prob[:1, :2], alone.log_prob)
    slopes = [
        torch.autograd.grad(e.log_prob[:1].sum() + e.kl[:1].sum(), pi.model.parameters())
        for e, pi in (((policy.evaluate(answers, reference)), policy), (alone, short[0]))
    ]
    for long, brief in zip(*slopes, strict=True):
        torch.testing.assert_close(long, brief)


def test_forbidden_tokens_of_the_transformer_have_no_gradient():
    policy, reference = tiny_policy(7), tiny_policy(8)
    answers = tiny_answers()
    log_prob, kl = policy.evaluate(answers, reference)
    (log_prob.sum() + kl.sum()).backward()
    slope = policy.model.unembedding.weight.grad
    assert bool((slope[START] == 0).all())
    assert bool(torch.isfinite(slope).all())
    assert bool((slope[:START] != 0).any())
    assert int(policy.sample(500, 0).max()) < START


def test_prompts_are_lanes():
    policy = tiny_policy(9, prompts=[[START, 1], [START, 2]])
    tokens = policy.sample(30, 1, batch_size=7)
    assert tokens.shape == (2, 30, 3)
    log_prob = policy.log_prob(tokens)
    for lane, prompt in enumerate(([START, 1], [START, 2])):
        alone = tiny_policy(9, prompts=prompt)
        torch.testing.assert_close(log_prob[lane], alone.log_prob(tokens[lane]))
    assert policy.lanes == (2,)
    frozen = policy.frozen_copy()
    assert not any(p.requires_grad for p in frozen.parameters())


def test_samples_after_an_end_are_padding():
    tokens = tiny_policy(10).sample(2000, 0)
    ended = (tokens == END).long().cumsum(-1)
    assert bool((tokens[:, 1:][ended[:, :-1] > 0] == END).all())
    open_ended = TransformerPolicy(tiny_model(1), 4, prompts=[START])
    assert bool(open_ended.mask(open_ended.sample(5, 0)).all())


def test_values_depend_on_the_past_only():
    value = TransformerValue(tiny_model(1), 3, prompts=[START], end=END)
    answers = torch.tensor([[1, 2, 1], [1, 2, 2], [1, 1, 1], [END, 1, 1]])
    assert bool((value(answers) == 0).all())
    torch.nn.init.ones_(value.head.weight)
    values = value(answers)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0, :2], values[2, :2])
    assert values[0, 2] != values[2, 2]
    assert values[3, 1:].tolist() == [0, 0]
    assert values[3, 0] == values[0, 0] != 0


def test_building_a_value_function_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    TransformerValue(tiny_model(1), 3, prompts=[START])
    assert torch.equal(torch.get_rng_state(), before)


def test_transformer_policy_names_what_is_wrong():
    model = tiny_model(0)
    with pytest.raises(ValueError, match="length: expected a number <= 8"):
        TransformerPolicy(model, 9, prompts=[START])
    with pytest.raises(ValueError, match="prompts: expected entries <= 3, got 4"):
        TransformerPolicy(model, 3, prompts=[4])
    with pytest.raises(ValueError, match=r"prompts: expected whole numbers of shape \(P,\)"):
        TransformerPolicy(model, 3, prompts=[0.5])
    with pytest.raises(ValueError, match="allowed: expected the end token 0 among"):
        TransformerPolicy(
            model, 3, prompts=[START], end=0, allowed=torch.tensor([False, True, True, True])
        )
    with pytest.raises(ValueError, match=r"allowed: expected bool of shape \(4,\)"):
        TransformerPolicy(model, 3, prompts=[START], allowed=torch.ones(4))
    policy = tiny_policy(0)
    with pytest.raises(ValueError, match=r"actions: expected whole numbers of shape \('N', 3\)"):
        policy.log_prob(torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="tokens: expected entries <= 3, got 9"):
        policy.log_prob(torch.tensor([[1, 1, 9]]))
