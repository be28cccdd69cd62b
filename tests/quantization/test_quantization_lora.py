"""Adapters on an NF4 base: what trains, what stays, and what a merge gives."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from enough.quantization import (
    LoRALinear,
    NF4Linear,
    add_adapters,
    merge_adapters,
    nf4_dequantize,
    nf4_quantize,
)


def make_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(20, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5))


def make_input(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("double", [True, False])
def test_base_is_the_dequantized_weight(double):
    linear = make_model()[0]
    layer = NF4Linear.from_float(linear, 16, double=double)
    wanted = nf4_dequantize(nf4_quantize(linear.weight, 16, double))
    assert torch.equal(layer.weight, wanted)
    x = make_input(3, 20).requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, functional.linear(x, wanted, linear.bias))
    y.sum().backward()
    torch.testing.assert_close(x.grad, wanted.sum(0).expand(3, 20))


@pytest.mark.parametrize("double", [True, False])
def test_base_loads_without_pickle(double):
    layer = NF4Linear.from_float(make_model()[0], 16, double=double)
    blank = NF4Linear(20, 32, block_size=16, double=double)
    assert torch.equal(blank(make_input(2, 20)), torch.zeros(2, 32))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    blank.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(blank(make_input(2, 20)), layer(make_input(2, 20)))
    assert "block_size=16" in repr(layer)


def test_half_precision_base():
    layer = NF4Linear.from_float(make_model()[0].to(torch.bfloat16))
    assert layer.weight.dtype == torch.bfloat16
    adapter = LoRALinear(layer, rank=2, generator=0)
    assert adapter(make_input(2, 20).bfloat16()).dtype == torch.bfloat16
    assert adapter.merge().weight.dtype == torch.bfloat16


def test_adapter_by_hand():
    base = NF4Linear.from_float(make_model()[0])
    adapter = LoRALinear(base, rank=3, alpha=6.0, generator=1)
    x = make_input(4, 20)
    assert torch.equal(adapter(x), base(x))  # the second factor begins at zero
    with torch.no_grad():
        adapter.lora_b.copy_(make_input(32, 3, seed=5))
    wanted = base(x) + 2.0 * x @ adapter.lora_a.t() @ adapter.lora_b.t()
    torch.testing.assert_close(adapter(x), wanted)
    torch.testing.assert_close(adapter.merge()(x), wanted, rtol=1e-4, atol=1e-5)
    assert float(adapter.lora_a.detach().abs().max()) <= 20**-0.5
    assert "rank=3" in repr(adapter)


def test_only_adapters_train():
    model = make_model()
    x = make_input(64, 20)
    with torch.no_grad():
        teacher = model(x) + 0.3 * x[:, :5]
    adapted = add_adapters(model, rank=4, generator=2)
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert names == {f"{i}.lora_{side}" for i in (0, 3) for side in "ab"}
    before = copy.deepcopy(adapted.state_dict())
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(150):
        loss = functional.mse_loss(adapted(x), teacher)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    for name, value in adapted.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in names), name
    merged = merge_adapters(adapted)
    assert [type(m) for m in merged] == [type(m) for m in model]
    torch.testing.assert_close(merged(x), adapted(x), rtol=1e-4, atol=1e-4)
    assert isinstance(adapted[0], LoRALinear)


def test_model_and_global_seed_are_left_alone():
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    first = add_adapters(model, generator=3)
    assert torch.equal(state, torch.get_rng_state())
    again = add_adapters(model, generator=3)
    other = add_adapters(model, generator=4)
    assert torch.equal(first[0].lora_a, again[0].lora_a)
    assert not torch.equal(first[0].lora_a, other[0].lora_a)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_only_while_training():
    adapter = LoRALinear(make_model()[0], rank=20, dropout=0.5, generator=0)
    with torch.no_grad():
        adapter.lora_b.fill_(1.0)
    x = make_input(200, 20)
    adapter.eval()
    still = adapter(x).detach()
    assert torch.equal(still, adapter(x))
    adapter.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = torch.stack([adapter(x).detach() for _ in range(200)])
    assert not torch.equal(moved[0], moved[1])
    spread = moved.std(0) / 200**0.5
    assert float(((moved.mean(0) - still) / spread).abs().mean()) < 1.0


def test_skip_and_single_layers():
    adapted = add_adapters(make_model(), skip=["3"], generator=0)
    assert isinstance(adapted[3], nn.Linear)
    assert not adapted[3].weight.requires_grad
    lone = add_adapters(nn.Linear(8, 8), generator=0)
    assert isinstance(lone, LoRALinear)
    assert isinstance(merge_adapters(lone), nn.Linear)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LoRALinear(nn.ReLU()), "base: expected a linear or packed layer, got ReLU"),
        (lambda: LoRALinear(nn.Linear(2, 2), rank=0), "rank: expected a number >= 1"),
        (lambda: LoRALinear(nn.Linear(2, 2), dropout=1.0), "dropout: expected a number < 1"),
        (lambda: NF4Linear.from_float(nn.ReLU()), r"linear: expected a torch.nn.Linear"),
        (lambda: merge_adapters(nn.ReLU()), "model: expected at least one LoRALinear"),
        (lambda: add_adapters(nn.ReLU()), "model: expected at least one linear layer"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
