"""What it costs not to fit the examples that were seen once, when frequencies have a long tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "LongTailTrials",
    "expected_items",
    "fitting_price",
    "head_tail_frequencies",
    "simulate_long_tail",
    "singleton_cost",
    "uniform_frequencies",
    "zipf_frequencies",
]

_TOLERANCE = 1e-6


def zipf_frequencies(n_items: int, exponent: float = 1.0) -> Tensor:
    r"""Return the frequencies of Zipf's law.

    Parameters
    ----------
    n_items : int
        Number of items N.
    exponent : float, default 1.0
        Exponent s, zero or more; zero gives equal frequencies.

    Returns
    -------
    torch.Tensor, shape (N,)
        :math:`p_i = i^{-s} / \sum_j j^{-s}` in float64, falling.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n_items = check_integer(n_items, "n_items", minimum=1)
    exponent = check_number(exponent, "exponent", minimum=0.0)
    weights = torch.arange(1, n_items + 1, dtype=torch.float64) ** -exponent
    return weights / weights.sum()


def uniform_frequencies(n_items: int) -> Tensor:
    """Return equal frequencies: a population without a tail.

    Parameters
    ----------
    n_items : int
        Number of items N.

    Returns
    -------
    torch.Tensor, shape (N,)
        1/N in float64.

    Raises
    ------
    ValueError
        If ``n_items`` is not a whole number above zero.
    """
    return zipf_frequencies(n_items, 0.0)


def head_tail_frequencies(n_items: int, n_head: int, tail_mass: float) -> Tensor:
    """Return the frequencies of a few common items and many that hardly ever occur.

    Parameters
    ----------
    n_items : int
        Number of items N, 2 or more.
    n_head : int
        Common items, from 1 to N - 1. They share the mass ``1 - tail_mass`` equally.
    tail_mass : float
        Mass that the other items share equally, in [0, 1).

    Returns
    -------
    torch.Tensor, shape (N,)
        Frequencies in float64, the common items first.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n_items = check_integer(n_items, "n_items", minimum=2)
    n_head = check_integer(n_head, "n_head", minimum=1, maximum=n_items - 1)
    tail_mass = check_number(tail_mass, "tail_mass", minimum=0.0, below=1.0)
    frequencies = torch.empty(n_items, dtype=torch.float64)
    frequencies[:n_head] = (1.0 - tail_mass) / n_head
    frequencies[n_head:] = tail_mass / (n_items - n_head)
    return frequencies


def fitting_price(frequencies: Any, n_samples: int, multiplicity: int = 1) -> float:
    r"""Return what one misfitted item costs: Feldman's coefficient :math:`\tau_\ell`.

    Parameters
    ----------
    frequencies : array-like, shape (N,)
        Frequencies of the items, non-negative, with sum 1. Which item has which is unknown to
        the learner.
    n_samples : int
        Number of samples n.
    multiplicity : int, default 1
        How often the item was seen, :math:`\ell` in 0 … n; 1 for a singleton.

    Returns
    -------
    float
        Expected frequency of an item that was seen :math:`\ell` times,

        .. math::

            \tau_\ell = \frac{E[p^{\ell+1} (1-p)^{n-\ell}]}{E[p^\ell (1-p)^{n-\ell}]},

        with the mean over the N frequencies.

    Raises
    ------
    ValueError
        If an argument is out of range, or no item can be seen that often.

    Notes
    -----
    Evaluated with logarithms: the factors underflow long before the ratio does.

    References
    ----------
    .. [1] Feldman (2021), "Does learning require memorization? A short tale about a long
       tail", arXiv:1906.05271, main theorem.

    Examples
    --------
    >>> round(1000 * fitting_price(zipf_frequencies(2000), 1000), 3)
    0.413
    """
    p, n, seen = _task(frequencies, n_samples, multiplicity)
    logs = _log_probability(p, n, seen)
    bottom = torch.logsumexp(logs, 0)
    if not torch.isfinite(bottom):
        raise ValueError(
            f"multiplicity: expected a number of times that some item can be seen among {n} "
            f"samples, got {seen}"
        )
    return float(torch.exp(torch.logsumexp(logs + p.log(), 0) - bottom))


def expected_items(frequencies: Any, n_samples: int, multiplicity: int = 1) -> float:
    r"""Return the expected number of items that are seen exactly so often.

    Parameters
    ----------
    frequencies : array-like, shape (N,)
        Frequencies of the items, non-negative, with sum 1.
    n_samples : int
        Number of samples n.
    multiplicity : int, default 1
        How often, :math:`\ell` in 0 … n; 1 for singletons.

    Returns
    -------
    float
        :math:`\binom n\ell \sum_i p_i^\ell (1-p_i)^{n-\ell}`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    p, n, seen = _task(frequencies, n_samples, multiplicity)
    whole = torch.tensor([n + 1.0, seen + 1.0, n - seen + 1.0], dtype=torch.float64)
    total, inside, outside = torch.lgamma(whole)
    return float(torch.exp(_log_probability(p, n, seen) + total - inside - outside).sum())


def singleton_cost(
    frequencies: Any,
    n_samples: int,
    n_classes: int,
    noise_rate: float = 0.0,
    singletons: float | None = None,
) -> float:
    r"""Return the expected excess error of a learner that guesses on its singletons.

    Parameters
    ----------
    frequencies : array-like, shape (N,)
        Frequencies of the items, non-negative, with sum 1.
    n_samples : int
        Number of samples n.
    n_classes : int
        Number of classes K, 2 or more, equally likely for every item.
    noise_rate : float, default 0.0
        Probability :math:`\rho` that an observed label is another class.
    singletons : float, optional
        Number of singletons, when it is known from a sample. Default: its expectation.

    Returns
    -------
    float
        :math:`\tau_1 \cdot \#\text{singletons} \cdot (1 - \rho - 1/K)`. It is negative when
        the noise is so strong that a guess beats the observed label.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n_classes = check_integer(n_classes, "n_classes", minimum=2)
    noise_rate = check_number(noise_rate, "noise_rate", minimum=0.0, maximum=1.0)
    price = fitting_price(frequencies, n_samples)
    if singletons is None:
        singletons = expected_items(frequencies, n_samples)
    singletons = check_number(singletons, "singletons", minimum=0.0)
    return price * singletons * (1.0 - noise_rate - 1.0 / n_classes)


@dataclass(frozen=True, eq=False)
class LongTailTrials:
    """What `simulate_long_tail` measured, one entry a draw.

    Parameters
    ----------
    items : torch.Tensor, shape (draws,)
        Items that were seen exactly as often as the multiplicity says.
    mass : torch.Tensor, shape (draws,)
        Sum of their frequencies.
    fitting_error : torch.Tensor, shape (draws,)
        Population error of the learner that predicts the most frequent observed label, and
        guesses where it saw nothing.
    guessing_error : torch.Tensor, shape (draws,)
        Population error of the same learner, made to guess on these items too.
    """

    items: Tensor
    mass: Tensor
    fitting_error: Tensor
    guessing_error: Tensor

    @property
    def gap(self) -> Tensor:
        """Excess error of not fitting, shape (draws,)."""
        return self.guessing_error - self.fitting_error


def simulate_long_tail(
    frequencies: Any,
    n_samples: int,
    n_classes: int = 10,
    *,
    noise_rate: float = 0.0,
    multiplicity: int = 1,
    draws: int = 20,
    generator: torch.Generator | int | None = None,
) -> LongTailTrials:
    """Simulate two learners on items that share nothing but their frequencies.

    Every draw gives each item a uniformly random class, draws samples with replacement, flips
    observed labels, and computes the error of both learners over the whole population exactly.
    The learners use the same guesses, so that they differ on the items in question alone.

    Parameters
    ----------
    frequencies : array-like, shape (N,)
        Frequencies of the items, non-negative, with sum 1.
    n_samples : int
        Number of samples n.
    n_classes : int, default 10
        Number of classes K, 2 or more.
    noise_rate : float, default 0.0
        Probability that an observed label is one of the other classes.
    multiplicity : int, default 1
        The guessing learner guesses on items seen exactly so often, 1 or more.
    draws : int, default 20
        Independent draws.
    generator : torch.Generator, int, or None
        Source of randomness; see `enough.runtime.as_generator`.

    Returns
    -------
    LongTailTrials
        Counts, masses and errors in float64, one entry a draw.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    p, n, seen = _task(frequencies, n_samples, multiplicity)
    seen = check_integer(seen, "multiplicity", minimum=1)
    n_classes = check_integer(n_classes, "n_classes", minimum=2)
    noise_rate = check_number(noise_rate, "noise_rate", minimum=0.0, maximum=1.0)
    draws = check_integer(draws, "draws", minimum=1)
    stream = as_generator(generator)
    p = p.to(stream.device)
    rows = [_one_draw(p, n, n_classes, noise_rate, seen, stream) for _ in range(draws)]
    return LongTailTrials(*torch.tensor(rows, dtype=torch.float64).unbind(1))


def _one_draw(
    p: Tensor, n: int, n_classes: int, noise_rate: float, seen: int, stream: torch.Generator
) -> tuple[float, float, float, float]:
    place = dict(generator=stream, device=p.device)
    labels = torch.randint(n_classes, (len(p),), **place)
    items = torch.multinomial(p, n, replacement=True, generator=stream)
    flipped = torch.rand(n, **place) < noise_rate
    shift = torch.randint(1, n_classes, (n,), **place)
    observed = (labels[items] + shift * flipped) % n_classes
    votes = torch.bincount(items * n_classes + observed, minlength=len(p) * n_classes)
    votes = votes.view(len(p), n_classes)
    guess = torch.rand(votes.shape, dtype=torch.float64, **place)  # below one: it breaks ties
    chosen = votes.sum(1) == seen
    silent = torch.where(chosen[:, None], torch.zeros_like(votes), votes)
    fitting, guessing = ((v + guess).argmax(1) != labels for v in (votes, silent))
    parts = chosen.sum(), p[chosen].sum(), p[fitting].sum(), p[guessing].sum()
    return tuple(float(part) for part in parts)


def _task(frequencies: Any, n_samples: int, multiplicity: int) -> tuple[Tensor, int, int]:
    (p,), _ = as_tensors(frequencies=frequencies)
    check_tensor(p, "frequencies", ndim=1, floating=True, minimum=0.0)
    p = p.double()
    total = float(p.sum())
    if abs(total - 1.0) > _TOLERANCE:
        raise ValueError(f"frequencies: expected a sum of 1, got {total:.6g}")
    n = check_integer(n_samples, "n_samples", minimum=1)
    return p, n, check_integer(multiplicity, "multiplicity", minimum=0, maximum=n)


def _log_probability(p: Tensor, n: int, seen: int) -> Tensor:
    """Logarithm of p^l (1 - p)^(n - l), with 0^0 = 1."""
    return torch.special.xlogy(seen, p) + torch.special.xlog1py(n - seen, -p)
