"""Find a registered file: in the data folders, in the cache, or by download; trust none unseen."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tqdm import TqdmWarning

from enough.data.catalog import Checksum, DataFile, Entry
from enough.data.errors import (
    ChecksumError,
    DataError,
    DataUnavailableError,
    UnknownChecksumError,
)

__all__ = [
    "CACHE_VARIABLE",
    "FOLDERS_VARIABLE",
    "cache_folder",
    "data_folders",
    "fetch",
    "find_local",
    "matches",
]

FOLDERS_VARIABLE = "ENOUGH_DATA"
CACHE_VARIABLE = "ENOUGH_CACHE"
_RETRIES = 2
_TIMEOUT = (5.0, 30.0)  # seconds to connect, seconds between two packets
_CHUNK = 1 << 20


def data_folders() -> tuple[Path, ...]:
    """List the folders of ``ENOUGH_DATA``.

    Returns
    -------
    tuple of pathlib.Path
        In the order given, existing or not; empty when the variable is unset.
    """
    parts = os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)
    return tuple(Path(part).expanduser() for part in parts if part)


def cache_folder() -> Path:
    """Return the folder for downloads.

    Returns
    -------
    pathlib.Path
        ``ENOUGH_CACHE`` if set, else the platform's cache folder. It may not exist yet.
    """
    pooch = _pooch()
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path(pooch.os_cache("how-much-is-enough"))


def matches(path: Path, file: DataFile) -> bool:
    """Tell whether a file on disk is the registered one.

    Parameters
    ----------
    path : pathlib.Path
        The file to check.
    file : DataFile
        The registry's record of it.

    Returns
    -------
    bool
        True if any checksum agrees: of the file, or of what its gzip wrapper holds (the file
        itself where it has no wrapper).
    """
    for algorithm in dict.fromkeys(c.algorithm for c in file.checksums):
        mine = [c for c in file.checksums if c.algorithm == algorithm]
        whole = _digest(path, algorithm)
        if any(c.of == "file" and c.value == whole for c in mine):
            return True
        contents = {c.value for c in mine if c.of == "content"}
        if contents and (_content_digest(path, algorithm) or whole) in contents:
            return True
    return False


def find_local(entry: Entry, file: DataFile, known: Iterable[DataFile] = ()) -> Path | None:
    """Look for a file in the data folders and in the cache, without downloading.

    A damaged copy in a data folder is an error, not a reason to look further: the folder is
    read-only for us, and going on in silence would hide that it is corrupt. A damaged copy in
    the cache counts as absent; `fetch` replaces it.

    Parameters
    ----------
    entry : Entry
        The data set.
    file : DataFile
        One of its files.
    known : iterable of DataFile, default ()
        Other registered files: a copy of one of them under the same name is passed over.

    Returns
    -------
    pathlib.Path or None
        The verified file, or None.

    Raises
    ------
    UnknownChecksumError
        If the registry holds no checksum for the file.
    ChecksumError
        If a data folder holds an altered or truncated copy and no good one.
    """
    _require_checksum(entry, file)
    damaged = []
    for path, telling in _candidates(file):
        if matches(path, file):
            return path
        if telling:
            damaged.append(path)
    namesakes = [k for k in known if k is not file and _basename(k) == _basename(file)]
    damaged = [p for p in damaged if not any(matches(p, other) for other in namesakes)]
    if damaged:
        raise ChecksumError(
            f"{entry.name}: {damaged[0]} is altered or truncated: it matches none of "
            f"{_expected(file.checksums)}. It was found through {FOLDERS_VARIABLE}: replace it "
            f"or take it away. {_origin(file)}"
        )
    cached = _cached(entry, file)
    return cached if cached.is_file() and matches(cached, file) else None


def fetch(
    entry: Entry, file: DataFile, known: Iterable[DataFile] = (), *, download: bool = True
) -> Path:
    """Return a verified file, downloading it if needed.

    The download goes to a temporary folder inside the cache, is checked there, and is moved
    to its final name in one step: no process ever sees a partial file, and a file that fails
    the check leaves nothing behind.

    Parameters
    ----------
    entry : Entry
        The data set.
    file : DataFile
        One of its files.
    known : iterable of DataFile, default ()
        Other registered files; see `find_local`.
    download : bool, default True
        Whether to use the network.

    Returns
    -------
    pathlib.Path
        In a data folder or in the cache.

    Raises
    ------
    UnknownChecksumError
        If the registry holds no checksum for the file.
    ChecksumError
        If a data folder holds a damaged copy, or every address gave a wrong file.
    DataUnavailableError
        If the file is absent and cannot be downloaded.
    """
    found = find_local(entry, file, known)
    if found is not None:
        return found
    cached = _cached(entry, file)
    try:
        if not file.urls:
            raise DataUnavailableError(_absent(entry, file, "it has no public address"))
        if not download:
            raise DataUnavailableError(_absent(entry, file, "downloads are switched off"))
        return _download(entry, file, cached)
    except DataError:
        # A damaged copy never outlives a failed attempt to replace it.
        if cached.is_file() and not matches(cached, file):
            cached.unlink(missing_ok=True)
        raise


def _pooch() -> ModuleType:
    """Import pooch without what its progress bar says of widgets that no notebook here needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)
        import pooch
    return pooch


def _download(entry: Entry, file: DataFile, cached: Path) -> Path:
    pooch = _pooch()
    failures: list[str] = []
    refused = False
    for url in file.urls:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            incoming = tempfile.TemporaryDirectory(dir=cached.parent, prefix=".incoming-")
        except OSError as error:
            raise DataUnavailableError(
                _absent(entry, file, f"the cache cannot be written ({error}); set {CACHE_VARIABLE}")
            ) from error
        with incoming as folder, _quiet(pooch.get_logger()):
            source = pooch.create(
                path=folder,
                base_url="",
                registry={cached.name: None},
                urls={cached.name: url},
                retry_if_failed=_RETRIES,
            )
            try:
                arrived = source.fetch(cached.name, downloader=_CheckedDownloader(file))
                os.replace(arrived, cached)
                return cached
            except _WrongFileError as error:
                refused = True
                failures.append(f"{url}: {error}")
            except (OSError, ValueError) as error:  # requests' errors are OSErrors
                failures.append(f"{url}: {type(error).__name__}: {error}")
    if refused:
        raise ChecksumError(
            f"{entry.name}: {file.filename} was refused and not kept: {'; '.join(failures)}. "
            f"Expected {_expected(file.checksums)}. If you hold a good copy, put it into a "
            f"folder and set {FOLDERS_VARIABLE} to that folder."
        )
    raise DataUnavailableError(_absent(entry, file, "; ".join(failures)))


class _WrongFileError(ValueError):
    """A downloaded file that matches no checksum; a ValueError, so that pooch tries again."""


class _CheckedDownloader:
    """Download one file over HTTP and check it before pooch moves it."""

    def __init__(self, file: DataFile) -> None:
        self.file = file

    def __call__(self, url: str, output_file: str, pooch_instance: object) -> None:
        http = _pooch().HTTPDownloader(chunk_size=_CHUNK, timeout=_TIMEOUT)
        http(url, output_file, pooch_instance)
        path = Path(output_file)
        if not matches(path, self.file):
            size = path.stat().st_size
            raise _WrongFileError(f"got {size} bytes with sha256 {_digest(path, 'sha256')}")


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch's running commentary off the standard error of a notebook."""

    def warnings_only(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    logger.addFilter(warnings_only)
    try:
        yield
    finally:
        logger.removeFilter(warnings_only)


def _candidates(file: DataFile) -> Iterator[tuple[Path, bool]]:
    """Yield the paths in the data folders that a name fits, and whether the name is telling."""
    ends = {tuple(name.split("/")): True for name in (file.filename, *file.aliases)}
    ends[(_basename(file),)] = not file.generic
    seen = set()
    for folder in data_folders():
        for root, subfolders, filenames in os.walk(folder, followlinks=True):
            place = os.path.realpath(root)
            if place in seen:  # links may lead in circles
                subfolders.clear()
                continue
            seen.add(place)
            subfolders.sort()
            for filename in sorted(filenames):
                path = Path(root, filename)
                fits = [t for end, t in ends.items() if path.parts[-len(end) :] == end]
                if fits:
                    yield path, any(fits)


def _basename(file: DataFile) -> str:
    return file.filename.rsplit("/", 1)[-1]


def _cached(entry: Entry, file: DataFile) -> Path:
    return cache_folder() / entry.name / file.filename


def _require_checksum(entry: Entry, file: DataFile) -> None:
    if not file.checksums:
        raise UnknownChecksumError(
            f"{entry.name}: the registry holds no checksum for {file.filename}, so no copy of it "
            f"can be trusted, neither a download nor one in {FOLDERS_VARIABLE}. {_origin(file)}"
        )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: _hash(algorithm)).hexdigest()


def _hash(algorithm: str) -> hashlib._Hash:
    return hashlib.new(algorithm, usedforsecurity=False)


def _content_digest(path: Path, algorithm: str) -> str | None:
    """Digest what a gzip wrapper holds; None where there is no (whole) wrapper."""
    digest = _hash(algorithm)
    try:
        with gzip.open(path, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except (OSError, EOFError, zlib.error):
        return None
    return digest.hexdigest()


def _expected(checksums: Iterable[Checksum]) -> str:
    return " or ".join(map(str, checksums))


def _origin(file: DataFile) -> str:
    if file.urls:
        return f"Published at {' and '.join(file.urls)}"
    return f"It is a derived file without a public address; how it was made: {file.made}"


def _absent(entry: Entry, file: DataFile, why: str) -> str:
    folders = data_folders()
    missing = [f"{folder} (no such folder)" for folder in folders if not folder.is_dir()]
    searched = ", ".join(missing + [str(f) for f in folders if f.is_dir()]) or "unset"
    passed_over = [str(path) for path, telling in _candidates(file) if not telling]
    seen = f" Of that name, but not that file: {', '.join(passed_over)}." if passed_over else ""
    return (
        f"{entry.name}: {file.filename} is in no folder of {FOLDERS_VARIABLE} ({searched}), not in "
        f"the cache ({_cached(entry, file)}), and was not downloaded: {why}.{seen} "
        f"{_origin(file)}. Put the file into a folder and set {FOLDERS_VARIABLE} to that folder."
    )
