"""Batch norm folded into the layer before it, and its statistics estimated anew.

References
----------
.. [1] I. Hubara, Y. Nahshan, Y. Hanani, R. Banner and D. Soudry, "Accurate Post Training
   Quantization With Small Calibration Sets", ICML 2021, arXiv:2006.10518.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from enough.models import ScaledLinear
from enough.quantization.modules import (
    LayerSpec,
    QuantizedLayer,
    is_quantizable,
    replace_modules,
)
from enough.quantization.passes import Batch, call_counts, layer_inputs, read_batches
from enough.runtime.validation import check_number

__all__ = ["FoldedNorm", "fold_batch_norm", "foldable_pairs", "re_estimate_batch_norm"]


@dataclass(frozen=True)
class FoldedNorm:
    """What a folded batch norm promised of the layer's output.

    Parameters
    ----------
    name : str
        Name of the batch norm in the model.
    mean : torch.Tensor, shape (channels,)
        Its shift β: the mean of its output on the data it was trained on.
    variance : torch.Tensor, shape (channels,)
        Its squared gain γ²: the variance of its output.
    eps : float
        What it added to variances.
    """

    name: str
    mean: Tensor
    variance: Tensor
    eps: float


def fold_batch_norm(
    model: nn.Module,
    example: Any = None,
    *,
    pairs: Iterable[tuple[str, str]] | None = None,
) -> nn.Module:
    r"""Merge batch norms into the layers that feed them.

    Parameters
    ----------
    model : torch.nn.Module
        The model; it stays as it is.
    example : array or batches, optional
        Inputs to run the model on, as calibration data; one batch is enough. With it the flow of
        data is observed, whatever the code of the model. Without, it is traced by ``torch.fx``.
    pairs : iterable of (str, str), optional
        Names of layers and their batch norms. Only these are folded, and nothing is traced.

    Returns
    -------
    torch.nn.Module
        A copy in evaluation mode, each folded batch norm replaced by ``torch.nn.Identity``. Its
        attribute ``folded_norms`` maps names of layers to `FoldedNorm`.

    Raises
    ------
    ValueError
        If a declared pair does not exist or does not fit.

    Notes
    -----
    With running mean μ and variance σ², gain γ and shift β, the layer's weight is multiplied by
    :math:`\gamma/\sqrt{\sigma^2 + \epsilon}` along its output channels, and its bias becomes
    :math:`(b - \mu)\,\gamma/\sqrt{\sigma^2 + \epsilon} + \beta`. Both are computed in float64.

    A batch norm is folded where its input is the output of one linear layer, convolution or
    transposed convolution, which nothing else reads, and where it has running statistics. Others
    stay, such as one that comes before its convolution.

    ``torch.fx`` cannot trace a model whose path depends on its inputs. Then each of its children
    is traced on its own, down to the parts that can be, so neighbors in a ``torch.nn.Sequential``
    are always found, but not a layer and a batch norm that meet in code that cannot be traced.
    Give an example or pairs for these.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> fold_batch_norm(model)[1]
    Identity()
    """
    model = copy.deepcopy(model).eval()
    if pairs is None:
        found = _find_pairs(model, example)
    else:
        found = [_declared(model, *pair) for pair in pairs]
    folded: dict[str, FoldedNorm] = dict(getattr(model, "folded_norms", {}))
    gone: dict[nn.Module, nn.Module] = {}
    for layer_name, norm_name in found:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        folded[layer_name] = _fold(layer, norm, norm_name)
        gone[norm] = nn.Identity()
    model = replace_modules(model, gone)
    model.folded_norms = folded
    return model


def foldable_pairs(model: nn.Module, example: Any = None) -> list[tuple[str, str]]:
    """Find the layers whose output goes into a batch norm and nowhere else.

    Parameters
    ----------
    model : torch.nn.Module
        The model; a copy of it is run, in evaluation mode.
    example : array or batches, optional
        Inputs to run it on; without, it is traced by ``torch.fx``.

    Returns
    -------
    list of (str, str)
        Names of layer and batch norm.

    Raises
    ------
    ValueError
        If ``example`` is not as `quantize_model` takes calibration data.
    """
    return _find_pairs(copy.deepcopy(model).eval(), example)


def _find_pairs(model: nn.Module, example: Any) -> list[tuple[str, str]]:
    """Find the pairs in a model in evaluation mode."""
    if example is None:
        pairs = _traced_pairs(model)
    else:
        pairs = _observed_pairs(model, read_batches(model, example, name="example")[0])
    found = []
    for layer_name, norm_name in pairs:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        if norm.num_features == LayerSpec.of(layer).out_channels:
            found.append((layer_name, norm_name))
    return found


def re_estimate_batch_norm(
    model: nn.Module,
    calibration_data: Any,
    *,
    reference: nn.Module | None = None,
    eps: float = 1e-5,
) -> nn.Module:
    r"""Give the outputs of quantized layers back the mean and variance they lost.

    Parameters
    ----------
    model : torch.nn.Module
        A quantized model whose batch norms were folded, from `quantize_model`; it stays as it
        is.
    calibration_data : array or batches
        As in `quantize_model`.
    reference : torch.nn.Module, optional
        The model before quantization, with its batch norms folded: the moments of its outputs on
        the same data are the target. Default: the shift β and squared gain γ² of each folded
        batch norm.
    eps : float, default 1e-5
        Channels whose variance is at most this share of the layer's mean variance have died:
        they are shifted, but not blown up.

    Returns
    -------
    torch.nn.Module
        A copy. Per output channel, the steps of the weight's grid and the bias have changed; the
        integers have not.

    Raises
    ------
    ValueError
        If no batch norm was folded, or the reference has other layers.

    Notes
    -----
    The para-normalization of [1]_: a batch norm is put back after each layer, its statistics are
    measured in the quantized network, and it is folded again. With measured mean μ' and variance
    σ'² and the targets μ and σ², :math:`r = \sigma/\sigma'` multiplies the channel's step, and
    the bias becomes :math:`r\,(b - \mu') + \mu`. Layers are visited in the order of execution,
    each on the outputs of those already repaired. A weight with one step in all has one a
    channel afterwards.

    References
    ----------
    .. [1] Hubara et al., ICML 2021, arXiv:2006.10518.
    """
    eps = check_number(eps, "eps", minimum=0.0)
    model = copy.deepcopy(model).eval()
    batches = read_batches(model, calibration_data)
    folded: Mapping[str, FoldedNorm] = getattr(model, "folded_norms", {})
    layers = {
        name: module
        for name, module in model.named_modules()
        if name in folded and isinstance(module, QuantizedLayer)
    }
    if not layers:
        raise ValueError("model: expected quantized layers with folded batch norms, got none")
    for name, calls in call_counts(model, layers, batches[0]).items():
        layer = layers[name]
        if reference is None:
            mean, variance = folded[name].mean, folded[name].variance
        else:
            try:
                target = reference.get_submodule(name)
                spec = LayerSpec.of(target)
            except (AttributeError, ValueError) as error:
                raise ValueError(f"reference: expected a layer {name!r}, got none") from error
            if spec.out_channels != layer.spec.out_channels:
                raise ValueError(
                    f"reference: expected {layer.spec.out_channels} channels in {name!r}, "
                    f"got {spec.out_channels}"
                )
            mean, variance = _output_moments(reference, target, batches, calls)
        _restore(layer, mean, variance, *_output_moments(model, layer, batches, calls), eps)
    return model


@torch.no_grad()
def _output_moments(
    model: nn.Module, layer: nn.Module, batches: list[Batch], calls: int
) -> tuple[Tensor, Tensor]:
    """Mean and variance (ddof 0) of each output channel over all batches, in float64."""
    spec = LayerSpec.of(layer)
    axis = -1 if spec.kind == "linear" else -len(spec.stride) - 1
    count, mean, scatter = 0, 0.0, 0.0
    for batch in batches:
        for x in layer_inputs(model, layer, batch, calls):
            y = layer(x).movedim(axis, 0).reshape(spec.out_channels, -1).double()
            n = y.shape[1]
            variance, center = torch.var_mean(y, 1, correction=0)
            shift = center - mean
            scatter = scatter + n * variance + shift**2 * (count * n / (count + n))
            mean = mean + shift * (n / (count + n))
            count += n
    return mean, scatter / count


@torch.no_grad()
def _restore(
    layer: QuantizedLayer,
    mean: Tensor,
    variance: Tensor,
    measured_mean: Tensor,
    measured_variance: Tensor,
    eps: float,
) -> None:
    """Stretch and shift each output channel of a quantized layer to the target moments."""
    device = layer.scale.device
    mean, variance, measured_mean, measured_variance = (
        t.to(device, torch.float64) for t in (mean, variance, measured_mean, measured_variance)
    )
    alive = (measured_variance > eps * measured_variance.mean()) & (variance > 0)
    ratio = torch.where(alive, (variance / measured_variance).sqrt(), 1.0)
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    bias = ratio * (bias - measured_mean) + mean
    per_row = ratio.view(layer.spec.groups, layer.spec.rows, 1)
    layer.scale = (layer.scale.double() * per_row).to(layer.scale.dtype)
    layer.zero_point = layer.zero_point.expand(layer.scale.shape).contiguous()
    layer.bias = nn.Parameter(bias.to(layer.matrix.dtype))


@torch.no_grad()
def _fold(layer: nn.Module, norm: _BatchNorm, name: str) -> FoldedNorm:
    """Merge a batch norm into a layer in place."""
    channels, device = norm.num_features, layer.weight.device

    def read(value: Tensor | None, default: float) -> Tensor:
        if value is None:
            return torch.full((channels,), default, dtype=torch.float64, device=device)
        return value.detach().to(device, torch.float64)

    gain, shift = read(norm.weight, 1.0), read(norm.bias, 0.0)
    factor = gain / (read(norm.running_var, 1.0) + norm.eps).sqrt()
    bias = (read(layer.bias, 0.0) - read(norm.running_mean, 0.0)) * factor + shift
    spec, dtype = LayerSpec.of(layer), layer.weight.dtype
    matrix = spec.matrix(layer.weight.double()) * factor.view(spec.groups, spec.rows, 1)
    trains = layer.weight.requires_grad
    layer.weight = nn.Parameter(spec.weight(matrix).to(dtype).contiguous(), trains)
    layer.bias = nn.Parameter(bias.to(dtype), trains)
    return FoldedNorm(name, shift, gain.square(), norm.eps)


def _is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm that applies fixed statistics."""
    known = isinstance(module, _BatchNorm) and type(module).forward in (
        _BatchNorm.forward,
        nn.SyncBatchNorm.forward,
    )
    return known and module.running_mean is not None


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer with a weight of its own that can be rescaled."""
    own = is_quantizable(module) and not isinstance(module, ScaledLinear)
    return own and "weight" in module._parameters


def _declared(model: nn.Module, layer: str, norm: str) -> tuple[str, str]:
    """Check one pair of names that the caller gave."""
    found = []
    for name, fits, kind in ((layer, _is_layer, "a layer"), (norm, _is_norm, "a batch norm")):
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"pairs: expected names of modules, got {name!r}") from error
        if not fits(module):
            wanted = "that can be folded into" if fits is _is_layer else "with running statistics"
            raise ValueError(
                f"pairs: expected {kind} {wanted} at {name!r}, got {type(module).__name__}"
            )
        found.append(module)
    channels = LayerSpec.of(found[0]).out_channels
    if found[1].num_features != channels:
        raise ValueError(
            f"pairs: expected {channels} channels in {norm!r} as {layer!r} gives, "
            f"got {found[1].num_features}"
        )
    return layer, norm


class _Readers(TorchFunctionMode):
    """Counts how often each watched tensor goes into an operation that computes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def watch(self, tensor: Tensor) -> None:
        """Count the uses of a tensor from now on; it is kept, so that its id stays its own."""
        self.watched[id(tensor)] = tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.count((args, kwargs))
        return result

    def count(self, value: Any) -> None:
        """Count one use of every watched tensor in a structure."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor) and id(leaf) in self.watched:
                self.counts[id(leaf)] = self.counts.get(id(leaf), 0) + 1


@torch.no_grad()
def _observed_pairs(model: nn.Module, batch: Batch) -> list[tuple[str, str]]:
    """Run the model and see which outputs go into a batch norm and nowhere else."""
    readers = _Readers()
    names = {module: name for name, module in model.named_modules()}
    made: dict[nn.Module, list[Tensor]] = {}
    read: dict[nn.Module, list[Tensor]] = {}
    handles = []

    def leave_layer(module: nn.Module, args: Any, output: Any) -> None:
        made.setdefault(module, []).append(output)
        readers.watch(output)

    def enter_norm(module: nn.Module, args: tuple[Any, ...]) -> None:
        read.setdefault(module, []).append(args[0])

    try:
        for module in names:
            if _is_layer(module):
                handles.append(module.register_forward_hook(leave_layer))
            elif _is_norm(module):
                handles.append(module.register_forward_pre_hook(enter_norm))
        with readers:
            result = batch.run(model)
        readers.count(result)
    finally:
        for handle in handles:
            handle.remove()
    pairs = []
    for norm, inputs in read.items():
        for layer, results in made.items():
            alone = len(inputs) == len(results) == 1 and inputs[0] is results[0]
            if alone and readers.counts.get(id(results[0])) == 1:
                # Batch norm counts dimension 1; a linear layer's channels come last.
                if isinstance(layer, nn.Linear) and results[0].ndim != 2:
                    continue
                pairs.append((names[layer], names[norm]))
    return pairs


class _Tracer(fx.Tracer):
    """Traces through containers; modules in ``closed`` count as one operation."""

    def __init__(self, closed: set[nn.Module]) -> None:
        super().__init__()
        self.closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.closed or super().is_leaf_module(m, module_qualified_name)


def _traced_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Trace the model, or the parts of it that can be traced."""
    if _is_layer(model) or _is_norm(model):
        return []
    pairs: list[tuple[str, str]] = []
    closed: set[nn.Module] = set()
    for name, child in model.named_children():
        inner = _traced_pairs(child)
        pairs += [(f"{name}.{layer}", f"{name}.{norm}") for layer, norm in inner]
        if not _can_trace(child):
            closed.add(child)
    try:
        graph = _Tracer(closed).trace(model)
    except Exception:  # tracing runs any code with stand-ins and may fail in any way
        return pairs
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    found = []
    for node in calls:
        source = node.args[0] if node.args else None
        if not (_is_norm(modules[node.target]) and isinstance(source, fx.Node)):
            continue
        if source.op != "call_module" or not _is_layer(modules[source.target]):
            continue
        once = targets.count(node.target) == targets.count(source.target) == 1
        if once and len(source.users) == 1:
            found.append((source.target, node.target))
    return found + [pair for pair in pairs if pair not in found]


def _can_trace(module: nn.Module) -> bool:
    try:
        fx.Tracer().trace(module)
    except Exception:  # as above
        return False
    return True
