"""Random streams of a training: the order of the data, and what layers draw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


@contextlib.contextmanager
def private_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global streams (dropout draws from them) and give them back after."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


class BatchOrder:
    """Endless batches of indices: every epoch visits each sample once, in a new order.

    The last batch of an epoch is smaller where the batch size does not divide the number of
    samples. Several generators give one row each, one order a member. A batch as large as the
    data is the data in its own order, and draws nothing.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], n_samples: int, batch_size: int
    ) -> None:
        self.generators = list(generators)
        self.n_samples, self.batch_size = n_samples, batch_size
        self.whole = batch_size >= n_samples
        self._orders = torch.empty(0)
        self._position = n_samples  # the next epoch starts at the first call
        self._epoch_states: list[Tensor] = []

    def next(self) -> Tensor:
        """Return the next indices, shape (members, batch)."""
        if self._position >= self.n_samples:
            self._epoch_states = [g.get_state() for g in self.generators]
            self._draw()
            self._position = 0
        batch = self._orders[:, self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return batch

    def select(self, keep: Tensor) -> None:
        """Go on with some of the members only."""
        self.generators = [self.generators[i] for i in keep.tolist()]
        self._orders = self._orders[keep]

    def state(self) -> dict[str, Tensor | int]:
        """Return what `restore` needs to go on from here."""
        state: dict[str, Tensor | int] = {"position": self._position}
        for i, epoch in enumerate(self._epoch_states):
            state[f"generator {i}"] = epoch
        return state

    def restore(self, state: dict[str, Tensor | int]) -> None:
        """Go on from what `state` returned."""
        if "generator 0" in state:
            self._epoch_states = [state[f"generator {i}"] for i in range(len(self.generators))]
            for generator, epoch in zip(self.generators, self._epoch_states, strict=True):
                generator.set_state(epoch)
            self._draw()
        self._position = int(state["position"])

    def _draw(self) -> None:
        if self.whole:
            self._orders = torch.arange(self.n_samples).expand(len(self.generators), -1)
            return
        orders = [
            torch.randperm(self.n_samples, generator=g, device=g.device).cpu()
            for g in self.generators
        ]
        self._orders = torch.stack(orders)
