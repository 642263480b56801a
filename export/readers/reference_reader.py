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


def version(_: dict[str, Any]) -> str:
    """Of the onnx package."""
    return f"onnx {reading.needed('onnx', 'onnx').__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the definition of every operator."""
    from onnx.reference import ReferenceEvaluator

    session: Any = ReferenceEvaluator(str(job.model))
    job.keep([session.run([job.output], {job.input: part})[0] for part in job.batches()])
    return {}


if __name__ == "__main__":
    reading.main(version, read)
