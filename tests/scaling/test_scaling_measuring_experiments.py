"""The measured scaling curves against closed forms, brute force and slow loops."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from enough import data
from enough.models import MLP
from enough.runtime import named_generator
from enough.scaling.experiments import measuring


def test_the_zipf_memorizer_is_the_sum_over_all_items():
    """alpha = 1 leaves 1 - tail, and n = 0 and 1 have closed forms with the zeta function."""
    for alpha in (0.5, 1.0, 2.0):
        zeta = special.zeta(1 + alpha)
        expected = [1.0, 1 - special.zeta(2 + 2 * alpha) / zeta**2]
        # The sum over the first items is normalized with the midpoint rule, good to 1e-9.
        assert np.allclose(measuring.zipf_error([0, 1], alpha), expected, rtol=1e-8)


def test_the_zipf_tail_is_integrated_not_dropped():
    alpha, n = 0.5, 1000.0
    items = np.arange(1.0, 4e6)
    zeta = special.zeta(1.5)
    p = items**-1.5 / zeta
    # Beyond 4 million items n p is below 1e-7: each adds its own frequency.
    rest = special.zeta(1.5, 4e6) / zeta
    brute = (p * (1 - p) ** n).sum() + rest
    assert measuring.zipf_error(n, alpha)[0] == pytest.approx(brute, rel=1e-6)


def test_log_slope_recovers_powers_column_by_column():
    x = np.array([1.0, 3.0, 10.0])
    y = np.stack([2 * x**-0.7, 5 * x**0.2], 1)
    assert np.allclose(measuring.log_slope(x, y), [-0.7, 0.2], atol=1e-12)


def test_least_squares_has_the_excess_error_of_the_wishart_mean():
    n, d = [20, 60], 5
    errors = measuring.regression_point(n, dimension=d, trials=4000, seed=1)
    expected = d / (np.array(n) - d - 1)
    spread = errors.std(1) / math.sqrt(errors.shape[1])
    assert (np.abs(errors.mean(1) - expected) < 4 * spread).all()


def test_nearest_neighbors_of_all_test_points_are_paired_over_sizes():
    few = measuring.nearest_neighbor_point(2, [50, 400], trials=3, tests=300, seed=5)
    again = measuring.nearest_neighbor_point(2, [50, 400], trials=2, tests=300, seed=5)
    assert few.shape == (2, 3)
    assert np.array_equal(few[:, :2], again)
    assert (few[1] < few[0]).all()


def test_the_entropy_rate_of_a_two_state_source_is_known():
    a, b = 0.2, 0.5
    p = torch.tensor([[1 - a, a], [b, 1 - b]])
    rate, stationary = measuring.entropy_rate(p)
    share = np.array([b, a]) / (a + b)
    assert np.allclose(stationary, share, atol=1e-7)
    assert rate == pytest.approx(share @ special.entr(p.double().numpy()).sum(1), abs=1e-6)


def test_a_source_without_structure_is_uniform_and_one_with_it_is_not():
    flat = measuring.markov_source(8, strength=0.0)
    assert torch.allclose(flat, torch.full((8, 8), 1 / 8, dtype=torch.float64))
    source = measuring.markov_source(8, seed=3)
    assert torch.allclose(source.sum(1), torch.ones(8, dtype=torch.float64))
    assert torch.equal(source, measuring.markov_source(8, seed=3))
    # Centered logits have the singular values K i^-a up to the constants that softmax drops.
    full = measuring.markov_source(16, decay=30.0, seed=1).log()
    values = torch.linalg.svdvals(full - full.mean(1, keepdim=True))
    assert values[1] < 1e-6 * values[0]


def test_a_wide_model_reaches_the_entropy_and_a_narrow_one_does_not():
    wide = measuring.source_point(12, symbols=12, steps=600, members=2, seed=2)
    narrow = measuring.source_point(1, symbols=12, steps=600, members=2, seed=2)
    excess = np.array(wide["loss"]) - wide["entropy"]
    assert (excess > -1e-9).all()
    assert (excess < 2e-3).all()
    assert (np.array(narrow["loss"]) > np.array(wide["loss"]) + 0.02).all()
    assert np.allclose(wide["entropy"], narrow["entropy"], rtol=1e-12)
    assert narrow["params"] == 12 * 1 + 1 * 12 + 12


def test_stacked_byte_models_compute_what_each_member_computes():
    members = [measuring.ByteMLP(11, 3, 4, 5, torch.Generator().manual_seed(i)) for i in range(3)]
    params, buffers = torch.func.stack_module_state(members)
    x = torch.randint(11, (3, 7, 3), generator=torch.Generator().manual_seed(0))
    stacked = members[0].stacked_forward(params, buffers, x)
    alone = torch.stack([m(z) for m, z in zip(members, x, strict=True)])
    assert torch.allclose(stacked, alone, atol=1e-6)
    flat = torch.cat([members[0].embedding[x[0, :, i]] for i in range(3)], -1)
    assert torch.allclose(members[0](x[0]), members[0].mlp(flat))
    assert isinstance(members[0].mlp, MLP)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text in which the byte three back decides the next one."""
    stream = np.random.default_rng(0)
    text = [97, 98, 99]
    for _ in range(20_000):
        text.append(97 + (text[-3] - 97 + int(stream.random() < 0.1)) % 4)
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_bytes(bytes(text))
    return str(path)


TINY = dict(context=4, steps=150, batch=64, members=2, evaluation=1500, seed=3)


def test_byte_models_learn_a_text_whose_entropy_is_known(corpus):
    found = measuring.byte_point(32, source=corpus, embedding=4, lr=1e-2, **TINY)
    coin = special.entr([0.1, 0.9]).sum()
    assert found["params"] == 4 * 4 * 32 + 32 + 32 * 128 + 128
    assert found["tokens"] == 150 * 64
    assert all(coin - 0.05 < value < 0.8 for value in found["loss"])
    assert measuring.unigram_entropy(corpus) == pytest.approx(math.log(4), abs=0.02)


def test_members_are_measured_on_text_of_their_own(tmp_path, monkeypatch):
    """Models of a biased coin agree, so that only the share of heads in their text differs."""
    monkeypatch.chdir(tmp_path)  # the name of the source is part of the seed
    flips = np.random.default_rng(0).random(20_000) < 0.1
    (tmp_path / "coin.txt").write_bytes(bytes((97 + flips).tolist()))
    setting = dict(source="coin.txt", context=2, embedding=4, lr=2e-2, steps=300, batch=64)
    setting |= dict(members=8, seed=3)
    few = measuring.byte_point(32, **setting, evaluation=30)["loss"]
    many = measuring.byte_point(32, **setting, evaluation=3000)["loss"]
    # The noise of the share of heads is 0.12 nats over 30 flips and 0.012 over 3000.
    assert np.std(many, ddof=1) < 0.03 < np.std(few, ddof=1)
    assert np.allclose(many, special.entr([0.1, 0.9]).sum(), atol=0.06)


def test_transformers_go_through_the_same_function(corpus):
    found = measuring.byte_point(
        16, kind="transformer", layers=2, source=corpus, lr=1e-2, **TINY | {"context": 8}
    )
    assert len(found["loss"]) == 2
    assert found["tokens"] == 150 * 64 * 8
    # The first three positions of a window cannot know the next byte.
    assert all(0.3 < value < 1.2 for value in found["loss"])


def test_shuffled_bytes_leave_nothing_but_frequencies():
    found = measuring.byte_point(
        8, source="shuffled", context=2, steps=150, batch=128, members=2, evaluation=4000, seed=1
    )
    assert all(value > 0.97 * measuring.unigram_entropy() for value in found["loss"])


def test_a_byte_model_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: expected"):
        measuring.byte_point(4, kind="lstm")


def test_nearest_neighbors_on_digits_agree_with_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    found = measuring.digits_errors([30, 300], draws=2, networks=0, seed=4)
    digits = data.digits()
    order = torch.randperm(1797, generator=named_generator(4, "digits", 1))
    x, y = digits.x[order].numpy(), digits.y[order].numpy()
    for i, n in enumerate((30, 300)):
        peer = KNeighborsClassifier(1).fit(x[:n], y[:n])
        expected = 1 - peer.score(x[300:], y[300:])
        assert found["nearest neighbor"][i, 1] == pytest.approx(expected, abs=2e-3)
    assert set(found) == {"nearest neighbor"}


def test_perceptrons_on_digits_learn_labels_but_not_shuffled_ones():
    true = measuring.digits_errors([300], draws=2, networks=2, steps=150, seed=1)
    noise = measuring.digits_errors([300], draws=2, networks=2, steps=20, shuffled=True, seed=1)
    assert (true["perceptron"] < 0.2).all()
    assert (noise["perceptron"] > 0.8).all()
    assert (noise["nearest neighbor"] > 0.8).all()
    with pytest.raises(ValueError, match="sizes"):
        measuring.digits_errors([1797])


def test_the_isotropic_task_without_noise_has_closed_form_steps():
    """At the best rate the excess loss shrinks by (d + 1) / (B + d + 1) a step."""
    batches, d = [4, 16], 8
    found = measuring.batch_steps(
        batches, [0.1, 0.01], modes=d, decay=0.0, noise=0.0, rates=4000, draws=1, steps=60
    )["steps"][0]
    for level, row in zip((0.1, 0.01), found, strict=True):
        expected = [-math.log(level) / math.log(1 + b / (d + 1)) for b in batches]
        assert np.allclose(row, expected, rtol=1e-3)


def test_the_recursion_is_the_mean_of_simulated_descent():
    """One rate only, so that the count of steps has nothing to choose."""
    d, batch, noise, runs = 3, 4, 200.0, 20_000
    lam = np.arange(1, d + 1) ** -1.5
    found = measuring.batch_steps(
        [batch], [0.9], modes=d, noise=noise, rates=1, draws=1, steps=400, seed=6
    )
    rng = np.random.default_rng(0)
    stream = named_generator(6, "first errors")
    first = torch.rand(1, 1, 1, d, dtype=torch.float64, generator=stream).numpy().ravel() + 0.5
    first = first / (first @ lam)
    rate = 1e-3 * 2 / (lam[0] * (1 + 1 / batch) + lam.sum() / batch)
    w = np.sqrt(first) * rng.choice([-1, 1], size=(runs, d))
    steps = found["steps"][0, 0, 0]
    assert np.isfinite(steps)
    for _ in range(round(steps)):
        x = rng.normal(size=(runs, batch, d)) * np.sqrt(lam)
        error = np.einsum("rbi,ri->rb", x, w) - math.sqrt(noise) * rng.normal(size=(runs, batch))
        w -= rate * np.einsum("rb,rbi->ri", error, x) / batch
    loss = (w**2 @ lam).mean()
    assert loss == pytest.approx(0.9, rel=0.004)


def _hyperbolas():
    """Steps that follow the law exactly, with a critical batch of 2 / loss."""
    batches, loss = np.array([2, 8, 32, 128]), np.array([0.4, 0.2, 0.1, 0.05, 0.025, 0.0125])
    floor, critical = 3 / loss, 2 / loss
    steps = floor[:, None] * (1 + critical[:, None] / batches)
    return batches, {"steps": steps[None], "loss": loss}, floor, critical


def test_critical_batches_of_exact_hyperbolas_are_found():
    batches, result, floor, critical = _hyperbolas()
    table = measuring.critical_batches(batches, result)
    assert np.allclose(table.S_min, floor, rtol=1e-5)
    assert np.allclose(table.B_crit, critical, rtol=1e-5)
    assert (table.explained > 1 - 1e-9).all()


def test_trajectories_of_exact_hyperbolas_are_predicted_exactly():
    batches, result, _, _ = _hyperbolas()
    miss, baseline = measuring.trajectory_miss(batches, result, [8], early=3)
    assert miss.shape == (1,)
    assert miss[0] < 1e-5
    assert baseline[0] > 1e-4


def test_curves_with_a_floor_are_extrapolated_by_the_law_with_a_floor():
    x = np.geomspace(1, 32, 6)
    noise = 1 + 1e-4 * np.cos(np.arange(12)).reshape(6, 2)
    losses = (2 + x**-0.5)[:, None] * noise
    table = measuring.fit_curves(x, losses, 1000.0)
    assert np.allclose(table.predicted, 2 + 1000**-0.5, rtol=5e-3)
    assert (table.predicted_pure < 0.95 * table.predicted).all()
    assert (table.aic_gain > 10).all()


def test_the_criterion_of_akaike_charges_for_a_floor_that_is_not_there():
    x = np.geomspace(1, 1000, 8)
    noise = np.exp(0.01 * np.random.default_rng(2).normal(size=(8, 20)))
    table = measuring.fit_curves(x, 3 * x[:, None] ** -0.3 * noise, 2000.0)
    assert table.aic_gain.median() < 0
    assert table.aic_gain.min() >= -2 - 1e-3


def test_shuffled_losses_explain_less_and_the_order_explains_all():
    x = np.geomspace(1, 100, 7)
    ordered, shuffled = measuring.shuffled_explained(x, 1 + x**-0.4, permutations=10, seed=3)
    assert ordered > 1 - 1e-6
    assert shuffled.shape == (10,)
    assert shuffled.mean() < 0.6
    assert (shuffled >= 0).all()
    assert (shuffled < 1).all()


def test_the_explained_share_is_that_of_the_fitted_law():
    """Against the fit itself, where the best law is no corner of its region."""
    x = np.geomspace(1, 100, 7)
    loss = (1 + x**-0.4) * np.exp(0.02 * np.random.default_rng(1).normal(size=7))
    fit, _ = measuring.power_fit(x, loss)
    y = np.log(loss)
    expected = 1 - np.square(y - np.log(fit.loss)).sum() / np.square(y - y.mean()).sum()
    found, shuffled = measuring.shuffled_explained(x, loss, permutations=0)
    assert found == pytest.approx(expected, abs=1e-3)
    assert shuffled.shape == (0,)
    assert measuring.shuffled_explained(x, loss[::-1], permutations=0)[0] == 0.0


def test_extrapolate_tells_a_power_law_from_an_exponential():
    x = np.array([10, 20, 40, 80, 160, 320])
    power = measuring.extrapolate(x, 4.0 * x**-0.5)
    assert power["slope"] == pytest.approx(-0.5)
    assert power["explained"] == pytest.approx(1.0)
    assert power["power"] < 1e-12 < power["exponential"]
    decay = measuring.extrapolate(x, np.exp(-0.01 * x))
    assert decay["exponential"] < 1e-12 < decay["power"]


def test_the_jackknife_of_a_mean_gives_back_the_members():
    values = np.array([[1.0, 4.0, 7.0], [2.0, 2.0, 8.0]])
    left = measuring.leave_one_out_means(values)
    assert np.allclose(left, [[5.5, 4.0, 2.5], [5.0, 5.0, 2.0]])
    assert np.allclose(measuring.jackknife_values(4.0, left[0]), values[0])


def test_the_jackknife_removes_the_bias_of_a_squared_mean():
    """The mean of the pseudo-values of a squared mean is unbiased: mean² - variance / n."""
    values = np.array([0.3, -1.0, 2.0, 0.5])
    left = measuring.leave_one_out_means(values[None])[0] ** 2
    found = measuring.jackknife_values(values.mean() ** 2, left).mean()
    assert found == pytest.approx(values.mean() ** 2 - values.var(ddof=1) / 4)
