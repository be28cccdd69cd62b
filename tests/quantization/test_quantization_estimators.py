"""Methods as estimators, against the recipes they stand for."""

import pytest
import torch
from sklearn.base import clone

from enough.models import ConvNet
from enough.quantization import (
    GPTQ,
    AdaQuant,
    AdaRound,
    PDQuant,
    QuantizedLayer,
    Recipe,
    quantize_model,
)

METHODS = {
    "gptq": (GPTQ(bits=3, order="activation", group_size=7), {"order": "activation"}),
    "adaround": (AdaRound(bits=3, steps=20, generator=4), {"steps": 20}),
    "adaquant": (AdaQuant(bits=3, steps=20, generator=4), {"steps": 20}),
    "pdquant": (
        PDQuant(bits=3, steps=5, correction_steps=2, generator=4),
        {"steps": 5, "correction_steps": 2},
    ),
}


@pytest.fixture(scope="module")
def images():
    return torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    return ConvNet(channels=(4, 6), blocks=0, generator=0).eval()


def integers(model):
    return [m.integers for m in model.modules() if isinstance(m, QuantizedLayer)]


@pytest.mark.parametrize("name", METHODS)
def test_fit_does_what_the_recipe_says(name, net, images):
    method, options = METHODS[name]
    recipe = Recipe(
        method=name,
        bits=3,
        group_size=7 if name == "gptq" else None,
        range_method="minmax" if name == "gptq" else "mse",
        options=options,
    )
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert method.fit(net, images) is method
    expected = quantize_model(net, recipe, images, generator=4)
    ours, theirs = integers(method.model_), integers(expected)
    assert len(ours) == 3
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    assert [row.method for row in method.report_] == [name] * 3
    assert method.report_ is method.model_.report
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", METHODS)
def test_options_are_parameters(name, net, images):
    method, options = METHODS[name]
    copy = clone(method)
    assert not hasattr(copy, "model_")
    assert copy.get_params() == method.get_params()
    assert options.items() <= copy.get_params().items()
    assert copy.set_params(bits=2, overrides={"first": 8}).recipe().bits == 2
    fitted = copy.fit(net, images)
    assert [row.bits for row in fitted.report_] == [8, 2, 2]


def test_every_option_reaches_the_recipe():
    # A value that differs from the default must change the recipe.
    changed = {
        "bits": 5,
        "symmetric": True,
        "group_size": 3,
        "range_method": "percentile",
        "activation_bits": 6,
        "overrides": {"first": 8},
        "order": "activation",
        "refit": "mse",
        "dead": "zero",
    }
    for method, _ in METHODS.values():
        plain = type(method)()
        for option, value in plain.get_params().items():
            if option == "generator":
                continue
            if option in changed:
                new = changed[option]
            elif isinstance(value, bool):
                new = not value
            else:
                new = value + 1
            assert type(method)(**{option: new}).recipe() != plain.recipe(), option


def test_bad_options_are_refused_by_name(net, images):
    with pytest.raises(ValueError, match="bits: expected a number <= 8, got 9"):
        GPTQ(bits=9).fit(net, images)
    with pytest.raises(ValueError, match="order: expected one of 'natural', 'activation'"):
        GPTQ(order="random").fit(net, images)
    with pytest.raises(ValueError, match="drop: expected a number <= 1"):
        PDQuant(drop=2.0, steps=1).fit(net, images)
