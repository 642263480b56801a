"""The picture of a search is written whole, in every format, without the network."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from hwnas.report import fields_of, networks_of, read_inputs, save_chart, search_chart
from hwnas.report.charts import PLACES, slowest, table_rows
from hwnas.report.networks import Field, Point, front, thinned


@pytest.fixture(scope="module")
def field(made: Any) -> Field:
    inputs = read_inputs([made.folder])
    (field,) = fields_of(inputs, networks_of(inputs))
    return field


def test_svg_shows_every_network_and_the_device(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "made" / "chart.svg"
    save_chart(search_chart(field), path)
    words = "".join(ElementTree.parse(path).getroot().itertext())
    assert all(word in words for word in ("best", "drawn", "pixel8", "found", "best of random"))


def test_png_is_an_image_of_the_two_panels(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    save_chart(search_chart(field), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1.5 * (420 + 320)
    assert height > 1.5 * 320


def test_a_field_holds_what_was_evaluated_in_the_way_of_its_networks(made: Any, field: Field) -> None:
    assert {point.arch: point.accuracy for point in field.points} == made.evaluations
    assert [point.ms for point in field.points] == [made.table.predict(point.arch).ms for point in field.points]
    assert field.evaluated == len(made.evaluations)


def test_the_front_is_what_nothing_dominates(field: Field) -> None:
    def dominated(point: Point) -> bool:
        return any(
            (o.ms <= point.ms and o.accuracy >= point.accuracy) and (o.ms, o.accuracy) != (point.ms, point.accuracy)
            for o in field.points
        )

    assert {point.arch for point in field.front} == {point.arch for point in field.points if not dominated(point)}
    fewer = front(field.points, -1)
    assert fewer[-1].accuracy == min(point.accuracy for point in field.points)


def test_a_chart_of_very_many_networks_shows_some_of_them() -> None:
    points = [Point((number,), float(number), 0.5) for number in range(10_000)]
    for kept, most in ((thinned(points), 3000), (thinned(points, 250), 250)):
        assert len(kept) == most
        assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_a_heat_map_has_a_cell_for_each_timed_layer(made: Any) -> None:
    rows = table_rows(made.table)
    assert len({(row["layer"], row["option"]) for row in rows}) == len(rows) == len(made.table.entries)
    assert not any("act=" in row["option"] for row in rows)


def test_a_heat_map_of_very_many_layers_has_the_slowest_places() -> None:
    rows = [{"layer": place, "option": option, "ms": place + option} for place in range(200) for option in range(4)]
    assert slowest(rows, len(rows)) == rows[-4 * PLACES :]
    assert slowest(rows, 10) == rows[-8:]  # whole places, in their order
    assert slowest(rows, 1) == rows[-4:]
    assert slowest(rows[:8], 100) == rows[:8]
