"""Networks in half precision and in int8: close to float, and what was given stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from hwnas.export import to_onnx
from hwnas.export.precision import to_fp16, to_int8

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    """A network whose weights are large enough to be put aside while it is quantized: over 1,024 bytes."""
    torch.manual_seed(0)
    return to_onnx(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3)).eval(), [SHAPE])


symmetric = partial(to_int8, symmetric=True)


def output(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0].astype(np.float32)


@pytest.mark.parametrize(
    ("convert", "dtype", "apart"),
    [(to_int8, np.float32, 0.05), (symmetric, np.float32, 0.05), (to_fp16, np.float16, 0.005)],
    ids=["int8", "symmetric", "fp16"],
)
def test_outputs_are_close_and_the_model_given_stays(
    convert: Callable[[onnx.ModelProto], onnx.ModelProto], dtype: type, apart: float, model: onnx.ModelProto
) -> None:
    before = model.SerializeToString()
    images = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    plain = output(model, images)
    for _ in range(2):  # one layer's model serves many networks
        found = output(convert(model), images.astype(dtype))
        assert np.abs(found - plain).max() < apart * np.abs(plain).max() + 1e-3
        assert not np.array_equal(found, plain)
    assert model.SerializeToString() == before


def test_symmetric_int8_has_no_zero_points(model: onnx.ModelProto) -> None:
    """What TensorRT takes: activations in int8 around 0, biases in float."""
    graph = symmetric(model).graph
    kinds = {tensor.name: tensor for tensor in graph.initializer}
    zeros = [kinds[node.input[2]] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert zeros
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in zeros)
    assert not any(onnx.numpy_helper.to_array(tensor).any() for tensor in zeros)


def test_int8_computes_in_int8(model: onnx.ModelProto) -> None:
    kinds = {node.op_type for node in to_int8(model).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert any(t.data_type == onnx.TensorProto.INT8 for t in to_int8(model).graph.initializer)


@pytest.mark.parametrize("convert", [to_int8, symmetric], ids=["int8", "symmetric"])
def test_each_output_channel_has_a_scale_of_its_own(
    convert: Callable[[onnx.ModelProto], onnx.ModelProto], model: onnx.ModelProto
) -> None:
    graph = convert(model).graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    scales = [weights[node.input[1]].input[1] for node in graph.node if node.op_type == "Conv"]
    assert [list(known[name].dims) for name in scales] == [[16], [32]]
    assert all(len(np.unique(onnx.numpy_helper.to_array(known[name]))) > 1 for name in scales)
