"""Memory: peaks that are this process's own, limits that are respected, work cut to fit."""

import math
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from enough import runtime
from enough.runtime import memory as module

MIB = 2**20


class FakeCounter:
    """A CUDA device's counters: current bytes, and their peak since the last reset."""

    def __init__(self):
        self.current = self.peak = 0

    def use(self, size):
        self.current = size
        self.peak = max(self.peak, size)

    def reset(self, device):
        self.peak = self.current


@pytest.fixture
def gpu(monkeypatch):
    counter = FakeCounter()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counter.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", counter.reset)
    monkeypatch.setattr(module, "_process_peaks", {})
    return counter


def test_host_peak_rises_with_what_is_touched_and_stays():
    """In a fresh process, while this one is large: a peak must not be inherited from it."""
    ballast = np.ones(600 * MIB // 8)
    script = (
        "import numpy as np; from enough import runtime\n"
        "with runtime.peak_memory('cpu') as before: pass\n"
        "with runtime.peak_memory('cpu') as during: x = np.ones(200 * 2**20 // 8)\n"
        "del x; print(before.host, during.host, runtime.peak_memory('cpu').host, before.device)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    before, during, after = map(int, answer[:3])
    assert before < ballast.nbytes <= runtime.peak_memory("cpu").host
    assert 195 * MIB < during - before < 300 * MIB
    assert after > during - 4 * MIB  # Linux counts pages in batches per CPU
    assert answer[3] == "None"


def test_host_peak_without_proc_reads_getrusage_in_the_platform_s_unit(monkeypatch, tmp_path):
    absent = str(tmp_path / "absent")
    raw = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", "darwin")
    assert module._host_peak(absent) == pytest.approx(raw, rel=0.05)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert module._host_peak(absent) == pytest.approx(raw * 1024, rel=0.05)


def test_host_peak_reads_the_high_water_mark(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  123 kB\nVmRSS:\t   77 kB\n")
    assert module._host_peak(str(status)) == 123 * 1024


def test_the_device_peak_is_that_of_the_block(gpu):
    gpu.use(900)
    gpu.use(100)
    with runtime.peak_memory("cuda") as peak:
        gpu.use(400)
        gpu.use(150)
        assert peak.device == 400
    gpu.use(5000)
    assert peak.device == 400
    assert runtime.peak_memory("cuda").device == 5000


def test_an_inner_block_does_not_hide_the_peak_of_the_outer_one_or_the_process(gpu):
    gpu.use(2000)
    gpu.use(0)
    with runtime.peak_memory("cuda") as outer:
        gpu.use(700)
        gpu.use(10)
        with runtime.peak_memory("cuda") as inner:
            gpu.use(300)
        gpu.use(20)
    assert (inner.device, outer.device) == (300, 700)
    assert runtime.peak_memory("cuda").device == 2000


def test_a_block_can_be_entered_again(gpu):
    peak = runtime.peak_memory("cuda")
    with peak:
        gpu.use(500)
    gpu.use(5)
    with peak:
        gpu.use(40)
    assert peak.device == 40


def test_available_memory_of_the_host_is_below_what_is_installed():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < runtime.available_memory() < total


def test_available_memory_of_a_gpu_counts_what_the_allocator_holds_unused(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 8000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 600)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 250)
    assert runtime.available_memory("cuda") == 1350


def write_group(folder, limit, usage, inactive, names):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {inactive}\n")


V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def test_the_tightest_control_group_counts(tmp_path):
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    membership.write_text("0::/box/job\n")
    assert module._group_headroom(membership, root) == math.inf  # not mounted
    write_group(root / "box" / "job", "max", 100, 0, V2)
    assert module._group_headroom(membership, root) == math.inf  # no limit
    write_group(root / "box", 1000, 400, 150, V2)
    assert module._group_headroom(membership, root) == 750  # the parent's limit
    write_group(root / "box" / "job", 500, 100, 50, V2)
    assert module._group_headroom(membership, root) == 450
    write_group(root / "box" / "job", 500, 800, 0, V2)
    assert module._group_headroom(membership, root) == 0


def test_the_older_control_groups_count_too(tmp_path):
    membership = tmp_path / "cgroup"
    membership.write_text("5:memory:/docker/abc\n1:cpu:/docker/abc\n")
    write_group(tmp_path / "fs" / "memory", 1000, 400, 30, V1)
    assert module._group_headroom(membership, tmp_path / "fs") == 630
    assert module._group_headroom(tmp_path / "absent", tmp_path / "fs") == math.inf


def test_a_control_group_lowers_the_available_memory(monkeypatch):
    monkeypatch.setattr(module, "_group_headroom", lambda membership, root: 12345)
    assert runtime.available_memory() == 12345


@given(
    n=st.integers(0, 200),
    bytes_each=st.one_of(st.integers(1, 50), st.floats(0.25, 50)),
    limit=st.one_of(st.integers(1, 500), st.floats(0.5, 500)),
)
def test_chunks_cover_the_range_once_within_the_limit(n, bytes_each, limit):
    slices = list(runtime.chunks(n, bytes_each, limit))
    items = list(range(n))
    assert [i for part in slices for i in items[part]] == items
    sizes = [part.stop - part.start for part in slices]
    assert all(size == 1 or size * bytes_each <= limit * (1 + 1e-12) for size in sizes)
    # As few as possible: one more item in a slice would break the limit.
    assert all((size + 1) * bytes_each > limit * (1 - 1e-12) for size in sizes[:-1])


def test_chunks_by_hand():
    assert list(runtime.chunks(7, 10, 35)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(runtime.chunks(2, 100, 1)) == [slice(0, 1), slice(1, 2)]
    assert list(runtime.chunks(5, 8, math.inf)) == [slice(0, 5)]
    assert list(runtime.chunks(0, 8, 64)) == []


def test_the_default_limit_is_a_quarter_of_the_available_memory(monkeypatch):
    monkeypatch.setattr(
        module, "available_memory", lambda device: {"cpu": 400, "cuda": 800}[device]
    )
    assert list(runtime.chunks(25, 10)) == [slice(0, 10), slice(10, 20), slice(20, 25)]
    assert list(runtime.chunks(25, 10, device="cuda")) == [slice(0, 20), slice(20, 25)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 8, 64), r"^n: expected a number >= 0, got -1"),
        ((2.5, 8, 64), r"^n: expected a whole number"),
        ((10, 0, 64), r"^bytes_each: expected a number > 0"),
        ((10, math.nan, 64), r"^bytes_each: expected a finite number"),
        ((10, 8, 0), r"^limit: expected a number > 0"),
        ((10, 8, "1G"), r"^limit: expected a number, got '1G'"),
    ],
)
def test_chunks_refuses_bad_arguments_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        runtime.chunks(*arguments)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_on_a_real_gpu_the_peak_is_the_tensor():
    with runtime.peak_memory("cuda") as peak:
        base = torch.cuda.memory_allocated()
        torch.ones(64 * MIB // 4, device="cuda")
    assert peak.device == base + 64 * MIB
    assert runtime.available_memory("cuda") > 0
