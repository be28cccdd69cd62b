"""Named random streams: the same name and seed always give the same draws."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from enough.runtime.validation import check_integer

__all__ = ["as_generator", "derive_seed", "named_generator"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive an independent 63-bit seed from a seed and a path of names.

    Parameters
    ----------
    seed : int
        The global seed, zero or more.
    *names : str or int
        What the stream is for, for example ``"weights", 3``.

    Returns
    -------
    int
        In ``[0, 2**63)``, the same on every machine and Python version.

    Raises
    ------
    ValueError
        If ``seed`` is not a whole number >= 0.
    """
    seed = check_integer(seed, "seed", minimum=0)
    text = "\x1f".join([str(seed), *(f"{type(n).__name__}:{n}" for n in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_generator(
    seed: int, *names: str | int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Make the random generator that belongs to a seed and a path of names.

    Two variants of an experiment that ask for the same name draw the same numbers, so
    their difference is free of the noise they share (paired streams).

    Parameters
    ----------
    seed : int
        The global seed, zero or more.
    *names : str or int
        What the stream is for.
    device : str or torch.device, default "cpu"
        Where the generator draws. Streams on different devices differ.

    Returns
    -------
    torch.Generator
        At the start of the stream.
    """
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def as_generator(
    generator: torch.Generator | int | None, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Turn a ``generator=`` argument into a generator.

    Parameters
    ----------
    generator : torch.Generator, int, or None
        A generator is used as it is and advances; an int seeds a new one; ``None`` seeds a
        new one from the operating system. Global random state is never read or changed.
    device : str or torch.device, default "cpu"
        Device of a new generator.

    Returns
    -------
    torch.Generator
        Ready to draw.

    Raises
    ------
    ValueError
        If ``generator`` is something else.
    """
    if isinstance(generator, torch.Generator):
        return generator
    fresh = torch.Generator(device=device)
    if generator is None:
        fresh.seed()
        return fresh
    if isinstance(generator, int | np.integer) and not isinstance(generator, bool):
        return fresh.manual_seed(check_integer(generator, "generator", minimum=0))
    raise ValueError(
        "generator: expected a torch.Generator, a seed (int) or None, "
        f"got {type(generator).__name__}"
    )
