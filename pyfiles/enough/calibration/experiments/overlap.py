"""Overlapping classes: temperature scaling against Mixup, on a line and with networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from scipy.special import entr
from torch import Tensor
from torch.nn import functional as F

from enough.calibration.errors import expected_calibration_error
from enough.calibration.overlap import (
    NearestNeighborInterpolator,
    OverlappingPairs,
    gaussian_bayes_error,
    gaussian_log_odds,
    mixup_optimal_kl,
    published_temperature,
    temperature_scaled_kl,
    uniform_kl,
)
from enough.calibration.temperature import TemperatureScaling
from enough.data import digits
from enough.models import MLP
from enough.runtime import derive_seed, exact_device, named_generator, resolve_device
from enough.runtime.validation import check_integer, check_number, check_tensor
from enough.training import Ensemble
from enough.training.sweep_points import map_points

__all__ = [
    "FITS",
    "calibrated_control_point",
    "noisy_digits_point",
    "noisy_digits_table",
    "overlap_gaussian_point",
    "overlap_gaussian_table",
    "overlap_line_point",
    "overlap_line_table",
    "train_mixup",
]

#: The columns of every comparison: the logits as trained, with the temperature as published
#: code fits it, and with the best temperature.
FITS = ("raw", "published", "optimal")


def overlap_line_point(
    n_classes: int,
    overlap: float,
    spacing: float | None = None,
    density: float = 40.0,
    draws: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a nearest-neighbor interpolator on overlapping pairs at its best temperature.

    Parameters
    ----------
    n_classes : int
        k, even.
    overlap : float
        ρ in [0, 1].
    spacing : float, optional
        Distance between pairs. Default: k.
    density : float, default 40.0
        There are ⌈density · k log k⌉ training points; above 0.
    draws : int, default 10
        Independent training sets, at least 1.
    seed : int, default 0
        Points with different k, ρ or S draw independently of each other.

    Returns
    -------
    dict
        ``kl`` (draws,), exact for each training set, in nats; ``n_samples``; ``theory`` and
        ``uniform``, the closed forms; ``mixup``, the error of the minimizer of the Mixup loss.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    pairs = OverlappingPairs(n_classes, overlap, spacing)
    density = check_number(density, "density", above=0.0)
    draws = check_integer(draws, "draws", minimum=1)
    k = pairs.n_classes
    n_samples = math.ceil(density * k * math.log(k))
    where = (k, str(pairs.overlap), str(pairs.spacing))
    kl = []
    for draw in range(draws):
        x, y = pairs.sample(n_samples, named_generator(seed, "overlap line", *where, draw))
        kl.append(NearestNeighborInterpolator().fit(x, y, k).oracle_kl(pairs))
    return {
        "kl": np.array(kl),
        "n_samples": n_samples,
        "theory": temperature_scaled_kl(k, pairs.overlap),
        "uniform": uniform_kl(k, pairs.overlap),
        "mixup": mixup_optimal_kl(k, pairs.overlap, pairs.spacing).kl,
    }


def overlap_line_table(
    n_classes: Sequence[int] = (2, 4, 16, 64, 256, 1024),
    overlaps: Sequence[float] = (0.0, 0.5, 1.0),
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run `overlap_line_point` over a grid.

    Parameters
    ----------
    n_classes : sequence of int, default (2, 4, 16, 64, 256, 1024)
        Numbers of classes.
    overlaps : sequence of float, default (0.0, 0.5, 1.0)
        Overlaps ρ.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `overlap_line_point`.

    Returns
    -------
    pandas.DataFrame
        One row a training set: ``n_classes``, ``overlap``, ``draw``, and what
        `overlap_line_point` returns.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    frames = []
    grid = [(k, rho) for rho in overlaps for k in n_classes]
    points = [dict(n_classes=k, overlap=rho, **options) for k, rho in grid]
    for (k, rho), point in zip(grid, map_points(overlap_line_point, points, executor), strict=True):
        frame = pd.DataFrame(point).rename_axis("draw").reset_index()
        frames.append(frame.assign(n_classes=k, overlap=rho))
    return pd.concat(frames, ignore_index=True)


def train_mixup(
    ensemble: Ensemble,
    x: Tensor,
    y: Tensor,
    *,
    mix_sizes: Sequence[int],
    data: Sequence[int],
    order: Sequence[int],
    n_classes: int,
    epochs: int = 20,
    batch_size: int = 100,
    lr: float = 3e-3,
    decay: bool = False,
    generator: torch.Generator,
) -> None:
    """Train the members of an ensemble by Adam, each on mixtures of as many samples as it asks.

    In every update a member draws one Dirichlet(1, …, 1) weight for each of its m samples in a
    mixture, the same for the whole batch, and permutations of its batch; it minimizes the
    weighted mean of the cross-entropies. A mix size of 1 is plain empirical risk minimization.

    Parameters
    ----------
    ensemble : Ensemble
        E multilayer perceptrons; trained in place from their present weights.
    x : torch.Tensor, shape (D, N, d)
        Inputs of D data sets, on the ensemble's device.
    y : torch.Tensor, shape (D, N)
        Labels.
    mix_sizes : sequence of int, length E
        Samples in a mixture; d-Mixup has d + 1.
    data : sequence of int, length E
        Which data set a member sees.
    order : sequence of int, length E
        Members with the same number visit the samples in the same order.
    n_classes : int
        Number of classes.
    epochs : int, default 20
        Passes over the data.
    batch_size : int, default 100
        Samples an update.
    lr : float, default 3e-3
        Learning rate.
    decay : bool, default False
        Let the learning rate fall linearly to almost zero.
    generator : torch.Generator
        On the CPU: order, partners and weights.

    Raises
    ------
    ValueError
        If lengths or shapes do not fit.

    Notes
    -----
    `Ensemble.fit` does not mix batches, so this loop steps the ensemble's stacked tensors
    itself. Adam acts on every number alone, so one optimizer for the stack is one for each
    member.
    """
    size, device = len(ensemble), ensemble.device
    for name, values in (("mix_sizes", mix_sizes), ("data", data), ("order", order)):
        if len(values) != size:
            raise ValueError(f"{name}: expected {size} numbers, one a member, got {len(values)}")
    check_tensor(x, "x", ndim=3, floating=True)
    check_tensor(y, "y", shape=x.shape[:2], minimum=0, maximum=n_classes - 1)
    sizes, order = torch.as_tensor(mix_sizes), torch.as_tensor(order)
    data = torch.as_tensor(data, device=device)[:, None]
    one_hot = F.one_hot(y, n_classes).to(x.dtype)
    most, n_samples = int(sizes.max()), x.shape[1]
    absent = torch.arange(most) >= sizes[:, None]
    module = ensemble.member(0)
    params = {name: t.requires_grad_() for name, t in ensemble.state_dict().items()}
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(params.values(), lr=lr, fused=fused)
    total = epochs * -(-n_samples // batch_size)
    end = 1.0 / total if decay else 1.0
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, end, total)
    for _ in range(epochs):
        draw = torch.rand(int(order.max()) + 1, n_samples, generator=generator)
        rows_of = draw.argsort(1)[order].to(device)
        for start in range(0, n_samples, batch_size):
            rows = rows_of[:, start : start + batch_size]
            weights = torch.empty(size, most).exponential_(generator=generator)
            weights[absent] = 0.0
            weights = (weights / weights.sum(1, keepdim=True)).to(device)
            partners = [
                torch.randperm(rows.shape[1], generator=generator).to(device)
                for _ in range(most - 1)
            ]
            inputs = _mix(x[data, rows], weights, partners)
            targets = _mix(one_hot[data, rows], weights, partners)
            logs = module.stacked_forward(params, {}, inputs).log_softmax(-1)
            optimizer.zero_grad()
            (-(targets * logs).sum(-1).mean(1).sum()).backward()
            optimizer.step()
            schedule.step()
    ensemble.load_state_dict({name: t.detach() for name, t in params.items()})


def overlap_gaussian_point(
    shifts: Sequence[float] = (0.25, 0.1, 0.05, 0.01),
    mix_sizes: Sequence[int] = (1, 2),
    repeats: int = 5,
    n_samples: int = 4000,
    n_test: int = 10_000,
    dimension: int = 300,
    width: int = 128,
    epochs: int = 20,
    batch_size: int = 100,
    lr: float = 4e-3,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train networks on two overlapping Gaussians and scale their temperature in two ways.

    Class 0 is N(0, I), class 1 is N(shift · 1, I). A tenth of the samples is held out to fit
    the temperature. All repeats, shifts and mix sizes train together as one ensemble; members
    of one repeat share initial weights, noise, labels and order.

    Parameters
    ----------
    shifts : sequence of float, default (0.25, 0.1, 0.05, 0.01)
        Mean of class 1 in every coordinate: the smaller, the larger the overlap.
    mix_sizes : sequence of int, default (1, 2)
        Samples in a mixture; 1 is empirical risk minimization, d-Mixup has d + 1.
    repeats : int, default 5
        Independent repetitions.
    n_samples : int, default 4000
        Samples for training and calibration, at least 20.
    n_test : int, default 10000
        Fresh samples for the test.
    dimension : int, default 300
        d.
    width : int, default 128
        Neurons in the one hidden layer.
    epochs : int, default 20
        Passes over the data.
    batch_size : int, default 100
        Samples an update.
    lr : float, default 4e-3
        Learning rate of Adam.
    seed : int, default 0
        Global seed.
    device : str or None, default "cpu"
        Where to train; ``None`` for the default device.

    Returns
    -------
    dict
        ``bayes_error`` and ``bayes_nll`` of shape (shifts,); ``train_accuracy`` and
        ``test_error`` (repeats, shifts, mix sizes); ``inverse_temperature``, ``nll``, ``ece``,
        ``kl`` (to the true posterior) and ``calibration_nll`` (repeats, shifts, mix sizes, 3)
        in the order of `FITS`; ``reference_gap`` and ``stationarity`` of the optimal fit
        (repeats, shifts, mix sizes). All evaluated with the networks in evaluation mode.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    repeats = check_integer(repeats, "repeats", minimum=1)
    n_samples = check_integer(n_samples, "n_samples", minimum=20)
    n_cal, where = n_samples // 10, resolve_device(device)
    total = n_samples + check_integer(n_test, "n_test", minimum=1)
    noise, labels = [], []
    for r in range(repeats):
        stream = named_generator(seed, "gaussians", r)
        labels.append(torch.randint(2, (total,), generator=stream))
        noise.append(torch.randn(total, dimension, generator=stream))
    noise, labels = torch.stack(noise).to(where), torch.stack(labels).to(where)
    n_train = n_samples - n_cal
    train = [noise[:, :n_train] + s * labels[:, :n_train, None] for s in shifts]
    shape = (repeats, len(shifts), len(mix_sizes))
    repeat, shift, method = np.unravel_index(np.arange(math.prod(shape)), shape)
    ensemble = _paired_ensemble([dimension, width, 2], repeat, seed, where)
    train_mixup(
        ensemble,
        torch.cat(train),
        labels[:, :n_train].repeat(len(shifts), 1),
        mix_sizes=np.asarray(mix_sizes)[method],
        data=shift * repeats + repeat,
        order=repeat,
        n_classes=2,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        generator=named_generator(seed, "gaussians", "training"),
    )
    rows: list[dict[str, Any]] = []
    bayes_nll = np.zeros(shape)
    for e, (r, s, m) in enumerate(zip(repeat, shift, method, strict=True)):
        inputs = noise[r] + shifts[s] * labels[r, :, None]
        with torch.no_grad():
            logits = ensemble.member(e)(inputs)
        exact = exact_device(where)
        logits, truth = logits.to(exact).double(), labels[r].to(exact)
        odds = gaussian_log_odds(inputs[n_samples:].to(exact).double(), shifts[s])
        posterior = torch.stack([-odds, odds], 1).div(2.0).log_softmax(1)
        bayes_nll[r, s, m] = F.nll_loss(posterior, truth[n_samples:]).item()
        cal, test = slice(n_train, n_samples), slice(n_samples, None)
        row = _fit_temperatures(logits[cal], truth[cal])
        row["train_accuracy"] = _accuracy(logits[:n_train], truth[:n_train])
        row["test_error"] = 1.0 - _accuracy(logits[test], truth[test])
        row |= _score(logits[test], truth[test], row["inverse_temperature"], posterior)
        rows.append(row)
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found = {name: v.reshape(*shape, *v.shape[1:]) for name, v in found.items()}
    errors = [gaussian_bayes_error(s, dimension) for s in shifts]
    return found | {"bayes_error": np.array(errors), "bayes_nll": bayes_nll.mean((0, 2))}


def overlap_gaussian_table(
    shifts: Sequence[float] = (0.25, 0.1, 0.05, 0.01),
    mix_sizes: Sequence[int] = (1, 2),
    **options: Any,
) -> pd.DataFrame:
    """Run `overlap_gaussian_point` and lay out its scores.

    Parameters
    ----------
    shifts : sequence of float, default (0.25, 0.1, 0.05, 0.01)
        Mean of class 1 in every coordinate.
    mix_sizes : sequence of int, default (1, 2)
        Samples in a mixture.
    **options
        Other arguments of `overlap_gaussian_point`.

    Returns
    -------
    pandas.DataFrame
        One row a repeat, shift, mix size and fit: ``nll``, ``ece``, ``kl``,
        ``inverse_temperature``, ``calibration_nll``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    point = overlap_gaussian_point(shifts, mix_sizes, **options)
    return _long(point, ("shift", shifts), mix_sizes)


def noisy_digits_point(
    noises: Sequence[float] = (0.0, 0.25, 0.5),
    mix_sizes: Sequence[int] = (1, 2),
    repeats: int = 5,
    width: int = 256,
    epochs: int = 100,
    batch_size: int = 50,
    lr: float = 5e-3,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train networks on digits with class-dependent label noise and scale their temperature.

    With the probability ``noise`` a label of class i becomes the one class that is drawn for i,
    among the others, in each repeat. Of the 1797 images 500 train, 647 fit the temperature,
    650 test; pixels are centered and scaled by the training images. Training and calibration
    labels are noisy; the test is made twice, with labels as noisy as these and with clean ones.

    Parameters
    ----------
    noises : sequence of float, default (0.0, 0.25, 0.5)
        Probabilities of a changed label, in [0, 1].
    mix_sizes : sequence of int, default (1, 2)
        Samples in a mixture; 1 is empirical risk minimization.
    repeats : int, default 5
        Independent repetitions: split, noise and weights.
    width : int, default 256
        Neurons in the one hidden layer.
    epochs : int, default 100
        Passes over the data.
    batch_size : int, default 50
        Samples an update.
    lr : float, default 5e-3
        Learning rate of Adam at the start; it falls linearly to almost zero.
    seed : int, default 0
        Global seed.
    device : str or None, default "cpu"
        Where to train; ``None`` for the default device.

    Returns
    -------
    dict
        ``train_accuracy``, ``test_error`` (clean) and ``pair_on_top``, the share of test images
        whose two largest logits belong to the true class and the class it is changed into, all
        (repeats, noises, mix sizes); ``inverse_temperature``, ``calibration_nll``, ``nll`` and
        ``ece`` on noisy test labels, ``clean_nll`` and ``clean_ece``, (repeats, noises, mix
        sizes, 3) in the order of `FITS`; ``reference_gap`` and ``stationarity``;
        ``neighbor_nll`` (repeats, noises), on noisy test labels, of the nearest-neighbor
        interpolator with one logit gap, at the temperature that is best on the test itself.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    repeats, where = check_integer(repeats, "repeats", minimum=1), resolve_device(device)
    for noise in noises:
        check_number(noise, "noises", minimum=0.0, maximum=1.0)
    images, n_train, n_cal = digits(), 500, 647
    inputs, clean, noisy, targets = [], [], [], []
    for r in range(repeats):
        stream = named_generator(seed, "noisy digits", r)
        rows = torch.randperm(len(images.y), generator=stream)
        other = (torch.arange(10) + torch.randint(1, 10, (10,), generator=stream)) % 10
        chance = torch.rand(len(rows), generator=stream)
        truth = images.y[rows]
        pixels = images.x[rows] - images.x[rows[:n_train]].mean(0)
        inputs.append((pixels / pixels[:n_train].square().mean().sqrt()).to(where))
        clean.append(truth)
        targets.append(other[truth])
        noisy += [torch.where(chance < noise, other[truth], truth) for noise in noises]
    shape = (repeats, len(noises), len(mix_sizes))
    repeat, noise, method = np.unravel_index(np.arange(math.prod(shape)), shape)
    ensemble = _paired_ensemble([64, width, 10], repeat, seed, where)
    observed = torch.stack(noisy).to(where)
    train_mixup(
        ensemble,
        torch.stack([x[:n_train] for x in inputs for _ in noises]),
        observed[:, :n_train],
        mix_sizes=np.asarray(mix_sizes)[method],
        data=repeat * len(noises) + noise,
        order=repeat,
        n_classes=10,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        decay=True,
        generator=named_generator(seed, "noisy digits", "training"),
    )
    cal, test = slice(n_train, n_train + n_cal), slice(n_train + n_cal, None)
    found: list[dict[str, Any]] = []
    for e, (r, s, _) in enumerate(zip(repeat, noise, method, strict=True)):
        with torch.no_grad():
            logits = ensemble.member(e)(inputs[r]).cpu().double()
        labels = noisy[r * len(noises) + s]
        row = _fit_temperatures(logits[cal], labels[cal])
        row["train_accuracy"] = _accuracy(logits[:n_train], labels[:n_train])
        row["test_error"] = 1.0 - _accuracy(logits[test], clean[r][test])
        pair = torch.stack([clean[r][test], targets[r][test]], 1).sort(1).values
        top = logits[test].topk(2).indices.sort(1).values
        row["pair_on_top"] = (pair == top).all(1).double().mean().item()
        row |= _score(logits[test], labels[test], row["inverse_temperature"])
        again = _score(logits[test], clean[r][test], row["inverse_temperature"])
        row |= {f"clean_{name}": value for name, value in again.items()}
        found.append(row)
    stacked = {name: np.array([row[name] for row in found]) for name in found[0]}
    result = {name: v.reshape(*shape, *v.shape[1:]) for name, v in stacked.items()}
    neighbor = [
        _neighbor_loss(inputs[i // len(noises)].cpu(), labels, n_train, n_train + n_cal)
        for i, labels in enumerate(noisy)
    ]
    return result | {"neighbor_nll": np.array(neighbor).reshape(shape[:2])}


def noisy_digits_table(
    noises: Sequence[float] = (0.0, 0.25, 0.5),
    mix_sizes: Sequence[int] = (1, 2),
    **options: Any,
) -> pd.DataFrame:
    """Run `noisy_digits_point` and lay out its scores.

    Parameters
    ----------
    noises : sequence of float, default (0.0, 0.25, 0.5)
        Probabilities of a changed label.
    mix_sizes : sequence of int, default (1, 2)
        Samples in a mixture.
    **options
        Other arguments of `noisy_digits_point`.

    Returns
    -------
    pandas.DataFrame
        One row a repeat, noise, mix size and fit: ``nll``, ``ece``, ``clean_nll``,
        ``clean_ece``, ``inverse_temperature``, ``calibration_nll``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    point = noisy_digits_point(noises, mix_sizes, **options)
    return _long(point, ("noise", noises), mix_sizes)


def calibrated_control_point(
    shift: float = 0.1,
    dimension: int = 300,
    n_samples: int = 400,
    n_test: int = 10_000,
    repeats: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a temperature to logits that are calibrated already: those of the true posterior.

    Parameters
    ----------
    shift : float, default 0.1
        Mean of class 1 in every coordinate.
    dimension : int, default 300
        d.
    n_samples : int, default 400
        Samples that fit the temperature.
    n_test : int, default 10000
        Samples of the test.
    repeats : int, default 40
        Independent repetitions.
    seed : int, default 0
        Global seed.

    Returns
    -------
    dict
        ``inverse_temperature``, ``nll_before`` and ``nll_after`` on the test, (repeats,).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    # The log odds are N(±m, 2m) given the class, with m = d shift²/2.
    half = (
        0.5 * check_integer(dimension, "dimension", minimum=1) * check_number(shift, "shift") ** 2
    )
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    total = n_samples + check_integer(n_test, "n_test", minimum=1)
    found = {"inverse_temperature": [], "nll_before": [], "nll_after": []}
    for r in range(check_integer(repeats, "repeats", minimum=1)):
        stream = named_generator(seed, "calibrated", r)
        labels = torch.randint(2, (total,), generator=stream)
        odds = torch.randn(total, generator=stream, dtype=torch.float64)
        odds = odds * math.sqrt(2.0 * half) + half * (2.0 * labels - 1.0)
        fit = TemperatureScaling().fit(odds[:n_samples], labels[:n_samples])
        inverse = fit.inverse_temperature_
        test, truth = odds[n_samples:], labels[n_samples:].double()
        found["inverse_temperature"].append(inverse)
        for name, b in (("nll_before", 1.0), ("nll_after", inverse)):
            loss = F.binary_cross_entropy_with_logits(b * test, truth)
            found[name].append(loss.item())
    return {name: np.array(values) for name, values in found.items()}


def _paired_ensemble(
    widths: Sequence[int], repeat: np.ndarray, seed: int, device: torch.device
) -> Ensemble:
    """Build one member a position; positions of one repeat start from the same weights."""
    numbers = iter(repeat.tolist())

    def build(generator: torch.Generator) -> MLP:
        return MLP(widths, generator=named_generator(seed, "weights", next(numbers)))

    return Ensemble(
        build, len(repeat), derive_seed(seed, "ensemble"), mode="stacked", device=device
    )


def _mix(values: Tensor, weights: Tensor, partners: Sequence[Tensor]) -> Tensor:
    """Mix (E, B, …) with permutations of itself, weights (E, 1 + partners)."""
    mixed = weights[:, 0, None, None] * values
    for i, rows in enumerate(partners, start=1):
        mixed = mixed + weights[:, i, None, None] * values[:, rows]
    return mixed


def _fit_temperatures(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """1/T of every fit, its loss where it was fitted, and how good the optimal fit is."""
    published = published_temperature(logits, labels)
    optimal = TemperatureScaling().fit(logits, labels).inverse_temperature_
    inverse = (1.0, 1.0 / published, optimal)
    reference = _reference_inverse(logits, labels)
    same = optimal == reference
    return {
        "inverse_temperature": inverse,
        "calibration_nll": [F.cross_entropy(b * logits, labels).item() for b in inverse],
        # |T / T_reference − 1|, written in 1/T.
        "reference_gap": 0.0 if same else abs(reference / optimal - 1.0) if optimal else math.inf,
        # At 1/T = 0 the optimum may sit at the end of the range: a positive slope is right.
        "stationarity": abs(_slope(logits, labels, optimal)) if optimal else 0.0,
    }


def _slope(logits: Tensor, labels: Tensor, inverse: float) -> float:
    """Slope of the log loss in 1/T: E Σ_j p_j z_j − E z_y."""
    mean = ((inverse * logits).softmax(1) * logits).sum(1)
    return (mean - logits.gather(1, labels[:, None])[:, 0]).mean().item()


def _reference_inverse(logits: Tensor, labels: Tensor) -> float:
    """1/T by Brent's root finding on the slope, or 0 when the slope is positive there."""
    if _slope(logits, labels, 0.0) >= 0.0:
        return 0.0
    high = 1.0
    while _slope(logits, labels, high) < 0.0:
        high *= 2.0
    return brentq(lambda b: _slope(logits, labels, b), 0.0, high, xtol=1e-14, rtol=1e-14)


def _score(
    logits: Tensor, labels: Tensor, inverse: Sequence[float], posterior: Tensor | None = None
) -> dict[str, list[float]]:
    """Log loss, calibration error and, given the true log posterior, divergence, for each 1/T."""
    found: dict[str, list[float]] = {"nll": [], "ece": []}
    if posterior is not None:
        found["kl"] = []
    for b in inverse:
        logs = (b * logits).log_softmax(1)
        found["nll"].append(F.nll_loss(logs, labels).item())
        found["ece"].append(expected_calibration_error(logs.exp(), labels))
        if posterior is not None:
            found["kl"].append((posterior.exp() * (posterior - logs)).sum(1).mean().item())
    return found


def _neighbor_loss(x: Tensor, labels: Tensor, n_train: int, first: int) -> float:
    """Log loss of a nearest neighbor with one logit gap on the rows from ``first`` on.

    At the temperature that is best on these very rows, the confidence is the share of hits.
    """
    nearest = torch.cdist(x[first:], x[:n_train]).argmin(1)
    hit = (labels[:n_train][nearest] == labels[first:]).double().mean().item()
    return float(entr(hit) + entr(1.0 - hit) + (1.0 - hit) * math.log(9.0))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def _long(
    point: dict[str, Any], axis: tuple[str, Sequence[float]], mix_sizes: Sequence[int]
) -> pd.DataFrame:
    """Lay out what has one number a fit."""
    columns = {name: v for name, v in point.items() if np.ndim(v) == 4}
    repeats = next(iter(columns.values())).shape[0]
    index = pd.MultiIndex.from_product(
        [range(repeats), axis[1], mix_sizes, FITS], names=["repeat", axis[0], "mix_size", "fit"]
    )
    return pd.DataFrame({n: v.ravel() for n, v in columns.items()}, index=index).reset_index()
