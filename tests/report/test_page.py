"""The page answers in words, holds all that was read, loads nothing, and lets no name become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hwnas.__main__ import run
from hwnas.export.certificate import INT8
from hwnas.report import page, read_inputs
from hwnas.report.commands import exported, profiled, ranked, searched
from hwnas.report.html import Html, tag

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
    for kind, script in parsed.scripts:
        if kind == "application/json":
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


def test_commands_have_options_that_exist(whole: str, capsys: pytest.CaptureFixture[str]) -> None:
    parsed = Page(whole)
    lines = [words for words in parsed.words if words.startswith("hwnas ")]
    assert {shlex.split(line)[1] for line in lines} == {
        "train",
        "profile",
        "validate",
        "rank",
        "search",
        "export",
        "report",
    }
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


def test_a_search_is_told_as_it_was_asked_for(made: Any) -> None:
    asked = {"budget": "10min", "evaluate": "train:3", "pareto": "pixel8,params", "device": "phone.toml", "verify": "5"}
    said = searched(Path("found.json"), replace(made.best, asked=asked))
    assert "--budget 10min --evaluate train:3 --pareto pixel8,params --device phone.toml --verify 5" in said
    assert "--budget 20 " in searched(Path("found.json"), made.best)


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
