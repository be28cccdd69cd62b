"""The numbers behind a figure, small enough to travel with it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["MAX_ENTRIES", "table", "to_csv"]

#: The most entries a figure's table may hold; more belongs into a file.
MAX_ENTRIES = 20_000


def table(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Turn columns of any kind into lists that JSON can hold.

    Parameters
    ----------
    columns : mapping from str to one-dimensional sequence
        Tensors, arrays, lists or pandas columns of equal length, of numbers, booleans or
        strings. A ``pandas.DataFrame`` works too.

    Returns
    -------
    dict of str to list
        Floats rounded to six significant digits; NaN and infinities become ``None``.

    Raises
    ------
    ValueError
        If there is no column, a name is not a non-empty string, a column is not
        one-dimensional or holds something else, lengths differ, or there are more than
        `MAX_ENTRIES` entries.
    """
    if not hasattr(columns, "items"):
        raise ValueError(f"columns: expected a mapping of columns, got {type(columns).__name__}")
    lists = {name: _column(name, values) for name, values in columns.items()}
    if not lists:
        raise ValueError("columns: expected at least one column, got none")
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns: expected equal lengths, got {lengths}")
    if sum(lengths.values()) > MAX_ENTRIES:
        raise ValueError(
            f"columns: expected at most {MAX_ENTRIES} entries, got {sum(lengths.values())}"
        )
    return lists


def to_csv(columns: Mapping[str, Any]) -> str:
    """Write columns as comma-separated values.

    Parameters
    ----------
    columns : mapping from str to one-dimensional sequence
        As in `table`.

    Returns
    -------
    str
        One header line, then one line a row, ended by newlines; missing values are empty.

    Raises
    ------
    ValueError
        As in `table`.
    """
    lists = table(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(lists)
    writer.writerows(zip(*lists.values(), strict=True))
    return text.getvalue()


def _column(name: Any, values: Any) -> list[Any]:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"columns: expected names that are non-empty strings, got {name!r}")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"columns: expected {name!r} to have 1 dimension, got {array.ndim}")
    return [_entry(name, value) for value in array.tolist()]


def _entry(name: str, value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):  # a bool is an int
        return value
    raise ValueError(
        f"columns: expected numbers, booleans or strings in {name!r}, got {type(value).__name__}"
    )
