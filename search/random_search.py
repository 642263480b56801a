"""Random search: the baseline that every other strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..supernet.space import Arch, Rng
from .feasible import Feasible, numbers_of
from .problem import Evaluation, Problem
from .strategy import Strategy


@dataclass(frozen=True)
class Random:
    """Independent draws from what keeps the limits: https://arxiv.org/abs/1902.07638 shows how strong that is."""

    def __call__(self, problem: Problem, rng: Rng, _budget: int, /) -> Strategy:
        return _RandomStrategy(problem, rng)


class _RandomStrategy:
    def __init__(self, problem: Problem, rng: Rng) -> None:
        self.feasible, self.numbers = Feasible(problem), numbers_of(rng)

    def ask(self, n: int) -> list[Arch]:
        return self.feasible.sample(self.numbers, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Nothing to learn: the draws are independent."""
