"""Proper scores and their exact decompositions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import isotonic_regression

from enough.calibration._inputs import check_bins, check_unit, read_probs
from enough.calibration._sums import bin_events, read_event, scan_table
from enough.runtime.validation import check_choice

__all__ = [
    "BrierDecomposition",
    "ScoreDecomposition",
    "brier_decomposition",
    "brier_score",
    "decompose_brier",
    "isotonic_fit",
    "log_score",
    "negative_log_likelihood",
    "score_decomposition",
]


@dataclass(frozen=True)
class BrierDecomposition:
    """The parts of a Brier score.

    Parameters
    ----------
    score : float
        The Brier score: reliability − resolution + uncertainty + within_bin.
    reliability : float
        Weighted mean square of mean forecast minus share of events, by bin.
    resolution : float
        Weighted mean square of the bin's share of events minus the overall share.
    uncertainty : float
        The score of the overall share of events, ȳ(1 − ȳ).
    within_bin : float
        What forecasts that differ inside a bin add: their variance minus twice their
        covariance with the outcomes.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bin: float


@dataclass(frozen=True)
class ScoreDecomposition:
    """The parts of a proper score (CORP).

    Parameters
    ----------
    score : float
        The mean score: miscalibration − discrimination + uncertainty.
    miscalibration : float
        What isotonic recalibration would save, at least 0.
    discrimination : float
        What the recalibrated forecast gains over the overall share of events, at least 0.
    uncertainty : float
        Score of the overall share of events.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float


def brier_score(probs: Any, labels: Any) -> float:
    """Return the Brier score.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex, or P(y = 1).
    labels : array of shape (N,)
        Class numbers from 0.

    Returns
    -------
    float
        For (N, K) the mean over samples of Σ_j (p_j − 1[y = j])², in [0, 2]; for (N,) the
        mean of (p − y)², in [0, 1], which is half of the former for two classes.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    probs, labels, _ = read_probs(probs, labels)
    if probs.ndim == 1:
        return (check_unit(probs).double() - labels).square().mean().item()
    return scan_table(probs, labels, scores=True).squared / probs.shape[0]


def negative_log_likelihood(probs: Any, labels: Any) -> float:
    """Return the mean of −log P(y), in nats.

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        Rows on the simplex, or P(y = 1).
    labels : array of shape (N,)
        Class numbers from 0.

    Returns
    -------
    float
        At least 0; infinite when a label had probability 0. Nothing is clipped.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.
    """
    probs, labels, _ = read_probs(probs, labels)
    if probs.ndim == 1:
        values, y = check_unit(probs).double(), labels.double()
        return log_score(values, y).mean().item()
    return scan_table(probs, labels, scores=True).log_loss / probs.shape[0]


def brier_decomposition(probs: Any, labels: Any, n_bins: int = 15) -> BrierDecomposition:
    """Split the Brier score of P(y = 1) into its parts, exactly.

    Murphy's three terms add up to the score only when forecasts are constant in each bin;
    the fourth holds the remainder (Stephenson et al. 2008).

    Parameters
    ----------
    probs : array of shape (N,)
        P(y = 1).
    labels : array of shape (N,)
        0 or 1.
    n_bins : int, default 15
        Uniform bins (i/B, (i+1)/B].

    Returns
    -------
    BrierDecomposition
        With reliability − resolution + uncertainty + within_bin = score.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Murphy (1973), A new vector partition of the probability score. Stephenson, Coelho,
    Jolliffe (2008), Two extra components in the Brier score decomposition.
    """
    n_bins = check_bins(n_bins)
    probs, labels, _ = read_probs(probs, labels, ndim=(1,))
    values = check_unit(probs)
    score = (values.double() - labels).square().mean().item()
    return decompose_brier(bin_events(values, labels, n_bins), score)


def decompose_brier(sums: Any, score: float) -> BrierDecomposition:
    """Return the parts of a Brier score from bin sums.

    Parameters
    ----------
    sums : BinSums
        Shape (B,).
    score : float
        The Brier score of the same samples.

    Returns
    -------
    BrierDecomposition
        The parts.
    """
    full = sums.count > 0
    count, outcome = sums.count[full].double(), sums.outcome[full].double()
    weight = count / count.sum()
    base = (outcome.sum() / count.sum()).item()
    reliability = (weight * ((sums.confidence[full] - outcome) / count).square()).sum().item()
    resolution = (weight * (outcome / count - base).square()).sum().item()
    uncertainty = base * (1.0 - base)
    within = score - (reliability - resolution + uncertainty)
    return BrierDecomposition(score, reliability, resolution, uncertainty, within)


def score_decomposition(
    probs: Any, labels: Any, score: str | Callable[..., Any] = "brier"
) -> ScoreDecomposition:
    """Split a proper score into miscalibration, discrimination and uncertainty (CORP).

    The forecasts are recalibrated by isotonic regression, which is optimal for every proper
    score at once and needs no bins. Then miscalibration = S(f) − S(iso f), discrimination =
    S(ȳ) − S(iso f), uncertainty = S(ȳ).

    Parameters
    ----------
    probs : array of shape (N, K) or (N,)
        P(y = 1); for (N, K) the event is that the top label is right.
    labels : array of shape (N,)
        Class numbers from 0.
    score : {"brier", "log"} or callable, default "brier"
        A proper score; a callable maps float64 tensors (forecast, outcome) of shape (N,) to
        the loss of each sample.

    Returns
    -------
    ScoreDecomposition
        With miscalibration − discrimination + uncertainty = score.

    Raises
    ------
    ValueError
        If an argument has the wrong shape or is out of range.

    References
    ----------
    Dimitriadis, Gneiting, Jordan (2021), Stable reliability diagrams for probabilistic
    classifiers.
    """
    if not callable(score):
        score = _SCORES[check_choice(score, "score", tuple(_SCORES))]
    probs, labels, _ = read_probs(probs, labels)
    values, outcomes = read_event(probs, labels)
    values, y = values.double(), outcomes.double()
    knots, fitted = isotonic_fit(values, y)
    recalibrated = fitted[torch.searchsorted(knots, values)]
    base = y.mean().expand_as(y)
    total, after, uncertainty = (score(f, y).mean().item() for f in (values, recalibrated, base))
    return ScoreDecomposition(total, total - after, uncertainty - after, uncertainty)


def isotonic_fit(values: torch.Tensor, outcomes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nondecreasing least-squares fit; equal values share one fitted value.

    Parameters
    ----------
    values : torch.Tensor
        Shape (N,), float64.
    outcomes : torch.Tensor
        Shape (N,), float64.

    Returns
    -------
    knots : torch.Tensor
        Distinct values, increasing.
    fitted : torch.Tensor
        The fit at each, nondecreasing.
    """
    knots, inverse, count = values.unique(return_inverse=True, return_counts=True)
    total = torch.zeros_like(knots).index_add_(0, inverse, outcomes)
    weight = count.double()
    fitted = isotonic_regression((total / weight).cpu().numpy(), sample_weight=weight.cpu().numpy())
    return knots, torch.as_tensor(np.ascontiguousarray(fitted), device=values.device)


def log_score(forecast: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """Return −log of the probability given to what happened.

    Parameters
    ----------
    forecast : torch.Tensor
        P(y = 1), float64.
    outcome : torch.Tensor
        0 or 1, float64, same shape.

    Returns
    -------
    torch.Tensor
        Same shape; infinite where the outcome had probability 0.
    """
    yes = torch.special.xlogy(outcome, forecast)
    return -(yes + torch.special.xlog1py(1.0 - outcome, -forecast))


def _brier(forecast: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    return (forecast - outcome).square()


_SCORES = {"brier": _brier, "log": log_score}
