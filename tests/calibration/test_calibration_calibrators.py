"""The contract of all calibrators, and each against independent fits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from enough.calibration import (
    BetaCalibration,
    CorrectnessAwareCalibration,
    DirichletCalibration,
    EnsembleTemperatureScaling,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
    expected_calibration_error,
    negative_log_likelihood,
)

pytest_plugins = ["calibration_fixtures"]

ALL = [
    BetaCalibration(),
    BetaCalibration("ab"),
    BetaCalibration("am"),
    CorrectnessAwareCalibration(steps=50),
    DirichletCalibration(),
    EnsembleTemperatureScaling(),
    HistogramBinning(),
    HistogramBinning(binning="quantile"),
    IsotonicCalibration(),
    MatrixScaling(),
    MatrixScaling(off_diagonal=0.1, intercept=0.1),
    PlattScaling(),
    PlattScaling(smooth_targets=False),
    TemperatureScaling(),
    VectorScaling(),
]
names = [repr(one) for one in ALL]


@pytest.mark.parametrize("calibrator", ALL, ids=names)
def test_contract(calibrator, inputs):
    logits, labels = inputs.table(50, 300, 4, 2.0, 0.5)
    new, _ = inputs.table(51, 40, 4, 3.0, 0.5)
    fresh = clone(calibrator)
    with pytest.raises(NotFittedError, match="fit before transform"):
        fresh.transform(logits)
    assert fresh.fit(logits, labels) is fresh
    probs = fresh.transform(new)
    assert isinstance(probs, np.ndarray)
    assert probs.shape == new.shape
    assert probs.min() >= 0.0
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-12)
    # The same answers for every kind of array, and in single precision.
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        again = clone(calibrator).fit(torch.tensor(logits), torch.tensor(labels))
        there = again.transform(torch.tensor(new, dtype=dtype))
        assert there.dtype == dtype
        np.testing.assert_allclose(there.numpy(), probs, atol=tolerance)
    half = fresh.transform(torch.tensor(new, dtype=torch.float16))
    assert half.dtype == torch.float16
    # Each row alone gives what it gives among others.
    np.testing.assert_allclose(fresh.transform(new[3:4]), probs[3:4], atol=1e-14)
    with pytest.raises(ValueError, match=r"^logits: expected shape \(N, 4\) as in fit"):
        fresh.transform(new[:, :3])
    with pytest.raises(ValueError, match=r"^logits: expected shape \(N, 4\) as in fit"):
        fresh.transform(new[:, 0])
    with pytest.raises(ValueError, match=r"^logits: .*finite"):
        fresh.transform(np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match=r"^labels"):
        fresh.fit(logits, labels + 1)
    np.testing.assert_allclose(
        clone(calibrator).fit_transform(logits, labels), fresh.fit(logits, labels).transform(logits)
    )


@pytest.mark.parametrize("calibrator", ALL, ids=names)
def test_binary_contract(calibrator, inputs):
    odds, labels = inputs.binary(52, 400, 2.0, 0.5, 0.3)
    fit = clone(calibrator).fit(odds, labels)
    probs = fit.transform(odds)
    assert probs.shape == odds.shape
    assert 0.0 <= probs.min() <= probs.max() <= 1.0
    with pytest.raises(ValueError, match=r"^logits: expected shape \(N,\) as in fit"):
        fit.transform(np.stack([odds, odds], 1))
    before = expected_calibration_error(inputs.sigmoid(odds), labels)
    assert expected_calibration_error(probs, labels) < before


# An affine map of two columns has more parameters than a map of their difference.
AFFINE = (VectorScaling, MatrixScaling, DirichletCalibration)


@pytest.mark.parametrize("calibrator", [c for c in ALL if not isinstance(c, AFFINE)], ids=repr)
def test_two_columns_are_binary_log_odds(calibrator, inputs):
    odds, labels = inputs.binary(53, 300, 2.0, 0.7, -0.3)
    pair = np.stack([-0.5 * odds, 0.5 * odds], 1)
    one = clone(calibrator).fit(odds, labels).transform(odds)
    two = clone(calibrator).fit(pair, labels).transform(pair)
    np.testing.assert_allclose(two[:, 1], one, atol=1e-9)


@pytest.mark.parametrize("calibrator", ALL, ids=names)
def test_extreme_logits_stay_finite(calibrator, inputs):
    logits, labels = inputs.table(54, 200, 3, 1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # separable classes may warn
        probs = clone(calibrator).fit(1e4 * logits, labels).transform(1e4 * logits)
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-9)


def test_richer_families_fit_better(inputs):
    logits, labels = inputs.table(55, 1000, 4, 2.0, 0.5)
    logits = logits @ np.diag([1.0, 0.5, 2.0, 1.0]) + np.array([0.0, 1.0, 0.0, -1.0])
    losses = [
        negative_log_likelihood(one.fit_transform(logits, labels), labels)
        for one in (TemperatureScaling(), VectorScaling(), MatrixScaling())
    ]
    assert losses[0] > losses[1] + 0.01
    assert losses[1] > losses[2]


def test_vector_scaling_is_the_optimum(inputs):
    logits, labels = inputs.table(56, 500, 3, 2.0, 0.6)
    fit = VectorScaling().fit(logits, labels)
    np.testing.assert_allclose(
        fit.transform(logits), inputs.softmax(logits * fit.weight_ + fit.intercept_), atol=1e-14
    )
    residual = fit.transform(logits) - np.eye(3)[labels]
    assert np.abs(residual.mean(0)).max() < 1e-6
    assert np.abs((residual * logits).mean(0)).max() < 1e-6
    assert fit.intercept_.mean() == pytest.approx(0.0, abs=1e-14)


def test_matrix_and_dirichlet_equal_logistic_regression(oracle, inputs):
    for case in oracle["calibrators"]:
        if "table" not in case:
            continue
        logits, labels = inputs.table(*case["table"])
        for calibrator, key in (
            (MatrixScaling(), "sklearn_matrix_probs"),
            (DirichletCalibration(), "sklearn_dirichlet_probs"),
        ):
            fit = calibrator.fit(logits, labels)
            np.testing.assert_allclose(fit.transform(logits[:5]), case[key], atol=1e-4)
            features = (
                logits if key.startswith("sklearn_matrix") else np.log(inputs.softmax(logits))
            )
            residual = fit.transform(logits) - np.eye(logits.shape[1])[labels]
            assert np.abs(residual.mean(0)).max() < 1e-6
            assert np.abs(residual.T @ features / len(labels)).max() < 1e-5


def test_penalties_are_those_of_the_objective(inputs):
    logits, labels = inputs.table(57, 300, 3, 1.5, 0.7)
    off, shift = 0.3, 0.2

    def objective(flat):
        weight, intercept = flat[:9].reshape(3, 3), flat[9:]
        scores = logits @ weight.T + intercept
        scores = scores - scores.max(1, keepdims=True)
        loss = (np.log(np.exp(scores).sum(1)) - scores[np.arange(300), labels]).mean()
        outside = weight[~np.eye(3, dtype=bool)]
        return loss + off * (outside**2).mean() + shift * (intercept**2).mean()

    reference = minimize(objective, np.concatenate([np.eye(3).ravel(), np.zeros(3)]), tol=1e-12)
    fit = MatrixScaling(off_diagonal=off, intercept=shift).fit(logits, labels)
    ours = objective(np.concatenate([fit.weight_.ravel(), fit.intercept_]))
    assert ours == pytest.approx(reference.fun, abs=1e-9)
    np.testing.assert_allclose(fit.weight_.ravel(), reference.x[:9], atol=1e-3)
    strong = MatrixScaling(off_diagonal=1e6).fit(logits, labels)
    assert np.abs(strong.weight_[~np.eye(3, dtype=bool)]).max() < 1e-4
    for bad in ({"off_diagonal": -1.0}, {"intercept": math.nan}, {"max_iter": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}"):
            MatrixScaling(**bad).fit(logits, labels)


def test_dirichlet_of_two_classes_is_beta_calibration(inputs):
    odds, labels = inputs.binary(58, 800, 1.5, 0.6, 0.4)
    pair = np.stack([np.zeros_like(odds), odds], 1)
    beta = BetaCalibration().fit(odds, labels)
    assert (beta.coefficients_[0, :2] > 0).all()  # the sign constraint is not active
    dirichlet = DirichletCalibration().fit(pair, labels)
    np.testing.assert_allclose(dirichlet.transform(pair)[:, 1], beta.transform(odds), atol=1e-4)


def test_platt_equals_logistic_regression(inputs, oracle):
    for case in oracle["calibrators"]:
        if "binary" not in case:
            continue
        odds, labels = inputs.binary(*case["binary"])
        np.testing.assert_allclose(
            PlattScaling().fit(odds, labels).transform(odds[:20]),
            case["sklearn_sigmoid"],
            atol=1e-5,
        )
        plain = PlattScaling(smooth_targets=False).fit(odds, labels)
        reference = LogisticRegression(C=np.inf, tol=1e-12).fit(odds[:, None], labels)
        np.testing.assert_allclose(plain.slope_, reference.coef_[0], rtol=1e-6)
        np.testing.assert_allclose(plain.intercept_, reference.intercept_, atol=1e-6)


def test_beta_equals_betacal(inputs, oracle):
    grid = np.linspace(0.001, 0.999, 21)
    for case in oracle["calibrators"]:
        if "binary" not in case:
            continue
        odds, labels = inputs.binary(*case["binary"])
        fit = BetaCalibration().fit(odds, labels)
        np.testing.assert_allclose(fit.coefficients_[0, :2], case["betacal"], atol=2e-3)
        np.testing.assert_allclose(
            fit.transform(np.log(grid / (1 - grid))), case["betacal_probs"], atol=1e-3
        )


def test_beta_constraints_give_the_constrained_optimum(inputs):
    odds, labels = inputs.binary(59, 300, 1.5, -0.5, 0.2)  # forecasts point the wrong way
    p = inputs.sigmoid(odds)

    def loss(w):
        eta = w[0] * np.log(p) - w[1] * np.log1p(-p) + w[2]
        return (np.logaddexp(0, eta) - labels * eta).mean()

    reference = minimize(loss, [0.5, 0.5, 0.0], bounds=[(0, None), (0, None), (None, None)])
    fit = BetaCalibration().fit(odds, labels)
    assert (fit.coefficients_[0, :2] >= 0.0).all()
    assert loss(fit.coefficients_[0]) == pytest.approx(reference.fun, abs=1e-7)
    for variant, fixed in (("ab", lambda w: w[2] == 0), ("am", lambda w: w[0] == w[1])):
        one = BetaCalibration(variant).fit(-odds, labels).coefficients_[0]
        assert fixed(one)
        assert (one[:2] >= 0).all()
    with pytest.raises(ValueError, match=r"^variant"):
        BetaCalibration("abc").fit(odds, labels)


def test_histogram_equals_netcal(inputs, oracle):
    grid = np.linspace(0.001, 0.999, 21)
    for case in oracle["calibrators"]:
        if "binary" not in case:
            continue
        odds, labels = inputs.binary(*case["binary"])
        fit = HistogramBinning(n_bins=10).fit(odds, labels)
        ours = fit.transform(np.log(grid / (1 - grid)))
        # The grid keeps off the edges except 0.5, which lies in the lower bin here.
        off = np.abs(grid * 10 - np.round(grid * 10)) > 1e-9
        np.testing.assert_allclose(ours[off], np.array(case["netcal_histogram"])[off], atol=1e-12)


@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_histogram_answers_with_shares(inputs, binning):
    odds, labels = inputs.binary(60, 300, 1.0, 1.0, 0.0)
    fit = HistogramBinning(n_bins=8, binning=binning).fit(odds, labels)
    probs = inputs.sigmoid(odds)
    edges = (
        np.arange(1, 9) / 8
        if binning == "uniform"
        else np.sort(probs)[[math.ceil(300 * (i + 1) / 8) - 1 for i in range(8)]]
    )
    np.testing.assert_allclose(fit.edges_[0], edges, atol=1e-15)
    member = np.searchsorted(edges, probs, side="left")
    out = fit.transform(odds)
    for b in range(8):
        if (member == b).any():
            np.testing.assert_allclose(out[member == b], labels[member == b].mean(), atol=1e-14)
    far = fit.transform(np.array([-40.0, 40.0]))
    assert far.tolist() == [fit.values_[0][0], fit.values_[0][-1]]


def test_empty_histogram_bins_answer_with_their_midpoint():
    fit = HistogramBinning(n_bins=4).fit(np.array([-5.0, -4.0, 5.0]), [0, 1, 1])
    assert fit.values_[0].tolist() == [0.5, 0.375, 0.625, 1.0]
    for bad in ({"n_bins": 0}, {"binning": "mass"}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}"):
            HistogramBinning(**bad).fit(np.array([0.0, 1.0]), [0, 1])


def test_isotonic_equals_scikit_learn(inputs, oracle):
    grid = np.linspace(0.001, 0.999, 21)
    for case in oracle["calibrators"]:
        if "binary" not in case:
            continue
        odds, labels = inputs.binary(*case["binary"])
        fit = IsotonicCalibration().fit(odds, labels)
        np.testing.assert_allclose(
            fit.transform(np.log(grid / (1 - grid))), case["sklearn_isotonic"], atol=1e-9
        )
        assert (np.diff(fit.values_[0]) >= 0).all()


def test_isotonic_with_ties_and_outside():
    odds = np.array([-2.0, -2.0, -2.0, 0.0, 1.0, 1.0])
    labels = np.array([0, 1, 0, 0, 1, 1])
    fit = IsotonicCalibration().fit(odds, labels)
    probs = 1 / (1 + np.exp(-odds))
    reference = IsotonicRegression(out_of_bounds="clip").fit(probs, labels)
    new = np.array([-9.0, -2.0, -1.0, 0.0, 0.4, 1.0, 9.0])
    np.testing.assert_allclose(
        fit.transform(new), reference.predict(1 / (1 + np.exp(-new))), atol=1e-12
    )
    single = IsotonicCalibration().fit(np.array([0.3, 0.3]), [0, 1])
    assert single.transform(np.array([-5.0, 0.3, 5.0])).tolist() == [0.5, 0.5, 0.5]


def test_one_against_the_rest(inputs):
    logits, labels = inputs.table(61, 400, 3, 2.0, 0.6)
    probs = inputs.softmax(logits)
    parts = []
    for j in range(3):
        reference = IsotonicRegression(out_of_bounds="clip").fit(probs[:, j], labels == j)
        parts.append(reference.predict(probs[:, j]))
    expected = np.stack(parts, 1)
    expected /= expected.sum(1, keepdims=True)
    ours = IsotonicCalibration().fit(logits, labels).transform(logits)
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_log_odds_do_not_cancel():
    # P(class 0) is 1 − 1e-22: its log odds are 50, though p rounds to 1.
    logits = np.array([[50.0, 0.0, -30.0], [0.0, 1.0, 2.0]])
    fit = PlattScaling(smooth_targets=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit.fit(np.random.RandomState(0).standard_normal((50, 3)), np.arange(50) % 3)
    from enough.calibration._base import log_odds

    odds = log_odds(torch.tensor(logits)).numpy()
    assert odds[0, 0] == pytest.approx(50.0, abs=1e-12)
    assert odds[0, 1] == pytest.approx(-50.0, abs=1e-12)
    assert odds[1, 2] == pytest.approx(2.0 - np.logaddexp(0.0, 1.0), abs=1e-14)
    assert odds[1, 0] == pytest.approx(-np.logaddexp(1.0, 2.0), abs=1e-14)


def test_a_row_that_no_class_wants_becomes_uniform():
    # Each class is never seen at this probability, so every map answers 0.
    logits = np.array([[0.0, 0.0, 0.0]] * 3 + [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    fit = HistogramBinning(n_bins=3).fit(logits, [0, 1, 2, 0, 1, 2])
    fit._maps = [(edges, values * 0.0) for edges, values in fit._maps]
    np.testing.assert_allclose(fit.transform(logits), 1 / 3)


@pytest.mark.parametrize(
    "calibrator",
    [
        TemperatureScaling(),
        VectorScaling(),
        MatrixScaling(),
        DirichletCalibration(),
        BetaCalibration(),
        PlattScaling(smooth_targets=False),
    ],
    ids=repr,
)
def test_separable_classes_warn_and_stay_finite(calibrator):
    odds = np.linspace(-2.0, 2.0, 40)
    with pytest.warns(UserWarning, match="separable|largest logit"):
        fit = calibrator.fit(np.stack([-odds, odds], 1), (odds > 0).astype(int))
    probs = fit.transform(np.stack([-odds, odds], 1))
    assert np.isfinite(probs).all()
    assert probs[-1, 1] > 0.999


def test_smoothed_targets_keep_platt_finite():
    odds = np.linspace(-2.0, 2.0, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = PlattScaling().fit(odds, (odds > 0).astype(int))
    # 20 events of 20: the target is 21/22 at most.
    assert fit.transform(np.array([1.0]))[0] == pytest.approx(21 / 22, abs=0.02)


def test_too_few_iterations_warn(inputs):
    logits, labels = inputs.table(62, 200, 4, 2.0, 0.5)
    with pytest.warns(UserWarning, match=r"^max_iter"):
        MatrixScaling(max_iter=2).fit(logits, labels)
