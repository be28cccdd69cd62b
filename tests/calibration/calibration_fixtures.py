"""The peers' answers, and the inputs they were asked about."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

ORACLES = Path(__file__).resolve().parent.parent / "oracles"


@pytest.fixture(scope="session")
def oracle():
    """Answers of peer packages, by section."""
    return json.loads((ORACLES / "calibration.json").read_text())


@pytest.fixture(scope="session")
def inputs():
    """The module that draws the oracles' inputs."""
    spec = importlib.util.spec_from_file_location(
        "calibration_inputs", ORACLES / "calibration_inputs.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cases():
    """Tables and binary forecasts with everything that goes wrong: ties, 0, 1, single samples."""
    draw = np.random.RandomState(0)
    found = {}
    for n_samples, n_classes, scale in ((1, 3, 1.0), (7, 2, 1.0), (60, 4, 3.0), (200, 3, 40.0)):
        logits = scale * draw.standard_normal((n_samples, n_classes))
        probs = torch.softmax(torch.tensor(logits), 1).numpy()
        found[f"{n_samples}x{n_classes}"] = probs, draw.randint(n_classes, size=n_samples)
    tied = np.round(found["60x4"][0], 1)
    tied[:, 0] = 1.0 - tied[:, 1:].sum(1)
    keep = (tied >= 0).all(1)
    found["tied"] = tied[keep], found["60x4"][1][keep]
    corners = np.eye(3)[draw.randint(3, size=12)]
    found["corners"] = corners, draw.randint(3, size=12)
    values = np.round(draw.random_sample(50), 1)
    found["binary tied"] = values, draw.randint(2, size=50)
    found["binary edges"] = np.arange(11) / 10, np.arange(11) % 2
    found["binary ends"] = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0, 1, 0, 1])
    found["binary"] = draw.random_sample(80), draw.randint(2, size=80)
    return found
