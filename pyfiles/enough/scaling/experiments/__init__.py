"""The experiments of Part V's chapters, one module a chapter.

Functions named ``*_point`` compute one point of a sweep from plain arguments and return plain
results, ready for `enough.training.Sweep`; functions named ``*_table`` run a whole grid.
"""

from enough.scaling.experiments.fitting import (
    BivariateLaw,
    approach_two_bias,
    approaches_table,
    bivariate_point,
    condition_number,
    coverage_point,
    extrapolation_errors,
    grid_starts,
    ladder_optima,
    ladder_steps,
    ladder_table,
    lbfgs_from,
    log_huber,
    shuffled_point,
    translation_errors,
    translation_point,
)

__all__ = [
    "BivariateLaw",
    "approach_two_bias",
    "approaches_table",
    "bivariate_point",
    "condition_number",
    "coverage_point",
    "extrapolation_errors",
    "grid_starts",
    "ladder_optima",
    "ladder_steps",
    "ladder_table",
    "lbfgs_from",
    "log_huber",
    "shuffled_point",
    "translation_errors",
    "translation_point",
]
