"""Run a model for the NPU of Snapdragon 8 Gen 3 by Qualcomm's simulator, through ONNX Runtime. Needs onnxruntime-qnn.

Float graphs run in half precision there. What the NPU does not take, ONNX Runtime runs on the CPU: that is told.
"""

from __future__ import annotations

import json
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

PACKAGES = "onnxruntime onnxruntime-qnn numpy"
PROVIDER = "QNNExecutionProvider"
CHIP = {"htp_arch": "75", "soc_model": "57"}  # SM8650; without one the simulator takes an old NPU that knows no floats


def version(_: dict[str, Any]) -> str:
    """Of Qualcomm's provider and of the ONNX Runtime that loads it."""
    provider, runtime = (reading.needed(name, PACKAGES) for name in ("onnxruntime_qnn", "onnxruntime"))
    return f"onnxruntime-qnn {provider.__version__}, onnxruntime {runtime.__version__}"


def read(job: Job) -> dict[str, Any]:
    """Outputs by the simulated NPU; `fell_back` are the operators on the CPU, the size is that of its binary."""
    import onnxruntime as ort

    qnn = reading.needed("onnxruntime_qnn", PACKAGES)
    ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    binary = job.folder / "context.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True  # it says which operator ran where
    options.profile_file_prefix = str(job.folder / "profile")
    for key, value in (("enable", "1"), ("file_path", str(binary)), ("embed_mode", "1")):
        options.add_session_config_entry(f"ep.context_{key}", value)
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    options.add_provider_for_devices(devices[:1], {"backend_path": qnn.get_qnn_htp_path(), **CHIP})
    session = ort.InferenceSession(str(job.model), options)
    outputs = [session.run([job.output], {job.input: part})[0] for part in job.batches()]
    ran = list(_nodes(Path(session.end_profiling())))
    if PROVIDER not in dict(ran):
        raise RuntimeError("the NPU takes no operator of it" + ": export it with a fixed batch" * job.dynamic)
    job.keep(outputs)
    return {
        "fell_back": sorted({operator for provider, operator in ran if provider != PROVIDER}),
        "size_bytes": binary.stat().st_size if binary.exists() else None,
    }


def _nodes(profile: Path) -> list[tuple[str, str]]:
    """Who ran what: provider and operator of every node in ONNX Runtime's profile."""
    told = [event.get("args", {}) for event in json.loads(profile.read_text()) if event.get("cat") == "Node"]
    return [(args["provider"], args["op_name"]) for args in told if "provider" in args]


if __name__ == "__main__":
    reading.main(version, read)
