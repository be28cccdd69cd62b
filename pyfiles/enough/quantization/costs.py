"""What each layer loses at each number of bits: the costs of bit allocation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from enough.quantization.bias import prediction_divergence
from enough.quantization.model import prepare_model, quantize_model
from enough.quantization.modules import LayerSpec, replace_modules
from enough.quantization.passes import (
    Batch,
    call_counts,
    layer_inputs,
    outputs,
    read_batches,
)
from enough.quantization.recipe import Recipe
from enough.runtime.validation import check_integer

__all__ = ["Sensitivity", "sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """Loss increases, sizes and operations by layer, as `allocate_bits` takes them.

    Parameters
    ----------
    cost : dict from str to dict from int to float
        Loss increase when only that layer has that many bits.
    size : dict from str to int
        Number of weights.
    operations : dict from str to int
        Multiply-accumulates for one sample.
    """

    cost: dict[str, dict[int, float]]
    size: dict[str, int]
    operations: dict[str, int]


def sensitivity(
    model: nn.Module,
    calibration_data: Any,
    *,
    bits: Iterable[int] = (2, 3, 4, 8),
    recipe: Recipe | str | Mapping[str, Any] = "nearest",
    loss: Callable[[nn.Module], float] | None = None,
    generator: torch.Generator | int | None = None,
) -> Sensitivity:
    """Quantize one layer at a time and measure what the model loses.

    Parameters
    ----------
    model : torch.nn.Module
        The full-precision model; it stays as it is.
    calibration_data : array, mapping, or iterable of batches
        As in `quantize_model`.
    bits : iterable of int, default (2, 3, 4, 8)
        Widths to try in each layer.
    recipe : Recipe, str, or mapping from str, default "nearest"
        How a layer is quantized, apart from its bits. Layers that it leaves in floating point
        are left out.
    loss : callable, optional
        ``loss(model)`` returns a number, for example the cross-entropy on labeled data. Default:
        the KL divergence of the predictions from those of the full-precision model on the
        calibration data (`prediction_divergence`).
    generator : torch.Generator or int, optional
        For methods that draw.

    Returns
    -------
    Sensitivity
        With ``cost``, ``size`` and ``operations``. A cost is negative where a layer's rounding
        lowers the loss.

    Raises
    ------
    ValueError
        As `quantize_model`, or if no bits are given.

    Notes
    -----
    Each width quantizes all layers once, on full-precision inputs, and the layers are then put
    into the full-precision model one by one.
    """
    recipe = replace(Recipe.of(recipe), parallel=True, re_estimate=False, tune_bias=0)
    widths = [check_integer(b, "bits", minimum=2, maximum=8) for b in bits]
    if not widths:
        raise ValueError("bits: expected at least one width, got none")
    batches = read_batches(model, calibration_data, batch_size=recipe.batch_size)
    reference = prepare_model(model, batches, fold=recipe.fold_batch_norm)
    if loss is None:
        targets = outputs(reference, batches)
        weight = sum(len(target) for target in targets)

        def loss(candidate: nn.Module) -> float:
            pairs = zip(targets, outputs(candidate, batches), strict=True)
            return sum(float(prediction_divergence(t, o)) * len(t) for t, o in pairs) / weight

    base = float(loss(reference))
    cost: dict[str, dict[int, float]] = {}
    for width in widths:
        every = replace(recipe, bits=width, overrides=_without_bits(recipe.overrides))
        quantized = quantize_model(reference, every, batches, generator=generator)
        for row in quantized.report:
            layer = quantized.get_submodule(row.name)
            old = reference.get_submodule(row.name)
            # The reference is changed for a moment: a copy of it for every layer costs more.
            candidate = replace_modules(reference, {old: layer})
            try:
                cost.setdefault(row.name, {})[width] = float(loss(candidate)) - base
            finally:
                reference = replace_modules(candidate, {layer: old})
        size = quantized.report.size
    return Sensitivity(cost, size, _operations(reference, list(cost), batches[0]))


def _without_bits(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what overrides say, but for the bits of the weights."""
    kept = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            kept[name] = {key: entry for key, entry in value.items() if key != "bits"}
        elif value is None:
            kept[name] = None
    return kept


def _operations(model: nn.Module, names: list[str], batch: Batch) -> dict[str, int]:
    """Count multiply-accumulates for one sample of a batch."""
    arguments = [*batch.args, *batch.kwargs.values()]
    samples = len(next(a for a in arguments if isinstance(a, Tensor)))
    layers = {name: model.get_submodule(name) for name in names}
    counts = call_counts(model, layers, batch)
    result = {}
    for name, layer in layers.items():
        spec, total = LayerSpec.of(layer), 0
        for x in layer_inputs(model, layer, batch, counts[name]):
            # A weight works once at each position of the output; of the input, if transposed.
            if spec.transposed:
                positions = x.numel() // spec.weight_shape[0]
            else:
                positions = spec.input_rows(x).shape[1]
            total += positions * layer.weight.numel()
        result[name] = total // samples
    return result
