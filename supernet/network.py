"""A graph of layers as a forward pass, and as a plain module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import fx, nn

from .layer import INPUT, Node


def run(graph: Sequence[Node], modules: Sequence[nn.Module], image: torch.Tensor) -> torch.Tensor:
    """Feed `image` (B, C, H, W) through `graph`, `modules[i]` being node i; outputs are freed after their last use."""
    values: dict[int, torch.Tensor] = {INPUT: image}
    last_use = {source: index for index, node in enumerate(graph) for source in node.inputs}
    for index, (node, module) in enumerate(zip(graph, modules, strict=True)):
        values[index] = module(*[values[source] for source in node.inputs])
        for source in set(node.inputs):
            if last_use[source] == index:
                del values[source]
    return values[len(graph) - 1]


def assemble(graph: Sequence[Node], modules: Sequence[nn.Module]) -> nn.Module:
    """The network as a plain module: nn.Sequential for a chain, else a torch.fx.GraphModule.

    Node i is the submodule named `i` (`node<i>` in an fx module).
    """
    if all(node.inputs == (index - 1,) for index, node in enumerate(graph)):
        return nn.Sequential(*modules)
    plan = fx.Graph()
    values = {INPUT: plan.placeholder("image")}
    for index, node in enumerate(graph):
        values[index] = plan.call_module(f"node{index}", tuple(values[source] for source in node.inputs))
    plan.output(values[len(graph) - 1])
    return fx.GraphModule({f"node{index}": module for index, module in enumerate(modules)}, plan)


def node_name(network: nn.Module, index: int) -> str:
    """The name of node `index` inside what `assemble` returned."""
    return str(index) if isinstance(network, nn.Sequential) else f"node{index}"


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """The modules in evaluation mode and no gradients inside; their modes as they were afterwards."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
