r"""Best-of-n sampling: what it reaches, and how far it moves the policy.

Draw n answers and keep the one with the highest proxy score. From one pool of N scored answers
the expected score of the kept one is estimated for every n without drawing again: among all
subsets of size n, the one whose best member has rank i (1 is the worst) has the share

.. math::

    w_i = \binom{i-1}{n-1} \Big/ \binom{N}{n}, \qquad
    w_N = \frac{n}{N}, \qquad w_{i-1} = w_i\,\frac{i-n}{i-1},

and :math:`\sum_i w_i g_{(i)}` is unbiased [1]_. The recurrence never leaves [0, 1]. The weights of
all ranks below i sum to :math:`w_i (i-n)/n`, so a sum from the top can stop when what is left
cannot matter.

The policy that best-of-n samples from is at most :math:`\log n - (n-1)/n` nats away from the one
it draws from, and exactly that far only when scores never tie [2]_.

References
----------
.. [1] J. Hilton and L. Gao, "Measuring Goodhart's law", OpenAI, 2022.
.. [2] A. Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", ICML 2025,
   arXiv:2401.01879.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

from enough.rewards._inputs import read_counts, read_levels, read_pool
from enough.runtime import as_generator, exact_device
from enough.runtime.validation import check_choice, check_integer, check_number

__all__ = [
    "BestOfN",
    "best_of_n",
    "best_of_n_distribution",
    "best_of_n_kl",
    "best_of_n_kl_ceiling",
    "best_of_n_kl_exact",
    "best_of_n_weights",
]

# Ranks summed at a time, and weights held at a time: small enough for the cache of a core.
BLOCK = {"cpu": 2**14, "cuda": 2**18}
CELLS = {"cpu": 2**16, "cuda": 2**22}
# Scores sorted at a time: prompts are worked on in groups.
ENTRIES = 2**23
# A sum of weights stops when all weights that are left add up to less than this.
NEGLIGIBLE = 1e-20


@dataclass(frozen=True, eq=False)
class BestOfN:
    """Expected scores of the best of n answers.

    Parameters
    ----------
    n : int or array
        How many answers compete.
    gold : float or array
        Expected gold score of the answer the proxy prefers, averaged over prompts; aligned
        with ``n``.
    proxy : float or array
        Its expected proxy score.
    gold_per_prompt, proxy_per_prompt : float or array
        The same before the average, of shape (prompts..., n...). Equal to ``gold`` and
        ``proxy`` for a pool of one prompt.
    """

    n: Any
    gold: Any
    proxy: Any
    gold_per_prompt: Any
    proxy_per_prompt: Any

    @property
    def kl(self) -> Any:
        """Upper bound log n − (n − 1)/n on the divergence, in nats; see `best_of_n_kl`."""
        return best_of_n_kl(self.n)

    def interval(
        self,
        which: str = "gold",
        *,
        level: float = 0.95,
        n_resamples: int = 999,
        method: str = "basic",
        generator: torch.Generator | int | None = None,
    ) -> tuple[Any, Any]:
        """Return a bootstrap interval over prompts.

        Parameters
        ----------
        which : {"gold", "proxy"}, default "gold"
            Whose interval.
        level : float, default 0.95
            Coverage aimed at, at every n by itself.
        n_resamples : int, default 999
            Resamples of the prompts, the same for every n.
        method : {"basic", "percentile", "BCa"}, default "basic"
            As in `scipy.stats.bootstrap`.
        generator : torch.Generator or int, optional
            Draws the resamples.

        Returns
        -------
        low, high : numpy.ndarray or float
            Ends of the interval, aligned with ``n``.

        Raises
        ------
        ValueError
            If the pool held fewer than two prompts, or an argument is out of range.

        Notes
        -----
        Prompts are resampled and samples are not: a resampled pool holds copies, and the best
        of n answers drawn from copies is worse than the best of n fresh ones.
        """
        check_choice(which, "which", ("gold", "proxy"))
        level = check_number(level, "level", above=0.0, below=1.0)
        n_resamples = check_integer(n_resamples, "n_resamples", minimum=2)
        check_choice(method, "method", ("basic", "percentile", "BCa"))
        values = getattr(self, f"{which}_per_prompt")
        values = np.asarray(values.cpu() if isinstance(values, Tensor) else values)
        shape = np.shape(getattr(self, which))
        values = values.astype(np.float64).reshape(-1, *shape)
        if values.shape[0] < 2:
            raise ValueError(f"interval: expected at least two prompts, got {values.shape[0]}")
        generator = as_generator(generator)
        seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        found = bootstrap(
            (values,),
            np.mean,
            n_resamples=n_resamples,
            batch=max(1, 10**7 // values.size),
            axis=0,
            confidence_level=level,
            method=method,
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        return (found.low, found.high) if shape else (float(found.low), float(found.high))


def best_of_n(proxy: Any, gold: Any, n: Any) -> BestOfN:
    """Estimate the scores of the best of n answers from one pool, without bias.

    Parameters
    ----------
    proxy : array of shape (..., N)
        Scores that choose, finite. Leading axes are prompts: each is estimated by itself,
        then they are averaged.
    gold : array of shape (..., N)
        Scores that count, finite.
    n : int or array of int
        How many answers compete, from 1 to N; one number or many at once.

    Returns
    -------
    BestOfN
        With attributes ``n``, ``gold`` and ``proxy``, aligned: floats for one n, else arrays
        of the kind, device and floating dtype of the scores.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or an n is no whole number in [1, N].

    Notes
    -----
    The estimate is the average over all subsets of size n, computed by weights on the sorted
    pool. Answers whose proxy scores are equal share their mean gold score, which is what a
    random choice among tied winners earns; the order of the pool never matters. At n = 1 the
    estimate is the mean of the pool, at n = N the gold score of its best answer.

    Drawing n answers *with* replacement instead (`best_of_n_distribution` of the pool with
    equal probabilities) underestimates the proxy score.

    The work is done in float64 and costs one sort plus about min(N, 46 N/n) weights for each
    n, a block at a time. The weights left out sum to less than 1e-20.

    References
    ----------
    J. Hilton and L. Gao, "Measuring Goodhart's law", OpenAI, 2022.

    Examples
    --------
    >>> from enough.rewards import best_of_n
    >>> round(best_of_n([1.0, 2.0, 3.0], [0.0, 5.0, 1.0], 2).gold, 9)  # (5 + 1 + 1)/3
    2.333333333
    """
    (scores, values), give = read_pool(proxy=proxy, gold=gold)
    n_samples = scores.shape[-1]
    counts, _ = read_counts(n, maximum=n_samples)
    prompts, shape = tuple(scores.shape[:-1]), tuple(counts.shape)
    distinct, where = torch.unique(counts, return_inverse=True)
    group = max(1, ENTRIES // n_samples)
    parts = []
    for some_scores, some_values in zip(
        scores.reshape(-1, n_samples).split(group),
        values.reshape(-1, n_samples).split(group),
        strict=True,
    ):
        ranked, order = _rank(some_scores)
        earned = _average_ties(ranked, some_values.gather(-1, order))
        columns = torch.cat([earned, ranked]).T.contiguous()
        parts.append(_weighted_sums(columns, distinct).unflatten(1, (2, -1)))
    sums = torch.cat(parts, dim=-1)[where.flatten().to(scores.device)]  # (n, 2, prompts)
    gold_each, proxy_each = sums.permute(1, 2, 0).reshape(2, *prompts, *shape)
    gold_mean, proxy_mean = sums.mean(-1).T.reshape(2, *shape)
    if shape:
        aligned = give(gold_mean)
        aligned = counts.to(aligned.device) if isinstance(aligned, Tensor) else counts.numpy()
        means = give(gold_mean), give(proxy_mean)
    else:
        aligned, means = int(counts), (float(gold_mean), float(proxy_mean))
    each = (give(gold_each), give(proxy_each)) if prompts else means
    return BestOfN(aligned, *means, *each)


def best_of_n_weights(n_samples: int, n: int) -> np.ndarray:
    """Return the weight of every rank in the unbiased best-of-n estimate.

    Parameters
    ----------
    n_samples : int
        Size N of the pool.
    n : int
        How many answers compete, from 1 to N.

    Returns
    -------
    numpy.ndarray of shape (N,)
        The share of subsets of size n whose best member has rank i, from the worst to the
        best: C(i − 1, n − 1)/C(N, n) for i = 1 … N. Weights that sum to less than 1e-20 may be
        0. In float64, relative error below 1e-12.

    Raises
    ------
    ValueError
        If ``n_samples`` is not a whole number >= 1, or ``n`` is not one in [1, N].

    Examples
    --------
    >>> from enough.rewards import best_of_n_weights
    >>> best_of_n_weights(4, 3)
    array([0.  , 0.  , 0.25, 0.75])
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    n = check_integer(n, "n", minimum=1, maximum=n_samples)
    weights = torch.zeros(n_samples, dtype=torch.float64)
    counts = torch.tensor([[float(n)]], dtype=torch.float64)
    for top, block in _weights(n_samples, counts, BLOCK["cpu"]):
        weights[top : top + block.shape[1]] = block[0]
    return weights.flip(0).numpy()


def best_of_n_kl(n: Any) -> Any:
    """Return log n − (n − 1)/n, the largest divergence that best-of-n can have.

    Parameters
    ----------
    n : int or array of int
        How many answers compete, 1 or more.

    Returns
    -------
    float or array
        In nats, in float64: a float for one n, else an array of the kind of ``n``. 0 at n = 1.

    Raises
    ------
    ValueError
        If an n is not a whole number >= 1.

    Notes
    -----
    Equal to the divergence of the best-of-n policy from the policy sampled when two answers
    never have the same score, as with a continuous score. For discrete policies it is an upper
    bound, and a loose one once n nears 1/P(top score): see `best_of_n_kl_exact`.

    References
    ----------
    A. Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", ICML 2025,
    arXiv:2401.01879.

    Examples
    --------
    >>> from enough.rewards import best_of_n_kl
    >>> round(best_of_n_kl(1000), 3)
    5.909
    """
    counts, restore = read_counts(n)
    counts = counts.double()
    kl = counts.log() - (counts - 1.0) / counts
    if kl.ndim == 0:
        return float(kl)
    return restore(kl.to(exact_device(n.device)) if isinstance(n, Tensor) else kl)


def best_of_n_distribution(probs: Any, scores: Any, n: Any) -> Any:
    """Return the distribution of the best of n draws from a discrete distribution.

    Parameters
    ----------
    probs : array of shape (K,)
        Probabilities of the outcomes, floating; entries of 0 are legal.
    scores : array of shape (K,)
        The score that chooses; among equal scores chance decides.
    n : int or array of int
        How many draws compete, 1 or more.

    Returns
    -------
    array of shape (n..., K)
        p(y)/p(level) · (F^n − F₋^n), with F the probability of a score at or below that of y and
        F₋ of one below. The kind, device and dtype of ``probs``.

    Raises
    ------
    ValueError
        If ``probs`` is no distribution, shapes differ, a score is not finite, or an n is not a
        whole number >= 1.

    Notes
    -----
    Computed in float64 from logarithms, so that n up to 1e15 loses no digits. With the equal
    probabilities of a pool this is best-of-n *with* replacement.

    References
    ----------
    A. Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", ICML 2025,
    arXiv:2401.01879.

    Examples
    --------
    >>> from enough.rewards import best_of_n_distribution
    >>> best_of_n_distribution([0.5, 0.5], [0.0, 1.0], 2)
    array([0.25, 0.75])
    """
    counts, _ = read_counts(n)
    base, level, mass = read_levels(probs, scores)
    log_share = _log_best_mass(mass, counts) - mass.log()
    result = base * log_share.exp()[..., level]
    if isinstance(probs, Tensor):
        return result.to(device=probs.device, dtype=probs.dtype)
    given = np.asarray(probs).dtype
    return result.cpu().numpy().astype(given)


def best_of_n_kl_exact(probs: Any, scores: Any, n: Any) -> Any:
    """Return the exact divergence of best-of-n from a discrete distribution.

    Parameters
    ----------
    probs : array of shape (K,)
        Probabilities of the outcomes, floating; entries of 0 are legal.
    scores : array of shape (K,)
        The score that chooses; among equal scores chance decides.
    n : int or array of int
        How many draws compete, 1 or more.

    Returns
    -------
    float or array
        KL(best-of-n ‖ ``probs``) in nats, in float64: a float for one n, else an array of the
        kind of ``probs``. Never above `best_of_n_kl` nor `best_of_n_kl_ceiling`.

    Raises
    ------
    ValueError
        If ``probs`` is no distribution, shapes differ, a score is not finite, or an n is not a
        whole number >= 1.

    References
    ----------
    A. Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", ICML 2025,
    arXiv:2401.01879.

    Examples
    --------
    >>> from enough.rewards import best_of_n_kl, best_of_n_kl_exact
    >>> round(best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 2), 3), round(best_of_n_kl(2), 3)
    (0.131, 0.193)
    """
    counts, _ = read_counts(n)
    _, _, mass = read_levels(probs, scores)
    log_mass = _log_best_mass(mass, counts)
    kl = (log_mass.exp() * (log_mass - mass.log())).sum(-1).clamp(min=0.0)
    if kl.ndim == 0:
        return float(kl)
    return kl if isinstance(probs, Tensor) else kl.cpu().numpy()


def best_of_n_kl_ceiling(probs: Any, scores: Any) -> float:
    """Return the divergence that best-of-n approaches as n grows, −log P(top score).

    Parameters
    ----------
    probs : array of shape (K,)
        Probabilities of the outcomes, floating.
    scores : array of shape (K,)
        The score that chooses. Outcomes of probability 0 do not count.

    Returns
    -------
    float
        In nats.

    Raises
    ------
    ValueError
        If ``probs`` is no distribution, shapes differ, or a score is not finite.

    Examples
    --------
    >>> from enough.rewards import best_of_n_kl_ceiling
    >>> round(best_of_n_kl_ceiling([0.5, 0.5], [0.0, 1.0]), 3)
    0.693
    """
    _, _, mass = read_levels(probs, scores)
    return max(0.0, -float(mass[-1].log()))


def _rank(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Sort rows from the best score down; return the scores and where they were."""
    if scores.device.type != "cpu":
        return tuple(scores.sort(dim=-1, descending=True))
    order = torch.from_numpy(np.argsort(-scores.numpy(), axis=-1))  # faster than torch's here
    return scores.gather(-1, order), order


def _average_ties(scores: Tensor, values: Tensor) -> Tensor:
    """Average values (prompts, N) over runs of equal scores, which are sorted."""
    tied = scores[:, 1:] == scores[:, :-1]
    if not bool(tied.any()):
        return values
    first = torch.nn.functional.pad(~tied, (1, 0), value=True).flatten()
    group = first.cumsum(0) - 1
    count = torch.bincount(group)
    total = torch.zeros(len(count), dtype=values.dtype, device=values.device)
    total.index_add_(0, group, values.flatten())
    return (total / count)[group].view_as(values)


def _weights(n_samples: int, n: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (offset from the top, weights (len(n), ranks)) until what is left is negligible."""
    for top in range(0, n_samples, size):
        stop = min(top + size, n_samples)
        rank = torch.arange(n_samples - top, n_samples - stop, -1, dtype=n.dtype, device=n.device)
        weights = torch.empty(n.shape[0], stop - top, dtype=n.dtype, device=n.device)
        weights[:, :1] = _weight(n_samples, n, n_samples - top)
        torch.sub(rank[:-1], n, out=weights[:, 1:])
        weights[:, 1:].clamp_(min=0.0).div_(rank[:-1] - 1.0)
        torch.cumprod(weights, 1, out=weights)
        yield top, weights
        if stop < n_samples:
            left = weights[:, -1:] * (rank[-1] - n)
            if bool((left <= NEGLIGIBLE * n).all()):
                return


def _weight(n_samples: int, n: Tensor, rank: int) -> Tensor:
    """Return the weight of one rank, n/N · Π_k (rank − k)/(N − k) over k = 1 … n − 1.

    Each block starts from it: rounding errors of the recurrence share a sign, and over a million
    steps they would add up.
    """
    weight = n / n_samples
    if rank < n_samples:
        k = torch.arange(1, int(n.max()), dtype=n.dtype, device=n.device)
        factors = (rank - k).clamp(min=0.0) / (n_samples - k)
        weight = weight * torch.where(k < n, factors, 1.0).prod(1, keepdim=True)
    return weight


def _weighted_sums(columns: Tensor, counts: Tensor) -> Tensor:
    """Return the weighted means (n, C) of columns (N, C), best rank first, n ascending."""
    n_samples = columns.shape[0]
    kind = "cpu" if columns.device.type == "cpu" else "cuda"
    size = min(n_samples, BLOCK[kind])
    columns = torch.nn.functional.pad(columns, (0, 1), value=1.0)  # the weights' own sum
    results = []
    for n in counts.to(columns).split(max(1, CELLS[kind] // size)):
        total = torch.zeros(len(n), columns.shape[1], dtype=columns.dtype, device=columns.device)
        for top, weights in _weights(n_samples, n[:, None], size):
            total += weights @ columns[top : top + weights.shape[1]]
        results.append(total[:, :-1] / total[:, -1:])
    return torch.cat(results)


def _log_best_mass(mass: Tensor, counts: Tensor) -> Tensor:
    """Return log(F^n − F₋^n) of each level, (n..., levels), from the levels' probabilities."""
    below = mass.cumsum(0)
    above = torch.nn.functional.pad(mass[1:].flip(0).cumsum(0).flip(0), (0, 1))
    log_cdf = torch.where(below < 0.5, below.log(), torch.log1p(-above.clamp(max=0.75)))
    log_keep = torch.log1p(-(mass / below).clamp(max=1.0))  # log(F₋/F)
    log_keep[0] = -torch.inf
    n = counts.to(device=mass.device, dtype=mass.dtype)[..., None]
    return n * log_cdf + torch.log(-torch.expm1(n * log_keep))
