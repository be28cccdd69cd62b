"""XOR clusters: training through inner products is training, and reduced draws are draws."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from enough.overparameterization import (
    draw_xor_clusters,
    experiments,
    fitted_share,
    output_signs,
    train_linear,
    train_relu,
    xor_problem,
)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _setting(seed=1, n=12, p=40, m=7):
    x, y, clean = draw_xor_clusters(n, p, 3.0, 0.3, _generator(seed), seeds=2)
    w = 0.3 * torch.randn(2, m, p, dtype=torch.float64, generator=_generator(seed + 1))
    a = torch.randn(m, dtype=torch.float64, generator=_generator(seed + 2))
    return x, y, clean, w, a


@pytest.mark.parametrize("frozen", [False, True])
def test_gram_training_is_training_by_autograd(frozen):
    x, y, _, w0, a = _setting()
    run = train_relu(x, y, w0, a, learning_rate=0.4, record=[0, 1, 9], frozen=frozen)
    points = torch.randn(2, 5, 40, dtype=torch.float64, generator=_generator(9))
    for seed in range(2):
        start = w0[seed]
        w = start.clone().requires_grad_()

        def network(weights, inputs, start=start):
            if not frozen:
                return (inputs @ weights.mT).relu() @ a
            return ((inputs @ start.mT > 0) * (inputs @ (weights - start).mT)) @ a

        for step in range(10):
            if step in run.steps:
                at = run.steps.index(step)
                assert torch.allclose(run.weights_at(at)[seed], w, atol=1e-8)
                want = network(w, points[seed])
                assert torch.allclose(run.outputs(points)[at, seed], want, atol=1e-8)
            loss = torch.nn.functional.softplus(-y[seed] * network(w, x[seed])).mean()
            (slope,) = torch.autograd.grad(loss, w)
            w = (w - 0.4 * slope).detach().requires_grad_()


def test_the_linear_part_is_the_odd_part():
    x, y, _, w, a = _setting(5)
    run = train_relu(x, y, w, a, learning_rate=0.2, record=[0, 6])
    points = torch.randn(2, 30, 40, dtype=torch.float64, generator=_generator(3))
    odd = (run.outputs(points) - run.outputs(-points)) / 2
    assert torch.allclose(run.linear_part(points), odd, atol=1e-10)


def test_accuracy_follows_from_the_two_parts():
    """Half of the points that the linear part rules, and what the even part gets right."""
    problem = xor_problem(60, 4000, 12.0, width=30, n_test=200, seeds=3, generator=4)
    signs = output_signs(30)
    run = train_relu(
        problem.x, problem.labels, problem.weights, signs, learning_rate=0.05, record=[1, 3, 9]
    )
    points = torch.cat([problem.x_test, -problem.x_test], 1)
    labels = torch.cat([problem.test_labels, problem.test_labels], 1)
    outputs, linear = run.outputs(points), run.linear_part(points)
    even = outputs - linear
    rules = linear.abs() > even.abs()
    right = (outputs * labels > 0).double()
    pairs = (outputs != 0).unflatten(-1, (2, -1)).all(-2).repeat(1, 1, 2)  # no neuron, no output
    assert pairs.double().mean() > 0.9
    want = torch.where(rules, 0.5, (even * labels > 0).double())
    for index in np.ndindex(3, 3):
        kept = pairs[index]
        assert right[index][kept].mean().item() == pytest.approx(want[index][kept].mean().item())
    assert 0.05 < rules.double().mean() < 0.95  # both parts are at work


def test_a_linear_classifier_is_right_on_exactly_one_of_each_pair():
    x, y, clean = draw_xor_clusters(30, 50, 4.0, 0.1, 7, seeds=2)
    w = train_linear(x, y, learning_rate=0.1, record=[1, 20])
    for weights in w:
        both = torch.cat([x, -x], 1)
        right = (both @ weights[..., None])[..., 0] * torch.cat([clean, clean], 1) > 0
        assert right.double().mean(-1).tolist() == [0.5, 0.5]


def test_linear_training_is_training_by_autograd():
    x, y, _ = draw_xor_clusters(10, 15, 2.0, 0.2, 3)
    w = torch.zeros(15, dtype=torch.float64, requires_grad=True)
    for _ in range(7):
        loss = torch.nn.functional.softplus(-y[0] * (x[0] @ w)).mean()
        (slope,) = torch.autograd.grad(loss, w)
        w = (w - 0.3 * slope).detach().requires_grad_()
    got = train_linear(x[0].numpy(), y[0].numpy(), learning_rate=0.3, record=[7])
    assert torch.allclose(got[0, 0], w, atol=1e-10)


def test_clusters_lie_where_they_should():
    x, y, clean = draw_xor_clusters(4000, 3, 6.0, 0.2, 11)
    x, y, clean = x[0], y[0], clean[0]
    first = clean > 0
    assert abs(first.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert abs((y != clean).double().mean() - 0.2) < 4 * 0.4 / math.sqrt(4000)
    for axis, mask in ((0, first), (1, ~first)):
        assert abs(x[mask][:, axis].abs().mean() - 6.0) < 0.1
        assert abs((x[mask][:, axis] > 0).double().mean() - 0.5) < 0.06
        other = x[mask][:, [i for i in range(3) if i != axis]]
        assert torch.allclose(torch.cov(other.mT), torch.eye(2).double(), atol=0.12)


def test_reduced_draws_have_the_law_of_full_draws():
    """Inner products of training points, weights and test points, by two-sample tests."""
    n, p, m, t, seeds = 3, 9, 2, 2, 4000
    problem = xor_problem(
        n, p, 1.5, 0.0, width=m, init_scale=1.0, n_test=t, seeds=seeds, generator=1
    )
    x, _, _ = draw_xor_clusters(n, p, 1.5, 0.0, 2, seeds=seeds)
    x_test, _, _ = draw_xor_clusters(t, p, 1.5, 0.0, 3, seeds=seeds)
    w = torch.randn(seeds, m, p, dtype=torch.float64, generator=_generator(4))

    def products(x, w, x_test):
        gram = x @ x.mT
        return {
            "length": gram[:, 2, 2],
            "pair": gram[:, 0, 2],
            "triple": gram[:, 0, 1] * gram[:, 1, 2] * gram[:, 0, 2],
            "weights": (x @ w.mT)[:, 1, 1],
            "test": (x_test @ x.mT)[:, 0, 2],
            "test and weights": (x_test @ w.mT)[:, 1, 1],
            "determinant": torch.linalg.det(gram),
            "chain": (x_test @ w.mT @ w @ x.mT)[:, 0, 0],
        }

    full = products(x, w, x_test)
    for name, value in products(problem.x, problem.weights, problem.x_test).items():
        assert stats.ks_2samp(value.numpy(), full[name].numpy()).pvalue > 1e-3, name


def test_lengths_are_chi_even_for_one_degree_of_freedom():
    """The last new direction of the smallest dimension that is allowed has one left."""
    problem = xor_problem(3, 6, 0.0, width=1, init_scale=1.0, seeds=4000, generator=8)
    last = problem.weights[:, 0, -1].numpy()
    assert stats.kstest(last, stats.chi(1).cdf).pvalue > 1e-3
    first = problem.x[:, 0, 2].numpy()
    assert stats.kstest(first, stats.chi(4).cdf).pvalue > 1e-3


def test_the_first_step_fits_the_predicted_share():
    table = experiments.separation_table(
        [10.0, 40.0, 80.0], n_samples=100, dimension=10_000, width=64, record=[1], seeds=150,
        n_test=2, seed=3,
    )  # fmt: skip
    for _, rows in table.groupby("separation"):
        error = rows.train.std(ddof=1) / math.sqrt(150)
        assert abs(rows.train.mean() - rows.fitted_theory.iloc[0]) < 4 * error + 0.02
    assert table.fitted_theory.min() < 0.7 < 0.999 < table.fitted_theory.max()


def test_fitted_share_against_its_own_sum():
    """The votes, drawn from their definition."""
    rng = np.random.default_rng(0)
    n, p, mu = 40, 400, 6.0
    x = rng.standard_normal((3000, n, p), dtype=np.float32)
    axis, sign = rng.integers(0, 2, (3000, n)), rng.choice([-1.0, 1.0], (3000, n))
    np.put_along_axis(
        x, axis[..., None], np.take_along_axis(x, axis[..., None], -1) + mu * sign[..., None], -1
    )
    y = 1.0 - 2.0 * axis
    total = (y[..., None] * x).sum(1)
    margin = y[:, 0] * (total * x[:, 0]).sum(-1)
    share = (margin > 0).mean()
    assert share == pytest.approx(fitted_share(n, p, mu), abs=0.02)
    both = fitted_share(n, p, np.array([mu, 2 * mu]))
    assert both.shape == (2,)
    assert both[0] == fitted_share(n, p, mu)
    assert torch.is_tensor(fitted_share(n, p, torch.tensor([1.0])))


def test_a_small_case_shows_both_phenomena():
    point = experiments.xor_point(
        200, 50_000, 35.0, width=64, record=(0, 1, 60), seeds=4, n_test=200, seed=1
    )
    assert point["steps"] == [0, 1, 60]
    assert point["train"][1].min() == 1.0
    assert point["train_flipped"][2].min() == 1.0
    assert point["test"][1].mean() < 0.6
    assert point["test"][2].mean() > 0.9
    assert point["cosine"][1].min() > 0.9
    assert point["aligned"][2].mean() > 0.9 > 0.6 > point["aligned"][1].mean()
    base = experiments.xor_baselines_point(
        200, 50_000, 35.0, width=64, record=(1, 60), seeds=4, n_test=200, seed=1
    )
    assert base["linear_train"][1].min() == base["lazy_train"][1].min() == 1.0
    assert base["linear_test"].max() < 0.6
    assert base["lazy_test"][1].mean() < point["test"][2].mean()


def test_points_share_draws_over_separations():
    options = dict(n_samples=20, dimension=500, width=10, record=(1,), seeds=2, n_test=5, seed=2)
    a = experiments.xor_point(separation=1.0, **options)
    b = experiments.xor_point(separation=1.0, **options)
    c = experiments.separation_table([1.0, 2.0], **options)
    np.testing.assert_array_equal(a["cosine"], b["cosine"])
    assert list(c[c.separation == 1.0].cosine) == a["cosine"][0].tolist()
    assert len(c) == 4


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: xor_problem(10, 20, 1.0, width=9), "dimension"),
        (lambda: xor_problem(10, 1000, -1.0), "separation"),
        (lambda: xor_problem(10, 1000, 1.0, 0.6), "noise_rate"),
        (lambda: xor_problem(10, 1000, 1.0, init_scale=0.0), "init_scale"),
        (lambda: draw_xor_clusters(0, 5, 1.0), "n_samples"),
        (lambda: output_signs(0), "width"),
        (lambda: fitted_share(10, 10, -1.0), "separation"),
        (lambda: train_linear(np.eye(3), [1, 2, 1], learning_rate=1, record=[1]), "labels"),
        (lambda: train_linear(np.eye(3), [1, 1, 1], learning_rate=1, record=[2, 1]), "record"),
        (lambda: train_linear(np.eye(3), [1, 1, 1], learning_rate=0, record=[1]), "learning_rate"),
        (lambda: train_linear(np.eye(3), [1, 1], learning_rate=1, record=[1]), "labels"),
    ],
)
def test_rejects_what_makes_no_sense(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_rejects_weights_that_do_not_fit():
    x, y, _, w, a = _setting()
    with pytest.raises(ValueError, match="weights"):
        train_relu(x, y, w[..., :3], a, learning_rate=1.0, record=[1])
    with pytest.raises(ValueError, match="signs"):
        train_relu(x, y, w, a[:2], learning_rate=1.0, record=[1])
