"""Sweeps that compare the eigenframework with simulation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from enough.data import binned_power_law, digits, power_law_coefficients, power_law_spectrum
from enough.overparameterization.eigenframework import (
    finite_population_test_mse,
    optimal_ridge,
    rf_risk,
)
from enough.overparameterization.exponents import estimate_eigensystem, estimate_exponents
from enough.overparameterization.features import eigenfeatures, random_features
from enough.overparameterization.kernels import feature_kernel, neural_tangent_kernel
from enough.overparameterization.power_law import optimal_fitting_ratio, power_law_test_mse
from enough.overparameterization.ridge import ridge_path
from enough.runtime import chunks, exact_device, named_generator, resolve_device
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training.sweep_points import map_points

__all__ = [
    "agreement",
    "digits_interpolation_table",
    "digits_point",
    "digits_table",
    "gaussian_point",
    "gaussian_table",
    "interpolation_table",
    "kernel_point",
    "more_is_better_table",
]

_MEMORY = 2**30  # bytes of trials at a time


def gaussian_point(
    n_samples: int,
    n_features: float,
    ridges: Sequence[float],
    noise_variances: Sequence[float] = (0.5,),
    alpha: float = 1.5,
    beta: float = 1.5,
    n_modes: int = 2000,
    trials: int = 20,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    r"""Simulate random-feature ridge regression in a Gaussian design, with its prediction.

    Each trial draws eigenfunction values, random features (`eigenfeatures`) and noise, solves
    all ridges at once, and measures the test error over the whole population exactly: the
    squared distance of the fitted eigencoefficients from the target's, plus the noise variance.
    The training error is measured from the fitted coefficients, too.

    Parameters
    ----------
    n_samples : int
        Training samples.
    n_features : float
        Random features; ``math.inf`` for the kernel itself.
    ridges : sequence of float
        Ridges, zero or more.
    noise_variances : sequence of float, default (0.5,)
        Label noise. All variances share the same draws.
    alpha, beta : float, default 1.5
        Eigenvalues :math:`i^{-\alpha}` and squared coefficients :math:`i^{-\beta}`.
    n_modes : int, default 2000
        Number of modes.
    trials : int, default 20
        Independent trials, 2 or more.
    seed : int, default 0
        Points with different samples or features draw independently of each other.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``test_mse`` and ``train_mse`` of shape (trials, noise variances, ridges),
        ``test_theory`` and ``train_theory`` of shape (noise variances, ridges).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    trials = check_integer(trials, "trials", minimum=2)
    n_features = _feature_count(n_features)
    where = exact_device(resolve_device(device))
    values = power_law_spectrum(n_modes, alpha).to(where)
    target = power_law_coefficients(n_modes, beta).to(where)
    delta = torch.as_tensor(list(ridges), dtype=torch.float64, device=where)
    noise = torch.as_tensor(list(noise_variances), dtype=torch.float64, device=where)
    risk = rf_risk(values, target, n_samples, n_features, delta, noise[:, None])
    stream = named_generator(seed, "gaussian design", n_samples, str(n_features), device=where)
    width = n_modes if math.isinf(n_features) else n_features
    each = 8 * (n_modes * (n_samples + 2 * width) + 3 * n_samples * width)
    test, train = [], []
    for block in chunks(trials, each, _MEMORY):
        count = block.stop - block.start
        phi = torch.randn(
            count, n_samples, n_modes, dtype=torch.float64, device=where, generator=stream
        )
        errors = torch.randn(
            count, n_samples, 1, dtype=torch.float64, device=where, generator=stream
        )
        labels = (phi @ target)[..., None] + noise.sqrt() * errors
        if math.isinf(n_features):
            features = phi * values.sqrt()
            fit = ridge_path(features, labels, delta).coefficients
            found = values.sqrt()[:, None] * fit
        else:
            features, weights = eigenfeatures(phi, values, width, stream)
            features, weights = features / math.sqrt(width), weights / math.sqrt(width)
            fit = ridge_path(features, labels, delta).coefficients
            found = _times(weights, fit)
        test.append((target[:, None] - found).square().sum(-2) + noise)
        train.append((labels - _times(features, fit)).square().mean(-2))
    return {
        "test_mse": _trials_first(test),
        "train_mse": _trials_first(train),
        "test_theory": risk.test_mse.cpu().numpy(),
        "train_theory": risk.train_mse.cpu().numpy(),
    }


def gaussian_table(
    n_samples: Sequence[int] = (64, 256),
    n_features: Sequence[float] = (32, 64, 128, 256, 512, 1024),
    ridges: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    noise_variances: Sequence[float] = (0.5,),
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run `gaussian_point` over all pairs of samples and features.

    Parameters
    ----------
    n_samples : sequence of int, default (64, 256)
        Training samples.
    n_features : sequence of float, default (32, 64, 128, 256, 512, 1024)
        Random features.
    ridges : sequence of float, default (1e-3, 1e-2, 1e-1, 1.0, 10.0)
        Ridges, zero or more.
    noise_variances : sequence of float, default (0.5,)
        Label noise.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `gaussian_point`.

    Returns
    -------
    pandas.DataFrame
        One row a point, ridge and noise variance: ``n_samples``, ``n_features``, ``ridge``,
        ``noise_variance``, the means over trials ``test_mse`` and ``train_mse`` with standard
        errors ``test_se`` and ``train_se``, and ``test_theory`` and ``train_theory``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    ridges, noise_variances = list(ridges), list(noise_variances)
    common = dict(ridges=ridges, noise_variances=noise_variances, **options)
    points = [{"n_samples": n, "n_features": k} | common for n in n_samples for k in n_features]
    frames = [
        _frame(found, point["n_samples"], point["n_features"], noise_variances, ridges)
        for point, found in zip(points, map_points(gaussian_point, points, executor), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def digits_point(
    n_samples: int,
    n_features: float,
    ridges: Sequence[float],
    activation: str = "relu",
    target: str = "parity",
    trials: int = 15,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Measure random-feature ridge regression on digits, with its prediction.

    All 1797 images are the population; inputs are centered, with mean squared length 1. Each
    trial draws the training images without replacement and new weights, and tests on all other
    images. The theory sees the eigensystem of the exact kernel on the whole population, and is
    corrected for its finite size by `finite_population_test_mse`. The correction is meant for
    samples that are a minority of the population; the theory itself assumes fresh samples.

    Parameters
    ----------
    n_samples : int
        Training samples, below 1797.
    n_features : float
        Random features; ``math.inf`` for the kernel itself.
    ridges : sequence of float
        Ridges, zero or more.
    activation : str, default "relu"
        As in `random_features`.
    target : {"parity", "classes", "shuffled"}, default "parity"
        Even against odd as +1 and -1; or one indicator a class, centered, with errors that are
        means over the ten outputs; or even against odd in random order, so that there is
        nothing to learn.
    trials : int, default 15
        Independent trials, 2 or more.
    seed : int, default 0
        Points with different samples or features draw independently of each other.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``test_mse`` and ``train_mse`` of shape (trials, ridges); ``test_theory``,
        ``train_theory`` and ``test_theory_uncorrected`` of shape (ridges,).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    trials = check_integer(trials, "trials", minimum=2)
    where = exact_device(resolve_device(device))
    x, y, kernel, values, coefficients = _digits_task(activation, target, str(where))
    population = len(x)
    n_samples = check_integer(n_samples, "n_samples", minimum=1, maximum=population - 1)
    n_features = _feature_count(n_features)
    delta = torch.as_tensor(list(ridges), dtype=torch.float64, device=where)
    risk = rf_risk(values, coefficients, n_samples, n_features, delta)
    corrected = finite_population_test_mse(risk.test_mse, risk.train_mse, n_samples, population)
    stream = named_generator(seed, "digits", n_samples, str(n_features), device=where)
    width = population if math.isinf(n_features) else n_features
    test, train = [], []
    for block in chunks(trials, 24 * population * width, _MEMORY):
        count = block.stop - block.start
        draw = torch.rand(count, population, generator=stream, device=where)
        order = draw.argsort(-1)
        if math.isinf(n_features):
            features = _square_root(kernel).expand(count, -1, -1)
        else:
            points = x.expand(count, -1, -1)
            features = random_features(points, width, activation, stream, independent=True)
            features = features / math.sqrt(width)
        features = features.gather(1, order[..., None].expand(-1, -1, width))
        labels = y[order]
        path = ridge_path(features[:, :n_samples], labels[:, :n_samples], delta)
        errors = (labels - _times(features, path.coefficients)).square()
        train.append(errors[:, :, :n_samples].mean((-2, -1)))
        test.append(errors[:, :, n_samples:].mean((-2, -1)))
    return {
        "test_mse": _trials_first(test),
        "train_mse": _trials_first(train),
        "test_theory": corrected.mean(-1).cpu().numpy(),
        "train_theory": risk.train_mse.mean(-1).cpu().numpy(),
        "test_theory_uncorrected": risk.test_mse.mean(-1).cpu().numpy(),
    }


def digits_table(
    n_samples: Sequence[int] = (64, 256),
    n_features: Sequence[float] = (32, 128, 256, 1024),
    ridges: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0),
    executor: Executor | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Run `digits_point` over all pairs of samples and features.

    Parameters
    ----------
    n_samples : sequence of int, default (64, 256)
        Training samples.
    n_features : sequence of float, default (32, 128, 256, 1024)
        Random features.
    ridges : sequence of float, default (1e-3, 1e-2, 1e-1, 1.0, 10.0)
        Ridges, zero or more.
    executor : concurrent.futures.Executor, optional
        Where to compute the points, as in `enough.training.sweep_points.map_points`; ``None``
        computes here. The table is the same.
    **options
        Other arguments of `digits_point`.

    Returns
    -------
    pandas.DataFrame
        One row a point and ridge, with the columns of `gaussian_table` but the noise variance,
        and ``test_theory_uncorrected``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    ridges = list(ridges)
    common = dict(ridges=ridges, **options)
    points = [{"n_samples": n, "n_features": k} | common for n in n_samples for k in n_features]
    frames = [
        _frame(found, point["n_samples"], point["n_features"], None, ridges)
        for point, found in zip(points, map_points(digits_point, points, executor), strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def more_is_better_table(
    n_samples: Sequence[float] = (64, 256, 1024),
    n_features: Sequence[float] = (16, 64, 256, 1024, 4096, math.inf),
    noise_variances: Sequence[float] = (0.5,),
    fixed_ridges: Sequence[float] = (0.0, 1e-6),
    alpha: float = 1.5,
    beta: float = 1.5,
    n_modes: int = 10_000,
    device: str | None = "cpu",
) -> pd.DataFrame:
    r"""Compare the best ridge with fixed ridges as samples and features grow, in theory.

    Parameters
    ----------
    n_samples : sequence of float, default (64, 256, 1024)
        Training samples.
    n_features : sequence of float, default (16, 64, 256, 1024, 4096, inf)
        Random features.
    noise_variances : sequence of float, default (0.5,)
        Label noise.
    fixed_ridges : sequence of float, default (0.0, 1e-6)
        The ridges to contrast with, zero or more.
    alpha, beta : float, default 1.5
        Eigenvalues :math:`i^{-\alpha}` and squared coefficients :math:`i^{-\beta}`.
    n_modes : int, default 10000
        Number of modes.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    pandas.DataFrame
        Columns ``n_samples``, ``n_features``, ``noise_variance``, ``rule`` ("optimal" or
        "fixed"), ``ridge``, ``test_mse``, ``train_mse``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    where = exact_device(resolve_device(device))
    values = power_law_spectrum(n_modes, alpha).to(where)
    target = power_law_coefficients(n_modes, beta).to(where)
    grid = pd.MultiIndex.from_product(
        [map(float, n_samples), map(float, n_features), map(float, noise_variances)],
        names=["n_samples", "n_features", "noise_variance"],
    ).to_frame(index=False)
    n, k, noise = (grid[name].to_numpy() for name in grid)
    best = optimal_ridge(values, target, n, k, noise)
    tables = [
        grid.assign(
            rule="optimal",
            ridge=best.ridge.cpu().numpy(),
            test_mse=best.test_mse.cpu().numpy(),
            train_mse=best.train_mse.cpu().numpy(),
        )
    ]
    for ridge in fixed_ridges:
        risk = rf_risk(values, target, n, k, ridge, noise)
        tables.append(
            grid.assign(
                rule="fixed",
                ridge=float(ridge),
                test_mse=risk.test_mse.cpu().numpy(),
                train_mse=risk.train_mse.cpu().numpy(),
            )
        )
    return pd.concat(tables, ignore_index=True)


def interpolation_table(
    tasks: Sequence[tuple[float, float]] = ((1.5, 1.25), (1.5, 1.5), (1.5, 2.0), (2.0, 3.0)),
    relative_noises: Sequence[float] = (0.0, 0.5, 1.0, 5.0),
    n_samples: float = 1000,
    n_modes: int = 10**10,
) -> pd.DataFrame:
    r"""Compare the asymptotic optimal fitting ratio with the eigenframework at finite n.

    Parameters
    ----------
    tasks : sequence of (alpha, beta)
        Exponents of eigenvalues and squared coefficients.
    relative_noises : sequence of float, default (0.0, 0.5, 1.0, 5.0)
        Noise variance in units of the noiseless error at ridge 0.
    n_samples : float, default 1000
        Training samples; the number of features is infinite.
    n_modes : int, default 10**10
        Number of modes, gathered in bins.

    Returns
    -------
    pandas.DataFrame
        Columns ``alpha``, ``beta``, ``relative_noise``, ``ridge`` (optimal),
        ``ratio_theory`` and ``ratio`` (optimal fitting ratio, asymptotic and at finite n),
        ``mse_theory`` and ``mse`` (smallest test error in units of the noiseless error at
        ridge 0), ``overfitting`` (noise amplification at ridge 0, asymptotically ``alpha``).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    rows = []
    noises = np.array([check_number(x, "relative_noises", minimum=0.0) for x in relative_noises])
    for alpha, beta in tasks:
        levels = binned_power_law(n_modes, alpha, beta)
        ridgeless = rf_risk(
            levels.eigenvalues,
            levels.coefficients,
            n_samples,
            math.inf,
            0.0,
            multiplicities=levels.multiplicities,
        )
        best = optimal_ridge(
            levels.eigenvalues,
            levels.coefficients,
            n_samples,
            math.inf,
            noises * ridgeless.test_mse,
            levels.multiplicities,
        )
        for i, noise in enumerate(noises):
            predicted = optimal_fitting_ratio(alpha, beta, noise)
            rows.append(
                {
                    "alpha": alpha,
                    "beta": beta,
                    "relative_noise": noise,
                    "ridge": float(best.ridge[i]),
                    "ratio_theory": predicted.ratio,
                    "ratio": float(best.fitting_ratio[i]),
                    "mse_theory": power_law_test_mse(predicted.root, alpha, beta, noise),
                    "mse": float(best.test_mse[i]) / ridgeless.test_mse,
                    "overfitting": ridgeless.overfitting,
                }
            )
    return pd.DataFrame(rows)


def kernel_point(
    kernel_matrix: Any,
    targets: Any,
    n_samples: int,
    ridges: Sequence[float],
    noise_variance: float = 0.0,
    trials: int = 15,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure kernel ridge regression on a finite population, with label noise if wanted.

    Each trial draws the training points without replacement and adds independent noise to
    their labels; the test error is measured on the clean labels of all other points, and the
    noise variance is added to it.

    Parameters
    ----------
    kernel_matrix : array of shape (M, M)
        Symmetric positive semi-definite kernel matrix of the population.
    targets : array of shape (M,)
        Clean targets.
    n_samples : int
        Training samples, below M.
    ridges : sequence of float
        Ridges above zero, in ``K + ridge * I``.
    noise_variance : float, default 0.0
        Variance of the label noise.
    trials : int, default 15
        Independent trials, 2 or more. Runs with other noise share their draws.
    seed : int, default 0
        Seed of the draws.

    Returns
    -------
    dict
        ``test_mse`` and ``train_mse`` of shape (trials, ridges), noise included.

    Raises
    ------
    ValueError
        If shapes do not fit or an argument is out of range.
    """
    (kernel, y), _ = as_tensors(kernel_matrix=kernel_matrix, targets=targets)
    population = len(kernel)
    check_tensor(kernel, "kernel_matrix", shape=(population, population))
    check_tensor(y, "targets", shape=(population,))
    n_samples = check_integer(n_samples, "n_samples", minimum=1, maximum=population - 1)
    trials = check_integer(trials, "trials", minimum=2)
    noise = check_number(noise_variance, "noise_variance", minimum=0.0)
    kernel, y = kernel.double(), y.double()
    delta = torch.as_tensor(list(ridges), dtype=torch.float64, device=kernel.device)
    check_tensor(delta, "ridges", ndim=1)
    if not bool((delta > 0).all()):
        raise ValueError(f"ridges: expected numbers > 0, got {delta.min().item()}")
    stream = named_generator(seed, "kernel", n_samples)
    test, train = [], []
    for _ in range(trials):
        order = torch.randperm(population, generator=stream).to(kernel.device)
        errors = torch.randn(n_samples, dtype=torch.float64, generator=stream).to(kernel.device)
        inside, outside = order[:n_samples], order[n_samples:]
        labels = y[inside] + math.sqrt(noise) * errors
        values, vectors = torch.linalg.eigh(kernel[inside][:, inside])
        shrunk = (vectors.mT @ labels)[:, None] / (values.clamp(min=0.0)[:, None] + delta)
        dual = vectors @ shrunk
        train.append((delta * dual).square().mean(0))  # the residual is delta times the dual
        fit = kernel[outside][:, inside] @ dual
        test.append((fit - y[outside, None]).square().mean(0) + noise)
    return {
        "test_mse": torch.stack(test).cpu().numpy(),
        "train_mse": torch.stack(train).cpu().numpy(),
    }


def digits_interpolation_table(
    n_samples: int = 512,
    relative_noises: Sequence[float] = (0.0, 1.0, 5.0, 50.0),
    ridges: Sequence[float] = (0.0, *np.geomspace(1e-3, 1e3, 25).tolist()),
    depth: int = 3,
    target: str = "parity",
    trials: int = 10,
    seed: int = 0,
    device: str | None = "cpu",
) -> pd.DataFrame:
    """Measure how tightly digits should be fitted, against the power-law prediction.

    Kernel ridge regression with the neural tangent kernel of a ReLU network, on labels with
    added Gaussian noise. The exponents are measured on the same kernel and labels by
    `estimate_exponents`; `optimal_fitting_ratio` then says, without another look at the data,
    at which ratio of train to test error the test error is smallest.

    Parameters
    ----------
    n_samples : int, default 512
        Training images, from 40 up to half of the 1797.
    relative_noises : sequence of float, default (0.0, 1.0, 5.0, 50.0)
        Noise variance in units of the noiseless test error at ridge 0.
    ridges : sequence of float, default 0 and 25 from 1e-3 to 1e3
        Ridges, zero or more; zero is added where it is missing.
    depth : int, default 3
        Hidden layers of the network.
    target : {"parity", "classes"}, default "parity"
        As in `digits_point`.
    trials : int, default 10
        Random training sets, 2 or more; they also give the exponents.
    seed : int, default 0
        Source of training sets and noise.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    pandas.DataFrame
        One row a noise and ridge: ``relative_noise``, ``ridge``, the means over trials
        ``test_mse`` and ``train_mse`` (noise included) with standard errors ``test_se`` and
        ``train_se``, their quotient ``ratio``, the predicted optimal ratio ``ratio_theory``,
        and the exponents ``alpha`` and ``beta``.

    Raises
    ------
    ValueError
        If an argument is out of range, or the measured exponents are outside the range of the
        theory.
    """
    where = exact_device(resolve_device(device))
    n_samples = check_integer(n_samples, "n_samples", minimum=40, maximum=1797 // 2)
    trials = check_integer(trials, "trials", minimum=2)
    ridges = np.unique([0.0, *ridges])
    x, y, *_ = _digits_task("relu", target, str(where))
    kernel = neural_tangent_kernel(x, depth=depth)
    sizes = np.unique(np.geomspace(n_samples // 8, n_samples, 8).astype(int))
    subsets = named_generator(seed, "digits subsets", device="cpu")
    found = estimate_exponents(kernel, y, sizes, n_subsets=trials, generator=subsets)
    features = _square_root(kernel)
    stream = named_generator(seed, "digits interpolation", n_samples, device=where)
    signal, noise = [], []
    for _ in range(trials):
        order = torch.rand(len(x), generator=stream, device=where).argsort()
        train = order[:n_samples]
        errors = torch.randn(n_samples, y.shape[1], dtype=y.dtype, generator=stream, device=where)
        # The predictor is linear in the labels: clean labels and noise are fitted apart.
        labels = torch.cat([y[train], errors], dim=1)
        fit = ridge_path(features[train], labels, ridges, features[order])
        rest = fit.test_predictions - torch.cat([y[order], torch.zeros_like(y)], dim=1)
        rest[:, :n_samples] = -fit.train_residuals
        clean, noisy = rest.chunk(2, dim=-1)
        signal.append(clean)
        noise.append(noisy)
    clean, noisy = torch.stack(signal, 1), torch.stack(noise, 1)  # (ridges, trials, M, outputs)
    base = float(clean[0, :, n_samples:].square().mean())
    frames = []
    for relative in relative_noises:
        variance = check_number(relative, "relative_noises", minimum=0.0) * base
        squares = (clean + math.sqrt(variance) * noisy).square()
        point = {
            "test_mse": _trials_first([squares[:, :, n_samples:].mean((-2, -1)) + variance]),
            "train_mse": _trials_first([squares[:, :, :n_samples].mean((-2, -1))]),
        }
        frame = _frame(point, n_samples, math.inf, None, ridges)
        frame.insert(0, "relative_noise", relative)
        frame["ratio"] = frame["train_mse"] / frame["test_mse"]
        predicted = optimal_fitting_ratio(found.alpha, found.beta, relative)
        frames.append(
            frame.assign(ratio_theory=predicted.ratio, alpha=found.alpha, beta=found.beta)
        )
    return pd.concat(frames, ignore_index=True)


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """Summarize how well simulation agrees with theory.

    Parameters
    ----------
    table : pandas.DataFrame
        From `gaussian_table` or `digits_table`.

    Returns
    -------
    dict
        For ``test`` and ``train`` each: ``*_median``, ``*_p90`` and ``*_max`` of the
        relative error against theory, and ``*_points``, over rows whose theory is positive
        and finite; ``train_where_zero``, the largest simulated training error where theory
        says 0 (NaN where it never does).

    Raises
    ------
    ValueError
        If a column is missing.
    """
    needed = {"test_mse", "train_mse", "test_theory", "train_theory"}
    if not needed <= set(table.columns):
        missing = ", ".join(sorted(needed - set(table.columns)))
        raise ValueError(f"table: expected the columns of gaussian_table, {missing} missing")
    summary: dict[str, float] = {}
    for part in ("test", "train"):
        theory = table[f"{part}_theory"]
        usable = table[(theory > 0) & np.isfinite(theory)]
        error = (usable[f"{part}_mse"] / usable[f"{part}_theory"] - 1).abs()
        summary[f"{part}_median"] = float(error.median())
        summary[f"{part}_p90"] = float(error.quantile(0.9))
        summary[f"{part}_max"] = float(error.max())
        summary[f"{part}_points"] = len(usable)
    summary["train_where_zero"] = float(table.loc[table["train_theory"] == 0, "train_mse"].max())
    return summary


@functools.lru_cache(maxsize=2)
def _digits_task(activation: str, target: str, device: str) -> tuple[Tensor, ...]:
    """Inputs, targets, exact kernel, and its eigensystem; computed once a process."""
    check_choice(target, "target", ("parity", "classes", "shuffled"))
    data = digits(dtype=torch.float64)
    x = data.x.to(device)
    x = x - x.mean(0)
    x = x / x.square().sum(-1).mean().sqrt()
    labels = data.y.to(device)
    if target != "classes":
        y = (1.0 - 2.0 * (labels % 2)).double()[:, None]
        if target == "shuffled":
            y = y[torch.randperm(len(y), generator=named_generator(0, "shuffled"))]
    else:
        y = torch.nn.functional.one_hot(labels, 10).double()
        y = y - y.mean(0)
    kernel = feature_kernel(x, activation=activation)
    return x, y, kernel, *estimate_eigensystem(kernel, y)


def _feature_count(n_features: float) -> float:
    count = check_number(n_features, "n_features", finite=False)
    return count if count == math.inf else check_integer(n_features, "n_features", minimum=1)


def _square_root(kernel: Tensor) -> Tensor:
    """Features whose inner products are the kernel."""
    values, vectors = torch.linalg.eigh(kernel)
    return vectors * values.clamp(min=0.0).sqrt()


def _times(matrix: Tensor, path: Tensor) -> Tensor:
    """``matrix @ path`` for path (ridges, trials, features, outputs), one product a trial."""
    columns = path.movedim(0, -2).flatten(-2)
    product = matrix @ columns
    return product.unflatten(-1, (path.shape[0], path.shape[-1])).movedim(-2, 0)


def _trials_first(blocks: list[Tensor]) -> np.ndarray:
    """Blocks (ridges, trials, ...) as one array (trials, ..., ridges)."""
    return torch.cat(blocks, dim=1).movedim(0, -1).cpu().numpy()


def _frame(
    point: dict[str, Any], n: int, k: float, noises: Sequence[float] | None, ridges: Sequence[float]
) -> pd.DataFrame:
    """One point as rows, means over trials with their standard errors."""
    columns: dict[str, Any] = {"n_samples": n, "n_features": k}
    columns["ridge"] = np.tile(ridges, 1 if noises is None else len(noises))
    if noises is not None:
        columns["noise_variance"] = np.repeat(noises, len(ridges))
    for name, value in point.items():
        if name.endswith("_mse"):
            columns[name] = value.mean(0).ravel()
            error = value.std(0, ddof=1) / math.sqrt(len(value))
            columns[name.replace("_mse", "_se")] = error.ravel()
        else:
            columns[name] = value.ravel()
    return pd.DataFrame(columns)
