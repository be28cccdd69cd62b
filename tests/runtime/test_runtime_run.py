"""Run: preset, seed and device are settled once, from arguments, variables and hardware."""

import platform
import re

import pytest
import torch

import enough
from enough import runtime


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch):
    for variable in ("ENOUGH_DEVICE", "ENOUGH_PRESET", "ENOUGH_SEED"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_defaults_on_a_machine_without_gpu():
    run = runtime.start()
    assert (run.device, run.preset, run.seed) == (torch.device("cpu"), "cpu", 0)


def test_the_preset_follows_the_device_in_use(gpu):
    assert runtime.start().preset == "gpu"
    assert runtime.start(device="cpu").preset == "cpu"


def test_preset_argument_then_variable_then_hardware(gpu, monkeypatch):
    monkeypatch.setenv("ENOUGH_PRESET", "full")
    assert runtime.start().preset == "full"
    assert runtime.start(preset="cpu").preset == "cpu"
    monkeypatch.setenv("ENOUGH_PRESET", "")
    assert runtime.start().preset == "gpu"


def test_unknown_presets_are_refused_with_the_choices(monkeypatch):
    choices = "expected one of 'cpu', 'gpu', 'full', got 'huge'"
    with pytest.raises(ValueError, match=f"^preset: {choices}"):
        runtime.start(preset="huge")
    monkeypatch.setenv("ENOUGH_PRESET", "huge")
    with pytest.raises(ValueError, match=f"^ENOUGH_PRESET: {choices}"):
        runtime.start()


def test_absent_device_is_refused():
    with pytest.raises(runtime.DeviceUnavailableError, match=r"^device: expected one of cpu"):
        runtime.start(device="cuda")


def test_seed_variable_takes_the_place_of_the_seed(monkeypatch):
    assert runtime.start(seed=5).seed == 5
    monkeypatch.setenv("ENOUGH_SEED", "12")
    assert runtime.start().seed == runtime.start(seed=5).seed == 12


@pytest.mark.parametrize("value", ["-1", "1.5", "one", "0x3", "²", "1 2"])
def test_bad_seed_variables_are_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("ENOUGH_SEED", value)
    with pytest.raises(ValueError, match=r"^ENOUGH_SEED: expected a whole number >= 0, got"):
        runtime.start()


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"^seed: expected"):
        runtime.start(seed=seed)


def test_streams_are_paired_by_name_and_differ_between_names_and_seeds():
    run = runtime.start(seed=1)

    def draw(run, *names):
        return torch.randn(1000, generator=run.generator(*names))

    assert torch.equal(draw(run, "data", 3), draw(run, "data", 3))
    others = [
        draw(run, "data", 4),
        draw(run, "data", "3"),
        draw(run, "data"),
        draw(run, "noise", 3),
        draw(runtime.start(seed=2), "data", 3),
    ]
    for other in others:
        # Independent streams of 1000 numbers: a correlation has a standard deviation of 0.032.
        correlation = torch.corrcoef(torch.stack([draw(run, "data", 3), other]))[0, 1]
        assert abs(correlation) < 0.16


def test_streams_do_not_depend_on_preset_or_device(gpu):
    on_gpu = runtime.start(seed=3, preset="full").generator("weights")
    on_cpu = runtime.start(seed=3, device="cpu").generator("weights")
    assert on_gpu.device == on_cpu.device == torch.device("cpu")
    assert on_gpu.initial_seed() == on_cpu.initial_seed()
    assert on_gpu.initial_seed() == runtime.named_generator(3, "weights").initial_seed()


def test_a_stream_on_an_absent_device_is_refused():
    with pytest.raises(runtime.DeviceUnavailableError, match="'cuda'"):
        runtime.start().generator("weights", device="cuda")


def test_starting_changes_no_global_state():
    random, default, threads = (
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    torch.rand(3, generator=runtime.start(seed=9).generator("x"))
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_default_dtype(), torch.get_num_threads()) == (default, threads)


@pytest.mark.parametrize("preset", ["cpu", "gpu", "full"])
def test_pick_returns_the_dials_of_the_preset(preset):
    run = runtime.start(preset=preset)
    dial = run.pick(
        cpu={"widths": 24, "name": "cpu"},
        gpu={"widths": 64, "name": "gpu"},
        full={"widths": 128, "name": "full"},
    )
    assert vars(dial) == {"widths": {"cpu": 24, "gpu": 64, "full": 128}[preset], "name": preset}


def test_pick_names_the_preset_that_is_missing():
    run = runtime.start(preset="full")
    with pytest.raises(ValueError, match=r"^full: this run's preset .* only cpu, gpu given"):
        run.pick(cpu={"n": 1}, gpu={"n": 2})
    with pytest.raises(ValueError, match=r"^full: .* only none given"):
        run.pick()
    assert runtime.start(preset="cpu").pick(cpu={"n": 1}).n == 1


def test_pick_refuses_presets_with_different_dials_whichever_runs():
    with pytest.raises(ValueError, match=r"^gpu: expected the same dials .*, 'seeds' missing"):
        runtime.start(preset="cpu").pick(cpu={"n": 1, "seeds": 2}, gpu={"n": 2})
    with pytest.raises(ValueError, match=r"^cpu: expected the same dials .*, 'steps' missing"):
        runtime.start(preset="cpu").pick(cpu={"n": 1}, gpu={"n": 2, "steps": 3})


def test_pick_refuses_what_is_not_a_mapping():
    with pytest.raises(ValueError, match=r"^gpu: expected a mapping of dials, got int"):
        runtime.start().pick(cpu={"n": 1}, gpu=5)


def test_report_is_one_line_with_everything_in_it():
    report = runtime.start(seed=41, preset="full").report()
    assert "\n" not in report
    for part in (
        runtime.device_name("cpu"),
        "preset full",
        "seed 41",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"enough {enough.__version__}",
        f"{torch.get_num_threads()} threads",
        "float32",
    ):
        assert part in report
    peak = float(re.search(r"host peak (\d+\.\d\d) GiB$", report)[1])
    assert peak == pytest.approx(runtime.peak_memory("cpu").host / 2**30, abs=0.02)


def test_report_on_a_gpu_adds_its_peak(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    report = runtime.start().report()
    assert report.startswith("cuda:0 (Tesla T4), preset gpu, seed 0,")
    assert ", float16," in report
    assert report.endswith(", device peak 1.50 GiB")


def test_a_run_cannot_be_changed_half_way():
    with pytest.raises(AttributeError):
        runtime.start().seed = 3
