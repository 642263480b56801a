"""The command line as users meet it: help, lists, and one line that helps for everything that can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.__main__ import run, usage
from hwnas.errors import HwnasError
from hwnas.latency.profile import profile
from hwnas.latency.table import VERSION
from hwnas.supernet import load_space

Refused = Callable[[Path, str, list[str]], None]
COMMANDS = ("demo", "train", "profile", "validate", "rank", "search", "finetune", "export", "report", "list")
SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
LOCAL = "local:tolerance=9,target=0.1,min_rounds=3,max_rounds=3,max_seconds=1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, simulated: Any) -> Path:
    """A folder with a run, tables whole and broken, and a network found."""
    folder = tmp_path_factory.mktemp("cli")
    assert run(["train", "--space", SPACE, "--data", "digits", "--out", f"{folder}/run", "--epochs", "1"]) == 0
    device = simulated(name="local", noise=0.01)
    profile(load_space(SPACE), device).table.save(folder / "local.json")
    profile(load_space("mobilenet:size=8,widths=4,depths=1,strides=1"), device).table.save(folder / "other.json")
    found = ["search", "--run", f"{folder}/run", "--table", f"{folder}/local.json", "--budget", "4"]
    assert run([*found, "--limit", "local=1s", "--out", f"{folder}/found.json"]) == 0
    text = (folder / "local.json").read_text()
    (folder / "old.json").write_text(text.replace(f'"version": {VERSION}', '"version": 0'))
    (folder / "cut.json").write_text(text[:500])
    (folder / "foreign.json").write_text('{"nodes": []}')
    for name, change in {
        "genes": {"arch": [9, 9, 9]},
        "moved": {"run": "nowhere/run"},
        "trained": {"weights": "0"},
    }.items():
        network = json.loads((folder / "found.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps({**network, **change}))
    return folder


FAULTY = """
from hwnas.supernet import ChoiceSpace, Layer, Node
from torch import nn
class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1))
class FaultySpace(ChoiceSpace):
    def __init__(self):
        super().__init__([2])
    def graph(self, arch):
        return (Node(Layer("flat", 1, 10, 8, 0)),)
    def build(self, layer):
        return Flat(9, 10)
"""


TRAIN = f"train --space {SPACE} --data digits --out new"
SEARCH = "search --run run --table local.json --budget 3 --out new.json"
PROFILE = f"profile --space run --device {LOCAL} --out new.json"
VALIDATE = f"validate --space run --table local.json --device {LOCAL} --nets 3 --pause 0 --out new.json"
EXPORT = "export found.json --out new.onnx"
ANY_SPACE = "train --data digits --out new --space"

BAD = {  # what is typed: what the one line must contain
    "space": (f"{ANY_SPACE} mobilnet", ["'mobilnet'", "mean mobilenet"]),
    "space's setting": (f"{ANY_SPACE} mobilenet:sise=3", ["'sise'", "mean size"]),
    "space's value": (f"{ANY_SPACE} mobilenet:size=big", ["size=big", "takes a list"]),
    "space's list": (f"{ANY_SPACE} mobilenet:kernels=3+5", ["kernels=3+5", "such as 3-5-7"]),
    "stages": (f"{ANY_SPACE} mobilenet:widths=4-8", ["widths=4-8", "one width, depth"]),
    "classes": (f"{ANY_SPACE} mobilenet:size=16,classes=7", ["7 outputs", "digits has 10", "classes=10"]),
    "module": (f"{ANY_SPACE} no_such_module:space", ["no_such_module:space"]),
    "activation": (TRAIN.replace("head=16", "act=rely"), ["'rely'", "relu"]),
    "data": (f"train --space {SPACE} --data digit --out new", ["'digit'", "mean digits"]),
    "data folder": (
        f"train --space {SPACE} --data fashion-mnist --data-dir no --out new",
        ["not in no ", "--data-dir"],
    ),
    "data folder twice": (
        f"train --space {SPACE} --data folder:cats --data-dir dogs --out new",
        ["--data-dir dogs is for built-in data", "folder:cats"],
    ),
    "sampling": (f"{TRAIN} --sampling unifrom", ["'unifrom'", "mean uniform"]),
    "sharing": (f"{TRAIN} --sharing block", ["'block'", "mean blocks"]),
    "largest first": (f"{TRAIN} --largest-first 2", ["largest_first=2.0", "a share, from 0 to 1"]),
    "epochs": (f"{TRAIN} --epochs 0", ["epochs=0", "positive"]),
    "batch": (f"{TRAIN} --batch many", ["--batch", "many", "hwnas train --help"]),
    "learning rate": (f"{TRAIN} --lr=fast", ["--lr", "fast", "hwnas train --help"]),
    "no pretrained file": (f"{TRAIN} --init-from none.pt", ["none.pt", "torchvision:NAME"]),
    "pretrained network": (f"{TRAIN} --init-from torchvision:mobilnet_v3_small", ["mean mobilenet_v3_small"]),
    "foreign weights": (f"{TRAIN} --init-from foreign.json", ["foreign.json", "state_dict"]),
    "finetune nothing": ("finetune none.json --out new", ["none.json"]),
    "finetune elsewhere": ("finetune moved.json --out new", ["nowhere/run", "search again"]),
    "finetune other weights": ("finetune trained.json --out new", ["trained on", "search again"]),
    "finetune epochs": ("finetune found.json --out new --epochs 0", ["epochs=0"]),
    "existing run": (f"train --space {SPACE} --data digits --out run --epochs 1", ["run holds", "--resume"]),
    "other epochs": (f"train --space {SPACE} --data digits --out run --epochs 2 --resume", ["1 -> 2", "give the same"]),
    "other space": (
        f"{ANY_SPACE.replace('new', 'run')} {SPACE.replace('stem=4', 'stem=8')} --epochs 1 --resume",
        ["stem=8", "give the same"],
    ),
    "run in a file": (f"{TRAIN.replace('new', 'local.json/new')}", ["local.json", "another place"]),
    "missing option": ("train --data digits --out new", ["--space", "hwnas train --help"]),
    "unknown option": (f"{TRAIN} --epoch 3", ["--epoch", "--epochs"]),
    "unknown command": ("trian", ["trian", "hwnas --help"]),
    "list": ("list nonsense", ["'nonsense'", "devices, spaces"]),
    "nothing to list": ("list", ["kind", "hwnas list --help"]),
    "profile space": (PROFILE.replace("run", "runn"), ["'runn'", "mobilenet"]),
    "profile folder": (PROFILE.replace("run", "no/run"), ["no/run", "hwnas train"]),
    "device": (PROFILE.replace("local:", "loca:"), ["'loca'", "mean local"]),
    "device's setting": (PROFILE.replace("target", "targt"), ["'targt'", "mean target"]),
    "device's value": (PROFILE.replace("0.1", "tenth"), ["target=tenth", "a number"]),
    "device's range": (PROFILE.replace("min_rounds=3", "min_rounds=4"), ["min_rounds 4", "max_rounds 3"]),
    "table is a folder": (PROFILE.replace("new.json", "run"), ["run is a folder"]),
    "table in a file": (PROFILE.replace("new.json", "found.json/new.json"), ["found.json", "another place"]),
    "report of nothing": ("report none.json --out new.html", ["none.json", "a latency table"]),
    "report of anything": ("report foreign.json --out new.html", ["foreign.json", "a latency table"]),
    "report of an old table": ("report old.json --out new.html", ["old.json", "version 0", "reads"]),
    "report elsewhere": ("report local.json --out new.json", ["new.json", ".html"]),
    "validate nothing": (VALIDATE.replace("local.json", "none.json"), ["none.json"]),
    "validate few": (VALIDATE.replace("--nets 3", "--nets 2"), ["--nets", "2", "3"]),
    "validate elsewhere": (VALIDATE, ["another device", "run hwnas profile again"]),
    "validate another space": (VALIDATE.replace("local.json", "other.json"), ["size=8", "hwnas profile --space"]),
    "no run": (SEARCH.replace("run run", "run none"), ["none", "hwnas train"]),
    "no run but a folder": (SEARCH.replace("--run run", "--run ."), ["run.json", "hwnas train"]),
    "limit without value": (f"{SEARCH} --limit flops", ["'flops'", "flops=300M"]),
    "limit without number": (f"{SEARCH} --limit flops=few", ["'flops=few'", "flops=300M"]),
    "limit in wrong unit": (f"{SEARCH} --limit local=5MB", ["'local=5MB'", "local=20ms"]),
    "limit negative": (f"{SEARCH} --limit flops=-3", ["'flops=-3'", "flops=300M"]),
    "limit twice": (f"{SEARCH} --limit flops=1M --limit flops=2M", ["'flops=2M'", "one limit per cost"]),
    "limit without table": (f"{SEARCH} --limit pixel8=3ms", ["'pixel8'", "--table"]),
    "latency out of reach": (f"{SEARCH} --limit local=1us", ["local=0.001", "out of reach", "ask for at least"]),
    "flops out of reach": (f"{SEARCH} --limit flops=1K", ["flops=1000", "out of reach", "ask for at least"]),
    "memory out of reach": (
        f"{SEARCH} --limit memory=1B",
        ["memory=1;", "known range: memory from", "raise the limits"],
    ),
    "table twice": (f"{SEARCH} --table local.json", ["local.json", "one table per device"]),
    "table of another space": (SEARCH.replace("local.json", "other.json"), ["size=8", "hwnas profile --space"]),
    "table of another version": (SEARCH.replace("local.json", "old.json"), ["version 0", f"reads {VERSION}"]),
    "table cut": (SEARCH.replace("local.json", "cut.json"), ["cut.json", "not readable"]),
    "table foreign": (SEARCH.replace("local.json", "foreign.json"), ["foreign.json", "not a hwnas table"]),
    "table a result": (SEARCH.replace("local.json", "found.json"), ["found.json", "hwnas.found"]),
    "table missing": (SEARCH.replace("local.json", "none.json"), ["none.json"]),
    "strategy": (f"{SEARCH} --strategy evolutoin", ["'evolutoin'", "mean evolution"]),
    "budget": (f"{SEARCH} --budget 0", ["--budget", "0", "1"]),
    "pareto": (f"{SEARCH} --pareto watts", ["'watts'", "--table"]),
    "search to a folder": (SEARCH.replace("new.json", "run"), ["run is a folder"]),
    "not .onnx": (EXPORT.replace(".onnx", ".pb"), ["new.pb", ".onnx"]),
    "over the result": (EXPORT.replace("new", "found"), ["overwritten", "found.json", "name another"]),
    "export batch": (f"{EXPORT} --batch abc", ["abc", "dynamic"]),
    "export batch of none": (f"{EXPORT} --batch 0", ["0", "dynamic"]),
    "export opset": (f"{EXPORT} --opset 3", ["opset 3", "13", "oldest"]),
    "export opset to come": (f"{EXPORT} --opset 99", ["opset 99", "newest"]),
    "export drop": (f"{EXPORT} --int8 --drop 2", ["--drop 2", "0.005"]),
    "export genes": (EXPORT.replace("found", "genes"), ["(9, 9, 9)", "0..3"]),
    "export moved run": (EXPORT.replace("found", "moved"), ["nowhere/run", "search again"]),
    "export trained on": (EXPORT.replace("found", "trained"), ["run", "search again"]),
    "export device": (f"{EXPORT} --device loco", ["'loco'", "mean local"]),
    "export elsewhere": (f"{EXPORT} --device local", ["another device", "hwnas profile"]),
    "export a table": (EXPORT.replace("found", "local"), ["local.json", "hwnas.table"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_the_value_and_a_remedy(name: str, made: Path, refused: Refused) -> None:
    refused(made, *BAD[name])


def test_a_batch_larger_than_the_data_does_not_block_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--space", SPACE, "--data", "digits", "--out", f"{tmp_path}/run", "--epochs", "1"]
    assert run([*command, "--batch", "5000"]) == 2
    assert "batch of 5000" in capsys.readouterr().err
    assert run([*command, "--batch", "512"]) == 0


def test_a_command_in_a_process_of_its_own(made: Path) -> None:
    """What scripts see: the status, one line on stderr, nothing on stdout, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "hwnas", "search", "--run", "none", "--out", "new.json"],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hwnas: none is not a training run (it has no run.json): make one with hwnas train\n"


def test_a_fault_of_ours_is_one_line_and_its_traceback_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("hwnas.__main__.app", broken)
    monkeypatch.delenv("HWNAS_TRACEBACK", raising=False)
    assert run(["list", "spaces"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setenv("HWNAS_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="first"):
        run(["list", "spaces"])


def test_a_fault_in_a_users_own_code_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faulty_space.py").write_text(FAULTY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    status = run(["train", "--space", "faulty_space:FaultySpace", "--data", "digits", "--out", "run"])
    message = capsys.readouterr().err
    assert status == 1
    assert "faulty_space.py, line 6" in message
    assert "mat1 and mat2" in message


def test_an_error_of_several_lines_is_printed_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise HwnasError("first\n  second")

    monkeypatch.setattr("hwnas.__main__.app", broken)
    assert run(["list", "spaces"]) == 2
    assert capsys.readouterr().err == "hwnas: first second\n"


@pytest.mark.parametrize("given", [["--lr", "fast"], ["--lr=fast"]])
def test_usage_names_the_value_whatever_the_parser_says(given: list[str]) -> None:
    class RefusedError(Exception):
        param = type("Param", (), {"opts": ["--lr"]})

        def format_message(self) -> str:
            return "Invalid value for '--lr': not a number."

    assert (
        usage(RefusedError(), ["train", *given])
        == "Invalid value for '--lr': not a number (given: fast); see hwnas --help"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"Usage: hwnas {command}")
    assert said.err == ""


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_in_whole_sentences(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(arguments) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.partition("Commands:")[2].splitlines() if line.strip()}
    assert set(lines) == set(COMMANDS)
    assert not [line for line in lines.values() if line.endswith("...")]


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from hwnas.__main__ import run
run(["--help"])
print(*{"torch", "onnx", "onnxruntime", "numpy", "sklearn"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("spaces", ["mobilenet", "nas-bench-macro"]),
        ("data", ["digits", "fashion-mnist"]),
        ("devices", ["local"]),
        ("strategies", ["evolution", "random"]),
        ("targets", ["onnxruntime-arm64", "openvino"]),
    ],
)
def test_list(kind: str, names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert sorted(set(names) & set(listed)) == names


@pytest.mark.parametrize("kind", ["spaces", "devices"])
def test_listed_settings_can_be_given_back(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What `list` shows is what the other commands read: the defaults, written out, change nothing."""
    from hwnas.devices import load_device

    assert run(["list", kind]) == 0
    written = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    load: Callable[[str], Any] = {"spaces": load_space, "devices": load_device}[kind]
    assert written
    for text in written:
        assert load(text).fingerprint() == load(text.partition(":")[0]).fingerprint()


def test_search_prints_counts_as_counts(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"search --run {made}/run --table {made}/local.json --budget 2 --limit flops=1.5M --limit local=1s"
    assert run([*command.split(), "--out", f"{tmp_path}/found.json"]) == 0
    said = capsys.readouterr().out
    costs = json.loads((tmp_path / "found.json").read_text())["costs"]
    assert f"flops {costs['flops']:,.0f}, limit 1,500,000" in said
    assert f"local {costs['local']:.4g} ms [" in said
    assert "limit 1000 ms" in said
    assert max(len(line) for line in said.splitlines()) < 1000
