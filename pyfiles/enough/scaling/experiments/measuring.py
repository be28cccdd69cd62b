"""Scaling curves of our own: byte models, sources of known entropy, digits, theory, batch sizes."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from enough import data
from enough.models import MLP, Transformer, TransformerConfig
from enough.runtime import as_generator, derive_seed, named_generator
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.scaling.fit import Fit, IdentifiabilityWarning
from enough.scaling.hyperparameters import CriticalBatchLaw
from enough.scaling.laws import PowerLaw
from enough.training import Ensemble, schedules

__all__ = [
    "ByteMLP",
    "batch_steps",
    "byte_point",
    "critical_batches",
    "digits_errors",
    "entropy_rate",
    "extrapolate",
    "fit_curves",
    "jackknife_values",
    "leave_one_out_means",
    "log_slope",
    "markov_source",
    "nearest_neighbor_point",
    "power_fit",
    "regression_point",
    "shuffled_explained",
    "source_point",
    "trajectory_miss",
    "unigram_entropy",
    "zipf_error",
]

SYMBOLS = 128  # ASCII; the few bytes beyond it share the last symbol


class ByteMLP(nn.Module):
    """A next-symbol model: embeddings of the last few symbols, perhaps a GELU layer, logits.

    Parameters
    ----------
    symbols : int
        Size of the alphabet.
    context : int
        Number of symbols read.
    embedding : int
        Numbers a symbol.
    width : int
        Hidden units; with 0 the logits are linear in the embeddings.
    generator : torch.Generator or int, optional
        Source of the initial weights.

    Attributes
    ----------
    embedding : torch.nn.Parameter
        Shape (symbols, embedding).
    mlp : MLP
        From the joined embeddings to the logits.
    """

    def __init__(
        self,
        symbols: int,
        context: int,
        embedding: int,
        width: int,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        generator = as_generator(generator)
        widths = [context * embedding, *[width] * (width > 0), symbols]
        # Not ReLU: of a few hidden units one that dies would be missed.
        self.mlp = MLP(widths, activation="gelu", generator=generator)
        table = torch.randn(symbols, embedding, generator=generator)
        self.embedding = nn.Parameter(table)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits.

        Parameters
        ----------
        x : torch.Tensor of int, shape (B, context)
            Symbols.

        Returns
        -------
        torch.Tensor, shape (B, symbols)
            Logits of the next symbol.
        """
        return self.mlp(self.embedding[x].flatten(-2))

    def stacked_forward(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Compute the logits of many members at once.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Parameters by name, members along the first dimension.
        buffers : mapping from str to torch.Tensor
            Buffers by name, stacked alike.
        x : torch.Tensor of int, shape (E, B, context)
            Symbols of each member.

        Returns
        -------
        torch.Tensor, shape (E, B, symbols)
            Logits.
        """
        table = params["embedding"]
        members, symbols, _ = table.shape
        first = symbols * torch.arange(members, device=x.device)[:, None, None]
        rows = F.embedding(x + first, table.flatten(0, 1)).flatten(-2)
        inner = {k.removeprefix("mlp."): v for k, v in params.items() if k.startswith("mlp.")}
        return self.mlp.stacked_forward(inner, buffers, rows)


@functools.lru_cache(maxsize=2)
def _corpus(source: str) -> data.TextCorpus:
    return data.text("stdlib" if source == "shuffled" else source)


def _windows(part: Tensor, count: int, context: int, shuffled: bool, stream: Any) -> Tensor:
    """Windows of context + 1 symbols; shuffled: every symbol from a place of its own."""
    if shuffled:
        picks = torch.randint(len(part), (count, context + 1), generator=stream)
        windows = part[picks].long()
    else:
        windows = data.windows(part, count, context, stream)
    return windows.clamp_(max=SYMBOLS - 1)


def unigram_entropy(source: str = "stdlib") -> float:
    """Return the cross-entropy of the validation bytes under the training bytes' frequencies.

    Parameters
    ----------
    source : str, default "stdlib"
        As in `enough.data.text`; ``"shuffled"`` is the standard library too.

    Returns
    -------
    float
        Nats a byte: what a model without context can reach.
    """
    corpus = _corpus(source)
    train, test = (
        torch.bincount(part.long().clamp(max=SYMBOLS - 1), minlength=SYMBOLS).double()
        for part in (corpus.train, corpus.validation)
    )
    share = (train + 1) / (train + 1).sum()
    return float(-(test / test.sum() * share.log()).sum())


def byte_point(
    width: int,
    *,
    kind: str = "mlp",
    source: str = "stdlib",
    context: int = 8,
    embedding: int = 16,
    layers: int = 2,
    steps: int = 600,
    batch: int = 256,
    lr: float = 4e-3,
    members: int = 4,
    evaluation: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train byte models of one size as one batch and measure them on held-out files.

    Every member has its own windows to learn from and to be measured on, the same at every width,
    so that widths are compared on the same data and the spread over members holds the noise of
    both. No window is learned from twice.

    Parameters
    ----------
    width : int
        Hidden units of the perceptron, or width of the transformer's residual stream.
    kind : {"mlp", "transformer"}, default "mlp"
        The perceptron predicts the last byte of a window, the transformer every byte.
    source : str, default "stdlib"
        As in `enough.data.text`; ``"shuffled"`` draws every byte of a window from a place of
        its own.
    context : int, default 8
        Bytes that a prediction can see.
    embedding : int, default 16
        Numbers a byte (perceptron).
    layers : int, default 2
        Blocks (transformer); heads have 16 numbers, or all of a narrower stream;
        maximal-update parameterization, so that one learning rate serves all widths.
    steps : int, default 600
        Updates of Adam; the learning rate falls linearly to zero after a warm-up of a twentieth.
    batch : int, default 256
        Windows an update.
    lr : float, default 4e-3
        Peak learning rate.
    members : int, default 4
        Models E.
    evaluation : int, default 10000
        Held-out windows of each member.
    seed : int, default 0
        Seed of data and weights.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``params`` (weights outside the embedding), ``tokens`` (windows times predictions a
        window), ``loss`` (nats a byte, one number a member).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(kind, "kind", ("mlp", "transformer"))
    width = check_integer(width, "width", minimum=1)
    corpus, shuffled = _corpus(source), source == "shuffled"

    def windows(part: Tensor, count: int, name: str) -> Tensor:
        streams = [named_generator(seed, name, source, i) for i in range(members)]
        return torch.stack([_windows(part, count, context, shuffled, s) for s in streams])

    train = windows(corpus.train, steps * batch, "train")
    test = windows(corpus.validation, evaluation, "held out")
    if kind == "mlp":
        inputs, targets = train[..., :-1], train[..., -1]
        loss: Any = "cross_entropy"
    else:
        inputs, targets = train[..., :-1], train[..., 1:]
        loss = _sequence_loss

    def build(generator: torch.Generator) -> nn.Module:
        if kind == "mlp":
            return ByteMLP(SYMBOLS, context, embedding, width, generator)
        heads = max(1, width // 16)
        config = TransformerConfig(
            SYMBOLS,
            context,
            d_model=width,
            n_layers=layers,
            n_heads=heads,
            qk_norm=True,
            parameterization="mup",
            base_width=64,
        )
        return Transformer(config, generator=generator)

    trial = build(torch.Generator())
    factors = None if kind == "mlp" else trial.learning_rate_multipliers("adam")
    ensemble = Ensemble(build, members, seed=seed, mode="stacked", device=device)
    ensemble.fit(
        inputs,
        targets,
        loss=loss,
        lr=lr,
        steps=steps,
        batch_size=batch,
        schedule=schedules.linear(steps, warmup=max(1, steps // 20)),
        clip=1.0,
        lr_multipliers=factors,
        per_member=True,
        progress=False,
    )
    aim = test[..., -1:] if kind == "mlp" else test[..., 1:]
    total = torch.zeros(members, dtype=torch.float64)
    for part, goal in zip(test[..., :-1].split(2000, 1), aim.split(2000, 1), strict=True):
        logits = ensemble.predict(part, per_member=True).float().reshape(-1, SYMBOLS)
        nll = F.cross_entropy(logits, goal.flatten(), reduction="none")
        total += nll.reshape(members, -1).double().sum(1)
    first = ensemble.member(0)
    size = sum(p.numel() for name, p in first.named_parameters() if "embedding" not in name)
    return {
        "params": size,
        "tokens": steps * batch * targets[0, 0].numel(),
        "loss": (total / aim[0].numel()).tolist(),
    }


def _sequence_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), target.flatten())


def markov_source(
    symbols: int, *, strength: float = 1.0, decay: float = 1.0, seed: int = 0
) -> Tensor:
    r"""Return the transition matrix of a random Markov source whose structure has a power law.

    The logits are :math:`s \sum_i i^{-a} u_i v_i^\top` with random orthogonal :math:`u_i`,
    :math:`v_i` of squared length K: a model of rank w misses a part that falls like
    :math:`w^{1-2a}`.

    Parameters
    ----------
    symbols : int
        Size K of the alphabet.
    strength : float, default 1.0
        Factor s of the logits.
    decay : float, default 1.0
        Exponent a of the singular values.
    seed : int, default 0
        Seed of the directions.

    Returns
    -------
    torch.Tensor of float64, shape (K, K)
        Probabilities of the next symbol, one row a present symbol.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    symbols = check_integer(symbols, "symbols", minimum=2)
    strength = check_number(strength, "strength", minimum=0.0)
    decay = check_number(decay, "decay", minimum=0.0)
    stream = named_generator(seed, "markov source")
    u, v = torch.linalg.qr(
        torch.randn(2, symbols, symbols, dtype=torch.float64, generator=stream)
    ).Q
    values = torch.arange(1, symbols + 1, dtype=torch.float64) ** -decay
    return (strength * symbols * (u * values) @ v.mT).softmax(-1)


def entropy_rate(transition: Tensor) -> tuple[float, Tensor]:
    """Return the entropy rate of a Markov source and its stationary distribution.

    Parameters
    ----------
    transition : torch.Tensor, shape (K, K)
        Probabilities of the next symbol, one row a present symbol, all positive.

    Returns
    -------
    rate : float
        Nats a symbol.
    stationary : torch.Tensor of float64, shape (K,)
        The distribution that a step leaves alone.
    """
    p = torch.as_tensor(transition, dtype=torch.float64)
    size = len(p)
    system = torch.cat([p.mT - torch.eye(size, dtype=p.dtype), torch.ones(1, size, dtype=p.dtype)])
    goal = torch.zeros(size + 1, 1, dtype=p.dtype)
    goal[-1] = 1.0
    stationary = torch.linalg.lstsq(system, goal).solution[:, 0]
    return float(stationary @ torch.special.entr(p).sum(-1)), stationary


def source_point(
    width: int,
    *,
    symbols: int = 256,
    steps: int = 400,
    lr: float = 3e-2,
    members: int = 5,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train models of one width on Markov sources of known entropy, in the limit of endless data.

    Member i has a source of its own, the same at every width. Its loss in training and at the end
    is the expectation over the source, so that nothing is sampled: what is left above the entropy
    is the fault of the width and of the optimizer.

    Parameters
    ----------
    width : int
        Numbers by which the model describes the present symbol: logits of rank w.
    symbols : int, default 256
        Size of the alphabet.
    steps : int, default 400
        Updates of Adam.
    lr : float, default 3e-2
        Peak learning rate; it falls linearly to zero.
    members : int, default 5
        Sources, one model each.
    seed : int, default 0
        Seed of sources and weights.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``params``, ``loss`` and ``entropy`` (nats a symbol, one number a member).
    """
    width = check_integer(width, "width", minimum=1)
    sources = [markov_source(symbols, seed=derive_seed(seed, "source", i)) for i in range(members)]
    rates, stationary = zip(*(entropy_rate(p) for p in sources), strict=True)
    # Rows weighted by the stationary distribution; the mean over rows is then the expectation.
    joint = torch.stack([p * s[:, None] for p, s in zip(sources, stationary, strict=True)])
    every = torch.arange(symbols)[:, None]
    ensemble = Ensemble(
        lambda g: ByteMLP(symbols, 1, width, 0, g), members, seed=seed, mode="stacked",
        device=device,
    )  # fmt: skip
    ensemble.fit(
        every.expand(members, -1, -1), symbols * joint, loss=_expected_loss, lr=lr, steps=steps,
        schedule=schedules.linear(steps), per_member=True, progress=False,
    )  # fmt: skip
    q = ensemble.predict(every, per_member=False).double().cpu().log_softmax(-1)
    return {
        "params": sum(p.numel() for p in ensemble.member(0).parameters()),
        "loss": (-(joint * q).sum((1, 2))).tolist(),
        "entropy": list(rates),
    }


def _expected_loss(logits: Tensor, joint: Tensor) -> Tensor:
    return -(joint * logits.log_softmax(-1)).sum(-1).mean()


def digits_errors(
    sizes: Sequence[int],
    *,
    draws: int = 100,
    networks: int = 12,
    width: int = 64,
    steps: int = 400,
    lr: float = 1e-2,
    shuffled: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Measure test error against training samples on digits, for two kinds of model.

    Every draw permutes the images; training sets are nested and the test set is all that the
    largest leaves over.

    Parameters
    ----------
    sizes : sequence of int
        Training samples, the largest below 1797.
    draws : int, default 100
        Permutations of the images.
    networks : int, default 12
        Of these, the first ones that train a perceptron too; 0 leaves it out.
    width : int, default 64
        Hidden units of the perceptron.
    steps : int, default 400
        Updates of Adam, at most 64 images each.
    lr : float, default 1e-2
        Peak learning rate; it falls linearly to zero.
    shuffled : bool, default False
        Permute all labels.
    seed : int, default 0
        Seed of permutations and weights.
    device : str, default "cpu"
        Where to train.

    Returns
    -------
    dict of str to numpy.ndarray
        Shares of wrong labels: ``"nearest neighbor"`` (sizes, draws) and, unless left out,
        ``"perceptron"`` (sizes, networks).

    Raises
    ------
    ValueError
        If a size leaves no test image.
    """
    sizes = [check_integer(n, "sizes", minimum=1, maximum=1796) for n in sizes]
    networks = check_integer(networks, "networks", minimum=0, maximum=draws)
    images, most = data.digits(), max(sizes)
    neighbors, x, y = [], [], []
    for i in range(draws):
        order = torch.randperm(len(images.y), generator=named_generator(seed, "digits", i))
        labels = images.y[order]
        if shuffled:
            stream = named_generator(seed, "labels", i)
            labels = labels[torch.randperm(len(labels), generator=stream)]
        inputs = images.x[order]
        distance = torch.cdist(inputs[most:], inputs[:most])
        guesses = [labels[distance[:, :n].argmin(-1)] for n in sizes]
        neighbors.append([(g != labels[most:]).double().mean().item() for g in guesses])
        if i < networks:
            x.append(inputs)
            y.append(labels)
    found = {"nearest neighbor": np.array(neighbors).T}
    if not networks:
        return found
    inputs, labels, rows = torch.stack(x), torch.stack(y), []
    for n in sizes:
        ensemble = Ensemble(
            lambda g: MLP([64, width, 10], generator=g), networks, seed=seed, mode="stacked",
            device=device,
        )  # fmt: skip
        ensemble.fit(
            inputs[:, :n], labels[:, :n], lr=lr, steps=steps, batch_size=min(n, 64),
            schedule=schedules.linear(steps), per_member=True, progress=False,
        )  # fmt: skip
        guess = ensemble.predict(inputs[:, most:], per_member=True).argmax(-1)
        rows.append((guess != labels[:, most:]).double().mean(-1).numpy())
    return found | {"perceptron": np.stack(rows)}


def zipf_error(samples: Any, alpha: float) -> np.ndarray:
    r"""Return the expected error of a memorizer on items with Zipf frequencies.

    :math:`E_n = \sum_i p_i (1 - p_i)^n` with :math:`p_i \propto i^{-(1+\alpha)}` over all
    integers: the chance that the next item was not among n before. The first 10⁵ items are summed,
    the others integrated.

    Parameters
    ----------
    samples : array_like, shape (m,)
        Training samples n.
    alpha : float
        Exponent, above 0.

    Returns
    -------
    numpy.ndarray, shape (m,)
        Errors; for large n they fall like :math:`n^{-\alpha/(1+\alpha)}`.

    Raises
    ------
    ValueError
        If ``alpha`` is not positive.
    """
    alpha = check_number(alpha, "alpha", above=0.0)
    n = np.atleast_1d(np.asarray(samples, dtype=np.float64))[:, None]
    items, end = np.arange(1.0, 1e5 + 1), 1e5 + 0.5
    weights = items ** -(1 + alpha)
    total = weights.sum() + end**-alpha / alpha
    p = weights / total
    head = (p * np.exp(n * np.log1p(-p))).sum(-1)
    # Beyond: integrate over t = log(i / end), i^-(1+alpha) di = end^-alpha exp(-alpha t) dt.
    t, w = np.polynomial.legendre.leggauss(400)
    t, w = (t + 1) * 30 / alpha / 2, w * 30 / alpha / 2
    rest = np.exp(-alpha * t) * end**-alpha / total
    rare = (end * np.exp(t)) ** -(1 + alpha) / total
    return head + (w * rest * np.exp(n * np.log1p(-rare))).sum(-1)


def nearest_neighbor_point(
    dimension: int,
    samples: Sequence[int],
    *,
    trials: int = 10,
    tests: int = 4000,
    seed: int = 0,
) -> np.ndarray:
    """Measure the error of nearest-neighbor regression of a smooth function on the unit cube.

    Parameters
    ----------
    dimension : int
        Dimension d.
    samples : sequence of int
        Training points n.
    trials : int, default 10
        Draws of function and points.
    tests : int, default 4000
        Test points a trial.
    seed : int, default 0
        Seed.

    Returns
    -------
    numpy.ndarray, shape (samples, trials)
        Mean squared errors.
    """
    dimension = check_integer(dimension, "dimension", minimum=1)
    errors = np.empty((len(samples), trials))
    for trial in range(trials):
        rng = np.random.default_rng(derive_seed(seed, "neighbor", dimension, trial))
        waves, phase = rng.normal(size=(dimension, 8)) * 2, rng.uniform(0, 2 * np.pi, 8)
        x, test = rng.random((max(samples), dimension)), rng.random((tests, dimension))
        y, goal = (np.cos(z @ waves + phase).sum(-1) / 2 for z in (x, test))
        for i, n in enumerate(samples):
            closest = cKDTree(x[:n]).query(test)[1]
            errors[i, trial] = np.square(y[closest] - goal).mean()
    return errors


def regression_point(
    samples: Sequence[int], *, dimension: int = 10, trials: int = 50, seed: int = 0
) -> np.ndarray:
    """Measure the excess error of least squares on a linear target with noise of variance 1.

    Parameters
    ----------
    samples : sequence of int
        Training points n, each at least two more than the dimension.
    dimension : int, default 10
        Dimension d.
    trials : int, default 50
        Draws.
    seed : int, default 0
        Seed.

    Returns
    -------
    numpy.ndarray, shape (samples, trials)
        Excess squared errors; their mean is d / (n − d − 1).
    """
    errors = np.empty((len(samples), trials))
    stream = named_generator(seed, "regression")
    for i, n in enumerate(samples):
        x = torch.randn(trials, n, dimension, dtype=torch.float64, generator=stream)
        noise = torch.randn(trials, n, 1, dtype=torch.float64, generator=stream)
        weights = torch.linalg.solve(x.mT @ x, x.mT @ noise)
        errors[i] = weights.square().sum((1, 2)).numpy()
    return errors


def batch_steps(
    batches: Sequence[int],
    levels: Sequence[float],
    *,
    modes: int = 32,
    decay: float = 1.5,
    noise: float = 1.0,
    rates: int = 24,
    steps: int = 4000,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    r"""Count the steps of SGD to reach levels of the loss, by the recursion of its mean.

    Linear regression with Gaussian inputs of covariance :math:`\mathrm{diag}(\lambda)`,
    :math:`\lambda_i = i^{-a}`, and label noise :math:`\sigma^2`: the mean squared error
    :math:`c_i` of weight i after a step of rate :math:`\eta` on B fresh samples is

    .. math::
        (1 - \eta\lambda_i)^2 c_i
        + \frac{\eta^2}{B}\Bigl(\lambda_i^2 c_i + \lambda_i \sum_j \lambda_j c_j
        + \lambda_i \sigma^2\Bigr),

    exactly. Each batch size is given the best constant rate of a grid for each level.

    Parameters
    ----------
    batches : sequence of int
        Batch sizes B.
    levels : sequence of float
        Levels of the excess loss as shares of its start, in (0, 1).
    modes : int, default 32
        Number of weights.
    decay : float, default 1.5
        Exponent a; 0 makes all directions equal.
    noise : float, default 1.0
        Label noise :math:`\sigma^2`; the excess loss starts at 1/2.
    rates : int, default 24
        Learning rates a batch size, spaced evenly in the logarithm over a factor of 1000 below
        the largest that is stable.
    steps : int, default 4000
        Longest run.
    draws : int, default 10
        Draws of the first errors :math:`c_i`.
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    dict of str to numpy.ndarray
        ``steps`` (draws, levels, batches), interpolated between whole steps in the logarithm of
        the loss and infinite where no rate gets there, and ``loss`` (levels,), the excess loss.
    """
    level = torch.as_tensor(levels, dtype=torch.float64)
    size = torch.as_tensor(batches, dtype=torch.float64)[:, None, None]
    lam = torch.arange(1, modes + 1, dtype=torch.float64) ** -decay
    stream = named_generator(seed, "first errors")
    first = torch.rand(draws, 1, 1, modes, dtype=torch.float64, generator=stream) + 0.5
    first = first / (first * lam).sum(-1, keepdim=True)
    grid = torch.logspace(-3, 0, rates, dtype=torch.float64)[:, None]
    rate = 2 * grid / (lam[0] * (1 + 1 / size) + lam.sum() / size)  # (batches, rates, 1)
    c = first.expand(draws, len(batches), rates, modes)
    keep = (1 - rate * lam).square() + rate.square() * lam.square() / size
    stir = rate.square() * lam / size
    before = torch.zeros(draws, len(batches), rates, dtype=torch.float64)
    best = torch.full((len(level), draws, len(batches), rates), torch.inf, dtype=torch.float64)
    goal = level.log()[:, None, None, None]
    for step in range(steps):
        c = keep * c + stir * ((c * lam).sum(-1, keepdim=True) + noise)
        now = (c * lam).sum(-1).log()
        crossing = (now <= goal) & best.isinf()
        if crossing.any():
            inside = (before - goal) / (before - now).clamp_min(1e-300)
            best = torch.where(crossing, step + inside, best)
        before = now
    return {
        "steps": best.amin(-1).transpose(0, 1).numpy(),
        "loss": (level / 2).numpy(),
    }


def log_slope(x: Any, y: Any) -> np.ndarray:
    """Return the slope of log y against log x by least squares, column by column.

    Parameters
    ----------
    x : array_like, shape (m,)
        Positive numbers.
    y : array_like, shape (m, ...)
        Positive numbers.

    Returns
    -------
    numpy.ndarray, shape (...)
        Slopes.
    """
    u = np.log(np.asarray(x, dtype=np.float64))
    u = u - u.mean()
    return np.tensordot(u, np.log(np.asarray(y, dtype=np.float64)), 1) / math.fsum(u * u)


def power_fit(x: Any, loss: Any, *, floor: bool = True, starts: int = 2) -> tuple[Fit, bool]:
    """Fit a power law by least squares of the logarithms, without a warning.

    Parameters
    ----------
    x : array_like, shape (m,)
        Sizes.
    loss : array_like, shape (m,)
        Losses.
    floor : bool, default True
        Whether the law has a constant term.
    starts : int, default 2
        Starts of the fit; more than one keep it from a local optimum.

    Returns
    -------
    fit : Fit
        The fit.
    identified : bool
        Whether the data determine all of its parameters.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentifiabilityWarning)
        fit = PowerLaw.fit({"x": x, "loss": loss}, huber_delta=math.inf, floor=floor, starts=starts)
    return fit, not fit.not_identified


def fit_curves(x: Any, losses: Any, ahead: float) -> pd.DataFrame:
    """Fit each member's curve with and without a floor and predict a larger size.

    Parameters
    ----------
    x : array_like, shape (m,)
        Sizes of the fitted runs.
    losses : array_like, shape (m, members)
        Their losses.
    ahead : float
        The size to predict.

    Returns
    -------
    pandas.DataFrame
        One row a member: E, A, alpha (with floor), identified, predicted (with floor),
        predicted_pure (without), and aic_gain, the criterion of Akaike without the floor minus that
        with it; the criterion is m ln(RSS/m) + 2k with k counting the variance.
    """
    rows = []
    for curve in np.asarray(losses, dtype=np.float64).T:
        (full, identified), (pure, _) = (power_fit(x, curve, floor=f) for f in (True, False))
        m = len(curve)
        scores = [m * math.log(2 * f.objective / m) + 2 * k for f, k in ((full, 4), (pure, 3))]
        rows.append(
            {
                **full.params,
                "identified": identified,
                "predicted": float(full.predict({"x": [ahead]})[0]),
                "predicted_pure": float(pure.predict({"x": [ahead]})[0]),
                "aic_gain": scores[1] - scores[0],
            }
        )
    return pd.DataFrame(rows)


def leave_one_out_means(values: Any) -> np.ndarray:
    """Return the means over members with each member left out in turn.

    Parameters
    ----------
    values : array_like, shape (m, members)
        One column a member, at least two.

    Returns
    -------
    numpy.ndarray, shape (m, members)
        Column i is the mean of all columns but i.
    """
    values = np.asarray(values, dtype=np.float64)
    return (values.sum(1, keepdims=True) - values) / (values.shape[1] - 1)


def jackknife_values(whole: float, left_out: Any) -> np.ndarray:
    """Return Tukey's pseudo-values of a statistic of all members.

    Their mean corrects the statistic's bias to first order, and their Student-t interval is the
    jackknife's. For a mean they are the members' own values.

    Parameters
    ----------
    whole : float
        The statistic of all members.
    left_out : array_like, shape (members,)
        The statistic with each member left out.

    Returns
    -------
    numpy.ndarray, shape (members,)
        Pseudo-values.
    """
    left_out = np.asarray(left_out, dtype=np.float64)
    return len(left_out) * whole - (len(left_out) - 1) * left_out


def shuffled_explained(
    x: Any, loss: Any, *, permutations: int = 20, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Return the share of variance that the law explains, in order and after permutations.

    Parameters
    ----------
    x : array_like, shape (m,)
        Sizes.
    loss : array_like, shape (m,)
        Losses.
    permutations : int, default 20
        Number of permutations.
    seed : int, default 0
        Seed.

    Returns
    -------
    explained : float
        Share of the variance of the logarithm of the loss in the true order.
    shuffled : numpy.ndarray, shape (permutations,)
        The same with the losses permuted.
    """
    x, loss = (np.asarray(v, dtype=np.float64) for v in (x, loss))
    rng = np.random.default_rng(derive_seed(seed, "shuffled losses"))
    shuffled = [rng.permutation(loss) for _ in range(permutations)]
    share = _law_explains(x, np.stack([loss, *shuffled]))
    return float(share[0]), share[1:]


def _law_explains(x: np.ndarray, losses: np.ndarray, alphas: int = 1000) -> np.ndarray:
    """Share of the variance of each row's logarithm that E + A x^-alpha explains, E and A >= 0.

    A search over alpha, with E and A by least squares of the relative errors. Many starts of a
    fit would creep here: the best law for shuffled losses is often a constant.
    """
    y = np.log(losses)
    total = np.square(y - y.mean(1, keepdims=True)).sum(1)
    best = np.zeros(len(y))  # a constant explains nothing
    for alpha in np.geomspace(0.01, 5.0, alphas):
        power = (x / x.max()) ** -alpha
        design = np.stack([np.ones_like(power), power], -1) / losses[..., None]
        moments = np.einsum("rmi,rmj->rij", design, design)
        both = np.linalg.solve(moments, design.sum(1)[..., None])[..., 0]
        pure = design[..., 1].sum(1) / moments[:, 1, 1]
        free = (both >= 0).all(1)
        floor, factor = np.where(free, both[:, 0], 0.0), np.where(free, both[:, 1], pure)
        guess = np.log(floor[:, None] + factor[:, None] * power)
        best = np.maximum(best, 1 - np.square(y - guess).sum(1) / total)
    return best


def _explained(y: np.ndarray, guess: np.ndarray) -> float:
    return float(1 - np.square(y - guess).sum() / np.square(y - y.mean()).sum())


def extrapolate(x: Any, errors: Any) -> dict[str, float]:
    """Fit a power law and an exponential to all but the last size and predict the last.

    Both have two parameters and are fitted by least squares of the logarithms.

    Parameters
    ----------
    x : array_like, shape (m,)
        Sizes, the largest last.
    errors : array_like, shape (m,)
        Errors.

    Returns
    -------
    dict of str to float
        ``slope`` and ``explained`` (share of the variance of the logarithm) of the power law, and
        ``power`` and ``exponential``, the absolute logarithms of predicted over measured error at
        the last size.
    """
    x, y = np.asarray(x, dtype=np.float64), np.log(np.asarray(errors, dtype=np.float64))
    power, decay = np.polyfit(np.log(x[:-1]), y[:-1], 1), np.polyfit(x[:-1], y[:-1], 1)
    return {
        "slope": float(power[0]),
        "explained": _explained(y[:-1], np.polyval(power, np.log(x[:-1]))),
        "power": abs(float(np.polyval(power, math.log(x[-1])) - y[-1])),
        "exponential": abs(float(np.polyval(decay, x[-1]) - y[-1])),
    }


def critical_batches(batches: Sequence[int], result: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Fit the hyperbola of steps against batch size at every level of every draw.

    Parameters
    ----------
    batches : sequence of int
        Batch sizes.
    result : mapping
        What `batch_steps` returned.

    Returns
    -------
    pandas.DataFrame
        Columns draw, loss, S_min, B_crit and explained (share of the variance of the logarithm of
        the steps).
    """
    rows = []
    for draw, levels in enumerate(result["steps"]):
        for loss, steps in zip(result["loss"], levels, strict=True):
            fit = CriticalBatchLaw.fit({"batch": batches, "steps": steps})
            share = _explained(np.log(steps), np.log(fit.loss))
            rows.append({"draw": draw, "loss": loss, **fit.params, "explained": share})
    return pd.DataFrame(rows)


def trajectory_miss(
    batches: Sequence[int],
    result: Mapping[str, np.ndarray],
    held_out: Sequence[int],
    *,
    irreducible: float = 0.5,
    early: int = 4,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the loss trajectory at batch sizes that were left out of the hyperbolas.

    Parameters
    ----------
    batches : sequence of int
        Batch sizes.
    result : mapping
        What `batch_steps` returned.
    held_out : sequence of int
        Batch sizes to predict; the hyperbola of each level is fitted to the others.
    irreducible : float, default 0.5
        Loss below which no model gets; added to the excess loss.
    early : int, default 4
        Levels that the baseline sees: a power law in the steps, fitted to the first levels of the
        held-out batch size itself.

    Returns
    -------
    miss, baseline : numpy.ndarray, shape (draws,)
        Mean relative errors of the loss, over held-out batch sizes and the levels after the first
        ``early``.
    """
    batches = np.asarray(batches)
    seen, excess = ~np.isin(batches, held_out), np.asarray(result["loss"])
    total = excess + irreducible
    miss, baseline = [], []
    for levels in result["steps"]:
        fits = [
            CriticalBatchLaw.fit({"batch": batches[seen], "steps": row[seen]}) for row in levels
        ]
        ours, theirs = [], []
        for b in held_out:
            predicted = np.array([fit.predict({"batch": [b]})[0] for fit in fits])
            actual = np.log(levels[:, batches == b][:, 0])
            guess = np.exp(np.interp(actual, np.log(predicted), np.log(excess))) + irreducible
            line = np.polyfit(actual[:early], np.log(excess[:early]), 1)
            other = np.exp(np.polyval(line, actual)) + irreducible
            ours.append(np.abs(guess / total - 1)[early:].mean())
            theirs.append(np.abs(other / total - 1)[early:].mean())
        miss.append(np.mean(ours))
        baseline.append(np.mean(theirs))
    return np.array(miss), np.array(baseline)
