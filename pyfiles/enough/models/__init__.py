"""Networks that every part of the book shares.

`MLP`, `ContextMLP`, `ConvNet` and `Transformer` draw their weights from a generator and compute
many members at once in ``stacked_forward``; where a parameterization asks for it they know their
learning-rate multipliers.
"""

from enough.models.context_mlp import ContextMLP
from enough.models.convnet import ConvNet, ConvNorm, ResidualBlock
from enough.models.counting import ParameterCount, approximate_flops, count_parameters, flops
from enough.models.language import next_token_loss, token_log_probs
from enough.models.mlp import MLP, ScaledLinear
from enough.models.transformer import KVCache, Transformer, TransformerConfig

__all__ = [
    "MLP",
    "ContextMLP",
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
