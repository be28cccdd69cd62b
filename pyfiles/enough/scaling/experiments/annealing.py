"""Loss curves along schedules: published ones, our own, and those of a solvable problem."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from enough import data
from enough.models import ContextMLP
from enough.runtime import named_generator, resolve_device
from enough.runtime.validation import check_integer, check_number
from enough.scaling import published
from enough.scaling.annealing import AnnealingLaw, MultiPowerLaw, annealing_areas
from enough.scaling.fit import Fit, IdentifiabilityWarning
from enough.scaling.laws import PowerLaw
from enough.training import Ensemble, schedules

__all__ = [
    "MULTI_POWER",
    "PUBLISHED_TRAIN",
    "forward_columns",
    "our_curves",
    "our_schedules",
    "our_table",
    "published_table",
    "quadratic_best_rates",
    "quadratic_curves",
    "quadratic_gain",
    "quadratic_problem",
    "relative_errors",
    "scaled_momentum",
]

#: The official split: three curves to fit, the other six to predict.
PUBLISHED_TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")

#: Published constants of the multi-power law, by model.
MULTI_POWER = {
    model: dict(zip(("L_0", "A", "alpha", "B", "C", "beta", "gamma"), values, strict=True))
    for model, values in {
        "25M": (3.0405, 0.5247, 0.5079, 363.79, 2.0656, 0.5828, 0.6414),
        "100M": (2.6514, 0.6012, 0.4530, 437.95, 2.1325, 0.5979, 0.6552),
        "400M": (2.3747, 0.6542, 0.4288, 523.42, 2.0246, 0.5935, 0.6347),
    }.items()
}


def relative_errors(predicted: Any, curves: pd.DataFrame) -> pd.Series:
    """Return the mean relative error of predicted losses, one number a schedule.

    Parameters
    ----------
    predicted : array_like, shape (n,)
        Predicted losses of the rows.
    curves : pandas.DataFrame
        Columns schedule and loss.

    Returns
    -------
    pandas.Series
        Mean over the rows of |predicted / loss − 1|, by schedule.
    """
    miss = np.abs(np.asarray(predicted) / curves["loss"].to_numpy() - 1)
    return pd.Series(miss).groupby(curves["schedule"].to_numpy()).mean()


def forward_columns(curves: pd.DataFrame, rates: Mapping[str, Any]) -> pd.DataFrame:
    """Return the columns of a law that knows the forward area alone.

    Parameters
    ----------
    curves : pandas.DataFrame
        Columns schedule, step and loss.
    rates : mapping of str to array_like
        Learning rate of every step, by schedule.

    Returns
    -------
    pandas.DataFrame
        Columns x, the forward area S₁ after each row's step, and loss; ready for `PowerLaw`.
    """
    forward = {name: annealing_areas(rates[name])[0] for name in curves["schedule"].unique()}
    rows = zip(curves["schedule"], curves["step"], strict=True)
    x = [forward[name][step - 1] for name, step in rows]
    return pd.DataFrame({"x": x, "loss": curves["loss"].to_numpy()})


def scaled_momentum(steps: int) -> float:
    """Return the decay λ of the annealing area for a run of another length.

    The published curves have λ = 0.999 over 24 000 steps; this keeps (1 − λ) × steps at 24.

    Parameters
    ----------
    steps : int
        Number of updates, above 24.

    Returns
    -------
    float
        1 − 24 / steps.

    Raises
    ------
    ValueError
        If ``steps`` is not a whole number above 24.
    """
    return 1 - 24 / check_integer(steps, "steps", minimum=25)


def published_table(
    train: Sequence[str] = PUBLISHED_TRAIN, *, rivals: bool = True, every: int = 16
) -> tuple[pd.DataFrame, dict[str, Fit]]:
    """Fit the annealing law to some of the published curves and predict the others.

    Parameters
    ----------
    train : sequence of str, default PUBLISHED_TRAIN
        Schedules to fit.
    rivals : bool, default True
        Whether other laws predict too.
    every : int, default 16
        The multi-power law without its warm-up is evaluated at every so many rows.

    Returns
    -------
    table : pandas.DataFrame
        One row a model and unseen schedule: model, schedule and mean relative errors of the
        annealing law (``annealing``) and, with rivals, of a power law of the forward area
        (``forward``), of the multi-power law with published constants (``multi_power``) and of
        the same with warm-up counted at the peak (``no_warm_up``).
    fits : dict of str to Fit
        Fitted annealing laws by model.

    Raises
    ------
    ValueError
        If ``every`` is not a whole number >= 1.
    """
    every = check_integer(every, "every", minimum=1)
    rows, fits = [], {}
    for model, constants in MULTI_POWER.items():
        curves = published.annealing_curves(model).table
        names = list(curves["schedule"].unique())
        rates = {name: published.annealing_schedule(name) for name in names}
        known = curves["schedule"].isin(train)
        unseen = curves[~known]
        fits[model] = AnnealingLaw.fit(curves[known], schedules=rates, starts=2)
        found = {"annealing": relative_errors(fits[model].predict(unseen), unseen)}
        if rivals:
            flat = PowerLaw.fit(forward_columns(curves[known], rates))
            forward = flat.predict(forward_columns(unseen, rates))
            found["forward"] = relative_errors(forward, unseen)
            warmed = {name: published.annealing_schedule(name, warm_up=True) for name in names}
            whole = MultiPowerLaw.evaluate(constants, unseen, schedules=warmed)
            found["multi_power"] = relative_errors(whole, unseen)
            thin = unseen.iloc[::every]
            peak = MultiPowerLaw.evaluate(constants, thin, schedules=rates)
            found["no_warm_up"] = relative_errors(peak, thin)
        table = pd.DataFrame(found).rename_axis("schedule").reset_index()
        rows.append(table.assign(model=model))
    return pd.concat(rows, ignore_index=True), fits


def our_schedules(steps: int, warmup: int = 0) -> dict[str, np.ndarray]:
    """Return four schedules of one length: constant, cosine, warmup-stable-decay and two steps.

    Parameters
    ----------
    steps : int
        Number of updates.
    warmup : int, default 0
        Updates of linear warm-up.

    Returns
    -------
    dict of str to numpy.ndarray
        Multipliers of the learning rate, each of shape (steps,); all but the first end near 0.1.

    Raises
    ------
    ValueError
        If ``steps`` is below 10 or ``warmup`` beyond half of it.
    """
    steps = check_integer(steps, "steps", minimum=10)
    warmup = check_integer(warmup, "warmup", minimum=0, maximum=steps // 2)
    makers = {
        "constant": schedules.constant(warmup=warmup),
        "cosine": schedules.cosine(steps, warmup=warmup, final=0.1),
        "wsd": schedules.wsd(steps, warmup=warmup, final=0.1),
        "8-1-1": schedules.multi_step(steps, warmup=warmup),
    }
    return {name: np.asarray(maker(np.arange(steps))) for name, maker in makers.items()}


def our_curves(
    names: Sequence[str] = ("constant", "cosine", "wsd", "8-1-1"),
    *,
    steps: int = 800,
    seeds: int = 6,
    width: int = 64,
    context: int = 8,
    batch_size: int = 32,
    test_windows: int = 2048,
    lr: float = 0.016,
    points: int = 20,
    seed: int = 0,
    shuffled: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Train a byte language model under several schedules, all seeds as one ensemble.

    The ensemble is trained once a schedule, each time from its first weights. Member i draws the
    same batches every time, so that curves of one seed differ by the schedule alone.

    Parameters
    ----------
    names : sequence of str
        Schedules, of those of `our_schedules`.
    steps : int, default 800
        Updates of Adam; a twentieth of them warm up.
    seeds : int, default 6
        Members of the ensemble.
    width, context : int
        Hidden units, and bytes that the model sees.
    batch_size : int, default 32
        Windows an update; each is seen once.
    test_windows : int, default 2048
        Held-out windows on which the loss is measured.
    lr : float, default 0.016
        Peak learning rate.
    points : int, default 20
        Evaluations, evenly spaced.
    seed : int, default 0
        Seed of weights, windows and their order.
    shuffled : bool, default False
        Shuffle the bytes: text without structure beyond the frequencies of bytes.
    device : str or torch.device, default "cpu"
        Where to train.

    Returns
    -------
    curves : pandas.DataFrame
        Columns schedule, seed, step and loss in nats a byte, from a tenth of the updates on.
    rates : dict of str to numpy.ndarray
        Learning rates by schedule as the annealing law counts them, warm-up at the peak.

    Raises
    ------
    ValueError
        If a size is out of range or a schedule is unknown.
    """
    points = check_integer(points, "points", minimum=2, maximum=steps)
    lr = check_number(lr, "lr", above=0)
    warmup = steps // 20
    known = our_schedules(steps, warmup)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"names: expected some of {list(known)}, got {unknown[0]!r}")
    corpus = data.text("stdlib")
    parts = {"train": corpus.train, "validation": corpus.validation}
    if shuffled:
        for name, part in parts.items():
            order = torch.randperm(len(part), generator=named_generator(seed, "shuffle", name))
            parts[name] = part[order]
    rows = data.windows(
        parts["train"], steps * batch_size, context, named_generator(seed, "windows")
    )
    held = data.windows(parts["validation"], test_windows, context, named_generator(seed, "test"))

    def build(generator: torch.Generator) -> ContextMLP:
        return ContextMLP(context, width, generator=generator)

    ensemble = Ensemble(build, seeds, seed=seed, device=resolve_device(device))
    found = []
    for name in names:
        multipliers = known[name]
        ensemble.fit(
            rows[:, :-1],
            rows[:, -1],
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            schedule=lambda step, m=multipliers: m[step],
            validation=(held[:, :-1], held[:, -1]),
            evaluate_every=max(1, steps // points),
            label=name,
        )
        history = ensemble.history_
        losses = history.metrics["validation_loss"]
        table = pd.DataFrame(losses, index=history.evaluation_steps).rename_axis("step")
        long = table.reset_index().melt("step", var_name="seed", value_name="loss")
        found.append(long.assign(schedule=name))
    curves = pd.concat(found, ignore_index=True)[["schedule", "seed", "step", "loss"]]
    curves = curves[curves["step"] >= steps // 10].astype({"seed": "int64"})
    held_at_peak = np.arange(steps) < warmup
    rates = {name: lr * np.where(held_at_peak, 1.0, known[name]) for name in names}
    return curves.reset_index(drop=True), rates


def our_table(
    curves: pd.DataFrame,
    rates: Mapping[str, Any],
    *,
    train: Sequence[str] = ("constant", "cosine"),
) -> pd.DataFrame:
    """Fit the annealing law to two schedules, seed by seed, and predict the others.

    Parameters
    ----------
    curves : pandas.DataFrame
        Columns schedule, seed, step and loss.
    rates : mapping of str to array_like
        Learning rates by schedule; the momentum is scaled to their length.
    train : sequence of str, default ("constant", "cosine")
        Schedules to fit.

    Returns
    -------
    pandas.DataFrame
        One row a seed and schedule: seed, schedule, seen, annealing and forward (mean relative
        errors with and without the annealing term), final and predicted (loss after the last
        step) and C.
    """
    momentum = scaled_momentum(max(len(rate) for rate in rates.values()))
    rows = []
    for seed, one in curves.groupby("seed"):
        known = one[one["schedule"].isin(train)]
        with warnings.catch_warnings():
            # Short runs do not determine every constant; only the predictions are used.
            warnings.simplefilter("ignore", IdentifiabilityWarning)
            fit = AnnealingLaw.fit(known, schedules=rates, momentum=momentum, starts=1)
            flat = PowerLaw.fit(forward_columns(known, rates), starts=1)
        for name, curve in one.groupby("schedule", sort=False):
            last = curve[curve["step"] == curve["step"].max()]
            forward = flat.predict(forward_columns(curve, rates))
            rows.append(
                {
                    "seed": seed,
                    "schedule": name,
                    "seen": name in train,
                    "annealing": relative_errors(fit.predict(curve), curve).iloc[0],
                    "forward": relative_errors(forward, curve).iloc[0],
                    "final": last["loss"].iloc[0],
                    "predicted": fit.predict(last)[0],
                    "C": fit.params["C"],
                }
            )
    return pd.DataFrame(rows)


def quadratic_problem(
    modes: int = 300, draws: int = 8, decay: float = 1.2, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues i^−decay and squared distances to the optimum, all normal at first.

    Parameters
    ----------
    modes : int, default 300
        Number of eigenvalues.
    draws : int, default 8
        Number of targets.
    decay : float, default 1.2
        Exponent of the spectrum, above 1. Without noise the loss falls like time to the power
        −(decay − 1) / decay.
    seed : int, default 0
        Seed of the targets.

    Returns
    -------
    values : numpy.ndarray, shape (modes,)
        Eigenvalues, the largest 1.
    start : numpy.ndarray, shape (draws, modes)
        Squares of standard normal coordinates.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    modes = check_integer(modes, "modes", minimum=1)
    draws = check_integer(draws, "draws", minimum=1)
    decay = check_number(decay, "decay", above=1)
    generator = named_generator(seed, "targets")
    normal = torch.randn(draws, modes, generator=generator, dtype=torch.float64)
    return np.arange(1, modes + 1) ** -decay, normal.square().numpy()


def quadratic_curves(
    rates: Mapping[str, Any],
    values: np.ndarray,
    start: np.ndarray,
    *,
    batch_size: float = 4,
    noise: float = 0.0,
    points: int = 40,
) -> pd.DataFrame:
    """Return the expected loss of SGD on a quadratic, exactly, along schedules of one length.

    Least squares with Gaussian inputs of covariance diag(values), each sample used once, labels
    with Gaussian noise. The second moments m of the distance to the optimum obey
    m ← ((1 − ηλ)² + η²λ²/B) m + η²/B λ (λ·m + noise), and the loss is (λ·m + noise)/2.

    Parameters
    ----------
    rates : mapping of str to array_like
        Learning rate of every step, by schedule; equally many steps each.
    values : numpy.ndarray, shape (modes,)
        Eigenvalues λ.
    start : numpy.ndarray, shape (draws, modes)
        Second moments at the start.
    batch_size : float, default 4
        Samples an update, B; infinity is full-batch gradient descent.
    noise : float, default 0.0
        Variance of the labels' noise.
    points : int, default 40
        Evaluations, evenly spaced, from a tenth of the updates on.

    Returns
    -------
    pandas.DataFrame
        Columns schedule, seed (the draw), step and loss.

    Raises
    ------
    ValueError
        If ``batch_size`` is not positive, ``noise`` negative or a schedule shorter than another.
    """
    inverse = 1 / check_number(batch_size, "batch_size", above=0, finite=False)
    noise = check_number(noise, "noise", minimum=0)
    lengths = {len(rate) for rate in rates.values()}
    if len(lengths) != 1:
        raise ValueError(f"rates: expected schedules of one length, got {sorted(lengths)}")
    table = np.stack([np.asarray(rate, dtype=np.float64) for rate in rates.values()])
    steps = table.shape[1]
    points = check_integer(points, "points", minimum=2, maximum=steps)
    at = np.unique(np.linspace(max(1, steps // 10), steps, points).astype(int))
    moments = np.repeat(np.asarray(start)[None], len(table), 0)
    rows = []
    for step in range(1, steps + 1):
        eta = table[:, step - 1, None, None] * values
        pull = (moments @ values)[..., None] + noise
        moments = ((1 - eta) ** 2 + inverse * eta**2) * moments
        moments += inverse * eta * table[:, step - 1, None, None] * pull
        if step in at:
            rows.append((moments @ values + noise) / 2)
    losses = np.stack(rows, -1)
    index = pd.MultiIndex.from_product(
        [rates, range(len(start)), at], names=["schedule", "seed", "step"]
    )
    return pd.Series(losses.ravel(), index, name="loss").reset_index()


def quadratic_gain(
    values: np.ndarray,
    start: np.ndarray,
    *,
    steps: int = 2048,
    peak: float = 0.4,
    batch_size: float = 4,
    noise: float = 1.0,
) -> np.ndarray:
    """Return what a cosine gains over a constant rate with the same forward area, by draw.

    Parameters
    ----------
    values : numpy.ndarray, shape (modes,)
        Eigenvalues.
    start : numpy.ndarray, shape (draws, modes)
        Second moments at the start.
    steps : int, default 2048
        Updates.
    peak : float, default 0.4
        Peak rate of the cosine, which ends at a tenth of it.
    batch_size : float, default 4
        Samples an update; infinity takes the noise of the gradient away.
    noise : float, default 1.0
        Variance of the labels' noise.

    Returns
    -------
    numpy.ndarray, shape (draws,)
        Share of the constant run's final loss that the cosine saves.
    """
    cosine = peak * our_schedules(steps)["cosine"]
    rates = {"constant": np.full(steps, cosine.mean()), "cosine": cosine}
    curves = quadratic_curves(rates, values, start, batch_size=batch_size, noise=noise, points=2)
    last = curves[curves["step"] == steps].pivot(index="seed", columns="schedule", values="loss")
    return (1 - last["cosine"] / last["constant"]).to_numpy()


def quadratic_best_rates(
    values: np.ndarray,
    start: np.ndarray,
    *,
    samples: int,
    batch_size: int,
    noise: float = 0.0,
    grid: Any = None,
) -> np.ndarray:
    """Return the learning rate with the lowest final loss of SGD on a quadratic, by draw.

    The schedule is warmup-stable-decay without warm-up, a fifth of the updates decaying to zero.
    The final loss is linear in the start, so one pass backward over the updates gives it for
    every start. The minimum over the grid is refined by a parabola in logarithms.

    Parameters
    ----------
    values : numpy.ndarray, shape (modes,)
        Eigenvalues.
    start : numpy.ndarray, shape (draws, modes)
        Second moments at the start.
    samples : int
        Samples seen in all; updates are samples / batch_size.
    batch_size : int
        Samples an update.
    noise : float, default 0.0
        Variance of the labels' noise.
    grid : array_like, optional
        Increasing rates to try, by default 2 to the powers −8, −7.875, ..., 1.5.

    Returns
    -------
    numpy.ndarray, shape (draws,)
        Best peak rates.

    Raises
    ------
    ValueError
        If a size is out of range, or the best rate is at an end of the grid.
    """
    batch_size = check_integer(batch_size, "batch_size", minimum=1)
    samples = check_integer(samples, "samples", minimum=10 * batch_size)
    noise = check_number(noise, "noise", minimum=0)
    tried = 2.0 ** np.arange(-8, 1.51, 0.125) if grid is None else np.asarray(grid, float)
    steps = samples // batch_size
    multipliers = np.asarray(schedules.wsd(steps)(np.arange(steps)))
    weight = np.repeat(values[None] / 2, len(tried), 0)
    floor = np.zeros(len(tried))
    with np.errstate(over="ignore", invalid="ignore"):
        for multiplier in multipliers[::-1]:
            rate = tried * multiplier
            eta = rate[:, None] * values
            pull = rate**2 / batch_size * (weight @ values)
            floor += noise * pull
            weight = ((1 - eta) ** 2 + eta**2 / batch_size) * weight + pull[:, None] * values
        losses = np.asarray(start) @ weight.T + floor
    losses = np.where(np.isfinite(losses), losses, math.inf)
    best = losses.argmin(1)
    if ((best == 0) | (best == len(tried) - 1)).any():
        raise ValueError("grid: expected the best rate inside it, got an end")
    around = best[:, None] + np.arange(-1, 2)
    below, here, above = np.log(np.take_along_axis(losses, around, 1)).T
    left, right = below - here, above - here  # both >= 0; infinite beyond the edge of stability
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(np.isfinite(left + right), (left - right) / (left + right) / 2, 0.0)
    ratio = tried[best + 1] / tried[best]
    return tried[best] * ratio ** np.nan_to_num(shift)
