"""Sufficient statistics of probabilities and labels, gathered block by block.

Every metric of this package reads these sums, so there is one binning convention: uniform
bins are (i/B, (i+1)/B] with 0 in the first, and a bin's confidence is the mean of what fell
into it, never its midpoint. An edge i/B is rounded to the dtype of the input, so that 0.3
lies on the edge 3/10 in every precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from enough.calibration._inputs import (
    check_unit,
    complain_about_rows,
    map_blocks,
    row_slices,
    simplex_tolerance,
    widen,
)

__all__ = [
    "BinSums",
    "TableSums",
    "bin_events",
    "make_binner",
    "quantile_edges",
    "read_event",
    "scan_table",
    "uniform_bins",
]


@dataclass
class BinSums:
    """What the metrics need to know of each bin.

    Parameters
    ----------
    count : torch.Tensor
        Samples, int64, shape (..., B).
    confidence : torch.Tensor
        Sum of the forecasts, float64, same shape.
    outcome : torch.Tensor
        Number of events, int64, same shape.
    """

    count: torch.Tensor
    confidence: torch.Tensor
    outcome: torch.Tensor

    @classmethod
    def zeros(cls, shape: tuple[int, ...], device: torch.device) -> BinSums:
        """Return sums of nothing.

        Parameters
        ----------
        shape : tuple of int
            (B,) or (K, B).
        device : torch.device
            Where the sums live.

        Returns
        -------
        BinSums
            All zero.
        """
        return cls(
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.float64, device=device),
            torch.zeros(shape, dtype=torch.int64, device=device),
        )

    def add(self, other: BinSums) -> None:
        """Add other sums of the same shape in place.

        Parameters
        ----------
        other : BinSums
            What to add.
        """
        device = self.count.device
        self.count += other.count.to(device)
        self.confidence += other.confidence.to(device)
        self.outcome += other.outcome.to(device)


@dataclass
class TableSums:
    """What one pass over a table of probabilities leaves behind.

    Parameters
    ----------
    squared : float
        Sum over samples and classes of (p − 1[y = class])².
    log_loss : float
        Sum over samples of −log p_y.
    bins : BinSums or None
        Shape (K, B), one row a class.
    confidence, correct : torch.Tensor or None
        Shape (N,): the largest probability, and whether its class is the label.
    """

    squared: float
    log_loss: float
    bins: BinSums | None
    confidence: torch.Tensor | None
    correct: torch.Tensor | None


def uniform_bins(values: torch.Tensor, n_bins: int) -> torch.Tensor:
    """Number the uniform bin (i/B, (i+1)/B] of each value, from 1.

    Parameters
    ----------
    values : torch.Tensor
        Any shape; values below 0 count as 0, above 1 as 1.
    n_bins : int
        The number of bins B.

    Returns
    -------
    torch.Tensor
        Whole numbers from 1 to B in a floating dtype, or int64 for 16-bit input.
    """
    if values.dtype not in (torch.float32, torch.float64):
        edges = torch.arange(1, n_bins, dtype=torch.float64, device=values.device) / n_bins
        return torch.bucketize(widen(values), widen(edges.to(values.dtype))) + 1
    # The product may round across an edge, so compare with the edges beside it.
    number = (values * n_bins).ceil_()
    over = torch.empty_like(number)
    edge = torch.sub(number, 1.0).div_(n_bins)
    number.sub_(torch.le(values, edge, out=over))
    torch.div(number, n_bins, out=edge)
    return number.add_(torch.gt(values, edge, out=over)).clamp_(1, n_bins)


def quantile_edges(values: torch.Tensor, n_bins: int) -> torch.Tensor:
    """Return the distinct upper edges of bins with equal counts.

    Edge i is the smallest value at or below which at least (i + 1) N / B of the values lie
    (the inverse of the empirical distribution function).

    Parameters
    ----------
    values : torch.Tensor
        Shape (N,), float32 or float64.
    n_bins : int
        The number of bins asked for; ties may leave fewer.

    Returns
    -------
    torch.Tensor
        Shape (at most B,), increasing; the last is the largest value.
    """
    n_samples = values.shape[0]
    ranks = [-(-n_samples * (i + 1) // n_bins) - 1 for i in range(n_bins)]
    ranks = sorted({rank for rank in ranks if rank >= 0})
    if values.device.type == "cpu":  # NumPy sorts numbers without their order far faster
        ordered = torch.from_numpy(np.sort(values.numpy()))
    else:
        ordered = values.sort().values
    return ordered[ranks].unique_consecutive()


def make_binner(
    values: torch.Tensor, n_bins: int, binning: str = "uniform"
) -> tuple[Callable[[torch.Tensor], torch.Tensor], int]:
    """Return the map from forecasts to bin numbers.

    Parameters
    ----------
    values : torch.Tensor
        Shape (N,), all forecasts; quantile edges come from them.
    n_bins : int
        The number of bins asked for.
    binning : {"uniform", "quantile"}, default "uniform"
        Which edges.

    Returns
    -------
    number : callable
        Maps forecasts (n,) to int64 bin numbers from 0.
    size : int
        The number of bins; ties may leave fewer quantile bins than asked for.
    """
    if binning == "uniform":
        return lambda block: uniform_bins(block, n_bins).to(torch.int64).sub_(1), n_bins
    edges = quantile_edges(widen(values), n_bins)
    return lambda block: torch.bucketize(widen(block), edges), edges.shape[0]


def bin_events(
    values: torch.Tensor, outcomes: torch.Tensor, n_bins: int, binning: str = "uniform"
) -> BinSums:
    """Sum forecasts and events of one binary variable by bin.

    Parameters
    ----------
    values : torch.Tensor
        Shape (N,), forecasts in [0, 1].
    outcomes : torch.Tensor
        Shape (N,), bool or 0/1.
    n_bins : int
        The number of bins asked for.
    binning : {"uniform", "quantile"}, default "uniform"
        Which edges.

    Returns
    -------
    BinSums
        Shape (B,), or fewer bins where ties collapse quantile edges.
    """
    number, size = make_binner(values, n_bins, binning)
    sums = BinSums.zeros((size,), values.device)
    for rows in row_slices(values.shape[0], 1, values.device):
        index = number(values[rows])
        sums.confidence.index_add_(0, index, values[rows].double())
        index.mul_(2).add_(outcomes[rows].long())
        both = torch.bincount(index, minlength=2 * size).view(-1, 2)
        sums.count += both.sum(1)
        sums.outcome += both[:, 1]
    return sums


class _ClassBins:
    """Sums by class and uniform bin.

    A row that sums to 1 has fewer than B entries above 1/B, so with many classes nearly all
    entries lie in the first bin. Only the others are sorted into bins; the first bin gets
    what is left of the column totals.
    """

    # Entries above the first bin wait until this many make a call worth its while.
    _PENDING = 1 << 15

    def __init__(
        self, n_classes: int, n_bins: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._sums = BinSums.zeros((n_classes, n_bins), device)
        self._total = torch.zeros(n_classes, dtype=torch.float64, device=device)
        self._n_samples = 0
        self._edge = torch.tensor(1.0 / n_bins, dtype=dtype).item()
        self._dtype = dtype
        self._values: list[torch.Tensor] = []
        self._classes: list[torch.Tensor] = []

    def add(self, block: torch.Tensor) -> None:
        """Add a block of rows (n, K)."""
        place = (block > self._edge).reshape(-1).nonzero()[:, 0]
        self._values.append(block.reshape(-1).index_select(0, place))
        self._classes.append(place.remainder_(block.shape[1]))
        self._total += block.sum(0, dtype=torch.float64)
        self._n_samples += block.shape[0]
        if sum(map(len, self._values)) >= self._PENDING:
            self._flush()

    def _flush(self) -> None:
        values, classes = torch.cat(self._values), torch.cat(self._classes)
        index = self._index(values, classes)
        self._sums.count.view(-1).index_add_(0, index, torch.ones_like(index))
        self._sums.confidence.view(-1).index_add_(0, index, values.double())
        self._values, self._classes = [], []

    def _index(self, values: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        n_bins = self._sums.count.shape[1]
        number = uniform_bins(values.to(self._dtype), n_bins).to(torch.int64)
        return number.add_(classes, alpha=n_bins).sub_(1)

    def sums(self, chosen: torch.Tensor, labels: torch.Tensor) -> BinSums:
        """Return the sums of all blocks, given each label's probability."""
        self._flush()
        index, sums = self._index(chosen, labels), self._sums
        sums.outcome.view(-1).index_add_(0, index, torch.ones_like(index))
        sums.count[:, 0] = self._n_samples - sums.count[:, 1:].sum(1)
        sums.confidence[:, 0] = self._total - sums.confidence[:, 1:].sum(1)
        return sums


def scan_table(
    probs: torch.Tensor,
    labels: torch.Tensor,
    *,
    n_bins: int | None = None,
    top: bool = False,
    scores: bool = False,
    name: str = "probs",
) -> TableSums:
    """Check a table of probabilities and sum what is asked, in one pass.

    Parameters
    ----------
    probs : torch.Tensor
        Shape (N, K), floating point, unchecked values.
    labels : torch.Tensor
        Shape (N,), int64, checked.
    n_bins : int, optional
        Sum by class and uniform bin as well.
    top : bool, default False
        Keep each row's largest probability and whether it is right.
    scores : bool, default False
        Sum the squared error and the log loss.
    name : str, default "probs"
        The argument's name, for the message.

    Returns
    -------
    TableSums
        What was asked; the rest is ``None`` or 0.

    Raises
    ------
    ValueError
        If a value is not finite or a row leaves the simplex.
    """
    n_samples, n_classes = probs.shape
    device, dtype = probs.device, widen(probs[:0]).dtype
    tolerance = simplex_tolerance(probs.dtype)
    row_tolerance = tolerance * math.sqrt(n_classes)
    targets = labels.unsqueeze(1)
    # One number a row each: the largest, the label's. Few operations a block; what they say is
    # read when the rows are done.
    largest, chosen = torch.empty(2, n_samples, 1, dtype=dtype, device=device)

    def scan(slices: list[slice]) -> tuple[float, BinSums | None]:
        shape = (slices[0].stop - slices[0].start, n_classes)
        double = torch.empty(shape, dtype=torch.float64, device=device) if scores else None
        adder = _ClassBins(n_classes, n_bins, probs.dtype, device) if n_bins else None
        squared = torch.zeros((), dtype=torch.float64, device=device)
        total = torch.empty(shape[0], 1, dtype=dtype, device=device)
        least, ends = [], []
        for rows in slices:
            block, size = widen(probs[rows]), rows.stop - rows.start
            least.append(block.amin())
            torch.amax(block, 1, keepdim=True, out=largest[rows])
            ends += torch.sum(block, 1, keepdim=True, out=total[:size]).aminmax()
            torch.gather(block, 1, targets[rows], out=chosen[rows])
            if scores:
                flat = double[:size].copy_(block).view(-1)
                squared += torch.dot(flat, flat)
            if adder:
                adder.add(block)
        done = slice(slices[0].start, slices[-1].stop)
        # A comparison with NaN is false, so NaN is complained about as well.
        low, high = torch.stack(ends).view(-1, 2).double().unbind(1)
        if not (
            torch.stack(least).min().item() >= -tolerance
            and largest[done].max().item() <= 1.0 + tolerance
            and low.min().item() >= 1.0 - row_tolerance
            and high.max().item() <= 1.0 + row_tolerance
        ):
            complain_about_rows(probs, name)
        return squared.item(), adder.sums(chosen[done, 0], labels[done]) if adder else None

    parts = map_blocks(scan, n_samples, n_classes, device, sums=scores or bool(n_bins))
    squared, sums = zip(*parts, strict=True)
    for more in sums[1:] if n_bins else ():
        sums[0].add(more)
    result = TableSums(0.0, 0.0, sums[0], None, None)
    if scores:
        result.squared = (
            math.fsum(squared) + n_samples - 2.0 * chosen.sum(dtype=torch.float64).item()
        )
        result.log_loss = -chosen.clamp(0.0, 1.0).log().sum(dtype=torch.float64).item()
    if top:
        correct = (chosen == largest)[:, 0]
        # Two entries above one half do not fit into a row, so a larger maximum is alone. The
        # margin covers what the checks let through and the rounding of the sum.
        margin = row_tolerance + tolerance * n_classes
        open_rows = (correct & (largest[:, 0] <= 0.5 + margin)).nonzero()[:, 0]
        for rows in row_slices(open_rows.shape[0], n_classes, device):
            at = open_rows[rows]
            correct[at] = _first_largest(widen(probs.index_select(0, at))) == labels[at]
        result.confidence, result.correct = largest[:, 0].to(probs.dtype), correct
    return result


def _first_largest(rows: torch.Tensor) -> torch.Tensor:
    """Return the first position of the largest entry of each row: of tied classes the top label."""
    if rows.device.type == "cpu":  # NumPy compares several entries at a time, torch one
        return torch.from_numpy(rows.numpy().argmax(1))
    return rows.argmax(1)


def read_event(probs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce to one forecast of one binary event a sample.

    Parameters
    ----------
    probs : torch.Tensor
        Shape (N,): P(y = 1), or (N, K): the event is that the top label is right.
    labels : torch.Tensor
        Shape (N,), int64.

    Returns
    -------
    values : torch.Tensor
        Shape (N,), clipped to [0, 1], dtype of ``probs``.
    outcomes : torch.Tensor
        Shape (N,), bool.

    Raises
    ------
    ValueError
        If a value is not finite or a row leaves the simplex.
    """
    if probs.ndim == 1:
        return check_unit(probs), labels == 1
    sums = scan_table(probs, labels, top=True)
    return sums.confidence.clamp_(0.0, 1.0), sums.correct
