"""The annealing experiments: against simulation, closed forms and the plain recursion."""

import numpy as np
import pandas as pd
import pytest

from enough.scaling import AnnealingLaw
from enough.scaling.experiments import annealing


def test_relative_errors_are_means_by_schedule():
    curves = pd.DataFrame({"schedule": ["a", "a", "b"], "loss": [1.0, 2.0, 4.0]})
    found = annealing.relative_errors([1.1, 2.0, 3.0], curves)
    assert found["a"] == pytest.approx(0.05)
    assert found["b"] == pytest.approx(0.25)


def test_schedules_share_their_warm_up_and_end_at_a_tenth():
    rates = annealing.our_schedules(1000, 50)
    for rate in rates.values():
        assert len(rate) == 1000
        np.testing.assert_allclose(rate[:50], np.arange(1, 51) / 50, rtol=1e-12)
    assert rates["constant"][-1] == 1
    for name in ("cosine", "wsd", "8-1-1"):
        assert rates[name][-1] == pytest.approx(0.1, abs=0.005)
    with pytest.raises(ValueError, match="warmup"):
        annealing.our_schedules(100, 51)


def test_scaled_momentum_keeps_the_published_share():
    assert annealing.scaled_momentum(24_000) == pytest.approx(0.999)
    with pytest.raises(ValueError, match="steps"):
        annealing.scaled_momentum(24)


def test_a_known_law_is_recovered_from_two_schedules():
    rates = {name: 0.01 * m for name, m in annealing.our_schedules(800).items()}
    rows = [(name, 0, step) for name in rates for step in range(80, 801, 20)]
    curves = pd.DataFrame(rows, columns=["schedule", "seed", "step"])
    truth = {"L_0": 2.0, "A": 0.5, "C": 0.4, "alpha": 0.6}
    curves["loss"] = AnnealingLaw.evaluate(
        truth, curves, schedules=rates, momentum=annealing.scaled_momentum(800)
    )
    table = annealing.our_table(curves, rates).set_index("schedule")
    assert (table.annealing < 1e-6).all()
    assert (table.forward[["wsd", "8-1-1"]] > 1e-3).all()
    assert table.C["wsd"] == pytest.approx(0.4, rel=1e-3)
    np.testing.assert_allclose(table.final, table.predicted, rtol=1e-6)
    assert table.seen.to_dict() == {"constant": True, "cosine": True, "wsd": False, "8-1-1": False}


def test_seeds_are_paired_until_the_schedules_part():
    options = dict(steps=40, seeds=2, width=8, batch_size=8, test_windows=64, points=10, seed=3)
    curves, rates = annealing.our_curves(("constant", "wsd", "8-1-1"), **options)
    wide = curves.pivot(index=["seed", "step"], columns="schedule", values="loss")
    before = wide.loc[(slice(None), slice(None, 32)), :]
    np.testing.assert_allclose(before["constant"], before["wsd"], rtol=1e-5)
    np.testing.assert_allclose(before["constant"], before["8-1-1"], rtol=1e-5)
    after = wide.loc[(slice(None), 40), :]
    assert (np.abs(after["constant"] - after["8-1-1"]) > 1e-5).all()
    assert wide.loc[0, "constant"].iloc[0] != wide.loc[1, "constant"].iloc[0]
    assert curves.step.min() == 4
    assert rates["wsd"][0] == rates["wsd"][10] == pytest.approx(0.016)  # warm-up at the peak
    with pytest.raises(ValueError, match="names"):
        annealing.our_curves(("other",), **options)


def test_the_quadratic_matches_simulated_sgd():
    values, start = annealing.quadratic_problem(modes=6, draws=1, seed=1)
    rates = {"one": np.linspace(0.3, 0.05, 30), "two": np.full(30, 0.2)}
    found = annealing.quadratic_curves(rates, values, start, batch_size=2, noise=0.5, points=2)
    draw = np.random.default_rng(0)
    for name, rate in rates.items():
        w = np.repeat(np.sqrt(start), 40_000, 0)
        for eta in rate:
            x = draw.normal(size=(40_000, 2, 6)) * np.sqrt(values)
            miss = np.einsum("rbk,rk->rb", x, w) - np.sqrt(0.5) * draw.normal(size=(40_000, 2))
            w = w - eta * np.einsum("rb,rbk->rk", miss, x) / 2
        loss = ((w**2) @ values + 0.5) / 2
        exact = found[(found.schedule == name) & (found.step == 30)].loss.item()
        assert abs(loss.mean() - exact) < 4 * loss.std() / np.sqrt(len(loss))


def test_endless_batches_are_gradient_descent():
    values, start = annealing.quadratic_problem(modes=5, draws=2, seed=2)
    rate = np.linspace(0.5, 0.1, 20)
    found = annealing.quadratic_curves({"a": rate}, values, start, batch_size=np.inf, points=2)
    factor = np.prod((1 - rate[:, None] * values) ** 2, axis=0)
    last = found[found.step == 20].loss
    np.testing.assert_allclose(last, (start * factor) @ values / 2, rtol=1e-12)
    with pytest.raises(ValueError, match="one length"):
        annealing.quadratic_curves({"a": rate, "b": rate[1:]}, values, start)


def test_the_best_rate_is_that_of_the_forward_recursion():
    values, start = annealing.quadratic_problem(modes=20, draws=2, seed=4)
    best = annealing.quadratic_best_rates(values, start, samples=400, batch_size=4, noise=0.7)
    steps = np.arange(100)
    shape = np.clip((100 - steps) / 20, 0, 1)  # constant, then a fifth of the updates to zero
    grid = np.geomspace(0.02, 1.5, 400)
    curves = annealing.quadratic_curves(
        {rate: rate * shape for rate in grid}, values, start, noise=0.7, points=2
    )
    last = curves[curves.step == 100].pivot(index="seed", columns="schedule", values="loss")
    np.testing.assert_allclose(best, last.idxmin(axis=1).to_numpy(), rtol=0.03)
    with pytest.raises(ValueError, match="grid"):
        annealing.quadratic_best_rates(
            values, start, samples=400, batch_size=4, grid=[1e-4, 2e-4, 3e-4]
        )


def test_annealing_gains_only_where_there_is_noise():
    values, start = annealing.quadratic_problem(modes=50, draws=3, seed=5)
    clean = annealing.quadratic_gain(values, start, steps=512, batch_size=np.inf, noise=0.0)
    noisy = annealing.quadratic_gain(values, start, steps=512)
    assert np.abs(clean).max() < 0.01
    assert noisy.min() > 0.05


def test_published_curves_are_predicted():
    table, fits = annealing.published_table(rivals=False)
    assert len(table) == 18
    assert set(table.schedule).isdisjoint(annealing.PUBLISHED_TRAIN)
    assert set(fits) == set(annealing.MULTI_POWER)
    assert (table.groupby("model").annealing.mean() < 0.0025).all()
    with pytest.raises(ValueError, match="every"):
        annealing.published_table(every=0)
