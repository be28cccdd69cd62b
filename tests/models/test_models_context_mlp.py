"""The context model: its own arithmetic, stacks against members, and its refusals."""

import pytest
import torch
from torch.func import stack_module_state

from enough.models import ContextMLP, count_parameters
from enough.training import Ensemble


def test_the_output_is_a_lookup_and_two_products():
    model = ContextMLP(3, 7, embedding=4, vocabulary=11, generator=0).double()
    tokens = torch.tensor([[0, 10, 3], [5, 5, 1]])
    first, second = model.network.layers
    for row, out in zip(tokens, model(tokens), strict=True):
        x = torch.cat([model.embedding.weight[t] for t in row])
        hidden = (first.weight @ x + first.bias).clamp_min(0)
        torch.testing.assert_close(out, second.weight @ hidden + second.bias)
    expected = 11 * 4 + (12 * 7 + 7) + (7 * 11 + 11)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert count_parameters(model).total == expected


def test_a_stack_computes_what_its_members_compute():
    models = [ContextMLP(3, 7, vocabulary=11, depth=2, generator=i).double() for i in range(4)]
    params, buffers = stack_module_state(models)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(11, (4, 5, 3), generator=draw)
    together = models[0].stacked_forward(params, buffers, x)
    alone = torch.stack([m(one) for m, one in zip(models, x, strict=True)])
    torch.testing.assert_close(together, alone)
    together.square().sum().backward()
    for m, one in zip(models, x, strict=True):
        m(one).square().sum().backward()
    gradient = torch.stack([m.embedding.weight.grad for m in models])
    torch.testing.assert_close(params["embedding.weight"].grad, gradient)


def test_an_ensemble_learns_a_deterministic_sequence():
    text = torch.tensor([0, 1, 2, 3] * 30)
    x = text.unfold(0, 3, 1)
    ensemble = Ensemble(
        lambda generator: ContextMLP(2, 16, vocabulary=4, generator=generator), 3, seed=0
    )
    ensemble.fit(
        x[:, :2], x[:, 2], loss="cross_entropy", lr=1e-2, steps=150, batch_size=32, progress=False
    )
    assert (ensemble.predict(x[:, :2]).argmax(-1) == x[:, 2]).all()


def test_weights_come_from_the_generator():
    one, two, three = (ContextMLP(2, 4, generator=s).embedding.weight for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize("name", ["context", "width", "embedding", "vocabulary", "depth"])
def test_sizes_are_checked(name):
    sizes = {"context": 2, "width": 3, name: 0}
    with pytest.raises(ValueError, match=f"{name}: expected"):
        ContextMLP(**sizes)


@pytest.mark.parametrize("tokens", [torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 2)])
def test_tokens_are_checked(tokens):
    with pytest.raises(ValueError, match="tokens: expected integers of shape"):
        ContextMLP(2, 3)(tokens)
