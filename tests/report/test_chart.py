"""The picture of a search is written whole, in every format, without the network."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import altair as alt
import pytest

from hwnas.report import Candidate, Measured, save_chart, search_chart


@pytest.fixture(scope="module")
def chart() -> alt.HConcatChart:
    candidates = [Candidate(kind, 1.0 + i, 0.8 + i / 100) for kind in ("evolution", "random") for i in range(5)]
    found = [
        Measured("small", 2.0, 1.8, 1.7, 1.9, 1.85, 0.82),
        Measured("large", 5.0, 4.6, 4.4, 4.8, 4.7, 0.88),
    ]
    return search_chart(candidates, found, "pixel8")


def test_svg_shows_every_network_and_the_device(chart: alt.HConcatChart, tmp_path: Path) -> None:
    path = tmp_path / "made" / "chart.svg"
    save_chart(chart, path)
    words = "".join(ElementTree.parse(path).getroot().itertext())
    assert all(word in words for word in ("small", "large", "pixel8", "evolution", "random", "found"))


def test_png_is_an_image_of_the_two_panels(chart: alt.HConcatChart, tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    save_chart(chart, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1.5 * (420 + 320)
    assert height > 1.5 * 320


def test_html_reads_nothing_from_elsewhere(chart: alt.HConcatChart, tmp_path: Path) -> None:
    path = tmp_path / "chart.html"
    save_chart(chart, path)
    text = path.read_text()
    assert "pixel8" in text
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=", text)


def test_all_that_was_given_is_drawn(chart: alt.HConcatChart) -> None:
    rows = [row for data in chart.to_dict()["datasets"].values() for row in data]
    assert sum("kind" in row and "limit_ms" not in row for row in rows) == 10
    assert {row["limit_ms"] for row in rows if "limit_ms" in row} == {2.0, 5.0}
