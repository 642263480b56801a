"""Costs that are sums over genes and neighbouring genes: priced in bulk, bounded exactly."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .space import Arch, SearchSpace


@dataclass(frozen=True, eq=False)
class AdditiveCost:
    """cost(arch) = offset + sum_i unary[i][a_i] + sum_i pairwise[i][a_i, a_{i+1}].

    `unary[i]` has shape (options_i,); `pairwise[i]` has shape (options_i, options_{i+1}) or is None.
    """

    offset: float
    unary: tuple[NDArray[np.float64], ...]
    pairwise: tuple[NDArray[np.float64] | None, ...] = ()

    def __call__(self, archs: ArrayLike) -> NDArray[np.float64]:
        """Costs of a batch: (n, choices) integers -> (n,)."""
        genes = np.asarray(archs)  # (n, choices)
        if genes.ndim != 2 or genes.shape[1] != len(self.unary) or (genes.size and genes.min() < 0):
            raise InputError(
                f"architectures must be (n, {len(self.unary)}) numbers of options, not {genes.shape} from {genes.min()}"
            )
        total = np.full(len(genes), self.offset)
        for i, table in enumerate(self.unary):
            total += table[genes[:, i]]
        for i, pair in enumerate(self.pairwise):
            if pair is not None:
                total += pair[genes[:, i], genes[:, i + 1]]
        return total

    def affine(self, scale: float, offset: float) -> AdditiveCost:
        """The cost scale * self + offset."""
        return AdditiveCost(
            scale * self.offset + offset,
            tuple(scale * table for table in self.unary),
            tuple(None if pair is None else scale * pair for pair in self.pairwise),
        )

    def argmin(self) -> Arch:
        """The cheapest architecture, exactly: dynamic programming from the last gene to the first."""
        pairs = [*self.pairwise, *[None] * (len(self.unary) - len(self.pairwise))]
        rest = np.zeros(1)  # rest[g]: the cheapest completion after gene value g of the position at hand
        steps: list[NDArray[np.int64]] = []  # steps[k][g]: the next gene on that completion
        for i in reversed(range(len(self.unary))):
            tail = self.unary[i] + rest  # (options_i,)
            before = pairs[i - 1] if i else None
            reach = tail[None, :] if before is None else before + tail[None, :]  # (options_{i-1} or 1, options_i)
            steps.append(reach.argmin(axis=1))
            rest = reach.min(axis=1)
        arch: Arch = ()
        for step in reversed(steps):
            arch += (int(step[arch[-1] if arch and len(step) > 1 else 0]),)
        return arch

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest cost of any architecture, exactly."""
        cheapest, dearest = self.argmin(), self.affine(-1, 0).argmin()
        low, high = self([cheapest, dearest])
        return float(low), float(high)


def additive(space: SearchSpace, price: Callable[[Arch], float]) -> AdditiveCost | None:
    """`price` as an AdditiveCost, or None where it is not one.

    The tables are read off by changing one gene, then two neighbours, of one architecture; the result must
    agree with `price` on 64 random architectures to 1e-9.
    """
    options = space.options
    if options is None:
        return None
    base = (0,) * len(options)

    def changed(start: int, *genes: int) -> float:
        return price((*base[:start], *genes, *base[start + len(genes) :])) - offset

    offset = price(base)
    unary = tuple(np.array([changed(i, g) for g in range(n)]) for i, n in enumerate(options))
    rng = random.Random(0)
    probes = [space.sample(rng) for _ in range(64)]
    truth = np.array([price(arch) for arch in probes])
    cost = AdditiveCost(offset, unary)
    if _agree(cost, probes, truth):
        return cost
    pairwise = tuple(
        np.array([[changed(i, a, b) - unary[i][a] - unary[i + 1][b] for b in range(m)] for a in range(n)])
        for i, (n, m) in enumerate(itertools.pairwise(options))
    )
    cost = AdditiveCost(offset, unary, pairwise)
    return cost if _agree(cost, probes, truth) else None


def _agree(cost: AdditiveCost, archs: Sequence[Arch], truth: NDArray[np.float64]) -> bool:
    return bool(np.allclose(cost(archs), truth, rtol=1e-9, atol=1e-12))
