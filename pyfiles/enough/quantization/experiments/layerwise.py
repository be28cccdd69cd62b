"""Experiments of the chapter on layer-wise calibration and bit allocation.

The digit networks of the chapter on uniform quantization, as modules, so that every method of
the library can compress them; a fine-tuned baseline; bit allocation; small rounding problems.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enough import data
from enough.quantization.allocation import allocate_bits, allocate_bits_greedily
from enough.quantization.bias import prediction_divergence
from enough.quantization.costs import sensitivity
from enough.quantization.experiments.uniform import DigitNetworks, convnets
from enough.quantization.model import prepare_model, quantize_model
from enough.quantization.modules import is_quantizable
from enough.quantization.ranges import choose_qparams
from enough.quantization.recipe import Recipe
from enough.quantization.solvers import gptq, nearest
from enough.quantization.statistics import LayerStatistics
from enough.quantization.uniform import straight_through_quantize
from enough.quantization.weight_grid import WeightGrid
from enough.runtime import named_generator
from enough.runtime.randomness import as_generator
from enough.runtime.validation import check_choice, check_integer

__all__ = [
    "LAYERWISE_METHODS",
    "allocation_point",
    "channel_gaps",
    "compress",
    "digit_module",
    "fine_tune",
    "judge",
    "layerwise_point",
    "rounding_tasks_point",
    "shared_layer_point",
    "with_images",
]

STEPS = 150
HELD_OUT = 412  # test images that may serve for calibration where 100 are too few
ENDS = {"first": 8, "last": 8}
_CORRECTED = {"range_method": "mse", "bias_correction": True}
LAYERWISE_METHODS = {
    "nearest": {},
    "nearest_mse": {"range_method": "mse"},
    "bias_correction": _CORRECTED,
    "gptq": {"method": "gptq", **_CORRECTED},
    "adaround": {"method": "adaround", "options": {"steps": STEPS}, **_CORRECTED},
    "adaquant": {"method": "adaquant", "options": {"steps": STEPS, "lr": 0.02}, **_CORRECTED},
}


def digit_module(
    networks: DigitNetworks, member: int, *, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Build one of the digit networks as a module with its batch norms.

    Parameters
    ----------
    networks : DigitNetworks
        Networks from `convnets`.
    member : int
        Which of them.
    dtype : torch.dtype, default torch.float32
        Of its parameters.

    Returns
    -------
    torch.nn.Sequential
        Convolutions without bias, batch norms, ReLUs and a linear head, in evaluation mode. A
        batch norm's gain is the spread it gave its outputs.
    """
    device = networks.test.device
    parts: list[nn.Module] = []
    for layer in networks.layers[:-1]:
        weight, bias = layer.weight[member], layer.bias[member]
        mean, spread = layer.mean[member], layer.spread[member]
        conv = nn.utils.skip_init(
            nn.Conv2d, *weight.shape[1::-1], 3, stride=layer.stride, padding=1, bias=False
        )
        norm = nn.BatchNorm2d(len(weight))
        state = {
            "weight": spread,
            "bias": mean,
            "running_mean": (mean - bias) / spread,
            "running_var": torch.full_like(mean, 1 - norm.eps),
        }
        conv, norm = conv.to(device, dtype), norm.to(device, dtype)
        conv.load_state_dict({"weight": weight / spread[:, None, None, None]})
        norm.load_state_dict(state, strict=False)
        parts += [conv, norm, nn.ReLU()]
    head = networks.layers[-1]
    linear = nn.utils.skip_init(nn.Linear, *head.weight.shape[:0:-1]).to(device, dtype)
    linear.load_state_dict({"weight": head.weight[member], "bias": head.bias[member]})
    return nn.Sequential(*parts, nn.Flatten(), linear).eval().requires_grad_(False)


def with_images(networks: DigitNetworks, images: int) -> DigitNetworks:
    """Choose how many calibration images there are, and keep the test images the same.

    Parameters
    ----------
    networks : DigitNetworks
        Networks from `convnets`.
    images : int
        Calibration images, 1 to 512: the first of the 100 and then of 412 test images, all of
        which are left out of the test.

    Returns
    -------
    DigitNetworks
        The same networks with other images.

    Raises
    ------
    ValueError
        If ``images`` is out of range.
    """
    pool = torch.cat([networks.calibration, networks.test[:, :HELD_OUT]], 1)
    images = check_integer(images, "images", minimum=1, maximum=pool.shape[1])
    return replace(
        networks,
        calibration=pool[:, :images],
        test=networks.test[:, HELD_OUT:],
        labels=networks.labels[:, HELD_OUT:],
    )


def fine_tune(
    model: nn.Module,
    images: Tensor,
    *,
    bits: int,
    steps: int = 80,
    lr: float = 0.01,
    batch: int = 32,
    generator: torch.Generator | int | None = None,
) -> nn.Module:
    """Fine-tune all rounded weights at once, on the predictions of the original.

    Parameters
    ----------
    model : torch.nn.Module
        A digit network; it stays as it is.
    images : torch.Tensor, shape (n, 1, 8, 8)
        Calibration images; no labels are needed.
    bits : int
        Width of the weights, 2 to 8; 8 in the first and the last layer.
    steps : int, default 80
        Steps of Adam.
    lr : float, default 0.01
        Learning rate at the start, in steps of each layer's grid (biases: a tenth of it); it
        falls to zero along a cosine.
    batch : int, default 32
        Images in a batch, at most; drawn without repetition in each step.
    generator : torch.Generator or int, optional
        Draws the batches.

    Returns
    -------
    torch.nn.Module
        A copy with rounded weights, batch norms folded.

    Notes
    -----
    Weights are rounded to the grid of smallest squared error in every pass, gradients go
    straight through the rounding, and the loss is the KL divergence from the full-precision
    predictions. That is the teacher that layer-wise methods have too.
    """
    generator = as_generator(generator)
    reference = prepare_model(model, images).requires_grad_(False)
    student = prepare_model(model, images)
    layers = [m for m in student.modules() if is_quantizable(m)]
    places = []
    for i, layer in enumerate(layers):
        width = 8 if i in (0, len(layers) - 1) else bits
        scale, zero = choose_qparams(
            layer.weight.detach(), bits=width, symmetric=False, axis=0, method="mse"
        )
        shape = (-1, *[1] * (layer.weight.ndim - 1))
        places.append((scale.reshape(shape), zero.reshape(shape).to(scale), 0, 2**width - 1))
    weights = [layer.weight.detach().clone().requires_grad_() for layer in layers]
    biases = [layer.bias.detach().clone().requires_grad_() for layer in layers]
    rates = [lr * float(place[0].mean()) for place in places]
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": rate} for w, rate in zip(weights, rates, strict=True)]
        + [{"params": biases, "lr": 0.1 * lr}]
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    names = {module: name for name, module in student.named_modules()}

    def parameters() -> dict[str, Tensor]:
        found = {}
        for layer, weight, bias, place in zip(layers, weights, biases, places, strict=True):
            found[f"{names[layer]}.weight"] = straight_through_quantize(weight, *place)
            found[f"{names[layer]}.bias"] = bias
        return found

    targets = reference(images)
    for _ in range(steps):
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        chosen = order[:batch].to(images.device)
        outputs = torch.func.functional_call(student, parameters(), (images[chosen],))
        loss = prediction_divergence(targets[chosen], outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    with torch.no_grad():
        student.load_state_dict(parameters(), strict=False)
    return student.requires_grad_(False)


def compress(
    networks: DigitNetworks, method: str, bits: int, *, seed: int = 0, **changes: Any
) -> list[nn.Module]:
    """Compress each network on its calibration images.

    Parameters
    ----------
    networks : DigitNetworks
        Networks from `convnets`.
    method : str
        A key of `LAYERWISE_METHODS`, or ``"fine_tune"`` (`fine_tune`).
    bits : int
        Width of the weights of all layers but the first and the last, which have 8 bits.
    seed : int, default 0
        Source of what a method draws.
    **changes
        Other fields of the `Recipe`, or arguments of `fine_tune`.

    Returns
    -------
    list of torch.nn.Module
        One a network.

    Raises
    ------
    ValueError
        If the method is unknown or an argument out of range.
    """
    check_choice(method, "method", (*LAYERWISE_METHODS, "fine_tune"))
    found = []
    for member, images in enumerate(networks.calibration.float()):
        model = digit_module(networks, member)
        stream = named_generator(seed, "layerwise", method, member)
        if method == "fine_tune":
            found.append(fine_tune(model, images, bits=bits, generator=stream, **changes))
        else:
            recipe = Recipe(
                **{"bits": bits, "overrides": ENDS, **LAYERWISE_METHODS[method], **changes}
            )
            found.append(quantize_model(model, recipe, images, generator=stream))
    return found


@torch.no_grad()
def judge(networks: DigitNetworks, models: list[nn.Module]) -> dict[str, np.ndarray]:
    """Compare compressed models with their full-precision originals.

    Parameters
    ----------
    networks : DigitNetworks
        The originals.
    models : list of torch.nn.Module
        What `compress` made of them.

    Returns
    -------
    dict
        One entry a network: ``divergence``, the mean over test images of KL(original ‖ model)
        in nats; ``calibration``, the same over calibration images; ``accuracy`` on the test.
    """
    found: dict[str, list[float]] = {"divergence": [], "calibration": [], "accuracy": []}
    for member, model in enumerate(models):
        reference = digit_module(networks, member)
        x, images = networks.test[member].float(), networks.calibration[member].float()
        output = model(x)
        right = output.argmax(1) == networks.labels[member]
        found["divergence"].append(_divergence(networks.logits[member], output))
        found["calibration"].append(_divergence(reference(images), model(images)))
        found["accuracy"].append(float(right.double().mean()))
    return {key: np.array(values) for key, values in found.items()}


def _divergence(target: Tensor, output: Tensor) -> float:
    return float(prediction_divergence(target.double(), output.double()))


def layerwise_point(
    method: str,
    bits: int,
    *,
    images: int = 100,
    members: int = 4,
    epochs: int = 5,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Train digit networks, compress them by one method and compare.

    Parameters
    ----------
    method : str
        As in `compress`.
    bits : int
        Width of the inner layers' weights, 2 to 8.
    images : int, default 100
        Calibration images, 1 to 512.
    members : int, default 4
        Networks.
    epochs : int, default 5
        Passes over the training images.
    seed : int, default 0
        Source of everything.
    device : str, default "cpu"
        Where to compute.

    Returns
    -------
    dict
        As `judge`, on the test images that `with_images` leaves.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    networks = convnets(members, epochs=epochs, seed=seed, device=device)
    networks = with_images(networks, images)
    return judge(networks, compress(networks, method, bits, seed=seed))


@torch.no_grad()
def channel_gaps(model: nn.Module, reference: nn.Module, images: Tensor) -> dict[str, float]:
    """Compare the moments of every channel with those in full precision.

    Parameters
    ----------
    model : torch.nn.Module
        A compressed model.
    reference : torch.nn.Module
        The original, its batch norms folded (`prepare_model`).
    images : torch.Tensor, shape (n, 1, 8, 8)
        What to run both on.

    Returns
    -------
    dict
        ``mean``: largest absolute difference of channel means, over all layers; ``variance``:
        largest relative difference of channel variances, over the convolutions.
    """
    found = []
    for candidate in (model, reference):
        outputs, handles = {}, []
        for name, layer in reference.named_modules():
            if is_quantizable(layer):
                handles.append(
                    candidate.get_submodule(name).register_forward_hook(
                        lambda _, __, y, name=name, kept=outputs: kept.update({name: y})
                    )
                )
        candidate(images)
        for handle in handles:
            handle.remove()
        found.append(outputs)
    mean = variance = 0.0
    for y_hat, y in zip(found[0].values(), found[1].values(), strict=True):
        axes = [0, *range(2, y.ndim)]
        mean = max(mean, float((y_hat.mean(axes) - y.mean(axes)).abs().max()))
        if y.ndim == 4:
            ratio = y_hat.var(axes, correction=0) / y.var(axes, correction=0)
            variance = max(variance, float((ratio - 1).abs().max()))
    return {"mean": mean, "variance": variance}


# --- Allocation -----------------------------------------------------------------------------


def allocation_point(networks: DigitNetworks, budgets: tuple[float, ...]) -> dict[str, Any]:
    """Allocate bits by the integer program, greedily and evenly, all by plain rounding.

    Parameters
    ----------
    networks : DigitNetworks
        Networks from `convnets`.
    budgets : tuple of float
        Budgets in bits a weight, 2 or more.

    Returns
    -------
    dict
        ``program``, ``greedy``: dicts by budget of test divergences (networks,);
        ``program_accuracy``: the program's accuracies; ``even``: by width 2 and 3 with all
        layers alike, and ``even_accuracy``; ``rule``: divergences with 8 bits in the first and
        last layer and 2 in the others, and ``rule_program`` those of the program at the same
        size; ``excess``: the greedy objective minus the program's, ``gap``: the program's minus
        that of a search of all choices (networks × budgets,); ``bits``: the program's choices.
    """
    tables = [
        sensitivity(digit_module(networks, i), x)
        for i, x in enumerate(networks.calibration.float())
    ]

    made: dict[tuple, nn.Module] = {}  # choices often agree

    def score(choices: list[dict[str, int]]) -> dict[str, np.ndarray]:
        models = []
        for i, (bits, x) in enumerate(zip(choices, networks.calibration.float(), strict=True)):
            key = (i, *bits.values())
            if key not in made:
                made[key] = quantize_model(digit_module(networks, i), Recipe(overrides=bits), x)
            models.append(made[key])
        return judge(networks, models)

    size = tables[0].size
    total, names = sum(size.values()), list(size)
    found: dict[str, Any] = {
        key: {} for key in ("program", "program_accuracy", "greedy", "even", "even_accuracy")
    }
    found |= {"bits": {}, "excess": [], "gap": []}
    for budget in budgets:
        exact = [allocate_bits(t.cost, size, budget * total) for t in tables]
        greedy = [allocate_bits_greedily(t.cost, size, budget * total) for t in tables]
        for table, best, other in zip(tables, exact, greedy, strict=True):
            cost = _objective(table.cost, best)
            found["excess"].append(_objective(table.cost, other) - cost)
            found["gap"].append(cost - _search(table.cost, size, budget * total))
        scored = score(exact)
        found["program"][budget] = scored["divergence"]
        found["program_accuracy"][budget] = scored["accuracy"]
        found["greedy"][budget] = score(greedy)["divergence"]
        found["bits"][budget] = [tuple(bits.values()) for bits in exact]
    for width in (2, 3):
        scored = score([dict.fromkeys(names, width)] * len(tables))
        found["even"][width] = scored["divergence"]
        found["even_accuracy"][width] = scored["accuracy"]
    rule = {name: 8 if name in (names[0], names[-1]) else 2 for name in names}
    same = sum(size[name] * rule[name] for name in names)
    found["rule"] = score([rule] * len(tables))["divergence"]
    found["rule_program"] = score([allocate_bits(t.cost, size, same) for t in tables])["divergence"]
    found["excess"], found["gap"] = np.array(found["excess"]), np.array(found["gap"])
    return found


def shared_layer_point(*, members: int = 3, steps: int = 150, seed: int = 0) -> dict[str, Any]:
    """Allocate bits in networks whose only layer is used three times.

    Parameters
    ----------
    members : int, default 3
        Networks.
    steps : int, default 150
        Steps of training on all 900 training images.
    seed : int, default 0
        Source of weights and splits.

    Returns
    -------
    dict
        ``accuracy`` before rounding, and the test divergences ``program`` at 2.5 bits a weight
        and ``even`` at 2 bits, (members,).
    """
    digits = data.digits()
    found: dict[str, list[float]] = {"accuracy": [], "program": [], "even": []}
    for member in range(check_integer(members, "members", minimum=1)):
        stream = named_generator(seed, "shared layer", member)
        order = torch.randperm(len(digits.y), generator=stream)
        x, y = digits.x[order].float(), digits.y[order]
        layer = nn.utils.skip_init(nn.Linear, 64, 64)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(64, 64, generator=stream) / 8)
            layer.bias.zero_()
        model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x[:900]), y[:900])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.requires_grad_(False)
        table = sensitivity(model, x[900:1000])
        total = sum(table.size.values())
        bits = allocate_bits(table.cost, table.size, 2.5 * total)
        target = model(x[1000:])
        found["accuracy"].append(float((target.argmax(1) == y[1000:]).double().mean()))
        for key, choice in (("program", bits), ("even", dict.fromkeys(bits, 2))):
            rounded = quantize_model(model, Recipe(overrides=choice), x[900:1000])
            divergence = prediction_divergence(target, rounded(x[1000:]).detach())
            found[key].append(float(divergence))
    return {key: np.array(values) for key, values in found.items()}


def _objective(cost: dict[str, dict[int, float]], bits: dict[str, int]) -> float:
    return math.fsum(cost[name][width] for name, width in bits.items())


def _search(cost: dict[str, dict[int, float]], size: dict[str, int], budget: float) -> float:
    """Smallest objective of all choices within the budget."""
    names = list(cost)
    choices = (
        dict(zip(names, widths, strict=True))
        for widths in itertools.product(*(cost[name] for name in names))
    )
    return min(
        _objective(cost, bits)
        for bits in choices
        if sum(size[name] * width for name, width in bits.items()) <= budget
    )


# --- Small rounding problems ------------------------------------------------------------------


def rounding_tasks_point(
    *, cases: int = 200, columns: int = 5, white: bool = False, seed: int = 0
) -> dict[str, np.ndarray]:
    """Round random rows of weights with GPTQ, to nearest, and by trying all of the grid.

    Parameters
    ----------
    cases : int, default 200
        Random tasks; each has one row of weights and inputs of its own.
    columns : int, default 5
        Weights in the row, at most 8: all :math:`4^\\text{columns}` choices of 2 bits are tried.
    white : bool, default False
        Inputs with the second moments of white noise, in place of correlated ones.
    seed : int, default 0
        Source of weights and inputs.

    Returns
    -------
    dict
        Output errors ``gptq``, ``nearest`` and ``best`` (cases,), and ``changed``, the integers
        in which the first two differ.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    cases = check_integer(cases, "cases", minimum=1)
    columns = check_integer(columns, "columns", minimum=1, maximum=8)
    stream = named_generator(seed, "rounding tasks", columns)
    kind = {"dtype": torch.float64, "generator": stream}
    # A channel group of a layer is a problem of its own: one layer holds all cases.
    weight = torch.randn(cases, 1, columns, **kind)
    rows = torch.randn(cases, 8 * columns, columns, **kind)
    rows = rows @ torch.randn(cases, columns, columns, **kind)
    if white:
        rows = torch.eye(columns, dtype=torch.float64).expand(cases, columns, columns)
    statistics = LayerStatistics.from_rows(rows)
    grid = WeightGrid.fit(weight, bits=2)
    plain, fed_back = nearest(weight, statistics, grid), gptq(weight, statistics, grid)
    levels = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * columns)
    every = grid.scale * (levels.reshape(-1, columns) - grid.zero_point) - weight
    found = {
        "gptq": _errors(fed_back.weight - weight, statistics.S_xx)[:, 0],
        "nearest": _errors(plain.weight - weight, statistics.S_xx)[:, 0],
        "best": _errors(every, statistics.S_xx).amin(1),
        "changed": (plain.integers != fed_back.integers).sum((1, 2)).double(),
    }
    return {key: values.numpy() for key, values in found.items()}


def _errors(changes: Tensor, moments: Tensor) -> Tensor:
    """Output error of every row of changes (cases, rows, columns)."""
    return ((changes @ moments) * changes).sum(-1)
