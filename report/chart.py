"""The picture of a search: accuracy against latency, and promised against measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from ..supernet.ranking import Ranking

GREY, BLUE, ORANGE, GREEN = "#9aa0a6", "#1f6fb4", "#d9541e", "#3a8f4d"


@dataclass(frozen=True)
class Candidate:
    """One evaluated architecture: its kind (`evolution`, `random`), predicted ms, validation accuracy."""

    kind: str
    predicted_ms: float
    accuracy: float


@dataclass(frozen=True)
class Measured:
    """One exported network: its name, limit, promise with interval, measurement, validation accuracy."""

    name: str
    limit_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    measured_ms: float
    accuracy: float


@dataclass(frozen=True)
class Ranked:
    """One network: validation accuracy with inherited weights, test accuracy when trained alone, and its cost."""

    inherited: float
    alone: float
    cost: float


def search_chart(candidates: Sequence[Candidate], found: Sequence[Measured], device: str) -> alt.HConcatChart:
    """Two panels: what was searched with the networks found, and how each promise was kept."""
    return (
        (_accuracy_panel(candidates, found, device) | _promise_panel(found, device))
        .configure_axis(grid=True, gridColor="#e8e8e8", labelFontSize=12, titleFontSize=13)
        .configure_legend(labelFontSize=12, titleFontSize=12, orient="bottom")
        .configure_view(stroke=None)
    )


def ranking_chart(networks: Sequence[Ranked], found: Ranking, cost: str, metric: str) -> alt.Chart:
    """Inherited weights against training alone, a point for each network, its colour the cost."""
    title = [f"Kendall's tau {found.tau.value:.2f} ({found.tau.low:.2f} to {found.tau.high:.2f})"]
    if found.tau_in_bands is not None:
        within = found.tau_in_bands
        title += [f"at equal {cost} {within.value:.2f} ({within.low:.2f} to {within.high:.2f})"]
    axes = [
        axis(f"{name}:Q", title=f"{metric}, {words}", scale=alt.Scale(zero=False))
        for axis, name, words in ((alt.X, "inherited", "inherited weights"), (alt.Y, "alone", "trained alone"))
    ]
    colour = alt.Color("cost:Q", title=cost, scale=alt.Scale(scheme="viridis"))
    points = alt.Chart(pd.DataFrame([vars(network) for network in networks])).mark_circle(size=60)
    return points.encode(*axes, colour).properties(width=420, height=360, title=title)


def save_chart(chart: alt.HConcatChart | alt.Chart, path: Path) -> None:
    """Write a chart as .svg, .png or a self-contained .html, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        chart.save(str(path), inline=True)
    else:
        chart.save(str(path), scale_factor=1.5 if path.suffix == ".png" else 1)


def _accuracy_panel(candidates: Sequence[Candidate], found: Sequence[Measured], device: str) -> Any:
    points = pd.DataFrame([vars(c) for c in candidates])
    networks = pd.DataFrame([vars(m) for m in found])
    x = alt.X("predicted_ms:Q", title=f"predicted latency on {device}, ms", scale=alt.Scale(zero=False))
    y = alt.Y("accuracy:Q", title="validation accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format="%"))
    colours = alt.Scale(domain=["evolution", "random", "found"], range=[GREY, GREEN, ORANGE])
    cloud = (
        alt.Chart(points).mark_circle(size=28, opacity=0.6).encode(x, y, alt.Color("kind:N", scale=colours, title=None))
    )
    limits = alt.Chart(networks).mark_rule(strokeDash=[4, 4], color=BLUE).encode(x="limit_ms:Q")
    chosen = networks.assign(kind="found")
    stars = (
        alt.Chart(chosen)
        .mark_point(shape="diamond", size=160, filled=True, stroke="white")
        .encode(x, y, alt.Color("kind:N", scale=colours, title=None))
    )
    names = (
        alt.Chart(chosen).mark_text(dy=-14, fontSize=12, fontWeight="bold", color=ORANGE).encode(x, y, text="name:N")
    )
    title = "Searched and found; dashed: the limits"
    return alt.layer(cloud, limits, stars, names).properties(width=420, height=320, title=title)


def _promise_panel(found: Sequence[Measured], device: str) -> Any:
    networks = pd.DataFrame([vars(m) for m in found])
    order = alt.Y("name:N", sort=[m.name for m in found], title=None, axis=alt.Axis(labelFontSize=13))
    axis = alt.X("low_ms:Q", title=f"ms on {device}", scale=alt.Scale(zero=False))
    intervals = (
        alt.Chart(networks).mark_rule(strokeWidth=6, color=BLUE, opacity=0.35).encode(axis, x2="high_ms:Q", y=order)
    )
    promised = alt.Chart(networks).mark_tick(thickness=3, height=22, color=BLUE).encode(x="predicted_ms:Q", y=order)
    limits = alt.Chart(networks).mark_tick(thickness=2, height=40, color="#444444").encode(x="limit_ms:Q", y=order)
    measured = (
        alt.Chart(networks).mark_point(size=90, filled=True, color=ORANGE, opacity=1).encode(x="measured_ms:Q", y=order)
    )
    title = ["Promise (blue, 90 % interval), measurement (orange),", "limit (black)"]
    return alt.layer(intervals, promised, limits, measured).properties(width=320, height=320, title=title)
