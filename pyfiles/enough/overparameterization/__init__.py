"""Models larger than their data: random features, ridge regression, and the theory of their risk.

The eigenframework predicts train and test error of random-feature ridge regression from the
kernel's eigenvalues and the target's coefficients (`rf_risk`, `optimal_ridge`); the solver
(`ridge_path`) and the features (`random_features`) measure them; `experiments` holds the sweeps
that compare the two.
"""

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
from enough.overparameterization.kernels import (
    arc_cosine_kernel,
    feature_kernel,
    laplacian_kernel,
    neural_tangent_kernel,
    nngp_kernel,
    rbf_kernel,
)
from enough.overparameterization.power_law import (
    FittingRatio,
    interpolation_threshold,
    optimal_fitting_ratio,
    power_law_test_mse,
)
from enough.overparameterization.ridge import RidgePath, ridge_path

__all__ = [
    "FittingRatio",
    "OptimalRidge",
    "PowerLawExponents",
    "RFRisk",
    "RidgePath",
    "arc_cosine_kernel",
    "eigenfeatures",
    "estimate_eigensystem",
    "estimate_exponents",
    "feature_kernel",
    "finite_population_test_mse",
    "interpolation_threshold",
    "laplacian_kernel",
    "neural_tangent_kernel",
    "nngp_kernel",
    "optimal_fitting_ratio",
    "optimal_ridge",
    "power_law_test_mse",
    "random_features",
    "rbf_kernel",
    "rf_risk",
    "ridge_path",
]
