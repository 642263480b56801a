"""Two ways for the options of a choice to share weights: not at all, or as windows of one large kernel.

A rule takes the modules of one slot, in place. `entangled` needs no knowledge of the blocks: a convolution or
linear layer that has the same name in several options of one operation becomes a window of one weight, the
first channels and the centre of the kernel (https://arxiv.org/abs/1908.09791, section 3.3; entanglement as in
https://arxiv.org/abs/2107.00651, section 3.2). Batch norm stays each option's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .layer import Layer

Window = tuple[slice, ...]


class WindowConv2d(nn.Conv2d):
    """A convolution that uses a window of its weight, which it shares with others."""

    window: Window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias[self.window[:1]]
        return self._conv_forward(x, self.weight[self.window], bias)


class WindowLinear(nn.Linear):
    """A linear layer that uses a window of its weight, which it shares with others."""

    window: Window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias[self.window[:1]]
        return F.linear(x, self.weight[self.window], bias)


WINDOWED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: WindowConv2d, nn.Linear: WindowLinear}


def blocks(modules: Mapping[Layer, nn.Module]) -> None:
    """A block of its own per option (SPOS, https://arxiv.org/abs/1904.00420): nothing to do."""


def entangled(modules: Mapping[Layer, nn.Module]) -> None:
    """Convolutions and linear layers of the same name in options of one operation share one weight."""
    groups: dict[tuple[str, str, type[nn.Module]], list[Any]] = defaultdict(list)
    for layer, module in modules.items():
        for name, part in module.named_modules():
            if type(part) in WINDOWED:
                groups[layer.op, name, type(part)].append(part)
    for parts in groups.values():
        if len(parts) > 1:
            _tie(parts)


def _tie(parts: Sequence[Any]) -> None:
    """Give all parts one weight as large as the largest in every dimension, one bias likewise."""
    shapes = [tuple(part.weight.shape) for part in parts]  # (out, in / groups, k, k) or (out, in)
    weight = nn.Parameter(_merged([part.weight.detach() for part in parts]))
    biases = [part.bias.detach() for part in parts if part.bias is not None]
    bias = nn.Parameter(_merged(biases)) if biases else None
    for part, shape in zip(parts, shapes, strict=True):
        part.weight = weight
        if part.bias is not None:
            part.bias = bias
        if shape != tuple(weight.shape):
            part.__class__ = WINDOWED[type(part)]
            part.window = _window(shape, weight.shape)


def _merged(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """A tensor as large as the largest of each dimension, filled from the tensors, the largest last."""
    merged = torch.zeros([max(sizes) for sizes in zip(*[tensor.shape for tensor in tensors], strict=True)])
    for tensor in sorted(tensors, key=torch.Tensor.numel):
        merged[_window(tensor.shape, merged.shape)] = tensor
    return merged


def _window(small: Sequence[int], large: Sequence[int]) -> Window:
    """The first channels (dimensions 0 and 1) and the centre of the kernel (the rest)."""
    starts = [0 if i < 2 else (b - a) // 2 for i, (a, b) in enumerate(zip(small, large, strict=True))]
    return tuple(slice(start, start + length) for start, length in zip(starts, small, strict=True))


def plain_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a module as that of one which shares nothing: every window copied out."""
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for name, part in module.named_modules():
        if isinstance(part, WindowConv2d | WindowLinear):
            prefix = f"{name}." if name else ""
            state[f"{prefix}weight"] = part.weight.detach()[part.window].clone()
            if part.bias is not None:
                state[f"{prefix}bias"] = part.bias.detach()[part.window[:1]].clone()
    return state


SHARING: dict[str, Callable[[Mapping[Layer, nn.Module]], None]] = {"entangled": entangled, "blocks": blocks}
