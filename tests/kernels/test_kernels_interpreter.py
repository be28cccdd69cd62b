"""The Triton kernels on the CPU, in Triton's interpreter, where Triton is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_kernels_pass_in_tritons_interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("these tests already run in Triton's interpreter")
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed, so its interpreter cannot run the kernels")
    here = Path(__file__).parent
    modules = [str(here / f"test_kernels_{name}.py") for name in ("matmul", "rounding")]
    # Triton reads the variable when a kernel is defined: that takes a process of its own. Without
    # a GPU in sight, so that a test on one is not taken for a test in the interpreter.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules],
        cwd=here.parent.parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) > 50, done.stdout[-2000:]
