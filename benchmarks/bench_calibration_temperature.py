"""Temperature scaling on a large table, beside the published recipe and other packages.

The table has 100,000 rows and 1000 classes (400 MB in float32). The recipe as published, a minute
or more on all rows, runs on a fifth of them. Peers are measured where they are installed.
``--memory-map ROWS`` prints our fit streamed from a file of that many rows instead, with the
anonymous memory it took (1,000,000 rows need 4 GB of disk in the temporary folder).
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from enough.calibration import TemperatureScaling
from side_by_side import Peer, compare, main

PART = 5  # the recipe as published sees one row of so many


def make_table(n_samples: int, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return float32 logits whose optimal temperature is near 3, and labels."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.empty(n_samples, n_classes)
    labels = torch.empty(n_samples, dtype=torch.int64)
    for start in range(0, n_samples, 1000):
        block = slice(start, min(start + 1000, n_samples))
        true = 2.0 * torch.randn(block.stop - start, n_classes, generator=draw)
        labels[block] = torch.multinomial(true.softmax(1), 1, generator=draw)[:, 0]
        logits[block] = 3.0 * true
    return logits, labels


def published(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fit T as a well-known repository does: L-BFGS from 1.5, step 0.01, 50 iterations."""
    return _lbfgs(logits, labels, lr=0.01, max_iter=50)


def line_search(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fit T by L-BFGS with a strong-Wolfe line search until it stops."""
    return _lbfgs(logits, labels, lr=1.0, max_iter=100, line_search_fn="strong_wolfe")


def _lbfgs(logits: torch.Tensor, labels: torch.Tensor, **options: object) -> float:
    temperature = torch.tensor([1.5], requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / temperature, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return temperature.item()


def bisection(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fit T by the bisection of probmetrics."""
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    scaling = TemperatureScalingCalibrator()
    scaling.fit_torch(CategoricalLogits(logits), labels)
    return 1.0 / float(scaling.invtemp_)


def scikit_learn(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Fit T as scikit-learn's CalibratedClassifierCV does for method "temperature"."""
    from sklearn.calibration import _TemperatureScaling

    return 1.0 / float(_TemperatureScaling().fit(logits.numpy(), labels.numpy()).beta_)


def rows(quick: bool = False) -> list[dict]:
    """Measure our fit and its peers.

    Parameters
    ----------
    quick : bool, default False
        A small table, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes; the notes hold the temperatures found.
    """
    n_samples, n_classes = (1_000, 10) if quick else (100_000, 1000)
    logits, labels = make_table(n_samples, n_classes)
    found: dict[str, float] = {}

    few = slice(0, n_samples // PART)

    def keep(
        name: str, fit: Callable[[torch.Tensor, torch.Tensor], float], part: slice = slice(None)
    ) -> Callable:
        return lambda: found.update({name: fit(logits[part], labels[part])})

    newton = "a few Newton steps in a bracket, begun at the optimum of a sample of rows"
    fixed = f"{newton}, while the peer takes L-BFGS steps through automatic differentiation"
    peers = {
        "L-BFGS as published": (published, None, f"{fixed}, without a line search"),
        "L-BFGS with line search": (line_search, None, fixed),
        "probmetrics": (bisection, "probmetrics", f"{newton}, while the peer bisects"),
        "scikit-learn": (
            scikit_learn,
            "sklearn",
            f"{newton}, while the peer minimizes without derivatives",
        ),
    }
    sides = {name: Peer(keep(name, fit), package) for name, (fit, package, _) in peers.items()}
    slowest = "L-BFGS as published"
    sides[slowest] = Peer(keep(slowest, published, few), scale=PART)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about their own imports
        result = compare(
            f"temperature, {n_samples:,} x {n_classes} float32",
            keep("ours", lambda x, y: TemperatureScaling().fit(x, y).temperature_),
            sides,
            rounds=2,
            warm_up=0,
            why={name: why for name, (_, _, why) in peers.items()},
        )
    for row in result:
        if row["peer"] in found:
            row["note"] = f"T: ours {found['ours']:.6f}, peer {found[row['peer']]:.6f}"
            if row["peer"] == slowest:
                row["note"] += f"; the peer on {few.stop:,} rows, its time multiplied by {PART}"
    return result


def anonymous_mib() -> float:
    """Return the resident memory that no file backs, in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def from_file(n_samples: int, n_classes: int = 1000) -> dict:
    """Measure our fit on logits that stay in a memory-mapped file.

    Parameters
    ----------
    n_samples, n_classes : int
        Shape of the table.

    Returns
    -------
    dict
        Keys name, ours_s, extra_mib (largest anonymous memory above the start, sampled every
        10 ms), note (the temperature found and the one of the first tenth in memory).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logits.npy"
        mapped = np.lib.format.open_memmap(
            path, mode="w+", dtype=np.float32, shape=(n_samples, n_classes)
        )
        labels = np.empty(n_samples, dtype=np.int64)
        draw = torch.Generator().manual_seed(0)
        for start in range(0, n_samples, 10_000):
            stop = min(start + 10_000, n_samples)
            true = 2.0 * torch.randn(stop - start, n_classes, generator=draw)
            labels[start:stop] = torch.multinomial(true.softmax(1), 1, generator=draw)[:, 0]
            mapped[start:stop] = 3.0 * true
        mapped.flush()
        del mapped, true
        logits = np.load(path, mmap_mode="c")
        tenth = TemperatureScaling().fit(logits[: n_samples // 10], labels[: n_samples // 10])
        before, peak, done = anonymous_mib(), [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.01):
                peak[0] = max(peak[0], anonymous_mib())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.perf_counter()
        found = TemperatureScaling().fit(logits, labels).temperature_
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        del logits
    return {
        "name": f"temperature from a file, {n_samples} x {n_classes} float32",
        "ours_s": seconds,
        "extra_mib": peak[0] - before,
        "note": f"T {found:.6f}; on the first tenth {tenth.temperature_:.6f}",
    }


if __name__ == "__main__":
    if "--memory-map" in sys.argv:
        print(from_file(int(sys.argv[sys.argv.index("--memory-map") + 1])))
    else:
        main(rows)
