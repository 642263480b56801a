"""Evolution by crossover and mutation of the best, as single-path one-shot NAS does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..supernet.space import Arch, Rng
from .novel import Novel
from .problem import Evaluation, Problem, rank_key
from .strategy import Strategy

OPENING = 20  # candidates per place in the first generation, before it makes do with infeasible ones


@dataclass(frozen=True)
class Evolution:
    """Single-path one-shot NAS, Algorithm 1: https://arxiv.org/abs/1904.00420

    The first generation is random. Every later one is half crossovers and half mutations (each gene with
    probability `mutation`) of the `parents` best candidates seen so far, filled up with random ones where
    the parents have no new children left. Candidates rank by (violation, -accuracy): where no random one
    is feasible, the generations move towards the limits.

    The paper has a population of 50 with 10 parents for 1,000 evaluations. By default the population is a
    tenth of the budget, from 8 to 50, and the parents are a fifth of the population, at least 2.
    """

    population: int | None = None
    parents: int | None = None
    mutation: float = 0.1

    def __post_init__(self) -> None:
        for name, value in (("population", self.population), ("parents", self.parents)):
            if value is not None and value < 2:
                raise InputError(f"evolution needs {name} of at least 2, not {value}")
        if not 0 < self.mutation <= 1:
            raise InputError(f"mutation={self.mutation} must be a probability above 0 and at most 1")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        population = self.population or min(50, max(8, budget // 10))
        parents = self.parents or max(2, population // 5)
        return _EvolutionStrategy(problem, rng, population, parents, self.mutation)


class _EvolutionStrategy:
    def __init__(self, problem: Problem, rng: Rng, population: int, parents: int, mutation: float) -> None:
        self.space, self.rng, self.novel = problem.space, rng, Novel(problem, rng)
        self.population, self.parents, self.mutation = population, parents, mutation
        self.best: list[Evaluation] = []  # at most `parents`, the best first
        self.told = self.feasible = 0

    def ask(self, n: int) -> list[Arch]:
        # The first generation counts feasible candidates: infeasible ones cost nothing, but teach little.
        if self.feasible < self.population and self.told < OPENING * self.population:
            return self.novel.drawn(min(n, self.population - self.feasible))
        size = min(n, self.population)
        children = self.novel.made(self._crossover, size // 2)
        children += self.novel.made(self._mutant, size - len(children))
        return self.novel.filled(children, size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.told += len(evaluations)
        self.feasible += sum(evaluation.feasible for evaluation in evaluations)
        known = {evaluation.arch: evaluation for evaluation in (*self.best, *evaluations)}
        self.best = sorted(known.values(), key=rank_key)[: self.parents]

    def _crossover(self) -> Arch:
        return self.space.cross(self._parent(), self._parent(), self.rng)

    def _mutant(self) -> Arch:
        return self.space.mutate(self._parent(), self.rng, self.mutation)

    def _parent(self) -> Arch:
        return self.best[int(self.rng.random() * len(self.best))].arch
