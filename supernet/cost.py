"""Costs that need no device: multiply-accumulates, parameters, peak activation memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .additive import AdditiveCost, additive
from .layer import INPUT, Layer
from .network import evaluating
from .space import Arch, SearchSpace

BYTES = 4  # of a float32

Cost = AdditiveCost | Callable[[Sequence[Arch]], NDArray[np.float64]]


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs at batch 1."""

    flops: int
    params: int
    peak_bytes: int


@lru_cache(maxsize=100_000)
def layer_cost(space: SearchSpace, layer: Layer) -> LayerCost:
    """Costs of one layer, counted on torch's meta device: shapes only, nothing is computed.

    `flops` are multiply-accumulates of convolutions and matrix products; batch norm, activations and
    additions count nothing. `peak_bytes` is the largest sum of a kernel's input and output, plus the
    layer's own input (a bound: a block without a residual frees it earlier).
    """
    with torch.device("meta"):
        module = space.build(layer)
        inputs = [torch.empty(shape) for shape in layer.input_shapes()]
    held = BYTES * sum(x.numel() for x in inputs)
    peak = held + BYTES * layer.out_channels * max(layer.out_size, 1) ** 2

    def watch(_: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal peak
        own = 0 if args[0] is inputs[0] else args[0].numel()
        peak = max(peak, held + BYTES * (own + out.numel()))

    kernels = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [part.register_forward_hook(watch) for part in kernels]
    with evaluating(module), FlopCounterMode(display=False) as counter:
        module(*inputs)
    for hook in hooks:
        hook.remove()
    params = sum(parameter.numel() for parameter in module.parameters())
    return LayerCost(counter.get_total_flops() // 2, params, held if isinstance(module, nn.Identity) else peak)


def flops(space: SearchSpace, arch: Sequence[int]) -> int:
    """Multiply-accumulates of one image through the network of `arch`."""
    return sum(layer_cost(space, node.layer).flops for node in space.graph(space.check(arch)))


def params(space: SearchSpace, arch: Sequence[int]) -> int:
    """Trainable parameters of the network of `arch`; nodes that share weights count once."""
    nodes = {(node.slot or str(i), node.layer) for i, node in enumerate(space.graph(space.check(arch)))}
    return sum(layer_cost(space, layer).params for _, layer in nodes)


def memory(space: SearchSpace, arch: Sequence[int]) -> int:
    """Peak bytes of activations, float32, batch 1: at each layer its own peak and what later layers wait for."""
    graph = space.graph(space.check(arch))
    last_use = {source: index for index, node in enumerate(graph) for source in node.inputs}
    sizes = {INPUT: BYTES * int(np.prod(space.input_shape()))}
    peak = 0
    for index, node in enumerate(graph):
        waiting = sum(size for source, size in sizes.items() if source not in node.inputs)
        peak = max(peak, waiting + layer_cost(space, node.layer).peak_bytes)
        sizes[index] = BYTES * node.layer.out_channels * max(node.layer.out_size, 1) ** 2
        sizes = {source: size for source, size in sizes.items() if last_use.get(source, -1) > index}
    return peak


def counts(space: SearchSpace, layers: Sequence[Layer], archs: Sequence[Arch]) -> NDArray[np.float64]:
    """How often each network has each of `layers`: (networks, layers)."""
    index = {layer: i for i, layer in enumerate(layers)}
    count = np.zeros((len(archs), len(layers)))
    for row, arch in zip(count, archs, strict=True):
        for node in space.graph(arch):
            if node.layer in index:
                row[index[node.layer]] += 1
    return count


COSTS: dict[str, Callable[[SearchSpace, Sequence[int]], int]] = {
    "flops": flops,
    "params": params,
    "memory": memory,
}


def analytic_cost(space: SearchSpace, name: str) -> Cost:
    """`flops`, `params` or `memory` as a cost for a search: additive where it is a sum over genes.

    Memory is a maximum over layers: it never is, even where one layer always has the peak.
    """
    price = COSTS[name]
    exact = None if name == "memory" else additive(space, lambda arch: float(price(space, arch)))
    return exact or (lambda archs: np.array([price(space, arch) for arch in archs], dtype=float))
