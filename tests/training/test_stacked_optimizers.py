"""Stacked optimizers against torch.optim on each member alone, in double precision."""

import pytest
import torch

from enough.training.optimizers import StackedAdam, StackedSGD, clip_members

MEMBERS, UPDATES = 4, 25
SHAPES = [(3, 2), (3,), (), (2, 1, 2)]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


LR = tensor(0.1, 0.01, 0.3, 0.05)
DECAY = tensor(0.0, 0.1, 0.01, 0.3)
MOMENTUM = tensor(0.9, 0.5, 0.1, 0.99)
BETA = tensor(0.9, 0.8, 0.9, 0.5)
EPS = tensor(1e-8, 1e-3, 1e-8, 1e-1)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)

    def draw():
        return [torch.randn(MEMBERS, *s, dtype=torch.float64, generator=generator) for s in SHAPES]

    return draw(), [draw() for _ in range(UPDATES)]


def one(value, e):
    if isinstance(value, tuple):
        return tuple(one(v, e) for v in value)
    return value[e].item() if isinstance(value, torch.Tensor) else value


def alone(kind, problem, e, **options):
    start, grads = problem
    params = [torch.nn.Parameter(p[e].clone()) for p in start]
    optimizer = kind(params, **{name: one(value, e) for name, value in options.items()})
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = g[e].clone()
        optimizer.step()
    return params


def compare(problem, make, kind, **options):
    start, grads = problem
    params = [p.clone() for p in start]
    optimizer = make(params, **options)
    for step in grads:
        optimizer.step(step)
    for e in range(MEMBERS):
        for mine, theirs in zip(params, alone(kind, problem, e, **options), strict=True):
            torch.testing.assert_close(mine[e], theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lr", [0.1, LR], ids=["one lr", "own lr"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, DECAY], ids=["none", "one", "own"])
@pytest.mark.parametrize(
    ("momentum", "nesterov"),
    [(0.0, False), (0.9, False), (0.9, True), (MOMENTUM, False), (MOMENTUM, True)],
)
def test_sgd(problem, lr, weight_decay, momentum, nesterov):
    options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    compare(problem, StackedSGD, torch.optim.SGD, nesterov=nesterov, **options)


@pytest.mark.parametrize("decoupled", [False, True], ids=["adam", "adamw"])
@pytest.mark.parametrize("lr", [0.1, LR], ids=["one lr", "own lr"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1, DECAY], ids=["none", "one", "own"])
@pytest.mark.parametrize(
    ("betas", "eps"),
    [((0.9, 0.999), 1e-8), ((BETA, 0.99), 1e-8), ((0.9, BETA), EPS)],
    ids=["one", "own beta", "own all"],
)
def test_adam(problem, decoupled, lr, weight_decay, betas, eps):
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam

    def make(params, **options):
        return StackedAdam(params, decoupled=decoupled, **options)

    compare(problem, make, kind, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("lr", [0.05, LR], ids=["one lr", "own lr"])
def test_multipliers_are_parameter_groups(problem, kind, lr):
    start, grads = problem
    rates, decays = [1.0, 0.5, 2.0, 1.0], [1.0, 0.0, 0.0, 2.0]
    make = StackedSGD if kind == "sgd" else StackedAdam
    extra = {} if kind == "sgd" else {"decoupled": kind == "adamw"}
    params = [p.clone() for p in start]
    optimizer = make(
        params, lr=lr, weight_decay=0.1, lr_multipliers=rates, decay_multipliers=decays, **extra
    )
    for step in grads:
        optimizer.step(step)
    theirs = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    for e in range(MEMBERS):
        own = [torch.nn.Parameter(p[e].clone()) for p in start]
        groups = [
            {"params": [p], "lr": one(lr, e) * rate, "weight_decay": 0.1 * decay}
            for p, rate, decay in zip(own, rates, decays, strict=True)
        ]
        reference = theirs(groups)
        for step in grads:
            for p, g in zip(own, step, strict=True):
                p.grad = g[e].clone()
            reference.step()
        for mine, other in zip(params, own, strict=True):
            torch.testing.assert_close(mine[e], other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [StackedSGD, StackedAdam])
def test_the_memory_layout_of_gradients_does_not_matter(problem, make):
    start, grads = problem
    plain, strided = [p.clone() for p in start], [p.clone() for p in start]
    first, second = make(plain, lr=0.1), make(strided, lr=0.1)
    for step in grads:
        first.step(step)
        second.step([g.transpose(0, -1).contiguous().transpose(0, -1) for g in step])
    for a, b in zip(plain, strided, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_members_that_leave_do_not_disturb_the_others(problem, kind):
    start, grads = problem
    options = {"lr": LR, "weight_decay": DECAY}
    if kind == "sgd":
        make, options["momentum"] = StackedSGD, MOMENTUM
    else:
        make, options["betas"] = StackedAdam, (BETA, 0.99)
        options["decoupled"] = kind == "adamw"
    whole = [p.clone() for p in start]
    optimizer = make(whole, **options)
    for step in grads:
        optimizer.step(step)

    params = [p.clone() for p in start]
    optimizer = make(params, **options)
    keep = torch.tensor([1, 3])
    for t, step in enumerate(grads):
        if t == 10:
            params = [p[keep] for p in params]
            optimizer.select(params, keep)
        optimizer.step([g[keep] for g in step] if t >= 10 else step)
    for some, every in zip(params, whole, strict=True):
        torch.testing.assert_close(some, every[keep], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_parameter_without_gradient_is_left_alone(problem, kind):
    start, grads = problem
    make = StackedSGD if kind == "sgd" else StackedAdam
    theirs = torch.optim.SGD if kind == "sgd" else torch.optim.Adam
    params = [p.clone() for p in start]
    optimizer = make(params, lr=0.1, weight_decay=0.1)
    own = [torch.nn.Parameter(p[0].clone()) for p in start]
    reference = theirs(own, lr=0.1, weight_decay=0.1)
    for t, step in enumerate(grads):
        used = [g if i != 1 or t % 2 else None for i, g in enumerate(step)]
        optimizer.step(used)
        for p, g in zip(own, used, strict=True):
            p.grad = None if g is None else g[0].clone()
        reference.step()
    for mine, other in zip(params, own, strict=True):
        torch.testing.assert_close(mine[0], other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [1.5, tensor(0.5, 1e9, 2.0, torch.inf)], ids=["one", "own"])
def test_clipping_is_done_member_by_member(problem, limit):
    _, grads = problem
    clipped = clip_members(grads[0], limit)
    for e in range(MEMBERS):
        params = [torch.nn.Parameter(torch.zeros_like(g[e])) for g in grads[0]]
        for p, g in zip(params, grads[0], strict=True):
            p.grad = g[e].clone()
        torch.nn.utils.clip_grad_norm_(params, one(limit, e))
        for mine, p in zip(clipped, params, strict=True):
            torch.testing.assert_close(mine[e], p.grad, rtol=1e-13, atol=1e-13)


def test_schedule_factors_scale_the_learning_rate(problem):
    start, grads = problem
    factors = tensor(1.0, 0.5, 0.1, 2.0)
    scaled, own = [p.clone() for p in start], [p.clone() for p in start]
    first = StackedAdam(scaled, lr=0.1, weight_decay=0.1, decoupled=True)
    second = StackedAdam(own, lr=0.1 * factors, weight_decay=0.1, decoupled=True)
    for step in grads:
        first.step(step, factors)
        second.step(step)
    for a, b in zip(scaled, own, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
