"""What every device must do; a new one is one more line in DEVICES."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from hwnas.devices import Device, Effort, Job, Measurements, Progress, TimedDevice
from hwnas.devices.adb import AdbHost
from hwnas.devices.by_hand import FolderDevice
from hwnas.devices.runtimes import OnnxRuntime
from hwnas.errors import FaultError, InputError
from hwnas.latency.profile import formed

EFFORT = Effort(min_rounds=5, max_rounds=6)
BY_HAND = "by hand"


class Carried(FolderDevice):
    """A folder that is taken to a machine and back as soon as times are missing."""

    def measure(
        self,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None = None,
        samples: Path | None = None,
    ) -> Measurements:
        with suppress(FaultError):
            return super().measure(jobs, progress, samples)
        plan = json.loads((self.folder / "plan.json").read_text())
        rounds = {"min_rounds": EFFORT.min_rounds, "max_rounds": EFFORT.max_rounds}
        (self.folder / "plan.json").write_text(json.dumps({**plan, **rounds}))
        subprocess.run([sys.executable, "onnx_timer.py", "."], cwd=self.folder, check=True, capture_output=True)
        return super().measure(jobs, progress, samples)


DEVICES: dict[str, Callable[[pytest.FixtureRequest], Device]] = {
    "local": lambda _: TimedDevice(effort=EFFORT),
    "ssh": lambda request: TimedDevice("there", request.getfixturevalue("server").host(), effort=EFFORT),
    "adb": lambda request: TimedDevice("there", AdbHost(**request.getfixturevalue("phone")), effort=EFFORT),
    "int8": lambda _: TimedDevice("eighth", runtime=OnnxRuntime(precision="int8"), effort=EFFORT),
    BY_HAND: lambda request: Carried(request.getfixturevalue("tmp_path") / "usb"),
}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param](request)


@pytest.fixture
def jobs(device: Device, jobs: list[Job]) -> list[Job]:
    """In the form in which the device wants them."""
    return [replace(job, model=formed(onnx.load_from_string(job.model), device.form)) for job in jobs]


def test_fingerprint_is_stable_text(device: Device) -> None:
    fingerprint = device.fingerprint()
    assert fingerprint == device.fingerprint() == json.loads(json.dumps(fingerprint))
    assert all(isinstance(value, str) and value for value in fingerprint.values())
    assert {"name", "runtime", "reference", "label"} <= fingerprint.keys()
    assert device.form.words().items() <= fingerprint.items()


def test_every_job_is_timed_by_its_name(device: Device, jobs: list[Job]) -> None:
    measured = device.measure(jobs)
    assert list(measured.timings) == ["small", "large"]
    for name, timing in measured.timings.items():
        assert timing.name == name
        assert 0 < timing.low <= timing.ratio <= timing.high
        assert timing.raw_ms > 0
        assert timing.p95 >= timing.ratio
        assert timing.rounds == sum(sample.name == name for sample in measured.samples) >= 5
    assert measured.reference_ms > 0
    assert measured.seconds > 0


@pytest.mark.parametrize(
    "device", [name for name in DEVICES if name != BY_HAND], indirect=True
)  # which waits for no one
def test_progress_goes_forward_to_the_end(device: Device, jobs: list[Job]) -> None:
    seen = []
    device.measure(jobs, progress=seen.append)
    rounds = [progress.rounds for progress in seen]
    assert rounds == sorted(set(rounds))
    assert seen[-1].total == 2
    assert 0 < seen[-1].fraction <= 1


def test_a_second_call_repeats_no_sample(device: Device, jobs: list[Job], tmp_path: Path) -> None:
    first = device.measure(jobs, samples=tmp_path)
    second = device.measure([*jobs, replace(jobs[0], name="added")], samples=tmp_path)
    assert [sample for sample in second.samples if sample.name != "added"] == list(first.samples)
    small, again = first.timings["small"], second.timings["small"]
    assert again.rounds == small.rounds
    assert again.ratio == pytest.approx(small.ratio, rel=0.3)  # by then more is known of how calm the machine was
    assert second.timings["added"].rounds >= 5


def test_samples_of_another_model_are_not_taken(device: Device, jobs: list[Job], tmp_path: Path) -> None:
    small, large = jobs
    first = device.measure([small], samples=tmp_path)
    other = device.measure([replace(large, name="small")], samples=tmp_path)
    assert not set(other.samples) & set(first.samples)


def test_a_model_that_cannot_run_is_named_and_leaves_the_others(device: Device, jobs: list[Job]) -> None:
    measured = device.measure([*jobs, Job("broken block", b"no model")])
    assert list(measured.timings) == ["small", "large"]
    assert list(measured.errors) == ["broken block"]
    with pytest.raises(FaultError, match="there cannot run broken block: "):
        measured.complete("there")


def test_an_open_shape_is_refused(device: Device, open_shape_job: Job) -> None:
    measured = device.measure([open_shape_job])
    assert "input x has the open shape" in measured.errors["open batch"]


def test_names_must_differ(device: Device, jobs: list[Job]) -> None:
    with pytest.raises(InputError, match="small"):
        device.measure([jobs[0], jobs[0]])
