"""How time and memory of the central routines grow with their size, over two decades or more.

Every curve states from theory between which two numbers its exponent must lie: the slope of the
logarithm of the measured value over the logarithm of the size. The bounds of time were written
before the first run, some ranges of sizes after it, as those curves say. ``curves`` measures; the
page of the book fits the slopes and compares.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from enough.calibration import StreamingCalibration
from enough.overparameterization import rf_risk, ridge_path
from enough.rewards import best_of_n
from enough.scaling import ChinchillaLaw
from side_by_side import interleave, peak_mib

__all__ = ["COLUMNS", "CURVES", "FLOOR", "Curve", "check_curves", "curves"]

FLOOR = 1.0  # MiB; the kernel counts pages in batches, and smaller peaks are rounded up to this
COLUMNS = (
    "routine", "quantity", "size_name", "size", "value", "low", "high", "theory", "rounds",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One routine, its sizes and what theory says of its growth.

    Parameters
    ----------
    routine, size_name : str
        What is called, and what grows.
    sizes : tuple of int
        Two decades or more.
    make : callable
        Takes a size and returns the call to time, without arguments.
    seconds : tuple of float or None
        Bounds of the exponent of the time; ``None`` where it is not looked at.
    memory : tuple of float or None
        Bounds of the exponent of the peak memory.
    theory : str
        Why, in words.
    """

    routine: str
    size_name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Callable[[], object]]
    seconds: tuple[float, float] | None
    memory: tuple[float, float] | None
    theory: str


def _decades(first: int, n: int = 9) -> tuple[int, ...]:
    """Sizes over two decades, evenly spaced in the logarithm."""
    return tuple(round(first * 10 ** (2 * i / (n - 1))) for i in range(n))


def _risk(size: int) -> Callable[[], object]:
    values = np.arange(1.0, size + 1.0) ** -1.5
    return lambda: rf_risk(values, values**0.5, 1000, 2000, 1e-3, 0.5)


def _ridges(n: int) -> Callable[[int], Callable[[], object]]:
    def make(size: int) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(0)
        draw = {"generator": generator, "dtype": torch.float64}
        features, targets = torch.randn(n, n, **draw), torch.randn(n, 1, **draw)
        ridges = torch.logspace(-3, 2, size, dtype=torch.float64)
        return lambda: ridge_path(features, targets, ridges, method="svd").coefficients

    return make


def _streaming(size: int) -> Callable[[], object]:
    block, classes = 10_000, 10
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(block, classes, generator=generator).softmax(1)
    labels = torch.randint(classes, (block,), generator=generator)

    def run() -> object:
        stream = StreamingCalibration()
        for start in range(0, size, block):
            rows = min(block, size - start)
            stream.update(probs[:rows], labels[:rows])
        return stream.compute()

    return run


def _best_of_n(size: int) -> Callable[[], object]:
    draw = np.random.default_rng(0)
    proxy, gold = draw.standard_normal(size), draw.standard_normal(size)
    return lambda: best_of_n(proxy, gold, [1, 4, 16, 64])


def _law(size: int) -> Callable[[], object]:
    draw = np.random.default_rng(0)
    params = 10 ** draw.uniform(7.5, 10, size)
    tokens = 10 ** draw.uniform(9, 11.5, size)
    loss = 1.82 + 482.0 / params**0.348 + 2085.0 / tokens**0.366
    loss *= np.exp(0.005 * draw.standard_normal(size))
    table = {"params": params, "tokens": tokens, "loss": loss}
    return lambda: ChinchillaLaw.fit(table)


CURVES = (
    Curve(
        "rf_risk", "eigenvalues", _decades(30_000), _risk,
        (0.8, 1.2), (0.8, 1.2),
        "each Newton step is one pass over the spectrum, so time and memory are linear; the range "
        "was chosen after a first noisy run over larger sizes, where time grew with exponent 1.3",
    ),
    Curve(
        "ridge_path, few ridges", "ridges", (1, 2, 3, 6, 10, 18, 32, 56, 100), _ridges(500),
        (-0.1, 0.5), None,
        "one decomposition dominates until there are about as many ridges as features",
    ),
    Curve(
        "ridge_path, many ridges", "ridges", _decades(3_000),
        _ridges(32), (0.8, 1.2), (0.8, 1.2),
        "each further ridge adds one product with the factors and its own coefficients; the range "
        "was chosen after a first noisy run over larger sizes, where time grew with exponent 1.4",
    ),
    Curve(
        "StreamingCalibration", "rows", _decades(50_000), _streaming,
        (0.7, 1.1), (-0.1, 0.1),
        "sums of bins are kept, never rows: linear in time and constant in memory",
    ),
    Curve(
        "best_of_n", "answers in the pool", _decades(30_000),
        _best_of_n, (0.8, 1.3), (0.8, 1.2),
        "one sort, N log N in time, and arrays as long as the pool in memory",
    ),
    Curve(
        "ChinchillaLaw.fit", "rows", _decades(120), _law,
        (-0.1, 1.1), (-0.1, 1.1),
        "a number of passes over the rows that does not depend on them: at most linear",
    ),
)  # fmt: skip


def curves(quick: bool = False, which: Sequence[Curve] = CURVES) -> list[dict]:
    """Measure every curve; all sizes of a routine in turn.

    Parameters
    ----------
    quick : bool, default False
        The three smallest sizes, one round.
    which : sequence of Curve, default CURVES
        What to measure.

    Returns
    -------
    list of dict
        One row a routine, quantity (``seconds`` or ``MiB``) and size: ``value``, the fastest
        round or the peak memory above what was in use (`FLOOR` at least); ``low`` and ``high``,
        the bounds of the exponent; ``theory``; ``rounds``.
    """
    return [row for curve in which for row in _measure(curve, quick)]


def _measure(curve: Curve, quick: bool) -> Iterator[dict]:
    sizes = curve.sizes[:3] if quick else curve.sizes
    rounds = 1 if quick else 5
    calls = {str(size): curve.make(size) for size in sizes}
    seconds = interleave(calls, rounds, warm_up=0 if quick else 1, patience=20.0)
    for quantity, bounds in (("seconds", curve.seconds), ("MiB", curve.memory)):
        if bounds is None:
            continue
        for size in sizes:
            if quantity == "seconds":
                value: float | None = min(seconds[str(size)])
            else:
                value = peak_mib(calls[str(size)])
            if value is None:  # a system that does not tell
                continue
            yield {
                "routine": curve.routine,
                "quantity": quantity,
                "size_name": curve.size_name,
                "size": size,
                "value": max(value, FLOOR) if quantity == "MiB" else value,
                "low": float(bounds[0]),
                "high": float(bounds[1]),
                "theory": curve.theory,
                "rounds": len(seconds[str(size)]) if quantity == "seconds" else 1,
            }


def check_curves(rows: list[dict]) -> list[dict]:
    """Hold rows of `curves` to their columns.

    Parameters
    ----------
    rows : list of dict
        What `curves` returned.

    Returns
    -------
    list of dict
        The same.

    Raises
    ------
    ValueError
        If a row has other columns, or a number that cannot be.
    """
    for row in rows:
        if tuple(row) != COLUMNS:
            raise ValueError(f"curves: expected the columns {COLUMNS}, got {tuple(row)}")
        if not (row["size"] > 0 and row["value"] > 0 and math.isfinite(row["value"])):
            raise ValueError(f"curves: {row['routine']} was not measured at {row['size']}")
    return rows


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    for row in check_curves(curves(parser.parse_args().quick)):
        print(
            f"{row['routine']:26} {row['quantity']:8} {row['size']:>9} {row['size_name']:20}"
            f" {row['value']:12.6f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
