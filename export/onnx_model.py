"""Modules as ONNX models: one network, all layers of a space at once, and networks composed of layers."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import torch
from onnx.utils import Extractor
from torch import nn

from ..errors import FaultError, InputError
from ..supernet.layer import INPUT, Layer, Node
from ..supernet.network import evaluating
from ..supernet.space import SearchSpace

OPSET = 18


def to_onnx(
    module: nn.Module,
    shapes: Sequence[tuple[int, ...]],
    output_names: Sequence[str] = ("logits",),
    opset: int = OPSET,
    dynamic_batch: bool = False,
) -> onnx.ModelProto:
    """`module` as an ONNX model with its weights inside, for float32 inputs of `shapes` (B, C, S, S).

    The inputs are called `image`, or `x0`, `x1`, ... where there are several. Fails with a FaultError that
    carries the exporter's reason. Exported is a copy in the plain layout: of a channels-last module the exporter
    writes layout nodes, which cost time where it runs.
    """
    names = ["image"] if len(shapes) == 1 else [f"x{i}" for i in range(len(shapes))]
    inputs = tuple(torch.zeros(shape) for shape in shapes)
    dynamic = tuple({0: torch.export.Dim("batch")} for _ in shapes) if dynamic_batch else None
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    with evaluating(module), _quiet_exporter():
        try:
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names,
                output_names=list(output_names),
                opset_version=opset,
                dynamic_shapes=dynamic,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise FaultError(f"torch could not export the network to ONNX: {_reason(error)}") from error
    assert program is not None
    model = _without_traces(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    written = model.opset_import[0].version
    if written != opset:
        raise InputError(f"opset {opset} can't be written: torch's exporter gave {written}; ask for that")
    return model


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the exporter's notes on where each node came from: they hold paths of this machine."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return model


class _SideBySide(nn.Module):
    """Modules that read inputs of their own: exported together, since one export of many costs little more than one."""

    def __init__(self, modules: Sequence[nn.Module], arity: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.arity = arity

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs, start = [], 0
        for part, count in zip(self.parts, self.arity, strict=True):
            outputs.append(part(*inputs[start : start + count]))
            start += count
        return tuple(outputs)


SHIFT = 0.1  # deviation of the means of batch norms that are timed


def shifted(module: nn.Module) -> nn.Module:
    """The module with random means in its batch norms, as after training, in place.

    With means of 0 a folded batch norm leaves a convolution without bias: 2 % faster than what will be deployed.
    """
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            nn.init.normal_(norm.running_mean, std=SHIFT)
    return module


def layers_to_onnx(space: SearchSpace, layers: Sequence[Layer], batch: int = 1) -> dict[Layer, onnx.ModelProto | None]:
    """Each layer, with random weights, as an ONNX model of its own; None for one that computes nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = [shifted(space.build(layer)) for layer in layers]
    work = [(layer, m) for layer, m in zip(layers, modules, strict=True) if not isinstance(m, nn.Identity)]
    shapes = [layer.input_shapes(batch) for layer, _ in work]
    names = [f"layer{i}" for i in range(len(work))]
    together = _SideBySide([module for _, module in work], [len(s) for s in shapes])
    model = to_onnx(together, [shape for group in shapes for shape in group], names)
    extractor = Extractor(model)
    inputs = iter([value.name for value in model.graph.input])
    found: dict[Layer, onnx.ModelProto | None] = dict.fromkeys(layers)
    for (layer, _), name, group in zip(work, names, shapes, strict=True):
        found[layer] = extractor.extract_model([next(inputs) for _ in group], [name])
    return found


def compose(graph: Sequence[Node], models: Mapping[Layer, onnx.ModelProto | None]) -> onnx.ModelProto:
    """The network `graph` put together from the ONNX models of its layers, in milliseconds."""
    values: dict[int, str] = {INPUT: "image"}
    types: dict[str, onnx.TypeProto] = {}
    whole = onnx.GraphProto(name="network")
    for index, node in enumerate(graph):
        part = models[node.layer]
        if part is None:
            values[index] = values[node.inputs[0]]
            continue
        names = {value.name: values[source] for value, source in zip(part.graph.input, node.inputs, strict=True)}
        types.update((names[value.name], value.type) for value in part.graph.input)
        _append(whole, part.graph, f"n{index}_", names)
        values[index] = names[part.graph.output[0].name]
        types[values[index]] = part.graph.output[0].type
        last = part
    output = values[len(graph) - 1]
    whole.input.append(onnx.helper.make_value_info("image", types["image"]))
    whole.output.append(onnx.helper.make_value_info(output, types[output]))
    return onnx.helper.make_model(whole, opset_imports=last.opset_import, ir_version=last.ir_version)


def _append(whole: onnx.GraphProto, part: onnx.GraphProto, prefix: str, names: dict[str, str]) -> None:
    """Copy the nodes and weights of `part` behind `whole`, every name not in `names` getting the prefix."""

    def renamed(name: str) -> str:
        return names.setdefault(name, prefix + name) if name else ""

    for weight in part.initializer:
        copy = whole.initializer.add()
        copy.CopyFrom(weight)
        copy.name = renamed(weight.name)
    for node in part.node:
        operation = whole.node.add()
        operation.CopyFrom(node)
        operation.name = prefix + node.name
        operation.input[:] = [renamed(name) for name in node.input]
        operation.output[:] = [renamed(name) for name in node.output]


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own deprecations and progress off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
