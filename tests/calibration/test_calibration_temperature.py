"""Temperature scaling: stationarity, closed forms, extremes, and other packages."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from enough.calibration import (
    EnsembleTemperatureScaling,
    TemperatureScaling,
    negative_log_likelihood,
)

pytest_plugins = ["calibration_fixtures"]


def slope(logits, labels, inverse):
    """Return d/db of the mean log loss at b = 1/T, in float64."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(1, keepdims=True)
    weights = np.exp(inverse * z)
    weights /= weights.sum(1, keepdims=True)
    return ((weights * z).sum(1) - z[np.arange(len(z)), labels]).mean()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("n_classes", [2, 5, 60])
def test_is_the_root_of_the_slope(inputs, scale, n_classes):
    for truth in (0.2, 1.0, 3.0):
        logits, labels = inputs.table(30, 800, n_classes, 1.0, truth)
        fit = TemperatureScaling().fit(scale * logits, labels)
        root = brentq(
            lambda b, z=logits, y=labels: slope(z, y, b), 1e-3, 1e3, xtol=1e-14, rtol=1e-14
        )
        assert fit.temperature_ == pytest.approx(scale / root, rel=1e-9)
        assert abs(slope(logits, labels, scale * fit.inverse_temperature_)) < 1e-9
        assert fit.inverse_temperature_ == pytest.approx(1.0 / fit.temperature_, rel=1e-15)


def test_closed_form():
    # m of n samples right, one gap g: sigmoid(g/T) = m/n, so T = g/log(m/(n − m)).
    for right, total, gap in ((2, 3, 2.0), (9, 10, 30.0), (51, 100, 1e-3)):
        logits = np.tile([gap, 0.0], (total, 1))
        labels = np.array([0] * right + [1] * (total - right))
        fit = TemperatureScaling().fit(logits, labels)
        assert fit.temperature_ == pytest.approx(gap / math.log(right / (total - right)), rel=1e-9)
        np.testing.assert_allclose(fit.transform(logits)[:, 0], right / total, rtol=1e-9)


def test_infinite_temperature_is_legal(inputs):
    logits, _ = inputs.table(31, 200, 4, 3.0, 1.0)
    for labels in (logits.argmin(1), (logits.argmax(1) + 1) % 4):
        assert slope(logits, labels, 0.0) > 0.0
        fit = TemperatureScaling().fit(logits, labels)
        assert fit.temperature_ == math.inf
        assert fit.inverse_temperature_ == 0.0
        np.testing.assert_array_equal(fit.transform(logits), 0.25)
    equal = TemperatureScaling().fit(np.full((3, 2), 7.0), [0, 1, 1])
    assert equal.temperature_ == math.inf


def test_loss_never_exceeds_uniform_or_raw(inputs):
    draw = np.random.RandomState(32)
    for truth in (-2.0, -0.1, 0.0, 0.1, 1.0):
        logits, labels = inputs.table(draw.randint(1000), 150, 3, 5.0, truth)
        fit = TemperatureScaling().fit(logits, labels)
        loss = negative_log_likelihood(fit.transform(logits), labels)
        assert loss <= math.log(3) + 1e-12
        assert loss <= negative_log_likelihood(inputs.softmax(logits), labels) + 1e-12
        assert fit.temperature_ > 0.0


def test_separable_logits_stop_and_warn(inputs):
    logits, _ = inputs.table(33, 100, 3, 2.0, 1.0)
    for limit, scale in ((1e4, 1.0), (50.0, 1.0), (1e4, 1e4), (1e4, 1e-4)):
        scaling = TemperatureScaling(max_inverse_temperature=limit)
        with pytest.warns(UserWarning, match="largest logit"):
            scaling.fit(scale * logits, logits.argmax(1))
        assert scaling.inverse_temperature_ == limit
        assert np.isfinite(scaling.transform(scale * logits)).all()
    with pytest.warns(UserWarning, match="largest logit"):
        tied = TemperatureScaling().fit([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], [1, 1])
    assert tied.temperature_ == 1e-4


def test_almost_separable_logits_have_a_finite_optimum():
    draw = np.random.RandomState(34)
    logits = 5.0 * draw.standard_normal((300, 3))
    labels = logits.argmax(1)
    for gap in (1e-9, 1e-2, 10.0):
        logits[0], labels[0] = (gap, 0.0, -5.0), 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = TemperatureScaling().fit(logits, labels)
        assert 0.0 < fit.temperature_ < math.inf
        scale = abs(slope(logits, labels, 0.0))
        assert abs(slope(logits, labels, fit.inverse_temperature_)) < 1e-9 * scale


def test_huge_logits_do_not_overflow(inputs):
    logits, labels = inputs.table(35, 300, 10, 1.0, 1.0)
    fit = TemperatureScaling().fit((1e4 * logits).astype(np.float32), labels)
    probs = fit.transform(1e4 * logits)
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-12)
    shifted = TemperatureScaling().fit(logits + 1e6, labels)
    assert shifted.temperature_ == pytest.approx(
        TemperatureScaling().fit(logits, labels).temperature_, rel=1e-7
    )


def test_large_tables_start_from_a_subsample(inputs, monkeypatch):
    logits, labels = inputs.table(36, 4000, 20, 2.0, 0.4)
    plain = TemperatureScaling().fit(logits, labels)
    monkeypatch.setattr("enough.calibration.temperature._SUBSAMPLE", 4000)
    quick = TemperatureScaling().fit(logits, labels)
    assert quick.temperature_ == pytest.approx(plain.temperature_, rel=1e-9)
    assert quick.n_iter_ < plain.n_iter_
    # A separable subsample must not mislead: only the skipped rows are wrong.
    labels = logits.argmax(1)
    labels[1::2] = logits[1::2].argmin(1)
    found = TemperatureScaling().fit(logits, labels)
    assert abs(slope(logits, labels, found.inverse_temperature_)) < 1e-9 or (
        found.inverse_temperature_ == 0.0 and slope(logits, labels, 0.0) >= 0.0
    )


def test_equals_peers(oracle, inputs):
    for case in oracle["calibrators"]:
        if "table" not in case:
            continue
        logits, labels = inputs.table(*case["table"])
        fit = TemperatureScaling().fit(logits, labels)
        assert fit.temperature_ == pytest.approx(case["probmetrics_temperature"], rel=1e-6)
        # netcal's attribute is 1/T, fitted in float32 with a looser stop.
        assert fit.inverse_temperature_ == pytest.approx(
            case["netcal_inverse_temperature"], rel=1e-3
        )
        np.testing.assert_allclose(
            fit.transform(logits[:5]), case["sklearn_temperature_probs"], atol=1e-4
        )


def test_published_fits_stop_short(inputs):
    # The optimizer settings of two well-known repositories, on logits whose optimum is near 3.
    logits, labels = inputs.table(37, 1000, 5, 3.0, 1.0 / 3.0)
    z, y = torch.tensor(logits), torch.tensor(labels)
    optimum = TemperatureScaling().fit(z, y).temperature_
    assert 2.5 < optimum < 3.5
    for start, rounds in ((1.5, 50), (1.0, 20)):
        temperature = torch.tensor([start], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=rounds)

        def closure(temperature=temperature, optimizer=optimizer):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(z / temperature, y)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert temperature.item() < optimum - 0.5


def test_binary_log_odds(inputs):
    odds, labels = inputs.binary(38, 400, 2.0, 0.5, 0.0)
    fit = TemperatureScaling().fit(odds, labels)
    pair = np.stack([np.zeros_like(odds), odds], 1)
    same = TemperatureScaling().fit(pair, labels)
    assert fit.temperature_ == same.temperature_
    np.testing.assert_allclose(fit.transform(odds), same.transform(pair)[:, 1], atol=1e-15)
    np.testing.assert_allclose(fit.transform(odds), inputs.sigmoid(odds / fit.temperature_))


def test_mixture_weights_are_optimal(inputs, oracle):
    for case in oracle["calibrators"]:
        if "table" not in case:
            continue
        logits, labels = inputs.table(*case["table"])
        mixture = EnsembleTemperatureScaling().fit(logits, labels)
        assert mixture.temperature_ == TemperatureScaling().fit(logits, labels).temperature_
        probs = mixture.transform(logits)
        loss = negative_log_likelihood(probs, labels)
        # probmetrics bounds T to [0.05, 5] and stops earlier.
        assert loss == pytest.approx(case["probmetrics_mixture_loss"], abs=1e-5)
        rows = np.arange(len(labels))
        members = (
            inputs.softmax(logits / mixture.temperature_),
            inputs.softmax(logits),
            np.full_like(logits, 1.0 / logits.shape[1]),
        )
        for weight, member in zip(mixture.weights_, members, strict=True):
            gain = (member[rows, labels] / probs[rows, labels]).mean()
            # First-order conditions on the simplex: 1 where used, at most 1 elsewhere.
            assert gain <= 1.0 + 1e-6
            assert weight * (1.0 - gain) == pytest.approx(0.0, abs=1e-6)


def test_mixture_finds_label_noise(inputs):
    # A fifth of the labels are uniform: the weights must say so.
    logits, labels = inputs.table(39, 20_000, 4, 4.0, 1.0)
    draw = np.random.RandomState(40)
    noisy = draw.random_sample(len(labels)) < 0.2
    labels = np.where(noisy, draw.randint(4, size=len(labels)), labels)
    mixture = EnsembleTemperatureScaling().fit(logits, labels)
    assert mixture.weights_.sum() == pytest.approx(1.0, abs=1e-12)
    assert mixture.weights_.min() >= 0.0
    plain = TemperatureScaling().fit(logits, labels)
    assert negative_log_likelihood(mixture.transform(logits), labels) < (
        negative_log_likelihood(plain.transform(logits), labels) - 0.02
    )


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf, "big"])
def test_bad_limits_are_refused(limit):
    with pytest.raises(ValueError, match=r"^max_inverse_temperature"):
        TemperatureScaling(limit).fit([[1.0, 0.0]], [0])
