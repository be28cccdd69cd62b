"""Ensembles of learned reward models in the burst world, against best-of-n."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.rewards.aggregation import aggregate_rewards
from enough.rewards.best_of_n import best_of_n, best_of_n_kl
from enough.rewards.experiments.best_of_n import COUNTS
from enough.rewards.reward_models import (
    RewardModels,
    independent_members,
    member_correlation,
    shared_trunk,
)
from enough.rewards.worlds import BURST_WORLD, TokenWorlds
from enough.runtime import resolve_device
from enough.runtime.validation import check_choice, check_integer, check_tensor

__all__ = [
    "RULES",
    "ScoredAnswers",
    "agreement",
    "ensemble_curves",
    "ensemble_point",
    "score_answers",
    "sub_ensembles",
]

RULES: dict[str, tuple[str, float]] = {
    "mean": ("mean", 0.0),
    "median": ("median", 0.0),
    "WCO": ("min", 0.0),
    "UWO": ("uwo", 0.5),
    "UWO2": ("uwo", 2.0),
}
"""Rules by name: how to aggregate, and the coefficient."""

_TRUNKS = {"own": independent_members, "shared": shared_trunk}


@dataclass(frozen=True, eq=False)
class ScoredAnswers:
    """Answers of the reference policy with the scores of several reward models.

    Parameters
    ----------
    scores : torch.Tensor, shape (M, W, N)
        Of M members on N answers in each of W worlds: mean 0 and standard deviation 1 over the
        answers, member by member.
    gold : torch.Tensor, shape (W, N)
        Gold rewards.
    bursts : torch.Tensor of int64, shape (W, N)
        0 for an ordinary answer, else 1 plus the number of the token that is repeated.
    """

    scores: Tensor
    gold: Tensor
    bursts: Tensor


def score_answers(
    worlds: int = 16,
    members: int = 5,
    trunk: str = "own",
    noise: float = 0.0,
    n_pairs: int = 1000,
    mislabeled: int = 0,
    pool: int = 16384,
    steps: int = 400,
    seed: int = 0,
    device: str | None = "cpu",
) -> ScoredAnswers:
    """Train an ensemble of reward models in every world and score answers with it.

    Worlds, answers, pairs and, for equal ``worlds``, initial weights and order of the data are
    the same for one seed, whatever the other arguments; member m does not depend on how many
    members there are.

    Parameters
    ----------
    worlds : int, default 16
        Worlds, each with a gold reward of its own.
    members : int, default 5
        Reward models a world.
    trunk : {"own", "shared"}, default "own"
        Whether members start from different weights throughout (`independent_members`) or from
        one trunk, with heads and orders of the data of their own (`shared_trunk`).
    noise : float, default 0.0
        Fraction of labels turned around.
    n_pairs : int, default 1000
        Labeled pairs a world.
    mislabeled : int, default 0
        The annotator takes bursts of the first so many rare tokens for excellent.
    pool : int, default 16384
        Answers a world.
    steps : int, default 400
        Updates of every member.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    ScoredAnswers
        On that device.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(trunk, "trunk", tuple(_TRUNKS))
    worlds = check_integer(worlds, "worlds", minimum=1)
    pool = check_integer(pool, "pool", minimum=2)
    where = str(resolve_device(device))
    token_worlds, answers, gold, bursts = _reference_answers(worlds, pool, seed, where)
    if mislabeled:
        token_worlds = _mislabeled_worlds(worlds, mislabeled, seed, where)
    pairs = token_worlds.preferences(n_pairs, noise=noise)
    models = RewardModels(_TRUNKS[trunk](members), seed=seed, steps=steps)
    models.fit(pairs.chosen, pairs.rejected, progress=False)
    return ScoredAnswers(models.normalize_score(answers), gold, bursts)


def sub_ensembles(members: int, size: int) -> list[list[int]]:
    """Choose sub-ensembles such that every member is in equally many.

    Parameters
    ----------
    members : int
        Members numbered from 0.
    size : int
        Members of a sub-ensemble, from 1 to ``members``.

    Returns
    -------
    list of list of int
        Runs of ``size`` consecutive members, from every start, the first member following the
        last; one sub-ensemble if it holds all.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from enough.rewards.experiments import sub_ensembles
    >>> sub_ensembles(3, 2)
    [[0, 1], [1, 2], [2, 0]]
    """
    members = check_integer(members, "members", minimum=1)
    size = check_integer(size, "size", minimum=1, maximum=members)
    starts = range(1 if size == members else members)
    return [[(start + i) % members for i in range(size)] for start in starts]


def ensemble_curves(
    scores: Tensor,
    values: Tensor,
    size: int = 5,
    rules: Mapping[str, tuple[str, float]] = RULES,
    counts: Sequence[int] = COUNTS,
) -> dict[str, Any]:
    """Compute what best-of-n earns when a sub-ensemble chooses, for every rule.

    Parameters
    ----------
    scores : torch.Tensor, shape (M, W, N)
        Scores of the members.
    values : torch.Tensor, shape (W, N)
        What counts, such as gold.
    size : int, default 5
        Members of a sub-ensemble, at most M; see `sub_ensembles`.
    rules : mapping from str to (str, float), default RULES
        Ways to aggregate, by name: ``how`` and ``coefficient`` of `aggregate_rewards`.
    counts : sequence of int, default COUNTS
        How many answers compete, at most N.

    Returns
    -------
    dict
        ``n`` and ``kl`` (`best_of_n_kl`, nats), of shape (counts,); ``value`` and ``proxy``,
        each a dict from rule to an array of shape (W, sub-ensembles, counts): the expected
        value of the answer chosen and the aggregated score that chose it.

    Raises
    ------
    ValueError
        If shapes do not fit or an argument is out of range.
    """
    check_tensor(scores, "scores", ndim=3, floating=True)
    check_tensor(values, "values", shape=scores.shape[1:])
    subsets = sub_ensembles(len(scores), size)
    counts = np.array([check_integer(n, "counts", minimum=1) for n in counts])
    found: dict[str, dict[str, np.ndarray]] = {"value": {}, "proxy": {}}
    for rule, (how, coefficient) in rules.items():
        proxy = torch.stack(
            [aggregate_rewards(scores[one], how, coefficient) for one in subsets], 1
        )
        best = best_of_n(proxy, values.unsqueeze(1).expand_as(proxy).to(proxy), counts)
        found["value"][rule] = best.gold_per_prompt.cpu().numpy()
        found["proxy"][rule] = best.proxy_per_prompt.cpu().numpy()
    return {"n": counts, "kl": best_of_n_kl(counts), **found}


def agreement(answers: ScoredAnswers) -> dict[str, np.ndarray]:
    """Measure how far members agree on ordinary answers and on bursts.

    Parameters
    ----------
    answers : ScoredAnswers
        At least two members, and at least two bursts and two ordinary answers a world.

    Returns
    -------
    dict
        ``accuracy`` (members, worlds): share of pairs of ordinary answers that a member orders
        as gold does. Of shape (worlds,): ``correlation`` and ``burst_correlation``, the mean
        correlation of two members over ordinary answers and over bursts
        (`member_correlation`); ``variance`` and ``burst_variance``, the mean variance across
        members (ddof 0) over each.

    Raises
    ------
    ValueError
        If there is one member.
    """
    scores, gold, ordinary = answers.scores, answers.gold, answers.bursts == 0
    half = gold.shape[-1] // 2
    both = ordinary[:, :half] & ordinary[:, half : 2 * half]
    apart = gold[:, :half] - gold[:, half : 2 * half]
    judged = scores[..., :half] - scores[..., half : 2 * half]
    right = ((judged * apart > 0) & both).sum(-1).double() / both.sum(-1)
    variance = scores.var(0, correction=0)
    found = {
        "accuracy": right,
        "correlation": member_correlation(scores, ordinary),
        "burst_correlation": member_correlation(scores, ~ordinary),
        "variance": (variance * ordinary).sum(-1) / ordinary.sum(-1),
        "burst_variance": (variance * ~ordinary).sum(-1) / (~ordinary).sum(-1),
    }
    return {name: value.double().cpu().numpy() for name, value in found.items()}


def ensemble_point(
    worlds: int = 16,
    members: int = 5,
    size: int = 5,
    trunk: str = "own",
    noise: float = 0.0,
    n_pairs: int = 1000,
    mislabeled: int = 0,
    pool: int = 16384,
    steps: int = 400,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train ensembles, let them choose among many answers, and measure what they earn.

    Parameters
    ----------
    worlds : int, default 16
        Worlds, each with a gold reward of its own.
    members : int, default 5
        Reward models a world, at least two.
    size : int, default 5
        Members of a sub-ensemble, at most ``members``; results are averages over
        `sub_ensembles`.
    trunk : {"own", "shared"}, default "own"
        As in `score_answers`.
    noise : float, default 0.0
        Fraction of labels turned around.
    n_pairs : int, default 1000
        Labeled pairs a world.
    mislabeled : int, default 0
        The annotator takes bursts of the first so many rare tokens for excellent.
    pool : int, default 16384
        Answers a world.
    steps : int, default 400
        Updates of every member.
    counts : sequence of int, default COUNTS
        How many answers compete, at most ``pool``.
    seed : int, default 0
        Seed of everything; runs that differ in other arguments than ``worlds`` are paired.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``n`` and ``kl``, of shape (counts,); ``gold`` and ``proxy``, dicts from the names in
        `RULES` and ``"single"`` (one member, averaged over members) to arrays of shape (worlds,
        counts); ``burst_score``, of shape (worlds, tokens): the mean score, over members, of
        the bursts of each rare token, NaN where the pool has none; and the arrays of
        `agreement`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    size = check_integer(
        size, "size", minimum=1, maximum=check_integer(members, "members", minimum=2)
    )
    answers = score_answers(
        worlds, members, trunk, noise, n_pairs, mislabeled, pool, steps, seed, device
    )
    curves = ensemble_curves(answers.scores, answers.gold, size, RULES, counts)
    single = {"single": RULES["mean"]}
    alone = ensemble_curves(answers.scores, answers.gold, 1, single, counts)
    gold = {rule: value.mean(1) for rule, value in (alone["value"] | curves["value"]).items()}
    proxy = {rule: value.mean(1) for rule, value in (alone["proxy"] | curves["proxy"]).items()}
    average = answers.scores.mean(0)
    by_token = []
    for token in range(BURST_WORLD.n_rare):
        mask = answers.bursts == token + 1
        by_token.append((average * mask).sum(-1) / mask.sum(-1))
    return {
        "n": curves["n"],
        "kl": curves["kl"],
        "gold": gold,
        "proxy": proxy,
        "burst_score": torch.stack(by_token, -1).double().cpu().numpy(),
        **agreement(answers),
    }


@functools.lru_cache(maxsize=1)
def _reference_answers(
    worlds: int, pool: int, seed: int, device: str
) -> tuple[TokenWorlds, Tensor, Tensor, Tensor]:
    """Return worlds and, of answers of the reference policy, features, gold and bursts.

    Kept, since conditions that are compared share them, and gold takes a third of the time.
    """
    token_worlds = TokenWorlds(worlds, seed=seed, config=BURST_WORLD, device=device)
    answers = token_worlds.features(token_worlds.sample(pool))
    return token_worlds, answers, token_worlds.gold(answers), token_worlds.bursts(answers)


@functools.lru_cache(maxsize=1)
def _mislabeled_worlds(worlds: int, mislabeled: int, seed: int, device: str) -> TokenWorlds:
    """Return worlds with another annotator; kept, since it takes long to set gold's unit."""
    config = replace(BURST_WORLD, mislabeled=mislabeled)
    return TokenWorlds(worlds, seed=seed, config=config, device=device)
