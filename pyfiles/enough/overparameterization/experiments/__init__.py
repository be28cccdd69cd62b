"""The experiments of Part I's chapters, one module a chapter.

Functions named ``*_point`` compute one point of a sweep from plain arguments and return plain
results, ready for `enough.training.Sweep`; functions named ``*_table`` run a whole grid.
"""

from enough.overparameterization.experiments.lazy_rich import (
    delay_table,
    lazy_rich_point,
    modular_point,
)
from enough.overparameterization.experiments.matrix_sensing import (
    asymmetric_point,
    rescaling_point,
    robust_point,
    robust_size_table,
    sign_rip_point,
    symmetric_point,
)
from enough.overparameterization.experiments.memorization import (
    coherence_point,
    long_tail_point,
    parity_point,
    subset_point,
    suppression_point,
    tail_learners_point,
    tailed_digits,
    two_worlds_point,
    worlds_table,
)
from enough.overparameterization.experiments.random_features import (
    agreement,
    digits_interpolation_table,
    digits_point,
    digits_table,
    gaussian_point,
    gaussian_table,
    interpolation_table,
    kernel_point,
    more_is_better_table,
)
from enough.overparameterization.experiments.xor_clusters import (
    separation_table,
    xor_baselines_point,
    xor_point,
)

__all__ = [
    "agreement",
    "asymmetric_point",
    "coherence_point",
    "delay_table",
    "digits_interpolation_table",
    "digits_point",
    "digits_table",
    "gaussian_point",
    "gaussian_table",
    "interpolation_table",
    "kernel_point",
    "lazy_rich_point",
    "long_tail_point",
    "modular_point",
    "more_is_better_table",
    "parity_point",
    "rescaling_point",
    "robust_point",
    "robust_size_table",
    "separation_table",
    "sign_rip_point",
    "subset_point",
    "suppression_point",
    "symmetric_point",
    "tail_learners_point",
    "tailed_digits",
    "two_worlds_point",
    "worlds_table",
    "xor_baselines_point",
    "xor_point",
]
