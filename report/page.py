"""The report: one HTML page that needs nothing else, and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from typing import Any

import altair as alt
import vl_convert

from ..latency import LatencyTable
from ..supernet.cost import COSTS
from .charts import (
    curves_chart,
    deviation_chart,
    front_chart,
    matrix_chart,
    matrix_rows,
    progress_chart,
    promise_chart,
    ranking_chart,
    slowest,
    table_chart,
    table_rows,
)
from .commands import commands
from .drawing import draw, operations
from .html import Html, table, tag
from .networks import (
    EMULATED,
    LATENCY,
    Field,
    Network,
    accuracy_words,
    cost_words,
    fields_of,
    genes,
    networks_of,
    percent,
    short,
    time_of,
)
from .read import Inputs
from .spaces import of_space, predicts
from .summary import Card, cards, lead

SHOWN = 400  # rows of a data table at most
CELLS, LEAST = 3000, 200  # of all heat maps together at most, and what each may have
CARDS = 6  # networks on the first screen at most
TITLE = tag("title", "hwnas report")
"""By which a page is known for one of ours."""
Section = tuple[str, str, list[Html]]  # its id, its heading, its content


def page(inputs: Inputs, command: str) -> str:
    """The report as HTML; `command` is what made it."""
    networks = networks_of(inputs)
    fields = fields_of(inputs, networks)
    sections = [section for section in _sections(inputs, networks, fields, command) if section[2]]
    scripts = [_javascript(), _resource("page.js")]
    style = _resource("page.css")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        TITLE,
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#results", class_="skip-link"),
        _header(sections),
        tag("main", *_first(cards(inputs, networks, fields)), *map(_section, sections)),
        tag("footer", tag("p", "Made by ", tag("code", command), ". This page loads nothing from elsewhere.")),
        *(tag("script", Html(script)) for script in scripts),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _header(sections: Iterable[Section]) -> Html:
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    return tag("header", tag("h1", "hwnas report"), tag("nav", tag("ul", *links), aria_label="Sections"))


def _first(found: Sequence[Card]) -> Iterator[Html]:
    yield tag("p", lead(found), id="results", tabindex="-1")
    yield tag("div", *map(_card, found[:CARDS]), class_="cards")
    if len(found) > CARDS:
        more = tag("summary", f"{len(found) - CARDS} more networks")
        yield tag("details", more, tag("div", *map(_card, found[CARDS:]), class_="cards"))


def _card(card: Card) -> Html:
    marks = {"kept": "✓ ", "broken": "✗ ", "open": "○ ", "free": ""}
    rows = [part for what, words in card.rows for part in (tag("dt", what), tag("dd", words))]
    verdict = tag("p", marks[card.state], card.verdict, class_="verdict")
    gist = tag("p", card.gist, class_="gist")
    return tag("article", tag("h2", card.name), gist, verdict, tag("dl", *rows), class_=f"card {card.state}")


def _section(section: Section) -> Html:
    name, heading, content = section
    return tag("section", tag("h2", heading, id=name), *content, aria_labelledby=name)


def _sections(inputs: Inputs, networks: Sequence[Network], fields: Sequence[Field], command: str) -> Iterator[Section]:
    fronts = [field for field in fields if any(n.found for n in field.networks)]
    time = LATENCY if any(field.time == LATENCY for field in fronts) else EMULATED
    yield "front", f"Accuracy against {time}", [_front(field) for field in fronts]
    yield "promises", "Promised and measured", [*map(_promises, fields), *_deviations(inputs)]
    yield "networks", "What the networks look like", _drawn(networks)
    yield "devices", "One device's network on another", list(_matrices(inputs, networks))
    yield "tables", "What layers take", list(_layers(inputs))
    yield "searches", "How the searches went", _progress(inputs, networks)
    yield "training", "Training", _training(inputs)
    yield "ranking", "Does the supernet rank its networks", [_ranked(name, r) for name, r in _named(inputs.rankings)]
    yield "commands", "Where every number is from", _commands(inputs, networks, command)


def _front(field: Field) -> Html:
    rows = [
        [n.name, accuracy_words(n.found.accuracy, n.metric), *_ms(t.promised, t.limit, t.measured)]
        for n, t in field.times()
        if n.found
    ]
    names = [row[0] for row in rows]
    rows += [
        [f"on the front: {genes(p.arch)}", accuracy_words(p.accuracy, field.metric), *_ms(p.ms)] for p in field.front
    ]
    label = f"Accuracy against {field.time} on {field.device}: {field.evaluated} evaluated networks and those found"
    words = "Grey: evaluated; line: the front; diamonds: found. Hover for figures"
    words += "; click a diamond, or its name below, to single it out." if len(names) > 1 else "."
    header = ["network", "accuracy", "promised", "limit", "measured"]
    return _chart(front_chart(field), label, words, header, rows, _choices(names) if len(names) > 1 else "")


def _choices(names: Sequence[str]) -> Html:
    """A button for each network of a chart, for the keyboard too."""
    buttons = [tag("button", name, type="button", value=name, aria_pressed="false") for name in names]
    return tag("div", *buttons, class_="choices", role="group", aria_label="Single a network out")


def _ms(*values: float | None) -> list[str]:
    return ["" if value is None else f"{value:.4g} ms" for value in values]


def _promises(field: Field) -> Html:
    rows = [[n.name, *_ms(t.promised, t.low, t.high, t.measured, t.limit)] for n, t in field.times()]
    label = f"Promised, measured and limit of {len(rows)} networks on {field.device}"
    return _chart(promise_chart(field), label, "", ["network", "promised", "low", "high", "measured", "limit"], rows)


def _deviations(inputs: Inputs) -> Iterator[Html]:
    for name, checked in _named(inputs.validations):
        device = checked.device or name
        words = f"{name}: mean error {percent(checked.mape)}"
        words += f"; measuring twice differs by {percent(checked.floor)}" if checked.floor is not None else ""
        header = ["genes", "predicted", "low", "high", "measured", "once more"]
        rows = [
            [genes(n.arch), *_ms(n.predicted_ms, n.low_ms, n.high_ms, n.measured_ms, n.again_ms)]
            for n in checked.networks
        ]
        label = f"Measured against predicted on {device}, {len(rows)} networks the table had not seen"
        chart = deviation_chart(device, checked, time_of(inputs, device))
        yield _chart(chart, label, words, header, rows)


def _drawn(networks: Sequence[Network]) -> list[Html]:
    """Each architecture once, with the names of the networks that have it."""
    shown: dict[tuple[str, ...], list[Network]] = {}
    for n in networks:
        if n.found and not n.is_baseline:
            shown.setdefault(n.found.description, []).append(n)
    if not shown:
        return []
    ops, widest = operations(list(shown))
    names = {lines: ", ".join(n.name for n in members) for lines, members in shown.items()}
    figures: dict[str, list[Html]] = {}
    for lines, members in shown.items():
        for device in dict.fromkeys(map(_found_for, members)):
            own = [n for n in members if _found_for(n) == device]
            picture = draw(", ".join(n.name for n in own), lines, ops, widest)
            figures.setdefault(device, []).append(tag("figure", picture, tag("figcaption", _caption(own))))
    words = "From the input down; colour: the operation, border: the kernel, width: channels, dashed: left out."
    parts = [tag("p", words, class_="note")]
    for device, drawn in figures.items():
        label = f"networks {device}"
        parts += [tag("h3", device[:1].upper() + device[1:])] if len(figures) > 1 else []
        parts += [tag("div", *drawn, class_="networks", tabindex="0", role="region", aria_label=label)]
    rows = [[str(i + 1), *row] for i, row in enumerate(zip_longest(*shown, fillvalue=""))]
    return [*parts, _data("The layers of all networks", ["layer", *names.values()], rows)]


def _found_for(network: Network) -> str:
    """The devices whose latency was limited when it was found."""
    devices = dict.fromkeys(name.partition(".")[0] for name in network.limits if name not in COSTS)
    return f"found for {' and '.join(devices)}" if devices else "found for no device"


def _caption(networks: Sequence[Network]) -> str:
    """The names of networks that are one, with the limits for which each was found."""
    named: dict[str, list[str]] = {}
    for n in networks:
        limits = ", ".join(f"{name} at most {cost_words(name, limit)}" for name, limit in n.limits.items())
        named.setdefault(limits, []).append(n.name)
    return "; ".join(", ".join(filter(None, [*names, limits])) for limits, names in named.items())


def _matrices(inputs: Inputs, networks: Sequence[Network]) -> Iterator[Html]:
    measured = [(f"{name}: measured", matrix_rows(it)) for name, it in _named(inputs.transfers)]
    predicted = _predicted(inputs, networks)
    for title, rows in [*measured, *([("Promised by the tables", predicted)] if predicted else [])]:
        names = ["found for", "on", "ms", "low", "high", "share of the limit"]
        cells = [
            [row[n] if isinstance(row[n], str) else "" if row[n] is None else f"{row[n]:.3g}" for n in names]
            for row in rows
        ]
        words = "Shares of the limit there, or ms where none is known; orange: over the limit."
        words += " Empty: it can't run there." if any(row["ms"] is None for row in rows) else ""
        unreal = [name for name in dict.fromkeys(row["on"] for row in rows) if time_of(inputs, name) == EMULATED]
        words += f" Emulated, so no latency: {', '.join(unreal)}." if unreal else ""
        yield _chart(
            matrix_chart(rows, title),
            f"{title}: what networks found for one device take on another",
            words,
            names,
            cells,
        )


def _predicted(inputs: Inputs, networks: Sequence[Network]) -> list[Mapping[str, Any]]:
    """What each network takes on every table of its space, where there are several devices."""
    found = [n for n in reversed(networks) if n.found and not n.is_baseline]
    shown = [*{(n.space, n.arch): n for n in found}.values()][::-1]
    rows: list[Mapping[str, Any]] = []
    for n in shown:
        known = [t for t in inputs.tables.values() if of_space(t, n.space, n.arch) and predicts(t)]
        tables = {t.name: t for t in sorted(known, key=lambda t: bool(t.validation))}  # the last: of a tested promise
        limits = {name: {o.limits[name] for o in shown if o.space == n.space and name in o.limits} for name in tables}
        for name, t in tables.items() if len(tables) > 1 else ():
            times = t.estimate_many([n.arch])
            ms, low, high = (float(values[0]) for values in (times.ms, times.low, times.high))
            runs = math.isfinite(ms)  # else the device can't run one of its layers
            limit = next(iter(limits[name])) if len(limits[name]) == 1 else None
            share = ms / limit if runs and limit is not None else None
            figures = {"ms": ms, "low": low, "high": high} if runs else dict.fromkeys(("ms", "low", "high"))
            rows.append({"found for": n.name, "on": name, **figures, "share of the limit": share})
    return rows


def _layers(inputs: Inputs) -> Iterator[Html]:
    """Of each table a heat map, if it has times, and the layers that can't run there."""
    for name, it in _named(inputs.tables):
        device = ", ".join(f"{key}: {value}" for key, value in it.device.items() if key not in ("name", "reference"))
        if it.timed:
            most = max(LEAST, CELLS // len(inputs.tables))
            yield _heat(f"{name}; {device}", it, time_of(inputs, it.name), most)
        else:
            compiled = f"compiles {len(it.entries) - len(it.rejected)} of {len(it.entries)} layers, and gives no times"
            yield tag("p", f"{name}; {device}; it {compiled}.", class_="note")
        if it.rejected:
            count = len(it.rejected)
            words = f"{count} {'layer' if count == 1 else 'layers'} that {it.name} can't run, and why"
            rows = [[str(layer), reason] for layer, reason in it.rejected.items()]
            yield _data(words, ["layer", "reason"], rows, words)


def _heat(words: str, it: LatencyTable, time: str, most: int) -> Html:
    """A table as a heat map of at most so many cells."""
    rows = table_rows(it)
    shown = slowest(rows, most)
    if len(shown) < len(rows):
        words += f"; the chart has {len(shown)} of the {len(rows)} layers, where they take longest"
    cells = [[row["layer"], row["option"], *_ms(row["ms"], row["low"], row["high"])] for row in rows]
    label = f"{time.capitalize()} of {len(rows)} layers on {it.name}"
    return _chart(table_chart(it.name, shown), label, words, ["layer", "option", "ms", "low", "high"], cells)


def _progress(inputs: Inputs, networks: Sequence[Network]) -> list[Html]:
    by_metric: dict[str, list[dict[str, Any]]] = {}
    searches = {id(n.found): n for n in reversed(networks)}.values()  # one may have been exported more than once
    for n in reversed(searches):
        if n.found and n.found.progress:
            steps = [*n.found.progress, (n.found.evaluations, n.found.progress[-1][1])]
            by_metric.setdefault(n.metric, []).extend(
                {
                    "search": f"{n.name} ({n.found.strategy})",
                    "strategy": n.found.strategy,
                    "evaluations": done,
                    "best": best,
                }
                for done, best in steps
            )
    header = ["search", "strategy", "evaluations", "best"]
    charts = []
    for metric, rows in by_metric.items():
        cells = [[r["search"], r["strategy"], str(r["evaluations"]), accuracy_words(r["best"], metric)] for r in rows]
        charts.append(
            _chart(progress_chart(rows, metric), f"Best {metric} so far against evaluations", "", header, cells)
        )
    fronts = [f"{name}: a search for the front of {words}." for name, it in _named(inputs.runs) for words in it.fronts]
    return charts + [tag("p", words, class_="note") for words in fronts]


def _training(inputs: Inputs) -> list[Html]:
    rows = [{"run": name, **line} for name, it in _named(inputs.runs) for line in it.metrics]
    charts = []
    for value, title in (("val_accuracy", "validation, random subnets"), ("loss", "training loss")):
        shown = [row for row in rows if value in row and "epoch" in row]
        cells = [[row["run"], f"{row['epoch']:.0f}", f"{row[value]:.4g}"] for row in shown]
        if shown:
            charts.append(_chart(curves_chart(shown, value, title), title, "", ["run", "epoch", title], cells))
    return charts


def _ranked(name: str, it: Any) -> Html:
    rows = [[f"{number:.4g}" for number in network] for network in it.networks]
    chart = ranking_chart(it.networks, it.ranking, it.cost, it.metric)
    label = f"{len(rows)} networks: with inherited weights, and trained alone"
    figures = [("Kendall tau", it.ranking.tau), ("Spearman", it.ranking.spearman)]
    figures += [(f"tau at equal {it.cost}", it.ranking.tau_in_bands), ("regret", it.ranking.regret)]
    said = [f"{what} {f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for what, f in figures if f]
    return _chart(chart, label, f"{name}: {', '.join(said)}", ["inherited", "trained alone", it.cost], rows)


def _commands(inputs: Inputs, networks: Sequence[Network], command: str) -> list[Html]:
    words = (
        "Reconstructed from what each file records, and not a log. What a file does not record, as one of an earlier "
        "hwnas may not, is missing; words in capitals stand for files of yours."
    )
    rows = [*commands(inputs, networks), ("this page", "report", command)]
    lines = [part for file, what, line in rows for part in (tag("dt", f"{file}, {what}"), tag("dd", tag("code", line)))]
    return [tag("p", words, class_="note"), tag("dl", *lines)]


def _named(items: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return list(zip(short(list(items)), items.values(), strict=True))


def _chart(
    chart: Any,
    label: str,
    words: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    choices: str = "",
) -> Html:
    """A chart with its text alternatives: a label, also where it is drawn, a caption, and its numbers as a table."""
    spec = json.dumps({**chart.to_dict(), "description": label}, allow_nan=False).replace("<", "\\u003c")
    caption = tag("figcaption", words) if words else ""
    place = tag("div", class_="chart", role="img", aria_label=label)
    return tag(
        "figure",
        place,
        caption,
        choices,
        tag("script", Html(spec), type="application/json"),
        _data(f"The numbers of: {label}", header, rows),
        data_chart="",
    )


def _data(label: str, header: Sequence[str], rows: Sequence[Sequence[object]], summary: str = "The numbers") -> Html:
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    return tag("details", tag("summary", f"{summary}{more}"), table(label, header, rows[:SHOWN]))


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


@cache
def _javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script, from vl-convert: nothing is downloaded."""
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version).replace("</script", "<\\/script")


def _hash(text: str) -> str:
    """The text's hash as a Content-Security-Policy allows it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
