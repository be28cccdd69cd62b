"""How much of a risk recalibration can remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enough.calibration._inputs import read_logits
from enough.calibration.scores import brier_score, negative_log_likelihood
from enough.calibration.temperature import TemperatureScaling
from enough.runtime.validation import check_choice

__all__ = ["RefinementSplit", "refinement_split"]


@dataclass(frozen=True)
class RefinementSplit:
    """The parts of a risk: what recalibration can and cannot remove.

    Parameters
    ----------
    risk : float
        Mean loss of the forecasts: refinement + calibration.
    refinement : float
        Mean loss after recalibration.
    calibration : float
        The difference.
    """

    risk: float
    refinement: float
    calibration: float


def refinement_split(
    logits: Any, labels: Any, calibrator: Any = None, score: str = "log"
) -> RefinementSplit:
    """Split a risk into refinement (left after recalibration) and calibration (removed).

    Parameters
    ----------
    logits : array of shape (N, K) or (N,)
        Logits, or log odds of y = 1.
    labels : array of shape (N,)
        Class numbers from 0.
    calibrator : object with ``fit`` and ``transform``, optional
        The family over which the risk is minimized; `TemperatureScaling` when not given. It
        is fitted on the same samples, so rich families count noise as miscalibration.
    score : {"log", "brier"}, default "log"
        The loss. The calibrators minimize the log loss whatever is chosen here.

    Returns
    -------
    RefinementSplit
        With refinement + calibration = risk.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Berta, Holzmüller, Jordan, Bach (2025), Rethinking early stopping: refine, then
    calibrate.
    """
    check_choice(score, "score", ("log", "brier"))
    logits, labels, _ = read_logits(logits, labels)
    loss = negative_log_likelihood if score == "log" else brier_score
    raw = logits.double().softmax(1) if logits.ndim == 2 else logits.double().sigmoid()
    calibrator = TemperatureScaling() if calibrator is None else calibrator
    after = loss(calibrator.fit(logits, labels).transform(logits.double()), labels)
    risk = loss(raw, labels)
    return RefinementSplit(risk, after, risk - after)
