"""Evolution by crossover and mutation of the best, as single-path one-shot NAS does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..supernet.space import Arch, Rng, SearchSpace, draw
from .problem import Evaluation, Problem, rank_key
from .strategy import Strategy


@dataclass(frozen=True)
class Evolution:
    """Single-path one-shot NAS, Algorithm 1: https://arxiv.org/abs/1904.00420

    The first generation is random. Every later one is half crossovers and half mutations (each gene with
    probability `mutation`) of the `parents` best candidates seen so far, filled up with random ones where
    the parents have no new children left. Candidates rank by (violation, -accuracy), so that a start
    without a feasible candidate moves towards the limits.

    The paper has a population of 50 and 10 parents for 1,000 evaluations. Where `population` is None, it
    follows the budget: a tenth, within 4 to 50. Where `parents` is None, they are a fifth of the population, at least 2.
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
        population = self.population or min(50, max(4, budget // 10))
        parents = self.parents or max(2, population // 5)
        return _EvolutionStrategy(problem.space, rng, population, parents, self.mutation)


class _EvolutionStrategy:
    TRIES = 10  # per child, before its place goes to a random candidate

    def __init__(self, space: SearchSpace, rng: Rng, population: int, parents: int, mutation: float) -> None:
        self.space, self.rng = space, rng
        self.population, self.parents, self.mutation = population, parents, mutation
        self.best: list[Evaluation] = []  # at most `parents`, the best first
        self.asked: set[Arch] = set()

    def ask(self, n: int) -> list[Arch]:
        size = min(n, self.population)
        children: list[Arch] = []
        if self.best:
            children = self._new(self._crossover, size // 2)
            children += self._new(self._mutant, size - len(children))
        children += self._new(lambda: self.space.sample(self.rng), size - len(children))
        # A space with nothing new left: repeats, which the search answers from what it knows.
        return children + [self.space.sample(self.rng) for _ in range(size - len(children))]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        known = {evaluation.arch: evaluation for evaluation in (*self.best, *evaluations)}
        self.best = sorted(known.values(), key=rank_key)[: self.parents]

    def _new(self, make: Callable[[], Arch], n: int) -> list[Arch]:
        """Up to `n` candidates that were never asked for."""
        found: list[Arch] = []
        for _ in range(n * self.TRIES):
            if len(found) == n:
                break
            arch = self.space.canonical(make())
            if arch not in self.asked:
                self.asked.add(arch)
                found.append(arch)
        return found

    def _parent(self) -> Arch:
        return self.best[draw(self.rng, len(self.best))].arch

    def _crossover(self) -> Arch:
        return self.space.cross(self._parent(), self._parent(), self.rng)

    def _mutant(self) -> Arch:
        return self.space.mutate(self._parent(), self.rng, self.mutation)
