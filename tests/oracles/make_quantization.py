"""Ask peer packages to quantize small fixed matrices and write their answers to a JSON file.

Run in an environment of its own, never in the book's:

    python -m venv .venv-oracles
    .venv-oracles/bin/pip install torch
    .venv-oracles/bin/pip install bitsandbytes optimum-quanto
    .venv-oracles/bin/python tests/oracles/make_quantization.py

bitsandbytes puts the first of two codes in the high half of a byte; codes are unpacked here,
so the order does not matter to the tests. Its CPU code for the 8-bit absmax does not always take
the nearest level (measured: 2 of 300 blocks), so the tests ask for no larger an error than its own.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from optimum.quanto import absmax_scale, qint8, quantize_weight
from quantization_inputs import weights

PACKAGES = ["bitsandbytes", "optimum-quanto", "torch", "numpy"]
CASES = [[0, 16, 64, False], [1, 33, 64, True], [2, 5, 13, False], [3, 300, 64, True]]


def nf4(case: list, block_size: int, double: bool) -> dict:
    """Quantize with bitsandbytes; a checksum of the codes and the first dequantized entries."""
    x = torch.from_numpy(weights(*case))
    packed, state = bnb.quantize_4bit(
        x, blocksize=block_size, quant_type="nf4", compress_statistics=double
    )
    codes = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), 1).flatten()
    codes = codes[: x.numel()].long()
    back = bnb.dequantize_4bit(packed, state)
    return {
        "case": case,
        "block_size": block_size,
        "double": double,
        "code_counts": torch.bincount(codes, minlength=16).tolist(),
        "code_checksum": int((codes * (torch.arange(len(codes)) % 997 + 1)).sum()),
        "first_values": back.flatten()[:24].tolist(),
        "squared_error": float((back - x).double().square().sum()),
        "absmax_codes": state.absmax[:24].tolist() if double else None,
    }


def int8(case: list) -> dict:
    """Quantize rows with optimum-quanto: symmetric, eight bits, one scale a row."""
    x = torch.from_numpy(weights(*case))
    q = quantize_weight(x, qtype=qint8, axis=0, scale=absmax_scale(x, qint8, axis=0))
    return {
        "case": case,
        "scale": q._scale.flatten()[:8].tolist(),
        "first_values": q.dequantize().flatten()[:24].tolist(),
        "squared_error": float((q.dequantize() - x).double().square().sum()),
    }


def main() -> None:
    """Write ``quantization.json`` beside this script."""
    answers = {
        "command": "python tests/oracles/make_quantization.py",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "nf4_table": bnb.get_4bit_type("nf4", device="cpu").tolist(),
        "dynamic_table": bnb.create_dynamic_map().tolist(),
        "nf4": [
            nf4(case, block_size, double)
            for case in CASES
            for block_size in (32, 64)
            for double in (False, True)
        ],
        "int8": [int8(case) for case in CASES],
    }
    lines = []
    for key, value in answers.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            lines.append(f' "{key}": [\n  {rows}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value)}')
    path = Path(__file__).with_name("quantization.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
