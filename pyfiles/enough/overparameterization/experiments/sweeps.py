"""The sweeps of Part I by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from enough.overparameterization.experiments.lazy_rich import lazy_rich_point
from enough.overparameterization.experiments.random_features import digits_point, gaussian_point
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS"]

_RIDGES = [0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
_SAMPLES = {"cpu": [64, 256], "gpu": [64, 256, 1024], "full": [64, 256, 1024, 4096]}
_WIDTHS = {
    "cpu": [32, 64, 128, 256, 512],
    "gpu": [32, 64, 128, 256, 512, 1024, 2048],
    "full": [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
}


def _gaussian(preset: str, seed: int, device: str) -> Grid:
    trials, modes = {"cpu": (20, 1000), "gpu": (50, 4000), "full": (200, 10_000)}[preset]
    return {
        "n_samples": _SAMPLES[preset], "n_features": _WIDTHS[preset], "ridges": [_RIDGES],
        "noise_variances": [[0.0, 0.5]], "n_modes": [modes], "trials": [trials],
        "seed": [seed], "device": [device],
    }  # fmt: skip


def _digits(preset: str, seed: int, device: str) -> Grid:
    trials = {"cpu": 10, "gpu": 30, "full": 100}[preset]
    return {
        "n_samples": [64, 256, 1024], "n_features": _WIDTHS[preset], "ridges": [_RIDGES],
        "trials": [trials], "seed": [seed], "device": [device],
    }  # fmt: skip


def _delay(preset: str, seed: int, device: str) -> Grid:
    seeds, steps = {"cpu": (3, 2000), "gpu": (10, 10_000), "full": (30, 30_000)}[preset]
    samples = {"cpu": [50, 100, 200], "gpu": [50, 100, 200, 400], "full": [50, 100, 200, 400, 800]}
    return {
        "n_samples": samples[preset], "dimension": [20],
        "laziness": [[x] for x in (0.25, 0.5, 1.0, 2.0, 4.0)], "curvature": [[0.25]],
        "steps": [steps], "seeds": [seeds], "seed": [seed], "device": [device],
    }  # fmt: skip


SWEEPS = {
    "gaussian": SweepPlan(
        gaussian_point, _gaussian, "overparameterization/random_features",
        "Random-feature ridge regression in a Gaussian design, beside its prediction.",
    ),
    "digits": SweepPlan(
        digits_point, _digits, "overparameterization/random_features",
        "Random-feature ridge regression on digits, beside its prediction.",
    ),
    "delay": SweepPlan(
        lazy_rich_point, _delay, "overparameterization/benign_overfitting_and_grokking",
        "The delay of grokking over sample sizes and output scales.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
