"""Times measured by hand: models out in a folder, times back in it, by each of the ways that its note tells."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.devices import Form, Job, load_device
from hwnas.devices.by_hand import FolderDevice, trtexec_times
from hwnas.errors import FaultError, InputError


@pytest.fixture
def device(tmp_path: Path) -> FolderDevice:
    found = load_device(f"folder:{tmp_path / 'usb'}")
    assert isinstance(found, FolderDevice)
    return found


def asked(device: FolderDevice, jobs: list[Job]) -> dict[str, str]:
    """The files by what they are, once the models were asked to be measured."""
    with pytest.raises(FaultError, match=r"2 models have no times yet.* \(first: small\); READ-ME.txt there says how"):
        device.measure(jobs)
    with (device.folder / "manifest.csv").open(newline="") as file:
        return {row["what"]: row["file"] for row in csv.DictReader(file)}


def test_models_go_out_and_times_of_any_origin_come_back(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    assert (device.folder / files["small"]).read_bytes() == jobs[0].model
    times = {"the reference": [2.0, 2.0, 2.2, 2.0, 2.0], "small": [1.0, 1.1, 0.9, 1.0, 1.0], "large": [4.0] * 5}
    rows = [f"{files[what]},{ms}" for what, series in times.items() for ms in series]
    (device.folder / "results.csv").write_text("\n".join(["file,ms", *rows]))
    measured = device.measure(jobs)
    assert measured.reference_ms == 2
    small, large = measured.timings["small"], measured.timings["large"]
    assert (small.ratio, small.low, small.high, small.rounds, small.raw_ms) == (0.5, 0.45, 0.55, 5, 1.0)
    assert (large.ratio, large.p95) == (2, 2)


def test_the_program_that_lies_there_measures_them(device: FolderDevice, jobs: list[Job]) -> None:
    asked(device, jobs)
    plan = json.loads((device.folder / "plan.json").read_text())
    (device.folder / "plan.json").write_text(json.dumps({**plan, "min_rounds": 5, "max_rounds": 5}))
    subprocess.run([sys.executable, "onnx_timer.py", "."], cwd=device.folder, check=True, capture_output=True)
    measured = device.measure(jobs)
    assert {name: timing.rounds for name, timing in measured.timings.items()} == {"small": 5, "large": 5}
    assert len(measured.samples) == 10


def test_times_of_trtexec_are_read_without_its_warm_up(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    for what, ms in (("the reference", 2.0), ("small", 1.0), ("large", 4.0)):
        rows = [{"startComputeMs": 50.0 * i, "computeMs": 99.0 if i < 4 else ms} for i in range(10)]
        (device.folder / files[what]).with_suffix(".json").write_text(json.dumps(rows))
    measured = device.measure(jobs)
    assert [measured.timings[name].ratio for name in ("small", "large")] == [0.5, 2]
    assert measured.timings["small"].rounds == 6


def test_what_is_missing_or_wrong_is_named(device: FolderDevice, jobs: list[Job], tmp_path: Path) -> None:
    files = asked(device, jobs)
    results = device.folder / "results.csv"
    rows = [f"{files[name]},1" for name in ("small", "large")] * 5
    results.write_text("\n".join(["file,ms", *rows]))
    with pytest.raises(FaultError, match="the reference has no times yet, or fewer than 5"):
        device.measure(jobs)
    results.write_text(f"file,ms\n{files['small']},fast\n")
    with pytest.raises(InputError, match=r"results.csv line 2: .*'fast'.* is not a file and its milliseconds"):
        device.measure(jobs)
    (tmp_path / "broken.json").write_text('[{"latencyMs": 1}]')
    with pytest.raises(InputError, match=r"broken.json is no file of trtexec --exportTimes"):
        trtexec_times(tmp_path / "broken.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        load_device(f"folder:{tmp_path / 'file'}")
    with pytest.raises(InputError, match="write folder:DIR"):
        load_device("folder:")


def test_other_models_ask_again(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    rows = [f"{file},1" for file in files.values()] * 5
    (device.folder / "results.csv").write_text("\n".join(["file,ms", *rows]))
    device.measure(jobs)
    with pytest.raises(FaultError, match=r"1 models have no times yet.* \(first: other\)"):
        device.measure([*jobs, Job("other", jobs[0].model)])


def test_what_cannot_run_there_is_said_in_place_of_times(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    rows = [f"{files[what]},{ms}" for what, ms in (("the reference", 2.0), ("small", 1.0)) for _ in range(5)]
    rows.append(f"{files['large']},cannot: no kernel for it")
    (device.folder / "results.csv").write_text("\n".join(["file,ms", *rows]))
    measured = device.measure(jobs)
    assert list(measured.timings) == ["small"]
    assert measured.errors == {"large": "no kernel for it"}


def test_a_program_that_was_interrupted_there_is_to_be_started_again(device: FolderDevice, jobs: list[Job]) -> None:
    asked(device, jobs)
    plan = json.loads((device.folder / "plan.json").read_text())
    (device.folder / "plan.json").write_text(json.dumps({**plan, "min_rounds": 6, "max_rounds": 6}))
    subprocess.run([sys.executable, "onnx_timer.py", "."], cwd=device.folder, check=True, capture_output=True)
    done = device.folder / "result.json"
    told = done.read_bytes()
    done.unlink()
    with pytest.raises(FaultError, match=r"was interrupted there; start it again"):
        device.measure(jobs)
    done.write_bytes(told)
    assert device.measure(jobs).settled == json.loads(told)["settled"]


def test_times_under_load_are_refused(device: FolderDevice, jobs: list[Job]) -> None:
    with pytest.raises(InputError, match="leave out --sustained"):
        device.measure([Job("hot", jobs[0].model, sustained_s=1.0)])


def test_a_csv_of_a_spreadsheet_begins_with_a_mark(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    rows = [f"{file},1.0" for file in files.values() for _ in range(5)]
    (device.folder / "results.csv").write_text("\n".join(["file,ms", *rows]), encoding="utf-8-sig")
    assert device.measure(jobs).timings["small"].ratio == 1


def test_models_go_out_in_the_form_that_was_asked_for(jobs: list[Job], tmp_path: Path) -> None:
    """A folder's own settings follow its first comma; those above it may have some."""
    device = load_device(f"folder:{tmp_path}/a, b/usb,batch=8,precision=fp16")
    assert device == FolderDevice(tmp_path / "a, b" / "usb", Form(8, "fp16"))
    assert {"name": "usb", "batch": "8", "precision": "fp16"}.items() <= device.fingerprint().items()
    assert isinstance(device, FolderDevice)
    files = asked(device, jobs)
    with (device.folder / "manifest.csv").open(newline="") as file:
        rows = {row["file"]: (row["batch"], row["precision"]) for row in csv.DictReader(file)}
    assert rows.pop("reference.onnx") == ("1", "fp32")
    assert rows == {files[name]: ("8", "fp16") for name in ("small", "large")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("usb,bach=8", "unknown setting of device folder:.*usb 'bach'; did you mean batch"),
        ("usb,batch=0", "batch is 0; it must be positive"),
        ("usb,batch=many", "'batch=many' is not a setting; batch takes a whole number"),
        ("usb,precision=fp8", "unknown precision 'fp8'; did you mean fp"),
        (",batch=8", "names no folder"),
        ("there, too", "folder:.*/there, too: a folder whose name has a comma can't be a device: rename it"),
    ],
)
def test_a_slip_behind_a_folder_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "there, too").mkdir()
    with pytest.raises(InputError, match=words):
        load_device(f"folder:{tmp_path}/{text}")


def test_where_no_model_can_run_no_times_are_wanted(device: FolderDevice, jobs: list[Job]) -> None:
    files = asked(device, jobs)
    rows = [f"{files[name]},cannot: no kernel" for name in ("small", "large")]
    (device.folder / "results.csv").write_text("\n".join(["file,ms", *rows]))
    measured = device.measure(jobs)
    assert (measured.timings, measured.errors) == ({}, dict.fromkeys(("small", "large"), "no kernel"))
