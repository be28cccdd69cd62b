"""Every model draws from what it is given and leaves the global state alone."""

import pytest
import torch

from enough.models import MLP, ConvNet, Transformer, TransformerConfig

CONFIG = TransformerConfig(vocab_size=11, context_length=8, d_model=8, n_layers=1, n_heads=2)
BUILDERS = {
    "mlp": lambda **kwargs: MLP([3, 4, 2], **kwargs),
    "mlp-mup": lambda **kwargs: MLP([3, 4, 2], parameterization="mup", **kwargs),
    "convnet": lambda **kwargs: ConvNet(channels=(4, 4), **kwargs),
    "transformer": lambda **kwargs: Transformer(CONFIG, **kwargs),
}


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
class TestSeeding:
    @pytest.mark.parametrize("generator", [None, 7])
    def test_global_state_does_not_move(self, build, generator):
        before = torch.get_rng_state()
        build(generator=generator)
        assert torch.equal(before, torch.get_rng_state())

    def test_without_generator_the_global_seed_decides(self, build):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            first, twin = build(), build()
            torch.manual_seed(4)
            other = build()
        assert same(first, twin)
        assert not same(first, other)

    def test_a_seed_and_a_generator_agree(self, build):
        assert same(build(generator=5), build(generator=torch.Generator().manual_seed(5)))
        assert not same(build(generator=5), build(generator=6))

    def test_a_generator_advances(self, build):
        generator = torch.Generator().manual_seed(5)
        assert not same(build(generator=generator), build(generator=generator))

    def test_the_global_seed_is_no_part_of_a_seeded_model(self, build):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = build(generator=5)
            torch.manual_seed(1)
            assert same(first, build(generator=5))

    def test_a_default_dtype_changes_precision_and_not_numbers(self, build):
        single = build(generator=5)
        torch.set_default_dtype(torch.float64)
        try:
            double = build(generator=5)
        finally:
            torch.set_default_dtype(torch.float32)
        for p, q in zip(single.parameters(), double.parameters(), strict=True):
            assert q.dtype == torch.float64
            torch.testing.assert_close(p, q.float(), rtol=1e-6, atol=1e-7)
