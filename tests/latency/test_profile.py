"""From layers to a validated table, on a device whose times are known."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from hwnas.devices import Sample
from hwnas.errors import FaultError, InputError
from hwnas.latency import LatencyTable, profile, validate
from hwnas.latency.anchors import measure_networks
from hwnas.latency.calibration import Calibration
from hwnas.latency.profile import felt_as, network_name
from hwnas.latency.samples import load_samples, save_samples
from hwnas.latency.table import Entry
from hwnas.latency.validation import compare, promise_holds
from hwnas.supernet import Arch, ChainSpace, ChoiceSpace, Layer, Node, load_space

Simulated = Callable[..., Any]


@pytest.fixture(scope="module")
def table(tiny: ChainSpace, simulated: Simulated) -> LatencyTable:
    return profile(tiny, simulated()).table


def test_every_layer_is_measured(table: LatencyTable, tiny: ChainSpace) -> None:
    assert set(table.entries) == set(tiny.layers())
    assert {layer.op for layer, entry in table.entries.items() if not entry.rounds} == {"identity"}
    assert all(entry.low <= entry.ms <= entry.high for entry in table.entries.values())
    assert (table.name, table.reference_ms) == ("simulated", 0.5)


def test_the_price_of_a_call_becomes_the_offset(table: LatencyTable) -> None:
    calibration = table.calibration
    assert calibration.overhead_ms == pytest.approx(0.05)
    assert calibration.offset_ms == pytest.approx(0.05, abs=0.02)  # the terms take a part of it
    assert calibration.scale == pytest.approx(1, abs=0.01)
    assert len(calibration.networks) == 20


def test_layers_that_add_up_are_predicted_exactly(table: LatencyTable, simulated: Simulated) -> None:
    found = validate(table, simulated(), nets=20, pause_s=0)
    assert found.mape < 1e-3  # all that the ridge costs
    assert found.kendall_tau == found.floor_tau == 1
    assert found.floor_mape == 0
    assert (found.nets, found.within_5, found.interval_coverage, found.fit_for_use) == (20, 1, 1, True)
    assert not {check.arch for check in found.measurements} & {n.arch for n in table.calibration.networks}


def test_networks_that_do_not_add_up_fail_the_validation(table: LatencyTable, simulated: Simulated) -> None:
    found = validate(table, simulated(hidden=0.3, noise=0.01), nets=20, pause_s=0)
    assert not found.fit_for_use
    assert found.mape == pytest.approx(0.24, abs=0.1)  # E |exp(N(0, 0.3)) - 1|
    assert 0 < found.floor_mape < 0.03
    assert found.floor_tau > found.kendall_tau


# ---- the figures of a validation by hand


@pytest.fixture
def promised(tiny: ChainSpace) -> LatencyTable:
    """Layers of so different prices that no two networks tie; intervals of 5 %."""
    entries = {layer: Entry(2.0**i, 2.0**i, 2.0**i, 9) for i, layer in enumerate(tiny.layers())}
    return LatencyTable({"name": "d"}, tiny, entries, Calibration(margin=0.05), 1.0)


ARCHS = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]


def test_figures_by_hand(promised: LatencyTable) -> None:
    ms = promised.predict_many(ARCHS)
    assert sorted(ms) == list(ms)
    first = ms / np.array([1.0, 1.03, 0.94, 1.25])
    second = first * np.array([1.0, 1.01, 0.99, 1.02])
    found = compare(promised, ARCHS, first, second, seconds=3.0)
    assert found.mape == pytest.approx((0 + 0.03 + 0.06 + 0.25) / 4)
    assert (found.within_5, found.within_10, found.interval_coverage) == (0.5, 0.75, 0.5)
    assert found.floor_mape == pytest.approx((0 + 0.01 + 0.01 + 0.02) / 4)
    assert (found.nets, found.seconds, found.fit_for_use) == (4, 3, False)
    checked = found.measurements[3]
    assert (checked.arch, checked.predicted_ms) == (ARCHS[3], ms[3])
    assert (checked.low_ms, checked.high_ms) == pytest.approx((ms[3] / 1.05**0.73445, 1.05 * ms[3]))
    assert found.kept == 0.75  # the third took 6 % longer
    assert (checked.measured_ms, checked.again_ms) == (first[3], second[3])


def test_a_swapped_pair_of_four_networks_costs_a_third_of_tau(promised: LatencyTable) -> None:
    ms = promised.predict_many(ARCHS)
    found = compare(promised, ARCHS, ms, ms[[1, 0, 2, 3]], seconds=0.0)
    assert (found.kendall_tau, found.floor_tau) == pytest.approx((1, 4 / 6))
    assert found.fit_for_use
    swapped = compare(promised, ARCHS, ms[[1, 0, 2, 3]], ms[[1, 0, 2, 3]], seconds=0.0)
    assert swapped.kendall_tau == pytest.approx(4 / 6)
    assert not swapped.fit_for_use


def test_a_table_whose_promises_are_broken_is_not_fit_however_close_it_is(promised: LatencyTable) -> None:
    ms = promised.predict_many(ARCHS)
    slower, faster = (compare(promised, ARCHS, ms * factor, None, seconds=0.0) for factor in (1.08, 0.93))
    assert (slower.within_10, slower.kendall_tau, slower.kept, slower.fit_for_use) == (1, 1, 0, False)
    assert (faster.within_10, faster.kept, faster.fit_for_use) == (1, 1, True)


@pytest.mark.usefixtures("exported_once")
def test_intervals_hold_from_one_run_to_the_next(tiny: ChainSpace, simulated: Simulated) -> None:
    """As often as promised, for layers that don't add up exactly on a device that drifts; p95 not less often."""
    archs = sorted({tiny.canonical(tiny.sample(random.Random(i))) for i in range(30)})
    held, felt = [], []
    for seed in range(20):
        life = {"nature": str(seed), "rng": random.Random(seed)}
        device = simulated(hidden=0.01, noise=0.005, drift=0.007, tails=0.02, **life)
        table = profile(tiny, device).table
        seen = measure_networks(table, device, archs)
        for name, into in (("", held), ("p95", felt)):
            told = (table.statistic(name) if name else table).estimate_many(archs)
            p95 = [seen.table_ms(network_name(arch), seen.timing(arch).p95) for arch in archs]
            ms = np.array(p95 if name else [seen.network_ms(arch) for arch in archs])
            into.append(((told.low <= ms) & (ms <= told.high)).mean())
    assert 0.85 <= np.mean(held) <= 0.97
    assert 0.85 <= np.mean(felt) <= 0.98


@pytest.mark.parametrize(
    ("ratios", "margin"), [([1.2, 1.2, 1.2], 0.0), ([1.0, 1.1, 1.2], 4.303 * 0.1 / 1.1 * 2 / 3**0.5)]
)
def test_what_a_few_networks_tell_of_another_statistic(ratios: list[float], margin: float) -> None:
    """By the 95 % point of Student's t with two degrees of freedom."""
    found = felt_as(Calibration(margin=0.01), ratios)
    assert (found.scale, found.margin) == pytest.approx((statistics.median(ratios), 0.01 + margin), rel=1e-3)
    assert felt_as(Calibration(), ratios[:1]).margin > 0.1


@pytest.mark.parametrize("kernels", ["3-5", "3-5-7"])
def test_of_a_space_of_few_networks_some_are_left_for_a_validation(kernels: str, simulated: Simulated) -> None:
    space = load_space(
        f"mobilenet:size=8,channels=1,classes=2,stem=4,widths=4,depths=1,kernels={kernels},expansions=1-2"
    )
    table = profile(space, simulated()).table
    assert validate(table, simulated(), nets=3, pause_s=0).nets + len(table.calibration.networks) == space.size()


def test_layers_that_print_alike_are_refused(simulated: Simulated) -> None:
    class Twins(ChoiceSpace):
        def graph(self, arch: Arch) -> tuple[Node, ...]:
            return (Node(Layer("conv", 1, 4, 8, 1, (("kernel", "3" if arch[0] else 3),)), (-1,)),)

        def build(self, layer: Layer) -> nn.Module:
            return nn.Conv2d(1, 4, 3, padding=1)

    with pytest.raises(InputError, match="print alike"):
        profile(Twins([2]), simulated())


# ---- noise, other statistics, samples


def test_no_table_is_written_from_noise(tiny: ChainSpace, simulated: Simulated) -> None:
    with pytest.raises(FaultError, match=r"simulated was too noisy for a table: timings are known to \+-8.0% only"):
        profile(tiny, simulated(half_width=0.08))


def test_p95_and_load_are_tables_of_their_own(tiny: ChainSpace, simulated: Simulated) -> None:
    table = profile(tiny, simulated(tail=1.3, hot=1.8), sustained_s=60).table
    archs = [(0, 0, 0), (3, 2, 1)]
    p95, sustained = table.statistic("p95"), table.statistic("sustained")
    assert (p95.name, sustained.name) == ("simulated.p95", "simulated.sustained")
    assert p95.predict_many(archs) == pytest.approx(1.3 * table.predict_many(archs), rel=1e-3)
    assert sustained.predict_many(archs) == pytest.approx(1.8 * table.predict_many(archs), rel=1e-3)
    with pytest.raises(InputError, match=r"has no sustained \(known: p95\).*--sustained SECONDS"):
        profile(tiny, simulated()).table.statistic("sustained")


def test_a_saved_table_knows_all_again(tiny: ChainSpace, simulated: Simulated, tmp_path: Path) -> None:
    table = replace(profile(tiny, simulated(), sustained_s=60).table, validation={"fit_for_use": True})
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert (again.felt, again.sustained_s, again.validation) == (table.felt, 60, {"fit_for_use": True})


def test_samples_are_read_back_as_they_were(tmp_path: Path) -> None:
    told = Sample("a b, c", 1, 0.5, (1.0, 2.123456), (0.5,), (1.5, 2.5), mhz=1800.0, celsius=45.5, build=2)
    silent = [Sample("7", i, 0.25 * i, (1.0,), (0.5,), (1.5,)) for i in range(3)]
    save_samples(tmp_path / "told.csv.gz", [told])
    save_samples(tmp_path / "silent.csv.gz", silent)
    assert load_samples(tmp_path / "told.csv.gz") == (told,)
    assert load_samples(tmp_path / "silent.csv.gz") == tuple(silent)
    (tmp_path / "foreign.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"foreign.csv.gz is not readable as samples"):
        load_samples(tmp_path / "foreign.csv.gz")


@pytest.mark.parametrize(("nets", "kept"), [(3, 1), (20, 15), (200, 185)])
def test_a_promise_holds_unless_chance_does_not_explain_what_breaks_it(nets: int, kept: int) -> None:
    """Against the binomial distribution, summed by hand."""
    below = sum(math.comb(nets, k) * 0.975**k * 0.025 ** (nets - k) for k in range(kept))
    assert below < 1e-4
    assert promise_holds(kept, nets)
    assert not promise_holds(kept - 1, nets)
