"""The table: sums by hand, files that come back to the last bit, errors that name what is missing."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwnas.errors import FaultError, InputError, MismatchError, MissingLayerError
from hwnas.latency import LatencyTable
from hwnas.latency.calibration import ANCHORED, Calibration, Network, fit, interval, most_telling, run_margin, sizes_of
from hwnas.latency.table import Entry
from hwnas.search import Evaluation
from hwnas.supernet import Arch, ChainSpace, ChoiceSpace, SearchSpace, load_space
from hwnas.supernet.layer import Layer, Node
from hwnas.workflows.pricing import check_sums

CALIBRATION = Calibration(
    scale=0.9,
    offset_ms=0.25,
    margin=0.05,
    overhead_ms=0.01,
    networks=(Network((0, 0, 0), 1.0, 1.2), Network((1, 2, 4), 1.1, 1.3, (6.0, 5000.0, 900.0))),
    size_ms=(0.003, -1e-7, 2e-6),
)


def entries(space: SearchSpace) -> dict[Layer, Entry]:
    rng = np.random.default_rng(0)
    found = {}
    for layer in space.layers():
        ms = rng.random() + 0.02
        found[layer] = Entry(0.0, 0.0, 0.0, 0) if layer.op == "identity" else Entry(ms, ms * 0.99, ms * 1.02, 20)
    return found


@pytest.fixture(scope="module")
def table(tiny: ChainSpace) -> LatencyTable:
    return LatencyTable({"name": "pixel8", "cpu": "x"}, tiny, entries(tiny), CALIBRATION, 0.4)


def archs_of(space: SearchSpace, count: int = 100) -> list[Arch]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(count)]


def by_hand(table: LatencyTable, arch: Arch) -> float:
    """What is measured, less the price of a call, and the terms; a layer that computes nothing takes none."""
    layers = [node.layer for node in table.space.graph(arch) if node.layer.op != "identity"]
    measured = 0.9 * sum(table.entries[layer].ms - 0.01 for layer in layers) + 0.25
    with torch.device("meta"):
        weights = [sum(p.numel() for p in table.space.build(layer).parameters()) for layer in layers]
    read = [int(np.prod(shape)) for layer in layers for shape in layer.input_shapes()]
    written = [layer.out_channels * (layer.out_size**2 or 1) for layer in layers]
    return measured + 0.003 * len(layers) - 1e-7 * sum(read + written) + 2e-6 * sum(weights)


def test_a_prediction_is_the_calibrated_sum(table: LatencyTable) -> None:
    for arch in archs_of(table.space):
        found = table.predict(arch)
        assert found.ms == pytest.approx(by_hand(table, arch), rel=1e-12)
        assert (found.low, found.high) == pytest.approx((found.ms / 1.05**0.73445, 1.05 * found.ms))


def test_an_interval_leaves_out_2_5_percent_above_and_7_5_below() -> None:
    """Of latencies that are log-normal around the prediction, as the margin says."""
    drawn = np.random.default_rng(0).normal(0, 0.1, 100_000)
    low, high = interval(1.0, run_margin(np.sqrt(0.1**2 - ANCHORED**2)))
    assert (np.exp(drawn) > high).mean() == pytest.approx(0.025, abs=0.002)
    assert (np.exp(drawn) < low).mean() == pytest.approx(0.075, abs=0.003)


def test_the_range_is_exact_for_sums_and_drawn_otherwise(table: LatencyTable) -> None:
    every = [by_hand(table, arch) for arch in itertools.product(*(range(n) for n in table.space.options or ()))]
    assert table.range_ms() == pytest.approx((min(every), max(every)))
    assert table.cost is not None
    drawn = LatencyTable(table.device, table.space, table.entries, table.calibration, table.reference_ms)
    vars(drawn)["cost"] = None  # as in a space whose genes don't add up
    low, high = drawn.range_ms()
    assert min(every) <= low < high <= max(every)


def test_a_batch_is_priced_like_each(table: LatencyTable) -> None:
    archs = archs_of(table.space)
    each = [table.predict(arch).ms for arch in archs]
    np.testing.assert_allclose(table.predict_many(np.array(archs)), each, rtol=1e-12)
    estimates = table.estimate_many(archs)
    assert table.upper_sum is not None
    np.testing.assert_allclose(table.upper_sum(archs), estimates.high, rtol=1e-12)


def test_a_layer_cheaper_than_a_call_costs_nothing(table: LatencyTable, tiny: ChainSpace) -> None:
    free = {layer: Entry(0.005, 0.004, 0.006, 20) for layer in tiny.layers()}
    plain = replace(CALIBRATION, size_ms=(0.0, 0.0, 0.0))
    assert replace(table, entries=free, calibration=plain).predict((0, 0, 0)).ms == pytest.approx(0.25)


def test_a_space_of_varying_length_is_priced_one_by_one() -> None:
    class Deep(SearchSpace):
        def choices(self, prefix: Arch = ()) -> int | None:
            return None if prefix and len(prefix) > prefix[0] else 3

        def graph(self, arch: Arch) -> tuple[Node, ...]:
            params = (("act", "relu"), ("kernel", 3))
            return tuple(Node(Layer("conv", 1, 1, 8 + gene, 1, params), (i - 1,)) for i, gene in enumerate(arch))

    space = Deep()
    table = LatencyTable({"name": "d"}, space, entries(space), CALIBRATION, 0.4)
    archs = [(0,), (2, 1, 0), (1, 2)]
    assert table.cost is None
    assert table.upper_sum is None
    np.testing.assert_allclose(table.upper(archs), table.estimate_many(archs).high)
    assert list(table.predict_many(archs)) == pytest.approx([by_hand(table, arch) for arch in archs])


def test_a_missing_layer_is_named_and_never_free(table: LatencyTable, tiny: ChainSpace) -> None:
    gone = next(layer for layer in tiny.layers() if layer.op == "mbconv")
    holed = replace(table, entries={layer: e for layer, e in table.entries.items() if layer != gone})
    with pytest.raises(MissingLayerError) as error:
        holed.predict_many([(0, 0, 0)])
    assert f"pixel8 has no measurement of {gone}; run: hwnas profile --space mobilenet:size=16" in str(error.value)


def test_an_architecture_of_another_space_is_refused(table: LatencyTable) -> None:
    with pytest.raises(InputError, match="gene 2 of architecture"):
        table.predict((0, 0, 9))


# ---- files and frames


def test_a_table_comes_back_to_the_last_bit(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "pixel8.json"
    table.save(path)
    found = LatencyTable.load(path)
    assert found.entries == table.entries
    assert found.calibration == table.calibration
    assert (found.device, found.reference_ms, found.name) == (table.device, 0.4, "pixel8")
    assert found.space.spec == table.space.spec
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_a_frame_comes_back_and_its_edits_count(table: LatencyTable) -> None:
    frame = table.to_frame()
    assert len(frame) == len(table.entries)
    assert {"op", "in_channels", "ms", "low", "high", "rounds"} <= set(frame.columns)
    assert table.with_frame(frame).entries == table.entries
    frame["ms"] *= 2
    assert table.with_frame(frame).network_ms((0, 0, 0)) > 1.8 * table.network_ms((0, 0, 0))


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def write(content: bytes) -> bytes:
        data = json.loads(content)
        change(data)
        return json.dumps(data).encode()

    return write


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda content: content[:-100], InputError, "is not readable as a hwnas table file"),
        (lambda _: b"[1, 2]", InputError, "is not a hwnas table file"),
        (lambda _: b"\xff\xfe", InputError, "is not readable as a hwnas table file"),
        (
            damaged(lambda d: d.update(format="hwnas.run")),
            InputError,
            r"is not a hwnas table file \(its format says 'hwnas\.run'\)",
        ),
        (damaged(lambda d: d.update(version=9)), MismatchError, "has format version 9, this hwnas reads 3"),
        (
            damaged(lambda d: d["space"].update(fingerprint="0123")),
            MismatchError,
            r"was made for another version of the space .* \(0123, now",
        ),
        (damaged(lambda d: d.pop("space")), InputError, "is a damaged table"),
        (damaged(lambda d: d.pop("entries")), InputError, "is a damaged table"),
        (damaged(lambda d: d["entries"][0].pop("ms")), InputError, "is a damaged table"),
        (damaged(lambda d: d["entries"][0].update(ms="fast")), InputError, "is a damaged table"),
        (damaged(lambda d: d["calibration"].update(shoe_size=44)), InputError, "is a damaged table"),
    ],
)
def test_a_file_that_is_no_table_is_named(
    table: LatencyTable,
    tmp_path: Path,
    spoil: Callable[[bytes], bytes],
    error: type[Exception],
    message: str,
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(error, match=rf"table\.json {message}"):
        LatencyTable.load(path)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.json"):
        LatencyTable.load(tmp_path / "none.json")


def test_another_space_is_refused_by_both_names(table: LatencyTable) -> None:
    table.check_space(load_space(table.space.spec))
    with pytest.raises(MismatchError, match=r"of pixel8 was made for mobilenet:size=16.*, not for nas-bench-macro"):
        table.check_space(load_space("nas-bench-macro"))


# ---- calibration

TRUE = Calibration(scale=1.05, offset_ms=0.02, size_ms=(0.01, -2e-6, 3e-7))


def networks(count: int, noise: float = 0.0, true: Calibration = TRUE, seed: int = 0) -> list[Network]:
    """Networks of 4 to 20 layers of several sizes, each measured as `true` says."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        layers = rng.integers(4, 20)
        ms, elements, weights = (
            rng.uniform(0.05, 0.2, layers),
            rng.choice([2e3, 8e3], layers),
            rng.choice([1e3, 5e4], layers),
        )
        alone, sizes = float(ms.sum()), (float(layers), float(elements.sum()), float(weights.sum()))
        terms = true.scale * alone + np.dot(true.size_ms, sizes) + true.offset_ms
        found.append(Network((i,), alone, float(terms * rng.lognormal(0, noise)), sizes))
    return found


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_ten_networks_tell_what_layers_alone_do_not(scale: float) -> None:
    true = replace(TRUE, scale=scale)
    found = fit(networks(10, true=true), overhead_ms=0.03)
    for new in networks(50, true=true, seed=1):
        assert found.fitted_ms(new) == pytest.approx(new.measured_ms, rel=0.01)
    assert found.overhead_ms == 0.03
    assert len(found.networks) == 10
    assert found.margin < 0.02


def test_milliseconds_or_seconds_make_no_difference() -> None:
    known = networks(10, 0.02)
    seconds = [replace(n, sum_ms=n.sum_ms / 1000, measured_ms=n.measured_ms / 1000) for n in known]
    ms, s = fit(known, 0.0), fit(seconds, 0.0)
    assert (s.scale, s.offset_ms * 1000, s.margin) == pytest.approx((ms.scale, ms.offset_ms, ms.margin))
    assert np.array(s.size_ms) * 1000 == pytest.approx(np.array(ms.size_ms))


@pytest.mark.parametrize(("count", "noise"), [(20, 0.01), (20, 0.03), (10, 0.01), (10, 0.03)])
def test_nine_of_ten_new_networks_fall_into_the_interval(count: int, noise: float) -> None:
    held, over = coverage(count, noise)
    assert 0.87 <= held <= 0.96
    assert 0.005 <= over <= 0.04


def test_five_networks_hardly_tell_the_noise() -> None:
    """What is thought of it before counts, and that is 1 %."""
    assert coverage(5, 0.01)[0] >= 0.9
    assert 0.75 <= coverage(5, 0.03)[0] <= 0.9


def coverage(count: int, noise: float) -> tuple[float, float]:
    """The shares of new networks that lie in their interval, and above it."""
    held, over = [], []
    for seed in range(100):
        new = networks(20, noise, seed=1000 + seed)
        found = fit(networks(count, noise, seed=seed), 0.0, new)
        ends = [interval(found.fitted_ms(n), found.margin) for n in new]
        held.append(np.mean([low <= n.measured_ms <= high for n, (low, high) in zip(new, ends, strict=True)]))
        over.append(np.mean([n.measured_ms > high for n, (_, high) in zip(new, ends, strict=True)]))
    return float(np.mean(held)), float(np.mean(over))


def test_fewer_networks_tell_less_and_none_nothing() -> None:
    margins = [np.mean([fit(networks(count, 0.01, seed=s), 0.0).margin for s in range(20)]) for count in (10, 4, 1)]
    assert margins == sorted(margins)
    nothing = fit([], 0.02)
    assert nothing.margin > 0.5
    assert (nothing.scale, nothing.offset_ms, nothing.overhead_ms) == (1, 0, 0.02)


def test_a_term_never_makes_a_layer_take_less_than_nothing() -> None:
    assert Calibration(size_ms=(-1.0, 0.0, 0.0)).layer_ms(0.5, (1.0, 10.0, 10.0)) == 0


def test_networks_with_such_a_layer_take_what_they_were_fitted_to(table: LatencyTable) -> None:
    """Were it left to take nothing, all networks would be predicted to take more than they do."""
    archs, first = archs_of(table.space, 20), table.space.layers()[0]
    term = -2 * table.entries[first].ms / sizes_of(table.space, first)[1]
    fitted = Calibration(size_ms=(0.0, term, 0.0), offset_ms=5.0)
    fitted = replace(fitted, networks=tuple(table.network(arch, 1.0) for arch in archs))
    found = table.calibrated(fitted)
    assert found.calibration.layer_ms(table.entries[first].ms, sizes_of(table.space, first)) == 0
    mean = np.mean([fitted.fitted_ms(network) for network in fitted.networks])
    assert np.mean(found.predict_many(archs)) == pytest.approx(mean)
    assert found.calibration.offset_ms < 5


def test_networks_that_tell_most_narrow_the_interval() -> None:
    """Many layers for little else are rare, and so is what tells the price of a layer."""
    drawn = sorted(networks(200), key=lambda network: network.sum_ms)
    even = [drawn[i] for i in np.linspace(0, 199, 10).round().astype(int)]
    telling = most_telling(drawn, 10)
    assert telling == sorted(set(telling))
    assert {0, 199} <= set(telling)
    margins = [fit(some, 0.0, drawn).margin for some in ([drawn[i] for i in telling], even)]
    assert margins[0] < 0.98 * margins[1]
    assert [len(most_telling(drawn[:2], count)) for count in (0, 1, 5)] == [0, 1, 2]
    assert most_telling(drawn, 2) == [0, 199]
    nothing_counted = [replace(network, sum_ms=0.0) for network in drawn]
    assert len(set(most_telling(nothing_counted, 10))) == 10


class Rare(ChoiceSpace):
    """An extra layer where five genes agree on one value in 1,024: no sum over genes, though it looks like one."""

    def __init__(self) -> None:
        super().__init__([4] * 5)

    def nodes(self) -> tuple[tuple[str, Layer], ...]:
        return tuple({(node.slot, node.layer): None for arch in ((0,) * 5, (3,) * 5) for node in self.graph(arch)})

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        layers = [Layer("conv", 1, 1, 8, 1, (("act", "relu"), ("kernel", 3)))]
        layers += [Layer("conv", 1, 1, 8, 1, (("act", "relu"), ("kernel", 7)))] * (arch == (3,) * 5)
        return tuple(Node(layer, (i - 1,), str(i)) for i, layer in enumerate(layers))


def test_one_architecture_is_priced_by_its_layers_even_where_genes_do_not_add_up() -> None:
    space = Rare()
    entries = {layer: Entry(float(layer["kernel"]), 0, 9, 1) for layer in space.layers()}
    table = LatencyTable({"name": "d"}, space, entries, Calibration(), 1.0)
    assert table.predict((3,) * 5).ms == 10
    with pytest.raises(FaultError, match="it is no sum over genes"):
        check_sums(Evaluation((3,) * 5, 0.5, {"d": 3.0}), space, {"d": table})


@pytest.mark.parametrize("archs", [[(0, 0)], [(0, 0, -1)], [0, 0, 0], [(0, 0, 0, 0)]])
def test_rows_that_are_no_architectures_are_refused(table: LatencyTable, archs: object) -> None:
    with pytest.raises(InputError, match="architectures must be"):
        table.predict_many(archs)  # type: ignore[arg-type]
