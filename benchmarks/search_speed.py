"""What a search costs beside the evaluation of accuracies, and what that costs beside plain inference.

    python benchmarks/search_speed.py [--run RUN]

Draws under a limit that one network in a million keeps; `evolution` at OFA's setting (population 100, 500 generations,
a limit at the median) with an accuracy that is free; and with `--run` (a supernet that `hwnas train` made) candidates
per second with inherited weights, against plain inference of the same networks on the same images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from hwnas import workflows
from hwnas.search import Evolution, Feasible, Problem, search
from hwnas.supernet import AdditiveCost, ChoiceSpace, load_run, load_supernet
from hwnas.supernet.evaluation import BATCH, bn_images, calibrated_subnet, inherited_accuracy
from hwnas.supernet.prefixes import SharedPrefixes

CHOICES, OPTIONS = 20, 4  # 10^12 architectures
DRAWS = 10_000
POPULATION, GENERATIONS = 100, 500
CANDIDATES, NETWORKS = 80, 8  # evaluated, and of these measured by themselves


def main() -> None:
    """Print a line for each figure: medians of three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(feasible_draws())
    print(machinery())
    if options.run is not None:
        print(evaluation(options.run))


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


if __name__ == "__main__":
    main()
