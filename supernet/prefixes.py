"""Evaluation of networks one after the other, where what they have in common at the beginning is computed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import torch
from torch import nn

from .data import Data
from .evaluation import BATCH, bn_starts, collecting, device_of, inherited_accuracy
from .layer import Layer, Node, named
from .metrics import METRICS
from .network import evaluating
from .sharing import plain_state
from .space import Arch
from .supernet import Supernet

MEMORY = 1 << 30  # bytes of what layers put out: beyond, a network shares less with the next

Batches = list[torch.Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """A layer with its own statistics: what it puts out for the images that these are from, and for validation."""

    slot: str
    node: Node
    collected: Batches
    read: Batches

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(batch.nbytes for batch in (*self.collected, *self.read))


class SharedPrefixes:
    """The metric on validation images of one architecture after the other, as `inherited_accuracy` has it.

    Statistics of a layer depend on the layers before it alone: so layers by which a network begins as the one before
    it did are neither calibrated nor run again, as far as what they put out fits into `memory` bytes. Networks that
    are no chain, and such whose largest layers alone don't fit, are evaluated as if nothing were shared.
    """

    def __init__(self, supernet: Supernet, data: Data, images: torch.Tensor, memory: int = MEMORY) -> None:
        self.supernet, self.data, self.images, self.memory = supernet, data, images, memory
        self.steps: list[Step] = []
        self.shared = self.computed = 0  # layers so far

    def __call__(self, arch: Arch) -> float:
        graph = self.supernet.space.graph(arch)
        if not self._fits(graph):
            return inherited_accuracy(self.supernet, self.data, self.images, arch)
        nodes = named(graph)
        known = sum(1 for _ in takewhile(self._same, zip(self.steps, nodes, strict=False)))
        self.shared, self.computed = self.shared + known, self.computed + len(nodes) - known
        del self.steps[known:]
        last, room = self.steps[-1] if known else self._images, self.memory - sum(step.size for step in self.steps)
        for (slot, node), shared in zip(nodes[known:], self.supernet.path(arch)[known:], strict=True):
            last = self._step(last, slot, node, shared)
            room -= last.size
            if room >= 0:
                self.steps.append(last)
        metric = METRICS[self.data.metric]
        read = torch.cat([metric.read(batch).cpu() for batch in last.read])
        return metric(self.data.val.labels.numpy(), read.numpy())

    @staticmethod
    def _same(pair: tuple[Step, tuple[str, Node]]) -> bool:
        return (pair[0].slot, pair[0].node) == pair[1]

    def _step(self, last: Step, slot: str, node: Node, shared: nn.Module) -> Step:
        """A layer behind `last`, with a copy of the weights that the supernet has for it."""
        with torch.random.fork_rng(devices=[]):
            module = self.supernet.space.build(node.layer)
        module.load_state_dict(plain_state(shared))
        module.to(device_of(self.supernet)).to(memory_format=torch.channels_last)
        with collecting(module):
            collected = [module(batch.clone()) for batch in last.collected]  # some layers work in place
        with evaluating(module):
            return Step(slot, node, collected, [module(batch.clone()) for batch in last.read])

    @cached_property
    def _images(self) -> Step:
        """What the first layer reads."""
        device, starts = device_of(self.supernet), bn_starts(len(self.images))
        collected = [self.images[start : start + BATCH].to(device) for start in starts]
        val = self.data.val
        read = [self.data.normalise(val.images[i : i + BATCH].to(device)) for i in range(0, len(val), BATCH)]
        return Step("", Node(Layer("images", 0, 0, 0)), collected, read)

    def _fits(self, graph: Sequence[Node]) -> bool:
        """Whether these are the layers of a chain, of which two at a time fit, for images that lie in memory."""
        chain = all(node.inputs == (i - 1,) for i, node in enumerate(graph))
        count = len(self.data.val) + len(self.images)
        largest = max(4 * math.prod(shape) for node in graph for shape in node.layer.input_shapes())
        return chain and isinstance(self.data.val.images, torch.Tensor) and 2 * count * largest <= self.memory
