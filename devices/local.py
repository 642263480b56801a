"""This machine's CPU through ONNX Runtime, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import FaultError, InputError, unknown_name
from ..files import digest, write_bytes
from . import onnx_timer
from .device import Job, Measurements, Progress, Sample, Timing
from .reference import reference_digest, reference_model

TIMER = Path(onnx_timer.__file__).resolve()
THREAD_VARIABLES = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_")  # they would override the pinned threads


@dataclass(frozen=True)
class LocalDevice:
    """ONNX Runtime on this machine's CPU.

    A job is measured until the half width of its interval is at most `target` of its ratio, or it has
    `max_rounds` samples, or for `max_seconds` after its first one; but it always gets `min_rounds` samples.
    `optimization` is ONNX Runtime's level of graph optimization: none, basic, extended or all.
    """

    name: str = "local"
    threads: int = 1
    optimization: str = "all"
    target: float = 0.01
    min_rounds: int = 20
    max_rounds: int = 200
    max_seconds: float = 45.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimization not in onnx_timer.OPTIMIZATIONS:
            raise unknown_name("optimization", self.optimization, onnx_timer.OPTIMIZATIONS)
        for setting in ("threads", "target", "min_rounds", "max_rounds", "max_seconds"):
            if (value := getattr(self, setting)) <= 0:
                raise InputError(f"device {self.name}: {setting} is {value}; it must be positive")
        if self.min_rounds > self.max_rounds:
            limits = f"min_rounds {self.min_rounds} and max_rounds {self.max_rounds}"
            raise InputError(f"device {self.name}: {limits} exclude each other")

    def fingerprint(self) -> dict[str, str]:
        """All that a timing here depends on; raises FaultError if the runtime is not installed."""
        try:
            machine = onnx_timer.describe()
        except metadata.PackageNotFoundError:
            raise FaultError(f"{self.name} needs ONNX Runtime; run: pip install onnxruntime") from None
        options = {"threads": str(self.threads), "optimization": self.optimization}
        method = {"method": onnx_timer.METHOD, "reference": reference_digest()}
        return {"name": self.name, **machine, **options, **method, "label": "measured"}

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
                folder = samples / digest(self.fingerprint())
            self._write(folder, jobs)
            self._run(folder, progress)
            return self._read(folder, {_model_file(job): job.name for job in jobs})

    def _write(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Put the models, the reference and the plan where the measuring program finds them."""
        reference = "reference.onnx"
        write_bytes(folder / reference, reference_model())
        for job in jobs:
            write_bytes(folder / _model_file(job), job.model)
        settings = {name: value for name, value in asdict(self).items() if name != "name"}
        plan = onnx_timer.Plan(reference, [_model_file(job) for job in jobs], **settings)
        write_bytes(folder / "plan.json", json.dumps(asdict(plan)).encode())

    def _run(self, folder: Path, progress: Callable[[Progress], None] | None) -> None:
        """Run the measuring program on a folder; it ends with us, whatever happens here."""
        command = [sys.executable, "-P", str(TIMER), str(folder)]  # -P: our folder shadows no import of it
        environment = {k: v for k, v in os.environ.items() if not k.startswith(THREAD_VARIABLES)}
        said = folder / "stderr.txt"  # a file, as a pipe that nobody reads may fill up and block
        with (
            said.open("wb") as stderr,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment) as process,
        ):
            try:
                for line in process.stdout or ():
                    if progress is not None:
                        progress(Progress(**json.loads(line)))
                status = process.wait()
            finally:
                process.kill()
        if status != 0:
            reasons = said.read_text(errors="replace").split("\n")
            silent = f"exit status {status} without a word" + " (is the disk full?)" * (status > 0)
            reason = next((line for line in reversed(reasons) if line.strip()), silent)
            raise FaultError(f"{self.name}: the measuring program failed: {reason}")

    def _read(self, folder: Path, names: dict[str, str]) -> Measurements:
        """The measuring program's result, by the jobs' names; raises FaultError for jobs that can't run."""
        result: dict[str, Any] = json.loads((folder / "result.json").read_bytes())
        if errors := [f"{names[model]}: {reason}" for model, reason in result["errors"].items()]:
            others = f" (and {len(errors) - 1} other jobs)" if len(errors) > 1 else ""
            raise FaultError(f"{self.name} cannot run {errors[0]}{others}")
        timings = {names[m]: Timing(names[m], **timing) for m, timing in result["timings"].items()}
        lines = onnx_timer.read_samples(folder / "samples.jsonl")
        samples = tuple(_sample(names[line["model"]], line) for line in lines if line["model"] in names)
        return Measurements(timings, result["reference_ms"], result["seconds"], result["settled"], samples)


def _sample(name: str, line: dict[str, Any]) -> Sample:
    """A line of samples.jsonl as a sample of the job `name`."""
    runs_ms, reference_runs_ms = tuple(line["runs_ms"]), tuple(line["reference_runs_ms"])
    return Sample(name, line["round"], line["seconds"], runs_ms, reference_runs_ms)


def _model_file(job: Job) -> str:
    """A file name of a job's own: samples under it can't be mistaken for those of another model or job.

    The name counts too, so that one model under two names is measured twice, which tells the repeat error.
    """
    return f"{digest(job.name, job.model)}.onnx"
