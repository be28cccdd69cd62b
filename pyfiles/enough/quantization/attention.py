"""Attention whose projections are layers of their own, so that they can be quantized."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ProjectedAttention"]


class ProjectedAttention(nn.Module):
    """Multi-head attention with four linear layers in place of fused parameters.

    ``torch.nn.MultiheadAttention`` keeps the projections of queries, keys and values in one
    parameter and reads its output layer's weight without calling it: no layer to replace. This
    module computes the same and can stand in its place, in ``torch.nn.TransformerEncoderLayer``
    and its kin too.

    Parameters
    ----------
    attention : torch.nn.MultiheadAttention
        The module to copy; parameters are cloned.

    Attributes
    ----------
    query, key, value, output : torch.nn.Linear
        The projections.

    Raises
    ------
    ValueError
        If the module has an option that is not handled: ``add_bias_kv`` or ``add_zero_attn``.
    """

    # What torch.nn.TransformerEncoder asks before it takes its fused path: not with this module.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        for option, given in (
            ("add_bias_kv", attention.bias_k is not None),
            ("add_zero_attn", attention.add_zero_attn),
        ):
            if given:
                raise ValueError(f"attention: expected no {option}, got a module with it")
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        if attention._qkv_same_embed_dim:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = [getattr(attention, f"{n}_proj_weight") for n in "qkv"]
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.query, self.key, self.value = map(_linear, weights, biases)
        self.output = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as ``torch.nn.MultiheadAttention`` does.

        Parameters
        ----------
        query, key, value : torch.Tensor
            (L, B, E), (S, B, ·) and (S, B, ·), or batch first where the module is, or without a
            batch.
        key_padding_mask : torch.Tensor, shape (B, S), optional
            Keys to ignore (bool), or numbers to add to the logits.
        need_weights : bool, default True
            Whether to return the attention weights.
        attn_mask : torch.Tensor, shape (L, S) or (B · heads, L, S), optional
            Pairs that may not attend (bool), or numbers to add to the logits.
        average_attn_weights : bool, default True
            Whether the weights are averaged over heads.
        is_causal : bool, default False
            A hint that ``attn_mask`` is causal; the mask itself is what counts.

        Returns
        -------
        output : torch.Tensor
            Shape of ``query``.
        weights : torch.Tensor or None
            (B, L, S), or (B, heads, L, S) if not averaged.

        Raises
        ------
        ValueError
            If ``is_causal`` comes without ``attn_mask``.
        """
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask: expected a mask with is_causal, got None")
        batched = query.ndim == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q = self._heads(self.query(query))
        k, v = self._heads(self.key(key)), self._heads(self.value(value))
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            logits = q @ k.mT / q.shape[-1] ** 0.5
            weights = torch.softmax(logits if mask is None else logits + mask, -1)
            weights = F.dropout(weights, dropout) if dropout else weights
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            weights = None
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.output(heads.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _mask(
        self, q: Tensor, k: Tensor, key_padding_mask: Tensor | None, attn_mask: Tensor | None
    ) -> Tensor | None:
        """Merge both masks into numbers that are added to logits (B, heads, L, S)."""
        parts = []
        if key_padding_mask is not None:
            parts.append(_additive(key_padding_mask, q).view(-1, 1, 1, k.shape[2]))
        if attn_mask is not None:
            mask = _additive(attn_mask, q)
            parts.append(mask.unflatten(0, (-1, self.num_heads)) if mask.ndim == 3 else mask)
        return sum(parts[1:], parts[0]) if parts else None


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(*reversed(weight.shape), bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return layer


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)
