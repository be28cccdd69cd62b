"""ConvNet: against torch's own layers, one member at a time and many at once."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from enough.models import ConvNet


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def oracle(model, x):
    """The network written out with functional calls, from the state dict alone."""
    state = dict(model.state_dict())

    def conv_norm(prefix, h, stride, groups=1):
        weight = state[f"{prefix}.conv.weight"]
        h = F.conv2d(h, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, variance = h.mean((0, 2, 3)), h.var((0, 2, 3), correction=0)
        if not model.training:
            mean = state[f"{prefix}.norm.running_mean"]
            variance = state[f"{prefix}.norm.running_var"]
        scale = state[f"{prefix}.norm.weight"] / (variance + 1e-5).sqrt()
        shift = state[f"{prefix}.norm.bias"] - mean * scale
        return h * scale[:, None, None] + shift[:, None, None]

    h = x
    for s, stage in enumerate(model.stages):
        skip = h
        for i, layer in enumerate(stage.convs):
            h = conv_norm(
                f"stages.{s}.convs.{i}",
                h.clamp(min=0) if i else h,
                layer.conv.stride[0],
                layer.conv.groups,
            )
        h = (h + skip if stage.residual else h).clamp(min=0)
    n = model.pool_size
    rows, columns = h.shape[-2] // n, h.shape[-1] // n
    h = h.unflatten(-1, (n, columns)).unflatten(-3, (n, rows)).mean((-3, -1))
    return h.flatten(1) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kwargs", [{}, {"blocks": 0, "pool_size": 2}, {"depthwise": True}, {"residual": False}]
)
def test_forward_against_the_written_out_network(kwargs, training):
    model = ConvNet(2, 5, (4, 6), generator=0, **kwargs).double().train(training)
    for i, buffer in enumerate(model.buffers()):
        if buffer.is_floating_point():
            buffer.copy_(draw(*buffer.shape, seed=i).abs() + 0.5)
    for i, parameter in enumerate(model.parameters()):
        if parameter.ndim == 1:
            parameter.data.copy_(draw(*parameter.shape, seed=100 + i))
    x = draw(3, 2, 8, 12)
    expected = oracle(model, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


def test_the_plain_network_of_the_digits():
    model = ConvNet(channels=(16, 32, 32), blocks=0, pool_size=2, generator=0)
    sizes = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sizes == [144, 4608, 9216, 1280]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("side", [8, 28, 32])
def test_image_sizes(side):
    model = ConvNet(3, 7, generator=0)
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 7)
    assert model.features(torch.zeros(2, 3, side, side)).shape == (2, 32)


def test_initial_kernels_have_the_documented_scale():
    model = ConvNet(3, 10, (64, 128), blocks=1, generator=0)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for i, conv in enumerate(convs):
        fan_in = conv.in_channels * 9
        expected = (2.0 if i else 1.0) / fan_in
        assert float(conv.weight.detach().var()) == pytest.approx(expected, rel=0.1)
    assert float(model.head.weight.detach().var()) == pytest.approx(1 / 128, rel=0.15)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kwargs", [{}, {"blocks": 0, "pool_size": 2}, {"depthwise": True}, {"residual": False}]
)
def test_stacked_forward_equals_each_member(kwargs, training):
    models = [ConvNet(2, 5, (3, 4), generator=i, **kwargs).double() for i in range(3)]
    for i, model in enumerate(models):
        for j, buffer in enumerate(model.buffers()):
            if buffer.is_floating_point():
                buffer.copy_(draw(*buffer.shape, seed=10 * i + j).abs() + 0.5)
    params, buffers = stack_module_state(models)
    template = copy.deepcopy(models[0]).to("meta").train(training)
    x = draw(3, 4, 2, 9, 6, seed=5)
    out = template.stacked_forward(params, buffers, x)
    (out * draw(*out.shape, seed=6)).sum().backward()
    for e, model in enumerate(models):
        single = model.train(training)(x[e])
        torch.testing.assert_close(out[e], single, rtol=0, atol=1e-10)
        (single * draw(*out.shape, seed=6)[e]).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(params[name].grad[e], parameter.grad, rtol=0, atol=1e-10)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[name][e], buffer, rtol=0, atol=1e-10)


def test_vmap_over_functional_call_works():
    models = [ConvNet(1, 3, (4,), generator=i).double().eval() for i in range(2)]
    params, buffers = stack_module_state(models)
    x = draw(2, 3, 1, 8, 8)

    def member(p, b, images):
        return functional_call(models[0], (p, b), (images,))

    torch.testing.assert_close(
        vmap(member)(params, buffers, x),
        models[0].stacked_forward(params, buffers, x),
        rtol=0,
        atol=1e-10,
    )


def test_parameter_groups_leave_norms_and_biases_alone():
    model = ConvNet(generator=0)
    decayed, kept = model.parameter_groups(0.1, 0.01)
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert decayed["weight_decay"] == 0.01
    assert {p.ndim for p in kept["params"]} == {1}
    assert kept["weight_decay"] == 0.0
    total = sum(len(group["params"]) for group in (decayed, kept))
    assert total == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": ()}, "channels: expected a sequence of widths"),
        ({"channels": 16}, "channels: expected a sequence of widths, got 16"),
        ({"channels": (4, 0)}, "channels: expected a number >= 1"),
        ({"strides": (1,)}, "strides: expected 3 strides, one a stage"),
        ({"strides": (1, 0, 2)}, "strides: expected a number >= 1"),
        ({"kernel_size": 4}, "kernel_size: expected an odd number, got 4"),
        ({"blocks": -1}, "blocks: expected a number >= 0"),
        ({"pool_size": 0}, "pool_size: expected a number >= 1"),
        ({"activation": "relu6"}, "activation: expected one of"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(**kwargs)


def test_bad_inputs_are_named():
    model = ConvNet(generator=0)
    params, buffers = stack_module_state([model, model])
    with pytest.raises(ValueError, match=r"x: expected shape \(batch, 1, height, width\)"):
        model(torch.zeros(2, 8, 8))
    with pytest.raises(ValueError, match="x: expected 2 members first"):
        model.stacked_forward(params, buffers, torch.zeros(3, 2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"x: expected shape \(members, batch, 1,"):
        model.stacked_forward(params, buffers, torch.zeros(2, 2, 3, 8, 8))
    with pytest.raises(ValueError, match="buffers: expected every buffer by name"):
        model.stacked_forward(params, {}, torch.zeros(2, 2, 1, 8, 8))
