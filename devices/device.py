"""What a device is to the rest of hwnas: something with a name, a fingerprint and a stopwatch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import FaultError, InputError, unknown_name

PRECISIONS = ("fp32", "fp16", "int8", "int8-symmetric")


@dataclass(frozen=True)
class Form:
    """The form in which a device wants its networks: images per run, and their precision (int8: with Q/DQ nodes)."""

    batch: int = 1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.batch <= 0:
            raise InputError(f"batch is {self.batch}; it must be positive")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def words(self) -> dict[str, str]:
        """As a fingerprint says it."""
        return {"batch": str(self.batch), "precision": self.precision}


TIMED = ("measured", "measured elsewhere")
"""The labels of devices whose times are latencies."""


def check_name(name: str) -> None:
    """InputError unless `name` can be a device's: it stands in `--limit NAME=20ms`, a statistic after a dot."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"name is {name!r}; letters, digits, - and _ make a name for --limit")


@dataclass(frozen=True)
class Job:
    """An ONNX model with static input shapes to be timed, under a name unique among the jobs of a call.

    With `sustained_s` it is also run for so many seconds without a pause, after everything else.
    """

    name: str
    model: bytes
    sustained_s: float = 0.0


@dataclass(frozen=True)
class Timing:
    """The time of one job, as a ratio to the reference network measured beside it.

    `ratio` is the median over the rounds, `low` and `high` are the ends of its 90 % interval, which spans the medians
    of all builds where a compiler made several; `raw_ms` is the median of all runs as the device's clock showed them.
    `p95` is the ratio that 95 % of single runs keep, by the wall clock; `sustained` the ratio under load for as long as
    the job said (None: it said nothing).
    """

    name: str
    ratio: float
    low: float
    high: float
    rounds: int
    raw_ms: float
    p95: float
    sustained: float | None = None

    @property
    def half_width(self) -> float:
        """Half of the interval, as a fraction of the ratio."""
        return (self.high - self.low) / 2 / self.ratio


@dataclass(frozen=True)
class Sample:
    """One visit to a job: its runs, and those of the reference right before and after them.

    `seconds` counts from the start of measuring, without the pauses between interrupted attempts. `runs_ms` and
    `reference_runs_ms` are times by the stopwatch (a single thread's own time), `wall_ms` those of the wall clock;
    `mhz` and `celsius` are the fastest core's clock and the hottest sensor, where the device tells them; `build` is
    which of several engines ran, where a compiler made some.
    """

    name: str
    round: int
    seconds: float
    runs_ms: tuple[float, ...]
    reference_runs_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    mhz: float | None = None
    celsius: float | None = None
    build: int | None = None

    @classmethod
    def of_line(cls, name: str, line: Mapping[str, Any]) -> Sample:
        """A line that a measuring program wrote as a sample of the job `name`.

        A second of load without a pause is a sample named `NAME under load`: its median, without a reference.
        """
        if "load_ms" in line:
            name, load_ms = f"{name} under load", line["load_ms"]
            line = {"runs_ms": load_ms, "wall_ms": load_ms, "reference_runs_ms": [], **line}
            line = {key: value for key, value in line.items() if key not in ("load_ms", "load_s")}
        fields: dict[str, Any] = {key: value for key, value in line.items() if key != "model"}
        fields |= {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return cls(name=name, **fields)


@dataclass(frozen=True)
class Measurements:
    """What one call of `measure` found: a timing per job, by name, and the samples behind them.

    `errors` are the jobs that could not run there, each with the reason. Where half of the intervals are wider than
    `tolerance`, they are too poor for a table or a verdict.

    `reference_ms` is the median of all runs of the reference: `ratio * reference_ms` is a job's time in ms.
    `settled` tells whether every interval became as narrow as was asked; otherwise a cap ended the call.
    """

    timings: dict[str, Timing]
    reference_ms: float
    seconds: float
    settled: bool
    samples: tuple[Sample, ...]
    errors: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.05

    def complete(self, device: str) -> Measurements:
        """These measurements, all of them; FaultError names a job that could not run."""
        if self.errors:
            name, reason = next(iter(self.errors.items()))
            others = f" (and {len(self.errors) - 1} other jobs)" if len(self.errors) > 1 else ""
            raise FaultError(f"{device} cannot run {name}{others}: {reason}; leave such layers out of the space")
        return self


@dataclass(frozen=True)
class Progress:
    """How far measuring is: `fraction` of the expected work, and the widest relative `half_width` so far."""

    settled: int
    total: int
    rounds: int
    fraction: float
    half_width: float
    seconds: float


class Device(Protocol):
    """A place where networks run and can be timed."""

    @property
    def name(self) -> str:
        """What tables, limits and costs call this device."""

    @property
    def form(self) -> Form:
        """The form in which networks are to be given to `measure`."""

    def fingerprint(self) -> dict[str, str]:
        """All that a timing depends on: hardware, runtime, options, the reference; and `label`, what was
        really done there ("measured", "emulated", ...). Two timings compare only if these are equal."""

    def measure(
        self,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None = None,
        samples: Path | None = None,
    ) -> Measurements:
        """Time the jobs, interleaved, each beside the reference.

        `samples` is a folder that keeps each sample as soon as it is taken: a later call with the same
        folder goes on from there, and measures only what is missing.

        A job that can't run there is among the `errors`. Raises FaultError if the device fails.
        """
