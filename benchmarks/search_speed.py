"""What a search costs beside the evaluation of accuracies, and what that costs beside plain inference.

    python benchmarks/search_speed.py [--run RUN] [--table TABLE.json]

Draws under a limit that one network in a million keeps; `evolution` at OFA's setting (population 100, 500 generations,
a limit at the median) with an accuracy that is free; and with `--run` (a supernet that `hwnas train` made) candidates
per second with inherited weights, against plain inference of the same networks on the same images; how much faster it
is to give up hopeless candidates, and what that changes; how well rankings hold with fewer images for the statistics;
and with `--table` (of this machine) the minutes to a verified network.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy.stats import kendalltau

from hwnas import workflows
from hwnas.latency import LatencyTable
from hwnas.search import EvaluationStore, Evolution, Feasible, Problem, RacedAccuracy, search
from hwnas.search.racing import Racer, Right, raced
from hwnas.supernet import AdditiveCost, ChoiceSpace, load_run, load_supernet
from hwnas.supernet.evaluation import BATCH, bn_images, calibrated_subnet, inherited_accuracy
from hwnas.supernet.prefixes import SharedPrefixes

CHOICES, OPTIONS = 20, 4  # 10^12 architectures
DRAWS = 10_000
POPULATION, GENERATIONS = 100, 500
IMAGES, RANKED = (256, 512, 1024, 2048, 8192), 40
CANDIDATES, NETWORKS = 80, 8  # evaluated, and of these measured by themselves
SEEDS = 5  # of searches with and without racing


def main() -> None:
    """Print a line for each figure: medians of three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(feasible_draws())
    print(machinery())
    if options.run is not None:
        print(evaluation(options.run))
        print(racing(options.run))
        print(statistics_images(options.run))
        if options.table is not None:
            print(verified(options.run, options.table))


def table_of(seed: int) -> AdditiveCost:
    """Latencies of a chain: options, and what neighbours cost together."""
    rng = np.random.default_rng(seed)
    pairs = tuple(0.3 * rng.random((OPTIONS, OPTIONS)) for _ in range(CHOICES - 1))
    return AdditiveCost(1.0, tuple(rng.random(OPTIONS) for _ in range(CHOICES)), pairs)


def feasible_draws() -> str:
    """Seconds for distinct architectures within a limit that one in a million keeps."""
    cost, space = table_of(0), ChoiceSpace([OPTIONS] * CHOICES)
    sample = cost(np.random.default_rng(1).integers(OPTIONS, size=(2_000_000, CHOICES)))
    limit = float(np.quantile(sample, 1e-6))
    seconds = []
    for seed in range(3):
        start = time.perf_counter()
        feasible = Feasible(Problem(space, len, {"ms": cost}, {"ms": limit}))
        rng, found = np.random.default_rng(seed), set[tuple[int, ...]]()
        while len(found) < DRAWS:
            found.update(feasible.sample(rng, DRAWS))
        seconds.append(time.perf_counter() - start)
        assert (cost(list(found)) <= limit).all()
    share = feasible.completions.share if feasible.completions else 1.0
    return (
        f"space of {OPTIONS**CHOICES:.0e}, a limit that {share:.1e} of it keeps: {DRAWS:,} distinct ones within it "
        f"in {statistics.median(seconds):.2f} s"
    )


def machinery() -> str:
    """Candidates per second of evolution where accuracy is free."""
    cost, space = table_of(2), ChoiceSpace([OPTIONS] * CHOICES)
    limit = float(np.median(cost(np.random.default_rng(3).integers(OPTIONS, size=(20_000, CHOICES)))))
    worth = np.random.default_rng(4).random((CHOICES, OPTIONS))
    problem = Problem(space, lambda batch: worth[np.arange(CHOICES), batch].sum(1), {"ms": cost}, {"ms": limit})
    speeds, priced = [], []
    for seed in range(3):
        start = time.perf_counter()
        found = search(problem, Evolution(population=POPULATION, parents=25), POPULATION * GENERATIONS, seed)
        speeds.append(len(found.history) / (time.perf_counter() - start))
        priced.append(found.priced / (time.perf_counter() - start))
    return (
        f"evolution, population {POPULATION}, {GENERATIONS} generations, a limit at the median: "
        f"{statistics.median(speeds):,.0f} evaluated candidates/s ({statistics.median(priced):,.0f} priced)"
    )


def evaluation(run: Path) -> str:
    """Candidates of an evolution per second, what they share computed once, beside plain inference of some of them."""
    supernet, trained = load_supernet(run), load_run(run)
    data = workflows.run_data(trained, supernet.space)
    images = bn_images(data, 0)
    batches = [data.normalise(data.val.images[i : i + BATCH]) for i in range(0, len(data.val), BATCH)]
    batches += list(images.split(BATCH))
    shared = SharedPrefixes(supernet, data, images)
    problem = Problem(supernet.space, lambda archs: (shared(tuple(map(int, arch))) for arch in archs))
    found = search(problem, "evolution", CANDIDATES)
    by_search, alone, plain = found.seconds / CANDIDATES, [], []
    for evaluated in found.history[:: CANDIDATES // NETWORKS]:
        start = time.perf_counter()
        inherited_accuracy(supernet, data, images, evaluated.arch)
        middle = time.perf_counter()
        subnet = calibrated_subnet(supernet, evaluated.arch, images)
        begun = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                subnet(batch)
        alone.append(middle - start)
        plain.append(time.perf_counter() - begun)
    common = shared.shared / (shared.shared + shared.computed)
    return (
        f"{CANDIDATES} candidates of an evolution, {len(data.val):,} validation images, statistics of {len(images):,}: "
        f"{1 / by_search:.2f} candidates/s of one core, {common:.0%} of the layers those of the last network; each by "
        f"itself {1 / statistics.mean(alone):.2f}/s, plain inference of these images {1 / statistics.mean(plain):.2f}/s"
    )


def racing(run: Path) -> str:
    """How many times as fast searches are in which hopeless candidates are given up, and whether they find the same."""
    supernet, trained = load_supernet(run), load_run(run)
    data = workflows.run_data(trained, supernet.space)
    images, seconds, races = bn_images(data, 0), dict[int | None, list[float]](), []
    inherited_accuracy(supernet, data, images, supernet.space.sample(random.Random(0)))  # what is first is slower
    with tempfile.TemporaryDirectory() as folder, EvaluationStore(Path(folder) / "store.sqlite") as store:
        for seed in range(SEEDS):
            results = []
            for place in (None, 1):  # next to each other, in processor time: a busy machine disturbs both alike
                evaluate = raced_by(SharedPrefixes(supernet, data, images))
                accuracy = RacedAccuracy(store, f"{seed} {place}", len(data.val), evaluate, place=place)
                start = time.process_time()
                results.append(search(Problem(supernet.space, accuracy), "evolution", CANDIDATES, seed))
                seconds.setdefault(place, []).append(time.process_time() - start)
            races.append(results)
    regrets = [whole.best.accuracy - raced.best.accuracy for whole, raced in races]
    given_up = statistics.mean(e.estimated for _, raced in races for e in raced.history)
    ratios = [whole / raced for whole, raced in zip(seconds[None], seconds[1], strict=True)]
    return (
        f"{SEEDS} evolutions of {CANDIDATES} candidates, {given_up:.0%} of them given up early: "
        f"{SEEDS * CANDIDATES / sum(seconds[1]):.2f} candidates/s of one core, {statistics.median(ratios):.2f} times "
        f"as many as in full; the winner is less accurate by {statistics.mean(regrets):.2%} in the mean, "
        f"{max(regrets):.2%} at most, and the same in {sum(w.best.arch == r.best.arch for w, r in races)}"
    )


def raced_by(shared: SharedPrefixes) -> Callable[[list[Racer]], Iterator[Right]]:
    """Evaluates candidates against their rivals."""
    return lambda racers: (raced(partial(shared.right, arch), rival, known) for arch, known, rival in racers)


def statistics_images(run: Path) -> str:
    """Kendall tau of rankings with fewer images for the batch norms' statistics, against four times as many."""
    supernet, trained = load_supernet(run), load_run(run)
    data = workflows.run_data(trained, supernet.space)
    archs = [supernet.space.sample(random.Random(seed)) for seed in range(RANKED)]
    values = {}
    for count in IMAGES:
        evaluate = SharedPrefixes(supernet, data, bn_images(data, 0, count))
        values[count] = dict(zip(sorted(archs), map(evaluate, sorted(archs)), strict=True))
    most = [values[IMAGES[-1]][arch] for arch in archs]
    told = []
    for count in IMAGES[:-1]:
        fewer = [values[count][arch] for arch in archs]
        loss = statistics.mean(most) - statistics.mean(fewer)
        told.append(f"{count}: Kendall tau {kendalltau(fewer, most).statistic:.3f}, accuracy {-loss:+.2%}")
    return f"{RANKED} networks by images for statistics, against {IMAGES[-1]}: {'; '.join(told)}"


def verified(run: Path, table: Path) -> str:
    """Minutes from a table to a network that was measured within its limit."""
    cost = LatencyTable.load(table).upper_sum
    assert cost is not None
    limit = f"local={sum(cost.bounds()) / 2:.6f}ms"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = workflows.search(
            run, Path(folder) / "found.json", [table], [limit], "predictor", 100, device="local", verify=3
        ).found
    minutes = (time.perf_counter() - start) / 60
    return (
        f"from a table to a verified network: {minutes:.1f} minutes ({found.evaluations} evaluations, {found.reused} "
        f"known before; {limit}, measured {found.measured['local']:.4g} ms)"
    )


if __name__ == "__main__":
    main()
