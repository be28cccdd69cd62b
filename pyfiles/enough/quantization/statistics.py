"""Second moments of a layer's inputs: all that a squared output error needs to know of the data.

A linear map that is quantized makes the error Ŵ x̂ + b̂ − W x − b. Its mean square over a
calibration set is a quadratic form of Ŵ and b̂, and the form's coefficients are the first and
second moments of x̂ and x. They are gathered once; every solver then works without the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = ["LayerStatistics", "OutputError"]


@dataclass(frozen=True)
class OutputError:
    r"""The mean squared output error of a layer as a quadratic form of its weight error.

    With :math:`D = \hat W - W`, row r of a channel group has the error
    :math:`D_r H D_r^\top + 2 D_r \cdot L_r + c_r`.

    Parameters
    ----------
    hessian : torch.Tensor, shape (G, columns, columns)
        H, half the second derivative: moments of the quantized network's inputs.
    linear : torch.Tensor, shape (G, rows, columns)
        L, zero where quantized and full-precision inputs are the same.
    constant : torch.Tensor, shape (G, rows)
        c, the error that the weight itself does not make.
    """

    hessian: Tensor
    linear: Tensor
    constant: Tensor

    def rows(self, difference: Tensor) -> Tensor:
        """Evaluate the error of each row.

        Parameters
        ----------
        difference : torch.Tensor, shape (G, rows, columns)
            D, the quantized weight less the weight.

        Returns
        -------
        torch.Tensor, shape (G, rows)
            Mean squared error of each output.
        """
        half_slope = torch.baddbmm(self.linear, difference, self.hessian)
        return (difference * (half_slope + self.linear)).sum(-1) + self.constant

    def to(self, dtype: torch.dtype) -> OutputError:
        """Convert the coefficients.

        Parameters
        ----------
        dtype : torch.dtype
            A floating-point type.

        Returns
        -------
        OutputError
            The same form in that type.
        """
        return OutputError(self.hessian.to(dtype), self.linear.to(dtype), self.constant.to(dtype))


class LayerStatistics:
    r"""Streaming first and second moments of the inputs of one linear map.

    A map with G channel groups has G independent weights, and its inputs come as G sets of
    rows: a linear layer is one group, a depthwise convolution has one for each channel, and
    the rows of a convolution are its patches.

    Parameters
    ----------
    columns : int
        Inputs of each group.
    groups : int, default 1
        G, the number of groups.
    device : str or torch.device, default "cpu"
        Where the moments are kept, in float64; a device without float64 is served on the CPU.

    Raises
    ------
    ValueError
        If a number is less than 1.

    Notes
    -----
    The moments of :math:`\hat x`, of the drift :math:`d = \hat x - x`, and between them are
    kept around their running means and merged as in [1]_. So neither a large mean nor a drift
    that is small beside the input costs precision, and an error from equal inputs is exactly
    :math:`D S D^\top` with nothing subtracted.

    References
    ----------
    .. [1] Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance",
       The American Statistician 37(3).

    Examples
    --------
    >>> import torch
    >>> from enough.quantization import LayerStatistics
    >>> statistics = LayerStatistics.from_rows(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    >>> statistics.S_xx
    tensor([[[5., 1.],
             [1., 2.]]], dtype=torch.float64)
    """

    def __init__(
        self, columns: int, groups: int = 1, device: str | torch.device | None = "cpu"
    ) -> None:
        self.columns = check_integer(columns, "columns", minimum=1)
        self.groups = check_integer(groups, "groups", minimum=1)
        device = torch.device("cpu" if device is None else device)
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.count = 0
        vector = torch.zeros(self.groups, self.columns, dtype=torch.float64, device=self.device)
        matrix = torch.zeros(
            self.groups, self.columns, self.columns, dtype=torch.float64, device=self.device
        )
        self._mean_h, self._mean_d = vector, vector.clone()
        self._hh, self._hd, self._dd = matrix, matrix.clone(), matrix.clone()
        self._drifts = False

    @classmethod
    def from_rows(cls, rows: Any, rows_hat: Any = None) -> LayerStatistics:
        """Gather the statistics of rows that are all at hand.

        Parameters
        ----------
        rows : array of shape (G, n, columns) or (n, columns)
            Full-precision inputs.
        rows_hat : array of the same shape, optional
            The same inputs as the quantized network gives them. Default: ``rows``.

        Returns
        -------
        LayerStatistics
            On the device of ``rows``.

        Raises
        ------
        ValueError
            If the shapes differ, or an entry is not finite.
        """
        (x,), _ = as_tensors(rows=rows)
        check_tensor(x, "rows", ndim=(2, 3))
        statistics = cls(x.shape[-1], x.shape[0] if x.ndim == 3 else 1, x.device)
        return statistics.update(rows, rows_hat)

    def update(self, rows: Any, rows_hat: Any = None) -> LayerStatistics:
        """Add rows.

        Parameters
        ----------
        rows : array of shape (G, n, columns), or (n, columns) with one group
            Full-precision inputs x.
        rows_hat : array of the same shape, optional
            The inputs as the quantized network gives them. Default: ``rows``.

        Returns
        -------
        LayerStatistics
            This object.

        Raises
        ------
        ValueError
            If a shape does not fit, or an entry is not finite.
        """
        x = self._read(rows, "rows")
        if rows_hat is None:
            h, d = x, None
        else:
            h = self._read(rows_hat, "rows_hat")
            if h.shape != x.shape:
                raise ValueError(
                    f"rows_hat: expected the shape of rows {tuple(x.shape)}, got {tuple(h.shape)}"
                )
            d = h - x
        n = x.shape[1]
        total = self.count + n
        # Merge two sets: their own scatter, and that of the two means.
        between = self.count * n / total
        mean_h = h.mean(1)
        step_h = mean_h - self._mean_h
        h = h - mean_h.unsqueeze(1)
        self._hh.baddbmm_(h.mT, h).add_(_outer(step_h, step_h), alpha=between)
        step_d = -self._mean_d
        if d is not None:
            self._drifts = True
            mean_d = d.mean(1)
            step_d = step_d + mean_d
            d = d - mean_d.unsqueeze(1)
            self._hd.baddbmm_(h.mT, d)
            self._dd.baddbmm_(d.mT, d)
        if self._drifts:
            self._hd.add_(_outer(step_h, step_d), alpha=between)
            self._dd.add_(_outer(step_d, step_d), alpha=between)
        self._mean_h.add_(step_h, alpha=n / total)
        self._mean_d.add_(step_d, alpha=n / total)
        self.count = total
        return self

    @property
    def mean_x(self) -> Tensor:
        """Mean of the full-precision inputs, shape (G, columns)."""
        self._require_rows()
        return self._mean_h - self._mean_d

    @property
    def mean_h(self) -> Tensor:
        """Mean of the quantized network's inputs, shape (G, columns)."""
        self._require_rows()
        return self._mean_h.clone()

    @property
    def S_xx(self) -> Tensor:
        """Mean of x xᵀ, shape (G, columns, columns)."""
        hh, hd, dd = self._moments(centered=False)
        return hh - hd - hd.mT + dd

    @property
    def S_hh(self) -> Tensor:
        """Mean of x̂ x̂ᵀ, shape (G, columns, columns)."""
        return self._moments(centered=False)[0]

    @property
    def S_hx(self) -> Tensor:
        """Mean of x̂ xᵀ, shape (G, columns, columns)."""
        hh, hd, _ = self._moments(centered=False)
        return hh - hd

    def output_error(self, weight: Tensor, *, correct_bias: bool = False) -> OutputError:
        """Write the mean squared output error as a quadratic form of the weight error.

        Parameters
        ----------
        weight : torch.Tensor, shape (G, rows, columns)
            W, the full-precision weight.
        correct_bias : bool, default False
            Whether the bias is free to take its best value for each weight
            (`best_bias`); else it stays as it is.

        Returns
        -------
        OutputError
            In float64.

        Raises
        ------
        ValueError
            If no rows were seen, or the shape does not fit.
        """
        weight = self._read_weight(weight, "weight")
        hh, hd, dd = self._moments(centered=correct_bias)
        linear = torch.bmm(weight, hd.mT)
        constant = (torch.bmm(weight, dd) * weight).sum(-1)
        return OutputError(hh, linear, constant)

    def best_bias(self, weight: Any, weight_hat: Any, bias: Any = None) -> Any:
        """Compute the bias with which the mean output is that of the full-precision layer.

        Parameters
        ----------
        weight : array of shape (G, rows, columns), or (rows, columns) with one group
            W, the full-precision weight.
        weight_hat : array of the same shape
            Ŵ, the quantized weight.
        bias : array of shape (G, rows), or (rows,) with one group, optional
            b, the full-precision bias. Default: zero.

        Returns
        -------
        array of shape (G, rows), or (rows,) where ``weight`` is a matrix
            b + W E[x] − Ŵ E[x̂], in the dtype of ``weight``; of all biases the one with the
            least mean squared error.

        Raises
        ------
        ValueError
            If no rows were seen, or a shape does not fit.
        """
        (given, _), restore = as_tensors(weight=weight, weight_hat=weight_hat)
        w = self._read_weight(weight, "weight")
        w_hat = self._read_weight(weight_hat, "weight_hat", rows=w.shape[1])
        b = self._read_bias(bias, "bias", w)
        self._require_rows()
        # W x − Ŵ x̂ = −(Ŵ − W) x̂ − W d, with nothing large to cancel.
        shift = torch.bmm(w_hat - w, self._mean_h.unsqueeze(-1))
        shift = shift + torch.bmm(w, self._mean_d.unsqueeze(-1))
        best = (b - shift.squeeze(-1)).to(given)
        return restore(best[0] if given.ndim == 2 else best)

    def row_errors(self, weight: Any, bias: Any, weight_hat: Any, bias_hat: Any) -> Tensor:
        """Compute the mean squared error of each output over all rows seen.

        Parameters
        ----------
        weight : array of shape (G, rows, columns), or (rows, columns) with one group
            W, the full-precision weight.
        bias : array of shape (G, rows), or (rows,) with one group, or None
            b, the full-precision bias; ``None`` is zero.
        weight_hat : array of the shape of ``weight``
            Ŵ, the quantized weight.
        bias_hat : array of the shape of ``bias``, or None
            b̂, the bias used with it; ``None`` is zero.

        Returns
        -------
        torch.Tensor, shape (G, rows)
            E (W x + b − Ŵ x̂ − b̂)² of each output, float64.

        Raises
        ------
        ValueError
            If no rows were seen, or a shape does not fit.
        """
        w = self._read_weight(weight, "weight")
        w_hat = self._read_weight(weight_hat, "weight_hat", rows=w.shape[1])
        b = self._read_bias(bias, "bias", w)
        b_hat = self._read_bias(bias_hat, "bias_hat", w)
        spread = self.output_error(w, correct_bias=True).rows(w_hat - w)
        return spread.clamp_(min=0.0) + (b_hat - self.best_bias(w, w_hat, b)).square()

    def error(self, weight: Any, bias: Any, weight_hat: Any, bias_hat: Any) -> float:
        """Compute the mean squared error of the whole output over all rows seen.

        Parameters
        ----------
        weight : array of shape (G, rows, columns), or (rows, columns) with one group
            W, the full-precision weight.
        bias : array of shape (G, rows), or (rows,) with one group, or None
            b, the full-precision bias; ``None`` is zero.
        weight_hat : array of the shape of ``weight``
            Ŵ, the quantized weight.
        bias_hat : array of the shape of ``bias``, or None
            b̂, the bias used with it; ``None`` is zero.

        Returns
        -------
        float
            E ‖W x + b − Ŵ x̂ − b̂‖², summed over outputs and groups.

        Raises
        ------
        ValueError
            If no rows were seen, or a shape does not fit.
        """
        return float(self.row_errors(weight, bias, weight_hat, bias_hat).sum())

    def _require_rows(self) -> None:
        if not self.count:
            raise ValueError("statistics: expected at least one row, got none; call update first")

    def _moments(self, *, centered: bool) -> tuple[Tensor, Tensor, Tensor]:
        self._require_rows()
        moments = [m / self.count for m in (self._hh, self._hd, self._dd)]
        if not centered:
            h, d = self._mean_h, self._mean_d
            moments = [
                m + _outer(*pair) for m, pair in zip(moments, ((h, h), (h, d), (d, d)), strict=True)
            ]
        return tuple(moments)

    def _read(self, rows: Any, name: str) -> Tensor:
        (x,), _ = as_tensors(**{name: rows})
        check_tensor(x, name, ndim=(2, 3))
        if x.ndim == 2:
            x = x.unsqueeze(0)
        check_tensor(x, name, shape=(self.groups, None, self.columns))
        return x.detach().to(self.device, torch.float64)

    def _read_weight(self, weight: Any, name: str, rows: int | None = None) -> Tensor:
        (w,), _ = as_tensors(**{name: weight})
        check_tensor(w, name, ndim=(2, 3))
        if w.ndim == 2:
            w = w.unsqueeze(0)
        check_tensor(w, name, shape=(self.groups, rows, self.columns))
        return w.detach().to(self.device, torch.float64)

    def _read_bias(self, bias: Any, name: str, weight: Tensor) -> Tensor:
        if bias is None:
            return weight.new_zeros(weight.shape[:2])
        (b,), _ = as_tensors(**{name: bias})
        check_tensor(b, name, ndim=(1, 2))
        if b.ndim == 1:
            b = b.unsqueeze(0)
        check_tensor(b, name, shape=weight.shape[:2])
        return b.detach().to(self.device, torch.float64)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)
