"""Best-of-n against enumeration, exact fractions, closed forms and order-statistic integrals."""

from __future__ import annotations

import itertools
import math
import sys
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from enough.rewards import (
    best_of_n,
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_ceiling,
    best_of_n_kl_exact,
    best_of_n_weights,
)


def over_all_subsets(proxy, gold, n):
    """Return (gold, proxy) of the best, averaged over subsets and over tied winners, exactly."""
    gold_sum, proxy_sum, count = Fraction(0), Fraction(0), 0
    for subset in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        winners = [i for i in subset if proxy[i] == best]
        gold_sum += sum(Fraction(gold[i]) for i in winners) / len(winners)
        proxy_sum += Fraction(best)
        count += 1
    return float(gold_sum / count), float(proxy_sum / count)


def over_all_draws(probs, scores, n):
    """Return the exact distribution of the best of n draws, ties broken by chance."""
    result = [Fraction(0)] * len(probs)
    for draws in itertools.product(range(len(probs)), repeat=n):
        best = max(scores[i] for i in draws)
        winners = [i for i in draws if scores[i] == best]
        chance = math.prod(probs[i] for i in draws)
        for i in winners:
            result[i] += chance / len(winners)
    return result


def gaussian_maximum(n):
    """Return the expectation of the largest of n standard normals, by quadrature."""

    def density(x):
        return x * n * stats.norm.pdf(x) * math.exp((n - 1) * stats.norm.logcdf(x))

    return integrate.quad(density, -8, 12, epsabs=1e-12, limit=200, points=[0, 2, 4])[0]


POOLS = {
    "distinct": (
        [3.0, -1.0, 0.5, 2.0, 7.0, 1.0, -4.0, 0.0],
        [1.0, 5.0, -2.0, 0.0, -9.0, 3.0, 2.0, 8.0],
    ),
    "ties": ([1.0, 2.0, 2.0, 0.0, 1.0, 2.0, 0.0, 0.0], [4.0, -1.0, 6.0, 2.5, 0.0, 3.0, -7.0, 1.0]),
    "all equal": ([2.0] * 8, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("n", range(1, 9))
def test_equals_the_average_over_all_subsets(pool, n):
    proxy, gold = POOLS[pool]
    found = best_of_n(proxy, gold, n)
    want_gold, want_proxy = over_all_subsets(proxy, gold, n)
    assert found.gold == pytest.approx(want_gold, abs=1e-12)
    assert found.proxy == pytest.approx(want_proxy, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_small_pools_with_many_ties(data):
    size = data.draw(st.integers(1, 7))
    number = st.integers(-3, 3)
    proxy = data.draw(st.lists(number, min_size=size, max_size=size))
    gold = data.draw(st.lists(number, min_size=size, max_size=size))
    found = best_of_n(proxy, gold, range(1, size + 1))
    for i, n in enumerate(found.n):
        want = over_all_subsets(proxy, gold, int(n))
        assert (found.gold[i], found.proxy[i]) == pytest.approx(want, abs=1e-12)


def test_the_order_of_the_pool_does_not_matter():
    draw = np.random.RandomState(0)
    proxy, gold = draw.randint(0, 5, 200), draw.standard_normal(200)
    first = best_of_n(proxy, gold, [2, 17, 150])
    for order in (np.argsort(gold), np.argsort(-gold), draw.permutation(200)):
        again = best_of_n(proxy[order], gold[order], [2, 17, 150])
        np.testing.assert_allclose(again.gold, first.gold, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_weights_equal_fractions(size):
    for n in range(1, size + 1):
        exact = [
            float(Fraction(math.comb(i - 1, n - 1), math.comb(size, n))) for i in range(1, size + 1)
        ]
        weights = best_of_n_weights(size, n)
        np.testing.assert_allclose(weights, exact, rtol=1e-13, atol=1e-20)
        assert weights.sum() == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("n", [2, 61, 6144])
def test_weights_of_a_large_pool_equal_fractions(n):
    size = 40_000  # several blocks
    weights = best_of_n_weights(size, n)
    total = math.comb(size, n)
    for i in (size, size - 1, size - 57, size - 16_384, size - 20_000, size - 33_000):
        exact = float(Fraction(math.comb(i - 1, n - 1), total))
        assert weights[i - 1] == pytest.approx(exact, rel=1e-12, abs=1e-20)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)


def test_ranks_of_a_million_in_closed_form():
    # With the scores 1 … N, the best of n has the mean n (N + 1)/(n + 1), and M (M + 1) has the
    # mean n (N + 1)(N + 2)/(n + 2).
    size = 1_000_000
    rank = np.random.RandomState(0).permutation(size) + 1.0
    n = np.array([1, 2, 3, 10, 100, 1000, 12_345, 100_000, 999_999, 1_000_000])
    found = best_of_n(rank, rank * (rank + 1), n)
    np.testing.assert_allclose(found.proxy, n * (size + 1) / (n + 1), rtol=1e-12)
    np.testing.assert_allclose(found.gold, n * (size + 1) * (size + 2) / (n + 2), rtol=1e-12)
    constant = best_of_n(rank, np.full(size, 0.7), n)
    np.testing.assert_allclose(constant.gold, 0.7, rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "pools", "size", "known"), [(16, 4000, 40, 1.766), (1024, 60, 4096, 3.248)]
)
def test_unbiased_for_gaussian_scores(n, pools, size, known):
    expected = gaussian_maximum(n)
    assert expected == pytest.approx(known, abs=5e-4)
    draw = np.random.RandomState(n)
    proxy = draw.standard_normal((pools, size))
    gold = 0.6 * proxy + 0.8 * draw.standard_normal((pools, size))
    found = best_of_n(proxy, gold, n)
    for mean, each, want in (
        (found.proxy, found.proxy_per_prompt, expected),
        (found.gold, found.gold_per_prompt, 0.6 * expected),
    ):
        assert abs(mean - want) < 3.5 * each.std(ddof=1) / math.sqrt(pools)
    if n == 16:  # drawing with replacement is too low
        uniform = np.full(size, 1 / size)
        plug_in = [best_of_n_distribution(uniform, row, n) @ row for row in proxy[:1000]]
        assert np.mean(plug_in) < expected - 3.5 * np.std(plug_in, ddof=1) / math.sqrt(1000)
    assert expected <= math.sqrt(2 * best_of_n_kl(n))


def test_ends_are_the_mean_and_the_best():
    draw = np.random.RandomState(1)
    proxy, gold = draw.standard_normal(500), draw.standard_normal(500)
    found = best_of_n(proxy, gold, [1, 500])
    assert found.gold[0] == pytest.approx(gold.mean(), abs=1e-14)
    assert found.gold[1] == gold[proxy.argmax()]
    assert found.proxy[1] == proxy.max()
    assert best_of_n([5.0], [2.0], 1).gold == 2.0


def test_prompts_are_estimated_one_by_one():
    draw = np.random.RandomState(2)
    proxy, gold = draw.randint(0, 9, (2, 3, 50)), draw.standard_normal((2, 3, 50))
    n = np.array([[1, 4], [50, 4]])
    found = best_of_n(proxy, gold, n)
    assert found.gold_per_prompt.shape == (2, 3, 2, 2)
    assert found.gold.shape == found.proxy.shape == (2, 2)
    for a, b in np.ndindex(2, 3):
        one = best_of_n(proxy[a, b], gold[a, b], n)
        np.testing.assert_allclose(found.gold_per_prompt[a, b], one.gold, atol=1e-13)
        np.testing.assert_allclose(found.proxy_per_prompt[a, b], one.proxy, atol=1e-13)
    np.testing.assert_allclose(found.gold, found.gold_per_prompt.mean((0, 1)), atol=1e-14)
    single = best_of_n(proxy, gold, 4)
    assert isinstance(single.gold, float)
    assert single.gold_per_prompt.shape == (2, 3)
    assert single.gold == pytest.approx(found.gold[0, 1], abs=1e-13)


def test_groups_blocks_and_views_change_nothing(monkeypatch):
    draw = np.random.RandomState(6)
    proxy = torch.tensor(draw.randint(0, 30, (40, 9)), dtype=torch.float64).T
    gold = torch.tensor(draw.standard_normal((40, 9))).T
    n = torch.tensor([40, 1, 2, 2, 17, 33])
    whole = best_of_n(proxy, gold, n)
    module = sys.modules["enough.rewards.best_of_n"]
    monkeypatch.setattr(module, "ENTRIES", 90)  # two prompts
    monkeypatch.setattr(module, "BLOCK", {"cpu": 7})
    monkeypatch.setattr(module, "CELLS", {"cpu": 14})
    parts = best_of_n(proxy, gold, n)
    torch.testing.assert_close(parts.gold_per_prompt, whole.gold_per_prompt, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts.proxy_per_prompt, whole.proxy_per_prompt, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_kind_and_dtype_come_back(dtype):
    proxy = torch.linspace(-1, 1, 33, dtype=dtype)
    found = best_of_n(proxy, proxy.square(), torch.tensor([1, 3]))
    assert found.gold.dtype == found.proxy_per_prompt.dtype == dtype
    assert found.n.tolist() == [1, 3]
    exact = best_of_n(proxy.double().numpy(), proxy.square().double().numpy(), [1, 3])
    assert exact.gold.dtype == np.float64
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(found.gold.double().numpy(), exact.gold, rtol=eps)
    torch.testing.assert_close(found.kl, torch.tensor(best_of_n_kl([1, 3])))
    wins = best_of_n(np.arange(4), np.array([True, False, True, True]), 2.0)
    assert (wins.n, type(wins.gold)) == (2, float)


def test_gradients_and_inputs_are_left_alone():
    proxy = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    gold = torch.tensor([1.0, 5.0, 4.0])
    found = best_of_n(proxy, gold, [2, 3])
    assert not found.gold.requires_grad
    assert proxy.tolist() == [3.0, 1.0, 2.0]
    assert gold.tolist() == [1.0, 5.0, 4.0]


@pytest.mark.parametrize(
    ("proxy", "gold", "n", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, "^n: .*>= 1, got 0"),
        ([1.0, 2.0], [1.0, 2.0], 3, "^n: .*<= 2, got 3"),
        ([1.0, 2.0], [1.0, 2.0], [1, 3], "^n: "),
        ([1.0, 2.0], [1.0, 2.0], 1.5, "^n: expected whole numbers, got 1.5"),
        ([1.0, 2.0], [1.0, 2.0], True, "^n: "),
        ([1.0, 2.0], [1.0, 2.0], math.nan, "^n: "),
        ([1.0, 2.0], [1.0, 2.0], [], "^n: expected at least one"),
        ([1.0, math.nan], [1.0, 2.0], 1, "^proxy: .*1 NaN"),
        ([1.0, 2.0], [math.inf, 2.0], 1, "^gold: "),
        ([1.0, 2.0], [1.0, 2.0, 3.0], 1, r"^proxy, gold: .*same shape.*\(2,\) and \(3,\)"),
        (1.0, 1.0, 1, "^proxy: "),
        ([], [], 1, "^proxy: expected at least one"),
    ],
)
def test_bad_pools_are_refused(proxy, gold, n, message):
    with pytest.raises(ValueError, match=message):
        best_of_n(proxy, gold, n)


def test_interval_over_prompts():
    draw = np.random.RandomState(3)
    shift = draw.standard_normal((80, 1))
    proxy = draw.standard_normal((80, 30))
    found = best_of_n(proxy, proxy + shift, [1, 8])
    state = torch.random.get_rng_state()
    low, high = found.interval(generator=0)
    assert torch.equal(state, torch.random.get_rng_state())
    error = found.gold_per_prompt.std(0, ddof=1) / math.sqrt(80)
    np.testing.assert_allclose(low, found.gold - 1.96 * error, atol=0.35 * error.max())
    np.testing.assert_allclose(high, found.gold + 1.96 * error, atol=0.35 * error.max())
    again = found.interval(generator=0)
    np.testing.assert_array_equal(again[0], low)
    other = found.interval(generator=1)
    assert not np.array_equal(other[0], low)
    skewed = found.interval(generator=0, method="BCa")
    np.testing.assert_allclose(skewed, (low, high), atol=0.35 * error.max())
    narrow = found.interval("proxy", generator=0, level=0.5, method="percentile")
    assert np.all(narrow[1] - narrow[0] < high - low)
    # The same resamples serve every n, one at a time or together.
    alone = best_of_n(proxy, proxy + shift, 8).interval(generator=0)
    assert alone == pytest.approx((low[1], high[1]), abs=1e-12)
    assert type(alone[0]) is float


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "both"}, "^which"),
        ({"level": 1.0}, "^level"),
        ({"n_resamples": 1}, "^n_resamples"),
        ({"method": "t"}, "^method"),
    ],
)
def test_bad_intervals_are_refused(options, message):
    found = best_of_n([[1.0, 2.0], [0.0, 1.0]], [[1.0, 2.0], [0.0, 1.0]], 1)
    with pytest.raises(ValueError, match=message):
        found.interval(**options)
    with pytest.raises(ValueError, match="at least two prompts, got 1"):
        best_of_n([1.0, 2.0], [1.0, 2.0], 1).interval()


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match=r"^n_samples"):
        best_of_n_weights(0, 1)
    with pytest.raises(ValueError, match=r"^n: "):
        best_of_n_weights(3, 4)


# The divergence.


def test_kl_bound():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5, abs=1e-15)
    with mpmath.workdps(30):
        for n in (3, 1000, 10**9, 10**15):
            exact = float(mpmath.log(n) - mpmath.mpf(n - 1) / n)
            assert best_of_n_kl(n) == pytest.approx(exact, rel=1e-15)
    # The density of the best of n uniform draws is n u^(n − 1).
    n = 7
    found = integrate.quad(lambda u: n * u ** (n - 1) * math.log(n * u ** (n - 1)), 0, 1)[0]
    assert best_of_n_kl(n) == pytest.approx(found, abs=1e-9)
    several = best_of_n_kl([[1, 2], [3, 4]])
    assert isinstance(several, np.ndarray)
    assert several.shape == (2, 2)
    assert best_of_n_kl(torch.tensor([1, 64])).dtype == torch.float64
    for n in (0, -1, 2.5, [1, 0], math.inf):
        with pytest.raises(ValueError, match=r"^n: "):
            best_of_n_kl(n)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_distribution_and_divergence_equal_enumeration(n):
    probs = [Fraction(1, 10), Fraction(2, 10), Fraction(3, 10), Fraction(0), Fraction(4, 10)]
    scores = [2.0, 1.0, 2.0, 9.0, 0.5]
    exact = over_all_draws(probs, scores, n)
    floats = np.array(probs, dtype=float)
    found = best_of_n_distribution(floats, scores, n)
    np.testing.assert_allclose(found, np.array(exact, dtype=float), atol=1e-14)
    kl = sum(float(q) * math.log(q / p) for q, p in zip(exact, probs, strict=True) if q > 0)
    assert best_of_n_kl_exact(floats, scores, n) == pytest.approx(kl, abs=1e-13)


def test_known_divergences():
    assert best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 2) == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-15
    )
    assert best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 2) == pytest.approx(0.131, abs=5e-4)
    assert best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 64) == pytest.approx(0.693, abs=5e-4)
    levels = np.repeat(np.arange(10), 100)
    assert best_of_n_kl_exact(np.full(1000, 1e-3), levels, 64) == pytest.approx(2.293, abs=5e-4)
    assert best_of_n_kl_exact([0.2, 0.8], [3.0, 3.0], 50) == 0.0


def test_bound_and_ceiling_hold_and_are_reached():
    draw = np.random.RandomState(4)
    n = np.array([1, 2, 5, 30, 1000, 10**6, 10**9])
    for size in (1, 2, 20, 300):
        probs = draw.dirichlet(np.ones(size))
        scores = draw.randint(0, size, size)
        kl = best_of_n_kl_exact(probs, scores, n)
        ceiling = best_of_n_kl_ceiling(probs, scores)
        assert ceiling == pytest.approx(-math.log(probs[scores == scores.max()].sum()), abs=1e-12)
        assert np.all(kl <= np.minimum(best_of_n_kl(n), ceiling) + 1e-12)
        assert np.all(np.diff(kl) >= -1e-12)
        assert kl[0] == pytest.approx(0.0, abs=1e-14)
        assert kl[-1] == pytest.approx(ceiling, abs=1e-6)
    fine = best_of_n_kl_exact(np.full(10**6, 1e-6), np.arange(10**6), 100)
    assert fine == pytest.approx(best_of_n_kl(100), abs=1e-4)


def test_huge_n_and_tiny_probabilities():
    probs = [0.5, 0.3, 0.2 - 3e-9 - 1e-14, 3e-9, 1e-14]
    with mpmath.workdps(60):
        exact = [mpmath.mpf(p) for p in probs]
        exact = [p / sum(exact) for p in exact]
        for n in (10, 10**9, 10**14):
            below, kl, share = mpmath.mpf(0), mpmath.mpf(0), []
            for p in exact:
                q = (below + p) ** n - below**n
                share.append(float(q))
                kl += q * mpmath.log(q / p) if q > 0 else 0
                below += p
            found = best_of_n_distribution(probs, range(5), n)
            # n times the rounding of 1 − 1e-14 − 3e-9 is what float64 inputs allow.
            np.testing.assert_allclose(found, share, rtol=1e-9, atol=1e-300)
            assert best_of_n_kl_exact(probs, range(5), n) == pytest.approx(float(kl), rel=1e-9)


def test_kinds_of_distributions():
    probs = torch.tensor([0.25, 0.75], dtype=torch.float32)
    found = best_of_n_distribution(probs, torch.tensor([1.0, 0.0]), [1, 2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75], [0.4375, 0.5625]]))
    assert isinstance(best_of_n_kl_exact(probs, [1.0, 0.0], [1, 2]), torch.Tensor)
    assert isinstance(best_of_n_kl_exact(probs.numpy(), [1.0, 0.0], [1, 2]), np.ndarray)


@pytest.mark.parametrize(
    ("probs", "scores", "n", "message"),
    [
        ([0.5, 0.4], [0.0, 1.0], 2, "^probs: .*sum to 1, got the sum 0.9"),
        ([1.5, -0.5], [0.0, 1.0], 2, "^probs: "),
        ([1, 0], [0.0, 1.0], 2, "^probs: expected a floating-point dtype"),
        ([[0.5, 0.5]], [[0.0, 1.0]], 2, "^probs: expected 1 dimension"),
        ([0.5, 0.5], [0.0, math.nan], 2, "^scores: "),
        ([0.5, 0.5], [0.0], 2, r"^scores: expected shape \(2\)"),
        ([0.5, 0.5], [0.0, 1.0], 0, "^n: "),
    ],
)
def test_bad_distributions_are_refused(probs, scores, n, message):
    for function in (best_of_n_distribution, best_of_n_kl_exact):
        with pytest.raises(ValueError, match=message):
            function(probs, scores, n)
    if not message.startswith("^n"):
        with pytest.raises(ValueError, match=message):
            best_of_n_kl_ceiling(probs, scores)
