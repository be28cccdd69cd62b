"""The sweeps of Part II by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from enough.calibration.experiments.measuring import coverage_point
from enough.calibration.experiments.overlap import overlap_gaussian_point, overlap_line_point
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS"]


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
