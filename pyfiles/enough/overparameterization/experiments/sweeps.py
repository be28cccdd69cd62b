"""The sweeps of Part I by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

from typing import Any

from enough.overparameterization.experiments.lazy_rich import lazy_rich_point, modular_point
from enough.overparameterization.experiments.matrix_sensing import (
    rescaling_point,
    robust_point,
    sign_rip_point,
)
from enough.overparameterization.experiments.memorization import (
    long_tail_point,
    parity_point,
    suppression_point,
)
from enough.overparameterization.experiments.random_features import digits_point, gaussian_point
from enough.overparameterization.experiments.xor_clusters import xor_point
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS", "delay", "modular"]

_RIDGES = [0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
_SAMPLES = {"cpu": [64, 256], "gpu": [64, 256, 1024], "full": [64, 256, 1024, 4096]}
_WIDTHS = {
    "cpu": [32, 64, 128, 256, 512],
    "gpu": [32, 64, 128, 256, 512, 1024, 2048],
    "full": [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
}


def delay(**arguments: Any) -> dict[str, Any]:
    """Train the polynomial-regression network at several dials.

    Parameters
    ----------
    **arguments
        Those of `lazy_rich_point`.

    Returns
    -------
    dict
        As from there, but the recorded steps are called ``recorded``.
    """
    return _renamed(lazy_rich_point(**arguments))


def modular(**arguments: Any) -> dict[str, Any]:
    """Train a transformer on sums modulo a number.

    Parameters
    ----------
    **arguments
        Those of `modular_point`.

    Returns
    -------
    dict
        As from there, but the recorded steps are called ``recorded``.
    """
    return _renamed(modular_point(**arguments))


def _renamed(found: dict[str, Any]) -> dict[str, Any]:
    """Tell the recorded steps from the argument of that name: a table has one column a name."""
    return {"recorded" if name == "steps" else name: value for name, value in found.items()}


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


def _modular(preset: str, seed: int, device: str) -> Grid:
    modulus, steps, seeds = {
        "cpu": (23, 2000, 1), "gpu": (59, 20_000, 2), "full": (97, 60_000, 4),
    }[preset]  # fmt: skip
    marks = sorted({0, *(round(steps ** (i / 40)) for i in range(41))})
    return {
        "laziness": [0.5, 1.0, 2.0, 4.0], "modulus": [modulus], "steps": [steps],
        "record": [marks], "seed": list(range(seed, seed + seeds)), "device": [device],
    }  # fmt: skip


def _separation(preset: str, seed: int, device: str) -> Grid:
    problems = {"cpu": 8, "gpu": 32, "full": 64}[preset]
    return {
        "separation": [5, 10, 15, 20, 30, 40, 55, 75, 110, 200], "n_samples": [200],
        "dimension": [20_000], "width": [64], "record": [[1, 2, 10, 60]], "seeds": [problems],
        "seed": [seed], "device": [device],
    }  # fmt: skip


def _sign_rip(preset: str, seed: int, device: str) -> Grid:
    return {
        "outlier_share": [0.0, 0.15], "n_measurements": [200, 400, 800, 1600],
        "trials": [{"cpu": 16, "gpu": 64, "full": 256}[preset]],
        "seed": [seed], "device": [device],
    }  # fmt: skip


def _steps(preset: str, seed: int, device: str) -> Grid:
    return {
        "step": [0.05, 0.1, 0.2, 0.4, 0.6], "widths": [[2, 5, 30]], "record": [[1500]],
        "trials": [{"cpu": 4, "gpu": 16, "full": 64}[preset]], "seed": [seed],
        "device": [device],
    }  # fmt: skip


def _rescaling(preset: str, seed: int, device: str) -> Grid:
    return {
        "new_scale": [0.125, 0.25, 0.5, 1.0], "wait": [300], "eigenvalues": [[1.0, 0.25]],
        "n_steps": [3000], "trials": [{"cpu": 4, "gpu": 16, "full": 64}[preset]],
        "seed": [seed], "device": [device],
    }  # fmt: skip


def _long_tail(preset: str, seed: int, device: str) -> Grid:
    return {
        "prior": ["zipf", "uniform", "head"], "n_samples": [1000, 3000, 10_000, 30_000, 100_000],
        "n_items": [10_000], "noise_rate": [0.0, 0.8],
        "draws": [{"cpu": 20, "gpu": 100, "full": 400}[preset]], "seed": [seed],
    }  # fmt: skip


def _suppression(preset: str, seed: int, device: str) -> Grid:
    draws, epochs, width, repeats = {
        "cpu": (4, 60, 64, 2), "gpu": (8, 120, 128, 2), "full": (8, 120, 256, 4),
    }[preset]  # fmt: skip
    return {
        "rule": ["mean", "rm3", "winsorized"], "draws": [draws], "epochs": [epochs],
        "width": [width], "seed": list(range(seed, seed + repeats)), "device": [device],
    }  # fmt: skip


def _parity(preset: str, seed: int, device: str) -> Grid:
    return {
        "weight": [1, 2, 3, 4, 6, 8, 10],
        "draws": [{"cpu": 20, "gpu": 100, "full": 400}[preset]], "seed": [seed],
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
        delay, _delay, "overparameterization/benign_overfitting_and_grokking",
        "The delay of grokking over sample sizes and output scales.",
    ),
    "modular": SweepPlan(
        modular, _modular, "overparameterization/benign_overfitting_and_grokking",
        "A transformer that learns sums modulo a number, over the output scale.",
    ),
    "separation": SweepPlan(
        xor_point, _separation, "overparameterization/benign_overfitting_and_grokking",
        "A two-layer network on XOR clusters, over the distance of the clusters.",
    ),
    "sign-rip": SweepPlan(
        sign_rip_point, _sign_rip, "overparameterization/matrix_sensing",
        "The sign restricted isometry of random measurements, with and without outliers.",
    ),
    "robust-steps": SweepPlan(
        robust_point, _steps, "overparameterization/matrix_sensing",
        "A matrix recovered from measurements with outliers, over the first step.",
    ),
    "rescaling": SweepPlan(
        rescaling_point, _rescaling, "overparameterization/matrix_sensing",
        "Descent on a product of two factors, over the scale to which one is set once.",
    ),
    "long-tail": SweepPlan(
        long_tail_point, _long_tail, "overparameterization/memorization",
        "What guessing on singletons costs, by prior, sample size and label noise.",
    ),
    "suppression": SweepPlan(
        suppression_point, _suppression, "overparameterization/memorization",
        "What robust descent learns and memorizes of partly wrong labels.",
    ),
    "parity": SweepPlan(
        parity_point, _parity, "overparameterization/memorization",
        "The error of two rules that learn a parity, and how well it can be bounded.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
