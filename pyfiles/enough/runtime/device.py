"""Which device to compute on, and with which numbers."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from enough.runtime.validation import check_choice

__all__ = [
    "DeviceUnavailableError",
    "available_devices",
    "compute_dtype",
    "cpu_count",
    "device_name",
    "exact_device",
    "resolve_device",
    "synchronize",
]


class DeviceUnavailableError(ValueError):
    """A device was asked for that this machine does not have."""


def available_devices() -> list[torch.device]:
    """List the devices of this machine.

    Returns
    -------
    list of torch.device
        The CPU first, then every CUDA device, then MPS, each with its index as tensors
        report it.
    """
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps", 0))
    return devices


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Turn a ``device=`` argument into a device that this machine has.

    Parameters
    ----------
    device : str, torch.device, or None
        ``None`` reads the environment variable ``ENOUGH_DEVICE``; when that is unset too,
        CUDA if present, else the CPU. MPS is used on request only.

    Returns
    -------
    torch.device
        With its index, so that it equals the ``device`` of the tensors made on it.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent or its name is not understood; the message lists the devices
        there are.
    """
    label = "device"
    if device is None and os.environ.get("ENOUGH_DEVICE", "").strip():
        label, device = "ENOUGH_DEVICE", os.environ["ENOUGH_DEVICE"].strip()
    present = available_devices()
    if device is None:
        device = "cuda" if any(d.type == "cuda" for d in present) else "cpu"
    try:
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:  # torch's answer to a name it does not know
        wanted = None
    if wanted is not None:
        if wanted.type == "cpu":
            wanted = torch.device("cpu")
        elif wanted.index is None and any(d.type == wanted.type for d in present):
            index = torch.cuda.current_device() if wanted.type == "cuda" else 0
            wanted = torch.device(wanted.type, index)
    if wanted not in present:
        raise DeviceUnavailableError(
            f"{label}: expected one of {', '.join(map(str, present))}, got {str(device)!r}"
        )
    return wanted


def compute_dtype(device: str | torch.device | None = None, purpose: str = "train") -> torch.dtype:
    """Choose the floating-point type for a device and a purpose.

    Parameters
    ----------
    device : str, torch.device, or None
        As in `resolve_device`.
    purpose : {"train", "exact"}, default "train"
        ``"train"`` is the type of the matrix products in a training loop; ``"exact"`` is for
        solves, decompositions and reference values.

    Returns
    -------
    torch.dtype
        For ``"exact"`` always ``float64``; compute it on `exact_device`. For ``"train"``:
        ``bfloat16`` on CUDA devices that have it in hardware (capability 8.0, Ampere, and
        up), ``float16`` on those with half-precision matrix units only (7.0 and 7.5, Volta
        and Turing), ``float32`` everywhere else.

    Raises
    ------
    ValueError
        If ``purpose`` is neither of the two, or the device is absent
        (`DeviceUnavailableError`).

    Notes
    -----
    The smallest normal ``float16`` is about 6e-5, so gradients underflow: scale the loss,
    for example with ``torch.amp.GradScaler``. ``bfloat16`` has the range of ``float32`` and
    needs no scaling. PyTorch also offers ``bfloat16`` on older CUDA devices, but emulates it.
    """
    check_choice(purpose, "purpose", ("train", "exact"))
    device = resolve_device(device)
    if purpose == "exact":
        return torch.float64
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        if capability >= (7, 0):
            return torch.float16
    return torch.float32


def exact_device(device: str | torch.device | None = None) -> torch.device:
    """Return where to do the ``float64`` work that belongs to a device.

    Parameters
    ----------
    device : str, torch.device, or None
        As in `resolve_device`.

    Returns
    -------
    torch.device
        The CPU for MPS, which has no ``float64``; the device itself otherwise.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.
    """
    device = resolve_device(device)
    return torch.device("cpu") if device.type == "mps" else device


def synchronize(device: str | torch.device | None = None) -> None:
    """Wait until a device has finished the work it was given.

    Parameters
    ----------
    device : str, torch.device, or None
        As in `resolve_device`. The CPU has nothing to wait for.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.
    """
    device = resolve_device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: str | torch.device | None = None) -> str:
    """Name the hardware behind a device.

    Parameters
    ----------
    device : str, torch.device, or None
        As in `resolve_device`.

    Returns
    -------
    str
        For example ``"cuda:0 (Tesla T4)"``; the model of the processor for the CPU, or its
        architecture where the system does not tell.

    Raises
    ------
    DeviceUnavailableError
        If the device is absent.
    """
    device = resolve_device(device)
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model()
    return f"{device} ({model})"


def cpu_count() -> int:
    """Count the CPUs this process may use.

    Returns
    -------
    int
        At least 1: the smallest of the CPUs present, the affinity mask, the bandwidth limit
        of the Linux control group (containers), and ``LOKY_MAX_CPU_COUNT``.
    """
    import loky  # here, since it takes longer to import than this whole room

    return loky.cpu_count()


def _cpu_model(cpuinfo: str = "/proc/cpuinfo") -> str:
    try:
        lines = Path(cpuinfo).read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, [*models, platform.processor(), platform.machine()]), "CPU")
