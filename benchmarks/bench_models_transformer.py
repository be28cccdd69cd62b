"""How much of the speed of plain matrix products does a training step of the transformer reach?

One step is the forward and backward pass of ``Transformer.loss``. Its peer is the list of matrix
products that step needs, with the same shapes and dtype, run one after the other. Each side is
divided by its own number of operations, and the ratio of the two rates is reported. A causal
kernel skips the upper triangle of attention, so the step is credited with the lower one only;
the products of the peer are full and credited in full.

On a GPU the step runs in bfloat16 under autocast and ``torch.compile``; ``--eager`` leaves the
compiler out, and ``--compile`` brings it in on a CPU (half a minute a model).
"""

from __future__ import annotations

import argparse
import time

import torch

from enough.models import Transformer, TransformerConfig, count_parameters, flops

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


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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


def rows(
    *, compiled: bool | None = None, repeats: int | None = None, mlp: str = "gelu"
) -> list[dict]:
    """Measure every size and return one row each.

    Parameters
    ----------
    compiled : bool, optional
        Run the step under ``torch.compile``; by default on a GPU only.
    repeats : int, optional
        Interleaved repeats; 12 on a CPU, 30 on a GPU by default.
    mlp : {"gelu", "swiglu"}, default "gelu"
        The MLP of the transformer.

    Returns
    -------
    list of dict
        With ``name``, ``ours_s`` (seconds a step), ``peer_s`` (seconds for the products),
        ``ratio`` (of the two rates, from minima), ``spread`` (median over minimum of the step),
        and ``note``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    compiled = gpu if compiled is None else compiled
    repeats = repeats or (30 if gpu else 12)
    table = []
    for name, (width, depth, heads, length, batch) in (GPU_SIZES if gpu else CPU_SIZES).items():
        config = TransformerConfig(
            d_model=width, n_layers=depth, n_heads=heads, context_length=length, mlp=mlp
        )
        model = Transformer(config, generator=0).to(device)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(256, (batch, length + 1), generator=generator).to(device)
        loss = torch.compile(model.loss) if compiled else model.loss

        def step(model=model, loss=loss, tokens=tokens):
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype, enabled=gpu):
                value = loss(tokens)
            value.backward()

        products, peer_flops = _products(config, batch, length, device, dtype)
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(2):
            step()
            products()
        for _ in range(repeats):
            for side, function in (("ours", step), ("peer", products)):
                start = _clock(device)
                function()
                times[side].append(_clock(device) - start)
        ours, peer = min(times["ours"]), min(times["peer"])
        causal = _causal_flops(config, batch, length)
        median = sorted(times["ours"])[repeats // 2]
        table.append(
            {
                "name": f"{name} ({count_parameters(config).total / 1e6:.2f} M)",
                "ours_s": ours,
                "peer_s": peer,
                "ratio": causal / ours / (peer_flops / peer),
                "spread": median / ours,
                "note": (
                    f"{causal / ours / 1e9:.0f} of {peer_flops / peer / 1e9:.0f} GFLOP/s; "
                    f"{peer / ours:.2f} with the full attention matrix credited; d {width}, "
                    f"L {depth}, {batch} x {length} tokens, {mlp}, {str(dtype)[6:]}"
                    f"{', compiled' if compiled else ''}"
                ),
            }
        )
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", dest="compiled", action="store_const", const=True)
    parser.add_argument("--eager", dest="compiled", action="store_const", const=False)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--mlp", choices=("gelu", "swiglu"), default="gelu")
    for row in rows(**vars(parser.parse_args())):
        print(
            f"{row['name']:18} {row['ours_s'] * 1e3:9.2f} ms {row['peer_s'] * 1e3:9.2f} ms  "
            f"ratio {row['ratio']:.2f}  spread {row['spread']:.2f}  {row['note']}"
        )


if __name__ == "__main__":
    main()
