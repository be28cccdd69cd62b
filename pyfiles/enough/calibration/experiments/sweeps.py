"""The sweeps of Part II by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from typing import Any

import numpy as np

from enough.calibration.experiments.measuring import (
    calibrated_point,
    coverage_point,
    network_point,
    network_table,
    smooth_point,
)
from enough.calibration.experiments.overlap import overlap_gaussian_point, overlap_line_point
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS", "networks"]


def networks(
    task: str, steps: int, lr: float, members: int, seed: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Train networks and measure their calibration.

    Parameters
    ----------
    task, steps, lr, members : str, int, float, int
        As in `network_point`.
    seed : int
        Seed of splits and weights.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    dict
        The columns of `network_table`, each of shape (members,).
    """
    found = network_point(task, members, steps, lr, seed=seed, device=device)
    table = network_table(found["probs"], found["labels"])
    return {name: table[name].to_numpy() for name in table}


def _floor(preset: str, seed: int, device: str) -> Grid:
    trials, repeats = {"cpu": (500, 1), "gpu": (1000, 4), "full": (1000, 10)}[preset]
    return {
        "n_samples": [500, 2000, 8000], "n_bins": [5, 10, 15, 20, 30, 50, 100],
        "trials": [trials], "seed": list(range(seed, seed + repeats)), "device": [device],
    }  # fmt: skip


def _smooth(preset: str, seed: int, device: str) -> Grid:
    trials, repeats = {"cpu": (15, 2), "gpu": (30, 4), "full": (30, 8)}[preset]
    return {
        "n_samples": [500, 2000, 8000], "trials": [trials],
        "seed": list(range(seed, seed + repeats)),
    }  # fmt: skip


def _networks(preset: str, seed: int, device: str) -> Grid:
    families: list[dict[str, Any]] = [
        {"task": "digits", "steps": 100, "lr": 1e-3},
        {"task": "digits", "steps": 400, "lr": 1e-3},
        {"task": "digits", "steps": 400, "lr": 1e-2},
        {"task": "breast_cancer", "steps": 400, "lr": 1e-3},
    ]
    repeats = {"cpu": 1, "gpu": 4, "full": 8}[preset]
    common = {"members": 8, "device": device}
    return [family | common | {"seed": seed + i} for family in families for i in range(repeats)]


def _coverage(preset: str, seed: int, device: str) -> Grid:
    datasets, repeats = {"cpu": (50, 4), "gpu": (200, 10), "full": (400, 25)}[preset]
    return {
        "slope": [1.0, 0.9, 0.5], "datasets": [datasets],
        "seed": list(range(seed, seed + repeats)),
    }  # fmt: skip


def _line(preset: str, seed: int, device: str) -> Grid:
    draws = {"cpu": 10, "gpu": 40, "full": 100}[preset]
    return {
        "n_classes": [2, 4, 16, 64, 256, 1024], "overlap": [0.0, 0.25, 0.5, 0.75, 1.0],
        "draws": [draws], "seed": [seed],
    }  # fmt: skip


def _gaussian(preset: str, seed: int, device: str) -> Grid:
    repeats, width, epochs = {"cpu": (2, 64, 10), "gpu": (8, 512, 60), "full": (16, 1024, 200)}[
        preset
    ]
    return {
        "shifts": [[0.25], [0.1], [0.05], [0.01]], "mix_sizes": [[1, 2]], "repeats": [repeats],
        "width": [width], "epochs": [epochs], "seed": [seed, seed + 1], "device": [device],
    }  # fmt: skip


SWEEPS = {
    "floor": SweepPlan(
        calibrated_point, _floor, "calibration/measuring",
        "The binned calibration error of forecasts that are calibrated, over samples and bins.",
    ),
    "smooth": SweepPlan(
        smooth_point, _smooth, "calibration/measuring",
        "The smooth calibration error of forecasts that are calibrated.",
    ),
    "networks": SweepPlan(
        networks, _networks, "calibration/measuring",
        "The calibration of networks on digits and on breast cancer.",
    ),
    "coverage": SweepPlan(
        coverage_point, _coverage, "calibration/measuring",
        "How often intervals hold the true calibration error.",
    ),
    "overlap-line": SweepPlan(
        overlap_line_point, _line, "calibration/temperature_and_overlap",
        "A nearest-neighbor interpolator on overlapping pairs at its best temperature.",
    ),
    "overlap-gaussian": SweepPlan(
        overlap_gaussian_point, _gaussian, "calibration/temperature_and_overlap",
        "Networks on two overlapping Gaussians, their temperature scaled in two ways.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
