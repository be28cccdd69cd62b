"""Real data that scikit-learn ships: no download, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from enough.data.dataset import Dataset
from enough.runtime import as_generator
from enough.runtime.validation import check_choice, check_integer

__all__ = ["breast_cancer", "diabetes", "digits", "photograph_patches", "wine"]

_PHOTOGRAPHS = ("china", "flower")
_UCI_LICENSE = "not stated beside the copy in scikit-learn; see archive.ics.uci.edu"
# Weights of red, green and blue in luma: Recommendation ITU-R BT.601.
_LUMA = (0.299, 0.587, 0.114)


def digits(*, dtype: torch.dtype = torch.float32) -> Dataset:
    """Load 1797 handwritten digits of 8 × 8 pixels.

    The test half of the UCI set *Optical Recognition of Handwritten Digits*
    (E. Alpaydin and C. Kaynak, 1998): every pixel counts the ink of a 4 × 4 block of the
    scan, 0 to 16. Here it is divided by 16.

    Parameters
    ----------
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (1797, 64) in [0, 1], ``y`` (1797,) int64 in 0 … 9, ``images``
        (1797, 1, 8, 8), in the order of scikit-learn.

    Raises
    ------
    ValueError
        If ``dtype`` is not floating point.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Dataset(
        x=_floating(bunch.data / 16.0, dtype),
        y=torch.as_tensor(bunch.target, dtype=torch.int64),
        name="digits",
        description="Handwritten digits, 8 × 8 pixels; each pixel is the share of ink, 0 to 1.",
        source="UCI Optical Recognition of Handwritten Digits (test half), by way of scikit-learn",
        license=_UCI_LICENSE,
        feature_names=tuple(bunch.feature_names),
        class_names=tuple(str(name) for name in bunch.target_names),
        image_shape=(1, 8, 8),
    )


def breast_cancer(*, dtype: torch.dtype = torch.float32) -> Dataset:
    """Load 569 tumors described by 30 measurements, malignant or benign.

    The Wisconsin diagnostic set (W. H. Wolberg, O. L. Mangasarian and W. N. Street, 1995).
    The columns keep the units of the source and differ in size by five orders of magnitude:
    use `standardize` on a split.

    Parameters
    ----------
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (569, 30) as published, ``y`` (569,) int64: 0 malignant, 1 benign.

    Raises
    ------
    ValueError
        If ``dtype`` is not floating point.
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return Dataset(
        x=_floating(bunch.data, dtype),
        y=torch.as_tensor(bunch.target, dtype=torch.int64),
        name="breast_cancer",
        description="Mean, standard error and worst value of ten measurements of cell nuclei.",
        source="UCI Breast Cancer Wisconsin (Diagnostic), by way of scikit-learn",
        license=_UCI_LICENSE,
        feature_names=tuple(str(name) for name in bunch.feature_names),
        class_names=tuple(str(name) for name in bunch.target_names),
    )


def wine(*, dtype: torch.dtype = torch.float32) -> Dataset:
    """Load 178 wines of three growers described by 13 chemical measurements.

    The columns keep the units of the source: use `standardize` on a split.

    Parameters
    ----------
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (178, 13) as published, ``y`` (178,) int64 in 0 … 2.

    Raises
    ------
    ValueError
        If ``dtype`` is not floating point.
    """
    from sklearn.datasets import load_wine

    bunch = load_wine()
    return Dataset(
        x=_floating(bunch.data, dtype),
        y=torch.as_tensor(bunch.target, dtype=torch.int64),
        name="wine",
        description="Thirteen chemical measurements of wines from three growers of one region.",
        source="UCI Wine (M. Forina and others, PARVUS), by way of scikit-learn",
        license=_UCI_LICENSE,
        feature_names=tuple(bunch.feature_names),
        class_names=tuple(str(name) for name in bunch.target_names),
    )


def diabetes(*, dtype: torch.dtype = torch.float32) -> Dataset:
    """Load 442 patients described by 10 measurements and the progression of their disease.

    The columns are the raw ones. (scikit-learn scales them by default with the mean and
    variance of all patients, which lets a test set speak to the training: use `standardize`
    on a split.)

    Parameters
    ----------
    dtype : torch.dtype, default torch.float32
        Floating-point type of inputs and targets.

    Returns
    -------
    Dataset
        ``x`` (442, 10), ``y`` (442,) of ``dtype``: a measure of progression one year after
        the baseline, 25 to 346.

    Raises
    ------
    ValueError
        If ``dtype`` is not floating point.

    References
    ----------
    B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least Angle Regression", Annals of
    Statistics 32 (2004).
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Dataset(
        x=_floating(bunch.data, dtype),
        y=_floating(bunch.target, dtype),
        name="diabetes",
        description="Age, sex, body mass index, blood pressure and six blood serum measurements.",
        source="Efron, Hastie, Johnstone and Tibshirani (2004), by way of scikit-learn",
        license="not stated by the source",
        feature_names=tuple(bunch.feature_names),
    )


def photograph_patches(
    n: int,
    size: int = 8,
    generator: torch.Generator | int | None = None,
    *,
    photographs: str | Sequence[str] = _PHOTOGRAPHS,
    color: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """Cut random square patches from the two photographs that scikit-learn ships.

    A photograph is drawn with equal probability for each patch, then a position, uniform
    over all that fit. Patches may overlap: for disjoint training and test sets take one
    photograph for each.

    Parameters
    ----------
    n : int
        Number of patches.
    size : int, default 8
        Height and width in pixels, at most 427.
    generator : torch.Generator, int, or None
        Source of randomness; see `enough.runtime.as_generator`.
    photographs : str or sequence of str, default ("china", "flower")
        Which of the two to cut from.
    color : bool, default False
        Keep red, green and blue; otherwise luma by ITU-R BT.601:
        0.299 R + 0.587 G + 0.114 B.
    dtype : torch.dtype, default torch.float32
        Floating-point type of the inputs.

    Returns
    -------
    Dataset
        ``x`` (n, channels × size × size) in [0, 1], ``y`` (n,) int64: 0 china, 1 flower.
        ``license`` carries the attribution that scikit-learn keeps beside the photographs.

    Raises
    ------
    ValueError
        If an argument is out of range or a photograph is unknown.

    Notes
    -----
    Decoding a JPEG may differ by one gray level between versions of libjpeg. The note beside
    the photographs credits both to one photographer but links flower.jpg to the page of
    another; it is passed on word by word.
    """
    from sklearn.datasets import load_sample_images

    n = check_integer(n, "n", minimum=1)
    size = check_integer(size, "size", minimum=1, maximum=427)
    chosen = (photographs,) if isinstance(photographs, str) else tuple(photographs)
    if not chosen:
        raise ValueError("photographs: expected at least one name, got none")
    for name in chosen:
        check_choice(name, "photographs", _PHOTOGRAPHS)
    bunch = load_sample_images()
    pictures = {}
    for path, image in zip(bunch.filenames, bunch.images, strict=True):
        levels = torch.tensor(image).double() / 255.0  # (height, width, 3)
        if not color:
            levels = levels @ torch.tensor(_LUMA, dtype=torch.float64).unsqueeze(1)
        pictures[str(path).replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".jpg")] = levels

    generator = as_generator(generator)
    device = generator.device
    which = torch.randint(len(chosen), (n,), generator=generator, device=device).cpu()
    corner = torch.rand(n, 2, generator=generator, device=device).cpu().double()
    channels = 3 if color else 1
    x = torch.empty(n, channels, size, size, dtype=torch.float64)
    y = torch.empty(n, dtype=torch.int64)
    steps = torch.arange(size)
    for i, name in enumerate(chosen):
        mine = which == i
        picture = pictures[name].permute(2, 0, 1)
        room = torch.tensor(picture.shape[1:]) - size + 1
        top, left = (corner[mine] * room).long().clamp(max=room - 1).unbind(1)
        rows = (top[:, None] + steps)[:, :, None]
        columns = (left[:, None] + steps)[:, None, :]
        x[mine] = picture[:, rows, columns].transpose(0, 1)
        y[mine] = _PHOTOGRAPHS.index(name)
    return Dataset(
        x=_floating(x.flatten(1), dtype).to(device),
        y=y.to(device),
        name="photograph_patches",
        description=f"Random {size} × {size} patches of photographs; levels from 0 to 1.",
        source=f"scikit-learn's sample photographs: {', '.join(f'{c}.jpg' for c in chosen)}",
        license=bunch.DESCR.strip(),
        class_names=_PHOTOGRAPHS,
        image_shape=(channels, size, size),
    )


def _floating(values: object, dtype: torch.dtype) -> torch.Tensor:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating-point torch.dtype, got {dtype!r}")
    return torch.as_tensor(values).to(dtype)
