"""Architectures that keep the limits, drawn uniformly however tight the limits are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..supernet.additive import AdditiveCost
from ..supernet.space import Arch, Rng
from .problem import Problem

BINS = 4096  # into which what a limit leaves above the cheapest architecture is cut, to count by
ALL = 1 - 1e-9  # of all architectures: no limit, but for rounding
ROUNDING = 1e-12  # of the largest cost: what sums of floating-point numbers may be off by
ROUNDS, BULK, MOST = 20, 1000, 50_000  # of draws, each of more at once, while too few of them keep the limits


@dataclass(frozen=True, eq=False)
class Completions:
    """How many architectures keep a limit, counted from every point on the way to one, and drawn by these counts.

    Dynamic programming over quantised cost, from the last gene to the first. What an option adds to the cheapest
    completion is rounded down to bins, so that all architectures within the limit are counted, and some that lie
    above it by less than a bin per gene: who draws has to leave these out.
    """

    cost: AdditiveCost
    limit: float
    bins: int = BINS

    def draw(self, uniforms: NDArray[np.float64], prefix: Arch = ()) -> NDArray[np.int64]:
        """One architecture for each row of `uniforms` in [0, 1), gene by gene: (n, choices) -> (n, choices).

        Uniform over all that are counted and begin with `prefix`, where the numbers are independent and uniform.
        """
        left, genes = np.full(len(uniforms), self.bins), np.zeros(uniforms.shape, dtype=np.int64)
        for i in range(uniforms.shape[1]):
            ways, rest = self.options(i, genes[:, i - 1], left)
            sums = ways.cumsum(axis=1)
            drawn = (sums <= uniforms[:, i, None] * sums[:, -1:]).sum(axis=1).clip(max=ways.shape[1] - 1)
            genes[:, i] = prefix[i] if i < len(prefix) else drawn
            left = rest[np.arange(len(genes)), genes[:, i]]
        return genes

    def options(
        self, i: int, before: NDArray[np.int64], left: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Of gene `i` every option's completions that fit, the most being 1, and the bins left: (n, options) each.

        `before` (n,) is the option of the gene before, `left` (n,) the bins left so far.
        """
        steps, ways = self._steps[i], self._ways[i]
        rest = left[:, None] - steps[before if len(steps) > 1 else np.zeros_like(before)]
        rows = np.arange(steps.shape[1]) if len(ways) > 1 else np.zeros(steps.shape[1], dtype=np.int64)
        logs = np.where(rest >= 0, ways[rows, np.maximum(rest, 0)], -np.inf)
        most = logs.max(axis=1, keepdims=True)
        return np.exp(logs - np.where(np.isfinite(most), most, 0.0)), rest

    @cached_property
    def share(self) -> float:
        """The fraction of all architectures that is counted."""
        return float(np.exp(_counted(self._steps[0], self._ways[0])[0, self.bins]))

    @cached_property
    def _steps(self) -> list[NDArray[np.int64]]:
        """Per gene the bins that each of its options takes, by the option of the gene before: (options or 1, options).

        What takes more than all of them never fits: infinite costs do.
        """
        cheapest = self.cost.completions()
        with np.errstate(invalid="ignore"):  # infinity less infinity
            added = [self.cost.through(i, rest) - cheapest[i][:, None] for i, rest in enumerate(cheapest[1:])]
        added = [np.where(np.isfinite(a), a, np.inf) for a in added]
        lowest = self.cost.offset + float(cheapest[0][0])
        if not np.isfinite(lowest):
            return [np.full(a.shape, self.bins + 1) for a in added]
        rounding = ROUNDING * max(abs(lowest), *(float(a[np.isfinite(a)].max(initial=0.0)) for a in added), 1e-300)
        size = (max(self.limit - lowest, 0.0) + rounding) / self.bins
        return [np.minimum(np.maximum(a - rounding, 0) / size, self.bins + 1).astype(np.int64) for a in added]

    @cached_property
    def _ways(self) -> list[NDArray[np.float64]]:
        """Per gene the share of completions that fit, by its option and the bins left: (options or 1, bins + 1).

        As logarithms, as numbers overflow where spaces are large; one row where the option doesn't matter.
        """
        ways = [np.zeros((1, self.bins + 1))]
        for i in reversed(range(1, len(self._steps))):
            ways.append(_counted(self._steps[i], ways[-1]))
        return ways[::-1]


def _counted(steps: NDArray[np.int64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms of the shares that fit before a gene is chosen, from those `after` it: (options or 1, bins + 1)."""
    befores, options = steps.shape
    share = np.full((befores, after.shape[1]), -np.inf)
    for before, option in itertools.product(range(befores), range(options)):
        step = steps[before, option]
        if step < share.shape[1]:
            more = after[option if len(after) > 1 else 0, : share.shape[1] - step] - np.log(options)
            share[before, step:] = np.logaddexp(share[before, step:], more)
    return share


@dataclass(frozen=True, eq=False)
class Feasible:
    """Draws of architectures that keep a problem's limits, as far as costs that are sums over genes tell.

    Several such limits are counted by the weighted mean of them (each as a fraction of its limit) that leaves fewest
    architectures: whatever keeps all of them keeps their mean. Exact costs then decide. Limits on other costs are
    left to the search, which prices every candidate.
    """

    problem: Problem

    def sample(self, rng: np.random.Generator, n: int) -> list[Arch]:
        """`n` architectures, uniform over those that keep the limits on additive costs.

        Uniform gene by gene where there are none, or where the space's genes depend on each other. Where rounding
        leaves hardly any, the rest keep the limits nearly.
        """
        space = self.problem.space
        if space.options is None:
            return [space.sample(rng) for _ in range(n)]
        genes = self.at(rng.random((n, len(space.options))))
        kept = genes[self._keeps(genes)]
        for _ in range(ROUNDS):
            if len(kept) >= n:
                break
            genes = self.at(rng.random((min(MOST, 2 * len(genes) + BULK), len(space.options))))
            kept = np.concatenate([kept, genes[self._keeps(genes)]])
        return [tuple(row) for row in np.concatenate([kept, genes])[:n].tolist()]

    def at(self, uniforms: NDArray[np.float64], prefix: Arch = ()) -> NDArray[np.int64]:
        """One architecture that begins with `prefix` for each row of `uniforms` in [0, 1): (n, choices).

        Exact costs have not decided yet.
        """
        if self.completions is not None:
            return self.completions.draw(uniforms, prefix)
        genes = (uniforms * np.array(self.problem.space.options)).astype(np.int64)
        genes[:, : len(prefix)] = prefix
        return genes

    def complete(self, prefix: Arch, rng: np.random.Generator, n: int) -> list[Arch]:
        """`n` random architectures that begin with `prefix`, and keep the limits where it can (see `sample`)."""
        space = self.problem.space
        if space.options is None:
            return [space.grow(prefix, rng) for _ in range(n)]
        return [tuple(row) for row in self.at(rng.random((n, len(space.options))), prefix).tolist()]

    @cached_property
    def completions(self) -> Completions | None:
        """What the draws are counted by; None where no limit is on an additive cost, or all architectures keep it."""
        counted = [Completions(mean, 1.0) for _, mean in means(self.problem)]
        tightest = min(counted, key=lambda one: one.share, default=None)
        return None if tightest is None or tightest.share >= ALL else tightest

    @cached_property
    def _additive(self) -> dict[str, AdditiveCost]:
        return additive_limited(self.problem)

    def _keeps(self, genes: NDArray[np.int64]) -> NDArray[np.bool_]:
        kept = np.ones(len(genes), dtype=bool)
        for name, cost in self._additive.items():
            kept &= cost(genes) <= self.problem.limits[name]
        return kept


def additive_limited(problem: Problem) -> dict[str, AdditiveCost]:
    """The limited costs that are sums over genes, by name."""
    costs = {name: problem.costs[name] for name in problem.limits}
    return {name: cost for name, cost in costs.items() if isinstance(cost, AdditiveCost)}


def means(problem: Problem) -> list[tuple[tuple[str, ...], AdditiveCost]]:
    """Weighted means of such costs as fractions of their limits, and whose: what keeps all limits keeps each to 1."""
    costs = {name: cost.affine(1 / problem.limits[name], 0) for name, cost in additive_limited(problem).items()}
    return [
        (tuple(name for name, weight in zip(costs, weights, strict=True) if weight), _mean([*costs.values()], weights))
        for weights in _weights(len(costs))
    ]


def _weights(n: int) -> list[tuple[float, ...]]:
    """Weights of `n` costs: each alone, each pair at nine ratios, and all alike."""
    alone = [tuple(float(i == j) for j in range(n)) for i in range(n)]
    pairs = [
        tuple(share if i == a else 1 - share if i == b else 0.0 for i in range(n))
        for a, b in itertools.combinations(range(n), 2)
        for share in np.linspace(0.1, 0.9, 9).tolist()
    ]
    return alone + pairs + ([(1 / n,) * n] if n > 2 else [])


def _mean(costs: Sequence[AdditiveCost], weights: Sequence[float]) -> AdditiveCost:
    """The weighted mean of additive costs."""
    used = [(cost, weight) for cost, weight in zip(costs, weights, strict=True) if weight]
    total, weight = used[0]
    total = total.affine(weight, 0)
    for cost, weight in used[1:]:
        total = total + cost.affine(weight, 0)
    return total


def numbers_of(rng: Rng) -> np.random.Generator:
    """A generator of arrays that `rng` decides."""
    return np.random.default_rng(int(rng.random() * 2**53))
