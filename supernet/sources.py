"""Data sets as they come: built in, from torchvision, from a folder of images, or from the user's own Python.

A data set of one's own is a `Source`, or a function that returns one, named as `module:attribute`.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..errors import InputError, unknown_name
from ..names import import_attribute, is_attribute
from .metrics import check_metric

CACHE = Path.home() / ".cache" / "hwnas"
FASHION_MNIST_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) as uint8 and labels (N,) as int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The rows that `index` (n,) names."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set at its own size: what a data set of one's own must be.

    `classes` are the names of the labels 0, 1, ...; `flip` allows mirrored images in training. Without `val`,
    `val_fraction` of the training images are held out by the run's seed. `metric`, a name in `METRICS`, is what
    a search makes as large as it can.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool = False
    val: Split | None = None
    val_fraction: float = 0.2
    task: str = "classification"
    metric: str = "accuracy"


def digits(size_px: int, data_dir: Path | None) -> Source:
    """1,797 handwritten digits of 8x8 pixels (scikit-learn); 360 of them, always the same, are the test set."""
    found = load_digits()
    images = torch.from_numpy(np.round(found.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    train, test = stratified(Split(images, torch.from_numpy(found.target.astype(np.int64))), 360, seed=0)
    return Source(train, test, tuple("0123456789"), val_fraction=0.25)


def fashion_mnist(size_px: int, data_dir: Path | None) -> Source:
    """60,000 + 10,000 grey images of 28x28 pixels (https://arxiv.org/abs/1708.07747)."""
    folders = [data_dir] if data_dir else FASHION_MNIST_FOLDERS
    folder = next((f for f in folders if (f / "train-images-idx3-ubyte.gz").is_file()), None)
    if folder is None:
        remedy = "run apt-get install dataset-fashion-mnist, or name its folder with --data-dir"
        return _torchvision(torchvision.datasets.FashionMNIST, data_dir, remedy, 1 / 6)
    train, test = (
        Split(
            torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz")).unsqueeze(1),
            torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int64)),
        )
        for part in ("train", "t10k")
    )
    names = tuple(torchvision.datasets.FashionMNIST.classes)
    return Source(train, test, names, flip=True, val_fraction=1 / 6)


def cifar10(size_px: int, data_dir: Path | None) -> Source:
    """50,000 + 10,000 colour images of 32x32 pixels in 10 classes, by torchvision."""
    return _torchvision(torchvision.datasets.CIFAR10, data_dir, "name its folder with --data-dir", 0.1)


def cifar100(size_px: int, data_dir: Path | None) -> Source:
    """50,000 + 10,000 colour images of 32x32 pixels in 100 classes, by torchvision."""
    return _torchvision(torchvision.datasets.CIFAR100, data_dir, "name its folder with --data-dir", 0.1)


def _torchvision(dataset: Callable[..., Any], data_dir: Path | None, remedy: str, val_fraction: float) -> Source:
    """A data set of torchvision's, found on disk or downloaded (torchvision shows its progress)."""
    root = data_dir or CACHE
    new = not root.exists()
    try:
        parts = [dataset(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        name = getattr(dataset, "__name__", str(dataset))
        if new:
            shutil.rmtree(root, ignore_errors=True)
        raise InputError(f"{name} is not in {root} and can't be downloaded ({error}): {remedy}") from error
    train, test = (_as_split(np.asarray(part.data), part.targets) for part in parts)
    return Source(train, test, tuple(parts[0].classes), flip=True, val_fraction=val_fraction)


def _as_split(pixels: np.ndarray, labels: object) -> Split:
    images = torch.from_numpy(pixels)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(labels, dtype=torch.int64))


def folder(path: Path, size_px: int) -> Source:
    """A folder with a sub-folder of images per class, or with such folders named train, test and maybe val.

    Images are scaled until their shorter side has `size_px` and cropped to the middle square. They are grey if
    all are. Without test/ a fifth is held out, always the same.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}")
    parts = [part for part in ("train", "val", "test") if (path / part).is_dir()]
    if "train" not in parts:
        classes = _class_names(path)
        train, test = _held_out(_read_folder(path, classes, size_px), path)
        return Source(train, test, classes, flip=True)
    classes = _class_names(path / "train")
    splits = _same_channels({part: _read_folder(path / part, classes, size_px) for part in parts})
    if "test" not in splits:
        splits["train"], splits["test"] = _held_out(splits["train"], path)
    return Source(splits["train"], splits["test"], classes, flip=True, val=splits.get("val"))


def _class_names(path: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{path} has {len(names)} sub-folders: one per class is needed, two at least")
    return tuple(names)


def _read_folder(path: Path, classes: tuple[str, ...], size_px: int) -> Split:
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(f for f in (path / name).glob("**/*") if f.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"the class folder {path / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        images += [read_image(file, size_px) for file in files]
        labels += [label] * len(files)
    if any(image.shape[2] == 3 for image in images):
        images = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image for image in images]
    return _as_split(np.stack(images), labels)


def read_image(path: Path, size_px: int) -> np.ndarray:
    """A picture as uint8 (S, S, 1) if it is grey, else (S, S, 3)."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"its pixels have the mode {image.mode}, more than 8 bits")
            grey = image.mode in ("1", "L", "LA")
            fitted = ImageOps.fit(image.convert("L" if grey else "RGB"), (size_px, size_px))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({error}): replace or remove it") from error
    pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels[:, :, None] if grey else pixels


def _held_out(everything: Split, path: Path) -> tuple[Split, Split]:
    counts = torch.bincount(everything.labels)
    if counts.min() < 4:
        raise InputError(f"{path}: a class has only {int(counts.min())} images; to hold some out, 4 are needed")
    return stratified(everything, max(len(everything) // 5, len(counts)), seed=0)


def _same_channels(splits: dict[str, Split]) -> dict[str, Split]:
    most = max(split.images.shape[1] for split in splits.values())
    return {
        name: Split(split.images.expand(-1, most, -1, -1).contiguous(), split.labels) for name, split in splits.items()
    }


DATA: dict[str, Callable[[int, Path | None], Source]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


def load_source(spec: str, size_px: int, data_dir: Path | None) -> Source:
    """The data set that DATA on the command line names, checked."""
    name, _, rest = spec.partition(":")
    if spec in DATA:
        return DATA[spec](size_px, data_dir)
    if name == "folder" and rest:
        return checked(folder(Path(rest), size_px), spec)
    if is_attribute(spec):
        return checked(import_attribute(spec, Source), spec)
    raise unknown_name("data", spec, [*DATA, "folder:PATH", "module:attribute"])


def checked(source: Source, spec: str) -> Source:
    """`source`, or an InputError that names what is wrong with its images, labels or metric."""
    check_metric(source.task, source.metric, spec)
    splits = {"train": source.train, "val": source.val, "test": source.test}
    for name, split in splits.items():
        if split is None:
            continue
        images, labels = split.images, split.labels
        fits = images.dtype == torch.uint8 and images.ndim == 4 and labels.dtype == torch.int64 and labels.ndim == 1
        if not fits or len(images) != len(labels):
            raise InputError(
                f"{spec}: {name} has images {tuple(images.shape)} of {images.dtype} and labels {tuple(labels.shape)} "
                f"of {labels.dtype}; uint8 (N, C, H, W) and int64 (N,) are needed"
            )
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(source.classes):
            raise InputError(
                f"{spec}: labels of {name} run from {labels.min() if len(labels) else '-'} to "
                f"{labels.max() if len(labels) else '-'}; with {len(source.classes)} classes they must lie in "
                f"0..{len(source.classes) - 1}"
            )
    counts = torch.bincount(source.train.labels, minlength=len(source.classes))
    empty = [name for name, count in zip(source.classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise InputError(f"{spec}: the class {empty[0]!r} has no training image: add some, or remove the class")
    return source


def stratified(split: Split, held_out: int, seed: int) -> tuple[Split, Split]:
    """Two splits, the second of `held_out` rows, the classes in equal shares in both."""
    counts = torch.bincount(split.labels)
    counts = counts[counts > 0]
    if counts.min() < 2 or not len(counts) <= held_out <= len(split) - len(counts):
        raise InputError(
            f"cannot hold out {held_out} of {len(split)} images of {len(counts)} classes, the smallest of "
            f"{int(counts.min())}: give more images, or a validation set"
        )
    rest, held = train_test_split(
        np.arange(len(split)), test_size=held_out, random_state=seed, stratify=split.labels.numpy()
    )
    return split.take(torch.from_numpy(np.sort(rest))), split.take(torch.from_numpy(np.sort(held)))


def read_idx(path: Path) -> np.ndarray:
    """A gzipped idx file of unsigned bytes as an array of the shape in its header."""
    try:
        raw = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzipped idx file: {error}") from error
