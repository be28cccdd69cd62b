"""Calibration over batches: keep sums, never the samples."""

from __future__ import annotations

from typing import Any

import torch

from enough.calibration._inputs import check_bins, check_unit, read_probs, widen
from enough.calibration._sums import BinSums, bin_events, scan_table
from enough.calibration.errors import (
    ReliabilityCurve,
    check_level,
    check_norm,
    curve_from_sums,
    error_from_sums,
    mean_error_from_sums,
)
from enough.calibration.scores import BrierDecomposition, decompose_brier, log_score
from enough.calibration.smooth import CELLS, deposit, smooth_error_from_grid

__all__ = ["StreamingCalibration"]


class StreamingCalibration:
    """Gather calibration statistics batch by batch, on one device or on many.

    The sums of uniform bins, of scores and of smoothed residuals add up, so any split of
    the data into batches and machines gives the answer of one pass, up to rounding.
    Quantile bins do not add up; use `expected_calibration_error` for them.

    Parameters
    ----------
    n_bins : int, default 15
        Uniform bins (i/B, (i+1)/B].
    classwise : bool, default False
        Keep the bins of every class as well, K × B numbers, for tables (N, K).

    Raises
    ------
    ValueError
        If ``n_bins`` is out of range.

    Examples
    --------
    >>> stream = StreamingCalibration(n_bins=10)
    >>> stream.update([0.95], [1]).update([1.0], [0]).compute()["expected_calibration_error"]
    0.475
    """

    def __init__(self, n_bins: int = 15, *, classwise: bool = False) -> None:
        self.n_bins = check_bins(n_bins)
        self.classwise = bool(classwise)
        self.reset()

    def reset(self) -> StreamingCalibration:
        """Forget all batches.

        Returns
        -------
        StreamingCalibration
            The object itself.
        """
        self._width: int | None = None
        self._dtype = torch.float64
        self._events: BinSums | None = None
        self._classes: BinSums | None = None
        self._grid: torch.Tensor | None = None
        self._squared = 0.0
        self._log_loss = 0.0
        return self

    @property
    def n_samples(self) -> int:
        """The number of samples seen.

        Returns
        -------
        int
            At least 0.
        """
        return 0 if self._events is None else int(self._events.count.sum())

    def update(self, probs: Any, labels: Any) -> StreamingCalibration:
        """Add one batch.

        Parameters
        ----------
        probs : array of shape (N, K) or (N,)
            Rows on the simplex (statistics of the top label), or P(y = 1). All batches have
            the same K; the first batch fixes the device.
        labels : array of shape (N,)
            Class numbers from 0.

        Returns
        -------
        StreamingCalibration
            The object itself. A batch that is refused leaves it unchanged.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or is out of range.
        """
        probs, labels, _ = read_probs(probs, labels)
        width = 0 if probs.ndim == 1 else probs.shape[1]
        self._check_width(width)
        batch = StreamingCalibration(self.n_bins, classwise=self.classwise)
        if width == 0:
            if self.classwise:
                raise ValueError(
                    f"classwise: expected probs of shape (N, K), got {tuple(probs.shape)}"
                )
            values, outcomes = check_unit(probs), labels == 1
            wide, y = values.double(), labels.double()
            batch._squared = (wide - y).square().sum().item()
            batch._log_loss = log_score(wide, y).sum().item()
        else:
            table = scan_table(
                probs,
                labels,
                n_bins=self.n_bins if self.classwise else None,
                top=True,
                scores=True,
            )
            values, outcomes = table.confidence.clamp_(0.0, 1.0), table.correct
            batch._squared, batch._log_loss = table.squared, table.log_loss
            batch._classes = table.bins
        batch._width, batch._dtype = width, widen(probs[:0]).dtype
        batch._events = bin_events(values, outcomes, self.n_bins)
        batch._grid = deposit(values, outcomes)
        return self.merge(batch)

    def merge(self, other: StreamingCalibration) -> StreamingCalibration:
        """Add what another object has seen.

        Parameters
        ----------
        other : StreamingCalibration
            With the same settings; it stays unchanged.

        Returns
        -------
        StreamingCalibration
            The object itself.

        Raises
        ------
        ValueError
            If settings or the number of classes differ.
        """
        if not isinstance(other, StreamingCalibration):
            raise ValueError(f"other: expected a StreamingCalibration, got {type(other).__name__}")
        if (other.n_bins, other.classwise) != (self.n_bins, self.classwise):
            raise ValueError(
                f"other: expected n_bins={self.n_bins}, classwise={self.classwise}, "
                f"got n_bins={other.n_bins}, classwise={other.classwise}"
            )
        if other._events is None:
            return self
        self._check_width(other._width)
        if self._events is None:
            device = other._grid.device
            self._width, self._dtype = other._width, other._dtype
            self._events = BinSums.zeros(other._events.count.shape, device)
            self._grid = torch.zeros(CELLS + 1, dtype=torch.float64, device=device)
            if other._classes is not None:
                self._classes = BinSums.zeros(other._classes.count.shape, device)
        self._events.add(other._events)
        if self._classes is not None:
            self._classes.add(other._classes)
        self._grid += other._grid.to(self._grid.device)
        self._squared += other._squared
        self._log_loss += other._log_loss
        return self

    def compute(self) -> dict[str, float]:
        """Return the usual numbers.

        Returns
        -------
        dict
            ``n_samples``, ``accuracy`` (share of events), ``confidence`` (mean forecast),
            ``expected_calibration_error``, ``maximum_calibration_error``,
            ``smooth_calibration_error``, ``brier_score``, ``negative_log_likelihood``, and
            ``classwise_calibration_error`` where asked for.

        Raises
        ------
        ValueError
            If no batch was added.
        """
        events = self._filled()
        n_samples = self.n_samples
        result = {
            "n_samples": n_samples,
            "accuracy": events.outcome.sum().item() / n_samples,
            "confidence": events.confidence.sum().item() / n_samples,
            "expected_calibration_error": self.expected_calibration_error(),
            "maximum_calibration_error": self.expected_calibration_error(norm="max"),
            "smooth_calibration_error": self.smooth_calibration_error(),
            "brier_score": self._squared / n_samples,
            "negative_log_likelihood": self._log_loss / n_samples,
        }
        if self.classwise:
            result["classwise_calibration_error"] = self.expected_calibration_error(classwise=True)
        return result

    def expected_calibration_error(
        self, *, norm: str = "l1", debias: bool = False, classwise: bool = False
    ) -> float:
        """Return the binned calibration error of all batches.

        Parameters
        ----------
        norm : {"l1", "l2", "max"}, default "l1"
            How gaps are averaged.
        debias : bool, default False
            Subtract the within-bin variance (l2 only).
        classwise : bool, default False
            Average over the classes; needs ``classwise=True`` at construction.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        ValueError
            If no batch was added or the sums for it were not kept.
        """
        check_norm(norm, debias)
        events = self._filled()
        if not classwise:
            return error_from_sums(events, norm, debias)
        if self._classes is None:
            raise ValueError("classwise: expected classwise=True at construction, got False")
        return mean_error_from_sums(self._classes, norm, debias)

    def smooth_calibration_error(self, *, bandwidth: float | None = None) -> float:
        """Return the smooth calibration error of all batches.

        Parameters
        ----------
        bandwidth : float, optional
            A fixed bandwidth instead of the fixed point.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        ValueError
            If no batch was added.
        """
        self._filled()
        return smooth_error_from_grid(self._grid, self.n_samples, bandwidth)

    def reliability_curve(self, *, level: float = 0.95) -> ReliabilityCurve:
        """Return the reliability curve of all batches.

        Parameters
        ----------
        level : float, default 0.95
            Coverage of the Wilson interval.

        Returns
        -------
        ReliabilityCurve
            Tensors on the device of the first batch.

        Raises
        ------
        ValueError
            If no batch was added or ``level`` is out of range.
        """
        events = self._filled()
        return curve_from_sums(events, check_level(level), lambda x: x, self._dtype)

    def brier_decomposition(self) -> BrierDecomposition:
        """Return the parts of the Brier score of P(y = 1) over all batches.

        Returns
        -------
        BrierDecomposition
            As `brier_decomposition` returns it.

        Raises
        ------
        ValueError
            If no batch was added or the batches were tables (N, K).
        """
        events = self._filled()
        if self._width:
            raise ValueError("probs: expected batches of shape (N,), got tables (N, K)")
        return decompose_brier(events, self._squared / self.n_samples)

    def _filled(self) -> BinSums:
        if self._events is None:
            raise ValueError("update: expected at least one batch before, got none")
        return self._events

    def _check_width(self, width: int) -> None:
        if self._width is not None and width != self._width:
            shapes = {0: "(N,)"}
            have = shapes.get(width, f"(N, {width})")
            want = shapes.get(self._width, f"(N, {self._width})")
            raise ValueError(f"probs: expected shape {want} as before, got {have}")
