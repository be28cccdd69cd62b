"""Plans: against brute force over sizes and against closed forms."""

import numpy as np
import pandas as pd
import pytest

from enough.scaling import (
    ChinchillaLaw,
    KaplanLaw,
    OverTrainingLaw,
    allocation_band,
    compute_optimal,
    inference_optimal,
    isoflop_minima,
)

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="module")
def table():
    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {"params": 10 ** draw.uniform(7.5, 10, 60), "tokens": 10 ** draw.uniform(9, 11.5, 60)}
    )
    noise = np.exp(0.003 * draw.standard_normal(60))
    return table.assign(loss=ChinchillaLaw.evaluate(TRUTH, table) * noise)


@pytest.mark.parametrize("law", [ChinchillaLaw, KaplanLaw, OverTrainingLaw])
def test_no_other_size_is_better(law, table):
    fit = law.fit(table)
    for flops in (1e18, 1e21):
        best = compute_optimal(fit, flops)
        assert 6 * best.params * best.tokens == pytest.approx(flops)
        sizes = best.params * np.geomspace(0.01, 100, 4001)
        losses = fit.predict({"params": sizes, "tokens": flops / 6 / sizes})
        assert best.loss <= losses.min() * (1 + 1e-12)
        assert sizes[losses.argmin()] == pytest.approx(best.params, rel=5e-3)


def test_several_budgets_follow_the_power_law(table):
    fit = ChinchillaLaw.fit(table)
    budgets = np.array([[1e18, 1e20], [1e22, 1e24]])
    best = compute_optimal(fit, budgets)
    assert best.params.shape == best.loss.shape == (2, 2)
    slope = np.polyfit(np.log(budgets.ravel()), np.log(best.params.ravel()), 1)[0]
    p = fit.params
    assert slope == pytest.approx(p["beta"] / (p["alpha"] + p["beta"]), rel=1e-9)
    with pytest.raises(ValueError, match="flops: expected numbers > 0"):
        compute_optimal(fit, 0)


def test_a_band_needs_and_uses_a_bootstrap(table):
    fit = ChinchillaLaw.fit(table, bootstrap=80, generator=0)
    best, band = compute_optimal(fit, 1e22), allocation_band(fit, 1e22)
    assert band["params"][0] < best.params < band["params"][1]
    exponent = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert band["exponent"][0] < exponent < band["exponent"][1]
    with pytest.raises(ValueError, match="expected one with a bootstrap"):
        allocation_band(ChinchillaLaw.fit(table), 1e22)


def test_serving_more_tokens_asks_for_a_smaller_model(table):
    fit = ChinchillaLaw.fit(table)
    target = compute_optimal(fit, 1e21)
    trained = inference_optimal(fit, target.loss, 0.0)
    assert trained.params == pytest.approx(target.params, rel=1e-3)
    served = inference_optimal(fit, target.loss, 1e13)
    assert served.params < 0.7 * trained.params
    assert served.loss == pytest.approx(target.loss, rel=1e-9)
    sizes = served.params * np.geomspace(0.2, 2, 401)
    p = fit.params
    with np.errstate(invalid="ignore"):
        tokens = (p["B"] / (target.loss - p["E"] - p["A"] * sizes ** -p["alpha"])) ** (
            1 / p["beta"]
        )
    cost = 6 * sizes * tokens + 2 * sizes * 1e13
    assert sizes[np.nanargmin(cost)] == pytest.approx(served.params, rel=0.01)
    with pytest.raises(ValueError, match="loss: expected a loss that some size reaches"):
        inference_optimal(fit, 0.9 * p["E"], 0.0)


def test_parabolas_find_the_minimum_of_a_parabola():
    rows = [
        {"flops": c, "params": n, "loss": 2 + 0.1 * np.log(n / (c / 1e11)) ** 2}
        for c in (1e18, 1e19)
        for n in (c / 1e11) * np.array([0.3, 0.8, 2.0, 5.0])
    ]
    found = isoflop_minima(pd.DataFrame(rows))
    np.testing.assert_allclose(found.params, [1e7, 1e8], rtol=1e-9)
    np.testing.assert_allclose(found.loss, 2.0, rtol=1e-12)
    np.testing.assert_allclose(found.curvature, 0.2, rtol=1e-9)
    assert found.interior.all()
    assert (found.points == 4).all()
    with pytest.raises(ValueError, match="a level of flops with at least 3 sizes"):
        isoflop_minima(pd.DataFrame(rows[:2]))


def test_approach_two_is_biased_where_the_exponents_differ():
    """Noise-free parabolas on centered grids: the spec's factors at 1e24, zero where α = β."""

    def factor(params, width):
        sizes = []
        for c in np.geomspace(1e18, 1e21, 5):
            total = params["alpha"] + params["beta"]
            scale = (params["alpha"] * params["A"] / (params["beta"] * params["B"])) ** (1 / total)
            center = scale * (c / 6) ** (params["beta"] / total)
            n = center * np.geomspace(1 / width, width, 9)
            loss = ChinchillaLaw.evaluate(params, {"params": n, "tokens": c / 6 / n})
            sizes.append(
                isoflop_minima({"flops": np.full(9, c), "params": n, "loss": loss}).params[0]
                / center
            )
        assert np.ptp(sizes) < 1e-6  # the same at every budget: the exponent is exact
        return sizes[0]

    base = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    assert 1.0 < factor(base, 2) < factor(base, 8) < factor(base, 100)
    assert factor({**base, "beta": 0.34}, 100) == pytest.approx(1.0, abs=1e-9)


class _OneSided:
    """A law that always asks for more parameters, or always for fewer."""

    def __init__(self, sign):
        self.params, self.sign = {}, sign

    def predict(self, data):
        return np.asarray(data["params"], dtype=float) ** self.sign


@pytest.mark.parametrize("sign", [-0.1, 0.1])
def test_a_law_without_a_best_size_is_refused(sign):
    with pytest.raises(ValueError, match="expected a law with a best size inside the budget"):
        compute_optimal(_OneSided(sign), 1e18)
