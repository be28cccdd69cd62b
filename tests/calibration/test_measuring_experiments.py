"""The experiments on measuring calibration: against the library, closed forms and brute force."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from enough import calibration as cal
from enough.calibration import experiments
from enough.training import Sweep


def _forecasts(trials=6, n=120, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.random((trials, n)).round(2)  # ties, and forecasts on the edges
    p[:, :3] = (0.0, 1.0, 0.3)
    return p, (rng.random((trials, n)) < p**1.5).astype(float)


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_batched_errors_are_those_of_the_library(binning):
    p, y = _forecasts()
    found = experiments.binned_errors(p, y, 7, binning)
    for i, (forecast, outcome) in enumerate(zip(p, y.astype(int), strict=True)):

        def error(forecast=forecast, outcome=outcome, **options):
            return cal.expected_calibration_error(
                forecast, outcome, n_bins=7, binning=binning, **options
            )

        interval = cal.calibration_error_interval(forecast, outcome, n_bins=7, binning=binning)
        assert found["l1"][i] == pytest.approx(error(), abs=1e-12)
        assert found["maximum"][i] == pytest.approx(error(norm="max"), abs=1e-12)
        assert found["squared"][i] == pytest.approx(error(norm="l2") ** 2, abs=1e-12)
        debiased = error(norm="l2", debias=True) ** 2
        assert max(found["debiased"][i], 0.0) == pytest.approx(debiased, abs=1e-12)
        assert max(found["unbiased"][i], 0.0) == pytest.approx(interval.value**2, abs=1e-12)


def test_floor_and_bias_are_exact_by_enumeration_of_all_outcomes():
    """All 2^9 outcomes, weighted: no sampling error. The last bin holds one sample."""
    p = np.array([0.05, 0.1, 0.15, 0.3, 0.32, 0.33, 0.7, 0.75, 0.95])
    outcomes = np.array(list(itertools.product([0.0, 1.0], repeat=len(p))))
    chance = np.where(outcomes == 1, p, 1 - p).prod(1)
    found = experiments.binned_errors(np.tile(p, (len(outcomes), 1)), outcomes, 5)
    mean = {name: float(chance @ values) for name, values in found.items()}
    assert mean["squared"] == pytest.approx(found["floor"][0], rel=1e-12)
    assert mean["unbiased"] == pytest.approx(0.0, abs=1e-15)
    assert mean["debiased"] == pytest.approx(-found["spread"][0], rel=1e-10)
    variances = [np.var(p[a:b], ddof=1) for a, b in ((0, 3), (3, 6), (6, 8))]
    assert found["spread"][0] == pytest.approx(sum(variances) / 9, rel=1e-12)
    assert found["spread"][0] > 1e-5


def test_normal_approximation_of_the_l1_floor():
    p = np.full((4000, 400), 0.3)
    y = (np.random.default_rng(1).random(p.shape) < p).astype(float)
    found = experiments.binned_errors(p, y, 10)
    assert found["floor_l1"][0] == pytest.approx(math.sqrt(2 * 0.21 / (math.pi * 400)))
    assert found["l1"].mean() == pytest.approx(found["floor_l1"][0], rel=0.05)


def test_table_of_calibrated_forecasts_meets_theory():
    table = experiments.calibrated_table([400, 1600], [8, 32], trials=800, seed=2)
    assert len(table) == 4
    assert np.allclose(table.squared / table.squared_theory, 1, atol=0.06)
    assert np.allclose(table.l1 / table.l1_theory, 1, atol=0.06)
    assert (table.unbiased.abs() < 4 * table.unbiased_se).all()
    mean = integrate.quad(lambda p: p * (1 - p), 0, 1)[0]
    root = integrate.quad(lambda p: math.sqrt(p * (1 - p)), 0, 1)[0]
    row = table.iloc[0]
    assert row.squared_theory == pytest.approx(8 * mean / 400)
    assert row.l1_theory == pytest.approx(math.sqrt(2 / math.pi * 8 / 400) * root)


def test_slope_makes_forecasts_overconfident_by_a_known_amount():
    point = experiments.calibrated_point(2000, 10, 300, slope=0.5, seed=3)
    edges = np.linspace(0, 1, 11)

    def gap(p):
        return p - 1 / (1 + math.sqrt((1 - p) / p))

    gaps = [10 * integrate.quad(gap, a, b)[0] for a, b in itertools.pairwise(edges)]
    truth = np.mean(np.square(gaps))
    error = point["unbiased"].std() / math.sqrt(300)
    assert abs(point["unbiased"].mean() - truth) < 4 * error
    assert truth > 20 * error
    known = experiments.coverage_point(0.5, 100, 10, datasets=1, resamples=2)
    assert known["true_l1"] == pytest.approx(np.abs(gaps).mean(), rel=1e-6)
    assert known["true_l2"] == pytest.approx(math.sqrt(truth), rel=1e-6)


def test_slopes_and_bins_share_their_forecasts():
    calibrated = experiments.calibrated_point(300, 10, 5, seed=4)
    tilted = experiments.calibrated_point(300, 10, 5, slope=0.9, seed=4)
    assert np.array_equal(calibrated["floor"], tilted["floor"])
    assert not np.array_equal(calibrated["l1"], tilted["l1"])
    again = experiments.calibrated_point(300, 10, 5, seed=4)
    assert all(np.array_equal(calibrated[k], again[k]) for k in again)
    other = experiments.calibrated_point(300, 10, 5, seed=5)
    assert not np.array_equal(calibrated["floor"], other["floor"])


def test_smooth_error_of_calibrated_forecasts_follows_its_constant():
    point = experiments.smooth_point(4000, 24, seed=5)
    assert point["theory"] == pytest.approx(0.3025 * 4000 ** (-1 / 3), rel=1e-3)
    assert point["smooth"].mean() == pytest.approx(point["theory"], rel=0.12)


def test_bootstrap_fails_where_the_normal_interval_does_not():
    table = experiments.coverage_table(
        (1.0, 0.5), n_samples=600, datasets=60, resamples=150, seed=6
    )
    held = table.pivot(index="slope", columns="method", values="held")
    assert held.loc[1.0, "percentile"] == 0 < held.loc[1.0, "basic"]
    assert held.loc[1.0, "normal"] >= 55
    assert held.loc[0.5, "normal"] >= 50
    assert held.loc[0.5, "basic"] > held.loc[1.0, "basic"]
    silent = table.set_index("slope").low_is_zero
    assert silent[1.0].min() >= 55
    # There the estimate is about three standard errors above 0: one interval in six reaches 0.
    assert 1 <= silent[0.5].max() <= 22
    assert (table.datasets == 60).all()


def test_resampled_errors_are_those_of_the_library_bootstrap():
    """Same ends as `bootstrap_interval`, up to the noise of the resamples."""
    from enough.calibration.experiments import measuring

    rng = np.random.default_rng(7)
    p = torch.tensor(rng.random(500))
    y = torch.tensor((rng.random(500) < 0.5).astype(np.int64))
    numbers = measuring._bin_numbers(p[None], 10, "uniform")[0]
    stream = torch.Generator().manual_seed(0)
    ours = np.quantile(measuring._resampled_l1(p - y, numbers, 10, 2000, stream), (0.025, 0.975))
    peer = cal.bootstrap_interval(
        cal.expected_calibration_error, p, y, n_bins=10, method="percentile", generator=0
    )
    assert np.allclose(ours, (peer.low, peer.high), atol=0.006)
    assert ours[1] - ours[0] > 0.04


@pytest.fixture(scope="module")
def networks():
    return {
        task: experiments.network_point(task, 3, steps=60, seed=8)
        for task in ("digits", "breast_cancer")
    }


def test_networks_learn_on_splits_of_their_own(networks):
    for task, shape in (("digits", (3, 1497, 10)), ("breast_cancer", (3, 369, 2))):
        point = networks[task]
        assert point["probs"].shape == point["logits"].shape == shape
        assert point["labels"].shape == shape[:2]
        assert np.allclose(point["probs"].sum(-1), 1)
        assert ((point["probs"].argmax(-1) == point["labels"]).mean(1) > 0.8).all()
        assert not np.array_equal(point["labels"][0], point["labels"][1])
    alone = experiments.network_point("breast_cancer", 1, steps=60, seed=8)
    assert np.array_equal(alone["labels"][0], networks["breast_cancer"]["labels"][0])
    assert np.allclose(alone["probs"][0], networks["breast_cancer"]["probs"][0], atol=1e-4)


def test_shuffled_labels_teach_nothing():
    point = experiments.network_point("breast_cancer", 4, steps=200, shuffle=True, seed=9)
    accuracy = (point["probs"].argmax(-1) == point["labels"]).mean()
    assert 0.4 < accuracy < 0.66
    share = point["labels"].mean()
    assert 0.55 < share < 0.7  # the labels themselves are all there


def test_network_table_measures_the_top_label(networks):
    point = networks["digits"]
    table = experiments.network_table(point["probs"], point["labels"], 10)
    for i, row in table.iterrows():
        probs, labels = point["probs"][i], point["labels"][i]
        confidence, right = probs.max(1), probs.argmax(1) == labels
        assert row.accuracy == pytest.approx(right.mean())
        assert row.confidence == pytest.approx(confidence.mean())
        assert row.l1 == pytest.approx(cal.expected_calibration_error(probs, labels, n_bins=10))
        assert row.mcb - row.dsc + row.unc == pytest.approx(((confidence - right) ** 2).mean())
        assert row.interval_low <= math.sqrt(max(row.unbiased, 0)) <= row.interval_high


def test_conformal_thresholds_follow_the_beta_distribution():
    point = experiments.conformal_point(39, 0.2, 4000, seed=10)
    law = stats.beta(32, 8)
    assert point["k"] == 32
    assert point["mean"] == pytest.approx(law.mean())
    assert point["sd"] == pytest.approx(law.std())
    assert stats.kstest(point["coverage"], law.cdf).pvalue > 1e-3
    shifted = experiments.conformal_point(39, 0.2, 4000, shift=1.0, seed=10)
    threshold = stats.norm.ppf(point["coverage"])
    assert np.allclose(shifted["coverage"], stats.norm.cdf(threshold - 1.0), atol=1e-9)


def test_conformal_coverage_counts_what_the_sets_hold(networks):
    probs, labels = networks["breast_cancer"]["probs"], networks["breast_cancer"]["labels"]
    found = experiments.conformal_coverage(probs, labels, 99, 0.1, divisions=40, seed=11)
    assert found.shape == (3, 40)
    assert abs(found.mean() - 0.9) < 0.03
    # Every division counts whole samples among the 270 that are left.
    assert np.allclose(found * 270, np.round(found * 270))
    # One forecast for all: every score is 0.5, and every set holds both classes.
    same = experiments.conformal_coverage(np.full((1, 50, 2), 0.5), labels[:1, :50], 19, 0.1, 3)
    assert (same == 1.0).all()


def test_conformal_coverage_agrees_with_conformal_sets(networks):
    from enough.runtime import named_generator

    probs, labels = networks["digits"]["probs"], networks["digits"]["labels"]
    found = experiments.conformal_coverage(probs, labels, 60, 0.2, divisions=1, seed=12)
    order = torch.randperm(1497, generator=named_generator(12, "divisions", 0)).numpy()
    known, new = order[:60], order[60:]
    sets = cal.conformal_sets(probs[0][new], probs[0][known], labels[0][known], 0.2)
    assert found[0, 0] == pytest.approx(sets[np.arange(len(new)), labels[0][new]].mean())


def test_quantile_regressions_cross_and_hold_their_share():
    point = experiments.quantile_point(3, 120, [0.1, 0.4, 0.5, 0.6, 0.9], seed=13)
    assert point["prediction"].shape == (3, 322, 5)
    below = (point["target"][..., None] <= point["prediction"]).mean((0, 1))
    assert np.allclose(below, point["levels"], atol=0.1)
    assert (np.diff(point["prediction"], axis=-1) < 0).any()
    again = experiments.quantile_point(1, 120, [0.5], seed=13)
    assert np.allclose(again["prediction"][0, :, 0], point["prediction"][0, :, 2])


def test_points_run_in_a_sweep(tmp_path):
    assert pickle.loads(pickle.dumps(experiments.conformal_point)) is experiments.conformal_point
    sweep = Sweep(
        experiments.smooth_point, {"n_samples": [100, 200], "trials": [2]}, tmp_path / "s.db"
    )
    sweep.run()
    assert len(sweep.table()) == 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: experiments.binned_errors([0.1, 0.2], [0, 1]), "probs"),
        (lambda: experiments.binned_errors([[0.1, 1.2]], [[0, 1]]), "probs"),
        (lambda: experiments.binned_errors([[0.1, 0.2]], [[0, 2]]), "outcomes"),
        (lambda: experiments.binned_errors([[0.1, 0.2]], [[0, 1, 1]]), "outcomes"),
        (lambda: experiments.binned_errors([[0.1, 0.2]], [[0, 1]], 0), "n_bins"),
        (lambda: experiments.binned_errors([[0.1, 0.2]], [[0, 1]], 3, "mass"), "binning"),
        (lambda: experiments.calibrated_point(100, trials=0), "trials"),
        (lambda: experiments.calibrated_point(1), "n_samples"),
        (lambda: experiments.calibrated_point(100, slope=-1.0), "slope"),
        (lambda: experiments.coverage_point(1.0, datasets=0), "datasets"),
        (lambda: experiments.coverage_point(1.0, resamples=1), "resamples"),
        (lambda: experiments.coverage_point(1.0, level=1.0), "level"),
        (lambda: experiments.network_point("letters"), "task"),
        (lambda: experiments.network_point(members=0), "members"),
        (lambda: experiments.network_table(np.ones((2, 3)), np.ones(2)), "probs"),
        (lambda: experiments.quantile_point(levels=[0.5, 1.0]), "levels"),
        (lambda: experiments.conformal_point(5, 0.1), "n_calibration"),
        (lambda: experiments.conformal_coverage(np.ones((1, 5, 1)), np.zeros((1, 5)), 5), "n_cal"),
        (lambda: experiments.smooth_point(100, 0), "trials"),
    ],
)
def test_wrong_arguments_are_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
