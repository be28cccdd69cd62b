"""Experiments of the chapter on uniform quantization.

Closed forms of the rounding error, simulations beside them, and small digit networks, many at
a time, whose weights are put on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import integrate, optimize
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F

from enough import data
from enough.models import MLP, ConvNet
from enough.quantization.ranges import choose_qparams
from enough.quantization.uniform import fake_quantize
from enough.runtime import named_generator
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.training import Ensemble

__all__ = [
    "DigitNetworks",
    "Layer",
    "absmax_moment",
    "clipping_point",
    "convnets",
    "divergence_point",
    "gaussian_clip_error",
    "gaussian_rounding_ratio",
    "inject_outliers",
    "lattice_point",
    "lattice_ratio",
    "mlps",
    "optimal_gaussian_clip",
    "quantize_networks",
    "reestimate_norms",
    "rescale_channels",
    "rounding_point",
    "rows_point",
    "scores",
]

TRAIN, CALIBRATION, BATCH = 900, 100, 30
HARMONICS = 50
CANDIDATES = 50  # fractions of the range that the squared-error search tries


# --- Theory ---------------------------------------------------------------------------------


def gaussian_rounding_ratio(step: float) -> float:
    r"""Mean squared rounding error of a standard normal number, over step²/12.

    Parameters
    ----------
    step : float
        Step of an unbounded grid that holds zero, in standard deviations, above 0.

    Returns
    -------
    float
        1 for small steps; 12/step² as the step grows.

    Raises
    ------
    ValueError
        If ``step`` is not above 0.

    Notes
    -----
    The squared error is periodic, so its mean is a sum over the characteristic function φ at
    the grid's frequencies (Widrow's view of quantization as sampling [1]_):
    :math:`1 + \frac{12}{\pi^2} \sum_{k \ge 1} \frac{(-1)^k}{k^2} \varphi(2 \pi k / \Delta)`.

    References
    ----------
    .. [1] B. Widrow, I. Kollár and M.-C. Liu, "Statistical theory of quantization", IEEE
       Transactions on Instrumentation and Measurement 45(2), 1996.
    """
    step = check_number(step, "step", above=0.0)
    k = np.arange(1, int(HARMONICS * (1 + step)) + 1)
    harmonics = np.where(k % 2, -1.0, 1.0) / k**2 * np.exp(-2 * (math.pi * k / step) ** 2)
    return float(1 + 12 / math.pi**2 * harmonics.sum())


def lattice_ratio(levels: int) -> float:
    """Mean squared rounding error of evenly spread lattice data, over step²/12.

    Parameters
    ----------
    levels : int
        Lattice points in one step of the grid, 1 or more; the grid holds every
        ``levels``-th point of the lattice.

    Returns
    -------
    float
        1 − 1/levels² for odd ``levels`` (0 at 1: the data lie on the grid), 1 + 2/levels²
        for even.

    Raises
    ------
    ValueError
        If ``levels`` is not a whole number of at least 1.
    """
    levels = check_integer(levels, "levels", minimum=1)
    return 1 - 1 / levels**2 if levels % 2 else 1 + 2 / levels**2


def gaussian_clip_error(clip: float, bits: int) -> tuple[float, float]:
    """Mean squared error of a standard normal number on a symmetric grid.

    Parameters
    ----------
    clip : float
        Largest number on the grid, in standard deviations, above 0.
    bits : int
        Width, 2 to 8; the grid has 2^bits − 1 points.

    Returns
    -------
    rounding : float
        Part of the error made inside [−clip, clip].
    overload : float
        Part made outside.

    Raises
    ------
    ValueError
        If ``clip`` or ``bits`` is out of range.
    """
    clip = check_number(clip, "clip", above=0.0)
    top = 2 ** (check_integer(bits, "bits", minimum=2, maximum=8) - 1) - 1
    levels = np.arange(-top, top + 1) * clip / top
    edges = np.concatenate([[-clip], (levels[1:] + levels[:-1]) / 2, [clip]])
    below, above = edges[:-1], edges[1:]
    mass = norm.cdf(above) - norm.cdf(below)
    first = norm.pdf(below) - norm.pdf(above)
    second = mass + below * norm.pdf(below) - above * norm.pdf(above)
    rounding = second - 2 * levels * first + levels**2 * mass
    overload = 2 * ((1 + clip**2) * norm.sf(clip) - clip * norm.pdf(clip))
    return float(rounding.sum()), float(overload)


def optimal_gaussian_clip(bits: int) -> tuple[float, float]:
    """Clipping threshold with the smallest mean squared error for a standard normal number.

    Parameters
    ----------
    bits : int
        Width of the symmetric grid, 2 to 8.

    Returns
    -------
    clip : float
        The threshold in standard deviations.
    error : float
        The mean squared error there.

    Raises
    ------
    ValueError
        If ``bits`` is out of range.
    """
    bits = check_integer(bits, "bits", minimum=2, maximum=8)
    found = optimize.minimize_scalar(
        lambda clip: sum(gaussian_clip_error(clip, bits)),
        bounds=(0.5, 6.0),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(found.x), float(found.fun)


def absmax_moment(n: int, order: int = 1) -> float:
    """Moment of the largest of n absolute values of standard normal numbers.

    Parameters
    ----------
    n : int
        How many numbers, 1 or more.
    order : int, default 1
        Which moment, 1 or more.

    Returns
    -------
    float
        E[max |x|^order].

    Raises
    ------
    ValueError
        If ``n`` or ``order`` is not a whole number of at least 1.
    """
    n = check_integer(n, "n", minimum=1)
    order = check_integer(order, "order", minimum=1)

    def tail(t: float) -> float:
        return order * t ** (order - 1) * -math.expm1(n * math.log1p(-2 * norm.sf(t)))

    value, _ = integrate.quad(tail, 1e-12, 40.0, limit=400, points=[1.0, 3.0, 6.0])
    return float(value)


# --- Simulations ----------------------------------------------------------------------------


def rounding_point(
    step: float, *, samples: int = 100_000, trials: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rounding error of normal numbers on a grid wide enough to hold them all.

    Parameters
    ----------
    step : float
        Step in standard deviations; at least a tenth, so that eight bits reach the tails.
    samples : int, default 100_000
        Numbers a trial.
    trials : int, default 8
        Independent trials.
    seed : int, default 0
        Source of the numbers.

    Returns
    -------
    dict
        ``ratio`` (trials,): mean squared error over step²/12; ``correlation`` (trials,) of
        error and number.

    Raises
    ------
    ValueError
        If ``step`` is below 0.1.
    """
    step = check_number(step, "step", minimum=0.1)
    x = _normal((trials, samples), seed, "rounding", step)
    error = fake_quantize(x, step, 0, bits=8, symmetric=True) - x
    ratio = error.square().mean(1) / (step**2 / 12)
    covariance = ((error - error.mean(1, keepdim=True)) * (x - x.mean(1, keepdim=True))).mean(1)
    return {
        "ratio": ratio.numpy(),
        "correlation": (covariance / (error.std(1) * x.std(1))).numpy(),
    }


def lattice_point(
    levels: int, *, samples: int = 100_000, trials: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """Rounding error of whole numbers on a grid of every ``levels``-th whole number.

    Parameters
    ----------
    levels : int
        Step of the grid, 1 or more.
    samples : int, default 100_000
        Numbers a trial, drawn evenly from whole periods of the grid.
    trials : int, default 8
        Independent trials.
    seed : int, default 0
        Source of the numbers.

    Returns
    -------
    dict
        ``ratio`` (trials,): mean squared error over step²/12.

    Raises
    ------
    ValueError
        If ``levels`` is not a whole number of at least 1.
    """
    levels = check_integer(levels, "levels", minimum=1)
    stream = named_generator(seed, "lattice", levels)
    draws = torch.randint(0, 60 * levels, (trials, samples), generator=stream).double()
    x = draws - 30 * levels
    error = fake_quantize(x, float(levels), 0, bits=8, symmetric=True) - x
    return {"ratio": (error.square().mean(1) / (levels**2 / 12)).numpy()}


def clipping_point(
    bits: int, *, samples: int = 65_536, trials: int = 8, seed: int = 0
) -> dict[str, np.ndarray]:
    """Ranges that the library finds for normal numbers, against theory.

    Parameters
    ----------
    bits : int
        Width of the symmetric grid, 2 to 8.
    samples : int, default 65_536
        Numbers a trial.
    trials : int, default 8
        Independent trials.
    seed : int, default 0
        Source of the numbers.

    Returns
    -------
    dict
        ``clip`` and ``error`` (trials,) of the squared-error range; ``clip_minmax`` and
        ``error_minmax`` of the full range; ``shrinkage`` and ``shrinkage_minmax``: the
        change of the sum of squares, from exact to rounded numbers, over the squared error.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    x = _normal((trials, samples), seed, "clipping")
    found = {}
    for method, suffix in (("mse", ""), ("minmax", "_minmax")):
        step, zero = choose_qparams(x, bits=bits, symmetric=True, axis=0, method=method)
        rounded = fake_quantize(x, step, zero, bits=bits, symmetric=True, axis=0)
        error = (rounded - x).square().mean(1)
        found[f"clip{suffix}"] = (step * (2 ** (bits - 1) - 1)).numpy()
        found[f"error{suffix}"] = error.numpy()
        change = rounded.square().mean(1) - x.square().mean(1)
        found[f"shrinkage{suffix}"] = (change / error).numpy()
    return found


def rows_point(
    distribution: str,
    *,
    bits: int = 4,
    rows: int = 128,
    columns: int = 1024,
    group_size: int | None = None,
    trials: int = 8,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Relative error of weight rows on symmetric min-max grids.

    Parameters
    ----------
    distribution : {"gaussian", "t3", "uniform"}
        Law of the weights: normal, Student's t with 3 degrees of freedom, or uniform.
    bits : int, default 4
        Width, 2 to 8.
    rows : int, default 128
        Rows a trial.
    columns : int, default 1024
        Weights a row.
    group_size : int, optional
        Weights that share a step; the whole row by default.
    trials : int, default 8
        Independent trials; the same weights for every ``bits`` and ``group_size``.
    seed : int, default 0
        Source of the weights.

    Returns
    -------
    dict
        ``relative`` (trials,): root of the mean squared error over that of the mean square.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(distribution, "distribution", ("gaussian", "t3", "uniform"))
    stream = named_generator(seed, "rows", distribution)
    shape = (trials * rows, columns)
    if distribution == "uniform":
        w = 2 * torch.rand(shape, generator=stream, dtype=torch.float64) - 1
    else:
        w = torch.randn(shape, generator=stream, dtype=torch.float64)
    if distribution == "t3":
        chi = torch.randn(3, *shape, generator=stream, dtype=torch.float64).square().mean(0)
        w = w / chi.sqrt()
    step, zero = choose_qparams(w, bits=bits, symmetric=True, axis=0, group_size=group_size)
    rounded = fake_quantize(w, step, zero, bits=bits, symmetric=True, axis=0, group_size=group_size)
    error = (rounded - w).reshape(trials, -1).square().sum(1)
    return {"relative": (error / w.reshape(trials, -1).square().sum(1)).sqrt().numpy()}


def _normal(shape: tuple[int, ...], seed: int, *names: object) -> Tensor:
    return torch.randn(shape, generator=named_generator(seed, *names), dtype=torch.float64)


# --- Networks -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """One linear map of many networks.

    Parameters
    ----------
    weight : torch.Tensor, shape (E, rows, columns) or (E, out, in, height, width)
        Weights of E networks; five dimensions make a convolution with padding 1.
    bias : torch.Tensor, shape (E, rows)
        Biases.
    stride : int, default 1
        Stride of a convolution.
    mean : torch.Tensor, optional
        Shape (E, rows): mean that batch norm gave each output in training.
    spread : torch.Tensor, optional
        Shape (E, rows): standard deviation that it gave.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    mean: Tensor | None = None
    spread: Tensor | None = None

    def forward(self, x: Tensor, member: int) -> Tensor:
        """Apply one network's map to inputs (B, columns) or (B, in, H, W)."""
        weight, bias = self.weight[member], self.bias[member]
        if weight.ndim == 2:
            return F.linear(x.flatten(1), weight, bias)
        return F.conv2d(x, weight, bias, stride=self.stride, padding=1)

    def __call__(self, x: Tensor) -> Tensor:
        """Apply every network's map to its inputs (E, B, ...)."""
        # One network after the other: on a CPU much faster than one grouped convolution.
        return torch.stack([self.forward(each, i) for i, each in enumerate(x)])

    def scaled(self, outputs: Tensor | None = None, inputs: Tensor | None = None) -> Layer:
        """Multiply outputs (E, rows) and inputs (E, channels) by positive factors."""
        layer = self
        if outputs is not None:
            shape = [*outputs.shape] + [1] * (self.weight.ndim - 2)
            layer = replace(
                layer,
                weight=layer.weight * outputs.reshape(shape),
                bias=layer.bias * outputs,
                mean=None if layer.mean is None else layer.mean * outputs,
                spread=None if layer.spread is None else layer.spread * outputs,
            )
        if inputs is not None:
            # A linear layer behind a convolution reads several positions of each channel.
            each = inputs.repeat_interleave(self.weight.shape[2] // inputs.shape[1], dim=1)
            shape = [len(each), 1, each.shape[1]] + [1] * (self.weight.ndim - 3)
            layer = replace(layer, weight=layer.weight * each.reshape(shape))
        return layer


@dataclass(frozen=True, eq=False)
class DigitNetworks:
    """Trained digit classifiers, batch norm folded, ReLU between their layers.

    Parameters
    ----------
    layers : tuple of Layer
        In order.
    calibration : torch.Tensor, shape (E, 100, ...)
        Inputs without labels, one set a network.
    test : torch.Tensor, shape (E, 797, ...)
        Test inputs.
    labels : torch.Tensor, shape (E, 797)
        Their classes.
    """

    layers: tuple[Layer, ...]
    calibration: Tensor
    test: Tensor
    labels: Tensor

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return every layer's output, before its ReLU, for inputs (E, B, ...)."""
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
            x = x.relu()
        return found

    @cached_property
    def logits(self) -> Tensor:
        """Test logits (E, 797, 10), computed in float32, far finer than 8 bits."""
        layers = [
            replace(layer, weight=layer.weight.float(), bias=layer.bias.float())
            for layer in self.layers
        ]
        found = []
        for member, x in enumerate(self.test.float()):
            for layer in layers[:-1]:
                x = layer.forward(x, member).relu()
            found.append(layers[-1].forward(x, member))
        return torch.stack(found).double()

    def first(self, members: int) -> DigitNetworks:
        """Return the first networks alone."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[:members]

        layers = tuple(
            replace(
                layer,
                weight=cut(layer.weight),
                bias=cut(layer.bias),
                mean=cut(layer.mean),
                spread=cut(layer.spread),
            )
            for layer in self.layers
        )
        return DigitNetworks(layers, cut(self.calibration), cut(self.test), cut(self.labels))


def convnets(members: int, *, epochs: int = 5, seed: int = 0, device: str = "cpu") -> DigitNetworks:
    """Train convolutional digit networks (three convolutions and a head), and fold batch norm.

    Parameters
    ----------
    members : int
        How many networks E; each has its own split of the data and its own first weights.
    epochs : int, default 5
        Passes over the 900 training images.
    seed : int, default 0
        Source of splits, weights and batches.
    device : str, default "cpu"
        Where to train and keep them.

    Returns
    -------
    DigitNetworks
        In float64.
    """
    images, labels = _split(members, data.digits().images, seed, device)

    def build(generator: torch.Generator) -> ConvNet:
        return ConvNet(channels=(16, 32, 32), blocks=0, pool_size=2, generator=generator)

    state, strides = _train(
        build, images, labels, epochs=epochs, rate=1e-2, seed=seed, device=device
    )
    layers = []
    for i, stride in enumerate(strides):
        name = f"stages.{i}.convs.0"
        gain, shift, mean, variance = (
            state[f"{name}.norm.{part}"].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = gain / (variance + 1e-5).sqrt()
        weight = state[f"{name}.conv.weight"].double() * factor[..., None, None, None]
        layers.append(Layer(weight, shift - mean * factor, stride, shift, gain.abs()))
    layers.append(Layer(state["head.weight"].double(), state["head.bias"].double()))
    return _networks(layers, images, labels)


def mlps(members: int, *, epochs: int = 20, seed: int = 0, device: str = "cpu") -> DigitNetworks:
    """Train digit networks with two hidden layers of 64 ReLUs.

    Parameters
    ----------
    members : int
        How many networks E; each has its own split of the data and its own first weights.
    epochs : int, default 20
        Passes over the 900 training images.
    seed : int, default 0
        Source of splits, weights and batches.
    device : str, default "cpu"
        Where to train and keep them.

    Returns
    -------
    DigitNetworks
        In float64.
    """
    pixels, labels = _split(members, data.digits().x, seed, device)

    def build(generator: torch.Generator) -> MLP:
        return MLP([64, 64, 64, 10], generator=generator)

    state, _ = _train(build, pixels, labels, epochs=epochs, rate=3e-3, seed=seed, device=device)
    layers = [
        Layer(state[f"layers.{i}.weight"].double(), state[f"layers.{i}.bias"].double())
        for i in range(3)
    ]
    return _networks(layers, pixels, labels)


def quantize_networks(
    networks: DigitNetworks,
    bits: int | Sequence[int],
    *,
    method: str = "minmax",
    granularity: str | Sequence[str] = "channel",
    symmetric: bool = False,
    correct_bias: bool = False,
) -> DigitNetworks:
    """Put the weights of every network on a grid.

    Parameters
    ----------
    networks : DigitNetworks
        The networks in full precision.
    bits : int or sequence of int
        Width, 2 to 8, of all layers or of each.
    method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How ranges are chosen, as in `choose_qparams`.
    granularity : {"channel", "tensor", "column"} or sequence of them, default "channel"
        One grid for each output, for each layer, or for each input; of all layers or of each.
    symmetric : bool, default False
        Which integers the grid holds.
    correct_bias : bool, default False
        Whether the biases, layer after layer, restore each output's mean over the
        calibration inputs (Nagel et al. [1]_, with data).

    Returns
    -------
    DigitNetworks
        The same networks with rounded weights.

    Raises
    ------
    ValueError
        If an argument is out of range, or the number of widths is not that of the layers.

    References
    ----------
    .. [1] M. Nagel et al., "Data-free quantization through weight equalization and bias
       correction", ICCV 2019.
    """
    widths = _each(networks, bits, "bits")
    cuts = _each(networks, granularity, "granularity")
    layers = []
    for layer, width, cut in zip(networks.layers, widths, cuts, strict=True):
        check_choice(cut, "granularity", ("channel", "tensor", "column"))
        rows = _rows(layer.weight, cut)
        step, zero = choose_qparams(
            rows, bits=width, symmetric=symmetric, axis=0, method=method, n_candidates=CANDIDATES
        )
        rounded = fake_quantize(rows, step, zero, bits=width, symmetric=symmetric, axis=0)
        layers.append(replace(layer, weight=_unrows(rounded, layer.weight.shape, cut)))
    if correct_bias:
        layers = _repair(networks, layers, _restore_mean)
    return replace(networks, layers=tuple(layers))


def reestimate_norms(networks: DigitNetworks) -> DigitNetworks:
    """Give back, layer after layer, the mean and spread that batch norm had set in training.

    Parameters
    ----------
    networks : DigitNetworks
        Networks whose weights were changed; layers that had no batch norm stay.

    Returns
    -------
    DigitNetworks
        The networks with outputs scaled and shifted, so that over the calibration inputs each
        has its training mean and standard deviation.

    Notes
    -----
    This is the tuning of batch-norm statistics of Hubara et al. [1]_ after folding. The scale
    multiplies a channel's step, so weights stay on their grids.

    References
    ----------
    .. [1] I. Hubara et al., "Improving post training neural quantization: layer-wise
       calibration and integer programming", 2020, arXiv:2006.10518.
    """
    return replace(networks, layers=tuple(_repair(networks, networks.layers, _restore_norm)))


def scores(networks: DigitNetworks, reference: DigitNetworks) -> dict[str, np.ndarray]:
    """Compare networks with their full-precision originals.

    Parameters
    ----------
    networks : DigitNetworks
        The changed networks.
    reference : DigitNetworks
        The originals.

    Returns
    -------
    dict
        One entry a network: ``divergence``, the mean over test inputs of KL(original ‖
        changed) between class probabilities, in nats; ``accuracy`` and
        ``reference_accuracy``; ``weight_error``, the squared error of all weights over their
        sum of squares; ``disagreement``, the share of test inputs whose predicted class
        changed.
    """
    exact, changed = (each.logits.log_softmax(-1) for each in (reference, networks))
    divergence = (exact.exp() * (exact - changed)).sum(-1).mean(1)
    pairs = list(zip(networks.layers, reference.layers, strict=True))
    error = sum((a.weight - b.weight).square().flatten(1).sum(1) for a, b in pairs)
    size = sum(b.weight.square().flatten(1).sum(1) for _, b in pairs)
    predicted, original = changed.argmax(-1), exact.argmax(-1)
    found = {
        "divergence": divergence,
        "accuracy": (predicted == networks.labels).double().mean(1),
        "reference_accuracy": (original == networks.labels).double().mean(1),
        "weight_error": error / size,
        "disagreement": (predicted != original).double().mean(1),
    }
    return {name: values.cpu().numpy() for name, values in found.items()}


def inject_outliers(
    networks: DigitNetworks, *, units: int = 2, factor: float = 16.0, seed: int = 0
) -> DigitNetworks:
    """Rescale hidden units of the first layer without changing what the networks compute.

    Parameters
    ----------
    networks : DigitNetworks
        Fully connected networks (see `mlps`).
    units : int, default 2
        How many hidden units of each network, drawn at random.
    factor : float, default 16.0
        Outgoing weights are multiplied by it, incoming weights and the bias divided, above 0.
        A power of two is exact.
    seed : int, default 0
        Source of the choice.

    Returns
    -------
    DigitNetworks
        Networks with the same outputs: a ReLU passes positive factors through.

    Raises
    ------
    ValueError
        If the first two layers are not fully connected, or an argument is out of range.
    """
    first, second, *others = networks.layers
    if first.weight.ndim != 3 or second.weight.ndim != 3:
        raise ValueError("networks: expected fully connected layers, got a convolution")
    members, hidden = first.bias.shape
    units = check_integer(units, "units", minimum=1, maximum=hidden)
    factor = check_number(factor, "factor", above=0.0)
    noise = torch.rand(members, hidden, generator=named_generator(seed, "outliers"))
    chosen = (noise.argsort(1) < units).to(first.weight.device)
    scale = torch.where(chosen, factor, 1.0).to(first.weight)
    layers = (first.scaled(outputs=1 / scale), second.scaled(inputs=scale), *others)
    return replace(networks, layers=layers)


def rescale_channels(
    networks: DigitNetworks, *, spread: float = 0.2, draw: int = 0, seed: int = 0
) -> DigitNetworks:
    """Rescale every hidden channel a little, without changing what the networks compute.

    Parameters
    ----------
    networks : DigitNetworks
        Networks with ReLUs between their layers.
    spread : float, default 0.2
        Factors are exp(u) with u uniform between −spread and spread; 0 or more.
    draw : int, default 0
        Number of the draw: each gives other factors, and so other roundings.
    seed : int, default 0
        Source of the factors.

    Returns
    -------
    DigitNetworks
        Networks with the same outputs up to floating-point rounding.

    Raises
    ------
    ValueError
        If ``spread`` is negative.
    """
    spread = check_number(spread, "spread", minimum=0.0)
    stream = named_generator(seed, "channels", draw)
    layers = list(networks.layers)
    for i in range(len(layers) - 1):
        uniform = torch.rand(layers[i].bias.shape, generator=stream, dtype=torch.float64)
        scale = torch.exp(spread * (2 * uniform - 1)).to(layers[i].bias)
        layers[i] = layers[i].scaled(outputs=scale)
        layers[i + 1] = layers[i + 1].scaled(inputs=1 / scale)
    return replace(networks, layers=tuple(layers))


def divergence_point(
    bits: int,
    *,
    method: str = "minmax",
    members: int = 4,
    epochs: int = 5,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Train convolutional networks and score them with all weights on grids of one width.

    Parameters
    ----------
    bits : int
        Width of all layers, 2 to 8.
    method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How ranges are chosen.
    members : int, default 4
        How many networks.
    epochs : int, default 5
        Passes over the training images.
    seed : int, default 0
        Source of everything.
    device : str, default "cpu"
        Where to compute.

    Returns
    -------
    dict
        As `scores`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    networks = convnets(members, epochs=epochs, seed=seed, device=device)
    return scores(quantize_networks(networks, bits, method=method), networks)


def _split(
    members: int, inputs: Tensor, seed: int, device: str
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Cut one split a member: training, calibration and test inputs, and all labels."""
    members = check_integer(members, "members", minimum=1)
    stream = named_generator(seed, "splits")
    order = torch.stack([torch.randperm(len(inputs), generator=stream) for _ in range(members)])
    x, y = inputs[order].to(device), data.digits().y[order].to(device)
    cuts = (TRAIN, CALIBRATION, x.shape[1] - TRAIN - CALIBRATION)
    return tuple(x.split(cuts, dim=1)), y


def _train(
    build,
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    *,
    epochs: int,
    rate: float,
    seed: int,
    device: str,
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Train one ensemble; return its tensors, and the strides of its convolutions."""
    ensemble = Ensemble(build, len(labels), seed=seed, mode="stacked", device=device)
    steps = check_integer(epochs, "epochs", minimum=1) * TRAIN // BATCH
    ensemble.fit(
        inputs[0],
        labels[:, :TRAIN],
        optimizer="adamw",
        lr=rate,
        weight_decay=1e-2,
        epochs=epochs,
        batch_size=BATCH,
        per_member=True,
        progress=False,
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    return ensemble.state_dict(), getattr(ensemble.member(0), "strides", ())


def _networks(layers: list[Layer], inputs: tuple[Tensor, ...], labels: Tensor) -> DigitNetworks:
    calibration, test = (part.double() for part in inputs[1:])
    return DigitNetworks(tuple(layers), calibration, test, labels[:, TRAIN + CALIBRATION :])


def _each(networks: DigitNetworks, value, name: str) -> list:
    """Spread one value over the layers, or check that there is one for each."""
    if isinstance(value, int | str):
        return [value] * len(networks.layers)
    if len(value) != len(networks.layers):
        raise ValueError(f"{name}: expected {len(networks.layers)} values, got {len(value)}")
    return list(value)


def _rows(weight: Tensor, granularity: str) -> Tensor:
    """Cut weights into rows that share a grid."""
    if granularity == "tensor":
        return weight.flatten(1)
    if granularity == "column":
        weight = weight.transpose(1, 2)
    return weight.flatten(0, 1).flatten(1)


def _unrows(rows: Tensor, shape: torch.Size, granularity: str) -> Tensor:
    if granularity != "column":
        return rows.reshape(shape)
    return rows.reshape(shape[0], shape[2], shape[1], *shape[3:]).transpose(1, 2)


def _repair(networks: DigitNetworks, layers: Sequence[Layer], restore) -> list[Layer]:
    """Walk through the changed layers on the calibration inputs and restore each in turn."""
    exact = networks.outputs(networks.calibration)
    repaired, h = [], networks.calibration
    for layer, wanted in zip(layers, exact, strict=True):
        layer = restore(layer, layer(h), wanted)
        repaired.append(layer)
        h = layer(h).relu()
    return repaired


def _channels(outputs: Tensor) -> Tensor:
    """Move channels in front of samples and positions: (E, channels, everything else)."""
    return outputs.transpose(1, 2).flatten(2)


def _restore_mean(layer: Layer, outputs: Tensor, wanted: Tensor) -> Layer:
    shift = _channels(wanted).mean(2) - _channels(outputs).mean(2)
    return replace(layer, bias=layer.bias + shift)


def _restore_norm(layer: Layer, outputs: Tensor, wanted: Tensor) -> Layer:
    del wanted  # the statistics of training are the target, not those of these inputs
    if layer.mean is None or layer.spread is None:
        return layer
    found = _channels(outputs)
    mean, spread = found.mean(2), found.std(2, correction=0)
    factor = torch.where(spread > 0, layer.spread / spread.clamp(min=1e-12), 1.0)
    centered = replace(layer, bias=layer.bias - mean).scaled(outputs=factor)
    return replace(centered, bias=centered.bias + layer.mean, mean=layer.mean, spread=layer.spread)
