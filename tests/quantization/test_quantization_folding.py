"""Folded batch norms compute the same; re-estimated ones restore the moments."""

import copy

import pytest
import torch
from torch import nn

from enough.models import ConvNet
from enough.quantization import (
    QuantizedLayer,
    Recipe,
    fold_batch_norm,
    foldable_pairs,
    quantize_model,
    re_estimate_batch_norm,
)


def randomized(model, seed=0):
    """Give every parameter and statistic a value that folding cannot ignore."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, tensor in module.state_dict().items():
                if name != "num_batches_tracked":
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.3)
            if module.weight is not None:
                module.weight.data[0] *= -1  # a negative gain
    return model.double().eval()


def n_norms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


class Branches(nn.Module):
    """The first convolution is read twice, the second goes to the output as well."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(2, 4, 3, padding=1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.own = nn.Conv2d(4, 4, 3, padding=1)
        self.own_norm = nn.BatchNorm2d(4)
        self.shown = nn.Conv2d(4, 4, 1)
        self.shown_norm = nn.BatchNorm2d(4)

    def forward(self, x):
        h = self.shared(x)
        h = self.shared_norm(h) + h.relu()
        h = self.own_norm(self.own(h))
        shown = self.shown(h)
        return self.shown_norm(shown), shown


class Undecided(Branches):
    """The same with a condition that symbolic tracing cannot decide."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class PreActivation(nn.Module):
    """Batch norm before its convolution, as in pre-activation residual networks."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.norm(x).relu())


class TwiceUsed(nn.Module):
    """One convolution feeds two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x))))


SEQUENTIALS = {
    "conv2d": (nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6), (2, 3, 5, 5)),
    "no affine": (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), (2, 3, 5, 5)),
    "conv1d": (nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), (2, 3, 5)),
    "linear": (nn.Linear(3, 6), nn.BatchNorm1d(6), (4, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 3, 3)),
    "sync": (nn.Conv2d(3, 6, 1), nn.SyncBatchNorm(6), (2, 3, 2, 2)),
}


@pytest.mark.parametrize("kind", SEQUENTIALS)
@pytest.mark.parametrize("observed", [True, False])
def test_neighbors_are_folded(kind, observed):
    layer, norm, shape = SEQUENTIALS[kind]
    model = randomized(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm), nn.ReLU()))
    x = torch.randn(shape, dtype=torch.float64)
    folded = fold_batch_norm(model, x if observed else None)
    assert isinstance(folded[1], nn.Identity)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)
    assert n_norms(model) == 1
    assert folded.folded_norms["0"].name == "1"


@pytest.mark.parametrize("options", [{}, {"blocks": 0}, {"depthwise": True}, {"residual": False}])
def test_every_norm_of_our_network_is_folded(options):
    model = randomized(ConvNet(generator=0, **options))
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    for example in (x, None):  # the network itself cannot be traced, its parts can
        folded = fold_batch_norm(model, example)
        assert n_norms(folded) == 0
        torch.testing.assert_close(folded(x), model(x))


def test_only_outputs_that_nothing_else_reads_are_folded():
    x = torch.rand(2, 2, 5, 5, dtype=torch.float64)
    model = randomized(Branches())
    assert foldable_pairs(model, x) == foldable_pairs(model) == [("own", "own_norm")]
    folded = fold_batch_norm(model, x)
    for one, other in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(one, other)
    model = randomized(Undecided())
    assert foldable_pairs(model, x) == [("own", "own_norm")]
    assert foldable_pairs(model) == []  # cannot be traced, and has no parts
    folded = fold_batch_norm(model, pairs=[("own", "own_norm")])
    for one, other in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("model", [PreActivation(), TwiceUsed()])
def test_other_orders_stay(model):
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    model = randomized(copy.deepcopy(model))
    for example in (x, None):
        folded = fold_batch_norm(model, example)
        assert n_norms(folded) == n_norms(model)
        assert torch.equal(folded(x), model(x))


def test_norms_over_another_axis_or_without_statistics_stay():
    # Batch norm counts the second dimension, here the 4 positions; channels come last.
    model = randomized(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    x = torch.rand(5, 4, 3, dtype=torch.float64)
    assert foldable_pairs(model, x) == []
    assert foldable_pairs(model, x[:, 0]) == [("0", "1")]
    model = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4, track_running_stats=False))
    assert foldable_pairs(model, torch.rand(5, 3, 2)) == foldable_pairs(model) == []


def test_the_input_model_keeps_its_mode_and_its_values():
    model = randomized(ConvNet(generator=0)).train()
    before = copy.deepcopy(model.state_dict())
    fold_batch_norm(model, torch.rand(2, 1, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_half_precision_folds_in_high_precision():
    model = randomized(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)))
    exact = fold_batch_norm(model)[0].weight
    half = fold_batch_norm(model.half())[0].weight
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), exact, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("nothing", "own_norm")], "expected names of modules, got 'nothing'"),
        ([("own_norm", "own")], "expected a layer that can be folded into at 'own_norm'"),
        ([("own", "shown")], "expected a batch norm with running statistics at 'shown'"),
        ([("own", "wide")], "expected 4 channels in 'wide' as 'own' gives, got 5"),
    ],
)
def test_bad_pairs_are_named(pairs, message):
    model = Branches()
    model.wide = nn.BatchNorm2d(5)
    with pytest.raises(ValueError, match=f"pairs: {message}"):
        fold_batch_norm(model, pairs=pairs)


@pytest.fixture(scope="module")
def case():
    model = randomized(ConvNet(channels=(6, 8), blocks=1, generator=0)).float()
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return model, x, quantize_model(model, Recipe(bits=2), x)


class TestReEstimation:
    def moments(self, model, names, x):
        """Mean and variance of each channel of each layer's output."""
        found, handles = {}, []

        def keep(name):
            def hook(module, args, output):
                found[name] = torch.var_mean(output.double(), (0, 2, 3), correction=0)

            return hook

        for name in names:
            handles.append(model.get_submodule(name).register_forward_hook(keep(name)))
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        return found

    @pytest.mark.parametrize("batches", [1, 3])
    def test_moments_are_those_of_the_batch_norm(self, case, batches):
        model, x, quantized = case
        data = list(x.tensor_split(batches))
        repaired = re_estimate_batch_norm(quantized, data)
        names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        before = self.moments(quantized, names, x)
        for name, (variance, mean) in self.moments(repaired, names, x).items():
            norm = model.get_submodule(name.replace("conv", "norm").replace("norms", "convs"))
            assert mean.tolist() == pytest.approx(norm.bias.double().tolist(), abs=1e-5)
            wanted = norm.weight.double().square().tolist()
            assert variance.tolist() == pytest.approx(wanted, rel=1e-4)
            assert before[name][0].tolist() != pytest.approx(wanted, rel=0.05)

    def test_moments_are_those_of_a_reference(self, case):
        model, x, quantized = case
        reference = fold_batch_norm(model, x)
        repaired = re_estimate_batch_norm(quantized, x, reference=reference)
        names = list(quantized.folded_norms)
        wanted = self.moments(reference, names, x)
        for name, (variance, mean) in self.moments(repaired, names, x).items():
            torch.testing.assert_close(mean, wanted[name][1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(variance, wanted[name][0], rtol=1e-4, atol=1e-5)

    def test_integers_stay(self, case):
        _, x, quantized = case
        repaired = re_estimate_batch_norm(quantized, x)
        changed = 0
        for name, layer in quantized.named_modules():
            if isinstance(layer, QuantizedLayer):
                other = repaired.get_submodule(name)
                assert torch.equal(layer.integers, other.integers)
                changed += not torch.equal(layer.matrix, other.matrix)
        assert changed == len(quantized.folded_norms)

    def test_channels_that_rounded_to_zero_keep_their_mean(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([1.0, 0.01]).view(2, 1, 1, 1))
            model[1].bias.copy_(torch.tensor([0.3, -0.2]))
        x = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
        quantized = quantize_model(model, Recipe(bits=2, granularity="tensor"), x)
        assert quantized[0].scale.numel() == 1
        repaired = re_estimate_batch_norm(quantized, x)
        assert repaired[0].scale.shape == (1, 2, 1)
        out = repaired(x).movedim(1, 0).flatten(1)
        torch.testing.assert_close(out.mean(1), model[1].bias)
        torch.testing.assert_close(
            out.var(1, correction=0), torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0
        )

    def test_refusals(self, case):
        _, x, quantized = case
        plain = nn.Sequential(nn.Linear(64, 3))
        with pytest.raises(ValueError, match="model: expected quantized layers with folded"):
            re_estimate_batch_norm(quantize_model(plain, "nearest", x.flatten(1)), x.flatten(1))
        with pytest.raises(ValueError, match="reference: expected a layer 'stages"):
            re_estimate_batch_norm(quantized, x, reference=plain)
