"""Rounding whole blocks: BRECQ, QDrop and PD-Quant on any module whose layers are quantized.

The rounding of all layers of a block, and the ranges of their inputs, are learned together so
that the block's output comes close to that of the full-precision block. The three methods differ
in what the block is fed and in what its output is held to.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from enough.quantization.bias import prediction_divergence
from enough.quantization.folding import FoldedNorm
from enough.quantization.grid import integer_range
from enough.quantization.learned_rounding import SoftRounding
from enough.quantization.modules import (
    ActivationQuantizer,
    QuantizedLayer,
    layer_matrix,
    replace_modules,
)
from enough.quantization.passes import Batch, call_counts, logits, read_batches
from enough.quantization.uniform import straight_through_quantize
from enough.runtime import as_generator, stopwatch
from enough.runtime.validation import as_tensors, check_choice, check_integer, check_number

__all__ = ["BlockReport", "correct_distribution", "find_blocks", "qdrop", "reconstruct_blocks"]

_SMALLEST_STEP = 1e-3  # of the first; Adam never takes a step through zero
_TINY = 1e-12
_DROP = {"brecq": 0.0, "qdrop": 0.5, "pdquant": 0.5}


def qdrop(
    x: Any, x_hat: Any, p: float = 0.5, generator: torch.Generator | int | None = None
) -> Any:
    """Drop the quantization of random entries.

    Parameters
    ----------
    x : array of any shape
        Full-precision values.
    x_hat : array of the same shape
        The values after quantization.
    p : float, default 0.5
        Probability that an entry keeps full precision; 0, as at inference, returns ``x_hat``.
    generator : torch.Generator or int, optional
        Source of randomness.

    Returns
    -------
    array of the shape of ``x``
        Each entry from ``x`` with probability p, else from ``x_hat``. Gradients flow.

    Raises
    ------
    ValueError
        If the shapes differ or ``p`` is outside [0, 1].

    References
    ----------
    Wei, Gong, Li, Liu and Yu (2022), "QDrop: randomly dropping quantization for extremely
    low-bit post-training quantization", arXiv:2203.05740.

    Examples
    --------
    >>> qdrop([1.0, 2.0], [1.5, 1.5], p=0.0)
    array([1.5, 1.5])
    """
    p = check_number(p, "p", minimum=0.0, maximum=1.0)
    (full, coarse), restore = as_tensors(x=x, x_hat=x_hat)
    if full.shape != coarse.shape:
        raise ValueError(
            f"x_hat: expected the shape of x {tuple(full.shape)}, got {tuple(coarse.shape)}"
        )
    if p == 0.0:
        return restore(coarse)
    generator = as_generator(generator, full.device)
    chance = torch.rand(full.shape, generator=generator, device=generator.device)
    return restore(torch.where(chance.to(full.device) < p, full, coarse))


@dataclass(frozen=True)
class BlockReport:
    """What reconstruction did to one block.

    Parameters
    ----------
    name : str
        Name of the block in the model.
    layers : tuple of str
        Names of its quantized layers.
    error_before, error_after : float
        Mean squared difference of its output to the full-precision block's, on the inputs that
        the quantized network gives it, as a share of the mean square of the output.
    undecided : float
        Share of weights whose soft rounding was still between 0 and 1 at the end.
    seconds : float
        Time it took.
    """

    name: str
    layers: tuple[str, ...]
    error_before: float
    error_after: float
    undecided: float
    seconds: float


def find_blocks(model: nn.Module, calibration_data: Any, *, max_layers: int = 8) -> tuple[str, ...]:
    """Cut a quantized model into the blocks that are reconstructed one by one.

    Parameters
    ----------
    model : torch.nn.Module
        A quantized model, from `quantize_model`.
    calibration_data : array, mapping, or iterable of batches
        As in `quantize_model`; the first batch shows what runs in which order.
    max_layers : int, default 8
        Quantized layers a block may have.

    Returns
    -------
    tuple of str
        Names in the order the blocks run: the largest modules that have no more than
        ``max_layers`` quantized layers, are called once in a pass, take a tensor first and
        return one. The model itself, ``torch.nn.Sequential`` and other containers are no blocks
        unless they are a quantized layer. A quantized layer that runs several times in a pass
        belongs to no block.

    Raises
    ------
    ValueError
        If ``max_layers`` is below 1, or there are no data.
    """
    max_layers = check_integer(max_layers, "max_layers", minimum=1)
    batch = read_batches(model, calibration_data)[0]
    modules = {name: module for name, module in model.named_modules() if _layers(module)}
    calls = call_counts(model, modules, batch)
    found: list[str] = []

    def descend(name: str) -> None:
        module = modules[name]
        container = name == "" or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        leaf = isinstance(module, QuantizedLayer)
        fits = leaf or (not container and len(_layers(module)) <= max_layers)
        if fits and calls.get(name) == 1 and _is_tensor_map(model, module, batch):
            found.append(name)
        elif not leaf:
            for child, _ in module.named_children():
                inner = f"{name}.{child}" if name else child
                if inner in modules:
                    descend(inner)

    if modules:
        descend("")
    order = list(calls)
    return tuple(sorted(found, key=order.index))


def correct_distribution(
    block: nn.Module,
    x: Tensor,
    norms: Mapping[str, FoldedNorm],
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    steps: int = 100,
    lr: float = 0.01,
    strength: float = 0.02,
) -> Tensor:
    r"""Move a block's input so that its batch norms see the data they were trained on.

    Parameters
    ----------
    block : torch.nn.Module
        A full-precision block whose batch norms are folded.
    x : torch.Tensor, first dimension samples
        Its input on a few calibration samples.
    norms : mapping from str to FoldedNorm
        What the folded norms promised, by the name of the layer in the block.
    args : sequence, default ()
        What the block takes after ``x``.
    kwargs : mapping from str, optional
        Keyword arguments of the block.
    steps : int, default 100
        Steps of Adam.
    lr : float, default 0.01
        Its learning rate, in standard deviations of ``x``.
    strength : float, default 0.02
        λ, how freely the input may move; above 0.

    Returns
    -------
    torch.Tensor, shape of ``x``
        The corrected input; ``x`` where the block has no folded norm.

    Raises
    ------
    ValueError
        If a number is out of range or a norm names no layer of the block.

    Notes
    -----
    Equation 10 of [1]_ sums, over batch norms, the squared differences of mean and standard
    deviation to the running ones, and :math:`\|x' - x\|^2/\lambda`. We measure both in
    standard deviations and average over channels, so that one λ serves every block.

    References
    ----------
    .. [1] Liu, Niu, Yuan, Yang, Wang and Liu (2023), "PD-Quant: post-training quantization based
       on prediction difference metric", arXiv:2212.07048.
    """
    steps = check_integer(steps, "steps", minimum=0)
    lr = check_number(lr, "lr", above=0.0)
    strength = check_number(strength, "strength", above=0.0)
    layers = dict(block.named_modules())
    for name in norms:
        if name not in layers:
            raise ValueError(f"norms: expected names of layers of the block, got {name!r}")
    if not norms or not steps:
        return x
    size = x.detach().std()
    size = torch.where(size > 0, size, torch.ones_like(size))
    shift = torch.zeros_like(x, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=lr)
    gaps: list[Tensor] = []
    handles = [
        layers[name].register_forward_hook(
            lambda layer, _, output, norm=norm: gaps.append(_norm_gap(layer, output, norm))
        )
        for name, norm in norms.items()
    ]
    try:
        with torch.enable_grad():
            for _ in range(steps):
                gaps.clear()
                block(x.detach() + size * shift, *args, **(kwargs or {}))
                loss = torch.stack(gaps).sum() + shift.square().mean() / strength
                (shift.grad,) = torch.autograd.grad(loss, shift)
                optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    return (x + size * shift).detach()


def _norm_gap(layer: nn.Module, output: Tensor, norm: FoldedNorm) -> Tensor:
    """How far a layer's output is from what its batch norm promised, in standard deviations."""
    axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
    channels = output.movedim(axis, 0).flatten(1)
    mean, spread = norm.mean.to(channels), norm.variance.to(channels).sqrt()
    alive = spread > 0
    unit = torch.where(alive, spread, torch.ones_like(spread))
    variance = channels.var(1, unbiased=False) / unit.square()
    deviation = (variance + _TINY).sqrt()  # a constant channel would have an infinite slope
    gap = ((channels.mean(1) - mean) / unit).square() + (deviation - 1).square()
    return (gap * alive).sum() / alive.sum().clamp(min=1)


def reconstruct_blocks(
    model: nn.Module,
    reference: nn.Module,
    calibration_data: Any,
    *,
    method: str = "qdrop",
    blocks: Sequence[str] | None = None,
    steps: int = 400,
    batch: int = 32,
    lr: float = 0.2,
    lr_input: float = 1e-3,
    regularization: float = 20.0,
    beta: tuple[float, float] = (20.0, 2.0),
    warmup: float = 0.2,
    drop: float | None = None,
    fisher: bool = False,
    prediction: float = 1.0,
    temperature: float = 4.0,
    correction_steps: int = 100,
    correction_strength: float = 0.02,
    batch_size: int = 256,
    generator: torch.Generator | int | None = None,
) -> nn.Module:
    r"""Learn the rounding of a quantized model block by block.

    Parameters
    ----------
    model : torch.nn.Module
        A quantized model, from `quantize_model`; it stays as it is. Its grids are kept.
    reference : torch.nn.Module
        The full-precision model in the form that `prepare_model` gives it: the same modules under
        the same names, batch norms folded.
    calibration_data : array, mapping, or iterable of batches
        As in `quantize_model`.
    method : {"qdrop", "brecq", "pdquant"}, default "qdrop"
        ``"brecq"`` compares the outputs of the blocks. ``"qdrop"`` lets each input of the block
        and each quantized input inside it keep full precision at random. ``"pdquant"`` does so
        too, corrects the full-precision inputs (`correct_distribution`), and adds the difference
        of predictions, passing the block's output through the rest of the reference.
    blocks : sequence of str, optional
        Names of the modules to reconstruct, none inside another. Default: `find_blocks`.
    steps : int, default 400
        Steps of Adam for each block.
    batch : int, default 32
        Samples in a step.
    lr : float, default 0.2
        Learning rate of the rounding.
    lr_input : float, default 1e-3
        Learning rate of the steps of the inputs' quantizers, relative to their first value.
    regularization : float, default 20.0
        Weight of the term that drives each rounding to 0 or 1, as in `adaround`.
    beta : (float, float), default (20.0, 2.0)
        First and last exponent of that term.
    warmup : float, default 0.2
        Share of the steps before the term is switched on.
    drop : float, optional
        Probability that an entry keeps full precision, as in `qdrop`. Default: 0 for
        ``"brecq"``, 0.5 for the others.
    fisher : bool, default False
        Weigh squared differences by the squared gradient that the prediction difference has
        at the block's output.
    prediction : float, default 1.0
        Weight of the prediction difference in ``"pdquant"``.
    temperature : float, default 4.0
        Divides the scores before their softmax in that difference.
    correction_steps : int, default 100
        Steps of `correct_distribution` in ``"pdquant"``; 0 leaves it out.
    correction_strength : float, default 0.02
        Its ``strength``.
    batch_size : int, default 256
        Samples in a batch, where calibration data come as one array.
    generator : torch.Generator or int, optional
        Draws batches and drops.

    Returns
    -------
    torch.nn.Module
        A copy with new integers and new input steps, and an attribute ``reconstruction``, a
        tuple of `BlockReport`.

    Raises
    ------
    ValueError
        If an option is out of range, a block does not exist, has no quantized layer, lies in
        another, or does not map one tensor to one; or if the reference lacks a module.

    Notes
    -----
    Blocks and Fisher weights follow BRECQ [1]_, random dropping QDrop [2]_, the prediction
    difference and the corrected inputs PD-Quant [3]_. The squared error is divided by what
    rounding the block's weights to nearest adds to its output, the prediction difference by its
    value before reconstruction, and the regularizer is averaged over weights: so the weights of
    the terms have no units, as the published ones have. Blocks are reconstructed in the order
    they run, each on the inputs that those before it give.

    References
    ----------
    .. [1] Li, Gong, Tan, Yang, Hu, Zhang, Yu, Wang and Gu (2021), "BRECQ: pushing the limit of
       post-training quantization by block reconstruction", arXiv:2102.05426.
    .. [2] Wei, Gong, Li, Liu and Yu (2022), "QDrop", arXiv:2203.05740.
    .. [3] Liu, Niu, Yuan, Yang, Wang and Liu (2023), "PD-Quant", arXiv:2212.07048.
    """
    check_choice(method, "method", tuple(_DROP))
    first, last = (check_number(b, "beta", minimum=1.0) for b in beta)
    plan = _Plan(
        steps=check_integer(steps, "steps", minimum=1),
        lr=check_number(lr, "lr", above=0.0),
        lr_input=check_number(lr_input, "lr_input", minimum=0.0),
        regularization=check_number(regularization, "regularization", minimum=0.0),
        beta=(first, last),
        warmup=check_number(warmup, "warmup", minimum=0.0, below=1.0),
        drop=_DROP[method] if drop is None else check_number(drop, "drop", minimum=0, maximum=1),
        fisher=bool(fisher),
        prediction=check_number(prediction, "prediction", minimum=0.0)
        if method == "pdquant"
        else 0.0,
        temperature=check_number(temperature, "temperature", above=0.0),
        correction_steps=check_integer(correction_steps, "correction_steps", minimum=0)
        if method == "pdquant"
        else 0,
        correction_strength=check_number(correction_strength, "correction_strength", above=0.0),
        generator=as_generator(generator),
    )
    batch = check_integer(batch, "batch", minimum=1)
    batches = read_batches(reference, calibration_data, batch_size=batch_size)
    model = copy.deepcopy(model).eval()
    reference = copy.deepcopy(reference).eval().requires_grad_(False)
    names = find_blocks(model, batches) if blocks is None else tuple(blocks)
    _check_blocks(names, model, reference, batches[0])
    reports = []
    for name in names:
        with stopwatch(_device(reference)) as watch:
            small = _minibatches(batches, batch, plan.generator)
            task = _Task.gather(name, model, reference, small, plan)
            before = task.error(model.get_submodule(name))
            replacements, undecided = _learn(task, plan)
            model = replace_modules(model, replacements)
            after = task.error(model.get_submodule(name))
        layers = tuple(f"{name}.{inner}".strip(".") for inner in _layers(model.get_submodule(name)))
        reports.append(
            BlockReport(
                name,
                layers,
                before / task.power if task.power else before,
                after / task.power if task.power else after,
                undecided,
                watch.seconds,
            )
        )
    model.reconstruction = tuple(reports)
    return model


@dataclass(frozen=True)
class _Plan:
    """The options of a reconstruction, checked."""

    steps: int
    lr: float
    lr_input: float
    regularization: float
    beta: tuple[float, float]
    warmup: float
    drop: float
    fisher: bool
    prediction: float
    temperature: float
    correction_steps: int
    correction_strength: float
    generator: torch.Generator


class _Stop(Exception):
    """A pass has reached what it was run for."""


@dataclass(frozen=True)
class _Call:
    """One call of a block."""

    x: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x, *self.args, **self.kwargs)


def _record(model: nn.Module, block: nn.Module, batch: Batch) -> _Call:
    """Run a model up to the end of a block and return the block's call."""
    seen: list[_Call] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kwargs = dict(kwargs)
        x = args[0] if args else kwargs.pop(next(iter(kwargs)))
        seen.append(_Call(x, tuple(args[1:]), kwargs, output))
        raise _Stop

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        with torch.no_grad():
            batch.run(model)
    except _Stop:
        pass
    finally:
        handle.remove()
    return seen[0]


def _with_output(model: nn.Module, block: nn.Module, output: Tensor, batch: Batch) -> Tensor:
    """Run a model with a block's output put in its place."""
    handle = block.register_forward_hook(lambda *_: output)
    try:
        return logits(batch.run(model))
    finally:
        handle.remove()


def _is_tensor_map(model: nn.Module, block: nn.Module, batch: Batch) -> bool:
    call = _record(model, block, batch)
    tensors = isinstance(call.x, Tensor) and isinstance(call.output, Tensor)
    return tensors and call.x.is_floating_point() and call.output.is_floating_point()


def _layers(module: nn.Module) -> dict[str, QuantizedLayer]:
    return {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLayer)}


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _check_blocks(
    names: Sequence[str], model: nn.Module, reference: nn.Module, batch: Batch
) -> None:
    if not names:
        raise ValueError("model: expected quantized layers, got a model without any")
    modules = dict(model.named_modules())
    theirs = dict(reference.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(f"blocks: expected names of modules, got {name!r}")
        layers = _layers(modules[name])
        if not layers:
            raise ValueError(f"blocks: expected modules with quantized layers, got {name!r}")
        for inner in ("", *layers):
            full = f"{name}.{inner}".strip(".")
            if full not in theirs:
                raise ValueError(f"reference: expected a module {full!r} as in the model, got none")
        for other in names:
            if other != name and f"{name}.".startswith(f"{other}."):
                raise ValueError(f"blocks: expected none inside another, {name!r} is in {other!r}")
        if call_counts(model, {name: modules[name]}, batch).get(name) != 1 or not _is_tensor_map(
            model, modules[name], batch
        ):
            raise ValueError(
                f"blocks: expected modules that run once and map one tensor to one, got {name!r}"
            )


def _minibatches(batches: list[Batch], size: int, generator: torch.Generator) -> list[Batch]:
    """Cut batches into smaller ones, samples in random order."""
    small = []
    for batch in batches:
        tensors = [v for v in (*batch.args, *batch.kwargs.values()) if isinstance(v, Tensor)]
        if not tensors or tensors[0].ndim == 0:
            small.append(batch)
            continue
        count = len(tensors[0])
        order = torch.randperm(count, generator=generator, device=generator.device)
        pieces = -(-count // size)
        for picked in order.tensor_split(pieces):

            def pick(value: Any, picked: Tensor = picked, count: int = count) -> Any:
                if isinstance(value, Tensor) and value.ndim and len(value) == count:
                    return value[picked.to(value.device)]
                return value

            small.append(
                Batch(
                    tuple(pick(v) for v in batch.args),
                    {key: pick(v) for key, v in batch.kwargs.items()},
                )
            )
    return small


@dataclass
class _Task:
    """A block, what it is given and what it should answer."""

    block: nn.Module
    reference: nn.Module
    full_model: nn.Module
    batches: list[Batch]
    coarse: list[_Call]
    full: list[Tensor]
    outputs: list[Tensor]
    targets: list[Tensor]
    weights: list[Tensor]
    scores: list[Tensor]
    power: float

    @classmethod
    def gather(
        cls,
        name: str,
        model: nn.Module,
        full_model: nn.Module,
        batches: list[Batch],
        plan: _Plan,
    ) -> _Task:
        block, reference = model.get_submodule(name), full_model.get_submodule(name)
        norms = {
            layer.removeprefix(f"{name}.").removeprefix(name): norm
            for layer, norm in getattr(full_model, "folded_norms", {}).items()
            if f"{layer}.".startswith(f"{name}.")
        }
        coarse = [_record(model, block, b) for b in batches]
        calls = [_record(full_model, reference, b) for b in batches]
        full, targets = [c.x for c in calls], [c.output for c in calls]
        outputs = targets
        if plan.correction_steps:
            full = [
                correct_distribution(
                    reference,
                    c.x,
                    norms,
                    args=c.args,
                    kwargs=c.kwargs,
                    steps=plan.correction_steps,
                    strength=plan.correction_strength,
                )
                for c in calls
            ]
            with torch.no_grad():
                targets = [c.run(reference, x) for c, x in zip(calls, full, strict=True)]
        scores: list[Tensor] = []
        if plan.prediction or plan.fisher:
            with torch.no_grad():
                scores = [logits(b.run(full_model)) for b in batches]
        weights: list[Tensor] = []
        if plan.fisher:
            weights = [
                _squared_gradient(model, block, c.output, b, z)
                for c, b, z in zip(coarse, batches, scores, strict=True)
            ]
            mean = sum(float(w.sum()) for w in weights) / sum(w.numel() for w in weights)
            weights = [w / mean if mean > 0 else torch.ones_like(w) for w in weights]
        count = sum(o.numel() for o in outputs)
        power = sum(float(o.double().square().sum()) for o in outputs) / count
        return cls(
            block,
            reference,
            full_model,
            batches,
            coarse,
            full,
            outputs,
            targets,
            weights,
            scores,
            power,
        )

    @torch.no_grad()
    def error(self, block: nn.Module) -> float:
        """Mean squared difference to the full-precision output on the inputs as they will be."""
        total = sum(
            float((c.run(block, c.x) - o).double().square().sum())
            for c, o in zip(self.coarse, self.outputs, strict=True)
        )
        return total / sum(o.numel() for o in self.outputs)

    def loss(self, i: int, output: Tensor) -> Tensor:
        """Mean squared difference to the target, weighted where there are weights."""
        square = (output - self.targets[i]).square()
        return (square * self.weights[i] if self.weights else square).mean()

    def difference(self, i: int, output: Tensor, temperature: float) -> Tensor:
        """Divergence of the predictions that follow from a block's output."""
        scores = _with_output(self.full_model, self.reference, output, self.batches[i])
        return prediction_divergence(self.scores[i] / temperature, scores / temperature)


def _squared_gradient(
    model: nn.Module, block: nn.Module, output: Tensor, batch: Batch, target: Tensor
) -> Tensor:
    with torch.enable_grad():
        output = output.detach().requires_grad_()
        loss = prediction_divergence(target, _with_output(model, block, output, batch))
        (gradient,) = torch.autograd.grad(loss, output)
    return gradient.square()


class _SoftLayer(nn.Module):
    """A quantized layer whose rounding and input step can be learned."""

    def __init__(self, layer: QuantizedLayer, full: nn.Module, plan: _Plan) -> None:
        super().__init__()
        self.layer, self.plan = layer, plan
        weight = layer_matrix(full).detach().to(layer.scale.dtype).contiguous()
        self.soft = SoftRounding.of(weight, layer.grid)
        self.v = nn.Parameter(self.soft.start.clone())
        quantizer = layer.input_quantizer
        self.quantizer = quantizer if isinstance(quantizer, ActivationQuantizer) else None
        self.stretch = nn.Parameter(torch.zeros_like(layer.scale[0, 0, 0]))

    @property
    def step(self) -> Tensor:
        return self.quantizer.scale * (1 + self.stretch).clamp(min=_SMALLEST_STEP)

    def forward(self, x: Tensor) -> Tensor:
        if self.quantizer is not None:
            low, high = integer_range(self.quantizer.bits, self.quantizer.symmetric)
            wide = x.to(self.step.dtype)
            zero = self.quantizer.zero_point.to(wide)
            coarse = straight_through_quantize(wide, self.step, zero, low, high).to(x.dtype)
            x = qdrop(x, coarse, self.plan.drop if self.training else 0.0, self.plan.generator)
        else:
            x = self.layer.input_quantizer(x)
        weight = self.layer.spec.weight(self.soft.weight(self.v)).to(x.dtype)
        return self.layer.spec.apply(x, weight, self.layer.bias)

    def harden(self) -> QuantizedLayer:
        layer, grid = self.layer, self.layer.grid
        soft = self.soft
        chosen = torch.addcmul(soft.floor, soft.span, (self.v.detach() >= 0).to(soft.floor))
        inputs = layer.input_quantizer
        if self.quantizer is not None:
            inputs = ActivationQuantizer(
                self.step.detach(),
                self.quantizer.zero_point,
                bits=self.quantizer.bits,
                symmetric=self.quantizer.symmetric,
            )
        return QuantizedLayer(
            layer.spec,
            grid.quantize(chosen),
            grid,
            bias=layer.bias,
            input_quantizer=inputs,
            dtype=layer.weight.dtype,
        ).eval()


def _learn(task: _Task, plan: _Plan) -> tuple[dict[nn.Module, nn.Module], float]:
    """Learn the rounding of one block; return its new layers by the old ones."""
    inside = dict(task.reference.named_modules())
    soft = {
        layer: _SoftLayer(layer, inside[name], plan) for name, layer in _layers(task.block).items()
    }
    # A shallow copy of every module of the block, so that the block itself stays as it is.
    learner = replace_modules(_shell(task.block), soft)
    n_weights = sum(s.v.numel() for s in soft.values())
    groups = [{"params": [s.v for s in soft.values()], "lr": plan.lr}]
    steps = [s.stretch for s in soft.values() if s.quantizer is not None]
    if steps and plan.lr_input > 0:
        groups.append({"params": steps, "lr": plan.lr_input})
    optimizer = torch.optim.Adam(groups)
    learned = [p for group in groups for p in group["params"]]
    for layer in soft.values():
        layer.eval()  # drops nothing
    unit, unit_prediction = _start(task, learner, plan)
    for layer in soft.values():
        layer.train()
    start = plan.warmup * plan.steps
    first, last = plan.beta
    order = torch.randint(
        len(task.batches),
        (plan.steps,),
        generator=plan.generator,
        device=plan.generator.device,
    ).tolist()
    for step, i in enumerate(order):
        call = task.coarse[i]
        with torch.enable_grad():
            x = qdrop(task.full[i], call.x, plan.drop, plan.generator)
            output = call.run(learner, x)
            loss = task.loss(i, output) / unit
            if plan.prediction:
                difference = task.difference(i, output, plan.temperature)
                loss = loss + plan.prediction * difference / unit_prediction
            if step >= start and plan.regularization:
                power = last + (first - last) * (1 - (step - start) / (plan.steps - start))
                ties = sum(
                    (1 - (2 * s.soft.share(s.v) - 1).abs().pow(power)).sum() for s in soft.values()
                )
                loss = loss + plan.regularization * ties / n_weights
            gradients = torch.autograd.grad(loss, learned, allow_unused=True)
        for parameter, gradient in zip(learned, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    undecided = free = 0
    for s in soft.values():
        share, may = s.soft.share(s.v.detach()), s.soft.span > 0
        undecided += int(((share > 0) & (share < 1) & may).sum())
        free += int(may.sum())
    return {layer: s.harden() for layer, s in soft.items()}, undecided / max(free, 1)


def _shell(module: nn.Module) -> nn.Module:
    """Copy the tree of modules, sharing every tensor; quantized layers stay the same objects."""
    keep = {id(t): t for t in (*module.parameters(), *module.buffers())}
    keep |= {id(layer): layer for layer in _layers(module).values()}
    return copy.deepcopy(module, keep)


@torch.no_grad()
def _start(task: _Task, learner: nn.Module, plan: _Plan) -> tuple[float, float]:
    """What the rounding of the block's weights costs before reconstruction: the loss's units."""
    square = difference = 0.0
    for i, call in enumerate(task.coarse):
        output = call.run(task.block, call.x)
        # The learner's weights are not rounded yet.
        gap = (output - call.run(learner, call.x)).square()
        square += float((gap * task.weights[i] if task.weights else gap).mean())
        if plan.prediction:
            difference += float(task.difference(i, output, plan.temperature))
    count = len(task.coarse)
    return square / count or 1.0, difference / count or 1.0
