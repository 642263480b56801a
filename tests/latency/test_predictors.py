"""Predictors learned from whole networks: each finds the device that it is made for, and the best is chosen."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.latency import LatencyTable
from hwnas.latency.calibration import Calibration
from hwnas.latency.predictors import PREDICTORS, best_predictor, compare_predictors, totals
from hwnas.latency.table import Entry
from hwnas.supernet import Arch, load_space

SPACE = load_space("mobilenet:size=16,classes=10,channels=1,depths=2-2,widths=8-16,stem=8,head=32")
Device = tuple[LatencyTable, list[Arch], np.ndarray]


def device(kind: str, count: int = 60) -> Device:
    """A table of made-up layers, and networks as a device of a kind would take them."""
    rng, drawn = np.random.default_rng(0), random.Random(0)
    entries = {
        layer: Entry(0, 0, 0, 0) if layer.op == "identity" else Entry(float(ms), float(ms), float(ms), 20)
        for layer, ms in zip(SPACE.layers(), rng.uniform(0.05, 0.5, len(SPACE.layers())), strict=True)
    }
    table = LatencyTable({"name": kind}, SPACE, entries, Calibration(margin=0.05), 1.0)
    archs = sorted({SPACE.canonical(SPACE.sample(drawn)) for _ in range(3 * count)})[:count]
    noise = rng.lognormal(0, 0.005, len(archs))
    return table, archs, measured(kind, table, archs) * noise


def measured(kind: str, table: LatencyTable, archs: list[Arch]) -> np.ndarray:
    if kind == "sums of layers":
        return table.predict_many(archs)
    if kind == "counts alone":  # nothing that layers alone told is true
        return totals(SPACE, archs) @ np.array([1e-6, 0.02, 1e-5, 1e-6, 0.05])
    genes = np.array(archs)  # "not additive": pairs of neighbours that overlap
    pairs = sum((genes[:, i] == genes[:, i + 1]) * 0.1 for i in range(genes.shape[1] - 1))
    return table.predict_many(archs) * (1 - pairs)


@pytest.mark.parametrize(
    ("kind", "best"), [("sums of layers", {"table"}), ("counts alone", {"linear", "forest", "network"})]
)
def test_the_best_predictor_is_found(kind: str, best: set[str]) -> None:
    table, archs, ms = device(kind)
    name, found = best_predictor(table, archs, ms)
    assert name in best
    assert np.abs(found.predict_many(archs) / ms - 1).mean() < 0.01
    estimates = found.estimate_many(archs)
    assert ((estimates.low <= ms) & (ms <= estimates.high)).mean() > 0.85


def test_a_device_that_is_no_sum_of_layers_shows_in_the_scores() -> None:
    sums, other = (compare_predictors(*device(kind))["table"] for kind in ("sums of layers", "not additive"))
    assert sums.mape < 0.01
    assert sums.within_5 == 1
    assert other.mape > 3 * sums.mape
    assert other.kendall_tau < sums.kendall_tau


def test_what_is_fitted_predicts_alike_from_lists_and_arrays_and_takes_no_part_of_the_table() -> None:
    table, archs, ms = device("sums of layers", 20)
    before = table.predict_many(archs)
    for name, fit in PREDICTORS.items():
        fitted = fit(table, archs, ms)
        assert fitted.predict_many(np.array(archs)) == pytest.approx(fitted.predict_many(archs)), name
        assert fitted.predict_many(archs[:1]).shape == (1,)
    assert list(table.predict_many(archs)) == list(before)
    assert table.cost is not None


def test_too_few_networks_are_refused() -> None:
    table, archs, ms = device("sums of layers", 9)
    with pytest.raises(InputError, match="9 networks are too few to compare predictors: at least 10"):
        compare_predictors(table, archs, ms)
