"""Multiply-accumulates, parameters and memory against the formulas of the papers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from torch import nn

from hwnas.latency import analytic_cost, flops, memory, params
from hwnas.supernet import AdditiveCost, ChainSpace, Layer, Supernet, load_space
from hwnas.supernet.cost import layer_cost
from hwnas.supernet.recipe import Block, Choice, Recipe, Stage


def mbconv(width: int, out: int, size: int, stride: int, expansion: int, kernel: int, se: int) -> Layer:
    params = {"kernel": kernel, "expansion": expansion, "se": se, "act": "relu"}
    return Layer("mbconv", width, out, size, stride, params)  # type: ignore[arg-type]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("expansion", [1, 6])
@pytest.mark.parametrize("se", [0, 1])
def test_mbconv_by_formula(tiny: ChainSpace, stride: int, kernel: int, expansion: int, se: int) -> None:
    c, out, s = 16, 24, 14
    hidden, small = c * expansion, s // stride
    squeeze = max(8, hidden // 4 // 8 * 8)
    expand = c * hidden * (expansion > 1)
    macs = s**2 * expand + small**2 * hidden * kernel**2 + small**2 * hidden * out + se * 2 * hidden * squeeze
    norms = 2 * (hidden * (1 + (expansion > 1)) + out)
    weights = expand + hidden * kernel**2 + hidden * out + norms + se * (2 * hidden * squeeze + hidden + squeeze)
    found = layer_cost(tiny, mbconv(c, out, s, stride, expansion, kernel, se))
    assert (found.flops, found.params) == (macs, weights)


def test_stem_and_head_by_formula(tiny: ChainSpace) -> None:
    stem = layer_cost(tiny, Layer("conv", 3, 8, 15, 2, (("act", "relu"), ("kernel", 3))))
    assert (stem.flops, stem.params) == (8 * 8 * 9 * 3 * 8, 9 * 3 * 8 + 16)
    head = layer_cost(tiny, Layer("head", 8, 10, 4, 0, (("act", "relu"), ("hidden", 32))))
    assert (head.flops, head.params) == (16 * 8 * 32 + 320, 8 * 32 + 64 + 330)


def test_nothing_costs_nothing(tiny: ChainSpace) -> None:
    found = layer_cost(tiny, Layer("identity", 8, 8, 4))
    assert (found.flops, found.params) == (0, 0)


def test_a_network_has_the_parameters_of_its_subnet(tiny: ChainSpace) -> None:
    supernet, rng = Supernet(tiny), random.Random(0)
    for arch in [tiny.sample(rng) for _ in range(10)]:
        assert params(tiny, arch) == sum(p.numel() for p in supernet.subnet(arch).parameters())


def test_flops_grow_with_the_square_of_the_side() -> None:
    """All maps are twice as wide: four times the convolutions, the same classifier."""
    small, large = (load_space(f"nas-bench-macro:size={size}") for size in (32, 64))
    classifier = 1280 * 10
    for arch in [(0,) * 8, (1, 2) * 4, (2,) * 8]:
        assert flops(large, arch) - classifier == 4 * (flops(small, arch) - classifier)
        assert params(large, arch) == params(small, arch)


def test_memory_of_a_chain_by_hand() -> None:
    relu, wide = (("act", "relu"), ("kernel", 3)), (("act", "relu"), ("hidden", 16))
    stage = Stage((8,), (1,), 2, (Choice("conv", (("act", ("relu",)), ("kernel", (3, 5)))),))
    space = ChainSpace(Recipe(1, (16,), 10, (Block("conv", 4, 1, relu),), (stage,), (Block("head", 10, 0, wide),)))
    stem, middle, head = 1 * 256 + 4 * 256, 4 * 256 + 8 * 64, 8 * 64 + 16 * 64
    assert memory(space, (0,)) == 4 * max(stem, middle, head)


def test_memory_of_an_inverted_residual_by_hand(tiny: ChainSpace) -> None:
    """Its input waits for the residual while 6 times as many channels go through the depthwise kernel."""
    found = layer_cost(tiny, mbconv(8, 8, 10, 1, 6, 3, 0))
    assert found.peak_bytes == 4 * 100 * (8 + 48 + 48)


def test_a_layer_without_kernels_still_holds_its_output() -> None:
    class Pooled(ChainSpace):
        def build(self, layer: Layer) -> nn.Module:
            return nn.AvgPool2d(1) if layer.op == "pool" else super().build(layer)

    space = Pooled(Recipe(2, (8,), 2, (), (Stage((2,), (1,), 1, (Choice("pool"), Choice("identity"))),), ()))
    assert memory(space, (0,)) == 4 * 2 * 64 * 2
    assert memory(space, (1,)) == 4 * 2 * 64


def test_a_skipped_block_moves_no_peak() -> None:
    conv = Block("conv", 8, 1, (("act", "relu"), ("kernel", 3)))
    tail = (Block("head", 2, 0, (("act", "relu"), ("hidden", 4))),)
    options = (Choice("conv", (("act", ("relu",)), ("kernel", (3,)))), Choice("identity"))
    space = ChainSpace(Recipe(1, (8,), 2, (conv,), (Stage((8,), (1,), 1, options),), tail))
    assert memory(space, (0,)) == 4 * 64 * 16
    assert memory(space, (1,)) == 4 * 64 * 12  # the head's: 8 channels in, 4 out
    assert params(space, (0,)) - params(space, (1,)) == 8 * 8 * 9 + 16


@pytest.mark.parametrize(("name", "price"), [("flops", flops), ("params", params)])
def test_sums_over_layers_are_priced_in_bulk(tiny: ChainSpace, name: str, price: object) -> None:
    cost, rng = analytic_cost(tiny, name), random.Random(0)
    assert isinstance(cost, AdditiveCost)
    archs = [tiny.sample(rng) for _ in range(50)]
    assert list(cost(np.array(archs))) == [price(tiny, arch) for arch in archs]  # type: ignore[operator]


def test_a_peak_is_no_sum_and_still_a_cost(tiny: ChainSpace) -> None:
    archs = [(0, 0, 0), (3, 3, 4), (1, 2, 3)]
    assert list(analytic_cost(tiny, "memory")(archs)) == [memory(tiny, arch) for arch in archs]


def test_counting_leaves_real_tensors_alone(tiny: ChainSpace) -> None:
    layer_cost(tiny, Layer("conv", 5, 7, 6, 1, (("act", "relu"), ("kernel", 3))))
    assert nn.Linear(2, 2).weight.device.type == "cpu"
