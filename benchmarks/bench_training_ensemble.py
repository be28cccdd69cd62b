"""How much faster is an ensemble trained as one batch than a Python loop over its members?

Multilayer perceptrons 32-W-W-1 with ReLU, squared error, Adam, every member with its own order of
the data. The peer is the loop most people write: for each member, for each batch, forward,
``backward`` and ``torch.optim.Adam``. Both sides train all members for the same number of updates
from the same data, and the time of one update of all members is reported. What the choice of the
mode costs is paid before: it is made once a process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from enough.training import Ensemble, plan

GRID = [(e, w, b) for w in (64, 256) for b in (64, 1024) for e in (8, 32, 128)]
INPUTS, SAMPLES = 32, 2048
REPEATS = 5
SECONDS = 0.3  # of the loop, for one measurement


def build(width: int) -> Callable[[torch.Generator], nn.Module]:
    """Make the builder of one member."""

    def member(generator: torch.Generator) -> nn.Module:
        return nn.Sequential(
            nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 1),
        )  # fmt: skip

    return member


def train_loop(
    members: list[nn.Module], x: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int
) -> None:
    """Train the members one after the other."""
    for e, member in enumerate(members):
        generator = torch.Generator().manual_seed(e)
        optimizer = torch.optim.Adam(member.parameters(), lr=1e-3)
        done = 0
        while done < steps:
            for rows in torch.randperm(len(x), generator=generator).split(batch_size):
                if done == steps:
                    break
                optimizer.zero_grad()
                F.mse_loss(member(x[rows]), y[rows]).backward()
                optimizer.step()
                done += 1


def measure(members: int, width: int, batch: int, repeats: int = REPEATS, mode: str = "auto"):
    """Return interleaved times of an update: ours, the loop's; the ensemble; seconds to choose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = x[:, :1].sin()
    ensemble = Ensemble(build(width), members, seed=0, mode=mode)
    alone = [ensemble.member(e).train() for e in range(members)]
    train_loop(alone[:2], x, y, 2, batch)
    start = time.perf_counter()
    train_loop(alone[:2], x, y, 4, batch)
    steps = max(1, round(SECONDS / ((time.perf_counter() - start) / 8 * members)))

    def fit() -> float:
        start = time.perf_counter()
        ensemble.fit(x, y, steps=steps, batch_size=batch, progress=False)
        return time.perf_counter() - start

    shortest, plan._SHORTEST = plan._SHORTEST, 60.0  # time for a full measurement
    first = fit()
    plan._SHORTEST = shortest
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(fit() / steps)
        start = time.perf_counter()
        train_loop(alone, x, y, steps, batch)
        theirs.append((time.perf_counter() - start) / steps)
    return ours, theirs, ensemble, first - min(ours) * steps


def rows(grid: list[tuple[int, int, int]] = GRID, repeats: int = REPEATS) -> list[dict]:
    """Measure the grid.

    Parameters
    ----------
    grid : list of tuple of int
        Members, width, batch size.
    repeats : int
        Interleaved repeats; minima are reported.

    Returns
    -------
    list of dict
        ``name``, ``ours_s`` and ``peer_s`` (seconds of an update of all members), ``ratio``
        (how many times faster), ``spread`` (median over minimum of ours), ``note`` (what was
        chosen).
    """
    table = []
    for members, width, batch in grid:
        ours, theirs, ensemble, chosen = measure(members, width, batch, repeats)
        ours.sort()
        table.append(
            {
                "name": f"{members} members, width {width}, batch {batch}",
                "ours_s": ours[0],
                "peer_s": min(theirs),
                "ratio": min(theirs) / ours[0],
                "spread": ours[len(ours) // 2] / ours[0],
                "note": f"{ensemble.mode_} of {ensemble.chunk_size_}, chosen in {chosen:.2f} s",
            }
        )
    return table


def crossover(batch: int = 1024, members: int = 8) -> list[dict]:
    """Find the width from which one whole stack is slower than the loop.

    Parameters
    ----------
    batch : int, default 1024
        Batch size.
    members : int, default 8
        Number of members.

    Returns
    -------
    list of dict
        ``width``, and how many times faster than the loop are the stack of all members
        (``stack``) and the ensemble's own loop (``loop``).
    """
    table = []
    for width in (32, 64, 128, 256, 512):
        row = {"width": width}
        for mode, name in (("stacked", "stack"), ("loop", "loop")):
            ours, theirs, _, _ = measure(members, width, batch, 3, mode)
            row[name] = min(theirs) / min(ours)
        table.append(row)
    return table


def main() -> None:
    """Print the grid and the crossover."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--no-crossover", action="store_true")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'what':36} {'ours [ms]':>10} {'loop [ms]':>10} {'ratio':>6} {'spread':>6}  note")
    for case in GRID:
        for row in rows([case], options.repeats):
            print(
                f"{row['name']:36} {1e3 * row['ours_s']:10.2f} {1e3 * row['peer_s']:10.2f} "
                f"{row['ratio']:6.2f} {row['spread']:6.2f}  {row['note']}",
                flush=True,
            )
    if options.no_crossover:
        return
    print("\n8 members, batch 1024: how many times faster than the loop")
    print(f"{'width':>6} {'one stack':>10} {'own loop':>10}")
    for row in crossover():
        print(f"{row['width']:6d} {row['stack']:10.2f} {row['loop']:10.2f}", flush=True)


if __name__ == "__main__":
    main()
