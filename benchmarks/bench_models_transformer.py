"""How much of the speed of plain matrix products does a training step of the transformer reach?

One step is the forward and backward pass of ``Transformer.loss``. Its peer is the list of matrix
products that step needs, with the same shapes and dtype, run one after the other. Each side is
divided by its own number of operations, and the ratio of the two rates is reported. A causal
kernel skips the upper triangle of attention, so the step is credited with the lower one only;
the products of the peer are full and credited in full.

On a GPU the step runs in bfloat16 under autocast and ``torch.compile``; on a CPU as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from enough.models import Transformer, TransformerConfig, count_parameters, flops
from enough.runtime import synchronize
from side_by_side import as_row, interleave, main, peak_mib

CPU_SIZES = {
    # name: (d_model, n_layers, n_heads, length, batch)
    "0.1 M": (64, 2, 2, 128, 16),
    "1 M": (128, 5, 4, 128, 16),
    "3 M": (256, 4, 4, 256, 8),
    "10 M": (384, 6, 6, 256, 8),
    "25 M": (512, 8, 8, 256, 4),
}
GPU_SIZES = {
    "1 M": (128, 5, 2, 256, 256),
    "10 M": (384, 6, 6, 256, 256),
    "30 M": (512, 10, 8, 512, 128),
    "85 M": (768, 12, 12, 512, 128),
    "300 M": (1024, 24, 16, 512, 64),
}


def _waits(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return the call with a wait for the device at its end."""

    def waiting() -> None:
        call()
        synchronize(device)

    return waiting


def _products(config: TransformerConfig, batch: int, length: int, device, dtype):
    """Return a function that runs the matrix products of one step, and their operations."""
    d, wide, tokens = config.d_model, config.mlp_width, batch * length
    factor = 2 if config.mlp == "swiglu" else 1
    linears = [(d, 3 * d), (d, d), (d, factor * wide), (wide, d)]

    def draw(*shape):
        return torch.randn(*shape, device=device, dtype=dtype)

    def operands(n_in, n_out):
        return draw(tokens, n_in), draw(n_out, n_in), draw(tokens, n_out)

    layer = [operands(*pair) for pair in linears]
    head = operands(d, config.vocab_size)
    rows = draw(batch * config.n_heads, length, config.d_head)
    square = draw(batch * config.n_heads, length, length)

    def linear(x, weight, gradient):
        torch.mm(x, weight.t())
        torch.mm(gradient, weight)
        torch.mm(gradient.t(), x)

    def run():
        for _ in range(config.n_layers):
            for x, weight, gradient in layer:
                linear(x, weight, gradient)
            for _ in range(2):  # queries with keys, weights with values; then both gradients
                torch.bmm(rows, rows.mT)
                torch.bmm(square, rows)
            torch.bmm(square.mT, rows)
            torch.bmm(square.mT, rows)
        linear(*head)

    return run, flops(config, batch, length)


def _causal_flops(config: TransformerConfig, batch: int, length: int) -> int:
    """Count the step with the lower triangle of attention only."""
    skipped = 6 * config.n_layers * batch * config.d_model * length * (length - 1)
    return flops(config, batch, length) - skipped


def rows(quick: bool = False) -> list[dict]:
    """Measure every size.

    Parameters
    ----------
    quick : bool, default False
        The smallest size only, two rounds, not compiled.

    Returns
    -------
    list of dict
        As ``README.md`` describes. ``ratio`` is our rate of operations over that of the
        products alone.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    repeats = 2 if quick else 30 if gpu else 12
    sizes = {"tiny": (16, 1, 1, 16, 2)} if quick else GPU_SIZES if gpu else CPU_SIZES
    table = []
    for name, (width, depth, heads, length, batch) in sizes.items():
        config = TransformerConfig(
            d_model=width, n_layers=depth, n_heads=heads, context_length=length
        )
        model = Transformer(config, generator=0).to(device)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(256, (batch, length + 1), generator=generator).to(device)
        loss = torch.compile(model.loss) if gpu and not quick else model.loss

        def step(model=model, loss=loss, tokens=tokens):
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=gpu):
                value = loss(tokens)
            value.backward()

        products, peer_flops = _products(config, batch, length, device, dtype)
        calls = {"ours": _waits(step, device), "peer": _waits(products, device)}
        seconds = interleave(calls, repeats, warm_up=2, patience=15.0)
        ours, peer = min(seconds["ours"]), min(seconds["peer"])
        causal = _causal_flops(config, batch, length)
        table.append(
            as_row(
                f"transformer step, {name} ({count_parameters(config).total / 1e6:.2f} M)",
                seconds["ours"],
                "its matrix products alone",
                seconds["peer"],
                ratio=causal / ours / (peer_flops / peer),
                ours_mib=None if gpu else peak_mib(step),
                peer_mib=None if gpu else peak_mib(products),
                why="the step also normalizes, activates, masks and adds up gradients, which "
                "costs time but hardly any of the counted operations",
                note=(
                    f"ratio of rates: {causal / ours / 1e9:.0f} of {peer_flops / peer / 1e9:.0f} "
                    f"GFLOP/s; {peer / ours:.2f} with the full attention matrix credited; d "
                    f"{width}, L {depth}, {batch} x {length} tokens, {str(dtype)[6:]}"
                ),
            )
        )
    return table


if __name__ == "__main__":
    main(rows)
