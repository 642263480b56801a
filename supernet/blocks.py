"""The operations that a layer can name, as plain modules made of torchvision's blocks.

A new operation is a function `Layer -> nn.Module` and one more line in `OPERATIONS`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from ..errors import unknown_name
from .layer import Layer

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


class MBConv(nn.Module):
    """Inverted residual: expand 1x1, depthwise kxk, optional squeeze-excite, project 1x1 (+ input).

    (B, C_in, S, S) -> (B, C_out, S / stride, S / stride). https://arxiv.org/abs/1801.04381, figure 4; the
    squeeze-excite as in https://arxiv.org/abs/1905.02244, section 5.3.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        width = channels(layer)
        hidden = width * int(layer["expansion"])
        conv = partial(Conv2dNormActivation, activation_layer=activation(layer))
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden != width:
            parts["expand"] = conv(width, hidden, 1)
        parts["depthwise"] = conv(hidden, hidden, int(layer["kernel"]), layer.stride, groups=hidden)
        if layer["se"]:
            squeeze = max(8, hidden // 32 * 8)  # a quarter of the channels, a multiple of 8
            parts["se"] = SqueezeExcitation(hidden, squeeze, scale_activation=nn.Hardsigmoid)
        parts["project"] = Conv2dNormActivation(hidden, layer.out_channels, 1, activation_layer=None)
        self.block = nn.Sequential(parts)
        self.residual = layer.stride == 1 and width == layer.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x)
        return x + y if self.residual else y


def conv(layer: Layer) -> nn.Module:
    """Convolution, batch norm, activation; params: kernel, act."""
    return Conv2dNormActivation(
        channels(layer),
        layer.out_channels,
        int(layer["kernel"]),
        layer.stride,
        activation_layer=activation(layer),
    )


def head(layer: Layer) -> nn.Module:
    """1x1 convolution to `width`, global average pool, linear: (B, C, S, S) -> (B, classes)."""
    width = int(layer["width"])
    return nn.Sequential(
        Conv2dNormActivation(channels(layer), width, 1, activation_layer=activation(layer)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, layer.out_channels),
    )


def identity(layer: Layer) -> nn.Module:  # noqa: ARG001 - every operation takes the layer
    """Nothing: the block is skipped."""
    return nn.Identity()


OPERATIONS: dict[str, Callable[[Layer], nn.Module]] = {
    "conv": conv,
    "mbconv": MBConv,
    "identity": identity,
    "head": head,
}


def build(layer: Layer) -> nn.Module:
    """A new module for `layer` with fresh weights; an unknown operation is an InputError."""
    if layer.op not in OPERATIONS:
        raise unknown_name("operation", layer.op, OPERATIONS)
    module = OPERATIONS[layer.op](layer)
    initialise(module)
    return module


def initialise(module: nn.Module) -> None:
    """He initialisation for convolutions (https://arxiv.org/abs/1502.01852, equation 14, fan-out)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def channels(layer: Layer) -> int:
    """The input channels of a layer that reads one tensor."""
    assert isinstance(layer.in_channels, int), layer
    return layer.in_channels


def activation(layer: Layer) -> type[nn.Module] | None:
    """The activation that a layer's `act` names."""
    name = str(layer["act"])
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
