"""Commands that measure on a device: a latency table, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .options import DeviceOption, ResumeOption, SeedOption, SpaceOption, bar, console

VAGUE = 0.1  # from this interval on, a table from a few networks is said to be vague
RESTLESS = 0.1  # from this half width of a layer's interval on, the user is told


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
    from .. import workflows

    with bar("profiling") as progress:
        table = workflows.profile(space, device, out, resume, earlier or (), networks, sustained, seed, progress)
    for layer, reason in table.rejected.items():
        said = f"{layer} is left out, as {reason}" if earlier else f"{table.name} can't run {layer}: {reason}"
        console.print(f"{said}; no network with it will be found for {table.name}")
    if not table.timed:
        console.print(
            f"{out}: {table.name} compiles {len(table.entries) - len(table.rejected)} layers; it has no times"
        )
        return
    fit = table.calibration
    measured = sum(entry.rounds > 0 for entry in table.entries.values())
    known = f"upper end of the interval +{fit.margin:.1%}"
    if earlier:
        told = f"told by {len(fit.networks)} networks (each missed by {table.told_error:.1%} without it, in the mean)"
        console.print(f"{out}: {measured} layers on {table.name}, {told}, {known}")
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
    if table.device["label"] == "emulated":
        console.print(f"{table.name} is emulated: these times are no latency of any device")


def validate(
    space: SpaceOption,
    table: Annotated[Path, typer.Option(help="The latency table.")],
    device: DeviceOption,
    nets: Annotated[int, typer.Option(min=3, help="How many networks to measure, twice.")] = 20,
    pause: Annotated[float, typer.Option(min=0, help="Seconds at least between the two measurements.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures (.json).")] = None,
    resume: ResumeOption = False,
) -> None:
    """Compare a table with whole networks that it has never seen.

    They are measured twice, some time apart: that difference is the floor for any prediction.
    """
    from .. import workflows

    with bar("validating") as progress:
        found = workflows.validate(space, table, device, nets, pause, out, progress, console.print, resume)
    rows = Table("", "predicted", "measured twice (the floor)", title=f"{found.nets} networks on {device}")
    floor_mape, floor_tau = (
        "" if x is None else f"{x:{s}}" for x, s in ((found.floor_mape, ".2%"), (found.floor_tau, ".3f"))
    )
    rows.add_row("mean error", f"{found.mape:.2%}", floor_mape)
    rows.add_row("Kendall tau", f"{found.kendall_tau:.3f}", floor_tau)
    rows.add_row("within 5 %", f"{found.within_5:.1%}", "")
    rows.add_row("within 10 %", f"{found.within_10:.1%}", "")
    rows.add_row("90 % intervals hold", f"{found.interval_coverage:.1%}", "")
    rows.add_row("within what is promised", f"{found.kept:.1%}", "")
    console.print(rows)
    if found.predictors:
        words = ", ".join(f"{name} {score.mape:.2%}" for name, score in found.predictors.items())
        best = min(found.predictors, key=lambda name: found.predictors[name].mape)
        console.print(f"mean error if fitted to four fifths of them: {words}; {best} predicts best")
    console.print(f"the table is {'fit' if found.fit_for_use else 'NOT fit'} for use ({found.seconds:.0f} s)")
