"""Trainings of two processes against the same trainings of one."""

import json
import os
import shutil
import socket
import subprocess
import sys

import distributed_worker as worker
import pytest
import torch
from torch import nn

from enough.training import distributed, load_checkpoint

# Two processes add the same float64 numbers in another order: of a gradient, a few dozen terms
# of at most 1, so that its entries differ by at most 1e-15. An update of AdamW changes by at most
# lr / eps = 3e-3 / 1e-6 times that, ten updates by ten times, 3e-11 in all. Losses are smoother.
EXACT = {"rtol": 0.0, "atol": 1e-10}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def alone():
    """The trainings of one process, each done once."""
    done = {}

    def answer(name):
        if name not in done:
            options = worker.CASES.get(name, {"sgd": name == "sgd"})
            options = {k: v for k, v in options.items() if k != "accumulate"}
            done[name] = worker.train(**options)
        return done[name]

    return answer


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes made: their results, and what each said."""
    folder = tmp_path_factory.mktemp("two")
    assert worker.stopped_and_resumed(worker.train, folder / "begun-by-one") == 5
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    done = subprocess.run(
        [*command, *place, worker.__file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = torch.load(folder / "results.pt", weights_only=True)
    said = [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    return folder, results, said


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("how", worker.STRATEGIES)
@pytest.mark.parametrize("case", worker.CASES)
def test_two_processes_train_as_one(two, alone, case, how):
    same(two[1][case, how], alone(case))


def test_what_two_processes_could_do_wrong_would_be_seen(alone):
    """Clipping and the shares of the rows matter here by far more than the tolerance."""
    free = worker.train(clip=None)
    assert (free["losses"] - alone("unequal")["losses"]).abs().max() > 1e-4

    def unweighted(logits, targets):
        halves = [worker.next_token_loss(logits[r], targets[r]) for r in (slice(2), slice(2, 5))]
        return sum(halves) / 2

    tokens = worker.sequences(5, torch.Generator().manual_seed(0))
    logits = torch.randn(5, 6, 13, generator=torch.Generator().manual_seed(0))
    targets = worker.pairs(tokens)[1]
    assert abs(unweighted(logits, targets) - worker.next_token_loss(logits, targets)) > 1e-3


def test_accumulation_of_one_process_changes_nothing(alone):
    same(worker.train(**worker.CASES["accumulated"]), alone("unequal"))


@pytest.mark.parametrize("how", worker.STRATEGIES)
def test_one_process_goes_on_where_two_were_stopped(two, alone, tmp_path, how):
    folder, _, said = two
    assert [one[f"{how} stopped"] for one in said] == [5, 5]  # the signal went to one of them
    path = shutil.copy(folder / f"{how}-begun-by-two", tmp_path)
    assert load_checkpoint(path)["step"] == 5
    same(worker.train(checkpoint=path), alone("unequal"))


@pytest.mark.parametrize("how", worker.STRATEGIES)
def test_two_processes_go_on_where_one_was_stopped(two, alone, how):
    same(two[1]["one then two", how], alone("unequal"))


@pytest.mark.parametrize("how", worker.STRATEGIES)
def test_two_processes_go_on_with_an_optimizer_without_state(two, alone, how):
    same(two[1]["sgd", how], alone("sgd"))


def test_checkpoints_of_one_and_of_two_hold_the_same_entries(two):
    one = load_checkpoint(two[0] / "begun-by-one")
    for how in worker.STRATEGIES:
        other = load_checkpoint(two[0] / f"{how}-begun-by-two")
        assert other.keys() == one.keys()
        assert other["optimizer"]["param_groups"] == one["optimizer"]["param_groups"]
        for part in ("model", "optimizer", "losses", "evaluations", "generator"):
            same(other[part], one[part])


@pytest.mark.parametrize("how", worker.STRATEGIES)
def test_processes_agree(two, how):
    for said in two[2]:
        assert said[f"{how} ended"] == 5
        assert "could not read" in said[f"{how} damaged"]


def test_processes_share_the_data_and_draw_their_own_noise(two):
    noise, batches = two[1]["streams"]
    assert noise[0] != noise[1]
    assert torch.equal(*batches)


def test_mistakes_of_a_group_are_named(two):
    for said in two[2]:
        assert said["not spread"].startswith("model: expected what enough.training.distributed")
        assert said["no group"].startswith("group: expected the group over which")
        assert said["ragged"].startswith("data: expected batches whose tensors have one first")
        if "fsdp" in worker.STRATEGIES:
            assert said["float16"].startswith("precision: expected another than float16")


def test_auto_cuts_the_model_where_one_process_lacks_room(two):
    for said in two[2]:
        assert said["auto"] == ["ddp", worker.STRATEGIES[-1]]


@pytest.mark.parametrize(("rows", "size", "pieces"), [(7, 2, 1), (7, 3, 2), (2, 4, 1), (1, 2, 3)])
def test_shares_are_the_batch(rows, size, pieces):
    taken, shares = [], []
    for rank in range(size):
        parts = distributed.Group(rank, size, torch.device("cpu")).shares(rows, pieces)
        assert len(parts) == pieces
        for part, share in parts:
            assert part.stop > part.start
            taken += range(rows)[part] if share else []
            shares.append(share)
    assert taken == list(range(rows))
    assert sum(shares) == pytest.approx(1.0, abs=1e-15)
    real = [share * rows for share in shares]
    assert max(real) - min(real) < 1 + 1e-12


def test_without_torchrun_the_group_is_this_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.start("cpu") as group:
        assert (group.rank, group.size, group.main) == (0, 1, True)
        model = nn.Linear(2, 1)
        assert distributed.parallelize(model, group, "fsdp") is model
        assert distributed.strategy_of(model) is None
        assert group.share(lambda: {"a": 1}) == {"a": 1}
        assert group.any(True)
        assert not group.any(False)


def test_memory_is_counted():
    model = nn.Linear(10, 6)  # 66 parameters of 4 bytes
    assert distributed.training_bytes(model) == 4 * 66 * 4
    assert distributed.training_bytes(model.double(), 100) == 4 * 66 * 8 + 200
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 10, dtype=torch.float64)).sum().backward()
    optimizer.step()
    averages = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    held = [*model.parameters(), *(p.grad for p in model.parameters()), *averages]
    assert distributed.training_bytes(model) == sum(t.numel() * t.element_size() for t in held)


@pytest.mark.parametrize(
    ("factor", "able", "how"), [(1.01, True, "ddp"), (0.99, True, "fsdp"), (0.99, False, "ddp")]
)
def test_auto_leaves_a_fifth_of_the_memory(monkeypatch, factor, able, how):
    model = nn.Linear(10, 6)
    free = int(factor * distributed.training_bytes(model, 100) / 0.8 * 3)
    monkeypatch.setattr(distributed, "available_memory", lambda device: free)
    monkeypatch.setattr(distributed, "can_cut", lambda device: able)
    group = distributed.Group(0, 1, torch.device("cpu"), local_size=3)
    assert distributed.choose_strategy(model, group, 100) == how


def test_where_a_model_cannot_be_cut_the_message_says_so(monkeypatch):
    monkeypatch.setattr(distributed, "can_cut", lambda device: False)
    with pytest.raises(ValueError, match=r'how: expected "ddp" on a CPU with torch older than'):
        distributed.parallelize(
            nn.Linear(1, 1), distributed.Group(0, 2, torch.device("cpu")), "fsdp"
        )


def test_bad_arguments_are_named():
    group = distributed.Group(0, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match="how: expected"):
        distributed.parallelize(nn.Linear(1, 1), group, "zero")
    with pytest.raises(ValueError, match="activations: expected"):
        distributed.training_bytes(nn.Linear(1, 1), -1)
    with pytest.raises(ValueError, match="group: expected what"):
        worker.fit(nn.Linear(1, 1), torch.ones(1, 1), steps=1, loss=sum, group=2)
    with pytest.raises(ValueError, match="accumulate: expected"):
        worker.fit(nn.Linear(1, 1), torch.ones(1, 1), steps=1, loss=sum, accumulate=0)
