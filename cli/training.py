"""Commands that train: a supernet, a found network, networks alone that say how well a supernet ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .options import (
    AcceleratorOption,
    AccumulateOption,
    AugmentOption,
    BatchOption,
    CutmixOption,
    DataDirOption,
    EmaOption,
    EpochsOption,
    MixupOption,
    PrecisionOption,
    RandAugmentOption,
    RateOption,
    ResumeOption,
    RunOption,
    SeedOption,
    TeacherOption,
    TeacherShareOption,
    WorkersOption,
    bar,
    console,
)

if TYPE_CHECKING:
    from ..workflows import RankReport

SIZE, CEILING = "multiply-accumulates alone", "trained alone again (the ceiling)"  # what a supernet is held against


def train(
    space: Annotated[str, typer.Option(help="The search space: mobilenet:size=32,classes=10.")],
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, cifar100, folder:PATH, module:attribute.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: RateOption = None,
    augment: AugmentOption = None,
    sampling: Annotated[str | None, typer.Option(help="How paths are drawn: uniform, fair, sandwich.")] = None,
    largest_first: Annotated[
        float | None, typer.Option(help="Train the largest path alone for this share of all steps (0.25).")
    ] = None,
    sharing: Annotated[str, typer.Option(help="entangled, or blocks.")] = "entangled",
    data_dir: DataDirOption = None,
    init_from: Annotated[
        str | None, typer.Option(help="Start from a pretrained network: torchvision:NAME, or a FILE.pt.")
    ] = None,
    precision: PrecisionOption = None,
    accumulate: AccumulateOption = None,
    ema: EmaOption = None,
    randaugment: RandAugmentOption = None,
    mixup: MixupOption = None,
    cutmix: CutmixOption = None,
    teacher: TeacherOption = None,
    teacher_share: TeacherShareOption = None,
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Train a supernet by sampling paths, one or a few per step.

    On several GPUs or cores: torchrun --nproc-per-node 2 -m hwnas -- train ...
    """
    given = stated(locals())
    from .. import workflows

    with workflows.joined(accelerator) as ranks, bar("training") as progress:
        settings = workflows.TrainSettings(**{"accumulate": ranks.world, **given})
        run = workflows.train(
            space,
            data,
            out,
            settings,
            sharing=sharing,
            data_dir=data_dir,
            init_from=init_from,
            resume=resume,
            progress=progress,
            note=console.print,
            ranks=ranks,
            workers=workers,
        )
    last = workflows.last_metrics(run)
    console.print(
        f"{out}: {int(last['epoch'])} epochs, loss {last['loss']:.3f}, "
        f"validation {run.data['metric']} of random subnets {last['val_accuracy']:.4f}"
    )


def finetune(
    found: Annotated[Path, typer.Argument(help="What hwnas search wrote (.json).")],
    out: Annotated[Path, typer.Option(help="Folder of the new run; found.json is written there.")],
    data: Annotated[str | None, typer.Option(help="Other data than the network was found with.")] = None,
    data_dir: DataDirOption = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: RateOption = None,
    augment: AugmentOption = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Forget the inherited weights.")] = False,
    precision: PrecisionOption = None,
    accumulate: AccumulateOption = None,
    ema: EmaOption = None,
    randaugment: RandAugmentOption = None,
    mixup: MixupOption = None,
    cutmix: CutmixOption = None,
    teacher: TeacherOption = None,
    teacher_share: TeacherShareOption = None,
    accelerator: AcceleratorOption = "auto",
    workers: WorkersOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train a found network on, alone.

    What is not given is as for the supernet, but that fine-tuning takes 2 epochs at half its rate, on images as they
    are.
    """
    given = stated(locals())
    from .. import workflows

    with workflows.joined(accelerator) as ranks, bar("training") as progress:
        tuned = workflows.finetune(found, out, data, data_dir, from_scratch, resume, progress, ranks, workers, given)
    console.print(f"{out / 'found.json'}: validation {tuned.metric} {tuned.accuracy:.4f}")


def stated(options: dict[str, Any]) -> dict[str, Any]:
    """Of a command's options those that were given and are settings of a training: they have the same names."""
    from ..workflows import TrainSettings

    known = TrainSettings.__dataclass_fields__
    return {name: value for name, value in options.items() if name in known and value is not None}


def rank(
    run: RunOption,
    nets: Annotated[int | None, typer.Option(min=3, help="Networks to train alone, from small to large.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Or a CSV of what networks reach: arch,accuracy.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures (.json).")] = None,
    table: Annotated[
        Path | None, typer.Option(help="Networks of equal latency by this table, not of equal flops.")
    ] = None,
    again: Annotated[int | None, typer.Option(min=0, help="Of them trained with a second seed: a third.")] = None,
    epochs: EpochsOption = None,
    accelerator: AcceleratorOption = "auto",
    seed: SeedOption = 0,
    resume: ResumeOption = False,  # noqa: ARG001 - a network of a run is never trained twice
) -> None:
    """Tell how well a supernet ranks its networks.

    The truth are networks trained alone, or a CSV. A search compares networks of equal cost: so ranks count there, too.
    """
    from .. import workflows

    with workflows.joined(accelerator) as ranks, bar("ranking") as progress:
        found = workflows.rank(run, nets, truth, out, table, again, epochs, seed, progress, ranks, console.print)
    console.print(rankings(found))
    console.print(differences(found))
    if found.lost:
        console.print(f"left out: {len(found.lost)} trainings alone that ended without a finite {found.metric}")
    if found.supernet.tau_in_bands is None:
        console.print(f"no two networks are of equal {found.cost}: give more --nets")


def rankings(found: RankReport) -> Table:
    """What `rank` found, a row for each way to rank networks: of how many, and with the intervals of its figures."""
    rows = Table("", "networks", "Kendall tau", "Spearman", f"at equal {found.cost}", "regret")
    ways = {
        "the supernet": found.supernet,
        "without batch norms of their own": found.without_bn,
        SIZE: found.flops,
        CEILING: found.ceiling,
    }
    for name, ranking in ways.items():
        if ranking is not None:
            figures = (ranking.tau, ranking.spearman, ranking.tau_in_bands, ranking.regret)
            rows.add_row(name, str(ranking.nets), *map(written, figures))
    return rows


def differences(found: RankReport) -> Table:
    """By how much the supernet ranks better than what it is compared with, over the networks that both judge."""
    rows = Table("the supernet above", "networks", "Kendall tau", f"at equal {found.cost}")
    others = [(SIZE, found.flops, found.above_flops), (CEILING, found.ceiling, found.above_ceiling)]
    for name, ranking, above in others:
        if ranking and above:
            rows.add_row(name, str(ranking.nets), written(above.tau), written(above.tau_in_bands))
    return rows


def written(figure: Any) -> str:
    """A figure with its interval: `0.661 [0.559, 0.754]`; nothing where there is none."""
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]" if figure else ""
