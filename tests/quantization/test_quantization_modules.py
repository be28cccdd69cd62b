"""Layers as matrices against the layers themselves."""

import copy
import io

import pytest
import torch
from torch import nn

from enough.models import ScaledLinear
from enough.quantization import (
    ActivationQuantizer,
    LayerSpec,
    QuantizedLayer,
    WeightGrid,
    fake_quantize,
    is_quantizable,
    layer_matrix,
    layer_rows,
    matrix_to_weight,
)
from enough.quantization.modules import layer_bias


def scaled_linear():
    layer = ScaledLinear(6, 5, weight_multiplier=0.3, bias_multiplier=2.0)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


class Renamed(nn.Conv2d):
    """A subclass that keeps the forward pass."""


# Build a layer, and the shape of an input without the batch.
LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear, no bias, sequence": (lambda: nn.Linear(6, 5, bias=False), (7, 6)),
    "scaled": (scaled_linear, (3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (4, 11)),
    "conv1d same": (lambda: nn.Conv1d(4, 6, 4, padding="same", dilation=2), (4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (4, 7, 6)),
    "conv2d grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3, padding=1, bias=False), (6, 5, 5)),
    "conv2d depthwise": (lambda: nn.Conv2d(5, 10, 3, groups=5, stride=2), (5, 7, 7)),
    "conv2d dilated": (lambda: nn.Conv2d(3, 4, 3, dilation=(2, 1), padding=(2, 1)), (3, 6, 7)),
    "conv2d reflect": (
        lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"),
        (3, 5, 6),
    ),
    "conv2d circular same": (
        lambda: nn.Conv2d(3, 4, (3, 2), padding="same", padding_mode="circular"),
        (3, 5, 6),
    ),
    "conv2d valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (3, 5, 6)),
    "conv2d subclass": (lambda: Renamed(3, 4, 1), (3, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 4, (1, 2, 3), groups=2, padding=(0, 1, 1)), (2, 3, 4, 5)),
    "transposed 1d": (
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2, groups=2),
        (4, 5),
    ),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 5, (3, 2), stride=(2, 3), padding=(1, 0), dilation=(2, 1)),
        (4, 4, 3),
    ),
    "transposed 2d depthwise": (
        lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, groups=4, bias=False),
        (4, 3, 5),
    ),
    "transposed 2d cropped": (lambda: nn.ConvTranspose2d(2, 3, 2, padding=2), (2, 6, 6)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2)),
}


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    build, shape = LAYERS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build().double()
        return layer, torch.randn(3, *shape, dtype=torch.float64)


def as_output(layer, rows, output):
    """Put rows (G, n, rows) of channels into the shape of the layer's output."""
    spec = LayerSpec.of(layer)
    flat = rows.permute(1, 0, 2).reshape(rows.shape[1], spec.out_channels)
    if spec.kind == "linear":
        return flat.reshape(output.shape)
    space = output.shape[2:]
    return flat.reshape(output.shape[0], *space, -1).movedim(-1, 1)


def test_rows_times_matrix_is_the_layer(layer_and_input):
    layer, x = layer_and_input
    output = layer(x)
    rows, matrix = layer_rows(layer, x), layer_matrix(layer)
    assert rows.shape[0] == matrix.shape[0] == LayerSpec.of(layer).groups
    bias = layer_bias(layer)
    product = as_output(layer, rows @ matrix.mT, output)
    if bias is not None:
        axis = output.ndim - 1 if LayerSpec.of(layer).kind == "linear" else 1
        product = product + bias.reshape([-1 if i == axis else 1 for i in range(output.ndim)])
    torch.testing.assert_close(product, output)


def test_matrix_goes_back_to_the_weight(layer_and_input):
    layer, _ = layer_and_input
    plain = layer.weight
    if isinstance(layer, ScaledLinear):
        plain = plain * layer.weight_multiplier
    assert torch.equal(matrix_to_weight(layer, layer_matrix(layer)), plain)


def test_quantized_layer_computes_with_the_rounded_weight(layer_and_input):
    layer, x = layer_and_input
    spec = LayerSpec.of(layer)
    quantized = QuantizedLayer.from_float(layer, bits=4)
    reference = copy.deepcopy(layer)
    if isinstance(layer, ScaledLinear):
        reference = nn.Linear(6, 5).double()
        reference.bias = nn.Parameter(layer_bias(layer))
    matrix = layer_matrix(layer)
    low, high = matrix.amin(2).clamp(max=0), matrix.amax(2).clamp(min=0)
    scale = (high - low) / 15
    zero = torch.round(-low / scale)
    integers = (torch.round(matrix / scale[..., None]) + zero[..., None]).clamp(0, 15)
    assert torch.equal(quantized.integers, integers.to(torch.uint8))
    rounded = (integers - zero[..., None]) * scale[..., None]
    with torch.no_grad():
        reference.weight.copy_(spec.weight(rounded))
    torch.testing.assert_close(quantized(x), reference(x))
    assert quantized(x).dtype == torch.float64
    assert quantized.weight.shape == layer.weight.shape


def test_unbatched_convolution_input():
    conv, up = nn.Conv2d(2, 3, 3), nn.ConvTranspose1d(2, 3, 2)
    for layer, x in ((conv, torch.randn(2, 5, 5)), (up, torch.randn(2, 5))):
        assert torch.equal(layer_rows(layer, x), layer_rows(layer, x[None]))
        quantized = QuantizedLayer.from_float(layer, bits=8)
        assert quantized(x).shape == layer(x).shape


def test_gradients_flow_through_matrix_and_input():
    layer = nn.Conv2d(2, 4, 3)
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    QuantizedLayer.from_float(layer, bits=3)(x).sum().backward()
    assert x.grad.abs().sum() > 0
    layer_matrix(layer).sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))


@pytest.mark.parametrize("options", [{}, {"group_size": 5}, {"per_tensor": True}])
@pytest.mark.parametrize("symmetric", [True, False])
def test_state_dict_round_trip(options, symmetric):
    layer = nn.Linear(12, 4)
    inputs = ActivationQuantizer(0.25, 3, bits=4)
    quantized = QuantizedLayer.from_float(
        layer, bits=4, symmetric=symmetric, input_quantizer=inputs, **options
    )
    assert {k: v.dtype for k, v in quantized.state_dict().items()} == {
        "bias": torch.float32,
        "integers": torch.int8 if symmetric else torch.uint8,
        "scale": torch.float32,
        "zero_point": torch.int8 if symmetric else torch.uint8,
        "input_quantizer.scale": torch.float32,
        "input_quantizer.zero_point": torch.float32,
    }
    stream = io.BytesIO()
    torch.save(quantized.state_dict(), stream)
    stream.seek(0)
    other = QuantizedLayer.from_float(
        nn.Linear(12, 4),
        bits=4,
        symmetric=symmetric,
        input_quantizer=ActivationQuantizer(1.0, 0, bits=4),
        **options,
    )
    other.load_state_dict(torch.load(stream, weights_only=True))
    x = torch.randn(5, 12)
    assert torch.equal(other(x), quantized(x))


def test_grouped_columns_have_their_own_steps():
    layer = nn.Linear(7, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3, 100, 200, 300, 5], [0, 0, 0, 1, 1, 1, -9]]))
    quantized = QuantizedLayer.from_float(layer, bits=8, symmetric=True, group_size=3)
    assert quantized.scale.shape == (1, 2, 3)
    expected = torch.tensor([[[3 / 127, 300 / 127, 5 / 127], [1.0, 1 / 127, 9 / 127]]])
    torch.testing.assert_close(quantized.scale, expected)
    assert quantized.range == (-300.0, 300.0)
    torch.testing.assert_close(quantized.weight[1], layer.weight[1])


def test_half_precision_follows_the_model():
    quantized = QuantizedLayer.from_float(nn.Linear(6, 3), bits=4)
    quantized = quantized.to(torch.bfloat16)
    assert quantized(torch.randn(2, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert quantized.integers.dtype == torch.uint8


def test_what_is_quantizable():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    assert is_quantizable(nn.Linear(2, 2))
    assert is_quantizable(nn.ConvTranspose2d(2, 2, 1))
    for module in (Own(2, 2), nn.LSTM(2, 2), nn.Embedding(2, 2), nn.BatchNorm1d(2)):
        assert not is_quantizable(module)
        with pytest.raises(ValueError, match=f"got {type(module).__name__}"):
            layer_matrix(module)
    with pytest.raises(ValueError, match="lazy LazyLinear that never ran"):
        layer_matrix(nn.LazyLinear(3))


def test_bad_shapes_are_named():
    conv = nn.Conv2d(4, 6, 3, groups=2)
    with pytest.raises(ValueError, match=r"x: expected shape \(batch, 4, 2 of space\), got \(1, 3"):
        layer_rows(conv, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., 5\), got \(3, 4\)"):
        layer_rows(nn.Linear(5, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"matrix: expected shape \(2, 3, 18\)"):
        matrix_to_weight(conv, torch.zeros(2, 3, 17))
    grid = WeightGrid(torch.ones(1, 2, 1), torch.zeros(1, 2, 1), 4, True)
    with pytest.raises(ValueError, match=r"grid.scale: expected shape \(1, 3, 1\)"):
        QuantizedLayer(LayerSpec.of(nn.Linear(4, 3)), torch.zeros(1, 3, 4), grid)
    grid = WeightGrid(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), 2, True)
    with pytest.raises(ValueError, match="integers: expected entries <= 1"):
        QuantizedLayer(LayerSpec.of(nn.Linear(4, 3)), torch.full((1, 3, 4), 2), grid)


class TestActivationQuantizer:
    @pytest.mark.parametrize("symmetric", [True, False])
    def test_equals_fake_quantize(self, symmetric):
        x = torch.randn(50)
        quantizer = ActivationQuantizer.from_values(x, bits=3, symmetric=symmetric)
        expected = fake_quantize(
            x, quantizer.scale, quantizer.zero_point, bits=3, symmetric=symmetric
        )
        assert torch.equal(quantizer(x), expected)
        low, high = quantizer.range
        assert quantizer(torch.tensor([-1e9, 1e9])).tolist() == pytest.approx([low, high])

    def test_batches_count_as_one_set(self):
        parts = [torch.randn(3, 4), torch.empty(0, 4), 5 * torch.rand(7)]
        for method in ("minmax", "mse"):
            whole = torch.cat([part.flatten() for part in parts])
            one = ActivationQuantizer.from_values(whole, bits=4, method=method)
            several = ActivationQuantizer.from_values(parts, bits=4, method=method)
            assert several.range == one.range

    def test_large_inputs_are_sampled_the_same_way_each_time(self):
        x = torch.randn(300_000)
        first = ActivationQuantizer.from_values(x, bits=4, method="mse")
        assert first.range == ActivationQuantizer.from_values(x, bits=4, method="mse").range
        # The clipping value of Gaussian data at 4 bits (Banner et al. 2019): about 2.55 sigma.
        symmetric = ActivationQuantizer.from_values(x, bits=4, symmetric=True, method="mse")
        assert symmetric.range[1] == pytest.approx(2.55, abs=0.15)

    def test_gradient_stops_outside_the_range(self):
        quantizer = ActivationQuantizer(0.5, 0, bits=2)
        x = torch.tensor([-1.0, 0.6, 9.0], requires_grad=True)
        quantizer(x).sum().backward()
        assert x.grad.tolist() == [0.0, 1.0, 0.0]

    def test_keeps_half_precision(self):
        quantizer = ActivationQuantizer(0.5, 0, bits=4)
        assert quantizer(torch.ones(3, dtype=torch.float16)).dtype == torch.float16

    def test_refusals(self):
        with pytest.raises(ValueError, match="values: expected at least one value"):
            ActivationQuantizer.from_values([], bits=4)
        with pytest.raises(ValueError, match="x: expected finite numbers"):
            ActivationQuantizer.from_values(torch.tensor([1.0, float("nan")]), bits=4)
        with pytest.raises(ValueError, match="scale: expected a number > 0"):
            ActivationQuantizer(0.0, 0, bits=4)
        with pytest.raises(ValueError, match="zero_point: expected entries <= 15"):
            ActivationQuantizer(1.0, 16, bits=4)
        with pytest.raises(ValueError, match="bits: expected a number <= 8"):
            ActivationQuantizer(1.0, 0, bits=9)
