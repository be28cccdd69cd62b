"""Rounding a weight in one pass: to the nearest integer, or with its error fed back (GPTQ).

Every solver takes a weight of shape (G, rows, columns), the statistics of its inputs and a grid,
and returns a `RoundedWeight`. A matrix (rows, columns) is a weight with one group.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from enough.quantization._problem import Problem
from enough.quantization.ranges import choose_qparams
from enough.quantization.statistics import LayerStatistics
from enough.quantization.weight_grid import RoundedWeight, WeightGrid
from enough.runtime.validation import check_choice, check_integer, check_number

__all__ = ["bias_correction", "gptq", "nearest"]

_MOST_DAMPING = 1e6  # relative; past it a matrix is not a second moment


def bias_correction(
    weight: Any, weight_hat: Any, statistics: LayerStatistics, bias: Any = None
) -> Any:
    """Compute the bias that removes the mean error of a quantized layer.

    Parameters
    ----------
    weight : array of shape (G, rows, columns) or (rows, columns)
        W, the full-precision weight.
    weight_hat : array of the same shape
        Ŵ, the quantized weight.
    statistics : LayerStatistics
        Moments of the layer's inputs.
    bias : array of shape (G, rows) or (rows,), optional
        b, the full-precision bias. Default: zero.

    Returns
    -------
    array of shape (G, rows) or (rows,)
        b + W E[x] − Ŵ E[x̂] in the dtype of ``weight``.

    Raises
    ------
    ValueError
        If a shape does not fit, or ``statistics`` has seen no rows.

    Notes
    -----
    Equation 17 of [1]_ with the means measured on calibration data. Where the means of
    quantized and full-precision inputs differ, their difference is corrected too.

    References
    ----------
    .. [1] Nagel, van Baalen, Blankevoort and Welling (2019), "Data-free quantization through
       weight equalization and bias correction", arXiv:1906.04721.
    """
    if not isinstance(statistics, LayerStatistics):
        raise ValueError(f"statistics: expected a LayerStatistics, got {type(statistics).__name__}")
    return statistics.best_bias(weight, weight_hat, bias)


def nearest(
    weight: Any,
    statistics: LayerStatistics,
    grid: WeightGrid,
    *,
    bias: Any = None,
    correct_bias: bool = False,
) -> RoundedWeight:
    """Round each weight to the nearest integer of its grid.

    Parameters
    ----------
    weight : array of shape (G, rows, columns) or (rows, columns)
        W, the full-precision weight.
    statistics : LayerStatistics
        Moments of the layer's inputs; they only measure the error.
    grid : WeightGrid
        The grid.
    bias : array of shape (G, rows) or (rows,), optional
        b, the bias. Default: none.
    correct_bias : bool, default False
        Whether the bias takes its best value (`bias_correction`).

    Returns
    -------
    RoundedWeight
        The rounded weight.

    Raises
    ------
    ValueError
        If a shape does not fit, or an entry is not finite.
    """
    problem = Problem.read(weight, statistics, grid, bias)
    return problem.finish(problem.grid.quantize(problem.weight), correct_bias=correct_bias)


def gptq(
    weight: Any,
    statistics: LayerStatistics,
    grid: WeightGrid,
    *,
    bias: Any = None,
    damping: float = 0.01,
    order: str = "natural",
    block: int = 128,
    refit: str | None = None,
    dead: str = "nearest",
    target: str = "quantized",
    correct_bias: bool = False,
) -> RoundedWeight:
    r"""Round column by column, each correcting for the error of those before it.

    Parameters
    ----------
    weight : array of shape (G, rows, columns) or (rows, columns)
        W, the full-precision weight.
    statistics : LayerStatistics
        Moments of the layer's inputs.
    grid : WeightGrid
        The grid; with ``group_size`` its steps belong to columns as they stand in the weight.
    bias : array of shape (G, rows) or (rows,), optional
        b, the bias. Default: none.
    damping : float, default 0.01
        What is added to the diagonal of the second moments, as a share of the mean of its
        non-zero entries. Where the matrix is rank-deficient and the share too small to
        factor it, the share grows tenfold until it can be.
    order : {"natural", "activation"}, default "natural"
        Columns as they stand, or those with the largest second moment first.
    block : int, default 128
        Columns whose corrections are gathered before they reach the rest; the result does
        not depend on it.
    refit : str, optional
        Choose the step of each column group anew when its turn comes, from the corrected
        weights, by this method of `choose_qparams`. Default: the grid stays as given.
    dead : {"nearest", "zero"}, default "nearest"
        What becomes of the weights of an input that was always zero: rounding to nearest
        leaves them useful on other data, zero is the choice of the authors' code.
    target : {"quantized", "full"}, default "quantized"
        The output to match: that of the full-precision weight on the quantized network's
        inputs, as published, or on the full-precision inputs.
    correct_bias : bool, default False
        Whether the bias takes its best value; the columns are then fed back with the
        covariance in place of the second moments.

    Returns
    -------
    RoundedWeight
        The rounded weight; ``scale`` and ``zero_point`` differ from the grid's with ``refit``.

    Raises
    ------
    ValueError
        If a shape does not fit, an option is unknown, ``refit`` is asked for without column
        groups or in activation order, or the second moments cannot be factored.

    Notes
    -----
    The method is that of [1]_. We do not form :math:`H^{-1}`. With the factor
    :math:`H = U U^\top`, U upper triangular, the error is
    :math:`\sum_k ((w_k - q_k) U_{kk} + \sum_{i<k} (w_i - q_i) U_{ik})^2`, and rounding
    :math:`w_k + \sum_{i<k} (w_i - q_i) U_{ik} / U_{kk}` makes each square as small as it can
    be in turn. That gives the same integers as the published recursion, from one Cholesky
    factor.

    References
    ----------
    .. [1] Frantar, Ashkboos, Hoefler and Alistarh (2023), "GPTQ: accurate post-training
       quantization for generative pre-trained transformers", arXiv:2210.17323, algorithm 1.
    """
    problem = Problem.read(weight, statistics, grid, bias)
    damping = check_number(damping, "damping", minimum=0.0)
    check_choice(order, "order", ("natural", "activation"))
    check_choice(dead, "dead", ("nearest", "zero"))
    check_choice(target, "target", ("quantized", "full"))
    block = check_integer(block, "block", minimum=1)
    grid = problem.grid
    if refit is not None:
        if grid.group_size is None:
            raise ValueError("refit: expected a grid with group_size, got one without")
        if order != "natural":
            raise ValueError(f"refit: expected order 'natural', got {order!r}")
    form = problem.output_error(correct_bias)
    w = problem.weight.to(form.hessian)
    hessian, idle = _damp(form.hessian, damping)
    if target == "full":
        # The least squares weight on the quantized network's inputs takes the place of W.
        w = w - torch.cholesky_solve(form.linear.mT, torch.linalg.cholesky(hessian)).mT
    if dead == "zero":
        w = w.masked_fill(idle.unsqueeze(1), 0.0)
    # Division in the dtype of plain rounding: without feedback the integers are the same.
    dtype = problem.dtype
    scale, zero = (v.to(w.device).expand_as(w) for v in grid.expand(w.shape[2], dtype))
    if order == "activation":
        permutation = torch.diagonal(form.hessian, dim1=1, dim2=2).argsort(1, descending=True)
        hessian = hessian.gather(1, permutation[:, :, None].expand_as(hessian))
        hessian = hessian.gather(2, permutation[:, None, :].expand_as(hessian))
        back = permutation.argsort(1)[:, None, :].expand_as(w)
        forth = permutation[:, None, :].expand_as(w)
        w, scale, zero = (v.gather(2, forth) for v in (w, scale, zero))
    factor = torch.linalg.cholesky(hessian.flip(1, 2)).flip(1, 2)
    if refit is None:
        integers = _nearest_plane(w, factor, scale, zero, grid.low, grid.high, block)
        if order == "activation":
            integers = integers.gather(2, back)
    else:
        integers, grid = _refit_groups(w, factor, grid, refit, dtype)
    return problem.finish(integers, correct_bias=correct_bias, grid=grid)


def _damp(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Make the second moments positive definite; also say which inputs were always zero."""
    diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
    idle = diagonal <= 0
    size = diagonal.clamp(min=0).sum(1) / (~idle).sum(1).clamp(min=1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    # An idle input has no ties to others: any positive entry leaves it out of the feedback.
    base = hessian + torch.diag_embed(idle * size[:, None])
    eye = torch.eye(hessian.shape[1], dtype=hessian.dtype, device=hessian.device)
    while True:
        damped = base + (damping * size)[:, None, None] * eye
        failed = torch.linalg.cholesky_ex(damped).info
        failed_backward = torch.linalg.cholesky_ex(damped.flip(1, 2)).info
        if not bool((failed | failed_backward).any()):
            return damped, idle
        damping = max(10 * damping, 1e-12)
        if damping > _MOST_DAMPING:
            raise ValueError("statistics: expected second moments, got an indefinite matrix")


def _nearest_plane(
    weight: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, block: int
) -> Tensor:
    """Round columns in order, blocks of corrections at a time."""
    columns = weight.shape[2]
    error = torch.zeros_like(weight)
    integers = torch.empty_like(weight, dtype=torch.int32)
    # Column k of the corrections, in units of the weight.
    feedback = factor / torch.diagonal(factor, dim1=1, dim2=2).unsqueeze(1)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        wish = weight[:, :, start:stop] + torch.bmm(
            error[:, :, :start], feedback[:, :start, start:stop]
        )
        for k in range(start, stop):
            if k > start:
                tie = feedback[:, start:k, k : k + 1]
                wished = wish[:, :, k - start] + torch.bmm(error[:, :, start:k], tie)[..., 0]
            else:
                wished = wish[:, :, 0]
            step, origin = scale[:, :, k], zero[:, :, k]
            rounded = torch.round(wished.to(step.dtype) / step).add_(origin).clamp_(low, high)
            integers[:, :, k] = rounded
            error[:, :, k] = weight[:, :, k] - (step * (rounded - origin)).to(weight.dtype)
    return integers


def _refit_groups(
    weight: Tensor, factor: Tensor, grid: WeightGrid, method: str, dtype: torch.dtype
) -> tuple[Tensor, WeightGrid]:
    """Round group by group, each on a grid chosen for its corrected weights."""
    groups, rows, columns = weight.shape
    error = torch.zeros_like(weight)
    integers = torch.empty_like(weight, dtype=torch.int32)
    scales, zeros = [], []
    for start in range(0, columns, grid.group_size):
        part = slice(start, min(start + grid.group_size, columns))
        own = factor[:, part, part]
        # The best values of these columns given the errors so far: x U = e U[before, here].
        carried = torch.bmm(error[:, :, :start], factor[:, :start, part])
        shift = torch.linalg.solve_triangular(own, carried, upper=True, left=False)
        wish = weight[:, :, part] + shift
        scale, zero = choose_qparams(
            wish.flatten(0, 1).to(grid.scale.dtype),
            bits=grid.bits,
            symmetric=grid.symmetric,
            axis=0,
            method=method,
        )
        scales.append(scale.view(groups, rows))
        zeros.append(zero.view(groups, rows))
        step, origin = (v.to(dtype)[..., None].expand_as(wish) for v in (scales[-1], zeros[-1]))
        q = _nearest_plane(wish, own, step, origin, grid.low, grid.high, wish.shape[2])
        integers[:, :, part] = q
        error[:, :, part] = weight[:, :, part] - (step * (q - origin)).to(weight.dtype)
    fresh = replace(
        grid,
        scale=torch.stack(scales, 2).to(grid.scale),
        zero_point=torch.stack(zeros, 2).to(grid.zero_point),
    )
    return integers, fresh
