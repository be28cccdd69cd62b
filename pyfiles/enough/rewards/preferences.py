"""Losses on preferences, log-probabilities of answers, and label noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from enough.models import token_log_probs
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = [
    "bradley_terry_loss",
    "dpo_loss",
    "flip_preferences",
    "npo_loss",
    "rpo_loss",
    "sequence_log_probs",
]


def bradley_terry_loss(chosen: Any, rejected: Any, *, centering: float = 0.0) -> Any:
    r"""Compute the negative log-likelihood of preferences under the Bradley-Terry model.

    .. math:: L = \mathrm{mean}\,\bigl[-\log\sigma(r^+ - r^-) + \eta\,(r^+ + r^-)^2\bigr]

    The likelihood does not change when a constant is added to both rewards of a pair. The
    centering term fixes the constant, without which the minimum or the median over reward
    models means nothing [1]_.

    Parameters
    ----------
    chosen : array, shape (N,) or any other
        Rewards r⁺ of the preferred answers.
    rejected : array, same shape
        Rewards r⁻ of the others.
    centering : float, default 0.0
        Weight η of the centering term, at least 0.

    Returns
    -------
    torch.Tensor or float
        The mean over all pairs: a scalar tensor for tensors, a float for arrays.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, a dtype is not floating point, or ``centering`` is
        negative.

    References
    ----------
    .. [1] Eisenstein et al. (2023), "Helping or herding? Reward model ensembles mitigate but
       do not eliminate reward hacking", arXiv:2312.09244.
    """
    centering = check_number(centering, "centering", minimum=0.0)
    (chosen, rejected), restore = _scores(chosen=chosen, rejected=rejected)
    loss = F.softplus(rejected - chosen).mean()
    if centering:
        loss = loss + centering * (chosen + rejected).square().mean()
    return restore(loss)


def dpo_loss(
    policy_chosen: Any,
    policy_rejected: Any,
    reference_chosen: Any,
    reference_rejected: Any,
    *,
    beta: float,
) -> Any:
    r"""Compute the loss of direct preference optimization.

    .. math:: L = \mathrm{mean}\,\Bigl[-\log\sigma\Bigl(\beta\log\frac{\pi(y^+)}{\pi_0(y^+)}
       - \beta\log\frac{\pi(y^-)}{\pi_0(y^-)}\Bigr)\Bigr]

    Parameters
    ----------
    policy_chosen : array, shape (N,)
        log π of the preferred answers, each summed over its tokens.
    policy_rejected : array, shape (N,)
        log π of the others.
    reference_chosen : array, shape (N,)
        log π₀ of the preferred answers.
    reference_rejected : array, shape (N,)
        log π₀ of the others.
    beta : float
        Strength β of the tie to the reference, above 0.

    Returns
    -------
    torch.Tensor or float
        The mean over pairs: a scalar tensor for tensors, a float for arrays.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, a dtype is not floating point, or ``beta`` is not
        above 0.

    References
    ----------
    .. [1] Rafailov et al. (2023), "Direct preference optimization", arXiv:2305.18290.
    """
    beta = check_number(beta, "beta", above=0.0)
    (chosen, rejected, base_chosen, base_rejected), restore = _scores(
        policy_chosen=policy_chosen,
        policy_rejected=policy_rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
    )
    margin = (chosen - base_chosen) - (rejected - base_rejected)
    return restore(F.softplus(-beta * margin).mean())


def rpo_loss(
    policy_chosen: Any,
    policy_rejected: Any,
    reference_chosen: Any,
    reference_rejected: Any,
    *,
    beta: float,
    eta: float,
) -> Any:
    r"""Compute the loss of regularized preference optimization: DPO plus an imitation term.

    .. math:: L = L_\mathrm{DPO}(\beta) + \eta\beta\;\mathrm{mean}\,[-\log\pi(y^+)]

    The preferred answers stand for the baseline policy of [1]_, the choice made there for the
    experiments.

    Parameters
    ----------
    policy_chosen : array, shape (N,)
        log π of the preferred answers, each summed over its tokens.
    policy_rejected : array, shape (N,)
        log π of the others.
    reference_chosen : array, shape (N,)
        log π₀ of the preferred answers.
    reference_rejected : array, shape (N,)
        log π₀ of the others.
    beta : float
        Strength β of the tie to the reference, above 0.
    eta : float
        Weight η of the imitation term, at least 0; 0 gives DPO.

    Returns
    -------
    torch.Tensor or float
        The mean over pairs: a scalar tensor for tensors, a float for arrays.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, a dtype is not floating point, or a coefficient is
        out of range.

    References
    ----------
    .. [1] Liu et al. (2024), "Provably mitigating overoptimization in RLHF: your SFT loss is
       implicitly an adversarial regularizer", arXiv:2405.16436.
    """
    eta = check_number(eta, "eta", minimum=0.0)
    loss = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=beta)
    (chosen,), restore = _scores(policy_chosen=policy_chosen)
    return loss - restore(eta * beta * chosen.mean())


def npo_loss(policy: Any, reference: Any, *, beta: float) -> Any:
    r"""Compute the loss of negative preference optimization, which unlearns answers.

    .. math:: L = \frac{2}{\beta}\,\mathrm{mean}\,
       \log\Bigl(1 + \Bigl(\frac{\pi(y)}{\pi_0(y)}\Bigr)^{\beta}\Bigr)

    For β → 0 the loss less (2/β) log 2 tends to the mean of log π/π₀: gradient ascent on the
    negative log-likelihood.

    Parameters
    ----------
    policy : array, shape (N,)
        log π of the answers to forget, each summed over its tokens.
    reference : array, shape (N,)
        log π₀ of the same answers.
    beta : float
        Inverse temperature β, above 0.

    Returns
    -------
    torch.Tensor or float
        The mean over answers: a scalar tensor for tensors, a float for arrays.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, a dtype is not floating point, or ``beta`` is not
        above 0.

    References
    ----------
    .. [1] Zhang, Lin, Bai and Mei (2024), "Negative preference optimization", arXiv:2404.05868.
    """
    beta = check_number(beta, "beta", above=0.0)
    (policy, reference), restore = _scores(policy=policy, reference=reference)
    return restore(2.0 / beta * F.softplus(beta * (policy - reference)).mean())


def sequence_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the log-probability of whole answers.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., T, V)
        Scores of the token at each position, given those before it.
    tokens : torch.Tensor of int, shape (..., T)
        The answers.
    mask : torch.Tensor of bool, shape (..., T), optional
        Which positions belong to the answer. The others add exactly 0 to the value, and
        their logits have gradient 0, whatever stands there: NaN, infinities, tokens outside
        the vocabulary.

    Returns
    -------
    torch.Tensor, shape (...)
        Sums over positions, in nats.

    Raises
    ------
    ValueError
        If shapes do not fit, the mask is not boolean, or a token of an answer is outside the
        vocabulary.
    """
    logits, tokens = blank_padding(logits, tokens, mask)
    log_probs = token_log_probs(logits, tokens)
    if mask is not None:
        log_probs = log_probs.masked_fill(~mask, 0.0)
    return log_probs.sum(-1)


def flip_preferences(
    chosen: Any,
    rejected: Any,
    rate: float,
    *,
    generator: torch.Generator | int | None = None,
) -> tuple[Any, Any, Any]:
    """Turn an exact fraction of preferences around.

    The pairs are put in a random order and the first ``round(rate * N)`` of them flipped. So
    generators in the same state flip the same pairs, and at a higher rate these and more.

    Parameters
    ----------
    chosen : array, shape (N, ...)
        Preferred answers, in any representation.
    rejected : array, shape (N, ...)
        The others.
    rate : float
        Fraction to flip, in [0, 1]. Halves round up.
    generator : torch.Generator or int, optional
        Draws the order; ``None`` seeds one from the operating system.

    Returns
    -------
    chosen : array, shape (N, ...)
        With the noise.
    rejected : array, shape (N, ...)
        With the noise.
    flipped : array of bool, shape (N,)
        Which pairs were turned around.

    Raises
    ------
    ValueError
        If shapes differ or the rate is outside [0, 1].
    """
    rate = check_number(rate, "rate", minimum=0.0, maximum=1.0)
    (chosen, rejected), restore = as_tensors(chosen=chosen, rejected=rejected)
    if chosen.ndim == 0 or chosen.shape != rejected.shape:
        raise ValueError(
            f"rejected: expected the shape of chosen, {tuple(chosen.shape)} with at least one "
            f"dimension, got {tuple(rejected.shape)}"
        )
    n = chosen.shape[0]
    generator = as_generator(generator)
    order = torch.randperm(n, generator=generator, device=generator.device)
    flipped = torch.zeros(n, dtype=torch.bool, device=generator.device)
    # A rate like 0.29 is stored a little below: without the nudge 0.145 * 100 rounds down.
    flipped[order[: int(rate * n * (1 + 1e-12) + 0.5)]] = True
    flipped = flipped.to(chosen.device)
    rows = flipped.view(-1, *[1] * (chosen.ndim - 1))
    mixed = torch.where(rows, rejected, chosen), torch.where(rows, chosen, rejected)
    return restore(mixed[0]), restore(mixed[1]), restore(flipped)


def blank_padding(logits: Tensor, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Replace what stands at masked positions by zeros, before anything is computed from it.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., T, V)
        Scores.
    tokens : torch.Tensor of int, shape (..., T)
        Answers.
    mask : torch.Tensor of bool, shape (..., T), or None
        Which positions count.

    Returns
    -------
    logits : torch.Tensor, shape (..., T, V)
        Zero where the mask is false, and without a gradient there.
    tokens : torch.Tensor of int64, shape (..., T)
        Zero where the mask is false.

    Raises
    ------
    ValueError
        If shapes do not fit, the mask is not boolean, or a token that counts is outside the
        vocabulary.
    """
    check_tensor(logits, "logits", floating=True, finite=False)
    if tokens.is_floating_point() or tokens.shape != logits.shape[:-1]:
        raise ValueError(
            f"tokens: expected whole numbers of shape {tuple(logits.shape[:-1])}, got "
            f"{tokens.dtype} of shape {tuple(tokens.shape)}"
        )
    tokens = tokens.long()
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != tokens.shape:
            raise ValueError(
                f"mask: expected bool of shape {tuple(tokens.shape)}, got {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
        logits = logits.masked_fill(~mask.unsqueeze(-1), 0.0)
        tokens = tokens.masked_fill(~mask, 0)
    check_tensor(tokens, "tokens", minimum=0, maximum=logits.shape[-1] - 1)
    return logits, tokens


def _scores(**arrays: Any) -> tuple[list[Tensor], Any]:
    """Check that arrays of numbers have one shape; integers become float64."""
    given_tensor = any(isinstance(value, Tensor) for value in arrays.values())
    tensors, _ = as_tensors(**arrays)
    first = next(iter(arrays))
    for name, tensor in zip(arrays, tensors, strict=True):
        check_tensor(tensor, name, floating=given_tensor, finite=False)
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{name}: expected the shape of {first}, {tuple(tensors[0].shape)}, got "
                f"{tuple(tensor.shape)}"
            )
    if given_tensor:
        return tensors, lambda loss: loss
    return [t.double() for t in tensors], float
