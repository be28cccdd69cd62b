"""The sweeps of the chapter on best-of-n, against simulation, quadrature and counting."""

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from enough.book import exercises
from enough.rewards import BURST_WORLD, TokenWorlds
from enough.rewards.experiments import (
    COUNTS,
    drop_from_peak,
    estimator_point,
    expected_maximum,
    overoptimization_point,
    two_mode_curve,
)
from enough.training import Sweep

SMALL = dict(n_pairs=100, worlds=2, members=2, pool=512, counts=(1, 2, 16, 256), unrelated=3)


@pytest.fixture(scope="module")
def burst():
    return overoptimization_point("burst", (0.0, 0.25), seed=3, **SMALL)


def quadrature(n):
    """E max of n normals by adaptive quadrature of the density of the maximum."""

    def density(x):
        return x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)

    return integrate.quad(density, -12, 12, points=[0, 2, 4], limit=500, epsabs=1e-11)[0]


def test_counts_are_whole_and_end_at_4096():
    assert COUNTS[0] == 1
    assert COUNTS[-1] == 4096
    assert (np.diff(COUNTS) > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, 16, 1024, 100_000])
def test_expected_maximum_against_quadrature(n):
    assert expected_maximum(n) == pytest.approx(quadrature(n), abs=1e-8)


def test_expected_maximum_in_closed_form_and_bounded():
    assert expected_maximum(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-12)
    assert expected_maximum(3) == pytest.approx(1.5 / np.sqrt(np.pi), abs=1e-12)
    n = np.array([[2.0, 1e3], [1e6, 1e12]])
    found = expected_maximum(n)
    assert found.shape == (2, 2)
    kl = np.log(n) - (n - 1) / n
    assert (found < np.sqrt(2 * kl)).all()
    # The extreme-value limit, with its next order.
    scale = np.sqrt(2 * np.log(1e12))
    location = stats.norm.isf(1e-12)
    assert found[1, 1] == pytest.approx(location + np.euler_gamma / scale, abs=0.01)


def test_two_kinds_against_simulation():
    rng, n, trials = np.random.default_rng(0), 24, 40_000
    exploit = rng.random((trials, n)) < 0.05
    score = rng.normal(size=(trials, n)) * np.where(exploit, 1.8, 1.0)
    gold = np.where(exploit, -3.0, 0.6 * score + 0.8 * rng.normal(size=(trials, n)))
    best = score.argmax(1)[:, None]
    want = {"proxy": score, "gold": gold, "exploit": exploit.astype(float)}
    found = two_mode_curve(n, 0.6, probability=0.05, scale=1.8)
    for name, values in want.items():
        chosen = np.take_along_axis(values, best, 1)[:, 0]
        error = chosen.std() / np.sqrt(trials)
        assert abs(found[name] - chosen.mean()) < 4 * error, name


def test_two_kinds_of_equal_spread_keep_their_share():
    n = np.array([1.0, 10.0, 1e4])
    equal = two_mode_curve(n, 0.7, probability=0.01, scale=1.0)
    assert equal["exploit"] == pytest.approx(np.full(3, 0.01), abs=1e-12)
    assert equal["gold"] == pytest.approx(0.99 * 0.7 * expected_maximum(n) - 0.03, abs=1e-10)
    assert (two_mode_curve(1e4, 0.7, scale=0.5)["exploit"]) < 1e-6
    wide = two_mode_curve(1e9, 0.7, scale=2.0)
    assert wide["exploit"] == pytest.approx(1.0, abs=1e-4)
    assert wide["gold"] == pytest.approx(-3.0, abs=1e-3)


def test_two_kinds_do_not_depend_on_the_grid(monkeypatch):
    from enough.rewards.experiments import best_of_n as module

    coarse = two_mode_curve([1, 64, 1e6], 0.7, scale=3.0)
    monkeypatch.setattr(module, "_STEP", 0.004)
    fine = two_mode_curve([1, 64, 1e6], 0.7, scale=3.0)
    for name in coarse:
        assert coarse[name] == pytest.approx(fine[name], abs=1e-10)


def test_drop_is_measured_from_the_peak_of_the_others():
    curves = np.array([[0.0, 1.0, 5.0, 0.0], [0.0, 4.0, 1.0, 2.0], [0.0, 3.0, 1.0, 4.0]])
    # Others of world 0 peak at index 1; of world 1 at index 2 (6 against 4); of 2 at index 2.
    assert drop_from_peak(curves) == pytest.approx([1.0, -1.0, -3.0])
    assert drop_from_peak(torch.tensor(curves)) == pytest.approx([1.0, -1.0, -3.0])


def test_drop_of_flat_noise_is_unbiased():
    noise = np.random.default_rng(1).normal(size=(400, 6, 12))
    drops = np.array([drop_from_peak(curves) for curves in noise])
    per_trial = drops.mean(1)
    assert abs(per_trial.mean()) < 4 * per_trial.std(ddof=1) / 20
    # A curve's own peak is not: that is what the function is for.
    assert (noise.max(-1) - noise[..., -1]).mean() > 1.0


def test_estimates_from_small_pools():
    found = estimator_point(8, (1, 3, 8), pools=4000, seed=5)
    assert found["without"].shape == found["replaced"].shape == (4000, 3)
    for name, truth in (
        ("without", expected_maximum([1, 3, 8])),
        ("replaced", replaced_truth(8, (1, 3, 8))),
    ):
        error = found[name].std(0, ddof=1) / np.sqrt(4000)
        assert (np.abs(found[name].mean(0) - truth) < 4 * error).all(), name
    np.testing.assert_allclose(found["replaced"][:, 0], found["without"][:, 0], atol=1e-12)


def replaced_truth(pool, counts):
    """Draws with replacement show k distinct scores with a known probability."""
    truth = []
    for n in counts:
        distinct = np.zeros(pool + 1)
        distinct[0] = 1.0
        for _ in range(n):
            new = distinct * np.arange(pool + 1) / pool
            new[1:] += distinct[:-1] * (pool - np.arange(pool)) / pool
            distinct = new
        truth.append(distinct[1:] @ expected_maximum(np.arange(1, pool + 1)))
    return np.array(truth)


def test_shapes_and_anchors(burst):
    assert burst["gold"].shape == burst["proxy"].shape == (2, 2, 2, 4)
    assert burst["correlation"].shape == (2, 2, 2)
    assert burst["rank_gold"].shape == (2, 2, 2, len(burst["rank"]))
    assert burst["oracle"].shape == burst["unrelated"].shape == (2, 4)
    assert burst["rank"][-1] == 512
    # Scores are normalized on the pool, and at n = 1 everyone picks at random.
    np.testing.assert_allclose(burst["proxy"][..., 0], 0.0, atol=1e-5)
    worlds = TokenWorlds(2, seed=3, config=BURST_WORLD)
    answers = worlds.features(worlds.sample(512))
    gold, hit = worlds.gold(answers).double(), (worlds.bursts(answers) > 0).double()
    first = np.broadcast_to(gold.mean(-1).numpy()[:, None], (2, 2, 2))
    np.testing.assert_allclose(burst["gold"][..., 0], first, atol=1e-6)
    np.testing.assert_allclose(burst["unrelated"][:, 0], first[0, :, 0], atol=1e-6)
    rate = np.broadcast_to(hit.mean(-1).numpy()[:, None], (2, 2, 2))
    np.testing.assert_allclose(burst["exploit"][..., 0], rate, atol=1e-9)
    # The bands of ranks are a partition of the pool.
    width = np.diff([0, *burst["rank"]])
    np.testing.assert_allclose(burst["rank_gold"] @ width / 512, first, atol=1e-6)


def test_best_of_n_by_drawing(burst):
    """The winner's scores by plain sampling of subsets, with models trained again."""
    from enough.rewards import RewardModels

    worlds = TokenWorlds(2, seed=3, config=BURST_WORLD)
    answers = worlds.features(worlds.sample(512))
    gold, hit = worlds.gold(answers).numpy(), (worlds.bursts(answers) > 0).numpy()
    pairs = worlds.preferences(100, noise=0.25)
    models = RewardModels(2, seed=3).fit(pairs.chosen, pairs.rejected, progress=False)
    score = models.normalize_score(answers).numpy()  # (members, worlds, N)
    rng = np.random.default_rng(0)
    subsets = rng.random((4000, 512)).argsort(1)[:, :16]
    for member, world in ((0, 1), (1, 0)):
        row = score[member, world][subsets]
        best = subsets[np.arange(4000), row.argmax(1)]
        truths = {"proxy": score[member, world], "gold": gold[world], "exploit": hit[world]}
        for name, truth in truths.items():
            chosen = truth[best].astype(float)
            gap = abs(burst[name][1, world, member, 2] - chosen.mean())
            assert gap < 4 * chosen.std() / np.sqrt(4000) + 1e-3, name
        # The first band holds the favorite alone, the last one the lower half of the pool.
        order = score[member, world].argsort()[::-1]
        bands = burst["rank_gold"][1, world, member]
        assert bands[0] == pytest.approx(gold[world][order[0]], abs=1e-5)
        assert bands[-1] == pytest.approx(gold[world][order[256:]].mean(), abs=1e-5)
        # Without bursts, and with the pool cut to the same size in both worlds.
        kept = [np.flatnonzero(~h)[: int((~hit).sum(1).min())] for h in hit][world]
        ranked = gold[world][kept][score[member, world][kept].argsort()]
        assert burst["gold_without"][1, world, member, 0] == pytest.approx(ranked.mean(), abs=1e-5)


def test_noise_is_paired_and_runs_repeat(burst):
    alone = overoptimization_point("burst", (0.25,), seed=3, **SMALL)
    np.testing.assert_allclose(alone["gold"][0], burst["gold"][1], atol=1e-6)
    np.testing.assert_array_equal(alone["oracle"], burst["oracle"])
    assert not np.allclose(burst["gold"][0, ..., 1:], burst["gold"][1, ..., 1:])
    other = overoptimization_point("burst", (0.25,), seed=4, **SMALL)
    assert not np.allclose(other["oracle"], burst["oracle"])


def test_oracle_never_falls_and_is_never_beaten(burst):
    assert (np.diff(burst["oracle"], axis=1) > 0).all()
    best = burst["oracle"][None, :, None, 1:]
    assert (burst["gold"][..., 1:] < best).all()


def test_naive_world_has_no_exploit():
    found = overoptimization_point("naive", seed=1, **SMALL)
    assert (found["exploit"] == 0).all()
    np.testing.assert_allclose(found["gold_without"], found["gold"], atol=1e-9)


def test_runs_in_a_sweep():
    grid = {"pool": [4], "counts": [(1, 4)], "pools": [10, 20], "seed": [2]}
    table = Sweep(estimator_point, grid, store=None).run().table()
    direct = pickle.loads(pickle.dumps(estimator_point))(4, (1, 4), pools=10, seed=2)
    np.testing.assert_allclose(np.array(table["without"][0]), direct["without"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overoptimization_point("real"), "world"),
        (lambda: overoptimization_point(noises=(1.5,)), "noises"),
        (lambda: overoptimization_point(pool=1), "pool"),
        (lambda: overoptimization_point(pool=64, counts=(65,)), "counts"),
        (lambda: overoptimization_point(unrelated=0), "unrelated"),
        (lambda: drop_from_peak([[1.0, 2.0]]), "curves"),
        (lambda: drop_from_peak([[1.0], [2.0]]), "curves"),
        (lambda: drop_from_peak([1.0, 2.0]), "curves"),
        (lambda: drop_from_peak([[1.0, np.nan], [1.0, 2.0]]), "curves"),
        (lambda: expected_maximum(0.5), "n"),
        (lambda: expected_maximum(1e13), "n"),
        (lambda: two_mode_curve(2, 1.5), "correlation"),
        (lambda: two_mode_curve(2, 0.5, probability=1.0), "probability"),
        (lambda: two_mode_curve(2, 0.5, scale=0.0), "scale"),
        (lambda: two_mode_curve(2, 0.5, exploit_gold=np.inf), "exploit_gold"),
        (lambda: estimator_point(4, (5,)), "counts"),
        (lambda: estimator_point(4, (2,), pools=1), "pools"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_exercises_reject_wrong_answers():
    wrong = {
        "weight": 0.6,
        "win_rate": lambda mass, n: n / (n + 1),
        "stop": 2**14,
    }
    for name, answer in wrong.items():
        with pytest.raises(AssertionError):
            exercises.check(f"rewards/best_of_n/{name}", answer)
