"""IDX and CIFAR readers on tiny files of the same format, whole and broken."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile

import numpy as np
import pytest
import torch
from data_helpers import checksum

from enough.data import FormatError, load
from enough.data.formats import read_cifar10, read_content, read_idx

RNG = np.random.default_rng(0)


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("wrap", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(7,), (5, 3, 4), (0, 3, 4)])
def test_idx_round_trip(tmp_path, wrap, shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "some-name"
    path.write_bytes(wrap(idx(array)))
    found = read_idx(path, len(shape))
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


def test_idx_last_index_runs_fastest(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes.fromhex("00000803000000020000000100000003") + bytes(range(6)))
    np.testing.assert_array_equal(read_idx(path, 3), [[[0, 1, 2]], [[3, 4, 5]]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of 16 bytes, got 0"),
        (b"\0\0\x08", "header of 16 bytes, got 3"),
        (idx(np.zeros(20)), "magic number 00000801"),
        (b"\0\0\x0d\x03" + bytes(12), "magic number 00000d03"),
        (b"\1\0\x08\x03" + bytes(12), "magic number 01000803"),
        (idx(np.zeros((2, 2, 2)))[:-1], r"expected 8 entries .* got 7"),
        (idx(np.zeros((2, 2, 2))) + b"\0", r"expected 8 entries .* got 9"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "entries for shape"),
    ],
)
def test_idx_refuses(tmp_path, content, message):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_idx(path, 3)


def test_broken_gzip(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"something")[:-3])
    with pytest.raises(FormatError, match="gzip"):
        read_content(path)


def archive(members, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "../../etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def records(labels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.hstack([np.array(labels, np.uint8)[:, None], pixels])


TRAIN = [records([i % 10, (i + 3) % 10], seed=i) for i in range(1, 6)]
TEST = records([9, 0, 4], seed=6)
MEMBERS = [
    ("data_batch_4.bin", TRAIN[3].tobytes()),  # out of order: the name decides
    ("readme.html", b"hello"),
    *((f"data_batch_{i}.bin", TRAIN[i - 1].tobytes()) for i in (1, 2, 3, 5)),
    ("test_batch.bin", TEST.tobytes()),
]


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz"])
def test_cifar10(tmp_path, mode):
    path = tmp_path / "cifar"
    path.write_bytes(archive(MEMBERS, mode))
    images, labels = read_cifar10(path, "train")
    rows = np.concatenate(TRAIN)
    np.testing.assert_array_equal(labels, rows[:, 0])
    assert images.shape == (10, 3, 32, 32)
    # Planes red, green, blue, row by row: byte 1 + 1024 c + 32 r + column.
    assert images[7, 2, 5, 9] == rows[7, 1 + 2048 + 32 * 5 + 9]
    np.testing.assert_array_equal(images.reshape(10, -1), rows[:, 1:])
    images, labels = read_cifar10(path, "test")
    np.testing.assert_array_equal(labels, [9, 0, 4])
    assert list(tmp_path.iterdir()) == [path]  # nothing was unpacked


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (MEMBERS[:-1], "test_batch.bin, which are missing"),
        ([("test_batch.bin", None)], "test_batch.bin, which are missing"),
        ([*MEMBERS, MEMBERS[-1]], "one member test_batch.bin, got two"),
        ([("test_batch.bin", TEST.tobytes()[:-1])], "records of 3073 bytes .* got 9218"),
        ([("test_batch.bin", b"")], "records of 3073 bytes .* got 0"),
        ([("test_batch.bin", records([10], 0).tobytes())], "labels 0 to 9, got 10"),
    ],
)
def test_cifar10_refuses(tmp_path, members, message):
    path = tmp_path / "cifar"
    path.write_bytes(archive(members))
    with pytest.raises(FormatError, match=message):
        read_cifar10(path, "test")


@pytest.mark.parametrize("cut", [10, 400, -3000], ids=["header", "middle", "end"])
def test_cifar10_cut_archive(tmp_path, cut):
    path = tmp_path / "cifar"
    path.write_bytes(archive(MEMBERS)[:cut])
    with pytest.raises(FormatError, match="archive"):
        read_cifar10(path, "test")


# The whole way through `load`.


def image_registry(write_registry, images, labels, classes=4):
    def file(name, content, role):
        return {
            "filename": name,
            "split": "test",
            "role": role,
            "made": "in a test",
            "checksums": [checksum(content)],
        }

    files = [file("i.gz", images, "images"), file("l.gz", labels, "labels")]
    return write_registry(tiny=("idx", files, {"classes": [f"c{k}" for k in range(classes)]}))


def test_load_images(sandbox, write_registry, tmp_path, monkeypatch):
    pixels = RNG.integers(0, 256, (6, 3, 5), dtype=np.uint8)
    images, labels = gzip.compress(idx(pixels)), gzip.compress(idx(np.array([0, 1, 2, 3, 3, 0])))
    registry = image_registry(write_registry, images, labels)
    (tmp_path / "i.gz").write_bytes(images)
    (tmp_path / "l.gz").write_bytes(labels)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    data = load("tiny", split="test", registry=registry, dtype=torch.float64)
    assert data.images.shape == (6, 1, 3, 5)
    np.testing.assert_allclose(data.images[:, 0].numpy(), pixels / 255.0, rtol=0, atol=1e-16)
    assert data.y.tolist() == [0, 1, 2, 3, 3, 0]
    assert data.y.dtype == torch.int64
    assert data.class_names == ("c0", "c1", "c2", "c3")
    raw = load("tiny", split="test", registry=registry, dtype=torch.uint8)
    np.testing.assert_array_equal(raw.x.numpy(), pixels.reshape(6, 15))
    for split in (None, "train"):
        with pytest.raises(ValueError, match="'test'"):
            load("tiny", split=split, registry=registry)
    with pytest.raises(ValueError, match="dtype"):
        load("tiny", split="test", registry=registry, dtype=torch.int64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 1], "one label an image, got 3 images and 2 labels"), ([0, 1, 4], "labels below 4")],
)
def test_load_images_that_do_not_fit(
    sandbox, write_registry, tmp_path, monkeypatch, labels, message
):
    images, labels = idx(np.zeros((3, 2, 2))), idx(np.array(labels))
    registry = image_registry(write_registry, images, labels)
    (tmp_path / "i.gz").write_bytes(images)
    (tmp_path / "l.gz").write_bytes(labels)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    with pytest.raises(FormatError, match=message):
        load("tiny", split="test", registry=registry)


def test_load_cifar10(sandbox, write_registry, tmp_path, monkeypatch):
    content = archive(MEMBERS)
    file = {"filename": "c.tar.gz", "made": "in a test", "checksums": [checksum(content)]}
    registry = write_registry(tiny=("cifar10", [file], {"classes": [str(k) for k in range(10)]}))
    (tmp_path / "c.tar.gz").write_bytes(content)
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    train, test = (load("tiny", split=s, registry=registry) for s in ("train", "test"))
    assert train.images.shape == (10, 3, 32, 32)
    assert test.y.tolist() == [9, 0, 4]
    torch.testing.assert_close(test.x * 255, torch.from_numpy(TEST[:, 1:].astype(np.float32)))
    with pytest.raises(ValueError, match="'train', 'test', got None"):
        load("tiny", registry=registry)


def test_no_pickle_in_arrays(sandbox, write_registry, tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([object()], dtype=object), y=np.zeros(1))
    file = {"filename": "a.npz", "made": "in a test", "checksums": [checksum(path.read_bytes())]}
    registry = write_registry(tiny=("npz", [file], {"classes": ["a"]}))
    monkeypatch.setenv("ENOUGH_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load("tiny", split="train", registry=registry)
