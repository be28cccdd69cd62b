"""Text as bytes: a corpus with disjoint training and validation parts."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from enough.data.errors import DataUnavailableError
from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_choice, check_integer, check_number

__all__ = ["TextCorpus", "blocks", "text", "windows"]

# Not source that people wrote to be read (tables, generated documentation), not the library
# (tests, installed packages, build settings), or packaged apart by some distributions.
_STDLIB_SKIPPED = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    }
)
_STDLIB_SKIPPED_STARTS = ("_sysconfigdata", "_sysconfig_vars", "config-", "sitecustomize", ".")
_TEXT_SUFFIXES = (".md", ".py", ".rst", ".txt")


@dataclass(frozen=True, eq=False, repr=False)
class TextCorpus:
    """A text as two disjoint sequences of bytes.

    Parameters
    ----------
    name : str
        Where the text comes from.
    train : torch.Tensor
        Bytes as uint8, shape (bytes,).
    validation : torch.Tensor
        Bytes as uint8, shape (bytes,).
    files : tuple of str
        All files, sorted, with "/" between folders.
    validation_files : tuple of str
        Those in the validation part; empty when a single file is cut in two.
    sha256 : str
        Of names, sizes and bytes of all files; of the bytes alone for a single file.
    """

    name: str
    train: torch.Tensor
    validation: torch.Tensor
    files: tuple[str, ...]
    validation_files: tuple[str, ...]
    sha256: str

    def __repr__(self) -> str:
        return f"TextCorpus({self.report()})"

    @property
    def n_bytes(self) -> int:
        """Bytes of both parts together."""
        return len(self.train) + len(self.validation)

    def report(self) -> str:
        """Tell in one line what the corpus is.

        Returns
        -------
        str
            Name, number of files, megabytes (10^6) of each part, checksum.
        """
        count = f"{len(self.files)} file{'s' * (len(self.files) != 1)}"
        return (
            f"{self.name}: {count}, {self.n_bytes / 1e6:.2f} MB (train "
            f"{len(self.train) / 1e6:.2f}, validation {len(self.validation) / 1e6:.2f}), "
            f"sha256 {self.sha256}"
        )

    def windows(
        self,
        n: int,
        length: int,
        generator: torch.Generator | int | None = None,
        split: str = "train",
    ) -> torch.Tensor:
        """Draw random windows of one part; see `enough.data.windows`.

        Parameters
        ----------
        n : int
            Number of windows.
        length : int
            Predictions a window: it holds one byte more.
        generator : torch.Generator, int, or None
            Source of randomness.
        split : {"train", "validation"}, default "train"
            Which part.

        Returns
        -------
        torch.Tensor
            Windows as int64, shape (n, length + 1).

        Raises
        ------
        ValueError
            If the part is shorter than a window or an argument is out of range.
        """
        check_choice(split, "split", ("train", "validation"))
        return windows(getattr(self, split), n, length, generator)

    def blocks(self, length: int, split: str = "validation") -> torch.Tensor:
        """Cut one part into consecutive blocks; see `enough.data.blocks`.

        Parameters
        ----------
        length : int
            Predictions a block: it holds one byte more.
        split : {"train", "validation"}, default "validation"
            Which part.

        Returns
        -------
        torch.Tensor
            Blocks as int64, shape (blocks, length + 1).

        Raises
        ------
        ValueError
            If the part is shorter than a block or an argument is out of range.
        """
        check_choice(split, "split", ("train", "validation"))
        return blocks(getattr(self, split), length)


def text(
    source: str | os.PathLike[str] = "stdlib",
    *,
    validation: float = 0.1,
    suffixes: str | Sequence[str] | None = None,
    name: str | None = None,
) -> TextCorpus:
    """Read a text corpus: Python's own library, a folder, or a file.

    The result does not depend on the order of the file system, the locale or the working
    folder. In a folder, a file belongs to the validation part if the first eight bytes of the
    sha256 of its relative path, as a fraction of 2^64, are below ``validation``: the
    assignment looks at nothing else, so a file stays on its side as the folder changes and
    from one version of Python to the next. Line ends CR LF become LF and every file ends with
    a line end. A single file is taken byte for byte and cut in two at the first line end at or
    after the position (1 − validation) × size (at that very byte if no line ends later).

    Parameters
    ----------
    source : str or os.PathLike, default "stdlib"
        "stdlib" for the ``.py`` files of the Python that runs, without tests, installed
        packages, build settings, tables (``encodings``), generated documentation and the
        parts that some distributions leave out; or the path of a folder or file.
    validation : float, default 0.1
        Share of the validation part, in (0, 1): of the files of a folder in expectation, of
        the bytes of a file.
    suffixes : str or sequence of str, optional
        Endings of the files to take from a folder, each with its dot. Default ``.py`` for
        "stdlib", else ``.md``, ``.py``, ``.rst`` and ``.txt``. Hidden files and folders and
        links to folders are left out.
    name : str, optional
        Name of the corpus; by default the Python version or the path's last part.

    Returns
    -------
    TextCorpus
        Bytes as uint8 tensors.

    Raises
    ------
    ValueError
        If an argument is out of range, or a part would be empty.
    DataUnavailableError
        If the path does not exist, or this Python comes without the source of its library.
    """
    share = check_number(validation, "validation", above=0.0)
    if share >= 1.0:
        raise ValueError(f"validation: expected a number < 1, got {share}")
    endings = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes or ())
    if source == "stdlib":
        folder = Path(sysconfig.get_path("stdlib"))
        parts = _read_folder(folder, endings or (".py",), stdlib=True)
        if not parts:
            raise DataUnavailableError(
                f"source: expected the source of Python's library in {folder}, found no .py file; "
                "give the path of a folder or file instead"
            )
        return _join(parts, share, name or f"Python {platform.python_version()} library")
    path = Path(source).expanduser()
    if path.is_dir():
        wanted = endings or _TEXT_SUFFIXES
        parts = _read_folder(path, wanted, stdlib=False)
        if not parts:
            raise ValueError(f"source: expected files ending in {', '.join(wanted)}, found none")
        return _join(parts, share, name or path.resolve().name)
    if not path.is_file():
        raise DataUnavailableError(f"source: expected 'stdlib', a folder or a file, got {source!r}")
    return _cut(path, share, name or path.name)


def windows(
    tokens: Any, n: int, length: int, generator: torch.Generator | int | None = None
) -> torch.Tensor:
    """Draw windows of a sequence, each start with equal probability.

    Parameters
    ----------
    tokens : torch.Tensor or numpy.ndarray
        Integers, shape (tokens,), for example the bytes of a `TextCorpus`.
    n : int
        Number of windows, drawn with replacement.
    length : int
        Predictions a window: inputs are ``[:, :-1]``, targets ``[:, 1:]``.
    generator : torch.Generator, int, or None
        Source of randomness; see `enough.runtime.as_generator`.

    Returns
    -------
    torch.Tensor
        Windows as int64, shape (n, length + 1), on the device of ``tokens``.

    Raises
    ------
    ValueError
        If ``tokens`` is shorter than length + 1, or an argument is out of range.
    """
    sequence, length = _sequence(tokens, length)
    n = check_integer(n, "n", minimum=1)
    generator = as_generator(generator)
    room = len(sequence) - length
    starts = torch.randint(room, (n, 1), generator=generator, device=generator.device)
    steps = torch.arange(length + 1, device=sequence.device)
    return sequence[starts.to(sequence.device) + steps].long()


def blocks(tokens: Any, length: int) -> torch.Tensor:
    """Cut a sequence into consecutive blocks for evaluation.

    Neighbors share one token, so that each token but the first is a target once; the last
    incomplete block is dropped.

    Parameters
    ----------
    tokens : torch.Tensor or numpy.ndarray
        Integers, shape (tokens,).
    length : int
        Predictions a block: inputs are ``[:, :-1]``, targets ``[:, 1:]``.

    Returns
    -------
    torch.Tensor
        Blocks as int64, shape ((tokens − 1) // length, length + 1), on the device of
        ``tokens``.

    Raises
    ------
    ValueError
        If ``tokens`` is shorter than length + 1, or an argument is out of range.
    """
    sequence, length = _sequence(tokens, length)
    return sequence.unfold(0, length + 1, length).long()


def _sequence(tokens: Any, length: int) -> tuple[torch.Tensor, int]:
    (sequence,), _ = as_tensors(tokens=tokens)
    length = check_integer(length, "length", minimum=1)
    if sequence.ndim != 1 or sequence.is_floating_point() or sequence.dtype == torch.bool:
        raise ValueError(
            f"tokens: expected integers in one dimension, got {sequence.dtype} of shape "
            f"{tuple(sequence.shape)}"
        )
    if len(sequence) < length + 1:
        raise ValueError(
            f"tokens: expected at least length + 1 = {length + 1} tokens, got {len(sequence)}"
        )
    return sequence, length


def _walk(folder: Path, *, stdlib: bool) -> Iterator[Path]:
    for root, folders, filenames in os.walk(folder):
        if stdlib:
            folders[:] = [
                f
                for f in folders
                if f not in _STDLIB_SKIPPED and not f.startswith(_STDLIB_SKIPPED_STARTS)
            ]
            filenames = [f for f in filenames if not f.startswith(_STDLIB_SKIPPED_STARTS)]
        else:
            folders[:] = [f for f in folders if f != "__pycache__" and not f.startswith(".")]
            filenames = [f for f in filenames if not f.startswith(".")]
        yield from (Path(root, f) for f in filenames)


def _read_folder(folder: Path, suffixes: tuple[str, ...], *, stdlib: bool) -> dict[str, bytes]:
    """Read the files, in the order of their relative paths by code point."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in _walk(folder, stdlib=stdlib)
        if path.name.endswith(suffixes) and path.is_file()
    }
    contents = {name: found[name].read_bytes().replace(b"\r\n", b"\n") for name in sorted(found)}
    return {
        name: content if content.endswith(b"\n") else content + b"\n"
        for name, content in contents.items()
        if content
    }


def _held_out(name: str, share: float) -> bool:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _join(parts: dict[str, bytes], share: float, name: str) -> TextCorpus:
    held_out = tuple(n for n in parts if _held_out(n, share))
    if not 0 < len(held_out) < len(parts):
        raise ValueError(
            f"validation: expected a share that leaves a file on each side, got {share} with "
            f"{len(held_out)} of {len(parts)} file(s) held out"
        )
    digest = hashlib.sha256()
    for file, content in parts.items():
        digest.update(f"{file}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return TextCorpus(
        name=name,
        train=_tensor(b"".join(c for n, c in parts.items() if n not in set(held_out))),
        validation=_tensor(b"".join(parts[n] for n in held_out)),
        files=tuple(parts),
        validation_files=held_out,
        sha256=digest.hexdigest(),
    )


def _cut(path: Path, share: float, name: str) -> TextCorpus:
    content = path.read_bytes()
    position = int((1.0 - share) * len(content))
    line_end = content.find(b"\n", max(position - 1, 0))
    stop = position if line_end < 0 or line_end + 1 >= len(content) else line_end + 1
    if not 0 < stop < len(content):
        raise ValueError(f"source: expected a file long enough to cut in two, got {path.name!r}")
    return TextCorpus(
        name=name,
        train=_tensor(content[:stop]),
        validation=_tensor(content[stop:]),
        files=(path.name,),
        validation_files=(),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
