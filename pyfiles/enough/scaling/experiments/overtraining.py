"""Predictions of large, over-trained models from small ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from enough.runtime.validation import check_integer
from enough.scaling.fit import IdentifiabilityWarning
from enough.scaling.joint import DownstreamLaw
from enough.scaling.laws import ChinchillaLaw, OverTrainingLaw
from enough.scaling.planning import compute_optimal, inference_optimal

__all__ = [
    "exponents_by_multiplier",
    "inference_table",
    "prediction_table",
    "recipe_rows",
    "shuffled_fits",
]

_LARGE = 1e9  # parameters: what the paper holds out


def recipe_rows(models: pd.DataFrame) -> pd.DataFrame:
    """Mark the rows that the paper's recipe trains on and those that it predicts.

    Parameters
    ----------
    models : pandas.DataFrame
        Columns params, multiplier (tokens / params) of one training set.

    Returns
    -------
    pandas.DataFrame
        The same rows with a column ``role``: ``"loss"`` for the five small runs that fit the loss,
        ``"error"`` for the run that the downstream fit adds, ``"held out"`` for the two large
        predictions, and an empty string for the others.
    """
    role = np.full(len(models), "", dtype=object)
    size, multiplier = models["params"].to_numpy(), models["multiplier"].to_numpy()
    usual = np.isclose(multiplier, 20)
    role[usual & (size < 0.5 * _LARGE)] = "loss"
    role[(size < 2e7) & np.isclose(multiplier, 320)] = "loss"
    role[usual & (size > _LARGE) & (size < 5 * _LARGE)] = "error"
    role[(size > _LARGE) & (~usual | (size > 5 * _LARGE))] = "held out"
    return models.assign(role=role)


def prediction_table(models: pd.DataFrame) -> pd.DataFrame:
    """Predict the held-out runs of every training set from its small runs.

    Parameters
    ----------
    models : pandas.DataFrame
        Columns dataset, params, tokens, multiplier, loss and error.

    Returns
    -------
    pandas.DataFrame
        One row a held-out run: dataset, params, multiplier, loss, predicted_loss, loss_miss
        (relative), error, predicted_error, error_miss (relative) and wide_miss, the relative miss
        of the loss when all runs below a billion parameters are fitted instead of five.
    """
    tables = []
    for name, one in models.groupby("dataset", sort=False):
        rows = recipe_rows(one)
        small, ahead = rows[rows.role == "loss"], rows[rows.role == "held out"]
        law = OverTrainingLaw.fit(small, residuals="raw", huber_delta=math.inf)
        more = rows[rows.role.isin(["loss", "error"])]
        downstream = DownstreamLaw.fit(more)
        wide = OverTrainingLaw.fit(rows[rows.params < _LARGE])
        predicted = law.predict(ahead)
        error = downstream.predict({"loss": predicted})
        tables.append(
            pd.DataFrame(
                {
                    "dataset": name,
                    "params": ahead.params.to_numpy(),
                    "multiplier": ahead.multiplier.to_numpy(),
                    "loss": ahead.loss.to_numpy(),
                    "predicted_loss": predicted,
                    "loss_miss": np.abs(predicted / ahead.loss.to_numpy() - 1),
                    "error": ahead.error.to_numpy(),
                    "predicted_error": error,
                    "error_miss": np.abs(error / ahead.error.to_numpy() - 1),
                    "wide_miss": np.abs(wide.predict(ahead) / ahead.loss.to_numpy() - 1),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def exponents_by_multiplier(models: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Return the exponent of compute at each number of tokens a parameter.

    Parameters
    ----------
    models : pandas.DataFrame
        Columns params, tokens, multiplier and loss of one training set.
    floor : float
        The loss E that more compute cannot lower, below every loss.

    Returns
    -------
    pandas.DataFrame
        Columns multiplier, runs, exponent (minus the slope of ln(L − E) in ln C) and prefactor;
        multipliers with fewer than three runs are left out.

    Raises
    ------
    ValueError
        If a loss does not exceed the floor.
    """
    if not (models["loss"] > floor).all():
        raise ValueError(f"floor: expected less than every loss, got {floor}")
    rows = []
    for multiplier, one in models.groupby("multiplier"):
        if len(one) < 3:
            continue
        flops = np.log(6.0 * one["params"]) + np.log(one["tokens"])
        slope, level = np.polyfit(flops, np.log(one["loss"] - floor), 1)
        rows.append((multiplier, len(one), -slope, math.exp(level)))
    return pd.DataFrame(rows, columns=["multiplier", "runs", "exponent", "prefactor"])


def shuffled_fits(models: pd.DataFrame, replicas: int = 100, seed: int = 0) -> dict[str, Any]:
    """Fit the law to losses whose rows were permuted, and to the true ones.

    Parameters
    ----------
    models : pandas.DataFrame
        Columns params, tokens and loss.
    replicas : int, default 100
        Number of permutations.
    seed : int, default 0
        Seed of the permutations.

    Returns
    -------
    dict
        ``explained`` (share of the variance of the loss that the law explains), ``shuffled`` (the
        same for each permutation, shape (replicas,)) and ``p_value`` (share of permutations that
        explain at least as much, the true order counted among them).
    """
    replicas = check_integer(replicas, "replicas", minimum=1)
    draw = np.random.default_rng(seed)
    losses = models["loss"].to_numpy()

    def explained(loss: np.ndarray) -> float:
        with warnings.catch_warnings():
            # Shuffled losses have no scales to identify; that is the point.
            warnings.simplefilter("ignore", IdentifiabilityWarning)
            fit = OverTrainingLaw.fit(models.assign(loss=loss), huber_delta=math.inf, starts=2)
        residual = np.log(loss) - np.log(fit.loss)
        return 1 - float((residual**2).mean() / np.log(loss).var())

    true = explained(losses)
    shuffled = np.array([explained(draw.permutation(losses)) for _ in range(replicas)])
    p_value = (1 + (shuffled >= true).sum()) / (1 + replicas)
    return {"explained": true, "shuffled": shuffled, "p_value": float(p_value)}


def inference_table(fit: Any, flops: float, served: Any) -> pd.DataFrame:
    """Compare the compute-optimal model with the one that is cheapest to train and serve.

    Parameters
    ----------
    fit : Fit
        A fitted `ChinchillaLaw` or `OverTrainingLaw`.
    flops : float
        Training budget whose compute-optimal loss is the target.
    served : array_like
        Numbers of tokens of inference.

    Returns
    -------
    pandas.DataFrame
        One row a number: served, params, tokens, multiplier, cost (training and inference, in
        floating-point operations), plain_cost (of the compute-optimal model) and saved (share).
    """
    if fit.law not in (ChinchillaLaw, OverTrainingLaw):
        raise ValueError(f"fit: expected a law of params and tokens, got {fit.law.__name__}")
    plain = compute_optimal(fit, flops)
    rows = []
    for count in np.atleast_1d(np.asarray(served, dtype=np.float64)):
        best = inference_optimal(fit, plain.loss, count)
        cost = 6 * best.params * best.tokens + 2 * best.params * count
        usual = flops + 2 * plain.params * count
        rows.append(
            {
                "served": count,
                "params": best.params,
                "tokens": best.tokens,
                "multiplier": best.tokens / best.params,
                "cost": cost,
                "plain_cost": usual,
                "saved": 1 - cost / usual,
            }
        )
    return pd.DataFrame(rows)


def stretch(params: Mapping[str, float], flops: float, served: float) -> float:
    """Return how much longer a model is trained, for each parameter, when it also serves tokens.

    With L = E + A N^−α + B D^−α at the target loss, D is a closed form of N, and the cost
    6 N D + 2 N × served has one minimum in log N.

    Parameters
    ----------
    params : mapping of str to float
        Parameters E, a, b and eta of an `OverTrainingLaw`.
    flops : float
        Training budget whose compute-optimal loss is the target.
    served : float
        Tokens of inference.

    Returns
    -------
    float
        Token multiplier of the cheapest model over that of the compute-optimal one.
    """
    alpha = 2 * params["eta"]
    a, b = params["a"] / 6 ** params["eta"], params["b"] / 6 ** params["eta"]
    # With equal exponents N* = (A/B)^(1/2α) sqrt(C/6).
    best = (a / b) ** (1 / (2 * alpha)) * math.sqrt(flops / 6)
    reducible = a * best**-alpha + b * (flops / 6 / best) ** -alpha
    smallest = (a / reducible) ** (1 / alpha)

    def tokens(size: float) -> float:
        return (b / (reducible - a * size**-alpha)) ** (1 / alpha)

    def cost(log_size: float) -> float:
        size = math.exp(log_size)
        return math.log(6 * size * tokens(size) + 2 * size * served)

    ends = math.log(smallest * (1 + 1e-9)), math.log(10 * best)
    found = optimize.minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-9})
    size = math.exp(found.x)
    return (tokens(size) / size) / (flops / 6 / best**2)
