"""Time ONNX models by TensorRT 10, 11 or TensorRT-RTX on a GPU, or only compile them: `timer.py` says how.

Needs tensorrt (or tensorrt_rtx with its bindings), and for timing torch with CUDA. Networks are strongly typed: half
precision and int8 come from the graph. An inference is a CUDA graph, timed by CUDA events. Each model is built several
times, as builds differ by the tactics that they chose; rounds take them in turn, samples say which it was, and an
interval spans the medians of all (`series.py`). Each number of build has a timing cache of its own, as builds that
shared one would choose the same.
"""

from __future__ import annotations

import importlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from . import timer
    from .timer import Log, Plan, Run
else:  # run by its path, here or where hwnas is not installed
    sys.path.insert(0, str(Path(__file__).parent))
    import timer
    from timer import Log, Plan, Run

    del sys.path[0]  # what else lies there shadows nothing

FLAVOURS = {  # what to import, the last being the bindings; and the package that brings them
    "tensorrt": (("tensorrt",), "tensorrt"),
    "tensorrt-rtx": (
        ("tensorrt_rtx_libs", "tensorrt_rtx_bindings"),
        "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
    ),
}
WARM_UP_RUNS = 10


def bindings(flavour: str) -> Any:
    """TensorRT's Python module; ends the program with the install line where it is missing."""
    modules, packages = FLAVOURS[flavour]
    try:
        return [importlib.import_module(module) for module in modules][-1]
    except ImportError as error:
        sys.exit(f"{error.name} missing there; run there: {sys.executable} -m pip install {packages}")


def describe(options: dict[str, Any]) -> dict[str, str]:
    """The compiler, and the GPU with torch's CUDA where there is one."""
    compiler = f"{options['flavour']} {bindings(options['flavour']).__version__}"
    found = {"runtime": compiler, "system": f"{platform.system()} {platform.machine()}", "os": platform.release()}
    if options["compile_only"]:
        return {**found, "gpu": "none: compiled only"}
    try:
        import torch
    except ImportError:
        sys.exit(f"torch missing there, which times on the GPU; run there: {sys.executable} -m pip install torch")
    if not torch.cuda.is_available():
        sys.exit("no GPU there that torch can use; see nvidia-smi, or set compile_only")
    return {**found, "gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def compile_model(path: Path, options: dict[str, Any], build: int) -> bytes:
    """An engine for a model; RuntimeError with the compiler's words where it rejects it."""
    trt = bindings(options["flavour"])
    engine_file, cache_file = path.with_suffix(f".{build}.engine"), path.with_name(f"timing-{build}.cache")
    if engine_file.exists():
        return engine_file.read_bytes()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        raise RuntimeError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options["workspace_mb"]) << 20)
    cache = config.create_timing_cache(cache_file.read_bytes() if cache_file.exists() else b"")
    config.set_timing_cache(cache, False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(logger.last or "the compiler made no engine and gave no reason")
    _replace(cache_file, bytes(config.get_timing_cache().serialize()))
    _replace(engine_file, bytes(engine))
    return bytes(engine)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _logger(trt: Any) -> Any:
    """A logger that remembers the last error instead of printing it."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message

    return Logger()


def build_of(path: Path, plan: Plan, number: int) -> int:
    """Which of its builds a model is in a round: one after the other.

    The reference keeps one for as many rounds as there are builds, so that each of a model's meets each of its.
    """
    builds = int(plan.options["builds"])
    return (number // builds if path.name == plan.reference else number) % builds


def open_session(path: Path, plan: Plan, number: int) -> Run:
    """Build a model (its build of this round), and capture an inference with random inputs as a CUDA graph."""
    import torch

    trt, build = bindings(plan.options["flavour"]), build_of(path, plan, number)
    logger = _logger(trt)
    engine = trt.Runtime(logger).deserialize_cuda_engine(compile_model(path, plan.options, build))
    context = engine and engine.create_execution_context()
    if context is None:
        raise RuntimeError(logger.last or "this GPU takes no engine of that compiler, which gave no reason")
    stream = torch.cuda.Stream()
    tensors = dict(_tensors(trt, engine, plan.seed))
    for name, tensor in tensors.items():
        context.set_tensor_address(name, tensor.data_ptr())
    if missing := context.infer_shapes():
        raise RuntimeError(f"shapes of {missing} are open; export with fixed ones")
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_RUNS):
            context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        context.execute_async_v3(stream.cuda_stream)
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(loops: int) -> tuple[float, float]:
        wall_ns = time.perf_counter_ns()
        started.record()
        for _ in range(loops):
            graph.replay()
        ended.record()
        ended.synchronize()
        return started.elapsed_time(ended) / loops, (time.perf_counter_ns() - wall_ns) / loops / 1e6

    run.build = build  # type: ignore[attr-defined] # samples say of which they are
    run.holds = engine, context, tensors  # type: ignore[attr-defined] # the graph reads their memory
    return run


def _tensors(trt: Any, engine: Any, seed: int) -> Iterator[tuple[str, Any]]:
    """A tensor on the GPU for each input (random) and output of an engine."""
    import torch

    generator = torch.Generator("cuda").manual_seed(seed)
    types = {trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16, trt.DataType.INT8: torch.int8}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape, kind = tuple(engine.get_tensor_shape(name)), types[engine.get_tensor_dtype(name)]
        values = torch.randn(shape, device="cuda", generator=generator)
        yield name, values.to(kind)


def compile_all(plan: Plan, open_model: Callable[[str], Run], log: Log) -> dict[str, str]:
    """Compile every model and time none; returns what the compiler rejected, and why. The log has no sample."""
    errors = {model: timer.CRASHED for model in log.fatal if model in plan.models}
    for number, model in enumerate(plan.models, 1):
        if model in errors:
            continue
        log.note(model, trying=True)
        try:
            open_model(model)
        except (OSError, ImportError, MemoryError):  # of the machine, not of the model
            raise
        except Exception as error:  # as from any compiler
            errors[model] = timer.first_line(error)
        log.note(model, ended=errors.get(model, "compiled"))
        done = {"settled": number, "total": len(plan.models), "rounds": 1, "fraction": number / len(plan.models)}
        print(json.dumps({**done, "half_width": 0.0, "seconds": log.seconds()}), flush=True)
    return errors


def open_or_compile(path: Path, plan: Plan, number: int) -> Run:
    """What the plan asks for: a model ready to run, or only its engine."""
    if not plan.options["compile_only"]:
        return open_session(path, plan, number)
    compile_model(path, plan.options, 0)
    return lambda _: (math.nan, math.nan)


def measure(plan: Plan, open_model: Callable[[str], Run], log: Log) -> dict[str, str]:
    """Time or only compile, as the plan says."""
    return (compile_all if plan.options["compile_only"] else timer.measure)(plan, open_model, log)


if __name__ == "__main__":
    timer.main(sys.argv[1:], describe, open_or_compile, measure)
