"""Training of a supernet by paths that are drawn anew at every step."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import nn

from ..errors import DivergedError, InputError
from ..progress import Progress, silent
from .averaging import Average
from .batches import prepared, seed_of, steps_per_epoch, training_batches
from .checkpoint import Stateful, append_metrics, load_checkpoint, read_metrics, save_checkpoint, tell_tensorboard
from .data import Data
from .evaluation import probe_accuracy
from .memory import keep_freed_memory
from .metrics import TASKS
from .ranks import ALONE, Ranks
from .sampling import SAMPLING, Pass, largest
from .settings import TrainSettings
from .space import Arch
from .supernet import Supernet
from .teacher import Teacher

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    supernet: Supernet,
    data: Data,
    settings: TrainSettings,
    run: Path,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
    workers: int = 0,
    teacher: Teacher | None = None,
) -> None:
    """Train from the last checkpoint in the folder `run`, or from the start, to the last epoch.

    Paths, order and augmentation are functions of (seed, step): a resumed training ends in the same weights.
    A supernet of one architecture only takes that path at every step. Of each batch a rank takes every `world`-th of
    the `settings.accumulate` parts: gradients are summed over parts and ranks alike, and are those of the path alone.
    `workers` processes prepare the images ahead. A `teacher` says of each image what it is, beside the label.
    """
    check_settings(settings, data, ranks)
    keep_freed_memory()
    supernet.to(ranks.device).to(memory_format=torch.channels_last).train()
    weights = list(supernet.parameters())  # to look for them takes as long as a layer
    optimizer, average = make_optimizer(supernet, settings), Average(supernet, settings.ema)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.precision == "fp16")
    kept: dict[str, Stateful] = {"model": supernet, "optimizer": optimizer, "average": average, "scaler": scaler}
    first_epoch = load_checkpoint(run, kept)
    read_metrics(run)  # damaged, it is an error now and not after an epoch
    steps, task, draw = steps_per_epoch(data, settings), TASKS[data.task], SAMPLING[settings.sampling]
    mine, largest_until = ranks.share(range(settings.accumulate)), settings.largest_first * settings.epochs * steps
    batches = training_batches(data, settings, first_epoch * steps, mine, workers)
    half = torch.autocast(ranks.device.type, TYPES[settings.precision], enabled=settings.precision != "fp32")
    for epoch in range(first_epoch, settings.epochs):
        started, total_loss = time.perf_counter(), 0.0
        for step in range(epoch * steps, (epoch + 1) * steps):
            set_learning_rate(optimizer, settings, (step + 0.5) / (settings.epochs * steps))
            optimizer.zero_grad(set_to_none=True)
            alone = None if supernet.only is None else [Pass(supernet.only)]
            passes = alone or (largest if step < largest_until else draw)(supernet.space, settings.seed, step)
            for part in next(batches):
                images, labels = prepared(part, data, settings, step, ranks.device)
                torch.manual_seed(seed_of(settings.seed, "blocks", step, part.number))  # of those that draw: dropout
                said = teacher(images) if teacher else None
                outputs = list[torch.Tensor]()
                for one in passes:
                    with half:
                        output = supernet(images, one.arch).float()  # (B, classes)
                    if one.teacher is not None:
                        loss = task.loss(output, task.imitation(outputs[one.teacher]), 0.0)
                    else:
                        loss = task.loss(output, labels, settings.label_smoothing)
                    if one.teacher is None and said is not None:
                        loss = torch.lerp(loss, task.loss(output, task.imitation(said), 0.0), settings.teacher_share)
                    scaler.scale(loss / settings.accumulate).backward()
                    outputs.append(output.detach())
                    total_loss += check_finite("loss", loss.item(), epoch, step, one.arch) / len(passes) / len(mine)
            ranks.sum_([weight.grad for weight in weights if weight.grad is not None])
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            if not scaler.is_enabled():  # it leaves out steps of infinite gradients by itself
                check_finite("gradient", norm.item(), epoch, step, one.arch)  # before it spoils weights that are kept
            scaler.step(optimizer)
            scaler.update()
            average.update()
            done = step + 1 - epoch * steps
            speed = done * settings.batch / (time.perf_counter() - started)
            progress(step + 1, settings.epochs * steps, f"{speed:.0f} images/s, loss {total_loss / done:.3f}")
        seconds, loss_of_all = time.perf_counter() - started, sum(ranks.gather(total_loss)) / ranks.world / steps
        ranks.mean_([each for each in supernet.buffers() if each.is_floating_point()])  # of the statistics that all saw
        average.swap()
        val_accuracy = probe_accuracy(supernet, data, settings.seed, ranks=ranks)
        average.swap()
        if ranks.first:
            figures = {"loss": loss_of_all, "val_accuracy": val_accuracy, "seconds": seconds}
            append_metrics(run, epoch + 1, **figures)
            save_checkpoint(run, kept, epoch + 1)  # after them: a kill in between repeats the epoch
            tell_tensorboard(run, epoch + 1, **figures)
    average.swap()  # it is what the run holds
    ranks.wait()


def check_settings(settings: TrainSettings, data: Data, ranks: Ranks) -> None:
    """InputError where these settings can't be for this device, this task or so many processes."""
    if settings.precision == "fp16" and ranks.device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU: bf16 works on both")
    if settings.accumulate % ranks.world:
        raise InputError(
            f"{ranks.world} processes can't share the {settings.accumulate} parts of a batch: "
            f"--accumulate must be a multiple of {ranks.world}"
        )
    channels = data.train.images.shape[1]
    if settings.randaugment and channels not in (1, 3):
        raise InputError(f"RandAugment is for grey or colour images, {data.spec} has {channels} channels: leave it out")
    if data.task != "classification" and (settings.mixup or settings.cutmix):
        raise InputError(f"mixup and cutmix mix classes, and {data.spec} is {data.task}: leave them out")


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
    """`value`, or a DivergedError that says where it stopped being a number, and what is left."""
    if not math.isfinite(value):
        kept = f"the checkpoint of epoch {epoch} is kept" if epoch else "no epoch was finished"
        raise DivergedError(
            f"the {name} is {value} at step {step} on path {arch}; {kept}: "
            "train anew into another folder with a smaller --lr"
        )
    return value
