"""What executes the networks: settings of a runtime, and the measuring program that speaks to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown_name
from . import onnx_timer, tensorrt_timer, timer
from .device import Form

HERE = Path(__file__).resolve().parent


def check_cores(cores: str) -> None:
    """InputError unless `cores` is written as cores are."""
    try:
        timer.core_numbers(cores)
    except ValueError:
        raise InputError(f"cores is {cores!r}; it is written as 0-3, and in a device's file also as 4,6") from None


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime on a CPU.

    `optimization` is its level of graph optimization: none, basic, extended or all. `cores` pins the program to
    some cores (`0-3`, `4,6`; empty: the system chooses). `batch` and `precision` (fp32, int8) are the form of
    the networks.
    """

    threads: int = 1
    optimization: str = "all"
    cores: str = ""
    batch: int = 1
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.optimization not in onnx_timer.OPTIMIZATIONS:
            raise unknown_name("optimization", self.optimization, onnx_timer.OPTIMIZATIONS)
        if self.threads <= 0:
            raise InputError(f"threads is {self.threads}; it must be positive")
        check_cores(self.cores)
        self.form  # noqa: B018 - checks batch and precision

    @property
    def program(self) -> tuple[Path, ...]:
        return HERE / "onnx_timer.py", HERE / "timer.py", HERE / "series.py"

    @property
    def form(self) -> Form:
        return Form(self.batch, self.precision)

    @property
    def label(self) -> str:
        return "measured"

    @property
    def clock(self) -> str:
        return "thread time" if self.threads == 1 else "wall clock"

    def options(self) -> dict[str, Any]:
        return {"threads": self.threads, "optimization": self.optimization}


@dataclass(frozen=True)
class TensorRT:
    """TensorRT (10 or 11) or TensorRT-RTX on a GPU.

    `compile_only` builds engines where there is no GPU, and times nothing. Every model is built `builds` times.
    `precision` fp16 halves the graph's weights and activations, int8 quantizes them around 0; `workspace_mb` limits a
    builder's scratch memory.
    """

    flavour: str = "tensorrt"
    compile_only: bool = False
    builds: int = 3
    workspace_mb: int = 1024
    batch: int = 1
    precision: str = "fp32"
    cores: str = ""

    def __post_init__(self) -> None:
        if self.flavour not in tensorrt_timer.FLAVOURS:
            raise unknown_name("flavour", self.flavour, tensorrt_timer.FLAVOURS)
        for setting in ("builds", "workspace_mb"):
            if (value := getattr(self, setting)) <= 0:
                raise InputError(f"{setting} is {value}; it must be positive")
        check_cores(self.cores)
        self.form  # noqa: B018 - checks batch and precision

    @property
    def program(self) -> tuple[Path, ...]:
        return HERE / "tensorrt_timer.py", HERE / "timer.py", HERE / "series.py"

    @property
    def form(self) -> Form:
        return Form(self.batch, "int8-symmetric" if self.precision == "int8" else self.precision)

    @property
    def label(self) -> str:
        return "compiled" if self.compile_only else "measured"

    @property
    def clock(self) -> str:
        return "none" if self.compile_only else "CUDA events"

    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("flavour", "compile_only", "builds", "workspace_mb")}
