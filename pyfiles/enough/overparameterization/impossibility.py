"""Why no bound computed from sample and predictor is tight everywhere: exact enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "ParitySolutions",
    "TwoWorlds",
    "enumerate_losses",
    "parity_error",
    "solve_parity",
    "two_worlds",
]

_LARGEST = 12  # domain points: 4096 labelings
_LARGEST_NULLITY = 20


@dataclass(frozen=True, eq=False)
class TwoWorlds:
    """One sample and one predictor in two worlds.

    Parameters
    ----------
    n_points : int
        Points of the domain d, all equally likely.
    n_seen : int
        Points n whose labels are in the sample; the predictor fits them.
    losses : numpy.ndarray, shape (2**(d - n),)
        Population error of the predictor in every labeling that agrees with the sample.
    """

    n_points: int
    n_seen: int
    losses: np.ndarray

    @property
    def agreeing_error(self) -> float:
        """Population error where the labels are those of the predictor."""
        return float(self.losses.min())

    @property
    def random_error(self) -> float:
        """Population error where unseen labels are fair coins: the mean over all labelings."""
        return float(self.losses.mean())

    @property
    def best_bound(self) -> float:
        """The number whose larger distance from the two population errors is smallest."""
        return (self.agreeing_error + self.random_error) / 2

    @property
    def smallest_error(self) -> float:
        """How far that best number is off in the worse of the two worlds."""
        return self.bound_error(self.best_bound)

    def bound_error(self, bound: float) -> float:
        """Return how far a number is off in the worse of the two worlds.

        Parameters
        ----------
        bound : float
            What somebody computed from the sample and the predictor.

        Returns
        -------
        float
            The larger distance from the two population errors.

        Raises
        ------
        ValueError
            If ``bound`` is not a finite number.
        """
        bound = check_number(bound, "bound")
        return max(abs(bound - self.agreeing_error), abs(bound - self.random_error))


def two_worlds(predictions: Any, seen: Any) -> TwoWorlds:
    """Enumerate the worlds in which a predictor fits its sample.

    Parameters
    ----------
    predictions : array-like of {0, 1}, shape (d,)
        Predicted label of every point of the domain, at most 12 of them.
    seen : array-like of bool, shape (d,)
        Which points are in the sample. Their labels are the predictions.

    Returns
    -------
    TwoWorlds
        The population errors, by enumeration of all labelings of the unseen points.

    Raises
    ------
    ValueError
        If shapes do not fit, the domain is too large, or entries are not 0 and 1.
    """
    (labels, mask), _ = as_tensors(predictions=predictions, seen=seen)
    check_tensor(labels, "predictions", ndim=1, minimum=0, maximum=1)
    d = check_integer(len(labels), "predictions: points", minimum=1, maximum=_LARGEST)
    check_tensor(mask, "seen", shape=(d,))
    if mask.dtype != torch.bool:
        raise ValueError(f"seen: expected booleans, got {mask.dtype}")
    h, mask = labels.cpu().numpy().astype(np.int64), mask.cpu().numpy()
    unseen = np.flatnonzero(~mask)
    worlds = np.tile(h, (2 ** len(unseen), 1))
    worlds[:, unseen] = _binary_words(len(unseen))
    return TwoWorlds(d, int(mask.sum()), (worlds != h).mean(1))


def enumerate_losses(
    learner: Callable[[np.ndarray, np.ndarray], Any], n_points: int, seen: Any
) -> np.ndarray:
    """Run a learner in every world of a finite domain.

    Parameters
    ----------
    learner : callable
        ``learner(points, labels)`` takes the seen points (n,) and their labels (n,) in {0, 1}
        and returns predictions for all points of the domain, (d,).
    n_points : int
        Points of the domain d, 1 to 12.
    seen : array-like of int, shape (n,)
        The seen points, distinct, in 0 … d - 1.

    Returns
    -------
    numpy.ndarray, shape (2**d,)
        Population error in each of the labelings.

    Raises
    ------
    ValueError
        If an argument is out of range, or the learner returns another shape.
    """
    d = check_integer(n_points, "n_points", minimum=1, maximum=_LARGEST)
    points = np.asarray(seen, dtype=np.int64)
    if points.ndim != 1 or len(set(points.tolist())) != len(points):
        raise ValueError(f"seen: expected distinct points, got {seen!r}")
    if len(points) and not (points.min() >= 0 and points.max() < d):
        raise ValueError(f"seen: expected points in 0 to {d - 1}, got {seen!r}")
    losses = []
    for world in _binary_words(d):
        answer = np.asarray(learner(points, world[points]))
        if answer.shape != (d,):
            raise ValueError(f"learner: expected {d} predictions, got shape {answer.shape}")
        losses.append((answer != world).mean())
    return np.array(losses)


@dataclass(frozen=True, eq=False)
class ParitySolutions:
    """All parities that fit a sample: an affine space over GF(2).

    Parameters
    ----------
    particular : numpy.ndarray of {0, 1}, shape (d,)
        One of them.
    null_basis : numpy.ndarray of {0, 1}, shape (k, d)
        Differences of solutions; the sums of these rows are all there are.
    """

    particular: np.ndarray
    null_basis: np.ndarray

    def __len__(self) -> int:
        return 2 ** len(self.null_basis)

    def all(self) -> np.ndarray:
        """Return all solutions.

        Returns
        -------
        numpy.ndarray of {0, 1}, shape (2**k, d)
            In the order of the binary words of length k.

        Raises
        ------
        ValueError
            If there are more than 2**20.
        """
        k = check_integer(
            len(self.null_basis), "null_basis: dimension", minimum=0, maximum=_LARGEST_NULLITY
        )
        return (_binary_words(k) @ self.null_basis + self.particular) % 2

    def minimum_weight(self) -> np.ndarray:
        """Return the solution with the fewest ones; among equals, the first word in order.

        Returns
        -------
        numpy.ndarray of {0, 1}, shape (d,)
            The sparsest parity. Ties go to the smallest word read as a binary number, so that
            the answer does not depend on how the solutions were found.

        Raises
        ------
        ValueError
            If there are more than 2**20 solutions.
        """
        words = self.all()
        lightest = words[words.sum(1) == words.sum(1).min()]
        return lightest[np.lexsort(lightest.T[::-1])[0]]

    def sample(self, generator: torch.Generator | int | None = None) -> np.ndarray:
        """Draw a solution uniformly.

        Parameters
        ----------
        generator : torch.Generator, int, or None
            Source of randomness; see `enough.runtime.as_generator`.

        Returns
        -------
        numpy.ndarray of {0, 1}, shape (d,)
            A parity that fits the sample.
        """
        stream = as_generator(generator)
        coins = torch.randint(2, (len(self.null_basis),), generator=stream, device=stream.device)
        return (coins.cpu().numpy() @ self.null_basis + self.particular) % 2


def solve_parity(x: Any, y: Any) -> ParitySolutions:
    r"""Find all parities :math:`h_w(x) = \langle w, x\rangle \bmod 2` that fit a sample.

    Parameters
    ----------
    x : array-like of {0, 1}, shape (n, d)
        Inputs.
    y : array-like of {0, 1}, shape (n,)
        Labels.

    Returns
    -------
    ParitySolutions
        By Gaussian elimination over GF(2).

    Raises
    ------
    ValueError
        If entries are not 0 and 1, shapes do not fit, or no parity fits.
    """
    (points, labels), _ = as_tensors(x=x, y=y)
    check_tensor(points, "x", ndim=2, minimum=0, maximum=1)
    check_tensor(labels, "y", shape=(points.shape[0],), minimum=0, maximum=1)
    table = torch.cat([points.long(), labels.long()[:, None]], 1).cpu().numpy() % 2
    d = points.shape[1]
    pivots: list[int] = []
    for column in range(d):
        row = len(pivots)
        found = np.flatnonzero(table[row:, column])
        if not len(found):
            continue
        table[[row, row + found[0]]] = table[[row + found[0], row]]
        others = np.flatnonzero(table[:, column])
        others = others[others != row]
        table[others] ^= table[row]
        pivots.append(column)
        if len(pivots) == len(table):
            break
    if table[len(pivots) :, d].any():
        raise ValueError("y: expected labels that some parity fits, got a contradiction")
    particular = np.zeros(d, dtype=np.int64)
    particular[pivots] = table[: len(pivots), d]
    free = [column for column in range(d) if column not in pivots]
    basis = np.zeros((len(free), d), dtype=np.int64)
    for i, column in enumerate(free):
        basis[i, column] = 1
        basis[i, pivots] = table[: len(pivots), column]
    return ParitySolutions(particular, basis)


def parity_error(w: Any, v: Any) -> float:
    """Return the population error of one parity where another one gives the labels.

    Parameters
    ----------
    w, v : array-like of {0, 1}, shape (d,)
        The parities. Inputs are uniform on the binary words of length d.

    Returns
    -------
    float
        0 if they are equal; else exactly one half, since different parities disagree on half of
        the words.

    Raises
    ------
    ValueError
        If shapes do not fit or entries are not 0 and 1.
    """
    (a, b), _ = as_tensors(w=w, v=v)
    check_tensor(a, "w", ndim=1, minimum=0, maximum=1)
    check_tensor(b, "v", shape=a.shape, minimum=0, maximum=1)
    return 0.0 if bool((a == b).all()) else 0.5


def _binary_words(length: int) -> np.ndarray:
    return np.array(list(itertools.product((0, 1), repeat=length)), dtype=np.int64).reshape(
        2**length, length
    )
