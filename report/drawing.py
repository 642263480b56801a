"""Networks drawn as SVG: a box for each layer, its width the channels, its colour the operation and its kernel."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .html import Html, tag

WIDTH, ROW, GAP = 170, 30, 6  # px
SHIFT = {"3": 0, "5": 1, "7": 2}  # a larger kernel is darker
HUES = ("blue", "orange", "green", "violet", "red", "teal")
MARKS = {"expansion": "e", "kernel": "k", "ratio": "r"}  # short for what is chosen of an operation
PLAIN = {"identity"}  # drawn as a line: nothing is computed


@dataclass(frozen=True)
class Box:
    """A layer as FOUND.json describes it: `mbconv 8>12 32px /2 act=relu expansion=3 kernel=7`."""

    op: str
    channels: int
    params: dict[str, str]

    @property
    def words(self) -> str:
        """What stands in the box: the operation with what was chosen of it."""
        chosen = [f"{mark}{self.params[name]}" for name, mark in MARKS.items() if name in self.params]
        return " ".join([self.op, *chosen])


def parse(line: str) -> Box:
    """A line of a FOUND.json's description; what it doesn't say is left empty."""
    words = line.split()
    out = re.search(r">(\d+)", line)
    params = dict(word.split("=", 1) for word in words if "=" in word)
    return Box(words[0] if words else "", int(out[1]) if out else 0, params)


def draw(name: str, description: Sequence[str], ops: Sequence[str], widest: int) -> Html:
    """One network as an SVG picture, the input on top. `ops` decide on colours, `widest` on the scale of widths."""
    boxes = [parse(line) for line in description]
    height = len(boxes) * (ROW + GAP) + GAP
    drawn = [
        _box(box, GAP + number * (ROW + GAP), ops, widest, line)
        for number, (box, line) in enumerate(zip(boxes, description, strict=True))
    ]
    label = f"{name}, from the input: " + "; ".join(description)
    return tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height, role="img", aria_label=label)


def operations(descriptions: Sequence[Sequence[str]]) -> tuple[list[str], int]:
    """The operations of all networks in the order of their first use, and the most channels of any layer."""
    boxes = [parse(line) for description in descriptions for line in description]
    return list(dict.fromkeys(box.op for box in boxes)), max((box.channels for box in boxes), default=1)


def _box(box: Box, top: int, ops: Sequence[str], widest: int, line: str) -> Html:
    if box.op in PLAIN:
        middle = WIDTH // 2
        return tag("line", tag("title", line), x1=middle, x2=middle, y1=top - GAP, y2=top + ROW + GAP, class_="skip")
    share = math.sqrt(box.channels / max(widest, 1))
    width = max(60, round(share * WIDTH))
    left = (WIDTH - width) / 2
    hue = HUES[ops.index(box.op) % len(HUES)]
    depth = SHIFT.get(box.params.get("kernel", ""), 0)
    shape = tag("rect", x=left, y=top, width=width, height=ROW, rx=5, class_=f"{hue} k{depth}")
    words = tag("text", box.words, x=WIDTH / 2, y=top + ROW / 2 - 2)
    channels = tag(
        "text", f"{box.channels} channels" if box.channels else "", x=WIDTH / 2, y=top + ROW / 2 + 10, class_="small"
    )
    return tag("g", tag("title", line), shape, words, channels)
