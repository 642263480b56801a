"""The local device: interrupted, killed, misconfigured; and its name on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.devices import Effort, Job, Progress, TimedDevice, load_device, onnx_timer
from hwnas.devices.local import LocalHost
from hwnas.devices.runtimes import OnnxRuntime
from hwnas.devices.timed import foreign
from hwnas.devices.timer import CRASHED
from hwnas.errors import FaultError, InputError

QUICK = TimedDevice(effort=Effort(min_rounds=5, max_rounds=5))
ENDLESS = TimedDevice(effort=Effort(min_rounds=10_000, max_rounds=10_000))


def timer() -> int:
    """The measuring program, a child of ours."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (found,) = [child for child in children if "onnx_timer" in Path(f"/proc/{child}/cmdline").read_text()]
    return int(found)


def kill_child(progress: Progress) -> None:
    """kill -9 of the measuring program in its second round."""
    if progress.rounds == 2:
        os.kill(timer(), signal.SIGKILL)


def interrupt(progress: Progress) -> None:
    """What Ctrl-C does, in the second round."""
    if progress.rounds == 2:
        raise KeyboardInterrupt


def stored(folder: Path) -> list[bytes]:
    """The samples kept, without a last one cut short."""
    (path,) = folder.glob("*/samples.jsonl")
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.skipif(sys.platform != "linux", reason="finds its child in /proc")
def test_a_killed_program_is_a_fault_and_loses_no_finished_sample(jobs: list[Job], tmp_path: Path) -> None:
    with pytest.raises(FaultError, match=r"local: the measuring program failed.*-9"):
        ENDLESS.measure(jobs, kill_child, tmp_path)
    before = stored(tmp_path)
    assert len(before) >= 4
    QUICK.measure(jobs, samples=tmp_path)
    assert stored(tmp_path)[: len(before)] == before


def test_an_interrupt_ends_the_program_and_keeps_its_samples(jobs: list[Job], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ENDLESS.measure(jobs, interrupt, tmp_path)
    assert len(stored(tmp_path)) >= 4
    with pytest.raises(ValueError, match="not enough values"):
        timer()  # none is left


def test_no_temporary_folder_is_left(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    QUICK.measure(jobs[:1])
    with pytest.raises(KeyboardInterrupt):
        ENDLESS.measure(jobs, interrupt)
    assert not list(tmp_path.iterdir())


def test_other_options_keep_their_samples_apart(jobs: list[Job], tmp_path: Path) -> None:
    QUICK.measure(jobs[:1], samples=tmp_path)
    replace(QUICK, runtime=OnnxRuntime(optimization="none")).measure(jobs[:1], samples=tmp_path)
    assert len(list(tmp_path.glob("*/samples.jsonl"))) == 2


def test_the_program_alone_describes_its_machine() -> None:
    """The program runs by its path, as it will where hwnas is not installed."""
    command = [sys.executable, "-P", onnx_timer.__file__]
    described = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert described.items() <= QUICK.fingerprint().items()


def test_nothing_heavy_is_imported_with_the_devices() -> None:
    program = "import sys, hwnas.devices; print(*{'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=True, text=True)
    assert ran.stdout.split() == []


def test_load_device_reads_settings() -> None:
    assert load_device("local") == TimedDevice()
    two = TimedDevice("two", runtime=OnnxRuntime(threads=2, batch=8), effort=Effort(target=0.02))
    assert load_device("local:threads=2,target=0.02,name=two,batch=8") == two


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("locl", "unknown device 'locl'; did you mean local"),
        ("local:thread=2", "unknown setting of device local 'thread'; did you mean threads"),
        ("local:threads=two", "'threads=two' is not a setting; threads takes a whole number"),
        ("local:threads=0", "device local: threads is 0; it must be positive"),
        ("local:batch=0", "batch is 0; it must be positive"),
        ("local:precision=fp8", "unknown precision 'fp8'; did you mean fp32"),
        ("local:cores=all", "cores is 'all'; it is written as 0-3, and in a device's file also as 4,6"),
        ("local:min_rounds=300", "min_rounds 300 and max_rounds 200 exclude each other"),
        ("local:optimization=most", "unknown optimization 'most'"),
    ],
)
def test_a_bad_device_is_an_error_with_a_remedy(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_device(text)


def test_one_more_python_may_bring_another_runtime(tmp_path: Path) -> None:
    """Here one without any: it says what is missing there."""
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    empty.chmod(0o700)
    with pytest.raises(FaultError, match=r"local: numpy and onnxruntime missing there; run there: .* -m pip install"):
        load_device(f"local:python={empty}").fingerprint()
    with pytest.raises(FaultError, match="local: cannot run nowhere"):
        load_device("local:python=nowhere").fingerprint()


def test_cores_are_pinned(jobs: list[Job], tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    seen = []

    def look(progress: Progress) -> None:
        seen.append(os.sched_getaffinity(timer()))

    replace(QUICK, runtime=OnnxRuntime(cores=str(core))).measure(jobs, look)
    assert seen == [{core}] * 5


def test_load_without_a_pause_is_told_as_sustained(jobs: list[Job], tmp_path: Path) -> None:
    small, large = jobs
    measured = QUICK.measure([small, replace(large, sustained_s=1.5)], samples=tmp_path)
    assert measured.timings["small"].sustained is None
    sustained = measured.timings["large"].sustained
    assert sustained is not None
    assert 0.3 < sustained / measured.timings["large"].ratio < 30
    lines = stored(tmp_path)
    again = QUICK.measure([small, replace(large, sustained_s=1.5)], samples=tmp_path)
    assert again.timings["large"].sustained == sustained
    assert stored(tmp_path) == lines


def test_a_model_that_brings_the_runtime_down_is_named_and_leaves_the_others(crashing: OnnxRuntime) -> None:
    jobs = [Job("good", b"good"), Job("bad", b"crash"), Job("better", b"better"), Job("worse", b"crash")]
    measured = replace(QUICK, runtime=crashing).measure(jobs)
    assert {name: timing.rounds for name, timing in measured.timings.items()} == {"good": 5, "better": 5}
    assert measured.errors == dict.fromkeys(["bad", "worse"], CRASHED)


def test_a_model_that_fails_later_is_named_as_the_job_is(crashing: OnnxRuntime) -> None:
    device = replace(QUICK, runtime=crashing)
    with pytest.raises(FaultError, match=r"local: .*: stage 3 failed in round \d, after it had run: no more"):
        device.measure([Job("good", b"good"), Job("stage 3", b"later")])


@pytest.mark.parametrize(("prints", "words"), [("Welcome!", "says 'Welcome!' by itself"), ("", "says nothing")])
def test_a_python_that_is_none_is_told_so(tmp_path: Path, prints: str, words: str) -> None:
    other = tmp_path / "python"
    other.write_text(f"#!/bin/sh\nprintf '{prints}'\n")
    other.chmod(0o700)
    with pytest.raises(FaultError, match=f"local: the machine {words}"):
        load_device(f"local:python={other}").fingerprint()


def test_a_runtime_is_known_by_any_of_its_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards with a GPU have one of another name; two of them in one environment would break each other."""
    monkeypatch.setattr(onnx_timer.timer, "version_of", {"numpy": "2.0", "onnxruntime-gpu": "1.19.0"}.get)
    assert onnx_timer.describe({})["runtime"] == "onnxruntime 1.19.0"
    monkeypatch.setattr(onnx_timer.timer, "version_of", {"numpy": "2.0"}.get)
    assert onnx_timer.describe({})["runtime"].startswith("onnxruntime 1.")  # built from source, and imported


@pytest.mark.parametrize(
    ("system", "cpu", "emulated"),
    [
        ("Linux aarch64", "AMD EPYC 7B13", True),
        ("Linux aarch64", "Intel(R) Xeon(R) CPU @ 2.20GHz", True),
        ("Linux aarch64", "Raspberry Pi 5 Model B Rev 1.0", False),
        ("Linux aarch64", "Neoverse-N1", False),
        ("Linux x86_64", "AMD EPYC 7B13", False),
        ("", "", False),
    ],
)
def test_an_arm_system_on_another_processor_is_emulated(system: str, cpu: str, emulated: bool) -> None:
    """Under qemu a program sees the processor of its host."""
    machine = {"system": system, "cpu": cpu} if system else {}

    class Described(LocalHost):
        def describe(self, program: Sequence[Path], options: Mapping[str, Any]) -> dict[str, str]:
            return machine

    assert foreign(machine) == emulated
    label = TimedDevice("board", Described()).fingerprint()["label"]
    assert label == ("emulated" if emulated else "measured")
