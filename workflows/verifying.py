"""Search closed on the device: the best networks are measured, and the winner is the best that measures within."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..devices import TIMED, Device
from ..errors import InfeasibleError, InputError
from ..latency import LatencyTable
from ..latency.anchors import Change, change_words, measure_networks
from ..latency.calibration import Calibration, fit, run_margin
from ..latency.renewal import check_device
from ..progress import Progress
from ..search import Evaluation, SearchResult
from ..search.problem import rank_key
from ..supernet.space import Arch

ROUNDS = 4  # of searching and measuring, before it is said that nothing keeps the limit


@dataclass
class Verification:
    """The `best` networks of every round of a search are timed on a device, until one keeps that device's limits.

    `measured` says of each what it took, in ms of the table, by limit (the device, or a statistic such as `D.p95`).
    `file` keeps the table, calibrated with them, `samples` is a folder for every sample until the search has ended.
    """

    device: Device
    table: LatencyTable
    limits: Mapping[str, float]
    best: int
    file: Path
    samples: Path
    progress: Progress
    measured: dict[Arch, dict[str, float]] = field(default_factory=dict)
    rounds: int = 0
    change: Change = field(default_factory=Change)  # of the device since its table was made, where that is a new one

    def __post_init__(self) -> None:
        check_device(self.table.device, self.device)
        if (label := self.device.fingerprint()["label"]) not in TIMED:
            raise InputError(
                f"--device {self.device.name} is {label}, no latency can be measured there: leave out --verify"
            )

    def round(self, result: SearchResult, note: Callable[[str], None]) -> Evaluation | None:
        """Measure the best that were not measured yet; the best that keeps the limits, None where there is none."""
        seen = (e for e in result.history if not e.estimated and not math.isnan(e.accuracy))
        ranked = sorted(seen, key=rank_key)
        self._measure(
            [evaluation.arch for evaluation in ranked if evaluation.arch not in self.measured][: self.best], note
        )
        self.recalibrated().save(self.file)
        known = [evaluation for evaluation in ranked if evaluation.arch in self.measured]
        kept = [evaluation for evaluation in known if self._keeps(evaluation.arch)]
        note(
            f"{len(known)} of the best measured on {self.device.name}: {len(kept)} within "
            + ", ".join(f"{name}={limit:.4g}" for name, limit in self.limits.items())
        )
        return kept[0] if kept else None

    def recalibrated(self) -> LatencyTable:
        """The table, calibrated with all that was measured beside what it was calibrated with before."""
        p95 = f"{self.table.name}.p95"
        felt = dict(self.table.felt)
        if "p95" in felt:
            felt["p95"] = self._fitted(felt["p95"], p95)
        calibration = self._fitted(self.table.calibration, self.table.name)
        return replace(self.table, calibration=calibration, felt=felt, validation=None)

    def _fitted(self, before: Calibration, name: str) -> Calibration:
        """What the networks of a calibration tell together with those measured here, by the limit's name."""
        new = [self.table.network(arch, ms[name]) for arch, ms in self.measured.items()]
        known = [
            replace(network, measured_ms=network.measured_ms * self.change.factor(network.measured_ms))
            for network in before.networks
            if network.arch not in self.measured
        ]
        table = self.table.calibrated(fit([*known, *new], before.overhead_ms))
        missed = [table.network_ms(network.arch) / network.measured_ms - 1 for network in table.calibration.networks]
        return replace(table.calibration, margin=max(table.calibration.margin, run_margin(missed)))

    def error(self) -> InfeasibleError:
        """That nothing was found that keeps the limits there, and what came nearest."""
        over = [max((ms[name] / limit, name) for name, limit in self.limits.items()) for ms in self.measured.values()]
        excess, name = min(over)
        return InfeasibleError(
            f"none of the {len(self.measured)} best networks, measured on {self.device.name}, keeps all limits there; "
            f"the nearest took {excess * self.limits[name]:.4g} ms of {name}={self.limits[name]:.4g}: raise it, or "
            "--verify more"
        )

    def _measure(self, archs: Sequence[Arch], note: Callable[[str], None]) -> None:
        if not archs:
            return
        self.rounds += 1
        kept = self.samples / str(self.rounds)  # each with the table's own networks beside it
        seen = measure_networks(self.table, self.device, archs, kept, self.progress)
        if not seen.change.passing:  # what is measured is not as before: nor is what was
            self.change = seen.change
            note(change_words(self.device.name, math.expm1(self.change.level)))
        for arch in archs:
            timing = seen.timing(arch)
            ratios = {self.table.name: timing.ratio, f"{self.table.name}.p95": timing.p95}
            name = seen.network_ms(arch) / timing.ratio  # ms of the table per ratio
            self.measured[arch] = {limit: ratio * name for limit, ratio in ratios.items()}

    def finish(self) -> None:
        """Remove what was kept for an interrupted search."""
        shutil.rmtree(self.samples, ignore_errors=True)

    def _keeps(self, arch: Arch) -> bool:
        return all(self.measured[arch][name] <= limit for name, limit in self.limits.items())


def limits_there(table: LatencyTable, limits: Mapping[str, float]) -> dict[str, float]:
    """The limits that measuring on the table's device can judge; InputError where there is none."""
    there = {name: limits[name] for name in (table.name, f"{table.name}.p95") if name in limits}
    if not there:
        raise InputError(
            f"--verify needs a limit on {table.name} to hold the measured networks to: add --limit {table.name}=20ms"
        )
    return there
