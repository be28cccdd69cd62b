"""EnsLoss, Z-loss and mixup: values, gradients and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest

from enough.calibration import EnsLoss, ZLoss, mixup


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_z_loss_equals_loops():
    logits = torch.randn(6, 4, generator=seeded(), dtype=torch.float64)
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    for a, b in ((1.0, 0.0), (0.3, 2.0), (5.0, -1.0)):
        total = 0.0
        for row, y in zip(logits.numpy(), target.tolist(), strict=True):
            z = (row[y] - row.mean()) / row.std()
            total += np.log(1.0 + np.exp(a * (b - z))) / a
        assert ZLoss(a, b)(logits, target).item() == pytest.approx(total / 6, abs=1e-12)


def test_z_loss_ignores_shift_and_positive_scale():
    logits = torch.randn(50, 7, generator=seeded(1), dtype=torch.float64)
    target = torch.arange(50) % 7
    loss = ZLoss(2.0, 1.0)
    base = loss(logits, target)
    for scale in (1e-3, 0.5, 1e3):
        assert loss(scale * logits + 3.0, target).item() == pytest.approx(base.item(), abs=1e-9)
    assert abs(loss(-logits, target) - base) > 0.01


def test_z_loss_gradient():
    logits = torch.randn(5, 4, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda z: ZLoss(1.5, 0.5)(z, target), logits)
    flat = torch.ones(2, 3, requires_grad=True)
    ZLoss()(flat, torch.tensor([0, 1])).backward()
    assert torch.equal(flat.grad, torch.zeros(2, 3))
    big = torch.full((1, 3), 100.0) * torch.tensor([1.0, 0.0, -1.0])
    assert torch.isfinite(ZLoss(a=1e4, b=5.0)(big, torch.tensor([2])))


def test_ens_loss_derivatives_are_those_of_a_convex_calibrated_loss():
    margins = torch.cat([torch.linspace(-5, 5, 101), torch.tensor([0.0, 0.0, 1.0, 1.0])])
    for box_cox in (-0.9, -0.3, 0.0, 0.4, 1.0):
        loss = EnsLoss(box_cox, generator=3)
        for _ in range(20):
            slope = loss.derivatives(margins.double())
            order = margins.argsort(stable=True)
            assert bool((slope < 0).all())
            assert bool((slope >= -1.0 - 1e-6).all())
            steps = slope[order][1:] - slope[order][:-1]
            apart = margins[order][1:] > margins[order][:-1]
            assert bool((steps[apart] >= -1e-15).all())
            assert bool((slope[margins > 1] >= -1.0 / margins[margins > 1] - 1e-6).all())


def test_ens_loss_draws_by_the_inverse_box_cox_transform():
    # One margin at a time: the derivative is −min(1, exp(ξ)) − 1e-6, so half are at the cap.
    loss = EnsLoss(generator=4)
    draws = torch.stack([loss.derivatives(torch.zeros(1).double())[0] for _ in range(3000)])
    assert (draws == -1.0 - 1e-6).double().mean().item() == pytest.approx(0.5, abs=0.03)
    inner = -(-(draws[draws > -1.0] + 1e-6)).log()
    assert kstest(inner.numpy(), "halfnorm").pvalue > 1e-3
    # λ = 1: −min(1, max(0, 1 + ξ)): P(ξ <= −1) of them vanish.
    loss = EnsLoss(1.0, generator=5)
    draws = torch.stack([loss.derivatives(torch.zeros(1).double())[0] for _ in range(3000)])
    assert (draws > -2e-6).double().mean().item() == pytest.approx(0.1587, abs=0.03)


def test_ens_loss_value_and_gradient():
    scores = torch.randn(40, generator=seeded(6), dtype=torch.float64, requires_grad=True)
    target = torch.arange(40) % 2
    loss = EnsLoss(generator=7)(scores, target)
    loss.backward()
    signs = 2.0 * target.double() - 1.0
    slope = EnsLoss(generator=7).derivatives(scores.detach() * signs)
    torch.testing.assert_close(scores.grad, slope * signs / 40)
    assert loss.item() == pytest.approx((slope * signs * scores).mean().item(), abs=1e-12)
    signed = EnsLoss(generator=7)(scores, signs)
    column = EnsLoss(generator=7)(scores[:, None], target[:, None])
    assert signed.item() == column.item() == loss.item()


def test_ens_loss_redraws_its_shape():
    loss = EnsLoss(period=2, generator=8)
    scores, target, seen = torch.zeros(4), torch.tensor([0, 1, 0, 1]), []
    for _ in range(6):
        loss(scores, target)
        seen.append(loss.box_cox)
    assert seen[0] == seen[1] == 0.0
    assert seen[2] == seen[3] != seen[1]
    assert seen[4] == seen[5] != seen[3]
    assert all(-1.0 < x < 1.0 for x in seen)
    loss.eval()
    before = loss.box_cox
    for _ in range(4):
        loss(scores, target)
    assert loss.box_cox == before
    assert "period=2" in repr(loss)
    assert "a=2" in repr(ZLoss(2.0))


def test_ens_loss_trains():
    draw = seeded(9)
    x = torch.randn(400, 2, generator=draw)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0).long()
    weight = torch.zeros(2, requires_grad=True)
    loss = EnsLoss(period=5, generator=10)
    optimizer = torch.optim.SGD([weight], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(x @ weight, y).backward()
        optimizer.step()
    assert ((x @ weight > 0) == y.bool()).float().mean() > 0.97


def test_mixup_by_hand():
    x = torch.arange(12, dtype=torch.float64).view(6, 2)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    mixed_x, mixed_y = mixup(x, y, 0.7, generator=1)
    assert mixed_x.shape == (6, 2)
    assert mixed_y.shape == (6, 3)
    # Rows differ by 2 along the batch, so x alone tells the partner and the weight.
    torch.testing.assert_close(mixed_y.sum(1), torch.ones(6, dtype=torch.float64))
    for i in range(6):
        fits = []
        for partner in range(6):
            gap = x[partner, 0] - x[i, 0]
            weight = 1.0 if gap == 0 else 1.0 - float((mixed_x[i, 0] - x[i, 0]) / gap)
            if 0.0 <= weight <= 1.0:
                label = torch.zeros(3, dtype=torch.float64)
                label[y[i]] += weight
                label[y[partner]] += 1.0 - weight
                fits.append(torch.allclose(label, mixed_y[i]))
        assert any(fits)


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_mixup_weights(k, per):
    # Mix the identity: row i of the result holds the weights of its partners.
    n = 50
    identity = torch.eye(n, dtype=torch.float64)
    x, y = mixup(identity, identity, 1.0, k, seeded(2), per=per)
    torch.testing.assert_close(x, y)
    torch.testing.assert_close(x.sum(1), torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(x.sum(0).sum(), torch.tensor(float(n), dtype=torch.float64))
    assert bool((x >= 0).all())
    assert int((x > 0).sum(1).max()) <= k
    if per == "batch" and k > 1:
        rows = {tuple(np.round(row[row > 0].sort().values.tolist(), 12)) for row in x}
        full = {row for row in rows if len(row) == k}
        assert len(full) == 1
    if k == 1:
        torch.testing.assert_close(x, identity)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_a_beta_law(alpha):
    n, weights = 800, []
    for seed in range(4):
        identity = torch.eye(n, dtype=torch.float64)
        mixed, _ = mixup(identity, identity, alpha, generator=seed)
        apart = (mixed > 0).sum(1) == 2  # the partner is another sample
        weights.append(mixed.diagonal()[apart])
    found = torch.cat(weights)
    assert len(found) > 3000
    assert kstest(found.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_with_small_and_zero_alpha():
    x = torch.randn(64, 3, generator=seeded(3))
    y = torch.arange(64) % 4
    for alpha in (1e-3, 1e-8):
        mixed, soft = mixup(x, y, alpha, 3, seeded(4))
        assert bool(torch.isfinite(mixed).all())
        assert bool((soft.max(1).values > 0.99).float().mean() > 0.9)
    same, hard = mixup(x, y, 0.0, 3)
    assert torch.equal(same, x)
    assert torch.equal(hard, torch.nn.functional.one_hot(y, 4).float())


def test_mixup_keeps_kinds_and_seeds():
    x, y = np.zeros((5, 2, 3), dtype=np.float32), np.arange(5)
    mixed, soft = mixup(x, y, 1.0, generator=0, n_classes=7)
    assert isinstance(mixed, np.ndarray)
    assert mixed.shape == x.shape
    assert mixed.dtype == soft.dtype == np.float32
    assert soft.shape == (5, 7)
    targets = torch.randn(5, generator=seeded(5))
    inputs = torch.randn(5, 2, generator=seeded(6))
    state = torch.random.get_rng_state()
    first, second = (mixup(inputs, targets, 1.0, generator=9) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(first[0], second[0])
    assert first[1].shape == (5,)
    inputs.requires_grad_()
    mixup(inputs, targets, 1.0, generator=9)[0].sum().backward()
    torch.testing.assert_close(inputs.grad.sum(), torch.tensor(10.0))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: mixup(torch.zeros(3), torch.zeros(2), 1.0), "x, y"),
        (lambda: mixup(torch.zeros(2), torch.zeros(2), -1.0), "alpha"),
        (lambda: mixup(torch.zeros(2), torch.zeros(2), 1.0, k=0), "k"),
        (lambda: mixup(torch.zeros(2).long(), torch.zeros(2), 1.0), "x: .*floating"),
        (lambda: mixup(torch.zeros(2), torch.tensor([0, -1]), 1.0), "y"),
        (lambda: mixup(torch.zeros(2), torch.tensor([0, 3]), 1.0, n_classes=2), "n_classes"),
        (lambda: mixup(torch.zeros(2), torch.zeros(2), 1.0, per="row"), "per"),
        (lambda: ZLoss(a=0.0), "a"),
        (lambda: ZLoss(b=float("nan")), "b"),
        (lambda: ZLoss()(torch.zeros(3), torch.zeros(3).long()), "logits"),
        (lambda: ZLoss()(torch.zeros(3, 2), torch.zeros(2).long()), "target"),
        (lambda: ZLoss()(torch.zeros(3, 2), torch.zeros(3)), "target: .*class numbers"),
        (lambda: EnsLoss(period=0), "period"),
        (lambda: EnsLoss(box_cox=float("inf")), "box_cox"),
        (lambda: EnsLoss()(torch.zeros(3, 2), torch.zeros(3)), "scores"),
        (lambda: EnsLoss()(torch.zeros(3), torch.zeros(2)), "target"),
        (lambda: EnsLoss()(torch.zeros(3), torch.tensor([0, 1, 2])), "target"),
        (lambda: EnsLoss()(torch.zeros(3), torch.tensor([0, 1, -1])), "target"),
    ],
)
def test_bad_arguments_are_refused(call, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        call()
