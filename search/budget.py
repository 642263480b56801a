"""When a search has done enough: after so many evaluations, after so many minutes, or once it has converged."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import InputError

EXPECTED = 500  # evaluations that strategies lay themselves out for where no number is given
IN_VAIN = 50  # evaluations at least without a better one, before a search has converged
UNITS = {"min": 1.0, "h": 60.0}


@dataclass(frozen=True)
class Budget:
    """What a search may spend: distinct architectures evaluated, or `minutes`, or both.

    Without either it goes on until it has `converged`: until as many evaluations were in vain as it took to find the
    best, at least 50. Only a number of evaluations makes a search repeatable.
    """

    evaluations: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 1:
            raise InputError(f"budget={self.evaluations} must be at least 1 evaluation")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InputError(f"a budget of {self.minutes} minutes must be positive")

    @property
    def expected(self) -> int:
        """The evaluations that strategies lay themselves out for."""
        return EXPECTED if self.evaluations is None else self.evaluations

    def over(self, seconds: float) -> bool:
        """Whether the time is spent after so many seconds."""
        return self.minutes is not None and seconds >= 60 * self.minutes

    def total(self, done: int, best_at: int, seconds: float) -> int:
        """How many evaluations it will be in all, as it looks after `done` of them, the best one the `best_at`-th."""
        totals = [] if self.evaluations is None else [self.evaluations]
        if self.minutes is not None:
            whole = done if self.over(seconds) else max(done + 1, int(done * 60 * self.minutes / seconds))
            totals.append(whole)
        return min(totals) if totals else best_at + max(IN_VAIN, best_at)


def parse_budget(text: str | int) -> Budget:
    """`200` evaluations, `10min`, `1.5h`, or `converged`; InputError for anything else."""
    if str(text) == "converged":
        return Budget()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h)?", str(text).strip())
    if match is None or float(match[1]) == 0 or (match[2] is None and not match[1].isdecimal()):
        raise InputError(
            f"--budget {text} is none: write a number of evaluations, at least 1, a time such as 10min, or converged"
        )
    return Budget(minutes=float(match[1]) * UNITS[match[2]]) if match[2] else Budget(int(match[1]))
