"""Published tables with the columns the laws expect, or generated ones that say so.

Each function returns a `Published`: the real table where the data loader can reach it, else a
stand-in of the same form, drawn from a published law with noise. A chapter draws either and says
which; a claim on a stand-in passes its `absent` as ``not_run`` and is never judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from enough import data
from enough.runtime.validation import check_choice
from enough.scaling.annealing import AnnealingLaw
from enough.scaling.joint import DataConstrainedLaw, TranslationLaw
from enough.scaling.laws import ChinchillaLaw, OverTrainingLaw

__all__ = [
    "Published",
    "annealing_curves",
    "annealing_schedule",
    "chinchilla_points",
    "isoflop_points",
    "overtraining_models",
    "repeated_runs",
    "step_law_runs",
    "translation_runs",
]

#: Parameters the stand-ins are drawn from: rounded published fits.
_CHINCHILLA = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
_OVERTRAINING = {"E": 1.84, "a": 212.0, "b": 367.0, "eta": 0.136}
_ANNEALING = {"L_0": 3.2, "A": 0.54, "C": 0.39, "alpha": 0.83}
_REPEATED = {"R_D": 15.4, "R_N": 5.3}
_BASE = {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353}
_TRANSLATION = {"a": 60.0, "C": 4e-8, "p": 0.29}
_TUNE = {"peak": 3e-4, "end": 3e-5, "warm_up": 2160, "hold": 8000}


class Published(NamedTuple):
    """A table, and where it comes from.

    Attributes
    ----------
    table : pandas.DataFrame
        The rows.
    source : str
        The published source, or how the stand-in was drawn.
    absent : str
        Empty for the real table; else why it is not at hand.
    """

    table: pd.DataFrame
    source: str
    absent: str

    @property
    def real(self) -> bool:
        """Whether the rows are the published ones."""
        return not self.absent


def chinchilla_points() -> Published:
    """Return the 245 runs read off Figure 4 of the Chinchilla paper.

    Returns
    -------
    Published
        Columns params, tokens (flops / 6 / params), flops and loss, in the published order.
    """

    def read() -> pd.DataFrame:
        points = data.load("chinchilla_epoch")
        size, flops = points["Model Size"], points["Training FLOP"]
        return pd.DataFrame(
            {"params": size, "tokens": flops / 6 / size, "flops": flops, "loss": points["loss"]}
        )

    def make(draw: np.random.Generator) -> pd.DataFrame:
        flops = 10 ** draw.uniform(18.8, 21.5, 245)
        size = 10 ** draw.normal(np.log10(flops) * 0.5 - 1.2, 0.35)
        table = pd.DataFrame({"params": size, "tokens": flops / 6 / size, "flops": flops})
        loss = ChinchillaLaw.evaluate(_CHINCHILLA, table) * np.exp(draw.laplace(0, 0.005, 245))
        loss[np.argsort(loss)[-5:]] *= 1.03
        return table.assign(loss=loss)

    return _published("chinchilla_epoch", read, make)


def overtraining_models() -> Published:
    """Return the 104 models of the over-training study.

    Returns
    -------
    Published
        Columns dataset (``"rpj"``, ``"c4_original"`` or ``"rw_original"``), params, tokens,
        multiplier (tokens / params, nominal), loss (C4 validation) and error (mean over the 17
        downstream tasks that the study averages).
    """

    def read() -> pd.DataFrame:
        models = data.load("gadre_overtraining")
        return pd.DataFrame(
            {
                "dataset": models["dataset"],
                "params": models["params"],
                "tokens": models["tokens"],
                "multiplier": 20 * models["chinchilla_multiplier"],
                "loss": models["loss_c4_val"],
                "error": models["avg_err_17"],
            }
        )

    def make(draw: np.random.Generator) -> pd.DataFrame:
        sizes = [1.06e7, 7.89e7, 1.54e8, 4.12e8]
        grid = [(n, 20 * m) for n in sizes for m in 2.0 ** np.arange(-2, 6)]
        grid += [(1.44e9, 20.0), (1.44e9, 640.0), (6.89e9, 20.0)]
        parts = []
        for name in ("rpj", "c4_original", "rw_original"):
            table = pd.DataFrame(grid, columns=["params", "multiplier"])
            table = table.assign(dataset=name, tokens=table.params * table.multiplier)
            loss = OverTrainingLaw.evaluate(_OVERTRAINING, table)
            loss = loss * np.exp(draw.normal(0, 0.005, len(table)))
            error = 0.86 - 2.2 * np.exp(-0.71 * loss) + draw.normal(0, 0.005, len(table))
            parts.append(table.assign(loss=loss, error=error))
        order = ["dataset", "params", "tokens", "multiplier", "loss", "error"]
        return pd.concat(parts, ignore_index=True)[order]

    return _published("gadre_overtraining", read, make)


def repeated_runs() -> Published:
    """Return the 182 runs on repeated data behind the published data-constrained law.

    Returns
    -------
    Published
        Columns params, tokens, unique_tokens and loss.
    """

    def read() -> pd.DataFrame:
        runs = data.load("data_constrained_muennighoff_fit").rename(columns={"val_loss": "loss"})
        return runs[["params", "tokens", "unique_tokens", "loss"]]

    def make(draw: np.random.Generator) -> pd.DataFrame:
        unique = 10 ** draw.uniform(8, 10.5, 182)
        table = pd.DataFrame(
            {
                "params": 10 ** draw.uniform(7, 9.9, 182),
                "tokens": unique * 10 ** draw.uniform(0, 1.7, 182),
                "unique_tokens": unique,
            }
        )
        loss = DataConstrainedLaw.evaluate(_REPEATED, table, base=_BASE)
        return table.assign(loss=loss * np.exp(draw.laplace(0, 0.02, 182)))

    return _published("data_constrained_muennighoff_fit", read, make)


def translation_runs() -> Published:
    """Return the losses of five translation models against the number of examples.

    Returns
    -------
    Published
        Columns model, tokens (examples seen), loss and train (False for held-out rows).
    """

    def read() -> pd.DataFrame:
        runs = data.load("nmt_bansal_alabdulmohsin")
        return pd.DataFrame(
            {
                "model": runs["Model"],
                "tokens": runs["Seen Examples"],
                "loss": runs["Loss"],
                "train": runs["Training"] == 1,
            }
        )

    def make(draw: np.random.Generator) -> pd.DataFrame:
        tokens = 5e5 * 2.0 ** np.arange(11)
        parts = []
        for model in ("6 Enc, 6 Dec", "28 Enc, 6 Dec", "6 Enc, 28 Dec", "Dec-only", "TEnc-LSTM"):
            table = pd.DataFrame({"model": model, "tokens": tokens})
            loss = TranslationLaw.evaluate(_TRANSLATION, table)
            noise = np.exp(draw.normal(0, 0.01, len(table)))
            parts.append(table.assign(loss=loss * noise, train=tokens < tokens[-1]))
        return pd.concat(parts, ignore_index=True)

    return _published("nmt_bansal_alabdulmohsin", read, make)


def isoflop_points() -> Published:
    """Return the points of fifteen IsoFLOP experiments between Kaplan's and Chinchilla's recipes.

    Returns
    -------
    Published
        Columns dataset, hparams, warmup, decay, count (what counts as a parameter), val, flops,
        params, tokens and loss.
    """
    order = [
        "dataset",
        "hparams",
        "warmup",
        "decay",
        "count",
        "val",
        "flops",
        "params",
        "tokens",
        "loss",
    ]

    def read() -> pd.DataFrame:
        points = data.load("porian_resolving")
        return points.rename(columns={"n": "params", "param_count": "count"})[order]

    def make(draw: np.random.Generator) -> pd.DataFrame:
        parts = []
        recipes = [
            ("base", "long", "kaplan", "kaplan", 0.83),
            ("base", "long", "kaplan", "standard", 0.70),
            ("base", "short", "kaplan", "standard", 0.60),
            ("base", "short", "chinchilla", "standard", 0.57),
            ("tuned", "short", "const", "standard", 0.50),
        ]
        for hparams, warmup, decay, count, exponent in recipes:
            for flops in 1.25e16 * 2.0 ** np.arange(0, 11):
                best = 1e6 * (flops / 1.25e16) ** exponent
                size = best * 2.0 ** np.linspace(-2.5, 2.5, 11)
                loss = 2 + 2.5 * (flops / 1e16) ** -0.1 + 0.02 * np.log(size / best) ** 2
                parts.append(
                    pd.DataFrame(
                        {
                            "dataset": "rw",
                            "hparams": hparams,
                            "warmup": warmup,
                            "decay": decay,
                            "count": count,
                            "val": "val",
                            "flops": flops,
                            "params": size,
                            "tokens": flops / 6 / size,
                            "loss": loss * np.exp(draw.normal(0, 0.002, 11)),
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)[order]

    return _published("porian_resolving", read, make)


def step_law_runs() -> Published:
    """Return dense language models over learning rate and batch size, in 17 cells of (N, D).

    Returns
    -------
    Published
        Columns params, tokens, rate (learning rate), batch (tokens) and loss (smoothed).
    """

    def read() -> pd.DataFrame:
        runs = data.load("steplaw")
        return pd.DataFrame(
            {
                "params": runs["N"],
                "tokens": runs["D"],
                "rate": runs["lr"],
                "batch": 2048.0 * runs["bs"],
                "loss": runs["smooth loss"],
            }
        )

    def make(draw: np.random.Generator) -> pd.DataFrame:
        rows = []
        for size in (6e7, 2.1e8, 4.3e8, 1.07e9):
            for tokens in (4e9, 2e10, 8e10, 1e11):
                floor = ChinchillaLaw.evaluate(_CHINCHILLA, {"params": [size], "tokens": [tokens]})[
                    0
                ]
                best_rate, best_batch = 1.8 * size**-0.713 * tokens**0.307, 0.58 * tokens**0.571
                for rate in 2.0 ** np.arange(-13, -6):
                    for batch in 2048 * 2.0 ** np.arange(5, 12):
                        miss = np.log(rate / best_rate) ** 2 + np.log(batch / best_batch) ** 2
                        loss = floor * (1 + 0.004 * miss) * np.exp(draw.normal(0, 5e-4))
                        rows.append((size, tokens, rate, batch, loss))
        return pd.DataFrame(rows, columns=["params", "tokens", "rate", "batch", "loss"])

    return _published("steplaw", read, make)


def annealing_curves(model: str = "25M") -> Published:
    """Return the loss curves of one model under nine learning-rate schedules.

    Parameters
    ----------
    model : {"25M", "100M", "400M"}, default "25M"
        The model size.

    Returns
    -------
    Published
        Columns schedule, step and loss; steps beyond the schedule's nominal end are left out.

    Raises
    ------
    ValueError
        If the model is none of the three.
    """
    check_choice(model, "model", ("25M", "100M", "400M"))

    def read() -> pd.DataFrame:
        curves = data.load("lr_annealing_multipowerlaw")
        curves = curves[curves["model"] == model]
        length = curves["schedule"].map(lambda name: len(annealing_schedule(name)))
        return curves.loc[curves["step"] <= length, ["schedule", "step", "loss"]].reset_index(
            drop=True
        )

    def make(draw: np.random.Generator) -> pd.DataFrame:
        names = [
            "constant_24000",
            "constant_72000",
            "cosine_24000",
            "cosine_72000",
            "wsd_20000_24000",
            "wsdld_20000_24000",
            "wsdcon_3",
            "wsdcon_9",
            "wsdcon_18",
        ]
        rates = {name: annealing_schedule(name) for name in names}
        rows = [(n, s) for n in names for s in range(2176, len(rates[n]) + 1, 128)]
        table = pd.DataFrame(rows, columns=["schedule", "step"])
        shift = {"25M": 0.0, "100M": -0.33, "400M": -0.57}[model]
        truth = {**_ANNEALING, "L_0": _ANNEALING["L_0"] + shift}
        loss = AnnealingLaw.evaluate(truth, table, schedules=rates)
        return table.assign(loss=loss * np.exp(draw.normal(0, 0.002, len(table))))

    return _published("lr_annealing_multipowerlaw", read, make)


def annealing_schedule(name: str, *, warm_up: bool = False) -> np.ndarray:
    """Return the learning rate of every step of a schedule of `annealing_curves`.

    Parameters
    ----------
    name : str
        ``constant_T``, ``cosine_T``, ``wsd_A_T`` (exponential decay from step A), ``wsdld_A_T``
        (linear decay) or ``wsdcon_R`` (a drop to R × 1e-5 at step 8000, 24 000 steps in all).
    warm_up : bool, default False
        Whether the first 2160 steps rise linearly, as they were trained, or count at the peak, as
        the annealing law counts them.

    Returns
    -------
    numpy.ndarray, shape (steps,)
        Learning rates: peak 3e-4, end 3e-5.

    Raises
    ------
    ValueError
        If the name is none of these.
    """
    kind, *numbers = str(name).split("_")
    wanted = {"constant": 1, "cosine": 1, "wsd": 2, "wsdld": 2, "wsdcon": 1}
    if wanted.get(kind) != len(numbers) or not all(n.isdigit() for n in numbers):
        raise ValueError(f"name: expected a schedule such as 'cosine_24000', got {name!r}")
    peak, end, first = _TUNE["peak"], _TUNE["end"], _TUNE["warm_up"]
    values = [int(n) for n in numbers]
    step = np.arange(24000 if kind == "wsdcon" else values[-1])
    if kind == "constant":
        rates = np.full(len(step), peak)
    elif kind == "cosine":
        turn = np.pi * (step - first) / (len(step) - first)
        rates = np.where(step < first, peak, end + (peak - end) * (1 + np.cos(turn)) / 2)
    elif kind == "wsdcon":
        rates = np.where(step < _TUNE["hold"], peak, values[0] * 1e-5)
    else:
        share = np.clip((step - values[0]) / (values[1] - values[0]), 0, 1)
        rates = peak * (end / peak) ** share if kind == "wsd" else peak + (end - peak) * share
    if warm_up:
        rates = rates * np.minimum((step + 1) / first, 1.0)
    return rates


def _published(
    name: str,
    read: Callable[[], pd.DataFrame],
    make: Callable[[np.random.Generator], pd.DataFrame],
) -> Published:
    try:
        table = read()
        whole = table.select_dtypes("integer").columns.difference(["step"])
        table = table.astype(dict.fromkeys(whole, "float64"))  # 6 N D overflows 64-bit integers
        return Published(table, data.describe(name).splitlines()[1].removeprefix("source: "), "")
    except data.DataUnavailableError:
        table = make(np.random.default_rng(0))
        reason = f"the table {name} is not at hand"
        return Published(table, f"generated: {reason}, drawn from a published law", reason)
