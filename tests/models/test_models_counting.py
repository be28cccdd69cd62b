"""Counts of parameters and operations against brute force and PyTorch's own counter."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from enough.models import (
    MLP,
    ConvNet,
    Transformer,
    TransformerConfig,
    approximate_flops,
    count_parameters,
    flops,
)

BASE = TransformerConfig(vocab_size=50, context_length=32, d_model=24, n_layers=2, n_heads=3)
CONFIGS = [
    BASE,
    dataclasses.replace(BASE, mlp="swiglu", tied_embeddings=True),
    dataclasses.replace(BASE, qk_norm=True, parameterization="mup", z_loss=1e-4),
    dataclasses.replace(BASE, d_mlp=50, n_layers=1, n_heads=1),
    dataclasses.replace(BASE, n_layers=0),
]


def counted(function):
    # The CPU's fused attention has no entry in the counter; the plain one is made of bmm.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", CONFIGS)
def test_transformer_parameters_by_brute_force(config):
    model = Transformer(config, generator=0)
    shapes = {name: p.numel() for name, p in model.named_parameters()}
    embedding = sum(n for name, n in shapes.items() if "embedding" in name)
    for counts in (count_parameters(config), count_parameters(model)):
        assert counts.total == sum(shapes.values())
        assert counts.embedding == embedding
        assert counts.non_embedding == sum(shapes.values()) - embedding


def test_parameters_of_other_models():
    assert count_parameters(MLP([4, 3, 2])).total == 4 * 3 + 3 + 3 * 2 + 2
    assert count_parameters(MLP([4, 3, 2])).embedding == 0
    shared = nn.Embedding(5, 3)
    model = nn.ModuleList([shared, shared, nn.Linear(3, 1)])
    assert count_parameters(model).total == 15 + 4
    assert count_parameters(model).non_embedding == 4


@pytest.mark.parametrize("config", CONFIGS)
def test_transformer_flops_against_the_counter(config):
    model = Transformer(config, generator=0)
    tokens = torch.randint(50, (3, 18), generator=torch.Generator().manual_seed(0))
    forward = flops(config, 3, 17, backward=False)
    assert counted(lambda: model.loss(tokens)) == pytest.approx(forward, rel=0.02)
    step = counted(lambda: model.loss(tokens).backward())
    assert step == pytest.approx(flops(model, 3, 17), rel=0.02)


@pytest.mark.parametrize(
    "kwargs", [{}, {"blocks": 0, "pool_size": 2}, {"strides": (2, 2), "kernel_size": 5}]
)
def test_convnet_flops_against_the_counter(kwargs):
    model = ConvNet(3, 10, (8, 12), generator=0, **kwargs)
    x = torch.zeros(2, 3, 13, 9)
    forward = flops(model, 2, size=(13, 9), backward=False)
    assert counted(lambda: model(x)) == pytest.approx(forward, rel=0.02)
    step = counted(lambda: model(x).sum().backward())
    assert step == pytest.approx(flops(model, 2, size=(13, 9)), rel=0.02)


def test_depthwise_flops_against_one_convolution_a_channel(monkeypatch):
    model = ConvNet(1, 10, (4, 6), depthwise=True, generator=0)

    def by_channel(self, x, weight, bias):
        parts = zip(x.chunk(self.groups, 1), weight.chunk(self.groups), strict=True)
        return torch.cat([F.conv2d(h, w, None, self.stride, self.padding) for h, w in parts], 1)

    # The counter is wrong for the weight gradient of grouped convolutions, right for these.
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", by_channel)
    step = counted(lambda: model(torch.zeros(2, 1, 8, 8)).sum().backward())
    assert step == pytest.approx(flops(model, 2, size=8), rel=0.02)


def test_mlp_flops_against_the_counter():
    for parameterization in ("standard", "mup"):
        model = MLP([7, 5, 9, 2], parameterization=parameterization, generator=0)
        x = torch.zeros(4, 7)
        assert counted(lambda m=model, x=x: m(x)) == flops(model, 4, backward=False)
        assert counted(lambda m=model, x=x: m(x).sum().backward()) == flops(model, 4)


def test_six_n_d_leaves_out_attention_and_counts_gains():
    config = dataclasses.replace(BASE, d_model=48)
    batch, length, d = 3, 20, 48
    gains = config.n_layers * 2 * d + d
    used = count_parameters(config).non_embedding - gains + config.vocab_size * d
    attention = 12 * config.n_layers * batch * length**2 * d
    approximate = approximate_flops(used, batch * length)
    assert flops(config, batch, length) == approximate + attention
    # The share of attention in the blocks.
    blocks = 6 * (used - config.vocab_size * d) * batch * length
    assert attention / (attention + blocks) == pytest.approx(length / (6 * d + length))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flops(BASE, 2), "length: expected the number of tokens"),
        (lambda: flops(BASE, 2, 33), "length: expected a number <= 32, got 33"),
        (lambda: flops(BASE, 0, 8), "batch: expected a number >= 1"),
        (lambda: flops(ConvNet(generator=0), 2), "size: expected the height and width"),
        (lambda: flops(nn.Linear(2, 3)), "model: expected a Transformer"),
        (lambda: count_parameters(3), "model: expected a torch.nn.Module"),
        (lambda: approximate_flops(-1, 3), "parameters: expected a number >= 0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
