"""Policy optimization on samples: REINFORCE and PPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from enough.rewards.policy_gradient import (
    clipped_squares,
    clipped_surrogate,
    generalized_advantage,
    leave_one_out,
)
from enough.runtime import progress as progress_bar
from enough.runtime.randomness import as_generator
from enough.runtime.validation import check_integer, check_number, check_tensor

__all__ = ["PPO", "REINFORCE"]

_KL_GAIN, _KL_CLIP = 0.1, 0.2  # the proportional controller of Ziegler et al. (2019)


class _PolicySearch:
    """What REINFORCE and PPO share: sampling, rewards, advantages, records."""

    def __init__(
        self,
        policy: nn.Module,
        reward: Callable[[Tensor], Tensor],
        *,
        reference: nn.Module | None,
        beta: float | Tensor,
        n_samples: int,
        seed: torch.Generator | int | None,
        monitors: Mapping[str, Callable[[Tensor], Tensor]] | None,
        monitor_every: int,
    ) -> None:
        for name in ("sample", "evaluate"):
            if not callable(getattr(policy, name, None)):
                raise ValueError(
                    "policy: expected sample(n, generator) and evaluate(actions, reference), "
                    f"{type(policy).__name__} has no {name}"
                )
        if not callable(reward):
            raise ValueError(f"reward: expected a function of actions, got {reward!r}")
        self.policy, self.reward, self.reference = policy, reward, reference
        self.n_samples = check_integer(n_samples, "n_samples", minimum=2)
        self._lanes = tuple(policy.lanes)
        beta = torch.as_tensor(beta, dtype=torch.get_default_dtype())
        check_tensor(beta, "beta", minimum=0.0)
        try:
            self.beta = beta.expand(self._lanes)
        except RuntimeError as error:
            raise ValueError(
                f"beta: expected a number or an array that fits lanes {self._lanes}, got shape "
                f"{tuple(beta.shape)}"
            ) from error
        if reference is None and bool((beta > 0).any()):
            raise ValueError("reference: expected a policy where beta is above 0, got None")
        self.generator = as_generator(seed)
        self.monitors = dict(monitors or {})
        self.monitor_every = check_integer(monitor_every, "monitor_every", minimum=1)
        self._records: list[dict[str, Any]] = []

    def _fit(self, iterations: int, progress: bool, label: str) -> None:
        iterations = check_integer(iterations, "iterations", minimum=1)
        bar = progress_bar(range(iterations), iterations, label) if progress else range(iterations)
        for i in bar:
            self._watching = i == iterations - 1 or len(self._records) % self.monitor_every == 0
            self._records.append(self._iterate())
        self.history_ = {
            name: np.stack([record[name] for record in self._records]) for name in self._records[0]
        }

    def _iterate(self) -> dict[str, Any]:
        raise NotImplementedError

    def _collect(self) -> tuple[Tensor, Tensor]:
        """Sample answers and score them."""
        actions = self.policy.sample(self.n_samples, self.generator)
        with torch.no_grad():
            rewards = self.reward(actions)
        shape = (*self._lanes, self.n_samples)
        if not isinstance(rewards, Tensor) or rewards.shape != shape:
            came = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
            raise ValueError(f"reward: expected one number an answer, shape {shape}, got {came}")
        return actions, check_tensor(rewards, "reward", floating=True)

    def _token_rewards(self, rewards: Tensor, kl: Tensor | None, mask: Tensor) -> Tensor:
        """Spread rewards over tokens: the reward at the last, each divergence a step early.

        The divergence at a place depends on the tokens before it, so the token before pays
        for it. The dependence on the parameters at the place itself enters the loss directly.
        """
        last = mask & ~torch.nn.functional.pad(mask[..., 1:], (0, 1))
        spread = torch.where(last, rewards.unsqueeze(-1), 0.0)
        if kl is not None:
            beta = self.beta.to(kl).view(*self._lanes, 1, 1)
            spread[..., :-1] -= beta * kl[..., 1:]
        return spread

    def _reduce(self, lanes: Tensor) -> Tensor:
        """Sum over lanes with parameters of their own; mean over prompts of one policy."""
        return lanes.sum() if self.policy.independent_lanes else lanes.mean()

    def _penalty(self, kl: Tensor | None) -> Tensor | float:
        """β times the divergence, reduced like the loss."""
        return 0.0 if kl is None else self._reduce(self.beta.to(kl) * self._per_lane(kl))

    def _per_lane(self, values: Tensor) -> Tensor:
        """Sum over tokens and average over answers, where there are any."""
        return values.sum(-1).mean(-1) if self.policy.per_token else values

    def _record(self, actions: Tensor, rewards: Tensor, kl: Tensor | None) -> dict[str, Any]:
        record: dict[str, Any] = {"reward": rewards.mean(-1), "beta": self.beta}
        if kl is not None:
            record["kl"] = self._per_lane(kl)
        with torch.no_grad():
            for name, monitor in self.monitors.items():
                unseen = torch.full(self._lanes, torch.nan)
                record[name] = monitor(actions).mean(-1) if self._watching else unseen
        return {name: value.detach().cpu().numpy() for name, value in record.items()}


class REINFORCE(_PolicySearch):
    """Policy gradient with the leave-one-out baseline and an exact penalty on the divergence.

    Each iteration samples answers, and takes one step of Adam on an unbiased estimate of the
    gradient of E[reward] − β KL(π‖π₀).

    Parameters
    ----------
    policy : TabularPolicy, BurstPolicy, TransformerPolicy or alike
        The policy π, trained in place. It offers ``lanes``, ``per_token``,
        ``independent_lanes``, ``sample(n, generator)``, ``evaluate(actions, reference)``, and
        ``mask(actions)`` when it is per token.
    reward : callable
        Maps actions to rewards of shape (lanes..., N).
    reference : policy, optional
        The reference π₀. Without it there is no divergence.
    beta : float or torch.Tensor, default 0.0
        Coefficient β of the penalty, one or one a lane.
    lr : float, default 0.05
        Learning rate of Adam.
    n_samples : int, default 256
        Answers a lane and iteration, two or more.
    seed : torch.Generator or int, optional
        Source of the draws.
    monitors : mapping from str to callable, optional
        Functions like ``reward`` that are recorded, not optimized: the gold reward.
    monitor_every : int, default 1
        Iterations from one call of the monitors to the next; NaN is recorded in between. The
        last iteration of a `fit` always has one.

    Attributes
    ----------
    history_ : dict from str to numpy.ndarray
        Records of every iteration, shape (iterations, lanes...): "reward" and the monitors
        (means over the samples), "kl" (of the policy that sampled), "beta".

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    Lanes with parameters of their own do not mix: their losses are summed, and Adam works
    number by number.

    References
    ----------
    .. [1] Williams (1992), "Simple statistical gradient-following algorithms for connectionist
       reinforcement learning".
    .. [2] Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
       free!".
    """

    def __init__(
        self,
        policy: nn.Module,
        reward: Callable[[Tensor], Tensor],
        *,
        reference: nn.Module | None = None,
        beta: float | Tensor = 0.0,
        lr: float = 0.05,
        n_samples: int = 256,
        seed: torch.Generator | int | None = None,
        monitors: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        monitor_every: int = 1,
    ) -> None:
        super().__init__(
            policy,
            reward,
            reference=reference,
            beta=beta,
            n_samples=n_samples,
            seed=seed,
            monitors=monitors,
            monitor_every=monitor_every,
        )
        self.lr = check_number(lr, "lr", above=0.0)
        self._optimizer = torch.optim.Adam(policy.parameters(), lr=self.lr)

    def fit(self, iterations: int, *, progress: bool = True) -> REINFORCE:
        """Train for some iterations; a second call goes on.

        Parameters
        ----------
        iterations : int
            Number of steps.
        progress : bool, default True
            Show a progress bar where a person watches.

        Returns
        -------
        REINFORCE
            This object.

        Raises
        ------
        ValueError
            If ``iterations`` is not a positive whole number or ``reward`` returns something
            else than finite numbers of shape (lanes..., N).
        """
        self._fit(iterations, progress, "REINFORCE")
        return self

    def loss(self, actions: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the loss whose gradient is the estimate, on given samples.

        Parameters
        ----------
        actions : torch.Tensor
            Samples from the policy.
        rewards : torch.Tensor, shape (lanes..., N)
            Their rewards.

        Returns
        -------
        loss : torch.Tensor, shape ()
            To be minimized.
        kl : torch.Tensor or None
            The divergence, as in `Evaluation`.
        """
        log_prob, kl = self.policy.evaluate(actions, self.reference)
        if self.policy.per_token:
            mask = self.policy.mask(actions)
            spread = self._token_rewards(rewards, None if kl is None else kl.detach(), mask)
            to_go, _ = generalized_advantage(spread, torch.zeros_like(spread), lam=1.0, mask=mask)
            advantages = leave_one_out(to_go, mask=mask, axis=-2)
            gain = (advantages * log_prob).sum(-1).mean(-1)
        else:
            gain = (leave_one_out(rewards) * log_prob).mean(-1)
        return self._penalty(kl) - self._reduce(gain), kl

    def _iterate(self) -> dict[str, Any]:
        actions, rewards = self._collect()
        loss, kl = self.loss(actions, rewards)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return self._record(actions, rewards, kl)


class PPO(_PolicySearch):
    """Proximal policy optimization with an exact penalty on the divergence.

    Each iteration samples answers and goes over them several times in minibatches, with the
    clipped surrogate `ppo_loss`.

    Parameters
    ----------
    policy : TabularPolicy, BurstPolicy, TransformerPolicy or alike
        The policy π, trained in place; see `REINFORCE`.
    reward : callable
        Maps actions to rewards of shape (lanes..., N).
    reference : policy, optional
        The reference π₀. Without it there is no divergence.
    critic : torch.nn.Module, optional
        Maps actions to values (lanes..., N, T) before each token, for generalized advantage
        estimation; policies per token only, see `TransformerValue`. By default the other
        samples are the baseline (`leave_one_out`).
    beta : float or torch.Tensor, default 0.0
        Coefficient β of the penalty, one or one a lane; the first one with ``target_kl``.
    target_kl : float, optional
        Change β after each iteration so that the divergence comes near this number (nats an
        answer): β is multiplied by 1 + 0.1 e, with the relative error e clipped to ±0.2 [2]_.
    clip : float, default 0.2
        The ε of the surrogate.
    value_clip : float, optional
        The ε of `value_loss`. Default: no clipping.
    value_coefficient : float, default 0.5
        Weight of the value loss.
    epochs : int, default 4
        Passes over the samples of an iteration.
    minibatches : int, default 4
        Parts of the samples, one step each, at most ``n_samples``.
    gamma : float, default 1.0
        Discount of `generalized_advantage`.
    lam : float, default 0.95
        The λ of `generalized_advantage`; used with a critic.
    standardize : bool, default False
        Divide advantages by their standard deviation, lane by lane.
    lr : float, default 0.01
        Learning rate of Adam.
    max_norm : float, optional
        Largest norm of the gradient; for policies whose lanes share their parameters.
    n_samples : int, default 256
        Answers a lane and iteration, two or more.
    seed : torch.Generator or int, optional
        Source of the draws.
    monitors : mapping from str to callable, optional
        Functions like ``reward`` that are recorded, not optimized.
    monitor_every : int, default 1
        As in `REINFORCE`.

    Attributes
    ----------
    beta : torch.Tensor, shape (lanes...)
        The coefficients now.
    history_ : dict from str to numpy.ndarray
        Records of every iteration, shape (iterations, lanes...): as in `REINFORCE`, and
        "clip_fraction", the fraction of ratios outside 1 ± ε over the iteration.

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    The penalty is β times the divergence itself, not an estimate from the tokens drawn. For a
    policy per token its gradient has two parts: through the distributions at the places
    visited, in the loss; through the chance of coming there, in the rewards, where each token
    pays for the divergence at the next place.

    Losses are summed over the tokens of an answer and averaged over answers, so that long
    answers are not favored.

    References
    ----------
    .. [1] Schulman et al. (2017), "Proximal policy optimization algorithms",
       arXiv:1707.06347.
    .. [2] Ziegler et al. (2019), "Fine-tuning language models from human preferences",
       arXiv:1909.08593, section 2.2.

    Examples
    --------
    >>> import torch
    >>> from enough.rewards import PPO, TabularPolicy
    >>> policy, reference = TabularPolicy(torch.zeros(3)), TabularPolicy(torch.zeros(3))
    >>> ppo = PPO(policy, lambda a: (a == 2).float(), reference=reference, beta=0.1, seed=0)
    >>> ppo.fit(20, progress=False).history_["kl"].shape
    (20,)
    """

    def __init__(
        self,
        policy: nn.Module,
        reward: Callable[[Tensor], Tensor],
        *,
        reference: nn.Module | None = None,
        critic: nn.Module | None = None,
        beta: float | Tensor = 0.0,
        target_kl: float | None = None,
        clip: float = 0.2,
        value_clip: float | None = None,
        value_coefficient: float = 0.5,
        epochs: int = 4,
        minibatches: int = 4,
        gamma: float = 1.0,
        lam: float = 0.95,
        standardize: bool = False,
        lr: float = 0.01,
        max_norm: float | None = None,
        n_samples: int = 256,
        seed: torch.Generator | int | None = None,
        monitors: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        monitor_every: int = 1,
    ) -> None:
        super().__init__(
            policy,
            reward,
            reference=reference,
            beta=beta,
            n_samples=n_samples,
            seed=seed,
            monitors=monitors,
            monitor_every=monitor_every,
        )
        self.critic = critic
        if critic is not None and not policy.per_token:
            raise ValueError("critic: expected none for a policy of whole answers")
        self.target_kl = (
            None if target_kl is None else check_number(target_kl, "target_kl", above=0.0)
        )
        if target_kl is not None and (reference is None or not bool((self.beta > 0).all())):
            raise ValueError("target_kl: expected a reference and a first beta above 0 with it")
        self.clip = check_number(clip, "clip", above=0.0)
        self.value_clip = (
            None if value_clip is None else check_number(value_clip, "value_clip", above=0.0)
        )
        self.value_coefficient = check_number(value_coefficient, "value_coefficient", minimum=0.0)
        self.epochs = check_integer(epochs, "epochs", minimum=1)
        self.minibatches = check_integer(
            minibatches, "minibatches", minimum=1, maximum=self.n_samples
        )
        self.gamma = check_number(gamma, "gamma", minimum=0.0, maximum=1.0)
        self.lam = check_number(lam, "lam", minimum=0.0, maximum=1.0)
        self.standardize = bool(standardize)
        self.lr = check_number(lr, "lr", above=0.0)
        self.max_norm = None if max_norm is None else check_number(max_norm, "max_norm", above=0.0)
        if max_norm is not None and policy.independent_lanes and self._lanes:
            raise ValueError(
                "max_norm: expected None for lanes with parameters of their own, which a common "
                "norm would mix"
            )
        modules = [policy] if critic is None else [policy, critic]
        self._parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=self.lr)

    def fit(self, iterations: int, *, progress: bool = True) -> PPO:
        """Train for some iterations; a second call goes on.

        Parameters
        ----------
        iterations : int
            Rounds of sampling and updating.
        progress : bool, default True
            Show a progress bar where a person watches.

        Returns
        -------
        PPO
            This object.

        Raises
        ------
        ValueError
            If ``iterations`` is not a positive whole number or ``reward`` returns something
            else than finite numbers of shape (lanes..., N).
        """
        self._fit(iterations, progress, "PPO")
        return self

    def _iterate(self) -> dict[str, Any]:
        actions, rewards = self._collect()
        axis = len(self._lanes)  # the dimension of the samples
        with torch.no_grad():
            old, kl = self.policy.evaluate(actions, self.reference)
            values = None if self.critic is None else self.critic(actions)
        mask = self.policy.mask(actions) if self.policy.per_token else None
        advantages, returns = self._advantages(rewards, kl, values, mask)
        record = self._record(actions, rewards, kl)
        clipped, count = 0.0, 0
        for _ in range(self.epochs):
            where = self.generator.device
            order = torch.randperm(self.n_samples, generator=self.generator, device=where)
            for rows in order.to(actions.device).tensor_split(self.minibatches):
                batch = [
                    None if t is None else t.index_select(axis, rows)
                    for t in (actions, old, advantages, mask, returns, values)
                ]
                fraction = self._update(*batch)
                clipped, count = clipped + fraction, count + 1
        record["clip_fraction"] = (clipped / count).cpu().numpy()
        if self.target_kl is not None:
            now = self._per_lane(kl)
            now = now if self.policy.independent_lanes else now.mean().expand_as(now)
            error = (now / self.target_kl - 1.0).clamp(-_KL_CLIP, _KL_CLIP)
            self.beta = self.beta * (1.0 + _KL_GAIN * error.to(self.beta))
        return record

    def _advantages(
        self, rewards: Tensor, kl: Tensor | None, values: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        returns = None
        if mask is None:
            advantages = leave_one_out(rewards)
        else:
            spread = self._token_rewards(rewards, kl, mask)
            if values is None:
                zeros = torch.zeros_like(spread)
                to_go, _ = generalized_advantage(
                    spread, zeros, gamma=self.gamma, lam=1.0, mask=mask
                )
                advantages = leave_one_out(to_go, mask=mask, axis=-2)
            else:
                advantages, returns = generalized_advantage(
                    spread, values, gamma=self.gamma, lam=self.lam, mask=mask
                )
        if self.standardize:
            advantages = advantages / _size(advantages, mask, len(self._lanes))
        return advantages, returns

    def _update(
        self,
        actions: Tensor,
        old: Tensor,
        advantages: Tensor,
        mask: Tensor | None,
        returns: Tensor | None,
        values: Tensor | None,
    ) -> Tensor:
        """Take one step on a minibatch and return the fraction of clipped ratios by lane."""
        log_prob, kl = self.policy.evaluate(actions, self.reference)
        losses, outside = clipped_surrogate(log_prob, old, advantages, self.clip, mask)
        if mask is None:
            policy_loss, fraction = losses.mean(-1), outside.mean(-1)
        else:
            policy_loss = losses.sum(-1).mean(-1)
            fraction = outside.flatten(-2).sum(-1) / mask.flatten(-2).sum(-1)
        loss = self._reduce(policy_loss) + self._penalty(kl)
        if self.critic is not None:
            squared = clipped_squares(self.critic(actions), returns, values, self.value_clip, mask)
            loss = loss + self.value_coefficient * squared.sum(-1).mean()
        self._optimizer.zero_grad()
        loss.backward()
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.max_norm)
        self._optimizer.step()
        return fraction.detach()


def _size(advantages: Tensor, mask: Tensor | None, lanes: int) -> Tensor:
    """Return the root mean square of the advantages that count, by lane; 1 where it is 0."""
    squares = advantages.square().flatten(lanes)
    count = squares.shape[-1] if mask is None else mask.flatten(lanes).sum(-1)
    mean = squares.sum(-1) / count
    root = torch.where(mean > 0, mean, 1.0).sqrt()
    return root.view(*root.shape, *[1] * (advantages.ndim - lanes))
