"""Losses and log-probabilities of next-token models, for one model or many."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["next_token_loss", "token_log_probs"]


def _wide(logits: Tensor) -> Tensor:
    """Lift half precision to float32: a sum over the vocabulary needs the digits."""
    return logits.float() if logits.dtype.itemsize < 4 else logits


def next_token_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    member_dims: int = 0,
) -> Tensor:
    r"""Compute the mean cross-entropy of targets, in nats a token.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., V)
        Unnormalized log-probabilities; half precision is lifted to float32.
    targets : torch.Tensor of int, shape (...)
        What each position should predict, in ``[0, V)`` or ``ignore_index``.
    ignore_index : int, default -100
        Target that counts for nothing, in value and in gradient.
    z_loss : float, default 0.0
        Weight of the mean of :math:`(\log Z)^2`, Z the sum of the exponentials of the logits,
        over the same positions ([1]_, section 5).
    member_dims : int, default 0
        Leading dimensions that hold models: each gets a mean of its own.

    Returns
    -------
    torch.Tensor
        The mean over positions, shape ``targets.shape[:member_dims]``. NaN where every target
        is ignored, as in ``torch.nn.functional.cross_entropy``.

    Raises
    ------
    ValueError
        If shapes do not fit or, on a CPU, a target is outside the vocabulary.

    References
    ----------
    .. [1] Chowdhery et al. (2022), "PaLM", arXiv:2204.02311.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets: expected shape {tuple(logits.shape[:-1])}, got {tuple(targets.shape)}"
        )
    rows, classes = _wide(logits).flatten(0, -2), targets.flatten().long()
    try:
        losses = F.cross_entropy(
            rows,
            classes,
            ignore_index=ignore_index,
            reduction="none" if member_dims or z_loss else "mean",
        )
    except IndexError as error:
        raise ValueError(
            f"targets: expected entries in [0, {logits.shape[-1]}) or {ignore_index}, "
            f"got {int(targets.min())} to {int(targets.max())}"
        ) from error
    if losses.ndim == 0:
        return losses
    counts = classes != ignore_index
    if z_loss:
        losses = losses + z_loss * rows.logsumexp(-1).square() * counts
    shape = (*targets.shape[:member_dims], -1)
    return losses.view(shape).sum(-1) / counts.view(shape).sum(-1)


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the log-probability of each target.

    Parameters
    ----------
    logits : torch.Tensor, shape (..., V)
        Unnormalized log-probabilities; half precision is lifted to float32.
    targets : torch.Tensor of int, shape (...)
        One token a position.

    Returns
    -------
    torch.Tensor, shape (...)
        Log-probabilities in nats. Their sum over an answer's positions is what preference
        losses take.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"targets: expected shape {tuple(logits.shape[:-1])}, got {tuple(targets.shape)}"
        )
    log_probs = _wide(logits).log_softmax(-1)
    return log_probs.gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
