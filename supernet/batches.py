"""The images of every training step: which, in what order, and how they are changed.

All is a function of (seed, step, part of the batch): a resumed training, one on more processes, and one with other
numbers of workers see the same images.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ..errors import HwnasError, InputError
from .data import Data
from .ranks import Ranks
from .settings import TrainSettings

MOST_WORKERS = 8
PREFETCHED = 2  # batches that torch lets each worker prepare ahead
SHARED_MEMORY = Path("/dev/shm")  # where they lie


@dataclass(frozen=True)
class Part:
    """A part of a batch: its number in it, images (B, C, S, S) as uint8, labels."""

    number: int
    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batches(Dataset[list[Part] | HwnasError]):
    """Of each step of a training the parts of its batch that are `mine`, as uint8, before what a GPU does faster."""

    data: Data
    settings: TrainSettings
    mine: tuple[int, ...]

    def __getitem__(self, step: int) -> list[Part] | HwnasError:
        """The parts of a step's batch; an error of reading them, as a worker process could only raise its text."""
        try:
            rows = self._rows(step).chunk(self.settings.accumulate)
            return [self._part(rows[number], step, number) for number in self.mine]
        except HwnasError as error:
            return error

    def _rows(self, step: int) -> torch.Tensor:
        """The images (batch,) of a step: each epoch an order of its own, what fills no batch is left out."""
        epoch, number = divmod(step, steps_per_epoch(self.data, self.settings))
        order = _order(len(self.data.train), self.settings.seed, epoch)
        return order[number * self.settings.batch :][: self.settings.batch]

    def _part(self, rows: torch.Tensor, step: int, number: int) -> Part:
        """The images that `rows` names, with RandAugment each changed by itself."""
        images, labels = self.data.train.images[rows], self.data.train.labels[rows]
        if self.settings.randaugment:
            change = v2.RandAugment(magnitude=self.settings.randaugment)
            with seeded(self.settings.seed, "randaugment", step, number):
                images = torch.stack([change(image) for image in images])
        return Part(number, images, labels)


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order (count,) in which an epoch visits the images."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def steps_per_epoch(data: Data, settings: TrainSettings) -> int:
    """Whole batches in the training images; InputError where there is none."""
    if len(data.train) < settings.batch:
        raise InputError(f"{data.spec} has {len(data.train)} training images, fewer than a batch of {settings.batch}")
    return len(data.train) // settings.batch


def usual_workers(data: Data, settings: TrainSettings, ranks: Ranks) -> int:
    """Processes that prepare images ahead where nobody says how many: none for those in memory, but for RandAugment.

    For files, or to change images one by one, one where cores train, and beside a GPU as many as this process has
    cores, at most MOST_WORKERS; fewer where the memory that they share with it (/dev/shm) is small. None where
    processes can't be forked safely: on other systems than Linux, and in a process that may have no children.
    """
    images = data.train.images
    ready = isinstance(images, torch.Tensor) and not settings.randaugment
    if ready or sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 0
    batch_bytes = settings.batch * math.prod(images.shape[1:])
    room = int(shutil.disk_usage(SHARED_MEMORY).free / 2 / (PREFETCHED * batch_bytes)) if SHARED_MEMORY.is_dir() else 0
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(room, 1 if ranks.device.type == "cpu" else max(1, min(MOST_WORKERS, cores)))


def training_batches(
    data: Data, settings: TrainSettings, first_step: int = 0, mine: Sequence[int] = (0,), workers: int = 0
) -> Iterator[list[Part]]:
    """The parts that are `mine` of every batch from `first_step` to the end of the training.

    Without `workers` they are made when they are asked for, else ahead of that, in as many processes.
    """
    batches = Batches(data, settings, tuple(mine))
    steps = range(first_step, settings.epochs * steps_per_epoch(data, settings))
    context = "fork" if workers else None  # the images are not copied to the workers
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        multiprocessing_context=context,
        generator=torch.Generator(),  # for seeds of workers that nobody uses: not of the global one
    )
    for parts in loader if workers else map(batches.__getitem__, steps):
        if isinstance(parts, HwnasError):
            raise parts
        yield parts


def prepared(
    part: Part, data: Data, settings: TrainSettings, step: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """A part of a batch as the network takes it: images (B, C, S, S), and labels (B,) or mixed ones (B, classes)."""
    images, labels = part.images.to(device), part.labels.to(device)
    if settings.augment:
        generator = torch.Generator().manual_seed(seed_of(settings.seed, "augment", step, part.number))
        images = augment(images, data.flip, generator)
    images = data.normalise(images)
    mixes = [v2.MixUp(alpha=settings.mixup, num_classes=len(data.classes))] if settings.mixup else []
    mixes += [v2.CutMix(alpha=settings.cutmix, num_classes=len(data.classes))] if settings.cutmix else []
    if mixes:
        with seeded(settings.seed, "mix", step, part.number):
            images, labels = v2.RandomChoice(mixes)(images, labels)
    return images, labels


@contextmanager
def seeded(*of: object) -> Iterator[None]:
    """torch's global random numbers are a function of `of` inside, and as they were afterwards: transforms use them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(*of))
        yield


def seed_of(*of: object) -> int:
    """A seed that is a function of plain values."""
    return random.Random(" ".join(map(str, of))).getrandbits(63)


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
    places = torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
    image, row, column = (index.to(images.device) for index in places)
    return padded[image, :, row, column].permute(0, 3, 1, 2)  # picked are (n, S, S, C)
