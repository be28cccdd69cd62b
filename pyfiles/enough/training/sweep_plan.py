"""Sweeps that chapters and the command line run by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enough.runtime.run import PRESETS
from enough.runtime.validation import check_choice, check_integer
from enough.training.sweep import Sweep

__all__ = ["Grid", "SweepPlan"]

Grid = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SweepPlan:
    """What a named sweep computes: its function, its grid at each preset, its chapter.

    Parameters
    ----------
    function : callable
        Function of one point, at the top level of a module of the package, as in `Sweep`.
    grid : callable
        Takes preset, seed and device, and returns a grid as in `Sweep`.
    chapter : str
        The chapter whose experiment it is, as ``"part/chapter"``.
    summary : str
        What it measures, in one sentence.
    version : str, default "1"
        As in `Sweep`.
    """

    function: Callable[..., Mapping[str, Any]]
    grid: Callable[[str, int, str], Grid]
    chapter: str
    summary: str
    version: str = "1"

    def sweep(
        self,
        store: str | os.PathLike[str] | None = None,
        *,
        preset: str = "cpu",
        seed: int = 0,
        device: str = "cpu",
    ) -> Sweep:
        """Make the sweep; its `Sweep.run` takes any executor.

        Parameters
        ----------
        store : str, os.PathLike or None, default None
            File with the results; ``None`` keeps them in memory.
        preset : {"cpu", "gpu", "full"}, default "cpu"
            The scale.
        seed : int, default 0
            The first seed of its points, zero or more.
        device : str, default "cpu"
            Where the points compute, handed on to them.

        Returns
        -------
        Sweep
            With the points of the preset; points that ``store`` holds are not computed again.

        Raises
        ------
        ValueError
            If an argument is not as described.
        SweepStoreError
            If the store cannot be used.
        """
        check_choice(preset, "preset", PRESETS)
        seed = check_integer(seed, "seed", minimum=0)
        return Sweep(self.function, self.grid(preset, seed, device), store, version=self.version)
