"""The README's commands and its Python, executed in its order, with less training and less measuring."""

import re
import shlex
from pathlib import Path

import pytest

from hwnas.__main__ import main
from hwnas.latency import LatencyTable

README = Path(__file__).parents[1] / "README.md"
QUICK_DEVICE = "local:tolerance=9,target=0.5,min_rounds=3,max_rounds=3,max_seconds=1"
LESS = {"--epochs 25": "--epochs 1", "--nets 20": "--nets 3 --pause 0", "--device local": f"--device {QUICK_DEVICE}"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def run(command, monkeypatch):
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0, command


def roomy(table):
    """A limit of this machine that an export keeps, however little was measured: else it would be rejected."""
    _, high = LatencyTable.load(table).cost.bounds()
    return f"--limit local={3 * high}ms"


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("hwnas ")]
    steps = ["train", "profile", "validate", "search", "export", "report", "list"]
    assert [command.split()[1] for command in commands] == steps
    for command in commands:
        for full, quick in LESS.items():
            command = command.replace(full, quick)
        if "--limit local" in command:  # the README's limit is one of the machine it was written on
            command = re.sub(r"--limit local=\S+", roomy("local.json"), command) + " --budget 3"
        run(command.partition(" > ")[0], monkeypatch)
    assert Path("net.onnx").is_file()
    assert Path("net.json").is_file()
    for code in blocks("python"):
        exec(compile(code, str(README), "exec"), {"__name__": "readme"})


def test_nothing_is_left_to_fill_in():
    text = README.read_text()
    assert not re.search(r"\b[A-Z]+_TABLE\b", text)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    assert [link for link in links if not (README.parent / link).is_file()] == []
