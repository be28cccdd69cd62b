"""Experiments of the chapter on language models in four bits.

Byte-level transformers trained on the source of the standard library; their blocks rounded in
several formats and scored on held-out files; outliers that leave the function unchanged;
adapters on a rounded base.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from enough import data
from enough.models import Transformer, TransformerConfig, next_token_loss
from enough.quantization.layers import replace_linears
from enough.quantization.lora import LoRALinear, add_adapters
from enough.quantization.model import quantize_model
from enough.quantization.nf4 import nf4_bytes, nf4_dequantize, nf4_quantize
from enough.quantization.ranges import choose_qparams
from enough.quantization.recipe import Recipe
from enough.quantization.storage import bits_per_weight, quantized_bytes
from enough.quantization.uniform import fake_quantize
from enough.runtime import named_generator
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.training import Ensemble, fit, schedules

__all__ = [
    "INT4_FORMATS",
    "ByteModels",
    "adapter_point",
    "byte_models",
    "format_bits",
    "gptq_blocks",
    "loud_channels",
    "round_blocks",
    "weight_kurtosis",
]

INT4_FORMATS = ("row", "column", "group", "nf4")
GROUP = 32
HEAD = ("unembedding",)


@dataclass(frozen=True)
class ByteModels:
    """Trained byte models of one size, each with text of its own to be measured on.

    Parameters
    ----------
    members : tuple of Transformer
        The models, E of them.
    held_out : torch.Tensor
        Windows of validation bytes, (E, windows, bytes + 1).
    calibration : torch.Tensor
        Windows of training bytes that no member learned from, (E, windows, bytes).
    reference : torch.Tensor
        Log-probabilities of the members on their held-out windows, (E, windows, bytes, 256).
    """

    members: tuple[Transformer, ...]
    held_out: Tensor
    calibration: Tensor
    reference: Tensor

    @property
    def n_weights(self) -> int:
        """Weights in the linear maps of a member's blocks."""
        return sum(w.numel() for w in _block_weights(self.members[0]))

    def bits(self) -> np.ndarray:
        """Score the members themselves.

        Returns
        -------
        numpy.ndarray
            Bits a held-out byte, (E,).
        """
        return np.array([_bits(*pair) for pair in zip(self.reference, self.held_out, strict=True)])

    def scores(self, rounded: Iterable[nn.Module]) -> dict[str, np.ndarray]:
        """Score other models, one for each member, on the members' held-out windows.

        Parameters
        ----------
        rounded : iterable of torch.nn.Module
            From bytes (B, T) to logits (B, T, 256).

        Returns
        -------
        dict from str to numpy.ndarray
            ``bits`` a byte, ``lost`` (bits a byte more than the member) and ``divergence`` (from
            the member's predictions, bits a byte), each of shape (E,).
        """
        rows = []
        for model, windows, log_p in zip(rounded, self.held_out, self.reference, strict=True):
            log_q = _log_probs(model, windows)
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1).double().mean() / math.log(2)
            bits = _bits(log_q, windows)
            rows.append((bits, bits - _bits(log_p, windows), float(divergence)))
        names = ("bits", "lost", "divergence")
        return dict(zip(names, np.array(rows).T, strict=True))


def byte_models(
    width: int,
    *,
    members: int = 4,
    layers: int = 2,
    steps: int = 160,
    batch: int = 8,
    context: int = 32,
    lr: float = 0.012,
    windows: int = 192,
    calibration: int = 32,
    seed: int = 0,
    device: str = "cpu",
) -> ByteModels:
    """Train byte-level transformers of one width as one batch.

    Every member has its own weights, its own windows to learn from and its own to be measured on;
    the windows of member i are the same at every width. No window is learned from twice.

    Parameters
    ----------
    width : int
        Width of the residual stream, a multiple of 16, the size of a head.
    members : int, default 4
        Number of models.
    layers : int, default 2
        Blocks.
    steps : int, default 160
        Updates of Adam, the learning rate falling linearly to zero after a short warm-up.
    batch, context : int
        Windows an update, and predictions a window.
    lr : float, default 0.012
        Peak learning rate at width 64; maximal-update parameterization carries it to others.
    windows, calibration : int
        Held-out windows, and windows for calibration.
    seed : int, default 0
        Seed of weights and data.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    ByteModels
        In evaluation mode, without gradients.

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    width = check_integer(width, "width", minimum=16)
    corpus = data.text("stdlib")

    def draw(part: Tensor, count: int, name: str) -> Tensor:
        streams = [named_generator(seed, name, i) for i in range(members)]
        return torch.stack([data.windows(part, count, context, s) for s in streams])

    train = draw(corpus.train, steps * batch, "train")
    config = TransformerConfig(
        context_length=context,
        d_model=width,
        n_layers=layers,
        n_heads=width // 16,
        parameterization="mup",
        base_width=64,
    )
    ensemble = Ensemble(
        lambda g: Transformer(config, generator=g),
        members,
        seed=seed,
        mode="stacked",
        device=device,
    )
    ensemble.fit(
        train[..., :-1],
        train[..., 1:],
        loss=next_token_loss,
        lr=lr,
        steps=steps,
        batch_size=batch,
        schedule=schedules.linear(steps, warmup=max(1, steps // 20)),
        clip=1.0,
        lr_multipliers=ensemble.member(0).learning_rate_multipliers("adam"),
        per_member=True,
        progress=False,
    )
    trained = tuple(ensemble.member(i).eval().requires_grad_(False) for i in range(members))
    held_out = draw(corpus.validation, windows, "held out").to(device)
    spare = draw(corpus.train, calibration, "calibration")[..., :-1].to(device)
    logs = [_log_probs(*pair) for pair in zip(trained, held_out, strict=True)]
    return ByteModels(trained, held_out, spare, torch.stack(logs))


def round_blocks(model: nn.Module, kind: str = "row", bits: int = 4) -> nn.Module:
    """Round the linear maps of a model's blocks to the nearest point of a format.

    Embeddings, norms and the last layer stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
        A model whose last layer is called ``unembedding``; it is not changed.
    kind : {"row", "column", "group", "nf4"}, default "row"
        ``"row"``: symmetric, one step a row, as GLM-130B. ``"column"``: one step a column.
        ``"group"``: asymmetric, one step and zero point for 32 weights of a row. ``"nf4"``: blocks
        of 64 with double quantization.
    bits : int, default 4
        Width; NF4 has 4.

    Returns
    -------
    torch.nn.Module
        A copy with the rounded values as floating-point weights.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(kind, "kind", INT4_FORMATS)
    if kind == "nf4" and bits != 4:
        raise ValueError(f"bits: expected 4 with NF4, got {bits}")

    def build(linear: nn.Linear) -> nn.Linear:
        new = copy.deepcopy(linear)
        weight = linear.weight.detach()
        if kind == "nf4":
            rounded = nf4_dequantize(nf4_quantize(weight, 64, True))
        else:
            grid = {
                "bits": bits,
                "symmetric": kind != "group",
                "axis": int(kind == "column"),
                "group_size": GROUP if kind == "group" else None,
            }
            rounded = fake_quantize(weight, *choose_qparams(weight, **grid), **grid)
        new.weight = nn.Parameter(rounded, requires_grad=False)
        return new

    return replace_linears(model, build, HEAD)


def gptq_blocks(
    model: nn.Module, calibration: Tensor, kind: str = "row", bits: int = 4
) -> nn.Module:
    """Round the linear maps of a model's blocks by GPTQ.

    Parameters
    ----------
    model : torch.nn.Module
        As in `round_blocks`.
    calibration : torch.Tensor
        Windows of bytes, (windows, bytes).
    kind : {"row", "group"}, default "row"
        Grid, as in `round_blocks`.
    bits : int, default 4
        Width.

    Returns
    -------
    torch.nn.Module
        A rounded copy.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(kind, "kind", ("row", "group"))
    recipe = Recipe(
        method="gptq",
        bits=bits,
        symmetric=kind == "row",
        group_size=GROUP if kind == "group" else None,
        overrides=dict.fromkeys(HEAD),
    )
    return quantize_model(model, recipe, calibration)


def format_bits(model: nn.Module, kind: str = "row", bits: int = 4) -> float:
    """Compute what a format stores for each weight of a model's blocks.

    Parameters
    ----------
    model : torch.nn.Module
        As in `round_blocks`.
    kind : {"row", "column", "group", "nf4"}, default "row"
        Format.
    bits : int, default 4
        Width of a code.

    Returns
    -------
    float
        Bits a weight with steps of 16 bits and zero points.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(kind, "kind", INT4_FORMATS)
    weights = _block_weights(model)
    if kind == "nf4":
        total = sum(nf4_bytes(w.numel(), 64, True) for w in weights)
    else:
        grid = {
            "bits": bits,
            "symmetric": kind != "group",
            "axis": int(kind == "column"),
            "group_size": GROUP if kind == "group" else None,
        }
        total = sum(quantized_bytes(w.shape, **grid) for w in weights)
    return bits_per_weight(total, sum(w.numel() for w in weights))


def loud_channels(
    model: Transformer, *, channels: int = 2, factor: float = 16.0, seed: int = 0
) -> Transformer:
    """Give the weights outliers and leave the function as it is.

    In each block, the gains of both norms are divided by the factor at a few channels, and the
    columns of the maps that read them are multiplied by it.

    Parameters
    ----------
    model : Transformer
        It is not changed.
    channels : int, default 2
        Channels a norm.
    factor : float, default 16.0
        Above 0; with a power of two the outputs stay the same to the bit, rounding aside.
    seed : int, default 0
        Draws the channels.

    Returns
    -------
    Transformer
        A copy.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    factor = check_number(factor, "factor", above=0.0)
    width = model.config.d_model
    channels = check_integer(channels, "channels", minimum=0, maximum=width)
    model = copy.deepcopy(model)
    generator = named_generator(seed, "loud channels")
    with torch.no_grad():
        for block in model.blocks:
            for norm, reader in ((block.attention_norm, block.qkv), (block.mlp_norm, block.up)):
                chosen = torch.randperm(width, generator=generator)[:channels]
                norm.weight[chosen] /= factor
                reader.weight[:, chosen] *= factor
    return model


def weight_kurtosis(model: nn.Module) -> float:
    """Measure how heavy the tails of the weights are within their rows.

    Parameters
    ----------
    model : torch.nn.Module
        As in `round_blocks`.

    Returns
    -------
    float
        Mean over the rows of all blocks of the fourth moment over the squared second; 3 for
        normal weights.
    """
    rows = [w.double() for w in _block_weights(model)]
    ratios = [(r**4).mean(1) / r.square().mean(1).square() for r in rows]
    return float(torch.cat(ratios).mean())


def adapter_point(
    models: ByteModels,
    member: int,
    *,
    rank: int = 4,
    steps: int = 30,
    batch: int = 16,
    lr: float = 4e-3,
    transform: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Train the same adapters on a member and on the member in NF4.

    Both get the same first adapters and the same windows in the same order; the difference
    between them is the base alone.

    Parameters
    ----------
    models : ByteModels
        Trained models.
    member : int
        Which of them.
    rank : int, default 4
        Rank of the adapters, on all linear maps of the blocks.
    steps, batch : int
        Updates of Adam, and windows an update.
    lr : float, default 4e-3
        Peak learning rate, falling linearly to zero.
    transform : callable, optional
        Changes the text to adapt to, byte for byte.
    seed : int, default 0
        Seed of adapters and data.

    Returns
    -------
    dict from str to float
        Bits a held-out byte: ``exact`` and ``nf4`` before, ``exact_adapted`` and ``nf4_adapted``
        after the adaptation.
    """
    change = transform or (lambda x: x)
    base, held = models.members[member], change(models.held_out[member])
    stream = named_generator(seed, "adapter text", member)
    text = change(data.windows(data.text("stdlib").train, steps * batch, held.shape[1] - 1, stream))
    text = text.to(held.device)
    options = {"rank": rank, "alpha": 2.0 * rank, "skip": HEAD}
    found = {}
    for name in ("exact", "nf4"):
        draws = named_generator(seed, "adapters", member)
        if name == "nf4":
            model = add_adapters(base, **options, generator=draws)
        else:
            model = _plain_adapters(base, rank, draws)
        found[name] = _bits(_log_probs(model, held), held)
        fit(
            model,
            (text[:, :-1], text[:, 1:]),
            next_token_loss,
            steps=steps,
            optimizer="adam",
            lr=lr,
            batch_size=batch,
            schedule=schedules.linear(steps),
            clip=1.0,
            generator=named_generator(seed, "adapter order", member),
            progress=False,
        )
        found[f"{name}_adapted"] = _bits(_log_probs(model, held), held)
    return found


def _plain_adapters(model: nn.Module, rank: int, generator: torch.Generator) -> nn.Module:
    """Adapters on a frozen base in full precision."""

    def build(linear: nn.Linear) -> LoRALinear:
        return LoRALinear(linear, rank, 2.0 * rank, 0.0, generator)

    adapted = replace_linears(model, build, HEAD).requires_grad_(False)
    for module in adapted.modules():
        if isinstance(module, LoRALinear):
            module.lora_a.requires_grad_(True)
            module.lora_b.requires_grad_(True)
    return adapted


def _block_weights(model: nn.Module) -> Sequence[Tensor]:
    return [
        module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in HEAD
    ]


@torch.no_grad()
def _log_probs(model: nn.Module, windows: Tensor) -> Tensor:
    """Log-probabilities of the next byte at every position, (windows, bytes, 256)."""
    parts = [model(part).float().log_softmax(-1) for part in windows[:, :-1].split(128)]
    return torch.cat(parts)


def _bits(log_probs: Tensor, windows: Tensor) -> float:
    chosen = log_probs.gather(-1, windows[:, 1:, None].long())
    return float(-chosen.double().mean()) / math.log(2)
