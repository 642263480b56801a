"""Which limits can be met: the range that costs reach, as far as known, and the errors that state it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..errors import InfeasibleError
from ..supernet.additive import AdditiveCost
from .problem import Evaluation, Problem, rank_key


class Reach:
    """The range of every limited cost, exact for an AdditiveCost, else as seen; and what came nearest."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.ranges = {name: _range(problem.costs[name]) for name in problem.limits}
        self.nearest: Evaluation | None = None

    def check(self) -> None:
        """InfeasibleError if a limit lies below all that its cost can reach."""
        for name, limit in self.problem.limits.items():
            low, high = self.ranges[name]
            if limit < low <= high:
                raise InfeasibleError(
                    f"limit {name}={_text(limit)} is out of reach: architectures of {self.problem.space} cost "
                    f"{_text(low)} to {_text(high)}; ask for at least {_text(_rounded_up(low))}"
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
