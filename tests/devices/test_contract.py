"""What every device must do; a new one is one more line in DEVICES."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.devices import Device, Effort, Form, Job, TimedDevice
from hwnas.devices.adb import AdbHost
from hwnas.errors import FaultError, InputError

EFFORT = Effort(min_rounds=5, max_rounds=6)
DEVICES: dict[str, Callable[[pytest.FixtureRequest], Device]] = {
    "local": lambda _: TimedDevice(effort=EFFORT),
    "ssh": lambda request: TimedDevice("there", request.getfixturevalue("server").host(), effort=EFFORT),
    "adb": lambda request: TimedDevice("there", AdbHost(**request.getfixturevalue("phone")), effort=EFFORT),
}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return DEVICES[request.param](request)


def test_fingerprint_is_stable_text(device: Device) -> None:
    fingerprint = device.fingerprint()
    assert fingerprint == device.fingerprint() == json.loads(json.dumps(fingerprint))
    assert all(isinstance(value, str) and value for value in fingerprint.values())
    assert {"name", "runtime", "reference", "label", "batch", "precision"} <= fingerprint.keys()
    assert device.form == Form()


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
