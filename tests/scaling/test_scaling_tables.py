"""The published tables: fits that reproduce published numbers, where the tables are at hand."""

import numpy as np
import pytest

from enough import data
from enough.scaling import (
    AnnealingLaw,
    ChinchillaLaw,
    DataConstrainedLaw,
    DownstreamLaw,
    HyperparameterLaw,
    MultiPowerLaw,
    OverTrainingLaw,
    TranslationLaw,
    published,
)


def table(name):
    try:
        return data.load(name, download=False)
    except data.DataUnavailableError as error:
        pytest.skip(f"the table {name} is not at hand: {error}")


@pytest.fixture(scope="module")
def chinchilla():
    points = table("chinchilla_epoch")
    points = points.rename(columns={"Model Size": "params"})
    points["tokens"] = points["Training FLOP"] / 6 / points["params"]
    return points


def test_chinchilla_reaches_the_global_optimum(chinchilla):
    kept = chinchilla[chinchilla.loss < np.sort(chinchilla.loss)[-5]]
    assert len(kept) == 240
    fit = ChinchillaLaw.fit(kept)
    assert fit.objective <= 1.0182740178e-3 * (1 + 1e-6)
    assert fit.agreement == 1.0
    expected = {"A": 477.826, "B": 2143.417, "E": 1.81722, "alpha": 0.347310, "beta": 0.367172}
    for name, value in expected.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-4)
    everything = ChinchillaLaw.fit(chinchilla)
    assert everything.objective == pytest.approx(1.826e-3, abs=1e-6)
    assert everything.params["beta"] == pytest.approx(0.453, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "errors", "exponent"),
    [
        ("rpj", (0.7103, 0.7320), -0.27285),
        ("c4_original", (1.498, 4.295), -0.24247),
        ("rw_original", (0.005, 1.619), -0.25439),
    ],
)
def test_overtraining_gives_the_published_errors(name, errors, exponent):
    models = table("gadre_overtraining")
    models = models[models.dataset == name]
    models = models.assign(loss=models.loss_c4_val, error=models.avg_err_17)
    base = models.chinchilla_multiplier == 1
    train = models[
        (base & (models.params < 5e8))
        | ((models.params < 2e7) & (models.chinchilla_multiplier == 16))
    ]
    assert len(train) == 5
    fit = OverTrainingLaw.fit(train, residuals="raw", huber_delta=np.inf)
    assert -2 * fit.params["eta"] == pytest.approx(exponent, abs=1e-5)
    large = models[((models.params > 1e9) & ~base) | (models.params > 5e9)]
    large = large.sort_values("params")
    relative = 100 * abs(fit.predict(large) / large.loss - 1)
    np.testing.assert_allclose(relative, errors, atol=6e-4)
    if name == "rpj":
        one = models[base & models.params.between(1e9, 2e9)]
        rows = {
            column: np.concatenate([train[column], one[column]]) for column in ("loss", "error")
        }
        downstream = DownstreamLaw.fit(rows)
        for symbol, value in {"k": 2.2065, "gamma": 0.7146, "epsilon": 0.8570}.items():
            assert downstream.params[symbol] == pytest.approx(value, abs=6e-5)
        found = downstream.predict({"loss": fit.predict(large)})
        np.testing.assert_allclose(100 * abs(found / large.error - 1), (3.637, 0.046), atol=6e-4)


def test_repeated_data_give_the_published_r_squared_and_a_lower_objective():
    runs = table("data_constrained_muennighoff_fit").rename(columns={"val_loss": "loss"})
    exponent = 0.3526596
    base = dict(
        zip("EAB", np.exp([0.6254804, 6.255414, 7.3049974]), strict=True),
        alpha=exponent,
        beta=exponent,
    )

    def r_squared(**limits):
        predicted = DataConstrainedLaw.evaluate(limits, runs, base=base)
        return (
            1 - ((predicted - runs.loss) ** 2).sum() / ((runs.loss - runs.loss.mean()) ** 2).sum()
        )

    assert r_squared(R_D=np.inf, R_N=np.inf) == pytest.approx(0.4451684378759986, abs=1e-10)
    assert r_squared(R_D=15.387756, R_N=5.309743) == pytest.approx(0.7722046084968408, abs=1e-10)
    fit = DataConstrainedLaw.fit(runs, base=base)
    assert fit.objective < 0.01580471
    assert fit.params["R_D"] == pytest.approx(95.4, abs=0.5)
    # The constants are hardly identified: the profile is flat, and resamples run off to no decay.
    profile = fit.profile("R_D", [5.0, 15.387756, fit.params["R_D"], 1e5]) / fit.objective
    assert profile[0] > 1.02
    assert profile[1] == pytest.approx(1.00135, abs=1e-4)
    assert profile[2] == pytest.approx(1.0, abs=1e-9)
    assert profile[3] < 1.01
    assert fit.not_identified == ()  # the curvature at the optimum does not see it
    fit = DataConstrainedLaw.fit(runs, base=base, bootstrap=60, generator=0)
    assert "R_D" in fit.not_identified
    low, high = np.quantile(fit.bootstrap["R_D"], [0.1, 0.9])
    assert low < 15.4 < 1e4 < high


def test_translation_extrapolates_within_two_percent():
    runs = table("nmt_bansal_alabdulmohsin")
    runs = runs.rename(columns={"Seen Examples": "tokens", "Loss": "loss"})
    for _, one in runs.groupby("Model"):
        fit = TranslationLaw.fit(one[one.Training == 1])
        ahead = one[one.Training == 0]
        assert abs(fit.predict(ahead) / ahead.loss - 1).max() < 0.02
        assert 0.2 < fit.params["p"] < 0.33


def test_the_published_step_law_draws_and_its_exponents():
    draws = table("steplaw_fits")
    assert draws.lr_coefN.mean() == pytest.approx(-0.7129, abs=1e-4)
    runs = table("steplaw")
    best = runs.groupby(["N", "D"])["smooth loss"].transform("min")
    near = runs[runs["smooth loss"] <= 1.0025 * best]
    assert len(near) == 129
    rows = {"params": near.N, "tokens": near.D, "rate": near.lr}
    fit = HyperparameterLaw.fit(rows, target="rate")
    assert fit.params["params"] == pytest.approx(-0.768, abs=5e-3)
    assert fit.params["tokens"] == pytest.approx(0.198, abs=5e-3)


@pytest.fixture(scope="module")
def curves():
    table("lr_annealing_multipowerlaw")  # skips where it is absent
    return {model: published.annealing_curves(model).table for model in ("25M", "100M", "400M")}


def test_annealing_predicts_six_unseen_schedules(curves):
    for model, error in (("25M", 0.212), ("100M", 0.200), ("400M", 0.228)):
        here = curves[model]
        rates = {name: published.annealing_schedule(name) for name in here.schedule.unique()}
        known = here.schedule.isin(["cosine_24000", "constant_24000", "wsdcon_9"])
        fit = AnnealingLaw.fit(here[known], schedules=rates)
        unseen = here[~known]
        relative = abs(fit.predict(unseen) / unseen.loss - 1)
        by_curve = relative.groupby(unseen.schedule).mean()
        assert len(by_curve) == 6
        assert 100 * by_curve.mean() == pytest.approx(error, abs=2e-3)


def test_the_multi_power_law_with_published_constants_needs_its_warm_up(curves):
    constants = dict(
        zip(
            ("L_0", "A", "alpha", "B", "C", "beta", "gamma"),
            (3.0405, 0.5247, 0.5079, 363.79, 2.0656, 0.5828, 0.6414),
            strict=True,
        )
    )
    here = curves["25M"]
    unseen = here[here.schedule.isin(["wsd_20000_24000", "wsdcon_3", "constant_72000"])]
    unseen = unseen.groupby("schedule").head(60)
    error = {}
    for warm_up in (True, False):
        rates = {
            name: published.annealing_schedule(name, warm_up=warm_up)
            for name in unseen.schedule.unique()
        }
        predicted = MultiPowerLaw.evaluate(constants, unseen, schedules=rates)
        error[warm_up] = abs(predicted / unseen.loss - 1).mean()
    assert error[True] < 0.003
    assert error[False] > 0.02
