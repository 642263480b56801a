"""A machine that changed since its table was made: what its own networks tell of that."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from hwnas.errors import FaultError
from hwnas.latency import profile, validate
from hwnas.latency.anchors import Change, anchors_of, change_between, measure_networks
from hwnas.supernet import ChainSpace

THEN = [1.0, 2.0, 3.0, 4.5, 6.0]


def then(change: Change, now_ms: float) -> float:
    return now_ms / change.factor(now_ms)


def test_without_anchors_nothing_is_known_to_have_change_between() -> None:
    assert change_between([], []) == Change()
    assert Change().factor(3.0) == 1


@pytest.mark.parametrize(
    ("level", "slope"), [(0.0, 0.0), (0.03, 0.0), (-0.03, 0.02), (0.05, -0.03), (0.2, 0.0), (-0.2, 0.02)]
)
def test_a_change_is_told_and_taken_out(level: float, slope: float) -> None:
    now = [ms * math.exp(level + slope * math.log(ms / 3)) for ms in THEN]
    found = change_between(THEN, now)
    between = np.linspace(1, 6, 20)
    told = [then(found, ms * math.exp(level + slope * math.log(ms / 3))) for ms in between]
    assert told == pytest.approx(between, rel=0.005)


def test_noise_of_single_networks_makes_no_slope() -> None:
    """Less than least squares would make of it."""
    rng = np.random.default_rng(0)
    noises = rng.normal(0, 0.05, (200, 5))
    slopes = [change_between(THEN, np.array(THEN) * np.exp(noise)).slope for noise in noises]
    plain = [np.polyfit(np.log(THEN) + noise, noise, 1)[0] for noise in noises]
    assert np.std(slopes) < 0.8 * np.std(plain)


def test_one_anchor_tells_a_level_only() -> None:
    found = change_between([2.0], [2.1])
    assert found.slope == 0
    assert then(found, 2.1) == pytest.approx(2.0, rel=0.001)


@pytest.mark.usefixtures("exported_once")
def test_networks_are_in_the_table_s_ms_though_the_device_has_change_between(tiny: ChainSpace, simulated: type) -> None:
    """Large networks now take 4 % longer, against the reference, and small ones as long as before."""
    table = profile(tiny, simulated()).table
    anchors = anchors_of(table)
    assert [len(anchors), len(anchors_of(table, 3)), len(anchors_of(table, 99))] == [20, 3, 20]
    known = sorted(network.measured_ms for network in table.calibration.networks)
    assert (anchors[0].ms, anchors[-1].ms) == (known[0], known[-1])
    archs = sorted({tiny.canonical(tiny.sample(random.Random(i))) for i in range(30)})
    low, high = table.range_ms()

    class Slower(simulated):  # type: ignore[misc]
        def time_ms(self, job: object) -> float:
            ms = super().time_ms(job)
            return float(ms * 1.04 ** (math.log(ms / low) / math.log(high / low)))

    seen = measure_networks(table, Slower(), archs)
    with_anchors = [seen.network_ms(arch) for arch in archs]
    by_reference = [seen.timing(arch).ratio * table.reference_ms for arch in archs]
    truth = table.predict_many(archs)
    assert np.abs(np.array(by_reference) / truth - 1).max() > 0.02
    assert np.abs(np.array(with_anchors) / truth - 1).max() < 0.006


@pytest.mark.usefixtures("exported_once")
def test_a_change_that_is_no_mood_is_not_taken_out(tiny: ChainSpace, simulated: type) -> None:
    """All networks take 30 % longer now: that is what a limit is held against."""
    table = profile(tiny, simulated()).table

    class Slower(simulated):  # type: ignore[misc]
        def time_ms(self, job: object) -> float:
            return float(1.3 * super().time_ms(job))

    arch = tiny.sample(random.Random(0))
    seen = measure_networks(table, Slower(), [arch])
    assert seen.network_ms(arch) == pytest.approx(1.3 * table.network_ms(arch), rel=0.02)
    checked = validate(table, Slower(), nets=12, pause_s=0)
    assert checked.changed == pytest.approx(0.3, abs=0.02)
    assert not checked.fit_for_use


@pytest.mark.usefixtures("exported_once")
def test_a_machine_too_noisy_to_judge_gives_no_verdict(tiny: ChainSpace, simulated: type) -> None:
    table = profile(tiny, simulated()).table
    with pytest.raises(FaultError, match=r"simulated was too noisy for what is measured: .* then measure again"):
        validate(table, simulated(half_width=0.2), nets=12, pause_s=0)
