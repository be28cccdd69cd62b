r"""Eigensystems and power-law exponents measured on data.

The eigenvalues of an n x n kernel matrix estimate the first n eigenvalues of the kernel, the last
of them badly. Exponents are therefore read from learning curves, which the theory ties to the
whole spectrum: without ridge, :math:`1/\operatorname{tr} K_n^{-1}` estimates the threshold
:math:`\kappa \propto n^{-\alpha}`, and the test error on noiseless targets falls as
:math:`n^{1-\beta}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from enough.runtime import as_generator, exact_device
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = ["PowerLawExponents", "estimate_eigensystem", "estimate_exponents"]

_EPS = torch.finfo(torch.float64).eps


def estimate_eigensystem(kernel_matrix: Any, targets: Any, rtol: float = 0.0) -> tuple[Any, Any]:
    r"""Estimate kernel eigenvalues and target coefficients from a kernel matrix.

    With :math:`K = U \Lambda U^\top` on M points, the estimates are :math:`\Lambda / M` and
    :math:`U^\top y / \sqrt M`: the exact eigensystem of the M points as a population.

    Parameters
    ----------
    kernel_matrix : array of shape (M, M)
        Symmetric positive semi-definite kernel matrix. Small negative eigenvalues from rounding
        are set to 0.
    targets : array of shape (M,) or (M, outputs)
        Target values.
    rtol : float, default 0.0
        Eigenvalues at most this share of the largest are set to 0. A kernel of known low
        rank leaves rounding errors of about ``M * 2e-16`` there.

    Returns
    -------
    eigenvalues : array of shape (M,)
        In descending order, with the dtype of ``kernel_matrix``.
    coefficients : array of shape (M,) or (M, outputs)
        Target coefficients in the same order and dtype. Their sum of squares is the mean square
        of the targets.

    Raises
    ------
    ValueError
        If the matrix is not square and symmetric, shapes do not fit, or an entry is not finite.

    Notes
    -----
    Both are valid input of `rf_risk`. Errors predicted from them are means over all M
    points, see `finite_population_test_mse`.
    """
    rtol = check_number(rtol, "rtol", minimum=0.0)
    kernel, y, dtype, device, restore = _kernel_and_targets(kernel_matrix, targets)
    values, vectors = torch.linalg.eigh(kernel)
    values = values.flip(0) / len(values)
    values = torch.where(values > rtol * values[0].clamp(min=0.0), values, 0.0).clamp_(min=0.0)
    coefficients = vectors.flip(1).mT @ y / math.sqrt(len(values))
    return restore(values.to(device, dtype)), restore(coefficients.to(device, dtype))


@dataclass(frozen=True)
class PowerLawExponents:
    r"""Exponents of a task, with what is needed to judge them.

    Parameters
    ----------
    alpha, beta : float
        Mean over subsets of the fitted exponents; NaN when a curve is not positive and
        finite throughout.
    alpha_interval, beta_interval : tuple of float
        Prediction intervals: where one more random subset would put the exponent.
    alpha_drift, beta_drift : float
        Local exponent of the upper half of the sizes minus that of the lower half, mean over
        subsets. Zero for a power law.
    alpha_drift_interval, beta_drift_interval : tuple of float
        Prediction intervals of the drifts.
    alpha_r2, beta_r2 : float
        Share of the variance that a straight line explains in the mean log curve.
    sizes : numpy.ndarray of shape (sizes,)
        Numbers of samples.
    kappa : numpy.ndarray of shape (subsets, sizes)
        :math:`1/\operatorname{tr} K_n^{-1}`; 0 where the kernel matrix is singular.
    test_mse : numpy.ndarray of shape (subsets, sizes)
        Ridgeless test error, the mean over outputs; NaN where the matrix is singular.
    singular_at : int or None
        Smallest size at which a kernel matrix was singular to rounding, None if none was:
        one more than the rank of a kernel of finite rank.
    """

    alpha: float
    beta: float
    alpha_interval: tuple[float, float]
    beta_interval: tuple[float, float]
    alpha_drift: float
    beta_drift: float
    alpha_drift_interval: tuple[float, float]
    beta_drift_interval: tuple[float, float]
    alpha_r2: float
    beta_r2: float
    sizes: np.ndarray
    kappa: np.ndarray
    test_mse: np.ndarray
    singular_at: int | None

    def follows_power_law(self, tolerance: float = 0.2) -> bool:
        r"""Tell whether the measured curves are compatible with power laws.

        Parameters
        ----------
        tolerance : float, default 0.2
            Largest drift of an exponent between the halves of the sizes, as a share of
            ``alpha`` for the spectrum and of ``beta`` for the target.

        Returns
        -------
        bool
            True if every kernel matrix was regular, the conditions of the theory
            (``alpha > 1`` and ``1 < beta < 2 * alpha + 1``) hold for the whole intervals, both
            drifts are within the tolerance, and both exponents differ from 1 by more than they
            drift. Exponent 1 is what a kernel shows that learns nothing: kappa falls
            as 1/n because n grows, and the test error stays.

        Raises
        ------
        ValueError
            If the tolerance is negative.
        """
        tolerance = check_number(tolerance, "tolerance", minimum=0.0)
        if self.singular_at is not None or math.isnan(self.alpha) or math.isnan(self.beta):
            return False
        inside = self.alpha_interval[0] > 1 and self.beta_interval[0] > 1
        inside = inside and self.beta_interval[1] < 2 * self.alpha_interval[0] + 1
        for exponent, drift in ((self.alpha, self.alpha_drift), (self.beta, self.beta_drift)):
            inside = inside and abs(drift) < min(tolerance * exponent, exponent - 1)
        return inside


def estimate_exponents(
    kernel_matrix: Any,
    targets: Any,
    sizes: Sequence[int] | Any,
    n_subsets: int = 10,
    level: float = 0.95,
    generator: torch.Generator | int | None = None,
) -> PowerLawExponents:
    r"""Estimate the eigenvalue and target exponents of a task.

    In each random subset, nested prefixes of the given sizes are training sets and the points
    outside the largest are the test set. :math:`\alpha` is minus the slope of
    :math:`\log(1/\operatorname{tr} K_n^{-1})` in :math:`\log n`, and :math:`1 - \beta` the
    slope of the log test error of kernel interpolation.

    Parameters
    ----------
    kernel_matrix : array of shape (M, M)
        Symmetric positive semi-definite kernel matrix.
    targets : array of shape (M,) or (M, outputs)
        Noiseless target values.
    sizes : sequence of int
        Training set sizes, at least four, ascending, below M.
    n_subsets : int, default 10
        Random subsets, 2 or more.
    level : float, default 0.95
        Level of the intervals, between 0 and 1.
    generator : torch.Generator, int, or None
        Source of the subsets.

    Returns
    -------
    PowerLawExponents
        Exponents with intervals and measures of fit.

    Raises
    ------
    ValueError
        If the matrix is not square and symmetric, shapes do not fit, an entry is not finite, or
        an option is out of range.

    Notes
    -----
    One Cholesky factorization a subset gives all sizes: the leading block of the inverse factor
    is the inverse of the leading block, so traces and predictions are cumulative sums over its
    rows. The intervals cover the choice of the subset; all subsets come from the same M points.

    References
    ----------
    .. [1] J. B. Simon, D. Karkada, N. Ghosh and M. Belkin, "More is Better in Modern Machine
       Learning", ICLR 2024, arXiv:2311.14646.
    """
    kernel, y, *_ = _kernel_and_targets(kernel_matrix, targets)
    y = y.reshape(len(y), -1)
    points = len(kernel)
    sizes = np.array([check_integer(n, "sizes", minimum=1, maximum=points - 1) for n in sizes])
    if len(sizes) < 4 or (np.diff(sizes) <= 0).any():
        raise ValueError(f"sizes: expected four or more ascending sizes, got {sizes.tolist()}")
    n_subsets = check_integer(n_subsets, "n_subsets", minimum=2)
    level = check_number(level, "level", above=0.0, maximum=1.0)
    if level == 1.0:
        raise ValueError("level: expected a number below 1, got 1.0")
    generator = as_generator(generator)
    curves = []
    for _ in range(n_subsets):
        order = torch.randperm(points, generator=generator, device=generator.device)
        curves.append(_learning_curve(kernel, y, order.to(kernel.device), sizes))
    kappa, test_mse, singular = (np.array(column) for column in zip(*curves, strict=True))
    alpha, beta = _fit(sizes, kappa, 0.0, level), _fit(sizes, test_mse, 1.0, level)
    return PowerLawExponents(
        alpha=alpha[0],
        beta=beta[0],
        alpha_interval=alpha[1],
        beta_interval=beta[1],
        alpha_drift=alpha[2],
        beta_drift=beta[2],
        alpha_drift_interval=alpha[3],
        beta_drift_interval=beta[3],
        alpha_r2=alpha[4],
        beta_r2=beta[4],
        sizes=sizes,
        kappa=kappa,
        test_mse=test_mse,
        singular_at=int(singular.min()) if np.isfinite(singular).any() else None,
    )


def _learning_curve(
    kernel: Tensor, y: Tensor, order: Tensor, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Kappa and test error at each size, and the size at which the matrix is singular."""
    largest = int(sizes[-1])
    train, test = order[:largest], order[largest:]
    block = kernel[train][:, train]
    factor, info = torch.linalg.cholesky_ex(block)
    # The squared diagonal is what a point adds to the span of those before it.
    added = factor.diagonal().square()
    lost = ~(added > largest * _EPS * block.diagonal().max())
    if int(info) > 0:
        lost[int(info) - 1 :] = True
    usable = int(torch.nonzero(lost)[0, 0]) if bool(lost.any()) else largest
    kappa = np.zeros(len(sizes))
    test_mse = np.full(len(sizes), np.nan)
    if usable:
        factor = factor[:usable, :usable]
        right = torch.cat(
            [
                torch.eye(usable, dtype=kernel.dtype, device=kernel.device),
                kernel[train[:usable]][:, test],
                y[train[:usable]],
            ],
            dim=1,
        )
        solved = torch.linalg.solve_triangular(factor, right, upper=False)
        inverse, cross, rotated = solved.split([usable, len(test), y.shape[1]], dim=1)
        trace = inverse.square().sum(1).cumsum(0)
        prediction = torch.zeros_like(y[test])
        start = 0
        for i, size in enumerate(sizes):
            if size > usable:
                break
            prediction += cross[start:size].mT @ rotated[start:size]
            kappa[i] = 1 / float(trace[size - 1])
            test_mse[i] = float((prediction - y[test]).square().mean())
            start = int(size)
    return kappa, test_mse, usable + 1 if usable < largest else math.inf


def _fit(
    sizes: np.ndarray, curves: np.ndarray, offset: float, level: float
) -> tuple[float, tuple[float, float], float, tuple[float, float], float]:
    """Exponent ``offset - slope``, its interval, its drift and interval, and R squared."""
    if not (np.isfinite(curves) & (curves > 0)).all():
        nothing = (math.nan, math.nan)
        return math.nan, nothing, math.nan, nothing, math.nan
    x, logs = np.log(sizes), np.log(curves)
    half = len(sizes) // 2
    exponents = offset - _slopes(x, logs)
    drifts = _slopes(x[: len(x) - half], logs[:, : len(x) - half]) - _slopes(
        x[half:], logs[:, half:]
    )
    mean = logs.mean(0)
    line = np.polyval(np.polyfit(x, mean, 1), x)
    spread = np.square(mean - mean.mean()).sum()
    r2 = 1 - np.square(mean - line).sum() / spread if spread > 0 else math.nan
    return (
        float(exponents.mean()),
        _prediction_interval(exponents, level),
        float(drifts.mean()),
        _prediction_interval(drifts, level),
        float(r2),
    )


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    centered = x - x.mean()
    return y @ centered / (centered @ centered)


def _prediction_interval(samples: np.ndarray, level: float) -> tuple[float, float]:
    n = len(samples)
    width = stats.t.ppf((1 + level) / 2, n - 1) * samples.std(ddof=1) * math.sqrt(1 + 1 / n)
    return float(samples.mean() - width), float(samples.mean() + width)


def _kernel_and_targets(kernel_matrix: Any, targets: Any) -> tuple[Any, ...]:
    """Both in float64, with the caller's dtype, device and the way back."""
    (kernel, y), restore = as_tensors(kernel_matrix=kernel_matrix, targets=targets)
    dtype = kernel.dtype if kernel.is_floating_point() else torch.float64
    device = kernel.device
    exact = exact_device(device)
    kernel = check_tensor(
        kernel.detach().to(exact, torch.float64), "kernel_matrix", shape=(kernel.shape[0],) * 2
    )
    y = check_tensor(y.detach().to(exact, torch.float64), "targets", ndim=(1, 2))
    if len(y) != len(kernel):
        raise ValueError(f"targets: expected {len(kernel)} rows, got shape {tuple(y.shape)}")
    gap = float((kernel - kernel.mT).abs().max())
    allowed = 100 * torch.finfo(dtype).eps * len(kernel) * float(kernel.abs().max())
    if gap > allowed:
        raise ValueError(
            f"kernel_matrix: expected a symmetric matrix, got entries that differ by {gap:.3g}"
        )
    return (kernel + kernel.mT) / 2, y, dtype, device, restore
