"""One function per command: the only place that ties the folders together. For programs too."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .devices import Device, Job, load_device
from .errors import FaultError, InputError, MismatchError
from .export import Certificate, Latency, certify, to_onnx
from .files import check_target, digest, exclusive, write_bytes, write_json
from .latency import LatencyTable, Validation, analytic_cost
from .latency import profile as profile_device
from .latency import validate as validate_table
from .latency.cost import COSTS
from .latency.profile import device_progress
from .progress import Progress, silent
from .search import Evaluation, EvaluationStore, Problem, SearchResult, StoredAccuracy
from .search import search as run_search
from .search.found import Found
from .search.limits import parse_limits
from .supernet import (
    Data,
    Run,
    SearchSpace,
    Supernet,
    TrainSettings,
    load_data,
    load_run,
    load_space,
    load_supernet,
)
from .supernet import train as train_supernet
from .supernet.checkpoint import CHECKPOINT, RUN, read_metrics, weights_fingerprint
from .supernet.data import data_record
from .supernet.evaluation import METHOD, bn_images, calibrated_subnet, inherited_accuracies
from .supernet.space import Arch
from .supernet.spaces import space_record
from .supernet.training import steps_per_epoch

STORE = "evaluations.sqlite"
VALIDATION_VERSION = 1
SLOWER = 0.1  # from this change of the reference's time on, the user is told


def train(
    space: str,
    data: str,
    out: Path,
    settings: TrainSettings,
    sharing: str = "entangled",
    data_dir: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run:
    """Train a supernet of `space` on `data` into the folder `out`; with `resume` go on from its checkpoint."""
    check_target(out / RUN)
    loaded = load_space(space)
    if data.startswith("folder:"):
        data = f"folder:{Path(data.removeprefix('folder:')).resolve()}"
    images = load_data(data, loaded, settings.seed, data_dir)
    steps_per_epoch(images, settings)
    folder = str(data_dir.resolve()) if data_dir else None
    run = Run(out, space_record(loaded), data_record(images), folder, sharing, asdict(settings))
    torch.manual_seed(settings.seed)
    supernet = Supernet(loaded, sharing)
    with exclusive(out):
        if not (out / CHECKPOINT).exists():  # a run without a finished epoch has nothing to lose
            run.save()
        elif not resume:
            raise InputError(f"{out} holds a run already: add --resume to continue it, or name another folder")
        check_same(load_run(out), run)
        train_supernet(supernet, images, settings, out, progress)
    return run


def last_metrics(run: Run) -> dict[str, float]:
    """What the last finished epoch of a run measured."""
    return read_metrics(run.folder)[-1]


def check_same(old: Run, new: Run) -> None:
    """InputError where a training that is continued was begun with other settings."""

    def settings(run: Run) -> dict[str, Any]:
        made_of = {
            name: f"{it['spec']} ({it['fingerprint']})" for name, it in (("space", run.space), ("data", run.data))
        }
        return {**made_of, "sharing": run.sharing, **run.train}

    before, now = settings(old), settings(new)
    names = [name for name in now if before[name] != now[name]]
    if names:
        changes = ", ".join(f"{name} {before[name]} -> {now[name]}" for name in names)
        raise InputError(f"{old.folder} was begun with other settings ({changes}): give the same, or a new folder")


def run_data(run: Run, space: SearchSpace) -> Data:
    """The data of a run, split as it was trained; MismatchError where they have changed since."""
    folder = Path(run.data_dir) if run.data_dir else None
    data = load_data(run.data["spec"], space, run.train["seed"], folder)
    if data_record(data)["fingerprint"] != run.data["fingerprint"]:
        raise MismatchError(f"the images of {data.spec} have changed since {run.folder} was trained: train it anew")
    return replace(data, mean=torch.tensor(run.data["mean"]), std=torch.tensor(run.data["std"]))


def space_of(text: str) -> SearchSpace:
    """The space that a SPACE or the folder of a RUN names."""
    is_run = Path(text).is_dir() or ("/" in text and not text.endswith(".toml"))
    return load_run(Path(text)).load_space() if is_run else load_space(text)


def profile(
    space: str, device: str, out: Path, resume: bool = False, seed: int = 0, progress: Progress = silent
) -> LatencyTable:
    """Profile `device` for all layers of `space` (or of a RUN) and write the table to `out`.

    Until the table is written, every sample is kept in the folder `out`.samples, where `resume` goes on.
    """
    check_target(out, "table")
    loaded, where = space_of(space), load_device(device)
    samples = out.with_name(out.name + ".samples")
    if any(samples.glob("*/samples.jsonl")) and not resume:
        raise InputError(f"{samples} holds an unfinished profile: add --resume to continue it, or remove it")
    with exclusive(samples):
        table = profile_device(loaded, where, samples, seed=seed, progress=progress)
        table.save(out)
        shutil.rmtree(samples)
    return table


def validate(
    space: str,
    table: Path,
    device: str,
    nets: int = 20,
    pause_s: float = 60.0,
    out: Path | None = None,
    progress: Progress = silent,
) -> Validation:
    """Compare a table with `nets` whole networks measured now, twice; write the figures to `out`."""
    if out is not None:
        check_target(out, "validation")
    loaded, where = LatencyTable.load(table), load_device(device)
    loaded.check_space(space_of(space))
    check_device(loaded.device, where)
    found = validate_table(loaded, where, nets, pause_s, progress=progress)
    if out is not None:
        write_json(out, "validation", VALIDATION_VERSION, asdict(found))
    return found


def check_device(fingerprint: Mapping[str, str], device: Device) -> None:
    """MismatchError where a table's device and the one at hand differ in anything that a timing depends on."""
    now = device.fingerprint()
    changed = [f"{key} {fingerprint.get(key)} -> {now[key]}" for key in now if fingerprint.get(key) != now[key]]
    if changed:
        raise MismatchError(
            f"the table was measured on another device or version ({'; '.join(changed)}): run hwnas profile again"
        )


@dataclass(frozen=True)
class Searched:
    """What a search gave: the network found, and every evaluation behind it."""

    found: Found
    result: SearchResult


def search(
    run: Path,
    out: Path,
    tables: Sequence[Path] = (),
    limits: Sequence[str] = (),
    strategy: str = "evolution",
    budget: int = 200,
    seed: int = 0,
    pareto: str | None = None,
    progress: Progress = silent,
) -> Searched:
    """Find the most accurate architecture of a run's supernet within the limits; write it to `out`.

    A latency limit holds for the upper end of the predicted interval.
    """
    check_target(out, "found")
    wanted = parse_limits(limits)
    trained, supernet = load_run(run), load_supernet(run)
    by_name = load_tables(tables, supernet.space)
    costs = search_costs(supernet.space, by_name, wanted, pareto)
    data, seen = run_data(trained, supernet.space), trained.train["seed"]
    images, weights = bn_images(data, seen), weights_fingerprint(supernet)
    key = digest(weights, trained.data["fingerprint"], trained.space["fingerprint"], seen, METHOD)
    with EvaluationStore(run / STORE) as store:
        accuracy = StoredAccuracy(store, key, lambda archs: inherited_accuracies(supernet, data, archs, images))
        problem = Problem(supernet.space, accuracy, costs, wanted)
        result = run_search(problem, strategy, budget, seed, _search_progress(progress))
    best = result.best
    check_sums(best, supernet.space, by_name)
    found = Found(
        arch=best.arch,
        description=tuple(str(node.layer) for node in supernet.space.graph(best.arch)),
        accuracy=best.accuracy,
        **_predicted(best.arch, supernet.space, by_name),
        limits=wanted,
        space=supernet.space.spec,
        data=data.spec,
        run=str(run.resolve()),
        weights=weights,
        tables=dict(_table_record(path, table) for path, table in zip(tables, by_name.values(), strict=True)),
        strategy=strategy,
        evaluations=len(result.history),
        reused=accuracy.reused,
        seconds=result.seconds,
        seed=seed,
        front=_front(result, pareto, supernet.space, by_name) if pareto else (),
    )
    found.save(out)
    return Searched(found, result)


def _table_record(path: Path, table: LatencyTable) -> tuple[str, dict[str, Any]]:
    return table.name, {
        "path": str(path.resolve()),
        "device": dict(table.device),
        "reference_ms": table.reference_ms,
    }


def check_sums(best: Evaluation, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> None:
    """FaultError where a cost that was searched as a sum over genes is none, so that its limit may not hold."""
    exact = {name: float(COSTS[name](space, best.arch)) for name in best.costs if name in COSTS}
    exact |= {name: table.predict(best.arch).high for name, table in tables.items()}
    for name, value in best.costs.items():
        if not math.isclose(value, exact[name], rel_tol=1e-6):
            raise FaultError(
                f"{name} of {best.arch} is {exact[name]:.6g}, the search had {value:.6g}: in {space} it is no sum "
                "over genes; let its options return None"
            )


def load_tables(paths: Sequence[Path], space: SearchSpace) -> dict[str, LatencyTable]:
    """The tables by the names of their devices, each made for `space`."""
    tables: dict[str, LatencyTable] = {}
    for path in paths:
        table = LatencyTable.load(path)
        table.check_space(space)
        if table.name in tables or table.name in COSTS:
            raise InputError(
                f"{path} is a second {table.name}: give one table per device, or profile with another name as in "
                "local:name=other"
            )
        tables[table.name] = table
    return tables


def search_costs(
    space: SearchSpace, tables: Mapping[str, LatencyTable], limits: Mapping[str, float], pareto: str | None
) -> dict[str, Callable[[Any], Any]]:
    """The costs that a search has to know: of tables the upper end of the interval, as limits are held to it."""
    costs: dict[str, Callable[[Any], Any]] = {
        name: table.upper or partial(_upper_ms, table) for name, table in tables.items()
    }
    for name in dict.fromkeys([*limits, *([pareto] if pareto else [])]):
        if name in COSTS:
            costs[name] = analytic_cost(space, name)
        elif name not in costs:
            known = ", ".join([*COSTS, *tables])
            raise InputError(f"there is no cost {name!r} (known here: {known}): add the device's --table")
    return costs


def _upper_ms(table: LatencyTable, archs: Any) -> Any:
    return table.estimate_many(archs).high


def _predicted(arch: Arch, space: SearchSpace, tables: Mapping[str, LatencyTable]) -> dict[str, Any]:
    """All costs of one architecture, latencies as predicted, with the intervals of the latter."""
    promised = {name: table.predict(arch) for name, table in tables.items()}
    costs = {name: float(price(space, arch)) for name, price in COSTS.items()}
    return {
        "costs": {**costs, **{name: estimate.ms for name, estimate in promised.items()}},
        "intervals": {name: (estimate.low, estimate.high) for name, estimate in promised.items()},
    }


def _front(
    result: SearchResult, name: str, space: SearchSpace, tables: Mapping[str, LatencyTable]
) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"arch": e.arch, "accuracy": e.accuracy, **_predicted(e.arch, space, tables)} for e in result.pareto(name)
    )


def _search_progress(progress: Progress) -> Callable[[int, int, Evaluation | None], None]:
    def report(done: int, total: int, best: Evaluation | None) -> None:
        progress(done, total, f"best accuracy {best.accuracy:.4f}" if best else "")

    return report


def export(
    found_file: Path,
    out: Path,
    device: str | None = None,
    batch: int | None = 1,
    opset: int = 18,
    progress: Progress = silent,
) -> Certificate:
    """Write the network of a FOUND.json as ONNX to `out`, and its certificate beside it as .json.

    `batch` None leaves the batch size open. With `device` the exported file is measured there.
    """
    if out.suffix != ".onnx":
        raise InputError(f"--out {out} must end in .onnx; the certificate is written beside it as .json")
    proof = out.with_suffix(".json")
    check_target(out)
    check_target(proof, "certificate")
    found = Found.load(found_file)
    run, supernet = _searched_run(found, found_file)
    data = run_data(run, supernet.space)
    progress(0, 3, "exporting")
    subnet = calibrated_subnet(supernet, found.arch, bn_images(data, run.train["seed"]))
    shape = supernet.space.input_shape(batch or 2)  # torch takes an open size of 1 for a fixed one
    model = to_onnx(subnet, [shape], opset=opset, dynamic_batch=batch is None)
    measured = Measured({}, {}, ())
    if device is not None:
        timed = model if batch == 1 else to_onnx(subnet, [supernet.space.input_shape(1)], opset=opset)
        measured = measure_exported(found, timed.SerializeToString(), load_device(device), progress)
    progress(2, 3, "comparing outputs and accuracy")
    costs = {name: float(price(supernet.space, found.arch)) for name, price in COSTS.items()}
    notes = (*measured.notes, *["the latency is that of batch 1"] * (batch != 1 and device is not None))
    certificate = certify(
        supernet, found.arch, subnet, model, data, found.weights, found.limits, costs, measured.latency, notes
    )
    certificate = replace(certificate, runtime_options={**certificate.runtime_options, **measured.options})
    proof.unlink(missing_ok=True)  # never a new network beside an old proof
    write_bytes(out, model.SerializeToString())
    certificate.save(proof)
    return certificate


def _searched_run(found: Found, source: Path) -> tuple[Run, Supernet]:
    """The run in which a network was found, unchanged since."""
    if not (Path(found.run) / RUN).is_file():
        raise InputError(f"{source} was found in the run {found.run}, which is not there any more: search again")
    run, supernet = load_run(Path(found.run)), load_supernet(found.run)
    if weights_fingerprint(supernet) != found.weights:
        raise MismatchError(f"{run.folder} was trained on since {source} was found in it: search again")
    supernet.space.check(found.arch)
    return run, supernet


@dataclass(frozen=True)
class Measured:
    """The latency of an exported network by device, how it was run there, and what to know about it."""

    latency: Mapping[str, Latency]
    options: Mapping[str, str]
    notes: tuple[str, ...]


def measure_exported(found: Found, model: bytes, device: Device, progress: Progress = silent) -> Measured:
    """The exported network's latency on `device`, beside what the table promised."""
    if device.name not in found.tables:
        known = ", ".join(found.tables) or "none"
        raise InputError(f"the search knew no table of {device.name} (tables: {known}): search with --table")
    table = found.tables[device.name]
    check_device(table["device"], device)
    result = device.measure([Job("network", model)], device_progress(progress))
    timing = result.timings["network"]
    low, high = found.intervals[device.name]
    latency = Latency(
        predicted_ms=found.costs[device.name],
        low_ms=low,
        high_ms=high,
        measured_ms=timing.ratio * table["reference_ms"],
        raw_ms=timing.raw_ms,
        limit_ms=found.limits.get(device.name),
    )
    notes = []
    if not result.settled:
        notes.append(f"{device.name} was restless: its measurement is known to +-{timing.half_width:.1%} only")
    slower = result.reference_ms / table["reference_ms"] - 1
    if abs(slower) > SLOWER:
        notes.append(f"{device.name} now runs {abs(slower):.0%} {'slower' if slower > 0 else 'faster'} than profiled")
    options = {name: value for name, value in device.fingerprint().items() if name != "name"}
    return Measured({device.name: latency}, options, tuple(notes))
