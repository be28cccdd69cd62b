"""An autoregressive policy over tokens, and a value function to go with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from enough.models import KVCache, Transformer
from enough.rewards.divergences import categorical_kl
from enough.rewards.policies import Evaluation, draw_categories
from enough.rewards.preferences import blank_padding
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["TransformerPolicy", "TransformerValue"]


class _Answers(nn.Module):
    """What the transformer policy and its value function share: prompts, ends, padding."""

    def __init__(self, model: Transformer, length: int, prompts: Any, end: int | None) -> None:
        super().__init__()
        (prompts,), _ = as_tensors(prompts=prompts)
        vocab_size = model.config.vocab_size
        if prompts.is_floating_point() or prompts.ndim not in (1, 2):
            raise ValueError(
                f"prompts: expected whole numbers of shape (P,) or (Q, P), got {prompts.dtype} "
                f"of shape {tuple(prompts.shape)}"
            )
        check_tensor(prompts, "prompts", minimum=0, maximum=vocab_size - 1)
        self.model = model
        self.register_buffer("prompts", prompts.long().clone().to(model.embedding.weight.device))
        room = model.config.context_length - prompts.shape[-1]
        self.length = check_integer(length, "length", minimum=1, maximum=room + 1)
        self.end = (
            None if end is None else check_integer(end, "end", minimum=0, maximum=vocab_size - 1)
        )

    @property
    def lanes(self) -> tuple[int, ...]:
        """(Q,) for Q prompts, () for one."""
        return tuple(self.prompts.shape[:-1])

    def mask(self, actions: Tensor) -> Tensor:
        """Tell which tokens belong to the answers: all up to the first end, itself included.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.

        Returns
        -------
        torch.Tensor of bool, shape (lanes..., N, length)
            False at padding.

        Raises
        ------
        ValueError
            If the shape is wrong.
        """
        wanted = (*self.lanes, "N", self.length)
        fits = actions.ndim == len(wanted) and actions.shape[:-2] == self.lanes
        if actions.is_floating_point() or not fits or actions.shape[-1] != self.length:
            raise ValueError(
                f"actions: expected whole numbers of shape {wanted}, got {actions.dtype} of "
                f"shape {tuple(actions.shape)}"
            )
        if self.end is None:
            return torch.ones_like(actions, dtype=torch.bool)
        ends = actions == self.end
        return ends.cumsum(-1) - ends.long() == 0

    def _over_answers(self, actions: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the model to prompts and answers; return its output before each token."""
        mask = self.mask(actions)
        tokens = actions.long().masked_fill(~mask, 0)
        prompts = self.prompts.unsqueeze(-2).expand(*actions.shape[:-1], -1)
        rows = torch.cat([prompts, tokens[..., :-1]], -1)
        out = read(rows.flatten(0, -2))[:, self.prompts.shape[-1] - 1 :]
        return out.view(*actions.shape, -1)


class TransformerPolicy(_Answers):
    """An autoregressive policy over tokens.

    Parameters
    ----------
    model : Transformer
        Scores the next token. It is trained in place.
    length : int
        Most tokens in an answer T; with the prompt, less one, within the model's context.
    prompts : array of int, shape (P,) or (Q, P)
        One prompt, or Q of them, a lane each. A start token is a prompt of length 1.
    end : int, optional
        Token that ends an answer; the rest is padding, filled with it.
    allowed : torch.Tensor of bool, shape (V,), optional
        Which tokens an answer may contain. The others have probability 0, and their logits
        gradient 0.

    Attributes
    ----------
    model : Transformer
        As given.

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    The divergence is that of the next-token distributions, summed over the whole vocabulary
    at every place of the given answers: KL(π‖π₀) is the expectation of its sum over places
    under π. It is never negative. At each place it has the mean of the log-ratio of the token
    drawn and no more variance (Rao-Blackwell). Of the sum over places that is not always so:
    the early places of an answer decide which late ones are reached.
    """

    per_token = True
    independent_lanes = False

    def __init__(
        self,
        model: Transformer,
        length: int,
        *,
        prompts: Any,
        end: int | None = None,
        allowed: Tensor | None = None,
    ) -> None:
        super().__init__(model, length, prompts, end)
        if allowed is not None:
            shape = (model.config.vocab_size,)
            if allowed.dtype != torch.bool or allowed.shape != shape or not bool(allowed.any()):
                raise ValueError(
                    f"allowed: expected bool of shape {shape}, not all false, got "
                    f"{allowed.dtype} of shape {tuple(allowed.shape)}"
                )
            if end is not None and not bool(allowed[end]):
                raise ValueError(f"allowed: expected the end token {end} among the allowed")
            allowed = allowed.clone().to(self.prompts.device)
        self.register_buffer("allowed", allowed)

    def frozen_copy(self) -> TransformerPolicy:
        """Return a copy that is not trained, to serve as a reference.

        Returns
        -------
        TransformerPolicy
            The copy.
        """
        return copy.deepcopy(self).requires_grad_(False)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | int | None = None,
        *,
        batch_size: int = 4096,
    ) -> Tensor:
        """Draw answers, one token at a time, with a cache of keys and values.

        Parameters
        ----------
        n : int
            Answers a lane.
        generator : torch.Generator or int, optional
            Source of the draws.
        batch_size : int, default 4096
            Answers at a time.

        Returns
        -------
        torch.Tensor of int64, shape (lanes..., n, length)
            Tokens, padded with the end token.

        Raises
        ------
        ValueError
            If a number is not a positive whole number.
        """
        n = check_integer(n, "n", minimum=1)
        batch_size = check_integer(batch_size, "batch_size", minimum=1)
        generator = as_generator(generator)
        prompts = self.prompts.unsqueeze(-2).expand(*self.lanes, n, -1).flatten(0, -2)
        parts = [self._extend(rows, generator) for rows in prompts.split(batch_size)]
        return torch.cat(parts).view(*self.lanes, n, self.length)

    def evaluate(self, actions: Tensor, reference: TransformerPolicy | None = None) -> Evaluation:
        """Compute log-probabilities and divergences, token by token.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers. What stands after the end does not matter.
        reference : TransformerPolicy, optional
            The reference policy.

        Returns
        -------
        Evaluation
            Both of shape (lanes..., N, length), 0 at padding; no divergence without a
            reference.

        Raises
        ------
        ValueError
            If the shape is wrong or a token is outside the vocabulary.
        """
        mask = self.mask(actions)
        log_probs = self._next_log_probs(actions)
        _, tokens = blank_padding(log_probs.detach(), actions, mask)
        chosen = log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, 0.0)
        if reference is None:
            return Evaluation(chosen, None)
        kl = categorical_kl(log_probs, reference._next_log_probs(actions))
        return Evaluation(chosen, kl.masked_fill(~mask, 0.0))

    def log_prob(self, actions: Tensor) -> Tensor:
        """Compute log-probabilities of the tokens of answers.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.

        Returns
        -------
        torch.Tensor, shape (lanes..., N, length)
            In nats, 0 at padding; their sum over the last dimension is that of the answer.

        Raises
        ------
        ValueError
            As in `evaluate`.
        """
        return self.evaluate(actions).log_prob

    def kl(self, reference: TransformerPolicy, actions: Tensor) -> Tensor:
        """Compute the divergence of the next-token distributions along answers.

        Parameters
        ----------
        reference : TransformerPolicy
            The reference policy π₀.
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.

        Returns
        -------
        torch.Tensor, shape (lanes..., N, length)
            In nats, 0 at padding.

        Raises
        ------
        ValueError
            As in `evaluate`.
        """
        return self.evaluate(actions, reference).kl

    def _next_log_probs(self, actions: Tensor) -> Tensor:
        logits = self._over_answers(actions, self.model)
        # Padding gets a uniform distribution: whatever the model says there is not used.
        logits = logits.masked_fill(~self.mask(actions).unsqueeze(-1), 0.0)
        return self._log_softmax(logits)

    def _log_softmax(self, logits: Tensor) -> Tensor:
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        if self.allowed is not None:
            logits = logits.masked_fill(~self.allowed, -torch.inf)
        return logits.log_softmax(-1)

    def _extend(self, prompts: Tensor, generator: torch.Generator) -> Tensor:
        cache = KVCache(prompts.shape[1] + self.length)
        new, tokens = prompts, []
        done = torch.zeros(len(prompts), dtype=torch.bool, device=prompts.device)
        for _ in range(self.length):
            log_probs = self._log_softmax(self.model(new, cache)[:, -1])
            token = draw_categories(log_probs, 1, generator).squeeze(-1)
            if self.end is not None:
                token = token.masked_fill(done, self.end)
                done = done | (token == self.end)
            tokens.append(token)
            new = token.unsqueeze(-1)
        return torch.stack(tokens, -1)


class TransformerValue(_Answers):
    """A value function over unfinished answers: a transformer with one output.

    Parameters
    ----------
    model : Transformer
        Computes features; a copy of the policy's model for example. It is trained in place.
    length : int
        Most tokens in an answer, as in the policy.
    prompts : array of int, shape (P,) or (Q, P)
        Prompts, as in the policy.
    end : int, optional
        Token that ends an answer, as in the policy.

    Attributes
    ----------
    head : torch.nn.Linear
        From features to the value; starts at zero.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """

    def __init__(
        self, model: Transformer, length: int, *, prompts: Any, end: int | None = None
    ) -> None:
        super().__init__(model, length, prompts, end)
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Linear(model.config.d_model, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.head.to(model.embedding.weight)

    def forward(self, actions: Tensor) -> Tensor:
        """Compute the value before each token.

        Parameters
        ----------
        actions : torch.Tensor of int, shape (lanes..., N, length)
            Answers.

        Returns
        -------
        torch.Tensor, shape (lanes..., N, length)
            Values; those at place t depend on the tokens before it. 0 at padding.

        Raises
        ------
        ValueError
            If the shape is wrong.
        """
        values = self._over_answers(actions, lambda rows: self.head(self.model.features(rows)))
        return values.squeeze(-1).masked_fill(~self.mask(actions), 0.0)
