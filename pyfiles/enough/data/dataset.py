"""A labeled data set that fits in memory: tensors with their name, source and license."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import torch

from enough.runtime import as_generator
from enough.runtime.validation import (
    as_tensors,
    check_integer,
    check_number,
    check_tensor,
)

__all__ = ["Dataset", "flip_labels", "standardize"]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs and targets with their provenance.

    Parameters
    ----------
    x : torch.Tensor
        Inputs, shape (samples, features): one row a sample, also for images.
    y : torch.Tensor
        Targets, shape (samples,): int64 class labels or floating-point values.
    name : str
        Short name.
    description : str
        What a row is and in which units.
    source : str
        Where the numbers come from.
    license : str, default ""
        Under which terms, as far as the source says.
    feature_names : tuple of str, default ()
        One name for each column of ``x``, or none.
    class_names : tuple of str, default ()
        The names of labels 0, 1, …; empty for a regression target.
    image_shape : tuple of int, optional
        (channels, height, width) when a row of ``x`` is a flattened image.

    Raises
    ------
    ValueError
        If shapes do not fit together.

    Examples
    --------
    >>> from enough.data import digits
    >>> train, test = digits().split(1500, generator=0)
    >>> len(train), len(test), train.images.shape[1:]
    (1500, 297, torch.Size([1, 8, 8]))
    """

    x: torch.Tensor
    y: torch.Tensor
    name: str
    description: str
    source: str
    license: str = ""
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_tensor(self.x, "x", ndim=2, finite=False, nonempty=False)
        check_tensor(self.y, "y", shape=(self.x.shape[0],), finite=False, nonempty=False)
        width = self.x.shape[1]
        if self.feature_names and len(self.feature_names) != width:
            raise ValueError(
                f"feature_names: expected {width} names, got {len(self.feature_names)}"
            )
        if self.image_shape is not None:
            channels, height, columns = self.image_shape
            if channels * height * columns != width:
                raise ValueError(
                    f"image_shape: expected {width} entries in all, got {self.image_shape}"
                )

    def __len__(self) -> int:
        return self.x.shape[0]

    def __repr__(self) -> str:
        kind = f", {self.n_classes} classes" if self.class_names else ""
        dtypes = [str(t.dtype).removeprefix("torch.") for t in (self.x, self.y)]
        return (
            f"Dataset({self.name}: x {tuple(self.x.shape)} {dtypes[0]}, "
            f"y {tuple(self.y.shape)} {dtypes[1]}{kind})"
        )

    @property
    def n_classes(self) -> int:
        """The number of classes, 0 for a regression target."""
        return len(self.class_names)

    @property
    def images(self) -> torch.Tensor:
        """The inputs as images, shape (samples, channels, height, width); a view of ``x``.

        Raises
        ------
        ValueError
            If the data set does not hold images.
        """
        if self.image_shape is None:
            raise ValueError(f"images: expected a data set of images, got {self.name!r}")
        return self.x.view(-1, *self.image_shape)

    def subset(self, index: Any) -> Dataset:
        """Take some samples.

        Parameters
        ----------
        index : slice, torch.Tensor, numpy.ndarray, or sequence of int
            Anything that indexes the first axis: positions or a boolean mask.

        Returns
        -------
        Dataset
            The chosen samples in the order of ``index``.
        """
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.x.device)
        return replace(self, x=self.x[index], y=self.y[index])

    def split(
        self,
        sizes: float | Sequence[float],
        generator: torch.Generator | int | None = None,
    ) -> tuple[Dataset, ...]:
        """Split the samples at random into disjoint parts.

        Parameters
        ----------
        sizes : float, int, or sequence of either
            One fraction in (0, 1) or one count gives two parts: that many samples and the
            rest. A sequence gives one part for each entry; samples that counts or fractions
            leave over are dropped. Fractions are cut at the rounded cumulative sum, so
            fractions that add up to 1 use every sample.
        generator : torch.Generator, int, or None
            Source of the permutation; see `enough.runtime.as_generator`.

        Returns
        -------
        tuple of Dataset
            Disjoint, none of them empty.

        Raises
        ------
        ValueError
            If sizes mix counts and fractions, ask for more samples than there are, or leave
            a part empty.
        """
        bounds = _bounds(sizes, len(self))
        generator = as_generator(generator)
        order = torch.randperm(len(self), generator=generator, device=generator.device)
        return tuple(self.subset(order[start:stop]) for start, stop in pairwise(bounds))

    def to(self, device: str | torch.device) -> Dataset:
        """Move inputs and targets to a device.

        Parameters
        ----------
        device : str or torch.device
            Where the tensors go.

        Returns
        -------
        Dataset
            The same data set there.
        """
        return replace(self, x=self.x.to(device), y=self.y.to(device))


def standardize(train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
    """Give every column of the training inputs mean 0 and variance 1, and the others alike.

    The means and standard deviations (divisor n) are those of ``train`` alone, so nothing
    about the other sets leaks into the transformation. A constant column is only centered.

    Parameters
    ----------
    train : Dataset
        Fits the transformation.
    *others : Dataset
        Validation and test sets with the same columns.

    Returns
    -------
    tuple of Dataset
        ``train`` and the others, transformed.

    Raises
    ------
    ValueError
        If ``train`` is empty, inputs are not floating point, or columns differ in number.
    """
    check_tensor(train.x, "train", floating=True)
    for i, other in enumerate(others):
        check_tensor(other.x, f"others[{i}]", shape=(None, train.x.shape[1]), floating=True)
    exact = train.x.double()
    mean, scale = exact.mean(0), exact.std(0, correction=0)
    # A constant column has a standard deviation of rounding size, not always of zero.
    rounding = 16 * torch.finfo(train.x.dtype).eps * mean.abs()
    scale = torch.where(scale <= rounding, torch.ones_like(scale), scale)
    return tuple(
        replace(part, x=((part.x.double() - mean) / scale).to(part.x.dtype))
        for part in (train, *others)
    )


def flip_labels(
    y: Any,
    rate: float,
    n_classes: int,
    generator: torch.Generator | int | None = None,
) -> Any:
    """Replace an exact share of the labels by other classes.

    Exactly round(rate × samples) labels change, each to one of the other classes with equal
    probability. (Noise that redraws a label from all classes at rate p leaves 1/K of the
    redrawn ones as they were: that is rate p (K − 1)/K here.)

    Parameters
    ----------
    y : torch.Tensor or numpy.ndarray
        Integer labels 0 … n_classes − 1, shape (samples,).
    rate : float
        Share of labels to change, in [0, 1].
    n_classes : int
        Number of classes, at least 2.
    generator : torch.Generator, int, or None
        Source of randomness; see `enough.runtime.as_generator`.

    Returns
    -------
    torch.Tensor or numpy.ndarray
        The noisy labels, a copy of the dtype given.

    Raises
    ------
    ValueError
        If labels are not integers of the range, or ``rate`` is outside [0, 1].
    """
    (labels,), restore = as_tensors(y=y)
    n_classes = check_integer(n_classes, "n_classes", minimum=2)
    rate = check_number(rate, "rate", minimum=0.0, maximum=1.0)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"y: expected integer labels, got {labels.dtype}")
    check_tensor(labels, "y", ndim=1, minimum=0, maximum=n_classes - 1)
    generator = as_generator(generator)
    device = generator.device
    chosen = torch.randperm(len(labels), generator=generator, device=device)
    chosen = chosen[: round(rate * len(labels))]
    shift = torch.randint(1, n_classes, chosen.shape, generator=generator, device=device)
    chosen, shift = chosen.to(labels.device), shift.to(labels.device)
    noisy = labels.clone()
    noisy[chosen] = ((labels[chosen].long() + shift) % n_classes).to(labels.dtype)
    return restore(noisy)


def _bounds(sizes: Any, n: int) -> list[int]:
    """Turn what `Dataset.split` takes into cut points 0 = b_0 < b_1 < … ≤ n."""
    if isinstance(sizes, Real) and not isinstance(sizes, bool):
        whole = isinstance(sizes, Integral)
        parts = [sizes, n - int(sizes)] if whole else [sizes, 1.0 - float(sizes)]
    elif isinstance(sizes, Sequence) and not isinstance(sizes, str) and len(sizes) > 0:
        parts = list(sizes)
    else:
        raise ValueError(
            f"sizes: expected a fraction, a count or a sequence of them, got {sizes!r}"
        )
    if all(isinstance(p, Integral) and not isinstance(p, bool) for p in parts):
        ends = torch.tensor([int(p) for p in parts]).cumsum(0).tolist()
        if min(parts) < 1 or ends[-1] > n:
            raise ValueError(f"sizes: expected counts >= 1 of {n} samples in all, got {sizes!r}")
    elif all(isinstance(p, Real) and not isinstance(p, Integral) for p in parts):
        total = torch.tensor([float(p) for p in parts], dtype=torch.float64).cumsum(0)
        if not min(parts) > 0.0 or total[-1] > 1.0 + 1e-9:
            raise ValueError(f"sizes: expected positive fractions of sum <= 1, got {sizes!r}")
        ends = [round(min(t, 1.0) * n) for t in total.tolist()]
    else:
        raise ValueError(f"sizes: expected all counts or all fractions, got {sizes!r}")
    bounds = [0, *ends]
    if any(b <= a for a, b in pairwise(bounds)):
        raise ValueError(
            f"sizes: expected every part to hold a sample, got {sizes!r} of {n} samples"
        )
    return bounds
