"""Sampling rules: the paths of a training step, and from what each of them learns.

All are functions of (seed, step): a resumed run, and every rank of a distributed one, sees the same paths.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .additive import AdditiveCost
from .cost import analytic_cost
from .space import Arch, SearchSpace

POOL = 2000  # random architectures, where the smallest and the largest are not known exactly
RANDOM_PATHS = 2  # of the sandwich


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

    In-place distillation (https://arxiv.org/abs/1903.05134, sections 3.1, 3.3, as in BigNAS,
    https://arxiv.org/abs/2003.11142, section 3.1).
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

    Exact where these are a sum over genes, else those among random architectures.
    """
    flops = analytic_cost(space, "flops")
    if isinstance(flops, AdditiveCost):
        return flops.argmin(), flops.affine(-1, 0).argmin()
    rng = random.Random(0)
    pool = sorted({space.sample(rng) for _ in range(POOL)})
    order = flops(pool).argsort()
    return pool[order[0]], pool[order[-1]]


def _rng(seed: int, step: int) -> random.Random:
    return random.Random(f"path {seed} {step}")
