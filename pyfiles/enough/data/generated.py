"""Data drawn from a formula: the answer is known, the sample size is free."""

from __future__ import annotations

import math
from typing import Any

import torch

from enough.data.dataset import Dataset, flip_labels
from enough.runtime import as_generator
from enough.runtime.validation import (
    as_tensors,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["SIGNAL_CLASSES", "gaussian_eigenfeatures", "gaussian_mixture", "signals"]

SIGNAL_CLASSES = (
    "hump",
    "twin humps",
    "hat",
    "box",
    "tent",
    "rising ramp",
    "falling ramp",
    "wave",
    "ripple",
    "chirp",
)


def gaussian_mixture(
    n: int,
    means: Any,
    covariance: Any = 1.0,
    *,
    weights: Any = None,
    label_noise: float = 0.0,
    generator: torch.Generator | int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Draw labeled samples from a mixture of Gaussians.

    y ~ Categorical(weights), x | y ~ N(means[y], covariance[y]); then exactly
    round(label_noise × n) labels are replaced by other classes, see
    `enough.data.flip_labels`. The noise is drawn last, so the inputs and the clean labels of a
    seed are the same at every noise rate.

    Parameters
    ----------
    n : int
        Number of samples.
    means : array_like
        One row a class, shape (classes, features), at least two classes.
    covariance : float or array_like, default 1.0
        A variance, one matrix (features, features) for all classes, or one for each class
        (classes, features, features); symmetric, positive semidefinite.
    weights : array_like, optional
        Probability of each class, shape (classes,), positive; rescaled to sum 1. Equal by
        default.
    label_noise : float, default 0.0
        Share of labels to replace, in [0, 1].
    generator : torch.Generator, int, or None
        Source of randomness; the result is on its device.
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (n, features), ``y`` (n,) int64.

    Raises
    ------
    ValueError
        If shapes do not fit, a covariance is not symmetric positive semidefinite, or a
        number is out of range.
    """
    n = check_integer(n, "n", minimum=1)
    _check_dtype(dtype)
    (centers, spread), _ = as_tensors(means=means, covariance=covariance)
    centers = check_tensor(centers, "means", ndim=2).double().cpu()
    classes, features = centers.shape
    if classes < 2:
        raise ValueError(f"means: expected at least two classes, got {classes}")
    roots = _square_roots(spread.double().cpu(), classes, features)
    probabilities = _weights(weights, classes)

    generator = as_generator(generator)
    device = generator.device
    work = _draw_dtype(dtype)
    y = torch.multinomial(
        probabilities.to(device, torch.float32), n, replacement=True, generator=generator
    )
    noise = torch.randn(n, features, dtype=work, device=device, generator=generator)
    x = torch.empty_like(noise)
    for k in range(classes):
        mine = y == k
        x[mine] = centers[k].to(device, work) + noise[mine] @ roots[k].to(device, work)
    return Dataset(
        x=x.to(dtype),
        y=flip_labels(y, label_noise, classes, generator),
        name="gaussian_mixture",
        description=f"Mixture of {classes} Gaussians, share of wrong labels {label_noise:g}.",
        source="generated",
        class_names=tuple(str(k) for k in range(classes)),
    )


def gaussian_eigenfeatures(
    n: int,
    eigenvalues: Any,
    coefficients: Any,
    *,
    noise_variance: float = 0.0,
    generator: torch.Generator | int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Draw Gaussian features with a given covariance spectrum and a target linear in them.

    φ_i ~ N(0, 1) independent, x_i = √λ_i φ_i, y = Σ_i v_i φ_i + N(0, σ²). The features have
    covariance diag(λ); the eigenfunctions of the linear kernel x·x′ are the φ_i, with
    eigenvalues λ_i and target coefficients v_i. A mode with λ_i = 0 cannot be seen in x and
    acts as noise of variance v_i².

    Parameters
    ----------
    n : int
        Number of samples.
    eigenvalues : array_like
        Spectrum λ, shape (modes,), zero or more.
    coefficients : array_like
        Target coefficients v, shape (modes,).
    noise_variance : float, default 0.0
        Variance σ² of the noise in the target, zero or more.
    generator : torch.Generator, int, or None
        Source of randomness; the result is on its device.
    dtype : torch.dtype, default torch.float32
        Floating-point type of inputs and targets.

    Returns
    -------
    Dataset
        ``x`` (n, modes), ``y`` (n,) of ``dtype``.

    Raises
    ------
    ValueError
        If shapes differ or a number is out of range.

    References
    ----------
    J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
    Learning", ICLR 2024 (arXiv:2311.14646), the setting of the eigenframework.
    """
    n = check_integer(n, "n", minimum=1)
    _check_dtype(dtype)
    (spectrum, target), _ = as_tensors(eigenvalues=eigenvalues, coefficients=coefficients)
    check_tensor(spectrum, "eigenvalues", ndim=1, minimum=0)
    check_tensor(target, "coefficients", shape=spectrum.shape)
    variance = check_number(noise_variance, "noise_variance", minimum=0.0)
    generator = as_generator(generator)
    device = generator.device
    work = _draw_dtype(dtype)
    modes = torch.randn(n, len(spectrum), dtype=work, device=device, generator=generator)
    noise = torch.randn(n, dtype=work, device=device, generator=generator)
    y = modes @ target.to(device, work) + math.sqrt(variance) * noise
    return Dataset(
        x=(modes * spectrum.double().sqrt().to(device, work)).to(dtype),
        y=y.to(dtype),
        name="gaussian_eigenfeatures",
        description=f"Gaussian features of {len(spectrum)} modes, noise variance {variance:g}.",
        source="generated",
    )


def signals(
    n: int,
    length: int = 40,
    *,
    shift: float = 0.25,
    stretch: float = 1.5,
    shear: float = 1.0,
    noise: float = 0.25,
    label_noise: float = 0.0,
    generator: torch.Generator | int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Draw one-dimensional signals of ten shapes: a small task that rewards a good model.

    Sample i of class k is seen at t_j = j/(length − 1):

        x_ij = a_i T_k(u) + s_i (t_j − ½) + noise ε_ij,   u = (t_j − ½ − c_i) / (w_i / 4),

    with position c ~ U(−shift, shift), width log w ~ U(−log stretch, log stretch), amplitude
    a ~ U(¾, 5/4), slope s ~ U(−shear, shear) and ε ~ N(0, 1). The templates T_k, with
    H(u) = cos²(πu/2) for abs(u) < 1 and 0 outside, are

    ==  ============  ==========================================
    k   name          T_k(u)
    ==  ============  ==========================================
    0   hump          exp(−4u²)
    1   twin humps    exp(−16(u − ½)²) + exp(−16(u + ½)²)
    2   hat           (1 − 18u²) exp(−9u²)
    3   box           1 for abs(u) < 0.7
    4   tent          max(0, 1 − abs(u))
    5   rising ramp   (1 + u)/2 for abs(u) < 1
    6   falling ramp  (1 − u)/2 for abs(u) < 1
    7   wave          sin(πu) for abs(u) < 1
    8   ripple        H(u) cos(4πu)
    9   chirp         H(u) sin(2π(u + 1)²)
    ==  ============  ==========================================

    Classes are balanced: their counts differ by at most one.

    Parameters
    ----------
    n : int
        Number of samples.
    length : int, default 40
        Points a signal, at least 2.
    shift : float, default 0.25
        Largest displacement as a share of the signal, in [0, 0.5].
    stretch : float, default 1.5
        Largest factor by which a shape is widened or narrowed, at least 1.
    shear : float, default 1.0
        Largest slope of the line that is added, zero or more.
    noise : float, default 0.25
        Standard deviation of the white noise, zero or more; templates have height 1.
    label_noise : float, default 0.0
        Share of labels to replace, in [0, 1]; see `enough.data.flip_labels`.
    generator : torch.Generator, int, or None
        Source of randomness; the result is on its device.
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (n, length), ``y`` (n,) int64 in 0 … 9.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    A design of this book in the spirit of MNIST-1D (S. Greydanus and D. Kobak, "Scaling Down
    Deep Learning with MNIST-1D", ICML 2024): shapes move, so a linear classifier does poorly
    and shift invariance pays. Templates, formulas and code are our own.
    """
    n = check_integer(n, "n", minimum=1)
    length = check_integer(length, "length", minimum=2)
    shift = check_number(shift, "shift", minimum=0.0, maximum=0.5)
    stretch = check_number(stretch, "stretch", minimum=1.0)
    shear = check_number(shear, "shear", minimum=0.0)
    noise = check_number(noise, "noise", minimum=0.0)
    _check_dtype(dtype)
    generator = as_generator(generator)
    device = generator.device
    work = _draw_dtype(dtype)
    classes = len(SIGNAL_CLASSES)
    y = torch.randperm(n, generator=generator, device=device) % classes
    uniform = torch.rand(n, 4, dtype=work, device=device, generator=generator)
    position, width, amplitude, slope = (2.0 * uniform - 1.0).unsqueeze(-1).unbind(1)
    t = torch.linspace(0.0, 1.0, length, dtype=work, device=device)
    u = (t - 0.5 - shift * position) * 4.0 / (width * math.log(stretch)).exp()
    x = torch.empty_like(u)
    for k in range(classes):
        mine = y == k
        x[mine] = _template(k, u[mine])
    x = x * (1.0 + amplitude / 4.0) + shear * slope * (t - 0.5)
    x = x + noise * torch.randn(n, length, dtype=work, device=device, generator=generator)
    return Dataset(
        x=x.to(dtype),
        y=flip_labels(y, label_noise, classes, generator),
        name="signals",
        description=f"Noisy shapes at random places, {length} points each.",
        source="generated",
        class_names=SIGNAL_CLASSES,
    )


def _template(k: int, u: torch.Tensor) -> torch.Tensor:
    inside = (u.abs() < 1.0).to(u.dtype)
    bell = inside * (math.pi * u / 2.0).cos() ** 2
    match k:
        case 0:
            return torch.exp(-4.0 * u**2)
        case 1:
            return torch.exp(-16.0 * (u - 0.5) ** 2) + torch.exp(-16.0 * (u + 0.5) ** 2)
        case 2:
            return (1.0 - 18.0 * u**2) * torch.exp(-9.0 * u**2)
        case 3:
            return (u.abs() < 0.7).to(u.dtype)
        case 4:
            return (1.0 - u.abs()).clamp(min=0.0)
        case 5:
            return inside * (1.0 + u) / 2.0
        case 6:
            return inside * (1.0 - u) / 2.0
        case 7:
            return inside * (math.pi * u).sin()
        case 8:
            return bell * (4.0 * math.pi * u).cos()
        case _:
            return bell * (2.0 * math.pi * (u + 1.0) ** 2).sin()


def _check_dtype(dtype: torch.dtype) -> None:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point torch.dtype, got {dtype!r}")


def _draw_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is drawn and combined in float32, and rounded at the end."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _square_roots(spread: torch.Tensor, classes: int, features: int) -> torch.Tensor:
    """Symmetric square roots of the covariances, shape (classes, features, features)."""
    identity = torch.eye(features, dtype=torch.float64)
    if spread.ndim == 0:
        variance = check_number(spread, "covariance", minimum=0.0)
        return math.sqrt(variance) * identity.expand(classes, -1, -1)
    square = (features, features)
    check_tensor(spread, "covariance", shape=square if spread.ndim == 2 else (classes, *square))
    if not torch.allclose(spread, spread.mT, rtol=1e-6, atol=1e-12):
        raise ValueError("covariance: expected symmetric matrices, got one that is not")
    values, vectors = torch.linalg.eigh(spread)
    if bool((values < -1e-6 * values.abs().amax(-1, keepdim=True)).any()):
        raise ValueError(
            f"covariance: expected no negative eigenvalue, got {values.min().item():.3g}"
        )
    roots = (vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)) @ vectors.mT
    return roots.expand(classes, -1, -1)


def _weights(weights: Any, classes: int) -> torch.Tensor:
    if weights is None:
        return torch.full((classes,), 1.0 / classes, dtype=torch.float64)
    (given,), _ = as_tensors(weights=weights)
    check_tensor(given, "weights", shape=(classes,))
    if not bool((given > 0).all()):
        raise ValueError(f"weights: expected positive numbers, got {given.min().item()}")
    given = given.double().cpu()
    return given / given.sum()
