"""Sampling rules: the paths of a training step, and from what each of them learns.

All are functions of (seed, step): a resumed run, and every rank of a distributed one, sees the same paths.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .additive import AdditiveCost
from .cost import analytic_cost
from .space import Arch, SearchSpace

POOL = 2000  # random architectures, where the smallest and the largest are not known exactly
RANDOM_PATHS = 2  # of the sandwich
SWEEPS = 20  # over all genes, from the smallest and the largest of these to the ends


@dataclass(frozen=True)
class Pass:
    """One path through the supernet, forward and back. `teacher` is the earlier pass of the same step whose outputs it
    learns from; None: the labels.
    """

    arch: Arch
    teacher: int | None = None


Rule = Callable[[SearchSpace, int, int], list[Pass]]


def uniform(space: SearchSpace, seed: int, step: int) -> list[Pass]:
    """One architecture, every option equally likely (SPOS, https://arxiv.org/abs/1904.00420, equation 7)."""
    return [Pass(space.sample(_rng(seed, step)))]


def fair(space: SearchSpace, seed: int, step: int) -> list[Pass]:
    """As many paths as the choice with most options has, that use the options of each choice equally often.

    Where all choices have the same number of options each is used exactly once: strict fairness (FairNAS,
    https://arxiv.org/abs/1907.01845, section 3.3, algorithm 1). Else the uses of two options differ by one at most; of
    choices that depend on others, of those that come up.
    """
    rng, used = _rng(seed, step), defaultdict[int, Counter[int]](Counter)
    paths: list[Pass] = []
    most = 1
    while len(paths) < most:
        arch: Arch = ()
        while (options := space.choices(arch)) is not None:
            most, uses = max(most, options), used[len(arch)]
            fewest = min(uses[gene] for gene in range(options))
            gene = rng.choice([gene for gene in range(options) if uses[gene] == fewest])
            uses[gene] += 1
            arch += (gene,)
        paths.append(Pass(arch))
    return paths


def sandwich(space: SearchSpace, seed: int, step: int) -> list[Pass]:
    """The largest path, which learns from the labels; the smallest and two random ones, which learn from it.

    The sandwich rule, and inplace distillation, of universally slimmable networks (https://arxiv.org/abs/1903.05134),
    as in BigNAS (https://arxiv.org/abs/2003.11142, section 3.1).
    """
    rng, (smallest, largest) = _rng(seed, step), extremes(space)
    others = [smallest, *(space.sample(rng) for _ in range(RANDOM_PATHS))]
    return [Pass(largest), *(Pass(arch, teacher=0) for arch in others)]


def largest(space: SearchSpace, _seed: int, _step: int) -> list[Pass]:
    """The largest path, as every training of all paths may begin."""
    return [Pass(extremes(space)[1])]


SAMPLING: dict[str, Rule] = {"uniform": uniform, "fair": fair, "sandwich": sandwich}


@lru_cache(maxsize=16)
def extremes(space: SearchSpace) -> tuple[Arch, Arch]:
    """The architectures of fewest and of most multiply-accumulates.

    Exact where these are a sum over genes, or where a larger option (a depth, a width, a resolution, a kernel) makes
    every network larger; elsewhere no other option of one gene alone makes the one smaller or the other larger.
    """
    flops = analytic_cost(space, "flops")
    if isinstance(flops, AdditiveCost):
        return flops.argmin(), flops.affine(-1, 0).argmin()
    rng = random.Random(0)
    pool = sorted({space.sample(rng) for _ in range(POOL)})
    order = flops(pool).argsort()
    return (
        _improved(space, pool[order[0]], flops),
        _improved(space, pool[order[-1]], lambda archs: -flops(archs)),
    )


def _improved(space: SearchSpace, arch: Arch, cost: Callable[[list[Arch]], NDArray[np.float64]]) -> Arch:
    """An architecture that no other option of a single gene makes cheaper, from `arch` on, gene by gene."""
    for _ in range(SWEEPS):
        before, place = arch, 0
        while (options := space.choices(arch[:place])) is not None:
            others = [arch, *(_changed(space, arch, place, gene) for gene in range(options))]
            arch, place = others[int(cost(others).argmin())], place + 1
        if arch == before:
            break
    return space.canonical(arch)


def _changed(space: SearchSpace, arch: Arch, place: int, gene: int) -> Arch:
    """`arch` with another gene at a place; those behind it stay, where they still fit."""
    child = (*arch[:place], gene)
    while (options := space.choices(child)) is not None:
        child += (min(arch[len(child)], options - 1) if len(child) < len(arch) else 0,)
    return child


def _rng(seed: int, step: int) -> random.Random:
    return random.Random(f"path {seed} {step}")
