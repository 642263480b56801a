"""What defines each strategy, beside the contract that all of them keep."""

from __future__ import annotations

import csv
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hwnas.errors import InputError
from hwnas.search import Problem, search
from hwnas.search.aging import Aging, neighbour
from hwnas.search.bayesian import Bayesian
from hwnas.search.loop import STRATEGIES
from hwnas.search.nsga2 import NSGA2
from hwnas.search.predictor import Predictor
from hwnas.search.progressive import Progressive
from hwnas.search.reinforce import Reinforce
from hwnas.search.surrogate import Surrogate, normal_scores
from hwnas.supernet.additive import AdditiveCost
from hwnas.supernet.space import ChoiceSpace

SPACE = ChoiceSpace([4] * 10)


def landscape(seed: int) -> AdditiveCost:
    """Accuracy as a sum over genes and neighbouring genes."""
    rng = np.random.default_rng(seed)
    pairs = tuple(0.5 * rng.normal(size=(4, 4)) for _ in range(9))
    return AdditiveCost(0.0, tuple(rng.normal(size=4) for _ in range(10)), pairs)


def gain(strategy: str, budget: int, seeds: int = 6) -> float:
    """How much better than random at equal budget, in the mean, in deviations of the accuracy."""
    gains = []
    for seed in range(seeds):
        accuracy = landscape(seed)
        spread = np.std(accuracy(np.random.default_rng(0).integers(4, size=(1000, 10))))
        best = {name: search(Problem(SPACE, accuracy), name, budget, seed).best for name in (strategy, "random")}
        gains.append((best[strategy].accuracy - best["random"].accuracy) / spread)
    return float(np.mean(gains))


@pytest.mark.parametrize(
    ("strategy", "least"),
    [("evolution", 0.3), ("aging", 0.2), ("nsga2", 0.2), ("progressive", 0.5), ("bayesian", 0.2), ("predictor", 0.8)],
)
def test_better_than_random_at_equal_budget(strategy: str, least: float) -> None:
    assert gain(strategy, 80) > least


def test_reinforcement_learns() -> None:
    assert gain("reinforce", 400, seeds=3) > 0.2


def test_grid_covers_every_option_evenly() -> None:
    history = search(Problem(SPACE, lambda batch: np.zeros(len(batch))), "grid", budget=256).history
    counts = np.array([np.bincount([e.arch[i] for e in history], minlength=4) for i in range(10)])
    assert (abs(counts - 64) <= 4).all()  # random draws are off by 7 in the mean


def test_a_neighbour_differs_in_one_gene() -> None:
    rng = random.Random(0)
    for _ in range(100):
        arch = SPACE.sample(rng)
        assert sum(a != b for a, b in zip(arch, neighbour(SPACE, arch, rng), strict=True)) == 1


def test_aging_lets_the_oldest_die() -> None:
    """Not the worst: the best of the first generation is gone after as many children."""
    running = Aging(population=10, sample=3)(Problem(SPACE, landscape(0)), random.Random(0), 100)
    problem = Problem(SPACE, landscape(0))
    first = list(problem.evaluated(problem.priced(running.ask(100))))
    running.tell(first)
    assert [member.arch for member in running.members] == [e.arch for e in first]
    for age in range(1, 11):
        children = running.ask(1)
        parents = {member.arch for member in running.members}
        assert any(sum(a != b for a, b in zip(children[0], p, strict=True)) == 1 for p in parents)
        running.tell(list(problem.evaluated(problem.priced(children))))
        assert not {e.arch for e in first[:age]} & {member.arch for member in running.members}


def front_of(strategy: str, seed: int) -> float:
    """The area under the front of accuracy against cost that a search finds: the larger, the better."""
    accuracy = landscape(seed)
    cost = AdditiveCost(20.0, tuple(table - 0.5 * accuracy.unary[i] for i, table in enumerate(landscape(99).unary)))
    worst = float(-accuracy.affine(-1, 0).bounds()[1]), cost.bounds()[1]
    front = search(Problem(SPACE, accuracy, {"ms": cost}), strategy, 150, seed).pareto("ms")
    costs = [*(e.costs["ms"] for e in front), worst[1]]
    return sum((e.accuracy - worst[0]) * (after - e.costs["ms"]) for e, after in zip(front, costs[1:], strict=True))


def test_nsga2_finds_better_fronts_than_what_looks_at_accuracy_alone() -> None:
    areas = {name: np.mean([front_of(name, seed) for seed in range(5)]) for name in ("nsga2", "random", "evolution")}
    assert areas["nsga2"] > 1.05 * max(areas["random"], areas["evolution"])


def test_a_surrogate_ranks_what_it_has_not_seen() -> None:
    rng, accuracy = np.random.default_rng(0), landscape(1)
    archs = [tuple(row) for row in rng.integers(4, size=(400, 10)).tolist()]
    surrogate = Surrogate().fit(archs[:200], accuracy(archs[:200]))
    expected, deviation = surrogate.predict(archs[200:])
    assert np.corrcoef(expected, accuracy(archs[200:]))[0, 1] > 0.85
    assert deviation.shape == (200,)
    assert (deviation > 0).all()


def test_a_collapsed_network_does_not_bend_the_scores() -> None:
    assert normal_scores(np.array([0.1, 0.9, 0.91, 0.92])).tolist() == pytest.approx(
        [-1.150, -0.319, 0.319, 1.150], abs=1e-3
    )


@pytest.mark.parametrize(
    ("settings", "wrong", "name"),
    [
        (Aging, {"population": 1}, "population"),
        (Aging, {"sample": 0}, "sample"),
        (NSGA2, {"population": 1}, "population"),
        (Reinforce, {"lr": 0.0}, "lr"),
        (Progressive, {"width": 0}, "width"),
        (Progressive, {"completion": "bset"}, "did you mean best"),
        (Bayesian, {"sampler": "tep"}, "did you mean tpe"),
        (Bayesian, {"startup": 0}, "startup"),
        (Predictor, {"batch": 0}, "batch"),
        (Predictor, {"curiosity": -1.0}, "curiosity"),
    ],
    ids=str,
)
def test_settings_are_checked(settings: type, wrong: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=name):
        settings(**wrong)


@pytest.mark.parametrize("completion", ["best", "random"])
def test_progressive_grows_gene_by_gene(completion: str) -> None:
    running = Progressive(width=4, completion=completion)(Problem(SPACE, landscape(0)), random.Random(0), 80)
    problem = Problem(SPACE, landscape(0))
    for length in range(1, 8):
        candidates = running.ask(1000)
        assert {len(beginning) for beginning in running.beginnings} == {length}
        assert {arch[:length] for arch in candidates} == set(running.beginnings)
        running.tell(list(problem.evaluated(problem.priced(candidates))))


def test_bayesian_by_a_gaussian_process() -> None:
    result = search(Problem(SPACE, landscape(0)), Bayesian(sampler="gp", startup=10), 15)
    assert len(result.history) == 15


@pytest.mark.parametrize(("strategy", "package"), [("nsga2", "pymoo"), ("bayesian", "optuna")])
def test_a_missing_package_is_named(strategy: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'hwnas\[search\]'"):
        search(Problem(SPACE, landscape(0)), strategy, 5)


def test_unknown_objective_is_named() -> None:
    with pytest.raises(InputError, match="no cost 'mss'"):
        search(Problem(SPACE, landscape(0), {"ms": landscape(1)}), NSGA2(objectives=("mss",)), 10)


@pytest.mark.skipif("HWNAS_BENCH_DATA" not in os.environ, reason="needs the published tables")
def test_predictor_on_nas_bench_macro() -> None:
    """The bar for the best strategy: a mean rank of 10 with 50 evaluations, of 1.8 with 100."""
    with (Path(os.environ["HWNAS_BENCH_DATA"]) / "nas_bench_macro.csv").open() as file:
        table = {tuple(map(int, row["arch"])): float(row["mean_acc"]) for row in csv.DictReader(file)}
    problem = Problem(ChoiceSpace([3] * 8), lambda batch: [table[tuple(arch)] for arch in batch.tolist()])
    truth = np.array(sorted(table.values()))

    def mean_rank(budget: int) -> float:
        best = [search(problem, "predictor", budget, seed).best.accuracy for seed in range(10)]
        return float(np.mean(len(truth) - np.searchsorted(truth, best, side="right") + 1))

    assert mean_rank(50) <= 10
    assert mean_rank(100) <= 1.8


def test_every_strategy_is_in_the_list() -> None:
    expected = {"random", "grid", "evolution", "aging", "nsga2", "reinforce", "progressive", "bayesian", "predictor"}
    assert set(STRATEGIES) == expected


def test_the_predictor_keeps_its_batch_from_the_start() -> None:
    running = Predictor(start=1, batch=2)(Problem(SPACE, landscape(0)), random.Random(0), 20)
    problem, sizes = Problem(SPACE, landscape(0)), []
    for _ in range(5):
        asked = running.ask(1000)
        sizes.append(len(asked))
        running.tell(list(problem.evaluated(problem.priced(asked))))
    assert sizes == [1, 2, 2, 2, 2]


def test_a_controller_that_never_stops_is_stopped() -> None:
    """In a space without end, whose architectures are the better the longer they are."""

    class Endless(ChoiceSpace):
        def choices(self, prefix: tuple[int, ...] = ()) -> int | None:
            return None if prefix and prefix[-1] == 0 else 2

        @property
        def options(self) -> None:  # type: ignore[override]
            return None

    space = Endless([2])
    running = Reinforce()(Problem(space, lambda archs: [len(arch) for arch in archs]), random.Random(0), 100)
    running.controller.score.bias.data = torch.tensor([-100.0, 100.0])  # type: ignore[attr-defined]
    asked = running.ask(20)
    assert all(space.choices(arch) is None for arch in asked)
    assert max(map(len, asked)) < 1000
