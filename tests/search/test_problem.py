"""The problem: its validation, pricing, and the order that limits give to candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwnas.errors import InputError, MismatchError
from hwnas.search import Evaluation, Problem
from hwnas.search.problem import rank_key
from hwnas.supernet.additive import AdditiveCost
from hwnas.supernet.space import ChoiceSpace

SPACE = ChoiceSpace([3, 3])


def total(batch: np.ndarray) -> np.ndarray:
    return batch.sum(1)


def test_violation_is_the_sum_of_relative_excesses() -> None:
    rng = np.random.default_rng(0)
    costs = {"a": rng.random(100) * 4, "b": rng.random(100) * 100}
    limits = {"a": 2.0, "b": 30.0}
    problem = Problem(SPACE, total, {"a": total, "b": total, "free": total}, limits)
    expected = [sum(max(0.0, costs[n][i] / limits[n] - 1) for n in limits) for i in range(100)]
    np.testing.assert_allclose(problem.violation(costs), expected, rtol=1e-15)
    assert (problem.violation(costs) == 0).sum() == ((costs["a"] <= 2) & (costs["b"] <= 30)).sum()
    assert problem.violation({"a": 3.0, "b": 60.0}) == 1.5


def test_without_limits_nothing_is_violated() -> None:
    assert [e.violation for e in Problem(SPACE, total).priced([(0, 1), (2, 2)])] == [0, 0]


def test_candidates_rank_by_violation_then_accuracy() -> None:
    """Deb 2000: feasible before infeasible, the more accurate first, the less violating first."""
    ranked = [
        Evaluation((0,), 0.9, {}),
        Evaluation((1,), 0.8, {}),
        Evaluation((2,), math.nan, {}),  # evaluated, and it diverged
        Evaluation((3,), math.nan, {}, violation=0.1),
        Evaluation((4,), math.nan, {}, violation=0.2),
    ]
    assert sorted([ranked[i] for i in (3, 1, 4, 0, 2)], key=rank_key) == ranked
    assert [e.feasible for e in ranked] == [True, True, True, False, False]


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, math.nan])
def test_limits_are_positive_numbers(limit: float) -> None:
    with pytest.raises(InputError, match=r"limit ms=.* must be a positive number"):
        Problem(SPACE, total, {"ms": total}, {"ms": limit})


def test_a_limit_needs_its_cost() -> None:
    message = "limit pixel=20 needs a cost of that name; costs given: flops, pixel8"
    with pytest.raises(InputError, match=message):
        Problem(SPACE, total, {"pixel8": total, "flops": total}, {"pixel": 20})


@pytest.mark.parametrize("tables", [[3], [3, 4], [3, 3, 3]])
def test_tables_of_another_space_are_refused(tables: list[int]) -> None:
    with pytest.raises(MismatchError, match="price it anew"):
        Problem(SPACE, total, {"ms": AdditiveCost(0.0, tuple(np.zeros(n) for n in tables))})


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (lambda batch: batch * 1.0, r"one number for each of 2 architectures, not shape \(2, 2\)"),
        (lambda batch: [1.0], r"one number for each of 2 architectures, not shape \(1,\)"),  # noqa: ARG005
        (lambda batch: np.log(batch[:, 0] - 1.0), "is nan for 1 of 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_costs_are_checked(cost: object, message: str) -> None:
    with pytest.raises(InputError, match=rf"cost 'ms' .*{message}"):
        Problem(SPACE, total, {"ms": cost}).price([(0, 1), (2, 2)])


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0]], [None, 1.0]])
def test_accuracies_are_checked(values: list[object]) -> None:
    problem = Problem(SPACE, lambda _: iter(values))
    with pytest.raises(InputError, match="one number for each of 2 architectures"):
        list(problem.evaluated(problem.priced([(0, 1), (2, 2)])))


def test_batches_are_arrays_where_genes_are_independent() -> None:
    batch = Problem(SPACE, total).batch([(0, 1), (2, 2)])
    assert batch.dtype == np.int64
    assert batch.tolist() == [[0, 1], [2, 2]]
    assert Problem(SPACE, total).batch([]).shape == (0, 2)
