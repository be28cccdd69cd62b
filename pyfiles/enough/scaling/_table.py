"""Reading the columns of a table of runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["distinct", "read_columns", "read_weights"]


def read_columns(
    data: Any, names: Iterable[str], *, rows: int | None = None, positive: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Read named columns of numbers in float64.

    Parameters
    ----------
    data : pandas.DataFrame or mapping
        Columns of equal length.
    names : iterable of str
        What to read.
    rows : int, optional
        The least number of rows.
    positive : iterable of str, optional
        Columns that must be above zero.

    Returns
    -------
    dict of str to torch.Tensor
        Each of shape (n,), float64.

    Raises
    ------
    ValueError
        If a column is missing, not numeric, of another length, not finite, or not positive where
        it must be, or if there are too few rows.
    """
    columns: dict[str, Tensor] = {}
    positive = set(positive)
    for name in names:
        try:
            given = data[name]
        except (KeyError, TypeError, IndexError) as error:
            known = sorted(map(str, data.keys())) if hasattr(data, "keys") else type(data).__name__
            raise ValueError(f"data: expected a column {name!r}, got {known}") from error
        try:
            values = np.atleast_1d(np.asarray(given, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: expected numbers, got {given!r}") from error
        if values.ndim != 1:
            raise ValueError(f"{name}: expected one column, got the shape {values.shape}")
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise ValueError(f"{name}: expected finite numbers, got {bad} NaN or infinite values")
        if name in positive and not (values > 0).all():
            raise ValueError(f"{name}: expected numbers > 0, got a smallest of {values.min():g}")
        columns[name] = torch.from_numpy(values.copy())
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"data: expected columns of equal length, got {lengths}")
    count = next(iter(lengths.values()))
    if rows is not None and count < rows:
        raise ValueError(f"data: expected at least {rows} rows, got {count}")
    return columns


def read_weights(weights: Any, rows: int) -> Tensor:
    """Return weights of the rows in float64; ones when none are given.

    Parameters
    ----------
    weights : array_like or None
        Not negative, not all zero.
    rows : int
        The number of rows.

    Returns
    -------
    torch.Tensor, shape (rows,)
        The weights.

    Raises
    ------
    ValueError
        If the length is wrong or a weight is negative, infinite or NaN.
    """
    if weights is None:
        return torch.ones(rows, dtype=torch.float64)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (rows,):
        raise ValueError(f"weights: expected one number a row, {rows}, got shape {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError("weights: expected finite numbers >= 0, not all 0")
    return torch.from_numpy(values.copy())


def distinct(values: Tensor) -> int:
    """Return how many values differ by more than a thousandth from their neighbor below.

    Parameters
    ----------
    values : torch.Tensor, shape (n,)
        Positive numbers.

    Returns
    -------
    int
        At least 1.
    """
    ordered = values.log().sort().values
    return 1 + int((ordered.diff() > 1e-3).sum())
