"""An ensemble that nobody holds is freed: its members, its stack and its graphs."""

import gc
import warnings

import pytest
import torch

from enough.models import MLP
from enough.training import Ensemble


def _live_tensors():
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some lazy attributes warn when they are looked at
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("mode", ["auto", "stacked", "vmap", "loop"])
def test_nothing_is_left_of_an_ensemble(mode):
    x, y = torch.randn(32, 3), torch.randn(32, 1)

    def train():
        ensemble = Ensemble(lambda g: MLP([3, 8, 1], generator=g), size=4, seed=0, mode=mode)
        ensemble.fit(x, y, steps=2, batch_size=8).predict(x)

    train()  # whatever is made once and kept
    before = _live_tensors()
    for _ in range(3):
        train()
    assert _live_tensors() == before
