"""Learned rounding: AdaRound and AdaQuant on the second moments of a layer's inputs.

Both methods descend the squared output error of one layer. As published they run the layer on
a batch of calibration data at every step. Here the error is the quadratic form of
`LayerStatistics.output_error`: one matrix product a step, whatever the number of samples, and the
gradient is that of the whole calibration set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from enough.quantization._problem import Problem
from enough.quantization.grid import integer_range
from enough.quantization.statistics import LayerStatistics, OutputError
from enough.quantization.uniform import straight_through_quantize
from enough.quantization.weight_grid import RoundedWeight, WeightGrid, expand_columns
from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = ["SoftRounding", "adaquant", "adaround"]

_STRETCH = 1.2  # the rectified sigmoid is clip(1.2 σ(v) − 0.1, 0, 1)
_OFFSET = 0.1
_SMALLEST_STEP = 1e-3  # of the first; Adam never takes a step through zero


@dataclass(frozen=True)
class SoftRounding:
    """Rounding down or up as a continuous choice: AdaRound's rectified sigmoid.

    Parameters
    ----------
    floor : torch.Tensor, shape (G, rows, columns)
        The grid's value below each weight.
    span : torch.Tensor, shape (G, rows, columns)
        The way up to the next one: the step, or 0 where the weight lies outside the grid's
        range and both neighbors are its end.
    start : torch.Tensor, shape (G, rows, columns)
        v with which the soft weight equals the weight, where it is in the range.
    """

    floor: Tensor
    span: Tensor
    start: Tensor

    @classmethod
    def of(cls, weight: Tensor, grid: WeightGrid) -> SoftRounding:
        """Find the two neighbors of each weight.

        Parameters
        ----------
        weight : torch.Tensor, shape (G, rows, columns)
            The weight.
        grid : WeightGrid
            Its grid.

        Returns
        -------
        SoftRounding
            In the dtype of ``weight``.

        Raises
        ------
        ValueError
            If the grid belongs to another shape.
        """
        grid.check(weight)
        scale, zero = grid.expand(weight.shape[2], weight.dtype)
        ratio = weight / scale
        down = torch.floor(ratio)
        # In the units of q − z the ends of the grid move with the zero point.
        lowest, highest = grid.low - zero, grid.high - zero
        floor = torch.clamp(down, lowest, highest)
        top = torch.clamp(down + 1, lowest, highest)
        share = (ratio - down + _OFFSET) / _STRETCH
        return cls(scale * floor, scale * (top - floor), torch.logit(share))

    @staticmethod
    def share(v: Tensor) -> Tensor:
        """Compute how far up each weight is rounded.

        Parameters
        ----------
        v : torch.Tensor
            The learned variable.

        Returns
        -------
        torch.Tensor
            h(v) = clip(1.2 σ(v) − 0.1, 0, 1).
        """
        return (torch.sigmoid(v) * _STRETCH - _OFFSET).clamp_(0.0, 1.0)

    def weight(self, v: Tensor) -> Tensor:
        """Compute the soft weight.

        Parameters
        ----------
        v : torch.Tensor, shape (G, rows, columns)
            The learned variable.

        Returns
        -------
        torch.Tensor, shape (G, rows, columns)
            Between the two neighbors.
        """
        return torch.addcmul(self.floor, self.span, self.share(v))


def adaround(
    weight: Any,
    statistics: LayerStatistics,
    grid: WeightGrid,
    *,
    bias: Any = None,
    steps: int = 500,
    lr: float = 0.2,
    regularization: float = 20.0,
    beta: tuple[float, float] = (20.0, 2.0),
    warmup: float = 0.2,
    correct_bias: bool = False,
    rows: Any = None,
    rows_hat: Any = None,
    batch: int = 256,
    generator: torch.Generator | int | None = None,
) -> RoundedWeight:
    r"""Learn for each weight whether to round down or up.

    Parameters
    ----------
    weight : array of shape (G, rows, columns) or (rows, columns)
        W, the full-precision weight.
    statistics : LayerStatistics
        Moments of the layer's inputs.
    grid : WeightGrid
        The grid.
    bias : array of shape (G, rows) or (rows,), optional
        b, the bias. Default: none.
    steps : int, default 500
        Steps of Adam.
    lr : float, default 0.2
        Its learning rate.
    regularization : float, default 20.0
        λ, the weight of the term that drives each choice to 0 or 1; relative to the error of
        rounding to nearest (see Notes).
    beta : (float, float), default (20.0, 2.0)
        First and last exponent of that term.
    warmup : float, default 0.2
        Share of the steps before the term is switched on.
    correct_bias : bool, default False
        Whether the bias takes its best value at every step and at the end.
    rows : array of shape (G, n, columns) or (n, columns), optional
        Full-precision inputs. With them the error after a ReLU is descended, on a batch of
        rows a step; without, the error of the output from ``statistics``.
    rows_hat : array of the shape of ``rows``, optional
        The same inputs as the quantized network gives them. Default: ``rows``.
    batch : int, default 256
        Rows in a batch.
    generator : torch.Generator or int, optional
        Draws the batches; without ``rows`` nothing is random.

    Returns
    -------
    RoundedWeight
        The rounded weight; every integer is one of the two next to the weight.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, or ``correct_bias`` comes with
        ``rows``.

    Notes
    -----
    Equations 21 to 25 of [1]_: :math:`\hat W = s\,\mathrm{clip}(\lfloor W/s \rfloor + h(V))`
    minimizes the error plus :math:`\lambda \sum (1 - |2 h(V) - 1|^\beta)`, β falling along a
    line after the warm-up, and ends with h rounded to 0 or 1. V starts where the soft weight
    is W. We divide the error of each row by that of rounding to nearest, over the number of
    columns, so that one λ serves every layer; the published error has its own units. A row
    that rounding to nearest serves better, which many steps never give, is rounded to
    nearest; with ``rows`` no such comparison is made.

    References
    ----------
    .. [1] Nagel, Amjad, van Baalen, Louizos and Blankevoort (2020), "Up or down? Adaptive
       rounding for post-training quantization", arXiv:2004.10568.
    """
    problem = Problem.read(weight, statistics, grid, bias)
    steps = check_integer(steps, "steps", minimum=1)
    lr = check_number(lr, "lr", above=0.0)
    strength = check_number(regularization, "regularization", minimum=0.0)
    first, last = (check_number(b, "beta", minimum=1.0) for b in beta)
    warmup = check_number(warmup, "warmup", minimum=0.0, below=1.0)
    grid = problem.grid
    w = problem.weight.to(problem.dtype)
    soft = SoftRounding.of(w, grid)
    form = problem.output_error(correct_bias)
    near = grid.quantize(problem.weight)
    rounding = _difference(problem, grid, near)
    if rows is None:
        slope = _quadratic_slope(form, w.dtype)
        own = (torch.bmm(rounding, form.hessian) * rounding).sum(2)
    else:
        if correct_bias:
            raise ValueError("correct_bias: expected False with rows, got True")
        behind = _BehindReLU.of(problem, _Batches.read(problem, rows, rows_hat, batch, generator))
        slope, own = behind.slope, behind.row_errors(rounding.to(w))
    # Mean over columns of the error of rounding to nearest; a row without any has no slope.
    unit = torch.where(own > 0, own / w.shape[2], torch.ones_like(own)).unsqueeze(2).to(w)
    base, scaled_span = soft.floor - w, soft.span / unit
    v = soft.start.clone()
    optimizer = _adam([{"params": [v], "lr": lr}])
    start = warmup * steps
    for step in range(steps):
        sigmoid = torch.sigmoid(v)
        share = sigmoid * _STRETCH - _OFFSET
        moves = (share > 0) & (share < 1)
        share.clamp_(0.0, 1.0)
        gradient = slope(torch.addcmul(base, soft.span, share)) * scaled_span
        if step >= start:
            power = last + (first - last) * (1 - (step - start) / (steps - start))
            side = 2 * share - 1
            pull = side.abs().pow_(power - 1).copysign_(side)
            gradient.sub_(pull, alpha=2 * strength * power)
        # dh/dv of the rectified sigmoid.
        v.grad = gradient.mul_(_STRETCH * sigmoid * (1 - sigmoid)).mul_(moves)
        optimizer.step()
    share, free = soft.share(v), soft.span > 0
    undecided = ((share > 0) & (share < 1) & free).sum() / free.sum().clamp(min=1)
    # The values are on the grid: rounding them recovers the integers.
    integers = grid.quantize(torch.addcmul(soft.floor, soft.span, (v >= 0).to(w)))
    if rows is None:
        worse = _error_of(problem, form, grid, integers) > _error_of(problem, form, grid, near)
        integers = torch.where(worse.unsqueeze(-1), near, integers)
    return problem.finish(integers, correct_bias=correct_bias, undecided=float(undecided))


def adaquant(
    weight: Any,
    statistics: LayerStatistics,
    grid: WeightGrid,
    *,
    bias: Any = None,
    steps: int = 500,
    lr: float = 0.01,
    lr_scale: float = 1e-3,
    lr_zero_point: float = 1e-2,
    lr_input: float = 1e-2,
    correct_bias: bool = True,
    rows: Any = None,
    rows_hat: Any = None,
    input_scale: Any = None,
    input_zero_point: Any = 0,
    input_bits: int = 8,
    input_symmetric: bool = False,
    batch: int = 256,
    generator: torch.Generator | int | None = None,
) -> RoundedWeight:
    r"""Learn the weight before rounding, the steps, the zero points and the bias of one layer.

    Parameters
    ----------
    weight : array of shape (G, rows, columns) or (rows, columns)
        W, the full-precision weight.
    statistics : LayerStatistics
        Moments of the layer's inputs.
    grid : WeightGrid
        Where the steps and zero points start.
    bias : array of shape (G, rows) or (rows,), optional
        b, the bias. Default: none.
    steps : int, default 500
        Steps of Adam.
    lr : float, default 0.01
        Learning rate of the weight, in steps of the first grid.
    lr_scale : float, default 1e-3
        Learning rate of the steps, relative to their first value; 0 leaves them.
    lr_zero_point : float, default 1e-2
        Learning rate of the zero points, in integers; 0 leaves them. They are used rounded,
        so zero stays on the grid.
    lr_input : float, default 1e-2
        Learning rate of the input's step, relative to its first value; and of the input's
        zero point, in integers.
    correct_bias : bool, default True
        Whether the bias is learned; it takes its best value at every step, in closed form.
    rows : array of shape (G, n, columns) or (n, columns), optional
        Full-precision inputs; needed to learn the input's range.
    rows_hat : array of the shape of ``rows``, optional
        The same inputs as the quantized network gives them, before this layer's input
        quantizer. Default: ``rows``.
    input_scale : float or tensor with one entry, optional
        Step of the input quantizer, to be learned. Needs ``rows``.
    input_zero_point : int or tensor with one entry, default 0
        The integer that stands for zero at the input.
    input_bits : int, default 8
        Width of the input quantizer.
    input_symmetric : bool, default False
        Which integers the input quantizer has.
    batch : int, default 256
        Rows in a batch, where ``rows`` are given.
    generator : torch.Generator or int, optional
        Draws the batches; without ``rows`` nothing is random.

    Returns
    -------
    RoundedWeight
        The rounded weight on the learned grid, and the input quantizer where one was given.
        ``error`` is measured over ``statistics``, or over ``rows`` with the learned quantizer.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is out of range, or only one of ``rows`` and
        ``input_scale`` is given.

    Notes
    -----
    The problem is that of [1]_, equation 4: minimize
    :math:`\|W X + b - (Q_{\Delta_w}(W + V)\, Q_{\Delta_x}(X) + b')\|^2` over V, the ranges and
    b', with straight-through rounding. V is not limited to one step. Each row (the whole
    weight, where it shares one step) returns the best of the weights it passed, the start
    included; with ``rows`` the last.

    References
    ----------
    .. [1] Hubara, Nahshan, Hanani, Banner and Soudry (2021), "Accurate post training
       quantization with small calibration sets", ICML, arXiv:2006.10518.
    """
    problem = Problem.read(weight, statistics, grid, bias)
    steps = check_integer(steps, "steps", minimum=1)
    rates = {
        "lr": check_number(lr, "lr", above=0.0),
        "lr_scale": check_number(lr_scale, "lr_scale", minimum=0.0),
        "lr_zero_point": check_number(lr_zero_point, "lr_zero_point", minimum=0.0),
    }
    if (rows is None) != (input_scale is None):
        given, absent = ("rows", "input_scale") if input_scale is None else ("input_scale", "rows")
        raise ValueError(f"{absent}: expected together with {given}, got None")
    if rows is None:
        integers, learned = _descend_moments(problem, correct_bias, steps, rates)
        return problem.finish(integers, correct_bias=correct_bias, grid=learned)
    rates["lr_input"] = check_number(lr_input, "lr_input", minimum=0.0)
    quantizer = _read_quantizer(input_scale, input_zero_point, input_bits, input_symmetric, problem)
    batches = _Batches.read(problem, rows, rows_hat, batch, generator)
    return _descend_rows(problem, quantizer, batches, correct_bias, steps, rates)


@dataclass(frozen=True)
class _Batches:
    """Rows of both networks, and the draws from them."""

    x: Tensor
    h: Tensor
    size: int
    generator: torch.Generator

    @classmethod
    def read(
        cls, problem: Problem, rows: Any, rows_hat: Any, batch: Any, generator: Any
    ) -> _Batches:
        size = check_integer(batch, "batch", minimum=1)
        w = problem.weight
        wanted = (w.shape[0], None, w.shape[2])
        pair = []
        for name, value in (("rows", rows), ("rows_hat", rows if rows_hat is None else rows_hat)):
            (x,), _ = as_tensors(**{name: value})
            check_tensor(x, name, ndim=(2, 3))
            x = x.unsqueeze(0) if x.ndim == 2 else x
            check_tensor(x, name, shape=wanted)
            pair.append(x.detach().to(w.device, problem.dtype))
            wanted = tuple(x.shape)
        return cls(*pair, size, as_generator(generator))

    def draw(self) -> tuple[Tensor, Tensor]:
        count = self.x.shape[1]
        if self.size >= count:
            return self.x, self.h
        where = self.generator.device
        picked = torch.randint(count, (self.size,), generator=self.generator, device=where)
        picked = picked.to(self.x.device)
        return self.x[:, picked], self.h[:, picked]


def _adam(groups: list[dict[str, Any]]) -> torch.optim.Adam:
    device = groups[0]["params"][0].device.type
    return torch.optim.Adam(groups, fused=device in ("cpu", "cuda"))


def _difference(problem: Problem, grid: WeightGrid, integers: Tensor) -> Tensor:
    """The weight error that will be returned, in float64."""
    rounded = grid.dequantize(integers).to(problem.weight.dtype)
    return rounded.to(torch.float64) - problem.weight.to(torch.float64)


def _error_of(problem: Problem, form: OutputError, grid: WeightGrid, integers: Tensor) -> Tensor:
    return form.rows(_difference(problem, grid, integers))


def _quadratic_slope(form: OutputError, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The gradient of the error with respect to the weight, from the moments."""
    doubled = form.to(dtype)
    hessian, linear = 2 * doubled.hessian, 2 * doubled.linear

    def slope(difference: Tensor) -> Tensor:
        return torch.baddbmm(linear, difference, hessian)

    return slope


@dataclass(frozen=True)
class _BehindReLU:
    """The error after a ReLU, from rows."""

    weight: Tensor
    bias: Tensor
    batches: _Batches

    @classmethod
    def of(cls, problem: Problem, batches: _Batches) -> _BehindReLU:
        w = problem.weight.to(problem.dtype)
        bias = w.new_zeros(w.shape[:2]) if problem.bias is None else problem.bias.to(w)
        return cls(w, bias.unsqueeze(1), batches)

    def errors(self, difference: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Errors of the output, and the output before its ReLU."""
        output = torch.baddbmm(self.bias, h, (self.weight + difference).mT)
        target = torch.baddbmm(self.bias, x, self.weight.mT).relu_()
        return output.relu() - target, output

    def row_errors(self, difference: Tensor) -> Tensor:
        """The mean squared error of each output over all rows."""
        return self.errors(difference, self.batches.x, self.batches.h)[0].square().mean(1)

    def slope(self, difference: Tensor) -> Tensor:
        """The gradient with respect to the weight on the next batch."""
        x, h = self.batches.draw()
        error, output = self.errors(difference, x, h)
        return torch.bmm((error * (output > 0)).mT, h).mul_(2 / h.shape[1])


def _descend_moments(
    problem: Problem, correct_bias: bool, steps: int, rates: dict[str, float]
) -> tuple[Tensor, WeightGrid]:
    """AdaQuant on the quadratic form; its gradients are written out."""
    grid, columns = problem.grid, problem.weight.shape[2]
    w = problem.weight.to(problem.dtype)
    form = problem.output_error(correct_bias)
    half = form.to(w.dtype)
    first = grid.scale.to(w)
    unit = expand_columns(first, grid.group_size, columns)
    move, stretch = torch.zeros_like(w), torch.zeros_like(first)
    zero = grid.zero_point.to(w)
    learned = [{"params": [move], "lr": rates["lr"]}]
    if rates["lr_scale"] > 0:
        learned.append({"params": [stretch], "lr": rates["lr_scale"]})
    if not grid.symmetric and rates["lr_zero_point"] > 0:
        learned.append({"params": [zero], "lr": rates["lr_zero_point"]})
    optimizer = _adam(learned)
    best_error = torch.full(first.shape[:2], torch.inf, dtype=w.dtype, device=w.device)
    best_integers = torch.zeros_like(w)
    best_scale, best_zero = first.clone(), zero.clone()
    for step in range(steps + 1):
        scale = first * (1 + stretch).clamp_(min=_SMALLEST_STEP)
        whole = zero.round().clamp_(grid.low, grid.high)
        wide_scale = expand_columns(scale, grid.group_size, columns)
        wide_zero = expand_columns(whole, grid.group_size, columns)
        ratio = torch.addcmul(w, unit, move).div_(wide_scale)
        rounded = ratio.round()
        centered = torch.clamp(rounded, grid.low - wide_zero, grid.high - wide_zero)
        difference = centered * wide_scale - w
        slope = torch.baddbmm(half.linear, difference, half.hessian)
        error = _per_step((difference * (slope + half.linear)).sum(2, keepdim=True), first)[..., 0]
        better = error < best_error
        if bool(better.any()):
            best_error = torch.where(better, error, best_error)
            pick = better.unsqueeze(2)
            best_integers = torch.where(pick, centered + wide_zero, best_integers)
            best_scale = torch.where(pick, scale, best_scale)
            best_zero = torch.where(pick, whole, best_zero)
        if step == steps:
            break
        inside = rounded == centered
        move.grad = slope * inside * unit
        stretch.grad = _per_group(slope * (centered - ratio * inside), first, grid) * first
        zero.grad = _per_group(slope * ~inside, first, grid) * -scale
        optimizer.step()
    grid = replace(grid, scale=best_scale.to(grid.scale), zero_point=best_zero.to(grid.zero_point))
    return best_integers, grid


def _per_group(values: Tensor, like: Tensor, grid: WeightGrid) -> Tensor:
    """Sum over the columns of each group, and over all where the weight shares one step."""
    if like.shape[2] > 1:
        columns, size = values.shape[2], grid.group_size
        values = F.pad(values, (0, -columns % size)).unflatten(2, (-1, size)).sum(3)
    return values.sum_to_size(like.shape)


def _per_step(values: Tensor, like: Tensor) -> Tensor:
    """Sum over the rows that share a step."""
    return values.sum_to_size(*like.shape[:2], 1)


@dataclass(frozen=True)
class _Quantizer:
    """The input quantizer of a layer, one step for all inputs."""

    scale: Tensor
    zero_point: Tensor
    bits: int
    symmetric: bool


def _read_quantizer(
    scale: Any, zero_point: Any, bits: Any, symmetric: Any, problem: Problem
) -> _Quantizer:
    low, high = integer_range(bits, symmetric)
    step = check_number(scale, "input_scale", above=0.0)
    zero = check_number(zero_point, "input_zero_point", minimum=low, maximum=high)
    zero = check_integer(zero, "input_zero_point")
    device = problem.weight.device
    return _Quantizer(
        torch.tensor(step, dtype=problem.dtype, device=device),
        torch.tensor(zero, dtype=problem.dtype, device=device),
        bits,
        symmetric,
    )


def _descend_rows(
    problem: Problem,
    quantizer: _Quantizer,
    batches: _Batches,
    correct_bias: bool,
    steps: int,
    rates: dict[str, float],
) -> RoundedWeight:
    """AdaQuant on batches of rows, the input quantizer learned along."""
    grid, columns = problem.grid, problem.weight.shape[2]
    w = problem.weight.to(problem.dtype)
    first = grid.scale.to(w)
    unit = expand_columns(first, grid.group_size, columns)
    low, high = integer_range(quantizer.bits, quantizer.symmetric)
    move, stretch = torch.zeros_like(w), torch.zeros_like(first)
    zero, input_zero = grid.zero_point.to(w), quantizer.zero_point.clone()
    input_stretch = torch.zeros_like(quantizer.scale)
    learned = [
        {"params": [move], "lr": rates["lr"]},
        {"params": [stretch], "lr": rates["lr_scale"]},
        {"params": [input_stretch], "lr": rates["lr_input"]},
    ]
    if not grid.symmetric:
        learned.append({"params": [zero], "lr": rates["lr_zero_point"]})
    if not quantizer.symmetric:
        learned.append({"params": [input_zero], "lr": rates["lr_input"]})
    for group in learned:
        group["params"][0].requires_grad_()
    optimizer = _adam(learned)

    def input_step() -> Tensor:
        return quantizer.scale * (1 + input_stretch).clamp(min=_SMALLEST_STEP)

    def weight_step() -> Tensor:
        return first * (1 + stretch).clamp(min=_SMALLEST_STEP)

    for _ in range(steps):
        x, h = batches.draw()
        scale, origin = (expand_columns(v, grid.group_size, columns) for v in (weight_step(), zero))
        weight_hat = straight_through_quantize(w + unit * move, scale, origin, grid.low, grid.high)
        h = straight_through_quantize(h, input_step(), input_zero, low, high)
        error = torch.bmm(h, weight_hat.mT) - torch.bmm(x, w.mT)
        if correct_bias:
            error = error - error.mean(1, keepdim=True)
        optimizer.zero_grad()
        error.square().sum(2).mean(1).sum().backward()
        optimizer.step()
    with torch.no_grad():
        learned_grid = replace(
            grid,
            scale=weight_step().to(grid.scale),
            zero_point=zero.round().clamp(grid.low, grid.high).to(grid.zero_point),
        )
        integers = learned_grid.quantize(w + unit * move)
        whole = input_zero.round().clamp(low, high)
        quantized = straight_through_quantize(batches.h, input_step(), whole, low, high)
        measured = replace(problem, statistics=LayerStatistics.from_rows(batches.x, quantized))
        return measured.finish(
            integers,
            correct_bias=correct_bias,
            grid=learned_grid,
            input_scale=input_step(),
            input_zero_point=whole.to(torch.int32),
        )
