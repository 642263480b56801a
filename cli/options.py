"""What the commands share: options by one name with one meaning, and what users see of progress."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..progress import Progress as Report

SPEAKS = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one speaks to the user
FIRST_HERE = os.environ.get("LOCAL_RANK", "0") == "0"  # of those on this machine
console = Console(highlight=False, markup=False, soft_wrap=True, quiet=not SPEAKS)

SpaceOption = Annotated[str, typer.Option("--space", help="A space (mobilenet:size=32), or the folder of a run.")]
RunOption = Annotated[Path, typer.Option("--run", help="The folder of a trained supernet.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to measure: local, local:threads=2.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Everything random follows from it.")]
DataDirOption = Annotated[Path | None, typer.Option(help="Where the data lie, or go.")]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchOption = Annotated[int | None, typer.Option(help="Images per step.")]
AugmentOption = Annotated[bool | None, typer.Option("--augment/--no-augment", help="Shift and mirror images.")]
RateOption = Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that prepare images ahead of the training: some where images lie in files."),
]
AcceleratorOption = Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, or cuda.")]
PrecisionOption = Annotated[str | None, typer.Option(help="fp32, bf16, or on GPUs fp16.")]
AccumulateOption = Annotated[
    int | None, typer.Option(help="Parts of a batch, one after the other: less memory. One for each process.")
]
EmaOption = Annotated[float | None, typer.Option(help="Keep an average of the weights, of this decay (0.999).")]
RandAugmentOption = Annotated[int | None, typer.Option(help="Magnitude of RandAugment, 1 to 30.")]
MixupOption = Annotated[float | None, typer.Option(help="Alpha of mixup (0.2).")]
TeacherOption = Annotated[
    str | None, typer.Option(help="Learn from a network of torchvision's, too: torchvision:NAME, or NAME=FILE.pt.")
]
TeacherShareOption = Annotated[float | None, typer.Option(help="Its share of the loss (0.5).")]
CutmixOption = Annotated[float | None, typer.Option(help="Alpha of cutmix (1.0).")]


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """A progress bar on stderr with time left, as the function that workflows report to; none in a log file."""
    columns = (
        TextColumn(f"{title:9}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    screen = Console(stderr=True, markup=False)
    with Progress(*columns, console=screen, transient=True, disable=not (SPEAKS and screen.is_terminal)) as progress:
        task = progress.add_task(title, total=1, words="")
        yield lambda done, total, words: progress.update(task, completed=done, total=total, words=words)
