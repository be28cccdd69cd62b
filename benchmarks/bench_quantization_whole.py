"""Seconds to quantize whole networks by each method.

The networks have random weights: the time of a method does not depend on what they compute. There
is no peer: the times of the methods are to be read beside each other.
"""

from __future__ import annotations

import torch

from enough.models import ConvNet, Transformer, TransformerConfig
from enough.quantization import Recipe, quantize_model
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


def rows(quick: bool = False) -> list[dict]:
    """Measure the networks.

    Parameters
    ----------
    quick : bool, default False
        Small sizes and fewer methods.

    Returns
    -------
    list of dict
        Rows as ``README.md`` describes them.
    """
    return networks(quick)


if __name__ == "__main__":
    main(rows)
