"""The search loop: ask a strategy, price, evaluate what keeps the limits, tell."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property

from ..errors import InputError, unknown_name
from ..supernet.space import Arch, SearchSpace
from .aging import Aging
from .bayesian import Bayesian
from .budget import Budget
from .evolution import Evolution
from .grid import Grid
from .nsga2 import NSGA2
from .predictor import Predictor
from .problem import Evaluation, Problem, rank_key
from .progressive import Progressive
from .random_search import Random
from .reach import Reach
from .reinforce import Reinforce
from .result import Ended, SearchResult
from .strategy import StrategySettings

STRATEGIES: dict[str, Callable[[], StrategySettings]] = {
    "random": Random,
    "grid": Grid,
    "evolution": Evolution,
    "aging": Aging,
    "nsga2": NSGA2,
    "reinforce": Reinforce,
    "progressive": Progressive,
    "bayesian": Bayesian,
    "predictor": Predictor,
}
"""The strategies by name, each with default settings."""

Progress = Callable[[int, int, Evaluation], None]

BATCH = 1000  # candidates asked for at once even when less budget is left: pricing is cheap in bulk
PROBES = 20  # candidates at most of which one is evaluated to tell how long that takes
SMALL = 50_000  # genes that may be looked at to list a whole space when candidates bring nothing new


def search(
    problem: Problem,
    strategy: str | StrategySettings = "evolution",
    budget: int | Budget = 500,
    seed: int = 0,
    progress: Progress | None = None,
    patience: int = 100_000,
) -> SearchResult:
    """Find the best architecture of `problem` with `budget` evaluations of distinct architectures.

    `strategy` is a name from STRATEGIES or a strategy's settings; a `Budget` may also be of time, or until converged.
    `progress` is called with (evaluations done, of how many, the best so far) after each. The same seed and number of
    evaluations give the same history. After `patience` candidates in a row without a new one that keeps the limits, the
    search ends with what it has; InfeasibleError, with the range that can be reached, if that is nothing.
    """
    spend = budget if isinstance(budget, Budget) else Budget(budget)
    if patience < 1:
        raise InputError(f"patience={patience} must be at least 1")
    ledger = _Ledger(problem, spend, progress)
    ledger.reach.check()
    if spend.evaluations is None and spend.minutes is not None:  # how many that will be, one has to tell
        for arch in Random()(problem, random.Random(seed), 1).ask(PROBES):
            ledger.judge([arch])
            if ledger.evaluated:
                break
        if ledger.evaluated and spend.over(ledger.seconds):
            return ledger.result("time")
    expected = min(spend.expected, len(ledger.evaluated) + ledger.left)
    running = _settings(strategy)(problem, random.Random(seed), expected)
    while True:
        candidates = running.ask(max(BATCH, min(ledger.left, expected)))
        told = ledger.judge(candidates)
        ended = ledger.ended(patience) if candidates else "strategy"
        if ended:
            return ledger.result(ended)
        running.tell(told)


class _Ledger:
    """What a search knows: every evaluation made, and what it takes to say when to stop and why."""

    def __init__(self, problem: Problem, budget: Budget, progress: Progress | None) -> None:
        self.problem, self.budget, self.progress = problem, budget, progress
        self.reach = Reach(problem)
        self.evaluated: dict[Arch, Evaluation] = {}  # by canonical architecture, in order
        self.best: Evaluation | None = None
        self.priced = self.fruitless = 0
        self.best_at, self.start = 0, time.perf_counter()

    @property
    def left(self) -> int:
        """Evaluations left in the budget, as it looks now."""
        if not (done := len(self.evaluated)):
            return self.budget.expected
        return self.budget.total(done, self.best_at, self.seconds) - done

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start

    def judge(self, candidates: Sequence[Arch]) -> list[Evaluation]:
        """Price what is not known yet, evaluate the feasible within the budget, answer for all."""
        archs = [self.problem.space.canonical(arch) for arch in candidates]
        priced = self.problem.priced([arch for arch in dict.fromkeys(archs) if arch not in self.evaluated])
        feasible = [evaluation for evaluation in priced if evaluation.feasible]
        if self.budget.evaluations is not None:
            feasible = feasible[: self.budget.evaluations - len(self.evaluated)]
        self.priced += len(candidates)
        self.fruitless = 0 if feasible else self.fruitless + len(candidates)
        if feasible:
            self._evaluate(feasible)
        elif not self.evaluated:
            self.reach.note(priced)
        answers = {evaluation.arch: evaluation for evaluation in priced}
        return [self.evaluated.get(arch) or answers[arch] for arch in archs]

    def _ordered(self, feasible: Sequence[Evaluation]) -> Sequence[Evaluation]:
        """The same, neighbours beginning alike, which are evaluated faster; as asked, if not all may be evaluated."""
        if self.budget.evaluations is None or self.budget.minutes is not None:
            return feasible
        return sorted(feasible, key=lambda evaluation: evaluation.arch)

    def ended(self, patience: int) -> Ended | None:
        """Why the search is over; None when it is not."""
        if not self.evaluated and self.budget.over(self.seconds):
            return "time"
        if self.budget.evaluations == len(self.evaluated):
            return "budget"
        if not self.left:
            return "time" if self.budget.minutes else "converged"
        if self.fruitless and self._feasible_in_all == len(self.evaluated):
            return "space"
        return "patience" if self.fruitless >= patience else None

    def result(self, ended: Ended) -> SearchResult:
        """What was found; InfeasibleError if that is nothing."""
        if not self.evaluated:
            raise self.reach.error(
                "no architecture of" if ended == "space" else f"none of {self.priced} candidates from"
            )
        return SearchResult(tuple(self.evaluated.values()), self.priced, self.seconds, ended)

    def _evaluate(self, feasible: Sequence[Evaluation]) -> None:
        ordered = self._ordered(feasible)
        for evaluation in self.problem.evaluated(ordered):
            self.evaluated[evaluation.arch] = evaluation
            if self.best is None or (not evaluation.estimated and rank_key(evaluation) < rank_key(self.best)):
                self.best, self.best_at = evaluation, len(self.evaluated)
            left = self.left
            if self.progress:
                self.progress(len(self.evaluated), len(self.evaluated) + left, self.best)
            if not left:
                break
        if ordered is not feasible:
            for evaluation in feasible:  # the history is in the order in which they were asked for
                if evaluation.arch in self.evaluated:
                    self.evaluated[evaluation.arch] = self.evaluated.pop(evaluation.arch)

    @cached_property
    def _feasible_in_all(self) -> int | None:
        """Number of distinct architectures that keep the limits; None where the space is not small."""
        archs = _all_archs(self.problem.space)
        if archs is None:
            return None
        priced = self.problem.priced(list(dict.fromkeys(map(self.problem.space.canonical, archs))))
        self.reach.note(priced)
        return sum(evaluation.feasible for evaluation in priced)


def _settings(strategy: str | StrategySettings) -> StrategySettings:
    if not isinstance(strategy, str):
        return strategy
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    return STRATEGIES[strategy]()


def _all_archs(space: SearchSpace) -> list[Arch] | None:
    """Every architecture; None where it takes more than SMALL steps to list them."""
    archs: list[Arch] = []
    prefixes: deque[Arch] = deque([()])
    for _ in range(SMALL):
        if not prefixes:
            return archs
        prefix = prefixes.popleft()  # the short ones first: some spaces are without end
        options = space.choices(prefix)
        if options is None:
            archs.append(prefix)
        else:
            prefixes.extend((*prefix, gene) for gene in range(options))
    return None
