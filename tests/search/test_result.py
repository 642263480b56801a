"""The Pareto front against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwnas.errors import InputError
from hwnas.search import Evaluation, SearchResult


def result(points: list[tuple[float, float]]) -> SearchResult:
    """Evaluations at (ms, accuracy), in order."""
    history = [Evaluation((i,), p[1], {"ms": p[0], "flops": -p[0]}) for i, p in enumerate(points)]
    return SearchResult(tuple(history), priced=0, seconds=0.0, ended="budget")


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] >= b[1]


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_front_is_what_nothing_dominates(levels: int) -> None:
    """Few levels give many ties in cost, in accuracy and in both."""
    points = [tuple(map(float, p)) for p in np.random.default_rng(levels).integers(levels, size=(150, 2))]
    front = [(e.costs["ms"], e.accuracy) for e in result(points).pareto("ms")]
    assert front == sorted({p for p in points if not any(dominates(q, p) for q in points)})


@pytest.mark.parametrize("levels", [3, 10**6])
def test_front_against_two_costs_is_what_nothing_dominates(levels: int) -> None:
    rows = np.random.default_rng(levels).integers(levels, size=(120, 3)).tolist()
    history = [Evaluation((i,), c, {"ms": a, "params": b}) for i, (a, b, c) in enumerate(rows)]
    front = SearchResult(tuple(history), 0, 0.0, "budget").pareto("ms", "params")

    def better(a: list[int], b: list[int]) -> bool:
        return a != b and a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2]

    kept = {tuple(row) for row in rows if not any(better(other, row) for other in rows)}
    assert sorted((e.costs["ms"], e.costs["params"], e.accuracy) for e in front) == sorted(kept)


def test_front_of_the_opposite_cost() -> None:
    assert [e.arch for e in result([(1, 0.5), (2, 0.6), (3, 0.6)]).pareto("flops")] == [(2,)]


def test_improvements_are_what_was_better_than_all_before() -> None:
    found = result([(1, 0.5), (2, 0.4), (3, 0.6), (4, 0.6), (5, 0.7)])
    assert [(number, e.accuracy) for number, e in found.improvements()] == [(1, 0.5), (3, 0.6), (5, 0.7)]
    assert SearchResult(found.history, 0, 0.0, "front").improvements() == []  # in no order of a search


def test_of_equals_the_first_stays() -> None:
    equal = result([(1, 0.5), (1, 0.5)])
    assert equal.best.arch == (0,)
    assert [e.arch for e in equal.pareto("ms")] == [(0,)]


def test_a_diverged_network_is_neither_best_nor_on_the_front() -> None:
    diverged = result([(1, math.nan), (1, 0.5), (0.5, math.nan)])
    assert diverged.best.arch == (1,)
    assert [e.arch for e in diverged.pareto("ms")] == [(1,)]


def test_unknown_cost_names_the_known() -> None:
    with pytest.raises(InputError, match="unknown cost 'flop'; did you mean flops"):
        result([(1, 0.5)]).pareto("flop")


def test_one_without_an_accuracy_is_no_improvement() -> None:
    diverged = result([(1, math.nan), (1, 0.5), (0.5, 0.4)])
    assert [number for number, _ in diverged.improvements()] == [2]
