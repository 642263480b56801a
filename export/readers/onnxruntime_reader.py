"""Run a model by ONNX Runtime on the CPU, at the level that deployment uses. Needs numpy, onnxruntime."""

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

PACKAGES = "numpy onnxruntime"


def version(_: dict[str, Any]) -> str:
    """ONNX Runtime's."""
    return f"onnxruntime {reading.needed('onnxruntime', PACKAGES).__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the CPU's own kernels alone."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(job.model), options, providers=["CPUExecutionProvider"])
    job.keep([session.run([job.output], {job.input: part})[0] for part in job.batches()])
    return {}


if __name__ == "__main__":
    reading.main(version, read)
