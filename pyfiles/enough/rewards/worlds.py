"""Token worlds with a known gold reward: one that only plateaus, and one with an exploit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from enough.models import MLP
from enough.rewards.preferences import flip_preferences
from enough.runtime import chunks, named_generator, resolve_device
from enough.runtime.validation import check_choice, check_integer, check_number, check_tensor

__all__ = [
    "BURST_WORLD",
    "HERDING_WORLD",
    "NAIVE_WORLD",
    "PreferencePairs",
    "TokenWorlds",
    "WorldConfig",
    "draw_burst_places",
    "fold_leading",
    "token_counts",
    "write_bursts",
]

_STANDARDIZE = 8192  # answers that set the zero and the unit of the gold reward
_SLICE_BYTES = 3 * 2**20  # activations of one slice of answers, in the cache


@dataclass(frozen=True)
class WorldConfig:
    """What a token world is made of.

    An answer is a sequence of tokens. The reference policy draws common tokens, independent
    and uniform; with a small probability it falls into a degenerate burst: one rare token,
    repeated ``min_burst`` to ``length`` times in a row, at any place, the rest common.

    Parameters
    ----------
    n_common : int, default 16
        Common tokens, numbered from 0.
    n_rare : int, default 16
        Rare tokens, numbered after the common ones.
    length : int, default 16
        Tokens in an answer.
    burst_probability : float, default 0.01
        Probability of a burst under the reference policy; 0 without rare tokens.
    min_burst : int, default 8
        Shortest burst. Its length is uniform from here to ``length``.
    features : {"counts", "one_hot"}, default "counts"
        What gold and proxies read: how often each token occurs, or which token stands where.
    gold_widths : tuple of int, default (256, 256, 256)
        Hidden widths of the gold network.
    burst_gold : float, default -3.0
        Gold of a burst, in standard deviations of the gold of ordinary answers.
    burst_spread : float, default 0.5
        Half-range of the gold of bursts: ``burst_gold + burst_spread * tanh(network)``.
    mislabeled : int, default 0
        The annotator takes bursts of the first so many rare tokens for excellent.
    mislabeled_reward : float, default 3.0
        What the annotator sees there in place of ``burst_gold``.
    annotator_bonus : float, default 0.0
        What the annotator adds for every token 0.

    Raises
    ------
    ValueError
        If a number or an option is not as described.
    """

    n_common: int = 16
    n_rare: int = 16
    length: int = 16
    burst_probability: float = 0.01
    min_burst: int = 8
    features: str = "counts"
    gold_widths: tuple[int, ...] = (256, 256, 256)
    burst_gold: float = -3.0
    burst_spread: float = 0.5
    mislabeled: int = 0
    mislabeled_reward: float = 3.0
    annotator_bonus: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        check_integer(self.n_common, "n_common", minimum=1)
        check_integer(self.n_rare, "n_rare", minimum=0)
        check_integer(self.length, "length", minimum=1)
        top = 1.0 if self.n_rare else 0.0
        check_number(self.burst_probability, "burst_probability", minimum=0.0, maximum=top)
        check_integer(self.min_burst, "min_burst", minimum=1, maximum=self.length)
        check_choice(self.features, "features", ("counts", "one_hot"))
        for width in self.gold_widths:
            check_integer(width, "gold_widths", minimum=1)
        check_number(self.burst_gold, "burst_gold")
        check_number(self.burst_spread, "burst_spread", minimum=0.0)
        check_integer(self.mislabeled, "mislabeled", minimum=0, maximum=self.n_rare)
        check_number(self.mislabeled_reward, "mislabeled_reward")
        check_number(self.annotator_bonus, "annotator_bonus")

    @property
    def vocab_size(self) -> int:
        """Common and rare tokens together."""
        return self.n_common + self.n_rare

    @property
    def n_features(self) -> int:
        """Length of the features of an answer."""
        return self.vocab_size * (1 if self.features == "counts" else self.length)


NAIVE_WORLD = WorldConfig(
    n_common=8,
    n_rare=0,
    length=12,
    burst_probability=0.0,
    features="one_hot",
    gold_widths=(256, 256),
)
"""Uniform tokens and no exploit: proxies here stop helping, they do not hurt."""

BURST_WORLD = WorldConfig()
"""One answer in a hundred is a degenerate burst, and gold punishes it."""

HERDING_WORLD = WorldConfig(mislabeled=2)
"""The annotator takes bursts of two of the rare tokens for excellent."""


@dataclass(frozen=True)
class PreferencePairs:
    """Comparisons of two answers, a set a world.

    Parameters
    ----------
    chosen : torch.Tensor, shape (W, P, F)
        Features of the answers that the labels prefer.
    rejected : torch.Tensor, shape (W, P, F)
        Features of the others.
    flipped : torch.Tensor of bool, shape (W, P)
        Which labels the noise turned around.
    """

    chosen: Tensor
    rejected: Tensor
    flipped: Tensor


class TokenWorlds:
    """Several worlds of one kind, each with a gold reward of its own, computed as one batch.

    Parameters
    ----------
    n_worlds : int
        Number of worlds W.
    seed : int, default 0
        Global seed. World w is the same whatever the number of worlds.
    config : WorldConfig, default BURST_WORLD
        The kind of world.
    device : str or torch.device, default "cpu"
        Where gold is computed and tensors live. All draws are made on the CPU.

    Attributes
    ----------
    config : WorldConfig
        As given.
    device : torch.device
        As given.
    n_worlds : int
        As given.
    seed : int
        As given.

    Raises
    ------
    ValueError
        If an argument is out of range or the device is absent.

    Notes
    -----
    The gold reward of an ordinary answer is a random ReLU network, shifted and scaled to mean
    0 and standard deviation 1 over ordinary answers. That gold punishes bursts is part of the
    design; that proxies fall for them is not: they see preferences alone.

    World, answers, labels and noise draw from streams with different names, so that variants
    of a world (other noise, other annotator, more pairs) share everything else.

    Examples
    --------
    >>> from enough.rewards import TokenWorlds
    >>> worlds = TokenWorlds(2, seed=0)
    >>> features = worlds.features(worlds.sample(5))
    >>> worlds.gold(features).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        n_worlds: int,
        seed: int = 0,
        config: WorldConfig = BURST_WORLD,
        *,
        device: str | torch.device = "cpu",
    ) -> None:
        self.n_worlds = check_integer(n_worlds, "n_worlds", minimum=1)
        self.seed = check_integer(seed, "seed", minimum=0)
        self.config = config
        self.device = resolve_device(device)
        widths = [config.n_features, *config.gold_widths, 1]
        self._nets = [MLP(widths, generator=g).to(self.device) for g in self._generators("world")]
        usual = self._network(self.features(self._common(_STANDARDIZE, "standardize")))
        self._mean = usual.mean(1, keepdim=True)
        self._std = usual.std(1, keepdim=True)

    def sample(self, n: int, stream: str = "pool") -> Tensor:
        """Draw answers from the reference policy.

        Parameters
        ----------
        n : int
            Answers a world.
        stream : str, default "pool"
            Name of the stream of draws. The same name gives the same answers.

        Returns
        -------
        torch.Tensor of int64, shape (W, n, length)
            Tokens.

        Raises
        ------
        ValueError
            If ``n`` is not a positive whole number.
        """
        n, config = check_integer(n, "n", minimum=1), self.config
        tokens = self._common(n, stream)
        if config.burst_probability == 0.0:
            return tokens
        probability = torch.tensor(config.burst_probability, dtype=torch.float64)
        rare = []
        for g in self._generators(stream, "bursts"):
            happens = torch.rand(n, generator=g, dtype=torch.float64) < probability
            which = torch.randint(config.n_rare, (n,), generator=g)
            mode = torch.where(happens, which + 1, 0)
            rare.append((mode, *draw_burst_places(config, (n,), g)))
        mode, size, start = (torch.stack(part).to(self.device) for part in zip(*rare, strict=True))
        return write_bursts(config, tokens, mode, size, start)

    def features(self, tokens: Tensor) -> Tensor:
        """Compute what gold and proxies read.

        Parameters
        ----------
        tokens : torch.Tensor of int, shape (..., length)
            Answers.

        Returns
        -------
        torch.Tensor of float32, shape (..., n_features)
            Counts of the tokens, or their one-hot vectors one after the other.

        Raises
        ------
        ValueError
            If the answers have another length, or a token is outside the vocabulary.
        """
        config = self.config
        if tokens.is_floating_point() or tokens.ndim == 0 or tokens.shape[-1] != config.length:
            raise ValueError(
                f"tokens: expected whole numbers of shape (..., {config.length}), got "
                f"{tokens.dtype} of shape {tuple(tokens.shape)}"
            )
        check_tensor(tokens, "tokens", minimum=0, maximum=config.vocab_size - 1)
        if config.features == "one_hot":
            return F.one_hot(tokens.long(), config.vocab_size).flatten(-2).float()
        return token_counts(tokens, config.vocab_size)

    def bursts(self, features: Tensor) -> Tensor:
        """Tell which answers are bursts, and of which token.

        Parameters
        ----------
        features : torch.Tensor, shape (..., n_features)
            As `features` returns them.

        Returns
        -------
        torch.Tensor of int64, shape (...)
            0 for an ordinary answer, else 1 plus the number of the rare token.
        """
        config = self.config
        if config.features == "one_hot":
            features = features.unflatten(-1, (config.length, config.vocab_size)).sum(-2)
        if config.n_rare == 0:
            return torch.zeros(features.shape[:-1], dtype=torch.int64, device=features.device)
        most, which = features[..., config.n_common :].max(-1)
        return torch.where(most >= config.min_burst, which + 1, 0)

    def gold(self, features: Tensor) -> Tensor:
        """Compute the gold reward.

        Parameters
        ----------
        features : torch.Tensor, shape (..., W, N, n_features)
            Answers of every world.

        Returns
        -------
        torch.Tensor, shape (..., W, N)
            In standard deviations of the gold of ordinary answers.

        Raises
        ------
        ValueError
            If the shape is another.
        """
        check_tensor(features, "features", floating=True)
        shape = tuple(features.shape)
        if len(shape) < 3 or (shape[-3], shape[-1]) != (self.n_worlds, self.config.n_features):
            raise ValueError(
                f"features: expected shape (..., {self.n_worlds}, N, {self.config.n_features}), "
                f"got {shape}"
            )
        rows, unfold = fold_leading(features)
        value = unfold((self._network(rows) - self._mean) / self._std)
        config = self.config
        burst = config.burst_gold + config.burst_spread * value.tanh()
        return torch.where(self.bursts(features) > 0, burst, value)

    def annotate(self, features: Tensor) -> Tensor:
        """Compute the reward that the annotator sees: gold, and the annotator's errors.

        Parameters
        ----------
        features : torch.Tensor, shape (..., W, N, n_features)
            Answers of every world.

        Returns
        -------
        torch.Tensor, shape (..., W, N)
            Equal to gold but for mislabeled bursts and the bonus.

        Raises
        ------
        ValueError
            If the shape is another.
        """
        config, value, mode = self.config, self.gold(features), self.bursts(features)
        if config.mislabeled:
            wrong = (mode > 0) & (mode <= config.mislabeled)
            error = config.mislabeled_reward - config.burst_gold
            value = torch.where(wrong, value + error, value)
        if config.annotator_bonus:
            if config.features == "one_hot":
                zeros = features[..., :: config.vocab_size].sum(-1)
            else:
                zeros = features[..., 0]
            value = value + config.annotator_bonus * zeros
        return value

    def preferences(
        self, n_pairs: int, *, noise: float = 0.0, scale: float = 2.0, stream: str = "pairs"
    ) -> PreferencePairs:
        r"""Draw pairs of answers from the reference policy and label them.

        Parameters
        ----------
        n_pairs : int
            Pairs a world P.
        noise : float, default 0.0
            Fraction of the labels that are turned around: exactly ``round(noise * n_pairs)``
            in every world, the same pairs for the same seed, and more of them for more noise.
        scale : float, default 2.0
            The annotator prefers a to b with probability
            :math:`\sigma(\mathrm{scale}\,(r_a - r_b))`; infinity gives the better one always.
        stream : str, default "pairs"
            Name of the streams of draws.

        Returns
        -------
        PreferencePairs
            Features of the chosen and the rejected answers.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        n_pairs = check_integer(n_pairs, "n_pairs", minimum=1)
        scale = check_number(scale, "scale", above=0.0, finite=False)
        features = self.features(self.sample(2 * n_pairs, stream))
        reward = self.annotate(features).view(self.n_worlds, n_pairs, 2)
        first, second = features.view(self.n_worlds, n_pairs, 2, -1).unbind(2)
        # Logistic noise on the difference makes the preference a Bradley-Terry draw.
        logistic = self._draw(
            lambda g: torch.rand(n_pairs, generator=g, dtype=torch.float64).logit().float(),
            stream,
            "labels",
        )
        difference = reward[..., 0] - reward[..., 1]
        wins = (difference + logistic / scale > 0).unsqueeze(-1)
        chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
        worlds = [
            flip_preferences(c, r, noise, generator=g)
            for c, r, g in zip(chosen, rejected, self._generators(stream, "flips"), strict=True)
        ]
        return PreferencePairs(*(torch.stack(part) for part in zip(*worlds, strict=True)))

    def _generators(self, *names: str) -> list[torch.Generator]:
        return [named_generator(self.seed, *names, w) for w in range(self.n_worlds)]

    def _draw(self, draw: Callable[[torch.Generator], Tensor], *names: str) -> Tensor:
        return torch.stack([draw(g) for g in self._generators(*names)]).to(self.device)

    def _common(self, n: int, stream: str) -> Tensor:
        shape = (n, self.config.length)
        return self._draw(
            lambda g: torch.randint(self.config.n_common, shape, generator=g), stream, "tokens"
        )

    @torch.no_grad()
    def _network(self, features: Tensor) -> Tensor:
        # One world after the other: its weights and activations stay in the cache.
        each = 4.0 * 3 * max(self.config.gold_widths, default=1)
        parts = list(chunks(features.shape[1], each, _SLICE_BYTES))
        worlds = zip(self._nets, features, strict=True)
        rewards = [torch.cat([net(rows[part]) for part in parts]) for net, rows in worlds]
        return torch.stack(rewards).squeeze(-1)


def token_counts(tokens: Tensor, vocab_size: int) -> Tensor:
    """Count how often each token occurs in each answer.

    Parameters
    ----------
    tokens : torch.Tensor of int, shape (..., length)
        Answers.
    vocab_size : int
        Number of tokens V.

    Returns
    -------
    torch.Tensor of float32, shape (..., V)
        The counts.
    """
    counts = torch.zeros(*tokens.shape[:-1], vocab_size, device=tokens.device)
    return counts.scatter_add_(-1, tokens.long(), torch.ones_like(tokens, dtype=counts.dtype))


def fold_leading(features: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Move leading dimensions of (..., W, N, F) into N.

    Parameters
    ----------
    features : torch.Tensor, shape (..., W, N, F)
        Answers of every world, perhaps several sets.

    Returns
    -------
    rows : torch.Tensor, shape (W, sets * N, F)
        The same answers.
    unfold : callable
        Maps (..., W, sets * N) back to (..., W, N) with the leading dimensions before W.
    """
    *lead, worlds, n, _ = features.shape
    sets = math.prod(lead)
    rows = features.reshape(sets, worlds, n, -1).transpose(0, 1).flatten(1, 2)

    def unfold(values: Tensor) -> Tensor:
        values = values.unflatten(-1, (sets, n)).movedim(-2, -3)
        return values.reshape(*values.shape[:-3], *lead, worlds, n)

    return rows, unfold


def draw_burst_places(
    config: WorldConfig, shape: tuple[int, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw lengths and first places of bursts, both uniform.

    Parameters
    ----------
    config : WorldConfig
        The world.
    shape : tuple of int
        How many.
    generator : torch.Generator
        Source of the draws.

    Returns
    -------
    size : torch.Tensor of int64
        From ``min_burst`` to ``length``.
    start : torch.Tensor of int64
        From 0 to ``length - size``.
    """
    where = generator.device
    size = torch.randint(
        config.min_burst, config.length + 1, shape, generator=generator, device=where
    )
    uniform = torch.rand(shape, generator=generator, device=where, dtype=torch.float64)
    return size, (uniform * (config.length - size + 1)).long()


def write_bursts(
    config: WorldConfig, tokens: Tensor, mode: Tensor, size: Tensor, start: Tensor
) -> Tensor:
    """Overwrite parts of common answers with bursts.

    Parameters
    ----------
    config : WorldConfig
        The world.
    tokens : torch.Tensor of int64, shape (..., length)
        Common tokens.
    mode : torch.Tensor of int64, shape (...)
        0 leaves the answer alone, r writes rare token r - 1.
    size, start : torch.Tensor of int64, shape (...)
        Length and first place of the burst.

    Returns
    -------
    torch.Tensor of int64, shape (..., length)
        The answers.
    """
    place = torch.arange(config.length, device=tokens.device)
    begin = start.unsqueeze(-1)
    inside = (place >= begin) & (place < begin + size.unsqueeze(-1))
    inside &= (mode > 0).unsqueeze(-1)
    return torch.where(inside, (config.n_common - 1 + mode).unsqueeze(-1), tokens)
