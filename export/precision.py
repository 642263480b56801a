"""ONNX models in half precision and in int8 (Q/DQ), by ONNX Runtime's own tools."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..errors import FaultError
from .running import AT_ONCE

Feeds = dict[str, NDArray[np.float32]]  # what a model reads in one run, by the names of its inputs

RANDOM = 4  # runs on random images: their ranges decide the accuracy of a network, not its speed


class _Reader:
    """Runs in the form that ONNX Runtime reads calibration data."""

    def __init__(self, runs: Iterable[Feeds]) -> None:
        self._runs = iter(runs)

    def get_next(self) -> Feeds | None:
        """The next run, None after the last."""
        return next(self._runs, None)


def _random_runs(model: onnx.ModelProto, seed: int = 0) -> Iterator[Feeds]:
    random = np.random.default_rng(seed)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input}
    for _ in range(RANDOM):
        yield {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _runs_on(model: onnx.ModelProto, images: NDArray[np.float32]) -> Iterator[Feeds]:
    """Images (N, C, S, S) in batches of the size that the model reads; a last, smaller one is left out.

    Of fewer images than a batch takes, some are there twice.
    """
    (entry,) = model.graph.input
    batch = entry.type.tensor_type.shape.dim[0].dim_value or AT_ONCE
    images = images if len(images) >= batch else np.resize(images, (batch, *images.shape[1:]))
    for start in range(0, len(images) - batch + 1, batch):
        yield {entry.name: images[start : start + batch]}


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float model with all weights, activations, inputs and outputs in half precision."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=False)


def to_int8(
    model: onnx.ModelProto, images: NDArray[np.float32] | None = None, symmetric: bool = False
) -> onnx.ModelProto:
    """A float model in int8: weights per channel, activations with the ranges that they have for `images` (N, C, S, S).

    Without images the ranges are those of random ones, which needs static shapes: its speed is that of int8, its
    accuracy is not. ONNX Runtime is fastest with activations in uint8; TensorRT takes `symmetric` ones alone, in int8
    around 0, and float biases. Raises FaultError with the reason where ONNX Runtime can't quantize it.
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
                _Reader(_random_runs(model) if images is None else _runs_on(model, images)),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
            )
        except Exception as error:  # of many classes
            raise FaultError(f"ONNX Runtime could not quantize the network: {error}") from error
        finally:
            root.setLevel(level)
        return onnx.load(str(target))
