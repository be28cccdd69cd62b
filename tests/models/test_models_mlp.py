"""MLP: equations, parameterizations, seeding, many members at once."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from enough.models import MLP
from enough.models._building import activation_gain

PARAMETERIZATIONS = ["standard", "ntk", "mup"]


def slope(x, y):
    x, y = torch.tensor(x).double().log(), torch.tensor(y).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def effective(model):
    """The matrices and vectors that the forward pass applies."""
    maps = []
    for layer in model.layers:
        scale = getattr(layer, "weight_multiplier", 1.0)
        shift = getattr(layer, "bias_multiplier", 1.0)
        bias = None if layer.bias is None else shift * layer.bias.detach()
        maps.append((scale * layer.weight.detach(), bias))
    return maps


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_plain_network(parameterization, bias):
    widths = [5, 7, 4, 3]
    model = MLP(widths, parameterization=parameterization, bias=bias, generator=0).double()
    if bias:
        for layer in model.layers:
            nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    layers = []
    for weight, shift in effective(model):
        linear = nn.Linear(*weight.T.shape, bias=bias).double()
        linear.weight.data.copy_(weight)
        if bias:
            linear.bias.data.copy_(shift)
        layers += [linear, nn.ReLU()]
    plain = nn.Sequential(*layers[:-1])
    x = torch.randn(2, 6, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.features(x), plain[:-1](x), rtol=1e-12, atol=1e-12)
    assert model(x[0, 0]).shape == (3,)


@pytest.mark.parametrize(
    ("activation", "second_moment"),
    [
        ("relu", 0.5),
        ("identity", 1.0),
        # Integrals of φ(z)² against the normal density, by adaptive quadrature below.
        ("gelu", None),
        ("silu", None),
        ("tanh", None),
    ],
)
def test_gain_is_the_inverse_root_of_the_second_moment(activation, second_moment):
    from scipy.integrate import quad

    from enough.models._building import ACTIVATIONS

    function = ACTIVATIONS[activation]
    if second_moment is None:

        def integrand(z):
            value = float(function(torch.tensor(z, dtype=torch.double)))
            return value**2 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

        second_moment = quad(integrand, -12, 12, epsabs=1e-12)[0]
    assert activation_gain(function) == pytest.approx(second_moment**-0.5, rel=1e-9)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_preactivations_start_with_variance_one(activation, parameterization):
    width = 1024
    model = MLP([width] * 4, activation=activation, parameterization=parameterization, generator=3)
    x = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    for layer in model.layers:
        z = layer(x).detach()
        # 8192 entries, correlated by row: the standard error is near 3 %.
        assert float(z.var()) == pytest.approx(1.0, abs=0.15)
        x = model.activation(z)


def test_mup_starts_at_the_spectral_condition():
    widths = [20, 300, 1200, 4]
    model = MLP(widths, parameterization="mup", generator=0, activation="identity")
    for (weight, _), n_in, n_out in zip(effective(model), widths[:-1], widths[1:], strict=True):
        expected = min(1.0, math.sqrt(n_out / n_in)) / math.sqrt(n_in)
        assert float(weight.std()) == pytest.approx(expected, rel=0.05)
        # A Gaussian matrix has spectral norm s (√n_in + √n_out): here 1 to 2 times √(n_out/n_in).
        norm = float(torch.linalg.matrix_norm(weight, 2)) / math.sqrt(n_out / n_in)
        assert 0.9 < norm < 2.2


def test_ntk_is_standard_with_another_rate_per_layer():
    widths, lr = [6, 40, 30, 2], 0.07
    ntk = MLP(widths, parameterization="ntk", generator=5).double()
    standard = MLP(widths, generator=5).double()
    # float32 draws are scaled before or after they are stored.
    for layer, twin in zip(ntk.layers, standard.layers, strict=True):
        twin.weight.data.copy_(layer.weight_multiplier * layer.weight.data)
        assert layer.weight_multiplier == pytest.approx(
            (1.0 if layer is ntk.layers[0] else math.sqrt(2)) / math.sqrt(layer.in_features)
        )
    x = torch.randn(9, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    y = torch.randn(9, 2, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    groups = [
        {"params": [twin.weight], "lr": lr * layer.weight_multiplier**2}
        for layer, twin in zip(ntk.layers, standard.layers, strict=True)
    ] + [{"params": [twin.bias for twin in standard.layers], "lr": lr}]
    for model, optimizer in (
        (ntk, torch.optim.SGD(ntk.parameters(), lr)),
        (standard, torch.optim.SGD(groups)),
    ):
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    torch.testing.assert_close(ntk(x), standard(x), rtol=1e-12, atol=1e-12)


def feature_change(parameterization, width, optimizer, lr, steps=10):
    """Relative change of the last hidden features, mean of two seeds."""
    total = 0.0
    for seed in (0, 1):
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(64, 16, generator=draw)
        y = torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
        model = MLP([16, width, width, 1], parameterization=parameterization, generator=draw)
        kind = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
        steps_of = kind(model.parameter_groups(lr, optimizer=optimizer))
        with torch.no_grad():
            start, offset = model.features(x), model(x)
        for _ in range(steps):
            steps_of.zero_grad()
            F.mse_loss(model(x) - offset, y).backward()
            steps_of.step()
        with torch.no_grad():
            total += float((model.features(x) - start).norm() / start.norm()) / 2
    return total


@pytest.mark.parametrize(
    ("parameterization", "optimizer", "lr", "low", "high"),
    [
        ("ntk", "sgd", 0.03, -0.6, -0.4),  # theory: -1/2, the kernel regime
        ("mup", "sgd", 0.03, -0.15, 0.15),  # theory: 0, features move at every width
        ("mup", "adam", 0.02, -0.15, 0.15),
        ("standard", "adam", 0.01, 0.2, 0.8),  # one rate for all widths: steps grow
    ],
)
def test_feature_learning_against_width(parameterization, optimizer, lr, low, high):
    widths = [64, 128, 256, 512]
    changes = [feature_change(parameterization, width, optimizer, lr) for width in widths]
    assert low < slope(widths, changes) < high


def test_mup_biases_move_alike_at_every_width():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=draw)
    y = torch.full((64, 1), 3.0)

    def shift(width):
        model = MLP([8, width, width, 1], parameterization="mup", generator=0)
        F.mse_loss(model(x), y).backward()
        layer = model.layers[1]
        return float((layer.bias_multiplier * layer.bias.grad).square().mean().sqrt())

    # One step of SGD changes what the layer adds by the multiplier times the gradient.
    assert abs(slope([128, 512, 2048], [shift(n) for n in (128, 512, 2048)])) < 0.1


def test_mup_multipliers_for_adam():
    model = MLP([8, 32, 128, 2], parameterization="mup", generator=0)
    multipliers = model.learning_rate_multipliers("adam")
    assert multipliers["layers.1.weight"] == pytest.approx(1 / 64)
    assert multipliers["layers.1.bias"] == pytest.approx(1 / math.sqrt(128))
    assert set(model.learning_rate_multipliers("sgd").values()) == {1.0}
    groups = model.parameter_groups(0.5, 0.1, "adam")
    assert sum(len(group["params"]) for group in groups) == 6
    for group in groups:
        matrices = {p.ndim == 2 for p in group["params"]}
        assert len(matrices) == 1
        if matrices.pop():
            assert group["lr"] * group["weight_decay"] == pytest.approx(0.5 * 0.1)
        else:
            assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_stacked_forward_equals_each_member(parameterization, bias):
    models = [
        MLP([4, 6, 5, 3], parameterization=parameterization, bias=bias, generator=i).double()
        for i in range(3)
    ]
    params, buffers = stack_module_state(models)
    x = torch.randn(3, 7, 2, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    template = MLP([4, 6, 5, 3], parameterization=parameterization, bias=bias).to("meta")
    out = template.stacked_forward(params, buffers, x)
    out.square().sum().backward()
    for e, model in enumerate(models):
        single = model(x[e])
        torch.testing.assert_close(out[e], single, rtol=0, atol=1e-10)
        single.square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(params[name].grad[e], parameter.grad, rtol=0, atol=1e-10)
    flat = template.stacked_forward(params, buffers, x[:, 0, 0])
    torch.testing.assert_close(flat, out[:, 0, 0], rtol=0, atol=1e-10)


def test_vmap_over_functional_call_works():
    models = [MLP([4, 6, 3], parameterization="mup", generator=i).double() for i in range(3)]
    params, buffers = stack_module_state(models)
    x = torch.randn(3, 5, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def member(p, b, row):
        return functional_call(models[0], (p, b), (row,))

    torch.testing.assert_close(
        vmap(member)(params, buffers, x),
        models[0].stacked_forward(params, buffers, x),
        rtol=0,
        atol=1e-12,
    )


def test_gradients_against_finite_differences():
    model = MLP([3, 4, 2], parameterization="mup", activation="tanh", generator=0).double()
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(5, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def call(x, *values):
        return functional_call(model, dict(zip(names, values, strict=True)), (x,))

    inputs = (x.requires_grad_(), *(v.detach().clone().requires_grad_() for v in values))
    assert torch.autograd.gradcheck(call, inputs)


def test_callable_activation_and_own_gains():
    model = MLP([3, 500, 1], activation=torch.square, gains=[1.0, 0.0], generator=0)
    x = torch.ones(1, 3)
    assert float(model(x).detach()) == 0.0
    assert float(model.features(x).detach().min()) >= 0.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"widths": [3]}, "widths: expected a sequence of at least two"),
        ({"widths": 3}, "widths: expected a sequence"),
        ({"widths": [3, 0, 1]}, "widths: expected a number >= 1, got 0"),
        ({"widths": [3, 2.5]}, "widths: expected a whole number"),
        ({"activation": "swish"}, "activation: expected one of 'relu'"),
        ({"activation": torch.zeros_like}, "activation: expected a function"),
        ({"parameterization": "ntp"}, "parameterization: expected one of 'standard'"),
        ({"gains": [1.0]}, "gains: expected 2, one a layer, got 1"),
        ({"generator": "seed"}, "generator: expected a torch.Generator"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MLP(**{"widths": [3, 4, 1], **kwargs})


def test_bad_inputs_are_named():
    model = MLP([3, 4, 1], generator=0)
    params, buffers = stack_module_state([model, model])
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 3\), got \(2, 4\)"):
        model(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="x: expected 2 members first, got shape"):
        model.stacked_forward(params, buffers, torch.zeros(3, 5, 3))
    with pytest.raises(ValueError, match=r"x: expected shape \(members, ..., 3\)"):
        model.stacked_forward(params, buffers, torch.zeros(2, 5, 4))
    some = {k: v for k, v in params.items() if k != "layers.1.bias"}
    with pytest.raises(ValueError, match=r"layers\.1\.bias missing"):
        model.stacked_forward(some, buffers, torch.zeros(2, 5, 3))
    uneven = {**params, "layers.0.bias": params["layers.0.bias"][:1]}
    with pytest.raises(ValueError, match=r"one number of members first, got \[1, 2\]"):
        model.stacked_forward(uneven, buffers, torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="optimizer: expected one of"):
        model.parameter_groups(0.1, optimizer="lion")
    with pytest.raises(ValueError, match="lr: expected a number >= 0"):
        model.parameter_groups(-0.1)
