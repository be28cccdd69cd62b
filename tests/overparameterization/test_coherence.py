"""Coherence against closed forms and a loop of autograd; robust averages against numpy."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import mstats
from torch import nn

from enough.models import MLP
from enough.overparameterization import (
    RobustDescent,
    coherence_of,
    gradient_coherence,
    median_of_groups,
    private_mean,
    winsorized_mean,
)


def gradients_by_loop(module, x, y, loss):
    rows = []
    for a, b in zip(x, y, strict=True):
        value = loss(module(a[None]), b[None])
        parts = torch.autograd.grad(value, list(module.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


def pairwise(rows):
    """m-coherence from all m² inner products."""
    gram = rows.double() @ rows.double().mT
    return float(len(rows) * gram.mean() / gram.diagonal().mean())


def test_closed_forms():
    assert coherence_of(np.ones((7, 3))).m_coherence == pytest.approx(7, rel=1e-12)
    assert coherence_of(np.eye(5)).m_coherence == pytest.approx(1, rel=1e-12)
    opposite = coherence_of(np.array([[1.0, 2.0], [-1.0, -2.0]]))
    assert opposite.m_coherence == 0.0
    np.testing.assert_allclose(coherence_of(np.eye(5)).per_example, np.ones(5))
    groups = np.repeat(np.eye(3), [4, 2, 1], axis=0)  # three patterns of 4, 2 and 1 examples
    found = coherence_of(groups)
    np.testing.assert_allclose(found.per_example, [4, 4, 4, 4, 2, 2, 1])
    assert found.m_coherence == pytest.approx((16 + 4 + 1) / 7, rel=1e-12)


def test_scaling_one_gradient_changes_its_weight_only():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    assert coherence_of(3 * rows).m_coherence == pytest.approx(coherence_of(rows).m_coherence)
    found = coherence_of(rows)
    weights = found.square_norms / found.square_norms.sum()
    assert float((weights * found.per_example).sum()) == pytest.approx(found.m_coherence)
    assert found.m_coherence == pytest.approx(pairwise(torch.as_tensor(rows)))


@pytest.mark.parametrize("memory_limit", [1.0, 3000.0, 2**26])
def test_vmap_equals_a_loop_of_autograd(memory_limit):
    """One example at a time, in chunks, and all at once."""
    stream = torch.Generator().manual_seed(0)
    module = MLP([5, 6, 3], generator=1).double()
    x = torch.randn(11, 5, dtype=torch.float64, generator=stream)
    y = torch.randint(3, (11,), generator=stream)
    rows = gradients_by_loop(module, x, y, nn.functional.cross_entropy)
    found = gradient_coherence(module, x, y, memory_limit=memory_limit)
    assert found.n_examples == 11
    assert found.m_coherence == pytest.approx(pairwise(rows), rel=1e-10)
    np.testing.assert_allclose(found.square_norms, rows.square().sum(1), rtol=1e-10)
    np.testing.assert_allclose(found.inner_products, rows @ rows.mean(0), rtol=1e-8, atol=1e-12)


def test_any_module_and_any_loss():
    module = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 1)
    ).double()
    x = torch.randn(5, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.randn(5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    rows = gradients_by_loop(module, x, y, nn.functional.mse_loss)
    found = gradient_coherence(module, x, y, loss=nn.functional.mse_loss)
    assert found.m_coherence == pytest.approx(pairwise(rows), rel=1e-9)


def test_given_parameters_take_the_place_of_the_modules_own():
    one, other = MLP([4, 3, 2], generator=0), MLP([4, 3, 2], generator=1)
    x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    expected = gradient_coherence(other, x, y)
    found = gradient_coherence(one, x, y, params=dict(other.named_parameters()))
    assert found.m_coherence == expected.m_coherence
    assert found.m_coherence != gradient_coherence(one, x, y).m_coherence
    assert all(p.grad is None for p in one.parameters())


@pytest.mark.parametrize("tail", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_winsorized_mean_against_scipy(tail, dtype):
    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = winsorized_mean(values, tail)
    assert found.dtype == dtype
    share = tail / 9 + 1e-9
    expected = mstats.winsorize(values.double().numpy(), limits=(share, share), axis=0).mean(0)
    tolerance = {torch.float16: 2e-3, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    np.testing.assert_allclose(found.double(), expected, atol=tolerance)
    swapped = winsorized_mean(values.mT.contiguous(), tail, axis=1)
    np.testing.assert_allclose(swapped.double(), found.double(), atol=tolerance)


def test_winsorizing_ignores_how_far_an_outlier_is():
    values = np.array([[1.0], [2.0], [3.0], [4.0], [1e9]])
    assert winsorized_mean(values, 1)[0] == pytest.approx((2 + 2 + 3 + 4 + 4) / 5)
    assert isinstance(winsorized_mean(values, 1), np.ndarray)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 7])
def test_median_against_numpy(groups):
    values = np.random.default_rng(groups).normal(size=(2, groups, 5))
    np.testing.assert_allclose(median_of_groups(values, 1), np.median(values, 1), atol=1e-15)


def test_private_mean_clips_over_all_parameters():
    stream = torch.Generator().manual_seed(5)
    gradients = {
        "a": torch.randn(2, 6, 3, generator=stream, dtype=torch.float64),
        "b": torch.randn(2, 6, 2, 2, generator=stream, dtype=torch.float64),
    }
    found = private_mean(gradients, clip=2.0, noise=0.0)
    for model in range(2):
        rows = torch.cat([gradients["a"][model], gradients["b"][model].flatten(1)], 1)
        norms = rows.norm(dim=1, keepdim=True)
        assert float(norms.max()) > 2.0 > float(norms.min())
        expected = torch.where(norms > 2.0, rows * 2.0 / norms, rows).mean(0)
        flat = torch.cat([found["a"][model], found["b"][model].flatten()])
        torch.testing.assert_close(flat, expected)


def test_private_noise_has_its_size():
    zero = {"a": torch.zeros(1, 10, 20_000), "b": torch.zeros(1, 10, 20_000)}
    found = private_mean(zero, clip=2.0, noise=3.0, generator=0)
    for value in found.values():
        assert float(value.std()) == pytest.approx(3.0 * 2.0 / 10, rel=0.03)
    together = np.corrcoef(found["a"][0], found["b"][0])[0, 1]
    assert abs(together) < 0.03


def _build(generator):
    return MLP([4, 5, 3], generator=generator)


@pytest.fixture
def batch():
    stream = torch.Generator().manual_seed(6)
    return torch.randn(2, 12, 4, generator=stream), torch.randint(3, (2, 12), generator=stream)


def test_the_mean_rule_is_torch_sgd(batch):
    """A batch of all examples: no order matters."""
    x, y = batch
    start: dict[str, torch.Tensor] = {}

    def remember(epoch, params):
        if epoch == 0:
            start.update({name: value.clone() for name, value in params.items()})

    learner = RobustDescent(_build, 2, lr=0.3, batch_size=12, seed=0)
    learner.fit(x, y, 5, on_epoch=remember)
    for member in range(2):
        module = copy.deepcopy(learner.module_)
        module.load_state_dict({name: value[member] for name, value in start.items()})
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[member]), y[member]).backward()
            optimizer.step()
        for name, value in module.named_parameters():
            torch.testing.assert_close(learner.params_[name][member], value.detach())
        expected = module(x[member]).argmax(1)
        assert torch.equal(learner.train_predictions_[-1, member], expected)
    assert learner.train_predictions_.shape == (6, 2, 12)


def test_one_winsorized_step_by_hand(batch):
    x, y = batch
    start = {}
    learner = RobustDescent(_build, 2, rule="winsorized", lr=0.3, batch_size=12, tail=2)
    learner.fit(
        x, y, 1, on_epoch=lambda e, p: start.setdefault(e, {k: v.clone() for k, v in p.items()})
    )
    module = copy.deepcopy(learner.module_)
    module.load_state_dict({name: value[1] for name, value in start[0].items()})
    rows = gradients_by_loop(module, x[1], y[1], nn.functional.cross_entropy)
    share = 2 / 12 + 1e-9
    step = mstats.winsorize(rows.numpy(), limits=(share, share), axis=0).mean(0)
    before, after = (torch.cat([v[1].flatten() for v in start[e].values()]) for e in (0, 1))
    np.testing.assert_allclose(after, before - 0.3 * step, atol=1e-6)


def test_one_rm3_step_is_a_median_of_three_means(batch):
    x, y = batch
    x, y = x[:1].repeat(1, 1, 1), y[:1]
    start = {}
    learner = RobustDescent(_build, 1, rule="rm3", lr=1.0, batch_size=12, seed=3)
    learner.fit(
        x, y, 1, on_epoch=lambda e, p: start.setdefault(e, {k: v.clone() for k, v in p.items()})
    )
    module = copy.deepcopy(learner.module_)
    module.load_state_dict({name: value[0] for name, value in start[0].items()})
    rows = gradients_by_loop(module, x[0], y[0], nn.functional.cross_entropy)
    before, after = (torch.cat([v[0].flatten() for v in start[e].values()]) for e in (0, 1))
    step = before - after
    # The order of the batch is the learner's own: some split in three groups of four must fit.
    stream_order = _first_order(3, 12)
    means = rows[stream_order].view(3, 4, -1).mean(1)
    np.testing.assert_allclose(step, means.median(0).values, atol=1e-6)
    assert not np.allclose(step, rows.mean(0), atol=1e-4)


def _first_order(seed, n):
    from enough.runtime import named_generator

    return torch.rand(1, n, generator=named_generator(seed, "order")).argsort(1)[0]


def test_rules_share_weights_and_order(batch):
    x, y = batch
    starts = []
    for rule in ("mean", "winsorized", "rm3", "private"):
        learner = RobustDescent(_build, 2, rule=rule, batch_size=6, tail=1, seed=4)
        learner.fit(
            x,
            y,
            1,
            on_epoch=lambda e, p: starts.append(p["layers.0.weight"].clone()) if e == 0 else None,
        )
    assert all(torch.equal(starts[0], other) for other in starts[1:])


def test_tail_zero_is_the_mean(batch):
    x, y = batch
    plain = RobustDescent(_build, 2, batch_size=6, seed=5).fit(x, y, 3)
    other = RobustDescent(_build, 2, rule="winsorized", tail=0, batch_size=6, seed=5).fit(x, y, 3)
    for name in plain.params_:
        torch.testing.assert_close(plain.params_[name], other.params_[name], atol=1e-6, rtol=1e-5)


def test_winsorizing_forgets_one_wrong_label():
    """Twelve equal examples, one of them mislabeled: the mean learns both, the robust rule one."""
    x = torch.ones(1, 12, 2)
    y = torch.zeros(1, 12, dtype=torch.int64)
    y[0, 0] = 1
    margins = {}
    for rule in ("mean", "winsorized"):
        learner = RobustDescent(
            lambda g: MLP([2, 2], generator=g), rule=rule, tail=1, batch_size=12, lr=0.5
        ).fit(x, y, 400)
        weights = learner.params_
        out = x[0, 0] @ weights["layers.0.weight"][0].T + weights["layers.0.bias"][0]
        margins[rule] = float(out[0] - out[1])
    assert margins["mean"] == pytest.approx(np.log(11), abs=1e-3)  # the label frequencies
    assert margins["winsorized"] > 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coherence_of(np.zeros((3, 2))), "gradients: expected a gradient that is not zero"),
        (lambda: coherence_of(np.ones(3)), r"gradients: expected 2 dimension\(s\)"),
        (
            lambda: gradient_coherence(nn.Linear(2, 2), torch.ones(3, 2), torch.zeros(2).long()),
            "y: expected 3 targets, got 2",
        ),
        (lambda: winsorized_mean(np.ones((4, 1)), 2), "tail: expected less than half of the 4"),
        (lambda: winsorized_mean(np.ones((4, 1), dtype=int), 1), "values: expected a floating"),
        (lambda: private_mean({"a": torch.ones(1, 2, 3)}, 0.0, 1.0), "clip: expected a number > 0"),
        (lambda: RobustDescent(_build, rule="median"), "rule: expected one of 'mean'"),
        (lambda: RobustDescent(_build, rule="rm3", batch_size=64), "batch_size: expected a mult"),
        (
            lambda: RobustDescent(_build, rule="winsorized", batch_size=8, tail=4),
            "tail: expected less than half of a batch",
        ),
        (
            lambda: RobustDescent(_build, 2).fit(torch.ones(1, 70, 4), torch.zeros(1, 70), 1),
            r"x: expected shape \(2, N, ...\)",
        ),
        (
            lambda: RobustDescent(_build).fit(torch.ones(1, 7, 4), torch.zeros(1, 7).long(), 1),
            "x: expected at least a batch of 64",
        ),
        (
            lambda: RobustDescent(lambda g: nn.BatchNorm1d(4), batch_size=4).fit(
                torch.ones(1, 7, 4), torch.zeros(1, 7).long(), 1
            ),
            "build: expected models without buffers",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
