"""Exact counts of parameters and of floating-point operations."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from enough.models.convnet import ConvNet
from enough.models.mlp import MLP
from enough.models.transformer import Transformer, TransformerConfig
from enough.runtime.validation import check_integer, check_number

__all__ = ["ParameterCount", "approximate_flops", "count_parameters", "flops"]


@dataclasses.dataclass(frozen=True)
class ParameterCount:
    """Number of parameters, by role.

    Parameters
    ----------
    total : int
        All parameters, shared ones once.
    embedding : int
        Those that read tokens or score them: embedding and unembedding, one matrix if tied.
    """

    total: int
    embedding: int

    @property
    def non_embedding(self) -> int:
        """Parameters that are neither embedding nor unembedding."""
        return self.total - self.embedding


def count_parameters(model: nn.Module | TransformerConfig) -> ParameterCount:
    """Count parameters, in total and without embeddings.

    Parameters
    ----------
    model : torch.nn.Module or TransformerConfig
        Any model, or the shape of a transformer that need not be built.

    Returns
    -------
    ParameterCount
        With ``total``, ``embedding`` and ``non_embedding``. For models other than
        `Transformer`, the embedding counts ``torch.nn.Embedding`` modules.

    Raises
    ------
    ValueError
        If ``model`` is something else.

    Notes
    -----
    The two conventions differ by much in small models: Kaplan et al. [1]_ leave embeddings out,
    Hoffmann et al. [2]_ count all.

    References
    ----------
    .. [1] Kaplan et al. (2020), "Scaling laws for neural language models", arXiv:2001.08361.
    .. [2] Hoffmann et al. (2022), "Training compute-optimal large language models",
       arXiv:2203.15556.

    Examples
    --------
    >>> from enough.models import MLP, count_parameters
    >>> count_parameters(MLP([64, 32, 10])).total
    2410
    """
    if isinstance(model, TransformerConfig):
        c = model
        attention = 4 * c.d_model**2 + (2 * c.d_head if c.qk_norm else 0)
        mlp = (3 if c.mlp == "swiglu" else 2) * c.d_model * c.mlp_width
        embedding = c.vocab_size * c.d_model * (1 if c.tied_embeddings else 2)
        blocks = c.n_layers * (attention + mlp + 2 * c.d_model)
        return ParameterCount(blocks + c.d_model + embedding, embedding)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model: expected a torch.nn.Module or a TransformerConfig, got {type(model).__name__}"
        )
    roles = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    if isinstance(model, Transformer) and model.unembedding is not None:
        roles.append(model.unembedding.weight)
    embedding = sum(p.numel() for p in {id(p): p for p in roles}.values())
    return ParameterCount(sum(p.numel() for p in model.parameters()), embedding)


def flops(
    model: Transformer | TransformerConfig | MLP | ConvNet,
    batch: int = 1,
    length: int | None = None,
    backward: bool = True,
    *,
    size: int | tuple[int, int] | None = None,
) -> int:
    """Count the floating-point operations of the matrix products of one step.

    A multiplication and an addition are two operations. Elementwise work, norms and the
    optimizer are left out, as ``torch.utils.flop_counter.FlopCounterMode`` leaves them out.

    Parameters
    ----------
    model : Transformer, TransformerConfig, MLP or ConvNet
        The model, or the shape of a transformer.
    batch : int, default 1
        Sequences, rows or images in the step.
    length : int, optional
        Tokens a sequence that a transformer reads; required for it. ``Transformer.loss`` reads
        one token less than it is given.
    backward : bool, default True
        Count the backward pass too: gradients of all parameters, none of the input.
    size : int or (int, int), optional
        Height and width of the image; required for a `ConvNet`.

    Returns
    -------
    int
        The exact number for the full attention matrix. A causal kernel may skip nearly half
        of its two products, and a fused kernel computes one of them once more in the backward
        pass; neither is counted.

    Raises
    ------
    ValueError
        If an argument is not as described.

    Notes
    -----
    A product of (m, k) and (k, n) takes 2 m k n, and the backward pass twice that: once for the
    gradient of each factor. A transformer of width d, MLP width f, depth L and vocabulary V that
    reads N = B T tokens takes, forward,

    .. math:: 2 N [L (4 d^2 + c\\, d f + 2 T d) + d V],

    c = 2 for "gelu" and 3 for "swiglu". PyTorch's counter agrees exactly where it sees every
    product: it has no entry for the fused attention kernel of the CPU, so compare under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``. Its weight gradient of a convolution
    with groups is too large by the number of groups.

    Examples
    --------
    >>> from enough.models import MLP, flops
    >>> flops(MLP([64, 32, 10]), batch=5, backward=False)
    23680
    """
    batch = check_integer(batch, "batch", minimum=1)
    if isinstance(model, Transformer):
        model = model.config
    if isinstance(model, TransformerConfig):
        if length is None:
            raise ValueError("length: expected the number of tokens a sequence, got None")
        length = check_integer(length, "length", minimum=1, maximum=model.context_length)
        d = model.d_model
        mlp = (3 if model.mlp == "swiglu" else 2) * d * model.mlp_width
        macs = (
            batch
            * length
            * (model.n_layers * (4 * d**2 + mlp + 2 * length * d) + d * model.vocab_size)
        )
        return 2 * macs * (3 if backward else 1)
    if isinstance(model, MLP):
        macs = [batch * a * b for a, b in zip(model.widths[:-1], model.widths[1:], strict=True)]
    elif isinstance(model, ConvNet):
        macs = _convnet_macs(model, batch, size)
    else:
        raise ValueError(
            "model: expected a Transformer, TransformerConfig, MLP or ConvNet, "
            f"got {type(model).__name__}"
        )
    # The first layer needs no gradient of its input.
    return 2 * (3 * sum(macs) - macs[0] if backward else sum(macs))


def approximate_flops(parameters: float, tokens: float) -> float:
    """Approximate the training compute of a transformer by 6 N D.

    Parameters
    ----------
    parameters : float
        N, the number of parameters (with or without embeddings: say which).
    tokens : float
        D, the number of tokens trained on.

    Returns
    -------
    float
        Floating-point operations: 2 a parameter and token forward, 4 backward.

    Raises
    ------
    ValueError
        If a number is negative.

    Notes
    -----
    Equation 2.2 of [1]_ times 3. Against `flops` it leaves out the attention products, whose share
    is T / (6 d + T) for context T and width d with the "gelu" MLP, and counts norm gains and
    the token embedding, which take no product.

    References
    ----------
    .. [1] Kaplan et al. (2020), "Scaling laws for neural language models", arXiv:2001.08361.
    """
    parameters = check_number(parameters, "parameters", minimum=0.0)
    return 6.0 * parameters * check_number(tokens, "tokens", minimum=0.0)


def _convnet_macs(model: ConvNet, batch: int, size: int | tuple[int, int] | None) -> list[int]:
    sides = (size, size) if isinstance(size, int) else size
    if sides is None or len(sides) != 2:
        raise ValueError(f"size: expected the height and width of the image, got {size!r}")
    sides = tuple(check_integer(side, "size", minimum=1) for side in sides)
    macs = []
    for stage in model.stages:
        for layer in stage.convs:
            stride = layer.conv.stride[0]
            sides = tuple((side - 1) // stride + 1 for side in sides)
            macs.append(batch * math.prod(sides) * layer.conv.weight.numel())
    return [*macs, batch * model.head.weight.numel()]
