"""The sweeps of Part IV by name, for executors of any kind and for ``enough sweep``."""

from __future__ import annotations

import numpy as np

from enough.quantization.experiments.int4_language_models import adapter_point, byte_models
from enough.quantization.experiments.layerwise import LAYERWISE_METHODS, layerwise_point
from enough.quantization.experiments.uniform import (
    clipping_point,
    divergence_point,
    lattice_point,
    rounding_point,
    rows_point,
)
from enough.training.sweep_plan import Grid, SweepPlan

__all__ = ["SWEEPS", "adapters"]

_DRAWS = {"cpu": (12, 100_000), "gpu": (32, 400_000), "full": (64, 10**6)}  # trials, samples
_REPEATS = {"cpu": 2, "gpu": 8, "full": 32}  # seeds; a point trains a few networks with one


def adapters(
    width: int, members: int, steps: int, seed: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Train byte models, and the same adapters on each of them and on its copy in NF4.

    Parameters
    ----------
    width, members, steps : int
        As in `byte_models`.
    seed : int
        Seed of the models, of the adapters and of their text.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    dict
        As from `adapter_point`, each of shape (members,).
    """
    models = byte_models(width, members=members, steps=steps, seed=seed, device=device)
    found = [adapter_point(models, member, seed=seed) for member in range(members)]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _rounding(preset: str, seed: int, device: str) -> Grid:
    trials, samples = _DRAWS[preset]
    return {
        "step": [0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0],
        "samples": [samples], "trials": [trials], "seed": [seed],
    }  # fmt: skip


def _lattice(preset: str, seed: int, device: str) -> Grid:
    trials, samples = _DRAWS[preset]
    return {
        "levels": list(range(1, 7)), "samples": [samples], "trials": [trials], "seed": [seed],
    }  # fmt: skip


def _clipping(preset: str, seed: int, device: str) -> Grid:
    return {"bits": list(range(2, 7)), "trials": [_DRAWS[preset][0]], "seed": [seed]}


def _rows(preset: str, seed: int, device: str) -> Grid:
    return {
        "distribution": ["gaussian", "t3", "uniform"], "group_size": [16, 32, 64, 256, 1024],
        "rows": [{"cpu": 64, "gpu": 256, "full": 512}[preset]],
        "trials": [_DRAWS[preset][0]], "seed": [seed],
    }  # fmt: skip


def _ranges(preset: str, seed: int, device: str) -> Grid:
    return {
        "method": ["minmax", "mse"], "bits": [2, 3, 4, 5, 8], "members": [8],
        "seed": list(range(seed, seed + _REPEATS[preset])), "device": [device],
    }  # fmt: skip


def _layerwise(preset: str, seed: int, device: str) -> Grid:
    return {
        "method": list(LAYERWISE_METHODS), "bits": [2, 3, 4], "members": [4],
        "seed": list(range(seed, seed + _REPEATS[preset])), "device": [device],
    }  # fmt: skip


def _adapters(preset: str, seed: int, device: str) -> Grid:
    widths, steps = {
        "cpu": ([32, 64], 160), "gpu": ([32, 64, 128, 256], 1500),
        "full": ([64, 128, 256, 512], 4000),
    }[preset]  # fmt: skip
    return {
        "width": widths, "members": [4], "steps": [steps],
        "seed": list(range(seed, seed + _REPEATS[preset])), "device": [device],
    }  # fmt: skip


SWEEPS = {
    "rounding": SweepPlan(
        rounding_point, _rounding, "quantization/uniform",
        "The rounding error of normal numbers over the step, beside step squared over twelve.",
    ),
    "lattice": SweepPlan(
        lattice_point, _lattice, "quantization/uniform",
        "The rounding error of whole numbers on a grid of every so many.",
    ),
    "clipping": SweepPlan(
        clipping_point, _clipping, "quantization/uniform",
        "The ranges that the library finds for normal numbers.",
    ),
    "rows": SweepPlan(
        rows_point, _rows, "quantization/uniform",
        "The error of rows of weights over the size of the groups that share a step.",
    ),
    "ranges": SweepPlan(
        divergence_point, _ranges, "quantization/uniform",
        "Networks whose ranges are chosen by two rules, over the bits.",
    ),
    "layerwise": SweepPlan(
        layerwise_point, _layerwise, "quantization/layerwise",
        "Networks compressed layer by layer, by six methods, over the bits.",
    ),
    "adapters": SweepPlan(
        adapters, _adapters, "quantization/int4_language_models",
        "Low-rank adapters on byte models in full precision and in NF4.",
    ),
}  # fmt: skip
"""From name to `enough.training.sweep_plan.SweepPlan`."""
