"""Seconds to quantize whole networks by each method, and low-bit products beside torch's own.

The networks have random weights: the time of a method does not depend on what they compute. The
products are those of one linear layer. Stored bytes stand beside the formula in the notes.
"""

from __future__ import annotations

import torch
from torch import nn

from enough.models import ConvNet, Transformer, TransformerConfig
from enough.quantization import (
    Int4Linear,
    Int8Linear,
    Recipe,
    quantize_model,
    quantized_bytes,
    state_dict_bytes,
)
from side_by_side import compare, main

METHODS = ("nearest", "gptq", "adaround", "adaquant", "brecq", "qdrop", "pdquant")
ON_TOKENS = ("nearest", "gptq")


def networks(quick: bool) -> list[dict]:
    """Time every method on the network for digits, and two on a byte transformer."""
    draw = torch.Generator().manual_seed(0)
    digits = ConvNet(blocks=0, generator=0).eval()
    images = torch.rand(20 if quick else 100, 1, 8, 8, generator=draw)
    length, width = (16, 32) if quick else (128, 128)
    config = TransformerConfig(context_length=length, d_model=width, n_layers=2)
    bytes_ = torch.randint(256, (4 if quick else 32, length), generator=draw)
    tasks = [("digits network", digits, images, ("nearest", "gptq") if quick else METHODS)]
    tasks.append(("byte transformer", Transformer(config, generator=0).eval(), bytes_, ON_TOKENS))
    result = []
    for name, model, data, methods in tasks:
        for method in methods:
            result += compare(
                f"{name}, {tuple(data.shape)}, 4 bits, {method}",
                lambda m=model, d=data, how=method: quantize_model(m, Recipe(how, 4), d),
                rounds=1 if quick else 3,
                why="no peer: the times of the methods are to be read beside each other",
            )
    return result


@torch.no_grad()
def products(quick: bool) -> list[dict]:
    """Time the packed layers beside linear layers in float32 and bfloat16."""
    size = 128 if quick else 1024
    draw = torch.Generator().manual_seed(1)
    full = nn.Linear(size, size, bias=False)
    with torch.no_grad():
        full.weight.copy_(torch.randn(size, size, generator=draw) / size**0.5)
    short = nn.Linear(size, size, bias=False, dtype=torch.bfloat16)
    short.load_state_dict({"weight": full.weight.detach().bfloat16()})
    eight, four = Int8Linear.from_float(full), Int4Linear.from_float(full, group_size=64)
    options = {
        "int8, 8-bit inputs": (
            eight, torch.float32,
            quantized_bytes((size, size), bits=8, symmetric=True, scale_dtype=torch.float32),
        ),
        "int4, bfloat16 inputs": (
            four, torch.bfloat16,
            quantized_bytes((size, size), bits=4, symmetric=False, group_size=64),
        ),
    }  # fmt: skip
    result = []
    for rows_in in (1, 64):
        x = torch.randn(rows_in, size, generator=draw)
        exact, half = full(x), x.bfloat16()
        for name, (layer, dtype, formula) in options.items():
            given = x.to(dtype)
            miss = ((layer(given).float() - exact).norm() / exact.norm()).item()
            result += compare(
                f"{name}, {rows_in} x {size} x {size}",
                lambda f=layer, g=given: f(g),
                {
                    "float32": lambda g=x: full(g),
                    "bfloat16": lambda g=half: short(g),
                },
                rounds=5 if quick else 50,
                warm_up=3,
                why="fewer bytes of weights are read, and they have to be unpacked",
                note=f"relative error {miss:.4f}; {state_dict_bytes(layer)} bytes stored, "
                f"{formula} by the formula, {4 * size * size} in float32",
            )
    return result


def rows(quick: bool = False) -> list[dict]:
    """Measure networks and products.

    Parameters
    ----------
    quick : bool, default False
        Small sizes and fewer methods.

    Returns
    -------
    list of dict
        Rows as ``README.md`` describes them.
    """
    return networks(quick) + products(quick)


if __name__ == "__main__":
    main(rows)
