"""Device, preset, seeds, precision, time and memory: the ground every room stands on."""

from enough.runtime.device import (
    DeviceUnavailableError,
    available_devices,
    compute_dtype,
    cpu_count,
    device_name,
    exact_device,
    resolve_device,
    synchronize,
)
from enough.runtime.memory import available_memory, chunks, peak_memory
from enough.runtime.notebook import kernel
from enough.runtime.progress import progress
from enough.runtime.randomness import as_generator, derive_seed, named_generator
from enough.runtime.run import PRESETS, Run, current_run, start
from enough.runtime.timing import stopwatch

__all__ = [
    "PRESETS",
    "DeviceUnavailableError",
    "Run",
    "as_generator",
    "available_devices",
    "available_memory",
    "chunks",
    "compute_dtype",
    "cpu_count",
    "current_run",
    "derive_seed",
    "device_name",
    "exact_device",
    "kernel",
    "named_generator",
    "peak_memory",
    "progress",
    "resolve_device",
    "start",
    "stopwatch",
    "synchronize",
]
