"""TensorRT: every block of a space compiled where TensorRT-RTX is at hand, names checked against the real bindings.

    python -m venv RTX && RTX/bin/pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings
    HWNAS_TENSORRT_RTX=RTX/bin/python python -m pytest tests/devices/test_tensorrt.py

Timing needs a GPU (marked `gpu`); it has not been run on one.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hwnas.devices import Effort, Job, TimedDevice, tensorrt_timer
from hwnas.devices.local import LocalHost
from hwnas.devices.runtimes import TensorRT
from hwnas.devices.series import Plan
from hwnas.errors import FaultError
from hwnas.latency import LatencyTable
from hwnas.latency.profile import profile
from hwnas.supernet import load_space

RTX = os.environ.get("HWNAS_TENSORRT_RTX", "")
compiles = pytest.mark.skipif(not RTX, reason="needs HWNAS_TENSORRT_RTX, a Python with TensorRT-RTX")
COMPILER = TensorRT("tensorrt-rtx", compile_only=True)


@compiles
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_block_of_mobilenet_compiles(precision: str, tmp_path: Path) -> None:
    runtime = TensorRT("tensorrt-rtx", compile_only=True, precision=precision)
    device = TimedDevice("rtx", LocalHost(RTX), runtime)
    assert device.fingerprint()["label"] == "compiled"
    space = load_space("mobilenet")
    table = profile(space, device, networks=3).table
    assert table.rejected == {}
    assert not table.timed
    table.save(tmp_path / "rtx.json")
    assert not LatencyTable.load(tmp_path / "rtx.json").timed


@compiles
def test_what_the_compiler_rejects_is_named(jobs: list[Job], open_shape_job: Job) -> None:
    device = TimedDevice("rtx", LocalHost(RTX), COMPILER)
    measured = device.measure([*jobs, Job("broken", b"no model")])
    assert list(measured.errors) == ["broken"]
    assert measured.errors["broken"]


def test_without_it_the_install_line_is_said() -> None:
    device = TimedDevice("rtx", runtime=COMPILER)
    with pytest.raises(
        FaultError, match=r"rtx: tensorrt_rtx_libs missing there; run there: .* -m pip install tensorrt-rtx"
    ):
        device.fingerprint()


def test_a_gpu_that_takes_no_engine_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As TensorRT-RTX 1.7 on an H100, whose architecture it does not support: deserialising gives None and no error."""
    words = "The engine cannot run on this GPU, which has compute capability 9.0."

    class Logger:
        Severity = SimpleNamespace(ERROR=1)

        def log(self, severity: int, message: str) -> None: ...

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, engine: bytes) -> None:
            self.logger.log(1, words)

    monkeypatch.setattr(tensorrt_timer, "bindings", lambda *_: SimpleNamespace(ILogger=Logger, Runtime=Runtime))
    monkeypatch.setattr(tensorrt_timer, "compile_model", lambda *_: b"engine")
    plan = Plan("reference.onnx", [], options={"flavour": "tensorrt-rtx", "builds": 1})
    with pytest.raises(RuntimeError, match=r"which has compute capability 9\.0"):
        tensorrt_timer.open_session(tmp_path / "model", plan, 0)


def test_rounds_take_the_builds_in_turn() -> None:
    """Each of a model's as often, and as often beside each of the reference's; started again, it goes on there."""
    plan = Plan("reference.onnx", ["a.onnx"], options={"builds": 3})
    rounds = [[tensorrt_timer.build_of(Path(m), plan, n) for m in ("a.onnx", "reference.onnx")] for n in range(18)]
    assert [build for build, _ in rounds] == [0, 1, 2] * 6
    assert sorted(rounds) == sorted([[build, beside] for build in range(3) for beside in range(3)] * 2)


OTHERS = {  # attributes that the program reads of torch, of Python and of its own objects
    "CRASHED", "fatal", "get", "note",
    "CUDAGraph", "Event", "Generator", "Stream", "cuda", "cuda_stream", "data_ptr", "elapsed_time", "float16",
    "float32", "get_device_name", "graph", "int8", "is_available", "manual_seed", "randn", "record", "replay",
    "stream", "synchronize", "reference", "__init__", "__version__", "argv", "dumps", "executable", "exists", "exit",
    "import_module", "insert", "items", "join", "machine", "nan", "name", "parent", "path", "perf_counter_ns",
    "read_bytes", "release", "replace", "system", "to", "with_name", "with_suffix", "write_bytes",
    "build", "first_line",
    "holds", "last", "main", "measure", "models", "options", "seconds", "seed", "version", "ERROR",
}  # fmt: skip
NOT_READ = {"log", "IBuilderConfig", "ITimingCache", "ICudaEngine", "IExecutionContext"}  # defined, or never named
API = Path(os.environ.get("HWNAS_TENSORRT_API", "nowhere"))


@pytest.mark.skipif(not API.is_dir(), reason="needs HWNAS_TENSORRT_API, a folder of api-VERSION.json")
def test_every_name_exists_in_the_real_bindings() -> None:
    """Of TensorRT 10 and of 11: each attribute that the program reads of TensorRT's objects."""
    tree = ast.parse(Path(tensorrt_timer.__file__).read_text())
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {"Builder": {"create_network", "create_builder_config", "build_serialized_network"},
            "OnnxParser": {"parse", "num_errors", "get_error"},
            "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
            "MemoryPoolType": {"WORKSPACE"},
            "IBuilderConfig": {"set_memory_pool_limit", "create_timing_cache", "set_timing_cache", "get_timing_cache"},
            "ITimingCache": {"serialize"},
            "Runtime": {"deserialize_cuda_engine"},
            "ICudaEngine": {"create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_shape",
                            "get_tensor_dtype"},
            "IExecutionContext": {"set_tensor_address", "infer_shapes", "execute_async_v3"},
            "DataType": {"FLOAT", "HALF", "INT8"},
            "ILogger": {"log", "Severity"}}  # fmt: skip
    assert read - OTHERS == (set().union(*used.values()) | used.keys()) - NOT_READ
    files = sorted(API.glob("api-*.json"))
    assert len(files) >= 2
    for file in files:
        names = json.loads(file.read_text())
        for kind, attributes in used.items():
            assert kind in names, (file.name, kind)
            missing = attributes - names[kind].keys()
            assert not missing, (file.name, kind, missing)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_is_timed(jobs: list[Job]) -> None:
    pytest.importorskip("tensorrt")
    device = TimedDevice("gpu", runtime=TensorRT(), effort=Effort(min_rounds=6, max_rounds=12))
    assert device.fingerprint()["label"] == "measured"
    measured = device.measure(jobs).complete("gpu")
    assert measured.timings["large"].raw_ms > 0
    assert re.search(r"tensorrt \d+", device.fingerprint()["runtime"])
