"""Training a transformer: our loop and model beside plain loops over ours and other models.

Every side does the same updates: forward, cross-entropy of the next byte, backward, AdamW. The
Llama of Hugging Face has the same parameters as ours and, with our weights put into it, the same
loss, which is checked before anything is timed. The encoder of torch has layer norms, biases and
a GELU instead and about as many parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.models import Transformer, TransformerConfig, count_parameters
from enough.runtime import synchronize
from enough.training import fit
from side_by_side import Peer, compare, made, main

# name: (d_model, n_layers, n_heads, length, batch, updates a round)
CPU_SIZES = {"1 M": (128, 5, 4, 128, 16, 3), "10 M": (384, 6, 6, 256, 4, 1)}
GPU_SIZES = {"10 M": (384, 6, 6, 256, 64, 5), "85 M": (768, 12, 12, 512, 32, 3)}
QUICK = {"tiny": (16, 1, 1, 16, 2, 1)}


def llama(ours: Transformer) -> nn.Module:
    """Build the Llama of Hugging Face with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = ours.config
    with torch.random.fork_rng():
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.d_model,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                max_position_embeddings=config.context_length,
                rms_norm_eps=config.norm_eps,
                tie_word_embeddings=False,
                attn_implementation="sdpa",
                use_cache=False,
                bos_token_id=None,
                eos_token_id=None,
            )
        )

    def halves(weight: Tensor) -> Tensor:
        # Ours turns neighbors, Llama the first half of a head with the second.
        heads = weight.view(config.n_heads, config.d_head // 2, 2, config.d_model)
        return heads.transpose(1, 2).reshape(weight.shape)

    table = {
        "model.embed_tokens.weight": ours.embedding.weight,
        "model.norm.weight": ours.final_norm.weight,
        "lm_head.weight": ours.unembedding.weight,
    }
    for i, block in enumerate(ours.blocks):
        q, k, v = block.qkv.weight.chunk(3)
        gate, up = block.up.weight.chunk(2)
        here = {
            "self_attn.q_proj": halves(q), "self_attn.k_proj": halves(k),
            "self_attn.v_proj": v, "self_attn.o_proj": block.projection.weight,
            "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": block.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
        }  # fmt: skip
        table |= {f"model.layers.{i}.{name}.weight": weight for name, weight in here.items()}
    model.load_state_dict({name: weight.detach().clone() for name, weight in table.items()})
    return model.to(ours.embedding.weight.device)


class Encoder(nn.Module):
    """The transformer that torch brings, made causal, with learned positions.

    Parameters
    ----------
    config : TransformerConfig
        Shape.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d = config.d_model
        self.tokens = nn.Embedding(config.vocab_size, d)
        self.places = nn.Embedding(config.context_length, d)
        layer = nn.TransformerEncoderLayer(
            d, config.n_heads, 4 * d, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, config.n_layers, nn.LayerNorm(d), enable_nested_tensor=False
        )
        self.head = nn.Linear(d, config.vocab_size, bias=False)
        mask = nn.Transformer.generate_square_subsequent_mask(config.context_length)
        self.register_buffer("mask", mask)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next token.

        Parameters
        ----------
        tokens : torch.Tensor of int, shape (B, T)
            T is the context length.

        Returns
        -------
        torch.Tensor, shape (B, T, vocab_size)
            The scores.
        """
        x = self.tokens(tokens) + self.places.weight
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


def plain(
    model: nn.Module, scores: Callable[[Tensor], Tensor], tokens: Tensor, updates: int
) -> Callable[[], None]:
    """Make the loop most people write."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)

    def train() -> None:
        for _ in range(updates):
            optimizer.zero_grad()
            found = scores(tokens[:, :-1])
            F.cross_entropy(found.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
        synchronize(tokens.device)

    return train


def one_size(name: str, shape: tuple[int, ...], rounds: int) -> list[dict]:
    """Measure one size.

    Parameters
    ----------
    name : str
        What the size is called.
    shape : tuple of int
        As in `CPU_SIZES`.
    rounds : int
        Timed rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes; seconds are those of one update.
    """
    width, depth, heads, length, batch, updates = shape
    config = TransformerConfig(
        d_model=width, n_layers=depth, n_heads=heads, context_length=length, mlp="swiglu"
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, again = (Transformer(config, generator=0).to(device) for _ in range(2))
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(256, (batch, length + 1), generator=draw).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    same: list[str] = []

    def ours() -> None:
        fit(
            model, lambda generator: (tokens,), objective=lambda m, t: m.loss(t), steps=1,
            optimizer=optimizer, generator=0, progress=False,
        )  # fmt: skip
        synchronize(device)

    def hugging_face() -> Callable[[], None]:
        peer = llama(model)
        with torch.no_grad():
            mine, theirs = model(tokens[:, :-1]), peer(input_ids=tokens[:, :-1]).logits
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-3)
        same.append(f"scores with our weights within {(theirs - mine).abs().max():.0e}")
        return plain(peer, lambda t: peer(input_ids=t).logits, tokens, 1)

    def encoder() -> Callable[[], None]:
        with torch.random.fork_rng():
            peer = Encoder(config).to(device)
        return plain(peer, peer, tokens, 1)

    peer_llama = made(hugging_face, "transformers")
    peers = {
        "our model, plain loop": Peer(plain(again, again, tokens, 1)),
        "Hugging Face Llama, plain loop": Peer(
            peer_llama.call, peer_llama.package, note="".join(same), reason=peer_llama.reason
        ),
        "torch.nn.TransformerEncoder, plain loop": made(encoder),
    }
    result = compare(
        f"training update, {name} ({count_parameters(config).total / 1e6:.2f} M parameters)",
        ours,
        peers,
        rounds=rounds,
        times=updates,
        why={
            "our model, plain loop": "our loop also keeps losses and rates, guards the random "
            "state, listens for an interrupt and holds freed memory; the model is the same",
            "Hugging Face Llama, plain loop": "one product for queries, keys and values, one for "
            "gate and value, and a rotation by complex numbers, while the peer has a module and "
            "several passes over memory for each",
            "torch.nn.TransformerEncoder, plain loop": "root-mean-square norms, no biases and "
            "three narrower matrices, while the peer has layer norms, biases and two wide ones",
        },
    )
    rate = batch * length
    for row in result:
        speed = f"{rate / row['ours_s']:,.0f} tokens a second"
        row["note"] = "; ".join(filter(None, [row["note"], f"ours {speed}"]))
        if row["peer_s"]:
            row["note"] += f", peer {rate / row['peer_s']:,.0f}"
    return result


def rows(quick: bool = False) -> list[dict]:
    """Measure every size.

    Parameters
    ----------
    quick : bool, default False
        One tiny model.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    sizes = QUICK if quick else GPU_SIZES if torch.cuda.is_available() else CPU_SIZES
    return [
        row for name, shape in sizes.items() for row in one_size(name, shape, 2 if quick else 4)
    ]


if __name__ == "__main__":
    main(rows)
