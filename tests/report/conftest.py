"""A folder of results as the commands leave them, made by hand: nothing is trained, nothing measured."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hwnas.export.certificate import Certificate, Latency
from hwnas.files import write_json
from hwnas.latency import LatencyTable
from hwnas.latency.calibration import Calibration
from hwnas.latency.table import Entry
from hwnas.latency.validation import compare
from hwnas.search import EvaluationStore
from hwnas.search.found import FRONTS, Found
from hwnas.search.store import STORE
from hwnas.supernet import ChainSpace, TrainSettings, load_space
from hwnas.supernet.checkpoint import Run, append_metrics
from hwnas.supernet.cost import COSTS
from hwnas.supernet.ranking import ranking
from hwnas.supernet.spaces import space_record

EPOCHS = 3
LONG = "mobilenet:widths=24-40-80-112-160,depths=6-6-6-6-6"
MANY, EVALUATED = 12, 4000  # devices, networks
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><b>"


@dataclass(frozen=True)
class Made:
    """The folder, with what is known of its content: evaluations, and the two networks found."""

    folder: Path
    table: LatencyTable
    evaluations: dict[tuple[int, ...], float]
    best: Found
    drawn: Found


def make(folder: Path, space: ChainSpace, device: str, other: str) -> Made:
    """A run with evaluations, tables of two devices, two networks found, and every other file that a report reads."""
    tables = {name: table_of(space, name, scale) for name, scale in ((device, 1.0), (other, 3.0))}
    for number, table in enumerate(tables.values()):
        table.save(folder / f"table{number}.json")
    table, rng = tables[device], random.Random(0)
    archs = list(dict.fromkeys(space.sample(rng) for _ in range(40)))
    evaluations = {arch: 0.5 + 0.4 * number / len(archs) for number, arch in enumerate(archs)}
    run_of(folder / "run", space, evaluations)
    limit = float(np.median(table.predict_many(archs)))
    fit = [arch for arch in archs if table.predict(arch).high <= limit]
    drawn, best = fit[0], fit[-1]
    found = {
        name: found_of(folder, table, evaluations, arch, limit, strategy)
        for name, arch, strategy in (("best", best, "evolution"), ("drawn", drawn, "random"))
    }
    for name, network in found.items():
        network.save(folder / f"{name}-found.json")
    certificate_of(table, found["best"], limit).save(folder / "best.json")
    twice = np.array([table.predict(arch).ms for arch in archs[:12]]) * np.linspace(0.98, 1.03, 12)
    checked = compare(table, archs[:12], twice, twice * 1.01, 5.0)
    write_json(folder / "validation.json", "validation", 1, {"device": device, **checked.figures()})
    write_json(folder / "ranking.json", "ranking", 1, ranking_of(archs, evaluations))
    row = {"found_for": device, "arch": best, "accuracy": 0.9, "ms": {device: [1, 0.9, 1.1], other: [3, 2.8, 3.2]}}
    write_json(folder / "matrix.json", "transfer", 1, {"limits": {device: 1.2, other: 2.5}, "networks": [row]})
    return Made(folder, table, evaluations, found["best"], found["drawn"])


def table_of(space: ChainSpace, name: str, scale: float) -> LatencyTable:
    """Layers that take `scale` times as long as the last."""
    fingerprint = {"name": name, "runtime": "by hand", "label": "measured"}
    entries = {
        layer: Entry(scale * ms, scale * ms * 0.97, scale * ms * 1.03, 5)
        for layer, ms in zip(space.layers(), np.linspace(0.01, 0.08, len(space.layers())).tolist(), strict=True)
    }
    return LatencyTable(fingerprint, space, entries, Calibration(margin=0.03), 0.5)


def run_of(folder: Path, space: ChainSpace, evaluations: dict[tuple[int, ...], float]) -> None:
    data = {"spec": "digits", "metric": "accuracy", "fingerprint": "0"}
    Run(folder, space_record(space), data, None, "entangled", asdict(TrainSettings(epochs=EPOCHS))).save()
    for epoch in range(1, EPOCHS + 1):
        append_metrics(folder, epoch, loss=2.0 / epoch, val_accuracy=0.3 * epoch, seconds=float(epoch))
    with EvaluationStore(folder / STORE) as store:
        for arch, accuracy in evaluations.items():
            store.add("key", arch, accuracy, 0.1)
            store.add("another way of evaluation", arch, 0.01, 0.1)
    front = {"key": "key", "name": "flops", "costs": {}, "limits": {}, "evaluations": 40}
    write_json(folder / FRONTS, "fronts", 1, {"fronts": [front]})


def found_of(
    folder: Path,
    table: LatencyTable,
    evaluations: dict[tuple[int, ...], float],
    arch: tuple[int, ...],
    limit: float,
    strategy: str,
) -> Found:
    promised = table.predict(arch)
    costs = {name: float(price(table.space, arch)) for name, price in COSTS.items()}
    record = {
        "path": str(folder / "table0.json"),
        "device": dict(table.device),
        "reference_ms": 0.5,
        "sustained_s": 0.0,
    }
    return Found(
        arch=arch,
        description=tuple(str(node.layer) for node in table.space.graph(arch)),
        accuracy=evaluations[arch],
        costs={**costs, table.name: promised.ms},
        intervals={table.name: (promised.low, promised.high)},
        limits={table.name: limit},
        space=table.space.spec,
        data="digits",
        run=str(folder / "run"),
        weights="0",
        tables={table.name: record},
        strategy=strategy,
        evaluations=20,
        reused=0,
        seconds=1.0,
        seed=0,
        progress=((1, 0.5), (7, evaluations[arch])),
    )


def certificate_of(table: LatencyTable, found: Found, limit: float) -> Certificate:
    low, high = found.intervals[table.name]
    ms = found.costs[table.name]
    return Certificate(
        arch=found.arch,
        space=found.space,
        max_abs_diff=1e-6,
        accuracy_torch=0.81,
        accuracy_onnx=0.81,
        accuracy_interval=(0.77, 0.85),
        test_images=360,
        latency={table.name: Latency(ms, low, high, ms * 1.01, ms, limit)},
        limits=found.limits,
        costs=found.costs,
        within_limits=True,
        size_bytes=1000,
        opset=18,
        runtime_options={"runtime": "onnxruntime"},
        weights=found.weights,
    )


def ranking_of(archs: list[tuple[int, ...]], evaluations: dict[tuple[int, ...], float]) -> dict[str, object]:
    values = [evaluations[arch] for arch in archs]
    costs = list(np.linspace(1e5, 2e5, len(archs)).tolist())
    networks = [
        {"arch": arch, "accuracy": value + 0.01, "inherited": value, "cost": cost}
        for arch, value, cost in zip(archs, values, costs, strict=True)
    ]
    figures = asdict(ranking(values, values, costs))
    return {"nets": len(archs), "cost": "flops", "metric": "accuracy", "supernet": figures, "networks": networks}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny: ChainSpace) -> Made:
    return make(tmp_path_factory.mktemp("results"), tiny, "pixel8", "pi5")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny: ChainSpace) -> Made:
    """The same with devices whose names try to become markup."""
    return make(tmp_path_factory.mktemp("hostile"), tiny, HOSTILE, f"{HOSTILE}2")


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many devices of a long space, a network found for each, and as many evaluations as a long search makes."""
    folder, space, rng = tmp_path_factory.mktemp("many"), load_space(LONG), random.Random(0)
    assert isinstance(space, ChainSpace)
    evaluations = {space.sample(rng): rng.random() for _ in range(EVALUATED)}
    run_of(folder / "run", space, evaluations)
    for number, arch in zip(range(MANY), evaluations, strict=False):
        table = table_of(space, f"phone{number}", 1.0 + number)
        more = {replace(layer, in_size=layer.in_size + n): e for layer, e in table.entries.items() for n in range(4)}
        table = replace(table, entries=more)
        table.save(folder / f"{table.name}.json")
        limit = table.predict(arch).high
        found_of(folder, table, evaluations, arch, limit, "evolution").save(folder / f"{table.name}-found.json")
    return folder


@pytest.fixture
def changed(made: Made, tmp_path: Path) -> Callable[..., Path]:
    """A file of the results with some fields changed."""

    def change(name: str, **fields: object) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps({**json.loads((made.folder / name).read_text()), **fields}))
        return path

    return change
