"""Readers of binary formats: IDX files and CIFAR records, checked before they are believed."""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from enough.data.errors import FormatError

__all__ = ["CIFAR_BATCHES", "read_cifar10", "read_content", "read_idx"]

CIFAR_BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_CLASSES = 10
_IDX_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def read_content(path: str | Path) -> bytes:
    """Read a file whole, without its gzip wrapper if it has one.

    Parameters
    ----------
    path : str or pathlib.Path
        The file; its first two bytes tell whether it is wrapped, not its name.

    Returns
    -------
    bytes
        The content.

    Raises
    ------
    FormatError
        If the wrapper is broken.
    """
    raw = Path(path).read_bytes()
    if not raw.startswith(_GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: expected a whole gzip file, got {error}") from error


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, wrapped in gzip or plain.

    The header is two zero bytes, a type byte (8: unsigned byte), the number of dimensions,
    and each length as a big-endian unsigned 32-bit integer; the entries follow, last index
    fastest.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    ndim : int
        The number of dimensions that the file must have.

    Returns
    -------
    numpy.ndarray
        Entries as uint8, of the header's shape; writable.

    Raises
    ------
    FormatError
        If the header is not as above or the number of bytes does not fit it.

    References
    ----------
    The format is described on the MNIST page of Y. LeCun, C. Cortes and C. J. C. Burges.
    """
    content = read_content(path)
    start = 4 + 4 * ndim
    if len(content) < start:
        raise FormatError(f"{path}: expected an IDX header of {start} bytes, got {len(content)}")
    zeros, kind, dimensions = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != _IDX_UNSIGNED_BYTE or dimensions != ndim:
        raise FormatError(
            f"{path}: expected an IDX file of unsigned bytes in {ndim} dimension(s), got the "
            f"magic number {content[:4].hex()}"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise FormatError(
            f"{path}: expected {math.prod(shape)} entries for shape {shape}, "
            f"got {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_cifar10(path: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one split of the binary CIFAR-10 archive, member by member, without unpacking it.

    A record is one label byte and 3072 pixel bytes: red, green and blue planes of 32 × 32,
    row by row. The training records keep the order data_batch_1 … data_batch_5.

    Parameters
    ----------
    path : str or pathlib.Path
        The tar file, compressed or not.
    split : {"train", "test"}
        Which batches to read.

    Returns
    -------
    images : numpy.ndarray
        Pixels as uint8, shape (samples, 3, 32, 32).
    labels : numpy.ndarray
        Classes 0 … 9 as uint8, shape (samples,).

    Raises
    ------
    FormatError
        If a batch is missing, twice there, not a whole number of records, or has a label
        above 9.

    References
    ----------
    The format is described on the CIFAR page of A. Krizhevsky.
    """
    wanted = CIFAR_BATCHES[split]
    batches: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isreg() or name not in wanted:
                    continue
                if name in batches:
                    raise FormatError(f"{path}: expected one member {name}, got two")
                stream = archive.extractfile(member)
                assert stream is not None  # a regular member always has one
                batches[name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: expected a whole tar archive, got {error}") from error
    missing = [name for name in wanted if name not in batches]
    if missing:
        raise FormatError(f"{path}: expected the members {', '.join(missing)}, which are missing")
    size = 1 + math.prod(_CIFAR_SHAPE)
    records = []
    for name in wanted:
        batch = np.frombuffer(batches[name], np.uint8)
        if batch.size == 0 or batch.size % size:
            raise FormatError(
                f"{path}: expected records of {size} bytes in {name}, got {batch.size} bytes"
            )
        records.append(batch.reshape(-1, size))
    rows = np.concatenate(records)
    if rows[:, 0].max() >= _CIFAR_CLASSES:
        raise FormatError(f"{path}: expected labels 0 to 9, got {rows[:, 0].max()}")
    return rows[:, 1:].reshape(-1, *_CIFAR_SHAPE).copy(), rows[:, 0].copy()
