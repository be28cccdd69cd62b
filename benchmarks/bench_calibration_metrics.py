"""Calibration metrics on a large table, beside other packages.

The table has a million rows and a hundred classes (400 MB in float32). Peers are measured where
they are installed.
"""

from __future__ import annotations

import torch

from enough.calibration import (
    StreamingCalibration,
    brier_score,
    expected_calibration_error,
    smooth_calibration_error,
)
from side_by_side import Peer, compare, main

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


def rows(quick: bool = False) -> list[dict]:
    """Measure each metric and its peers.

    Parameters
    ----------
    quick : bool, default False
        A small table, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    n_samples, n_classes = (2_000, 10) if quick else (1_000_000, 100)
    probs, labels = make_table(n_samples, n_classes)
    size = f"{n_samples:,} x {n_classes} float32"
    few = slice(0, min(n_samples, SLOW_PEER_ROWS))

    def torchmetrics_ece() -> float:
        from torchmetrics.functional.classification import multiclass_calibration_error

        return float(multiclass_calibration_error(probs, labels, n_classes, n_bins=15))

    def netcal_ece() -> float:
        from netcal.metrics import ECE

        return ECE(15).measure(probs.numpy(), labels.numpy())

    def marginal_error() -> float:
        import calibration

        table = probs[few].double().numpy()
        return calibration.get_ece(table, labels[few].numpy(), num_bins=15, mode="marginal")

    def scikit_learn_brier() -> float:
        from sklearn.metrics import brier_score_loss

        return brier_score_loss(
            labels.numpy(), probs.numpy(), labels=range(n_classes), scale_by_half=False
        )

    def relplot_error() -> float:
        import relplot

        top = probs.max(1)
        return relplot.smECE(top.values.double().numpy(), (top.indices == labels).numpy())

    blocks = (
        "one pass over blocks of rows that fit the cache, while the peer takes step after step "
        "over the whole table"
    )
    cases = {
        "expected calibration error": (
            lambda: expected_calibration_error(probs, labels),
            {
                "torchmetrics": Peer(torchmetrics_ece, "torchmetrics"),
                "netcal": Peer(netcal_ece, "netcal"),
            },
            blocks,
        ),
        "classwise calibration error": (
            lambda: expected_calibration_error(probs, labels, classwise=True),
            {
                "uncertainty-calibration": Peer(
                    marginal_error,
                    ("calibration", "parameterized"),
                    scale=n_samples / few.stop,
                    note=f"the peer on {few.stop:,} rows",
                )
            },
            "bins are counted by array operations, while the peer loops over Python lists",
        ),
        "Brier score": (
            lambda: brier_score(probs, labels),
            {"scikit-learn": Peer(scikit_learn_brier, "sklearn")},
            blocks,
        ),
        "smooth calibration error": (
            lambda: smooth_calibration_error(probs, labels),
            {"relplot": Peer(relplot_error, "relplot")},
            "residuals are put on a fine grid once, and every bandwidth is tried on the grid alone",
        ),
        "streaming calibration, classwise too": (
            lambda: StreamingCalibration(classwise=True).update(probs, labels).compute(),
            {},
            "",
        ),
    }
    result = []
    for name, (ours, peers, why) in cases.items():
        result += compare(f"{name}, {size}", ours, peers, rounds=2 if quick else 5, why=why)
    return result


if __name__ == "__main__":
    main(rows)
