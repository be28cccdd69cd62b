"""Starting points by variable projection: a grid over exponents, everything else in closed form."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

__all__ = ["best_distinct", "nonnegative_least_squares"]


def nonnegative_least_squares(columns: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Solve many small non-negative least-squares problems exactly.

    Every subset of columns is solved as an ordinary least-squares problem, and the best solution
    without a negative coefficient is kept. Meant for a few columns (K ≤ 4).

    Parameters
    ----------
    columns : torch.Tensor, shape (G, n, K)
        One matrix a problem.
    target : torch.Tensor, shape (n,)
        Common right-hand side.

    Returns
    -------
    coefficients : torch.Tensor, shape (G, K)
        Not negative.
    residual : torch.Tensor, shape (G,)
        Sum of squared residuals.
    """
    size = columns.norm(dim=1).clamp_min(1e-300)  # (G, K)
    unit = columns / size[:, None]
    gram, moment = unit.mT @ unit, torch.einsum("gnk,n->gk", unit, target)
    total = target.square().sum()
    best = torch.zeros_like(moment)
    lowest = total.expand(len(moment)).clone()
    width = columns.shape[2]
    for count in range(1, width + 1):
        for subset in combinations(range(width), count):
            index = list(subset)
            block = gram[:, index][:, :, index] + 1e-13 * torch.eye(count, dtype=gram.dtype)
            solution = torch.linalg.solve(block, moment[:, index])
            residual = total - (solution * moment[:, index]).sum(-1)
            better = (solution >= 0).all(-1) & (residual < lowest)
            lowest = torch.where(better, residual, lowest)
            candidate = torch.zeros_like(best)
            candidate[:, index] = solution
            best = torch.where(better[:, None], candidate, best)
    return best / size, lowest.clamp_min(0.0)


def best_distinct(score: Tensor, shape: tuple[int, ...], count: int) -> Tensor:
    """Return flat positions of the ``count`` best grid points, local minima first.

    Parameters
    ----------
    score : torch.Tensor, shape (G,)
        Lower is better.
    shape : tuple of int
        The grid's shape; its product is G.
    count : int
        How many to return.

    Returns
    -------
    torch.Tensor, shape (count,)
        Positions, the best first; no two are neighbors as long as the grid has others.
    """
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(s) for s in shape), indexing="ij"), -1
    ).flatten(0, -2)
    free = torch.ones(len(score), dtype=torch.bool)
    chosen: list[int] = []
    radius = max(1, min(shape) // 8)
    while len(chosen) < count:
        if not free.any():
            free = torch.ones_like(free)
            free[chosen] = False
            radius = 0
            if not free.any():
                break
        at = int(torch.where(free, score, torch.inf).argmin())
        chosen.append(at)
        free &= (grid - grid[at]).abs().amax(-1) > radius
    return torch.tensor(chosen)
