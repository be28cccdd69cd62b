"""Products with low-bit weights beside float32, bfloat16 and the layers of other packages.

One linear layer without a bias, at one row (a token at a time, where reading the weights is the
work) and at 64 rows (where the products are). Stored bytes stand beside the formula in the notes,
and so do the errors of both sides against the product in float32. NF4 is timed as a code: there
and back.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from enough.quantization import (
    Int4Linear,
    Int8Linear,
    nf4_dequantize,
    nf4_quantize,
    quantized_bytes,
    state_dict_bytes,
)
from side_by_side import Peer, compare, made, main

Make = Callable[[nn.Linear], nn.Module]


def torch_dynamic(full: nn.Linear) -> nn.Module:
    """Quantize as torch does by itself: int8 weights, inputs rounded at each call."""
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(nn.Sequential(copy.deepcopy(full)), {nn.Linear}, torch.qint8)


def torchao_int8(full: nn.Linear) -> nn.Module:
    """Quantize with torchao: int8 weights, each row of the input rounded at each call."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = nn.Sequential(copy.deepcopy(full))
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def torchao_int4(full: nn.Linear) -> nn.Module:
    """Quantize with torchao: int4 weights in groups of 64."""
    from torchao.quantization import Int4WeightOnlyConfig, quantize_

    model = nn.Sequential(copy.deepcopy(full).bfloat16())
    quantize_(model, Int4WeightOnlyConfig(group_size=64))
    return model


def bitsandbytes_int8(full: nn.Linear) -> nn.Module:
    """Quantize with bitsandbytes: int8 weights."""
    from bitsandbytes.nn import Linear8bitLt

    layer = Linear8bitLt(full.in_features, full.out_features, bias=False, has_fp16_weights=False)
    layer.load_state_dict(full.state_dict())
    return layer.to("cpu")


def bitsandbytes_nf4(full: nn.Linear) -> nn.Module:
    """Quantize with bitsandbytes: NF4 weights in blocks of 64."""
    from bitsandbytes.nn import Linear4bit

    shape = full.in_features, full.out_features
    layer = Linear4bit(*shape, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
    layer.load_state_dict(full.state_dict())
    return layer.to("cpu")


def quanto(full: nn.Linear, bits: str) -> nn.Module:
    """Quantize with optimum-quanto: weights only."""
    from optimum import quanto

    model = nn.Sequential(copy.deepcopy(full))
    quanto.quantize(model, weights=getattr(quanto, bits))
    quanto.freeze(model)
    return model


WHOLE = "ours multiplies integers by integers, one scale a row of the input and of the weight"
BITS4 = "ours hands one row to torch's own four-bit kernel and unpacks the weight for many rows"
UNPACK = "while the peer turns the weight into floating-point numbers at each call"
PEERS: dict[int, list[tuple[str, str | None, torch.dtype, Make, str]]] = {
    8: [
        (
            "torch dynamic int8", None, torch.float32, torch_dynamic,
            f"{WHOLE}, in several calls, while the peer packs the weight ahead and does all in "
            "one call, with one scale for the whole input and one for the weight",
        ),
        (
            "torchao int8", "torchao", torch.float32, torchao_int8,
            f"{WHOLE}, and the peer too, through a tensor subclass that costs time at each call",
        ),
        ("bitsandbytes int8", "bitsandbytes", torch.float32, bitsandbytes_int8,
         f"{WHOLE}, {UNPACK}"),
        ("optimum-quanto int8", "optimum.quanto", torch.float32, lambda f: quanto(f, "qint8"),
         f"{WHOLE}, {UNPACK}"),
    ],
    4: [
        ("torchao int4", "torchao", torch.bfloat16, torchao_int4, BITS4),
        ("bitsandbytes NF4", "bitsandbytes", torch.bfloat16, bitsandbytes_nf4,
         f"{BITS4}, {UNPACK}"),
        ("optimum-quanto int4", "optimum.quanto", torch.float32, lambda f: quanto(f, "qint4"),
         f"{BITS4}, {UNPACK}"),
    ],
}  # fmt: skip


def _miss(found: Tensor, exact: Tensor) -> float:
    return ((found.float() - exact).norm() / exact.norm()).item()


def products(size: int, rows_in: int, rounds: int, times: int) -> list[dict]:
    """Time the packed layers beside linear layers and those of other packages.

    Parameters
    ----------
    size, rows_in : int
        Inputs and outputs of the layer; rows of its input.
    rounds, times : int
        As in `side_by_side.compare`.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    draw = torch.Generator().manual_seed(1)
    full = nn.Linear(size, size, bias=False)
    with torch.no_grad():
        full.weight.copy_(torch.randn(size, size, generator=draw) / size**0.5)
    short = copy.deepcopy(full).bfloat16()
    x = torch.randn(rows_in, size, generator=draw)
    exact, given = full(x), {torch.float32: x, torch.bfloat16: x.bfloat16()}
    options = {
        8: (
            "int8 weights and inputs", Int8Linear.from_float(full), torch.float32,
            quantized_bytes((size, size), bits=8, symmetric=True, scale_dtype=torch.float32),
        ),
        4: (
            "int4 weights", Int4Linear.from_float(full, group_size=64), torch.bfloat16,
            quantized_bytes((size, size), bits=4, symmetric=False, group_size=64),
        ),
    }  # fmt: skip
    fewer = "fewer bytes of weights are read, and they have to be unpacked"
    result = []
    for bits, (name, layer, dtype, formula) in options.items():
        why = {"float32": fewer, "bfloat16": fewer}
        peers = {
            "float32": Peer(lambda: full(x)),
            "bfloat16": Peer(lambda: short(given[torch.bfloat16])),
        }
        for peer, package, kind, make, reason in PEERS[bits]:
            why[peer] = reason
            peers[peer] = _peer(make, full, given[kind], exact, package)
        miss = _miss(layer(given[dtype]), exact)
        result += compare(
            f"{name}, {rows_in} x {size} x {size}",
            lambda layer=layer, own=given[dtype]: layer(own),
            peers,
            rounds=rounds,
            times=times,
            why=why,
            note=f"relative error {miss:.4f}; {state_dict_bytes(layer):,} bytes, by the formula "
            f"{formula:,}",
        )
    return result


def _peer(make: Make, full: nn.Linear, x: Tensor, exact: Tensor, package: str | None) -> Peer:
    """Prepare a layer of another package; its note tells its error."""
    found: list[float] = []

    def ready() -> Callable[[], object]:
        layer = make(full)
        found.append(_miss(layer(x), exact))
        return lambda: layer(x)

    peer = made(ready, package)
    note = f"the peer's error {found[0]:.4f}" if found else ""
    return Peer(peer.call, peer.package, note=note, reason=peer.reason)


def code(size: int, rounds: int) -> list[dict]:
    """Time NF4 there and back.

    Parameters
    ----------
    size : int
        The matrix is square.
    rounds : int
        Timed rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(2))
    ours = nf4_dequantize(nf4_quantize(x))

    def theirs() -> Callable[[], Tensor]:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        def call() -> Tensor:
            return dequantize_4bit(*quantize_4bit(x, quant_type="nf4", blocksize=64))

        torch.testing.assert_close(call(), ours, rtol=0, atol=1e-5)
        return call

    stored = nf4_quantize(x).nbytes
    return compare(
        f"NF4 there and back, {size} x {size}",
        lambda: nf4_dequantize(nf4_quantize(x)),
        {"bitsandbytes": made(theirs, "bitsandbytes")},
        rounds=rounds,
        why="table look-ups in torch, while the peer's loop is compiled for the processor",
        note=f"the same values; {stored:,} bytes stored, {4 * x.numel():,} in float32",
    )


@torch.no_grad()
def rows(quick: bool = False) -> list[dict]:
    """Measure products and the code.

    Parameters
    ----------
    quick : bool, default False
        One small layer.

    Returns
    -------
    list of dict
        Rows as ``README.md`` describes them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn of what they will drop
        if quick:
            return products(128, 1, 2, 1) + code(64, 2)
        result = []
        for size, rows_in, times in ((1024, 1, 100), (1024, 64, 15), (4096, 1, 10)):
            result += products(size, rows_in, 7, times)
        return result + code(1024, 5)


if __name__ == "__main__":
    main(rows)
