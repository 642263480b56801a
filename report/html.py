"""HTML whose every text is escaped: only `tag` makes markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

VOID = {"meta"}


class Html(str):
    """Text that is markup already; all other text is escaped where it goes into a tag."""

    __slots__ = ()


def tag(name: str, /, *content: object, **attributes: Any) -> Html:
    """An element with its content; `class_` and `aria_label` are `class` and `aria-label`, None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    end = "" if name in VOID else f"{join(content)}</{name}>"
    return Html(f"<{name}{given}>{end}")


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other: markup as it is, anything else escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts))


def table(label: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table with a header, which scrolls sideways where it is too wide; `label` says of what."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *body)),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=label,
    )
