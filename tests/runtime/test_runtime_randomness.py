"""Named streams: the same everywhere, independent of each other and of global state."""

import hashlib

import numpy as np
import pytest
import torch

from enough.runtime import as_generator, derive_seed, named_generator


def test_the_seed_is_the_documented_digest():
    digest = hashlib.sha256(b"7\x1fstr:weights\x1fint:3").digest()
    assert derive_seed(7, "weights", 3) == int.from_bytes(digest[:8], "big") >> 1


def test_seeds_are_63_bits_and_do_not_collide():
    seeds = {derive_seed(s, name, i) for s in range(20) for name in "abc" for i in range(50)}
    assert len(seeds) == 20 * 3 * 50
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_numbers_and_their_texts_name_different_streams():
    assert derive_seed(0, 1) != derive_seed(0, "1")
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"^seed: expected"):
        derive_seed(seed, "x")


def test_a_named_generator_draws_as_torch_does_from_the_derived_seed():
    expected = torch.rand(5, generator=torch.Generator().manual_seed(derive_seed(2, "x")))
    assert torch.equal(torch.rand(5, generator=named_generator(2, "x")), expected)


def test_a_generator_passes_through_and_advances():
    generator = torch.Generator().manual_seed(0)
    assert as_generator(generator) is generator


@pytest.mark.parametrize("seed", [11, np.int64(11)])
def test_an_integer_seeds_a_new_generator(seed):
    assert as_generator(seed).initial_seed() == 11


def test_none_seeds_from_the_system_and_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    first, second = as_generator(None), as_generator(None)
    assert first.initial_seed() != second.initial_seed()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("given", [True, 1.5, "3", np.random.default_rng(0)])
def test_everything_else_is_refused(given):
    with pytest.raises(ValueError, match=r"^generator: expected a torch.Generator, a seed"):
        as_generator(given)
