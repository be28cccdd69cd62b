"""Bits: quantizers, post-training methods, bit allocation and packed layers."""

from enough.quantization.allocation import (
    allocate_bits,
    allocate_bits_greedily,
    minimize_size,
)
from enough.quantization.attention import (
    ProjectedAttention,
)
from enough.quantization.bias import (
    prediction_divergence,
    tune_biases,
)
from enough.quantization.costs import (
    Sensitivity,
    sensitivity,
)
from enough.quantization.estimators import (
    GPTQ,
    AdaQuant,
    AdaRound,
    PDQuant,
    PostTrainingQuantizer,
)
from enough.quantization.folding import (
    FoldedNorm,
    fold_batch_norm,
    foldable_pairs,
    re_estimate_batch_norm,
)
from enough.quantization.grid import (
    channel_rows,
    expand_qparams,
    integer_range,
    qparams_shape,
)
from enough.quantization.layers import (
    Int4Linear,
    Int8Linear,
    PackedLinear,
    pack_linears,
)
from enough.quantization.learned_rounding import (
    SoftRounding,
    adaquant,
    adaround,
)
from enough.quantization.lora import (
    LoRALinear,
    NF4Linear,
    add_adapters,
    merge_adapters,
)
from enough.quantization.model import (
    prepare_model,
    quantize_model,
)
from enough.quantization.modules import (
    ActivationQuantizer,
    LayerSpec,
    QuantizedLayer,
    is_quantizable,
    layer_matrix,
    layer_rows,
    matrix_to_weight,
)
from enough.quantization.nf4 import (
    NF4Tensor,
    nf4_bytes,
    nf4_dequantize,
    nf4_levels,
    nf4_quantize,
)
from enough.quantization.packing import (
    pack_int4,
    unpack_int4,
)
from enough.quantization.ranges import (
    RANGE_METHODS,
    choose_qparams,
    qparams_from_range,
)
from enough.quantization.recipe import (
    LayerRecipe,
    Recipe,
)
from enough.quantization.reconstruction import (
    BlockReport,
    correct_distribution,
    find_blocks,
    qdrop,
    reconstruct_blocks,
)
from enough.quantization.report import (
    LayerReport,
    QuantizationReport,
)
from enough.quantization.solvers import (
    bias_correction,
    gptq,
    nearest,
)
from enough.quantization.statistics import (
    LayerStatistics,
    OutputError,
)
from enough.quantization.storage import (
    bits_per_weight,
    quantized_bytes,
    state_dict_bytes,
)
from enough.quantization.uniform import (
    dequantize,
    fake_quantize,
    quantize,
    straight_through_quantize,
)
from enough.quantization.weight_grid import (
    RoundedWeight,
    WeightGrid,
)

__all__ = [
    "GPTQ",
    "RANGE_METHODS",
    "ActivationQuantizer",
    "AdaQuant",
    "AdaRound",
    "BlockReport",
    "FoldedNorm",
    "Int4Linear",
    "Int8Linear",
    "LayerRecipe",
    "LayerReport",
    "LayerSpec",
    "LayerStatistics",
    "LoRALinear",
    "NF4Linear",
    "NF4Tensor",
    "OutputError",
    "PDQuant",
    "PackedLinear",
    "PostTrainingQuantizer",
    "ProjectedAttention",
    "QuantizationReport",
    "QuantizedLayer",
    "Recipe",
    "RoundedWeight",
    "Sensitivity",
    "SoftRounding",
    "WeightGrid",
    "adaquant",
    "adaround",
    "add_adapters",
    "allocate_bits",
    "allocate_bits_greedily",
    "bias_correction",
    "bits_per_weight",
    "channel_rows",
    "choose_qparams",
    "correct_distribution",
    "dequantize",
    "expand_qparams",
    "fake_quantize",
    "find_blocks",
    "fold_batch_norm",
    "foldable_pairs",
    "gptq",
    "integer_range",
    "is_quantizable",
    "layer_matrix",
    "layer_rows",
    "matrix_to_weight",
    "merge_adapters",
    "minimize_size",
    "nearest",
    "nf4_bytes",
    "nf4_dequantize",
    "nf4_levels",
    "nf4_quantize",
    "pack_int4",
    "pack_linears",
    "prediction_divergence",
    "prepare_model",
    "qdrop",
    "qparams_from_range",
    "qparams_shape",
    "quantize",
    "quantize_model",
    "quantized_bytes",
    "re_estimate_batch_norm",
    "reconstruct_blocks",
    "sensitivity",
    "state_dict_bytes",
    "straight_through_quantize",
    "tune_biases",
    "unpack_int4",
]
