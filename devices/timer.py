"""The method by which every runtime is timed: rounds, samples, statistics, files.

It needs nothing but Python and imports nothing of hwnas: with `series.py` and the program of a runtime beside it
(`onnx_timer.py`, `tensorrt_timer.py`) it can be copied to any machine. Such a program does

    timer.main(sys.argv[1:], describe, open_model)

    python PROGRAM FOLDER      measure what FOLDER/plan.json says
    python PROGRAM '{...}'     print what this machine and its runtime (with these options) are, as JSON

Raw times do not repeat on a shared machine, whatever the statistic; ratios do. A sample is the fastest of a
few consecutive runs of a model, divided by the fastest of a few runs of the reference right before and after:
what slows both cancels, and what strikes single runs is left out. Each sample opens the model afresh, because
where its weights and activations happen to lie in memory changes its speed by a percent or more for as long
as it is open, and further runs repeat the same luck. A round takes one sample of every model, in a random
order, so that no model always follows the same other one. Neighbours who use the memory slow what needs much of it
more than the reference: so a sample counts where the reference beside it ran about as fast as it ever does (where
few did, it is the better half of them that counts). A model's figure is the median of the samples that
count; it leaves when the interval of that median is narrow enough, or a cap is reached.

Each sample is a line of FOLDER/samples.jsonl as soon as it is taken; started again, the program goes on from
there. A line before a model's first sample says that it is tried: where a crash ended the program there, its caller
adds a line that says so (`blame`), and a model with two of them is not tried again. FOLDER/result.json is written at
the end. Standard output has one JSON line of progress per round.
"""

from __future__ import annotations

import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .series import Plan, Series, calm_level, nominal_ms
else:  # copied to another machine
    from series import Plan, Series, calm_level, nominal_ms

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUNS = 5
REFERENCE_RUNS = 3  # before, and as many after
METHOD = f"fastest of {RUNS} / fastest of {REFERENCE_RUNS} + {REFERENCE_RUNS}, median of calm samples"
"""How a figure comes about: another method gives other figures, and makes another device."""
RUN_MS = 0.1  # a run repeats a tiny model for this long, so that the clock and the call don't count
WARM_UP_RUNS = 3
CRASHES = 2  # of the program, in the first sample of a model: then it is left out
CRASHED = "the runtime crashed, or the machine had no memory left, when it ran this"
Run = Callable[[int], tuple[float, float]]  # infer so many times in a row -> ms per inference, by stopwatch and wall


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a samples file; a last line cut short by a kill is removed from the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def is_sample(line: dict[str, Any]) -> bool:
    """Whether a line of a samples file holds times."""
    return "runs_ms" in line or "load_ms" in line


def blame(path: Path) -> bool:
    """Note in a samples file that the model which was tried last brought the program down; False where none was."""
    lines = read_samples(path)
    if not lines or not lines[-1].get("trying"):
        return False
    line = {name: value for name, value in lines[-1].items() if name != "trying"}
    with path.open("a") as file:
        file.write(json.dumps({**line, "crashed": True}) + "\n")
    return True


def core_numbers(text: str) -> set[int]:
    """The cores that `0-3,6` names; ValueError if it names none."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    if text and not numbers:
        raise ValueError(text)
    return numbers


def clocks(system: Path = Path("/sys")) -> dict[str, float]:
    """The fastest core's clock in MHz and the hottest sensor in degrees Celsius, where the system tells them."""
    khz = _numbers_in(system.glob("devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))
    heat = _numbers_in(system.glob("class/thermal/thermal_zone*/temp"))
    told = {"mhz": max(khz, default=0) / 1e3, "celsius": max(heat, default=0) / 1e3}
    return {name: value for name, value in told.items() if value > 0}


def _numbers_in(paths: Iterable[Path]) -> list[float]:
    numbers = []
    for path in paths:
        with suppress(OSError, ValueError):  # a sensor that may not be read
            numbers.append(float(path.read_text()))
    return numbers


class Log:
    """FOLDER/samples.jsonl: what was measured so far, in this attempt and in earlier ones."""

    def __init__(self, path: Path) -> None:
        self.series: defaultdict[str, Series] = defaultdict(Series)
        self.rounds, self.earlier_s = 0, 0.0
        self._file = path.open("a", buffering=1)  # line by line: a kill loses nothing that was finished
        if fcntl is not None:  # a program whose parent was killed may still be in its last round: wait for it
            fcntl.flock(self._file, fcntl.LOCK_EX)
        crashes: defaultdict[str, int] = defaultdict(int)
        for line in read_samples(path):
            self._count(line)
            self.rounds, self.earlier_s = line["round"], line["seconds"]
            crashes[line["model"]] += "crashed" in line
        self.fatal = [model for model, times in crashes.items() if times >= CRASHES]
        self._start_s = time.perf_counter()

    def seconds(self) -> float:
        """Time spent measuring, earlier attempts included."""
        return self.earlier_s + time.perf_counter() - self._start_s

    def append(self, model: str, build: int | None = None, **times_ms: list[float]) -> None:
        """Keep one sample of the current round; `build` says which of several engines ran."""
        times = {name: [round(ms, 6) for ms in values] for name, values in times_ms.items()}
        which = {} if build is None else {"build": build}
        self._count(self._line(model, **times, **which, **clocks()))

    def note(self, model: str, **words: Any) -> None:
        """Say of a model that it is tried, or how that ended where there is no sample."""
        self._line(model, **words)

    def _line(self, model: str, **fields: Any) -> dict[str, Any]:
        line = {"model": model, "round": self.rounds, "seconds": round(self.seconds(), 3), **fields}
        self._file.write(json.dumps(line) + "\n")
        return line

    def unfinished(self, plan: Plan, errors: Collection[str]) -> list[str]:
        """The models that need more samples."""
        seconds, calm_ms = self.seconds(), calm_level(self.series.values())
        return [m for m in plan.models if m not in errors and not self.series[m].finished(plan, seconds, calm_ms)]

    def close(self) -> None:
        """End the file; what is in it stays."""
        self._file.close()

    def _count(self, line: dict[str, Any]) -> None:
        if "load_ms" in line:
            self.series[line["model"]].add_load(line)
        elif is_sample(line):
            self.series[line["model"]].add(line)


def take_sample(run: Run, reference: Run) -> dict[str, list[float]]:
    """Milliseconds of a model's runs, and of the reference's right before and right after them."""
    warm_ms = min(clocked(run, 1)[0] for _ in range(WARM_UP_RUNS))
    loops = max(1, math.ceil(RUN_MS / warm_ms))
    before_ms = [clocked(reference, 1)[0] for _ in range(REFERENCE_RUNS)]
    runs = [clocked(run, loops) for _ in range(RUNS)]
    after_ms = [clocked(reference, 1)[0] for _ in range(REFERENCE_RUNS)]
    return {
        "runs_ms": [spent_ms for spent_ms, _ in runs],
        "wall_ms": [wall_ms for _, wall_ms in runs],
        "reference_runs_ms": before_ms + after_ms,
    }


def clocked(run: Run, loops: int) -> tuple[float, float]:
    """A run's times; where the stopwatch stood still, as a guest's does while its host is busy, the wall clock's."""
    spent_ms, wall_ms = run(loops)
    return spent_ms if spent_ms > 0 else wall_ms, wall_ms


def load(run: Run, seconds: float) -> Iterator[tuple[float, list[float]]]:
    """Each second of a model that runs without a pause: its median in ms by the wall clock, from when to when.

    The last one is said to end after `seconds`.
    """
    start_s, ended_s = time.perf_counter(), 0.0
    while ended_s < seconds:
        begun_s, walls = ended_s, []
        while ended_s - begun_s < 1.0:
            walls.append(run(1)[1])
            ended_s = time.perf_counter() - start_s
        yield statistics.median(walls), [begun_s, min(ended_s, seconds)]


def measure(plan: Plan, open_model: Callable[[str], Run], log: Log) -> dict[str, str]:
    """Go round by round through the models that are not finished, and tell after each how far it is.

    A model that fails is left out; returns the reasons, by model.
    """
    errors = {model: CRASHED for model in log.fatal if model in plan.models}
    while order := log.unfinished(plan, errors):
        log.rounds += 1
        random.Random(f"{plan.seed}/{log.rounds}").shuffle(order)
        reference = open_model(plan.reference)
        reference(WARM_UP_RUNS)
        for model in order:
            if not log.series[model].ratios:
                log.note(model, trying=True)
            try:
                run = open_model(model)
                sample = take_sample(run, reference)
            except (OSError, ImportError, MemoryError):  # of the machine, not of the model
                raise
            except Exception as error:  # each runtime raises classes of its own
                if log.series[model].ratios:  # it ran before
                    sys.exit(f"{model} failed in round {log.rounds}, after it had run: {first_line(error)}")
                errors[model] = first_line(error)
                log.note(model, ended=errors[model])
            else:
                log.append(model, getattr(run, "build", None), **sample)
        print(json.dumps(progress(plan, log)), flush=True)
    for model, seconds in plan.sustained.items():
        if model not in errors and log.series[model].load_s < seconds:
            for ms, when_s in load(open_model(model), seconds):
                log.append(model, load_ms=[ms], load_s=when_s)
    return errors


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def progress(plan: Plan, log: Log) -> dict[str, float]:
    """How far measuring is, as the parent process shows it."""
    series, calm_ms = [log.series[m] for m in plan.models if log.series[m].ratios], calm_level(log.series.values())
    return {
        "settled": sum(s.settled(plan, calm_ms) for s in series),
        "total": len(series),
        "rounds": max((len(s.ratios) for s in series), default=0),
        "fraction": statistics.fmean(s.fraction(plan, calm_ms) for s in series) if series else 1.0,
        "half_width": max((s.half_width(calm_ms) for s in series), default=0.0),
        "seconds": log.seconds(),
    }


def result(plan: Plan, log: Log, errors: dict[str, str]) -> dict[str, Any]:
    """The figures of every model, the reference's time, and what could not run."""
    measured = {model: log.series[model] for model in plan.models if log.series[model].ratios and model not in errors}
    calm_ms = calm_level(log.series.values())
    reference_ms = nominal_ms(log.series.values(), calm_ms) if measured else math.nan
    return {
        "timings": {model: series.timing(reference_ms, calm_ms) for model, series in measured.items()},
        "reference_ms": reference_ms if measured else None,
        "seconds": log.seconds(),
        "settled": all(series.settled(plan, calm_ms) for series in measured.values()),
        "errors": errors,
    }


def pin(cores: str) -> None:
    """Keep this process to some cores; exit with the cores that there are where that can't be."""
    try:
        os.sched_setaffinity(0, core_numbers(cores))
    except (AttributeError, OSError, ValueError):
        there = ",".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else "unknown"
        sys.exit(f"cannot pin to cores {cores}: cores that can be pinned to there: {there}")


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name; boards with arm cores tell only the board's."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        return Path("/proc/device-tree/model").read_text().rstrip("\0")
    except OSError:
        return platform.processor() or platform.machine()


def main(
    arguments: list[str],
    describe: Callable[[dict[str, Any]], dict[str, str]],
    open_model: Callable[[Path, Plan, int], Run],
    measure: Callable[[Plan, Callable[[str], Run], Log], dict[str, str]] = measure,
) -> None:
    """Measure what the folder's plan says; or describe this machine, for a runtime's options as JSON.

    `open_model` is told the number of the round, too.
    """
    if not arguments or arguments[0].startswith("{"):
        print(json.dumps(describe(json.loads(arguments[0]) if arguments else {})))
        return
    folder = Path(arguments[0])
    plan = Plan(**json.loads((folder / "plan.json").read_text()))
    (folder / "result.json").unlink(missing_ok=True)  # of other models, or of fewer samples
    if plan.cores:
        pin(plan.cores)
    log = Log(folder / "samples.jsonl")
    gc.disable()  # a collection in the middle of a run would count as the model's time
    try:
        errors = measure(plan, lambda model: open_model(folder / model, plan, log.rounds), log)
        log.close()
        unfinished = folder / "result.json.part"
        unfinished.write_text(json.dumps(result(plan, log, errors)))
        unfinished.replace(folder / "result.json")
    except OSError as error:
        with suppress(OSError):
            log.close()  # here, as Python would complain of what is left to write after our last word
        sys.exit(f"cannot write in {folder}: {error.strerror}; make room there")
