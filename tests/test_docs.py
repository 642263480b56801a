"""The guides in docs/, executed in their order, with less training and less measuring.

A block whose first line is `# FILE` is written to that file; other Python is executed, the commands of a bash
block are run, and text is only shown, but names only commands and options that there are. Tables are compared with
the code that they describe.
"""

from __future__ import annotations

import ast
import os
import random
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from hwnas.__main__ import app, main
from hwnas.devices import Effort, load_device
from hwnas.devices.description import HOSTS, RUNTIMES
from hwnas.errors import InputError
from hwnas.latency import LatencyTable
from hwnas.supernet import Source, Split, load_data, load_space
from hwnas.supernet.blocks import ACTIVATIONS, PARAMETERS
from hwnas.supernet.metrics import METRICS
from hwnas.supernet.recipe import WHERE, recipe_from
from hwnas.supernet.sources import DATA, checked, load_source

DOCS = Path(__file__).parents[1] / "docs"
README, INDEX = DOCS.parent / "README.md", DOCS / "index.md"
PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = sorted(DOCS.glob("*.md"))
QUICK = ("tolerance=9", "target=0.5", "min_rounds=3", "max_rounds=3", "max_seconds=1")
QUICK_DEVICE = f"local:{','.join(QUICK)}"
LAUNCHER = f"{shlex.quote(sys.executable)} -m torch.distributed.run"
LESS = {
    "--epochs 15": "--epochs 1 --batch 128",
    "--epochs 20": "--epochs 1",
    "--nets 20": "--nets 3 --pause 0",
    "--device local": f"--device {QUICK_DEVICE}",
    f"{QUICK_DEVICE}:": f"{QUICK_DEVICE},",  # settings of its own
    "local=1ms": "local=1s",
    "pair=1ms": "pair=1s",
    "--nets 60": "--nets 4",
    "--int8": "--int8 --drop 0.9",
    "torchrun": LAUNCHER,
}
ON_CORES = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
SHOWN = ("text", "json")  # languages of blocks that are not run
MODULE_LINES = 20
SPACE, BLOCK, DATA_GUIDE, DEVICE_GUIDE = (
    DOCS / f"{name}.md" for name in ("own-space", "own-block", "own-data", "devices")
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))


def blocks(guide: Path) -> list[tuple[str, str]]:
    """The (language, content) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", guide.read_text(), re.DOTALL | re.MULTILINE)


def runs(guide: Path) -> bool:
    """Whether a page has code or commands; those of the first page are the README's, which .ci/run runs."""
    return guide != INDEX and any(language in ("bash", "python") for language, _ in blocks(guide))


def named_files(guide: Path) -> dict[str, str]:
    """The blocks that are files."""
    found = {}
    for _, content in blocks(guide):
        if name := re.match(r"# (\S+\.\w+)\n", content):
            found[name[1]] = content
    return found


def table(guide: Path, first: str) -> list[list[str]]:
    """The rows of the table whose header begins with `first`, code without its ticks."""
    lines = guide.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = line.partition(" > ")[0]
    for full, quick in LESS.items():
        command = command.replace(full, quick)
    if command.startswith("hwnas search"):
        command = re.sub(r"--limit local=\S+", lambda _: f"--limit local={roomy(command)}ms", command)
    if "hwnas search" in command or "hwnas -- search" in command:
        command += " --budget 4"
    if command.startswith(LAUNCHER):
        environment = {**os.environ, **ON_CORES}
        done = subprocess.run(shlex.split(command), env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0, command


def roomy(command: str) -> float:
    """A latency that every network keeps, by the table of a command, however little is measured here.

    The guide's limit is of another machine, and an export that misses its limit is rejected.
    """
    found, rng = re.search(r"--table (\S+)", command), random.Random(0)
    assert found
    table = LatencyTable.load(Path(found[1]))
    return 3 * float(np.max(table.predict_many([table.space.sample(rng) for _ in range(50)])))


def written(name: str, content: str) -> None:
    """A file of a guide; a device measures less."""
    quick = "".join(f"{setting}\n" for setting in QUICK) if "[host]" in content else ""
    Path(name).write_text(f"{content}\n[effort]\n{quick}" if quick else content)


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if runs(guide)], ids=lambda path: path.stem)
def test_a_guide_works_from_top_to_bottom(guide: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, ran = named_files(guide), []
    for language, content in blocks(guide):
        name = content.partition("\n")[0].removeprefix("# ")
        if name in files:
            written(name, content)
        elif language == "python":
            above = guide.read_text().partition(content)[0].count("\n")  # so that a fault names its line
            exec(compile("\n" * above + content, str(guide), "exec"), {"__name__": "guide"})
        elif language == "bash":
            for line in content.splitlines():
                run(line, monkeypatch)
                ran.append(line)
        else:
            assert language in SHOWN, language
    left = {out for line in ran for out in re.findall(r"--out (\S+)", line)}
    assert left
    assert [out for out in left if not Path(out).exists()] == []


@each_page
def test_every_block_is_run_or_says_that_it_is_only_shown(page: Path) -> None:
    """So a fence stands at the beginning of its line, with a language that this file knows."""
    fences = re.findall(r"^(.*?)(?:```+|~~~+)(.*)$", page.read_text(), re.MULTILINE)
    assert [before for before, _ in fences if before] == []
    opening, closing = [language for _, language in fences[::2]], {language for _, language in fences[1::2]}
    assert closing <= {""}
    assert opening == [language for language, _ in blocks(page)]
    known = {"bash", "python", "toml", *SHOWN} if page in GUIDES else set(SHOWN)
    assert set(opening) <= known


def test_the_first_page_has_the_commands_of_the_readme() -> None:
    commands = [content for language, content in blocks(README) if language == "bash"]
    assert [content for language, content in blocks(INDEX) if language == "bash"] == commands[:2]
    assert [line for line in INDEX.read_text().splitlines() if re.search(r"\d", line)] == []  # no figure grows old


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda path: path.stem)
def test_a_command_that_is_only_shown_has_options_that_there_are(page: Path) -> None:
    text = page.read_text()
    shown = "\n".join([*(content for _, content in blocks(page)), *re.findall(r"(?<!`)`([^`]+)`(?!`)", text)])
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wrong = []
    for name, rest in re.findall(r"^(?:.* )?hwnas (?:-- )?([a-z]+)\b(.*)", shown, re.MULTILINE):
        options = set() if name not in commands else {o for p in commands[name].params for o in p.opts} | {"--help"}
        wrong += [f"{name} {o}" for o in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest) if o not in options]
        wrong += [name] * (name not in commands)
    assert wrong == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https:)([^)#]+)[^)]*\)", page.read_text())
    assert [link for link in links if not (page.parent / link).is_file()] == []
    paths = re.findall(r"`((?:tests|supernet)/[\w/]+\.py)`", page.read_text())
    assert [path for path in paths if not (DOCS.parent / path).is_file()] == []


# ---- own-space


def test_a_space_with_a_block_of_its_own_is_twenty_lines() -> None:
    code = [line for line in named_files(BLOCK)["my_space.py"].splitlines() if line and not line.startswith("#")]
    assert len(code) <= MODULE_LINES
    assert max(map(len, code)) <= 120


def my_space() -> str:
    return named_files(SPACE)["my-space.toml"]


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        recipe_from(data, "it")
    return str(error.value)


def known_keys(section: str, item: dict[str, Any]) -> set[str]:
    """The keys that hwnas itself names when it meets one that it doesn't know."""
    data = tomllib.loads(my_space())
    where = data["stage"][0]["options"] if section == "options" else data[section]
    where[0] = item
    return set(refused(data).partition("known: ")[2].split(", "))


def test_the_tables_of_keys_are_whole() -> None:
    whole = [names(row[0])[0] for row in table(SPACE, "key | value")]
    assert set(whole) == set(refused({}).removeprefix("it: ").removesuffix(" is missing").split(", "))


def test_the_table_of_a_stage_is_whole() -> None:
    text = SPACE.read_text().partition("these four of a `[[stage]]`")[2]
    described = {
        key
        for row in re.findall(r"^\| (`\w+`) \|", text.partition("\nAn option")[0], re.MULTILINE)
        for key in names(row)
    }
    data = tomllib.loads(my_space())
    data["stage"][0] = {}
    assert described == set(refused(data).rpartition(": ")[2].removesuffix(" is missing").split(", "))


def test_the_table_of_a_block_is_whole() -> None:
    described = {names(row[0])[0]: row[1].split(", ") for row in table(SPACE, "key | in")}
    for section, place in (("options", "option"), ("stem", "stem"), ("tail", "tail")):
        expected = {key for key, places in described.items() if place in places}
        assert known_keys(section, {"op": "identity", "unknown": 1}) == expected
    where = next(row[2] for row in table(SPACE, "key | in") if row[0] == "`where`")
    assert [ast.literal_eval(name) for name in names(where)] == list(WHERE)


def test_the_table_of_operations_has_their_parameters_and_defaults() -> None:
    described = {
        names(op)[0]: tomllib.loads(f"it = {{ {', '.join(names(settings))} }}")["it"]
        for op, _, settings in table(SPACE, "operation")
    }
    assert described == PARAMETERS
    activations = re.search(r"Activations are (.*?);", SPACE.read_text(), re.DOTALL)
    assert activations
    assert set(names(activations[1])) == set(ACTIVATIONS)


def test_what_is_not_possible_is_answered_as_described(folder: Path) -> None:
    rows = table(SPACE, "instead of")
    for old, new, message in rows:
        old, new, message = ("".join(names(cell)) for cell in (old, new, message))
        assert my_space().count(old) == 1, old
        Path("my-space.toml").write_text(my_space().replace(old, new))
        with pytest.raises(InputError) as error:
            load_space("my-space.toml")
        assert message in str(error.value)
    assert len(rows) >= 6


def test_the_number_of_networks_is_the_one_in_the_text(folder: Path) -> None:
    Path("my-space.toml").write_text(my_space())
    assert f"These are {load_space('my-space.toml').size()} different networks." in SPACE.read_text()


# ---- own-data


def test_the_table_of_a_source_has_its_fields_and_defaults() -> None:
    described: dict[str, Any] = {}
    for row in table(DATA_GUIDE, "field of `Source`"):
        given = row[2] == "must be given"
        described |= dict.fromkeys(names(row[0]), MISSING if given else ast.literal_eval(names(row[2])[0]))
    assert described == {field.name: field.default for field in fields(Source)}
    assert [names(row[0])[0] for row in table(DATA_GUIDE, "metric")] == list(METRICS)
    assert {name for row in table(DATA_GUIDE, "data") for name in names(row[0])} == set(DATA)


def nines(folder: Path) -> Source:
    """The guide's own data set."""
    (folder / "my_data.py").write_text(named_files(DATA_GUIDE)["my_data.py"])
    return load_source("my_data:nines", 16, None)


def broken_folder(*, image: str = "", empty: str = "", flat: bool = False) -> None:
    """The guide's folder of pictures with something wrong in it."""
    exec(compile(next(c for _, c in blocks(DATA_GUIDE) if "pictures" in c and "import" in c), "guide", "exec"), {})
    if image:
        Path(image).write_text("no image")
    if empty:
        Path(empty).mkdir()
    load_source("folder:pictures/one" if flat else "folder:pictures", 8, None)


def spoilt(folder: Path, **change: Any) -> None:
    checked(replace(nines(folder), **change), "my_data:nines")


def as_floats(split: Split) -> Split:
    return Split(split.images.float(), split.labels)


def load_nines(folder: Path, classes: int, channels: int) -> None:
    source = nines(folder)
    colour = Split(source.train.images.expand(-1, channels, -1, -1), source.train.labels)
    module = sys.modules["my_data"]
    module.nines = replace(source, train=colour)  # type: ignore[attr-defined]
    load_data("my_data:nines", load_space(f"mobilenet:size=16,channels=1,classes={classes},widths=4,depths=1"))


FAULTS: dict[str, Callable[[Path], object]] = {
    "zebra": lambda _: broken_folder(image="pictures/3/zebra.png"),
    "pictures/ten": lambda _: broken_folder(empty="pictures/ten"),
    "sub-folders": lambda _: broken_folder(empty="pictures/one", flat=True),
    "run from": lambda folder: spoilt(folder, train=Split(torch.zeros(3, 1, 8, 8).byte(), torch.arange(3))),
    "never": lambda folder: spoilt(folder, classes=("other", "nine", "never")),
    "uint8": lambda folder: spoilt(folder, train=as_floats(nines(folder).train)),
    "outputs": lambda folder: load_nines(folder, classes=10, channels=1),
    "channels": lambda folder: load_nines(folder, classes=2, channels=3),
    "metric": lambda folder: spoilt(folder, metric="accurracy"),
    "eights": lambda folder: (nines(folder), load_source("my_data:eights", 16, None)),
}


@pytest.mark.parametrize("row", table(DATA_GUIDE, "hwnas says"), ids=lambda row: row[0][:40])
def test_what_may_go_wrong_is_said_so(row: list[str], folder: Path) -> None:
    (message,) = names(row[0])
    (fault,) = [fault for word, fault in FAULTS.items() if word in message]
    with pytest.raises(InputError) as error:
        fault(folder)
    assert message in str(error.value)


def test_every_device_of_the_guide_is_one(tmp_path: Path) -> None:
    found = []
    for language, content in blocks(DEVICE_GUIDE):
        if language == "toml":
            (tmp_path / "device.toml").write_text(content)
            found.append(load_device(str(tmp_path / "device.toml")))
    assert [device.name for device in found] == ["pi5", "phone", "jetson", "rtx", "older", "arm64"]


@pytest.mark.parametrize(
    ("part", "kind"), [("host", kind) for kind in HOSTS] + [("runtime", kind) for kind in RUNTIMES]
)
def test_a_file_of_the_guide_has_every_key(part: str, kind: str) -> None:
    known = {field.name for field in fields({"host": HOSTS, "runtime": RUNTIMES}[part][kind])}
    files = [tomllib.loads(content) for language, content in blocks(DEVICE_GUIDE) if language == "toml"]
    given = [file[part].keys() - {"kind"} for file in files if file.get(part, {}).get("kind") == kind]
    assert known in given, [sorted(known - keys) for keys in given]


def test_the_first_file_of_the_guide_has_the_whole_effort() -> None:
    data = tomllib.loads(blocks(DEVICE_GUIDE)[1][1])["effort"]
    assert data.keys() == {field.name for field in fields(Effort)}
    assert Effort(**data) == Effort()
