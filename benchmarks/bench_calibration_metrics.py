"""Calibration metrics on a large table, beside other packages.

Peers are measured where they are installed; run with an environment that holds them::

    PYTHONPATH=pyfiles .venv-oracles/bin/python benchmarks/bench_calibration_metrics.py

``--samples`` and ``--classes`` scale the table (1 000 000 × 100 by default, 400 MB in float32).
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch

from enough.calibration import (
    StreamingCalibration,
    brier_score,
    expected_calibration_error,
    smooth_calibration_error,
)
from side_by_side import interleave

# The peer of the classwise error keeps Python lists: it sees this many rows at most.
SLOW_PEER_ROWS = 5_000


def make_table(n_samples: int, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return overconfident float32 probabilities and labels, made block by block."""
    draw = torch.Generator().manual_seed(0)
    probs = torch.empty(n_samples, n_classes)
    labels = torch.empty(n_samples, dtype=torch.int64)
    for start in range(0, n_samples, 10_000):
        block = slice(start, min(start + 10_000, n_samples))
        logits = torch.randn(block.stop - start, n_classes, generator=draw)
        labels[block] = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
        probs[block] = (2.0 * logits).softmax(1)
    return probs, labels


def peak_mib() -> float:
    """Return the largest resident set so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def rows(n_samples: int = 1_000_000, n_classes: int = 100, repeats: int = 5) -> list[dict]:
    """Measure each metric and its peers.

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
        fastest), extra_mib (memory above the table at our first call), note.
    """
    probs, labels = make_table(n_samples, n_classes)
    small = slice(0, min(n_samples, SLOW_PEER_ROWS))
    peers: dict[str, dict[str, tuple[Callable[[], object], float]]] = {
        name: {} for name in ("ece", "classwise ece", "brier", "smooth ece", "all at once")
    }
    if find_spec("torchmetrics"):
        from torchmetrics.functional.classification import multiclass_calibration_error

        peers["ece"]["torchmetrics"] = (
            lambda: multiclass_calibration_error(probs, labels, n_classes, n_bins=15),
            1.0,
        )
    if find_spec("netcal"):
        from netcal.metrics import ECE

        peers["ece"]["netcal"] = (lambda: ECE(15).measure(probs.numpy(), labels.numpy()), 1.0)
    if find_spec("calibration") and find_spec("parameterized"):
        import calibration

        # Its time grows with the rows, so it is measured on some and scaled up.
        peers["classwise ece"]["uncertainty-calibration"] = (
            lambda: calibration.get_ece(
                probs[small].double().numpy(), labels[small].numpy(), num_bins=15, mode="marginal"
            ),
            n_samples / small.stop,
        )
    if find_spec("sklearn"):
        from sklearn.metrics import brier_score_loss

        peers["brier"]["scikit-learn"] = (
            lambda: brier_score_loss(
                labels.numpy(), probs.numpy(), labels=range(n_classes), scale_by_half=False
            ),
            1.0,
        )
    if find_spec("relplot"):
        import relplot

        def smooth_peer() -> float:
            top = probs.max(1)
            return relplot.smECE(top.values.double().numpy(), (top.indices == labels).numpy())

        peers["smooth ece"]["relplot"] = (smooth_peer, 1.0)
    ours = {
        "ece": lambda: expected_calibration_error(probs, labels),
        "classwise ece": lambda: expected_calibration_error(probs, labels, classwise=True),
        "brier": lambda: brier_score(probs, labels),
        "smooth ece": lambda: smooth_calibration_error(probs, labels),
        "all at once": lambda: StreamingCalibration(classwise=True).update(probs, labels).compute(),
    }
    # Load libraries and allocate what stays before memory is measured.
    for call in (expected_calibration_error, brier_score, smooth_calibration_error):
        call(probs[:2000], labels[:2000])
    extra = {}
    for name, call in ours.items():
        before = peak_mib()
        call()
        extra[name] = peak_mib() - before
    result = []
    for name, call in ours.items():
        others = peers[name]
        seconds = interleave(
            {"ours": call, **{peer: other for peer, (other, _) in others.items()}}, repeats
        )
        fastest = min(seconds["ours"])
        base = {
            "name": f"{name}, {n_samples} x {n_classes} float32",
            "ours_s": fastest,
            "spread": max(seconds["ours"]) / fastest,
            "extra_mib": extra[name],
        }
        if not others:
            result.append({**base, "peer": None, "peer_s": None, "ratio": None, "note": ""})
        for peer, (_, factor) in others.items():
            theirs = min(seconds[peer]) * factor
            note = f"peer on {small.stop} rows, scaled up" if factor != 1.0 else ""
            result.append(
                {**base, "peer": peer, "peer_s": theirs, "ratio": theirs / fastest, "note": note}
            )
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'name':42}{'ours s':>9}{'spread':>8}{'MiB':>7}  {'peer':24}{'peer s':>9}{'ratio':>8}")
    for row in rows(options.samples, options.classes, options.repeats):
        peer = "" if row["peer"] is None else f"{row['peer_s']:9.3f}{row['ratio']:8.2f}"
        print(
            f"{row['name']:42}{row['ours_s']:9.3f}{row['spread']:8.2f}{row['extra_mib']:7.1f}  "
            f"{row['peer'] or '-':24}{peer}  {row['note']}"
        )


if __name__ == "__main__":
    main()
