"""Commands with machines of other kinds: by hand, over SSH, updated since, and such as can't run everything."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import tomli_w

from hwnas.__main__ import run
from hwnas.devices import Progress
from hwnas.devices.timed import TimedDevice
from hwnas.latency import LatencyTable

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
EFFORT = {"tolerance": 9.0, "target": 0.1, "min_rounds": 5, "max_rounds": 5, "max_seconds": 1.0}
LOCAL = "local:" + ",".join(f"{name}={value}" for name, value in EFFORT.items())
Type = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a table."""
    folder = tmp_path_factory.mktemp("machines")
    assert run(["train", "--space", SPACE, "--data", "digits", "--out", f"{folder}/run", "--epochs", "1"]) == 0
    assert run(["profile", "--space", f"{folder}/run", "--device", LOCAL, "--out", f"{folder}/local.json"]) == 0
    return folder


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Type:
    """Types a command; what it says, and that it ends with a status and on an error says one line."""

    def command(words: str, status: int = 0) -> str:
        capsys.readouterr()
        ended, said = run(words.split()), capsys.readouterr()
        assert ended == status, said
        assert not status or said.err.count("\n") == 1, said.err
        return " ".join((said.out + said.err).split())

    return command


def test_a_table_of_another_runtime_is_renewed(
    made: Path, tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export says what to do; `validate` checks a few layers, and keeps the table as one of the new runtime."""
    monkeypatch.setattr("hwnas.latency.renewal.EVEN", 9.0)  # five rounds on a busy machine tell little
    table, path = LatencyTable.load(made / "local.json"), tmp_path / "local.json"
    before = replace(table, device={**table.device, "runtime": "onnxruntime 1.0.0"})
    before.save(path)
    typed(f"search --run {made}/run --table {path} --limit local=9s --budget 3 --out {tmp_path}/found.json")
    export = f"export {tmp_path}/found.json --out {tmp_path}/net.onnx --device {LOCAL}"
    said = typed(export, status=2)
    assert "onnxruntime 1.0.0" in said
    assert "hwnas validate" in said
    validate = f"validate --space {made}/run --table {path} --device {LOCAL} --nets 4 --pause 0"
    said = typed(validate)
    assert re.search(r"renewed by a spot check \(.*onnxruntime 1.0.0", said)
    assert LatencyTable.load(path).device == table.device
    typed(f"search --run {made}/run --table {path} --limit local=9s --budget 3 --out {tmp_path}/found.json")
    typed(export)


def test_what_a_device_rejects_is_in_no_network_that_is_found(made: Path, tmp_path: Path, typed: Type) -> None:
    table, path = LatencyTable.load(made / "local.json"), tmp_path / "local.json"
    wide = next(layer for layer in table.entries if dict(layer.params).get("kernel") == 5)
    for timed in (True, False):  # as measured, and of a device that only compiles
        entries = {layer: replace(entry, rounds=entry.rounds * timed) for layer, entry in table.entries.items()}
        replace(table, entries=entries, rejected={wide: "no such kernel"}).save(path)
        typed(f"search --run {made}/run --table {path} --limit flops=9G --budget 30 --out {tmp_path}/found.json")
        assert str(wide) not in json.loads((tmp_path / "found.json").read_text())["description"]
    limited = f"search --run {made}/run --table {path} --limit local=9s --out {tmp_path}/other.json"
    assert "local only compiles, it has no times to limit" in typed(limited, status=2)
    typed(f"search --run {made}/run --limit flops=9G --budget 30 --out {tmp_path}/free.json")


def fill(folder: Path) -> None:
    """Times as a machine may take them: by the size of a model, each a little different."""
    with (folder / "manifest.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    rows = ["file,ms"]
    for name in names:
        graph = onnx.load(folder / name).graph
        ms = 0.05 + 1e-6 * sum(onnx.numpy_helper.to_array(weight).size for weight in graph.initializer)
        ms += 0.01 * sum(node.op_type != "Identity" for node in graph.node)
        rows += [f"{name},{ms * (1 + 0.001 * i)}" for i in range(5)]
    (folder / "results.csv").write_text("\n".join(rows))


def test_by_hand_from_the_first_command_to_the_last(made: Path, tmp_path: Path, typed: Type) -> None:
    usb, table = tmp_path / "usb", tmp_path / "usb.json"
    commands = [
        f"profile --space {made}/run --device folder:{usb} --out {table}",
        f"validate --space {made}/run --table {table} --device folder:{usb} --nets 4",
        f"export {tmp_path}/found.json --out {tmp_path}/net.onnx --device folder:{usb}",
    ]
    for number, command in enumerate(commands):
        if number == 2:
            low, high = LatencyTable.load(table).range_ms()
            limit = f"--limit usb={(low + high) / 2}ms"
            typed(f"search --run {made}/run --table {table} {limit} --budget 20 --out {tmp_path}/found.json")
        assert "have no times yet" in typed(command, status=1)
        fill(usb)
        typed(f"{command} --resume" if number < 2 else command)
    proof = json.loads((tmp_path / "net.json").read_text())
    assert proof["within_limits"] is True
    assert proof["latency"]["usb"]["measured_ms"] == pytest.approx(proof["latency"]["usb"]["predicted_ms"], rel=0.05)


@pytest.fixture
def board(server: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes the file of a board that is the test's own server, with other settings where these are given."""

    def write(**changed: Any) -> Path:
        ssh = {**server.settings(), "folder": str(tmp_path / "there"), "patience_s": 0.0, **changed}
        host = {"kind": "ssh", **{name: list(v) if isinstance(v, tuple) else v for name, v in ssh.items()}}
        path = tmp_path / "board.toml"
        path.write_text(tomli_w.dumps({"name": "board", "host": host, "effort": EFFORT}))
        return path

    return write


def test_a_board_that_is_not_as_it_should_be_is_one_line(
    made: Path, tmp_path: Path, typed: Type, board: Callable[..., Path], server: Any
) -> None:
    out, other = tmp_path / "board.json", tmp_path / "known_hosts"
    kind, key, *_ = (server.folder / "user.pub").read_text().split()
    other.write_text(f"[127.0.0.1]:{server.wire.port} {kind} {key}\n")
    for changed, words in (
        ({"port": 1}, "board: cannot be reached: 127.0.0.1 port 1"),
        ({"known_hosts": str(other)}, "is not the one in"),
        ({"python": ("python-of-no-one",)}, "python-of-no-one was not found there"),
    ):
        assert words in typed(f"profile --space {made}/run --device {board(**changed)} --out {out}", status=1)
    assert not list(tmp_path.glob("board.json*"))
    assert not list(tmp_path.glob("there/*"))


def test_a_profile_over_a_wire_that_broke_goes_on(
    made: Path, tmp_path: Path, typed: Type, board: Callable[..., Path], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut for good half-way, then resumed over another wire: one line, and no sample twice."""
    monkeypatch.setattr("hwnas.devices.remote.FETCH_S", 0.0)
    away, out, plain = server.by_another_wire(), tmp_path / "board.json", TimedDevice.measure

    def measure(device: TimedDevice, jobs: Any, progress: Any = None, samples: Path | None = None) -> Any:
        def cut(state: Progress) -> None:
            if state.rounds >= 2:
                away.wire.cut(stay=True)

        return plain(device, jobs, cut, samples)

    there = {"port": away.wire.port, "known_hosts": str(away.known_hosts)}
    command = f"profile --space {made}/run --device {board(**there)} --out {out}"
    with monkeypatch.context() as patched:
        patched.setattr(TimedDevice, "measure", measure)
        assert "board: cannot be reached" in typed(command, status=1)
    (kept,) = tmp_path.glob("board.json.samples/*/samples.jsonl")
    before = [line for line in kept.read_text().splitlines() if "runs_ms" in line]
    assert before
    board()
    typed(f"{command} --resume")
    lines = LatencyTable.load(out)
    assert len(lines.calibration.networks) == 20 or lines.calibration.networks
    assert (tmp_path / "board.samples.csv.gz").is_file()
