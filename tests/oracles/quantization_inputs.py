"""Inputs that the quantization oracles and the tests draw alike (NumPy's frozen streams)."""

from __future__ import annotations

import numpy as np


def weights(seed: int, rows: int, columns: int, tails: bool = False):
    """Draw a float32 matrix, normal or with the heavy tails of Student's t of 3 degrees."""
    draw = np.random.RandomState(seed)
    values = draw.standard_t(3, (rows, columns)) if tails else draw.standard_normal((rows, columns))
    return values.astype(np.float32)
