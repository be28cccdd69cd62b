r"""Matrix sensing: recover a low-rank matrix from linear measurements by descent on its factors.

A matrix :math:`M` of rank :math:`r` is seen through :math:`y_i = \langle A_i, M\rangle + s_i`.
Descent on :math:`X X^\top` or :math:`F G^\top` with :math:`k \ge r` columns recovers it, and how
fast depends on :math:`k`, on the initialization and on the loss. Everything here works on a
batch of independent problems at once, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.overparameterization.convergence import log_spaced_iterations
from enough.overparameterization.measurements import Measurements, _insert_axes, _times
from enough.runtime import as_generator, exact_device, progress
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "Descent",
    "asymmetric_gradient_descent",
    "gaussian_factors",
    "imbalance",
    "low_rank_matrix",
    "rescale_factors",
    "subgradient_method",
    "symmetric_gradient_descent",
]


def low_rank_matrix(
    n_rows: int,
    eigenvalues: Any,
    *,
    batch: int = 1,
    generator: torch.Generator | int | None = None,
    device: str | torch.device | None = "cpu",
) -> Tensor:
    r"""Draw positive semidefinite matrices with given eigenvalues and random eigenvectors.

    Parameters
    ----------
    n_rows : int
        Rows and columns.
    eigenvalues : array of shape (r,)
        The positive eigenvalues; r at most ``n_rows``.
    batch : int, default 1
        Number of matrices.
    generator : torch.Generator, int, or None, optional
        Source of randomness, on the CPU; ``None`` seeds one from the operating system.
    device : str, torch.device or None, default "cpu"
        Where the result lives; ``None`` for the default device.

    Returns
    -------
    torch.Tensor of shape (batch, n_rows, n_rows)
        Symmetric, float64; eigenvectors are uniform over the orthogonal group.

    Raises
    ------
    ValueError
        If there are more eigenvalues than rows, or one is not positive.
    """
    n = check_integer(n_rows, "n_rows", minimum=1)
    batch = check_integer(batch, "batch", minimum=1)
    (values,), _ = as_tensors(eigenvalues=eigenvalues)
    values = check_tensor(values.detach().cpu().double(), "eigenvalues", ndim=1)
    if len(values) > n or bool((values <= 0).any()):
        raise ValueError(
            f"eigenvalues: expected at most {n} positive numbers, got {values.tolist()}"
        )
    draws = torch.randn(
        batch, n, len(values), dtype=torch.float64, generator=as_generator(generator)
    )
    q, _ = torch.linalg.qr(draws)
    matrix = (q * values) @ q.mT
    return ((matrix + matrix.mT) / 2).to(exact_device(device))


def gaussian_factors(
    n_rows: int,
    width: int,
    scale: float = 1.0,
    *,
    batch: int = 1,
    generator: torch.Generator | int | None = None,
    device: str | torch.device | None = "cpu",
) -> Tensor:
    r"""Draw random initial factors.

    Parameters
    ----------
    n_rows : int
        Rows n.
    width : int
        Columns k.
    scale : float, default 1.0
        Initialization scale :math:`\alpha`: entries have standard deviation
        :math:`\alpha/\sqrt n`, so that columns have length about :math:`\alpha`.
    batch : int, default 1
        Number of factors.
    generator : torch.Generator, int, or None, optional
        Source of randomness, on the CPU; ``None`` seeds one from the operating system.
    device : str, torch.device or None, default "cpu"
        Where the result lives; ``None`` for the default device.

    Returns
    -------
    torch.Tensor of shape (batch, n_rows, width)
        In float64.

    Raises
    ------
    ValueError
        If a size is not positive, or the scale is negative.
    """
    n = check_integer(n_rows, "n_rows", minimum=1)
    width = check_integer(width, "width", minimum=1)
    scale = check_number(scale, "scale", minimum=0.0)
    batch = check_integer(batch, "batch", minimum=1)
    draws = torch.randn(batch, n, width, dtype=torch.float64, generator=as_generator(generator))
    return (draws * (scale / math.sqrt(n))).to(exact_device(device))


@dataclass(frozen=True, eq=False)
class Descent:
    r"""A run of a descent method on a batch of problems.

    Arrays are numpy arrays if all of ``observations``, the initial factors and ``target`` were.

    Parameters
    ----------
    iterations : numpy.ndarray of shape (points,)
        The recorded iterations.
    squared_error : array of shape (batch, ..., points), or None
        :math:`\lVert \hat M - M\rVert_F^2` at the recorded iterations; ``None`` without a
        target.
    loss : array of shape (batch, ..., points)
        The loss that is minimized, at the recorded iterations.
    left : array of shape (batch, ..., n_rows, k)
        The last factor :math:`X`, :math:`U` or :math:`F`.
    right : array of shape (batch, ..., n_columns, k)
        The last :math:`G`; the same as ``left`` in a symmetric run.
    """

    iterations: np.ndarray
    squared_error: Any
    loss: Any
    left: Any
    right: Any


def symmetric_gradient_descent(
    measurements: Measurements,
    observations: Any,
    initial: Any,
    *,
    step: float,
    n_steps: int,
    target: Any = None,
    record: Iterable[int] | None = None,
    show_progress: bool = False,
) -> Descent:
    r"""Run gradient descent on a symmetric factorization.

    Minimizes :math:`f(X) = \frac{1}{4m}\sum_i (\langle A_i, XX^\top\rangle - y_i)^2` by

    .. math:: X_{t+1} = X_t - \eta\, \tfrac1m \mathcal A^*(\mathcal A(X_t X_t^\top) - y)\, X_t .

    Parameters
    ----------
    measurements : Measurements
        Symmetric measurements.
    observations : array of shape (batch, m) or (batch, ..., m)
        The measured values y, one set a problem or one a run.
    initial : array of shape (batch, ..., n, k)
        The first factor. Further dimensions are runs on the same problem.
    step : float
        The constant step :math:`\eta`.
    n_steps : int
        Number of iterations.
    target : array of shape (batch, n, n), optional
        The matrix to be found, from which the error is measured.
    record : iterable of int, optional
        Iterations to record; the default is `log_spaced_iterations`.
    show_progress : bool, default False
        Show a progress bar where a person watches.

    Returns
    -------
    Descent
        Errors, losses and the last factor.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, or the run diverges.

    References
    ----------
    Xiong, Ding and Du, "How Over-Parameterization Slows Down Gradient Descent in Matrix
    Sensing", arXiv 2310.01769.

    Examples
    --------
    >>> everything = population_measurements(5)
    >>> truth = low_rank_matrix(5, [1.0], generator=0)
    >>> start = gaussian_factors(5, 1, generator=1)
    >>> run = symmetric_gradient_descent(
    ...     everything, everything(truth), start, step=0.2, n_steps=200, target=truth
    ... )
    >>> bool(run.squared_error[0, -1] < 1e-20)
    True
    """
    problem = _Problem.check(measurements, observations, target, initial=initial)
    step = check_number(step, "step", above=0.0)
    slope = problem.normal_gradient()

    def advance(x: Tensor, _: int) -> Tensor:
        return x - step * (slope(x @ x.mT) @ x)

    return problem.run(
        (problem.factors[0],),
        lambda factors, t: (advance(factors[0], t),),
        lambda residuals: problem.weight / 4 * residuals.square().sum(-1),
        n_steps,
        record,
        show_progress,
    )


def subgradient_method(
    measurements: Measurements,
    observations: Any,
    initial: Any,
    *,
    step: float,
    n_steps: int,
    decay: float = 1.0,
    target: Any = None,
    record: Iterable[int] | None = None,
    show_progress: bool = False,
) -> Descent:
    r"""Run the sub-gradient method on the absolute loss of a symmetric factorization.

    Minimizes :math:`f(U) = \frac1m \sum_i \lvert\langle A_i, UU^\top\rangle - y_i\rvert` by

    .. math:: U_{t+1} = U_t - \eta \rho^t\,
        \tfrac2m \mathcal A^*(\operatorname{sign}(\mathcal A(U_t U_t^\top) - y))\, U_t .

    Parameters
    ----------
    measurements : Measurements
        Symmetric measurements, not in the population limit.
    observations : array of shape (batch, m) or (batch, ..., m)
        The measured values y, outliers included, one set a problem or one a run.
    initial : array of shape (batch, ..., n, k)
        The first factor. Further dimensions are runs on the same problem.
    step : float
        The first step :math:`\eta`.
    n_steps : int
        Number of iterations.
    decay : float, default 1.0
        The ratio :math:`\rho` in (0, 1] of one step to the step before.
    target : array of shape (batch, n, n), optional
        The matrix to be found, from which the error is measured.
    record : iterable of int, optional
        Iterations to record; the default is `log_spaced_iterations`.
    show_progress : bool, default False
        Show a progress bar where a person watches.

    Returns
    -------
    Descent
        Errors, losses and the last factor.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, the measurements are those of the
        population, or the run diverges.

    References
    ----------
    Ma and Fattahi, "Global Convergence of Sub-gradient Method for Robust Matrix Recovery",
    arXiv 2202.08788.
    """
    problem = _Problem.check(measurements, observations, target, initial=initial)
    if measurements.coordinates is None:
        raise ValueError(
            "measurements: expected finitely many, got the population limit, in which the "
            "absolute loss is not the sum of absolute coordinates"
        )
    step = check_number(step, "step", above=0.0)
    decay = check_number(decay, "decay", above=0.0, maximum=1.0)

    def advance(u: Tensor, t: int) -> Tensor:
        signs = problem.residuals(u @ u.mT).sign_()
        direction = measurements.to_matrix(measurements.gather(signs))
        return u - (2 * step * decay**t * problem.weight) * (direction @ u)

    return problem.run(
        (problem.factors[0],),
        lambda factors, t: (advance(factors[0], t),),
        lambda residuals: problem.weight * residuals.abs().sum(-1),
        n_steps,
        record,
        show_progress,
    )


def asymmetric_gradient_descent(
    measurements: Measurements,
    observations: Any,
    left: Any,
    right: Any,
    *,
    step: float,
    n_steps: int,
    target: Any = None,
    record: Iterable[int] | None = None,
    show_progress: bool = False,
) -> Descent:
    r"""Run gradient descent on an asymmetric factorization.

    Minimizes :math:`f(F, G) = \frac{1}{2m}\sum_i (\langle A_i, FG^\top\rangle - y_i)^2`. With
    :math:`E_t = \frac1m\mathcal A^*(\mathcal A(F_t G_t^\top) - y)`,

    .. math:: F_{t+1} = F_t - \eta E_t G_t, \qquad G_{t+1} = G_t - \eta E_t^\top F_t .

    Parameters
    ----------
    measurements : Measurements
        Measurements that are not symmetric: symmetric ones cannot see the antisymmetric part
        of :math:`FG^\top`.
    observations : array of shape (batch, m) or (batch, ..., m)
        The measured values y, one set a problem or one a run.
    left : array of shape (batch, ..., n_rows, k)
        The first F. Further dimensions are runs on the same problem.
    right : array of shape (batch, ..., n_columns, k)
        The first G.
    step : float
        The constant step :math:`\eta`.
    n_steps : int
        Number of iterations.
    target : array of shape (batch, n_rows, n_columns), optional
        The matrix to be found, from which the error is measured.
    record : iterable of int, optional
        Iterations to record; the default is `log_spaced_iterations`.
    show_progress : bool, default False
        Show a progress bar where a person watches.

    Returns
    -------
    Descent
        Errors, losses and the last factors.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, or the run diverges.

    References
    ----------
    Xiong, Ding and Du, "How Over-Parameterization Slows Down Gradient Descent in Matrix
    Sensing", arXiv 2310.01769.
    """
    problem = _Problem.check(measurements, observations, target, left=left, right=right)
    step = check_number(step, "step", above=0.0)
    slope = problem.normal_gradient()

    def advance(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        e = slope(f @ g.mT)
        return f - step * (e @ g), g - step * (e.mT @ f)

    return problem.run(
        problem.factors,
        lambda factors, _: advance(*factors),
        lambda residuals: problem.weight / 2 * residuals.square().sum(-1),
        n_steps,
        record,
        show_progress,
    )


def imbalance(left: Any, right: Any) -> Any:
    r"""Compute the imbalance :math:`F^\top F - G^\top G` of two factors.

    Parameters
    ----------
    left : array of shape (..., n_rows, k)
        The factor F.
    right : array of shape (..., n_columns, k)
        The factor G.

    Returns
    -------
    array of shape (..., k, k)
        Symmetric. Gradient descent with step :math:`\eta` changes it by terms of order
        :math:`\eta^2` a step.

    Raises
    ------
    ValueError
        If the factors differ in width or in leading dimensions.
    """
    (f, g), restore = as_tensors(left=left, right=right)
    _check_pair(f, g)
    return restore(f.mT @ f - g.mT @ g)


def rescale_factors(left: Any, right: Any, scale: float = 1.0) -> tuple[Any, Any]:
    r"""Unbalance two factors in one step, without changing their product.

    With the singular value decomposition :math:`F = P S Q^\top`, returns
    :math:`\beta P` and :math:`G Q S / \beta`. The first factor then has :math:`k` equal
    singular values :math:`\beta`.

    Parameters
    ----------
    left : array of shape (..., n_rows, k)
        The factor F, with ``k <= n_rows``.
    right : array of shape (..., n_columns, k)
        The factor G.
    scale : float, default 1.0
        The common singular value :math:`\beta` of the new first factor.

    Returns
    -------
    left : array of shape (..., n_rows, k)
        With orthogonal columns of length ``scale``.
    right : array of shape (..., n_columns, k)
        The matching second factor.

    Raises
    ------
    ValueError
        If the factors do not fit, F is wider than tall, or the scale is not positive.

    Notes
    -----
    The idea of one step that restores a rate independent of the initialization is that of
    Xiong, Ding and Du (arXiv 2310.01769); this form of the step is derived here and may differ
    from theirs.
    """
    (f, g), restore = as_tensors(left=left, right=right)
    _check_pair(f, g)
    scale = check_number(scale, "scale", above=0.0)
    if f.shape[-1] > f.shape[-2]:
        raise ValueError(f"left: expected at most as many columns as rows, got {tuple(f.shape)}")
    p, s, qt = torch.linalg.svd(f, full_matrices=False)
    return restore(scale * p), restore((g @ qt.mT) * (s / scale)[..., None, :])


@dataclass(frozen=True, eq=False)
class _Problem:
    """Checked input of a descent: everything in float64 on one device."""

    measurements: Measurements
    y: Tensor  # (batch, ..., m), runs of length one where they share the observations
    target: Tensor | None  # (batch, 1, ..., n_rows, n_columns)
    factors: tuple[Tensor, ...]
    restore: Any

    @classmethod
    def check(
        cls, measurements: Measurements, observations: Any, target: Any, **factors: Any
    ) -> _Problem:
        if not isinstance(measurements, Measurements):
            raise ValueError(
                f"measurements: expected Measurements, got {type(measurements).__name__}"
            )
        alone = len(factors) == 1
        if alone and not measurements.symmetric:
            raise ValueError("measurements: expected symmetric measurements, got others")
        if not alone and measurements.symmetric:
            raise ValueError(
                "measurements: expected measurements that are not symmetric, which see all of "
                "F G^T, got symmetric ones"
            )
        names = {"observations": observations, **factors}
        if target is not None:
            names["target"] = target
        tensors, restore = as_tensors(**names)
        given = {
            name: check_tensor(t.detach().to(measurements.device, torch.float64), name)
            for name, t in zip(names, tensors, strict=True)
        }
        first = next(iter(factors))
        batch, heights = given[first].shape[:1], (measurements.n_rows, measurements.n_columns)
        for name, height in zip(factors, heights, strict=False):
            shape = given[name].shape
            if len(shape) < 3 or shape[-2] != height:
                raise ValueError(
                    f"{name}: expected shape (batch, ..., {height}, k), got {tuple(shape)}"
                )
        if not alone:
            _check_pair(given["left"], given["right"])
        if measurements.coordinates is not None and batch != measurements.coordinates.shape[:1]:
            raise ValueError(
                f"{first}: expected a batch of {measurements.coordinates.shape[0]}, "
                f"got {tuple(given[first].shape)}"
            )
        ndim = given[first].ndim
        y = _check_observations(given["observations"], given[first], measurements.n_measurements)
        truth = None
        if target is not None:
            truth = check_tensor(given["target"], "target", shape=(*batch, *heights))
            truth = _insert_axes(truth, ndim)
        return cls(
            measurements,
            y,
            truth,
            tuple(given[name] for name in factors),
            restore,
        )

    @property
    def weight(self) -> float:
        return self.measurements.weight

    def residuals(self, matrix: Tensor) -> Tensor:
        a = self.measurements
        return a.measure(a.to_coordinates(matrix)) - self.y

    def normal_gradient(self) -> Any:
        """Function from a matrix to the average of its residuals times their matrices."""
        a = self.measurements
        if a.coordinates is None:
            seen = a.to_matrix(self.y)
            return lambda matrix: matrix - seen
        if a.n_coordinates >= 2 * a.n_measurements:
            return lambda matrix: a.weight * a.to_matrix(a.gather(self.residuals(matrix)))
        gram = a.weight * (a.coordinates.mT @ a.coordinates)
        seen = a.weight * a.gather(self.y)
        return lambda matrix: a.to_matrix(_times(a.to_coordinates(matrix), gram) - seen)

    def run(
        self,
        factors: tuple[Tensor, ...],
        advance: Any,
        loss: Any,
        n_steps: int,
        record: Iterable[int] | None,
        show_progress: bool,
    ) -> Descent:
        n_steps = check_integer(n_steps, "n_steps", minimum=1)
        points = _check_record(record, n_steps)
        errors, losses = [], []

        def look() -> None:
            product = factors[0] @ factors[-1].mT
            losses.append(loss(self.residuals(product)))
            if not bool(torch.isfinite(losses[-1]).all()):
                raise ValueError(
                    "step: expected a step at which the run stays finite, got a loss of "
                    f"{losses[-1].max().item()} by iteration {t}"
                )
            if self.target is not None:
                errors.append((product - self.target).square().sum((-2, -1)))

        steps = range(n_steps)
        due, t = set(points), 0
        if 0 in due:
            look()
        for t in progress(steps, label="descent") if show_progress else steps:
            factors = advance(factors, t)
            if t + 1 in due:
                look()
        return Descent(
            iterations=np.array(points),
            squared_error=self.restore(torch.stack(errors, -1)) if errors else None,
            loss=self.restore(torch.stack(losses, -1)),
            left=self.restore(factors[0]),
            right=self.restore(factors[-1]),
        )


def _check_pair(left: Tensor, right: Tensor) -> None:
    fits = left.ndim == right.ndim >= 2 and left.shape[-1] == right.shape[-1]
    if not fits or left.shape[:-2] != right.shape[:-2]:
        raise ValueError(
            "right: expected the width and the leading dimensions of left "
            f"{tuple(left.shape)}, got {tuple(right.shape)}"
        )


def _check_observations(y: Tensor, factor: Tensor, n_measurements: int) -> Tensor:
    """Observations with the axes of the runs, each of their length or one."""
    batch, *runs = factor.shape[:-2]
    fits = y.ndim >= 2 and y.shape[0] == batch and y.shape[-1] == n_measurements
    if fits and y.ndim == 2:
        return _insert_axes(y, 1 + len(runs) + 1)
    if fits and len(y.shape[1:-1]) == len(runs):
        fits = all(a in (1, b) for a, b in zip(y.shape[1:-1], runs, strict=True))
    else:
        fits = False
    if not fits:
        wanted = f"({batch}, {n_measurements})"
        if runs:
            wanted += f" or {(batch, *runs, n_measurements)}"
        raise ValueError(f"observations: expected shape {wanted}, got {tuple(y.shape)}")
    return y


def _check_record(record: Iterable[int] | None, n_steps: int) -> list[int]:
    if record is None:
        return log_spaced_iterations(n_steps)
    points = sorted({check_integer(t, "record", minimum=0, maximum=n_steps) for t in record})
    if not points:
        raise ValueError("record: expected at least one iteration, got none")
    return points
