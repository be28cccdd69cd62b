"""Transformer: against a written-out reference, then loss, cache, members and width."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from enough.models import (
    KVCache,
    Transformer,
    TransformerConfig,
    next_token_loss,
    token_log_probs,
)
from enough.models.rotary import apply_rotary, rotary_table

TINY = TransformerConfig(vocab_size=13, context_length=12, d_model=16, n_layers=2, n_heads=2)
VARIANTS = {
    "gelu": TINY,
    "swiglu-tied": dataclasses.replace(TINY, mlp="swiglu", tied_embeddings=True),
    "qk-norm": dataclasses.replace(TINY, qk_norm=True, z_loss=0.01, rotary_base=100.0),
    "mup": dataclasses.replace(TINY, parameterization="mup", base_width=4),
    "mup-tied": dataclasses.replace(
        TINY, parameterization="mup", base_width=4, tied_embeddings=True, d_mlp=20, qk_norm=True
    ),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def config(request):
    return request.param


def tokens_of(*shape, seed=0, vocab=13):
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def shaken(config, seed=0):
    """A float64 model whose gains are not all one."""
    model = Transformer(config, generator=seed).double()
    generator = torch.Generator().manual_seed(seed + 50)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
            parameter.data.add_(0.3 * noise)
    return model


def reference_logits(model, tokens):
    """One sequence, one head and one position at a time, from the equations."""
    c, state = model.config, {k: v.detach() for k, v in model.state_dict().items()}

    def rms(x, gain):
        return x / math.sqrt(float(x @ x) / len(x) + c.norm_eps) * gain

    def rotate(x, position):
        out = x.clone()
        for i in range(0, len(x), 2):
            angle = position * c.rotary_base ** (-i / len(x))
            out[i] = x[i] * math.cos(angle) - x[i + 1] * math.sin(angle)
            out[i + 1] = x[i] * math.sin(angle) + x[i + 1] * math.cos(angle)
        return out

    mup = c.parameterization == "mup"
    read = math.sqrt(c.base_width if mup else c.d_model) if c.tied_embeddings else 1.0
    scale = 1 / c.d_head if mup else 1 / math.sqrt(c.d_head)
    stream = [read * state["embedding.weight"][int(t)] for t in tokens]
    for layer in range(c.n_layers):
        w = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{layer}.")}
        size = c.d_head
        queries, keys, values = [], [], []
        for position, x in enumerate(stream):
            q, k, v = (w["qkv.weight"] @ rms(x, w["attention_norm.weight"])).chunk(3)
            heads = [slice(h * size, (h + 1) * size) for h in range(c.n_heads)]
            if c.qk_norm:
                q = torch.cat([rms(q[h], w["qk_gain"][:size]) for h in heads])
                k = torch.cat([rms(k[h], w["qk_gain"][size:]) for h in heads])
            queries.append([rotate(q[h], position) for h in heads])
            keys.append([rotate(k[h], position) for h in heads])
            values.append([v[h] for h in heads])
        for position in range(len(stream)):
            outputs = []
            for h in range(c.n_heads):
                scores = [
                    math.exp(scale * float(queries[position][h] @ keys[past][h]))
                    for past in range(position + 1)
                ]
                mixed = sum(s * values[past][h] for past, s in enumerate(scores))
                outputs.append(mixed / sum(scores))
            stream[position] = stream[position] + w["projection.weight"] @ torch.cat(outputs)
        for position, x in enumerate(stream):
            hidden = w["up.weight"] @ rms(x, w["mlp_norm.weight"])
            if c.mlp == "swiglu":
                gate, value = hidden.chunk(2)
                hidden = gate / (1 + torch.exp(-gate)) * value
            else:
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            stream[position] = x + w["down.weight"] @ hidden
    scores = state["embedding.weight" if c.tied_embeddings else "unembedding.weight"]
    factor = c.base_width / c.d_model if mup else 1.0
    return torch.stack([factor * (scores @ rms(x, state["final_norm.weight"])) for x in stream])


def test_logits_against_the_written_out_reference(config):
    model, tokens = shaken(config), tokens_of(2, 9)
    expected = torch.stack([reference_logits(model, row) for row in tokens])
    torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)


def test_the_reference_still_fits_after_casts(config):
    # The rotary table must not keep the rounding of a narrower dtype.
    model = shaken(config)
    twice = copy.deepcopy(model).to(torch.bfloat16).double()
    twice.load_state_dict(model.state_dict())
    tokens = tokens_of(2, 9)
    assert torch.equal(twice(tokens), model(tokens))


def test_one_layer_against_torch_attention():
    # With a base so large that nothing but the first pair turns, and that pair projected out,
    # attention is torch's own with copied weights.
    config = dataclasses.replace(TINY, n_layers=1, rotary_base=1e80)
    model = Transformer(config, generator=0).double()
    block, d, size = model.blocks[0], config.d_model, config.d_head
    rows = block.qkv.weight.data.view(3, config.n_heads, size, d)
    rows[:2, :, :2] = 0.0
    peer = nn.MultiheadAttention(d, config.n_heads, bias=False, batch_first=True).double()
    peer.in_proj_weight.data.copy_(block.qkv.weight)
    peer.out_proj.weight.data.copy_(block.projection.weight)
    x = torch.randn(2, 7, d, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    normed = F.rms_norm(x, (d,), eps=config.norm_eps)
    expected = x + peer(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
    block.down.weight.data.zero_()
    torch.testing.assert_close(block(x, model.rotary[:7]), expected, rtol=1e-10, atol=1e-10)


class TestRotary:
    def test_inner_products_depend_on_the_distance(self):
        table = rotary_table(40, 8, dtype=torch.double)
        draw = torch.Generator().manual_seed(0)
        q, k = torch.randn(2, 8, dtype=torch.double, generator=draw)
        products = [
            float(apply_rotary(q, table[i + 5]) @ apply_rotary(k, table[i])) for i in range(30)
        ]
        assert max(products) - min(products) < 1e-12
        assert abs(products[0] - float(q @ k)) > 1e-3

    def test_norms_and_the_first_position_stay(self):
        table = rotary_table(5, 6, dtype=torch.double)
        x = torch.randn(5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        out = apply_rotary(x, table)
        torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)
        assert torch.equal(out[0], x[0])

    def test_real_and_complex_forms_agree(self, monkeypatch):
        table = rotary_table(7, 6, dtype=torch.double)[:, None]
        x = torch.randn(2, 7, 3, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        eager = apply_rotary(x, table)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(apply_rotary(x, table), eager, rtol=1e-14, atol=1e-14)

    def test_odd_sizes_are_refused(self):
        with pytest.raises(ValueError, match="size: expected an even number to rotate pairs"):
            rotary_table(4, 5)


class TestCausality:
    def test_later_tokens_change_nothing_before_them(self, config):
        model, tokens = shaken(config), tokens_of(3, 10)
        logits = model(tokens)
        for t in (1, 5, 9):
            changed = tokens.clone()
            changed[:, t:] = (changed[:, t:] + 1 + tokens_of(3, 10 - t, seed=t, vocab=11)) % 13
            other = model(changed)
            torch.testing.assert_close(other[:, :t], logits[:, :t], rtol=0, atol=1e-13)
            assert not torch.equal(other[:, t], logits[:, t])

    def test_gradients_flow_to_earlier_positions_only(self):
        model = shaken(TINY)
        stream = {}
        model.embedding.register_forward_hook(
            lambda _module, _inputs, out: stream.setdefault("x", out).retain_grad()
        )
        model(tokens_of(1, 8))[0, 4].sum().backward()
        sizes = stream["x"].grad[0].abs().sum(-1)
        assert bool((sizes[:5] > 0).all())
        assert bool((sizes[5:] == 0).all())


class TestLoss:
    def test_mean_next_token_cross_entropy(self, config):
        model, tokens = shaken(config), tokens_of(3, 8)
        tokens[0, 2], tokens[1, 3] = 0, 12
        logits = torch.stack([reference_logits(model, row[:-1]) for row in tokens])
        total, squares = 0.0, 0.0
        for b in range(3):
            for t in range(7):
                log_z = math.log(float(logits[b, t].exp().sum()))
                total += log_z - float(logits[b, t, tokens[b, t + 1]])
                squares += log_z**2
        expected = (total + config.z_loss * squares) / 21
        assert float(model.loss(tokens).detach()) == pytest.approx(expected, rel=1e-10)
        plain = float(model.loss(tokens, z_loss=0.0).detach())
        assert plain == pytest.approx(total / 21, rel=1e-10)

    @pytest.mark.parametrize("ignore_index", [-100, 99])
    @pytest.mark.parametrize("z_loss", [0.0, 0.1])
    def test_padding_counts_for_nothing(self, z_loss, ignore_index):
        model, rows = shaken(TINY), [tokens_of(n, seed=n) for n in (9, 4, 2)]
        padded = torch.full((3, 9), ignore_index)
        for row, short in zip(padded, rows, strict=True):
            row[: len(short)] = short
        loss = model.loss(padded, z_loss=z_loss, ignore_index=ignore_index)
        gradients = torch.autograd.grad(loss, tuple(model.parameters()))
        parts = [model.loss(row[None], z_loss=z_loss) * (len(row) - 1) for row in rows]
        expected = sum(parts) / sum(len(row) - 1 for row in rows)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(
            gradients, torch.autograd.grad(expected, tuple(model.parameters())), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("z_loss", [0.0, 0.1])
    def test_mask_chooses_the_targets(self, z_loss):
        model, tokens = shaken(TINY), tokens_of(2, 8)
        mask = torch.zeros(2, 8, dtype=torch.bool)
        mask[0, 0] = mask[0, 5] = mask[1, 3] = mask[1, 7] = True  # the first is no target
        logits = model(tokens)
        log_probs = logits.log_softmax(-1)
        chosen = [(0, 5), (1, 3), (1, 7)]
        expected = (
            sum(
                -log_probs[b, t - 1, tokens[b, t]] + z_loss * logits[b, t - 1].logsumexp(-1) ** 2
                for b, t in chosen
            )
            / 3
        )
        loss = model.loss(tokens, mask=mask, z_loss=z_loss)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)

    def test_all_padding_is_nan(self):
        loss = Transformer(TINY, generator=0).loss(torch.full((2, 4), -100))
        assert math.isnan(float(loss.detach()))

    def test_gradients_against_finite_differences(self):
        config = dataclasses.replace(
            TINY, vocab_size=4, d_model=4, n_layers=1, qk_norm=True, mlp="swiglu", d_mlp=3
        )
        model = shaken(dataclasses.replace(config, n_heads=1, parameterization="mup"))
        names, values = zip(*model.named_parameters(), strict=True)
        tokens = tokens_of(2, 5, vocab=4)
        tokens[1, 3:] = -100

        class Loss(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self):
                return self.model.loss(tokens, z_loss=0.1)

        def call(*values):
            parameters = {f"model.{n}": v for n, v in zip(names, values, strict=True)}
            return functional_call(Loss(), parameters, ())

        inputs = tuple(v.detach().clone().requires_grad_() for v in values)
        assert torch.autograd.gradcheck(call, inputs)

    def test_half_precision_logits_are_summed_in_float32(self):
        logits = torch.randn(5, 13, generator=torch.Generator().manual_seed(0)).bfloat16()
        targets = tokens_of(5)
        for z_loss in (0.0, 0.1):
            loss = next_token_loss(logits, targets, z_loss=z_loss)
            assert loss.dtype == torch.float32
            assert torch.equal(loss, next_token_loss(logits.float(), targets, z_loss=z_loss))

    def test_token_log_probs(self):
        logits = torch.randn(2, 5, 13, generator=torch.Generator().manual_seed(0))
        targets = tokens_of(2, 5)
        expected = logits.exp() / logits.exp().sum(-1, keepdim=True)
        for b in range(2):
            for t in range(5):
                assert float(token_log_probs(logits, targets)[b, t]) == pytest.approx(
                    math.log(float(expected[b, t, targets[b, t]])), rel=1e-5
                )

    def test_bytes_of_uint8_are_welcome(self):
        model, tokens = Transformer(TINY, generator=0), tokens_of(2, 6)
        assert torch.equal(model.loss(tokens.to(torch.uint8)), model.loss(tokens))


class TestCache:
    def test_pieces_give_the_logits_of_the_whole(self, config):
        model, tokens = Transformer(config, generator=0), tokens_of(3, 12)
        with torch.no_grad():
            whole, cache, pieces = model(tokens), KVCache(12), []
            for piece in tokens.split((4, 1, 1, 5, 1), 1):
                pieces.append(model(piece, cache))
        assert cache.length == 12
        torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)

    def test_greedy_equals_full_recomputation(self, config):
        model, prompt = Transformer(config, generator=0), tokens_of(4, 3)
        out = model.generate(prompt, 9, temperature=0)
        slow = prompt
        with torch.no_grad():
            for _ in range(9):
                slow = torch.cat((slow, model(slow)[:, -1:].argmax(-1)), 1)
        assert torch.equal(out, slow)
        assert torch.equal(out, model.generate(prompt, 9, top_k=1, temperature=0.7))

    @pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (3.0, None), (0.5, 8)])
    def test_draws_follow_the_tempered_distribution(self, temperature, top_k):
        model, n = Transformer(TINY, generator=0), 20_000
        model.unembedding.weight.data.mul_(2)
        prompt = tokens_of(1, 4).expand(n, 4)
        with torch.no_grad():
            scores = (model(prompt[:1])[0, -1] / temperature).double()
        if top_k is not None:
            scores[scores < scores.sort(descending=True).values[top_k - 1]] = -math.inf
        probabilities = scores.softmax(-1)
        out = model.generate(prompt, 1, temperature=temperature, top_k=top_k, generator=3)
        counts = out[:, -1].bincount(minlength=13).double()
        error = (probabilities * (1 - probabilities) / n).sqrt()
        assert bool(((counts / n - probabilities).abs() <= 5 * error).all())

    def test_draws_follow_the_generator_and_nothing_else(self):
        model, prompt = Transformer(TINY, generator=0), tokens_of(2, 3)
        before = torch.get_rng_state()
        first = model.generate(prompt, 8, generator=5)
        assert torch.equal(first, model.generate(prompt, 8, generator=5))
        assert not torch.equal(first, model.generate(prompt, 8, generator=6))
        model.generate(prompt, 8)
        assert torch.equal(before, torch.get_rng_state())

    def test_shapes_and_types_come_back(self):
        model = Transformer(TINY, generator=0)
        assert model.generate(torch.tensor([1, 2]), 3, generator=0).shape == (5,)
        out = model.generate(np.array([[1, 2]], dtype=np.uint8), 3, generator=0)
        assert isinstance(out, np.ndarray)
        assert out.shape == (1, 5)
        assert model.generate(tokens_of(2, 3), 0).tolist() == tokens_of(2, 3).tolist()
        assert model.generate(tokens_of(2, 3), 9, generator=0).shape == (2, 12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_and_samples(config, dtype):
    model, tokens = Transformer(config, generator=0), tokens_of(2, 10)
    full = model.loss(tokens)
    with torch.autocast("cpu", dtype):
        loss = model.loss(tokens)
        out = model.generate(tokens[:, :3], 4, generator=0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(full.detach()), rel=0.02)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert out.shape == (2, 7)
    half = Transformer(config, generator=0).to(dtype)
    assert half.rotary.dtype == torch.float32
    assert half(tokens).dtype == dtype
    assert float(half.loss(tokens).detach()) == pytest.approx(float(full.detach()), rel=0.02)


class TestMembers:
    def test_stacked_forward_equals_each_member(self, config):
        models = [shaken(config, seed) for seed in range(3)]
        params, buffers = stack_module_state(models)
        template = copy.deepcopy(models[0]).to("meta")
        tokens = tokens_of(3, 2, 8)
        logits = template.stacked_forward(params, buffers, tokens)
        mask = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0)) < 0.7
        tokens[1, 0, 5:] = -100
        losses = template.stacked_loss(params, buffers, tokens, mask=mask, z_loss=0.05)
        losses.sum().backward()
        for e, model in enumerate(models):
            single = model(tokens_of(3, 2, 8)[e])
            torch.testing.assert_close(logits[e], single, rtol=0, atol=1e-10)
            loss = model.loss(tokens[e], mask=mask[e], z_loss=0.05)
            torch.testing.assert_close(losses[e], loss, rtol=0, atol=1e-10)
            loss.backward()
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(params[name].grad[e], parameter.grad, rtol=0, atol=1e-10)

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    def test_vmap_over_functional_call_works(self, config):
        models = [shaken(config, seed) for seed in range(2)]
        params, buffers = stack_module_state(models)
        tokens = tokens_of(2, 3, 6)

        def member(p, b, row):
            return functional_call(models[0], (p, b), (row,))

        torch.testing.assert_close(
            vmap(member)(params, buffers, tokens),
            models[0].stacked_forward(params, buffers, tokens),
            rtol=0,
            atol=1e-10,
        )

    def test_bad_members_are_named(self):
        model = Transformer(TINY, generator=0)
        params, buffers = stack_module_state([model, model])
        for x, message in (
            (tokens_of(3, 2, 5), "x: expected 2 members first"),
            (tokens_of(2, 5), r"x: expected 3 dimension\(s\)"),
            (tokens_of(2, 2, 13), "x: expected at most context_length = 12"),
            (torch.full((2, 2, 5), 13), r"x: expected tokens in \[0, 13\), got 13 to 13"),
            (torch.full((2, 2, 5), -1), r"x: expected tokens in \[0, 13\), got -1 to -1"),
            (torch.zeros(2, 2, 5), "x: expected whole numbers, got torch.float32"),
        ):
            with pytest.raises(ValueError, match=message):
                model.stacked_forward(params, buffers, x)


class TestWidth:
    """The rules of maximal-update parameterization."""

    def change_of_logits(self, parameterization, width, tied, steps=5, lr=0.02):
        total = 0.0
        for seed in (0, 1):
            config = TransformerConfig(
                vocab_size=32,
                context_length=16,
                d_model=width,
                n_layers=2,
                parameterization=parameterization,
                base_width=32,
                tied_embeddings=tied,
            )
            model, tokens = Transformer(config, generator=seed), tokens_of(8, 17, vocab=32)
            optimizer = torch.optim.Adam(model.parameter_groups(lr))
            with torch.no_grad():
                start = model(tokens[:, :-1])
            for _ in range(steps):
                optimizer.zero_grad()
                model.loss(tokens).backward()
                optimizer.step()
            with torch.no_grad():
                total += float((model(tokens[:, :-1]) - start).square().mean().sqrt()) / 2
        return total

    @pytest.mark.parametrize("tied", [False, True])
    def test_steps_change_logits_alike_at_every_width(self, tied):
        widths = torch.tensor([64.0, 128.0, 256.0]).log()

        def slope(parameterization):
            changes = torch.tensor(
                [self.change_of_logits(parameterization, n, tied) for n in (64, 128, 256)]
            ).log()
            x = widths - widths.mean()
            return float((x * changes).sum() / x.square().sum())

        # Theory: 0 for "mup" as the width grows; the standard rules send the change to infinity.
        assert abs(slope("mup")) < 0.2
        assert slope("standard") > 0.3

    def test_logits_and_attention_at_the_base_width(self):
        standard = dataclasses.replace(TINY, qk_norm=True)
        mup = dataclasses.replace(standard, parameterization="mup", base_width=16)
        a, b = Transformer(standard, generator=0), Transformer(mup, generator=0)
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(p, q)
        assert set(b.learning_rate_multipliers().values()) == {1.0}
        assert standard.attention_scale == pytest.approx(8**-0.5)
        assert mup.attention_scale == pytest.approx(1 / 8)

    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("parameterization", ["standard", "mup"])
    def test_initial_scales(self, parameterization, tied):
        config = TransformerConfig(
            d_model=256,
            n_layers=3,
            parameterization=parameterization,
            base_width=64,
            tied_embeddings=tied,
        )
        model = Transformer(config, generator=0)
        reference = 64 if parameterization == "mup" else 256

        def spread(weight):
            return float(weight.detach().std())

        expected = reference**-0.5 if tied else 1.0
        assert spread(model.embedding.weight) == pytest.approx(expected, rel=0.02)
        if not tied:
            assert spread(model.unembedding.weight) == pytest.approx(reference**-0.5, rel=0.02)
        for block in model.blocks:
            assert spread(block.qkv.weight) == pytest.approx(256**-0.5, rel=0.02)
            assert spread(block.up.weight) == pytest.approx(256**-0.5, rel=0.02)
            assert spread(block.projection.weight) == pytest.approx((6 * 256) ** -0.5, rel=0.02)
            assert spread(block.down.weight) == pytest.approx((6 * 1024) ** -0.5, rel=0.02)
        read = {}
        model.blocks[0].register_forward_pre_hook(lambda _m, args: read.update(x=args[0]))
        model(torch.arange(256)[None])
        assert float(read["x"].detach().square().mean()) == pytest.approx(1.0, rel=0.03)

    def test_parameter_groups(self):
        config = dataclasses.replace(TINY, parameterization="mup", base_width=4, qk_norm=True)
        model = Transformer(config, generator=0)
        names = {id(p): name for name, p in model.named_parameters()}
        seen = set()
        for group in model.parameter_groups(0.3, 0.1):
            for parameter in group["params"]:
                name = names[id(parameter)]
                seen.add(name)
                hidden = any(part in name for part in ("qkv", "projection", "up.", "down"))
                assert group["lr"] == pytest.approx(0.3 * (0.25 if hidden else 1.0))
                decay = 0.1 * 0.3 if parameter.ndim == 2 else 0.0
                assert group["lr"] * group["weight_decay"] == pytest.approx(decay)
        assert seen == set(names.values())


def test_compiled_loss_is_the_same():
    model, tokens = Transformer(VARIANTS["qk-norm"], generator=0), tokens_of(2, 6)
    compiled = torch.compile(model.loss, backend="eager")
    torch.testing.assert_close(compiled(tokens), model.loss(tokens), rtol=1e-6, atol=1e-6)


def test_state_dict_holds_parameters_only(config):
    model, other = shaken(config), Transformer(config, generator=9).double()
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens_of(2, 5)), model(tokens_of(2, 5)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_the_gpu_agrees(config):
    model, tokens = shaken(config), tokens_of(2, 9)
    expected, sampled = model(tokens), model.generate(tokens[:, :3], 6, generator=0)
    model = model.cuda()
    torch.testing.assert_close(model(tokens.cuda()).cpu(), expected, rtol=1e-8, atol=1e-8)
    assert torch.equal(model.generate(tokens[:, :3].cuda(), 6, generator=0).cpu(), sampled)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(tokens.cuda())
    loss.backward()
    assert float(loss) == pytest.approx(float(model.loss(tokens.cuda())), rel=0.02)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_heads": 3}, "n_heads: expected a divisor of d_model = 16, got 3"),
        ({"n_heads": 16}, "n_heads: expected heads of even size for the rotary embedding"),
        ({"vocab_size": 0}, "vocab_size: expected a number >= 1"),
        ({"context_length": 1.5}, "context_length: expected a whole number"),
        ({"n_layers": -1}, "n_layers: expected a number >= 0"),
        ({"d_mlp": 0}, "d_mlp: expected a number >= 1"),
        ({"mlp": "relu"}, "mlp: expected one of 'gelu', 'swiglu'"),
        ({"parameterization": "ntk"}, "parameterization: expected one of"),
        ({"z_loss": -1.0}, "z_loss: expected a number >= 0"),
        ({"rotary_base": 1.0}, "rotary_base: expected a number > 1"),
        ({"base_width": 0}, "base_width: expected a number >= 1"),
    ],
)
def test_bad_configs_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **kwargs)


def test_default_mlp_widths():
    def width(**kwargs):
        return TransformerConfig(d_model=128, **kwargs).mlp_width

    assert width() == 512
    assert width(mlp="swiglu") == 344  # 8/3 of 128 is 341.3
    assert width(mlp="swiglu", d_mlp=100) == 100


def test_bad_calls_are_named():
    model = Transformer(TINY, generator=0)
    with pytest.raises(ValueError, match="config: expected a TransformerConfig, got dict"):
        Transformer({})
    for call, message in (
        (lambda: model(tokens_of(2, 13)), "tokens: expected at most context_length = 12"),
        (lambda: model(torch.full((1, 4), 13)), r"tokens: expected tokens in \[0, 13\), got 13"),
        (lambda: model(torch.full((1, 4), -2)), r"tokens: expected tokens in \[0, 13\), got -2"),
        (lambda: model(torch.zeros(1, 4)), "tokens: expected whole numbers, got torch.float32"),
        (lambda: model(tokens_of(4)), r"tokens: expected 2 dimension\(s\)"),
        (lambda: model(tokens_of(2, 3), KVCache(12)), "cache: expected torch.no_grad"),
        (lambda: model.loss(tokens_of(2, 1)), "tokens: expected at least 2 tokens"),
        (lambda: model.loss(tokens_of(2, 14)), "tokens: expected at most context_length"),
        (lambda: model.loss(torch.tensor([[1, 2, 13]])), r"targets: expected entries in \[0, 13\)"),
        (lambda: model.loss(tokens_of(2, 4), ignore_index=3), "ignore_index: expected a value"),
        (lambda: model.loss(tokens_of(2, 4), mask=torch.ones(2, 4)), "mask: expected bool"),
        (lambda: model.generate(tokens_of(2, 4), 9), "n: expected prompt and continuation within"),
        (lambda: model.generate(tokens_of(2, 4), -1), "n: expected a number >= 0"),
        (lambda: model.generate(tokens_of(2, 0), 1), "prompt: expected at least one entry"),
        (lambda: model.generate(tokens_of(1, 1, 2), 1), r"prompt: expected shape \(T,\) or"),
        (lambda: model.generate(torch.tensor([13]), 1), r"prompt: expected tokens in \[0, 13\)"),
        (lambda: model.generate([1], 1, top_k=14), "top_k: expected a number <= 13"),
        (lambda: model.generate([1], 1, temperature=-1), "temperature: expected a number >= 0"),
        (lambda: next_token_loss(torch.zeros(2, 3), tokens_of(3)), "targets: expected shape"),
        (lambda: token_log_probs(torch.zeros(2, 3), tokens_of(3)), "targets: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    cache = KVCache(5)
    with torch.no_grad():
        model(tokens_of(1, 4), cache)
        with pytest.raises(ValueError, match="cache: expected room for 6 tokens, got 5"):
            model(tokens_of(1, 2), cache)
        cache = KVCache(20)
        model(tokens_of(1, 10), cache)
        with pytest.raises(ValueError, match="got 13, 10 of them in the cache"):
            model(tokens_of(1, 3), cache)
