"""GPU kernels in Triton, each with a reference in plain torch.

Call `int4_matmul`, `int8_matmul` and `fake_quantize_rows`: they run the Triton kernel on an
NVIDIA GPU where Triton is installed, and the reference elsewhere.
"""

from enough.kernels.availability import triton_available
from enough.kernels.matmul import (
    int4_matmul,
    int4_matmul_reference,
    int8_matmul,
    int8_matmul_reference,
)
from enough.kernels.nibbles import join_nibbles, split_nibbles
from enough.kernels.rounding import fake_quantize_rows, fake_quantize_rows_reference

__all__ = [
    "fake_quantize_rows",
    "fake_quantize_rows_reference",
    "int4_matmul",
    "int4_matmul_reference",
    "int8_matmul",
    "int8_matmul_reference",
    "join_nibbles",
    "split_nibbles",
    "triton_available",
]
