"""Optimization pressure: reward models, what they reward, and when to stop.

A proxy score is optimized, a gold score is what was wanted. Pools of scored samples have shape
(..., N), one row a prompt; the scores of several reward models have shape (members, ...).
"""

from enough.rewards.aggregation import aggregate_rewards, normalize_rewards
from enough.rewards.best_of_n import (
    BestOfN,
    best_of_n,
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_ceiling,
    best_of_n_kl_exact,
    best_of_n_weights,
)
from enough.rewards.divergences import KLEstimates, categorical_kl, kl_estimates
from enough.rewards.laws import OveroptimizationLaw, Peak, fit_overoptimization
from enough.rewards.natural_gradient import natural_gradient, natural_gradient_path
from enough.rewards.policies import BurstPolicy, Evaluation, TabularPolicy
from enough.rewards.policy_gradient import (
    generalized_advantage,
    leave_one_out,
    ppo_loss,
    value_loss,
)
from enough.rewards.policy_search import PPO, REINFORCE
from enough.rewards.preferences import (
    bradley_terry_loss,
    dpo_loss,
    flip_preferences,
    npo_loss,
    rpo_loss,
    sequence_log_probs,
)
from enough.rewards.reward_models import (
    RewardModels,
    independent_members,
    member_correlation,
    shared_trunk,
)
from enough.rewards.tilted import (
    TiltedFrontier,
    solve_tilt,
    tilted_distribution,
    tilted_frontier,
)
from enough.rewards.transformer_policy import TransformerPolicy, TransformerValue
from enough.rewards.verifiers import (
    OptimalTries,
    ResamplingOutcome,
    optimal_tries,
    pass_at_k,
    pass_hat_k,
    resampling_accuracy,
    resampling_outcome,
)
from enough.rewards.worlds import (
    BURST_WORLD,
    HERDING_WORLD,
    NAIVE_WORLD,
    PreferencePairs,
    TokenWorlds,
    WorldConfig,
)

__all__ = [
    "BURST_WORLD",
    "HERDING_WORLD",
    "NAIVE_WORLD",
    "PPO",
    "REINFORCE",
    "BestOfN",
    "BurstPolicy",
    "Evaluation",
    "KLEstimates",
    "OptimalTries",
    "OveroptimizationLaw",
    "Peak",
    "PreferencePairs",
    "ResamplingOutcome",
    "RewardModels",
    "TabularPolicy",
    "TiltedFrontier",
    "TokenWorlds",
    "TransformerPolicy",
    "TransformerValue",
    "WorldConfig",
    "aggregate_rewards",
    "best_of_n",
    "best_of_n_distribution",
    "best_of_n_kl",
    "best_of_n_kl_ceiling",
    "best_of_n_kl_exact",
    "best_of_n_weights",
    "bradley_terry_loss",
    "categorical_kl",
    "dpo_loss",
    "fit_overoptimization",
    "flip_preferences",
    "generalized_advantage",
    "independent_members",
    "kl_estimates",
    "leave_one_out",
    "member_correlation",
    "natural_gradient",
    "natural_gradient_path",
    "normalize_rewards",
    "npo_loss",
    "optimal_tries",
    "pass_at_k",
    "pass_hat_k",
    "ppo_loss",
    "resampling_accuracy",
    "resampling_outcome",
    "rpo_loss",
    "sequence_log_probs",
    "shared_trunk",
    "solve_tilt",
    "tilted_distribution",
    "tilted_frontier",
    "value_loss",
]
