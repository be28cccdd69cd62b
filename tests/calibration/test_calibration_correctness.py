"""Correctness-aware calibration: what it optimizes and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enough.calibration import CorrectnessAwareCalibration, TemperatureScaling

pytest_plugins = ["calibration_fixtures"]


def top_loss(probs, logits, labels):
    right = logits.argmax(1) == labels
    return ((probs.max(1) - right) ** 2).mean()


def test_never_worse_than_the_common_temperature(inputs):
    logits, labels = inputs.table(70, 600, 5, 2.0, 0.5)
    common = TemperatureScaling().fit(logits, labels)
    fit = CorrectnessAwareCalibration(steps=300).fit(logits, labels)
    assert fit.temperature_ == common.temperature_
    loss = top_loss(fit.transform(logits), logits, labels)
    assert loss == pytest.approx(fit.loss_, abs=1e-12)
    assert loss < top_loss(common.transform(logits), logits, labels)
    still = CorrectnessAwareCalibration(steps=0).fit(logits, labels)
    np.testing.assert_allclose(still.transform(logits), common.transform(logits), atol=1e-9)


def test_keeps_the_top_label_and_bounds_the_temperature(inputs):
    logits, labels = inputs.table(71, 300, 4, 3.0, 0.3)
    fit = CorrectnessAwareCalibration(steps=100).fit(logits, labels)
    probs, temperatures = fit.transform(logits), fit.temperatures(logits)
    assert (probs.argmax(1) == logits.argmax(1)).all()
    assert 0.1 <= temperatures.min() < temperatures.max() <= 10.0
    np.testing.assert_allclose(probs, inputs.softmax(logits / temperatures[:, None]), atol=1e-14)


def test_reads_the_features_it_is_given():
    # The feature says which half of the samples has random labels.
    draw = np.random.RandomState(72)
    logits = np.tile([3.0, 0.0], (2000, 1))
    feature = np.repeat([0.0, 1.0], 1000)
    labels = np.where(feature == 1.0, draw.randint(2, size=2000), draw.random_sample(2000) < 0.05)
    fit = CorrectnessAwareCalibration().fit(logits, labels.astype(int), feature[:, None])
    confidence = fit.transform(logits, feature[:, None]).max(1)
    accuracy = [(labels[:1000] == 0).mean(), (labels[1000:] == 0).mean()]
    # With constant logits the optimum is the accuracy of each half, as far as T <= 10 goes.
    assert confidence[0] == pytest.approx(accuracy[0], abs=0.01)
    assert confidence[-1] == pytest.approx(max(accuracy[1], 1 / (1 + np.exp(-0.3))), abs=0.005)
    with pytest.raises(ValueError, match=r"^features: expected shape \(N, 1\) as in fit"):
        fit.transform(logits, np.zeros((2000, 2)))
    with pytest.raises(ValueError, match=r"^features"):
        fit.transform(logits, np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"^features"):
        fit.fit(logits, labels.astype(int), np.full((2000, 1), np.nan))


@pytest.mark.parametrize("accuracy", [0.6, 0.9])
def test_published_weights_aim_at_one_half(accuracy):
    logits = np.tile([2.0, 0.0], (1000, 1))
    labels = (np.arange(1000) >= 1000 * accuracy).astype(int)
    plain = CorrectnessAwareCalibration(steps=500).fit(logits, labels)
    assert plain.transform(logits).max() == pytest.approx(accuracy, abs=1e-3)
    weighted = CorrectnessAwareCalibration(steps=600, learning_rate=0.1, weighted=True)
    # Two classes cannot be less sure than 1/2; T <= 10 stops at sigmoid(0.2) = 0.55.
    found = weighted.fit(logits, labels).transform(logits).max()
    assert found == pytest.approx(1 / (1 + np.exp(-0.2)), abs=5e-3)


def test_same_seed_same_fit_and_no_global_state(inputs):
    logits, labels = inputs.table(73, 200, 3, 2.0, 0.5)
    before = torch.random.get_rng_state()
    with torch.no_grad():  # training asks for gradients itself
        first = CorrectnessAwareCalibration(steps=30).fit(logits, labels).transform(logits)
    second = CorrectnessAwareCalibration(steps=30).fit(logits, labels).transform(logits)
    other = CorrectnessAwareCalibration(steps=30, generator=1).fit(logits, labels).transform(logits)
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "bad",
    [{"n_top": 0}, {"hidden": 0}, {"steps": -1}, {"batch_size": 0}, {"learning_rate": 0.0}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}"):
        CorrectnessAwareCalibration(**bad).fit(np.zeros((4, 2)), [0, 1, 0, 1])


def test_all_right_or_all_wrong():
    logits = np.random.RandomState(74).standard_normal((50, 3))
    for labels in (logits.argmax(1), logits.argmin(1)):
        for weighted in (False, True):
            fit = CorrectnessAwareCalibration(steps=20, weighted=weighted).fit(logits, labels)
            assert np.isfinite(fit.transform(logits)).all()
