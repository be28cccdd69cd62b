"""Ask peer packages for answers on small fixed inputs and write them to a JSON file.

Run in an environment of its own, never in the book's:

    python -m venv .venv-oracles
    .venv-oracles/bin/pip install torch
    .venv-oracles/bin/pip install netcal relplot uncertainty-calibration model-diagnostics \
        betacal crepes MAPIE scoringrules torchmetrics probmetrics numba scikit-learn
    .venv-oracles/bin/python tests/oracles/make_calibration.py

Known traps of the peers, and how they are met here: netcal's ``temperature`` is 1/T;
torchmetrics puts a confidence of exactly 1 into a bin of its own, so it only sees inputs
below 1; relplot gives a point at exactly 0 or 1 half its weight, so it only sees inputs
inside; uncertainty-calibration cuts equal-mass bins between samples, so ties are kept out; crepes
computes (1 - 0.9) * 50 = 4.999... and takes the 46th of 49 scores where the 45th belongs, so it
is asked for levels that floating-point numbers hold.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from calibration_inputs import binary, sigmoid, softmax, table

warnings.simplefilter("ignore")

import betacal  # noqa: E402
import crepes  # noqa: E402
import model_diagnostics.scoring as diagnostics  # noqa: E402
import netcal.binning  # noqa: E402
import netcal.metrics  # noqa: E402
import netcal.scaling  # noqa: E402
import relplot  # noqa: E402
import scoringrules  # noqa: E402
from mapie.classification import SplitConformalClassifier  # noqa: E402
from probmetrics.calibrators.temperature_scaling import (  # noqa: E402
    ETSCalibrator,
    TemperatureScalingCalibrator,
)
from probmetrics.distributions import (  # noqa: E402
    CategoricalDirac,
    CategoricalLogits,
    CategoricalProbs,
)
from probmetrics.metrics import KolmogorovSmirnovCalibrationMetric  # noqa: E402
from sklearn.base import BaseEstimator, ClassifierMixin  # noqa: E402
from sklearn.calibration import CalibratedClassifierCV  # noqa: E402
from sklearn.frozen import FrozenEstimator  # noqa: E402
from sklearn.isotonic import IsotonicRegression  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import brier_score_loss, log_loss  # noqa: E402
from torchmetrics.functional.classification import (  # noqa: E402
    binary_calibration_error,
    multiclass_calibration_error,
)

import calibration as kumar  # noqa: E402

PACKAGES = [
    "netcal",
    "relplot",
    "uncertainty-calibration",
    "model-diagnostics",
    "betacal",
    "crepes",
    "MAPIE",
    "scoringrules",
    "torchmetrics",
    "probmetrics",
    "scikit-learn",
    "torch",
    "numpy",
    "scipy",
]


def error_cases() -> list[dict]:
    """Calibration errors of tables and of binary forecasts."""
    cases = []
    for recipe in ((0, 1500, 5, 2.0, 0.5), (1, 700, 3, 1.5, 1.0), (2, 400, 10, 2.5, 1.5)):
        logits, labels = table(*recipe)
        probs = softmax(logits)
        top, right = probs.max(1), (probs.argmax(1) == labels).astype(float)
        for n_bins in (10, 15):
            tensors = torch.tensor(probs), torch.tensor(labels)
            cases.append(
                {
                    "table": recipe,
                    "n_bins": n_bins,
                    "netcal_ece": netcal.metrics.ECE(n_bins).measure(probs, labels),
                    "netcal_mce": netcal.metrics.MCE(n_bins).measure(probs, labels),
                    "netcal_average": netcal.metrics.ACE(n_bins).measure(probs, labels),
                    "kumar_ece": kumar.get_ece(probs, labels, num_bins=n_bins),
                    "kumar_classwise": kumar.get_ece(
                        probs, labels, num_bins=n_bins, mode="marginal"
                    ),
                    "kumar_debiased": kumar.utils.lower_bound_scaling_ce(
                        probs,
                        labels,
                        p=2,
                        debias=True,
                        num_bins=n_bins,
                        binning_scheme=kumar.utils.get_equal_prob_bins,
                        mode="top-label",
                    ),
                    "torchmetrics_l2": multiclass_calibration_error(
                        *tensors, probs.shape[1], n_bins=n_bins, norm="l2"
                    ).item(),
                    "relplot_fixed": relplot.smECE_sigma(top, right, 0.05),
                    "relplot": relplot.smECE(top, right),
                }
            )
    for recipe in ((3, 1000, 2.0, 0.6, 0.3), (4, 600, 1.0, 1.0, 0.0)):
        odds, labels = binary(*recipe)
        probs = sigmoid(odds)
        pair = np.stack([1.0 - probs, probs], 1)
        cases.append(
            {
                "binary": recipe,
                "n_bins": 10,
                "kumar_ece": kumar.get_ece(probs, labels, num_bins=10),
                # 1000 and 600 samples are multiples of 10, so both cut the same groups.
                "kumar_equal_mass": kumar.get_ece_em(probs, labels, num_bins=10),
                "torchmetrics_max": binary_calibration_error(
                    torch.tensor(probs), torch.tensor(labels), n_bins=10, norm="max"
                ).item(),
                "relplot_fixed": relplot.smECE_sigma(probs, labels.astype(float), 0.05),
                "probmetrics_ks": KolmogorovSmirnovCalibrationMetric()
                .compute(
                    CategoricalDirac(torch.tensor(labels), 2), CategoricalProbs(torch.tensor(pair))
                )
                .item(),
            }
        )
    return cases


def score_cases() -> list[dict]:
    """Proper scores and their decompositions."""
    cases = []
    for recipe in ((5, 800, 2.0, 0.6, 0.3), (6, 300, 1.0, 1.2, -0.5)):
        odds, labels = binary(*recipe)
        probs = sigmoid(odds)
        case = {
            "binary": recipe,
            "brier": brier_score_loss(labels, probs),
            "log": log_loss(labels, probs),
        }
        # SquaredError takes any mean; LogLoss is binary. The score is the last column.
        for name, scoring in (
            ("brier", diagnostics.SquaredError()),
            ("log", diagnostics.LogLoss()),
        ):
            row = diagnostics.decompose(labels, probs, scoring_function=scoring).row(0, named=True)
            case[f"corp_{name}"] = {
                key: float(row[key]) for key in ("miscalibration", "discrimination", "uncertainty")
            }
        cases.append(case)
    logits, labels = table(7, 500, 4, 2.0, 0.7)
    probs = softmax(logits)
    cases.append(
        {
            "table": (7, 500, 4, 2.0, 0.7),
            "brier": brier_score_loss(labels, probs, scale_by_half=False),
            "log": log_loss(labels, probs),
        }
    )
    return cases


class _Scores(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its own decision function."""

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes
        self.classes_ = np.arange(n_classes)

    def fit(self, x, y):
        return self

    def decision_function(self, x):
        return x[:, 0] if self.n_classes == 2 else x

    def predict(self, x):
        return self.classes_[(x[:, 0] > 0).astype(int) if self.n_classes == 2 else x.argmax(1)]

    def predict_proba(self, x):
        return softmax(x)


def calibrated(x, y, n_classes, method, new):
    """Return scikit-learn's calibrated probabilities of new inputs."""
    base = FrozenEstimator(_Scores(n_classes))
    model = CalibratedClassifierCV(base, method=method, ensemble=False).fit(x, y)
    return model.predict_proba(new)


def calibrator_cases() -> list[dict]:
    """Fitted calibrators."""
    cases = []
    for recipe in ((8, 1200, 5, 2.0, 0.4), (9, 600, 3, 1.0, 1.7)):
        logits, labels = table(*recipe)
        probs = softmax(logits)
        scaling = TemperatureScalingCalibrator(max_bisection_steps=60)
        scaling.fit_torch(CategoricalLogits(torch.tensor(logits)), torch.tensor(labels))
        inverse = netcal.scaling.TemperatureScaling()
        inverse.fit(probs, labels)
        mixture = ETSCalibrator(loss="ce")
        mixture.fit(probs, labels)
        regression = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        regression.fit(logits, labels)
        dirichlet = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        dirichlet.fit(np.log(probs), labels)
        cases.append(
            {
                "table": recipe,
                "probmetrics_temperature": 1.0 / float(scaling.invtemp_),
                "netcal_inverse_temperature": float(np.ravel(inverse.temperature)[0]),
                "sklearn_temperature_probs": calibrated(
                    logits, labels, recipe[2], "temperature", logits[:5]
                ).tolist(),
                "probmetrics_mixture_loss": log_loss(labels, mixture.predict_proba(probs)),
                "sklearn_matrix_probs": regression.predict_proba(logits[:5]).tolist(),
                "sklearn_dirichlet_probs": dirichlet.predict_proba(np.log(probs[:5])).tolist(),
            }
        )
    for recipe in ((10, 1000, 2.0, 0.5, 0.8), (11, 500, 1.5, 1.6, -0.4)):
        odds, labels = binary(*recipe)
        probs = sigmoid(odds)
        isotonic = IsotonicRegression(out_of_bounds="clip").fit(probs, labels)
        grid = np.linspace(0.001, 0.999, 21)
        histogram = netcal.binning.HistogramBinning(10)
        histogram.fit(probs, labels)
        beta = betacal.BetaCalibration("abm").fit(probs, labels)
        case = {
            "binary": recipe,
            "sklearn_sigmoid": calibrated(odds[:, None], labels, 2, "sigmoid", odds[:20, None])[
                :, 1
            ].tolist(),
            "sklearn_isotonic": isotonic.predict(grid).tolist(),
            "netcal_histogram": np.ravel(histogram.transform(grid)).tolist(),
            "betacal": [float(x) for x in beta.calibrator_.map_[:2]],
            "betacal_probs": beta.predict(grid).tolist(),
        }
        cases.append(case)
    return cases


class _Probs(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its own forecast."""

    def __init__(self, n_classes: int = 2) -> None:
        self.n_classes = n_classes
        self.classes_ = np.arange(n_classes)
        self.fitted_ = True

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(1)


def conformal_cases() -> list[dict]:
    """Prediction sets and intervals."""
    cases = []
    for recipe, n_known in (((12, 500, 5, 1.5, 1.0), 300), ((13, 200, 4, 1.0, 1.0), 99)):
        logits, labels = table(*recipe)
        probs = softmax(logits)
        for alpha in (0.1, 0.2):
            mapie = SplitConformalClassifier(
                _Probs(recipe[2]), confidence_level=1.0 - alpha, conformity_score="lac"
            )
            mapie.conformalize(probs[:n_known], labels[:n_known])
            sets = mapie.predict_set(probs[n_known:])[1][:, :, 0]
            cases.append(
                {
                    "table": recipe,
                    "n_known": n_known,
                    "alpha": alpha,
                    "mapie_lac_sizes": sets.sum(1).astype(int).tolist(),
                }
            )
    draw = np.random.RandomState(14)
    residuals = np.abs(draw.standard_normal(49))
    for confidence in (0.75, 0.95, 0.5):
        interval = (
            crepes.ConformalRegressor()
            .fit(residuals)
            .predict_int(np.zeros(1), confidence=confidence)
        )
        cases.append(
            {
                "residuals": 49,
                "seed": 14,
                "alpha": round(1.0 - confidence, 12),
                "crepes_half_width": float(interval[0, 1]),
            }
        )
    return cases


def quantile_cases() -> list[dict]:
    """Pinball losses and weighted interval scores."""
    draw = np.random.RandomState(15)
    levels = np.array([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])
    target = draw.standard_normal(6)
    prediction = np.sort(draw.standard_normal((6, 7)), axis=1)
    return [
        {
            "levels": levels.tolist(),
            "target": target.tolist(),
            "prediction": prediction.tolist(),
            "scoringrules_pinball": scoringrules.quantile_score(
                target[:, None], prediction, levels
            ).tolist(),
            "scoringrules_wis": scoringrules.weighted_interval_score(
                target,
                prediction[:, 3],
                prediction[:, [0, 1, 2]],
                prediction[:, [6, 5, 4]],
                2.0 * levels[:3],
            ).tolist(),
        }
    ]


def main() -> None:
    """Write the answers beside this file."""
    answers = {
        "command": "python tests/oracles/make_calibration.py",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "errors": error_cases(),
        "scores": score_cases(),
        "calibrators": calibrator_cases(),
        "conformal": conformal_cases(),
        "quantiles": quantile_cases(),
    }
    path = Path(__file__).with_name("calibration.json")
    lines = []
    for key, value in answers.items():
        if isinstance(value, list):  # one case a line keeps differences readable
            value = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            value = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {value}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
