"""The loop for one model: against a loop by hand, and against itself interrupted and resumed."""

import os
import signal
import subprocess
import sys
import textwrap
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from enough.training import (
    TrainingInterrupted,
    cosine,
    fit,
    load_checkpoint,
    save_checkpoint,
)


def make_data(n=40, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, generator=generator, dtype=dtype)
    return x, (x**2).sum(1, keepdim=True)


def make_model(dropout=0.0, norm=False, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout)]
        if norm:
            layers.insert(1, nn.BatchNorm1d(8))
        return nn.Sequential(*layers, nn.Linear(8, 1)).to(dtype)


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_equals_a_loop_by_hand():
    x, y = make_data()
    ours, theirs = make_model(), make_model()
    history = fit(
        ours,
        (x, y),
        F.mse_loss,
        steps=23,
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1),
        batch_size=16,
        schedule=cosine(23, warmup=4),
        clip=0.7,
        generator=5,
    )
    generator = torch.Generator().manual_seed(5)
    torch.randint(2**62, (), generator=generator)  # fit's seed for what layers draw
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.02, weight_decay=0.1)
    losses, rates, step = [], [], 0
    while step < 23:
        order = torch.randperm(40, generator=generator)
        for rows in order.split(16):
            if step == 23:
                break
            rates.append(0.02 * cosine(23, warmup=4)(step))
            optimizer.param_groups[0]["lr"] = rates[-1]
            optimizer.zero_grad()
            loss = F.mse_loss(theirs(x[rows]), y[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(theirs.parameters(), 0.7)
            optimizer.step()
            losses.append(loss.item())
            step += 1
    assert equal_states(ours, theirs)
    np.testing.assert_array_equal(history.losses, losses)
    np.testing.assert_allclose(history.learning_rates, rates, rtol=1e-15)
    np.testing.assert_array_equal(history.steps, np.arange(1, 24))
    assert len(history) == 23


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_named_optimizers_equal_torch(name):
    x, y = make_data()
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    ours, theirs = make_model(), make_model()
    options = {"steps": 30, "generator": 0, "batch_size": 7}
    fit(ours, (x, y), F.mse_loss, optimizer=name, lr=0.01, weight_decay=0.3, **options)
    optimizer = kinds[name](theirs.parameters(), lr=0.01, weight_decay=0.3)
    fit(theirs, (x, y), F.mse_loss, optimizer=optimizer, **options)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_schedule_scales_every_parameter_group():
    model = make_model()
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": model[3].parameters(), "lr": 0.02},
    ]
    optimizer, seen = torch.optim.SGD(groups), []

    def hook(report):
        seen.append([group["lr"] for group in report.optimizer.param_groups])

    schedule = cosine(5)
    history = fit(
        model,
        make_data(),
        F.mse_loss,
        steps=5,
        optimizer=optimizer,
        schedule=schedule,
        hooks=[hook],
        generator=0,
    )
    expected = np.outer(schedule(np.arange(5)), [0.1, 0.02])
    np.testing.assert_allclose(seen, expected, rtol=1e-12)
    np.testing.assert_allclose(history.learning_rates, expected[:, 0], rtol=1e-12)


def test_every_epoch_visits_each_sample_once_in_a_new_order():
    seen = []

    def objective(model, rows):
        seen.append(rows.tolist())
        return model.weight.sum() * 0.0

    fit(
        nn.Linear(1, 1),
        torch.arange(10),
        objective=objective,
        steps=8,
        batch_size=3,
        generator=0,
    )
    assert [len(rows) for rows in seen] == [3, 3, 3, 1] * 2
    first, second = list(chain(*seen[:4])), list(chain(*seen[4:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_data_and_evaluation_arrive_where_the_model_is():
    x, y = make_data(dtype=torch.float64)
    model = make_model(dtype=torch.float32)
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"mean": model(x.float()).mean(), "constant": 2}

    history = fit(
        model,
        (x.numpy(), y.numpy()),
        F.mse_loss,
        steps=25,
        evaluate=evaluate,
        evaluate_every=10,
        generator=0,
    )
    np.testing.assert_array_equal(history.evaluation_steps, [10, 20, 25])
    assert history.metrics["mean"].shape == (3,)
    np.testing.assert_array_equal(history.metrics["constant"], [2.0, 2.0, 2.0])
    assert modes == [(False, False)] * 3
    assert history.metrics["mean"][-1] == pytest.approx(model(x.float()).mean().item())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(training):
    model = make_model().train(training)
    fit(model, make_data(), F.mse_loss, steps=2, generator=0)
    assert model.training is training


def test_hooks_see_every_update_and_can_end_the_training():
    reports = []

    def hook(report):
        reports.append((report.step, report.loss.item(), dict(report.metrics)))
        return report.step == 6

    history = fit(
        make_model(),
        make_data(),
        F.mse_loss,
        steps=20,
        hooks=[hook],
        evaluate=lambda model: 1.0,
        evaluate_every=4,
        generator=0,
    )
    assert [step for step, _, _ in reports] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal([loss for _, loss, _ in reports], history.losses)
    assert reports[3][2] == {"evaluation": 1.0}
    assert reports[4][2] == {}


def test_global_random_state_is_left_alone_and_dropout_follows_the_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second, other = make_model(0.5), make_model(0.5), make_model(0.5)
    fit(first, make_data(), F.mse_loss, steps=5, generator=0)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    fit(second, make_data(), F.mse_loss, steps=5, generator=0)
    fit(other, make_data(), F.mse_loss, steps=5, generator=1)
    assert equal_states(first, second)
    assert not equal_states(first, other)


def training(model, path=None, hooks=(), generator=7, **more):
    options = {
        "steps": 30,
        "optimizer": lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1),
        "batch_size": 16,
        "schedule": cosine(30, warmup=4),
        "clip": 0.7,
        "evaluate": lambda model: model(make_data()[0]).mean(),
        "evaluate_every": 7,
    }
    options.update(more)
    return fit(
        model,
        make_data(),
        F.mse_loss,
        hooks=hooks,
        checkpoint=path,
        generator=generator,
        **options,
    )


def interrupt_at(step):
    def hook(report):
        if report.step == step:
            raise KeyboardInterrupt

    return hook


@pytest.mark.parametrize("step", [1, 3, 14, 29])
def test_interrupted_and_resumed_is_bit_identical(tmp_path, step):
    """Dropout, batch norm, momentum, schedule, the order of the data, a later generator use."""
    path = tmp_path / "run.pt"
    through, resumed = make_model(0.3, norm=True), make_model(0.3, norm=True)
    one, two = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    expected = training(through, generator=one)
    with pytest.raises(TrainingInterrupted, match=f"after update {step} of 30.*go on") as caught:
        training(resumed, path, [interrupt_at(step)], torch.Generator().manual_seed(7))
    assert caught.value.step == step
    np.testing.assert_array_equal(caught.value.history.losses, expected.losses[:step])

    resumed = make_model(0.3, norm=True)  # as in a new process
    history = training(resumed, path, generator=two)
    assert equal_states(through, resumed)
    np.testing.assert_array_equal(history.losses, expected.losses)
    np.testing.assert_array_equal(history.learning_rates, expected.learning_rates)
    np.testing.assert_array_equal(history.evaluation_steps, expected.evaluation_steps)
    np.testing.assert_array_equal(history.metrics["evaluation"], expected.metrics["evaluation"])
    assert torch.equal(one.get_state(), two.get_state())


def test_data_from_a_function_resumes_bit_identically(tmp_path):
    def sample(generator):
        x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        return x, x.sum(1, keepdim=True)

    def run(model, path=None, hooks=()):
        return fit(
            model,
            sample,
            F.mse_loss,
            steps=20,
            optimizer="sgd",
            lr=0.1,
            generator=2,
            checkpoint=path,
            hooks=hooks,
        )

    through, resumed = make_model(), make_model()
    expected = run(through)
    with pytest.raises(TrainingInterrupted):
        run(resumed, tmp_path / "run.pt", [interrupt_at(11)])
    resumed = make_model()
    history = run(resumed, tmp_path / "run.pt")
    assert equal_states(through, resumed)
    np.testing.assert_array_equal(history.losses, expected.losses)


def test_a_killed_process_resumes_from_its_last_checkpoint(tmp_path):
    """SIGKILL: nothing is told to the process; what is on disk must do."""
    path = tmp_path / "run.pt"
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_training_loop import make_model, training
        def kill(report):
            if report.step == 17:
                os.kill(os.getpid(), signal.SIGKILL)
        training(make_model(0.3, norm=True), {str(path)!r}, [kill], checkpoint_every=5)
        """
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["step"] == 15
    through, resumed = make_model(0.3, norm=True), make_model(0.3, norm=True)
    expected = training(through)
    history = training(resumed, path)
    assert equal_states(through, resumed)
    np.testing.assert_array_equal(history.losses, expected.losses)


def test_control_c_waits_for_the_update_at_work(tmp_path):
    path = tmp_path / "run.pt"

    def press(report):
        if report.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    model = make_model()
    with pytest.raises(TrainingInterrupted) as caught:
        training(model, path, [press])
    assert caught.value.step == 4
    stored = load_checkpoint(path)
    assert stored["step"] == 4
    assert all(torch.equal(t, stored["model"][name]) for name, t in model.state_dict().items())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_inside_an_update_keeps_the_last_whole_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return F.mse_loss(prediction, target)

    with pytest.raises(TrainingInterrupted, match="after update 7"):
        fit(
            make_model(),
            make_data(),
            loss,
            steps=20,
            generator=0,
            checkpoint=path,
            checkpoint_every=5,
        )
    assert load_checkpoint(path)["step"] == 5


def test_a_finished_training_is_not_repeated(tmp_path):
    path = tmp_path / "run.pt"
    first = make_model()
    expected = training(first, path)
    second = make_model()
    history = training(second, path, [interrupt_at(1)])
    assert equal_states(first, second)
    np.testing.assert_array_equal(history.losses, expected.losses)


def test_resume_false_starts_again(tmp_path):
    path = tmp_path / "run.pt"
    training(make_model(), path)
    steps = []
    training(make_model(), path, [lambda report: steps.append(report.step)], resume=False)
    assert steps == list(range(1, 31))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "another training: expected batch_size 8, got 16"),
        ({"steps": 10, "schedule": None}, "another training: expected at most 10 updates"),
        ({"schedule": cosine(60, warmup=4)}, "another training: expected at update 6 a learning"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, message):
    path = tmp_path / "run.pt"
    training(make_model(), path)
    with pytest.raises(ValueError, match=message):
        training(make_model(), path, **change)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    training(make_model(), path)
    model = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Dropout(0.0), nn.Linear(9, 1)).double()
    with pytest.raises(ValueError, match=r"expected 0\..* of shape"):
        training(model, path)


def test_damaged_and_dangerous_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.pt"
    training(make_model(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="could not read"):
        training(make_model(), path)

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": 1, "payload": Payload()}, path)
    with pytest.raises(ValueError, match="could not read"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="expected a dict"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "run.pt"
    save_checkpoint(path, {"value": torch.ones(3)})

    def fail(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"value": torch.zeros(3)})
    assert torch.equal(load_checkpoint(path)["value"], torch.ones(3))
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_in_low_precision_and_keeps_the_parameters(precision):
    seen = []
    model = make_model(dtype=torch.float32)
    model[3].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    x, y = make_data(dtype=torch.float32)
    history = fit(model, (x, y), F.mse_loss, steps=60, lr=0.02, precision=precision, generator=0)
    assert set(seen) == {precision}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert np.isfinite(history.losses).all()
    assert history.losses[-1] < 0.5 * history.losses[0]


def test_half_precision_scales_the_loss_so_that_small_gradients_survive():
    """A gradient of 1e-6 vanishes in float16 (smallest number 6e-8) without a loss scale."""
    x = torch.ones(4, 1)
    updates = {}
    for precision in (None, torch.float16):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        fit(
            model,
            (x, x),
            lambda prediction, target: (1e-8 * (prediction - target)).sum(),
            steps=1,
            optimizer="sgd",
            lr=1.0,
            precision=precision,
            generator=0,
        )
        updates[precision] = model.weight.item()
    assert updates[None] == pytest.approx(-4e-8)
    assert updates[torch.float16] == pytest.approx(-4e-8, rel=0.01)


def test_gradients_are_clipped_at_their_own_scale_not_the_scaled_one():
    weights = []
    for clip in (None, 1e4):
        model = make_model(dtype=torch.float32)
        data = make_data(dtype=torch.float32)
        options = {"optimizer": "sgd", "lr": 0.01, "precision": torch.float16, "generator": 0}
        fit(model, data, F.mse_loss, steps=8, clip=clip, **options)
        weights.append(model[3].weight.detach())
    assert not torch.equal(weights[0], make_model(dtype=torch.float32)[3].weight)
    torch.testing.assert_close(weights[0], weights[1])


def test_loss_scale_resumes(tmp_path):
    options = {"precision": torch.float16, "optimizer": "sgd", "lr": 0.01, "generator": 0}
    data = make_data(dtype=torch.float32)
    through, resumed = make_model(dtype=torch.float32), make_model(dtype=torch.float32)
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    fit(through, data, F.mse_loss, steps=12, checkpoint=one, **options)
    with pytest.raises(TrainingInterrupted):
        fit(resumed, data, F.mse_loss, steps=12, checkpoint=two, hooks=[interrupt_at(9)], **options)
    assert load_checkpoint(two)["scaler"] != torch.amp.GradScaler("cpu").state_dict()
    fit(resumed, data, F.mse_loss, steps=12, checkpoint=two, **options)
    assert equal_states(through, resumed)
    assert load_checkpoint(two)["scaler"] == load_checkpoint(one)["scaler"]


def test_automatic_precision_is_full_on_the_cpu():
    first, second = make_model(dtype=torch.float32), make_model(dtype=torch.float32)
    data = make_data(dtype=torch.float32)
    fit(first, data, F.mse_loss, steps=5, generator=0, precision="auto")
    fit(second, data, F.mse_loss, steps=5, generator=0)
    assert equal_states(first, second)


X, Y = make_data()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected a number >= 1"),
        ({"lr": 0.0}, "lr: expected a number > 0"),
        ({"lr": float("nan")}, "lr: expected a finite number"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"batch_size": 41}, "batch_size: expected a number <= 40"),
        ({"clip": 0.0}, "clip"),
        ({"evaluate_every": 0, "evaluate": float}, "evaluate_every"),
        ({"evaluate": 3}, "evaluate: expected a callable"),
        ({"evaluate": lambda model: "good"}, "evaluate: expected a function that returns"),
        ({"optimizer": "adagrad"}, "optimizer: expected one of"),
        ({"optimizer": 3}, "optimizer: expected a name"),
        ({"optimizer": torch.optim.SGD, "lr": 0.1}, "lr, weight_decay: expected None"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)},
            "optimizer: expected parameters of the model",
        ),
        ({"precision": torch.float64}, "precision: expected"),
        ({"data": (X, Y[:-1])}, "data: expected arrays with one first dimension"),
        ({"data": (X, Y, Y)}, "data: expected two tensors"),
        ({"data": (X, torch.tensor(1.0))}, "data: expected arrays with one first dimension"),
        ({"data": (X * float("nan"), Y)}, r"data\[0\]: expected finite numbers"),
        ({"data": ()}, "data: expected at least one array"),
        ({"data": lambda generator: (X, Y), "batch_size": 4}, "batch_size: expected None"),
        ({"loss": None}, "loss: expected either loss or objective"),
        ({"loss": "mse"}, "loss: expected a callable"),
        ({"loss": lambda p, t: p - t}, "loss: expected a function that returns a scalar"),
        ({"loss": None, "objective": 3}, "objective: expected a callable"),
        ({"model": nn.ReLU()}, "model: expected at least one parameter"),
        ({"generator": -1}, "generator"),
    ],
)
def test_bad_arguments_are_named(change, message):
    options = {"model": make_model(), "data": (X, Y), "loss": F.mse_loss, "steps": 5}
    options.update(change)
    with pytest.raises(ValueError, match=message):
        fit(options.pop("model"), options.pop("data"), options.pop("loss"), **options)
