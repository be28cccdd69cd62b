"""What can go wrong with a data file, by name."""

from __future__ import annotations

__all__ = [
    "ChecksumError",
    "DataError",
    "DataUnavailableError",
    "FormatError",
    "UnknownChecksumError",
]


class DataError(RuntimeError):
    """A data file cannot be had or cannot be trusted."""


class DataUnavailableError(DataError):
    """The file is in no data folder, not in the cache, and cannot be downloaded."""


class ChecksumError(DataError):
    """The file is altered or truncated: it matches no checksum of the registry."""


class UnknownChecksumError(DataError):
    """The registry holds no checksum for the file, so nothing can vouch for it."""


class FormatError(DataError):
    """The file is not in the format that the registry names."""
