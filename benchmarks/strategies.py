"""Every strategy at equal budgets: on NAS-Bench-Macro's published accuracies, and in a trained supernet.

    python benchmarks/strategies.py --out FILE.json [--seeds N] [--run RUN] [--workers N] [--only PART]

NAS-Bench-Macro (https://arxiv.org/abs/2103.11922) has the accuracy of all 6,561 networks of its space, each trained
alone. Printed is the rank of the best network found (1 is the best, ties take the lowest), in the mean over the seeds,
with the 95 % interval of that mean, with and without a limit at the median of multiply-accumulates. `--run` names a run
on Fashion-MNIST (those of `benchmarks/fashion_mnist.py` and `benchmarks/ranking.py` serve): every strategy then
searches it three times with 200 evaluations under one limit, each time in a copy that knows of no other search.
HWNAS_BENCH_DATA names the folder with nas_bench_macro.csv. What is done is kept beside FILE.json in FILE.parts: an
interrupted benchmark goes on where it was. `--only macro` or `--only supernet` does one of both.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # one search per core

import numpy as np

from hwnas import workflows
from hwnas.files import write_bytes
from hwnas.latency import analytic_cost
from hwnas.search import STRATEGIES, Problem, search
from hwnas.search.store import STORE
from hwnas.supernet import AdditiveCost, ChoiceSpace, SearchSpace, load_run
from hwnas.supernet.additive import additive

BUDGETS = (10, 20, 50, 100)
NETWORK_SEEDS, NETWORK_BUDGET = (0, 1, 2), 200


def main() -> None:
    """Run all searches, write their figures, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--run", type=Path, help="a supernet on Fashion-MNIST, to search as well")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--only", choices=("macro", "supernet"))
    options = parser.parse_args()
    table = Path(os.environ.get("HWNAS_BENCH_DATA", ".")) / "nas_bench_macro.csv"
    figures: dict[str, Any] = {"macro": [], "supernet": []}
    if options.only != "supernet":
        if not table.is_file():
            sys.exit(f"there is no {table}: HWNAS_BENCH_DATA must name its folder")
        figures["macro"] = on_macro(table, options)
    if options.run is not None and options.only != "macro":
        figures["supernet"] = in_supernet(options)
    write_bytes(options.out, json.dumps(figures, indent=1).encode())
    print("\n".join(macro_table(figures["macro"]) if figures["macro"] else []))
    if figures["supernet"]:
        print("\n".join(["", *supernet_table(figures["supernet"])]))


def part(options: argparse.Namespace, *name: object) -> Path:
    """The file that keeps a part of the figures."""
    return Path(options.out.with_suffix(".parts"), "-".join(map(str, name)) + ".json")


def on_macro(table: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per strategy, limit and budget: what the best network of every seed reached."""
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for strategy, limited in itertools.product(options.strategies, (False, True)):
            start, file = time.perf_counter(), part(options, "macro", strategy, limited, options.seeds)
            if file.is_file():
                rows += json.loads(file.read_text())
                continue
            jobs = [(table, strategy, limited, budget, seed) for budget in BUDGETS for seed in range(options.seeds)]
            found = list(pool.map(best_of, *zip(*jobs, strict=True), chunksize=10))
            for i, budget in enumerate(BUDGETS):
                best = found[i * options.seeds : (i + 1) * options.seeds]
                rows.append(
                    {"strategy": strategy, "limited": limited, "budget": budget, **summary(table, limited, best)}
                )
            write_bytes(file, json.dumps(rows[-len(BUDGETS) :]).encode())
            ranks = " ".join(f"{row['rank']:.1f}" for row in rows[-len(BUDGETS) :])
            print(f"{strategy} {limited}: {ranks}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


@cache
def published(table: Path) -> dict[tuple[int, ...], float]:
    """Mean accuracy, in percent, of every network."""
    with table.open() as file:
        return {tuple(map(int, row["arch"])): float(row["mean_acc"]) for row in csv.DictReader(file)}


@cache
def costs(table: Path) -> dict[tuple[int, ...], float]:
    """Multiply-accumulates of every network, as published."""
    with table.open() as file:
        return {tuple(map(int, row["arch"])): float(row["flops"]) for row in csv.DictReader(file)}


def best_of(table: Path, strategy: str, limited: bool, budget: int, seed: int) -> float:
    """The accuracy of the best network that a search finds."""
    accuracies, space = published(table), ChoiceSpace([3] * 8)
    problem = Problem(
        space,
        lambda batch: [accuracies[tuple(arch)] for arch in batch.tolist()],
        {"flops": flops_of(table, space)} if limited else {},
        {"flops": statistics.median(costs(table).values())} if limited else {},
    )
    return search(problem, strategy, budget, seed).best.accuracy


@cache
def flops_of(table: Path, space: SearchSpace) -> AdditiveCost:
    """The published multiply-accumulates as the sum over genes that they are."""
    flops = costs(table)
    cost = additive(space, lambda arch: flops[arch])
    assert cost is not None
    return cost


def summary(table: Path, limited: bool, best: list[float]) -> dict[str, float]:
    """Mean accuracy and mean rank of the best networks found, with half of their 95 % intervals."""
    accuracies, flops = published(table), costs(table)
    limit = statistics.median(flops.values()) if limited else np.inf
    truth = np.sort([accuracy for arch, accuracy in accuracies.items() if flops[arch] <= limit])
    ranks = len(truth) - np.searchsorted(truth, best, side="right") + 1
    half = {name: 1.96 * np.std(values, ddof=1) / len(best) ** 0.5 for name, values in (("r", ranks), ("a", best))}
    return {
        "accuracy": float(np.mean(best)),
        "accuracy_half": float(half["a"]),
        "rank": float(np.mean(ranks)),
        "rank_half": float(half["r"]),
    }


def macro_table(rows: list[dict[str, Any]]) -> list[str]:
    """Mean ranks by strategy and budget."""
    lines = []
    for limited in (False, True):
        lines += [
            f"| {'under a limit' if limited else 'no limit'} | "
            + " | ".join(f"{b} evaluations" for b in BUDGETS)
            + " |",
            "|---" * (len(BUDGETS) + 1) + "|",
        ]
        for strategy in dict.fromkeys(row["strategy"] for row in rows):
            cells = [
                f"{row['rank']:.1f} ± {row['rank_half']:.1f} ({row['accuracy']:.2f} %)"
                for row in rows
                if (row["strategy"], row["limited"]) == (strategy, limited)
            ]
            lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def in_supernet(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Searches of a supernet at a limit in the middle: validation accuracies, evaluation by evaluation."""
    jobs = list(itertools.product(options.strategies, NETWORK_SEEDS))
    files = [part(options, "supernet", strategy, seed) for strategy, seed in jobs]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        return list(pool.map(searched, itertools.repeat(options.run), *zip(*jobs, strict=True), files))


def searched(run: Path, strategy: str, seed: int, file: Path) -> dict[str, Any]:
    """One search in a copy of the run; its figures are kept in `file`."""
    if not file.is_file():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "run"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns(f"{STORE}*", "fronts.json", "alone", ".lock"))
            limit = limit_of(load_run(copy).load_space())
            found = workflows.search(copy, Path(folder) / "found.json", (), [limit], strategy, NETWORK_BUDGET, seed)
        # what was given up early is an estimate, and no accuracy that was reached
        accuracies = [None if e.estimated else e.accuracy for e in found.result.history]
        row = {"strategy": strategy, "seed": seed, "accuracies": accuracies, "seconds": found.found.seconds}
        write_bytes(file, json.dumps(row).encode())
    known: dict[str, Any] = json.loads(file.read_text())
    print(f"{strategy} {seed}: {best_in(known):.4f}, {known['seconds']:.0f} s", file=sys.stderr, flush=True)
    return known


def best_in(row: dict[str, Any]) -> float:
    """The best accuracy that a search reached."""
    return max(accuracy for accuracy in row["accuracies"] if accuracy is not None)


def limit_of(space: SearchSpace) -> str:
    """The median of multiply-accumulates of random networks."""
    rng = random.Random(0)
    return f"flops={np.median(analytic_cost(space, 'flops')([space.sample(rng) for _ in range(1000)])):.0f}"


def supernet_table(rows: list[dict[str, Any]]) -> list[str]:
    """Best validation accuracy, and evaluations to reach what random search reaches in the mean."""
    goal = statistics.mean([best_in(row) for row in rows if row["strategy"] == "random"] or [math.inf])
    lines = [
        f"| strategy | best validation accuracy of {NETWORK_BUDGET} | evaluations to random's best ({goal:.2%}) |",
        "|---|---|---|",
    ]
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        mine = [row for row in rows if row["strategy"] == strategy]
        best = [best_in(row) for row in mine]
        reached = list(reaching([row["accuracies"] for row in mine], goal))
        lines.append(
            f"| {strategy} | {statistics.mean(best):.2%} ({min(best):.2%}-{max(best):.2%}) | {', '.join(reached)} |"
        )
    return lines


def reaching(searches: list[list[float | None]], goal: float) -> Iterator[str]:
    """After how many evaluations each search had an accuracy of at least `goal`."""
    for accuracies in searches:
        yield next((str(i) for i, it in enumerate(accuracies, 1) if it is not None and it >= goal), "not")


if __name__ == "__main__":
    main()
