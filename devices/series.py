"""The samples of a model and the figures that they amount to; like `timer.py`, which uses it, nothing but Python."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

CONFIDENCE = 0.9
FASTEST, CALM = 0.05, 1.05  # the machine is calm while the reference takes up to so much of this quantile of its times
ENOUGH = 10  # calm samples: with fewer of a model others count, too


@dataclass(frozen=True)
class Plan:
    """What to measure and how well; model files are names within the folder."""

    reference: str
    models: list[str]
    sustained: dict[str, float] = field(default_factory=dict)  # seconds of load, by model
    options: dict[str, Any] = field(default_factory=dict)  # of the runtime
    cores: str = ""  # the system chooses
    target: float = 0.01  # half width of an interval, as a fraction of the median
    min_rounds: int = 20  # kept whatever the seconds: fewer samples tell no interval
    max_rounds: int = 200
    max_seconds: float = 45.0
    seed: int = 0


@dataclass
class Series:
    """The samples of one model, in the order taken; `builds` says which of several engines ran, where there are some.

    Samples of one build repeat its luck. So an interval spans the medians of all builds, however many samples tell
    the median of all.
    """

    ratios: list[float] = field(default_factory=list)
    builds: list[int | None] = field(default_factory=list)
    references_ms: list[list[float]] = field(default_factory=list)  # runs of the reference beside each
    beside_ms: list[float] = field(default_factory=list)  # the fastest of these
    runs_ms: list[float] = field(default_factory=list)
    wall_ratios: list[float] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    load_s: float = 0.0
    started: float = 0.0  # seconds on the clock of the samples

    def add(self, sample: dict[str, Any]) -> None:
        """Append one line of samples.jsonl."""
        if not self.ratios:
            self.started = sample["seconds"]
        beside_ms = min(sample["reference_runs_ms"])
        self.ratios.append(min(sample["runs_ms"]) / beside_ms)
        self.builds.append(sample.get("build"))
        self.references_ms.append(sample["reference_runs_ms"])
        self.beside_ms.append(beside_ms)
        self.runs_ms += sample["runs_ms"]
        self.wall_ratios += [ms / beside_ms for ms in sample["wall_ms"]]

    def add_load(self, line: dict[str, Any]) -> None:
        """Append a second of load without a pause; one that begins at 0 begins anew."""
        *begun_s, self.load_s = line["load_s"]  # from when to when; the end alone where all seconds are in one line
        if not any(begun_s):
            self.load_ms = []
        self.load_ms += line["load_ms"]

    def counted(self, calm_ms: float) -> list[float]:
        """The ratios that count: those beside which the reference took at most `calm_ms`.

        Where these are few: those beside which it was in the faster half of its times.
        """
        return [ratio for ratio, _ in self._counted(calm_ms)]

    def build_medians(self, calm_ms: float) -> list[float]:
        """The median of the ratios that count of each build."""
        ratios: defaultdict[int | None, list[float]] = defaultdict(list)
        for ratio, build in self._counted(calm_ms):
            ratios[build].append(ratio)
        return [statistics.median(of_one) for of_one in ratios.values()]

    def _counted(self, calm_ms: float) -> Iterator[tuple[float, int | None]]:
        most_ms = calm_ms if self.calm(calm_ms) >= ENOUGH else max(calm_ms, statistics.median(self.beside_ms))
        return ((r, build) for r, build, ms in zip(self.ratios, self.builds, self.beside_ms) if ms <= most_ms)

    def calm(self, calm_ms: float) -> int:
        """The number of samples taken while the machine was calm."""
        return sum(ms <= calm_ms for ms in self.beside_ms)

    def timing(self, reference_ms: float, calm_ms: float) -> dict[str, float | None]:
        """The figures that the samples amount to; `reference_ms` is the reference's nominal time."""
        ratio, low, high = median_interval(self.counted(calm_ms))
        medians = self.build_medians(calm_ms)
        last_ms = self.load_ms[-len(self.load_ms) // 3 :]  # the last third
        return {
            "ratio": ratio,
            "low": min(low, *medians),
            "high": max(high, *medians),
            "rounds": len(self.ratios),
            "raw_ms": statistics.median(self.runs_ms),
            "p95": percentile(self.wall_ratios, 0.95),
            "sustained": statistics.median(last_ms) / reference_ms if last_ms else None,
        }

    def half_width(self, calm_ms: float) -> float:
        """Half of the interval of all as a fraction of the median; more samples don't narrow what builds differ by."""
        median, low, high = median_interval(self.counted(calm_ms))
        return (high - low) / 2 / median

    def settled(self, plan: Plan, calm_ms: float) -> bool:
        """Whether the interval is as narrow as asked, and enough samples were taken while the machine was calm."""
        enough = len(self.ratios) >= plan.min_rounds and self.calm(calm_ms) >= min(ENOUGH, plan.min_rounds)
        return enough and self.half_width(calm_ms) <= plan.target

    def finished(self, plan: Plan, seconds: float, calm_ms: float) -> bool:
        """Whether to leave: settled, or a cap is reached."""
        if len(self.ratios) < plan.min_rounds:
            return False
        spent = len(self.ratios) >= plan.max_rounds or seconds - self.started >= plan.max_seconds
        return spent or self.settled(plan, calm_ms)

    def fraction(self, plan: Plan, calm_ms: float) -> float:
        """The share done of the rounds to expect, as an interval shrinks with the root of the rounds.

        An interval may be narrow before enough samples were taken while the machine was calm.
        """
        if not self.ratios or self.settled(plan, calm_ms):
            return float(bool(self.ratios))
        needed = len(self.ratios) * (self.half_width(calm_ms) / plan.target) ** 2
        return min(1.0, len(self.ratios) / min(max(needed, plan.min_rounds), plan.max_rounds))


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """The median and its 90 % interval, distribution-free and exact: two order statistics.

    The count of values below the true median is Binomial(n, 1/2), whatever their distribution: no resampling,
    no random numbers. Fewer than five values can't reach 90 %; their range is given.
    """
    ordered = sorted(values)
    index = _interval_index(len(ordered))
    return statistics.median(ordered), ordered[index], ordered[-1 - index]


def calm_level(measured: Collection[Series]) -> float:
    """What the fastest run of the reference beside a sample takes at most while the machine is calm, in ms."""
    beside_ms = [ms for series in measured for ms in series.beside_ms]
    return CALM * percentile(beside_ms, FASTEST) if beside_ms else math.inf


def nominal_ms(measured: Collection[Series], calm_ms: float) -> float:
    """What a run of the reference takes while the machine is calm."""
    besides = [zip(series.beside_ms, series.references_ms) for series in measured]
    return statistics.median(ms for pairs in besides for best, runs in pairs if best <= calm_ms for ms in runs)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all values don't exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


@cache
def _interval_index(count: int) -> int:
    """The largest i with P(Binomial(count, 1/2) <= i) within a tail of the interval, or 0.

    The interval goes from the i-th smallest to the i-th largest value, counted from 0.
    """
    below = 0
    for index in range(count):
        below += math.comb(count, index)
        if below / 2**count > (1 - CONFIDENCE) / 2:
            return max(0, index - 1)
    return 0
