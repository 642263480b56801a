"""The demonstration: the main job from end to end on bundled data, on this machine's CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Column, Table

from . import workflows
from .export import Certificate
from .files import write_bytes
from .progress import Progress
from .report import fields_of, networks_of, read_inputs, save_chart, search_chart
from .search.found import Found
from .supernet import TrainSettings, load_run, load_supernet
from .supernet.evaluation import accuracy, bn_images, calibrated_subnet

SPACE = "mobilenet:size=32,channels=1,classes=10,stem=8,widths=12-24-48,depths=2-3-3,head=128"
SETTINGS = TrainSettings(epochs=25, batch=32)
BUDGET, RANDOM_BUDGET = 100, 20
UNSEEN = 12  # networks that tell what the table is worth
DEVICE = "local:tolerance=0.25"  # a table also on a busy machine: its intervals tell
SHARES = {"small": 0.15, "medium": 0.45, "large": 0.9}  # limits: shares of the range that the table spans
CHOSEN = "medium"

Bar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Row:
    """One limit of the demonstration: the network found for it, and its proof."""

    name: str
    found: Found
    proof: Certificate


def run_demo(out: Path, seed: int, console: Console, bar: Bar) -> None:
    """Train, profile, validate, search at three limits, export and prove; leave everything in the folder `out`."""
    started = time.perf_counter()
    with bar("training") as progress:
        settings = TrainSettings(**{**vars(SETTINGS), "seed": seed})
        workflows.train(SPACE, "digits", out / "run", settings, resume=True, progress=progress)
    console.print(f"trained one supernet of {load_run(out / 'run').load_space().size():,} networks: {out / 'run'}")
    with bar("profiling") as progress:
        table = workflows.profile(str(out / "run"), DEVICE, out / "local.json", resume=True, progress=progress)
    assert table.cost is not None
    low, high = table.cost.bounds()
    console.print(
        f"profiled {len(table.entries)} layers; networks take {low:.3f} to {high:.3f} ms: {out / 'local.json'}"
    )
    with bar("validating") as progress:
        checked = workflows.validate(
            str(out / "run"),
            out / "local.json",
            DEVICE,
            UNSEEN,
            0,
            out / "validation.json",
            progress,
            console.print,
            resume=True,
        )
    fit = "fit" if checked.fit_for_use else "NOT fit"
    console.print(
        f"measured {checked.nets} networks that the table had never seen: it errs by {checked.mape:.1%} in the mean, "
        f"{checked.within_10:.0%} lie within 10 %; it is {fit} for use"
    )
    rows = []
    for name, share in SHARES.items():
        limit = f"local={low + share * (high - low):.4f}ms"
        with bar("searching") as progress:
            found = _search(out, name, limit, "evolution", BUDGET, seed, progress)
        with bar("exporting") as progress:
            proof = workflows.export(_found(out, name), out / f"{name}.onnx", DEVICE, progress=progress)
        kept = f".rejected ({'; '.join(proof.rejected)})" if proof.rejected else ""
        console.print(f"searched and exported under {limit}: {out / name}.onnx{kept}")
        rows.append(Row(name, found, proof))
    chosen = next(row for row in rows if row.name == CHOSEN)
    with bar("random") as progress:
        baseline = _search(
            out, "random", f"local={chosen.found.limits['local']}ms", "random", RANDOM_BUDGET, seed, progress
        )
    _show(out, console, rows, baseline, time.perf_counter() - started)


def _found(out: Path, name: str) -> Path:
    """Where a search's result lies: not where the certificate of its export goes."""
    return out / f"{name}-found.json"


def _search(out: Path, name: str, limit: str, strategy: str, budget: int, seed: int, progress: Progress) -> Found:
    return workflows.search(
        out / "run",
        _found(out, name),
        [out / "local.json"],
        [limit],
        strategy,
        budget,
        seed,
        progress=progress,
    ).found


def _show(
    out: Path,
    console: Console,
    rows: list[Row],
    baseline: Found,
    seconds: float,
) -> None:
    """Print the result, and write it as a report, a picture and a Markdown table."""
    proofs = [out / f"{row.name}.json{'.rejected' * bool(row.proof.rejected)}" for row in rows]
    made = [
        out / "run",
        out / "local.json",
        out / "validation.json",
        *(_found(out, name) for name in (*SHARES, "random")),
        *proofs,
    ]
    workflows.report(made, out / "report.html")
    inputs = read_inputs(made)
    (field,) = fields_of(inputs, networks_of(inputs))  # one device
    save_chart(search_chart(field), out / "demo.png")
    header, lines = _table(rows)
    # no padding: the table must fit 80 columns
    screen = Table(*(Column(name, no_wrap=True, justify="right") for name in header), box=box.SIMPLE, padding=0)
    for line in lines:
        screen.add_row(*line)
    console.print(screen)
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---:"] * len(header), *lines))
    write_bytes(out / "demo.md", f"{text}\n".encode())
    chosen = next(row for row in rows if row.name == CHOSEN)
    low, high = chosen.proof.accuracy_interval
    console.print(
        f"\n{CHOSEN}: test accuracy {chosen.proof.accuracy_onnx:.4f} (95 % interval {low:.4f} to {high:.4f}, "
        f"{chosen.proof.test_images} images); the best of {RANDOM_BUDGET} random networks under the same limit: "
        f"{_test_accuracy(out, baseline):.4f}"
    )
    console.print(f"outputs of supernet, subnet and ONNX Runtime differ by {chosen.proof.max_abs_diff:.1e} at most")
    console.print(f"{seconds:.0f} s in all; the certificates: {out}/*.onnx's .json, a picture: {out / 'demo.png'}")
    console.print(f"the report, for any browser: {out / 'report.html'}")


def _table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    header = ["network", "limit ms", "promised ms", "measured", "kept", "val", "test", "MMACs", "Kparams"]
    lines = []
    for row in rows:
        times, costs = row.proof.latency["local"], row.found.costs
        cells = [
            row.name,
            f"{row.found.limits['local']:.3f}",
            f"{times.predicted_ms:.3f} ({times.low_ms:.3f}-{times.high_ms:.3f})",
            f"{times.measured_ms:.3f}",
            {True: "yes", False: "NO", None: "?"}[row.proof.within_limits],
            f"{row.found.accuracy:.3f}",
            f"{row.proof.accuracy_onnx:.3f}",
            f"{costs['flops'] / 1e6:.2f}",
            f"{costs['params'] / 1e3:.0f}",
        ]
        lines.append(cells)
    return header, lines


def _test_accuracy(out: Path, found: Found) -> float:
    """Test accuracy of a network with inherited weights."""
    run = load_run(out / "run")
    supernet = load_supernet(run.folder)
    data = workflows.run_data(run, supernet.space)
    subnet = calibrated_subnet(supernet, found.arch, bn_images(data, run.train["seed"]))
    return accuracy(subnet, data, data.test)
