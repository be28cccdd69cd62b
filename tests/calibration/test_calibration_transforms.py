"""Image transformations against scipy.ndimage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from enough.calibration import add_noise, adjust_contrast, blur, rotate

IMAGES = np.random.RandomState(5).random_sample((3, 8, 8))


@pytest.mark.parametrize("degrees", [30.0, -15.0, 90.0, 200.0])
@pytest.mark.parametrize("shape", [(8, 8), (5, 9)])
def test_rotation_is_scipys(degrees, shape):
    images = np.random.RandomState(6).random_sample((2, *shape))
    turned = rotate(images, degrees)
    for image, found in zip(images, turned, strict=True):
        wanted = ndimage.rotate(image, degrees, reshape=False, order=1, mode="grid-constant")
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_quarter_turns_are_exact_and_every_image_has_its_angle():
    turned = rotate(IMAGES, np.array([90.0, 180.0, -90.0]))
    for image, found, quarters in zip(IMAGES, turned, (1, 2, -1), strict=True):
        np.testing.assert_allclose(found, np.rot90(image, quarters), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.0, 3.0])
def test_blur_is_scipys_and_keeps_the_ink(sigma):
    found = blur(IMAGES, sigma)
    wanted = ndimage.gaussian_filter(IMAGES, (0, sigma, sigma), mode="reflect")
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(found.sum((1, 2)), IMAGES.sum((1, 2)), rtol=1e-12)


def test_contrast_and_noise():
    images = torch.from_numpy(IMAGES)
    half = adjust_contrast(images, 0.5)
    assert torch.allclose(half.mean((1, 2)), images.mean((1, 2)))
    assert torch.allclose(half.std((1, 2)), 0.5 * images.std((1, 2)))
    many = torch.zeros(50, 40, 40)
    noise = add_noise(many, 0.3, 7)
    assert noise.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(noise.mean().item()) < 5 * 0.3 / 80_000**0.5
    assert torch.equal(noise, add_noise(many, 0.3, 7))
    assert not torch.equal(noise, add_noise(many, 0.3, 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_zero_strength_changes_nothing_and_the_dtype_stays(dtype):
    images = torch.from_numpy(IMAGES).to(dtype)
    same = (
        rotate(images, 0.0),
        blur(images, 0.0),
        adjust_contrast(images, 1.0),
        add_noise(images, 0.0, 0),
    )
    for found in same:
        assert found.dtype == dtype
        assert torch.allclose(found, images, atol=4 * torch.finfo(dtype).eps)
    assert isinstance(rotate(IMAGES, 3.0), np.ndarray)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: rotate(np.zeros(4), 1.0), "images"),
        (lambda: rotate(np.zeros((2, 3, 3), dtype=int), 1.0), "images"),
        (lambda: blur(np.full((3, 3), np.nan), 1.0), "images"),
        (lambda: rotate(np.zeros((2, 3, 3)), [1.0, 2.0, 3.0]), "degrees"),
        (lambda: rotate(np.zeros((2, 3, 3)), np.inf), "degrees"),
        (lambda: blur(np.zeros((3, 3)), -1.0), "sigma"),
        (lambda: adjust_contrast(np.zeros((3, 3)), -0.1), "factor"),
        (lambda: add_noise(np.zeros((3, 3)), -0.1), "scale"),
        (lambda: add_noise(np.zeros((3, 3)), 0.1, "seed"), "generator"),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
