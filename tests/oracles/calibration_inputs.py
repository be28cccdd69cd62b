"""Inputs that the calibration oracles and the tests draw alike (NumPy's frozen streams)."""

from __future__ import annotations

import numpy as np


def table(seed: int, n_samples: int, n_classes: int, scale: float, truth: float):
    """Draw logits, and labels from softmax(truth · logits)."""
    draw = np.random.RandomState(seed)
    logits = scale * draw.standard_normal((n_samples, n_classes))
    true = softmax(truth * logits)
    labels = (true.cumsum(1) < draw.random_sample((n_samples, 1))).sum(1)
    return logits, np.minimum(labels, n_classes - 1)


def binary(seed: int, n_samples: int, scale: float, slope: float, shift: float):
    """Draw log odds, and outcomes from sigmoid(slope · odds + shift)."""
    draw = np.random.RandomState(seed)
    odds = scale * draw.standard_normal(n_samples)
    return odds, (draw.random_sample(n_samples) < sigmoid(slope * odds + shift)).astype(int)


def softmax(logits):
    """Return the softmax of each row."""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def sigmoid(odds):
    """Return the logistic function."""
    return 1.0 / (1.0 + np.exp(-odds))
