"""Training of a supernet by paths that are drawn anew at every step."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import DivergedError, InputError, MismatchError
from ..progress import Progress, silent
from .averaging import Average
from .batches import prepared, seed_of, steps_per_epoch, training_batches
from .checkpoint import (
    Stateful,
    append_metrics,
    load_checkpoint,
    read_metrics,
    save_checkpoint,
    tell_tensorboard,
    weights_fingerprint,
)
from .data import Data
from .evaluation import probe_accuracy
from .memory import keep_freed_memory
from .metrics import TASKS, Task
from .ranks import ALONE, Ranks
from .sampling import SAMPLING, Pass, largest
from .settings import TrainSettings
from .space import Arch
from .supernet import Supernet
from .teacher import Teacher

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_SCALE = 1.0  # of fp16's loss: gradients that overflow at it are beyond 65,504 by themselves


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
    check_alike(supernet, ranks)
    read_metrics(run)  # damaged, it is an error now and not after an epoch
    steps, task, draw = steps_per_epoch(data, settings), TASKS[data.task], SAMPLING[settings.sampling]
    mine, largest_until = ranks.share(range(settings.accumulate)), settings.largest_first * settings.epochs * steps
    batches = training_batches(data, settings, first_epoch * steps, mine, workers)
    half = torch.autocast(ranks.device.type, TYPES[settings.precision], enabled=settings.precision != "fp32")
    for epoch in range(first_epoch, settings.epochs):
        started, total_loss, made = time.perf_counter(), 0.0, 0
        for step in range(epoch * steps, (epoch + 1) * steps):
            before = total_loss
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
                    if one.teacher is None:
                        loss = loss_of(output, labels, said, task, settings)
                    else:
                        loss = task.loss(output, task.imitation(outputs[one.teacher]), 0.0)
                    scaler.scale(loss / settings.accumulate).backward()
                    outputs.append(output.detach())
                    value = loss.item()
                    if not scaler.is_enabled():
                        check_finite("loss", value, epoch, step, one.arch)
                    total_loss += value / len(passes) / len(mine)
            ranks.sum_([weight.grad for weight in weights if weight.grad is not None])
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(weights, settings.clip_norm)
            if overflowed(norm.item(), scaler, epoch, step, one.arch):  # it would spoil weights that are kept
                total_loss = before
                forget_overflow(supernet)
            else:
                made += 1
            scaler.step(optimizer)  # what overflowed it leaves out by itself
            scaler.update()
            average.update()
            speed = (step + 1 - epoch * steps) * settings.batch / (time.perf_counter() - started)
            mean_loss = total_loss / (made or math.nan)
            progress(step + 1, settings.epochs * steps, f"{speed:.0f} images/s, loss {mean_loss:.3f}")
        seconds = time.perf_counter() - started
        loss_of_all = sum(ranks.gather(total_loss)) / ranks.world / (made or math.nan)
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


def loss_of(
    output: torch.Tensor, labels: torch.Tensor, said: torch.Tensor | None, task: Task, settings: TrainSettings
) -> torch.Tensor:
    """The loss of outputs (B, classes) against the labels, and in part against what a teacher has `said`: ()."""
    loss = task.loss(output, labels, settings.label_smoothing)
    if said is None:
        return loss
    return torch.lerp(loss, task.loss(output, task.imitation(said), 0.0), settings.teacher_share)


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


def check_alike(supernet: nn.Module, ranks: Ranks) -> None:
    """MismatchError on all ranks where the weights of some are not those of rank 0: they would never come together."""
    if ranks.world == 1:
        return
    found = ranks.gather_plain(weights_fingerprint(supernet))
    others = ", ".join(str(rank) for rank, weights in enumerate(found) if weights != found[0])
    if others:
        raise MismatchError(
            f"of {ranks.world} processes {others} would begin with other weights than process 0: give all the same "
            "versions of torch and hwnas, and the same files"
        )


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


def overflowed(norm: float, scaler: torch.amp.GradScaler, epoch: int, step: int, arch: Arch) -> bool:
    """Whether a step has gradients that are not finite: torch's scaler leaves it out, and halves the scale.

    In fp16 a pass may overflow now and then, at any scale; gradients do until theirs is small enough. DivergedError
    where that is no remedy: without a scaler, and once the scale is below LEAST_SCALE. torch begins at 2^16, and
    doubles after 2,000 steps that went well, so that at least 17 were left out by then.
    """
    if math.isfinite(norm):
        return False
    if not scaler.is_enabled() or scaler.get_scale() < LEAST_SCALE:
        check_finite("gradient", norm, epoch, step, arch)
    return True


def forget_overflow(supernet: nn.Module) -> None:
    """Begin those statistics of batch norms anew that a pass has left without a number: they would stay so."""
    for part in supernet.modules():
        if isinstance(part, _BatchNorm) and not all(torch.isfinite(buffer).all() for buffer in part.buffers()):
            part.reset_running_stats()


def check_finite(name: str, value: float, epoch: int, step: int, arch: Arch) -> float:
    """`value`, or a DivergedError that says where it stopped being a number, and what is left."""
    if not math.isfinite(value):
        kept = f"the checkpoint of epoch {epoch} is kept" if epoch else "no epoch was finished"
        raise DivergedError(
            f"the {name} is {value} at step {step} on path {arch}; {kept}: "
            "train anew into another folder with a smaller --lr"
        )
    return value
