"""Generated data against the moments and formulas that define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from enough.data import (
    SIGNAL_CLASSES,
    gaussian_eigenfeatures,
    gaussian_mixture,
    power_law_coefficients,
    power_law_spectrum,
    signals,
)

# Mixtures.

MEANS = np.array([[0.0, 0.0, 1.0], [4.0, -2.0, 0.0]])
ROTATED = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
SINGULAR = np.outer([1.0, 1.0, 0.0], [1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        (0.25, [0.25 * np.eye(3)] * 2),
        (ROTATED, [ROTATED] * 2),
        (np.stack([ROTATED, SINGULAR]), [ROTATED, SINGULAR]),
        (0.0, [np.zeros((3, 3))] * 2),
    ],
    ids=["scalar", "shared", "one a class", "zero"],
)
def test_mixture_moments(covariance, expected):
    n = 40000
    data = gaussian_mixture(n, MEANS, covariance, generator=0, dtype=torch.float64)
    for k, wanted in enumerate(expected):
        x = data.x[data.y == k].numpy()
        error = np.sqrt(np.diag(wanted) / len(x))
        assert (np.abs(x.mean(0) - MEANS[k]) <= 5 * error + 1e-12).all()
        # Var of a sample covariance entry: (Σ_ij² + Σ_ii Σ_jj) / n for Gaussians.
        spread = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / len(x))
        assert (np.abs(np.cov(x.T) - wanted) <= 5 * spread + 1e-12).all()


def test_mixture_is_gaussian():
    data = gaussian_mixture(5000, MEANS, ROTATED, generator=1, dtype=torch.float64)
    x = data.x[data.y == 1].numpy() - MEANS[1]
    distance = np.einsum("ni,ij,nj->n", x, np.linalg.inv(ROTATED), x)
    assert stats.kstest(distance, stats.chi2(3).cdf).pvalue > 1e-3


def test_mixture_weights():
    n = 30000
    data = gaussian_mixture(n, np.zeros((3, 1)), weights=[1, 2, 7], generator=0)
    share = np.bincount(data.y, minlength=3) / n
    wanted = np.array([0.1, 0.2, 0.7])
    assert (np.abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / n)).all()


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.5, 1.0])
def test_mixture_noise_is_exact_and_leaves_the_rest_alone(rate):
    clean = gaussian_mixture(1001, MEANS, generator=5)
    noisy = gaussian_mixture(1001, MEANS, label_noise=rate, generator=5)
    assert torch.equal(clean.x, noisy.x)
    assert int((clean.y != noisy.y).sum()) == round(rate * 1001)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n": 0}, "n"),
        ({"means": [[1.0, 2.0]]}, "means"),
        ({"means": [1.0, 2.0]}, "means"),
        ({"covariance": -1.0}, "covariance"),
        ({"covariance": np.eye(2)}, "covariance"),
        ({"covariance": np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])}, "covariance"),
        ({"covariance": np.diag([1.0, 1.0, -0.5])}, "covariance"),
        ({"covariance": np.stack([np.eye(3)] * 3)}, "covariance"),
        ({"weights": [1.0]}, "weights"),
        ({"weights": [1.0, 0.0]}, "weights"),
        ({"label_noise": 1.5}, "rate"),
        ({"dtype": torch.int64}, "dtype"),
    ],
)
def test_mixture_refuses(changes, name):
    arguments = {"n": 5, "means": MEANS, "generator": 0, **changes}
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        gaussian_mixture(**arguments)


# Eigenfeatures.


def test_eigenfeatures_have_the_spectrum_and_the_target():
    n, modes = 40000, 6
    spectrum = power_law_spectrum(modes, 1.5)
    target = power_law_coefficients(modes, 1.2) * torch.tensor([1, -1, 1, -1, 1, -1])
    data = gaussian_eigenfeatures(
        n, spectrum, target, noise_variance=0.3, generator=0, dtype=torch.float64
    )
    covariance = data.x.T @ data.x / n
    spread = ((spectrum[:, None] * spectrum + torch.diag(spectrum**2)) / n).sqrt()
    assert ((covariance - torch.diag(spectrum)).abs() < 5 * spread).all()
    # Regression on the eigenfunctions gives the coefficients and the noise back.
    functions = data.x / spectrum.sqrt()
    solution = torch.linalg.lstsq(functions, data.y[:, None]).solution[:, 0]
    assert ((solution - target).abs() < 5 * math.sqrt(0.3 / n)).all()
    residual = data.y - functions @ target
    assert float(residual.var()) == pytest.approx(0.3, rel=5 * math.sqrt(2 / n))


def test_eigenfeatures_without_noise_are_linear():
    spectrum, target = np.array([2.0, 0.5]), np.array([1.0, -3.0])
    data = gaussian_eigenfeatures(50, spectrum, target, generator=2, dtype=torch.float64)
    weights = torch.from_numpy(target / np.sqrt(spectrum))
    torch.testing.assert_close(data.x @ weights, data.y)


def test_a_mode_of_eigenvalue_zero_is_noise():
    data = gaussian_eigenfeatures(20000, [1.0, 0.0], [1.0, 2.0], generator=0, dtype=torch.float64)
    assert data.x[:, 1].abs().max() == 0
    residual = data.y - data.x[:, 0]
    assert float(residual.var()) == pytest.approx(4.0, rel=5 * math.sqrt(2 / 20000))


def test_noise_stream_is_apart():
    quiet, loud = (
        gaussian_eigenfeatures(30, [1.0, 0.5], [1.0, 1.0], noise_variance=v, generator=3)
        for v in (0.0, 4.0)
    )
    assert torch.equal(quiet.x, loud.x)
    assert not torch.equal(quiet.y, loud.y)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"eigenvalues": [-1.0, 1.0]}, "eigenvalues"),
        ({"eigenvalues": [[1.0, 1.0]]}, "eigenvalues"),
        ({"coefficients": [1.0]}, "coefficients"),
        ({"coefficients": [1.0, math.nan]}, "coefficients"),
        ({"noise_variance": -0.1}, "noise_variance"),
        ({"n": 0}, "n"),
    ],
)
def test_eigenfeatures_refuse(changes, name):
    arguments = {"n": 3, "eigenvalues": [1.0, 1.0], "coefficients": [1.0, 1.0], **changes}
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        gaussian_eigenfeatures(**arguments, generator=0)


# Signals.


def bell(u):
    return np.where(np.abs(u) < 1, np.cos(np.pi * u / 2) ** 2, 0.0)


# The table of the docstring, written a second time.
TEMPLATES = [
    lambda u: np.exp(-4 * u**2),
    lambda u: np.exp(-16 * (u - 0.5) ** 2) + np.exp(-16 * (u + 0.5) ** 2),
    lambda u: (1 - 18 * u**2) * np.exp(-9 * u**2),
    lambda u: np.where(np.abs(u) < 0.7, 1.0, 0.0),
    lambda u: np.maximum(0, 1 - np.abs(u)),
    lambda u: np.where(np.abs(u) < 1, (1 + u) / 2, 0),
    lambda u: np.where(np.abs(u) < 1, (1 - u) / 2, 0),
    lambda u: np.where(np.abs(u) < 1, np.sin(np.pi * u), 0),
    lambda u: bell(u) * np.cos(4 * np.pi * u),
    lambda u: bell(u) * np.sin(2 * np.pi * (u + 1) ** 2),
]
STILL = {"shift": 0.0, "stretch": 1.0, "shear": 0.0, "noise": 0.0, "dtype": torch.float64}


def test_still_signals_are_the_templates():
    data = signals(200, 57, generator=0, **STILL)
    u = (np.linspace(0, 1, 57) - 0.5) * 4
    for x, k in zip(data.x.numpy(), data.y.tolist(), strict=True):
        template = TEMPLATES[k](u)
        amplitude = x @ template / (template @ template)
        assert 0.75 <= amplitude <= 1.25
        np.testing.assert_allclose(x, amplitude * template, atol=1e-12)


def test_moving_signals_follow_the_formula():
    """A hump's place, width and height can be read off, and follow their laws."""
    settings = {**STILL, "shift": 0.2, "stretch": 2.0}
    data = signals(20000, 401, generator=1, **settings)
    x = data.x[data.y == 0].numpy()
    t = np.linspace(0, 1, 401)
    mass = x.sum(1)
    place = x @ t / mass
    width = np.sqrt((x * (t - place[:, None]) ** 2).sum(1) / mass)
    # exp(−4u²), u = 4 (t − ½ − c)/w, has standard deviation w / (8 √2) and mass a w √π/8.
    factor = width * 8 * math.sqrt(2)
    assert stats.kstest((place - 0.5) / 0.2, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(np.log(factor), stats.uniform(-math.log(2), 2 * math.log(2)).cdf).pvalue > (
        1e-3
    )
    amplitude = mass / 400 * 8 / math.sqrt(math.pi) / factor
    assert stats.kstest(amplitude, stats.uniform(0.75, 0.5).cdf).pvalue > 1e-3


def test_shear_and_noise():
    flat = signals(3000, 41, generator=2, **STILL)
    bent = signals(3000, 41, generator=2, **{**STILL, "shear": 0.8})
    line = np.linspace(0, 1, 41) - 0.5
    added = (bent.x - flat.x).numpy()
    slope = added @ line / (line @ line)
    np.testing.assert_allclose(added, slope[:, None] * line, atol=1e-12)
    assert stats.kstest(slope, stats.uniform(-0.8, 1.6).cdf).pvalue > 1e-3
    loud = signals(3000, 41, generator=2, **{**STILL, "noise": 0.3})
    noise = (loud.x - flat.x).numpy().ravel()
    assert stats.kstest(noise, stats.norm(0, 0.3).cdf).pvalue > 1e-3
    pairs = np.corrcoef(
        (loud.x - flat.x).numpy()[:, :-1].ravel(), noise.reshape(-1, 41)[:, 1:].ravel()
    )
    assert abs(pairs[0, 1]) < 5 / math.sqrt(120000)  # white


def test_signal_classes_are_balanced_and_shuffled():
    data = signals(1003, generator=0)
    assert data.x.shape == (1003, 40)
    assert data.x.dtype == torch.float32
    assert data.class_names == SIGNAL_CLASSES
    counts = np.bincount(data.y, minlength=10)
    assert counts.max() - counts.min() == 1
    assert (data.y[:-1] > data.y[1:]).any()
    noisy = signals(1003, label_noise=0.2, generator=0)
    assert torch.equal(noisy.x, data.x)
    assert int((noisy.y != data.y).sum()) == round(0.2 * 1003)


def test_signals_need_more_than_a_line():
    """Where shapes stand still a linear classifier does well; where they move it does not."""
    from sklearn.linear_model import RidgeClassifier

    def accuracy(**settings):
        train, test = signals(1500, generator=0, **settings), signals(1500, generator=1, **settings)
        model = RidgeClassifier(alpha=1.0).fit(train.x.numpy(), train.y.numpy())
        return model.score(test.x.numpy(), test.y.numpy())

    assert accuracy(shift=0.0, stretch=1.0, shear=0.0) > 0.85
    assert accuracy() < 0.5


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"n": 0}, "n"),
        ({"length": 1}, "length"),
        ({"shift": 0.6}, "shift"),
        ({"stretch": 0.9}, "stretch"),
        ({"shear": -1.0}, "shear"),
        ({"noise": -1.0}, "noise"),
        ({"label_noise": -1.0}, "rate"),
        ({"dtype": torch.int32}, "dtype"),
    ],
)
def test_signals_refuse(changes, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        signals(**{"n": 20, "generator": 0, **changes})


# All of them.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_global_state(dtype):
    before = torch.get_rng_state()
    for draw in (
        lambda g: gaussian_mixture(20, MEANS, ROTATED, generator=g, dtype=dtype),
        lambda g: gaussian_eigenfeatures(20, [1.0, 0.5], [1.0, 1.0], generator=g, dtype=dtype),
        lambda g: signals(20, generator=g, dtype=dtype),
    ):
        first, again, other = draw(7), draw(7), draw(8)
        assert first.x.dtype == dtype
        assert torch.equal(first.x, again.x)
        assert torch.equal(first.y, again.y)
        assert not torch.equal(first.x, other.x)
        generator = torch.Generator().manual_seed(7)
        assert torch.equal(draw(generator).x, first.x)
        assert not torch.equal(draw(generator).x, first.x)  # the stream moves on
    assert torch.equal(before, torch.get_rng_state())
