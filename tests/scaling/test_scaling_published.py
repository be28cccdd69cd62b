"""Published tables and their stand-ins: same columns, and which is which is always said."""

import numpy as np
import pytest

from enough import data
from enough.scaling import ChinchillaLaw, OverTrainingLaw, TranslationLaw, published

TABLES = {
    "chinchilla_points": {"params", "tokens", "flops", "loss"},
    "overtraining_models": {"dataset", "params", "tokens", "multiplier", "loss", "error"},
    "repeated_runs": {"params", "tokens", "unique_tokens", "loss"},
    "translation_runs": {"model", "tokens", "loss", "train"},
    "isoflop_points": {
        "dataset",
        "hparams",
        "warmup",
        "decay",
        "count",
        "val",
        "flops",
        "params",
        "tokens",
        "loss",
    },
    "step_law_runs": {"params", "tokens", "rate", "batch", "loss"},
    "annealing_curves": {"schedule", "step", "loss"},
}


@pytest.fixture
def absent(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise data.DataUnavailableError(f"{name} is absent")

    monkeypatch.setattr(data, "load", refuse)


@pytest.mark.parametrize("name", TABLES)
def test_a_stand_in_has_the_columns_and_says_so(name, absent):
    table, source, reason = found = getattr(published, name)()
    assert set(table.columns) == TABLES[name]
    assert not found.real
    assert "not at hand" in reason
    assert source.startswith("generated")
    again = getattr(published, name)().table
    assert table.equals(again)


@pytest.mark.parametrize("name", TABLES)
def test_the_real_table_has_the_same_columns(name, monkeypatch):
    real_load = data.load
    monkeypatch.setattr(data, "load", lambda n: real_load(n, download=False))
    found = getattr(published, name)()
    if not found.real:
        pytest.skip(found.absent)
    assert set(found.table.columns) == TABLES[name]
    numbers = found.table.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all()
    assert "generated" not in found.source


def test_laws_fit_their_stand_ins(absent):
    points = published.chinchilla_points().table
    assert ChinchillaLaw.fit(points).params["alpha"] == pytest.approx(0.348, abs=0.05)
    models = published.overtraining_models().table
    fit = OverTrainingLaw.fit(models[models.dataset == "rpj"])
    assert fit.params["eta"] == pytest.approx(0.136, abs=0.03)
    runs = published.translation_runs().table
    one = runs[(runs.model == "Dec-only") & runs.train]
    assert TranslationLaw.fit(one).params["p"] == pytest.approx(0.29, abs=0.06)


def test_schedules_have_their_shapes():
    assert published.annealing_schedule("constant_24000").tolist() == [3e-4] * 24000
    cosine = published.annealing_schedule("cosine_24000", warm_up=True)
    assert cosine[0] == pytest.approx(3e-4 / 2160)
    assert cosine[2159] == pytest.approx(3e-4)
    assert cosine[-1] == pytest.approx(3e-5, rel=1e-3)
    assert (np.diff(published.annealing_schedule("wsd_20000_24000")[20000:]) < 0).all()
    drop = published.annealing_schedule("wsdcon_9")
    assert drop[7999] == 3e-4
    assert drop[8000] == pytest.approx(9e-5)
    with pytest.raises(ValueError, match="name: expected a schedule"):
        published.annealing_schedule("triangle_5")
    with pytest.raises(ValueError, match="model"):
        published.annealing_curves("7B")
