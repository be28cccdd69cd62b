"""Chinchilla's law on its 240 points: what does the global optimum cost, and who finds it?

All sides minimize the same sum of Huber losses of the logarithms, width 0.001. The recipe starts
L-BFGS-B at 4500 points of a grid, with an analytic gradient and tight tolerances; a share of the
starts is run and the time multiplied. The PyPI package ``chinchilla`` starts BFGS from a grid of
its own. Where the table is not at hand a generated one of the same form takes its place, and the
notes say so.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from enough.scaling import ChinchillaLaw, published
from side_by_side import Peer, absent, compare, main

DELTA = 1e-3
STARTS = list(
    itertools.product(
        np.arange(0, 30, 5), np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5),
    )
)  # fmt: skip
#: Starts of the peer package, by its names: 432 in all.
GRID = {
    "e": np.linspace(1.1, 1.5, 3), "a": np.linspace(1, 10, 4), "b": np.linspace(1, 10, 4),
    "alpha": np.linspace(0.1, 0.7, 3), "beta": np.linspace(0.1, 0.7, 3),
}  # fmt: skip


def objective(theta: np.ndarray, n: np.ndarray, d: np.ndarray, y: np.ndarray) -> tuple:
    """Return the sum of Huber losses in (ln A, ln B, ln E, α, β), and its gradient."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
    top = terms.max(0)
    share = np.exp(terms - top)
    total = share.sum(0)
    share /= total
    residual = top + np.log(total) - y
    slope = np.clip(residual, -DELTA, DELTA)
    first, second, third = slope * share
    gradient = [first.sum(), second.sum(), third.sum(), -(first @ n), -(second @ d)]
    return huber(residual).sum(), np.array(gradient)


def huber(residual: np.ndarray) -> np.ndarray:
    """Return Huber's loss of each residual."""
    size = np.abs(residual)
    return np.where(size <= DELTA, residual**2 / 2, DELTA * (size - DELTA / 2))


def recipe(logs: list[np.ndarray], starts: list) -> float:
    """Return the lowest objective over the starts."""
    options = {"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-12}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        ends = [
            minimize(objective, s, tuple(logs), jac=True, method="L-BFGS-B", options=options).fun
            for s in starts
        ]
    return float(np.nanmin(ends))


def package(table, logs: list[np.ndarray], grid: dict) -> Callable[[], float]:
    """Return a call that fits with the package ``chinchilla`` and gives the objective there."""
    from chinchilla import Chinchilla

    folder = tempfile.TemporaryDirectory()

    def scaled(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        # The package takes the mean: multiplied by the rows it is our sum.
        return len(y_true) * huber(np.log(y_pred) - np.log(y_true))

    model = Chinchilla(folder.name, param_grid=grid, loss_fn=scaled, log_level=50)
    model.visualizer.optim = lambda *args, **kwargs: None  # its figure is no part of the fit
    for row in table.itertuples():
        model.database.append(C=row.flops, N=row.params, D=row.tokens, loss=row.loss)

    def fit(keep: tempfile.TemporaryDirectory = folder) -> float:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            model.fit(parallel=False)
        p = {name: float(value) for name, value in model.get_params().items()}
        theta = [np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]]
        return float(objective(np.array(theta), *logs)[0])

    return fit


def rows(quick: bool = False) -> list[dict]:
    """Measure our fits beside the recipe and the package.

    Parameters
    ----------
    quick : bool, default False
        Few starts, few replicas, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    points = published.chinchilla_points()
    table = points.table[points.table.loss < np.sort(points.table.loss)[-5]]
    logs = [np.log(table[c].to_numpy()) for c in ("params", "tokens", "loss")]
    count = 3 if quick else 45
    chosen = np.random.default_rng(0).choice(len(STARTS), count, replace=False)
    picked = [STARTS[i] for i in chosen]
    grid = {name: values[1:2] for name, values in GRID.items()} if quick else GRID
    starts = int(np.prod([len(values) for values in grid.values()]))
    best = ChinchillaLaw.fit(table).objective
    recipe_name, package_name = f"L-BFGS-B, {len(STARTS)} starts", f"chinchilla, {starts} starts"
    found: dict[str, float] = {}

    def run(name: str, call: Callable[[], float]) -> Callable[[], None]:
        return lambda: found.update({name: call()})

    peers = {
        recipe_name: Peer(
            run(recipe_name, lambda: recipe(logs, picked)), scale=len(STARTS) / count
        ),
        package_name: Peer(
            run(
                package_name, (lambda: best) if absent("chinchilla") else package(table, logs, grid)
            ),
            package="chinchilla",
        ),
    }
    projected = "coefficients in closed form on a grid over the exponents give the starts of a "
    why = {
        recipe_name: projected
        + "Newton method, while the recipe runs a quasi-Newton method from every point of a grid",
        package_name: projected
        + "Newton method, while the package runs BFGS with numerical gradients in long double",
    }
    note = f"{len(table)} points" + ("" if points.real else ", generated")
    rounds = 2 if quick else 5
    result = []
    for title, options in (("8 starts and diagnostics", {}), ("1 start", {"starts": 1})):
        result += compare(
            f"Chinchilla's law, {title}",
            lambda options=options: ChinchillaLaw.fit(table, **options),
            peers if not options else {recipe_name: peers[recipe_name]},
            rounds=rounds,
            why=why,
            note=note,
        )
    for row in result:
        if row["peer"] in found:
            row["note"] += f"; objective of the peer over ours {found[row['peer']] / best:.6f}"
    replicas = 20 if quick else 1000
    return result + compare(
        f"Chinchilla's law, {replicas} bootstrap replicas",
        lambda: ChinchillaLaw.fit(table, bootstrap=replicas, generator=0),
        rounds=rounds,
        note=note,
    )


if __name__ == "__main__":
    main(rows)
