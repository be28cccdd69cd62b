"""The first call of a chapter: device, preset and seed in one object."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

import enough
from enough.runtime.device import compute_dtype, device_name, resolve_device
from enough.runtime.memory import peak_memory
from enough.runtime.randomness import named_generator
from enough.runtime.validation import check_choice, check_integer

__all__ = ["PRESETS", "Run", "current_run", "start"]

#: The three scales of every chapter, from the smallest to the largest.
PRESETS = ("cpu", "gpu", "full")


@dataclass(frozen=True)
class Run:
    """Where a chapter runs, at which scale, and from which seed.

    Made by `start`.

    Parameters
    ----------
    device : torch.device
        Where to compute.
    preset : {"cpu", "gpu", "full"}
        The scale.
    seed : int
        The global seed.
    started : float
        Clock reading at the start, in seconds; only differences mean anything.
    """

    device: torch.device
    preset: str
    seed: int
    started: float = field(default_factory=time.monotonic, compare=False, repr=False)

    def generator(
        self, name: str | int, *more: str | int, device: str | torch.device | None = None
    ) -> torch.Generator:
        """Make the random stream that belongs to the run's seed and a name.

        Parameters
        ----------
        name : str or int
            What the stream is for. Variants of an experiment that ask for the same name draw
            the same numbers; streams of different names are independent.
        *more : str or int
            The rest of the path of names, for example the index of a repetition.
        device : str or torch.device, optional
            Where the generator draws. The default is the CPU, not the run's device, so that
            the draws are equal on every machine; move the result.

        Returns
        -------
        torch.Generator
            Fresh at every call: the same name starts the same stream again.

        Raises
        ------
        DeviceUnavailableError
            If the device is absent.
        """
        where = resolve_device("cpu" if device is None else device)
        return named_generator(self.seed, name, *more, device=where)

    def pick(
        self,
        *,
        cpu: Mapping[str, Any] | None = None,
        gpu: Mapping[str, Any] | None = None,
        full: Mapping[str, Any] | None = None,
    ) -> SimpleNamespace:
        """Return the dials of the run's preset.

        Parameters
        ----------
        cpu, gpu, full : mapping from str to anything
            The dials of each preset. A preset may be left out, but is then refused when the
            run asks for it.

        Returns
        -------
        types.SimpleNamespace
            One attribute a dial.

        Raises
        ------
        ValueError
            If the run's preset was left out, or the presets given do not name the same dials.
        """
        given = {
            preset: dials
            for preset, dials in zip(PRESETS, (cpu, gpu, full), strict=True)
            if dials is not None
        }
        for preset, dials in given.items():
            if not isinstance(dials, Mapping):
                raise ValueError(
                    f"{preset}: expected a mapping of dials, got {type(dials).__name__}"
                )
        every = {dial: None for dials in given.values() for dial in dials}  # a set in order
        for preset, dials in given.items():
            lacking = [repr(dial) for dial in every if dial not in dials]
            if lacking:
                raise ValueError(
                    f"{preset}: expected the same dials as the other presets, "
                    f"{', '.join(lacking)} missing"
                )
        if self.preset not in given:
            raise ValueError(
                f"{self.preset}: this run's preset has no dials here, "
                f"only {', '.join(given) or 'none'} given"
            )
        return SimpleNamespace(**given[self.preset])

    def report(self) -> str:
        """Say in one line what this run runs on.

        Returns
        -------
        str
            Device, preset, seed, versions, CPU threads, the type of the training arithmetic,
            and the peak memory of the process so far, the GPU's included.
        """
        peak = peak_memory(self.device)
        parts = [
            device_name(self.device),
            f"preset {self.preset}",
            f"seed {self.seed}",
            f"Python {platform.python_version()}",
            f"torch {torch.__version__}",
            f"enough {enough.__version__}",
            f"{torch.get_num_threads()} threads",
            str(compute_dtype(self.device)).removeprefix("torch."),
            f"host peak {peak.host / 2**30:.2f} GiB",
        ]
        if peak.device is not None:
            parts.append(f"device peak {peak.device / 2**30:.2f} GiB")
        return ", ".join(parts)


def start(
    seed: int = 0, preset: str | None = None, device: str | torch.device | None = None
) -> Run:
    """Begin a chapter: settle device, preset and seed.

    Parameters
    ----------
    seed : int, default 0
        The global seed, zero or more. The environment variable ``ENOUGH_SEED``, when set,
        takes its place: that is how a chapter is run again at other seeds without an edit.
    preset : {"cpu", "gpu", "full"}, optional
        The scale. Left out, the environment variable ``ENOUGH_PRESET``; unset too, it follows
        the device: ``"gpu"`` on CUDA, else ``"cpu"``.
    device : str or torch.device, optional
        Where to compute. Left out, the environment variable ``ENOUGH_DEVICE``; unset too, CUDA
        if present, else the CPU. MPS is used on request only.

    Returns
    -------
    Run
        The settled choice. No global state changes: no seed is set, no default device.

    Raises
    ------
    ValueError
        If the seed is not a whole number >= 0, the preset is unknown, or the device is absent
        (`DeviceUnavailableError`). The message names the argument or the variable and lists
        the choices.

    Examples
    --------
    >>> run = start(seed=0, preset="cpu", device="cpu")
    >>> run.pick(cpu=dict(seeds=8), gpu=dict(seeds=64), full=dict(seeds=256)).seeds
    8
    """
    seed = check_integer(seed, "seed", minimum=0)
    replacement = os.environ.get("ENOUGH_SEED", "").strip()
    if replacement:
        if not (replacement.isascii() and replacement.isdigit()):
            raise ValueError(f"ENOUGH_SEED: expected a whole number >= 0, got {replacement!r}")
        seed = int(replacement)

    place = resolve_device(device)

    label = "preset"
    if preset is None and os.environ.get("ENOUGH_PRESET", "").strip():
        label, preset = "ENOUGH_PRESET", os.environ["ENOUGH_PRESET"].strip()
    if preset is None:
        preset = "gpu" if place.type == "cuda" else "cpu"
    global _current
    _current = Run(device=place, preset=check_choice(preset, label, PRESETS), seed=seed)
    return _current


_current: Run | None = None


def current_run() -> Run | None:
    """Return the run that `start` began last in this process.

    Returns
    -------
    Run or None
        ``None`` before the first call of `start`. Claims use it to say where they were
        measured; nothing else should depend on it.
    """
    return _current
