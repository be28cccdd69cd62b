"""Ensembles against their members trained one by one with torch.optim, in double precision."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from enough.models import MLP, ConvNet, Transformer, TransformerConfig
from enough.training import EarlyStopping, Ensemble, cosine

E, N, STEPS, BATCH = 4, 30, 25, 8  # 30 is no multiple of 8: the last batch of an epoch is smaller
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def sequential(generator):
    return nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3))


class Net(nn.Module):
    """Convolutions with batch normalization: no stacked form, buffers to keep apart.

    Without biases before the norm: their gradient is zero but for rounding, which Adam would
    blow up to the size of its epsilon.
    """

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.norm2 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """A causal transformer block on tokens, with scaled dot-product attention."""

    def __init__(self, width=8, heads=2, tokens=5):
        super().__init__()
        self.embed, self.heads = nn.Embedding(tokens, width), heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.mix, self.head = nn.Linear(width, width), nn.Linear(width, tokens)

    def forward(self, tokens):
        h = self.embed(tokens)
        parts = self.qkv(self.norm(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.mix(mixed.transpose(1, 2).flatten(2))
        return self.head(h).transpose(1, 2)


def vectors(generator):
    return torch.randn(N, 6, generator=generator, dtype=torch.float64)


def images(generator):
    return torch.randn(N, 1, 6, 6, generator=generator, dtype=torch.float64)


def tokens(generator):
    return torch.randint(0, 5, (N, 7), generator=generator)


def encoder(generator):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 8), layer, nn.Flatten(1))


class Recurrent(nn.Module):
    """A recurrent kernel: only a loop can run it."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.cell(x.unflatten(1, (3, 2)))[0][:, -1])


def transformer(generator):
    """The book's own, with its logits in the order that cross-entropy wants."""

    class Logits(Transformer):
        def forward(self, tokens):
            return super().forward(tokens).transpose(1, 2)

        def stacked_forward(self, params, buffers, x):
            return super().stacked_forward(params, buffers, x).transpose(2, 3)

    options = {"vocab_size": 5, "context_length": 7, "d_model": 8, "n_layers": 1, "n_heads": 2}
    return Logits(TransformerConfig(**options), generator=generator)


BUILDS = {
    "sequential": (sequential, vectors, ("stacked", "vmap", "loop")),
    "mlp": (lambda g: MLP([6, 9, 3], generator=g), vectors, ("stacked", "vmap", "loop")),
    "mup": (
        lambda g: MLP([6, 9, 3], parameterization="mup", generator=g),
        vectors,
        ("stacked", "vmap", "loop"),
    ),
    "convnet": (
        lambda g: ConvNet(1, 3, (4, 6), generator=g),
        images,
        ("stacked", "vmap", "loop"),
    ),
    "batchnorm": (lambda g: Net(), images, ("vmap", "loop")),
    "attention": (lambda g: Attention(), tokens, ("vmap", "loop")),
    "encoder": (encoder, vectors, ("vmap", "loop")),
    "recurrent": (lambda g: Recurrent(), vectors, ("loop",)),
    "transformer": (transformer, tokens, ("stacked", "loop")),
}
CASES = [(name, mode) for name, (_, _, modes) in BUILDS.items() for mode in modes]


def problem(name, mode="auto", size=E, **more):
    build, inputs, _ = BUILDS[name]
    generator = torch.Generator().manual_seed(4)
    x = inputs(generator)
    ensemble = Ensemble(build, size, seed=11, mode=mode, dtype=torch.float64, **more)
    out = ensemble.predict(x)
    y = torch.randint(0, out.shape[2], (N, *out.shape[3:]), generator=generator)
    return ensemble, x, y


def per_member(value, e):
    if isinstance(value, tuple):
        return tuple(per_member(v, e) for v in value)
    return value[e] if isinstance(value, list) else value


def train_alone(
    module, batches, x, y, steps, kind, *, clip=None, schedule=None, loss=F.cross_entropy, **options
):
    """The oracle: one member, torch's optimizer, torch's clipping."""
    optimizer = OPTIMIZERS[kind](module.parameters(), **options)
    base, losses = optimizer.param_groups[0]["lr"], []
    module.train()
    for step, rows in enumerate(islice(batches, steps)):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = base * schedule(step)
        optimizer.zero_grad()
        value = loss(module(x[rows]), y[rows])
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        losses.append(value.item())
    return module.eval(), np.array(losses)


def compare(ensemble, start, x, y, steps=STEPS, batch_size=BATCH, own_x=False, own_y=False, **fit):
    """Fit the ensemble and every member alone; compare losses, tensors and predictions."""
    ensemble.fit(x, y, steps=steps, batch_size=batch_size, progress=False, **fit)
    kind = fit.pop("optimizer", "adam")
    schedule, loss = fit.pop("schedule", None), fit.pop("loss", F.cross_entropy)
    fit.setdefault("lr", 1e-3)
    predictions = ensemble.predict(x)
    for e, module in enumerate(start):
        x_e, y_e = x[e] if own_x else x, y[e] if own_y else y
        batches = ensemble.batches(e, len(x_e), batch_size or len(x_e))
        options = {name: per_member(value, e) for name, value in fit.items()}
        module, losses = train_alone(
            module, batches, x_e, y_e, steps, kind, schedule=schedule, loss=loss, **options
        )
        np.testing.assert_allclose(ensemble.history_.losses[:, e], losses, rtol=1e-10)
        for tensor, (name, expected) in zip(
            ensemble.parameters_of(e).values(), module.state_dict().items(), strict=True
        ):
            torch.testing.assert_close(tensor, expected, **TOLERANCE, msg=name)
        with torch.no_grad():
            torch.testing.assert_close(predictions[e], module(x_e), **TOLERANCE)
            torch.testing.assert_close(ensemble.member(e)(x_e), module(x_e), **TOLERANCE)


def members(ensemble):
    return [ensemble.member(e) for e in range(len(ensemble))]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_module_in_every_mode(name, mode):
    """Own learning rates, decays and clipping norms, a schedule, AdamW."""
    ensemble, x, y = problem(name, mode)
    compare(
        ensemble,
        members(ensemble),
        x,
        y,
        optimizer="adamw",
        lr=[0.02, 0.01, 0.005, 0.03],
        weight_decay=[0.0, 0.1, 0.3, 0.01],
        clip=[0.3, 1e9, 0.1, 1.0],
        schedule=cosine(STEPS, warmup=5),
    )
    assert ensemble.mode_ == mode


@pytest.mark.parametrize("mode", ["stacked", "loop"])
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "lr": 0.1},
        {"optimizer": "sgd", "lr": [0.1, 0.2, 0.01, 0.05], "momentum": [0.9, 0.0, 0.5, 0.99]},
        {
            "optimizer": "sgd",
            "lr": [0.1, 0.2, 0.01, 0.05],
            "momentum": [0.9, 0.1, 0.5, 0.99],
            "nesterov": True,
            "weight_decay": [0.1, 0.0, 0.01, 0.2],
        },
        {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1, "clip": 0.2},
        {
            "optimizer": "adam",
            "lr": [0.01, 0.02, 0.03, 0.04],
            "betas": ([0.9, 0.5, 0.9, 0.0], 0.99),
            "eps": [1e-8, 1e-8, 1e-2, 1e-8],
        },
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "own betas"],
)
def test_every_optimizer(mode, options):
    ensemble, x, y = problem("sequential", mode)
    compare(ensemble, members(ensemble), x, y, **options)


@pytest.mark.parametrize("mode", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize("batch_size", [BATCH, None], ids=["batches", "all"])
@pytest.mark.parametrize("own", [(True, True), (False, True), (True, False)], ids=str)
def test_data_of_their_own(mode, batch_size, own):
    ensemble, x, y = problem("sequential", mode, chunk_size=3)
    generator = torch.Generator().manual_seed(9)
    if own[0]:
        x = torch.randn(E, N, 6, generator=generator, dtype=torch.float64)
    if own[1]:
        y = torch.randint(0, 3, (E, N), generator=generator)
    compare(
        ensemble,
        members(ensemble),
        x,
        y,
        batch_size=batch_size,
        own_x=own[0],
        own_y=own[1],
        lr=0.01,
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 4])
@pytest.mark.parametrize("name", ["sequential", "batchnorm"])
def test_chunks_change_nothing(name, chunk_size):
    mode = BUILDS[name][2][0]
    ensemble, x, y = problem(name, mode, chunk_size=chunk_size)
    compare(ensemble, members(ensemble), x, y, lr=[0.02, 0.01, 0.005, 0.03], clip=0.5)
    assert ensemble.chunk_size_ == chunk_size


def penalized(prediction, target):
    """A loss that torch does not have, with a mean that no element-wise form gives."""
    return F.cross_entropy(prediction, target) + prediction.logsumexp(1).square().mean().sqrt()


def by_length(prediction, target):
    """A loss with control flow on the data, which vmap refuses."""
    factor = 2.0 if prediction.detach().sum() > 0 else 1.0
    return factor * F.cross_entropy(prediction, target)


@pytest.mark.parametrize("mode", ["stacked", "vmap", "loop"])
@pytest.mark.parametrize(
    "loss",
    [penalized, by_length, nn.CrossEntropyLoss(label_smoothing=0.1), F.cross_entropy],
    ids=["own", "branching", "module", "torch"],
)
def test_any_loss(mode, loss):
    ensemble, x, y = problem("sequential", mode)
    compare(ensemble, members(ensemble), x, y, loss=loss, lr=0.01)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("mse", F.mse_loss),
        ("mae", F.l1_loss),
        ("huber", F.huber_loss),
        ("bce", F.binary_cross_entropy_with_logits),
        ("cross_entropy", F.cross_entropy),
    ],
)
def test_losses_by_name(name, reference):
    ensemble, x, _ = problem("sequential", "stacked")
    start = members(ensemble)
    y = torch.rand(N, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ensemble.fit(x, y, loss=name, steps=STEPS, lr=0.01, batch_size=BATCH)
    for e, module in enumerate(start):
        batches = ensemble.batches(e, N, BATCH)
        _, losses = train_alone(module, batches, x, y, STEPS, "adam", loss=reference, lr=0.01)
        np.testing.assert_allclose(ensemble.history_.losses[:, e], losses, rtol=1e-10)


def stop_alone(module, batches, x, y, held_out, steps, every, rule, **options):
    """The oracle of early stopping: watch, keep the best, stop after the patience is used up."""
    best, best_step, best_state, waited, done = np.inf, 0, None, 0, 0
    optimizer = torch.optim.AdamW(module.parameters(), **options)
    for rows in islice(batches, steps):
        module.train()
        optimizer.zero_grad()
        F.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
        done += 1
        if done % every and done != steps:
            continue
        module.eval()
        with torch.no_grad():
            value = F.cross_entropy(module(held_out[0]), held_out[1]).item()
        if value < best - rule.min_delta:
            best, best_step, best_state, waited = value, done, copy.deepcopy(module), 0
        else:
            waited += 1
        if waited == rule.patience:
            break
    return best, best_step, best_state, done


@pytest.mark.parametrize(
    ("name", "mode", "chunk_size"),
    [(name, mode, None) for name, mode in CASES if name in ("sequential", "batchnorm")]
    + [("sequential", "stacked", 3)],
)
@pytest.mark.parametrize("rule", [EarlyStopping(2), EarlyStopping(3, 0.02)], ids=str)
def test_early_stopping(name, mode, chunk_size, rule):
    more = {} if chunk_size is None else {"chunk_size": chunk_size}
    ensemble, x, y = problem(name, mode, **more)
    start = members(ensemble)
    y = x.flatten(1)[:, :3].argmax(1)  # something that can be learned, for a while
    other = BUILDS[name][1](torch.Generator().manual_seed(2))
    held_out = other, other.flatten(1)[:, :3].argmax(1)
    rates, decays = [0.3, 0.003, 0.1, 0.03], [0.0, 0.1, 0.3, 0.01]
    ensemble.fit(
        x,
        y,
        optimizer="adamw",
        steps=60,
        batch_size=BATCH,
        lr=rates,
        weight_decay=decays,
        validation=held_out,
        evaluate_every=3,
        early_stopping=rule,
    )
    for e, module in enumerate(start):
        best, best_step, expected, done = stop_alone(
            module,
            ensemble.batches(e, N, BATCH),
            x,
            y,
            held_out,
            60,
            3,
            rule,
            lr=rates[e],
            weight_decay=decays[e],
        )
        assert ensemble.n_steps_[e] == done
        assert ensemble.best_step_[e] == best_step
        assert ensemble.best_loss_[e] == pytest.approx(best, rel=1e-10)
        for tensor, wanted in zip(
            ensemble.parameters_of(e).values(), expected.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(tensor, wanted, **TOLERANCE)
        assert np.isfinite(ensemble.history_.losses[:done, e]).all()
        assert np.isnan(ensemble.history_.losses[done:, e]).all()
    assert len(set(ensemble.n_steps_.tolist())) > 1, "the case must stop members at several times"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_multipliers_are_parameter_groups(optimizer):
    """The learning rates of the maximal update parameterization, for a stack of models."""
    ensemble, x, y = problem("mup", "stacked")
    start = members(ensemble)
    multipliers = start[0].learning_rate_multipliers(optimizer)
    multipliers["layers.0.bias"] = 0.5
    decays = {"layers.0.bias": 0.0, "layers.1.bias": 0.0}
    rates = [0.3, 0.1, 0.03, 0.01]
    ensemble.fit(
        x,
        y,
        optimizer=optimizer,
        lr=rates,
        weight_decay=0.1,
        steps=STEPS,
        batch_size=BATCH,
        lr_multipliers=multipliers,
        decay_multipliers=decays,
    )
    for e, module in enumerate(start):
        groups = [
            {
                "params": [p],
                "lr": rates[e] * multipliers[name],
                "weight_decay": 0.1 * decays.get(name, 1.0),
            }
            for name, p in module.named_parameters()
        ]
        reference = OPTIMIZERS[optimizer](groups)
        for rows in islice(ensemble.batches(e, N, BATCH), STEPS):
            reference.zero_grad()
            F.cross_entropy(module(x[rows]), y[rows]).backward()
            reference.step()
        for tensor, p in zip(ensemble.parameters_of(e).values(), module.parameters(), strict=True):
            torch.testing.assert_close(tensor, p.detach(), **TOLERANCE)


def test_a_schedule_a_member():
    ensemble, x, y = problem("sequential", "stacked")
    start = members(ensemble)
    lengths = [10, 20, 30, 40]
    ensemble.fit(
        x,
        y,
        optimizer="sgd",
        lr=0.1,
        steps=STEPS,
        batch_size=BATCH,
        schedule=lambda step: [cosine(n)(step) for n in lengths],
    )
    for e, module in enumerate(start):
        batches = ensemble.batches(e, N, BATCH)
        schedule = cosine(lengths[e])
        _, losses = train_alone(module, batches, x, y, STEPS, "sgd", schedule=schedule, lr=0.1)
        np.testing.assert_allclose(ensemble.history_.losses[:, e], losses, rtol=1e-10)
        expected = 0.1 * schedule(np.arange(STEPS))
        np.testing.assert_allclose(ensemble.history_.learning_rates[:, e], expected, rtol=1e-12)


def test_a_diverging_member_leaves_the_others_alone():
    ensemble, x, _ = problem("sequential", "stacked")
    start = members(ensemble)
    y = x[:, :3].clone()
    rates = [0.01, 1e30, 0.02, 0.01]
    ensemble.fit(x, y, optimizer="sgd", lr=rates, steps=STEPS, batch_size=BATCH)
    assert not np.isfinite(ensemble.history_.losses[-1, 1])
    for e in (0, 2, 3):
        batches = ensemble.batches(e, N, BATCH)
        _, losses = train_alone(start[e], batches, x, y, STEPS, "sgd", loss=F.mse_loss, lr=rates[e])
        np.testing.assert_allclose(ensemble.history_.losses[:, e], losses, rtol=1e-10)


def test_frozen_unused_and_tied_parameters():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.second = nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.fixed = nn.Linear(6, 3).requires_grad_(False)
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            return self.fixed(self.second(torch.tanh(self.first(x))))

    x = vectors(torch.Generator().manual_seed(0))
    y = torch.randint(0, 3, (N,), generator=torch.Generator().manual_seed(1))
    for mode in ("vmap", "loop"):
        ensemble = Ensemble(Tied, E, seed=1, mode=mode, dtype=torch.float64)
        start = members(ensemble)
        compare(ensemble, copy.deepcopy(start), x, y, optimizer="adamw", lr=0.1, weight_decay=0.5)
        after = ensemble.parameters_of(2)
        assert torch.equal(after["fixed.weight"], start[2].fixed.weight)
        assert torch.equal(after["unused.weight"], start[2].unused.weight)
        assert torch.equal(after["first.weight"], after["second.weight"])
        assert not torch.equal(after["first.weight"], start[2].first.weight)
