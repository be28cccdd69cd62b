"""Linear layers whose weights live in memory as packed integers.

A layer's ``state_dict`` holds the packed tensors alone, so it loads with
``torch.load(weights_only=True)`` into a layer of the same shape. Inputs may need a gradient:
the backward pass multiplies by the dequantized weight.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from enough.kernels import int4_matmul, int8_matmul, join_nibbles, split_nibbles
from enough.quantization.grid import expand_qparams, integer_range
from enough.quantization.ranges import choose_qparams
from enough.quantization.uniform import quantize
from enough.runtime.validation import check_choice, check_integer, check_tensor

__all__ = ["Int4Linear", "Int8Linear", "PackedLinear", "pack_linears", "replace_linears"]

# torch's bfloat16 kernel for the CPU knows these groups, and multiples of 16 outputs. Above this
# many rows, dequantizing once and multiplying is faster.
_CPU_GROUPS = (32, 64, 128, 256)
_CPU_ROWS = 128


class PackedLinear(nn.Module):
    """A linear layer that keeps its weight in another form.

    Parameters
    ----------
    in_features, out_features : int
        Shape of the layer.
    bias : bool, default True
        Whether it adds a bias.
    dtype : torch.dtype, optional
        Dtype of the bias; torch's default if absent.

    Notes
    -----
    Subclasses define ``weight``, the dequantized matrix of shape (out_features, in_features),
    and may define ``product``, a faster way to x Wᵀ.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_integer(in_features, "in_features", minimum=1)
        self.out_features = check_integer(out_features, "out_features", minimum=1)
        if bias:
            self.bias = nn.Parameter(torch.zeros(self.out_features, dtype=dtype))
        else:
            self.register_parameter("bias", None)

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weight, (out_features, in_features)."""
        raise NotImplementedError(f"{type(self).__name__} defines no weight")

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ for rows (rows, in_features), in the dtype of x.

        Parameters
        ----------
        x : torch.Tensor
            Shape (rows, in_features).

        Returns
        -------
        torch.Tensor
            Shape (rows, out_features).
        """
        return x @ self.weight.to(x.dtype).t()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ + bias.

        Parameters
        ----------
        x : torch.Tensor
            Shape (..., in_features), floating-point.

        Returns
        -------
        torch.Tensor
            Shape (..., out_features), dtype of x.

        Raises
        ------
        ValueError
            If the last axis of x is not ``in_features``, or x is not floating-point.
        """
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x: expected a last axis of {self.in_features}, got shape {tuple(x.shape)}"
            )
        check_tensor(x, "x", floating=True, finite=False, nonempty=False)
        rows = x.reshape(-1, self.in_features)
        y = _Product.apply(rows, self).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Describe the shape.

        Returns
        -------
        str
            For ``repr``.
        """
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )

    def _set_bias(self, bias: torch.Tensor | None) -> None:
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)


class _Product(torch.autograd.Function):
    """x Wᵀ through a layer's kernel; backward dequantizes again instead of saving the weight."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


class Int8Linear(PackedLinear):
    """A linear layer with eight-bit weights, one scale an output row.

    Parameters
    ----------
    in_features, out_features : int
        Shape of the layer.
    bias : bool, default True
        Whether it adds a bias.
    dynamic : bool, default True
        Round each row of the input to eight bits as well, so that the product runs on
        integers. If false, only the weights are rounded.
    dtype : torch.dtype, optional
        Dtype of the bias.

    Attributes
    ----------
    codes : torch.Tensor
        Integers, (out_features, in_features), int8.
    scale : torch.Tensor
        Steps, (out_features,), float32.

    Notes
    -----
    With ``dynamic``, a row of the input that holds NaN or infinity gives a row without finite
    entries, since its step is not finite.

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import Int8Linear
    >>> layer = Int8Linear.from_float(torch.nn.Linear(16, 4))
    >>> layer(torch.ones(2, 16)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dynamic: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.dynamic = bool(dynamic)
        self.register_buffer("codes", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))

    @classmethod
    def from_float(
        cls, linear: nn.Linear, *, dynamic: bool = True, method: str = "minmax"
    ) -> Int8Linear:
        """Quantize a linear layer.

        Parameters
        ----------
        linear : torch.nn.Linear
            The layer; it is not changed.
        dynamic : bool, default True
            Round the input as well.
        method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
            How to choose the range of a row, as in `choose_qparams`.

        Returns
        -------
        Int8Linear
            On the same device.

        Raises
        ------
        ValueError
            If ``linear`` is no linear layer or its weight holds NaN or infinity.
        """
        weight = _linear_weight(linear)
        scale, zero = choose_qparams(weight, bits=8, symmetric=True, axis=0, method=method)
        scale = scale.float().clamp(min=torch.finfo(torch.float32).tiny)
        codes = quantize(weight, scale, zero, bits=8, symmetric=True, axis=0)
        return cls.from_integers(codes, scale, bias=linear.bias, dynamic=dynamic)

    @classmethod
    def from_integers(
        cls,
        codes: torch.Tensor,
        scale: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        dynamic: bool = True,
    ) -> Int8Linear:
        """Build the layer from integers that a post-training method chose.

        Parameters
        ----------
        codes : torch.Tensor
            Shape (out_features, in_features), integers of −127 … 127.
        scale : torch.Tensor
            Shape (out_features,), steps, above 0.
        bias : torch.Tensor, optional
            Shape (out_features,).
        dynamic : bool, default True
            Round the input as well.

        Returns
        -------
        Int8Linear
            On the device of ``codes``.

        Raises
        ------
        ValueError
            If shapes do not fit or entries are out of range.
        """
        check_tensor(codes, "codes", ndim=2, minimum=-127, maximum=127)
        check_tensor(scale, "scale", shape=(len(codes),), floating=True, minimum=0.0)
        layer = cls(
            codes.shape[1], codes.shape[0], bias is not None, dynamic, dtype=_dtype_of(bias)
        ).to(codes.device)
        layer.codes = codes.detach().to(torch.int8).contiguous()
        layer.scale = scale.detach().float().contiguous()
        layer._set_bias(bias)
        return layer

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weight, (out_features, in_features), in the dtype of ``scale``."""
        return self.codes.to(self.scale.dtype) * self.scale[:, None]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ, through integers if ``dynamic``.

        Parameters
        ----------
        x : torch.Tensor
            Shape (rows, in_features).

        Returns
        -------
        torch.Tensor
            Shape (rows, out_features), dtype of x.
        """
        if not self.dynamic:
            on_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
            if on_cpu and len(x) and hasattr(torch, "_weight_int8pack_mm"):
                return torch._weight_int8pack_mm(x.contiguous(), self.codes, self.scale.to(x.dtype))
            return (x @ self.codes.to(x.dtype).t()) * self.scale.to(x.dtype)
        wide = x.float()
        absmax = wide.abs().amax(1) if x.shape[0] else wide.new_zeros(0)
        step = (absmax / 127.0).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = torch.round(wide / step[:, None]).clamp_(-127, 127).to(torch.int8)
        return int8_matmul(rounded, self.codes, step, self.scale.float()).to(x.dtype)

    def extra_repr(self) -> str:
        """Describe shape and mode.

        Returns
        -------
        str
            For ``repr``.
        """
        return f"{super().extra_repr()}, dynamic={self.dynamic}"


class Int4Linear(PackedLinear):
    """A linear layer with four-bit weights, one scale a group of inputs.

    Parameters
    ----------
    in_features, out_features : int
        Shape of the layer; any number of inputs.
    bias : bool, default True
        Whether it adds a bias.
    group_size : int, default 64
        Consecutive inputs of a row that share a scale; the last group may be shorter.
    symmetric : bool, default False
        Without zero points: integers −7 … 7 instead of 0 … 15.
    scale_dtype : torch.dtype, default torch.bfloat16
        How scales are stored. The codes are chosen for the stored scales, so the short
        significand costs nothing, and its exponent does not underflow where float16 would.
    dtype : torch.dtype, optional
        Dtype of the bias.

    Attributes
    ----------
    packed : torch.Tensor
        Two codes in a byte, (out_features, ceil(in_features/2)), uint8.
    scale : torch.Tensor
        Steps, (out_features, groups).
    zero_points : torch.Tensor or None
        Packed zero points, (out_features, ceil(groups/2)), uint8; None if ``symmetric``, where
        codes are shifted by 8.

    Notes
    -----
    bfloat16 inputs on the CPU go through torch's own four-bit kernel where the shape allows
    (groups of 32, 64, 128 or 256 that divide the inputs, outputs a multiple of 16, few rows);
    it keeps a second packed copy outside the state dict. Inputs on an NVIDIA GPU go through
    `enough.kernels.int4_matmul`. Other inputs multiply by the dequantized weight.

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import Int4Linear, state_dict_bytes
    >>> layer = Int4Linear.from_float(torch.nn.Linear(128, 32, bias=False), group_size=64)
    >>> state_dict_bytes(layer)  # 32 rows of 64 + 4 + 1 bytes
    2208
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        group_size: int = 64,
        symmetric: bool = False,
        scale_dtype: torch.dtype = torch.bfloat16,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.group_size = check_integer(group_size, "group_size", minimum=1)
        integer_range(4, symmetric)
        self.symmetric = symmetric
        groups = -(-self.in_features // self.group_size)
        shape = (self.out_features, -(-self.in_features // 2))
        self.register_buffer("packed", torch.full(shape, 0x88, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(self.out_features, groups, dtype=scale_dtype))
        zero_points = torch.full((self.out_features, -(-groups // 2)), 0x88, dtype=torch.uint8)
        self.register_buffer("zero_points", None if symmetric else zero_points)
        self._cpu_copy: tuple[Any, ...] | None = None

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        group_size: int = 64,
        *,
        symmetric: bool = False,
        method: str = "minmax",
        scale_dtype: torch.dtype = torch.bfloat16,
    ) -> Int4Linear:
        """Quantize a linear layer to the nearest codes.

        Parameters
        ----------
        linear : torch.nn.Linear
            The layer; it is not changed.
        group_size : int, default 64
            Consecutive inputs that share a scale.
        symmetric : bool, default False
            Without zero points.
        method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
            How to choose the range of a group, as in `choose_qparams`.
        scale_dtype : torch.dtype, default torch.bfloat16
            How scales are stored.

        Returns
        -------
        Int4Linear
            On the same device.

        Raises
        ------
        ValueError
            If ``linear`` is no linear layer, its weight holds NaN or infinity, or
            ``group_size`` is below 1.
        """
        weight = _linear_weight(linear)
        grid = {"bits": 4, "symmetric": symmetric, "axis": 0, "group_size": group_size}
        scale, zero = choose_qparams(weight, method=method, **grid)
        info = torch.finfo(scale_dtype)
        scale = scale.clamp(info.tiny, info.max).to(scale_dtype)
        codes = quantize(weight, scale, zero, **grid)
        return cls.from_integers(
            codes, scale, zero, group_size=group_size, symmetric=symmetric, bias=linear.bias
        )

    @classmethod
    def from_integers(
        cls,
        codes: torch.Tensor,
        scale: torch.Tensor,
        zero_point: torch.Tensor | None = None,
        *,
        group_size: int,
        symmetric: bool,
        bias: torch.Tensor | None = None,
    ) -> Int4Linear:
        """Build the layer from integers that a post-training method chose.

        Parameters
        ----------
        codes : torch.Tensor
            Shape (out_features, in_features), integers of −8 … 7 if ``symmetric`` and of
            0 … 15 otherwise.
        scale : torch.Tensor
            Shape (out_features, groups), steps, above 0; stored in its dtype.
        zero_point : torch.Tensor, optional
            Shape of ``scale``, whole numbers of 0 … 15; needed unless ``symmetric``.
        group_size : int
            Consecutive inputs that share a scale.
        symmetric : bool
            Whether the zero point is 0.
        bias : torch.Tensor, optional
            Shape (out_features,).

        Returns
        -------
        Int4Linear
            On the device of ``codes``.

        Raises
        ------
        ValueError
            If shapes do not fit or entries are out of range.
        """
        low, high = (-8, 7) if symmetric else (0, 15)
        check_tensor(codes, "codes", ndim=2, minimum=low, maximum=high)
        out_features, in_features = codes.shape
        group_size = check_integer(group_size, "group_size", minimum=1)
        groups = -(-in_features // group_size)
        check_tensor(scale, "scale", shape=(out_features, groups), floating=True, minimum=0.0)
        layer = cls(
            in_features,
            out_features,
            bias is not None,
            group_size,
            symmetric,
            scale.dtype,
            _dtype_of(bias),
        ).to(codes.device)
        layer.packed = join_nibbles(codes.detach().to(torch.int64) - low)
        layer.scale = scale.detach().contiguous()
        if not symmetric:
            if zero_point is None:
                raise ValueError("zero_point: expected one for each group, got None")
            check_tensor(
                zero_point, "zero_point", shape=(out_features, groups), minimum=0, maximum=15
            )
            layer.zero_points = join_nibbles(zero_point.detach().to(torch.int64))
        layer._set_bias(bias)
        return layer

    @property
    def zero_point(self) -> torch.Tensor:
        """The zero point of each group, (out_features, groups), uint8."""
        if self.zero_points is None:
            return torch.full_like(self.scale, 8, dtype=torch.uint8)
        return split_nibbles(self.zero_points, self.scale.shape[1])

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weight, (out_features, in_features), at least float32."""
        wide = torch.promote_types(self.scale.dtype, torch.float32)
        codes = split_nibbles(self.packed, self.in_features)
        scale, zero = (
            expand_qparams(t.to(wide), tuple(codes.shape), 0, self.group_size)
            for t in (self.scale, self.zero_point)
        )
        return (codes.to(wide) - zero) * scale

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return x Wᵀ through the fastest kernel that fits.

        Parameters
        ----------
        x : torch.Tensor
            Shape (rows, in_features).

        Returns
        -------
        torch.Tensor
            Shape (rows, out_features), dtype of x.
        """
        if x.is_cuda:
            return int4_matmul(x, self.packed, self.scale, self.zero_point, self.group_size)
        if x.device.type == "cpu" and x.dtype == torch.bfloat16 and 0 < len(x) <= _CPU_ROWS:
            held = self._for_cpu()
            if held is not None:
                return torch._weight_int4pack_mm_for_cpu(
                    x.contiguous(), held[0], self.group_size, held[1]
                )
        return super().product(x)

    def extra_repr(self) -> str:
        """Describe shape and grid.

        Returns
        -------
        str
            For ``repr``.
        """
        return f"{super().extra_repr()}, group_size={self.group_size}, symmetric={self.symmetric}"

    def _for_cpu(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return weights and scales in the layout of torch's kernel, or None if it has none."""
        fits = (
            hasattr(torch, "_weight_int4pack_mm_for_cpu")
            and self.group_size in _CPU_GROUPS
            and self.in_features % self.group_size == 0
            and self.out_features % 16 == 0
        )
        if not fits:
            return None
        # A copy belongs to the tensors it was made from, in the state they had.
        sources = [t for t in (self.packed, self.scale, self.zero_points) if t is not None]
        versions = [0 if t.is_inference() else t._version for t in sources]
        held = self._cpu_copy
        same = held is not None and held[1] == versions and len(held[0]) == len(sources)
        if not (same and all(old is new for old, new in zip(held[0], sources, strict=True))):
            codes = split_nibbles(self.packed, self.in_features).to(torch.int32)
            packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
            # The kernel reads w = (q − 8) scale + offset.
            scale = self.scale.float()
            offset = (8.0 - self.zero_point.float()) * scale
            pair = torch.stack((scale.t(), offset.t()), dim=-1).to(torch.bfloat16).contiguous()
            self._cpu_copy = held = (sources, versions, packed, pair)
        return held[2], held[3]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cpu_copy": None}


def pack_linears(
    model: nn.Module,
    *,
    bits: int = 4,
    group_size: int = 64,
    symmetric: bool = False,
    method: str = "minmax",
    dynamic: bool = True,
    skip: Iterable[str] | Callable[[str, nn.Linear], bool] = (),
) -> nn.Module:
    """Copy a model with its linear layers replaced by packed ones.

    Parameters
    ----------
    model : torch.nn.Module
        Any module; it is not changed. Only layers whose type is exactly ``torch.nn.Linear`` are
        replaced.
    bits : {4, 8}, default 4
        `Int4Linear` or `Int8Linear`.
    group_size : int, default 64
        For 4 bits: consecutive inputs that share a scale.
    symmetric : bool, default False
        For 4 bits: without zero points.
    method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How to choose ranges, as in `choose_qparams`.
    dynamic : bool, default True
        For 8 bits: round the inputs as well.
    skip : iterable of str, or callable, default ()
        Names of layers to leave as they are, as in ``model.named_modules()``; or a function of
        name and layer that returns true for them.

    Returns
    -------
    torch.nn.Module
        A deep copy.

    Raises
    ------
    ValueError
        If ``bits`` is neither 4 nor 8, a name in ``skip`` is no linear layer of the model, or
        nothing is left to replace.

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import pack_linears
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> [type(layer).__name__ for layer in pack_linears(model, bits=8, skip=["2"])]
    ['Int8Linear', 'ReLU', 'Linear']
    """
    bits = check_choice(bits, "bits", (4, 8))

    def pack(linear: nn.Linear) -> PackedLinear:
        if bits == 8:
            return Int8Linear.from_float(linear, dynamic=dynamic, method=method)
        return Int4Linear.from_float(linear, group_size, symmetric=symmetric, method=method)

    return replace_linears(model, pack, skip)


def replace_linears(
    model: nn.Module,
    build: Callable[[nn.Linear], nn.Module],
    skip: Iterable[str] | Callable[[str, nn.Linear], bool] = (),
) -> nn.Module:
    """Copy a model with each linear layer replaced by what ``build`` makes of it.

    Parameters
    ----------
    model : torch.nn.Module
        Any module; it is not changed.
    build : callable
        From linear layer to module.
    skip : iterable of str, or callable, default ()
        Layers to leave as they are, as in `pack_linears`.

    Returns
    -------
    torch.nn.Module
        A deep copy. A layer used in two places is replaced by one new layer in both.

    Raises
    ------
    ValueError
        If a name in ``skip`` is no linear layer of the model, or nothing is left to replace.
    """
    model = copy.deepcopy(model)
    linears = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) is nn.Linear
    }
    if not callable(skip):
        names = [skip] if isinstance(skip, str) else list(skip)
        unknown = [name for name in names if name not in linears]
        if unknown:
            raise ValueError(
                f"skip: expected names of linear layers ({', '.join(linears) or 'none'}), "
                f"got {', '.join(map(str, unknown))}"
            )
        linears = {name: layer for name, layer in linears.items() if name not in names}
    else:
        linears = {name: layer for name, layer in linears.items() if not skip(name, layer)}
    if not linears:
        raise ValueError("model: expected at least one linear layer to replace, got none")
    built: dict[int, nn.Module] = {}
    for name, layer in linears.items():
        if id(layer) not in built:
            built[id(layer)] = build(layer).train(layer.training)
        new = built[id(layer)]
        if not name:
            return new
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
    return model


def _linear_weight(linear: nn.Linear) -> torch.Tensor:
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"linear: expected a torch.nn.Linear, got {type(linear).__name__}")
    return check_tensor(linear.weight.detach(), "linear.weight", ndim=2)


def _dtype_of(bias: torch.Tensor | None) -> torch.dtype | None:
    return None if bias is None else bias.dtype
