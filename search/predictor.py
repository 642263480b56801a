"""Search by prediction: a surrogate, trained on what was evaluated, proposes what to evaluate next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..supernet.space import Arch, Rng, draw
from .evolution import OPENING
from .novel import Novel
from .problem import Evaluation, Problem, rank_key
from .strategy import Strategy
from .surrogate import Surrogate

POOL = 2000  # candidates that are looked at for every batch
PARENTS = 10  # of which half of the pool descends
LEARNING = 5  # evaluations at least to learn from
SEEKING = 20  # candidates at once, while hardly any keeps the limits: others cost nothing


@dataclass(frozen=True)
class Predictor:
    """Of a pool of candidates within the limits those are evaluated of which a `Surrogate` expects most.

    As BANANAS (White et al. 2021, https://arxiv.org/abs/1910.11858, Algorithm 1), with regressions that need fewer
    evaluations than neural networks. Half of the pool is random, half are the best so far, with some of their genes
    changed or crossed; a candidate counts by its expected score plus `curiosity` deviations (section 4 there: an upper
    confidence bound). The first `start` candidates are random, by default a quarter of the budget, from 5 to 15; then
    `batch` at a time, by default a twentieth of it, up to 5.
    """

    start: int | None = None
    batch: int | None = None
    curiosity: float = 0.5

    def __post_init__(self) -> None:
        for name in ("start", "batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"predictor needs {name} of at least 1, not {value}")
        if not self.curiosity >= 0:
            raise InputError(f"curiosity={self.curiosity} must be at least 0")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        start = self.start or min(15, max(LEARNING, budget // 4))
        return _PredictorStrategy(problem, rng, start, self.batch or min(5, max(1, budget // 20)), self.curiosity)


class _PredictorStrategy:
    def __init__(self, problem: Problem, rng: Rng, start: int, batch: int, curiosity: float) -> None:
        self.problem, self.space, self.rng, self.novel = problem, problem.space, rng, Novel(problem, rng)
        self.start, self.batch, self.curiosity = start, batch, curiosity
        self.known: dict[Arch, Evaluation] = {}  # all that have an accuracy
        self.nearest: list[Evaluation] = []  # what to descend from while hardly anything keeps the limits
        self.surrogate, self.told, self.any_kept = Surrogate(), 0, True

    def ask(self, n: int) -> list[Arch]:
        missing = self.start - len(self.known)
        if missing > 0 and self.told < OPENING * self.start:
            return self.novel.drawn(min(n, missing), n)
        size, pool = min(n, self.batch), self._pool()
        if len(self.known) < LEARNING:  # the nearest to the limits: infeasible ones cost nothing
            return self.novel.filled(self.novel.new(pool[: size if self.any_kept else min(n, SEEKING)]), size, n)
        if not self.any_kept:  # all that keep the limits are known, it seems
            return self.novel.drawn(size, n)
        self.surrogate.fit(list(self.known), [evaluation.accuracy for evaluation in self.known.values()])
        expected, deviation = self.surrogate.predict(pool)
        order = np.argsort(-(expected + self.curiosity * deviation), kind="stable")[:size]
        return self.novel.filled(self.novel.new([pool[i] for i in order]), size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.told += len(evaluations)
        for evaluation in evaluations:
            if evaluation.accuracy == evaluation.accuracy:
                self.known[evaluation.arch] = evaluation
        if len(self.known) < LEARNING:
            self.nearest = sorted([*self.nearest, *evaluations], key=rank_key)[:PARENTS]

    def _pool(self) -> list[Arch]:
        """Candidates that are new and keep the limits, those that miss them least where none does."""
        parents = sorted(self.known.values(), key=rank_key)[:PARENTS] or self.nearest
        archs = self.novel.feasible.sample(self.novel.numbers, POOL - POOL // 2)
        for _ in range(POOL // 2):
            a, b = (parents[draw(self.rng, len(parents))].arch for _ in range(2))
            child = self.space.cross(a, b, self.rng) if self.rng.random() < 0.5 else a
            archs.append(self.space.mutate(child, self.rng, 1 / len(child)))
        canonical = dict.fromkeys(map(self.space.canonical, archs))
        priced = self.problem.priced([arch for arch in canonical if arch not in self.novel.asked])
        kept = [evaluation.arch for evaluation in priced if evaluation.feasible]
        self.any_kept = bool(kept)
        return kept or [evaluation.arch for evaluation in sorted(priced, key=rank_key)]
