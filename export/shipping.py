"""What makes a network fit for shipping: images as they come, an older opset, and what it is inside the file."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import torch
from onnx.helper import find_min_ir_version_for
from onnx.version_converter import convert_version
from torch import nn

from ..errors import InputError
from .onnx_model import OPSET

OLDEST_OPSET = 13  # the first with the scales per channel of int8; ONNX Runtime 1.6, of 2020, reads it
UNCHANGED_SINCE = 14  # the converter can't go below: it knows no way back for the new number types of 14
MARK = "hwnas."
"""What the names begin with under which an exported file says what it is."""
NEWEST_OPSET = onnx.defs.onnx_opset_version()
LATER = {
    "ReduceMean": ("noop_with_empty_axes", 18),
    "Reshape": ("allowzero", 14),
    "Shape": ("start", 15),
}  # attributes, and since when


class OfPixels(nn.Module):
    """A network that reads pixels as they come, float32 0..255 (B, C, S, S), and normalises them itself."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", (1 / (255 * std)).view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(pixels * self.scale + self.shift)
        return outputs


def at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """`model` for readers that know no opset above `opset`, its file format no newer than that needs.

    A model of an older opset stays as it is: newer readers know it, too. InputError with the reason where an operator
    did not exist yet.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(f"opset {opset} can't be written: the oldest is {OLDEST_OPSET}, the newest {NEWEST_OPSET}")
    if opset >= next(entry.version for entry in model.opset_import if not entry.domain):
        lowered = onnx.ModelProto()
        lowered.CopyFrom(model)
    else:
        lowered = _converted(model, opset)
    lowered.ir_version = min(lowered.ir_version, find_min_ir_version_for(lowered.opset_import, ignore_unknown=True))
    try:
        onnx.checker.check_model(lowered, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"opset {opset} can't hold this network ({_first_line(error)}): ask for {OPSET}") from error
    return lowered


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        lowered = convert_version(_without_later_attributes(model, opset), max(opset, UNCHANGED_SINCE))
    except (RuntimeError, onnx.shape_inference.InferenceError) as error:
        reason = _first_line(error)
        raise InputError(
            f"opset {opset} can't hold this network ({reason}): ask for {OPSET}, or a fixed batch"
        ) from error
    for entry in lowered.opset_import:
        if not entry.domain:
            entry.version = opset
    return lowered


def _without_later_attributes(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy without attributes that `opset` does not know yet, where they change nothing.

    The exporter lets reshapes take a 0 for an empty dimension (before: for one to be kept); no shape here has a 0.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    with_zeros = {t.name for t in plain.graph.initializer if not onnx.numpy_helper.to_array(t).all()}
    for node in plain.graph.node:
        name, since = LATER.get(node.op_type, ("", 0))
        idle = node.op_type == "Reshape" and node.input[1] not in with_zeros
        kept = [a for a in node.attribute if not (a.name == name and opset < since and (idle or a.i == 0))]
        del node.attribute[:]
        node.attribute.extend(kept)
    return plain


def at_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy of a `model` with an open batch, that reads so many images per run: the same graph, the same weights."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for entry in fixed.graph.input:
        make_dim_param_fixed(fixed.graph, entry.type.tensor_type.shape.dim[0].dim_param, batch)
    return fixed


def described(model: onnx.ModelProto, words: Mapping[str, str]) -> onnx.ModelProto:
    """A copy of `model` that says in `metadata_props`, under names that begin with `hwnas.`, what it is."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    onnx.helper.set_model_props(told, {f"{MARK}{name}": text for name, text in words.items()})
    told.producer_name = "hwnas"
    return told


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
