"""Real data that ships with the libraries, generated data, and verified downloads."""

from enough.data.builtin import breast_cancer, diabetes, digits, photograph_patches, wine
from enough.data.catalog import describe, registry
from enough.data.corpus import TextCorpus, blocks, text, windows
from enough.data.dataset import Dataset, flip_labels, standardize
from enough.data.errors import (
    ChecksumError,
    DataError,
    DataUnavailableError,
    FormatError,
    UnknownChecksumError,
)
from enough.data.generated import (
    SIGNAL_CLASSES,
    gaussian_eigenfeatures,
    gaussian_mixture,
    signals,
)
from enough.data.loader import available, load
from enough.data.spectra import (
    BinnedSpectrum,
    binned_power_law,
    power_law_coefficients,
    power_law_spectrum,
)

__all__ = [
    "SIGNAL_CLASSES",
    "BinnedSpectrum",
    "ChecksumError",
    "DataError",
    "DataUnavailableError",
    "Dataset",
    "FormatError",
    "TextCorpus",
    "UnknownChecksumError",
    "available",
    "binned_power_law",
    "blocks",
    "breast_cancer",
    "describe",
    "diabetes",
    "digits",
    "flip_labels",
    "gaussian_eigenfeatures",
    "gaussian_mixture",
    "load",
    "photograph_patches",
    "power_law_coefficients",
    "power_law_spectrum",
    "registry",
    "signals",
    "standardize",
    "text",
    "windows",
    "wine",
]
