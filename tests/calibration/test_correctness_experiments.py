"""The experiments on correctness: theory against finite differences and numerical optima."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score

from enough.calibration import (
    CorrectnessAwareCalibration,
    TemperatureScaling,
    brier_score,
    expected_calibration_error,
)
from enough.calibration import experiments as ex


def logits_and_labels(seed, shape=(400, 6), scale=2.0):
    draw = np.random.RandomState(seed)
    return scale * draw.standard_normal(shape), draw.randint(shape[-1], size=shape[:-1])


@pytest.fixture(scope="module")
def task():
    return ex.correctness_task(members=3, n_train=100, n_calibration=300, seed=11)


# Theory


@pytest.mark.parametrize("inverse", [0.0, 0.6, 2.5])
def test_slopes_equal_finite_differences(inverse):
    z, y = logits_and_labels(0)
    rows, step = np.arange(len(y)), 1e-5
    right = z.argmax(1) == y

    def losses(b):
        p = np.exp(b * z) / np.exp(b * z).sum(1, keepdims=True)
        return -np.log(p[rows, y]), (p[rows, z.argmax(1)] - right) ** 2

    found = ex.temperature_slopes(z, y, inverse)
    for slope, high, low in zip(found, losses(inverse + step), losses(inverse - step), strict=True):
        np.testing.assert_allclose(slope, (high - low) / (2 * step), atol=1e-7)


def test_who_asks_for_more_confidence():
    z, y = logits_and_labels(1, shape=(5000, 10))
    p = torch.from_numpy(z).softmax(1).numpy()
    wrong = z.argmax(1) != y
    slopes = ex.temperature_slopes(z[wrong], y[wrong])
    beats_the_mean = z[wrong, y[wrong]] > (p * z).sum(1)[wrong]
    np.testing.assert_array_equal(slopes.ce < 0, beats_the_mean)
    assert 0 < beats_the_mean.sum() < wrong.sum()
    assert (slopes.ca > 0).all()
    right = ex.temperature_slopes(z[~wrong], y[~wrong])
    assert (right.ce < 0).all()
    assert (right.ca < 0).all()


def test_with_two_classes_no_wrong_prediction_is_sharpened():
    z, y = logits_and_labels(2, shape=(2000, 2))
    wrong = z.argmax(1) != y
    assert (ex.temperature_slopes(z[wrong], y[wrong]).ce > 0).all()


def test_slopes_keep_their_sign_where_the_confidence_saturates():
    z = torch.tensor([[60.0, 0.0, -1.0]])
    assert ex.temperature_slopes(z, [1]).ca.item() > 0
    assert ex.temperature_slopes(z, [0]).ca.item() < 0
    equal = ex.temperature_slopes([[1.0, 1.0]], [1])
    assert equal.ce == equal.ca == 0.0


@pytest.mark.parametrize("reference", [0.55, 0.9, 0.94])
def test_weighted_optimum_of_a_group(reference):
    for accuracy in (0.05, 0.5, reference, 0.99):

        def loss(c, a=accuracy):
            return a * (1 - reference) * (c - 1) ** 2 + (1 - a) * reference * c**2

        best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
        found = ex.balanced_confidence(accuracy, reference)
        assert found == pytest.approx(best, abs=1e-6)
        assert ex.unbalanced_confidence(found, reference) == pytest.approx(accuracy, abs=1e-12)
    assert ex.balanced_confidence(reference, reference) == pytest.approx(0.5, abs=1e-12)
    ends = ex.balanced_confidence(torch.tensor([0.0, 1.0]), reference)
    assert ends.tolist() == [0.0, 1.0]


def test_weights_bring_all_samples_that_look_alike_to_one_half():
    z = torch.tensor([3.0] + [0.0] * 9).repeat(2, 600, 1)
    y = (torch.arange(600) >= torch.tensor([[540], [390]])).long()
    y = torch.stack([row[torch.randperm(600, generator=torch.manual_seed(0))] for row in y])
    for weighted, wanted in ((True, [0.5, 0.5]), (False, [0.9, 0.65])):
        heads = ex.TemperatureHeads("ca", weighted=weighted, steps=60).fit(
            torch.zeros(2, 600, 3), z, y
        )
        confidence = (z / heads.temperatures(torch.zeros(2, 600, 3))[..., None]).softmax(-1)
        found = confidence.amax(-1)
        assert found.std(1).max() < 1e-6
        np.testing.assert_allclose(found[:, 0], wanted, atol=0.03)


# Features and shifts


def test_top_scores_by_a_plain_loop():
    z = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(3))
    found = ex.top_scores(z, n_top=2)
    for i in range(5):
        top = z[0, i].argsort(descending=True)[:2]
        wanted = [z[v, i].softmax(0)[j].item() for v in range(3) for j in top]
        assert found[i].tolist() == pytest.approx(wanted)


def test_views_and_shifts():
    images = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(4))
    views = ex.digit_views(images, 0)
    assert views.shape == (6, 4, 8, 8)
    assert torch.equal(views[0], images)
    assert len({view.square().sum().item() for view in views}) == 6
    for shifted in ex.digit_shifts(images, 0.0, 0).values():
        assert torch.allclose(shifted, images, atol=1e-6)
    full, half = ex.digit_shifts(images, 1.0, 0), ex.digit_shifts(images, 0.5, 0)
    assert torch.allclose(full["noisy"] - images, 2 * (half["noisy"] - images), atol=1e-6)


def test_a_task_is_paired_and_repeats_itself(task):
    assert task.tests == ("test", "rotated", "blurred", "noisy")
    assert task.logits["calibration"].shape == (6, 3, 300, 10)
    assert task.logits["rotated"].shape == (6, 3, 1397, 10)
    assert torch.equal(task.labels["test"], task.labels["noisy"])
    again = ex.correctness_task(members=2, n_train=100, n_calibration=300, strengths=(), seed=11)
    alone = ex.correctness_task(2, 100, 300, strengths=(), seed=11, views=False)
    assert alone.logits["test"].shape == (1, 2, 1397, 10)
    assert torch.allclose(alone.logits["test"], again.logits["test"][:1], atol=1e-3)
    assert again.tests == ("test",)
    # Member i is the same whatever the number of members.
    assert torch.equal(again.labels["test"], task.labels["test"][:2])
    assert torch.allclose(again.logits["test"], task.logits["test"][:, :2], atol=1e-3)
    accuracy = {
        n: (task.logits[n][0].argmax(-1) == task.labels[n]).double().mean() for n in task.tests
    }
    assert 0.8 < accuracy["test"] < 0.97
    assert max(accuracy[n] for n in task.tests[1:]) < accuracy["test"] - 0.1
    steps = ex.correctness_task(members=2, n_train=50, n_calibration=300, strengths=(0.5,), seed=1)
    assert steps.tests == ("test", "rotated 0.5", "blurred 0.5", "noisy 0.5")


def test_shuffled_views_are_those_of_other_images(task):
    mixed = ex.shuffle_views(task, 0)
    for name in ("calibration", "noisy"):
        before, after = task.logits[name], mixed.logits[name]
        assert torch.equal(before[0], after[0])
        assert not torch.equal(before[1:], after[1:])
        key = before[1:].sum((0, 3)).sort(1).values
        assert torch.allclose(key, after[1:].sum((0, 3)).sort(1).values, atol=1e-3)
    assert torch.equal(mixed.labels["test"], task.labels["test"])


def test_sampled_labels_follow_the_softmax(task):
    fair = ex.sample_labels(task, 0)
    assert set(fair.logits) == {"calibration", "test"}
    for e in range(3):
        scaling = TemperatureScaling().fit(
            task.logits["calibration"][0, e], task.labels["calibration"][e]
        )
        wanted = task.logits["test"][:, e] / scaling.temperature_
        assert torch.allclose(fair.logits["test"][:, e], wanted, rtol=1e-5)
    p = fair.logits["test"][0].softmax(-1).double()
    hits = F.one_hot(fair.labels["test"], 10).double()
    deviation = (hits - p).sum((0, 1)) / (p * (1 - p)).sum((0, 1)).sqrt()
    assert deviation.abs().max() < 4


# Heads


def test_heads_losses_are_the_textbooks(task):
    z, y = task.logits["calibration"][0], task.labels["calibration"]
    zeros = torch.zeros(3, 300, 1)
    one_hot = F.one_hot(y, 10).double()
    for loss in ("ce", "mse", "ca"):
        # A constant feature leaves one common temperature: the start, up to the training.
        heads = ex.TemperatureHeads(loss).fit(zeros, z, y)
        grid = torch.logspace(-1, 1, 2001, dtype=torch.float64)
        for e in range(3):
            p = (z[e].double() / grid[:, None, None]).softmax(-1)
            c, right = p.amax(-1), (z[e].argmax(-1) == y[e]).double()
            values = {
                "ce": -p.gather(-1, y[e].expand(2001, -1)[..., None])[..., 0].log().mean(-1),
                "mse": (p - one_hot[e]).square().sum(-1).mean(-1),
                "ca": (c - right).square().mean(-1),
            }[loss]
            assert heads.start_[e] == pytest.approx(grid[values.argmin()].item(), rel=0.011)
            assert heads.loss_[e] == pytest.approx(values.min().item(), rel=0.05)


def test_heads_aim_at_what_the_library_aims_at(task):
    z, y = task.logits["calibration"][0, :1], task.labels["calibration"][:1]
    features = ex.top_scores(task.logits["calibration"][:, :1])
    heads = ex.TemperatureHeads("ca", folds=2).fit(features, z, y)
    top = (z / heads.temperatures(features)[..., None]).softmax(-1).amax(-1)[0].double()
    right = (z[0].argmax(-1) == y[0]).long()
    library = CorrectnessAwareCalibration(steps=0).fit(z[0], y[0], features[0])
    # Both are squared distances of the same confidence and correctness.
    assert brier_score(top, right) < library.loss_ * 1.02


def test_heads_learn_a_feature_that_knows():
    draw = torch.Generator().manual_seed(8)
    z = torch.tensor([3.0] + [0.0] * 3).repeat(2, 900, 1)
    feature = (torch.rand(2, 900, 1, generator=draw) < 0.5).float()
    chance = torch.where(feature[..., 0] > 0.5, 0.95, 0.5)
    y = (torch.rand(2, 900, generator=draw) > chance).long()
    # The second decay lets nothing be learned, and must not be chosen.
    heads = ex.TemperatureHeads("ca", weight_decays=(0.1, 30.0), steps=400)
    heads.fit(feature, z, y)
    assert heads.weight_decay_.tolist() == [0.1, 0.1]
    confidence = (z / heads.temperatures(feature)[..., None]).softmax(-1).amax(-1)
    for e in range(2):
        for value in (0.0, 1.0):
            some = feature[e, :, 0] == value
            accuracy = (y[e][some] == 0).double().mean().item()
            assert confidence[e][some].mean().item() == pytest.approx(accuracy, abs=0.04)


def test_heads_are_their_own_and_repeat(task):
    z, y = task.logits["calibration"][0], task.labels["calibration"]
    features = ex.top_scores(task.logits["calibration"])
    state = torch.random.get_rng_state()
    every = ex.TemperatureHeads(steps=20, seed=3).fit(features, z, y)
    assert torch.equal(state, torch.random.get_rng_state())
    first = ex.TemperatureHeads(steps=20, seed=3).fit(features[:1], z[:1], y[:1])
    shared = every.temperatures(features)[:1]
    assert torch.allclose(first.temperatures(features[:1]), shared, rtol=1e-3)
    assert set(every.weight_decay_) <= {0.1, 1.0}
    assert (every.steps_ <= 20).all()


# Measuring


def test_metrics_against_libraries():
    draw = np.random.RandomState(9)
    c = draw.random_sample(500).round(2)  # with ties
    a = draw.random_sample(500) < c
    found = ex.correctness_metrics(c, a)
    assert found["auroc"] == pytest.approx(roc_auc_score(a, c), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score(c, a.astype(int)), abs=1e-12)
    ece = expected_calibration_error(c, a.astype(int), norm="l2", debias=True)
    assert found["ece"] == pytest.approx(ece, abs=1e-12)
    assert found["wrong_confidence"] == pytest.approx(c[~a].mean())
    assert found["right_confidence"] == pytest.approx(c[a].mean())
    assert found["accuracy"] == a.mean()
    only = ex.correctness_metrics(c, np.ones(500, dtype=bool))
    assert math.isnan(only["auroc"])
    assert math.isnan(only["wrong_confidence"])


def test_methods_keep_the_prediction_and_the_point_is_their_measurement(task):
    methods = ("uncalibrated", "temperature", "weighted, original")
    point = ex.correctness_point(methods, 2, 100, 300, seed=11)
    small = ex.correctness_task(2, 100, 300, seed=11)
    for method in methods:
        probs = ex.calibrated_probabilities(small, method, 11, ["noisy"])
        assert set(probs) == {"noisy"}
        assert torch.equal(probs["noisy"].argmax(-1), small.logits["noisy"][0].argmax(-1))
        measured = ex.measure_correctness(small, probs)["noisy"]
        np.testing.assert_allclose(measured["brier"], point[method]["noisy"]["brier"], rtol=1e-3)
    scaled = TemperatureScaling().fit(
        small.logits["calibration"][0, 0], small.labels["calibration"][0]
    )
    wanted = scaled.transform(small.logits["noisy"][0, 0].double())
    found = ex.calibrated_probabilities(small, "temperature")["noisy"][0]
    assert torch.allclose(found, wanted, atol=1e-6)
    label = small.labels["noisy"][0]
    nll = F.nll_loss(wanted.log(), label).item()
    assert point["temperature"]["noisy"]["nll"][0] == pytest.approx(nll, rel=1e-4)
    table = ex.correctness_table(point)
    assert len(table) == 3 * 4 * 2
    row = table[(table.method == "temperature") & (table.set == "noisy") & (table.member == 1)]
    assert row.nll.item() == point["temperature"]["noisy"]["nll"][1]


@pytest.mark.parametrize("method", ["vector", "isotonic", "mse, views"])
def test_other_methods_return_probabilities_without_a_word(task, method, recwarn):
    probs = ex.calibrated_probabilities(task, method, 0, ["test"])["test"]
    assert probs.shape == (3, 1397, 10)
    assert torch.allclose(probs.sum(-1), torch.ones(3, 1397, dtype=torch.float64))
    assert not recwarn.list


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ex.temperature_slopes(np.zeros((2, 3)), [0, 3]), "labels"),
        (lambda: ex.temperature_slopes(np.zeros(3), [0]), "logits"),
        (lambda: ex.temperature_slopes(np.zeros((1, 3)), [0], -1.0), "inverse"),
        (lambda: ex.balanced_confidence(1.2, 0.5), "accuracy"),
        (lambda: ex.unbalanced_confidence(-0.1, 0.5), "confidence"),
        (lambda: ex.balanced_confidence(0.5, 1.0), "reference"),
        (lambda: ex.top_scores(torch.zeros(2, 3, 4), 5), "n_top"),
        (lambda: ex.top_scores(torch.zeros(4)), "logits"),
        (lambda: ex.digit_shifts(torch.zeros(8, 8), -1.0), "strength"),
        (lambda: ex.correctness_task(members=1), "members"),
        (lambda: ex.correctness_task(n_calibration=1700), "n_calibration"),
        (lambda: ex.correctness_point(["nothing"]), "methods"),
        (lambda: ex.TemperatureHeads("brier"), "loss"),
        (lambda: ex.TemperatureHeads(weight_decays=()), "weight_decays"),
        (lambda: ex.TemperatureHeads(folds=1), "folds"),
        (lambda: ex.correctness_metrics([0.5, 1.5], [0, 1]), "probs"),
        (lambda: ex.correctness_metrics([0.5, 0.5], [0]), "right"),
        (lambda: ex.TemperatureHeads().temperatures(torch.zeros(1, 2, 3)), "TemperatureHeads"),
        (
            lambda: ex.TemperatureHeads().fit(
                torch.zeros(1, 4, 2), torch.zeros(1, 5, 3), torch.zeros(1, 5)
            ),
            "logits",
        ),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()


def test_errors_of_methods(task):
    with pytest.raises(ValueError, match=r"^method: expected one of"):
        ex.calibrated_probabilities(task, "platt")
    with pytest.raises(ValueError, match=r"^options: expected none"):
        ex.calibrated_probabilities(task, "temperature", hidden=3)
    with pytest.raises(ValueError, match=r"^sets: expected one of"):
        ex.calibrated_probabilities(task, "temperature", sets=["upside down"])
