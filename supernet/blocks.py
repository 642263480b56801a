"""The operations that a layer can name, as plain modules made of torchvision's blocks.

A new operation is a function `Layer -> nn.Module` and one more line in `OPERATIONS`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from ..errors import InputError, unknown_name
from .layer import Layer, Value

ACTIVATIONS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


# What a recipe may say of an operation, and what holds where it doesn't.
PARAMETERS: dict[str, dict[str, Value]] = {
    "conv": {"kernel": 3, "act": "relu"},
    "conv_pool": {"kernel": 3, "act": "relu"},
    "mbconv": {"kernel": 3, "expansion": 6, "se": 0, "act": "relu"},
    "fused": {"kernel": 3, "expansion": 6, "se": 0, "act": "relu"},
    "shuffle": {"kernel": 3, "act": "relu"},
    "xception": {"act": "relu"},
    "identity": {},
    "head": {"hidden": 960, "act": "relu"},
}


class MBConv(nn.Module):
    """Inverted residual: expand 1x1, depthwise kxk, optional squeeze-excite, project 1x1 (+ input).

    (B, C_in, S, S) -> (B, C_out, S / stride, S / stride). https://arxiv.org/abs/1801.04381, figure 4; the
    squeeze-excite as in https://arxiv.org/abs/1905.02244, section 5.3. With `fused`, one kxk convolution
    expands (https://arxiv.org/abs/2104.00298, figure 2).
    """

    def __init__(self, layer: Layer, fused: bool = False) -> None:
        super().__init__()
        width, kernel = channels(layer), int(layer["kernel"])
        hidden = width * int(layer["expansion"])
        conv = partial(Conv2dNormActivation, activation_layer=activation(layer))
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if fused:
            parts["expand"] = conv(width, hidden, kernel, layer.stride)
        else:
            if hidden != width:
                parts["expand"] = conv(width, hidden, 1)
            parts["depthwise"] = conv(hidden, hidden, kernel, layer.stride, groups=hidden)
        if layer["se"]:
            squeeze = max(8, hidden // 32 * 8)  # a quarter of the channels, a multiple of 8
            parts["se"] = SqueezeExcitation(hidden, squeeze, scale_activation=nn.Hardsigmoid)
        parts["project"] = Conv2dNormActivation(hidden, layer.out_channels, 1, activation_layer=None)
        self.block = nn.Sequential(parts)
        self.residual = layer.stride == 1 and width == layer.out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block(x)
        return x + y if self.residual else y


class Shuffle(nn.Module):
    """ShuffleNetV2's unit (https://arxiv.org/abs/1807.11164, figure 3c and d) as SPOS chooses it.

    (B, C_in, S, S) -> (B, C_out, S / stride, S / stride). Where the shape stays, half of the channels go
    through the block and half pass by; else both parts come from the whole input. `xception` has three depthwise 3x3
    convolutions instead of one kxk (https://arxiv.org/abs/1904.00420, section 4.1).
    """

    def __init__(self, layer: Layer, xception: bool = False) -> None:
        super().__init__()
        width, out, stride = channels(layer), layer.out_channels, layer.stride
        self.split = stride == 1 and width == out
        if out % 2 or not (self.split or width < out):
            raise InputError(f"{layer}: a shuffle block needs an even width, not below its input's")
        passing = out // 2 if self.split else width
        hidden, act = out // 2, activation(layer)
        kernels = (3, 3, 3) if xception else (int(layer["kernel"]),)
        parts: list[nn.Module] = []
        inner = passing
        if not xception:
            parts.append(Conv2dNormActivation(passing, hidden, 1, activation_layer=act))
            inner = hidden
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            step = stride if i == 0 else 1
            parts.append(Conv2dNormActivation(inner, inner, kernel, step, groups=inner, activation_layer=None))
            parts.append(Conv2dNormActivation(inner, out - passing if last else hidden, 1, activation_layer=act))
            inner = hidden
        self.block = nn.Sequential(*parts)
        self.passing = (
            nn.Identity()
            if self.split
            else nn.Sequential(
                Conv2dNormActivation(width, width, kernels[0], stride, groups=width, activation_layer=None),
                Conv2dNormActivation(width, width, 1, activation_layer=act),
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.split:
            return torch.cat([self.passing(x), self.block(x)], 1)
        pairs = x.unflatten(1, (-1, 2))  # the shuffle: even channels pass, odd ones go through
        return torch.cat([pairs[:, :, 0], self.block(pairs[:, :, 1])], 1)


class Resize(nn.Module):
    """Bilinear interpolation to another resolution: (B, C, S, S) -> (B, C, out_size, out_size)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.size_px = layer.out_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, (self.size_px, self.size_px), mode="bilinear", align_corners=False)


def conv_pool(layer: Layer) -> nn.Module:
    """Convolution of stride 1, then max pooling by the layer's stride; params: kernel, act."""
    parts = [conv(replace(layer, stride=1))]
    return nn.Sequential(*parts, nn.MaxPool2d(layer.stride, ceil_mode=True)) if layer.stride > 1 else parts[0]


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
    """1x1 convolution to `hidden`, global average pool, linear: (B, C, S, S) -> (B, classes)."""
    width = int(layer["hidden"])
    return nn.Sequential(
        Conv2dNormActivation(channels(layer), width, 1, activation_layer=activation(layer)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, layer.out_channels),
    )


def identity(layer: Layer) -> nn.Module:
    """Nothing: the block is skipped."""
    return nn.Identity()


OPERATIONS: dict[str, Callable[[Layer], nn.Module]] = {
    "conv": conv,
    "conv_pool": conv_pool,
    "mbconv": MBConv,
    "fused": partial(MBConv, fused=True),
    "shuffle": Shuffle,
    "xception": partial(Shuffle, xception=True),
    "identity": identity,
    "resize": Resize,
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
