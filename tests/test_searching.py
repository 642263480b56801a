"""Searches of a run: answered from fronts, closed on the device, by real training."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hwnas import workflows
from hwnas.errors import DivergedError, FaultError, InfeasibleError, InputError
from hwnas.latency import LatencyTable, analytic_cost, profile
from hwnas.latency.anchors import Change
from hwnas.search import search as run_search
from hwnas.search.found import Found
from hwnas.supernet import Ranks, TrainSettings, load_data, load_run, load_supernet
from hwnas.supernet.space import Arch
from hwnas.workflows import evaluating, searching, verifying
from hwnas.workflows.evaluating import Evaluator

SPACE = "mobilenet:size=16,channels=1,classes=10,stem=4,widths=4-8,depths=1-2,kernels=3-5,expansions=2-3,head=16"
LOCAL = "local:tolerance=9,target=1e-9,min_rounds=6,max_rounds=6"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a table of this machine."""
    folder = tmp_path_factory.mktemp("searching")
    workflows.train(SPACE, "digits", folder / "run", TrainSettings(epochs=6, batch=64))
    workflows.profile(SPACE, LOCAL, folder / "local.json")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of that run, without evaluations."""
    return Path(shutil.copytree(made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("*.sqlite*")))


def middle(run: Path) -> str:
    """A limit on multiply-accumulates in the middle of their range."""
    cost = analytic_cost(load_supernet(run).space, "flops")
    return f"flops={sum(cost.bounds()) / 2:.0f}"


def search(run: Path, **options: Any) -> tuple[workflows.Searched, str]:
    said: list[str] = []
    searched = workflows.search(run, run.parent / "found.json", note=said.append, **options)
    assert Found.load(run.parent / "found.json").arch == searched.found.arch
    return searched, "\n".join(said)


def test_a_later_limit_is_answered_from_the_front(run: Path) -> None:
    front, _ = search(run, pareto="flops", budget=30)
    assert front.found.strategy == "nsga2"
    assert len(front.found.front) > 1
    later, said = search(run, limits=[middle(run)], budget=30)
    assert "answered from" in said
    assert (later.found.reused, later.result.ended) == (later.found.evaluations, "front")
    limit = later.found.limits["flops"]
    known = [e for e in front.result.history if e.costs["flops"] <= limit]
    assert later.found.accuracy == max(e.accuracy for e in known)
    assert later.found.costs["flops"] <= limit


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 31},
        {"budget": 30, "limits": ["params=5K"]},
        {"budget": 30, "metric": "macro-f1"},
        {"budget": "converged"},
        {"budget": 30, "evaluate": "train:1"},
    ],
    ids=str,
)
def test_what_the_front_does_not_cover_is_searched(run: Path, options: dict[str, Any]) -> None:
    search(run, pareto="flops", budget=30)
    options = {**options, "limits": [middle(run), *options.get("limits", [])]}
    if options.get("evaluate"):
        options["budget"] = 1
    searched, said = search(run, **options)
    assert "answered from" not in said
    assert searched.result.ended != "front"


def test_a_front_within_a_limit_covers_the_same_limit_only(run: Path) -> None:
    search(run, pareto="flops", limits=["params=3K"], budget=20)
    assert "answered from" in search(run, limits=["params=3K", middle(run)], budget=20)[1]
    assert "answered from" not in search(run, limits=["params=4K", middle(run)], budget=20)[1]


def test_nsga2_gives_a_front_of_several_costs(run: Path) -> None:
    searched, _ = search(run, pareto="flops,memory", limits=["params=4K"], budget=30)
    assert all(e.costs["params"] <= 4000 for e in searched.result.history)
    points = [(p["costs"]["flops"], p["costs"]["memory"], -p["accuracy"]) for p in searched.found.front]
    worse = [a for a in points for b in points if a != b and all(x >= y for x, y in zip(a, b, strict=True))]
    assert points
    assert worse == []
    assert {e.arch for e in searched.result.pareto("flops")} <= {p["arch"] for p in searched.found.front}


def test_real_training_instead_of_the_supernet(run: Path) -> None:
    searched, _ = search(run, strategy="random", budget=3, evaluate="train:2")
    assert len(list((run / "alone").iterdir())) == 3
    found = searched.found
    holder = load_run(Path(found.run))
    assert (holder.arch, holder.train["epochs"]) == (found.arch, 2)
    again, _ = search(run, strategy="random", budget=3, evaluate="train:2")
    assert (again.found.reused, again.found.arch) == (3, found.arch)
    exported = workflows.export(run.parent / "found.json", run.parent / "net.onnx")
    assert exported.max_abs_diff < 1e-4
    network = load_supernet(found.run)
    images = load_data("digits", network.space).val.images[:4].float()
    assert torch.isfinite(network(images, found.arch)).all()


def test_a_candidate_that_diverges_is_passed_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = search(run, strategy="random", budget=3, evaluate="train:1")
    (run / "evaluations.sqlite").unlink()
    trained = evaluating.train_alone

    def diverging(*asked: Any) -> Any:
        if asked[3] == whole.found.arch:
            raise DivergedError("the loss is nan")
        return trained(*asked)

    monkeypatch.setattr(evaluating, "train_alone", diverging)
    searched, said = search(run, strategy="random", budget=3, evaluate="train:1")
    assert "1 of 3 candidates have no finite value of the metric, and were passed over" in said
    first = {evaluation.arch: evaluation.accuracy for evaluation in whole.result.history}
    assert searched.found.accuracy == sorted(first.values())[-2]
    again, _ = search(run, strategy="random", budget=3, evaluate="train:1")
    assert again.found.reused == 3


@pytest.mark.parametrize("wrong", ["train", "train:0", "train:x", "supernets"])
def test_what_is_no_way_of_evaluating_is_named(run: Path, wrong: str) -> None:
    with pytest.raises(InputError, match=f"--evaluate {wrong} is neither"):
        search(run, evaluate=wrong)


def test_hopeless_candidates_are_given_up_and_the_winner_is_the_same(run: Path) -> None:
    """The same draws as a search that sees all candidates to the end; a front gives up none."""
    options = {"strategy": "random", "budget": 40}
    raced, said = search(run, **options)
    given_up = sum(evaluation.estimated for evaluation in raced.result.history)
    assert given_up > 0
    assert f"{given_up} of 40 candidates were given up early" in said
    front, words = search(run, pareto="flops", **options)
    assert not any(evaluation.estimated for evaluation in front.result.history)
    assert "given up" not in words
    assert front.found.reused == 40 - given_up
    assert front.found.accuracy == raced.found.accuracy
    again, _ = search(run, **options)
    assert again.result.history == raced.result.history
    assert again.found.reused == 40


def test_a_metric_that_counts_no_images_is_evaluated_in_full(run: Path) -> None:
    searched, said = search(run, strategy="random", budget=20, metric="macro-f1")
    assert not any(evaluation.estimated for evaluation in searched.result.history)
    assert "given up" not in said


def test_the_predictor_says_how_well_it_ranks(run: Path) -> None:
    assert "Kendall tau" in search(run, strategy="predictor", budget=25)[1]


class Given:
    """Accuracies one after the other, whatever is asked for."""

    key, new = "given", frozenset[Arch]()

    def __init__(self, values: Iterator[float]) -> None:
        self.values = values

    def __call__(self, batch: Sequence[Arch]) -> Iterator[float]:
        return (next(self.values) for _ in batch)


@contextmanager
def patched(thing: object, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thing, name, value)
        yield


class Slower:
    """Stands in for measuring: networks take so many times what the table says, at first more than later."""

    def __init__(self, factors: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.factors, self.asked, self.change = factors, list[Sequence[Arch]](), Change()
        monkeypatch.setattr(verifying, "measure_networks", self)

    def __call__(self, table: LatencyTable, device: object, archs: Sequence[Arch], *_: object) -> Slower:
        self.asked.append(list(archs))
        self.factor, self.table = self.factors.get(len(self.asked), self.factors[max(self.factors)]), table
        return self

    def timing(self, arch: Arch) -> SimpleNamespace:
        return SimpleNamespace(ratio=1.0, p95=1.5)

    def network_ms(self, arch: Arch) -> float:
        return self.factor * self.table.network_ms(arch)


@pytest.fixture
def there(simulated: type, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the table of a device whose networks differ by more than those of this machine."""

    class Timed(simulated):  # type: ignore[misc]
        def fingerprint(self) -> dict[str, str]:
            return {**super().fingerprint(), "label": "measured"}

    device = Timed(name="local", weight_ms=1e-2)
    profile(load_supernet(run).space, device).table.save(run.parent / "local.json")
    monkeypatch.setattr(searching, "load_device", lambda _: device)
    return run.parent


def limit_of(made: Path, share: float) -> str:
    low, high = LatencyTable.load(made / "local.json").upper_sum.bounds()
    return f"local={low + share * (high - low):.6f}ms"


def verified(made: Path, run: Path, share: float, **options: Any) -> tuple[workflows.Searched, str]:
    asked = {"strategy": "random", "budget": 20, "device": LOCAL, "verify": 4, **options}
    return search(run, tables=[made / "local.json"], limits=[limit_of(made, share)], **asked)


def test_the_best_that_measures_within_wins(there: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = Slower({1: 1.0}, monkeypatch)
    searched, said = verified(there, run, 0.5)
    assert "4 of the best measured on local: 4 within" in said
    assert [len(asked) for asked in measuring.asked] == [4]
    ranked = sorted(searched.result.history, key=lambda e: -e.accuracy)
    assert not any(evaluation.estimated for evaluation in ranked[:4])
    assert searched.found.arch == ranked[0].arch
    assert searched.found.measured["local"] <= searched.found.limits["local"]
    before, after = (LatencyTable.load(there / name) for name in ("local.json", "found.local.json"))
    known = {network.arch for network in before.calibration.networks} | set(measuring.asked[0])
    assert {network.arch for network in after.calibration.networks} == known


def test_if_none_measures_within_it_says_so_and_goes_on(
    there: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks take longer than the table says: it learns that, and the next best are really faster."""
    measuring = Slower({1: 1.4}, monkeypatch)
    searched, said = verified(there, run, 0.5, budget=40, verify=2)
    assert "0 within" in said
    assert searched.found.measured["local"] <= searched.found.limits["local"]
    archs = [arch for asked in measuring.asked for arch in asked]
    assert len(set(archs)) == len(archs) > 2


def test_where_nothing_measures_within_the_nearest_is_named(
    there: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slower({1: 50.0}, monkeypatch)
    finished: list[object] = []
    monkeypatch.setattr(verifying.Verification, "finish", lambda self: finished.append(self))
    with pytest.raises(InfeasibleError, match=r"best networks, measured on local, .* of local="):
        verified(there, run, 0.5)
    assert len(finished) == 1  # nothing is left that a later search would stumble over


def test_verified_on_this_machine(made: Path, run: Path) -> None:
    """The real thing: measured here, and the result can be exported and measured once more."""
    searched, said = verified(made, run, 1.5, verify=2)
    assert "2 of the best measured on local" in said
    assert set(searched.found.measured) == {"local", "local.p95"}
    assert json.loads((run.parent / "found.json").read_text())["measured"]["local"] > 0
    assert workflows.export(run.parent / "found.json", run.parent / "net.onnx", LOCAL).latency["local"].measured_ms > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": LOCAL}, "--device and --verify go together"),
        ({"verify": 3}, "--device and --verify go together"),
        ({"device": LOCAL, "verify": 3}, "has no table here"),
    ],
    ids=["no verify", "no device", "no table"],
)
def test_what_verification_needs_is_named(run: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(run, **options)


def test_verification_needs_a_limit_there(made: Path, run: Path) -> None:
    with pytest.raises(InputError, match="--verify needs a limit on local"):
        search(run, tables=[made / "local.json"], device=LOCAL, verify=2)


def test_without_pymoo_evolution_looks_for_the_front(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "find_spec", lambda _: None)
    searched, said = search(run, pareto="flops", budget=10)
    assert searched.found.strategy == "evolution"
    assert "pip install 'hwnas[search]'" in said


def test_a_table_that_is_searched_with_is_not_replaced(there: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Slower({1: 1.0}, monkeypatch)
    (there / "local.json").rename(there / "found.local.json")
    before = (there / "found.local.json").read_bytes()
    limits = {"limits": ["local=1000ms"], "device": LOCAL, "verify": 2, "strategy": "random", "budget": 5}
    with pytest.raises(InputError, match=r"would replace .*found\.local\.json, which is searched with: give --out an"):
        search(run, tables=[there / "found.local.json"], **limits)
    assert (there / "found.local.json").read_bytes() == before


def test_an_interrupted_verification_goes_on_with_what_was_measured(made: Path, run: Path) -> None:
    """Killed in the middle of measuring: every sample of before is among those that the resumed search used."""
    asked: dict[str, Any] = {"verify": 2, "budget": 20}
    samples = run.parent / "found.local.json.samples"

    def interrupt(done: float, total: float, words: str) -> None:
        if "round 3" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verified(made, run, 1.5, progress=interrupt, **asked)
    (kept,) = samples.rglob("samples.jsonl")
    before = kept.read_bytes()
    assert before.count(b"runs_ms") >= 10
    with pytest.raises(InputError, match=r"found\.local\.json\.samples holds an unfinished search: add --resume"):
        verified(made, run, 1.5, **asked)
    whole = list[bytes]()
    with patched(shutil, "rmtree", lambda *_, **__: whole.append(kept.read_bytes())):
        verified(made, run, 1.5, resume=True, **asked)
    assert whole[-1].startswith(before[: before.rfind(b"\n") + 1])
    shutil.rmtree(samples)


def test_a_verification_that_torchrun_has_started_anew_goes_on(
    there: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It meets the samples of the attempt in which a process died, and needs no --resume."""
    Slower({1: 1.0}, monkeypatch)
    samples, board = run.parent / "found.local.json.samples", torch.distributed.HashStore()
    samples.mkdir()
    with pytest.raises(InputError, match="unfinished search"):
        verified(there, run, 0.5, ranks=Ranks(board=board))
    samples.rmdir()
    verified(there, run, 0.5, ranks=Ranks(board=board))
    samples.mkdir()
    verified(there, run, 0.5, ranks=Ranks(board=board))
    assert not samples.exists()


def test_the_front_that_was_asked_for_is_the_one_that_is_looked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[tuple[str, ...] | None] = []
    monkeypatch.setattr(searching, "run_search", lambda problem, strategy, *rest: (
        looked_for.append(strategy.objectives), run_search(problem, strategy, *rest))[1])  # fmt: skip
    search(run, pareto="flops", limits=["params=1M"], budget=10)
    assert looked_for == [("flops",)]


def test_a_first_candidate_without_a_metric_is_no_reason_to_lose_the_rest(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([math.nan, 0.5, 0.25, math.nan, 0.75])
    monkeypatch.setattr(Evaluator, "stored", lambda *_: Given(values))
    found, _ = search(run, strategy="random", budget=5)
    assert found.found.accuracy == 0.75
    assert all(accuracy == accuracy for _, accuracy in found.found.progress)
    monkeypatch.setattr(Evaluator, "stored", lambda *_: Given(iter([math.nan] * 3)))
    with pytest.raises(FaultError, match="none of 3 networks has a finite accuracy"):
        search(run, strategy="random", budget=3)


def test_a_device_that_has_changed_calibrates_as_it_is_now(
    there: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All networks take a fifth longer: those that calibrated the table do, too, and it is said."""
    measuring = Slower({1: 1.2}, monkeypatch)
    measuring.change = Change(level=math.log(1.2))
    searched, said = verified(there, run, 1.5, verify=2)
    assert "networks on local take 20% more than profiled" in said
    before, after = (LatencyTable.load(there / name) for name in ("local.json", "found.local.json"))
    assert after.network_ms(searched.found.arch) == pytest.approx(
        1.2 * before.network_ms(searched.found.arch), rel=0.01
    )
    known = {network.arch: network.measured_ms for network in before.calibration.networks}
    again = [(network.measured_ms, known[n]) for network in after.calibration.networks if (n := network.arch) in known]
    assert all(now == pytest.approx(1.2 * then, rel=0.01) for now, then in again)
