"""Learning-rate schedules: pure functions from the step to a multiplier of the learning rate.

A factory takes the shape of the schedule and returns ``schedule(step)``. Steps count the
updates already done, so training of T updates calls it with 0, ..., T - 1. An array of steps
gives an array of multipliers, ready to plot or to sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from enough.runtime.validation import check_choice, check_integer, check_number

__all__ = ["Schedule", "constant", "cosine", "linear", "multi_step", "power", "wsd"]

#: What `fit` and `Ensemble` accept: a step (or an array of steps) to a multiplier (an array).
Schedule = Callable[[int | np.ndarray], float | np.ndarray]

_COOLDOWNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda s: 1 - s,
    "sqrt": lambda s: 1 - np.sqrt(s),
    "cosine": lambda s: (1 + np.cos(np.pi * s)) / 2,
}


def constant(*, warmup: int = 0) -> Schedule:
    """Make a schedule that stays at 1.

    Parameters
    ----------
    warmup : int, default 0
        Updates of linear warm-up: update ``t`` (from 0) has the multiplier
        ``(t + 1) / warmup`` until it reaches 1. Every schedule here is multiplied by it.

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If ``warmup`` is not a whole number >= 0.
    """
    return _schedule(np.ones_like, check_integer(warmup, "warmup", minimum=0))


def linear(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Make a schedule that falls from 1 to ``final`` along a straight line.

    Parameters
    ----------
    steps : int
        Number of updates; the multiplier would be ``final`` at step ``steps``, one after the
        last update, and stays there.
    warmup : int, default 0
        Updates of linear warm-up; the fall starts after them.
    final : float, default 0.0
        The multiplier at the end, in [0, 1].

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    return _falling(steps, warmup, final, _COOLDOWNS["linear"])


def cosine(steps: int, *, warmup: int = 0, final: float = 0.1) -> Schedule:
    """Make a schedule that falls from 1 to ``final`` along half a cosine.

    Parameters
    ----------
    steps : int
        Number of updates; the multiplier would be ``final`` at step ``steps``, one after the
        last update, and stays there.
    warmup : int, default 0
        Updates of linear warm-up; the fall starts after them.
    final : float, default 0.1
        The multiplier at the end, in [0, 1].

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] Loshchilov and Hutter (2017), "SGDR: stochastic gradient descent with warm
       restarts", arXiv:1608.03983, Equation 5 (one cycle).
    """
    return _falling(steps, warmup, final, _COOLDOWNS["cosine"])


def wsd(
    steps: int,
    *,
    warmup: int = 0,
    decay: float = 0.2,
    final: float = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Make a schedule that warms up, stays at 1, and decays at the end.

    Parameters
    ----------
    steps : int
        Number of updates; the multiplier would be ``final`` at step ``steps``.
    warmup : int, default 0
        Updates of linear warm-up.
    decay : float, default 0.2
        The share of the updates that decay, in (0, 1]. The decay starts at step
        ``steps - round(decay * steps)``.
    final : float, default 0.0
        The multiplier at the end, in [0, 1].
    shape : {"linear", "sqrt", "cosine"}, default "linear"
        How it decays: with s the share of the decay that is done, 1 - s, 1 - √s or
        (1 + cos πs)/2, between 1 and ``final``.

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If an argument is out of range, or the decay would start during the warm-up.

    References
    ----------
    .. [1] Hu et al. (2024), "MiniCPM: unveiling the potential of small language models with
       scalable training strategies", arXiv:2404.06395.
    .. [2] Hägele et al. (2024), "Scaling laws and compute-optimal training beyond fixed
       training durations", arXiv:2405.18392 (the shape "sqrt").
    """
    steps = check_integer(steps, "steps", minimum=1)
    warmup = check_integer(warmup, "warmup", minimum=0)
    share = check_number(decay, "decay", above=0.0, maximum=1.0)
    final = check_number(final, "final", minimum=0.0, maximum=1.0)
    cooldown = _COOLDOWNS[check_choice(shape, "shape", _COOLDOWNS)]
    length = max(1, round(share * steps))
    if warmup > steps - length:
        raise ValueError(
            f"warmup: expected at most {steps - length}, where the decay starts, got {warmup}"
        )

    def stay_and_decay(step: np.ndarray) -> np.ndarray:
        done = np.clip((step - (steps - length)) / length, 0.0, 1.0)
        return final + (1 - final) * cooldown(done)

    return _schedule(stay_and_decay, warmup)


def multi_step(
    steps: int,
    *,
    warmup: int = 0,
    milestones: Sequence[float] = (0.8, 0.9),
    factor: float = math.sqrt(0.1),
) -> Schedule:
    """Make a schedule that drops by a factor at given shares of the training.

    The default is the "8-1-1" schedule: 80 % of the updates at 1, 10 % at √0.1 ≈ 0.316 and
    10 % at 0.1.

    Parameters
    ----------
    steps : int
        Number of updates.
    warmup : int, default 0
        Updates of linear warm-up.
    milestones : sequence of float, default (0.8, 0.9)
        Increasing shares of ``steps`` in (0, 1) where the multiplier drops.
    factor : float, default √0.1
        What each drop multiplies it by, in (0, 1].

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If an argument is out of range or the milestones do not increase.

    References
    ----------
    .. [1] DeepSeek-AI (2024), "DeepSeek LLM: scaling open-source language models with
       longtermism", arXiv:2401.02954.
    """
    steps = check_integer(steps, "steps", minimum=1)
    warmup = check_integer(warmup, "warmup", minimum=0)
    factor = check_number(factor, "factor", above=0.0, maximum=1.0)
    shares = [check_number(m, "milestones", above=0.0, maximum=1.0) for m in milestones]
    if any(later <= earlier for earlier, later in itertools.pairwise(shares)):
        raise ValueError(f"milestones: expected increasing shares, got {tuple(milestones)}")
    drops = np.array([round(share * steps) for share in shares], dtype=np.float64)

    def staircase(step: np.ndarray) -> np.ndarray:
        return factor ** np.searchsorted(drops, step, side="right").astype(np.float64)

    return _schedule(staircase, warmup)


def power(*, start: int, exponent: float = 0.5, warmup: int = 0) -> Schedule:
    """Make a schedule that falls as a power of the number of updates and never ends.

    The multiplier of update t (from 0) is min(1, ((t + 1) / start) ** -exponent): it needs no
    total number of updates, so a run can stop or go on at any point.

    Parameters
    ----------
    start : int
        The update where the fall begins; until then the multiplier is 1.
    exponent : float, default 0.5
        The power, zero or more.
    warmup : int, default 0
        Updates of linear warm-up.

    Returns
    -------
    callable
        From a step, or an array of steps, to the multiplier.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The shape is the middle part of [1]_, where learning rates are capped from above and fall
    as a power of the number of tokens. The paper fits the exponent and the factor to its runs
    and ends with a decay; the exponent here is the round number.

    References
    ----------
    .. [1] Shen et al. (2024), "Power scheduler: a batch size and token number agnostic
       learning rate scheduler", arXiv:2408.13359.
    """
    start = check_integer(start, "start", minimum=1)
    exponent = check_number(exponent, "exponent", minimum=0.0)
    warmup = check_integer(warmup, "warmup", minimum=0)
    return _schedule(lambda step: np.maximum((step + 1) / start, 1.0) ** -exponent, warmup)


def multipliers(schedule: Schedule | None, steps: int, members: int | None = None) -> np.ndarray:
    """Evaluate a schedule at every step and check what it returns."""
    if schedule is None:
        return np.ones(steps)
    if not callable(schedule):
        raise ValueError(
            f"schedule: expected a function of the step, got {type(schedule).__name__}"
        )
    values = np.array([schedule(step) for step in range(steps)], dtype=np.float64)
    shapes = [(steps,)] if members is None else [(steps,), (steps, members)]
    if values.shape not in shapes:
        each = "a number" if members is None else f"a number, or {members} (one a member),"
        raise ValueError(f"schedule: expected {each} for a step, got shape {values.shape[1:]}")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("schedule: expected finite multipliers >= 0 for every step")
    return values


def _falling(
    steps: int, warmup: int, final: float, shape: Callable[[np.ndarray], np.ndarray]
) -> Schedule:
    steps = check_integer(steps, "steps", minimum=1)
    warmup = check_integer(warmup, "warmup", minimum=0)
    final = check_number(final, "final", minimum=0.0, maximum=1.0)
    if warmup >= steps:
        raise ValueError(f"warmup: expected fewer updates than steps = {steps}, got {warmup}")

    def fall(step: np.ndarray) -> np.ndarray:
        done = np.clip((step - warmup) / (steps - warmup), 0.0, 1.0)
        return final + (1 - final) * shape(done)

    return _schedule(fall, warmup)


def _schedule(shape: Callable[[np.ndarray], np.ndarray], warmup: int) -> Schedule:
    def schedule(step: int | np.ndarray) -> float | np.ndarray:
        step = np.asarray(step, dtype=np.float64)
        value = shape(step)
        if warmup:
            value = value * np.minimum(1.0, (step + 1) / warmup)
        return float(value) if step.ndim == 0 else value

    return schedule
