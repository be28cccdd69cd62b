"""`Dataset`, splits, standardization, label noise, and the sets that scikit-learn ships."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets as sk
from sklearn.preprocessing import StandardScaler

from enough.data import (
    Dataset,
    breast_cancer,
    diabetes,
    digits,
    flip_labels,
    photograph_patches,
    standardize,
    wine,
)


def toy(n, width=2):
    x = torch.arange(n * width, dtype=torch.float32).view(n, width)
    return Dataset(x=x, y=torch.arange(n), name="toy", description="d", source="s")


# Splits.


@given(n=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_split_by_a_fraction_is_a_partition(n, fraction, seed):
    if not 0 < round(fraction * n) < n:
        with pytest.raises(ValueError, match="every part to hold a sample"):
            toy(n).split(fraction, generator=seed)
        return
    first, rest = toy(n).split(fraction, generator=seed)
    assert len(first) == round(fraction * n)
    assert sorted(torch.cat([first.y, rest.y]).tolist()) == list(range(n))
    for part in (first, rest):  # rows stay with their targets
        assert torch.equal(part.x[:, 0], 2.0 * part.y)


def test_split_forms():
    data = toy(10)
    assert [len(p) for p in data.split(3, generator=0)] == [3, 7]
    assert [len(p) for p in data.split([3, 2], generator=0)] == [3, 2]
    assert [len(p) for p in data.split((0.5, 0.3, 0.2), generator=0)] == [5, 3, 2]
    # Seven thirds-and-a-bit of three: rounding the cumulative sum keeps every sample.
    assert sum(len(p) for p in toy(7).split([1 / 3, 1 / 3, 1 / 3], generator=0)) == 7
    three = torch.cat([p.y for p in data.split([4, 3, 3], generator=1)])
    assert sorted(three.tolist()) == list(range(10))


def test_split_is_reproducible_and_shuffled():
    data = toy(50)
    again = [data.split(25, generator=seed)[0].y.tolist() for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    assert again[0] != sorted(again[0])
    before = torch.get_rng_state()
    data.split(25)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "sizes",
    [
        0.0,
        1.0,
        1.5,
        -0.5,
        0,
        10,
        11,
        -1,
        [5, 6],
        [0.6, 0.5],
        [5, 0.5],
        [],
        "half",
        True,
        None,
        [0, 3],
    ],
)
def test_split_refuses(sizes):
    with pytest.raises(ValueError, match=r"^sizes: expected"):
        toy(10).split(sizes, generator=0)


def test_subset():
    data = toy(6)
    assert data.subset(slice(2, 4)).y.tolist() == [2, 3]
    assert data.subset([5, 0]).y.tolist() == [5, 0]
    assert data.subset(np.array([True, False, False, False, True, False])).y.tolist() == [0, 4]


def test_dataset_is_frozen_and_checked():
    data = toy(4)
    with pytest.raises(AttributeError):
        data.x = data.y
    with pytest.raises(ValueError, match="y: expected shape"):
        Dataset(x=data.x, y=data.y[:3], name="", description="", source="")
    with pytest.raises(ValueError, match="feature_names: expected 2 names, got 1"):
        Dataset(x=data.x, y=data.y, name="", description="", source="", feature_names=("a",))
    with pytest.raises(ValueError, match="image_shape: expected 2 entries"):
        Dataset(x=data.x, y=data.y, name="", description="", source="", image_shape=(1, 2, 2))
    with pytest.raises(ValueError, match="images"):
        _ = data.images
    assert repr(data) == "Dataset(toy: x (4, 2) float32, y (4,) int64)"
    assert repr(wine()).endswith("int64, 3 classes)")
    assert data.to("cpu").y.tolist() == [0, 1, 2, 3]


# Standardization.


def test_standardize_is_fitted_on_the_training_part_alone():
    train, test = wine(dtype=torch.float64).split(100, generator=0)
    ours = standardize(train, test)
    scaler = StandardScaler().fit(train.x.numpy())
    for part, given_part in zip(ours, (train, test), strict=True):
        np.testing.assert_allclose(
            part.x.numpy(), scaler.transform(given_part.x.numpy()), rtol=1e-10, atol=1e-12
        )
        assert torch.equal(part.y, given_part.y)
    # A far outlier in the test part changes nothing in the training part.
    shifted = Dataset(**{**vars(test), "x": test.x + 1e6})
    assert torch.equal(standardize(train, shifted)[0].x, ours[0].x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardize_leaves_a_constant_column_at_zero(dtype):
    x = torch.stack([torch.full((7,), 0.1), torch.arange(7.0)], 1).to(dtype)
    data = Dataset(x=x, y=torch.arange(7), name="", description="", source="")
    (scaled,) = standardize(data)
    assert scaled.x[:, 0].abs().max() < 1e-7
    torch.testing.assert_close(scaled.x[:, 1].var(correction=0), torch.tensor(1.0, dtype=dtype))
    assert scaled.x.dtype == dtype


def test_standardize_refuses_other_columns():
    with pytest.raises(ValueError, match=r"others\[0\]: expected shape"):
        standardize(toy(5), toy(5, width=3))


# Label noise.


@given(
    n=st.integers(1, 80), rate=st.floats(0, 1), classes=st.integers(2, 5), seed=st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_flip_labels_changes_exactly_that_many(n, rate, classes, seed):
    y = torch.arange(n) % classes
    noisy = flip_labels(y, rate, classes, generator=seed)
    assert int((noisy != y).sum()) == round(rate * n)
    assert noisy.min() >= 0
    assert noisy.max() < classes
    assert torch.equal(y, torch.arange(n) % classes)


def test_flip_labels_is_uniform_over_the_other_classes():
    y = np.zeros(30000, dtype=np.int32)
    noisy = flip_labels(y, 1.0, 4, generator=0)
    assert isinstance(noisy, np.ndarray)
    assert noisy.dtype == np.int32
    counts = np.bincount(noisy, minlength=4)
    assert counts[0] == 0
    # Three cells of 10000 ± 82: within five standard deviations.
    assert np.abs(counts[1:] - 10000).max() < 5 * np.sqrt(30000 * (1 / 3) * (2 / 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], 0.5, 2), "y: expected integer labels"),
        (([0, 2], 0.5, 2), "y: expected entries <= 1"),
        (([0, 1], 1.5, 2), "rate"),
        (([0, 1], 0.5, 1), "n_classes"),
        (([[0, 1]], 0.5, 2), "y: expected 1 dimension"),
    ],
)
def test_flip_labels_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        flip_labels(*arguments)


# scikit-learn's sets.


@pytest.mark.parametrize(
    ("load", "reference", "scale"),
    [
        (digits, sk.load_digits, 16),
        (breast_cancer, sk.load_breast_cancer, 1),
        (wine, sk.load_wine, 1),
    ],
)
def test_classification_sets(load, reference, scale):
    data, bunch = load(dtype=torch.float64), reference()
    np.testing.assert_array_equal(data.x.numpy() * scale, bunch.data)
    np.testing.assert_array_equal(data.y.numpy(), bunch.target)
    assert data.y.dtype == torch.int64
    assert data.n_classes == len(bunch.target_names)
    assert len(data.feature_names) == data.x.shape[1]
    assert load().x.dtype == torch.float32
    assert data.source
    assert data.license
    with pytest.raises(ValueError, match="dtype"):
        load(dtype=torch.int64)


def test_digits_are_images_from_zero_to_one():
    data = digits()
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(data.images[:, 0].numpy() * 16, sk.load_digits().images)


def test_diabetes_is_raw():
    data = diabetes(dtype=torch.float64)
    assert data.x.shape == (442, 10)
    assert data.y.dtype == torch.float64
    assert data.n_classes == 0
    # Raw ages in years; scikit-learn's scaled columns have mean 0 over all patients.
    assert 18 <= data.x[:, 0].min() < data.x[:, 0].max() < 90
    assert set(data.x[:, 1].unique().tolist()) == {1.0, 2.0}
    scaled = sk.load_diabetes()
    centered = data.x.numpy() - data.x.numpy().mean(0)
    np.testing.assert_allclose(centered / np.linalg.norm(centered, axis=0), scaled.data, atol=1e-6)
    np.testing.assert_array_equal(data.y.numpy(), scaled.target)


# Photographs.


def test_patches_are_cut_from_the_photographs():
    data = photograph_patches(40, size=5, generator=0, color=True, dtype=torch.float64)
    assert data.images.shape == (40, 3, 5, 5)
    bunch = sk.load_sample_images()
    assert [name.endswith(("china.jpg", "flower.jpg")) for name in bunch.filenames] == [True, True]
    for patch, label in zip(data.images, data.y, strict=True):
        picture = bunch.images[int(label)]
        target = np.rint(patch.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        corners = np.argwhere((picture[:-4, :-4] == target[0, 0]).all(-1))
        assert any(
            np.array_equal(picture[r : r + 5, c : c + 5], target) for r, c in corners.tolist()
        )


def test_patches_reach_every_border():
    # One-pixel-smaller windows have two positions in each direction.
    bunch = sk.load_sample_images()
    height = bunch.images[0].shape[0]
    data = photograph_patches(6, size=height - 1, generator=0, photographs="china")
    gray = bunch.images[0] @ np.array([0.299, 0.587, 0.114]) / 255
    width = gray.shape[1] - height + 1
    tops = set()
    for image in data.images[:, 0].double().numpy():
        errors = [
            np.abs(image - gray[r : r + height - 1, c : c + height - 1]).max()
            for r in (0, 1)
            for c in range(width + 1)
        ]
        assert min(errors) < 1e-6
        tops.add(int(np.argmin(errors)) // (width + 1))
    assert tops == {0, 1}


def test_patches_carry_their_attribution():
    data = photograph_patches(3, generator=0)
    assert "creative commons" in data.license
    assert "creativecommons.org/licenses/by/2.0" in data.license
    assert "danielbuechele" in data.license
    assert "flickr.com/photos/vultilion" in data.license
    assert "china.jpg" in data.source
    assert "flower.jpg" in data.source
    one = photograph_patches(3, generator=0, photographs="flower")
    assert "china" not in one.source


def test_patches_options():
    data = photograph_patches(400, generator=3)
    assert data.x.shape == (400, 64)
    assert data.x.dtype == torch.float32
    assert 0 <= data.x.min() < data.x.max() <= 1
    # Both photographs with probability 1/2: 200 ± 10.
    assert 150 < data.y.sum() < 250
    assert torch.equal(data.x, photograph_patches(400, generator=3).x)
    assert photograph_patches(50, generator=0, photographs="flower").y.unique().tolist() == [1]
    for bad in ({"photographs": "cat"}, {"photographs": ()}, {"size": 428}, {"dtype": torch.int8}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            photograph_patches(2, generator=0, **bad)
    with pytest.raises(ValueError, match=r"^n: "):
        photograph_patches(0)
