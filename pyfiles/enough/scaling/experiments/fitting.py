"""Experiments of the chapter on fitting: the published tables, and what goes wrong on them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from enough import data
from enough.runtime import derive_seed
from enough.runtime.validation import check_integer, check_number
from enough.scaling import published
from enough.scaling.fit import IdentifiabilityWarning
from enough.scaling.joint import TranslationLaw
from enough.scaling.laws import ChinchillaLaw, PowerLaw, _PowerSumLaw
from enough.scaling.planning import isoflop_minima
from enough.scaling.published import Published

__all__ = [
    "BivariateLaw",
    "approach_two_bias",
    "approaches_table",
    "bivariate_point",
    "condition_number",
    "coverage_point",
    "extrapolation_errors",
    "grid_starts",
    "ladder_optima",
    "ladder_steps",
    "ladder_table",
    "lbfgs_from",
    "log_huber",
    "shuffled_point",
    "translation_errors",
    "translation_point",
]

#: The five recipes between Kaplan's and Chinchilla's: hparams, warmup, decay, count.
RUNGS = {
    "Kaplan's recipe": ("base", "long", "kaplan", "kaplan"),
    "count the last layer": ("base", "long", "kaplan", "standard"),
    "short warm-up": ("base", "short", "kaplan", "standard"),
    "decay to the end": ("base", "short", "chinchilla", "standard"),
    "tuned optimizer": ("tuned", "short", "const", "standard"),
}
_RECIPE = ("hparams", "warmup", "decay", "count")
#: The nine budgets of the IsoFLOP profiles in the Chinchilla paper.
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)
_TRUTH = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
_NMT = {"L_inf": 1.0, "A": 150.0, "p_e": 0.2, "p_d": 0.3}


def log_huber(params: Mapping[str, float], table: Any, delta: float = 1e-3) -> dict[str, float]:
    """Judge given parameters of Chinchilla's law on a table.

    Parameters
    ----------
    params : mapping of str to float
        E, A, B, alpha, beta.
    table : pandas.DataFrame or mapping
        Columns params, tokens and loss.
    delta : float, default 1e-3
        Width of the quadratic zone.

    Returns
    -------
    dict of str to float
        ``objective``, the sum of Huber's loss of the residuals ln L̂ − ln L, and ``bias``, their
        mean.
    """
    residual = np.log(ChinchillaLaw.evaluate(params, table) / np.asarray(table["loss"]))
    return {"objective": float(_huber(residual, delta).sum()), "bias": float(residual.mean())}


def grid_starts() -> np.ndarray:
    """Return the 4500 starting points of the published recipe.

    Returns
    -------
    numpy.ndarray, shape (4500, 5)
        Rows ln A, ln B, ln E, α, β.
    """
    log = np.arange(0.0, 30.0, 5.0)
    share = np.arange(0.0, 2.5, 0.5)
    axes = (log, log, np.arange(-1.0, 1.5, 0.5), share, share)
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 5)


def lbfgs_from(
    starts: Any, table: Any, *, scale: float = 1.0, delta: float = 1e-3
) -> dict[str, np.ndarray]:
    """Run L-BFGS-B with default tolerances from each of some starts.

    Parameters
    ----------
    starts : array_like, shape (S, 5)
        Rows ln A, ln B, ln E, α, β.
    table : pandas.DataFrame or mapping
        Columns params, tokens and loss.
    scale : float, default 1.0
        What the optimizer sees is this many times the sum over rows; 1 / rows makes it the mean.
    delta : float, default 1e-3
        Width of the quadratic zone.

    Returns
    -------
    dict of str to numpy.ndarray
        ``objective``, shape (S,), as a sum whatever the optimizer saw, and ``theta``, shape
        (S, 5), where each start ended.

    Raises
    ------
    ValueError
        If ``scale`` is not positive.

    Notes
    -----
    The gradient is exact. The tolerances are relative to max(|f|, 1) and absolute for the
    gradient, so an objective far below 1 ends early.
    """
    log_n, log_d, y = (np.log(np.asarray(table[c])) for c in ("params", "tokens", "loss"))
    scale = check_number(scale, "scale", above=0)

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(y, e)])
        top = terms.max(0)
        share = np.exp(terms - top)
        total = share.sum(0)
        residual = top + np.log(total) - y
        pull = np.clip(residual, -delta, delta) * share / total
        parts = pull.sum(1)
        slope = [*parts, -(pull[0] @ log_n), -(pull[1] @ log_d)]
        return scale * _huber(residual, delta).sum(), scale * np.array(slope)

    ends = [optimize.minimize(function, s, jac=True, method="L-BFGS-B") for s in starts]
    return {
        "objective": np.array([end.fun for end in ends]) / scale,
        "theta": np.array([end.x for end in ends]),
    }


def approach_two_bias(
    alpha: float, beta: float, half_width: float, *, points: int = 15
) -> dict[str, float]:
    """Return what parabolas through noise-free IsoFLOP profiles say about 10²⁴ FLOP.

    Five budgets from 10¹⁷ to 10²¹ FLOP, each with sizes spaced evenly in the logarithm and
    centered at the true optimum; a parabola a budget, a line through the logarithms of the five
    minima.

    Parameters
    ----------
    alpha, beta : float
        Exponents of the law, whose other constants are A = 406.4, B = 410.7, E = 1.69.
    half_width : float
        The largest size over the best one, above 1.
    points : int, default 15
        Sizes at each budget.

    Returns
    -------
    dict of str to float
        ``size``, the extrapolated best size over the true one; ``exponent``, the fitted minus the
        true β/(α+β).

    Raises
    ------
    ValueError
        If ``half_width`` is not above 1 or there are fewer than three points.
    """
    wide = np.log(check_number(half_width, "half_width", above=1))
    offsets = np.exp(np.linspace(-wide, wide, check_integer(points, "points", minimum=3)))
    law = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": alpha, "beta": beta}

    def best(flops: Any) -> Any:
        scale = (alpha * law["A"] / (beta * law["B"])) ** (1 / (alpha + beta))
        return scale * (flops / 6) ** (beta / (alpha + beta))

    flops = np.repeat(10.0 ** np.arange(17, 22), len(offsets))
    size = best(flops) * np.tile(offsets, 5)
    table = pd.DataFrame({"flops": flops, "params": size, "tokens": flops / 6 / size})
    minima = isoflop_minima(table.assign(loss=ChinchillaLaw.evaluate(law, table)))
    slope, level = np.polyfit(np.log(minima.flops), np.log(minima.params), 1)
    return {
        "size": float(np.exp(level + slope * np.log(1e24)) / best(1e24)),
        "exponent": float(slope - beta / (alpha + beta)),
    }


def approaches_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the exponent of the best size by each of the three approaches, on the same runs.

    Approach 1 takes the lowest loss near each of nine budgets, approach 2 the minimum of a
    parabola, approach 3 the parametric law. The first proper would need whole training curves.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns params, tokens, flops and loss.

    Returns
    -------
    pandas.DataFrame
        Columns approach, exponent and stderr (of the regression line, or the fit's).
    """
    budgets = np.array(BUDGETS)
    away = np.abs(np.log10(table.flops.to_numpy()[:, None] / budgets))
    near = table.assign(flops=budgets[away.argmin(1)])[away.min(1) < 0.05]
    lowest = near.loc[near.groupby("flops").loss.idxmin()]
    minima = isoflop_minima(near).dropna()
    rows = []
    for name, found in (("1: lowest loss", lowest), ("2: parabola", minima[minima.interior])):
        line = stats.linregress(np.log(found.flops), np.log(found.params))
        rows.append((name, float(line.slope), float(line.stderr)))
    fit = ChinchillaLaw.fit(table)
    alpha, beta = fit.params["alpha"], fit.params["beta"]
    slope = np.array([-beta, alpha]) / (alpha + beta) ** 2
    at = [list(fit.params).index(s) for s in ("alpha", "beta")]
    variance = slope @ fit.covariance[np.ix_(at, at)] @ slope
    rows.append(("3: parametric law", beta / (alpha + beta), float(np.sqrt(variance))))
    return pd.DataFrame(rows, columns=["approach", "exponent", "stderr"])


def extrapolation_errors(table: pd.DataFrame, flops: float) -> np.ndarray:
    """Fit Chinchilla's law on the runs below a budget and predict the others.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns params, tokens, flops and loss.
    flops : float
        The budget.

    Returns
    -------
    numpy.ndarray, shape (m,)
        Relative errors |L̂/L − 1| of the runs at or above the budget.

    Raises
    ------
    ValueError
        If no run is at or above the budget, or too few are below it.
    """
    large = table.flops >= flops
    if not large.any():
        raise ValueError(f"flops: expected a budget that some run reaches, got {flops:g}")
    fit = ChinchillaLaw.fit(table[~large])
    return np.abs(fit.predict(table[large]) / table.loss[large].to_numpy() - 1)


def condition_number(
    gap: float, ratios: Iterable[float], *, exponents: bool = True, sizes: int = 16
) -> float:
    """Return the condition number of JᵀJ for Chinchilla's law on a grid of sizes and ratios.

    J holds the derivatives of E + A e^(−αx) + B e^(−βz) by E, ln A, ln B and, on request, α and
    β; x and z are ln N and ln D, centered. It is the square of the condition number of J, from
    its singular values, so that squaring costs no digits.

    Parameters
    ----------
    gap : float
        Difference α − β; the two lie symmetrically around 0.34.
    ratios : iterable of float
        Tokens per parameter, each with all the sizes.
    exponents : bool, default True
        Whether the two exponents are unknown too.
    sizes : int, default 16
        Model sizes from 10⁸ to 10¹⁰, evenly in the logarithm.

    Returns
    -------
    float
        The condition number.
    """
    size, ratio = np.meshgrid(np.geomspace(1e8, 1e10, sizes), np.asarray(list(ratios), float))
    x, z = np.log(size).ravel(), np.log(size * ratio).ravel()
    x, z = x - x.mean(), z - z.mean()
    first, second = np.exp(-(0.34 + gap / 2) * x), np.exp(-(0.34 - gap / 2) * z)
    columns = [np.ones_like(x), first, second]
    if exponents:
        columns += [-x * first, -z * second]
    return float(np.linalg.cond(np.stack(columns, -1)) ** 2)


def shuffled_point(table: Any, *, shuffle: bool, seed: int = 0) -> float:
    """Fit Chinchilla's law on a random half of a table and score it on the other half.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns params, tokens and loss.
    shuffle : bool
        Whether the losses are dealt out to the rows at random first.
    seed : int, default 0
        Chooses the halves and the shuffle; the halves are the same with and without it.

    Returns
    -------
    float
        The gain, 1 − F(law)/F(constant) on the held-out half, F the sum of Huber's loss of the
        logarithms and the constant the training half's median; −1 where it is lower or the law
        is not finite there.
    """
    rng = np.random.default_rng(derive_seed(seed, "halves"))
    order = rng.permutation(len(table))
    rows = table.reset_index(drop=True)
    if shuffle:
        rows = rows.assign(loss=rng.permutation(rows.loss.to_numpy()))
    # In units of their means, so that no coefficient overflows where the exponents run off.
    for column in ("params", "tokens"):
        rows[column] = rows[column] / np.exp(np.log(rows[column]).mean())
    train, test = rows.loc[order[: len(rows) // 2]], rows.loc[order[len(rows) // 2 :]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        fit = ChinchillaLaw.fit(train, starts=1)
    constant = _huber(np.log(train.loss.median() / test.loss.to_numpy()), 1e-3).sum()
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        gain = float(1 - log_huber(fit.params, test)["objective"] / constant)
    return gain if gain > -1 else -1.0  # also where the law is not finite on a held-out row


def coverage_point(*, rows: int = 240, replicas: int = 50, seed: int = 0) -> bool:
    """Say whether the bootstrap interval of the optimal size's exponent covers the truth.

    Parameters
    ----------
    rows : int, default 240
        Runs in the generated table, Chinchilla's law with a Laplace error of 0.5 %.
    replicas : int, default 50
        Bootstrap replicas; few are needed for a standard error.
    seed : int, default 0
        Draws the table and the replicas.

    Returns
    -------
    bool
        Whether β/(α+β) ± 1.96 bootstrap standard errors holds the true value.
    """
    rng = np.random.default_rng(derive_seed(seed, "coverage"))
    table = pd.DataFrame(
        {"params": 10 ** rng.uniform(7.7, 10.2, rows), "tokens": 10 ** rng.uniform(9, 11.5, rows)}
    )
    loss = ChinchillaLaw.evaluate(_TRUTH, table) * np.exp(rng.laplace(0, 0.005, rows))
    fit = ChinchillaLaw.fit(
        table.assign(loss=loss), starts=1, bootstrap=replicas, generator=derive_seed(seed, "draws")
    )
    exponent = fit.bootstrap["beta"] / (fit.bootstrap["alpha"] + fit.bootstrap["beta"])
    found = fit.params["beta"] / (fit.params["alpha"] + fit.params["beta"])
    truth = _TRUTH["beta"] / (_TRUTH["alpha"] + _TRUTH["beta"])
    return bool(abs(found - truth) <= 1.96 * exponent.std(ddof=1))


def ladder_table(table: pd.DataFrame, dataset: str = "rw", *, neighbors: int = 2) -> pd.DataFrame:
    """Return the best model size at each budget for the five recipes from Kaplan to Chinchilla.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns dataset, hparams, warmup, decay, count, flops, params and loss.
    dataset : str, default "rw"
        Which corpus.
    neighbors : int, default 2
        Points on each side of the lowest one that the parabola goes through; a narrow parabola
        has little bias.

    Returns
    -------
    pandas.DataFrame
        Columns rung, flops and params; budgets whose lowest loss is at an end are left out.

    Raises
    ------
    ValueError
        If a recipe has no points for the corpus.
    """
    each = check_integer(neighbors, "neighbors", minimum=1)
    parts = []
    for rung, recipe in RUNGS.items():
        here = table[table.dataset == dataset]
        here = here[_follows(here, recipe)]
        if here.empty:
            raise ValueError(f"dataset: expected points of every recipe, got none of {rung!r}")
        near = []
        for _, level in here.groupby("flops"):
            level = level.sort_values("params")
            lowest = int(level.loss.argmin())
            if 0 < lowest < len(level) - 1:
                near.append(level.iloc[max(0, lowest - each) : lowest + each + 1])
        minima = isoflop_minima(pd.concat(near))
        parts.append(minima[["flops", "params"]].assign(rung=rung))
    return pd.concat(parts, ignore_index=True)


def ladder_optima(dataset: str = "rw") -> Published:
    """Return the best sizes that the study of the five recipes published itself.

    Parameters
    ----------
    dataset : str, default "rw"
        Which corpus.

    Returns
    -------
    Published
        Columns rung, flops and params; without the published table, our own minima of the
        generated points.
    """
    name = "porian_resolving_optimal_pairs"
    try:
        pairs = data.load(name)
    except data.DataUnavailableError:
        points = published.isoflop_points()
        reason = f"the table {name} is not at hand"
        return Published(ladder_table(points.table, dataset), f"generated: {reason}", reason)
    pairs = pairs[pairs.dataset == dataset].rename(columns={"n": "params", "param_count": "count"})
    parts = [pairs[_follows(pairs, recipe)].assign(rung=rung) for rung, recipe in RUNGS.items()]
    table = pd.concat(parts, ignore_index=True).dropna(subset=["params"])
    source = data.describe(name).splitlines()[1].removeprefix("source: ")
    return Published(table[["rung", "flops", "params"]], source, "")


def ladder_steps(minima: pd.DataFrame, *, replicas: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return by how much each rung lowers the exponent of the best size.

    Parameters
    ----------
    minima : pandas.DataFrame
        Columns rung, flops and params, as from `ladder_table`.
    replicas : int, default 2000
        Resamples of the budgets; both rungs of a step are fitted on the same resample of the
        budgets that they share.
    seed : int, default 0
        Draws the resamples.

    Returns
    -------
    pandas.DataFrame
        Columns step (the upper rung), drop, low and high: the 95 % basic bootstrap interval.
    """
    rng = np.random.default_rng(derive_seed(seed, "ladder"))
    wide = np.log(minima.pivot(index="flops", columns="rung", values="params"))
    rungs = list(dict.fromkeys(minima.rung))
    rows = []
    for before, after in pairwise(rungs):
        pair = wide[[before, after]].dropna()
        x, y = np.log(pair.index.to_numpy()), (pair[before] - pair[after]).to_numpy()
        drop = np.polyfit(x, y, 1)[0]
        draws = rng.integers(len(x), size=(replicas, len(x)))
        xs = x[draws] - x[draws].mean(1, keepdims=True)
        again = (xs * y[draws]).sum(1) / (xs**2).sum(1)
        low, high = 2 * drop - np.nanquantile(again, (0.975, 0.025))
        rows.append((after, float(drop), float(low), float(high)))
    return pd.DataFrame(rows, columns=["step", "drop", "low", "high"])


def translation_errors(runs: pd.DataFrame, *, starts: int = 8) -> pd.DataFrame:
    """Compare two forms of a data law on held-out points.

    Parameters
    ----------
    runs : pandas.DataFrame
        Columns model, tokens, loss and train (False for rows to predict).
    starts : int, default 8
        Starting points of each fit.

    Returns
    -------
    pandas.DataFrame
        One row a model: ``model``, largest relative error of a (1/D + C)^p (``translation``) and
        of E + A D^−α (``floor``) on the held-out rows, and the exponent ``p``.
    """
    rows = []
    for model, one in runs.groupby("model", sort=False):
        known, ahead = one[one.train], one[~one.train]
        first = TranslationLaw.fit(known, starts=starts)
        second = PowerLaw.fit({"x": known.tokens, "loss": known.loss}, starts=starts)
        shift = (first.predict(ahead), second.predict({"x": ahead.tokens}))
        errors = [float(np.abs(p / ahead.loss.to_numpy() - 1).max()) for p in shift]
        rows.append((model, *errors, first.params["p"]))
    return pd.DataFrame(rows, columns=["model", "translation", "floor", "p"])


def translation_point(*, seed: int = 0) -> float:
    """Return the advantage of a (1/D + C)^p on a table that the other form generated.

    Parameters
    ----------
    seed : int, default 0
        Draws the noise, 0.3 % of the loss, so that the form decides and not the noise.

    Returns
    -------
    float
        Error of the floor power law minus that of the translation law on the held-out point.
    """
    rng = np.random.default_rng(derive_seed(seed, "floor"))
    tokens = 5e5 * 2.0 ** np.arange(11)
    law = {"E": 0.3, "A": 400.0, "alpha": 0.5}
    loss = PowerLaw.evaluate(law, {"x": tokens}) * np.exp(rng.normal(0, 0.003, len(tokens)))
    runs = {"model": "generated", "tokens": tokens, "loss": loss, "train": tokens < tokens[-1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        errors = translation_errors(pd.DataFrame(runs), starts=3)
    return float(errors.floor[0] - errors.translation[0])


class BivariateLaw(_PowerSumLaw):
    """L(N_e, N_d) = L_∞ + A N_e^−p_e N_d^−p_d, encoder and decoder apart [1]_.

    Columns ``encoder``, ``decoder`` (parameters) and ``loss``.

    References
    ----------
    .. [1] B. Ghorbani et al., Scaling Laws for Neural Machine Translation.
    """

    columns = ("encoder", "decoder")
    symbols = ("L_inf", "A", "p_e", "p_d")
    terms = (("L_inf", ()), ("A", (("encoder", "p_e", -1), ("decoder", "p_d", -1))))


def bivariate_point(
    p_e: float, p_d: float, *, noise: float = 0.003, seed: int = 0
) -> dict[str, float]:
    """Fit two laws on models that grow on one side and predict models that grow on both.

    The training table has 16 generated models whose encoder grows and 16 whose decoder grows, the
    other side at 30 million parameters; 8 models with both sides large are held out.

    Parameters
    ----------
    p_e, p_d : float
        True exponents of encoder and decoder.
    noise : float, default 0.003
        Standard deviation of the loss from training.
    seed : int, default 0
        Draws the noise.

    Returns
    -------
    dict of str to float
        ``difference`` of the fitted exponents p_d − p_e, its standard error ``stderr``, and root
        mean square errors on the held-out models: ``bivariate`` and ``total``, a power law with a
        floor in N_e + N_d.
    """
    rng = np.random.default_rng(derive_seed(seed, "bivariate"))
    path, fixed = np.geomspace(1e7, 1e9, 16), np.full(16, 3e7)
    grow = np.geomspace(1e8, 1e9, 8)
    table = pd.DataFrame(
        {
            "encoder": np.concatenate([path, fixed, grow]),
            "decoder": np.concatenate([fixed, path, grow[::-1]]),
        }
    )
    scale = _NMT["A"] * 3e7 ** (p_e + p_d - _NMT["p_e"] - _NMT["p_d"])
    law = {"L_inf": _NMT["L_inf"], "A": 20 * scale, "p_e": p_e, "p_d": p_d}
    table["loss"] = BivariateLaw.evaluate(law, table) + rng.normal(0, noise, len(table))
    train, test = table[:32], table[32:]
    fit = BivariateLaw.fit(train, huber_delta=np.inf, residuals="raw", starts=3)
    total = PowerLaw.fit(
        {"x": train.encoder + train.decoder, "loss": train.loss},
        huber_delta=np.inf,
        residuals="raw",
        starts=3,
    )
    found = fit.predict(test), total.predict({"x": test.encoder + test.decoder})
    errors = [float(np.sqrt(np.mean((f - test.loss.to_numpy()) ** 2))) for f in found]
    names = list(fit.params)
    contrast = np.zeros(len(names))
    contrast[names.index("p_d")], contrast[names.index("p_e")] = 1.0, -1.0
    return {
        "difference": fit.params["p_d"] - fit.params["p_e"],
        "stderr": float(np.sqrt(contrast @ fit.covariance @ contrast)),
        "bivariate": errors[0],
        "total": errors[1],
    }


def _follows(table: pd.DataFrame, recipe: tuple[str, ...]) -> pd.Series:
    """Which rows have the recipe."""
    return table[list(_RECIPE)].eq(pd.Series(recipe, index=_RECIPE), axis=1).all(axis=1)


def _huber(residual: np.ndarray, delta: float) -> np.ndarray:
    size = np.abs(residual)
    return np.where(size <= delta, residual**2 / 2, delta * (size - delta / 2))
