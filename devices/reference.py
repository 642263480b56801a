"""The reference network: the yardstick that every timing is a ratio to.

The first five convolutions of MobileNetV1 (https://arxiv.org/abs/1704.04861, table 1) on a 128-pixel image:
dense, depthwise and pointwise, 22 million multiply-accumulates, less than a millisecond on a desktop core.
It is the same for every search space. A change here makes all older tables incomparable; the digest tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files import digest

if TYPE_CHECKING:
    import numpy as np

INPUT_SHAPE, OUTPUT_SHAPE = (1, 3, 128, 128), (1, 128, 32, 32)  # (B, C, H, W)
LAYERS = (  # output channels, input channels per group, kernel, stride
    (32, 3, 3, 2),
    (32, 1, 3, 1),
    (64, 32, 1, 1),
    (64, 1, 3, 2),
    (128, 64, 1, 1),
)
OPSET, IR_VERSION = 17, 8  # old enough for every runtime in use


def reference_digest() -> str:
    """The identity of the reference: of its recipe, as its bytes may differ between versions of protobuf."""
    return digest(INPUT_SHAPE, LAYERS, OPSET, *(weight.tobytes() for weight in _weights()))


def reference_model() -> bytes:
    """The reference as a serialized ONNX model, "image" (1, 3, 128, 128) -> "features" (1, 128, 32, 32)."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, current = [], "image"
    for index, (channels, per_group, kernel, stride) in enumerate(LAYERS):
        last = index == len(LAYERS) - 1
        convolved, activated = f"conv{index}", "features" if last else f"relu{index}"
        convolution = helper.make_node(
            "Conv",
            [current, f"weight{index}"],
            [convolved],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=channels if per_group == 1 else 1,
        )
        nodes += [convolution, helper.make_node("Relu", [convolved], [activated])]
        current = activated
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, OUTPUT_SHAPE)],
        [numpy_helper.from_array(weight, f"weight{index}") for index, weight in enumerate(_weights())],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION).SerializeToString()


def _weights() -> list[np.ndarray]:
    """Weights uniform in +-sqrt(6 / fan-in), so that activations neither fade into denormals nor overflow.

    RandomState, not a Generator: its stream is frozen for ever (NEP 19), and so is the digest.
    """
    import numpy as np

    random = np.random.RandomState(0)
    weights = []
    for channels, per_group, kernel, _ in LAYERS:
        bound = (6 / (per_group * kernel**2)) ** 0.5
        values = random.uniform(-bound, bound, (channels, per_group, kernel, kernel))
        weights.append(values.astype("<f4"))
    return weights
