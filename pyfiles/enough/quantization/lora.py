"""QLoRA: adapters of low rank on a frozen base in NF4.

References
----------
.. [1] E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022,
   arXiv:2106.09685, eq. 3.
.. [2] T. Dettmers, A. Pagnoni, A. Holtzman and L. Zettlemoyer, "QLoRA: Efficient Finetuning of
   Quantized LLMs", NeurIPS 2023, arXiv:2305.14314, eqs. 5–6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional

from enough.quantization.layers import PackedLinear, replace_linears
from enough.quantization.nf4 import DOUBLE_BLOCK, NF4Tensor, nf4_dequantize, nf4_quantize
from enough.runtime import as_generator
from enough.runtime.validation import check_integer, check_number

__all__ = ["LoRALinear", "NF4Linear", "add_adapters", "merge_adapters"]


class NF4Linear(PackedLinear):
    """A linear layer whose weight is stored in NF4.

    Parameters
    ----------
    in_features, out_features : int
        Shape of the layer.
    bias : bool, default True
        Whether it adds a bias.
    block_size : int, default 64
        Weights that share an absmax.
    double : bool, default True
        Quantize the absmax too.
    dtype : torch.dtype, optional
        Dtype of weight and bias; torch's default if absent.

    Attributes
    ----------
    codes, absmax, absmax_scale, absmax_mean : torch.Tensor
        The fields of `NF4Tensor`.

    Notes
    -----
    Forward and backward dequantize the weight each time and keep no copy of it.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        block_size: int = 64,
        double: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, dtype)
        self.block_size = check_integer(block_size, "block_size", minimum=1)
        self.double = bool(double)
        self._dtype = dtype or torch.get_default_dtype()
        entries = self.in_features * self.out_features
        blocks = -(-entries // self.block_size)
        empty = NF4Tensor(
            codes=torch.full((-(-entries // 2),), 0x77, dtype=torch.uint8),
            absmax=torch.zeros(blocks, dtype=torch.uint8 if self.double else torch.float32),
            absmax_scale=torch.zeros(-(-blocks // DOUBLE_BLOCK)) if self.double else None,
            absmax_mean=torch.zeros(1) if self.double else None,
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=self._dtype,
            block_size=self.block_size,
        )
        self._hold(empty)

    @classmethod
    def from_float(
        cls, linear: nn.Linear, block_size: int = 64, *, double: bool = True
    ) -> NF4Linear:
        """Quantize a linear layer.

        Parameters
        ----------
        linear : torch.nn.Linear
            The layer; it is not changed.
        block_size : int, default 64
            Weights that share an absmax.
        double : bool, default True
            Quantize the absmax too.

        Returns
        -------
        NF4Linear
            On the same device, its bias trainable as before.

        Raises
        ------
        ValueError
            If ``linear`` is no linear layer, its weight holds NaN or infinity, or
            ``block_size`` is below 1.
        """
        if not isinstance(linear, nn.Linear):
            raise ValueError(f"linear: expected a torch.nn.Linear, got {type(linear).__name__}")
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            block_size,
            double,
            linear.weight.dtype,
        ).to(linear.weight.device)
        layer._hold(nf4_quantize(linear.weight.detach(), block_size, double))
        layer._set_bias(linear.bias)
        return layer

    @property
    def weight(self) -> torch.Tensor:
        """The dequantized weight, (out_features, in_features)."""
        return nf4_dequantize(
            NF4Tensor(
                codes=self.codes,
                absmax=self.absmax,
                absmax_scale=self.absmax_scale,
                absmax_mean=self.absmax_mean,
                shape=torch.Size((self.out_features, self.in_features)),
                dtype=self._dtype,
                block_size=self.block_size,
            )
        )

    def extra_repr(self) -> str:
        """Describe shape and blocks.

        Returns
        -------
        str
            For ``repr``.
        """
        return f"{super().extra_repr()}, block_size={self.block_size}, double={self.double}"

    def _hold(self, tensor: NF4Tensor) -> None:
        for name in ("codes", "absmax", "absmax_scale", "absmax_mean"):
            self.register_buffer(name, getattr(tensor, name))


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable product of low rank.

    Parameters
    ----------
    base : torch.nn.Linear or PackedLinear
        The layer to adapt; its parameters are frozen in place.
    rank : int, default 8
        Rank of the adapter, 1 or more.
    alpha : float, default 16.0
        The adapter is scaled by alpha/rank.
    dropout : float, default 0.0
        Share of the adapter's inputs to drop while training, in [0, 1).
    generator : torch.Generator or int, optional
        Draws the first factor.

    Attributes
    ----------
    lora_a : torch.nn.Parameter
        (rank, in_features), uniform in ±1/√in_features at first.
    lora_b : torch.nn.Parameter
        (out_features, rank), 0 at first, so that the layer begins as its base.

    Raises
    ------
    ValueError
        If ``base`` is no linear layer or a number is out of range.

    References
    ----------
    Hu et al., ICLR 2022, arXiv:2106.09685, eq. 3.
    """

    def __init__(
        self,
        base: nn.Linear | PackedLinear,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | PackedLinear):
            raise ValueError(f"base: expected a linear or packed layer, got {type(base).__name__}")
        self.rank = check_integer(rank, "rank", minimum=1)
        self.alpha = check_number(alpha, "alpha")
        self.dropout = check_number(dropout, "dropout", minimum=0.0, below=1.0)
        self.base = base.requires_grad_(False)
        place = next(iter([*base.parameters(), *base.buffers()]))
        dtype = place.dtype if place.is_floating_point() else torch.get_default_dtype()
        bound = 1.0 / math.sqrt(base.in_features)
        draw = torch.empty(self.rank, base.in_features).uniform_(
            -bound, bound, generator=as_generator(generator)
        )
        self.lora_a = nn.Parameter(draw.to(place.device, dtype))
        self.lora_b = nn.Parameter(
            torch.zeros(base.out_features, self.rank, device=place.device, dtype=dtype)
        )

    @property
    def scaling(self) -> float:
        """The factor alpha/rank."""
        return self.alpha / self.rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the base's output plus (alpha/rank) x Aᵀ Bᵀ.

        Parameters
        ----------
        x : torch.Tensor
            Shape (..., in_features).

        Returns
        -------
        torch.Tensor
            Shape (..., out_features).
        """
        narrow = functional.dropout(x, self.dropout, self.training) @ self.lora_a.t().to(x.dtype)
        return self.base(x) + (narrow @ self.lora_b.t().to(x.dtype)) * self.scaling

    def merge(self) -> nn.Linear:
        """Add the adapter to the dequantized base.

        Returns
        -------
        torch.nn.Linear
            An ordinary layer with weight W + (alpha/rank) B A, in the dtype of the base.
        """
        weight = self.base.weight.detach()
        wide = torch.promote_types(weight.dtype, torch.float32)
        update = self.lora_b.detach().to(wide) @ self.lora_a.detach().to(wide)
        merged = (weight.to(wide) + self.scaling * update).to(weight.dtype)
        linear = nn.utils.skip_init(
            nn.Linear,
            self.base.in_features,
            self.base.out_features,
            bias=self.base.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            linear.weight.copy_(merged)
            if self.base.bias is not None:
                linear.bias.copy_(self.base.bias)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Describe the adapter.

        Returns
        -------
        str
            For ``repr``.
        """
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"


def add_adapters(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    block_size: int = 64,
    double: bool = True,
    skip: Iterable[str] | Callable[[str, nn.Linear], bool] = (),
    generator: torch.Generator | int | None = None,
) -> nn.Module:
    """Copy a model with its linear layers in NF4 under adapters, and all else frozen.

    Parameters
    ----------
    model : torch.nn.Module
        Any module with ``torch.nn.Linear`` layers; it is not changed.
    rank : int, default 8
        Rank of the adapters.
    alpha : float, default 16.0
        Adapters are scaled by alpha/rank.
    dropout : float, default 0.0
        Dropout of the adapters' inputs.
    block_size : int, default 64
        Weights that share an absmax.
    double : bool, default True
        Quantize the absmax too.
    skip : iterable of str, or callable, default ()
        Layers to leave without adapter and in full precision, as in `pack_linears`.
    generator : torch.Generator or int, optional
        Draws the adapters' first factors.

    Returns
    -------
    torch.nn.Module
        A deep copy; only ``lora_a`` and ``lora_b`` of its `LoRALinear` layers require a gradient.

    Raises
    ------
    ValueError
        If the model has no linear layer left, a name in ``skip`` is unknown, or a number is out
        of range.

    References
    ----------
    Dettmers et al., NeurIPS 2023, arXiv:2305.14314.

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import add_adapters
    >>> model = add_adapters(torch.nn.Sequential(torch.nn.Linear(32, 32)), rank=2, generator=0)
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.lora_a', '0.lora_b']
    """
    generator = as_generator(generator)

    def build(linear: nn.Linear) -> LoRALinear:
        base = NF4Linear.from_float(linear, block_size, double=double)
        return LoRALinear(base, rank, alpha, dropout, generator)

    adapted = replace_linears(model, build, skip).requires_grad_(False)
    for module in adapted.modules():
        if isinstance(module, LoRALinear):
            module.lora_a.requires_grad_(True)
            module.lora_b.requires_grad_(True)
    return adapted


def merge_adapters(model: nn.Module) -> nn.Module:
    """Copy a model with every adapter merged into an ordinary linear layer.

    Parameters
    ----------
    model : torch.nn.Module
        A model with `LoRALinear` layers; it is not changed.

    Returns
    -------
    torch.nn.Module
        A deep copy without adapters.

    Raises
    ------
    ValueError
        If the model has no adapter.
    """
    model = copy.deepcopy(model)
    adapters = [
        (name, m)
        for name, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, LoRALinear)
    ]
    if not adapters:
        raise ValueError("model: expected at least one LoRALinear layer, got none")
    merged = {id(adapter): adapter.merge() for _, adapter in adapters}
    for name, adapter in adapters:
        if not name:
            return merged[id(adapter)]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, merged[id(adapter)])
    return model
