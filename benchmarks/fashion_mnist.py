"""The whole way on full Fashion-MNIST, beside what one would do without a search.

    python benchmarks/fashion_mnist.py [--out FOLDER] [--epochs N] [--long N] [--workers N]

Three supernets (one per seed), three latency limits each: what was promised, what was measured, and the test
accuracy with inherited weights, after fine-tuning, and trained alone; beside it torchvision's MobileNetV3 and
ShuffleNetV2, the widest that keep the limit, and the best of 20 random networks of the space. Every step is
kept in FOLDER: an interrupted benchmark goes on where it was. Steps that measure time run alone; the others
run one per core. It needs Debian's package dataset-fashion-mnist, or --data-dir.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # one core per step: two torch processes of two threads fight
sys.path.insert(0, str(Path(__file__).parent))  # where torchvision_nets lies, for workers too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH", "")]))

import altair as alt
import pandas as pd

from hwnas import workflows
from hwnas.files import digest, write_bytes
from hwnas.latency import LatencyTable
from hwnas.search.found import Found
from hwnas.supernet import AdditiveCost, Run, Supernet, TrainSettings, load_data, load_run, load_space, load_supernet
from hwnas.supernet.checkpoint import read_metrics
from hwnas.supernet.data import data_record
from hwnas.supernet.evaluation import accuracy, bn_images, calibrated_subnet
from hwnas.supernet.spaces import space_record
from hwnas.workflows.training import train_run

SPACE = str(Path(__file__).with_name("fashion_mnist.toml"))
DATA = "fashion-mnist"
SHARES = {"small": 0.3, "medium": 0.6, "large": 0.95}  # limits: shares of the range that the table spans
SEEDS = (0, 1, 2)
SEARCHES = [(strategy, name) for strategy in ("evolution", "random") for name in SHARES]  # in each supernet
RANDOM, BUDGET = 20, 30
LR = 0.2  # of supernets and networks alone; chosen with augmented images in another space, not tried anew in this one
SAMPLING = "fair"  # of supernets: three paths a step here, so that in an epoch every option is trained on every image
TUNING_LR = LR / 2  # of what goes on from trained weights
AUGMENT = False  # in every training: so few epochs of such small networks learn more from images as they are
LABELS = {"found": "found by search", "random": f"best of {RANDOM} random"}
TRAININGS = {
    "inherited": "inherited weights",
    "tuned": "tuned for 2 epochs",
    "alone": "trained alone",
    "converged": "alone for longer",
}
FAMILIES = {  # of each pair the first that keeps a limit at some width: on small images it is the better one
    "MobileNetV3-fine": "torchvision_nets:MOBILENET_V3_FINE",
    "MobileNetV3": "torchvision_nets:MOBILENET_V3",
    "ShuffleNetV2-fine": "torchvision_nets:SHUFFLENET_V2_FINE",
    "ShuffleNetV2": "torchvision_nets:SHUFFLENET_V2",
}
LABELS |= {
    "MobileNetV3": "MobileNetV3, scaled by width",
    "MobileNetV3-fine": "MobileNetV3, first stride 1, scaled by width",
    "ShuffleNetV2": "ShuffleNetV2, scaled by width",
    "ShuffleNetV2-fine": "ShuffleNetV2, first strides 1, scaled by width",
}


@dataclass(frozen=True)
class Step:
    """One part of the benchmark: a name, the function and arguments that make its result, what must be done before."""

    name: str
    work: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    after: tuple[str, ...] = ()


def main() -> None:
    """Run what is not done yet, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("fashion-mnist-benchmark"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=int, default=6, help="of each supernet, and of each network alone")
    parser.add_argument("--long", type=int, default=10, help="epochs of the networks alone when they have gone on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options, started = parser.parse_args(), time.perf_counter()
    out, epochs, long, steps = options.out, options.epochs, options.long, options.out / "steps"
    if long <= epochs:
        parser.error(f"--long {long} must be more than --epochs {epochs}")
    settings = {"sampling": SAMPLING, "lr": LR, "tuning_lr": TUNING_LR, "augment": AUGMENT, "shares": SHARES}
    settings |= {"space": digest(Path(SPACE).read_bytes()), "budgets": [BUDGET, RANDOM]}
    same_options(out, {"epochs": epochs, "long": long, "data_dir": str(options.data_dir), **settings})
    done = run_steps(profile_steps(out), steps, 1)  # what measures time runs alone
    trainings = train_steps(out, epochs, options.data_dir) + baseline_steps(out, epochs, options.data_dir)
    trainings += search_steps(out) + longer_steps(out, long - epochs) + network_steps(out, epochs)
    done |= run_steps(trainings, steps, options.workers)
    done |= run_steps(measure_steps(out), steps, 1)
    report(out, done, epochs, long)
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes since the start of this command")


def same_options(out: Path, options: dict[str, Any]) -> None:
    """Exit where the folder holds steps of a benchmark with other options."""
    file = out / "options.json"
    if not file.is_file():
        write_bytes(file, json.dumps(options).encode())
    elif (before := json.loads(file.read_text())) != options:
        sys.exit(f"{out} was made with {before}: give the same options, or another --out")


def run_steps(steps: Sequence[Step], folder: Path, workers: int) -> dict[str, Any]:
    """The results of all steps, each read from its file in `folder` or made and written there.

    Of the steps whose `after` is done the first in the list starts first.
    """
    files = {step.name: folder / f"{step.name}.json" for step in steps}
    waiting = [step for step in steps if not files[step.name].is_file()]
    running: dict[Future[dict[str, Any]], str] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        while waiting or running:
            unfinished = {step.name for step in waiting} | set(running.values())
            ready = [step for step in waiting if unfinished.isdisjoint(step.after)]
            for step in ready[: workers - len(running)]:
                running[pool.submit(timed, step)] = step.name
                waiting.remove(step)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, result = running.pop(future), future.result()
                write_bytes(files[name], json.dumps(result, indent=1).encode())
                print(f"{time.strftime('%H:%M:%S')} {name}: {json.dumps(result)[:150]}", flush=True)
    return {name: json.loads(file.read_text()) for name, file in files.items()}


def timed(step: Step) -> dict[str, Any]:
    """The result of a step, with its seconds."""
    start = time.perf_counter()
    result = step.work(*step.arguments)
    return {**result, "seconds": time.perf_counter() - start}


def train_steps(out: Path, epochs: int, data_dir: Path | None) -> list[Step]:
    return [Step(f"train-{seed}", train_supernet, (out / f"run{seed}", epochs, seed, data_dir)) for seed in SEEDS]


def train_supernet(run: Path, epochs: int, seed: int, data_dir: Path | None) -> dict[str, Any]:
    settings = TrainSettings(epochs=epochs, lr=LR, sampling=SAMPLING, augment=AUGMENT, seed=seed)
    trained = workflows.train(SPACE, DATA, run, settings, data_dir=data_dir, resume=True)
    return {
        "val_accuracy": workflows.last_metrics(trained)["val_accuracy"],
        "training_seconds": sum(epoch["seconds"] for epoch in read_metrics(run)),  # also those before an interruption
    }


def profile_steps(out: Path) -> list[Step]:
    spaces = {"space": SPACE, **FAMILIES}
    return [Step(f"profile-{name}", profile_space, (spec, out / f"table-{name}.json")) for name, spec in spaces.items()]


def profile_space(spec: str, table: Path) -> dict[str, Any]:
    entries = workflows.profile(spec, "local", table, resume=True).entries
    return {"ms": {str(layer): entry.ms for layer, entry in entries.items()}}


def table_of(out: Path) -> AdditiveCost:
    """The latency of the space's networks as its table predicts it."""
    cost = LatencyTable.load(out / "table-space.json").cost
    assert cost is not None
    return cost


def limits_ms(out: Path) -> dict[str, float]:
    """The three limits, from the range of latencies that the table says is possible."""
    low, high = table_of(out).bounds()
    return {name: round(low + share * (high - low), 3) for name, share in SHARES.items()}


def search_steps(out: Path) -> list[Step]:
    limits = limits_ms(out)
    return [Step(f"search-{seed}", search_run, (out, seed, limits), (f"train-{seed}",)) for seed in SEEDS]


def search_run(out: Path, seed: int, limits: dict[str, float]) -> dict[str, Any]:
    """All searches in one supernet; what one has evaluated the next one knows."""
    accuracies = {}
    for strategy, name in SEARCHES:
        file, tables = out / f"{strategy}-{name}-{seed}.json", [out / "table-space.json"]
        limit, budget = [f"local={limits[name]}ms"], {"evolution": BUDGET, "random": RANDOM}[strategy]
        result = workflows.search(out / f"run{seed}", file, tables, limit, strategy, budget, seed)
        accuracies[f"{strategy}-{name}"] = result.found.accuracy
    return {"val_accuracy": accuracies}


def measure_steps(out: Path) -> list[Step]:
    names = [f"{strategy}-{name}-{seed}" for seed in SEEDS for strategy, name in SEARCHES]
    return [
        Step(f"export-{name}", export_found, (out / f"{name}.json", out / "onnx" / f"{name}.onnx")) for name in names
    ]


def export_found(found: Path, model: Path) -> dict[str, Any]:
    """Predicted and measured latency, and test accuracy with inherited weights, from the certificate."""
    proof = workflows.export(found, model, "local")
    times = proof.latency["local"]
    return {
        "limit_ms": times.limit_ms,
        "predicted_ms": times.predicted_ms,
        "measured_ms": times.measured_ms,
        "within_limits": proof.within_limits,
        "inherited": proof.accuracy_onnx,
        "max_abs_diff": proof.max_abs_diff,
        "notes": list(proof.notes),
    }


def network_steps(out: Path, epochs: int) -> list[Step]:
    """Every network found, alone as long as the supernet was trained, and fine-tuned; what takes longest first."""
    steps = []
    for name, seed in itertools.product(reversed(SHARES), SEEDS):
        found, alone, tuned = (f"{kind}-{name}-{seed}" for kind in ("evolution", "alone", "tuned"))
        file, after = out / f"{found}.json", (f"search-{seed}",)
        steps.append(Step(alone, train_found, (file, out / alone, epochs), after))
        steps.append(Step(tuned, train_found, (file, out / tuned, 2, TUNING_LR), after))
    return steps


def longer_steps(out: Path, epochs: int) -> list[Step]:
    """The networks alone go on for more epochs, at half the rate."""
    steps = []
    for limit, seed in itertools.product(reversed(SHARES), SEEDS):
        alone, run = f"alone-{limit}-{seed}", out / f"converged-{limit}-{seed}"
        steps.append(Step(run.name, train_found, (out / alone / "found.json", run, epochs, TUNING_LR), (alone,)))
    return steps


def train_found(found: Path, run: Path, epochs: int, tuning_lr: float | None = None) -> dict[str, Any]:
    """Test accuracy of a found network after fine-tuning at `tuning_lr`, or trained from scratch without it."""
    scratch, rate = tuning_lr is None, {} if tuning_lr is None else {"lr": tuning_lr}
    tuned = workflows.finetune(
        found, run, from_scratch=scratch, resume=True, changes={"epochs": epochs, "augment": AUGMENT, **rate}
    )
    return {"val": tuned.accuracy, "test": test_accuracy(run)}


def test_accuracy(folder: Path) -> float:
    """Test accuracy of the one network of a run."""
    run, network = load_run(folder), load_supernet(folder)
    data = workflows.run_data(run, network.space)
    assert run.arch is not None
    subnet = calibrated_subnet(network, run.arch, bn_images(data, run.train["seed"]))
    return accuracy(subnet, data, data.test)


def baseline_steps(out: Path, epochs: int, data_dir: Path | None) -> list[Step]:
    """The widest network of each torchvision family that keeps each limit, where one does."""
    steps: dict[tuple[str, str], Step] = {}
    for family, (name, limit) in itertools.product(FAMILIES, reversed(limits_ms(out).items())):
        table = LatencyTable.load(out / f"table-{family}.json")
        same = LatencyTable.load(out / "table-space.json").reference_ms / table.reference_ms  # one clock for both
        measured = [entry.ms * same for entry in table.entries.values()]  # whole networks, each a layer
        fitting = [gene for gene, ms in enumerate(measured) if ms <= limit]
        if fitting:
            arguments = (out / f"{family}-{name}", family, max(fitting), measured[max(fitting)], epochs, data_dir)
            steps.setdefault((family.removesuffix("-fine"), name), Step(f"{family}-{name}", train_baseline, arguments))
    return list(steps.values())


def train_baseline(
    folder: Path, family: str, gene: int, measured_ms: float, epochs: int, data_dir: Path | None
) -> dict[str, Any]:
    """A torchvision network trained as ours are, at the default rate: LR was worse for one, on augmented images."""
    space, settings = load_space(FAMILIES[family]), TrainSettings(epochs=epochs, augment=AUGMENT)
    data = load_data(DATA, space, settings.seed, data_dir)
    network = Supernet(space, only=(gene,))
    where = str(data_dir.resolve()) if data_dir else None
    run = Run(folder, space_record(space), data_record(data), where, network.sharing, vars(settings), arch=(gene,))
    train_run(run, network, data, settings, resume=True, progress=lambda *_: None)
    return {"measured_ms": measured_ms, "test": test_accuracy(folder), "layer": str(space.layers()[gene])}


def rows_of(done: dict[str, Any]) -> pd.DataFrame:
    """One row per network: limit, kind, seed, latencies in ms, test accuracies as fractions."""
    rows = []
    for name in SHARES:
        for seed in SEEDS:
            ours = done[f"export-evolution-{name}-{seed}"]
            accuracies = {
                column: done[step]["test"]
                for column in ("tuned", "alone", "converged")
                if (step := f"{column}-{name}-{seed}") in done
            }
            rows.append({"limit": name, "kind": "found", "seed": seed, **ours, **accuracies})
        rows += [
            {"limit": name, "kind": "random", "seed": seed, **done[f"export-random-{name}-{seed}"]} for seed in SEEDS
        ]
        for family in FAMILIES:
            if (step := f"{family}-{name}") in done:
                result = done[step]
                rows.append(
                    {
                        "limit": name,
                        "kind": family,
                        "seed": SEEDS[0],
                        "measured_ms": result["measured_ms"],
                        "alone": result["test"],
                    }
                )
    return pd.DataFrame(rows)


def report(out: Path, done: dict[str, Any], epochs: int, long: int) -> None:
    """Print every network, the README's table and the two bars; draw the picture."""
    rows = rows_of(done)
    rows.to_csv(out / "networks.csv", index=False)
    columns = ["limit", "kind", "seed", "limit_ms", "predicted_ms", "measured_ms", "within_limits"]
    columns += ["inherited", "tuned", "alone", "converged"]
    print(rows[columns].to_string(index=False, float_format="{:.4f}".format, na_rep=""))
    print("\n".join(["", *summary(rows, epochs, long), ""]))
    ours = rows[rows.kind == "found"]
    for name, reached, bar in (("inherited", ours.inherited, 0.02), ("fine-tuned", ours.tuned, 0.005)):
        gap = (ours.alone - reached).round(6)  # both are counts of images: half a point of them is not more than that
        above = f"{(gap > bar).sum()} of {len(gap)} more than {bar:.1%}"
        print(f"{name}: in the mean {gap.mean():.2%} below alone, {above}, the worst {gap.max():.2%}")
        print(f"{name}: in the mean {(ours.converged - reached).mean():.2%} below alone for {long} epochs")
    for line in costs(out, done):
        print(line)
    print(f"all steps: {sum(step['seconds'] for step in done.values()):.0f} s, most of them one per core")
    chart(rows).save(str(out / "fashion-mnist.png"), scale_factor=1.5)


def summary(rows: pd.DataFrame, epochs: int, long: int) -> list[str]:
    """The table of the README: means over the seeds."""
    lines = [
        f"| limit, ms | network | predicted | measured | inherited | tuned, 2 epochs | alone, {epochs} epochs "
        f"| alone, {long} epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (limit, kind), group in rows.groupby(["limit", "kind"], sort=False):
        ms = rows[rows.limit == limit].limit_ms.max()
        times = [f"{v:.4f}" if (v := group[c].mean()) == v else "" for c in ("predicted_ms", "measured_ms")]
        accuracies = [mean_words(group[c]) for c in ("inherited", "tuned", "alone", "converged")]
        lines.append("| " + " | ".join([f"{ms:.3f}", LABELS.get(str(kind), str(kind)), *times, *accuracies]) + " |")
    return lines


def mean_words(values: pd.Series) -> str:
    """Mean and range of what is known: `91.3 % (90.9-91.6)`."""
    known = [100 * value for value in values.dropna()]
    if not known:
        return ""
    spread = f" ({min(known):.1f}-{max(known):.1f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f} %{spread}"


def costs(out: Path, done: dict[str, Any]) -> list[str]:
    """What everything cost: a training once, a search for each limit."""
    training = statistics.median(done[f"train-{seed}"]["training_seconds"] for seed in SEEDS)
    names = [f"{strategy}-{name}-{seed}.json" for seed in SEEDS for strategy, name in SEARCHES]
    searches = [Found.load(out / name) for name in names]  # they share evaluations: what counts is a new one
    each = sum(s.seconds for s in searches) / sum(s.evaluations - s.reused for s in searches)
    low, high = table_of(out).bounds()
    exports = [done[f"export-evolution-{name}-{seed}"]["seconds"] for seed in SEEDS for name in SHARES]
    tuning = statistics.median(done[f"tuned-{name}-{seed}"]["seconds"] for seed in SEEDS for name in SHARES)
    return [
        f"networks of the space take {low:.3f} to {high:.3f} ms, a factor {high / low:.1f}",
        f"training: {training:.0f} s of one core, once per supernet",
        f"profiling: {done['profile-space']['seconds']:.0f} s, once per device",
        f"per limit: search {BUDGET * each:.0f} s of one core ({BUDGET} evaluations, {each:.1f} s each); export, proof "
        f"and measurement {statistics.median(exports):.0f} s; two epochs of tuning {tuning:.0f} s of one core",
    ]


def chart(rows: pd.DataFrame) -> alt.LayerChart:
    """Test accuracy against measured latency."""
    points = rows.melt(["kind", "measured_ms"], list(TRAININGS), "training", "accuracy").dropna()
    points["what"] = points.kind.map(LABELS) + ", " + points.training.map(TRAININGS)
    dots = (
        alt.Chart(points)
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            alt.X("measured_ms:Q", title="measured latency, ms", scale=alt.Scale(zero=False)),
            alt.Y("accuracy:Q", title="test accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".1%")),
            alt.Color("what:N", title=None, legend=alt.Legend(labelLimit=400)),
            alt.Shape("what:N", title=None),
        )
    )
    limits = alt.Chart(rows.dropna(subset="limit_ms")).mark_rule(strokeDash=[4, 4]).encode(x="limit_ms:Q")
    title = "Fashion-MNIST: found networks and scaled ones; dashed: the limits"
    return alt.layer(limits, dots).properties(width=560, height=380, title=title)


if __name__ == "__main__":
    main()
