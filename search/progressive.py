"""Progressive search: architectures grow gene by gene, and a surrogate chooses which to go on with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, unknown_name
from ..supernet.space import Arch, Rng
from .novel import Novel
from .problem import Evaluation, Problem
from .strategy import Strategy
from .surrogate import Surrogate

COMPLETIONS = ("best", "random")
DRAWS = 20  # ways to complete a beginning, of which one is evaluated
LEARNING = 3  # evaluations at least to learn from
SEEKING = 100  # candidates at once, where none of the last ones keeps the limits: they cost nothing


@dataclass(frozen=True)
class Progressive:
    """Progressive NAS (Liu et al. 2018, Algorithm 1): https://arxiv.org/abs/1712.00559

    Level by level every beginning that is kept is expanded by all options of the next gene; of the expansions those
    stay of which the surrogate expects most, as many as are evaluated. A beginning is no network: it is evaluated as a
    `completion` of it that keeps the limits, `best` (of 20 random ones that of which the surrogate expects most) or
    `random`. (In the paper fewer blocks are a network already.) After the last gene it begins anew, with all that was
    learnt. By default a level evaluates what spreads the budget evenly over two rounds of all genes, at least 2.
    """

    width: int | None = None
    completion: str = "best"

    def __post_init__(self) -> None:
        if self.completion not in COMPLETIONS:
            raise unknown_name("completion", self.completion, COMPLETIONS)
        if self.width is not None and self.width < 1:
            raise InputError(f"progressive search needs width of at least 1, not {self.width}")

    def __call__(self, problem: Problem, rng: Rng, budget: int, /) -> Strategy:
        genes = statistics.median_low(len(problem.space.sample(rng)) for _ in range(DRAWS))
        return _ProgressiveStrategy(problem, rng, self.width or max(2, budget // (2 * genes)), self.completion)


class _ProgressiveStrategy:
    def __init__(self, problem: Problem, rng: Rng, width: int, completion: str) -> None:
        self.problem, self.space, self.novel = problem, problem.space, Novel(problem, rng)
        self.width, self.completion = width, completion
        self.beginnings: list[Arch] = [()]
        self.known: dict[Arch, float] = {}
        self.surrogate = Surrogate()

    def ask(self, n: int) -> list[Arch]:
        size = min(n, self.width)
        grown = self._grown()
        if not grown:  # nothing that keeps the limits was met
            return self.novel.drawn(min(n, SEEKING), n)
        scored = sorted(self._scored(grown), key=lambda one: -one[0])[:size]
        self.beginnings = [beginning for _, beginning, _ in scored] or [()]
        found: list[Arch] = []
        for _, _, completions in scored:
            found += next(filter(None, (self.novel.new([arch]) for arch in completions)), [])
        return self.novel.filled(found, size, n)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.known |= {e.arch: e.accuracy for e in evaluations if e.accuracy == e.accuracy}

    def _grown(self) -> list[tuple[Arch, list[Arch]]]:
        """Every beginning that is kept with each option of its next gene, and completions that keep the limits."""
        if all(self.space.choices(beginning) is None for beginning in self.beginnings):
            self.beginnings = [()]
        grown = [
            (*beginning, *gene)
            for beginning in self.beginnings
            for options in [self.space.choices(beginning)]
            for gene in ([()] if options is None else [(gene,) for gene in range(options)])
        ]
        completions = [self.novel.feasible.complete(arch, self.novel.numbers, DRAWS) for arch in grown]
        priced = self.problem.priced([self.space.canonical(arch) for archs in completions for arch in archs])
        kept = [[e.arch for e in priced[i * DRAWS : (i + 1) * DRAWS] if e.feasible] for i in range(len(grown))]
        return [(arch, archs) for arch, archs in zip(grown, kept, strict=True) if archs]

    def _scored(self, grown: Sequence[tuple[Arch, list[Arch]]]) -> list[tuple[float, Arch, list[Arch]]]:
        """What to expect of every beginning, and its completions in the order in which to take them."""
        archs = [arch for _, completions in grown for arch in completions]
        if len(self.known) >= LEARNING and archs:
            self.surrogate.fit(list(self.known), list(self.known.values()))
            expected = self.surrogate.predict(archs)[0]
        else:
            expected = self.novel.numbers.random(len(archs))
        scored, start = [], 0
        for beginning, completions in grown:
            scores = expected[start : start + len(completions)]
            start += len(completions)
            if self.completion == "best":
                ordered = [completions[i] for i in np.argsort(-scores, kind="stable")]
                scored.append((float(scores.max()), beginning, ordered))
            else:
                scored.append((float(scores.mean()), beginning, completions))
        return scored
