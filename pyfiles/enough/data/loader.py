"""`load`: one name, one verified data set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from enough.data.catalog import DataFile, Entry, find_entry
from enough.data.corpus import text
from enough.data.dataset import Dataset
from enough.data.errors import FormatError
from enough.data.formats import CIFAR_BATCHES, read_cifar10, read_content, read_idx
from enough.data.store import fetch, find_local
from enough.runtime.validation import check_choice

if TYPE_CHECKING:
    import pandas as pd

    from enough.data.corpus import TextCorpus

__all__ = ["available", "load"]


def load(
    name: str,
    split: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    download: bool = True,
    registry: str | Path | None = None,
) -> Dataset | TextCorpus | torch.Tensor | pd.DataFrame | Path:
    """Load a registered data set from a data folder, the cache or the network.

    Every file is checked against the registry's checksums, wherever it comes from. The
    folders of the environment variable ``ENOUGH_DATA`` (separated as in ``PATH``) are
    searched first, with their subfolders, and never written to; a damaged copy there is an
    error. Then comes the cache (``ENOUGH_CACHE``, or the platform's cache folder), then a
    download into the cache.

    Parameters
    ----------
    name : str
        A name from `enough.data.registry`.
    split : str, optional
        The part to load. Sets published in parts (images, signals, some texts) need it. Without
        it a table gives all its parts in one frame, and a text its whole corpus.
    dtype : torch.dtype, default torch.float32
        Type of images and signals: floating point scales pixels to [0, 1], torch.uint8 keeps
        the bytes 0 … 255. Tables and texts ignore it.
    download : bool, default True
        Whether to use the network.
    registry : str or pathlib.Path, optional
        A registry file of your own, of the form of the package's ``registry.json``.

    Returns
    -------
    Dataset, TextCorpus, torch.Tensor, pandas.DataFrame, or pathlib.Path
        Images and signals: a `Dataset`. Tables: a DataFrame with the published columns, its
        source in ``attrs``. Texts: a `TextCorpus` without a split, the bytes as a uint8
        tensor with one. Raw files: the path of the verified file.

    Raises
    ------
    ValueError
        If the name or the split is unknown, or ``dtype`` is neither floating point nor uint8.
    DataUnavailableError
        If a file is absent and cannot be downloaded; the message names the file, its address
        and the variable. A subclass of `DataError`, as the next three.
    ChecksumError
        If a file is altered or truncated.
    UnknownChecksumError
        If the registry holds no checksum for a file.
    FormatError
        If a verified file is not in the registry's format.

    Examples
    --------
    >>> from enough.data import load
    >>> table = load("chinchilla_epoch")    # doctest: +SKIP
    >>> test = load("mnist", split="test")  # doctest: +SKIP
    """
    entry, known = find_entry(name, registry)
    files = _files(entry, split, whole=_joins(entry))
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype == torch.uint8):
        raise ValueError(f"dtype: expected a floating-point torch.dtype or uint8, got {dtype!r}")
    paths = [fetch(entry, file, known, download=download) for file in files]
    if entry.reader in _TABLES:
        return _table(entry, files, paths)
    if entry.reader == "text":
        return _text(entry, split, paths)
    if entry.reader == "file":
        return paths[0]
    return _IMAGES[entry.reader](entry, split, files, paths, dtype)


def available(name: str, split: str | None = None, *, registry: str | Path | None = None) -> bool:
    """Tell whether `load` would succeed without the network.

    Parameters
    ----------
    name : str
        A name from `enough.data.registry`.
    split : str, optional
        The part asked for; without it, every part.
    registry : str or pathlib.Path, optional
        A registry file of your own.

    Returns
    -------
    bool
        True if every file needed stands verified in a data folder or in the cache.

    Raises
    ------
    ValueError
        If the name or the split is unknown.
    UnknownChecksumError
        If the registry holds no checksum for a file.
    ChecksumError
        If a data folder holds an altered or truncated copy: absent is an answer, damaged is
        a fault to repair.
    """
    entry, known = find_entry(name, registry)
    return all(find_local(entry, f, known) is not None for f in _files(entry, split, whole=True))


def _files(entry: Entry, split: str | None, *, whole: bool) -> tuple[DataFile, ...]:
    """The files of a split; of all splits for None where ``whole`` allows it."""
    splits = _splits(entry)
    if split is None and (whole or not splits):
        return entry.files
    if not splits:
        raise ValueError(f"split: expected None, {entry.name} has no parts; got {split!r}")
    check_choice(split, "split", splits)
    return tuple(f for f in entry.files if f.split in (split, None))


def _joins(entry: Entry) -> bool:
    """Whether the parts make sense as one: those of a table do, training and test sets do not."""
    return entry.reader in (*_TABLES, "file") or (entry.reader == "text" and not entry.splits)


def _splits(entry: Entry) -> tuple[str, ...]:
    if entry.reader == "cifar10":
        return tuple(CIFAR_BATCHES)  # both in one archive
    if entry.reader == "npz":
        return ("train", "test")
    if entry.reader == "text" and not entry.splits:
        return ("train", "validation")
    return entry.splits


def _table(entry: Entry, files: tuple[DataFile, ...], paths: list[Path]) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for file, path in zip(files, paths, strict=True):
        part = _TABLES[entry.reader](read_content(path))
        for position, (column, value) in enumerate(file.constants.items()):
            part.insert(position, column, value)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    table.attrs.update(name=entry.name, source=entry.source, license=entry.license)
    return table


def _read_csv(content: bytes) -> pd.DataFrame:
    import pandas as pd

    # Before version 3.1 pandas rounds to the nearest float only when asked to.
    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    exact: dict[str, Any] = {} if version >= (3, 1) else {"float_precision": "round_trip"}
    table = pd.read_csv(io.BytesIO(content), low_memory=False, **exact)
    # pandas leaves integers above 2^64 as objects or as text, depending on its version.
    for column in table.select_dtypes(exclude=["number", "bool"]):
        with suppress(ValueError):
            table[column] = table[column].astype("float64")
    return table


def _read_json(content: bytes) -> pd.DataFrame:
    """A list of records, or one mapping from run to value."""
    import pandas as pd

    found = json.loads(content)
    if isinstance(found, dict):
        return pd.DataFrame({"run": list(found), "value": list(found.values())})
    return pd.json_normalize(found)


def _read_jsonl(content: bytes) -> pd.DataFrame:
    import pandas as pd

    return pd.json_normalize([json.loads(line) for line in content.splitlines() if line.strip()])


def _text(entry: Entry, split: str | None, paths: list[Path]) -> TextCorpus | torch.Tensor:
    if entry.splits:  # one file a part
        return torch.from_numpy(np.fromfile(paths[0], np.uint8))
    corpus = text(paths[0], name=entry.name)
    return corpus if split is None else getattr(corpus, split)


def _idx(
    entry: Entry, split: str, files: tuple[DataFile, ...], paths: list[Path], dtype: torch.dtype
) -> Dataset:
    by_role = {file.role: path for file, path in zip(files, paths, strict=True)}
    images = read_idx(by_role["images"], ndim=3)
    labels = read_idx(by_role["labels"], ndim=1)
    return _image_set(entry, split, images[:, None], labels, dtype)


def _cifar10(
    entry: Entry, split: str, files: tuple[DataFile, ...], paths: list[Path], dtype: torch.dtype
) -> Dataset:
    return _image_set(entry, split, *read_cifar10(paths[0], split), dtype)


def _npz(
    entry: Entry, split: str, files: tuple[DataFile, ...], paths: list[Path], dtype: torch.dtype
) -> Dataset:
    ending = "" if split == "train" else f"_{split}"
    with np.load(paths[0], allow_pickle=False) as arrays:
        x, y = arrays[f"x{ending}"], arrays[f"y{ending}"]
    if dtype == torch.uint8:
        raise ValueError(f"dtype: expected a floating-point torch.dtype for signals, got {dtype}")
    return _labeled(entry, split, torch.from_numpy(x).to(dtype), torch.from_numpy(y).long(), None)


def _image_set(
    entry: Entry, split: str, images: np.ndarray, labels: np.ndarray, dtype: torch.dtype
) -> Dataset:
    if len(images) != len(labels) or len(labels) == 0:
        raise FormatError(
            f"{entry.name}: expected one label an image, got {len(images)} images and "
            f"{len(labels)} labels"
        )
    if labels.max() >= len(entry.classes):
        raise FormatError(
            f"{entry.name}: expected labels below {len(entry.classes)}, got {labels.max()}"
        )
    x = torch.from_numpy(images).flatten(1)
    if dtype != torch.uint8:
        x = x.to(dtype).div_(255.0)
    return _labeled(entry, split, x, torch.from_numpy(labels).long(), images.shape[1:])


def _labeled(
    entry: Entry, split: str, x: torch.Tensor, y: torch.Tensor, shape: tuple[int, ...] | None
) -> Dataset:
    return Dataset(
        x=x,
        y=y,
        name=f"{entry.name}/{split}",
        description=entry.title,
        source=entry.source,
        license=entry.license,
        class_names=entry.classes,
        image_shape=None if shape is None else tuple(shape),
    )


_TABLES: dict[str, Callable[[bytes], Any]] = {
    "csv": _read_csv,
    "json": _read_json,
    "jsonl": _read_jsonl,
}
_IMAGES: dict[str, Callable[..., Dataset]] = {"cifar10": _cifar10, "idx": _idx, "npz": _npz}
