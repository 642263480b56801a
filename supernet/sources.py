"""Data sets as they come: built in, from torchvision, from a folder of images, or from the user's own Python.

A data set of one's own is a `Source`, or a function that returns one, named as `module:attribute`.
"""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..errors import NO_ROOM, InputError, unknown_name, write_fault
from ..names import import_attribute, is_attribute
from .metrics import TASKS, check_metric
from .pictures import Pictures, is_grey, read_image

CACHE = Path.home() / ".cache" / "hwnas"
FASHION_MNIST_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"),)
IN_MEMORY = 2 << 30  # bytes of images: a larger folder's are read when they are needed
IMAGE_SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini"}  # in folders that are looked at; hidden files are left out, too
UNSIGNED_BYTES = b"\0\0\x08"  # how such idx files begin
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""The names that the folders of a split may have, in any case, also as `test_set`."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) as uint8, in memory or as files; labels (N,) as int64, or numbers (N, outputs) as float32."""

    images: torch.Tensor | Pictures
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """The rows that `index` (n,) names, their images in memory."""
        return Split(self.images[index], self.labels[index])

    def only(self, index: torch.Tensor) -> Split:
        """The rows that `index` (n,) names, files as files."""
        images = self.images.only(index) if isinstance(self.images, Pictures) else self.images[index]
        return Split(images, self.labels[index])


@dataclass(frozen=True, eq=False)
class Source:
    """A data set at its own size: what a data set of one's own must be.

    `classes` are the names of the labels 0, 1, ..., of the outputs where the `task` is regression; `flip` allows
    mirrored images in training. Without `val`, `val_fraction` of the training images are held out by the run's seed.
    `metric`, a name in `METRICS`, is what a search makes as good as it can: by default accuracy, of regression rmse.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool = False
    val: Split | None = None
    val_fraction: float = 0.2
    task: str = "classification"
    metric: str = ""

    def __post_init__(self) -> None:
        if not self.metric and self.task in TASKS:
            object.__setattr__(self, "metric", TASKS[self.task].metric)
        if isinstance(self.classes, list):
            object.__setattr__(self, "classes", tuple(self.classes))


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
    except Exception as error:  # of the network, of the disk, and whatever a file cut short makes torchvision raise
        name = getattr(dataset, "__name__", str(dataset))
        if new:
            shutil.rmtree(root, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise write_fault(root, error) from error
        left = f", having removed what a download left in {root}" if root.exists() else ""
        raise InputError(f"{name} is not in {root} and can't be downloaded ({error}): {remedy}{left}") from error
    train, test = (_as_split(np.asarray(part.data), part.targets) for part in parts)
    return Source(train, test, tuple(parts[0].classes), flip=True, val_fraction=val_fraction)


def _as_split(pixels: np.ndarray, labels: object) -> Split:
    images = torch.from_numpy(pixels)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(labels, dtype=torch.int64))


def folder(path: Path, size_px: int) -> Source:
    """A folder with a sub-folder of images per class, or with such folders named train, test and maybe val (`SPLITS`).

    Images are scaled until their shorter side has `size_px` and cropped to the middle square. They are grey if
    all are. Without test/ a fifth is held out, always the same. More than `IN_MEMORY` bytes are read when they are
    needed.
    """
    if not path.is_dir():
        raise InputError(f"there is no folder {path}: name the one in which the images lie")
    places = _places(path)
    classes = _class_names(places["train"])
    for place in places.values():
        if unknown := [name for name in _sub_folders(place) if name not in classes]:
            raise InputError(f"{place / unknown[0]} is a class that {places['train']} has not: add it, or remove this")
    splits = _read_folders(places, classes, size_px)
    if "test" not in splits:
        splits["train"], splits["test"] = _held_out(splits["train"], path)
    return Source(splits["train"], splits["test"], classes, flip=True, val=splits.get("val"))


def _places(path: Path) -> dict[str, Path]:
    """The folder of each split; of all images where there is none of any."""
    places: dict[str, Path] = {}
    for name in _sub_folders(path):
        plain = name.casefold().replace("-", "_").removesuffix("_set")
        for part in (part for part, names in SPLITS.items() if plain in names):
            if part in places:
                raise InputError(f"{places[part]} and {path / name} are the same split: remove or rename one")
            places[part] = path / name
    if places and "train" not in places:
        other = next(iter(places.values()))
        raise InputError(f"{other} is there without {path / 'train'}: add that, or rename it if it is a class")
    return places or {"train": path}


def _sub_folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_names(path: Path) -> tuple[str, ...]:
    names = _sub_folders(path)
    if len(names) < 2:
        raise InputError(f"{path} has {len(names)} sub-folders: one per class is needed, two at least")
    return tuple(names)


def _read_folders(places: Mapping[str, Path], classes: tuple[str, ...], size_px: int) -> dict[str, Split]:
    """The images of each place, all of them grey or all in colour."""
    listed = {part: _listed(place, classes) for part, place in places.items()}
    files = [file for found in listed.values() for file, _ in found]
    if len(files) * 3 * size_px**2 > IN_MEMORY:
        grey = [is_grey(file) for file in files]  # at least the header of each is read
        channels = 1 if all(grey) else 3
        return {
            part: Split(Pictures(tuple(file for file, _ in found), size_px, channels), _labels(found))
            for part, found in listed.items()
        }
    images = {file: read_image(file, size_px) for file in files}
    channels = max(image.shape[2] for image in images.values())
    splits = {}
    for part, found in listed.items():
        pixels = np.empty((len(found), size_px, size_px, channels), dtype=np.uint8)
        for row, (file, _) in zip(pixels, found, strict=True):
            row[...] = images.pop(file)  # grey ones fill all channels
        splits[part] = _as_split(pixels, _labels(found))
    return splits


def _listed(path: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The image files in the folders of the classes, each with its label."""
    found = []
    for label, name in enumerate(classes):
        there = [file for file in _visible(path / name) if file.name.lower() not in LEFT_BY_SYSTEMS]
        files = [file for file in there if file.suffix.lower() in IMAGE_SUFFIXES]
        if other := [file for file in there if file.suffix.lower() not in IMAGE_SUFFIXES]:
            raise InputError(f"{other[0]} is no image ({', '.join(sorted(IMAGE_SUFFIXES))}): convert it, or remove it")
        if not files:
            raise InputError(f"the class folder {path / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found += [(file, label) for file in files]
    return found


def _visible(folder: Path) -> list[Path]:
    """All files in a folder and its sub-folders, but for hidden ones and what hidden folders hold."""
    found = (path for path in folder.glob("**/*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _labels(found: Sequence[tuple[Path, int]]) -> torch.Tensor:
    return torch.tensor([label for _, label in found])


def _held_out(everything: Split, path: Path) -> tuple[Split, Split]:
    counts = torch.bincount(everything.labels)
    if counts.min() < 4:
        raise InputError(f"{path}: a class has only {int(counts.min())} images; to hold some out, 4 are needed")
    return stratified(everything, max(len(everything) // 5, len(counts)), seed=0)


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
        return checked(DATA[spec](size_px, data_dir), spec)
    if name == "folder" and rest:
        return checked(folder(Path(rest), size_px), spec)
    if is_attribute(spec):
        return checked(import_attribute(spec, Source), spec)
    raise unknown_name("data", spec, [*DATA, "folder:PATH", "module:attribute"])


def checked(source: Source, spec: str) -> Source:
    """`source`, or an InputError that names what is wrong with its images, labels or metric."""
    check_metric(source.task, source.metric, spec)
    if not isinstance(source.classes, tuple) or not all(isinstance(name, str) for name in source.classes):
        raise InputError(f"{spec}: classes is {str(source.classes)[:60]}; their names are needed, ('cat', 'dog')")
    splits = {"train": source.train, "val": source.val, "test": source.test}
    for name, split in splits.items():
        if split is None and name == "val":
            continue
        if not isinstance(split, Split):
            raise InputError(f"{spec}: {name} is a {type(split).__name__}; a Split(images, labels) is needed")
        images, labels = split.images, split.labels
        if isinstance(images, Pictures):
            continue
        numbers = source.task == "regression"
        kind, shape = (torch.float32, (len(labels), len(source.classes))) if numbers else (torch.int64, (len(labels),))
        needed = "float32 (N, outputs)" if numbers else "int64 (N,)"
        fits = images.dtype == torch.uint8 and images.ndim == 4 and labels.dtype == kind and labels.shape == shape
        if not fits or len(images) != len(labels):
            raise InputError(
                f"{spec}: {name} has images {tuple(images.shape)} of {images.dtype} and labels {tuple(labels.shape)} "
                f"of {labels.dtype}; uint8 (N, C, H, W) and {needed} are needed"
            )
        if numbers:
            if len(labels) == 0 or not torch.isfinite(labels).all():
                raise InputError(f"{spec}: {name} has no images, or labels that are not finite: leave those out")
        elif len(labels) == 0 or labels.min() < 0 or labels.max() >= len(source.classes):
            raise InputError(
                f"{spec}: labels of {name} run from {labels.min() if len(labels) else '-'} to "
                f"{labels.max() if len(labels) else '-'}; with {len(source.classes)} classes they must lie in "
                f"0..{len(source.classes) - 1}"
            )
    if source.task != "classification":
        return source
    counts = torch.bincount(source.train.labels, minlength=len(source.classes))
    empty = [name for name, count in zip(source.classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise InputError(f"{spec}: the class {empty[0]!r} has no training image: add some, or remove the class")
    return source


def stratified(split: Split, held_out: int, seed: int) -> tuple[Split, Split]:
    """Two splits, the second of `held_out` rows, the classes in equal shares in both; numbers as they come."""
    classes = split.labels.numpy() if split.labels.ndim == 1 else None
    counts = torch.bincount(split.labels) if classes is not None else torch.tensor([len(split)])
    counts = counts[counts > 0]
    if counts.min() < 2 or not len(counts) <= held_out <= len(split) - len(counts):
        raise InputError(
            f"cannot hold out {held_out} of {len(split)} images of {len(counts)} classes, the smallest of "
            f"{int(counts.min())}: give more images, or a validation set"
        )
    rest, held = train_test_split(np.arange(len(split)), test_size=held_out, random_state=seed, stratify=classes)
    return split.only(torch.from_numpy(np.sort(rest))), split.only(torch.from_numpy(np.sort(held)))


def read_idx(path: Path) -> np.ndarray:
    """A gzipped idx file of unsigned bytes as an array of the shape in its header."""
    try:
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != UNSIGNED_BYTES:
            raise ValueError(f"it begins with {raw[:4].hex()}, not with {UNSIGNED_BYTES.hex()}")
        shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path} is not a whole gzipped idx file: {error}") from error
