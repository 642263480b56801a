"""The command line: parses, calls a workflow, prints. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .errors import NO_ROOM, HwnasError, InputError, write_fault
from .exits import fail, origin, usage
from .progress import Progress as Report

app = typer.Typer(
    name="hwnas",
    help="Train one supernet, profile any device, search within its latency budget, export to ONNX with proof.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
VAGUE = 0.1  # from this interval on, a table from a few networks is said to be vague
RESTLESS = 0.1  # from this half width of a layer's interval on, the user is told
STOPPED = 130  # the exit status after Ctrl-C
AFTER_STOP = {
    **dict.fromkeys(
        ("train", "profile", "search", "finetune", "rank"),
        "what is finished is kept: the same command with --resume goes on",
    ),
    "demo": "what is finished is kept: the same command goes on",
}
console = Console(highlight=False, markup=False, soft_wrap=True)

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
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(title, total=1, words="")
        yield lambda done, total, words: progress.update(task, completed=done, total=total, words=words)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("hwnas-demo"),
    seed: SeedOption = 0,
) -> None:
    """Do everything below on bundled data, on this machine's CPU."""
    from .demo import run_demo

    run_demo(out, seed, console, bar)


@app.command()
def train(
    space: Annotated[str, typer.Option(help="The search space: mobilenet:size=32,classes=10.")],
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, cifar100, folder:PATH, module:attribute.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    lr: RateOption = None,
    augment: AugmentOption = None,
    sampling: Annotated[str | None, typer.Option(help="How paths are drawn: uniform, fair, sandwich.")] = None,
    sharing: Annotated[str, typer.Option(help="entangled, or blocks.")] = "entangled",
    data_dir: DataDirOption = None,
    init_from: Annotated[
        str | None, typer.Option(help="Start from a pretrained network: torchvision:NAME, or a FILE.pt.")
    ] = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Train a supernet by sampling paths, one or a few per step."""
    from . import workflows

    given: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "augment": augment}
    given |= {"sampling": sampling, "seed": seed}
    settings = workflows.TrainSettings(**{name: value for name, value in given.items() if value is not None})
    with bar("training") as progress:
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
        )
    last = workflows.last_metrics(run)
    console.print(
        f"{out}: {int(last['epoch'])} epochs, loss {last['loss']:.3f}, "
        f"validation {run.data['metric']} of random subnets {last['val_accuracy']:.4f}"
    )


@app.command()
def profile(
    space: SpaceOption,
    device: DeviceOption,
    out: Annotated[Path, typer.Option(help="The latency table to write (.json).")],
    earlier: Annotated[
        list[Path] | None, typer.Option("--from", help="Table of an earlier device; repeatable.")
    ] = None,
    networks: Annotated[int | None, typer.Option(min=3, help="Whole networks to measure: 20, with --from 10.")] = None,
    sustained: Annotated[float, typer.Option(min=0, help="Seconds of load, for a limit DEVICE.sustained.")] = 0,
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Measure the layers of a space on a device: a latency table.

    A few whole networks are measured beside them; they calibrate the table. With tables of earlier devices (--from)
    those networks are all that is measured.
    """
    from . import workflows

    with bar("profiling") as progress:
        table = workflows.profile(space, device, out, resume, earlier or (), networks, sustained, seed, progress)
    for layer, reason in table.rejected.items():
        console.print(f"{table.name} can't run {layer}: {reason}; no network with it will be found for {table.name}")
    if not table.timed:
        console.print(
            f"{out}: {table.name} compiles {len(table.entries) - len(table.rejected)} layers; it has no times"
        )
        return
    if table.device["label"] == "emulated":
        console.print(f"{table.name} is emulated: its times are no latency of any device")
    fit = table.calibration
    measured = sum(entry.rounds > 0 for entry in table.entries.values())
    known = f"upper end of the interval +{fit.margin:.1%}"
    if earlier:
        console.print(f"{out}: {measured} layers on {table.name}, told by {len(fit.networks)} networks, {known}")
        if fit.margin > VAGUE:
            console.print(
                f"that is vague: measure more (--networks {2 * len(fit.networks)}), or profile without --from"
            )
    else:
        console.print(f"{out}: {measured} layers on {table.name}, calibrated by {len(fit.networks)} networks, {known}")
    widest = max((e.high - e.low) / 2 / e.ms for e in table.entries.values() if e.rounds)
    if widest > RESTLESS:
        console.print(
            f"the machine was restless: a layer is known to +-{widest:.0%} only; profile again when it is quiet"
        )
    low, high = table.range_ms()
    which = "networks" if table.cost else "networks drawn at random"
    console.print(f"{which} of {table.space} take {low:.4g} to {high:.4g} ms (a factor {high / low:.1f})")


@app.command()
def validate(
    space: SpaceOption,
    table: Annotated[Path, typer.Option(help="The latency table.")],
    device: DeviceOption,
    nets: Annotated[int, typer.Option(min=3, help="How many networks to measure, twice.")] = 20,
    pause: Annotated[float, typer.Option(min=0, help="Seconds at least between the two measurements.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures (.json).")] = None,
) -> None:
    """Compare a table with whole networks that it has never seen.

    They are measured twice, some time apart: that difference is the floor for any prediction.
    """
    from . import workflows

    with bar("validating") as progress:
        found = workflows.validate(space, table, device, nets, pause, out, progress, console.print)
    rows = Table("", "predicted", "measured twice (the floor)", title=f"{found.nets} networks on {device}")
    floor_mape, floor_tau = (
        "" if x is None else f"{x:{s}}" for x, s in ((found.floor_mape, ".2%"), (found.floor_tau, ".3f"))
    )
    rows.add_row("mean error", f"{found.mape:.2%}", floor_mape)
    rows.add_row("Kendall tau", f"{found.kendall_tau:.3f}", floor_tau)
    rows.add_row("within 5 %", f"{found.within_5:.1%}", "")
    rows.add_row("within 10 %", f"{found.within_10:.1%}", "")
    rows.add_row("90 % intervals hold", f"{found.interval_coverage:.1%}", "")
    console.print(rows)
    if found.predictors:
        words = ", ".join(f"{name} {score.mape:.2%}" for name, score in found.predictors.items())
        console.print(f"mean error if fitted to four fifths of them: {words}")
    console.print(f"the table is {'fit' if found.fit_for_use else 'NOT fit'} for use ({found.seconds:.0f} s)")


@app.command()
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
    seed: SeedOption = 0,
    resume: ResumeOption = False,  # noqa: ARG001 - a network of a run is never trained twice
) -> None:
    """Tell how well a supernet ranks its networks.

    The truth are networks trained alone, or a CSV. A search compares networks of equal cost: so ranks count there, too.
    """
    from . import workflows

    with bar("ranking") as progress:
        found = workflows.rank(run, nets, truth, out, table, again, epochs, seed, progress)
    rows = Table("", "Kendall tau", f"at equal {found.cost}", "regret", title=f"{found.nets} networks")
    rankings = {
        "the supernet": found.supernet,
        "without batch norms of their own": found.without_bn,
        "multiply-accumulates alone": found.flops,
        "trained alone again (the ceiling)": found.ceiling,
    }
    for name, ranking in rankings.items():
        if ranking is not None:
            figures = (ranking.tau, ranking.tau_in_bands, ranking.regret)
            rows.add_row(name, *(f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" if f else "" for f in figures))
    console.print(rows)
    if found.supernet.tau_in_bands is None:
        console.print(f"no two networks are of equal {found.cost}: give more --nets")


@app.command()
def search(
    run: RunOption,
    out: Annotated[Path, typer.Option(help="Where to write the network found (.json).")],
    table: Annotated[list[Path] | None, typer.Option(help="A latency table; may be repeated.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="flops=300M, params=5M, local=20ms; repeatable.")] = None,
    strategy: Annotated[str, typer.Option(help="evolution, or random.")] = "evolution",
    budget: Annotated[int, typer.Option(min=1, help="Architectures to evaluate.")] = 200,
    pareto: Annotated[str | None, typer.Option(help="Keep the front of accuracy against this cost.")] = None,
    seed: SeedOption = 0,
    resume: ResumeOption = False,  # noqa: ARG001 - a search always reuses what the run's store knows
) -> None:
    """Find the most accurate network of a run within limits.

    An interrupted search goes on where it was: no architecture of a run is ever evaluated twice.
    """
    from . import workflows

    with bar("searching") as progress:
        searched = workflows.search(
            run, out, table or (), limit or (), strategy, budget, seed, pareto, progress, console.print
        )
    found = searched.found
    console.print(
        f"{out}: validation {found.metric} {found.accuracy:.4f} after {found.evaluations} evaluations "
        f"({found.reused} reused), {found.seconds:.0f} s"
    )
    for name, value in found.costs.items():
        interval = found.intervals.get(name)
        figure = "{:.4g} ms" if interval else "{:,.0f}"
        words = f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""
        asked = f", limit {figure.format(found.limits[name])}" if name in found.limits else ""
        console.print(f"  {name} {figure.format(value)}{words}{asked}")


@app.command()
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
    resume: ResumeOption = False,
) -> None:
    """Train a found network on, alone.

    What is not given is as for the supernet, but that fine-tuning takes 2 epochs, on images as they are.
    """
    from . import workflows

    with bar("training") as progress:
        tuned = workflows.finetune(
            found, out, data, data_dir, epochs, batch, lr, augment, from_scratch, resume, progress
        )
    console.print(f"{out / 'found.json'}: validation {tuned.metric} {tuned.accuracy:.4f}")


@app.command()
def export(
    found: Annotated[Path, typer.Argument(help="What hwnas search wrote (.json).")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    device: Annotated[str | None, typer.Option(help="Measure the exported file there.")] = None,
    batch: Annotated[str, typer.Option(help="A number, or dynamic.")] = "1",
    opset: Annotated[int, typer.Option(min=18, help="ONNX opset.")] = 18,
) -> None:
    """Write a found network as ONNX, with a certificate beside it.

    The certificate (.json) holds outputs compared, test accuracy and latency measured on the exported file.
    """
    from . import workflows

    if batch != "dynamic" and not (batch.isdecimal() and int(batch) > 0):
        raise InputError(f"--batch {batch} is neither a positive number nor dynamic")
    with bar("exporting") as progress:
        proof = workflows.export(found, out, device, None if batch == "dynamic" else int(batch), opset, progress)
    low, high = proof.accuracy_interval
    console.print(
        f"{out}: {proof.size_bytes / 1e6:.2f} MB, opset {proof.opset}, certificate {out.with_suffix('.json')}"
    )
    console.print(f"  outputs differ by at most {proof.max_abs_diff:.1e} (supernet path, subnet, ONNX Runtime)")
    console.print(
        f"  test {proof.metric} {proof.accuracy_onnx:.4f} [{low:.4f}, {high:.4f}] in ONNX Runtime, "
        f"{proof.accuracy_torch:.4f} in torch, {proof.test_images} images"
    )
    for name, times in proof.latency.items():
        console.print(
            f"  {name}: measured {times.measured_ms:.4g} ms, promised {times.predicted_ms:.4g} "
            f"[{times.low_ms:.4g}, {times.high_ms:.4g}] (raw {times.raw_ms:.4g})"
        )
    verdicts = {True: "yes", False: "NO", None: "not all measured"}
    console.print(f"  within limits: {verdicts[proof.within_limits]}", *proof.notes, sep="; " if proof.notes else "")


@app.command(name="list")
def list_names(
    kind: Annotated[str, typer.Argument(help="spaces, data, devices or strategies.")],
    show: Annotated[str | None, typer.Option(help="Print this space as TOML, a start for one of your own.")] = None,
) -> None:
    """List the names that the other commands know."""
    from . import listing

    if show is not None:
        if kind != "spaces":
            raise InputError(f"--show prints a space: hwnas list spaces --show {show}")
        print(listing.space_toml(show), end="")
        return
    for name, words, settings in listing.names(kind):
        console.print(f"{name:16} {words}")
        if settings:
            console.print(f"{'':16} {name}:{settings}")


def main() -> None:
    """Run a command; an error is one line on stderr and an exit status, never a traceback."""
    sys.path.append("")  # where a user's own module:attribute lies
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    try:
        status = app(list(arguments) or ["--help"], prog_name="hwnas", standalone_mode=False)
    except HwnasError as error:
        if error.__cause__ is not None and os.environ.get("HWNAS_TRACEBACK"):
            raise
        return fail(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = STOPPED
    except Exception as error:
        if hasattr(error, "format_message"):
            return fail(usage(error, arguments), 2)
        if os.environ.get("HWNAS_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return fail(str(write_fault(error.filename or "the output", error)), 1)
        return fail(f"a fault in {origin(error)}, {type(error).__name__}: {error} (HWNAS_TRACEBACK=1 shows more)", 1)
    if status == STOPPED:  # some versions of typer turn Ctrl-C into this status
        command = arguments[0] if arguments else ""
        return fail(f"stopped; {AFTER_STOP.get(command, 'nothing was written')}", STOPPED)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
