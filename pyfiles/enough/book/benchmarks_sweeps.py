"""What the page on speed and scale says of sweeps on many workers, from the measured constants."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from enough.book.benchmarks import model_check, seconds_text, sweep_model

__all__ = ["LENGTHS", "NETWORK", "POINTS", "WORKERS", "Scaled", "check_words", "limits", "scaled"]

POINTS, WORKERS = 10_000, 1000
"""The sweep that the page models."""

LENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Seconds of one of its points."""

NETWORK = 125e6
"""Bytes a second of the network that the page assumes: one gigabit."""


class Scaled(NamedTuple):
    """What the model says of a sweep whose points take so long.

    Parameters
    ----------
    each : float
        Seconds a point.
    busy : float
        Workers that the coordinating process keeps busy.
    seconds : float
        How long the sweep takes on all workers.
    efficiency : float
        Share of the workers' time that is used.
    limit : {"handing out", "computing"}
        What takes longer.
    """

    each: float
    busy: float
    seconds: float
    efficiency: float
    limit: str


def scaled(sweeps: pd.DataFrame) -> list[Scaled]:
    """Model the sweep of `POINTS` points on `WORKERS` workers, for each of `LENGTHS`.

    Parameters
    ----------
    sweeps : pandas.DataFrame
        As in `enough.book.benchmarks.Benchmarks`.

    Returns
    -------
    list of Scaled
        Empty where no cluster was measured.
    """
    model = sweep_model(sweeps)
    if model is None:
        return []
    return [
        Scaled(
            each,
            model.most_workers(each),
            model.seconds(POINTS, each, WORKERS),
            model.efficiency(POINTS, each, WORKERS),
            "handing out"
            if POINTS * model.overhead() + each > math.ceil(POINTS / WORKERS) * each
            else "computing",
        )
        for each in LENGTHS
    ]


def check_words(sweeps: pd.DataFrame) -> str:
    """Say how far the model is from the measured spans.

    Parameters
    ----------
    sweeps : pandas.DataFrame
        As in `enough.book.benchmarks.Benchmarks`.

    Returns
    -------
    str
        Empty where no cluster was measured.
    """
    found = model_check(sweeps)
    if not found:
        return ""
    (_, one, model_one), (_, two, model_two) = found
    off = [model / seconds - 1 for _, seconds, model in found]
    return (
        f"The model is {_off(off[0])} with one worker and {_off(off[1])} with two. Two workers are "
        f"{one / two:.2f} times as fast as one; the model says {model_one / model_two:.2f}."
    )


def _off(share: float) -> str:
    return f"{abs(share):.1%} {'above' if share > 0 else 'below'} the measured time"


def limits(sweeps: pd.DataFrame) -> list[str]:
    """Say what bounds a sweep however many workers there are.

    Parameters
    ----------
    sweeps : pandas.DataFrame
        As in `enough.book.benchmarks.Benchmarks`.

    Returns
    -------
    list of str
        Sentences; empty where no cluster was measured.
    """
    model = sweep_model(sweeps)
    if model is None:
        return []
    values = sweeps.set_index("name")["value"]
    result = [
        f"An empty point costs the run {seconds_text(model.overhead())}, so no cluster finishes "
        f"more than {1 / model.overhead():.0f} points a second. Points of 1 s keep "
        f"{model.most_workers(1.0):.0f} workers busy, points of 10 s "
        f"{model.most_workers(10.0):.0f}; {WORKERS} workers want points of "
        f"{seconds_text(WORKERS * model.overhead())} or longer."
    ]
    if "traffic, a point" in values:
        traffic = float(values["traffic, a point"]) / model.overhead()
        result.append(
            f"At that rate {traffic / 1e6:.2g} MB a second pass the scheduler, "
            f"{traffic / NETWORK:.1%} of a network of one gigabit a second."
        )
    if model.per_byte > 0:
        size = 1e6
        cost, wire = model.overhead(size), size / NETWORK
        result.append(
            f"Each megabyte of results costs the run {seconds_text(size * model.per_byte)} more, "
            f"and that network {seconds_text(wire)} a hop: with results of 1 MB the bound is "
            f"{1 / cost:.2g} points a second, and points of 10 s keep "
            f"{model.most_workers(10.0, size=size):.0f} workers busy."
        )
    return result
