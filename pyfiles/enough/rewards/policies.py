"""Policies with exact divergences: a table, and the burst world's own.

Every policy has ``sample(n, generator)``, ``evaluate(actions, reference)`` (log-probabilities
of the actions and the divergence from a reference), ``log_prob`` and ``kl``. A policy is
*per token* when its log-probabilities have one entry a token, and has *lanes*: leading
dimensions, one policy each, or one prompt each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from enough.rewards.divergences import categorical_kl
from enough.rewards.worlds import WorldConfig, draw_burst_places, token_counts, write_bursts
from enough.runtime import exact_device
from enough.runtime.randomness import as_generator
from enough.runtime.validation import check_integer, check_tensor

__all__ = ["BurstPolicy", "Evaluation", "TabularPolicy", "draw_categories"]


class Evaluation(NamedTuple):
    """What a policy says about actions.

    Parameters
    ----------
    log_prob : torch.Tensor, shape (lanes..., N) or (lanes..., N, T)
        Log-probabilities of answers, or of their tokens with 0 at padding.
    kl : torch.Tensor or None, shape (lanes...) or (lanes..., N, T)
        Divergence from the reference: of the whole policy, or of the next-token
        distributions at each token's place with 0 at padding.
    """

    log_prob: Tensor
    kl: Tensor | None


class TabularPolicy(nn.Module):
    """A softmax over K actions, one table a lane.

    Parameters
    ----------
    logits : torch.Tensor, shape (lanes..., K)
        Initial logits, copied.
    allowed : torch.Tensor of bool, shape (lanes..., K) or (K,), optional
        Which actions exist. The others have probability 0 and their logits gradient 0,
        whatever they hold.
    shared_draws : int, default 0
        So many leading lanes see the same random numbers.

    Attributes
    ----------
    logits : torch.nn.Parameter
        The table.

    Raises
    ------
    ValueError
        If a shape is wrong, a lane has no action, or a logit in use is not finite.
    """

    per_token = False
    independent_lanes = True

    def __init__(
        self, logits: Tensor, *, allowed: Tensor | None = None, shared_draws: int = 0
    ) -> None:
        super().__init__()
        check_tensor(logits, "logits", floating=True, finite=False)
        if logits.ndim == 0:
            raise ValueError("logits: expected shape (..., K), got a scalar")
        if allowed is not None:
            if allowed.dtype != torch.bool or allowed.shape not in (
                logits.shape,
                logits.shape[-1:],
            ):
                raise ValueError(
                    f"allowed: expected bool of shape {tuple(logits.shape)} or "
                    f"{tuple(logits.shape[-1:])}, got {allowed.dtype} of shape "
                    f"{tuple(allowed.shape)}"
                )
            if not bool(allowed.any(-1).all()):
                raise ValueError("allowed: expected at least one action in every lane, got none")
            logits = logits.masked_fill(~allowed, 0.0)
        check_tensor(logits, "logits")
        self.logits = nn.Parameter(logits.detach().clone())
        self.register_buffer("allowed", None if allowed is None else allowed.clone())
        self.shared_draws = check_integer(
            shared_draws, "shared_draws", minimum=0, maximum=logits.ndim - 1
        )

    @property
    def lanes(self) -> tuple[int, ...]:
        """Leading dimensions."""
        return tuple(self.logits.shape[:-1])

    def frozen_copy(self) -> TabularPolicy:
        """Return a copy that is not trained, to serve as a reference.

        Returns
        -------
        TabularPolicy
            The copy.
        """
        return copy.deepcopy(self).requires_grad_(False)

    def log_probs(self) -> Tensor:
        """Compute the log-probabilities of all actions.

        Returns
        -------
        torch.Tensor, shape (lanes..., K)
            −inf where an action is not allowed.
        """
        logits = self.logits
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed, -torch.inf)
        return logits.log_softmax(-1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        """Draw actions.

        Parameters
        ----------
        n : int
            Actions a lane.
        generator : torch.Generator or int, optional
            Source of the draws.

        Returns
        -------
        torch.Tensor of int64, shape (lanes..., n)
            Actions.

        Raises
        ------
        ValueError
            If ``n`` is not a positive whole number.
        """
        n = check_integer(n, "n", minimum=1)
        generator = as_generator(generator)
        return draw_categories(self.log_probs(), n, generator, self.shared_draws)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log-probabilities.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N)
            Actions in [0, K).

        Returns
        -------
        torch.Tensor, shape (lanes..., N)
            In nats.

        Raises
        ------
        ValueError
            If the shape is wrong or an action is outside [0, K).
        """
        if actions.is_floating_point() or actions.shape[:-1] != self.logits.shape[:-1]:
            raise ValueError(
                f"actions: expected whole numbers of shape {(*self.lanes, 'N')}, got "
                f"{actions.dtype} of shape {tuple(actions.shape)}"
            )
        check_tensor(actions, "actions", minimum=0, maximum=self.logits.shape[-1] - 1)
        return self.log_probs().gather(-1, actions.long())

    def kl(self, reference: TabularPolicy, actions: Tensor | None = None) -> Tensor:
        """Compute the exact divergence from a reference.

        Parameters
        ----------
        reference : TabularPolicy
            The reference policy π₀, with as many actions.
        actions : torch.Tensor, optional
            Not needed.

        Returns
        -------
        torch.Tensor, shape (lanes...)
            KL(π‖π₀) in nats.
        """
        return categorical_kl(self.log_probs(), reference.log_probs())

    def evaluate(self, actions: Tensor, reference: TabularPolicy | None = None) -> Evaluation:
        """Compute log-probabilities and divergence.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N)
            Actions.
        reference : TabularPolicy, optional
            The reference policy.

        Returns
        -------
        Evaluation
            Log-probabilities (lanes..., N) and the divergence (lanes...), or None.

        Raises
        ------
        ValueError
            As in `log_prob`.
        """
        return Evaluation(self.log_prob(actions), None if reference is None else self.kl(reference))


class BurstPolicy(nn.Module):
    r"""A policy of the burst world with all that matters in reach of the gradient.

    An answer is ordinary or a burst of one rare token (`WorldConfig`); common tokens are
    independent. The parameters are the logits of these modes and of the common tokens. Length
    and place of a burst stay as in the reference policy, at which a new policy starts.

    Parameters
    ----------
    config : WorldConfig
        The world; it needs rare tokens and a burst probability in (0, 1).
    lanes : sequence of int, default ()
        Independent copies, (arms, worlds) for example.
    shared_draws : int, default 0
        So many leading lanes see the same random numbers: arms compared on paired draws.
    device : str or torch.device, default "cpu"
        Where the parameters are.

    Attributes
    ----------
    mode_logits : torch.nn.Parameter
        Shape (lanes..., 1 + n_rare): ordinary first.
    token_logits : torch.nn.Parameter
        Shape (lanes..., n_common).

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    The divergence is exact, with μ the expected number of common tokens of an answer:

    .. math:: \mathrm{KL}(\pi\|\pi_0) = \mathrm{KL}(\mathrm{mode})
       + \mu(\pi)\,\mathrm{KL}(\mathrm{token})
    """

    per_token = False
    independent_lanes = True

    def __init__(
        self,
        config: WorldConfig,
        lanes: Sequence[int] = (),
        *,
        shared_draws: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        if config.n_rare == 0 or not 0.0 < config.burst_probability < 1.0:
            raise ValueError(
                "config: expected rare tokens and a burst probability in (0, 1), got "
                f"{config.n_rare} and {config.burst_probability}"
            )
        self.config = config
        self.lanes = tuple(check_integer(size, "lanes", minimum=1) for size in lanes)
        self.shared_draws = check_integer(
            shared_draws, "shared_draws", minimum=0, maximum=len(self.lanes)
        )
        modes = torch.full((1 + config.n_rare,), config.burst_probability / config.n_rare)
        modes[0] = 1.0 - config.burst_probability
        modes = modes.log().expand(*self.lanes, -1).clone()
        tokens = torch.zeros(*self.lanes, config.n_common)
        self.mode_logits = nn.Parameter(modes.to(device))
        self.token_logits = nn.Parameter(tokens.to(device))

    def frozen_copy(self) -> BurstPolicy:
        """Return a copy that is not trained, to serve as a reference.

        Returns
        -------
        BurstPolicy
            The copy.
        """
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | int | None = None) -> Tensor:
        """Draw answers.

        Parameters
        ----------
        n : int
            Answers a lane.
        generator : torch.Generator or int, optional
            Source of the draws.

        Returns
        -------
        torch.Tensor of int64, shape (lanes..., n, length)
            Tokens.

        Raises
        ------
        ValueError
            If ``n`` is not a positive whole number.
        """
        n, config = check_integer(n, "n", minimum=1), self.config
        generator, shared = as_generator(generator), self.shared_draws
        mode = draw_categories(self.mode_logits.log_softmax(-1), n, generator, shared)
        tokens = draw_categories(
            self.token_logits.log_softmax(-1), n * config.length, generator, shared
        )
        places = draw_burst_places(config, (*self.lanes[shared:], n), generator)
        size, start = (part.to(mode.device).expand_as(mode) for part in places)
        tokens = tokens.unflatten(-1, (n, config.length))
        return write_bursts(config, tokens, mode, size, start)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log-probabilities of answers.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.

        Returns
        -------
        torch.Tensor, shape (lanes..., N)
            In nats; −inf for an answer that the policy cannot give.

        Raises
        ------
        ValueError
            If the shape is wrong or a token is outside the vocabulary.
        """
        config = self.config
        wanted = (*self.lanes, "N", config.length)
        fits = actions.ndim == len(wanted) and actions.shape[:-2] == self.lanes
        if actions.is_floating_point() or not fits or actions.shape[-1] != config.length:
            raise ValueError(
                f"actions: expected whole numbers of shape {wanted}, got {actions.dtype} of "
                f"shape {tuple(actions.shape)}"
            )
        check_tensor(actions, "actions", minimum=0, maximum=config.vocab_size - 1)
        counts = token_counts(actions, config.vocab_size).to(self.token_logits.dtype)
        common, rare = counts.split((config.n_common, config.n_rare), -1)
        size, which = rare.max(-1)
        is_burst = size > 0
        mode = torch.where(is_burst, which + 1, 0)
        mode_log_prob = self.mode_logits.log_softmax(-1).gather(-1, mode)
        token_log_probs = self.token_logits.log_softmax(-1).unsqueeze(-1)
        value = mode_log_prob + (common @ token_log_probs).squeeze(-1)
        # Lengths and places are uniform, whatever the parameters.
        places = (config.length - config.min_burst + 1) * (config.length - size + 1)
        value = value - torch.where(is_burst, places, 1.0).log()
        pairs = (actions[..., 1:] == actions[..., :-1]) & (actions[..., 1:] >= config.n_common)
        whole = (size >= config.min_burst) & (rare.sum(-1) == size) & (pairs.sum(-1) == size - 1)
        return value.masked_fill(is_burst & ~whole, -torch.inf)

    def kl(self, reference: BurstPolicy, actions: Tensor | None = None) -> Tensor:
        """Compute the exact divergence from a reference.

        Parameters
        ----------
        reference : BurstPolicy
            The reference policy π₀.
        actions : torch.Tensor, optional
            Not needed.

        Returns
        -------
        torch.Tensor, shape (lanes...)
            KL(π‖π₀) in nats.
        """
        config = self.config
        mode = self.mode_logits.log_softmax(-1)
        in_burst = config.length - 0.5 * (config.min_burst + config.length)
        ordinary = mode[..., 0].exp()
        expected = config.length * ordinary + in_burst * (1.0 - ordinary)
        tokens = categorical_kl(
            self.token_logits.log_softmax(-1), reference.token_logits.log_softmax(-1)
        )
        return categorical_kl(mode, reference.mode_logits.log_softmax(-1)) + expected * tokens

    def evaluate(self, actions: Tensor, reference: BurstPolicy | None = None) -> Evaluation:
        """Compute log-probabilities and divergence.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.
        reference : BurstPolicy, optional
            The reference policy.

        Returns
        -------
        Evaluation
            Log-probabilities (lanes..., N) and the divergence (lanes...), or None.

        Raises
        ------
        ValueError
            As in `log_prob`.
        """
        return Evaluation(self.log_prob(actions), None if reference is None else self.kl(reference))


def draw_categories(
    log_probs: Tensor, n: int, generator: torch.Generator, shared: int = 0
) -> Tensor:
    """Draw from categorical distributions by inversion.

    Parameters
    ----------
    log_probs : torch.Tensor, shape (..., K)
        Log-probabilities; a category with −inf is never drawn.
    n : int
        Draws a distribution.
    generator : torch.Generator
        Source of the draws.
    shared : int, default 0
        So many leading dimensions see the same random numbers.

    Returns
    -------
    torch.Tensor of int64, shape (..., n)
        Categories.
    """
    where = log_probs.device
    log_probs = log_probs.to(exact_device(where))
    total = log_probs.double().exp().cumsum(-1)
    shape = (*log_probs.shape[shared:-1], n)
    uniform = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    uniform = uniform.to(log_probs.device).expand(*log_probs.shape[:-1], n)
    last = total[..., -1:]
    # Below the last sum even after rounding, so that the category found has mass.
    target = torch.minimum(uniform * last, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(total, target.contiguous(), right=True).to(where)
