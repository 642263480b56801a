"""An ONNX model run by ONNX Runtime on this machine: its outputs, what it costs to load, its mobile format."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ..errors import FaultError
from ..files import write_bytes
from . import footprint

Images = NDArray[np.float32]  # (N, C, S, S)
AT_ONCE = 64  # images where the batch is open: more than one, and no more than memory holds
LOADS = 3  # processes that load a model, one after the other


@dataclass(frozen=True)
class Footprint:
    """What a model takes in a process of its own, medians: to load, for its first image, and in memory for both.

    `peak_bytes` is the most that was held beyond what the runtime holds without a model; None where the system does
    not tell.
    """

    load_ms: float
    first_ms: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Mobile:
    """A model in ONNX Runtime's mobile format, and the operators that a runtime built for it needs, as a config."""

    model: bytes
    operators: str


def onnx_session(model: bytes, optimized: bool = True) -> ort.InferenceSession:
    """ONNX Runtime's CPU session of a model, one thread, at the level that deployment uses.

    Not `optimized` it takes every operator as it stands in the file: the Q/DQ nodes of int8 compute in float32.
    """
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(session: ort.InferenceSession, images: Images) -> NDArray[np.float32]:
    """Outputs (N, classes) for images (N, C, S, S), in batches of the size that the model takes; if any, of AT_ONCE."""
    (entry,) = session.get_inputs()
    count, fixed = len(images), isinstance(entry.shape[0], int)
    batch = entry.shape[0] if fixed else AT_ONCE
    if fixed and count % batch:
        images = np.concatenate([images, np.repeat(images[-1:], batch - count % batch, axis=0)])
    parts = [session.run(None, {entry.name: images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(parts)[:count]


def weigh(model: bytes) -> Footprint:
    """Load a model and run it once, in processes of their own; FaultError if it does not run there."""
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        file = Path(folder) / "model.onnx"
        write_bytes(file, model)
        seen = [_load(file) for _ in range(LOADS)]
    peaks = [one["peak_bytes"] for one in seen if one["peak_bytes"] is not None]
    return Footprint(
        load_ms=statistics.median(one["load_ms"] for one in seen),
        first_ms=statistics.median(one["first_ms"] for one in seen),
        peak_bytes=int(statistics.median(peaks)) if peaks else None,
    )


def _load(file: Path) -> dict[str, float]:
    command = [sys.executable, "-P", str(Path(footprint.__file__).resolve()), str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise FaultError(f"ONNX Runtime could not load the exported network: {_last_line(found.stderr)}")
    seen: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return seen


def to_mobile(model: bytes) -> Mobile:
    """A model in ONNX Runtime's mobile format (.ort), optimised for no processor in particular but ARM's.

    By the converter that comes with it (https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html);
    FaultError with its reason where it can't.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-") as folder:
        file = Path(folder) / "model.onnx"
        write_bytes(file, model)
        tool = ["-m", "onnxruntime.tools.convert_onnx_models_to_ort", "--optimization_style", "Fixed"]
        command = [sys.executable, "-P", *tool, "--target_platform", "arm", str(file)]
        plain = {k: v for k, v in os.environ.items() if not k.startswith("ORT_CONVERT_")}
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
        made = next(Path(folder).glob("*.ort"), None)
        config = next(Path(folder).glob("*.config"), None)
        if found.returncode or made is None or config is None:
            raise FaultError(f"ONNX Runtime could not write its mobile format: {_last_line(found.stderr)}")
        lines = [line for line in config.read_text().splitlines() if line[:1] != "#"]  # paths of this machine
        return Mobile(made.read_bytes(), "\n".join(lines).strip() + "\n")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
