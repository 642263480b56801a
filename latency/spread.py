"""Architectures spread evenly from the cheapest to the dearest of a space."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..supernet.additive import AdditiveCost
from ..supernet.layer import Layer
from ..supernet.space import Arch, SearchSpace

POOL = 2000
ENDS, GENERATIONS = 40, 25


def spread(
    space: SearchSpace,
    cost: AdditiveCost | Callable[[Sequence[Arch]], NDArray[np.float64]],
    count: int,
    seed: int,
    exclude: Collection[Arch] = (),
    without: Collection[Layer] = (),
) -> list[Arch]:
    """`count` architectures at equal steps of cost over the reachable range (fewer if the space has fewer).

    Uniform samples crowd in the middle; so the pool grows towards both ends by breeding the cheapest with one
    another, and the dearest. Architectures with a layer of `without` are bred away in the same manner: few random ones
    may be free of them.
    """
    rng = random.Random(seed)
    pool = {space.sample(rng) for _ in range(POOL)}
    if isinstance(cost, AdditiveCost):
        pool |= {cost.argmin(), cost.affine(-1, 0).argmin()}
    pool = {space.canonical(arch) for arch in pool}
    prices: dict[Arch, float] = {}

    @cache
    def unwanted(arch: Arch) -> int:
        return sum(node.layer in without for node in space.graph(arch)) if without else 0

    for _ in range(GENERATIONS):
        unknown = sorted(pool - prices.keys())
        prices.update(zip(unknown, np.asarray(cost(unknown)).tolist(), strict=True) if unknown else ())
        cheapest = heapq.nsmallest(ENDS, prices, key=lambda arch: (unwanted(arch), prices[arch], arch))
        dearest = heapq.nsmallest(ENDS, prices, key=lambda arch: (unwanted(arch), -prices[arch], arch))
        for parents in (cheapest, dearest):
            pool |= {space.canonical(_child(space, parents, rng)) for _ in range(ENDS)}
    archs = [arch for arch in sorted(prices.keys() - set(exclude)) if not unwanted(arch)]
    if not archs:
        raise InputError(
            f"every architecture of {space} is taken, or has a layer that the device rejects: none is left to measure"
        )
    costs = np.array([prices[arch] for arch in archs])
    chosen: list[int] = []
    for target in np.linspace(costs.min(), costs.max(), min(count, len(archs))):
        distance = np.abs(costs - target)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return [archs[i] for i in chosen]


def _child(space: SearchSpace, parents: Sequence[Arch], rng: random.Random) -> Arch:
    return space.mutate(space.cross(rng.choice(parents), rng.choice(parents), rng), rng, 0.1)
