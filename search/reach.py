"""Which limits can be met: the range that costs reach, as far as known, and the errors that state it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import InfeasibleError
from ..supernet.additive import AdditiveCost
from .feasible import means
from .problem import Evaluation, Problem, rank_key

TOGETHER = 1e-9  # by how much several limits must be missed together: less is rounding


class Reach:
    """The range of every limited cost, exact for an AdditiveCost, else as seen; and what came nearest."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ranges = {name: _range(problem.costs[name]) for name in problem.limits}
        self.nearest: Evaluation | None = None

    def check(self) -> None:
        """InfeasibleError if a limit lies below all that its cost can reach, or several below all that they reach."""
        for name, limit in self.problem.limits.items():
            low, high = self.ranges[name]
            if low == math.inf == high:
                raise InfeasibleError(
                    f"limit {name}={_text(limit)} is out of reach: no architecture of {self.problem.space} has a "
                    f"finite {name}, each has something that costs infinity"
                )
            if limit < low <= high:
                raise InfeasibleError(
                    f"limit {name}={_text(limit)} is out of reach: architectures of {self.problem.space} cost "
                    f"{_text(low)} to {_text(high)}; ask for at least {_text(_rounded_up(low))}"
                )

        reached = [(mean.bounds()[0], names) for names, mean in means(self.problem)]
        least, names = max(reached, default=(0.0, ()))
        if least > 1 + TOGETHER:
            limits = " and ".join(f"{name}={_text(self.problem.limits[name])}" for name in names)
            ends = [(name, *map(_text, self.ranges[name])) for name in names]
            known = ", ".join(f"{name} from {low} to {high}" for name, low, high in ends)
            raise InfeasibleError(
                f"no architecture of {self.problem.space} keeps {limits} together, though each alone can be kept "
                f"({known}): raise one, or all by {least - 1:.1%} at least"
            )

    def note(self, priced: Sequence[Evaluation]) -> None:
        """Learn from priced candidates."""
        if not priced:
            return
        nearest = min(priced, key=rank_key)
        self.nearest = min(self.nearest or nearest, nearest, key=rank_key)
        for name, (low, high) in self.ranges.items():
            costs = [evaluation.costs[name] for evaluation in priced]
            self.ranges[name] = min(low, *costs), max(high, *costs)

    def error(self, none_of: str) -> InfeasibleError:
        """The error that states what is known; `none_of` opens the sentence on what was tried."""
        space = self.problem.space
        if self.nearest is None:
            return InfeasibleError(f"the strategy proposes no architecture of {space}: try another")
        limits = ", ".join(f"{name}={_text(limit)}" for name, limit in self.problem.limits.items())
        known = ", ".join(f"{name} from {_text(low)} to {_text(high)}" for name, (low, high) in self.ranges.items())
        nearest = ", ".join(f"{name}={_text(self.nearest.costs[name])}" for name in self.problem.limits)
        return InfeasibleError(
            f"{none_of} {space} keeps {limits}; known range: {known}; nearest: {nearest}; raise the limits"
        )


def _range(cost: Callable[..., object]) -> tuple[float, float]:
    """The exact range of a cost, or the empty range where that is not known beforehand."""
    return cost.bounds() if isinstance(cost, AdditiveCost) else (math.inf, -math.inf)


def _text(value: float) -> str:
    """A cost as a limit may be written: 14336, or four digits of a small one."""
    return f"{value:.0f}" if value >= 1e4 else f"{value:.4g}"


def _rounded_up(value: float) -> float:
    """A positive value rounded up to three digits: a limit that can be met."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return math.ceil(value / step) * step
