"""Grid search: evenly spread points of the space, whatever was found at the others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import qmc

from ..supernet.space import Arch, Rng, SearchSpace
from .feasible import Feasible
from .problem import Evaluation, Problem
from .strategy import Strategy

DRAWS = 100  # architectures that tell how long one can get, where lengths vary


@dataclass(frozen=True)
class Grid:
    """A grid that is refined as the budget goes on: Sobol's sequence, one dimension per gene.

    Every 2^k points of it are even in each gene (https://doi.org/10.1016/0041-5553(67)90144-9), where a product of
    equal steps would leave most genes at one option for any budget that is affordable. The points are those among
    architectures that keep the limits on sums over genes; the seed scrambles the sequence
    (https://doi.org/10.1006/jcom.1998.0487).
    """

    def __call__(self, problem: Problem, rng: Rng, _budget: int, /) -> Strategy:
        return _GridStrategy(problem, rng)


class _GridStrategy:
    def __init__(self, problem: Problem, rng: Rng) -> None:
        self.space, self.feasible = problem.space, Feasible(problem)
        self.points = qmc.Sobol(min(_longest(self.space, rng), qmc.Sobol.MAXDIM), rng=int(rng.random() * 2**31))

    def ask(self, n: int) -> list[Arch]:
        whole = 1 << (n.bit_length() - 1)  # a power of two: as even as can be
        points = self.points.random(whole)  # (n, genes) in [0, 1)
        if self.space.options is None:
            return [self.space.sample(_Numbers(point)) for point in points]
        return [tuple(genes) for genes in self.feasible.at(points).tolist()]

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Nothing to learn: a grid is laid beforehand."""


class _Numbers:
    """The coordinates of a point, one after the other, as random numbers are asked for; then random ones of its own."""

    def __init__(self, point: Sequence[float]) -> None:
        self.coordinates = iter(point)
        self.more = random.Random(str(list(point)))

    def random(self) -> float:
        return float(next(self.coordinates, self.more.random()))


def _longest(space: SearchSpace, rng: Rng) -> int:
    if space.options is not None:
        return len(space.options)
    return max(len(space.sample(rng)) for _ in range(DRAWS))
