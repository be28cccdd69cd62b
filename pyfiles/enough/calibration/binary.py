"""Maps of one probability: Platt, beta, histogram and isotonic calibration."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from enough.calibration._base import BinaryCalibrator
from enough.calibration._inputs import check_bins
from enough.calibration._sums import bin_events, quantile_edges, uniform_bins
from enough.calibration.scores import isotonic_fit
from enough.runtime.validation import check_choice

__all__ = ["BetaCalibration", "HistogramBinning", "IsotonicCalibration", "PlattScaling"]

# Below this training loss the outcomes are called separable: the true infimum is 0.
_SEPARABLE_LOSS = 1e-8


class PlattScaling(BinaryCalibrator):
    """Fit a sigmoid to the log odds: q = sigmoid(a s + c).

    With two classes s is the log odds of class 1; with more, one sigmoid a class is fitted
    to the log odds of the class against the rest and rows are divided by their sum.

    Parameters
    ----------
    smooth_targets : bool, default True
        Replace the outcomes 1 and 0 by (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2) as Platt does,
        which keeps the fit finite on separable data.

    Attributes
    ----------
    slope_, intercept_ : numpy.ndarray
        a and c, shape (1,) for two classes, else (K,).

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines. Lin, Lin, Weng (2007),
    A note on Platt's probabilistic outputs, for the Newton method.
    """

    def __init__(self, smooth_targets: bool = True) -> None:
        self.smooth_targets = smooth_targets

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        super()._fit(logits, labels)
        self.slope_, self.intercept_ = np.array(self._maps).T

    def _fit_one(self, odds: torch.Tensor, outcomes: torch.Tensor) -> np.ndarray:
        if self.smooth_targets:
            events = outcomes.sum()
            high, low = (events + 1.0) / (events + 2.0), 1.0 / (len(outcomes) - events + 2.0)
            outcomes = torch.where(outcomes > 0.5, high, low)
        features = torch.stack([odds, torch.ones_like(odds)], 1)
        return _logistic(features, outcomes)[0]

    def _apply_one(self, one: np.ndarray, odds: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(odds * one[0] + one[1])


class BetaCalibration(BinaryCalibrator):
    """Fit the beta family: logit q = a ln p − b ln(1 − p) + c with a, b >= 0.

    With more than two classes one map a class is fitted against the rest and rows are
    divided by their sum.

    Parameters
    ----------
    variant : {"abm", "ab", "am"}, default "abm"
        All three parameters; c = 0; or a = b.

    Attributes
    ----------
    coefficients_ : numpy.ndarray
        Rows (a, b, c), shape (1, 3) for two classes, else (K, 3).

    Notes
    -----
    The loss is convex, so of the four sets of active constraints (a = 0, b = 0, both,
    neither) the feasible one with the lowest loss is the exact optimum.

    References
    ----------
    Kull, Silva Filho, Flach (2017), Beta calibration: a well-founded and easily implemented
    improvement on logistic calibration for binary classifiers.
    """

    def __init__(self, variant: str = "abm") -> None:
        self.variant = variant

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        check_choice(self.variant, "variant", ("abm", "ab", "am"))
        super()._fit(logits, labels)
        self.coefficients_ = np.array(self._maps)

    def _fit_one(self, odds: torch.Tensor, outcomes: torch.Tensor) -> np.ndarray:
        # ln p and −ln(1 − p) from the log odds: finite however sure the forecast is.
        parts = torch.stack([F.logsigmoid(odds), F.softplus(odds), torch.ones_like(odds)], 1)
        bases = {
            "abm": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            "ab": [[1, 0, 0], [0, 1, 0]],
            "am": [[1, 1, 0], [0, 0, 1]],
        }[self.variant]
        signed = [row for row in bases if not row[2]]
        free = [row for row in bases if row[2]]
        best, lowest = None, np.inf
        for mask in range(1 << len(signed)):
            rows = [r for i, r in enumerate(signed) if mask >> i & 1] + free
            if not rows:
                found, loss = np.zeros(3), float(np.log(2.0))
            else:
                basis = torch.tensor(rows, dtype=torch.float64, device=odds.device)
                found, loss = _logistic(parts @ basis.T, outcomes)
                found = found @ np.array(rows, dtype=np.float64)
            if loss < lowest and found[0] >= 0.0 and found[1] >= 0.0:
                best, lowest = found, loss
        return best

    def _apply_one(self, one: np.ndarray, odds: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(one[0] * F.logsigmoid(odds) + one[1] * F.softplus(odds) + one[2])


class HistogramBinning(BinaryCalibrator):
    """Replace a probability by the share of events in its bin.

    With more than two classes one histogram a class is fitted and rows are divided by their
    sum.

    Parameters
    ----------
    n_bins : int, default 15
        The number of bins.
    binning : {"uniform", "quantile"}, default "uniform"
        As in `expected_calibration_error`. An empty uniform bin answers with its midpoint;
        above the last quantile edge the last bin answers.

    Attributes
    ----------
    edges_ : list of numpy.ndarray
        Upper edges of the bins, one array a class (one in all for two classes).
    values_ : list of numpy.ndarray
        What each bin answers.

    References
    ----------
    Zadrozny, Elkan (2001), Obtaining calibrated probability estimates from decision trees
    and naive Bayesian classifiers.
    """

    def __init__(self, n_bins: int = 15, binning: str = "uniform") -> None:
        self.n_bins = n_bins
        self.binning = binning

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        check_bins(self.n_bins)
        check_choice(self.binning, "binning", ("uniform", "quantile"))
        super()._fit(logits, labels)
        self.edges_ = [edges.cpu().numpy() for edges, _ in self._maps]
        self.values_ = [values.cpu().numpy() for _, values in self._maps]

    def _fit_one(self, odds: torch.Tensor, outcomes: torch.Tensor) -> Any:
        n_bins = check_bins(self.n_bins)
        probs = torch.sigmoid(odds)
        sums = bin_events(probs, outcomes, n_bins, self.binning)
        if self.binning == "quantile":
            edges = quantile_edges(probs, n_bins)
        else:
            edges = torch.arange(1, n_bins + 1, device=odds.device).double() / n_bins
        middle = edges - 0.5 / n_bins
        return edges, torch.where(sums.count > 0, sums.outcome.double() / sums.count, middle)

    def _apply_one(self, one: Any, odds: torch.Tensor) -> torch.Tensor:
        edges, values = one
        probs = torch.sigmoid(odds)
        if self.binning == "uniform":
            index = uniform_bins(probs, len(edges)).long() - 1
        else:
            index = torch.bucketize(probs, edges.to(probs.device)).clamp_(max=len(edges) - 1)
        return values.to(probs.device)[index]


class IsotonicCalibration(BinaryCalibrator):
    """Fit a nondecreasing map of the probability by least squares.

    Equal probabilities share one value. Between the fitted points the map is linear,
    outside it is constant. With more than two classes one map a class is fitted and rows
    are divided by their sum.

    Attributes
    ----------
    thresholds_ : list of numpy.ndarray
        Probabilities where the map is known, one array a class (one in all for two classes).
    values_ : list of numpy.ndarray
        The map there.

    References
    ----------
    Zadrozny, Elkan (2002), Transforming classifier scores into accurate multiclass
    probability estimates.
    """

    def _fit(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        super()._fit(logits, labels)
        self.thresholds_ = [knots.cpu().numpy() for knots, _ in self._maps]
        self.values_ = [values.cpu().numpy() for _, values in self._maps]

    def _fit_one(self, odds: torch.Tensor, outcomes: torch.Tensor) -> Any:
        knots, fitted = isotonic_fit(torch.sigmoid(odds), outcomes)
        inner = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
        ends = torch.ones(1, dtype=torch.bool, device=knots.device)
        keep = torch.cat([ends, inner, ends])[: len(knots)]
        return knots[keep], fitted[keep]

    def _apply_one(self, one: Any, odds: torch.Tensor) -> torch.Tensor:
        knots, values = (part.to(odds.device) for part in one)
        probs = torch.sigmoid(odds).clamp(knots[0].item(), knots[-1].item())
        right = torch.searchsorted(knots, probs).clamp_(min=1, max=max(1, len(knots) - 1))
        right = right.clamp_(max=len(knots) - 1)
        left = (right - 1).clamp_(min=0)
        width = knots[right] - knots[left]
        share = torch.where(width > 0.0, (probs - knots[left]) / width, 1.0)
        return torch.lerp(values[left], values[right], share)


def _logistic(features: torch.Tensor, targets: torch.Tensor) -> tuple[np.ndarray, float]:
    """Minimize mean[softplus(η) − t η], η = features @ w, by damped Newton steps."""
    n_samples, size = features.shape
    scale = features.square().mean(0).sqrt().clamp_(min=1e-300)
    features = features / scale
    weights = torch.zeros(size, dtype=torch.float64, device=features.device)

    def loss_at(w: torch.Tensor) -> float:
        eta = features @ w
        return (F.softplus(eta) - targets * eta).mean().item()

    loss = loss_at(weights)
    for _ in range(200):
        probs = torch.sigmoid(features @ weights)
        gradient = features.T @ (probs - targets) / n_samples
        hessian = features.T @ (features * (probs * (1.0 - probs)).unsqueeze(1)) / n_samples
        ridge = 1e-14 * hessian.diagonal().sum() + 1e-300
        hessian += ridge * torch.eye(size, dtype=torch.float64, device=features.device)
        step = -torch.linalg.lstsq(hessian.cpu(), gradient.cpu().unsqueeze(1)).solution[:, 0]
        step = step.to(features.device)
        decrement = -(gradient @ step).item()
        if decrement <= 1e-20 or loss <= _SEPARABLE_LOSS:
            break
        length, trial = 1.0, loss_at(weights + step)
        while trial > loss - 1e-4 * length * decrement and length > 1e-8:
            length *= 0.5
            trial = loss_at(weights + length * step)
        if trial >= loss:
            break
        weights, loss = weights + length * step, trial
    if loss <= _SEPARABLE_LOSS:
        warnings.warn(
            "logits: the outcomes are separable, so the log loss has no minimum; stopped at "
            f"a loss of {loss:.1e}",
            UserWarning,
            stacklevel=6,
        )
    return (weights / scale).cpu().numpy(), loss
