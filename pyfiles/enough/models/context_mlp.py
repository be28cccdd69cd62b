"""A neural probabilistic language model: the smallest network that learns from text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from enough.models._building import check_members, construction, fill_normal
from enough.models.mlp import MLP
from enough.runtime.validation import check_integer

__all__ = ["ContextMLP"]


class ContextMLP(nn.Module):
    """Predict the next token from embeddings of the last ones [1]_.

    The embeddings of ``context`` tokens are concatenated and read by a multilayer perceptron.

    Parameters
    ----------
    context : int
        Tokens that the model sees.
    width : int
        Hidden units.
    embedding : int, default 16
        Size of a token's embedding.
    vocabulary : int, default 256
        Number of tokens; 256 for bytes.
    depth : int, default 1
        Hidden layers.
    generator : torch.Generator or int, optional
        Source of the initial weights; without it a fork of the global state.

    Raises
    ------
    ValueError
        If a size is not a whole number >= 1.

    References
    ----------
    .. [1] Y. Bengio, R. Ducharme, P. Vincent, C. Jauvin, A Neural Probabilistic Language Model.

    Examples
    --------
    >>> import torch
    >>> from enough.models import ContextMLP
    >>> ContextMLP(8, 32, generator=0)(torch.zeros(5, 8, dtype=torch.int64)).shape
    torch.Size([5, 256])
    """

    def __init__(
        self,
        context: int,
        width: int,
        *,
        embedding: int = 16,
        vocabulary: int = 256,
        depth: int = 1,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.context = check_integer(context, "context", minimum=1)
        width = check_integer(width, "width", minimum=1)
        embedding = check_integer(embedding, "embedding", minimum=1)
        self.vocabulary = check_integer(vocabulary, "vocabulary", minimum=1)
        depth = check_integer(depth, "depth", minimum=1)
        with construction(generator) as generator:
            self.embedding = nn.Embedding(self.vocabulary, embedding)
            fill_normal(self.embedding.weight, 1.0, generator)
            widths = [self.context * embedding, *[width] * depth, self.vocabulary]
            self.network = MLP(widths, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits of the next token.

        Parameters
        ----------
        tokens : torch.Tensor of int64, shape (..., context)
            The last tokens, the newest at the end.

        Returns
        -------
        torch.Tensor, shape (..., vocabulary)
            Logits.

        Raises
        ------
        ValueError
            If the last dimension of ``tokens`` is not ``context``.
        """
        self._check(tokens)
        return self.network(self.embedding(tokens).flatten(-2))

    def stacked_forward(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Compute the logits of many models of this shape at once.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Parameters by name, members stacked along a new first dimension of length E.
        buffers : mapping from str to torch.Tensor
            Unused: the model has no buffers.
        x : torch.Tensor of int64, shape (E, ..., context)
            The tokens of each member.

        Returns
        -------
        torch.Tensor, shape (E, ..., vocabulary)
            The logits of each member.

        Raises
        ------
        ValueError
            If a parameter is missing, the numbers of members differ, or the last dimension of
            ``x`` is not ``context``.
        """
        check_members(params, [name for name, _ in self.named_parameters()], x)
        self._check(x)
        table = params["embedding.weight"]  # (E, vocabulary, embedding)
        members, vocabulary, size = table.shape
        # One lookup in one long table: member e's token t is row e × vocabulary + t.
        first = torch.arange(members, device=x.device) * vocabulary
        rows = x + first.view(-1, *[1] * (x.ndim - 1))
        vectors = nn.functional.embedding(rows, table.reshape(-1, size)).flatten(-2)
        inner = {
            name.removeprefix("network."): value
            for name, value in params.items()
            if name.startswith("network.")
        }
        return self.network.stacked_forward(inner, {}, vectors)

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim == 0 or tokens.shape[-1] != self.context or tokens.is_floating_point():
            raise ValueError(
                f"tokens: expected integers of shape (..., {self.context}), got "
                f"{tokens.dtype} {tuple(tokens.shape)}"
            )
