r"""Linear measurements of matrices, and how well signed averages of them point the right way.

A measurement of a matrix :math:`X` is :math:`\langle A_i, X\rangle`. All operators work on a
batch of independent problems at once, in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from enough.runtime import as_generator, exact_device
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "Measurements",
    "SignRIP",
    "gaussian_measurements",
    "population_measurements",
    "sign_rip",
    "sign_rip_scale",
]


@dataclass(frozen=True, eq=False)
class Measurements:
    r"""A linear map from matrices to measurements, one for each problem of a batch.

    Made by `gaussian_measurements` and `population_measurements`. Matrices are handled through
    coordinates in an orthonormal basis: all entries, or, for symmetric measurements, the
    diagonal and :math:`\sqrt2` times the entries above it. In these coordinates a Gaussian
    measurement matrix is a vector of independent standard normal numbers.

    Parameters
    ----------
    n_rows, n_columns : int
        Size of the matrices that are measured.
    symmetric : bool
        Whether the measurement matrices are symmetric. They then see the symmetric part of a
        matrix only.
    coordinates : torch.Tensor of shape (batch, m, p), float64, or None
        Measurement matrices in coordinates; ``None`` for the population limit, in which the
        measurements are the coordinates themselves.
    device : torch.device
        Where they compute; matrices are moved there.
    """

    n_rows: int
    n_columns: int
    symmetric: bool
    coordinates: Tensor | None
    device: torch.device

    @property
    def n_measurements(self) -> int:
        """Measurements of each matrix; in the population limit, the number of coordinates."""
        return self.n_coordinates if self.coordinates is None else self.coordinates.shape[1]

    @property
    def n_coordinates(self) -> int:
        """Dimension p of the space of matrices that the measurements can tell apart."""
        n = self.n_rows
        return n * (n + 1) // 2 if self.symmetric else n * self.n_columns

    @property
    def weight(self) -> float:
        r"""The factor :math:`1/m` of the average over measurements; 1 in the population limit."""
        return 1.0 if self.coordinates is None else 1.0 / self.n_measurements

    def __call__(self, matrix: Any) -> Any:
        r"""Measure matrices: :math:`\mathcal A(X)_i = \langle A_i, X \rangle`.

        Parameters
        ----------
        matrix : array of shape (batch, ..., n_rows, n_columns)
            What to measure; the first axis runs over the problems.

        Returns
        -------
        array of shape (batch, ..., m)
            The measurements.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        (given,), restore = as_tensors(matrix=matrix)
        x = self._expect(given, "matrix", (self.n_rows, self.n_columns))
        return restore(self.measure(self.to_coordinates(x)))

    def adjoint(self, values: Any) -> Any:
        r"""Apply the adjoint map: :math:`\mathcal A^*(v) = \sum_i v_i A_i`.

        Parameters
        ----------
        values : array of shape (batch, ..., m)
            One number a measurement.

        Returns
        -------
        array of shape (batch, ..., n_rows, n_columns)
            The weighted sum of the measurement matrices.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        (given,), restore = as_tensors(values=values)
        v = self._expect(given, "values", (self.n_measurements,))
        return restore(self.to_matrix(self.gather(v)))

    def normal(self, matrix: Any) -> Any:
        r"""Measure and come back: :math:`\frac1m \mathcal A^* \mathcal A(X)`.

        Parameters
        ----------
        matrix : array of shape (batch, ..., n_rows, n_columns)
            What to measure.

        Returns
        -------
        array of shape (batch, ..., n_rows, n_columns)
            Its expectation over Gaussian measurements is ``matrix`` (its symmetric part, for
            symmetric measurements), which the population limit returns exactly.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        (given,), restore = as_tensors(matrix=matrix)
        x = self._expect(given, "matrix", (self.n_rows, self.n_columns))
        v = self.measure(self.to_coordinates(x))
        return restore(self.weight * self.to_matrix(self.gather(v)))

    def measure(self, vectors: Tensor) -> Tensor:
        """Map coordinates (batch, ..., p) to measurements (batch, ..., m), unchecked."""
        if self.coordinates is None:
            return vectors
        return _times(vectors, self.coordinates.mT)

    def gather(self, values: Tensor) -> Tensor:
        """Map measurements (batch, ..., m) to coordinates (batch, ..., p), unchecked."""
        return values if self.coordinates is None else _times(values, self.coordinates)

    def to_coordinates(self, matrix: Tensor) -> Tensor:
        """Write matrices (..., n_rows, n_columns) in coordinates (..., p), unchecked."""
        flat = matrix.flatten(-2)
        if not self.symmetric:
            return flat
        above, below, scale, _, _ = _triangle(self.n_rows, matrix.device)
        return (flat[..., above] + flat[..., below]) * scale

    def to_matrix(self, vectors: Tensor) -> Tensor:
        """Turn coordinates (..., p) into matrices (..., n_rows, n_columns), unchecked."""
        if not self.symmetric:
            return vectors.unflatten(-1, (self.n_rows, self.n_columns))
        _, _, _, place, scale = _triangle(self.n_rows, vectors.device)
        return (vectors[..., place] * scale).unflatten(-1, (self.n_rows, self.n_rows))

    def _expect(self, value: Tensor, name: str, ends: tuple[int, ...]) -> Tensor:
        value = check_tensor(value.detach().to(self.device, torch.float64), name)
        batch = None if self.coordinates is None else self.coordinates.shape[0]
        fits = value.ndim > len(ends) and value.shape[-len(ends) :] == ends
        if not fits or (batch is not None and value.shape[0] != batch):
            wanted = ", ".join(["batch" if batch is None else str(batch), "...", *map(str, ends)])
            raise ValueError(f"{name}: expected shape ({wanted}), got {tuple(value.shape)}")
        return value


def gaussian_measurements(
    n_rows: int,
    n_measurements: int,
    *,
    n_columns: int | None = None,
    symmetric: bool = True,
    batch: int = 1,
    generator: torch.Generator | int | None = None,
    device: str | torch.device | None = "cpu",
) -> Measurements:
    r"""Draw Gaussian measurement matrices.

    Parameters
    ----------
    n_rows : int
        Rows of the matrices to measure.
    n_measurements : int
        Number m of measurements of each matrix.
    n_columns : int, optional
        Columns; the default is ``n_rows``.
    symmetric : bool, default True
        Symmetric matrices with variance 1 on the diagonal and 1/2 off it. Otherwise all entries
        are independent with variance 1. Either way :math:`\langle A_i, X\rangle` has variance
        :math:`\lVert X\rVert_F^2` for every (symmetric) :math:`X`.
    batch : int, default 1
        Number of independent problems.
    generator : torch.Generator, int, or None, optional
        Source of randomness, on the CPU; ``None`` seeds one from the operating system.
    device : str, torch.device or None, default "cpu"
        Where the measurements live and compute; ``None`` for the default device.

    Returns
    -------
    Measurements
        In float64.

    Raises
    ------
    ValueError
        If a size is not positive, or symmetric matrices are not square.

    Examples
    --------
    >>> measurements = gaussian_measurements(4, 50, batch=2, generator=0)
    >>> measurements(torch.eye(4).expand(2, 4, 4)).shape
    torch.Size([2, 50])
    """
    shape = _sizes(n_rows, n_columns, symmetric)
    m = check_integer(n_measurements, "n_measurements", minimum=1)
    batch = check_integer(batch, "batch", minimum=1)
    where = exact_device(device)
    blank = Measurements(*shape, symmetric, None, where)
    draws = torch.randn(
        batch, m, blank.n_coordinates, dtype=torch.float64, generator=as_generator(generator)
    )
    return Measurements(*shape, symmetric, draws.to(where), where)


def population_measurements(
    n_rows: int,
    *,
    n_columns: int | None = None,
    symmetric: bool = True,
    device: str | torch.device | None = "cpu",
) -> Measurements:
    r"""Measure in the limit of infinitely many measurements, where averages are expectations.

    Parameters
    ----------
    n_rows : int
        Rows of the matrices to measure.
    n_columns : int, optional
        Columns; the default is ``n_rows``.
    symmetric : bool, default True
        Whether the measurement matrices are symmetric.
    device : str, torch.device or None, default "cpu"
        Where matrices live; ``None`` for the default device.

    Returns
    -------
    Measurements
        With :math:`\frac1m\mathcal A^*\mathcal A` the identity. It takes batches of any size.

    Raises
    ------
    ValueError
        If a size is not positive, or symmetric matrices are not square.
    """
    shape = _sizes(n_rows, n_columns, symmetric)
    return Measurements(*shape, bool(symmetric), None, exact_device(device))


@dataclass(frozen=True, eq=False)
class SignRIP:
    r"""How far the average of signed measurement matrices is from its expected direction.

    Parameters
    ----------
    scale : array of shape (batch, ...)
        The measured :math:`\psi`: the component
        :math:`\langle S, X\rangle/\lVert X\rVert_F` of
        :math:`S = \frac1m\sum_i \operatorname{sign}(\langle A_i, X\rangle - s_i) A_i`.
    deviation : array of shape (batch, ...)
        The norm of :math:`S - \psi X/\lVert X\rVert_F` over matrices of the given rank:
        the root of the sum of its largest squared singular values.
    """

    scale: Any
    deviation: Any


def sign_rip(
    measurements: Measurements, matrix: Any, noise: Any = None, *, rank: int = 1
) -> SignRIP:
    r"""Measure the sign restricted isometry at given matrices.

    The sub-gradient of the absolute loss at an error :math:`X` averages signed measurement
    matrices. Where the measurements have the property, that average points along :math:`X`.

    Parameters
    ----------
    measurements : Measurements
        Symmetric or not, not in the population limit.
    matrix : array of shape (batch, ..., n_rows, n_columns)
        Errors :math:`X`, not zero.
    noise : array of shape (batch, m), optional
        The noise :math:`s`, by default none.
    rank : int, default 1
        Rank of the matrices against which the deviation is measured.

    Returns
    -------
    SignRIP
        One scale and one deviation a matrix.

    Raises
    ------
    ValueError
        If a shape does not fit, a matrix is zero, ``rank`` is out of range or the measurements
        are those of the population.

    References
    ----------
    Ma and Fattahi, arXiv 2202.08788.
    """
    if measurements.coordinates is None:
        raise ValueError("measurements: expected finitely many, got the population limit")
    given, restore = as_tensors(matrix=matrix, **({} if noise is None else {"noise": noise}))
    shape = (measurements.n_rows, measurements.n_columns)
    x = measurements._expect(given[0], "matrix", shape)
    rank = check_integer(rank, "rank", minimum=1, maximum=min(shape))
    length = torch.linalg.matrix_norm(x)
    if bool((length == 0).any()):
        raise ValueError("matrix: expected matrices other than zero, got a zero matrix")
    values = measurements.measure(measurements.to_coordinates(x))
    if noise is not None:
        s = measurements._expect(given[1], "noise", (measurements.n_measurements,))
        if s.ndim != 2:
            raise ValueError(f"noise: expected shape (batch, m), got {tuple(s.shape)}")
        values = values - _insert_axes(s, values.ndim)
    average = measurements.weight * measurements.to_matrix(measurements.gather(values.sign()))
    unit = x / length[..., None, None]
    scale = (average * unit).sum((-2, -1))
    singular = torch.linalg.svdvals(average - scale[..., None, None] * unit)
    deviation = singular[..., :rank].square().sum(-1).sqrt()
    return SignRIP(scale=restore(scale), deviation=restore(deviation))


def sign_rip_scale(error_norm: float, noise_share: float = 0.0, noise_std: float = 0.0) -> float:
    r"""Expected :math:`\psi` of `sign_rip` for Gaussian measurements and Gaussian noise.

    A share p of the measurements carries noise of standard deviation :math:`\tau`; then

    .. math:: \psi = \sqrt{\tfrac2\pi}\,
        \Bigl(1 - p + \frac{p\,\lVert X\rVert_F}{\sqrt{\lVert X\rVert_F^2+\tau^2}}\Bigr) .

    Parameters
    ----------
    error_norm : float
        Frobenius norm of the error X, above zero.
    noise_share : float, default 0.0
        Share p of measurements with noise, in [0, 1].
    noise_std : float, default 0.0
        Standard deviation of the noise.

    Returns
    -------
    float
        At most :math:`\sqrt{2/\pi}`, which it is without noise.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    norm = check_number(error_norm, "error_norm", above=0.0)
    share = check_number(noise_share, "noise_share", minimum=0.0, maximum=1.0)
    std = check_number(noise_std, "noise_std", minimum=0.0)
    return math.sqrt(2 / math.pi) * (1 - share + share * norm / math.hypot(norm, std))


def _sizes(n_rows: int, n_columns: int | None, symmetric: bool) -> tuple[int, int]:
    rows = check_integer(n_rows, "n_rows", minimum=1)
    columns = rows if n_columns is None else check_integer(n_columns, "n_columns", minimum=1)
    if symmetric and rows != columns:
        raise ValueError(
            f"n_columns: expected {rows}, as many as rows, of symmetric matrices, got {columns}"
        )
    return rows, columns


def _times(vectors: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows (batch, ..., a) with (batch, a, b) in one product a problem."""
    runs = vectors.shape[1:-1]
    flat = vectors.reshape(vectors.shape[0], math.prod(runs), vectors.shape[-1])
    return (flat @ matrix).reshape(vectors.shape[0], *runs, matrix.shape[-1])


_TRIANGLES: dict[tuple[int, torch.device], tuple[Tensor, ...]] = {}


def _triangle(n: int, device: torch.device) -> tuple[Tensor, ...]:
    """Places and scales that map a flat n by n matrix to its coordinates and back."""
    key = (n, device)
    if key not in _TRIANGLES:
        rows, columns = torch.triu_indices(n, n)
        root = math.sqrt(0.5)
        there = torch.full((len(rows),), root, dtype=torch.float64)
        there[rows == columns] = 0.5
        place = torch.empty(n, n, dtype=torch.long)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        back = torch.full((n, n), root, dtype=torch.float64).fill_diagonal_(1.0)
        parts = (rows * n + columns, columns * n + rows, there, place.flatten(), back.flatten())
        _TRIANGLES[key] = tuple(part.to(device) for part in parts)
    return _TRIANGLES[key]


def _insert_axes(value: Tensor, ndim: int) -> Tensor:
    """Insert axes of length one behind the first until there are ``ndim``."""
    return value[(slice(None), *[None] * (ndim - value.ndim))]
