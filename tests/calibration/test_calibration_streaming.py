"""Streaming equals one pass, however the data are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from enough.calibration import (
    StreamingCalibration,
    TemperatureScaling,
    brier_decomposition,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
    smooth_calibration_error,
)

pytest_plugins = ["calibration_fixtures"]


def pieces(probs, labels, sizes):
    start = 0
    for size in sizes:
        yield probs[start : start + size], labels[start : start + size]
        start += size
    assert start == len(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[1] * 60, [60], [7, 50, 3]])
def test_tables(inputs, dtype, sizes):
    logits, labels = inputs.table(90, 60, 4, 3.0, 0.5)
    probs = torch.tensor(inputs.softmax(logits), dtype=dtype)
    stream = StreamingCalibration(n_bins=10, classwise=True)
    for batch in pieces(probs, labels, sizes):
        assert stream.update(*batch) is stream
    numbers = stream.compute()
    assert numbers["n_samples"] == stream.n_samples == 60
    top = probs.max(1)
    right = top.indices == torch.tensor(labels)
    close = {"abs": 1e-12}
    assert numbers["accuracy"] == pytest.approx(right.double().mean().item(), **close)
    assert numbers["confidence"] == pytest.approx(top.values.double().mean().item(), **close)
    assert numbers["brier_score"] == pytest.approx(brier_score(probs, labels), **close)
    assert numbers["negative_log_likelihood"] == pytest.approx(
        negative_log_likelihood(probs, labels), **close
    )
    assert numbers["smooth_calibration_error"] == pytest.approx(
        smooth_calibration_error(probs, labels), abs=1e-10
    )
    assert numbers["expected_calibration_error"] == pytest.approx(
        expected_calibration_error(probs, labels, n_bins=10), **close
    )
    assert numbers["maximum_calibration_error"] == pytest.approx(
        expected_calibration_error(probs, labels, n_bins=10, norm="max"), **close
    )
    assert numbers["classwise_calibration_error"] == pytest.approx(
        expected_calibration_error(probs, labels, n_bins=10, classwise=True), **close
    )
    for options in ({"norm": "l2"}, {"norm": "l2", "debias": True}):
        for classwise in (False, True):
            ours = stream.expected_calibration_error(**options, classwise=classwise)
            once = expected_calibration_error(
                probs, labels, n_bins=10, **options, classwise=classwise
            )
            assert ours == pytest.approx(once, abs=1e-9)
    curve, once = stream.reliability_curve(), reliability_curve(probs, labels, n_bins=10)
    assert curve.accuracy.dtype == dtype
    for name in ("confidence", "accuracy", "count", "low", "high"):
        torch.testing.assert_close(getattr(curve, name), getattr(once, name))


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [15, 25]])
def test_binary(inputs, sizes):
    odds, labels = inputs.binary(91, 40, 2.0, 0.5, 0.3)
    probs = inputs.sigmoid(odds)
    stream = StreamingCalibration()
    for batch in pieces(probs, labels, sizes):
        stream.update(*batch)
    numbers = stream.compute()
    assert numbers["brier_score"] == pytest.approx(brier_score(probs, labels), abs=1e-13)
    assert numbers["negative_log_likelihood"] == pytest.approx(
        negative_log_likelihood(probs, labels), abs=1e-13
    )
    assert numbers["expected_calibration_error"] == pytest.approx(
        expected_calibration_error(probs, labels), abs=1e-13
    )
    assert "classwise_calibration_error" not in numbers
    ours, once = stream.brier_decomposition(), brier_decomposition(probs, labels)
    for name in ("score", "reliability", "resolution", "uncertainty", "within_bin"):
        assert getattr(ours, name) == pytest.approx(getattr(once, name), abs=1e-13)
    assert stream.smooth_calibration_error(bandwidth=0.1) == pytest.approx(
        smooth_calibration_error(probs, labels, bandwidth=0.1), abs=1e-12
    )


def test_merge_is_update(inputs):
    logits, labels = inputs.table(92, 100, 3, 2.0, 1.0)
    probs = inputs.softmax(logits)
    whole = StreamingCalibration(classwise=True).update(probs, labels)
    parts = [
        StreamingCalibration(classwise=True).update(probs[i::3], labels[i::3]) for i in range(3)
    ]
    before = parts[1].compute()
    total = StreamingCalibration(classwise=True)
    for part in parts:
        assert total.merge(part) is total
    total.merge(StreamingCalibration(classwise=True))
    assert parts[1].compute() == before
    for name, value in whole.compute().items():
        assert total.compute()[name] == pytest.approx(value, abs=1e-10), name
    parts[0].merge(parts[1])
    assert parts[2].n_samples == 33
    assert total.n_samples == 100


def test_a_refused_batch_changes_nothing():
    stream = StreamingCalibration().update([[0.5, 0.5]], [0])
    before = stream.compute()
    for probs, labels in (([[0.9, 0.9]], [0]), ([[0.5, 0.5]], [2]), ([[np.nan, 0.5]], [0])):
        with pytest.raises(ValueError, match=r"^(probs|labels)"):
            stream.update(probs, labels)
    with pytest.raises(ValueError, match=r"^probs: expected shape \(N, 2\) as before"):
        stream.update([[0.5, 0.25, 0.25]], [0])
    with pytest.raises(ValueError, match=r"^probs: expected shape \(N, 2\) as before, got \(N,\)"):
        stream.update([0.5], [0])
    assert stream.compute() == before


def test_reset_and_emptiness():
    stream = StreamingCalibration().update([0.3, 0.9], [0, 1])
    assert stream.reset() is stream
    assert stream.n_samples == 0
    for method in ("compute", "reliability_curve", "brier_decomposition"):
        with pytest.raises(ValueError, match="at least one batch"):
            getattr(stream, method)()
    stream.update([[0.5, 0.5]], [0])  # another shape is fine after a reset
    with pytest.raises(ValueError, match=r"^probs: expected batches of shape \(N,\)"):
        stream.brier_decomposition()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"^n_bins"):
        StreamingCalibration(0)
    with pytest.raises(ValueError, match=r"^classwise: expected probs of shape"):
        StreamingCalibration(classwise=True).update([0.5], [0])
    stream = StreamingCalibration().update([0.5], [0])
    with pytest.raises(ValueError, match=r"^classwise"):
        stream.expected_calibration_error(classwise=True)
    with pytest.raises(ValueError, match=r"^debias"):
        stream.expected_calibration_error(debias=True)
    for other in (StreamingCalibration(9), StreamingCalibration(classwise=True), "stream"):
        with pytest.raises(ValueError, match=r"^other"):
            stream.merge(other)
    with pytest.raises(ValueError, match=r"expected shape \(N,\) as before"):
        stream.merge(StreamingCalibration().update([[0.5, 0.5]], [0]))


def test_memory_does_not_grow_with_the_data():
    stream = StreamingCalibration(classwise=True)
    draw = torch.Generator().manual_seed(0)
    sizes = []
    for _ in range(3):
        probs = torch.rand(1000, 5, generator=draw).softmax(1)
        stream.update(probs, probs.argmax(1))
        sizes.append(
            sum(
                t.numel()
                for sums in (stream._events, stream._classes)
                for t in (sums.count, sums.confidence, sums.outcome)
            )
            + stream._grid.numel()
        )
    assert sizes[0] == sizes[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(inputs, monkeypatch, threads):
    logits, labels = inputs.table(93, 500, 6, 2.0, 0.5)
    probs = torch.tensor(inputs.softmax(logits))
    probs[:40] = torch.tensor([0.3, 0.3, 0.1, 0.1, 0.1, 0.1])  # ties in some blocks
    labels = torch.tensor(labels)
    expected = StreamingCalibration(classwise=True).update(probs, labels).compute()
    temperature = TemperatureScaling().fit(logits, labels).transform(logits)
    monkeypatch.setattr("enough.calibration._inputs._CPU_BLOCK", 50)
    monkeypatch.setattr("enough.calibration._inputs._LONE_BLOCK", 130)
    monkeypatch.setattr("enough.calibration._inputs._THREADED_ENTRIES", 1)
    monkeypatch.setattr("enough.calibration._sums._ClassBins._PENDING", 70)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for table in (probs, probs.T.contiguous().T, probs.flip(1).flip(1)):
        found = StreamingCalibration(classwise=True).update(table, labels).compute()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12), name
    again = TemperatureScaling().fit(logits, labels).transform(logits)
    np.testing.assert_allclose(again, temperature, atol=1e-12)
    probs[321] *= 1.01
    with pytest.raises(ValueError, match="row 321"):
        brier_score(probs, labels)
