"""Arguments that several modules of this room read alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from enough.runtime import exact_device
from enough.runtime.validation import as_tensors, check_tensor

__all__ = ["exact", "read_counts", "read_distribution", "read_levels", "read_pool"]


def exact(value: Tensor) -> Tensor:
    """Return a tensor in float64, off the autograd graph, on a device that has float64.

    Parameters
    ----------
    value : torch.Tensor
        Any floating-point tensor.

    Returns
    -------
    torch.Tensor
        The same numbers in float64.
    """
    return value.detach().to(device=exact_device(value.device), dtype=torch.float64)


def read_pool(**arrays: Any) -> tuple[list[Tensor], Callable[[Tensor], Any]]:
    """Read arrays of scores of one shape (..., N).

    Parameters
    ----------
    **arrays : array of shape (..., N)
        Scores by name, finite, all of the same shape.

    Returns
    -------
    tensors : list of torch.Tensor
        In float64.
    give : callable
        Turns a float64 result into the kind, device and floating dtype that was given;
        integers give float64.

    Raises
    ------
    ValueError
        If an array is empty, has no axis, holds NaN or infinity, or shapes differ.
    """
    tensors, restore = as_tensors(**arrays)
    for name, value in zip(arrays, tensors, strict=True):
        if value.ndim == 0:
            raise ValueError(f"{name}: expected scores of shape (..., N), got one number")
        check_tensor(value, name)
    if len({tuple(t.shape) for t in tensors}) > 1:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f"{', '.join(arrays)}: expected the same shape, got {shapes}")
    floating = [t.dtype for t in tensors if t.is_floating_point()]
    dtype = floating[0] if floating else torch.float64
    for other in floating[1:]:
        dtype = torch.promote_types(dtype, other)
    device = next((t.device for t in tensors if t.device.type != "cpu"), tensors[0].device)

    def give(result: Tensor) -> Any:
        return restore(result.to(device=device, dtype=dtype))

    return [exact(t) for t in tensors], give


def read_counts(
    n: Any, *, name: str = "n", minimum: int = 1, maximum: int | None = None
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Read one whole number or an array of them.

    Parameters
    ----------
    n : int or array of int
        Whole numbers; floats that are whole pass, booleans do not.
    name : str, default "n"
        The argument's name, for the message.
    minimum, maximum : int, optional
        Inclusive range.

    Returns
    -------
    counts : torch.Tensor
        int64 on the CPU, in the shape given.
    restore : callable
        Turns a tensor into what the caller works with; see `as_tensors`.

    Raises
    ------
    ValueError
        If an entry is not a whole number in the range.
    """
    (value,), restore = as_tensors(**{name: n})
    check_tensor(value, name)
    whole = value.dtype != torch.bool and not value.is_complex()
    if whole and value.is_floating_point():
        whole = bool((value == value.round()).all())
    if not whole:
        raise ValueError(f"{name}: expected whole numbers, got {n!r}")
    counts = value.detach().cpu().long()
    check_tensor(counts, name, minimum=minimum, maximum=maximum)
    return counts, restore


def read_distribution(probs: Tensor, name: str = "probs") -> Tensor:
    """Return probabilities as exact float64 rows that sum to 1.

    Parameters
    ----------
    probs : torch.Tensor of shape (..., K)
        Rows on the simplex, up to rounding in their dtype.
    name : str, default "probs"
        The argument's name, for the message.

    Returns
    -------
    torch.Tensor
        In float64, each row divided by its sum.

    Raises
    ------
    ValueError
        If an entry is negative or a row does not sum to 1.
    """
    check_tensor(probs, name, floating=True)
    tolerance = max(4.0 * torch.finfo(probs.dtype).eps, 1e-7)
    values = exact(probs)
    check_tensor(values, name, minimum=-tolerance)
    total = values.sum(-1)
    worst = total.flatten()[(total - 1.0).abs().argmax()].item()
    if abs(worst - 1.0) > tolerance * math.sqrt(values.shape[-1]):
        raise ValueError(f"{name}: expected probabilities that sum to 1, got the sum {worst}")
    values = values.clamp(min=0.0)
    return values / values.sum(-1, keepdim=True)


def read_levels(probs: Any, scores: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Read a discrete distribution and group its outcomes by score.

    Parameters
    ----------
    probs : array of shape (K,)
        Probabilities.
    scores : array of shape (K,)
        A score for each outcome; equal scores tie.

    Returns
    -------
    probs : torch.Tensor of shape (K,)
        In float64.
    level : torch.Tensor of shape (K,)
        The number of each outcome's level, from the lowest score up. Outcomes of
        probability 0 make no level of their own.
    mass : torch.Tensor of shape (levels,)
        The probability of each level, all positive.

    Raises
    ------
    ValueError
        If ``probs`` is no distribution, ``scores`` are not finite, or shapes differ.
    """
    (probs, scores), _ = as_tensors(probs=probs, scores=scores)
    check_tensor(probs, "probs", ndim=1)
    check_tensor(scores, "scores", shape=tuple(probs.shape))
    probs = read_distribution(probs)
    scores = exact(scores).to(probs.device)
    levels = torch.unique(scores[probs > 0.0], sorted=True)
    # An outcome that never happens joins the level at or above it; its probability is 0.
    level = torch.searchsorted(levels, scores.contiguous()).clamp(max=len(levels) - 1)
    mass = torch.zeros(len(levels), dtype=torch.float64, device=probs.device)
    return probs, level, mass.index_add_(0, level, probs)
