"""A new device from a few measurements: the model on devices that are as it assumes, and on published ones."""

from __future__ import annotations

import os
import random
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from hwnas.errors import InputError, MismatchError
from hwnas.latency import LatencyTable, profile
from hwnas.latency.anchors import measure_networks
from hwnas.latency.calibration import interval, sizes_of
from hwnas.latency.design import Prior, choose
from hwnas.latency.onboard import onboard
from hwnas.latency.table import Entry
from hwnas.latency.transfer import prior, transfer
from hwnas.supernet import ChainSpace, load_space

Simulated = Callable[..., Any]
ROOT = Path(__file__).parents[2]


def devices(count: int, items: int, noise: float, seed: int = 0) -> np.ndarray:
    """Devices that differ in level and by two hidden properties of the items."""
    rng = np.random.default_rng(seed)
    base, hidden = rng.normal(1, 0.5, items), rng.normal(0, 0.3, (2, items))
    logs = rng.normal(0, 1, (count, 1)) + base + rng.normal(0, 1, (count, 2)) @ hidden
    return np.exp(logs + rng.normal(0, noise, (count, items)))


def test_ten_items_tell_a_device_that_is_a_combination_of_others() -> None:
    *earlier, new = devices(12, 300, noise=0.0)
    known = prior(np.array(earlier))
    items = choose(known, 10, range(300))
    found = transfer(known, items, new[items])
    assert np.abs(found.ms / new - 1).max() < 0.03
    assert found.error < 0.1


def test_chosen_items_tell_more_than_random_ones() -> None:
    errors = []
    for seed in range(20):
        *earlier, new = devices(8, 300, noise=0.03, seed=seed)
        known = prior(np.array(earlier))
        drawn = list(np.random.default_rng(seed).choice(300, 6, replace=False))
        found = [transfer(known, items, new[items]).ms for items in (choose(known, 6, range(300)), drawn)]
        errors.append([np.abs(np.log(ms / new)).mean() for ms in found])
    chosen, drawn_ones = np.mean(errors, axis=0)
    assert chosen < 0.9 * drawn_ones


def test_intervals_hold_and_tell_a_device_of_another_kind() -> None:
    held, margins = [], []
    for seed in range(30):
        *earlier, new = devices(10, 300, noise=0.05, seed=seed)
        known = prior(np.array(earlier))
        items = choose(known, 12, range(300))
        found = transfer(known, items, new[items])
        low, high = interval(found.ms, found.margin)
        held.append(((low <= new) & (new <= high)).mean())
        odd = np.exp(np.log(new) + np.random.default_rng(1000 + seed).normal(0, 0.5, 300))
        margins.append((found.margin.mean(), transfer(known, items, odd[items]).margin.mean()))
    assert 0.85 <= np.mean(held) <= 0.97
    usual, odd_ones = np.mean(margins, axis=0)
    assert odd_ones > 3 * usual


def test_the_posterior_is_that_of_the_textbook() -> None:
    """By the joint normal distribution of all items, conditioned on the measured ones, with one noise for all."""
    rng = np.random.default_rng(0)
    known = Prior(rng.normal(0, 1, 7), rng.normal(0, 1, (3, 7)), 0.07)
    items, rest = [0, 2, 5], [1, 3, 4, 6]
    found = transfer(known, items, np.exp(known.mean[items] + 0.3))

    def error(noise: float) -> float:
        covariance = known.factors.T @ known.factors + noise**2 * np.eye(7)
        gain = covariance[np.ix_(rest, items)] @ np.linalg.inv(covariance[np.ix_(items, items)])
        return float(np.abs(np.log(found.ms[rest]) - known.mean[rest] - gain @ np.full(3, 0.3)).max())

    nearest = optimize.minimize_scalar(error, bounds=(0.01, 0.15), options={"xatol": 1e-10})
    assert nearest.fun < 1e-6 < error(1.1 * nearest.x)


@pytest.mark.skipif("HWNAS_BENCH_DATA" not in os.environ, reason="needs HWNAS_BENCH_DATA")
def test_published_devices_are_ranked_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(os.environ["HWNAS_BENCH_DATA"]) / "help_nasbench201_latency.npz"
    if not file.is_file():
        pytest.skip("help_nasbench201_latency.npz is not there")
    bench = runpy.run_path(str(ROOT / "benchmarks" / "new_device.py"))
    with np.load(file, allow_pickle=False) as table:
        columns = {name: table[name].astype(float) for name in table.files if name not in bench["SUMS"]}
    positive = np.all([ms > 0.05 for ms in columns.values()], axis=0)
    columns = {name: ms[positive] for name, ms in columns.items()}
    ranks = [bench["score"](columns, name, 10, 0)[0] for name in columns]
    assert len(ranks) == 25
    assert np.mean(ranks) >= 0.95


# ---- tables


@pytest.fixture(scope="module")
def earlier(tiny: ChainSpace, simulated: Simulated) -> list[LatencyTable]:
    kinds = [simulated("a"), simulated("b", node_ms=0.05), simulated("c", weight_ms=3e-3)]
    return [profile(tiny, kind).table for kind in kinds]


def test_a_new_device_gets_a_table_from_ten_networks(
    earlier: list[LatencyTable], tiny: ChainSpace, simulated: Simulated
) -> None:
    """Neither as fast nor of the same proportions as any device before."""
    new = simulated("new", call_ms=0.2, node_ms=0.2, weight_ms=2e-3, reference_ms=2.0)
    seen: list[str] = []
    measure = new.measure
    new.measure = lambda jobs, *rest: (seen.extend(job.name for job in jobs), measure(jobs, *rest))[1]
    table = onboard(tiny, new, earlier, networks=10).table
    assert sum(name.startswith("network") for name in seen) == 10
    assert len(seen) == 11  # and what a call costs
    whole = profile(tiny, simulated("new", call_ms=0.2, node_ms=0.2, weight_ms=2e-3, reference_ms=2.0)).table
    archs = sorted({tiny.canonical(tiny.sample(random.Random(i))) for i in range(200)})
    truth, told = whole.predict_many(archs), table.estimate_many(archs)
    assert np.abs(told.ms / truth - 1).mean() < 0.02
    assert ((told.low <= truth) & (truth <= told.high)).mean() >= 0.9
    assert (table.name, table.reference_ms, len(table.calibration.networks)) == ("new", 2.0, 10)


@pytest.mark.usefixtures("exported_once")
def test_intervals_of_a_told_table_hold_where_layers_do_not_add_up(
    earlier: list[LatencyTable], tiny: ChainSpace, simulated: Simulated
) -> None:
    """Networks that were not measured, on devices with a life of their own, in another run."""
    archs = sorted({tiny.canonical(tiny.sample(random.Random(i))) for i in range(60)})
    held = []
    for seed in range(10):
        device = simulated("new", 0.2, 0.2, 2e-3, hidden=0.02, drift=0.007, rng=random.Random(seed))
        table = onboard(tiny, device, earlier, networks=10).table
        told, used = table.estimate_many(archs), {network.arch for network in table.calibration.networks}
        seen = measure_networks(table, device, archs)
        ms = np.array([seen.network_ms(arch) for arch in archs])
        new = np.array([arch not in used for arch in archs])
        held.append(((told.low <= ms) & (ms <= told.high))[new].mean())
    assert np.mean(held) >= 0.85


def test_a_layer_that_takes_nothing_elsewhere_is_not_nothing_here(tiny: ChainSpace, simulated: Simulated) -> None:
    """One of the earlier tables has a layer that no clock could see."""
    tables = [profile(tiny, simulated("a")).table, profile(tiny, simulated("b", node_ms=0.05)).table]
    unseen = next(layer for layer, entry in tables[0].entries.items() if entry.rounds)
    tables[0] = replace(tables[0], entries={**tables[0].entries, unseen: Entry(0, 0, 0, 9)})
    new = simulated("new", node_ms=0.03)
    table, whole = onboard(tiny, new, tables).table, profile(tiny, new).table
    told, true = (t.calibration.layer_ms(t.entries[unseen].ms, sizes_of(tiny, unseen)) for t in (table, whole))
    assert told > 0.2 * true


def test_tables_of_another_space_are_refused(earlier: list[LatencyTable], simulated: Simulated) -> None:
    other = load_space("mobilenet:size=8,widths=4,depths=1,strides=1")
    with pytest.raises(MismatchError, match="the table of a was made for"):
        onboard(other, simulated(), earlier)


def test_earlier_tables_are_needed(tiny: ChainSpace, simulated: Simulated) -> None:
    with pytest.raises(InputError, match="earlier tables"):
        onboard(tiny, simulated(), [])
