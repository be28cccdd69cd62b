"""The command that trains one language model: two processes against one, and its mistakes."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from enough.data import DataUnavailableError
from enough.models import Transformer
from enough.scaling import pretrain as module
from enough.scaling.experiments import measuring
from enough.scaling.pretrain import byte_config, main, pretrain
from enough.training import History, TrainingInterrupted
from enough.training.distributed import Group, can_cut

HOW = "fsdp" if can_cut(torch.device("cpu")) else "ddp"
SMALL = {"width": 16, "layers": 1, "context": 16, "batch": 8, "tokens": 10 * 8 * 16}

# In float64 a gradient differs by at most 1e-15 between two orders of adding it up, so an update
# of AdamW by lr / eps = 4e-3 / 1e-8 times that, 4e-10, and ten updates by 4e-9 in all.
EXACT = {"rtol": 0.0, "atol": 4e-9}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def words(**options):
    return [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "rhymes.txt"
    path.write_text("".join(f"{i} little ducks went out one day\n" for i in range(300)))
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory, text):
    """What two processes write: the record, the checkpoint, and what they print."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    files = words(out=folder / "record.json", checkpoint=folder / "state", text=text)
    how = words(parallel=HOW, precision="float64", accumulate=2, evaluation=13)
    done = subprocess.run(
        [*command, *place, "-m", "enough.scaling.pretrain", *words(**SMALL), *files, *how],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done.stdout


def test_two_processes_write_the_losses_of_one(two, text):
    theirs = json.loads((two[0] / "record.json").read_text())
    ours = pretrain(**SMALL, text=text, precision="float64", evaluation=13, progress=False)
    assert (theirs["processes"], theirs["spread"], theirs["updates"]) == (2, HOW, 10)
    assert (ours["processes"], ours["spread"]) == (1, None)
    for name in ("losses", "held_out"):
        np.testing.assert_allclose(theirs[name], ours[name], **EXACT)
    for name in ("params", "tokens", "learning_rates", "held_out_updates", "text", "seed"):
        assert theirs[name] == ours[name]
    assert ours["held_out"][-1] < ours["held_out"][0] - 0.1
    assert two[1].count("update 10 of 10: ") == 1  # one process speaks


def test_one_process_goes_on_from_what_two_kept(two, text, capsys):
    folder, _ = two
    options = words(**SMALL, text=text, checkpoint=folder / "state", out=folder / "again.json")
    assert main([*options, *words(precision="float64", device="cpu")]) == 0
    again = json.loads((folder / "again.json").read_text())
    assert again["resumed_at"] == 10
    assert again["tokens_per_second"] == 0
    assert again["losses"] == json.loads((folder / "record.json").read_text())["losses"]
    assert main([*options, *words(seed=1, device="cpu")]) == 1
    assert "was begun with seed 0, got 1" in capsys.readouterr().err


def test_the_family_is_that_of_the_chapter(monkeypatch):
    built = []

    def build(config, **options):
        built.append(config)
        return Transformer(config, **options)

    monkeypatch.setattr(measuring, "Transformer", build)
    for width in (8, 32, 48):
        measuring.byte_point(
            width, kind="transformer", layers=3, steps=2, batch=2, members=1, evaluation=2
        )
        assert set(built) == {byte_config(width, 3, 8)}
        built.clear()


def test_the_record_counts_and_starts_again(text, tmp_path):
    options = SMALL | {"text": text, "checkpoint": tmp_path / "state", "progress": False}
    first = pretrain(**options, schedule="cosine", evaluations=3)
    assert first["updates"] == len(first["losses"]) == len(first["learning_rates"]) == 10
    assert first["tokens"] == 10 * 8 * 16
    assert first["held_out_updates"] == [3, 6, 9, 10]
    assert first["precision"] == "float32"
    second = pretrain(**options, schedule="constant", resume=False)
    assert second["resumed_at"] == 0
    assert second["learning_rates"] == [4e-3] * 10
    assert pretrain(**options, schedule="constant")["resumed_at"] == 10


def test_a_loss_that_is_not_finite_is_null(text):
    record = pretrain(**SMALL, text=text, lr=1e30, progress=False)
    assert None in record["losses"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_activations_are_measured_per_window():
    model = Transformer(byte_config(16, 1, 16), generator=0)
    window = torch.zeros(1, 17, dtype=torch.long)
    one, two, nine = (module._activations(model, window, rows, None) for rows in (1, 2, 9))
    assert nine - one == 8 * (two - one) > 0
    x = torch.zeros(9, 16, dtype=torch.long)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(x)
    sizes = {t.untyped_storage().data_ptr(): t.numel() * t.element_size() for t in kept}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert nine >= sum(size for place, size in sizes.items() if place not in own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7, "accumulate": 2}, r"batch: expected a multiple of 2 \(processes times"),
        ({"batch": 0}, "batch: expected"),
        ({"width": 20, "layers": 0}, "layers: expected"),
        ({"width": 17}, "width: expected a multiple of 16"),
        ({"width": 50}, "width: expected a multiple of 16"),
        ({"tokens": 100}, "tokens: expected at least batch times context = 128, got 100"),
        ({"context": 2000, "tokens": 1e6}, "context: expected less than the .* bytes"),
        ({"warmup": 1.0}, "warmup: expected a share"),
        ({"schedule": "steep"}, "schedule: expected"),
        ({"precision": "int8"}, "precision: expected"),
        ({"parallel": "zero"}, "parallel: expected"),
        ({"lr": 0.0}, "lr: expected"),
        ({"clip": -1.0}, "clip: expected"),
        ({"weight_decay": -1.0}, "weight_decay: expected"),
        ({"evaluation": 0}, "evaluation: expected"),
        ({"evaluations": 0}, "evaluations: expected"),
        ({"accumulate": 0}, "accumulate: expected"),
    ],
)
def test_mistakes_are_named(text, change, message):
    with pytest.raises(ValueError, match=message):
        pretrain(**(SMALL | {"text": text, "progress": False} | change))


def test_a_batch_that_the_processes_cannot_share_is_refused(text):
    group = Group(0, 3, torch.device("cpu"))
    with pytest.raises(ValueError, match="batch: expected a multiple of 6"):
        pretrain(**SMALL, text=text, accumulate=2, group=group)


def test_a_missing_text_is_one_sentence(tmp_path, capsys):
    missing = tmp_path / "nothing"
    with pytest.raises(DataUnavailableError):
        pretrain(**SMALL, text=missing)
    assert main([*words(text=missing, device="cpu", out=tmp_path / "record.json")]) == 1
    assert capsys.readouterr().err.startswith("error: source: expected")
    assert not (tmp_path / "record.json").exists()


def test_an_interrupt_ends_with_a_sentence(tmp_path, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise TrainingInterrupted("stopped", History(*[np.empty(0)] * 3), 3)

    monkeypatch.setattr(module, "pretrain", stop)
    assert main(words(device="cpu", out=tmp_path / "record.json")) == 130
    assert capsys.readouterr().err == "interrupted: stopped\n"
    assert not (tmp_path / "record.json").exists()


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "torchrun --standalone" in told
    for name in ("--parallel", "--checkpoint", "--no-resume", "--accumulate", "--precision"):
        assert name in told
