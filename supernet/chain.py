"""The space of a recipe: stages of blocks, one behind the other, with everything that may be chosen as a gene."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache

from ..errors import InputError
from .layer import INPUT, Layer, Node
from .recipe import Block, Recipe, Stage
from .space import Arch, ChoiceSpace


class ChainSpace(ChoiceSpace):
    """A chain of stages; each layer reads the one before.

    Genes, in this order: the resolution, then of each stage its depth, its width and the option of each block;
    a choice of one is no gene. Blocks beyond the chosen depth are left out: their genes don't matter, and are 0
    in the canonical architecture.
    """

    def __init__(self, recipe: Recipe, spec: str = "") -> None:
        self.recipe, self.spec = recipe, spec
        self._blocks = [[stage.blocks(i) for i in range(max(stage.depths))] for stage in recipe.stages]
        super().__init__(list(_gene_counts(recipe, self._blocks)))
        for shapes in self._shapes():
            self.graph(shapes)  # they must work out

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        genes = iter(arch)
        nodes: list[Node] = []
        full, size = max(self.recipe.sizes), _pick(self.recipe.sizes, genes)
        shape = self.recipe.channels, full
        if size != full:
            shape = self._append(nodes, Block("resize", params=(("out_size", size),)), shape, "resize")
        for i, block in enumerate(self.recipe.stem):
            shape = self._append(nodes, block, shape, f"stem{i}")
        for s, (stage, slots) in enumerate(zip(self.recipe.stages, self._blocks, strict=True)):
            depth, width = _pick(stage.depths, genes), _pick(stage.widths, genes)
            chosen = [options[next(genes) if len(options) > 1 else 0] for options in slots]
            for i, block in enumerate(chosen[:depth]):
                shape = self._append(nodes, _widened(block, width), shape, f"stage{s}_{i}")
        for i, block in enumerate(self.recipe.tail):
            shape = self._append(nodes, block, shape, f"tail{i}")
        return tuple(nodes)

    def _append(self, nodes: list[Node], block: Block, shape: tuple[int, int], slot: str) -> tuple[int, int]:
        """Put `block` behind an input of `shape` (channels, pixels); the shape of its output."""
        layer = _layer(block, *shape)
        if block.stride > 1 and layer.in_size < block.stride:
            raise InputError(
                f"an input of {min(self.recipe.sizes)} px is too small for {self}: nothing is left at {layer}"
            )
        if layer.op == "identity" and (layer.stride != 1 or layer.out_channels != layer.in_channels):
            raise InputError(f"{self}: at {slot} the shape changes ({layer}): no identity there, say where = 'rest'")
        nodes.append(Node(layer, (len(nodes) - 1,) if nodes else (INPUT,), slot))
        return layer.out_channels, layer.out_size

    def canonical(self, arch: Arch) -> Arch:
        genes, same = iter(arch), list[int]()
        if len(self.recipe.sizes) > 1:
            same.append(next(genes))
        for stage, slots in zip(self.recipe.stages, self._blocks, strict=True):
            depth = stage.depths[0]
            if len(stage.depths) > 1:
                same.append(next(genes))
                depth = stage.depths[same[-1]]
            if len(stage.widths) > 1:
                same.append(next(genes))
            for i, options in enumerate(slots):
                if len(options) > 1:
                    gene = next(genes)
                    same.append(gene if i < depth else 0)
        return tuple(same)

    def size(self) -> int:
        """Number of different networks: blocks beyond a chosen depth don't count."""
        stages = zip(self.recipe.stages, self._blocks, strict=True)
        return len(self.recipe.sizes) * math.prod(_stage_size(stage, slots) for stage, slots in stages)

    def check_maps(self) -> None:
        """InputError where a block of a stage reads a map of one pixel, of which a kernel sees nothing but its middle.

        For spaces that are about to be used: one that a file records has been.
        """
        for slot, layer in self.nodes():
            kernel = 3 if layer.op == "xception" else int(dict(layer.params).get("kernel", 1))
            if slot.startswith("stage") and layer.in_size == 1 and kernel > 1:
                raise InputError(
                    f"an input of {min(self.recipe.sizes)} px is too small for {self}: at {slot} 1x1 is left of it, "
                    f"where a kernel sees nothing but its middle ({layer}): fewer strides, or larger images"
                )

    def nodes(self) -> tuple[tuple[str, Layer], ...]:
        found: dict[tuple[str, Layer], None] = {}
        for arch in self._shapes():
            found.update(((node.slot, node.layer), None) for node in self.graph(arch))
        return tuple(sorted(found, key=lambda item: item[0]))

    def _shapes(self) -> Iterator[Arch]:
        """Architectures of full depth that together use every layer: an option everywhere, in every shape.

        A block's shape depends on the resolution, on its stage's width and on the stage's before; so widths
        alternate between two values.
        """
        widest = max(len(stage.widths) for stage in self.recipe.stages)
        most = max(len(options) for slots in self._blocks for options in slots)
        for size, even, odd, option in itertools.product(
            range(len(self.recipe.sizes)), range(widest), range(widest), range(most)
        ):
            yield tuple(self._uniform(size, (even, odd), option))

    def _uniform(self, size: int, widths: tuple[int, int], option: int) -> Iterator[int]:
        if len(self.recipe.sizes) > 1:
            yield size
        for s, (stage, slots) in enumerate(zip(self.recipe.stages, self._blocks, strict=True)):
            if len(stage.depths) > 1:
                yield stage.depths.index(max(stage.depths))
            if len(stage.widths) > 1:
                yield min(widths[s % 2], len(stage.widths) - 1)
            yield from (min(option, len(options) - 1) for options in slots if len(options) > 1)


def _gene_counts(recipe: Recipe, blocks: list[list[tuple[Block, ...]]]) -> Iterator[int]:
    lists: list[tuple[object, ...]] = [recipe.sizes]
    for stage, slots in zip(recipe.stages, blocks, strict=True):
        lists += [stage.depths, stage.widths, *slots]
    if not all(lists):
        raise InputError("a block of a stage has no option: give it some with where = 'all'")
    return (len(values) for values in lists if len(values) > 1)


def _stage_size(stage: Stage, slots: list[tuple[Block, ...]]) -> int:
    return len(stage.widths) * sum(math.prod(len(options) for options in slots[:depth]) for depth in stage.depths)


def _pick(values: tuple[int, ...], genes: Iterator[int]) -> int:
    return values[next(genes)] if len(values) > 1 else values[0]


@cache
def _widened(block: Block, width: int) -> Block:
    """A stage's block at the stage's width."""
    return Block(block.op, width, block.stride, block.params)


@cache
def _layer(block: Block, in_channels: int, in_size: int) -> Layer:
    return block.at(in_channels, in_size)
