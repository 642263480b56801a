"""The page in a real browser: no complaint, every chart drawn, hover and click, dark mode, a phone, the keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hwnas.workflows import report

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'hwnas[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 375, "height": 800}
DRAWN_MS = 120_000
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI is root
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(made: Any, hostile: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of the results and of those with hostile names."""
    folder = tmp_path_factory.mktemp("reports")
    for name, results in {"whole": made, "hostile": hostile}.items():
        report([results.folder], folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in ("whole", "hostile")}


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


def test_a_click_singles_a_network_out(opened: Open) -> None:
    page = opened()
    diamonds = page.locator("figure[data-chart]").first.locator(".mark-symbol path[aria-roledescription='point']")

    def strengths() -> set[str]:
        return {str(diamond.get_attribute("opacity")) for diamond in diamonds.all()}

    assert strengths() == {"1"}
    diamonds.last.click(force=True)
    page.wait_for_function("() => document.querySelectorAll('.mark-symbol path[opacity=\"0.25\"]').length > 0")
    assert strengths() == {"1", "0.25"}


def test_dark_mode_is_dark_in_charts_too_and_follows_the_reader(opened: Open) -> None:
    page = opened(colours="dark")
    label = page.locator("figure[data-chart] .role-axis-label text").first
    ground = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(ground), label.get_attribute("fill")) == ("rgb(20, 23, 27)", "#e6e9ed")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-drawn=light]", timeout=DRAWN_MS)
    assert (page.evaluate(ground), label.get_attribute("fill")) == ("rgb(255, 255, 255)", "#1b1f24")


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
