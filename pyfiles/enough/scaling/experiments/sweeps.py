"""The sweeps of Part V by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

import numpy as np

from enough.runtime import derive_seed
from enough.scaling.experiments import fitting, measuring
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS", "coverage", "neighbors", "translation"]


def coverage(rows: int, replicas: int, seed: int) -> dict[str, bool]:
    """Say whether the bootstrap interval of the optimal size's exponent covers the truth.

    Parameters
    ----------
    rows, replicas, seed : int
        As in `fitting.coverage_point`.

    Returns
    -------
    dict
        ``covers``.
    """
    covers = fitting.coverage_point(rows=rows, replicas=replicas, seed=seed)
    return {"covers": bool(covers)}


def translation(seed: int) -> dict[str, float]:
    """Return the advantage of a (1/D + C)^p on a table that the other form generated.

    Parameters
    ----------
    seed : int
        Seed of the table.

    Returns
    -------
    dict
        ``advantage``.
    """
    return {"advantage": float(fitting.translation_point(seed=seed))}


def neighbors(dimension: int, samples: list[int], trials: int, seed: int) -> dict[str, np.ndarray]:
    """Measure the error of nearest-neighbor regression over the number of samples.

    Parameters
    ----------
    dimension : int
        As in `measuring.nearest_neighbor_point`.
    samples : list of int
        As there.
    trials, seed : int
        As there.

    Returns
    -------
    dict
        ``error``, of shape (samples, trials).
    """
    error = measuring.nearest_neighbor_point(dimension, samples, trials=trials, seed=seed)
    return {"error": error}


def _seeds(seed: int, name: str, n: int) -> list[int]:
    return [derive_seed(seed, name, i) for i in range(n)]


def _coverage(preset: str, seed: int, device: str) -> Grid:
    tables = {"cpu": 40, "gpu": 400, "full": 1000}[preset]
    return {"rows": [240], "replicas": [50], "seed": _seeds(seed, "coverage", tables)}


def _translation(preset: str, seed: int, device: str) -> Grid:
    return {"seed": _seeds(seed, "forms", {"cpu": 10, "gpu": 40, "full": 100}[preset])}


def _bivariate(preset: str, seed: int, device: str) -> Grid:
    draws = {"cpu": 10, "gpu": 40, "full": 100}[preset]
    return [
        {"p_e": p_e, "p_d": p_d, "seed": derived}
        for p_e, p_d in ((0.2, 0.3), (0.25, 0.25))
        for derived in _seeds(seed, "sides", draws)
    ]


def _bytes(preset: str, seed: int, device: str) -> Grid:
    widths, context, steps, batch, lr, repeats = {
        "cpu": ([8, 16, 32, 64], 4, 600, 64, 1.6e-2, 1),
        "gpu": ([16, 32, 64, 128, 256, 512], 8, 1500, 256, 4e-3, 4),
        "full": ([16, 32, 64, 128, 256, 512, 1024], 8, 6000, 256, 4e-3, 8),
    }[preset]
    common = {
        "context": context, "steps": steps, "batch": batch, "lr": lr, "members": 4,
        "device": device,
    }  # fmt: skip
    return [
        common | {"width": width, "seed": derived}
        for width in widths
        for derived in _seeds(seed, "bytes", repeats)
    ]


def _sources(preset: str, seed: int, device: str) -> Grid:
    repeats = {"cpu": 1, "gpu": 4, "full": 16}[preset]
    return {
        "width": [1, 2, 4, 8, 16, 32], "symbols": [128], "members": [8],
        "seed": _seeds(seed, "sources", repeats), "device": [device],
    }  # fmt: skip


def _neighbors(preset: str, seed: int, device: str) -> Grid:
    repeats, most = {"cpu": (2, 13), "gpu": (4, 15), "full": (16, 17)}[preset]
    return {
        "dimension": [1, 2, 3], "samples": [[2**i for i in range(8, most + 1)]], "trials": [5],
        "seed": _seeds(seed, "neighbors", repeats),
    }  # fmt: skip


SWEEPS = {
    "bytes": SweepPlan(
        measuring.byte_point, _bytes, "scaling/measuring",
        "The loss of byte models over their width.",
    ),
    "sources": SweepPlan(
        measuring.source_point, _sources, "scaling/measuring",
        "The loss of models of sources whose entropy is known, over their width.",
    ),
    "neighbors": SweepPlan(
        neighbors, _neighbors, "scaling/measuring",
        "The error of the nearest neighbor over samples and dimensions.",
    ),
    "bootstrap-coverage": SweepPlan(
        coverage, _coverage, "scaling/fitting",
        "How often the bootstrap interval of the optimal size's exponent covers the truth.",
    ),
    "translation": SweepPlan(
        translation, _translation, "scaling/fitting",
        "The advantage of one form of the translation law on tables that the other generated.",
    ),
    "two-sided": SweepPlan(
        fitting.bivariate_point, _bivariate, "scaling/fitting",
        "Laws fitted to models that grow on one side, tested on models that grow on both.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
