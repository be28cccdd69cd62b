"""How much memory was used, how much is left, and work cut to fit it."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from enough.runtime.device import resolve_device
from enough.runtime.validation import check_integer, check_number

__all__ = ["available_memory", "chunks", "peak_memory"]

# PyTorch keeps one peak counter a device. A block that resets it would hide what came before
# from the blocks around it, so the peak is noted here first.
_open_blocks: list[peak_memory] = []
_process_peaks: dict[torch.device, int] = {}


class peak_memory:
    """Measure the peak memory of the process and of a device.

    Read it at once, or use it around a block: ``with peak_memory(device) as peak: ...``.

    Parameters
    ----------
    device : str, torch.device, or None
        Which device's memory to count, as in `resolve_device`.

    Attributes
    ----------
    host : int
        Peak resident memory of this process in bytes, *since the process started*. Operating
        systems keep no peak per block, so a block reads the process's peak at its end.
    device : int or None
        Peak bytes of tensors allocated on a CUDA device: within the block, or since the
        process started when no block is used. The memory PyTorch's allocator holds in reserve
        is not counted. ``None`` for the CPU, whose tensors ``host`` counts, and for MPS, which
        keeps no peak.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.

    Notes
    -----
    On Linux ``host`` is ``VmHWM`` of ``/proc/self/status``, which counts pages in batches and
    is exact to about a MiB. ``getrusage``'s ``ru_maxrss`` survives ``exec`` there, so a small
    process started by a large one would report its parent's peak. Elsewhere it is
    ``ru_maxrss``, which macOS counts in bytes and others in KiB.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._device = resolve_device(device)
        self._earlier = 0  # peak of this block before an inner block reset the counter
        self._inside = False
        self._final: tuple[int, int | None] | None = None

    def __enter__(self) -> peak_memory:
        self._earlier, self._final, self._inside = 0, None, True
        if self._device.type == "cuda":
            torch.cuda.init()
            seen = torch.cuda.max_memory_allocated(self._device)
            _process_peaks[self._device] = max(seen, _process_peaks.get(self._device, 0))
            for block in _open_blocks:
                if block._device == self._device:
                    block._earlier = max(block._earlier, seen)
            torch.cuda.reset_peak_memory_stats(self._device)
        _open_blocks.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._final = (self.host, self.device)
        self._inside = False
        _open_blocks.remove(self)

    @property
    def host(self) -> int:
        """Peak resident bytes of the process."""
        return _host_peak() if self._final is None else self._final[0]

    @property
    def device(self) -> int | None:
        """Peak allocated bytes on the device."""
        if self._final is not None:
            return self._final[1]
        if self._device.type != "cuda":
            return None
        earlier = self._earlier if self._inside else _process_peaks.get(self._device, 0)
        return max(earlier, torch.cuda.max_memory_allocated(self._device))


def available_memory(device: str | torch.device | None = "cpu") -> int:
    """Estimate how many bytes can still be allocated on a device.

    Parameters
    ----------
    device : str, torch.device, or None, default "cpu"
        As in `resolve_device`. MPS shares the host's memory.

    Returns
    -------
    int
        CUDA: what the driver reports as free plus what PyTorch's allocator holds unused.
        Linux: ``MemAvailable``, or less where a control group (a container) sets a limit.
        macOS, which gives no such figure cheaply: half of the physical memory.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.
    """
    device = resolve_device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + unused
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(free, _group_headroom(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))


def chunks(
    n: int,
    bytes_each: float,
    limit: float | None = None,
    *,
    device: str | torch.device | None = "cpu",
) -> Iterator[slice]:
    """Cut ``range(n)`` into slices that fit a memory limit.

    Parameters
    ----------
    n : int
        Number of items, zero or more.
    bytes_each : float
        Memory that one item needs while it is worked on, in bytes, above zero.
    limit : float, optional
        Bytes for one slice, above zero. The default is a quarter of `available_memory`.
    device : str, torch.device, or None, default "cpu"
        Whose memory the default limit looks at.

    Returns
    -------
    iterator of slice
        In order, without gaps or overlaps. Each slice holds as many items as the limit
        allows, and at least one; the last may be shorter.

    Raises
    ------
    ValueError
        If an argument is out of range; at the call, not at the first slice.
    """
    n = check_integer(n, "n", minimum=0)
    bytes_each = check_number(bytes_each, "bytes_each", above=0)
    if limit is None:
        limit = available_memory(device) / 4
    else:
        limit = check_number(limit, "limit", above=0, finite=False)
    size = n if math.isinf(limit) else int(limit // bytes_each)
    size = max(1, size)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _host_peak(status: str = "/proc/self/status") -> int:
    try:
        lines = Path(status).read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _group_headroom(membership: Path, root: Path) -> float:
    """Bytes below the tightest limit of the process's control group (v2) and its parents.

    A v1 hierarchy is read at its root only, which is where a container sees its own group.
    Inactive file pages count as free: the kernel drops them before it refuses memory.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    group = next((line.split("::", 1)[1] for line in lines if line.startswith("0::")), "/")
    folder = root / group.strip("/")
    places = [
        (parent, "memory.max", "memory.current", "inactive_file")
        for parent in [folder, *folder.parents]
        if parent.is_relative_to(root)
    ]
    v1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    places.append((root / "memory", *v1))
    room = math.inf
    for place, limit, usage, inactive in places:
        try:
            bound = (place / limit).read_text().strip()
            used = int((place / usage).read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        except OSError:  # no such controller here
            continue
        if bound != "max":
            room = min(room, max(0, int(bound) - used + int(stat.get(inactive, 0))))
    return room
