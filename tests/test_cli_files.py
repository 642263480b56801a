"""Bad files and data through the command line: one line that names the place and a remedy, and nothing is touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hwnas.__main__ import run
from hwnas.listing import space_toml

Refused = Callable[[Path, str, list[str]], None]
SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
TWO_CLASSES = SPACE.replace("classes=10", "classes=2")
TRAIN = f"train --space {SPACE} --data digits --batch 256 --epochs 1 --out"
OWN = f"train --space {SPACE} --out new --data"
SEARCH = "search --budget 5 --run"

OWN_DATA = """
import torch
from hwnas.supernet import Source, Split

def split(count, classes):
    return Split(torch.zeros(count, 1, 16, 16, dtype=torch.uint8), torch.arange(count) % classes)

names = tuple("0123456789")
labels = Source(split(400, 12), split(100, 10), names)
test_labels = Source(split(400, 10), split(100, 12), names)
empty_class = Source(split(400, 9), split(100, 9), names)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a network found, whole; and with what is broken in every way."""
    folder = tmp_path_factory.mktemp("bad")
    assert run([*TRAIN.split(), f"{folder}/run"]) == 0
    assert run(["search", "--budget", "4", "--run", f"{folder}/run", "--out", f"{folder}/found.json"]) == 0
    (folder / "own_bad.py").write_text(OWN_DATA)
    (folder / "key.toml").write_text(space_toml(SPACE).replace("classes", "clases"))
    (folder / "value.toml").write_text(space_toml(SPACE).replace("stride = 2", 'stride = "two"', 1))
    (folder / "small.toml").write_text(space_toml(SPACE).replace("size = 16", "size = 2"))
    (folder / "line.toml").write_text("channels = 1\nsize = 16\nclasses 10\n")
    for name, content in {"cat": None, "dog": b"no picture"}.items():
        for part in ("pictures", "empty"):
            (folder / part / name).mkdir(parents=True)
            for i in range(8):
                Image.new("L", (16, 16), i).save(folder / part / name / f"{i}.png")
        if content:
            (folder / "pictures" / name / "5.png").write_bytes(content)
            shutil.rmtree(folder / "empty" / name)
            (folder / "empty" / name).mkdir()
    for file in ("run.json", "checkpoint.pt", "metrics.jsonl", "evaluations.sqlite"):
        broken = Path(shutil.copytree(folder / "run", folder / f"broken-{file.partition('.')[0]}"))
        (broken / file).write_bytes((broken / file).read_bytes()[:100])
    (folder / "cut.json").write_bytes((folder / "found.json").read_bytes()[:200])
    return folder


BAD = {  # what is typed: what the one line must contain
    "TOML's key": ("train --space key.toml --data digits --out new", ["key.toml", "'clases'", "mean classes"]),
    "TOML's value": ("train --space value.toml --data digits --out new", ["value.toml: stage 1: stride", "'two'"]),
    "TOML's line": ("train --space line.toml --data digits --out new", ["line.toml", "line 3"]),
    "input too small": ("train --space small.toml --data digits --out new", ["2 px is too small", "nothing is left"]),
    "labels": (f"{OWN} own_bad:labels", ["own_bad:labels", "train run from 0 to 11", "0..9"]),
    "labels of the test": (f"{OWN} own_bad:test_labels", ["own_bad:test_labels", "test run from 0 to 11"]),
    "class without images": (f"{OWN} own_bad:empty_class", ["own_bad:empty_class", "'9'", "add some"]),
    "data's attribute": (f"{OWN} own_bad:nothing", ["own_bad:nothing", "'nothing'"]),
    "empty class folder": (f"train --space {TWO_CLASSES} --out new --data folder:empty", ["empty/dog", "no images"]),
    "unreadable picture": (
        f"train --space {TWO_CLASSES} --out new --data folder:pictures",
        ["pictures/dog/5.png", "replace or remove it"],
    ),
    "endless rate": (f"{OWN} digits --lr inf", ["lr=inf", "at most 1e+30"]),
    "no rate": (f"{OWN} digits --lr nan", ["lr=nan", "must be positive"]),
    "search without checkpoint": (f"{SEARCH} broken-checkpoint --out new.json", ["checkpoint.pt", "to train anew"]),
    "train from a broken checkpoint": (f"{TRAIN} broken-checkpoint --resume", ["checkpoint.pt", "to train anew"]),
    "search a broken run": (f"{SEARCH} broken-run --out new.json", ["run.json", "not readable", "make it again"]),
    "train a broken run": (f"{TRAIN} broken-run --resume", ["run.json", "not readable", "make it again"]),
    "broken metrics": (f"{TRAIN} broken-metrics --resume", ["metrics.jsonl", "damaged", "remove it"]),
    "broken store": (f"{SEARCH} broken-evaluations --out new.json", ["evaluations.sqlite", "move it away"]),
    "result cut": ("export cut.json --out new.onnx", ["cut.json", "not readable", "make it again"]),
    "result of another kind": ("export run/run.json --out new.onnx", ["run/run.json", "hwnas.run", "name one"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_the_value_and_a_remedy(name: str, made: Path, refused: Refused) -> None:
    refused(made, *BAD[name])


def test_what_else_is_called_run_json_is_not_written_over(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_text('{"mine": 1}')
    refused(tmp_path, f"{TRAIN} new", ["new/run.json", "no run file"])


def test_a_history_of_something_else_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = tmp_path / "new" / "metrics.jsonl"
    history.parent.mkdir()
    history.write_text('{"step": 1}\n')
    assert run([*TRAIN.split(), str(history.parent)]) == 2
    assert f"{history} is damaged" in capsys.readouterr().err
    assert history.read_text() == '{"step": 1}\n'


def test_a_folder_may_be_called_as_a_space_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vgg").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(["profile", "--space", "vgg", "--device", "nowhere.toml", "--out", "table.json"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err
