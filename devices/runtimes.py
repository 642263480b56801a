"""What executes the networks: settings of a runtime, and the measuring program that speaks to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown_name
from . import onnx_timer, timer
from .device import Form

HERE = Path(__file__).resolve().parent


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
        try:
            timer.core_numbers(self.cores)
        except ValueError:
            raise InputError(f"cores is {self.cores!r}; it is written as 0-3 or 4,6") from None
        self.form  # noqa: B018 - checks batch and precision

    @property
    def program(self) -> tuple[Path, ...]:
        return HERE / "onnx_timer.py", HERE / "timer.py"

    @property
    def form(self) -> Form:
        return Form(self.batch, self.precision)

    def options(self) -> dict[str, Any]:
        return {"threads": self.threads, "optimization": self.optimization}
