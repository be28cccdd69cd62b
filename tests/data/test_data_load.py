"""`load` on real files, where a data folder holds them, and on tables made for the purpose."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import checksum

from enough.data import TextCorpus, available, load, registry
from enough.data.catalog import find_entry

# Published facts about the real files: shape, and values to recognize them by.
TABLES = {
    "chinchilla_epoch": (245, ["Model Size", "Training FLOP", "loss"]),
    "chinchilla_pypi_example": (234, ["C", "N", "D", "loss"]),
    "data_constrained_muennighoff": (296, ["params", "tokens", "unique_tokens", "val_loss"]),
    "data_constrained_muennighoff_fit": (182, ["params", "tokens", "unique_tokens", "val_loss"]),
    "gadre_overtraining": (104, ["params", "tokens", "chinchilla_multiplier", "avg_err_46"]),
    "gadre_overtraining_models_raw": (104, ["hyperparameters.tokens", "hyperparameters.params"]),
    "gadre_overtraining_evals_raw": (104, ["eval_metrics.icl.arc_easy"]),
    "gadre_overtraining_grid": (435, ["value"]),
    "gadre_overtraining_eval_metadata": (51, ["#shots", "#datapoints"]),
    "isoflops_open_athena": (947, ["tokens", "params", "budget", "loss"]),
    "isoflops_open_athena_extract": (947, ["tokens", "params", "budget", "loss"]),
    "laion_clip": (56, ["mparams", "gflops"]),
    "lr_annealing_multipowerlaw": (6265, ["step", "lr", "loss"]),
    "lr_annealing_pku": (101722, ["step", "Metrics/loss", "lr"]),
    "misfitting": (261, ["loss", "N", "D", "C", "C_6ND", "peak_lr"]),
    "misfitting_checkpoints": (4852, ["loss", "N", "D", "C", "C_6ND", "peak_lr"]),
    "misfitting_dense": (300, ["N", "D"]),
    "misfitting_epoch_ai": (245, ["N", "C", "loss"]),
    "misfitting_gshard": (67, ["steps"]),
    "misfitting_sheet": (307, ["N", "D"]),
    "misfitting_spm": (70, ["steps"]),
    "nmt_bansal_alabdulmohsin": (53, ["Seen Examples", "Loss", "Training"]),
    "o1_inference": (19, ["token_limit", "accuracy", "avg_tokens_used"]),
    "porian_resolving": (1745, ["flops", "n", "tokens", "loss"]),
    "porian_resolving_optimal_pairs": (177, ["flops", "n", "t", "loss"]),
    "porian_resolving_published_fits": (15, ["basic.n_exponent"]),
    "routing_clark2022": (5799, ["num_experts", "total_parameter_count", "loss_c4"]),
    "steplaw": (1911, ["lr", "bs", "loss", "D", "N"]),
    "steplaw_fits": (1000, ["lr_coefN", "bs_coefD"]),
    "steplaw_moe": (708, ["lr", "bs", "loss", "D", "N"]),
}


def need(name, split=None):
    if not available(name, split):
        pytest.skip(f"no folder of ENOUGH_DATA and no cache holds {name} {split or ''}")


def test_every_table_of_the_registry_is_covered():
    tables = [n for n in registry().index if find_entry(n)[0].reader in ("csv", "json", "jsonl")]
    assert sorted(tables) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_real_table(name):
    need(name)
    rows, numeric = TABLES[name]
    table = load(name, download=False)
    assert len(table) == rows
    for column in numeric:
        assert pd.api.types.is_numeric_dtype(table[column]), column
        assert not pd.api.types.is_bool_dtype(table[column]), column
    assert table.attrs["name"] == name


def test_real_chinchilla_points():
    need("chinchilla_epoch")
    table = load("chinchilla_epoch", download=False)
    # The published fit set: all but the five largest losses.
    assert (table["loss"] < np.sort(table["loss"])[-5]).sum() == 240
    assert table.loc[0, "Training FLOP"] == float("9.993852799709755e+18")


def test_real_constants_become_columns():
    need("lr_annealing_multipowerlaw")
    table = load("lr_annealing_multipowerlaw", download=False)
    assert table.groupby("model")["schedule"].nunique().to_dict() == {
        "25M": 9,
        "100M": 9,
        "400M": 9,
    }
    part = load("lr_annealing_multipowerlaw", split="100", download=False)
    assert set(part["model"]) == {"100M"}
    assert len(part) == (table["model"] == "100M").sum()
    # Larger models reach lower losses on every schedule.
    final = table.groupby(["schedule", "model"])["loss"].min().unstack()
    assert (final["400M"] < final["100M"]).all()
    assert (final["100M"] < final["25M"]).all()


def test_real_mnist_test_split():
    need("mnist", "test")
    data = load("mnist", split="test", download=False)
    assert data.x.shape == (10000, 784)
    assert data.images.shape == (10000, 1, 28, 28)
    assert data.x.dtype == torch.float32
    # Class counts of the published test set; 0 and 255 both occur.
    assert data.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    assert data.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    # The corners are empty, the middle is not: rows and columns are where they belong.
    assert data.images[:, 0, 0, 0].max() == 0
    assert data.images[:, 0, 10:18, 10:18].mean() > 0.25
    # The first picture is a seven: a bar above, a stroke below, the lower left empty.
    seven = data.images[0, 0]
    assert seven[7:10].sum() > 3 * seven[12:15].sum()
    assert seven[20:, :8].max() == 0


def test_real_tinyshakespeare():
    need("tinyshakespeare")
    corpus = load("tinyshakespeare", download=False)
    assert isinstance(corpus, TextCorpus)
    assert corpus.n_bytes == 1115394
    assert bytes(corpus.train[:14].tolist()) == b"First Citizen:"
    assert corpus.sha256 == find_entry("tinyshakespeare")[0].files[0].checksums[0].value
    for split in ("train", "validation"):
        assert torch.equal(load("tinyshakespeare", split, download=False), getattr(corpus, split))


def test_real_wikitext2():
    need("wikitext2")
    part = load("wikitext2", split="validation", download=False)
    assert part.dtype == torch.uint8
    assert len(part) == 1121679
    with pytest.raises(ValueError, match="'validation', 'test', got None"):
        load("wikitext2", download=False)


def test_real_mnist1d():
    need("mnist1d")
    train, test = (load("mnist1d", split=s, download=False) for s in ("train", "test"))
    assert train.x.shape == (4000, 40)
    assert test.x.shape == (1000, 40)
    assert (train.y.min(), train.y.max()) == (0, 9)
    with pytest.raises(ValueError, match="dtype"):
        load("mnist1d", split="test", download=False, dtype=torch.uint8)


def test_real_raw_file():
    need("laion_clip_segmentation")
    path = load("laion_clip_segmentation", download=False)
    assert path.read_bytes()[:4] == b"PAR1"


# Tables made for the purpose.


def tables(write_registry, folder, reader, **parts):
    files = []
    for name, content in parts.items():
        (folder / f"{name}.dat").write_bytes(content)
        files.append(
            {
                "filename": f"{name}.dat",
                "split": name,
                "constants": {"part": name, "rank": len(files)},
                "made": "in a test",
                "checksums": [checksum(content)],
            }
        )
    return write_registry(tiny=(reader, files, {}))


@pytest.fixture
def folder(tmp_path, sandbox, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_numbers_are_read_to_the_last_bit(write_registry, folder):
    rng = np.random.default_rng(0)
    values = [repr(float(v)) for v in rng.random(2000) * 10.0 ** rng.integers(-20, 25, 2000)]
    path = tables(write_registry, folder, "csv", a="\n".join(["v", *values]).encode())
    assert load("tiny", registry=path)["v"].tolist() == [float(v) for v in values]


def test_integers_beyond_64_bits_become_floats(write_registry, folder):
    content = b"big,small,text\n118346785246080000000000,1,7B\n9456351902178213888,2,12M\n"
    table = load("tiny", registry=tables(write_registry, folder, "csv", a=content))
    assert table["big"].tolist() == [1.1834678524608e23, 9456351902178213888.0]
    assert table["big"].dtype == np.float64
    assert table["small"].dtype == np.int64
    assert table["text"].tolist() == ["7B", "12M"]


def test_parts_are_joined_with_their_constants(write_registry, folder):
    path = tables(write_registry, folder, "csv", a=b"v\n1\n2\n", b=b"v\n3\n")
    table = load("tiny", registry=path)
    assert list(table.columns) == ["part", "rank", "v"]
    assert table.to_dict("list") == {"part": ["a", "a", "b"], "rank": [0, 0, 1], "v": [1, 2, 3]}
    assert table.index.tolist() == [0, 1, 2]
    assert load("tiny", split="b", registry=path)["v"].tolist() == [3]
    with pytest.raises(ValueError, match="'a', 'b', got 'c'"):
        load("tiny", split="c", registry=path)


def test_json_forms(write_registry, folder):
    records = [{"a": 1, "b": {"c": 2.5}}, {"a": 2, "b": {"c": math.pi}}]
    lines = "\n".join(map(json.dumps, records)).encode() + b"\n\n"
    for reader, content in (("json", json.dumps(records).encode()), ("jsonl", lines)):
        table = load("tiny", registry=tables(write_registry, folder, reader, x=content))
        assert table["b.c"].tolist() == [2.5, math.pi]
    mapping = json.dumps({"run-1": 0.5, "run-2": 0.25}).encode()
    table = load("tiny", registry=tables(write_registry, folder, "json", x=mapping))
    assert table["run"].tolist() == ["run-1", "run-2"]
    assert table["value"].tolist() == [0.5, 0.25]


def test_a_set_without_parts_refuses_a_split(write_registry, folder):
    (folder / "t.csv").write_bytes(b"v\n1\n")
    file = {"filename": "t.csv", "made": "in a test", "checksums": [checksum(b"v\n1\n")]}
    path = write_registry(tiny=("csv", [file], {}))
    with pytest.raises(ValueError, match="has no parts; got 'train'"):
        load("tiny", split="train", registry=path)


def test_unknown_name_lists_the_names():
    for call in (load, available):
        with pytest.raises(ValueError, match=r"cifar10, .*mnist, .*got 'minst'"):
            call("minst")
