"""Architectures spread evenly from the cheapest to the dearest of a space."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..supernet.additive import AdditiveCost
from ..supernet.space import Arch, SearchSpace

POOL = 4000


def spread(
    space: SearchSpace,
    cost: AdditiveCost | Callable[[Sequence[Arch]], NDArray[np.float64]],
    count: int,
    seed: int,
    exclude: Collection[Arch] = (),
) -> list[Arch]:
    """`count` architectures whose costs lie at equal steps over the reachable range (fewer if the space has fewer).

    Uniform samples crowd in the middle; so the pool holds children of the cheapest and the dearest too,
    in all proportions.
    """
    rng = random.Random(seed)
    pool = {space.sample(rng) for _ in range(POOL)}
    if isinstance(cost, AdditiveCost):
        cheap, dear = cost.argmin(), cost.affine(-1, 0).argmin()
        pool |= {cheap, dear}
        for _ in range(POOL):
            share, other = rng.random(), space.sample(rng)
            ends = (dear if rng.random() < share else cheap for _ in cheap)
            pool.add(tuple(end[i] if rng.random() < 0.7 else other[i] for i, end in enumerate(ends)))
    archs = sorted({space.canonical(arch) for arch in pool} - set(exclude))
    if not archs:
        raise InputError(f"every architecture of {space} is taken: none is left to measure")
    costs = np.asarray(cost(archs))
    chosen: list[int] = []
    for target in np.linspace(costs.min(), costs.max(), min(count, len(archs))):
        distance = np.abs(costs - target)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return [archs[i] for i in chosen]
