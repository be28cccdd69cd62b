"""Calibration errors against plain loops, closed forms and other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from enough.calibration import (
    average_calibration_error,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    reliability_curve,
)

pytest_plugins = ["calibration_fixtures"]


def event(probs, labels):
    """Return one forecast and one outcome a sample, by loops."""
    if probs.ndim == 1:
        return [float(p) for p in probs], [int(y) for y in labels]
    values, outcomes = [], []
    for row, label in zip(probs, labels, strict=True):
        best = 0
        for j, p in enumerate(row):
            if p > row[best]:
                best = j
        values.append(float(row[best]))
        outcomes.append(int(best == label))
    return values, outcomes


def bins_of(values, n_bins, binning):
    """Number the bin of each value, by loops over the definition."""
    if binning == "uniform":
        edges = [(i + 1) / n_bins for i in range(n_bins)]
    else:
        ordered = sorted(values)
        edges = sorted(
            {ordered[max(0, math.ceil(len(values) * (i + 1) / n_bins) - 1)] for i in range(n_bins)}
        )
    return [next(b for b, edge in enumerate(edges) if v <= edge) for v in values]


def gaps(values, outcomes, n_bins, binning):
    """Yield (count, mean forecast, share of events) of each non-empty bin."""
    index = bins_of(values, n_bins, binning)
    for b in sorted(set(index)):
        members = [i for i, bin_ in enumerate(index) if bin_ == b]
        yield (
            len(members),
            math.fsum(values[i] for i in members) / len(members),
            sum(outcomes[i] for i in members) / len(members),
        )


def loop_error(values, outcomes, n_bins, binning, norm, debias):
    total = 0.0
    for count, confidence, share in gaps(values, outcomes, n_bins, binning):
        gap = abs(confidence - share)
        if norm == "max":
            total = max(total, gap)
        elif norm == "l1":
            total += count / len(values) * gap
        elif not debias:
            total += count / len(values) * gap**2
        elif count > 1:
            total += count / len(values) * (gap**2 - share * (1 - share) / (count - 1))
    return math.sqrt(max(total, 0.0)) if norm == "l2" else total


SETTINGS = [("l1", False), ("l2", False), ("l2", True), ("max", False)]


@pytest.mark.parametrize("n_bins", [1, 2, 10, 15])
@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_equals_loops(cases, binning, n_bins):
    for name, (probs, labels) in cases.items():
        values, outcomes = event(probs, labels)
        for norm, debias in SETTINGS:
            ours = expected_calibration_error(
                probs, labels, n_bins=n_bins, binning=binning, norm=norm, debias=debias
            )
            theirs = loop_error(values, outcomes, n_bins, binning, norm, debias)
            # The root magnifies rounding of a debiased sum near 0: compare squares.
            power = 2 if norm == "l2" else 1
            assert ours**power == pytest.approx(theirs**power, abs=1e-12), (name, norm, debias)


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_classwise_equals_loops(cases, binning):
    for name, (probs, labels) in cases.items():
        if probs.ndim == 1:
            continue
        for norm, debias in SETTINGS:
            ours = expected_calibration_error(
                probs,
                labels,
                n_bins=10,
                binning=binning,
                norm=norm,
                debias=debias,
                classwise=True,
            )
            theirs = [
                loop_error(list(column), list(labels == j), 10, binning, norm, debias)
                for j, column in enumerate(probs.T.tolist())
            ]
            assert ours == pytest.approx(sum(theirs) / len(theirs), abs=1e-8), (name, norm)
            if norm != "l2":
                assert ours == pytest.approx(sum(theirs) / len(theirs), abs=1e-12), (name, norm)


def test_confidence_one_is_in_the_last_bin():
    # A package that gives 1.0 a bin of its own answers 0.525.
    assert expected_calibration_error([0.95, 1.0], [1, 0], n_bins=10) == pytest.approx(0.475)


def test_edges_belong_below_in_every_precision():
    values = torch.arange(1, 10, dtype=torch.float64) / 10
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        labels = torch.zeros(9, dtype=torch.int64)
        curve = reliability_curve(values.to(dtype), labels, n_bins=10)
        assert curve.count.tolist() == [1] * 9, dtype
        above = torch.nextafter(values.to(dtype), torch.ones((), dtype=dtype))
        both = torch.cat([values.to(dtype), above])
        curve = reliability_curve(both, torch.zeros(18, dtype=torch.int64), n_bins=10)
        assert curve.count.tolist() == [1] + [2] * 8 + [1], dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n_classes", [2, 3, 9])
def test_of_tied_classes_the_first_is_the_top_label(dtype, n_classes):
    # Two entries at one half, and as far above it as the tolerance lets them.
    half = torch.tensor(0.5, dtype=dtype)
    above = torch.nextafter(half, torch.ones((), dtype=dtype))
    for value in (half, above):
        rows = torch.zeros(n_classes, n_classes, dtype=dtype)
        rows[:, 0] = rows[:, -1] = value
        labels = torch.arange(n_classes)
        curve = reliability_curve(rows, labels, n_bins=3)
        assert curve.count.tolist() == [n_classes]
        assert curve.accuracy.item() == pytest.approx(1 / n_classes), value


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_classes", [3, 10])
def test_large_table_equals_numpy_and_a_bad_row_is_found_in_any_block(
    monkeypatch, threads, n_classes
):
    n_samples = 600_000 // n_classes  # some large blocks, many small ones
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(n_samples, n_classes, generator=generator).mul_(2).softmax(1)
    probs[::7] = torch.tensor([0.4, 0.4, 0.2] + [0.0] * (n_classes - 3))  # ties
    labels = torch.randint(n_classes, (n_samples,), generator=generator)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("enough.calibration._inputs._THREADED_ENTRIES", 1)
    table = probs.double().numpy()
    top, outcomes = table.max(1), table.argmax(1) == labels.numpy()
    edges = (np.arange(1, 15) / 15).astype(np.float32)  # the dtype of the table
    index = np.searchsorted(edges, top)
    sums = [np.bincount(index, weights=w, minlength=15) for w in (top, outcomes)]
    expected = np.abs(sums[0] - sums[1]).sum() / n_samples
    assert expected_calibration_error(probs, labels) == pytest.approx(expected, abs=1e-12)
    for row in (0, 13_000, n_samples - 1):
        for column, value in ((0, torch.nan), (1, 1.5), (2, -0.01), (0, 0.9999)):
            bad = probs.clone()
            bad[row, column] = value
            with pytest.raises(ValueError, match=r"finite|\[0, 1\]|sum to 1"):
                expected_calibration_error(bad, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_bins", [3, 7, 15, 100, 999])
def test_uniform_bins_at_and_beside_every_edge(dtype, n_bins):
    edges = (torch.arange(n_bins + 1, dtype=torch.float64) / n_bins).to(dtype)
    up = torch.nextafter(edges, torch.full_like(edges, 2.0))
    down = torch.nextafter(edges, torch.full_like(edges, -1.0))
    values = torch.cat([edges, up[:-1], down[1:]])
    number = (edges[1:-1] < values.unsqueeze(1)).sum(1)  # edges strictly below the value
    expected = torch.bincount(number, minlength=n_bins)
    curve = reliability_curve(values, torch.zeros(len(values), dtype=torch.int64), n_bins=n_bins)
    assert curve.count.tolist() == expected.tolist()


def test_quantile_bins_never_split_ties():
    values = np.array([0.2] * 7 + [0.6] * 2 + [0.9])
    curve = reliability_curve(values, np.zeros(10, int), n_bins=5, binning="quantile")
    assert curve.count.tolist() == [7, 2, 1]
    constant = reliability_curve(np.full(9, 0.5), np.ones(9, int), n_bins=4, binning="quantile")
    assert constant.count.tolist() == [9]


def test_quantile_bins_hold_equal_counts():
    values = np.random.RandomState(1).random_sample(103)
    for n_bins in (2, 5, 10, 103, 200):
        curve = reliability_curve(values, np.zeros(103, int), n_bins=n_bins, binning="quantile")
        counts = curve.count
        assert counts.max() - counts.min() <= 1
        assert len(counts) == min(n_bins, 103)


def test_order_of_samples_does_not_matter(cases):
    draw = np.random.RandomState(2)
    for probs, labels in cases.values():
        order = draw.permutation(len(labels))
        for binning in ("uniform", "quantile"):
            first = expected_calibration_error(probs, labels, binning=binning)
            second = expected_calibration_error(probs[order], labels[order], binning=binning)
            assert first == pytest.approx(second, abs=1e-13)
        assert kolmogorov_smirnov_error(probs, labels) == pytest.approx(
            kolmogorov_smirnov_error(probs[order], labels[order]), abs=1e-13
        )


def test_first_of_tied_classes_is_the_top_label():
    probs = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert reliability_curve(probs, [0, 1]).accuracy.tolist() == [0.5]
    assert reliability_curve(probs, [0, 0]).accuracy.tolist() == [1.0]


def test_bias_of_calibrated_forecasts():
    # Theory: E[plug-in²] = B E[p(1 − p)]/n and E[debiased²] = 0, here n = 500, B = 10.
    draw = np.random.RandomState(3)
    plain, unbiased = [], []
    for _ in range(400):
        probs = draw.random_sample(500)
        labels = (draw.random_sample(500) < probs).astype(int)
        curve = reliability_curve(probs, labels, n_bins=10)
        gap = (curve.confidence - curve.accuracy) ** 2
        variance = curve.accuracy * (1 - curve.accuracy) / (curve.count - 1)
        unbiased.append((curve.count / 500 * (gap - variance)).sum())
        plain.append(expected_calibration_error(probs, labels, n_bins=10, norm="l2") ** 2)
        assert expected_calibration_error(
            probs, labels, n_bins=10, norm="l2", debias=True
        ) ** 2 == pytest.approx(max(unbiased[-1], 0.0), abs=1e-12)
    theory = 10 / 6 / 500
    assert 0.95 < np.mean(plain) / theory < 1.05
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / 20


def test_equals_peers(oracle, inputs):
    for case in oracle["errors"]:
        n_bins = case["n_bins"]
        if "table" in case:
            logits, labels = inputs.table(*case["table"])
            probs = inputs.softmax(logits)
            close = {"abs": 1e-12}
            ours = expected_calibration_error(probs, labels, n_bins=n_bins)
            assert ours == pytest.approx(case["netcal_ece"], **close)
            assert ours == pytest.approx(case["kumar_ece"], **close)
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, norm="max"
            ) == pytest.approx(case["netcal_mce"], **close)
            assert average_calibration_error(probs, labels, n_bins=n_bins) == pytest.approx(
                case["netcal_average"], **close
            )
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, classwise=True
            ) == pytest.approx(case["kumar_classwise"], **close)
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, norm="l2", debias=True
            ) == pytest.approx(case["kumar_debiased"], **close)
            # torchmetrics works in float32.
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, norm="l2"
            ) == pytest.approx(case["torchmetrics_l2"], rel=1e-5)
        else:
            odds, labels = inputs.binary(*case["binary"])
            probs = inputs.sigmoid(odds)
            assert expected_calibration_error(probs, labels, n_bins=n_bins) == pytest.approx(
                case["kumar_ece"], abs=1e-12
            )
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, binning="quantile"
            ) == pytest.approx(case["kumar_equal_mass"], abs=1e-12)
            assert expected_calibration_error(
                probs, labels, n_bins=n_bins, norm="max"
            ) == pytest.approx(case["torchmetrics_max"], rel=1e-5)
            # probmetrics sums in float32.
            assert kolmogorov_smirnov_error(probs, labels) == pytest.approx(
                case["probmetrics_ks"], rel=1e-4
            )


def test_kolmogorov_smirnov_equals_loops(cases):
    for probs, labels in cases.values():
        values, outcomes = event(probs, labels)
        worst = 0.0
        for threshold in sorted(set(values)):
            inside = [i for i, v in enumerate(values) if v <= threshold]
            worst = max(worst, abs(math.fsum(values[i] - outcomes[i] for i in inside)))
        assert kolmogorov_smirnov_error(probs, labels) == pytest.approx(
            worst / len(values), abs=1e-12
        )


def test_kolmogorov_smirnov_enters_ties_together():
    assert kolmogorov_smirnov_error([0.5, 0.5], [1, 0]) == 0.0
    assert kolmogorov_smirnov_error([0.5, 0.5], [0, 1]) == 0.0
    assert kolmogorov_smirnov_error([0.5, 0.6], [1, 0]) == pytest.approx(0.25)


def test_average_equals_loops(cases):
    for probs, labels in cases.values():
        values, outcomes = event(probs, labels)
        parts = [abs(c - a) for _, c, a in gaps(values, outcomes, 15, "uniform")]
        assert average_calibration_error(probs, labels) == pytest.approx(
            sum(parts) / len(parts), abs=1e-12
        )


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_reliability_curve_equals_loops(cases, binning):
    for probs, labels in cases.values():
        curve = reliability_curve(probs, labels, n_bins=10, binning=binning)
        found = list(gaps(*event(probs, labels), 10, binning))
        assert curve.count.tolist() == [count for count, _, _ in found]
        np.testing.assert_allclose(curve.confidence, [c for _, c, _ in found], atol=1e-14)
        np.testing.assert_allclose(curve.accuracy, [a for _, _, a in found], atol=1e-14)
        for i, (count, _, share) in enumerate(found):
            exact = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
            assert curve.low[i] == pytest.approx(exact.low, abs=1e-12)
            assert curve.high[i] == pytest.approx(exact.high, abs=1e-12)
            assert 0.0 <= curve.low[i] <= curve.accuracy[i] <= curve.high[i] <= 1.0


def test_curve_comes_back_as_given():
    probs, labels = torch.rand(40, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    for dtype, back in (
        (torch.float32,) * 2,
        (torch.float64,) * 2,
        (torch.bfloat16, torch.float32),
    ):
        curve = reliability_curve(probs.to(dtype), labels)
        assert curve.accuracy.dtype == curve.low.dtype == back
        assert curve.count.dtype == torch.int64
    curve = reliability_curve(probs.numpy(), labels.numpy())
    assert isinstance(curve.accuracy, np.ndarray)
    assert curve.accuracy.dtype == np.float32
    wide = reliability_curve(probs, labels, level=0.99)
    assert bool((wide.low <= torch.as_tensor(curve.low)).all())


def test_precision_of_single_floats():
    draw = np.random.RandomState(4)
    logits = draw.standard_normal((5000, 6))
    probs = torch.softmax(torch.tensor(logits, dtype=torch.float32), 1)
    labels = torch.tensor(draw.randint(6, size=5000))
    for options in ({}, {"classwise": True}, {"norm": "l2", "debias": True}):
        single = expected_calibration_error(probs, labels, **options)
        double = loop_error(
            *event(probs.double().numpy(), labels.numpy()), 15, "uniform", "l1", False
        )
        if not options:
            assert single == pytest.approx(double, abs=1e-12)
        assert 0.0 <= single <= 1.0
