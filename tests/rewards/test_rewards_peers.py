"""Losses, pass@k and best of n: what TRL, evalplus and SciPy answer (tests/oracles)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from enough.rewards import best_of_n, bradley_terry_loss, dpo_loss, pass_at_k, rpo_loss

ORACLES = Path(__file__).resolve().parent.parent / "oracles"
ANSWERS = json.loads((ORACLES / "rewards.json").read_text())


@pytest.fixture(scope="module")
def inputs():
    """The module that draws the oracles' inputs."""
    spec = importlib.util.spec_from_file_location("rewards_inputs", ORACLES / "rewards_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def agrees(loss, leaf, answer):
    """Value and gradient, in float64."""
    assert loss.item() == pytest.approx(answer["value"], rel=1e-12, abs=1e-14)
    (slope,) = torch.autograd.grad(loss, leaf)
    np.testing.assert_allclose(slope.flatten(), answer["slope"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", ANSWERS["preferences"])
def test_preference_losses_are_those_of_trl(inputs, case):
    policy, base = torch.tensor(inputs.log_probs(*case["log_probs"])).sum(-1)
    policy.requires_grad_()
    beta, eta = case["beta"], case["eta"]
    agrees(dpo_loss(*policy, *base, beta=beta), policy, case["dpo"])
    agrees(rpo_loss(*policy, *base, beta=beta, eta=eta), policy, case["rpo"])


@pytest.mark.parametrize("case", ANSWERS["rewards"])
def test_reward_model_loss_is_that_of_trl(inputs, case):
    scores = torch.tensor(inputs.rewards(*case["rewards"])).requires_grad_()
    loss = bradley_terry_loss(*scores, centering=case["centering"])
    agrees(loss, scores, case["bradley_terry"])


@pytest.mark.parametrize("case", ANSWERS["passes"])
def test_pass_at_k_is_that_of_evalplus(case):
    ours = pass_at_k(case["n"], np.array(case["c"]), case["k"])
    np.testing.assert_allclose(ours, case["evalplus"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", ANSWERS["best_of_n"])
def test_best_of_n_has_the_weights_of_the_hypergeometric_distribution(inputs, case):
    proxy, gold = inputs.pool(*case["pool"])
    best = best_of_n(proxy, gold, case["n"])
    assert best.gold == pytest.approx(case["gold"], rel=1e-9, abs=1e-11)
    assert best.proxy == pytest.approx(case["proxy"], rel=1e-9, abs=1e-11)
