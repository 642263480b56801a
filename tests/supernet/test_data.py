"""Splits that never mix, augmentation against a loop, files that are read whole or not at all."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.supernet import ChainSpace, Data, load_data, load_space
from hwnas.supernet.sources import read_idx


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_digits_fit_the_space(digits: Data) -> None:
    assert [len(split) for split in (digits.train, digits.val, digits.test)] == [1078, 359, 360]
    for split in (digits.train, digits.val, digits.test):
        assert split.images.shape[1:] == (1, 16, 16)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
    assert digits.classes == tuple("0123456789")
    assert not digits.flip


def test_no_image_is_in_two_splits(digits: Data) -> None:
    parts = [rows(split.images) for split in (digits.train, digits.val, digits.test)]
    together = [row for part in parts for row in part]
    assert len(together) == 1797
    assert len(set(together)) == 1797


def test_every_split_has_all_classes_in_equal_shares(digits: Data) -> None:
    for split in (digits.train, digits.val, digits.test):
        counts = torch.bincount(split.labels, minlength=10) / len(split)
        assert (counts - 0.1).abs().max() < 0.01


def test_the_seed_moves_validation_and_never_the_test(tiny: ChainSpace, digits: Data) -> None:
    same, other = load_data("digits", tiny, seed=0), load_data("digits", tiny, seed=1)
    assert torch.equal(same.val.images, digits.val.images)
    assert set(rows(other.val.images)) != set(rows(digits.val.images))
    assert torch.equal(other.test.images, digits.test.images)


def test_normalised_training_images_have_mean_0_and_deviation_1(digits: Data) -> None:
    images = digits.normalise(digits.train.images)
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_grey_images_fill_all_channels() -> None:
    data = load_data("digits", load_space("mobilenet:size=8,channels=3,classes=10,widths=4,depths=1"))
    assert data.train.images.shape == (1078, 3, 8, 8)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digts", "unknown data 'digts'; did you mean digits?"),
        ("digits", "has 7 outputs, digits has 10 classes: give the space the setting classes=10"),
    ],
)
def test_data_that_do_not_fit_are_named(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(spec, load_space("mobilenet:size=8,channels=1,classes=7,widths=4,depths=1"))


# ---- idx files


def idx(array: np.ndarray) -> bytes:
    """http://yann.lecun.com/exdb/mnist: two zeros, the type, the rank, big-endian sizes, the bytes."""
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_idx_files_are_read_as_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(idx(array)))
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


RAW = idx(np.random.default_rng(0).integers(0, 256, (50, 4, 3), np.uint8))
PACKED = gzip.compress(RAW)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PACKED[: len(PACKED) // 2], id="cut"),
        pytest.param(gzip.compress(RAW[:-1]), id="too few pixels"),
        pytest.param(gzip.compress(RAW[:6]), id="header cut"),
        pytest.param(gzip.compress(b""), id="empty"),
        pytest.param(RAW, id="not gzipped"),
        pytest.param(PACKED[:40] + b"\xff" * 40 + PACKED[80:], id="damaged"),
        pytest.param(PACKED[:10] + b"\xff" + PACKED[11:], id="no deflate block"),
    ],
)
def test_an_idx_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.gz is not a whole gzipped idx file"):
        read_idx(path)


def fashion_folder(folder: Path, count: int = 60) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def test_fashion_mnist_is_read_from_its_folder(tmp_path: Path) -> None:
    space = load_space("mobilenet:size=28,channels=1,classes=10,widths=4,depths=1")
    data = load_data("fashion-mnist", space, data_dir=fashion_folder(tmp_path))
    assert [len(split) for split in (data.train, data.val, data.test)] == [50, 10, 60]
    assert data.flip
    assert data.test.images.shape == (60, 1, 28, 28)


def test_fashion_mnist_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    space = load_space("mobilenet:size=28,channels=1,classes=10,widths=4,depths=1")
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist, or name its folder with --data-dir"):
        load_data("fashion-mnist", space, data_dir=tmp_path)
