r"""Many tries, and a verifier that is not always right.

A problem is solved by one sample with probability p. The verifier accepts a right answer with
probability t (its true-positive rate) and a wrong one with probability f. Samples are drawn until
one is accepted, at most n. With :math:`a = pt + (1-p)f`, the probability that one try is accepted,

.. math::

    P(\text{accepted}) = 1 - (1-a)^n, \qquad
    P(\text{right} \mid \text{accepted}) = \frac{pt}{a}.

More tries raise the first and leave the second as it is. Over problems of different difficulty the
easy ones are accepted early, so that later tries meet the hard ones and the wrong answers that slip
through: when these cost something, there is a best number of tries [1]_.

References
----------
.. [1] B. Stroebl, S. Kapoor and A. Narayanan, "Inference Scaling fLaws: The Limits of LLM
   Resampling with Imperfect Verifiers", 2024, arXiv:2411.17501.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from enough.rewards._inputs import exact, read_counts, read_distribution
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "OptimalTries",
    "ResamplingOutcome",
    "optimal_tries",
    "pass_at_k",
    "pass_hat_k",
    "resampling_accuracy",
    "resampling_outcome",
]


@dataclass(frozen=True, eq=False)
class ResamplingOutcome:
    """What becomes of a problem when samples are tried until one is accepted.

    Parameters
    ----------
    n : int or array
        Most tries allowed.
    accuracy : float or array
        Probability that a right answer is returned; aligned with ``n``.
    error : float or array
        Probability that a wrong answer is returned.
    abstention : float or array
        Probability that no answer is accepted.
    precision : float or array
        Probability that a returned answer is right; NaN where none is ever returned.
    tries : float or array
        Expected number of samples drawn.
    utility : float or array
        Right answers at their value, minus wrong ones at their cost, plus abstentions at their
        value, minus tries at their cost.
    """

    n: Any
    accuracy: Any
    error: Any
    abstention: Any
    precision: Any
    tries: Any
    utility: Any


class OptimalTries(NamedTuple):
    """The best number of tries.

    Parameters
    ----------
    n : int or float
        The smallest number of tries with the highest utility; 0 means to abstain at once,
        ``inf`` that every further try helps.
    utility : float
        Its utility, the limit for ``inf``.
    """

    n: int | float
    utility: float


def resampling_accuracy(p_correct: Any, p_false_positive: Any, n: Any) -> Any:
    """Return the probability that resampling against a verifier returns a right answer.

    Parameters
    ----------
    p_correct : float or array
        Probability that one sample is right, in [0, 1].
    p_false_positive : float or array
        Probability that the verifier accepts a wrong answer, in [0, 1]. It accepts every right
        one.
    n : int or array of int
        Most samples tried, 1 or more. No accepted answer counts as wrong.

    Returns
    -------
    float or array
        p/a · (1 − (1 − a)^n) with a = p + (1 − p) f; broadcast over the arguments, in float64.
        A float when all are numbers.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1] or an n is not a whole number >= 1.

    Notes
    -----
    As n grows the accuracy tends to p/a, which is below 1 for every f > 0: resampling cannot
    buy what the verifier lacks. For other true-positive rates, several problems, values and
    costs see `resampling_outcome`.

    References
    ----------
    B. Stroebl, S. Kapoor and A. Narayanan, "Inference Scaling fLaws: The Limits of LLM
    Resampling with Imperfect Verifiers", 2024, arXiv:2411.17501.

    Examples
    --------
    >>> from enough.rewards import resampling_accuracy
    >>> resampling_accuracy(0.5, 0.0, 2), round(resampling_accuracy(0.5, 1.0, 100), 12)
    (0.75, 0.5)
    """
    (p, f), restore = as_tensors(p_correct=p_correct, p_false_positive=p_false_positive)
    p, f = _check_rate(p, "p_correct"), _check_rate(f, "p_false_positive")
    counts, restore_counts = read_counts(n)
    counts = counts.to(p.device)
    _check_broadcast(p_correct=p, p_false_positive=f, n=counts)
    accepted = p + (1.0 - p) * f
    tries = _expected_tries(accepted, counts.double())
    # p · E[tries]: each try is right and accepted with probability p, whatever came before.
    result = torch.clamp(p * tries, max=1.0)
    if result.ndim == 0:
        return float(result)
    return (restore_counts if isinstance(n, Tensor) else restore)(result)


def resampling_outcome(
    p_correct: Any,
    p_false_positive: Any,
    n: Any,
    *,
    p_true_positive: Any = 1.0,
    weights: Any = None,
    value: float = 1.0,
    error_cost: float = 0.0,
    abstention_value: float = 0.0,
    try_cost: float = 0.0,
) -> ResamplingOutcome:
    """Return accuracy, errors, abstentions and utility over a population of problems.

    Parameters
    ----------
    p_correct : float or array of shape (M,)
        Probability that one sample is right, by problem, in [0, 1].
    p_false_positive : float or array of shape (M,)
        Probability that a wrong sample is accepted.
    n : int or array of int
        Most samples tried, 0 or more; 0 abstains at once.
    p_true_positive : float or array of shape (M,), default 1.0
        Probability that a right sample is accepted.
    weights : array of shape (M,), optional
        Share of each problem, floating, summing to 1; equal by default.
    value : float, default 1.0
        Worth of a right answer returned.
    error_cost : float, default 0.0
        Cost of a wrong answer returned, 0 or more.
    abstention_value : float, default 0.0
        Worth of returning nothing; negative for a cost.
    try_cost : float, default 0.0
        Cost of one sample, 0 or more.

    Returns
    -------
    ResamplingOutcome
        Floats for one n, else arrays of the kind of ``n``, in float64.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1], shapes do not agree, an n is not a whole number
        >= 0, or a cost is out of range.

    References
    ----------
    B. Stroebl, S. Kapoor and A. Narayanan, "Inference Scaling fLaws: The Limits of LLM
    Resampling with Imperfect Verifiers", 2024, arXiv:2411.17501.

    Examples
    --------
    >>> from enough.rewards import resampling_outcome
    >>> found = resampling_outcome([0.6, 0.0], [0.1, 0.1], 100, weights=[0.6, 0.4], error_cost=1.0)
    >>> round(found.accuracy, 4), round(found.error, 4), round(found.utility, 4)
    (0.5625, 0.4375, 0.125)
    """
    problems = _read_problems(p_correct, p_false_positive, p_true_positive, weights)
    prices = _read_prices(value, error_cost, abstention_value, try_cost)
    counts, restore = read_counts(n, minimum=0)
    tries_each = _expected_tries(problems.accepted, counts.double()[..., None])
    right, wrong, tries = (
        (tries_each * rate) @ problems.weights for rate in (problems.right, problems.wrong, 1.0)
    )
    abstain = _power(problems.accepted, counts.double()[..., None]) @ problems.weights
    utility = (
        prices.value * right
        - prices.error_cost * wrong
        + prices.abstention_value * abstain
        - prices.try_cost * tries
    )
    parts = (right, wrong, abstain, right / (right + wrong), tries, utility)
    if counts.ndim == 0:
        return ResamplingOutcome(int(counts), *(float(part) for part in parts))
    if isinstance(n, Tensor):
        return ResamplingOutcome(n, *parts)
    return ResamplingOutcome(restore(counts), *(restore(part) for part in parts))


def optimal_tries(
    p_correct: Any,
    p_false_positive: Any,
    *,
    p_true_positive: Any = 1.0,
    weights: Any = None,
    value: float = 1.0,
    error_cost: float = 0.0,
    abstention_value: float = 0.0,
    try_cost: float = 0.0,
    max_n: int = 10_000,
) -> OptimalTries:
    """Return the number of tries with the highest utility.

    Parameters
    ----------
    p_correct : float or array of shape (M,)
        Probability that one sample is right, by problem, in [0, 1].
    p_false_positive : float or array of shape (M,)
        Probability that a wrong sample is accepted.
    p_true_positive : float or array of shape (M,), default 1.0
        Probability that a right sample is accepted.
    weights : array of shape (M,), optional
        Share of each problem, floating, summing to 1; equal by default.
    value : float, default 1.0
        Worth of a right answer returned.
    error_cost : float, default 0.0
        Cost of a wrong answer returned, 0 or more.
    abstention_value : float, default 0.0
        Worth of returning nothing; negative for a cost.
    try_cost : float, default 0.0
        Cost of one sample, 0 or more.
    max_n : int, default 10_000
        How far to look for a finite optimum.

    Returns
    -------
    OptimalTries
        The smallest best ``n`` and its ``utility``.

    Raises
    ------
    ValueError
        If an argument is out of range as in `resampling_outcome`, or if utility still rises at
        ``max_n`` although it must fall in the end.

    Notes
    -----
    The try after k rejections changes the utility by

        Δ_k = Σ_m w_m (1 − a_m)^k v_m,
        v_m = p_m t_m · value − (1 − p_m) f_m · error_cost − a_m · abstention_value − try_cost.

    If no v_m is negative, every try helps and the answer is infinite. In the end the sign of
    Δ_k is that of the problems that are accepted most rarely. Optima are found at the changes
    of sign of Δ_k, not on the utility, whose plateau is flat in floating point long before it is
    flat.

    References
    ----------
    B. Stroebl, S. Kapoor and A. Narayanan, "Inference Scaling fLaws: The Limits of LLM
    Resampling with Imperfect Verifiers", 2024, arXiv:2411.17501.

    Examples
    --------
    >>> from enough.rewards import optimal_tries
    >>> optimal_tries([0.6, 0.0], [0.1, 0.1], weights=[0.6, 0.4], error_cost=2.0).n
    2
    """
    problems = _read_problems(p_correct, p_false_positive, p_true_positive, weights)
    prices = _read_prices(value, error_cost, abstention_value, try_cost)
    max_n = check_integer(max_n, "max_n", minimum=1)
    gain = problems.weights * (
        prices.value * problems.right
        - prices.error_cost * problems.wrong
        - prices.abstention_value * problems.accepted
        - prices.try_cost
    )
    start = prices.abstention_value
    accepted, group = torch.unique(problems.accepted, return_inverse=True)
    gain = torch.zeros_like(accepted).index_add_(0, group, gain)
    gain, accepted = gain[gain != 0.0], accepted[gain != 0.0]
    if not len(gain):
        return OptimalTries(0, start)
    # An answer that is always accepted leaves nothing to a second try.
    rises_at_last = bool(gain[0] > 0.0) and float(accepted[0]) < 1.0
    marginal = _marginal_utilities(gain, accepted, max_n + 1)
    utility = start + torch.nn.functional.pad(marginal[:-1].cumsum(0), (1, 0))
    rising = marginal > 0.0
    underflow = marginal.abs().flip(0).cumsum(0).flip(0) == 0.0
    rising[underflow] = rises_at_last
    if bool(rising[-1]) and not rises_at_last:
        raise ValueError(f"max_n: expected more than {max_n}, where utility still rises")
    stops = ~rising  # the next try does not help, and the last one did
    stops[1:] &= rising[:-1]
    if rises_at_last:
        limit = start + float((gain / accepted).sum())
        if not bool(stops.any()) or limit > float(utility[stops].max()):
            return OptimalTries(math.inf, limit)
    best = int(torch.where(stops, utility, -math.inf).argmax())
    return OptimalTries(best, float(utility[best]))


def pass_at_k(n: Any, c: Any, k: Any) -> Any:
    """Estimate the probability that at least one of k samples is right, without bias.

    Parameters
    ----------
    n : int or array of int
        Samples drawn for a problem, 1 or more.
    c : int or array of int
        How many of them are right, from 0 to n.
    k : int or array of int
        Samples allowed, from 1 to n.

    Returns
    -------
    float or array
        1 − C(n − c, k)/C(n, k), broadcast over the arguments, in float64; a float when all are
        numbers. 0 for c = 0; 1 for n − c < k.

    Raises
    ------
    ValueError
        If an argument is not a whole number in its range. k > n has no unbiased estimate.

    Notes
    -----
    This is `best_of_n` for a pool of right and wrong answers and a perfect verifier. Of the
    plug-in 1 − (1 − c/n)^k, which draws with replacement, the expectation is too low.

    References
    ----------
    M. Chen et al., "Evaluating Large Language Models Trained on Code", 2021, arXiv:2107.03374.

    Examples
    --------
    >>> from enough.rewards import pass_at_k
    >>> pass_at_k(10, 3, 1), pass_at_k(5, 1, 5), pass_at_k(5, 0, 5)
    (0.3, 1.0, 0.0)
    """
    n, c, k, give = _read_passes(n, c, k)
    return give(0.0 - torch.expm1(_log_draw_ratio(n, n - c, k)))


def pass_hat_k(n: Any, c: Any, k: Any) -> Any:
    """Estimate the probability that all of k samples are right, without bias.

    Parameters
    ----------
    n : int or array of int
        Samples drawn for a problem, 1 or more.
    c : int or array of int
        How many of them are right, from 0 to n.
    k : int or array of int
        Samples that must all be right, from 1 to n.

    Returns
    -------
    float or array
        C(c, k)/C(n, k), broadcast over the arguments, in float64; a float when all are numbers.
        0 for c < k.

    Raises
    ------
    ValueError
        If an argument is not a whole number in its range.

    Examples
    --------
    >>> from enough.rewards import pass_hat_k
    >>> round(pass_hat_k(4, 2, 2), 12)
    0.166666666667
    """
    n, c, k, give = _read_passes(n, c, k)
    return give(_log_draw_ratio(n, c, k).exp())


class _Problems(NamedTuple):
    right: Tensor
    wrong: Tensor
    accepted: Tensor
    weights: Tensor


class _Prices(NamedTuple):
    value: float
    error_cost: float
    abstention_value: float
    try_cost: float


def _check_rate(rate: Tensor, name: str) -> Tensor:
    return exact(check_tensor(rate, name, minimum=0.0, maximum=1.0))


def _check_broadcast(**tensors: Tensor) -> None:
    try:
        torch.broadcast_shapes(*(t.shape for t in tensors.values()))
    except RuntimeError as error:
        shapes = " and ".join(str(tuple(t.shape)) for t in tensors.values())
        raise ValueError(
            f"{', '.join(tensors)}: expected shapes that broadcast, got {shapes}"
        ) from error


def _read_problems(p_correct: Any, p_false: Any, p_true: Any, weights: Any) -> _Problems:
    given = {"p_correct": p_correct, "p_false_positive": p_false, "p_true_positive": p_true}
    rates = []
    for name, value in given.items():
        (rate,), _ = as_tensors(**{name: value})
        check_tensor(rate, name, ndim=(0, 1))
        rates.append(_check_rate(rate, name).cpu())
    _check_broadcast(**dict(zip(given, rates, strict=True)))
    p, f, t = (rate.reshape(-1) for rate in torch.broadcast_tensors(*rates))
    if weights is None:
        share = torch.full_like(p, 1.0 / len(p))
    else:
        (share,), _ = as_tensors(weights=weights)
        check_tensor(share, "weights", shape=tuple(p.shape))
        share = read_distribution(share, "weights").cpu()
    right, wrong = p * t, (1.0 - p) * f
    return _Problems(right, wrong, (right + wrong).clamp(max=1.0), share)


def _read_prices(
    value: float, error_cost: float, abstention_value: float, try_cost: float
) -> _Prices:
    return _Prices(
        check_number(value, "value"),
        check_number(error_cost, "error_cost", minimum=0.0),
        check_number(abstention_value, "abstention_value"),
        check_number(try_cost, "try_cost", minimum=0.0),
    )


def _power(accepted: Tensor, n: Tensor) -> Tensor:
    """Return (1 − a)^n; 1 for n = 0."""
    return torch.where(n > 0.0, (n * torch.log1p(-accepted)).exp(), 1.0)


def _expected_tries(accepted: Tensor, n: Tensor) -> Tensor:
    """Return (1 − (1 − a)^n)/a, and its limit n at a = 0."""
    never = accepted == 0.0
    safe = torch.where(never, 1.0, accepted)
    stopped = torch.where(n > 0.0, -torch.expm1(n * torch.log1p(-safe)), 0.0)
    return torch.where(never, n, stopped / safe)


def _marginal_utilities(gain: Tensor, accepted: Tensor, n: int) -> Tensor:
    """Return Δ_k for k = 0 … n − 1, a block of k at a time."""
    block = max(1, 2**20 // len(gain))
    parts = []
    for first in range(0, n, block):
        k = torch.arange(first, min(first + block, n), dtype=torch.float64)[:, None]
        parts.append(_power(accepted, k) @ gain)
    return torch.cat(parts)


def _read_passes(
    n: Any, c: Any, k: Any
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], float | Any]]:
    counts, restores = {}, {}
    for name, value, minimum in (("n", n, 1), ("c", c, 0), ("k", k, 1)):
        counts[name], restores[name] = read_counts(value, name=name, minimum=minimum)
    _check_broadcast(**counts)
    drawn, right, allowed = torch.broadcast_tensors(*counts.values())
    for name, number in (("c", right), ("k", allowed)):
        if bool((number > drawn).any()):
            worst = int((number - drawn).flatten().argmax())
            raise ValueError(
                f"{name}: expected at most n = {int(drawn.flatten()[worst])}, "
                f"got {int(number.flatten()[worst])}"
            )

    def give(result: Tensor) -> Any:
        if result.ndim == 0:
            return float(result)
        tensor = next((v for v in (n, c, k) if isinstance(v, Tensor)), None)
        if tensor is None:
            return result.numpy()
        return result if tensor.device.type == "mps" else result.to(tensor.device)

    return drawn, right, allowed, give


def _log_draw_ratio(n: Tensor, m: Tensor, k: Tensor) -> Tensor:
    """Return log C(m, k)/C(n, k): k draws without replacement all among m of n.

    With j = n − m, the product of (m − i)/(n − i) over i < k equals that of (n − k − i)/(n − i)
    over i < j: the shorter one is taken, a block of factors at a time.
    """
    shape = n.shape
    n, m, k = (t.flatten().double()[:, None] for t in (n, m, k))
    out = n - m
    length = torch.minimum(out, k)
    less = torch.maximum(out, k)
    total = torch.zeros(len(n), dtype=torch.float64)
    block = max(1, 2**20 // max(1, len(n)))
    for first in range(0, int(length.max()), block):
        i = torch.arange(first, first + block, dtype=torch.float64)
        # The ratio is 0 or below where more are left out than remain.
        terms = torch.log1p(-(less / (n - i).clamp(min=1.0)).clamp(max=1.0))
        total += torch.where(i < length, terms, 0.0).sum(1)
    return total.reshape(shape)
