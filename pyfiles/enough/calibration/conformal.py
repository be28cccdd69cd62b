"""Conformal prediction: thresholds with finite-sample coverage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch

from enough.calibration._inputs import read_probs, read_table, widen
from enough.calibration._sums import scan_table
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["conformal_quantile", "conformal_rank", "conformal_sets"]


def conformal_rank(n: int, alpha: float) -> int:
    """Return the rank ⌈(n + 1)(1 − α)⌉ of the score that serves as threshold.

    Parameters
    ----------
    n : int
        The number of calibration scores, at least 1.
    alpha : float
        Allowed miscoverage, in (0, 1). It is read as the decimal it prints as, so that
        0.1 with n = 9 gives 9 and no rounding error gives 10.

    Returns
    -------
    int
        From 1 to n + 1; n + 1 means that no finite threshold has the coverage.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Given the calibration set, the coverage of the threshold with rank k follows the
    Beta(k, n + 1 − k) distribution when scores are exchangeable and have no ties; its mean
    is k/(n + 1).

    References
    ----------
    Vovk (2012), Conditional validity of inductive conformal predictors. Lei et al. (2018),
    Distribution-free predictive inference for regression.
    """
    n = check_integer(n, "n", minimum=1)
    alpha = _check_alpha(alpha)
    return math.ceil((n + 1) * (1 - Fraction(repr(alpha))))


def conformal_quantile(scores: Any, alpha: float) -> float:
    """Return the ⌈(n + 1)(1 − α)⌉-th smallest score.

    A new score exchangeable with these is at most this value with probability at least
    1 − α.

    Parameters
    ----------
    scores : array of shape (n,)
        Nonconformity scores of a calibration set: large means strange.
    alpha : float
        Allowed miscoverage, in (0, 1).

    Returns
    -------
    float
        Infinite when n is too small for α: the prediction set must hold everything.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.
    """
    (scores,), _ = as_tensors(scores=scores)
    check_tensor(scores, "scores", ndim=1)
    return _quantile(scores.detach(), _check_alpha(alpha)).item()


def conformal_sets(
    probs: Any,
    calibration_probs: Any,
    calibration_labels: Any,
    alpha: float = 0.1,
    score: str = "lac",
) -> Any:
    """Return prediction sets that hold the label with probability at least 1 − α.

    Parameters
    ----------
    probs : array of shape (M, K)
        Forecasts of the new samples, rows on the simplex.
    calibration_probs : array of shape (n, K)
        Forecasts of the calibration samples.
    calibration_labels : array of shape (n,)
        Their class numbers from 0.
    alpha : float, default 0.1
        Allowed miscoverage, in (0, 1).
    score : {"lac", "aps"}, default "lac"
        ``"lac"``: 1 − p_y, the smallest sets on average. ``"aps"``: the total probability
        of the classes at least as likely as y, which adapts more to the sample.

    Returns
    -------
    array of shape (M, K)
        Booleans. A set may be empty; the guarantee is on average over samples.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Sadinle, Lei, Wasserman (2019), Least ambiguous set-valued classifiers with bounded
    error levels. Romano, Sesia, Candès (2020), Classification with valid and adaptive
    coverage.
    """
    alpha = _check_alpha(alpha)
    check_choice(score, "score", ("lac", "aps"))
    known, labels, _ = read_probs(
        calibration_probs, calibration_labels, ndim=(2,), name="calibration_probs"
    )
    new, restore = read_table(probs, ndim=(2,))
    if new.shape[1] != known.shape[1]:
        raise ValueError(f"probs: expected {known.shape[1]} classes, got {new.shape[1]}")
    scan_table(known, labels, name="calibration_probs")
    scan_table(new, torch.zeros(new.shape[0], dtype=torch.int64, device=new.device))
    rate = _lac if score == "lac" else _aps
    scores = rate(widen(known)).gather(1, labels.unsqueeze(1))[:, 0]
    return restore(rate(widen(new)) <= _quantile(scores, alpha).to(new.device))


def _lac(probs: torch.Tensor) -> torch.Tensor:
    return 1.0 - probs


def _aps(probs: torch.Tensor) -> torch.Tensor:
    """Sum the probabilities at least as large as each; ties count together."""
    ordered, order = probs.double().sort(1, descending=True)
    total = ordered.cumsum(1)
    total = total / total[:, -1:]  # the least likely class has exactly 1, whatever the rounding
    # Give every member of a run of ties the total at the end of the run.
    ends = torch.cat([ordered[:, 1:] != ordered[:, :-1], torch.ones_like(ordered[:, :1]) > 0], 1)
    total = total.where(ends, torch.inf).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(total).scatter_(1, order, total)


def _quantile(scores: torch.Tensor, alpha: float) -> torch.Tensor:
    rank = conformal_rank(scores.shape[0], alpha)
    if rank > scores.shape[0]:
        return torch.tensor(math.inf, dtype=torch.float64, device=scores.device)
    return (
        widen(scores).kthvalue(rank).values
        if scores.is_floating_point()
        else (scores.kthvalue(rank).values)
    )


def _check_alpha(alpha: Any) -> float:
    alpha = check_number(alpha, "alpha", above=0.0)
    if not alpha < 1.0:
        raise ValueError(f"alpha: expected a number in (0, 1), got {alpha}")
    return alpha
