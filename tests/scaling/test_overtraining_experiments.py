"""The over-training experiments: on a generated table whose law is known."""

import math

import numpy as np
import pandas as pd
import pytest

from enough.scaling import ChinchillaLaw, OverTrainingLaw, PowerLaw
from enough.scaling.experiments import overtraining

TRUTH = {"E": 1.84, "a": 212.0, "b": 367.0, "eta": 0.136}


@pytest.fixture(scope="module")
def models():
    sizes = [1.06e7, 7.89e7, 1.54e8, 4.12e8]
    grid = [(n, 20 * m) for n in sizes for m in 2.0 ** np.arange(-2, 6)]
    grid += [(1.44e9, 20.0), (1.44e9, 640.0), (6.89e9, 20.0)]
    table = pd.DataFrame(grid, columns=["params", "multiplier"]).assign(dataset="one")
    table["tokens"] = table.params * table.multiplier
    table["loss"] = OverTrainingLaw.evaluate(TRUTH, table)
    table["error"] = 0.86 - 2.2 * np.exp(-0.71 * table.loss)
    return table


def test_the_recipe_takes_five_runs_then_one_and_predicts_two(models):
    roles = overtraining.recipe_rows(models)
    assert roles.role.value_counts().to_dict() == {"": 27, "loss": 5, "held out": 2, "error": 1}
    assert set(roles.multiplier[roles.role == "loss"]) == {20, 320}


def test_exact_data_are_predicted_exactly(models):
    found = overtraining.prediction_table(models)
    assert len(found) == 2
    for column in ("loss_miss", "error_miss", "wide_miss"):
        assert (found[column] < 1e-6).all()


def test_shuffled_losses_are_not_explained(models):
    result = overtraining.shuffled_fits(models, replicas=20, seed=1)
    assert result["explained"] > 1 - 1e-9
    assert result["p_value"] == pytest.approx(1 / 21)
    assert result["shuffled"].max() < 0.7
    again = overtraining.shuffled_fits(models, replicas=20, seed=1)
    np.testing.assert_array_equal(result["shuffled"], again["shuffled"])
    with pytest.raises(ValueError, match="replicas"):
        overtraining.shuffled_fits(models, replicas=0)


def test_nothing_served_is_compute_optimal_and_saves_nothing(models):
    for law in (OverTrainingLaw, ChinchillaLaw):
        fit = law.fit(models)
        rows = overtraining.inference_table(fit, 1e21, [0.0, 1e12, 1e13])
        assert rows.saved[0] == pytest.approx(0.0, abs=1e-9)
        assert (np.diff(rows.multiplier) > 0).all()
        assert (np.diff(rows.saved) > 0).all()
        small = rows.params[2] * np.geomspace(0.5, 2, 201)
        p = ChinchillaLaw.fit(models).params
        tail = rows.plain_cost[2] - 1e21  # 2 N* × served
        target = ChinchillaLaw.evaluate(
            p, {"params": [tail / 2e13], "tokens": [1e21 / 6 / (tail / 2e13)]}
        )[0]
        with np.errstate(invalid="ignore"):
            tokens = (p["B"] / (target - p["E"] - p["A"] * small ** -p["alpha"])) ** (1 / p["beta"])
        cost = np.nanmin(6 * small * tokens + 2 * small * 1e13)
        assert rows.cost[2] == pytest.approx(cost, rel=1e-3)
    line = PowerLaw.fit({"x": [1.0, 10.0, 100.0, 1000.0], "loss": [4.0, 3.0, 2.5, 2.2]})
    with pytest.raises(ValueError, match="fit: expected a law of params and tokens"):
        overtraining.inference_table(line, 1e21, 0.0)
    assert math.isfinite(rows.cost.sum())


def test_the_exponent_is_the_same_at_every_multiplier(models):
    small = models[models.params < 1e9]
    found = overtraining.exponents_by_multiplier(small, TRUTH["E"])
    assert found.multiplier.tolist() == [20 * 2.0**i for i in range(-2, 6)]
    np.testing.assert_allclose(found.exponent, TRUTH["eta"], rtol=1e-9)
    expected = TRUTH["a"] * found.multiplier ** TRUTH["eta"]
    expected += TRUTH["b"] * found.multiplier ** -TRUTH["eta"]
    np.testing.assert_allclose(found.prefactor, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="floor: expected less than every loss"):
        overtraining.exponents_by_multiplier(small, 9.0)


def test_stretch_is_the_ratio_of_the_table(models):
    fit = OverTrainingLaw.fit(models)
    rows = overtraining.inference_table(fit, 1e22, [0.0, 1e13])
    expected = rows.multiplier[1] / rows.multiplier[0]
    assert overtraining.stretch(fit.params, 1e22, 1e13) == pytest.approx(expected, rel=1e-4)
    assert overtraining.stretch(fit.params, 1e22, 0.0) == pytest.approx(1.0, rel=1e-4)
