"""The accuracy of one architecture with inherited weights, its batch norms re-estimated first."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from .data import Data, Split
from .metrics import METRICS
from .network import evaluating
from .space import Arch
from .supernet import Supernet

BN_IMAGES = 2048
BATCH = 128
METHOD = f"statistics of {BN_IMAGES} images in batches of {BATCH}"  # other methods, other accuracies


def calibrate_bn(module: nn.Module, images: torch.Tensor, batch: int = BATCH) -> None:
    """Replace the statistics of every batch norm by those of `images` (N, C, S, S), in place.

    The mean over batches, each of equal weight, of what batch norm sees in training
    (https://arxiv.org/abs/1904.00420, section 3.4); a last, smaller batch is left out. Weights and the modes
    of the modules stay as they were.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for start in range(0, max(len(images) - batch, 0) + 1, batch):
            module(images[start : start + batch])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def accuracy(module: nn.Module, data: Data, split: Split) -> float:
    """`data.metric` of `module` on `split`: where nothing else was asked for, the fraction that it gets right."""
    with evaluating(module):
        parts = [module(data.normalise(images)).argmax(1) for images in split.images.split(BATCH)]
    return METRICS[data.metric](split.labels.numpy(), torch.cat(parts).numpy())


def bn_images(data: Data, seed: int, count: int = BN_IMAGES) -> torch.Tensor:
    """The fixed training images on which statistics are re-estimated: (n, C, S, S), not augmented."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.normalise(data.train.images[order[:count]])


def calibrated_subnet(supernet: Supernet, arch: Arch, images: torch.Tensor) -> nn.Module:
    """The subnet of `arch` with statistics of its own from `images`; the supernet is not touched."""
    subnet = supernet.subnet(arch).to(memory_format=torch.channels_last)
    calibrate_bn(subnet, images)
    return subnet.eval()


def inherited_accuracies(
    supernet: Supernet, data: Data, archs: Iterable[Arch], images: torch.Tensor
) -> Iterator[float]:
    """Validation accuracy of each architecture with the supernet's weights, one by one.

    `images` (N, C, S, S) are those of `bn_images`, on which statistics are re-estimated.
    """
    for arch in archs:
        yield accuracy(calibrated_subnet(supernet, arch, images), data, data.val)


def probe_accuracy(supernet: Supernet, data: Data, seed: int, count: int = 2) -> float:
    """Mean validation accuracy of a few architectures fixed by `seed`: how the training is doing."""
    rng = random.Random(seed)
    archs = [supernet.space.sample(rng) for _ in range(count)] if supernet.only is None else [supernet.only]
    return sum(inherited_accuracies(supernet, data, archs, bn_images(data, seed))) / len(archs)
