"""Is the promised latency the measured latency? 200 unseen networks, 100 winners of searches, a busy neighbour.

    python benchmarks/latency.py --out FILE.json [--sizes 32,224] [--nets 200] [--device DEVICE] [--rounds 40]

For `mobilenet` at each size: profile (timed, all in); measure unseen networks, stratified from the fastest to the
slowest, twice, with more samples than a profile takes, so that the table is judged and not the truth; search at 20
limits with 5 seeds and measure the winners; profile once more while another process keeps a core busy, and hold that
table against the quiet measurements, as `hwnas validate` does. The machine should be quiet otherwise. What was measured
is kept in FILE.work: an interrupted benchmark goes on where it was (a profile, whose time is a figure, begins anew).
Three quarters of an hour on two cores.
What all networks differ by together from one measurement to the next is told, too: the single ones are no independent
trials of that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # of scikit-learn

from hwnas.devices import Device, TimedDevice, load_device
from hwnas.files import write_bytes
from hwnas.latency import LatencyTable, analytic_cost, profile, spread
from hwnas.latency.anchors import measure_networks
from hwnas.latency.validation import compare
from hwnas.search import Evolution, Problem, search
from hwnas.supernet import Arch, SearchSpace, load_space

Floats = np.ndarray[Any, np.dtype[np.float64]]
LIMITS, SEEDS, BUDGET = 20, 5, 1000  # evaluations, as in single-path one-shot NAS


def main() -> None:
    """Run what is not done yet, write the figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", default="32,224")
    parser.add_argument("--nets", type=int, default=200)
    parser.add_argument("--device", default="local")
    parser.add_argument("--rounds", type=int, default=40, help="samples at least of each network that is the truth")
    options = parser.parse_args()
    figures, device = {}, load_device(options.device)
    assert isinstance(device, TimedDevice)
    rounds = max(options.rounds, device.effort.min_rounds)
    patient = replace(device, effort=replace(device.effort, min_rounds=rounds, max_rounds=max(rounds, 200)))
    for size in options.sizes.split(","):
        work = options.out.with_suffix(".work") / size
        figures[size] = one_size(load_space(f"mobilenet:size={size}"), device, patient, work, options.nets)
        write_bytes(options.out, json.dumps({"device": device.fingerprint(), "sizes": figures}, indent=1).encode())
    print(table_of(figures))


def one_size(space: SearchSpace, device: Device, patient: Device, work: Path, nets: int) -> dict[str, Any]:
    """All figures of a space: profiled on `device`, its networks measured on `patient`, which is the same."""
    table, seconds = profiled(space, device, work / "quiet")
    used = {network.arch for network in table.calibration.networks}
    archs = spread(space, table.cost or table.predict_many, nets, seed=1, exclude=used, without=table.rejected)
    (first, plain), (second, _) = (measured(patient, archs, table, work / f"pass{i}") for i in (1, 2))
    validation = compare(table, archs, first, second, 0.0).figures()
    validation["measurements"] = [list(check.values()) for check in validation["measurements"]]
    promises = promised(space, table)
    winners = sorted({arch for arch, _ in promises})
    took, took_plain = (
        dict(zip(winners, ms, strict=True)) for ms in measured(patient, winners, table, work / "winners")
    )
    used_share = np.array([took[arch] / limit for arch, limit in promises])
    plain_share = np.array([took_plain[arch] / limit for arch, limit in promises])
    together = [
        np.median(ms / table.predict_many(nets_of) - 1)
        for nets_of, ms in ((archs, first), (archs, second), (winners, np.array([took[arch] for arch in winners])))
    ]
    with busy_core():
        noisy, _ = profiled(space, device, work / "busy")
    quiet, alone = measured(patient, archs, noisy, work / "pass1")  # the same samples, beside that table's own networks
    error, error_alone = (np.abs(noisy.predict_many(archs) / ms - 1) for ms in (quiet, alone))
    return {
        **validation,
        "onboarding_s": seconds,
        "margin": table.calibration.margin,
        "over_limit": float((used_share > 1).mean()),
        "worst_over": float(used_share.max() - 1),
        "unused": float(np.median(1 - used_share)),
        "winners": len(winners),
        "together_first": float(together[0]),
        "together_second": float(together[1]),
        "together_winners": float(together[2]),
        "plain_within_5": float((np.abs(table.predict_many(archs) / plain - 1) <= 0.05).mean()),
        "plain_over_limit": float((plain_share > 1).mean()),
        "busy_reference": noisy.reference_ms / table.reference_ms - 1,
        "busy_within_10": float((error <= 0.1).mean()),
        "busy_mape": float(error.mean()),
        "busy_plain_within_10": float((error_alone <= 0.1).mean()),
    }


def profiled(space: SearchSpace, device: Device, work: Path) -> tuple[LatencyTable, float]:
    """The table of a profile, and the seconds that it took from nothing; made once."""
    file, note = work / "table.json", work / "seconds.json"
    if not file.is_file():
        started = time.perf_counter()
        table = profile(space, device, progress=said(work.name)).table
        write_bytes(note, json.dumps(time.perf_counter() - started).encode())
        table.save(file)
    return LatencyTable.load(file), json.loads(note.read_text())


def measured(device: Device, archs: Sequence[Arch], table: LatencyTable, work: Path) -> tuple[Floats, Floats]:
    """Networks (n,) in the table's ms, and in plain ratios to the reference; what was measured is not measured again.

    From the first is taken out what the table's own networks, measured beside, say has changed since.
    """
    seen = measure_networks(table, device, archs, work, said(work.name))
    change = {"middle": seen.change.factor(seen.change.middle_ms) - 1, "slope": seen.change.slope}
    write_bytes(work / "change.json", json.dumps(change).encode())
    for model in work.rglob("*.onnx"):  # gigabytes, and made again where they are needed
        model.unlink()
    plain = [seen.timing(arch).ratio * table.reference_ms for arch in archs]
    return np.array([seen.network_ms(arch) for arch in archs]), np.array(plain)


def promised(space: SearchSpace, table: LatencyTable) -> list[tuple[Arch, float]]:
    """The winners of searches at limits over the whole range, each with its limit in ms.

    Accuracy grows with the logarithm of the flops, and each seed has a taste of its own for single choices: so
    every winner presses against its limit, and no two seeds find the same.
    """
    cost, flops = table.upper_sum, analytic_cost(space, "flops")
    assert cost is not None
    low, high = cost.bounds()
    found = []
    for seed in range(SEEDS):
        taste = [np.random.default_rng((seed, i)).normal(0, 0.01, n) for i, n in enumerate(space.options or ())]

        def accuracy(archs: Any, taste: list[Any] = taste) -> Any:
            genes = np.asarray(archs)
            return np.log(flops(archs)) + sum(t[genes[:, i]] for i, t in enumerate(taste))

        for limit in np.linspace(low, high, LIMITS + 2)[1:-1]:
            problem = Problem(space, accuracy, costs={"local": cost}, limits={"local": float(limit)})
            found.append((search(problem, Evolution(), BUDGET, seed).best.arch, float(limit)))
    return found


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps a core and the memory busy."""
    process = multiprocessing.get_context("spawn").Process(target=_work, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _work() -> None:
    values = np.random.default_rng(0).normal(size=(700, 700))
    with threadpool_limits(1):
        while True:
            values = np.tanh(values @ values)


def said(what: str) -> Callable[[float, float, str], None]:
    """Progress on standard error, on one line."""
    return lambda done, total, words: print(f"\r{what} {done / total:4.0%} {words:60.60}", end="", file=sys.stderr)


ROWS = {  # what is printed: the figure, its bar, how it is written
    "within 5 %": ("within_5", ">= 97 %", "{:.1%}"),
    "within 10 %": ("within_10", ">= 99.5 %", "{:.1%}"),
    "mean error": ("mape", "<= max(1.5 x floor, 1.5 %)", "{:.2%}"),
    "the floor: measured twice": ("floor_mape", "", "{:.2%}"),
    "upper half of the interval": ("margin", "", "{:.1%}"),
    "90 % intervals hold": ("interval_coverage", "86-94 %", "{:.1%}"),
    "all together, the first time": ("together_first", "", "{:+.1%}"),
    "all together, the second time": ("together_second", "", "{:+.1%}"),
    "winners over their limit": ("over_limit", "<= 5 %", "{:.1%}"),
    "the worst of them, over by": ("worst_over", "", "{:.1%}"),
    "winners together, against what was predicted": ("together_winners", "", "{:+.1%}"),
    "budget left unused, median": ("unused", "<= 3 %", "{:.1%}"),
    "as measured, nothing taken out: within 5 %": ("plain_within_5", "", "{:.1%}"),
    "as measured, nothing taken out: winners over": ("plain_over_limit", "", "{:.1%}"),
    "the reference beside a busy core, against quiet": ("busy_reference", "", "{:+.1%}"),
    "profiled beside a busy core, validated quiet: within 10 %": ("busy_within_10", ">= 97 %", "{:.1%}"),
    "the same, nothing taken out": ("busy_plain_within_10", "", "{:.1%}"),
    "seconds to onboard, all in": ("onboarding_s", "<= 90 at 224", "{:.0f}"),
}


def table_of(figures: dict[str, dict[str, Any]]) -> str:
    """The table of the README."""
    sizes = list(figures)
    lines = [f"| | {' | '.join(f'{size} pixels' for size in sizes)} | bar |", "|---" * (len(sizes) + 2) + "|"]
    for name, (key, bar, style) in ROWS.items():
        values = " | ".join(style.format(figures[size][key]) for size in sizes)
        lines.append(f"| {name} | {values} | {bar} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
