r"""Ridge regression for a whole path of ridges from one decomposition.

With the singular value decomposition :math:`F = U S V^\top`, the solution of

.. math:: \min_w \; \lVert F w - y \rVert^2 + \delta \lVert w \rVert^2

is :math:`w = V \,\mathrm{diag}\!\big(s/(s^2+\delta)\big)\, U^\top y`: a new ridge costs one
diagonal, not a new solve. All ridges and outputs share the same matrix products, and the
leave-one-out error of every ridge follows from the same factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from enough.runtime import chunks, exact_device
from enough.runtime.validation import as_tensors, check_choice, check_number, check_tensor

__all__ = ["RidgePath", "ridge_path"]

_EPS = torch.finfo(torch.float64).eps
# The eigenvalues of a Gram matrix carry an absolute error of about eps times the largest.
# Where every ridge is at least this share of the largest, the solution keeps ten digits.
_GRAM_SHARE = 2.0**-19
# Bytes of working arrays at a time beside the results, unless the factors take more themselves.
_MEMORY = 2**20


def ridge_path(
    features: Any,
    targets: Any,
    ridges: Any,
    test_features: Any = None,
    *,
    method: str = "auto",
    rtol: float | None = None,
) -> RidgePath:
    r"""Solve ridge regression for many ridges at once.

    Minimizes :math:`\lVert F w - y \rVert^2 + \delta \lVert w \rVert^2` for every ridge
    :math:`\delta` and every output. The ridge is not multiplied by the number of samples, and
    no intercept is fitted.

    Parameters
    ----------
    features : array of shape (..., n, features)
        Training features :math:`F`, wider or narrower than the number of samples n. Leading
        dimensions are independent problems.
    targets : array of shape (..., n, outputs) or (..., n)
        Training targets. Leading dimensions match those of ``features``, or are absent when
        all problems share their targets. Without an outputs axis here, the results have none.
        A shape that fits both readings is read as (..., n), one target vector a problem.
    ridges : array of shape (ridges,), or float
        Ridges, zero or more. Zero means the minimum-norm least-squares solution.
    test_features : array of shape (..., n_test, features), optional
        Where to predict.
    method : {"auto", "svd", "gram"}, default "auto"
        ``"svd"`` decomposes the features. ``"gram"`` decomposes the smaller Gram matrix, two
        to five times faster, with a relative error of about 2e-16 times the largest squared
        singular value over the smallest ridge; it needs positive ridges. ``"auto"`` takes it
        where that error stays below 1e-10.
    rtol : float, optional
        For ridge zero, singular values at most ``rtol`` times the largest count as zero.
        Default: the larger dimension of ``features`` times the machine epsilon of its dtype,
        as in ``numpy.linalg.lstsq``. For positive ridges, only singular values below the
        resolution of float64 count as zero.

    Returns
    -------
    RidgePath
        Coefficients and predictions, ridges along the first axis, in the dtype of
        ``features`` (float64 for integers): numpy arrays if features, targets and
        test features are, else tensors on their device. Computed in float64.

    Raises
    ------
    ValueError
        If shapes do not fit, an entry is NaN or infinite, a ridge is negative, or ``method``
        is ``"gram"`` with a ridge of zero.

    Notes
    -----
    Gradients do not flow: the derivative of a decomposition diverges for repeated singular
    values.
    """
    check_choice(method, "method", ("auto", "svd", "gram"))
    names = {"features": features, "targets": targets}
    if test_features is not None:
        names["test_features"] = test_features
    tensors, restore = as_tensors(**names)
    dtype = tensors[0].dtype if tensors[0].is_floating_point() else torch.float64
    device = tensors[0].device
    exact = exact_device(device)
    f, y, *test = (check_tensor(t.detach().to(exact, torch.float64), name)
                   for name, t in zip(names, tensors, strict=True))  # fmt: skip
    y, one_output = _with_outputs(f, y)
    (delta,), _ = as_tensors(ridges=ridges)
    delta = check_tensor(delta.detach().to(exact, torch.float64), "ridges", ndim=(0, 1), minimum=0)
    delta = delta.reshape(-1)
    if test and (test[0].ndim < 2 or test[0].shape[-1] != f.shape[-1]):
        raise ValueError(
            f"test_features: expected shape (..., n_test, {f.shape[-1]}), "
            f"got {tuple(test[0].shape)}"
        )
    if rtol is None:
        rtol = max(f.shape[-2:]) * torch.finfo(dtype).eps
    rtol = check_number(rtol, "rtol", minimum=0.0)
    if method == "gram" and bool((delta == 0).any()):
        raise ValueError("ridges: expected positive ridges with method 'gram', got 0")
    factors = _gram(f, y, delta, check=method == "auto") if method != "svd" else None
    if factors is None:
        factors = _svd(f, y, delta, rtol)
    project = test[0] @ factors.basis if test else None

    def finish(result: Tensor, squeeze: bool = one_output) -> Any:
        result = result.squeeze(-1) if squeeze else result
        return restore(result.to(device, dtype) if result.is_floating_point() else result)

    return RidgePath(
        ridges=finish(delta, squeeze=False),
        train_predictions=finish(factors.apply(factors.left, "fit")),
        test_predictions=None if project is None else finish(factors.apply(project, "solve")),
        _factors=factors,
        _finish=finish,
    )


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Solutions of ridge regression along a path of ridges.

    Shapes are for targets with an outputs axis; without one, the results have none.

    Parameters
    ----------
    ridges : array of shape (ridges,)
        The ridges.
    train_predictions : array of shape (ridges, ..., n, outputs)
        Predictions for the training samples.
    test_predictions : array of shape (ridges, ..., n_test, outputs), or None
        Predictions for the test samples.
    _factors : object
        The decomposition from which the properties are computed; internal.
    _finish : callable
        Turns results into what the caller gave; internal.
    """

    ridges: Any
    train_predictions: Any
    test_predictions: Any
    _factors: _Factors = field(repr=False)
    _finish: Any = field(repr=False)

    @cached_property
    def coefficients(self) -> Any:
        """Weights, an array of shape (ridges, ..., features, outputs); computed when asked."""
        return self._finish(self._factors.apply(self._factors.basis, "solve"))

    @cached_property
    def train_residuals(self) -> Any:
        """Targets minus predictions, shape (ridges, ..., n, outputs).

        Computed without the subtraction where the fit interpolates or nearly does, so that
        small residuals keep their digits.
        """
        return self._finish(self._factors.residuals())

    @cached_property
    def degrees_of_freedom(self) -> Any:
        """Trace of the map from targets to predictions, shape (ridges, ...)."""
        return self._finish(self._factors.degrees_of_freedom(), squeeze=False)

    @cached_property
    def leave_one_out_residuals(self) -> Any:
        """Errors at each training sample of the fit to all others, (ridges, ..., n, outputs).

        Exact, without refitting. At ridge zero, the minimum-norm solution of the others.
        """
        return self._finish(self._factors.leave_one_out())

    @cached_property
    def leave_one_out_mse(self) -> Any:
        """Mean square of the leave-one-out residuals, shape (ridges, ..., outputs)."""
        return self._finish(self._factors.leave_one_out_mse())

    @cached_property
    def generalized_cross_validation(self) -> Any:
        """Mean squared residual over the squared mean of one minus the leverage.

        Shape (ridges, ..., outputs). It replaces each sample's leverage in the leave-one-out
        error by the mean leverage; at ridge zero, the limit from above.
        """
        return self._finish(self._factors.generalized_cross_validation())


@dataclass(frozen=True, eq=False)
class _Factors:
    """Predictions are ``left @ (fit * projected)``, weights ``basis @ (solve * projected)``.

    All in float64; ``projected`` is ``left.T @ targets``. ``left`` has orthonormal columns
    unless ``narrow`` (the Gram matrix of fewer features than samples), where it is
    ``features @ basis``. Filters have shape (ridges, ..., r) and are made when they are needed,
    for a block of ridges at a time.
    """

    left: Tensor  # (..., n, r)
    basis: Tensor  # (..., features, r)
    projected: Tensor  # (..., r, outputs)
    targets: Tensor  # (..., n, outputs)
    squares: Tensor  # (..., r), the eigenvalues of the Gram matrix
    singular: Tensor | None  # their roots; None from the Gram matrix
    cutoff: Tensor | None  # (ridges, ..., 1), singular values at most this count as zero
    narrow: bool
    spans: bool  # whether the columns of left span all targets
    delta: Tensor  # (ridges,)

    def _filters(self, kind: str, ridges: slice) -> Tensor:
        """``fit``, ``solve``, ``miss`` (one minus fit, without cancellation) or ``inverse``.

        ``inverse`` is miss over the ridge, finite at ridge zero.
        """
        delta = self.delta[ridges].reshape(-1, *[1] * self.squares.ndim)
        kept: Any = True
        if self.singular is None:
            inverse = 1 / (self.squares + delta)
        else:
            kept = self.singular > self.cutoff[ridges]
            inverse = torch.where(kept, 1 / torch.where(kept, self.squares + delta, 1.0), 0.0)
        if kind == "fit":
            return inverse if self.narrow else self.squares * inverse
        if kind == "solve":
            return inverse if self.singular is None else self.singular * inverse
        if kind == "miss":
            return delta * inverse if kept is True else torch.where(kept, delta * inverse, 1.0)
        return inverse

    def _blocks(self, width: int, ridges: slice = slice(None)) -> Iterator[slice]:
        """Cut ridges into blocks that need little memory with ``width`` columns each."""
        rank, rows = self.squares.shape[-1], max(self.left.shape[-2], self.basis.shape[-2])
        problems = self.squares.shape[:-1].numel()
        first, last, _ = ridges.indices(len(self.delta))
        each = 8 * problems * (3 * rank + 2 * rank * width + rows * width)
        limit = max(_MEMORY, 8 * self.left.numel(), 8 * self.basis.numel())
        for block in chunks(last - first, each, limit):
            yield slice(first + block.start, first + block.stop)

    def _products(
        self, matrix: Tensor, columns: Callable[[slice], Tensor], width: int, ridges: slice
    ) -> Tensor:
        """``matrix @ columns`` of each ridge, (ridges, ..., rows, width)."""
        first, last, _ = ridges.indices(len(self.delta))
        result = None
        for block in self._blocks(width, ridges):
            part = matrix @ columns(block)  # (..., rows, ridges * width)
            if block == slice(first, last):
                result = part
                break
            if result is None:
                result = part.new_empty(*part.shape[:-1], (last - first) * width)
            result[..., (block.start - first) * width : (block.stop - first) * width] = part
        return result.unflatten(-1, (last - first, width)).movedim(-2, 0)

    def apply(self, matrix: Tensor, kind: str, ridges: slice = slice(None)) -> Tensor:
        """``matrix @ (filters * projected)``."""

        def columns(block: slice) -> Tensor:
            scaled = self._filters(kind, block)[..., None] * self.projected
            return scaled.movedim(0, -2).flatten(-2)

        return self._products(matrix, columns, self.projected.shape[-1], ridges)

    def residuals(self, ridges: slice = slice(None)) -> Tensor:
        if self.narrow:
            return self.targets - self.apply(self.left, "fit", ridges)
        inside = self.apply(self.left, "miss", ridges)
        return inside if self.spans else inside + (self.targets - self.left @ self.projected)

    def _row_sums(self, kind: str, ridges: slice) -> Tensor:
        def columns(block: slice) -> Tensor:
            return self._filters(kind, block).movedim(0, -1)

        return self._products(self.left.square(), columns, 1, ridges)[..., 0]

    def degrees_of_freedom(self) -> Tensor:
        return self._in_blocks(lambda ridges: self._row_sums("fit", ridges).sum(-1))

    def _complements(self, ridges: slice) -> Tensor:
        """One minus the leverages, (ridges, ..., n)."""
        if self.narrow:
            return 1 - self._row_sums("fit", ridges)
        inside = self._row_sums("miss", ridges)
        if self.spans:
            return inside
        return inside + (1 - self.left.square().sum(-1)).clamp(min=0.0)

    def _interpolated(self, complements: Tensor, ridges: slice) -> Tensor:
        """Where residual and complement both vanish at ridge zero."""
        at_zero = (self.delta[ridges] == 0).reshape(-1, *[1] * (complements.ndim - 1))
        return at_zero & (complements <= 8 * self.left.shape[-2] * _EPS)

    def leave_one_out(self, ridges: slice = slice(None)) -> Tensor:
        residuals, complements = self.residuals(ridges), self._complements(ridges)
        vanish = self._interpolated(complements, ridges)
        if bool(vanish.any()):  # both are proportional to the ridge: compare the slopes
            complements = torch.where(vanish, self._row_sums("inverse", ridges), complements)
            slopes = self.apply(self.left, "inverse", ridges)
            residuals = torch.where(vanish[..., None], slopes, residuals)
        return residuals / complements[..., None]

    def leave_one_out_mse(self) -> Tensor:
        return self._in_blocks(lambda ridges: self.leave_one_out(ridges).square().mean(-2))

    def generalized_cross_validation(self) -> Tensor:
        return self._in_blocks(self._generalized_cross_validation)

    def _generalized_cross_validation(self, ridges: slice) -> Tensor:
        residuals, complements = self.residuals(ridges), self._complements(ridges).mean(-1)
        vanish = self._interpolated(complements, ridges)
        if bool(vanish.any()):
            slopes = self.apply(self.left, "inverse", ridges)
            means = self._row_sums("inverse", ridges).mean(-1)
            complements = torch.where(vanish, means, complements)
            residuals = torch.where(vanish[..., None, None], slopes, residuals)
        return residuals.square().mean(-2) / complements[..., None].square()

    def _in_blocks(self, function: Callable[[slice], Tensor]) -> Tensor:
        """Summaries of all ridges from arrays of a block at a time."""
        blocks = self._blocks(self.projected.shape[-1])
        return torch.cat([function(ridges) for ridges in blocks])


def _with_outputs(features: Tensor, targets: Tensor) -> tuple[Tensor, bool]:
    """Targets with batch dimensions that broadcast and an outputs axis."""
    if features.ndim < 2:
        raise ValueError(
            f"features: expected shape (..., n, features), got {tuple(features.shape)}"
        )
    *batch, n, _ = features.shape
    if targets.shape in (features.shape[:-1], (n,)):
        return targets[..., None], True
    fits = targets.ndim >= 2 and targets.shape[-2] == n
    if fits and list(targets.shape[:-2]) in (batch, []):
        return targets, False
    raise ValueError(
        f"targets: expected shape {(*batch, n, 'outputs')} or {(*batch, n)} for features "
        f"{tuple(features.shape)}, got {tuple(targets.shape)}"
    )


def _svd(features: Tensor, targets: Tensor, delta: Tensor, rtol: float) -> _Factors:
    left, s, right = _tall_svd(features)
    delta_ = delta.reshape(-1, *[1] * s.ndim)
    resolution = max(features.shape[-2:]) * _EPS
    cutoff = torch.where(delta_ == 0, rtol, resolution) * s[..., :1]
    return _Factors(
        left=left,
        basis=right.mT,
        projected=left.mT @ targets,
        targets=targets,
        squares=s.square(),
        singular=s,
        cutoff=cutoff,
        narrow=False,
        spans=features.shape[-2] <= features.shape[-1],
        delta=delta,
    )


def _tall_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD through a QR of the tall orientation: LAPACK is many times faster that way."""
    wide = matrix.shape[-2] < matrix.shape[-1]
    q, r = torch.linalg.qr(matrix.mT if wide else matrix)
    u, s, vh = torch.linalg.svd(r)
    u = q @ u
    return (vh.mT, s, u.mT) if wide else (u, s, vh)


def _gram(features: Tensor, targets: Tensor, delta: Tensor, *, check: bool) -> _Factors | None:
    """Factors from the smaller Gram matrix, or None when ``check`` finds them inaccurate."""
    smallest = float(delta.min()) if len(delta) else math.inf
    if check and smallest == 0:
        return None
    narrow = features.shape[-1] < features.shape[-2]
    gram = features.mT @ features if narrow else features @ features.mT
    # The Frobenius norm bounds the largest eigenvalue from above.
    if check and smallest < _GRAM_SHARE * float(torch.linalg.matrix_norm(gram).max()):
        return None
    squares, vectors = torch.linalg.eigh(gram)
    squares = squares.clamp(min=0.0)
    left = features @ vectors if narrow else vectors
    return _Factors(
        left=left,
        basis=vectors if narrow else features.mT @ vectors,
        projected=left.mT @ targets,
        targets=targets,
        squares=squares,
        singular=None,
        cutoff=None,
        narrow=narrow,
        spans=not narrow,
        delta=delta,
    )
