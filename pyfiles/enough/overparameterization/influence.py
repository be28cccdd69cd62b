"""Memorization and influence of single examples, from many models trained on random subsets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from enough.runtime import as_generator, named_generator
from enough.runtime.validation import (
    as_tensors,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training import Ensemble

__all__ = ["InfluenceEstimate", "random_subsets", "subset_influence", "train_on_subsets"]


@dataclass(frozen=True, eq=False)
class InfluenceEstimate:
    """Outcomes of models trained on random subsets, and what follows from them.

    Parameters
    ----------
    membership : torch.Tensor of bool, shape (T, n)
        Which examples each of T models was trained on.
    train_outcome : torch.Tensor, shape (T, n)
        Outcome of each model on each training example, in it or not: 1 where it is right.
    test_outcome : torch.Tensor, shape (T, q)
        Outcome on each test example.
    """

    membership: Tensor
    train_outcome: Tensor
    test_outcome: Tensor

    @property
    def memorization(self) -> Tensor:
        """Outcome on an example with it in the subset minus without it, shape (n,)."""
        return self._memorization()[0]

    @property
    def memorization_se(self) -> Tensor:
        """Standard errors of the memorization, shape (n,)."""
        return self._memorization()[1]

    @property
    def influence(self) -> Tensor:
        """Effect of each training example on each test example, shape (n, q)."""
        return subset_influence(self.membership, self.test_outcome)[0]

    @property
    def influence_se(self) -> Tensor:
        """Standard errors of the influence, shape (n, q)."""
        return subset_influence(self.membership, self.test_outcome)[1]

    def half(self, which: int) -> InfluenceEstimate:
        """Return the estimate from every other model.

        Parameters
        ----------
        which : int
            0 for models 0, 2, 4, …; 1 for the others. What was selected on one half can be
            estimated without the bias of selection on the other.

        Returns
        -------
        InfluenceEstimate
            From half of the models.

        Raises
        ------
        ValueError
            If ``which`` is neither 0 nor 1.
        """
        which = check_integer(which, "which", minimum=0, maximum=1)
        parts = self.membership, self.train_outcome, self.test_outcome
        return InfluenceEstimate(*(part[which::2] for part in parts))

    def _memorization(self) -> tuple[Tensor, Tensor]:
        _check_sides(self.membership)

        def side(mask: Tensor) -> tuple[Tensor, Tensor]:
            mask = mask.double()
            count = mask.sum(0)
            mean = (mask * self.train_outcome).sum(0) / count
            squares = (mask * (self.train_outcome - mean).square()).sum(0)
            return mean, squares / (count * (count - 1))

        (inside, in_var), (outside, out_var) = side(self.membership), side(~self.membership)
        return inside - outside, (in_var + out_var).sqrt()


def random_subsets(
    n_samples: int,
    n_models: int,
    share: float = 0.7,
    generator: torch.Generator | int | None = None,
) -> Tensor:
    """Draw random subsets of one size, one a model.

    Parameters
    ----------
    n_samples : int
        Number of examples n, 2 or more.
    n_models : int
        Number of subsets T.
    share : float, default 0.7
        Size of a subset as a share of n, in (0, 1); rounded, at least 1 and at most n - 1.
    generator : torch.Generator, int, or None
        Source of randomness; see `enough.runtime.as_generator`.

    Returns
    -------
    torch.Tensor of bool, shape (T, n)
        True where an example belongs to the subset; every row has the same number of these.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=2)
    n_models = check_integer(n_models, "n_models", minimum=1)
    share = check_number(share, "share", above=0.0, below=1.0)
    size = min(max(round(share * n_samples), 1), n_samples - 1)
    stream = as_generator(generator)
    draws = torch.rand(n_models, n_samples, generator=stream, device=stream.device)
    rank = draws.argsort(1).argsort(1)
    return rank < size


def subset_influence(membership: Any, outcome: Any) -> tuple[Any, Any]:
    r"""Estimate the influence of every example from outcomes of subset-trained models.

    Parameters
    ----------
    membership : array-like of bool, shape (T, n)
        Which examples each model was trained on. Every example must be in some subsets and
        absent from others, at least twice each.
    outcome : array-like, shape (T, q)
        What each model gives on each test example: 1 for a right prediction and 0 for a wrong
        one, or any number.

    Returns
    -------
    influence : torch.Tensor or numpy.ndarray, shape (n, q)
        :math:`\hat E[o_j \mid i \in S] - \hat E[o_j \mid i \notin S]`, in float64.
    standard_error : torch.Tensor or numpy.ndarray, shape (n, q)
        Of this difference of two means, with separate variances. It is zero where all models
        on each side agree.

    Raises
    ------
    ValueError
        If shapes do not fit, or an example is not both in and out at least twice.

    References
    ----------
    .. [1] Feldman and Zhang (2020), "What neural networks memorize and why: discovering the
       long tail via influence estimation", arXiv:2008.03703.
    """
    (member, result), restore = as_tensors(membership=membership, outcome=outcome)
    check_tensor(member, "membership", ndim=2)
    if member.dtype != torch.bool:
        raise ValueError(f"membership: expected booleans, got {member.dtype}")
    check_tensor(result, "outcome", shape=(member.shape[0], None))
    _check_sides(member)
    result = result.double()
    center = result.mean(0)
    result = result - center  # the mean cancels in the difference; less rounding in squares
    squares = result.square()

    def side(mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = mask.double()
        count = mask.sum(0)[:, None]
        mean = mask.mT @ result / count
        variance = (mask.mT @ squares / count - mean.square()).clamp(min=0)
        return mean, variance / (count - 1)

    (inside, in_var), (outside, out_var) = side(member), side(~member)
    return restore(inside - outside), restore((in_var + out_var).sqrt())


def train_on_subsets(
    build: Callable[..., nn.Module],
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    n_models: int = 100,
    share: float = 0.7,
    seed: int = 0,
    outcome: Callable[[Tensor, Tensor], Tensor] | None = None,
    ensemble: dict[str, Any] | None = None,
    **fit: Any,
) -> InfluenceEstimate:
    """Train many models on random subsets as one batch and record what each gets right.

    Parameters
    ----------
    build : callable
        ``build(generator)`` returns a model, as in `enough.training.Ensemble`.
    x : array-like, shape (n, ...)
        Training inputs.
    y : array-like, shape (n, ...)
        Training targets.
    x_test : array-like, shape (q, ...)
        Test inputs.
    y_test : array-like, shape (q, ...)
        Test targets.
    n_models : int, default 100
        Number of models T, 4 or more.
    share : float, default 0.7
        Size of a subset as a share of n, as in `random_subsets`.
    seed : int, default 0
        Seed of the subsets, the initial weights and the order of the data.
    outcome : callable, optional
        ``outcome(prediction, target)`` maps predictions (T, q, ...) and targets (q, ...) to
        numbers (T, q). Default: 1 where the largest output is at the target's class, else 0.
    ensemble : dict, optional
        Further arguments of `enough.training.Ensemble`.
    **fit
        Further arguments of `enough.training.Ensemble.fit`.

    Returns
    -------
    InfluenceEstimate
        Memberships and outcomes in float64, with the estimates as properties.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    (x, y, x_test, y_test), _ = as_tensors(x=x, y=y, x_test=x_test, y_test=y_test)
    for name, inputs, targets in (("y", x, y), ("y_test", x_test, y_test)):
        check_tensor(targets, name)
        if len(targets) != len(inputs):
            raise ValueError(f"{name}: expected {len(inputs)} targets, got {len(targets)}")
    n_models = check_integer(n_models, "n_models", minimum=4)
    seed = check_integer(seed, "seed", minimum=0)
    member = random_subsets(len(x), n_models, share, named_generator(seed, "subsets"))
    size = int(member[0].sum())
    rows = member.nonzero()[:, 1].view(n_models, size).to(x.device)
    models = Ensemble(build, n_models, seed, **(ensemble or {}))
    models.fit(x[rows], y[rows], per_member=True, **fit)
    result = outcome or _is_right
    parts = ((x, y), (x_test, y_test))
    train, test = (result(models.predict(a, per_member=False), b).double() for a, b in parts)
    return InfluenceEstimate(member.to(train.device), train, test)


def _is_right(prediction: Tensor, target: Tensor) -> Tensor:
    return prediction.argmax(-1) == target


def _check_sides(member: Tensor) -> None:
    inside = member.sum(0)
    few = int(torch.minimum(inside, len(member) - inside).min())
    if few < 2:
        raise ValueError(
            "membership: expected every example in at least 2 subsets and out of at least 2, "
            f"got one that is on one side {few} time(s)"
        )
