"""Time ONNX models by ONNX Runtime on a CPU: `timer.py` says how. Needs numpy and onnxruntime."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import timer
    from .timer import Plan, Run
else:  # run by its path, here or where hwnas is not installed
    sys.path.insert(0, str(Path(__file__).parent))
    import timer
    from timer import Plan, Run

    del sys.path[0]  # what else lies there shadows nothing

OPTIMIZATIONS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
WHEELS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn", "onnxruntime-directml")
INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


def describe(_: dict[str, Any]) -> dict[str, str]:
    """The runtime and the machine that timings depend on, without loading the runtime where its wheel is known."""
    version = next(filter(None, map(timer.version_of, WHEELS)), None)
    found = {"numpy": timer.version_of("numpy"), "onnxruntime": version or _imported_version()}
    if missing := [package for package, known in found.items() if known is None]:
        sys.exit(f"{' and '.join(missing)} missing there; run there: {sys.executable} -m pip install numpy onnxruntime")
    runtime = f"onnxruntime {found['onnxruntime']}"
    system = f"{platform.system()} {platform.machine()}"
    return {"runtime": runtime, "cpu": timer.cpu_model(), "system": system, "os": platform.release()}


def _imported_version() -> str | None:
    """The version of a runtime that came with no wheel of a known name."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(onnxruntime.__version__)


def open_session(path: Path, plan: Plan, _: int) -> Run:
    """Load a model and bind random inputs and its outputs: what is timed is inference and nothing else."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), _options(plan), providers=["CPUExecutionProvider"])
    binding, clock_ns = session.io_binding(), stopwatch(plan.options["threads"])
    for tensor in session.get_inputs():
        values = _random_input(tensor, plan.seed)
        binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(values))
    for tensor in session.get_outputs():
        binding.bind_output(tensor.name, "cpu")

    def run(loops: int) -> tuple[float, float]:
        wall_ns, start_ns = time.perf_counter_ns(), clock_ns()
        for _ in range(loops):
            session.run_with_iobinding(binding)
        spent_ns = clock_ns() - start_ns
        return spent_ns / loops / 1e6, (time.perf_counter_ns() - wall_ns) / loops / 1e6

    return run


def _random_input(tensor: Any, seed: int) -> Any:
    """Normal values of the input's shape and type, which must be given by the model."""
    import numpy as np

    if not all(isinstance(size, int) for size in tensor.shape):
        raise ValueError(f"input {tensor.name} has the open shape {tensor.shape}; export it with a fixed one")
    if tensor.type not in INPUT_TYPES:
        raise ValueError(f"input {tensor.name} is a {tensor.type}; known: {', '.join(INPUT_TYPES)}")
    return np.random.default_rng(seed).standard_normal(tensor.shape).astype(INPUT_TYPES[tensor.type])


def _options(plan: Plan) -> Any:
    """Session options: pinned threads that don't spin, and the optimization level of deployment."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.options["threads"]
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMIZATIONS[plan.options["optimization"]])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def stopwatch(threads: int) -> Callable[[], int]:
    """The clock, in ns: with one thread the time that it ran, else the wall clock.

    A busy machine lets a long run wait for a core again and again, but not a short one: on the wall clock its
    ratio to the reference grows up to threefold. Some systems count the time of a thread too coarsely.
    """
    fine = time.get_clock_info("thread_time").resolution < 1e-6
    return time.thread_time_ns if threads == 1 and fine else time.perf_counter_ns


if __name__ == "__main__":
    timer.main(sys.argv[1:], describe, open_session)
