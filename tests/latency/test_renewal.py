"""A table under which the runtime was updated: it holds, is rescaled, or is refused."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwnas import workflows
from hwnas.devices import Job
from hwnas.errors import FaultError, InputError, MismatchError
from hwnas.latency import LatencyTable, profile
from hwnas.latency.anchors import measure_networks
from hwnas.latency.renewal import check_device, renew
from hwnas.supernet import ChainSpace

Simulated = Callable[..., Any]


@pytest.fixture(scope="module")
def table(tiny: ChainSpace, simulated: Simulated) -> LatencyTable:
    return replace(profile(tiny, simulated(), sustained_s=1).table, validation={"fit_for_use": True})


def test_the_same_device_needs_no_check(table: LatencyTable, simulated: Simulated) -> None:
    assert renew(table, simulated()) == (table, 1.0)
    check_device(table.device, simulated())


def test_an_update_that_changes_nothing_keeps_the_table(table: LatencyTable, simulated: Simulated) -> None:
    renewed, factor = renew(table, simulated(runtime="newer", noise=0.002))
    assert factor == 1
    assert renewed.device["runtime"] == "newer"
    assert renewed.entries == table.entries
    assert renewed.validation == table.validation


def test_an_update_that_makes_all_faster_alike_rescales_the_table(
    table: LatencyTable, tiny: ChainSpace, simulated: Simulated
) -> None:
    """Layers take 0.7 times as long and the reference 0.8: the ratio to the nominal time is what counts."""
    faster = simulated(runtime="newer", call_ms=0.035, node_ms=0.014, weight_ms=0.7e-3, reference_ms=0.4)
    renewed, factor = renew(table, faster)
    fresh = profile(tiny, faster, sustained_s=1).table
    archs = [tiny.sample(random.Random(i)) for i in range(20)]
    assert factor == pytest.approx(0.7 / 0.8)
    assert renewed.reference_ms == table.reference_ms == 0.5
    assert renewed.predict_many(archs) / 0.5 == pytest.approx(fresh.predict_many(archs) / 0.4, rel=1e-6)
    for statistic in ("p95", "sustained"):
        theirs = fresh.statistic(statistic).predict_many(archs) / 0.4
        assert renewed.statistic(statistic).predict_many(archs) / 0.5 == pytest.approx(theirs, rel=1e-6)
    calibrated = [network.arch for network in table.calibration.networks]
    assert [network.arch for network in renewed.calibration.networks] == calibrated
    assert renewed.calibration.margin >= table.calibration.margin
    assert renewed.validation is None


def test_a_small_change_of_all_layers_is_none_that_a_limit_forgives(table: LatencyTable, simulated: Simulated) -> None:
    slower = simulated(runtime="newer", call_ms=0.0513, node_ms=0.02052, weight_ms=1.026e-3)
    renewed, factor = renew(table, slower)
    assert factor == pytest.approx(1.026)
    assert renewed.validation is None


def whole_networks_slower(simulated: Simulated, factor: float) -> Any:
    """A newer runtime that takes layers as long as before, and networks longer."""

    class Between(simulated):  # type: ignore[misc, valid-type]
        def time_ms(self, job: Job) -> float:
            return float(super().time_ms(job) * (factor if job.name.startswith("network") else 1))

    return Between(runtime="newer")


def test_networks_that_changed_more_than_layers_widen_the_table(table: LatencyTable, simulated: Simulated) -> None:
    device = whole_networks_slower(simulated, 1.05)
    renewed, factor = renew(table, device)
    assert factor == pytest.approx(1.05)
    archs = [table.space.sample(random.Random(i)) for i in range(20)]
    seen, told = measure_networks(renewed, device, archs), renewed.estimate_many(archs)
    assert seen.change.factor(1) == pytest.approx(1, abs=1e-3)  # that is no change since it was renewed
    ms = [seen.network_ms(arch) for arch in archs]
    assert ms == pytest.approx(1.05 * table.predict_many(archs), rel=0.01)
    assert (ms <= told.high).all()


def test_networks_that_no_longer_fit_their_layers_refuse_the_table(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match=r"layers and networks now take 1\.00 to 1\.25 times as long"):
        renew(table, whole_networks_slower(simulated, 1.25))


def test_what_a_device_no_longer_tells_makes_it_another(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match=r"on another device \(board lahaina -> None\)"):
        renew(replace(table, device={**table.device, "board": "lahaina"}), simulated())


def test_an_update_that_changes_layers_differently_refuses_the_table(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match=r"no longer holds \(runtime none -> newer\).*times as long: run"):
        renew(table, simulated(runtime="newer", node_ms=0.05))


def test_a_table_told_by_others_is_not_checked_by_layers(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match="told by pixel8, not measured: run hwnas profile --from again"):
        renew(replace(table, told_by=("pixel8",)), simulated(runtime="newer"))


def test_a_noisy_moment_changes_no_table(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(FaultError, match="too noisy"):
        renew(table, simulated(runtime="newer", half_width=0.5))


def test_another_device_is_never_checked(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match=r"measured on another device \(name simulated -> other\)"):
        renew(table, simulated(name="other"))


def test_an_older_table_is_not_used_unseen(table: LatencyTable, simulated: Simulated) -> None:
    with pytest.raises(MismatchError, match="run hwnas validate, which checks and renews it"):
        check_device(table.device, simulated(runtime="newer"))


def test_a_newer_cuda_is_an_update(table: LatencyTable, simulated: Simulated) -> None:
    """It comes with torch: "cuda 12.4 -> 12.8" was another device."""

    class Gpu(simulated):  # type: ignore[misc, valid-type]
        def fingerprint(self) -> dict[str, str]:
            return {**super().fingerprint(), "cuda": "12.8"}

    renewed, factor = renew(replace(table, device={**table.device, "cuda": "12.4"}), Gpu())
    assert (factor, renewed.device["cuda"]) == (1, "12.8")


SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4,depths=1,kernels=3-5,expansions=2-3,head=16"
LOCAL = "local:tolerance=9,target=1e-9,min_rounds=5,max_rounds=5"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    return workflows.profile(SPACE, LOCAL, tmp_path_factory.mktemp("made") / "local.json", networks=3)


@pytest.fixture
def older(made: LatencyTable, tmp_path: Path) -> Path:
    """A table of an older runtime on this machine."""
    out = tmp_path / "local.json"
    replace(made, device={**made.device, "runtime": "onnxruntime 1.0"}).save(out)
    return out


def stop_in_round_3(done: float, total: float, words: str) -> None:
    if "round 3" in words:
        raise KeyboardInterrupt


def samples_in(folder: Path) -> list[str]:
    lines = [line for file in sorted(folder.rglob("samples.jsonl")) for line in file.read_text().splitlines()]
    return [line for line in lines if "runs_ms" in line]


def test_an_interrupted_spot_check_repeats_no_sample(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.latency.renewal.EVEN", 99.0)  # of times as short as these
    folder, kept = older.with_name("local.json.samples"), dict[str, list[str]]()
    with pytest.raises(KeyboardInterrupt):
        workflows.validate(SPACE, older, LOCAL, progress=stop_in_round_3)
    before = samples_in(folder / "renewal")
    assert len(before) >= 2 * 5
    with pytest.raises(InputError, match=r"renewal holds an unfinished validation: add --resume"):
        workflows.validate(SPACE, older, LOCAL)
    remove = shutil.rmtree

    def look(path: Path, **options: Any) -> None:
        kept[path.name] = samples_in(path)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    workflows.validate(SPACE, older, LOCAL, nets=2, pause_s=0.0, resume=True)
    assert kept["renewal"][: len(before)] == before
    assert set(Counter(json.loads(line)["model"] for line in kept["renewal"]).values()) == {5}
    assert not folder.exists()
    assert LatencyTable.load(older).device["runtime"] != "onnxruntime 1.0"


def test_a_table_that_no_longer_holds_leaves_no_samples(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they tell is told: nobody has to resume anything."""
    monkeypatch.setattr("hwnas.latency.renewal.EVEN", -1.0)
    monkeypatch.setattr("hwnas.latency.renewal.ALL_HOLD", -1.0)
    for _ in range(2):
        with pytest.raises(MismatchError, match="no longer holds"):
            workflows.validate(SPACE, older, LOCAL)
    assert not older.with_name("local.json.samples").exists()
