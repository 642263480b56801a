"""Networks as pictures: a box for each layer, as wide as it has channels, coloured by what it does."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from hwnas.report.drawing import Box, draw, operations, parse

LINES = (
    "conv 1>8 32px act=relu kernel=3",
    "mbconv 8>32 32px /2 expansion=6 kernel=7",
    "identity 32>32 16px",
    "head 32>10 4px",
)


def test_a_line_of_a_description_is_read() -> None:
    box = parse(LINES[1])
    assert box == Box("mbconv", 32, {"expansion": "6", "kernel": "7"})
    assert box.words == "mbconv e6 k7"
    assert parse("join 8+16>24 8px").channels == 24
    assert parse("") == Box("", 0, {})


def test_boxes_are_as_wide_as_their_channels_and_skips_are_lines() -> None:
    picture = ElementTree.fromstring(draw("one", LINES, *operations([LINES])))
    boxes = list(picture.iter("rect"))
    widths = [float(box.get("width", 0)) for box in boxes]
    assert len(boxes) == 3
    assert widths[1] == max(widths) == 2 * widths[0] == 170
    assert len({box.get("class", "").split()[0] for box in boxes}) == 3
    assert boxes[1].get("class", "").endswith("k2")
    assert len(list(picture.iter("line"))) == 1
    assert all(line in picture.get("aria-label", "") for line in LINES)


def test_names_and_layers_of_any_kind_are_text() -> None:
    lines = ("<script>alert(1)</script> 1>8 &", '"odd"')
    picture = ElementTree.fromstring(draw("<b>", lines, *operations([lines])))
    assert {element.tag for element in picture.iter()} <= {"svg", "g", "rect", "text", "title", "line"}
