"""A machine that can only be reached by hand: models go there in a folder, times come back in it."""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FaultError, InputError
from ..files import digest, write_bytes
from . import timer
from .device import Form, Job, Measurements, Progress, Sample, Timing, check_name
from .reference import reference_digest, reference_model
from .runtimes import OnnxRuntime
from .series import Plan, Series, calm_level, median_interval, nominal_ms, percentile

REFERENCE, MANIFEST, RESULTS, NOTE = "reference.onnx", "manifest.csv", "results.csv", "READ-ME.txt"
SAMPLES, LEAST = "samples.jsonl", 5  # fewer times than this tell no interval
FIRST_ROW = (REFERENCE, "the reference", Form())  # of the manifest: the yardstick has one form whatever the models have
CANNOT = "cannot:"  # what stands before a reason, in place of milliseconds
WARM_UP_MS = 200.0  # trtexec's own, which its rows of times include
HOW = f"""Time every .onnx file here ({MANIFEST} lists them) on the machine that is to be known, and bring this
folder back with the times in it. Any of these will do:

1. With Python, numpy and onnxruntime there:   python onnx_timer.py .
   (it interleaves the models, shows how far it is, and goes on where it was interrupted)
2. {RESULTS}, written by any means: a header "file,ms" and a row per run, in milliseconds. Five runs or more of
   each file, not one after the other, tell how sure the times are. {REFERENCE} is needed too: times are ratios to it.
   For a file that can't run there, one row that says why in place of the milliseconds: FILE.onnx,cannot: WHY
3. trtexec --onnx=FILE.onnx --exportTimes=FILE.json for each file, {REFERENCE} too (its warm-up is left out).

Then give the same hwnas command again.
"""


@dataclass(frozen=True)
class FolderDevice:
    """Times measured by hand: `folder` takes the models, in this form, and the times that were measured elsewhere."""

    folder: Path
    form: Form = field(default_factory=Form)

    def __post_init__(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"folder:{self.folder} is not a folder")
        check_name(self.name)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def fingerprint(self) -> dict[str, str]:
        """What is known of a machine that nobody can ask."""
        method = {"method": "by hand, median", "reference": reference_digest()}
        return {"name": self.name, "runtime": "by hand", **self.form.words(), **method, "label": "measured elsewhere"}

    def measure(
        self,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None = None,
        samples: Path | None = None,
    ) -> Measurements:
        """Times of the jobs from what lies in the folder; where some are missing, the models are put there.

        Raises FaultError that says what is to be measured.
        """
        files = {job.name: f"{digest(job.name, job.model)}.onnx" for job in jobs}
        if len(files) < len(jobs) or not jobs:
            names = ", ".join(job.name for job in jobs)
            raise InputError(f"jobs to measure need a name each, and its own; given: {names or 'none'}")
        if any(job.sustained_s for job in jobs):
            raise InputError(f"folder:{self.folder} takes no times under load: leave out --sustained")
        self._write(jobs, files)
        series, times_ms, errors = self._series(), self._times(), self._errors(files)
        run = {name: file for name, file in files.items() if name not in errors}
        if not run:
            return Measurements({}, math.nan, 0.0, True, (), errors)
        missing = [name for name, file in run.items() if file not in series and len(times_ms[file]) < LEAST]
        calm_ms = calm_level(series.values())
        reference = [ms for one in series.values() for ms in one.beside_ms] or times_ms[REFERENCE]
        if missing or len(reference) < LEAST:
            first = f" (first: {missing[0]})" if missing else ""
            models = f"{len(missing)} models have" if missing else "the reference has"
            raise FaultError(
                f"{self.folder}: {models} no times yet, or fewer than {LEAST}{first}; {NOTE} there says how to measure "
                "them, then give the same command again"
            )
        reference_ms = nominal_ms(series.values(), calm_ms) if series else statistics.median(reference)
        timings = {name: _timing(name, times_ms[file], reference_ms) for name, file in run.items() if times_ms[file]}
        for name, file in run.items():
            if file in series:
                figures: dict[str, Any] = series[file].timing(reference_ms, calm_ms)
                timings[name] = Timing(name, **figures)
        said = self._result() if series else {}
        spent_s, settled = said.get("seconds", 0.0), said.get("settled", True)
        return Measurements(timings, reference_ms, spent_s, settled, tuple(self._samples(files)), errors)

    def _write(self, jobs: Sequence[Job], files: Mapping[str, str]) -> None:
        """Put models, manifest and the measuring program where they are to be taken from."""
        models = {REFERENCE: reference_model(), **{files[job.name]: job.model for job in jobs}}
        for file, model in models.items():
            if not (self.folder / file).is_file():
                write_bytes(self.folder / file, model)
        rows = [(file, name, self.form) for name, file in files.items()]
        lines = (f'{file},"{what}",{form.batch},{form.precision}\n' for file, what, form in [FIRST_ROW, *rows])
        write_bytes(self.folder / MANIFEST, f"file,what,batch,precision\n{''.join(lines)}".encode())
        runtime = OnnxRuntime()
        plan = Plan(REFERENCE, list(files.values()), options=runtime.options())
        write_bytes(self.folder / "plan.json", json.dumps(asdict(plan)).encode())
        write_bytes(self.folder / NOTE, HOW.encode())
        for program in runtime.program:
            shutil.copyfile(program, self.folder / program.name)

    def _series(self) -> dict[str, Series]:
        """What our own program measured, by file: each visit beside the reference.

        FaultError where it was interrupted.
        """
        found: defaultdict[str, Series] = defaultdict(Series)
        for line in timer.read_samples(self.folder / SAMPLES):
            if "runs_ms" in line:
                found[line["model"]].add(line)
        if found and not self._result():
            raise FaultError(
                f"{self.folder}: the measuring program was interrupted there; start it again (python onnx_timer.py .), "
                "it goes on where it was"
            )
        return {file: series for file, series in found.items() if len(series.ratios) >= LEAST}

    def _errors(self, files: Mapping[str, str]) -> dict[str, str]:
        """The models that could not run there, with the reasons."""
        said = {file: ms.removeprefix(CANNOT).strip() for file, ms in self._rows() if isinstance(ms, str)}
        said |= self._result().get("errors", {})
        return {name: said[file] or "no reason given" for name, file in files.items() if file in said}

    def _result(self) -> dict[str, Any]:
        """What our own program wrote when it was done; empty where it was not."""
        result = self.folder / "result.json"
        said: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
        return said

    def _times(self) -> defaultdict[str, list[float]]:
        """Times measured by other means, by file, in ms."""
        times: defaultdict[str, list[float]] = defaultdict(list)
        for file, ms in self._results():
            times[file].append(ms)
        for exported in self.folder.glob("*.json"):
            model = exported.with_suffix(".onnx").name
            if (self.folder / model).is_file():
                times[model] += trtexec_times(exported)
        return times

    def _results(self) -> Iterator[tuple[str, float]]:
        """The times in results.csv."""
        return ((file, ms) for file, ms in self._rows() if isinstance(ms, float))

    def _rows(self) -> Iterator[tuple[str, float | str]]:
        """The rows of results.csv: milliseconds, or why there are none; InputError names the one that is neither."""
        path = self.folder / RESULTS
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                if str(row.get("ms")).strip().startswith(CANNOT):
                    yield str(row.get("file")), row["ms"].strip()
                    continue
                try:
                    ms = float(row["ms"])
                    if not 0 < ms < float("inf"):
                        raise ValueError
                    yield str(row["file"]), ms
                except (KeyError, TypeError, ValueError):
                    raise InputError(f"{path} line {number}: {dict(row)} is not a file and its milliseconds") from None

    def _samples(self, files: Mapping[str, str]) -> Iterator[Sample]:
        """The samples that the measuring program took, if it was it."""
        names = {file: name for name, file in files.items()}
        for line in timer.read_samples(self.folder / SAMPLES):
            if line["model"] in names and "runs_ms" in line:
                yield Sample.of_line(names[line["model"]], line)


def trtexec_times(path: Path) -> list[float]:
    """Milliseconds of each run in a file of `trtexec --exportTimes`, its warm-up left out."""
    try:
        rows = json.loads(path.read_text())
        start_ms = min(row["startComputeMs"] for row in rows)
        return [float(row["computeMs"]) for row in rows if row["startComputeMs"] - start_ms >= WARM_UP_MS]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no file of trtexec --exportTimes ({error!r}): export it again") from error


def _timing(name: str, times_ms: Sequence[float], reference_ms: float) -> Timing:
    ratios = [ms / reference_ms for ms in times_ms]
    median, low, high = median_interval(ratios)
    p95 = percentile(ratios, 0.95)
    return Timing(name, median, low, high, len(ratios), statistics.median(times_ms), p95)
