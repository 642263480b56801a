"""A chain of blocks, each chosen from a list: the shape of MobileNet-like spaces, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..errors import InputError
from .layer import INPUT, Layer, Node, Value
from .space import Arch, ChoiceSpace


@dataclass(frozen=True)
class Block:
    """A layer before its input is known. `out_channels` 0 keeps the channels of the input."""

    op: str
    out_channels: int = 0
    stride: int = 1
    params: tuple[tuple[str, Value], ...] = ()

    def at(self, in_channels: int, in_size: int) -> Layer:
        """The layer that this block becomes behind an input of (B, in_channels, in_size, in_size)."""
        return _layer(self, in_channels, in_size)


@cache
def _layer(block: Block, in_channels: int, in_size: int) -> Layer:
    out_channels = block.out_channels or in_channels
    return Layer(block.op, in_channels, out_channels, in_size, block.stride, block.params)


SKIP = Block("identity")


class ChainSpace(ChoiceSpace):
    """Fixed blocks, then one choice after another, then fixed blocks; each block reads the one before.

    Blocks of one choice must agree in channels and stride, so that a choice never changes the shapes behind.
    """

    def __init__(
        self,
        input_shape: tuple[int, int],
        stem: tuple[Block, ...],
        slots: tuple[tuple[Block, ...], ...],
        tail: tuple[Block, ...],
        spec: str = "",
    ) -> None:
        super().__init__([len(blocks) for blocks in slots])
        self.channels, self.size_px = input_shape
        self.stem, self.slots, self.tail, self.spec = stem, slots, tail, spec
        self.graph((0,) * len(slots))  # shapes must work out

    def graph(self, arch: Arch) -> tuple[Node, ...]:
        blocks = (*self.stem, *(slot[gene] for slot, gene in zip(self.slots, arch, strict=True)), *self.tail)
        channels, size_px = self.channels, self.size_px
        nodes: list[Node] = []
        for index, block in enumerate(blocks):
            layer = block.at(channels, size_px)
            if block.stride > 1 and size_px < block.stride:
                raise InputError(f"an input of {self.size_px} px is too small for {self}: at {layer} nothing is left")
            nodes.append(Node(layer, (index - 1,) if index else (INPUT,), str(index)))
            channels, size_px = layer.out_channels, layer.out_size
        return tuple(nodes)

    def nodes(self) -> tuple[tuple[str, Layer], ...]:
        found: dict[tuple[str, Layer], None] = {}
        for gene in range(max(self.options)):
            arch = tuple(min(gene, options - 1) for options in self.options)
            found.update(((node.slot, node.layer), None) for node in self.graph(arch))
        return tuple(sorted(found, key=lambda item: int(item[0])))
