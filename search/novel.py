"""Candidates that a strategy has not asked for yet: made by itself, or drawn where it has none left."""

from __future__ import annotations

from collections.abc import Callable

from ..supernet.space import Arch, Rng
from .feasible import Feasible, numbers_of
from .problem import Problem

TRIES = 5  # per candidate, before its place goes to a random one
BULK = 100  # random ones that are looked at together


class Novel:
    """Hands out every architecture of a problem once, and draws at random among those that keep the limits."""

    def __init__(self, problem: Problem, rng: Rng) -> None:
        self.problem, self.space = problem, problem.space
        self.asked: set[Arch] = set()
        self.stock: list[Arch] = []  # random ones that keep the limits, not handed out yet
        self.repeats = 0  # given at once the last time, when nothing else was left
        self.feasible = Feasible(problem)
        self.numbers = numbers_of(rng)

    def made(self, make: Callable[[], Arch], n: int) -> list[Arch]:
        """Up to `n` new candidates from `make`, in canonical form."""
        found: list[Arch] = []
        canonical, asked = self.space.canonical, self.asked
        for _ in range(n * TRIES):
            if len(found) == n:
                break
            if (arch := canonical(make())) not in asked:
                asked.add(arch)
                found.append(arch)
        return found

    def new(self, archs: list[Arch]) -> list[Arch]:
        """Those of `archs` that were never handed out, in canonical form."""
        found = []
        for arch in map(self.space.canonical, archs):
            if arch not in self.asked:
                self.asked.add(arch)
                found.append(arch)
        return found

    def drawn(self, n: int, most: int | None = None) -> list[Arch]:
        """`n` random candidates: new ones that keep the limits, else new ones that don't, else repeats.

        The latter two cost no evaluations: of those that break limits it gives up to `most`, where there are no others.
        As long as there are none but repeats it gives twice as many every time: a search whose candidates bring nothing
        new then ends.
        """
        missed: list[Arch] = []
        for _ in range(TRIES):
            if len(self.stock) >= n:
                break
            draws = dict.fromkeys(map(self.space.canonical, self.feasible.sample(self.numbers, max(n, BULK))))
            stocked = set(self.stock)
            fresh = [arch for arch in draws if arch not in self.asked and arch not in stocked]
            priced = self.problem.priced(fresh)
            self.stock += [evaluation.arch for evaluation in priced if evaluation.feasible]
            missed += [evaluation.arch for evaluation in priced if not evaluation.feasible]
        found = self.new(self.stock[:n])
        self.stock = self.stock[n:]
        if len(found) < n:
            found += self.new(missed[: n - len(found) if found else most or n])
        if found or most is None:
            self.repeats = 0
            return found or self.feasible.sample(self.numbers, n)
        self.repeats = min(2 * max(self.repeats, n), most)
        return self.feasible.sample(self.numbers, self.repeats)

    def filled(self, found: list[Arch], n: int, most: int) -> list[Arch]:
        """`found`, filled up with random ones to `n` (see `drawn`)."""
        return found + self.drawn(n - len(found), most - len(found)) if len(found) < n else found
