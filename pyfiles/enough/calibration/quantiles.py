"""Quantile forecasts: their scores, their order and their coverage."""

from __future__ import annotations

import math
from typing import Any

import torch

from enough.calibration.conformal import conformal_rank
from enough.runtime.validation import as_tensors, check_choice, check_tensor

__all__ = [
    "conformalize_quantiles",
    "pinball_loss",
    "sort_quantiles",
    "weighted_interval_score",
]

# Levels τ and 1 − τ are a pair when they add up to 1 within this.
_PAIR = 1e-9


def pinball_loss(prediction: Any, target: Any, levels: Any) -> Any:
    """Return the pinball loss of each sample and level.

    ρ_τ(u) = u (τ − 1[u < 0]) with u = target − prediction; its mean is least at the
    τ-quantile.

    Parameters
    ----------
    prediction : array of shape (N, Q)
        Predicted quantiles.
    target : array of shape (N,)
        What happened.
    levels : array of shape (Q,)
        The level τ of each column, in (0, 1), in any order.

    Returns
    -------
    array of shape (N, Q)
        At least 0, in the unit of the target; differentiable in ``prediction``.

    Raises
    ------
    ValueError
        If a shape is wrong, a level is not in (0, 1), or an entry is NaN or infinite.

    References
    ----------
    Koenker, Bassett (1978), Regression quantiles.
    """
    prediction, target, levels, restore = _read(prediction, target, levels)
    return restore(_pinball(prediction, target, levels))


def weighted_interval_score(prediction: Any, target: Any, levels: Any) -> Any:
    """Return the weighted interval score of each sample.

    With K central intervals of miscoverage α_k and the median m,
    WIS = (|y − m|/2 + Σ_k (α_k/2) IS_{α_k})/(K + 1/2), where the interval score IS_α is the
    width plus 2/α times the distance by which y misses the interval. That is twice the mean
    pinball loss over the levels, with or without a median.

    Parameters
    ----------
    prediction : array of shape (N, Q)
        Predicted quantiles.
    target : array of shape (N,)
        What happened.
    levels : array of shape (Q,)
        Levels in (0, 1), distinct, symmetric about 1/2, in any order.

    Returns
    -------
    array of shape (N,)
        At least 0, in the unit of the target; lower is better.

    Raises
    ------
    ValueError
        If a shape is wrong, the levels are not symmetric, or an entry is NaN or infinite.

    References
    ----------
    Bracher, Ray, Gneiting, Reich (2021), Evaluating epidemic forecasts in an interval
    format, Eq. 1.
    """
    prediction, target, levels, restore = _read(prediction, target, levels)
    _pairs(levels)
    return restore(2.0 * _pinball(prediction, target, levels).mean(1))


def sort_quantiles(prediction: Any, levels: Any = None, method: str = "sort") -> Any:
    """Make predicted quantiles nondecreasing in the level.

    Both methods never raise a sample's sum of pinball losses over the levels.

    Parameters
    ----------
    prediction : array of shape (..., Q)
        Predicted quantiles, which may cross.
    levels : array of shape (Q,), optional
        The level of each column; increasing when not given.
    method : {"sort", "isotonic"}, default "sort"
        Sort the values, or replace them by the nearest nondecreasing vector in least
        squares.

    Returns
    -------
    array of shape (..., Q)
        In the columns' given order.

    Raises
    ------
    ValueError
        If a shape is wrong, a level is not in (0, 1), or an entry is NaN or infinite.

    References
    ----------
    Chernozhukov, Fernández-Val, Galichon (2010), Quantile and probability curves without
    crossing.
    """
    check_choice(method, "method", ("sort", "isotonic"))
    (prediction,), restore = as_tensors(prediction=prediction)
    if prediction.ndim == 0:
        raise ValueError("prediction: expected shape (..., Q), got ()")
    check_tensor(prediction, "prediction", floating=True)
    size = prediction.shape[-1]
    order = torch.arange(size, device=prediction.device)
    if levels is not None:
        order = _read_levels(levels, size, prediction).argsort()
    values = prediction[..., order]
    values = values.sort(-1).values if method == "sort" else _isotonic(values)
    return restore(torch.empty_like(values).index_copy(-1, order, values))


def conformalize_quantiles(
    prediction: Any,
    calibration_prediction: Any,
    calibration_target: Any,
    levels: Any,
    method: str = "interval",
) -> Any:
    """Shift predicted quantiles so that they cover (conformalized quantile regression).

    Parameters
    ----------
    prediction : array of shape (M, Q)
        Predicted quantiles of new samples.
    calibration_prediction : array of shape (n, Q)
        Predicted quantiles of calibration samples.
    calibration_target : array of shape (n,)
        What happened to those.
    levels : array of shape (Q,)
        Levels in (0, 1), distinct, in any order.
    method : {"interval", "level"}, default "interval"
        ``"interval"``: the levels are symmetric about 1/2, and each pair (τ, 1 − τ) moves
        outward by the conformal quantile of max(q_τ − y, y − q_{1−τ}) at miscoverage 2τ, so
        that the interval covers with probability at least 1 − 2τ; a median stays.
        ``"level"``: each level moves alone; y lies at or below an upper one with probability
        at least τ, and at or above a lower one with probability at least 1 − τ.

    Returns
    -------
    array of shape (M, Q)
        Infinite where n is too small for the level. Intervals that were too wide shrink and
        may cross: see `sort_quantiles`.

    Raises
    ------
    ValueError
        If a shape is wrong, a level is not in (0, 1) or lacks its partner, or an entry is
        NaN or infinite.

    References
    ----------
    Romano, Patterson, Candès (2019), Conformalized quantile regression, Eqs. 6-8 and
    Theorem 2.
    """
    check_choice(method, "method", ("interval", "level"))
    known, target, levels, _ = _read(
        calibration_prediction, calibration_target, levels, "calibration_"
    )
    (prediction,), restore = as_tensors(prediction=prediction)
    check_tensor(prediction, "prediction", shape=(None, levels.shape[0]), floating=True)
    known, target = known.to(prediction.device), target.to(prediction.device)
    above = target.unsqueeze(1) - known
    shift = torch.zeros(levels.shape[0], dtype=known.dtype, device=prediction.device)
    if method == "interval":
        for low, high in _pairs(levels):
            score = torch.maximum(-above[:, low], above[:, high])
            # Decimal levels: 2 · 0.05 must be 0.1 exactly, so round off what doubling adds.
            size = _rank_value(score, round(2.0 * levels[low].item(), 12))
            shift[low], shift[high] = -size, size
    else:
        for column, level in enumerate(levels.tolist()):
            if level < 0.5:
                shift[column] = -_rank_value(-above[:, column], level)
            else:
                shift[column] = _rank_value(above[:, column], round(1.0 - level, 12))
    return restore(prediction + shift.to(prediction.dtype))


def _rank_value(scores: torch.Tensor, alpha: float) -> float:
    rank = conformal_rank(scores.shape[0], alpha)
    return math.inf if rank > scores.shape[0] else scores.kthvalue(rank).values.item()


def _pinball(prediction: torch.Tensor, target: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    error = target.unsqueeze(1) - prediction
    return torch.maximum(levels * error, (levels - 1.0) * error).to(prediction.dtype)


def _isotonic(values: torch.Tensor) -> torch.Tensor:
    """Project onto nondecreasing vectors: max over a <= j of min over b >= j of mean(a..b)."""
    given, values = values.dtype, values.double()
    size = values.shape[-1]
    total = torch.cat([torch.zeros_like(values[..., :1]), values], -1).cumsum(-1)
    best = torch.full_like(values, -math.inf)
    for start in range(size):
        lengths = torch.arange(1, size - start + 1, device=values.device, dtype=values.dtype)
        means = (total[..., start + 1 :] - total[..., start : start + 1]) / lengths
        least = means.flip(-1).cummin(-1).values.flip(-1)
        best = torch.cat([best[..., :start], torch.maximum(best[..., start:], least)], -1)
    return best.to(given)


def _read(prediction: Any, target: Any, levels: Any, prefix: str = "") -> tuple[Any, ...]:
    names = f"{prefix}prediction", f"{prefix}target"
    tensors, restore = as_tensors(**dict(zip(names, (prediction, target), strict=True)))
    prediction, target = tensors
    check_tensor(prediction, names[0], ndim=2, floating=True)
    check_tensor(target, names[1], shape=(prediction.shape[0],))
    levels = _read_levels(levels, prediction.shape[1], prediction)
    return prediction, target.to(prediction.dtype), levels, restore


def _read_levels(levels: Any, size: int, like: torch.Tensor) -> torch.Tensor:
    (levels,), _ = as_tensors(levels=levels)
    check_tensor(levels, "levels", shape=(size,))
    levels = levels.to(like.device, torch.promote_types(like.dtype, levels.dtype))
    if bool((levels <= 0).any()) or bool((levels >= 1).any()):
        raise ValueError(f"levels: expected numbers in (0, 1), got {levels.tolist()}")
    return levels


def _pairs(levels: torch.Tensor) -> list[tuple[int, int]]:
    """Return the columns (τ, 1 − τ) with τ < 1/2."""
    order = levels.argsort().tolist()
    values = levels.double()[order]
    symmetric = bool(((values + values.flip(0) - 1.0).abs() <= _PAIR).all())
    if not symmetric or bool((values[1:] == values[:-1]).any()):
        raise ValueError(
            f"levels: expected distinct levels symmetric about 1/2, got {levels.tolist()}"
        )
    half = len(order) // 2
    return [(order[i], order[-1 - i]) for i in range(half)]
