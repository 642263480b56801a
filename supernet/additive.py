"""Costs that are sums over genes and neighbouring genes: priced in bulk, bounded exactly."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .space import Arch, SearchSpace


@dataclass(frozen=True, eq=False)
class AdditiveCost:
    """`cost(arch) = offset + sum_i unary[i][a_i] + sum_i pairwise[i][a_i, a_{i+1}]`.

    `unary[i]` has shape (options_i,); `pairwise[i]` has shape (options_i, options_{i+1}) or is None.
    """

    offset: float
    unary: tuple[NDArray[np.float64], ...]
    pairwise: tuple[NDArray[np.float64] | None, ...] = ()

    def __call__(self, archs: ArrayLike) -> NDArray[np.float64]:
        """Costs of a batch: (n, choices) integers -> (n,)."""
        genes = np.asarray(archs)  # (n, choices)
        if genes.ndim != 2 or genes.shape[1] != len(self.unary) or (genes < 0).any():
            raise self._unknown(genes)
        total = np.full(len(genes), self.offset, dtype=np.float64)
        try:
            for i, table in enumerate(self.unary):
                total += table[genes[:, i]]
            for i, pair in enumerate(self.pairwise):
                if pair is not None:
                    total += pair[genes[:, i], genes[:, i + 1]]
        except IndexError:
            raise self._unknown(genes) from None
        return total

    def _unknown(self, genes: NDArray[Any]) -> InputError:
        options = [len(table) for table in self.unary]
        least, most = (int(genes.min()), int(genes.max())) if genes.size else ("-", "-")
        return InputError(
            f"architectures must be (n, {len(options)}) numbers of options, below {options}; these are {genes.shape} "
            f"from {least} to {most}"
        )

    def affine(self, scale: float, offset: float) -> AdditiveCost:
        """The cost scale * self + offset."""
        return AdditiveCost(
            scale * self.offset + offset,
            tuple(scale * table for table in self.unary),
            tuple(None if pair is None else scale * pair for pair in self.pairwise),
        )

    def __add__(self, other: AdditiveCost) -> AdditiveCost:
        """The sum of two costs on one space."""
        pairs = itertools.zip_longest(self.pairwise, other.pairwise)
        return AdditiveCost(
            self.offset + other.offset,
            tuple(a + b for a, b in zip(self.unary, other.unary, strict=True)),
            tuple(b if a is None else a if b is None else a + b for a, b in pairs),
        )

    def through(self, i: int, rest: NDArray[np.float64]) -> NDArray[np.float64]:
        """What gene `i` and all after it cost, by (option of the gene before, option of gene i).

        `rest` (options_i or 1,) is what the genes after it cost. One row where the gene before doesn't matter.
        """
        tail = self.unary[i] + rest  # (options_i,)
        pair = self.pairwise[i - 1] if 0 < i <= len(self.pairwise) else None
        return tail[None, :] if pair is None else pair + tail[None, :]

    def completions(self) -> list[NDArray[np.float64]]:
        """For every i what genes i, i + 1, ... cost at least, by the option of gene i - 1: (options or 1,).

        Dynamic programming from the last gene to the first. The first array is the cheapest architecture's cost
        without the offset, the last one zero.
        """
        rest = [np.zeros(1)]
        for i in reversed(range(len(self.unary))):
            rest.append(self.through(i, rest[-1]).min(axis=1))
        return rest[::-1]

    def argmin(self) -> Arch:
        """The cheapest architecture, exactly."""
        arch: Arch = ()
        for i, rest in enumerate(self.completions()[1:]):
            whole = self.through(i, rest)
            arch += (int(whole[arch[-1] if len(whole) > 1 else 0].argmin()),)
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
