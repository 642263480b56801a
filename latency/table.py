"""The latency table: measured layers, calibrated by whole networks, as a predictor."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

VERSION = 1
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


@dataclass(frozen=True)
class Network:
    """One whole network that was measured beside the layers, and the sum of its layers."""

    arch: Arch
    sum_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Calibration:
    """How sums of layers become latencies: ms = scale * sum + offset_ms, within +- margin (a fraction).

    `overhead_ms`, the price of a call that computes nothing, is taken off every layer before.
    """

    scale: float = 1.0
    offset_ms: float = 0.0
    margin: float = 0.0
    overhead_ms: float = 0.0
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Latencies of all layers of a space on one device: a Predictor.

    `device` is the fingerprint of what was measured, its `name` the table's name in limits and costs.
    `reference_ms` is the nominal time of the device's reference network: any later measurement, a ratio to
    the reference, times this is in the table's milliseconds.
    """

    device: Mapping[str, str]
    space: SearchSpace
    entries: Mapping[Layer, Entry]
    calibration: Calibration
    reference_ms: float

    @property
    def name(self) -> str:
        """The name of the table in limits and costs: its device's."""
        return self.device["name"]

    def sum_ms(self, arch: Sequence[int]) -> float:
        """The layers of `arch` added up, before calibration; a layer never measured is an error."""
        overhead_ms, total = self.calibration.overhead_ms, 0.0
        for node in self.space.graph(tuple(arch)):
            entry = self.entries.get(node.layer)
            if entry is None:
                raise MissingLayerError(
                    f"{self.name} has no measurement of {node.layer}; run: hwnas profile --space {self.space}"
                )
            total += max(entry.ms - overhead_ms, 0.0) if entry.rounds else 0.0
        return total

    @cached_property
    def cost(self) -> AdditiveCost | None:
        """The predicted latency as a sum over genes; None where the space's genes don't add up."""
        sums = additive(self.space, self.sum_ms)
        return sums.affine(self.calibration.scale, self.calibration.offset_ms) if sums else None

    @property
    def upper(self) -> AdditiveCost | None:
        """The upper end of the interval as a sum over genes: what a limit is held against."""
        return self.cost.affine(1 + self.calibration.margin, 0.0) if self.cost else None

    def range_ms(self, drawn: int = 500) -> tuple[float, float]:
        """Least and largest latency in the space: exact for a sum over genes, else of `drawn` random networks."""
        if self.cost:
            return self.cost.bounds()
        rng = random.Random(0)
        ms = self.predict_many([self.space.sample(rng) for _ in range(drawn)])
        return float(ms.min()), float(ms.max())

    def predict_many(self, archs: ArrayLike) -> Floats:
        """Latencies of a batch: (n, choices) integers -> (n,) ms."""
        if self.cost is not None:
            return self.cost(archs)
        sums = np.array([self.sum_ms(arch) for arch in cast(Sequence[Arch], archs)])
        return self.calibration.scale * sums + self.calibration.offset_ms

    def estimate_many(self, archs: ArrayLike) -> Estimates:
        """Latencies of a batch with their 90 % intervals."""
        ms = self.predict_many(archs)
        return Estimates(ms, ms * (1 - self.calibration.margin), ms * (1 + self.calibration.margin))

    def predict(self, arch: Sequence[int]) -> Estimate:
        """The latency of one architecture with its 90 % interval: the sum over its layers itself."""
        fit = self.calibration
        ms = fit.scale * self.sum_ms(self.space.check(arch)) + fit.offset_ms
        return Estimate(ms, ms * (1 - fit.margin), ms * (1 + fit.margin))

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
        return LatencyTable(
            self.device,
            self.space,
            dict(_layer_and_entry(row) for row in frame.to_dict("records")),
            self.calibration,
            self.reference_ms,
        )

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, atomically."""
        layers = [{**asdict(layer), **asdict(entry)} for layer, entry in self.entries.items()]
        data = {
            "device": dict(self.device),
            "space": space_record(self.space),
            "reference_ms": self.reference_ms,
            "calibration": asdict(self.calibration),
            "entries": layers,
        }
        write_json(Path(path), "table", VERSION, data)

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what `save` wrote; MismatchError if the space has changed since."""
        data = read_json(Path(path), "table", VERSION)
        try:
            space = recorded_space(data["space"], str(path))
            entries = dict(_layer_and_entry(row) for row in data["entries"])
            return cls(data["device"], space, entries, _calibration(data["calibration"]), data["reference_ms"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is a damaged table ({error}): profile it again") from error


def _layer_and_entry(row: Mapping[Any, Any]) -> tuple[Layer, Entry]:
    channels = row["in_channels"]
    layer = Layer(
        row["op"],
        tuple(channels) if isinstance(channels, list | tuple) else int(channels),
        int(row["out_channels"]),
        int(row["in_size"]),
        int(row["stride"]),
        tuple((name, value) for name, value in row["params"]),
    )
    return layer, Entry(float(row["ms"]), float(row["low"]), float(row["high"]), int(row["rounds"]))


def _calibration(data: Mapping[str, Any]) -> Calibration:
    networks = tuple(Network(tuple(item["arch"]), item["sum_ms"], item["measured_ms"]) for item in data["networks"])
    return Calibration(**{**data, "networks": networks})
