"""The charts of the report and of the pictures that commands leave: each a function from plain rows to a chart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from ..latency import LatencyTable
from ..supernet.layer import Layer
from ..supernet.ranking import Ranking
from .drawing import MARKS
from .networks import LATENCY, Field, genes, is_fraction
from .read import Checked, Transfer

GREY, BLUE, ORANGE, GREEN = "#8a9099", "#2b7bba", "#d9541e", "#3a8f4d"
WIDTH: Any = "container"  # as wide as the page has room
NAMED = 8  # networks that a chart names at most
PLACES = 100  # rows that a heat map has at most
DIM = 0.179  # a colour's luminance below which white stands out from it, and black above: either by 4.5 to 1
Row = Mapping[str, Any]


def search_chart(field: Field) -> alt.HConcatChart:
    """A picture of two panels: what was searched with the networks found, and how each promise was kept."""
    panels = alt.hconcat(front_chart(field, 420), promise_chart(field, 320))
    styled = panels.configure_axis(gridColor="#e8e8e8", labelFontSize=12, titleFontSize=13)
    return styled.configure_legend(labelFontSize=12).configure_view(stroke=None)


def front_chart(field: Field, width: Any = WIDTH) -> Any:
    """Accuracy against latency: everything evaluated, the front, the limits, and the networks found, by name.

    The parameter `chosen` is the name of one that is singled out, "" of none.
    """
    x = alt.X("ms:Q", title=f"promised {field.time} on {field.device}, ms", scale=alt.Scale(zero=False))
    percent = alt.Axis(format="%") if is_fraction(field.metric) else alt.Axis()
    y = alt.Y("accuracy:Q", title=f"validation {field.metric}", scale=alt.Scale(zero=False), axis=percent)
    networks = sorted(_found_rows(field), key=lambda row: row["kind"])  # those found are drawn last, on top
    points = [{"ms": p.ms, "accuracy": p.accuracy, "genes": genes(p.arch)} for p in field.points]
    line = [{"ms": p.ms, "accuracy": p.accuracy} for p in field.front]
    limits = [{"limit": ms, "what": f"limit {ms:.3g} ms"} for ms in sorted({r["limit"] for r in networks} - {None})]
    kinds = alt.Scale(domain=["found", "best of random"], range=[ORANGE, GREEN])
    kind = alt.Color("kind:N", scale=kinds, title=None, legend=alt.Legend(orient="bottom"))
    chosen = alt.param(name="chosen", value="")  # no selection: a click on what has no name would choose all of that
    strong = alt.when("chosen === '' || datum.name === chosen").then(alt.value(1)).otherwise(alt.value(0.25))
    names = [row for row in networks if row["kind"] == "found"]
    names = names if len(names) <= NAMED else []  # so many would hide each other; hovering tells them
    tips = _tips("name", "kind", "accuracy", "ms", "measured", "limit")
    layers = [
        _rows(points)
        .mark_circle(size=26, opacity=0.45, color=GREY)
        .encode(x, y, tooltip=_tips("accuracy", "ms", "genes")),
        _rows(line).mark_line(interpolate="step-after", color=BLUE, strokeWidth=1.5).encode(x, y),
        _rows(limits).mark_rule(strokeDash=[4, 4], color=BLUE).encode(x="limit:Q", tooltip=_tips("what")),
        _rows(networks)
        .mark_point(shape="diamond", size=190, filled=True, stroke="white")
        .encode(x, y, kind, opacity=strong, tooltip=tips),
        _rows(names)
        .mark_text(dy=-14, fontSize=12, fontWeight="bold")
        .encode(x, y, kind, text="name:N", opacity=strong),
    ]
    title = f"Searched and found on {field.device}; dashed: the limits"
    return alt.layer(*layers).add_params(chosen).properties(width=width, height=320, title=title)


def _found_rows(field: Field) -> list[dict[str, Any]]:
    """The networks that were found in a field, and what was measured of them."""
    return [
        {
            "name": network.name,
            "kind": "best of random" if network.is_baseline else "found",
            "ms": times.promised,
            "accuracy": network.found.accuracy,
            "limit": times.limit,
            "measured": times.measured,
        }
        for network, times in field.times()
        if network.found
    ]


def promise_chart(field: Field, width: Any = WIDTH) -> Any:
    """For each network of a field the promise with its interval, the measurement, and the limit."""
    data = [{"name": network.name, **vars(times)} for network, times in field.times()]
    base = _rows(data)
    y = alt.Y("name:N", sort=[row["name"] for row in data], title=None)
    words = f"ms on {field.device}" if field.time == LATENCY else f"{field.time} on {field.device}, ms"
    x = alt.X("low:Q", title=words, scale=alt.Scale(zero=False))
    tips = _tips("name", "promised", "low", "high", "measured", "limit")
    layers = [
        base.mark_rule(strokeWidth=8, color=BLUE, opacity=0.4).encode(x, x2="high:Q", y=y, tooltip=tips),
        base.mark_tick(thickness=3, height=20, color=BLUE).encode(x="promised:Q", y=y, tooltip=tips),
        base.mark_tick(thickness=2, height=32, color=GREY).encode(x="limit:Q", y=y, tooltip=tips),
        base.mark_point(size=80, filled=True, color=ORANGE, opacity=1).encode(x="measured:Q", y=y, tooltip=tips),
    ]
    title = ["Promise (blue, 90 % interval), measurement", "(orange), limit (grey)"]
    return alt.layer(*layers).properties(width=width, height=max(100, 42 * len(data)), title=title)


def deviation_chart(device: str, checked: Checked, time: str = LATENCY) -> Any:
    """How far measurements were from the prediction, as fractions: measured twice, with the intervals and the floor.

    `time` is what the device's times are called.
    """
    data = [
        {
            "ms": n.predicted_ms,
            "measured": n.measured_ms,
            "off": n.measured_ms / n.predicted_ms - 1,
            "again": None if n.again_ms is None else n.again_ms / n.predicted_ms - 1,
            "low": n.low_ms / n.predicted_ms - 1,
            "high": n.high_ms / n.predicted_ms - 1,
            "genes": genes(n.arch),
        }
        for n in checked.networks
    ]
    x = alt.X("ms:Q", title=f"predicted {time} on {device}, ms", scale=alt.Scale(zero=False))
    y = alt.Y("off:Q", title="measured, against predicted", axis=alt.Axis(format="+.1%"))
    tips = [
        *_tips("ms", "measured", "genes"),
        alt.Tooltip("off:Q", format="+.1%"),
        alt.Tooltip("again:Q", format="+.1%"),
    ]
    base, floor = _rows(data), checked.floor
    band = _rows([{"low": -floor, "high": floor}] if floor is not None else [])
    layers = [
        band.mark_rect(color=GREEN, opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_rule(strokeWidth=5, color=BLUE, opacity=0.3).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_rule(color=ORANGE, opacity=0.6).encode(x=x, y=y, y2="again:Q"),
        base.mark_point(shape="stroke", size=60, color=ORANGE, opacity=0.8).encode(x=x, y="again:Q", tooltip=tips),
        base.mark_circle(size=60, color=ORANGE, opacity=1).encode(x=x, y=y, tooltip=tips),
    ]
    title = ["Measured (dot) and once more (dash), against predicted;", "blue: 90 % intervals, green: the repeat floor"]
    return alt.layer(*layers).properties(width=WIDTH, height=300, title=title)


def table_rows(table: LatencyTable) -> list[Row]:
    """A latency table as rows of where a layer stands, its option, and ms with the interval's ends."""
    timed = {layer: entry for layer, entry in table.entries.items() if entry.rounds}
    values: dict[tuple[str, str], set[object]] = {}
    for layer in timed:
        for name, value in layer.params:
            values.setdefault((layer.op, name), set()).add(value)
    chosen = {key for key, known in values.items() if len(known) > 1}  # what is always the same tells nothing
    return [
        {"layer": _place(layer), "option": _option(layer, chosen), "ms": entry.ms, "low": entry.low, "high": entry.high}
        for layer, entry in timed.items()
    ]


def slowest(rows: Sequence[Row], most: int) -> list[Row]:
    """Rows of a table in the places that take longest: whole places, at most PLACES, and at most so many rows."""
    places: dict[str, list[float]] = {}
    for row in rows:
        places.setdefault(row["layer"], []).append(row["ms"])
    kept, count = set[str](), 0
    for place, ms in sorted(places.items(), key=lambda item: max(item[1]), reverse=True):
        if kept and (count + len(ms) > most or len(kept) == PLACES):
            break
        kept.add(place)
        count += len(ms)
    return [row for row in rows if row["layer"] in kept]


def table_chart(name: str, rows: Sequence[Row]) -> alt.Chart:
    """A latency table as a heat map: a row for each place in a network, a column for each option."""
    places, opts = (list(dict.fromkeys(row[name] for row in rows)) for name in ("layer", "option"))
    x = alt.X("option:N", title=None, sort=opts, axis=alt.Axis(labelAngle=-60, labelLimit=150))
    y = alt.Y("layer:N", title=None, sort=places, axis=alt.Axis(labelLimit=130))
    colour = alt.Color(
        "ms:Q", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(orient="top", title="ms, layer alone")
    )
    chart = _rows(rows).mark_rect().encode(x, y, colour, tooltip=_tips("layer", "option", "ms", "low", "high"))
    return chart.properties(width=WIDTH, height=max(140, 22 * len(places)), title=f"Layers on {name}")


def _place(layer: Layer) -> str:
    channels = layer.in_channels if isinstance(layer.in_channels, tuple) else (layer.in_channels,)
    stride = f" /{layer.stride}" if layer.stride > 1 else ""
    return f"{'+'.join(map(str, channels))}>{layer.out_channels} {layer.in_size}px{stride}"


def _option(layer: Layer, chosen: set[tuple[str, str]]) -> str:
    params = [(name, value) for name, value in layer.params if (layer.op, name) in chosen]
    return " ".join([layer.op, *(f"{MARKS.get(name, f'{name}=')}{value}" for name, value in params)])


def matrix_rows(transfer: Transfer) -> list[Row]:
    """A transfer matrix as rows of what a network was found for, where it runs, and its share of the limit there."""
    return [
        {
            "found for": moved.found_for,
            "on": name,
            "ms": ms,
            "low": low,
            "high": high,
            "share of the limit": ms / transfer.limits[name] if name in transfer.limits else None,
        }
        for moved in transfer.networks
        for name, (ms, low, high) in moved.ms.items()
    ]


def matrix_chart(rows: Sequence[Row], title: str) -> Any:
    """Rows: found for a device; columns: what it takes on a device, of several networks the mean.

    A cell has the share of the limit; where only other devices have a limit it has no colour, and the ms.
    """
    places, names = ([*dict.fromkeys(row[key] for row in rows)] for key in ("on", "found for"))
    top = alt.Axis(labelAngle=0, orient="top")
    x = alt.X("on:N", title="runs on", axis=top, scale=alt.Scale(domain=sorted(places)))  # empty columns, too
    y = alt.Y("found for:N", title="found for", scale=alt.Scale(domain=names))
    limited = any(row["share of the limit"] is not None for row in rows)
    name, form = ("share of the limit", ".0%") if limited else ("ms", ".3g")
    mean = alt.Color(f"mean({name}):Q", title=name, legend=alt.Legend(orient="bottom"))
    if limited:
        shares = [row["share of the limit"] for row in rows if row["share of the limit"] is not None]
        mean = mean.scale(scheme="blueorange", domain=[min(0.5, *shares), 1, max(1.5, *shares)])
    tips = [alt.Tooltip(f"mean({column}):Q", format=".3g", title=column) for column in ("ms", "low", "high")]
    base = _rows(rows)
    cells = base.mark_rect().encode(x, y, mean, tooltip=["found for:N", "on:N", *tips])
    dark = f"luminance(scale('color', datum['mean_{name}'])) < {DIM}"
    seen = alt.when(dark).then(alt.value("white")).otherwise(alt.value("black"))
    text = alt.Text(f"mean({name}):Q", format=form)
    known = base.transform_filter(alt.FieldValidPredicate(field=name, valid=True))  # what can't run has no words
    words = known.mark_text(fontSize=13).encode(x, y, text=text, color=seen)
    free = base.transform_filter(alt.FieldValidPredicate(field=name, valid=False))
    free = free.transform_filter(alt.FieldValidPredicate(field="ms", valid=True))
    times = free.mark_text(fontSize=13).encode(x, y, text=alt.Text("mean(ms):Q", format=".3g"))
    layers = (cells, words, times) if limited else (cells, words)
    return alt.layer(*layers).properties(width=WIDTH, height=max(120, 44 * len(names)), title=title)


def curves_chart(rows: Sequence[Row], value: str, title: str) -> alt.Chart:
    """A figure of every epoch, a line for each run."""
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1))
    y = alt.Y(f"{value}:Q", title=title, scale=alt.Scale(zero=False))
    line = _rows(rows).mark_line(point=True).encode(x, y, _series("run"), tooltip=_tips("run", "epoch", value))
    return line.properties(width=WIDTH, height=240, title=title)


def progress_chart(rows: Sequence[Row], metric: str) -> alt.Chart:
    """The best so far against evaluations, a line for each search."""
    x = alt.X("evaluations:Q", title="evaluations", axis=alt.Axis(tickMinStep=1))
    y = alt.Y("best:Q", title=f"best validation {metric} so far", scale=alt.Scale(zero=False))
    dash = alt.StrokeDash("strategy:N", legend=None)
    tips = _tips("search", "strategy", "evaluations", "best")
    line = (
        _rows(rows).mark_line(interpolate="step-after", point=True).encode(x, y, _series("search"), dash, tooltip=tips)
    )
    return line.properties(width=WIDTH, height=260, title="The best so far; a dash for each strategy")


def _series(name: str) -> alt.Color:
    """A colour for each of a few series, explained below the chart."""
    return alt.Color(f"{name}:N", title=None, legend=alt.Legend(orient="bottom", columns=2))


def ranking_chart(
    networks: Sequence[tuple[float, float, float]], found: Ranking, cost: str, metric: str, width: Any = WIDTH
) -> alt.Chart:
    """Inherited weights against training alone, a point for each (inherited, alone, cost), its colour the cost."""
    title = [f"Kendall's tau {found.tau.value:.2f} ({found.tau.low:.2f} to {found.tau.high:.2f})"]
    if found.tau_in_bands is not None:
        within = found.tau_in_bands
        title += [f"at equal {cost} {within.value:.2f} ({within.low:.2f} to {within.high:.2f})"]
    axes = [
        axis(f"{name}:Q", title=f"{metric}, {words}", scale=alt.Scale(zero=False))
        for axis, name, words in ((alt.X, "inherited", "inherited weights"), (alt.Y, "alone", "trained alone"))
    ]
    colour = alt.Color("cost:Q", title=cost, scale=alt.Scale(scheme="viridis"), legend=alt.Legend(orient="top"))
    points = _rows([dict(zip(("inherited", "alone", "cost"), network, strict=True)) for network in networks])
    chart = points.mark_circle(size=60).encode(*axes, colour, tooltip=_tips("inherited", "alone", "cost"))
    return chart.properties(width=width, height=360, title=title)


def save_chart(chart: alt.TopLevelMixin, path: Path) -> None:
    """Write a chart as .svg or .png, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(path), scale_factor=1.5 if path.suffix == ".png" else 1)


def _rows(rows: Iterable[Row]) -> alt.Chart:
    """A chart of rows, however many; a number that is none becomes a gap."""
    values = [{name: _short(value) for name, value in row.items()} for row in rows]
    return alt.Chart(alt.InlineData(values=values))


def _short(value: Any) -> Any:
    """A value of a chart: of a number six digits, more than are seen."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


WORDS = {"name", "kind", "genes", "what", "layer", "option", "run", "search", "strategy"}


def _tips(*names: str) -> list[alt.Tooltip]:
    """What hovering shows: columns by name, numbers with four digits."""
    return [alt.Tooltip(f"{n}:N") if n in WORDS else alt.Tooltip(f"{n}:Q", format=".4~g") for n in names]
