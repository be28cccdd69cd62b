"""The law of filtered data: a plain loop, its limits, generated errors, published constants."""

import numpy as np
import pandas as pd
import pytest

from enough.scaling import DataFilteringLaw, IdentifiabilityWarning

POOL = 12.8e6
# results/parameter_values.jsonl of locuslab/scaling_laws_data_filtering at commit 251f695, id
# tmars_imagenet1k_utility: four tenths of a pool by quality; there a is per 100 000 samples.
NAMES = ("best", "second", "third", "fourth")
PUBLISHED = {
    "a": 0.025 / 1e5,
    "d": 0.1,
    **{f"b[{n}]": b for n, b in zip(NAMES, (-0.16, -0.125, -0.1, -0.085), strict=True)},
    **{
        f"tau[{n}]": tau
        for n, tau in zip(NAMES, (6.727273, 8.545455, 5.272727, 2.272727), strict=True)
    },
}


def one_by_one(a, d, utilities, lives, samples, unique):
    """Multiply the factors of the epochs in turn."""
    y, done, epoch = 1.0, 1 / a, 0
    count = len(utilities)
    while True:
        end = min((epoch + 1) * unique, samples)
        exponent = np.mean(
            [b * 0.5 ** (epoch / (count * tau)) for b, tau in zip(utilities, lives, strict=True)]
        )
        y *= (end / done) ** exponent
        if end == samples:
            return d + y
        done, epoch = end, epoch + 1


def runs(noise=0.0, pools=NAMES[:2], d=0.1):
    rows = [(p, n, POOL) for p in pools for n in POOL * np.geomspace(0.2, 40, 16)]
    table = pd.DataFrame(rows, columns=["pool", "samples", "unique_samples"])
    clean = DataFilteringLaw.evaluate(PUBLISHED | {"d": d}, table)
    wobble = np.random.default_rng(3).normal(size=len(table))
    return table.assign(error=clean * np.exp(noise * wobble))


def test_the_law_is_the_product_over_epochs_for_pools_and_their_unions():
    for pool in ("best", ("best",), ("best", "third"), NAMES):
        names = (pool,) if isinstance(pool, str) else pool
        for samples in (0.3 * POOL, POOL, 2.5 * POOL, 50 * POOL):
            unique = POOL * len(names)
            found = DataFilteringLaw.evaluate(
                PUBLISHED,
                {"pool": [pool], "samples": [samples], "unique_samples": [unique]},
            )[0]
            expected = one_by_one(
                PUBLISHED["a"],
                PUBLISHED["d"],
                [PUBLISHED[f"b[{n}]"] for n in names],
                [PUBLISHED[f"tau[{n}]"] for n in names],
                samples,
                unique,
            )
            assert found == pytest.approx(expected, rel=1e-12)


def test_without_decay_repeated_samples_are_as_good_as_new():
    forever = PUBLISHED | {"tau[best]": np.inf}
    table = {"pool": ["best"] * 2, "samples": [POOL, 30 * POOL], "unique_samples": [POOL] * 2}
    found = DataFilteringLaw.evaluate(forever, table)
    power = 0.1 + (PUBLISHED["a"] * np.array([POOL, 30 * POOL])) ** PUBLISHED["b[best]"]
    np.testing.assert_allclose(found, power, rtol=1e-12)
    repeated = DataFilteringLaw.evaluate(PUBLISHED, table)
    assert repeated[0] == pytest.approx(found[0])
    assert repeated[1] > found[1]


def test_the_local_exponent_halves_with_every_half_life():
    law = PUBLISHED | {"tau[best]": 2.0}
    slopes = []
    for epoch in (0, 2, 4):
        n = POOL * (epoch + np.array([0.4, 0.6]))
        y = DataFilteringLaw.evaluate(
            law, {"pool": ["best"] * 2, "samples": n, "unique_samples": [POOL] * 2}
        )
        slopes.append(np.diff(np.log(y - 0.1))[0] / np.diff(np.log(n))[0])
    np.testing.assert_allclose(slopes, -0.16 * np.array([1, 0.5, 0.25]), rtol=1e-9)


def shrinking_floor(names, samples, unique):
    """The released form: d belongs to the first epoch's factor and decays with it."""
    lives = [PUBLISHED[f"tau[{n}]"] for n in names]
    utilities = [PUBLISHED[f"b[{n}]"] for n in names]
    y, epoch = 1.0, 0
    while epoch * unique < samples:
        decay = [0.5 ** (epoch / (len(names) * tau)) for tau in lives]
        exponent = np.mean(np.multiply(utilities, decay))
        end = min((epoch + 1) * unique, samples)
        factor = end / (epoch * unique) if epoch else PUBLISHED["a"] * end
        y *= factor**exponent + (0 if epoch else PUBLISHED["d"])
        epoch += 1
    return y


def test_with_published_constants_more_compute_wants_more_pools():
    """The paper's message: how much to keep depends on how long one trains."""
    ours, released = [], []
    for samples in (32e6, 64e6, 128e6, 640e6):
        unions = [NAMES[:k] for k in (1, 2, 3, 4)]
        unique = [len(pools) * POOL for pools in unions]
        table = {"pool": unions, "samples": [samples] * 4, "unique_samples": unique}
        ours.append(int(DataFilteringLaw.evaluate(PUBLISHED, table).argmin()) + 1)
        theirs = [shrinking_floor(p, samples, u) for p, u in zip(unions, unique, strict=True)]
        released.append(int(np.argmin(theirs)) + 1)
    assert ours == released == [1, 1, 2, 2]


def test_exact_errors_give_their_constants_back():
    table = runs()
    fit = DataFilteringLaw.fit(table)
    np.testing.assert_allclose(fit.loss, table.error, rtol=1e-7)
    assert fit.params.keys() == {"a", "d", "b[best]", "b[second]", "tau[best]", "tau[second]"}
    for name, value in fit.params.items():
        assert value == pytest.approx(PUBLISHED[name], rel=1e-4), name
    # A union that was never fitted follows from its members.
    union = {"pool": [("best", "second")], "samples": [200e6], "unique_samples": [2 * POOL]}
    assert fit.predict(union) == pytest.approx(DataFilteringLaw.evaluate(PUBLISHED, union))


def test_a_floor_can_be_held():
    fit = DataFilteringLaw.fit(runs(), floor=0.1)
    assert fit.params["d"] == 0.1
    assert fit.params["tau[best]"] == pytest.approx(PUBLISHED["tau[best]"], rel=1e-5)
    pure = DataFilteringLaw.fit(runs(d=0.0), floor=0.0)
    assert pure.params["d"] == 0.0
    assert pure.params["b[best]"] == pytest.approx(-0.16, rel=1e-5)


def test_the_bootstrap_covers_the_half_lives_and_the_fit_beats_a_grid():
    table = runs(noise=3e-3)
    fit = DataFilteringLaw.fit(table, floor=0.1, bootstrap=100, generator=0)
    for name in ("tau[best]", "tau[second]", "b[best]"):
        low, high = np.quantile(fit.bootstrap[name], [0.005, 0.995])
        assert low < PUBLISHED[name] < high
    draw = np.random.default_rng(0)
    for _ in range(300):
        near = {k: v * np.exp(0.05 * draw.normal()) for k, v in fit.params.items()} | {"d": 0.1}
        residual = np.log(DataFilteringLaw.evaluate(near, table) / table.error)
        assert (residual**2).sum() / 2 >= fit.objective * (1 - 1e-9)


def test_a_half_life_beyond_the_data_is_reported():
    table = runs(noise=1e-2)
    table = table[table.samples < 1.5 * POOL]
    with pytest.warns(IdentifiabilityWarning, match="tau"):
        fit = DataFilteringLaw.fit(table, floor=0.1)
    assert any(name.startswith("tau") for name in fit.not_identified)


def test_what_cannot_be_fitted_is_refused():
    table = runs()
    for change, message in (
        ({"pool": [("best", "second")] * len(table)}, "pool: expected single pools"),
        ({"samples": np.full(len(table), POOL / 2)}, "samples: expected runs that repeat"),
        (
            {"error": 1 + table.samples / 1e9},
            "error: expected errors that fall with samples of 'best'",
        ),
        ({"samples": table.samples * 1e6}, "samples: expected at most 10000 epochs"),
    ):
        with pytest.raises(ValueError, match=message):
            DataFilteringLaw.fit(table.assign(**change))
    with pytest.raises(ValueError, match="floor: expected less than every error"):
        DataFilteringLaw.fit(table, floor=5.0)
    with pytest.raises(ValueError, match="at least 6 rows"):
        DataFilteringLaw.fit(table.iloc[12:17])
    with pytest.raises(ValueError, match="column 'pool'"):
        DataFilteringLaw.fit(table.drop(columns="pool"))
    with pytest.raises(ValueError, match="pool: expected one of the fitted pools, got 'fifth'"):
        DataFilteringLaw.evaluate(
            PUBLISHED, {"pool": ["fifth"], "samples": [1e6], "unique_samples": [1e6]}
        )
    with pytest.raises(ValueError, match="several different ones"):
        DataFilteringLaw.evaluate(
            PUBLISHED, {"pool": [("best", "best")], "samples": [1e6], "unique_samples": [1e6]}
        )
