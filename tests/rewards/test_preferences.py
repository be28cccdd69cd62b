"""Preference losses, label noise, and log-probabilities of padded answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from enough.rewards import (
    bradley_terry_loss,
    dpo_loss,
    flip_preferences,
    npo_loss,
    rpo_loss,
    sequence_log_probs,
)


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def test_bradley_terry_equals_a_loop():
    chosen, rejected = draws(7, seed=1), draws(7, seed=2)
    for eta in (0.0, 0.3):
        total = sum(
            -math.log(sigmoid(c - r)) + eta * (c + r) ** 2
            for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)
        )
        loss = bradley_terry_loss(chosen, rejected, centering=eta)
        assert loss.item() == pytest.approx(total / 7, abs=1e-14)
        assert bradley_terry_loss(chosen.numpy(), rejected.numpy(), centering=eta) == loss.item()


def test_bradley_terry_ignores_a_shift_and_the_centering_does_not():
    chosen, rejected = draws(9, seed=3), draws(9, seed=4)
    plain = bradley_terry_loss(chosen, rejected)
    assert bradley_terry_loss(chosen + 5, rejected + 5).item() == pytest.approx(plain.item())
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bradley_terry_loss(chosen + shift, rejected + shift, centering=0.1).backward()
    assert shift.grad.item() == pytest.approx(0.1 * 4 * (chosen + rejected).mean().item())


@pytest.mark.parametrize("margin", [1e4, -1e4, 800.0, -800.0])
def test_losses_are_stable_far_out(margin):
    x, zero = torch.tensor([margin], requires_grad=True), torch.zeros(1)
    for loss, scale in (
        (bradley_terry_loss(x, zero), 1.0),
        (dpo_loss(x, zero, zero, zero, beta=1.0), 1.0),
        (npo_loss(-x, zero, beta=1.0), 2.0),
    ):
        (slope,) = torch.autograd.grad(loss, x)
        assert loss.item() == pytest.approx(scale * max(0.0, -margin))
        assert slope.item() == pytest.approx(-scale if margin < 0 else 0.0)


def test_gradients_of_all_losses_against_finite_differences():
    inputs = [draws(4, seed=s).requires_grad_() for s in range(4)]
    two, four = inputs[:2], inputs
    check = torch.autograd.gradcheck
    assert check(lambda a, b: bradley_terry_loss(a, b, centering=0.2), two)
    assert check(lambda a, b, c, d: dpo_loss(a, b, c, d, beta=0.7), four)
    assert check(lambda a, b, c, d: rpo_loss(a, b, c, d, beta=0.7, eta=0.4), four)
    assert check(lambda a, b: npo_loss(a, b, beta=0.7), two)


def test_dpo_value_and_weight():
    policy_c, policy_r, base_c, base_r = (draws(5, seed=s) for s in range(4))
    assert dpo_loss(policy_c, policy_r, policy_c, policy_r, beta=3.0).item() == pytest.approx(
        math.log(2.0)
    )
    policy_c.requires_grad_()
    loss = dpo_loss(policy_c, policy_r, base_c, base_r, beta=0.5)
    margin = 0.5 * ((policy_c - base_c) - (policy_r - base_r)).detach().numpy()
    assert loss.item() == pytest.approx(np.mean(np.log1p(np.exp(-margin))))
    loss.backward()
    # The weight of a pair is β σ(r⁻ − r⁺) with the implicit rewards r = β log π/π₀.
    weight = 0.5 / (1.0 + np.exp(margin)) / 5
    np.testing.assert_allclose(policy_c.grad.numpy(), -weight, atol=1e-15)


def test_rpo_adds_the_scaled_likelihood_of_the_chosen():
    inputs = [draws(6, seed=s).requires_grad_() for s in range(4)]
    dpo, rpo = dpo_loss(*inputs, beta=0.3), rpo_loss(*inputs, beta=0.3, eta=0.5)
    assert rpo.item() == pytest.approx(dpo.item() - 0.15 * inputs[0].mean().item())
    slopes = torch.autograd.grad(rpo, inputs), torch.autograd.grad(dpo, inputs)
    torch.testing.assert_close(slopes[0][0], slopes[1][0] - 0.15 / 6)
    for with_term, without in zip(slopes[0][1:], slopes[1][1:], strict=True):
        assert torch.equal(with_term, without)
    assert rpo_loss(*inputs, beta=0.3, eta=0.0).item() == dpo.item()
    arrays = [t.detach().numpy() for t in inputs]
    assert rpo_loss(*arrays, beta=0.3, eta=0.5) == pytest.approx(rpo.item(), abs=1e-15)


def test_npo_weight_and_limit():
    policy, base = draws(5, seed=1).requires_grad_(), draws(5, seed=2)
    for beta in (0.1, 1.0, 4.0):
        (slope,) = torch.autograd.grad(npo_loss(policy, base, beta=beta), policy)
        p, q = (policy.detach() * beta).exp(), (base * beta).exp()
        torch.testing.assert_close(slope, 2 * p / (p + q) / 5)
    ascent = (policy - base).mean().item()
    assert npo_loss(policy, base, beta=1e-5).item() - 2e5 * math.log(2.0) == pytest.approx(
        ascent, abs=1e-4
    )


def test_losses_name_what_is_wrong():
    good = torch.zeros(3)
    with pytest.raises(ValueError, match=r"rejected: expected the shape of chosen, \(3,\)"):
        bradley_terry_loss(good, torch.zeros(2))
    with pytest.raises(ValueError, match="chosen: expected at least one entry"):
        bradley_terry_loss(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="centering: expected a number >= 0"):
        bradley_terry_loss(good, good, centering=-1.0)
    with pytest.raises(ValueError, match="beta: expected a number > 0"):
        dpo_loss(good, good, good, good, beta=0.0)
    with pytest.raises(ValueError, match="reference_rejected: expected a floating-point"):
        dpo_loss(good, good, good, good.long(), beta=0.1)
    with pytest.raises(ValueError, match="eta: expected a number >= 0"):
        rpo_loss(good, good, good, good, beta=0.1, eta=-0.1)
    with pytest.raises(ValueError, match="beta: expected a number > 0"):
        npo_loss(good, good, beta=-1.0)


@pytest.mark.parametrize(
    ("n", "rate", "count"),
    [
        (1000, 0.25, 250),
        (10, 0.0, 0),
        (10, 1.0, 10),
        (100, 0.29, 29),
        (100, 0.145, 15),
        (7, 0.5, 4),
    ],
)
def test_flips_are_exact(n, rate, count):
    chosen, rejected = torch.arange(n), -1 - torch.arange(n)
    first, second, flipped = flip_preferences(chosen, rejected, rate, generator=0)
    assert int(flipped.sum()) == count
    assert torch.equal(first, torch.where(flipped, rejected, chosen))
    assert torch.equal(second, torch.where(flipped, chosen, rejected))


def test_flips_are_paired_and_nested():
    chosen, rejected = draws(200, 3), draws(200, 3, seed=1)
    marks = [flip_preferences(chosen, rejected, r, generator=5)[2] for r in (0.1, 0.25, 0.25)]
    assert torch.equal(marks[1], marks[2])
    assert bool((marks[1] | ~marks[0]).all())
    assert not torch.equal(flip_preferences(chosen, rejected, 0.25, generator=6)[2], marks[1])
    arrays = flip_preferences(chosen.numpy(), rejected.numpy(), 0.25, generator=5)
    assert all(isinstance(a, np.ndarray) for a in arrays)
    assert np.array_equal(arrays[2], marks[1].numpy())


def test_flips_name_what_is_wrong():
    with pytest.raises(ValueError, match="rate: expected a number <= 1"):
        flip_preferences(torch.zeros(3), torch.zeros(3), 1.5)
    with pytest.raises(ValueError, match=r"rejected: expected the shape of chosen, \(3,\)"):
        flip_preferences(torch.zeros(3), torch.zeros(3, 2), 0.5)


def test_sequence_log_probs_equal_a_loop():
    logits, tokens = draws(2, 3, 4), torch.tensor([[0, 3, 1], [2, 2, 0]])
    value = sequence_log_probs(logits, tokens)
    for row in range(2):
        total = 0.0
        for t in range(3):
            weights = np.exp(logits[row, t].numpy())
            total += math.log(weights[tokens[row, t]] / weights.sum())
        assert value[row].item() == pytest.approx(total, abs=1e-13)
    assert torch.autograd.gradcheck(
        lambda z: sequence_log_probs(z, tokens), logits.requires_grad_()
    )


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_padding_adds_nothing_in_value_and_gradient(junk):
    tokens = torch.tensor([[1, 2, -100, 99], [0, -100, -100, -100], [-100, -100, -100, -100]])
    mask = tokens.ge(0) & tokens.lt(5)
    logits = draws(3, 4, 5)
    logits[~mask] = junk
    logits.requires_grad_()
    value = sequence_log_probs(logits, tokens, mask)
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert bool((slope[~mask] == 0).all())
    short = logits.detach()[0, :2].requires_grad_()
    alone = sequence_log_probs(short, tokens[0, :2])
    assert value[0].item() == alone.item()
    assert torch.equal(slope[0, :2], torch.autograd.grad(alone, short)[0])
    assert value[2].item() == 0.0


def test_forbidden_tokens_have_no_gradient():
    logits = draws(1, 2, 4)
    logits[..., 3] = -math.inf
    logits.requires_grad_()
    value = sequence_log_probs(logits, torch.tensor([[0, 2]]))
    (slope,) = torch.autograd.grad(value.sum(), logits)
    assert math.isfinite(value.item())
    assert bool((slope[..., 3] == 0).all())
    assert bool(torch.isfinite(slope).all())


def test_sequence_log_probs_name_what_is_wrong():
    logits, tokens = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="mask: expected bool of shape"):
        sequence_log_probs(logits, tokens, torch.ones(2, 3))
    with pytest.raises(ValueError, match="tokens: expected whole numbers of shape"):
        sequence_log_probs(logits, tokens[:, :2])
    with pytest.raises(ValueError, match="tokens: expected entries <= 3, got 4"):
        sequence_log_probs(logits, tokens + 4)
