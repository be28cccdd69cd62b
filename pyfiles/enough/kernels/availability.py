"""Whether Triton kernels can run here."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

__all__ = ["triton_available"]


def triton_available(device: torch.device | str) -> bool:
    """Say whether the Triton kernels run on a device.

    Parameters
    ----------
    device : torch.device or str
        Where the tensors live.

    Returns
    -------
    bool
        True on an NVIDIA GPU of compute capability 8.0 (Ampere) or newer where the package
        ``triton`` is installed. Triton has no int8 product for older ones. With its
        interpreter switched on (``TRITON_INTERPRET=1``) also on the CPU, to debug kernels.

    Examples
    --------
    >>> from enough.kernels import triton_available
    >>> triton_available("meta")
    False
    """
    device = torch.device(device)
    if device.type == "cuda":
        fits = torch.version.hip is None and torch.cuda.is_available()
        fits = fits and torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fits = device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return fits and _triton_installed()


@functools.cache
def _triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
