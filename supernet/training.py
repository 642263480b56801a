"""Training of a supernet by paths that are drawn anew at every step."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import FaultError, InputError, unknown_name
from ..progress import Progress, silent
from .checkpoint import append_metrics, load_checkpoint, read_metrics, save_checkpoint
from .data import Data, training_batches
from .evaluation import probe_accuracy
from .memory import keep_freed_memory
from .sampling import SAMPLING, Pass
from .space import Arch
from .supernet import Supernet

LARGEST = 1e30  # beyond it, a setting alone takes weights out of the range of float32


@dataclass(frozen=True)
class TrainSettings:
    """How a supernet is trained: SGD with linear warm-up, then a cosine to zero; on shifted and mirrored images.

    Without `augment` images are taken as they are: what has few epochs left is better refined on those (He et al.
    2019, https://arxiv.org/abs/1909.09148).
    """

    epochs: int = 30
    batch: int = 32
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    warmup: float = 0.05
    sampling: str = "uniform"
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise unknown_name("sampling", self.sampling, SAMPLING)
        for name in ("epochs", "batch", "lr", "clip_norm"):
            if not 0 < getattr(self, name) <= LARGEST:
                raise InputError(f"{name}={getattr(self, name)} must be positive, and at most {LARGEST:g}")


def train(supernet: Supernet, data: Data, settings: TrainSettings, run: Path, progress: Progress = silent) -> None:
    """Train from the last checkpoint in the folder `run`, or from the start, to the last epoch.

    Paths, order and augmentation are functions of (seed, step): a resumed training ends in the same weights.
    A supernet of one architecture only takes that path at every step.
    """
    keep_freed_memory()
    supernet.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(supernet, settings)
    first_epoch = load_checkpoint(run, supernet, optimizer)
    read_metrics(run)  # damaged, it is an error now and not after an epoch
    steps = steps_per_epoch(data, settings)
    draw = SAMPLING[settings.sampling]
    for epoch in range(first_epoch, settings.epochs):
        started, total_loss = time.perf_counter(), 0.0
        batches = training_batches(data, settings.batch, settings.seed, epoch, settings.augment)
        for i, (images, labels) in enumerate(batches):
            step = epoch * steps + i
            set_learning_rate(optimizer, settings, (step + 0.5) / (settings.epochs * steps))
            optimizer.zero_grad(set_to_none=True)
            alone = None if supernet.only is None else [Pass(supernet.only)]
            passes, outputs = alone or draw(supernet.space, settings.seed, step), list[torch.Tensor]()
            for one in passes:
                logits = supernet(images, one.arch)  # (B, classes)
                if one.teacher is None:
                    loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
                else:
                    loss = F.cross_entropy(logits, outputs[one.teacher].softmax(1))
                loss.backward()
                outputs.append(logits.detach())
                total_loss += check_finite("loss", loss.item(), epoch, step, one.arch) / len(passes)
            norm = nn.utils.clip_grad_norm_(supernet.parameters(), settings.clip_norm)
            check_finite("gradient", norm.item(), epoch, step, one.arch)  # before it spoils weights that are kept
            optimizer.step()
            speed = (i + 1) * settings.batch / (time.perf_counter() - started)
            progress(step + 1, settings.epochs * steps, f"{speed:.0f} images/s, loss {total_loss / (i + 1):.3f}")
        seconds = time.perf_counter() - started
        val_accuracy = probe_accuracy(supernet, data, settings.seed)
        append_metrics(run, epoch + 1, loss=total_loss / steps, val_accuracy=val_accuracy, seconds=seconds)
        save_checkpoint(run, supernet, optimizer, epoch + 1)  # last: a kill in between repeats the epoch


def steps_per_epoch(data: Data, settings: TrainSettings) -> int:
    """Whole batches in the training images; InputError where there is none."""
    if len(data.train) < settings.batch:
        raise InputError(f"{data.spec} has {len(data.train)} training images, fewer than a batch of {settings.batch}")
    return len(data.train) // settings.batch


def make_optimizer(supernet: nn.Module, settings: TrainSettings) -> torch.optim.SGD:
    """SGD with weight decay on kernels and matrices only, not on biases and batch norms."""
    kernels = [p for p in supernet.parameters() if p.ndim > 1]
    vectors = [p for p in supernet.parameters() if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainSettings, done: float) -> None:
    """Linear warm-up, then half a cosine (https://arxiv.org/abs/1608.03983, equation 5); `done` in [0, 1)."""
    if done < settings.warmup:
        factor = done / settings.warmup
    else:
        factor = 0.5 + 0.5 * math.cos(math.pi * (done - settings.warmup) / (1 - settings.warmup))
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * factor


def check_finite(name: str, value: float, epoch: int, step: int, arch: Arch) -> float:
    """`value`, or a FaultError that says where it stopped being a number, and what is left."""
    if not math.isfinite(value):
        kept = f"the checkpoint of epoch {epoch} is kept" if epoch else "no epoch was finished"
        raise FaultError(
            f"the {name} is {value} at step {step} on path {arch}; {kept}: "
            "train anew into another folder with a smaller --lr"
        )
    return value
