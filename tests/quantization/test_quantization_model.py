"""Whole models: every kind of block, every method, the report, and what is refused."""

import copy
import dataclasses
import io
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from enough.models import MLP, ConvNet, Transformer, TransformerConfig
from enough.quantization import (
    ActivationQuantizer,
    LayerStatistics,
    ProjectedAttention,
    QuantizedLayer,
    Recipe,
    allocate_bits,
    fold_batch_norm,
    gptq,
    layer_matrix,
    layer_rows,
    prediction_divergence,
    prepare_model,
    quantize_model,
    sensitivity,
)
from enough.quantization.weight_grid import WeightGrid

METHODS = ("nearest", "gptq", "adaround", "adaquant")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Residual(nn.Module):
    """A bottleneck block with a strided shortcut, grouped and depthwise convolutions."""

    def __init__(self):
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.depthwise = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.expand = nn.Conv2d(6, 8, 1, groups=2)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.BatchNorm2d(8))

    def forward(self, x):
        h = torch.relu(self.norm(self.depthwise(self.reduce(x))))
        return torch.relu(self.expand(h) + self.shortcut(x))


class Autoencoder(nn.Module):
    """Convolutions down, transposed convolutions up."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.up(self.down(x).relu()))


class Attend(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(8, 3))


def ntk():
    return MLP([5, 12, 3], parameterization="ntk", generator=0)


def byte_model():
    return Transformer(TransformerConfig(32, 16, 16, 2, 2, mlp="swiglu"), generator=0)


MODELS = {
    "mlp": (lambda: MLP([5, 12, 3], generator=0), lambda n: torch.randn(n, 5)),
    "ntk mlp": (ntk, lambda n: torch.randn(n, 5)),
    "convnet": (lambda: ConvNet(channels=(4, 6), generator=0), lambda n: torch.rand(n, 1, 8, 8)),
    "transformer": (byte_model, lambda n: torch.randint(0, 32, (n, 12))),
    "residual": (lambda: nn.Sequential(Residual()), lambda n: torch.rand(n, 4, 6, 6)),
    "autoencoder": (Autoencoder, lambda n: torch.rand(n, 1, 6, 6)),
    "attention": (Attend, lambda n: torch.randn(n, 7, 8)),
    "encoder": (encoder, lambda n: torch.randn(n, 7, 8)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.GELU(), nn.Conv1d(4, 2, 1)),
        lambda n: torch.randn(n, 2, 9),
    ),
    "one layer": (lambda: nn.Linear(5, 3), lambda n: torch.randn(n, 5)),
}


@pytest.fixture(params=MODELS)
def model_and_data(request):
    build, draw = MODELS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = build(), draw(24)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return model, x


@torch.no_grad()
def relative(output, expected):
    return float((output - expected).norm() / expected.norm())


def test_eight_bits_change_little_and_two_bits_more(model_and_data):
    model, x = model_and_data
    state = {name: value.clone() for name, value in model.state_dict().items()}
    was_training = model.training
    eight = quantize_model(model, {"bits": 8, "activation_bits": 8}, x)
    two = quantize_model(model, {"bits": 2}, x)
    assert model.training == was_training
    assert not eight.training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(x)
        assert relative(eight(x), expected) < 0.1
        assert relative(two(x), expected) > relative(eight(x), expected)
    for report, bits in ((eight.report, 8), (two.report, 2)):
        assert {row.bits for row in report} == {bits}
        frame = report.to_frame()
        assert len(frame) == len(report) > 0
        assert (frame.n_weights > 0).all()
        assert (frame.low <= 0).all()
        assert (frame.high >= 0).all()
        assert (frame.seconds > 0).all()
        assert report.seconds >= frame.seconds.sum()
    assert not any(
        isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) for module in two.modules()
    )


def test_every_method_runs_on_every_model(model_and_data):
    model, x = model_and_data
    errors = {}
    for method in METHODS:
        options = {"steps": 20} if method.startswith("ada") else {}
        recipe = Recipe(method=method, bits=3, options=options, bias_correction=False)
        quantized = quantize_model(model, recipe, x, generator=0)
        assert torch.isfinite(quantized(x)).all()
        errors[method] = quantized.report.rows[0].output_error
    # The first layer's input is the same for all, and none may do worse than rounding.
    assert max(errors.values()) <= errors["nearest"] * (1 + 1e-6)


def test_report_is_measured_on_what_the_layer_does():
    model = ConvNet(channels=(4, 6), blocks=0, generator=0).eval()
    x = torch.rand(30, 1, 8, 8, generator=generator())
    recipe = Recipe(bits=3, activation_bits=4, range_method="mse")
    quantized = quantize_model(model, recipe, x)
    reference = fold_batch_norm(model, x)
    assert [row.name for row in quantized.report] == [
        "stages.0.convs.0.conv",
        "stages.1.convs.0.conv",
        "head",
    ]
    seen = {}

    def keep(which):
        def hook(module, args, output):
            seen.setdefault(which, (args[0], output))

        return hook

    for row in quantized.report:
        seen.clear()
        new, old = quantized.get_submodule(row.name), reference.get_submodule(row.name)
        handles = [new.register_forward_hook(keep("new")), old.register_forward_hook(keep("old"))]
        with torch.no_grad():
            quantized(x), reference(x)
        for handle in handles:
            handle.remove()
        error = relative(seen["new"][1], seen["old"][1])
        assert row.output_error == pytest.approx(error, rel=1e-4)
        assert row.weight_error == pytest.approx(relative(new.weight, old.weight), rel=1e-4)
        assert row.n_weights == old.weight.numel()
        inputs = seen["new"][0]
        assert row.input_high == pytest.approx(float(inputs.max()), rel=1e-5)
        assert row.low <= float(new.weight.min()) <= float(new.weight.max()) <= row.high
    assert quantized.report["head"].activation_bits == 4
    assert quantized.report.folded == ("stages.0.convs.0.norm", "stages.1.convs.0.norm")
    assert quantized.report.kept == ()
    with pytest.raises(KeyError):
        quantized.report["nothing"]


def test_layers_see_the_quantized_network_unless_parallel():
    model = MLP([6, 10, 4], generator=0)
    x = torch.randn(50, 6, generator=generator())
    first = quantize_model(model, {"bits": 2}, x).layers[0]
    matrix = layer_matrix(model.layers[1]).detach()
    grid = WeightGrid.fit(matrix, bits=2)
    with torch.no_grad():
        plain, rounded = model.layers[0](x).relu(), first(x).relu()
    for parallel, inputs in ((False, rounded), (True, plain)):
        statistics = LayerStatistics.from_rows(layer_rows(model.layers[1], inputs))
        bias = model.layers[1].bias[None]
        expected = gptq(matrix, statistics, grid, bias=bias)
        recipe = Recipe(bits=2, parallel=parallel, overrides={"layers.1": {"method": "gptq"}})
        quantized = quantize_model(model, recipe, x)
        assert torch.equal(quantized.layers[1].integers, expected.integers.to(torch.uint8))
        assert torch.equal(quantized.layers[0].integers, first.integers)


def test_batches_give_what_one_array_gives():
    model = ConvNet(channels=(4, 6), generator=0)
    x = torch.rand(24, 1, 8, 8, generator=generator())
    recipe = Recipe(method="gptq", bits=3, activation_bits=6)
    labels = torch.zeros(24, dtype=torch.long)
    whole = quantize_model(model, recipe, x)
    for data in (
        x.numpy(),
        list(x.split(7)),
        DataLoader(TensorDataset(x, labels), batch_size=10),
        [{"x": part} for part in x.split(12)],
        (part for part in x.split(24)),
        {"x": x},
    ):
        other = quantize_model(model, recipe, data)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    small = quantize_model(model, dataclasses.replace(recipe, batch_size=5), x)
    torch.testing.assert_close(small(x), whole(x), rtol=1e-4, atol=1e-5)


def test_models_with_several_arguments_get_all_of_them():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, first, second, scale=1.0):
            return scale * (self.a(first) + self.b(input=second))

    first, second = torch.randn(9, 3), torch.randn(9, 4)
    model = Sum()
    quantized = quantize_model(model, {"bits": 8}, [(first, second, "a label")])
    assert relative(quantized(first, second), model(first, second)) < 0.02


def test_overrides_reach_their_layers():
    model = MLP([6, 10, 8, 4], generator=0)
    x = torch.randn(20, 6, generator=generator())
    recipe = Recipe(
        bits=2,
        activation_bits=4,
        overrides={
            "first": {"bits": 8, "activation_bits": None},
            "layers.1": {"method": "gptq", "group_size": 3, "symmetric": True},
            "last": None,
        },
    )
    quantized = quantize_model(model, recipe, x)
    first, second, last = quantized.layers
    assert (first.bits, first.group_size) == (8, None)
    assert isinstance(first.input_quantizer, nn.Identity)
    assert (second.bits, second.symmetric, second.scale.shape) == (2, True, (1, 8, 4))
    assert isinstance(second.input_quantizer, ActivationQuantizer)
    assert type(last) is nn.Linear
    assert quantized.report.kept == ("layers.2",)
    assert [row.method for row in quantized.report] == ["nearest", "gptq"]
    assert quantized.report.mean_bits == pytest.approx((60 * 8 + 80 * 2) / 140)
    tensor = quantize_model(model, Recipe(granularity="tensor", overrides={"first": 8}), x)
    assert tensor.layers[0].scale.numel() == 1
    wide = quantize_model(model, Recipe(group_size=4, overrides={"first": {"group_size": None}}), x)
    assert [layer.scale.shape[2] for layer in wide.layers] == [1, 3, 2]


def test_a_layer_that_runs_twice_is_quantized_on_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.same = self.layer

        def forward(self, x):
            return self.layer(10 + self.same(x))

    model, x = Twice(), torch.randn(30, 4, generator=generator())
    quantized = quantize_model(model, {"bits": 8, "activation_bits": 8}, x)
    assert quantized.same is quantized.layer
    assert isinstance(quantized.same, QuantizedLayer)
    second = (10 + model.layer(x)).detach()
    assert quantized.report["layer"].input_high >= float(second.max()) * 0.98
    assert relative(quantized(x), model(x)) < 0.05


def test_bias_correction_removes_the_mean_error():
    model = ConvNet(channels=(4, 6), blocks=0, generator=0).eval()
    x = torch.rand(40, 1, 8, 8, generator=generator())
    recipe = Recipe(bits=2, bias_correction=True)
    quantized = quantize_model(model, recipe, x)
    plain = quantize_model(model, Recipe(bits=2), x)
    with torch.no_grad():
        expected = model(x)
        assert float((quantized(x) - expected).mean(0).abs().max()) < 1e-6
        assert float((plain(x) - expected).mean(0).abs().max()) > 1e-3


def test_extras_at_the_end_of_a_recipe():
    model = ConvNet(channels=(4, 6), blocks=0, generator=0).eval()
    x = torch.rand(64, 1, 8, 8, generator=generator())
    with torch.no_grad():
        expected = model(x)

    def loss(**fields):
        quantized = quantize_model(model, Recipe(bits=2, **fields), x, generator=0)
        with torch.no_grad():
            return float(prediction_divergence(expected, quantized(x)))

    assert loss(tune_bias=30) < loss()
    assert loss(re_estimate=True) < loss()
    learned = Recipe(
        method="adaquant", bits=4, activation_bits=2, options={"rows": True, "steps": 30}
    )
    fixed = quantize_model(model, Recipe(bits=4, activation_bits=2), x)
    moved = quantize_model(model, learned, x, generator=0)
    assert moved.head.input_quantizer.range != fixed.head.input_quantizer.range
    behind_relu = Recipe(method="adaround", bits=3, options={"rows": True, "steps": 20})
    assert torch.isfinite(quantize_model(model, behind_relu, x, generator=0)(x)).all()


@pytest.mark.parametrize("method", ["brecq", "qdrop", "pdquant"])
def test_block_methods_and_their_report(method):
    model = ConvNet(channels=(4, 6), generator=0).eval()
    x = torch.rand(32, 1, 8, 8, generator=generator())
    options = {"steps": 30, "batch": 16}
    if method == "pdquant":
        options["correction_steps"] = 5
    recipe = Recipe(method=method, bits=3, activation_bits=4, options=options)
    quantized = quantize_model(model, recipe, x, generator=0)
    nearest = quantize_model(model, Recipe(bits=3, activation_bits=4), x)
    blocks = quantized.report.blocks
    assert [block.name for block in blocks] == [*(f"stages.{i}" for i in range(4)), "head"]
    assert {row.method for row in quantized.report} == {method}
    assert any(
        not torch.equal(value, nearest.state_dict()[name])
        for name, value in quantized.state_dict().items()
        if name.endswith("integers")
    )
    # The rows describe the model that came out, not the one it started from.
    matrix = layer_matrix(fold_batch_norm(model, x).stages[1].convs[0].conv)
    row = quantized.report["stages.1.convs.0.conv"]
    found = relative(quantized.stages[1].convs[0].conv.matrix, matrix)
    assert row.weight_error == pytest.approx(found, rel=1e-5)
    chosen = quantize_model(
        model, dataclasses.replace(recipe, blocks=("stages.1",)), x, generator=0
    )
    assert [block.name for block in chosen.report.blocks] == ["stages.1"]
    assert [row.method for row in chosen.report] == ["nearest", method, method] + ["nearest"] * 4
    wrong = dataclasses.replace(recipe, options={"damping": 1})
    with pytest.raises(ValueError, match=f"options: expected options of {method} .*'damping'"):
        quantize_model(model, wrong, x)


def test_report_describes_the_finished_model():
    model = MLP([6, 10, 4], generator=0)
    x = torch.randn(40, 6, generator=generator())
    quantized = quantize_model(model, Recipe(bits=2, tune_bias=20), x, generator=0)
    for row in quantized.report:
        old, new = (m.get_submodule(row.name) for m in (model, quantized))
        with torch.no_grad():
            pair = (x, x)
            if row.name == "layers.1":
                pair = model.layers[0](x).relu(), quantized.layers[0](x).relu()
            error = relative(new(pair[1]), old(pair[0]))
        assert row.output_error == pytest.approx(error, rel=1e-5)


def test_without_folding_norms_stay():
    model = ConvNet(channels=(4,), blocks=0, generator=0)
    quantized = quantize_model(model, Recipe(fold_batch_norm=False), torch.rand(8, 1, 8, 8))
    assert isinstance(quantized.stages[0].convs[0].norm, nn.BatchNorm2d)
    assert quantized.report.folded == ()
    assert quantized.report.kept == ("stages.0.convs.0.norm",)


def test_state_dict_loads_into_another_quantized_copy():
    model = ConvNet(channels=(4, 6), generator=0)
    x = torch.rand(24, 1, 8, 8, generator=generator())
    recipe = Recipe(bits=3, activation_bits=4)
    quantized = quantize_model(model, recipe, x)
    stream = io.BytesIO()
    torch.save(quantized.state_dict(), stream)
    stream.seek(0)
    other = quantize_model(ConvNet(channels=(4, 6), generator=1), recipe, x)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(x), quantized(x))


def test_half_precision_model():
    model = MLP([6, 10, 4], generator=0).to(torch.bfloat16)
    x = torch.randn(20, 6, generator=generator())
    quantized = quantize_model(model, Recipe(method="gptq", bits=8), x)
    out = quantized(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert relative(out.float(), model(x.bfloat16()).float()) < 0.03


class TestAttention:
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("bias", [True, False])
    def test_equals_torch(self, batch_first, bias):
        torch_attention = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first).eval()
        ours = ProjectedAttention(torch_attention)
        q, k = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
        length, batch = (5, 3) if batch_first else (3, 5)
        padding = torch.zeros(batch, length, dtype=torch.bool)
        padding[0, -1] = True
        causal = nn.Transformer.generate_square_subsequent_mask(length)
        each = torch.rand(2 * batch, length, length)
        for masks, need, average in itertools.product(
            (
                {},
                {"key_padding_mask": padding},
                {"attn_mask": causal, "is_causal": True},
                {"attn_mask": each, "key_padding_mask": padding.float() * -5},
                {"attn_mask": causal == -torch.inf},
            ),
            (True, False),
            (True, False),
        ):
            arguments = {**masks, "need_weights": need, "average_attn_weights": average}
            expected, weights = torch_attention(q, k, k, **arguments)
            output, found = ours(q, k, k, **arguments)
            torch.testing.assert_close(output, expected)
            if need:
                torch.testing.assert_close(found, weights)
            else:
                assert found is None

    def test_other_sizes_and_no_batch(self):
        torch_attention = nn.MultiheadAttention(8, 4, kdim=6, vdim=5).eval()
        ours = ProjectedAttention(torch_attention)
        q, k, v = torch.randn(3, 8), torch.randn(4, 6), torch.randn(4, 5)
        for one, other in zip(ours(q, k, v), torch_attention(q, k, v), strict=True):
            torch.testing.assert_close(one, other)

    def test_dropout_only_in_training(self):
        ours = ProjectedAttention(nn.MultiheadAttention(8, 2, dropout=0.5))
        x = torch.randn(6, 2, 8)
        with torch.random.fork_rng():
            assert not torch.equal(ours(x, x, x)[0], ours(x, x, x)[0])
        ours.eval()
        assert torch.equal(ours(x, x, x)[0], ours(x, x, x)[0])

    def test_refusals(self):
        for option in ("add_bias_kv", "add_zero_attn"):
            with pytest.raises(ValueError, match=f"attention: expected no {option}"):
                quantize_model(Attend(**{option: True}), "nearest", torch.randn(4, 7, 8))
        ours, x = ProjectedAttention(nn.MultiheadAttention(8, 2)), torch.randn(2, 2, 8)
        with pytest.raises(ValueError, match="attn_mask: expected a mask with is_causal"):
            ours(x, x, x, is_causal=True)

    def test_padding_masks_go_through_the_encoder(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        x = torch.randn(4, 7, 8)
        mask = torch.zeros(4, 7, dtype=torch.bool)
        mask[:, -2:] = True
        prepared = prepare_model(model)
        with torch.no_grad():
            expected = model(x, src_key_padding_mask=mask)
            found = prepared(x, src_key_padding_mask=mask)
        torch.testing.assert_close(found[~mask], expected[~mask])


class TestSensitivity:
    def test_costs_are_those_of_one_layer_at_a_time(self):
        model = ConvNet(channels=(4, 6), blocks=0, generator=0).eval()
        x = torch.rand(30, 1, 8, 8, generator=generator())
        found = sensitivity(model, x, bits=(2, 4))
        names = ["stages.0.convs.0.conv", "stages.1.convs.0.conv", "head"]
        assert list(found.cost) == list(found.size) == list(found.operations) == names
        assert found.size == {names[0]: 36, names[1]: 216, names[2]: 60}
        assert found.operations == {names[0]: 36 * 64, names[1]: 216 * 16, names[2]: 60}
        with torch.no_grad():
            expected = model(x)
            for name, bits in itertools.product(names, (2, 4)):
                others = {other: None for other in names if other != name}
                one = quantize_model(model, Recipe(bits=bits, overrides=others), x)
                loss = float(prediction_divergence(expected, one(x)))
                assert found.cost[name][bits] == pytest.approx(loss, rel=1e-4, abs=1e-7)
        answer = allocate_bits(found.cost, found.size, 3 * sum(found.size.values()))
        quantized = quantize_model(model, Recipe(overrides=answer), x)
        assert {row.name: row.bits for row in quantized.report} == answer
        assert quantized.report.mean_bits <= 3

    def test_own_loss_and_exceptions(self):
        model = MLP([4, 6, 5, 3], generator=0)
        x = torch.randn(20, 4, generator=generator())

        def loss(candidate):
            return float(candidate(x).square().mean().detach())

        recipe = Recipe(overrides={"first": None, "last": {"bits": 8, "symmetric": True}})
        found = sensitivity(model, x, bits=[3], recipe=recipe, loss=loss)
        assert list(found.cost) == ["layers.1", "layers.2"]
        others = {"layers.0": None, "layers.1": None}
        one = quantize_model(model, Recipe(bits=3, symmetric=True, overrides=others), x)
        assert found.cost["layers.2"][3] == pytest.approx(loss(one) - loss(model), rel=1e-5)

    def test_transposed_operations_count_inputs(self):
        model = nn.Sequential(nn.ConvTranspose2d(2, 3, 3, stride=2))
        found = sensitivity(model, torch.rand(5, 2, 4, 4), bits=[4])
        assert found.operations == {"0": 16 * 54}

    def test_no_bits(self):
        with pytest.raises(ValueError, match="bits: expected at least one width"):
            sensitivity(MLP([4, 3], generator=0), torch.randn(5, 4), bits=[])


X = torch.zeros(4, 5)


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        ("nearest", [], "calibration_data: expected at least one batch"),
        ("nearest", torch.zeros(0, 5), "calibration_data: expected at least one entry"),
        ("nearest", None, "calibration_data: expected an array or batches, got NoneType"),
        ("nearest", [3], "calibration_data: batch 0: expected an array, a mapping or a tuple"),
        (
            "nearest",
            [X, torch.tensor([[1.0, 2, 3, 4, np.nan]])],
            "calibration_data: batch 1: expected finite numbers, got 1 NaN",
        ),
        ("best", X, "recipe: expected one of 'nearest', 'gptq'"),
        (7, X, "recipe: expected a Recipe, a method name or a mapping, got int"),
        ({"bit": 3}, X, "recipe: expected fields among .*bits.*, got 'bit'"),
        ({"bits": 9}, X, "bits: expected a number <= 8, got 9"),
        ({"bits": 1}, X, "bits: expected a number >= 2, got 1"),
        ({"overrides": {"layer": 8}}, X, r"overrides: expected names of layers \(layers.0, la"),
        ({"overrides": {"first": 12}}, X, r"overrides\['first'\]: bits: expected a number <= 8"),
        ({"overrides": {"first": {"bitz": 3}}}, X, r"overrides\['first'\]: expected fields among"),
        ({"overrides": {"first": None, "last": None}}, X, "overrides: expected at least one layer"),
        ({"overrides": 8}, X, "overrides: expected a mapping by layer, got int"),
        ({"granularity": "group"}, X, "group_size: expected a number with granularity 'group'"),
        ({"granularity": "tensor", "group_size": 4}, X, "granularity: expected 'group' with a"),
        ({"granularity": "row"}, X, "granularity: expected one of 'tensor', 'channel', 'group'"),
        ({"range_method": "max"}, X, "range_method: expected one of 'minmax'"),
        ({"options": {"steps": 3}}, X, r"layer 'layers.0': options: expected options of nearest"),
        ({"options": 3}, X, "options: expected a mapping"),
        (
            {"method": "adaquant", "options": {"rows": True}},
            X,
            "layer 'layers.0': options: expected activation_bits with rows of adaquant",
        ),
    ],
)
def test_refusals_are_named(recipe, data, message):
    with pytest.raises(ValueError, match=message):
        quantize_model(MLP([5, 6, 3], generator=0), recipe, data)


def test_models_that_cannot_be_quantized_are_refused():
    with pytest.raises(ValueError, match="model: expected linear layers or convolutions"):
        quantize_model(nn.Sequential(nn.ReLU()), "nearest", X)
    broken = MLP([5, 6, 3], generator=0)
    with torch.no_grad():
        broken.layers[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"layer 'layers.1': .*expected finite numbers, got 1 NaN"):
        quantize_model(broken, "nearest", X)


def test_layers_that_never_run_must_be_named():
    class Auxiliary(MLP):
        def __init__(self):
            super().__init__([5, 6, 3], generator=0)
            self.auxiliary = nn.Linear(6, 3)

    with pytest.raises(ValueError, match="'auxiliary' never ran; keep it in floating point"):
        quantize_model(Auxiliary(), "nearest", X)
    recipe = Recipe(overrides={"auxiliary": None, "last": 8})
    quantized = quantize_model(Auxiliary(), recipe, torch.randn(4, 5))
    assert [row.bits for row in quantized.report] == [4, 8]


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    model, x = MLP([5, 6, 3], generator=0), torch.randn(8, 5, generator=generator())
    recipe = Recipe(method="adaround", bits=3, tune_bias=2, options={"rows": True, "steps": 3})
    first = quantize_model(model, recipe, x, generator=4)
    again = quantize_model(copy.deepcopy(model), recipe, x, generator=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first(x), again(x))
