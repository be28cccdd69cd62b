"""``enough record``: chapters at a larger scale on this machine, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from enough.book.pairs import Pair
from enough.book.provenance import outdated_tables
from enough.runtime import device_name, resolve_device
from enough.runtime.recording import read_tables

__all__ = ["Outcome", "accelerator_for", "is_recorded", "run_records"]


class Outcome(NamedTuple):
    """What became of one chapter at one preset.

    Parameters
    ----------
    name : str
        The chapter, as ``"part/chapter"``.
    preset : str
        The scale.
    state : str
        ``"recorded"``, ``"in step"`` (a table of the same code and device was there) or
        ``"failed"``.
    seconds : float
        How long it ran.
    """

    name: str
    preset: str
    state: str
    seconds: float


def accelerator_for(presets: Sequence[str], device: str | None) -> str:
    """Choose the device of recorded runs, and refuse to run large presets on a CPU unasked.

    Parameters
    ----------
    presets : sequence of str
        The scales.
    device : str or None
        As in `enough.runtime.resolve_device`; the best one here when ``None``.

    Returns
    -------
    str
        The device.

    Raises
    ------
    ValueError
        If the device cannot be used, or a preset other than ``"cpu"`` finds no accelerator and
        ``device`` did not name the CPU.
    """
    found = resolve_device(device)
    large = [preset for preset in presets if preset != "cpu"]
    if device is None and found.type == "cpu" and large:
        raise ValueError(
            f"--preset: {' and '.join(large)} expect an accelerator, and none was found here; "
            "--device cpu (DEVICE=cpu) runs them anyway, for hours"
        )
    return str(found)


def is_recorded(name: str, preset: str, device: str, results: Path | None = None) -> bool:
    """Say whether a chapter has a table of this preset, this kind of device and this code.

    Parameters
    ----------
    name : str
        The chapter, as ``"part/chapter"``.
    preset : str
        The scale.
    device : str
        Where it would run.
    results : pathlib.Path, optional
        Folder of recorded tables, by default that of the checkout.

    Returns
    -------
    bool
        True if nothing would change but the seconds.
    """
    model = device_name(resolve_device(device)).partition(" (")[2].removesuffix(")")
    old = {(table.preset, table.device) for table in outdated_tables(name, results)}
    return any(
        table.preset == preset
        and table.provenance["device_name"] == model
        and (table.preset, table.device) not in old
        for table in read_tables(name, root=results)
    )


def run_records(
    root: Path,
    chapters: Sequence[Pair],
    presets: Sequence[str],
    *,
    device: str | None = None,
    again: bool = False,
) -> list[Outcome]:
    """Run the twins of chapters with recording switched on.

    A chapter that fails holds up no other, and what was recorded stays when the run is
    interrupted: the next one goes on with the rest.

    Parameters
    ----------
    root : pathlib.Path
        The repository.
    chapters : sequence of Pair
        The chapters.
    presets : sequence of str
        Scales, the outer loop: all chapters at the first one, then at the next.
    device : str, optional
        As in `accelerator_for`.
    again : bool, default False
        Run also what is recorded already.

    Returns
    -------
    list of Outcome
        In the order of the runs.

    Raises
    ------
    ValueError
        As `accelerator_for`.
    """
    place = accelerator_for(presets, device)
    outcomes = []
    for preset in presets:
        for chapter in chapters:
            if not again and is_recorded(chapter.name, preset, place):
                outcomes.append(Outcome(chapter.name, preset, "in step", 0.0))
            else:
                outcomes.append(_record(root, chapter, preset, place))
            last = outcomes[-1]
            print(f"{last.state}: {last.name}, {preset}, {last.seconds:.0f} s", flush=True)
    return outcomes


def _record(root: Path, chapter: Pair, preset: str, device: str) -> Outcome:
    environment = os.environ | {
        "ENOUGH_PRESET": preset, "ENOUGH_DEVICE": device, "ENOUGH_RECORD": "1",
    }  # fmt: skip
    before = _stamps(chapter.name)
    began = time.monotonic()
    code = subprocess.run(
        [sys.executable, str(chapter.twin)], cwd=root, env=environment, check=False
    ).returncode
    if code == 0 and _stamps(chapter.name) == before:
        print(f"{chapter.name}: it ran and wrote no table", file=sys.stderr)
        code = 1
    seconds = time.monotonic() - began
    return Outcome(chapter.name, preset, "failed" if code else "recorded", seconds)


def _stamps(name: str) -> Mapping[tuple[str, str], tuple[str, float]]:
    """Tell one writing of a table from the next."""
    return {
        (table.preset, table.device): (table.provenance["date"], table.provenance["seconds"])
        for table in read_tables(name)
    }
