"""Draws under limits: uniform by enumeration, however tight, several limits together."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy.stats import chisquare

from hwnas.search import Problem, search
from hwnas.search.feasible import Completions, Feasible, numbers_of
from hwnas.supernet.additive import AdditiveCost
from hwnas.supernet.space import Arch, ChoiceSpace

SPACE = ChoiceSpace([3, 4, 2, 3, 4])
ALL = np.array(list(itertools.product(*map(range, SPACE.options))))  # (288, 5)


def cost_of(seed: int, space: ChoiceSpace = SPACE, pairs: bool = True) -> AdditiveCost:
    rng, options = np.random.default_rng(seed), space.options
    pairwise = [rng.random((a, b)) if i % 2 == 0 else None for i, (a, b) in enumerate(itertools.pairwise(options))]
    return AdditiveCost(0.3, tuple(rng.random(n) for n in options), tuple(pairwise) if pairs else ())


def problem(costs: dict[str, AdditiveCost], limits: dict[str, float], space: ChoiceSpace = SPACE) -> Problem:
    return Problem(space, lambda batch: batch.sum(1), costs, limits)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.7])
def test_draws_are_uniform_over_what_keeps_the_limit(share: float, pairs: bool) -> None:
    cost = cost_of(1, pairs=pairs)
    limit = float(np.quantile(cost(ALL), share))
    feasible = {tuple(arch): 0 for arch in ALL[cost(ALL) <= limit].tolist()}
    drawn = Feasible(problem({"ms": cost}, {"ms": limit})).sample(np.random.default_rng(0), 50 * len(feasible))
    for arch in drawn:
        feasible[arch] += 1
    assert chisquare(list(feasible.values())).pvalue > 0.001


@pytest.mark.parametrize("share", [0.02, 0.2, 0.7])
def test_the_share_counts_what_keeps_the_limit(share: float) -> None:
    cost = cost_of(2)
    limit = float(np.quantile(cost(ALL), share))
    exact = (cost(ALL) <= limit).mean()
    fine, coarse = (Completions(cost, limit, bins).share for bins in (1 << 14, 64))
    assert exact <= fine * (1 + 1e-9) <= exact + 2 / len(ALL)
    assert fine <= coarse * (1 + 1e-9)


def test_a_limit_that_one_architecture_keeps_is_kept() -> None:
    space = ChoiceSpace([4] * 20)
    cost = cost_of(3, space)
    cheapest = cost.argmin()
    limit = float(cost([cheapest])[0])
    drawn = Feasible(problem({"ms": cost}, {"ms": limit}, space)).sample(np.random.default_rng(0), 100)
    assert set(drawn) == {cheapest}


def test_many_distinct_ones_where_one_in_a_million_keeps_the_limit() -> None:
    space = ChoiceSpace([4] * 20)  # 10^12 architectures
    cost = cost_of(4, space)
    sample = cost(np.random.default_rng(0).integers(4, size=(500_000, 20)))
    limit = float(cost.bounds()[0] + 0.35 * (sample.min() - cost.bounds()[0]))
    feasible = Feasible(problem({"ms": cost}, {"ms": limit}, space))
    assert feasible.completions.share < 1e-6
    drawn = feasible.sample(np.random.default_rng(1), 3000)
    assert len(set(drawn)) > 500
    assert (cost(drawn) <= limit).all()


def test_two_opposed_limits_are_counted_together() -> None:
    """Each alone leaves half of the space, both together one in 800."""
    rng = np.random.default_rng(0)
    space = ChoiceSpace([3] * 9)
    tables = tuple(rng.random(3) for _ in range(9))
    here = AdditiveCost(1.0, tables)
    there = AdditiveCost(1.0, tuple(1 - table + 0.1 * rng.random(3) for table in tables))
    archs = np.array(list(itertools.product(range(3), repeat=9)))
    limits = {"here": float(np.quantile(here(archs), 0.5)), "there": float(np.quantile(there(archs), 0.5))}
    limits["there"] *= 0.985
    kept = {tuple(a) for a in archs[(here(archs) <= limits["here"]) & (there(archs) <= limits["there"])].tolist()}
    feasible = Feasible(problem({"here": here, "there": there}, limits, space))
    assert len(kept) == 24
    assert feasible.completions.share < 0.11  # of each alone half
    assert set(feasible.sample(rng, 40 * len(kept))) == kept


def test_completions_begin_as_they_are_told() -> None:
    cost = cost_of(5)
    limit = float(np.quantile(cost(ALL), 0.3))
    feasible = Feasible(problem({"ms": cost}, {"ms": limit}))
    first = cost.argmin()[:2]
    begun = {tuple(arch) for arch in ALL[cost(ALL) <= limit].tolist() if tuple(arch[:2]) == first}
    drawn = feasible.complete(first, np.random.default_rng(0), 2000)
    assert {arch for arch in drawn if cost([arch])[0] <= limit} == begun != set()
    assert {arch[:2] for arch in drawn} == {first}


def test_the_seed_repeats_draws() -> None:
    feasible = Feasible(problem({"ms": cost_of(1)}, {"ms": 2.0}))
    first, again = (feasible.sample(numbers_of(random.Random(3)), 20) for _ in range(2))
    assert first == again


def test_random_search_under_a_tight_limit_prices_hardly_more_than_it_evaluates() -> None:
    space = ChoiceSpace([4] * 20)
    cost = cost_of(6, space)
    limit = float(cost.bounds()[0]) * 1.2
    result = search(problem({"ms": cost}, {"ms": limit}, space), "random", budget=200)
    assert len(result.history) == 200
    assert result.priced <= 3000
    assert all(evaluation.costs["ms"] <= limit for evaluation in result.history)


def brute_force(cost: AdditiveCost, prefix: Arch) -> float:
    return min(float(cost([arch])[0]) for arch in map(tuple, ALL.tolist()) if arch[: len(prefix)] == prefix)


def test_cheapest_completions_against_enumeration() -> None:
    cost = cost_of(7)
    rest = cost.completions()
    assert rest[0][0] + cost.offset == pytest.approx(brute_force(cost, ()))
    for gene in range(3):
        whole = cost.offset + cost.unary[0][gene] + np.broadcast_to(rest[1], 3)[gene]
        assert whole == pytest.approx(brute_force(cost, (gene,)))


def test_a_sum_of_costs_costs_the_sum() -> None:
    a, b = cost_of(1), cost_of(2, pairs=False)
    assert np.allclose((a + b)(ALL), a(ALL) + b(ALL))
    assert np.allclose((b + a)(ALL), a(ALL) + b(ALL))


def test_counts_do_not_underflow_in_large_spaces() -> None:
    space = ChoiceSpace([10] * 400)
    cost = AdditiveCost(0.0, tuple(np.arange(10.0) for _ in range(400)))
    drawn = Feasible(problem({"ms": cost}, {"ms": 40.0}, space)).sample(np.random.default_rng(0), 50)
    assert len(set(drawn)) == 50
    assert (cost(drawn) <= 40).all()
