"""What a step keeps until its gradients are known: the activations of one path, whatever the space holds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from hwnas.supernet import ChainSpace, Supernet
from hwnas.supernet.layer import named
from hwnas.supernet.sharing import SHARING


def saved_bytes(module: nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """What autograd saves in a forward pass of `module`, each storage once, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor  # and with it the storage: no other one gets its address

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward().sum().backward()
    return sum(saved.values())


def all_options(supernet: Supernet, images: torch.Tensor) -> torch.Tensor:
    """Each choice as the mean of its options, as DARTS has it (https://arxiv.org/abs/1806.09055, equation 2)."""
    for slot, _ in named(supernet.space.graph(supernet.space.sample(random.Random(0)))):
        options = supernet.slots[slot]
        assert isinstance(options, nn.ModuleDict)
        images = torch.stack([option(images) for option in options.values()]).mean(0)
    return images


@pytest.mark.parametrize("sharing", SHARING)
def test_a_step_holds_the_activations_of_its_path_alone(tiny: ChainSpace, sharing: str) -> None:
    """As many bytes as the plain network, to the last; fewer than all options at once by what a choice has of them."""
    supernet, images = Supernet(tiny, sharing).train(), torch.randn(8, 1, 16, 16)
    of_all = saved_bytes(supernet, lambda: all_options(supernet, images))
    for number in range(10):
        arch = tiny.sample(random.Random(number))
        subnet = supernet.subnet(arch).train()
        of_path = saved_bytes(supernet, lambda arch=arch: supernet(images, arch))
        assert of_path == saved_bytes(subnet, lambda subnet=subnet: subnet(images)) > images.nbytes
        assert of_path < of_all / 2
