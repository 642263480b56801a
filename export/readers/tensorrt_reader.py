"""Compile a model by TensorRT 10 or 11, or by TensorRT-RTX, which needs no GPU for that. Nothing is run.

Networks are strongly typed: the precision is the graph's own. Needs tensorrt, or tensorrt-rtx's libraries and bindings.
"""

from __future__ import annotations

import ctypes
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

FLAVOURS = {  # what to import, the last being the bindings; and the packages that bring them
    "tensorrt": (("tensorrt",), "tensorrt"),
    "tensorrt-rtx": (
        ("tensorrt_rtx_libs", "tensorrt_rtx_bindings"),
        "tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
    ),
}
LARGEST_BATCH = 8  # that an engine is built for, where the batch is open


def bindings(options: dict[str, Any]) -> Any:
    """TensorRT's Python module; the program ends where it is missing, or needs a GPU and there is none."""
    modules, packages = FLAVOURS[options["flavour"]]
    trt = [reading.needed(module, packages) for module in modules][-1]
    if options["flavour"] == "tensorrt" and not _gpus():
        reading.not_installed("TensorRT needs an NVIDIA GPU to build an engine, and there is none")
    return trt


def _gpus() -> int:
    """How many GPUs NVIDIA's driver tells of, 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    started = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if started else 0


def version(options: dict[str, Any]) -> str:
    """The compiler's."""
    return f"{options['flavour']} {bindings(options).__version__}"


def read(job: Job) -> dict[str, Any]:
    """The size of the engine, which is left as a file; the compiler's words as an error where it makes none."""
    trt = bindings(job.options)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(job.model.read_bytes()):
        raise RuntimeError("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    if job.dynamic:
        profile = builder.create_optimization_profile()
        rest = tuple(network.get_input(0).shape)[1:]
        profile.set_shape(job.input, (1, *rest), (1, *rest), (LARGEST_BATCH, *rest))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(logger.last or "the compiler made no engine and gave no reason")
    made = bytes(engine)
    job.compiled.write_bytes(made)
    return {"size_bytes": len(made)}


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


if __name__ == "__main__":
    reading.main(version, read)
