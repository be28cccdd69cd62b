"""Inputs that the rewards oracles and the tests draw alike (NumPy's frozen streams)."""

from __future__ import annotations

import numpy as np


def log_probs(seed: int, n_pairs: int, length: int, drift: float):
    """Draw log-probabilities of tokens, (policy or reference, chosen or rejected, pair, token)."""
    draw = np.random.RandomState(seed)
    reference = -draw.exponential(1.5, (2, n_pairs, length))
    policy = reference + drift * draw.standard_normal((2, n_pairs, length))
    return np.stack([np.minimum(policy, 0.0), reference])


def rewards(seed: int, n_pairs: int, scale: float):
    """Draw rewards of chosen and rejected answers, (2, n_pairs)."""
    return scale * np.random.RandomState(seed).standard_normal((2, n_pairs))


def pool(seed: int, n_answers: int, ties: int):
    """Draw proxy and gold of a pool; with ``ties`` > 0 the proxy takes so many values."""
    draw = np.random.RandomState(seed)
    proxy, gold = draw.standard_normal((2, n_answers))
    return (np.floor(ties * draw.random_sample(n_answers)) if ties else proxy), gold
