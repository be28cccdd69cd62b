"""Temperature scaling on a large table, beside the published recipe and other packages.

Peers are measured where they are installed; run with an environment that holds them::

    PYTHONPATH=pyfiles .venv-oracles/bin/python benchmarks/bench_calibration_temperature.py

``--samples`` and ``--classes`` scale the table (100 000 × 1000 by default, 400 MB in float32).
``--memory-map ROWS`` adds our fit streamed from a file of that many rows (1 000 000 × 1000 needs
4 GB of disk in the temporary folder) with the anonymous memory it took.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from enough.calibration import TemperatureScaling
from side_by_side import interleave, spread


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


def rows(n_samples: int = 100_000, n_classes: int = 1000, repeats: int = 3) -> list[dict]:
    """Measure our fit and its peers.

    Parameters
    ----------
    n_samples, n_classes : int
        Shape of the table.
    repeats : int
        Timed runs of each call, interleaved; the minimum counts.

    Returns
    -------
    list of dict
        Keys name, ours_s, peer, peer_s, ratio (peer over ours), spread (ours: slowest over
        fastest), note (the temperatures found).
    """
    logits, labels = make_table(n_samples, n_classes)
    fits: dict[str, Callable[[], float]] = {
        "ours": lambda: TemperatureScaling().fit(logits, labels).temperature_,
        "L-BFGS as published": lambda: published(logits, labels),
        "L-BFGS with line search": lambda: line_search(logits, labels),
    }
    if find_spec("probmetrics"):
        fits["probmetrics"] = lambda: bisection(logits, labels)
    if find_spec("sklearn"):
        import sklearn.calibration

        if hasattr(sklearn.calibration, "_TemperatureScaling"):
            fits["scikit-learn"] = lambda: scikit_learn(logits, labels)
    found: dict[str, float] = {}

    def keep(name: str) -> Callable[[], None]:
        return lambda: found.update({name: fits[name]()})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about their own imports
        seconds = interleave({name: keep(name) for name in fits}, repeats, warm_up=0)
    fastest = min(seconds["ours"])
    return [
        {
            "name": f"temperature, {n_samples} x {n_classes} float32",
            "ours_s": fastest,
            "spread": spread(seconds["ours"]),
            "peer": peer,
            "peer_s": min(times),
            "ratio": min(times) / fastest,
            "note": f"T: ours {found['ours']:.6f}, peer {found[peer]:.6f}",
        }
        for peer, times in seconds.items()
        if peer != "ours"
    ]


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory-map", type=int, default=0, metavar="ROWS")
    options = parser.parse_args()
    if options.memory_map:
        row = from_file(options.memory_map, options.classes)
        print(
            f"{row['name']}: {row['ours_s']:.2f} s, {row['extra_mib']:.1f} MiB beside the file, "
            f"{row['note']}"
        )
    print(f"{'name':38}{'ours s':>9}{'spread':>8}  {'peer':26}{'peer s':>9}{'ratio':>8}")
    for row in rows(options.samples, options.classes, options.repeats):
        print(
            f"{row['name']:38}{row['ours_s']:9.3f}{row['spread']:8.2f}  {row['peer']:26}"
            f"{row['peer_s']:9.3f}{row['ratio']:8.2f}  {row['note']}"
        )


if __name__ == "__main__":
    main()
