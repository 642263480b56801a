"""The blocks against torchvision's own implementations of the same papers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.mobilenetv3 import InvertedResidual as InvertedResidualV3
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from hwnas.errors import InputError
from hwnas.supernet import Layer
from hwnas.supernet.blocks import OPERATIONS, MBConv, build


def mbconv(width: int, out: int, stride: int, **settings: Any) -> Layer:
    params = {"kernel": 3, "expansion": 3, "se": 0, "act": "relu6", **settings}
    return Layer("mbconv", width, out, 8, stride, params)  # type: ignore[arg-type]


def assert_same_function(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    """With the same weights, in training and in evaluation."""
    for part in ours.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight)
            nn.init.uniform_(part.bias)
    weights = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), weights, strict=True)))
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))


@pytest.mark.parametrize(("expansion", "stride", "out"), list(itertools.product((1, 3, 6), (1, 2), (8, 12))))
def test_mbconv_is_the_inverted_residual_of_mobilenet_v2(expansion: int, stride: int, out: int) -> None:
    torch.manual_seed(0)
    ours = build(mbconv(8, out, stride, expansion=expansion))
    assert_same_function(ours, InvertedResidual(8, out, stride, expansion), torch.randn(4, 8, 8, 8))


@pytest.mark.parametrize(("kernel", "se", "act"), list(itertools.product((3, 5, 7), (0, 1), ("relu", "hswish"))))
def test_mbconv_is_the_inverted_residual_of_mobilenet_v3(kernel: int, se: int, act: str) -> None:
    torch.manual_seed(0)
    ours = build(mbconv(16, 16, 1, kernel=kernel, expansion=6, se=se, act=act))
    short = {"relu": "RE", "hswish": "HS"}[act]
    config = InvertedResidualConfig(16, kernel, 96, 16, bool(se), short, stride=1, dilation=1, width_mult=1)
    assert_same_function(ours, InvertedResidualV3(config, nn.BatchNorm2d), torch.randn(4, 16, 8, 8))


@pytest.mark.parametrize(("out", "stride", "residual"), [(8, 1, True), (8, 2, False), (9, 1, False)])
def test_the_input_is_added_only_where_shapes_allow(out: int, stride: int, residual: bool) -> None:
    block = MBConv(mbconv(8, out, stride)).eval()
    nn.init.zeros_(block.get_submodule("block.project.1").weight)
    x = torch.randn(2, 8, 8, 8)
    expected = x if residual else torch.zeros(2, out, 8 // stride, 8 // stride)
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        Layer("conv", 3, 5, 9, 2, {"kernel": 3, "act": "relu"}),  # type: ignore[arg-type]
        Layer("conv", 3, 5, 9, 1, {"kernel": 7, "act": "none"}),  # type: ignore[arg-type]
        mbconv(3, 5, 2, kernel=7),
        Layer("identity", 3, 3, 9),
        Layer("head", 3, 10, 9, 0, {"hidden": 6, "act": "hswish"}),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_the_output_has_the_shape_that_the_layer_says(layer: Layer) -> None:
    (shape,) = layer.input_shapes(2)
    size = (layer.out_size,) * 2 if layer.out_size else ()
    assert build(layer)(torch.randn(shape)).shape == (2, layer.out_channels, *size)
    assert layer.op in OPERATIONS


def test_convolutions_start_as_he_et_al_say() -> None:
    """Variance 2 / fan-out."""
    torch.manual_seed(0)
    weight = build(Layer("conv", 64, 128, 8, params=(("act", "relu"), ("kernel", 3))))[0].weight  # type: ignore[index]
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


def test_an_unknown_operation_or_activation_is_named() -> None:
    with pytest.raises(InputError, match="unknown operation 'mbcov'; did you mean mbconv"):
        build(Layer("mbcov", 8, 8, 8))
    with pytest.raises(InputError, match="unknown activation 'swish'; did you mean hswish"):
        build(mbconv(8, 8, 1, act="swish"))
