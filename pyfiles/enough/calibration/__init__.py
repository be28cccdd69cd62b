"""Confidence: how to measure it, how to repair it, and how to train for it.

Metrics take probabilities of shape (N, K), or (N,) for P(y = 1); calibrators take logits.
All binned metrics share one convention: uniform bins are (i/B, (i+1)/B] with 0 in the first,
equal values share a bin, empty bins weigh nothing.
"""

from enough.calibration.affine import DirichletCalibration, MatrixScaling, VectorScaling
from enough.calibration.binary import (
    BetaCalibration,
    HistogramBinning,
    IsotonicCalibration,
    PlattScaling,
)
from enough.calibration.conformal import conformal_quantile, conformal_rank, conformal_sets
from enough.calibration.correctness import CorrectnessAwareCalibration
from enough.calibration.diagrams import draw_reliability
from enough.calibration.errors import (
    ReliabilityCurve,
    average_calibration_error,
    expected_calibration_error,
    kolmogorov_smirnov_error,
    reliability_curve,
)
from enough.calibration.intervals import (
    MetricInterval,
    bootstrap_interval,
    calibration_error_interval,
)
from enough.calibration.losses import EnsLoss, ZLoss, mixup
from enough.calibration.overlap import (
    MixupOptimum,
    NearestNeighborInterpolator,
    OverlappingPairs,
    gaussian_bayes_error,
    gaussian_log_odds,
    mixup_optimal_kl,
    mixup_optimal_posterior,
    published_temperature,
    temperature_scaled_kl,
    uniform_kl,
)
from enough.calibration.quantiles import (
    conformalize_quantiles,
    pinball_loss,
    sort_quantiles,
    weighted_interval_score,
)
from enough.calibration.refinement import RefinementSplit, refinement_split
from enough.calibration.scores import (
    BrierDecomposition,
    ScoreDecomposition,
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
    score_decomposition,
)
from enough.calibration.smooth import smooth_calibration_error
from enough.calibration.streaming import StreamingCalibration
from enough.calibration.temperature import EnsembleTemperatureScaling, TemperatureScaling
from enough.calibration.transforms import add_noise, adjust_contrast, blur, rotate

__all__ = [
    "BetaCalibration",
    "BrierDecomposition",
    "CorrectnessAwareCalibration",
    "DirichletCalibration",
    "EnsLoss",
    "EnsembleTemperatureScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "MatrixScaling",
    "MetricInterval",
    "MixupOptimum",
    "NearestNeighborInterpolator",
    "OverlappingPairs",
    "PlattScaling",
    "RefinementSplit",
    "ReliabilityCurve",
    "ScoreDecomposition",
    "StreamingCalibration",
    "TemperatureScaling",
    "VectorScaling",
    "ZLoss",
    "add_noise",
    "adjust_contrast",
    "average_calibration_error",
    "blur",
    "bootstrap_interval",
    "brier_decomposition",
    "brier_score",
    "calibration_error_interval",
    "conformal_quantile",
    "conformal_rank",
    "conformal_sets",
    "conformalize_quantiles",
    "draw_reliability",
    "expected_calibration_error",
    "gaussian_bayes_error",
    "gaussian_log_odds",
    "kolmogorov_smirnov_error",
    "mixup",
    "mixup_optimal_kl",
    "mixup_optimal_posterior",
    "negative_log_likelihood",
    "pinball_loss",
    "published_temperature",
    "refinement_split",
    "reliability_curve",
    "rotate",
    "score_decomposition",
    "smooth_calibration_error",
    "sort_quantiles",
    "temperature_scaled_kl",
    "uniform_kl",
    "weighted_interval_score",
]
