"""ONNX models in half precision and in int8 (Q/DQ), by ONNX Runtime's own tools."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx

from ..errors import FaultError

IMAGES = 4  # ranges of random images: they decide the accuracy of a network, not its speed


class _RandomInputs:
    """Batches of normal values, in the form that ONNX Runtime reads calibration data."""

    def __init__(self, model: onnx.ModelProto, seed: int = 0) -> None:
        shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input
        }
        random = np.random.default_rng(seed)
        self._batches = [
            {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
            for _ in range(IMAGES)
        ]

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None after the last."""
        return self._batches.pop() if self._batches else None


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float model with all weights, activations, inputs and outputs in half precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=False)


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float model with static shapes in int8: weights per channel, activations with the ranges of random images.

    Its speed is that of int8; for its accuracy the ranges would have to come from real images.
    Raises FaultError with the reason where ONNX Runtime can't quantize it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    root = logging.getLogger()
    level = root.level
    own = onnx.ModelProto()
    own.CopyFrom(model)  # what it is given it leaves without its larger weights
    root.setLevel(logging.ERROR)  # it advises preprocessing, once per network
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                own,
                str(target),
                _RandomInputs(model),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # of many classes
            raise FaultError(f"ONNX Runtime could not quantize the network: {error}") from error
        finally:
            root.setLevel(level)
        return onnx.load(str(target))
