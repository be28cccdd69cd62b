"""The registry of data files: what exists, where it is published, and what vouches for it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from enough.runtime.validation import check_choice

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checksum", "DataFile", "Entry", "describe", "find_entry", "read_registry", "registry"]

READERS = ("cifar10", "csv", "file", "idx", "json", "jsonl", "npz", "text")
_LENGTHS = {"md5": 32, "sha256": 64}


@dataclass(frozen=True)
class Checksum:
    """One published or computed digest of a file.

    Parameters
    ----------
    algorithm : {"sha256", "md5"}
        The hash function.
    of : {"file", "content"}
        Whether the digest is of the file as it stands or of what a gzip wrapper holds.
    value : str
        Lower-case hexadecimal digits.
    read_in : str
        The place where this digest was read, or how it was computed.

    Raises
    ------
    ValueError
        If a field is malformed.
    """

    algorithm: str
    of: str
    value: str
    read_in: str

    def __post_init__(self) -> None:
        check_choice(self.algorithm, "algorithm", _LENGTHS)
        check_choice(self.of, "of", ("file", "content"))
        if len(self.value) != _LENGTHS[self.algorithm] or set(self.value) - set("0123456789abcdef"):
            raise ValueError(
                f"value: expected {_LENGTHS[self.algorithm]} lower-case hexadecimal digits for "
                f"{self.algorithm}, got {self.value!r}"
            )
        if not self.read_in:
            raise ValueError("read_in: expected the place where the checksum was read, got ''")

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value} of the {self.of}"


@dataclass(frozen=True)
class DataFile:
    """One file of an entry.

    Parameters
    ----------
    filename : str
        Its name in the cache, with folders if an entry holds several of one name.
    checksums : tuple of Checksum
        Any one of them vouches for the file. Empty: the file is refused.
    urls : tuple of str, default ()
        Public addresses of the file, tried in order. Empty: a derived file without a public
        twin, found in a data folder only.
    aliases : tuple of str, default ()
        Other names in a data folder; a name with a slash must match the end of the path.
    generic : bool, default False
        Whether ``filename`` is too common to mean this file: a file of that name with another
        content is then passed over and not taken for a damaged copy.
    made : str, default ""
        How a derived file was made.
    split : str or None, default None
        The part of the data set it belongs to.
    role : str, default ""
        What it holds where an entry needs several kinds of file ("images", "labels").
    constants : mapping, default {}
        Columns to add to the table read from this file.

    Raises
    ------
    ValueError
        If a name could leave the cache folder, or a file has neither address nor origin.
    """

    filename: str
    checksums: tuple[Checksum, ...]
    urls: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    generic: bool = False
    made: str = ""
    split: str | None = None
    role: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = PurePosixPath(self.filename)
        if not self.filename or path.is_absolute() or ".." in path.parts or "\\" in self.filename:
            raise ValueError(f"filename: expected a relative path with '/', got {self.filename!r}")
        if not self.urls and not self.made:
            raise ValueError(
                f"{self.filename}: expected urls, or made for a derived file, got none"
            )


@dataclass(frozen=True)
class Entry:
    """One data set of the registry.

    Parameters
    ----------
    name : str
        What `load` takes.
    title : str
        One line on what it is.
    reader : str
        How its files are read: "idx", "cifar10", "csv", "json", "jsonl", "npz", "text" or
        "file" (the path alone).
    source : str
        Repository, commit and path, or the authors' page.
    license : str
        Terms, as far as the source states them.
    files : tuple of DataFile
        What it is made of.
    citation : str, default ""
        The paper to cite.
    columns : mapping of str to str, default {}
        Columns or arrays, their meaning and units.
    classes : tuple of str, default ()
        Names of the labels of an image set.
    note : str, default ""
        Anything else a reader should know.

    Raises
    ------
    ValueError
        If the reader is unknown or no file is given.
    """

    name: str
    title: str
    reader: str
    source: str
    license: str
    files: tuple[DataFile, ...]
    citation: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        check_choice(self.reader, "reader", READERS)
        if not self.files:
            raise ValueError(f"{self.name}: expected at least one file, got none")

    @property
    def splits(self) -> tuple[str, ...]:
        """The parts that `load` can be asked for, in the order of the registry."""
        return tuple(dict.fromkeys(f.split for f in self.files if f.split is not None))

    @property
    def derived(self) -> bool:
        """Whether some file has no public twin."""
        return any(not f.urls for f in self.files)


def read_registry(path: str | Path) -> dict[str, Entry]:
    """Read a registry file.

    Parameters
    ----------
    path : str or pathlib.Path
        A JSON file of the form of the package's ``registry.json``.

    Returns
    -------
    dict of str to Entry
        In the order of the file.

    Raises
    ------
    ValueError
        If an entry is malformed; the message names it.
    """
    return _parse(Path(path).read_text(encoding="utf-8"))


@functools.cache
def _package_registry() -> dict[str, Entry]:
    text = resources.files("enough.data").joinpath("registry.json").read_text(encoding="utf-8")
    return _parse(text)


def find_entry(name: str, registry: str | Path | None = None) -> tuple[Entry, tuple[DataFile, ...]]:
    """Look a name up.

    Parameters
    ----------
    name : str
        The name of a data set.
    registry : str, pathlib.Path, or None
        Another registry file than the package's.

    Returns
    -------
    entry : Entry
        The data set's entry.
    files : tuple of DataFile
        Every file of the registry.

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the names there are.
    """
    entries = _package_registry() if registry is None else read_registry(registry)
    if name not in entries:
        raise ValueError(f"name: expected one of {', '.join(sorted(entries))}, got {name!r}")
    return entries[name], tuple(f for entry in entries.values() for f in entry.files)


def registry() -> pd.DataFrame:
    """List the data sets that `load` knows.

    Returns
    -------
    pandas.DataFrame
        Indexed by name, with columns ``title``, ``splits``, ``files``, ``download`` (False
        for derived files, which a data folder must hold) and ``license``.
    """
    import pandas as pd

    rows = [
        {
            "name": entry.name,
            "title": entry.title,
            "splits": ", ".join(entry.splits),
            "files": len(entry.files),
            "download": not entry.derived,
            "license": entry.license,
        }
        for entry in _package_registry().values()
    ]
    return pd.DataFrame(rows).set_index("name")


def describe(name: str) -> str:
    """Tell all the registry knows about a data set.

    Parameters
    ----------
    name : str
        A name from `registry`.

    Returns
    -------
    str
        Several lines: title, source, license, citation, columns and units, and for each file
        its addresses, its checksums and the place where each checksum was read.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    entry, _ = find_entry(name)
    lines = [f"{entry.name}: {entry.title}", f"source: {entry.source}", f"license: {entry.license}"]
    for label, text in (("cite", entry.citation), ("note", entry.note)):
        if text:
            lines.append(f"{label}: {text}")
    if entry.splits:
        lines.append(f"splits: {', '.join(entry.splits)}")
    if entry.columns:
        lines.append("columns:")
        lines += [f"  {column}: {meaning}" for column, meaning in entry.columns.items()]
    lines.append("files:")
    for file in entry.files:
        lines.append(f"  {file.filename}")
        lines += [f"    url: {url}" for url in file.urls]
        if file.made:
            lines.append(f"    derived: {file.made}")
        lines += [f"    {checksum}; {checksum.read_in}" for checksum in file.checksums]
    return "\n".join(lines)


def _parse(text: str) -> dict[str, Entry]:
    raw = json.loads(text)
    if not isinstance(raw, dict) or raw.get("format") != 1 or "datasets" not in raw:
        raise ValueError("registry: expected a JSON object with format 1 and datasets")
    entries = {}
    for name, fields in raw["datasets"].items():
        try:
            files = tuple(
                DataFile(
                    **{
                        **given,
                        "checksums": tuple(Checksum(**c) for c in given["checksums"]),
                        "urls": tuple(given.get("urls", ())),
                        "aliases": tuple(given.get("aliases", ())),
                    }
                )
                for given in fields["files"]
            )
            rest = {**fields, "files": files, "classes": tuple(fields.get("classes", ()))}
            entries[name] = Entry(name=name, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"registry: entry {name!r} is malformed: {error}") from error
    return entries
