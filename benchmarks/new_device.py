"""How well ten measured networks tell what a new device takes for all others, on published measurements.

    python benchmarks/new_device.py [--data FILE.npz] [--networks N] [--seeds N]

Each device of HELP's NAS-Bench-201 table (https://github.com/HayeonLee/HELP) is new once, and all devices of its
family are left out of what is known before. Cells of nearly 0 ms are dropped, and the two columns that are sums
of tables instead of measurements. Printed are Spearman's rank correlation and the share of networks within 10 %.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from hwnas.latency.calibration import interval
from hwnas.latency.design import choose
from hwnas.latency.transfer import prior, transfer

SUMS = ("eyeriss", "fpga")
FAMILIES = {  # a family is never known in part
    "1080ti": "1080ti",
    "2080ti": "2080ti",
    "titan_rtx": "titan rtx",
    "titanxp": "titan xp",
    "titanx": "titan x",
    "gold": "Xeon",
    "silver": "Xeon",
    "pixel": "Pixel",
    "samsung": "Samsung",
    "essential": "Essential",
    "raspi": "Raspberry Pi",
}
POOL = 2000


def main() -> None:
    """Print a line per device and the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(os.environ.get("HWNAS_BENCH_DATA", "."))
    parser.add_argument("--data", type=Path, default=folder / "help_nasbench201_latency.npz")
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    with np.load(options.data, allow_pickle=False) as table:
        columns = {name: table[name].astype(float) for name in table.files if name not in SUMS}
    positive = np.all([ms > 0.05 for ms in columns.values()], axis=0)
    columns = {name: ms[positive] for name, ms in columns.items()}
    print(f"{positive.sum()} networks, {len(columns)} devices, {options.networks} measured, {options.seeds} seeds")
    figures, started = [], time.perf_counter()
    for name in columns:
        scores = np.mean([score(columns, name, options.networks, seed) for seed in range(options.seeds)], axis=0)
        figures.append(scores)
        print(f"{name:16s} {family(name):12s} Spearman {scores[0]:.3f}  within 10 % {scores[1]:.3f}  "
              f"intervals hold {scores[2]:.3f}  error told {scores[3]:.3f}, true {scores[4]:.3f}")  # fmt: skip
    mean = np.mean(figures, axis=0)
    seconds = (time.perf_counter() - started) / len(columns) / options.seeds
    print(f"mean Spearman {mean[0]:.3f}, within 10 % {mean[1]:.3f}, 90 % intervals hold {mean[2]:.3f}")
    print(f"{seconds:.2f} s per new device")


def family(name: str) -> str:
    """The family of a device, by the start of its name."""
    return next(family for start, family in FAMILIES.items() if name.startswith(start))


def score(columns: dict[str, np.ndarray], new: str, count: int, seed: int) -> tuple[float, ...]:
    """Figures of one device from `count` networks, chosen from a random pool."""
    known = prior(np.stack([ms for name, ms in columns.items() if family(name) != family(new)]))
    true_ms = columns[new]
    items = choose(known, count, random.Random(seed).sample(range(len(true_ms)), POOL))
    found = transfer(known, items, true_ms[items])
    rest = np.setdiff1d(np.arange(len(true_ms)), items)
    error = np.abs(found.ms[rest] / true_ms[rest] - 1)
    low, high = interval(found.ms[rest], found.margin[rest])
    held = (low <= true_ms[rest]) & (true_ms[rest] <= high)
    rank = float(spearmanr(found.ms[rest], true_ms[rest]).statistic)
    return rank, float((error <= 0.1).mean()), float(held.mean()), found.error, float(error.mean())


if __name__ == "__main__":
    main()
