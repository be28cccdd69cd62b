"""The sweeps of Part V by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from enough.runtime import derive_seed
from enough.scaling.experiments import fitting
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS", "coverage", "translation"]


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


SWEEPS = {
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
