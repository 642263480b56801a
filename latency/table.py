"""The latency table: measured layers, calibrated by whole networks, as a predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, MismatchError, MissingLayerError
from ..files import read_json, write_json
from ..supernet.additive import AdditiveCost, additive
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from ..supernet.spaces import recorded_space, space_record
from .calibration import Calibration, Network, Sizes, interval, sizes_of
from .spread import spread

VERSION = 3
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A latency in ms with its 90 % interval."""

    ms: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Estimates:
    """Latencies (n,) in ms with their 90 % intervals."""

    ms: Floats
    low: Floats
    high: Floats


class Predictor(Protocol):
    """Something that tells the latency of architectures: a table, or a model of whole networks."""

    def predict_many(self, archs: ArrayLike) -> Floats:
        """(n, choices) integers, or a list of tuples -> (n,) ms."""

    def estimate_many(self, archs: ArrayLike) -> Estimates:
        """The same with intervals."""


@dataclass(frozen=True)
class Entry:
    """One layer, measured alone: ms with a 90 % interval, and the rounds that it took."""

    ms: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Latencies of all layers of a space on one device: a Predictor.

    `device` is the fingerprint of what was measured, its `name` the table's name in limits and costs.
    `reference_ms` is the nominal time of the device's reference network: what is measured later is a ratio to the
    reference, times this, less what has changed since (`anchors`). `felt` holds calibrations for other statistics than
    the median: `p95`, and `sustained` (after `sustained_s` under load). `rejected` are
    layers that can't run there, with the reason. `validation` is what `hwnas validate` found. `told_by` are the devices
    whose tables told the layers, where networks alone were measured (`profile --from`); `told_error` is what these were
    missed by when each was left out in turn: the mean, as a fraction. `asked` are options of the command that made the
    table, as they were given.
    """

    device: Mapping[str, str]
    space: SearchSpace
    entries: Mapping[Layer, Entry]
    calibration: Calibration
    reference_ms: float
    felt: Mapping[str, Calibration] = field(default_factory=dict)
    sustained_s: float = 0.0
    rejected: Mapping[Layer, str] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None
    told_by: tuple[str, ...] = ()
    told_error: float | None = None
    asked: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the table in limits and costs: its device's."""
        return self.device["name"]

    def statistic(self, name: str) -> LatencyTable:
        """The table of another statistic, such as `p95`, under the name `DEVICE.p95`."""
        if name not in self.felt:
            known = ", ".join(self.felt) or "none"
            raise InputError(
                f"the table of {self.name} has no {name} (known: {known}); p95 comes with every profile, "
                "sustained with hwnas profile --sustained SECONDS"
            )
        device = {**self.device, "name": f"{self.name}.{name}"}
        return replace(self, device=device, calibration=self.felt[name], felt={})

    def times(self, factor: float, margin: float, device: Mapping[str, str]) -> LatencyTable:
        """The table of the device that `device` has become: all takes `factor` as long, known to +- `margin` more.

        The nominal time of the reference stays: times are ratios to it, whatever the clock says by now.
        """
        entries = {
            layer: replace(e, ms=e.ms * factor, low=e.low * factor, high=e.high * factor)
            for layer, e in self.entries.items()
        }
        return replace(
            self,
            device=device,
            entries=entries,
            calibration=self.calibration.rescaled(factor, margin),
            felt={name: calibration.rescaled(factor, margin) for name, calibration in self.felt.items()},
            validation=None,
        )

    @property
    def timed(self) -> bool:
        """Whether there are times in it: a device that only compiles gives none."""
        return any(entry.rounds for entry in self.entries.values())

    def layers_of(self, arch: Sequence[int]) -> list[Layer]:
        """The layers of `arch` that take time; one never measured is an error."""
        layers = [node.layer for node in self.space.graph(tuple(arch))]
        for layer in layers:
            if layer not in self.entries:
                raise MissingLayerError(
                    f"{self.name} has no measurement of {layer}; run: hwnas profile --space {self.space}"
                )
        return [layer for layer in layers if self.entries[layer].rounds]

    def calibrated(self, fitted: Calibration) -> LatencyTable:
        """This table with a calibration, whose networks take in the mean what they were fitted to.

        No layer takes less than nothing. One that would, by the fit, is often the first, which is in every network.
        """
        table = replace(self, calibration=fitted)
        more_ms = [table.network_ms(network.arch) - fitted.fitted_ms(network) for network in fitted.networks]
        offset_ms = fitted.offset_ms - float(np.mean(more_ms or [0.0]))
        return replace(table, calibration=replace(fitted, offset_ms=offset_ms))

    def network(self, arch: Arch, measured_ms: float) -> Network:
        """A measured network with the sums over its layers, as a calibration is fitted to it."""
        layers, overhead_ms = self.layers_of(arch), self.calibration.overhead_ms
        alone = sum(max(self.entries[layer].ms - overhead_ms, 0.0) for layer in layers)
        sizes = np.reshape([sizes_of(self.space, layer) for layer in layers], (-1, 3)).sum(axis=0)
        return Network(arch, alone, measured_ms, _sizes(sizes.tolist()))

    @cached_property
    def _layer_ms(self) -> dict[Layer, float]:
        """What every timed layer takes within a network."""
        timed = {layer: entry.ms for layer, entry in self.entries.items() if entry.rounds}
        return {layer: self.calibration.layer_ms(ms, sizes_of(self.space, layer)) for layer, ms in timed.items()}

    def network_ms(self, arch: Sequence[int]) -> float:
        """The latency of `arch`: the calibrated layers added up."""
        return sum(self._layer_ms[layer] for layer in self.layers_of(arch)) + self.calibration.offset_ms

    @cached_property
    def cost(self) -> AdditiveCost | None:
        """The predicted latency as a sum over genes; None where the space's genes don't add up."""
        return additive(self.space, self.network_ms)

    @property
    def upper_sum(self) -> AdditiveCost | None:
        """The upper end of the interval as a sum over genes, also of layers that can't run; None where it is none."""
        return self.cost.affine(1 + self.calibration.margin, 0.0) if self.cost else None

    @property
    def upper(self) -> AdditiveCost | Callable[[ArrayLike], Floats]:
        """The upper end of the interval: what a limit is held against.

        A sum over genes where it is one, else a function of a batch, which is infinite where the device can't run a
        layer: exact methods apply to the first alone.
        """
        return (None if self.rejected else self.upper_sum) or self._upper_ms

    def _upper_ms(self, archs: ArrayLike) -> Floats:
        return self.estimate_many(archs).high

    def rejections(self, arch: Sequence[int]) -> float:
        """How many layers of `arch` the device can't run: a network with any is none for it."""
        return float(sum(node.layer in self.rejected for node in self.space.graph(tuple(arch))))

    def range_ms(self) -> tuple[float, float]:
        """Least and largest latency of networks that can run: exact for a sum over genes, else of bred ones.

        InputError where each has a layer that the device rejects.
        """
        if self.cost and not self.rejected:
            return self.cost.bounds()
        fastest, slowest = spread(self.space, self.cost or self.predict_many, 2, seed=0, without=self.rejected)
        return self.network_ms(fastest), self.network_ms(slowest)

    def check_timed(self) -> None:
        """InputError where there are no times in it."""
        if not self.timed:
            raise InputError(
                f"the table of {self.name} has no times: the device only compiles, and tells what it can't run"
            )

    def predict_many(self, archs: ArrayLike) -> Floats:
        """Latencies of a batch: (n, choices) integers -> (n,) ms; infinite where the device can't run a layer."""
        listed = cast(Sequence[Arch], archs)
        ms = self.cost(archs) if self.cost is not None else np.array([self.network_ms(arch) for arch in listed])
        if self.rejected:
            ms = np.where([self.rejections(arch) > 0 for arch in listed], np.inf, ms)
        return ms

    def estimate_many(self, archs: ArrayLike) -> Estimates:
        """Latencies of a batch with their 90 % intervals."""
        ms = self.predict_many(archs)
        return Estimates(ms, *interval(ms, self.calibration.margin))

    def predict(self, arch: Sequence[int]) -> Estimate:
        """The latency of one architecture with its 90 % interval: the sum over its layers itself.

        InputError names a layer that the device can't run.
        """
        for node in self.space.graph(self.space.check(arch)) if self.rejected else ():
            if node.layer in self.rejected:
                raise InputError(f"{self.name} can't run {node.layer} of {tuple(arch)}: {self.rejected[node.layer]}")
        ms = self.network_ms(self.space.check(arch))
        return Estimate(ms, *interval(ms, self.calibration.margin))

    def check_space(self, space: SearchSpace) -> None:
        """MismatchError unless the table was made for `space`."""
        if self.space.fingerprint() != space.fingerprint():
            raise MismatchError(
                f"the table of {self.name} was made for {self.space}, not for {space}: "
                f"run hwnas profile --space {space}"
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: what it is, ms, low, high, rounds."""
        return pd.DataFrame([{**asdict(layer), **asdict(entry)} for layer, entry in self.entries.items()])

    def with_frame(self, frame: pd.DataFrame) -> LatencyTable:
        """This table with the entries of a frame as `to_frame` gives it."""
        return replace(self, entries=dict(_layer_and_entry(row) for row in frame.to_dict("records")))

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, atomically."""
        layers = [{**asdict(layer), **asdict(entry)} for layer, entry in self.entries.items()]
        data = {
            "device": dict(self.device),
            "space": space_record(self.space),
            "reference_ms": self.reference_ms,
            "calibration": asdict(self.calibration),
            "felt": {name: asdict(calibration) for name, calibration in self.felt.items()},
            "sustained_s": self.sustained_s,
            "rejected": [{**asdict(layer), "reason": reason} for layer, reason in self.rejected.items()],
            "validation": self.validation,
            "told_by": list(self.told_by),
            "told_error": self.told_error,
            "asked": dict(self.asked),
            "entries": layers,
        }
        write_json(Path(path), "table", VERSION, data)

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace | None = None) -> LatencyTable:
        """Read what `save` wrote; MismatchError if the space has changed since.

        `space` stands for the one that was recorded, where that must not be loaded.
        """
        data = read_json(Path(path), "table", VERSION)
        try:
            space = space or recorded_space(data["space"], str(path))
            entries = dict(_layer_and_entry(row) for row in data["entries"])
            felt = {name: _calibration(item) for name, item in data["felt"].items()}
            calibration, reference_ms = _calibration(data["calibration"]), float(data["reference_ms"])
            return cls(
                data["device"],
                space,
                entries,
                calibration,
                reference_ms,
                felt,
                data["sustained_s"],
                {_layer(row): row["reason"] for row in data["rejected"]},
                data["validation"],
                tuple(data["told_by"]),
                data.get("told_error"),
                {str(name): str(value) for name, value in data.get("asked", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is a damaged table ({error}): profile it again") from error


def _layer(row: Mapping[Any, Any]) -> Layer:
    channels = row["in_channels"]
    return Layer(
        row["op"],
        tuple(channels) if isinstance(channels, list | tuple) else int(channels),
        int(row["out_channels"]),
        int(row["in_size"]),
        int(row["stride"]),
        tuple((name, value) for name, value in row["params"]),
    )


def _layer_and_entry(row: Mapping[Any, Any]) -> tuple[Layer, Entry]:
    return _layer(row), Entry(float(row["ms"]), float(row["low"]), float(row["high"]), int(row["rounds"]))


def _calibration(data: Mapping[str, Any]) -> Calibration:
    networks = tuple(
        Network(tuple(item["arch"]), item["sum_ms"], item["measured_ms"], _sizes(item["sizes"]))
        for item in data["networks"]
    )
    return Calibration(**{**data, "networks": networks, "size_ms": _sizes(data["size_ms"])})


def _sizes(numbers: Sequence[float]) -> Sizes:
    layers, elements, weights = map(float, numbers)
    return layers, elements, weights
