"""NSGA-II: the front of accuracy against one or more costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..supernet.space import Arch, Rng, draw
from .evolution import OPENING
from .novel import Novel
from .problem import Evaluation, Problem
from .strategy import Strategy


@dataclass(frozen=True)
class NSGA2:
    """NSGA-II (Deb et al. 2002), with accuracy and the costs named in `objectives` (by default all of the problem's).

    https://doi.org/10.1109/4235.996017: members are sorted by fronts, within a front by crowding distance (pymoo's,
    sections III.A and III.B); parents win binary tournaments; a child is a crossover of two, then mutated, each gene
    with probability 1 / genes. What misses limits comes after all that keep them, by its violation (section VI).
    By default the population is a tenth of the budget, from 8 to 100.
    """

    population: int | None = None
    objectives: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.population is not None and self.population < 2:
            raise InputError(f"nsga2 needs population of at least 2, not {self.population}")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        names = tuple(problem.costs) if self.objectives is None else self.objectives
        if unknown := set(names) - set(problem.costs):
            raise InputError(f"nsga2 has no cost {min(unknown)!r} for an objective; costs: {', '.join(problem.costs)}")
        return _NSGA2Strategy(problem, rng, self.population or min(100, max(8, budget // 10)), names)


class _NSGA2Strategy:
    def __init__(self, problem: Problem, rng: Rng, population: int, objectives: Sequence[str]) -> None:
        self.space, self.rng, self.novel = problem.space, rng, Novel(problem, rng)
        self.population, self.objectives = population, objectives
        self.fronts, self.crowding = _pymoo()
        self.members: list[Evaluation] = []  # the best first
        self.told = 0

    def ask(self, n: int) -> list[Arch]:
        feasible = sum(member.feasible for member in self.members)
        if feasible < self.population and self.told < OPENING * self.population:
            return self.novel.drawn(min(n, self.population - feasible))
        size = min(n, self.population)
        return self.novel.filled(self.novel.made(self._child, size), size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.told += len(evaluations)
        known = {evaluation.arch: evaluation for evaluation in (*self.members, *evaluations)}
        self.members = self._sorted(list(known.values()))[: self.population]

    def _child(self) -> Arch:
        child = self.space.cross(self._parent(), self._parent(), self.rng)
        return self.space.mutate(child, self.rng, 1 / max(len(child), 1))

    def _parent(self) -> Arch:
        """The better of two members, which are sorted."""
        return self.members[min(draw(self.rng, len(self.members)), draw(self.rng, len(self.members)))].arch

    def _sorted(self, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
        kept = [e for e in evaluations if e.feasible and e.accuracy == e.accuracy]
        ranked: list[Evaluation] = []
        if kept:
            goals = np.array([[-e.accuracy, *(e.costs[name] for name in self.objectives)] for e in kept])
            for front in self.fronts(goals):
                order = np.argsort(-self.crowding(goals[front]), kind="stable")
                ranked += [kept[i] for i in front[order]]
        missed = [e for e in evaluations if not (e.feasible and e.accuracy == e.accuracy)]
        return ranked + sorted(missed, key=lambda e: e.violation)


def _pymoo() -> tuple[Callable[[NDArray[np.float64]], list[NDArray[np.int64]]], Callable[[NDArray[np.float64]], Any]]:
    """Non-dominated sorting of rows of goals, and the crowding distance of each row of a front."""
    try:
        from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    except ImportError as error:
        raise InputError("strategy nsga2 needs pymoo: pip install 'hwnas[search]'") from error
    return NonDominatedSorting().do, get_crowding_function("cd").do
