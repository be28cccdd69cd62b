"""Small tables recorded on bigger machines, each with where it came from.

A table is a CSV file that any program reads, beside a JSON file that says which code, device,
versions, command and seed made it, and holds the table's checksum. Neither names a host, a
user, or a folder of the machine.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import hashlib
import io
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import enough
from enough.runtime.device import device_name, resolve_device
from enough.runtime.run import Run
from enough.runtime.validation import check_integer, check_number

__all__ = [
    "Recorded",
    "RecordingError",
    "fingerprint",
    "plain",
    "read_tables",
    "record",
    "results_folder",
    "write_table",
]

FORMAT = 1
FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "chapter": str,
    "preset": str,
    "device": str,
    "device_name": str,
    "driver": (str, type(None)),
    "seed": int,
    "command": str,
    "seconds": (int, float),
    "date": str,
    "commit": (str, type(None)),
    "dirty": (bool, type(None)),
    "versions": dict,
    "sources": dict,
    "rows": int,
    "columns": dict,
    "sha256": str,
}
ABSOLUTE_PATH = re.compile(r"(?<![\w./)\]-])/\w|\b[A-Za-z]:\\|file://")
# Names that many machines share and that are words of the trade as well.
COMMON_NAMES = {"admin", "docker", "jovyan", "localhost", "root", "runner", "ubuntu", "user"}


class RecordingError(ValueError):
    """A recorded table that cannot be trusted: altered, incomplete, or of unknown origin."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """One recorded table.

    Parameters
    ----------
    table : pandas.DataFrame
        The table, floats exactly as they were.
    provenance : dict
        Where it came from: ``commit``, ``dirty``, ``date``, ``device_name``, ``driver``,
        ``versions``, ``command``, ``seconds``, ``seed``, ``sources`` and more.
    preset : str
        The preset it was run at.
    device : str
        Short name of the device, as in the file's name.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]
    preset: str
    device: str


def results_folder() -> Path | None:
    """Find the folder of recorded tables.

    Returns
    -------
    pathlib.Path or None
        The environment variable ``ENOUGH_RESULTS`` when set, else ``results`` in the checkout
        that holds this package, else ``None``.
    """
    given = os.environ.get("ENOUGH_RESULTS", "").strip()
    if given:
        return Path(given)
    checkout = _checkout()
    return None if checkout is None else checkout / "results"


def write_table(
    chapter: str,
    table: pd.DataFrame | Sequence[Mapping[str, Any]],
    *,
    preset: str,
    device: str | torch.device | None,
    seed: int,
    command: str | Sequence[str],
    seconds: float,
    sources: Iterable[str] = ("enough",),
    label: str | None = None,
    commit: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a table and its provenance, each whole or not at all.

    Parameters
    ----------
    chapter : str
        Whose table it is, as ``"part/chapter"``.
    table : pandas.DataFrame or sequence of mappings
        Columns of numbers, booleans or strings; other cells (lists, dicts, ``None``) are kept
        as JSON. The index is not kept.
    preset : str
        The scale of the run, for example ``"full"`` or ``"cpu-long"``.
    device : str, torch.device or None
        Where it ran, as in `enough.runtime.resolve_device`.
    seed : int
        The seed of the run, zero or more.
    command : str or sequence of str
        What repeats the run, without paths of this machine.
    seconds : float
        How long the run took.
    sources : iterable of str, default ("enough",)
        Modules that the table measures; their fingerprint is written down.
    label : str, optional
        Short name of the device for the file's name, by default made from the device's name:
        ``"h200"``, ``"t4"``, ``"cpu"``.
    commit : str, optional
        The commit the code is of, where the run has no checkout; by default git is asked.
    root : str or os.PathLike, optional
        Folder of recorded tables, by default `results_folder`.

    Returns
    -------
    pathlib.Path
        The CSV file ``<root>/<chapter>/<preset>-<device>.csv``; the JSON file is beside it.
        Both replace older ones.

    Raises
    ------
    ValueError
        If an argument is not as described, a column cannot be kept, a text holds an absolute
        path or this machine's host or user name, or there is no folder to write to.
    """
    folder = _chapter_folder(chapter, root)
    if folder is None:
        raise ValueError(
            "root: expected a folder, or ENOUGH_RESULTS, or a package that lies in its checkout"
        )
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(list(table))
    columns, content = _to_csv(frame)
    place = resolve_device(device)
    model = device_name(place).partition(" (")[2].removesuffix(")")
    if label is None:
        label = _short_name(model) if place.type == "cuda" else place.type
    _check_slug(preset, "preset")
    _check_slug(label, "label")
    sources = sorted(sources)
    dirty = None
    if commit is None:
        commit, dirty = _commit()
    provenance = {
        "format": FORMAT,
        "chapter": chapter,
        "preset": preset,
        "device": label,
        "device_name": model,
        "driver": _driver() if place.type == "cuda" else None,
        "seed": check_integer(seed, "seed", minimum=0),
        "command": command if isinstance(command, str) else shlex.join(command),
        "seconds": check_number(seconds, "seconds", minimum=0.0),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": dirty,
        "versions": _versions(place),
        "sources": {"modules": sources, "sha256": fingerprint(sources)},
        "rows": len(frame),
        "columns": columns,
        "sha256": _sha256(content),
    }
    _check_anonymous(provenance, "provenance")
    _check_anonymous(content.decode(), "table")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{preset}-{label}.csv"
    _replace(path, content)
    _replace(path.with_suffix(".json"), (json.dumps(provenance, indent=2) + "\n").encode())
    return path


def record(
    run: Run, chapter: str, table: pd.DataFrame | Sequence[Mapping[str, Any]]
) -> Path | None:
    """Keep a chapter's table, when this run is meant to be kept.

    Parameters
    ----------
    run : Run
        The chapter's run: its preset, device, seed and clock.
    chapter : str
        Whose table it is, as ``"part/chapter"``.
    table : pandas.DataFrame or sequence of mappings
        As in `write_table`.

    Returns
    -------
    pathlib.Path or None
        The file written; ``None`` unless the environment variable ``ENOUGH_RECORD`` is set to
        something other than 0, as ``make record`` does. ``ENOUGH_COMMIT`` names the commit
        where the run has no checkout.

    Raises
    ------
    ValueError
        As in `write_table`.
    """
    if os.environ.get("ENOUGH_RECORD", "").strip() in ("", "0"):
        return None
    return write_table(
        chapter,
        table,
        preset=run.preset,
        device=run.device,
        seed=run.seed,
        command=f"make record NAME={chapter} PRESET={run.preset}",
        seconds=time.monotonic() - run.started,
        sources=_measured_by(chapter),
        commit=os.environ.get("ENOUGH_COMMIT") or None,
    )


def _measured_by(chapter: str) -> list[str]:
    """Name what a chapter's numbers come from: its topic, where there is one, and the core."""
    topic = chapter.partition("/")[0]
    package = Path(enough.__file__).parent
    core = ("training", "models", "data", "kernels")
    return [f"enough.{room}" for room in (topic, *core) if (package / room).is_dir()]


def read_tables(chapter: str, *, root: str | os.PathLike[str] | None = None) -> list[Recorded]:
    """Read the recorded tables of a chapter.

    Parameters
    ----------
    chapter : str
        Whose tables, as ``"part/chapter"``.
    root : str or os.PathLike, optional
        Folder of recorded tables, by default `results_folder`.

    Returns
    -------
    list of Recorded
        Sorted by file name; empty when there are none.

    Raises
    ------
    RecordingError
        If a table was altered or cut short, or it or its provenance is missing or cannot be
        read. The message names the file.
    ValueError
        If ``chapter`` is not a name of that form.

    Examples
    --------
    >>> for recorded in read_tables("overparameterization/random_features"):
    ...     print(recorded.preset, recorded.device, len(recorded.table))  # doctest: +SKIP
    """
    folder = _chapter_folder(chapter, root)
    if folder is None or not folder.is_dir():
        return []
    files = [f for f in folder.iterdir() if not f.name.startswith(".")]
    stems = {f.with_suffix("") for f in files if f.suffix in (".csv", ".json")}
    return [_read(stem, chapter) for stem in sorted(stems)]


def fingerprint(modules: Iterable[str]) -> str:
    """Hash the Python sources of parts of this package.

    Parameters
    ----------
    modules : iterable of str
        Dotted names, for example ``"enough.calibration"``; a package counts with all below it.

    Returns
    -------
    str
        SHA-256 in hexadecimal, over the files' names and contents; the same for either
        convention of line ends.

    Raises
    ------
    ValueError
        If a name is not one of a module of this package.
    """
    package = Path(enough.__file__).parent
    files: set[Path] = set()
    for module in modules:
        first, *rest = str(module).split(".")
        path = package.joinpath(*rest)
        found = set(path.rglob("*.py")) if path.is_dir() else {path.with_suffix(".py")}
        if first != "enough" or not found or not all(f.is_file() for f in found):
            raise ValueError(f"modules: expected modules of enough, got {module!r}")
        files |= found
    digest = hashlib.sha256()
    for name, file in sorted((f.relative_to(package).as_posix(), f) for f in files):
        digest.update(f"{name}\0{_sha256(file.read_bytes())}\n".encode())
    return digest.hexdigest()


def plain(value: Any, name: str) -> Any:
    """Turn a value into numbers, strings, booleans, ``None``, and lists and dicts of them.

    Parameters
    ----------
    value : object
        Besides these, numpy and torch scalars, which become numbers, and arrays, tensors and
        tuples, which become lists.
    name : str
        What the value is, for the message.

    Returns
    -------
    object
        A value that JSON can hold.

    Raises
    ------
    ValueError
        If something in ``value`` is of another type, or a key of a dict is no string.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().tolist()
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"{name}: expected names that are strings, got {key!r}")
        return {str.__str__(k): plain(v, f"{name}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{name}[{i}]") for i, v in enumerate(value)]
    raise ValueError(
        f"{name}: expected numbers, strings, booleans, None, arrays, or lists and dicts of them,"
        f" got {type(value).__name__}"
    )


def _to_csv(table: pd.DataFrame) -> tuple[dict[str, str], bytes]:
    """Write every cell so that it can be read back exactly; return the columns' types as well."""
    names = list(table.columns)
    if not names or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise ValueError(f"table: expected columns with different names, got {names}")
    types, cells = {}, []
    for i, name in enumerate(names):
        types[name], texts = _texts(table.iloc[:, i], name)
        cells.append(texts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*cells, strict=True))
    return types, text.getvalue().encode()


def _texts(column: pd.Series, name: str) -> tuple[str, list[str]]:
    values = plain(list(column), f"column {name!r}")
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "bool", [str(v) for v in values]
    if kinds == {int} and all(-(2**63) <= v < 2**63 for v in values):
        return "int", [str(v) for v in values]
    if kinds == {float}:
        return "float", [repr(v) for v in values]
    if kinds == {str} and not any(set("\r\n") & set(v) for v in values):
        return "str", values
    texts = [json.dumps(v) for v in values]
    longest = max(map(len, texts), default=0)
    if longest > csv.field_size_limit():
        raise ValueError(
            f"column {name!r}: expected cells of at most {csv.field_size_limit()} characters,"
            f" got {longest}"
        )
    return "json", texts


_PARSERS: dict[str, tuple[Any, Any]] = {
    "bool": ({"True": True, "False": False}.__getitem__, bool),
    "int": (int, "int64"),
    "float": (float, "float64"),
    "str": (str, None),
    "json": (json.loads, object),
}


def _from_csv(content: bytes, types: Mapping[str, str]) -> pd.DataFrame:
    text = io.StringIO(content.decode(), newline="")
    names, *rows = csv.reader(text, strict=True)
    if names != list(types):
        raise ValueError(f"its columns are {names}, not {list(types)}")
    cells = zip(*rows, strict=True) if rows else [() for _ in names]
    columns = {}
    for (name, kind), column in zip(types.items(), cells, strict=True):
        parse, dtype = _PARSERS[kind]
        columns[name] = pd.Series([parse(v) for v in column], dtype=dtype)
    return pd.DataFrame(columns)


def _read(stem: Path, chapter: str) -> Recorded:
    name = f"{chapter}/{stem.name}"
    try:
        content = Path(f"{stem}.csv").read_bytes()
    except OSError as error:
        raise RecordingError(f"{name}.csv: cannot be read ({error.strerror})") from error
    try:
        provenance = json.loads(Path(f"{stem}.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordingError(
            f"{name}.csv: has no provenance: {stem.name}.json cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise RecordingError(f"{name}.json: not JSON ({error})") from error
    _check_provenance(provenance, name)
    if stem.name != f"{provenance['preset']}-{provenance['device']}":
        raise RecordingError(
            f"{name}.json: is of preset {provenance['preset']!r} and device"
            f" {provenance['device']!r}, which does not fit the file's name"
        )
    if _sha256(content) != provenance["sha256"]:
        raise RecordingError(
            f"{name}.csv: was altered after it was recorded: expected SHA-256"
            f" {provenance['sha256']}, got {_sha256(content)}"
        )
    try:
        table = _from_csv(content, provenance["columns"])
        if len(table) != provenance["rows"]:
            raise ValueError(f"{len(table)} rows, not {provenance['rows']}")
    except (ValueError, KeyError, csv.Error) as error:
        raise RecordingError(f"{name}.csv: does not fit its provenance ({error})") from error
    return Recorded(table, provenance, provenance["preset"], provenance["device"])


def _check_provenance(provenance: Any, name: str) -> None:
    if not isinstance(provenance, dict):
        raise RecordingError(f"{name}.json: expected an object, got {type(provenance).__name__}")
    if provenance.get("format") != FORMAT:
        raise RecordingError(
            f"{name}.json: expected format {FORMAT}, got {provenance.get('format')!r}"
        )
    for field, kind in FIELDS.items():
        if field not in provenance:
            raise RecordingError(f"{name}.json: expected {field!r}, which is missing")
        value = provenance[field]
        if not isinstance(value, kind) or (isinstance(value, bool) and field != "dirty"):
            raise RecordingError(f"{name}.json: {field!r} cannot be {value!r}")


def _chapter_folder(chapter: str, root: str | os.PathLike[str] | None) -> Path | None:
    if not isinstance(chapter, str) or not re.fullmatch(r"[\w-]+(/[\w-]+)+", chapter):
        raise ValueError(f"chapter: expected 'part/chapter', got {chapter!r}")
    folder = results_folder() if root is None else Path(root)
    return None if folder is None else folder / chapter


def _check_slug(text: str, name: str) -> None:
    if not isinstance(text, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise ValueError(
            f"{name}: expected lower-case letters, digits and single hyphens, got {text!r}"
        )


def _short_name(model: str) -> str:
    words = re.sub(r"\b(NVIDIA|AMD|Tesla|GeForce|Quadro|Instinct|Radeon)\b", " ", model)
    return "-".join(re.findall(r"[a-z0-9]+", words.lower())) or "cuda"


def _check_anonymous(value: Any, name: str) -> None:
    """Refuse texts that tell whose machine this is or how its folders are called."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_anonymous(item, f"{name}: {key}")
    elif isinstance(value, str):
        path = ABSOLUTE_PATH.search(value)
        if path:
            around = value[path.start() : path.start() + 20]
            raise ValueError(f"{name}: expected no absolute path, got {around!r}")
        for owner, word in _names_of_this_machine():
            if re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", value, re.I):
                raise ValueError(f"{name}: expected no name of the {owner}, got {word!r}")


def _names_of_this_machine() -> list[tuple[str, str]]:
    names = [("host", socket.gethostname()), ("host", socket.gethostname().partition(".")[0])]
    with contextlib.suppress(OSError, KeyError):  # a container whose user has no name
        names.append(("user", getpass.getuser()))
    return [(o, n) for o, n in names if len(n) > 2 and n.lower() not in COMMON_NAMES]


def _checkout() -> Path | None:
    for folder in Path(enough.__file__).resolve().parents:
        project = folder / "pyproject.toml"
        if project.is_file():
            name = tomllib.loads(project.read_text("utf-8")).get("project", {}).get("name")
            return folder if name == "how-much-is-enough" else None
    return None


def _commit() -> tuple[str | None, bool | None]:
    """Ask git for the commit, and whether anything but recorded tables differs from it."""
    checkout = _checkout()
    if checkout is None:
        return None, None
    git = ("git", "-C", str(checkout))
    top = _ask(*git, "rev-parse", "--show-toplevel")
    commit = _ask(*git, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != checkout:
        return None, None
    changes = _ask(*git, "status", "--porcelain", ".", ":(exclude)results")
    return commit, None if changes is None else bool(changes)


def _driver() -> str | None:
    answer = _ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0].strip() if answer else None


def _ask(*command: str) -> str | None:
    """Run a program and return what it says, or None where it is absent or fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions(place: torch.device) -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "enough": enough.__version__,
    }
    if place.type == "cuda":
        versions["cuda"] = str(torch.version.cuda or torch.version.hip)
    return versions


def _sha256(content: bytes) -> str:
    """Hash a text file so that a checkout that rewrites line ends does not change it."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    try:
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
