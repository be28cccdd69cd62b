"""How much faster is an ensemble trained as one batch than a Python loop over its members?

Multilayer perceptrons 32-W-W-1 with ReLU, squared error, Adam, every member with its own order of
the data. The peer is the loop most people write: for each member, for each batch, forward,
``backward`` and ``torch.optim.Adam``. Both sides train all members for the same number of updates
from the same data, and the time of one update of all members is reported. What the choice of the
mode costs is paid before: it is made once a process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from enough.training import Ensemble, plan
from side_by_side import as_row, interleave, main

GRID = [(e, w, b) for w in (64, 256) for b in (64, 1024) for e in (8, 32, 128)]
INPUTS, SAMPLES = 32, 2048
SECONDS = 0.2  # of the loop, for one measurement


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


def grouped(members: int, width: int, batch: int) -> Callable[[], None]:
    """Make one update of all members as grouped convolutions of length one, Adam by foreach."""
    layers = nn.Sequential(
        nn.Conv1d(members * INPUTS, members * width, 1, groups=members), nn.ReLU(),
        nn.Conv1d(members * width, members * width, 1, groups=members), nn.ReLU(),
        nn.Conv1d(members * width, members, 1, groups=members),
    )  # fmt: skip
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    x, y = torch.randn(members * INPUTS, batch), torch.randn(members, batch)

    def update() -> None:
        optimizer.zero_grad()
        (layers(x) - y).square().mean(-1).sum().backward()
        optimizer.step()

    return update


def by_vmap(members: int, width: int, batch: int) -> Callable[[], None]:
    """Make one update of all members by ``torch.func.vmap`` and one Adam over the stacks."""
    with torch.random.fork_rng():
        modules = [build(width)(torch.Generator()) for _ in range(members)]
    stacked, buffers = torch.func.stack_module_state(modules)
    optimizer = torch.optim.Adam(list(stacked.values()), lr=1e-3)
    x, y = torch.randn(members, batch, INPUTS), torch.randn(members, batch, 1)

    def loss(parameters: dict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(modules[0], (parameters, buffers), (x,))
        return F.mse_loss(found, y)

    def update() -> None:
        optimizer.zero_grad()
        torch.func.vmap(loss)(stacked, x, y).sum().backward()
        optimizer.step()

    return update


def measure(
    members: int, width: int, batch: int, rounds: int, mode: str = "auto", seconds: float = SECONDS
) -> tuple[dict[str, list[float]], Ensemble, float]:
    """Return seconds of an update by way of doing it, the ensemble, and seconds to choose."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = x[:, :1].sin()
    ensemble = Ensemble(build(width), members, seed=0, mode=mode)
    alone = [ensemble.member(e).train() for e in range(members)]
    train_loop(alone[:2], x, y, 2, batch)
    start = time.perf_counter()
    train_loop(alone[:2], x, y, 4, batch)
    steps = max(1, round(seconds / ((time.perf_counter() - start) / 8 * members)))

    def fit() -> None:
        ensemble.fit(x, y, steps=steps, batch_size=batch, progress=False)

    shortest, plan._SHORTEST = plan._SHORTEST, 60.0  # time for a full measurement
    start = time.perf_counter()
    fit()
    first = time.perf_counter() - start
    plan._SHORTEST = shortest
    ways = {"vmap": by_vmap, "grouped convolution": grouped}
    updates = {name: make(members, width, batch) for name, make in ways.items()}

    def several(update: Callable[[], None]) -> Callable[[], None]:
        return lambda: [update() for _ in range(steps)]

    calls = {"ours": fit, "loop": lambda: train_loop(alone, x, y, steps, batch)}
    if mode == "auto":
        stack = Ensemble(build(width), members, seed=0, mode="stacked")
        calls["batched products"] = lambda: stack.fit(
            x, y, steps=steps, batch_size=batch, progress=False
        )
    calls |= {name: several(update) for name, update in updates.items()}
    taken = interleave(calls, rounds)
    each = {name: [s / steps for s in values] for name, values in taken.items()}
    return each, ensemble, max(0.0, first - min(taken["ours"]))


WHY = {
    "batched products": "the ensemble measures before it chooses; the stack is what it would take "
    "without looking, all members in one product a layer",
    "loop": "one batched product serves all members, which saves calls; with wide layers or "
    "large batches the calls no longer count and the ensemble runs its own loop",
    "vmap": "hand-stacked products and one fused optimizer step, while the peer maps over members "
    "one operation at a time and shuffles no data",
    "grouped convolution": "batched products, while the peer's convolution runs its groups one "
    "after the other and shuffles no data",
}


def rows(quick: bool = False) -> list[dict]:
    """Measure members by width by batch size, and the stack beside the loop where they cross.

    Parameters
    ----------
    quick : bool, default False
        One small case, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes; seconds are those of one update of all members.
    """
    grid, rounds, seconds = ([(2, 8, 64)], 2, 0.005) if quick else (GRID, 4, SECONDS)
    table = []
    for members, width, batch in grid:
        taken, ensemble, chosen = measure(members, width, batch, rounds, seconds=seconds)
        note = f"{ensemble.mode_} of {ensemble.chunk_size_}, chosen in {chosen:.2f} s"
        for peer in ("loop", "batched products", "vmap", "grouped convolution"):
            table.append(
                as_row(
                    f"{members} members, width {width}, batch {batch}",
                    taken["ours"],
                    peer,
                    taken[peer],
                    why=WHY[peer],
                    note=note,
                )
            )
    for width in () if quick else (32, 64, 128, 256, 512):
        taken, _, _ = measure(8, width, 1024, 3, "stacked")
        table.append(
            as_row(
                f"crossover: one stack of 8 members, width {width}, batch 1024",
                taken["ours"],
                "loop",
                taken["loop"],
                why="the whole stack is forced here, to show from which width on the loop is "
                "faster because each member's tensors still fit the cache",
                note="mode='stacked'",
            )
        )
    return table


if __name__ == "__main__":
    main(rows)
