"""What an architecture is, and what a search space must answer.

An architecture is a tuple of genes, a value. A space says how many options the next gene has and which layers
an architecture consists of; everything else has a default here.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import nn

from ..errors import HwnasError, InputError, MissingLayerError
from ..files import digest
from .blocks import build
from .layer import INPUT, Layer, Node, named

Arch = tuple[int, ...]
"""An architecture: a value, one gene after the other."""

BITS = 52  # of a random number in [0, 1) that are random, and exact as an integer


class Rng(Protocol):
    """A source of uniform numbers in [0, 1): `random.Random` and `numpy.random.Generator` both are one."""

    def random(self) -> float: ...


def draw(rng: Rng, n: int) -> int:
    """A uniform integer in [0, n)."""
    return int(rng.random() * n)


def _hits(number: Callable[[], float], rate: float, n: int) -> Iterator[int]:
    """Which of `n` places are hit, each with probability `rate`: one random number per hit, not per place."""
    if rate >= 1:
        yield from range(n)
    elif rate > 0:
        scale, log1p = 1 / math.log1p(-rate), math.log1p
        place = int(log1p(-number()) * scale)  # geometric: places that are missed before the next
        while place < n:
            yield place
            place += 1 + int(log1p(-number()) * scale)


class SearchSpace(ABC):
    """A set of architectures. A space defines `choices` and `graph`; the rest has these defaults."""

    spec: str = ""
    """The text by which `load_space` finds this space again; empty for one that only lives in a program."""

    @abstractmethod
    def choices(self, prefix: Arch = ()) -> int | None:
        """Number of options of the gene after `prefix`; None when `prefix` is a complete architecture."""

    @abstractmethod
    def graph(self, arch: Arch) -> tuple[Node, ...]:
        """The layers of an architecture in topological order: the only walk over shapes in the project."""

    @property
    def options(self) -> tuple[int, ...] | None:
        """Options per gene where they don't depend on other genes (arrays then serve for batches)."""
        return None

    def build(self, layer: Layer) -> nn.Module:
        """A new module for a layer, from the operations that hwnas knows; override it for own blocks."""
        return build(layer)

    def canonical(self, arch: Arch) -> Arch:
        """The representative of all architectures that are the same network."""
        return arch

    def check(self, arch: Sequence[int]) -> Arch:
        """`arch` as a tuple of ints; InputError if it is not an architecture of this space."""
        genes = tuple(int(gene) for gene in arch)
        for position in range(len(genes) + 1):
            options = self.choices(genes[:position])
            if (options is None) != (position == len(genes)):
                raise InputError(f"architecture {genes} has {len(genes)} genes, {self} ends at {position}")
            if options is not None and not 0 <= genes[position] < options:
                raise InputError(f"gene {position} of architecture {genes} must lie in 0..{options - 1} in {self}")
        return genes

    def sample(self, rng: Rng) -> Arch:
        """Each gene uniform over its options (uniform over architectures where genes are independent)."""
        if self.options is not None:
            return tuple([int(rng.random() * n) for n in self.options])
        return self.grow((), rng)

    def grow(self, prefix: Arch, rng: Rng) -> Arch:
        """`prefix` with every further gene uniform over its options."""
        while (options := self.choices(prefix)) is not None:
            prefix += (draw(rng, options),)
        return prefix

    def mutate(self, arch: Arch, rng: Rng, rate: float) -> Arch:
        """Each gene drawn anew with probability `rate`, and where an earlier change made it invalid."""
        if self.options is not None:
            genes, counts, number = list(arch), self.options, rng.random
            for i in _hits(number, rate, len(genes)):
                genes[i] = int(number() * counts[i])
            return tuple(genes)
        child: Arch = ()
        while (options := self.choices(child)) is not None:
            gene = arch[len(child)] if len(child) < len(arch) else options
            child += (draw(rng, options) if gene >= options or rng.random() < rate else gene,)
        return child

    def cross(self, a: Arch, b: Arch, rng: Rng) -> Arch:
        """Each gene from `a` or `b` with equal probability; drawn anew where neither fits."""
        if self.options is not None:
            if len(a) > BITS:
                return (*self.cross(a[:BITS], b[:BITS], rng), *self.cross(a[BITS:], b[BITS:], rng))
            coins = f"{int(rng.random() * (1 << BITS)):0{BITS}b}"  # one number, a bit of it per gene
            return tuple([x if coin == "1" else y for x, y, coin in zip(a, b, coins, strict=False)])
        child: Arch = ()
        while (options := self.choices(child)) is not None:
            i = len(child)
            genes = [parent[i] for parent in (a, b) if i < len(parent) and parent[i] < options]
            child += (genes[draw(rng, len(genes))] if genes else draw(rng, options),)
        return child

    def size(self) -> int:
        """Number of architectures; where genes depend on others it is counted, up to a million."""
        if self.options is not None:
            return math.prod(self.options)
        count, stack = 0, [Arch()]
        while stack:
            prefix = stack.pop()
            options = self.choices(prefix)
            if options is None:
                count += 1
            else:
                stack.extend((*prefix, gene) for gene in range(options))
            if count + len(stack) > 1_000_000:
                raise HwnasError(f"{self} has over a million architectures: define its size()")
        return count

    def nodes(self) -> tuple[tuple[str, Layer], ...]:
        """Every (slot, layer) that some architecture uses, in a fixed order.

        Found by drawing architectures until 2,000 in a row bring nothing new; a space that can list them
        overrides this. `Supernet` and tables name a layer that was missed, they never guess.
        """
        return _drawn_nodes(self)

    def layers(self) -> tuple[Layer, ...]:
        """The distinct layers of the space: what a device must be asked to price."""
        return tuple(dict.fromkeys(layer for _, layer in self.nodes()))

    def input_shape(self, batch: int = 1) -> tuple[int, ...]:
        """Shape of the images that the space's networks read: (B, C, S, S)."""
        first = next(node.layer for node in self.graph(self.sample(random.Random(0))) if INPUT in node.inputs)
        return first.input_shapes(batch)[0]

    def classes(self) -> int:
        """Number of outputs."""
        return self.graph(self.sample(random.Random(0)))[-1].layer.out_channels

    def fingerprint(self) -> str:
        """A digest of the space's choices, layers, modules and a few graphs: equal for equal spaces."""
        return _fingerprint(self)

    def __str__(self) -> str:
        return self.spec or type(self).__name__


@lru_cache(maxsize=64)
def _fingerprint(space: SearchSpace) -> str:
    rng, nodes = random.Random(0), space.nodes()
    graphs = [space.graph(space.sample(rng)) for _ in range(16)] if nodes else []
    with torch.device("meta"):
        modules = [str(space.build(layer)) for layer in dict.fromkeys(layer for _, layer in nodes)]
    return digest(space.options, nodes, graphs, modules)


@lru_cache(maxsize=64)
def _drawn_nodes(space: SearchSpace) -> tuple[tuple[str, Layer], ...]:
    rng, found, quiet = random.Random(0), dict[tuple[str, Layer], None](), 0
    while quiet < 2000:
        before = len(found)
        found.update(((slot, node.layer), None) for slot, node in named(space.graph(space.sample(rng))))
        quiet = quiet + 1 if len(found) == before else 0
    return tuple(sorted(found, key=lambda item: (len(item[0]), item[0], str(item[1]))))


class ChoiceSpace(SearchSpace):
    """Independent choices: on its own, the space of a published table; with a `graph`, one of networks."""

    def __init__(self, options: Sequence[int]) -> None:
        if not options or min(options) < 1:
            raise InputError(f"a space needs at least one choice, each with at least one option, not {options}")
        self._options = tuple(options)

    @property
    def options(self) -> tuple[int, ...]:
        return self._options

    def choices(self, prefix: Arch = ()) -> int | None:
        return self._options[len(prefix)] if len(prefix) < len(self._options) else None

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        raise MissingLayerError(f"{self} has choices only: no layers to build, price or export {arch}")

    def nodes(self) -> tuple[tuple[str, Layer], ...]:
        return () if type(self).graph is ChoiceSpace.graph else super().nodes()

    def __str__(self) -> str:
        return self.spec or f"{type(self).__name__}({len(self._options)} choices, {self.size():,} architectures)"
