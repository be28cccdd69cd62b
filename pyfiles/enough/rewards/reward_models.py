"""Proxy reward models: many worlds, many members, trained as one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from enough.models import MLP
from enough.rewards.pair_training import train_on_pairs
from enough.rewards.worlds import fold_leading
from enough.runtime import chunks, named_generator
from enough.runtime.validation import check_integer, check_number, check_tensor
from enough.training import Ensemble
from enough.training.chunk_training import order_generator

__all__ = ["RewardModels", "independent_members", "member_correlation", "shared_trunk"]

_SLICE_BYTES = 16 * 2**20  # activations of one slice of answers, near the cache


def independent_members(n: int) -> list[tuple[int, int]]:
    """Give every member a trunk and a head of its own: an ensemble of pretraining seeds.

    Parameters
    ----------
    n : int
        Number of members.

    Returns
    -------
    list of (int, int)
        Seed of the trunk and seed of the head: (0, 0), (1, 1), ...

    Raises
    ------
    ValueError
        If ``n`` is not a positive whole number.
    """
    return [(i, i) for i in range(check_integer(n, "n", minimum=1))]


def shared_trunk(n: int, trunk: int = 0) -> list[tuple[int, int]]:
    """Start all members from one trunk, with heads of their own: fine-tuning seeds.

    Parameters
    ----------
    n : int
        Number of members.
    trunk : int, default 0
        Seed of the trunk.

    Returns
    -------
    list of (int, int)
        Seed of the trunk and seed of the head: (trunk, 0), (trunk, 1), ...

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    trunk = check_integer(trunk, "trunk", minimum=0)
    return [(trunk, i) for i in range(check_integer(n, "n", minimum=1))]


class RewardModels:
    r"""Ensembles of reward models, an ensemble a world, all trained as one batch.

    Each member is a multilayer perceptron on the features of an answer, trained on
    preferences with the centered Bradley-Terry loss. The first layer starts with weights of
    standard deviation ``input_std``, like an embedding: what a token says is random until
    the data speaks about it.

    Parameters
    ----------
    members : int or sequence of (int, int), default 5
        Number of independent members M, or the seeds of trunk and head of each member.
        Members with one trunk seed start with equal layers below the last; the last layer
        and the order of the data differ (see `independent_members`, `shared_trunk`).
    seed : int, default 0
        Global seed.
    widths : tuple of int, default (64, 64)
        Hidden widths.
    input_std : float, default 1.0
        Standard deviation of the weights of the first layer, above 0.
    centering : float, default 1e-3
        Weight of the centering term of `bradley_terry_loss`.
    steps : int, default 400
        Updates.
    batch_size : int, default 64
        Pairs an update, at most all of them.
    lr : float, default 2e-3
        Learning rate of AdamW.
    weight_decay : float, default 0.01
        Weight decay of AdamW.
    device : str or torch.device, optional
        Where to train. Default: where the data is.

    Attributes
    ----------
    ensemble_ : Ensemble
        The M · W models; member m of world w is number m · W + w.
    mean_ : torch.Tensor, shape (M, W)
        After `normalize`: mean of the raw scores on the reference answers.
    std_ : torch.Tensor, shape (M, W)
        After `normalize`: their standard deviation.

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    Streams are named: the trunk of a member follows from ``seed``, its trunk seed and its
    world alone, the head likewise; the order of the data from ``seed`` and the member's
    number in the ensemble. So two fits with one seed and as many worlds are paired, whatever
    the labels, and more members leave the first ones as they were.

    References
    ----------
    .. [1] Coste et al. (2023), "Reward model ensembles help mitigate overoptimization",
       arXiv:2310.02743.
    .. [2] Eisenstein et al. (2023), "Helping or herding? Reward model ensembles mitigate but
       do not eliminate reward hacking", arXiv:2312.09244.

    Examples
    --------
    >>> from enough.rewards import RewardModels, TokenWorlds
    >>> worlds = TokenWorlds(2, seed=0)
    >>> pairs = worlds.preferences(100)
    >>> models = RewardModels(3, steps=10).fit(pairs.chosen, pairs.rejected)
    >>> pool = worlds.features(worlds.sample(50))
    >>> models.normalize(pool).score(pool).shape
    torch.Size([3, 2, 50])
    """

    def __init__(
        self,
        members: int | Sequence[tuple[int, int]] = 5,
        *,
        seed: int = 0,
        widths: tuple[int, ...] = (64, 64),
        input_std: float = 1.0,
        centering: float = 1e-3,
        steps: int = 400,
        batch_size: int = 64,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        device: str | torch.device | None = None,
    ) -> None:
        if not isinstance(members, Sequence):
            members = independent_members(check_integer(members, "members", minimum=1))
        if not members or any(len(pair) != 2 for pair in members):
            raise ValueError(
                f"members: expected a number or pairs of seeds (trunk, head), got {members!r}"
            )
        self.members = [
            tuple(check_integer(part, f"members[{m}]", minimum=0) for part in pair)
            for m, pair in enumerate(members)
        ]
        self.seed = check_integer(seed, "seed", minimum=0)
        self.widths = tuple(check_integer(width, "widths", minimum=1) for width in widths)
        self.input_std = check_number(input_std, "input_std", above=0.0)
        self.centering = check_number(centering, "centering", minimum=0.0)
        self.steps = check_integer(steps, "steps", minimum=1)
        self.batch_size = check_integer(batch_size, "batch_size", minimum=1)
        self.lr = check_number(lr, "lr", above=0.0)
        self.weight_decay = check_number(weight_decay, "weight_decay", minimum=0.0)
        self.device = device

    def fit(self, chosen: Tensor, rejected: Tensor, *, progress: bool = True) -> RewardModels:
        """Train all members of all worlds.

        Parameters
        ----------
        chosen : torch.Tensor, shape (W, P, F)
            Features of the preferred answers, P pairs a world.
        rejected : torch.Tensor, shape (W, P, F)
            Features of the others.
        progress : bool, default True
            Show a progress bar where a person watches.

        Returns
        -------
        RewardModels
            This object.

        Raises
        ------
        ValueError
            If the shapes are wrong or there are fewer pairs than ``batch_size``.
        """
        check_tensor(chosen, "chosen", ndim=3, floating=True)
        check_tensor(rejected, "rejected", shape=chosen.shape, floating=True)
        n_worlds, n_pairs, n_features = chosen.shape
        if self.batch_size > n_pairs:
            raise ValueError(
                f"batch_size: expected at most the {n_pairs} pairs a world, got {self.batch_size}"
            )
        models = iter(
            [self._build(w, *pair, n_features) for pair in self.members for w in range(n_worlds)]
        )
        self.ensemble_ = Ensemble(
            lambda generator: next(models),
            len(self.members) * n_worlds,
            self.seed,
            mode="stacked",
            device=chosen.device if self.device is None else self.device,
        )
        device, dtype = self.ensemble_.device, self.ensemble_.dtype
        self._state = self.ensemble_.state_dict()
        train_on_pairs(
            self._state,
            torch.stack([chosen, rejected], 2).to(device, dtype),
            [order_generator(self.seed, member) for member in range(self.ensemble_.size)],
            steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            centering=self.centering,
            progress=progress,
        )
        self.ensemble_.load_state_dict(self._state)
        self._n_worlds = n_worlds
        self._module = self.ensemble_.member(0)
        self.mean_ = self.std_ = None
        return self

    def predict(self, features: Tensor, *, members: Sequence[int] | None = None) -> Tensor:
        """Compute raw rewards.

        Parameters
        ----------
        features : torch.Tensor, shape (..., W, N, F)
            Answers of every world.
        members : sequence of int, optional
            Which members to ask, by number. Default: all M.

        Returns
        -------
        torch.Tensor, shape (M, ..., W, N)
            Rewards, on a scale and with a zero that differ from member to member.

        Raises
        ------
        ValueError
            If the models are not fitted, the shape is another, or there is no such member.
        """
        if not hasattr(self, "ensemble_"):
            raise ValueError("RewardModels: expected a call of fit() before, got none")
        check_tensor(features, "features", floating=True)
        shape, n_features = tuple(features.shape), self._module.widths[0]
        if len(shape) < 3 or (shape[-3], shape[-1]) != (self._n_worlds, n_features):
            raise ValueError(
                f"features: expected shape (..., {self._n_worlds}, N, {n_features}), got {shape}"
            )
        state, asked = self._state, self._asked(members)
        if members is not None:
            rows = [m * self._n_worlds + w for m in asked for w in range(self._n_worlds)]
            state = {name: value[rows] for name, value in state.items()}
        answers, unfold = fold_leading(features.to(self.ensemble_.device, self.ensemble_.dtype))
        each = 4.0 * 3 * len(asked) * self._n_worlds * max(self.widths, default=1)
        parts = []
        with torch.no_grad():
            for part in chunks(answers.shape[1], each, _SLICE_BYTES):
                rows = answers[:, part].repeat(len(asked), 1, 1)
                parts.append(self._module.stacked_forward(state, {}, rows).squeeze(-1))
        rewards = torch.cat(parts, 1).to(features.device)
        return unfold(rewards.unflatten(0, (len(asked), self._n_worlds)))

    def normalize(self, reference: Tensor) -> RewardModels:
        """Set zero and unit of every member from answers of the reference policy.

        Parameters
        ----------
        reference : torch.Tensor, shape (W, N, F)
            At least two answers a world.

        Returns
        -------
        RewardModels
            This object; from here on `score` has mean 0 and standard deviation 1 (ddof 0) on
            these answers, member by member.

        Raises
        ------
        ValueError
            If the models are not fitted, the shape is another, or a member gives all answers
            one reward.
        """
        self._set_normalization(self.predict(reference))
        return self

    def score(self, features: Tensor, *, members: Sequence[int] | None = None) -> Tensor:
        """Compute rewards in units of the reference policy.

        Parameters
        ----------
        features : torch.Tensor, shape (..., W, N, F)
            Answers of every world.
        members : sequence of int, optional
            Which members to ask, by number. Default: all M.

        Returns
        -------
        torch.Tensor, shape (M, ..., W, N)
            Normalized rewards.

        Raises
        ------
        ValueError
            If `normalize` was not called, the shape is another, or there is no such member.
        """
        rewards = self.predict(features, members=members)
        if self.mean_ is None:
            raise ValueError("RewardModels: expected a call of normalize() before score()")
        return self._in_units(rewards, members)

    def normalize_score(self, reference: Tensor) -> Tensor:
        """Do `normalize` and `score` on the same answers, with one pass over them.

        Parameters
        ----------
        reference : torch.Tensor, shape (W, N, F)
            Answers of the reference policy, such as the pool of best-of-n.

        Returns
        -------
        torch.Tensor, shape (M, W, N)
            Normalized rewards.

        Raises
        ------
        ValueError
            As in `normalize`.
        """
        rewards = self.predict(reference)
        self._set_normalization(rewards)
        return self._in_units(rewards)

    def _asked(self, members: Sequence[int] | None) -> list[int]:
        last = len(self.members) - 1
        if members is None:
            return list(range(last + 1))
        asked = [check_integer(m, "members", minimum=0, maximum=last) for m in members]
        if not asked:
            raise ValueError("members: expected at least one member, got none")
        return asked

    def _in_units(self, rewards: Tensor, members: Sequence[int] | None = None) -> Tensor:
        shape = (-1, *[1] * (rewards.ndim - 3), self._n_worlds, 1)
        asked = self._asked(members)
        return (rewards - self.mean_[asked].view(shape)) / self.std_[asked].view(shape)

    def _set_normalization(self, rewards: Tensor) -> None:
        if rewards.ndim > 3 or rewards.shape[-1] < 2:
            raise ValueError(
                f"reference: expected shape ({self._n_worlds}, N, F) with N >= 2, got "
                f"{rewards.shape[-1]} answers and {rewards.ndim} dimensions"
            )
        std = rewards.std(-1, correction=0)
        if not bool((std > 0).all()):
            raise ValueError("reference: expected answers that every member tells apart")
        self.mean_, self.std_ = rewards.mean(-1), std

    def _build(self, world: int, trunk: int, head: int, n_features: int) -> nn.Module:
        widths = [n_features, *self.widths, 1]
        gains = [self.input_std * math.sqrt(n_features), *[math.sqrt(2.0)] * len(self.widths)]
        model = MLP(
            widths, gains=gains, generator=named_generator(self.seed, "trunk", world, trunk)
        )
        if self.widths:
            last = MLP(
                [self.widths[-1], 1],
                gains=gains[-1:],
                generator=named_generator(self.seed, "head", world, head),
            )
            model.layers[-1].load_state_dict(last.layers[0].state_dict())
        return model


def member_correlation(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute how far members agree: the mean correlation of two different members.

    Parameters
    ----------
    scores : torch.Tensor, shape (M, ..., N)
        Scores of M >= 2 members on N answers.
    mask : torch.Tensor of bool, shape (..., N), optional
        Which answers count.

    Returns
    -------
    torch.Tensor, shape (...)
        Mean of Pearson's correlation over the pairs of members; NaN where fewer than two
        answers count or a member gives all of them one score.

    Raises
    ------
    ValueError
        If shapes do not fit or there is one member.
    """
    check_tensor(scores, "scores", floating=True)
    if scores.ndim < 2 or scores.shape[0] < 2:
        raise ValueError(
            f"scores: expected shape (M, ..., N) with M >= 2, got {tuple(scores.shape)}"
        )
    scores = scores.double()
    weight = torch.ones_like(scores[0])
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != scores.shape[1:]:
            raise ValueError(
                f"mask: expected bool of shape {tuple(scores.shape[1:])}, got {mask.dtype} of "
                f"shape {tuple(mask.shape)}"
            )
        weight = mask.double()
    mean = (scores * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    centered = (scores - mean) * weight
    unit = centered / centered.square().sum(-1, keepdim=True).sqrt()
    members = scores.shape[0]
    total = unit.sum(0).square().sum(-1)  # sum of all M² correlations, M of them 1
    return (total - members) / (members * (members - 1))
