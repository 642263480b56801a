"""The measuring program: its statistics on simulated times, its files, its order."""

from __future__ import annotations

import ast
import gc
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.devices import timer
from hwnas.devices.series import Plan, Series, calm_level, median_interval, nominal_ms
from hwnas.devices.timer import (
    CRASHED,
    Log,
    Run,
    blame,
    clocks,
    is_sample,
    load,
    measure,
    read_samples,
    take_sample,
)

PLAN = Plan("reference.onnx", [])


def sample(runs_ms: list[float], reference_runs_ms: list[float], seconds: float = 0.0) -> dict[str, Any]:
    return {"seconds": seconds, "runs_ms": runs_ms, "wall_ms": runs_ms, "reference_runs_ms": reference_runs_ms}


@pytest.mark.parametrize("count", [5, 15, 16, 100])
def test_the_interval_holds_the_true_median_in_at_least_90_percent(count: int) -> None:
    rng = np.random.default_rng(count)
    trials = rng.lognormal(0, 0.1, (4000, count))  # skewed, median 1
    intervals = [median_interval(list(trial)) for trial in trials]
    coverage = np.mean([low <= 1 <= high for _, low, high in intervals])
    tails = [sum(math.comb(count, below) for below in range(rank)) / 2**count for rank in range(count // 2)]
    exact = min(1 - 2 * tail for tail in tails if 2 * tail <= 0.1)
    assert exact >= 0.9
    assert coverage == pytest.approx(exact, abs=0.02)


def test_the_interval_of_few_values_is_their_range() -> None:
    assert median_interval([3.0]) == (3, 3, 3)
    assert median_interval([3.0, 1.0, 2.0]) == (2, 1, 3)
    assert median_interval([4.0, 3.0, 1.0, 2.0]) == (2.5, 1, 4)


def test_stopping_when_the_interval_is_narrow_keeps_most_of_its_coverage() -> None:
    """Looking after every round favours lucky intervals; the minimum of rounds bounds what that costs."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        series = Series()
        while not series.finished(PLAN, 0.0, 1.0):
            series.add(sample([rng.lognormal(0, 0.03)], [1.0]))
        _, low, high = median_interval(series.ratios)
        held.append(low <= 1 <= high)
    assert np.mean(held) > 0.8


def test_a_slowdown_of_the_machine_leaves_the_ratio() -> None:
    rng = np.random.default_rng(0)
    runs_ms, reference_ms = rng.uniform(2, 2.1, (40, 5)), rng.uniform(1, 1.05, (40, 6))
    slowdown = np.exp(rng.normal(0, 0.5, (40, 1)))  # another speed in every round
    quiet, drifting = Series(), Series()
    for steady, factor in ((quiet, np.ones((40, 1))), (drifting, slowdown)):
        for job, reference in zip(runs_ms * factor, reference_ms * factor, strict=True):
            steady.add(sample(list(job), list(reference)))
    assert median_interval(drifting.ratios) == pytest.approx(median_interval(quiet.ratios))


def disturbed(rng: np.random.Generator, share: float, rounds: int = 100) -> Series:
    """A model of ratio 2; in a share of the rounds a neighbour slows it more than the reference."""
    series = Series()
    for _ in range(rounds):
        there, luck = rng.random() < share, rng.lognormal(0, 0.01, 2)
        series.add(sample([2.0 * luck[0] * (1.8 if there else 1)], [luck[1] * (1.13 if there else 1)]))
    return series


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8])
def test_a_neighbour_who_slows_memory_does_not_count(share: float) -> None:
    """As seen on a shared host: small networks took 1.8 times as long, the reference 1.13 times, by turns."""
    rng = np.random.default_rng(0)
    many = [disturbed(rng, share) for _ in range(20)]
    calm_ms = calm_level(many)
    figures = [series.timing(1.0, calm_ms)["ratio"] for series in many]
    assert figures == pytest.approx([2.0] * 20, rel=0.02)
    assert nominal_ms(many, calm_ms) == pytest.approx(1.0, rel=0.01)
    assert all(2 <= len(series.counted(calm_ms)) <= len(series.ratios) for series in many)


def test_it_goes_on_until_the_machine_was_calm_for_a_while() -> None:
    """However narrow the interval of what was measured beside a neighbour is."""
    rng, plan = np.random.default_rng(0), Plan("reference.onnx", [], target=0.05)
    calm, never = disturbed(rng, 0.0), disturbed(rng, 1.0)
    calm_ms = calm_level([calm, never])
    assert calm.settled(plan, calm_ms)
    assert never.half_width(calm_ms) < plan.target
    assert not never.settled(plan, calm_ms)
    assert never.finished(plan, plan.max_seconds, calm_ms)  # what there is, where it never is
    assert never.timing(1.0, calm_ms)["ratio"] == pytest.approx(2 * 1.8 / 1.13, rel=0.02)


def test_a_stopwatch_that_stands_still_gives_way_to_the_wall_clock() -> None:
    """The time of a guest's thread, on a host that lets it wait, read 0: float division by zero."""
    taken = take_sample(lambda _: (0.0, 0.2), lambda _: (0.0, 0.5))
    assert (set(taken["runs_ms"]), set(taken["reference_runs_ms"])) == ({0.2}, {0.5})


def test_an_interrupted_run_does_not_count() -> None:
    series = Series()
    series.add(sample([2.0, 50.0, 2.0, 2.0, 9.0], [1.0, 1.0, 70.0]))
    assert series.ratios == [2]


def test_a_series_ends_by_its_interval_or_by_a_cap() -> None:
    noisy, steady = Series(), Series()
    for index in range(PLAN.min_rounds):
        noisy.add(sample([1.0 + index], [1.0], seconds=10.0))
        steady.add(sample([1.0], [1.0], seconds=10.0))
    assert steady.finished(PLAN, 10.0, 1.0)
    assert not noisy.finished(PLAN, 10.0, 1.0)
    assert noisy.finished(PLAN, 70.0, 1.0)
    assert not noisy.settled(PLAN, 1.0)
    assert 0 < noisy.fraction(PLAN, 1.0) < steady.fraction(PLAN, 1.0) == 1


def test_a_line_cut_short_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    line = json.dumps({"model": "a", "round": 3, **sample([2.0], [1.0], seconds=1.5)}) + "\n"
    path.write_text(line + line[:20])
    log = Log(path)
    log.append("a", runs_ms=[4.0], wall_ms=[5.0], reference_runs_ms=[1.0])
    log.close()
    first, second = read_samples(path)
    assert first == json.loads(line)
    assert second["runs_ms"] == [4]
    assert second["seconds"] >= 1.5
    assert log.rounds == 3


def test_each_round_visits_all_models_in_an_order_of_its_own(tmp_path: Path) -> None:
    names = [f"model{index}" for index in range(8)]
    plan = Plan("reference.onnx", names, min_rounds=6, max_rounds=6)
    log = Log(tmp_path / "samples.jsonl")
    assert measure(plan, lambda _: lambda _: (1.0, 2.0), log) == {}
    log.close()
    visits = [line["model"] for line in read_samples(tmp_path / "samples.jsonl") if is_sample(line)]
    rounds = [tuple(visits[start : start + 8]) for start in range(0, len(visits), 8)]
    assert len(set(rounds)) == 6
    assert all(sorted(visited) == names for visited in rounds)


def test_a_model_that_fails_leaves_the_others(tmp_path: Path) -> None:
    plan = Plan("reference.onnx", ["good", "bad"], min_rounds=5, max_rounds=5)

    def open_model(name: str) -> Run:
        if name == "bad":
            raise RuntimeError("no kernel\nfor this")
        return lambda _: (1.0, 2.0)

    log = Log(tmp_path / "samples.jsonl")
    assert measure(plan, open_model, log) == {"bad": "no kernel"}
    log.close()
    assert log.series["good"].ratios == [1.0] * 5


def test_a_model_that_brought_the_program_down_twice_is_left_out(tmp_path: Path) -> None:
    plan = Plan("reference.onnx", ["good", "bad"], min_rounds=5, max_rounds=5)

    class Down(BaseException):
        """The end of the program, as seen from outside."""

    def open_model(name: str) -> Run:
        if name == "bad":
            raise Down
        return lambda _: (1.0, 2.0)

    for crashed in (False, True, True):  # first by Ctrl-C
        log = Log(tmp_path / "samples.jsonl")
        with pytest.raises(Down):
            measure(plan, open_model, log)
        log.close()
        assert not crashed or blame(tmp_path / "samples.jsonl")
    assert not blame(tmp_path / "samples.jsonl")  # twice for one crash
    log = Log(tmp_path / "samples.jsonl")
    assert measure(plan, open_model, log) == {"bad": CRASHED}
    log.close()
    assert log.series["good"].ratios == [1.0] * 5


def test_a_model_that_was_interrupted_once_is_measured_again(tmp_path: Path) -> None:
    line = {"model": "good", "round": 1, "seconds": 0.1, "trying": True}
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    log = Log(tmp_path / "samples.jsonl")
    assert measure(Plan("reference.onnx", ["good"], min_rounds=5, max_rounds=5), lambda _: lambda _: (1, 1), log) == {}
    log.close()
    assert not blame(tmp_path / "samples.jsonl")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """What a system tells of its clocks and sensors."""
    for name, text in (
        ("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000\n"),
        ("devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "2400000\n"),
        ("class/thermal/thermal_zone0/temp", "45500\n"),
        ("class/thermal/thermal_zone1/temp", "none\n"),
    ):
        (tmp_path / "sys" / name).parent.mkdir(parents=True)
        (tmp_path / "sys" / name).write_text(text)
    return tmp_path / "sys"


def test_clocks_and_temperatures_are_read_where_the_system_tells_them(system: Path, tmp_path: Path) -> None:
    assert clocks(tmp_path / "nowhere") == {}
    assert clocks(system) == {"mhz": 2400, "celsius": 45.5}


def test_samples_and_every_second_of_load_carry_them(
    system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone that throttles is seen to: under load it gets warmer from second to second."""
    heat, runs = system / "class/thermal/thermal_zone0/temp", []

    def run(loops: int) -> tuple[float, float]:
        runs.append(loops)
        heat.write_text(f"{50_000 + 1000 * len(runs)}")
        now_s[0] += 0.25
        return 1.0, 250.0

    now_s = [0.0]
    monkeypatch.setattr(timer, "clocks", lambda: clocks(system))
    monkeypatch.setattr(timer.time, "perf_counter", lambda: now_s[0])
    plan = Plan("reference.onnx", ["a"], min_rounds=5, max_rounds=5, sustained={"a": 2.5})
    log = Log(tmp_path / "samples.jsonl")
    assert measure(plan, lambda _: run, log) == {}
    log.close()
    lines = [line for line in read_samples(tmp_path / "samples.jsonl") if is_sample(line)]
    assert all(line["mhz"] == 2400 and line["celsius"] > 50 for line in lines)
    seconds = [line for line in lines if "load_ms" in line]
    assert [line["load_s"] for line in seconds] == [[0, 1], [1, 2], [2, 2.5]]
    assert [line["celsius"] - seconds[0]["celsius"] for line in seconds] == [0, 4, 8]
    assert (log.series["a"].load_ms, log.series["a"].load_s) == ([250] * 3, 2.5)


def test_load_that_was_interrupted_begins_anew() -> None:
    """A machine that has cooled down meanwhile is not under load."""
    series = Series()
    for when_s, ms in (([0.0, 1.0], 1.0), ([1.0, 2.0], 2.0), ([0.0, 1.0], 3.0), ([1.0, 2.0], 4.0), ([2.0, 3.0], 5.0)):
        series.add_load({"load_ms": [ms], "load_s": when_s})
    assert (series.load_ms, series.load_s) == ([3, 4, 5], 3)
    series.add_load({"load_ms": [6.0, 7.0], "load_s": [2.0]})  # as lines were written before
    assert (series.load_ms, series.load_s) == ([6, 7], 2)


def test_a_model_slower_than_a_second_is_under_load_for_as_long_as_asked() -> None:
    """Counting seconds by lines would never reach the end."""

    def run(_: int) -> tuple[float, float]:
        time.sleep(1.2)
        return 1.0, 1200.0

    first_s, last_s = (when_s for _, when_s in load(run, 2.0))
    assert first_s[0] == 0
    assert first_s[1] == last_s[0] >= 1.2
    assert last_s[1] == 2


def test_an_interval_spans_the_medians_of_all_builds() -> None:
    """Made up: three builds of which each repeats its own time to 0.1 %, beside a reference that is always alike."""
    rng, series, one = np.random.default_rng(0), Series(), Series()
    for number in range(60):
        ms = (2.0, 2.1, 2.3)[number % 3] * rng.lognormal(0, 1e-3)
        series.add({**sample([ms], [1.0]), "build": number % 3})
        one.add(sample([ms], [1.0]))
    pooled, spanned = one.timing(1.0, 1.0), series.timing(1.0, 1.0)
    assert spanned["ratio"] == pooled["ratio"] == pytest.approx(2.1, rel=0.01)
    assert [spanned["low"], spanned["high"]] == pytest.approx([2.0, 2.3], rel=1e-3)
    assert [pooled["low"], pooled["high"]] == pytest.approx([2.1, 2.1], rel=5e-3)  # as if each were a build of its own
    assert series.half_width(1.0) == one.half_width(1.0)  # what it is worth going on for


def test_a_program_opens_a_model_for_a_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = []

    def open_model(path: Path, plan: Plan, number: int) -> Run:
        opened.append((path.name, number))
        return lambda _: (1.0, 1.0)

    plan = Plan("reference.onnx", ["a"], min_rounds=5, max_rounds=5)
    (tmp_path / "plan.json").write_text(json.dumps(asdict(plan)))
    timer.main([str(tmp_path)], lambda _: {}, open_model)
    gc.enable()
    capsys.readouterr()
    assert opened == [(name, number) for number in range(1, 6) for name in ("reference.onnx", "a")]


@pytest.mark.parametrize("program", ["timer", "series", "onnx_timer", "tensorrt_timer"])
def test_the_programs_are_written_for_python_3_9(program: str) -> None:
    """Which boards still have: their grammar, and `zip` that is not strict yet."""
    source = (Path(timer.__file__).parent / f"{program}.py").read_text()
    tree = ast.parse(source, feature_version=(3, 9))
    keywords = [word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords]
    assert "strict" not in keywords
    assert "slots" not in keywords
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    assert "from __future__ import annotations" in source


def test_samples_say_which_of_several_engines_ran(tmp_path: Path) -> None:
    def opened(model: str) -> Run:
        def run(loops: int) -> tuple[float, float]:
            return 1.0, 1.0

        if model != "reference.onnx":
            run.build = 2  # type: ignore[attr-defined]
        return run

    plan = Plan("reference.onnx", ["a"], min_rounds=5, max_rounds=5)
    log = Log(tmp_path / "samples.jsonl")
    assert measure(plan, opened, log) == {}
    log.close()
    assert {line.get("build") for line in read_samples(tmp_path / "samples.jsonl") if is_sample(line)} == {2}
