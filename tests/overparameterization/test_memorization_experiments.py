"""The experiments on memorization: what they promise about their data and their shapes."""

import numpy as np
import pytest
import torch

from enough.data import digits
from enough.overparameterization.experiments import (
    coherence_point,
    long_tail_point,
    subset_point,
    suppression_point,
    tail_learners_point,
    tailed_digits,
)


def test_tailed_digits_have_the_tail_they_promise():
    drawn = tailed_digits(3, 24, seed=5)
    counts, rank, train = (drawn[name] for name in ("counts", "rank", "train"))
    assert counts.tolist() == [max(1, round(24 / r + 1e-9)) for r in range(1, 31)]
    assert torch.equal(rank[train].bincount(minlength=30), counts)
    assert not drawn["test"][train].any()
    assert int(drawn["test"].sum()) == 1797 - int(counts.sum())
    labels = digits().y
    for r in range(30):  # a subpopulation is a part of one class, with images left for testing
        assert len(labels[rank == r].unique()) == 1
        assert int((drawn["test"] & (rank == r)).sum()) >= int((rank == r).sum()) / 3
    flat = tailed_digits(3, 3, exponent=0.0, seed=5)
    assert set(flat["counts"].tolist()) == {3}
    assert not torch.equal(tailed_digits(3, 24, seed=6)["train"], train)
    with pytest.raises(ValueError, match="most: expected fewer images"):
        tailed_digits(3, 500)


def test_points_repeat_and_rules_share_their_data():
    options = dict(draws=2, n_samples=102, width=8, epochs=2, seed=3)
    first, again, other = (
        suppression_point(rule, **options) for rule in ("mean", "mean", "winsorized")
    )
    for name in ("clean", "memorized", "test"):
        assert first[name].shape == (3, 2)
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name][0], other[name][0])  # before training
        assert ((first[name] >= 0) & (first[name] <= 1)).all()


def test_coherence_point_agrees_with_its_parts():
    found = coherence_point(
        draws=2, n_samples=64, shares=(0.0, 0.5), width=8, epochs=2, watched=(0, 2), seed=1
    )
    assert found["m_coherence"].shape == (2, 2, 2)
    assert found["per_example"].shape == (2, 2, 2, 64)
    assert found["correct"].shape == (3, 2, 2, 64)
    np.testing.assert_array_equal(found["corrupted"].sum(-1), [[0, 32], [0, 32]])
    assert np.isnan(found["clean"][:, :, 0]).all()  # no part: all labels are right
    assert (found["clean"][:, :, 1] > 0).all()
    assert (found["wrong"][:, :, 1] > 0).all()


def test_long_tail_point_predicts_each_draw_from_its_singletons():
    found = long_tail_point("zipf", 300, 200, n_classes=5, draws=60, seed=2)
    np.testing.assert_allclose(found["predicted"], found["price"] * found["items"] * 0.8)
    spread = found["gap"].std() / 60**0.5
    assert abs(found["gap"].mean() - found["expected_gap"]) < 4 * spread
    with pytest.raises(ValueError, match="prior: expected one of 'zipf'"):
        long_tail_point("pareto", 300, 200)


def test_subsets_and_tail_learners_speak_of_the_same_subpopulations():
    found = subset_point(n_models=60, width=8, epochs=3, seed=4)
    drawn = tailed_digits(3, 24, seed=4)
    np.testing.assert_array_equal(found["train"], drawn["train"])
    np.testing.assert_array_equal(found["test_rank"], drawn["rank"][drawn["test"]])
    assert found["estimate"].influence.shape == (len(found["train"]), len(found["test"]))
    learners = tail_learners_point(draws=2, width=8, epochs=2, seed=4)
    assert learners["memorizing"].shape == learners["private"].shape == (2, 30)
    np.testing.assert_array_equal(learners["counts"], found["counts"])
