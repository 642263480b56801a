"""Networks that were measured when a table was made, measured again beside whatever is measured later.

The reference takes out what slows all computing alike. It does not take out what slows large networks more than small
ones: neighbours on a shared host, who use its caches and memory, a phone that is warm. So the networks that calibrated
the table tell by how much networks of each size take longer now, and that is taken out, too, unless it is too much to
pass again (`MOOD`): a later measurement is in the milliseconds of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..devices import Device, Form, Job, Measurements, Timing
from ..export.onnx_model import layers_to_onnx
from ..progress import Progress, silent
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace
from .profile import MORE, check_noise, device_progress, network_jobs, network_name
from .regression import regress
from .table import LatencyTable

FEW = 8  # anchors, where a single network is measured beside them
LEVEL, SLOPE = 0.3, 0.02  # how far networks are likely to change alike, and more so where they take e times as long
NOISES, NOISE = (0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05), 0.007  # of two measurements of one network
WORTH_A_WORD = 0.05  # a change from which on the user is told
MOOD = 0.1  # a larger one is none of the machine's mood: the device is another one, and it is not taken out
UNTOLD = ("emulated", "compiled", "measured elsewhere")  # no times, or times of another day that lie there


@dataclass(frozen=True)
class Anchor:
    """A network, and what it took when the table was made."""

    arch: Arch
    ms: float


@dataclass(frozen=True)
class Change:
    """Networks take exp(level + slope * log(ms / middle_ms)) times as long as when the table was made."""

    level: float = 0.0
    slope: float = 0.0
    middle_ms: float = 1.0

    def factor(self, ms: float) -> float:
        """How many times as long a network takes that takes `ms` now."""
        return float(np.exp(self.level + self.slope * np.log(ms / self.middle_ms)))

    @property
    def passing(self) -> bool:
        """Whether it is so small that it may pass, as the mood of a machine does."""
        return abs(float(np.expm1(self.level))) <= MOOD


@dataclass(frozen=True)
class Beside:
    """What was measured beside a table's anchors; `reference_ms` is the table's, `change` what the anchors tell."""

    found: Measurements
    reference_ms: float
    change: Change

    def factor(self, name: str) -> float:
        """How many times as long a job takes as when the table was made, against the reference."""
        return self.change.factor(self.found.timings[name].ratio * self.reference_ms)

    def table_ms(self, name: str, ratio: float | None = None) -> float:
        """What a job takes, in ms of the table: its median, or another statistic's `ratio` to the reference.

        A change since the table was made is taken out where it may pass; a larger one is what the device takes now.
        """
        ms = (self.found.timings[name].ratio if ratio is None else ratio) * self.reference_ms
        return ms / self.factor(name) if self.change.passing else ms

    def timing(self, arch: Arch) -> Timing:
        """How long a whole network took, against the reference."""
        return self.found.timings[network_name(arch)]

    def network_ms(self, arch: Arch) -> float:
        """What a whole network takes, in ms of the table."""
        return self.table_ms(network_name(arch))


def anchors_of(table: LatencyTable, most: int | None = None) -> tuple[Anchor, ...]:
    """The networks that calibrated a table, or so many of them, from the cheapest to the dearest.

    None where no clock runs. With all of them the table is right for these, in the mean, whatever has changed.
    """
    networks = sorted(table.calibration.networks, key=lambda network: network.measured_ms)
    if not networks or table.device.get("label") in UNTOLD:
        return ()
    count = len(networks) if most is None else min(most, len(networks))
    rows = np.linspace(0, len(networks) - 1, count).round().astype(int).tolist()
    return tuple(Anchor(networks[i].arch, networks[i].measured_ms) for i in rows)


def measure_networks(
    table: LatencyTable,
    device: Device,
    archs: Sequence[Arch],
    samples: Path | None = None,
    progress: Progress = silent,
) -> Beside:
    """Whole networks of a table's space, timed on its device beside its anchors.

    FaultError names a network that can't run, or says that the machine was too noisy to tell anything.
    """
    anchors = anchors_of(table)
    wanted = list(dict.fromkeys([*archs, *(anchor.arch for anchor in anchors)]))
    progress(0, 1, f"exporting the layers of {len(wanted)} networks to ONNX")
    jobs = jobs_of(table.space, wanted, device.form, table.space.layers())
    found = device.measure(jobs, device_progress(progress), samples).complete(device.name)
    if table.device.get("label") != "emulated":  # whose times mean nothing anyway
        check_noise(device.name, found, MORE if samples else "measure again", what="what is measured")
    return beside(found, anchors, table.reference_ms)


def jobs_of(space: SearchSpace, archs: Sequence[Arch], form: Form, layers: Sequence[Layer] = ()) -> list[Job]:
    """Whole networks as jobs, from nothing but their architectures.

    With other `layers` exported beside theirs, a network's weights are others, and samples of it are not found again.
    """
    if not archs:
        return []
    own = dict.fromkeys(node.layer for arch in archs for node in space.graph(arch))
    return network_jobs(space, layers_to_onnx(space, layers or list(own), form.batch), archs, form)


def beside(found: Measurements, anchors: Sequence[Anchor], reference_ms: float) -> Beside:
    """Measurements, with what the anchors among them tell of the change since then."""
    now = [found.timings[network_name(anchor.arch)].ratio * reference_ms for anchor in anchors]
    return Beside(found, reference_ms, change_between([anchor.ms for anchor in anchors], now))


def change_between(then_ms: Sequence[float], now_ms: Sequence[float]) -> Change:
    """The change that networks tell, of which each was measured then and now; they are few, and noisy."""
    if not then_ms:
        return Change()
    now = np.log(now_ms)
    middle = float(now.mean())
    likely = np.array([LEVEL, SLOPE])
    design = likely * np.column_stack([np.ones_like(now), now - middle])
    level, slope = regress(design, now - np.log(then_ms), NOISES, NOISE).weights * likely
    return Change(float(level), float(slope), float(np.exp(middle)))


def change_words(name: str, changed: float) -> str:
    """That a device's networks take another share of the reference's time than when it was profiled."""
    how = f"{abs(changed):.0%} {'more' if changed > 0 else 'less'}"
    return f"networks on {name} take {how} than profiled, against the reference: if that lasts, profile again"
