"""The experiments of the chapter on fitting, against closed forms, brute force and mpmath."""

import math

import mpmath
import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from enough import data
from enough.scaling import ChinchillaLaw, PowerLaw, TranslationLaw, experiments
from enough.scaling.experiments import fitting

LAW = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    flops = 10 ** rng.uniform(18.5, 21.6, 80)
    size = 10 ** (0.5 * np.log10(flops) - 1.1 + rng.normal(0, 0.35, 80))
    rows = pd.DataFrame({"params": size, "tokens": flops / 6 / size, "flops": flops})
    loss = ChinchillaLaw.evaluate(LAW, rows) * np.exp(rng.laplace(0, 0.004, 80))
    return rows.assign(loss=loss)


def test_log_huber_against_a_loop(table):
    wanted, residuals = 0.0, []
    for row in table.itertuples():
        predicted = 1.7 + 400 * row.params**-0.34 + 2000 * row.tokens**-0.36
        r = math.log(predicted / row.loss)
        residuals.append(r)
        wanted += r * r / 2 if abs(r) <= 2e-3 else 2e-3 * (abs(r) - 1e-3)
    found = experiments.log_huber(LAW, table, delta=2e-3)
    assert found["objective"] == pytest.approx(wanted, rel=1e-12)
    assert found["bias"] == pytest.approx(np.mean(residuals), rel=1e-9)


def test_grid_starts_are_the_published_grid():
    starts = experiments.grid_starts()
    assert starts.shape == (4500, 5)
    assert len(np.unique(starts, axis=0)) == 4500
    assert [len(np.unique(column)) for column in starts.T] == [6, 6, 5, 5, 5]
    np.testing.assert_array_equal(starts.min(0), [0, 0, -1, 0, 0])
    np.testing.assert_array_equal(starts.max(0), [25, 25, 1, 2, 2])


def test_lbfgs_descends_to_the_optimum_from_a_near_start(table):
    fit = ChinchillaLaw.fit(table)
    middle = {c: np.exp(np.log(table[c]).mean()) for c in ("params", "tokens")}
    centered = table.assign(**{c: table[c] / m for c, m in middle.items()})
    p = ChinchillaLaw.fit(centered).params
    start = np.array([math.log(p["A"]), math.log(p["B"]), math.log(p["E"]), p["alpha"], p["beta"]])
    found = experiments.lbfgs_from([start + 0.05], centered, scale=1e5)
    assert found["objective"][0] == pytest.approx(fit.objective, rel=1e-4)
    ended = found["theta"][0]
    names = {"A": ended[0], "B": ended[1], "E": ended[2]}
    law = {k: math.exp(v) for k, v in names.items()} | {"alpha": ended[3], "beta": ended[4]}
    again = experiments.log_huber(law, centered)["objective"]
    assert found["objective"][0] == pytest.approx(again, rel=1e-12)


def test_lbfgs_uses_the_exact_gradient(table, monkeypatch):
    taken = {}

    def record(function, start, **options):
        taken["gap"] = optimize.check_grad(
            lambda t: function(t)[0], lambda t: function(t)[1], start, epsilon=1e-7
        )
        taken["size"] = np.linalg.norm(function(start)[1])
        return optimize.OptimizeResult(x=start, fun=function(start)[0])

    monkeypatch.setattr(fitting.optimize, "minimize", record)
    experiments.lbfgs_from([[6.0, 7.5, 0.5, 0.4, 0.3]], table, scale=3.0)
    assert taken["gap"] < 1e-5 * taken["size"]
    with pytest.raises(ValueError, match="scale: expected"):
        experiments.lbfgs_from([[6.0, 7.5, 0.5, 0.4, 0.3]], table, scale=0.0)


@pytest.mark.parametrize(("width", "printed"), [(2, 1.003), (8, 1.030), (100, 1.155)])
def test_the_bias_of_approach_two(width, printed):
    found = experiments.approach_two_bias(0.34, 0.28, width)
    assert found["size"] == pytest.approx(printed, abs=5e-4)
    assert abs(found["exponent"]) < 1e-12
    # The profile in ln(N / N*), without budgets, coefficients or a floor.
    x = np.linspace(-np.log(width), np.log(width), 15)
    second, first, _ = np.polyfit(x, np.exp(-0.34 * x) / 0.34 + np.exp(0.28 * x) / 0.28, 2)
    assert found["size"] == pytest.approx(math.exp(-first / (2 * second)), rel=1e-9)


def test_the_bias_vanishes_for_equal_exponents_and_has_the_leading_term():
    assert experiments.approach_two_bias(0.31, 0.31, 50)["size"] == pytest.approx(1, abs=1e-12)
    found = experiments.approach_two_bias(0.4, 0.2, 1.5, points=2001)["size"]
    assert math.log(found) == pytest.approx(0.2 * math.log(1.5) ** 2 / 10, rel=0.01)
    with pytest.raises(ValueError, match="half_width"):
        experiments.approach_two_bias(0.4, 0.2, 1.0)
    with pytest.raises(ValueError, match="points"):
        experiments.approach_two_bias(0.4, 0.2, 2.0, points=2)


@pytest.mark.parametrize("ratios", [[20], [5, 80]])
def test_the_condition_number_in_forty_digits(ratios):
    gap = 0.05
    with mpmath.workdps(40):
        size = [mpmath.mpf(10) ** (8 + mpmath.mpf(2 * i) / 5) for i in range(6)]
        pairs = [(mpmath.log(n), mpmath.log(n * r)) for r in ratios for n in size]
        center = [mpmath.fsum(p[i] for p in pairs) / len(pairs) for i in (0, 1)]
        rows = []
        for a, b in pairs:
            x, z = a - center[0], b - center[1]
            u = mpmath.exp(-(mpmath.mpf(0.34 + gap / 2)) * x)
            v = mpmath.exp(-(mpmath.mpf(0.34 - gap / 2)) * z)
            rows.append([1, u, v, -x * u, -z * v])
        j = mpmath.matrix(rows)
        values = mpmath.eigsy(j.T * j, eigvals_only=True)
        wanted = float(max(values) / min(values))
    found = experiments.condition_number(gap, ratios, sizes=6)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_condition_number_grows_with_powers_of_the_gap():
    for known, power in ((False, -2), (True, -6)):
        values = [experiments.condition_number(g, [20], exponents=known) for g in (0.02, 0.01)]
        assert math.log(values[1] / values[0]) / math.log(0.5) == pytest.approx(power, abs=0.05)


def test_shuffled_losses_leave_no_gain(table):
    real = experiments.shuffled_point(table, shuffle=False, seed=3)
    shuffled = experiments.shuffled_point(table, shuffle=True, seed=3)
    assert real > 0.8
    assert shuffled < 0.2
    assert real == experiments.shuffled_point(table, shuffle=False, seed=3)


def test_coverage_is_a_yes_or_no_and_mostly_yes():
    found = [experiments.coverage_point(rows=60, replicas=20, seed=s) for s in range(6)]
    assert {type(f) for f in found} == {bool}
    assert sum(found) >= 4


def test_extrapolation_errors_against_a_fit_by_hand(table):
    small = table[table.flops < 1e20]
    large = table[table.flops >= 1e20]
    fit = ChinchillaLaw.fit(small)
    wanted = abs(ChinchillaLaw.evaluate(fit.params, large) / large.loss - 1)
    np.testing.assert_allclose(experiments.extrapolation_errors(table, 1e20), wanted, rtol=1e-12)
    with pytest.raises(ValueError, match="flops"):
        experiments.extrapolation_errors(table, 1e30)


def test_three_approaches_agree_without_noise():
    flops = np.repeat(fitting.BUDGETS, 41)
    a = LAW["beta"] / (LAW["alpha"] + LAW["beta"])
    scale = (LAW["alpha"] * LAW["A"] / (LAW["beta"] * LAW["B"])) ** (
        1 / (LAW["alpha"] + LAW["beta"])
    )
    size = scale * (flops / 6) ** a * np.tile(np.exp(np.linspace(-0.7, 0.7, 41)), 9)
    rows = pd.DataFrame({"params": size, "tokens": flops / 6 / size, "flops": flops})
    rows = rows.assign(loss=ChinchillaLaw.evaluate(LAW, rows))
    found = experiments.approaches_table(rows).exponent
    np.testing.assert_allclose(found, a, atol=1e-6)
    # Runs between two budgets count for the law alone, however low their loss.
    off = rows.head(5).assign(flops=1.5e19, loss=0.9 * rows.loss.min())
    found = experiments.approaches_table(pd.concat([rows, off], ignore_index=True)).exponent
    np.testing.assert_allclose(found[:2], a, atol=1e-6)


def ladder_points(exponents):
    parts = []
    for recipe, a in zip(fitting.RUNGS.values(), exponents, strict=True):
        for flops in 1e17 * 2.0 ** np.arange(8):
            x = np.linspace(-2, 2, 9)
            rows = {"params": 1e7 * (flops / 1e17) ** a * np.exp(x), "loss": 3 + 0.05 * x**2}
            names = dict(zip(("hparams", "warmup", "decay", "count"), recipe, strict=True))
            parts.append(pd.DataFrame({**rows, **names, "dataset": "rw", "flops": flops}))
    return pd.concat(parts, ignore_index=True)


def test_the_ladder_recovers_known_exponents():
    wanted = [0.83, 0.70, 0.60, 0.57, 0.50]
    minima = experiments.ladder_table(ladder_points(wanted))
    for (_, here), a in zip(minima.groupby("rung", sort=False), wanted, strict=True):
        assert len(here) == 8
        slope = np.polyfit(np.log(here.flops), np.log(here.params), 1)[0]
        assert slope == pytest.approx(a, abs=1e-9)
    steps = experiments.ladder_steps(minima, replicas=50)
    np.testing.assert_allclose(steps["drop"], -np.diff(wanted), atol=1e-9)
    np.testing.assert_allclose(steps["low"], steps["high"], atol=1e-9)
    with pytest.raises(ValueError, match="dataset"):
        experiments.ladder_table(ladder_points(wanted), "owt2")


def test_the_ladder_interval_covers_the_scatter():
    rng = np.random.default_rng(0)
    minima = experiments.ladder_table(ladder_points([0.83, 0.70, 0.60, 0.57, 0.50]))
    minima["params"] *= np.exp(rng.normal(0, 0.1, len(minima)))
    steps = experiments.ladder_steps(minima, replicas=500, seed=1)
    x = np.log(1e17 * 2.0 ** np.arange(8))
    error = 0.1 * math.sqrt(2 / ((x - x.mean()) ** 2).sum())
    width = (steps["high"] - steps["low"]).mean()
    assert 0.4 * 3.92 * error < width < 2 * 3.92 * error
    assert (steps["low"] <= steps["drop"]).all()
    assert (steps["drop"] <= steps["high"]).all()


def test_the_published_optima_give_the_published_exponents():
    if not data.available("porian_resolving_optimal_pairs"):
        pytest.skip("the table porian_resolving_optimal_pairs is not at hand")
    optima = experiments.ladder_optima("rw")
    assert optima.real
    for (_, here), a in zip(
        optima.table.groupby("rung", sort=False), (0.834, 0.701, 0.604, 0.571, 0.497), strict=True
    ):
        assert np.polyfit(np.log(here.flops), np.log(here.params), 1)[0] == pytest.approx(
            a, abs=6e-4
        )


def test_translation_errors_are_nil_for_the_true_form():
    tokens = 5e5 * 2.0 ** np.arange(10)
    runs = pd.DataFrame({"model": "one", "tokens": tokens, "train": tokens < 2e8})
    first = TranslationLaw.evaluate({"a": 60.0, "C": 4e-8, "p": 0.29}, runs)
    found = experiments.translation_errors(runs.assign(loss=first), starts=3)
    assert found.translation[0] < 1e-5 < 1e-3 < found.floor[0]
    assert found.p[0] == pytest.approx(0.29, abs=1e-4)
    second = PowerLaw.evaluate({"E": 0.3, "A": 400.0, "alpha": 0.5}, {"x": tokens})
    found = experiments.translation_errors(runs.assign(loss=second), starts=3)
    assert found.floor[0] < 1e-5 < 1e-3 < found.translation[0]
    assert experiments.translation_point(seed=0) < 0


def test_the_bivariate_law_and_its_experiment():
    law = {"L_inf": 1.2, "A": 50.0, "p_e": 0.2, "p_d": 0.3}
    size, other = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e6, 1e9, 5))
    rows = {"encoder": size.ravel(), "decoder": other.ravel()}
    loss = 1.2 + 50 * rows["encoder"] ** -0.2 * rows["decoder"] ** -0.3
    np.testing.assert_allclose(experiments.BivariateLaw.evaluate(law, rows), loss, rtol=1e-12)
    fit = experiments.BivariateLaw.fit({**rows, "loss": loss})
    for name, value in law.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-5)
    exact = experiments.bivariate_point(0.2, 0.3, noise=1e-7)
    assert exact["difference"] == pytest.approx(0.1, abs=1e-5)
    assert exact["bivariate"] < 1e-5 < 0.01 < exact["total"]
    noisy = [experiments.bivariate_point(0.2, 0.3, seed=s) for s in range(12)]
    spread = np.std([n["difference"] for n in noisy], ddof=1)
    assert 0.4 < spread / np.mean([n["stderr"] for n in noisy]) < 2.0
