"""A data set ready for training: training, validation (split from training by seed) and test images, one size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from ..errors import FaultError, InputError
from ..files import digest
from .pictures import Pictures
from .sources import IN_MEMORY, Split, load_source, stratified
from .space import SearchSpace

MOMENTS_OF = 10_000  # of files that are not in memory


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for training: three splits and what augmentation may do.

    `mean` and `std` (C,) are of the training images, on the scale 0..1; `metric` is a name in `METRICS`.
    """

    spec: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    flip: bool
    mean: torch.Tensor
    std: torch.Tensor
    task: str = "classification"
    metric: str = "accuracy"

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, S, S) -> float32 of mean 0 and deviation 1, in the channels-last layout."""
        mean, std = (values.to(images.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        scaled = (images.float() / 255 - mean) / std
        return scaled.contiguous(memory_format=torch.channels_last)


def load_data(spec: str, space: SearchSpace, seed: int = 0, data_dir: Path | None = None) -> Data:
    """The data set `spec`, its images fitted to the input of `space`, its validation split drawn by `seed`."""
    _, channels, size_px, _ = space.input_shape()
    source = load_source(spec, size_px, data_dir)
    if space.classes() != len(source.classes):
        raise InputError(
            f"{space} has {space.classes()} outputs, {spec} has {len(source.classes)} classes: "
            f"give the space the setting classes={len(source.classes)}"
        )
    train, test = (fit(split, channels, size_px, spec) for split in (source.train, source.test))
    if source.val is not None:
        val = fit(source.val, channels, size_px, spec)
    else:
        train, val = stratified(train, round(source.val_fraction * len(train)), seed)
    try:
        if isinstance(val.images, Pictures) and val.images.shape.numel() <= IN_MEMORY:
            val = Split(val.images[:], val.labels)  # every candidate of a search looks at them
        mean, std = moments(train.images)
    except FaultError as error:  # an image that can't be read: nothing has begun, so nothing is to be resumed
        raise error.__cause__ or error from None
    task, metric = source.task, source.metric
    return Data(spec, train, val, test, source.classes, source.flip, mean, std, task, metric)


def moments(images: torch.Tensor | Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (C,) of uint8 images (N, C, S, S) on the scale 0..1, a part at a time; of files, of some."""
    if isinstance(images, Pictures):
        images = images.only(torch.linspace(0, len(images) - 1, min(len(images), MOMENTS_OF)).long())
    total = squares = torch.zeros(images.shape[1], dtype=torch.float64)
    for part in images.split(1024):
        scaled = part.double() / 255
        total, squares = total + scaled.sum((0, 2, 3)), squares + scaled.square().sum((0, 2, 3))
    _, _, height, width = images.shape
    count = len(images) * height * width
    mean = total / count
    variance = (squares / count - mean**2).clamp(min=1 / 255**2)  # a constant channel must not divide by 0
    return mean.float(), variance.sqrt().float()


def data_record(data: Data) -> dict[str, object]:
    """What a run keeps of its data: where they came from, how they are normalised, and their fingerprint.

    The fingerprint is one of all images and labels, and of the metric where that is not accuracy (so it is still
    that of a run from before there was a choice); of images that are read when they are needed, their names and sizes.
    """
    metric = [data.metric] if data.metric != "accuracy" else []
    splits = {"train": data.train, "val": data.val, "test": data.test}
    parts = [part for split in splits.values() for part in (split.images, split.labels)]
    return {
        "spec": data.spec,
        "classes": list(data.classes),
        "images": {name: len(split) for name, split in splits.items()},
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "task": data.task,
        "metric": data.metric,
        "flip": data.flip,
        "fingerprint": digest(*map(_bytes, parts), *metric),
    }


def _bytes(part: torch.Tensor | Pictures) -> bytes:
    return part.signature() if isinstance(part, Pictures) else part.numpy().tobytes()


def fit(split: Split, channels: int, size_px: int, spec: str) -> Split:
    """Images with the channels and the size that a space reads; grey ones become colour, never the reverse."""
    images = split.images
    if images.shape[1] not in (1, channels):
        raise InputError(f"{spec} has {images.shape[1]} channels: give the space channels={images.shape[1]}")
    if isinstance(images, Pictures):
        return Split(replace(images, size_px=size_px, channels=channels), split.labels)
    images = images.expand(-1, channels, -1, -1).contiguous() if images.shape[1] != channels else images
    if tuple(images.shape[2:]) != (size_px, size_px):
        images = torch.cat([resize(part, size_px) for part in images.split(4096)])
    return Split(images, split.labels)


def resize(images: torch.Tensor, size_px: int) -> torch.Tensor:
    """uint8 images (N, C, H, W) -> (N, C, size_px, size_px), bilinear with antialiasing."""
    resized = F.interpolate(images.float(), (size_px, size_px), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
