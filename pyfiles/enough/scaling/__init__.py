"""Laws of loss against parameters, data and compute: fits, intervals and plans.

Every law has the same contract: ``Law.fit(table)`` returns a `Fit` with parameters by the paper's
symbols, covariance, bootstrap, condition number and the share of starts that agree; `predict`,
`interval` and `profile` are methods of the fit. `compute_optimal` and its neighbors plan with it.
`published` holds the real tables, or stand-ins where they are not at hand. `pretrain`, a command,
trains one language model on many processes.
"""

from enough.scaling import published
from enough.scaling.annealing import AnnealingLaw, MultiPowerLaw, annealing_areas
from enough.scaling.filtering import DataFilteringLaw
from enough.scaling.fit import Fit, IdentifiabilityWarning
from enough.scaling.hyperparameters import CriticalBatchLaw, HyperparameterLaw
from enough.scaling.joint import DataConstrainedLaw, DownstreamLaw, KaplanLaw, TranslationLaw
from enough.scaling.laws import AverageParametersLaw, ChinchillaLaw, Law, OverTrainingLaw, PowerLaw
from enough.scaling.planning import (
    Allocation,
    allocation_band,
    compute_optimal,
    inference_optimal,
    isoflop_minima,
)

__all__ = [
    "Allocation",
    "AnnealingLaw",
    "AverageParametersLaw",
    "ChinchillaLaw",
    "CriticalBatchLaw",
    "DataConstrainedLaw",
    "DataFilteringLaw",
    "DownstreamLaw",
    "Fit",
    "HyperparameterLaw",
    "IdentifiabilityWarning",
    "KaplanLaw",
    "Law",
    "MultiPowerLaw",
    "OverTrainingLaw",
    "PowerLaw",
    "TranslationLaw",
    "allocation_band",
    "annealing_areas",
    "compute_optimal",
    "inference_optimal",
    "isoflop_minima",
    "published",
]
