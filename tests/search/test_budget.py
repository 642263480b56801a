"""Budgets of evaluations, of time, and until converged."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from hwnas.errors import InfeasibleError, InputError
from hwnas.search import STRATEGIES, Evaluation, Evolution, Problem, search
from hwnas.search.budget import EXPECTED, IN_VAIN, Budget, parse_budget
from hwnas.search.strategy import Strategy
from hwnas.supernet.space import ChoiceSpace

SPACE = ChoiceSpace([4] * 12)


def slow(batch: np.ndarray) -> Iterator[float]:
    for arch in batch:
        time.sleep(0.002)
        yield float(arch.sum())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_ends_with_its_time(strategy: str) -> None:
    result = search(Problem(SPACE, slow), strategy, Budget(minutes=0.3 / 60))
    assert result.ended == "time"
    assert 1 <= len(result.history) <= 150  # 0.3 s of evaluations of 2 ms
    assert result.seconds < 5


@pytest.mark.parametrize("strategy", ["random", "grid", "evolution"])
@pytest.mark.parametrize("budget", [Budget(minutes=0.3 / 60), Budget()], ids=["time", "converged"])
def test_what_is_cut_short_was_not_sorted(strategy: str, budget: Budget) -> None:
    """Else the first candidates of a batch by their genes would be all that is ever seen."""
    history = search(Problem(SPACE, slow), strategy, budget).history
    assert len({evaluation.arch[0] for evaluation in history}) == 4


def test_time_runs_out_where_nothing_keeps_the_limits() -> None:
    problem = Problem(SPACE, slow, {"size": lambda batch: batch.sum(1) + 10}, {"size": 9.5})
    start = time.perf_counter()
    with pytest.raises(InfeasibleError, match=r"keeps size=9\.5"):
        search(problem, "predictor", Budget(minutes=0.2 / 60))
    assert time.perf_counter() - start < 10


def test_an_evaluation_is_made_however_short_the_time() -> None:
    assert len(search(Problem(SPACE, slow), "random", Budget(minutes=1e-9)).history) == 1


def test_a_number_and_a_time_end_with_what_comes_first() -> None:
    result = search(Problem(SPACE, slow), "random", Budget(evaluations=3, minutes=10))
    assert (result.ended, len(result.history)) == ("budget", 3)


@pytest.mark.parametrize("strategy", ["random", "evolution", "predictor"])
def test_converged_is_when_as_many_were_in_vain_as_it_took(strategy: str) -> None:
    result = search(Problem(SPACE, lambda batch: batch.sum(1)), strategy, Budget())
    found_at = 1 + max(range(len(result.history)), key=lambda i: (result.history[i].accuracy, -i))
    assert result.ended == "converged"
    assert len(result.history) == found_at + max(IN_VAIN, found_at)


def test_progress_tells_how_many_it_will_be() -> None:
    told: list[tuple[int, int]] = []
    search(Problem(SPACE, slow), "random", Budget(minutes=0.1 / 60), progress=lambda n, of, _: told.append((n, of)))
    assert all(done <= total for done, total in told)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("200", Budget(200)),
        (200, Budget(200)),
        ("10min", Budget(minutes=10)),
        ("1.5 h", Budget(minutes=90)),
        ("converged", Budget()),
    ],
)
def test_budgets_as_they_are_written(text: str | int, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "10s", "ten", "0min", "convergd"])
def test_what_is_no_budget_is_named(text: str) -> None:
    with pytest.raises(InputError, match="budget"):
        parse_budget(text)


def test_a_population_follows_the_time_that_evaluations_take() -> None:
    """Forty evaluations fit: fifty random ones would be no evolution."""
    laid_out: list[int] = []

    def strategy(problem: Problem, rng: random.Random, budget: int) -> Strategy:
        laid_out.append(budget)
        return Evolution()(problem, rng, budget)

    def slower(batch: np.ndarray) -> Iterator[float]:
        for arch in batch:
            time.sleep(0.02)
            yield float(arch.sum())

    search(Problem(SPACE, slower), strategy, Budget(minutes=0.8 / 60))
    assert 5 <= laid_out[0] <= 40
    search(Problem(SPACE, lambda batch: batch.sum(1)), strategy, Budget(minutes=0.3 / 60))
    assert laid_out[1] == EXPECTED


def test_until_converged_nothing_that_was_asked_for_is_left_out() -> None:
    """What looked like the last evaluations were not: one of them is better than all before."""
    batches = [[(i % 4, i // 4 % 4, 0) for i in range(8)], [(i % 4, i // 4, 1) for i in range(16)] * 4]

    class Told:
        def __init__(self) -> None:
            self.asked, self.told = list(batches), list[Evaluation]()

        def ask(self, n: int) -> list[tuple[int, ...]]:
            return self.asked.pop(0) if self.asked else []

        def tell(self, evaluations: Sequence[Evaluation]) -> None:
            self.told += evaluations

    running = Told()
    problem = Problem(ChoiceSpace([4, 4, 2]), lambda batch: batch.sum(1))
    search(problem, lambda *_: running, Budget())
    assert not any(evaluation.accuracy != evaluation.accuracy for evaluation in running.told)


def test_the_history_is_in_the_order_in_which_it_was_asked_for() -> None:
    """Though a batch is evaluated in another, which shares what its candidates have in common."""
    asked: list[tuple[int, ...]] = []

    def strategy(problem: Problem, rng: random.Random, budget: int) -> Strategy:
        running = STRATEGIES["random"]()(problem, rng, budget)
        ask = running.ask
        running.ask = lambda n: [asked.append(arch) or arch for arch in ask(n)]  # type: ignore[method-assign]
        return running

    history = search(Problem(SPACE, lambda batch: batch.sum(1)), strategy, 40).history
    assert [evaluation.arch for evaluation in history] == asked[:40]
    assert asked[:40] != sorted(asked[:40])
