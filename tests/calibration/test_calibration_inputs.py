"""What is refused, how it is named, and what passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enough.calibration import (
    StreamingCalibration,
    TemperatureScaling,
    average_calibration_error,
    brier_decomposition,
    brier_score,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    negative_log_likelihood,
    reliability_curve,
    score_decomposition,
    smooth_calibration_error,
)

pytest_plugins = ["calibration_fixtures"]

METRICS = [
    average_calibration_error,
    brier_score,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    negative_log_likelihood,
    reliability_curve,
    score_decomposition,
    smooth_calibration_error,
    lambda probs, labels: (
        expected_calibration_error(probs, labels, classwise=True)
        if np.ndim(probs) == 2
        else expected_calibration_error(probs, labels)
    ),
    lambda probs, labels: expected_calibration_error(
        probs, labels, classwise=np.ndim(probs) == 2, binning="quantile"
    ),
    lambda probs, labels: StreamingCalibration(classwise=np.ndim(probs) == 2).update(probs, labels),
]

ROWS = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], dtype=torch.float64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p.index_put(
                (torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan).double()
            ),
            "finite",
        ),
        (
            lambda p: p.index_put(
                (torch.tensor(1), torch.tensor(2)), torch.tensor(torch.inf).double()
            ),
            "finite",
        ),
        (
            lambda p: p.index_put(
                (torch.tensor(1), torch.tensor(2)), torch.tensor(-torch.inf).double()
            ),
            "finite",
        ),
        (lambda p: p * (1 + 1e-6), "sum to 1"),
        (lambda p: p * 0, "sum to 1"),
        (lambda p: p + torch.tensor([1e-6, -1e-6, 0.0]) * 4e5, r"\[0, 1\]"),
        (lambda p: p[:, :1], "K >= 2"),
        (lambda p: p[:0], "at least one"),
        (lambda p: p[None], "shape"),
        (lambda p: p.log(), r"\[0, 1\]"),
    ],
)
def test_bad_rows_are_refused(metric, change, message):
    probs = change(ROWS)
    labels = torch.tensor([0, 1])[: len(probs)]
    with pytest.raises(ValueError, match=rf"^probs: .*{message}"):
        metric(probs, labels)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0 + 1e-6, -1e-6])
def test_bad_probabilities_are_refused(metric, bad):
    with pytest.raises(ValueError, match=r"^probs: "):
        metric(np.array([0.5, bad]), np.array([0, 1]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "<= 2"),
        ([-1, 0], ">= 0"),
        ([0, 1, 2], "shape"),
        ([[0], [1]], "shape"),
        ([0.5, 1.0], "whole"),
        ([np.nan, 1.0], "finite"),
        (["a", "b"], "numbers"),
    ],
)
def test_bad_labels_are_refused(metric, labels, message):
    with pytest.raises(ValueError, match=f"^labels: .*{message}"):
        metric(ROWS.numpy(), labels)


def test_binary_labels_are_zero_or_one():
    with pytest.raises(ValueError, match=r"^labels: .*<= 1"):
        expected_calibration_error([0.5, 0.5], [0, 2])
    with pytest.raises(ValueError, match=r"^probs: expected shape \(N,\)"):
        brier_decomposition(ROWS, [0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 0}, "n_bins"),
        ({"n_bins": 2.5}, "n_bins"),
        ({"n_bins": 10**7}, "n_bins"),
        ({"binning": "mass"}, "binning"),
        ({"norm": "l3"}, "norm"),
        ({"debias": True}, "debias: expected norm='l2'"),
        ({"norm": "max", "debias": True}, "debias"),
        ({"classwise": True}, "classwise: expected probs of shape"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        expected_calibration_error([0.5, 0.5], [0, 1], **options)


@pytest.mark.parametrize("level", [0.0, 1.0, -1, np.nan])
def test_bad_levels_are_refused(level):
    with pytest.raises(ValueError, match=r"^level"):
        reliability_curve([0.5], [1], level=level)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_honest_softmax_passes_in_every_precision(dtype, n_classes):
    logits = torch.randn(64, n_classes, generator=torch.Generator().manual_seed(0)) * 3
    probs = logits.to(dtype).softmax(1)
    labels = probs.argmax(1)
    assert 0.0 <= expected_calibration_error(probs, labels, classwise=True) <= 1.0
    assert 0.0 <= brier_score(probs, labels) <= 2.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tolerance_is_four_epsilons_and_at_least_1e_7(dtype):
    step = max(4 * torch.finfo(dtype).eps, 1e-7)
    below = torch.tensor([-0.9 * step, 0.5], dtype=torch.float64).to(dtype)
    assert 0.0 <= expected_calibration_error(below, [0, 1]) <= 1.0
    beyond = torch.tensor([-1.1 * step, 0.5], dtype=torch.float64).to(dtype)
    with pytest.raises(ValueError, match=r"^probs"):
        expected_calibration_error(beyond, [0, 1])


def test_rows_may_miss_one_by_tau_root_k():
    tolerance = 1e-7 * np.sqrt(3)
    row = np.array([[0.5, 0.25, 0.25]])
    assert brier_score(row + np.array([[0.9 * tolerance, 0, 0]]), [0]) > 0
    with pytest.raises(ValueError, match="row 0"):
        brier_score(row + np.array([[1.1 * tolerance, 0, 0]]), [0])


def test_kinds_of_arrays_agree():
    probs, labels = ROWS, torch.tensor([0, 1])
    expected = expected_calibration_error(probs, labels)
    assert isinstance(expected, float)
    for other in (probs.numpy(), probs.tolist(), probs.clone().requires_grad_()):
        for label in (
            labels.numpy(),
            labels.tolist(),
            labels.float(),
            labels.to(torch.uint8),
            labels.bool(),
        ):
            assert expected_calibration_error(other, label) == expected
    assert expected_calibration_error([1, 0], [True, False]) == 0.0
    strided = torch.stack([probs, probs], 2)[..., 0]
    assert not strided.is_contiguous()
    assert expected_calibration_error(strided, labels) == expected
    fixed = probs.numpy()
    fixed.flags.writeable = False
    assert expected_calibration_error(fixed, labels) == expected


def test_inputs_stay_as_they_were(cases):
    for probs, labels in cases.values():
        before, labels_before = probs.copy(), labels.copy()
        for metric in METRICS:
            metric(probs, labels)
        assert np.array_equal(before, probs)
        assert np.array_equal(labels_before, labels)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([[0.0, np.nan]], "finite"),
        ([[0.0, np.inf]], "finite"),
        ([[0.0, -np.inf]], "finite"),
        ([[0.0]], "K >= 2"),
        (np.zeros((0, 2)), "at least one"),
        (np.zeros((1, 2, 2)), "shape"),
        (np.zeros((1, 2), complex), "real"),
    ],
)
def test_bad_logits_are_refused(logits, message):
    with pytest.raises(ValueError, match=f"^logits: .*{message}"):
        TemperatureScaling().fit(logits, [0] * len(logits))


def test_a_late_bad_row_is_found():
    probs = torch.full((50_000, 4), 0.25)
    probs[40_001] = torch.tensor([0.5, 0.25, 0.25, 0.25])
    with pytest.raises(ValueError, match="row 40001"):
        brier_score(probs, torch.zeros(50_000, dtype=torch.int64))
