"""Layers that a device can't run: named, kept in the table, and in no network that is found for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.devices import Job, Measurements
from hwnas.errors import FaultError, InputError
from hwnas.latency import LatencyTable, analytic_cost, onboard, profile, spread, validate
from hwnas.latency.calibration import Calibration
from hwnas.latency.predictors import PREDICTORS
from hwnas.latency.table import Entry
from hwnas.search import Problem, search
from hwnas.supernet import ChainSpace, load_space
from hwnas.workflows.pricing import rejection_cost

Simulated = Callable[..., Any]


class Picky:
    """A simulated device that can't run what `refuses` says."""

    def __init__(self, device: Any, refuses: Callable[[Job], bool]) -> None:
        self.device, self.refuses = device, refuses
        self.name, self.form = device.name, device.form
        self.fingerprint = device.fingerprint

    def measure(self, jobs: list[Job], *rest: Any) -> Measurements:
        run = [job for job in jobs if not self.refuses(job)]
        errors = {job.name: "no kernel for it" for job in jobs if self.refuses(job)}
        found: Measurements = self.device.measure(run, *rest)
        return replace(found, errors=errors)


@pytest.fixture(scope="module")
def table(tiny: ChainSpace, simulated: Simulated) -> LatencyTable:
    """Of a device without 5x5 kernels, in layers or in networks."""
    big = {str(layer): layer for layer in tiny.layers() if dict(layer.params).get("kernel") == 5}

    def refuses(job: Job) -> bool:
        if not job.name.startswith("network"):
            return job.name in big
        arch = tuple(map(int, job.name.split()[1].split("-")))
        return any(node.layer in big.values() for node in tiny.graph(arch))

    return profile(tiny, Picky(simulated(), refuses)).table


def test_they_are_named_and_the_rest_is_measured(table: LatencyTable, tiny: ChainSpace, tmp_path: Path) -> None:
    assert table.rejected
    assert all(dict(layer.params)["kernel"] == 5 for layer in table.rejected)
    assert set(table.rejected.values()) == {"no kernel for it"}
    assert all(entry.rounds for layer, entry in table.entries.items()
               if layer not in table.rejected and layer.op != "identity")  # fmt: skip
    assert len(table.calibration.networks) >= 3
    assert not any(table.rejections(network.arch) for network in table.calibration.networks)
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").rejected == table.rejected


def test_no_network_with_them_is_found(table: LatencyTable, tiny: ChainSpace) -> None:
    """Although they are what accuracy likes most."""
    archs = [tiny.sample(random.Random(i)) for i in range(200)]
    count = np.array([table.rejections(arch) for arch in archs])
    assert 0 < (count > 0).mean() < 1

    def accuracy(archs: Any) -> Any:
        return np.array([table.rejections(tuple(arch)) for arch in archs]) + np.asarray(archs).sum(axis=1) / 100

    cost = rejection_cost(table)
    problem = Problem(tiny, accuracy, {"picky.rejected": cost}, {"picky.rejected": 0.5})
    best = search(problem, budget=60, seed=0).best
    assert table.rejections(best.arch) == 0


def test_they_are_in_no_prediction(table: LatencyTable, tiny: ChainSpace) -> None:
    archs = [tiny.sample(random.Random(i)) for i in range(200)]
    bad = np.array([table.rejections(arch) > 0 for arch in archs])
    assert list(np.isinf(table.predict_many(archs))) == list(bad)
    low, high = table.range_ms()
    assert 0 < low < high < np.inf
    refused = archs[int(bad.argmax())]
    with pytest.raises(InputError, match=r"simulated can't run .*kernel=5.*: no kernel for it"):
        table.predict(refused)


def test_a_table_with_them_is_validated_and_told_on(
    table: LatencyTable, tiny: ChainSpace, simulated: Simulated
) -> None:
    other = simulated(name="other", node_ms=0.03)
    checked = validate(table, Picky(simulated(), lambda job: "kernel=5" in job.name), nets=12, pause_s=0)
    assert checked.nets >= 2  # few are left that calibrated nothing
    assert not any(table.rejections(check.arch) for check in checked.measurements)
    new = onboard(tiny, other, [table], networks=5).table
    assert new.rejected.keys() == table.rejected.keys()
    assert all("simulated can't: no kernel for it" in reason for reason in new.rejected.values())
    assert new.told_by == ("simulated",)


def test_networks_are_spread_where_few_random_ones_can_run() -> None:
    space = load_space("mobilenet:size=32")
    rejected = [layer for layer in space.layers() if dict(layer.params).get("kernel") in (5, 7)]
    assert rejected
    archs = spread(space, analytic_cost(space, "flops"), 10, seed=0, without=rejected)
    assert len(archs) == 10
    assert not any(node.layer in rejected for arch in archs for node in space.graph(arch))
    cost = analytic_cost(space, "flops")
    values = sorted(float(c) for c in cost(archs))
    assert values[-1] > 3 * values[0]
    entries = {layer: Entry(ms, ms, ms, 9) for layer in space.layers() for ms in (float(layer.op != "identity"),)}
    table = LatencyTable({"name": "d"}, space, entries, Calibration(), 1.0, rejected=dict.fromkeys(rejected, "no"))
    low, high = table.range_ms()
    assert 0 < low < high


def test_a_network_that_cannot_run_for_another_reason_is_a_fault(tiny: ChainSpace, simulated: Simulated) -> None:
    device = Picky(simulated(), lambda job: job.name.startswith("network"))
    with pytest.raises(FaultError, match=r"simulated cannot run network .*: no kernel for it"):
        profile(tiny, device)


def test_where_no_network_is_left_the_layer_is_named(tiny: ChainSpace, simulated: Simulated) -> None:
    stem = str(tiny.graph(tiny.sample(random.Random(0)))[0].layer)
    with pytest.raises(FaultError, match=r"simulated can't run .*: no kernel for it; no network of .* is left") as told:
        profile(tiny, Picky(simulated(), lambda job: job.name == stem))
    assert stem in str(told.value)


def test_what_cannot_run_costs_infinity_to_every_search_in_python(table: LatencyTable, tiny: ChainSpace) -> None:
    """As a table's upper end is a cost in README, and as other predictors are."""
    archs = [tiny.sample(random.Random(i)) for i in range(200)]
    bad = [table.rejections(arch) > 0 for arch in archs]
    assert list(np.isinf(table.upper(archs))) == bad
    fine = [arch for arch, refused in zip(archs, bad, strict=True) if not refused]
    for name in ("linear", "forest", "residual"):
        learned = PREDICTORS[name](table, fine, table.predict_many(fine) * 1.01)
        assert list(np.isinf(learned.predict_many(archs))) == bad

    def accuracy(archs: Any) -> Any:
        return np.array([table.rejections(tuple(arch)) for arch in archs], dtype=float)

    problem = Problem(tiny, accuracy, {"simulated": table.upper}, {"simulated": table.range_ms()[1]})
    assert table.rejections(search(problem, budget=40).best.arch) == 0
