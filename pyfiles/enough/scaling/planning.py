"""What a fitted law says about the next run."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize

from enough.runtime.validation import check_integer, check_number
from enough.scaling._table import read_columns
from enough.scaling.fit import Fit

__all__ = [
    "Allocation",
    "allocation_band",
    "compute_optimal",
    "inference_optimal",
    "isoflop_minima",
]


class Allocation(NamedTuple):
    """A model size, a number of tokens, and the loss they give.

    Attributes
    ----------
    params : float or numpy.ndarray
        Parameters N.
    tokens : float or numpy.ndarray
        Tokens D.
    loss : float or numpy.ndarray
        Predicted loss.
    """

    params: Any
    tokens: Any
    loss: Any


def compute_optimal(fit: Fit, flops: Any) -> Allocation:
    """Return the model size and tokens of lowest predicted loss at a compute budget C = 6 N D.

    Parameters
    ----------
    fit : Fit
        A fitted law with columns params and tokens, or its coordinates of compute and multiplier.
    flops : float or array_like
        Budgets in floating-point operations, positive.

    Returns
    -------
    Allocation
        ``params``, ``tokens`` and ``loss``: floats for one budget, arrays for several.

    Raises
    ------
    ValueError
        If a budget is not positive, or the law has no best size.

    Notes
    -----
    For Chinchilla's law the minimum is in closed form, N = G (C/6)^(β/(α+β)) with
    G = (αA/(βB))^(1/(α+β)); other laws are minimized numerically over log N.
    """
    budgets = np.asarray(flops, dtype=np.float64)
    if not (np.isfinite(budgets).all() and (budgets > 0).all()):
        raise ValueError(f"flops: expected numbers > 0, got {flops!r}")
    size = np.array([_best_size(fit, budget) for budget in budgets.ravel()]).reshape(budgets.shape)
    tokens = budgets / 6 / size
    loss = fit.predict({"params": size.ravel(), "tokens": tokens.ravel()}).reshape(budgets.shape)
    if not budgets.ndim:
        return Allocation(float(size), float(tokens), float(loss))
    return Allocation(size, tokens, loss)


def allocation_band(fit: Fit, flops: float, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Return bootstrap intervals of the compute-optimal allocation.

    Parameters
    ----------
    fit : Fit
        A fit with a bootstrap.
    flops : float
        The budget.
    level : float, default 0.95
        Coverage.

    Returns
    -------
    dict of str to tuple of float
        Low and high ends of ``params``, ``tokens``, ``loss`` and, for Chinchilla's law,
        ``exponent``, the power β/(α+β) of compute in the optimal size.

    Raises
    ------
    ValueError
        If the fit has no bootstrap.
    """
    level = check_number(level, "level", above=0, below=1)
    if not fit.bootstrap:
        raise ValueError("fit: expected one with a bootstrap, got none")
    replicas = []
    for row in zip(*fit.bootstrap.values(), strict=True):
        one = _Replica(fit, dict(zip(fit.bootstrap, row, strict=True)))
        replicas.append(compute_optimal(one, flops))
    tail = [(1 - level) / 2, (1 + level) / 2]
    columns = zip(*replicas, strict=True)
    bands = {
        name: tuple(np.quantile(values, tail).tolist())
        for name, values in zip(Allocation._fields, columns, strict=True)
    }
    if {"alpha", "beta"} <= set(fit.bootstrap):
        exponent = fit.bootstrap["beta"] / (fit.bootstrap["alpha"] + fit.bootstrap["beta"])
        bands["exponent"] = tuple(np.quantile(exponent, tail).tolist())
    return bands


def inference_optimal(fit: Fit, loss: float, inference_tokens: float) -> Allocation:
    """Return the cheapest model that reaches a loss when it will also serve tokens.

    The cost is 6 N D for training and 2 N a token of inference.

    Parameters
    ----------
    fit : Fit
        A fitted law with columns params and tokens.
    loss : float
        Target loss.
    inference_tokens : float
        Tokens that the model will read or write in its life, ≥ 0.

    Returns
    -------
    Allocation
        ``params``, ``tokens`` and the ``loss`` they give.

    Raises
    ------
    ValueError
        If no model size reaches the loss.
    """
    target = check_number(loss, "loss", above=0)
    served = check_number(inference_tokens, "inference_tokens", minimum=0)

    def needed(log_n: float) -> float:
        """Logarithm of the tokens that reach the loss; infinite where none does."""
        size = math.exp(log_n)

        def excess(log_d: float) -> float:
            return _loss(fit, size, math.exp(log_d)) - target

        low, high = math.log(1e3), math.log(1e20)
        if excess(high) > 0:
            return math.inf
        return low if excess(low) < 0 else optimize.brentq(excess, low, high, xtol=1e-12)

    def cost(log_n: float) -> float:
        log_d = needed(log_n)
        if math.isinf(log_d):
            return 1e6 - log_n  # larger models first
        return log_n + math.log(6 * math.exp(log_d) + 2 * served)

    grid = np.linspace(math.log(1e3), math.log(1e16), 200)
    values = np.array([cost(g) for g in grid])
    best = int(values.argmin())
    if values[best] > 1e5:
        raise ValueError(f"loss: expected a loss that some size reaches, got {target}")
    ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    log_n = optimize.minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-9}).x
    size, tokens = math.exp(log_n), math.exp(needed(log_n))
    return Allocation(size, tokens, _loss(fit, size, tokens))


def isoflop_minima(table: Any, *, min_points: int = 3) -> pd.DataFrame:
    """Return the best model size at each compute budget, from a parabola in log N.

    Parameters
    ----------
    table : pandas.DataFrame or mapping
        Columns ``flops``, ``params`` and ``loss``; rows with equal flops are one level.
    min_points : int, default 3
        Levels with fewer points are left out.

    Returns
    -------
    pandas.DataFrame
        Columns flops, params, tokens (flops / 6 / params), loss, curvature (second derivative of
        the parabola by log N), points and interior (whether the minimum lies inside the sizes
        tried); one row a level, by flops. A level whose parabola opens downward has NaN params.

    Raises
    ------
    ValueError
        If a column is missing or no level has enough points.
    """
    least = check_integer(min_points, "min_points", minimum=3)
    names = ("flops", "params", "loss")
    columns = {k: v.numpy() for k, v in read_columns(table, names, positive=names).items()}
    rows = []
    for level in np.unique(columns["flops"]):
        here = columns["flops"] == level
        if here.sum() < least or len(np.unique(columns["params"][here])) < 3:
            continue
        x = np.log(columns["params"][here])
        center = x.mean()
        second, first, floor = np.polyfit(x - center, columns["loss"][here], 2)
        at = -first / (2 * second) if second > 0 else math.nan
        size = math.exp(at + center) if second > 0 else math.nan
        rows.append(
            {
                "flops": level,
                "params": size,
                "tokens": level / 6 / size,
                "loss": floor + first * at / 2,
                "curvature": 2 * second,
                "points": int(here.sum()),
                "interior": bool(x.min() < at + center < x.max()),
            }
        )
    if not rows:
        raise ValueError(f"table: expected a level of flops with at least {least} sizes, got none")
    return pd.DataFrame(rows)


class _Replica:
    """A fit's law with the parameters of one replica."""

    def __init__(self, fit: Fit, params: dict[str, float]) -> None:
        self.law, self.params, self._settings = fit.law, params, fit._settings

    def predict(self, data: Any) -> np.ndarray:
        return self.law.evaluate(self.params, data, **self._settings)


def _loss(fit: Any, size: float, tokens: float) -> float:
    return float(fit.predict({"params": [size], "tokens": [tokens]})[0])


def _best_size(fit: Any, budget: float) -> float:
    p = fit.params
    if {"A", "B", "alpha", "beta"} <= set(p) and all(p[s] > 0 for s in ("A", "B", "alpha", "beta")):
        total = p["alpha"] + p["beta"]
        scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total)
        return scale * (budget / 6) ** (p["beta"] / total)

    def at(log_n: float) -> float:
        size = math.exp(log_n)
        return _loss(fit, size, budget / 6 / size)

    grid = np.linspace(0.0, math.log(budget / 6), 200)
    values = np.array([at(g) for g in grid])
    best = int(values.argmin())
    if best in (0, len(grid) - 1):
        raise ValueError(f"fit: expected a law with a best size inside the budget {budget:g}")
    found = optimize.minimize_scalar(
        at, bounds=(grid[best - 1], grid[best + 1]), method="bounded", options={"xatol": 1e-10}
    )
    return math.exp(found.x)
