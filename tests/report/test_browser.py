"""The page in a real browser: no complaint, every chart drawn, hover and click, dark mode, a phone, the keyboard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas.files import write_json
from hwnas.latency import LatencyTable
from hwnas.workflows import report

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'hwnas[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 375, "height": 800}
DRAWN_MS = 120_000
READABLE = 4.5  # the least contrast of text, https://www.w3.org/TR/WCAG21/#contrast-minimum
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI is root
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(made: Any, hostile: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of the results, of those with hostile names, and of matrices of light and dark cells."""
    folder = tmp_path_factory.mktemp("reports")
    results = {"whole": made.folder, "hostile": hostile.folder, "matrices": matrices(made, folder / "matrices")}
    for name, where in results.items():
        report([where], folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in results}


def matrices(made: Any, folder: Path) -> Path:
    """Matrices with shares of a limit from end to end, with times alone, and with a network that can't run."""
    shutil.copytree(made.folder, folder)
    ms = {f"phone{number}": [number, number, number] for number in range(1, 10)}
    for name, limits in (("shares", dict.fromkeys(ms, 5)), ("times", {})):
        row = {"found_for": "phone1", "arch": made.best.arch, "accuracy": 0.9, "ms": ms}
        write_json(folder / f"{name}.json", "transfer", 1, {"limits": limits, "networks": [row]})
    table = LatencyTable.load(folder / "table1.json")
    layer = next(node.layer for node in table.space.graph(made.best.arch) if node.layer.op == "mbconv")
    replace(table, rejected={layer: "no kernel"}).save(folder / "table1.json")
    return folder


@pytest.fixture
def opened(browser: Any, files: dict[str, Path]) -> Iterator[Open]:
    """Opens a report, offline, and waits until it is drawn; in the end nothing was complained of, nothing loaded."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_(name: str = "whole", viewport: Any = DESKTOP, colours: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=colours, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(files[name].as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=DRAWN_MS)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(":")[0] for url in asked} == {"file"}
    assert len(asked) == len(contexts)


def boxes(page: Any) -> list[Any]:
    return [figure.bounding_box() for figure in page.locator("figure[data-chart] .chart svg").all()]


def marks(page: Any) -> list[int]:
    """How many shapes each chart has drawn."""
    count = "all => all.map(f => f.querySelectorAll('.chart svg .mark-symbol path, .chart svg .mark-rect path').length)"
    found: list[int] = page.eval_on_selector_all("figure[data-chart]", count)
    return found


@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_every_chart_is_drawn(opened: Open, name: str) -> None:
    page = opened(name)
    figures = page.locator("figure[data-chart]").count()
    assert figures >= 10
    assert len(boxes(page)) == figures
    assert all(box["width"] > 200 and box["height"] > 80 for box in boxes(page))
    assert min(marks(page)) > 0


def test_hovering_tells_the_figures(opened: Open) -> None:
    page = opened()
    page.locator("figure[data-chart] .mark-symbol path[aria-roledescription='point']").first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "accuracy" in tooltip.inner_text()
    assert tooltip.evaluate("element => getComputedStyle(element).position") == "fixed"


FRONT = "section[aria-labelledby=front] .chart"
DIAMONDS = f"{FRONT} .mark-symbol path[aria-roledescription='point']"
FAINT = f"() => document.querySelectorAll(`{DIAMONDS}[opacity='0.25']`).length"


def strengths(page: Any) -> list[str]:
    return sorted(str(diamond.get_attribute("opacity")) for diamond in page.locator(DIAMONDS).all())


def pressed(page: Any) -> list[str]:
    """Names of the networks that are singled out, as the buttons say."""
    found: list[str] = page.locator("button[aria-pressed=true]").all_inner_texts()
    return found


@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_a_click_singles_a_network_out_and_a_click_beside_it_ends_that(opened: Open, name: str) -> None:
    page = opened(name)
    grey = page.locator(f"{FRONT} .mark-symbol path[aria-roledescription='circle']").first
    limit = page.locator(f"{FRONT} .mark-rule.role-mark line").first
    drawn = page.locator(f"{FRONT} svg")
    besides = (
        lambda: grey.click(force=True),
        lambda: limit.dispatch_event("click"),  # a line has no middle to click on
        lambda: drawn.click(position={"x": 3, "y": 3}),
    )
    for beside in besides:
        beside()  # it once dimmed all networks
        assert strengths(page) == ["1", "1"]
        page.locator(DIAMONDS).last.click(force=True)
        page.wait_for_function(f"{FAINT} === 1")
        assert (strengths(page), pressed(page)) == (["0.25", "1"], ["best"])
        beside()
        page.wait_for_function(f"{FAINT} === 0")
        assert pressed(page) == []


def test_dark_mode_is_dark_in_charts_too_and_follows_the_reader(opened: Open) -> None:
    page = opened(colours="dark")
    label = page.locator("figure[data-chart] .role-axis-label text").first
    ground = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(ground), label.get_attribute("fill")) == ("rgb(20, 23, 27)", "#e6e9ed")
    page.locator("button", has_text="best").click()
    page.wait_for_function(f"{FAINT} === 1")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-drawn=light]", timeout=DRAWN_MS)
    assert (page.evaluate(ground), label.get_attribute("fill")) == ("rgb(255, 255, 255)", "#1b1f24")
    assert (strengths(page), pressed(page)) == (["0.25", "1"], ["best"])  # the one that is singled out stays so


def style(element: Any, *names: str) -> tuple[str, ...]:
    """What a reader sees: computed, whatever the attributes say."""
    found = element.evaluate("(it, names) => names.map(name => getComputedStyle(it)[name])", list(names))
    return tuple(map(str, found))


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`: https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_of_charts_looks_as_the_chart_says(opened: Open, colours: str) -> None:
    """A rule for the drawn networks once held for every svg: names lost their colours and sizes."""
    page = opened(colours=colours)
    front = page.locator("figure[data-chart]").first
    name = front.locator(".mark-text.role-mark text", has_text="best").first
    assert style(name, "fill", "fontSize", "fontWeight") == ("rgb(217, 84, 30)", "12px", "700")
    ground = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    for role in ("axis-label", "axis-title", "title-text", "legend-label"):
        (fill,) = style(page.locator(f"figure[data-chart] .role-{role} text").first, "fill")
        assert contrast(fill, ground) > 2 * READABLE
    drawn = page.locator(".networks svg text:not(.small)").first
    assert contrast(*style(drawn, "fill"), ground) > 2 * READABLE
    assert style(drawn, "textAnchor") == ("middle",)


WORDS_ON_CELLS = """figure => {
  const middle = it => { const b = it.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; };
  const fill = it => getComputedStyle(it).fill;
  const cells = [...figure.querySelectorAll(".mark-rect.role-mark path")];
  return [...figure.querySelectorAll(".mark-text.role-mark text")].map(words => {
    const [x, y] = middle(words);
    const b = it => it.getBoundingClientRect();
    const cell = cells.find(it => b(it).left <= x && x <= b(it).right && b(it).top <= y && y <= b(it).bottom);
    return [words.textContent, fill(words), cell && fill(cell)];
  });
}"""


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_share_is_read_on_its_cell(opened: Open, colours: str) -> None:
    """In the middle, where cells are nearly white, and at both ends; in dark mode the text once was light, too."""
    page = opened("matrices", colours=colours)
    drawn = [it.evaluate(WORDS_ON_CELLS) for it in page.locator("section[aria-labelledby=devices] figure").all()]
    assert len(drawn) == 4
    words = [word for cells in drawn for word in cells]
    assert {"20%", "100%", "180%"} <= {text for text, _, _ in words}
    assert min(contrast(ink, cell) for _, ink, cell in words) >= READABLE
    assert len({ink for _, ink, _ in words}) == 2
    assert [len(cells) for cells in drawn] == [2, 9, 9, 1]  # where it can't run there once was NaN %
    columns = page.locator("section[aria-labelledby=devices] figure").last.locator(".role-axis-label text")
    assert {"pi5", "pixel8"} <= set(columns.all_text_contents())


def test_a_device_without_a_limit_has_its_ms_in_the_matrix(opened: Open, made: Any) -> None:
    page = opened(colours="dark")
    words = page.locator("section[aria-labelledby=devices] figure").last.evaluate(WORDS_ON_CELLS)
    ((ms, ink, _),) = [word for word in words if word[2] is None]
    assert float(ms) == pytest.approx(3 * made.best.costs["pixel8"], rel=0.01)  # as the table of pi5 has it
    assert contrast(ink, str(page.evaluate("getComputedStyle(document.body).backgroundColor"))) > 2 * READABLE
    assert sum(text.endswith("%") for text, _, _ in words) == 1


@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_a_phone_shows_all_without_scrolling_sideways(opened: Open, name: str) -> None:
    page = opened(name, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert max(box["x"] + box["width"] for box in boxes(page)) <= PHONE["width"]
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_reaches_the_results_the_sections_and_the_numbers(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.textContent") == "Skip to the results"
    assert page.evaluate(f"{focused}.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#results")
    summary = page.locator("summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] table").first.is_visible()


def test_the_keyboard_singles_a_network_out(opened: Open) -> None:
    page = opened()
    button = page.locator("button", has_text="best").first
    for _ in range(100):
        page.keyboard.press("Tab")
        if button.evaluate("it => it === document.activeElement"):
            break
    for key, names, faint in (("Enter", ["best"], 1), ("Space", [], 0), ("Space", ["best"], 1)):
        page.keyboard.press(key)
        page.wait_for_function(f"{FAINT} === {faint}")
        assert pressed(page) == names
    assert style(button, "outlineStyle") == ("solid",)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{FAINT} === 1")
    assert pressed(page) == ["drawn"]


def test_the_keyboard_reaches_every_link_button_and_table(opened: Open) -> None:
    page = opened()
    for details in page.locator("details").all():
        details.evaluate("element => element.open = true")
    wanted = page.locator("a, button, summary, [role=region]").count()
    reached = []
    for _ in range(wanted):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "() => { const it = document.activeElement; it.dataset.reached = ''; "
                "return it.getAttribute('aria-label'); }"
            )
        )
    assert page.locator("[data-reached]").count() == wanted
    regions = [label for label in reached if label]
    assert len(set(regions)) == len(regions) == page.locator("[role=region]").count()
    charts = [str(chart.get_attribute("aria-label")) for chart in page.locator("figure[data-chart] .chart").all()]
    assert {f"The numbers of: {chart}" for chart in charts} <= set(regions)
    assert all(chart.get_attribute("role") == "img" for chart in page.locator("figure[data-chart] .chart").all())
