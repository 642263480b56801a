"""How many architectures per second a latency table prices, in bulk and one by one.

    python benchmarks/pricing.py [--space SPACE] [--archs N]

The table's times are made up: pricing doesn't depend on them. Bar: 1,000,000 per second in bulk.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import numpy as np

from hwnas.latency.calibration import Calibration
from hwnas.latency.table import Entry, LatencyTable
from hwnas.supernet import load_space


def main() -> None:
    """Print both figures, and check that they agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="mobilenet")
    parser.add_argument("--archs", type=int, default=1_000_000)
    options = parser.parse_args()
    space, rng = load_space(options.space), random.Random(0)
    entries = {layer: Entry(rng.random(), 0.0, 1.0, 1) for layer in space.layers()}
    table = LatencyTable({"name": "made-up"}, space, entries, Calibration(0.95, 0.1, 0.02, 0.0), 1.0)
    start = time.perf_counter()
    table.cost  # noqa: B018 - computed once, when first asked for
    print(f"the table as a sum over genes: {time.perf_counter() - start:.3f} s, once")
    archs = np.random.default_rng(0).integers(0, space.options, (options.archs, len(space.options)))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        bulk = table.predict_many(archs)
        seconds.append(time.perf_counter() - start)
    print(f"in bulk: {options.archs / statistics.median(seconds):,.0f} architectures/s (median of 5)")
    start = time.perf_counter()
    single = [table.predict(arch).ms for arch in archs[:2000]]
    print(f"one by one: {2000 / (time.perf_counter() - start):,.0f} architectures/s")
    assert np.allclose(bulk[:2000], single)


if __name__ == "__main__":
    main()
