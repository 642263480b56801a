"""Images in memory: training, validation (split from training by seed) and test; batches and augmentation."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..errors import InputError, unknown_name
from .space import SearchSpace

FASHION_MNIST_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, S, S) as uint8 and labels (N,) as int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The rows that `index` (n,) names."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for training: three splits and what augmentation may do.

    `mean` and `std` (C,) are of the training images, on the scale 0..1.
    """

    spec: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool
    mean: torch.Tensor
    std: torch.Tensor

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, S, S) -> float32 of mean 0 and deviation 1, in the channels-last layout."""
        mean, std = (values.view(1, -1, 1, 1) for values in (self.mean, self.std))
        scaled = (images.float() / 255 - mean) / std
        return scaled.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it lies on disk: pixels at their own size, training and test."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool
    val_fraction: float


def digits(data_dir: Path | None) -> Source:  # noqa: ARG001 - every loader takes the folder
    """1,797 handwritten digits of 8x8 pixels (scikit-learn); 360 of them, always the same, are the test set."""
    found = load_digits()
    images = torch.from_numpy(np.round(found.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(found.target.astype(np.int64)))
    train, test = stratified(everything, 360, seed=0)
    return Source(train, test, tuple("0123456789"), flip=False, val_fraction=0.25)


def fashion_mnist(data_dir: Path | None) -> Source:
    """60,000 + 10,000 grey images of 28x28 pixels (https://arxiv.org/abs/1708.07747), from gzipped idx files."""
    folders = [data_dir] if data_dir else FASHION_MNIST_FOLDERS
    folder = next((f for f in folders if (f / "train-images-idx3-ubyte.gz").is_file()), None)
    if folder is None:
        raise InputError(
            f"no Fashion-MNIST (train-images-idx3-ubyte.gz) in {', '.join(map(str, folders))}: run "
            "apt-get install dataset-fashion-mnist, or name its folder with --data-dir"
        )
    train, test = (
        Split(
            torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz")).unsqueeze(1),
            torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)),
        )
        for part in ("train", "t10k")
    )
    names = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
    return Source(train, test, names, flip=True, val_fraction=1 / 6)


DATA: dict[str, Callable[[Path | None], Source]] = {"digits": digits, "fashion-mnist": fashion_mnist}


def load_data(spec: str, space: SearchSpace, seed: int = 0, data_dir: Path | None = None) -> Data:
    """The data set `spec`, its images fitted to the input of `space`, its validation split drawn by `seed`."""
    if spec not in DATA:
        raise unknown_name("data", spec, DATA)
    source = DATA[spec](data_dir)
    if space.classes() != len(source.classes):
        raise InputError(
            f"{space} has {space.classes()} outputs, {spec} has {len(source.classes)} classes: "
            f"give the space the setting classes={len(source.classes)}"
        )
    _, channels, size_px, _ = space.input_shape()
    fitted = [_fit(split, channels, size_px, spec) for split in (source.train, source.test)]
    train, val = stratified(fitted[0], round(source.val_fraction * len(fitted[0])), seed)
    pixels = train.images.double() / 255
    mean, std = pixels.mean((0, 2, 3)).float(), pixels.std((0, 2, 3)).float()
    return Data(spec, train, val, fitted[1], source.classes, source.flip, mean, std)


def stratified(split: Split, held_out: int, seed: int) -> tuple[Split, Split]:
    """Two splits, the second of `held_out` rows, the classes in equal shares in both."""
    rest, held = train_test_split(
        np.arange(len(split)), test_size=held_out, random_state=seed, stratify=split.labels.numpy()
    )
    return split.take(torch.from_numpy(np.sort(rest))), split.take(torch.from_numpy(np.sort(held)))


def _fit(split: Split, channels: int, size_px: int, spec: str) -> Split:
    images = split.images
    if images.shape[1] != channels:
        if images.shape[1] != 1:
            raise InputError(f"{spec} has {images.shape[1]} channels: give the space channels={images.shape[1]}")
        images = images.expand(-1, channels, -1, -1).contiguous()
    if images.shape[-1] != size_px:
        images = torch.cat(
            [
                F.interpolate(part.float(), size_px, mode="bilinear", antialias=True).round().to(torch.uint8)
                for part in images.split(4096)
            ]
        )
    return replace(split, images=images)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped idx file of unsigned bytes as an array of the shape in its header."""
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzipped idx file: {error}") from error


def training_batches(data: Data, batch: int, seed: int, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented, normalised batches of one epoch: images (B, C, S, S), labels (B,).

    Order and augmentation are a function of (seed, epoch); a last batch smaller than `batch` is left out.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(data.train), generator=generator)
    for index in order[: len(order) // batch * batch].split(batch):
        rows = data.train.take(index)
        yield data.normalise(augment(rows.images, data.flip, generator)), rows.labels


def augment(images: torch.Tensor, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted by up to an eighth of its side (zeros come in), and mirrored half of the time."""
    n, _, size, _ = images.shape
    pad = size // 8
    padded = F.pad(images, (pad, pad, pad, pad))
    corners = torch.randint(2 * pad + 1, (n, 2, 1), generator=generator)
    rows, columns = (corners[:, axis] + torch.arange(size) for axis in (0, 1))  # (n, S) each
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (n, S, S, C)
    return picked.permute(0, 3, 1, 2)
