"""The accuracy of one architecture with inherited weights, its batch norms re-estimated first.

Where several processes (`Ranks`) evaluate one network together, each takes some of the batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .data import Data
from .metrics import METRICS
from .network import evaluating
from .ranks import ALONE, Ranks
from .sources import Split
from .space import Arch
from .supernet import Supernet

BN_IMAGES = 2048
BATCH = 128
METHOD = f"statistics of {BN_IMAGES} images in batches of {BATCH}"  # other methods, other accuracies


def calibrate_bn(module: nn.Module, images: torch.Tensor, batch: int = BATCH, ranks: Ranks = ALONE) -> None:
    """Replace the statistics of every batch norm by those of `images` (N, C, S, S), in place.

    The mean over batches, each of equal weight, of what batch norm sees in training
    (https://arxiv.org/abs/1904.00420, section 3.4); a last, smaller batch is left out. Weights and the modes
    of the modules stay as they were.
    """
    starts = bn_starts(len(images), batch)
    mine = ranks.share(starts)
    with collecting(module) as norms:
        for start in mine:
            module(images[start : start + batch].to(device_of(module)))
        if ranks.world > 1:  # each rank has the mean over its own batches
            found = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
            for value in found:
                value.mul_(len(mine) / len(starts))
            ranks.sum_(found)


def bn_starts(count: int, batch: int = BATCH) -> range:
    """Where the batches begin on which statistics are re-estimated."""
    return range(0, max(count - batch, 0) + 1, batch)


@contextmanager
def collecting(module: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Inside, the batch norms of `module` see batches as in training, and their statistics become the mean over these.

    All else is in evaluation mode, without gradients.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        yield norms
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights lie; the CPU if it has none."""
    return next((weight.device for weight in module.parameters()), torch.device("cpu"))


def accuracy(module: nn.Module, data: Data, split: Split, ranks: Ranks = ALONE) -> float:
    """`data.metric` of `module` on `split`: where nothing else was asked for, the fraction that it gets right."""
    metric, device = METRICS[data.metric], device_of(module)
    read = {}
    with evaluating(module):
        for start in ranks.share(range(0, len(split), BATCH)):
            images = split.images[start : start + BATCH].to(device)
            read[start] = metric.read(module(data.normalise(images))).cpu()
    whole = torch.cat(list(read.values())) if ranks.world == 1 else _joined(read, len(split), ranks)
    return metric(split.labels.numpy(), whole.numpy())


def _joined(read: Mapping[int, torch.Tensor], count: int, ranks: Ranks) -> torch.Tensor:
    """What all ranks read of `count` images, each of some batches, by the first row of a batch."""
    shape, numbers = ranks.broadcast((read[0].shape[1:], read[0].is_floating_point()) if 0 in read else None)
    whole = torch.zeros(count, *shape, dtype=torch.float32 if numbers else torch.int64)
    for start, values in read.items():
        whole[start : start + len(values)] = values
    ranks.sum_([whole])
    return whole


def bn_images(data: Data, seed: int, count: int = BN_IMAGES) -> torch.Tensor:
    """The fixed training images on which statistics are re-estimated: (n, C, S, S), not augmented."""
    return data.normalise(training_images(data, seed, count))


def training_images(data: Data, seed: int, count: int) -> torch.Tensor:
    """Some training images as they are, uint8 (n, C, S, S), the same for the same seed."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return data.train.images[order[:count]]


def calibrated_subnet(supernet: Supernet, arch: Arch, images: torch.Tensor, ranks: Ranks = ALONE) -> nn.Module:
    """The subnet of `arch` with statistics of its own from `images`; the supernet is not touched."""
    subnet = supernet.subnet(arch).to(memory_format=torch.channels_last)
    calibrate_bn(subnet, images, ranks=ranks)
    return subnet.eval()


def inherited_accuracy(supernet: Supernet, data: Data, images: torch.Tensor, arch: Arch, ranks: Ranks = ALONE) -> float:
    """The metric on validation images of one architecture with the supernet's weights; all `ranks` work on it together.

    `images` (N, C, S, S) are those of `bn_images`, on which statistics are re-estimated.
    """
    return accuracy(calibrated_subnet(supernet, arch, images, ranks), data, data.val, ranks)


def probe_accuracy(supernet: Supernet, data: Data, seed: int, count: int = 2, ranks: Ranks = ALONE) -> float:
    """The mean metric on validation images of a few architectures fixed by `seed`: how the training is doing."""
    rng = random.Random(seed)
    archs = [supernet.space.sample(rng) for _ in range(count)] if supernet.only is None else [supernet.only]
    images = bn_images(data, seed)
    return sum(inherited_accuracy(supernet, data, images, arch, ranks) for arch in archs) / len(archs)
