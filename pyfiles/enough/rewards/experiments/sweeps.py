"""The sweeps of Part III by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from enough.rewards.experiments.best_of_n import overoptimization_point
from enough.rewards.experiments.reward_ensembles import ensemble_point
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS"]

_WORLDS = 4  # a point; further worlds come from further seeds
_REPEATS = {"cpu": 2, "gpu": 16, "full": 64}
_POOL = {"cpu": 4096, "gpu": 32_768, "full": 131_072}


def _counts(pool: int) -> list[int]:
    return [2**i for i in range(13) if 2**i <= pool // 2]


def _best_of_n(preset: str, seed: int, device: str) -> Grid:
    pool = _POOL[preset]
    return {
        "world": ["burst", "naive"], "noises": [[0.0], [0.25]], "n_pairs": [1000],
        "worlds": [_WORLDS], "members": [3], "pool": [pool], "counts": [_counts(pool)],
        "seed": list(range(seed, seed + _REPEATS[preset])), "device": [device],
    }  # fmt: skip


def _herding(preset: str, seed: int, device: str) -> Grid:
    pool = _POOL[preset]
    return {
        "worlds": [_WORLDS], "members": [5], "n_pairs": [2000, 8000], "mislabeled": [0, 2],
        "pool": [pool], "counts": [_counts(pool)],
        "seed": list(range(seed, seed + _REPEATS[preset])), "device": [device],
    }  # fmt: skip


SWEEPS = {
    "best-of-n": SweepPlan(
        overoptimization_point, _best_of_n, "rewards/best_of_n",
        "Best-of-n against learned reward models, worlds a few at a time.",
    ),
    "herding": SweepPlan(
        ensemble_point, _herding, "rewards/reward_ensembles",
        "Ensembles of reward models whose annotator errs, and whose annotator does not.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
