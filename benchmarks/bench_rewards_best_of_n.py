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
from side_by_side import interleave, spread

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


def rows(repeats: int = 3) -> list[dict]:
    """Measure; one dict a peer.

    Parameters
    ----------
    repeats : int, default 3
        Interleaved rounds; the fastest counts.

    Returns
    -------
    list of dict
        Keys name, ours_s, peer, peer_s, ratio, spread (ours), note, and the largest error on
        the two pools of eight: ours_distinct, ours_tied, peer_distinct, peer_tied.
    """
    proxy, gold, n = make_pool()
    calls = {
        "ours": lambda: best_of_n(proxy, gold, n),
        "resampling": lambda: resample(proxy, gold, n, 1),
        "binomial loop": lambda: binomial_loop(proxy, gold, LOOP_N, LOOP_RANKS),
        "log-gamma": lambda: log_gamma(proxy, gold, n[::SOME]),
    }
    small = {
        "ours": lambda p, g, k: best_of_n(p, g, k).gold,
        "resampling": lambda p, g, k: resample(p, g, k, 20_000),
        "binomial loop": binomial_loop,
        "log-gamma": log_gamma,
    }
    factors = {
        "resampling": (RESAMPLES, f"{RESAMPLES} x the time of one resample for every n"),
        "binomial loop": (
            SIZE / LOOP_RANKS * N_VALUES / len(LOOP_N),
            f"{LOOP_RANKS} ranks at n = {', '.join(map(str, LOOP_N))}, scaled to all ranks and n",
        ),
        "log-gamma": (SOME, f"{SOME} x the time of every {SOME}th n"),
    }
    distinct = [3.0, -1.0, 0.5, 2.0, 7.0, 1.0, -4.0, 0.0]
    tied = [1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 0.0]
    worth = [4.0, -1.0, 6.0, 2.5, 0.0, 3.0, -7.0, 1.0]
    bias = {
        name: (largest_bias(call, distinct, worth), largest_bias(call, tied, worth))
        for name, call in small.items()
    }
    seconds = interleave(calls, repeats)
    fastest = min(seconds["ours"])
    result = []
    for peer, (factor, note) in factors.items():
        theirs = min(seconds[peer]) * factor
        result.append(
            {
                "name": f"best of n, pool {SIZE}, {N_VALUES} n",
                "ours_s": fastest,
                "peer": peer,
                "peer_s": theirs,
                "ratio": theirs / fastest,
                "spread": spread(seconds["ours"]),
                "note": note,
                "ours_distinct": bias["ours"][0],
                "ours_tied": bias["ours"][1],
                "peer_distinct": bias[peer][0],
                "peer_tied": bias[peer][1],
            }
        )
    return result


def main() -> None:
    """Print the table."""
    found = rows()
    first = found[0]
    print(
        f"{first['name']}: {first['ours_s']:.3f} s (slowest/fastest {first['spread']:.2f}), "
        f"error on pools of eight {first['ours_distinct']:.1e}, {first['ours_tied']:.1e} with ties"
    )
    print(f"{'peer':15}{'seconds':>11}{'ratio':>11}{'error':>10}{'with ties':>11}  note")
    for row in found:
        print(
            f"{row['peer']:15}{row['peer_s']:11.1f}{row['ratio']:11.1f}"
            f"{row['peer_distinct']:10.1e}{row['peer_tied']:11.1e}  {row['note']}"
        )


if __name__ == "__main__":
    main()
