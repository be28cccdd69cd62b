"""Chinchilla's law on its 240 points: our fit beside the recipe of many starts.

Peers are measured where they are installed; run with an environment that holds them::

    PYTHONPATH=pyfiles .venv-oracles/bin/python benchmarks/bench_scaling_fits.py

The recipe minimizes the sum of Huber losses by L-BFGS-B from 4500 starts, with an analytic
gradient and tight tolerances; a share of the starts is run and the time scaled. Where the table is
not at hand a generated one of the same form takes its place, and the note says so.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy.optimize import minimize

from enough.scaling import ChinchillaLaw, published
from side_by_side import interleave, spread

DELTA = 1e-3
STARTS = list(
    itertools.product(
        np.arange(0, 30, 5), np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5),
        np.arange(0, 2.5, 0.5), np.arange(0, 2.5, 0.5),
    )
)  # fmt: skip


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
    size = np.abs(residual)
    loss = np.where(size <= DELTA, residual**2 / 2, DELTA * (size - DELTA / 2)).sum()
    first, second, third = slope * share
    gradient = [first.sum(), second.sum(), third.sum(), -(first @ n), -(second @ d)]
    return loss, np.array(gradient)


def recipe(n: np.ndarray, d: np.ndarray, y: np.ndarray, starts: list) -> float:
    """Return the lowest objective over the starts."""
    options = {"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-12}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        ends = [
            minimize(objective, s, (n, d, y), jac=True, method="L-BFGS-B", options=options).fun
            for s in starts
        ]
    return float(np.nanmin(ends))


def rows(share: float = 0.01, repeats: int = 5) -> list[dict]:
    """Measure our fits and their peers.

    Parameters
    ----------
    share : float
        Part of the 4500 starts that is run; the time is scaled.
    repeats : int
        Timed runs of our calls, interleaved; the minimum counts.

    Returns
    -------
    list of dict
        Keys name, ours_s, peer, peer_s, ratio (peer over ours), spread (ours: slowest over
        fastest), note (the objectives found).
    """
    points = published.chinchilla_points()
    table = points.table[points.table.loss < np.sort(points.table.loss)[-5]]
    logs = [np.log(table[c].to_numpy()) for c in ("params", "tokens", "loss")]
    ours: dict[str, Callable[[], object]] = {
        "complete (8 starts, diagnostics)": lambda: ChinchillaLaw.fit(table),
        "starts=1": lambda: ChinchillaLaw.fit(table, starts=1),
        "1000 bootstrap replicas": lambda: ChinchillaLaw.fit(table, bootstrap=1000, generator=0),
    }
    found: dict[str, float] = {}
    count = max(1, round(share * len(STARTS)))
    chosen = np.random.default_rng(0).choice(len(STARTS), count, replace=False)
    picked = [STARTS[i] for i in chosen]
    peers: dict[str, tuple[Callable[[], float], float]] = {
        f"{len(STARTS)} starts, {count} run": (
            lambda: recipe(*logs, picked),
            len(STARTS) / count,
        )
    }
    if find_spec("chinchilla"):
        peers["chinchilla package, 432 starts"] = (lambda: package(table), 1.0)
    seconds = interleave(ours, repeats)
    best = ChinchillaLaw.fit(table).objective
    theirs = {}
    for name, (call, factor) in peers.items():
        times = interleave(
            {name: lambda name=name, call=call: found.update({name: call()})}, 1, warm_up=0
        )
        theirs[name] = min(times[name]) * factor
    result = []
    for name, times in seconds.items():
        base = {"name": name, "ours_s": min(times), "spread": spread(times)}
        if "bootstrap" in name:
            result.append({**base, "peer": "", "peer_s": None, "ratio": None, "note": ""})
            continue
        for peer, taken in theirs.items():
            note = f"objective: ours {best:.10e}, peer {found[peer]:.10e}"
            note += "" if points.real else "; generated table"
            row = {**base, "peer": peer, "peer_s": taken, "ratio": taken / min(times)}
            result.append({**row, "note": note})
    return result


def package(table: object) -> float:
    """Return the objective where the PyPI package ``chinchilla`` ends, on our points."""
    import tempfile

    from chinchilla import Chinchilla

    grid = {
        "e": np.linspace(1.1, 1.5, 3), "a": np.linspace(1, 10, 4), "b": np.linspace(1, 10, 4),
        "alpha": np.linspace(0.1, 0.7, 3), "beta": np.linspace(0.1, 0.7, 3),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        model = Chinchilla(folder, param_grid=grid)
        for _, row in table.iterrows():
            model.database.append(C=row.flops, N=row.params, D=row.tokens, loss=row.loss)
        model.fit(parallel=False)
        p = model.get_params()
    theta = [np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]]
    logs = [np.log(table[c].to_numpy()) for c in ("params", "tokens", "loss")]
    return float(objective(np.array(theta), *logs)[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'fit':36}{'ours s':>9}{'spread':>8}  {'peer':34}{'peer s':>9}{'ratio':>9}")
    for row in rows(options.share, options.repeats):
        peer = "" if row["peer_s"] is None else f"{row['peer_s']:9.2f}{row['ratio']:9.0f}"
        print(
            f"{row['name']:36}{row['ours_s']:9.4f}{row['spread']:8.2f}  {row['peer']:34}{peer}  "
            f"{row['note']}"
        )


if __name__ == "__main__":
    main()
