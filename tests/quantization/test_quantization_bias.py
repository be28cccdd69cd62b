"""Bias tuning, and the divergence that it lowers."""

import copy

import pytest
import torch
from scipy.special import rel_entr
from torch import nn

from enough.models import MLP
from enough.quantization import (
    QuantizedLayer,
    prediction_divergence,
    quantize_model,
    tune_biases,
)


@pytest.fixture(scope="module")
def case():
    model = MLP([6, 24, 24, 4], generator=0).eval()
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    return model, x, quantize_model(model, {"bits": 2}, x)


def divergence(model, quantized, x):
    with torch.no_grad():
        return float(prediction_divergence(model(x), quantized(x)))


def test_divergence_equals_scipy():
    a, b = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    p, q = torch.softmax(a, -1), torch.softmax(b, -1)
    expected = rel_entr(p.numpy(), q.numpy()).sum(-1).mean()
    assert float(prediction_divergence(a, b)) == pytest.approx(expected, rel=1e-12)
    assert float(prediction_divergence(a, a + 3.0)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"output: expected shape \(3, 5\)"):
        prediction_divergence(torch.zeros(3, 5), torch.zeros(3, 4))


def test_tuning_lowers_the_divergence_and_touches_only_biases(case):
    model, x, quantized = case
    before = {name: value.clone() for name, value in quantized.state_dict().items()}
    tuned = tune_biases(quantized, model, x, steps=60, generator=0)
    assert divergence(model, tuned, x) < 0.7 * divergence(model, quantized, x)
    after = tuned.state_dict()
    assert set(before) == set(after)
    for name, value in before.items():
        assert torch.equal(value, quantized.state_dict()[name])
        assert torch.equal(value, after[name]) != name.endswith("bias")
    assert all(p.grad is None for p in tuned.parameters())


def test_one_step_is_gradient_descent(case):
    model, x, quantized = case
    tuned = tune_biases(quantized, model, x, steps=1, lr=1e-3, momentum=0.0, generator=0)
    by_hand = copy.deepcopy(quantized)
    layer = by_hand.layers[2]
    prediction_divergence(model(x).detach(), by_hand(x)).backward()
    torch.testing.assert_close(tuned.layers[2].bias, layer.bias - 1e-3 * layer.bias.grad)


def test_layers_without_bias_get_one():
    model = MLP([6, 24, 4], bias=False, generator=0)
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    quantized = quantize_model(model, {"bits": 2}, x)
    tuned = tune_biases(quantized, model, x, steps=30, generator=0)
    assert quantized.layers[0].bias is None
    assert tuned.layers[0].bias.shape == (24,)
    assert divergence(model, tuned, x) < divergence(model, quantized, x)


def test_a_tuning_that_fails_is_undone(case):
    model, x, quantized = case
    tuned = tune_biases(quantized, model, x, steps=3, lr=1e4, momentum=0.0, generator=0)
    for name, value in quantized.state_dict().items():
        assert torch.equal(value, tuned.state_dict()[name])


def test_the_same_seed_gives_the_same_biases(case):
    model, x, quantized = case
    runs = [
        tune_biases(quantized, model, x, steps=5, batch_size=16, generator=seed)
        for seed in (0, 0, 1)
    ]
    first, same, other = (run.layers[0].bias for run in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_refusals(case):
    model, x, quantized = case
    with pytest.raises(ValueError, match="model: expected quantized layers"):
        tune_biases(model, model, x)
    with pytest.raises(ValueError, match="steps: expected a number >= 1"):
        tune_biases(quantized, model, x, steps=0)
    with pytest.raises(ValueError, match="lr: expected a number > 0"):
        tune_biases(quantized, model, x, lr=0.0)


def test_modes_of_the_reference_survive(case):
    model, x, quantized = case
    reference = nn.Sequential(copy.deepcopy(model).train())
    tune_biases(nn.Sequential(quantized), reference, x, steps=1, generator=0)
    assert reference.training
    assert any(isinstance(m, QuantizedLayer) for m in quantized.modules())
