r"""Random features: a kernel as an average over random functions.

A kernel that is an expectation, :math:`K(x, y) = \mathbb{E}_w[g(w, x)\, g(w, y)]`, is
approximated by :math:`\frac{1}{k}\sum_j g(w_j, x)\, g(w_j, y)` with :math:`k` independent draws.
Ridge regression on :math:`g(w_1, x), \dots, g(w_k, x)` is then a network with one hidden layer
whose first layer stays at its random initialization.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_choice, check_integer, check_tensor

__all__ = ["eigenfeatures", "random_features"]

_ACTIVATIONS = ("relu", "step", "erf", "cos", "linear")


def random_features(
    x: Any,
    n_features: int,
    activation: str = "relu",
    generator: torch.Generator | int | None = None,
    *,
    independent: bool = False,
) -> Any:
    r"""Map points to random features.

    Feature j of a point x is, with :math:`w_j \sim N(0, I_d)`,

    - ``"relu"``: :math:`\sqrt 2\,(w_j \cdot x)_+`
    - ``"step"``: :math:`\sqrt 2\, 1_{w_j \cdot x > 0}`
    - ``"erf"``: :math:`\operatorname{erf}(w_j \cdot x)`
    - ``"cos"``: :math:`\sqrt 2 \cos(w_j \cdot x + b_j)` with :math:`b_j` uniform on
      :math:`[0, 2\pi)`
    - ``"linear"``: :math:`w_j \cdot x`

    Features are not divided by :math:`\sqrt{k}`: ``f @ f.T / k`` converges to
    ``feature_kernel(x, activation=activation)``, for ``"relu"`` the arc-cosine kernel of
    degree 1.

    Parameters
    ----------
    x : array of shape (..., N, d)
        Points as rows. Inputs are not divided by :math:`\sqrt d`.
    n_features : int
        Number of features k, 1 or more.
    activation : {"relu", "step", "erf", "cos", "linear"}, default "relu"
        The function applied to the projections.
    generator : torch.Generator, int, or None
        Source of the weights. The weights depend on it, on d and on k, not on the number of
        points: with the same seed, training and test points get the same features.
    independent : bool, default False
        Whether each member of the leading dimensions gets its own weights. By default all
        share one draw, so a batch gives what its members give one by one.

    Returns
    -------
    array of shape (..., N, k)
        In the dtype and on the device of ``x`` (float64 for integers).

    Raises
    ------
    ValueError
        If ``x`` is not a finite array of points, or an option is out of range.

    References
    ----------
    .. [1] A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS
       2007.
    .. [2] Y. Cho and L. Saul, "Kernel Methods for Deep Learning", NeurIPS 2009.
    """
    (points,), restore = as_tensors(x=x)
    points = _points(points, "x")
    n_features = check_integer(n_features, "n_features", minimum=1)
    check_choice(activation, "activation", _ACTIVATIONS)
    generator = as_generator(generator, points.device)
    batch = points.shape[:-2] if independent else ()
    weights = _normal(generator, points, *batch, points.shape[-1], n_features)
    projections = points @ weights
    if activation == "relu":
        return restore(projections.relu_().mul_(math.sqrt(2)))
    if activation == "step":
        return restore((projections > 0).to(points.dtype).mul_(math.sqrt(2)))
    if activation == "erf":
        return restore(projections.erf_())
    if activation == "linear":
        return restore(projections)
    phase = torch.rand(*batch, 1, n_features, generator=generator, device=generator.device)
    phase = phase.to(points.device, points.dtype) * (2 * math.pi)
    return restore(projections.add_(phase).cos_().mul_(math.sqrt(2)))


def eigenfeatures(
    eigenfunctions: Any,
    eigenvalues: Any,
    n_features: int,
    generator: torch.Generator | int | None = None,
) -> Any:
    r"""Draw the Gaussian random features of the eigenframework.

    Feature j of a point x is :math:`g(w_j, x) = \sum_i \sqrt{\lambda_i}\,\zeta_{ij}\,\phi_i(x)`
    with independent standard normal :math:`\zeta_{ij}`; the average
    :math:`\frac{1}{k}\sum_j g(w_j, x)\, g(w_j, y)` has the expectation
    :math:`\sum_i \lambda_i \phi_i(x) \phi_i(y)`.

    Parameters
    ----------
    eigenfunctions : array of shape (..., N, m)
        Values :math:`\phi_i(x)`, one row a point. In a Gaussian design these are independent
        standard normal numbers.
    eigenvalues : array of shape (m,)
        Eigenvalues :math:`\lambda_i \ge 0`.
    n_features : int
        Number of features k, 1 or more.
    generator : torch.Generator, int, or None
        Source of the weights; each member of the leading dimensions gets its own.

    Returns
    -------
    features : array of shape (..., N, k)
        The features, in the dtype and on the device of ``eigenfunctions``.
    weights : array of shape (..., m, k)
        The coefficients :math:`\sqrt{\lambda_i}\,\zeta_{ij}`, so that ``features`` is
        ``eigenfunctions @ weights``: a predictor with weights w in feature space has the
        eigencoefficients ``weights @ w``.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is not finite, or an eigenvalue is negative.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646.
    """
    (phi, values), restore = as_tensors(eigenfunctions=eigenfunctions, eigenvalues=eigenvalues)
    phi = _points(phi, "eigenfunctions")
    values = check_tensor(values.to(phi.dtype), "eigenvalues", shape=(phi.shape[-1],), minimum=0.0)
    n_features = check_integer(n_features, "n_features", minimum=1)
    generator = as_generator(generator, phi.device)
    weights = _normal(generator, phi, *phi.shape[:-2], phi.shape[-1], n_features)
    weights.mul_(values.sqrt()[:, None])
    return restore(phi @ weights), restore(weights)


def _points(value: Tensor, name: str) -> Tensor:
    value = value if value.is_floating_point() else value.double()
    if value.ndim < 2:
        raise ValueError(f"{name}: expected points as rows, got shape {tuple(value.shape)}")
    return check_tensor(value, name)


def _normal(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    # Drawn in float32 where there is nothing wider, so that a seed fixes the weights.
    wide = torch.float32 if generator.device.type == "mps" else torch.float64
    draw = torch.randn(shape, generator=generator, device=generator.device, dtype=wide)
    return draw.to(like.device, like.dtype)
