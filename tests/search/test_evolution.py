"""Evolution: better than random, and able to reach limits that no random draw keeps."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import InfeasibleError, InputError
from hwnas.search import Evolution, Problem, search
from hwnas.supernet.additive import AdditiveCost
from hwnas.supernet.space import Arch, ChoiceSpace, Rng

SPACE = ChoiceSpace([4] * 12)


def additive(seed: int) -> AdditiveCost:
    return AdditiveCost(0.0, tuple(np.random.default_rng(seed).normal(size=(12, 4))))


@pytest.mark.parametrize("limited", [False, True])
def test_better_than_random_at_equal_budget(limited: bool) -> None:
    """By more than half of the accuracy's spread on average, and on nearly every problem."""
    gains = []
    for seed in range(10):
        accuracy, cost = additive(seed), additive(100 + seed).affine(1, 50)
        limits = {"ms": 50.0} if limited else {}
        problem = Problem(SPACE, accuracy, {"ms": cost}, limits)
        gain = search(problem, "evolution", 100, seed).best.accuracy
        gain -= search(problem, "random", 100, seed).best.accuracy
        gains.append(gain / np.std(accuracy(np.random.default_rng(0).integers(4, size=(1000, 12)))))
    assert np.mean(gains) > 0.5
    assert np.sum(np.array(gains) > 0) >= 9


def test_small_budgets_are_not_spent_on_random_draws() -> None:
    best = {"evolution": 0.0, "random": 0.0}
    for seed in range(10):
        for strategy in best:
            best[strategy] += search(Problem(SPACE, additive(seed)), strategy, 50, seed).best.accuracy / 10
    assert best["evolution"] > best["random"] + 1


def test_reaches_limits_that_no_random_draw_keeps() -> None:
    """About one architecture in 100,000 is feasible; the cost is a function that gives no range."""
    rng = np.random.default_rng(0)
    table = rng.random((20, 4))
    problem = Problem(
        ChoiceSpace([4] * 20),
        accuracy=lambda batch: batch.sum(1),
        costs={"ms": lambda batch: table[np.arange(20), batch].sum(1)},
        limits={"ms": table.min(1).sum() + 1.5},
    )
    result = search(problem, "evolution", budget=50, patience=2000)
    assert len(result.history) == 50
    assert result.priced < 2000
    with pytest.raises(InfeasibleError):
        search(problem, "random", budget=50, patience=2000)


@pytest.mark.parametrize("wrong", [{"population": 1}, {"parents": 0}, {"mutation": 0.0}, {"mutation": 1.5}], ids=str)
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Evolution(**wrong)


def test_population_is_the_users_where_given() -> None:
    batches: list[int] = []

    def accuracy(batch: np.ndarray) -> np.ndarray:
        batches.append(len(batch))
        return batch.sum(1)

    search(Problem(SPACE, accuracy), Evolution(population=30), budget=100)
    assert batches == [30, 30, 30, 10]


class Recording(ChoiceSpace):
    """Notes the parents and children of every crossover and mutation."""

    def __init__(self, options: list[int]) -> None:
        super().__init__(options)
        self.parents: set[Arch] = set()
        self.crossed: set[Arch] = set()
        self.mutated: set[Arch] = set()

    def cross(self, a: Arch, b: Arch, rng: Rng) -> Arch:
        self.parents |= {a, b}
        child = super().cross(a, b, rng)
        self.crossed.add(child)
        return child

    def mutate(self, arch: Arch, rng: Rng, rate: float) -> Arch:
        self.parents.add(arch)
        child = super().mutate(arch, rng, rate)
        self.mutated.add(child)
        return child


def test_a_generation_is_half_crossovers_and_half_mutations_of_the_best() -> None:
    space = Recording([4] * 12)
    problem = Problem(space, additive(0))
    running = Evolution(population=40, parents=8)(problem, random.Random(0), 1000)
    first = list(problem.evaluated(problem.priced(running.ask(1000))))
    running.tell(first)
    children = running.ask(1000)
    assert len(first) == len(children) == len(set(children)) == 40
    assert space.crossed.issuperset(children[:20])
    assert space.mutated.issuperset(children[20:])
    assert space.parents == {e.arch for e in sorted(first, key=lambda e: -e.accuracy)[:8]}


@pytest.mark.skipif("HWNAS_BENCH_DATA" not in os.environ, reason="needs the published tables")
def test_better_mean_rank_than_random_on_nas_bench_macro() -> None:
    with (Path(os.environ["HWNAS_BENCH_DATA"]) / "nas_bench_macro.csv").open() as file:
        table = {tuple(map(int, row["arch"])): float(row["mean_acc"]) for row in csv.DictReader(file)}
    problem = Problem(ChoiceSpace([3] * 8), lambda batch: [table[tuple(arch)] for arch in batch.tolist()])
    truth = np.array(sorted(table.values()))

    def mean_rank(strategy: str) -> float:
        best = [search(problem, strategy, 100, seed).best.accuracy for seed in range(20)]
        return float(np.mean(len(truth) - np.searchsorted(truth, best, side="right") + 1))

    assert mean_rank("evolution") < 10 < mean_rank("random")
