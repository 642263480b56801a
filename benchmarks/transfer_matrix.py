"""A network that is best on one device is not best on another: one supernet, searched for each of several targets.

    python benchmarks/transfer_matrix.py [--out FOLDER] [--data DATA] [--epochs N] [--share S]

Targets are really different ways to run on this machine: fp32 one image at a time, int8, fp32 with 32 images at a
time, and fp32 on all cores. One supernet is trained, once. Each target is profiled, and searched with several
seeds under the same relative limit: a share of the way from its fastest to its slowest network. Every network found is
measured on every target. Whatever is done already in FOLDER is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import workflows
from hwnas.devices import load_device
from hwnas.files import write_json
from hwnas.latency import LatencyTable
from hwnas.latency.anchors import measure_networks
from hwnas.latency.profile import network_name
from hwnas.supernet import Arch, TrainSettings
from hwnas.supernet.ranking import kendall_tau

SPACE = str(Path(__file__).with_name("transfer_matrix.toml"))
TARGETS = {
    "fp32": "local:name=fp32",
    "int8": "local:name=int8,precision=int8",
    "batch32": "local:name=batch32,batch=32",
    "cores": "local:name=cores,threads=2",
}
SEEDS, BUDGET = (0, 1, 2), 60


def main() -> None:
    """Train, profile, search and measure what is not done yet; print the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("transfer-matrix"))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.4, help="of the way from the fastest network to the slowest")
    options = parser.parse_args()
    out = options.out
    settings = TrainSettings(epochs=options.epochs, augment=False)  # so few epochs learn more so
    workflows.train(SPACE, options.data, out / "run", settings, resume=True)
    tables = {name: profiled(out, name) for name in TARGETS}
    limits = {name: limit_of(table, options.share) for name, table in tables.items()}
    found = {name: [searched(out, name, limits[name], seed) for seed in SEEDS] for name in TARGETS}
    archs = sorted({tuple(network["arch"]) for networks in found.values() for network in networks})
    measured = {name: measure(out, name, archs, table) for name, table in tables.items()}
    save(out / "transfer-matrix.json", found, measured, limits)
    print(f"{len(archs)} networks; limits: {', '.join(f'{name} {ms:.3f} ms' for name, ms in limits.items())}\n")
    print("\n".join([*agreement(tables), "", *matrix(found, measured, limits), "", *losses(found, measured, limits)]))


def profiled(out: Path, name: str) -> LatencyTable:
    file = out / f"{name}.json"
    if not file.is_file():
        workflows.profile(SPACE, TARGETS[name], file, resume=True)
    return LatencyTable.load(file)


def limit_of(table: LatencyTable, share: float) -> float:
    """So far on the way from the least to the largest upper end of an interval, in ms."""
    assert table.upper_sum is not None
    low, high = table.upper_sum.bounds()
    return low + share * (high - low)


def searched(out: Path, name: str, limit_ms: float, seed: int) -> dict[str, Any]:
    """The network found for a target: its FOUND.json."""
    file = out / f"found-{name}-{limit_ms:.6f}ms-{seed}.json"
    if not file.is_file():
        limit = [f"{name}={limit_ms:.6f}ms"]
        workflows.search(out / "run", file, [out / f"{name}.json"], limit, "evolution", BUDGET, seed)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def measure(out: Path, name: str, archs: list[Arch], table: LatencyTable) -> dict[Arch, tuple[float, float, float]]:
    """Each network on a target: ms in the table's time, and the ends of its 90 % interval."""
    seen = measure_networks(table, load_device(TARGETS[name]), archs, out / f"measured-{name}")
    ends = {arch: (seen.timing(arch).ratio, seen.timing(arch).low, seen.timing(arch).high) for arch in archs}
    return {arch: tuple(seen.table_ms(network_name(arch), end) for end in three) for arch, three in ends.items()}  # type: ignore[misc]


def agreement(tables: dict[str, LatencyTable], nets: int = 500) -> list[str]:
    """Kendall's tau between the latencies of random networks on each two targets."""
    space = next(iter(tables.values())).space
    rng = random.Random(0)
    archs = [space.sample(rng) for _ in range(nets)]
    ms = {name: table.predict_many(archs) for name, table in tables.items()}
    lines = [f"| Kendall tau of {nets} random networks | {' | '.join(tables)} |", "|---" * (len(tables) + 1) + "|"]
    for a in tables:
        taus = [f"{kendall_tau(ms[a], ms[b]):.2f}" for b in tables]
        lines.append(f"| {a} | {' | '.join(taus)} |")
    return lines


Found = dict[str, list[dict[str, Any]]]
Measured = dict[str, dict[Arch, tuple[float, float, float]]]


def matrix(found: Found, measured: Measured, limits: dict[str, float]) -> list[str]:
    """Rows: found for a target; columns: measured on a target, in shares of its limit, with the interval's ends."""
    lines = [
        f"| found for, accuracy | {' | '.join(f'on {name}' for name in measured)} |",
        "|---" * (len(measured) + 1) + "|",
    ]
    for target, networks in found.items():
        cells = []
        for name in measured:
            times = np.array([measured[name][tuple(network["arch"])] for network in networks]) / limits[name]
            over = f", {n} of {len(networks)} over" if (n := int((times[:, 0] > 1).sum())) else ""
            cells.append(f"{times[:, 0].mean():.2f} ({times[:, 1].min():.2f}-{times[:, 2].max():.2f}){over}")
        accuracy = np.mean([network["accuracy"] for network in networks])
        lines.append(f"| {target}, {accuracy:.1%} | {' | '.join(cells)} |")
    return lines


def save(file: Path, found: Found, measured: Measured, limits: dict[str, float]) -> None:
    """Keep the matrix for `hwnas report`: for each network what it was found for, and (ms, low, high) by target."""
    networks = [
        {
            "found_for": target,
            "arch": network["arch"],
            "accuracy": network["accuracy"],
            "ms": {name: measured[name][tuple(network["arch"])] for name in measured},
        }
        for target, networks in found.items()
        for network in networks
    ]
    write_json(file, "transfer", 1, {"limits": limits, "networks": networks})


def losses(found: Found, measured: Measured, limits: dict[str, float]) -> list[str]:
    """What it costs to take the network found for another target: the best of those that keep the limit here."""
    lines = ["| limit on | best found for it | best of those found for others that keep it |", "|---|---|---|"]
    for name, limit in limits.items():
        kept = {
            target: [n["accuracy"] for n in networks if measured[name][tuple(n["arch"])][0] <= limit]
            for target, networks in found.items()
        }
        others = [accuracy for target, values in kept.items() if target != name for accuracy in values]
        words = [f"{max(values):.2%}" if values else "none" for values in (kept[name], others)]
        lines.append(f"| {name} | {' | '.join(words)} |")
    return lines


if __name__ == "__main__":
    main()
