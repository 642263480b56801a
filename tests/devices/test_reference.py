"""The reference network: always the same, and readable by old runtimes."""

from __future__ import annotations

import onnx
from onnx.numpy_helper import to_array

from hwnas.devices.reference import reference_digest, reference_model


def test_the_reference_never_changes() -> None:
    """Tables of all users are ratios to it: if this fails, their tables have lost their yardstick."""
    assert reference_digest() == "f29ae53440c001f4"


def test_the_model_is_valid_and_of_22_million_multiply_accumulates() -> None:
    model = onnx.load_from_string(reference_model())
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in inferred.value_info}
    convolutions = [node for node in inferred.node if node.op_type == "Conv"]
    weights = {tensor.name: to_array(tensor) for tensor in inferred.initializer}
    total = sum(weights[node.input[1]].size * sizes[node.output[0]] ** 2 for node in convolutions)
    assert 22e6 < total < 22.2e6
    assert model.ir_version == 8
    assert [opset.version for opset in model.opset_import] == [17]
