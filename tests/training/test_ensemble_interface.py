"""The interface of an ensemble: building, data, state, histories, interrupts, errors."""

import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from enough.models import MLP
from enough.training import EarlyStopping, Ensemble, TrainingInterrupted

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :1] ** 2


def mlp(generator):
    return MLP([6, 8, 1], generator=generator)


def make(size=4, seed=0, build=mlp, **options):
    return Ensemble(build, size, seed, **{"mode": "stacked", **options})


def states(ensemble):
    return list(ensemble.state_dict().values())


def same(a, b):
    return all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "build",
    [
        mlp,
        lambda *, generator: mlp(generator),
        lambda: nn.Linear(6, 1),
        lambda generator: nn.Linear(6, 1),
    ],
    ids=["generator", "keyword", "nothing", "global stream"],
)
def test_a_member_depends_on_the_seed_and_its_place_alone(build):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    small, large = Ensemble(build, 2, seed=5), Ensemble(build, 4, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    other = Ensemble(build, 2, seed=6)
    weights = [e.parameters_of(1) for e in (small, large, other)]
    name = next(iter(weights[0]))
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])
    assert not torch.equal(small.parameters_of(0)[name], weights[0][name])


def test_members_have_orders_of_their_own():
    ensemble = make()
    orders = []
    for e in range(2):
        batches = ensemble.batches(e, 10, 4)
        epochs = [torch.cat([next(batches) for _ in range(3)]).tolist() for _ in range(2)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        orders += epochs
    assert len({tuple(order) for order in orders}) == 4
    assert make(size=9).batches(1, 10, 4).__next__().tolist() == orders[2][:4]


def test_predictions_go_back_as_the_inputs_came():
    ensemble = make()
    tensor = ensemble.predict(X)
    assert isinstance(tensor, torch.Tensor)
    assert not tensor.requires_grad
    array = ensemble.predict(X.double().numpy())
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_allclose(ensemble.predict(X, batch_size=5), tensor, rtol=1e-5, atol=1e-6)


def test_predictions_on_inputs_of_their_own():
    own = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(3))
    ensemble = make()
    expected = torch.stack([ensemble.member(e)(own[e]) for e in range(4)]).detach()
    torch.testing.assert_close(ensemble.predict(own, per_member=True), expected)
    ensemble.fit(X, Y, steps=1)  # from now on three dimensions mean one set a member
    expected = torch.stack([ensemble.member(e)(own[e]) for e in range(4)]).detach()
    torch.testing.assert_close(ensemble.predict(own), expected)
    with pytest.raises(ValueError, match="x: expected one set for each of 4 members"):
        ensemble.predict(own[:3])


def test_double_precision_and_arrays():
    ensemble = make(dtype=torch.float64, device="cpu")
    assert ensemble.dtype is torch.float64
    assert ensemble.device == torch.device("cpu")
    assert len(ensemble) == 4
    ensemble.fit(X.numpy(), Y.numpy(), steps=3)
    assert ensemble.predict(X).dtype is torch.float64
    assert ensemble.member(0)(X.double()).dtype is torch.float64


def test_targets_of_one_dimension_fit_outputs_of_one_column():
    flat, column = make(), make()
    flat.fit(X, Y[:, 0], steps=5)
    column.fit(X, Y, steps=5)
    assert same(states(flat), states(column))


def test_integer_targets_mean_cross_entropy():
    labels = (X[:, 0] > 0).int()
    one, two = (make(build=lambda g: MLP([6, 8, 2], generator=g)) for _ in range(2))
    one.fit(X, labels, steps=5)
    two.fit(X, labels.long(), steps=5, loss=F.cross_entropy)
    assert same(states(one), states(two))


def test_a_loss_of_the_prediction_alone():
    """Pairs of answers, one preferred: no targets."""
    pairs = torch.randn(30, 2, 6, generator=torch.Generator().manual_seed(0))

    def bradley_terry(scores):
        return F.softplus(scores[:, 1, 0] - scores[:, 0, 0]).mean()

    ensemble = make().fit(pairs, loss=bradley_terry, steps=60, lr=0.05)
    losses = ensemble.history_.losses
    assert (losses[-1] < 0.5 * losses[0]).all()
    module = make().member(2)
    expected = bradley_terry(module(pairs)).item()
    assert losses[0, 2] == pytest.approx(expected, rel=1e-5)


def test_epochs_count_passes_over_the_data():
    ensemble = make().fit(X, Y, epochs=3, batch_size=7)
    assert len(ensemble.history_) == 3 * 4
    assert (ensemble.n_steps_ == 12).all()


def test_fit_starts_again_and_warm_start_goes_on():
    ensemble = make()
    first = states(ensemble.fit(X, Y, steps=6, optimizer="sgd", lr=0.1))
    again = states(ensemble.fit(X, Y, steps=6, optimizer="sgd", lr=0.1))
    assert same(first, again)
    halves = make().fit(X, Y, steps=3, optimizer="sgd", lr=0.1)
    halves.fit(X, Y, steps=3, optimizer="sgd", lr=0.1, warm_start=True)
    assert same(first, states(halves))


def test_state_goes_from_one_ensemble_to_another():
    trained = make().fit(X, Y, steps=5)
    other = make(seed=9)
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(other.predict(X), trained.predict(X))
    trained.fit(X, Y, steps=4, warm_start=True)
    other.fit(X, Y, steps=4)  # starts from what was loaded
    assert same(states(trained), states(other))


def test_a_member_is_a_module_of_its_own():
    ensemble = make().fit(X, Y, steps=5)
    module, tensors = ensemble.member(2), ensemble.parameters_of(2)
    torch.testing.assert_close(module(X).detach(), ensemble.predict(X)[2])
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())
    fresh = mlp(torch.Generator())
    fresh.load_state_dict(tensors)
    torch.testing.assert_close(fresh(X), module(X))
    before = ensemble.predict(X)
    with torch.no_grad():
        for tensor in [*module.parameters(), *tensors.values()]:
            tensor.zero_()
    assert torch.equal(before, ensemble.predict(X))


def test_a_copy_of_a_member_does_not_drag_the_stack_along():
    ensemble = make(100, build=lambda g: nn.BatchNorm1d(6), mode="loop")
    module = ensemble.member(3)
    for tensor in [*module.parameters(), *module.buffers()]:
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_history_holds_metrics_of_every_member():
    ensemble = make().fit(
        X,
        Y,
        steps=11,
        validation=(X, Y),
        evaluate_every=4,
        metrics={"worst": lambda prediction, target: (prediction - target).abs().max()},
    )
    history = ensemble.history_
    assert history.losses.shape == (11, 4)
    np.testing.assert_array_equal(history.steps, np.arange(1, 12))
    np.testing.assert_array_equal(history.evaluation_steps, [4, 8, 11])
    np.testing.assert_array_equal(history.learning_rates, np.full(11, 1e-3))
    error = (ensemble.predict(X) - Y).flatten(1)
    np.testing.assert_allclose(history.metrics["worst"][-1], error.abs().amax(1), rtol=1e-6)
    expected = error.square().mean(1)
    np.testing.assert_allclose(history.metrics["validation_loss"][-1], expected, rtol=1e-5)


def test_validation_data_of_their_own():
    own = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(3))
    targets = own[..., :1] ** 2
    for mode in ("stacked", "loop"):
        ensemble = make(mode=mode).fit(X, Y, steps=3, validation=(own, targets))
        error = (ensemble.predict(own) - targets).flatten(1)
        np.testing.assert_allclose(
            ensemble.history_.metrics["validation_loss"][-1], error.square().mean(1), rtol=1e-5
        )


def test_a_validation_loss_that_is_never_finite_keeps_the_last_weights():
    ensemble = make().fit(
        X,
        Y,
        steps=50,
        batch_size=8,
        validation=(X, Y),
        evaluate_every=1,
        early_stopping=EarlyStopping(3),
        loss=lambda p, t: ((p - t) ** 2).mean() + (0.0 if p.requires_grad else torch.nan),
    )
    assert (ensemble.n_steps_ == 3).all()
    assert (ensemble.best_step_ == 0).all()
    plain = make().fit(X, Y, steps=3, batch_size=8)
    for a, b in zip(states(ensemble), states(plain), strict=True):
        torch.testing.assert_close(a, b)


def press_at(call):
    """A learning-rate independent way to press Ctrl-C: a loss that counts its calls."""
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return F.mse_loss(prediction, target)

    return loss


def test_control_c_keeps_what_was_learned():
    ensemble = make()
    with pytest.raises(TrainingInterrupted, match="keep the 7 to 7 updates of 50") as caught:
        ensemble.fit(X, Y, steps=50, batch_size=8, loss=press_at(7 + 1))  # one call plans memory
    assert caught.value.step == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    plain = make().fit(X, Y, steps=7, batch_size=8)
    for a, b in zip(states(ensemble), states(plain), strict=True):
        torch.testing.assert_close(a, b)
    np.testing.assert_allclose(ensemble.history_.losses, plain.history_.losses, rtol=1e-5)
    assert (ensemble.n_steps_ == 7).all()
    torch.testing.assert_close(ensemble.member(1)(X).detach(), ensemble.predict(X)[1])


def test_control_c_between_chunks():
    ensemble = make(mode="loop", chunk_size=1)
    with pytest.raises(TrainingInterrupted, match="keep the 0 to 10 updates of 10"):
        ensemble.fit(X, Y, steps=10, batch_size=8, loss=press_at(13))
    np.testing.assert_array_equal(ensemble.n_steps_, [10, 3, 0, 0])
    plain, start = make(mode="loop").fit(X, Y, steps=10, batch_size=8), make()
    assert same(ensemble.parameters_of(0).values(), plain.parameters_of(0).values())
    assert same(ensemble.parameters_of(3).values(), start.parameters_of(3).values())
    losses = ensemble.history_.losses
    np.testing.assert_array_equal(np.isnan(losses).sum(0), [0, 7, 10, 10])


def test_an_error_in_an_update_leaves_a_usable_ensemble():
    ensemble = make()
    before = ensemble.predict(X)
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) > 5:
            raise ValueError("loss: enough")
        return F.mse_loss(prediction, target)

    with pytest.raises(ValueError, match="loss: enough"):
        ensemble.fit(X, Y, steps=50, loss=loss)
    assert torch.equal(ensemble.predict(X), before)
    torch.testing.assert_close(ensemble.member(1)(X).detach(), before[1])


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_part_that_the_builder_shares_is_copied_for_every_member(mode):
    body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    before = {name: t.clone() for name, t in body.state_dict().items()}
    ensemble = make(build=lambda g: nn.Sequential(body, nn.Linear(6, 1)), mode=mode)
    assert torch.equal(
        ensemble.parameters_of(0)["0.0.weight"], ensemble.parameters_of(1)["0.0.weight"]
    )
    ensemble.fit(X, Y, steps=5, batch_size=8, lr=0.1)
    means = torch.stack([ensemble.parameters_of(e)["0.1.running_mean"] for e in range(4)])
    assert len(torch.unique(means, dim=0)) == 4
    assert all(torch.equal(t, before[name]) for name, t in body.state_dict().items())


def widths(sizes):
    sizes = iter(sizes)
    return lambda: MLP([6, next(sizes), 1])


SHARED = nn.Linear(6, 1)
THREE, FOUR = torch.zeros(3, 24, 6), torch.zeros(4, 24, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size"),
        ({"seed": -1}, "seed"),
        ({"mode": "fast"}, "mode: expected one of"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"device": "abacus"}, "device: expected one of"),
        ({"dtype": torch.int64}, "dtype: expected a floating-point"),
        ({"build": 3}, "build: expected a callable"),
        ({"build": lambda a, b: SHARED}, r"build: expected build\(generator\) or build\(\)"),
        ({"build": lambda g: "model"}, "build: expected a function that returns"),
        ({"build": lambda g: SHARED}, "build: expected a new module"),
        ({"build": lambda g: nn.ReLU()}, "build: expected modules with parameters"),
        ({"build": widths([8, 8, 9, 8])}, "layers.0.weight is trained, .*member 0 .* in member 2"),
        ({"build": widths([8, 9, 9, 8])}, "pad narrow members .* or make one ensemble a width"),
        ({"build": lambda: nn.GRU(6, 2), "mode": "stacked"}, "mode: GRU does not stack"),
    ],
)
def test_bad_arguments_of_the_constructor_are_named(change, message):
    options = {"build": mlp, "size": 4, **change}
    with pytest.raises(ValueError, match=message):
        Ensemble(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X * torch.nan}, "x: expected finite numbers"),
        ({"y": Y / 0}, "y: expected finite numbers"),
        ({"x": X[0, 0]}, "x: expected at least one dimension"),
        ({"x": X[:, :5]}, r"x: the members do not take samples of shape \(5,\)"),
        ({"x": X[:5]}, r"x, y: expected arrays of N samples, \(N, ...\) shared or \(4, N, ...\)"),
        ({"x": THREE, "per_member": True}, "x, y: expected arrays of N samples"),
        ({"x": FOUR}, None),
        ({"x": FOUR, "y": Y[:4]}, None),
        ({"x": FOUR, "y": None, "loss": torch.mean}, "per_member: expected True or False"),
        ({"per_member": "x"}, "per_member: expected None, a bool"),
        ({"y": torch.zeros(24, 3)}, r"y: expected targets of the predictions' shape \(24, 1\)"),
        ({"y": None}, "loss: expected a function of the prediction"),
        ({"y": None, "loss": "mse"}, "y: expected targets for this loss"),
        ({"y": torch.ones(24, dtype=torch.long)}, "y: expected entries <= 0"),
        ({"y": -torch.ones(24, dtype=torch.long)}, "y: expected entries >= 0"),
        ({"loss": "hinge"}, "loss: expected one of"),
        ({"loss": lambda p, t: p - t}, "loss: expected a function that returns a scalar"),
        ({"loss": lambda p, t: 1.0}, "returns a scalar tensor, got float"),
        ({"optimizer": "lion"}, "optimizer: expected one of"),
        ({"lr": 0.0}, "lr: expected a number > 0"),
        ({"lr": [0.1, 0.1, -0.1, 0.1]}, r"lr\[2\]: expected a number > 0"),
        ({"lr": [0.1, 0.2]}, "lr: expected a number or 4 of them, one a member, got 2"),
        ({"lr": "fast"}, "lr: expected a number"),
        ({"weight_decay": torch.full((4,), -1.0)}, r"weight_decay\[0\]"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum: expected numbers < 1.0"),
        ({"optimizer": "sgd", "momentum": [0.9, 0.0, 0.9, 0.9], "nesterov": True}, "nesterov"),
        ({"betas": 0.9}, "betas: expected a pair"),
        ({"betas": (0.9, 1.0)}, "betas: expected numbers < 1.0"),
        ({"eps": 0}, "eps"),
        ({"clip": np.zeros(4)}, r"clip\[0\]"),
        ({"steps": 0}, "steps"),
        ({"steps": 5, "epochs": 2}, "steps: expected steps or epochs"),
        ({"steps": None, "epochs": 0}, "epochs"),
        ({"batch_size": 25}, "batch_size: expected a number <= 24"),
        ({"schedule": lambda step: [1.0, 1.0]}, "schedule: expected a number, or 4"),
        ({"lr_multipliers": {"weight": 2.0}}, "lr_multipliers: expected names of trained"),
        ({"decay_multipliers": {"layers.0.bias": -1.0}}, "decay_multipliers"),
        ({"validation": X}, "validation: expected a pair"),
        ({"validation": (X, Y[:5])}, "validation: expected as many targets as inputs"),
        ({"validation": (X, None)}, r"validation\[1\]: expected targets"),
        ({"validation": (X[:, :2], Y)}, "x: the members do not take samples"),
        ({"validation": (X * torch.inf, Y)}, r"validation\[0\]: expected finite"),
        ({"validation": (X, Y), "evaluate_every": 0}, "evaluate_every"),
        ({"validation": (X, Y), "metrics": {"a": 1}}, "metrics: expected callables by name"),
        ({"metrics": {"a": len}}, "metrics: expected validation data"),
        ({"early_stopping": 3}, "early_stopping: expected validation data"),
        ({"validation": (X, Y), "early_stopping": 0}, "early_stopping: patience"),
        ({"validation": (X, Y), "early_stopping": EarlyStopping(1, -1.0)}, "min_delta"),
    ],
)
def test_bad_arguments_of_fit_are_named(change, message):
    options = {"x": X, "y": Y, "steps": 2, **change}
    if message is None:
        make().fit(**{**options, "y": torch.zeros(4, 24, 1)})
        return
    with pytest.raises(ValueError, match=message):
        make().fit(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.predict(X[:, :2]), "x: the members do not take samples"),
        (lambda e: e.predict(X * torch.nan), "x: expected finite"),
        (lambda e: e.predict(X, batch_size=0), "batch_size"),
        (lambda e: e.member(4), "member: expected a number <= 3"),
        (lambda e: e.parameters_of(-1), "member"),
        (lambda e: e.batches(4, 5, 2), "member"),
        (lambda e: e.batches(0, 5, 6), "batch_size"),
        (lambda e: e.load_state_dict({}), "state: .* layers.0.bias is missing"),
        (lambda e: e.load_state_dict({**e.state_dict(), "a": X}), "state: .* a is unknown"),
        (
            lambda e: e.load_state_dict({**e.state_dict(), "layers.0.bias": torch.zeros(4, 9)}),
            r"state: layers.0.bias: expected shape \(4, 8\)",
        ),
    ],
)
def test_bad_arguments_of_other_methods_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())


def test_modules_that_return_something_else_are_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ValueError, match="build: expected modules that map a batch of 4"):
        make(build=lambda: Pair(6, 1), mode="auto").predict(X)
    flat = Ensemble(lambda: nn.Sequential(nn.Linear(6, 2), nn.Flatten(0)), 4)
    with pytest.raises(ValueError, match="build: expected modules that map a batch of 4"):
        flat.fit(X, Y)
