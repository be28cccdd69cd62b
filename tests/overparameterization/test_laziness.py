"""The two-average dynamics against networks of real neurons."""

import math

import numpy as np
import pytest
import torch
from torch.func import jvp

from enough.overparameterization import (
    experiments,
    kernel_movement,
    kernel_target_alignment,
    population_loss,
    quadratic_tangent_kernel,
    quadratic_task,
    stable_learning_rate,
    train_lazy_rich,
    weight_statistics,
)

ALPHA, EPS = 0.7, 0.4


def _network(w, x, alpha=ALPHA, eps=EPS):
    h = x @ w.mT
    return alpha * (h + eps / 2 * h**2).mean(-1)


def _setting(seed=0, n=9, d=4, width=6, seeds=1):
    x, y, beta = quadratic_task(n, d, seed, seeds=seeds)
    w = torch.randn(seeds, width, d, dtype=torch.float64, generator=torch.manual_seed(seed + 1))
    return x, y, beta, w


def _train(x, y, beta, w, **options):
    mean, moment = weight_statistics(w)
    return train_lazy_rich(x, y, beta, ALPHA, EPS, mean=mean, moment=moment, **options)


@pytest.mark.parametrize("frozen", [False, True])
def test_two_averages_follow_real_neurons(frozen):
    with torch.random.fork_rng():
        x, y, beta, w0 = _setting(3)
    rate, steps, width = 0.8, 40, w0.shape[1]
    run = _train(
        x, y, beta, w0, steps=steps, record=[0, 7, steps], learning_rate=rate, frozen=frozen
    )
    start = w0[0]

    def outputs(w, inputs):
        if frozen:
            return jvp(lambda v: _network(v, inputs), (start,), (w - start,))[1]
        return _network(w, inputs) - _network(start, inputs)

    w = start.clone().requires_grad_()
    fresh = torch.randn(200_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    fresh = fresh / 2
    target = 0.5 * (fresh @ beta[0]).square()
    for step in range(steps + 1):
        loss = (outputs(w, x[0]) - y[0]).square().mean()
        if step in (0, 7, steps):
            at = list(run.steps).index(step)
            assert run.train_loss[at, 0] == pytest.approx(loss.item(), rel=1e-8)
            sample = (outputs(w.detach(), fresh) - target).square()
            error = sample.std() / math.sqrt(len(sample))
            assert abs(sample.mean() - run.test_loss[at, 0]) < 4 * error
            if not frozen:
                moment = w.detach().mT @ w.detach() / width
                b = beta[0]
                share = (b @ moment @ b) / (b @ b) / moment.trace()
                assert run.weight_alignment[at, 0] == pytest.approx(share.item(), rel=1e-8)
        (slope,) = torch.autograd.grad(loss, w)
        w = (w - rate * width / ALPHA**2 * slope).detach().requires_grad_()
    if frozen:
        assert run.movement[:, 0].tolist() == [0.0, 0.0, 0.0]
    else:
        assert run.movement[2, 0] > 0.01


def test_frozen_training_has_its_closed_form():
    """Residuals of kernel gradient descent are a matrix power."""
    with torch.random.fork_rng():
        x, y, beta, w = _setting(5)
    mean, moment = weight_statistics(w)
    rate, steps = 0.5, 300
    run = _train(x, y, beta, w, steps=steps, learning_rate=rate, frozen=True, record=[steps])
    kernel = quadratic_tangent_kernel(x[0], mean[0], moment[0], EPS)
    values, vectors = torch.linalg.eigh(kernel)
    shrink = (1 - 2 * rate / x.shape[1] * values) ** steps
    residual = vectors @ (shrink * (vectors.mT @ -y[0]))
    assert run.train_loss[0, 0] == pytest.approx(residual.square().mean().item(), rel=1e-9)


def test_tangent_kernel_is_the_gradients_inner_product():
    with torch.random.fork_rng():
        x, _, _, w = _setting(7, n=5)
    jacobian = torch.autograd.functional.jacobian(lambda v: _network(v, x[0]), w[0])
    flat = jacobian.flatten(1)
    want = flat @ flat.mT * w.shape[1] / ALPHA**2
    mean, moment = weight_statistics(w[0])
    got = quadratic_tangent_kernel(x[0].numpy(), mean.numpy(), moment.numpy(), EPS)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-12)


def test_population_loss_at_the_solution_and_away():
    _, _, beta = quadratic_task(1, 6, 0)
    beta = beta[0]
    zero = torch.zeros(6, dtype=torch.float64)
    solved = torch.outer(beta, beta) / (ALPHA * EPS)
    assert population_loss(zero, solved, beta, ALPHA, EPS).item() == pytest.approx(0.0, abs=1e-24)
    # E[(beta x)^4] / 4 is 3/4 for a direction of length sqrt(D).
    start = population_loss(zero, torch.zeros(6, 6).double(), beta, ALPHA, EPS)
    assert start.item() == pytest.approx(0.75, rel=1e-12)
    tilt = torch.arange(6).double()
    more = population_loss(tilt, solved, beta, ALPHA, EPS).item()
    assert more == pytest.approx(ALPHA**2 * 55 / 6, rel=1e-12)


def test_kernel_statistics_by_hand():
    y = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    centered = y - y.mean()
    assert kernel_target_alignment(torch.outer(centered, centered), y).item() == pytest.approx(1.0)
    kernel = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 1.0]]).double()
    h = torch.eye(3).double() - 1 / 3
    top = centered @ kernel @ centered
    want = top / ((h @ kernel @ h).norm() * (centered @ centered))
    got = kernel_target_alignment(kernel, y)
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    assert kernel_movement(2 * kernel, kernel).item() == pytest.approx(1.0)
    assert kernel_movement(kernel, kernel).item() == 0.0


def test_crossings_by_brute_force():
    """First steps at or below the threshold, read off a record of every step."""
    x, y, beta = quadratic_task(60, 8, 3, seeds=2)
    steps = 400
    run = train_lazy_rich(x, y, beta, 1.0, 0.3, steps=steps, record=range(steps + 1))
    for losses, crossing in (
        (run.train_loss, run.train_crossing),
        (run.test_loss, run.test_crossing),
    ):
        for k in range(2):
            below = np.flatnonzero(losses[:, k] <= 0.1 * losses[0, k])
            assert crossing[k] == (below[0] if len(below) else np.inf)
    assert np.isfinite(run.test_crossing).any()
    relative = run.test_loss / run.test_loss[0]
    np.testing.assert_allclose(run.lowest_test, relative.min(0))
    np.testing.assert_allclose(run.highest_test, relative.max(0))
    at = run.train_crossing.astype(int)
    np.testing.assert_allclose(run.movement_at_crossing, run.movement[at, [0, 1]])
    np.testing.assert_allclose(run.alignment_at_crossing, run.weight_alignment[at, [0, 1]])
    np.testing.assert_allclose(run.delay, np.log10(run.test_crossing / run.train_crossing))
    np.testing.assert_array_equal(run.final_movement, run.movement[-1])
    np.testing.assert_array_equal(run.final_alignment, run.weight_alignment[-1])


def test_a_network_that_stops_leaves_the_others_alone():
    x, y, beta = quadratic_task(80, 8, 5, seeds=3)
    alphas = np.array([0.3, 3.0, 1.0])
    options = dict(steps=300, record=[0, 10, 100, 300])
    whole = train_lazy_rich(x, y, beta, alphas, 0.3, **options)
    short = train_lazy_rich(x, y, beta, alphas, 0.3, stop=0.2, **options)
    np.testing.assert_array_equal(short.train_crossing[1:], whole.train_crossing[1:])
    seen = np.isfinite(short.test_loss)
    assert not seen.all()
    np.testing.assert_allclose(short.test_loss[seen], whole.test_loss[seen], rtol=1e-10)
    assert (short.final_test / 0.75 <= 0.2 + 1e-12).any()
    assert (short.last_step < 300).any()
    one = train_lazy_rich(x[1:2], y[1:2], beta[1:2], 3.0, 0.3, **options)
    np.testing.assert_allclose(one.test_loss[:, 0], whole.test_loss[:, 1], rtol=1e-10)


def test_only_the_product_matters_without_the_mean():
    """With the linear part gone by symmetry, the losses depend on alpha eps and eta eps^2."""
    x, y, beta = quadratic_task(40, 6, 2)
    x, y = torch.cat([x, -x], 1), torch.cat([y, y], 1)  # g vanishes, so the mean stays 0
    runs = [
        train_lazy_rich(
            x, y, beta, 0.2 / e, e, steps=60, record=[0, 20, 60], learning_rate=0.5 / e**2
        )
        for e in (0.5, 1.0)
    ]
    np.testing.assert_allclose(runs[0].test_loss, runs[1].test_loss, rtol=1e-8)
    assert runs[0].test_loss[-1, 0] < 0.9 * runs[0].test_loss[0, 0]


def test_delay_of_what_never_crosses():
    x, y, beta = quadratic_task(5, 8, 1)
    run = train_lazy_rich(x, y, beta, 1.0, 0.25, steps=200)
    assert np.isfinite(run.train_crossing).all()
    assert np.isinf(run.delay).all()
    assert run.delay_floor[0] == pytest.approx(math.log10(200 / run.train_crossing[0]))
    early = train_lazy_rich(x, y, beta, 1.0, 0.25, steps=1)
    assert np.isnan(early.delay).all()
    assert np.isnan(early.delay_floor).all()


def test_the_default_rate_is_stable_and_within_ten_of_the_edge():
    x, y, beta = quadratic_task(120, 10, 4, seeds=4)
    for alpha, eps in ((0.25, 0.25), (1.0, 0.25), (4.0, 0.25), (1.0, 1.0)):
        rate = stable_learning_rate(x, alpha, eps)
        run = train_lazy_rich(x, y, beta, alpha, eps, steps=300, record=range(0, 301, 10))
        assert (np.diff(run.train_loss, axis=0) < 1e-12).all()
        wild = train_lazy_rich(x, y, beta, alpha, eps, steps=300, learning_rate=10 * rate)
        assert not (wild.final_train < 10 * run.final_train).all()


def test_points_are_paired_and_reproducible():
    options = dict(width=30, steps=50, record=[0, 50], seeds=3, seed=6)
    both = experiments.lazy_rich_point(30, 6, [0.5, 2.0], [0.25, 0.25], **options)
    one = experiments.lazy_rich_point(30, 6, [2.0], [0.25], **options)
    assert both["test_loss"].shape == (2, 2, 3)
    assert both["delay"].shape == (2, 3)
    np.testing.assert_allclose(both["test_loss"][:, 1:], one["test_loss"], rtol=1e-5)
    np.testing.assert_allclose(both["train_loss"][0, 0], both["train_loss"][0, 1])
    shuffled = experiments.lazy_rich_point(30, 6, [2.0], [0.25], target="shuffled", **options)
    np.testing.assert_allclose(shuffled["train_loss"][0], one["train_loss"][0], rtol=1e-5)
    assert (shuffled["train_loss"][1] != one["train_loss"][1]).all()


def test_laziness_delays_and_samples_cure():
    table = experiments.delay_table(
        [20, 60, 140], [0.25, 4.0], dimension=12, steps=600, seeds=3, seed=1, width=None
    )
    delay = table.pivot(index="laziness", columns="n_samples", values="delay")
    assert np.isinf(delay.loc[4.0, 20])
    assert delay.loc[0.25, 140] < delay.loc[4.0, 140] < 1
    assert delay.loc[0.25, 140] < delay.loc[0.25, 60]
    assert set(table.generalized) <= {0.0, 1 / 3, 2 / 3, 1.0}


def test_the_transformer_learns_modular_sums_of_its_training_set():
    options = dict(modulus=5, d_model=32, n_heads=2, train_share=0.6, seed=1)
    point = experiments.modular_point(steps=400, record=[0, 200, 400], learning_rate=0.1, **options)
    assert point["steps"] == [0, 200, 400]
    assert point["train_loss"][0] == pytest.approx(math.log(5), rel=1e-6)
    assert point["test_loss"][0] == pytest.approx(math.log(5), rel=1e-6)
    assert point["train_loss"][2] < 0.1 * point["train_loss"][0]
    assert point["train_crossing"] in (200.0, 400.0)
    assert point["train_accuracy"][2] == 1.0
    again = experiments.modular_point(steps=400, record=[0, 200, 400], learning_rate=0.1, **options)
    assert again["train_loss"] == point["train_loss"]


def test_the_first_output_step_of_the_transformer_does_not_depend_on_laziness():
    """The rate over alpha squared: to first order the outputs move alike at every alpha."""
    options = dict(modulus=5, d_model=16, n_heads=2, steps=1, record=[0, 1], learning_rate=1e-3)
    losses = [
        experiments.modular_point(laziness=alpha, **options)["train_loss"] for alpha in (1.0, 8.0)
    ]
    drops = [first - second for first, second in losses]
    assert drops[0] > 0
    assert drops[1] == pytest.approx(drops[0], rel=0.02)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"laziness": 0.0}, "laziness"),
        ({"curvature": [0.1, 0.2]}, "curvature"),
        ({"y": np.zeros((1, 3))}, "y"),
        ({"beta": np.zeros((1, 3))}, "beta"),
        ({"steps": 0}, "steps"),
        ({"record": [3, 2]}, "record"),
        ({"record": [11]}, "record"),
        ({"threshold": 1.0}, "threshold"),
        ({"stop": 1.5}, "stop"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"moment": np.eye(4)}, "moment"),
        ({"probe": 1}, "probe"),
    ],
)
def test_rejects_what_makes_no_sense(changes, name):
    x, y, beta = quadratic_task(5, 4, 0)
    arguments = {"x": x, "y": y, "beta": beta, "laziness": 1.0, "curvature": 0.2, "steps": 10}
    with pytest.raises(ValueError, match=name):
        train_lazy_rich(**(arguments | changes))


def test_experiments_reject_what_makes_no_sense():
    with pytest.raises(ValueError, match="curvature"):
        experiments.lazy_rich_point(5, 4, [1.0], [0.1, 0.2])
    with pytest.raises(ValueError, match="target"):
        experiments.lazy_rich_point(5, 4, [1.0], [0.1], target="none")
    with pytest.raises(ValueError, match="train_share"):
        experiments.modular_point(5, train_share=1.0)
    with pytest.raises(ValueError, match="modulus"):
        experiments.modular_point(1)
    with pytest.raises(ValueError, match="weights"):
        weight_statistics(np.zeros(3))
    with pytest.raises(ValueError, match="moment"):
        quadratic_tangent_kernel(np.zeros((3, 2)), np.zeros(2), np.zeros((3, 3)), 0.1)
    with pytest.raises(ValueError, match="dimension"):
        quadratic_task(3, 0)
