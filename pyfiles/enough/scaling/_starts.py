"""Starting points by variable projection: a grid over exponents, everything else in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor

from enough.runtime import chunks

__all__ = ["best_distinct", "nonnegative_least_squares", "separable_least_squares"]

_MEMORY = 32 * 2**20  # bytes of working arrays at a time


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
    best, lowest = _best_subset(gram, moment, target.square().sum())
    return best / size, lowest


def separable_least_squares(
    columns: Callable[[slice], Sequence[Tensor]], index: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve the problems of `nonnegative_least_squares` whose columns are shared by many.

    On a grid over exponents a column depends on its own exponents alone: products of pairs of
    different columns, summed over blocks of rows, hold everything that the problems need.

    Parameters
    ----------
    columns : callable
        Maps a block of the n rows to K matrices, the k-th of shape (G_k, rows): the different
        k-th columns.
    index : torch.Tensor, shape (G, K)
        Which of them each problem has.
    target : torch.Tensor, shape (n,)
        Common right-hand side.

    Returns
    -------
    coefficients : torch.Tensor, shape (G, K)
        Not negative.
    residual : torch.Tensor, shape (G,)
        Sum of squared residuals.
    """
    width = index.shape[1]
    bytes_a_row = 16 * int((index.amax(0) + 1).sum())
    pairs = list(combinations_with_replacement(range(width), 2))
    products: list[Tensor] = []
    for rows in chunks(len(target), bytes_a_row, _MEMORY):
        block = columns(rows)
        parts = [block[k] @ block[j].T for k, j in pairs]
        parts += [one @ target[rows] for one in block]
        products = [a + b for a, b in zip(products, parts, strict=True)] if products else parts
    gram = torch.empty(len(index), width, width, dtype=target.dtype)
    for (k, j), product in zip(pairs, products, strict=False):
        gram[:, k, j] = gram[:, j, k] = product[index[:, k], index[:, j]]
    moment = torch.stack([m[at] for m, at in zip(products[len(pairs) :], index.T, strict=True)], -1)
    size = gram.diagonal(dim1=1, dim2=2).sqrt().clamp_min(1e-300)  # (G, K)
    best, lowest = _best_subset(
        gram / size[:, None] / size[..., None], moment / size, target.square().sum()
    )
    return best / size, lowest


def _best_subset(gram: Tensor, moment: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients and residuals from the products of columns of length 1."""
    best = torch.zeros_like(moment)
    lowest = total.expand(len(moment)).clone()
    width = moment.shape[1]
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
    return best, lowest.clamp_min(0.0)


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
