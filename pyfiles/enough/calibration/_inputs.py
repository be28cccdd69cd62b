"""What probabilities, labels and logits must look like, checked once at the public edge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from enough.runtime.validation import as_tensors, check_integer, check_tensor

__all__ = [
    "MAX_BINS",
    "check_bins",
    "check_unit",
    "complain_about_rows",
    "map_blocks",
    "read_labels",
    "read_logits",
    "read_probs",
    "read_table",
    "row_slices",
    "simplex_tolerance",
    "widen",
]

# Above this many bins a float32 product v * n_bins could be off by more than one bin.
MAX_BINS = 1_000_000
# Entries in one block of rows. A GPU block fills the device. A CPU block stays in cache and
# just below the size at which torch would split one operation over threads: whole blocks go
# to threads instead, which do not wait for each other after every operation.
_CPU_BLOCK = (1 << 15) - 1
_GPU_BLOCK = 1 << 20
# One thread alone has nothing to split: a block may fill the second-level cache, and the cost of
# a call is paid an eighth as often.
_LONE_BLOCK = 1 << 18
_THREADED_ENTRIES = 1 << 21


def simplex_tolerance(dtype: torch.dtype) -> float:
    """Return τ: how far an entry of this dtype may leave [0, 1].

    Parameters
    ----------
    dtype : torch.dtype
        A floating-point dtype.

    Returns
    -------
    float
        Four machine epsilons, and at least 1e-7. A row of K entries may miss 1 by τ√K.
    """
    return max(4.0 * torch.finfo(dtype).eps, 1e-7)


def widen(values: torch.Tensor) -> torch.Tensor:
    """Return 16-bit (and smaller) floats as float32, everything else unchanged.

    Parameters
    ----------
    values : torch.Tensor
        Any floating-point dtype.

    Returns
    -------
    torch.Tensor
        The same numbers.
    """
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def row_slices(
    n_rows: int, n_columns: int, device: torch.device, entries: int | None = None
) -> Iterator[slice]:
    """Cut the rows into blocks that stay small in memory.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of the table.
    device : torch.device
        Where the table lives.
    entries : int, optional
        Entries in a block; without it, what suits the device.

    Yields
    ------
    slice
        Consecutive rows, at least one.
    """
    block = entries or (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK)
    step = max(1, block // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def map_blocks(
    function: Callable[[list[slice]], Any],
    n_rows: int,
    n_columns: int,
    device: torch.device,
    *,
    sums: bool = True,
) -> list[Any]:
    """Apply a function to runs of consecutive blocks, on threads where that pays.

    Parameters
    ----------
    function : callable
        Maps a list of row slices to a partial result; called once a thread.
    n_rows, n_columns : int
        Shape of the table.
    device : torch.device
        Where the table lives.
    sums : bool, default True
        Whether the function sums over the rows of a block. Where it does not, no rounding
        depends on the blocks, and one thread alone takes larger ones.

    Returns
    -------
    list
        Partial results in the order of the rows. Sums of them depend on the number of
        threads only through rounding.
    """
    slices = list(row_slices(n_rows, n_columns, device))
    threads = 1
    if device.type == "cpu" and n_rows * n_columns >= _THREADED_ENTRIES:
        threads = min(torch.get_num_threads(), len(slices))
    if threads == 1:
        lone = not sums and device.type == "cpu" and torch.get_num_threads() == 1
        return [
            function(list(row_slices(n_rows, n_columns, device, _LONE_BLOCK)) if lone else slices)
        ]
    cuts = [len(slices) * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, (slices[a:b] for a, b in itertools.pairwise(cuts))))


def check_bins(n_bins: Any) -> int:
    """Return the number of bins as an ``int``.

    Parameters
    ----------
    n_bins : int
        At least 1.

    Returns
    -------
    int
        The same number.

    Raises
    ------
    ValueError
        If it is not a whole number in the range.
    """
    return check_integer(n_bins, "n_bins", minimum=1, maximum=MAX_BINS)


def read_labels(labels: torch.Tensor, n_samples: int, n_classes: int) -> torch.Tensor:
    """Check class numbers and return them as int64.

    Parameters
    ----------
    labels : torch.Tensor
        Shape (N,), integers, booleans, or floats with whole values.
    n_samples : int
        The N that the other argument has.
    n_classes : int
        Labels lie in [0, n_classes).

    Returns
    -------
    torch.Tensor
        Shape (N,), dtype int64.

    Raises
    ------
    ValueError
        If the shape is wrong or an entry is not a class number.
    """
    check_tensor(labels, "labels", shape=(n_samples,))
    if labels.is_complex():
        raise ValueError(f"labels: expected whole class numbers, got dtype {labels.dtype}")
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        raise ValueError("labels: expected whole class numbers, got fractions")
    labels = labels.detach().to(torch.int64)
    check_tensor(labels, "labels", minimum=0, maximum=n_classes - 1)
    return labels


def read_table(
    values: Any, *, ndim: tuple[int, ...] = (1, 2), name: str = "probs"
) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Check shape and dtype of one table; its values come later.

    Parameters
    ----------
    values : array
        Shape (N, K) with K >= 2, or (N,).
    ndim : tuple of int, default (1, 2)
        Which of the two shapes the caller allows.
    name : str, default "probs"
        The argument's name, for the message.

    Returns
    -------
    values : torch.Tensor
        Floating point, detached.
    restore : callable
        The way back to what was given.

    Raises
    ------
    ValueError
        If the shape or the dtype is wrong.
    """
    (table,), restore = as_tensors(**{name: values})
    if table.ndim not in ndim or (table.ndim == 2 and table.shape[1] < 2):
        wanted = {(1,): "(N,)", (2,): "(N, K) with K >= 2"}.get(ndim, "(N,) or (N, K) with K >= 2")
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(table.shape)}")
    if table.is_complex():
        raise ValueError(f"{name}: expected real numbers, got dtype {table.dtype}")
    if table.numel() == 0:
        raise ValueError(f"{name}: expected at least one entry, got shape {tuple(table.shape)}")
    if not table.is_floating_point():
        table = table.double()
    if table.device.type != "mps":
        return table.detach(), restore
    device = table.device  # no float64 there: the work is done on the CPU

    def send_back(result: torch.Tensor) -> torch.Tensor:
        wide = result.dtype == torch.float64
        return result.to(device, torch.float32 if wide else result.dtype)

    return table.detach().cpu(), send_back


def read_probs(
    probs: Any, labels: Any, *, ndim: tuple[int, ...] = (1, 2), name: str = "probs"
) -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], Any]]:
    """Check shapes, dtypes and labels; the values of the probabilities come later.

    Parameters
    ----------
    probs : array
        Shape (N, K) with K >= 2, or (N,).
    labels : array
        Shape (N,).
    ndim : tuple of int, default (1, 2)
        Which of the two shapes the caller allows.
    name : str, default "probs"
        The argument's name, for the message.

    Returns
    -------
    probs : torch.Tensor
        Floating point, detached.
    labels : torch.Tensor
        Shape (N,), dtype int64, on the same device.
    restore : callable
        The way back to what was given.

    Raises
    ------
    ValueError
        If a shape, a dtype or a label is wrong, or the two live on different devices.
    """
    (_, labels), restore = as_tensors(**{name: probs, "labels": labels})
    table, send_back = read_table(probs, ndim=ndim, name=name)
    n_classes = 2 if table.ndim == 1 else table.shape[1]
    labels = read_labels(labels, table.shape[0], n_classes).to(table.device)
    return table, labels, lambda result: restore(torch.as_tensor(send_back(result)))


def read_logits(
    logits: Any, labels: Any = None
) -> tuple[torch.Tensor, torch.Tensor | None, Callable[[torch.Tensor], Any]]:
    """Check logits and, where given, their labels.

    Parameters
    ----------
    logits : array
        Shape (N, K) with K >= 2, or (N,) = log odds of y = 1.
    labels : array, optional
        Shape (N,).

    Returns
    -------
    logits : torch.Tensor
        Floating point, finite, detached.
    labels : torch.Tensor or None
        Shape (N,), dtype int64.
    restore : callable
        The way back to what was given.

    Raises
    ------
    ValueError
        If a shape, a dtype, a label or a value is wrong.
    """
    if labels is None:
        logits, restore = read_table(logits, name="logits")
    else:
        logits, labels, restore = read_probs(logits, labels, name="logits")

    def check(slices: list[slice]) -> None:
        for rows in slices:
            check_tensor(logits[rows], "logits")

    map_blocks(check, logits.shape[0], logits[0].numel(), logits.device, sums=False)
    return logits, labels, restore


def check_unit(probs: torch.Tensor, name: str = "probs") -> torch.Tensor:
    """Check probabilities of shape (N,) and return them clipped to [0, 1].

    Parameters
    ----------
    probs : torch.Tensor
        Entries within τ of [0, 1].
    name : str, default "probs"
        The argument's name, for the message.

    Returns
    -------
    torch.Tensor
        The same shape and dtype.

    Raises
    ------
    ValueError
        If an entry is NaN, infinite, or too far outside.
    """
    check_tensor(probs, name)
    tolerance = simplex_tolerance(probs.dtype)
    low, high = probs.min().item(), probs.max().item()
    if low < -tolerance or high > 1.0 + tolerance:
        worst = low if -low > high - 1.0 else high
        raise ValueError(
            f"{name}: expected probabilities in [0, 1] (within {tolerance:.1e}), got {worst!r}"
        )
    return probs.clamp(0.0, 1.0)


def complain_about_rows(probs: torch.Tensor, name: str = "probs") -> None:
    """Raise the error that says how the rows leave the simplex.

    Parameters
    ----------
    probs : torch.Tensor
        Shape (N, K), known to be bad.
    name : str, default "probs"
        The argument's name, for the message.

    Raises
    ------
    ValueError
        Always.
    """
    n_samples, n_classes = probs.shape
    tolerance = simplex_tolerance(probs.dtype)
    row_tolerance = tolerance * math.sqrt(n_classes)
    for rows in row_slices(n_samples, n_classes, probs.device):
        block = check_tensor(probs[rows], name)
        low, high = block.min().item(), block.max().item()
        if low < -tolerance or high > 1.0 + tolerance:
            worst = low if -low > high - 1.0 else high
            raise ValueError(
                f"{name}: expected probabilities in [0, 1] (within {tolerance:.1e}), got {worst!r}"
            )
        sums = widen(block).sum(1)
        off = (sums.double() - 1.0).abs()
        if bool((off > row_tolerance).any()):
            row = int(off.argmax())
            raise ValueError(
                f"{name}: expected rows that sum to 1 (within {row_tolerance:.1e}), "
                f"got {sums[row].item()!r} in row {rows.start + row}; "
                "pass softmax outputs, not logits"
            )
    raise ValueError(f"{name}: expected rows on the simplex (within {row_tolerance:.1e})")
