"""Overlapping classes: closed forms against quadrature, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.nn import functional as F

from enough.calibration import (
    NearestNeighborInterpolator,
    OverlappingPairs,
    TemperatureScaling,
    gaussian_bayes_error,
    gaussian_log_odds,
    mixup_optimal_kl,
    mixup_optimal_posterior,
    published_temperature,
    temperature_scaled_kl,
    uniform_kl,
)
from enough.calibration import experiments as ex
from enough.calibration.experiments.overlap import _mix
from enough.models import MLP
from enough.training import Ensemble


def _direct_kl(pairs, predict):
    """E KL(posterior || prediction) by adaptive quadrature over the support."""
    rho, total = pairs.overlap, 0.0
    for start in pairs.low[::2]:
        ends = [start, start + 1 - rho, start + 1, start + 2 - rho]
        for low, high in itertools.pairwise(ends):
            if high - low < 1e-12:
                continue
            p = pairs.posterior([0.5 * (low + high)])[0]
            density = 2 / pairs.n_classes if p.max() < 0.75 else 1 / pairs.n_classes
            true = p > 0

            def integrand(x, p=p, true=true, density=density):
                return density * (p[true] * np.log(p[true] / predict(x)[true])).sum()

            total += integrate.quad(integrand, low, high, epsabs=1e-9, epsrel=1e-9)[0]
    return total


# --- the distribution


def test_samples_follow_the_posterior():
    pairs = OverlappingPairs(6, 0.4)
    x, y = pairs.sample(200_000, generator=0)
    p = pairs.posterior(x)
    assert p[np.arange(len(y)), y].min() > 0
    assert np.allclose(p.mean(0), 1 / 6, atol=0.005)
    shared = p.max(1) < 1
    assert abs(shared.mean() - 0.4) < 0.005
    assert abs((y[shared] % 2).mean() - 0.5) < 0.01


def test_posterior_keeps_tensors_and_refuses_strays():
    pairs = OverlappingPairs(4, 0.5)
    assert isinstance(pairs.posterior(torch.tensor([0.1])), torch.Tensor)
    with pytest.raises(ValueError, match=r"x: expected points of the support, got 2\.5"):
        pairs.posterior([0.1, 2.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0.5), "n_classes: expected an even number, got 3"),
        ((4, 1.5), "overlap: expected a number <= 1.0"),
        ((4, 0.5, 1.0), "spacing: expected a number >= 1.5"),
    ],
)
def test_impossible_pairs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OverlappingPairs(*arguments)


# --- the interpolator


def test_hit_probability_is_that_of_fresh_points():
    pairs = OverlappingPairs(8, 0.3)
    x, y = pairs.sample(150, generator=1)
    model = NearestNeighborInterpolator().fit(x, y, 8)
    fresh, truth = pairs.sample(400_000, generator=2)
    expected = (model.predict(fresh) == truth).mean()
    assert abs(model.hit_probability(pairs) - expected) < 4 * math.sqrt(0.25 / 400_000)


def test_nearest_label_against_all_distances():
    rng = np.random.default_rng(0)
    x, y, z = rng.random(50), rng.integers(3, size=50), rng.random(200)
    model = NearestNeighborInterpolator().fit(x, y, 3)
    assert (model.predict(z) == y[np.abs(z[:, None] - x).argmin(1)]).all()
    assert model.logits(z).shape == (200, 3)
    assert (model.logits(z).argmax(1) == model.predict(z)).all()


def test_oracle_temperature_and_kl_against_a_search_by_quadrature():
    pairs = OverlappingPairs(4, 0.5)
    x, y = pairs.sample(30, generator=3)
    model = NearestNeighborInterpolator(gap=7.0).fit(x, y, 4)
    grid = np.linspace(1e-6, 1.5 - 1e-6, 40_001)
    points = np.concatenate([grid, grid + 4.0])
    p, logits = pairs.posterior(points), torch.as_tensor(model.logits(points))
    density = np.where(p.max(1) < 0.75, 2.0, 1.0)
    density /= density.sum()

    def kl(temperature):
        q = (logits / temperature).log_softmax(1).numpy()
        terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1.0)) - q), 0.0)
        return float(density @ terms.sum(1))

    best = optimize.minimize_scalar(kl, bounds=(0.5, 50.0), method="bounded")
    assert model.oracle_kl(pairs) == pytest.approx(best.fun, abs=2e-4)
    assert model.oracle_temperature(pairs) == pytest.approx(best.x, rel=2e-3)


def test_oracle_temperature_agrees_with_temperature_scaling():
    pairs = OverlappingPairs(16, 0.5)
    model = NearestNeighborInterpolator().fit(*pairs.sample(2000, generator=4), 16)
    fresh, truth = pairs.sample(100_000, generator=5)
    fit = TemperatureScaling().fit(model.logits(fresh), truth)
    assert fit.temperature_ == pytest.approx(model.oracle_temperature(pairs), rel=0.02)


def test_hopeless_and_perfect_interpolators_have_extreme_temperatures():
    pairs = OverlappingPairs(2, 0.0)
    wrong = NearestNeighborInterpolator().fit([0.5, 1.5], [1, 0], 2)
    assert wrong.hit_probability(pairs) == 0.0
    assert wrong.oracle_temperature(pairs) == math.inf
    assert wrong.oracle_kl(pairs) == pytest.approx(math.log(2))
    right = NearestNeighborInterpolator().fit([0.5, 1.5], [0, 1], 2)
    assert right.oracle_temperature(pairs) == 0.0
    assert right.oracle_kl(pairs) == 0.0


@pytest.mark.parametrize("k", [2, 16, 64])
@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_closed_form_is_the_limit_of_many_points(k, rho):
    pairs = OverlappingPairs(k, rho)
    model = NearestNeighborInterpolator().fit(*pairs.sample(3000 * k, generator=6), k)
    assert model.oracle_kl(pairs) == pytest.approx(temperature_scaled_kl(k, rho), abs=2e-3)


def test_closed_forms_against_quadrature_and_known_values():
    for k, rho in ((4, 0.3), (10, 0.8)):
        pairs = OverlappingPairs(k, rho)
        top = 1 - rho / 2

        def sure(x, pairs=pairs, top=top, k=k):
            # Of the two labels of an overlap either may be on top; the error is the same.
            named = pairs.posterior([x])[0].argmax()
            q = np.full(k, (1 - top) / (k - 1))
            q[named] = top
            return q

        assert temperature_scaled_kl(k, rho) == pytest.approx(_direct_kl(pairs, sure), abs=1e-8)
        guess = _direct_kl(pairs, lambda x, k=k: np.full(k, 1 / k))
        assert uniform_kl(k, rho) == pytest.approx(guess, abs=1e-8)
    assert temperature_scaled_kl(256, 1.0) == pytest.approx(0.5 * math.log(255))
    assert temperature_scaled_kl(2, 0.4) == pytest.approx(math.log(5 / 4))
    assert temperature_scaled_kl(np.array([2, 8]), 0.0).tolist() == [0.0, 0.0]


def test_closed_forms_name_what_is_wrong():
    with pytest.raises(ValueError, match="n_classes: expected entries >= 2"):
        temperature_scaled_kl(1, 0.5)
    with pytest.raises(ValueError, match="n_classes: expected whole numbers"):
        uniform_kl(2.5, 0.5)
    with pytest.raises(ValueError, match="overlap: expected entries <= 1"):
        temperature_scaled_kl(4, 1.2)


# --- Mixup


def test_mixup_posterior_against_direct_integration():
    """The definition, integrated over the left sample and the weight by another route."""
    pairs = OverlappingPairs(4, 0.5)
    z = 4.7
    low = pairs.low
    expected = np.zeros(4)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for left in range(4):
        for right in range(4):
            a, b = low[left], min(low[left] + 1, z)
            c, d = max(low[right], z), low[right] + 1
            if b <= a or d <= c:
                continue
            x1 = 0.5 * (a + b) + 0.5 * (b - a) * nodes
            x2 = 0.5 * (c + d) + 0.5 * (d - c) * nodes
            area = np.outer(weights, weights) * (b - a) * (d - c) / 4
            span = x2[None] - x1[:, None]
            expected[left] += (area * (x2[None] - z) / span**2).sum()
            expected[right] += (area * (z - x1[:, None]) / span**2).sum()
    found = mixup_optimal_posterior(pairs, [z])[0]
    assert np.allclose(found, expected / expected.sum(), atol=1e-4)


def test_mixup_posterior_against_simulation():
    pairs = OverlappingPairs(4, 0.5)
    n, rng = 4_000_000, np.random.default_rng(7)
    (x1, y1), (x2, y2) = pairs.sample(n, generator=8), pairs.sample(n, generator=9)
    lam = rng.random(n)
    z = lam * x1 + (1 - lam) * x2
    for point in (0.4, 0.8, 3.0, 4.2):
        near = np.abs(z - point) < 0.01
        sums = lam[near] @ np.eye(4)[y1[near]] + (1 - lam[near]) @ np.eye(4)[y2[near]]
        noise = 5 * 0.5 / math.sqrt(near.sum())
        found = mixup_optimal_posterior(pairs, [point])[0]
        assert np.abs(sums / near.sum() - found).max() < noise


def test_mixup_posterior_sums_to_one_and_mirrors():
    pairs = OverlappingPairs(8, 0.3)
    x = torch.tensor([0.3, 0.9, 8.5, 17.4], dtype=torch.float64)
    q = mixup_optimal_posterior(pairs, x)
    assert torch.allclose(q.sum(1), torch.ones(4, dtype=torch.float64))
    whole = float(pairs.low[-1] + 1)
    assert torch.allclose(mixup_optimal_posterior(pairs, whole - x), q.flip(1))
    with pytest.raises(ValueError, match="x: expected points inside"):
        mixup_optimal_posterior(pairs, [-0.1])


@pytest.mark.parametrize(
    ("k", "rho", "spacing"), [(2, 0.5, None), (4, 0.0, None), (6, 0.7, 2.0), (8, 1.0, 3.5)]
)
def test_mixup_kl_is_that_of_its_posterior(k, rho, spacing):
    pairs = OverlappingPairs(k, rho, spacing)
    found = mixup_optimal_kl(k, rho, spacing)
    direct = _direct_kl(pairs, lambda x: mixup_optimal_posterior(pairs, [x])[0])
    assert found.kl == pytest.approx(direct, abs=1e-7)
    assert found.error < 1e-8
    assert np.allclose(found.per_pair, found.per_pair[::-1])
    assert found.kl == pytest.approx(found.per_pair.mean())


def test_mixup_stays_bounded_only_with_growing_spacing():
    limit = mixup_optimal_kl(math.inf, 0.5)
    errors = [mixup_optimal_kl(k, 0.5, nodes=16).kl for k in (256, 1024, 8192)]
    assert errors == sorted(errors)
    assert errors[-1] < limit.kl
    assert errors[-1] == pytest.approx(limit.kl, abs=5e-3)
    assert limit.error < 1e-6
    fixed = [mixup_optimal_kl(k, 0.5, 3.0, nodes=16).kl for k in (1024, 4096)]
    assert (fixed[1] - fixed[0]) / math.log(4) > 0.75


def test_mixup_limit_against_adaptive_quadrature():
    rho = 0.5

    def share(a, b, c, d):
        return b * math.log((b + d) / (b + c)) - (a * math.log((a + d) / (a + c)) if a else 0.0)

    def own(t):
        """Weights of the two classes from within the pair, for t in the first half."""
        ends = [(0.0, 1.0), (1 - rho, 2 - rho)]
        right = [(max(low - t, 0), max(high - t, 0)) for low, high in ends]
        left = [(max(t - high, 0), max(t - low, 0)) for low, high in ends]
        return [
            sum(share(*right[y], *v) for v in left if right[y][1] > right[y][0] and v[1] > v[0])
            + sum(share(*left[y], *u) for u in right if left[y][1] > left[y][0] and u[1] > u[0])
            for y in (0, 1)
        ]

    def kl(t, theta):
        first, second = own(t)
        total = first + second - 2 * (theta * math.log(theta) + (1 - theta) * math.log(1 - theta))
        if t < 1 - rho:
            return -0.5 * math.log(first / total)
        return -0.5 * math.log(4 * first * second / total**2)

    mirrored = 0.0  # the pair is symmetric about 1 − rho/2
    for low, high in ((0.0, 1 - rho), (1 - rho, 1 - rho / 2)):
        value, _ = integrate.dblquad(kl, 0, 1, low, high, epsabs=1e-6, epsrel=1e-6)
        mirrored += 2 * value
    assert mixup_optimal_kl(math.inf, rho).kl == pytest.approx(mirrored, abs=2e-5)


def test_mixup_kl_names_what_is_wrong():
    with pytest.raises(ValueError, match="spacing: expected None with infinitely many"):
        mixup_optimal_kl(math.inf, 0.5, 3.0)
    with pytest.raises(ValueError, match="nodes: "):
        mixup_optimal_kl(4, 0.5, nodes=4)
    with pytest.raises(ValueError, match="n_classes: expected an even number"):
        mixup_optimal_kl(5, 0.5)


# --- two Gaussians


def test_gaussian_log_odds_against_densities():
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = stats.multivariate_normal(np.full(5, 0.3)).logpdf(x.numpy())
    expected = other - stats.multivariate_normal(np.zeros(5)).logpdf(x.numpy())
    assert np.allclose(gaussian_log_odds(x, 0.3).numpy(), expected)
    assert isinstance(gaussian_log_odds(x.numpy(), 0.3), np.ndarray)
    with pytest.raises(ValueError, match="x: expected a floating-point dtype"):
        gaussian_log_odds([[1, 2]], 0.3)
    with pytest.raises(ValueError, match="x: expected points along the last"):
        gaussian_log_odds(np.array(1.0), 0.3)


def test_bayes_error_against_the_normal_distribution_and_simulation():
    for shift, percent in ((0.25, 1.5), (0.1, 19.3), (0.05, 33.3), (0.01, 46.5)):
        error = gaussian_bayes_error(shift, 300)
        assert error == pytest.approx(stats.norm.cdf(-shift * math.sqrt(300) / 2))
        assert round(100 * error, 1) == percent
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=20_000)
    x = rng.normal(size=(20_000, 30)) + 0.2 * y[:, None]
    wrong = ((gaussian_log_odds(x, 0.2) > 0) != y).mean()
    assert abs(wrong - gaussian_bayes_error(0.2, 30)) < 4 * math.sqrt(0.25 / 20_000)


# --- the published fit


def _sharpened(scale, n=3000, k=10):
    stream = torch.Generator().manual_seed(11)
    z = 2 * torch.randn(n, k, generator=stream, dtype=torch.float64)
    labels = torch.multinomial(z.softmax(1), 1, generator=stream)[:, 0]
    return scale * z, labels


def test_published_fit_stops_far_from_the_optimum():
    logits, labels = _sharpened(3.098)
    best = TemperatureScaling().fit(logits, labels).temperature_
    found = published_temperature(logits, labels)
    assert best == pytest.approx(3.098, rel=0.05)
    assert 1.0 < found < 1.2
    slower = published_temperature(logits, labels, start=1.5, max_iter=50)
    assert 1.5 < slower < 2.2
    patient = published_temperature(logits, labels, max_iter=1500)
    assert patient == pytest.approx(best, rel=1e-2)
    loss = [F.cross_entropy(logits / t, labels).item() for t in (1.0, found, best)]
    assert loss[0] > loss[1] > loss[2] + 0.3


def test_published_fit_takes_arrays_log_odds_and_no_gradients():
    logits, labels = _sharpened(2.0, k=2)
    both = published_temperature(logits, labels)
    odds = (logits[:, 1] - logits[:, 0]).numpy()
    with torch.no_grad():
        assert published_temperature(odds, labels.numpy()) == pytest.approx(both, rel=1e-6)
    with pytest.raises(ValueError, match="start: expected a number > 0"):
        published_temperature(logits, labels, start=0.0)
    with pytest.raises(ValueError, match="max_iter: "):
        published_temperature(logits, labels, max_iter=0)


# --- training and experiments


def test_train_mixup_trains_each_member_alone():
    """Full batches without mixing: torch's own Adam on a single network gives the same."""
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 5, generator=stream, dtype=torch.float64)
    y = torch.randint(3, (2, 40), generator=stream)
    ensemble = Ensemble(
        lambda g: MLP([5, 8, 3], generator=g), 3, seed=1, mode="stacked", dtype=torch.float64
    )
    alone = ensemble.member(2)
    ex.train_mixup(
        ensemble, x, y, mix_sizes=[2, 1, 1], data=[0, 0, 1], order=[0, 0, 0], n_classes=3,
        epochs=25, batch_size=40, lr=1e-2, generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(alone.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(alone(x[1]), y[1]).backward()
        optimizer.step()
    for name, tensor in ensemble.parameters_of(2).items():
        assert torch.allclose(tensor, alone.state_dict()[name], atol=1e-9), name
    mixed, plain = ensemble.parameters_of(0), ensemble.parameters_of(1)
    assert not torch.allclose(mixed["layers.0.weight"], plain["layers.0.weight"], atol=1e-2)


def test_train_mixup_refuses_lists_of_another_length():
    ensemble = Ensemble(lambda g: MLP([2, 2], generator=g), 2, mode="stacked")
    with pytest.raises(ValueError, match="order: expected 2 numbers, one a member, got 1"):
        ex.train_mixup(
            ensemble, torch.zeros(1, 4, 2), torch.zeros(1, 4).long(), mix_sizes=[1, 1],
            data=[0, 0], order=[0], n_classes=2, generator=torch.Generator(),
        )  # fmt: skip


def test_mixing_against_a_loop():
    stream = torch.Generator().manual_seed(3)
    values = torch.randn(2, 6, 4, generator=stream)
    weights = torch.rand(2, 3, generator=stream)
    partners = [torch.randperm(6, generator=stream) for _ in range(2)]
    mixed = _mix(values, weights, partners)
    for e in range(2):
        for i in range(6):
            rows = [i, partners[0][i], partners[1][i]]
            expected = sum(w * values[e, r] for w, r in zip(weights[e], rows, strict=True))
            assert torch.allclose(mixed[e, i], expected)


def test_line_point_and_table():
    point = ex.overlap_line_point(4, 0.5, draws=3, seed=1)
    assert point["kl"].shape == (3,)
    assert point["n_samples"] == math.ceil(160 * math.log(4))
    assert point["mixup"] == mixup_optimal_kl(4, 0.5).kl
    again = ex.overlap_line_point(4, 0.5, draws=3, seed=1)
    assert (point["kl"] == again["kl"]).all()
    table = ex.overlap_line_table((2, 4), (0.5,), draws=2, seed=1)
    assert len(table) == 4
    assert set(table.n_classes) == {2, 4}


def test_gaussian_point_pairs_its_arms():
    small = dict(repeats=2, n_samples=400, n_test=600, dimension=20, width=16, epochs=15, seed=3)
    point = ex.overlap_gaussian_point((0.5, 0.1), (1, 2, 3), **small)
    assert point["nll"].shape == (2, 2, 3, 3)
    assert point["reference_gap"].max() < 1e-4
    assert point["stationarity"].max() < 1e-6
    best = point["calibration_nll"][..., 2]
    assert (best <= point["calibration_nll"].min(-1) + 1e-12).all()
    assert best.max() <= math.log(2) + 1e-12
    # The divergence is the log loss minus the entropy of the posterior, in expectation.
    excess = point["nll"] - point["bayes_nll"][None, :, None, None]
    assert np.abs(excess - point["kl"]).max() < 0.25
    alone = ex.overlap_gaussian_point((0.5, 0.1), (1,), **small)
    assert np.allclose(alone["bayes_nll"], point["bayes_nll"])
    table = ex.overlap_gaussian_table((0.5, 0.1), (1, 2), **small)
    assert len(table) == 2 * 2 * 2 * 3
    assert list(table.fit[:3]) == list(ex.FITS)


def test_digits_point_is_clean_without_noise():
    point = ex.noisy_digits_point((0.0, 0.5), (1,), repeats=1, width=16, epochs=5, seed=4)
    assert np.allclose(point["nll"][:, 0], point["clean_nll"][:, 0])
    assert not np.allclose(point["nll"][:, 1], point["clean_nll"][:, 1])
    # At full overlap a nearest neighbor hits half the time, less its own mistakes.
    assert point["neighbor_nll"][0, 1] == pytest.approx(math.log(2) + 0.5 * math.log(9), abs=0.1)
    assert point["test_error"][0, 0, 0] < 0.3
    table = ex.noisy_digits_table((0.0,), (1,), repeats=1, width=16, epochs=1, seed=4)
    assert len(table) == 3
    with pytest.raises(ValueError, match="noises: expected a number <= 1"):
        ex.noisy_digits_point((1.5,), repeats=1)


def test_calibrated_logits_need_no_temperature():
    point = ex.calibrated_control_point(n_samples=4000, repeats=10, seed=5)
    assert abs(point["inverse_temperature"].mean() - 1) < 0.05
    # The control draws log odds directly; their distribution is that of the Gaussian model.
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=20_000)
    odds = gaussian_log_odds(rng.normal(size=(20_000, 50)) + 0.2 * y[:, None], 0.2)
    assert odds[y == 1].mean() == pytest.approx(50 * 0.02, abs=0.06)
    assert odds.std() ** 2 == pytest.approx(50 * 0.04 + 1.0, rel=0.05)
