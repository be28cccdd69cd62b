r"""Kernels of wide networks and of random features, in closed form.

All functions take points as rows, compare them in blocks of rows so that memory stays near that
of the result, and compute in float64: near-coincident points lose half of their digits otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from enough.runtime import chunks, exact_device
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = [
    "arc_cosine_kernel",
    "feature_kernel",
    "laplacian_kernel",
    "neural_tangent_kernel",
    "nngp_kernel",
    "rbf_kernel",
]

_MEMORY = 256 * 2**20  # bytes of working arrays at a time
_CACHE = 4 * 2**20  # the same on a CPU, where blocks that fit a cache are faster
_ROWS = 32  # but no fewer rows, for the matrix product's sake
_ARRAYS = 8
_CLOSE = 1e-3  # squared distance over squared norms below which the product loses digits


def arc_cosine_kernel(x: Any, y: Any = None, degree: int = 1, depth: int = 1) -> Any:
    r"""Compute the arc-cosine kernel of degree 0 or 1.

    For :math:`w \sim N(0, I)` and the angle :math:`\theta` between the points,

    .. math::

        k_0(x, y) = 2\,\mathbb{E}[1_{w \cdot x > 0}\, 1_{w \cdot y > 0}] = 1 - \theta/\pi,
        \qquad
        k_1(x, y) = 2\,\mathbb{E}[(w \cdot x)_+ (w \cdot y)_+]
        = \tfrac{1}{\pi}\lVert x\rVert\,\lVert y\rVert\,
          \big(\sin\theta + (\pi - \theta)\cos\theta\big),

    so that :math:`k_1(x, x) = \lVert x \rVert^2`.

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    degree : {0, 1}, default 1
        0 for step units, 1 for ReLU units.
    depth : int, default 1
        How often the map is composed with itself, 1 or more: the kernel of that many hidden
        layers.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or an option is out of range.

    Notes
    -----
    A point at the origin has no angle: the degree 0 kernel takes the cosine to be 0 there.

    References
    ----------
    .. [1] Y. Cho and L. Saul, "Kernel Methods for Deep Learning", NeurIPS 2009.
    """
    check_choice(degree, "degree", (0, 1))
    depth = check_integer(depth, "depth", minimum=1)

    def block(a: Tensor, b: Tensor) -> Tensor:
        inner, left, right = _inner_products(a, b)
        for _ in range(depth):
            if degree == 1:  # the norms stay as they are
                inner = _relu_moment(inner, left, right)
            else:
                inner = _step_moment(inner, left, right)
                left, right = torch.ones_like(left), torch.ones_like(right)
        return inner

    return _by_rows(block, x, y)


def nngp_kernel(x: Any, y: Any = None, depth: int = 1, bias_variance: float = 0.0) -> Any:
    r"""Compute the covariance of a wide fully connected ReLU network at initialization.

    .. math::

        \Sigma^0(x, y) = x \cdot y + \sigma_b^2, \qquad
        \Sigma^{l}(x, y) = 2\,\mathbb{E}\big[\phi(u)\phi(v)\big] + \sigma_b^2, \quad
        (u, v) \sim N(0, \Sigma^{l-1}\big|_{x,y}).

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    depth : int, default 1
        Number of hidden layers, 1 or more.
    bias_variance : float, default 0.0
        Variance of the biases, :math:`\sigma_b^2 \ge 0`.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or an option is out of range.

    Notes
    -----
    The network is :math:`h^1 = W^1 x + b^1`,
    :math:`h^{l+1} = \sqrt{2/\mathrm{width}}\; W^{l+1}\phi(h^l) + b^{l+1}` with standard normal
    weights: inputs are not divided by their dimension. Without biases this is
    `arc_cosine_kernel` of degree 1 at the same depth.
    """
    depth, bias = _network(depth, bias_variance)

    def block(a: Tensor, b: Tensor) -> Tensor:
        sigma, left, right = (t + bias for t in _inner_products(a, b))
        for _ in range(depth):
            sigma = _relu_moment(sigma, left, right) + bias
            left, right = left + bias, right + bias
        return sigma

    return _by_rows(block, x, y)


def neural_tangent_kernel(x: Any, y: Any = None, depth: int = 1, bias_variance: float = 0.0) -> Any:
    r"""Compute the neural tangent kernel of a wide fully connected ReLU network.

    .. math::

        \Theta^0 = \Sigma^0, \qquad
        \Theta^{l} = \Sigma^{l} + \Theta^{l-1} \cdot 2\,\mathbb{E}[\phi'(u)\phi'(v)],

    with :math:`\Sigma^l` and the network of `nngp_kernel`.

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    depth : int, default 1
        Number of hidden layers, 1 or more; all layers are trained.
    bias_variance : float, default 0.0
        Variance of the biases, :math:`\sigma_b^2 \ge 0`. Biases enter as
        :math:`\sigma_b b` with standard normal, trained :math:`b`.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or an option is out of range.

    References
    ----------
    .. [1] A. Jacot, F. Gabriel and C. Hongler, "Neural Tangent Kernel: Convergence and
       Generalization in Neural Networks", NeurIPS 2018, arXiv:1806.07572, Theorem 1.
    """
    depth, bias = _network(depth, bias_variance)

    def block(a: Tensor, b: Tensor) -> Tensor:
        sigma, left, right = (t + bias for t in _inner_products(a, b))
        theta = sigma
        for _ in range(depth):
            sigma, derivative = _relu_moments(sigma, left, right)
            sigma += bias
            left, right = left + bias, right + bias
            theta = sigma + theta * derivative
        return theta

    return _by_rows(block, x, y)


def rbf_kernel(x: Any, y: Any = None, bandwidth: float = 1.0) -> Any:
    r"""Compute the Gaussian kernel :math:`\exp(-\lVert x - y \rVert^2 / (2 h^2))`.

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    bandwidth : float, default 1.0
        The length :math:`h > 0`, in the units of the points.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or the bandwidth is not positive.
    """
    h = check_number(bandwidth, "bandwidth", above=0.0)
    return _by_rows(lambda a, b: _squared_distance(a / h, b / h).div_(-2).exp_(), x, y)


def laplacian_kernel(x: Any, y: Any = None, bandwidth: float = 1.0) -> Any:
    r"""Compute the Laplacian kernel :math:`\exp(-\lVert x - y \rVert_2 / h)`.

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    bandwidth : float, default 1.0
        The length :math:`h > 0`, in the units of the points. The distance is Euclidean.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or the bandwidth is not positive.
    """
    h = check_number(bandwidth, "bandwidth", above=0.0)
    return _by_rows(lambda a, b: _squared_distance(a / h, b / h).sqrt_().neg_().exp_(), x, y)


def feature_kernel(x: Any, y: Any = None, activation: str = "relu") -> Any:
    r"""Compute the kernel that the average over random features converges to.

    With ``f = random_features(x, k, activation)``, the matrix ``f @ f.T / k`` has this kernel
    as its expectation, and converges to it as k grows.

    Parameters
    ----------
    x : array of shape (..., n, d)
        Points as rows.
    y : array of shape (..., m, d), optional
        Other points; ``x`` itself when absent.
    activation : {"relu", "step", "erf", "cos", "linear"}, default "relu"
        Activation of the features, as in `random_features`: the arc-cosine kernels of degree
        1 and 0, the arcsine kernel
        :math:`\frac{2}{\pi}\arcsin\frac{2 x\cdot y}{\sqrt{(1+2\lVert x\rVert^2)(1+2\lVert y
        \rVert^2)}}`, the Gaussian kernel of bandwidth 1, and the inner product.

    Returns
    -------
    array of shape (..., n, m)
        In the dtype and on the device of ``x``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or the activation is unknown.

    References
    ----------
    .. [1] C. K. I. Williams, "Computing with Infinite Networks", NeurIPS 1996 (arcsine).
    .. [2] A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS
       2007 (Gaussian).
    """
    check_choice(activation, "activation", ("relu", "step", "erf", "cos", "linear"))
    if activation in ("relu", "step"):
        return arc_cosine_kernel(x, y, degree=int(activation == "relu"))
    if activation == "cos":
        return rbf_kernel(x, y)
    if activation == "linear":
        return _by_rows(lambda a, b: a @ b.mT, x, y)
    return _by_rows(_arcsine, x, y)


def _arcsine(a: Tensor, b: Tensor) -> Tensor:
    inner, left, right = _inner_products(a, b)
    return torch.asin(2 * inner / ((1 + 2 * left) * (1 + 2 * right)).sqrt()) * (2 / math.pi)


def _network(depth: int, bias_variance: float) -> tuple[int, float]:
    return (
        check_integer(depth, "depth", minimum=1),
        check_number(bias_variance, "bias_variance", minimum=0.0),
    )


def _inner_products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products (n, m) and squared norms (n, 1), (1, m)."""
    return a @ b.mT, a.square().sum(-1)[..., :, None], b.square().sum(-1)[..., None, :]


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances (n, m), from one matrix product where that keeps the digits.

    The product errs by about eps (|a|² + |b|²), much for close points: their differences are
    taken one by one, and all of them where many points are close or squares overflow.
    """
    inner, left, right = _inner_products(a, b)
    norms = left + right
    squares = inner.mul_(-2).add_(norms)
    close = ~(squares > _CLOSE * norms)  # also where squares overflowed to NaN
    few = int(close.sum())
    if 16 * few > close.numel():
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()
    if few:
        *batch, i, j = close.nonzero(as_tuple=True)
        every = (close.shape[:-2], a.shape[-1])
        left = a.expand(*every[0], a.shape[-2], every[1])[(*batch, i)]
        right = b.expand(*every[0], b.shape[-2], every[1])[(*batch, j)]
        squares[close] = (left - right).square().sum(-1)
    return squares


def _cosine(inner: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    scale = (left * right).sqrt()
    return torch.where(scale > 0, inner / scale, 0.0).clamp_(-1.0, 1.0), scale


def _relu_moments(inner: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of ReLUs and of their derivatives, which share the angle."""
    cosine, scale = _cosine(inner, left, right)
    beyond = torch.acos(cosine).neg_().add_(math.pi)
    # The derivative with respect to the cosine is bounded: no digits are lost at angle zero.
    sine = (1 - cosine).mul_(1 + cosine).sqrt_()
    return sine.addcmul_(beyond, cosine).mul_(scale).div_(math.pi), beyond.div_(math.pi)


def _relu_moment(inner: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _relu_moments(inner, left, right)[0]


def _step_moment(inner: Tensor, left: Tensor, right: Tensor) -> Tensor:
    cosine, _ = _cosine(inner, left, right)
    return torch.acos_(cosine).div_(-math.pi).add_(1.0)


def _by_rows(block: Callable[[Tensor, Tensor], Tensor], x: Any, y: Any) -> Any:
    """Apply a kernel to blocks of rows of ``x``, in float64, and return what was given."""
    names = {"x": x} if y is None else {"x": x, "y": y}
    tensors, restore = as_tensors(**names)
    first = tensors[0]
    dtype = first.dtype if first.is_floating_point() else torch.float64
    exact = exact_device(first.device)
    points = [
        check_tensor(t.detach().to(exact, torch.float64), name)
        for name, t in zip(names, tensors, strict=True)
    ]
    a, b = points[0], points[-1]
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{', '.join(names)}: expected points as rows of equal length, "
            f"got {', '.join(str(tuple(t.shape)) for t in points)}"
        )
    try:
        batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except RuntimeError as error:
        raise ValueError(
            f"{', '.join(names)}: expected leading dimensions that broadcast, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        ) from error
    n, m = a.shape[-2], b.shape[-2]
    result = torch.empty(*batch, n, m, dtype=dtype, device=first.device)
    row_bytes = 8 * _ARRAYS * m * math.prod(batch)
    limit = min(_MEMORY, max(_CACHE, _ROWS * row_bytes)) if exact.type == "cpu" else _MEMORY
    for rows in chunks(n, row_bytes, limit):
        if y is not None:
            result[..., rows, :] = block(a[..., rows, :], b).to(dtype)
            continue
        # Symmetric to the last bit: each pair is computed once, and both ways only in the square
        # on the diagonal.
        part = block(a[..., rows, :], b[..., rows.start :, :]).to(dtype)
        size = part.shape[-2]
        square, rest = part[..., :size], part[..., size:]
        result[..., rows, rows] = (square + square.mT) / 2
        result[..., rows, rows.stop :] = rest
        result[..., rows.stop :, rows] = rest.mT
    return restore(result)
