"""What the tests of several folders share: a tiny space, data that fit it, and a device whose times are known."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from hwnas.__main__ import run
from hwnas.devices import Form, Job, Measurements, Progress, Timing
from hwnas.export import layers_to_onnx
from hwnas.supernet import ChainSpace, Data, load_data, load_space

TINY = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=1-2,head=16"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` starts: each takes a gigabyte, and more than a few wait for the longest file."""
    return min(4, os.cpu_count() or 1)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """On networks this small threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> ChainSpace:
    """80 networks of 14 distinct layers."""
    space = load_space(TINY)
    assert isinstance(space, ChainSpace)
    return space


@pytest.fixture(scope="session")
def digits(tiny: ChainSpace) -> Data:
    return load_data("digits", tiny)


@dataclass
class SimulatedDevice:
    """A model takes `call_ms`, `node_ms` per node but Identity, and `weight_ms` per weight.

    So layers add up to networks exactly, but for what a job's name and `nature` decide (`hidden`), what changes from
    one time to the next (`noise`), and what all of a measurement have in common (`drift`), deviations of the logarithm.
    """

    name: str = "simulated"
    call_ms: float = 0.05
    node_ms: float = 0.02
    weight_ms: float = 1e-3
    hidden: float = 0.0
    nature: str = ""
    noise: float = 0.0
    drift: float = 0.0
    reference_ms: float = 0.5
    half_width: float = 0.01
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    runtime: str = "none"
    tail: float = 1.2  # p95 against the median
    tails: float = 0.0  # deviation of that ratio between jobs, as a logarithm
    hot: float = 1.5  # under load against the median
    form: Form = field(default_factory=Form)

    def fingerprint(self) -> dict[str, str]:
        return {"name": self.name, "runtime": self.runtime, "reference": "none", "label": "simulated"}

    def time_ms(self, job: Job) -> float:
        graph = onnx.load_from_string(job.model).graph
        nodes = sum(node.op_type != "Identity" for node in graph.node)
        weights = sum(to_array(tensor).size for tensor in graph.initializer)
        return self.call_ms + self.node_ms * nodes + self.weight_ms * weights

    def measure(
        self,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None = None,
        samples: Path | None = None,
    ) -> Measurements:
        timings, together = {}, self.rng.gauss(0, self.drift)
        for job in jobs:
            shift = (
                together + random.Random(self.nature + job.name).gauss(0, self.hidden) + self.rng.gauss(0, self.noise)
            )
            ms = self.time_ms(job) * math.exp(shift)
            ratio = ms / self.reference_ms
            sustained = ratio * self.hot if job.sustained_s else None
            interval = ratio * (1 - self.half_width), ratio * (1 + self.half_width)
            p95 = ratio * self.tail * math.exp(random.Random(f"tail {self.nature}{job.name}").gauss(0, self.tails))
            timings[job.name] = Timing(job.name, ratio, *interval, 5, ms, p95, sustained)
        if progress:
            progress(Progress(len(jobs), len(jobs), 5, 1.0, 0.01, 0.0))
        return Measurements(timings, self.reference_ms, 0.0, settled=True, samples=())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder but SQLite's own companions and Python's caches, which come and go."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "__pycache__" not in path.parts}


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """What lies in a folder, by name."""
    return contents


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Types a bad command in a folder and checks the answer: one line with these words, status 2, no file touched."""

    def check(folder: Path, typed: str, words: Sequence[str]) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        before = contents(folder)
        status = run(typed.split())
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        assert said.err.startswith("hwnas: ")
        assert len(said.err.splitlines()) == 1
        assert [word for word in words if word not in said.err] == [], said.err
        assert contents(folder) == before

    return check


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same layers are exported to ONNX once, however many devices are profiled: that is what takes the time."""
    known: dict[tuple[object, ...], object] = {}

    def once(space: ChainSpace, layers: Sequence[object], batch: int = 1) -> object:
        key = (space, tuple(layers), batch)
        return known[key] if key in known else known.setdefault(key, layers_to_onnx(space, layers, batch))  # type: ignore[arg-type]

    for module in ("profile", "onboard", "anchors"):  # whose functions hide the modules of the same name
        monkeypatch.setattr(sys.modules[f"hwnas.latency.{module}"], "layers_to_onnx", once)


@pytest.fixture(scope="session")
def simulated() -> type[SimulatedDevice]:
    """The class: a test sets its own figures."""
    return SimulatedDevice
