"""Matrix sensing against automatic differentiation, scalar recursions and explicit matrices."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from enough import overparameterization as op
from enough.overparameterization import experiments


def gaussian(*shape, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=stream)


def matrices_of(measurements):
    """The measurement matrices themselves: (batch, m, rows, columns)."""
    batch, m = measurements.coordinates.shape[:2]
    return measurements.adjoint(torch.eye(m).double().expand(batch, m, m))


@pytest.fixture(params=[True, False], ids=["symmetric", "general"])
def measurements(request):
    columns = 5 if request.param else 4
    return op.gaussian_measurements(
        5, 12, n_columns=columns, symmetric=request.param, batch=3, generator=1
    )


class TestMeasurements:
    def test_inner_products_with_explicit_matrices(self, measurements):
        a = matrices_of(measurements)
        if measurements.symmetric:
            assert torch.equal(a, a.mT)
        x = gaussian(3, 2, 5, measurements.n_columns)
        want = torch.einsum("bmij,bcij->bcm", a, x)
        torch.testing.assert_close(measurements(x), want, rtol=1e-12, atol=1e-12)
        want = torch.einsum("bcm,bmij->bcij", want, a) / 12
        torch.testing.assert_close(measurements.normal(x), want, rtol=1e-12, atol=1e-12)

    def test_adjoint_identity(self, measurements):
        x, v = gaussian(3, 2, 5, measurements.n_columns), gaussian(3, 2, 12, seed=2)
        left = (measurements(x) * v).sum(-1)
        right = (x * measurements.adjoint(v)).sum((-2, -1))
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_population_is_an_isometry_and_its_normal_map_the_identity(self, symmetric):
        population = op.population_measurements(4, symmetric=symmetric)
        x = gaussian(2, 4, 4)
        part = (x + x.mT) / 2 if symmetric else x
        torch.testing.assert_close(population.normal(x), part, rtol=1e-15, atol=1e-15)
        lengths = population(x).square().sum(-1)
        torch.testing.assert_close(lengths, part.square().sum((-2, -1)), rtol=1e-13, atol=0)
        assert population.n_measurements == (10 if symmetric else 16)

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_variance_of_a_measurement_is_the_squared_norm(self, symmetric):
        many = op.gaussian_measurements(3, 200_000, symmetric=symmetric, generator=3)
        x = gaussian(1, 3, 3)
        x = x + x.mT
        ratio = float(many(x).square().mean() / x.square().sum())
        assert abs(ratio - 1) < 4 * math.sqrt(2 / 200_000)
        torch.testing.assert_close(many.normal(x), x, rtol=0, atol=0.05)

    def test_symmetric_measurements_miss_the_antisymmetric_part(self):
        blind = op.gaussian_measurements(4, 7, generator=0)
        x = gaussian(1, 4, 4)
        assert blind(x - x.mT).abs().max() < 1e-14

    def test_arrays_come_back_as_they_came(self, measurements):
        x = gaussian(3, 5, measurements.n_columns)
        assert isinstance(measurements(x.numpy()), np.ndarray)
        assert isinstance(measurements(x), torch.Tensor)
        np.testing.assert_array_equal(measurements(x.numpy()), measurements(x).numpy())

    def test_seeds_repeat_and_problems_differ(self):
        one, two = (op.gaussian_measurements(3, 4, batch=2, generator=5) for _ in range(2))
        assert torch.equal(one.coordinates, two.coordinates)
        assert not torch.equal(one.coordinates[0], one.coordinates[1])


class TestGroundTruth:
    def test_eigenvalues(self):
        m = op.low_rank_matrix(6, [2.0, 0.5], batch=3, generator=0)
        assert m.dtype == torch.float64
        assert torch.equal(m, m.mT)
        values = torch.linalg.eigvalsh(m)
        np.testing.assert_allclose(values[:, -2:], [[0.5, 2.0]] * 3, rtol=1e-12)
        assert values[:, :-2].abs().max() < 1e-14

    def test_columns_have_the_length_of_the_scale(self):
        f = op.gaussian_factors(400, 50, 0.3, batch=2, generator=0)
        assert f.shape == (2, 400, 50)
        assert float(f.square().sum(1).mean()) == pytest.approx(0.09, rel=0.02)


class TestGradients:
    """One step of each method against automatic differentiation of its loss."""

    def setup_method(self):
        self.a = op.gaussian_measurements(5, 30, batch=2, generator=4)
        self.matrices = matrices_of(self.a)
        self.y = gaussian(2, 30, seed=5)
        self.x = gaussian(2, 3, 5, 2, seed=6)

    def residuals(self, matrices, product):
        return torch.einsum("bmij,bcij->bcm", matrices, product) - self.y[:, None]

    @pytest.mark.parametrize("m", [30, 6], ids=["Gram matrix", "two products"])
    def test_symmetric(self, m):
        a = op.gaussian_measurements(5, m, batch=2, generator=4)
        self.y = self.y[:, :m]
        x = self.x.clone().requires_grad_()
        loss = self.residuals(matrices_of(a), x @ x.mT).square().sum(-1) / (4 * m)
        (slope,) = torch.autograd.grad(loss.sum(), x)
        run = op.symmetric_gradient_descent(a, self.y, self.x, step=0.01, n_steps=1, record=[0, 1])
        torch.testing.assert_close(run.left, self.x - 0.01 * slope, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(run.loss[..., 0], loss.detach(), rtol=1e-12, atol=0)
        assert (run.loss[..., 1] < run.loss[..., 0]).all()
        assert run.right is run.left
        assert run.squared_error is None

    def test_subgradient(self):
        x = self.x.clone().requires_grad_()
        loss = self.residuals(self.matrices, x @ x.mT).abs().sum(-1) / 30
        (slope,) = torch.autograd.grad(loss.sum(), x)
        run = op.subgradient_method(self.a, self.y, self.x, step=0.01, n_steps=1, record=[0])
        torch.testing.assert_close(run.left, self.x - 0.01 * slope, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(run.loss[..., 0], loss.detach(), rtol=1e-12, atol=0)

    def test_subgradient_steps_shrink_geometrically(self):
        twice = op.subgradient_method(
            self.a, self.y, self.x, step=0.01, decay=0.5, n_steps=2, record=[2]
        )
        once = op.subgradient_method(self.a, self.y, self.x, step=0.01, n_steps=1)
        then = op.subgradient_method(self.a, self.y, once.left, step=0.005, n_steps=1)
        torch.testing.assert_close(twice.left, then.left, rtol=1e-14, atol=1e-14)

    @pytest.mark.parametrize("m", [30, 6], ids=["Gram matrix", "two products"])
    def test_asymmetric(self, m):
        a = op.gaussian_measurements(5, m, n_columns=4, symmetric=False, batch=2, generator=4)
        self.y = self.y[:, :m]
        f = self.x.clone().requires_grad_()
        g = gaussian(2, 3, 4, 2, seed=7).requires_grad_()
        loss = self.residuals(matrices_of(a), f @ g.mT).square().sum(-1) / (2 * m)
        slopes = torch.autograd.grad(loss.sum(), (f, g))
        run = op.asymmetric_gradient_descent(
            a, self.y, f.detach(), g.detach(), step=0.01, n_steps=1, record=[0]
        )
        torch.testing.assert_close(run.left, (f - 0.01 * slopes[0]).detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(run.right, (g - 0.01 * slopes[1]).detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(run.loss[..., 0], loss.detach(), rtol=1e-12, atol=0)

    def test_observations_of_each_run(self):
        """Runs that differ in their observations, in one batch and one by one."""
        several = gaussian(2, 3, 30, seed=8)
        whole = op.subgradient_method(self.a, several, self.x, step=0.01, n_steps=7)
        for i in range(3):
            part = op.subgradient_method(self.a, several[:, i], self.x[:, i], step=0.01, n_steps=7)
            torch.testing.assert_close(whole.left[:, i], part.left, rtol=1e-12, atol=1e-12)


class TestScalarRecursions:
    """Diagonal problems in the population limit fall apart into scalars."""

    def test_symmetric_with_spare_columns(self):
        population = op.population_measurements(4)
        truth = torch.diag(torch.tensor([1.0, 0.25, 0, 0], dtype=torch.float64))[None]
        start = torch.diag(torch.tensor([0.3, 0.2, 0.4, 0.1], dtype=torch.float64))[None]
        run = op.symmetric_gradient_descent(
            population, population(truth), start, step=0.2, n_steps=300, target=truth
        )
        x, sigma, path = np.array([0.3, 0.2, 0.4, 0.1]), np.array([1.0, 0.25, 0, 0]), []
        for _ in range(301):
            path.append(x)
            x = x - 0.2 * (x**2 - sigma) * x
        errors = ((np.array(path) ** 2 - sigma) ** 2).sum(1)
        np.testing.assert_allclose(run.squared_error[0], errors[run.iterations], rtol=1e-10)
        np.testing.assert_allclose(torch.diagonal(run.left[0]), path[-1], rtol=1e-12)

    def test_constant_of_the_power_law(self):
        """T^2 times the squared error tends to (k - r) / (4 step^2), from random starts."""
        point = experiments.symmetric_point(
            (3, 5), n_rows=20, step=0.2, n_steps=8000, trials=2, seed=3
        )
        level = point["squared_error"][..., -1] * 8000**2 * 4 * 0.2**2
        np.testing.assert_allclose(level, [[1, 3]] * 2, rtol=0.02)

    def test_linear_rate_at_exact_rank(self):
        point = experiments.symmetric_point(
            (2,), n_rows=8, n_steps=600, record=range(601), trials=3, seed=3
        )
        found = op.exponential_rate(point["iterations"], point["squared_error"][:, 0], 1e-22, 1e-8)
        np.testing.assert_allclose(found, -2 * math.log(1 - 0.1 * 0.5), rtol=1e-4)

    def test_asymmetric(self):
        population = op.population_measurements(2, symmetric=False)
        truth = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))[None]
        f, g = torch.diag(torch.tensor([0.5, 0.6], dtype=torch.float64)), torch.eye(2).double() / 5
        run = op.asymmetric_gradient_descent(
            population, population(truth), f[None], g[None], step=0.1, n_steps=400, target=truth
        )
        a, b, path = np.array([0.5, 0.6]), np.array([0.2, 0.2]), []
        for _ in range(401):
            error = a * b - [1.0, 0.0]
            path.append((error**2).sum())
            a, b = a - 0.1 * error * b, b - 0.1 * error * a
        np.testing.assert_allclose(run.squared_error[0], np.array(path)[run.iterations], rtol=1e-9)
        # The spare direction decays by (1 - step a^2) with a^2 near its first imbalance.
        tail = op.exponential_rate(run.iterations, run.squared_error, 1e-18, 1e-6)
        assert float(tail[0]) == pytest.approx(-2 * math.log(1 - 0.1 * a[1] ** 2), rel=1e-3)
        assert a[1] ** 2 == pytest.approx(0.6**2 - 0.2**2, rel=0.05)


class TestImbalance:
    def test_value(self):
        f, g = gaussian(2, 5, 3), gaussian(2, 4, 3, seed=1)
        want = np.einsum("bik,bil->bkl", f, f) - np.einsum("bik,bil->bkl", g, g)
        np.testing.assert_allclose(op.imbalance(f.numpy(), g.numpy()), want, rtol=1e-12)

    def test_drift_is_of_the_order_of_the_step(self):
        """Half the step and twice the steps: half the drift."""
        drifts = [
            experiments.asymmetric_point(
                (0.5,), n_rows=8, step=step, n_steps=round(40 / step), trials=3, seed=2
            )["drift"]
            for step in (0.02, 0.01)
        ]
        np.testing.assert_allclose(drifts[0] / drifts[1], 2.0, rtol=0.05)
        assert drifts[0].max() < 0.02

    def test_balanced_copies_stay_balanced_and_symmetric(self):
        one = experiments.asymmetric_point(
            (0.5,), ratio=1.0, right="copy", n_rows=8, n_steps=500, trials=2, seed=2
        )
        two = experiments.symmetric_point((4,), n_rows=8, n_steps=500, trials=2, seed=2)
        assert one["drift"].max() < 1e-13
        np.testing.assert_allclose(one["squared_error"], two["squared_error"], rtol=1e-8)

    def test_rate_grows_with_the_square_of_the_scale(self):
        point = experiments.asymmetric_point(
            (0.1, 0.2), n_rows=12, width=3, step=0.2, n_steps=12_000, trials=2, seed=2
        )
        rates = op.exponential_rate(point["iterations"], point["squared_error"], 1e-10, 1e-6)
        np.testing.assert_allclose(rates[:, 1] / rates[:, 0], 4.0, rtol=0.1)
        want = -2 * np.log(1 - 0.2 * point["left_floor"])
        np.testing.assert_allclose(rates, want, rtol=0.05)
        assert (point["left_floor"] > 0.9 * point["initial_imbalance"]).all()


class TestRescaling:
    def test_product_stays_and_columns_become_orthogonal(self):
        f, g = gaussian(2, 6, 3), gaussian(2, 4, 3, seed=1)
        new_f, new_g = op.rescale_factors(f, g, 0.7)
        torch.testing.assert_close(new_f @ new_g.mT, f @ g.mT, rtol=1e-12, atol=1e-12)
        want = 0.49 * torch.eye(3).double().expand(2, 3, 3)
        torch.testing.assert_close(new_f.mT @ new_f, want, rtol=1e-12, atol=1e-12)

    def test_a_factor_without_full_rank(self):
        f = gaussian(1, 5, 1) @ gaussian(1, 1, 3, seed=1)
        g = gaussian(1, 5, 3, seed=2)
        new_f, new_g = op.rescale_factors(f, g)
        torch.testing.assert_close(new_f @ new_g.mT, f @ g.mT, rtol=1e-12, atol=1e-12)

    def test_point_shares_its_beginning_and_is_faster(self):
        point = experiments.rescaling_point(800, n_rows=12, n_steps=6000, trials=3, seed=1)
        shared = point["iterations"] <= 800
        np.testing.assert_allclose(
            point["plain"][:, shared], point["rescaled"][:, shared], rtol=1e-6
        )
        assert (point["plain_steps"] > 5 * point["rescaled_steps"]).all()
        start = list(point["iterations"]).index(800)
        for curve, steps in zip(point["rescaled"], point["rescaled_steps"], strict=True):
            at = list(point["iterations"]).index(800 + steps)
            assert curve[at] < 1e-10 * curve[start] <= curve[at - 1]

    def test_a_run_that_does_not_get_there_counts_all_its_steps(self):
        point = experiments.rescaling_point(50, n_rows=8, n_steps=100, drop=1e-28, trials=2)
        assert (point["plain_steps"] == 100).all()


class TestSignRIP:
    def test_against_explicit_matrices(self):
        a = op.gaussian_measurements(4, 9, batch=2, generator=0)
        x, s = gaussian(2, 3, 4, 4), gaussian(2, 9, seed=1)
        x = x + x.mT
        found = op.sign_rip(a, x, s, rank=2)
        for b in range(2):
            for c in range(3):
                signs = np.sign(np.einsum("mij,ij->m", matrices_of(a)[b], x[b, c]) - s[b].numpy())
                average = np.einsum("m,mij->ij", signs, matrices_of(a)[b]) / 9
                unit = x[b, c].numpy() / np.linalg.norm(x[b, c])
                scale = (average * unit).sum()
                rest = np.linalg.svd(average - scale * unit, compute_uv=False)
                assert float(found.scale[b, c]) == pytest.approx(scale, rel=1e-12)
                want = math.sqrt((rest[:2] ** 2).sum())
                assert float(found.deviation[b, c]) == pytest.approx(want, rel=1e-12)

    def test_expectation_without_noise(self):
        a = op.gaussian_measurements(3, 400_000, generator=2)
        x = op.low_rank_matrix(3, [1.0, 0.3], generator=3)
        found = op.sign_rip(a, x, rank=3)
        assert float(found.scale) == pytest.approx(math.sqrt(2 / math.pi), abs=4 * 0.61 / 632)
        assert float(found.deviation) < 0.01
        assert op.sign_rip_scale(0.7) == pytest.approx(math.sqrt(2 / math.pi), rel=1e-15)

    @pytest.mark.parametrize(("norm", "share", "std"), [(1, 0.2, 3), (0.5, 1, 1), (2, 0.4, 0)])
    def test_expectation_with_noise_is_an_integral(self, norm, share, std):
        """E[a sign(a norm - s)] over a and s: the inner mean over s is a normal probability."""

        def noisy(a):
            sign = 2 * stats.norm.cdf(a * norm / std) - 1 if std else np.sign(a)
            return a * sign * stats.norm.pdf(a)

        inner, _ = integrate.quad(noisy, -12, 12, points=[0.0], epsabs=1e-13)
        want = (1 - share) * math.sqrt(2 / math.pi) + share * inner
        assert op.sign_rip_scale(norm, share, std) == pytest.approx(want, rel=1e-10)

    def test_point_agrees_with_the_expectation(self):
        point = experiments.sign_rip_point(3000, 0.3, 5.0, n_rows=6, trials=20, seed=1)
        means = point["scale"].mean(1)
        want = op.sign_rip_scale(1.0, 0.3, 5.0)
        assert abs(means.mean() - want) < 4 * means.std(ddof=1) / math.sqrt(20)
        assert point["squared_deviation"].mean() > 1.5 * point["deviation"].mean()


class TestRobustRecovery:
    def test_tiny_start_beats_unit_start_and_squares(self):
        options = dict(n_rows=10, n_measurements=150, trials=3, seed=1)
        absolute = experiments.robust_point((2, 10), (1e-6, 1.0), **options)
        last = absolute["relative_error"][:, 0, :, :, -1]  # (trials, starts, widths)
        assert last[:, 0].max() < 0.05
        assert (last[:, 1, 1] > 3 * last[:, 0, 1]).all()
        square = experiments.robust_point(
            (10,), outlier_shares=(0.0, 0.15), loss="l2", step=0.1, **options
        )["relative_error"]
        assert square.shape[:4] == (3, 2, 1, 1)
        assert square[:, 0, 0, 0, -1].max() < 1e-4
        assert square[:, 1].min() > 0.3

    def test_truth_is_a_fixed_point_without_noise_and_no_optimum_with(self):
        options = dict(n_rows=8, n_measurements=60, from_truth=True, trials=2, step=0.02)
        clean = experiments.robust_point((8,), (1e-9,), (0.0,), n_steps=50, **options)
        assert clean["true_loss"].max() == 0
        assert clean["relative_error"][..., 0].max() < 1e-7
        noisy = experiments.robust_point((8,), (0.1,), (0.0,), noise_std=0.5, **options)
        assert (noisy["loss"][:, 0, 0, 0, -1] < noisy["true_loss"][:, 0]).all()

    def test_noise_scales_with_the_matrix(self):
        """Twice the eigenvalues: twice the loss of the truth, the same errors to start with."""
        small, large = (
            experiments.robust_point((2,), eigenvalues=(s, s / 2), n_steps=1, trials=2)
            for s in (1.0, 2.0)
        )
        np.testing.assert_allclose(large["true_loss"], 2 * small["true_loss"], rtol=1e-12)

    def test_size_table(self):
        table = experiments.robust_size_table((6, 8), trials=2, seed=1)
        assert list(table.width) == [2, 6, 2, 8]
        assert list(table.n_measurements) == [80, 80, 107, 107]
        assert (table[["relative_error", "log_se"]] > 0).all(axis=None)

    def test_points_repeat(self):
        one, two = (experiments.robust_point((2,), n_steps=5, trials=2, seed=7) for _ in range(2))
        np.testing.assert_array_equal(one["relative_error"], two["relative_error"])
        other = experiments.robust_point((2,), n_steps=5, trials=2, seed=8)
        assert (one["loss"] != other["loss"]).any()


class TestConvergence:
    def test_iterations(self):
        points = op.log_spaced_iterations(1000, per_decade=5)
        assert points[:2] == [0, 1]
        assert points[-1] == 1000
        assert points == sorted(set(points))
        assert op.log_spaced_iterations(1) == [0, 1]

    def test_power_law(self):
        t = np.arange(1, 101)
        values = np.stack([3.0 * t**-2.0, 7.0 * t**-0.5])
        np.testing.assert_allclose(op.power_law_slope(t, values, 5, 60), [-2, -0.5], rtol=1e-12)
        bent = 3.0 * t**-2.0 + (t > 60)
        assert op.power_law_slope(t, bent, 5, 60) == pytest.approx(-2)

    def test_exponential_rate_ignores_what_lies_outside(self):
        t = np.arange(200)
        values = np.where(t < 20, 1.0, np.exp(-0.2 * (t - 20))) + 1e-12
        assert op.exponential_rate(t, values, 1e-8, 1e-1) == pytest.approx(0.2, rel=1e-4)
        bump = values.copy()
        bump[40] = 10.0  # points count from the last value above the upper end
        want = np.polyfit(t[41:113], np.log(values[41:113]), 1)[0]
        assert op.exponential_rate(t, bump, 1e-8, 1e-1) == pytest.approx(-want, rel=1e-6)


def sensing(**changes):
    a = changes.pop("measurements", op.gaussian_measurements(4, 6, batch=2, generator=0))
    options = dict(observations=torch.zeros(2, 6), initial=torch.ones(2, 4, 2), step=0.1, n_steps=2)
    return op.symmetric_gradient_descent(a, **options | changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sensing(measurements=torch.ones(2)), "measurements: expected Measurements"),
        (lambda: sensing(step=0.0), "step: expected a number > 0"),
        (lambda: sensing(step=1e9, n_steps=50), "step: expected a step at which the run stays"),
        (lambda: sensing(n_steps=0), "n_steps"),
        (lambda: sensing(record=[3]), "record"),
        (lambda: sensing(record=[]), "record: expected at least one"),
        (lambda: sensing(observations=torch.zeros(2, 5)), r"observations: .*\(2, 6\)"),
        (lambda: sensing(initial=torch.ones(3, 4, 2)), "initial: expected a batch of 2"),
        (lambda: sensing(initial=torch.ones(2, 5, 2)), r"initial: .*\(batch, \.\.\., 4, k\)"),
        (lambda: sensing(initial=torch.full((2, 4, 2), math.nan)), "initial: expected finite"),
        (lambda: sensing(target=torch.ones(2, 4, 3)), "target: expected shape"),
        (
            lambda: sensing(measurements=op.gaussian_measurements(4, 6, batch=2, symmetric=False)),
            "measurements: expected symmetric",
        ),
        (
            lambda: op.asymmetric_gradient_descent(
                op.population_measurements(3),
                torch.zeros(1, 6),
                torch.ones(1, 3, 2),
                torch.ones(1, 3, 2),
                step=0.1,
                n_steps=1,
            ),
            "measurements: expected measurements that are not symmetric",
        ),
        (
            lambda: op.subgradient_method(
                op.population_measurements(3),
                torch.zeros(1, 6),
                torch.ones(1, 3, 2),
                step=0.1,
                n_steps=1,
            ),
            "measurements: expected finitely many",
        ),
        (lambda: op.imbalance(torch.ones(3, 2), torch.ones(3, 1)), "right: expected the width"),
        (lambda: op.rescale_factors(torch.ones(2, 3), torch.ones(2, 3)), "left: expected at most"),
        (lambda: op.rescale_factors(torch.ones(3, 2), torch.ones(3, 2), 0), "scale: expected"),
        (lambda: op.gaussian_measurements(3, 2, n_columns=4), "n_columns: expected 3"),
        (lambda: op.gaussian_measurements(3, 0), "n_measurements"),
        (lambda: op.population_measurements(0), "n_rows"),
        (lambda: op.low_rank_matrix(2, [1.0, 1.0, 1.0]), "eigenvalues: expected at most 2"),
        (lambda: op.low_rank_matrix(2, [-1.0]), "eigenvalues"),
        (lambda: op.gaussian_factors(2, 1, -1.0), "scale"),
        (
            lambda: op.population_measurements(3)(torch.ones(1, 3, 2)),
            r"matrix: expected shape \(batch, \.\.\., 3, 3\)",
        ),
        (
            lambda: op.gaussian_measurements(3, 5).adjoint(torch.ones(1, 4)),
            r"values: expected shape \(1, \.\.\., 5\)",
        ),
        (
            lambda: op.sign_rip(op.population_measurements(3), torch.ones(1, 3, 3)),
            "measurements: expected finitely many",
        ),
        (
            lambda: op.sign_rip(op.gaussian_measurements(3, 5), torch.zeros(1, 3, 3)),
            "matrix: expected matrices other than zero",
        ),
        (
            lambda: op.sign_rip(
                op.gaussian_measurements(3, 5), torch.ones(1, 3, 3), torch.ones(1, 2, 5)
            ),
            "noise: expected shape",
        ),
        (lambda: op.sign_rip_scale(1.0, 1.5), "noise_share"),
        (lambda: op.power_law_slope([1, 2, 3], [1.0, 2.0], 1, 3), "values: expected shape"),
        (lambda: op.power_law_slope([1, 2, 3], [1.0, 0.0, 2.0], 1, 3), "values: expected positive"),
        (lambda: op.power_law_slope([1, 2, 3], [1.0, 1.0, 2.0], 4, 9), "iterations: expected"),
        (lambda: op.exponential_rate([1, 2, 3], [1.0, 0.5, 0.1], 1e-4, 1e-3), "values: expected"),
        (lambda: op.log_spaced_iterations(0), "n_steps"),
        (lambda: experiments.symmetric_point(()), "widths: expected at least one"),
        (lambda: experiments.asymmetric_point((0.1,), right="left"), "right"),
        (lambda: experiments.robust_point((2,), loss="l3"), "loss"),
        (lambda: experiments.rescaling_point(10, drop=2.0), "drop"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
