"""One score from several reward models.

References
----------
.. [1] T. Coste, U. Anwar, R. Kirk and D. Krueger, "Reward Model Ensembles Help Mitigate
   Overoptimization", ICLR 2024, arXiv:2310.02743.
"""

from __future__ import annotations

from typing import Any

import torch

from enough.runtime.validation import as_tensors, check_choice, check_number, check_tensor

__all__ = ["aggregate_rewards", "normalize_rewards"]


def aggregate_rewards(rewards: Any, how: str = "mean", coefficient: float = 0.5) -> Any:
    """Combine the scores of an ensemble of reward models.

    Parameters
    ----------
    rewards : array of shape (members, ...)
        Scores, finite; the first axis is the member.
    how : {"mean", "median", "min", "uwo"}, default "mean"
        ``"mean"`` averages; ``"median"`` takes the middle score, the average of the two middle
        ones for an even number of members; ``"min"`` takes the worst case; ``"uwo"``
        (uncertainty-weighted) takes mean − coefficient · variance.
    coefficient : float, default 0.5
        Penalty on the variance for ``"uwo"``, 0 or more; the others ignore it.

    Returns
    -------
    array of shape (...)
        The kind, device and dtype of the scores (float64 for integers). Gradients flow to
        the members.

    Raises
    ------
    ValueError
        If ``rewards`` has no member or holds NaN or infinity, ``how`` is unknown, or
        ``coefficient`` is negative.

    Notes
    -----
    The variance divides by the number of members (ddof 0), so a single member has variance 0,
    and coefficient 0 is the mean exactly. Some code divides by one less for policy gradients:
    with k members, its coefficient c is c·k/(k − 1) here.

    Reward models trained on comparisons are free up to a constant each (for each prompt, if
    every comparison is within a prompt). The minimum and the median depend on these
    constants: bring members to one scale first, with `normalize_rewards`.

    References
    ----------
    T. Coste, U. Anwar, R. Kirk and D. Krueger, "Reward Model Ensembles Help Mitigate
    Overoptimization", ICLR 2024, arXiv:2310.02743.

    Examples
    --------
    >>> from enough.rewards import aggregate_rewards
    >>> aggregate_rewards([[0.0, 1.0], [2.0, 1.0]], how="uwo", coefficient=1.0)
    array([0., 1.])
    """
    check_choice(how, "how", ("mean", "median", "min", "uwo"))
    coefficient = check_number(coefficient, "coefficient", minimum=0.0)
    values, restore, dtype = _read_members(rewards, "rewards")
    if how == "min":
        result = values.amin(0)
    elif how == "median":
        ranked = values.sort(dim=0).values
        result = (ranked[(len(values) - 1) // 2] + ranked[len(values) // 2]) / 2.0
    else:
        result = values.mean(0)
        if how == "uwo" and coefficient > 0.0:
            result = result - coefficient * (values - result).square().mean(0)
    return restore(result.to(dtype))


def normalize_rewards(rewards: Any, reference: Any = None) -> Any:
    """Bring each member to mean 0 and standard deviation 1 on a reference pool.

    Parameters
    ----------
    rewards : array of shape (members, ...)
        Scores, finite; the first axis is the member.
    reference : array of shape (members, ...), optional
        The same members' scores of answers from the reference policy; ``rewards`` itself by
        default.

    Returns
    -------
    array of the shape of ``rewards``
        (rewards − mean)/std with one mean and one standard deviation (ddof 0) a member. The
        kind, device and dtype of the scores (float64 for integers).

    Raises
    ------
    ValueError
        If an argument is empty, lacks an axis of answers, or holds NaN or infinity, if members
        differ in number, or if a member scores all reference answers alike.

    Notes
    -----
    A Bradley–Terry model is unchanged when a constant is added to its scores, so scores of
    different members share no origin until they are given one. An increasing affine map
    leaves each member's ranking as it is.

    Examples
    --------
    >>> from enough.rewards import normalize_rewards
    >>> normalize_rewards([[1.0, 3.0], [-10.0, 10.0]])
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    values, restore, dtype = _read_members(rewards, "rewards", ndim=2)
    pool = values
    if reference is not None:
        pool, _, _ = _read_members(reference, "reference", ndim=2)
        if len(pool) != len(values):
            raise ValueError(
                f"reference: expected {len(values)} members as in rewards, got {len(pool)}"
            )
        pool = pool.to(values)
    pool = pool.flatten(1)
    center = pool.mean(1)
    spread = (pool - center[:, None]).square().mean(1).sqrt()
    flat = (pool == pool[:, :1]).all(1)
    if bool(flat.any()):
        raise ValueError(
            "reference: expected members whose scores differ, got one score throughout "
            f"from member {int(flat.int().argmax())}"
        )
    shape = (-1,) + (1,) * (values.ndim - 1)
    return restore(((values - center.view(shape)) / spread.view(shape)).to(dtype))


def _read_members(value: Any, name: str, ndim: int = 1) -> tuple[torch.Tensor, Any, torch.dtype]:
    """Return scores in float32 or float64, the way back, and the dtype to return."""
    (tensor,), restore = as_tensors(**{name: value})
    if tensor.ndim < ndim:
        wanted = "(members, ...)" if ndim == 1 else "(members, answers, ...)"
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(tensor.shape)}")
    check_tensor(tensor, name)
    if not tensor.is_floating_point():
        tensor = tensor.double()
    dtype = tensor.dtype
    half = dtype in (torch.float16, torch.bfloat16)
    return tensor.float() if half else tensor, restore, dtype
