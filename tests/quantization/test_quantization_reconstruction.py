"""Blocks: what they are, what is learned, and the special cases with a known answer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from enough.models import ConvNet, Transformer, TransformerConfig
from enough.quantization import (
    LayerStatistics,
    QuantizedLayer,
    Recipe,
    adaround,
    correct_distribution,
    find_blocks,
    fold_batch_norm,
    prediction_divergence,
    prepare_model,
    qdrop,
    quantize_model,
    reconstruct_blocks,
)
from enough.quantization.folding import FoldedNorm


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(model):
    return {n: m.integers for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}


def linear(columns, rows, seed):
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight.copy_(normal(seed, rows, columns))
        layer.bias.zero_()
    return layer


def quantized_pair(model, data, **fields):
    fields = {"bits": 2, "range_method": "mse"} | fields
    return quantize_model(model, Recipe(**fields), data), prepare_model(model, data)


@pytest.fixture(scope="module")
def images():
    mix = normal(7, 64, 64) / 8
    return (normal(8, 48, 64) @ mix).reshape(48, 1, 8, 8)


@pytest.fixture(scope="module")
def net(images):
    model = ConvNet(channels=(4, 6), blocks=1, generator=0)
    model(images)  # batch norms see some data
    return model.eval()


@pytest.fixture(scope="module")
def pair(net, images):
    return quantized_pair(net, images, activation_bits=4)


# Random dropping


def test_qdrop_keeps_each_entry_with_its_probability():
    x, x_hat = torch.zeros(200, 100), torch.ones(200, 100)
    for p in (0.5, 0.2):
        mixed = qdrop(x, x_hat, p, 0)
        assert set(mixed.unique().tolist()) == {0.0, 1.0}
        # Six standard errors of 20 000 draws.
        assert abs(float(mixed.mean()) - (1 - p)) < 6 * math.sqrt(p * (1 - p) / 20_000)
        # Rows and columns mix on their own: entries, not channels, are dropped.
        assert mixed.mean(0).min() > 0
        assert mixed.mean(1).min() > 0


def test_qdrop_is_off_at_inference():
    x, x_hat = normal(0, 5), normal(1, 5)
    assert torch.equal(qdrop(x, x_hat, 0.0), x_hat)
    assert torch.equal(qdrop(x, x_hat, 1.0), x)


def test_qdrop_draws_from_its_generator_alone():
    x, x_hat = normal(0, 50), normal(1, 50)
    state = torch.get_rng_state()
    assert torch.equal(qdrop(x, x_hat, 0.5, 3), qdrop(x, x_hat, 0.5, 3))
    assert not torch.equal(qdrop(x, x_hat, 0.5, 3), qdrop(x, x_hat, 0.5, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(qdrop(x.numpy(), x_hat.numpy(), 0.5, 3), np.ndarray)


def test_qdrop_passes_gradients_to_what_it_took():
    x, x_hat = normal(0, 50).requires_grad_(), normal(1, 50).requires_grad_()
    mixed = qdrop(x, x_hat, 0.5, 3)
    mixed.sum().backward()
    assert torch.equal(x.grad, (mixed == x).float())
    assert torch.equal(x_hat.grad, (mixed == x_hat).float())


# Blocks


def test_blocks_of_a_residual_network(pair, images):
    assert find_blocks(pair[0], images) == (
        "stages.0",
        "stages.1",
        "stages.2",
        "stages.3",
        "head",
    )
    assert find_blocks(pair[0], images, max_layers=1) == (
        "stages.0",
        "stages.1.convs.0",
        "stages.1.convs.1",
        "stages.2",
        "stages.3.convs.0",
        "stages.3.convs.1",
        "head",
    )


def test_blocks_look_through_containers_and_past_shared_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Twice(), nn.Linear(4, 2))
    data = normal(0, 20, 4)
    quantized, reference = quantized_pair(model, data)
    # A block may call its layer twice; a block of that layer alone would have two inputs.
    assert find_blocks(quantized, data) == ("0.0", "1", "2")
    done = reconstruct_blocks(quantized, reference, data, steps=20, generator=0)
    assert [r.name for r in done.reconstruction] == ["0.0", "1", "2"]
    shared = nn.Sequential(model[1].layer, nn.ReLU(), model[1].layer, nn.Linear(4, 2))
    quantized, _ = quantized_pair(shared, data)
    assert find_blocks(quantized, data) == ("3",)


def test_blocks_of_a_transformer_with_arguments_of_their_own():
    config = TransformerConfig(vocab_size=11, d_model=8, n_layers=2, n_heads=2, context_length=6)
    model = Transformer(config, generator=0).eval()
    tokens = torch.randint(11, (6, 6), generator=torch.Generator().manual_seed(0))
    quantized, reference = quantized_pair(model, tokens)
    blocks = find_blocks(quantized, tokens)
    assert blocks[:2] == ("blocks.0", "blocks.1")
    done = reconstruct_blocks(
        quantized, reference, tokens, method="pdquant", steps=60, batch=3, generator=0
    )
    for report in done.reconstruction[:2]:
        assert report.error_after < report.error_before


# Reconstruction


def test_one_output_is_adaround():
    # A block of one layer with one output, no dropping, the whole set in each step: the loss is
    # that of AdaRound up to a factor, which Adam does not see.
    model = nn.Sequential(linear(24, 1, 0)).double()
    data = (normal(1, 80, 24) @ normal(2, 24, 24) / 5).relu().double()
    layer = QuantizedLayer.from_float(model[0], bits=3, method="mse")
    done = reconstruct_blocks(
        nn.Sequential(layer), model, data, method="brecq", steps=200, batch=80, generator=0
    )
    expected = adaround(model[0].weight, LayerStatistics.from_rows(data), layer.grid, steps=200)
    assert torch.equal(done[0].integers[0].int(), expected.integers)
    assert not torch.equal(done[0].integers, layer.integers)


@pytest.mark.parametrize("method", ["brecq", "qdrop", "pdquant"])
def test_blocks_come_closer_and_the_rest_stays(method, net, pair, images):
    quantized, reference = pair
    before = {k: v.clone() for k, v in quantized.state_dict().items()}
    whole = {k: v.clone() for k, v in reference.state_dict().items()}
    state = torch.get_rng_state()
    done = reconstruct_blocks(
        quantized, reference, images, method=method, steps=80, correction_steps=10, generator=0
    )
    for report in done.reconstruction[1:4]:
        assert report.error_after < report.error_before
    assert done.reconstruction[1].layers == ("stages.1.convs.0.conv", "stages.1.convs.1.conv")
    assert torch.equal(torch.get_rng_state(), state)
    for model, kept in ((quantized, before), (reference, whole)):
        for key, value in model.state_dict().items():
            assert torch.equal(value, kept[key])
    assert all(p.requires_grad for p in reference.parameters())
    for key, value in done.state_dict().items():
        if not key.endswith(("integers", "input_quantizer.scale")):
            assert torch.equal(value, before[key])
    steps = {k for k in before if k.endswith("input_quantizer.scale")}
    assert any(not torch.equal(done.state_dict()[k], before[k]) for k in steps)
    # Every weight is one of the two neighbors, as far as the range goes.
    for name, layer in done.named_modules():
        if isinstance(layer, QuantizedLayer):
            step, zero = layer.grid.expand(layer.spec.columns, torch.float32)
            full = layer.spec.matrix(reference.get_submodule(name).weight)
            inside = full.clamp(step * (layer.grid.low - zero), step * (layer.grid.high - zero))
            assert ((layer.matrix - inside).abs() <= step * 1.00001).all()
    with torch.no_grad():
        assert torch.equal(done(images), done(images))


def test_reports_measure_the_finished_block(pair, images):
    quantized, reference = pair
    done = reconstruct_blocks(
        quantized, reference, images, blocks=["stages.1"], steps=30, generator=0
    )
    (report,) = done.reconstruction

    def outputs(model):
        with torch.no_grad():
            return model.stages[1](model.stages[0](images))

    target = outputs(reference)
    for model, error in ((quantized, report.error_before), (done, report.error_after)):
        expected = (outputs(model) - target).square().sum() / target.square().sum()
        assert error == pytest.approx(float(expected), rel=1e-4)
    ours, theirs = integers(done), integers(quantized)
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == set(report.layers)


def test_the_same_generator_gives_the_same_model(pair, images):
    quantized, reference = pair
    options = {"blocks": ["stages.1"], "steps": 15, "batch": 8}
    runs = [
        integers(reconstruct_blocks(quantized, reference, images, generator=seed, **options))
        for seed in (0, 0, 1)
    ]
    name = "stages.1.convs.0.conv"
    assert torch.equal(runs[0][name], runs[1][name])
    assert not torch.equal(runs[0][name], runs[2][name])


def test_inputs_that_always_keep_full_precision_teach_the_quantizers_nothing(pair, images):
    quantized, reference = pair
    steps = {}
    for drop in (0.0, 0.5, 1.0):
        done = reconstruct_blocks(
            quantized, reference, images, blocks=["stages.1"], drop=drop, steps=10, generator=0
        )
        steps[drop] = float(done.stages[1].convs[1].conv.input_quantizer.scale)
    start = float(quantized.stages[1].convs[1].conv.input_quantizer.scale)
    assert steps[1.0] == start
    assert len({start, steps[0.0], steps[0.5]}) == 3


def test_fisher_weights_leave_out_what_the_prediction_ignores():
    # The head does not read output 1 of the first layer. Its rounding then has no gradient but
    # the regularizer's, which drives each weight to the nearer side.
    model = nn.Sequential(linear(16, 2, 0), linear(2, 3, 1))
    with torch.no_grad():
        model[1].weight[:, 1] = 0.0
    data = (normal(2, 60, 16) @ normal(3, 16, 16) / 4).relu()
    quantized, reference = quantized_pair(model, data, overrides={"1": 8})
    start = quantized[0].integers[0]
    options = {"method": "brecq", "blocks": ["0"], "batch": 60, "generator": 0}
    plain = reconstruct_blocks(quantized, reference, data, **options)[0].integers[0]
    weighted = reconstruct_blocks(quantized, reference, data, fisher=True, **options)[0].integers[0]
    assert torch.equal(weighted[1], start[1])
    assert not torch.equal(plain[1], start[1])
    assert not torch.equal(weighted[0], start[0])


def test_prediction_difference_guides_the_rounding():
    # The scores read the sum of eight outputs. Squared error looks at each of them, the
    # prediction only at the sum, in which errors of one can make up for those of another.
    model = nn.Sequential(linear(16, 8, 0), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.2], [-0.2]]).expand(2, 8))
    data = (normal(2, 80, 16) @ normal(3, 16, 16) / 4).relu()
    quantized, reference = quantized_pair(model, data, overrides={"1": None})
    target = reference(data)

    def divergence(prediction):
        done = reconstruct_blocks(
            quantized,
            reference,
            data,
            method="pdquant",
            prediction=prediction,
            drop=0.0,
            correction_steps=0,
            batch=80,
            temperature=1.0,
            generator=0,
        )
        return prediction_divergence(target, done(data)).item()

    assert divergence(100.0) < 0.5 * divergence(0.0)


# Distribution correction


def small_block():
    block = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
    with torch.no_grad():
        block[0].weight.copy_(normal(0, 5, 2, 3, 3))
        block[1].weight.copy_(1 + 0.2 * normal(1, 5))
        block[1].bias.copy_(normal(2, 5))
    for _ in range(200):
        block(normal(3, 64, 2, 6, 6))
    return fold_batch_norm(block.eval())


def gap(block, x, norm):
    y = block(x).movedim(1, 0).flatten(1)
    mean = (y.mean(1) - norm.mean) / norm.variance.sqrt()
    spread = y.std(1, unbiased=False) / norm.variance.sqrt() - 1
    return (mean.square() + spread.square()).mean().item()


def test_corrected_inputs_meet_the_batch_norms():
    block = small_block()
    norm = block.folded_norms["0"]
    x = 1.5 * normal(4, 16, 2, 6, 6) + 0.5
    moved = correct_distribution(block, x, {"0": norm}, strength=10.0)
    assert gap(block, moved, norm) < 0.1 * gap(block, x, norm)
    assert not moved.requires_grad
    assert all(p.grad is None for p in block.parameters())
    tied = correct_distribution(block, x, {"0": norm}, strength=1e-6)
    assert (tied - x).std() < 1e-3 * (moved - x).std()
    # Inputs like those of training have no reason to move.
    at_home = normal(3, 64, 2, 6, 6)
    stay = correct_distribution(block, at_home, {"0": norm}, strength=10.0)
    assert (stay - at_home).std() < 0.1 * (moved - x).std()


def test_correction_without_norms_or_with_dead_channels():
    block = small_block()
    x = normal(4, 8, 2, 6, 6)
    assert correct_distribution(block, x, {}) is x
    norm = block.folded_norms["0"]
    dead = FoldedNorm(norm.name, norm.mean, torch.zeros_like(norm.variance), norm.eps)
    assert torch.equal(correct_distribution(block, x, {"0": dead}, steps=5), x)
    with pytest.raises(ValueError, match="norms: expected names of layers of the block, got 'no'"):
        correct_distribution(block, x, {"no": norm})


def test_messages_name_the_argument(pair, images):
    quantized, reference = pair
    cases = [
        ("method: expected one of 'brecq'", {"method": "adaround"}),
        ("blocks: expected names of modules, got 'body'", {"blocks": ["body"]}),
        (
            "blocks: expected modules with quantized layers, got 'stages.1.convs.0.norm'",
            {"blocks": ["stages.1.convs.0.norm"]},
        ),
        (
            "blocks: expected none inside another, 'stages.1.convs.0' is in 'stages.1'",
            {"blocks": ["stages.1", "stages.1.convs.0"]},
        ),
        ("drop: expected a number <= 1", {"drop": 1.5}),
        ("temperature: expected a number > 0", {"temperature": 0.0}),
        ("beta: expected a number >= 1", {"beta": (20.0, 0.5)}),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            reconstruct_blocks(quantized, reference, images, steps=1, **options)
    with pytest.raises(ValueError, match=r"reference: expected a module 'stages\.0'"):
        reconstruct_blocks(quantized, nn.Sequential(nn.Linear(1, 1)), images, steps=1)
    with pytest.raises(ValueError, match="model: expected quantized layers"):
        reconstruct_blocks(reference, reference, images, steps=1)
    with pytest.raises(ValueError, match=r"calibration_data: batch 0: expected finite numbers"):
        reconstruct_blocks(quantized, reference, torch.full_like(images, torch.nan))
    with pytest.raises(ValueError, match="x_hat: expected the shape of x"):
        qdrop(torch.zeros(2), torch.zeros(3))
