r"""XOR clusters, and a two-layer ReLU network trained on them through inner products alone.

Four Gaussian clusters sit at :math:`\pm\mu_1` (label +1) and :math:`\pm\mu_2` (label -1), in a
dimension p far above the number of samples n. Full-batch gradient descent only ever adds
training points to a neuron's weights, so the weights stay in the span of the n points and the
initialization. Two facts follow. Training needs the Gram matrix of the data, not the data; and
data, initial weights and test points can be drawn in coordinates of that span, so a dimension of
a million costs what a dimension of a thousand costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "ReluRun",
    "XORProblem",
    "draw_xor_clusters",
    "fitted_share",
    "output_signs",
    "train_linear",
    "train_relu",
    "xor_problem",
]


@dataclass(frozen=True)
class XORProblem:
    r"""Training points, test points and initial weights, batched over seeds.

    All vectors are given in coordinates of one orthonormal basis; the first two coordinates are
    the directions of :math:`\mu_1` and :math:`\mu_2`.

    Parameters
    ----------
    x : torch.Tensor of shape (S, n, k)
        Training points.
    labels : torch.Tensor of shape (S, n)
        Labels that training sees, +1 or -1, some of them flipped.
    clean : torch.Tensor of shape (S, n)
        Labels before flipping.
    x_test : torch.Tensor of shape (S, t, k)
        Fresh points.
    test_labels : torch.Tensor of shape (S, t)
        Their labels, never flipped.
    weights : torch.Tensor of shape (S, m, k)
        Initial weights of the neurons.
    dimension : int
        Dimension p of the space that the points were drawn in.
    separation : float
        Length of :math:`\mu_1` and :math:`\mu_2`.
    """

    x: Tensor
    labels: Tensor
    clean: Tensor
    x_test: Tensor
    test_labels: Tensor
    weights: Tensor
    dimension: int
    separation: float

    @property
    def flipped(self) -> Tensor:
        """Which training labels are flipped: (S, n), boolean."""
        return self.labels != self.clean


@dataclass(frozen=True)
class ReluRun:
    r"""A trained network at the recorded steps.

    The weights of neuron j are :math:`w_j = w_j^{(0)} + \sum_i C_{ij} x_i`.

    Parameters
    ----------
    steps : list of int
        Recorded steps; R of them.
    coefficients : torch.Tensor of shape (R, S, n, m)
        The coefficients C.
    x : torch.Tensor of shape (S, n, k)
        Training points.
    weights : torch.Tensor of shape (S, m, k)
        Initial weights.
    signs : torch.Tensor of shape (m,)
        Second layer :math:`a_j`.
    frozen : bool
        Whether the activation patterns stayed at their initial values.
    """

    steps: list[int]
    coefficients: Tensor
    x: Tensor
    weights: Tensor
    signs: Tensor
    frozen: bool = False

    def weights_at(self, record: int) -> Tensor:
        """Compute the weights at one recorded step.

        Parameters
        ----------
        record : int
            Index into ``steps``.

        Returns
        -------
        torch.Tensor of shape (S, m, k)
            One row a neuron.
        """
        return self.weights + self.coefficients[record].mT @ self.x

    def outputs(self, points: Tensor) -> Tensor:
        """Evaluate the network at the recorded steps.

        A frozen network gives the change of its linearization since the start.

        Parameters
        ----------
        points : torch.Tensor of shape (S, t, k)
            Where to evaluate, for example ``problem.x_test``.

        Returns
        -------
        torch.Tensor of shape (R, S, t)
            The outputs.
        """
        start, gram = points @ self.weights.mT, points @ self.x.mT
        if self.frozen:
            gate = (start > 0).to(start.dtype) * self.signs
            return torch.stack([(gate * (gram @ c)).sum(-1) for c in self.coefficients])
        return torch.stack([(start + gram @ c).relu() @ self.signs for c in self.coefficients])

    def linear_part(self, points: Tensor) -> Tensor:
        r"""Evaluate the odd part of the network, :math:`\frac12 \sum_j a_j w_j \cdot x`.

        Parameters
        ----------
        points : torch.Tensor of shape (S, t, k)
            Where to evaluate.

        Returns
        -------
        torch.Tensor of shape (R, S, t)
            The odd part; ``outputs`` minus this is the even part, unless the run is frozen.

        Notes
        -----
        Since :math:`\max(h, 0) = \frac12 h + \frac12 |h|`, the odd part of a network without
        biases is linear.
        """
        start = points @ (self.weights.mT @ self.signs)[..., None]
        gram = points @ self.x.mT
        change = torch.stack([gram @ (c @ self.signs)[..., None] for c in self.coefficients])
        return 0.5 * (start + change)[..., 0]

    def center_cosines(self) -> Tensor:
        r"""Measure how the neurons point at the cluster centers.

        The first two coordinates must be the directions of :math:`\mu_1` and :math:`\mu_2`, as
        in `xor_problem`.

        Returns
        -------
        torch.Tensor of shape (R, S, m, 2)
            Cosine of each neuron's weights with :math:`\mu_1` and :math:`\mu_2`.
        """
        found = []
        for record in range(len(self.steps)):
            w = self.weights_at(record)
            found.append(w[..., :2] / w.norm(dim=-1, keepdim=True))
        return torch.stack(found)


def draw_xor_clusters(
    n_samples: int,
    dimension: int,
    separation: float,
    noise_rate: float = 0.0,
    generator: torch.Generator | int | None = None,
    *,
    seeds: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Draw XOR clusters in full coordinates.

    A point is :math:`s\,\mu_c + z` with a cluster axis c of 1 or 2, a sign s, both uniform, and
    :math:`z \sim N(0, I_p)`. Its label is +1 on the first axis and -1 on the second.

    Parameters
    ----------
    n_samples : int
        Points a seed.
    dimension : int
        Dimension p, two or more.
    separation : float
        Length of :math:`\mu_1` and :math:`\mu_2`, zero or more. They lie along the first two
        coordinates, which costs no generality: the noise looks alike in all directions.
    noise_rate : float, default 0.0
        Probability that a label is flipped, in [0, 0.5].
    generator : torch.Generator, int, or None
        Source of the draws.
    seeds : int, default 1
        Number S of independent data sets.

    Returns
    -------
    x : torch.Tensor of shape (S, n, p), float64
        Points.
    labels : torch.Tensor of shape (S, n), float64
        Labels with flips.
    clean : torch.Tensor of shape (S, n), float64
        Labels without flips.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [1] Z. Xu, Y. Wang, S. Frei, G. Vardi and W. Hu, "Benign Overfitting and Grokking in
       ReLU Networks for XOR Cluster Data", arXiv:2310.02541.
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    dimension = check_integer(dimension, "dimension", minimum=2)
    seeds = check_integer(seeds, "seeds", minimum=1)
    separation, noise_rate = _check_rates(separation, noise_rate)
    generator = as_generator(generator)
    device = generator.device
    x = torch.randn(
        seeds, n_samples, dimension, generator=generator, device=device, dtype=torch.float64
    )
    clean = _place(x, separation, generator)
    return x, _flip(clean, noise_rate, generator), clean


def xor_problem(
    n_samples: int,
    dimension: int,
    separation: float,
    noise_rate: float = 0.15,
    *,
    width: int = 256,
    init_scale: float = 1e-6,
    n_test: int = 1000,
    seeds: int = 5,
    generator: torch.Generator | int | None = None,
) -> XORProblem:
    r"""Draw XOR clusters, initial weights and test points in the span that training uses.

    In distribution, the result is `draw_xor_clusters` in dimension p with Gaussian weights, rotated
    into ``n_samples + width + 2`` coordinates: two for the centers, and a Bartlett factor for
    the rest. Its cost does not depend on p.

    Parameters
    ----------
    n_samples : int
        Training points n a seed.
    dimension : int
        Dimension p, at least ``n_samples + width + 2``.
    separation : float
        Length of the centers :math:`\mu_1` and :math:`\mu_2`, zero or more.
    noise_rate : float, default 0.15
        Probability that a training label is flipped, in [0, 0.5].
    width : int, default 256
        Neurons m.
    init_scale : float, default 1e-6
        Standard deviation of the initial weights.
    n_test : int, default 1000
        Test points a seed, without flips.
    seeds : int, default 5
        Number S of independent problems.
    generator : torch.Generator, int, or None
        Source of the draws.

    Returns
    -------
    XORProblem
        In float64 on the generator's device.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Order the Gaussian vectors: training points, then weights. By Gram and Schmidt, vector i has
    independent standard normal components along the i directions before it and a new direction
    of length :math:`\chi_{p-2-i}` (two coordinates are kept apart for the centers). A test
    point has independent standard normal components along all of them; what is orthogonal to
    them never enters an inner product and is left out.
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    width = check_integer(width, "width", minimum=1)
    rest = n_samples + width
    dimension = check_integer(dimension, "dimension", minimum=rest + 2)
    n_test = check_integer(n_test, "n_test", minimum=1)
    seeds = check_integer(seeds, "seeds", minimum=1)
    init_scale = check_number(init_scale, "init_scale", above=0.0)
    separation, noise_rate = _check_rates(separation, noise_rate)
    generator = as_generator(generator)
    options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    heads = torch.randn(seeds, rest, 2, **options)
    factor = torch.randn(seeds, rest, rest, **options).tril(-1)
    freedom = torch.arange(dimension - 2, dimension - 2 - rest, -1, device=generator.device)
    factor = factor + torch.diag_embed(_chi(freedom.double().expand(seeds, rest), generator))
    vectors = torch.cat([heads, factor], -1)
    x_test = torch.randn(seeds, n_test, rest + 2, **options)
    x, weights = vectors[:, :n_samples].clone(), init_scale * vectors[:, n_samples:]
    clean = _place(x, separation, generator)
    test_labels = _place(x_test, separation, generator)
    labels = _flip(clean, noise_rate, generator)
    return XORProblem(x, labels, clean, x_test, test_labels, weights, dimension, separation)


def output_signs(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    r"""Make the fixed second layer: :math:`+1/\sqrt m` and :math:`-1/\sqrt m` in turn.

    Parameters
    ----------
    width : int
        Neurons m.
    dtype : torch.dtype, default torch.float64
        Floating-point type.

    Returns
    -------
    torch.Tensor of shape (m,)
        The second layer.

    Raises
    ------
    ValueError
        If ``width`` is not a positive whole number.
    """
    width = check_integer(width, "width", minimum=1)
    return (1.0 - 2.0 * (torch.arange(width) % 2)).to(dtype) / math.sqrt(width)


def train_relu(
    x: Any,
    labels: Any,
    weights: Any,
    signs: Any,
    *,
    learning_rate: float,
    record: Sequence[int],
    frozen: bool = False,
) -> ReluRun:
    r"""Train a two-layer ReLU network by full-batch gradient descent through the Gram matrix.

    The network is :math:`f(x) = \sum_j a_j \max(w_j \cdot x, 0)` with fixed :math:`a_j`, the
    loss the mean of :math:`\log(1 + e^{-y f(x)})`. A step adds
    :math:`\frac{\eta}{n} y_i\, \sigma(-y_i f(x_i))\, a_j 1[w_j \cdot x_i > 0]` to the
    coefficient of point i in neuron j.

    Parameters
    ----------
    x : array of shape (S, n, k) or (n, k)
        Training points, in any orthonormal coordinates.
    labels : array of shape (S, n) or (n,)
        Labels, +1 or -1.
    weights : array of shape (S, m, k) or (m, k)
        Initial weights.
    signs : array of shape (m,)
        The second layer.
    learning_rate : float
        Step size :math:`\eta`, above zero.
    record : sequence of int
        Steps to keep, in ascending order; training ends at the last. Step 0 is the start.
    frozen : bool, default False
        Train the linearization at the initial weights instead: the activation patterns stay,
        and the output is its change since the start. This is the lazy network.

    Returns
    -------
    ReluRun
        The coefficients at the recorded steps, in the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is neither +1 nor -1, or an option is out of range.
    """
    (x, y, w, a), _ = as_tensors(x=x, labels=labels, weights=weights, signs=signs)
    x, y = _training_data(x, y)
    w = w[None] if w.ndim == 2 else w
    w = check_tensor(w.to(x.dtype), "weights", shape=(x.shape[0], None, x.shape[2]))
    a = check_tensor(a.to(x.dtype), "signs", shape=(w.shape[1],))
    rate = check_number(learning_rate, "learning_rate", above=0.0)
    steps = _check_record(record)
    gram, start = x @ x.mT, x @ w.mT
    gate = (start > 0).to(x.dtype)
    coefficients = torch.zeros_like(start)
    kept = []
    for step in range(steps[-1] + 1):
        if step in steps:
            kept.append(coefficients.clone())
        change = gram @ coefficients
        if frozen:
            outputs = (gate * change) @ a
        else:
            hidden = start + change
            gate = (hidden > 0).to(x.dtype)
            outputs = hidden.relu_() @ a
        pull = rate / x.shape[1] * y * torch.sigmoid(-y * outputs)
        coefficients = coefficients + pull[..., None] * gate * a
    return ReluRun(steps, torch.stack(kept), x, w, a, bool(frozen))


def train_linear(x: Any, labels: Any, *, learning_rate: float, record: Sequence[int]) -> Tensor:
    r"""Train a linear classifier by full-batch logistic gradient descent from zero.

    Parameters
    ----------
    x : array of shape (S, n, k) or (n, k)
        Training points.
    labels : array of shape (S, n) or (n,)
        Labels, +1 or -1.
    learning_rate : float
        Step size, above zero.
    record : sequence of int
        Steps to keep, in ascending order.

    Returns
    -------
    torch.Tensor of shape (R, S, k)
        The weights at the recorded steps, whatever the kind of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, a label is neither +1 nor -1, or an option is out of range.
    """
    (x, y), _ = as_tensors(x=x, labels=labels)
    x, y = _training_data(x, y)
    rate = check_number(learning_rate, "learning_rate", above=0.0)
    steps = _check_record(record)
    gram, coefficients, kept = x @ x.mT, torch.zeros_like(y), []
    for step in range(steps[-1] + 1):
        if step in steps:
            kept.append((coefficients[:, None] @ x)[:, 0])
        outputs = (gram @ coefficients[..., None])[..., 0]
        coefficients = coefficients + rate / x.shape[1] * y * torch.sigmoid(-y * outputs)
    return torch.stack(kept)


def fitted_share(n_samples: int, dimension: int, separation: Any) -> Any:
    r"""Predict the share of training labels that the first gradient step fits.

    After one step from a tiny initialization the network is nearly linear, and the margin of
    point i is proportional to :math:`y_i \sum_j y_j\, x_j \cdot x_i`: the point's own vote
    :math:`|x_i|^2 \approx p + \mu^2` against the votes of the others, which are nearly Gaussian
    with variance :math:`\mu^4 n / 2 + n (p + 2 \mu^2)`.

    Parameters
    ----------
    n_samples : int
        Training points n.
    dimension : int
        Dimension p.
    separation : float or array
        Length :math:`\mu` of the centers, zero or more.

    Returns
    -------
    float or array
        :math:`\Phi\bigl((p + \mu^2) / \sqrt{\mu^4 n / 2 + n (p + 2\mu^2)}\bigr)` in the shape
        of ``separation``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Half of the other points share the axis of point i. Each adds :math:`y_i y_j s_i s_j \mu^2`
    with a sign :math:`s_i s_j` of mean zero, hence :math:`\mu^4 n / 2` for the sum. Noise adds
    :math:`p` a point (noise times noise), and noise times center adds :math:`2\mu^2`.
    """
    n = check_integer(n_samples, "n_samples", minimum=1)
    p = check_integer(dimension, "dimension", minimum=2)
    scalar = not isinstance(separation, Tensor) and not hasattr(separation, "__len__")
    (mu,), restore = as_tensors(separation=separation)
    mu = check_tensor(mu.double(), "separation", minimum=0.0)
    square = mu.square()
    spread = (square.square() * n / 2 + n * (p + 2 * square)).sqrt()
    share = torch.special.ndtr((p + square) / spread)
    return float(share) if scalar else restore(share)


def _check_rates(separation: float, noise_rate: float) -> tuple[float, float]:
    return (
        check_number(separation, "separation", minimum=0.0),
        check_number(noise_rate, "noise_rate", minimum=0.0, maximum=0.5),
    )


def _check_record(record: Sequence[int]) -> list[int]:
    steps = [check_integer(step, "record", minimum=0) for step in record]
    if not steps or steps != sorted(set(steps)):
        raise ValueError(f"record: expected steps in ascending order, got {list(record)!r}")
    return steps


def _training_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x if x.is_floating_point() else x.double()
    x, y = (x[None], y[None]) if x.ndim == 2 and y.ndim == 1 else (x, y)
    x = check_tensor(x, "x", ndim=3)
    y = check_tensor(y.to(x.dtype), "labels", shape=x.shape[:2])
    if not bool((y.abs() == 1).all()):
        raise ValueError("labels: expected +1 or -1, got other values")
    return x, y


def _place(x: Tensor, separation: float, generator: torch.Generator) -> Tensor:
    """Move points to their clusters, in place, and return their labels."""
    shape = x.shape[:-1]
    axis = torch.randint(0, 2, shape, generator=generator, device=x.device)
    sign = torch.randint(0, 2, shape, generator=generator, device=x.device) * 2.0 - 1.0
    x.scatter_add_(-1, axis[..., None], (separation * sign)[..., None].to(x.dtype))
    return 1.0 - 2.0 * axis.to(x.dtype)


def _flip(clean: Tensor, noise_rate: float, generator: torch.Generator) -> Tensor:
    draw = torch.rand(clean.shape, generator=generator, device=clean.device)
    return torch.where(draw < noise_rate, -clean, clean)


def _chi(freedom: Tensor, generator: torch.Generator) -> Tensor:
    """Draw chi variables, each the length of a Gaussian vector, by Marsaglia and Tsang."""
    shape = freedom / 2
    small = shape < 1
    boosted = torch.where(small, shape + 1, shape)
    d = boosted - 1 / 3
    c = 1 / (3 * d.sqrt())
    options = {"generator": generator, "device": freedom.device, "dtype": freedom.dtype}
    gamma = torch.full_like(freedom, math.nan)
    while bool(gamma.isnan().any()):
        z = torch.randn(freedom.shape, **options)
        u = torch.rand(freedom.shape, **options)
        v = (1 + c * z) ** 3
        log_v = v.clamp(min=1e-300).log()
        good = (v > 0) & (u.log() < 0.5 * z.square() + d * (1 - v + log_v))
        gamma = torch.where(gamma.isnan() & good, d * v, gamma)
    u = torch.rand(freedom.shape, **options)
    gamma = torch.where(small, gamma * u ** (1 / shape.clamp(min=0.25)), gamma)
    return (2 * gamma).sqrt()
