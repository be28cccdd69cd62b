"""Classes that overlap: what one temperature can repair, in cases that can be computed exactly.

On a line, k classes overlap in pairs. There the best temperature of an interpolator, the
uniform guess and the optimum of Mixup all have closed forms. In many dimensions, two Gaussians
have a known posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import entr, log_ndtr
from torch.nn import functional as F

from enough.calibration._inputs import read_logits
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "MixupOptimum",
    "NearestNeighborInterpolator",
    "OverlappingPairs",
    "gaussian_bayes_error",
    "gaussian_log_odds",
    "mixup_optimal_kl",
    "mixup_optimal_posterior",
    "published_temperature",
    "temperature_scaled_kl",
    "uniform_kl",
]

_NODES = 64  # of Gauss-Legendre quadrature, for each smooth piece
_BLOCK = 1 << 22  # numbers in the largest array of a block


@dataclass(frozen=True)
class OverlappingPairs:
    """Distribution of k equally likely classes on a line that overlap in pairs.

    Pair j holds the classes 2j, uniform on [jS, jS + 1], and 2j + 1, uniform on
    [jS + 1 − ρ, jS + 2 − ρ]. A share ρ of the probability lies where two classes overlap.

    Parameters
    ----------
    n_classes : int
        k, even.
    overlap : float
        ρ in [0, 1]. At 0 the two classes of a pair touch, at 1 they cannot be told apart.
    spacing : float, optional
        S, the distance from one pair to the next, at least 2 − ρ. Default: k.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Chidambaram, Ge (2024), On the limitations of temperature scaling for distributions with
    overlaps, Definition 4.1.

    Examples
    --------
    >>> OverlappingPairs(4, 0.5).posterior([0.2, 0.75, 4.9])
    array([[1. , 0. , 0. , 0. ],
           [0.5, 0.5, 0. , 0. ],
           [0. , 0. , 0.5, 0.5]])
    """

    n_classes: int
    overlap: float
    spacing: float | None = None

    def __post_init__(self) -> None:
        k = check_integer(self.n_classes, "n_classes", minimum=2)
        if k % 2:
            raise ValueError(f"n_classes: expected an even number, got {k}")
        rho = check_number(self.overlap, "overlap", minimum=0.0, maximum=1.0)
        spacing = k if self.spacing is None else self.spacing
        spacing = check_number(spacing, "spacing", minimum=2.0 - rho)
        for name, value in (("n_classes", k), ("overlap", rho), ("spacing", spacing)):
            object.__setattr__(self, name, value)

    @property
    def low(self) -> np.ndarray:
        """Left end of the interval of each class, shape (k,); each has length 1."""
        pair, second = np.divmod(np.arange(self.n_classes), 2)
        return pair * self.spacing + second * (1.0 - self.overlap)

    def sample(
        self, n: int, generator: torch.Generator | int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points and labels.

        Parameters
        ----------
        n : int
            How many, at least 1.
        generator : torch.Generator or int, optional
            Source of randomness.

        Returns
        -------
        x : numpy.ndarray, shape (n,)
            Points, float64.
        y : numpy.ndarray, shape (n,)
            Labels, int64.

        Raises
        ------
        ValueError
            If ``n`` is not a whole number from 1.
        """
        n = check_integer(n, "n", minimum=1)
        generator = as_generator(generator)
        where = generator.device
        y = torch.randint(self.n_classes, (n,), generator=generator, device=where).cpu().numpy()
        u = torch.rand(n, generator=generator, device=where, dtype=torch.float64).cpu().numpy()
        return self.low[y] + u, y

    def posterior(self, x: Any) -> Any:
        """Return the probability of each class at a point.

        Parameters
        ----------
        x : array of shape (N,)
            Points of the support.

        Returns
        -------
        array of shape (N, k)
            Rows sum to 1, float64; where two intervals touch, both classes share.

        Raises
        ------
        ValueError
            If a point belongs to no class.
        """
        points, restore = _points(x)
        low = self.low
        inside = (points[:, None] >= low) & (points[:, None] <= low + 1.0)
        count = inside.sum(1, keepdims=True)
        if not count.all():
            stray = points[int(np.argmin(count))]
            raise ValueError(f"x: expected points of the support, got {stray}")
        return restore(inside / count)


class NearestNeighborInterpolator:
    """Predict the label of the nearest training point, with one logit gap everywhere.

    The model that has fitted every label and is equally sure of itself everywhere: the logit
    of the nearest point's label is ``gap``, all others are 0.

    Parameters
    ----------
    gap : float, default 10.0
        The gap, above 0.

    Attributes
    ----------
    x_ : numpy.ndarray, shape (N,)
        Training points in ascending order.
    y_ : numpy.ndarray, shape (N,)
        Their labels.
    n_classes_ : int
        k.

    Raises
    ------
    ValueError
        If ``gap`` is not above 0.

    Examples
    --------
    >>> model = NearestNeighborInterpolator().fit([0.0, 1.0], [0, 1], n_classes=2)
    >>> model.predict([0.2, 0.9])
    array([0, 1])
    """

    def __init__(self, gap: float = 10.0) -> None:
        self.gap = check_number(gap, "gap", above=0.0)

    def fit(self, x: Any, y: Any, n_classes: int) -> NearestNeighborInterpolator:
        """Store the training points.

        Parameters
        ----------
        x : array of shape (N,)
            Points.
        y : array of shape (N,)
            Labels in [0, n_classes).
        n_classes : int
            k, at least 2.

        Returns
        -------
        NearestNeighborInterpolator
            The estimator itself.

        Raises
        ------
        ValueError
            If a shape or a label is wrong.
        """
        self.n_classes_ = check_integer(n_classes, "n_classes", minimum=2)
        points, _ = _points(x)
        (labels,), _ = as_tensors(y=y)
        check_tensor(labels, "y", shape=points.shape, minimum=0, maximum=self.n_classes_ - 1)
        order = np.argsort(points, kind="stable")
        self.x_ = points[order]
        self.y_ = labels.cpu().numpy().astype(np.int64)[order]
        return self

    @property
    def _borders(self) -> np.ndarray:
        """Points where the nearest neighbor changes, (N − 1,)."""
        return 0.5 * (self.x_[1:] + self.x_[:-1])

    def predict(self, x: Any) -> Any:
        """Return the label of the nearest training point, the left one in a tie.

        Parameters
        ----------
        x : array of shape (N,)
            Points.

        Returns
        -------
        array of shape (N,)
            Labels, int64.
        """
        points, restore = _points(x)
        return restore(self.y_[np.searchsorted(self._borders, points)])

    def logits(self, x: Any) -> Any:
        """Return the logits: ``gap`` for the predicted label, 0 for the others.

        Parameters
        ----------
        x : array of shape (N,)
            Points.

        Returns
        -------
        array of shape (N, k)
            Logits, float64.
        """
        points, restore = _points(x)
        return restore(self.gap * np.eye(self.n_classes_)[self.predict(points)])

    def hit_probability(self, pairs: OverlappingPairs) -> float:
        """Return the probability that a fresh point has the label of its nearest neighbor.

        Parameters
        ----------
        pairs : OverlappingPairs
            Where the fresh point comes from.

        Returns
        -------
        float
            Exact: the length of the cells of the training points within the interval of
            their own class, divided by k.
        """
        borders = self._borders
        left = np.concatenate([[-np.inf], borders])
        right = np.concatenate([borders, [np.inf]])
        low = pairs.low[self.y_]
        own = np.minimum(right, low + 1.0) - np.maximum(left, low)
        return float(own.clip(min=0.0).sum() / pairs.n_classes)

    def oracle_temperature(self, pairs: OverlappingPairs) -> float:
        """Return the temperature that minimizes the true expected log loss.

        Parameters
        ----------
        pairs : OverlappingPairs
            The true distribution.

        Returns
        -------
        float
            The T at which the predicted label gets the probability with which it is right;
            infinite if that is no more than 1/k, 0 if it is 1.
        """
        hit = self.hit_probability(pairs)
        if hit * self.n_classes_ <= 1.0:
            return math.inf
        if hit >= 1.0:
            return 0.0
        return self.gap / (math.log(hit) - math.log1p(-hit) + math.log(self.n_classes_ - 1))

    def oracle_kl(self, pairs: OverlappingPairs) -> float:
        """Return the expected divergence from the true posterior at the best temperature.

        Parameters
        ----------
        pairs : OverlappingPairs
            The true distribution.

        Returns
        -------
        float
            E KL(posterior ‖ prediction) in nats, exact for this training set.
        """
        hit = max(self.hit_probability(pairs), 1.0 / self.n_classes_)
        return _common_gap_loss(hit, self.n_classes_) - pairs.overlap * math.log(2.0)


def temperature_scaled_kl(n_classes: Any, overlap: Any) -> Any:
    r"""Return the error of an interpolator on overlapping pairs at its best temperature.

    In the limit of many training points, :math:`H_b(\rho/2) + \frac\rho2 \log(k-1) -
    \rho \log 2`, with :math:`H_b` the entropy of a coin.

    Parameters
    ----------
    n_classes : int or array of int
        k, at least 2.
    overlap : float or array of float
        ρ in [0, 1]; broadcasts against ``n_classes``.

    Returns
    -------
    float or numpy.ndarray
        E KL(posterior ‖ prediction) in nats.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(temperature_scaled_kl(64, 0.5), 3)
    1.252
    """
    k, rho = _sizes(n_classes, overlap)
    return _scalar(_common_gap_loss(1.0 - rho / 2.0, k) - rho * math.log(2.0))


def uniform_kl(n_classes: Any, overlap: Any) -> Any:
    """Return the error of the uniform prediction on overlapping pairs, log k − ρ log 2.

    Parameters
    ----------
    n_classes : int or array of int
        k, at least 2.
    overlap : float or array of float
        ρ in [0, 1]; broadcasts against ``n_classes``.

    Returns
    -------
    float or numpy.ndarray
        E KL(posterior ‖ uniform) in nats.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    k, rho = _sizes(n_classes, overlap)
    return _scalar(np.log(k) - rho * math.log(2.0))


class MixupOptimum(NamedTuple):
    """How far the minimizer of the Mixup loss is from the true posterior.

    Parameters
    ----------
    kl : float
        E KL(posterior ‖ prediction) in nats, over all pairs.
    per_pair : numpy.ndarray, shape (k / 2,)
        The same for points of one pair, from left to right; empty in the limit of infinitely
        many classes.
    error : float
        Error of the quadrature: what half as many nodes change.
    """

    kl: float
    per_pair: np.ndarray
    error: float


def mixup_optimal_posterior(pairs: OverlappingPairs, x: Any) -> Any:
    r"""Return the predictions that minimize the Mixup loss on overlapping pairs, exactly.

    Mixup trains on :math:`\lambda x_1 + (1-\lambda) x_2` with the labels weighted alike,
    :math:`\lambda` uniform. The minimizer of its cross-entropy is the conditional expectation
    :math:`q_y(z) = E[\lambda 1(y_1 = y) + (1-\lambda) 1(y_2 = y) \mid z]`.

    Parameters
    ----------
    pairs : OverlappingPairs
        The distribution of the data.
    x : array of shape (N,)
        Points between the leftmost and the rightmost point of the support.

    Returns
    -------
    array of shape (N, k)
        Rows sum to 1, float64.

    Raises
    ------
    ValueError
        If a point lies outside, where Mixup makes no sample.

    Notes
    -----
    Given :math:`z`, a pair of points at distances :math:`u` to its right and :math:`v` to its
    left has density :math:`2 p(z+u) p(z-v)/(u+v)` and gives the right one the weight
    :math:`v/(u+v)`. On intervals, :math:`\int_a^b\!\int_c^d \frac{v}{(u+v)^2}\,dv\,du =
    b \log\frac{b+d}{b+c} - a \log\frac{a+d}{a+c}`. The cost grows like N k².
    """
    points, restore = _points(x)
    low = pairs.low
    outside = (points <= low[0]) | (points >= low[-1] + 1.0)
    if outside.any():
        raise ValueError(
            f"x: expected points inside ({low[0]:g}, {low[-1] + 1.0:g}), got {points[outside][0]}"
        )
    result = np.empty((len(points), pairs.n_classes))
    step = max(1, _BLOCK // pairs.n_classes**2)
    for start in range(0, len(points), step):
        rows = slice(start, start + step)
        right, left = _sides(points[rows, None], low)
        own = _share(*_outer(right, left)).sum(2) + _share(*_outer(left, right)).sum(2)
        result[rows] = own / own.sum(1, keepdims=True)
    return restore(result)


def mixup_optimal_kl(
    n_classes: float, overlap: float, spacing: float | None = None, *, nodes: int = _NODES
) -> MixupOptimum:
    """Return the error of the minimizer of the Mixup loss on overlapping pairs.

    Parameters
    ----------
    n_classes : int or math.inf
        k, even; ``math.inf`` for the limit at spacing k.
    overlap : float
        ρ in [0, 1].
    spacing : float, optional
        Distance between pairs. Default: k.
    nodes : int, default 64
        Nodes of the quadrature in each of the three parts of a pair, at least 8.

    Returns
    -------
    MixupOptimum
        ``kl``, ``per_pair``, ``error``.

    Raises
    ------
    ValueError
        If an argument is out of range, or a spacing is given with infinitely many classes.

    Notes
    -----
    The predictions are those of `mixup_optimal_posterior`. What the other pairs add depends on
    a pair's place only through how many pairs lie on either side, so running sums over
    distances serve all pairs at once: the cost grows like k.

    Examples
    --------
    >>> round(mixup_optimal_kl(2, 1.0).kl, 9)
    0.0
    """
    nodes = check_integer(nodes, "nodes", minimum=8)
    rho = check_number(overlap, "overlap", minimum=0.0, maximum=1.0)
    if isinstance(n_classes, float) and math.isinf(n_classes) and n_classes > 0:
        if spacing is not None:
            raise ValueError(f"spacing: expected None with infinitely many classes, got {spacing}")
        fine, coarse = (_mixup_limit(rho, count) for count in (nodes, nodes // 2))
        return MixupOptimum(fine, np.empty(0), abs(fine - coarse))
    pairs = OverlappingPairs(n_classes, rho, spacing)
    fine, coarse = (_mixup_by_pair(pairs, count) for count in (nodes, nodes // 2))
    return MixupOptimum(float(fine.mean()), fine, abs(float(fine.mean() - coarse.mean())))


def gaussian_log_odds(x: Any, shift: float) -> Any:
    """Return the true log odds of two Gaussians that differ in every coordinate.

    Class 0 is N(0, I), class 1 is N(shift · 1, I), equally likely.

    Parameters
    ----------
    x : array of shape (..., d)
        Points, floating point.
    shift : float
        Mean of class 1 in every coordinate.

    Returns
    -------
    array of shape (...)
        log P(y = 1 | x) − log P(y = 0 | x) = shift Σ_j x_j − d shift²/2.

    Raises
    ------
    ValueError
        If ``x`` is not floating point or has no dimension.
    """
    (points,), restore = as_tensors(x=x)
    check_tensor(points, "x", floating=True)
    if points.ndim == 0:
        raise ValueError("x: expected points along the last dimension, got a single number")
    shift = check_number(shift, "shift")
    return restore(shift * points.sum(-1) - 0.5 * points.shape[-1] * shift**2)


def gaussian_bayes_error(shift: float, dimension: int) -> float:
    """Return the smallest possible error rate for two Gaussians, Φ(−|shift| √d / 2).

    Parameters
    ----------
    shift : float
        Mean of class 1 in every coordinate; class 0 has mean 0, both covariance I.
    dimension : int
        d, at least 1.

    Returns
    -------
    float
        In (0, 1/2].

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(gaussian_bayes_error(0.25, 300), 4)
    0.0152
    """
    d = check_integer(dimension, "dimension", minimum=1)
    return math.exp(log_ndtr(-0.5 * abs(check_number(shift, "shift")) * math.sqrt(d)))


def published_temperature(
    logits: Any,
    labels: Any,
    *,
    start: float = 1.0,
    lr: float = 0.01,
    max_iter: int = 20,
) -> float:
    """Fit a temperature the way published code does, which stops far from the optimum.

    One call of ``torch.optim.LBFGS([T], lr=lr, max_iter=max_iter).step``. Without a line search
    ``lr`` scales every quasi-Newton step, so that 20 steps of 1 % cover less than a fifth of
    the way to the minimum even of a parabola. Use `TemperatureScaling` to find the optimum;
    this function exists to show what the difference does.

    Parameters
    ----------
    logits : array of shape (N, K) or (N,)
        Logits, or log odds of y = 1.
    labels : array of shape (N,)
        Class numbers from 0.
    start : float, default 1.0
        Initial T, above 0.
    lr : float, default 0.01
        Learning rate, above 0.
    max_iter : int, default 20
        Iterations of the one step, at least 1.

    Returns
    -------
    float
        T. Nothing keeps it positive.

    Raises
    ------
    ValueError
        If a shape, a label or a number is wrong.

    References
    ----------
    The defaults are those of the code of Chidambaram, Ge (2024); start 1.5 with 50 iterations
    is that of Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks.
    """
    logits, labels, _ = read_logits(logits, labels)
    if logits.ndim == 1:
        logits = torch.stack([torch.zeros_like(logits), logits], 1)
    start = check_number(start, "start", above=0.0)
    lr = check_number(lr, "lr", above=0.0)
    max_iter = check_integer(max_iter, "max_iter", minimum=1)
    logits = logits.double()
    temperature = torch.full((1,), start, dtype=torch.float64, device=logits.device)
    temperature.requires_grad_()
    optimizer = torch.optim.LBFGS([temperature], lr=lr, max_iter=max_iter)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / temperature, labels)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return temperature.item()


def _points(x: Any) -> tuple[np.ndarray, Any]:
    """Return float64 points (N,), and the way back to tensors or arrays."""
    (points,), restore = as_tensors(x=x)
    check_tensor(points, "x", ndim=1)
    device = points.device

    def give_back(result: np.ndarray) -> Any:
        return restore(torch.as_tensor(result).to(device))

    return points.detach().cpu().double().numpy(), give_back


def _sizes(n_classes: Any, overlap: Any) -> tuple[np.ndarray, np.ndarray]:
    (k, rho), _ = as_tensors(n_classes=n_classes, overlap=overlap)
    check_tensor(k, "n_classes", minimum=2)
    if bool((k != k.round() if k.is_floating_point() else k != k).any()):
        raise ValueError("n_classes: expected whole numbers, got fractions")
    check_tensor(rho, "overlap", minimum=0.0, maximum=1.0)
    return k.cpu().double().numpy(), rho.cpu().double().numpy()


def _scalar(value: np.ndarray) -> Any:
    return float(value) if np.ndim(value) == 0 else value


def _common_gap_loss(hit: Any, n_classes: Any) -> Any:
    """Cross-entropy of confidence ``hit`` on one label, the rest shared, right that often."""
    miss = 1.0 - hit
    return entr(hit) + entr(miss) + miss * np.log(n_classes - 1.0)


def _sides(z: np.ndarray, low: np.ndarray) -> tuple[tuple, tuple]:
    """Distances from z to the parts of intervals [low, low + 1] on its right and left."""
    right = np.maximum(low - z, 0.0), np.maximum(low + 1.0 - z, 0.0)
    left = np.maximum(z - low - 1.0, 0.0), np.maximum(z - low, 0.0)
    return right, left


def _outer(own: tuple, other: tuple) -> tuple:
    """Pair every class's interval (…, K, 1) with every other one's (…, 1, K)."""
    return (*(end[..., :, None] for end in own), *(end[..., None, :] for end in other))


def _log_ratio(scale: np.ndarray, end: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Scale · log((scale + end)/(scale + start)), 0 where the scale is 0."""
    positive = scale > 0.0
    base = np.where(positive, scale + start, 1.0)
    return scale * np.log1p(np.where(positive, (end - start) / base, 0.0))


def _share(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Integral of v/(u + v)² over a < u < b, c < v < d: the weight of the sample at u."""
    return _log_ratio(b, d, c) - _log_ratio(a, d, c)


def _density(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Integral of 1/(u + v) over the same rectangle."""
    return _share(a, b, c, d) + _share(c, d, a, b)


def _rule(rho: float, nodes: int) -> list[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Points of one pair, weights, and the true posterior, for each of its three parts.

    The points crowd at both ends of a part, where the integrands have log singularities.
    """
    s, weight = np.polynomial.legendre.leggauss(nodes)
    s, weight = 0.5 * (s + 1.0), 0.5 * weight
    crowded, speed = s**3 * (10.0 - 15.0 * s + 6.0 * s**2), 30.0 * (s * (1.0 - s)) ** 2
    alone = 1.0 - rho
    parts = [(0.0, alone, (1.0, 0.0)), (alone, 1.0, (0.5, 0.5)), (1.0, 1.0 + alone, (0.0, 1.0))]
    return [
        (start + (end - start) * crowded, (end - start) * weight * speed, truth)
        for start, end, truth in parts
        if end > start
    ]


def _divergence(own: np.ndarray, total: np.ndarray, truth: tuple[float, float]) -> np.ndarray:
    """KL(truth ‖ own/total) for own (…, 2) and total (…), times the density of the point."""
    q = own / total[..., None]
    kl = sum(p * (math.log(p) - np.log(q[..., c])) for c, p in enumerate(truth) if p)
    return kl * (1.0 if truth[0] == 0.5 else 0.5)


def _near(t: np.ndarray, rho: float) -> tuple[tuple, tuple, np.ndarray]:
    """Sides of a pair's two classes at points (Q, 1), and the weights (Q, 2) from that pair."""
    right, left = _sides(t[:, None], np.array([0.0, 1.0 - rho]))
    own = _share(*_outer(right, left)).sum(2) + _share(*_outer(left, right)).sum(2)
    return right, left, own


def _mixup_by_pair(pairs: OverlappingPairs, nodes: int) -> np.ndarray:
    """KL of the Mixup optimum for each pair, (P,)."""
    rho, count = pairs.overlap, pairs.n_classes // 2
    low = np.array([0.0, 1.0 - rho])
    before = np.arange(count)
    after = before[::-1]
    step = np.arange(1, count)[:, None, None] * pairs.spacing  # (P − 1, 1, 1)
    # Both samples from other pairs: only the distance between these pairs matters.
    gap = step + low[:, None] - low - 1.0
    both = _density(gap, gap + 1.0, 0.0 * gap, 0.0 * gap + 1.0).sum((1, 2))
    twice = np.concatenate([[0.0], both.cumsum().cumsum()])
    outside = twice[-1] - twice[before] - twice[after]
    result = np.zeros(count)
    for t, weight, truth in _rule(rho, nodes):
        right, left, near = _near(t, rho)
        far_left = step + t[:, None] - low - 1.0  # (P − 1, Q, 2)
        far_right = step + low - t[:, None]
        own, total = near[None], near.sum(1)[None] + outside[:, None]
        for side, far, many in ((right, far_left, before), (left, far_right, after)):
            ends = _outer(side, (far, far + 1.0))
            share = _running(_share(*ends).sum(3))[many]
            own = own + share
            total = total + share.sum(2)
            total = total + _running(_share(*ends[2:], *ends[:2]).sum((2, 3)))[many]
        result += _divergence(own, total, truth) @ weight
    return result


def _running(terms: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, … terms along the first axis."""
    return (
        np.concatenate([np.zeros_like(terms[:1]), terms.cumsum(0)])
        if len(terms)
        else (np.zeros((1, *terms.shape[1:])))
    )


def _mixup_limit(rho: float, nodes: int) -> float:
    """KL of the Mixup optimum for k → ∞ at spacing k.

    Pairs of samples from other pairs keep the weight 2 H_b(θ) beside a pair at the share θ of
    the line, one sample from another pair has none.
    """
    place, weight = np.polynomial.legendre.leggauss(nodes)
    place, weight = 0.5 * (place + 1.0), 0.5 * weight
    crowded, speed = place**2 * (3.0 - 2.0 * place), 6.0 * place * (1.0 - place)
    outside = 2.0 * (entr(crowded) + entr(1.0 - crowded))[:, None]
    total = 0.0
    for t, at, truth in _rule(rho, nodes):
        _, _, near = _near(t, rho)
        inner = _divergence(near[None], near.sum(1)[None] + outside, truth) @ at
        total += float(weight * speed @ inner)
    return total
