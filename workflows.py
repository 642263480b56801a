"""One function per command: the only place that ties the folders together. For programs too."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .devices import Device, Job, load_device
from .errors import InputError, MismatchError, unknown_name
from .export import Certificate, Latency, certify, to_onnx
from .files import check_target, digest, exclusive, write_bytes, write_json
from .latency import LatencyTable, Validation, analytic_cost
from .latency import profile as profile_device
from .latency import validate as validate_table
from .latency.cost import COSTS
from .latency.profile import device_progress
from .names import written
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
from .supernet.chain import ChainSpace
from .supernet.checkpoint import CHECKPOINT, RUN, weights_fingerprint
from .supernet.data import data_record
from .supernet.evaluation import BN_IMAGES, bn_images, calibrated_subnet, inherited_accuracies
from .supernet.recipe import to_toml
from .supernet.space import Arch
from .supernet.spaces import space_record
from .supernet.training import steps_per_epoch

STORE = "evaluations.sqlite"
VALIDATION_VERSION = 1
SETTABLE = ("spaces", "devices")  # what takes settings behind its name


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
    if data_record(data) != run.data:
        raise MismatchError(f"the images of {data.spec} have changed since {run.folder} was trained: train it anew")
    return data


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
    check_target(out)
    loaded, where = space_of(space), load_device(device)
    samples = out.with_name(out.name + ".samples")
    if samples.exists() and not resume:
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
        check_target(out)
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
    check_target(out)
    wanted = parse_limits(limits)
    trained = load_run(run)
    supernet = load_supernet(run)
    by_name = load_tables(tables, supernet.space)
    costs = search_costs(supernet.space, by_name, wanted, pareto)
    weights = weights_fingerprint(supernet)
    data, bn_seed = run_data(trained, supernet.space), trained.train["seed"]
    key = digest(weights, trained.data["fingerprint"], bn_seed, BN_IMAGES)
    with EvaluationStore(run / STORE) as store:
        accuracy = StoredAccuracy(store, key, lambda archs: inherited_accuracies(supernet, data, archs, bn_seed))
        problem = Problem(supernet.space, accuracy, costs, wanted)
        result = run_search(problem, strategy, budget, seed, _search_progress(progress))
    found = Found(
        arch=result.best.arch,
        description=tuple(str(node.layer) for node in supernet.space.graph(result.best.arch)),
        accuracy=result.best.accuracy,
        **_predicted(result.best.arch, supernet.space, by_name),
        limits=wanted,
        space=supernet.space.spec,
        data=data.spec,
        run=str(run.resolve()),
        weights=weights,
        tables={
            name: {
                "path": str(path.resolve()),
                "device": dict(table.device),
                "reference_ms": table.reference_ms,
            }
            for path, (name, table) in zip(tables, by_name.items(), strict=True)
        },
        strategy=strategy,
        evaluations=len(result.history),
        reused=accuracy.reused,
        seconds=result.seconds,
        seed=seed,
        front=_front(result, pareto, supernet.space, by_name) if pareto else (),
    )
    found.save(out)
    return Searched(found, result)


def load_tables(paths: Sequence[Path], space: SearchSpace) -> dict[str, LatencyTable]:
    """The tables by the names of their devices, each made for `space`."""
    tables: dict[str, LatencyTable] = {}
    for path in paths:
        table = LatencyTable.load(path)
        table.check_space(space)
        if table.name in tables:
            raise InputError(f"{path} is a second table of {table.name}: give one table per device")
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
    if out.with_suffix(".json").absolute() == found_file.absolute():
        raise InputError(f"the certificate of {out} would overwrite {found_file}: give --out another name")
    check_target(out)
    found = Found.load(found_file)
    run = load_run(Path(found.run))
    supernet = load_supernet(run.folder)
    if weights_fingerprint(supernet) != found.weights:
        raise MismatchError(f"{run.folder} was trained on since {found_file} was found in it: search again")
    supernet.space.check(found.arch)
    data = run_data(run, supernet.space)
    progress(0, 3, "exporting")
    subnet = calibrated_subnet(supernet, found.arch, bn_images(data, run.train["seed"]))
    shape = supernet.space.input_shape(batch or 2)  # torch takes an open size of 1 for a fixed one
    model = to_onnx(subnet, [shape], opset=opset, dynamic_batch=batch is None)
    latency = {}
    if device is not None:
        progress(1, 3, f"measuring on {device}")
        timed = model if batch == 1 else to_onnx(subnet, [supernet.space.input_shape(1)], opset=opset)
        latency = measure_exported(found, timed.SerializeToString(), load_device(device))
    progress(2, 3, "comparing outputs and accuracy")
    costs = {name: value for name, value in found.costs.items() if name in COSTS}
    certificate = certify(supernet, found.arch, subnet, model, data, found.weights, found.limits, costs, latency)
    write_bytes(out, model.SerializeToString())
    certificate.save(out.with_suffix(".json"))
    return certificate


def measure_exported(found: Found, model: bytes, device: Device, progress: Progress = silent) -> dict[str, Latency]:
    """The exported network's latency on `device`, beside what the table promised."""
    if device.name not in found.tables:
        known = ", ".join(found.tables) or "none"
        raise InputError(f"the search knew no table of {device.name} (tables: {known}): search with --table")
    table = found.tables[device.name]
    check_device(table["device"], device)
    measured = device.measure([Job("network", model)], device_progress(progress)).timings["network"]
    low, high = found.intervals[device.name]
    return {
        device.name: Latency(
            predicted_ms=found.costs[device.name],
            low_ms=low,
            high_ms=high,
            measured_ms=measured.ratio * table["reference_ms"],
            raw_ms=measured.raw_ms,
            limit_ms=found.limits.get(device.name),
        )
    }


def names(kind: str) -> list[tuple[str, str, str]]:
    """The built-in spaces, data, devices or strategies: name, first line of documentation, settings."""
    from .devices import DEVICES
    from .search import STRATEGIES
    from .supernet.sources import DATA
    from .supernet.spaces import SPACES

    kinds: dict[str, Mapping[str, object]] = {
        "spaces": SPACES,
        "data": DATA,
        "devices": DEVICES,
        "strategies": STRATEGIES,
    }
    if kind not in kinds:
        raise unknown_name("thing to list", kind, kinds)
    return [
        (name, (thing.__doc__ or "").strip().splitlines()[0], _settings(thing) if kind in SETTABLE else "")
        for name, thing in kinds[kind].items()
    ]


def _settings(thing: Any) -> str:
    """The settings of a space or device with their defaults, as they are written behind its name."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(thing).parameters.items()}
    return ",".join(f"{name}={written(value)}" for name, value in defaults.items())


def space_toml(text: str) -> str:
    """A space made of stages as the TOML file that would define it."""
    space = load_space(text)
    if not isinstance(space, ChainSpace):
        raise InputError(f"{space} is written in Python: it has no TOML form")
    return to_toml(space.recipe)
