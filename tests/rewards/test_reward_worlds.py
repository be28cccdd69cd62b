"""Token worlds: what they draw, what gold is, and which streams are shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from enough.models import MLP
from enough.rewards import BURST_WORLD, HERDING_WORLD, NAIVE_WORLD, TokenWorlds, WorldConfig
from enough.runtime import named_generator

SMALL = replace(BURST_WORLD, gold_widths=(16, 16, 16))
OFTEN = replace(SMALL, burst_probability=0.4)


def runs(tokens, n_common):
    """Return rare token, length and start of the run in each answer, by a loop."""
    found = []
    for row in tokens.tolist():
        places = [t for t, token in enumerate(row) if token >= n_common]
        if places:
            assert len({row[t] for t in places}) == 1
            assert places == list(range(places[0], places[0] + len(places)))
            found.append((row[places[0]], len(places), places[0]))
        else:
            found.append(None)
    return found


def test_bursts_are_as_described():
    worlds = TokenWorlds(1, seed=3, config=OFTEN)
    tokens = worlds.sample(6000)[0]
    found = runs(tokens, 16)
    bursts = [f for f in found if f is not None]
    assert abs(len(bursts) - 2400) < 4 * np.sqrt(6000 * 0.24)
    sizes = np.bincount([size for _, size, _ in bursts], minlength=17)
    assert sizes[:8].sum() == 0
    assert chisquare(sizes[8:]).pvalue > 1e-3
    assert (
        chisquare(np.bincount([token - 16 for token, _, _ in bursts], minlength=16)).pvalue > 1e-3
    )
    starts = np.bincount([start for _, size, start in bursts if size == 8], minlength=9)
    assert chisquare(starts).pvalue > 1e-3
    ordinary = tokens[[f is None for f in found]]
    assert chisquare(torch.bincount(ordinary.flatten(), minlength=16).numpy()).pvalue > 1e-3
    modes = worlds.bursts(worlds.features(tokens))
    assert modes.tolist() == [0 if f is None else f[0] - 15 for f in found]


def test_features_count_tokens_or_mark_places():
    tokens = torch.tensor([[0, 2, 2], [1, 1, 1]])
    config = WorldConfig(n_common=2, n_rare=1, length=3, min_burst=2, gold_widths=(4,))
    counts = TokenWorlds(1, config=config).features(tokens)
    assert counts.tolist() == [[1, 0, 2], [0, 3, 0]]
    marked = TokenWorlds(1, config=replace(config, features="one_hot"))
    features = marked.features(tokens)
    assert features.tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 0, 0, 1, 0]]
    assert marked.bursts(features).tolist() == [1, 0]
    assert TokenWorlds(1, config=NAIVE_WORLD).sample(50).max() < 8


def test_gold_is_the_standardized_network_and_flat_on_bursts():
    worlds = TokenWorlds(3, seed=1, config=OFTEN)
    features = worlds.features(worlds.sample(400, "test"))
    gold, modes = worlds.gold(features), worlds.bursts(features)
    fresh = worlds.features(worlds.sample(4000, "fresh"))
    usual = worlds.bursts(fresh) == 0
    for w in range(3):
        net = MLP([32, 16, 16, 16, 1], generator=named_generator(1, "world", w))
        with torch.no_grad():
            raw, many = net(features[w]).squeeze(1), net(fresh[w]).squeeze(1)[usual[w]]
        # The world's own sample set zero and unit; another one agrees within its error.
        slope, shift = np.polyfit(raw[modes[w] == 0], gold[w][modes[w] == 0], 1)
        z = slope * raw + shift
        assert (many * slope + shift).mean().item() == pytest.approx(0.0, abs=0.08)
        assert (many * slope).std().item() == pytest.approx(1.0, abs=0.06)
        expected = torch.where(modes[w] == 0, z, -3.0 + 0.5 * torch.tanh(z))
        np.testing.assert_allclose(gold[w].numpy(), expected.numpy(), atol=2e-4)


def test_a_world_does_not_depend_on_the_number_of_worlds():
    few, many = TokenWorlds(1, seed=4, config=SMALL), TokenWorlds(3, seed=4, config=SMALL)
    tokens = many.sample(30)
    assert torch.equal(few.sample(30)[0], tokens[0])
    assert not torch.equal(tokens[0], tokens[1])
    features = many.features(tokens)
    torch.testing.assert_close(few.gold(features[:1]), many.gold(features)[:1])
    one, three = few.preferences(20, noise=0.3), many.preferences(20, noise=0.3)
    assert torch.equal(one.chosen[0], three.chosen[0])
    assert torch.equal(one.flipped[0], three.flipped[0])


def test_streams_differ_and_repeat():
    worlds = TokenWorlds(2, seed=0, config=SMALL)
    assert torch.equal(worlds.sample(20), worlds.sample(20))
    assert not torch.equal(worlds.sample(20), worlds.sample(20, "other"))
    assert not torch.equal(worlds.sample(20), TokenWorlds(2, seed=1, config=SMALL).sample(20))


def test_noise_is_exact_and_paired_with_the_clean_run():
    worlds = TokenWorlds(3, seed=2, config=SMALL)
    clean, noisy, noisier = (worlds.preferences(100, noise=r) for r in (0.0, 0.25, 0.5))
    assert clean.flipped.sum() == 0
    assert noisy.flipped.sum(1).tolist() == [25, 25, 25]
    assert bool((noisier.flipped | ~noisy.flipped).all())
    assert not torch.equal(noisy.flipped[0], noisy.flipped[1])
    flips = noisy.flipped.unsqueeze(-1)
    assert torch.equal(noisy.chosen, torch.where(flips, clean.rejected, clean.chosen))
    assert torch.equal(noisy.rejected, torch.where(flips, clean.chosen, clean.rejected))


def test_labels_are_bradley_terry_draws():
    worlds = TokenWorlds(2, seed=5, config=SMALL)
    sure = worlds.preferences(500, scale=float("inf"))
    assert bool((worlds.gold(sure.chosen) >= worlds.gold(sure.rejected)).all())
    pairs = worlds.preferences(4000, scale=2.0)
    gap = (worlds.gold(pairs.chosen) - worlds.gold(pairs.rejected)).double()
    probability = torch.sigmoid(2.0 * gap.abs())
    wins = (gap > 0).double()
    z = (wins - probability).sum() / (probability * (1 - probability)).sum().sqrt()
    assert abs(z.item()) < 4.0
    assert wins.mean().item() < 0.95


def test_the_herding_annotator_errs_on_two_tokens_only():
    base = TokenWorlds(2, seed=6, config=OFTEN)
    herd = TokenWorlds(2, seed=6, config=replace(OFTEN, mislabeled=2))
    tokens = base.sample(300)
    assert torch.equal(tokens, herd.sample(300))
    features = base.features(tokens)
    torch.testing.assert_close(base.gold(features), herd.gold(features))
    torch.testing.assert_close(base.annotate(features), base.gold(features))
    gap = herd.annotate(features) - herd.gold(features)
    modes = herd.bursts(features)
    wrong = (modes == 1) | (modes == 2)
    assert bool(wrong.any())
    torch.testing.assert_close(gap[wrong], torch.full_like(gap[wrong], 6.0))
    assert bool((gap[~wrong] == 0).all())
    assert replace(BURST_WORLD, mislabeled=2) == HERDING_WORLD


def test_the_annotator_bonus_counts_token_zero():
    for kind in ("counts", "one_hot"):
        config = replace(SMALL, annotator_bonus=0.6, features=kind)
        worlds = TokenWorlds(1, config=config)
        tokens = worlds.sample(50)
        features = worlds.features(tokens)
        gap = worlds.annotate(features) - worlds.gold(features)
        torch.testing.assert_close(gap, 0.6 * (tokens == 0).sum(-1).float())


def test_gold_takes_several_sets_at_once():
    worlds = TokenWorlds(2, config=SMALL)
    sets = torch.stack([worlds.features(worlds.sample(7, name)) for name in "abc"])
    many = worlds.gold(sets.view(3, 1, 2, 7, 32))
    assert many.shape == (3, 1, 2, 7)
    for one, rows in zip(many, sets, strict=True):
        torch.testing.assert_close(one[0], worlds.gold(rows))


def test_worlds_name_what_is_wrong():
    worlds = TokenWorlds(2, config=SMALL)
    with pytest.raises(ValueError, match="n_worlds: expected a number >= 1"):
        TokenWorlds(0)
    with pytest.raises(ValueError, match="burst_probability: expected a number <= 0"):
        WorldConfig(n_rare=0)
    with pytest.raises(ValueError, match="min_burst: expected a number <= 16"):
        WorldConfig(min_burst=17)
    with pytest.raises(ValueError, match="mislabeled: expected a number <= 16"):
        WorldConfig(mislabeled=17)
    with pytest.raises(ValueError, match="features: expected one of 'counts', 'one_hot'"):
        WorldConfig(features="bag")
    with pytest.raises(ValueError, match="tokens: expected entries <= 31, got 32"):
        worlds.features(torch.full((2, 16), 32))
    with pytest.raises(ValueError, match=r"tokens: expected whole numbers of shape \(..., 16\)"):
        worlds.features(torch.zeros(2, 15, dtype=torch.long))
    with pytest.raises(ValueError, match=r"features: expected shape \(..., 2, N, 32\)"):
        worlds.gold(torch.zeros(3, 5, 32))
    with pytest.raises(ValueError, match="scale: expected a number > 0"):
        worlds.preferences(10, scale=0.0)
    with pytest.raises(ValueError, match="rate: expected a number <= 1"):
        worlds.preferences(10, noise=2.0)
