"""What a search found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import unknown_name
from .problem import Evaluation, rank_key

Ended = Literal["budget", "time", "converged", "space", "patience", "strategy", "front"]


@dataclass(frozen=True)
class SearchResult:
    """The evaluated architectures, all of which keep the limits, in the order in which they were asked for.

    `priced` counts the candidates whose costs were asked for, repeats included. `ended` says what ran out
    first: the budget of evaluations, that of time, the hope for a better one, the architectures of the space, the
    patience with candidates that bring nothing new, or the strategy's proposals; or that it was answered from a front.
    """

    history: tuple[Evaluation, ...]
    priced: int
    seconds: float
    ended: Ended

    @property
    def best(self) -> Evaluation:
        """The most accurate one, of equals the first found."""
        return min(self.history, key=lambda evaluation: (evaluation.estimated, rank_key(evaluation)))

    def improvements(self) -> list[tuple[int, Evaluation]]:
        """Every evaluation that was better than all before it, with its number; none where a front answered."""
        found: list[tuple[int, Evaluation]] = []
        for number, evaluation in enumerate(self.history if self.ended != "front" else (), 1):
            if evaluation.estimated or math.isnan(evaluation.accuracy):
                continue
            if not found or (rank_key(evaluation) < rank_key(found[-1][1])):
                found.append((number, evaluation))
        return found

    def pareto(self, *names: str) -> list[Evaluation]:
        """The front of accuracy (high) against the costs `names` (low), the cheapest by the first of them first.

        No other evaluation is at least as good in all of them and better in one. Of equals, the first found stays. What
        was given up early is left out.
        """
        for name in names:
            if name not in self.best.costs:
                raise unknown_name("cost", name, self.best.costs)

        def goals(evaluation: Evaluation) -> tuple[float, ...]:  # all to be small
            return (*(evaluation.costs[name] for name in names), -evaluation.accuracy)

        known = [e for e in self.history if not math.isnan(e.accuracy) and not e.estimated]
        front: list[Evaluation] = []
        for evaluation in sorted(known, key=goals):  # what is better in all comes before it
            if not any(all(a <= b for a, b in zip(goals(e), goals(evaluation), strict=True)) for e in front):
                front.append(evaluation)
        return front
