"""A decoder-only transformer over bytes or any small vocabulary."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.models._building import (
    check_members,
    construction,
    fill_normal,
    parameter_groups,
)
from enough.models.language import next_token_loss
from enough.models.rotary import apply_rotary, rotary_table
from enough.runtime import as_generator
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["Block", "KVCache", "Transformer", "TransformerConfig"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    r"""Shape and options of a `Transformer`.

    Parameters
    ----------
    vocab_size : int, default 256
        Number of tokens; 256 for bytes.
    context_length : int, default 256
        Longest sequence.
    d_model : int, default 128
        Width of the residual stream.
    n_layers : int, default 4
        Number of blocks.
    n_heads : int, default 4
        Attention heads; they divide ``d_model`` into even parts.
    mlp : {"gelu", "swiglu"}, default "gelu"
        Two matrices with a GELU between them, or three with a gated SiLU [1]_.
    d_mlp : int, optional
        Hidden width of the MLP. By default ``4 * d_model`` for "gelu" and the multiple of 8
        nearest to ``8/3 * d_model`` for "swiglu", which has as many weights.
    qk_norm : bool, default False
        Normalize queries and keys by their root mean square, with a gain per entry [2]_.
    z_loss : float, default 0.0
        Weight of the mean of :math:`(\log Z)^2` in the loss (1e-4 in [3]_).
    tied_embeddings : bool, default False
        Use one matrix to read tokens and to score them.
    parameterization : {"standard", "mup"}, default "standard"
        "mup": maximal-update parameterization for Adam (see `Transformer`).
    base_width : int, default 128
        The ``d_model`` at which "mup" and "standard" have the same initial weights and
        learning rates.
    rotary_base : float, default 10000.0
        Base of the rotary frequencies.
    norm_eps : float, default 1e-5
        Added to the mean square inside each norm.

    Attributes
    ----------
    d_head : int
        ``d_model // n_heads``.
    mlp_width : int
        ``d_mlp``, or its default.
    attention_scale : float
        Factor of the attention logits: :math:`d_\mathrm{head}^{-1/2}`, for "mup"
        :math:`d_\mathrm{head}^{-1}`.
    width_ratio : float
        ``d_model / base_width`` for "mup", 1 for "standard".

    Raises
    ------
    ValueError
        If a number or an option is not as described.

    References
    ----------
    .. [1] Shazeer (2020), "GLU variants improve transformer", arXiv:2002.05202.
    .. [2] Dehghani et al. (2023), "Scaling vision transformers to 22 billion parameters",
       arXiv:2302.05442.
    .. [3] Wortsman et al. (2023), "Small-scale proxies for large-scale transformer training
       instabilities", arXiv:2309.14322.
    """

    vocab_size: int = 256
    context_length: int = 256
    d_model: int = 128
    n_layers: int = 4
    n_heads: int = 4
    mlp: str = "gelu"
    d_mlp: int | None = None
    qk_norm: bool = False
    z_loss: float = 0.0
    tied_embeddings: bool = False
    parameterization: str = "standard"
    base_width: int = 128
    rotary_base: float = 10000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("vocab_size", "context_length", "d_model", "n_heads", "base_width"):
            check_integer(getattr(self, name), name, minimum=1)
        check_integer(self.n_layers, "n_layers", minimum=0)
        if self.d_mlp is not None:
            check_integer(self.d_mlp, "d_mlp", minimum=1)
        check_choice(self.mlp, "mlp", ("gelu", "swiglu"))
        check_choice(self.parameterization, "parameterization", ("standard", "mup"))
        check_number(self.z_loss, "z_loss", minimum=0.0)
        check_number(self.rotary_base, "rotary_base", above=1.0)
        check_number(self.norm_eps, "norm_eps", minimum=0.0)
        if self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads: expected a divisor of d_model = {self.d_model}, got {self.n_heads}"
            )
        if self.d_head % 2:
            raise ValueError(
                "n_heads: expected heads of even size for the rotary embedding, "
                f"got d_model / n_heads = {self.d_head}"
            )

    @property
    def d_head(self) -> int:
        """Size of a head."""
        return self.d_model // self.n_heads

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP."""
        if self.d_mlp is not None:
            return self.d_mlp
        return 4 * self.d_model if self.mlp == "gelu" else max(8, 8 * round(self.d_model / 3))

    @property
    def attention_scale(self) -> float:
        """Factor of the attention logits."""
        return self.d_head ** (-1.0 if self.parameterization == "mup" else -0.5)

    @property
    def width_ratio(self) -> float:
        """Width relative to the base width of "mup"."""
        return self.d_model / self.base_width if self.parameterization == "mup" else 1.0


class KVCache:
    """Keys and values of the tokens read so far.

    Memory is taken at the first use, on the device and in the dtype of the keys.

    Parameters
    ----------
    room : int
        Most tokens a sequence can have.

    Attributes
    ----------
    length : int
        Tokens read so far.
    room : int
        As given.

    Raises
    ------
    ValueError
        If ``room`` is not a positive whole number.
    """

    def __init__(self, room: int) -> None:
        self.room = check_integer(room, "room", minimum=1)
        self.length = 0
        self._layers: dict[int, Tensor] = {}

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest tokens of a layer and return all of its keys and values.

        Parameters
        ----------
        layer : int
            Index of the layer.
        keys : torch.Tensor, shape (B, n_heads, t, d_head)
            Rotated keys of the newest t tokens.
        values : torch.Tensor, shape (B, n_heads, t, d_head)
            Their values.

        Returns
        -------
        keys : torch.Tensor, shape (B, n_heads, length + t, d_head)
            Of all tokens.
        values : torch.Tensor, shape (B, n_heads, length + t, d_head)
            Of all tokens.
        """
        batch, heads, t, size = keys.shape
        if layer not in self._layers:
            self._layers[layer] = keys.new_empty(2, batch, heads, self.room, size)
        store, stop = self._layers[layer], self.length + t
        store[0, :, :, self.length : stop] = keys
        store[1, :, :, self.length : stop] = values
        return store[0, :, :, :stop], store[1, :, :, :stop]


def _attend(
    qkv: Tensor,
    config: TransformerConfig,
    table: Tensor,
    gain: Tensor | None,
    store: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Causal attention from the fused projection (N, T, 3 d_model) to (N, T, d_model)."""
    n, t, _ = qkv.shape
    qk, v = qkv.view(n, t, 3, config.n_heads, config.d_head).split((2, 1), 2)
    if gain is not None:
        qk = F.rms_norm(qk.to(gain.dtype), (config.d_head,), eps=config.norm_eps) * gain
    q, k = apply_rotary(qk, table[:, None, None]).to(v.dtype).transpose(1, 3).unbind(2)
    v = v.squeeze(2).transpose(1, 2)
    mask = None
    if store is not None:
        k, v = store(k, v)
        if 1 < t < k.shape[-2]:
            mask = torch.ones(t, k.shape[-2], dtype=torch.bool, device=k.device)
            mask = mask.tril(k.shape[-2] - t)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None and t == k.shape[-2],
        scale=config.attention_scale,
    )
    return out.transpose(1, 2).reshape(n, t, config.d_model)


def _nonlinearity(h: Tensor, config: TransformerConfig) -> Tensor:
    if config.mlp == "gelu":
        return F.gelu(h)
    gate, value = h.chunk(2, -1)
    return F.silu(gate) * value


class Block(nn.Module):
    """Attention and MLP, each on the normalized residual stream and added to it.

    Parameters
    ----------
    config : TransformerConfig
        Shape and options.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        d, m = config.d_model, config.mlp_width
        self.attention_norm = nn.RMSNorm(d, eps=config.norm_eps)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.qk_gain = nn.Parameter(torch.ones(2 * config.d_head)) if config.qk_norm else None
        self.projection = nn.Linear(d, d, bias=False)
        self.mlp_norm = nn.RMSNorm(d, eps=config.norm_eps)
        self.up = nn.Linear(d, 2 * m if config.mlp == "swiglu" else m, bias=False)
        self.down = nn.Linear(m, d, bias=False)

    def forward(
        self,
        x: Tensor,
        table: Tensor,
        store: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x : torch.Tensor, shape (B, T, d_model)
            The residual stream.
        table : torch.Tensor, shape (T, d_head // 2, 2)
            Rotary table of the positions.
        store : callable, optional
            Appends keys and values to a cache and returns all of them.

        Returns
        -------
        torch.Tensor, shape (B, T, d_model)
            The residual stream.
        """
        gain = None if self.qk_gain is None else self.qk_gain.view(2, 1, -1)
        heads = _attend(self.qkv(self.attention_norm(x)), self.config, table, gain, store)
        x = x + self.projection(heads)
        return x + self.down(_nonlinearity(self.up(self.mlp_norm(x)), self.config))


class Transformer(nn.Module):
    r"""A decoder-only transformer.

    Blocks normalize before they act (RMS norm), attend causally with rotary positions, and
    have no biases. A last norm precedes the scores.

    Parameters
    ----------
    config : TransformerConfig
        Shape and options.
    generator : torch.Generator or int, optional
        Source of the initial weights. ``None`` reads the global state inside
        ``torch.random.fork_rng``: the weights follow ``torch.manual_seed``, the global state
        does not move, and two models built one after the other are equal.

    Attributes
    ----------
    config : TransformerConfig
        As given.
    embedding : torch.nn.Embedding
        Token embedding, (vocab_size, d_model).
    blocks : torch.nn.ModuleList
        The blocks, each with ``qkv``, ``projection``, ``up`` and ``down``.
    final_norm : torch.nn.RMSNorm
        The last norm.
    unembedding : torch.nn.Linear or None
        Scores of the tokens; ``None`` when the embedding is tied.

    Raises
    ------
    ValueError
        If ``config`` is not a `TransformerConfig`.

    Notes
    -----
    With width d, base width :math:`d_0` and depth L, weights start at :math:`N(0, s^2)`:

    =====================  ==============================  ===================================
    parameter              standard                        mup
    =====================  ==============================  ===================================
    embedding              s = 1                           s = 1, rate 1
    ``qkv``, ``up``        :math:`s = n^{-1/2}`            :math:`s = n^{-1/2}`, rate d₀/d
    ``projection, down``   :math:`s = (2Ln)^{-1/2}`        :math:`s = (2Ln)^{-1/2}`, rate d₀/d
    unembedding            :math:`s = d^{-1/2}`            :math:`s = d_0^{-1/2}`, rate 1,
                                                           logits times d₀/d
    gains                  1                               1, rate 1
    attention logits       :math:`d_\mathrm{head}^{-1/2}`  :math:`d_\mathrm{head}^{-1}`
    =====================  ==============================  ===================================

    n is the fan-in and "rate" the factor of Adam's learning rate. These are the rules of [1]_,
    Table 8 (with constants for the embedding and output variance), for d_mlp proportional to
    d_model. A tied embedding starts as the unembedding does, and tokens are read as
    :math:`d^{1/2}` (mup: :math:`d_0^{1/2}`) times its rows, so that both kinds of model start
    with a residual stream of mean square 1.

    References
    ----------
    .. [1] Yang et al. (2022), "Tensor programs V: Tuning large neural networks via zero-shot
       hyperparameter transfer", arXiv:2203.03466.
    .. [2] Zhang and Sennrich (2019), "Root mean square layer normalization",
       arXiv:1910.07467.
    .. [3] Su et al. (2021), "RoFormer", arXiv:2104.09864.

    Examples
    --------
    >>> import torch
    >>> from enough.models import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(d_model=32, n_layers=2), generator=0)
    >>> model(torch.zeros(3, 7, dtype=torch.long)).shape
    torch.Size([3, 7, 256])
    """

    def __init__(
        self, config: TransformerConfig, *, generator: torch.Generator | int | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, TransformerConfig):
            raise ValueError(f"config: expected a TransformerConfig, got {type(config).__name__}")
        self.config = config
        d, tied = config.d_model, config.tied_embeddings
        reference = d if config.parameterization == "standard" else config.base_width
        self._embedding_scale = math.sqrt(reference) if tied else 1.0
        self._logit_scale = 1 / config.width_ratio
        with construction(generator) as generator:
            self.embedding = nn.Embedding(config.vocab_size, d)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
            self.final_norm = nn.RMSNorm(d, eps=config.norm_eps)
            self.unembedding = None if tied else nn.Linear(d, config.vocab_size, bias=False)
            fill_normal(self.embedding.weight, reference**-0.5 if tied else 1.0, generator)
            for block in self.blocks:
                for layer in (block.qkv, block.projection, block.up, block.down):
                    inward = layer is block.projection or layer is block.down
                    variance = 1 / layer.in_features / (2 * config.n_layers if inward else 1)
                    fill_normal(layer.weight, math.sqrt(variance), generator)
            if self.unembedding is not None:
                fill_normal(self.unembedding.weight, reference**-0.5, generator)
        self._make_table()

    def _make_table(self) -> None:
        """Compute the rotary table at the precision the weights have, float32 at least."""
        weight = self.embedding.weight
        table = rotary_table(
            self.config.context_length,
            self.config.d_head,
            base=self.config.rotary_base,
            device=weight.device,
            dtype=weight.dtype if weight.dtype.itemsize >= 4 else torch.float32,
        )
        self.register_buffer("rotary", table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        super()._apply(fn, recurse)
        self._make_table()  # a cast table would keep the rounding of the old dtype
        return self

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Compute the normalized residual stream after the last block.

        Parameters
        ----------
        tokens : torch.Tensor of int, shape (B, T)
            Tokens in ``[0, vocab_size)``.
        cache : KVCache, optional
            Keys and values of earlier tokens; the new tokens are added to it.

        Returns
        -------
        torch.Tensor, shape (B, T, d_model)
            The features that the unembedding reads.

        Raises
        ------
        ValueError
            If the shape or dtype is wrong, the sequence is longer than the context or, on a
            CPU, a token is outside the vocabulary. On a GPU the last is a device-side
            assertion, as in ``torch.nn.Embedding``.
        """
        self._check_tokens(tokens, 2)
        start = 0 if cache is None else cache.length
        stop = start + tokens.shape[1]
        self._check_length(stop, "tokens", start)
        if cache is not None and torch.is_grad_enabled():
            raise ValueError("cache: expected torch.no_grad(), no gradient flows through a cache")
        if cache is not None and stop > cache.room:
            raise ValueError(f"cache: expected room for {stop} tokens, got {cache.room}")
        try:
            x = self.embedding(tokens.long())
        except IndexError:
            self._check_range(tokens, "tokens")
            raise
        if self._embedding_scale != 1.0:
            x = x * self._embedding_scale
        table = self.rotary[start:stop]
        for i, block in enumerate(self.blocks):
            store = None if cache is None else lambda k, v, i=i: cache.append(i, k, v)
            x = block(x, table, store)
        if cache is not None:
            cache.length = stop
        return self.final_norm(x)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Score the next token at every position.

        Parameters
        ----------
        tokens : torch.Tensor of int, shape (B, T)
            Tokens in ``[0, vocab_size)``.
        cache : KVCache, optional
            Keys and values of earlier tokens; the new tokens are added to it.

        Returns
        -------
        torch.Tensor, shape (B, T, vocab_size)
            Logits; those at position t depend on tokens 0 to t.

        Raises
        ------
        ValueError
            As in `features`.
        """
        h = self.features(tokens, cache)
        if self.unembedding is None:
            logits = F.linear(h, self.embedding.weight)
        else:
            logits = self.unembedding(h)
        return logits if self._logit_scale == 1.0 else logits * self._logit_scale

    def loss(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        ignore_index: int = -100,
        z_loss: float | None = None,
    ) -> Tensor:
        """Compute the mean cross-entropy of each token given those before it.

        Parameters
        ----------
        tokens : torch.Tensor of int, shape (B, T)
            Sequences of T >= 2 tokens. Entries equal to ``ignore_index`` are padding; it must
            follow the tokens, since positions after it would still attend to it.
        mask : torch.Tensor of bool, shape (B, T), optional
            Which tokens count as targets (the first of a sequence never does). Tokens that do
            not count, a prompt for example, are still read.
        ignore_index : int, default -100
            Value that stands for padding.
        z_loss : float, optional
            Weight of the z-loss; by default the config's.

        Returns
        -------
        torch.Tensor, shape ()
            Nats a token (nats a byte when tokens are bytes), plus the z-loss. NaN when no
            token counts.

        Raises
        ------
        ValueError
            If the shapes are wrong, the sequences are too short or long or, on a CPU, a token
            is outside the vocabulary.
        """
        inputs, targets = self._shift(tokens, mask, ignore_index, 2)
        z_loss = self.config.z_loss if z_loss is None else z_loss
        return next_token_loss(self(inputs), targets, ignore_index=ignore_index, z_loss=z_loss)

    def stacked_forward(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Compute the logits of many models of this shape at once.

        Linear maps are batched matrix products over the members; attention, which has no
        weights, sees the members as part of the batch.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Parameters by name, members stacked along a new first dimension of length E, as
            ``torch.func.stack_module_state`` returns them.
        buffers : mapping from str to torch.Tensor
            Buffers by name, stacked in the same way.
        x : torch.Tensor of int, shape (E, B, T)
            The tokens of each member.

        Returns
        -------
        torch.Tensor, shape (E, B, T, vocab_size)
            The logits of each member.

        Raises
        ------
        ValueError
            If a parameter is missing, the numbers of members differ, a sequence is longer than
            the context or a token is outside the vocabulary.
        """
        config = self.config
        members = check_members(params, [name for name, _ in self.named_parameters()], x)
        self._check_tokens(x, 3, "x")
        _, batch, length = x.shape
        self._check_length(length, "x")
        if not torch.compiler.is_compiling():  # a token too large would read the next member's
            self._check_range(x, "x")
        table = buffers["rotary"][0, :length]

        def linear(name: str, h: Tensor) -> Tensor:
            return torch.bmm(h, params[f"{name}.weight"].mT)

        def norm(name: str, h: Tensor) -> Tensor:
            h = F.rms_norm(h, (config.d_model,), eps=config.norm_eps)
            return h * params[f"{name}.weight"].unsqueeze(1)

        # Member e reads rows e * vocab_size onward of one long embedding.
        first = torch.arange(members, device=x.device) * config.vocab_size
        table_rows = params["embedding.weight"].flatten(0, 1)
        h = F.embedding((x.long() + first[:, None, None]).flatten(1), table_rows)
        if self._embedding_scale != 1.0:
            h = h * self._embedding_scale
        for i in range(config.n_layers):
            block = f"blocks.{i}"
            gain = None
            if config.qk_norm:
                gain = params[f"{block}.qk_gain"].view(members, 1, 2, 1, -1)
                gain = gain.repeat_interleave(batch, 0)
            qkv = linear(f"{block}.qkv", norm(f"{block}.attention_norm", h))
            qkv = qkv.view(members * batch, length, -1)
            heads = _attend(qkv, config, table, gain).view(members, batch * length, -1)
            h = h + linear(f"{block}.projection", heads)
            hidden = linear(f"{block}.up", norm(f"{block}.mlp_norm", h))
            h = h + linear(f"{block}.down", _nonlinearity(hidden, config))
        h = norm("final_norm", h)
        logits = linear("embedding" if config.tied_embeddings else "unembedding", h)
        if self._logit_scale != 1.0:
            logits = logits * self._logit_scale
        return logits.view(members, batch, length, -1)

    def stacked_loss(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        x: Tensor,
        *,
        mask: Tensor | None = None,
        ignore_index: int = -100,
        z_loss: float | None = None,
    ) -> Tensor:
        """Compute `loss` for many models of this shape at once.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            As in `stacked_forward`.
        buffers : mapping from str to torch.Tensor
            As in `stacked_forward`.
        x : torch.Tensor of int, shape (E, B, T)
            The sequences of each member.
        mask : torch.Tensor of bool, shape (E, B, T), optional
            Which tokens count as targets.
        ignore_index : int, default -100
            Value that stands for padding.
        z_loss : float, optional
            Weight of the z-loss; by default the config's.

        Returns
        -------
        torch.Tensor, shape (E,)
            The loss of each member. Sum them before the backward pass: their mean would
            divide every member's learning rate by E.

        Raises
        ------
        ValueError
            As in `loss` and `stacked_forward`.
        """
        inputs, targets = self._shift(x, mask, ignore_index, 3)
        logits = self.stacked_forward(params, buffers, inputs)
        z_loss = self.config.z_loss if z_loss is None else z_loss
        return next_token_loss(
            logits, targets, ignore_index=ignore_index, z_loss=z_loss, member_dims=1
        )

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        n: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | int | None = None,
    ) -> Tensor:
        """Sample continuations, one token at a time, with a cache of keys and values.

        Parameters
        ----------
        prompt : torch.Tensor or numpy.ndarray of int, shape (T,) or (B, T)
            One or more tokens a sequence.
        n : int
            Number of tokens to add.
        temperature : float, default 1.0
            Divides the logits; 0 takes the most likely token.
        top_k : int, optional
            Sample from the k most likely tokens.
        generator : torch.Generator or int, optional
            Source of the draws; ``None`` seeds one from the operating system. Draws are made
            on its device.

        Returns
        -------
        torch.Tensor or numpy.ndarray of int64, shape (T + n,) or (B, T + n)
            Prompt and continuation.

        Raises
        ------
        ValueError
            If an argument is not as described, a token is outside the vocabulary, or prompt
            and continuation do not fit into the context.
        """
        (prompt,), restore = as_tensors(prompt=prompt)
        if prompt.ndim not in (1, 2):
            raise ValueError(f"prompt: expected shape (T,) or (B, T), got {tuple(prompt.shape)}")
        tokens = torch.atleast_2d(prompt).to(self.embedding.weight.device)
        self._check_tokens(tokens, 2, "prompt")
        self._check_range(tokens, "prompt")
        n = check_integer(n, "n", minimum=0)
        temperature = check_number(temperature, "temperature", minimum=0.0)
        if top_k is not None:
            top_k = check_integer(top_k, "top_k", minimum=1, maximum=self.config.vocab_size)
        (batch, start), total = tokens.shape, tokens.shape[1] + n
        if total > self.config.context_length:
            raise ValueError(
                f"n: expected prompt and continuation within context_length = "
                f"{self.config.context_length}, got {start} + {n} tokens"
            )
        generator = as_generator(generator)
        out = torch.empty(batch, total, dtype=torch.long, device=tokens.device)
        out[:, :start] = tokens
        cache = KVCache(total)
        for stop in range(start, total):
            logits = self(out[:, cache.length : stop], cache)[:, -1].float()
            if temperature == 0:
                out[:, stop] = logits.argmax(-1)
                continue
            logits, candidates = logits.topk(top_k or self.config.vocab_size)
            probs = torch.softmax(logits / temperature, -1).to(generator.device)
            draws = torch.multinomial(probs, 1, generator=generator).to(out.device)
            out[:, stop] = candidates.gather(-1, draws).squeeze(-1)
        return restore(out.view(*prompt.shape[:-1], total))

    def learning_rate_multipliers(self, optimizer: str = "adam") -> dict[str, float]:
        """Give the factor of the learning rate that each parameter needs.

        Parameters
        ----------
        optimizer : {"adam"}, default "adam"
            The kind of optimizer: "adam" stands for all whose step does not grow with the
            gradient. The rules for others are not implemented.

        Returns
        -------
        dict from str to float
            By parameter name: ``base_width / d_model`` for the matrices of the blocks when the
            parameterization is "mup", 1 for all else.

        Raises
        ------
        ValueError
            If ``optimizer`` is another.
        """
        check_choice(optimizer, "optimizer", ("adam",))
        return {
            name: 1 / self.config.width_ratio if _is_hidden_matrix(name) else 1.0
            for name, _ in self.named_parameters()
        }

    def parameter_groups(
        self, lr: float, weight_decay: float = 0.0, optimizer: str = "adam"
    ) -> list[dict[str, Any]]:
        """Give the parameter groups for Adam or AdamW.

        Parameters
        ----------
        lr : float
            The learning rate before the multipliers.
        weight_decay : float, default 0.0
            Decay of the matrices, embeddings included; gains do not decay. Divided by the
            multiplier, so that learning rate times decay is the same for every matrix.
        optimizer : {"adam"}, default "adam"
            As in `learning_rate_multipliers`.

        Returns
        -------
        list of dict
            Groups with ``params``, ``lr``, ``weight_decay`` and ``lr_multiplier``.

        Raises
        ------
        ValueError
            If a number is negative or ``optimizer`` is another.
        """
        return parameter_groups(self, self.learning_rate_multipliers(optimizer), lr, weight_decay)

    def _check_tokens(self, tokens: Tensor, ndim: int, name: str = "tokens") -> None:
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(f"{name}: expected whole numbers, got {tokens.dtype}")
        check_tensor(tokens, name, ndim=ndim)

    def _check_length(self, length: int, name: str, cached: int = 0) -> None:
        if length > self.config.context_length:
            raise ValueError(
                f"{name}: expected at most context_length = {self.config.context_length} tokens "
                f"a sequence, got {length}" + (f", {cached} of them in the cache" if cached else "")
            )

    def _check_range(self, tokens: Tensor, name: str) -> None:
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"{name}: expected tokens in [0, {self.config.vocab_size}), got {low} to {high}"
            )

    def _shift(
        self, tokens: Tensor, mask: Tensor | None, ignore_index: int, ndim: int
    ) -> tuple[Tensor, Tensor]:
        """Split sequences into what is read and what is predicted."""
        name = "tokens" if ndim == 2 else "x"
        self._check_tokens(tokens, ndim, name)
        if tokens.shape[-1] < 2:
            raise ValueError(f"{name}: expected at least 2 tokens a sequence, got 1")
        if 0 <= ignore_index < self.config.vocab_size:
            raise ValueError(f"ignore_index: expected a value that is no token, got {ignore_index}")
        targets = tokens[..., 1:].long()
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != tokens.shape:
                raise ValueError(
                    f"mask: expected bool of shape {tuple(tokens.shape)}, "
                    f"got {mask.dtype} of shape {tuple(mask.shape)}"
                )
            targets = targets.masked_fill(~mask[..., 1:], ignore_index)
        inputs = tokens[..., :-1].long()
        return inputs.masked_fill(inputs == ignore_index, 0), targets


def _is_hidden_matrix(name: str) -> bool:
    layer = name.split(".")[-2]
    return layer in ("qkv", "projection", "up", "down")
