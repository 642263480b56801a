"""Regularised evolution: the oldest dies, not the worst."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..supernet.space import Arch, Rng, SearchSpace, draw
from .evolution import OPENING
from .novel import Novel
from .problem import Evaluation, Problem, rank_key
from .strategy import Strategy


@dataclass(frozen=True)
class Aging:
    """Aging evolution (Real et al. 2019, Algorithm 1): https://arxiv.org/abs/1802.01548

    Every child is the best of `sample` random members of the population with one gene changed; it takes the place of
    the oldest member. The first members are random. Members keep the limits as soon as any candidate does.

    The paper has a population of 100 and samples 25 of 20,000 evaluations. By default the population is a fifth of the
    budget, from 10 to 100, the sample a quarter of it, and a tenth of it is asked for at once.
    """

    population: int | None = None
    sample: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("population", self.population, 2), ("sample", self.sample, 1)):
            if value is not None and value < least:
                raise InputError(f"aging evolution needs {name} of at least {least}, not {value}")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        population = self.population or min(100, max(10, budget // 5))
        return _AgingStrategy(problem, rng, population, self.sample or max(2, population // 4))


class _AgingStrategy:
    def __init__(self, problem: Problem, rng: Rng, population: int, sample: int) -> None:
        self.space, self.rng, self.novel = problem.space, rng, Novel(problem, rng)
        self.members: deque[Evaluation] = deque(maxlen=population)  # the oldest first
        self.population, self.sample, self.told = population, sample, 0

    def ask(self, n: int) -> list[Arch]:
        feasible = sum(member.feasible for member in self.members)
        if feasible < self.population and self.told < OPENING * self.population:
            return self.novel.drawn(min(n, self.population - feasible))
        size = min(n, max(1, self.population // 10))
        return self.novel.filled(self.novel.made(self._child, size), size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.told += len(evaluations)
        for evaluation in evaluations:
            if evaluation.feasible or not any(member.feasible for member in self.members):
                self.members.append(evaluation)

    def _child(self) -> Arch:
        sample = [self.members[draw(self.rng, len(self.members))] for _ in range(self.sample)]
        return neighbour(self.space, min(sample, key=rank_key).arch, self.rng)


def neighbour(space: SearchSpace, arch: Arch, rng: Rng) -> Arch:
    """`arch` with one gene changed, and those after it that no longer fit drawn anew."""
    i = draw(rng, len(arch))
    options = space.choices(arch[:i])
    if options is None or options < 2:
        return arch
    gene = (arch[i] + 1 + draw(rng, options - 1)) % options
    return space.mutate((*arch[:i], gene, *arch[i + 1 :]), rng, 0.0)
