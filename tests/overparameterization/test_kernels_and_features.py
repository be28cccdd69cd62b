"""Kernels in closed form against quadrature, Monte Carlo, finite networks and scikit-learn."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, special
from sklearn.metrics.pairwise import rbf_kernel as sklearn_rbf
from torch.func import functional_call, jacrev, vmap

from enough.overparameterization import (
    arc_cosine_kernel,
    eigenfeatures,
    feature_kernel,
    kernels,
    laplacian_kernel,
    neural_tangent_kernel,
    nngp_kernel,
    random_features,
    rbf_kernel,
)

ACTIVATIONS = ["relu", "step", "erf", "cos", "linear"]


def points(n, d=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def gaussian_moment(function, covariance):
    """E[f(u) f(v)] for (u, v) ~ N(0, covariance), by nested adaptive quadrature.

    Polar coordinates: for the homogeneous functions tested here, f(r t) = r**degree f(t), the
    radius integrates out and only an angle is left.
    """
    root = np.linalg.cholesky(covariance)
    degree = {"relu": 1, "step": 0}[function]
    radial = {0: 1.0, 1: 2.0}[degree]  # E[r**(2 degree)] of a two-dimensional standard normal

    def at(angle):
        u, v = root @ np.array([math.cos(angle), math.sin(angle)])
        if min(u, v) <= 0:
            return 0.0
        return (u * v) ** degree

    kinks = []  # where u or v changes sign
    for row in root:
        base = math.atan2(-row[0], row[1])
        kinks += [base % (2 * math.pi), (base + math.pi) % (2 * math.pi)]
    edges = sorted([0.0, *kinks, 2 * math.pi])
    total = sum(integrate.quad(at, a, b, epsabs=1e-13)[0] for a, b in itertools.pairwise(edges))
    return radial * total / (2 * math.pi)


@pytest.mark.parametrize(("degree", "function"), [(0, "step"), (1, "relu")])
def test_arc_cosine_kernel_is_its_gaussian_moment(degree, function):
    x = points(4)
    found = arc_cosine_kernel(x, degree=degree)
    gram = (x @ x.T).numpy()
    for i in range(4):
        for j in range(i):
            want = 2 * gaussian_moment(function, gram[np.ix_([i, j], [i, j])])
            assert found[i, j].item() == pytest.approx(want, rel=1e-9)
    norm = x.square().sum(1) if degree else torch.ones(4, dtype=x.dtype)
    torch.testing.assert_close(found.diagonal(), norm, rtol=1e-14, atol=0)
    # One more layer is the same map on the Gram matrix of the first.
    covariance = found.numpy()
    want = 2 * gaussian_moment(function, covariance[np.ix_([0, 2], [0, 2])])
    assert arc_cosine_kernel(x, degree=degree, depth=2)[0, 2].item() == pytest.approx(
        want, rel=1e-9
    )


def test_arc_cosine_kernel_at_special_angles():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    one, zero = arc_cosine_kernel(x), arc_cosine_kernel(x, degree=0)
    assert one[0, 1].item() == pytest.approx(2 / math.pi)  # right angle, lengths 1 and 2
    assert one[0, 2].item() == pytest.approx(0.0, abs=1e-15)  # opposite
    assert one[0, 3].item() == 0.0  # the origin
    assert zero[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.5])


def test_near_coincident_points_keep_their_digits():
    """1 - k_0 is proportional to a tiny angle, in float32 inputs too."""
    angle = 2.0**-10
    x = torch.tensor([[1.0, 0.0], [1.0, angle]])
    found = arc_cosine_kernel(x, degree=0)
    assert found.dtype == torch.float32
    assert 1 - found[0, 1].item() == pytest.approx(math.atan(angle) / math.pi, rel=1e-3)
    exact = arc_cosine_kernel(x.double(), degree=0)[0, 1].item()
    assert 1 - exact == pytest.approx(math.atan(angle) / math.pi, rel=1e-9)
    close = laplacian_kernel(torch.tensor([[3.0, 4.0], [3.0, 4.0 + 2.0**-20]]).double())
    assert -math.log(close[0, 1].item()) == pytest.approx(2.0**-20, rel=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feature_average_converges_to_the_kernel(activation):
    """400,000 features: within five standard errors of the closed form, entry by entry."""
    x, y = points(5), points(3, seed=1)
    count = 400_000
    both = random_features(torch.cat([x, y]), count, activation, generator=2)
    f, g = both[:5], both[5:]
    products = f[:, None] * g[None]
    error = products.mean(-1) - feature_kernel(x, y, activation)
    assert (error.abs() < 5 * products.std(-1) / math.sqrt(count)).all()
    assert products.std(-1).min() / math.sqrt(count) < 0.01  # the test has power


def test_erf_kernel_against_quadrature():
    x = 0.4 * points(2, d=2)
    root = np.linalg.cholesky((x @ x.T).numpy())
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    a, b = np.meshgrid(nodes, nodes, indexing="ij")
    u, v = root[0, 0] * a, root[1, 0] * a + root[1, 1] * b
    want = (special.erf(u) * special.erf(v) * np.outer(weights, weights)).sum() / (2 * math.pi)
    assert feature_kernel(x, activation="erf")[0, 1].item() == pytest.approx(want, rel=1e-9)


def test_random_features_share_weights_as_documented():
    x = points(7)
    for activation in ACTIVATIONS:
        whole = random_features(x, 11, activation, generator=3)
        part = random_features(x[2:4], 11, activation, generator=3)
        torch.testing.assert_close(part, whole[2:4])
        batch = random_features(torch.stack([x, 2 * x]), 11, activation, generator=3)
        torch.testing.assert_close(batch[0], whole)
    own = random_features(torch.stack([x, x]), 11, "cos", generator=3, independent=True)
    assert (own[0] - own[1]).abs().max() > 0.1
    generator = torch.Generator().manual_seed(3)
    torch.testing.assert_close(
        random_features(x, 11, generator=generator), random_features(x, 11, generator=3)
    )
    # The weights do not depend on the dtype, and the caller's array is left alone.
    single = x.float()
    before = single.clone()
    found = random_features(single, 11, generator=3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), random_features(x, 11, generator=3), atol=1e-5, rtol=0
    )
    assert torch.equal(single, before)
    assert isinstance(random_features(x.numpy(), 2), np.ndarray)
    assert random_features(np.ones((2, 3), dtype=int), 4).dtype == np.float64
    assert (random_features(x, 5) != random_features(x, 5)).any()  # no seed, no repetition


def test_eigenfeatures_have_the_documented_covariance():
    eigenvalues = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    phi = points(4)
    features, weights = eigenfeatures(phi, eigenvalues, 200_000, generator=0)
    torch.testing.assert_close(features, phi @ weights)
    covariance = weights @ weights.T / 200_000
    torch.testing.assert_close(covariance, eigenvalues.diag(), atol=0.01, rtol=0)
    batch, own = eigenfeatures(torch.stack([phi, phi]), eigenvalues, 6, generator=0)
    assert batch.shape == (2, 4, 6)
    assert (own[0] - own[1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="eigenvalues"):
        eigenfeatures(phi, eigenvalues[:2], 5)
    with pytest.raises(ValueError, match="eigenvalues"):
        eigenfeatures(phi, -eigenvalues, 5)


def test_nngp_kernel_composes_gaussian_moments():
    x = points(3)
    torch.testing.assert_close(nngp_kernel(x, depth=3), arc_cosine_kernel(x, depth=3))
    bias = 0.3
    covariance = (x @ x.T + bias).numpy()
    for _ in range(2):
        layer = np.diag(np.diag(covariance) + bias)
        for i in range(3):
            for j in range(i):
                block = covariance[np.ix_([i, j], [i, j])]
                layer[i, j] = layer[j, i] = 2 * gaussian_moment("relu", block) + bias
        covariance = layer
    found = nngp_kernel(x, depth=2, bias_variance=bias)
    np.testing.assert_allclose(found.numpy(), covariance, rtol=1e-9)


class Network(torch.nn.Module):
    """A ReLU network in the parameterization of the kernels' documentation."""

    def __init__(self, d, width, depth, bias, generator):
        super().__init__()
        sizes = [d, *[width] * depth, 1]
        draw = {"generator": generator, "dtype": torch.float64}
        self.weights = torch.nn.ParameterList(
            torch.randn(o, i, **draw) for i, o in itertools.pairwise(sizes)
        )
        self.biases = torch.nn.ParameterList(torch.randn(o, **draw) for o in sizes[1:])
        self.scale = math.sqrt(bias)

    def forward(self, x):
        for i, (weight, offset) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                x = torch.relu(x) * math.sqrt(2 / weight.shape[1])
            x = weight @ x + self.scale * offset
        return x[0]


@pytest.mark.parametrize(("depth", "bias"), [(1, 0.0), (2, 0.2)])
def test_neural_tangent_kernel_is_the_limit_of_wide_networks(depth, bias):
    """Mean over networks within 4 standard errors; their spread falls as width ** -1/2."""
    x = points(4, seed=5)
    want = neural_tangent_kernel(x, depth=depth, bias_variance=bias)
    spread = []
    for width, count in [(32, 48), (128, 24), (512, 12)]:
        generator = torch.Generator().manual_seed(width)
        sample = []
        for _ in range(count):
            network = Network(3, width, depth, bias, generator)
            parameters = dict(network.named_parameters())
            output = partial(functional_call, network)
            jacobian = vmap(jacrev(output), (None, 0))(parameters, x)
            flat = torch.cat([j.flatten(1) for j in jacobian.values()], dim=1)
            sample.append(flat @ flat.T)
        sample = torch.stack(sample)
        spread.append((sample.std(0) / want.abs()).mean().item())
    error = (sample.mean(0) - want).abs()
    assert (error < 4 * sample.std(0) / math.sqrt(count) + 3 / width * want.abs()).all()
    slopes = np.diff(np.log(spread)) / math.log(4)
    assert slopes == pytest.approx([-0.5, -0.5], abs=0.2)


def test_gaussian_and_laplacian_kernels():
    x, y = points(5), points(3, seed=1)
    want = sklearn_rbf(x.numpy(), y.numpy(), gamma=1 / (2 * 1.7**2))
    np.testing.assert_allclose(rbf_kernel(x, y, bandwidth=1.7).numpy(), want, rtol=1e-12)
    distance = (x[:, None] - y[None]).square().sum(-1).sqrt()
    torch.testing.assert_close(laplacian_kernel(x, y, bandwidth=0.6), torch.exp(-distance / 0.6))
    assert (rbf_kernel(x).diagonal() == 1).all()


def test_blocks_batches_and_types(monkeypatch):
    x, y = points(6).reshape(2, 3, 3), points(4, seed=1)
    functions = [
        lambda a, b=None: arc_cosine_kernel(a, b, degree=0, depth=2),
        lambda a, b=None: neural_tangent_kernel(a, b, depth=2, bias_variance=0.1),
        lambda a, b=None: nngp_kernel(a, b, bias_variance=0.1),
        rbf_kernel,
        laplacian_kernel,
        *(lambda a, b=None, k=k: feature_kernel(a, b, k) for k in ACTIVATIONS),
    ]
    for function in functions:
        batch = function(x, y)
        assert batch.shape == (2, 3, 4)
        torch.testing.assert_close(batch[1], function(x[1], y))
        alone = function(x)
        assert torch.equal(alone, alone.mT)
        torch.testing.assert_close(alone[0], function(x[0], x[0]), rtol=1e-7, atol=1e-7)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_MEMORY", 1)  # one row at a time
            torch.testing.assert_close(function(x, y), batch)
        array = function(x[0].numpy().astype(np.float32))
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: arc_cosine_kernel(torch.ones(3)), "x"),
        (lambda: arc_cosine_kernel(torch.ones(3, 2), torch.ones(3, 4)), "y"),
        (lambda: arc_cosine_kernel(torch.ones(2, 3, 2), torch.ones(3, 3, 2)), "broadcast"),
        (lambda: arc_cosine_kernel(torch.full((2, 2), math.nan)), "x"),
        (lambda: arc_cosine_kernel(torch.ones(3, 2), degree=2), "degree"),
        (lambda: arc_cosine_kernel(torch.ones(3, 2), depth=0), "depth"),
        (lambda: neural_tangent_kernel(torch.ones(3, 2), depth=0), "depth"),
        (lambda: nngp_kernel(torch.ones(3, 2), bias_variance=-0.1), "bias_variance"),
        (lambda: rbf_kernel(torch.ones(3, 2), bandwidth=0.0), "bandwidth"),
        (lambda: laplacian_kernel(torch.ones(3, 2), bandwidth=-1.0), "bandwidth"),
        (lambda: feature_kernel(torch.ones(3, 2), activation="gelu"), "activation"),
        (lambda: random_features(torch.ones(3), 4), "x"),
        (lambda: random_features(torch.ones(3, 2), 0), "n_features"),
        (lambda: random_features(torch.ones(3, 2), 4, "gelu"), "activation"),
        (lambda: random_features(torch.ones(3, 2), 4, generator="seed"), "generator"),
        (lambda: random_features(torch.full((3, 2), math.inf), 4), "x"),
    ],
)
def test_rejects_what_makes_no_sense(call, name):
    with pytest.raises(ValueError, match=name):
        call()
