"""What a report is made of: files that other commands wrote, recognised by what they say of themselves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..export.certificate import PLAIN, Certificate, Latency, MobileCheck, Tolerance
from ..export.certificate import VERSION as CERTIFICATE_VERSION
from ..export.targets import TargetCheck
from ..files import read_json
from ..latency import LatencyTable
from ..latency.table import VERSION as TABLE_VERSION
from ..latency.validation import NetworkCheck
from ..names import is_attribute
from ..search.found import FRONTS, FRONTS_VERSION, Found
from ..search.store import STORE, read_store
from ..supernet.checkpoint import RUN, Run, load_run, read_metrics
from ..supernet.ranking import Figure, Ranking
from ..supernet.space import Arch
from .spaces import UnreadSpace, shared

READABLE = (
    "the folder of a run, a latency table, a search's FOUND.json, an export's certificate, what hwnas validate or "
    "hwnas rank wrote with --out, a transfer matrix, or a folder with any of them"
)
FOREIGN = "none of these"
SHOWN = (".json", ".json.rejected")  # how the files end that are looked into
UNREAD = ("footprint", "devices")  # of a certificate


@dataclass(frozen=True)
class Trained:
    """A run: its settings, the metrics of its epochs, and its evaluations by what evaluated them."""

    run: Run
    metrics: tuple[Mapping[str, float], ...]
    evaluations: Mapping[str, Mapping[Arch, float]]
    fronts: tuple[str, ...]  # words on each front that a search looked for


@dataclass(frozen=True)
class Checked:
    """What `hwnas validate` found: the networks, the error and the floor.

    `device` is empty in files of before, and so is what was `asked`, here as elsewhere: options as they were given.
    """

    device: str
    networks: tuple[NetworkCheck, ...]
    mape: float
    floor: float | None
    asked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """What `hwnas rank` found: networks as (inherited, trained alone, cost), and how they are ranked.

    `truth` is the file of what networks reach, "" where they were trained; `lost` counts those not ranked.
    """

    cost: str
    metric: str
    ranking: Ranking
    networks: tuple[tuple[float, float, float], ...]
    truth: str = ""
    lost: int = 0
    asked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moved:
    """A network on every target of a transfer matrix: what it was found for, and (ms, low, high) by target."""

    found_for: str
    accuracy: float
    ms: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Transfer:
    """A measured transfer matrix: the limit of each target in ms, and the networks."""

    limits: Mapping[str, float]
    networks: tuple[Moved, ...]


@dataclass(frozen=True)
class Inputs:
    """Everything that was read, by file: a run by its folder."""

    found: Mapping[Path, Found]
    certificates: Mapping[Path, Certificate]
    tables: Mapping[Path, LatencyTable]
    runs: Mapping[Path, Trained]
    validations: Mapping[Path, Checked]
    rankings: Mapping[Path, Ranked]
    transfers: Mapping[Path, Transfer]


def read_inputs(paths: Sequence[Path]) -> Inputs:
    """Read all `paths`, folders with everything in them that is known.

    InputError for a file that is not known or damaged, MismatchError for one of another format version.
    """
    read: dict[str, dict[Path, Any]] = {field.name: {} for field in fields(Inputs)}
    seen = set[Path]()
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no {path}: name {READABLE}")
        known = list(_known(path))
        for kind, file in known:
            if file.resolve() not in seen:
                read[kind][file] = _load(kind, file)
                seen.add(file.resolve())
        if not known:
            raise InputError(f"nothing in the folder {path} can be shown: name {READABLE}")
    return Inputs(**{**read, "tables": shared(read["tables"])})


def _known(path: Path) -> Iterator[tuple[str, Path]]:
    """The (kind, file) of a path: of a folder those of all files and runs in it, but not of what lies in runs."""
    if not path.is_dir():
        kind = _kind(path)
        if kind == FOREIGN:
            raise InputError(f"{path} is nothing that a report shows: name {READABLE}")
        yield kind, path.parent if kind == "runs" else path
        return
    for folder, inner, files in os.walk(path):
        inner.sort()
        if RUN in files and _kind(Path(folder, RUN)) == "runs":
            inner.clear()
            yield "runs", Path(folder)
        for file in (Path(folder, name) for name in sorted(files) if name.endswith(SHOWN) and name != RUN):
            if (kind := _kind(file)) != FOREIGN:
                yield kind, file


def _kind(file: Path) -> str:
    """The field of `Inputs` that a file belongs to."""
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return FOREIGN
    return KINDS.get(str(data.get("format")), FOREIGN) if isinstance(data, dict) else FOREIGN


def _load(kind: str, file: Path) -> Any:
    """What a file holds; whatever is wrong in it is an InputError that names it."""
    try:
        return LOADERS[kind](file)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{file} is damaged ({type(error).__name__}: {error}): write it again") from error


def _found(file: Path) -> Found:
    found = Found.load(file)
    if missing := found.intervals.keys() - found.costs.keys():
        raise KeyError(min(missing))
    tables = {
        str(name): {**table, "path": str(table["path"]), "device": _texts(table.get("device", {}))}
        for name, table in found.tables.items()
    }
    front = tuple(
        {**point, "arch": tuple(map(int, point["arch"])), "accuracy": _number(point["accuracy"])}
        for point in found.front
    )
    return replace(
        found,
        description=tuple(map(str, found.description)),
        accuracy=_number(found.accuracy),
        costs=_numbers(found.costs),
        intervals={name: (_number(low), _number(high)) for name, (low, high) in found.intervals.items()},
        limits=_numbers(found.limits),
        tables=tables,
        run=str(found.run),
        measured=_numbers(found.measured),
        evaluations=int(found.evaluations),
        seconds=_number(found.seconds),
        seed=int(found.seed),
        front=tuple({**point, "costs": _numbers(point["costs"])} for point in front),
    )


def _certificate(file: Path) -> Certificate:
    """A certificate; fields that this version does not know are left out."""
    data = read_json(file, "certificate", CERTIFICATE_VERSION)
    known = {
        field.name: data[field.name] for field in fields(Certificate) if field.name in data and field.name not in UNREAD
    }
    names = {field.name for field in fields(Latency)} - {"timed_as", "of_file", "sure"}
    latency = {
        str(device): Latency(
            **{name: _maybe(value) for name, value in times.items() if name in names},
            timed_as=str(times.get("timed_as", "")),
            of_file=bool(times.get("of_file", True)),
            sure=bool(times.get("sure", True)),
        )
        for device, times in data["latency"].items()
    }
    low, high = data["accuracy_interval"]
    numbers = {name: _number(data[name]) for name in ("max_abs_diff", "accuracy_torch", "accuracy_onnx")}
    counts = {name: int(data[name]) for name in ("test_images", "size_bytes", "opset")}
    checked = {
        "arch": tuple(int(gene) for gene in data["arch"]),
        "latency": latency,
        "limits": _numbers(data["limits"]),
        "costs": _numbers(data["costs"]),
        "accuracy_interval": (_number(low), _number(high)),
        "notes": tuple(map(str, data.get("notes", ()))),
        "rejected": tuple(map(str, data.get("rejected", ()))),
        "targets": tuple(_target(check) for check in data.get("targets", ())),
        "within_limits": _truth(data["within_limits"]),
        "size_fp32_bytes": _maybe(data.get("size_fp32_bytes")),
        "metric": str(data.get("metric", "accuracy")),
        "device": str(data.get("device", "")),
        "tolerance": _tolerance(data["tolerance"]) if data.get("tolerance") else PLAIN,
        "mobile": _mobile(data["mobile"]) if data.get("mobile") else None,
        "runtime_options": _texts(data["runtime_options"]),
    }
    return Certificate(**{**known, **numbers, **counts, **checked})


def _truth(value: object) -> bool | None:
    if value not in (True, False, None):
        raise ValueError(f"{value!r} is neither true nor false")
    return value if value is None else bool(value)


def _tolerance(data: Mapping[str, Any]) -> Tolerance:
    return Tolerance(_number(data["outputs"]), _number(data["metric"]), bool(data.get("drop")))


def _mobile(data: Mapping[str, Any]) -> MobileCheck:
    return MobileCheck(_number(data["max_abs_diff"]), int(data["size_bytes"]), str(data["sha256"]))


def _target(data: Mapping[str, Any]) -> TargetCheck:
    """What another reader made of the file."""
    return TargetCheck(
        str(data["name"]),
        str(data["label"]),
        str(data["version"]),
        _maybe(data["max_abs_diff"]),
        _truth(data["agrees"]),
        fell_back=None if (fell_back := data.get("fell_back")) is None else tuple(map(str, fell_back)),
        size_bytes=data["size_bytes"] if data.get("size_bytes") is None else int(data["size_bytes"]),
        reason=str(data["reason"]),
        images=int(data["images"]),
    )


def _table(file: Path) -> LatencyTable:
    """A table; where its space is code of someone's, that is not run, and the table predicts nothing."""
    record = read_json(file, "table", TABLE_VERSION)["space"]
    unread = record["recipe"] is None and is_attribute(str(record["spec"]))
    table = LatencyTable.load(file, UnreadSpace(str(record["spec"])) if unread else None)
    device = _texts(table.device) | {"name": str(table.device["name"])}
    if not table.validation:
        return replace(table, device=device)
    floor, nets = _maybe(table.validation.get("floor_mape")), int(table.validation["nets"])
    figures = {"mape": _number(table.validation["mape"]), "fit_for_use": bool(table.validation["fit_for_use"])}
    return replace(table, device=device, validation={**figures, "nets": nets, "floor_mape": floor})


def _run(folder: Path) -> Trained:
    run = load_run(folder)
    if not all(isinstance(record["spec"], str) for record in (run.space, run.data)):
        raise TypeError("a spec is no text")
    metrics = tuple({str(name): float(value) for name, value in line.items()} for line in read_metrics(folder))
    store = folder / STORE
    fronts = read_json(folder / FRONTS, "fronts", FRONTS_VERSION)["fronts"] if (folder / FRONTS).is_file() else []
    words = tuple(f"accuracy against {front['name']}, {int(front['evaluations'])} evaluations" for front in fronts)
    return Trained(run, metrics, read_store(store) if store.is_file() else {}, words)


def _validation(file: Path) -> Checked:
    data = read_json(file, "validation", 1)
    names = [field.name for field in fields(NetworkCheck) if field.name != "arch"]
    rows = tuple(
        NetworkCheck(arch=tuple(row["arch"]), **{name: _maybe(row[name]) for name in names})
        for row in data["measurements"]
    )
    if not all(row.predicted_ms > 0 for row in rows):
        raise ValueError("a prediction is not positive")
    floor = _maybe(data["floor_mape"])
    return Checked(str(data.get("device", "")), rows, _number(data["mape"]), floor, _asked(data))


def _asked(data: Mapping[str, Any]) -> dict[str, str]:
    """Options of the command that wrote a file."""
    return _texts(data.get("asked", {}))


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


def _ranking(file: Path) -> Ranked:
    data = read_json(file, "ranking", 1)
    figures: dict[str, Any] = {
        name: Figure(**{end: _number(value) for end, value in figure.items()}) if isinstance(figure, dict) else figure
        for name, figure in data["supernet"].items()
    }
    points = tuple(
        (_number(net["inherited"]), _number(net["accuracy"]), _number(net["cost"])) for net in data["networks"]
    )
    ranked = [net["arch"] for net in data["networks"]]
    lost = [arch for arch, _ in data.get("lost", ()) if arch not in ranked]  # else it was the second seed's training
    truth = str(data.get("truth", ""))
    return Ranked(str(data["cost"]), str(data["metric"]), Ranking(**figures), points, truth, len(lost), _asked(data))


def _transfer(file: Path) -> Transfer:
    data = read_json(file, "transfer", 1)
    networks = tuple(
        Moved(
            str(row["found_for"]),
            _number(row["accuracy"]),
            {str(name): (_number(ms), _number(low), _number(high)) for name, (ms, low, high) in row["ms"].items()},
        )
        for row in data["networks"]
    )
    return Transfer(_numbers(data["limits"]), networks)


def _number(value: Any) -> float:
    """A finite number as JSON has it; anything else is a ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _maybe(value: Any) -> Any:
    return None if value is None else _number(value)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in values.items()}


KINDS = {
    "hwnas.found": "found",
    "hwnas.certificate": "certificates",
    "hwnas.table": "tables",
    "hwnas.run": "runs",
    "hwnas.validation": "validations",
    "hwnas.ranking": "rankings",
    "hwnas.transfer": "transfers",
}  # formats, by the field of Inputs
LOADERS: dict[str, Callable[[Path], Any]] = {
    "found": _found,
    "certificates": _certificate,
    "tables": _table,
    "runs": _run,
    "validations": _validation,
    "rankings": _ranking,
    "transfers": _transfer,
}
