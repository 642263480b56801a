"""Run a model by OpenVINO on the CPU, in float32. Needs openvino."""

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
    """OpenVINO's."""
    return f"openvino {reading.needed('openvino', 'openvino').__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the CPU plugin; `fell_back` names the operators that it runs by its slow reference code."""
    core = reading.needed("openvino", "openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}  # by default bf16 where the CPU has it
    compiled = core.compile_model(core.read_model(str(job.model)), "CPU", settings)
    job.keep([compiled([part])[0].copy() for part in job.batches()])
    return {"fell_back": _by_reference(compiled)}


_KERNEL = {"primitiveType", "layerType"}  # what a node of the compiled graph tells of how it is run


def _by_reference(compiled: Any) -> list[str]:
    """The types of the executed nodes whose kernel is called a reference."""
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        known = {key: str(value.astype(str)) for key, value in node.get_rt_info().items() if key in _KERNEL}
        if known.get("primitiveType", "").startswith("ref"):
            found.add(known.get("layerType", node.get_type_name()))
    return sorted(found - {"Input", "Output", "Constant"})


if __name__ == "__main__":
    reading.main(version, read)
