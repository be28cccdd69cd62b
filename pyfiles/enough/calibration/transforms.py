"""Image transformations in plain torch: copies of an image that keep its label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from enough.runtime.randomness import as_generator
from enough.runtime.validation import as_tensors, check_number, check_tensor

__all__ = ["add_noise", "adjust_contrast", "blur", "rotate"]


def rotate(images: Any, degrees: Any) -> Any:
    """Rotate images about their center, with zeros from outside.

    A pixel of the result is the bilinear interpolation of the image at the place it came
    from; beyond the border the image is 0.

    Parameters
    ----------
    images : array of shape (..., H, W)
        Images of a floating-point dtype.
    degrees : float or array of shape (...)
        Angle, counterclockwise as an image is shown (row 0 on top): one for all images, or
        one for each.

    Returns
    -------
    array
        Shape, dtype and kind of ``images``.

    Raises
    ------
    ValueError
        If ``images`` has fewer than two dimensions, another dtype, or an entry that is NaN
        or infinite, or ``degrees`` has another shape than the leading dimensions.

    Notes
    -----
    Equals ``scipy.ndimage.rotate(..., reshape=False, order=1, mode="grid-constant")``.
    """
    images, restore = _read(images)
    height, width = images.shape[-2:]
    (degrees,), _ = as_tensors(degrees=degrees)
    check_tensor(degrees, "degrees")
    if degrees.ndim and degrees.shape != images.shape[:-2]:
        raise ValueError(
            f"degrees: expected one angle or the shape {tuple(images.shape[:-2])}, "
            f"got {tuple(degrees.shape)}"
        )
    kind = _compute_dtype(images)
    flat = images.reshape(-1, 1, height, width).to(kind)
    angle = torch.deg2rad(degrees.to(images.device, kind)).expand(images.shape[:-2]).reshape(-1)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    rows = torch.arange(height, device=images.device, dtype=kind)[:, None] - (height - 1) / 2
    columns = torch.arange(width, device=images.device, dtype=kind) - (width - 1) / 2
    source = torch.stack(  # in units of half the image, as grid_sample wants them
        [(cos * columns - sin * rows) * (2 / width), (sin * columns + cos * rows) * (2 / height)],
        dim=-1,
    )
    turned = F.grid_sample(flat, source, mode="bilinear", align_corners=False)
    return restore(turned.reshape(images.shape).to(images.dtype))


def blur(images: Any, sigma: float) -> Any:
    """Blur images with a Gaussian that is mirrored at the border.

    Parameters
    ----------
    images : array of shape (..., H, W)
        Images of a floating-point dtype.
    sigma : float
        Standard deviation in pixels, zero or more. The Gaussian is cut off at four of them.

    Returns
    -------
    array
        Shape, dtype and kind of ``images``. The sum of the pixels stays what it was.

    Raises
    ------
    ValueError
        If ``images`` has fewer than two dimensions, another dtype, or an entry that is NaN
        or infinite, or ``sigma`` is negative.

    Notes
    -----
    Equals ``scipy.ndimage.gaussian_filter(..., mode="reflect", truncate=4)`` on the last two
    axes. Each axis is one matrix product, so the reach may exceed the image.
    """
    images, restore = _read(images)
    sigma = check_number(sigma, "sigma", minimum=0.0)
    kind = _compute_dtype(images)
    left, right = (_blur_matrix(size, sigma).to(images.device, kind) for size in images.shape[-2:])
    return restore((left @ images.to(kind) @ right.mT).to(images.dtype))


def adjust_contrast(images: Any, factor: float) -> Any:
    """Scale the distance of each pixel from the mean of its image.

    Parameters
    ----------
    images : array of shape (..., H, W)
        Images of a floating-point dtype.
    factor : float
        Zero or more: 0 leaves the mean alone, 1 changes nothing.

    Returns
    -------
    array
        Shape, dtype and kind of ``images``; not clipped.

    Raises
    ------
    ValueError
        If ``images`` has fewer than two dimensions, another dtype, or an entry that is NaN
        or infinite, or ``factor`` is negative.
    """
    images, restore = _read(images)
    factor = check_number(factor, "factor", minimum=0.0)
    mean = images.mean((-2, -1), keepdim=True)
    return restore(torch.lerp(mean.expand_as(images), images, factor))


def add_noise(images: Any, scale: float, generator: torch.Generator | int | None = None) -> Any:
    """Add independent Gaussian noise to every pixel.

    Parameters
    ----------
    images : array of shape (..., H, W)
        Images of a floating-point dtype.
    scale : float
        Standard deviation, zero or more, in the units of the pixels.
    generator : torch.Generator or int, optional
        Draws the noise on its own device, so that the draws do not depend on where the
        images are.

    Returns
    -------
    array
        Shape, dtype and kind of ``images``; not clipped.

    Raises
    ------
    ValueError
        If ``images`` has fewer than two dimensions, another dtype, or an entry that is NaN
        or infinite, or ``scale`` is negative.
    """
    images, restore = _read(images)
    scale = check_number(scale, "scale", minimum=0.0)
    generator = as_generator(generator)
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    return restore(images + scale * noise.to(images.device, images.dtype))


def _read(images: Any) -> tuple[Tensor, Any]:
    (images,), restore = as_tensors(images=images)
    check_tensor(images, "images", floating=True)
    if images.ndim < 2:
        raise ValueError(f"images: expected shape (..., H, W), got {tuple(images.shape)}")
    return images, restore


def _compute_dtype(images: Tensor) -> torch.dtype:
    return images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the (size, size) matrix of a Gaussian whose tails are folded back."""
    reach = int(4.0 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma).square()) if reach else torch.ones(1).double()
    weights /= weights.sum()
    place = (torch.arange(size)[:, None] + offsets.long()) % (2 * size)
    place = torch.minimum(place, 2 * size - 1 - place)
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(
        1, place, weights.expand(size, -1)
    )
