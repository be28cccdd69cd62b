"""The experiments behind the chapter on layer-wise calibration."""

import numpy as np
import pytest
import torch

from enough.book.exercises import checks_of
from enough.quantization import experiments, prepare_model, quantize_model
from enough.quantization.experiments import layerwise


@pytest.fixture(scope="module")
def nets():
    return experiments.convnets(2, epochs=1, seed=5)


def test_the_module_computes_what_the_stacked_networks_do(nets):
    for member in range(2):
        module = experiments.digit_module(nets, member, dtype=torch.float64)
        logits = module(nets.test[member])
        assert torch.allclose(logits, nets.logits[member], atol=1e-4)
        folded = prepare_model(module, nets.calibration[member])
        assert torch.allclose(folded(nets.test[member]), logits, atol=1e-9)


def test_calibration_images_never_meet_the_test(nets):
    few, many = (experiments.with_images(nets, n) for n in (8, 512))
    assert few.calibration.shape[1] == 8
    assert torch.equal(few.test, many.test)
    assert torch.equal(many.calibration[:, :8], few.calibration)
    seen = {tuple(row) for row in many.calibration[0].flatten(1).tolist()}
    assert not seen & {tuple(row) for row in many.test[0].flatten(1).tolist()}
    with pytest.raises(ValueError, match="images"):
        experiments.with_images(nets, 513)


def test_a_judge_of_unchanged_models_finds_nothing(nets):
    models = [experiments.digit_module(nets, i) for i in range(2)]
    found = experiments.judge(nets, models)
    assert np.abs(found["divergence"]).max() < 1e-9
    exact = (nets.logits.argmax(-1) == nets.labels).double().mean(1)
    assert np.allclose(found["accuracy"], exact.numpy(), atol=2e-3)


def test_divergence_by_the_definition(nets):
    models = experiments.compress(nets, "nearest", 2)
    p = nets.logits[0].softmax(-1)
    p_hat = models[0](nets.test[0].float()).double().softmax(-1)
    expected = (p * (p / p_hat).log()).sum(-1).mean()
    found = experiments.judge(nets, models)["divergence"][0]
    assert found == pytest.approx(float(expected), rel=1e-3)


def test_fine_tuning_stays_on_the_grid_and_lowers_its_loss(nets):
    some = experiments.with_images(nets.first(1), 16)
    tuned = experiments.compress(some, "fine_tune", 2, steps=40)
    still = experiments.compress(some, "fine_tune", 2, steps=1, lr=1e-9)
    for model in (tuned[0], still[0]):
        inner = [m.weight for m in model.modules() if hasattr(m, "weight")][1:3]
        for weight in inner:
            assert max(len(row.unique()) for row in weight.flatten(1)) <= 4
    before, after = (experiments.judge(some, m)["calibration"][0] for m in (still, tuned))
    assert after < 0.5 * before


def test_gaps_vanish_for_the_model_itself_and_see_a_shift(nets):
    model = prepare_model(
        experiments.digit_module(nets, 0, dtype=torch.float64), nets.calibration[0]
    )
    images = nets.calibration[0]
    assert experiments.channel_gaps(model, model, images) == {"mean": 0.0, "variance": 0.0}
    rounded = quantize_model(model, {"bits": 8}, images)
    with torch.no_grad():
        rounded[-1].bias += 0.25
    assert experiments.channel_gaps(rounded, model, images)["mean"] == pytest.approx(0.25, abs=0.05)


def test_the_search_is_the_program_by_hand():
    cost = {"a": {2: 1.0, 4: 0.0}, "b": {2: 0.3, 4: 0.1}}
    assert layerwise._search(cost, {"a": 10, "b": 10}, 60) == pytest.approx(0.3)
    assert layerwise._search(cost, {"a": 10, "b": 10}, 80) == pytest.approx(0.1)


def test_allocations_of_one_network(nets):
    found = experiments.allocation_point(nets.first(1), (2.5,))
    assert found["excess"].min() >= -1e-12
    assert np.abs(found["gap"]).max() < 1e-9
    sizes = np.array([144, 4608, 9216, 1280])
    assert sizes @ found["bits"][2.5][0] <= 2.5 * sizes.sum()
    assert found["program"][2.5][0] < found["even"][2][0]


def test_a_shared_layer_leaves_no_choice():
    found = experiments.shared_layer_point(members=1, steps=60, seed=3)
    assert found["accuracy"][0] > 0.8
    assert found["program"][0] == found["even"][0] > 0


def test_no_rounding_beats_the_search_and_white_inputs_have_no_feedback():
    found = experiments.rounding_tasks_point(cases=20, columns=4, seed=1)
    assert (found["best"] <= found["gptq"] + 1e-12).all()
    assert (found["best"] <= found["nearest"] + 1e-12).all()
    assert found["changed"].sum() > 0
    white = experiments.rounding_tasks_point(cases=5, columns=4, white=True, seed=1)
    assert white["changed"].sum() == 0
    assert np.allclose(white["best"], white["nearest"])


def test_a_point_is_reproducible():
    once, again = (
        experiments.layerwise_point("gptq", 2, images=16, members=1, epochs=1, seed=4)
        for _ in range(2)
    )
    assert once["divergence"] == again["divergence"] > 0
    with pytest.raises(ValueError, match="method"):
        experiments.layerwise_point("magic", 2, members=1, epochs=1)


def test_wrong_answers_fail():
    checks = checks_of("quantization/layerwise")
    assert not checks["images"].test(288)
    assert not checks["correction"].test(lambda W, W_hat, b, rows: b)
    assert not checks["allocation"].test(lambda cost, size, budget: dict.fromkeys(cost, 2))
