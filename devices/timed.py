"""A device whose times are taken by a measuring program: a host to run it on, a runtime to time, an effort to make."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import CrashError, FaultError, InputError
from ..files import digest, write_bytes
from . import timer
from .device import Device, Form, Job, Measurements, Progress, Sample, Timing, check_name
from .local import LocalHost
from .reference import reference_digest, reference_model
from .remote import PLAN, RESULT, SAMPLES
from .runtimes import OnnxRuntime
from .series import Plan


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    A job is measured until the half width of its interval is at most `target` of its ratio, or it has
    `max_rounds` samples, or for `max_seconds` after its first one; but it always gets `min_rounds` samples. Where half
    of the intervals are wider than `tolerance`, the machine was too noisy for a table or a verdict.
    """

    target: float = 0.01
    min_rounds: int = 20
    max_rounds: int = 200
    max_seconds: float = 45.0
    tolerance: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for setting in ("target", "min_rounds", "max_rounds", "max_seconds", "tolerance"):
            if (value := getattr(self, setting)) <= 0:
                raise InputError(f"{setting} is {value}; it must be positive")
        if self.min_rounds > self.max_rounds:
            limits = f"min_rounds {self.min_rounds} and max_rounds {self.max_rounds}"
            raise InputError(f"{limits} exclude each other")


class Runtime(Protocol):
    """What executes the networks: its measuring program, and the options that the program runs it with."""

    @property
    def cores(self) -> str:
        """The cores that the program is pinned to; empty: the system chooses."""

    @property
    def program(self) -> tuple[Path, ...]:
        """The measuring program, and the files that it needs beside it; none imports anything of hwnas."""

    @property
    def form(self) -> Form:
        """The form in which networks are given to it."""

    @property
    def label(self) -> str:
        """What is done with networks there: measured, or compiled."""

    @property
    def clock(self) -> str:
        """What times a run."""

    def options(self) -> dict[str, Any]:
        """What the program opens networks with; all of it counts in the fingerprint."""


class Host(Protocol):
    """A machine that runs a measuring program; this one, or one reached over a wire."""

    def describe(self, program: Sequence[Path], options: Mapping[str, Any]) -> dict[str, str]:
        """What the program says of that machine and of its runtime with these options.

        FaultError says what is missing there.
        """

    def work(self, program: Sequence[Path], folder: Path, listen: Callable[[str], None], keep: bool) -> None:
        """Run the program on what lies in `folder` here; each line it prints is passed to `listen` at once.

        Afterwards `folder` holds the samples and the result. The samples arrive there while it runs, so that
        whatever happens, a later call goes on from them. FaultError if the program or the way to it fails; another
        machine, if it can still be reached, then keeps what it was sent only with `keep`, for that later call.
        """


@dataclass(frozen=True)
class TimedDevice:
    """Networks timed by a runtime on a host; an `emulated` one tells no real times."""

    name: str = "local"
    host: Host = field(default_factory=LocalHost)
    runtime: Runtime = field(default_factory=OnnxRuntime)
    effort: Effort = field(default_factory=Effort)
    emulated: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def form(self) -> Form:
        """The form in which networks are to be given to `measure`."""
        return self.runtime.form

    def fingerprint(self) -> dict[str, str]:
        """All that a timing here depends on; FaultError if the host can't be reached or lacks the runtime."""
        try:
            machine = self.host.describe(self.runtime.program, self.runtime.options())
        except FaultError as error:
            raise FaultError(f"{self.name}: {error}") from error
        options = {name: str(value) for name, value in self.runtime.options().items()} | self.form.words()
        options["cores"] = self.runtime.cores or "any"
        method = {"method": f"{self.runtime.clock}, {timer.METHOD}", "reference": reference_digest()}
        emulated = self.emulated or foreign(machine)
        return {
            "name": self.name,
            **machine,
            **options,
            **method,
            "label": "emulated" if emulated else self.runtime.label,
        }

    def measure(
        self,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None = None,
        samples: Path | None = None,
    ) -> Measurements:
        """Time the jobs as `Device` says; within `samples`, each fingerprint has a folder of its own."""
        repeated = [name for name, count in Counter(job.name for job in jobs).items() if count > 1]
        if repeated or not jobs:
            raise InputError(f"jobs to measure need a name each, and its own; repeated: {repeated}")
        with ExitStack() as stack:
            if samples is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwnas-")))
            else:
                folder = samples / samples_of(self)
            self._write(folder, jobs)
            names = {model_file(job): job.name for job in jobs}
            kept = "; what was measured is kept: give the same command again, with --resume" if samples else ""
            try:
                self._work(folder, listener(progress), keep=samples is not None)
            except FaultError as error:
                said = re.sub(r"\w+\.onnx", lambda file: names.get(file[0], file[0]), str(error))
                raise FaultError(f"{self.name}: {said}{kept}") from error
            return self._read(folder, names)

    def _work(self, folder: Path, listen: Callable[[str], None], keep: bool) -> None:
        """Run the measuring program; again where a model brought it down, as the second time it leaves that out."""
        while True:
            try:
                return self.host.work(self.runtime.program, folder, listen, keep)
            except CrashError:
                if not timer.blame(folder / SAMPLES):
                    raise

    def _write(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Put the models, the reference and the plan where the measuring program finds them."""
        reference = "reference.onnx"
        write_bytes(folder / reference, reference_model())
        for job in jobs:
            write_bytes(folder / model_file(job), job.model)
        models = [model_file(job) for job in jobs]
        sustained = {model_file(job): job.sustained_s for job in jobs if job.sustained_s}
        runtime: dict[str, Any] = {"options": self.runtime.options(), "cores": self.runtime.cores}
        effort = {name: value for name, value in asdict(self.effort).items() if name != "tolerance"}
        plan = Plan(reference, models, sustained, **runtime, **effort)
        write_bytes(folder / PLAN, json.dumps(asdict(plan)).encode())
        (folder / RESULT).unlink(missing_ok=True)  # of an earlier call

    def _read(self, folder: Path, names: dict[str, str]) -> Measurements:
        """The measuring program's result, by the jobs' names."""
        result: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
        errors = {names[model]: reason for model, reason in result["errors"].items()}
        timings = {names[m]: Timing(names[m], **timing) for m, timing in result["timings"].items()}
        lines = timer.read_samples(folder / SAMPLES)
        taken = [line for line in lines if line["model"] in names and timer.is_sample(line)]
        samples = tuple(Sample.of_line(names[line["model"]], line) for line in taken)
        return Measurements(
            timings,
            result["reference_ms"] or math.nan,
            result["seconds"],
            result["settled"],
            samples,
            errors,
            self.effort.tolerance,
        )


def samples_of(device: Device) -> str:
    """The folder for a device's samples within one for samples: its own as long as it stays what it is."""
    return digest(device.fingerprint())


def foreign(machine: Mapping[str, str]) -> bool:
    """Whether a system of one kind of processor runs on another kind: then something emulates it."""
    arm, cpu = "aarch64" in machine.get("system", ""), machine.get("cpu", "")
    return arm and ("Intel" in cpu or "AMD" in cpu)


def listener(progress: Callable[[Progress], None] | None) -> Callable[[str], None]:
    """What hears the lines of a measuring program and tells `progress`."""

    def hear(line: str) -> None:
        if progress is not None and line.startswith("{"):  # a runtime may have something to say, too
            progress(Progress(**json.loads(line)))

    return hear


def model_file(job: Job) -> str:
    """A file name of a job's own: samples under it can't be mistaken for those of another model or job.

    The name counts too, so that one model under two names is measured twice, which tells the repeat error.
    """
    return f"{digest(job.name, job.model)}.onnx"
