"""Other programs that read the exported file: what each computes of it, or whether it can be compiled.

Each target is read by a small program of `readers/`, in a process of its own and by the Python of any environment: a
reader that crashes takes nothing with it, and two that can't be installed together need not be.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..errors import InputError, unknown_name
from .readers import reading

READERS = Path(__file__).resolve().parent / "readers"
RAN, EMULATED, COMPILED, NAMED, REJECTED = "ran", "emulated", "compiled", "names only", "rejected"
DYNAMIC_BATCH = 8  # images at once where the batch is open: more than one, so that an open batch is tried
HALF = 5e-3  # what half precision may change, as a fraction of the largest output
QDQ = ("QuantizeLinear", "DequantizeLinear")
DESCRIBE_S = 300  # to import a runtime, under emulation too
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Target:
    """A reader or compiler: what it is, the line that installs it, and the program of `readers/` that speaks to it.

    `label` is what a check that succeeds is called: ran (here, outputs compared, never timed), emulated (the same,
    under emulation), or compiled. `images` are run at most. It needs an interpreter of its own where `machine` is
    another's, and a GPU where `gpu`: without one it stays a name, with the command for a machine that has one. Where it
    computes less precisely than float32, `precision` is what it may differ by, as a fraction of the largest output.
    """

    words: str
    install: str
    program: str
    label: str = RAN
    options: Mapping[str, str] = field(default_factory=dict)
    images: int = 64
    timeout_s: float = 300
    machine: str = ""
    gpu: bool = False
    precision: float = 0.0


TARGETS: dict[str, Target] = {
    "onnxruntime": Target("ONNX Runtime on this CPU", "pip install onnxruntime", "onnxruntime_reader.py"),
    "onnx-reference": Target(
        "onnx's reference evaluator, the definition of each operator (4 images)",
        "pip install onnx",
        "reference_reader.py",
        images=4,
        timeout_s=600,
    ),
    "onnxruntime-arm64": Target(
        "ONNX Runtime for arm64, emulated by qemu (8 images)",
        "scripts/arm64-userland FOLDER",
        "onnxruntime_reader.py",
        images=8,
        timeout_s=600,
        machine="aarch64",
    ),
    "openvino": Target("Intel's OpenVINO on this CPU, in float32", "pip install openvino", "openvino_reader.py"),
    "opencv": Target("OpenCV's dnn module on this CPU", "pip install opencv-python-headless", "opencv_reader.py"),
    "ncnn": Target(
        "Tencent's ncnn on this CPU, in float32, converted by pnnx",
        "pip install numpy ncnn && pip install --no-deps pnnx",
        "ncnn_reader.py",
    ),
    "qnn": Target(
        "Qualcomm's simulator of Snapdragon 8 Gen 3's NPU, half precision (8 images)",
        "pip install onnxruntime onnxruntime-qnn numpy",
        "qnn_reader.py",
        EMULATED,
        images=8,
        precision=HALF,
    ),
    "tensorrt-rtx": Target(
        "TensorRT-RTX compiles it, no GPU needed",
        "pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
        "tensorrt_reader.py",
        COMPILED,
        {"flavour": "tensorrt-rtx"},
        timeout_s=600,
    ),
    "tensorrt": Target(
        "TensorRT compiles it where there is a GPU; elsewhere the trtexec command for it",
        "pip install tensorrt",
        "tensorrt_reader.py",
        COMPILED,
        {"flavour": "tensorrt"},
        timeout_s=600,
        gpu=True,
    ),
}


@dataclass(frozen=True)
class Wanted:
    """A target, and the Python that runs its reader ("": this one)."""

    name: str
    python: str = ""


@dataclass(frozen=True)
class TargetCheck:
    """What one target made of a model.

    `label` says what was really done: ran (here, outputs compared, never timed), emulated, compiled, rejected (it does
    not read it, `reason` says why), or names only. `max_abs_diff` is the largest difference of any output from the
    expected ones over `images` images; `agrees` whether that is within `tolerance`, both None where nothing was
    computed. `fell_back` names operators that the target did not run itself, None where nobody looked; `size_bytes` is
    that of what it compiled.
    """

    name: str
    label: str
    version: str
    max_abs_diff: float | None = None
    agrees: bool | None = None
    fell_back: tuple[str, ...] | None = None
    size_bytes: int | None = None
    reason: str = ""
    images: int = 0
    tolerance: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it speaks against the file: it is not read, or something else is computed."""
        return self.label == REJECTED or self.agrees is False

    def __str__(self) -> str:
        """One line for people."""
        parts = [f"{self.name}: {self.label}" + f" ({self.version})" * bool(self.version)]
        if self.max_abs_diff is not None:
            parts.append(f"{self.images} images, outputs differ by at most {self.max_abs_diff:.1e}")
        parts += ["DISAGREES"] * (self.agrees is False)
        parts += [f"{self.size_bytes / 1e6:.2f} MB"] if self.size_bytes is not None else []
        if self.label not in (NAMED, REJECTED):
            told = "not looked for" if self.fell_back is None else ", ".join(self.fell_back) or "none"
            parts.append(f"operators that fell back: {told}")
        return "; ".join([*parts, *filter(None, [self.reason])])


def parse_targets(text: str) -> tuple[Wanted, ...]:
    """`onnxruntime,openvino=/envs/ov/bin/python` as targets; InputError for what is none, or no interpreter."""
    found: dict[str, Wanted] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, python = item.partition("=")
        if name not in TARGETS:
            raise unknown_name("target", name, TARGETS)
        if name in found:
            raise InputError(f"target {name} is there twice in {text!r}: name it once")
        target, python = TARGETS[name], str(Path(python).expanduser()) if python else ""
        if (equals and shutil.which(python) is None) or (target.machine and not equals):
            said = f"{python!r} is no program" if equals else f"{name} needs a Python of its own"
            raise InputError(f"{said}: {target.install}, then name {name}=FOLDER/python")
        found[name] = Wanted(name, python)
    if not found:
        raise InputError(f"{text!r} names no target; known: {', '.join(sorted(TARGETS))}")
    return tuple(found.values())


@dataclass(frozen=True)
class Entry:
    """What a model takes and gives: an image input (B, C, S, S), B None where it is open, and one output.

    `symmetric` says whether the ranges of its int8, where it has any, are around 0, as TensorRT takes them.
    """

    input: str
    output: str
    shape: tuple[int | None, ...]
    symmetric: bool = True

    def job(self, count: int) -> dict[str, Any]:
        """What a reader is told of the model, for `count` images."""
        batch = self.shape[0] or min(count, DYNAMIC_BATCH)
        return {"input": self.input, "output": self.output, "batch": batch, "dynamic": self.shape[0] is None}


def entry_of(model: bytes) -> Entry:
    """The input and output of a serialized model; InputError where it is no network of one image input."""
    try:
        graph = onnx.load_from_string(model).graph
    except Exception as error:  # protobuf's own classes
        raise InputError(f"this is no ONNX model ({error}): export it anew") from error
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1 or len(graph.output) != 1:
        names = ", ".join(value.name for value in (*inputs, *graph.output))
        raise InputError(f"a network of one input and one output is compared; this one has {names}")
    sizes = inputs[0].type.tensor_type.shape.dim
    shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)
    return Entry(inputs[0].name, graph.output[0].name, shape, _symmetric(graph))


def _symmetric(graph: onnx.GraphProto) -> bool:
    """Whether all zero points of Q/DQ nodes are 0, and in int8: those of biases are in int32."""
    zeros = {node.input[2] for node in graph.node if node.op_type in QDQ and len(node.input) > 2}
    found = [tensor for tensor in graph.initializer if tensor.name in zeros]
    return all(t.data_type == onnx.TensorProto.INT8 and not onnx.numpy_helper.to_array(t).any() for t in found)


def check_targets(
    model: Path | bytes,
    images: NDArray[np.float32],
    expected: NDArray[np.float32],
    wanted: Sequence[Wanted],
    tolerance: float,
    name: Path = Path("net.onnx"),
    keep: Callable[[str, bytes], None] = lambda _target, _made: None,
) -> tuple[TargetCheck, ...]:
    """Let every target read `model`, run `images` (N, C, S, S), and compare with `expected` (N, classes).

    What can't read it is a check with its reason, however it ends; what is not installed is an InputError, before any
    target runs. The tolerance is on the largest absolute difference; a target in half precision gets more. `name` is
    what the file will be called; `keep` gets what a compiler made of it, by the target's name.
    """
    content = model if isinstance(model, bytes) else model.read_bytes()
    entry, where = entry_of(content), name if isinstance(model, bytes) else model
    described = [_described(one, where, entry) for one in wanted]
    found = []
    for one, told in zip(wanted, described, strict=True):
        if isinstance(told, TargetCheck):
            found.append(told)
            continue
        count = min(len(images), TARGETS[one.name].images)
        with tempfile.TemporaryDirectory(prefix="hwnas-") as made:
            folder = Path(made)
            (folder / "model.onnx").write_bytes(content)
            np.save(folder / "images.npy", images[:count].astype(np.float32), allow_pickle=False)
            (folder / "job.json").write_text(json.dumps(entry.job(count)))
            found.append(_checked(one, told, folder, expected[:count], tolerance))
            if (made_of_it := folder / reading.COMPILED).exists() and not found[-1].failed:
                keep(one.name, made_of_it.read_bytes())
    return tuple(found)


def installed(wanted: Sequence[Wanted]) -> dict[str, str]:
    """The version of each target; InputError with the install line where one is missing. For before long work."""
    told = {one.name: _described(one, Path("net.onnx"), None) for one in wanted}
    return {name: said.version if isinstance(said, TargetCheck) else said["version"] for name, said in told.items()}


def _described(one: Wanted, model: Path, entry: Entry | None) -> dict[str, str] | TargetCheck:
    """What a target says of itself, or the check of one that only a machine with a GPU can make."""
    target = TARGETS[one.name]
    try:
        ran = _run(one, [], DESCRIBE_S)
    except OSError as error:
        raise InputError(f"{one.name}: cannot run {one.python} ({error.strerror}): name a Python") from error
    except subprocess.TimeoutExpired:
        raise InputError(f"{one.name}: {one.python or 'its reader'} gave no answer: see that it starts") from None
    if ran.returncode == reading.NOT_INSTALLED and target.gpu and not torch.cuda.is_available():
        return TargetCheck(one.name, NAMED, "", reason=_where_a_gpu_is(model, entry))
    if ran.returncode != 0:
        raise InputError(f"{one.name}: {_last_words(ran)}; to install it: {target.install}")
    try:
        told: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise InputError(f"{one.name}: {one.python} is no Python: name one; to install it: {target.install}") from None
    if target.machine and told["machine"] != target.machine:
        raise InputError(f"{one.name}: {one.python} is a Python for {told['machine']}; to get one: {target.install}")
    return told


def _checked(
    one: Wanted, told: Mapping[str, str], folder: Path, expected: NDArray[np.float32], tolerance: float
) -> TargetCheck:
    """Run a reader on its folder, and compare what it wrote."""
    target = TARGETS[one.name]
    rejected = TargetCheck(one.name, REJECTED, told["version"])
    try:
        ran = _run(one, [str(folder)], target.timeout_s)
    except subprocess.TimeoutExpired:
        return replace(rejected, reason=f"it did not end within {target.timeout_s:.0f} s")
    result = folder / "result.json"
    if ran.returncode != 0 or not result.exists():
        return replace(rejected, reason=_last_words(ran))
    try:
        said, outputs = json.loads(result.read_text()), _outputs(folder)
    except ValueError as error:
        return replace(rejected, reason=f"what it wrote is damaged ({error})")
    if said.get("reason"):
        return replace(rejected, reason=said["reason"])
    label = EMULATED if target.machine and platform.machine() != target.machine else target.label
    check = TargetCheck(
        one.name,
        label,
        told["version"],
        fell_back=tuple(said["fell_back"]) if "fell_back" in said else None,
        size_bytes=said.get("size_bytes"),
    )
    return check if outputs is None else _compared(check, outputs, expected, tolerance)


def _outputs(folder: Path) -> NDArray[np.float32] | None:
    """What a reader computed, None where it computes nothing; ValueError where the file is damaged."""
    path = folder / "outputs.npy"
    loaded: NDArray[np.float32] | None = np.load(path, allow_pickle=False) if path.exists() else None
    return loaded


def _compared(
    check: TargetCheck, outputs: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float
) -> TargetCheck:
    """The check with the largest difference between what was computed and what was expected."""
    if outputs.shape != expected.shape:
        return replace(check, agrees=False, reason=f"its outputs are {outputs.shape}, expected were {expected.shape}")
    allowed = max(float(tolerance), TARGETS[check.name].precision * float(np.abs(expected).max()))
    check = replace(check, images=len(outputs), tolerance=allowed)
    difference = float(np.abs(outputs.astype(np.float64) - expected).max())
    if not np.isfinite(difference):
        return replace(check, agrees=False, reason="its outputs are not all numbers")
    return replace(check, max_abs_diff=difference, agrees=difference <= allowed)


def _run(one: Wanted, arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a target's reader; another environment's Python gets no path of this one's packages."""
    target = TARGETS[one.name]
    python = [one.python] if one.python else [sys.executable, "-P"]
    hidden = {"PYTHONPATH", "PYTHONHOME"} if one.python else set()
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | ONE_THREAD
    return subprocess.run(
        [*python, str(READERS / target.program), json.dumps(dict(target.options)), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=environment,
    )


def _last_words(ran: subprocess.CompletedProcess[str]) -> str:
    """Why a reader ended: the signal that killed it, or the last line that it said."""
    if ran.returncode < 0:
        return f"its process was ended by {signal.Signals(-ran.returncode).name}"
    silent = f"it ended with status {ran.returncode} and without a word"
    return next((line.strip() for line in reversed(ran.stderr.splitlines()) if line.strip()), silent)


def renamed(checks: Sequence[TargetCheck], model: Path, content: bytes) -> tuple[TargetCheck, ...]:
    """Checks of a file that was called `model` after them: where all they have is a command, that names it."""
    return tuple(
        replace(check, reason=_where_a_gpu_is(model, entry_of(content))) if check.label == NAMED else check
        for check in checks
    )


def engine_suffix(target: str) -> str:
    """What stands for .onnx in the name under which an export keeps what a compiler made."""
    return f".{target}.engine"


def _where_a_gpu_is(model: Path, entry: Entry | None) -> str:
    """The command that compiles a model by TensorRT, or why it would not."""
    if entry is not None and not entry.symmetric:
        return "TensorRT takes no int8 whose ranges are not around 0: export with --symmetric"
    command = trtexec_command(model, entry.shape, entry.input) if entry else trtexec_command(model)
    return f"where there is a GPU: {command}"


def trtexec_command(model: Path, shape: Sequence[int | None] = (), name: str = "image", largest: int = 8) -> str:
    """The command that builds a TensorRT engine of the file beside it and times it, for TensorRT 10 and 11.

    The precision is the graph's own. An open batch (`shape` (None, C, S, S)) gets the range from 1 to `largest`.
    """
    stem, _, kept = model.name.rpartition(".onnx")  # of a rejected file, its engine is one, too
    engine = model.with_name(f"{stem or model.name}{engine_suffix('tensorrt')}{kept if stem else ''}")
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={engine}", "--stronglyTyped"]
    if shape and shape[0] is None:
        sizes = "x".join(str(size) for size in shape[1:])
        words += [f"--{end}Shapes={name}:{n}x{sizes}" for end, n in (("min", 1), ("opt", 1), ("max", largest))]
    return shlex.join(words)
