"""Where the grid begins and ends: min-max, percentile, squared-error and KL ranges.

References
----------
.. [1] S. Migacz, "8-bit Inference with TensorRT", GTC 2017: clipping by the Kullback–Leibler
   divergence between the histograms before and after rounding.
.. [2] R. Banner, Y. Nahshan and D. Soudry, "Post Training 4-bit Quantization of Convolutional
   Networks for Rapid-Deployment", NeurIPS 2019, arXiv:1810.05723: clipping by squared error.
.. [3] J. Liu et al., "PD-Quant: Post-Training Quantization Based on Prediction Difference
   Metric", CVPR 2023, arXiv:2212.07048: its code searches the step with the norm p = 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from enough.quantization.grid import (
    channel_axis,
    channel_rows,
    integer_range,
    qparams_shape,
    wide_dtype,
)
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["RANGE_METHODS", "choose_qparams", "qparams_from_range"]

RANGE_METHODS = ("minmax", "percentile", "mse", "kl")
_KL_BINS = 2048
_KL_ROWS = 512
_SEARCH_ENTRIES = 2**17


def choose_qparams(
    x: Any,
    *,
    bits: int,
    symmetric: bool,
    axis: int | None = None,
    group_size: int | None = None,
    method: str = "minmax",
    percentile: float = 99.9,
    norm: float = 2.0,
    n_candidates: int = 100,
) -> tuple[Any, Any]:
    """Choose step and zero point of a uniform grid from the numbers it must hold.

    Parameters
    ----------
    x : array of any shape
        Floating-point numbers, finite.
    bits : int
        Width, 2 to 8.
    symmetric : bool
        Integers −(2^(bits−1) − 1) … 2^(bits−1) − 1 around zero point 0 if true, 0 … 2^bits − 1
        with a zero point of their own otherwise.
    axis : int, optional
        Channel axis: one grid for each index along it. One grid for the whole tensor without.
    group_size : int, optional
        One grid for each run of this many entries of a channel, its other dimensions
        flattened in order; the last run may be shorter. Needs ``axis``.
    method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        ``"minmax"`` covers every entry. ``"percentile"`` leaves out the tails. ``"mse"``
        takes the range with the smallest error after rounding, ``"kl"`` the one whose rounded
        histogram is closest to the original in Kullback–Leibler divergence.
    percentile : float, default 99.9
        For ``"percentile"``, above 50 and at most 100: the range ends at this percentile of
        |x| (symmetric), or at this percentile and at 100 minus it (asymmetric).
    norm : float, default 2.0
        For ``"mse"``, above 0: the error is the sum of |x − x̂| to this power.
    n_candidates : int, default 100
        For ``"mse"`` and ``"kl"``: how many equally spaced fractions of the min-max range the
        search tries, 1 or more.

    Returns
    -------
    scale : array of shape (), (channels,) or (channels, groups)
        Step, above 0 and finite; float64 for float64 input and float32 otherwise, since
        steps of half-precision tensors may underflow half precision.
    zero_point : array of the same shape
        int32, inside the grid's range, so that zero is exactly representable.

    Raises
    ------
    ValueError
        If ``x`` is empty, not floating-point, or holds NaN or infinity; if ``bits``,
        ``axis``, ``group_size`` or another argument is out of its range.

    Notes
    -----
    Every range is widened to hold zero. A channel of zeros gets step 1 and zero point 0. A
    channel whose percentiles are both zero though it is not falls back to its minimum and
    maximum.

    The asymmetric ``"mse"`` search shrinks both ends together, then the upper, then the lower
    one. It never returns a larger error than min-max. Its optimum in squared error need not be
    the optimum for the network: at 2 bits, clipping often costs more than it saves.

    ``"kl"`` follows [1]_ with a histogram of 2048 bins a channel. Entries that are exactly
    zero are left out of it: they carry no rounding error on a grid that holds zero, and after
    a ReLU they would dominate the divergence.

    References
    ----------
    .. [1] Migacz, GTC 2017.

    Examples
    --------
    >>> from enough.quantization import choose_qparams
    >>> scale, zero_point = choose_qparams([-1.0, 0.0, 6.0], bits=3, symmetric=False)
    >>> float(scale), int(zero_point)
    (1.0, 1)
    """
    low, high = integer_range(bits, symmetric)
    check_choice(method, "method", RANGE_METHODS)
    percentile = check_number(percentile, "percentile", above=50.0, maximum=100.0)
    norm = check_number(norm, "norm", above=0.0)
    n_candidates = check_integer(n_candidates, "n_candidates", minimum=1)
    (values,), restore = as_tensors(x=x)
    check_tensor(values, "x", floating=True)
    axis = channel_axis(values, axis, group_size)
    dtype = wide_dtype(values.dtype)

    def find(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if method == "percentile":
            return _percentile_range(rows, percentile, symmetric)
        lowest, highest = _minmax_range(rows, symmetric)
        if method == "minmax":
            return lowest, highest
        search = _squared_error_range if method == "mse" else _divergence_range
        # Rows of unit size, so that squares neither overflow nor vanish.
        unit = torch.maximum(highest, -lowest)
        unit = torch.where(unit > 0, unit, 1.0).to(dtype)
        shrink = torch.linspace(1.0, 1.0 / n_candidates, n_candidates, dtype=torch.float64)
        ends = search(
            rows / unit[:, None],
            lowest / unit,
            highest / unit,
            shrink=shrink.tolist(),
            low=low,
            high=high,
            symmetric=symmetric,
            norm=norm,
        )
        return ends[0] * unit, ends[1] * unit

    with torch.no_grad():
        rows = channel_rows(values.detach(), axis).to(dtype)
        # The histograms of one divergence search are wider than most rows: bound their memory.
        size = _KL_ROWS if method == "kl" else rows.numel()
        parts = []
        for part in _group_rows(rows, group_size):
            found = [find(piece) for piece in part.split(size)]
            parts.append(tuple(torch.cat(ends) for ends in zip(*found, strict=True)))
        shape = qparams_shape(values.shape, axis, group_size)
        lowest, highest = (_join(parts, end, rows.shape[0]).reshape(shape) for end in (0, 1))
        scale, zero_point = _grid(lowest, highest, low, high, symmetric, dtype)
    return restore(scale), restore(zero_point.to(torch.int32))


def qparams_from_range(
    minimum: Any, maximum: Any, *, bits: int, symmetric: bool
) -> tuple[Any, Any]:
    """Turn a range of real numbers into step and zero point.

    Parameters
    ----------
    minimum, maximum : float or arrays of one shape
        Ends of the range, finite; zero is added to it.
    bits : int
        Width, 2 to 8.
    symmetric : bool
        Which integers the grid holds, as in `quantize`.

    Returns
    -------
    scale : array
        max(|minimum|, |maximum|)/(2^(bits−1) − 1) for a symmetric grid, (max(maximum, 0) −
        min(minimum, 0))/(2^bits − 1) for an asymmetric one; 1 where the range is empty.
        float64 for float64 input, float32 otherwise.
    zero_point : array
        int32.

    Raises
    ------
    ValueError
        If an end is NaN or infinite, shapes differ, or an entry of ``minimum`` exceeds that of
        ``maximum``.

    Examples
    --------
    >>> from enough.quantization import qparams_from_range
    >>> scale, zero_point = qparams_from_range(-1.0, 2.0, bits=2, symmetric=False)
    >>> float(scale), int(zero_point)
    (1.0, 1)
    """
    low, high = integer_range(bits, symmetric)
    (lowest, highest), restore = as_tensors(minimum=minimum, maximum=maximum)
    check_tensor(lowest, "minimum")
    check_tensor(highest, "maximum", shape=tuple(lowest.shape))
    if bool((lowest > highest).any()):
        raise ValueError("minimum: expected entries <= those of maximum, got larger ones")
    floating = [t.dtype for t in (lowest, highest) if t.is_floating_point()]
    with torch.no_grad():
        scale, zero_point = _grid(
            lowest.double(), highest.double(), low, high, symmetric, wide_dtype(*floating)
        )
    return restore(scale), restore(zero_point.to(torch.int32))


def _grid(
    lowest: torch.Tensor,
    highest: torch.Tensor,
    low: int,
    high: int,
    symmetric: bool,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return step and zero point, both as ``dtype``, for float64 ends of the range."""
    lowest, highest = lowest.clamp(max=0.0), highest.clamp(min=0.0)
    if symmetric:
        step = torch.maximum(highest, -lowest) / high
    else:
        step = highest / (high - low) - lowest / (high - low)  # their difference may overflow
    tiny = torch.finfo(dtype).tiny
    step = torch.where(step > 0, step.clamp(min=tiny), 1.0).to(dtype)
    if symmetric:
        return step, torch.zeros_like(step)
    zero_point = torch.round(low - lowest / step.double()).clamp(low, high)
    return step, zero_point.to(dtype)


def _group_rows(rows: torch.Tensor, group_size: int | None) -> list[torch.Tensor]:
    """Cut rows (channels, entries) into full groups and, if one is left, the short last group."""
    if group_size is None:
        return [rows]
    entries = rows.shape[1]
    full = entries // group_size * group_size
    parts = []
    if full:
        parts.append(rows[:, :full].reshape(-1, group_size))
    if full < entries:
        parts.append(rows[:, full:])
    return parts


def _join(parts: list[tuple[torch.Tensor, ...]], end: int, channels: int) -> torch.Tensor:
    return torch.cat([part[end].reshape(channels, -1) for part in parts], dim=1)


def _minmax_range(rows: torch.Tensor, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ends (rows,) in float64: of the entries and zero, or ∓ the largest |entry|."""
    lowest, highest = (end.double() for end in torch.aminmax(rows, dim=1))
    if symmetric:
        largest = torch.maximum(highest, -lowest)
        return -largest, largest
    return lowest.clamp(max=0.0), highest.clamp(min=0.0)


def _percentile_range(
    rows: torch.Tensor, percentile: float, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    share = percentile / 100.0
    if symmetric:
        highest = _quantile(rows.abs().sort(dim=1).values, share)
        lowest = -highest
    else:
        ranked = rows.sort(dim=1).values
        lowest, highest = _quantile(ranked, 1.0 - share), _quantile(ranked, share)
        lowest, highest = lowest.clamp(max=0.0), highest.clamp(min=0.0)
    all_lowest, all_highest = _minmax_range(rows, symmetric)
    empty = (highest - lowest) <= 0
    return torch.where(empty, all_lowest, lowest), torch.where(empty, all_highest, highest)


def _quantile(ranked: torch.Tensor, share: float) -> torch.Tensor:
    """Interpolate linearly between the order statistics, in float64 and at any length."""
    position = share * (ranked.shape[1] - 1)
    below = min(int(position), ranked.shape[1] - 1)
    above = min(below + 1, ranked.shape[1] - 1)
    lower, upper = ranked[:, below].double(), ranked[:, above].double()
    return lower + (upper - lower) * (position - below)


def _squared_error_range(
    rows: torch.Tensor,
    lowest: torch.Tensor,
    highest: torch.Tensor,
    *,
    shrink: list[float],
    low: int,
    high: int,
    symmetric: bool,
    norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shrink both ends together, then one at a time, and keep what lowers the error."""

    def error(bottom: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        step, zero = _grid(bottom, top, low, high, symmetric, rows.dtype)
        ratio = rows / step[..., None]
        nearest = torch.round(ratio).clamp_((low - zero)[..., None], (high - zero)[..., None])
        miss = ratio.sub_(nearest)
        power = miss.square_() if norm == 2.0 else miss.abs_().pow_(norm)
        return power.sum(-1, dtype=torch.float64) * step.double() ** norm

    # Small weights would spend the search in calls: as many candidates at once as fit a cache.
    block = max(1, _SEARCH_ENTRIES // max(1, rows.numel()))
    best = _descend(error, lowest, highest, [(f, f) for f in shrink], block)
    if not symmetric:
        best = _descend(error, lowest, highest, [(None, f) for f in shrink], block, best)
        best = _descend(error, lowest, highest, [(f, None) for f in shrink], block, best)
    return best[0], best[1]


def _descend(
    cost: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    lowest: torch.Tensor,
    highest: torch.Tensor,
    fractions: list[tuple[float | None, float | None]],
    block: int,
    best: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the best ends and their cost; ``None`` keeps an end at the best found before.

    ``cost`` takes ends of shape (candidates, rows), ``block`` candidates at once. The first of
    equal costs is kept.
    """
    if best is None:
        best = (lowest, highest, cost(lowest[None], highest[None])[0])
    start_low, start_high, _ = best
    for start in range(0, len(fractions), block):
        chosen = fractions[start : start + block]
        bottom = torch.stack([start_low if f is None else f * lowest for f, _ in chosen])
        top = torch.stack([start_high if f is None else f * highest for _, f in chosen])
        found = cost(bottom, top)
        first = found.argmin(0, keepdim=True)
        found, bottom, top = (x.gather(0, first)[0] for x in (found, bottom, top))
        better = found < best[2]
        best = (
            torch.where(better, bottom, best[0]),
            torch.where(better, top, best[1]),
            torch.where(better, found, best[2]),
        )
    return best


def _divergence_range(
    rows: torch.Tensor,
    lowest: torch.Tensor,
    highest: torch.Tensor,
    *,
    shrink: list[float],
    low: int,
    high: int,
    symmetric: bool,
    norm: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare the clipped histogram with its rounded version, both ends shrunk together."""
    del norm  # the divergence has none; one signature serves both searches
    n_rows = rows.shape[0]
    width = ((highest - lowest) / _KL_BINS).clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    bins = ((rows.double() - lowest[:, None]) / width).long().clamp_(0, _KL_BINS - 1)
    counts = torch.zeros(n_rows, _KL_BINS, dtype=torch.float64, device=rows.device)
    counts.scatter_add_(1, bins, (rows != 0).to(torch.float64))
    total = counts.sum(1, keepdim=True).clamp(min=1.0)
    offsets = torch.arange(_KL_BINS, dtype=torch.float64, device=rows.device) + 0.5
    centers = lowest[:, None] + width * offsets

    def divergence(bottom: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        step, zero = _grid(bottom, top, low, high, symmetric, torch.float64)
        step, zero = step[:, None], zero[:, None]
        nearest = torch.round(centers / step).add_(zero)
        level = nearest.clamp(low, high).sub_(low).long()
        inside = nearest == level + low
        # Reference: the entries beyond an end move into the outermost bin that is inside.
        first = torch.argmax(inside.to(torch.int8), dim=1, keepdim=True)
        last = _KL_BINS - 1 - torch.argmax(inside.flip(1).to(torch.int8), dim=1, keepdim=True)
        kept = counts * inside
        reference = kept.clone()
        for end, beyond in ((first, ~inside & (centers < 0)), (last, ~inside & (centers > 0))):
            reference.scatter_add_(1, end, (counts * beyond).sum(1, keepdim=True))
        # Rounded: each level spreads its entries evenly over its occupied bins.
        shape = (n_rows, high - low + 1)
        occupied = (reference > 0).to(torch.float64)
        mass = counts.new_zeros(shape).scatter_add_(1, level, kept)
        room = counts.new_zeros(shape).scatter_add_(1, level, occupied)
        spread = (mass / room.clamp(min=1.0)).gather(1, level) * occupied
        p = reference / total
        q = spread / kept.sum(1, keepdim=True).clamp(min=1.0)
        tiny = torch.finfo(torch.float64).tiny
        return torch.xlogy(p, p / q.clamp(min=tiny)).sum(1)

    def divergences(bottom: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        return torch.stack([divergence(*ends) for ends in zip(bottom, top, strict=True)])

    best = _descend(divergences, lowest, highest, [(f, f) for f in shrink], 1)
    return best[0], best[1]
