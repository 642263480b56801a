"""Entangled options are windows of one weight; separate ones share nothing; a subnet is its path."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwnas.errors import InputError
from hwnas.supernet import ChainSpace, Supernet, load_space

SPEC = "mobilenet:size=8,channels=1,classes=5,stem=4,widths=6,depths=2,head=8,se=0-1"
OPTIONS = {arch: i for i, arch in enumerate(itertools.product((0, 1), (3, 6), (3, 5, 7)))}  # (se, expansion, kernel)


@pytest.fixture(scope="module")
def space() -> ChainSpace:
    found = load_space(SPEC)
    assert isinstance(found, ChainSpace)
    return found


def supernet_of(space: ChainSpace, sharing: str) -> Supernet:
    """With statistics and affine weights of batch norm that no two options have in common."""
    torch.manual_seed(0)
    supernet = Supernet(space, sharing)
    for part in supernet.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return supernet.eval()


@pytest.fixture
def entangled(space: ChainSpace) -> Supernet:
    return supernet_of(space, "entangled")


both = pytest.mark.parametrize("sharing", ["entangled", "blocks"])


def images() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def option(supernet: Supernet, se: int, expansion: int, kernel: int) -> nn.Module:
    """The block of the first choice with these settings."""
    return supernet.path((OPTIONS[se, expansion, kernel], 0))[1]


def test_small_blocks_are_the_first_channels_and_the_centre_of_the_largest(entangled: Supernet) -> None:
    large = option(entangled, 0, 6, 7).state_dict()
    arch = (OPTIONS[0, 3, 3], 0)
    small = {name.removeprefix("1."): tensor for name, tensor in entangled.subnet(arch).state_dict().items()}
    hidden = 3 * 4
    for name, window in {
        "block.expand.0.weight": (slice(hidden),),
        "block.depthwise.0.weight": (slice(hidden), slice(None), slice(2, 5), slice(2, 5)),
        "block.project.0.weight": (slice(None), slice(hidden)),
    }.items():
        assert torch.equal(small[name], large[name][window])


def test_an_entangled_path_is_the_computation_with_slices(entangled: Supernet) -> None:
    large, small = option(entangled, 0, 6, 7), option(entangled, 0, 3, 5)
    weight = large.get_parameter
    x = torch.randn(2, 4, 8, 8)

    def norm(part: str, y: torch.Tensor) -> torch.Tensor:
        bn = small.get_submodule(f"block.{part}.1")
        mean, var, gain, shift = (v[:, None, None] for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return (y - mean) / (var + bn.eps).sqrt() * gain + shift

    kernel = weight("block.depthwise.0.weight")[:12, :, 1:6, 1:6]
    y = F.relu(norm("expand", F.conv2d(x, weight("block.expand.0.weight")[:12])))
    y = F.relu(norm("depthwise", F.conv2d(y, kernel, stride=2, padding=2, groups=12)))
    y = norm("project", F.conv2d(y, weight("block.project.0.weight")[:, :12]))
    torch.testing.assert_close(small(x), y)


def test_squeeze_excite_shares_weights_and_biases_too(entangled: Supernet) -> None:
    small, large = (option(entangled, 1, expansion, 3).get_submodule("block.se.fc1") for expansion in (3, 6))
    assert small.bias is large.bias
    x = torch.randn(2, 12, 1, 1)
    torch.testing.assert_close(small(x), F.conv2d(x, large.weight[:8, :12], large.bias[:8]))


def test_every_option_keeps_a_batch_norm_of_its_own(entangled: Supernet) -> None:
    options = [option(entangled, *setting) for setting in OPTIONS]
    for name in ("block.expand.1", "block.depthwise.1", "block.project.1"):
        norms = [block.get_submodule(name) for block in options]
        assert len({norm.weight.data_ptr() for norm in norms}) == len({id(norm) for norm in norms}) == len(options)


def test_a_tied_weight_is_one_parameter(entangled: Supernet, space: ChainSpace) -> None:
    kernels = [block.get_submodule("block.depthwise.0") for block in (option(entangled, *o) for o in OPTIONS)]
    assert len({id(kernel.weight) for kernel in kernels}) == 1
    expected = 24 * 7 * 7 + 36 * 7 * 7  # the two choices' depthwise kernels: 6 * 4 and 6 * 6 channels
    counted = sum(p.numel() for p in entangled.parameters() if p.ndim == 4 and p.shape[-1] > 3)
    assert counted == expected


def test_gradients_reach_the_window_and_nothing_else(entangled: Supernet) -> None:
    entangled.train()(images(), (OPTIONS[0, 3, 3], 0)).square().sum().backward()
    grad = option(entangled, 0, 6, 7).get_parameter("block.depthwise.0.weight").grad
    assert grad is not None
    window = torch.zeros_like(grad, dtype=torch.bool)
    window[:12, :, 2:5, 2:5] = True
    assert (grad[window] != 0).all()
    assert (grad[~window] == 0).all()


def test_blocks_share_nothing(space: ChainSpace) -> None:
    supernet = supernet_of(space, "blocks")
    names = dict(supernet.named_parameters(remove_duplicate=False))
    assert len({tensor.data_ptr() for tensor in names.values()}) == len(names)


@both
def test_a_subnet_is_its_path_to_the_last_bit(space: ChainSpace, sharing: str) -> None:
    supernet, rng = supernet_of(space, sharing), random.Random(0)
    for arch in [space.sample(rng) for _ in range(15)]:
        assert torch.equal(supernet.subnet(arch).eval()(images()), supernet(images(), arch))


@both
def test_a_subnet_is_a_copy_without_windows(space: ChainSpace, sharing: str) -> None:
    supernet = supernet_of(space, sharing)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    subnet = supernet.subnet((0, 0))
    assert {type(part).__module__.partition(".")[0] for part in subnet.modules()} == {"torch", "torchvision", "hwnas"}
    assert not any("Window" in type(part).__name__ for part in subnet.modules())
    for tensor in subnet.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_subnet_leaves_the_global_random_state(entangled: Supernet) -> None:
    state = torch.get_rng_state()
    entangled.subnet((1, 1))
    assert torch.equal(torch.get_rng_state(), state)


@both
def test_the_path_with_the_statistics_of_a_subnet_is_the_subnet(space: ChainSpace, sharing: str) -> None:
    supernet, arch = supernet_of(space, sharing), (3, 9)
    subnet = supernet.subnet(arch)
    for _ in range(3):
        subnet(images())  # in training mode: other statistics than the supernet's
    own = supernet(images(), arch)
    found = torch.func.functional_call(supernet, supernet.statistics(arch, subnet), (images(), arch))
    assert torch.equal(found, subnet.eval()(images()))
    assert not torch.allclose(found, own)
    assert torch.equal(supernet(images(), arch), own)


def test_an_unknown_sharing_is_named(space: ChainSpace) -> None:
    with pytest.raises(InputError, match="unknown sharing 'entangle'; did you mean entangled"):
        Supernet(space, "entangle")
