"""The experiments of Part III's chapters, one module a chapter.

Functions named ``*_point`` compute one point of a sweep from plain arguments and return plain
results, ready for `enough.training.Sweep`; functions named ``*_table`` run a whole grid.
"""

from enough.rewards.experiments.best_of_n import (
    COUNTS,
    drop_from_peak,
    estimator_point,
    expected_maximum,
    overoptimization_point,
    two_mode_curve,
)
from enough.rewards.experiments.policy_optimization import (
    exploit_point,
    gradient_flow_point,
    kl_to_reach,
    penalty_window,
    policy_search_point,
    scored_pool_point,
    text_policy_point,
)
from enough.rewards.experiments.reward_ensembles import (
    RULES,
    ScoredAnswers,
    agreement,
    ensemble_curves,
    ensemble_point,
    score_answers,
    sub_ensembles,
)

__all__ = [
    "COUNTS",
    "RULES",
    "ScoredAnswers",
    "agreement",
    "drop_from_peak",
    "ensemble_curves",
    "ensemble_point",
    "estimator_point",
    "expected_maximum",
    "exploit_point",
    "gradient_flow_point",
    "kl_to_reach",
    "overoptimization_point",
    "penalty_window",
    "policy_search_point",
    "score_answers",
    "scored_pool_point",
    "sub_ensembles",
    "text_policy_point",
    "two_mode_curve",
]
