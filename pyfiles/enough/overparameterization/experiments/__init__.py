"""The experiments of Part I's chapters, one module a chapter.

Functions named ``*_point`` compute one point of a sweep from plain arguments and return plain
results, ready for `enough.training.Sweep`; functions named ``*_table`` run a whole grid.
"""

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

__all__ = [
    "agreement",
    "digits_interpolation_table",
    "digits_point",
    "digits_table",
    "gaussian_point",
    "gaussian_table",
    "interpolation_table",
    "kernel_point",
    "more_is_better_table",
]
