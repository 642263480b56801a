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
from hwnas.supernet.data import augment, training_batches
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


# ---- augmentation


def pictures(count: int, channels: int, size: int) -> torch.Tensor:
    """No two pixels alike, none 0."""
    return torch.arange(1, count * channels * size**2 + 1, dtype=torch.int32).view(count, channels, size, size)


def shifted(picture: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """By a loop: what was at (y, x) is at (y + down, x + right)."""
    moved, size = torch.zeros_like(picture), picture.shape[-1]
    for y in range(size):
        for x in range(size):
            if 0 <= y - down < size and 0 <= x - right < size:
                moved[:, y, x] = picture[:, y - down, x - right]
    return moved


def possible(picture: torch.Tensor, pad: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    steps = range(-pad, pad + 1)
    return {
        (moved.flip(-1) if mirrored else moved).numpy().tobytes(): (down, right, mirrored)
        for down in steps
        for right in steps
        for moved in [shifted(picture, down, right)]
        for mirrored in ([False, True] if flip else [False])
    }


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_shifts_by_an_eighth_and_mirrors_when_told(flip: bool) -> None:
    images = pictures(1, 2, 16).expand(1500, -1, -1, -1).contiguous()
    known = possible(images[0], 2, flip)
    found = [known[row] for row in rows(augment(images, flip, torch.Generator().manual_seed(0)).contiguous())]
    assert set(found) == set(known.values())  # all 25 shifts, each mirrored or not: none further
    assert np.mean([mirrored for *_, mirrored in found]) == pytest.approx(0.5 * flip, abs=0.05)


def test_each_image_has_a_shift_of_its_own() -> None:
    images = pictures(40, 1, 16)
    moved = augment(images, False, torch.Generator().manual_seed(0)).contiguous()
    found = [possible(image, 2, False)[row] for image, row in zip(images, rows(moved), strict=True)]
    assert len(set(found)) > 10


def test_batches_are_a_function_of_seed_and_epoch(digits: Data) -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        return next(training_batches(digits, 16, seed, epoch))[0]

    assert torch.equal(first(3, 2), first(3, 2))
    assert not torch.equal(first(3, 2), first(3, 3))
    assert not torch.equal(first(3, 2), first(4, 2))


def test_an_epoch_visits_every_image_once_in_whole_batches(digits: Data) -> None:
    batches = list(training_batches(digits, 49, 0, 0))
    assert [len(labels) for _, labels in batches] == [49] * 22
    labels = torch.cat([labels for _, labels in batches])
    assert torch.equal(torch.bincount(labels), torch.bincount(digits.train.labels))


def test_without_augmentation_images_are_as_they_are(digits: Data) -> None:
    images, labels = next(training_batches(digits, 16, 0, 0, augmented=False))
    augmented, same = next(training_batches(digits, 16, 0, 0))
    assert torch.equal(labels, same)
    assert not torch.equal(images, augmented)
    originals = {row.tobytes() for row in digits.normalise(digits.train.images).numpy()}
    assert all(row.tobytes() in originals for row in images.contiguous().numpy())


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
