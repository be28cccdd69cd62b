"""How an ensemble runs its members: the choice, the fallback, chunks, random layers."""

import threading
import time
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from enough.models import MLP
from enough.training import Ensemble, plan
from enough.training.passes import LoopPass, StackedPass, VmapPass

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] ** 2


def mlp(generator):
    return MLP([6, 8, 1], generator=generator)


class Recurrent(nn.Module):
    """GRU kernels have no batching rule."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(x.unflatten(1, (3, 2)))[0][:, -1])


class Branching(nn.Linear):
    """Control flow on data, which vmap refuses."""

    def forward(self, x):
        out = super().forward(x)
        return out if out.detach().sum().item() > 0 else -out


class Constant(nn.Linear):
    """A number outside the parameters that differs between members."""

    def __init__(self):
        super().__init__(6, 1)
        self.scale = float(torch.rand(()))

    def forward(self, x):
        return self.scale * super().forward(x)


class Noisy(nn.Linear):
    """Random numbers in evaluation mode too."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


class Wrong(nn.Linear):
    """A stacked form that does not compute what the module computes."""

    def stacked_forward(self, params, buffers, x):
        return torch.baddbmm(params["bias"].unsqueeze(1), x, 2 * params["weight"].mT)


class Half(MLP):
    """A subclass that changes the computation and inherits a stacked form of the old one."""

    def forward(self, x):
        return 0.5 * super().forward(x)


@pytest.fixture(autouse=True)
def _forget_measurements():
    plan._measured.clear()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda g: Recurrent(), "vmap fails"),
        (lambda g: Branching(6, 1), "vmap fails"),
        (lambda g: Constant(), "vmap predictions differ"),
        (lambda g: Noisy(6, 1), "vmap predictions differ"),
    ],
    ids=["no batching rule", "control flow", "constants", "noise"],
)
def test_falls_back_to_the_loop_silently(build, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble = Ensemble(build, 3, seed=0).fit(X, Y, steps=3)
    assert ensemble.mode_ == "loop"
    assert ensemble.mode_reason_.startswith(reason)
    assert ensemble.predict(X).shape == (3, 24, 1)


def test_members_with_own_constants_are_trained_with_them():
    ensemble = Ensemble(lambda g: Constant(), 3, seed=0)
    scales = [ensemble.member(e).scale for e in range(3)]
    assert len(set(scales)) == 3
    ensemble.fit(X, Y, steps=5, lr=0.1)
    for e in range(3):
        expected = scales[e] * F.linear(X, *list(ensemble.parameters_of(e).values())[:2])
        torch.testing.assert_close(ensemble.predict(X)[e], expected)


@pytest.mark.parametrize("build", [lambda g: Wrong(6, 1), lambda g: Half([6, 8, 1], generator=g)])
def test_a_wrong_stacked_form_is_not_used(build):
    ensemble = Ensemble(build, 3, seed=0)
    torch.testing.assert_close(ensemble.predict(X)[1], ensemble.member(1)(X).detach())
    ensemble.fit(X, Y, steps=2)
    assert ensemble.mode_ in ("vmap", "loop")


@pytest.mark.parametrize(
    ("build", "mode"),
    [
        (mlp, "stacked"),
        (lambda g: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), "stacked"),
        (lambda g: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 1)), "vmap"),
    ],
    ids=["stacked_forward", "sequential", "other"],
)
@pytest.mark.parametrize("slow", ["batched", "loop"])
def test_the_faster_of_batch_and_loop_is_kept(build, mode, slow, monkeypatch):
    """Slow one of them down by far more than any measurement error."""
    kinds = [LoopPass] if slow == "loop" else [StackedPass, VmapPass]
    for kind in kinds:
        forward = kind.predict if kind is not LoopPass else kind.gradients
        name = forward.__name__

        def delayed(self, *arguments, forward=forward):
            time.sleep(0.05)
            return forward(self, *arguments)

        monkeypatch.setattr(kind, name, delayed)
    ensemble = Ensemble(build, 2, seed=0).fit(X, Y, steps=2)
    assert ensemble.mode_ == ("loop" if slow == "batched" else mode)
    assert "microseconds" in ensemble.mode_reason_


def test_a_measurement_is_made_once_and_changes_nothing(monkeypatch):
    calls = []
    original = plan._measure
    monkeypatch.setattr(plan, "_measure", lambda *a: calls.append(1) or original(*a))
    monkeypatch.setattr(plan, "_SHORTEST", 10.0)  # allow all rounds, however slow the machine
    state = torch.get_rng_state()
    first = Ensemble(mlp, 3, seed=0).fit(X, Y, steps=4, batch_size=8)
    second = Ensemble(mlp, 3, seed=0).fit(X, Y, steps=4, batch_size=8)
    named = Ensemble(mlp, 3, seed=0, mode=first.mode_, chunk_size=first.chunk_size_)
    named.fit(X, Y, steps=4, batch_size=8)
    assert len(calls) == 1
    assert first.mode_reason_ == second.mode_reason_
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(*(e.state_dict().values() for e in (first, second, named)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_hooks_of_layers_are_not_passed_over():
    def build(generator):
        module = nn.Sequential(nn.Linear(6, 1))
        module[0].register_forward_hook(lambda module, args, out: 2 * out)
        return module

    ensemble = Ensemble(build, 2, seed=0)
    torch.testing.assert_close(ensemble.predict(X)[1], ensemble.member(1)(X).detach())
    with pytest.raises(ValueError, match="mode: Sequential does not stack"):
        Ensemble(build, 2, seed=0, mode="stacked")


def test_stacked_layers_agree_with_the_modules():
    def build(generator):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(12, 7, bias=False),
            nn.Sequential(nn.LeakyReLU(0.1), MLP([7, 5, 4], generator=generator)),
            nn.Softplus(),
            nn.Identity(),
            nn.Linear(4, 2),
        )

    x = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(1))
    ensemble = Ensemble(build, 3, seed=0, mode="stacked")
    expected = torch.stack([ensemble.member(e)(x) for e in range(3)]).detach()
    torch.testing.assert_close(ensemble.predict(x), expected)
    sequence = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    for shape in [(10, 3, 4), (10, 2, 3, 4)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        ensemble = Ensemble(lambda g: MLP([4, 5, 2], generator=g), 2, mode="stacked")
        plain = Ensemble(lambda g: nn.Sequential(nn.Linear(4, 5), nn.Tanh()), 2, mode="stacked")
        for one in (ensemble, plain):
            expected = torch.stack([one.member(e)(x) for e in range(2)]).detach()
            torch.testing.assert_close(one.predict(x), expected)
    assert sequence(x).shape == (10, 2, 3, 2)


def dropout(generator):
    return nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 1))


@pytest.mark.parametrize("mode", ["stacked", "vmap", "loop"])
def test_dropout_draws_for_every_member_and_repeats(mode):
    """Members with equal weights and equal data differ by their masks only."""

    def run(seed):
        ensemble = Ensemble(dropout, 3, seed=seed, mode=mode)
        one = ensemble.parameters_of(0)
        ensemble.load_state_dict({name: torch.stack([t] * 3) for name, t in one.items()})
        state = torch.get_rng_state()
        ensemble.fit(X, Y, steps=3)
        assert torch.equal(state, torch.get_rng_state())
        return ensemble.history_.losses

    losses = run(0)
    assert len(np.unique(losses[0])) == 3
    np.testing.assert_array_equal(losses, run(0))


def test_random_layers_are_not_measured_so_that_runs_repeat():
    first = Ensemble(dropout, 3, seed=0).fit(X, Y, steps=3)
    second = Ensemble(dropout, 3, seed=0).fit(X, Y, steps=3)
    assert first.mode_ == "stacked"
    assert first.mode_reason_.startswith("random layers")
    assert not plan._measured
    np.testing.assert_array_equal(first.history_.losses, second.history_.losses)


def test_chunks_follow_the_memory_limit():
    whole = Ensemble(mlp, 6, seed=0, mode="stacked").fit(X, Y, steps=5, batch_size=8)
    assert whole.chunk_size_ == 6
    tight = Ensemble(mlp, 6, seed=0, mode="stacked", memory_limit=1.0)
    tight.fit(X, Y, steps=5, batch_size=8)
    assert tight.chunk_size_ == 1
    # A member has 65 weights of 4 bytes, kept about six times, and 8 x (6 + 8 + 1) activations.
    some = Ensemble(mlp, 6, seed=0, mode="stacked", memory_limit=8000.0)
    some.fit(X, Y, steps=5, batch_size=8)
    assert 1 < some.chunk_size_ < 6
    for other in (tight, some):
        for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(whole.history_.losses, other.history_.losses, rtol=1e-4)


class Spy(nn.Module):
    """An encoder layer that notes the switches it runs under."""

    def __init__(self, notes):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.notes = notes

    def forward(self, x):
        self.notes.append(switches()[:2])
        return self.layer(x.unsqueeze(1)).squeeze(1)


def switches():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        list(warnings.filters),
    )


@pytest.mark.parametrize("fast", [True, False])
def test_the_switches_that_vmap_needs_are_thrown_and_come_back(fast):
    torch.backends.mha.set_fastpath_enabled(fast)
    before = switches()

    def train(notes):
        Ensemble(lambda: Spy(notes), 2, mode="vmap").fit(X, X, steps=5).predict(X)

    try:
        notes = []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(notes)
        assert (False, False) in notes
        threads = [threading.Thread(target=train, args=([],)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert switches() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_an_ensemble_of_one():
    ensemble = Ensemble(mlp, 1, seed=0).fit(X, Y, steps=20, lr=0.05)
    assert ensemble.predict(X).shape == (1, 24, 1)
    assert ensemble.history_.losses[-1, 0] < ensemble.history_.losses[0, 0]
