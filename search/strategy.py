"""How a strategy talks to a search: it is asked for candidates, then told what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..supernet.space import Arch, Rng
from .problem import Evaluation, Problem


class Strategy(Protocol):
    """A running strategy. All its randomness comes from the generator it was started with."""

    def ask(self, n: int) -> list[Arch]:
        """The next candidates, at most `n`: fewer where the strategy works in smaller batches.

        An empty list ends the search: the strategy has nothing more to try.
        """

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """What became of all candidates of the last `ask`, in their order.

        Architectures come in canonical form. Infeasible ones have a violation and no accuracy (nan); one
        that was evaluated before comes with what is known of it, at no cost to the budget.
        """


class StrategySettings(Protocol):
    """What starts a strategy: a frozen dataclass of settings, or a strategy's own class without any."""

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        """A strategy for `problem` that expects `budget` evaluations and draws from `rng`."""
