"""Run a model by onnx's reference evaluator: what the standard says, in plain numpy, slowly. Needs onnx."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import reading
    from .reading import Job
else:  # run by its path, where hwnas need not be installed
    sys.path.insert(0, str(Path(__file__).parent))
    import reading
    from reading import Job

    del sys.path[0]  # what else lies there shadows nothing

INT8, INT8_OPSET = {"QuantizeLinear", "DequantizeLinear"}, 19


def version(_: dict[str, Any]) -> str:
    """Of the onnx package."""
    return f"onnx {reading.needed('onnx', 'onnx').__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the definition of every operator."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(job.model))
    if INT8 & {node.op_type for node in model.graph.node}:
        model = _with_int8(model)
    session: Any = ReferenceEvaluator(model)
    job.keep([session.run([job.output], {job.input: part})[0] for part in job.batches()])
    return {}


def _with_int8(model: Any) -> Any:
    """The model in opset 19 if it is of an older one: the oldest of which the evaluator knows Q/DQ nodes."""
    from onnx.version_converter import convert_version

    opset = next(opset.version for opset in model.opset_import if opset.domain == "")
    return model if opset >= INT8_OPSET else convert_version(model, INT8_OPSET)


if __name__ == "__main__":
    reading.main(version, read)
