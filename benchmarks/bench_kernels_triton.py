"""The kernels of ``enough.kernels`` beside torch: Triton on an NVIDIA GPU, plain torch elsewhere.

On a GPU the shapes are those where the number of bytes decides: one row, 16,384 inputs and
outputs. Events of the GPU tell the time, and a buffer larger than its cache is written before each
call. The copy of as many bytes as the four-bit kernel reads, measured in the same run, says how far
it is from the limit. Without a GPU the same functions run their references, and the rows of the
kernels say that they did not run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from enough.kernels import (
    fake_quantize_rows,
    fake_quantize_rows_reference,
    int4_matmul,
    int4_matmul_reference,
    int8_matmul,
    triton_available,
)
from side_by_side import as_row, main, not_run

GROUP = 64
FLUSH = 2**29  # bytes, several times the cache of any GPU
REFERENCE = "the reference in plain torch"
KERNEL = "the Triton kernel"


def seconds_each(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time calls in turn, on a GPU by its own clock with a cold cache.

    Parameters
    ----------
    calls : mapping from str to callable
        What to time, by name.
    rounds : int
        Timed rounds, after two that are not.
    device : torch.device
        Where they run.

    Returns
    -------
    dict from str to list of float
        Seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gpu = device.type == "cuda"
    buffer = torch.empty(FLUSH if gpu else 0, dtype=torch.uint8, device=device)
    for number in range(-2, rounds):
        for name, call in calls.items():
            if gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                buffer.zero_()
                start.record()
                call()
                end.record()
                end.synchronize()
                taken = start.elapsed_time(end) / 1e3
            else:
                began = time.perf_counter()
                call()
                taken = time.perf_counter() - began
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def int4(size: int, rows_in: int, device: torch.device) -> tuple[dict, str, float]:
    """Prepare the four-bit product.

    Parameters
    ----------
    size, rows_in : int
        Inputs and outputs; rows of the input.
    device : torch.device
        Where it runs.

    Returns
    -------
    calls : dict of str to callable
        ``""`` is ours.
    note : str
        How far ours is from the product in float64.
    bytes : float
        What ours has to read.
    """
    draw = torch.Generator(device).manual_seed(0)
    at = {"device": device, "generator": draw}
    packed = torch.randint(256, (size, size // 2), dtype=torch.uint8, **at)
    scale = torch.rand(size, size // GROUP, **at).add(0.5).bfloat16()
    zero = torch.randint(16, scale.shape, dtype=torch.uint8, **at)
    x = torch.randn(rows_in, size, **at).bfloat16()
    given = packed, scale, zero, GROUP
    few = 64
    some = packed[:few], scale[:few], zero[:few], GROUP
    exact = int4_matmul_reference(x.double(), *some)
    apart = (int4_matmul(x, *given)[:, :few].double() - exact).norm() / exact.norm()
    weight = torch.randn(size, size, dtype=torch.bfloat16, **at)
    read = packed.nbytes + scale.nbytes + zero.nbytes
    calls = {
        "": lambda: int4_matmul(x, *given),
        REFERENCE: lambda: int4_matmul_reference(x, *given),
        "bfloat16 weights": lambda: x @ weight.t(),
    }
    if device.type == "cuda":
        source = torch.empty(read // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        calls["a copy that moves as many bytes"] = lambda: target.copy_(source)
    return calls, f"relative error {apart:.0e}", read


def int8(size: int, rows_in: int, device: torch.device) -> tuple[dict, str, float]:
    """Prepare the eight-bit product; parameters and results as those of `int4`."""
    at = {"device": device, "generator": torch.Generator(device).manual_seed(1)}
    a = torch.randint(-127, 128, (rows_in, size), dtype=torch.int8, **at)
    b = torch.randint(-127, 128, (size, size), dtype=torch.int8, **at)
    exact = torch._int_mm(a, b.t())
    assert torch.equal(int8_matmul(a, b), exact)
    short = a.bfloat16(), b.bfloat16()
    calls = {
        "": lambda: int8_matmul(a, b),
        "torch._int_mm": lambda: torch._int_mm(a, b.t()),
        "bfloat16": lambda: short[0] @ short[1].t(),
    }
    return calls, "exact", a.nbytes + b.nbytes


def fake(size: int, rows_in: int, device: torch.device) -> tuple[dict, str, float]:
    """Prepare the rounding of rows; parameters and results as those of `int4`."""
    at = {"device": device, "generator": torch.Generator(device).manual_seed(2)}
    x = torch.randn(rows_in, size, **at)
    scale = torch.rand(rows_in, **at) + 0.1
    zero = torch.zeros(rows_in, device=device)
    whole = zero.to(torch.int32)
    grid = -7, 7
    found = fake_quantize_rows(x, scale, zero, *grid)
    torch.testing.assert_close(found, fake_quantize_rows_reference(x, scale, zero, *grid))
    calls = {
        "": lambda: fake_quantize_rows(x, scale, zero, *grid),
        REFERENCE: lambda: fake_quantize_rows_reference(x, scale, zero, *grid),
        "torch.fake_quantize_per_channel_affine": lambda: torch.fake_quantize_per_channel_affine(
            x, scale, whole, 0, *grid
        ),
    }
    return calls, "equal to the reference", 2 * x.nbytes


WHY = {
    REFERENCE: "the kernel unpacks, shifts and multiplies in one pass, while the reference writes "
    "each step to memory; without a GPU both are the same code",
    "bfloat16 weights": "a quarter of the bytes is read, and they have to be unpacked",
    "a copy that moves as many bytes": "the copy is the limit: it does nothing else",
    "torch._int_mm": "the same product; ours also takes scales, and without a GPU it calls the "
    "peer",
    "bfloat16": "integers of one byte instead of numbers of two",
    "torch.fake_quantize_per_channel_affine": "the same rounding; the peer also writes the mask "
    "of its gradient",
    KERNEL: "the kernel does in one pass what the reference does in several",
}


def rows(quick: bool = False) -> list[dict]:
    """Measure the three kernels.

    Parameters
    ----------
    quick : bool, default False
        Small matrices, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    rounds = 2 if quick else 100 if gpu else 15
    shapes = (
        {"int4": (128, 1), "int8": (128, 32), "fake": (128, 32)} if quick
        else {"int4": (16384, 1), "int8": (8192, 8192), "fake": (8192, 8192)} if gpu
        else {"int4": (1024, 1), "int8": (1024, 64), "fake": (1024, 1024)}
    )  # fmt: skip
    what = {
        "int4": ("four-bit product", int4),
        "int8": ("eight-bit product", int8),
        "fake": ("rounding of rows", fake),
    }
    result = []
    for key, (size, rows_in) in shapes.items():
        name, prepare = what[key]
        calls, note, moved = prepare(size, rows_in, device)
        taken = seconds_each(calls, rounds, device)
        full = f"{name}, {rows_in} x {size}" + (f" x {size}" if key != "fake" else "")
        note += f"; {moved / min(taken['']) / 1e9:.0f} GB/s, median of rounds "
        note += f"{moved / statistics.median(taken['']) / 1e9:.0f}"
        for peer in calls:
            if peer:
                row = as_row(full, taken[""], peer, taken[peer], why=WHY[peer], note=note)
                result.append(row)
        if not triton_available(device):
            reason = "no NVIDIA GPU here" if not gpu else "no Triton here"
            result.append(not_run(full, taken[""], KERNEL, reason, WHY[KERNEL]))
    return result


if __name__ == "__main__":
    main(rows)
