"""Which way of training a supernet ranks its networks best: every rule and way of sharing, in the same time.

    python benchmarks/ranking.py --out FOLDER [--truth FILE.csv] [--minutes N] [--epochs N] [--workers N]

The truth are networks of the space in `ranking.toml` trained alone on Fashion-MNIST (14 pixels) until their validation
accuracy no longer rises, a third of them with a second seed: `--truth` reads them from a CSV (that of this folder, if
it is there; `--truth none` makes it anew), else they are trained, once: all at once on a GPU, or one per core. Their
curves are drawn. Then each supernet is trained for as long as the others (`--minutes` of one core) and ranked against
the truth, also among networks of equal latency on this machine, which is profiled for that. Every step is kept in
FOLDER: an interrupted benchmark goes on where it was, and with another truth nothing is trained anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # one core per network: two torch processes of two threads fight

import altair as alt
import numpy as np
import pandas as pd
import torch
from graphs import trained_at_once

from hwnas import workflows
from hwnas.files import digest, write_bytes
from hwnas.latency import analytic_cost, spread
from hwnas.progress import silent
from hwnas.supernet import Run, SearchSpace, TrainSettings, load_data, load_run, load_space
from hwnas.supernet.checkpoint import read_metrics
from hwnas.supernet.data import data_record
from hwnas.supernet.ranking import difference
from hwnas.supernet.ranks import CPU
from hwnas.supernet.space import Arch
from hwnas.supernet.spaces import space_record
from hwnas.workflows.evaluating import train_alone
from hwnas.workflows.ranking import test_accuracy

HERE = Path(__file__).parent
SPACE, TRUTH, DATA = str(HERE / "ranking.toml"), HERE / "ranking.truth.csv", "fashion-mnist"
TABLE = "local.json"  # in FOLDER
NETS, AGAIN, LONGER = 60, 20, 6
SETTINGS = TrainSettings(batch=64, lr=0.2, augment=False)
RULES, SHARING = ("uniform", "fair", "sandwich"), ("entangled", "blocks")
LARGEST_FIRST, LONGER_TIME = 0.25, 2  # in two more ways, of the first rule and sharing: of the steps; times as long
PROBE_EPOCHS = 1  # tells how long an epoch takes
Job = tuple[Arch, int, int]  # an architecture, the seed and the epochs of its training


@dataclass(frozen=True)
class Way:
    """How a supernet is trained: by a rule, with weights shared in a way, and for so many times the usual time."""

    rule: str
    sharing: str
    largest_first: float = 0.0
    times: int = 1

    @property
    def name(self) -> str:
        """As files are called."""
        return (
            f"{self.rule}-{self.sharing}" + "-largest-first" * bool(self.largest_first) + "-longer" * (self.times > 1)
        )

    @property
    def words(self) -> str:
        """As the table calls the rule."""
        first = f", the largest path alone for the first {self.largest_first:.0%}" * bool(self.largest_first)
        return f"{self.rule}{first}" + f", {self.times} times as long" * (self.times > 1)


WAYS = (
    *(Way(rule, sharing) for rule, sharing in itertools.product(RULES, SHARING)),
    Way(RULES[0], SHARING[0], largest_first=LARGEST_FIRST),
    Way(RULES[0], SHARING[0], times=LONGER_TIME),
)


def main() -> None:
    """Make the truth if there is none, train the supernets that are not trained yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--truth", type=Path, default=TRUTH if TRUTH.is_file() else None)
    parser.add_argument("--minutes", type=float, default=12, help="of one core, for each supernet")
    parser.add_argument("--epochs", type=int, default=24, help="of each network alone")
    parser.add_argument("--nets", type=int, default=NETS)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.truth is None or str(options.truth) == "none":
        options.truth = options.out / TRUTH.name
    if not options.truth.is_file():
        make_truth(options)
    if not (options.out / TABLE).is_file():
        workflows.profile(SPACE, "local", options.out / TABLE, resume=True)
    ways = sorted(WAYS, key=lambda way: -way.times)  # what takes longest first
    jobs = [(options.out, options.truth, way, options.minutes, options.data_dir) for way in ways]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        done = dict(zip(ways, pool.map(ranked, *zip(*jobs, strict=True)), strict=True))
    found = [done[way] for way in WAYS]
    again = pd.read_csv(options.truth, dtype={"arch": str}).set_index("arch").get("again", pd.Series(dtype=float))
    print("\n".join(table(found, again.dropna().to_dict())))


def make_truth(options: argparse.Namespace) -> None:
    """Train the networks of the truth alone, and write what they reach, with their curves.

    Some are trained a second time with another seed, and some with twice the epochs: these tell whether it is the end.
    """
    space = load_space(SPACE)
    archs = spread(space, analytic_cost(space, "flops"), options.nets, seed=0)
    again, longer = (archs[:: max(1, round(options.nets / few))] for few in (AGAIN, LONGER))
    twice = 2 * options.epochs
    jobs = [(arch, 0, twice) for arch in longer]  # first, as they take longest
    jobs += [(arch, 0, options.epochs) for arch in archs] + [(arch, 1, options.epochs) for arch in again]
    found = at_once(space, jobs, options) if torch.cuda.is_available() else one_by_one(jobs, options)
    write_bytes(options.out / "truth.json", json.dumps({"jobs": jobs, "reached": found}).encode())
    reached = dict(zip(jobs, found, strict=True))
    first, second, end = (
        {arch: reached[arch, seed, epochs]["test"] for arch in nets}
        for nets, seed, epochs in ((archs, 0, options.epochs), (again, 1, options.epochs), (longer, 0, twice))
    )
    rows = [
        {"arch": "-".join(map(str, arch)), "accuracy": test, "again": second.get(arch), "longer": end.get(arch)}
        for arch, test in first.items()
    ]
    write_bytes(options.truth, pd.DataFrame(rows).to_csv(index=False).encode())
    curves = [reached[arch, 0, options.epochs]["val"] for arch in archs]
    draw_curves(curves, options.out / "curves.png")
    last, quarter = [curve[-1] for curve in curves], options.epochs // 4
    rise = statistics.mean(curve[-1] - curve[-1 - quarter] for curve in curves)
    noise = statistics.mean(abs(first[arch] - test) for arch, test in second.items())
    more = [test - first[arch] for arch, test in end.items()]
    print(
        f"truth: {len(archs)} networks, validation {min(last):.3f} to {max(last):.3f}; in the last {quarter} of "
        f"{options.epochs} epochs they rose by {rise:.4f} in the mean; on test images two seeds differ by {noise:.4f}, "
        f"networks by {statistics.stdev(first.values()):.4f} (deviation); twice the epochs change {len(more)} of them "
        f"by {statistics.mean(more):+.4f} in the mean ({min(more):+.4f} to {max(more):+.4f})"
    )


def at_once(space: SearchSpace, jobs: Sequence[Job], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All networks of as many epochs trained beside one another on a GPU."""
    data, reached = load_data(DATA, space, 0, options.data_dir), dict[Job, dict[str, Any]]()
    for epochs in dict.fromkeys(epochs for *_, epochs in jobs):
        some = [job for job in jobs if job[2] == epochs]
        found = trained_at_once(space, data, [job[:2] for job in some], replace(SETTINGS, epochs=epochs))
        reached |= zip(some, found, strict=True)
    return [reached[job] for job in jobs]


def one_by_one(jobs: Sequence[Job], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each network trained by itself, one per core."""
    arguments = [(options.out, *job, options.data_dir) for job in jobs]
    with ProcessPoolExecutor(options.workers, get_context("spawn"), max_tasks_per_child=10) as pool:
        return list(pool.map(trained, *zip(*arguments, strict=True)))


def trained(out: Path, arch: Arch, seed: int, epochs: int, data_dir: Path | None) -> dict[str, Any]:
    """One network alone: its test accuracy, and its validation accuracy after each epoch."""
    run = template(out, data_dir)
    space = run.load_space()
    data = workflows.run_data(run, space)
    settings = replace(SETTINGS, epochs=epochs, seed=seed)
    alone, network = train_alone(run, space, data, arch, settings, silent, CPU)
    test = test_accuracy(network, data, arch, seed)
    print(f"{arch} seed {seed}, {epochs} epochs: {test:.4f}", flush=True)
    return {"test": test, "val": [line["val_accuracy"] for line in read_metrics(alone.folder)]}


def template(out: Path, data_dir: Path | None) -> Run:
    """A run that only says which space and which data the networks of the truth have."""
    folder = out / "truth"
    if not (folder / "run.json").is_file():
        space = load_space(SPACE)
        data = load_data(DATA, space, 0, data_dir)
        where = str(data_dir.resolve()) if data_dir else None
        Run(folder, space_record(space), data_record(data), where, "entangled", asdict(SETTINGS)).save()
    return load_run(folder)


def ranked(out: Path, truth: Path, way: Way, minutes: float, data_dir: Path | None) -> dict[str, Any]:
    """A supernet trained for so many minutes in a way, and how it ranks the networks of the truth."""
    file, sharing = out / f"{way.name}.json", way.sharing
    inputs = digest(truth.read_bytes(), (out / TABLE).read_bytes())
    made_as = {"minutes": minutes, "inputs": inputs, "settings": asdict(SETTINGS)}
    if not file.is_file() or json.loads(file.read_text()).get("made_as") != made_as:
        settings = replace(SETTINGS, sampling=way.rule, largest_first=way.largest_first, epochs=PROBE_EPOCHS)
        probe = out / f"{way.name}-probe"
        seconds = workflows.last_metrics(
            workflows.train(SPACE, DATA, probe, settings, sharing=sharing, data_dir=data_dir, resume=True)
        )["seconds"]
        epochs = max(1, round(60 * minutes * way.times / seconds))
        run = out / f"{way.name}-{epochs}"
        workflows.train(
            SPACE, DATA, run, replace(settings, epochs=epochs), sharing=sharing, data_dir=data_dir, resume=True
        )
        report = workflows.rank(run, truth=truth, table=out / TABLE)
        spent = sum(line["seconds"] for line in read_metrics(run))
        made = {**asdict(report), "epochs": epochs, "minutes": spent / 60, "made_as": made_as}
        write_bytes(file, json.dumps(made).encode())
    found: dict[str, Any] = {"rule": way.words, "sharing": sharing, **json.loads(file.read_text())}
    print(f"{way.name}: tau {found['supernet']['tau']['value']:.3f}", file=sys.stderr, flush=True)
    return found


def table(found: Sequence[dict[str, Any]], again: Mapping[str, float]) -> list[str]:
    """One row per way, then what all of them are held against: `again` is what some networks reached a second time."""
    lines = [
        "| training | sharing | epochs, minutes | Kendall tau | above the first | at equal latency | above the first "
        "| regret | best network |",
        "|---" * 9 + "|",
    ]
    first = found[0]
    for one in found:
        best, took = max(net["inherited"] for net in one["networks"]), f"{one['epochs']}, {one['minutes']:.0f}"
        apart = {} if one is first else above(series(one, "inherited"), first)
        lines.append(f"| {one['rule']} | {one['sharing']} | {took} | {words(one['supernet'], apart)} | {best:.1%} |")
    for name, key in (("batch norms not re-estimated (of the first)", "without_bn"), ("size alone", "flops")):
        lines.append(f"| {name} |  |  | {words(first[key], above(series(first, key), first))} |  |")
    if first["ceiling"]:
        repeated = {tuple(map(int, genes.split("-"))): value for genes, value in again.items()}
        lines.append(f"| alone again: the ceiling |  |  | {words(first['ceiling'], above(repeated, first))} |  |")
    return [*lines, "", f"pairs of networks at equal latency: {first['supernet']['pairs_in_bands']}"]


def series(one: dict[str, Any], key: str) -> dict[Arch, float]:
    """What one way of training says of each network."""
    return {tuple(net["arch"]): net[key] for net in one["networks"]}


def above(said: Mapping[Arch, float], first: dict[str, Any]) -> dict[str, Any]:
    """By how much something ranks the networks of which it is `said` better than the first way does: the same ones."""
    nets = [net for net in first["networks"] if tuple(net["arch"]) in said]
    truth, inherited, costs = (np.array([net[key] for net in nets]) for key in ("accuracy", "inherited", "cost"))
    return asdict(difference([said[tuple(net["arch"])] for net in nets], inherited, truth, costs))


def words(ranking: dict[str, Any], apart: dict[str, Any]) -> str:
    """The figures of a ranking, each with its interval, and after both taus how far they are above another's."""
    figures = [written(ranking["tau"]), written(apart.get("tau"))]
    figures += [written(ranking["tau_in_bands"]), written(apart.get("tau_in_bands")), written(ranking["regret"])]
    return " | ".join(figures)


def written(figure: dict[str, float] | None) -> str:
    """A figure with its interval: `0.661 (0.559 to 0.754)`."""
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" if figure else ""


def draw_curves(curves: Sequence[Sequence[float]], path: Path) -> None:
    """Validation accuracy of each network alone, epoch by epoch."""
    rows = [(n, e, value) for n, curve in enumerate(curves) for e, value in enumerate(curve, 1)]
    points = pd.DataFrame(rows, columns=["network", "epoch", "accuracy"])
    chart = (
        alt.Chart(points)
        .mark_line(opacity=0.5)
        .encode(
            alt.X("epoch:Q", title="epoch"),
            alt.Y("accuracy:Q", title="validation accuracy", scale=alt.Scale(zero=False)),
            alt.Color("network:N", legend=None),
        )
        .properties(width=520, height=340, title="Networks trained alone")
    )
    chart.save(str(path), scale_factor=1.5)


if __name__ == "__main__":
    main()
