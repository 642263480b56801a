"""The networks of a report: what a search found and what an export proved of it, side by side, and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..export.certificate import Certificate, Latency
from ..latency import LatencyTable
from ..search.found import Found
from ..supernet.cost import COSTS
from ..supernet.metrics import METRICS
from ..supernet.space import Arch
from .read import Inputs
from .spaces import of_space, predicts

BASELINE = "random"  # the strategy that others are compared with
CLOUD, LEAST = 3000, 100  # evaluated networks that all charts together show at most, and that each may show
LATENCY, EMULATED = "latency", "emulated time (no latency)"  # what times are called

BY_SEARCH = "by the search"  # where a network was measured that was not exported yet


@dataclass(frozen=True)
class Network:
    """A network with a name that no other in the report has; `found` or `proof` may be missing, never both."""

    name: str
    found: Found | None
    proof: Certificate | None

    @property
    def arch(self) -> Arch:
        """Its genes."""
        return self.found.arch if self.found else self.proof.arch if self.proof else ()

    @property
    def space(self) -> str:
        """What names its space."""
        return self.found.space if self.found else self.proof.space if self.proof else ""

    @property
    def metric(self) -> str:
        """What its accuracies are values of."""
        return self.found.metric if self.found else self.proof.metric if self.proof else "accuracy"

    @property
    def limits(self) -> Mapping[str, float]:
        """By cost: counts, bytes, or ms on a device."""
        return self.found.limits if self.found else self.proof.limits if self.proof else {}

    @property
    def is_baseline(self) -> bool:
        """Whether it was drawn at random, for others to be compared with."""
        return self.found is not None and self.found.strategy == BASELINE

    def times(self) -> Iterator[Times]:
        """What is known of its latency on every device."""
        measured = self.proof.latency if self.proof else {}
        for name, (low, high) in (self.found.intervals if self.found else {}).items():
            if name not in measured and self.found:
                costs, seen = self.found.costs, self.found.measured.get(name)
                yield Times(name, costs[name], low, high, seen, self.limits.get(name), BY_SEARCH)
        for name, t in measured.items():
            limit = self.limits.get(name, t.limit_ms) if t.judges else None
            yield Times(name, t.predicted_ms, t.low_ms, t.high_ms, t.measured_ms, limit, where(t))


def where(t: Latency) -> str:
    """On what a latency was measured."""
    return f"on the network {t.timed_as}" if t.timed_as else "on the exported file"


@dataclass(frozen=True)
class Times:
    """One network on one device, in ms: promised with its 90 % interval, measured (None: not yet), the limit."""

    device: str
    promised: float
    low: float
    high: float
    measured: float | None
    limit: float | None
    where: str

    @property
    def kept(self) -> bool | None:
        """Whether the measurement keeps the limit; None where there is none of either."""
        return None if self.measured is None or self.limit is None else self.measured <= self.limit

    @property
    def proven(self) -> bool | None:
        """The same, but None where it was not the exported file that was measured, and keeps the limit."""
        return None if self.where == BY_SEARCH and self.kept else self.kept


def networks_of(inputs: Inputs) -> list[Network]:
    """Every network of the inputs, the fastest first: what was found with its proof, and proofs of others."""
    pairs: list[tuple[Path, Found | None, Certificate | None]] = []
    for path, found in inputs.found.items():
        own = [(file, proof) for file, proof in inputs.certificates.items() if _proves(proof, found)]
        if len(own) > 1:  # exported more than once: in int8, for a phone
            pairs += [(file, found, proof) for file, proof in own]
        else:
            pairs.append((path, found, own[0][1] if own else None))
    for path, proof in inputs.certificates.items():
        if not any(_proves(proof, found) for found in inputs.found.values()):
            pairs.append((path, None, proof))
    names = short([path for path, _, _ in pairs])
    networks = [Network(name, found, proof) for name, (_, found, proof) in zip(names, pairs, strict=True)]
    return sorted(networks, key=lambda n: min((t.promised for t in n.times()), default=0.0))


def _proves(proof: Certificate, found: Found) -> bool:
    """Whether an export is of what was found: the same network, within the same limits, with promises that it has."""
    same = (proof.arch, proof.weights, proof.limits) == (found.arch, found.weights, found.limits)
    return same and proof.latency.keys() <= found.intervals.keys()


def short(paths: Sequence[Path]) -> list[str]:
    """A name for each file or folder, as short as tells them apart."""

    def name(path: Path, parts: int) -> str:
        file = path.name.removesuffix(".rejected")
        stem = file.removesuffix(".json").removesuffix("-found") + " (rejected)" * (file != path.name)
        kept = path.parts[:-1] if stem == "found" and len(path.parts) > 1 else (*path.parts[:-1], stem)
        return "/".join(kept[-parts:])

    names = [name(path, 1) for path in paths]
    for parts in range(2, 9):
        if len(set(names)) == len(names):
            break
        names = [name(path, parts) if names.count(old) > 1 else old for path, old in zip(paths, names, strict=True)]
    return names


@dataclass(frozen=True)
class Point:
    """An evaluated network: genes, what a table promises in ms, and its accuracy."""

    arch: Arch
    ms: float
    accuracy: float


@dataclass(frozen=True)
class Field:
    """Networks that can be compared: of one space, data and metric, on one device.

    `points` are those `evaluated` there, of all fields together at most CLOUD, `front` those that no other is better
    and faster than; `among` names the networks that are of them, with the weights by which all were judged. `time` is
    what the device's times are called.
    """

    device: str
    space: str
    metric: str
    networks: tuple[Network, ...]
    among: frozenset[str]
    evaluated: int
    points: tuple[Point, ...]
    front: tuple[Point, ...]
    time: str = LATENCY

    def times(self) -> list[tuple[Network, Times]]:
        """Each network with its times here, the fastest first."""
        both = [(network, t) for network in self.networks for t in network.times() if t.device == self.device]
        return sorted(both, key=lambda pair: pair[1].promised)


def fields_of(inputs: Inputs, networks: Iterable[Network]) -> list[Field]:
    """The fields of all found networks, device by device."""
    groups: dict[tuple[str, str, str, str], list[Network]] = {}
    for network in networks:
        for times in network.times():
            data = network.found.data if network.found else ""
            groups.setdefault((times.device, network.space, data, network.metric), []).append(network)
    fields, most = [], max(LEAST, CLOUD // max(1, len(groups)))
    for (device, space, _, metric), members in groups.items():
        points = list(_points(inputs, members, device))
        judged = {(point.arch, point.accuracy) for point in points}
        among = frozenset(n.name for n in members if n.found and (n.arch, n.found.accuracy) in judged)
        kept, shown = tuple(front(points, direction(metric))), thinned(points, most)
        time = time_of(inputs, device)
        fields.append(Field(device, space, metric, tuple(members), among, len(points), shown, kept, time))
    return fields


def time_of(inputs: Inputs, device: str) -> str:
    """What the times of a device are called, by its label: those of an emulated one are no latency of any device."""
    known = [(table.name, table.device) for table in inputs.tables.values()]
    known += [(name, table["device"]) for found in inputs.found.values() for name, table in found.tables.items()]
    labels = {fingerprint.get("label") for name, fingerprint in known if name == device.partition(".")[0]}
    return EMULATED if "emulated" in labels else LATENCY


def _points(inputs: Inputs, members: Sequence[Network], device: str) -> Iterator[Point]:
    """What is known of a field: stored evaluations priced by its table, and the fronts that searches wrote."""
    archs = evaluated(inputs, members)
    table = table_of(inputs, device, members[0])
    if archs and table is not None and predicts(table):
        ms = table.predict_many(list(archs))
        for (arch, accuracy), time in zip(archs.items(), ms.tolist(), strict=True):
            if math.isfinite(accuracy) and math.isfinite(time):
                yield Point(arch, time, accuracy)
    for found in (network.found for network in members if network.found):
        for point in found.front:
            if device in point["costs"] and point["arch"] not in archs:
                yield Point(point["arch"], point["costs"][device], point["accuracy"])


def evaluated(inputs: Inputs, members: Sequence[Network]) -> dict[Arch, float]:
    """The stored evaluations among which the found networks are, with the very accuracies that were found."""
    known: dict[Arch, float] = {}
    for trained in inputs.runs.values():
        for stored in trained.evaluations.values():
            if any(n.found and stored.get(n.found.arch) == n.found.accuracy for n in members):
                known |= stored
    return known


def table_of(inputs: Inputs, device: str, network: Network) -> LatencyTable | None:
    """The table of a device for a network's space, also of another statistic such as `pixel8.p95`."""
    name, _, statistic = device.partition(".")
    tables = sorted(inputs.tables.values(), key=lambda table: not table.validation)  # whose promise was tested first
    for table in tables:
        if table.timed and of_space(table, network.space, network.arch):
            if device == table.name:
                return table
            if name == table.name and statistic in table.felt:
                return table.statistic(statistic)
    return None


def front(points: Iterable[Point], better: int) -> list[Point]:
    """Of points those that no other is both faster and better than, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -better * p.accuracy)):
        if not kept or better * point.accuracy > better * kept[-1].accuracy:
            kept.append(point)
    return kept


def thinned(points: Sequence[Point], most: int = CLOUD) -> tuple[Point, ...]:
    """At most so many of them, evenly."""
    rows = np.linspace(0, len(points) - 1, min(most, len(points))).round().astype(int).tolist()
    return tuple(points[row] for row in rows)


def genes(arch: Arch) -> str:
    """An architecture as files name it: 0-2-1."""
    return "-".join(map(str, arch))


def is_fraction(metric: str) -> bool:
    """Whether a metric is read in %."""
    return metric in METRICS and METRICS[metric].task == "classification"


def direction(metric: str) -> int:
    """1 where more of a metric is better, also of one that is not known, -1 where less is."""
    return METRICS[metric].direction if metric in METRICS else 1


def accuracy_words(value: float, metric: str) -> str:
    """An accuracy as people read it: fractions in %, errors as numbers."""
    return percent(value) if is_fraction(metric) else f"{value:.4g}"


def percent(value: float, form: str = ".1f") -> str:
    """A fraction in %."""
    return f"{100 * value:{form}} %"


def ms_words(value: float) -> str:
    """A time in ms with three digits."""
    return (f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:.0f}") + " ms"


def cost_words(name: str, value: float) -> str:
    """A cost with its unit."""
    if name not in COSTS:
        return ms_words(value)
    unit, size = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6), ("K", 1e3)) if value >= s), ("", 1.0))
    return f"{value / size:.3g}{unit}" + "B" * (name == "memory")
