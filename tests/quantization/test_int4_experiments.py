"""The chapter's experiments: models, formats, outliers, adapters."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from enough.book.checks.quantization.int4_language_models import CHECKS
from enough.quantization import experiments, state_dict_bytes
from enough.quantization.layers import Int4Linear


@pytest.fixture(scope="module")
def models():
    return experiments.byte_models(16, members=2, steps=12, windows=6, calibration=6, seed=3)


def test_scores_are_means_over_the_held_out_bytes(models):
    rounded = [experiments.round_blocks(m, "row", 3) for m in models.members]
    found = models.scores(rounded)
    for i, (exact, other) in enumerate(zip(models.members, rounded, strict=True)):
        windows = models.held_out[i]
        loss = [
            functional.cross_entropy(m(windows[:, :-1]).mT, windows[:, 1:]) for m in (exact, other)
        ]
        before, after = (float(x) / math.log(2) for x in loss)
        assert np.isclose(models.bits()[i], before, rtol=1e-5)
        assert np.isclose(found["bits"][i], after, rtol=1e-5)
        assert np.isclose(found["lost"][i], after - before, atol=1e-5)
        p, q = (torch.distributions.Categorical(logits=m(windows[:, :-1])) for m in (exact, other))
        divergence = torch.distributions.kl_divergence(p, q).mean() / math.log(2)
        assert np.isclose(found["divergence"][i], float(divergence), rtol=1e-4, atol=1e-7)


def test_the_model_itself_loses_nothing(models):
    found = models.scores(models.members)
    assert np.abs(found["lost"]).max() == 0
    assert np.abs(found["divergence"]).max() == 0


def test_a_member_does_not_depend_on_the_others():
    two, three = (
        experiments.byte_models(16, members=n, steps=3, windows=2, calibration=2, seed=5)
        for n in (2, 3)
    )
    assert torch.equal(two.held_out, three.held_out[:2])
    assert torch.equal(two.calibration, three.calibration[:2])
    np.testing.assert_allclose(two.bits(), three.bits()[:2], atol=1e-5)


def test_training_helps(models):
    fresh = experiments.byte_models(16, members=2, steps=2, windows=6, calibration=2, seed=3)
    assert (models.bits() < fresh.bits() - 1).all()


def test_row_grid_of_glm_by_hand(models):
    weight = models.members[0].blocks[1].down.weight
    step = weight.abs().amax(1, keepdim=True) / 7
    by_hand = step * torch.round(weight / step)
    found = experiments.round_blocks(models.members[0], "row").blocks[1].down.weight
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_only_the_blocks_are_rounded(models):
    exact = models.members[0]
    for kind in experiments.INT4_FORMATS:
        changed = {
            name
            for (name, a), b in zip(
                exact.named_parameters(),
                experiments.round_blocks(exact, kind).parameters(),
                strict=True,
            )
            if not torch.equal(a, b)
        }
        maps = ("qkv", "projection", "up", "down")
        assert changed == {f"blocks.{i}.{m}.weight" for i in range(2) for m in maps}


def test_groups_store_what_packed_layers_store(models):
    linear = models.members[0].blocks[0].down
    packed = Int4Linear.from_float(linear, 32)
    found = experiments.format_bits(torch.nn.Sequential(linear), "group")
    assert found == 8 * state_dict_bytes(packed) / linear.weight.numel()
    n = models.n_weights
    # Per block: qkv (48, 16), projection (16, 16), up (64, 16), down (16, 64).
    assert n == 2 * 12 * 16**2
    assert experiments.format_bits(models.members[0], "row", 8) == 8 + 16 * 2 * 144 / n


def test_gptq_makes_up_for_errors_on_its_calibration_text(models):
    exact, text = models.members[0], models.calibration[0]
    x = exact.blocks[0].attention_norm(exact.embedding(text) * exact._embedding_scale)
    target = exact.blocks[0].qkv(x)
    gaps = [
        float((m.blocks[0].qkv(x) - target).square().mean())
        for m in (
            experiments.gptq_blocks(exact, text, bits=3),
            experiments.round_blocks(exact, bits=3),
        )
    ]
    assert gaps[0] < gaps[1]


def test_loud_channels_keep_the_function_and_raise_kurtosis(models):
    loud = experiments.loud_channels(models.members[0], channels=2, factor=16.0, seed=1)
    x = models.held_out[0][:, :-1]
    torch.testing.assert_close(loud(x), models.members[0](x), atol=1e-4, rtol=1e-4)
    assert experiments.weight_kurtosis(loud) > experiments.weight_kurtosis(models.members[0]) + 1
    ratio = loud.blocks[0].up.weight / models.members[0].blocks[0].up.weight
    assert ((ratio[0] == 16).sum(), (ratio[0] == 1).sum()) == (2, 14)


def test_kurtosis_of_known_weights():
    layer = torch.nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, 3.0]]))
    assert math.isclose(experiments.weight_kurtosis(torch.nn.Sequential(layer)), 84 / 4 / 3**2)


def test_adapters_start_at_their_base(models):
    found = experiments.adapter_point(models, 1, steps=2, batch=2, lr=1e-12, seed=4)
    assert math.isclose(found["exact"], models.bits()[1], rel_tol=1e-5)
    assert math.isclose(found["exact_adapted"], found["exact"], rel_tol=1e-6)
    nf4 = models.scores(experiments.round_blocks(m, "nf4") for m in models.members)["bits"][1]
    assert math.isclose(found["nf4"], nf4, rel_tol=1e-5)


def test_adapters_learn_the_text_they_are_given(models):
    found = experiments.adapter_point(
        models, 0, steps=30, lr=0.02, transform=lambda x: 255 - x, seed=4
    )
    for base in ("exact", "nf4"):
        assert found[f"{base}_adapted"] < found[base] - 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: experiments.round_blocks(m, "block"), "kind"),
        (lambda m: experiments.round_blocks(m, "nf4", 3), "bits: expected 4 with NF4"),
        (lambda m: experiments.format_bits(m, "block"), "kind"),
        (lambda m: experiments.gptq_blocks(m, torch.zeros(1, 2), "nf4"), "kind"),
        (lambda m: experiments.loud_channels(m, factor=0.0), "factor"),
        (lambda m: experiments.loud_channels(m, channels=17), "channels"),
        (lambda m: experiments.byte_models(8), "width"),
    ],
)
def test_errors_name_the_argument(models, call, message):
    with pytest.raises(ValueError, match=message):
        call(models.members[0])


def test_checks_reject_wrong_answers():
    assert not CHECKS["storage"].test(4.125)
    assert not CHECKS["pack"].test(lambda x, packed, scale: torch.zeros(5, 6))
    assert not CHECKS["levels"].test(torch.linspace(-1, 1, 16))
