"""Best-of-n for 200 values of n from one pool of a million, beside three common ways.

``best_of_n`` sorts once and sums weights, blocks at a time, until what is left cannot matter. The
others: resampling n answers again and again; the exact weights as a loop over whole-number
binomials; the weights from log-gamma for every rank. The slow ones run on a part of the work and
are scaled up, as the note says. Each also meets two pools of eight, whose truth is an average over
all subsets: one with distinct proxy scores, one with ties. There, resampling adds noise of about
0.03.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy.special import gammaln

from enough.rewards import best_of_n
from side_by_side import Peer, compare, main

SIZE = 1_000_000
N_VALUES = 200
RESAMPLES = 100  # of n answers each; one of them is timed
LOOP_RANKS = 50  # of a million, for the loop over binomials
LOOP_N = (1, 10, 100, 1000)  # larger n cost more, so that scaling these up is generous
SOME = 20  # every 20th n, for log-gamma


def make_pool(size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return proxy and gold scores, and values of n spaced logarithmically up to the size."""
    draw = np.random.RandomState(0)
    proxy = draw.standard_normal(size)
    gold = 0.6 * proxy + 0.8 * draw.standard_normal(size)
    return proxy, gold, np.geomspace(1, size, N_VALUES).round().astype(int)


def resample(proxy, gold, n, n_resamples: int, seed: int = 0) -> np.ndarray:
    """Draw n answers with replacement, keep the best, average over resamples."""
    draw = np.random.default_rng(seed)
    result = []
    for count in n:
        total = 0.0
        for _ in range(n_resamples):
            index = draw.integers(0, len(proxy), count)
            total += gold[index[proxy[index].argmax()]]
        result.append(total / n_resamples)
    return np.array(result)


def binomial_loop(proxy, gold, n, ranks: int | None = None) -> np.ndarray:
    """Weight sorted answers by C(i − 1, n − 1)/C(N, n) in whole numbers, the top ranks only."""
    size = len(proxy)
    ordered = gold[proxy.argsort(kind="stable")]
    result = []
    for count in map(int, n):
        total = math.comb(size, count)
        first = max(count, size + 1 - (ranks or size))
        result.append(
            sum(
                math.comb(i - 1, count - 1) / total * ordered[i - 1] for i in range(first, size + 1)
            )
        )
    return np.array(result)


def log_gamma(proxy, gold, n) -> np.ndarray:
    """Weight all sorted answers by binomials from the logarithm of the gamma function."""
    size = len(proxy)
    ordered = gold[proxy.argsort(kind="stable")]
    rank = np.arange(1, size + 1)
    log_factorial = gammaln(np.arange(1, size + 2))  # of 0, 1, 2, …
    result = []
    for count in map(int, n):
        i = rank[count - 1 :]
        logs = log_factorial[i - 1] - log_factorial[i - count] - log_factorial[count - 1]
        logs -= log_factorial[size] - log_factorial[count] - log_factorial[size - count]
        result.append(np.exp(logs) @ ordered[count - 1 :])
    return np.array(result)


def largest_bias(estimate: Callable[..., np.ndarray], proxy: list, gold: list) -> float:
    """Return the largest |estimate − truth| over n = 1 … 8 on a pool of eight."""
    n = range(1, len(proxy) + 1)
    truth = []
    for count in n:
        each = []
        for subset in itertools.combinations(range(len(proxy)), count):
            best = max(proxy[i] for i in subset)
            each.append(np.mean([gold[i] for i in subset if proxy[i] == best]))
        truth.append(np.mean(each))
    return float(np.abs(estimate(np.array(proxy), np.array(gold), n) - truth).max())


def rows(quick: bool = False) -> list[dict]:
    """Measure the estimator and its peers.

    Parameters
    ----------
    quick : bool, default False
        A small pool, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes; the notes hold the largest errors on the two pools of eight.
    """
    size, ranks = (5_000, 2) if quick else (SIZE, LOOP_RANKS)
    proxy, gold, n = make_pool(size)
    small = {
        "ours": lambda p, g, k: best_of_n(p, g, k).gold,
        "resampling": lambda p, g, k: resample(p, g, k, 200 if quick else 20_000),
        "binomial loop": binomial_loop,
        "log-gamma": log_gamma,
    }
    distinct = [3.0, -1.0, 0.5, 2.0, 7.0, 1.0, -4.0, 0.0]
    tied = [1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 0.0]
    worth = [4.0, -1.0, 6.0, 2.5, 0.0, 3.0, -7.0, 1.0]
    errors = {
        name: f"{largest_bias(call, distinct, worth):.0e}, "
        f"{largest_bias(call, tied, worth):.0e} with ties"
        for name, call in small.items()
    }
    peers = {
        "resampling": Peer(
            lambda: resample(proxy, gold, n, 1),
            scale=RESAMPLES,
            note="one resample for every n is run",
        ),
        "binomial loop": Peer(
            lambda: binomial_loop(proxy, gold, LOOP_N, ranks),
            scale=size / ranks * N_VALUES / len(LOOP_N),
            note=f"{ranks} ranks at n = {', '.join(map(str, LOOP_N))} are run",
        ),
        "log-gamma": Peer(
            lambda: log_gamma(proxy, gold, n[::SOME]), scale=SOME, note=f"every {SOME}th n is run"
        ),
    }
    result = compare(
        f"best of n, pool {size:,}, {N_VALUES} n",
        lambda: best_of_n(proxy, gold, n),
        peers,
        rounds=2 if quick else 3,
        why={
            "resampling": "one sort and exact weights for every n, while the peer draws answers "
            "again and again",
            "binomial loop": "weights from the last by one product, cut where they no longer "
            "matter, while the peer forms whole-number binomials",
            "log-gamma": "weights are cut where they no longer matter, while the peer takes the "
            "logarithm of gamma for every rank",
        },
    )
    for row in result:
        mine, theirs = errors["ours"], errors[row["peer"]]
        row["note"] += f"; error on pools of eight: ours {mine}, peer {theirs}"
    return result


if __name__ == "__main__":
    main(rows)
