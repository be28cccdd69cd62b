"""Best-of-n against learned reward models, and the closed forms it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from enough.rewards.best_of_n import best_of_n, best_of_n_distribution, best_of_n_kl
from enough.rewards.reward_models import RewardModels
from enough.rewards.worlds import BURST_WORLD, NAIVE_WORLD, TokenWorlds
from enough.runtime import named_generator
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = [
    "COUNTS",
    "drop_from_peak",
    "estimator_point",
    "expected_maximum",
    "overoptimization_point",
    "two_mode_curve",
]

COUNTS = tuple(int(n) for n in np.unique(np.rint(2.0 ** np.arange(0, 12.5, 0.5))))
"""Whole numbers from 1 to 4096, two to an octave."""

_WORLDS = {"burst": BURST_WORLD, "naive": NAIVE_WORLD}
_RANGE = 40.0  # standard deviations that an integral covers to each side
_STEP = 0.01  # its step, in standard deviations of the narrower part


def overoptimization_point(
    world: str = "burst",
    noises: Sequence[float] = (0.25,),
    n_pairs: int = 1000,
    worlds: int = 8,
    members: int = 3,
    pool: int = 32768,
    counts: Sequence[int] = COUNTS,
    unrelated: int = 32,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Optimize gold against single learned reward models by best-of-n, in several worlds.

    In each world reward models are trained on labeled pairs and then choose, each by itself,
    among the same pool of answers from the reference policy.

    Parameters
    ----------
    world : {"burst", "naive"}, default "burst"
        `BURST_WORLD` or `NAIVE_WORLD`.
    noises : sequence of float, default (0.25,)
        Fractions of labels turned around. Worlds, answers, pairs and initial weights are the
        same for all.
    n_pairs : int, default 1000
        Labeled pairs a world.
    worlds : int, default 8
        Worlds, each with a gold reward of its own.
    members : int, default 3
        Reward models a world and noise, with different initial weights and order of the data.
    pool : int, default 32768
        Answers a world that best-of-n chooses from.
    counts : sequence of int, default COUNTS
        How many answers compete, at most about 0.95 ``pool``.
    unrelated : int, default 32
        Rankings by random numbers, a negative control.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``n`` and ``kl`` (`best_of_n_kl`, nats), of shape (counts,). Of shape (noises, worlds,
        members, counts): ``proxy`` and ``gold``, expected scores of the answer chosen;
        ``exploit``, the probability that it is a burst; ``gold_without``, its gold when bursts
        are taken out of the pool. ``correlation`` of proxy and gold over the pool, of shape
        (noises, worlds, members). ``rank``, upper ends of bands of ranks from the top, of shape
        (bands,), and ``rank_gold``, mean gold in each, of shape (noises, worlds, members,
        bands). Of shape (worlds, counts): ``oracle``, when gold itself chooses, and
        ``unrelated``, the mean over rankings that have nothing to do with gold.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(world, "world", tuple(_WORLDS))
    n_pairs = check_integer(n_pairs, "n_pairs", minimum=1)
    pool = check_integer(pool, "pool", minimum=2)
    unrelated = check_integer(unrelated, "unrelated", minimum=1)
    levels = [check_number(x, "noises", minimum=0.0, maximum=1.0) for x in noises]
    counts = np.array([check_integer(n, "counts", minimum=1, maximum=pool) for n in counts])
    token_worlds = TokenWorlds(worlds, seed=seed, config=_WORLDS[world], device=device)
    answers = token_worlds.features(token_worlds.sample(pool))
    gold = token_worlds.gold(answers).double()
    bursts = token_worlds.bursts(answers) > 0
    # The same number of ordinary answers in every world: the first ones.
    ordinary = bursts.int().argsort(dim=-1, stable=True)
    ordinary = ordinary[:, : int((~bursts).sum(-1).min())]
    edges = np.unique([*2 ** np.arange(int(np.log2(pool)) + 1), pool])
    found: dict[str, list[np.ndarray]] = {}
    for noise in levels:
        pairs = token_worlds.preferences(n_pairs, noise=noise)
        models = RewardModels(members, seed=seed).fit(pairs.chosen, pairs.rejected, progress=False)
        scores = models.normalize_score(answers).double()
        result = _curves(scores, gold, bursts, ordinary, counts, edges)
        for name, value in result.items():
            found.setdefault(name, []).append(value)
    stream = named_generator(seed, "unrelated")
    random = torch.randn(unrelated, *gold.shape, generator=stream, dtype=torch.float64)
    chance = best_of_n(random.to(gold.device), gold.expand(unrelated, -1, -1), counts)
    return {
        "n": counts,
        "kl": best_of_n_kl(counts),
        "rank": edges,
        "oracle": best_of_n(gold, gold, counts).gold_per_prompt.cpu().numpy(),
        "unrelated": chance.gold_per_prompt.mean(0).cpu().numpy(),
        **{name: np.stack(values) for name, values in found.items()},
    }


def drop_from_peak(curves: Any) -> np.ndarray:
    """Measure how far each world's curve ends below its earlier peak, without bias.

    Parameters
    ----------
    curves : array of shape (worlds, counts)
        Gold scores, at least two worlds and two counts.

    Returns
    -------
    numpy.ndarray of shape (worlds,)
        Gold at the peak minus gold at the last point. The peak of a world is where the mean
        curve of all *other* worlds is highest, the last point left out. Negative where gold
        still rises.

    Raises
    ------
    ValueError
        If ``curves`` has another shape, fewer than two worlds or counts, or an entry that is
        not finite.

    Notes
    -----
    A curve's own highest point is partly luck: measured from there, a flat but noisy curve
    would seem to fall.

    Examples
    --------
    >>> from enough.rewards.experiments import drop_from_peak
    >>> drop_from_peak([[0.0, 2.0, 1.0], [0.0, 3.0, 1.0]])
    array([1., 2.])
    """
    (values,), _ = as_tensors(curves=curves)
    check_tensor(values, "curves", ndim=2)
    if min(values.shape) < 2:
        raise ValueError(
            f"curves: expected at least two worlds and two counts, got {tuple(values.shape)}"
        )
    table = values.detach().cpu().double().numpy()
    others = table.sum(0) - table
    peak = others[:, :-1].argmax(-1)
    return np.take_along_axis(table, peak[:, None], 1)[:, 0] - table[:, -1]


def expected_maximum(n: Any) -> Any:
    r"""Compute the expected maximum of n independent standard normal numbers.

    Parameters
    ----------
    n : float or array
        How many, 1 or more, at most 1e12; need not be whole.

    Returns
    -------
    float or numpy.ndarray
        :math:`\int x\, n\, \Phi(x)^{n-1} \varphi(x)\, dx`, by the trapezoidal rule.

    Raises
    ------
    ValueError
        If an ``n`` is out of range.

    Examples
    --------
    >>> from enough.rewards.experiments import expected_maximum
    >>> round(expected_maximum(16), 3)
    1.766
    """
    counts = _read_counts(n)
    values = two_mode_curve(counts.ravel(), 1.0, probability=0.0)["proxy"].reshape(counts.shape)
    return values if counts.ndim else float(values)


def two_mode_curve(
    n: Any,
    correlation: float,
    probability: float = 0.01,
    scale: float = 2.0,
    exploit_gold: float = -3.0,
) -> dict[str, np.ndarray]:
    r"""Compute best-of-n exactly in a model of ordinary answers and a rare exploit.

    An ordinary answer has a standard normal proxy score s and the gold score ρ s on average.
    With probability ε the answer is an exploit: its proxy score is normal with mean 0 and
    standard deviation ``scale``, its gold score a constant.

    Parameters
    ----------
    n : float or array
        How many answers compete, 1 or more, at most 1e12.
    correlation : float
        ρ, from -1 to 1.
    probability : float, default 0.01
        ε, from 0 to below 1.
    scale : float, default 2.0
        Standard deviation of the exploit's proxy score, above 0 and at most 20.
    exploit_gold : float, default -3.0
        Gold score of the exploit.

    Returns
    -------
    dict
        ``proxy`` and ``gold``, expected scores of the answer chosen, and ``exploit``, the
        probability that it is an exploit; arrays in the shape of ``n``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    With F the distribution function of the proxy score, the answer chosen has density
    :math:`n F^{n-1} f`. The integrals are sums over an even grid, which converge faster than
    any power of the step for functions that are smooth and vanish at both ends.
    """
    counts = _read_counts(n)
    rho = check_number(correlation, "correlation", minimum=-1.0, maximum=1.0)
    share = check_number(probability, "probability", minimum=0.0, below=1.0)
    scale = check_number(scale, "scale", above=0.0, maximum=20.0)
    exploit_gold = check_number(exploit_gold, "exploit_gold")
    wide, narrow = max(1.0, scale), min(1.0, scale)
    if share == 0.0:
        wide = narrow = scale = 1.0
    reach, step = _RANGE * wide, _STEP * narrow
    s = np.arange(-reach, reach + step, step)
    ordinary = (1.0 - share) * norm.pdf(s)
    exploit = share * norm.pdf(s, scale=scale)
    # log F from the upper tail, which is exact where F is near 1.
    above = (1.0 - share) * norm.sf(s) + share * norm.sf(s, scale=scale)
    below = (1.0 - share) * norm.cdf(s) + share * norm.cdf(s, scale=scale)
    with np.errstate(divide="ignore"):
        log_below = np.where(s > 0, np.log1p(-np.minimum(above, 0.9)), np.log(below))
    curve = {"proxy": [], "gold": [], "exploit": []}
    for count in counts.ravel():
        with np.errstate(invalid="ignore"):
            power = (count - 1.0) * log_below if count > 1.0 else np.zeros_like(s)
        weight = count * np.exp(power) * step
        hit = float((weight * exploit).sum())
        curve["proxy"].append(float((weight * (ordinary + exploit) * s).sum()))
        curve["gold"].append(float((weight * ordinary * rho * s).sum()) + exploit_gold * hit)
        curve["exploit"].append(hit)
    return {name: np.array(values).reshape(counts.shape) for name, values in curve.items()}


def estimator_point(
    pool: int = 64,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    pools: int = 20_000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Estimate the best of n from many small pools, with and without replacement.

    Scores are standard normal numbers, so that the truth is `expected_maximum`.

    Parameters
    ----------
    pool : int, default 64
        Scores a pool.
    counts : sequence of int, default (1, 2, 4, 8, 16, 32, 64)
        How many compete, at most ``pool``.
    pools : int, default 20000
        Independent pools, at least two.
    seed : int, default 0
        Seed of the pools.

    Returns
    -------
    dict
        ``n`` of shape (counts,), ``without`` (`best_of_n`) and ``replaced`` (n draws with
        replacement, `best_of_n_distribution`) of shape (pools, counts).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    pool = check_integer(pool, "pool", minimum=1)
    pools = check_integer(pools, "pools", minimum=2)
    counts = np.array([check_integer(n, "counts", minimum=1, maximum=pool) for n in counts])
    stream = named_generator(seed, "pools", pool)
    scores = torch.randn(pools, pool, generator=stream, dtype=torch.float64)
    equal = np.full(pool, 1.0 / pool)
    weights = best_of_n_distribution(equal, np.arange(pool), counts)
    return {
        "n": counts,
        "without": best_of_n(scores, scores, counts).gold_per_prompt.numpy(),
        "replaced": scores.sort(dim=-1).values.numpy() @ weights.T,
    }


def _curves(
    scores: Tensor,
    gold: Tensor,
    bursts: Tensor,
    ordinary: Tensor,
    counts: np.ndarray,
    edges: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what one set of reward models (members, worlds, N) does to gold (worlds, N)."""

    def chosen(proxy: Tensor, value: Tensor) -> Any:
        return best_of_n(proxy, value.expand_as(proxy), counts)

    kept = [x.gather(-1, ordinary.expand(*x.shape[:-1], -1)) for x in (scores, gold)]
    main = chosen(scores, gold)
    ranked = gold.expand_as(scores).gather(-1, scores.argsort(-1, descending=True))
    total = torch.nn.functional.pad(ranked.cumsum(-1), (1, 0))[..., [0, *edges]]
    width = torch.as_tensor(np.diff([0, *edges]), device=total.device)
    centered = [x - x.mean(-1, keepdim=True) for x in (scores, gold)]
    product = (centered[0] * centered[1]).mean(-1)
    result = {
        "proxy": main.proxy_per_prompt,
        "gold": main.gold_per_prompt,
        "exploit": chosen(scores, bursts.double()).gold_per_prompt,
        "gold_without": chosen(*kept).gold_per_prompt,
        "correlation": product / (scores.std(-1, correction=0) * gold.std(-1, correction=0)),
        "rank_gold": total.diff(dim=-1) / width,
    }
    return {name: value.transpose(0, 1).cpu().numpy() for name, value in result.items()}


def _read_counts(n: Any) -> np.ndarray:
    """Read how many compete: numbers in [1, 1e12]."""
    (value,), _ = as_tensors(n=n)
    check_tensor(value, "n", minimum=1.0, maximum=1e12)
    return value.detach().cpu().double().numpy()
