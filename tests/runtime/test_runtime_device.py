"""Devices: what is found, what is refused, and which numbers each one computes with."""

import os

import pytest
import torch

from enough import runtime
from enough.runtime import device as module


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.delenv("ENOUGH_DEVICE", raising=False)


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two CUDA devices, the second of which is the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_without_accelerator_the_cpu_is_default_and_only_choice(no_accelerator):
    assert runtime.available_devices() == [torch.device("cpu")]
    assert runtime.resolve_device() == torch.device("cpu")


@pytest.mark.parametrize("asked", ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_cpu_equals_the_device_of_its_tensors(asked):
    device = runtime.resolve_device(asked)
    assert device == torch.zeros(1, device=asked).to("cpu").device == torch.zeros(1).device


@pytest.mark.parametrize("asked", ["cuda", "cuda:3", "mps", "meta", "tpu9", "", 3.5, 0, True])
def test_absent_or_unknown_devices_are_refused_with_the_choices(no_accelerator, asked):
    with pytest.raises(runtime.DeviceUnavailableError) as caught:
        runtime.resolve_device(asked)
    assert str(caught.value) == f"device: expected one of cpu, got {str(asked)!r}"
    assert isinstance(caught.value, ValueError)


def test_cuda_is_the_default_and_carries_its_index(two_gpus):
    assert [str(d) for d in runtime.available_devices()] == ["cpu", "cuda:0", "cuda:1"]
    assert runtime.resolve_device() == torch.device("cuda", 1)
    assert runtime.resolve_device("cuda") == torch.device("cuda", 1)
    assert runtime.resolve_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(runtime.DeviceUnavailableError, match="one of cpu, cuda:0, cuda:1, got"):
        runtime.resolve_device("cuda:2")


def test_mps_only_on_request(apple):
    assert runtime.resolve_device() == torch.device("cpu")
    assert runtime.resolve_device("mps") == torch.device("mps", 0)


def test_environment_names_the_device_and_the_argument_wins(two_gpus, monkeypatch):
    monkeypatch.setenv("ENOUGH_DEVICE", " cpu ")
    assert runtime.resolve_device() == torch.device("cpu")
    assert runtime.resolve_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("ENOUGH_DEVICE", "cuda:7")
    with pytest.raises(runtime.DeviceUnavailableError, match=r"^ENOUGH_DEVICE: .*'cuda:7'"):
        runtime.resolve_device()
    monkeypatch.setenv("ENOUGH_DEVICE", "  ")
    assert runtime.resolve_device() == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float32),  # Pascal: half precision at 1/64 of the rate
        ((7, 0), torch.float16),  # Volta
        ((7, 5), torch.float16),  # Turing
        ((8, 0), torch.bfloat16),  # Ampere
        ((8, 9), torch.bfloat16),  # Ada
        ((9, 0), torch.bfloat16),  # Hopper
        ((10, 0), torch.bfloat16),  # Blackwell
    ],
)
def test_training_type_follows_what_the_hardware_has(two_gpus, monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert runtime.compute_dtype("cuda") == dtype
    assert runtime.compute_dtype("cuda", "exact") == torch.float64
    assert runtime.exact_device("cuda:0") == torch.device("cuda", 0)


def test_cpu_and_mps_train_in_float32_and_mps_solves_on_the_cpu(apple):
    assert runtime.compute_dtype("cpu") == runtime.compute_dtype("mps") == torch.float32
    assert runtime.compute_dtype("mps", purpose="exact") == torch.float64
    assert runtime.exact_device("mps") == runtime.exact_device("cpu") == torch.device("cpu")


def test_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match=r"^purpose: expected one of 'train', 'exact', got 'fast'"):
        runtime.compute_dtype("cpu", "fast")


def test_synchronize_waits_for_the_device_it_was_given(two_gpus, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    runtime.synchronize("cpu")
    assert waited == []
    runtime.synchronize("cuda:0")
    assert waited == [torch.device("cuda", 0)]


def test_synchronize_waits_for_mps(apple, monkeypatch):
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    runtime.synchronize("mps")
    assert waited == ["mps"]


def test_device_names(two_gpus, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU number {device.index}")
    assert runtime.device_name("cuda:0") == "cuda:0 (GPU number 0)"
    assert runtime.device_name("cpu").startswith("cpu (")

    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus 9000 @ 1 Hz\nprocessor\t: 1\n")
    assert module._cpu_model(str(cpuinfo)) == "Abacus 9000 @ 1 Hz"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 48.00\n")  # as ARM processors report
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert module._cpu_model(str(cpuinfo)) == "aarch64"
    assert module._cpu_model(str(tmp_path / "absent")) == "aarch64"


def test_cpu_count_respects_affinity_and_the_variable(monkeypatch):
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    assert 1 <= runtime.cpu_count() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert runtime.cpu_count() == 1
    monkeypatch.undo()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert runtime.cpu_count() == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_real_gpu_the_device_matches_its_tensors_and_the_type_works():
    device = runtime.resolve_device("cuda")
    dtype = runtime.compute_dtype(device)
    product = torch.ones(8, 8, device=device, dtype=dtype) @ torch.ones(8, 8, device=device).to(
        dtype
    )
    assert product.device == device
    assert product.float().eq(8).all()
