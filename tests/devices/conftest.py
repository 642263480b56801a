"""Networks so small that a test can time them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.devices import Job


def convolution(channels: int, size_px: int, batch: int | str = 1) -> bytes:
    """A 3x3 convolution as a serialized ONNX model."""
    weight = np.random.default_rng(0).normal(size=(channels, channels, 3, 3)).astype(np.float32)
    shape = [batch, channels, size_px, size_px]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


@pytest.fixture
def jobs() -> list[Job]:
    return [Job("small", convolution(4, 8)), Job("large", convolution(16, 32))]


@pytest.fixture
def open_shape_job() -> Job:
    return Job("open batch", convolution(4, 8, batch="n"))
