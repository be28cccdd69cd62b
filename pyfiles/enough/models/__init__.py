"""Networks that every part of the book shares.

`MLP`, `ConvNet` and `Transformer` draw their weights from a generator, know the learning-rate
multipliers of their parameterization, and compute many members at once in ``stacked_forward``.
"""

from enough.models.convnet import ConvNet, ConvNorm, ResidualBlock
from enough.models.counting import ParameterCount, approximate_flops, count_parameters, flops
from enough.models.language import next_token_loss, token_log_probs
from enough.models.mlp import MLP, ScaledLinear
from enough.models.transformer import KVCache, Transformer, TransformerConfig

__all__ = [
    "MLP",
    "ConvNet",
    "ConvNorm",
    "KVCache",
    "ParameterCount",
    "ResidualBlock",
    "ScaledLinear",
    "Transformer",
    "TransformerConfig",
    "approximate_flops",
    "count_parameters",
    "flops",
    "next_token_loss",
    "token_log_probs",
]
