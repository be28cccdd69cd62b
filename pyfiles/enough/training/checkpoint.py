"""Checkpoints: tensors and plain numbers, written whole or not at all, read without pickle."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a checkpoint so that the file is the old one or the new one, never half of it.

    Parameters
    ----------
    path : str or path-like
        The file. Its folder is created when absent.
    state : dict
        Tensors, numbers, strings, ``None``, and lists, tuples and dicts of them.

    Notes
    -----
    The bytes go to a temporary file in the same folder, reach the disk, and replace the old
    file in one step, so a process killed at any moment leaves a checkpoint that loads.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, refusing everything but tensors and plain values.

    Parameters
    ----------
    path : str or path-like
        A file that `save_checkpoint` wrote.

    Returns
    -------
    dict
        What was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds anything that would run code when loaded.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"checkpoint: expected a file written by save_checkpoint, could not read {path} "
            f"({reason}); delete it to start again"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint: expected a dict in {path}, got {type(state).__name__}")
    return state
