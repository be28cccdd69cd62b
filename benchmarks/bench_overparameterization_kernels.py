"""Kernel matrices and gradients of single examples, beside the ways most people take.

2,000 points with 64 entries in float64. scikit-learn knows the Gaussian kernel; for the Laplacian
of Euclidean distances its own L1 kernel does not serve, so SciPy's distances do; the neural
tangent kernel is the recursion over layers on whole matrices in NumPy.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from enough.overparameterization import (
    gradient_coherence,
    laplacian_kernel,
    neural_tangent_kernel,
    rbf_kernel,
)
from side_by_side import Peer, compare, main

WIDTH = 5.0
DEPTH = 3


def tangent(x: np.ndarray, depth: int) -> np.ndarray:
    """Compute the neural tangent kernel of a ReLU network, layer by layer, on whole matrices."""
    inner = x @ x.T
    norms = np.sqrt(np.diag(inner))
    scale = np.outer(norms, norms)
    kernel, tangents = inner, inner
    for _ in range(depth):
        cosine = np.clip(kernel / scale, -1.0, 1.0)
        angle = np.arccos(cosine)
        slope = (np.pi - angle) / np.pi
        kernel = scale * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / np.pi
        tangents = kernel + tangents * slope
    return tangents


def one_by_one(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Compute the coherence from one backward pass an example."""
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    every = torch.stack(rows).double()
    return float(every.mean(0).square().sum() / every.square().sum(1).mean())


def rows(quick: bool = False) -> list[dict]:
    """Measure kernels and gradients.

    Parameters
    ----------
    quick : bool, default False
        Few points, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    n, rounds = (50, 2) if quick else (2000, 5)
    x = torch.randn(n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = x.numpy()

    def gaussian() -> np.ndarray:
        from sklearn.metrics.pairwise import rbf_kernel as peer

        return peer(given, gamma=1 / (2 * WIDTH**2))

    def laplacian() -> np.ndarray:
        from scipy.spatial.distance import cdist

        return np.exp(-cdist(given, given) / WIDTH)

    cases = {
        "Gaussian kernel": (
            lambda: rbf_kernel(x, bandwidth=WIDTH), gaussian, "scikit-learn", "sklearn",
            "both take distances from a matrix product; ours computes a pair once, in blocks that "
            "fit a cache, and takes close points one by one, which keeps their digits",
        ),
        "Laplacian kernel": (
            lambda: laplacian_kernel(x, bandwidth=WIDTH), laplacian, "SciPy's distances", "scipy",
            "ours takes distances from a matrix product but for close points, and each pair once, "
            "while the peer adds up squares of differences pair by pair",
        ),
        f"neural tangent kernel, depth {DEPTH}": (
            lambda: neural_tangent_kernel(x, depth=DEPTH), lambda: tangent(given, DEPTH),
            "NumPy on whole matrices", None,
            "both share the angle of two moments; ours computes a pair once, in blocks that fit a "
            "cache, while the peer goes through whole matrices",
        ),
    }  # fmt: skip
    result = []
    for name, (ours, theirs, peer, package, why) in cases.items():
        mine, other = np.asarray(ours()), theirs()
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6 * np.abs(mine).max())
        apart = np.abs(mine - other).max() / np.abs(mine).max()
        result += compare(
            f"{name}, {n:,} x {x.shape[1]} float64",
            ours,
            {peer: Peer(theirs, package)},
            rounds=rounds,
            why=why,
            note=f"relative difference {apart:.0e}",
        )
    return result + gradients(20 if quick else 500, 8 if quick else 64, rounds)


def gradients(n: int, width: int, rounds: int) -> list[dict]:
    """Measure the coherence of a network's gradients.

    Parameters
    ----------
    n, width : int
        Examples and hidden units.
    rounds : int
        Timed rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    draw = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    x, y = torch.randn(n, 64, generator=draw), torch.randint(10, (n,), generator=draw)
    ours, theirs = gradient_coherence(model, x, y).alignment, one_by_one(model, x, y)
    return compare(
        f"coherence of {n} gradients, network 64-{width}-10",
        lambda: gradient_coherence(model, x, y),
        {"one backward pass an example": lambda: one_by_one(model, x, y)},
        rounds=rounds,
        why="all examples at once by vmap, while the peer calls the network for each",
        note=f"relative difference {abs(ours / theirs - 1):.0e}",
    )


if __name__ == "__main__":
    main(rows)
