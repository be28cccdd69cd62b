"""Where a page comes from: the commit, the versions, and recorded tables that code outgrew."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from enough.runtime import recording

__all__ = [
    "VERSIONS_FILE",
    "commit_of",
    "executed_versions",
    "outdated_tables",
    "present_versions",
    "write_versions",
]

#: Stands beside the executed notebooks and says which versions executed them.
VERSIONS_FILE = "versions.json"
_PACKAGES = ("torch", "numpy", "scipy", "matplotlib")


def commit_of(root: Path) -> tuple[str, bool]:
    """Ask git which commit a checkout holds.

    Parameters
    ----------
    root : pathlib.Path
        The repository.

    Returns
    -------
    commit : str
        Its hash in hexadecimal, or what ``ENOUGH_COMMIT`` says; empty outside a checkout.
    changed : bool
        Whether files differ from that commit.
    """
    named = os.environ.get("ENOUGH_COMMIT", "").strip()
    if named:
        return named, False
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return "", False
    return commit.strip(), bool(_git(root, "status", "--porcelain"))


def present_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that chapters compute with.

    Returns
    -------
    dict from str to str
        Packages that are absent are left out.
    """
    versions = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def write_versions(folder: Path) -> None:
    """Write down, beside executed notebooks, the versions that execute them.

    Parameters
    ----------
    folder : pathlib.Path
        The execution cache.
    """
    text = json.dumps(present_versions(), indent=1) + "\n"
    (folder / VERSIONS_FILE).write_text(text, encoding="utf-8")


def executed_versions(folder: Path) -> dict[str, str]:
    """Read the versions that executed the notebooks of a cache.

    Parameters
    ----------
    folder : pathlib.Path
        The execution cache.

    Returns
    -------
    dict from str to str
        Empty when they were not written down.
    """
    path = folder / VERSIONS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def outdated_tables(chapter: str, root: Path | None = None) -> list[recording.Recorded]:
    """Find the recorded tables of a chapter that older code made.

    Parameters
    ----------
    chapter : str
        ``"<part>/<chapter>"``.
    root : pathlib.Path, optional
        Folder of recorded tables, by default that of the checkout.

    Returns
    -------
    list of Recorded
        Those whose sources have changed since, or are gone.
    """
    tables = recording.read_tables(chapter, root=root)
    return [table for table in tables if not _is_current(table.provenance["sources"])]


def _is_current(sources: dict) -> bool:
    try:
        return recording.fingerprint(sources["modules"]) == sources["sha256"]
    except ValueError:  # a module that is gone
        return False


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return ""
    return done.stdout if done.returncode == 0 else ""
