"""The experiments behind the chapter on uniform quantization."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm
from torch.nn import functional as F

from enough.book.exercises import checks_of
from enough.models import ConvNet
from enough.quantization import choose_qparams, experiments
from enough.quantization.experiments import uniform
from enough.training import Ensemble, Sweep


@pytest.fixture(scope="module")
def nets():
    return experiments.convnets(2, epochs=1, seed=5)


@pytest.fixture(scope="module")
def mlps():
    return experiments.mlps(3, epochs=2, seed=5)


# --- Theory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0, 3.0, 6.0, 30.0])
def test_gaussian_rounding_error_is_the_integral_over_cells(step):
    total = 0.0
    for k in range(-int(12 / step) - 1, int(12 / step) + 2):
        ends = np.clip([(k - 0.5) * step, (k + 0.5) * step], -12, 12)
        total += integrate.quad(lambda x, p=k * step: (x - p) ** 2 * norm.pdf(x), *ends)[0]
    assert experiments.gaussian_rounding_ratio(step) == pytest.approx(
        total / (step**2 / 12), rel=1e-7
    )


def test_lattice_ratio_is_the_mean_over_one_period():
    for levels in range(1, 12):
        residues = np.arange(levels)
        distance = np.minimum(residues, levels - residues)
        exact = (distance**2).mean() / (levels**2 / 12)
        assert experiments.lattice_ratio(levels) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("clip", "bits"), [(0.7, 2), (1.9, 3), (2.5, 4), (4.0, 8)])
def test_clip_error_is_the_integral_inside_and_outside(clip, bits):
    top = 2 ** (bits - 1) - 1
    x = np.linspace(-clip, clip, 2_000_001)
    rounded = np.round(x / clip * top) * clip / top
    inside = integrate.trapezoid((x - rounded) ** 2 * norm.pdf(x), x)
    outside = 2 * integrate.quad(lambda t: (t - clip) ** 2 * norm.pdf(t), clip, 40)[0]
    found = experiments.gaussian_clip_error(clip, bits)
    assert found == pytest.approx((inside, outside), rel=1e-5)


def test_the_best_clip_beats_its_neighbors_and_the_two_bit_one_is_known():
    for bits in (2, 3, 4, 6, 8):
        clip, error = experiments.optimal_gaussian_clip(bits)
        for other in np.linspace(0.5, 6, 400):
            assert sum(experiments.gaussian_clip_error(float(other), bits)) >= error - 1e-12
        assert sum(experiments.gaussian_clip_error(clip, bits)) == error
    # Three levels -c, 0, c: the best c is the mean of |x| beyond c/2.
    clip, _ = experiments.optimal_gaussian_clip(2)
    assert clip == pytest.approx(norm.pdf(clip / 2) / norm.sf(clip / 2), abs=1e-4)


def test_absmax_moments():
    assert experiments.absmax_moment(1) == pytest.approx(math.sqrt(2 / math.pi))
    assert experiments.absmax_moment(1, 2) == pytest.approx(1.0)
    # max(|x|, |y|) = (|x + y| + |x - y|) / 2 after a turn by 45 degrees
    assert experiments.absmax_moment(2) == pytest.approx(2 / math.sqrt(math.pi))
    draws = np.abs(np.random.default_rng(0).standard_normal((20_000, 64))).max(1)
    assert experiments.absmax_moment(64) == pytest.approx(draws.mean(), rel=0.005)
    assert experiments.absmax_moment(64, 2) == pytest.approx((draws**2).mean(), rel=0.01)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: experiments.gaussian_rounding_ratio(0.0), "step"),
        (lambda: experiments.lattice_ratio(0), "levels"),
        (lambda: experiments.gaussian_clip_error(-1.0, 4), "clip"),
        (lambda: experiments.optimal_gaussian_clip(1), "bits"),
        (lambda: experiments.absmax_moment(0), "n"),
        (lambda: experiments.rounding_point(0.05), "step"),
        (lambda: experiments.rows_point("cauchy"), "distribution"),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        call()


# --- Simulations ----------------------------------------------------------------------------


def test_rounding_follows_theory_and_repeats():
    found = experiments.rounding_point(2.5, samples=200_000, trials=4, seed=1)
    again = experiments.rounding_point(2.5, samples=200_000, trials=4, seed=1)
    np.testing.assert_array_equal(found["ratio"], again["ratio"])
    theory = experiments.gaussian_rounding_ratio(2.5)
    assert found["ratio"].mean() == pytest.approx(theory, rel=0.01)
    # Cov(e, x) of rounding at this step, by the integral
    x = np.linspace(-12, 12, 1_000_001)
    error = np.round(x / 2.5) * 2.5 - x
    weight = norm.pdf(x)
    covariance = integrate.trapezoid(x * error * weight, x)
    spread = math.sqrt(integrate.trapezoid(error**2 * weight, x))
    assert found["correlation"].mean() == pytest.approx(covariance / spread, abs=0.01)


def test_lattice_points():
    assert experiments.lattice_point(1, samples=1000, trials=2)["ratio"].max() == 0
    found = experiments.lattice_point(4, samples=100_000, trials=4, seed=2)["ratio"]
    assert found.mean() == pytest.approx(1 + 2 / 16, rel=0.01)


def test_clipping_finds_the_best_range_and_shrinks():
    found = experiments.clipping_point(3, samples=30_000, trials=3, seed=0)
    clip, error = experiments.optimal_gaussian_clip(3)
    assert found["clip"].mean() == pytest.approx(clip, rel=0.03)
    assert found["error"].mean() == pytest.approx(error, rel=0.02)
    assert (found["error"] < found["error_minmax"]).all()
    assert found["shrinkage"].mean() == pytest.approx(-1, abs=0.1)
    fine = experiments.clipping_point(4, samples=30_000, trials=3, seed=0)
    assert fine["shrinkage_minmax"].mean() == pytest.approx(1, abs=0.25)


def test_rows_depend_on_groups_as_the_largest_entry_does():
    rows = experiments.rows_point("gaussian", rows=64, trials=2, group_size=64, seed=3)
    theory = math.sqrt(experiments.absmax_moment(64, 2)) / (7 * math.sqrt(12))
    assert rows["relative"].mean() == pytest.approx(theory, rel=0.02)
    whole = experiments.rows_point("uniform", rows=64, trials=2, seed=3)["relative"].mean()
    assert whole == pytest.approx(math.sqrt(3) / (7 * math.sqrt(12)), rel=0.01)
    heavy = experiments.rows_point("t3", rows=64, trials=2, seed=3)["relative"].mean()
    assert heavy > 1.5 * experiments.rows_point("gaussian", rows=64, trials=2)["relative"].mean()


# --- Networks -------------------------------------------------------------------------------


def test_folding_keeps_what_the_network_computes(monkeypatch):
    ensembles = []
    fit = Ensemble.fit

    def keep(self, *args, **options):
        ensembles.append(self)
        return fit(self, *args, **options)

    monkeypatch.setattr(Ensemble, "fit", keep)
    nets = experiments.convnets(2, epochs=1, seed=7)
    for i in range(2):
        member = ensembles[0].member(i).double()
        assert isinstance(member, ConvNet)
        with torch.no_grad():
            wanted = member(nets.test[i])
        torch.testing.assert_close(nets.outputs(nets.test)[-1][i], wanted)


def test_every_network_has_its_own_split(nets):
    assert nets.calibration.shape == (2, 100, 1, 8, 8)
    assert nets.test.shape == (2, 797, 1, 8, 8)
    assert nets.labels.shape == (2, 797)
    assert not torch.equal(nets.test[0], nets.test[1])
    both = torch.cat([nets.calibration, nets.test], 1).flatten(2)
    assert len(torch.unique(both[0], dim=0)) > 880


def test_weights_round_to_the_grid_of_their_channel(nets):
    rounded = experiments.quantize_networks(nets, (8, 2, 3, 8))
    for layer, exact, bits in zip(rounded.layers, nets.layers, (8, 2, 3, 8), strict=True):
        for i in range(2):
            w = exact.weight[i].flatten(1)
            low, high = w.amin(1).clamp(max=0), w.amax(1).clamp(min=0)
            step = (high - low) / (2**bits - 1)
            zero = torch.round(-low / step)
            wanted = torch.fake_quantize_per_channel_affine(
                w.float(), step.float(), zero.int(), 0, 0, 2**bits - 1
            )
            gap = (layer.weight[i].flatten(1) - wanted).abs() / step[:, None]
            # torch rounds in float32: an entry at the middle of a cell may fall to either side.
            assert (gap > 1e-3).double().mean() < 0.001
            assert all(len(torch.unique(row)) <= 2**bits for row in layer.weight[i].flatten(1))


def test_granularity_cuts_the_weights(mlps):
    for cut, axis in (("channel", 0), ("column", 1), ("tensor", None)):
        rounded = experiments.quantize_networks(mlps, 3, granularity=cut)
        w = mlps.layers[1].weight[2]
        step, _ = choose_qparams(w, bits=3, symmetric=False, axis=axis)
        shape = {0: (-1, 1), 1: (1, -1), None: ()}[axis]
        integers = rounded.layers[1].weight[2] / step.reshape(shape)
        torch.testing.assert_close(integers, integers.round(), atol=1e-9, rtol=0)
    mixed = experiments.quantize_networks(mlps, 3, granularity=("tensor", "column", "channel"))
    column = experiments.quantize_networks(mlps, 3, granularity="column")
    torch.testing.assert_close(mixed.layers[1].weight, column.layers[1].weight)


def test_arguments_of_quantize_networks(nets):
    with pytest.raises(ValueError, match=r"^bits: expected 4 values, got 2"):
        experiments.quantize_networks(nets, (4, 4))
    with pytest.raises(ValueError, match=r"^granularity: "):
        experiments.quantize_networks(nets, 4, granularity="row")


def test_bias_correction_restores_every_mean(nets):
    plain = experiments.quantize_networks(nets, 2, method="mse")
    fixed = experiments.quantize_networks(nets, 2, method="mse", correct_bias=True)
    for i in range(2):
        x, h = nets.calibration[i], nets.calibration[i]
        for exact, layer in zip(nets.layers, fixed.layers, strict=True):
            if x.ndim == 4 and exact.weight.ndim == 5:
                x, h = (
                    F.conv2d(v, each.weight[i], each.bias[i], stride=each.stride, padding=1)
                    for v, each in ((x, exact), (h, layer))
                )
                gap = (x - h).mean((0, 2, 3))
            else:
                x = x.flatten(1) @ exact.weight[i].mT + exact.bias[i]
                h = h.flatten(1) @ layer.weight[i].mT + layer.bias[i]
                gap = (x - h).mean(0)
            assert gap.abs().max() < 1e-10
            x, h = x.relu(), h.relu()
    for a, b in zip(plain.layers, fixed.layers, strict=True):
        assert torch.equal(a.weight, b.weight)
    assert not torch.equal(plain.layers[1].bias, fixed.layers[1].bias)


def test_norm_tuning_restores_mean_and_spread_and_stays_on_a_grid(nets):
    rounded = experiments.quantize_networks(nets, (8, 2, 2, 8), method="mse")
    tuned = experiments.reestimate_norms(rounded)
    for layer, out in zip(tuned.layers[:3], tuned.outputs(nets.calibration), strict=False):
        channels = out.transpose(1, 2).flatten(2)
        torch.testing.assert_close(channels.mean(2), layer.mean)
        torch.testing.assert_close(channels.std(2, correction=0), layer.spread)
    for row in tuned.layers[1].weight[0].flatten(1):
        assert len(torch.unique(row)) <= 4
    for a, b in zip(tuned.layers, nets.layers, strict=True):
        assert (a.mean is None and b.mean is None) or torch.equal(a.mean, b.mean)
    assert torch.equal(tuned.layers[3].weight, rounded.layers[3].weight)


def test_scores_against_torch(nets):
    rounded = experiments.quantize_networks(nets, 3)
    found = experiments.scores(rounded, nets)
    for i in range(2):
        p = nets.outputs(nets.test)[-1][i].log_softmax(1)
        q = rounded.outputs(nets.test)[-1][i].log_softmax(1)
        wanted = F.kl_div(q, p, log_target=True, reduction="batchmean").item()
        assert found["divergence"][i] == pytest.approx(wanted, rel=1e-4)
        right = (q.argmax(1) == nets.labels[i]).double().mean().item()
        assert found["accuracy"][i] == pytest.approx(right, abs=2 / 797)
    same = experiments.scores(nets, nets)
    assert same["divergence"].max() == 0
    assert same["weight_error"].max() == 0
    assert same["disagreement"].max() == 0


def test_outliers_change_weights_and_not_outputs(mlps):
    loud = experiments.inject_outliers(mlps, units=3, factor=8.0, seed=1)
    torch.testing.assert_close(loud.outputs(mlps.test)[-1], mlps.outputs(mlps.test)[-1])
    grown = loud.layers[1].weight / mlps.layers[1].weight
    assert ((grown - 8).abs() < 1e-9).all(1).sum(1).tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match=r"^units: "):
        experiments.inject_outliers(mlps, units=65)


def test_outliers_need_fully_connected_layers(nets):
    with pytest.raises(ValueError, match=r"^networks: "):
        experiments.inject_outliers(nets)


def test_rescaled_channels_compute_the_same_and_round_otherwise(nets):
    scaled = experiments.rescale_channels(nets, spread=0.3, draw=2, seed=4)
    torch.testing.assert_close(scaled.outputs(nets.test)[-1], nets.outputs(nets.test)[-1])
    ratio = scaled.layers[0].bias / nets.layers[0].bias
    assert math.exp(-0.3) <= ratio.min() < 0.95
    assert 1.05 < ratio.max() <= math.exp(0.3)
    tuned = experiments.reestimate_norms(scaled)
    plain = experiments.reestimate_norms(nets)
    torch.testing.assert_close(tuned.outputs(nets.test)[-1], plain.outputs(nets.test)[-1])
    first = experiments.quantize_networks(nets, 3).outputs(nets.test)[-1]
    second = experiments.quantize_networks(scaled, 3).outputs(nets.test)[-1]
    assert not torch.allclose(first, second, rtol=1e-3)


def test_the_first_networks_alone(nets):
    one = nets.first(1)
    torch.testing.assert_close(one.outputs(one.test)[-1], nets.outputs(nets.test)[-1][:1])
    assert one.layers[0].mean.shape == (1, 16)


def test_a_sweep_takes_the_point():
    sweep = Sweep(uniform.divergence_point, {"bits": [2, 8], "members": [2], "epochs": [1]})
    sweep.run()
    table = sweep.table()
    divergence = [np.mean(each) for each in table["divergence"]]
    assert divergence[0] > 50 * divergence[1] > 0


# --- Checks of the exercises ----------------------------------------------------------------


def test_exercise_checks_tell_right_from_wrong():
    checks = checks_of("quantization/uniform")
    assert checks["rms"].test(4 / 15 / math.sqrt(12))
    assert not checks["rms"].test(4 / 16 / math.sqrt(12))
    x = np.linspace(0, 40, 200_001)
    grid = np.linspace(4, 6, 101)
    errors = [
        integrate.trapezoid((x - np.minimum(np.round(x / c * 7), 7) * c / 7) ** 2 * np.exp(-x), x)
        for c in grid
    ]
    best = float(grid[int(np.argmin(errors))])
    assert checks["laplace"].test(best)
    assert not checks["laplace"].test(best / math.sqrt(2))

    def equalize(first, bias, second, power=0.5):
        f = (first.abs().amax(1) / second.abs().amax(0)) ** power
        return first / f[:, None], bias / f, second * f

    assert checks["equalize"].test(equalize)
    assert not checks["equalize"].test(lambda *w: equalize(*w, power=0.4))
    assert not checks["equalize"].test(lambda a, b, c: (*equalize(a, b, c)[:1], b, c))
