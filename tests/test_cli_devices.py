"""The command line with devices: what is measured, what a limit may name, what is said of a table's worth."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hwnas.__main__ import run
from hwnas.latency import LatencyTable

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
EFFORT = "tolerance=9,target=0.1,min_rounds=5,max_rounds=5,max_seconds=1"
LOCAL, OTHER = f"local:{EFFORT}", f"local:name=other,optimization=basic,{EFFORT}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a table with sustained times."""
    folder = tmp_path_factory.mktemp("devices")
    assert run(["train", "--space", SPACE, "--data", "digits", "--out", f"{folder}/run", "--epochs", "1"]) == 0
    profile = ["profile", "--space", f"{folder}/run", "--device", LOCAL, "--out", f"{folder}/local.json"]
    assert run([*profile, "--sustained", "1"]) == 0
    return folder


def search(made: Path, out: Path, *options: str) -> int:
    return run(["search", "--run", f"{made}/run", "--budget", "3", "--out", str(out), *options])


@pytest.mark.parametrize("statistic", ["p95", "sustained"])
def test_a_limit_may_hold_for_what_users_feel(
    statistic: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = f"local.{statistic}", tmp_path / "found.json"
    table = LatencyTable.load(made / "local.json").statistic(statistic)
    assert table.upper_sum is not None
    low, high = table.upper_sum.bounds()
    limit_ms = low + 0.5 * (high - low)
    assert search(made, out, "--table", f"{made}/local.json", "--limit", f"{name}={limit_ms:.6f}ms") == 0
    found = json.loads(out.read_text())
    assert found["costs"][name] == pytest.approx(table.predict(found["arch"]).ms)
    assert found["intervals"][name][1] <= limit_ms * (1 + 1e-6)
    assert "never tested by hwnas validate" in " ".join(capsys.readouterr().out.split())
    assert search(made, out, "--table", f"{made}/local.json", "--limit", f"{name}={low / 2:.6f}ms") == 2
    assert name in capsys.readouterr().err


def test_load_was_asked_for_or_is_no_limit(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = ["profile", "--space", f"{made}/run", "--device", LOCAL, "--out", f"{tmp_path}/plain.json"]
    assert run(profile) == 0
    capsys.readouterr()
    table = ["--table", f"{tmp_path}/plain.json", "--limit", "local.sustained=10s"]
    assert search(made, tmp_path / "found.json", *table) == 2
    assert "hwnas profile --sustained SECONDS" in capsys.readouterr().err


def test_samples_lie_beside_the_table(made: Path) -> None:
    rows = gzip.decompress((made / "local.samples.csv.gz").read_bytes()).decode().splitlines()
    table = LatencyTable.load(made / "local.json")
    timed = sum(entry.rounds > 0 for entry in table.entries.values())
    assert len(rows) > 5 * (timed + len(table.calibration.networks))


def test_a_table_that_was_never_validated_is_said_to_be_so(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "local.json"
    table.write_bytes((made / "local.json").read_bytes())
    capsys.readouterr()
    assert search(made, tmp_path / "a.json", "--table", str(table), "--limit", "local=10s") == 0
    assert "was never validated" in " ".join(capsys.readouterr().out.split())
    validate = ["validate", "--space", f"{made}/run", "--table", str(table), "--device", LOCAL]
    assert run([*validate, "--nets", "10", "--pause", "0", "--out", f"{tmp_path}/figures.json"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "mean error if fitted to four fifths of them: table" in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["predictors"]) == {"table", "residual", "linear", "forest", "network"}
    assert search(made, tmp_path / "b.json", "--table", str(table), "--limit", "local=10s") == 0
    assert "was never validated" not in " ".join(capsys.readouterr().out.split())


def test_a_new_device_needs_only_a_few_networks(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "other.json"
    command = ["profile", "--space", f"{made}/run", "--device", OTHER, "--out", str(out)]
    assert run([*command, "--from", f"{made}/local.json", "--networks", "4"]) == 0
    assert "told by 4 networks" in " ".join(capsys.readouterr().out.split())
    table = LatencyTable.load(out)
    assert table.name == "other"
    assert len(table.calibration.networks) == 4
    assert search(made, tmp_path / "found.json", "--table", str(out), "--limit", "other=10s") == 0


def test_load_cannot_be_told_from_other_devices(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", "--space", f"{made}/run", "--device", OTHER, "--out", f"{tmp_path}/other.json"]
    assert run([*command, "--from", f"{made}/local.json", "--sustained", "5"]) == 2
    assert "leave out --from" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_table_of_an_earlier_device_leaves_nothing_behind(
    tmp_path: Path, refused: Callable[..., None]
) -> None:
    typed = f"profile --space {SPACE} --device {LOCAL} --from none.json --out new.json"
    refused(tmp_path, typed, ["there is no file none.json: hwnas profile makes one"])


def test_a_host_that_cannot_measure_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["profile", "--space", SPACE, "--device", "local:python=nowhere", "--out", f"{tmp_path}/local.json"]
    assert run(typed) == 1
    assert "cannot run nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_measured_beside_networks_of_the_table(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, net = tmp_path / "found.json", tmp_path / "net.onnx"
    assert search(made, out, "--table", f"{made}/local.json", "--limit", "local=10s") == 0
    command = ["export", str(out), "--out", str(net), "--device", LOCAL]
    found = json.loads(out.read_text())
    calibrated = {
        network.arch: network.measured_ms for network in LatencyTable.load(made / "local.json").calibration.networks
    }
    anchors = found["tables"]["local"]["anchors"]
    assert len(anchors) > 1
    assert all(calibrated[tuple(anchor["arch"])] == anchor["ms"] for anchor in anchors)
    assert run(command) == 0
    with_anchors = json.loads(net.with_suffix(".json").read_text())["latency"]["local"]
    assert with_anchors["changed"] != 0
    anchors[0]["arch"] = [9, 9, 9]
    out.write_text(json.dumps(found))
    assert run(command) == 2
    assert "are damaged in what the search wrote" in capsys.readouterr().err
    del found["tables"]["local"]["anchors"]  # as searches wrote before there were any
    out.write_text(json.dumps(found))
    assert run(command) == 0
    assert json.loads(net.with_suffix(".json").read_text())["latency"]["local"]["changed"] == 0
