"""Schedules against their closed forms, torch's schedulers, and their own limits."""

import math

import numpy as np
import pytest
import torch

from enough.training import constant, cosine, linear, multi_step, power, wsd
from enough.training.schedules import multipliers

ALL = {
    "constant": constant(warmup=5),
    "linear": linear(40, warmup=5, final=0.1),
    "cosine": cosine(40, warmup=5),
    "wsd": wsd(40, warmup=5, decay=0.25),
    "multi_step": multi_step(40, warmup=5),
    "power": power(start=10, warmup=5),
}


def torch_rates(make, steps):
    """Learning rates of one of torch's own schedulers with base rate 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


@pytest.mark.parametrize("name", ALL)
def test_warm_up_is_linear_and_reaches_one(name):
    np.testing.assert_allclose(ALL[name](np.arange(5)), np.arange(1, 6) / 5, rtol=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_numbers_and_arrays_agree_and_stay_in_the_unit_interval(name):
    steps = np.arange(60)
    values = ALL[name](steps)
    assert values.shape == (60,)
    assert ((values >= 0) & (values <= 1)).all()
    singles = [ALL[name](int(step)) for step in steps]
    assert all(isinstance(value, float) for value in singles)
    np.testing.assert_allclose(values, singles, rtol=1e-14)


def test_constant_is_one():
    assert constant()(0) == constant()(10**6) == 1.0


def test_cosine_equals_torch():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50, eta_min=0.1), 50
    )
    np.testing.assert_allclose(cosine(50, final=0.1)(np.arange(50)), expected, rtol=1e-12)


def test_linear_equals_torch():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=30), 30
    )
    np.testing.assert_allclose(linear(30, final=0.25)(np.arange(30)), expected, rtol=1e-12)


def test_multi_step_equals_torch():
    expected = torch_rates(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [80, 90], gamma=math.sqrt(0.1)), 100
    )
    np.testing.assert_allclose(multi_step(100)(np.arange(100)), expected, rtol=1e-12)


def test_default_multi_step_is_the_8_1_1_schedule():
    values = multi_step(1000)(np.arange(1000))
    assert (values == 1.0).sum() == 800
    assert np.isclose(values, 0.316, atol=5e-4).sum() == 100
    assert np.isclose(values, 0.1).sum() == 100


@pytest.mark.parametrize(
    ("shape", "halfway"), [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)]
)
def test_wsd_stays_then_decays(shape, halfway):
    schedule = wsd(100, decay=0.2, shape=shape)
    assert (schedule(np.arange(81)) == 1.0).all()
    assert schedule(90) == pytest.approx(halfway, rel=1e-12)
    assert schedule(99) > 0.0
    assert schedule(100) == pytest.approx(0.0, abs=1e-15)
    assert wsd(100, decay=0.2, shape=shape, final=0.3)(100) == pytest.approx(0.3)


def test_power_falls_with_its_exponent_from_its_start():
    schedule = power(start=100, exponent=0.7)
    assert (schedule(np.arange(100)) == 1.0).all()
    assert schedule(199) == pytest.approx(2**-0.7, rel=1e-12)
    assert schedule(99_999) == pytest.approx(1000**-0.7, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(warmup=-1), "warmup"),
        (lambda: cosine(0), "steps"),
        (lambda: cosine(10, warmup=10), "warmup: expected fewer updates"),
        (lambda: cosine(10, final=1.5), "final"),
        (lambda: linear(10, final=math.nan), "final"),
        (lambda: wsd(10, decay=0.0), "decay"),
        (lambda: wsd(10, warmup=9), "warmup: expected at most 8"),
        (lambda: wsd(10, shape="square"), "shape: expected one of"),
        (lambda: multi_step(10, milestones=(0.9, 0.8)), "milestones: expected increasing"),
        (lambda: multi_step(10, factor=0.0), "factor"),
        (lambda: power(start=0), "start"),
        (lambda: power(start=5, exponent=-1.0), "exponent"),
        (lambda: multipliers("cosine", 5), "schedule: expected a function"),
        (lambda: multipliers(lambda step: -1.0, 5), "schedule: expected finite"),
        (lambda: multipliers(lambda step: [1.0, 1.0], 5, 3), "schedule: expected a number, or 3"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
