"""Commands that find a network, ship it, and show the whole way; and the list of names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import FaultError, InputError
from .options import AcceleratorOption, ResumeOption, RunOption, SeedOption, bar, console


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.")] = Path("hwnas-demo"),
    seed: SeedOption = 0,
) -> None:
    """Do everything below on bundled data, on this machine's CPU."""
    from ..demo import run_demo

    run_demo(out, seed, console, bar)


def search(
    run: RunOption,
    out: Annotated[Path, typer.Option(help="Where to write the network found (.json).")],
    table: Annotated[list[Path] | None, typer.Option(help="A latency table; may be repeated.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="flops=300M, params=5M, local=20ms; repeatable.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="A name of hwnas list strategies: evolution, with --pareto nsga2.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Architectures to evaluate, a time (10min, 2h), or converged.")] = "200",
    evaluate: Annotated[str, typer.Option(help="With the supernet's weights, or train:EPOCHS each.")] = "supernet",
    pareto: Annotated[
        str | None, typer.Option(help="Keep the front of accuracy against this cost, or NAME,NAME.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Search for another metric than that of the data.")] = None,
    device: Annotated[str | None, typer.Option(help="Measure the best there, with --verify.")] = None,
    verify: Annotated[int | None, typer.Option(help="So many; the best that measures within its limit wins.")] = None,
    accelerator: AcceleratorOption = "auto",
    seed: SeedOption = 0,
    resume: ResumeOption = False,
) -> None:
    """Find the most accurate network of a run within limits.

    What a run has evaluated in full is not evaluated again, with --resume or without; with it also what was measured
    for --verify counts.
    """
    from .. import workflows

    with workflows.joined(accelerator) as ranks, bar("searching") as progress:
        searched = workflows.search(
            run,
            out,
            table or (),
            limit or (),
            strategy,
            budget,
            seed,
            pareto,
            metric,
            progress,
            console.print,
            ranks,
            evaluate,
            device,
            verify,
            resume,
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
        seen = f", measured {found.measured[name]:.4g} ms" if name in found.measured else ""
        console.print(f"  {name} {figure.format(value)}{words}{asked}{seen}")


def export(
    found: Annotated[Path, typer.Argument(help="What hwnas search wrote (.json).")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    device: Annotated[list[str] | None, typer.Option(help="Measure the exported file there; may be repeated.")] = None,
    batch: Annotated[str, typer.Option(help="A number, or dynamic.")] = "1",
    opset: Annotated[int, typer.Option(help="The newest ONNX opset that the reader knows, 13 or more.")] = 18,
    pixels: Annotated[bool, typer.Option("--pixels", help="Read pixels 0..255, and normalise them inside.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize it, its ranges from training images.")] = False,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="With --int8: ranges around 0, as for TensorRT.")
    ] = False,
    drop: Annotated[float | None, typer.Option(help="What --int8 may lose of the metric, at most (0.005).")] = None,
    mobile: Annotated[bool, typer.Option("--mobile", help="Write ONNX Runtime's format for phones, too.")] = False,
    targets: Annotated[
        str | None,
        typer.Option(help="Other readers of the file: openvino, ncnn=/env/bin/python, ...; hwnas list targets."),
    ] = None,
) -> None:
    """Write a found network as ONNX, with proof.

    A certificate (.json) and a model card (.md) go beside it: outputs compared, test accuracy, and latency measured on
    the exported file. Where they are not what was promised, all is written under names that end in .rejected, and the
    exit status is 1.
    """
    from .. import workflows

    if batch != "dynamic" and not (batch.isdecimal() and int(batch) > 0):
        raise InputError(f"--batch {batch} is neither a positive number nor dynamic")
    if (symmetric or drop is not None) and not int8:
        raise InputError("--symmetric and --drop are for quantized networks: give them with --int8")
    lost = workflows.Shipping.drop if drop is None else drop
    if not 0 <= lost < 1:
        raise InputError(f"--drop {drop} is no fraction of the metric: 0.005 is half a point")
    readers = () if targets is None else workflows.parse_targets(targets)
    size = None if batch == "dynamic" else int(batch)
    shipping = workflows.Shipping(size, opset, pixels, int8, symmetric, lost, mobile, readers)
    with bar("exporting") as progress:
        proof = workflows.export(found, out, device, shipping, progress)
    for line in workflows.proof_lines(proof, out):
        console.print(line)
    if proof.rejected:
        raise FaultError(f"{out} is rejected ({'; '.join(proof.rejected)}): it was written as {out}.rejected")


def list_names(
    kind: Annotated[str, typer.Argument(help="spaces, data, devices, strategies or targets.")],
    show: Annotated[str | None, typer.Option(help="Print this space as TOML, a start for one of your own.")] = None,
) -> None:
    """List the names that the other commands know."""
    from .. import listing

    if show is not None:
        if kind != "spaces":
            raise InputError(f"--show prints a space: hwnas list spaces --show {show}")
        print(listing.space_toml(show), end="")
        return
    for name, words, settings in listing.names(kind):
        console.print(f"{name:17} {words}")
        if settings:
            console.print(f"{'':17} {name}:{settings}")
