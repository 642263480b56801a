"""The weight-sharing network: one module that holds the weights of every architecture of a space."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError, MissingLayerError, unknown_name
from .layer import Layer, named
from .network import assemble, node_name, run
from .sharing import SHARING, plain_state
from .space import Arch, SearchSpace


class Supernet(nn.Module):
    """Weights for every (slot, layer) of a space; the architecture to use is an argument.

    `sharing` says how the options of one slot share weights: a name in `SHARING`. With `only` it holds the
    weights of that one architecture, to train it alone.
    """

    def __init__(self, space: SearchSpace, sharing: str = "entangled", only: Arch | None = None) -> None:
        super().__init__()
        if sharing not in SHARING:
            raise unknown_name("sharing", sharing, SHARING)
        self.space, self.sharing, self.only = space, sharing, only
        by_slot: dict[str, dict[Layer, nn.Module]] = {}
        for slot, layer in space.nodes() if only is None else nodes_of(space, only):
            if "." in slot:
                raise InputError(
                    f"{space}: the slot {slot!r} has a dot, which no module of torch's may have: write a _"
                )
            by_slot.setdefault(slot, {})[layer] = space.build(layer)
        for modules in by_slot.values():
            SHARING[sharing](modules)
        self.slots = nn.ModuleDict(
            {slot: nn.ModuleDict({_key(layer): m for layer, m in ms.items()}) for slot, ms in by_slot.items()}
        )
        self._names = {(slot, layer): (slot, _key(layer)) for slot, modules in by_slot.items() for layer in modules}

    def forward(self, x: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Images (B, C, S, S) through the path `arch` -> logits (B, classes)."""
        graph = self.space.graph(arch)
        return run(graph, self.path(arch), x)

    def path(self, arch: Arch) -> list[nn.Module]:
        """The modules that `arch` uses, in the order of its graph, sharing the supernet's weights."""
        return [self.slots[slot][key] for slot, key in self._path_names(arch)]  # type: ignore[index]

    def inherit(self, other: Supernet) -> None:
        """Take over the weights that `other` has for the one architecture of this network."""
        assert self.only is not None
        for module, shared in zip(self.path(self.only), other.path(self.only), strict=True):
            module.load_state_dict(plain_state(shared))

    def subnet(self, arch: Arch) -> nn.Module:
        """The network of `arch` as a plain module with a copy of its weights, and no trace of search.

        The global random state is left as it was.
        """
        graph = self.space.graph(arch)
        with torch.random.fork_rng(devices=[]):
            modules = [self.space.build(node.layer) for node in graph]
        for module, shared in zip(modules, self.path(arch), strict=True):
            module.load_state_dict(plain_state(shared))
        network = assemble(graph, modules)
        device = next(self.parameters()).device
        return network.to(device)

    def statistics(self, arch: Arch, subnet: nn.Module) -> dict[str, torch.Tensor]:
        """The buffers (BN statistics) of `subnet` under the names that they have in this supernet.

        With them `torch.func.functional_call(supernet, statistics, (x, arch))` is the supernet's path with
        the subnet's statistics, and the supernet stays untouched.
        """
        found = {}
        for index, (slot, key) in enumerate(self._path_names(arch)):
            node = subnet.get_submodule(node_name(subnet, index))
            found.update({f"slots.{slot}.{key}.{name}": buffer for name, buffer in node.named_buffers()})
        return found

    def _path_names(self, arch: Arch) -> list[tuple[str, str]]:
        try:
            return [self._names[slot, node.layer] for slot, node in named(self.space.graph(arch))]
        except KeyError as error:
            slot, layer = error.args[0]
            remedy = f"let {self.space}.nodes() list it" if self.only is None else f"it holds {self.only} only"
            raise MissingLayerError(f"the supernet has no weights for {layer} at slot {slot}; {remedy}") from None


def nodes_of(space: SearchSpace, arch: Arch) -> list[tuple[str, Layer]]:
    """The (slot, layer) of one architecture, in the order of its graph."""
    space.check(arch)
    return [(slot, node.layer) for slot, node in named(space.graph(arch))]


def _key(layer: Layer) -> str:
    """A layer's name as torch allows it for a module."""
    return str(layer).replace(".", "_")
