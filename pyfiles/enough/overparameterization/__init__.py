"""Models larger than their data: random features, ridge regression, and the theory of their risk.

The eigenframework predicts train and test error of random-feature ridge regression from the
kernel's eigenvalues and the target's coefficients (`rf_risk`, `optimal_ridge`); the solver
(`ridge_path`) and the features (`random_features`) measure them; `experiments` holds the sweeps
that compare the two.
"""

from enough.overparameterization.coherence import (
    Coherence,
    RobustDescent,
    coherence_of,
    gradient_coherence,
    median_of_groups,
    private_mean,
    winsorized_mean,
)
from enough.overparameterization.convergence import (
    exponential_rate,
    log_spaced_iterations,
    power_law_slope,
)
from enough.overparameterization.eigenframework import (
    OptimalRidge,
    RFRisk,
    finite_population_test_mse,
    optimal_ridge,
    rf_risk,
)
from enough.overparameterization.exponents import (
    PowerLawExponents,
    estimate_eigensystem,
    estimate_exponents,
)
from enough.overparameterization.features import eigenfeatures, random_features
from enough.overparameterization.impossibility import (
    ParitySolutions,
    TwoWorlds,
    enumerate_losses,
    parity_error,
    solve_parity,
    two_worlds,
)
from enough.overparameterization.influence import (
    InfluenceEstimate,
    random_subsets,
    subset_influence,
    train_on_subsets,
)
from enough.overparameterization.kernels import (
    arc_cosine_kernel,
    feature_kernel,
    laplacian_kernel,
    neural_tangent_kernel,
    nngp_kernel,
    rbf_kernel,
)
from enough.overparameterization.laziness import (
    LazyRichRun,
    kernel_movement,
    kernel_target_alignment,
    population_loss,
    quadratic_tangent_kernel,
    quadratic_task,
    stable_learning_rate,
    train_lazy_rich,
    weight_statistics,
)
from enough.overparameterization.long_tail import (
    LongTailTrials,
    expected_items,
    fitting_price,
    head_tail_frequencies,
    simulate_long_tail,
    singleton_cost,
    uniform_frequencies,
    zipf_frequencies,
)
from enough.overparameterization.matrix_sensing import (
    Descent,
    asymmetric_gradient_descent,
    gaussian_factors,
    imbalance,
    low_rank_matrix,
    rescale_factors,
    subgradient_method,
    symmetric_gradient_descent,
)
from enough.overparameterization.measurements import (
    Measurements,
    SignRIP,
    gaussian_measurements,
    population_measurements,
    sign_rip,
    sign_rip_scale,
)
from enough.overparameterization.measures import generalization_measures
from enough.overparameterization.power_law import (
    FittingRatio,
    interpolation_threshold,
    optimal_fitting_ratio,
    power_law_test_mse,
)
from enough.overparameterization.ridge import RidgePath, ridge_path
from enough.overparameterization.xor_clusters import (
    ReluRun,
    XORProblem,
    draw_xor_clusters,
    fitted_share,
    output_signs,
    train_linear,
    train_relu,
    xor_problem,
)

__all__ = [
    "Coherence",
    "Descent",
    "FittingRatio",
    "InfluenceEstimate",
    "LazyRichRun",
    "LongTailTrials",
    "Measurements",
    "OptimalRidge",
    "ParitySolutions",
    "PowerLawExponents",
    "RFRisk",
    "ReluRun",
    "RidgePath",
    "RobustDescent",
    "SignRIP",
    "TwoWorlds",
    "XORProblem",
    "arc_cosine_kernel",
    "asymmetric_gradient_descent",
    "coherence_of",
    "draw_xor_clusters",
    "eigenfeatures",
    "enumerate_losses",
    "estimate_eigensystem",
    "estimate_exponents",
    "expected_items",
    "exponential_rate",
    "feature_kernel",
    "finite_population_test_mse",
    "fitted_share",
    "fitting_price",
    "gaussian_factors",
    "gaussian_measurements",
    "generalization_measures",
    "gradient_coherence",
    "head_tail_frequencies",
    "imbalance",
    "interpolation_threshold",
    "kernel_movement",
    "kernel_target_alignment",
    "laplacian_kernel",
    "log_spaced_iterations",
    "low_rank_matrix",
    "median_of_groups",
    "neural_tangent_kernel",
    "nngp_kernel",
    "optimal_fitting_ratio",
    "optimal_ridge",
    "output_signs",
    "parity_error",
    "population_loss",
    "population_measurements",
    "power_law_slope",
    "power_law_test_mse",
    "private_mean",
    "quadratic_tangent_kernel",
    "quadratic_task",
    "random_features",
    "random_subsets",
    "rbf_kernel",
    "rescale_factors",
    "rf_risk",
    "ridge_path",
    "sign_rip",
    "sign_rip_scale",
    "simulate_long_tail",
    "singleton_cost",
    "solve_parity",
    "stable_learning_rate",
    "subgradient_method",
    "subset_influence",
    "symmetric_gradient_descent",
    "train_lazy_rich",
    "train_linear",
    "train_on_subsets",
    "train_relu",
    "two_worlds",
    "uniform_frequencies",
    "weight_statistics",
    "winsorized_mean",
    "xor_problem",
    "zipf_frequencies",
]
