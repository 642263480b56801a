"""Run a model by OpenVINO on the CPU, in float32. Needs openvino."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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

KERNEL = {"primitiveType", "originalLayersNames"}  # what an executed node tells of how it is run


def version(_: dict[str, Any]) -> str:
    """OpenVINO's, without its build."""
    return f"openvino {reading.needed('openvino', 'openvino').__version__.partition('-')[0]}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the CPU plugin; `fell_back` names the operators that it runs by its slow reference code."""
    core = reading.needed("openvino", "openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}  # by default bf16 where the CPU has it
    model = core.read_model(str(job.model))
    types = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    compiled = core.compile_model(model, "CPU", settings)
    job.keep([compiled([part])[0].copy() for part in job.batches()])
    return {"fell_back": sorted({f"{kind} (reference code)" for kind in _by_reference(compiled, types)})}


def _by_reference(compiled: Any, types: dict[str, str]) -> Iterator[str]:
    """The operators of the model in those executed nodes whose kernel is called a reference."""
    for node in compiled.get_runtime_model().get_ops():
        told = {key: str(value.astype(str)) for key, value in node.get_rt_info().items() if key in KERNEL}
        if told.get("primitiveType", "").startswith("ref"):
            yield from (types[name] for name in told.get("originalLayersNames", "").split(",") if name in types)


if __name__ == "__main__":
    reading.main(version, read)
