"""Every law: exact recovery, transformations, weights, refusals, and what a fit reports."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from enough.scaling import (
    AnnealingLaw,
    AverageParametersLaw,
    ChinchillaLaw,
    CriticalBatchLaw,
    DataConstrainedLaw,
    DownstreamLaw,
    HyperparameterLaw,
    IdentifiabilityWarning,
    KaplanLaw,
    MultiPowerLaw,
    OverTrainingLaw,
    PowerLaw,
    TranslationLaw,
    annealing_areas,
)

CHINCHILLA = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def runs(noise=0.0, seed=0, count=60):
    draw = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "params": 10 ** draw.uniform(7.5, 10, count),
            "tokens": 10 ** draw.uniform(9, 11.5, count),
        }
    )
    clean = ChinchillaLaw.evaluate(CHINCHILLA, table)
    return table.assign(loss=clean * np.exp(noise * draw.standard_normal(count)))


def schedules():
    peak = np.full(400, 1e-3)
    down = np.concatenate([np.full(200, 1e-3), np.linspace(1e-3, 1e-4, 200)])
    return {"constant": peak, "linear": down, "cosine": 5e-4 * (1 + np.cos(np.linspace(0, 3, 400)))}


def curves(params):
    rows = [(name, step) for name in schedules() for step in range(20, 401, 20)]
    table = pd.DataFrame(rows, columns=["schedule", "step"])
    return table.assign(loss=AnnealingLaw.evaluate(params, table, schedules=schedules()))


EXACT = [
    (ChinchillaLaw, CHINCHILLA, runs(), {}),
    (ChinchillaLaw, CHINCHILLA, runs(), {"residuals": "raw", "huber_delta": np.inf}),
    (
        AverageParametersLaw,
        CHINCHILLA,
        runs().rename(columns={"params": "average_params"}),
        {},
    ),
    (PowerLaw, {"E": 0.5, "A": 3.0, "alpha": 0.4}, {"x": np.geomspace(1, 1e4, 12)}, {}),
    (
        PowerLaw,
        {"E": 0.0, "A": 3.0, "alpha": 0.4},
        {"x": np.geomspace(1, 1e4, 12)},
        {"floor": False},
    ),
    (OverTrainingLaw, {"E": 1.8, "a": 212.0, "b": 366.0, "eta": 0.136}, runs(), {}),
    (
        KaplanLaw,
        {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095},
        runs(),
        {},
    ),
    (
        DownstreamLaw,
        {"epsilon": 0.86, "k": 2.2, "gamma": 0.71},
        {"loss": np.linspace(2, 5, 9)},
        {},
    ),
    (TranslationLaw, {"a": 900.0, "C": 4e-8, "p": 0.3}, {"tokens": np.geomspace(1e5, 1e9, 12)}, {}),
    (CriticalBatchLaw, {"S_min": 2000.0, "B_crit": 300.0}, {"batch": 2.0 ** np.arange(3, 13)}, {}),
    (
        DataConstrainedLaw,
        {"R_D": 15.4, "R_N": 5.3},
        runs().assign(unique_tokens=runs().tokens / np.geomspace(1, 60, 60)),
        {"base": CHINCHILLA},
    ),
]


@pytest.mark.parametrize(("law", "truth", "table", "options"), EXACT)
def test_exact_data_give_the_parameters_back(law, truth, table, options):
    settings = {"base": options["base"]} if "base" in options else {}
    table = pd.DataFrame(table)
    table[law.target] = law.evaluate(truth, table, **settings)
    fit = law.fit(table, **options)
    assert fit.params.keys() == truth.keys()
    for name, value in truth.items():
        assert fit.params[name] == pytest.approx(value, rel=2e-4, abs=1e-12), name
    np.testing.assert_allclose(fit.loss, table[law.target], rtol=1e-7)
    np.testing.assert_allclose(fit.predict(table), fit.loss, rtol=1e-9)
    assert fit.objective < 1e-10
    assert 0 < fit.agreement <= 1


def test_the_annealing_law_gives_its_parameters_back():
    truth = {"L_0": 2.9, "A": 0.6, "C": 20.0, "alpha": 0.5}
    table = curves(truth)
    fit = AnnealingLaw.fit(table, schedules=schedules())
    for name, value in truth.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(fit.predict(table), table.loss, rtol=1e-8)


def test_a_product_of_powers_is_ordinary_least_squares():
    draw = np.random.default_rng(1)
    table = runs(count=40)
    table["rate"] = 1.8 * table.params**-0.7 * table.tokens**0.3 * np.exp(draw.normal(0, 0.1, 40))
    fit = HyperparameterLaw.fit(table, target="rate")
    design = np.column_stack([np.ones(40), np.log(table.params), np.log(table.tokens)])
    expected, *_ = np.linalg.lstsq(design, np.log(table.rate), rcond=None)
    np.testing.assert_allclose(
        [np.log(fit.params["c"]), fit.params["params"], fit.params["tokens"]], expected, rtol=1e-8
    )
    np.testing.assert_allclose(fit.predict(table), np.exp(design @ expected), rtol=1e-8)
    residual = (np.log(table.rate) - design @ expected).to_numpy()
    inverse = np.linalg.inv(design.T @ design)
    robust = inverse @ (design.T * residual**2) @ design @ inverse * 40 / 37
    assert fit.stderr["tokens"] == pytest.approx(robust[2, 2] ** 0.5, rel=1e-6)


def test_units_and_order_of_rows_change_nothing_else():
    table = runs(0.01)
    fit = ChinchillaLaw.fit(table)
    scaled = ChinchillaLaw.fit(
        table.assign(params=table.params / 1e6, tokens=table.tokens / 1e9).iloc[::-1]
    )
    assert scaled.objective == pytest.approx(fit.objective, rel=1e-9)
    for name in ("E", "alpha", "beta"):
        assert scaled.params[name] == pytest.approx(fit.params[name], rel=1e-6)
    assert scaled.params["A"] == pytest.approx(
        fit.params["A"] * 1e6 ** -fit.params["alpha"], rel=1e-5
    )
    np.testing.assert_allclose(scaled.loss[::-1], fit.loss, rtol=1e-8)
    assert scaled.condition_number == pytest.approx(fit.condition_number, rel=1e-4)


def test_a_weight_is_a_repeated_row():
    table = runs(0.01, count=30)
    counts = np.arange(30) % 3
    weighted = ChinchillaLaw.fit(table, weights=counts)
    repeated = ChinchillaLaw.fit(table.loc[table.index.repeat(counts)])
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.params["beta"] == pytest.approx(repeated.params["beta"], rel=1e-6)


def test_standard_errors_match_the_bootstrap_and_the_scatter_of_new_tables():
    estimates = [ChinchillaLaw.fit(runs(0.01, seed, 120), starts=1).params for seed in range(40)]
    scatter = pd.DataFrame(estimates).std()
    fit = ChinchillaLaw.fit(runs(0.01, 0, 120), bootstrap=200, generator=0)
    for name in ("E", "alpha", "beta"):
        assert 0.5 < fit.stderr[name] / scatter[name] < 2.0
        assert 0.5 < fit.bootstrap[name].std() / scatter[name] < 2.0
    assert set(fit.bootstrap) == set(fit.params)
    again = ChinchillaLaw.fit(runs(0.01, 0, 120), bootstrap=200, generator=0)
    np.testing.assert_array_equal(fit.bootstrap["E"], again.bootstrap["E"])


def test_intervals_contain_the_prediction_and_shrink_with_the_level():
    table = runs(0.01)
    ahead = {"params": [1e11], "tokens": [1e13]}
    for fit in (ChinchillaLaw.fit(table), ChinchillaLaw.fit(table, bootstrap=100, generator=0)):
        low, high = fit.interval(ahead)
        inner = fit.interval(ahead, 0.5)
        assert low < inner[0] < fit.predict(ahead) < inner[1] < high


def test_a_profile_touches_the_objective_at_the_optimum_only():
    fit = ChinchillaLaw.fit(runs(0.01))
    for name in fit.params:
        value = fit.params[name]
        left, center, right = fit.profile(name, [0.9 * value, value, 1.1 * value])
        assert center == pytest.approx(fit.objective, rel=1e-7)
        assert left > fit.objective < right
    with pytest.raises(ValueError, match="name: expected one of"):
        fit.profile("kappa", [1.0])
    with pytest.raises(ValueError, match="values: expected numbers > 0"):
        fit.profile("A", [-1.0])


class Largest(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that an operation returned."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, torch.Tensor):
                # A broadcast view takes no memory.
                self.entries = max(self.entries, min(one.numel(), one.untyped_storage().nbytes()))
        return result


@pytest.mark.filterwarnings("ignore::enough.scaling.IdentifiabilityWarning")
def test_no_array_is_as_large_as_the_grid_of_starts_times_the_rows():
    table = runs(0.01, 0, 2000)
    with Largest() as seen:
        ChinchillaLaw.fit(table, bootstrap=20, generator=0)
    assert 2000 < seen.entries <= 100 * 2000  # the grid has 1681 points
    repeated = table.assign(unique_tokens=table["tokens"] / np.linspace(1, 9, len(table)))
    for law, data, options in (
        (KaplanLaw, table, {}),
        (DataConstrainedLaw, repeated, {"base": CHINCHILLA}),
    ):
        with pytest.MonkeyPatch.context() as patch, Largest() as seen:
            patch.setattr("enough.scaling.joint._MEMORY", 2**20)
            law.fit(data, starts=2, **options)
        assert 2000 < seen.entries <= 100 * 2000


def test_batches_of_starts_and_replicas_change_nothing(monkeypatch):
    table = runs(0.01, 0, 40)
    together = ChinchillaLaw.fit(table, bootstrap=7, generator=0)
    kaplan = KaplanLaw.fit(table)
    monkeypatch.setattr("enough.scaling.fit._ENTRIES", 2 * 40 * 5)
    monkeypatch.setattr("enough.scaling.joint._MEMORY", 80 * 40 * 100)
    apart = ChinchillaLaw.fit(table, bootstrap=7, generator=0)
    assert apart.objective == pytest.approx(together.objective, rel=1e-12)
    assert apart.agreement == together.agreement
    for name, values in together.bootstrap.items():
        np.testing.assert_allclose(apart.bootstrap[name], values, rtol=1e-5)
    assert KaplanLaw.fit(table).objective == pytest.approx(kaplan.objective, rel=1e-12)


def test_groups_are_resampled_whole():
    table = runs(0.02, count=40)
    groups = np.repeat(np.arange(4), 10)
    fit = PowerLaw.fit(
        table.rename(columns={"params": "x"}),
        floor=False,
        bootstrap=300,
        groups=groups,
        generator=1,
    )
    assert len(np.unique(fit.bootstrap["alpha"].round(10))) <= 35  # multisets of 4 groups
    with pytest.raises(ValueError, match="groups: expected one label a row"):
        PowerLaw.fit(table.rename(columns={"params": "x"}), bootstrap=2, groups=[0, 1])


def test_what_the_data_do_not_determine_is_named():
    two_sizes = runs(0.01).assign(params=np.tile([1e8, 1e9], 30))
    with pytest.warns(IdentifiabilityWarning, match="do not identify"):
        fit = ChinchillaLaw.fit(two_sizes)
    assert fit.not_identified
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ChinchillaLaw.fit(runs(0.01)).not_identified == ()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.drop(columns="tokens"), "expected a column 'tokens'"),
        (lambda t: t.head(4), "at least 5 rows, got 4"),
        (lambda t: t.assign(params=1e9), "params: expected at least two different values"),
        (lambda t: t.assign(tokens=20 * t.params), "tokens near 20 x params"),
        (lambda t: t.assign(loss=2.0), "loss: expected values that differ"),
        (lambda t: t.assign(loss=t.loss.where(t.index > 0)), "loss: expected finite numbers"),
        (lambda t: t.assign(tokens=-t.tokens), "tokens: expected numbers > 0"),
        (lambda t: t.assign(loss="high"), "loss: expected numbers"),
    ],
)
def test_hopeless_tables_are_refused_by_name(change, match):
    with pytest.raises(ValueError, match=match):
        ChinchillaLaw.fit(change(runs()))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"huber_delta": 0}, "huber_delta"),
        ({"starts": 0}, "starts"),
        ({"residuals": "squared"}, "residuals"),
        ({"bootstrap": -1}, "bootstrap"),
        ({"weights": [1.0]}, "weights: expected one number a row"),
        ({"weights": -np.ones(60)}, "weights: expected finite numbers >= 0"),
    ],
)
def test_bad_options_are_refused_by_name(options, match):
    with pytest.raises(ValueError, match=match):
        ChinchillaLaw.fit(runs(), **options)


def test_other_laws_refuse_by_name():
    with pytest.raises(ValueError, match="grows with the loss"):
        DownstreamLaw.fit({"loss": [2.0, 3.0, 4.0], "error": [0.9, 0.7, 0.6]})
    with pytest.raises(ValueError, match="base: expected a fit or parameters"):
        DataConstrainedLaw.fit(runs().assign(unique_tokens=1e9), base={"E": 1.0})
    with pytest.raises(ValueError, match="runs that repeat tokens"):
        DataConstrainedLaw.fit(runs().assign(unique_tokens=runs().tokens), base=CHINCHILLA)
    with pytest.raises(ValueError, match="at least unique_tokens"):
        DataConstrainedLaw.evaluate(
            {"R_D": 1, "R_N": 1}, runs().assign(unique_tokens=2 * runs().tokens), base=CHINCHILLA
        )
    with pytest.raises(ValueError, match="params: expected"):
        ChinchillaLaw.evaluate({"E": 1.0}, runs())
    table = curves({"L_0": 2.9, "A": 0.6, "C": 20.0, "alpha": 0.5})
    with pytest.raises(ValueError, match="expected one that anneals"):
        AnnealingLaw.fit(table[table.schedule == "constant"], schedules=schedules())
    with pytest.raises(ValueError, match="expected 'cosine' among them"):
        AnnealingLaw.fit(table, schedules={k: v for k, v in schedules().items() if k != "cosine"})
    with pytest.raises(ValueError, match="step: expected 1 to 400"):
        AnnealingLaw.fit(table.assign(step=table.step + 1), schedules=schedules())


def test_effective_tokens_of_unlimited_repeats_are_the_tokens():
    table = runs().assign(unique_tokens=runs().tokens / 3)
    free = DataConstrainedLaw.evaluate({"R_D": np.inf, "R_N": np.inf}, table, base=CHINCHILLA)
    np.testing.assert_allclose(free, ChinchillaLaw.evaluate(CHINCHILLA, table), rtol=1e-12)
    # Four epochs at R* = 15.39 are worth 0.931 of four epochs of new tokens.
    limit, repeats = 15.387756, 3.0
    assert (1 + limit * (1 - np.exp(-repeats / limit))) / 4 == pytest.approx(0.931, abs=5e-4)


def test_the_profile_of_repeated_data_is_the_lowest_objective_on_a_grid():
    table = runs(0.01, 4).assign(unique_tokens=lambda t: t.tokens / 6)
    truth = {"R_D": 12.0, "R_N": 5.0}
    clean = DataConstrainedLaw.evaluate(truth, table, base=CHINCHILLA)
    table = table.assign(loss=clean * np.exp(0.002 * np.random.default_rng(1).normal(size=60)))
    fit = DataConstrainedLaw.fit(table, base=CHINCHILLA, huber_delta=np.inf)

    def objective(**limits):
        found = DataConstrainedLaw.evaluate(limits, table, base=CHINCHILLA)
        return (np.log(found / table.loss) ** 2).sum() / 2

    assert fit.profile("R_D", [fit.params["R_D"]]) == pytest.approx(fit.objective, rel=1e-9)
    for name, other in (("R_D", "R_N"), ("R_N", "R_D")):
        brute = min(objective(**{name: 7.0, other: v}) for v in np.geomspace(0.1, 1e3, 3000))
        assert fit.profile(name, [7.0])[0] == pytest.approx(brute, rel=1e-4)
    with pytest.raises(ValueError, match="values: expected numbers > 0 for R_D"):
        fit.profile("R_D", [0.0])


def test_annealing_areas_are_the_sums_of_their_definition():
    rates = np.array([3.0, 3.0, 2.0, 2.5, 0.5])
    forward, annealed = annealing_areas(rates, 0.9)
    momentum = total = 0.0
    for i in range(5):
        momentum = 0.9 * momentum + (rates[i - 1] - rates[i] if i else 0.0)
        total += momentum
        assert annealed[i] == pytest.approx(total)
    np.testing.assert_allclose(forward, np.cumsum(rates))
    with pytest.raises(ValueError, match="rates: expected finite"):
        annealing_areas([-1.0])


def test_the_multi_power_law_is_its_double_sum():
    params = {"L_0": 3.0, "A": 0.5, "alpha": 0.5, "B": 300.0, "C": 2.0, "beta": 0.6, "gamma": 0.64}
    rates = np.array([1e-4, 2e-4, 3e-4, 3e-4, 2e-4, 1e-4])
    for step in range(1, 7):
        loss = params["L_0"] + params["A"] * rates[:step].sum() ** -params["alpha"]
        for k in range(2, step + 1):
            reach = params["C"] * rates[k - 1] ** -params["gamma"] * rates[k - 1 : step].sum()
            gain = 1 - (reach + 1) ** -params["beta"]
            loss -= params["B"] * (rates[k - 2] - rates[k - 1]) * gain
        found = MultiPowerLaw.evaluate(
            params, {"schedule": ["s"], "step": [step]}, schedules={"s": rates}
        )
        assert found[0] == pytest.approx(loss, rel=1e-12)
