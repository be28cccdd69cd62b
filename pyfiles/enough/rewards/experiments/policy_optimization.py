"""Policy gradients against learned reward models, with and without a penalty on the divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from enough import data
from enough.models import Transformer, TransformerConfig
from enough.rewards.aggregation import aggregate_rewards, normalize_rewards
from enough.rewards.divergences import categorical_kl
from enough.rewards.natural_gradient import natural_gradient
from enough.rewards.policies import BurstPolicy
from enough.rewards.policy_search import PPO, REINFORCE
from enough.rewards.preferences import bradley_terry_loss, flip_preferences
from enough.rewards.reward_models import (
    RewardModels,
    independent_members,
    member_correlation,
    shared_trunk,
)
from enough.rewards.transformer_policy import TransformerPolicy
from enough.rewards.worlds import (
    BURST_WORLD,
    TokenWorlds,
    WorldConfig,
    draw_burst_places,
    write_bursts,
)
from enough.runtime import derive_seed, named_generator, resolve_device
from enough.runtime.validation import as_tensors, check_choice, check_integer, check_number
from enough.training import fit

__all__ = [
    "exploit_point",
    "gradient_flow_point",
    "kl_to_reach",
    "penalty_window",
    "policy_search_point",
    "scored_pool_point",
    "text_policy_point",
]

_WORLDS = {"burst": BURST_WORLD, "bonus": WorldConfig(annotator_bonus=1.0)}
_AGGREGATED = ("mean", "median", "min", "uwo")
_REFERENCE = 4096  # answers that set zero and unit of the reward models
_PATCH = -3.0  # what "patched" pays for a burst
_TEXT, _RARE, _START = 128, 16, 0  # bytes of text, bytes that only repetitions use, start


def policy_search_point(
    arms: Sequence[tuple[str, float]] = (("single", 0.0), ("min", 0.0)),
    optimizer: str = "reinforce",
    noise: float = 0.25,
    world: str = "burst",
    trunk: str = "own",
    n_pairs: int = 1000,
    worlds: int = 8,
    members: int = 5,
    steps: int = 250,
    n_samples: int = 128,
    lr: float = 0.05,
    monitor_every: int = 10,
    coefficient: float = 0.5,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, np.ndarray]:
    """Optimize policies of token worlds against learned reward models.

    All arms start at the reference policy, meet the same reward models and see the same
    random numbers, so that differences between arms are paired.

    Parameters
    ----------
    arms : sequence of (str, float)
        What is optimized, and the coefficient β of the penalty on the divergence. Rewards:
        ``"single"``, the first reward model, and ``"member 0"``, ``"member 1"``, ..., each;
        ``"mean"``, ``"median"``, ``"min"`` and ``"uwo"`` of the ensemble
        (`aggregate_rewards`); ``"oracle"``, the gold reward; ``"patched"``, the first reward
        model, but -3 for every burst; ``"copies"``, the minimum of as many copies of the first
        reward model as there are members.
    optimizer : {"reinforce", "ppo"}, default "reinforce"
        `REINFORCE`, one update a step, or `PPO`, four passes in four minibatches a step.
    noise : float, default 0.25
        Fraction of labels turned around.
    world : {"burst", "bonus"}, default "burst"
        `BURST_WORLD`, or the same with an annotator who adds 1 for every token 0.
    trunk : {"own", "shared"}, default "own"
        Whether members of the ensemble start from trunks of their own or from a common one.
        The first member is the same in both.
    n_pairs : int, default 1000
        Labeled pairs a world.
    worlds : int, default 8
        Worlds, each with a gold reward of its own.
    members : int, default 5
        Reward models of an ensemble.
    steps : int, default 250
        Rounds of sampling, at least two.
    n_samples : int, default 128
        Answers an arm, world and round.
    lr : float, default 0.05
        Learning rate of Adam.
    monitor_every : int, default 10
        Rounds from one measurement to the next.
    coefficient : float, default 0.5
        Penalty on the variance in ``"uwo"``.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``step`` of shape (times,), the first is 0, before any update. Of shape (times, arms,
        worlds): ``kl``, exact, in nats; ``proxy``, the mean reward optimized; ``gold``;
        ``bursts``, the share of answers that are bursts; ``zeros``, the mean number of tokens
        0 in an answer. At the end, of shape (arms, worlds): ``mode_kl``, the part of the
        divergence that the choice of the mode takes.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(optimizer, "optimizer", ("reinforce", "ppo"))
    check_choice(world, "world", tuple(_WORLDS))
    check_choice(trunk, "trunk", ("own", "shared"))
    members = check_integer(members, "members", minimum=2)
    steps = check_integer(steps, "steps", minimum=2)
    if not arms:
        raise ValueError("arms: expected at least one pair (reward, beta), got none")
    known = ("single", *_AGGREGATED, "oracle", "patched", "copies")
    known += tuple(f"member {m}" for m in range(members))
    for name, beta in arms:
        check_choice(name, "arms", known)
        check_number(beta, "arms", minimum=0.0)
    worlds = check_integer(worlds, "worlds", minimum=1)
    token_worlds = _token_worlds(_WORLDS[world], worlds, seed, str(resolve_device(device)))
    config = token_worlds.config
    reward = _arm_rewards(
        [name for name, _ in arms], token_worlds, trunk, n_pairs, noise, members, coefficient
    )
    policy = BurstPolicy(config, (len(arms), worlds), shared_draws=1, device=token_worlds.device)
    reference = policy.frozen_copy()

    def read(measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda tokens: measure(token_worlds.features(tokens))

    search = (REINFORCE if optimizer == "reinforce" else PPO)(
        policy,
        reward,
        reference=reference,
        beta=torch.tensor([beta for _, beta in arms])[:, None],
        lr=lr,
        n_samples=n_samples,
        seed=named_generator(seed, "search"),
        monitors={
            "gold": read(token_worlds.gold),
            "bursts": read(lambda features: (token_worlds.bursts(features) > 0).float()),
            "zeros": read(lambda features: features[..., 0]),
        },
        monitor_every=monitor_every,
    ).fit(steps, progress=False)
    history = search.history_
    seen = np.flatnonzero(np.isfinite(history["gold"][:, 0, 0]))
    now = policy.mode_logits.detach().log_softmax(-1)
    before = reference.mode_logits.log_softmax(-1)
    names = {key: key for key in ("kl", "gold", "bursts", "zeros")} | {"reward": "proxy"}
    return {
        "step": seen,
        **{name: history[key][seen].astype(np.float64) for key, name in names.items()},
        "mode_kl": categorical_kl(now, before).double().cpu().numpy(),
    }


def exploit_point(
    noise: float = 0.25,
    n_pairs: int = 1000,
    worlds: int = 8,
    members: int = 5,
    answers: int = 256,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, np.ndarray]:
    """Measure what the reward models pay for bursts.

    Worlds, labels and reward models are those of `policy_search_point` with the same seed and
    number of worlds.

    Parameters
    ----------
    noise : float, default 0.25
        Fraction of labels turned around.
    n_pairs : int, default 1000
        Labeled pairs a world.
    worlds : int, default 8
        Worlds.
    members : int, default 5
        Reward models a world.
    answers : int, default 256
        Bursts of every rare token.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``reward`` of shape (members, worlds, rare tokens): the mean score of bursts of each
        token. ``mean`` and ``spread`` of shape (members, worlds): mean and standard deviation
        of the score of ordinary answers of the reference policy. ``cost`` of shape
        (): nats it takes to give nothing but bursts of one token.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    answers = check_integer(answers, "answers", minimum=1)
    worlds = check_integer(worlds, "worlds", minimum=1)
    token_worlds = _token_worlds(BURST_WORLD, worlds, seed, str(resolve_device(device)))
    seeds = independent_members(check_integer(members, "members", minimum=1))
    place = (token_worlds.config, worlds, seed, str(token_worlds.device))
    models = _reward_models(*place, tuple(seeds), n_pairs, noise)
    config, stream = token_worlds.config, named_generator(seed, "exploits")
    mode = torch.arange(1, config.n_rare + 1).repeat_interleave(answers).expand(worlds, -1)
    tokens = torch.randint(config.n_common, (*mode.shape, config.length), generator=stream)
    bursts = write_bursts(config, tokens, mode, *draw_burst_places(config, mode.shape, stream))
    features = token_worlds.features(torch.cat([bursts, tokens], 1).to(token_worlds.device))
    scores = models.score(features).double().cpu()
    paid, ordinary = scores.split(mode.shape[1], -1)
    return {
        "reward": paid.unflatten(-1, (config.n_rare, answers)).mean(-1).numpy(),
        "mean": ordinary.mean(-1).numpy(),
        "spread": ordinary.std(-1).numpy(),
        "cost": np.float64(math.log(config.n_rare / config.burst_probability)),
    }


def scored_pool_point(
    noise: float = 0.25,
    n_pairs: int = 1000,
    worlds: int = 8,
    members: int = 5,
    answers: int = 64,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, np.ndarray]:
    """Score a pool of answers of the reference policy in every world.

    Parameters
    ----------
    noise : float, default 0.25
        Fraction of labels turned around.
    n_pairs : int, default 1000
        Labeled pairs a world.
    worlds : int, default 8
        Worlds, as in `policy_search_point`.
    members : int, default 5
        Reward models a world.
    answers : int, default 64
        Answers a world.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``proxy`` of shape (members, worlds, answers), normalized, and ``gold`` of shape
        (worlds, answers).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    worlds = check_integer(worlds, "worlds", minimum=1)
    token_worlds = _token_worlds(BURST_WORLD, worlds, seed, str(resolve_device(device)))
    seeds = independent_members(check_integer(members, "members", minimum=1))
    place = (token_worlds.config, worlds, seed, str(token_worlds.device))
    models = _reward_models(*place, tuple(seeds), n_pairs, noise)
    features = token_worlds.features(token_worlds.sample(answers, "flow"))
    return {
        "proxy": models.score(features).double().cpu().numpy(),
        "gold": token_worlds.gold(features).double().cpu().numpy(),
    }


def penalty_window(reward: Any, cost: Any, spread: Any = 1.0) -> tuple[Any, Any]:
    r"""Compute the penalties at which an exploit beats honest improvement.

    Ordinary answers have normal scores of mean 0 and standard deviation s. The exploit has
    score r and takes c nats. At the penalty β the best that ordinary answers reach is
    :math:`s^2/(2\beta)`, and the exploit brings :math:`r - \beta c`. So it wins for

    .. math::

        \frac{r - \sqrt{r^2 - 2 c s^2}}{2c} < \beta < \frac{r + \sqrt{r^2 - 2 c s^2}}{2c},

    and nowhere if :math:`r < s\sqrt{2c}`.

    Parameters
    ----------
    reward : float or array
        Score r of the exploit.
    cost : float or array
        Its divergence c in nats, above 0.
    spread : float or array, default 1.0
        Standard deviation s of ordinary scores, above 0.

    Returns
    -------
    low, high : float or numpy.ndarray
        Ends of the window; NaN where there is none.

    Raises
    ------
    ValueError
        If an entry is not finite, or a cost or spread is not above 0.

    Examples
    --------
    >>> from enough.rewards.experiments import penalty_window
    >>> low, high = penalty_window(5.0, 8.0)
    >>> round(low, 4), round(high, 4)
    (0.125, 0.5)
    """
    (r, c, s), _ = as_tensors(reward=reward, cost=cost, spread=spread)
    r, c, s = (x.detach().cpu().double().numpy() for x in (r, c, s))
    if not np.isfinite(r).all():
        raise ValueError("reward: expected finite numbers, got NaN or infinity")
    for name, values in (("cost", c), ("spread", s)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name}: expected finite numbers above 0, got {values.min()}")
    square = r**2 - 2.0 * c * s**2
    exists = (square > 0) & (r > 0)
    root = np.sqrt(np.where(exists, square, np.nan))
    low, high = s**2 / (r + root), (r + root) / (2.0 * c)
    return (low, high) if low.ndim else (float(low), float(high))


def kl_to_reach(kl: Any, gold: Any, target: float) -> float:
    """Find the divergence at which a curve of gold first reaches a level.

    Parameters
    ----------
    kl : array of shape (times,)
        Divergences along a path.
    gold : array of shape (times,)
        Gold along it.
    target : float
        The level.

    Returns
    -------
    float
        The divergence, linear between measurements; infinite where the level is not reached.

    Raises
    ------
    ValueError
        If the arrays are no vectors of one length, or an entry is not finite.
    """
    target = check_number(target, "target")
    kl, gold = (np.asarray(x, dtype=np.float64) for x in (kl, gold))
    for name, values in (("kl", kl), ("gold", gold)):
        if values.ndim != 1 or values.shape != kl.shape or not np.isfinite(values).all():
            raise ValueError(
                f"{name}: expected finite numbers of shape (times,), got shape {values.shape}"
            )
    above = np.flatnonzero(gold >= target)
    if not len(above):
        return math.inf
    i = above[0]
    if i == 0:
        return float(kl[0])
    share = (target - gold[i - 1]) / (gold[i] - gold[i - 1])
    return float(kl[i - 1] + share * (kl[i] - kl[i - 1]))


def gradient_flow_point(
    rewards: Any, gold: Any, beta: float, until: float, kind: str = "natural", times: int = 200
) -> dict[str, np.ndarray]:
    r"""Integrate the exact gradient flow of a softmax policy on a pool of answers.

    The objective is the mean reward less β times the divergence from the uniform policy, where
    the flow starts. It is integrated numerically; no closed form is used.

    Parameters
    ----------
    rewards : array of shape (K,)
        Reward of each answer.
    gold : array of shape (K,)
        Gold of each answer.
    beta : float
        Coefficient β of the penalty, at least 0.
    until : float
        Last time, above 0.
    kind : {"natural", "plain"}, default "natural"
        Natural gradient (`natural_gradient`), or the plain gradient of the logits.
    times : int, default 200
        Times, evenly spaced for "natural" and their roots evenly spaced for "plain", from 0.

    Returns
    -------
    dict
        ``time`` and, of the same shape (times,), ``kl``, ``proxy`` and ``gold``; ``probs`` of
        shape (times, K).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    beta = check_number(beta, "beta", minimum=0.0)
    until = check_number(until, "until", above=0.0)
    check_choice(kind, "kind", ("natural", "plain"))
    times = check_integer(times, "times", minimum=2)
    (reward, value), _ = as_tensors(rewards=rewards, gold=gold)
    r, g = (x.detach().cpu().double().numpy() for x in (reward, value))
    if r.ndim != 1 or r.shape != g.shape:
        raise ValueError(f"gold: expected the shape of rewards, (K,), got {r.shape} and {g.shape}")
    start = np.zeros_like(r)

    def policy(theta: np.ndarray) -> np.ndarray:
        weights = np.exp(theta - theta.max(0))
        return weights / weights.sum(0)

    def flow(_: float, theta: np.ndarray) -> np.ndarray:
        if kind == "natural":
            return natural_gradient(theta, r, start, beta)
        p, slope = policy(theta), r - beta * theta
        return p * (slope - p @ slope)

    grid = np.linspace(0.0, 1.0, times)
    grid = until * (grid if kind == "natural" else grid**2)
    path = solve_ivp(flow, (0.0, until), start, "DOP853", grid, rtol=1e-10, atol=1e-10)
    probs = policy(path.y).T
    return {
        "time": grid,
        "kl": (probs * np.log(np.maximum(probs, 1e-300) * len(r))).sum(1),
        "proxy": probs @ r,
        "gold": probs @ g,
        "probs": probs,
    }


def text_policy_point(
    arms: Sequence[tuple[str, str, float]] = (
        ("single", "mean", 0.0),
        ("finetune", "min", 0.0),
        ("pretrain", "min", 0.0),
    ),
    source: str = "stdlib",
    length: int = 32,
    repetitions: float = 0.01,
    d_model: int = 128,
    n_layers: int = 3,
    n_heads: int = 4,
    gold_d_model: int = 256,
    gold_layers: int = 4,
    policy_steps: int = 3000,
    trunks: int = 5,
    heads: int = 5,
    trunk_steps: int = 1000,
    reward_steps: int = 400,
    n_pairs: int = 4000,
    noise: float = 0.25,
    batch_size: int = 64,
    iterations: int = 150,
    n_samples: int = 256,
    lr: float = 1e-4,
    monitor_every: int = 5,
    pool_size: int = 1024,
    coefficient: float = 0.5,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Any]:
    """Optimize a byte-level transformer against transformer reward models by PPO.

    The reference policy is pretrained on text in which a few windows hold a degenerate
    repetition: one byte, foreign to the text, over and over. Gold is a random transformer that
    punishes such answers. The reward models form a grid of pretraining and fine-tuning seeds:
    next-byte prediction on samples of the reference policy, then preferences.

    Parameters
    ----------
    arms : sequence of (str, str, float)
        Members, aggregation, and coefficient β of the penalty. Members: ``"single"``, the
        first reward model; ``"finetune"``, all heads of the first trunk; ``"pretrain"``, the
        first head of every trunk; ``"all"``. Aggregation: as in `aggregate_rewards`.
    source : str, default "stdlib"
        Text, as in `enough.data.text`.
    length : int, default 32
        Bytes an answer, at least 4.
    repetitions : float, default 0.01
        Share of training windows with a degenerate repetition.
    d_model, n_layers, n_heads : int, default 128, 3 and 4
        Size of policy and reward models.
    gold_d_model, gold_layers : int, default 256 and 4
        Size of the gold model.
    policy_steps : int, default 3000
        Updates that pretrain the policy.
    trunks, heads : int, default 5 and 5
        Pretraining seeds, and fine-tuning seeds of each.
    trunk_steps, reward_steps : int, default 1000 and 400
        Updates that pretrain and fine-tune a reward model.
    n_pairs : int, default 4000
        Labeled pairs, at least ``batch_size``.
    noise : float, default 0.25
        Fraction of labels turned around.
    batch_size : int, default 64
        Windows, answers or pairs an update.
    iterations : int, default 150
        Rounds of PPO.
    n_samples : int, default 256
        Answers a round.
    lr : float, default 1e-4
        Learning rate of PPO.
    monitor_every : int, default 5
        Rounds from one measurement to the next.
    pool_size : int, default 1024
        Answers of the reference policy that set zero and unit of rewards, and pairs that
        measure accuracy.
    coefficient : float, default 0.5
        Penalty on the variance in ``"uwo"``.
    seed : int, default 0
        Seed of everything.
    device : str or None, default None
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``step`` of shape (times,). Of shape (times, arms): ``kl``, the exact divergence of the
        next-byte distributions summed along the sampled answers, in nats; ``proxy``, ``gold``
        and ``bursts``, the share of degenerate answers. ``accuracy`` of shape (trunks, heads):
        how often a reward model orders two fresh answers as gold does.
        ``correlation_finetune`` and ``correlation_pretrain``: mean correlation of two members
        over answers of the reference policy. ``loss``, nats a byte of the reference policy on
        validation text. ``corpus``, what the text is.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    length = check_integer(length, "length", minimum=4)
    trunks = check_integer(trunks, "trunks", minimum=2)
    heads = check_integer(heads, "heads", minimum=2)
    for members, _, _ in arms:
        check_choice(members, "arms", ("single", "finetune", "pretrain", "all"))
    where = resolve_device(device)
    corpus = data.text(source)
    shape = TransformerConfig(
        vocab_size=_TEXT + _RARE,
        context_length=length + 1,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
    )

    def pretrained(steps: int, batch: Callable[[torch.Generator], Tensor], *names: Any) -> Any:
        model = Transformer(shape, generator=named_generator(seed, "weights", *names)).to(where)
        fit(
            model,
            lambda g: (batch(g).to(where),),
            objective=lambda m, tokens: m.loss(tokens),
            steps=steps,
            lr=1e-3,
            clip=1.0,
            generator=named_generator(seed, "order", *names),
            progress=False,
        )
        return model

    def windows(g: torch.Generator) -> Tensor:
        return _text_windows(corpus.train, batch_size, length, repetitions, g)

    model = pretrained(policy_steps, windows, "policy")
    allowed = torch.arange(shape.vocab_size) != _START
    reference = TransformerPolicy(
        model, length, prompts=torch.tensor([_START]), allowed=allowed
    ).frozen_copy()
    gold = _TextGold(reference, gold_d_model, gold_layers, n_heads, seed)
    held_out = _text_windows(corpus.validation, 256, length, 0.0, named_generator(seed, "held out"))
    with torch.no_grad():
        loss = float(model.loss(held_out.to(where)))

    def answers(n: int, *names: Any) -> Tensor:
        return reference.sample(n, named_generator(seed, "answers", *names))

    stream = named_generator(seed, "labels")
    pairs = answers(2 * n_pairs, "pairs").unflatten(0, (n_pairs, 2))
    difference = gold(pairs[:, 0]) - gold(pairs[:, 1])
    logistic = torch.rand(n_pairs, generator=stream, dtype=torch.float64).logit().to(where)
    wins = (difference + logistic / 2.0 > 0)[:, None]
    chosen, rejected, _ = flip_preferences(
        torch.where(wins, pairs[:, 0], pairs[:, 1]),
        torch.where(wins, pairs[:, 1], pairs[:, 0]),
        noise,
        generator=named_generator(seed, "flips"),
    )
    unlabeled = torch.nn.functional.pad(answers(n_pairs, "unlabeled"), (1, 0), value=_START)
    grid = []
    for i in range(trunks):
        trunk = pretrained(trunk_steps, _batches(unlabeled, batch_size), "trunk", i)
        grid.append(
            [
                _TextReward.fine_tuned(
                    trunk, chosen, rejected, reward_steps, batch_size, (seed, i, j)
                )
                for j in range(heads)
            ]
        )
    members = {
        "single": [grid[0][0]],
        "finetune": grid[0],
        "pretrain": [row[0] for row in grid],
        "all": [one for row in grid for one in row],
    }
    pool = answers(pool_size, "pool")
    test = answers(2 * len(pool), "test").unflatten(0, (-1, 2))
    order = gold(test[:, 0]) > gold(test[:, 1])
    with torch.no_grad():
        right = [
            [float(((one(test[:, 0]) > one(test[:, 1])) == order).float().mean()) for one in row]
            for row in grid
        ]
    found: dict[str, list[np.ndarray]] = {}
    for name, how, beta in arms:
        reward = _text_reward(members[name], how, coefficient, pool)
        policy = TransformerPolicy(
            _copy_of(model), length, prompts=torch.tensor([_START]), allowed=allowed
        )
        search = PPO(
            policy,
            reward,
            reference=reference,
            beta=beta,
            lr=lr,
            max_norm=1.0,
            standardize=True,
            n_samples=n_samples,
            seed=named_generator(seed, "search"),
            monitors={"gold": gold, "bursts": lambda tokens: _degenerate(tokens).float()},
            monitor_every=monitor_every,
        ).fit(iterations, progress=False)
        seen = np.flatnonzero(np.isfinite(search.history_["gold"]))
        for key in ("kl", "reward", "gold", "bursts"):
            found.setdefault(key, []).append(search.history_[key][seen].astype(np.float64))
    curves = {key: np.stack(values, 1) for key, values in found.items()}
    curves["proxy"] = curves.pop("reward")
    with torch.no_grad():
        spread = {
            f"correlation_{key}": float(member_correlation(torch.stack([m(pool) for m in group])))
            for key, group in members.items()
            if key in ("finetune", "pretrain")
        }
    return {
        "step": seen,
        **curves,
        "accuracy": np.array(right),
        **spread,
        "loss": loss,
        "corpus": corpus.report(),
    }


@lru_cache(maxsize=8)
def _token_worlds(config: WorldConfig, worlds: int, seed: int, device: str) -> TokenWorlds:
    """Return worlds; the last few are kept, since it takes long to set zero and unit of gold."""
    return TokenWorlds(worlds, seed=seed, config=config, device=device)


@lru_cache(maxsize=8)
def _reward_models(
    config: WorldConfig,
    worlds: int,
    seed: int,
    device: str,
    members: tuple[tuple[int, int], ...],
    n_pairs: int,
    noise: float,
) -> RewardModels:
    """Return reward models trained on labels with noise, in units of the reference policy.

    The last few are kept, so that points with the same labels need not train them again.
    """
    token_worlds = _token_worlds(config, worlds, seed, device)
    pairs = token_worlds.preferences(n_pairs, noise=noise)
    models = RewardModels(members, seed=seed)
    models.fit(pairs.chosen, pairs.rejected, progress=False)
    return models.normalize(token_worlds.features(token_worlds.sample(_REFERENCE)))


def _arm_rewards(
    names: list[str],
    worlds: TokenWorlds,
    trunk: str,
    n_pairs: int,
    noise: float,
    members: int,
    coefficient: float,
) -> Callable[[Tensor], Tensor]:
    """Return the reward of answers (arms, worlds, N, length), arm by arm."""
    oracle = [i for i, name in enumerate(names) if name == "oracle"]
    asked: dict[tuple[int, ...], list[int]] = {}  # arms by the members that they ask
    for i, name in enumerate(names):
        if name in _AGGREGATED:
            asked.setdefault(tuple(range(members)), []).append(i)
        elif name != "oracle":
            first = int(name.removeprefix("member ")) if name.startswith("member ") else 0
            asked.setdefault((first,), []).append(i)
    seeds = tuple(independent_members(members) if trunk == "own" else shared_trunk(members))
    models = None
    if asked:
        place = (worlds.config, worlds.n_worlds, worlds.seed, str(worlds.device))
        models = _reward_models(*place, seeds, n_pairs, noise)

    def combine(name: str, scores: Tensor, features: Tensor) -> Tensor:
        if name in _AGGREGATED:
            return aggregate_rewards(scores, name, coefficient)
        if name == "patched":
            return torch.where(worlds.bursts(features) > 0, _PATCH, scores[0])
        if name == "copies":
            return aggregate_rewards(scores.expand(members, *scores.shape[1:]), "min")
        return scores[0]

    def reward(tokens: Tensor) -> Tensor:
        features = worlds.features(tokens)
        value = features.new_empty(features.shape[:-1])
        if oracle:
            value[oracle] = worlds.gold(features[oracle])
        for who, arms in asked.items():
            scores = models.score(features[arms], members=who)
            for k, i in enumerate(arms):
                value[i] = combine(names[i], scores[:, k], features[i])
        return value

    return reward


def _text_windows(
    text: Tensor, n: int, length: int, repetitions: float, generator: torch.Generator
) -> Tensor:
    """Return the start token and a window of text, a few with a repetition: (n, length + 1)."""
    config = WorldConfig(
        n_common=_TEXT, n_rare=_RARE, length=length, min_burst=length // 2, burst_probability=0.0
    )
    tokens = data.windows(text, n, length - 1, generator)
    tokens = torch.where((tokens >= _TEXT) | (tokens == _START), ord("?"), tokens)
    happens = torch.rand(n, generator=generator) < repetitions
    which = torch.randint(_RARE, (n,), generator=generator)
    places = draw_burst_places(config, (n,), generator)
    tokens = write_bursts(config, tokens, torch.where(happens, which + 1, 0), *places)
    return nn.functional.pad(tokens, (1, 0), value=_START)


def _batches(rows: Tensor, size: int) -> Callable[[torch.Generator], Tensor]:
    def draw(generator: torch.Generator) -> Tensor:
        return rows[torch.randint(len(rows), (size,), generator=generator).to(rows.device)]

    return draw


def _degenerate(tokens: Tensor) -> Tensor:
    """Tell which answers consist of foreign bytes by a quarter or more."""
    return (tokens >= _TEXT).sum(-1) * 4 >= tokens.shape[-1]


def _copy_of(model: Transformer) -> Transformer:
    copied = Transformer(model.config, generator=0).to(model.embedding.weight.device)
    copied.load_state_dict(model.state_dict())
    return copied


class _TextGold:
    """A random transformer as gold, standardized on the reference policy's ordinary answers."""

    def __init__(
        self, reference: TransformerPolicy, d_model: int, n_layers: int, n_heads: int, seed: int
    ) -> None:
        stream = named_generator(seed, "gold")
        config = TransformerConfig(
            vocab_size=_TEXT + _RARE,
            context_length=reference.length,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
        )
        where = reference.prompts.device
        self._model = Transformer(config, generator=stream).to(where).requires_grad_(False)
        self._head = torch.randn(d_model, generator=stream).to(where)
        self._mean, self._std = 0.0, 1.0
        usual = reference.sample(1024, named_generator(seed, "standardize"))
        values = self._value(usual[~_degenerate(usual)])
        self._mean, self._std = values.mean(), values.std()

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        value = self._value(tokens)
        return torch.where(_degenerate(tokens), -3.0 + 0.5 * value.tanh(), value)

    def _value(self, tokens: Tensor) -> Tensor:
        parts = [self._model.features(part).mean(1) @ self._head for part in tokens.split(4096)]
        return (torch.cat(parts) - self._mean) / self._std


class _TextReward(nn.Module):
    """A transformer with a linear head on the mean of its features."""

    def __init__(self, trunk: Transformer, stream: torch.Generator) -> None:
        super().__init__()
        self.trunk = _copy_of(trunk)
        width = trunk.config.d_model
        head = torch.randn(width, generator=stream) / math.sqrt(width)
        self.head = nn.Parameter(head.to(trunk.embedding.weight.device))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the reward of answers (N, length)."""
        return self.trunk.features(tokens).mean(1) @ self.head

    @classmethod
    def fine_tuned(
        cls,
        trunk: Transformer,
        chosen: Tensor,
        rejected: Tensor,
        steps: int,
        batch_size: int,
        place: tuple[int, int, int],
    ) -> _TextReward:
        """Return a reward model of the trunk, trained on preferences."""
        seed, i, j = place
        model = cls(trunk, named_generator(seed, "head", i, j))

        def objective(m: nn.Module, better: Tensor, worse: Tensor) -> Tensor:
            return bradley_terry_loss(m(better), m(worse), centering=1e-3)

        fit(
            model,
            (chosen, rejected),
            objective=objective,
            steps=steps,
            lr=1e-4,
            weight_decay=0.01,
            batch_size=batch_size,
            clip=1.0,
            generator=derive_seed(seed, "pairs", i, j),
            progress=False,
        )
        return model.requires_grad_(False)


def _text_reward(
    models: list[_TextReward], how: str, coefficient: float, pool: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the aggregated reward, each member in units of the reference policy."""

    @torch.no_grad()
    def scores(tokens: Tensor) -> Tensor:
        return torch.stack([model(tokens) for model in models])

    usual = scores(pool)

    def reward(tokens: Tensor) -> Tensor:
        values = normalize_rewards(scores(tokens), usual)
        return aggregate_rewards(values, how, coefficient)

    return reward
