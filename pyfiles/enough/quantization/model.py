"""A whole model, from full precision to a few bits, with a report."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from enough.models import ScaledLinear
from enough.quantization.attention import ProjectedAttention
from enough.quantization.bias import tune_biases
from enough.quantization.folding import fold_batch_norm, re_estimate_batch_norm
from enough.quantization.learned_rounding import adaquant, adaround
from enough.quantization.modules import (
    ActivationQuantizer,
    LayerSpec,
    QuantizedLayer,
    is_quantizable,
    layer_bias,
    layer_matrix,
    replace_modules,
)
from enough.quantization.passes import Batch, call_counts, layer_inputs, read_batches
from enough.quantization.recipe import BLOCK_METHODS, LayerRecipe, Recipe
from enough.quantization.reconstruction import BlockReport, reconstruct_blocks
from enough.quantization.report import LayerReport, QuantizationReport
from enough.quantization.solvers import gptq, nearest
from enough.quantization.statistics import LayerStatistics
from enough.quantization.weight_grid import RoundedWeight, WeightGrid
from enough.runtime import as_generator, chunks, stopwatch

__all__ = ["prepare_model", "quantize_model"]

_SOLVERS: dict[str, Callable[..., RoundedWeight]] = {
    "nearest": nearest,
    "gptq": gptq,
    "adaround": adaround,
    "adaquant": adaquant,
}
# Arguments of the solvers that the model gives, not the recipe.
_OWN_ARGUMENTS = (
    "weight",
    "statistics",
    "grid",
    "bias",
    "correct_bias",
    "rows_hat",
    "input_scale",
    "input_zero_point",
    "input_bits",
    "input_symmetric",
    "generator",
)
_MOST_ENTRIES = 1 << 23  # of the rows that are cut out of an input at once


def quantize_model(
    model: nn.Module,
    recipe: Recipe | str | Mapping[str, Any],
    calibration_data: Any,
    *,
    generator: torch.Generator | int | None = None,
) -> nn.Module:
    """Quantize a trained model with a few unlabeled samples.

    Parameters
    ----------
    model : torch.nn.Module
        Any model with linear layers, convolutions or transposed convolutions; it stays as it is.
        Attention of ``torch.nn.MultiheadAttention`` is split into linear layers first.
    recipe : Recipe, str, or mapping from str
        What to do; a name stands for ``Recipe(method=name)``, a mapping for its fields.
    calibration_data : array, mapping, or iterable of batches
        An array holds samples along its first dimension. A mapping is one batch of keyword
        arguments. Else an iterable (a list, a ``DataLoader``) gives the batches: arrays,
        mappings, or tuples of arguments, of which the model gets as many as its forward pass
        requires; labels that come along are left out.
    generator : torch.Generator or int, optional
        For methods that draw. ``None`` seeds from the operating system.

    Returns
    -------
    torch.nn.Module
        A copy in evaluation mode, each quantized layer a `QuantizedLayer`, with an attribute
        ``report``, a `QuantizationReport`.

    Raises
    ------
    ValueError
        If the recipe is not as described; if it names an unknown layer; if there are no
        calibration data, or they hold NaN or infinity; if the model has no layer to quantize,
        or one that the calibration data never reach; if a layer's weight or input is not
        finite.

    Notes
    -----
    Layers are quantized in the order they run. For each, its inputs are gathered twice, in the
    full-precision model and in the quantized copy as far as it is, and the solver makes the
    quantized layer's output on the one come close to the full-precision layer's output on the
    other. With ``parallel=True`` both are the full-precision inputs. Inputs with
    ``activation_bits`` pass through their quantizer before the solver sees them.

    A layer that runs several times in a pass is quantized once, on all of its inputs. Weights
    that are no layer's, such as embeddings, norms and recurrent cells, stay in floating point
    and are listed in ``report.kept``.

    Examples
    --------
    >>> import torch
    >>> from enough.models import ConvNet
    >>> images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> recipe = Recipe(method="gptq", bits=4, overrides={"first": 8, "last": 8})
    >>> quantized = quantize_model(ConvNet(blocks=0, generator=0), recipe, images)
    >>> [row.bits for row in quantized.report]
    [8, 4, 4, 8]
    """
    recipe = Recipe.of(recipe)
    generator = as_generator(generator)
    with stopwatch(_device(model)) as watch:
        batches = read_batches(model, calibration_data, batch_size=recipe.batch_size)
        reference = prepare_model(model, batches, fold=recipe.fold_batch_norm)
        layers = {name: m for name, m in reference.named_modules() if is_quantizable(m)}
        if not layers:
            raise ValueError(
                "model: expected linear layers or convolutions, got a model without any"
            )
        calls = call_counts(reference, layers, batches[0])
        idle = [name for name in layers if name not in calls]
        plan = recipe.for_layers(list(calls), idle)
        unseen = [name for name in idle if plan[name] is not None]
        if unseen:
            raise ValueError(
                f"calibration_data: expected inputs that reach every layer, {unseen[0]!r} never "
                f"ran; keep it in floating point with overrides={{{unseen[0]!r}: None}}"
            )
        chosen = [name for name in calls if plan[name] is not None]
        if not chosen:
            raise ValueError("overrides: expected at least one layer with bits, got none")
        quantized = copy.deepcopy(reference)
        rows = []
        for name in chosen:
            quantized, row = _quantize_layer(
                name,
                plan[name],
                quantized,
                reference,
                batches,
                calls[name],
                parallel=recipe.parallel,
                generator=generator,
            )
            rows.append(row)
        blocks: tuple[BlockReport, ...] = ()
        if recipe.method in BLOCK_METHODS:
            quantized = reconstruct_blocks(
                quantized,
                reference,
                batches,
                method=recipe.method,
                blocks=recipe.blocks,
                generator=generator,
                **_block_options(recipe),
            )
            blocks = quantized.reconstruction
        if recipe.re_estimate:
            quantized = re_estimate_batch_norm(quantized, batches, reference=reference)
        if recipe.tune_bias:
            quantized = tune_biases(
                quantized, reference, batches, steps=recipe.tune_bias, generator=generator
            )
        if blocks or recipe.re_estimate or recipe.tune_bias:
            changed = {name for block in blocks for name in block.layers}
            rows = [
                replace(
                    _measure(row, quantized, reference, batches, calls[row.name]),
                    method=recipe.method if row.name in changed else row.method,
                )
                for row in rows
            ]
    kept = tuple(
        name or type(module).__name__
        for name, module in quantized.named_modules()
        if not isinstance(module, QuantizedLayer) and any(True for _ in module.parameters(False))
    )
    folded = tuple(norm.name for norm in getattr(quantized, "folded_norms", {}).values())
    quantized.report = QuantizationReport(tuple(rows), blocks, folded, kept, watch.seconds)
    return quantized


def prepare_model(model: nn.Module, example: Any = None, *, fold: bool = True) -> nn.Module:
    """Bring a model into the form that `quantize_model` starts from.

    Parameters
    ----------
    model : torch.nn.Module
        The model; it stays as it is.
    example : array or batches, optional
        Inputs that show where batch norms can be folded, as in `fold_batch_norm`.
    fold : bool, default True
        Whether batch norms are folded.

    Returns
    -------
    torch.nn.Module
        A copy in evaluation mode that computes the same. Layers with multipliers have become
        ``torch.nn.Linear``, attention with fused projections `ProjectedAttention`.

    Raises
    ------
    ValueError
        If an attention module has an option that is not handled.
    """
    model = copy.deepcopy(model).eval()
    replacements: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, ScaledLinear):
            replacements[module] = _plain_linear(module)
        elif isinstance(module, nn.MultiheadAttention) and (
            type(module).forward is nn.MultiheadAttention.forward
        ):
            replacements[module] = ProjectedAttention(module)
        elif isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # keeps to the path that calls its layers
    model = replace_modules(model, replacements)
    return fold_batch_norm(model, example) if fold else model


def _plain_linear(layer: ScaledLinear) -> nn.Linear:
    bias = layer_bias(layer)
    plain = nn.Linear(layer.in_features, layer.out_features, bias is not None, device="meta")
    weight = LayerSpec.of(layer).weight(layer_matrix(layer))
    plain.weight = nn.Parameter(weight.detach().clone(), layer.weight.requires_grad)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), layer.bias.requires_grad)
    return plain


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _quantize_layer(
    name: str,
    recipe: LayerRecipe,
    quantized: nn.Module,
    reference: nn.Module,
    batches: list[Batch],
    calls: int,
    *,
    parallel: bool,
    generator: torch.Generator,
) -> tuple[nn.Module, LayerReport]:
    """Replace one layer of the quantized copy and report on it."""
    old, layer = quantized.get_submodule(name), reference.get_submodule(name)
    try:
        with stopwatch(layer.weight.device) as watch:
            x = [part for b in batches for part in layer_inputs(reference, layer, b, calls)]
            h = x
            if not parallel:
                h = [part for b in batches for part in layer_inputs(quantized, old, b, calls)]
            new, rounded, statistics = _round_layer(layer, recipe, x, h, generator)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error
    with torch.no_grad():
        matrix, bias = layer_matrix(layer).double(), layer_bias(layer)
        bias = None if bias is None else bias.view(matrix.shape[:2])
        missed = float((new.matrix.double() - matrix).norm())
        signal = statistics.error(matrix, bias, torch.zeros_like(matrix), None)
    low, high = new.range
    inputs = new.input_quantizer
    coarse = isinstance(inputs, ActivationQuantizer)
    row = LayerReport(
        name=name,
        kind=new.spec.kind,
        method=recipe.method,
        bits=new.bits,
        n_weights=matrix.numel(),
        low=low,
        high=high,
        activation_bits=inputs.bits if coarse else None,
        input_low=inputs.range[0] if coarse else None,
        input_high=inputs.range[1] if coarse else None,
        weight_error=_share(missed, matrix.detach().norm().item()),
        output_error=_share(rounded.error, signal) ** 0.5,
        seconds=watch.seconds,
    )
    return replace_modules(quantized, {old: new}), row


@torch.no_grad()
def _measure(
    row: LayerReport, quantized: nn.Module, reference: nn.Module, batches: list[Batch], calls: int
) -> LayerReport:
    """Measure a layer again, on what the finished model gives it."""
    new, old = quantized.get_submodule(row.name), reference.get_submodule(row.name)
    matrix = layer_matrix(old).double()
    error = signal = 0.0
    for batch in batches:
        x, h = (
            layer_inputs(reference, old, batch, calls),
            layer_inputs(quantized, new, batch, calls),
        )
        for part, part_hat in zip(x, h, strict=True):
            target = old(part).double()
            error += float((new(part_hat).double() - target).square().sum())
            signal += float(target.square().sum())
    low, high = new.range
    ends = getattr(new.input_quantizer, "range", (None, None))
    return replace(
        row,
        low=low,
        high=high,
        input_low=ends[0],
        input_high=ends[1],
        weight_error=_share(float((new.matrix.double() - matrix).norm()), float(matrix.norm())),
        output_error=_share(error, signal) ** 0.5,
    )


def _block_options(recipe: Recipe) -> dict[str, Any]:
    """Check the keyword arguments of a block method."""
    known = inspect.signature(reconstruct_blocks).parameters
    own = ("model", "reference", "calibration_data", "method", "blocks", "generator", "batch_size")
    for key in recipe.options:
        if key not in known or key in own:
            names = ", ".join(name for name in known if name not in own)
            raise ValueError(f"options: expected options of {recipe.method} ({names}), got {key!r}")
    return dict(recipe.options)


def _share(part: float, whole: float) -> float:
    """Divide, with nothing as a share of nothing equal to zero."""
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else float("inf")


def _round_layer(
    layer: nn.Module,
    recipe: LayerRecipe,
    x: list[Tensor],
    h: list[Tensor],
    generator: torch.Generator,
) -> tuple[QuantizedLayer, RoundedWeight, LayerStatistics]:
    """Quantize one layer, given its inputs in full precision and as they will be."""
    inputs = None
    raw = h
    if recipe.activation_bits is not None:
        inputs = ActivationQuantizer.from_values(
            h,
            bits=recipe.activation_bits,
            symmetric=recipe.activation_symmetric,
            method=recipe.activation_range,
        )
        with torch.no_grad():
            h = [inputs(part) for part in h]
    spec = LayerSpec.of(layer)
    statistics = LayerStatistics(spec.columns, spec.groups, layer.weight.device)
    for part, part_hat in zip(x, h, strict=True):
        same = part_hat is part or torch.equal(part, part_hat)
        for piece in _pieces(spec, part):
            rows = spec.input_rows(part[piece])
            statistics.update(rows, None if same else spec.input_rows(part_hat[piece]))
    weight, bias = layer_matrix(layer).detach(), layer_bias(layer)
    grid = WeightGrid.fit(
        weight,
        bits=recipe.bits,
        symmetric=recipe.symmetric,
        group_size=recipe.group_size,
        per_tensor=recipe.granularity == "tensor",
        method=recipe.range_method,
    )
    options = _solver_options(recipe, spec, x, h, raw, inputs, generator)
    rounded = _SOLVERS[recipe.method](
        weight,
        statistics,
        grid,
        bias=None if bias is None else bias.detach().view(weight.shape[:2]),
        **options,
    )
    if rounded.input_scale is not None:
        inputs = ActivationQuantizer(
            rounded.input_scale.reshape(()),
            rounded.input_zero_point.reshape(()),
            bits=recipe.activation_bits,
            symmetric=recipe.activation_symmetric,
        )
    new = QuantizedLayer(
        spec,
        rounded.integers,
        replace(grid, scale=rounded.scale, zero_point=rounded.zero_point),
        bias=None if rounded.bias is None else rounded.bias.flatten(),
        input_quantizer=inputs,
        dtype=layer.weight.dtype,
    )
    return new.eval(), rounded, statistics


def _pieces(spec: LayerSpec, x: Tensor) -> list[slice]:
    """Cut an input so that the rows of each piece fit into memory."""
    unbatched = spec.kind != "linear" and x.ndim == len(spec.stride) + 1
    if unbatched or x.ndim < 2:
        return [slice(None)]
    overlap = math.prod(spec.weight_shape[2:])
    overlap *= math.prod(spec.stride) if spec.transposed else 1
    each = max(1, x[0].numel() * overlap)
    return list(chunks(len(x), each, _MOST_ENTRIES))


def _solver_options(
    recipe: LayerRecipe,
    spec: LayerSpec,
    x: list[Tensor],
    h: list[Tensor],
    raw: list[Tensor],
    inputs: ActivationQuantizer | None,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Gather the keyword arguments of a solver."""
    known = inspect.signature(_SOLVERS[recipe.method]).parameters
    options = dict(recipe.options)
    for key in options:
        if key not in known or key in _OWN_ARGUMENTS:
            names = [n for n in known if n not in _OWN_ARGUMENTS]
            raise ValueError(
                f"options: expected options of {recipe.method} ({', '.join(names)}), got {key!r}"
            )
    if recipe.bias_correction is not None:
        options["correct_bias"] = recipe.bias_correction
    if "generator" in known:
        options["generator"] = generator
    if not options.pop("rows", False):
        return options
    learns_input = "input_scale" in known
    if learns_input and inputs is None:
        raise ValueError(
            "options: expected activation_bits with rows of adaquant, which learns the input's "
            "range from them, got None"
        )
    if learns_input:
        h = raw
        options["input_scale"], options["input_zero_point"] = inputs.scale, inputs.zero_point
        options["input_bits"], options["input_symmetric"] = inputs.bits, inputs.symmetric
    options["rows"] = torch.cat([spec.input_rows(part) for part in x], 1)
    options["rows_hat"] = torch.cat([spec.input_rows(part) for part in h], 1)
    return options
