"""What all tests share: the repository, and the rules for comparing claim cells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Notebooks ask the shell for `python`: it must be the one that runs the tests.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# Tests run small and on the CPU, whatever machine they find, unless the caller says otherwise.
os.environ.setdefault("ENOUGH_PRESET", "cpu")
os.environ.setdefault("ENOUGH_DEVICE", "cpu")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


def _needs(tags):
    return [tag.removeprefix("needs-") for tag in tags if tag.startswith("needs-")]


def pytest_collection_modifyitems(config, items):
    """Lift the comparison of a claim cell whose real table the loader lacks."""
    lifted = config.stash.setdefault(_LIFTED, {})
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None or not item.options.get("check"):
            continue
        for name in _needs(cell.metadata.get("tags", [])):
            from enough.data import available

            if not available(name):
                item.options["check"] = False
                lifted[item.nodeid] = f"the data loader lacks {name!r}"


def pytest_terminal_summary(terminalreporter, config):
    """Say how many comparisons were lifted, and why."""
    lifted = config.stash.get(_LIFTED, {})
    if lifted:
        terminalreporter.section("claim cells whose comparison was lifted")
        for node, reason in sorted(lifted.items()):
            terminalreporter.line(f"{node}: {reason}")
        terminalreporter.line(f"{len(lifted)} in all")


_LIFTED = pytest.StashKey[dict]()
