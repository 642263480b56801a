"""The page answers in words, holds all that was read, loads nothing, and lets no name become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hwnas.__main__ import run
from hwnas.export.certificate import INT8
from hwnas.export.targets import TargetCheck
from hwnas.latency import LatencyTable
from hwnas.latency.calibration import Calibration
from hwnas.latency.table import Entry
from hwnas.report import page, read_inputs
from hwnas.report.commands import exported, finetuned, profiled, ranked, searched, validated
from hwnas.report.html import Html, tag
from hwnas.supernet import ChainSpace, TrainSettings, load_space

SECTIONS = {"front", "promises", "networks", "devices", "tables", "searches", "training", "ranking", "commands"}
MOST_BYTES = 6_000_000


class Page(HTMLParser):
    """The tags with their attributes, and the text of every element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta"}:
            self.inside.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script":
            kind, before = self.scripts[-1]
            self.scripts[-1] = kind, before + data
        elif self.inside and self.inside[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def charts(self) -> list[str]:
        return [script for kind, script in self.scripts if kind == "application/json"]

    @property
    def labels(self) -> list[str]:
        return [str(given["aria-label"]) for _, given in self.tags if given.get("aria-label")]


@pytest.fixture(scope="module")
def whole(made: Any) -> str:
    return page(read_inputs([made.folder]), "hwnas report results --out report.html")


def parts(*paths: Path) -> Page:
    return Page(page(read_inputs(paths), "hwnas report"))


def sections(parsed: Page) -> set[str]:
    return {str(given["id"]) for name, given in parsed.tags if name == "h2" and "id" in given}


def test_the_first_screen_answers_in_words(whole: str, made: Any) -> None:
    text = whole.partition("<section")[0]
    for words in (
        "81.0 % on 360 test images (95 % interval 77.0 % to 85.0 %)",
        "keeps its limit",
        "1.0 % off the promise, inside its interval",
        f"The best of 20 random networks under the same limit has {100 * made.drawn.accuracy:.1f} %",
        "was never validated",
        "1 network: 1 within limits",
        "n the front: of ",
    ):
        assert words in text, words


def test_all_sections_are_there_and_linked(whole: str) -> None:
    parsed = Page(whole)
    assert sections(parsed) == SECTIONS
    links = {str(given["href"]) for name, given in parsed.tags if name == "a"}
    assert links == {"#results", *(f"#{name}" for name in SECTIONS)}
    assert parsed.inside == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["table0.json"], {"tables"}),
        (["run"], {"training", "searches"}),
        (["ranking.json"], {"ranking"}),
        (["matrix.json"], {"devices"}),
        (["validation.json"], {"promises"}),
        (["best.json"], {"promises"}),
        (["best-found.json"], {"front", "promises", "networks", "searches"}),
        (
            ["best-found.json", "table0.json", "table1.json"],
            {"front", "promises", "networks", "searches", "tables", "devices"},
        ),
    ],
    ids=lambda given: " ".join(sorted(given)),  # the same in every process
)
def test_sections_without_data_are_absent(made: Any, names: list[str], expected: set[str]) -> None:
    assert sections(parts(*(made.folder / name for name in names))) == expected | {"commands"}


def test_a_network_that_was_not_exported_is_said_to_be_unproven(made: Any) -> None:
    text = parts(made.folder / "best-found.json").text
    assert "promised to keep its limit" in text
    assert "not measured yet" in text
    assert "No export has proven it yet" in text


def test_a_broken_limit_is_said_loudly(changed: Callable[..., Path], made: Any) -> None:
    latency = json.loads((made.folder / "best.json").read_text())["latency"]
    latency["pixel8"]["measured_ms"] *= 2
    text = parts(changed("best.json", latency=latency, within_limits=False)).text
    assert "BREAKS its limit" in text
    assert "OVER the limit" in text
    assert "OUTSIDE its interval" in text


def test_only_its_own_scripts_may_run_and_nothing_is_loaded(whole: str) -> None:
    parsed = Page(whole)
    assert len(whole.encode()) < MOST_BYTES
    policy = next(str(given["content"]) for name, given in parsed.tags if name == "meta" and "http-equiv" in given)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    for kind, script in parsed.scripts:
        if kind is None:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
    for name, given in parsed.tags:
        assert not {"src", "onclick", "onload", "style"} & given.keys()
        assert name not in {"link", "img", "iframe"}


def test_names_from_files_never_become_markup(hostile: Any) -> None:
    text = page(read_inputs([hostile.folder]), "hwnas report")
    parsed = Page(text)
    assert hostile.table.name in parsed.text
    assert {name for name, _ in parsed.tags} & {"img", "b"} == set()
    assert not any("onerror" in given for _, given in parsed.tags)
    for script in parsed.charts:
        json.loads(script)
        assert "<" not in script


def test_text_is_escaped_unless_it_is_markup() -> None:
    assert tag("p", '<a href="x">', Html("<b>1</b>"), title='"&', aria_label=None) == (
        '<p title="&quot;&amp;">&lt;a href=&quot;x&quot;&gt;<b>1</b></p>'
    )


def test_every_chart_has_a_label_and_its_numbers_as_a_table(whole: str) -> None:
    parsed = Page(whole)
    charts = [given for name, given in parsed.tags if given.get("class") == "chart"]
    assert len(charts) >= 10
    assert all(given["role"] == "img" and given["aria-label"] for given in charts)
    assert sum(name == "details" for name, _ in parsed.tags) >= len(charts)
    pictures = [given for name, given in parsed.tags if name == "svg"]
    assert all("mbconv" in str(given["aria-label"]) for given in pictures)


ASKED = {
    "best-found.json": {"table": "a.json b.json", "device": "phone.toml", "verify": "3", "pareto": "pixel8"}
    | {"budget": "10min", "evaluate": "train:3"},
    "table0.json": {"device": "phone.toml", "networks": "12", "seed": "1", "from": "a.json b.json"},
    "validation.json": {"space": "runs/a", "table": "a.json", "device": "phone.toml", "pause": "0"},
    "ranking.json": {"run": "runs/a", "nets": "9", "again": "3", "epochs": "2", "seed": "1", "table": "a.json"},
}
SETTINGS = {field.name: "1" for field in fields(TrainSettings)} | {"augment": "False", "teacher": "torchvision:vgg11"}


@pytest.fixture
def asked_for(made: Any, changed: Callable[..., Path]) -> Path:
    """Files that tell all the options with which they were made, a network tuned, and one compiled, but never timed."""
    for name, asked in ASKED.items():
        folder = changed(name, asked=asked).parent
    changed("best.json", latency={}, device="phone.toml", batch=None, precision="int8-symmetric", mobile=MOBILE)
    run = json.loads((made.folder / "run" / "run.json").read_text())
    tuned = folder / "tuned"
    tuned.mkdir()
    (tuned / "run.json").write_text(json.dumps({**run, "arch": made.best.arch}))
    known = {name: value for name, value in SETTINGS.items() if name not in ("seed", "sampling", "largest_first")}
    asked = {"found": "best-found.json", "data": "digits", "data_dir": "images", "from_scratch": "True", **known}
    replace(made.best, run=str(tuned.resolve()), asked=asked).save(tuned / "found.json")
    return folder


MOBILE = {"max_abs_diff": 0.0, "size_bytes": 1, "sha256": ""}


def test_commands_have_options_that_exist(made: Any, asked_for: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [words for words in parts(made.folder, asked_for).words if words.startswith("hwnas ")]
    commands = [shlex.split(line)[1] for line in lines]
    assert set(commands) == {"train", "profile", "validate", "rank", "search", "finetune", "export", "report"}
    assert commands.count("finetune") == 2  # of the run, and of the network
    (compiled,) = [line for line in lines if "export" in line and "phone.toml" in line]
    assert "pixel8" not in compiled
    for line in lines:
        command, *words = shlex.split(line)[1:]
        assert run([command, "--help"]) == 0
        help_ = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and not re.search(rf"{word}\b", help_)] == []


def test_commands_say_what_was_not_as_usual(made: Any, changed: Callable[..., Path]) -> None:
    inputs = read_inputs([made.folder])
    (proof,), (ranking,) = inputs.certificates.values(), inputs.rankings.values()
    table = next(iter(inputs.tables.values()))
    told = replace(table, told_by=("pixel4", "pixel5"))
    assert " --from pixel4.json --from pixel5.json --out table.json" in profiled(Path("table.json"), told)
    assert "--from" not in profiled(Path("table.json"), table)
    asked = replace(table, asked={"device": "phone.toml", "networks": "12", "seed": "3"})
    assert " --device phone.toml --networks 12 --seed 3 --out " in profiled(Path("table.json"), asked)
    assert f" --device {table.name} " in profiled(Path("table.json"), table)
    named = replace(proof, device="local:threads=2 'my board.toml'")
    assert " --device local:threads=2 --device 'my board.toml'" in exported(Path("net.json"), named, None)
    (checked,) = inputs.validations.values()
    asked_of = replace(checked, asked={"space": "runs/a", "table": "a.json", "device": "phone.toml"})
    words = f"--space runs/a --table a.json --device phone.toml --nets {len(checked.networks)} "
    assert words in validated(Path("v.json"), asked_of)
    again = ranked(Path("rank.json"), replace(ranking, asked={"run": "runs/a", "nets": "7", "again": "3"}))
    assert "--run runs/a --nets 7 " in again
    assert "--again 3 " in again
    file = changed("best.json", precision="int8", tolerance={"outputs": 0.25, "metric": 0.02, "drop": True})
    (quantized,) = read_inputs([file]).certificates.values()
    assert " --int8 --drop 0.02" in exported(Path("net.json"), quantized, None)
    for usual in (proof, replace(proof, precision="int8", tolerance=INT8)):
        assert "--drop" not in exported(Path("net.json"), usual, None)
    nets = len(ranking.networks)
    assert f"--nets {nets + 2} " in ranked(Path("rank.json"), replace(ranking, lost=2))
    read = ranked(Path("rank.json"), replace(ranking, truth="what they reach.csv"))
    assert "--truth 'what they reach.csv'" in read
    assert "--nets" not in read


def test_networks_are_named_as_short_as_tells_them_apart(made: Any, tmp_path: Path) -> None:
    for name in ("a/tuned/found.json", "b/tuned/found.json", "c/found.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes((made.folder / "best-found.json").read_bytes())
    text = parts(tmp_path).text
    assert all(name in text for name in ("a/tuned", "b/tuned", " c "))


def test_networks_are_side_by_side_for_each_device(made: Any, changed: Callable[..., Path]) -> None:
    files = [changed("best-found.json"), changed("drawn-found.json", strategy="grid", limits={"pi5": 3.0})]
    headings = [words for words in parts(*files).words if words.startswith("Found for")]
    assert headings == ["Found for pixel8", "Found for pi5"]
    assert not [words for words in parts(files[0]).words if words.startswith("Found for")]


def test_one_network_found_for_two_devices_has_the_limit_of_each(made: Any, changed: Callable[..., Path]) -> None:
    best = {"arch": made.best.arch, "description": made.best.description, "strategy": "grid"}
    files = [changed("best-found.json"), changed("drawn-found.json", **best, limits={"pi5": 3.0})]
    words = [words for words in parts(*files).words if words.startswith("Found for") or " at most " in words]
    assert words[1].startswith("best, pixel8 at most ")
    assert words[::2] + words[3:] == ["Found for pixel8", "Found for pi5", "drawn, pi5 at most 3.00 ms"]
    tighter = changed("drawn-found.json", **best, limits={"pixel8": 0.001})
    captions = [words for words in parts(files[0], tighter).words if words.startswith("best, pixel8 at most ")]
    assert [caption.partition("; ")[2] for caption in captions] == ["drawn, pixel8 at most 0.00100 ms"]


def test_networks_of_two_spaces_with_equal_genes_are_both_shown(made: Any, tmp_path: Path, tiny: ChainSpace) -> None:
    """Once the matrix knew a network by its genes alone."""
    wider = load_space(tiny.spec.replace("head=16", "head=24"))
    entries = dict.fromkeys(wider.layers(), Entry(1.0, 0.9, 1.1, 5))
    for name in ("pixel8", "pi5"):
        fingerprint = {**made.table.device, "name": name}
        LatencyTable(fingerprint, wider, entries, Calibration(), 0.5).save(tmp_path / f"{name}.json")
    replace(made.best, space=wider.spec).save(tmp_path / "wider-found.json")
    files = [made.folder / f"{name}.json" for name in ("best-found", "table0", "table1")]
    (matrix,) = [chart for chart in parts(*files, tmp_path).charts if "Promised by the tables" in chart]
    assert set(re.findall(r'"found for": "(\w+)"', matrix)) == {"best", "wider"}


@pytest.mark.parametrize("timed", [True, False])
def test_layers_that_can_t_run_are_listed_with_the_reason(made: Any, tmp_path: Path, timed: bool) -> None:
    """Of a device that only compiles they are all that there is: its chart was empty."""
    layers = list(made.table.entries)
    nothing = dict.fromkeys(layers, Entry(0, 0, 0, 0))
    entries, rejected = made.table.entries if timed else nothing, {layers[1]: "no <kernel>"}
    replace(made.table, entries=entries, rejected=rejected).save(tmp_path / "table.json")
    parsed = parts(tmp_path)
    assert [
        words
        for words in ("1 layer that pixel8 can't run, and why", str(layers[1]), "no <kernel>")
        if words not in parsed.words
    ] == []
    assert len(parsed.charts) == timed
    assert (f"compiles {len(layers) - 1} of {len(layers)} layers, and gives no times" in parsed.text) != timed
    assert "of 0 layers" not in " ".join([*parsed.labels, parsed.text])


@pytest.mark.parametrize("told_by", ["table0.json", "best-found.json"])
def test_emulated_times_are_not_called_latency(made: Any, changed: Callable[..., Path], told_by: str) -> None:
    device = {**made.table.device, "label": "emulated"}
    tables = {"pixel8": {**made.best.tables["pixel8"], "device": device}}
    names = {"table0.json", "best-found.json", "validation.json"} - {told_by}
    parsed = parts(changed(told_by, device=device, tables=tables), *(made.folder / name for name in names))
    text = "\n".join([parsed.text, *parsed.labels, *parsed.charts])
    for what in ("promised ", "predicted ", '"'):
        assert f"{what}emulated time (no latency) on pixel8, ms" in text
    assert "Accuracy against emulated time (no latency)" in parsed.words
    assert "latency on" not in text
    assert "pixel8 is emulated: its times are no latency of any device." in text
    assert "emulated" not in parts(made.folder).text


def test_a_page_of_many_devices_is_small_enough(many: Path) -> None:
    text = page(read_inputs([many]), "hwnas report")
    assert len(text.encode()) < MOST_BYTES
    charts = Page(text).charts
    for key, fewest in (("genes", 100), ("option", 200)):
        counts = [count for chart in charts if (count := chart.count(f'"{key}": "'))]
        assert len(counts) == 12
        assert min(counts) >= fewest
        assert sum(counts) <= 3000


def test_a_search_is_told_as_it_was_asked_for(made: Any) -> None:
    asked = {"budget": "10min", "evaluate": "train:3", "pareto": "pixel8,params", "device": "phone.toml", "verify": "5"}
    said = searched(Path("found.json"), replace(made.best, asked=asked))
    assert "--budget 10min --evaluate train:3 --pareto pixel8,params --device phone.toml --verify 5" in said
    assert "--budget 20 " in searched(Path("found.json"), made.best)


def test_a_search_tells_the_tables_that_it_was_given(made: Any) -> None:
    """With --verify the last one is its own, which it makes itself."""
    its_own = {"pixel8": {**made.best.tables["pixel8"], "path": "found.pixel8.json"}}
    verified = replace(made.best, tables=its_own, asked={"table": "'my phone.json' b.json", "verify": "5"})
    said = searched(Path("found.json"), verified)
    assert " --table 'my phone.json' --table b.json --limit" in said
    assert "found.pixel8.json" not in said
    assert "--table found.pixel8.json" in searched(Path("found.json"), replace(verified, asked={}))
    odd = searched(Path("found.json"), replace(verified, asked={"table": "it's.json"}))  # of no shell
    assert shlex.split(odd)[4:6] == ["--table", "it's.json"]


def test_an_export_tells_its_device_and_its_readers(made: Any) -> None:
    (proof,) = read_inputs([made.folder / "best.json"]).certificates.values()
    readers = tuple(TargetCheck(name, "ran", "1.0") for name in ("openvino", "onnxruntime-arm64", "tomorrow's"))
    compiled = exported(Path("net.json"), replace(proof, latency={}, device="rtx.toml", targets=readers), None)
    assert " --device rtx.toml " in compiled
    assert shlex.split(compiled)[-2:] == ["--targets", "openvino,onnxruntime-arm64=PYTHON,tomorrow's"]
    assert " --device pixel8" in exported(Path("net.json"), proof, None)
    assert "--device" not in exported(Path("net.json"), replace(proof, latency={}), None)


def test_a_network_that_was_trained_on_tells_how(made: Any, tmp_path: Path) -> None:
    asked = {"found": "best-found.json", "epochs": "3", "augment": "False", "from_scratch": "True"}
    replace(made.best, run=str(tmp_path.resolve()), asked=asked).save(tmp_path / "found.json")
    said = [words for words in parts(tmp_path).words if words.startswith("hwnas finetune")]
    assert said == [f"hwnas finetune best-found.json --epochs 3 --no-augment --from-scratch --out {tmp_path}"]
    assert finetuned(Path("tuned"), None, 2) == "hwnas finetune FOUND.json --epochs 2 --out tuned"


def test_a_page_of_the_user_s_is_not_written_over(
    made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.html"
    out.write_text("<title>my page</title>")
    assert run(["report", str(made.folder), "--out", str(out)]) == 2
    assert "mine.html would be overwritten, but it is no report of hwnas" in capsys.readouterr().err
    out.unlink()
    for _ in range(2):
        assert run(["report", str(made.folder), "--out", str(out)]) == 0
