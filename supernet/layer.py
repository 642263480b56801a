"""What a layer is, and how layers make a graph.

A layer is one hashable record that serves as the recipe of a module, the key of a latency table and the unit
of cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError

Value = int | float | bool | str
INPUT = -1  # the index by which a node reads the network's input


@dataclass(frozen=True)
class Layer:
    """One layer with everything that decides its weights' shape and its cost.

    `in_channels` is a tuple for a layer that reads several tensors. `in_size` is the side of its square
    input in pixels, 0 for a flat vector. `stride` 0 means that the layer pools the whole map into a vector.
    `params` may be given as a mapping; it is kept as sorted pairs.
    """

    op: str
    in_channels: int | tuple[int, ...]
    out_channels: int
    in_size: int
    stride: int = 1
    params: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.params, Mapping):
            object.__setattr__(self, "params", tuple(sorted(self.params.items())))

    def __getitem__(self, name: str) -> Value:
        known = dict(self.params)
        if name not in known:
            raise InputError(
                f"the layer {self} has no {name} (it has: {', '.join(known) or 'nothing'}): add it to params"
            )
        return known[name]

    @property
    def out_size(self) -> int:
        """Side of the output in pixels, 0 for a flat vector. A parameter `out_size` overrules the stride."""
        for name, value in self.params:
            if name == "out_size":
                return int(value)
        return -(-self.in_size // self.stride) if self.stride else 0

    def input_shapes(self, batch: int = 1) -> list[tuple[int, ...]]:
        """Shapes of the tensors it reads: (B, C, S, S), or (B, C) when flat."""
        channels = self.in_channels if isinstance(self.in_channels, tuple) else (self.in_channels,)
        space = (self.in_size, self.in_size) if self.in_size else ()
        return [(batch, c, *space) for c in channels]

    def __str__(self) -> str:
        channels = self.in_channels if isinstance(self.in_channels, tuple) else (self.in_channels,)
        words = [self.op, f"{'+'.join(map(str, channels))}>{self.out_channels}", f"{self.in_size}px"]
        words += [f"/{self.stride}"] * (self.stride > 1)
        return " ".join(words + [f"{name}={value}" for name, value in self.params])


@dataclass(frozen=True)
class Node:
    """A layer in a graph, the nodes it reads, and the slot whose weights it uses.

    `inputs` are indices of earlier nodes, `INPUT` for the network's input; the last node is the output.
    Nodes with the same slot and layer share weights, in one network (recurrent cells) or across a supernet;
    an empty slot stands for the node's own index.
    """

    layer: Layer
    inputs: tuple[int, ...] = (INPUT,)
    slot: str = ""


def named(graph: Sequence[Node]) -> list[tuple[str, Node]]:
    """The nodes of a graph with their slots, empty slots replaced by the index."""
    return [(node.slot or str(index), node) for index, node in enumerate(graph)]
