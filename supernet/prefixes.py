"""Evaluation of networks one after the other, where what they have in common at the beginning is computed once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .data import Data
from .evaluation import BATCH, bn_starts, calibrated_subnet, collecting, device_of
from .layer import Node, named
from .metrics import METRICS
from .sharing import plain_state
from .sources import Split
from .space import Arch
from .supernet import Supernet

MEMORY = 1 << 30  # bytes of what layers put out: beyond, a network shares less with the next

Batches = list[torch.Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """A layer with its own statistics, and what it puts out: for the images that these are from, and for validation.

    `read` has of the latter the batches that were asked for yet, by their numbers.
    """

    slot: str
    node: Node
    module: nn.Module
    collected: Batches
    read: dict[int, torch.Tensor] = field(default_factory=dict)


class SharedPrefixes:
    """What one architecture after the other says of the validation images, with the weights that it inherits.

    Statistics of a layer depend on the layers before it alone: so layers by which a network begins as the one before
    it did are neither calibrated nor run again, as far as what they put out fits into `memory` bytes. Networks that
    are no chain, and such whose largest layers alone don't fit, are evaluated as if nothing were shared. `labels` (N,)
    are in the order in which images are read, a random one that is always the same.
    """

    def __init__(self, supernet: Supernet, data: Data, images: torch.Tensor, memory: int = MEMORY) -> None:
        self.supernet, self.data, self.images, self.memory = supernet, data, images, memory
        self.val = shuffled(data.val)
        self.labels = self.val.labels.numpy()
        self.steps: list[Step] = []
        self.shared = self.computed = 0  # layers so far

    def __call__(self, arch: Arch) -> float:
        """The metric on all validation images, as `inherited_accuracy` has it."""
        metric = METRICS[self.data.metric]
        return metric(self.labels, torch.cat([metric.read(batch).cpu() for batch in self.outputs(arch)]).numpy())

    def right(self, arch: Arch, first: int = 0) -> Iterator[NDArray[np.bool_]]:
        """Of each validation image whether the metric counts it as right, from the batch `first` on, when asked for."""
        metric, start = METRICS[self.data.metric], first * BATCH
        assert metric.right is not None
        for batch in self.outputs(arch, first):
            labels = self.labels[start : start + len(batch)]
            yield metric.right(labels, metric.read(batch).cpu().numpy())
            start += len(batch)

    def outputs(self, arch: Arch, first: int = 0) -> Iterator[torch.Tensor]:
        """What the network puts out for the validation images, from the batch `first` on, one at a time when asked."""
        graph, numbers = self.supernet.space.graph(arch), range(first, -(-len(self.val) // BATCH))
        if self._fits(graph):
            yield from self._through(self._calibrated(arch, graph), numbers)
            return
        subnet = calibrated_subnet(self.supernet, arch, self.images)
        for number in numbers:
            with torch.no_grad():
                found = subnet(self._batch(number))
            yield found

    def size(self, step: Step) -> int:
        """Bytes of what a layer that is kept puts out, once all validation images are read."""
        collected = sum(batch.nbytes for batch in step.collected)
        return collected + collected * len(self.val) // sum(map(len, step.collected))

    def _calibrated(self, arch: Arch, graph: Sequence[Node]) -> list[Step]:
        """The layers of a chain with statistics of their own; the first ones, while there is memory, are kept."""
        nodes = named(graph)
        known = sum(1 for _ in takewhile(self._same, zip(self.steps, nodes, strict=False)))
        self.shared, self.computed = self.shared + known, self.computed + len(nodes) - known
        del self.steps[known:]
        steps, room = list(self.steps), self.memory - sum(map(self.size, self.steps))
        before = steps[-1].collected if known else self._images
        for (slot, node), shared in zip(nodes[known:], self.supernet.path(arch)[known:], strict=True):
            step = self._step(before, slot, node, shared)
            before, room = step.collected, room - self.size(step)
            if room >= 0:
                self.steps.append(step)
            steps.append(step if room >= 0 else replace(step, collected=[]))
        return steps

    def _through(self, steps: Sequence[Step], numbers: Iterable[int]) -> Iterator[torch.Tensor]:
        """Batches of validation images through the layers, from the last one on that has read them already."""
        kept = len(self.steps)
        for number in numbers:
            known = sum(number in step.read for step in steps)  # no layer has read more than those before it
            found = steps[known - 1].read[number] if known else self._batch(number)
            for index in range(known, len(steps)):
                with torch.no_grad():
                    found = steps[index].module(found.clone())  # some layers work in place
                if index < kept:
                    steps[index].read[number] = found
            yield found

    def _batch(self, number: int) -> torch.Tensor:
        """Some validation images as a network takes them."""
        images = self.val.images[number * BATCH : (number + 1) * BATCH]
        return self.data.normalise(images.to(device_of(self.supernet)))

    @staticmethod
    def _same(pair: tuple[Step, tuple[str, Node]]) -> bool:
        return (pair[0].slot, pair[0].node) == pair[1]

    def _step(self, before: Batches, slot: str, node: Node, shared: nn.Module) -> Step:
        """A layer behind one that puts out `before`, with a copy of the weights that the supernet has for it."""
        with torch.random.fork_rng(devices=[]):
            module = self.supernet.space.build(node.layer)
        module.load_state_dict(plain_state(shared))
        module.to(device_of(self.supernet)).to(memory_format=torch.channels_last).eval()
        with collecting(module):
            return Step(slot, node, module, [module(batch.clone()) for batch in before])

    @cached_property
    def _images(self) -> Batches:
        """What statistics of the first layer are from."""
        device = device_of(self.supernet)
        return [self.images[start : start + BATCH].to(device) for start in bn_starts(len(self.images))]

    def _fits(self, graph: Sequence[Node]) -> bool:
        """Whether these are the layers of a chain, of which two at a time fit, for images that lie in memory."""
        chain = all(node.inputs == (i - 1,) for i, node in enumerate(graph))
        count = len(self.val) + len(self.images)
        largest = max(4 * math.prod(shape) for node in graph for shape in node.layer.input_shapes())
        return chain and isinstance(self.val.images, torch.Tensor) and 2 * count * largest <= self.memory


def shuffled(split: Split) -> Split:
    """The same images in a random order, always the same: the first ones then tell of all."""
    return split.only(torch.randperm(len(split), generator=torch.Generator().manual_seed(0)))
