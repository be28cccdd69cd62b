"""Layers as matrices, and layers whose weights and inputs live on a grid.

A linear layer, a convolution and a transposed convolution are one thing to a quantizer: for each
group of channels, a matrix that multiplies rows cut out of the input. `layer_matrix` and
`layer_rows` give the two factors; `QuantizedLayer` computes with the rounded matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.models import ScaledLinear
from enough.quantization.grid import integer_range, wide_dtype
from enough.quantization.ranges import choose_qparams
from enough.quantization.uniform import straight_through_quantize
from enough.quantization.weight_grid import WeightGrid, expand_columns
from enough.runtime.validation import as_tensors, check_tensor

__all__ = [
    "ActivationQuantizer",
    "LayerSpec",
    "QuantizedLayer",
    "is_quantizable",
    "layer_bias",
    "layer_matrix",
    "layer_rows",
    "matrix_to_weight",
    "replace_modules",
]

_CONVOLUTIONS = {
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}
_KINDS = {nn.Linear: "linear", ScaledLinear: "linear", **_CONVOLUTIONS}
# Ranges searched by error or by counting look at a fixed sample of at most this many inputs.
_MOST_VALUES = 1 << 17


def _base(module: nn.Module) -> type[nn.Module] | None:
    """Find the layer type whose forward pass the module runs."""
    for base in _KINDS:
        if isinstance(module, base) and type(module).forward is base.forward:
            return base
    return None


def is_quantizable(module: nn.Module) -> bool:
    """Tell whether a module is a linear map that this package can quantize.

    Parameters
    ----------
    module : torch.nn.Module
        Any module.

    Returns
    -------
    bool
        True for ``torch.nn.Linear``, `enough.models.ScaledLinear`, convolutions and transposed
        convolutions in one to three dimensions, and for subclasses that keep their forward
        pass.
    """
    return _base(module) is not None


@dataclass(frozen=True)
class LayerSpec:
    """The geometry of a linear map: all of a layer but its numbers.

    Parameters
    ----------
    kind : str
        ``"linear"``, ``"conv1d"`` … ``"conv3d"`` or ``"conv_transpose1d"`` …
        ``"conv_transpose3d"``.
    weight_shape : tuple of int
        Shape of the layer's own weight.
    groups : int, default 1
        G, groups of channels that do not mix.
    stride : tuple of int
        Of a convolution.
    padding : tuple of int or str
        Of a convolution, as torch takes it.
    dilation : tuple of int
        Of a convolution.
    output_padding : tuple of int
        Of a transposed convolution.
    padding_mode : str, default "zeros"
        Of a convolution.
    edges : tuple of int
        Entries to pad at each side, last dimension first, as ``torch.nn.functional.pad`` takes
        them.

    Attributes
    ----------
    rows : int
        Outputs of each group.
    columns : int
        Inputs of each group: channels times the size of the kernel.
    out_channels : int
        ``groups * rows``.
    channel_axis : int
        Dimension of the weight that holds the output channels (of one group, for a transposed
        convolution).
    """

    kind: str
    weight_shape: tuple[int, ...]
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    edges: tuple[int, ...] = ()

    @classmethod
    def of(cls, module: nn.Module) -> LayerSpec:
        """Read the geometry of a layer.

        Parameters
        ----------
        module : torch.nn.Module
            A layer for which `is_quantizable` is true, or a `QuantizedLayer`.

        Returns
        -------
        LayerSpec
            Its geometry.

        Raises
        ------
        ValueError
            If the module is of another kind or has no weight yet.
        """
        if isinstance(module, QuantizedLayer):
            return module.spec
        base = _base(module)
        if base is None:
            raise ValueError(
                "module: expected a linear layer or a convolution with the forward pass of "
                f"torch.nn, got {type(module).__name__}"
            )
        if isinstance(module.weight, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"module: expected weights, got a lazy {type(module).__name__} that never ran"
            )
        shape = tuple(module.weight.shape)
        if base not in _CONVOLUTIONS:
            return cls("linear", shape)
        kind = _CONVOLUTIONS[base]
        if "transpose" in kind:
            edges = [
                (d * (k - 1) - p, d * (k - 1) - p + extra)
                for k, d, p, extra in zip(
                    module.kernel_size,
                    module.dilation,
                    module.padding,
                    module.output_padding,
                    strict=True,
                )
            ]
        elif isinstance(module.padding, str):
            totals = [
                d * (k - 1) if module.padding == "same" else 0
                for k, d in zip(module.kernel_size, module.dilation, strict=True)
            ]
            edges = [(total // 2, total - total // 2) for total in totals]
        else:
            edges = [(p, p) for p in module.padding]
        return cls(
            kind,
            shape,
            module.groups,
            tuple(module.stride),
            module.padding if isinstance(module.padding, str) else tuple(module.padding),
            tuple(module.dilation),
            tuple(module.output_padding),
            module.padding_mode,
            tuple(n for pair in reversed(edges) for n in pair),
        )

    @property
    def transposed(self) -> bool:
        """Whether the layer is a transposed convolution."""
        return "transpose" in self.kind

    @property
    def rows(self) -> int:
        """Outputs of each group."""
        return self.weight_shape[1] if self.transposed else self.weight_shape[0] // self.groups

    @property
    def columns(self) -> int:
        """Inputs of each group."""
        return math.prod(self.weight_shape) // (self.groups * self.rows)

    @property
    def out_channels(self) -> int:
        """Outputs of all groups."""
        return self.groups * self.rows

    @property
    def channel_axis(self) -> int:
        """Dimension of the weight that holds the output channels."""
        return 1 if self.transposed else 0

    def matrix(self, weight: Tensor) -> Tensor:
        """Arrange a weight as one matrix a group.

        Parameters
        ----------
        weight : torch.Tensor, shape ``weight_shape``
            The layer's weight.

        Returns
        -------
        torch.Tensor, shape (G, rows, columns)
            Columns run over input channels, then over the kernel.
        """
        if self.transposed:
            weight = weight.unflatten(0, (self.groups, -1)).transpose(1, 2)
        return weight.reshape(self.groups, self.rows, self.columns)

    def weight(self, matrix: Tensor) -> Tensor:
        """Undo `matrix`.

        Parameters
        ----------
        matrix : torch.Tensor, shape (G, rows, columns)
            One matrix a group.

        Returns
        -------
        torch.Tensor, shape ``weight_shape``
            The layer's weight.
        """
        if not self.transposed:
            return matrix.reshape(self.weight_shape)
        kernel = self.weight_shape[2:]
        inner = matrix.reshape(self.groups, self.rows, -1, *kernel)
        return inner.transpose(1, 2).reshape(self.weight_shape)

    def input_rows(self, x: Tensor) -> Tensor:
        """Cut the rows that the matrix multiplies out of an input.

        Parameters
        ----------
        x : torch.Tensor
            (..., in_features) for a linear layer, (B, channels, *space) or (channels, *space)
            for a convolution.

        Returns
        -------
        torch.Tensor, shape (G, n, columns)
            One row for each output position, samples first, positions in order.
        """
        if self.kind == "linear":
            return x.reshape(1, -1, self.columns)
        n_dims = len(self.stride)
        if x.ndim == n_dims + 1:
            x = x.unsqueeze(0)
        stride = self.stride
        if self.transposed:
            # A transposed convolution is a convolution, kernel mirrored, of the input with
            # stride - 1 zeros between its entries.
            size = [(length - 1) * s + 1 for length, s in zip(x.shape[2:], stride, strict=True)]
            spread = x.new_zeros(*x.shape[:2], *size)
            spread[(..., *(slice(None, None, s) for s in stride))] = x
            x, stride = spread, (1,) * n_dims
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self.edges, mode=mode)
        for i, (k, d) in enumerate(zip(self.weight_shape[2:], self.dilation, strict=True)):
            x = x.unfold(2 + i, d * (k - 1) + 1, stride[i])[..., ::d]
        if self.transposed:
            x = x.flip(tuple(range(-n_dims, 0)))
        batch, channels, n_space = x.shape[0], x.shape[1], 2 + n_dims
        x = x.reshape(batch, self.groups, channels // self.groups, *x.shape[2:])
        space = range(3, n_space + 1)
        kernel = range(n_space + 1, x.ndim)
        x = x.permute(1, 0, *space, 2, *kernel)
        return x.reshape(self.groups, -1, self.columns)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output.

        Parameters
        ----------
        x : torch.Tensor
            The input.
        weight : torch.Tensor, shape ``weight_shape``
            The weight.
        bias : torch.Tensor, shape (out_channels,), or None
            The bias.

        Returns
        -------
        torch.Tensor
            The output, as the module of this kind gives it.
        """
        if self.kind == "linear":
            return F.linear(x, weight, bias)
        function = getattr(F, self.kind)
        if self.transposed:
            options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
            return function(x, weight, bias, *options)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.edges, mode=self.padding_mode), 0
        return function(x, weight, bias, self.stride, padding, self.dilation, self.groups)


def layer_matrix(module: nn.Module) -> Tensor:
    """Write a layer's weight as one matrix for each group of channels.

    Parameters
    ----------
    module : torch.nn.Module
        A linear layer, convolution or transposed convolution, or a `QuantizedLayer`.

    Returns
    -------
    torch.Tensor, shape (G, rows, columns)
        Output channel g · rows + r is row r of group g. Columns run over the input channels of
        the group, then over the kernel. Gradients flow to the weight.

    Raises
    ------
    ValueError
        If the module is of another kind.

    Examples
    --------
    >>> import torch
    >>> layer_matrix(torch.nn.Conv2d(8, 6, 3, groups=2)).shape
    torch.Size([2, 3, 36])
    """
    spec = LayerSpec.of(module)
    if isinstance(module, ScaledLinear):
        return spec.matrix(module.weight * module.weight_multiplier)
    return spec.matrix(module.weight)


def layer_bias(module: nn.Module) -> Tensor | None:
    """Return a layer's bias as it acts.

    Parameters
    ----------
    module : torch.nn.Module
        A linear layer, convolution or transposed convolution, or a `QuantizedLayer`.

    Returns
    -------
    torch.Tensor, shape (out_channels,), or None
        The bias, times its multiplier for a `enough.models.ScaledLinear`. Gradients flow.
    """
    if isinstance(module, ScaledLinear) and module.bias is not None:
        return module.bias * module.bias_multiplier
    return module.bias


def matrix_to_weight(module: nn.Module, matrix: Tensor) -> Tensor:
    """Give a matrix the shape of the layer's weight, the inverse of `layer_matrix`.

    Parameters
    ----------
    module : torch.nn.Module
        The layer.
    matrix : torch.Tensor, shape (G, rows, columns)
        One matrix a group.

    Returns
    -------
    torch.Tensor
        Shape of ``module.weight``.

    Raises
    ------
    ValueError
        If the module is of another kind or the shape does not fit.
    """
    spec = LayerSpec.of(module)
    check_tensor(matrix, "matrix", shape=(spec.groups, spec.rows, spec.columns), finite=False)
    return spec.weight(matrix)


def layer_rows(module: nn.Module, x: Tensor) -> Tensor:
    """Cut an input into the rows that the layer's matrix multiplies.

    The layer's output is ``rows @ matrix.mT``, plus the bias, with the channels last.

    Parameters
    ----------
    module : torch.nn.Module
        A linear layer, convolution or transposed convolution, or a `QuantizedLayer`.
    x : torch.Tensor
        (..., in_features) for a linear layer, (B, channels, *space) for a convolution.

    Returns
    -------
    torch.Tensor, shape (G, n, columns)
        One row for each output position: samples first, then positions in order.

    Raises
    ------
    ValueError
        If the module is of another kind, or the number of channels does not fit.

    Examples
    --------
    >>> import torch
    >>> conv = torch.nn.Conv2d(8, 6, 3, groups=2)
    >>> layer_rows(conv, torch.zeros(5, 8, 4, 4)).shape
    torch.Size([2, 20, 36])
    """
    spec = LayerSpec.of(module)
    linear = spec.kind == "linear"
    expected = spec.weight_shape[0 if spec.transposed else 1]
    expected *= 1 if spec.transposed else spec.groups
    n_dims = len(spec.stride)
    right_ndim = x.ndim >= 1 if linear else x.ndim in (n_dims + 1, n_dims + 2)
    if not right_ndim or x.shape[-1 if linear else -n_dims - 1] != expected:
        wanted = f"(..., {expected})" if linear else f"(batch, {expected}, {n_dims} of space)"
        raise ValueError(f"x: expected shape {wanted}, got {tuple(x.shape)}")
    return spec.input_rows(x)


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the place of others, under every name they have.

    Parameters
    ----------
    model : torch.nn.Module
        The model, changed in place.
    replacements : mapping from torch.nn.Module to torch.nn.Module
        New modules by old ones.

    Returns
    -------
    torch.nn.Module
        The model, or what replaces it when it is one of the old modules itself.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)


class ActivationQuantizer(nn.Module):
    """A fixed uniform grid for what flows into a layer, one for the whole tensor.

    Parameters
    ----------
    scale : torch.Tensor or float
        Step, above 0.
    zero_point : torch.Tensor or int
        The integer that stands for zero.
    bits : int
        Width, 2 to 8.
    symmetric : bool, default False
        Which integers the grid holds, as in `quantize`.

    Attributes
    ----------
    scale, zero_point : torch.Tensor, shape ()
        Buffers, saved with the model.

    Raises
    ------
    ValueError
        If the step is not positive and finite, the zero point is outside the grid, or ``bits``
        is not 2 to 8.
    """

    def __init__(self, scale: Any, zero_point: Any, *, bits: int, symmetric: bool = False) -> None:
        super().__init__()
        self._low, self._high = integer_range(bits, symmetric)
        self.bits, self.symmetric = bits, symmetric
        (step, zero), _ = as_tensors(scale=scale, zero_point=zero_point)
        given = isinstance(scale, Tensor) and scale.is_floating_point()
        dtype = wide_dtype(scale.dtype) if given else torch.get_default_dtype()
        self.register_buffer("scale", step.detach().to(dtype).clone())
        self.register_buffer("zero_point", zero.detach().to(self.scale).clone())
        check_tensor(self.scale, "scale", shape=())
        check_tensor(self.zero_point, "zero_point", shape=(), minimum=self._low, maximum=self._high)
        if not self.scale > 0:
            raise ValueError(f"scale: expected a number > 0, got {float(self.scale)}")

    @classmethod
    def from_values(
        cls,
        values: Tensor | Sequence[Tensor],
        *,
        bits: int,
        symmetric: bool = False,
        method: str = "minmax",
        **options: Any,
    ) -> ActivationQuantizer:
        """Choose the grid from calibration inputs.

        Parameters
        ----------
        values : torch.Tensor or sequence of torch.Tensor
            Inputs of the layer, of any shapes.
        bits : int
            Width, 2 to 8.
        symmetric : bool, default False
            Which integers the grid holds.
        method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
            How `choose_qparams` chooses the range. All but ``"minmax"`` look at a fixed random
            sample of 131,072 values where there are more.
        **options
            Passed to `choose_qparams`.

        Returns
        -------
        ActivationQuantizer
            On the device of the values.

        Raises
        ------
        ValueError
            If there are no values, or they are not finite, or an option is not as described.
        """
        parts = [values] if isinstance(values, Tensor) else list(values)
        if method == "minmax":
            parts = [torch.stack(torch.aminmax(part)) for part in parts if part.numel()]
        flat = torch.cat([part.detach().reshape(-1) for part in parts]) if parts else None
        if flat is None or not flat.numel():
            raise ValueError("values: expected at least one value, got none")
        if flat.numel() > _MOST_VALUES:
            draw = torch.Generator().manual_seed(0)
            sample = torch.randint(flat.numel(), (_MOST_VALUES,), generator=draw)
            flat = flat[sample.to(flat.device)]
        scale, zero_point = choose_qparams(
            flat, bits=bits, symmetric=symmetric, method=method, **options
        )
        return cls(scale, zero_point, bits=bits, symmetric=symmetric)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest number on the grid."""
        low, high = ((end - self.zero_point) * self.scale for end in (self._low, self._high))
        return float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        """Round to the grid and come back, with the gradient of `fake_quantize`.

        Parameters
        ----------
        x : torch.Tensor
            Any shape.

        Returns
        -------
        torch.Tensor
            Shape and dtype of ``x``.
        """
        dtype = wide_dtype(x.dtype)
        scale, zero_point = self.scale.to(dtype), self.zero_point.to(dtype)
        rounded = straight_through_quantize(x.to(dtype), scale, zero_point, self._low, self._high)
        return rounded.to(x.dtype)

    def extra_repr(self) -> str:
        """Describe the grid in ``repr``.

        Returns
        -------
        str
            Bits and range.
        """
        low, high = self.range
        return f"bits={self.bits}, symmetric={self.symmetric}, range=({low:.4g}, {high:.4g})"


class QuantizedLayer(nn.Module):
    """A linear map whose weight is held as integers on a grid.

    The forward pass computes with the dequantized weight in floating point: it tells what a
    quantized network answers, not how fast. `Int4Linear` and `Int8Linear` store and compute
    with packed integers.

    Parameters
    ----------
    spec : LayerSpec
        Geometry of the layer.
    integers : torch.Tensor, shape (G, rows, columns)
        Integers of the grid.
    grid : WeightGrid
        What the integers stand for.
    bias : torch.Tensor, shape (out_channels,), optional
        The bias, which stays in floating point.
    input_quantizer : torch.nn.Module, optional
        Applied to the input. Default: ``torch.nn.Identity``.
    dtype : torch.dtype, default torch.float32
        Type of the dequantized weight and of the bias.

    Attributes
    ----------
    integers, scale, zero_point : torch.Tensor
        Buffers: integers and zero points as int8 (symmetric) or uint8, steps in ``dtype``, but
        at least float32.
    bias : torch.nn.Parameter or None
        The bias.
    input_quantizer : torch.nn.Module
        As given.
    spec : LayerSpec
        As given.
    bits, symmetric, group_size
        Of the grid.

    Raises
    ------
    ValueError
        If a shape does not fit or an integer is outside the grid.
    """

    def __init__(
        self,
        spec: LayerSpec,
        integers: Tensor,
        grid: WeightGrid,
        *,
        bias: Tensor | None = None,
        input_quantizer: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        shape = (spec.groups, spec.rows, spec.columns)
        check_tensor(integers, "integers", shape=shape, minimum=grid.low, maximum=grid.high)
        grid.check(integers)
        self.spec, self.bits, self.symmetric = spec, grid.bits, grid.symmetric
        self.group_size = grid.group_size
        storage = torch.int8 if grid.symmetric else torch.uint8
        self.register_buffer("integers", integers.detach().to(storage))
        self.register_buffer("scale", grid.scale.detach().to(wide_dtype(dtype)).clone())
        self.register_buffer("zero_point", grid.zero_point.detach().to(storage))
        if bias is not None:
            check_tensor(bias, "bias", shape=(spec.out_channels,))
            bias = nn.Parameter(bias.detach().to(dtype).clone())
        self.register_parameter("bias", bias)
        self.input_quantizer = nn.Identity() if input_quantizer is None else input_quantizer
        # Holds the type of the weight and follows .to(), .half() and .double().
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)

    @classmethod
    def from_float(
        cls,
        module: nn.Module,
        *,
        bits: int,
        symmetric: bool = False,
        group_size: int | None = None,
        per_tensor: bool = False,
        method: str = "minmax",
        input_quantizer: nn.Module | None = None,
    ) -> QuantizedLayer:
        """Round a layer's weight to the nearest integers.

        Parameters
        ----------
        module : torch.nn.Module
            A linear layer, convolution or transposed convolution.
        bits : int
            Width, 2 to 8.
        symmetric : bool, default False
            Which integers the grid holds.
        group_size : int, optional
            Columns that share a step. Default: one step an output channel.
        per_tensor : bool, default False
            One step for the whole weight.
        method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
            How the range of the weight is chosen.
        input_quantizer : torch.nn.Module, optional
            Applied to the input.

        Returns
        -------
        QuantizedLayer
            The layer; ``module`` stays as it is.

        Raises
        ------
        ValueError
            If the module is of another kind or an option is not as described.
        """
        matrix = layer_matrix(module).detach()
        grid = WeightGrid.fit(
            matrix,
            bits=bits,
            symmetric=symmetric,
            group_size=group_size,
            per_tensor=per_tensor,
            method=method,
        )
        return cls(
            LayerSpec.of(module),
            grid.quantize(matrix),
            grid,
            bias=layer_bias(module),
            input_quantizer=input_quantizer,
            dtype=matrix.dtype,
        )

    @property
    def matrix(self) -> Tensor:
        """The dequantized weight as matrices, shape (G, rows, columns)."""
        dtype, columns = wide_dtype(self.scale.dtype), self.spec.columns
        scale = expand_columns(self.scale.to(dtype), self.group_size, columns)
        zero = expand_columns(self.zero_point.to(dtype), self.group_size, columns)
        return ((self.integers.to(dtype) - zero) * scale).to(self._like.dtype)

    @property
    def weight(self) -> Tensor:
        """The dequantized weight in the shape of the original layer's."""
        return self.spec.weight(self.matrix)

    @property
    def grid(self) -> WeightGrid:
        """The grid of the weight."""
        return WeightGrid(self.scale, self.zero_point, self.bits, self.symmetric, self.group_size)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest number that any row's grid holds."""
        low, high = integer_range(self.bits, self.symmetric)
        zero = self.zero_point.to(self.scale.dtype)
        return float(((low - zero) * self.scale).min()), float(((high - zero) * self.scale).max())

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Parameters
        ----------
        input : torch.Tensor
            Input of the original layer.

        Returns
        -------
        torch.Tensor
            Output of the original layer, quantized.
        """
        return self.spec.apply(self.input_quantizer(input), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``.

        Returns
        -------
        str
            Kind, shape and grid.
        """
        text = f"{self.spec.kind}, weight={self.spec.weight_shape}, bits={self.bits}"
        text += f", symmetric={self.symmetric}"
        return text if self.group_size is None else f"{text}, group_size={self.group_size}"
